//! Each strategy, over random histories of its source, equals the oracle after every run; see
//! `dpone_tests::properties` for what a case is, and for how to repeat one.

use dpone_tests::oracle::{Column, Kind, Row, Shape};
use dpone_tests::properties::{Design, Freedom, Origin, Random, Sink, SourceTable, check, check_from, pool};
use dpone_tests::{Pg, Project, assert_same_rows};

macro_rules! properties {
    ($($to_postgres:ident, $to_delta:ident, $to_clickhouse:ident: $design:path;)*) => {$(
        #[test]
        fn $to_postgres() {
            check(Sink::Postgres, |random| $design(random, Sink::Postgres));
        }

        #[test]
        fn $to_delta() {
            check(Sink::Delta, |random| $design(random, Sink::Delta));
        }

        #[test]
        fn $to_clickhouse() {
            check(Sink::ClickHouse, |random| $design(random, Sink::ClickHouse));
        }
    )*};
}

properties! {
    full_refresh_to_postgres, full_refresh_to_delta, full_refresh_to_clickhouse: Design::full_refresh;
    replace_to_postgres, replace_to_delta, replace_to_clickhouse: Design::replace;
    incremental_append_to_postgres, incremental_append_to_delta, incremental_append_to_clickhouse: Design::incremental_append;
    incremental_merge_to_postgres, incremental_merge_to_delta, incremental_merge_to_clickhouse: Design::incremental_merge;
    partition_replace_to_postgres, partition_replace_to_delta, partition_replace_to_clickhouse: Design::partition_replace;
    snapshot_diff_to_postgres, snapshot_diff_to_delta, snapshot_diff_to_clickhouse: Design::snapshot_diff;
    scd2_to_postgres, scd2_to_delta, scd2_to_clickhouse: Design::scd2;
    scd2_of_a_log_to_postgres, scd2_of_a_log_to_delta, scd2_of_a_log_to_clickhouse: Design::scd2_of_a_log;
}

macro_rules! from_clickhouse {
    ($($to_postgres:ident, $to_delta:ident, $to_clickhouse:ident: $design:path;)*) => {$(
        #[test]
        fn $to_postgres() {
            check_from(Origin::ClickHouse, Sink::Postgres, |random| $design(random, Sink::Postgres));
        }

        #[test]
        fn $to_delta() {
            check_from(Origin::ClickHouse, Sink::Delta, |random| $design(random, Sink::Delta));
        }

        #[test]
        fn $to_clickhouse() {
            check_from(Origin::ClickHouse, Sink::ClickHouse, |random| $design(random, Sink::ClickHouse));
        }
    )*};
}

from_clickhouse! {
    clickhouse_full_refresh_to_postgres, clickhouse_full_refresh_to_delta, clickhouse_full_refresh_to_clickhouse:
        Design::full_refresh;
    clickhouse_replace_to_postgres, clickhouse_replace_to_delta, clickhouse_replace_to_clickhouse: Design::replace;
    clickhouse_append_to_postgres, clickhouse_append_to_delta, clickhouse_append_to_clickhouse:
        Design::incremental_append;
    clickhouse_merge_to_postgres, clickhouse_merge_to_delta, clickhouse_merge_to_clickhouse: Design::incremental_merge;
    clickhouse_partition_replace_to_postgres, clickhouse_partition_replace_to_delta,
        clickhouse_partition_replace_to_clickhouse: Design::partition_replace;
    clickhouse_snapshot_diff_to_postgres, clickhouse_snapshot_diff_to_delta, clickhouse_snapshot_diff_to_clickhouse:
        Design::snapshot_diff;
    clickhouse_scd2_to_postgres, clickhouse_scd2_to_delta, clickhouse_scd2_to_clickhouse: Design::scd2;
    clickhouse_scd2_of_a_log_to_postgres, clickhouse_scd2_of_a_log_to_delta, clickhouse_scd2_of_a_log_to_clickhouse:
        Design::scd2_of_a_log;
}

/// The oracle compares texts: each value of the pools must be spelled as the server spells it, and as it comes back
/// through Delta.
#[test]
fn every_value_that_cases_use_is_spelled_alike_by_both_readers() {
    use dpone_tests::properties::{DeltaReader, lines, postgres_rows};

    let kinds = [
        Kind::SmallInt,
        Kind::Int,
        Kind::BigInt,
        Kind::Numeric,
        Kind::Decimal(12, 2),
        Kind::Real,
        Kind::Double,
        Kind::Text,
        Kind::Varchar(40),
        Kind::Boolean,
        Kind::Date,
        Kind::Timestamp,
        Kind::Timestamptz,
        Kind::Uuid,
        Kind::Bytea,
        Kind::Jsonb,
    ];
    let (pg, project) = (Pg::new(), Project::new());
    pg.execute("CREATE SCHEMA shop");
    let column = |(i, kind): (usize, &Kind)| Column { name: format!("c{i}"), source: *kind, target: *kind };
    let shape =
        Shape { columns: kinds.iter().enumerate().map(column).collect(), key: Vec::new(), touched: None, cursor: None };
    let mut source = SourceTable::create(&pg, "shop.t", &shape, Freedom::default(), &mut Random::new(0));
    let longest = kinds.iter().map(|kind| pool(*kind).len()).max().unwrap();
    let rows: Vec<Row> =
        (0..=longest).map(|n| kinds.iter().map(|kind| pool(*kind).get(n).cloned()).collect()).collect();
    source.insert(&pg, &rows);
    source.check(&pg);

    let project = project.env("DPONE_CONN_DB_URL", pg.url());
    project.write(
        "load.yaml",
        "name: values\nsource: {type: postgres, connection_type: env, connection_id: DB, table: {schema: shop, name: t}}\n\
         sink: {type: delta, path: lake, table: {schema: landing, name: t}, strategy: {mode: full_refresh}}\n",
    );
    project.run("load.yaml", "one").ok();
    let columns: Vec<_> = shape.columns.iter().map(|c| (c.name.clone(), c.source)).collect();
    let found = DeltaReader::start().rows(&project.path("lake/landing/t"), &columns);
    assert_same_rows("the values, through Delta", lines(&rows), lines(&found));
    assert_eq!(postgres_rows(&pg, "shop.t", &columns).len(), rows.len());
}
