//! The SQL front door.

use super::*;
use crate::relation::Relation;

const CONNECTIONS: &str = "-- Where things are.
CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:SHOP_URL');
CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse'); /* the warehouse */
";

fn sql(statement: &str) -> Pipeline {
    pipeline("p.sql", &format!("{CONNECTIONS}{statement}"))
}

fn wrong(statement: &str) -> String {
    error("p.sql", &format!("{CONNECTIONS}{statement}"))
}

const QUERY: &str = "SELECT * FROM shop.public.orders";

#[test]
fn the_example_of_the_guide_loads() {
    let text = format!(
        "{CONNECTIONS}
CREATE PIPELINE orders INTO lake.landing.orders
  STRATEGY incremental_merge KEY (order_id) CURSOR updated_at
  OPTIONS ('parallelism' '4')
AS SELECT o.*, c.country -- the country too
   FROM shop.public.orders o JOIN shop.public.customers c USING (customer_id);
"
    );
    let project = project(&[("p.sql", &text)]);
    assert_eq!(project.connections["shop"].options["url"], OptionValue::Env("SHOP_URL".into()));
    assert_eq!(project.connections["lake"].location, Some(crate::Location::new("p.sql", 3, 19)));
    let pipeline = &project.pipelines[0];
    assert_eq!(pipeline.name, "orders");
    assert_eq!((pipeline.location.line, pipeline.location.column), (5, 17));
    assert_eq!(
        pipeline.source.query,
        SourceQuery::Sql {
            sql: "SELECT o.*, c.country -- the country too\n   FROM shop.public.orders o JOIN shop.public.customers c USING (customer_id)".into()
        }
    );
    assert_eq!(
        (pipeline.sink.connection.as_str(), &pipeline.sink.relation),
        ("lake", &Relation::new("landing", "orders"))
    );
    assert_eq!(pipeline.strategy.key(), ["order_id"]);
    assert_eq!(pipeline.strategy.cursor().unwrap().column, "updated_at");
    assert_eq!(pipeline.tuning.parallelism, Some(4));
    assert_eq!(pipeline.state, StateSpec::BesideData);
}

#[test]
fn both_doors_know_the_same_options() {
    let pipeline = sql(&format!(
        "CREATE PIPELINE orders INTO lake.landing.orders PARTITION BY (\"Country\", year)
         STRATEGY INCREMENTAL_MERGE KEY (id, \"Line\") CURSOR updated_at
         OPTIONS ('duplicate_policy' 'latest', 'order_by' 'updated_at, seq', null_keys 'quarantine',
                  'soft_delete_column' 'deleted', 'soft_delete_policy' 'keep', 'lag' '2h', 'null_cursor' 'include',
                  'empty_source' 'allow', 'max_delete_ratio' 0.5, 'max_delete_rows' '10', 'batch_size' 5000,
                  'merge_policy' 'auto', 'staging_schema' 'stage', 'option.compression' 'zstd')
         AS {QUERY}"
    ));
    assert_eq!(
        pipeline.strategy,
        Strategy::IncrementalMerge {
            key: vec!["id".into(), "Line".into()],
            cursor: Some(CursorOptions {
                column: "updated_at".into(),
                lag: Some(Lag::Interval { microseconds: 7_200_000_000 }),
                include_nulls: true,
            }),
            duplicates: DuplicatePolicy::Latest { order_by: vec!["updated_at".into(), "seq".into()] },
            null_keys: NullKeys::Quarantine,
            soft_delete: Some(SoftDelete { column: "deleted".into(), policy: DeletePolicy::Keep }),
        }
    );
    assert_eq!(
        pipeline.guards,
        Guards { empty_source: EmptySource::Allow, max_delete_ratio: Some(0.5), max_delete_rows: Some(10) }
    );
    assert_eq!(pipeline.tuning.batch_rows, Some(5000));
    assert_eq!(pipeline.sink.partition_by, ["Country", "year"]);
    assert_eq!(pipeline.sink.staging_schema.as_deref(), Some("stage"));
    assert_eq!(pipeline.sink.options, BTreeMap::from([("compression".into(), "zstd".into())]));
}

#[test]
fn every_mode_has_its_statement() {
    for (clauses, expected) in [
        ("STRATEGY full_refresh OPTIONS ('overwrite_type' 'truncate_insert')", "full_refresh"),
        ("STRATEGY replace OPTIONS ('custom_predicate' 'day >= ''2026-01-01''')", "replace"),
        (
            "STRATEGY replace OPTIONS ('window_column' 'day', 'window_from' '2026-01-01', 'window_to' '2026-02-01')",
            "replace",
        ),
        (
            "STRATEGY incremental_append CURSOR id KEY (id) OPTIONS ('only_new_rows' 'true', 'lag' '100')",
            "incremental_append",
        ),
        ("STRATEGY incremental_merge KEY (id)", "incremental_merge"),
        ("STRATEGY partition_replace PARTITION BY (day)", "partition_replace"),
        ("STRATEGY snapshot_diff KEY (id) OPTIONS ('diff_delete_policy' 'soft_delete')", "snapshot_diff"),
        ("STRATEGY scd2 KEY (id) OPTIONS ('scd2_delete_policy' 'ignore')", "scd2"),
        (
            "STRATEGY xmin KEY (id) OPTIONS ('reconciliation' 'true', 'reconciliation_cadence' '1d',
               'reconciliation_guards_max_delete_rows' 10)",
            "xmin",
        ),
        ("STRATEGY incremental_append OPTIONS ('incremental_strategy' 'xmin')", "xmin"),
        (
            "STRATEGY backfill OPTIONS ('backfill_chunk_column' 'day', 'backfill_chunk_from' '2026-01-01',
             'backfill_chunk_to' '2026-01-31', 'backfill_chunk_step' '7d')",
            "backfill",
        ),
    ] {
        let pipeline = sql(&format!("CREATE PIPELINE orders INTO lake.landing.orders {clauses} AS {QUERY};"));
        assert_eq!(pipeline.strategy.name(), expected, "{clauses}");
    }
    let strategy = sql(&format!(
        "CREATE PIPELINE orders INTO lake.landing.orders STRATEGY replace
         OPTIONS ('window_column' 'day', 'window_from' '2026-01-01', 'window_to' '2026-02-01') AS {QUERY}"
    ))
    .strategy;
    let scope = Scope::Window { column: "day".into(), from: "2026-01-01".into(), to: "2026-02-01".into() };
    assert_eq!(strategy, Strategy::Replace { scope });
}

#[test]
fn queries_may_use_expressions_and_functions() {
    let query = "WITH recent AS (SELECT * FROM shop.public.orders), top AS (SELECT * FROM recent LIMIT 5)
        SELECT * FROM top CROSS JOIN generate_series(1, 3) AS s(n) WHERE id IN (SELECT id FROM lake.landing.orders)";
    let pipeline = sql(&format!("CREATE PIPELINE orders INTO lake.landing.copy STRATEGY full_refresh AS {query};;"));
    assert_eq!(pipeline.source.query, SourceQuery::Sql { sql: query.into() });
}

#[test]
fn state_may_lie_elsewhere() {
    let state = |options: &str| {
        sql(&format!("CREATE PIPELINE orders INTO lake.l.o STRATEGY full_refresh OPTIONS ({options}) AS {QUERY}")).state
    };
    let relation = Relation::new("etl", "state");
    assert_eq!(
        state("'state_connection' 'shop', 'state_table' 'etl.state'"),
        StateSpec::Elsewhere { connection: "shop".into(), relation: Some(relation.clone()) }
    );
    assert_eq!(state("'state_table' 'etl.state'"), StateSpec::InSink { relation });
}

#[test]
fn variables_are_put_in_and_places_stay_true() {
    let text = format!(
        "{CONNECTIONS}CREATE PIPELINE orders INTO lake.${{schema}}.o STRATEGY full_refresh AS SELECT * FROM shop.public.o WHERE day = '${{day}}' AND x FROM y"
    );
    let files = [("p.sql", text.as_str())];
    let vars = [("schema", "a_schema_with_a_long_name"), ("day", "2026-01-01")];
    let message = shown(load_with(&files, &vars, &no_files));
    let column = text.lines().nth(3).unwrap().find("FROM y").unwrap() + 1;
    assert!(
        message.starts_with(&format!("p.sql:4:{column}: expected ; at the end of the query, found FROM")),
        "{message}"
    );
    assert_eq!(
        shown(load_with(&files, &[("schema", "s")], &no_files)),
        format!(
            "p.sql:4:{}: the variable \"day\" has no value\nhint: give it by --var day=value; write $${{ for ${{ itself",
            text.lines().nth(3).unwrap().find("${day}").unwrap() + 1
        )
    );
    let good = text.replace(" AND x FROM y", "");
    let project = load_with(&[("p.sql", &good)], &vars, &no_files).unwrap();
    assert_eq!(project.pipelines[0].sink.relation.schema, "a_schema_with_a_long_name");
    assert_eq!(
        project.pipelines[0].source.query,
        SourceQuery::Sql { sql: "SELECT * FROM shop.public.o WHERE day = '2026-01-01'".into() }
    );
}

#[test]
fn statements_say_what_was_expected() {
    let at = |statement: &str| wrong(statement);
    assert_eq!(
        at("SELECT 1;"),
        "p.sql:4:1: expected CREATE CONNECTION or CREATE PIPELINE, found SELECT\nhint: queries alone are run by `dpone query`"
    );
    assert_eq!(at("CREATE TABLE t"), "p.sql:4:8: expected CONNECTION or PIPELINE after CREATE, found TABLE");
    assert_eq!(
        at(&format!("CREATE PIPELINE orders INTO lake.l.o STRATGY full_refresh AS {QUERY}")),
        "p.sql:4:38: expected one of INTO, STRATEGY, KEY, CURSOR, PARTITION, OPTIONS, AS, found STRATGY\nhint: did you mean STRATEGY?"
    );
    assert_eq!(
        at(&format!("CREATE PIPELINE orders STRATEGY full_refresh AS {QUERY}")),
        "p.sql:4:17: the pipeline \"orders\" has no INTO\nhint: for example INTO lake.landing.orders"
    );
    assert_eq!(
        at(&format!("CREATE PIPELINE orders INTO lake.o STRATEGY full_refresh AS {QUERY}")),
        "p.sql:4:29: the target lake.o is not a table of a connection\nhint: write INTO connection.schema.table"
    );
    assert_eq!(
        at(&format!("CREATE PIPELINE orders INTO lak.l.o STRATEGY full_refresh AS {QUERY}")),
        "p.sql:4:29: there is no connection \"lak\"\nhint: did you mean lake?"
    );
    assert_eq!(
        at(&format!("CREATE PIPELINE Orders INTO lake.l.o STRATEGY ful_refresh AS {QUERY}")),
        "p.sql:4:47: STRATEGY is \"ful_refresh\"; expected one of full_refresh, incremental_append, incremental_merge, replace, \
         partition_replace, snapshot_diff, scd2, backfill, cdc_apply, xmin\nhint: did you mean full_refresh?"
    );
    assert_eq!(
        at("CREATE CONNECTION shop TYPE null;").lines().next(),
        Some("p.sql:4:19: the connection \"shop\" is defined twice")
    );
    assert!(at("CREATE CONNECTION x TYPE null OPTIONS ('a' 'b").starts_with("p.sql:4:44: this is not SQL"));
    assert_eq!(
        at("CREATE CONNECTION x TYPE null OPTIONS ('a' 'b', 'a' 'c')"),
        "p.sql:4:49: the option 'a' is given twice\nhint: the first one is on line 4"
    );
}

#[test]
fn options_say_what_they_take() {
    let with = |strategy: &str, options: &str| {
        wrong(&format!("CREATE PIPELINE orders INTO lake.l.o STRATEGY {strategy}\nOPTIONS ({options})\nAS {QUERY}"))
    };
    assert_eq!(
        with("full_refresh", "'paralelism' '4'"),
        "p.sql:5:10: there is no option 'paralelism'\nhint: did you mean 'parallelism'?"
    );
    assert_eq!(
        with("full_refresh", "'unique_key' 'id'"),
        "p.sql:5:10: there is no option 'unique_key'\nhint: write the clause KEY (…)"
    );
    assert_eq!(
        with("full_refresh", "'parallelism' 'four'"),
        "p.sql:5:10: the option 'parallelism' is \"four\"; expected a whole number"
    );
    assert_eq!(
        with("full_refresh", "'empty_source' 'alow'"),
        "p.sql:5:10: the option 'empty_source' is \"alow\"; expected one of fail, allow\nhint: did you mean allow?"
    );
    assert_eq!(
        with("full_refresh", "'null_keys' 'fail'"),
        "p.sql:5:10: the option 'null_keys' has no meaning where STRATEGY is full_refresh\nhint: it belongs to incremental_merge, snapshot_diff, scd2, backfill, xmin"
    );
    assert_eq!(with("incremental_merge", "'lag' '1h'"), "p.sql:5:10: the option 'lag' has no meaning without CURSOR");
    assert_eq!(
        with("replace", "'window_column' 'day'"),
        "p.sql:5:10: the option 'window_from' is missing\np.sql:5:10: the option 'window_to' is missing"
    );
    assert_eq!(
        wrong(&format!("CREATE PIPELINE orders INTO lake.l.o STRATEGY incremental_merge AS {QUERY}")),
        "p.sql:4:47: KEY is missing: incremental_merge matches rows by their key\nhint: name the columns that tell rows apart, for example [id]"
    );
}

#[test]
fn queries_are_held_to_their_grammar_and_their_connections() {
    let with = |query: &str| wrong(&format!("CREATE PIPELINE orders INTO lake.l.o STRATEGY full_refresh AS\n{query};"));
    assert_eq!(with("SELECT 1 +\n  , 2"), "p.sql:6:3: the query is not valid SQL: Expected: an expression, found: ,");
    assert_eq!(
        with("SELECT 1 +"),
        "p.sql:5:11: the query is not valid SQL: Expected: an expression, found the end of the query"
    );
    assert_eq!(
        with("SELECT * FROM shp.public.orders JOIN lake.l.o USING (id)"),
        "p.sql:5:15: there is no connection \"shp\" for the table shp.public.orders\nhint: did you mean shop?"
    );
    assert_eq!(
        with("SELECT * FROM orders"),
        "p.sql:5:15: the table orders does not say where it is\nhint: write connection.schema.table"
    );
    assert_eq!(with("").lines().next(), Some("p.sql:5:1: expected a query after AS, found ;"));
}

#[test]
fn secrets_stay_out_of_sight() {
    let text = "CREATE CONNECTION shop TYPE postgres OPTIONS ('password' 'hunter2', 'url' 'postgres://u:hunter2@h/d', 'host' 'h');";
    let project = project(&[("p.sql", text)]);
    assert!(!format!("{project:?}").contains("hunter2"));
    let rendered = render(&[("p.sql".into(), text.to_owned())], &BTreeMap::new(), &no_files).unwrap();
    assert!(!rendered[0].to_string().contains("hunter2") && rendered[0].to_string().contains("\"host\":\"h\""));
}
