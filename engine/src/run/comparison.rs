//! What a comparison saw, and what follows: checks before anything is changed, and a second attempt that needs less memory.

use datafusion::physical_plan::ExecutionPlan;
use dpone_planner::plan::WriteMode;

use super::prepare::Prepared;
use crate::diff::{self, DiffFacts};
use crate::receipt::RowCounts;
use crate::{Error, LoadSpec, Result};

/// Marks the error of a comparison whose target did not fit in memory.
const OUTGROWN: &str = "comparison";
const OUTGROWN_VALUE: &str = "did not fit in memory";

/// What the comparison of a plan saw, once it ran; `None` when nothing was compared.
pub(super) fn facts(plan: &dyn ExecutionPlan) -> Option<DiffFacts> {
    diff::in_plan(plan).first().map(|diff| diff.facts())
}

/// Marks an error of a plan whose comparison in memory did not fit.
pub(super) fn mark(error: Error, plan: &dyn ExecutionPlan) -> Error {
    match diff::in_plan(plan).iter().any(|diff| diff.outgrown()) {
        true => error.with(OUTGROWN, OUTGROWN_VALUE),
        false => error,
    }
}

pub(super) fn is_outgrown(error: &Error) -> bool {
    error.context().iter().any(|(key, value)| *key == OUTGROWN && value == OUTGROWN_VALUE)
}

/// Completes the counts of a receipt: what is the same on both sides was never staged.
pub(super) fn complete(rows: &mut RowCounts, facts: &DiffFacts, prepared: &Prepared) {
    rows.quarantined += facts.quarantined;
    rows.unchanged += facts.unchanged;
    rows.marks = marks(facts, prepared);
}

/// How many staged rows mark a row of the target as deleted.
pub(super) fn marks(facts: &DiffFacts, prepared: &Prepared) -> u64 {
    let patches = match &prepared.plan.write_mode {
        WriteMode::Changes { operation, .. } => !operation.patch().is_empty(),
        _ => false,
    };
    // Where the replaced rows of the target are no part of the changes, only absent ones are patched.
    let comparisons = diff::in_plan(prepared.physical.as_ref());
    let acts = patches && comparisons.iter().any(|diff| diff.spec().missing && !diff.spec().replaced);
    if acts { facts.missing } else { 0 }
}

/// Checks what only the comparison shows, before the target is touched.
pub(super) fn verify(prepared: &Prepared, load: &LoadSpec, facts: &DiffFacts) -> Result<()> {
    let key = prepared.plan.checks.unique.join(", ");
    if !facts.null_keys.is_empty() {
        let found: Vec<_> = facts
            .null_keys
            .iter()
            .map(|(column, count, first)| format!("{count} in {column:?} (the first in row {first} of its partition)"))
            .collect();
        return Err(Error::data_quality(format!("NULL where none may be: {}", found.join(", ")))
            .with_hint("filter such rows in the definition, or leave them out and count them: null_keys: quarantine"));
    }
    if facts.duplicate_target_keys > 0 {
        return Err(Error::data_quality(format!(
            "{} row(s) of {} have a key that another row has too (key: {key})",
            facts.duplicate_target_keys, load.target
        ))
        .with("table", load.target.to_string())
        .with_hint("make the key unique in the target: which of its rows the source means cannot be known"));
    }
    if facts.duplicate_source_keys > 0 {
        return Err(Error::data_quality(format!(
            "{} key(s) occur more than once in the batch (key: {key})",
            facts.duplicate_source_keys
        ))
        .with_hint(
            "make the key unique in the source or the query, or keep the newest row of each key: duplicate_policy: \
             latest with order_by",
        ));
    }
    check_missing(prepared, load, facts)
}

/// The error of a source without a row where the target has some.
pub(super) fn empty(load: &LoadSpec) -> Error {
    Error::data_quality(format!("the source gave no row, and {} has rows", load.target))
        .with_hint("check the source; to empty the target on purpose, set empty_source: allow")
}

/// The guards: how many rows may be deleted, marked or closed for being absent from the source.
fn check_missing(prepared: &Prepared, load: &LoadSpec, facts: &DiffFacts) -> Result<()> {
    let checks = &prepared.plan.checks;
    let acts = diff::in_plan(prepared.physical.as_ref()).iter().any(|diff| diff.spec().missing);
    if !acts || facts.missing == 0 {
        return Ok(());
    }
    // The plainer finding first.
    if checks.fail_on_empty && facts.source_rows == 0 {
        return Err(empty(load));
    }
    // What counts as deleted cannot go once more.
    let (missing, total) = (facts.missing, facts.target_rows.saturating_sub(facts.gone));
    let too_many = |limit: String| {
        Error::data_quality(format!("{missing} of {total} rows of {} are not in the source, and {limit}", load.target))
            .with("table", load.target.to_string())
            .with_hint("check the source; raise the limit for this run if the rows are gone for good")
    };
    if let Some(most) = checks.max_delete_rows.filter(|most| missing > *most) {
        return Err(too_many(format!("max_delete_rows is {most}")));
    }
    if let Some(most) = checks.max_delete_ratio.filter(|most| missing as f64 > most * total as f64) {
        return Err(too_many(format!("max_delete_ratio is {most}")));
    }
    Ok(())
}
