//! The modes of the contract, on rows.

use dpone_tests::{Project, assert_same_rows, every_case};

use super::columns::STRATEGIES;
use super::{columns, definition, evolving};
use crate::problems::database;

const SEED: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'x'), (2, 'y')";
const GROWN: &str = "ALTER TABLE shop.t ADD COLUMN fresh int; \
                     INSERT INTO shop.t VALUES (3, 'z', NULL), (4, 'w', 4), (5, 'u', 5)";

fn current(strategy: &str) -> &'static str {
    if strategy.contains("scd2") { " WHERE __dpone__is_current" } else { "" }
}

/// The lines of evidence that a run names.
fn evidence(project: &Project) -> Vec<serde_json::Value> {
    let folder = project.path(".dpone/schema_changes/quarantine");
    let mut lines = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        lines.extend(text.lines().map(|line| serde_json::from_str(line).unwrap()));
    }
    lines
}

#[test]
fn tables_that_are_not_there_are_created_or_refused_or_left_alone() {
    let pg = database(SEED);
    let project = evolving(&pg, "mode: full_refresh", "tables: freeze");
    project.run("load.yaml", "one").failed("configuration").says("tables is freeze");
    assert!(!pg.exists("landing.t"));
    project.write("load.yaml", definition("mode: full_refresh", "", "tables: ignore"));
    let outcome = project.run("load.yaml", "two").ok();
    assert_eq!(outcome.status(), "skipped", "{}", outcome.text());
    assert_eq!(outcome.rows("inserted"), 0);
    outcome.says("nothing was loaded");
    assert!(!pg.exists("landing.t"));
    pg.execute("CREATE TABLE landing.t (id int, v text)");
    for tables in ["freeze", "ignore"] {
        project.write("load.yaml", definition("mode: full_refresh", "", &format!("tables: {tables}")));
        project.run("load.yaml", tables).ok();
        assert_same_rows(tables, pg.rows("shop.t"), pg.rows("landing.t"));
    }
}

#[test]
fn new_columns_are_refused_or_left_out() {
    every_case(STRATEGIES, |strategy| {
        let pg = database(SEED);
        let project = evolving(&pg, strategy, "columns: freeze");
        project.run("load.yaml", "one").ok();
        let before = columns(&pg, "landing.t");
        pg.execute(GROWN);
        project.run("load.yaml", "two").failed("data_quality").says("schema_evolution.frozen:add_column:fresh");
        project.write("load.yaml", definition(strategy, "", "columns: ignore"));
        let outcome = project.run("load.yaml", "three").ok();
        assert!(outcome.text().contains("\"fresh\\\" of the source is not loaded"), "{}", outcome.text());
        assert_eq!(columns(&pg, "landing.t"), before);
        let rows = |table: &str, which: &str| pg.column(&format!("SELECT (id, v)::text FROM {table}{which}"));
        assert_same_rows(strategy, rows("shop.t", ""), rows("landing.t", current(strategy)));
    });
}

#[test]
fn rows_with_a_value_in_a_new_column_are_put_aside() {
    every_case(STRATEGIES, |strategy| {
        let pg = database(SEED);
        let project = evolving(&pg, strategy, "columns: quarantine");
        project.run("load.yaml", "one").ok();
        pg.execute(GROWN);
        let outcome = project.run("load.yaml", "two").ok();
        assert_eq!((outcome.rows("extracted"), outcome.rows("quarantined")), (5, 2), "{}", outcome.text());
        let rows = |table: &str, which: &str| pg.column(&format!("SELECT (id, v)::text FROM {table}{which}"));
        assert_same_rows(strategy, rows("shop.t", " WHERE fresh IS NULL"), rows("landing.t", current(strategy)));
        let mut lines = evidence(&project);
        lines.sort_by_key(|line| line["position"].as_u64());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!((lines[0]["column"].as_str(), lines[0]["reason"].as_str()), (Some("fresh"), Some("new_column")));
        assert_eq!(lines[0]["run_id"], "two");
        if strategy.contains("unique_key") {
            assert_eq!(lines[0]["key"]["id"], "4");
        }
    });
}

#[test]
fn rows_whose_value_does_not_fit_are_put_aside_and_no_row_of_theirs_is_deleted() {
    every_case(STRATEGIES, |strategy| {
        let pg = database(
            "CREATE TABLE shop.t (id int PRIMARY KEY, v int); INSERT INTO shop.t VALUES (1, 1), (2, 2), (3, 3)",
        );
        let project = evolving(&pg, strategy, "data_type: quarantine");
        project.run("load.yaml", "one").ok();
        pg.execute(
            "ALTER TABLE shop.t ALTER v TYPE text; UPDATE shop.t SET v = 'secret' WHERE id = 2; \
             UPDATE shop.t SET v = '33' WHERE id = 3; INSERT INTO shop.t VALUES (4, NULL), (5, '4.875001')",
        );
        let outcome = project.run("load.yaml", "two").ok();
        assert_eq!((outcome.rows("extracted"), outcome.rows("quarantined")), (5, 2), "{}", outcome.text());
        let keeps = strategy.contains("merge")
            || strategy.contains("snapshot_diff")
            || strategy.contains("scd2")
            || strategy.contains("partition_replace");
        let mut expected = vec!["(1,1)", "(3,33)", "(4,)"];
        if keeps {
            expected.push("(2,2)");
        }
        let found = pg.column(&format!("SELECT (id, v)::text FROM landing.t{}", current(strategy)));
        assert_same_rows(strategy, expected.into_iter().map(str::to_owned).collect(), found);
        let lines = evidence(&project);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line["reason"] == "type_mismatch"), "{lines:?}");
        let told = format!("{lines:?}{}", outcome.text());
        assert!(!told.contains("secret") && !told.contains("4.875001"), "no value is shown: {told}");
    });
}

#[test]
fn types_that_are_frozen_are_an_error_even_where_they_would_widen() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v varchar(3)); INSERT INTO shop.t VALUES (1, 'abc')");
    let project = evolving(&pg, "mode: full_refresh", "data_type: freeze");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ALTER v TYPE varchar(9)");
    project.run("load.yaml", "two").failed("data_quality").says("schema_evolution.frozen:type_widen:v");
}

#[test]
fn policies_say_what_is_a_change_at_all() {
    let cases = [
        ("mode: strict", "ALTER TABLE shop.t ADD COLUMN w int", Some("breaking:add_column:w")),
        ("mode: additive", "ALTER TABLE shop.t ADD COLUMN w int", None),
        ("mode: additive", "ALTER TABLE shop.t ALTER v TYPE varchar(9)", Some("breaking:type_widen:v")),
        ("mode: widening", "ALTER TABLE shop.t ALTER v TYPE varchar(9)", None),
        ("enabled: false", "ALTER TABLE shop.t ADD COLUMN w int", Some("fail:add_column:w")),
        ("on_schema_change: fail", "ALTER TABLE shop.t ADD COLUMN w int", Some("fail:add_column:w")),
        ("ddl_mode: plan_only", "ALTER TABLE shop.t ADD COLUMN w int", Some("plan_only:add_column:w")),
        ("apply_safe: false", "ALTER TABLE shop.t ADD COLUMN w int", Some("plan_only:add_column:w")),
        ("on_breaking: ignore", "ALTER TABLE shop.t DROP COLUMN v", None),
        ("on_breaking: fail", "ALTER TABLE shop.t DROP COLUMN v", Some("breaking:drop_column:v")),
    ];
    every_case(cases, |(policy, change, blocked)| {
        let pg =
            database("CREATE TABLE shop.t (id int PRIMARY KEY, v varchar(3)); INSERT INTO shop.t VALUES (1, 'abc')");
        let project = evolving(&pg, "mode: incremental_merge, unique_key: [id]", policy);
        project.run("load.yaml", "one").ok();
        let before = columns(&pg, "landing.t");
        pg.execute(change);
        pg.execute("INSERT INTO shop.t (id) VALUES (2)");
        let outcome = project.run("load.yaml", "two");
        match blocked {
            Some(code) => {
                outcome.failed("data_quality").says(&format!("schema_evolution.{code}"));
                assert_eq!(columns(&pg, "landing.t"), before);
                assert_eq!(pg.count("landing.t"), 1);
            }
            None => {
                outcome.ok();
                assert_eq!(pg.count("landing.t"), 2);
            }
        }
    });
}

#[test]
fn a_column_that_the_source_lost_keeps_what_it_has() {
    let pg =
        database("CREATE TABLE shop.t (id int PRIMARY KEY, v text, w text); INSERT INTO shop.t VALUES (1, 'a', 'b')");
    let project = evolving(&pg, "mode: incremental_merge, unique_key: [id]", "on_breaking: ignore");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t DROP COLUMN v; UPDATE shop.t SET w = 'c'; INSERT INTO shop.t VALUES (2, 'd')");
    project.run("load.yaml", "two").ok();
    assert_same_rows("kept", vec!["(1,a,c)".into(), "(2,,d)".into()], pg.rows("landing.t"));
    pg.execute("UPDATE landing.t SET v = ''; ALTER TABLE landing.t ALTER v SET NOT NULL");
    project.run("load.yaml", "three").failed("data_quality").says("\"v\"");
}

#[test]
fn a_column_is_renamed_only_where_that_is_declared_and_approved() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'a')");
    let strategy = "mode: incremental_merge, unique_key: [id]";
    let project = evolving(&pg, strategy, "");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t RENAME v TO w; INSERT INTO shop.t VALUES (2, 'b')");
    project.run("load.yaml", "two").failed("data_quality").says("drop_column:v");
    project.write("load.yaml", definition(strategy, "", "renames: {v: w}"));
    project.run("load.yaml", "three").failed("data_quality").says("breaking:rename_column:w");
    project.write("load.yaml", definition(strategy, "", "renames: {v: w}, on_breaking: ignore"));
    project.run("load.yaml", "four").ok();
    assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v text"], "it goes on under its old name");
    assert_same_rows("renamed", pg.rows("shop.t"), pg.rows("landing.t"));
}

#[test]
fn rows_that_a_cursor_or_row_versions_leave_out_are_not_put_aside_again() {
    let strategies = [
        ("mode: incremental_merge, unique_key: [id]", "incremental_column: id"),
        ("mode: incremental_append", "incremental_column: id"),
        ("mode: xmin, unique_key: [id]", ""),
    ];
    every_case(strategies, |(strategy, options)| {
        let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v int); INSERT INTO shop.t VALUES (1, 1), (2, 2)");
        let project = evolving(&pg, strategy, "");
        project.write("load.yaml", definition(strategy, options, "data_type: quarantine"));
        project.run("load.yaml", "one").ok();
        pg.execute("ALTER TABLE shop.t ALTER v TYPE text; INSERT INTO shop.t VALUES (3, 'three'), (4, '4')");
        let outcome = project.run("load.yaml", "two").ok();
        assert_eq!(outcome.rows("quarantined"), 1, "{}", outcome.text());
        pg.execute("INSERT INTO shop.t VALUES (5, '5'), (6, 'six')");
        let outcome = project.run("load.yaml", "three").ok();
        assert_eq!(outcome.rows("quarantined"), 1, "{strategy}: {}", outcome.text());
        let found = pg.column("SELECT (id, v)::text FROM landing.t");
        assert_same_rows(strategy, ["(1,1)", "(2,2)", "(4,4)", "(5,5)"].map(str::to_owned).to_vec(), found);
    });
}

#[test]
fn row_versions_bring_new_columns_along() {
    let pg = database(SEED);
    let project = evolving(&pg, "mode: xmin, unique_key: [id]", "");
    project.run("load.yaml", "one").ok();
    pg.execute(GROWN);
    project.run("load.yaml", "two").ok();
    assert_same_rows("xmin", pg.rows("shop.t"), pg.rows("landing.t"));
    pg.execute("ALTER TABLE shop.t ALTER v TYPE varchar(9)");
    project.run("load.yaml", "three").ok();
    assert_same_rows("xmin", pg.rows("shop.t"), pg.rows("landing.t"));
}
