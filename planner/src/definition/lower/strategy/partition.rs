//! The options of `partition_replace`: which partitions it owns, and how the sink should replace them.

use super::super::Origin;
use crate::definition::manifest::{NativeMode, PartitionSpec, StrategySpec, Values};
use crate::definition::{PartitionScope, Strategy};
use crate::error::Result;

const PARTITION: &str = "sink.strategy.partition";
const WINDOW: &str = "sink.strategy.window";
/// Partitions that one load may touch unless the definition says otherwise.
const MOST: u64 = 64;

pub(super) fn lower(spec: &StrategySpec, origin: &Origin<'_>) -> Result<Strategy> {
    let Some(partition) = &spec.partition else {
        return Err(origin.missing("sink.strategy.partition.column", "partition_replace replaces by it"));
    };
    check_native(partition, origin)?;
    let column = partition.column.clone();
    let expected = format!("{PARTITION}.expected");
    let values = partition.expected.as_ref().map(Values::list);
    let scope = match (values, &spec.window) {
        (Some(_), Some(_)) => {
            return Err(origin
                .error(
                    &expected,
                    format!("{} and {} both say which partitions", origin.term(&expected), origin.term(WINDOW)),
                )
                .with_hint("keep one of them"));
        }
        (Some(values), None) if values.is_empty() => {
            return Err(
                origin.error(&expected, format!("{} is empty: no partition would be replaced", origin.term(&expected)))
            );
        }
        (Some(values), None) => PartitionScope::Values(values),
        (None, Some(window)) if window.column != column => {
            return Err(origin
                .error(WINDOW, format!("the window is over {:?}, and the partitions are of {column:?}", window.column))
                .with_hint("a window of partition_replace is over the partition column; use replace for another"));
        }
        (None, Some(window)) => PartitionScope::Window { from: window.from.text(), to: window.to.text() },
        (None, None) if partition.values_from_staging == Some(false) => {
            let at = format!("{PARTITION}.values_from_staging");
            return Err(origin
                .error(&at, format!("{} is false, and nothing else says which partitions", origin.term(&at)))
                .with_hint(format!("give {} or {}", origin.term(&expected), origin.term(WINDOW))));
        }
        (None, None) => PartitionScope::Staged { most: partition.max_partitions_per_run.unwrap_or(MOST) },
    };
    if partition.values_from_staging == Some(true) && !matches!(scope, PartitionScope::Staged { .. }) {
        let at = format!("{PARTITION}.values_from_staging");
        return Err(origin
            .error(&at, "the partitions come from the staged rows or are given, not both")
            .with_hint(format!("remove {}", origin.term(&at))));
    }
    if let (Some(most), PartitionScope::Values(values)) = (partition.max_partitions_per_run, &scope)
        && values.len() as u64 > most
    {
        return Err(origin.error(
            &expected,
            format!(
                "{} names {} partitions, and max_partitions_per_run is {most}",
                origin.term(&expected),
                values.len()
            ),
        ));
    }
    let expression = partition.value_expression.clone().filter(|given| given.trim() != column);
    if expression.is_some() && matches!(scope, PartitionScope::Window { .. }) {
        let at = format!("{PARTITION}.value_expression");
        return Err(origin
            .error(&at, format!("{} has no meaning beside a window, which is over the column itself", origin.term(&at)))
            .with_hint("keep one of them"));
    }
    Ok(Strategy::PartitionReplace { column, expression, scope })
}

/// Partitions are replaced by deleting and inserting in one transaction, or, in a lake, by exchanging files.
fn check_native(partition: &PartitionSpec, origin: &Origin<'_>) -> Result<()> {
    let required = partition.require_native == Some(true) || partition.native_mode == Some(NativeMode::Required);
    if required {
        let key = if partition.require_native == Some(true) { "require_native" } else { "native_mode" };
        let at = format!("{PARTITION}.{key}");
        return Err(origin
            .error(&at, "attaching and detaching partitions is known, but not supported by this version")
            .with_hint("native_mode: auto replaces the partitions' rows in one transaction"));
    }
    for (key, given) in [
        ("partition_function", partition.partition_function.is_some()),
        ("switch_out_schema", partition.switch_out_schema.is_some()),
        ("switch_out_table_template", partition.switch_out_table_template.is_some()),
    ] {
        if given {
            let at = format!("{PARTITION}.{key}");
            return Err(origin
                .error(&at, format!("{} belongs to SQL Server, which is no sink of this version", origin.term(&at))));
        }
    }
    Ok(())
}
