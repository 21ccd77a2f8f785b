//! The revisions of the ledger's schema in SQLite. The original tool had none, so its earlier ones are left out.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::store::failed;
use crate::error::Result;
use crate::ledger::Migration;
use crate::revision::{Chain, Direction, Goal, Revision};

pub(crate) const CHAIN: Chain = Chain(&[
    Revision {
        id: "c5c34dd0b8f2",
        summary: "steps and statistics",
        up: include_str!("sql/c5c34dd0b8f2_up.sql"),
        down: include_str!("sql/c5c34dd0b8f2_down.sql"),
    },
    Revision {
        id: "5b1e0c6a94d3",
        summary: "indexes on what is looked up",
        up: include_str!("sql/5b1e0c6a94d3_up.sql"),
        down: include_str!("sql/5b1e0c6a94d3_down.sql"),
    },
]);

pub(crate) fn revision(connection: &mut Connection) -> Result<Option<&'static str>> {
    Ok(CHAIN.id(position(connection)?))
}

pub(crate) fn prepare(connection: &mut Connection) -> Result<Migration> {
    let position = position(connection)?;
    if position == CHAIN.head() {
        return Ok(Migration { from: CHAIN.id(position), to: CHAIN.id(position) });
    }
    migrate(connection, Direction::Up, &Goal::Head)
}

/// An immediate transaction is the lock: whoever comes second waits, and finds the work done.
pub(crate) fn migrate(connection: &mut Connection, direction: Direction, goal: &Goal) -> Result<Migration> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let from = position(&transaction)?;
    let to = CHAIN.resolve(direction, goal, from)?;
    let migration = Migration { from: CHAIN.id(from), to: CHAIN.id(to) };
    for (script, position) in CHAIN.steps(from, to) {
        tracing::debug!("moving the schema to {}", CHAIN.id(position).unwrap_or("base"));
        transaction.execute_batch(script).map_err(failed)?;
    }
    if from != to {
        record(&transaction, CHAIN.id(to))?;
    }
    transaction.commit().map_err(failed)?;
    Ok(migration)
}

fn record(transaction: &Transaction<'_>, id: Option<&str>) -> Result<()> {
    let Some(id) = id else {
        return transaction.execute_batch("DROP TABLE IF EXISTS schema_revision").map_err(failed);
    };
    let table = "CREATE TABLE IF NOT EXISTS schema_revision (revision TEXT PRIMARY KEY NOT NULL, \
                 applied_on TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now'))); \
                 DELETE FROM schema_revision";
    transaction.execute_batch(table).map_err(failed)?;
    transaction.execute("INSERT INTO schema_revision (revision) VALUES (?1)", [id]).map_err(failed)?;
    Ok(())
}

fn position(connection: &Connection) -> Result<usize> {
    let has = |table: &str| {
        let query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
        connection.query_row(query, [table], |_| Ok(())).optional().map_err(failed).map(|found| found.is_some())
    };
    if has("schema_revision")? {
        let query = "SELECT revision FROM schema_revision LIMIT 1";
        let id: Option<String> = connection.query_row(query, [], |row| row.get(0)).optional().map_err(failed)?;
        if let Some(id) = id {
            return CHAIN.recorded(&id);
        }
    }
    Ok(usize::from(has("execution_step_model")?))
}
