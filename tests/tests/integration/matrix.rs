//! Every source, strategy and sink that this version has, twice with changes in between, against the oracle.
//!
//! Whether a table is right is decided by readers that are not ours, row by row as a multiset.

use dpone_tests::{Lake, Pg, Project, assert_same_rows, every_case, write_delta, write_parquet};

use crate::orders::{self, COLUMNS, STRATEGIES, Strategy};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Postgres,
    Csv,
    Ndjson,
    Parquet,
    Delta,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Postgres,
    Lake(Lake),
}

#[test]
fn postgres_to_postgres() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Postgres, Into::Postgres, strategy));
}

#[test]
fn postgres_to_delta() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Postgres, Into::Lake(Lake::Delta), strategy));
}

#[test]
fn postgres_to_parquet() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Postgres, Into::Lake(Lake::Parquet), strategy));
}

#[test]
fn postgres_to_csv() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Postgres, Into::Lake(Lake::Csv), strategy));
}

#[test]
fn csv_to_postgres() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Csv, Into::Postgres, strategy));
}

#[test]
fn csv_to_delta() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Csv, Into::Lake(Lake::Delta), strategy));
}

#[test]
fn csv_to_parquet() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Csv, Into::Lake(Lake::Parquet), strategy));
}

#[test]
fn delta_to_postgres() {
    every_case(STRATEGIES, |strategy| load_twice(&Pg::new(), From::Delta, Into::Postgres, strategy));
}

/// What a sink that cannot rewrite rows refuses, by name, before anything is read.
fn refused(into: Into, strategy: &Strategy) -> bool {
    into == Into::Lake(Lake::Csv)
        && !matches!(strategy.name, "incremental_append")
        && !strategy.name.starts_with("full_refresh")
}

pub(crate) fn load_twice(pg: &Pg, from: From, into: Into, strategy: &Strategy) {
    let what = format!("{from:?} to {into:?}, {}", strategy.name);
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write("load.yaml", manifest(from, into, strategy));
    orders::seed(pg);
    export(pg, &project, from);

    if refused(into, strategy) {
        project.run("load.yaml", "one").failed("configuration").says(strategy.name);
        return;
    }
    for (run, step) in [("one", "first load"), ("two", "second load"), ("three", "nothing new")] {
        if run == "two" {
            orders::change(pg);
            export(pg, &project, from);
        }
        pg.execute(strategy.oracle);
        let outcome = project.run("load.yaml", run).ok();
        let expected = pg.column(&format!("SELECT {} FROM oracle.orders", orders::postgres_row()));
        assert!(expected.len() > 100, "{what}: the oracle has {} rows", expected.len());
        assert_same_rows(&format!("{what}, {step}"), expected, target_rows(pg, &project, into));
        if run == "three" && (strategy.name.starts_with("incremental") || strategy.name == "snapshot_diff") {
            let written = ["inserted", "updated", "deleted"].map(|which| outcome.rows(which));
            assert_eq!(written, [0, 0, 0], "{what}: a run with nothing new writes nothing");
        }
        assert_eq!(pg.leftovers(), Vec::<String>::new(), "{what}: staging is gone after {step}");
    }
}

pub(crate) fn target_rows(pg: &Pg, project: &Project, into: Into) -> Vec<String> {
    match into {
        Into::Postgres => pg.column(&format!("SELECT {} FROM landing.orders", orders::postgres_row())),
        Into::Lake(lake) => lake.rows(&project.path("lake/landing/orders"), &orders::duckdb_row()),
    }
}

pub(crate) fn manifest(from: From, into: Into, strategy: &Strategy) -> String {
    let columns: Vec<_> = COLUMNS.iter().map(|c| format!("{{name: {}, type: \"{}\"}}", c.name, c.logical)).collect();
    let options = strategy.source_options.trim_matches(['{', '}']);
    let source = match from {
        From::Postgres => format!(
            "{{type: postgres, connection_type: env, connection_id: DB, table: {{schema: shop, name: orders}}, \
             options: {{{options}}}}}"
        ),
        From::Csv => {
            // As PostgreSQL writes it: NULL is an empty field, the empty text is quoted.
            let file_options = format!("columns: [{}]", columns.join(", "));
            let separator = if options.is_empty() { "" } else { ", " };
            format!("{{type: file, path: orders.csv, options: {{{file_options}{separator}{options}}}}}")
        }
        From::Ndjson => {
            let separator = if options.is_empty() { "" } else { ", " };
            let columns = columns.join(", ");
            format!("{{type: file, path: orders.ndjson, options: {{columns: [{columns}]{separator}{options}}}}}")
        }
        From::Parquet => format!("{{type: file, path: orders.parquet, options: {{{options}}}}}"),
        From::Delta => {
            format!("{{type: delta, path: source, table: {{schema: shop, name: orders}}, options: {{{options}}}}}")
        }
    };
    let sink = match into {
        Into::Postgres => "type: postgres, connection_type: env, connection_id: DB",
        Into::Lake(Lake::Delta) => "type: delta, path: lake",
        Into::Lake(Lake::Parquet) => "type: parquet, path: lake",
        Into::Lake(Lake::Csv) => "type: csv, path: lake",
    };
    format!(
        "name: orders\nsource: {source}\nsink:\n  {{{sink}, table: {{schema: landing, name: orders}}, strategy: {}}}\n",
        strategy.yaml
    )
}

/// Writes the source's rows to where the definition reads them: by PostgreSQL, or by the Python package.
pub(crate) fn export(pg: &Pg, project: &Project, from: From) {
    match from {
        From::Postgres => return,
        From::Ndjson => {
            // Not as `text`, whose backslashes are doubled: a line of JSON has none of these two characters.
            let json = "SELECT to_json(o) FROM shop.orders o ORDER BY order_id";
            let lines = pg.copy_out(json, "FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02'");
            return project.write("orders.ndjson", lines);
        }
        From::Csv | From::Parquet | From::Delta => {}
    }
    let csv = pg.copy_out("SELECT * FROM shop.orders ORDER BY order_id", "FORMAT csv, HEADER");
    project.write("orders.csv", csv);
    let types: Vec<_> = COLUMNS.iter().map(|c| format!("'{}': '{}'", c.name, c.duckdb)).collect();
    let types = format!("{{{}}}", types.join(", "));
    match from {
        From::Delta => write_delta(&project.path("source/shop/orders"), &project.path("orders.csv"), &types),
        From::Parquet => write_parquet(&project.path("orders.parquet"), &project.path("orders.csv"), &types),
        _ => {}
    }
}
