//! The commit: one transaction that checks the lease, applies the rows with the load's write mode, records the load
//! and moves the state.

use std::time::Duration;

use dpone_engine::failpoint::{self, Reached};
use dpone_engine::{Commit, Error, Receipt, Relation, Result};
use dpone_planner::definition::OverwriteType;
use dpone_planner::plan::{ScopeFilter, WriteMode};

use super::names::{StagingNames, list, relation};
use super::staging::{self, Layout};
use super::target::{self, Table};
use super::{PostgresSink, append, changes, exchange, overwrite, scope};
use crate::catalog;
use crate::client::{CancelOnDrop, Client};
use crate::error::{from_driver, is_name_race};
use crate::state::{StateTables, fence, outcome, put_load, put_state};

/// How many rows met which fate in the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
}

/// What the write modes work with, inside the transaction.
pub(crate) struct Apply<'a> {
    pub(crate) client: &'a Client,
    pub(crate) commit: &'a Commit<'a>,
    pub(crate) layout: &'a Layout,
    pub(crate) names: &'a StagingNames,
    pub(crate) target: Relation,
    /// Where the rows to apply are, under the alias `s` in all statements.
    pub(crate) rows: Relation,
    /// The target's columns now.
    pub(crate) table: Table,
}

impl Apply<'_> {
    pub(crate) fn staged_rows(&self) -> u64 {
        self.commit.staged.iter().map(|p| p.rows).sum()
    }

    /// `INSERT INTO target (…) SELECT … FROM staging s`, to which a mode appends its condition.
    pub(crate) fn insert_select(&self) -> String {
        let (columns, values) = self.inserted();
        format!("INSERT INTO {} {columns}SELECT {values} FROM {} s", relation(&self.target), relation(&self.rows))
    }

    /// The columns that an INSERT names, with what it has to say of identities, and their staged values.
    pub(crate) fn inserted(&self) -> (String, String) {
        let columns = self.layout.names();
        let values: Vec<String> = columns.iter().map(|c| self.staged_value(c)).collect();
        let names = format!("({}) {}", list(columns.iter().copied()), self.table.overriding(&columns));
        (names, values.join(", "))
    }

    pub(crate) async fn count(&self, sql: &str) -> Result<u64> {
        Ok(self.client.row(sql, &[]).await?.map_or(0, |row| row.get::<_, i64>(0)) as u64)
    }

    pub(crate) async fn target_rows(&self) -> Result<u64> {
        self.count(&format!("SELECT count(*) FROM {}", relation(&self.target))).await
    }

    pub(crate) async fn guard(&self, removed: u64) -> Result<()> {
        guard(self.client, self.commit, &self.target, removed).await
    }

    /// Guards a replacement: `from` is `FROM target t …`, which gives the `before` rows that are to be replaced.
    pub(crate) async fn guard_replaced(&self, from: &str, before: u64) -> Result<()> {
        let key = staged_key(self.client, self.commit, self.table.oid, self.layout).await?;
        let pairs: Vec<String> =
            key.iter().map(|k| format!("t.{} = {}", super::names::quote(k), self.staged_value(k))).collect();
        let removed = if pairs.is_empty() {
            before.saturating_sub(self.staged_rows())
        } else {
            let joined = if from.contains(" WHERE ") { "AND" } else { "WHERE" };
            self.count(&format!(
                "SELECT count(*) {from} {joined} NOT EXISTS (SELECT FROM {} s WHERE {})",
                relation(&self.rows),
                pairs.join(" AND ")
            ))
            .await?
        };
        self.guard(removed).await
    }

    /// A column's value of a staged row under the alias `s`, in the target's type.
    fn staged_value(&self, column: &str) -> String {
        match self.rows == self.names.rows() {
            true => self.layout.value(column),
            false => format!("s.{}", super::names::quote(column)),
        }
    }
}

/// The primary key of the target, where a guard asks how many rows disappear and all its columns are loaded: a row
/// disappears when no staged row has its key. Empty: only how much fewer rows there are can be known.
pub(super) async fn staged_key(
    client: &Client,
    commit: &Commit<'_>,
    target: u32,
    layout: &Layout,
) -> Result<Vec<String>> {
    if commit.max_delete_rows.is_none() && commit.max_delete_ratio.is_none() {
        return Ok(Vec::new());
    }
    let key = catalog::primary_key(client, target).await?;
    let loaded = layout.names();
    Ok(if key.iter().all(|column| loaded.contains(&column.as_str())) { key } else { Vec::new() })
}

/// Stops before anything is changed when more rows would disappear than the definition allows. A row disappears when it
/// is deleted and no loaded row has its key; without a key, modes that replace rows count by how much fewer there are.
pub(super) async fn guard(client: &Client, commit: &Commit<'_>, target: &Relation, removed: u64) -> Result<()> {
    let too_many = |what: String| {
        Error::data_quality(format!("the load would remove {what}"))
            .with_hint("check the source; raise the limit for this run if the deletions are meant")
            .with("table", target.to_string())
    };
    if removed == 0 {
        return Ok(());
    }
    if let Some(most) = commit.max_delete_rows.filter(|most| removed > *most) {
        return Err(too_many(format!("{removed} rows, and max_delete_rows is {most}")));
    }
    if let Some(most) = commit.max_delete_ratio {
        let sql = format!("SELECT count(*) FROM {}", relation(target));
        let total = client.row(&sql, &[]).await?.map_or(0, |row| row.get::<_, i64>(0));
        if removed as f64 > most * total as f64 {
            return Err(too_many(format!("{removed} of {total} rows, and max_delete_ratio is {most}")));
        }
    }
    Ok(())
}

pub(super) async fn commit(sink: &PostgresSink, commit: &Commit<'_>) -> Result<Receipt> {
    let target = sink.resolve(&commit.load.target)?;
    let names = StagingNames::new(commit.load, &target);
    let tables = StateTables::new(&target, commit.state_location)?;
    let client = sink.server.connect().await?;
    let layout = staging::layout(&client, &names).await?;
    // Indexes are built before the target is locked: its readers wait only for the swap itself.
    let finished = match layout.swap {
        true => match exchange::finish(sink, commit, &layout, &names, &target).await {
            Ok(finished) => Some(finished),
            Err(error) => return Err(staging::with_culprit(sink, &layout, &names, error).await),
        },
        false => None,
    };
    let receipt = {
        let work = Work { sink, commit, layout: &layout, names: &names, target: &target, tables: &tables };
        let cancel = CancelOnDrop::new(&client);
        let mut attempt = 0;
        let receipt = loop {
            match work.transaction(&client, finished.as_ref()).await {
                Ok(receipt) => break receipt,
                // The server has said no, and why: nothing was committed, and the next attempt chooses another name.
                Err(error) if attempt < 5 && is_name_race(&error) => attempt += 1,
                Err(error) => return Err(staging::with_culprit(sink, &layout, &names, error).await),
            }
            client.run("ROLLBACK").await?;
        };
        cancel.disarm();
        receipt
    };
    let answered = match client.batch_execute("COMMIT").await {
        // The server said no: nothing was committed.
        Err(error) if error.as_db_error().is_some() => return Err(from_driver(error)),
        Err(_) => false,
        Ok(()) => failpoint::reach("commit.acknowledged").await? != Reached::LostAck,
    };
    if answered {
        return Ok(receipt);
    }
    drop(client);
    look_up(sink, commit, &tables).await
}

struct Work<'a> {
    sink: &'a PostgresSink,
    commit: &'a Commit<'a>,
    layout: &'a Layout,
    names: &'a StagingNames,
    target: &'a Relation,
    tables: &'a StateTables,
}

impl Work<'_> {
    /// Everything up to COMMIT. An error leaves the transaction to be rolled back with its connection.
    async fn transaction(&self, client: &Client, finished: Option<&exchange::Finished>) -> Result<Receipt> {
        let commit = self.commit;
        // Where row security would hide rows from us, a silent part of the table would be loaded: fail instead.
        client
            .run(&format!(
                "BEGIN; {}; SET LOCAL row_security = off; SET LOCAL work_mem = '128MB'",
                self.sink.lock_timeout()
            ))
            .await?;
        fence(client, self.tables, commit.lease).await?;
        failpoint::reach("commit.begun").await?;
        let lock = if self.layout.swap { "ACCESS EXCLUSIVE" } else { "SHARE" };
        let copied = self.layout.copy_table(self.names);
        client.run(&format!("LOCK TABLE {} IN {lock} MODE", relation(&copied))).await?;
        staging::verify(client, self.names, commit.staged).await?;

        let mut notes = self.layout.notes.clone();
        let applied = match finished {
            Some(finished) => self.swap(client, finished, &mut notes).await?,
            None => self.apply(client, self.names.rows(), &mut notes).await?,
        };
        let mut receipt = commit.receipt.clone();
        receipt.rows.apply(applied.inserted, applied.updated, applied.deleted, applied.unchanged);
        receipt.notes.extend(notes);
        receipt.finished_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        put_load(client, self.tables, &receipt, false).await?;
        put_state(client, self.tables, commit.state).await?;
        failpoint::reach("commit.applied").await?;
        Ok(receipt)
    }

    async fn swap(&self, client: &Client, finished: &exchange::Finished, notes: &mut Vec<String>) -> Result<Applied> {
        match exchange::swap(client, self.commit, self.layout, self.names, self.target, finished).await? {
            exchange::Swapped::Done(applied) => Ok(applied),
            exchange::Swapped::Forbidden(reasons) => {
                notes.push(exchange::fallback_note(self.target, &reasons));
                self.apply(client, self.names.finished(), notes).await
            }
        }
    }

    /// Applies staged rows to the target that exists.
    async fn apply(&self, client: &Client, rows: Relation, notes: &mut Vec<String>) -> Result<Applied> {
        let table = target::read(client, self.target).await?;
        let planned = self.layout.target.as_ref();
        let table = match (table, planned) {
            (Some(table), Some(planned)) if table.columns == planned.columns => table,
            _ => {
                return Err(Error::conflict(format!("the target {} was altered during the load", self.target))
                    .with_hint("run again: the load is planned from what is there now")
                    .with("table", self.target.to_string()));
            }
        };
        let apply = Apply {
            client,
            commit: self.commit,
            layout: self.layout,
            names: self.names,
            target: self.target.clone(),
            rows,
            table,
        };
        match &self.commit.load.write_mode {
            WriteMode::Append => append::apply(&apply).await,
            WriteMode::Overwrite { overwrite: OverwriteType::Exchange | OverwriteType::TruncateInsert } => {
                overwrite::truncate_insert(&apply, notes).await
            }
            WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } } => scope::predicate(&apply, sql).await,
            WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns } } => {
                scope::partitions(&apply, columns).await
            }
            WriteMode::Changes { key, operation } => changes::apply(&apply, key, operation.patch()).await,
        }
    }
}

/// COMMIT was sent and no answer came: ask a new connection what became of the load.
async fn look_up(sink: &PostgresSink, commit: &Commit<'_>, tables: &StateTables) -> Result<Receipt> {
    let mut wait = Duration::from_millis(200);
    let mut last = None;
    for _ in 0..8 {
        let found = match sink.server.connect().await {
            Ok(client) => outcome(&client, tables, commit.lease, &commit.load.load_id).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(Some(receipt)) => return Ok(receipt),
            Ok(None) => {
                return Err(Error::transient("the connection was lost during COMMIT, and the load was rolled back")
                    .with_hint("nothing was changed: run again"));
            }
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
    let error =
        Error::unknown("the connection was lost during COMMIT, and the server cannot be asked what became of it")
            .with_hint("run again with the same run id: it reports the load if it was committed, and loads otherwise");
    Err(match last {
        Some(source) => error.with_source(source),
        None => error,
    })
}
