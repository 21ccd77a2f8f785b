//! Staging: every partition of the plan at once, and what the rows showed on their way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use dpone_planner::definition::Pipeline;
use dpone_planner::plan::LoadPlan;
use dpone_planner::state::PipelineState;
use futures::StreamExt;
use tokio::task::JoinSet;

use super::comparison;
use super::context::RunContext;
use super::observer::{Event, Progress};
use super::prepare::{Ends, Prepared};
use crate::codec::EngineCodec;
use crate::diff::DiffFacts;
use crate::probe::{PartitionFacts, ProbeSpec};
use crate::sift::{SiftExec, SiftFacts};
use crate::stage::{PartitionReport, StageExec, StageSpec};
use crate::tally::TallyExec;
use crate::{Error, LoadSpec, Result, StagedPartition};

/// The staged partitions, and what they showed.
pub(super) struct Staged {
    pub(super) parts: Vec<StagedPartition>,
    pub(super) facts: PartitionFacts,
    pub(super) compared: Option<DiffFacts>,
    /// What the source gave, where the plan's output does not show it.
    pub(super) tallied: Option<PartitionFacts>,
    /// Rows that were put aside.
    pub(super) sifted: Option<SiftFacts>,
}

/// Stages every partition, as many at once as the plan has.
pub(super) async fn stage(
    context: &RunContext,
    pipeline: &Pipeline,
    ends: &Ends,
    prepared: &Prepared,
    load: &LoadSpec,
) -> Result<Staged> {
    let spec = StageSpec {
        connection: pipeline.sink.connection.clone(),
        load: load.clone(),
        probe: probe_spec(&prepared.plan, prepared.state.as_ref()),
    };
    let mut node = Arc::new(StageExec::new(Arc::clone(&prepared.physical), Arc::clone(&ends.sink), spec)?);
    let tasks = prepared.session.task_ctx();
    if context.options.serialise_plans {
        node = EngineCodec::new(Arc::clone(&context.connections)).round_trip(node, &tasks)?;
    }
    // Dropping the set, on a failure or a cancellation, aborts the partitions that still run.
    let mut running = JoinSet::new();
    for partition in 0..node.partitions() {
        running.spawn(stage_one(Arc::clone(&node), Arc::clone(&tasks), partition));
    }
    let mut reports = Vec::with_capacity(node.partitions());
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            done = running.join_next() => match done {
                None => break,
                Some(Ok(report)) => {
                    let report = report.map_err(|e| comparison::mark(e, node.as_ref()))?;
                    let StagedPartition { partition, rows, bytes, .. } = report.staged;
                    context.observer.event(&pipeline.name, &Event::Partition { partition, rows, bytes });
                    reports.push(report);
                }
                Some(Err(failed)) => return Err(Error::internal(format!("a staging task ended early: {failed}"))),
            },
            _ = tick.tick() => {}
        }
        report_progress(context, pipeline, prepared, &node);
    }
    report_progress(context, pipeline, prepared, &node);
    reports.sort_by_key(|r| r.staged.partition);
    let mut facts = PartitionFacts::default();
    let mut parts = Vec::with_capacity(reports.len());
    for report in reports {
        facts.merge(report.facts)?;
        parts.push(report.staged);
    }
    Ok(Staged {
        parts,
        facts,
        compared: comparison::facts(node.as_ref()),
        tallied: TallyExec::in_plan(node.as_ref()),
        sifted: SiftExec::in_plan(node.as_ref()).filter(|sifted| sifted.rows > 0),
    })
}

async fn stage_one(node: Arc<StageExec>, tasks: Arc<TaskContext>, partition: usize) -> Result<PartitionReport> {
    let mut stream = node.execute(partition, tasks)?;
    match stream.next().await {
        Some(batch) => StageExec::read_report(&batch?),
        None => Err(Error::internal("a staging partition gave no report")),
    }
}

fn report_progress(context: &RunContext, pipeline: &Pipeline, prepared: &Prepared, node: &StageExec) {
    let counters = node.progress();
    context.observer.progress(
        &pipeline.name,
        Progress {
            rows: counters.rows.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            rows_expected: prepared.source.rows,
            partitions_done: counters.partitions_done.load(Ordering::Relaxed),
            partitions: node.partitions(),
        },
    );
}

fn probe_spec(plan: &LoadPlan, state: Option<&PipelineState>) -> ProbeSpec {
    let mut spec = ProbeSpec {
        not_null: plan.checks.not_null.clone(),
        quarantine_null: plan.checks.quarantine_null.clone(),
        cursor: plan.cursor.as_ref().map(|c| c.column.clone()),
        partitions: plan.checks.max_partitions.clone(),
        interval: plan.checks.interval.clone(),
        whole_deletes: plan.checks.whole_deletes,
        ..ProbeSpec::default()
    };
    if let Some(cursor) = &plan.cursor {
        spec.keep_boundary = cursor.keep_boundary;
        spec.order = cursor.order.clone();
        if cursor.skip_boundary {
            spec.loaded = cursor.from.clone().zip(state.and_then(|s| s.boundary.clone()));
        }
    }
    spec
}
