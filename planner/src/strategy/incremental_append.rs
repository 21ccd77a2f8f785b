//! `incremental_append`: rows past the watermark are added.
//!
//! The read starts at the watermark, inclusive, because rows with the same cursor value may have been committed after
//! the last run. What was loaded already is left out: by the hashes of the boundary rows in the state where there is no
//! lag, and by comparing with the target's own rows where there is one.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, col};

use super::align::aligned_exprs;
use super::compare::{TARGET, check_matched, check_source_key, many_spellings, target_scan};
use super::cursor::{LowerBound, bounded};
use super::{Draft, Observed, column, require_columns};
use crate::definition::CursorOptions;
use crate::error::{Error, Result};
use crate::order::{ValueOrder, sortable};
use crate::plan::{Checks, CursorPlan, WriteMode};
use crate::types::is_string;

pub(super) fn draft(
    observed: &Observed<'_>,
    cursor: &CursorOptions,
    only_new_rows: bool,
    key: &[String],
) -> Result<Draft> {
    require_columns("the key column", key, &observed.source)?;
    if only_new_rows {
        check_new_rows(observed, key)?;
    }
    if cursor.include_nulls && !only_new_rows {
        return Err(Error::configuration(
            "null_cursor: include would append the rows without a cursor value again on every run",
        )
        .with_hint("add only_new_rows with a unique_key, use incremental_merge, or leave null_cursor: fail"));
    }
    let read = bounded(observed, cursor)?;
    let mut notes =
        vec!["rows that are updated or deleted in the source are not seen by incremental_append".to_owned()];
    let mut plan = read.plan;
    // A lag reaches below the watermark, and hashes that were not kept say nothing: then the target itself is asked.
    let hashes_say_it = observed.state.and_then(|s| s.boundary.as_ref()).is_some_and(|b| !b.overflow);
    let compare_rows = !only_new_rows && read.lower.is_some() && (cursor.lag.is_some() || !hashes_say_it);
    if let Some(target) = &observed.target {
        if only_new_rows {
            plan = without_known_keys(plan, observed, target, key)?;
            notes.push(format!("rows whose key ({}) is in the target already are left out", key.join(", ")));
        } else if let Some(lower) = read.lower.as_ref().filter(|_| compare_rows) {
            plan = without_loaded_rows(plan, observed, target, &cursor.column, lower)?;
            notes.push("rows that are in the target already, from the lower bound on, are left out".to_owned());
        }
    }
    let not_null =
        if cursor.include_nulls { key.to_vec() } else { [key, std::slice::from_ref(&cursor.column)].concat() };
    Ok(Draft {
        plan,
        write_mode: WriteMode::Append,
        cursor: Some(CursorPlan {
            column: cursor.column.clone(),
            skip_boundary: !only_new_rows && !compare_rows,
            keep_boundary: !only_new_rows && cursor.lag.is_none(),
            order: read.order,
            from: read.from,
        }),
        checks: Checks { not_null, unique: if only_new_rows { key.to_vec() } else { Vec::new() }, ..Checks::default() },
        primary_key: Vec::new(),
        own: Vec::new(),
        notes,
    })
}

/// Source rows whose key no row of the target has.
pub(super) fn without_known_keys(
    plan: LogicalPlan,
    observed: &Observed<'_>,
    target: &super::ObservedTarget,
    key: &[String],
) -> Result<LogicalPlan> {
    let converted = aligned_exprs(&plan, observed)?;
    let (mut keys, mut on) = (Vec::new(), Vec::new());
    for name in key {
        let expr = converted.iter().find(|(f, _)| f.name() == name).map(|(_, e)| e.clone());
        let expr = expr.ok_or_else(|| Error::internal(format!("the key column {name:?} was not aligned")))?;
        // Texts of one value are one key: 1.0 and 1.00.
        let order = key_order(plan.schema().field_with_unqualified_name(name)?);
        let known = format!("__dpone__key_{name}");
        let there = Expr::Column(Column::new(Some(TARGET), name));
        keys.push(sortable(there, name, &order).alias(&known));
        on.push(sortable(expr, name, &order).eq(col(Column::from_name(known))));
    }
    let known = target_scan(target)?.project(keys)?.build()?;
    Ok(LogicalPlanBuilder::from(plan).join_on(known, JoinType::LeftAnti, on)?.build()?)
}

/// The order by which equal keys are found, where their texts may differ.
fn key_order(field: &Field) -> ValueOrder {
    match many_spellings(field) {
        true => ValueOrder::of(field).unwrap_or_default(),
        false => ValueOrder::Arrow,
    }
}

/// Checks the key by which an append leaves out rows that are there, before anything is loaded: one whose texts say
/// nothing of which values are equal, or that the target keeps as text alone.
pub(super) fn check_new_rows(observed: &Observed<'_>, key: &[String]) -> Result<()> {
    let source = observed.source.schema().as_arrow();
    for field in source.fields().iter().filter(|f| key.contains(f.name())) {
        if many_spellings(field) && key_order(field).is_arrow() {
            check_source_key(observed, std::slice::from_ref(field.name()))?;
        }
    }
    let target = match &observed.target {
        Some(target) => Arc::clone(&target.schema),
        None => observed.dialect.stored_schema(source)?,
    };
    check_matched("the key column", key, source, &target, observed.dialect.system())
}

/// Source rows less the target's rows from the lower bound on, as multisets: a row that the source has three times and
/// the target once is staged twice.
fn without_loaded_rows(
    plan: LogicalPlan,
    observed: &Observed<'_>,
    target: &super::ObservedTarget,
    cursor: &str,
    lower: &LowerBound,
) -> Result<LogicalPlan> {
    let all: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let names: Vec<String> = all.iter().filter(|name| !observed.late.contains(name)).cloned().collect();
    let there = target.schema.field_with_name(cursor)?;
    let lower = lower.stored_in(there);
    if !lower.order.is_arrow() && !is_string(there.data_type()) {
        return Err(Error::configuration(format!(
            "the rows that were loaded are compared with the target's, whose column {cursor:?} is of another type than \
             the cursor"
        ))
        .with_hint("use incremental_merge, or only_new_rows with a unique_key; or convert the cursor in a query"));
    }
    let loaded = target_scan(target)?
        .filter(lower.reached_by(Expr::Column(Column::new(Some(TARGET), cursor)), cursor))?
        .project(names.iter().map(|n| Expr::Column(Column::new(Some(TARGET), n))))?
        .build()?;
    // Both sides in the target's types, so that equal values are equal.
    let converted: Vec<Expr> = aligned_exprs(&plan, observed)?.into_iter().map(|(f, e)| e.alias(f.name())).collect();
    let source = LogicalPlanBuilder::from(plan).project(converted)?.alias("__dpone__source")?.build()?;
    let source = numbered(source, &names, "__dpone__nth")?;
    let loaded = numbered(loaded, &names, "__dpone__loaded_nth")?;
    let mut left = Vec::new();
    let mut right = Vec::new();
    for name in &names {
        left.push(Column::new(Some("__dpone__source"), name));
        right.push(Column::new(Some(TARGET), name));
    }
    left.push(Column::from_name("__dpone__nth"));
    right.push(Column::from_name("__dpone__loaded_nth"));
    let joined = LogicalPlanBuilder::from(source)
        .join_detailed(loaded, JoinType::LeftAnti, (left, right), None, NullEquality::NullEqualsNull)?
        .build()?;
    let columns = all.iter().map(|n| column(&joined, n)).collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlanBuilder::from(joined).project(columns)?.build()?)
}

/// Numbers equal rows, so that an anti-join treats them as a multiset.
fn numbered(plan: LogicalPlan, names: &[String], number: &str) -> Result<LogicalPlan> {
    let columns = names.iter().map(|n| column(&plan, n)).collect::<Result<Vec<_>>>()?;
    let number = row_number().partition_by(columns).build()?.alias(number);
    Ok(LogicalPlanBuilder::from(plan).window([number])?.build()?)
}
