//! The YAML manifest as types. They are the single source of truth: the JSON Schema, the check of what a user wrote, and
//! the meaning of each key follow from them.
//!
//! Three extensions of the schema say what this version does with a key that it knows:
//! - `x-dpone-unsupported`: the key is refused, and the text says what to do instead;
//! - `x-dpone-ignored`: the key changes no result; one warning says so;
//! - `x-dpone-when`: the key belongs to certain types or modes only, by dotted path.
//!
//! `x-dpone-accepts` lists values that ask for what happens anyway, and so pass without a word.

mod batch;
mod options;
mod strategy;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub use batch::*;
pub use options::*;
pub use strategy::*;

/// A value that is checked for being there and not looked into.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Opaque(pub serde_json::Value);

/// Text, or a number or truth value that is read as text.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    Text(String),
    Integer(i64),
    Number(f64),
    Bool(bool),
}

impl Scalar {
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
        }
    }
}

/// A list of names, or one text with commas between them.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Names {
    List(Vec<String>),
    Text(String),
}

impl Names {
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::List(names) => names.clone(),
            Self::Text(text) if text.trim().is_empty() => Vec::new(),
            // A name that is left out between two commas is no name: whoever checks the names says so.
            Self::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        }
    }
}

/// A process: one table to be loaded.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The process. State and evidence go by this name.
    #[schemars(length(min = 3, max = 64), regex(pattern = "^[a-z0-9_]+$"))]
    pub name: String,
    #[schemars(length(max = 500))]
    pub description: Option<String>,
    pub source: Source,
    pub sink: Sink,
    pub state: Option<State>,
    #[schemars(extend("x-dpone-unsupported" = "declare the columns' types under source.options.columns: a value that does not fit fails the run"))]
    pub schema_contract: Option<Opaque>,
    pub reconciliation: Option<Reconciliation>,
    #[schemars(extend("x-dpone-unsupported" = "quality gates are not run by this version; remove the key, or test the target after the run"))]
    pub quality: Option<Opaque>,
    #[schemars(extend("x-dpone-unsupported" = "write the transformation as a query: source.options.query, or CREATE PIPELINE … AS SELECT", "x-dpone-accepts" = [[]]))]
    pub transforms: Option<Vec<Opaque>>,
    /// For the orchestrator; changes nothing in a run.
    pub depends_on: Option<Vec<Dependency>>,
    /// For the orchestrator; changes nothing in a run.
    pub task_group: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "nothing is written to a technical schema", "x-dpone-accepts" = ["tech"]))]
    pub tech_schema: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "meant for another runtime"))]
    pub runtime: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for other tools"))]
    pub gitops: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "logs, progress and the receipt are set on the command line"))]
    pub observability: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "source.options.batch_size and source.options.partitioning set the pace"))]
    pub performance: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for other tools"))]
    pub certification: Option<Opaque>,
    #[schemars(extend("x-dpone-ignored" = "meant for another runtime"))]
    pub bigquery_proxy: Option<Opaque>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    pub path: Option<String>,
    pub group: Option<String>,
    pub alias: Option<String>,
}

/// What is read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    #[serde(rename = "type")]
    pub kind: SourceType,
    #[schemars(extend("x-dpone-when" = {"source.type": ["api", "rest", "rest_api"]}))]
    pub api_type: Option<ApiType>,
    pub connection_type: Option<ConnectionType>,
    /// The id in the environment, or the parameters: a mapping, or a JSON object as text.
    pub connection_id: Option<ConnectionId>,
    /// A connection that a `.sql` file of the same project creates.
    pub connection_ref: Option<String>,
    pub vault_path: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "secrets come from the environment or from files"))]
    pub vault_mount_point: Option<String>,
    /// Where the files lie: a local path or an object store URL. Globs are fine for files.
    #[schemars(extend("x-dpone-when" = {"source.type": ["file", "delta", "parquet", "csv"]}))]
    pub path: Option<String>,
    /// By the file's extension, when left out.
    #[schemars(extend("x-dpone-when" = {"source.type": ["file"]}))]
    pub format: Option<FileFormat>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["postgres", "mssql", "clickhouse", "bigquery", "mysql", "file", "delta", "parquet", "csv", "memory", "null"]}))]
    pub table: Option<Table>,
    #[schemars(extend("x-dpone-when" = {"source.type": ["kafka"]}))]
    pub topic: Option<String>,
    #[serde(default)]
    pub options: SourceOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceType {
    Postgres,
    Mssql,
    Clickhouse,
    Api,
    Rest,
    RestApi,
    Kafka,
    Bigquery,
    Mysql,
    File,
    Delta,
    Parquet,
    Csv,
    Memory,
    Null,
}

impl SourceType {
    /// The connection's kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Mssql => "mssql",
            Self::Clickhouse => "clickhouse",
            Self::Api | Self::Rest | Self::RestApi => "rest",
            Self::Kafka => "kafka",
            Self::Bigquery => "bigquery",
            Self::Mysql => "mysql",
            Self::File => "file",
            Self::Delta => "delta",
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Memory => "memory",
            Self::Null => "null",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiType {
    Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    Csv,
    Ndjson,
    Parquet,
}

impl FileFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionType {
    Env,
    Params,
    Vault,
    Airflow,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ConnectionId {
    Text(String),
    Params(BTreeMap<String, Opaque>),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub database: Option<String>,
    pub schema: String,
    pub name: String,
}

/// Where it is loaded to, and how.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    #[serde(rename = "type")]
    pub kind: SinkType,
    pub connection_type: Option<ConnectionType>,
    /// The id in the environment, or the parameters: a mapping, or a JSON object as text.
    pub connection_id: Option<ConnectionId>,
    /// A connection that a `.sql` file of the same project creates.
    pub connection_ref: Option<String>,
    pub vault_path: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "secrets come from the environment or from files"))]
    pub vault_mount_point: Option<String>,
    /// Where the tables lie: a local path or an object store URL. A table is at `<path>/<schema>/<name>/`.
    #[schemars(extend("x-dpone-when" = {"sink.type": ["delta", "parquet", "csv"]}))]
    pub path: Option<String>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["postgres", "mssql", "clickhouse", "bigquery", "delta", "parquet", "csv", "memory", "null"]}))]
    pub table: Option<Table>,
    #[schemars(extend("x-dpone-when" = {"sink.type": ["kafka"]}))]
    pub topic: Option<String>,
    pub staging: Option<Staging>,
    pub strategy: StrategySpec,
    #[serde(default)]
    pub options: SinkOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkType {
    Mssql,
    Postgres,
    Clickhouse,
    Bigquery,
    Kafka,
    Delta,
    Parquet,
    Csv,
    Memory,
    Null,
}

impl SinkType {
    /// The connection's kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Mssql => "mssql",
            Self::Postgres => "postgres",
            Self::Clickhouse => "clickhouse",
            Self::Bigquery => "bigquery",
            Self::Kafka => "kafka",
            Self::Delta => "delta",
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Memory => "memory",
            Self::Null => "null",
        }
    }
}

/// Staging tables are created and dropped by the run.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Staging {
    pub schema: Option<String>,
    #[schemars(extend("x-dpone-unsupported" = "staging lies in the sink's own database, so that the commit is one transaction"))]
    pub database: Option<String>,
}

/// Where the watermark is kept. Without it, state lies beside the data, in the same transaction.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    #[serde(rename = "type")]
    pub kind: Option<StateType>,
    pub reuse: Option<Reuse>,
    pub connection_type: Option<ConnectionType>,
    pub connection_id: Option<ConnectionId>,
    pub connection_ref: Option<String>,
    pub vault_path: Option<String>,
    #[schemars(extend("x-dpone-ignored" = "secrets come from the environment or from files"))]
    pub vault_mount_point: Option<String>,
    #[schemars(extend("x-dpone-when" = {"state.type": ["delta"]}))]
    pub path: Option<String>,
    pub table: Option<StateTable>,
    pub atomicity: Option<StateAtomicity>,
    #[schemars(extend("x-dpone-unsupported" = "the state table is created when it is missing; remove the key", "x-dpone-accepts" = ["runtime"]))]
    pub provisioning: Option<Provisioning>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateType {
    Disabled,
    Postgres,
    Mssql,
    Bigquery,
    Delta,
}

impl StateType {
    pub fn kind(self) -> Option<&'static str> {
        match self {
            Self::Disabled => None,
            Self::Postgres => Some("postgres"),
            Self::Mssql => Some("mssql"),
            Self::Bigquery => Some("bigquery"),
            Self::Delta => Some("delta"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reuse {
    Sink,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateAtomicity {
    AfterTarget,
    TargetAtomic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provisioning {
    Runtime,
    External,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateTable {
    pub schema: Option<String>,
    pub name: Option<String>,
    pub kafka_name: Option<String>,
}

/// The comparison of keys that finds deletions, for the reader xmin. Of other strategies only the guards are used; they
/// are the same as those of the strategy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Reconciliation {
    Enabled(bool),
    Settings(Box<ReconciliationSettings>),
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconciliationSettings {
    pub enabled: Option<bool>,
    pub mode: Option<ReconciliationMode>,
    /// `every_run`, a number of runs, or a time such as `1d`.
    pub cadence: Option<Scalar>,
    pub consistency: Option<ReconciliationConsistency>,
    pub delete_policy: Option<ReconciliationDeletePolicy>,
    pub empty_snapshot: Option<EmptySnapshot>,
    pub guards: Option<GuardSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReconciliationMode {
    KeySnapshot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReconciliationConsistency {
    SameSourceSnapshot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReconciliationDeletePolicy {
    HardDelete,
    SoftDelete,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmptySnapshot {
    pub policy: EmptySourceSpec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmptySourceSpec {
    Fail,
    Allow,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardSpec {
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_delete_ratio: Option<f64>,
    pub max_delete_rows: Option<u64>,
}
