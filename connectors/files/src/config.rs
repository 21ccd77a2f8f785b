//! The options of a file connection, read and checked.

use std::collections::BTreeMap;

use dpone_engine::{Error, ResolvedConnection, Result};

use crate::csv::{Nulls, Syntax};

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    Csv,
    Ndjson,
    Parquet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// How text files are read.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct TextOptions {
    pub(crate) format: Format,
    pub(crate) compression: Option<Compression>,
    pub(crate) header: bool,
    pub(crate) syntax: Syntax,
    pub(crate) nulls: Nulls,
    /// Rows that inference looks at; `None`: all.
    pub(crate) infer_rows: Option<usize>,
}

/// The options of a source connection.
#[derive(Debug, Clone)]
pub(crate) struct SourceOptions {
    /// By extension when absent.
    pub(crate) format: Option<Format>,
    pub(crate) text: TextOptions,
    pub(crate) delimiter_given: bool,
    /// Declared columns in order, with their logical types.
    pub(crate) columns: Vec<(String, String)>,
}

pub(crate) const SOURCE_OPTIONS: &[&str] = &[
    "path",
    "format",
    "header",
    "delimiter",
    "quote",
    "escape",
    "comment",
    "null_values",
    "infer_rows",
    "compression",
    "encoding",
    "on_bad_row",
    "columns",
];

impl SourceOptions {
    pub(crate) fn of(connection: &ResolvedConnection) -> Result<Self> {
        let refuse = |key: &str, expected: &str| {
            Error::configuration(format!("connection {:?}: option {key:?} is not {expected}", connection.name))
        };
        let format = match connection.get("format").map(str::trim) {
            None => None,
            Some("csv" | "tsv") => Some(Format::Csv),
            Some("ndjson" | "jsonl" | "json") => Some(Format::Ndjson),
            Some("parquet") => Some(Format::Parquet),
            Some(_) => return Err(refuse("format", "csv, ndjson or parquet")),
        };
        // In a sink's connection this option is about writing.
        let compression = connection.get("compression").filter(|_| connection.kind == "file");
        let compression = match compression.map(str::trim) {
            None | Some("auto") => None,
            Some("none") => Some(Compression::None),
            Some("gzip" | "gz") => Some(Compression::Gzip),
            Some("zstd" | "zst") => Some(Compression::Zstd),
            Some(_) => return Err(refuse("compression", "gzip, zstd or none")),
        };
        let infer_rows = match connection.get("infer_rows").map(str::trim) {
            None => Some(10_000),
            Some("all") => None,
            Some(text) => match text.parse() {
                Ok(rows) if rows > 0 => Some(rows),
                _ => return Err(refuse("infer_rows", "a number of rows, or all")),
            },
        };
        if connection.get("encoding").is_some_and(|e| !["utf-8", "utf8"].contains(&e.to_ascii_lowercase().as_str())) {
            return Err(refuse("encoding", "utf-8").with_hint("convert the file to UTF-8, for example with iconv"));
        }
        if connection.get("on_bad_row").is_some_and(|p| p != "fail") {
            return Err(refuse("on_bad_row", "fail, which is the only policy that is supported"));
        }
        let default = Syntax::default();
        let tabs = connection.get("format").map(str::trim) == Some("tsv");
        let syntax = Syntax {
            delimiter: match byte(connection, "delimiter")? {
                Choice::Absent if tabs => b'\t',
                Choice::Absent => default.delimiter,
                Choice::None => return Err(refuse("delimiter", "one character")),
                Choice::Byte(b) => b,
            },
            quote: byte(connection, "quote")?.or(default.quote),
            escape: byte(connection, "escape")?.or(default.escape),
            comment: byte(connection, "comment")?.or(default.comment),
        };
        let header = match connection.get("header").map(|h| h.trim().to_ascii_lowercase()).as_deref() {
            None | Some("true" | "yes" | "on" | "1") => true,
            Some("false" | "no" | "off" | "0") => false,
            Some(_) => return Err(refuse("header", "true or false")),
        };
        let nulls = Nulls { markers: connection.get("null_values").map(list).unwrap_or_default() };
        Ok(Self {
            format,
            text: TextOptions { format: format.unwrap_or(Format::Csv), compression, header, syntax, nulls, infer_rows },
            delimiter_given: tabs || connection.get("delimiter").is_some(),
            columns: match connection.get("columns") {
                None => Vec::new(),
                Some(text) => {
                    columns(text).ok_or_else(|| refuse("columns", "a JSON list of {\"name\": …, \"type\": …}"))?
                }
            },
        })
    }
}

enum Choice {
    Absent,
    None,
    Byte(u8),
}

impl Choice {
    fn or(self, default: Option<u8>) -> Option<u8> {
        match self {
            Self::Absent => default,
            Self::None => None,
            Self::Byte(b) => Some(b),
        }
    }
}

fn byte(connection: &ResolvedConnection, key: &str) -> Result<Choice> {
    let Some(text) = connection.get(key) else { return Ok(Choice::Absent) };
    match text {
        "none" | "" => Ok(Choice::None),
        "\\t" | "tab" => Ok(Choice::Byte(b'\t')),
        _ => match text.as_bytes() {
            [b'\n' | b'\r'] => Err(()),
            [b] if b.is_ascii() => Ok(Choice::Byte(*b)),
            _ => Err(()),
        }
        .map_err(|()| {
            Error::configuration(format!("connection {:?}: option {key:?} is not one ASCII character", connection.name))
                .with_hint("\\t or tab means a tab")
        }),
    }
}

/// A JSON list of strings, or words between commas.
fn list(text: &str) -> Vec<String> {
    if let Ok(serde_json::Value::Array(items)) = serde_json::from_str(text) {
        let text = |item: serde_json::Value| match item {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        return items.into_iter().map(text).collect();
    }
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn columns(text: &str) -> Option<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Column {
        name: String,
        #[serde(rename = "type")]
        data_type: String,
    }
    if let Ok(list) = serde_json::from_str::<Vec<Column>>(text) {
        return Some(list.into_iter().map(|c| (c.name, c.data_type)).collect());
    }
    serde_json::from_str::<BTreeMap<String, String>>(text).ok().map(|map| map.into_iter().collect())
}

/// Format and compression by a file's name.
pub(crate) fn by_extension(name: &str) -> (Option<Format>, Compression, bool) {
    let lower = name.to_ascii_lowercase();
    let (stem, compression) = if let Some(stem) = lower.strip_suffix(".gz") {
        (stem, Compression::Gzip)
    } else if let Some(stem) = lower.strip_suffix(".zst").or_else(|| lower.strip_suffix(".zstd")) {
        (stem, Compression::Zstd)
    } else {
        (lower.as_str(), Compression::None)
    };
    let (format, tabs) = match stem.rsplit_once('.').map(|(_, extension)| extension) {
        Some("csv") => (Some(Format::Csv), false),
        Some("tsv") => (Some(Format::Csv), true),
        Some("ndjson" | "jsonl" | "json") => (Some(Format::Ndjson), false),
        Some("parquet") => (Some(Format::Parquet), false),
        _ => (None, false),
    };
    (format, compression, tabs)
}

/// A file's name without the extensions that say format and compression.
pub(crate) fn stem(name: &str) -> Option<&str> {
    by_extension(name).0?;
    let lower = name.to_ascii_lowercase();
    let without = [".gz", ".zst", ".zstd"].iter().find_map(|e| lower.strip_suffix(e)).unwrap_or(&lower);
    without.rfind('.').map(|point| &name[..point])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_format_and_compression() {
        assert_eq!(by_extension("a.CSV.gz"), (Some(Format::Csv), Compression::Gzip, false));
        assert_eq!(by_extension("a.tsv"), (Some(Format::Csv), Compression::None, true));
        assert_eq!(by_extension("a.jsonl.zst"), (Some(Format::Ndjson), Compression::Zstd, false));
        assert_eq!(by_extension("a.txt"), (None, Compression::None, false));
        assert_eq!(stem("flights.2013.csv.gz"), Some("flights.2013"));
        assert_eq!(stem("notes.txt"), None);
    }

    #[test]
    fn lists_are_json_or_words() {
        assert_eq!(list("NA, N/A"), ["NA", "N/A"]);
        assert_eq!(list(r#"["NA", ",", ""]"#), ["NA", ",", ""]);
    }
}
