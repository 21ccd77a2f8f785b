//! CSV, NDJSON and Parquet: source; Parquet and CSV: sink.

mod config;
mod csv;
mod decode;
#[doc(hidden)]
pub mod kernels;
mod location;
mod ndjson;
mod parquet_table;
mod scan;
mod sink;
mod source;
mod text_table;

use std::sync::{Arc, LazyLock};

use dpone_engine::{Connector, Error, ErrorClassifier, ResolvedConnection, Result, Sink, Source};

use config::{Format, SOURCE_OPTIONS};
use location::STORE_OPTIONS;
use sink::{FileSink, SINK_OPTIONS};
use source::{FileSource, Layout};

/// The connector of `file` (read), `parquet` and `csv` (written, and read back as tables).
#[derive(Debug, Clone, Copy, Default)]
pub struct FilesConnector;

static OPTIONS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut options = [SOURCE_OPTIONS, SINK_OPTIONS, STORE_OPTIONS].concat();
    options.sort_unstable();
    options.dedup();
    options
});

/// The options are known for all kinds together; each kind has its own.
fn check_options(connection: &ResolvedConnection) -> Result<()> {
    let own: &[&str] = match connection.kind.as_str() {
        "parquet" => &["path", "compression", "row_group_rows"],
        "csv" => &["path", "compression", "delimiter", "header", "null_marker"],
        _ => SOURCE_OPTIONS,
    };
    match connection.options.keys().find(|k| !own.contains(&k.as_str()) && !STORE_OPTIONS.contains(&k.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::configuration(format!(
            "connection {:?}: a {} connection has no option {key:?}",
            connection.name, connection.kind
        ))
        .with_hint(format!("its options are {}, and those of object stores", own.join(", ")))),
    }
}

/// The format of a table's files, or `None` for a `file` connection.
fn table_format(connection: &ResolvedConnection) -> Option<Format> {
    match connection.kind.as_str() {
        "parquet" => Some(Format::Parquet),
        "csv" => Some(Format::Csv),
        _ => None,
    }
}

impl Connector for FilesConnector {
    fn kinds(&self) -> &'static [&'static str] {
        &["file", "parquet", "csv"]
    }

    fn options(&self) -> &'static [&'static str] {
        &OPTIONS
    }

    fn errors(&self) -> Option<&'static ErrorClassifier> {
        Some(&location::ERRORS)
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>> {
        check_options(connection)?;
        let layout = table_format(connection).map_or(Layout::Files, Layout::Tables);
        Ok(Arc::new(FileSource::new(connection, layout)?))
    }

    fn sink(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Sink>> {
        check_options(connection)?;
        let format = table_format(connection).ok_or_else(|| {
            Error::configuration(format!("connection {:?} has the type file, which is only read", connection.name))
                .with_hint("to write files, use the type parquet or csv")
        })?;
        Ok(Arc::new(FileSink::new(connection, format)?))
    }
}
