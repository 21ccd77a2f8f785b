//! The command line itself: exit code 2 and one line, help, logs.

use super::support::{Database, dpo};

#[test]
fn mistakes_of_the_command_line_are_one_line_and_2() {
    let folder = tempfile::tempdir().unwrap();
    let url = "postgresql://me:hunter2@127.0.0.1:1/d";
    for (arguments, words) in [
        ([].as_slice(), "a db-connection-string and a command are expected"),
        (&[url], "requires a subcommand"),
        (&["init-execution"], "<db-connection-string>"),
        (&[url, "init"], "unrecognized subcommand 'init'"),
        (&[url, url], "postgresql://***"),
        (&["init-execution", url, url], "postgresql://***"),
        (&[url, "complete-execution"], "<execution-id>"),
        (&[url, "complete-execution", "a", "b"], "unexpected argument 'b'"),
        (&[url, "init-execution", "--force"], "unexpected argument '--force'"),
        (&["-l", "LOUD", url, "init-execution"], "CRITICAL, ERROR, WARNING, INFO, DEBUG"),
    ] {
        let outcome = dpo(folder.path(), arguments);
        assert!(!outcome.stderr.contains("hunter2"), "{outcome:?}");
        outcome.fails(2, words);
    }
    dpo(folder.path(), &["sqlite:///l.db", "complete-execution", url]).fails(1, "the execution id is not a GUID");
}

#[test]
fn help_is_there_with_and_without_a_connection_string() {
    let folder = tempfile::tempdir().unwrap();
    let help = dpo(folder.path(), &["--help"]).ok();
    for command in [
        "init-execution",
        "get-last-successful-execution",
        "get-execution-completion-timestamp",
        "init-step",
        "compare-step-models",
        "complete-step",
        "complete-execution",
        "upgrade",
        "downgrade",
        "history",
        "current",
    ] {
        assert!(help.contains(command), "{command}");
        for arguments in [["sqlite:///l.db", command, "--help"].as_slice(), &[command, "-h"]] {
            assert!(dpo(folder.path(), arguments).ok().contains(&format!("dpo <db-connection-string> {command}")));
        }
    }
    for retired in ["persist-models", "compare-models", "get-execution-last-updated-timestamp"] {
        assert!(!help.contains(retired), "{retired}");
    }
    assert!(!folder.path().join("l.db").exists());
}

#[test]
fn the_level_says_how_much_is_logged_and_errors_are_told_anyway() {
    let db = Database::sqlite();
    let complete = |level: &str, flag: &str| {
        let execution = db.init_execution();
        let step = db.dpo(&["init-step", &execution, "LOAD", ".", "none"]).ok();
        assert_eq!(step.len(), 36);
        let arguments = [flag, level, &db.url, "complete-execution", &execution];
        let outcome = dpo(db.path(), &arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""));
        outcome.stderr
    };
    assert_eq!(complete("CRITICAL", "-l"), "");
    assert_eq!(complete("ERROR", "--log-level"), "");
    assert!(complete("WARNING", "-l").contains("WARNING") && !complete("WARNING", "-l").contains("INFO"));
    assert!(complete("info", "-l").contains(" - dpo - INFO - Completed Execution ID"));
    assert!(complete("DEBUG", "-l").contains(" - dpo - DEBUG - "));
    dpo(db.path(), &["-l", "CRITICAL", &db.url, "complete-execution", "x"]).fails(1, "is not a GUID");
}
