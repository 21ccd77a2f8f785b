//! The one shape that every definition becomes.

use std::collections::BTreeMap;

use super::{Backfill, ChunkLoad, Connection};
use crate::error::Location;
use crate::relation::Relation;
use crate::schema::EvolutionPolicy;

/// Everything that one or more definition files declare.
#[derive(Debug, Clone, Default)]
pub struct Project {
    pub connections: BTreeMap<String, Connection>,
    /// In the order in which they were written.
    pub pipelines: Vec<Pipeline>,
}

/// One table to be loaded: a source, a sink and a strategy.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    pub name: String,
    /// What `--selector` also matches: a table's `id` in a batch manifest, else `schema.table`.
    pub selector: Option<String>,
    pub description: Option<String>,
    pub source: SourceSpec,
    pub sink: SinkSpec,
    pub strategy: Strategy,
    pub guards: Guards,
    /// What is done when the source no longer fits the target.
    pub evolution: EvolutionPolicy,
    pub lineage: Lineage,
    pub tuning: Tuning,
    pub state: StateSpec,
    pub location: Location,
    /// What the definition asks for and this version does without, one sentence each: printed once, before the run.
    pub warnings: Vec<String>,
}

/// Columns that a load adds to say where its rows come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Lineage {
    /// The run and the load that wrote the row last, and when.
    pub identity: bool,
    /// The canonical hash of the source's columns of the row.
    pub row_hash: bool,
}

impl Lineage {
    pub fn is_on(self) -> bool {
        self.identity || self.row_hash
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SourceSpec {
    pub query: SourceQuery,
    pub read: ReadOptions,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum SourceQuery {
    /// A table of one connection.
    Table { connection: String, relation: Relation },
    /// A query in the source system's own dialect, run there as it is written.
    Native { connection: String, sql: String },
    /// A DataFusion query over any connections, each a catalog: `connection.schema.table`.
    Sql { sql: String },
}

/// How a table is read. All of it is applied before the strategy sees a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReadOptions {
    /// Only these columns, in this order; empty means all.
    pub columns: Vec<String>,
    pub exclude_columns: Vec<String>,
    /// A DataFusion predicate over the source's columns.
    pub predicate: Option<String>,
    /// Declared logical types, by column: `text`, `bigint`, `decimal(18,2)`, `timestamptz`, …
    pub types: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SinkSpec {
    pub connection: String,
    pub relation: Relation,
    /// Schema of the staging tables, for sinks that have schemas; `None`: the sink's own choice.
    pub staging_schema: Option<String>,
    /// `PARTITION BY` columns of a table that is created, for sinks that have partitions.
    pub partition_by: Vec<String>,
    /// Sink options that only the connector reads, such as a Parquet compression level.
    pub options: BTreeMap<String, String>,
}

/// How the cursor of an incremental strategy is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct CursorOptions {
    pub column: String,
    /// Read this far below the watermark again, to catch rows that were committed late. `None`: from the watermark,
    /// inclusive.
    pub lag: Option<Lag>,
    /// Whether rows whose cursor is NULL are read (on every run) or fail the run.
    pub include_nulls: bool,
}

/// A distance below the watermark, in the unit of the cursor.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum Lag {
    /// For dates and timestamps.
    Interval { microseconds: i64 },
    /// For integers and decimals.
    Number(i64),
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub enum Strategy {
    FullRefresh {
        overwrite: OverwriteType,
    },
    /// Rewrites a declared scope.
    Replace {
        scope: Scope,
    },
    IncrementalAppend {
        cursor: CursorOptions,
        /// Drop rows whose key is in the target already.
        only_new_rows: bool,
        key: Vec<String>,
    },
    IncrementalMerge {
        key: Vec<String>,
        /// Without a cursor, everything is read on each run.
        cursor: Option<CursorOptions>,
        duplicates: DuplicatePolicy,
        null_keys: NullKeys,
        /// Rows for which this source column is true (or not null) are deletions.
        soft_delete: Option<SoftDelete>,
    },
    /// Rows of transactions that ended since the last run, told by the row versions themselves.
    Xmin(Xmin),
    /// Chunks of a range, each loaded by another strategy.
    Backfill(Box<Backfill>),
    /// One chunk of a backfill. No definition says this: a backfill makes it.
    Chunk(Box<ChunkLoad>),
    /// Rewrites whole partitions.
    PartitionReplace {
        column: String,
        /// What a partition is, where it is not a value of the column: an expression over it, in DataFusion SQL.
        expression: Option<String>,
        scope: PartitionScope,
    },
    /// Compares a full snapshot of the source with the target, by key, and applies the differences.
    SnapshotDiff {
        key: Vec<String>,
        compare: CompareBy,
        missing: MissingRows,
        duplicates: DuplicatePolicy,
        null_keys: NullKeys,
        /// Store each row's hash beside it, and compare with the stored ones.
        row_hash: bool,
    },
    /// Keeps every version of a row, each with the time during which it held.
    Scd2 {
        key: Vec<String>,
        history: History,
        /// Without a cursor, everything is read on each run.
        cursor: Option<CursorOptions>,
        duplicates: DuplicatePolicy,
        null_keys: NullKeys,
    },
    /// A strategy of the contract that this version does not run. Kept, so that `plan` and `check` name it.
    Unsupported(UnsupportedMode),
}

impl Strategy {
    /// The name in definitions, plans and evidence.
    pub fn name(&self) -> &str {
        match self {
            Self::FullRefresh { .. } => "full_refresh",
            Self::Replace { .. } => "replace",
            Self::IncrementalAppend { .. } => "incremental_append",
            Self::IncrementalMerge { .. } => "incremental_merge",
            Self::Xmin(_) => "xmin",
            Self::Backfill(_) | Self::Chunk(_) => "backfill",
            Self::PartitionReplace { .. } => "partition_replace",
            Self::SnapshotDiff { .. } => "snapshot_diff",
            Self::Scd2 { .. } => "scd2",
            Self::Unsupported(mode) => &mode.name,
        }
    }

    /// The natural key, where the strategy has one.
    pub fn key(&self) -> &[String] {
        match self {
            Self::IncrementalAppend { key, .. }
            | Self::IncrementalMerge { key, .. }
            | Self::SnapshotDiff { key, .. }
            | Self::Scd2 { key, .. } => key,
            Self::Xmin(xmin) => &xmin.key,
            Self::Backfill(backfill) => backfill.inner.key(),
            Self::Chunk(chunk) => chunk.inner.key(),
            _ => &[],
        }
    }

    /// Whether rows go into the target as they are read, without a look at others: nothing sorts, joins or compares them.
    pub fn copies(&self) -> bool {
        matches!(
            self,
            Self::FullRefresh { .. }
                | Self::Replace { .. }
                | Self::PartitionReplace { .. }
                | Self::IncrementalAppend { only_new_rows: false, .. }
        )
    }

    /// Whether the strategy compares the source with rows that it reads back from the target.
    pub fn compares(&self) -> bool {
        matches!(self, Self::SnapshotDiff { .. } | Self::Scd2 { .. })
    }

    pub fn cursor(&self) -> Option<&CursorOptions> {
        match self {
            Self::IncrementalAppend { cursor, .. } => Some(cursor),
            Self::IncrementalMerge { cursor, .. } | Self::Scd2 { cursor, .. } => cursor.as_ref(),
            _ => None,
        }
    }
}

/// How rows that changed since the last run are loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Xmin {
    /// May be empty where versions are appended.
    pub key: Vec<String>,
    pub write: VersionWrite,
    /// `None`: the definition does not say.
    pub reconciliation: Option<Reconciliation>,
}

/// What a new version of a row does to the target.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum VersionWrite {
    /// It is inserted, or updates the row with its key.
    Merge { duplicates: DuplicatePolicy, null_keys: NullKeys, soft_delete: Option<SoftDelete> },
    /// It is added.
    Append {
        /// Drop versions whose key is in the target already.
        only_new_rows: bool,
    },
}

/// The comparison of the target's keys with all keys of the source, in the snapshot of the read: what is missing there
/// was deleted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum Reconciliation {
    /// Deletions are never looked for, not even when the read had to start over.
    Off,
    On {
        cadence: Cadence,
        delete_policy: GoneRows,
    },
}

/// How often keys are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Cadence {
    /// In every so many runs.
    Runs(u64),
    /// In the first run after this time.
    Interval { microseconds: i64 },
}

/// What becomes of a target row that is gone from the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum GoneRows {
    #[default]
    HardDelete,
    /// The row stays, and is marked.
    SoftDelete,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UnsupportedMode {
    pub name: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverwriteType {
    /// Keep the table's identity; readers wait for the insert.
    TruncateInsert,
    /// Swap a finished table in; readers wait for an instant.
    #[default]
    Exchange,
}

/// The rows that `replace` owns.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum Scope {
    /// A DataFusion predicate over the target's columns; the source is filtered by the same one.
    Predicate(String),
    /// `from <= column < to`
    Window { column: String, from: String, to: String },
}

/// The partitions that `partition_replace` owns.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum PartitionScope {
    /// Those that occur in the staged rows, at most so many. A partition that the source has no row of stays as it is.
    Staged { most: u64 },
    /// `from <= column < to`: those without a row in the source are emptied.
    Window { from: String, to: String },
    /// These values: those without a row in the source are emptied.
    Values(Vec<String>),
}

/// How `snapshot_diff` tells that a row changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum CompareBy {
    /// By a 128-bit hash of the row.
    #[default]
    RowHash,
    /// By the values themselves.
    AllColumns,
}

/// What happens to rows of the target that the source has no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum MissingRows {
    #[default]
    Delete,
    /// Set `__dpone__is_deleted` and `__dpone__deleted_at`; a row that comes back loses its mark.
    Mark,
    Ignore,
}

/// How `scd2` keeps versions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct History {
    pub valid_from: String,
    pub valid_to: String,
    pub is_current: String,
    pub row_hash: String,
    /// Close the current version of a key that the source has no more. Needs a full snapshot.
    pub expire: bool,
    /// The source column that says since when a version holds; `None`: since the load.
    pub effective: Option<String>,
    /// Only a change of these columns makes a version; empty: of any.
    pub track: Vec<String>,
    /// What happens when other columns are tracked than the stored hashes were made of.
    pub tracked_change: TrackedChange,
}

/// What a load does when the stored row hashes were made of other columns than it tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub enum TrackedChange {
    /// It is refused.
    #[default]
    Fail,
    /// The values of the versions are compared instead of their hashes.
    CompareValues,
    /// The hashes are compared all the same, and most rows make a version.
    OpenVersions,
}

impl Default for History {
    fn default() -> Self {
        Self {
            valid_from: "__dpone__valid_from_at".to_owned(),
            valid_to: "__dpone__valid_to_at".to_owned(),
            is_current: "__dpone__is_current".to_owned(),
            row_hash: "__dpone__row_hash".to_owned(),
            expire: true,
            effective: None,
            track: Vec::new(),
            tracked_change: TrackedChange::Fail,
        }
    }
}

/// A source column that marks deletions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SoftDelete {
    pub column: String,
    pub policy: DeletePolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum DeletePolicy {
    /// Delete the row in the target.
    Hard,
    /// Keep the row as it comes, mark included.
    Keep,
}

/// Several rows of one batch with the same key.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub enum DuplicatePolicy {
    #[default]
    Fail,
    /// Keep the one that is greatest by these columns (NULL is least); ties fail.
    Latest { order_by: Vec<String> },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum NullKeys {
    #[default]
    Fail,
    /// Leave such rows out and count them.
    Quarantine,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum EmptySource {
    /// Stop before the target is touched when the source gives no row and the target has some.
    #[default]
    Fail,
    Allow,
}

/// Limits that stop a run before anything is changed.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Guards {
    pub empty_source: EmptySource,
    pub max_delete_ratio: Option<f64>,
    pub max_delete_rows: Option<u64>,
}

/// Settings that change how fast a load runs, never what it loads.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tuning {
    /// Partitions read and staged at once; `None`: the number of processors.
    pub parallelism: Option<usize>,
    /// Target rows of a batch.
    pub batch_rows: Option<usize>,
}

/// Where state is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub enum StateSpec {
    /// Beside the data, in the same transaction.
    #[default]
    BesideData,
    /// Beside the data, in this table of the sink's own connection.
    InSink { relation: Relation },
    /// In another connection, written after the sink's commit.
    Elsewhere { connection: String, relation: Option<Relation> },
}
