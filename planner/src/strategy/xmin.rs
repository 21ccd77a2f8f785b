//! `xmin`: rows of transactions that ended since the last run, as the source's row versions tell them.
//!
//! The connector says what changed since a position, and gives the next one; here it is decided what that does to the
//! target. Changes say nothing of deletions: those are found by comparing keys, in the runs that the cadence names and
//! whenever the read had to start over.

use chrono::{DateTime, Utc};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};

use super::align::aligned_expr;
use super::incremental_append::{TARGET, target_scan, without_known_keys};
use super::{Draft, Observed, ObservedTarget, check_state, column, digest, incremental_merge, require_columns};
use crate::definition::{
    Cadence, DeletePolicy, EmptySource, GoneRows, Pipeline, Reconciliation, Strategy, VersionWrite, Xmin,
};
use crate::error::{Error, Result};
use crate::expr::{more_than_rows_of_one_table, require_immutable};
use crate::plan::{Checks, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, WriteMode};
use crate::state::{ChangeState, PipelineState};

/// The part of the target that a comparison of keys may delete where the definition does not say.
pub(super) const MAX_DELETE_RATIO: f64 = 0.5;

/// From where changes are to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangesFrom {
    /// The stored position; `None`: everything is read.
    pub since: Option<serde_json::Value>,
    /// Rows must not be given twice.
    pub settled: bool,
    /// Why a stored position is not used.
    pub started_over: Option<String>,
}

/// What the source tells of its changes.
#[derive(Debug, Clone)]
pub struct ObservedChanges {
    /// Where the next read begins.
    pub position: serde_json::Value,
    /// Why everything is read although there was a position.
    pub started_over: Option<String>,
    /// Rows may have gone without a trace.
    pub rows_gone: bool,
    /// Why rows that were read before may come again, unchanged.
    pub repeats: Option<String>,
    /// All rows in the snapshot of the read, where [`compares_keys`] asks for them.
    pub all_rows: Option<AllRows>,
    pub now: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct AllRows {
    /// As the definition reads them.
    pub plan: LogicalPlan,
    pub is_empty: bool,
}

/// From where a pipeline reads changes; `None` for strategies that read none. `target` says whether the target has rows,
/// where there is one. Fails with `conflict` when the stored position belongs to another definition or target.
pub fn changes_from(
    pipeline: &Pipeline,
    source_identity: &str,
    state: Option<&PipelineState>,
    target: Option<bool>,
) -> Result<Option<ChangesFrom>> {
    let Strategy::Xmin(spec) = &pipeline.strategy else { return Ok(None) };
    check_state(pipeline, state, target, &digest(pipeline, source_identity))
        .map_err(|e| e.with("pipeline", &pipeline.name))?;
    let settled = matches!(spec.write, VersionWrite::Append { .. });
    let position = state.and_then(|s| s.changes.as_ref()).map(|c| c.position.clone());
    Ok(Some(match (position, target) {
        (Some(_), Some(false)) => ChangesFrom {
            since: None,
            settled,
            started_over: Some(format!("the target {} is empty", pipeline.sink.relation)),
        },
        (since, _) => ChangesFrom { since, settled, started_over: None },
    }))
}

/// Whether this run compares the keys of source and target, for which it needs [`AllRows`].
pub fn compares_keys(
    pipeline: &Pipeline,
    state: Option<&PipelineState>,
    changes: &ObservedChanges,
    target_has_rows: bool,
) -> bool {
    let Strategy::Xmin(Xmin { write: VersionWrite::Merge { .. }, reconciliation, .. }) = &pipeline.strategy else {
        return false;
    };
    let lost_track = changes.started_over.is_some() || changes.rows_gone;
    match reconciliation {
        _ if !target_has_rows => false,
        Some(Reconciliation::Off) => false,
        None => lost_track,
        Some(Reconciliation::On { cadence, .. }) => {
            lost_track || state.and_then(|s| s.changes.as_ref()).is_none_or(|last| due(*cadence, last, changes.now))
        }
    }
}

fn due(cadence: Cadence, last: &ChangeState, now: DateTime<Utc>) -> bool {
    let Some(at) = last.reconciled_at.as_deref().and_then(|at| DateTime::parse_from_rfc3339(at).ok()) else {
        return true;
    };
    match cadence {
        Cadence::Runs(runs) => last.runs_since_reconciliation + 1 >= runs,
        Cadence::Interval { microseconds } => {
            // A clock that was set back must not put the comparison off for as long again.
            (now - at.with_timezone(&Utc)).num_microseconds().is_none_or(|passed| passed < 0 || passed >= microseconds)
        }
    }
}

/// A draft, the keys of the target that are to be deleted, and the state after the load.
pub(super) struct Planned {
    pub(super) draft: Draft,
    pub(super) gone: Option<LogicalPlan>,
    pub(super) changes: ChangeState,
}

pub(super) fn draft(pipeline: &Pipeline, observed: &Observed<'_>, spec: &Xmin) -> Result<Planned> {
    let changes = observed.changes.as_ref().ok_or_else(|| Error::internal("xmin was planned without its changes"))?;
    check_rows(pipeline, observed)?;
    let has_rows = observed.target.as_ref().is_some_and(|t| t.has_rows);
    let mut notes = Vec::new();
    if let Some(why) = &changes.started_over {
        notes.push(format!("everything is read again: {why}"));
    }
    let (mut draft, gone) = match &spec.write {
        VersionWrite::Merge { .. } => merge(pipeline, observed, spec, changes)?,
        VersionWrite::Append { only_new_rows } => (append(observed, spec, *only_new_rows, changes)?, None),
    };
    let compared = gone.is_some() || !has_rows;
    notes.append(&mut draft.notes);
    draft.notes = notes;
    let last = observed.state.and_then(|s| s.changes.as_ref());
    let state = ChangeState {
        position: changes.position.clone(),
        reconciled_at: match compared {
            true => Some(changes.now.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
            false => last.and_then(|l| l.reconciled_at.clone()),
        },
        runs_since_reconciliation: if compared { 0 } else { last.map_or(0, |l| l.runs_since_reconciliation) + 1 },
    };
    Ok(Planned { draft, gone, changes: state })
}

/// Only what follows from a row alone can be kept up to date by reading the rows that changed.
fn check_rows(pipeline: &Pipeline, observed: &Observed<'_>) -> Result<()> {
    if let Some(why) = more_than_rows_of_one_table(&observed.source) {
        return Err(Error::configuration(format!("xmin reads the changed rows of one table, and the query {why}"))
            .with_hint(
                "load each table by a pipeline of its own, with columns, conditions and expressions over its rows, and \
                 put them together in the target; or use snapshot_diff or full_refresh",
            ));
    }
    if let Some(sql) = &pipeline.source.read.predicate {
        let bare = DFSchema::try_from(observed.source.schema().as_arrow().clone())?;
        require_immutable("the predicate of xmin", sql, &bare)?;
    }
    Ok(())
}

fn merge(
    pipeline: &Pipeline,
    observed: &Observed<'_>,
    spec: &Xmin,
    changes: &ObservedChanges,
) -> Result<(Draft, Option<LogicalPlan>)> {
    let VersionWrite::Merge { duplicates, null_keys, soft_delete } = &spec.write else {
        return Err(Error::internal("a merge was planned for versions that are appended"));
    };
    let mut draft = incremental_merge::draft(observed, &spec.key, None, duplicates, *null_keys, soft_delete.as_ref())?;
    draft.notes.clear();
    match soft_delete.as_ref().map(|mark| (&mark.column, mark.policy)) {
        Some((mark, DeletePolicy::Hard)) => {
            draft.notes.push(format!("rows that {mark:?} marks as deleted are deleted in the target"));
        }
        Some((_, DeletePolicy::Keep)) => {
            draft.notes.push("rows that are marked as deleted are kept, mark included".to_owned());
        }
        None => {}
    }
    draft.notes.push(deletion_note(spec, observed.state, changes));
    let (Some(all), Some(target)) = (&changes.all_rows, &observed.target) else { return Ok((draft, None)) };
    if let Some(Reconciliation::On { delete_policy: GoneRows::SoftDelete, .. }) = &spec.reconciliation {
        return Err(Error::configuration("reconciliation.delete_policy: soft_delete is not supported by xmin")
            .with_hint("use hard_delete, or snapshot_diff with diff.delete_policy: soft_delete"));
    }
    if all.is_empty && pipeline.guards.empty_source == EmptySource::Fail {
        return Err(Error::data_quality(format!(
            "the source has no row, and {} has rows: comparing their keys would delete all of them",
            pipeline.sink.relation
        ))
        .with_hint(
            "check the source; to empty the target on purpose, set empty_source: allow (and max_delete_ratio: 1)",
        ));
    }
    let gone = gone_keys(all, target, &spec.key, observed)?;
    if let WriteMode::Changes { operation: operation @ Operation::Upsert, .. } = &mut draft.write_mode {
        *operation = Operation::Column;
        draft.plan = with_upserts(draft.plan)?;
    }
    Ok((draft, Some(gone)))
}

/// What this run does about rows that were deleted in the source.
fn deletion_note(spec: &Xmin, state: Option<&PipelineState>, changes: &ObservedChanges) -> String {
    let lost_track = changes.started_over.is_some() || changes.rows_gone;
    let compared = "rows whose key is gone from the source are deleted: all keys of source and target are compared, in \
                    the snapshot of the read";
    match &spec.reconciliation {
        _ if changes.all_rows.is_some() && lost_track => {
            format!("{compared}; `reconciliation: false` would keep them")
        }
        _ if changes.all_rows.is_some() => compared.to_owned(),
        Some(Reconciliation::On { cadence, .. }) => {
            let since = state.and_then(|s| s.changes.as_ref());
            match (cadence, since) {
                (Cadence::Runs(runs), Some(last)) => format!(
                    "rows that were deleted in the source wait for the comparison of keys, {} run(s) from now",
                    runs.saturating_sub(last.runs_since_reconciliation + 1)
                ),
                (Cadence::Interval { .. }, Some(last)) => format!(
                    "rows that were deleted in the source wait for the comparison of keys; the last was at {}",
                    last.reconciled_at.as_deref().unwrap_or("no time")
                ),
                (_, None) => "the target has no row whose key could be gone from the source".to_owned(),
            }
        }
        Some(Reconciliation::Off) if lost_track => {
            "rows that are gone from the source stay in the target: reconciliation is off".to_owned()
        }
        _ => "rows that are deleted in the source are not seen by xmin without reconciliation".to_owned(),
    }
}

/// The target's keys that no row of the source has. Keys with a NULL are not ours to judge: none is ever loaded.
fn gone_keys(all: &AllRows, target: &ObservedTarget, key: &[String], observed: &Observed<'_>) -> Result<LogicalPlan> {
    let there = |name: &String| Expr::Column(Column::new(Some(TARGET), name));
    let mut known = target_scan(target)?;
    for name in key.iter().filter(|name| target.schema.field_with_name(name).is_ok_and(|f| f.is_nullable())) {
        known = known.filter(there(name).is_not_null())?;
    }
    let known = known.project(key.iter().map(there))?.build()?;
    let renamed = |name: &String| format!("__dpone__key_{name}");
    let source = key
        .iter()
        .map(|name| Ok(aligned_expr(&all.plan, name, observed)?.alias(renamed(name))))
        .collect::<Result<Vec<_>>>()?;
    let source = LogicalPlanBuilder::from(all.plan.clone()).project(source)?.build()?;
    let on = key.iter().map(|name| there(name).eq(Expr::Column(Column::from_name(renamed(name)))));
    let gone = LogicalPlanBuilder::from(known).join_on(source, JoinType::LeftAnti, on)?;
    // A target that somebody else made may have a key twice; one deletion takes all of them.
    let enforced = !target.primary_key.is_empty() && target.primary_key.iter().all(|column| key.contains(column));
    Ok(if enforced { gone } else { gone.distinct()? }.build()?)
}

fn with_upserts(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(lit(INSERT_OR_UPDATE).alias(OPERATION_COLUMN));
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

fn append(observed: &Observed<'_>, spec: &Xmin, only_new_rows: bool, changes: &ObservedChanges) -> Result<Draft> {
    let key = &spec.key;
    require_columns("the key column", key, &observed.source)?;
    let target = observed.target.as_ref().filter(|t| t.has_rows);
    if let (true, Some(why)) = (key.is_empty(), &changes.repeats) {
        return Err(Error::configuration(format!(
            "rows would be appended twice, because {why}, and without a key none can be told from one that was loaded"
        ))
        .with_hint("name the key (unique_key: [id]): versions that are in the target already are then left out"));
    }
    if let (true, Some(why), Some(_)) = (key.is_empty(), &changes.started_over, target) {
        return Err(Error::conflict(format!(
            "everything would be appended once more, because {why}, and without a key no row can be told from one that \
             was loaded"
        ))
        .with_hint(
            "name the key (unique_key: [id]); or empty the target and run `dpone state reset` to load everything again",
        ));
    }
    let mut notes = vec![
        "each version of a row is added as a row of its own; deletions are not seen".to_owned(),
        "rows of transactions younger than the oldest one in progress wait for it".to_owned(),
    ];
    let mut plan = observed.source.clone();
    if let Some(target) = target {
        if only_new_rows {
            plan = without_known_keys(plan, observed, target, key)?;
            notes.push(format!("rows whose key ({}) is in the target already are left out", key.join(", ")));
        } else if changes.repeats.is_some() || changes.started_over.is_some() {
            plan = without_known_versions(plan, observed, target)?;
            notes.push("versions that are in the target already, value for value, are left out".to_owned());
        }
    }
    Ok(Draft {
        plan,
        write_mode: WriteMode::Append,
        cursor: None,
        checks: Checks { not_null: key.clone(), unique: key.clone(), ..Checks::default() },
        primary_key: Vec::new(),
        notes,
    })
}

/// Source rows that equal no row of the target.
fn without_known_versions(plan: LogicalPlan, observed: &Observed<'_>, target: &ObservedTarget) -> Result<LogicalPlan> {
    let names: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let known = target_scan(target)?.build()?;
    // In the target's types, so that equal values are equal.
    let converted =
        names.iter().map(|name| Ok(aligned_expr(&plan, name, observed)?.alias(name))).collect::<Result<Vec<_>>>()?;
    let source = LogicalPlanBuilder::from(plan).project(converted)?.alias("__dpone__source")?.build()?;
    let side = |table: &str| names.iter().map(|name| Column::new(Some(table), name)).collect::<Vec<_>>();
    let on = (side("__dpone__source"), side(TARGET));
    let joined = LogicalPlanBuilder::from(source)
        .join_detailed(known, JoinType::LeftAnti, on, None, NullEquality::NullEqualsNull)?
        .build()?;
    let columns = names.iter().map(|name| column(&joined, name)).collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(joined).project(columns)?.build()?)
}
