//! The phases for systems that dpone does not migrate by itself: the statements as the system writes them, all of them
//! for somebody to run.

use std::sync::Arc;

use super::{Migration, MigrationKind, MigrationStep, Phase, StepDecision};
use crate::dialect::Dialect;
use crate::error::Result;
use crate::relation::Relation;
use crate::schema::SchemaChange;

/// Rows of one batch.
const BATCH: u32 = 20_000;

pub(super) fn steps(table: &Relation, migration: &Migration, dialect: &dyn Dialect) -> Result<Vec<MigrationStep>> {
    let Some(field) = &migration.target else { return Ok(Vec::new()) };
    let render = |change: &SchemaChange| dialect.render(table, change);
    let manual = |phase, ddl, guidance: &str| MigrationStep::new(phase, StepDecision::Manual, ddl, guidance);
    let named = |name: &str| Arc::new(field.as_ref().clone().with_name(name).with_nullable(true));
    let rename = |from: &str, to: &str| render(&SchemaChange::RenameColumn { from: named(from), to: to.to_owned() });
    let drop = |name: &str| render(&SchemaChange::DropColumn { column: named(name) });
    let sql = Sql { table: dialect.quote_relation(table), dialect, migration };
    Ok(match migration.kind {
        MigrationKind::Retype | MigrationKind::Rename => {
            let rename_only = migration.kind == MigrationKind::Rename;
            let mut cut_over = Vec::new();
            let mut back = Vec::new();
            if !rename_only {
                cut_over.extend(rename(&migration.column, &migration.retired)?);
                cut_over.extend(rename(&migration.shadow, &migration.column)?);
                back.extend(rename(&migration.column, &migration.shadow)?);
                back.extend(rename(&migration.retired, &migration.column)?);
            }
            let retired = if rename_only { &migration.column } else { &migration.retired };
            vec![
                manual(
                    Phase::Expand,
                    render(&SchemaChange::AddColumn { column: named(&migration.shadow) })?,
                    "add the new column, and let every writer fill both columns from here on: this system has no trigger \
                     that could",
                ),
                manual(
                    Phase::Backfill,
                    vec![sql.backfill()],
                    "copy the rows of before; where the statement is one of batches, run it until it touches no row",
                ),
                manual(
                    Phase::Validate,
                    vec![sql.failing(), sql.differing()],
                    "both counts must be 0: values that do not convert, and rows that differ",
                ),
                manual(Phase::Contract, cut_over, "swap the names when no writer is on its way; consumers go on"),
                manual(
                    Phase::Contract,
                    drop(retired)?,
                    "drop the old column when nobody reads it: there is no way back",
                ),
                manual(Phase::Rollback, back, "swap the names back; rows written since have to be copied back first"),
                manual(Phase::Rollback, drop(&migration.shadow)?, "before the names are swapped: drop the new column"),
            ]
        }
        MigrationKind::NotNull => vec![
            manual(Phase::Backfill, sql.fill().into_iter().collect(), "give the rows without a value one"),
            manual(Phase::Validate, vec![sql.nulls()], "the count must be 0"),
            manual(
                Phase::Contract,
                render(&SchemaChange::SetNotNull { column: field.clone() }).unwrap_or_default(),
                "forbid NULL",
            ),
        ],
        MigrationKind::Drop => vec![
            manual(Phase::Validate, Vec::new(), "see that no writer and no reader uses the column"),
            manual(Phase::Contract, drop(&migration.column)?, "drop the column: there is no way back"),
        ],
    })
}

struct Sql<'a> {
    table: String,
    dialect: &'a dyn Dialect,
    migration: &'a Migration,
}

impl Sql<'_> {
    fn old(&self) -> String {
        self.dialect.quote(&self.migration.column)
    }

    fn shadow(&self) -> String {
        self.dialect.quote(&self.migration.shadow)
    }

    /// The old value as the new type, NULL where it is none.
    fn converted(&self) -> String {
        let (old, to) = (self.old(), &self.migration.to_type);
        match self.dialect.system() {
            _ if self.migration.kind == MigrationKind::Rename => old,
            "clickhouse" => format!("accurateCastOrNull({old}, '{}')", to.replace('\\', "\\\\").replace('\'', "\\'")),
            "mssql" => format!("TRY_CAST({old} AS {to})"),
            "bigquery" => format!("SAFE_CAST({old} AS {to})"),
            _ => format!("CAST({old} AS {to})"),
        }
    }

    fn backfill(&self) -> String {
        let (table, old, new, converted) = (&self.table, self.old(), self.shadow(), self.converted());
        match self.dialect.system() {
            "clickhouse" => {
                format!("ALTER TABLE {table} UPDATE {new} = {converted} WHERE {new} IS NULL AND {old} IS NOT NULL")
            }
            "mssql" => format!(
                "UPDATE TOP ({BATCH}) {table} SET {new} = {converted} WHERE {new} IS NULL AND {old} IS NOT NULL AND \
                 {converted} IS NOT NULL"
            ),
            _ => format!("UPDATE {table} SET {new} = {converted} WHERE {new} IS NULL AND {old} IS NOT NULL"),
        }
    }

    fn failing(&self) -> String {
        let (table, old, converted) = (&self.table, self.old(), self.converted());
        format!("SELECT COUNT(*) FROM {table} WHERE {old} IS NOT NULL AND {converted} IS NULL")
    }

    fn differing(&self) -> String {
        let (table, old, new, converted) = (&self.table, self.old(), self.shadow(), self.converted());
        format!(
            "SELECT COUNT(*) FROM {table} WHERE {new} <> {converted} OR ({new} IS NULL AND {converted} IS NOT NULL) OR \
             ({new} IS NOT NULL AND {old} IS NULL)"
        )
    }

    fn fill(&self) -> Option<String> {
        let (table, old) = (&self.table, self.old());
        let default = self.migration.default.as_ref()?;
        Some(match self.dialect.system() {
            "clickhouse" => format!("ALTER TABLE {table} UPDATE {old} = {default} WHERE {old} IS NULL"),
            "mssql" => format!("UPDATE TOP ({BATCH}) {table} SET {old} = {default} WHERE {old} IS NULL"),
            _ => format!("UPDATE {table} SET {old} = {default} WHERE {old} IS NULL"),
        })
    }

    fn nulls(&self) -> String {
        format!("SELECT COUNT(*) FROM {} WHERE {} IS NULL", self.table, self.old())
    }
}
