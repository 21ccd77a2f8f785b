//! `sink.strategy`: every mode of the contract and its options.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{EmptySourceSpec, Names, PortableScope, Scalar};
use crate::definition::{OverwriteType, TrackedChange};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StrategySpec {
    pub mode: Mode,
    /// The natural key: a list, or names with commas between them.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_append", "incremental_merge", "snapshot_diff", "scd2", "cdc_apply", "backfill", "xmin"]}))]
    pub unique_key: Option<Names>,
    /// Drop rows whose key is in the target already.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_append", "backfill"]}))]
    pub only_new_rows: Option<bool>,
    /// `exchange` swaps a finished table in; `truncate_insert` keeps the table's identity.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["full_refresh", "backfill"]}))]
    pub overwrite_type: Option<OverwriteSpec>,
    /// The scope, as a DataFusion predicate over the target's columns.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["replace"]}))]
    pub custom_predicate: Option<String>,
    /// The scope, without SQL.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["replace"]}))]
    pub portable_scope: Option<PortableScope>,
    /// The scope `from <= column < to`.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["replace", "partition_replace"]}))]
    pub window: Option<Window>,
    /// A scope is always replaced in one step.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["replace"]}))]
    pub atomicity: Option<ReplaceAtomicity>,
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_merge", "backfill", "xmin"]}))]
    pub merge_policy: Option<MergePolicy>,
    /// No policy of this version needs it.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_merge", "backfill", "xmin"]}))]
    pub allow_non_recommended_policy: Option<bool>,
    /// Several rows of one read with the same key.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_merge", "incremental_append", "snapshot_diff", "scd2", "cdc_apply", "backfill", "xmin"]}))]
    pub duplicate_policy: Option<DuplicateSpec>,
    /// For `duplicate_policy: latest`: the row that is greatest by these columns is kept.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_merge", "snapshot_diff", "scd2", "backfill", "xmin"]}))]
    pub order_by: Option<Names>,
    /// NULL in a key column.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_merge", "snapshot_diff", "scd2", "backfill", "xmin"]}))]
    pub null_keys: Option<NullKeysSpec>,
    /// A source column that marks rows as deleted.
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["incremental_merge", "backfill", "xmin"]}))]
    pub soft_delete: Option<SoftDeleteSpec>,
    /// What happens when the source gives no row and the target has some.
    pub empty_source: Option<EmptySourceSpec>,
    /// The part of the target's rows that one run may delete.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_delete_ratio: Option<f64>,
    /// The number of rows that one run may delete.
    pub max_delete_rows: Option<u64>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["clickhouse"]}))]
    #[schemars(range(max = 2))]
    pub mutations_sync: Option<u8>,
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["partition_replace", "backfill"]}))]
    pub partition: Option<PartitionSpec>,
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["snapshot_diff"]}))]
    pub diff: Option<Diff>,
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["scd2"]}))]
    pub scd2: Option<Scd2>,
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["cdc_apply"]}))]
    pub cdc: Option<CdcApply>,
    #[schemars(extend("x-dpone-when" = {"sink.strategy.mode": ["backfill"]}))]
    pub backfill: Option<Backfill>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    FullRefresh,
    IncrementalAppend,
    IncrementalMerge,
    Replace,
    PartitionReplace,
    SnapshotDiff,
    Scd2,
    Backfill,
    CdcApply,
    /// `incremental_merge` with the reader xmin.
    Xmin,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FullRefresh => "full_refresh",
            Self::IncrementalAppend => "incremental_append",
            Self::IncrementalMerge => "incremental_merge",
            Self::Replace => "replace",
            Self::PartitionReplace => "partition_replace",
            Self::SnapshotDiff => "snapshot_diff",
            Self::Scd2 => "scd2",
            Self::Backfill => "backfill",
            Self::CdcApply => "cdc_apply",
            Self::Xmin => "xmin",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverwriteSpec {
    TruncateInsert,
    Exchange,
}

impl From<OverwriteSpec> for OverwriteType {
    fn from(spec: OverwriteSpec) -> Self {
        match spec {
            OverwriteSpec::TruncateInsert => Self::TruncateInsert,
            OverwriteSpec::Exchange => Self::Exchange,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    pub column: String,
    pub from: Scalar,
    pub to: Scalar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplaceAtomicity {
    TargetAtomic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergePolicy {
    Auto,
    UpdateInsert,
    DeleteInsert,
    ShadowSwap,
    LightweightDeleteInsert,
    MutationDeleteInsert,
    Replacing,
    EventUpsert,
}

impl MergePolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::UpdateInsert => "update_insert",
            Self::DeleteInsert => "delete_insert",
            Self::ShadowSwap => "shadow_swap",
            Self::LightweightDeleteInsert => "lightweight_delete_insert",
            Self::MutationDeleteInsert => "mutation_delete_insert",
            Self::Replacing => "replacing",
            Self::EventUpsert => "event_upsert",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateSpec {
    Fail,
    Latest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullKeysSpec {
    Fail,
    Quarantine,
}

/// Rows for which `column` is true, or not NULL where it is no truth value, are deletions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SoftDeleteSpec {
    pub column: String,
    /// `delete` removes the row in the target, `keep` keeps it with its mark.
    pub policy: Option<SoftDeletePolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SoftDeletePolicy {
    Delete,
    Keep,
}

/// A list of values, or one text with commas between them.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Values {
    List(Vec<Scalar>),
    Text(String),
}

impl Values {
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::List(values) => values.iter().map(Scalar::text).collect(),
            Self::Text(text) => text.split(',').map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartitionSpec {
    pub column: String,
    pub value_expression: Option<String>,
    /// Replace the partitions that occur in the staged rows. False needs `expected` or a window.
    pub values_from_staging: Option<bool>,
    /// Replace exactly these partitions: those without a row in the source are emptied.
    pub expected: Option<Values>,
    #[schemars(range(min = 1))]
    pub max_partitions_per_run: Option<u64>,
    pub native: Option<bool>,
    pub native_mode: Option<NativeMode>,
    pub require_native: Option<bool>,
    pub partition_function: Option<String>,
    pub switch_out_schema: Option<String>,
    pub switch_out_table_template: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NativeMode {
    Auto,
    Required,
    Fallback,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diff {
    pub compare: Option<Compare>,
    pub delete_policy: Option<DiffDeletePolicy>,
    /// Store each row's hash in `__dpone__row_hash`, and compare with the stored hashes instead of reading whole rows back.
    pub store_row_hash: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    RowHash,
    AllColumns,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiffDeletePolicy {
    HardDelete,
    SoftDelete,
    Ignore,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scd2 {
    pub valid_from_column: Option<String>,
    pub valid_to_column: Option<String>,
    pub current_flag_column: Option<String>,
    pub row_hash_column: Option<String>,
    pub delete_policy: Option<Scd2DeletePolicy>,
    /// The source column that says since when a version holds, a date or timestamp. Default: the time of the load.
    pub effective_column: Option<String>,
    /// Only a change of these columns makes a version. Default: of any.
    pub track_columns: Option<Names>,
    /// What a load does when other columns are tracked than the stored row hashes were made of. Default: fail.
    pub on_tracked_change: Option<OnTrackedChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTrackedChange {
    /// Refuse the load: nearly every row would look changed.
    Fail,
    /// Compare the values of the versions that are there instead of their hashes, from now on.
    CompareValues,
    /// Compare the hashes all the same: most rows make a version in this load.
    OpenVersions,
}

impl From<OnTrackedChange> for TrackedChange {
    fn from(given: OnTrackedChange) -> Self {
        match given {
            OnTrackedChange::Fail => Self::Fail,
            OnTrackedChange::CompareValues => Self::CompareValues,
            OnTrackedChange::OpenVersions => Self::OpenVersions,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scd2DeletePolicy {
    Expire,
    Ignore,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CdcApply {
    pub delete_policy: Option<CdcDeletePolicy>,
    pub operation_column: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CdcDeletePolicy {
    Apply,
    Ignore,
    SoftDelete,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    pub inner_mode: Option<InnerMode>,
    pub chunk: Chunk,
    #[schemars(range(min = 1, max = 256))]
    pub parallel_workers: Option<u64>,
    #[schemars(range(min = 1))]
    pub max_chunks: Option<u64>,
    pub backfill_id: Option<String>,
    pub state_dir: Option<String>,
    pub retry_policy: Option<RetryPolicy>,
    #[schemars(range(min = 1))]
    pub lease_ttl_minutes: Option<u64>,
    pub predicate_dialect: Option<PredicateDialect>,
    pub state: Option<BackfillState>,
    pub publication: Option<BackfillPublication>,
    pub advisor: Option<Advisor>,
    /// What spares the source.
    pub throttle: Option<ThrottleSpec>,
    /// Rows whose chunk column is NULL: `fail` counts them and loads nothing, `include` loads them as one more chunk.
    pub null_chunk: Option<NullChunkSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullChunkSpec {
    Fail,
    Include,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThrottleSpec {
    /// A pause of each worker after each chunk.
    pub pause_seconds: Option<f64>,
    /// The part of the time that a worker loads, above 0 and up to 1.
    pub duty_cycle: Option<f64>,
    /// Rows a second that one process reads, over chunks on average.
    pub max_rows_per_second: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InnerMode {
    PartitionReplace,
    Replace,
    IncrementalAppend,
    IncrementalMerge,
    FullRefresh,
}

impl InnerMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PartitionReplace => "partition_replace",
            Self::Replace => "replace",
            Self::IncrementalAppend => "incremental_append",
            Self::IncrementalMerge => "incremental_merge",
            Self::FullRefresh => "full_refresh",
        }
    }
}

/// `to` is inclusive for dates and integers, exclusive for timestamps.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    pub column: String,
    pub from: Option<Scalar>,
    pub to: Option<Scalar>,
    pub step: Option<Scalar>,
    pub kind: Option<ChunkKind>,
    pub buckets: Option<u64>,
    /// Where days and months begin: `Europe/Berlin`, `+02:00`. Left out: UTC.
    pub timezone: Option<String>,
    /// As `backfill.null_chunk`.
    pub null_chunk: Option<NullChunkSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChunkKind {
    Date,
    Timestamp,
    Integer,
    Uuid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryPolicy {
    NonCommitted,
    FailedOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PredicateDialect {
    Generic,
    Clickhouse,
    Mssql,
    Postgres,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillState {
    pub backend: Option<BackfillBackend>,
    pub schema: Option<String>,
    pub require_distributed_lock: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackfillBackend {
    LocalFile,
    AuditSchema,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillPublication {
    pub mode: Option<PublicationMode>,
    pub retain_backup: Option<bool>,
    pub artifact_scope: Option<ArtifactScope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublicationMode {
    Direct,
    ShadowSwap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactScope {
    Stable,
    Campaign,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Advisor {
    pub optimize_for: Option<OptimizeFor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizeFor {
    Balanced,
    Speed,
    SourceSafety,
    WorkerSafety,
}
