//! Drift between what the source gives and what the target has.

use arrow::datatypes::Schema;

use crate::dialect::Dialect;
use crate::error::{Error, Result};
use crate::plan::RESERVED_PREFIX;
use crate::types::{GENERATED, is_raw, logical_name, native_of};

/// One difference that stops a load until somebody decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The source has a column that the target lacks.
    Added { column: String, source: String },
    /// The target has a column that the source lacks.
    Dropped { column: String, target: String },
    /// The target's type cannot hold every value of the source's.
    Type { column: String, source: String, target: String },
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added { column, source } => write!(f, "{column}: {source} in the source, missing in the target"),
            Self::Dropped { column, target } => write!(f, "{column}: {target} in the target, missing in the source"),
            Self::Type { column, source, target } => {
                write!(f, "{column}: {source} in the source does not fit {target} in the target")
            }
        }
    }
}

/// Refuses columns of the source whose names are kept for ours.
pub fn check_names(source: &Schema) -> Result<()> {
    match source.fields().iter().find(|field| field.name().starts_with(RESERVED_PREFIX)) {
        None => Ok(()),
        Some(field) => Err(Error::configuration(format!(
            "the source has a column {:?}: the prefix {RESERVED_PREFIX} is reserved",
            field.name()
        ))
        .with("column", field.name())
        .with_hint("give the column another name in a query: SELECT … AS …, or leave it out: exclude_columns")),
    }
}

/// Compares what would be stored with what is there. A source that is narrower is no drift, nor is a column that the
/// target fills by itself; whether a column may be NULL is checked on the staged rows.
pub fn compare(source: &Schema, target: &Schema, dialect: &dyn Dialect) -> Result<Vec<Drift>> {
    let mut drift = Vec::new();
    for field in source.fields() {
        let Ok(there) = target.field_with_name(field.name()) else {
            drift.push(Drift::Added { column: field.name().clone(), source: describe(field, dialect) });
            continue;
        };
        if !is_raw(field) && dialect.staged_field(field, there)?.is_none() {
            drift.push(Drift::Type {
                column: field.name().clone(),
                source: describe(field, dialect),
                target: describe(there, dialect),
            });
        }
    }
    for field in target.fields() {
        let filled = field.name().starts_with(RESERVED_PREFIX) || field.metadata().contains_key(GENERATED);
        if source.field_with_name(field.name()).is_err() && !filled {
            drift.push(Drift::Dropped { column: field.name().clone(), target: describe(field, dialect) });
        }
    }
    Ok(drift)
}

fn describe(field: &arrow::datatypes::Field, dialect: &dyn Dialect) -> String {
    native_of(field, dialect.system()).map_or_else(|| logical_name(field), str::to_owned)
}
