//! One attempt at a load, under the lease: plan, stage, verify, commit, discard.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chrono::{SecondsFormat, Utc};
use dpone_planner::definition::{Pipeline, Strategy};
use dpone_planner::plan::LoadPlan;
use dpone_planner::schema::{LEDGER, SchemaPlan};
use dpone_planner::state::PipelineState;
use dpone_planner::strategy::LoadIdentity;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::comparison;
use super::context::RunContext;
use super::evolve::{Applied, Governor};
use super::observer::{Event, Planned, Stage};
use super::prepare::{Ends, Prepared, prepare, source_name};
use super::staging::{Staged, stage};
use super::verify::{next_state, verify};
use crate::evidence::canonical;
use crate::failpoint;
use crate::partitions::scoped;
use crate::probe::PartitionFacts;
use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::sift::write_evidence;
use crate::sink::Commit;
use crate::{Error, ErrorKind, Lease, LoadSpec, Result, StagedPartition};

pub(super) struct Started {
    pub(super) at: String,
    pub(super) clock: Instant,
}

pub(super) fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "stopped on request; nothing was committed")
}

/// One attempt at a load, under the lease.
pub(super) struct Attempt<'a> {
    pub(super) context: &'a RunContext,
    pub(super) pipeline: &'a Pipeline,
    pub(super) run_id: &'a str,
    pub(super) ends: &'a Ends,
    pub(super) lease: &'a Lease,
    pub(super) cancel: &'a CancellationToken,
    pub(super) started: &'a Started,
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
        cursor: pipeline.strategy.cursor().map(|cursor| cursor.column.clone()),
        options: pipeline.sink.options.clone(),
    }
}

/// Two plans with the same digest read the same, stage the same columns, write them the same way and check the same. Which
/// run and which load it is, and when, are left out: they are values that some plans write into rows.
fn plan_sha256(plan: &LoadPlan, load: &LoadSpec, now: i64) -> Result<String> {
    let reads = plan.logical.display_indent_schema().to_string();
    let reads = reads
        .replace(&format!("Utf8(\"{}\")", load.load_id), "Utf8(load_id)")
        .replace(&format!("Utf8(\"{}\")", load.run_id), "Utf8(run_id)")
        .replace(&format!("TimestampMicrosecond({now},"), "TimestampMicrosecond(now,");
    let part = |made: serde_json::Result<Value>| {
        made.map_err(|e| Error::internal(format!("a plan cannot be digested: {e}")).with("pipeline", &plan.pipeline))
    };
    // As JSON with sorted keys: the metadata of a field has another order in every process.
    let decided = canonical(json!({
        "made_of": "plan v1",
        "strategy": plan.strategy,
        "target": plan.target.to_string(),
        "reads": reads,
        "write_mode": part(serde_json::to_value(&plan.write_mode))?,
        "staged": part(serde_json::to_value(plan.staged_schema.as_ref()))?,
        "stored": part(serde_json::to_value(plan.target_schema.as_ref()))?,
        "ddl": part(serde_json::to_value(&plan.ddl))?,
        "checks": part(serde_json::to_value(&plan.checks))?,
        "cursor": part(serde_json::to_value(&plan.cursor))?,
        "state": plan.state_digest,
    }));
    Ok(crate::schema::files::sha256(decided.to_string().as_bytes()))
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
    pub(super) async fn load(&self, outgrown: bool) -> Result<Receipt> {
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
            sha256: plan_sha256(plan, load, prepared.now)?,
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
        let state = self.state(prepared, &load, &facts)?;
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
        let state = self.state(prepared, load, &facts)?;
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
        } else if let Some(compared) = &compared {
            receipt.rows.marks = comparison::marks(compared, prepared);
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

    fn state(&self, prepared: &Prepared, load: &LoadSpec, facts: &PartitionFacts) -> Result<PipelineState> {
        let chunk = match &self.pipeline.strategy {
            Strategy::Chunk(chunk) => Some(&chunk.loaded),
            _ => None,
        };
        next_state(&prepared.plan, prepared.state.as_ref(), chunk, load, facts)
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
