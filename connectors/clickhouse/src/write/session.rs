//! The statements of a sink: sent, retried where that is safe, and read as text.

use std::time::Duration;

use dpone_engine::{Error, Relation, Result};
use serde_json::Value;

use super::encode::Block;
use super::names::relation;
use crate::client::{Server, Statement};
use crate::error::code_of;
use crate::settings::OURS;

pub(crate) const TABLE_ALREADY_EXISTS: i32 = 57;
const UNKNOWN_TABLE: i32 = 60;
const UNKNOWN_DATABASE: i32 = 81;

/// How often data is sent again that a token keeps from being there twice.
const SENDS: u32 = 5;

/// One server, as the sink speaks to it.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) server: Server,
}

/// The server's code of an error.
pub(crate) fn code(error: &Error) -> Option<i32> {
    code_of(error).and_then(|code| i32::try_from(code).ok())
}

/// Whether a table or its database is not there.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(code(error), Some(UNKNOWN_TABLE | UNKNOWN_DATABASE))
}

/// What a statement finds in tables that may not exist yet.
pub(crate) fn or_nothing<T: Default>(found: Result<T>) -> Result<T> {
    match found {
        Err(error) if is_missing(&error) => Ok(T::default()),
        other => other,
    }
}

/// A statement of ours, under the settings that it was written for.
fn statement(sql: &str) -> Statement {
    OURS.iter().fold(Statement::new(sql), |statement, (name, value)| statement.setting(name, value))
}

impl Session {
    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        let mut statement = statement(sql);
        if sql.starts_with("CREATE TABLE") {
            // Types that a server advises against were chosen by whoever made the table that is copied.
            for setting in ["allow_suspicious_low_cardinality_types", "allow_suspicious_fixed_string_types"] {
                statement = statement.setting(setting, "1");
            }
        }
        self.server.run(statement).await.map(|_| ())
    }

    /// Runs what may take long, with settings: mutations, and inserts that read.
    pub(crate) async fn run_long(&self, sql: &str, settings: &[(&str, &str)]) -> Result<()> {
        let statement = settings.iter().fold(statement(sql).patient(), |s, (name, value)| s.setting(name, value));
        self.server.run(statement).await.map(|_| ())
    }

    /// `INSERT INTO … SELECT …`: a NULL where none may be is an error, not a zero.
    pub(crate) async fn insert_select(&self, sql: &str) -> Result<()> {
        let settings = [
            ("insert_null_as_default", "0"),
            ("max_partitions_per_insert_block", "0"),
            ("async_insert", "0"),
            ("optimize_on_insert", "0"),
        ];
        self.run_long(sql, &settings).await
    }

    /// Rows of texts: numbers are to be selected as such.
    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.server.rows(statement(sql).patient()).await
    }

    pub(crate) async fn scalar(&self, sql: &str) -> Result<Option<String>> {
        Ok(self.rows(sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// The number that `toString(…)` gives.
    pub(crate) async fn number(&self, sql: &str) -> Result<u64> {
        let text = self.scalar(sql).await?.unwrap_or_default();
        text.parse().map_err(|_| Error::internal("a count of the server is no number"))
    }

    pub(crate) async fn count(&self, from: &str) -> Result<u64> {
        self.number(&format!("SELECT toString(count()) FROM {from}")).await
    }

    /// Adds one row to a table of ours. Written again after a lost answer, the newer copy replaces the older.
    pub(crate) async fn put(&self, table: &Relation, row: &Value) -> Result<()> {
        let columns: Vec<&str> = row.as_object().into_iter().flat_map(|row| row.keys().map(String::as_str)).collect();
        let sql = format!(
            "INSERT INTO {} ({}) FORMAT JSONEachRow",
            relation(table),
            super::names::list(columns.iter().copied())
        );
        self.send(&sql, &[("async_insert", "0".to_owned())], vec![row.to_string().into()]).await
    }

    /// Sends data, again when the answer did not come. Only where the data is not there twice after that.
    pub(crate) async fn send(&self, sql: &str, settings: &[(&str, String)], data: Block) -> Result<()> {
        let mut pause = Duration::from_millis(100);
        let mut attempt = 1;
        loop {
            let statement = settings.iter().fold(statement(sql).patient(), |s, (name, value)| s.setting(name, value));
            let pieces = data.clone().into_iter().map(Ok);
            match self.server.insert(statement, futures::stream::iter(pieces)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() && attempt < SENDS => {
                    tracing::debug!(%error, attempt, "the data is sent again");
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
