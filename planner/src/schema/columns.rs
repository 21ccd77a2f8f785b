//! Columns from a file: a JSON list of `{name, dtype, nullable, default, collation, comment, aliases}`.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use serde::Deserialize;

use super::default::DefaultValue;
use crate::dialect::Dialect;
use crate::error::{Error, Location, Result};

/// Field metadata: the column's default, in standard SQL; empty where it is declared that there is none.
pub const DEFAULT: &str = "dpone:default";
pub const COMMENT: &str = "dpone:comment";
pub const COLLATION: &str = "dpone:collation";
/// Field metadata of a source's column: the names that it had before, as a JSON list.
pub const ALIASES: &str = "dpone:aliases";

const MAX_BYTES: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(alias = "type")]
    dtype: String,
    #[serde(default = "yes")]
    nullable: bool,
    /// Absent: not declared. `null`: declared to be none.
    #[serde(default, deserialize_with = "declared")]
    default: Option<serde_json::Value>,
    collation: Option<String>,
    comment: Option<String>,
    /// Names that the column had before.
    #[serde(default)]
    aliases: Vec<String>,
}

fn yes() -> bool {
    true
}

fn declared<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

/// Reads the columns of a file's text; types are names of `dialect`'s system or logical names. Errors name the line.
pub fn read_columns(file: &Path, text: &str, dialect: &dyn Dialect) -> Result<Schema> {
    let at = |line: usize, column: usize| Location::new(file, line, column);
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; a list of columns has at most {MAX_BYTES}", text.len());
        return Err(Error::configuration(message).at(at(1, 1)));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Valid as a whole first: what follows only finds the places.
    let whole: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        let message = format!("this is not valid JSON: {}", without_place(&error));
        Error::configuration(message).at(at(error.line().max(1), error.column().max(1))).with_hint(SHAPE)
    })?;
    if !whole.is_array() {
        return Err(Error::configuration("expected a list of columns").at(at(1, 1)).with_hint(SHAPE));
    }
    let mut fields: Vec<Field> = Vec::new();
    for start in elements(text) {
        let (line, column) = line_and_column(text, start);
        let mut values = serde_json::Deserializer::from_str(&text[start..]);
        let entry = Entry::deserialize(&mut values).map_err(|error| {
            let behind = error.line().saturating_sub(1);
            let place = if behind == 0 { at(line, column) } else { at(line + behind, error.column().max(1)) };
            Error::configuration(without_place(&error)).at(place).with_hint(SHAPE)
        })?;
        let field = field(&entry, dialect).map_err(|error| error.at(at(line, column)))?;
        if fields.iter().any(|other| other.name() == field.name()) {
            let message = format!("two columns have the name {:?}", field.name());
            return Err(Error::configuration(message).at(at(line, column)));
        }
        fields.push(field);
    }
    Ok(Schema::new(fields))
}

const SHAPE: &str = "a column is {\"name\": \"id\", \"dtype\": \"bigint\", \"nullable\": false}; `default`, `collation`, \
                     `comment` and `aliases` may be added";

fn field(entry: &Entry, dialect: &dyn Dialect) -> Result<Field> {
    if entry.name.is_empty() {
        return Err(Error::configuration("a column has no name").with_hint(SHAPE));
    }
    let parsed = dialect.parse_type(&entry.name, &entry.dtype)?.with_nullable(entry.nullable);
    let mut metadata = parsed.metadata().clone();
    if let Some(default) = &entry.default {
        use serde_json::Value;
        let text = match default {
            Value::Null => String::new(),
            Value::String(text) => DefaultValue::parse(&entry.name, text)?.sql(),
            Value::Bool(_) | Value::Number(_) => DefaultValue::parse(&entry.name, &default.to_string())?.sql(),
            Value::Array(_) | Value::Object(_) => {
                return Err(Error::configuration(format!(
                    "column {:?}: the default is a number, true, false, null, or a text of SQL",
                    entry.name
                )));
            }
        };
        metadata.insert(DEFAULT.to_owned(), if text == "NULL" { String::new() } else { text });
    }
    let texts = [(COLLATION, &entry.collation), (COMMENT, &entry.comment)];
    metadata.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.clone()?))));
    if !entry.aliases.is_empty() {
        metadata.insert(ALIASES.to_owned(), serde_json::Value::from(entry.aliases.clone()).to_string());
    }
    Ok(parsed.with_metadata(metadata))
}

/// The names that a source's column had before.
pub(super) fn aliases(field: &Field) -> Vec<String> {
    field.metadata().get(ALIASES).and_then(|names| serde_json::from_str(names).ok()).unwrap_or_default()
}

/// The field, declared to have had these names before.
pub fn with_aliases(field: &Field, names: &[String]) -> Arc<Field> {
    let mut metadata = field.metadata().clone();
    let all = [aliases(field), names.to_vec()].concat();
    metadata.insert(ALIASES.to_owned(), serde_json::Value::from(all).to_string());
    Arc::new(field.clone().with_metadata(metadata))
}

/// Byte offsets of the elements of a list that is known to be valid.
fn elements(text: &str) -> Vec<usize> {
    let (mut starts, mut depth, mut in_text, mut escaped, mut waiting) = (Vec::new(), 0_usize, false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        if waiting && depth == 1 && !byte.is_ascii_whitespace() && byte != b']' {
            starts.push(at);
            waiting = false;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                depth += 1;
                waiting |= depth == 1;
            }
            b']' | b'}' => depth -= 1,
            b',' if depth == 1 => waiting = true,
            _ => {}
        }
    }
    starts
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// serde_json ends its messages with the place, which stands before ours.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}
