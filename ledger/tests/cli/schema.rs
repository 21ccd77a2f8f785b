//! The schema's revisions: created on first use, moved up and down.

use super::support::{Database, each, every, every_postgres};

const HEAD: &str = "5b1e0c6a94d3";
const STEPS: &str = "c5c34dd0b8f2";

fn current(db: &Database) -> String {
    db.dpo(&["current"]).ok()
}

#[test]
fn the_schema_goes_up_and_down_through_every_revision() {
    every(|db| {
        let history = db.dpo(&["history"]).ok();
        let revisions: Vec<&str> =
            history.lines().map(|line| line.split(" -> ").nth(1).unwrap().split([' ', ',']).next().unwrap()).collect();
        assert_eq!(revisions[..2], [HEAD, STEPS]);
        assert!(
            history.lines().next().unwrap().contains("(head)") && history.lines().last().unwrap().starts_with("<base>")
        );
        assert_eq!(revisions.len(), if db.is_sqlite() { 2 } else { 4 });

        assert_eq!(current(db), "");
        db.dpo(&["upgrade"]).ok();
        assert_eq!(current(db), HEAD);
        for revision in revisions.iter().skip(1) {
            db.dpo(&["downgrade", "-1"]).ok();
            assert_eq!(current(db), *revision);
        }
        db.dpo(&["downgrade", "base"]).ok();
        assert_eq!(current(db), "");
        for revision in revisions.iter().rev() {
            db.dpo(&["upgrade", "+1"]).ok();
            assert_eq!(current(db), *revision);
        }
        let before = db.dpo(&["upgrade", "head"]);
        assert_eq!((before.code, before.stdout.as_str()), (0, ""));
        db.dpo(&["downgrade", &STEPS[..4]]).ok();
        assert_eq!(current(db), STEPS);
        // Any other command brings it back up.
        db.init_execution();
        assert_eq!(current(db), HEAD);
    });
}

#[test]
fn a_revision_that_is_none_or_lies_the_other_way_is_refused() {
    each(|db| {
        db.dpo(&["upgrade"]).ok();
        db.dpo(&["downgrade", "0000"]).fails(2, "there is no schema revision \"0000\"");
        db.dpo(&["upgrade", STEPS]).fails(2, "lies the other way");
        db.dpo(&["upgrade", "+1"]).fails(2, "not 1 revisions that way");
        db.dpo(&["downgrade", "-9"]).fails(2, "not 9 revisions that way");
        db.dpo(&["downgrade", "-x"]).fails(2, "is not a number of revisions");
        db.dpo(&["downgrade"]).fails(2, "<REVISION>");
        db.dpo(&["downgrade", STEPS]).ok();
        db.dpo(&["downgrade", HEAD]).fails(2, "lies the other way");
        assert_eq!(current(db), STEPS);
    });
}

#[test]
fn executions_survive_the_indexes_coming_and_going() {
    each(|db| {
        db.write("models/a.sql", "");
        let execution = db.completed_execution();
        db.dpo(&["downgrade", STEPS]).ok();
        db.dpo(&["upgrade"]).ok();
        assert_eq!(db.dpo(&["get-last-successful-execution"]).ok(), execution);
    });
}

#[test]
fn a_newer_schema_is_left_alone() {
    each(|db| {
        let execution = db.init_execution();
        if db.is_sqlite() {
            let connection = rusqlite::Connection::open(db.path().join("ledger.db")).unwrap();
            connection.execute("UPDATE schema_revision SET revision = 'ffff'", []).unwrap();
        } else {
            db.execute("UPDATE dpo.schema_revision SET revision = 'ffff'");
        }
        for arguments in
            [["complete-execution", &execution].as_slice(), &["current"], &["upgrade"], &["downgrade", "base"]]
        {
            db.dpo(arguments).fails(1, "schema revision ffff, which this dpo does not know");
        }
    });
}

#[test]
fn steps_fold_into_executions_and_unfold_again() {
    every_postgres(|db| {
        db.write("models/a.sql", "1");
        db.write("models/b.sql", "2");
        let first = db.completed_execution();
        db.dpo(&["downgrade", "fe9eed6d812f"]).ok();
        let query = "SELECT execution_id, type, name, length(checksum) FROM dpo.execution_model ORDER BY id";
        assert_eq!(db.rows(query), [format!("{first}|LOAD|a|64"), format!("{first}|LOAD|b|64")]);
        db.dpo(&["downgrade", "7d9871ef8afa"]).ok();
        assert_eq!(db.rows("SELECT id, status FROM dpo.data_pipeline_execution"), [format!("{first}|COMPLETED")]);

        assert_eq!(db.dpo(&["get-last-successful-execution"]).ok(), first);
        db.dpo(&["get-execution-completion-timestamp", &first]).ok();
        db.write("models/b.sql", "3");
        let second = db.init_execution();
        let step = db.init_step(&second, "LOAD");
        assert_eq!(db.dpo(&["compare-step-models", &step, &first]).ok(), "b");
    });
}
