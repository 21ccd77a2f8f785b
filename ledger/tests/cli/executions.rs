//! Beginning, finding and completing executions.

use super::support::{Database, NOBODY, each, every};

#[test]
fn an_execution_goes_from_begin_to_end() {
    every(|db| {
        db.write("models/a.sql", "select 1\n");
        let last = db.dpo(&["get-last-successful-execution"]);
        assert_eq!((last.code, last.stdout.as_str()), (0, "\n"));

        let execution = db.init_execution();
        assert_eq!(uuid::Uuid::try_parse(&execution).unwrap().to_string(), execution);
        assert_eq!(status(db, &execution), "INITIALISED");
        let step = db.dpo(&["init-step", &execution, "load", "models", "*.sql"]);
        assert_eq!((step.code, step.stdout.len(), step.stderr.as_str()), (0, 37, ""));
        let step = step.ok();
        assert_eq!(status(db, &execution), "IN_PROGRESS");
        assert_eq!(db.dpo(&["get-last-successful-execution"]).stdout, "\n");

        let done = db.dpo(&["complete-step", &step, "1234"]);
        assert_eq!((done.code, done.stdout.as_str()), (0, ""));
        let done = db.dpo(&["complete-execution", &execution]);
        assert_eq!((done.code, done.stdout.as_str()), (0, ""));
        assert!(done.stderr.contains(" - dpo - INFO - Completed Execution ID: "), "{done:?}");
        assert!(!done.stderr.contains("WARNING"), "{done:?}");

        assert_eq!(db.dpo(&["get-last-successful-execution"]).stdout, format!("{execution}\n"));
        let time = db.dpo(&["get-execution-completion-timestamp", &execution]).ok();
        let parsed = chrono::DateTime::parse_from_rfc3339(&time).unwrap();
        assert_eq!(parsed.format("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string(), time);
        assert!((chrono::Utc::now().timestamp() - parsed.timestamp()).abs() < 600);
        let query = "SELECT step_name, status, rows_processed, execution_time_ms >= 0, completed_on IS NOT NULL \
                     FROM dpo.execution_step";
        let truth = if db.is_sqlite() { "1|1" } else { "t|t" };
        assert_eq!(db.rows(query), [format!("LOAD|COMPLETED|1234|{truth}")]);
        let query = "SELECT model_name, checksum FROM dpo.execution_step_model";
        assert_eq!(db.rows(query), ["a|8903abffd68710879da59014708c6187f8e839fadc2bdf94ae73a036aa591623"]);
    });
}

#[test]
fn an_id_of_the_callers_is_taken_once() {
    each(|db| {
        let id = "6F1D6A0E-3C1B-4A56-9D2E-0F3B7A1C2D4E";
        let stored = id.to_lowercase();
        assert_eq!(db.dpo(&["init-execution", id]).ok(), stored);
        for again in [["init-execution", id].as_slice(), &["init-execution", "-id", &stored]] {
            db.dpo(again).fails(1, &format!("{stored} is already in use"));
        }
        assert_eq!(db.rows("SELECT count(*) FROM dpo.execution"), ["1"]);
        for (index, flags) in [["-id"].as_slice(), &["--execution-id"], &["--execution"]].iter().enumerate() {
            let id = format!("00000000-0000-4000-8000-00000000000{}", index + 1);
            let arguments: Vec<&str> = [&["init-execution"], *flags, &[&id]].concat();
            assert_eq!(db.dpo(&arguments).ok(), id);
        }
        db.dpo(&["init-execution", "6f1d6a0e"]).fails(1, "\"6f1d6a0e\" is not a GUID");
        db.dpo(&["init-execution", ""]).fails(1, "is empty");
        db.dpo(&["init-execution", id, "--execution-id", id]).fails(2, "cannot be used with");
    });
}

#[test]
fn the_execution_that_was_completed_last_is_the_last_successful_one() {
    each(|db| {
        let first = db.init_execution();
        let second = db.init_execution();
        let third = db.init_execution();
        db.dpo(&["complete-execution", &second]).ok();
        db.dpo(&["complete-execution", &first]).ok();
        assert_eq!(db.dpo(&["get-last-successful-execution"]).ok(), first);
        db.dpo(&["complete-execution", &third]).ok();
        assert_eq!(db.dpo(&["get-last-successful-execution"]).ok(), third);
    });
}

#[test]
fn a_time_is_told_of_completed_executions_alone() {
    each(|db| {
        let execution = db.init_execution();
        let timestamp = |id: &str| db.dpo(&["get-execution-completion-timestamp", id]);
        timestamp(&execution).fails(1, "is not completed: it is INITIALISED");
        timestamp(NOBODY).fails(1, &format!("there is no execution {NOBODY}"));
        timestamp("x").fails(1, "is not a GUID");
        timestamp("").fails(1, "is empty");
        timestamp("NO_LAST_SUCCESSFUL_EXECUTION").fails(1, "there is no such execution");
        db.dpo(&["complete-execution", &execution]).ok();
        let old_name = db.dpo(&["get-execution-last-updated-timestamp", &execution]).ok();
        assert_eq!(old_name, timestamp(&execution).ok());
    });
}

#[test]
fn an_execution_is_completed_once() {
    each(|db| {
        let execution = db.init_execution();
        db.dpo(&["complete-execution", &execution]).ok();
        let time = db.dpo(&["get-execution-completion-timestamp", &execution]).ok();
        db.dpo(&["complete-execution", &execution]).fails(1, &format!("was completed already at {time}"));
        assert_eq!(db.dpo(&["get-execution-completion-timestamp", &execution]).ok(), time);
        db.dpo(&["complete-execution", NOBODY]).fails(1, &format!("there is no execution {NOBODY}"));
        db.dpo(&["complete-execution", "1-2"]).fails(1, "is not a GUID");
    });
}

#[test]
fn steps_that_are_still_open_are_named_and_do_not_stop_a_completion() {
    each(|db| {
        db.write("models/a.sql", "");
        let execution = db.init_execution();
        db.init_step(&execution, "LOAD");
        db.init_step(&execution, "TRANSFORM");
        let done = db.dpo(&["complete-execution", &execution]);
        assert_eq!((done.code, done.stdout.as_str()), (0, ""));
        assert!(done.stderr.contains("WARNING") && done.stderr.contains("LOAD, TRANSFORM"), "{done:?}");
        assert_eq!(db.dpo(&["get-last-successful-execution"]).ok(), execution);
    });
}

fn status(db: &Database, execution: &str) -> String {
    db.rows(&format!("SELECT status FROM dpo.execution WHERE execution_id = '{execution}'")).concat()
}
