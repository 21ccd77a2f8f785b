//! Reads of changes: what to ask the source for, and what a strategy needs to know of the answer.

use datafusion::logical_expr::LogicalPlan;
use dpone_planner::definition::Pipeline;
use dpone_planner::state::PipelineState;
use dpone_planner::strategy::{ChangesFrom, ObservedChanges, compares_keys};

use super::context::RunContext;
use crate::federation::{self, OpenOptions, OpenSource, RawColumns, Snapshots};
use crate::source::{ChangeReader, ChangeRequest};
use crate::{Error, Result, TargetTable};

pub(super) fn request(from: &ChangesFrom) -> ChangeRequest {
    ChangeRequest { reader: ChangeReader::Xmin, since: from.since.clone(), settled: from.settled }
}

/// What the source told, and, where keys are to be compared, the same tables opened once more for all of their rows.
pub(super) async fn observe(
    context: &RunContext,
    pipeline: &Pipeline,
    snapshots: &mut Snapshots,
    source: &OpenSource,
    options: OpenOptions<'_>,
    from: ChangesFrom,
    (target, state, now): (Option<&TargetTable>, Option<&PipelineState>, i64),
) -> Result<ObservedChanges> {
    let read = source
        .changes
        .clone()
        .ok_or_else(|| Error::configuration("the query reads no table, and xmin reads the changed rows of one"))?;
    let mut observed = ObservedChanges {
        position: read.position,
        summary: read.summary,
        started_over: from.started_over.or(read.started_over),
        rows_gone: read.rows_gone,
        repeats: read.repeats,
        all_rows: None,
    };
    if compares_keys(pipeline, state, &observed, target.is_some_and(|t| t.has_rows), now) {
        observed.all_rows = Some(all_rows(context, pipeline, snapshots, options).await?);
    }
    Ok(observed)
}

async fn all_rows(
    context: &RunContext,
    pipeline: &Pipeline,
    snapshots: &mut Snapshots,
    options: OpenOptions<'_>,
) -> Result<LogicalPlan> {
    // In a session of its own: the tables have the same names as those that give the changes.
    let session = context.session(options.parallelism, options.batch_rows)?;
    let options = OpenOptions { changes: None, ..options };
    let all = federation::open(context, &session, snapshots, &pipeline.source, options, &RawColumns::new()).await?;
    Ok(all.plan)
}
