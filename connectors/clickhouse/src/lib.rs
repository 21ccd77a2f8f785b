//! ClickHouse, source and sink, over HTTP.
//!
//! `config`, `tls` and `client` reach a server, `answer` is what it says, `native` reads the rows in it,
//! `error` says what its errors ask for. `types` is the one table of types, `dialect` and `cost` are its DDL, `read` opens tables.

mod answer;
pub mod client;
pub mod config;
mod cost;
pub mod dialect;
pub mod error;
mod lease;
pub mod native;
pub mod read;
mod settings;
mod state;
mod tls;
pub mod types;
mod write;

use std::sync::Arc;

use dpone_engine::{Connector, ErrorClassifier, ResolvedConnection, Sink, Source};
use dpone_planner::Result;

pub use dialect::ClickHouseDialect;
pub use write::ClickHouseSink;

/// As in `type:` of a manifest.
pub const SYSTEM: &str = "clickhouse";

/// Makes sources and sinks for ClickHouse 24.8 and newer.
#[derive(Debug, Default)]
pub struct ClickHouseConnector;

impl Connector for ClickHouseConnector {
    fn kinds(&self) -> &'static [&'static str] {
        &["clickhouse"]
    }

    fn options(&self) -> &'static [&'static str] {
        config::OPTIONS
    }

    fn errors(&self) -> Option<&'static ErrorClassifier> {
        Some(&error::ERRORS)
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(read::ClickHouseSource::new(client::Server::new(config::ClickHouseConfig::new(connection)?)?)))
    }

    fn sink(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(ClickHouseSink::new(client::Server::new(config::ClickHouseConfig::new(connection)?)?)))
    }
}
