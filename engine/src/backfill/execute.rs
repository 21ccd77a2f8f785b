//! Runs a campaign: workers claim chunks, load them by the ordinary protocol, and record how it went.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dpone_planner::chunk::NullChunk;
use dpone_planner::definition::{Pipeline, RetryPolicy, Throttle};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::campaign::Campaign;
use super::manifest::{Attempt, CampaignStatus, Claim, ClaimRequest, Partition, PartitionManifest, PartitionStatus};
use super::pace::Pace;
use super::plan::count_rows;
use super::report::{CampaignReport, Failure};
use crate::failpoint;
use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::run::{
    Campaigning, ChunkState, Event, Observer, Progress, RunContext, Stage, Turn, holder, run_load, states,
};
use crate::{Error, ErrorKind, Result};

/// Failures in a row after which the rest is not tried: the cause is not in the chunks.
const ENOUGH: usize = 5;
/// How often a transient failure of a chunk is tried again at least: chunks wait for each other's locks.
const RETRIES: u32 = 3;
/// How long a worker waits before it asks again for what others hold.
const POLL: Duration = Duration::from_millis(500);

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

async fn reload(campaign: &Campaign) -> Result<PartitionManifest> {
    campaign.store.load(&campaign.key).await?.ok_or_else(|| {
        Error::conflict(format!("the partition manifest {} is gone", campaign.store.place(&campaign.key)))
    })
}

fn check_choice(campaign: &Campaign, stored: Option<&PartitionManifest>, choice: Choice) -> Result<()> {
    match (stored, choice) {
        (None, Choice::Resume | Choice::RetryFailed) => Err(super::not_begun(campaign)),
        (Some(stored), Choice::Run | Choice::RetryFailed)
            if stored.status == CampaignStatus::Cancelled && !stored.counts().is_done() =>
        {
            Err(Error::conflict(format!("the backfill {} was cancelled", campaign.short()))
                .with_hint("go on with `dpone backfill resume`"))
        }
        _ => Ok(()),
    }
}

/// Other campaigns of the pipeline: worth a word, and for a plain append more than that. A changed range has other
/// chunks, and the rows that an earlier campaign appended would be there twice.
async fn check_others(campaign: &Campaign, stored: Option<&PartitionManifest>, notes: &mut Vec<String>) -> Result<()> {
    let begun = stored.is_some_and(|m| m.counts().success > 0);
    for other in campaign.store.campaigns(&campaign.pipeline.name).await? {
        let counts = other.counts();
        if other.campaign == campaign.key || counts.success == 0 {
            continue;
        }
        let which = other.campaign.get(..12).unwrap_or_default().to_owned();
        let same_id = other.backfill_id == campaign.backfill.id;
        let again = !campaign.backfill.inner.is_idempotent() && appends_again(campaign, &other);
        if !begun && same_id && other.origin == campaign.origin && again {
            return Err(Error::conflict(format!(
                "an earlier backfill of this pipeline ({which}) has appended {} of its {} chunks to {}; its definition \
                 was another. Rows of both would be there twice",
                counts.success, counts.total, other.target
            ))
            .with_hint(
                "leave what is loaded out of the range; to load it again on purpose, give this one a backfill_id of its \
                 own; to load a range again without repeating \
                 rows, use inner_mode replace or incremental_merge",
            ));
        }
        if !counts.is_done() {
            notes.push(format!(
                "an earlier backfill of this pipeline ({which}) was left with {} of {} chunks committed: its source or \
                 its definition was another, so this one does not go on with it",
                counts.success, counts.total
            ));
        }
    }
    Ok(())
}

/// Whether a chunk of the campaign shares rows with one that the other has committed.
fn appends_again(campaign: &Campaign, other: &PartitionManifest) -> bool {
    let chunks: Vec<_> = campaign.chunks.iter().map(|chunk| campaign.loaded(chunk)).collect();
    let committed = other.partitions.iter().filter(|partition| partition.status == PartitionStatus::Success);
    committed.map(|partition| partition.loaded(other)).any(|loaded| chunks.iter().any(|chunk| chunk.overlaps(&loaded)))
}

/// The same by what the target itself remembers: manifests may be lost, or be those of another machine. Only chunks that
/// share rows with one of this campaign matter.
async fn check_loaded(context: &RunContext, campaign: &Campaign, stored: Option<&PartitionManifest>) -> Result<()> {
    if campaign.backfill.inner.is_idempotent() || stored.is_some_and(|m| m.counts().success > 0) {
        return Ok(());
    }
    let of_pipeline = format!("{}.backfill.", campaign.pipeline.name);
    let own = format!("{of_pipeline}{}.", campaign.short());
    let chunks: Vec<_> = campaign.chunks.iter().map(|chunk| (&chunk.id, campaign.loaded(chunk))).collect();
    for state in states(context, &campaign.pipeline).await? {
        let Some(loaded) = &state.chunk else { continue };
        let ours = !state.pipeline.starts_with(&of_pipeline) || state.pipeline.starts_with(&own);
        if ours || loaded.origin != campaign.origin || loaded.backfill_id != campaign.backfill.id {
            continue;
        }
        if let Some((id, chunk)) = chunks.iter().find(|(_, chunk)| chunk.overlaps(loaded)) {
            let which = state.pipeline[of_pipeline.len()..].split('.').next().unwrap_or_default();
            return Err(Error::conflict(format!(
                "an earlier backfill of this pipeline ({which}) has appended {} {} to {} at {}, says the target; chunk \
                 {id} ({}) would append rows of it again",
                loaded.column, loaded.label, campaign.target, state.committed_at, chunk.label
            ))
            .with_hint(
                "leave what is loaded out of the range; to load it again on purpose, give this backfill a backfill_id of \
                 its own; to load a range again without repeating rows, use inner_mode replace or incremental_merge",
            ));
        }
    }
    Ok(())
}

/// A ledger that says loaded while the table is gone, or empty, is not believed. Returns whether the target exists.
async fn check_target(context: &RunContext, campaign: &Campaign, manifest: &PartitionManifest) -> Result<bool> {
    let relation = &campaign.pipeline.sink.relation;
    let described = context.connections.sink(&campaign.pipeline.sink.connection)?.describe(relation).await?;
    let counts = manifest.counts();
    if counts.success == 0 {
        return Ok(described.is_some());
    }
    match described {
        None => Err(gone(campaign, "does not exist")),
        Some(target) if !target.has_rows && counts.loaded_rows > 0 => Err(gone(campaign, "is empty")),
        Some(_) => Ok(true),
    }
}

fn gone(campaign: &Campaign, how: &str) -> Error {
    Error::conflict(format!("chunks of the backfill are recorded as loaded, but the target {} {how}", campaign.target))
        .with_hint("restore the table, or load everything again under another backfill_id: --backfill-id again")
}

async fn check_nulls(context: &RunContext, campaign: &Campaign) -> Result<()> {
    let counted = count_rows(context, campaign, false).await?;
    if counted.null == 0 {
        return Ok(());
    }
    let column = &campaign.backfill.chunks.column;
    Err(Error::data_quality(format!(
        "{} rows of the source have no {column}, and so are in no chunk; nothing was loaded",
        counted.null
    ))
    .with_hint("null_chunk: include loads them as a chunk of their own; or leave them out in the definition"))
}

/// What the workers of a process share.
struct Shared {
    campaign: Campaign,
    pace: Pace,
    cancel: CancellationToken,
    observer: Arc<dyn Observer>,
    holder: String,
    take: Vec<PartitionStatus>,
    target_exists: std::sync::atomic::AtomicBool,
    /// Failures since the last success.
    in_a_row: AtomicUsize,
    /// Other machines may load the table, and it takes one load at a time.
    by_turns: bool,
    began: Instant,
    done: Mutex<Done>,
    /// Chunks that a worker who was killed left behind, and whose lease at the target has not ended: their turn comes when
    /// nothing else is left.
    parked: Mutex<VecDeque<Parked>>,
}

/// A chunk that is claimed and waits.
struct Parked {
    partition: Box<Partition>,
    keeper: ClaimKeeper,
}

/// What the workers did so far.
#[derive(Default)]
struct Done {
    tried: BTreeSet<String>,
    loaded: usize,
    found_committed: usize,
    rows: RowCounts,
    bytes: u64,
    failures: Vec<Failure>,
    stopped: Option<String>,
    interrupted: bool,
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

    fn parked(&self) -> std::sync::MutexGuard<'_, VecDeque<Parked>> {
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

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, text: &str) {
        self.observer.note(&self.campaign.pipeline.name, text);
    }

    /// Tells the evidence of a chunk.
    fn chunk(&self, id: &str, state: ChunkState, rows: RowCounts, bytes: u64) {
        let event = Event::Chunk { id: id.to_owned(), state, rows, bytes };
        self.observer.event(&self.campaign.pipeline.name, &event);
    }

    fn ended(&self, id: &str, result: &Result<Receipt>) {
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

/// Loads one chunk after the other.
struct Worker {
    shared: Arc<Shared>,
    context: RunContext,
    waited: std::sync::atomic::AtomicBool,
}

impl Worker {
    /// The workers of a process share its memory limit, but no connection: a chunk that waits for one while
    /// it holds another would wait for ever.
    fn new(shared: &Arc<Shared>, context: &RunContext, workers: usize, label: String) -> Self {
        let mut context = context.clone();
        context.connections = Arc::new(context.connections.fork());
        context.options.memory_limit = (context.options.memory_limit / workers).max(16 << 20);
        context.options.retries = context.options.retries.max(RETRIES);
        context.observer = Arc::new(ChunkObserver { inner: Arc::clone(&shared.observer), label });
        Self { shared: Arc::clone(shared), context, waited: false.into() }
    }

    /// Claims a chunk and loads it. False when there is nothing left to do.
    async fn step(&self) -> Result<bool> {
        let shared = &self.shared;
        let campaign = &shared.campaign;
        if shared.cancel.is_cancelled() {
            self.stopped();
            return Ok(false);
        }
        let request = ClaimRequest {
            holder: shared.holder.clone(),
            ttl: campaign.backfill.claim_ttl,
            take: shared.take.clone(),
            tried: shared.done().tried.iter().cloned().collect(),
        };
        let claim = campaign.store.claim(&campaign.key, &request).await?;
        if matches!(claim, Claim::Nothing | Claim::Busy { .. }) {
            let parked = shared.parked().pop_front();
            if let Some(parked) = parked {
                self.load(parked, false).await?;
                return Ok(true);
            }
        }
        match claim {
            Claim::Nothing => Ok(false),
            Claim::Cancelled => {
                shared.done().stopped.get_or_insert_with(|| "the backfill was cancelled meanwhile".to_owned());
                Ok(false)
            }
            // Whoever only repeats failures waits for nobody.
            Claim::Busy { .. } if !shared.take.contains(&PartitionStatus::Pending) => Ok(false),
            Claim::Busy { holder, until } => {
                if !self.waited.swap(true, Ordering::Relaxed) {
                    shared.note(&format!("the last chunks are being loaded by {holder}; its claim ends at {until}"));
                }
                tokio::select! {
                    () = tokio::time::sleep(POLL * 2) => {}
                    () = shared.cancel.cancelled() => {}
                }
                Ok(true)
            }
            Claim::Partition { partition, taken_over } => {
                shared.done().tried.insert(partition.id.clone());
                // Its lease at the target may outlive the worker, while other chunks can be loaded.
                let left_behind = taken_over.is_some();
                if let Some(before) = taken_over {
                    shared.note(&format!("chunk {} was left by {before}: taken over", partition.id));
                }
                failpoint::reach("backfill.claimed").await?;
                shared.chunk(&partition.id, ChunkState::Begun, RowCounts::default(), 0);
                let keeper = ClaimKeeper::start(campaign, &partition, shared.cancel.child_token());
                self.load(Parked { partition, keeper }, left_behind).await?;
                Ok(true)
            }
        }
    }

    fn stopped(&self) {
        let mut done = self.shared.done();
        if done.stopped.is_none() && self.context.cancel.is_cancelled() {
            done.interrupted = true;
        }
    }

    /// Loads a chunk that is claimed; `may_wait`: one whose lease another still has is parked.
    async fn load(&self, Parked { partition, keeper }: Parked, may_wait: bool) -> Result<()> {
        let shared = &self.shared;
        let campaign = &shared.campaign;
        let chunk = campaign
            .chunk(&partition.id)
            .ok_or_else(|| Error::internal(format!("the manifest has the chunk {:?}", partition.id)))?;
        let pipeline = campaign.chunk_pipeline(chunk);
        let began = Instant::now();
        let mut context = self.context.clone();
        context.cancel = keeper.lost.clone();
        let Some(result) = self.in_turn(&context, &pipeline, &partition.run_id, may_wait).await else {
            shared
                .note(&format!("chunk {} is still held by the worker that left it: its turn comes last", partition.id));
            shared.parked().push_back(Parked { partition, keeper });
            return Ok(());
        };
        let result = match result {
            // Committed, says the ledger, and there is no table: the chunk would be lost.
            Ok(receipt) if receipt.status == RunStatus::AlreadyCommitted => self.believe(receipt).await,
            other => other,
        };
        let taken = keeper.stop().await;
        shared.ended(&partition.id, &result);
        let seconds = began.elapsed().as_secs_f64();
        let attempt = match &result {
            Ok(receipt) => success(receipt, seconds)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => failure(PartitionStatus::Pending, error, seconds),
            Err(error) => failure(PartitionStatus::Failed, error, seconds),
        };
        failpoint::reach("backfill.committed").await?;
        let recorded = campaign.store.record(&campaign.key, &partition.id, partition.token, &attempt).await?;
        failpoint::reach("backfill.recorded").await?;
        if !recorded || taken {
            shared.note(&format!("chunk {} was taken over by another worker; its record counts", partition.id));
        }
        let label = chunk.label(&campaign.backfill.chunks.zone);
        let rows = self.account(&partition, &label, result, seconds).await?;
        shared.pace.after(rows, began.elapsed(), &shared.cancel).await;
        Ok(())
    }

    /// Where the table takes one load at a time, and other machines may load it, in turn with them.
    async fn in_turn(
        &self,
        context: &RunContext,
        pipeline: &Pipeline,
        run_id: &str,
        may_wait: bool,
    ) -> Option<Result<Receipt>> {
        if !self.shared.by_turns {
            return self.patiently(context, pipeline, run_id, may_wait).await;
        }
        let turn = match Turn::take(context, pipeline, run_id, &context.cancel).await {
            Ok(turn) => turn,
            Err(error) => return Some(Err(error)),
        };
        let result = self.patiently(context, pipeline, run_id, may_wait).await;
        turn.end().await;
        result
    }

    /// Runs the chunk. A conflict passes: another chunk created the target meanwhile, or the lease of a worker that was
    /// killed has not ended yet. `None`: there is one, and other chunks may be loaded meanwhile.
    async fn patiently(
        &self,
        context: &RunContext,
        pipeline: &Pipeline,
        run_id: &str,
        may_wait: bool,
    ) -> Option<Result<Receipt>> {
        let until = Instant::now() + context.options.lease_ttl + Duration::from_secs(10);
        let mut told = false;
        loop {
            let error = match run_load(context, pipeline, run_id).await {
                Err(error) if error.kind() == ErrorKind::Conflict && may_wait => return None,
                Err(error) if error.kind() == ErrorKind::Conflict && Instant::now() < until => error,
                // Two machines that create one table at once get whatever the system says to the slower one.
                Err(error) if error.kind() != ErrorKind::Interrupted && self.created_by_another().await => error,
                other => return Some(other),
            };
            if context.cancel.is_cancelled() {
                return Some(Err(error));
            }
            if !std::mem::replace(&mut told, true) {
                self.shared.note(&format!("{}; trying again", error.message()));
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = context.cancel.cancelled() => {}
            }
        }
    }

    /// Whether the target is there by now, and was not when this process last knew.
    async fn created_by_another(&self) -> bool {
        let known = &self.shared.target_exists;
        let sink = &self.shared.campaign.pipeline.sink;
        if known.load(Ordering::Acquire) {
            return false;
        }
        let described = match self.context.connections.sink(&sink.connection) {
            Ok(connection) => connection.describe(&sink.relation).await,
            Err(error) => Err(error),
        };
        let there = matches!(described, Ok(Some(_)));
        if there {
            known.store(true, Ordering::Release);
        }
        there
    }

    async fn believe(&self, receipt: Receipt) -> Result<Receipt> {
        if self.shared.target_exists.load(Ordering::Acquire) {
            return Ok(receipt);
        }
        let sink = &self.shared.campaign.pipeline.sink;
        match self.context.connections.sink(&sink.connection)?.describe(&sink.relation).await? {
            Some(_) => Ok(receipt),
            None => Err(gone(&self.shared.campaign, "does not exist")),
        }
    }

    /// Adds the result to what was done. Returns the rows that were read.
    async fn account(&self, partition: &Partition, label: &str, result: Result<Receipt>, seconds: f64) -> Result<u64> {
        let shared = &self.shared;
        let id = &partition.id;
        match result {
            Ok(receipt) => {
                shared.target_exists.store(true, Ordering::Release);
                shared.in_a_row.store(0, Ordering::Relaxed);
                let found = receipt.status == RunStatus::AlreadyCommitted;
                {
                    let mut done = shared.done();
                    if found {
                        done.found_committed += 1;
                    } else {
                        done.loaded += 1;
                        done.rows.add(&receipt.rows);
                        done.bytes += receipt.bytes;
                    }
                }
                let far = self.far().await;
                shared.note(&match found {
                    true => format!("chunk {id} ({label}): committed before{far}"),
                    false => format!("chunk {id} ({label}): {} rows in {seconds:.1} s{far}", receipt.rows.staged),
                });
                Ok(if found { 0 } else { receipt.rows.extracted })
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.stopped();
                Ok(0)
            }
            Err(error) => {
                shared.note(&format!("chunk {id} ({label}) failed: {error}"));
                let row = shared.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                // What is wrong with the definition, a grant or dpone itself is wrong for every chunk.
                let hopeless =
                    matches!(error.kind(), ErrorKind::Configuration | ErrorKind::Authorization | ErrorKind::Internal);
                let mut done = shared.done();
                if hopeless || row >= ENOUGH {
                    done.stopped.get_or_insert_with(|| match hopeless {
                        true => "the rest was not tried: it would fail in the same way".to_owned(),
                        false => format!("the rest was not tried after {row} failures in a row"),
                    });
                    shared.cancel.cancel();
                }
                done.failures.push(Failure { id: id.clone(), bounds: label.to_owned(), error });
                Ok(0)
            }
        }
    }

    /// `, 12 of 260 done, about 3 min left`
    async fn far(&self) -> String {
        let shared = &self.shared;
        let Ok(manifest) = reload(&shared.campaign).await else { return String::new() };
        let counts = manifest.counts();
        let mut text = format!(", {} of {} done", counts.success, counts.total);
        if counts.failed > 0 {
            text.push_str(&format!(", {} failed", counts.failed));
        }
        let (ours, left) = (shared.done().loaded, counts.pending + counts.running);
        if ours > 0 && left > 0 {
            let seconds = shared.began.elapsed().as_secs_f64() / ours as f64 * left as f64;
            text.push_str(&match seconds {
                s if s < 90.0 => format!(", about {s:.0} s left"),
                s if s < 5400.0 => format!(", about {:.0} min left", s / 60.0),
                s => format!(", about {:.1} h left", s / 3600.0),
            });
        }
        text
    }
}

fn success(receipt: &Receipt, seconds: f64) -> Result<Attempt> {
    let text = serde_json::to_string_pretty(receipt)
        .map_err(|e| Error::internal(format!("a receipt cannot be written as JSON: {e}")))?;
    Ok(Attempt {
        status: PartitionStatus::Success,
        extracted_rows: Some(receipt.rows.extracted),
        loaded_rows: Some(receipt.rows.staged),
        load_id: Some(receipt.load_id.clone()),
        receipt: Some(text),
        error: None,
        seconds: if receipt.status == RunStatus::AlreadyCommitted { receipt.seconds } else { seconds },
    })
}

fn failure(status: PartitionStatus, error: &Error, seconds: f64) -> Attempt {
    let text = match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    };
    Attempt {
        status,
        extracted_rows: None,
        loaded_rows: None,
        load_id: None,
        receipt: None,
        error: Some((error.kind().as_str().to_owned(), text)),
        seconds,
    }
}

/// Renews the claim on a chunk; cancels `lost` when it was taken over.
struct ClaimKeeper {
    lost: CancellationToken,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<bool>,
}

impl ClaimKeeper {
    fn start(campaign: &Campaign, partition: &Partition, lost: CancellationToken) -> Self {
        let stop = CancellationToken::new();
        let (store, key, ttl) = (Arc::clone(&campaign.store), campaign.key.clone(), campaign.backfill.claim_ttl);
        let (id, token) = (partition.id.clone(), partition.token);
        let (cancel, stopped) = (lost.clone(), stop.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return false,
                    () = tokio::time::sleep(ttl / 3) => {}
                }
                match store.renew(&key, &id, token, ttl).await {
                    Ok(true) => {}
                    Ok(false) => {
                        cancel.cancel();
                        return true;
                    }
                    // The next one may get through; the target's ledger protects the chunk if none does.
                    Err(error) => tracing::warn!(%error, "the claim on a chunk could not be renewed"),
                }
            }
        });
        Self { lost, stop, task }
    }

    /// Whether the claim was taken over.
    async fn stop(self) -> bool {
        self.stop.cancel();
        self.task.await.unwrap_or(false)
    }
}

/// Shows the chunks of a worker as one pipeline, so that a campaign of a thousand chunks has as many bars as workers.
#[derive(Debug)]
struct ChunkObserver {
    inner: Arc<dyn Observer>,
    label: String,
}

impl Observer for ChunkObserver {
    fn stage(&self, _: &str, stage: Stage) {
        self.inner.stage(&self.label, stage);
    }

    fn progress(&self, _: &str, progress: Progress) {
        self.inner.progress(&self.label, progress);
    }

    fn note(&self, _: &str, text: &str) {
        self.inner.note(&self.label, text);
    }

    fn event(&self, _: &str, event: &Event) {
        self.inner.event(&self.label, event);
    }
}
