//! CSV, NDJSON and Parquet: source; Parquet and CSV: sink.

mod config;
mod csv;
mod decode;
mod location;
mod ndjson;
mod parquet_table;
mod scan;
mod sink;
mod source;
mod text_table;

use std::sync::Arc;

use dpone_engine::{Connector, Error, ResolvedConnection, Result, Sink, Source};

use config::{Format, SOURCE_OPTIONS};
use location::STORE_OPTIONS;
use sink::{FileSink, SINK_OPTIONS};
use source::{FileSource, Layout};

/// The connector of `file` (read), `parquet` and `csv` (written, and read back as tables).
#[derive(Debug)]
pub struct FilesConnector {
    options: Vec<&'static str>,
}

impl Default for FilesConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl FilesConnector {
    pub fn new() -> Self {
        let mut options = [SOURCE_OPTIONS, SINK_OPTIONS, STORE_OPTIONS].concat();
        options.sort_unstable();
        options.dedup();
        Self { options }
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
        const ALL: &[&str] = &[];
        let _ = &self.options;
        ALL
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>> {
        let layout = table_format(connection).map_or(Layout::Files, Layout::Tables);
        Ok(Arc::new(FileSource::new(connection, layout)?))
    }

    fn sink(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Sink>> {
        let format = table_format(connection).ok_or_else(|| {
            Error::configuration(format!("connection {:?} has the type file, which is only read", connection.name))
                .with_hint("to write files, use the type parquet or csv")
        })?;
        Ok(Arc::new(FileSink::new(connection, format)?))
    }
}
