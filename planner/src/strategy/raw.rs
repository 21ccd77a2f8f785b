//! Which columns may travel in the system's own representation.
//!
//! Between two systems of one kind, a column that nothing reads on the way needs no Arrow type that understands it: its
//! bytes go through unchanged, which is exact for every value and costs no conversion.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{Field, Schema};
use datafusion::common::{DFSchema, TableReference};
use datafusion::logical_expr::LogicalPlan;

use super::lineage::hashes_are_there;
use crate::definition::{DuplicatePolicy, InnerLoad, Pipeline, Scope, Strategy, VersionWrite};
use crate::expr::{columns_of, passed_through, predicate};
use crate::state::PipelineState;
use crate::types::native_of;

/// The columns of each scanned table to carry raw into a sink of `system`.
///
/// `plan` is the source as the definition says, all columns portable; `target` the existing target. `compares_rows`: an
/// append compares whole rows with those of the target, see [`compares_rows`].
pub fn raw_columns(
    pipeline: &Pipeline,
    plan: &LogicalPlan,
    system: &str,
    target: Option<&Schema>,
    compares_rows: bool,
) -> BTreeMap<TableReference, BTreeSet<String>> {
    let mut raw: BTreeMap<TableReference, BTreeSet<String>> = BTreeMap::new();
    if pipeline.lineage.row_hash || hashes_are_there(target, plan.schema().as_arrow()) {
        // A hash that is stored is made of values.
        return raw;
    }
    let Some(read) = read_by_strategy(&pipeline.strategy, plan, compares_rows) else { return raw };
    for passed in passed_through(plan) {
        let carried = passed.outputs.iter().all(|output| {
            !read.contains(output)
                && plan
                    .schema()
                    .field_with_unqualified_name(output)
                    .is_ok_and(|field| same_native(field, output, system, target))
        });
        // A column that is not in the output is not carried at all.
        if carried && !passed.outputs.is_empty() {
            raw.entry(passed.table).or_default().insert(passed.column);
        }
    }
    raw
}

/// Whether an append with this state compares whole rows with the target's: with a lag, or where the state has no hashes
/// of the rows at the watermark. Hashes are over the rows as they travel, raw columns included.
pub fn compares_rows(strategy: &Strategy, state: Option<&PipelineState>) -> bool {
    let Strategy::IncrementalAppend { cursor, only_new_rows: false, .. } = strategy else { return false };
    let Some(state) = state.filter(|state| state.watermark.is_some()) else { return false };
    cursor.lag.is_some() || state.boundary.as_ref().is_none_or(|boundary| boundary.overflow)
}

fn same_native(field: &Field, output: &str, system: &str, target: Option<&Schema>) -> bool {
    let Some(native) = native_of(field, system) else { return false };
    match target {
        None => true,
        Some(schema) => schema.field_with_name(output).is_ok_and(|there| native_of(there, system) == Some(native)),
    }
}

/// The output columns whose values the strategy looks at; `None` when it compares whole rows.
fn read_by_strategy(strategy: &Strategy, plan: &LogicalPlan, compares_rows: bool) -> Option<BTreeSet<String>> {
    let mut read: BTreeSet<String> = strategy.key().iter().cloned().collect();
    match strategy {
        Strategy::FullRefresh { .. } => {}
        Strategy::Replace { scope: Scope::Window { column, .. } } => {
            read.insert(column.clone());
        }
        Strategy::Replace { scope: Scope::Predicate(sql) } => {
            let schema = DFSchema::try_from(plan.schema().as_arrow().clone()).ok()?;
            read.extend(columns_of(&predicate("scope", sql, &schema).ok()?));
        }
        Strategy::IncrementalAppend { cursor, only_new_rows, .. } => {
            if compares_rows && !only_new_rows {
                return None;
            }
            read.insert(cursor.column.clone());
        }
        Strategy::IncrementalMerge { cursor, duplicates, soft_delete, .. } => {
            read.extend(cursor.iter().map(|c| c.column.clone()));
            read.extend(soft_delete.iter().map(|s| s.column.clone()));
            if let DuplicatePolicy::Latest { order_by } = duplicates {
                read.extend(order_by.iter().cloned());
            }
        }
        // The chunk column is compared; so is what an inner merge looks at.
        Strategy::Chunk(load) => {
            read.insert(load.column.clone());
            if let InnerLoad::Merge { duplicates, soft_delete, .. } = &load.inner {
                read.extend(soft_delete.iter().map(|s| s.column.clone()));
                if let DuplicatePolicy::Latest { order_by } = duplicates {
                    read.extend(order_by.iter().cloned());
                }
            }
        }
        Strategy::PartitionReplace { column, .. } => {
            read.insert(column.clone());
        }
        // Both sides are read alike: the server's own bytes tell whether a row changed, exactly. A hash that is stored has
        // to be the same whatever the rows come through, so it is made of values.
        Strategy::SnapshotDiff { row_hash: false, duplicates, .. } => {
            if let DuplicatePolicy::Latest { order_by } = duplicates {
                read.extend(order_by.iter().cloned());
            }
        }
        Strategy::Xmin(xmin) => match &xmin.write {
            VersionWrite::Merge { duplicates, soft_delete, .. } => {
                read.extend(soft_delete.iter().map(|s| s.column.clone()));
                if let DuplicatePolicy::Latest { order_by } = duplicates {
                    read.extend(order_by.iter().cloned());
                }
            }
            // With a key, versions may be compared with the target's rows as wholes.
            VersionWrite::Append { only_new_rows } if *only_new_rows || xmin.key.is_empty() => {}
            VersionWrite::Append { .. } => return None,
        },
        Strategy::SnapshotDiff { .. } | Strategy::Scd2 { .. } | Strategy::Backfill(_) | Strategy::Unsupported(_) => {
            return None;
        }
    }
    Some(read)
}
