//! Drift between what the source gives and what the target has.

use arrow::datatypes::Schema;

use crate::dialect::Dialect;
use crate::error::{Error, Result};
use crate::plan::RESERVED_PREFIX;
use crate::types::{is_raw, logical_name, native_of};

/// One difference that stops a load until somebody decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The source has a column that the target lacks.
    Added { column: String, source: String },
    /// The target has a column that the source lacks.
    Dropped { column: String, target: String },
    /// The target's type cannot hold every value of the source's.
    Type { column: String, source: String, target: String },
    /// The source may give NULL where the target refuses it.
    Nullability { column: String },
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added { column, source } => write!(f, "{column}: {source} in the source, missing in the target"),
            Self::Dropped { column, target } => write!(f, "{column}: {target} in the target, missing in the source"),
            Self::Type { column, source, target } => {
                write!(f, "{column}: {source} in the source does not fit {target} in the target")
            }
            Self::Nullability { column } => {
                write!(f, "{column}: may be NULL in the source, is NOT NULL in the target")
            }
        }
    }
}

/// Compares what would be stored with what is there. A source that is narrower, or stricter about NULL, is no drift.
///
/// `nullable_ok` names columns whose staged rows are checked for NULL anyway, such as keys.
pub fn compare(source: &Schema, target: &Schema, nullable_ok: &[String], dialect: &dyn Dialect) -> Result<Vec<Drift>> {
    let mut drift = Vec::new();
    for field in source.fields() {
        if field.name().starts_with(RESERVED_PREFIX) {
            return Err(Error::configuration(format!(
                "the source has a column {:?}: the prefix {RESERVED_PREFIX} is reserved",
                field.name()
            ))
            .with_hint("give the column another name in a query: SELECT … AS …"));
        }
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
        } else if field.is_nullable() && !there.is_nullable() && !nullable_ok.contains(field.name()) {
            drift.push(Drift::Nullability { column: field.name().clone() });
        }
    }
    for field in target.fields() {
        if source.field_with_name(field.name()).is_err() && !field.name().starts_with(RESERVED_PREFIX) {
            drift.push(Drift::Dropped { column: field.name().clone(), target: describe(field, dialect) });
        }
    }
    Ok(drift)
}

fn describe(field: &arrow::datatypes::Field, dialect: &dyn Dialect) -> String {
    native_of(field, dialect.system()).map_or_else(|| logical_name(field), str::to_owned)
}
