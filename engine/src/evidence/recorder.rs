//! From what an observer hears to the document of the run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};

use super::document::{
    ConnectionUse, Definition, Failure, Head, NotRun, Outcome, Partition, PartitionStatus, PipelineRun, Plan, Retry,
    RunDocument, SCHEMA_VERSION, StageTime, Staged, Status,
};
use super::folder::RunFolder;
use crate::receipt::RowCounts;
use crate::run::{Campaigning, ChunkState, Event, Observer, Planned, Progress, Stage};
use crate::{Error, ErrorKind, Receipt, Result};

/// How often the document is written while nothing but progress happens.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// With more chunks than this the document is too large to be written for each of them; their manifest knows each at once.
const MANY_CHUNKS: usize = 500;

/// Keeps the document of one run, and writes it to its folder, where it has one.
#[derive(Debug)]
pub struct Recorder {
    state: Mutex<State>,
    folder: Option<RunFolder>,
}

#[derive(Debug)]
struct State {
    document: RunDocument,
    /// The stage that is going on, and since when: of the pipeline that runs.
    since: Option<Instant>,
    began: Instant,
    written: Instant,
    /// What the chunks of a backfill did that this run loaded.
    loaded: (RowCounts, u64),
    /// The first failure to write is told at the end; the load goes on.
    unwritable: Option<Error>,
}

/// What is known of a pipeline before it runs.
#[derive(Debug, Clone, Default)]
pub struct Begun {
    pub manifest: String,
    pub process: String,
    pub selector: Option<String>,
    pub max_attempts: u32,
    pub retry_backoff_seconds: f64,
    pub retry_backoff_max_seconds: f64,
    pub definition: Definition,
    pub connections: Vec<ConnectionUse>,
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

impl Recorder {
    /// Begins the document. `several`: pipelines are listed under `runs`, however many there are.
    pub fn new(run_id: &str, several: bool, versions: BTreeMap<String, String>, folder: Option<RunFolder>) -> Self {
        let head = Head {
            schema_version: SCHEMA_VERSION,
            run_id: run_id.to_owned(),
            started_at: now(),
            updated_at: now(),
            host: super::folder::host(),
            process_id: std::process::id(),
            versions,
            evidence: folder.as_ref().map(|folder| folder.path().display().to_string()),
            ..Head::default()
        };
        let document = RunDocument { head, several, ..RunDocument::default() };
        let state = State {
            document,
            since: None,
            began: Instant::now(),
            written: Instant::now(),
            loaded: Default::default(),
            unwritable: None,
        };
        Self { state: Mutex::new(state), folder }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that the command itself has to say.
    pub fn command_note(&self, text: impl Into<String>) {
        self.lock().document.head.command_notes.push(text.into());
    }

    pub fn set_execution(&self, id: impl Into<String>) {
        self.lock().document.head.execution_id = Some(id.into());
    }

    /// A pipeline begins. They run one after the other: what is heard from here on belongs to it.
    pub fn begin(&self, begun: Begun) {
        let mut state = self.lock();
        let run_id = state.document.head.run_id.clone();
        state.document.runs.push(PipelineRun {
            manifest: begun.manifest,
            process: begun.process,
            selector: begun.selector,
            run_id,
            started_at: now(),
            max_attempts: begun.max_attempts,
            retry_backoff_seconds: begun.retry_backoff_seconds,
            retry_backoff_max_seconds: begun.retry_backoff_max_seconds,
            definition: begun.definition,
            connections: begun.connections,
            ..PipelineRun::default()
        });
        state.since = None;
        state.began = Instant::now();
        state.loaded = Default::default();
        self.write(&mut state, false);
    }

    /// The pipeline ended.
    pub fn end(&self, result: &Result<Receipt>) -> Result<()> {
        let mut state = self.lock();
        let seconds = state.began.elapsed().as_secs_f64();
        state.end_stage();
        let (rows, bytes) = std::mem::take(&mut state.loaded);
        let Some(run) = state.document.runs.last_mut() else { return Ok(()) };
        run.finished_at = Some(now());
        run.attempts = run.attempts.max(1);
        match result {
            Ok(receipt) => {
                run.result = Outcome::success(receipt)?;
                run.passed = true;
                let plan = run.plan.get_or_insert_with(|| Plan {
                    load_id: receipt.load_id.clone(),
                    strategy: receipt.strategy.clone(),
                    write_mode: receipt.write_mode.clone(),
                    source: receipt.source.clone(),
                    target: receipt.target.clone(),
                    source_position: receipt.source_position.clone(),
                    ..Plan::default()
                });
                plan.watermark_before = receipt.watermark_before.as_ref().map(ToString::to_string);
                plan.watermark_after = receipt.watermark_after.as_ref().map(ToString::to_string);
                plan.schema_statements.clone_from(&receipt.schema_changes);
            }
            Err(error) => {
                run.result = Outcome::failure(error, seconds);
                run.result.partly(&rows, bytes);
                run.error = Some(Failure::from(error));
                let open = |p: &&mut Partition| matches!(p.status, PartitionStatus::Pending | PartitionStatus::Running);
                run.partitions.iter_mut().filter(open).for_each(|p| p.status = PartitionStatus::Unfinished);
            }
        }
        run.status = run.result.status;
        self.write(&mut state, false);
        Ok(())
    }

    /// Nothing could be begun: what was to run is not known, or not how it is written down.
    pub fn refuse(&self, error: &Error) {
        let mut state = self.lock();
        let Some(run) = state.run() else { return };
        run.result = Outcome::failure(error, 0.0);
        run.error = Some(Failure::from(error));
        run.status = run.result.status;
        run.finished_at = Some(now());
    }

    /// A pipeline that is not begun, and why.
    pub fn leave_out(&self, process: &str, reason: &str) {
        let left = NotRun { process: process.to_owned(), reason: reason.to_owned() };
        self.lock().document.not_run.push(left);
    }

    /// How the last pipeline stands.
    pub fn last(&self) -> Option<PipelineRun> {
        self.lock().document.runs.last().cloned()
    }

    /// A copy of the document as it is now.
    pub fn document(&self) -> RunDocument {
        self.lock().document.clone()
    }

    /// Ends the run: the document is written a last time, durably, and the folder gets its checksums. Gives the document,
    /// and what went wrong with writing it: the loads are done whatever becomes of the evidence.
    pub fn finish(&self) -> (RunDocument, Option<Error>) {
        let mut state = self.lock();
        state.document.conclude(now());
        self.write(&mut state, true);
        if let (Some(folder), None) = (&self.folder, &state.unwritable)
            && let Err(error) = folder.seal()
        {
            state.unwritable = Some(error);
        }
        (state.document.clone(), state.unwritable.take())
    }

    fn write(&self, state: &mut State, durable: bool) {
        state.document.head.updated_at = now();
        state.written = Instant::now();
        let Some(folder) = &self.folder else { return };
        if state.unwritable.is_some() {
            return;
        }
        if let Err(error) = state.document.to_value().and_then(|value| folder.write(&value, durable)) {
            tracing::warn!(%error, "the evidence of the run could not be written");
            state.unwritable = Some(error);
        }
    }
}

impl State {
    fn run(&mut self) -> Option<&mut PipelineRun> {
        self.document.runs.last_mut().filter(|run| run.finished_at.is_none())
    }

    fn end_stage(&mut self) {
        let seconds = self.since.take().map(|since| since.elapsed().as_secs_f64());
        if let (Some(run), Some(seconds)) = (self.document.runs.last_mut(), seconds)
            && let Some(last) = run.stages.last_mut()
        {
            last.seconds = Some(seconds);
        }
    }

    /// Whether the name is of the pipeline that runs: the workers of a backfill have names of their own.
    fn is_current(&self, pipeline: &str) -> bool {
        self.document.runs.last().is_some_and(|run| run.process == pipeline)
    }
}

impl Observer for Recorder {
    fn stage(&self, pipeline: &str, stage: Stage) {
        let mut state = self.lock();
        if !state.is_current(pipeline) {
            return;
        }
        state.end_stage();
        state.since = Some(Instant::now());
        if let Some(run) = state.run() {
            if stage == Stage::Lease {
                run.attempts += 1;
            }
            run.stage = Some(stage);
            run.stages.push(StageTime { attempt: run.attempts.max(1), stage, started_at: now(), seconds: None });
            if stage == Stage::Stage {
                run.partitions.iter_mut().for_each(|partition| partition.status = PartitionStatus::Running);
            }
        }
        self.write(&mut state, false);
    }

    fn progress(&self, pipeline: &str, progress: Progress) {
        let mut state = self.lock();
        if !state.is_current(pipeline) {
            return;
        }
        if let Some(run) = state.run() {
            run.staged = Staged {
                rows: progress.rows,
                bytes: progress.bytes,
                partitions_done: progress.partitions_done,
                partitions: progress.partitions,
            };
        }
        if state.written.elapsed() >= PROGRESS_EVERY {
            self.write(&mut state, false);
        }
    }

    fn note(&self, _: &str, text: &str) {
        if let Some(run) = self.lock().run() {
            run.notes.push(text.to_owned());
        }
    }

    fn event(&self, pipeline: &str, event: &Event) {
        let mut state = self.lock();
        let current = state.is_current(pipeline);
        let Some(run) = state.run() else { return };
        match event {
            Event::Retry { attempt, kind, message, wait } => {
                run.retries.push(Retry {
                    attempt: *attempt,
                    error_class: kind.as_str().to_owned(),
                    message: message.clone(),
                    wait_seconds: wait.as_secs_f64(),
                    at: now(),
                });
                self.write(&mut state, false);
            }
            _ if !current => {}
            Event::Campaign(campaign) => {
                begin_campaign(run, campaign);
                state.since = Some(Instant::now());
                self.write(&mut state, false);
            }
            Event::Chunk { id, state: chunk, rows, bytes } => {
                set_chunk(run, id, *chunk, rows.staged, *bytes);
                let small = run.partitions.len() <= MANY_CHUNKS;
                if *chunk == ChunkState::Loaded {
                    state.loaded.0.add(rows);
                    state.loaded.1 += bytes;
                }
                if small || state.written.elapsed() >= PROGRESS_EVERY {
                    self.write(&mut state, false);
                }
            }
            Event::Planned(planned) => {
                run.partitions = (0..planned.partitions)
                    .map(|id| Partition { id: id.to_string(), ..Partition::default() })
                    .collect();
                run.plan = Some(plan(planned));
            }
            Event::Partition { partition, rows, bytes } => {
                if let Some(entry) = run.partitions.get_mut(*partition) {
                    (entry.status, entry.rows, entry.bytes) = (PartitionStatus::Success, *rows, *bytes);
                }
            }
            Event::SchemaChanged { statements } => {
                if let Some(plan) = &mut run.plan {
                    plan.schema_statements.clone_from(statements);
                }
            }
        }
    }
}

/// The chunks of a backfill are loaded by workers, each in stages of its own: the run is in one stage for all of them.
fn begin_campaign(run: &mut PipelineRun, campaign: &Campaigning) {
    run.attempts = run.attempts.max(1);
    run.stage = Some(Stage::Stage);
    run.stages.push(StageTime { attempt: run.attempts, stage: Stage::Stage, started_at: now(), seconds: None });
    run.plan = Some(Plan {
        load_id: campaign.campaign.clone(),
        strategy: "backfill".to_owned(),
        write_mode: campaign.write_mode.clone(),
        source: campaign.source.clone(),
        target: campaign.target.clone(),
        target_exists: campaign.target_exists,
        ..Plan::default()
    });
    let partition = |(id, loaded): &(String, Option<u64>)| Partition {
        id: id.clone(),
        status: if loaded.is_some() { PartitionStatus::Skipped } else { PartitionStatus::Pending },
        rows: loaded.unwrap_or(0),
        bytes: 0,
    };
    run.partitions = campaign.chunks.iter().map(partition).collect();
    run.staged.partitions = run.partitions.iter().filter(|p| p.status == PartitionStatus::Pending).count();
}

/// A chunk has one entry, whatever becomes of it.
fn set_chunk(run: &mut PipelineRun, id: &str, state: ChunkState, rows: u64, bytes: u64) {
    let status = match state {
        ChunkState::Begun => PartitionStatus::Running,
        ChunkState::Loaded => PartitionStatus::Success,
        ChunkState::Found => PartitionStatus::Skipped,
        ChunkState::Failed => PartitionStatus::Failed,
        ChunkState::Stopped => PartitionStatus::Unfinished,
    };
    if state == ChunkState::Loaded {
        run.staged.rows += rows;
        run.staged.bytes += bytes;
        run.staged.partitions_done += 1;
    }
    let entry = Partition { id: id.to_owned(), status, rows, bytes };
    match run.partitions.iter_mut().find(|partition| partition.id == id) {
        Some(known) => *known = entry,
        None => run.partitions.push(entry),
    }
}

fn plan(planned: &Planned) -> Plan {
    Plan {
        sha256: planned.sha256.clone(),
        load_id: planned.load_id.clone(),
        strategy: planned.strategy.clone(),
        write_mode: planned.write_mode.clone(),
        source: planned.source.clone(),
        target: planned.target.clone(),
        target_exists: planned.target_exists,
        source_position: planned.source_position.clone(),
        watermark_before: planned.watermark_before.as_ref().map(ToString::to_string),
        watermark_after: None,
        schema: planned.schema.clone(),
        schema_statements: Vec::new(),
        notes: planned.notes.clone(),
    }
}

impl Drop for Recorder {
    /// A command that ended early, by an error of its own, says so.
    fn drop(&mut self) {
        let mut state = self.lock();
        if state.document.head.finished_at.is_none() {
            let error = Error::new(ErrorKind::Internal, "the command ended before the run did");
            state.document.head.status = Status::Failed;
            if let Some(run) = state.run() {
                run.status = Status::Failed;
                run.error = Some(Failure::from(&error));
            }
            self.write(&mut state, true);
        }
    }
}
