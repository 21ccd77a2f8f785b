//! The commit: everything is worked out beside the target, written down as steps, and then done step by step.

use std::time::Duration;

use dpone_engine::failpoint::{self, Reached};
use dpone_engine::{Commit, Error, Lease, Receipt, Relation, Result};
use dpone_planner::definition::OverwriteType;
use dpone_planner::plan::{OPERATION_COLUMN, ScopeFilter, WriteMode};
use dpone_planner::schema::SchemaChange;

use super::catalog::{self, Table};
use super::create::{Creation, Wanted};
use super::journal::{CommitPlan, Step};
use super::names::{StagingNames, list, relation};
use super::session::{Session, code};
use super::staging::{self, Layout};
use super::{changes, overwrite, scope};
use crate::lease::Leases;
use crate::state::StateTables;
use crate::types::literal;

/// How often a step is tried whose answer did not come.
const ATTEMPTS: u32 = 6;
/// How long a statement of a run that is gone may go on before the run that finishes its commit gives up waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

const TABLE_ALREADY_EXISTS: i32 = 57;

/// How many rows met which fate in the target, and how.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub(crate) steps: Vec<Step>,
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
    pub(crate) notes: Vec<String>,
    /// The steps replace rows that were copied: nobody may have written since.
    pub(crate) content: Option<String>,
}

/// What the write modes work with.
pub(crate) struct Work<'a> {
    pub(crate) session: &'a Session,
    pub(crate) commit: &'a Commit<'a>,
    pub(crate) layout: &'a Layout,
    /// All staged rows.
    pub(crate) rows: Relation,
}

impl Work<'_> {
    pub(crate) fn staged_rows(&self) -> u64 {
        self.commit.staged.iter().map(|part| part.rows).sum()
    }

    /// The staged columns that are stored.
    pub(crate) fn columns(&self) -> Vec<&str> {
        let fields = self.commit.load.staged_schema.fields().iter();
        fields.map(|f| f.name().as_str()).filter(|name| *name != OPERATION_COLUMN).collect()
    }

    pub(crate) fn names(&self) -> &StagingNames {
        &self.layout.names
    }

    /// Stops before anything is changed when more rows would disappear than the definition allows.
    pub(crate) async fn guard(&self, table: &Table, removed: u64) -> Result<()> {
        let too_many = |what: String| {
            Error::data_quality(format!("the load would remove {what}"))
                .with_hint("check the source; raise the limit for this run if the deletions are meant")
                .with("table", table.relation.to_string())
        };
        if removed == 0 {
            return Ok(());
        }
        if let Some(most) = self.commit.max_delete_rows.filter(|most| removed > *most) {
            return Err(too_many(format!("{removed} rows, and max_delete_rows is {most}")));
        }
        if let Some(most) = self.commit.max_delete_ratio {
            let total = self.session.count(&table.read_as("t")).await?;
            if removed as f64 > most * total as f64 {
                return Err(too_many(format!("{removed} of {total} rows, and max_delete_ratio is {most}")));
            }
        }
        Ok(())
    }

    /// The plan's table, empty, under the name of the one that becomes the target.
    pub(crate) async fn create_next(&self) -> Result<Relation> {
        let [SchemaChange::CreateTable { schema, primary_key, partition_by }] = self.commit.ddl else {
            return Err(Error::conflict(format!(
                "table {} was there when the load was planned and is gone",
                self.layout.target
            )));
        };
        let next = self.names().next();
        let cursor = self.commit.load.cursor.as_deref();
        let creation =
            Creation::new(&Wanted { schema, primary_key, partition_by, cursor, options: &self.layout.options })?;
        staging::drop_table(self.session, &next).await?;
        self.session.run(&creation.target(&next)).await?;
        Ok(next)
    }

    /// Brings the staged rows into another table of the load: parts are moved where the structure is the same.
    pub(crate) async fn fill(&self, into: &Relation) -> Result<()> {
        match staging::move_all(self.session, &self.rows, into).await {
            // Columns that the table requires and the batch does not: what was not moved is written again.
            Err(error) if !error.is_transient() => {
                tracing::debug!(%error, "parts cannot be moved: the rows are written again");
                self.copy(into).await
            }
            other => other,
        }
    }

    async fn copy(&self, into: &Relation) -> Result<()> {
        let columns = list(self.columns());
        let sql = format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {}", relation(into), relation(&self.rows));
        self.session.insert_select(&sql).await
    }

    /// The step by which a finished table becomes the target that did not exist.
    pub(crate) async fn renaming(&self, from: Relation) -> Result<Step> {
        let uuid = catalog::uuid(self.session, &from).await?.unwrap_or_default();
        Ok(Step::Rename { from, uuid })
    }

    pub(crate) async fn moves(&self, from: &Relation) -> Result<Vec<Step>> {
        let partitions = catalog::partitions(self.session, from).await?;
        Ok(partitions.into_iter().map(|partition| Step::Move { from: from.clone(), partition }).collect())
    }
}

/// `begun` is called when the commit will be finished whatever happens.
pub(crate) async fn commit(
    session: &Session,
    commit: &Commit<'_>,
    target: &Relation,
    begun: &(dyn Fn() + Sync),
) -> Result<Receipt> {
    let load = commit.load;
    let tables = StateTables::new(target, commit.state_location)?;
    if let Some(receipt) = tables.of_load(session, &load.load_id).await? {
        return Ok(receipt);
    }
    let leases = Leases { session, database: &tables.state.schema };
    leases.check(commit.lease).await?;
    let layout = Layout::read(session, load, target).await?;
    check_target(commit, &layout)?;
    let rows = staging::gather(session, load, &layout, commit.staged).await?;
    let work = Work { session, commit, layout: &layout, rows };
    let planned = plan(&work).await?;
    let mut receipt = commit.receipt.clone();
    receipt.rows.apply(planned.inserted, planned.updated, planned.deleted, planned.unchanged);
    receipt.notes.extend(planned.notes);
    receipt.finished_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let plan = CommitPlan {
        target: target.clone(),
        steps: planned.steps,
        database: layout.names.database.clone(),
        prefix: layout.names.prefix.clone(),
        state: commit.state.clone(),
        receipt,
    };
    failpoint::reach("commit.begun").await?;
    if let Some(before) = &planned.content
        && catalog::content(session, target).await? != *before
    {
        return Err(Error::conflict(format!("somebody else wrote into {target} while its next state was built"))
            .with("table", target.to_string())
            .with_hint("run again; while others write, merge by lightweight_delete_insert"));
    }
    let execution = Execution { session, tables: &tables, lease: commit.lease };
    begun();
    let finished = execution.begin(&plan).await;
    match finished {
        Ok(true) => Ok(plan.receipt),
        Ok(false) => look_up(session, &tables, load, None).await,
        // Another run may have finished what this one began.
        Err(error) => match tables.of_load(session, &load.load_id).await {
            Ok(Some(receipt)) => Ok(receipt),
            _ => Err(error),
        },
    }
}

/// The answer to the commit did not come: the server is asked what became of the load.
async fn look_up(
    session: &Session,
    tables: &StateTables,
    load: &dpone_engine::LoadSpec,
    source: Option<Error>,
) -> Result<Receipt> {
    if let Some(receipt) = tables.of_load(session, &load.load_id).await? {
        return Ok(receipt);
    }
    let error = Error::unknown("the commit was cut short, and is finished by the next run of the pipeline")
        .with_hint("run again: with the same run id it reports this load");
    Err(match source {
        Some(source) => error.with_source(source),
        None => error,
    })
}

/// The target may have changed since the load was planned.
fn check_target(commit: &Commit<'_>, layout: &Layout) -> Result<()> {
    let load = commit.load;
    match (&layout.table, commit.ddl) {
        (Some(_), [_, ..]) => {
            Err(Error::conflict(format!("table {} was created by somebody else meanwhile", layout.target))
                .with_hint("run again: the load will be planned for the table as it is now"))
        }
        (None, []) => {
            Err(Error::conflict(format!("table {} was there when the load was planned and is gone", layout.target)))
        }
        (Some(table), []) => {
            let staged = load.staged_schema.fields().iter().filter(|f| f.name() != OPERATION_COLUMN);
            match staged.into_iter().find(|f| table.column(f.name()).is_none()) {
                None => Ok(()),
                Some(field) => Err(Error::conflict(format!(
                    "column {:?} of {} is gone, and was there when the load was planned",
                    field.name(),
                    layout.target
                ))
                .with_hint("run again: the load will be planned for the table as it is now")),
            }
        }
        (None, _) => Ok(()),
    }
}

async fn plan(work: &Work<'_>) -> Result<Planned> {
    let Some(table) = &work.layout.table else { return first_load(work).await };
    match &work.commit.load.write_mode {
        WriteMode::Append => {
            let steps = work.moves(&work.rows).await?;
            Ok(Planned { steps, inserted: work.staged_rows(), ..Planned::default() })
        }
        WriteMode::Overwrite { overwrite: OverwriteType::Exchange } => overwrite::exchange(work, table).await,
        WriteMode::Overwrite { overwrite: OverwriteType::TruncateInsert } => {
            overwrite::replace_all(work, table, None).await
        }
        WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } } => scope::predicate(work, table, sql).await,
        WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns } } => {
            scope::partitions(work, table, columns).await
        }
        WriteMode::Changes { key, operation } => changes::apply(work, table, key, operation).await,
    }
}

/// There is no target: a finished table gets its name.
async fn first_load(work: &Work<'_>) -> Result<Planned> {
    let next = work.create_next().await?;
    let inserted = match &work.commit.load.write_mode {
        WriteMode::Changes { operation, .. } => {
            let columns = list(work.columns());
            let only = match operation.is_column() {
                true => format!(
                    " WHERE {} = {}",
                    crate::types::quote(OPERATION_COLUMN),
                    dpone_planner::plan::INSERT_OR_UPDATE
                ),
                false => String::new(),
            };
            let from = relation(&work.rows);
            let sql = format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {from}{only}", relation(&next));
            work.session.insert_select(&sql).await?;
            work.session.count(&format!("{from}{only}")).await?
        }
        _ => {
            work.fill(&next).await?;
            work.staged_rows()
        }
    };
    let unchanged = work.staged_rows() - inserted;
    let steps = vec![work.renaming(next).await?];
    Ok(Planned { steps, inserted, unchanged, ..Planned::default() })
}

/// Does what a plan says, under a lease.
pub(crate) struct Execution<'a> {
    pub(crate) session: &'a Session,
    pub(crate) tables: &'a StateTables,
    pub(crate) lease: &'a Lease,
}

impl Execution<'_> {
    fn leases(&self) -> Leases<'_> {
        Leases { session: self.session, database: &self.tables.state.schema }
    }

    /// Writes the plan down and carries it out. False: as if the last answer had not come.
    async fn begin(&self, plan: &CommitPlan) -> Result<bool> {
        let (pipeline, token) = (&self.lease.pipeline, self.lease.token);
        let journal = &self.tables.journal;
        journal.write(self.session, pipeline, token, plan).await?;
        // After the plan is written: a run that takes over from now on finds it. One that did before is found here.
        if let Err(lost) = self.leases().check(self.lease).await {
            journal.abandon(self.session, pipeline, token, &plan.receipt.load_id).await?;
            return Err(lost);
        }
        failpoint::reach("commit.planned").await?;
        self.go_on(plan, 0).await
    }

    /// The steps from `done` on, then the receipt and the state.
    pub(crate) async fn go_on(&self, plan: &CommitPlan, done: usize) -> Result<bool> {
        let (pipeline, token) = (&self.lease.pipeline, self.lease.token);
        let (journal, load) = (&self.tables.journal, &plan.receipt.load_id);
        for (number, step) in plan.steps.iter().enumerate().skip(done) {
            if number > 0 {
                self.leases().check(self.lease).await?;
            }
            if let Err(error) = self.step(plan, step).await {
                if number == 0 && step.is_atomic() && !error.is_transient() && !self.is_done(plan, step).await? {
                    // The server refused the first of them: nothing was changed, and nothing is to be finished.
                    journal.abandon(self.session, pipeline, token, load).await?;
                }
                return Err(refused(error, plan, step));
            }
            failpoint::reach("commit.step").await?;
            // Whether rows were moved, their old place shows. Of the others only the mark tells.
            if !matches!(step, Step::Move { .. }) {
                journal.mark(self.session, pipeline, token, load, number + 1).await?;
            }
        }
        self.tables.put_load(self.session, &plan.receipt, &plan.target, token).await?;
        failpoint::reach("commit.recorded").await?;
        self.tables.put_state(self.session, &plan.state, Some(token)).await?;
        let answered = failpoint::reach("commit.applied").await? == Reached::GoOn;
        journal.finish(self.session, pipeline, token, load).await?;
        Ok(failpoint::reach("commit.acknowledged").await? == Reached::GoOn && answered)
    }

    /// One step, again when its answer did not come.
    async fn step(&self, plan: &CommitPlan, step: &Step) -> Result<()> {
        let settings: &[(&str, &str)] = match step {
            // Waits until all parts are without the rows, here and on replicas.
            Step::Delete { mutation: true, .. } => &[("mutations_sync", "2")],
            Step::Delete { .. } => &[("lightweight_deletes_sync", "2")],
            _ => &[("max_partition_size_to_drop", "0"), ("max_table_size_to_drop", "0")],
        };
        let mut pause = Duration::from_millis(200);
        let mut attempt = 1;
        loop {
            if self.is_done(plan, step).await? {
                return Ok(());
            }
            match self.session.run_long(&step.statement(&plan.target), settings).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                    tracing::debug!(%error, attempt, "a step of the commit is tried again");
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    // The statement may be at work although its answer did not come.
                    quiet(self.session, &step.own().name).await?;
                    self.leases().check(self.lease).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the tables show that the step was done.
    async fn is_done(&self, plan: &CommitPlan, step: &Step) -> Result<bool> {
        Ok(match step {
            Step::Rename { from, .. } => {
                catalog::uuid(self.session, from).await?.is_none()
                    && catalog::uuid(self.session, &plan.target).await?.is_some()
            }
            Step::Exchange { uuid, .. } => catalog::uuid(self.session, &plan.target).await?.as_ref() == Some(uuid),
            Step::Move { from, partition } => !catalog::partitions(self.session, from).await?.contains(partition),
            Step::Replace { .. } | Step::Drop { .. } | Step::Delete { .. } => false,
        })
    }
}

fn refused(error: Error, plan: &CommitPlan, step: &Step) -> Error {
    if matches!(step, Step::Rename { .. }) && code(&error) == Some(TABLE_ALREADY_EXISTS) {
        return Error::conflict(format!("table {} was created by somebody else meanwhile", plan.target))
            .with_hint("run again: the load will be planned for the table as it is now");
    }
    error.with("table", plan.target.to_string())
}

/// Waits until no statement is at work that names the table.
pub(crate) async fn quiet(session: &Session, name: &str) -> Result<()> {
    let began = std::time::Instant::now();
    let sql = format!(
        "SELECT toString(count()) FROM system.processes WHERE position(query, {}) > 0 \
         AND position(query, 'system.processes') = 0",
        literal(name)
    );
    while session.number(&sql).await? > 0 {
        if began.elapsed() > LONGEST_WAIT {
            return Err(Error::transient(format!("a statement of an earlier run is still at work on {name}"))
                .with_hint("look for it in system.processes; run again when it has ended"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Finishes commits of earlier runs of the pipeline, which were cut short. The lease is ours.
pub(crate) async fn recover(session: &Session, tables: &StateTables, lease: &Lease) -> Result<()> {
    for entry in tables.journal.open(session, &lease.pipeline).await? {
        let execution = Execution { session, tables, lease };
        if tables.of_load(session, &entry.load_id).await?.is_some() {
            // Its rows and its receipt are there. Its state may not be: it is written, or written again.
            tables.put_state(session, &entry.plan.state, Some(lease.token)).await?;
            tables.journal.finish(session, &lease.pipeline, lease.token, &entry.load_id).await?;
        } else if tables.is_passed(session, &lease.pipeline, entry.token).await? {
            // Written down by a run that had lost its lease, and was killed before it saw that: it did no step.
            tables.journal.abandon(session, &lease.pipeline, lease.token, &entry.load_id).await?;
        } else {
            tracing::info!(load_id = entry.load_id, "finishing the commit of an earlier run");
            let mut plan = entry.plan.clone();
            fence(session, &mut plan, lease.token).await?;
            tables.journal.write(session, &lease.pipeline, lease.token, &plan).await?;
            if entry.done > 0 {
                tables.journal.mark(session, &lease.pipeline, lease.token, &entry.load_id, entry.done).await?;
            }
            execution.go_on(&plan, entry.done).await?;
        }
        staging::drop_all(session, &entry.plan.database, &entry.plan.prefix).await?;
    }
    Ok(())
}

/// Gives the load's tables other names, so that whatever the earlier run still sends fails, and waits for what it sent.
async fn fence(session: &Session, plan: &mut CommitPlan, token: u64) -> Result<()> {
    let suffix = format!("_t{token}");
    let there = staging::tables(session, &plan.database, &plan.prefix).await?;
    let mut names: Vec<String> = plan.steps.iter().map(|step| step.own().name.clone()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let base = without_token(&name).to_owned();
        let renamed = format!("{base}{suffix}");
        // The run before may itself have been finishing it, and have died between renaming and writing so.
        let now = there.iter().filter(|t| without_token(t) == base).max().cloned();
        if let Some(now) = now.filter(|now| *now != renamed) {
            let (from, to) = (Relation::new(&plan.database, now), Relation::new(&plan.database, &renamed));
            session.run(&format!("RENAME TABLE {} TO {}", relation(&from), relation(&to))).await?;
        }
        for step in plan.steps.iter_mut().filter(|step| step.own().name == name) {
            step.own_mut().name.clone_from(&renamed);
        }
        quiet(session, &base).await?;
        let mutations = format!(
            "KILL MUTATION WHERE database = {} AND table = {} AND NOT is_done AND position(command, {}) > 0 SYNC",
            literal(&plan.target.schema),
            literal(&plan.target.name),
            literal(&base)
        );
        session.run_long(&mutations, &[]).await?;
    }
    Ok(())
}

/// A table's name without the token of a run that took it over.
fn without_token(name: &str) -> &str {
    match name.rsplit_once("_t") {
        Some((base, token)) if !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_taken_over_is_known_by_its_first_name() {
        assert_eq!(without_token("a_rows"), "a_rows");
        assert_eq!(without_token("a_rows_t12"), "a_rows");
        assert_eq!(without_token("a_rows_t12x"), "a_rows_t12x");
    }
}
