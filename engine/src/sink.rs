//! The port that a connector implements to be written to.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::WriteMode;
use dpone_planner::schema::{LockBudget, SchemaChange, TableFacts};
use dpone_planner::state::PipelineState;

use crate::backfill::ManifestStore;
use crate::receipt::Receipt;
use crate::state::{Lease, StateLocation, StateStore};
use crate::{Error, Relation, Result};

/// A system that tables are loaded into.
///
/// A load is: `describe`, `stage` for each partition (any number at once, in any process), `check`, `commit`,
/// `discard`. Until `commit` returns, no reader of the target sees anything of the load; after it, all of it.
#[async_trait]
pub trait Sink: Debug + Send + Sync {
    fn dialect(&self) -> Arc<dyn Dialect>;

    fn capabilities(&self) -> Capabilities;

    /// The target as it is now, or `None` when there is no such table.
    async fn describe(&self, table: &Relation) -> Result<Option<TargetTable>>;

    /// Whether a load of this mode writes the target's columns anew, so that changes of them come with it.
    fn evolves_with_load(&self, _mode: &WriteMode) -> bool {
        false
    }

    /// Changes the target's columns, before anything is staged. Fails with `conflict` when the table is not any more what
    /// the changes were planned for, or the lease is lost; with `transient` when others held the table for longer than
    /// the budget allows to wait: it says who. What was applied stays applied, and a plan made afterwards does not have it.
    async fn evolve(&self, evolution: &Evolution<'_>) -> Result<Evolved> {
        Err(cannot_evolve(self.dialect().system(), evolution.table))
    }

    /// Makes the load's staging area, or finds the one that an earlier attempt of the same load made. Called once,
    /// before any `stage`, by the process that coordinates.
    async fn prepare(&self, load: &LoadSpec) -> Result<()>;

    /// Writes one partition of the load to staging and makes it durable. Idempotent: a partition that is staged again
    /// replaces its earlier attempt, and a failed attempt leaves nothing behind that a commit would pick up.
    async fn stage(
        &self,
        load: &LoadSpec,
        partition: usize,
        rows: SendableRecordBatchStream,
    ) -> Result<StagedPartition>;

    /// Counts keys of `unique` that occur more than once in the staged rows.
    async fn duplicate_keys(&self, load: &LoadSpec, staged: &[StagedPartition], unique: &[String]) -> Result<u64>;

    /// Applies the staged partitions with the load's write mode and stores the new state, in one transaction where the
    /// system has one; elsewhere data first, then state, and idempotent by load id.
    ///
    /// Fails with `conflict` when the lease's fencing token is no longer the newest. When the acknowledgement of the
    /// commit is lost, the load id is looked up; a commit is never repeated blind.
    async fn commit(&self, commit: &Commit<'_>) -> Result<Receipt>;

    /// Removes the load's staging area. Idempotent; also called after a failure.
    async fn discard(&self, load: &LoadSpec) -> Result<()>;

    /// The state kept beside the data of `target`.
    fn state(&self, target: &Relation, location: &StateLocation) -> Result<Arc<dyn StateStore>>;

    /// Partition manifests of backfills into `target` that several machines share, in `schema` or beside the target.
    /// `None`: the system has no rows that workers could claim.
    fn manifests(&self, _target: &Relation, _schema: Option<&str>) -> Result<Option<Arc<dyn ManifestStore>>> {
        Ok(None)
    }

    /// Carries out the phases of expand-contract migrations. `None`: somebody runs the statements by hand.
    fn migrator(&self) -> Option<Arc<dyn crate::schema::Migrator>> {
        None
    }

    /// Whether several loads of one table may be described, staged and committed at the same time. Where not, a backfill
    /// loads one chunk after the other.
    fn concurrent_loads(&self) -> bool {
        true
    }

    /// The place that is written to, without secrets: the same text means the same place. `None`: the connection's
    /// options say it.
    fn identity(&self) -> Option<String> {
        None
    }
}

/// Changes of a table that were decided.
#[derive(Debug)]
pub struct Evolution<'a> {
    pub table: &'a Relation,
    /// In the order in which they are made.
    pub changes: &'a [SchemaChange],
    /// How long others may be kept waiting.
    pub budget: LockBudget,
    /// Of the catalog that the changes were planned from: [`dpone_planner::schema::fingerprint`].
    pub fingerprint: &'a str,
    /// Columns that the strategy keeps, which are no part of the fingerprint.
    pub apart: &'a [&'a str],
    pub lease: &'a Lease,
    pub state_location: &'a StateLocation,
}

/// What became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evolved {
    /// As they were sent.
    pub statements: Vec<String>,
    /// How often a lock was asked for and not granted in time.
    pub deferrals: u32,
}

/// The error of a sink whose tables keep the columns that they have.
pub fn cannot_evolve(system: &str, table: &Relation) -> Error {
    Error::configuration(format!("the columns of {table} cannot be changed: a {system} sink writes them once"))
        .with("table", table.to_string())
        .with_hint("load with full_refresh, which writes the table anew, or into another table; or choose the columns in the definition")
}

/// What a sink can do, for the planner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Data and state change in one transaction.
    pub transactional: bool,
    /// Whether `Overwrite(exchange)` and `Overwrite(truncate_insert)` differ here.
    pub truncate_insert: bool,
    pub overwrite_scope: bool,
    pub changes: bool,
    /// Rows can be appended without rewriting the table.
    pub append: bool,
    /// A sentence for plans: what a concurrent reader sees during a commit.
    pub visibility: &'static str,
}

/// The target as it is.
#[derive(Debug, Clone)]
pub struct TargetTable {
    /// Native types in the fields' metadata.
    pub schema: SchemaRef,
    pub primary_key: Vec<String>,
    /// Reads the target's committed rows, for comparisons.
    pub provider: Arc<dyn TableProvider>,
    /// Whether the table holds at least one row: exact, unlike the estimate.
    pub has_rows: bool,
    pub rows_estimate: Option<u64>,
    /// What decides what a change of its schema costs.
    pub facts: TableFacts,
    /// Things that matter to DDL and swaps: dependent views, foreign keys, triggers. For plans.
    pub notes: Vec<String>,
}

/// One load of one pipeline, as every process that takes part in it knows it. Serialisable: no secrets, no handles.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LoadSpec {
    /// ULID of this attempt. Staging names are made from it, so no two attempts share staging.
    pub load_id: String,
    /// What the scheduler calls the run: the same run id is loaded once.
    pub run_id: String,
    pub pipeline: String,
    pub target: Relation,
    pub staging_schema: Option<String>,
    /// Schema of staged batches. With `Operation::Column` it includes the operation column, which is not stored.
    pub staged_schema: SchemaRef,
    pub write_mode: WriteMode,
    /// Whether the target existed when the load was planned.
    pub target_exists: bool,
    pub partitions: usize,
    /// The DDL of the plan as changes are rendered, for sinks that create the target inside the commit.
    pub primary_key: Vec<String>,
    pub partition_by: Vec<String>,
    /// The column by whose values rows come in, where the strategy has one: what a table without a key is sorted by.
    pub cursor: Option<String>,
    /// Sink options of the definition.
    pub options: BTreeMap<String, String>,
}

/// What staging one partition produced.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StagedPartition {
    pub partition: usize,
    pub rows: u64,
    /// Bytes sent to the system.
    pub bytes: u64,
    /// What the sink needs to find it again: a table name, file paths with sizes. Its own shape.
    pub artifact: serde_json::Value,
}

/// The arguments of a commit.
#[derive(Debug)]
pub struct Commit<'a> {
    pub load: &'a LoadSpec,
    pub staged: &'a [StagedPartition],
    /// The state after the load; stored with the data.
    pub state: &'a PipelineState,
    pub state_location: &'a StateLocation,
    pub lease: &'a Lease,
    /// Schema changes to apply in the same transaction, already decided.
    pub ddl: &'a [SchemaChange],
    /// Refuse to delete more than this many rows, or this part of the target.
    pub max_delete_rows: Option<u64>,
    pub max_delete_ratio: Option<f64>,
    /// The receipt so far. The sink completes `rows` (inserted, updated, deleted, unchanged), `target_version`, `notes`
    /// (a swap that fell back to truncate and insert, a table that wants compaction) and `finished_at`, stores it with
    /// the load in `__dpone__loads`, and returns it.
    pub receipt: &'a Receipt,
}
