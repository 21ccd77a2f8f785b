//! Which files a step takes, from the command line.

use super::support::{Database, NOBODY, each};

/// The models of a step, by name.
fn models(db: &Database, arguments: &[&str]) -> Vec<String> {
    let execution = db.init_execution();
    let step = db.dpo(&[&["init-step", &execution, "LOAD"], arguments].concat()).ok();
    let query = "SELECT model_name FROM dpo.execution_step_model WHERE execution_step_id";
    db.rows(&format!("{query} = '{step}' ORDER BY model_name"))
}

#[test]
fn patterns_are_relative_to_the_base_path() {
    each(|db| {
        for path in ["load/a.json", "load/x/b.json", "load/x/y/c.csv", "load/.d.json", "other/e.json"] {
            db.write(path, "");
        }
        assert_eq!(models(db, &["load", "*.json"]), [".d", "a"]);
        assert_eq!(models(db, &["./load", "**/*.json"]), [".d", "a", "b"]);
        assert_eq!(models(db, &["load", "a.*", "./x/**/*.csv"]), ["a", "c"]);
        let absolute = db.path().join("load").display().to_string();
        assert_eq!(models(db, &[&absolute, "**/*.csv"]), ["c"]);
        // As a shell hands over what it expanded.
        assert_eq!(models(db, &["./load", "load/x/b.json", "./load/a.json"]), ["a", "b"]);
        assert_eq!(models(db, &["load", &format!("{absolute}/x/*.json")]), ["b"]);
        assert!(models(db, &["load", "*.sql"]).is_empty());
    });
}

#[test]
fn a_pattern_that_matches_nothing_is_told() {
    let db = Database::sqlite();
    db.write("load/a.json", "");
    let execution = db.init_execution();
    let step = db.dpo(&["init-step", &execution, "LOAD", "load", "*.json", "*.sql"]);
    assert_eq!(step.code, 0);
    assert!(step.stderr.contains("WARNING - the pattern \"*.sql\" matches no file"), "{step:?}");
    assert_eq!(step.stderr.lines().count(), 1, "{step:?}");
}

#[test]
fn a_step_whose_models_cannot_be_taken_is_not_begun() {
    each(|db| {
        db.write("load/a.json", "");
        db.write("load/sub/a.csv", "");
        let execution = db.init_execution();
        let init = |id: &str, base: &str, pattern: &str| db.dpo(&["init-step", id, "LOAD", base, pattern]);
        let both = init(&execution, "load", "**/*");
        assert!(both.stderr.contains("load/a.json and load/sub/a.csv"), "{both:?}");
        both.fails(1, "two files are the model \"a\"");
        init(&execution, "none", "*").fails(1, "the base path none cannot be read");
        init(&execution, "load/a.json", "*").fails(1, "is not a folder");
        init(&execution, "load", "a**").fails(2, "is not a glob");
        init(&execution, "load", "/etc/*").fails(2, "not under the base path");
        init(NOBODY, "load", "*.json").fails(1, &format!("there is no execution {NOBODY}"));
        init("x", "load", "*.json").fails(1, "the execution id \"x\" is not a GUID");
        db.dpo(&["init-step", &execution, "MODEL", "load", "*"]).fails(2, "expected LOAD or TRANSFORM");
        db.dpo(&["init-step", &execution, "LOAD", "load"]).fails(2, "<model-patterns>");
        assert_eq!(db.rows("SELECT count(*) FROM dpo.execution_step"), ["0"]);
        assert_eq!(db.rows("SELECT status FROM dpo.execution"), ["INITIALISED"]);
    });
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf_8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let db = Database::sqlite();
    let folder = db.write("load/a.json", "");
    std::fs::write(folder.with_file_name(std::ffi::OsStr::from_bytes(b"\xff.json")), "").unwrap();
    let execution = db.init_execution();
    db.dpo(&["init-step", &execution, "LOAD", "load", "*.json"]).fails(1, "its name is not UTF-8");
}

#[test]
fn many_models_and_names_in_any_script_come_back_as_they_are() {
    each(|db| {
        for index in 0..2_000 {
            db.write(&format!("models/m{index:04}.sql"), &index.to_string());
        }
        db.write("models/été 'quoted' \"名\".sql", "");
        let execution = db.init_execution();
        let step = db.init_step(&execution, "LOAD");
        let names = db.dpo(&["compare-step-models", &step, ""]).ok();
        assert_eq!(names.split(',').count(), 2_001);
        assert!(names.starts_with("m0000,m0001,") && names.ends_with(",été 'quoted' \"名\""));
    });
}

#[test]
fn the_retired_name_takes_the_same_arguments() {
    each(|db| {
        db.write("models/a.sql", "");
        let execution = db.init_execution();
        let step = db.dpo(&["persist-models", &execution, "load", "./models", "**/*.sql"]).ok();
        assert_eq!(db.dpo(&["compare-step-models", &step, ""]).ok(), "a");
    });
}
