//! The ledger: what the command asks, whatever database holds the answers.

use std::time::Duration;

use uuid::Uuid;

use crate::changes::{Checksums, changed_models};
use crate::error::Result;
use crate::model::Model;
use crate::names::StepName;
use crate::revision::{Direction, Goal, Revision};
use crate::rules;
use crate::runs::{RunRecord, Successes};
use crate::target::Target;
use crate::{postgres, sqlite};

/// An open ledger. Every call is one transaction.
#[derive(Debug)]
pub struct Ledger(Store);

#[derive(Debug)]
enum Store {
    Postgres(Box<postgres::Store>),
    Sqlite(sqlite::Store),
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// ISO 8601, UTC, microseconds.
    pub started_on: String,
    pub completed_on: String,
    pub milliseconds: i64,
    /// Of an execution: names of the steps that were begun and not completed.
    pub open_steps: Vec<String>,
}

/// A move of the schema. No id is the empty schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    pub from: Option<&'static str>,
    pub to: Option<&'static str>,
}

impl Migration {
    pub fn has_moved(&self) -> bool {
        self.from != self.to
    }

    /// Where the schema is now.
    pub fn name(&self) -> &'static str {
        self.to.unwrap_or("base")
    }
}

/// Runs one method of whichever store is open. SQLite is a file: its calls do not wait for anybody far away.
macro_rules! on_store {
    ($ledger:expr, $method:ident($($argument:expr),*)) => {
        match &mut $ledger.0 {
            Store::Postgres(store) => store.$method($($argument),*).await,
            Store::Sqlite(store) => store.$method($($argument),*),
        }
    };
}

impl Ledger {
    /// Connects. The schema is left as it is: see [`Ledger::prepare`].
    pub async fn connect(target: &Target) -> Result<Self> {
        Self::connect_within(target, sqlite::PATIENCE).await
    }

    /// The same; a SQLite file that another process writes to is waited for so long, and no longer, in each call.
    pub async fn connect_within(target: &Target, patience: Duration) -> Result<Self> {
        Ok(Self(match target {
            Target::Postgres(config) => Store::Postgres(Box::new(postgres::Store::connect(config).await?)),
            Target::Sqlite(path) => Store::Sqlite(sqlite::Store::open(path, patience)?),
        }))
    }

    /// Brings the schema to the newest revision: creates it, or takes over one of an older version. Safe to call from
    /// any number of processes at once. A role that may not do so can go on where the tables serve as they are.
    pub async fn prepare(&mut self) -> Result<Migration> {
        on_store!(self, prepare())
    }

    /// Moves the schema.
    pub async fn migrate(&mut self, direction: Direction, goal: &Goal) -> Result<Migration> {
        on_store!(self, migrate(direction, goal))
    }

    /// The schema's revision; nothing where there are no tables.
    pub async fn revision(&mut self) -> Result<Option<&'static str>> {
        on_store!(self, revision())
    }

    /// The revisions that a kind of database has, oldest first.
    pub fn revisions(target: &Target) -> &'static [Revision] {
        match target {
            Target::Postgres(_) => postgres::CHAIN.0,
            Target::Sqlite(_) => sqlite::CHAIN.0,
        }
    }

    /// Begins an execution, under an id of the caller's or a new one. Fails where the id is in use.
    pub async fn init_execution(&mut self, id: Option<Uuid>) -> Result<Uuid> {
        let id = id.unwrap_or_else(Uuid::new_v4);
        on_store!(self, init_execution(id))?;
        Ok(id)
    }

    /// The completed execution that was touched last.
    pub async fn last_successful_execution(&mut self) -> Result<Option<Uuid>> {
        on_store!(self, last_successful_execution())
    }

    /// When an execution was completed: ISO 8601, UTC, microseconds. Fails where it was not.
    pub async fn completed_on(&mut self, execution: Uuid) -> Result<String> {
        on_store!(self, execution(execution))?.ok_or_else(|| rules::unknown_execution(execution))?.completion(execution)
    }

    /// Begins a step of an open execution and records its models.
    pub async fn init_step(&mut self, execution: Uuid, name: StepName, models: &[Model]) -> Result<Uuid> {
        let id = Uuid::new_v4();
        on_store!(self, init_step(id, execution, name, models))?;
        Ok(id)
    }

    /// The names of the models that differ between a step and the step of the same name in a previous execution: all of
    /// them where there is no previous execution, or where it had no such step.
    pub async fn compare_step(&mut self, step: Uuid, previous: Option<Uuid>) -> Result<Vec<String>> {
        let name = on_store!(self, step_name(step))?.ok_or_else(|| rules::unknown_step(step))?;
        let now = on_store!(self, models(step))?;
        let before = match previous {
            None => Checksums::new(),
            Some(execution) => self.models_of(execution, &name).await?.unwrap_or_default(),
        };
        Ok(changed_models(&before, &now))
    }

    /// The same for the step of that name in the current execution, which must have one.
    pub async fn compare_executions(
        &mut self,
        previous: Option<Uuid>,
        current: Uuid,
        name: StepName,
    ) -> Result<Vec<String>> {
        if on_store!(self, execution(current))?.is_none() {
            return Err(rules::unknown_execution(current));
        }
        let step = on_store!(self, step_of(current, name.as_str()))?
            .ok_or_else(|| crate::Error::refused(format!("the execution {current} has no step {name}")))?;
        self.compare_step(step, previous).await
    }

    async fn models_of(&mut self, execution: Uuid, name: &str) -> Result<Option<Checksums>> {
        if on_store!(self, execution(execution))?.is_none() {
            return Err(rules::unknown_execution(execution));
        }
        match on_store!(self, step_of(execution, name))? {
            Some(step) => Ok(Some(on_store!(self, models(step))?)),
            None => {
                tracing::info!("the execution {execution} has no step {name}: every model counts as changed");
                Ok(None)
            }
        }
    }

    /// Ends a step of an open execution, once.
    pub async fn complete_step(&mut self, step: Uuid, rows: Option<i64>) -> Result<Completion> {
        on_store!(self, complete_step(step, rows))
    }

    /// Makes the table of [`RunRecord`]s, where it is not there yet. After [`Ledger::prepare`].
    pub async fn prepare_runs(&mut self) -> Result<()> {
        on_store!(self, prepare_runs())
    }

    /// Whether the table of [`RunRecord`]s is there.
    pub async fn has_runs(&mut self) -> Result<bool> {
        on_store!(self, has_runs())
    }

    /// Records how a pipeline of an execution stands, in place of what was recorded before.
    pub async fn put_run(&mut self, run: &RunRecord) -> Result<()> {
        on_store!(self, put_run(run))
    }

    /// Of every pipeline that ever succeeded, the digest of its newest success.
    pub async fn successes(&mut self) -> Result<Successes> {
        on_store!(self, successes())
    }

    /// The execution of this run id that was left open: what was killed or failed goes on under it.
    pub async fn open_execution(&mut self, run_id: &str) -> Result<Option<Uuid>> {
        on_store!(self, open_execution(run_id))
    }

    /// The pipelines of one execution, or the newest of all, newest first.
    pub async fn runs(&mut self, execution: Option<Uuid>, most: usize) -> Result<Vec<RunRecord>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        on_store!(self, list_runs(execution, most))
    }

    /// Closes executions that were left open and all of whose unfinished pipelines have succeeded since, as `SUPERSEDED`:
    /// never as completed. Gives how many.
    pub async fn supersede(&mut self) -> Result<usize> {
        on_store!(self, supersede())
    }

    /// Ends an execution, once. Steps that are still open stay so, and are named.
    pub async fn complete_execution(&mut self, execution: Uuid) -> Result<Completion> {
        on_store!(self, complete_execution(execution))
    }
}
