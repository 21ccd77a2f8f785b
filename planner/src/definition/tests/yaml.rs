//! Manifests that load, and what they become.

use super::*;
use crate::relation::Relation;

const EXAMPLES: [(&str, &str); 12] = [
    ("orders_full_refresh", include_str!("examples/orders_full_refresh.yml")),
    ("orders_incremental_append", include_str!("examples/orders_incremental_append.yml")),
    ("orders_incremental_merge", include_str!("examples/orders_incremental_merge.yml")),
    ("orders_replace", include_str!("examples/orders_replace.yml")),
    ("orders_partition_replace", include_str!("examples/orders_partition_replace.yml")),
    ("orders_snapshot_diff", include_str!("examples/orders_snapshot_diff.yml")),
    ("orders_scd2", include_str!("examples/orders_scd2.yml")),
    ("orders_backfill", include_str!("examples/orders_backfill.yml")),
    ("orders_xmin", include_str!("examples/orders_xmin.yml")),
    ("orders_cdc", include_str!("examples/orders_cdc.yml")),
    ("orders_to_topic", include_str!("examples/orders_to_topic.yml")),
    ("topic_to_clickhouse", include_str!("examples/topic_to_clickhouse.yml")),
];

fn example(name: &str) -> Pipeline {
    let (_, text) = EXAMPLES.iter().find(|(known, _)| *known == name).unwrap();
    pipeline(&format!("{name}.yml"), text)
}

fn merge(extra: &str) -> Pipeline {
    pipeline("m.yml", &merge_text(extra))
}

/// A merge from Postgres to Delta, with more lines for the strategy.
fn merge_text(extra: &str) -> String {
    format!(
        "name: orders
source:
  type: postgres
  connection_type: env
  connection_id: SRC
  table: {{schema: public, name: orders}}
  options: {{incremental_column: updated_at}}
sink:
  type: delta
  path: warehouse
  table: {{schema: landing, name: orders}}
  strategy:
    mode: incremental_merge
    unique_key: [id]
{extra}"
    )
}

#[test]
fn every_example_of_the_contract_loads_without_a_warning() {
    for (name, text) in EXAMPLES {
        let pipeline = pipeline(&format!("{name}.yml"), text);
        assert_eq!(pipeline.name, name);
        assert!(pipeline.warnings.is_empty(), "{name}: {:?}", pipeline.warnings);
        let expected = match name {
            "orders_to_topic" => "incremental_merge".to_owned(),
            "topic_to_clickhouse" => "incremental_append".to_owned(),
            other => other.trim_start_matches("orders_").to_owned(),
        };
        assert_eq!(pipeline.strategy.name(), expected, "{name}");
    }
}

#[test]
fn a_full_refresh_keeps_what_it_says() {
    let pipeline = example("orders_full_refresh");
    assert_eq!(pipeline.strategy, Strategy::FullRefresh { overwrite: OverwriteType::TruncateInsert });
    assert_eq!(
        pipeline.source.query,
        SourceQuery::Table { connection: "src".into(), relation: Relation::new("public", "orders") }
    );
    assert_eq!(pipeline.sink.connection, "dwh");
    assert_eq!(pipeline.sink.staging_schema.as_deref(), Some("staging"));
    assert_eq!(pipeline.state, StateSpec::BesideData);
    assert_eq!(pipeline.guards, Guards::default());
    assert_eq!((pipeline.location.line, pipeline.location.column), (1, 1));
}

#[test]
fn a_cursor_has_its_lag_and_state_its_place() {
    let append = example("orders_incremental_append");
    let cursor = append.strategy.cursor().unwrap();
    assert_eq!(cursor.column, "updated_at");
    assert_eq!(cursor.lag, Some(Lag::Interval { microseconds: 86_400_000_000 }));
    assert!(!cursor.include_nulls);
    let table = Relation::new("etl_state", "dpone_state");
    // The sink is ClickHouse, the state lies in Postgres under the same id.
    assert_eq!(append.state, StateSpec::Elsewhere { connection: "dwh_postgres".into(), relation: Some(table.clone()) });
    assert_eq!(example("orders_incremental_merge").state, StateSpec::InSink { relation: table });
}

#[test]
fn a_scope_is_a_predicate_or_a_window() {
    let Strategy::Replace { scope: Scope::Predicate(predicate) } = example("orders_replace").strategy else {
        panic!("not a predicate")
    };
    assert_eq!(predicate, "business_date >= '2026-06-01' AND business_date < '2026-06-08'");
    let replace = |scope: &str| {
        let text = merge_text("").replace("    mode: incremental_merge\n    unique_key: [id]\n", scope);
        pipeline("m.yml", &text.replace("  options: {incremental_column: updated_at}\n", "")).strategy
    };
    let window =
        Strategy::Replace { scope: Scope::Window { column: "d".into(), from: "2026-01-01".into(), to: "7".into() } };
    assert_eq!(replace("    mode: replace\n    window: {column: d, from: 2026-01-01, to: 7}\n"), window);
    assert_eq!(replace("    mode: replace\n    portable_scope: {column: d, from: 2026-01-01, to: 7}\n"), window);
    assert_eq!(
        replace("    mode: replace\n    portable_scope: {column: d, in: [a'b, 7]}\n"),
        Strategy::Replace { scope: Scope::Predicate("\"d\" IN ('a''b', 7)".into()) }
    );
}

#[test]
fn merge_options_are_read() {
    let pipeline = merge(
        "    duplicate_policy: latest
    order_by: updated_at, seq
    null_keys: quarantine
    soft_delete: {column: deleted_at, policy: keep}
    empty_source: allow
    max_delete_ratio: 0.25
    max_delete_rows: 1000
    merge_policy: delete_insert
",
    );
    assert_eq!(
        pipeline.strategy,
        Strategy::IncrementalMerge {
            key: vec!["id".into()],
            cursor: Some(CursorOptions { column: "updated_at".into(), ..Default::default() }),
            duplicates: DuplicatePolicy::Latest { order_by: vec!["updated_at".into(), "seq".into()] },
            null_keys: NullKeys::Quarantine,
            soft_delete: Some(SoftDelete { column: "deleted_at".into(), policy: DeletePolicy::Keep }),
        }
    );
    let guards = Guards { empty_source: EmptySource::Allow, max_delete_ratio: Some(0.25), max_delete_rows: Some(1000) };
    assert_eq!(pipeline.guards, guards);
    // The older place of the guards means the same.
    let older = merge(
        "reconciliation: {enabled: false, empty_snapshot: {policy: allow}, guards: {max_delete_ratio: 0.25, max_delete_rows: 1000}}\n",
    );
    assert_eq!(older.guards, guards);
}

#[test]
fn the_reader_xmin_is_read_with_its_reconciliation() {
    let xmin = |more: &str| {
        let text =
            merge_text(more).replace("{incremental_column: updated_at}", "{incremental_strategy: postgres_xmin}");
        match pipeline("m.yml", &text).strategy {
            Strategy::Xmin(xmin) => xmin,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(xmin("").key, ["id"]);
    assert_eq!(xmin("").reconciliation, None);
    assert_eq!(xmin("reconciliation: false\n").reconciliation, Some(Reconciliation::Off));
    let on = |cadence| Some(Reconciliation::On { cadence, delete_policy: GoneRows::HardDelete });
    for (text, cadence) in [
        ("true", Cadence::Runs(1)),
        (
            "{enabled: true, mode: key_snapshot, consistency: same_source_snapshot, cadence: every_run}",
            Cadence::Runs(1),
        ),
        ("{cadence: 10}", Cadence::Runs(10)),
        ("{cadence: 1d, delete_policy: hard_delete}", Cadence::Interval { microseconds: 86_400_000_000 }),
    ] {
        assert_eq!(xmin(&format!("reconciliation: {text}\n")).reconciliation, on(cadence), "{text}");
    }
    let append = merge_text("")
        .replace("{incremental_column: updated_at}", "{incremental_strategy: xmin}")
        .replace("incremental_merge\n    unique_key: [id]", "incremental_append");
    let expected = Xmin { key: Vec::new(), write: VersionWrite::Append { only_new_rows: false }, reconciliation: None };
    assert_eq!(pipeline("m.yml", &append).strategy, Strategy::Xmin(expected));
}

#[test]
fn keys_come_as_lists_or_words() {
    let text = merge_text("").replace("unique_key: [id]", "unique_key: id, line");
    assert_eq!(pipeline("m.yml", &text).strategy.key(), ["id", "line"]);
}

#[test]
fn source_options_are_read() {
    let text = merge_text("").replace(
        "{incremental_column: updated_at}",
        "{columns: [id, {name: amount, type: 'decimal(18,2)'}, updated_at], custom_predicate: 'id > 5',
            portable_scope: {column: country, equals: DE}, batch_size: 5000, incremental_column: updated_at, lag: 2h,
            null_cursor: include, partitioning: {num_partitions: 8, export_workers: 4}}",
    );
    let pipeline = pipeline("m.yml", &text);
    let read = &pipeline.source.read;
    assert_eq!(read.columns, ["id", "amount", "updated_at"]);
    assert_eq!(read.types, BTreeMap::from([("amount".into(), "decimal(18,2)".into())]));
    assert_eq!(read.predicate.as_deref(), Some("(id > 5) AND (\"country\" = 'DE')"));
    assert_eq!(pipeline.tuning, Tuning { parallelism: Some(4), batch_rows: Some(5000) });
    let cursor = pipeline.strategy.cursor().unwrap();
    assert_eq!(cursor.lag, Some(Lag::Interval { microseconds: 7_200_000_000 }));
    assert!(cursor.include_nulls);
}

#[test]
fn environment_connections_have_three_names_for_each_part() {
    let project = project(&[("m.yml", &merge_text(""))]);
    let source = &project.connections["src"];
    assert_eq!(source.kind, "postgres");
    let names = ["DPONE_CONN_SRC_PASSWORD", "SRC_PASSWORD", "DPONE_SRC_PASSWORD"].map(str::to_owned).to_vec();
    assert_eq!(source.options["password"], OptionValue::EnvAny(names));
    assert_eq!(source.options["url"], OptionValue::EnvAny(vec!["DPONE_CONN_SRC_URL".into()]));
    assert_eq!(project.connections["warehouse"].options["path"], OptionValue::Plain("warehouse".into()));
}

#[test]
fn equal_connections_are_one_and_names_stay_readable() {
    let first = merge_text("");
    let second =
        first.replace("name: orders\nsource", "name: orders_two\nsource").replace("name: orders}", "name: o2}");
    let other = first
        .replace("name: orders\nsource", "name: orders_three\nsource")
        .replace("path: warehouse", "path: s3://bucket/deep/warehouse/");
    let project = project(&[("a.yml", &first), ("b.yaml", &second), ("c.yml", &other)]);
    let names: Vec<_> = project.connections.keys().map(String::as_str).collect();
    assert_eq!(names, ["src", "warehouse", "warehouse_delta"]);
    assert_eq!(project.pipelines[1].sink.connection, "warehouse");
}

#[test]
fn parameters_are_a_mapping_or_json_and_never_printed() {
    let mapping = merge_text("").replace(
        "  connection_type: env\n  connection_id: SRC\n",
        "  connection_type: params\n  vault_mount_point: secret\n  connection_id: {host: db.example, port: 5433, database: shop, username: app, password: hunter2}\n",
    );
    let json = merge_text("").replace(
        "  connection_type: env\n  connection_id: SRC\n",
        "  connection_type: params\n  connection_id: '{\"host\": \"db.example\", \"port\": 5433, \"database\": \"shop\", \"username\": \"app\", \"password\": \"hunter2\"}'\n",
    );
    for text in [&mapping, &json] {
        let project = project(&[("m.yml", text)]);
        let source = &project.connections["shop"];
        assert_eq!(source.options["port"], OptionValue::Plain("5433".into()));
        assert_eq!(source.options["password"], OptionValue::Secret(crate::Secret::new("hunter2")));
        assert!(!format!("{project:?}").contains("hunter2"));
        let rendered = render(&[("m.yml".into(), text.clone())], &BTreeMap::new(), &no_files).unwrap();
        let rendered = to_yaml(&rendered[0]);
        assert!(rendered.contains("db.example") && !rendered.contains("hunter2"), "{rendered}");
    }
    let warnings = pipeline("m.yml", &mapping).warnings;
    assert_eq!(warnings, ["source.vault_mount_point has no effect: secrets come from the environment or from files"]);
    let reference = mapping.replace("password: hunter2", "password: 'env:SHOP_PASSWORD'");
    let source = &project(&[("m.yml", &reference)]).connections["shop"];
    assert_eq!(source.options["password"], OptionValue::Env("SHOP_PASSWORD".into()));
}

#[test]
fn files_are_connections_with_their_reading_options() {
    let text = "name: flights
source:
  type: file
  path: data/flights*.csv.gz
  options:
    header: true
    delimiter: ','
    null_values: [NA, ',']
    infer_rows: 10000
    columns: [{name: time_hour, type: timestamptz}]
sink:
  type: parquet
  path: out
  table: {schema: landing, name: flights}
  strategy: {mode: full_refresh}
  options: {compression: zstd, partition_by: [year, month]}
";
    let project = project(&[("m.yml", text)]);
    let files = &project.connections["flights"];
    let plain = |text: &str| OptionValue::Plain(text.into());
    assert_eq!(files.kind, "file");
    assert_eq!(files.options["path"], plain("data/flights*.csv.gz"));
    assert_eq!(files.options["header"], plain("true"));
    assert_eq!(files.options["null_values"], plain("[\"NA\",\",\"]"));
    let pipeline = &project.pipelines[0];
    assert_eq!(
        pipeline.source.query,
        SourceQuery::Table { connection: "flights".into(), relation: Relation::new("files", "flights") }
    );
    assert!(pipeline.source.read.columns.is_empty());
    assert_eq!(pipeline.source.read.types["time_hour"], "timestamptz");
    assert_eq!(pipeline.sink.partition_by, ["year", "month"]);
    assert_eq!(pipeline.sink.options, BTreeMap::from([("compression".into(), "zstd".into())]));
}

#[test]
fn a_query_is_inline_or_in_a_file_beside_the_manifest() {
    let query = |text: &str| {
        merge_text("")
            .replace("  table: {schema: public, name: orders}\n", "")
            .replace("{incremental_column: updated_at}", &format!("{{incremental_column: updated_at, query: {text}}}"))
    };
    let reader = |path: &Path| {
        assert_eq!(path, Path::new("etl/sql/orders.sql"));
        Ok("SELECT 1;\n".to_owned())
    };
    for text in [query("{mode: inline, sql: 'SELECT 1;'}"), query("{mode: sql_file, sql_file: sql/orders.sql}")] {
        let project = load_with(&[("etl/m.yml", &text)], &[], &reader).unwrap();
        let expected = SourceQuery::Native { connection: "src".into(), sql: "SELECT 1".into() };
        assert_eq!(project.pipelines[0].source.query, expected);
    }
}

#[test]
fn variables_fill_values_and_plain_numbers_stay_numbers() {
    let text = merge_text("    max_delete_rows: ${limit}\n").replace("name: orders}", "name: 'orders_{{ vars.env }}'}");
    let project = load_with(&[("m.yml", &text)], &[("limit", "7"), ("env", "dev")], &no_files).unwrap();
    assert_eq!(project.pipelines[0].guards.max_delete_rows, Some(7));
    assert_eq!(project.pipelines[0].sink.relation.name, "orders_dev");
}

#[test]
fn what_has_no_effect_is_said_once() {
    let text = merge_text("")
        + "runtime: {compatibility: {legacy_runtime_connections: explicit_only}}
bigquery_proxy: {x: 1}
gitops: {}
tech_schema: tech
x-team: shop
depends_on: [{path: a.yml}]
";
    assert_eq!(
        pipeline("m.yml", &text).warnings,
        [
            "runtime, bigquery_proxy have no effect: meant for another runtime",
            "gitops has no effect: meant for other tools"
        ]
    );
}

#[test]
fn aliases_and_merge_keys_are_expanded() {
    let text = "x-connection: &src {connection_type: env, connection_id: SRC}
name: orders
source:
  <<: *src
  type: postgres
  table: &table {schema: public, name: orders}
sink:
  <<: *src
  connection_id: DWH
  type: postgres
  table: *table
  strategy: {mode: full_refresh}
";
    let pipeline = pipeline("m.yml", text);
    assert_eq!(pipeline.sink.connection, "dwh");
    assert_eq!(pipeline.sink.relation, Relation::new("public", "orders"));
}

#[test]
fn state_may_reuse_the_sink() {
    let text = merge_text("state: {reuse: sink, table: {schema: etl_state, name: s}}\n");
    let expected = StateSpec::InSink { relation: Relation::new("etl_state", "s") };
    assert_eq!(pipeline("m.yml", &text).state, expected);
    assert_eq!(merge("state: {type: disabled}\n").state, StateSpec::BesideData);
}

#[test]
fn a_reference_names_a_connection_made_in_sql() {
    let text = merge_text("").replace("  connection_type: env\n  connection_id: SRC\n", "  connection_ref: shop\n");
    let sql = "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:SHOP_URL');";
    let project = project(&[("m.yml", &text), ("c.sql", sql)]);
    assert!(
        matches!(&project.pipelines[0].source.query, SourceQuery::Table { connection, .. } if connection == "shop")
    );
}

#[test]
fn rendered_manifests_load_to_the_same_pipeline() {
    for (name, text) in EXAMPLES {
        let rendered = render(&[("m.yml".into(), text.to_owned())], &BTreeMap::new(), &no_files).unwrap();
        let mut again = pipeline("m.yml", &to_yaml(&rendered[0]));
        let first = pipeline("m.yml", text);
        again.location = first.location.clone();
        assert_eq!(again, first, "{name}");
    }
}
