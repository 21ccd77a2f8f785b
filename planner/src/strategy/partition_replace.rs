//! `partition_replace`: whole partitions of the target become exactly the rows that the source has of them.

use super::{Draft, Observed, carried_key, output_names, replace, require_columns};
use crate::definition::PartitionScope;
use crate::error::Result;
use crate::plan::{Checks, PartitionLimit, ScopeFilter, WriteMode};

pub(super) fn draft(observed: &Observed<'_>, column: &str, scope: &PartitionScope) -> Result<Draft> {
    output_names(&observed.source)?;
    let columns = vec![column.to_owned()];
    require_columns("the partition column", &columns, &observed.source)?;
    let what = "the partitions";
    match scope {
        PartitionScope::Window { from, to } => {
            replace::by_predicate(what, observed, replace::window(observed, column, from, to)?)
        }
        PartitionScope::Values(values) => {
            replace::by_predicate(what, observed, replace::one_of(observed, column, values)?)
        }
        PartitionScope::Staged { most } => Ok(Draft {
            plan: observed.source.clone(),
            write_mode: WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: columns.clone() } },
            cursor: None,
            // A source without rows replaces nothing.
            checks: Checks { max_partitions: Some(PartitionLimit { columns, most: *most }), ..Checks::default() },
            primary_key: carried_key(observed),
            own: Vec::new(),
            notes: vec![format!(
                "a partition of {column:?} that the source has no row of stays as it is: a window, or \
                 partition.expected, says which are to be emptied"
            )],
        }),
    }
}
