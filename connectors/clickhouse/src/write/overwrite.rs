//! `Overwrite`: the staged rows become the table's whole content.

use dpone_engine::{Relation, Result};
use futures::future::try_join_all;

use super::catalog::{self, Table};
use super::commit::{Planned, Work};
use super::create;
use super::journal::Step;

/// A finished table takes the target's place in one step; where tables of the database cannot be exchanged, partitions are
/// replaced.
pub(crate) async fn exchange(work: &Work<'_>, table: &Table) -> Result<Planned> {
    let mut databases = vec![&table.relation.schema, &work.names().database];
    databases.dedup();
    let all = table.read();
    let (atomic, before) = tokio::try_join!(
        try_join_all(databases.iter().map(|database| catalog::is_atomic(work.session, database))),
        work.session.count(&all)
    )?;
    if let Some(at) = atomic.iter().position(|atomic| !atomic) {
        let database = databases[at];
        let why = format!("tables of the database {database} cannot be exchanged: its engine is not Atomic");
        return replace_all(work, table, Some(why)).await;
    }
    work.guard(table, before.saturating_sub(work.staged_rows())).await?;
    let next = work.names().next();
    // Where they are not in it already.
    if work.rows != next {
        work.session.run(&create::twin(&next, table)).await?;
        work.fill(&next).await?;
    }
    let steps = vec![exchanging(work, next).await?];
    Ok(Planned { steps, inserted: work.staged_rows(), deleted: before, ..Planned::default() })
}

pub(crate) async fn exchanging(work: &Work<'_>, next: Relation) -> Result<Step> {
    let uuid = catalog::uuid(work.session, &next).await?.unwrap_or_default();
    Ok(Step::Exchange { with: next, uuid })
}

/// The table stays, with all that hangs on it: its partitions are replaced, one after the other. One that is not
/// partitioned has one.
pub(crate) async fn replace_all(work: &Work<'_>, table: &Table, instead: Option<String>) -> Result<Planned> {
    let before = work.session.count(&table.read()).await?;
    work.guard(table, before.saturating_sub(work.staged_rows())).await?;
    let there = catalog::partitions(work.session, &table.relation).await?;
    let steps = replacing(work, &there).await?;
    let mut notes: Vec<String> =
        instead.map(|why| format!("exchange fell back to replacing partitions: {why}")).into_iter().collect();
    notes.extend(one_by_one(&steps));
    Ok(Planned { steps, inserted: work.staged_rows(), deleted: before, notes, ..Planned::default() })
}

/// Replaces the partitions `whole` of the target by the staged ones; staged partitions beside them are added.
pub(crate) async fn replacing(work: &Work<'_>, whole: &[String]) -> Result<Vec<Step>> {
    let staged = catalog::partitions(work.session, &work.rows).await?;
    let from = &work.rows;
    let mut steps = Vec::new();
    for partition in &staged {
        let replaced = whole.contains(partition);
        let (from, partition) = (from.clone(), partition.clone());
        steps.push(if replaced { Step::Replace { from, partition } } else { Step::Move { from, partition } });
    }
    // First what comes, then what only goes: a reader of two partitions sees too much rather than too little.
    let gone = whole.iter().filter(|partition| !staged.contains(partition));
    steps.extend(gone.map(|partition| Step::Drop { own: work.rows.clone(), partition: partition.clone() }));
    Ok(steps)
}

/// What a reader could see, where more than one statement was needed.
pub(crate) fn one_by_one(steps: &[Step]) -> Option<String> {
    (steps.len() > 1).then(|| {
        format!(
            "{} partitions were replaced one after the other, each in one step: a reader could see some of them",
            steps.len()
        )
    })
}
