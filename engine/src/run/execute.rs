//! One run, from the lease to the receipt. The order of the steps is the commit protocol of `docs/concepts.md`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::datatypes::Schema;
use chrono::{SecondsFormat, Utc};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use dpone_planner::definition::{Pipeline, Strategy};
use dpone_planner::plan::{LoadPlan, WriteMode};
use dpone_planner::schema::{LEDGER, SchemaPlan};
use dpone_planner::state::{Boundary, PipelineState, Watermark};
use dpone_planner::strategy::LoadIdentity;
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::comparison;
use super::context::RunContext;
use super::evolve::{Applied, Governor};
use super::observer::{Event, Planned, Progress, Stage};
use super::prepare::{Ends, Prepared, prepare, source_name};
use crate::backfill;
use crate::codec::EngineCodec;
use crate::diff::DiffFacts;
use crate::failpoint;
use crate::partitions::scoped;
use crate::probe::{PartitionFacts, ProbeSpec, add_counts, boundary_schema};
use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::retry::Backoff;
use crate::sift::{SiftExec, SiftFacts, write_evidence};
use crate::sink::Commit;
use crate::stage::{PartitionReport, StageExec, StageSpec};
use crate::tally::TallyExec;
use crate::{Error, ErrorKind, Lease, LeaseRequest, LoadSpec, Result, StagedPartition};

/// Runs a pipeline once. The same run id twice is a no-op that reports the first receipt.
///
/// A transient failure before the commit is tried again from the start, as often as the options say, each time with a
/// new load id. Whatever happens, nothing of a failed run is visible in the target.
///
/// A backfill runs its campaign, or goes on with it: the receipt sums up the chunks that this run loaded.
pub async fn run(context: &RunContext, pipeline: &Pipeline, run_id: &str) -> Result<Receipt> {
    if backfill::is_backfill(pipeline) {
        let report = backfill::run_campaign(context, pipeline, &backfill::CampaignOptions::default()).await?;
        return report.into_receipt(run_id);
    }
    run_load(context, pipeline, run_id).await
}

/// Runs one load.
pub(crate) async fn run_load(context: &RunContext, pipeline: &Pipeline, run_id: &str) -> Result<Receipt> {
    let mut attempt = 0;
    loop {
        let error = match run_once(context, pipeline, run_id).await {
            Ok(receipt) => return Ok(receipt),
            Err(error) => error.with("pipeline", &pipeline.name),
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

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "stopped on request; nothing was committed")
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
        Ok(None) => under_lease(context, pipeline, run_id, &ends, &lease, &keeper.lost, &started).await,
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
        options: pipeline.sink.options.clone(),
    };
    if let Err(error) = ends.sink.discard(&load).await {
        tracing::debug!(%error, "the staging area of the committed run could not be removed");
    }
    Receipt { status: RunStatus::AlreadyCommitted, ..receipt }
}

struct Started {
    at: String,
    clock: Instant,
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Host and process, for the message that a second run gets.
pub(crate) fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{} (process {})", if host.is_empty() { "unknown host" } else { host }, std::process::id())
}

/// Renews the lease in the background; cancels `lost` when it was taken over.
struct LeaseKeeper {
    lost: CancellationToken,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Option<Error>>,
}

impl LeaseKeeper {
    fn start(ends: &Ends, lease: &Lease, lost: CancellationToken) -> Self {
        let stop = CancellationToken::new();
        let (store, lease, cancel, stopped) = (Arc::clone(&ends.store), lease.clone(), lost.clone(), stop.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return None,
                    () = tokio::time::sleep(lease.ttl / 3) => {}
                }
                match store.renew(&lease).await {
                    Ok(()) => {}
                    // The next renewal may get through; the fencing token protects the commit if none does.
                    Err(error) if error.is_transient() => tracing::warn!(%error, "the lease could not be renewed"),
                    Err(error) => {
                        cancel.cancel();
                        return Some(error);
                    }
                }
            }
        });
        Self { lost, stop, task }
    }

    async fn stop(self) -> Option<Error> {
        self.stop.cancel();
        self.task.await.ok().flatten()
    }
}

async fn under_lease(
    context: &RunContext,
    pipeline: &Pipeline,
    run_id: &str,
    ends: &Ends,
    lease: &Lease,
    cancel: &CancellationToken,
    started: &Started,
) -> Result<Receipt> {
    let attempt = Attempt { context, pipeline, run_id, ends, lease, cancel, started };
    match attempt.load(false).await {
        Err(error) if comparison::is_outgrown(&error) => {
            let note = "the target's keys do not fit in memory: comparing again, in parts on disk";
            context.observer.note(&pipeline.name, note);
            attempt.load(true).await
        }
        result => result,
    }
}

/// One attempt at a load, under the lease.
struct Attempt<'a> {
    context: &'a RunContext,
    pipeline: &'a Pipeline,
    run_id: &'a str,
    ends: &'a Ends,
    lease: &'a Lease,
    cancel: &'a CancellationToken,
    started: &'a Started,
}

fn load_spec(pipeline: &Pipeline, prepared: &Prepared, load: LoadIdentity) -> LoadSpec {
    use datafusion::physical_plan::ExecutionPlanProperties;
    let plan = &prepared.plan;
    let primary_key = plan.ddl.iter().map(|change| match change {
        dpone_planner::schema::SchemaChange::CreateTable { primary_key, .. } => primary_key.clone(),
        _ => Vec::new(),
    });
    LoadSpec {
        load_id: load.load_id,
        run_id: load.run_id,
        pipeline: pipeline.name.clone(),
        target: plan.target.clone(),
        staging_schema: pipeline.sink.staging_schema.clone(),
        staged_schema: Arc::clone(&plan.staged_schema),
        write_mode: plan.write_mode.clone(),
        target_exists: prepared.target.is_some(),
        partitions: prepared.physical.output_partitioning().partition_count(),
        primary_key: primary_key.flatten().collect(),
        partition_by: pipeline.sink.partition_by.clone(),
        options: pipeline.sink.options.clone(),
    }
}

/// Two plans with the same digest read the same, stage the same columns, write them the same way and check the same.
fn plan_sha256(plan: &LoadPlan) -> String {
    let schemas = [&plan.staged_schema, &plan.target_schema].map(|s| format!("{:?}", s.fields()));
    let decided = format!(
        "{}\n{}\n{}\n{:?}\n{}\n{:?}\n{:?}\n{:?}\n{}",
        plan.strategy,
        plan.target,
        plan.logical.display_indent_schema(),
        plan.write_mode,
        schemas.join("\n"),
        plan.ddl,
        plan.checks,
        plan.cursor,
        plan.state_digest,
    );
    crate::schema::files::sha256(decided.as_bytes())
}

async fn or_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        () = cancel.cancelled() => Err(interrupted()),
    }
}

impl Attempt<'_> {
    fn stage(&self, stage: Stage) {
        self.context.observer.stage(&self.pipeline.name, stage);
    }

    /// Plans, stages and commits. `outgrown`: comparing in memory was tried before, and did not fit.
    async fn load(&self, outgrown: bool) -> Result<Receipt> {
        let Self { context, pipeline, ends, .. } = self;
        let mut applied = Applied::default();
        let load = LoadIdentity { run_id: self.run_id.to_owned(), load_id: ulid::Ulid::generate().to_string() };
        let prepared = self.prepare(&load, outgrown, &mut applied).await?;
        if let Some(why) = &prepared.skip {
            if matches!(pipeline.strategy, Strategy::Chunk(_)) {
                // A chunk that was recorded as loaded would never be loaded.
                return Err(Error::configuration(why.clone()).with_hint("create the table, or set tables: evolve"));
            }
            return self.skipped(&prepared, load, why).await;
        }
        let load = load_spec(pipeline, &prepared, load);
        tracing::debug!(load_id = load.load_id, mode = load.write_mode.name(), "planned");
        context.observer.event(&pipeline.name, &self.planned(&prepared, &load)?);
        if !applied.statements.is_empty() {
            let statements = applied.statements.clone();
            context.observer.event(&pipeline.name, &Event::SchemaChanged { statements });
        }
        let result = self.stage_and_commit(&prepared, &load, applied).await;
        self.stage(Stage::Discard);
        let discarded = ends.sink.discard(&load).await;
        for snapshots in [&prepared.snapshots, &prepared.target_snapshots] {
            if let Err(error) = snapshots.close().await {
                tracing::debug!(%error, "the snapshot was not closed in order");
            }
        }
        let receipt = result?;
        if let Err(error) = discarded {
            context.observer.note(&pipeline.name, &format!("staging could not be removed: {error}"));
        }
        if let Some(mirror) = &ends.mirror
            && let Some(state) = ends.store.get(&pipeline.name).await?
        {
            mirror.mirror(&state, &receipt).await.map_err(|e| {
                e.with_hint("the load itself is committed with its state; the next run writes this copy again")
            })?;
        }
        failpoint::reach("discarded").await?;
        Ok(receipt)
    }

    /// The plan, for the evidence of the run.
    fn planned(&self, prepared: &Prepared, load: &LoadSpec) -> Result<Event> {
        let plan = &prepared.plan;
        let changed = plan.schema.as_ref().filter(|schema| !schema.changes.is_empty());
        Ok(Event::Planned(Box::new(Planned {
            load_id: load.load_id.clone(),
            strategy: plan.strategy.clone(),
            write_mode: load.write_mode.name().to_owned(),
            source: source_name(self.pipeline, &prepared.source.plan),
            target: format!("{}.{}", self.pipeline.sink.connection, load.target),
            target_exists: load.target_exists,
            partitions: load.partitions,
            sha256: plan_sha256(plan),
            source_position: prepared.snapshots.position(),
            watermark_before: prepared.state.as_ref().and_then(|s| s.watermark.clone()),
            schema: changed.map(SchemaPlan::document).transpose()?,
            notes: plan.notes.clone(),
        })))
    }

    /// Plans the load, with the target changed as the schema plan says.
    async fn prepare(&self, load: &LoadIdentity, outgrown: bool, applied: &mut Applied) -> Result<Prepared> {
        let Self { context, pipeline, ends, lease, cancel, .. } = self;
        let governor = Governor { context, pipeline, ends, lease, run_id: self.run_id };
        loop {
            self.stage(Stage::Describe);
            let decide = |plan: &SchemaPlan| governor.decide(plan);
            let prepared = or_cancelled(cancel, prepare(context, pipeline, ends, load, outgrown, &decide)).await?;
            self.stage(Stage::Plan);
            if prepared.plan.evolve.is_empty() {
                governor.remember(&prepared, applied);
                return Ok(prepared);
            }
            if ends.sink.evolves_with_load(&prepared.plan.write_mode) {
                governor.with_load(&prepared, applied)?;
                return Ok(prepared);
            }
            // What we read of the target ourselves would hold the lock that a change needs.
            prepared.target_snapshots.close().await?;
            prepared.snapshots.close().await?;
            or_cancelled(cancel, governor.apply(&prepared, applied)).await?;
        }
    }

    /// The receipt of a run that loads nothing, because the definition says so.
    async fn skipped(&self, prepared: &Prepared, load: LoadIdentity, why: &str) -> Result<Receipt> {
        for snapshots in [&prepared.snapshots, &prepared.target_snapshots] {
            snapshots.close().await?;
        }
        let load = load_spec(self.pipeline, prepared, load);
        let facts = PartitionFacts::default();
        let state = next_state(&prepared.plan, prepared.state.as_ref(), &load, &facts)?;
        let mut receipt = self.receipt(prepared, &load, &[], &facts, &state);
        receipt.status = RunStatus::Skipped;
        receipt.notes = vec![why.to_owned()];
        Ok(receipt)
    }

    async fn stage_and_commit(&self, prepared: &Prepared, load: &LoadSpec, applied: Applied) -> Result<Receipt> {
        let Self { context, pipeline, ends, cancel, .. } = self;
        or_cancelled(cancel, ends.sink.prepare(load)).await?;
        failpoint::reach("staging.prepared").await?;
        self.stage(Stage::Stage);
        let Staged { parts, mut facts, compared, tallied, sifted } =
            or_cancelled(cancel, stage(context, pipeline, ends, prepared, load)).await?;
        failpoint::reach("staged").await?;
        self.stage(Stage::Verify);
        or_cancelled(cancel, prepared.snapshots.verify()).await?;
        let tallied_rows = tallied.as_ref().map(|t| t.extracted);
        let source_rows = compared.as_ref().map(|c| c.source_rows).or(tallied_rows).unwrap_or(facts.extracted);
        if let Some(cursor) = tallied.and_then(|t| t.cursor) {
            facts.cursor = Some(cursor);
        }
        or_cancelled(cancel, verify(ends, prepared, load, &parts, &facts, source_rows)).await?;
        if let Some(compared) = &compared {
            comparison::verify(prepared, load, compared)?;
        }
        // What was compared is not needed any more, and should not keep the target's rows of before alive.
        prepared.target_snapshots.close().await?;
        failpoint::reach("verified").await?;
        if cancel.is_cancelled() {
            return Err(interrupted());
        }
        self.stage(Stage::Commit);
        let state = next_state(&prepared.plan, prepared.state.as_ref(), load, &facts)?;
        let mut receipt = self.receipt(prepared, load, &parts, &facts, &state);
        receipt.schema_changes = applied.statements;
        receipt.notes.splice(0..0, applied.notes);
        // Beside changes only keys are compared, and those that are the same say nothing of their rows.
        let only_keys = prepared.plan.changes.is_some();
        if !only_keys {
            receipt.rows.extracted = source_rows;
        }
        if let Some(compared) = compared.as_ref().filter(|_| !only_keys) {
            comparison::complete(&mut receipt.rows, compared, prepared);
        } else if let Some(rows) = tallied_rows {
            receipt.rows.unchanged += rows.saturating_sub(facts.whole);
        }
        if let Some(sifted) = &sifted {
            receipt.rows.extracted += sifted.rows;
            receipt.rows.quarantined += sifted.rows;
            let ledger = self.pipeline.evolution.ledger_path.as_deref().unwrap_or(LEDGER);
            let path = write_evidence(Path::new(ledger), load, sifted)?;
            receipt.notes.push(format!("{} row(s) were put aside: {}", sifted.rows, path.display()));
        }
        // A comparison has checked the guards already, on exactly the rows that it found; beside changes, other rows may be
        // marked as deleted.
        let guards = (compared.is_none() || only_keys).then_some(&prepared.plan.checks);
        // Not cancellable from here: a commit that was begun is seen through, so that its outcome is known.
        let scoped = scoped(&prepared.plan, load, &facts)?;
        let mut receipt = ends
            .sink
            .commit(&Commit {
                load: &scoped,
                staged: &parts,
                state: &state,
                state_location: &ends.location,
                lease: self.lease,
                ddl: &prepared.plan.ddl,
                max_delete_rows: guards.and_then(|g| g.max_delete_rows),
                max_delete_ratio: guards.and_then(|g| g.max_delete_ratio),
                receipt: &receipt,
            })
            .await?;
        failpoint::reach("committed").await?;
        receipt.seconds = self.started.clock.elapsed().as_secs_f64();
        Ok(receipt)
    }

    /// The receipt as it goes into the commit, which completes it.
    fn receipt(
        &self,
        prepared: &Prepared,
        load: &LoadSpec,
        staged: &[StagedPartition],
        facts: &PartitionFacts,
        state: &PipelineState,
    ) -> Receipt {
        let rows = RowCounts {
            extracted: facts.extracted,
            staged: facts.passed,
            quarantined: facts.quarantined,
            skipped: facts.skipped,
            ..RowCounts::default()
        };
        Receipt {
            pipeline: self.pipeline.name.clone(),
            strategy: prepared.plan.strategy.clone(),
            write_mode: load.write_mode.name().to_owned(),
            source: source_name(self.pipeline, &prepared.source.plan),
            target: format!("{}.{}", self.pipeline.sink.connection, load.target),
            run_id: load.run_id.clone(),
            load_id: load.load_id.clone(),
            status: RunStatus::Committed,
            rows,
            bytes: staged.iter().map(|s| s.bytes).sum(),
            partitions: staged.len(),
            seconds: self.started.clock.elapsed().as_secs_f64(),
            watermark_before: prepared.state.as_ref().and_then(|s| s.watermark.clone()),
            watermark_after: state.watermark.clone(),
            source_position: prepared.snapshots.position(),
            target_version: None,
            started_at: self.started.at.clone(),
            finished_at: now(),
            schema_changes: Vec::new(),
            notes: prepared.plan.notes.clone(),
        }
    }
}

/// The staged partitions, and what they showed.
struct Staged {
    parts: Vec<StagedPartition>,
    facts: PartitionFacts,
    compared: Option<DiffFacts>,
    /// What the source gave, where the plan's output does not show it.
    tallied: Option<PartitionFacts>,
    /// Rows that were put aside.
    sifted: Option<SiftFacts>,
}

/// Stages every partition, as many at once as the plan has.
async fn stage(
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

/// Checks the staged rows before the target is touched.
async fn verify(
    ends: &Ends,
    prepared: &Prepared,
    load: &LoadSpec,
    staged: &[StagedPartition],
    facts: &PartitionFacts,
    source_rows: u64,
) -> Result<()> {
    let checks = &prepared.plan.checks;
    if !facts.nulls.is_empty() {
        let found: Vec<_> = facts
            .nulls
            .iter()
            .map(|(column, count, first)| format!("{count} in {column:?} (the first in row {first} of its partition)"))
            .collect();
        return Err(Error::data_quality(format!("NULL where none may be: {}", found.join(", "))).with_hint(
            "filter such rows in the definition, or say what to do with them: null_keys: quarantine for keys, \
             null_cursor: include for cursors",
        ));
    }
    let staged_rows: u64 = staged.iter().map(|s| s.rows).sum();
    if staged_rows + facts.quarantined + facts.skipped != facts.extracted {
        return Err(Error::internal(format!(
            "{} rows were extracted, but {staged_rows} staged, {} quarantined and {} skipped",
            facts.extracted, facts.quarantined, facts.skipped
        )));
    }
    let has_rows = prepared.target.as_ref().is_some_and(|t| t.has_rows);
    if let Some(limit) = &checks.max_partitions
        && facts.partitions.len() as u64 > limit.most
    {
        return Err(Error::data_quality(format!(
            "the staged rows belong to more than {} partitions of {}, and max_partitions_per_run is {}",
            limit.most,
            limit.columns.join(", "),
            limit.most
        ))
        .with_hint("filter the source, raise partition.max_partitions_per_run, or load by backfill in chunks"));
    }
    if checks.fail_on_empty && source_rows == 0 && has_rows {
        return Err(comparison::empty(load));
    }
    if !checks.unique.is_empty() {
        let duplicates = ends.sink.duplicate_keys(load, staged, &checks.unique).await?;
        if duplicates > 0 {
            return Err(Error::data_quality(format!(
                "{duplicates} key(s) occur more than once in the batch (key: {})",
                checks.unique.join(", ")
            ))
            .with_hint(
                "make the key unique in the source or the query, or keep the newest row of each key: \
                 duplicate_policy: latest with order_by",
            ));
        }
    }
    // After the duplicates: two rows with one key and one time are that in the first place.
    if facts.reversed > 0 {
        return Err(Error::conflict(format!(
            "{} version(s) would end before they begin: versions in {} begin after the time of this load",
            facts.reversed, load.target
        ))
        .with_hint("check the clocks of the machines that load this table, and run again when the time has passed"));
    }
    Ok(())
}

/// The state after the load: the watermark only ever moves up.
fn next_state(
    plan: &LoadPlan,
    before: Option<&PipelineState>,
    load: &LoadSpec,
    facts: &PartitionFacts,
) -> Result<PipelineState> {
    let old = before.and_then(|s| s.watermark.clone()).filter(|_| plan.cursor.is_some());
    let (watermark, moved) = later(old, facts.cursor.clone())?;
    let keep = plan.cursor.as_ref().is_some_and(|c| c.keep_boundary);
    let boundary = match (&watermark, keep) {
        (Some(_), true) => {
            let schema = boundary_schema(&plan.staged_schema);
            let mut rows = if moved != Moved::No { facts.boundary.clone() } else { Vec::new() };
            let mut overflow = moved != Moved::No && facts.boundary_overflow;
            // Still at the old watermark: what was loaded then stays loaded.
            if moved != Moved::Up {
                let kept = before.and_then(|s| s.boundary.clone()).filter(|b| b.schema == schema);
                overflow |= kept.as_ref().is_none_or(|b| b.overflow);
                rows = add_counts(rows, kept.map(|b| b.rows).unwrap_or_default());
            }
            overflow |= rows.len() > Boundary::MAX_ROWS;
            Some(Boundary { schema, rows: if overflow { Vec::new() } else { rows }, overflow })
        }
        _ => None,
    };
    // Only where rows are appended does it matter later which columns they were loaded with.
    let columns: Vec<String> = match plan.write_mode {
        WriteMode::Append => plan.staged_schema.fields().iter().map(|field| field.name().clone()).collect(),
        _ => Vec::new(),
    };
    Ok(PipelineState {
        version: PipelineState::VERSION,
        pipeline: plan.pipeline.clone(),
        digest: plan.state_digest.clone(),
        watermark,
        boundary,
        changes: plan.changes.clone(),
        hashes: plan.hashes.clone(),
        late_columns: before.map(|before| before.late_among(&columns)).unwrap_or_default(),
        columns,
        load_id: load.load_id.clone(),
        run_id: load.run_id.clone(),
        committed_at: now(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    No,
    /// New rows came in at the very value of the old watermark.
    Along,
    Up,
}

fn later(old: Option<Watermark>, new: Option<Watermark>) -> Result<(Option<Watermark>, Moved)> {
    Ok(match (old, new) {
        (old, None) => (old, Moved::No),
        (None, Some(new)) => (Some(new), Moved::Up),
        (Some(old), Some(new)) => match old.compare(&new)? {
            std::cmp::Ordering::Less => (Some(new), Moved::Up),
            std::cmp::Ordering::Equal => (Some(old), Moved::Along),
            std::cmp::Ordering::Greater => (Some(old), Moved::No),
        },
    })
}
