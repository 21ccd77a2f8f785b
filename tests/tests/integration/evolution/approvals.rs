//! Changes that wait for somebody's word.

use dpone_tests::{Project, assert_same_rows};

use super::types::entries;
use super::{columns, evolving};
use crate::problems::database;

const SEED: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'x'), (2, 'y')";
const MERGE: &str = "mode: incremental_merge, unique_key: [id]";

/// The newest entry of the ledger with this status.
pub(super) fn entry(project: &Project, ledger: &str, status: &str) -> String {
    let files = std::fs::read_dir(project.path(ledger)).unwrap();
    let mut found: Vec<(u64, String)> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("schema_change_"))
        .map(|path| (serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap(), path))
        .filter(|(entry, _)| entry["status"] == status)
        .map(|(entry, path)| {
            let path = path.strip_prefix(project.dir()).unwrap().display().to_string();
            (entry["sequence"].as_u64().unwrap(), path)
        })
        .collect();
    found.sort();
    found.pop().unwrap().1
}

pub(super) fn approve(project: &Project, entry: &str) {
    project.dpone(&["schema", "approve", "--ledger", entry, "--approver", "architect", "--format", "json"]).ok();
}

#[test]
fn a_change_waits_for_approval_and_is_applied_once_it_has_it() {
    for mode in ["manual_approval", "safe_window"] {
        let pg = database(SEED);
        let project = evolving(&pg, MERGE, &format!("ddl_mode: {mode}"));
        project.run("load.yaml", "one").ok();
        pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
        for run in ["two", "again"] {
            let refused = project.run("load.yaml", run).failed("data_quality");
            refused.says(&format!("schema_evolution.{mode}:add_column:fresh")).says("dpone schema approve --ledger");
        }
        let ledger = ".dpone/schema_changes";
        assert_eq!(entries(&project, ledger), ["pending_approval"], "asked for once");
        assert_eq!(columns(&pg, "landing.t").len(), 2);
        approve(&project, &entry(&project, ledger, "pending_approval"));
        project.run("load.yaml", "three").ok();
        assert_same_rows(mode, pg.rows("shop.t"), pg.rows("landing.t"));
        assert_eq!(entries(&project, ledger), ["pending_approval", "planned", "applied"]);
        let applied = std::fs::read_to_string(project.path(&entry(&project, ledger, "applied"))).unwrap();
        assert!(applied.contains("\"appr_"), "the approval is named: {applied}");
        project.run("load.yaml", "four").ok();
    }
}

#[test]
fn an_approval_is_void_when_the_catalog_moved() {
    let pg = database(SEED);
    let project = evolving(&pg, MERGE, "ddl_mode: manual_approval, ledger_path: ledger");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    project.run("load.yaml", "two").failed("data_quality");
    approve(&project, &entry(&project, "ledger", "pending_approval"));
    // It changes what a change may cost, and so what was approved.
    pg.execute("CREATE INDEX ON landing.t ((upper(v)))");
    project.run("load.yaml", "three").failed("data_quality").says("void");
    assert_eq!(columns(&pg, "landing.t").len(), 2, "nothing was changed");
    approve(&project, &entry(&project, "ledger", "pending_approval"));
    project.run("load.yaml", "four").ok();
    assert_eq!(columns(&pg, "landing.t").len(), 3);
}

#[test]
fn an_unsigned_approval_does_not_count_where_signatures_are_asked_for() {
    let pg = database(SEED);
    let project = evolving(&pg, MERGE, "ddl_mode: manual_approval, require_signed: true");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    project.run("load.yaml", "two").failed("data_quality").says("--key");
    approve(&project, &entry(&project, ".dpone/schema_changes", "pending_approval"));
    project.run("load.yaml", "three").failed("data_quality").says("void");
    assert_eq!(columns(&pg, "landing.t").len(), 2);
}

#[test]
fn a_pipeline_that_a_change_switched_off_stays_off_until_somebody_has_looked() {
    let pg = database(SEED);
    let project = evolving(&pg, MERGE, "on_schema_change: disable_pipeline, ledger_path: ledger");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    project.run("load.yaml", "two").failed("data_quality").says("disable_pipeline:add_column:fresh");
    // Though the source is as it was.
    pg.execute("ALTER TABLE shop.t DROP COLUMN fresh");
    project.run("load.yaml", "three").failed("data_quality").says("switched off").says("ledger/disabled_evolving.json");
    std::fs::remove_file(project.path("ledger/disabled_evolving.json")).unwrap();
    project.run("load.yaml", "four").ok();
    // Approved, it goes on with the change.
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    project.run("load.yaml", "five").failed("data_quality");
    approve(&project, &entry(&project, "ledger", "deferred"));
    project.run("load.yaml", "six").ok();
    assert_same_rows("on again", pg.rows("shop.t"), pg.rows("landing.t"));
    project.run("load.yaml", "seven").ok();
}

#[test]
fn a_change_is_announced_where_the_definition_asks_for_it() {
    let pg = database(SEED);
    let project = evolving(&pg, MERGE, "on_schema_change: notify, ledger_path: ledger");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    project.run("load.yaml", "two").ok();
    let files = std::fs::read_dir(project.path("ledger/notifications")).unwrap().count();
    assert!(files >= 2, "JSON and Markdown");
}

#[test]
fn what_breaks_readers_can_be_approved() {
    let changes = [
        ("renames: {v: w}", "ALTER TABLE shop.t RENAME v TO w", "rename_column:w", "w text"),
        ("", "ALTER TABLE shop.t ALTER v TYPE varchar(9)", "", "v text"),
        ("", "ALTER TABLE shop.t ADD n int; UPDATE shop.t SET n = id", "add_column:n", "n integer"),
    ];
    dpone_tests::every_case(changes, |(more, change, waits, column)| {
        let pg = database(SEED);
        let project = evolving(&pg, MERGE, &format!("ddl_mode: manual_approval, ledger_path: ledger, {more}"));
        project.run("load.yaml", "one").ok();
        pg.execute(change);
        if !waits.is_empty() {
            project.run("load.yaml", "two").failed("data_quality").says(waits);
            approve(&project, &entry(&project, "ledger", "pending_approval"));
        }
        project.run("load.yaml", "three").ok();
        assert!(columns(&pg, "landing.t").contains(&(*column).to_owned()), "{:?}", columns(&pg, "landing.t"));
        assert_same_rows(change, pg.rows("shop.t"), pg.rows("landing.t"));
    });
}

#[test]
fn another_kind_of_values_is_converted_once_somebody_has_approved_that() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v int); INSERT INTO shop.t VALUES (1, 1), (2, 2)");
    let project = evolving(&pg, MERGE, "ddl_mode: manual_approval, ledger_path: ledger");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ALTER v TYPE text; INSERT INTO shop.t VALUES (3, 'three')");
    project.run("load.yaml", "two").failed("data_quality").says("manual_approval:type_change:v");
    approve(&project, &entry(&project, "ledger", "pending_approval"));
    project.run("load.yaml", "three").ok();
    assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v text"]);
    assert_same_rows("converted", pg.rows("shop.t"), pg.rows("landing.t"));
}
