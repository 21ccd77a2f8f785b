//! What `dpone run` adds to executions and steps: one row for each pipeline of an execution, with what it was made of, how
//! it ended and what it did.
//!
//! The table stands beside those of the original tool, outside its revisions: that tool goes on without seeing it.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::names::StepName;

/// How far a pipeline is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunState {
    /// Begun. Where the process is gone, it was killed.
    #[default]
    Running,
    Succeeded,
    Failed,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        [Self::Running, Self::Succeeded, Self::Failed].into_iter().find(|state| state.as_str() == text).ok_or_else(
            || {
                Error::database(format!("the ledger holds a run with the status {text:?}"))
                    .with_hint("a later version of dpone may have written it")
            },
        )
    }
}

/// One pipeline of an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    pub execution: Uuid,
    pub pipeline: String,
    pub run_id: String,
    pub step: StepName,
    pub state: RunState,
    /// Of the pipeline's definition and of all that it reads from.
    pub digest: String,
    pub strategy: String,
    pub source: String,
    pub target: String,
    /// Where it ran.
    pub host: String,
    /// ISO 8601, UTC, microseconds.
    pub started_on: String,
    pub completed_on: Option<String>,
    pub rows_read: i64,
    pub rows_inserted: i64,
    pub rows_updated: i64,
    pub rows_deleted: i64,
    pub bytes: i64,
    pub attempts: i64,
    pub error_class: Option<String>,
    pub error_message: Option<String>,
}

/// Digest by pipeline.
pub type Successes = BTreeMap<String, String>;

pub(crate) const COLUMNS: [&str; 20] = [
    "execution_id",
    "pipeline",
    "run_id",
    "step_name",
    "status",
    "digest",
    "strategy",
    "source",
    "target",
    "host",
    "started_on",
    "completed_on",
    "rows_read",
    "rows_inserted",
    "rows_updated",
    "rows_deleted",
    "bytes",
    "attempts",
    "error_class",
    "error_message",
];

/// Times are texts of one form on both databases, so that their order is that of time.
pub(crate) fn create(table: &str, id: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (\
         execution_id {id} NOT NULL, pipeline text NOT NULL, run_id text NOT NULL, step_name text NOT NULL, \
         status text NOT NULL, digest text NOT NULL, strategy text NOT NULL, source text NOT NULL, target text NOT NULL, \
         host text NOT NULL, started_on text NOT NULL, completed_on text, rows_read bigint NOT NULL, \
         rows_inserted bigint NOT NULL, rows_updated bigint NOT NULL, rows_deleted bigint NOT NULL, bytes bigint NOT NULL, \
         attempts bigint NOT NULL, error_class text, error_message text, PRIMARY KEY (execution_id, pipeline))"
    )
}

/// Of each pipeline, the digest of the newest success.
pub(crate) fn successes(table: &str) -> String {
    format!(
        "SELECT pipeline, digest FROM (SELECT pipeline, digest, row_number() OVER \
         (PARTITION BY pipeline ORDER BY started_on DESC, completed_on DESC) AS n FROM {table} \
         WHERE status = 'SUCCEEDED') newest WHERE n = 1"
    )
}

/// Executions that are open and that every unfinished pipeline of which has succeeded in a later one.
pub(crate) fn superseded(execution: &str, table: &str) -> String {
    format!(
        "UPDATE {execution} SET status = 'SUPERSEDED', updated_on = {{now}} WHERE status IN ('INITIALISED', 'IN_PROGRESS') \
         AND EXISTS (SELECT 1 FROM {table} r WHERE r.execution_id = {execution}.execution_id) \
         AND NOT EXISTS (SELECT 1 FROM {table} r WHERE r.execution_id = {execution}.execution_id \
         AND r.status <> 'SUCCEEDED' AND NOT EXISTS (SELECT 1 FROM {table} s WHERE s.pipeline = r.pipeline \
         AND s.status = 'SUCCEEDED' AND s.started_on > r.started_on))"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Ledger, Target};

    fn record(execution: Uuid, run_id: &str, state: RunState, started_on: &str, digest: &str) -> RunRecord {
        RunRecord {
            execution,
            pipeline: "orders".into(),
            run_id: run_id.into(),
            step: StepName::Load,
            state,
            digest: digest.into(),
            strategy: String::new(),
            source: String::new(),
            target: String::new(),
            host: String::new(),
            started_on: started_on.into(),
            completed_on: None,
            rows_read: i64::MAX,
            rows_inserted: 0,
            rows_updated: 0,
            rows_deleted: 0,
            bytes: 0,
            attempts: 1,
            error_class: Some("transient".into()),
            error_message: None,
        }
    }

    #[tokio::test]
    async fn what_failed_stays_open_until_it_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::parse(&format!("sqlite:///{}", dir.path().join("l.sqlite").display())).unwrap();
        let mut ledger = Ledger::connect(&target).await.unwrap();
        assert!(!ledger.has_runs().await.unwrap());
        ledger.prepare().await.unwrap();
        for _ in 0..2 {
            ledger.prepare_runs().await.unwrap();
        }
        let first = ledger.init_execution(None).await.unwrap();
        let failed = record(first, "r1", RunState::Failed, "2026-01-01T00:00:00Z", "one");
        ledger.put_run(&failed).await.unwrap();
        assert_eq!(ledger.runs(Some(first), 9).await.unwrap(), std::slice::from_ref(&failed));
        assert_eq!(ledger.supersede().await.unwrap(), 0);
        assert!(ledger.successes().await.unwrap().is_empty());
        assert_eq!(ledger.open_execution("r1").await.unwrap(), Some(first));

        let second = ledger.init_execution(None).await.unwrap();
        let done = record(second, "r2", RunState::Succeeded, "2026-01-02T00:00:00Z", "two");
        ledger.put_run(&done).await.unwrap();
        ledger.complete_execution(second).await.unwrap();
        assert_eq!(ledger.successes().await.unwrap()["orders"], "two");
        // Closed, and never a success.
        assert_eq!(ledger.supersede().await.unwrap(), 1);
        assert_eq!(ledger.open_execution("r1").await.unwrap(), None);
        assert_eq!(ledger.last_successful_execution().await.unwrap(), Some(second));
        assert_eq!(ledger.runs(None, 1).await.unwrap(), [done]);
    }
}
