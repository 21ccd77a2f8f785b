//! The core, on a dialect whose costs the test sets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod columns;
mod compare;
mod decide;
mod lattice;

use std::path::Path;

use arrow::datatypes::{Field, Schema};

use super::*;
use crate::dialect::Dialect;
use crate::error::Result;
use crate::relation::Relation;

/// Spells types as plans do. Widening costs what the field says; all else is metadata.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) widening: Risk,
}

impl Default for Plain {
    fn default() -> Self {
        Self { widening: Risk::MetadataOnly }
    }
}

impl Dialect for Plain {
    fn system(&self) -> &'static str {
        "plain"
    }

    fn quote(&self, identifier: &str) -> String {
        format!("\"{}\"", identifier.replace('"', "\"\""))
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        Ok(self.shape(field).name())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        Ok(field.clone())
    }

    fn longest_name(&self) -> usize {
        63
    }

    fn cost(&self, _: &Relation, _: &TableFacts, change: &SchemaChange) -> Cost {
        match change {
            SchemaChange::AlterType { .. } => {
                Cost::new(self.widening, Some("EXCLUSIVE"), Work::Rewrite, "as the test says")
                    .online_path(["go around"])
            }
            _ => Cost::new(Risk::MetadataOnly, Some("EXCLUSIVE"), Work::None, "nothing to do"),
        }
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        let column = self.quote(change.column().unwrap_or_default());
        Ok(vec![match change {
            SchemaChange::AddColumn { column: field } => {
                format!("ALTER TABLE {table} ADD COLUMN {column} {}", self.native_type(field)?)
            }
            SchemaChange::AlterType { to, .. } => {
                format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {}", self.native_type(to)?)
            }
            other => format!("ALTER TABLE {table} {other:?}"),
        }])
    }

    fn within_budget(&self, statements: Vec<String>, budget: &LockBudget) -> Vec<String> {
        let lock = budget.lock_timeout_ms.map(|ms| format!("wait at most {ms} ms"));
        lock.into_iter().chain(statements).collect()
    }
}

/// Columns as a file lists them.
pub(super) fn columns(json: &str) -> Schema {
    read_columns(Path::new("columns.json"), json, &Plain::default()).unwrap_or_else(|e| unreachable!("{json}: {e}"))
}

pub(super) fn table() -> Relation {
    Relation::new("landing", "orders")
}

pub(super) fn planned(source: &str, target: &str, dialect: &Plain, policy: &EvolutionPolicy) -> SchemaPlan {
    plan_schema(&table(), &columns(source), &columns(target), &TableFacts::default(), dialect, policy)
        .unwrap_or_else(|e| unreachable!("{source} {target}: {e}"))
}
