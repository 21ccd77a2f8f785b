//! Schema changes of a run: whether it may go on, and the changes themselves, before anything is staged.

use std::path::{Path, PathBuf};

use chrono::{SecondsFormat, Utc};
use dpone_planner::definition::Pipeline;
use dpone_planner::schema::{Action, Approval, LockBudget, OnSchemaChange, SchemaPlan};
use dpone_planner::strategy::{Assume, own_columns, stopped};

use super::context::RunContext;
use super::prepare::{Ends, Prepared};
use crate::failpoint;
use crate::schema::{
    Approvals, DEFAULT_APPROVALS, DEFAULT_HISTORY, EntryStatus, Ledger, NewEntry, SchemaHistoryRegistry,
    SchemaNotificationService, StoredEntry, Subject, Trust, Verdict,
};
use crate::sink::{Evolution, Evolved};
use crate::{Error, ErrorKind, Lease, Result};

/// How often a run plans anew because the target was changed by somebody else in between.
const ATTEMPTS: usize = 3;

/// The schema changes of one run.
pub(super) struct Governor<'a> {
    pub(super) context: &'a RunContext,
    pub(super) pipeline: &'a Pipeline,
    pub(super) ends: &'a Ends,
    pub(super) lease: &'a Lease,
    pub(super) run_id: &'a str,
}

/// Changes that were made before the load.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) statements: Vec<String>,
    pub(super) notes: Vec<String>,
    attempts: usize,
}

impl Governor<'_> {
    fn ledger(&self) -> Option<Ledger> {
        self.pipeline.evolution.ledger().map(Ledger::open)
    }

    fn record(&self, entry: &NewEntry) -> Result<Option<PathBuf>> {
        self.ledger().map(|ledger| ledger.record(entry)).transpose()
    }

    fn entry(&self, plan: &SchemaPlan, status: EntryStatus) -> Result<NewEntry> {
        NewEntry::of(plan, self.run_id, &self.pipeline.name, status)
    }

    /// Whether the run may go on with this plan, and what of it is taken for done.
    pub(super) fn decide(&self, plan: &SchemaPlan) -> Result<Assume> {
        self.check_enabled()?;
        let Some(error) = stopped(self.pipeline, plan) else { return Ok(Assume::Decided) };
        let waits = |action: &&Action| action.approval_status == Approval::Pending;
        let stopping: Vec<&Action> = plan.actions.iter().filter(|action| action.blocker.is_some()).collect();
        if !stopping.iter().all(waits) {
            // What is only planned was meant to be; everything else is put off.
            let planned = stopping.iter().all(|action| action.blocker == Some("plan_only"));
            let status = if planned { EntryStatus::Planned } else { EntryStatus::Deferred };
            self.record(&self.entry(plan, status)?.with_error(&error))?;
            return Err(error);
        }
        match self.approval(&plan.plan_hash, &plan.catalog_fingerprint, plan)? {
            Verdict::Approved(_) => Ok(Assume::Approved),
            verdict => Err(self.pending(plan, verdict, error)?),
        }
    }

    fn approval(&self, plan_hash: &str, catalog_fingerprint: &str, plan: &SchemaPlan) -> Result<Verdict> {
        let table = plan.table.to_string();
        let subject = Subject { table: &table, dialect: plan.dialect, plan_hash, catalog_fingerprint };
        self.find(&subject)
    }

    fn find(&self, subject: &Subject<'_>) -> Result<Verdict> {
        let policy = &self.pipeline.evolution;
        let trust = Trust::new(policy.require_signed, &policy.trusted_keys, Path::new("."))?;
        Approvals::open(&policy.approvals_path).find(subject, Utc::now(), &trust)
    }

    /// Records that somebody has to approve the plan, once for each plan, and says how.
    fn pending(&self, plan: &SchemaPlan, verdict: Verdict, error: Error) -> Result<Error> {
        let disables = self.pipeline.evolution.on_schema_change == OnSchemaChange::DisablePipeline;
        let waits = if disables { EntryStatus::Deferred } else { EntryStatus::PendingApproval };
        let Some(ledger) = self.ledger() else { return Ok(error) };
        let known = ledger.entries()?.into_iter().rev().find(|stored| {
            stored.entry.status == waits
                && stored.entry.pipeline == self.pipeline.name
                && stored.entry.plan_hash.as_deref() == Some(&plan.plan_hash)
                && stored.entry.catalog_fingerprint.as_deref() == Some(&plan.catalog_fingerprint)
        });
        let mut entry = self.entry(plan, waits)?.with_error(&error);
        let mut message = error.message().to_owned();
        if let Verdict::Void { why } = verdict {
            message.push_str("; ");
            message.push_str(&why);
            entry = entry.with_note(why);
        }
        let path = match known {
            Some(stored) => stored.path,
            None => ledger.record(&entry)?,
        };
        if disables {
            Marker::of(&self.pipeline.name, plan, &path).write(ledger.dir())?;
        }
        let approvals = match self.pipeline.evolution.approvals_path.as_str() {
            DEFAULT_APPROVALS => String::new(),
            path => format!(" --output-dir {path}"),
        };
        let signed = if self.pipeline.evolution.require_signed { " --key FILE" } else { "" };
        Ok(Error::new(error.kind(), message)
            .with("table", plan.table.to_string())
            .with("ledger", path.display().to_string())
            .with_hint(format!(
                "look at it with `dpone plan`, and approve it: dpone schema approve --ledger {} --approver \
                 NAME{signed}{approvals}",
                path.display()
            )))
    }

    /// Refuses a pipeline that an earlier change has switched off.
    fn check_enabled(&self) -> Result<()> {
        if self.pipeline.evolution.on_schema_change != OnSchemaChange::DisablePipeline {
            return Ok(());
        }
        let Some(ledger) = self.ledger() else { return Ok(()) };
        let Some(marker) = Marker::read(ledger.dir(), &self.pipeline.name)? else { return Ok(()) };
        let subject = Subject {
            table: &marker.table,
            dialect: &marker.dialect,
            plan_hash: &marker.plan_hash,
            catalog_fingerprint: &marker.catalog_fingerprint,
        };
        let path = Marker::path(ledger.dir(), &self.pipeline.name);
        match self.find(&subject)? {
            Verdict::Approved(_) => std::fs::remove_file(&path).map_err(|error| {
                Error::configuration(format!("{} cannot be removed: {error}", path.display()))
            }),
            _ => Err(Error::data_quality(format!(
                "the pipeline {:?} is switched off: its source changed at {}, and on_schema_change is disable_pipeline",
                self.pipeline.name, marker.disabled_at
            ))
            .with("table", marker.table)
            .with_hint(format!(
                "approve the change: dpone schema approve --ledger {} --approver NAME; or, when the source is as it was, \
                 remove {}",
                marker.ledger,
                path.display()
            ))),
        }
    }

    fn record_applied(&self, entry: &NewEntry) -> Result<()> {
        if let Some(path) = self.record(entry)?
            && self.pipeline.evolution.on_schema_change == OnSchemaChange::Notify
        {
            self.notify(&path);
        }
        Ok(())
    }

    /// Writes the notification beside the ledger. The change stands, so a failure is only said.
    fn notify(&self, entry: &Path) {
        let folder = entry.parent().unwrap_or(Path::new(".")).join("notifications");
        let written = StoredEntry::read(entry).and_then(|entry| SchemaNotificationService::new(&folder).notify(&entry));
        let note = match written {
            Ok(_) => format!("the change is announced in {}", folder.display()),
            Err(error) => format!("the notification could not be written: {error}"),
        };
        self.context.observer.note(&self.pipeline.name, &note);
    }

    /// Keeps the columns that the changes left, where changes are kept at all. They stand, so a failure is only said.
    pub(super) fn remember(&self, prepared: &Prepared, applied: &Applied) {
        let (Some(target), false, Some(_)) = (&prepared.target, applied.statements.is_empty(), self.ledger()) else {
            return;
        };
        let relation = &self.pipeline.sink.relation;
        let dialect = self.ends.dialect.as_ref();
        let history = SchemaHistoryRegistry::open(DEFAULT_HISTORY);
        if let Err(error) = history.record(relation, &target.schema, dialect, Some(self.run_id)) {
            let note = format!("the history of the target's columns could not be written: {error}");
            self.context.observer.note(&self.pipeline.name, &note);
        }
    }

    /// The load itself writes the columns anew.
    pub(super) fn with_load(&self, prepared: &Prepared, applied: &mut Applied) -> Result<()> {
        let plan = &prepared.plan;
        for change in &plan.evolve {
            applied.statements.extend(self.ends.dialect.render(&plan.target, change)?);
        }
        applied.notes.extend(plan.evolve_notes.iter().cloned());
        match &plan.schema {
            Some(schema) => self.record_applied(&self.entry(schema, EntryStatus::Applied)?),
            None => Ok(()),
        }
    }

    /// Makes the changes of a plan. Afterwards the load is planned again, from what is then there.
    pub(super) async fn apply(&self, prepared: &Prepared, applied: &mut Applied) -> Result<()> {
        let plan = &prepared.plan;
        let Some(schema) = &plan.schema else {
            return Err(Error::internal("changes without a schema plan"));
        };
        applied.attempts += 1;
        if applied.attempts > ATTEMPTS {
            return Err(Error::conflict(format!(
                "the target {} still differs after it was changed: {} change(s) are left",
                plan.target,
                plan.evolve.len()
            ))
            .with("table", plan.target.to_string())
            .with_hint("another process changes the table too: run again when it is done"));
        }
        let own = own_columns(self.pipeline);
        let apart: Vec<&str> = own.iter().map(String::as_str).collect();
        let evolution = Evolution {
            table: &plan.target,
            changes: &plan.evolve,
            budget: budget(schema),
            fingerprint: &schema.catalog_fingerprint,
            apart: &apart,
            lease: self.lease,
            state_location: &self.ends.location,
        };
        self.record(&self.entry(schema, EntryStatus::Planned)?)?;
        let Evolved { statements, deferrals } = match self.ends.sink.evolve(&evolution).await {
            Ok(evolved) => evolved,
            // Whoever changed the table may have made the same change: what is there now is looked at.
            Err(error) if is_moved(&error) && applied.attempts < ATTEMPTS => {
                self.record(&self.entry(schema, EntryStatus::Failed)?.with_error(&error))?;
                return Ok(());
            }
            Err(error) => {
                let status = if error.is_transient() { EntryStatus::Deferred } else { EntryStatus::Failed };
                self.record(&self.entry(schema, status)?.with_error(&error))?;
                return Err(error);
            }
        };
        let mut entry = self.entry(schema, EntryStatus::Applied)?;
        if let Verdict::Approved(approval) = self.approval(&schema.plan_hash, &schema.catalog_fingerprint, schema)? {
            entry = entry.with_approval(approval.approval_id);
        }
        self.record_applied(&entry)?;
        failpoint::reach("evolve.applied").await?;
        let note = format!("changed {}: {}", plan.target, statements.join("; "));
        self.context.observer.note(&self.pipeline.name, &note);
        if deferrals > 0 {
            let note = format!("the lock on {} was granted after {deferrals} attempt(s) without it", plan.target);
            self.context.observer.note(&self.pipeline.name, &note);
        }
        applied.statements.extend(statements);
        applied.notes.extend(plan.evolve_notes.iter().cloned());
        Ok(())
    }
}

/// What switches a pipeline off until somebody has looked at a change of its source.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Marker {
    pipeline: String,
    table: String,
    dialect: String,
    plan_hash: String,
    catalog_fingerprint: String,
    /// The entry of the ledger to approve.
    ledger: String,
    disabled_at: String,
}

impl Marker {
    fn of(pipeline: &str, plan: &SchemaPlan, entry: &Path) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            table: plan.table.to_string(),
            dialect: plan.dialect.to_owned(),
            plan_hash: plan.plan_hash.clone(),
            catalog_fingerprint: plan.catalog_fingerprint.clone(),
            ledger: entry.display().to_string(),
            disabled_at: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }

    /// Names of pipelines are small letters, digits and underscores; SQL lets others through.
    fn path(dir: &Path, pipeline: &str) -> PathBuf {
        let plain =
            !pipeline.is_empty() && pipeline.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let name = match plain {
            true => pipeline.to_owned(),
            false => dpone_planner::state::hex(pipeline.as_bytes()),
        };
        dir.join(format!("disabled_{name}.json"))
    }

    fn read(dir: &Path, pipeline: &str) -> Result<Option<Self>> {
        let path = Self::path(dir, pipeline);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::configuration(format!("{} cannot be read: {error}", path.display()))),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Error::configuration(format!("{} is no marker of dpone: {error}", path.display())))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let path = Self::path(dir, &self.pipeline);
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::internal(format!("the marker: {e}")))?;
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| Error::configuration(format!("{} cannot be written: {error}", path.display())))
    }
}

fn budget(schema: &SchemaPlan) -> LockBudget {
    let ms = |seconds: Option<u64>| seconds.map(|s| s.saturating_mul(1000));
    LockBudget {
        lock_timeout_ms: ms(schema.policy.lock_timeout_seconds),
        statement_timeout_ms: ms(schema.policy.statement_timeout_seconds),
    }
}

const MOVED: &str = "catalog";
const MOVED_VALUE: &str = "moved";

/// The error of a sink whose table is not any more what the changes were planned for.
pub fn moved(table: &crate::Relation) -> Error {
    Error::conflict(format!("{table} was changed since its changes were planned"))
        .with("table", table.to_string())
        .with(MOVED, MOVED_VALUE)
        .with_hint("run again: the load is planned from what is there now")
}

fn is_moved(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict && error.context().iter().any(|(k, v)| *k == MOVED && v == MOVED_VALUE)
}
