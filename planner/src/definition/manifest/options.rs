//! `source.options` and `sink.options`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Names, Opaque, Scalar};
use crate::schema::{
    ColumnsMode, DataTypeMode, DdlMode, EvolutionMode, OnBreaking, OnSchemaChange, OnTypeChange, TablesMode,
    TargetNullability,
};

/// How the source is read. Which keys belong to which type of source is part of the schema (`x-dpone-when`).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceOptions {
    /// Target rows of a batch.
    #[schemars(range(min = 100, max = 5_000_000))]
    pub batch_size: Option<usize>,
    #[schemars(extend("x-dpone-ignored" = "a run commits once, so that nothing partial is ever visible", "x-dpone-accepts" = ["whole"]))]
    pub batch_commit_mode: Option<BatchCommitMode>,
    /// Names: only these columns, in this order. Mappings: the logical type of a column.
    pub columns: Option<Vec<ColumnSpec>>,
    pub exclude_columns: Option<Vec<String>>,
    /// A predicate over the source's columns, in DataFusion SQL.
    pub custom_predicate: Option<String>,
    /// A predicate without SQL.
    pub portable_scope: Option<PortableScope>,
    /// A query in the source's own dialect, in place of a table.
    #[schemars(extend("x-dpone-when" = {"source.type": ["postgres", "mssql", "clickhouse", "bigquery", "mysql"]}))]
    pub query: Option<Query>,
    pub incremental_strategy: Option<Incremental>,
    /// The cursor column.
    pub incremental_column: Option<String>,
    /// Read this many days below the watermark again.
    #[schemars(range(max = 100_000))]
    pub lookback_days: Option<u32>,
    /// Read this far below the watermark again: `2h`, `15 minutes`, or a number for integer cursors.
    pub lag: Option<Scalar>,
    /// Whether rows whose cursor is NULL fail the run or are read on each run.
    pub null_cursor: Option<NullCursor>,
    #[schemars(extend("x-dpone-ignored" = "rows stream into staging whatever their number"))]
    pub delta_size_threshold: Option<u64>,
    #[schemars(extend("x-dpone-ignored" = "rows travel as Arrow batches"))]
    pub export_format: Option<ExportFormat>,
    #[schemars(extend("x-dpone-ignored" = "rows travel as Arrow batches", "x-dpone-accepts" = [false]))]
    pub compress_export: Option<bool>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["mssql"]}, "x-dpone-ignored" = "rows travel as Arrow batches"))]
    pub mssql_export_mode: Option<String>,
    pub partitioning: Option<Partitioning>,
    #[schemars(extend("x-dpone-unsupported" = "declare a column's type under source.options.columns instead"))]
    pub type_fidelity: Option<Opaque>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["postgres"]}))]
    pub xmin_execution: Option<XminExecution>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["postgres", "mssql"]}))]
    pub cdc: Option<Cdc>,

    /// Whether the first line names the columns.
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub header: Option<bool>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub delimiter: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub quote: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub escape: Option<String>,
    /// Texts that stand for NULL.
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub null_values: Option<Names>,
    /// Rows that are looked at to infer the types.
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub infer_rows: Option<u64>,
    /// By the file's extension, when left out.
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub compression: Option<String>,
    /// Lines that begin with this character are left out.
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub comment: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub encoding: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "csv"]}))]
    pub on_bad_row: Option<String>,

    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub method: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub endpoint: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub path: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub params: Option<BTreeMap<String, Scalar>>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub json: Option<Opaque>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub body: Option<Opaque>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub headers: Option<BTreeMap<String, Scalar>>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub api_key_header: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub records_path: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub pagination: Option<Pagination>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub retry: Option<Retry>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub on_max_pages: Option<OnMissing>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub on_missing_records_path: Option<OnMissing>,

    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub group_id: Option<String>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub read_mode: Option<ReadMode>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub start_from: Option<StartFrom>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub offset_storage: Option<OffsetStorage>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub message_format: Option<MessageFormat>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub envelope: Option<Envelope>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub poll_timeout_ms: Option<u64>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub max_empty_polls: Option<u64>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub max_records: Option<u64>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub schema_sample_size: Option<u64>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub time_window_start_ms: Option<i64>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub time_window_end_ms: Option<i64>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub start_timestamp_ms: Option<i64>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub end_timestamp_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchCommitMode {
    Whole,
    Separate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ExportFormat {
    #[serde(rename = "csv")]
    Csv,
    #[serde(rename = "binary")]
    Binary,
    #[serde(rename = "mssql-delimited")]
    MssqlDelimited,
}

/// A column's name, or its name and logical type: `bigint`, `decimal(18,2)`, `timestamptz`, …
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ColumnSpec {
    Name(String),
    Typed(TypedColumn),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TypedColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: Option<String>,
}

/// Rows by the value of one column: `equals`, `in`, or the half-open window `from <= column < to`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortableScope {
    pub column: String,
    pub equals: Option<Scalar>,
    #[serde(rename = "in")]
    pub any_of: Option<Vec<Scalar>>,
    pub from: Option<Scalar>,
    pub to: Option<Scalar>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub mode: Option<QueryMode>,
    pub sql: Option<String>,
    /// Relative to the manifest.
    pub sql_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueryMode {
    Inline,
    SqlFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Incremental {
    Column,
    ColumnCursor,
    Xmin,
    PostgresXmin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullCursor {
    Fail,
    Include,
}

/// How many partitions are read and staged at once. The connector chooses the ranges.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Partitioning {
    #[schemars(extend("x-dpone-ignored" = "the connector chooses the ranges", "x-dpone-accepts" = ["auto"]))]
    pub strategy: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "the connector chooses the ranges"))]
    pub column: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "the connector chooses the ranges"))]
    pub bounds: Option<Opaque>,
    #[schemars(range(min = 1, max = 1024))]
    pub num_partitions: Option<usize>,
    #[schemars(range(min = 1, max = 1024))]
    pub export_workers: Option<usize>,
    #[schemars(range(min = 1, max = 1024))]
    pub load_workers: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct XminExecution {
    pub mode: Option<XminMode>,
    pub handoff_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum XminMode {
    Initial,
    Incremental,
}

/// Changes read from the source's log.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cdc {
    pub enabled: Option<bool>,
    pub slot: Option<String>,
    pub publication: Option<String>,
    pub backend: Option<CdcBackend>,
    pub capture_instance: Option<String>,
    pub change_tracking: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CdcBackend {
    PostgresLogical,
    MssqlCdc,
    MssqlChangeTracking,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pagination {
    #[serde(rename = "type")]
    pub kind: Option<PaginationType>,
    pub page_param: Option<String>,
    pub start_page: Option<u64>,
    pub offset_param: Option<String>,
    pub start_offset: Option<u64>,
    pub limit: Option<u64>,
    pub limit_param: Option<String>,
    pub cursor_param: Option<String>,
    pub next_cursor_path: Option<String>,
    pub initial_cursor: Option<Scalar>,
    pub max_pages: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaginationType {
    Page,
    Offset,
    Cursor,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub max_attempts: Option<u64>,
    pub statuses: Option<Vec<u16>>,
    pub respect_retry_after: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    Fail,
    Warn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    Offsets,
    TimeWindow,
    MaxRecords,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    Stored,
    Earliest,
    Latest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OffsetStorage {
    Dpone,
    Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    Json,
    JsonSchema,
    Avro,
    Protobuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    Auto,
    Flat,
    Dpone,
}

/// How the sink writes.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkOptions {
    /// Partition columns of a table that is created.
    #[schemars(extend("x-dpone-when" = {"sink.type": ["delta", "parquet", "csv", "clickhouse", "bigquery"]}))]
    pub partition_by: Option<Names>,
    /// How files are compressed, such as `zstd`.
    #[schemars(extend("x-dpone-when" = {"sink.type": ["parquet", "csv"]}))]
    pub compression: Option<Scalar>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["parquet"]}))]
    pub row_group_rows: Option<Scalar>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["csv"]}))]
    pub delimiter: Option<Scalar>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["csv"]}))]
    pub header: Option<Scalar>,
    /// What NULL is written as.
    #[schemars(extend("x-dpone-when" = {"sink.type": ["csv"]}))]
    pub null_marker: Option<Scalar>,
    /// Other options that only the sink's connector reads.
    pub connector: Option<BTreeMap<String, Scalar>>,
    /// What is done when the source no longer fits the target.
    pub schema_evolution: Option<SchemaEvolution>,
    /// Columns that say which load wrote a row, and the hash of its values.
    pub lineage: Option<Lineage>,
    /// `required` wants lineage to be on, `forbidden` wants it off.
    pub technical_columns: Option<TechnicalColumns>,
    #[schemars(extend("x-dpone-unsupported" = "use strategy.soft_delete: {column, policy}"))]
    pub soft_delete: Option<Opaque>,
    #[schemars(extend("x-dpone-unsupported" = "declare the columns' types under source.options.columns: a value that does not fit fails the run"))]
    pub schema_contract: Option<Opaque>,
    #[schemars(extend("x-dpone-unsupported" = "rows are not quarantined by this version, except by strategy.null_keys", "x-dpone-accepts" = [{"enabled": false}]))]
    pub dlq: Option<Opaque>,
    #[schemars(extend("x-dpone-unsupported" = "types of files are inferred by the source: see source.options.infer_rows and source.options.columns", "x-dpone-accepts" = [{"enabled": false}]))]
    pub type_inference: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for another runtime"))]
    pub bulk: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for another runtime"))]
    pub clickhouse_bulk: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "rows are never logged", "x-dpone-accepts" = [0]))]
    pub log_sample_rows: Option<u64>,
    #[schemars(extend("x-dpone-ignored" = "labels and descriptions are not written", "x-dpone-accepts" = [false]))]
    pub apply_table_metadata: Option<bool>,
    #[schemars(extend("x-dpone-ignored" = "labels and descriptions are not written"))]
    pub table_labels: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "labels and descriptions are not written"))]
    pub table_description: Option<String>,
    #[schemars(extend("x-dpone-unsupported" = "statements around a load belong to the orchestrator"))]
    pub pre_hook: Option<Opaque>,
    #[schemars(extend("x-dpone-unsupported" = "statements around a load belong to the orchestrator"))]
    pub post_hook: Option<Opaque>,

    #[schemars(extend("x-dpone-when" = {"sink.type": ["kafka"]}))]
    pub message_format: Option<MessageFormat>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["kafka"]}))]
    pub envelope: Option<Envelope>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["kafka"]}))]
    pub key: Option<MessageKey>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["kafka"]}))]
    pub delivery: Option<Delivery>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["kafka"]}))]
    pub deletes: Option<Deletes>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["kafka"]}))]
    pub schema_registry: Option<SchemaRegistry>,
}

/// `true`, `false`, a preset by its name, or settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Lineage {
    Enabled(bool),
    Preset(LineagePreset),
    Settings(Box<LineageSettings>),
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineageSettings {
    pub enabled: Option<bool>,
    pub preset: Option<LineagePreset>,
    /// What the preset has otherwise.
    pub features: Option<LineageFeatures>,
    pub row_identity: Option<RowIdentity>,
}

/// Which lineage columns there are. `minimal` and `bulk_standard`: those of the load. `standard`: also the row's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineagePreset {
    Off,
    Minimal,
    BulkStandard,
    Standard,
    Debug,
    Hierarchical,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineageFeatures {
    /// `__dpone__run_id`, `__dpone__load_id` and `__dpone__loaded_at`.
    pub identity: Option<bool>,
    /// `__dpone__row_hash`.
    pub row_identity: Option<bool>,
    #[schemars(extend("x-dpone-unsupported" = "rows of nested documents are not split into tables", "x-dpone-accepts" = [false]))]
    pub hierarchy: Option<bool>,
    #[schemars(extend("x-dpone-unsupported" = "the operation is in the counts of the run's receipt, not in a column", "x-dpone-accepts" = [false]))]
    pub operations: Option<bool>,
    #[schemars(extend("x-dpone-unsupported" = "what a run saw is in its receipt, not in a column", "x-dpone-accepts" = [false]))]
    pub diagnostics: Option<bool>,
    #[schemars(extend("x-dpone-unsupported" = "rows that are put aside are in the run's evidence, not in the target", "x-dpone-accepts" = [false]))]
    pub quarantine: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowIdentity {
    pub mode: Option<RowIdentityMode>,
    #[schemars(extend("x-dpone-ignored" = "rows of every type have a hash"))]
    pub unsupported_policy: Option<UnsupportedPolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowIdentityMode {
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnsupportedPolicy {
    Warn,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TechnicalColumns {
    Required,
    Optional,
    Forbidden,
}

/// How a target follows its source. What is left out has the default of [`crate::schema::EvolutionPolicy`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaEvolution {
    /// False: any difference fails the run.
    pub enabled: Option<bool>,
    pub mode: Option<EvolutionMode>,
    pub tables: Option<TablesMode>,
    pub columns: Option<ColumnsMode>,
    pub data_type: Option<DataTypeMode>,
    pub ddl_mode: Option<DdlMode>,
    pub on_schema_change: Option<OnSchemaChange>,
    pub on_type_change: Option<OnTypeChange>,
    /// Begins with `__dpone__`.
    pub new_column_prefix: Option<String>,
    /// Apply changes whose work grows with the table although others wait for it.
    pub allow_blocking_online: Option<bool>,
    /// How long a statement waits for its lock.
    #[schemars(range(min = 1, max = 86_400))]
    pub lock_timeout_seconds: Option<u64>,
    /// How long a statement may take.
    #[schemars(range(min = 1, max = 604_800))]
    pub statement_timeout_seconds: Option<u64>,
    /// The folder in which changes are recorded.
    pub ledger_path: Option<String>,
    /// The folder in which approvals are looked up.
    pub approvals_path: Option<String>,
    /// Refuse approvals that are not signed.
    pub require_signed: Option<bool>,
    /// Ed25519 public keys whose signatures count, in base64 or as `file:` references.
    pub trusted_keys: Option<Names>,
    /// False: nothing is applied, as with `ddl_mode: plan_only`.
    pub apply_safe: Option<bool>,
    pub on_breaking: Option<OnBreaking>,
    pub target_nullability: Option<TargetNullability>,
    pub allow_reserved_dpone_columns: Option<bool>,
    /// Bytes, or a size such as `10GB`: no DDL but changes of metadata is applied to tables that are larger.
    pub max_table_size_for_inline_ddl: Option<Scalar>,
    /// The earlier names of the source's columns: `{old: new}`, or `old=new, …` as one text.
    pub renames: Option<Renames>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Renames {
    Names(BTreeMap<String, String>),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageKey {
    pub mode: Option<MessageKeyMode>,
}

/// `null` is written without quotes in the contract's examples and so arrives as nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageKeyMode {
    UniqueKey,
    HashRow,
    Null,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    pub mode: Option<DeliveryMode>,
    pub compression_type: Option<String>,
    pub linger_ms: Option<u64>,
    pub batch_num_messages: Option<u64>,
    pub request_timeout_ms: Option<u64>,
    pub flush_timeout: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryMode {
    AtLeastOnce,
    Idempotent,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deletes {
    pub enabled: Option<bool>,
    pub tombstone: Option<bool>,
    pub op_field: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaRegistry {
    pub enabled: Option<bool>,
    pub url: Option<String>,
    pub subject_name_strategy: Option<SubjectNameStrategy>,
    pub auto_register_schemas: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubjectNameStrategy {
    Topic,
    Record,
    TopicRecord,
}
