//! Names that are ours.

use arrow::datatypes::Schema;

use crate::error::{Error, Result};
use crate::plan::RESERVED_PREFIX;

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
