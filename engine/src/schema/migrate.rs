//! The port of a system that carries out the phases of an expand-contract migration by itself.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use dpone_planner::schema::expand_contract::{Migration, Phase};
use serde::Serialize;

use crate::{Relation, Result};

/// Carries out phases. Each is idempotent, goes on where it was killed, looks at the catalog before it acts, and makes no
/// writer of the table wait longer than the budget.
#[async_trait]
pub trait Migrator: Debug + Send + Sync {
    /// Fails with `conflict` where the phase before it is not finished, or the table is not the one that was planned for;
    /// with `data_quality` where values do not fit the new column.
    async fn migrate(&self, request: &MigrationRequest<'_>) -> Result<MigrationReport>;
}

#[derive(Debug)]
pub struct MigrationRequest<'a> {
    pub table: &'a Relation,
    pub migrations: &'a [Migration],
    /// [`Phase::Expand`], [`Phase::Backfill`], [`Phase::Validate`] or [`Phase::Contract`].
    pub phase: Phase,
    /// Undo the phase instead.
    pub rollback: bool,
    /// With [`Phase::Contract`], after the cut-over: drop the old column. There is no way back from that.
    pub drop_old: bool,
    pub plan_hash: &'a str,
    pub budget: MigrationBudget,
}

/// How much of others' time a migration may take.
#[derive(Debug, Clone)]
pub struct MigrationBudget {
    /// The longest that a writer waits for us: for the lock, and for what is done under it.
    pub lock: Duration,
    /// How often a step is tried that did not get its lock in time.
    pub attempts: u32,
    /// The pause before the second try; it doubles with each.
    pub backoff: Duration,
    /// Rows of a batch at most; batches get smaller where they take long.
    pub batch_rows: u64,
    /// After each batch.
    pub pause: Duration,
}

impl Default for MigrationBudget {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(2),
            attempts: 10,
            backoff: Duration::from_millis(250),
            batch_rows: 5_000,
            pause: Duration::ZERO,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct MigrationReport {
    pub table: String,
    pub phase: Phase,
    pub rollback: bool,
    pub steps: Vec<MigrationOutcome>,
}

/// What became of one migration.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MigrationOutcome {
    pub schema_change_id: String,
    pub column: String,
    /// `expanded`, `backfilled`, `validated`, `cut_over`, `contracted`, `rolled_back`.
    pub stage: String,
    /// What was done, one sentence each; empty where everything had been done before.
    pub done: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches: Option<u64>,
    /// Of one batch, with its commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_batch_ms: Option<u64>,
    /// Values that are not values of the new type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differing_rows: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
