//! One connection for one migration: its record, and statements under the budget for locks.

use std::time::Duration;

use dpone_engine::schema::{MigrationBudget, MigrationRequest};
use dpone_engine::{Error, Relation, Result};
use dpone_planner::schema::expand_contract::Migration;

use super::catalog;
use super::sql::{Names, STATE_TABLE};
use crate::client::Client;
use crate::write::PostgresSink;
use crate::write::names::{literal, quote, relation};

/// How far a migration is, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Expanding,
    Expanded,
    Backfilling,
    Backfilled,
    Validated,
    CutOver,
    Contracted,
}

impl Stage {
    const ALL: [Self; 7] = [
        Self::Expanding,
        Self::Expanded,
        Self::Backfilling,
        Self::Backfilled,
        Self::Validated,
        Self::CutOver,
        Self::Contracted,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Expanding => "expanding",
            Self::Expanded => "expanded",
            Self::Backfilling => "backfilling",
            Self::Backfilled => "backfilled",
            Self::Validated => "validated",
            Self::CutOver => "cut_over",
            Self::Contracted => "contracted",
        }
    }
}

/// What is remembered of a migration.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) stage: Stage,
    pub(super) oid: u32,
    /// Where the next batch begins.
    pub(super) cursor: Option<Vec<String>>,
    pub(super) signature: Option<String>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) table: Relation,
    pub(super) table_oid: u32,
    pub(super) pages: i64,
    pub(super) names: Names,
    pub(super) budget: MigrationBudget,
    id: String,
    column: String,
    plan_hash: String,
    state: Relation,
}

impl Session {
    pub(super) async fn begin(
        sink: &PostgresSink,
        table: &Relation,
        migration: &Migration,
        request: &MigrationRequest<'_>,
    ) -> Result<Self> {
        let client = sink.server.connect().await?;
        // Names mean the same here as in the functions; scans and index builds take the time they need.
        client.run("SET search_path = pg_catalog, pg_temp; SET statement_timeout = 0; SET lock_timeout = 0").await?;
        let found = catalog::table(&client, table).await?;
        let session = Self {
            client,
            table: table.clone(),
            table_oid: found.oid,
            pages: found.pages,
            names: Names::new(table, migration),
            budget: request.budget.clone(),
            id: migration.schema_change_id.clone(),
            column: migration.column.clone(),
            plan_hash: request.plan_hash.to_owned(),
            state: table.sibling(STATE_TABLE),
        };
        session.lock_out_others().await?;
        Ok(session)
    }

    /// One process migrates a table at a time. A session that has just ended, or was killed, holds its lock for a moment.
    async fn lock_out_others(&self) -> Result<()> {
        let sql = "SELECT pg_try_advisory_lock(hashtext('dpone expand-contract'), $1::oid::int)";
        for _ in 0..50 {
            if self.client.row(sql, &[&self.table_oid]).await?.is_some_and(|row| row.get(0)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Error::conflict(format!("another process migrates {}", self.table))
            .with_hint("wait for it; each phase can be run again"))
    }

    pub(super) async fn end(self) {
        self.client.close().await;
    }

    pub(super) async fn record(&self) -> Result<Option<Record>> {
        let there = self
            .client
            .row(
                "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relname = $2)",
                &[&self.state.schema, &self.state.name],
            )
            .await?;
        if !there.is_some_and(|row| row.get(0)) {
            return Ok(None);
        }
        let sql = format!(
            "SELECT stage, table_oid, next_after, signature FROM {} WHERE migration_id = $1",
            relation(&self.state)
        );
        let Some(row) = self.client.row(&sql, &[&self.id]).await? else { return Ok(None) };
        let stage: String = row.get(0);
        let stage = Stage::ALL.into_iter().find(|known| known.as_str() == stage).ok_or_else(|| {
            Error::conflict(format!("{} knows a stage {stage:?} that this version does not know", self.state))
        })?;
        Ok(Some(Record { stage, oid: row.get(1), cursor: row.get(2), signature: row.get(3) }))
    }

    pub(super) async fn begin_record(&self, stage: Stage, signature: &str) -> Result<()> {
        let state = relation(&self.state);
        self.client
            .run(&format!(
                "CREATE TABLE IF NOT EXISTS {state} (migration_id text PRIMARY KEY, table_name text NOT NULL, table_oid \
                 oid NOT NULL, column_name text NOT NULL, plan_hash text NOT NULL, stage text NOT NULL, next_after \
                 text[], rows_done bigint NOT NULL DEFAULT 0, signature text, updated_at timestamptz NOT NULL DEFAULT \
                 now())"
            ))
            .await?;
        let sql = format!(
            "INSERT INTO {state} (migration_id, table_name, table_oid, column_name, plan_hash, stage, signature) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (migration_id) DO UPDATE SET stage = EXCLUDED.stage, \
             signature = EXCLUDED.signature, plan_hash = EXCLUDED.plan_hash, updated_at = now()"
        );
        let name = self.table.to_string();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&self.id, &name, &self.table_oid, &self.column, &self.plan_hash, &stage.as_str(), &signature];
        self.client.execute(&sql, &parameters).await.map(drop)
    }

    /// The statement that notes a stage, for a transaction.
    pub(super) fn set_stage(&self, stage: Stage) -> String {
        format!(
            "UPDATE {} SET stage = {}, next_after = NULL, updated_at = now() WHERE migration_id = {}",
            relation(&self.state),
            literal(stage.as_str()),
            literal(&self.id)
        )
    }

    /// The statement that notes how far the batches are.
    pub(super) fn set_cursor(&self, next: &[String], rows: u64) -> String {
        let next: Vec<String> = next.iter().map(|text| literal(text)).collect();
        format!(
            "UPDATE {} SET stage = {}, next_after = ARRAY[{}]::text[], rows_done = rows_done + {rows}, updated_at = now() \
             WHERE migration_id = {}",
            relation(&self.state),
            literal(Stage::Backfilling.as_str()),
            next.join(", "),
            literal(&self.id)
        )
    }

    pub(super) async fn save_stage(&self, stage: Stage) -> Result<()> {
        self.client.run(&self.set_stage(stage)).await
    }

    /// The statement that notes what the table looks like now, for every migration of it: the change is one of ours.
    pub(super) fn sign(&self) -> String {
        format!(
            "UPDATE {} SET signature = {} WHERE table_oid = {}",
            relation(&self.state),
            catalog::signature(self.table_oid),
            self.table_oid
        )
    }

    pub(super) async fn signature(&self) -> Result<String> {
        let sql = format!("SELECT {}", catalog::signature(self.table_oid));
        Ok(self.client.row(&sql, &[]).await?.map(|row| row.get(0)).unwrap_or_default())
    }

    pub(super) fn forget(&self) -> String {
        format!("DELETE FROM {} WHERE migration_id = {}", relation(&self.state), literal(&self.id))
    }

    /// Half of the budget to wait for the lock, and the whole of it for each statement: together what a writer can come
    /// to wait behind us.
    fn begin_sql(&self) -> String {
        let budget = self.budget.lock.as_millis().max(2);
        format!("BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {budget}", budget / 2)
    }

    /// The statements in one transaction, again where a lock was not free in time.
    pub(super) async fn locked(&self, statements: &[String]) -> Result<()> {
        let sql = format!("{}; {}; COMMIT", self.begin_sql(), statements.join(";\n"));
        let mut patience = self.patience();
        loop {
            match self.client.run(&sql).await {
                Ok(()) => return Ok(()),
                Err(error) => patience.after(self, error).await?,
            }
        }
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { wait: self.budget.backoff, attempt: 1 }
    }

    pub(super) async fn begin_transaction(&self) -> Result<()> {
        self.client.run(&self.begin_sql()).await
    }

    /// Whether an index is there: `Some(valid)`.
    pub(super) async fn index(&self, index: &Relation) -> Result<Option<bool>> {
        let row = self
            .client
            .row(
                "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                 JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
                &[&index.schema, &index.name],
            )
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Builds an index while writers go on. What an earlier attempt left behind is removed: `IF NOT EXISTS` would take it
    /// for an index.
    pub(super) async fn build(&self, index: &Relation, create: &str) -> Result<bool> {
        match self.index(index).await? {
            Some(true) => return Ok(false),
            Some(false) => self.drop_index(index).await?,
            None => {}
        }
        if let Err(error) = self.client.run(create).await {
            self.drop_index(index).await?;
            return Err(error);
        }
        match self.index(index).await? {
            Some(true) => Ok(true),
            _ => Err(Error::unknown(format!("the index {} was not built", quote(&index.name)))),
        }
    }

    pub(super) async fn drop_index(&self, index: &Relation) -> Result<()> {
        self.client.run(&format!("DROP INDEX CONCURRENTLY IF EXISTS {}", relation(index))).await
    }
}

/// How often a transaction was tried that did not get its lock.
#[derive(Debug)]
pub(super) struct Patience {
    wait: Duration,
    attempt: u32,
}

impl Patience {
    /// Ends the transaction, and waits before the next try; the error where there is none.
    pub(super) async fn after(&mut self, session: &Session, error: Error) -> Result<()> {
        // The connection itself may be what failed.
        let _ = session.client.run("ROLLBACK").await;
        if !is_lock(&error) {
            return Err(error);
        }
        if self.attempt >= session.budget.attempts {
            return Err(Error::transient(format!(
                "the lock on {} was not free for {} times {} ms",
                session.table,
                self.attempt,
                session.budget.lock.as_millis()
            ))
            .with_hint("see who holds it in pg_stat_activity; run the phase again at a quieter time"));
        }
        tracing::info!(attempt = self.attempt, "the table is locked by others: waiting {} ms", self.wait.as_millis());
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(Duration::from_secs(30));
        self.attempt += 1;
        Ok(())
    }
}

/// A lock that was not free, a deadlock, or work under the lock that would have taken longer than the budget.
fn is_lock(error: &Error) -> bool {
    ["55P03", "40P01", "40001", "57014"].iter().any(|code| error.message().contains(&format!("SQLSTATE {code}")))
}
