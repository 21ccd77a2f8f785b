//! Shared by the tests of the dialects: the grammar of a system as others know it, and names that try to be more.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// A Python with the packages of `scripts/setup-tests`.
pub(crate) fn python() -> Command {
    let home = std::env::var("HOME").unwrap_or_default();
    let program = std::env::var("DPONE_TEST_PYTHON").unwrap_or_else(|_| format!("{home}/.cache/dpone/venv/bin/python"));
    Command::new(program)
}

/// Runs a script of `tests/python` on a document, and reads the document that it prints.
pub(crate) fn run(script: &str, asked: &Value) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|folder| folder.join("tests/python").is_dir());
    let script = root.unwrap().join("tests/python").join(script);
    let script = script.display();
    let mut child =
        python().arg(script.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("no Python for {script}: {error}: run scripts/setup-tests, or set DPONE_TEST_PYTHON")
        });
    child.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} failed: run scripts/setup-tests");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Fails where a statement is not of the dialect's grammar.
pub(crate) fn assert_parses(dialect: &str, statements: &[String]) {
    assert!(!statements.is_empty());
    let refused = run("parse_sql.py", &json!({"dialect": dialect, "statements": statements}));
    assert_eq!(refused, json!([]), "{refused:#}");
}

/// Names that end a quotation, a statement, or the patience of a server.
pub(crate) const HOSTILE: &[&str] = &[
    "select",
    "a b",
    "a\"b",
    "a'b",
    "a]b",
    "]]",
    "a`b",
    "a\\",
    "\\`",
    "a;drop table t;--",
    "/*",
    "名前",
    "a\nb",
    "é",
    "[",
    "a.b",
    "{x}",
    "%s",
    "$1",
    "dröp",
    "😀",
];
