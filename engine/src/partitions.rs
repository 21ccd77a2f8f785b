//! The partitions that staged rows lie in: told apart on the way to staging, and the scope that a commit makes of them.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use dpone_planner::partition::{Cut, Partition, of_partitions};
use dpone_planner::plan::{LoadPlan, PartitionLimit, ScopeFilter, WriteMode};

use crate::probe::{PartitionFacts, row_hashes};
use crate::{Error, LoadSpec, Result};

/// Collects the partitions of batches, up to one more than may be.
pub(crate) struct PartitionProbe {
    most: usize,
    by: By,
}

enum By {
    /// The values of some columns, by their hashes.
    Values { indexes: Vec<usize>, converter: RowConverter, seen: BTreeSet<u128> },
    /// A cut of one column.
    Cut { index: usize, cut: Cut, seen: BTreeSet<Partition> },
}

impl PartitionProbe {
    pub(crate) fn new(limit: &PartitionLimit, schema: &SchemaRef) -> Result<Self> {
        let indexes = limit.columns.iter().map(|name| Ok(schema.index_of(name)?)).collect::<Result<Vec<_>>>()?;
        let by = match (limit.cut, indexes.as_slice()) {
            (Some(cut), [index]) => By::Cut { index: *index, cut, seen: BTreeSet::new() },
            (Some(_), _) => return Err(Error::internal("a cut is of one column")),
            (None, _) => {
                let sorts = indexes.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect();
                By::Values { converter: RowConverter::new(sorts)?, indexes, seen: BTreeSet::new() }
            }
        };
        Ok(Self { most: usize::try_from(limit.most).unwrap_or(usize::MAX), by })
    }

    pub(crate) fn observe(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.by {
            By::Values { indexes, converter, seen } => {
                if seen.len() <= self.most {
                    seen.extend(row_hashes(converter, &batch.project(indexes)?)?);
                    bound(seen, self.most);
                }
            }
            By::Cut { index, cut, seen } => {
                if seen.len() <= self.most {
                    cut.partitions(batch.column(*index), |partition| {
                        seen.insert(partition);
                    })?;
                    bound(seen, self.most);
                }
            }
        }
        Ok(())
    }

    /// As texts, in which equal partitions are equal.
    pub(crate) fn finish(self) -> Vec<String> {
        match self.by {
            By::Values { seen, .. } => seen.into_iter().map(|hash| format!("{hash:032x}")).collect(),
            By::Cut { seen, .. } => seen.into_iter().map(text).collect(),
        }
    }
}

fn bound<T: Ord>(seen: &mut BTreeSet<T>, most: usize) {
    while seen.len() > most.saturating_add(1) {
        seen.pop_last();
    }
}

const NO_VALUE: &str = "null";

fn text(partition: Partition) -> String {
    partition.map_or_else(|| NO_VALUE.to_owned(), |start| start.to_string())
}

/// The load as it is committed: where partitions are cuts of a column, its scope are the ranges of those that were staged.
pub(crate) fn scoped(plan: &LoadPlan, load: &LoadSpec, facts: &PartitionFacts) -> Result<LoadSpec> {
    let Some(PartitionLimit { columns, cut: Some(cut), .. }) = &plan.checks.max_partitions else {
        return Ok(load.clone());
    };
    let unreadable = || Error::internal("the partitions of the staged rows are unreadable");
    let read = |text: &String| match text.as_str() {
        NO_VALUE => Ok(None),
        start => start.parse().map(Some).map_err(|_| unreadable()),
    };
    let partitions = facts.partitions.iter().map(read).collect::<Result<BTreeSet<_>>>()?;
    if partitions.is_empty() {
        return Ok(load.clone());
    }
    let column = columns.first().ok_or_else(unreadable)?;
    let sql = of_partitions(*cut, load.staged_schema.field_with_name(column)?, &partitions)?;
    let write_mode = WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } };
    Ok(LoadSpec { write_mode, ..load.clone() })
}
