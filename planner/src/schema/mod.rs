//! Schemas of source and target: what differs, and the changes that would make them agree.

mod compare;

pub use compare::{Drift, check_names, compare};

use arrow::datatypes::SchemaRef;

/// One step of DDL, before a dialect spells it.
#[derive(Debug, Clone, PartialEq)]
pub enum SchemaChange {
    /// Create the target with these columns, and a primary key where the strategy has one.
    CreateTable { schema: SchemaRef, primary_key: Vec<String>, partition_by: Vec<String> },
}
