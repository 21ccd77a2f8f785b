//! The load plan: everything that a run will do, decided before it does anything.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;

use crate::definition::OverwriteType;
use crate::partition::Cut;
use crate::relation::Relation;
use crate::schema::{SchemaChange, SchemaPlan};
use crate::state::{ChangeState, HashCover};

/// What a sink does with the staged rows. Four modes serve every strategy.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum WriteMode {
    /// The staged rows are added.
    Append,
    /// The staged rows become the table's whole content, in one visible step.
    Overwrite { overwrite: OverwriteType },
    /// The staged rows replace exactly the rows of the scope.
    OverwriteScope { scope: ScopeFilter },
    /// Each staged row carries an operation that is applied by key.
    Changes { key: Vec<String>, operation: Operation },
}

impl WriteMode {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Overwrite { overwrite: OverwriteType::Exchange } => "overwrite (exchange)",
            Self::Overwrite { overwrite: OverwriteType::TruncateInsert } => "overwrite (truncate_insert)",
            Self::OverwriteScope { scope: ScopeFilter::Predicate { .. } } => "overwrite scope (predicate)",
            Self::OverwriteScope { scope: ScopeFilter::Partitions { .. } } => "overwrite scope (partitions)",
            Self::Changes { .. } => "changes",
        }
    }

    pub fn key(&self) -> &[String] {
        match self {
            Self::Changes { key, .. } => key,
            _ => &[],
        }
    }
}

/// The rows that `OverwriteScope` owns.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum ScopeFilter {
    /// A predicate over the target's columns, in DataFusion SQL: [`crate::expr::predicate`] parses it. A sink renders it
    /// in its own SQL, or evaluates it.
    Predicate { sql: String },
    /// The rows that share their values of these columns with a staged row (NULL equals NULL).
    Partitions { columns: Vec<String> },
}

/// How a staged row says what happens to the row with its key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Every staged row is inserted, or updates the row with its key.
    Upsert,
    /// The staged column [`OPERATION_COLUMN`] (Int8, not stored in the target) says which of [`INSERT_OR_UPDATE`],
    /// [`DELETE`] and [`PATCH`].
    Column {
        /// The columns that a patch sets; all others of the row keep their values, whatever the staged row holds.
        patch: Vec<String>,
    },
}

impl Operation {
    /// Whether staged rows carry the operation column.
    pub fn is_column(&self) -> bool {
        matches!(self, Self::Column { .. })
    }

    /// The columns that a patch sets; empty where no row patches.
    pub fn patch(&self) -> &[String] {
        match self {
            Self::Upsert => &[],
            Self::Column { patch } => patch,
        }
    }
}

/// The staged column that carries the operation where not every row is an upsert.
pub const OPERATION_COLUMN: &str = "__dpone__op";
pub const INSERT_OR_UPDATE: i8 = 0;
pub const DELETE: i8 = 1;
/// Sets only the columns of [`Operation::Column`]'s `patch` in the row with the key; without such a row, nothing.
pub const PATCH: i8 = 2;

/// The prefix of columns and tables that are ours; users' columns may not have it.
pub const RESERVED_PREFIX: &str = "__dpone__";

/// The run that wrote the row last.
pub const RUN_ID: &str = "__dpone__run_id";
/// The load that wrote the row last: of several attempts at a run, the one that was committed.
pub const LOAD_ID: &str = "__dpone__load_id";
/// When that load took the source's snapshot.
pub const LOADED_AT: &str = "__dpone__loaded_at";
/// Columns of which every load has other values. A row in which nothing else differs is unchanged: no sink writes it.
pub const STAMPS: [&str; 3] = [RUN_ID, LOAD_ID, LOADED_AT];

/// Everything that a run will do. Made by [`crate::strategy::plan_load`].
#[derive(Debug, Clone)]
pub struct LoadPlan {
    pub pipeline: String,
    pub strategy: String,
    pub target: Relation,
    /// Reads the source and gives exactly the rows to stage, in [`Self::staged_schema`].
    pub logical: LogicalPlan,
    /// The stored schema, plus [`OPERATION_COLUMN`] where the write mode needs it.
    pub staged_schema: SchemaRef,
    /// The target's schema after the run.
    pub target_schema: SchemaRef,
    pub write_mode: WriteMode,
    /// DDL of the commit: creating the target.
    pub ddl: Vec<SchemaChange>,
    /// How source and target differ, what that costs and what is done about it; `None` where there is no target yet.
    pub schema: Option<SchemaPlan>,
    /// Changes of the target to make before staging.
    pub evolve: Vec<SchemaChange>,
    /// What those changes leave to say, one sentence each.
    pub evolve_notes: Vec<String>,
    /// The target's column for each column of the source that goes to one of another name.
    pub mapping: BTreeMap<String, String>,
    /// The cursor to observe while staging: its greatest value becomes the watermark.
    pub cursor: Option<CursorPlan>,
    /// How far the changes of the source are read with this load; stored with it.
    pub changes: Option<ChangeState>,
    /// What the row hashes in the target are made of after this load, where it stores some.
    pub hashes: Option<HashCover>,
    pub checks: Checks,
    /// Digest that the stored state must carry to be used: see [`crate::state::PipelineState::digest`].
    pub state_digest: String,
    /// What a reader of the plan should know: what is assumed, what is not seen (such as deletions), what falls back.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct CursorPlan {
    pub column: String,
    /// Leave out the rows at the old watermark whose hashes are in the state.
    pub skip_boundary: bool,
    /// Keep the hashes of the rows at the new watermark in the state.
    pub keep_boundary: bool,
    /// How the cursor's values sort.
    pub order: crate::order::ValueOrder,
    /// What the read began from.
    pub from: Option<crate::state::Watermark>,
}

/// How many partitions one load may touch.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionLimit {
    pub columns: Vec<String>,
    /// How the one column is cut, where a partition is not one value of it. The scope of the commit is then made from the
    /// partitions of the staged rows: see [`crate::partition::of_partitions`].
    pub cut: Option<Cut>,
    pub most: u64,
}

/// What is checked on the staged rows before the target is touched.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Checks {
    /// Columns in which a staged NULL fails the run.
    pub not_null: Vec<String>,
    /// Staged deletions are whole rows and are checked too; else they hold only their key.
    pub whole_deletes: bool,
    /// Rows with a NULL in one of these are left out and counted.
    pub quarantine_null: Vec<String>,
    /// Column sets in which two staged rows may not agree.
    pub unique: Vec<String>,
    /// Fail when a staged row's second column is not NULL and not after its first: an interval would end before it begins.
    pub interval: Option<(String, String)>,
    /// Fail when the source gave no row and the target has rows.
    pub fail_on_empty: bool,
    /// Fail when the staged rows have more distinct values of these columns than this.
    pub max_partitions: Option<PartitionLimit>,
    pub max_delete_ratio: Option<f64>,
    pub max_delete_rows: Option<u64>,
}
