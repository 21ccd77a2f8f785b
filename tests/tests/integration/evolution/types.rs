//! Types that widen, narrow and change.

use dpone_tests::{assert_same_rows, every_case};

use super::columns::STRATEGIES;
use super::{columns, evolving};
use crate::problems::database;

/// A column `v` of a type, and rows in it.
fn seed(kind: &str, values: &str) -> String {
    format!(
        "CREATE TABLE shop.t (id int PRIMARY KEY, v {kind}); \
         INSERT INTO shop.t SELECT i, v FROM unnest(ARRAY[{values}]::{kind}[]) WITH ORDINALITY AS x(v, i)"
    )
}

#[test]
fn a_widening_that_costs_nothing_is_applied_before_the_load() {
    let widenings = [
        ("varchar(5)", "'ab', NULL", "varchar(9)", "'abcdefghi'", "character varying(9)"),
        ("varchar(5)", "'ab'", "text", "'abcdefghi'", "text"),
        ("numeric(5,2)", "1.25", "numeric(8,2)", "123456.78", "numeric(8,2)"),
        (
            "timestamp(0)",
            "'2024-01-01 10:00:00'",
            "timestamp(6)",
            "'2024-01-01 10:00:00.123456'",
            "timestamp(6) without time zone",
        ),
    ];
    for strategy in
        ["mode: incremental_merge, unique_key: [id]", "mode: full_refresh", "mode: snapshot_diff, unique_key: [id]"]
    {
        every_case(widenings, |(from, values, to, value, native)| {
            let pg = database(&seed(from, values));
            let project = evolving(&pg, strategy, "");
            project.run("load.yaml", "one").ok();
            pg.execute(&format!("ALTER TABLE shop.t ALTER v TYPE {to}; INSERT INTO shop.t VALUES (100, {value})"));
            let plan = project.dpone(&["plan", "load.yaml"]).ok();
            assert!(plan.stdout().contains("type_widen v: metadata_only, apply"), "{}", plan.text());
            project.run("load.yaml", "two").ok();
            assert!(columns(&pg, "landing.t").contains(&format!("v {native}")), "{:?}", columns(&pg, "landing.t"));
            assert_same_rows(strategy, pg.rows("shop.t"), pg.rows("landing.t"));
        });
    }
}

#[test]
fn a_widening_that_blocks_waits_until_it_is_allowed() {
    let pg = database(&seed("int", "1, 2"));
    let strategy = "mode: incremental_merge, unique_key: [id]";
    let project = evolving(&pg, strategy, "ledger_path: ledger");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ALTER v TYPE bigint; INSERT INTO shop.t VALUES (3, 5000000000)");
    let refused = project.run("load.yaml", "two").failed("data_quality");
    refused.says("schema_evolution.blocking:type_widen:v").says("allow_blocking_online");
    assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v integer"]);
    assert_eq!(pg.leftovers(), Vec::<String>::new());
    let plan = project.dpone(&["plan", "load.yaml"]);
    assert_eq!(plan.code(), Some(1), "{}", plan.text());
    plan.says("schema_evolution.blocking:type_widen:v");
    assert_eq!(entries(&project, "ledger"), ["deferred"]);

    project.write("load.yaml", super::definition(strategy, "", "ledger_path: ledger, allow_blocking_online: true"));
    project.run("load.yaml", "three").ok();
    assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v bigint"]);
    assert_same_rows("widened", pg.rows("shop.t"), pg.rows("landing.t"));
    assert_eq!(entries(&project, "ledger"), ["deferred", "planned", "applied"]);
}

/// What the ledger says happened, in its order.
pub(crate) fn entries(project: &dpone_tests::Project, ledger: &str) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(project.path(ledger)) else { return Vec::new() };
    let mut entries: Vec<(u64, String)> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("schema_change_"))
        .map(|path| {
            let entry: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            (entry["sequence"].as_u64().unwrap(), entry["status"].as_str().unwrap().to_owned())
        })
        .collect();
    entries.sort();
    entries.into_iter().map(|(_, status)| status).collect()
}

#[test]
fn a_source_that_narrows_is_no_difference() {
    let pg = database(&seed("varchar(9)", "'ab'"));
    let project = evolving(&pg, "mode: incremental_merge, unique_key: [id]", "");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ALTER v TYPE varchar(3); INSERT INTO shop.t VALUES (2, 'xyz')");
    let outcome = project.run("load.yaml", "two").ok();
    assert!(!outcome.text().contains("ALTER"), "{}", outcome.text());
    assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v character varying(9)"]);
    assert_same_rows("narrowed", pg.rows("shop.t"), pg.rows("landing.t"));
    let strict = super::definition("mode: incremental_merge, unique_key: [id]", "", "mode: strict");
    project.write("load.yaml", strict);
    project.run("load.yaml", "three").failed("data_quality").says("breaking:type_narrow:v");
}

#[test]
fn a_changed_type_fails_by_default_before_anything_is_staged() {
    every_case(STRATEGIES, |strategy| {
        let pg = database(&seed("int", "1, 2"));
        let project = evolving(&pg, strategy, "");
        project.run("load.yaml", "one").ok();
        let before = pg.rows("landing.t");
        pg.execute("ALTER TABLE shop.t ALTER v TYPE text; INSERT INTO shop.t VALUES (3, 'three')");
        let outcome = project.run("load.yaml", "two").failed("data_quality");
        outcome.says("breaking:type_change:v").says("on_type_change: new_column");
        assert_same_rows(strategy, before, pg.rows("landing.t"));
        assert_eq!(pg.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn values_of_another_type_have_a_column_of_their_own_run_after_run() {
    every_case(STRATEGIES, |strategy| {
        let pg = database(&seed("int", "1, 2"));
        let project = evolving(&pg, strategy, "data_type: variant_column, on_type_change: new_column");
        project.run("load.yaml", "one").ok();
        pg.execute("ALTER TABLE shop.t ALTER v TYPE text USING 'no ' || v; INSERT INTO shop.t VALUES (3, 'three')");
        let current = if strategy.contains("scd2") { " WHERE __dpone__is_current" } else { "" };
        let rows =
            |pg: &dpone_tests::Pg| pg.column(&format!("SELECT (id, v, __dpone__nc__v)::text FROM landing.t{current}"));
        for run in ["two", "three"] {
            project.run("load.yaml", run).ok();
            assert_same_rows(strategy, pg.column("SELECT (id, NULL::int, v)::text FROM shop.t"), rows(&pg));
            assert!(columns(&pg, "landing.t").contains(&"v integer".to_owned()), "the column keeps its type");
        }
        // What fits again is where it was, and nowhere else.
        pg.execute("UPDATE shop.t SET v = id; ALTER TABLE shop.t ALTER v TYPE int USING v::int");
        project.run("load.yaml", "four").ok();
        assert_same_rows(strategy, pg.column("SELECT (id, v, NULL::text)::text FROM shop.t"), rows(&pg));
        // A third type has a third column.
        pg.execute("ALTER TABLE shop.t ALTER v TYPE date USING '2024-01-01'::date + v");
        project.run("load.yaml", "five").ok();
        let third = columns(&pg, "landing.t").into_iter().find(|c| c.ends_with(" date")).unwrap();
        let third = third.trim_end_matches(" date");
        assert!(third.starts_with("__dpone__nc__v_"), "{third}");
        let found = pg.column(&format!("SELECT (id, v, __dpone__nc__v, {third})::text FROM landing.t{current}"));
        assert_same_rows(strategy, pg.column("SELECT (id, NULL::int, NULL::text, v)::text FROM shop.t"), found);
    });
}

#[test]
fn a_column_that_takes_no_null_has_no_other_column_for_its_values() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO shop.t VALUES (1, 1)");
    let project = evolving(&pg, "mode: incremental_merge, unique_key: [id]", "on_type_change: new_column");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ALTER v TYPE text; ALTER TABLE landing.t ALTER v SET NOT NULL");
    project.run("load.yaml", "two").failed("data_quality").says("\"v\" takes no NULL");
    assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v integer not null"], "nothing was changed");
}

#[test]
fn a_form_that_the_target_chose_is_its_own() {
    let forms = [("json", "'{\"a\": 1}'", "jsonb"), ("varchar(3)", "'abc'", "char(5)"), ("inet", "'10.0.0.1'", "text")];
    every_case(forms, |(from, value, to)| {
        let pg = database(&seed(from, value));
        pg.execute(&format!("CREATE TABLE landing.t (id int PRIMARY KEY, v {to})"));
        let project = evolving(&pg, "mode: full_refresh", "");
        for run in ["one", "two"] {
            let outcome = project.run("load.yaml", run).ok();
            assert!(!outcome.text().contains("ALTER"), "{}", outcome.text());
        }
        assert_eq!(pg.count("landing.t"), 1);
    });
}

#[test]
fn what_hangs_on_a_column_decides_what_its_widening_costs() {
    let cases = [
        ("CREATE INDEX ON landing.t (v)", None),
        ("CREATE INDEX ON landing.t ((upper(v)))", Some("blocking:type_widen:v")),
        ("CREATE VIEW landing.w AS SELECT v FROM landing.t", Some("unsupported:type_widen:v")),
    ];
    every_case(cases, |(dependent, blocked)| {
        let pg = database(&seed("varchar(5)", "'ab'"));
        let project = evolving(&pg, "mode: incremental_merge, unique_key: [id]", "");
        project.run("load.yaml", "one").ok();
        pg.execute(dependent);
        pg.execute("ALTER TABLE shop.t ALTER v TYPE varchar(9); INSERT INTO shop.t VALUES (2, 'abcdefghi')");
        let outcome = project.run("load.yaml", "two");
        match blocked {
            Some(code) => {
                outcome.failed("data_quality").says(&format!("schema_evolution.{code}"));
                assert_eq!(columns(&pg, "landing.t")[1], "v character varying(5)");
            }
            None => {
                outcome.ok();
                assert_same_rows(dependent, pg.rows("shop.t"), pg.rows("landing.t"));
            }
        }
    });
}
