//! Carrying a written commit out: step by step, each done once whatever answers get lost.

use std::time::Duration;

use dpone_engine::failpoint::{self, Reached};
use dpone_engine::{Error, Lease, Result};

use super::catalog;
use super::journal::{CommitPlan, Step};
use super::session::{Session, TABLE_ALREADY_EXISTS, code};
use crate::lease::Leases;
use crate::state::StateTables;
use crate::types::literal;

/// How often a step is tried whose answer did not come.
const ATTEMPTS: u32 = 6;
/// How long a statement of a run that is gone may go on before the run that finishes its commit gives up waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Does what a plan says, under a lease.
pub(crate) struct Execution<'a> {
    pub(crate) session: &'a Session,
    pub(crate) tables: &'a StateTables,
    pub(crate) lease: &'a Lease,
    /// Goes on with what another run began, and may have done.
    pub(crate) resumes: bool,
}

impl Execution<'_> {
    fn leases(&self) -> Leases<'_> {
        self.tables.leases(self.session)
    }

    /// Writes the plan down and carries it out. False: as if the last answer had not come.
    pub(super) async fn begin(&self, plan: &CommitPlan) -> Result<bool> {
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
            // Whether rows were moved, their old place shows. Of the others only the mark tells. That all is done, the
            // receipt tells as well.
            if !matches!(step, Step::Move { .. }) && number + 1 < plan.steps.len() {
                journal.mark(self.session, pipeline, token, load, number + 1).await?;
            }
        }
        let (_, _, version) = tokio::try_join!(
            journal.mark(self.session, pipeline, token, load, plan.steps.len()),
            self.tables.put_load(self.session, &plan.receipt, &plan.target, token),
            self.tables.next_version(self.session, pipeline, Some(token))
        )?;
        failpoint::reach("commit.recorded").await?;
        self.tables.put_state(self.session, &plan.state, version).await?;
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
            if (self.resumes || attempt > 1) && self.is_done(plan, step).await? {
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
    pub(super) async fn is_done(&self, plan: &CommitPlan, step: &Step) -> Result<bool> {
        Ok(match step {
            Step::Rename { from, .. } => {
                catalog::uuid(self.session, from).await?.is_none()
                    && catalog::uuid(self.session, &plan.target).await?.is_some()
            }
            Step::Exchange { uuid, .. } => catalog::uuid(self.session, &plan.target).await?.as_ref() == Some(uuid),
            Step::Move { from, partition } => {
                let is_there = catalog::partitions(self.session, from).await?.contains(partition);
                if !is_there && catalog::uuid(self.session, from).await?.is_none() {
                    return Err(Error::conflict(format!(
                        "table {from} is gone, which held rows on their way into {}",
                        plan.target
                    )));
                }
                !is_there
            }
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
