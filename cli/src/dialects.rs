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
    Mssql,
    #[value(name = "clickhouse")]
    ClickHouse,
    #[value(name = "bigquery")]
    BigQuery,
    Delta,
    Kafka,
}

impl System {
    /// What columns in files are taken for where nothing else is said.
    pub(crate) fn default_for_files() -> Self {
        Self::Mssql
    }

    pub(crate) fn dialect(self) -> Arc<dyn Dialect> {
        match self {
            Self::Postgres => Arc::new(dpone_postgres::dialect::PostgresDialect),
            Self::Mssql => Arc::new(dpone_mssql::MssqlDialect),
            Self::ClickHouse => Arc::new(dpone_clickhouse::ClickHouseDialect),
            Self::BigQuery => Arc::new(dpone_bigquery::BigQueryDialect),
            Self::Delta => Arc::new(dpone_delta::DeltaDialect),
            Self::Kafka => Arc::new(dpone_kafka::KafkaDialect::default()),
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
            // The product's year, or the number that the server itself gives.
            (Self::Mssql, Some([year])) if (2000..2100).contains(year) => Some(*year),
            (Self::Mssql, Some([major, ..])) => {
                let years = [(11, 2012), (12, 2014), (13, 2016), (14, 2017), (15, 2019), (16, 2022), (17, 2025)];
                years.iter().find(|(number, _)| number == major).map(|(_, year)| *year)
            }
            (Self::ClickHouse, Some([year, month, ..])) if (18..100).contains(year) && (1..=12).contains(month) => {
                Some(year * 100 + month)
            }
            (Self::Delta, Some([version, ..])) => Some(*version),
            _ => None,
        };
        number.ok_or_else(|| {
            let hint = match self {
                Self::Postgres => "write 15 or 15.4",
                Self::Mssql => "write the year, such as 2019, or 15.0",
                Self::ClickHouse => "write year and month, such as 25.8",
                Self::BigQuery | Self::Kafka => "the system has no versions that change what a statement costs",
                Self::Delta => "write the version of the protocol",
            };
            Error::configuration(format!("--server-version {text:?} is not a version of the system")).with_hint(hint)
        })
    }
}
