//! Runs a pipeline, or a load of it: the lease, and as many attempts as it takes.

use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::Schema;
use dpone_planner::definition::Pipeline;
use dpone_planner::plan::WriteMode;
use dpone_planner::state::PipelineState;

use super::attempt::{Attempt, Started, interrupted, now};
use super::comparison;
use super::context::RunContext;
use super::keeper::{LeaseKeeper, holder};
use super::observer::{Event, Stage};
use super::prepare::Ends;
use crate::backfill;
use crate::failpoint;
use crate::receipt::{Receipt, RunStatus};
use crate::retry::Backoff;
use crate::{ErrorKind, LeaseRequest, LoadSpec, Result};

/// Runs a pipeline once. The same run id twice is a no-op that reports the first receipt.
///
/// A transient failure before the commit is tried again from the start, as often as the options say, each time with a
/// new load id. Whatever happens, nothing of a failed run is visible in the target.
///
/// A backfill runs its campaign, or goes on with it: the receipt sums up the chunks that this run loaded.
pub async fn run(context: &RunContext, pipeline: &Pipeline, run_id: &str) -> Result<Receipt> {
    if backfill::is_backfill(pipeline) {
        let report = backfill::run_campaign(context, pipeline, &backfill::CampaignOptions::default()).await?;
        return report.receipt(run_id);
    }
    run_load(context, pipeline, run_id).await
}

/// The states of all pipelines beside the data of the pipeline's target.
pub(crate) async fn states(context: &RunContext, pipeline: &Pipeline) -> Result<Vec<PipelineState>> {
    Ends::open(context, pipeline)?.store.list().await
}

/// Runs one load.
pub(crate) async fn run_load(context: &RunContext, pipeline: &Pipeline, run_id: &str) -> Result<Receipt> {
    let mut attempt = 0;
    loop {
        let error = match run_once(context, pipeline, run_id).await {
            Ok(receipt) => return Ok(receipt),
            Err(error) => error.with("pipeline", &pipeline.name).within(&pipeline.location),
        };
        if !error.is_transient() || attempt >= context.options.retries {
            return Err(error);
        }
        attempt += 1;
        let backoff = Backoff { base: context.options.retry_backoff, cap: context.options.retry_backoff_max };
        let pause = backoff.wait(attempt);
        let retry = Event::Retry { attempt, kind: error.kind(), message: error.to_string(), wait: pause };
        context.observer.event(&pipeline.name, &retry);
        context.observer.note(&pipeline.name, &format!("{error}; trying again in {:.1} s", pause.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.cancel.cancelled() => return Err(interrupted()),
        }
    }
}

async fn run_once(context: &RunContext, pipeline: &Pipeline, run_id: &str) -> Result<Receipt> {
    let started = Started { at: now(), clock: Instant::now() };
    let ends = Ends::open(context, pipeline)?;
    context.observer.stage(&pipeline.name, Stage::Lease);
    if let Some(receipt) = ends.store.receipt(&pipeline.name, run_id).await? {
        return Ok(already_committed(pipeline, &ends, receipt).await);
    }
    let request = LeaseRequest {
        pipeline: pipeline.name.clone(),
        run_id: run_id.to_owned(),
        holder: holder(),
        ttl: context.options.lease_ttl,
    };
    let lease = ends.store.acquire(&request).await?;
    failpoint::reach("lease.acquired").await?;
    let keeper = LeaseKeeper::start(&ends, &lease, context.cancel.child_token());
    // A run of the same id may have committed while this one waited for the lease.
    let result = match ends.store.receipt(&pipeline.name, run_id).await {
        Ok(Some(receipt)) => Ok(already_committed(pipeline, &ends, receipt).await),
        Ok(None) => {
            let cancel = &keeper.lost;
            let (ends, lease, started) = (&ends, &lease, &started);
            load(&Attempt { context, pipeline, run_id, ends, lease, cancel, started }).await
        }
        Err(error) => Err(error),
    };
    let lost = keeper.stop().await;
    let released = ends.store.release(&lease).await;
    match (result, lost) {
        (Ok(receipt), _) => {
            if let Err(error) = released {
                context.observer.note(&pipeline.name, &format!("the lease could not be given back: {error}"));
            }
            Ok(receipt)
        }
        // The lease was lost under the run: that is the cause, whatever failed because of it.
        (Err(error), Some(lost)) if error.kind() == ErrorKind::Interrupted && !context.cancel.is_cancelled() => {
            Err(lost)
        }
        (Err(error), _) => Err(error),
    }
}

/// The first receipt of a run that was committed before. Its process may have been killed before it removed its staging
/// area, which nobody would look at again: it is removed now.
async fn already_committed(pipeline: &Pipeline, ends: &Ends, receipt: Receipt) -> Receipt {
    let load = LoadSpec {
        load_id: receipt.load_id.clone(),
        run_id: receipt.run_id.clone(),
        pipeline: pipeline.name.clone(),
        target: pipeline.sink.relation.clone(),
        staging_schema: pipeline.sink.staging_schema.clone(),
        staged_schema: Arc::new(Schema::empty()),
        write_mode: WriteMode::Append,
        target_exists: true,
        partitions: receipt.partitions,
        primary_key: Vec::new(),
        partition_by: Vec::new(),
        cursor: None,
        options: pipeline.sink.options.clone(),
    };
    if let Err(error) = ends.sink.discard(&load).await {
        tracing::debug!(%error, "the staging area of the committed run could not be removed");
    }
    Receipt { status: RunStatus::AlreadyCommitted, ..receipt }
}

/// Loads; a comparison that does not fit in memory once more, on disk.
async fn load(attempt: &Attempt<'_>) -> Result<Receipt> {
    match attempt.load(false).await {
        Err(error) if comparison::is_outgrown(&error) => {
            let note = "the target's keys do not fit in memory: comparing again, in parts on disk";
            attempt.context.observer.note(&attempt.pipeline.name, note);
            attempt.load(true).await
        }
        result => result,
    }
}
