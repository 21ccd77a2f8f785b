use std::path::Path;

use super::super::*;
use super::{Plain, columns};

fn refused(json: &str) -> (String, usize) {
    let error = read_columns(Path::new("columns.json"), json, &Plain::default()).unwrap_err();
    (error.message().to_owned(), error.location().map_or(0, |l| l.line))
}

#[test]
fn a_column_has_a_name_a_type_and_what_else_is_known() {
    let schema = columns(
        r#"[{"name": "id", "dtype": "bigint", "nullable": false},
            {"name": "s", "type": "text", "default": "'new'", "collation": "de_DE", "comment": "state", "aliases": ["t"]},
            {"name": "n", "dtype": "integer", "default": 0}, {"name": "x", "dtype": "integer", "default": null}]"#,
    );
    assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
    let said = |at: usize, key: &str| schema.field(at).metadata().get(key).cloned();
    assert_eq!(said(1, DEFAULT).as_deref(), Some("'new'"));
    assert_eq!(said(1, COLLATION).as_deref(), Some("de_DE"));
    assert_eq!(said(1, COMMENT).as_deref(), Some("state"));
    assert_eq!(said(2, DEFAULT).as_deref(), Some("0"));
    assert_eq!(said(3, DEFAULT).as_deref(), Some(""), "declared to have none");
    assert_eq!(said(0, DEFAULT), None, "not declared");
}

#[test]
fn a_wrong_file_is_told_with_its_line() {
    let cases = [
        ("[\n{\"name\": \"id\",,}]", 2, "not valid JSON"),
        ("{\"name\": \"id\"}", 1, "expected a list"),
        ("[\n {\"name\": \"a\", \"dtype\": \"text\"},\n {\"name\": \"b\"}\n]", 3, "missing field `dtype`"),
        (
            "[{\"name\": \"a\", \"dtype\": \"text\"},\n\n {\"name\": \"b\", \"dtype\": \"tekst\"}]",
            3,
            "\"tekst\" is not a type",
        ),
        ("[{\"name\": \"a\", \"dtype\": \"text\"},\n{\"name\": \"a\", \"dtype\": \"text\"}]", 2, "two columns"),
        ("[{\"name\": \"a\",\n \"dtype\": \"text\",\n \"nullabel\": true}]", 3, "unknown field `nullabel`"),
        ("[{\"name\": \"\", \"dtype\": \"text\"}]", 1, "no name"),
        ("[\n{\"name\": \"a\", \"dtype\": \"text\", \"default\": \"new\"}]", 2, "the default is not"),
        ("[\n{\"name\": \"a\", \"dtype\": \"text\", \"nullable\": \"yes\"}]", 2, "invalid type"),
        ("[\n\"a\"]", 2, "invalid type"),
    ];
    for (json, line, message) in cases {
        let (said, at) = refused(json);
        assert!(said.contains(message), "{json}: {said}");
        assert_eq!(at, line, "{json}: {said}");
    }
    assert!(columns("[]").fields().is_empty());
}

#[test]
fn brackets_and_quotes_in_texts_do_not_move_the_lines() {
    let (_, line) = refused("[{\"name\": \"a]}\\\"[,\", \"dtype\": \"text\"},\n{\"name\": \"b\", \"dtype\": \"x\"}]");
    assert_eq!(line, 2);
}
