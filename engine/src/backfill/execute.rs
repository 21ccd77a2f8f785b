//! Runs a campaign: its workers load chunk after chunk, by the ordinary protocol, and a report says how it went.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dpone_planner::chunk::NullChunk;
use dpone_planner::definition::{Pipeline, RetryPolicy, Throttle};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::campaign::Campaign;
use super::checks::{check_choice, check_loaded, check_nulls, check_others, check_target};
use super::manifest::{CampaignStatus, Partition, PartitionManifest, PartitionStatus};
use super::pace::Pace;
use super::report::{CampaignReport, Failure};
use super::worker::{ClaimKeeper, Worker, failure};
use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::run::{Campaigning, ChunkState, Event, Observer, RunContext, holder};
use crate::{Error, ErrorKind, Result};

/// What a run of a campaign takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// Begins the campaign, or goes on with it.
    #[default]
    Run,
    /// Goes on with a campaign that was begun, also after a cancellation.
    Resume,
    /// Only what failed.
    RetryFailed,
}

/// What the command line decides.
#[derive(Debug, Clone, Default)]
pub struct CampaignOptions {
    pub choice: Choice,
    /// In place of the definition's.
    pub workers: Option<usize>,
    pub backfill_id: Option<String>,
    pub pause: Option<Duration>,
    pub max_rows_per_second: Option<f64>,
}

/// Runs the chunks that are left. Failed chunks do not make it fail: the report tells them.
pub async fn run_campaign(
    context: &RunContext,
    pipeline: &Pipeline,
    options: &CampaignOptions,
) -> Result<CampaignReport> {
    let campaign = Campaign::new(context, pipeline, options.backfill_id.as_deref())?;
    run_resolved(context, campaign, options)
        .await
        .map_err(|e| e.with("pipeline", &pipeline.name).within(&pipeline.location))
}

async fn run_resolved(context: &RunContext, campaign: Campaign, options: &CampaignOptions) -> Result<CampaignReport> {
    let clock = Instant::now();
    let started_at = now();
    let stored = campaign.store.load(&campaign.key).await?;
    check_choice(&campaign, stored.as_ref(), options.choice)?;
    let mut notes = campaign.backfill.notes.clone();
    check_others(&campaign, stored.as_ref(), &mut notes).await?;
    check_loaded(context, &campaign, stored.as_ref()).await?;
    let hold = campaign.store.begin(&campaign.fresh_manifest()).await?;
    if options.choice == Choice::Resume {
        let unskip = campaign.backfill.retry == RetryPolicy::NonCommitted;
        campaign.store.set_status(&campaign.key, CampaignStatus::Open, unskip).await?;
    }
    let begun = reload(&campaign).await?;
    let target_exists = check_target(context, &campaign, &begun).await?;
    let campaigning = campaigning(&campaign, &begun, target_exists);
    context.observer.event(&campaign.pipeline.name, &Event::Campaign(Box::new(campaigning)));
    let counts = begun.counts();
    if counts.success < counts.total && campaign.backfill.chunks.nulls == NullChunk::Fail {
        check_nulls(context, &campaign).await?;
    }

    let asked = options.workers.unwrap_or(campaign.backfill.workers).clamp(1, 256).min(counts.total.max(1));
    let workers = if campaign.one_at_a_time { 1 } else { asked };
    if workers < asked && options.workers.is_some() {
        notes.push(format!("the target takes one load at a time: 1 worker in place of {asked}"));
    }
    let mut shared = Shared::new(context, campaign, options, target_exists);
    shared.by_turns = shared.campaign.one_at_a_time && hold.is_shared();
    let shared = Arc::new(shared);
    let mut outcome = drive(&shared, context, workers).await;
    shared.give_back().await;
    let report = shared.report(started_at, clock, notes, &mut outcome).await?;
    match outcome.error {
        // A chunk's failure is in the report; this one is of the ledger itself.
        Some(error) => Err(error),
        None => Ok(report),
    }
}

fn campaigning(campaign: &Campaign, manifest: &PartitionManifest, target_exists: bool) -> Campaigning {
    let loaded = |chunk: &Partition| (chunk.status == PartitionStatus::Success).then(|| chunk.loaded_rows.unwrap_or(0));
    Campaigning {
        campaign: campaign.key.clone(),
        write_mode: campaign.backfill.inner.mode().to_owned(),
        source: campaign.source.clone(),
        target: campaign.target.clone(),
        target_exists,
        chunks: manifest.partitions.iter().map(|chunk| (chunk.id.clone(), loaded(chunk))).collect(),
    }
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

pub(super) async fn reload(campaign: &Campaign) -> Result<PartitionManifest> {
    campaign.store.load(&campaign.key).await?.ok_or_else(|| {
        Error::conflict(format!("the partition manifest {} is gone", campaign.store.place(&campaign.key)))
    })
}
/// What the workers of a process share.
pub(super) struct Shared {
    pub(super) campaign: Campaign,
    pub(super) pace: Pace,
    pub(super) cancel: CancellationToken,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) holder: String,
    pub(super) take: Vec<PartitionStatus>,
    pub(super) target_exists: std::sync::atomic::AtomicBool,
    /// Failures since the last success.
    pub(super) in_a_row: AtomicUsize,
    /// Other machines may load the table, and it takes one load at a time.
    pub(super) by_turns: bool,
    pub(super) began: Instant,
    pub(super) done: Mutex<Done>,
    /// Chunks that a worker who was killed left behind, and whose lease at the target has not ended: their turn comes when
    /// nothing else is left.
    pub(super) parked: Mutex<VecDeque<Parked>>,
}

/// A chunk that is claimed and waits.
pub(super) struct Parked {
    pub(super) partition: Box<Partition>,
    pub(super) keeper: ClaimKeeper,
}

/// What the workers did so far.
#[derive(Default)]
pub(super) struct Done {
    pub(super) tried: BTreeSet<String>,
    pub(super) loaded: usize,
    pub(super) found_committed: usize,
    pub(super) rows: RowCounts,
    pub(super) bytes: u64,
    pub(super) failures: Vec<Failure>,
    pub(super) stopped: Option<String>,
    pub(super) interrupted: bool,
}

#[derive(Default)]
struct Outcome {
    error: Option<Error>,
}

impl Shared {
    fn new(context: &RunContext, campaign: Campaign, options: &CampaignOptions, target_exists: bool) -> Self {
        let own = campaign.backfill.throttle.clone();
        let throttle = Throttle {
            pause: options.pause.or(own.pause),
            max_rows_per_second: options.max_rows_per_second.or(own.max_rows_per_second),
            ..own
        };
        let take = match options.choice {
            Choice::Run | Choice::Resume => vec![PartitionStatus::Pending, PartitionStatus::Failed],
            Choice::RetryFailed => vec![PartitionStatus::Failed],
        };
        let tail: String = ulid::Ulid::generate().to_string().chars().skip(20).collect();
        Self {
            campaign,
            pace: Pace::new(throttle),
            cancel: context.cancel.child_token(),
            observer: Arc::clone(&context.observer),
            // Containers may share host names and process ids.
            holder: format!("{} {tail}", holder()),
            take,
            target_exists: target_exists.into(),
            in_a_row: AtomicUsize::new(0),
            by_turns: false,
            began: Instant::now(),
            done: Mutex::default(),
            parked: Mutex::default(),
        }
    }

    pub(super) fn parked(&self) -> std::sync::MutexGuard<'_, VecDeque<Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the chunks back that are parked when the work ends early.
    async fn give_back(&self) {
        let parked = std::mem::take(&mut *self.parked());
        for Parked { partition, keeper } in parked {
            keeper.stop().await;
            let left = Error::new(ErrorKind::Interrupted, "the run ended before the chunk's turn came");
            let attempt = failure(PartitionStatus::Pending, &left, 0.0);
            let given = self.campaign.store.record(&self.campaign.key, &partition.id, partition.token, &attempt).await;
            if let Err(error) = given {
                tracing::warn!(%error, chunk = partition.id, "a claim could not be given back: it ends by itself");
            }
        }
    }

    pub(super) fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, text: &str) {
        self.observer.note(&self.campaign.pipeline.name, text);
    }

    /// Tells the evidence of a chunk.
    pub(super) fn chunk(&self, id: &str, state: ChunkState, rows: RowCounts, bytes: u64) {
        let event = Event::Chunk { id: id.to_owned(), state, rows, bytes };
        self.observer.event(&self.campaign.pipeline.name, &event);
    }

    pub(super) fn ended(&self, id: &str, result: &Result<Receipt>) {
        let (state, receipt) = match result {
            Ok(receipt) if receipt.status == RunStatus::AlreadyCommitted => (ChunkState::Found, Some(receipt)),
            Ok(receipt) => (ChunkState::Loaded, Some(receipt)),
            Err(error) if error.kind() == ErrorKind::Interrupted => (ChunkState::Stopped, None),
            Err(_) => (ChunkState::Failed, None),
        };
        let (rows, bytes) = receipt.map(|r| (r.rows.clone(), r.bytes)).unwrap_or_default();
        self.chunk(id, state, rows, bytes);
    }

    async fn report(
        &self,
        started_at: String,
        clock: Instant,
        mut notes: Vec<String>,
        outcome: &mut Outcome,
    ) -> Result<CampaignReport> {
        let manifest = match reload(&self.campaign).await {
            Ok(manifest) => manifest,
            // The first error is the cause.
            Err(error) => return Err(outcome.error.take().unwrap_or(error)),
        };
        let done = std::mem::take(&mut *self.done());
        let mut failures = done.failures;
        failures.sort_by(|a, b| a.id.cmp(&b.id));
        notes.extend(done.stopped.clone());
        Ok(CampaignReport {
            counts: manifest.counts(),
            place: self.campaign.store.place(&self.campaign.key),
            manifest,
            loaded: done.loaded,
            found_committed: done.found_committed,
            rows: done.rows,
            bytes: done.bytes,
            seconds: clock.elapsed().as_secs_f64(),
            started_at,
            failures,
            interrupted: done.interrupted,
            stopped: done.stopped,
            notes,
        })
    }
}

/// One worker until the target is there, so that no two chunks create it; then all of them.
async fn drive(shared: &Arc<Shared>, context: &RunContext, workers: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let label = |worker: usize| format!("{} worker {worker}", shared.campaign.pipeline.name);
    let first = Worker::new(shared, context, workers, label(1));
    while !shared.target_exists.load(Ordering::Acquire) {
        match first.step().await {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(error) => {
                outcome.error = Some(error);
                return outcome;
            }
        }
    }
    let mut running = JoinSet::new();
    for n in 1..=workers {
        let worker = Worker::new(shared, context, workers, label(n));
        running.spawn(async move {
            while worker.step().await? {}
            Ok::<_, Error>(())
        });
    }
    while let Some(ended) = running.join_next().await {
        let result = ended.unwrap_or_else(|e| Err(Error::internal(format!("a worker ended early: {e}"))));
        if let Err(error) = result {
            shared.cancel.cancel();
            outcome.error.get_or_insert(error);
        }
    }
    outcome
}
