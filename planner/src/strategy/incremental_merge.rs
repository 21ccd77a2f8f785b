//! `incremental_merge`: rows past the watermark are inserted, or update the row with their key.
//!
//! The read starts at the watermark, inclusive; rows that were loaded already meet themselves in the target and stay
//! unchanged.

use arrow::datatypes::DataType;
use datafusion::functions_window::expr_fn::rank;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, lit, when};

use super::cursor::{bounded, order_of};
use super::{Draft, Observed, column, filtered, require_columns, unique_staged};
use crate::definition::{CursorOptions, DeletePolicy, DuplicatePolicy, NullKeys, SoftDelete};
use crate::error::{Error, Result};
use crate::order::{ValueOrder, sortable};
use crate::plan::{
    Checks, CursorPlan, DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, RESERVED_PREFIX, WriteMode,
};

pub(super) fn draft(
    observed: &Observed<'_>,
    key: &[String],
    cursor: Option<&CursorOptions>,
    duplicates: &DuplicatePolicy,
    null_keys: NullKeys,
    soft_delete: Option<&SoftDelete>,
) -> Result<Draft> {
    if key.is_empty() {
        return Err(Error::configuration("incremental_merge needs a key")
            .with_hint("name the columns that identify a row: unique_key: [id], or KEY (id) in SQL"));
    }
    require_columns("the key column", key, &observed.source)?;
    let (mut plan, order, from) = match cursor {
        Some(cursor) => {
            let read = bounded(observed, cursor)?;
            (read.plan, read.order, read.from)
        }
        None => (observed.source.clone(), ValueOrder::Arrow, None),
    };
    let mut notes = Vec::new();
    plan = without_duplicates(plan, key, duplicates)?;
    let mut operation = Operation::Upsert;
    match soft_delete {
        Some(SoftDelete { column: mark, policy: DeletePolicy::Hard }) => {
            require_columns("the soft_delete column", std::slice::from_ref(mark), &plan)?;
            plan = with_operation(plan, mark)?;
            operation = Operation::Column { patch: Vec::new() };
            notes.push(format!("rows that {mark:?} marks as deleted are deleted in the target"));
        }
        Some(SoftDelete { policy: DeletePolicy::Keep, .. }) => {
            notes.push("rows that are marked as deleted are kept, mark included".to_owned());
        }
        None => notes.push("rows that are deleted in the source are not seen by incremental_merge".to_owned()),
    }
    let mut not_null = Vec::new();
    let mut quarantine_null = Vec::new();
    match null_keys {
        NullKeys::Fail => not_null.extend_from_slice(key),
        NullKeys::Quarantine => quarantine_null.extend_from_slice(key),
    }
    if let Some(cursor) = cursor.filter(|c| !c.include_nulls && !key.contains(&c.column)) {
        not_null.push(cursor.column.clone());
    }
    let unique = unique_staged(observed, key);
    if unique.is_empty() {
        notes.push("no two rows have one key: the primary key of the source is part of it".to_owned());
    }
    Ok(Draft {
        plan,
        write_mode: WriteMode::Changes { key: key.to_vec(), operation },
        cursor: cursor.map(|c| CursorPlan {
            column: c.column.clone(),
            skip_boundary: false,
            keep_boundary: false,
            order,
            from,
        }),
        checks: Checks { not_null, quarantine_null, unique, whole_deletes: true, ..Checks::default() },
        primary_key: key.to_vec(),
        own: Vec::new(),
        notes,
    })
}

/// The rows with one left of each key, where the definition says which.
pub(super) fn without_duplicates(
    plan: LogicalPlan,
    key: &[String],
    duplicates: &DuplicatePolicy,
) -> Result<LogicalPlan> {
    let DuplicatePolicy::Latest { order_by } = duplicates else { return Ok(plan) };
    require_columns("the order_by column", order_by, &plan)?;
    latest_per_key(plan, key, order_by)
}

/// The greatest row of each key. Two rows that tie are both kept, and then fail the check for duplicate keys: which of
/// them is newer cannot be known.
fn latest_per_key(plan: LogicalPlan, key: &[String], order_by: &[String]) -> Result<LogicalPlan> {
    let keys = key.iter().map(|k| column(&plan, k)).collect::<Result<Vec<_>>>()?;
    // NULL is least, hence last.
    let order = order_by
        .iter()
        .map(|name| {
            let order = order_of("the order_by column", name, plan.schema().field_with_unqualified_name(name)?)?;
            Ok(sortable(column(&plan, name)?, name, &order).sort(false, false))
        })
        .collect::<Result<Vec<_>>>()?;
    let outputs: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let name = format!("{RESERVED_PREFIX}rank");
    let ranked = LogicalPlanBuilder::from(plan)
        .window([rank().partition_by(keys).order_by(order).build()?.alias(&name)])?
        .build()?;
    let first = column(&ranked, &name)?.eq(lit(1_u64));
    let newest = filtered(ranked, first)?;
    let columns = outputs.iter().map(|n| column(&newest, n)).collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(newest).project(columns)?.build()?)
}

/// Adds the operation column: delete where the mark is true, or, for a mark that is not boolean, where it is not NULL.
fn with_operation(plan: LogicalPlan, mark: &str) -> Result<LogicalPlan> {
    let on_mark = column(&plan, mark)?;
    let boolean = *plan.schema().field_with_unqualified_name(mark)?.data_type() == DataType::Boolean;
    let deleted: Expr = if boolean { on_mark.is_true() } else { on_mark.is_not_null() };
    let operation = when(deleted, lit(DELETE)).otherwise(lit(INSERT_OR_UPDATE))?.alias(OPERATION_COLUMN);
    let mut columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(operation);
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}
