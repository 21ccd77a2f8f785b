//! What a definition says about changes of the schema: `sink.options.schema_evolution`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which differences are changes that may be made at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvolutionMode {
    /// Every difference is breaking.
    Strict,
    /// Nullable columns are added; every other difference is breaking.
    Additive,
    /// Columns are added and types widened; narrowing and incompatible changes are breaking.
    #[default]
    Widening,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TablesMode {
    /// A target that is not there is created.
    #[default]
    Evolve,
    /// A target that is not there is an error.
    Freeze,
    /// A target that is not there is left alone: nothing is loaded.
    Ignore,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnsMode {
    /// New columns are added to the target.
    #[default]
    Evolve,
    /// A new column is an error.
    Freeze,
    /// New columns are left out.
    Ignore,
    /// Rows with a value in a new column are put aside.
    Quarantine,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataTypeMode {
    /// A type is widened where one holds the values of both.
    #[default]
    Widen,
    /// Values of another type go to a column of their own.
    VariantColumn,
    /// Another type is an error.
    Freeze,
    /// Rows whose value does not fit the target's type are put aside.
    Quarantine,
}

/// When a change of the schema may be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DdlMode {
    /// Changes that keep readers and writers going are applied; others are refused.
    #[default]
    Online,
    /// As `online`, inside a maintenance window that an operator has approved.
    SafeWindow,
    /// Nothing is applied: the plan is written and the run fails.
    PlanOnly,
    /// Nothing is applied before somebody has approved it.
    ManualApproval,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSchemaChange {
    #[default]
    Apply,
    /// Apply, and write a notification.
    Notify,
    Fail,
    DisablePipeline,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTypeChange {
    #[default]
    Fail,
    /// Values of an incompatible type go to a column of their own.
    NewColumn,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBreaking {
    #[default]
    Fail,
    Ignore,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetNullability {
    /// A target that takes NULL where the source has none is a difference.
    Strict,
    #[default]
    AcceptExistingNullable,
}

/// Where approvals are looked up unless the definition says otherwise.
pub const APPROVALS: &str = ".dpone/schema_approvals";
/// Where changes are recorded by modes that need a record, unless the definition says otherwise.
pub const LEDGER: &str = ".dpone/schema_changes";

/// The policy as a whole, with the defaults of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvolutionPolicy {
    pub enabled: bool,
    pub mode: EvolutionMode,
    pub tables: TablesMode,
    pub columns: ColumnsMode,
    pub data_type: DataTypeMode,
    pub ddl_mode: DdlMode,
    pub on_schema_change: OnSchemaChange,
    pub on_type_change: OnTypeChange,
    pub on_breaking: OnBreaking,
    pub target_nullability: TargetNullability,
    pub new_column_prefix: String,
    pub allow_blocking_online: bool,
    /// A column that only the target has is proposed to be dropped. It is never dropped without approval.
    pub allow_drop: bool,
    pub allow_reserved_dpone_columns: bool,
    /// How long a statement waits for its lock. `None`: the connection's own.
    pub lock_timeout_seconds: Option<u64>,
    /// How long a statement may take. `None`: the connection's own.
    pub statement_timeout_seconds: Option<u64>,
    /// Bytes of a table above which no DDL is applied by a run, or that is not metadata only.
    pub max_table_size_for_inline_ddl: Option<u64>,
    /// Folder of the ledger; `None`: nothing is recorded.
    pub ledger_path: Option<String>,
    /// Folder of the approvals.
    pub approvals_path: String,
    /// Refuse approvals without a valid signature.
    pub require_signed: bool,
    /// Public keys whose signatures count, in base64 or as `file:` references; empty: any valid signature.
    pub trusted_keys: Vec<String>,
    /// The source's column for each earlier name that it had.
    pub renames: BTreeMap<String, String>,
}

impl Default for EvolutionPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: EvolutionMode::default(),
            tables: TablesMode::default(),
            columns: ColumnsMode::default(),
            data_type: DataTypeMode::default(),
            ddl_mode: DdlMode::default(),
            on_schema_change: OnSchemaChange::default(),
            on_type_change: OnTypeChange::default(),
            on_breaking: OnBreaking::default(),
            target_nullability: TargetNullability::default(),
            new_column_prefix: "__dpone__nc__".to_owned(),
            allow_blocking_online: false,
            allow_drop: false,
            allow_reserved_dpone_columns: false,
            lock_timeout_seconds: None,
            statement_timeout_seconds: None,
            max_table_size_for_inline_ddl: None,
            ledger_path: None,
            approvals_path: APPROVALS.to_owned(),
            require_signed: false,
            trusted_keys: Vec::new(),
            renames: BTreeMap::new(),
        }
    }
}

impl EvolutionPolicy {
    /// The folder of the ledger, where changes are recorded: where the definition says, or because what waits for
    /// somebody's approval has to be found by them.
    pub fn ledger(&self) -> Option<&str> {
        let waits = matches!(self.ddl_mode, DdlMode::ManualApproval | DdlMode::SafeWindow)
            || matches!(self.on_schema_change, OnSchemaChange::Notify | OnSchemaChange::DisablePipeline);
        self.ledger_path.as_deref().or(waits.then_some(LEDGER))
    }

    /// Whether values of an incompatible type go to a column of their own.
    pub fn routes_variants(&self) -> bool {
        self.on_type_change == OnTypeChange::NewColumn || self.data_type == DataTypeMode::VariantColumn
    }
}
