//! Changes of the target's columns, before anything is staged.
//!
//! Metadata changes at once. A change that writes values again is a mutation, which this waits for. A value that does not
//! convert would leave the column unreadable: so values are tested first, by a query, and the change is not begun when
//! one would be lost.

use dpone_engine::failpoint;
use dpone_engine::run::moved;
use dpone_engine::{Error, Evolution, Evolved, Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{SchemaChange, fingerprint};

use super::catalog::{self, Table};
use super::names::relation;
use super::session::{Session, code};
use super::sink::observe;
use crate::ClickHouseDialect;
use crate::state::StateTables;
use crate::types::{ChType, literal, quote};

/// The table's lock for ALTER was not given in time.
const DEADLOCK_AVOIDED: i32 = 473;
const TIMEOUT_EXCEEDED: i32 = 159;

pub(crate) async fn evolve(session: &Session, evolution: &Evolution<'_>, target: &Relation) -> Result<Evolved> {
    let Some(table) = catalog::find(session, target).await? else { return Err(moved(target)) };
    let (schema, _) = observe(session, &table).await?;
    let facts = catalog::facts(session, &table).await?;
    let compared = schema.fields().iter().filter(|field| !evolution.apart.contains(&field.name().as_str()));
    let compared = arrow::datatypes::Schema::new(compared.cloned().collect::<Vec<_>>());
    if fingerprint(&compared, &facts, &ClickHouseDialect) != evolution.fingerprint {
        return Err(moved(target));
    }
    for change in evolution.changes {
        test_values(session, &table, change).await?;
    }
    let tables = StateTables::new(target, evolution.state_location)?;
    let leases = tables.leases(session);
    failpoint::reach("evolve.begun").await?;
    let mut evolved = Evolved::default();
    let mut settings = vec![("mutations_sync".to_owned(), "2".to_owned()), ("alter_sync".to_owned(), "2".to_owned())];
    if let Some(wait) = evolution.budget.lock_timeout_ms {
        settings.push(("lock_acquire_timeout".to_owned(), wait.div_ceil(1000).max(1).to_string()));
    }
    if let Some(longest) = evolution.budget.statement_timeout_ms {
        settings.push(("max_execution_time".to_owned(), longest.div_ceil(1000).max(1).to_string()));
    }
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for change in evolution.changes {
        for statement in ClickHouseDialect.render(target, change)? {
            leases.check(evolution.lease).await?;
            session.run_long(&statement, &settings).await.map_err(|error| waited(error, target))?;
            evolved.statements.push(statement);
        }
    }
    failpoint::reach("evolve.applied").await?;
    Ok(evolved)
}

fn waited(error: Error, target: &Relation) -> Error {
    match code(&error) {
        Some(DEADLOCK_AVOIDED | TIMEOUT_EXCEEDED) => {
            Error::transient(format!("the change of {target} did not come through within its budget"))
                .with_source(error)
                .with_hint("system.processes and system.mutations tell what is at work on the table")
        }
        _ => error.with("table", target.to_string()),
    }
}

/// Fails when a value would not survive another type.
async fn test_values(session: &Session, table: &Table, change: &SchemaChange) -> Result<()> {
    let SchemaChange::AlterType { from, to } = change else { return Ok(()) };
    let native = crate::dialect::retyped(from, to)?;
    let name = quote(from.name());
    let inner = match native.without_null() {
        ChType::LowCardinality(inner) => inner.without_null(),
        other => other,
    };
    if matches!(inner, ChType::String | ChType::Array(_) | ChType::Map(..) | ChType::Tuple(_) | ChType::Json) {
        return Ok(());
    }
    let lost = session
        .count(&format!(
            "{} WHERE {name} IS NOT NULL AND accurateCastOrNull({name}, {}) IS NULL",
            relation(&table.relation),
            literal(&inner.to_string())
        ))
        .await?;
    if lost == 0 {
        return Ok(());
    }
    Err(Error::data_quality(format!(
        "column {:?} of {}: {lost} value(s) do not convert to {native}, and the column would be unreadable",
        from.name(),
        table.relation
    ))
    .with("column", from.name())
    .with_hint("correct these values first, or load into a new column"))
}
