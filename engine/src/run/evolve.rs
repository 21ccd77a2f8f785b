//! Schema changes of a run: whether it may go on, and the changes themselves, before anything is staged.

use dpone_planner::definition::Pipeline;
use dpone_planner::schema::{LockBudget, SchemaPlan};
use dpone_planner::strategy::{Assume, own_columns, stopped};

use super::context::RunContext;
use super::prepare::{Ends, Prepared};
use crate::failpoint;
use crate::sink::{Evolution, Evolved};
use crate::{Error, ErrorKind, Lease, Result};

/// How often a run plans anew because the target was changed by somebody else in between.
const ATTEMPTS: usize = 3;

/// The schema changes of one run.
pub(super) struct Governor<'a> {
    pub(super) context: &'a RunContext,
    pub(super) pipeline: &'a Pipeline,
    pub(super) ends: &'a Ends,
    pub(super) lease: &'a Lease,
}

/// Changes that were made before the load.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) statements: Vec<String>,
    pub(super) notes: Vec<String>,
    attempts: usize,
}

impl Governor<'_> {
    /// Whether the run may go on with this plan, and what of it is taken for done.
    pub(super) fn decide(&self, plan: &SchemaPlan) -> Result<Assume> {
        match stopped(self.pipeline, plan) {
            Some(error) => Err(error),
            None => Ok(Assume::Decided),
        }
    }

    /// Makes the changes of a plan. Afterwards the load is planned again, from what is then there.
    pub(super) async fn apply(&self, prepared: &Prepared, applied: &mut Applied) -> Result<()> {
        let plan = &prepared.plan;
        let Some(schema) = &plan.schema else {
            return Err(Error::internal("changes without a schema plan"));
        };
        applied.attempts += 1;
        if applied.attempts > ATTEMPTS {
            return Err(Error::conflict(format!(
                "the target {} still differs after it was changed: {} change(s) are left",
                plan.target,
                plan.evolve.len()
            ))
            .with("table", plan.target.to_string())
            .with_hint("another process changes the table too: run again when it is done"));
        }
        let apart = own_columns(&self.pipeline.strategy);
        let evolution = Evolution {
            table: &plan.target,
            changes: &plan.evolve,
            budget: budget(schema),
            fingerprint: &schema.catalog_fingerprint,
            apart: &apart,
            lease: self.lease,
            state_location: &self.ends.location,
        };
        let Evolved { statements, deferrals } = match self.ends.sink.evolve(&evolution).await {
            Ok(evolved) => evolved,
            // Whoever changed the table may have made the same change: what is there now is looked at.
            Err(error) if is_moved(&error) && applied.attempts < ATTEMPTS => return Ok(()),
            Err(error) => return Err(error),
        };
        failpoint::reach("evolve.applied").await?;
        let note = format!("changed {}: {}", plan.target, statements.join("; "));
        self.context.observer.note(&self.pipeline.name, &note);
        if deferrals > 0 {
            let note = format!("the lock on {} was granted after {deferrals} attempt(s) without it", plan.target);
            self.context.observer.note(&self.pipeline.name, &note);
        }
        applied.statements.extend(statements);
        applied.notes.extend(plan.evolve_notes.iter().cloned());
        Ok(())
    }
}

fn budget(schema: &SchemaPlan) -> LockBudget {
    let ms = |seconds: Option<u64>| seconds.map(|s| s.saturating_mul(1000));
    LockBudget {
        lock_timeout_ms: ms(schema.policy.lock_timeout_seconds),
        statement_timeout_ms: ms(schema.policy.statement_timeout_seconds),
    }
}

const MOVED: &str = "catalog";
const MOVED_VALUE: &str = "moved";

/// The error of a sink whose table is not any more what the changes were planned for.
pub fn moved(table: &crate::Relation) -> Error {
    Error::conflict(format!("{table} was changed since its changes were planned"))
        .with("table", table.to_string())
        .with(MOVED, MOVED_VALUE)
        .with_hint("run again: the load is planned from what is there now")
}

fn is_moved(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict && error.context().iter().any(|(k, v)| *k == MOVED && v == MOVED_VALUE)
}
