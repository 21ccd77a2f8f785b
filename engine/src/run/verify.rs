//! Checks of the staged rows before the target is touched, and the state that the load leaves.

use dpone_planner::chunk::LoadedChunk;
use dpone_planner::plan::{LoadPlan, WriteMode};
use dpone_planner::state::{Boundary, PipelineState, Watermark};

use super::attempt::now;
use super::comparison;
use super::prepare::{Ends, Prepared};
use crate::probe::{PartitionFacts, add_counts, boundary_schema};
use crate::{Error, LoadSpec, Result, StagedPartition};

/// Checks the staged rows before the target is touched.
pub(super) async fn verify(
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
            "filter such rows in the definition, or give them a value in a query: COALESCE(…); of keys and cursors it can be \
             said what to do with them: null_keys: quarantine, null_cursor: include",
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
pub(super) fn next_state(
    plan: &LoadPlan,
    before: Option<&PipelineState>,
    chunk: Option<&LoadedChunk>,
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
        chunk: chunk.cloned(),
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
