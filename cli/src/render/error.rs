//! How an error is told: `error:` and `hint:` on stderr; with `--format json` also as a document on stdout.

use std::io::Write;

use dpone_engine::Error;
use serde_json::{Value, json};

use crate::args::Format;
use crate::output;
use crate::style::Style;

/// Reports the error that ended a command.
pub(crate) fn report(error: &Error, format: Format, style: Style) {
    tell(error, style);
    if format == Format::Json {
        // The code says that it failed, whether or not this can be written.
        let _ = output::print_json(&json!({ "error": document(error) }));
    }
}

/// One `error:` line, and one `hint:` line where there is a hint.
pub(crate) fn tell(error: &Error, style: Style) {
    let mut text = format!("{}: {}\n", style.red("error"), indented(&error.to_string()));
    if let Some(hint) = error.hint() {
        text.push_str(&format!("{}: {}\n", style.yellow("hint"), indented(hint)));
    }
    crate::progress::aside(|| {
        // Nobody is left to tell when stderr is closed.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    });
}

/// A warning that does not end the command.
pub(crate) fn warn(text: &str, style: Style) {
    crate::progress::aside(|| {
        let line = format!("{}: {}\n", style.yellow("warning"), indented(text));
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    });
}

/// A message of several lines stays one message: what follows its first line is indented.
pub(crate) fn indented(text: &str) -> String {
    super::table::visible_lines(text.trim_end()).replace('\n', "\n  ")
}

/// The error for machines.
pub(crate) fn document(error: &Error) -> Value {
    let context: serde_json::Map<String, Value> =
        error.context().iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.clone()))).collect();
    json!({
        "kind": error.kind().as_str(),
        "message": error.message(),
        "hint": error.hint(),
        "location": error.location().map(|l| json!({
            "file": l.file.display().to_string(),
            "line": l.line,
            "column": l.column,
        })),
        "context": context,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use dpone_planner::error::Location;

    #[test]
    fn a_document_has_every_part() {
        let error = Error::data_quality("column holds NULL")
            .at(Location::new("a.sql", 3, 7))
            .with("column", "id")
            .with_hint("declare a key");
        let expected = json!({
            "kind": "data_quality",
            "message": "column holds NULL",
            "hint": "declare a key",
            "location": {"file": "a.sql", "line": 3, "column": 7},
            "context": {"column": "id"},
        });
        assert_eq!(document(&error), expected);
        let bare = document(&Error::transient("x"));
        assert_eq!((bare["hint"].clone(), bare["location"].clone()), (Value::Null, Value::Null));
    }
}
