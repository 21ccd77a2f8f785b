//! Names of processes and tables: the templates of a batch manifest, and the filter that they use.

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};

use super::located::{Located, Place, Value};
use crate::error::{Error, Result};

/// Steps that one template may take: more than any name needs, and an end for a loop that has none.
const FUEL: u64 = 20_000;

/// What templates see.
pub(super) struct Scope<'a> {
    pub src_schema: &'a str,
    pub src_table: &'a str,
    pub vars: &'a BTreeMap<String, String>,
    /// `source` and `sink` are taken from here.
    pub process: &'a Located,
    pub manifest: &'a Place,
}

/// Fills in one template; its mistakes have the template's place.
pub(super) fn render(key: &str, template: &Located, scope: &Scope<'_>) -> Result<String> {
    let text = template.as_str().unwrap_or_default();
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("dpone_snake", |text: &str| snake(text));
    environment.add_filter("lower", |text: &str| text.to_lowercase());
    environment.add_filter("upper", |text: &str| text.to_uppercase());
    environment.add_filter("replace", |text: &str, from: &str, to: &str| text.replace(from, to));
    environment.add_filter("trim", |text: &str| text.trim().to_owned());
    environment.add_filter(
        "default",
        |value: minijinja::Value, other: minijinja::Value| {
            if value.is_undefined() || value.is_none() { other } else { value }
        },
    );
    let path = &scope.manifest.file;
    let part =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let json = |key: &str| scope.process.get(key).map(value).unwrap_or_default();
    let values = context! {
        src_schema => scope.src_schema,
        src_table => scope.src_table,
        vars => minijinja::Value::from_pairs(scope.vars.iter().map(|(key, value)| (key.as_str(), value.as_str()))),
        env_code => scope.vars.get("env_code").map_or(minijinja::Value::UNDEFINED, |code| code.as_str().into()),
        manifest_path => path.display().to_string(),
        manifest_dir => path.parent().map(|folder| folder.display().to_string()),
        manifest_name => part(path.file_name()),
        manifest_stem => part(path.file_stem()),
        source => json("source"),
        sink => json("sink"),
    };
    environment.render_str(text, values).map(|name| name.trim().to_owned()).map_err(|error| {
        let what = match error.kind() {
            ErrorKind::UndefinedError => "names something that has no value".to_owned(),
            ErrorKind::SyntaxError => format!("is not a template: {}", error.detail().unwrap_or("syntax error")),
            ErrorKind::OutOfFuel => "does not end".to_owned(),
            other => {
                format!("cannot be filled in: {other}{}", error.detail().map(|d| format!(" ({d})")).unwrap_or_default())
            }
        };
        Error::configuration(format!("naming.{key} {what}")).at(template.at.location()).with_hint(
            "templates know src_schema, src_table, vars.*, env_code, source.*, sink.* and manifest_dir, manifest_name, \
             manifest_path, manifest_stem; vars come from the manifest and from --var",
        )
    })
}

/// A part of the process as templates see it.
fn value(node: &Located) -> minijinja::Value {
    match &node.value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(value) => (*value).into(),
        Value::Integer(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String { text, .. } => text.as_str().into(),
        Value::List(items) => items.iter().map(value).collect(),
        Value::Map(entries) => {
            // Parameters of a connection may be secret, and a name is not.
            let shown = entries.iter().filter(|entry| entry.key != "connection_id");
            minijinja::Value::from_pairs(shown.map(|entry| (entry.key.as_str(), value(&entry.value))))
        }
    }
}

/// `CamelCase`, spaces and other signs become small letters with underscores: the filter `dpone_snake`.
pub(super) fn snake(text: &str) -> String {
    let mut out = String::new();
    let mut previous: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_alphanumeric() {
            let after_small = previous.is_some_and(|p| p.is_ascii_lowercase() || p.is_ascii_digit());
            let ends_capitals =
                previous.is_some_and(|p| p.is_ascii_uppercase()) && chars.peek().is_some_and(char::is_ascii_lowercase);
            if c.is_ascii_uppercase() && (after_small || ends_capitals) && !out.ends_with('_') {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        previous = Some(c);
    }
    out.trim_end_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::snake;

    #[test]
    fn names_become_small_letters_and_underscores() {
        for (text, expected) in [
            ("OrderLines", "order_lines"),
            ("HTTPServer2Name", "http_server2_name"),
            ("  Sales Order-2024 ", "sales_order_2024"),
            ("already_snake", "already_snake"),
            ("__x__", "x"),
            ("Ünïcode", "n_code"),
            ("", ""),
        ] {
            assert_eq!(snake(text), expected, "{text}");
        }
    }
}
