//! PostgreSQL, source and sink.
//!
//! `config` and `client` reach a server, `types` is the one table of types, `read` decodes binary COPY into Arrow under
//! one exported snapshot, `write` stages and commits.

pub mod catalog;
pub mod client;
pub mod config;
pub mod dialect;
pub mod error;
#[doc(hidden)]
pub mod kernels;
mod manifest;
pub mod read;
pub mod schema;
mod state;
pub mod types;
pub mod write;

use std::sync::Arc;

use dpone_engine::{Connector, ErrorClassifier, ResolvedConnection, Result, Sink, Source};

/// The name of the system in field metadata and manifests.
pub const SYSTEM: &str = "postgres";

/// Makes sources and sinks for PostgreSQL 11 and newer.
#[derive(Debug, Default)]
pub struct PostgresConnector;

impl Connector for PostgresConnector {
    fn kinds(&self) -> &'static [&'static str] {
        &["postgres", "postgresql"]
    }

    fn options(&self) -> &'static [&'static str] {
        config::OPTIONS
    }

    fn errors(&self) -> Option<&'static ErrorClassifier> {
        Some(&error::ERRORS)
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(read::PostgresSource::new(config::PostgresConfig::new(connection)?)?))
    }

    fn sink(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Sink>> {
        let server = client::Server::new(config::PostgresConfig::new(connection)?)?;
        Ok(Arc::new(write::PostgresSink::new(server)))
    }
}
