//! Commits that were cut short: the next run of the pipeline finishes them, before it does anything else.

use dpone_engine::{Lease, Relation, Result};

use super::execution::{Execution, quiet};
use super::journal::CommitPlan;
use super::names::relation;
use super::session::Session;
use super::staging;
use crate::state::StateTables;
use crate::types::literal;

/// Finishes commits of earlier runs of the pipeline, which were cut short. The lease is ours.
pub(crate) async fn recover(session: &Session, tables: &StateTables, lease: &Lease) -> Result<()> {
    for entry in tables.journal.open(session, &lease.pipeline).await? {
        let execution = Execution { session, tables, lease, resumes: true };
        if tables.of_load(session, &entry.load_id).await?.is_some() {
            // Its rows and its receipt are there. Its state may not be: it is written, or written again.
            let version = tables.next_version(session, &lease.pipeline, Some(lease.token)).await?;
            tables.put_state(session, &entry.plan.state, version).await?;
            tables.journal.finish(session, &lease.pipeline, lease.token, &entry.load_id).await?;
        } else if tables.is_passed(session, &lease.pipeline, entry.token).await? {
            // Written down by a run that had lost its lease, and was killed before it saw that: it did no step.
            tables.journal.abandon(session, &lease.pipeline, lease.token, &entry.load_id).await?;
        } else {
            tracing::info!(load_id = entry.load_id, "finishing the commit of an earlier run");
            let mut plan = entry.plan.clone();
            fence(session, &mut plan, lease.token).await?;
            if entry.done == 0 && !instead(&execution, &mut plan).await? {
                tables.journal.abandon(session, &lease.pipeline, lease.token, &entry.load_id).await?;
                staging::drop_all(session, &entry.plan.database, &entry.plan.prefix).await?;
                continue;
            }
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

/// Forgets commits that were cut short, and drops their staged rows. What was done of their steps stays done.
pub(crate) async fn give_up(session: &Session, tables: &StateTables, lease: &Lease) -> Result<()> {
    for entry in tables.journal.open(session, &lease.pipeline).await? {
        tables.journal.abandon(session, &lease.pipeline, lease.token, &entry.load_id).await?;
        staging::drop_all(session, &entry.plan.database, &entry.plan.prefix).await?;
    }
    Ok(())
}

/// Others wrote into the target after the steps were worked out, and the steps would undo that: other steps are taken, or,
/// where there are none, false: the load is given up, of which nothing is visible yet, and the next run loads again.
async fn instead(execution: &Execution<'_>, plan: &mut CommitPlan) -> Result<bool> {
    if !plan.is_overtaken(execution.session).await? {
        return Ok(true);
    }
    // One statement that exchanged the table may be what changed it.
    if let Some(first) = plan.steps.first()
        && execution.is_done(plan, first).await?
    {
        return Ok(true);
    }
    plan.content = None;
    plan.steps = std::mem::take(&mut plan.otherwise);
    Ok(!plan.steps.is_empty())
}

/// Gives the load's tables other names, so that whatever the earlier run still sends fails, and waits for what it sent.
async fn fence(session: &Session, plan: &mut CommitPlan, token: u64) -> Result<()> {
    let suffix = format!("_t{token}");
    let there = staging::tables(session, &plan.database, &plan.prefix).await?;
    let steps = plan.steps.iter().chain(&plan.otherwise);
    let mut names: Vec<String> = steps.map(|step| step.own().name.clone()).collect();
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
        let steps = plan.steps.iter_mut().chain(&mut plan.otherwise);
        for step in steps.filter(|step| step.own().name == name) {
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
