//! BigQuery: its types, its spelling of DDL, and what each change of a table costs. Pure; nothing connects yet.

mod cost;
pub mod dialect;
mod names;
pub mod types;

pub use dialect::BigQueryDialect;

/// As in `type:` of a manifest.
pub const SYSTEM: &str = "bigquery";
