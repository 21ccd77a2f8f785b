//! How tables are written: the options of a sink connection, and those of one load on top of them.

use std::collections::BTreeMap;

use dpone_engine::{Error, ResolvedConnection, Result};
use dpone_planner::definition::nearest;

use crate::config::Format;

pub(crate) const SINK_OPTIONS: &[&str] = &["compression", "row_group_rows", "delimiter", "header", "null_marker"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    None,
    Snappy,
    Gzip,
    Zstd(i32),
}

/// How the CSV files of a table are written. Kept with the table: all its files are alike, and read back so.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct CsvLayout {
    pub(crate) delimiter: u8,
    pub(crate) header: bool,
    /// What NULL is written as; empty: an empty field, without quotes.
    pub(crate) null_marker: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) format: Format,
    pub(crate) codec: Codec,
    pub(crate) row_group_rows: usize,
    pub(crate) csv: CsvLayout,
}

impl WriteOptions {
    pub(crate) fn of(connection: &ResolvedConnection, format: Format) -> Result<Self> {
        let defaults = Self {
            format,
            codec: if format == Format::Parquet { Codec::Zstd(1) } else { Codec::None },
            row_group_rows: 1 << 20,
            csv: CsvLayout { delimiter: b',', header: true, null_marker: String::new() },
        };
        let given = SINK_OPTIONS.iter().filter_map(|k| connection.get(k).map(|v| ((*k).to_owned(), v.to_owned())));
        defaults.with(&given.collect()).map_err(|e| e.with("connection", &connection.name))
    }

    /// These options with those of a load.
    pub(crate) fn with(mut self, options: &BTreeMap<String, String>) -> Result<Self> {
        let csv = self.format == Format::Csv;
        for (key, value) in options {
            let text = value.trim();
            let known = match key.as_str() {
                "compression" => codec(self.format, text).map(|codec| self.codec = codec),
                "row_group_rows" if !csv => {
                    text.parse().ok().filter(|rows| *rows > 0).map(|rows| self.row_group_rows = rows)
                }
                "delimiter" if csv => match (text, value.as_bytes()) {
                    ("\\t" | "tab", _) => Some(b'\t'),
                    (_, [b]) if b.is_ascii() && !matches!(b, b'\n' | b'\r' | b'"') => Some(*b),
                    _ => None,
                }
                .map(|delimiter| self.csv.delimiter = delimiter),
                "header" if csv => text.to_ascii_lowercase().parse().ok().map(|header| self.csv.header = header),
                "null_marker" if csv => {
                    self.csv.null_marker = value.clone();
                    Some(())
                }
                _ => {
                    let near = nearest(key, SINK_OPTIONS.iter().copied());
                    let kind = if csv { "csv" } else { "parquet" };
                    return Err(Error::configuration(format!("a {kind} sink has no option {key:?}")).with_hint(
                        match near.filter(|n| n != key) {
                            Some(near) => format!("did you mean {near:?}?"),
                            None if csv => "options are compression, delimiter, header and null_marker".to_owned(),
                            None => "options are compression and row_group_rows".to_owned(),
                        },
                    ));
                }
            };
            known.ok_or_else(|| {
                let expected = match (key.as_str(), csv) {
                    ("compression", true) => "gzip, zstd or none",
                    ("compression", false) => "zstd, zstd(1) to zstd(22), snappy, gzip or none",
                    ("row_group_rows", _) => "a number of rows",
                    ("header", _) => "true or false",
                    _ => "one ASCII character",
                };
                Error::configuration(format!("sink option {key:?} is not {expected}"))
            })?;
        }
        Ok(self)
    }

    /// What files of the table end in.
    pub(crate) fn extension(&self) -> &'static str {
        match (self.format, self.codec) {
            (Format::Parquet, _) => "parquet",
            (_, Codec::Gzip) => "csv.gz",
            (_, Codec::Zstd(_)) => "csv.zst",
            _ => "csv",
        }
    }
}

fn codec(format: Format, text: &str) -> Option<Codec> {
    let level = text.strip_prefix("zstd(").and_then(|rest| rest.strip_suffix(')'));
    match text {
        "none" | "uncompressed" => Some(Codec::None),
        "snappy" if format == Format::Parquet => Some(Codec::Snappy),
        "gzip" | "gz" => Some(Codec::Gzip),
        "zstd" | "zst" => Some(Codec::Zstd(1)),
        _ => level?.trim().parse().ok().filter(|level| (1..=22).contains(level)).map(Codec::Zstd),
    }
}
