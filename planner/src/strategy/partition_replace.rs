//! `partition_replace`: whole partitions of the target become exactly the rows that the source has of them.

use std::collections::BTreeSet;

use datafusion::common::DFSchema;

use super::align::staged_field;
use super::{Draft, Observed, carried_key, output_names, replace, require_columns};
use crate::definition::PartitionScope;
use crate::error::{Error, Result};
use crate::partition::{Cut, of_partitions, of_values, parse};
use crate::plan::{Checks, PartitionLimit, ScopeFilter, WriteMode};

pub(super) fn draft(
    observed: &Observed<'_>,
    column: &str,
    expression: Option<&str>,
    scope: &PartitionScope,
) -> Result<Draft> {
    output_names(&observed.source)?;
    let columns = vec![column.to_owned()];
    require_columns("the partition column", &columns, &observed.source)?;
    let what = "the partitions";
    let cut = expression.map(|sql| cut(observed, column, sql)).transpose()?;
    match (scope, cut) {
        (PartitionScope::Window { from, to }, _) => {
            replace::by_predicate(what, observed, replace::window(observed, column, from, to)?)
        }
        (PartitionScope::Values(values), None) => {
            replace::by_predicate(what, observed, replace::one_of(observed, column, values)?)
        }
        (PartitionScope::Values(values), Some(cut)) => {
            let field = observed.source.schema().field_with_unqualified_name(column)?;
            replace::by_predicate(what, observed, of_values(cut, field, values)?)
        }
        (PartitionScope::Staged { most }, cut) => Ok(Draft {
            plan: observed.source.clone(),
            write_mode: WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: columns.clone() } },
            cursor: None,
            // A source without rows replaces nothing.
            checks: Checks { max_partitions: Some(PartitionLimit { columns, cut, most: *most }), ..Checks::default() },
            primary_key: carried_key(observed),
            own: Vec::new(),
            notes: staged_notes(column, expression),
        }),
    }
}

fn staged_notes(column: &str, expression: Option<&str>) -> Vec<String> {
    let of = expression.map_or_else(|| format!("{column:?}"), str::to_owned);
    let mut notes = vec![format!(
        "a partition of {of} that the source has no row of stays as it is: a window, or partition.expected, says which \
         are to be emptied"
    )];
    if expression.is_some() {
        notes.push(format!(
            "the partitions of {of} become ranges of {column:?} when the rows are staged: the commit replaces exactly those"
        ));
    }
    notes
}

/// How the column is cut, checked to the end: the sink must be able to say a partition before anything is read.
fn cut(observed: &Observed<'_>, column: &str, sql: &str) -> Result<Cut> {
    let schema = DFSchema::try_from(observed.source.schema().as_arrow().clone())?;
    let cut = parse("partition.value_expression", sql, column, &schema)?;
    let field = observed.source.schema().field_with_unqualified_name(column)?;
    let staged = staged_field(field, observed)?;
    if !cut.takes(staged.data_type()) {
        return Err(Error::configuration(format!(
            "partition.value_expression, {sql}: the target keeps {column:?} as {}, which is not cut so",
            staged.data_type()
        ))
        .with("column", column));
    }
    let any = of_partitions(cut, &staged, &BTreeSet::from([None, Some(0)]))?;
    replace::check_stored_scope("the partitions", observed, &any)?;
    Ok(cut)
}
