//! The dialects by name, for commands that work without a connection.

use std::sync::Arc;

use clap::ValueEnum;
use dpone_engine::{Error, Result};
use dpone_planner::dialect::Dialect;

/// A system whose DDL can be planned offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum System {
    Postgres,
    Delta,
}

impl System {
    /// What columns in files are taken for where nothing else is said.
    pub(crate) fn default_for_files() -> Self {
        Self::Postgres
    }

    pub(crate) fn dialect(self) -> Arc<dyn Dialect> {
        match self {
            Self::Postgres => Arc::new(dpone_postgres::dialect::PostgresDialect),
            Self::Delta => Arc::new(dpone_delta::DeltaDialect),
        }
    }

    /// A version as people write it, as the number that the facts of the system carry.
    pub(crate) fn version(self, text: &str) -> Result<u32> {
        let parts: Option<Vec<u32>> = text.split('.').map(|part| part.trim().parse().ok()).collect();
        let number = match (self, parts.as_deref()) {
            (Self::Postgres, Some([major])) if (9..100).contains(major) => Some(major * 10_000),
            (Self::Postgres, Some([major, minor])) if (9..100).contains(major) && *minor < 10_000 => {
                Some(major * 10_000 + minor)
            }
            (Self::Delta, Some([version, ..])) => Some(*version),
            _ => None,
        };
        number.ok_or_else(|| {
            Error::configuration(format!("--server-version {text:?} is not a version of the system"))
                .with_hint("write 15 or 15.4 for PostgreSQL")
        })
    }
}
