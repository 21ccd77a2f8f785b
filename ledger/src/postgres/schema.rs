//! The revisions of the ledger's schema in PostgreSQL, and where a database stands.
//!
//! The first three are the original tool's. It keeps its position in `alembic_version_dpo`, in whatever schema its role
//! created it; that table is read where it exists and kept right, so that both tools agree. Ours is kept in
//! `dpo.schema_revision`.

use tokio_postgres::{Client, Transaction};

use super::client::begin;
use super::error::from_driver;
use crate::error::{ErrorKind, Result};
use crate::ledger::Migration;
use crate::revision::{Chain, Direction, Goal, Revision};

pub(crate) const CHAIN: Chain = Chain(&[
    Revision {
        id: "7d9871ef8afa",
        summary: "executions and checksums",
        up: include_str!("sql/7d9871ef8afa_up.sql"),
        down: include_str!("sql/7d9871ef8afa_down.sql"),
    },
    Revision {
        id: "fe9eed6d812f",
        summary: "shorter table names",
        up: include_str!("sql/fe9eed6d812f_up.sql"),
        down: include_str!("sql/fe9eed6d812f_down.sql"),
    },
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

/// The position of the original's last revision: from here on the tables serve.
const ORIGINAL: usize = 3;

/// `dpo` as a number: whoever moves the schema holds it until the transaction ends.
pub(super) const LOCK: i64 = i64::from_be_bytes(*b"\0\0\0\0\0dpo");

/// Where a database stands.
struct Standing {
    position: usize,
    /// The original's version table, quoted.
    alembic: Option<String>,
}

pub(crate) async fn revision(client: &mut Client) -> Result<Option<&'static str>> {
    let transaction = begin(client).await?;
    Ok(CHAIN.id(standing(&transaction).await?.position))
}

/// To the newest revision. A role that may not change tables which serve as they are goes on with them.
pub(crate) async fn prepare(client: &mut Client) -> Result<Migration> {
    let transaction = begin(client).await?;
    let Standing { position, .. } = standing(&transaction).await?;
    transaction.rollback().await.map_err(from_driver)?;
    let unmoved = Migration { from: CHAIN.id(position), to: CHAIN.id(position) };
    if position == CHAIN.head() {
        return Ok(unmoved);
    }
    match migrate(client, Direction::Up, &Goal::Head).await {
        Err(error) if position >= ORIGINAL && error.kind() == ErrorKind::NotAllowed => {
            tracing::info!("the schema stays at {}: {error}; its owner can run dpo upgrade", unmoved.name());
            Ok(unmoved)
        }
        other => other,
    }
}

pub(crate) async fn migrate(client: &mut Client, direction: Direction, goal: &Goal) -> Result<Migration> {
    let transaction = begin(client).await?;
    // A session that sits on a table must not make every later one wait behind this.
    transaction.batch_execute("SET LOCAL lock_timeout = '60s'").await.map_err(from_driver)?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(from_driver)?;
    let Standing { position: from, alembic } = standing(&transaction).await?;
    let to = CHAIN.resolve(direction, goal, from)?;
    let migration = Migration { from: CHAIN.id(from), to: CHAIN.id(to) };
    if from == to {
        return Ok(migration);
    }
    let has_schema = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'dpo')";
    if !transaction.query_one(has_schema, &[]).await.map_err(from_driver)?.try_get(0).map_err(from_driver)? {
        transaction.batch_execute("CREATE SCHEMA dpo").await.map_err(from_driver)?;
    }
    for (script, position) in CHAIN.steps(from, to) {
        tracing::debug!("moving the schema to {}", CHAIN.id(position).unwrap_or("base"));
        transaction.batch_execute(script).await.map_err(from_driver)?;
    }
    record(&transaction, to).await?;
    if let Some(table) = alembic.filter(|_| from.min(to) < ORIGINAL) {
        set(&transaction, &table, "version_num", CHAIN.id(to.min(ORIGINAL))).await?;
    }
    transaction.commit().await.map_err(from_driver)?;
    Ok(migration)
}

async fn record(transaction: &Transaction<'_>, to: usize) -> Result<()> {
    // Whoever may use the ledger may know its revision.
    let ours = "CREATE TABLE IF NOT EXISTS dpo.schema_revision \
                (revision varchar(32) PRIMARY KEY, applied_on timestamptz NOT NULL DEFAULT now()); \
                GRANT SELECT ON dpo.schema_revision TO PUBLIC";
    if to == 0 {
        return transaction.batch_execute("DROP TABLE IF EXISTS dpo.schema_revision").await.map_err(from_driver);
    }
    transaction.batch_execute(ours).await.map_err(from_driver)?;
    set(transaction, "dpo.schema_revision", "revision", CHAIN.id(to)).await
}

/// Makes `id` the only row, or leaves none.
async fn set(transaction: &Transaction<'_>, table: &str, column: &str, id: Option<&str>) -> Result<()> {
    transaction.batch_execute(&format!("DELETE FROM {table}")).await.map_err(from_driver)?;
    if let Some(id) = id {
        let insert = format!("INSERT INTO {table} ({column}) VALUES ($1)");
        transaction.execute(&insert, &[&id]).await.map_err(from_driver)?;
    }
    Ok(())
}

/// Looks into the catalog's tables, and not through `to_regclass`: what a session has cached of names does not change
/// while it waits for the lock.
async fn standing(transaction: &Transaction<'_>) -> Result<Standing> {
    let query = "SELECT c.relname::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname), \
                        has_table_privilege(c.oid, 'SELECT') \
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p', 'v') AND \
                       (n.nspname = 'dpo' OR c.relname = 'alembic_version_dpo' AND \
                        (n.nspname = 'public' OR pg_table_is_visible(c.oid))) \
                 ORDER BY pg_table_is_visible(c.oid) DESC, n.nspname";
    let mut tables: Vec<Table> = Vec::new();
    for row in transaction.query(query, &[]).await.map_err(from_driver)? {
        tables.push(Table {
            name: row.try_get(0).map_err(from_driver)?,
            quoted: row.try_get(1).map_err(from_driver)?,
            readable: row.try_get(2).map_err(from_driver)?,
        });
    }
    let find = |name: &str| tables.iter().find(|table| table.name == name);
    let ours = recorded(transaction, find("schema_revision"), "revision").await?;
    let alembic = find("alembic_version_dpo");
    let theirs = recorded(transaction, alembic, "version_num").await?;
    let by_shape = || {
        let newest_first = ["execution_step_model", "execution_model", "model_checksum"];
        newest_first.iter().position(|name| find(name).is_some()).map_or(0, |index| ORIGINAL - index)
    };
    let position = match (theirs, ours) {
        (Some(ORIGINAL), Some(ours)) if ours > ORIGINAL => ours,
        (Some(theirs), _) => theirs,
        (None, Some(ours)) => ours,
        (None, None) => by_shape(),
    };
    Ok(Standing { position, alembic: alembic.map(|table| table.quoted.clone()) })
}

struct Table {
    name: String,
    /// With its schema.
    quoted: String,
    readable: bool,
}

/// The position that a version table holds, if there is one that this role may read and it holds any.
async fn recorded(transaction: &Transaction<'_>, table: Option<&Table>, column: &str) -> Result<Option<usize>> {
    let Some(table) = table.filter(|table| table.readable) else { return Ok(None) };
    let query = format!("SELECT {column} FROM {} LIMIT 1", table.quoted);
    let row = transaction.query_opt(&query, &[]).await.map_err(from_driver)?;
    let id: Option<String> = row.map(|row| row.try_get(0)).transpose().map_err(from_driver)?;
    id.map(|id| CHAIN.recorded(&id)).transpose()
}
