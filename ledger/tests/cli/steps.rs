//! Beginning, completing and comparing steps.

use super::support::{Database, NOBODY, each};

#[test]
fn what_differs_is_named_in_order() {
    each(|db| {
        for name in ["same", "changed", "removed"] {
            db.write(&format!("models/{name}.sql"), name);
        }
        let first = db.init_execution();
        let step = db.init_step(&first, "TRANSFORM");
        // Nothing to compare with: everything is new.
        for none in ["", "NO_LAST_SUCCESSFUL_EXECUTION"] {
            assert_eq!(compare(db, &step, none), "changed,removed,same");
        }
        db.dpo(&["complete-step", &step]).ok();
        db.dpo(&["complete-execution", &first]).ok();

        let second = db.init_execution();
        let unchanged = db.init_step(&second, "TRANSFORM");
        let compared = db.dpo(&["compare-step-models", &unchanged, &first]);
        assert_eq!((compared.code, compared.stdout.as_str()), (0, ""));

        db.write("models/changed.sql", "changed\r\n");
        db.write("models/sub/added.json", "");
        std::fs::remove_file(db.path().join("models/removed.sql")).unwrap();
        let step = db.init_step(&second, "transform");
        let compared = db.dpo(&["compare-step-models", &step, &first]);
        assert_eq!(
            (compared.code, compared.stdout.as_str(), compared.stderr.as_str()),
            (0, "added,changed,removed\n", "")
        );
        let how = ["compare-step-models", &step, &first, "--include-deleted", "--separator", " "];
        assert_eq!(db.dpo(&how).ok(), "added changed removed");
        // By the old name, its order of arguments, and the newest step of that name.
        assert_eq!(db.dpo(&["compare-models", &first, &second, "transform"]).ok(), "added,changed,removed");
        assert_eq!(db.dpo(&["compare-models", "", &second, "transform"]).ok(), "added,changed,same");
    });
}

#[test]
fn a_step_that_the_previous_execution_did_not_have_is_all_new() {
    each(|db| {
        db.write("models/a.sql", "");
        let first = db.completed_execution();
        let second = db.init_execution();
        let step = db.init_step(&second, "TRANSFORM");
        let compared = db.dpo(&["compare-step-models", &step, &first]);
        assert_eq!(compared.stdout, "a\n");
        assert!(compared.stderr.contains("has no step TRANSFORM"), "{compared:?}");
    });
}

#[test]
fn the_newest_attempt_at_a_step_is_compared_with() {
    each(|db| {
        db.write("models/a.sql", "1");
        let first = db.init_execution();
        db.init_step(&first, "LOAD");
        db.write("models/a.sql", "2");
        db.init_step(&first, "LOAD");
        let second = db.init_execution();
        let step = db.init_step(&second, "LOAD");
        assert_eq!(compare(db, &step, &first), "");
    });
}

#[test]
fn a_comparison_needs_ids_that_exist() {
    each(|db| {
        db.write("models/a.sql", "");
        let execution = db.init_execution();
        let step = db.init_step(&execution, "LOAD");
        let compare = |step: &str, previous: &str| db.dpo(&["compare-step-models", step, previous]);
        compare(NOBODY, &execution).fails(1, &format!("there is no step {NOBODY}"));
        compare(&step, NOBODY).fails(1, &format!("there is no execution {NOBODY}"));
        compare(&execution, &execution).fails(1, &format!("there is no step {execution}"));
        compare("x", "").fails(1, "the step id \"x\" is not a GUID");
        compare("", "").fails(1, "the step id is empty");
        compare(&step, "x").fails(1, "the previous execution id \"x\" is not a GUID");
        let old = |previous: &str, current: &str, name: &str| db.dpo(&["compare-models", previous, current, name]);
        old("", NOBODY, "load").fails(1, &format!("there is no execution {NOBODY}"));
        old(NOBODY, &execution, "load").fails(1, &format!("there is no execution {NOBODY}"));
        old("", &execution, "transform").fails(1, "has no step TRANSFORM");
        old("", &execution, "models").fails(2, "expected LOAD or TRANSFORM");
    });
}

#[test]
fn a_name_that_holds_the_separator_is_not_printed_as_two() {
    each(|db| {
        db.write("models/a,b.sql", "");
        let execution = db.init_execution();
        let step = db.init_step(&execution, "LOAD");
        db.dpo(&["compare-step-models", &step, ""]).fails(1, "has the separator");
        assert_eq!(db.dpo(&["compare-step-models", &step, "", "--separator", ";"]).ok(), "a,b");
    });
}

#[test]
fn a_step_is_completed_once_with_a_number_of_rows() {
    each(|db| {
        db.write("models/a.sql", "");
        let execution = db.init_execution();
        let rows = |arguments: &[&str]| {
            let step = db.init_step(&execution, "LOAD");
            db.dpo(&[&["complete-step", &step], arguments].concat()).ok();
            db.rows(&format!("SELECT rows_processed FROM dpo.execution_step WHERE execution_step_id = '{step}'"))
                .concat()
        };
        assert_eq!(rows(&[]), "∅");
        assert_eq!(rows(&["0"]), "0");
        assert_eq!(rows(&["9223372036854775807"]), "9223372036854775807");
        assert_eq!(rows(&["-r", "7"]), "7");
        assert_eq!(rows(&["--rows-processed", "8"]), "8");
        assert_eq!(rows(&["-r"]), "∅");

        let step = db.init_step(&execution, "LOAD");
        let complete = |arguments: &[&str]| db.dpo(&[&["complete-step"], arguments].concat());
        complete(&[&step, "-1"]).fails(1, "not negative");
        complete(&[&step, "-r", "-1"]).fails(1, "not negative");
        complete(&[&step, "9223372036854775808"]).fails(1, "a BIGINT ends at 9223372036854775807");
        complete(&[&step, "-9223372036854775809"]).fails(1, "BIGINT");
        complete(&[&step, "1.5"]).fails(2, "a whole number is expected");
        complete(&[&step, "many"]).fails(2, "a whole number is expected");
        complete(&[&step, "1", "-r", "1"]).fails(2, "cannot be used with");
        complete(&["x"]).fails(1, "the step id \"x\" is not a GUID");
        complete(&[NOBODY]).fails(1, &format!("there is no step {NOBODY}"));
        // None of these touched it.
        complete(&[&step, "5"]).ok();
        complete(&[&step, "6"]).fails(1, "was completed already at ");
        let query = format!("SELECT rows_processed FROM dpo.execution_step WHERE execution_step_id = '{step}'");
        assert_eq!(db.rows(&query), ["5"]);
    });
}

#[test]
fn the_steps_of_a_completed_execution_do_not_change() {
    each(|db| {
        db.write("models/a.sql", "");
        let execution = db.init_execution();
        let open = db.init_step(&execution, "LOAD");
        db.dpo(&["complete-execution", &execution]).ok();
        db.dpo(&["complete-step", &open]).fails(1, "its steps do not change any more");
        let step = ["init-step", &execution, "LOAD", "models", "*"];
        db.dpo(&step).fails(1, "its steps do not change any more");
        assert_eq!(db.rows("SELECT status FROM dpo.execution"), ["COMPLETED"]);
        assert_eq!(db.rows("SELECT status FROM dpo.execution_step"), ["IN_PROGRESS"]);
    });
}

fn compare(db: &Database, step: &str, previous: &str) -> String {
    db.dpo(&["compare-step-models", step, previous]).ok()
}
