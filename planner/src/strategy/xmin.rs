//! `xmin`: rows of transactions that ended since the last run, as the source's row versions tell them.
//!
//! The connector says what changed since a position, and gives the next one; here it is decided what that does to the
//! target. Changes say nothing of deletions: those are found by comparing keys, in the runs that the cadence names and
//! whenever the read had to start over.

use chrono::DateTime;
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};

use super::compare::{Comparison, TARGET, check_source_key, diff, staged, target_column, target_scan};
use super::incremental_append::{check_new_rows, without_known_keys};
use super::snapshot_diff::{DELETED_AT, IS_DELETED, MAX_DELETE_RATIO, mark_fields, with_marks};
use super::{
    Draft, Observed, ObservedTarget, check_state, column, digest, filtered, incremental_merge, require_columns,
};
use crate::definition::{
    Cadence, DeletePolicy, DuplicatePolicy, EmptySource, GoneRows, NullKeys, Pipeline, Reconciliation, Strategy,
    VersionWrite, Xmin,
};
use crate::diff::{CHANGE, MISSING};
use crate::error::{Error, Result};
use crate::expr::{more_than_rows_of_one_table, require_immutable};
use crate::plan::{Checks, DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, PATCH, WriteMode};
use crate::row_hash::DigestKind;
use crate::state::{ChangeState, PipelineState};
use crate::types::utc;

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
    /// The position for people.
    pub summary: String,
    /// Why everything is read although there was a position.
    pub started_over: Option<String>,
    /// Rows may have gone without a trace.
    pub rows_gone: bool,
    /// Why rows that were read before may come again, unchanged.
    pub repeats: Option<String>,
    /// All rows in the snapshot of the read, as the definition reads them, where [`compares_keys`] asks for them.
    pub all_rows: Option<LogicalPlan>,
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

/// Whether this run compares the keys of source and target, for which it needs all rows. `now` is [`Observed::now`].
pub fn compares_keys(
    pipeline: &Pipeline,
    state: Option<&PipelineState>,
    changes: &ObservedChanges,
    target_has_rows: bool,
    now: i64,
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
            lost_track || state.and_then(|s| s.changes.as_ref()).is_none_or(|last| due(*cadence, last, now))
        }
    }
}

fn due(cadence: Cadence, last: &ChangeState, now: i64) -> bool {
    let Some(at) = last.reconciled_at.as_deref().and_then(|at| DateTime::parse_from_rfc3339(at).ok()) else {
        return true;
    };
    match cadence {
        Cadence::Runs(runs) => last.runs_since_reconciliation + 1 >= runs,
        // A clock that was set back must not put the comparison off for as long again.
        Cadence::Interval { microseconds } => !(0..microseconds).contains(&(now - at.timestamp_micros())),
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
        summary: changes.summary.clone(),
        reconciled_at: match compared {
            true => DateTime::from_timestamp_micros(observed.now)
                .map(|now| now.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
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
    if let Some(Reconciliation::On { .. }) = &spec.reconciliation {
        // The keys of this run may not be compared, and those of a later one will.
        check_source_key(observed, &spec.key).map_err(or_without)?;
    }
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
    let keeps_rows = pipeline.guards.empty_source == EmptySource::Fail;
    // Who allows an empty source means the deletions that follow from it.
    let most = pipeline.guards.max_delete_ratio.or(keeps_rows.then_some(MAX_DELETE_RATIO));
    draft.notes.push(deletion_note(spec, observed.state, changes, most));
    let marks = matches!(&spec.reconciliation, Some(Reconciliation::On { delete_policy: GoneRows::SoftDelete, .. }));
    if marks {
        draft.plan = with_marks(draft.plan)?;
        draft.own = mark_fields().to_vec();
    }
    let (Some(all), Some(target)) = (&changes.all_rows, &observed.target) else { return Ok((draft, None)) };
    draft.checks.fail_on_empty = keeps_rows;
    draft.checks.max_delete_ratio = most;
    // Rows that are gone have only their key.
    draft.checks.whole_deletes = false;
    let (gone, how) = gone_rows(all, target, spec, marks, observed)?;
    draft.notes.push(how);
    if let WriteMode::Changes { operation, .. } = &mut draft.write_mode {
        if !operation.is_column() {
            draft.plan = with_upserts(draft.plan)?;
        }
        *operation = Operation::Column { patch: draft.own.iter().map(|f| f.name().clone()).collect() };
    }
    Ok((draft, Some(gone)))
}

/// Keys that cannot be compared: changes can still be loaded by them.
fn or_without(error: Error) -> Error {
    let hint = error.hint().unwrap_or_default().to_owned();
    error.with_hint(format!("{hint}; or leave rows that are gone in the target: reconciliation: false"))
}

/// What this run does about rows that were deleted in the source. `most`: the part of the target's rows that may be.
fn deletion_note(spec: &Xmin, state: Option<&PipelineState>, changes: &ObservedChanges, most: Option<f64>) -> String {
    let lost_track = changes.started_over.is_some() || changes.rows_gone;
    let guard = most.map_or_else(String::new, |most| {
        format!(
            "; more than {:.1} % of the target's rows (max_delete_ratio) are not, the run fails instead",
            most * 100.0
        )
    });
    let compared = format!(
        "rows whose key is gone from the source are deleted: all keys of source and target are compared, in the snapshot \
         of the read{guard}"
    );
    match &spec.reconciliation {
        _ if changes.all_rows.is_some() && lost_track => {
            format!("{compared}; `reconciliation: false` would keep them")
        }
        _ if changes.all_rows.is_some() => compared,
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

/// The target's keys that no row of the source has, in staged types, with the operation that they come to. A row whose
/// mark says that it is gone already is left alone.
fn gone_rows(
    all: &LogicalPlan,
    target: &ObservedTarget,
    spec: &Xmin,
    marks: bool,
    observed: &Observed<'_>,
) -> Result<(LogicalPlan, String)> {
    let VersionWrite::Merge { duplicates, null_keys, .. } = &spec.write else {
        return Err(Error::internal("keys are compared for versions that are appended"));
    };
    let keys = spec.key.iter().map(|name| column(all, name)).collect::<Result<Vec<_>>>()?;
    let mut keys = LogicalPlanBuilder::from(all.clone()).project(keys)?;
    if matches!(duplicates, DuplicatePolicy::Latest { .. }) {
        keys = keys.distinct()?;
    }
    let (keys, fields) = staged(keys.build()?, observed)?;
    let comparison = Comparison {
        key: &spec.key,
        // Only the keys count: what changed in a row is told by its transaction.
        compared: Vec::new(),
        kind: DigestKind::Values,
        hashed: None,
        stored: None,
        among: None,
        gone: marks.then(|| target_column(IS_DELETED).is_true()),
        gone_for_good: false,
        carried: Vec::new(),
        missing: true,
        replaced: false,
        quarantine_null_keys: *null_keys == NullKeys::Quarantine,
    };
    check_source_key(observed, &spec.key).map_err(or_without)?;
    let (changes, how) = diff(keys, fields, observed, target, comparison)?;
    let missing = column(&changes, CHANGE)?.eq(lit(MISSING));
    let missing = filtered(changes, missing)?;
    let mut columns = spec.key.iter().map(|name| column(&missing, name)).collect::<Result<Vec<_>>>()?;
    if marks {
        let now = ScalarValue::TimestampMicrosecond(Some(observed.now), Some(utc()));
        columns.extend([lit(true).alias(IS_DELETED), lit(now).alias(DELETED_AT)]);
    }
    columns.push(lit(if marks { PATCH } else { DELETE }).alias(OPERATION_COLUMN));
    Ok((LogicalPlanBuilder::from(missing).project(columns)?.build()?, how))
}

fn with_upserts(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(lit(INSERT_OR_UPDATE).alias(OPERATION_COLUMN));
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

fn append(observed: &Observed<'_>, spec: &Xmin, only_new_rows: bool, changes: &ObservedChanges) -> Result<Draft> {
    let key = &spec.key;
    require_columns("the key column", key, &observed.source)?;
    if only_new_rows {
        check_new_rows(observed, key)?;
    }
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
        own: Vec::new(),
        notes,
    })
}

/// Source rows that equal no row of the target.
fn without_known_versions(plan: LogicalPlan, observed: &Observed<'_>, target: &ObservedTarget) -> Result<LogicalPlan> {
    let all: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let names: Vec<String> = all.iter().filter(|name| !observed.late.contains(name)).cloned().collect();
    let known = target_scan(target)?.build()?;
    // In the target's types, so that equal values are equal.
    let (source, _) = staged(plan, observed)?;
    let side = |table: &str| names.iter().map(|name| Column::new(Some(table), name)).collect::<Vec<_>>();
    let on = (side("__dpone__source"), side(TARGET));
    let joined = LogicalPlanBuilder::from(source)
        .join_detailed(known, JoinType::LeftAnti, on, None, NullEquality::NullEqualsNull)?
        .build()?;
    let columns = all.iter().map(|name| column(&joined, name)).collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(joined).project(columns)?.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(at: Option<i64>, runs: u64) -> ChangeState {
        ChangeState {
            position: serde_json::Value::Null,
            summary: String::new(),
            reconciled_at: at.and_then(DateTime::from_timestamp_micros).map(|at| at.to_rfc3339()),
            runs_since_reconciliation: runs,
        }
    }

    #[test]
    fn keys_are_compared_as_often_as_the_cadence_says() {
        let hour = 3_600_000_000;
        let now = 1_700_000_000_000_000;
        for (cadence, last, expected) in [
            (Cadence::Runs(1), last(Some(now), 0), true),
            (Cadence::Runs(3), last(Some(now), 1), false),
            (Cadence::Runs(3), last(Some(now), 2), true),
            (Cadence::Runs(3), last(None, 0), true),
            (Cadence::Interval { microseconds: hour }, last(Some(now - hour + 1), 99), false),
            (Cadence::Interval { microseconds: hour }, last(Some(now - hour), 0), true),
            // The clock was set back.
            (Cadence::Interval { microseconds: hour }, last(Some(now + 1), 0), true),
            (Cadence::Interval { microseconds: hour }, last(None, 0), true),
        ] {
            assert_eq!(due(cadence, &last, now), expected, "{cadence:?} {last:?}");
        }
    }
}
