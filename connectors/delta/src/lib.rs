//! Delta Lake, source and sink: the embedded default.
//!
//! A table is a folder `<path>/<schema>/<name>/` of Parquet files and a log. We write the Parquet files ourselves, into
//! the table's folder, where nobody sees them; a commit is one entry in the log that names them, so a reader sees one
//! version or the next and nothing between. State, receipts and leases lie beside the log, in `_dpone`, and become
//! valid by a `txn` action of the same log entry. See `docs/connectors/delta.md`.

mod commit;
mod config;
mod dialect;
mod error;
mod evolve;
mod lease;
mod names;
mod orphan;
mod provider;
mod read;
mod rewrite;
mod stage;
mod state;
mod stats;
mod table;
mod types;
mod write;

use std::sync::Arc;

use dpone_engine::{Connector, ErrorClassifier, ResolvedConnection, Result, Sink, Source};

use config::Warehouse;
pub use dialect::DeltaDialect;

/// `type: delta`
#[derive(Debug, Clone, Copy, Default)]
pub struct DeltaConnector;

impl Connector for DeltaConnector {
    fn kinds(&self) -> &'static [&'static str] {
        &["delta"]
    }

    fn options(&self) -> &'static [&'static str] {
        config::OPTIONS
    }

    fn errors(&self) -> Option<&'static ErrorClassifier> {
        Some(&error::ERRORS)
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(read::DeltaSource { warehouse: Warehouse::open(connection)? }))
    }

    fn sink(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(write::DeltaSink::new(Warehouse::open(connection)?)))
    }
}
