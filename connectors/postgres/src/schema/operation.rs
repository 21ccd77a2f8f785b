//! What can be done to a table, as far as its cost depends on it: the changes of a plan, and the steps around them.

use arrow::datatypes::Field;
use dpone_planner::schema::{COLLATION, DEFAULT, DefaultValue, SchemaChange};
use dpone_planner::types::GENERATED;
use dpone_planner::{Error, Result};

use super::native::NativeType;
use super::types::{labels, native_type};
use crate::types::BASE;

/// One statement, without its spelling.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    CreateTable,
    AddColumn(NewColumn),
    AlterType(TypeChange),
    /// `ALTER TYPE … ADD VALUE`
    AddLabel,
    /// `has_null`: the column takes NULL now.
    SetNotNull {
        column: String,
        has_null: bool,
    },
    /// `ADD CONSTRAINT … NOT NULL … NOT VALID`
    AddNotNullNotValid {
        column: String,
    },
    /// `filled`: the table fills the column by itself, as an identity or by an expression.
    DropNotNull {
        column: String,
        filled: bool,
    },
    SetDefault {
        column: String,
        filled: bool,
    },
    DropDefault {
        column: String,
        filled: bool,
    },
    Comment,
    SetStatistics,
    /// `SET (fillfactor = …)` and its like.
    SetStorageParameters,
    RenameColumn {
        column: String,
    },
    RenameTable,
    DropColumn {
        column: String,
    },
    /// `valid`: without `NOT VALID`.
    AddCheck {
        valid: bool,
    },
    AddForeignKey {
        valid: bool,
    },
    ValidateCheck,
    ValidateForeignKey,
    DropCheck,
    DropForeignKey,
    /// `using_index`: of an index that is there; `nullable`: a column of the key takes NULL now.
    AddPrimaryKey {
        using_index: bool,
        nullable: bool,
    },
    AddUnique {
        using_index: bool,
    },
    CreateIndex {
        concurrently: bool,
    },
    DropIndex {
        concurrently: bool,
    },
    AddToPublication,
    CreateTrigger,
    /// `proven`: a validated CHECK of the new partition says what its bounds say.
    AttachPartition {
        proven: bool,
    },
    DetachPartition,
    SetUnlogged,
    Cluster,
}

/// A column that is added.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewColumn {
    pub not_null: bool,
    pub default: NewDefault,
    /// The type is a domain with a CHECK or NOT NULL, or may be one.
    pub domain: DomainKind,
    pub inline: Option<Inline>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewDefault {
    #[default]
    None,
    /// One value for all rows that are there: a constant, or the time of the transaction.
    Constant,
    /// Another value for each row. `known`: it is one, and not only taken for it.
    Volatile {
        known: bool,
    },
    Identity,
    Stored,
    Virtual,
}

/// A constraint in the definition of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inline {
    Check,
    Unique,
    References,
}

/// What is known of a type that is not one of the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DomainKind {
    #[default]
    No,
    Free,
    Checked,
    /// A type that somebody made, of which only the name is known.
    Unknown,
}

/// A column that gets another type, or another collation.
#[derive(Debug, Clone, PartialEq)]
pub struct TypeChange {
    pub(super) column: String,
    pub(super) from: NativeType,
    pub(super) to: NativeType,
    pub(super) domain: DomainKind,
    pub(super) collates: bool,
    /// The statement computes the values by an expression of its own.
    pub(super) computed: bool,
}

impl TypeChange {
    pub fn new(from: &Field, to: &Field) -> Result<Self> {
        let mut old = native_type(from)?;
        if from.metadata().contains_key(BASE) {
            // The server does not look for a length behind a domain.
            old.modifiers.clear();
        }
        let collation = |field: &Field| field.metadata().get(COLLATION).cloned().filter(|c| !c.is_empty());
        Ok(Self {
            column: from.name().clone(),
            from: old,
            to: native_type(to)?,
            domain: DomainKind::No,
            collates: collation(to).is_some() && collation(from) != collation(to),
            computed: false,
        })
    }

    /// To a domain above the new type.
    pub fn to_domain(self, domain: DomainKind) -> Self {
        Self { domain, ..self }
    }

    /// With an expression that the server does not see through.
    pub fn computed(self) -> Self {
        Self { computed: true, ..self }
    }
}

impl Operation {
    /// The operation of a change; an error where its types are none of PostgreSQL's.
    pub fn of(change: &SchemaChange) -> Result<Self> {
        let name = |field: &Field| field.name().clone();
        let filled = |field: &Field| field.metadata().contains_key(GENERATED);
        Ok(match change {
            SchemaChange::CreateTable { .. } => Self::CreateTable,
            SchemaChange::AddColumn { column } => Self::AddColumn(NewColumn::new(column)?),
            SchemaChange::AlterType { from, to } => match (labels(from), labels(to)) {
                (Some(_), Some(_)) => Self::AddLabel,
                _ => Self::AlterType(TypeChange::new(from, to)?),
            },
            SchemaChange::SetCollation { column, .. } => {
                let change = TypeChange::new(column, column)?;
                let array = change.to.element();
                if !matches!(array.base.as_str(), "text" | "character varying" | "character" | "name" | "citext") {
                    return Err(Error::configuration(format!(
                        "column {:?} is {}, which has no collation",
                        column.name(),
                        change.to.name()
                    ))
                    .with("column", column.name()));
                }
                Self::AlterType(TypeChange { collates: true, ..change })
            }
            SchemaChange::SetNotNull { column } => {
                Self::SetNotNull { column: name(column), has_null: column.is_nullable() }
            }
            SchemaChange::DropNotNull { column } => Self::DropNotNull { column: name(column), filled: filled(column) },
            SchemaChange::SetDefault { column, .. } => {
                Self::SetDefault { column: name(column), filled: filled(column) }
            }
            SchemaChange::DropDefault { column } => Self::DropDefault { column: name(column), filled: filled(column) },
            SchemaChange::SetComment { .. } => Self::Comment,
            SchemaChange::RenameColumn { from, .. } => Self::RenameColumn { column: name(from) },
            SchemaChange::DropColumn { column } => Self::DropColumn { column: name(column) },
        })
    }
}

impl NewColumn {
    pub fn new(field: &Field) -> Result<Self> {
        let native = native_type(field)?;
        let default = match field.metadata().get(DEFAULT).filter(|text| !text.is_empty()) {
            Some(text) => volatility(&DefaultValue::parse(field.name(), text)?),
            None => NewDefault::None,
        };
        let own = native.is_own() && !native.is_of_extension() && labels(field).is_none();
        Ok(Self {
            not_null: !field.is_nullable(),
            default,
            domain: if own { DomainKind::Unknown } else { DomainKind::No },
            inline: None,
        })
    }
}

/// Functions that give every row of a statement the same value.
const STABLE: &[&str] = &[
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "current_database",
    "current_schema",
    "pi",
    "txid_current",
    "pg_current_xact_id",
    "version",
    "pg_backend_pid",
    "inet_client_addr",
    "inet_server_addr",
];

const VOLATILE: &[&str] =
    &["clock_timestamp", "timeofday", "random", "gen_random_uuid", "uuidv4", "uuidv7", "uuid_generate_v4"];

fn volatility(default: &DefaultValue) -> NewDefault {
    match default {
        DefaultValue::Null => NewDefault::None,
        DefaultValue::Call(name) => {
            let bare = name.strip_prefix("pg_catalog.").unwrap_or(name);
            if STABLE.contains(&bare) {
                NewDefault::Constant
            } else {
                NewDefault::Volatile { known: VOLATILE.contains(&bare) }
            }
        }
        _ => NewDefault::Constant,
    }
}
