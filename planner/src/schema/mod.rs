//! Schemas of source and target: what differs, what each difference costs on the target's server, and what is done
//! about it. Pure and offline: a dialect knows its system, and a catalog that was read before gives the facts.

mod columns;
mod compare;
mod cost;
mod decide;
mod default;
pub mod expand_contract;
mod facts;
mod lattice;
mod names;
mod plan;
mod policy;
mod sequence;
mod variant;

pub use columns::{ALIASES, COLLATION, COMMENT, DEFAULT, read_columns, with_aliases};
pub use compare::{Change, ChangeKind, ColumnShape, Comparison, compare_columns};
pub use cost::{Cost, LockBudget, Risk, Work};
pub use decide::{Action, Approval, Decision, decide};
pub use default::DefaultValue;
pub use facts::{Dependent, DependentKind, EngineColumn, TableFacts};
pub use lattice::{Fit, TypeShape, fit};
pub use names::check_names;
pub use plan::{OnlinePlan, SchemaPlan, fingerprint, plan_schema};
pub use policy::{
    APPROVALS, ColumnsMode, DataTypeMode, DdlMode, EvolutionMode, EvolutionPolicy, LEDGER, OnBreaking, OnSchemaChange,
    OnTypeChange, TablesMode, TargetNullability,
};
pub use variant::variants_of;

use arrow::datatypes::{FieldRef, SchemaRef};

/// One step of DDL, before a dialect spells it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub enum SchemaChange {
    /// Create the target with these columns, and a primary key where the strategy has one.
    CreateTable {
        schema: SchemaRef,
        primary_key: Vec<String>,
        partition_by: Vec<String>,
    },
    /// Add a column: its default, comment and collation are in the field's metadata.
    AddColumn {
        column: FieldRef,
    },
    /// Give a column another type. Both fields have its name.
    AlterType {
        from: FieldRef,
        to: FieldRef,
    },
    DropNotNull {
        column: FieldRef,
    },
    SetNotNull {
        column: FieldRef,
    },
    /// The default is an expression of the system's own SQL.
    SetDefault {
        column: FieldRef,
        default: String,
    },
    DropDefault {
        column: FieldRef,
    },
    /// `None` removes the comment.
    SetComment {
        column: FieldRef,
        comment: Option<String>,
    },
    /// Give a text column another collation.
    SetCollation {
        column: FieldRef,
        collation: String,
    },
    RenameColumn {
        from: FieldRef,
        to: String,
    },
    DropColumn {
        column: FieldRef,
    },
}

impl SchemaChange {
    /// The column that is changed, under its name before the change; `None` for changes of the table.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::CreateTable { .. } => None,
            Self::AlterType { from, .. } | Self::RenameColumn { from, .. } => Some(from.name()),
            Self::AddColumn { column }
            | Self::DropNotNull { column }
            | Self::SetNotNull { column }
            | Self::SetDefault { column, .. }
            | Self::DropDefault { column }
            | Self::SetComment { column, .. }
            | Self::SetCollation { column, .. }
            | Self::DropColumn { column } => Some(column.name()),
        }
    }
}

/// A change in words, for systems without DDL.
pub fn describe_change(
    dialect: &dyn crate::dialect::Dialect,
    table: &crate::relation::Relation,
    change: &SchemaChange,
) -> crate::error::Result<Vec<String>> {
    let name = |field: &FieldRef| dialect.quote(field.name());
    let what = match change {
        SchemaChange::AddColumn { column } => format!("add column {} {}", name(column), dialect.native_type(column)?),
        SchemaChange::AlterType { from, to } => {
            format!("alter column {} type {}", name(from), dialect.native_type(to)?)
        }
        SchemaChange::DropNotNull { column } => format!("alter column {} drop not null", name(column)),
        SchemaChange::SetComment { column, comment } => match comment {
            Some(comment) => format!("comment on column {} is '{}'", name(column), comment.replace('\'', "''")),
            None => format!("comment on column {} is null", name(column)),
        },
        other => return Err(cannot_change(dialect.system(), other)),
    };
    Ok(vec![format!("alter {} table {}: {what}", dialect.system(), dialect.quote_relation(table))])
}

/// The error for a change that a system has no way to make.
pub fn cannot_change(system: &str, change: &SchemaChange) -> crate::error::Error {
    let what = match change {
        SchemaChange::CreateTable { .. } => "create a table",
        SchemaChange::AddColumn { .. } => "add a column",
        SchemaChange::AlterType { .. } => "change the type of a column",
        SchemaChange::DropNotNull { .. } => "let a column take NULL",
        SchemaChange::SetNotNull { .. } => "forbid NULL in a column",
        SchemaChange::SetDefault { .. } | SchemaChange::DropDefault { .. } => "change the default of a column",
        SchemaChange::SetComment { .. } => "comment on a column",
        SchemaChange::SetCollation { .. } => "change the collation of a column",
        SchemaChange::RenameColumn { .. } => "rename a column",
        SchemaChange::DropColumn { .. } => "drop a column",
    };
    let error = crate::error::Error::configuration(format!("{system} cannot {what}"));
    match change.column() {
        Some(column) => error.with("column", column),
        None => error,
    }
}

#[cfg(test)]
mod tests;
