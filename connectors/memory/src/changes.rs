//! Row maps: changes by key, partitions, duplicates.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::{Int8Type, Schema};
use arrow::row::{RowConverter, Rows, SortField};
use dpone_engine::{Error, Result};
use dpone_planner::plan::{DELETE, OPERATION_COLUMN, PATCH, STAMPS};

/// A table after a load.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) rows: RecordBatch,
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
}

impl Default for Applied {
    fn default() -> Self {
        let rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
        Self { rows, inserted: 0, updated: 0, deleted: 0, unchanged: 0 }
    }
}

/// The columns of several batches as comparable rows. NULL equals NULL.
fn comparable<const N: usize>(batches: [&RecordBatch; N], columns: &[String]) -> Result<[Rows; N]> {
    let column = |batch: &RecordBatch, name: &String| {
        batch
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| Error::conflict(format!("there is no column {name:?} on both sides of the comparison")))
    };
    let first = columns.iter().map(|c| column(batches[0], c)).collect::<Result<Vec<_>>>()?;
    let converter = RowConverter::new(first.iter().map(|a| SortField::new(a.data_type().clone())).collect())?;
    let mut rows = Vec::with_capacity(N);
    for batch in batches {
        let arrays = columns.iter().map(|c| column(batch, c)).collect::<Result<Vec<_>>>()?;
        rows.push(converter.convert_columns(&arrays)?);
    }
    rows.try_into().map_err(|_| Error::internal("as many rows as batches"))
}

pub(crate) fn apply_changes(
    before: &RecordBatch,
    staged: &RecordBatch,
    key: &[String],
    patch: &[String],
) -> Result<Applied> {
    let names: Vec<String> = before.schema().fields().iter().map(|f| f.name().clone()).collect();
    let [old_keys, new_keys] = comparable([before, staged], key)?;
    let told = |names: &[String]| names.iter().filter(|n| !STAMPS.contains(&n.as_str())).cloned().collect::<Vec<_>>();
    let [old_rows, new_rows] = comparable([before, staged], &told(&names))?;
    let operations = staged.column_by_name(OPERATION_COLUMN).map(|c| c.as_primitive::<Int8Type>().clone());
    let is = |row: usize, operation: i8| operations.as_ref().is_some_and(|o| o.value(row) == operation);
    let [old_patched, new_patched] = comparable([before, staged], &told(patch))?;
    let by_key: HashMap<_, _> = new_keys.iter().enumerate().map(|(row, key)| (key.owned(), row)).collect();

    let mut applied = Applied::default();
    // (0, row) is a row of the table, (1, row) a staged one; for the columns that a patch sets, both may differ.
    let mut patched = HashMap::new();
    let mut result = Vec::with_capacity(before.num_rows() + staged.num_rows());
    let mut matched = HashSet::new();
    for row in 0..before.num_rows() {
        match by_key.get(&old_keys.row(row).owned()) {
            None => result.push((0, row)),
            Some(new) => {
                matched.insert(*new);
                if is(*new, DELETE) {
                    applied.deleted += 1;
                } else if is(*new, PATCH) {
                    let changes = old_patched.row(row) != new_patched.row(*new);
                    applied.updated += u64::from(changes);
                    applied.unchanged += u64::from(!changes);
                    if changes {
                        patched.insert(result.len(), *new);
                    }
                    result.push((0, row));
                } else if old_rows.row(row) == new_rows.row(*new) {
                    applied.unchanged += 1;
                    result.push((0, row));
                } else {
                    applied.updated += 1;
                    result.push((1, *new));
                }
            }
        }
    }
    for row in (0..staged.num_rows()).filter(|row| !matched.contains(row)) {
        if is(row, DELETE) || is(row, PATCH) {
            // There is no such key: the change had no effect.
            applied.unchanged += 1;
        } else {
            applied.inserted += 1;
            result.push((1, row));
        }
    }
    let mut with_patches = result.clone();
    for (at, new) in patched {
        with_patches[at] = (1, new);
    }
    let columns = names.iter().zip(before.columns()).map(|(name, old)| {
        let new = staged.column_by_name(name).ok_or_else(|| Error::internal(format!("{name:?} is not staged")))?;
        let rows = if patch.contains(name) { &with_patches } else { &result };
        Ok(interleave(&[old.as_ref(), new.as_ref()], rows)?)
    });
    applied.rows = RecordBatch::try_new(before.schema(), columns.collect::<Result<_>>()?)?;
    Ok(applied)
}

/// The rows whose values of `columns` no staged row has.
pub(crate) fn without_partitions(
    before: &RecordBatch,
    staged: &RecordBatch,
    columns: &[String],
) -> Result<RecordBatch> {
    let [old, new] = comparable([before, staged], columns)?;
    let touched: HashSet<_> = new.iter().map(|row| row.owned()).collect();
    let kept: BooleanArray = old.iter().map(|row| Some(!touched.contains(&row.owned()))).collect();
    Ok(filter_record_batch(before, &kept)?)
}

/// Keys that occur more than once.
pub(crate) fn duplicate_keys(staged: &RecordBatch, unique: &[String]) -> Result<u64> {
    let [rows] = comparable([staged], unique)?;
    let mut seen: HashMap<_, u64> = HashMap::new();
    rows.iter().for_each(|row| *seen.entry(row.owned()).or_default() += 1);
    Ok(seen.values().filter(|times| **times > 1).count() as u64)
}
