//! One worker of a campaign: it claims a chunk, loads it, records how that went, and goes on with the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dpone_planner::definition::Pipeline;
use tokio_util::sync::CancellationToken;

use super::campaign::Campaign;
use super::checks::gone;
use super::execute::{Parked, Shared, reload};
use super::manifest::{Attempt, Claim, ClaimRequest, Partition, PartitionStatus};
use super::report::Failure;
use crate::failpoint;
use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::run::{ChunkState, Event, Observer, Progress, RunContext, Stage, Turn, run_load};
use crate::{Error, ErrorKind, Result};

/// Failures in a row after which the rest is not tried: the cause is not in the chunks.
const ENOUGH: usize = 5;
/// How often a transient failure of a chunk is tried again at least: chunks wait for each other's locks.
const RETRIES: u32 = 3;
/// How long a worker waits before it asks again for what others hold.
const POLL: Duration = Duration::from_millis(500);

/// Loads one chunk after the other.
pub(super) struct Worker {
    shared: Arc<Shared>,
    context: RunContext,
    waited: std::sync::atomic::AtomicBool,
}

impl Worker {
    /// The workers of a process share its memory limit, but no connection: a chunk that waits for one while
    /// it holds another would wait for ever.
    pub(super) fn new(shared: &Arc<Shared>, context: &RunContext, workers: usize, label: String) -> Self {
        let mut context = context.clone();
        context.connections = Arc::new(context.connections.fork());
        context.options.memory_limit = (context.options.memory_limit / workers).max(16 << 20);
        context.options.retries = context.options.retries.max(RETRIES);
        context.observer = Arc::new(ChunkObserver { inner: Arc::clone(&shared.observer), label });
        Self { shared: Arc::clone(shared), context, waited: false.into() }
    }

    /// Claims a chunk and loads it. False when there is nothing left to do.
    pub(super) async fn step(&self) -> Result<bool> {
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

pub(super) fn failure(status: PartitionStatus, error: &Error, seconds: f64) -> Attempt {
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
pub(super) struct ClaimKeeper {
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
    pub(super) async fn stop(self) -> bool {
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
