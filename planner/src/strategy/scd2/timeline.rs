//! Versions that hold since what the source says: each key's read rows are laid among its versions, in order of time.
//!
//! A read row that says what the version before it says makes none, so that reading again changes nothing. Each version
//! ends where the next begins; one that comes late ends where the one after it began, and the one before it ends where
//! it begins. A read row with the time of a version that is there replaces what that version says.

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_window::expr_fn::{lag, lead};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition, cast, ident, lit, when,
};

use super::super::compare::{target_column, target_scan, target_value};
use super::super::snapshot_diff::timestamp_field;
use super::super::{ObservedTarget, column};
use super::{Options, flag_field, instant};
use crate::error::{Error, Result};
use crate::exact_cast::convert;
use crate::plan::{INSERT_OR_UPDATE, OPERATION_COLUMN, PATCH};
use crate::row_hash::{DigestKind, HashText, digest};
use crate::tally::{Followed, Tally};
use crate::types::utc;

/// Where a row of the timeline comes from; of two at one time the version that is there is first.
const ORIGIN: &str = "__dpone__origin";
const IN_TARGET: i8 = 0;
const READ: i8 = 1;
const PREVIOUS_HASH: &str = "__dpone__previous_hash";
const PREVIOUS_TO: &str = "__dpone__previous_to";
/// Of the read rows with one key and one time.
const LEAST_HASH: &str = "__dpone__least_hash";
const GREATEST_HASH: &str = "__dpone__greatest_hash";
const NEXT_FROM: &str = "__dpone__next_from";
/// The latest end of the versions before, which reaches past a row that falls into one of them.
const ENCLOSING_TO: &str = "__dpone__enclosing_to";

/// What meets in the timelines.
pub(super) struct Sides<'a> {
    /// The source's columns in staged types, and the hash.
    pub(super) fields: &'a [Field],
    pub(super) effective: &'a str,
    pub(super) target: Option<&'a ObservedTarget>,
    /// The columns that are compared where the stored hashes say nothing.
    pub(super) by_values: Option<&'a [String]>,
}

/// The versions that the read rows make, and the ends of those that they cut short. `plan` has the fields of `sides`.
pub(super) fn plan(
    plan: LogicalPlan,
    names: &[String],
    options: &Options<'_>,
    sides: &Sides<'_>,
    followed: Option<Followed>,
) -> Result<LogicalPlan> {
    let history = options.history;
    let target = sides.target;
    let read = read_rows(plan, options, sides)?;
    let rows = match target {
        None => Tally::plan(read, followed),
        Some(target) => {
            let there = rows_of_target(target, sides, options, &read)?;
            LogicalPlanBuilder::from(there).union(Tally::plan(read, followed))?.build()?
        }
    };
    let ordered = |expr: Expr| -> Result<Expr> {
        let keys = options.key.iter().map(ident).collect();
        let order = vec![ident(&history.valid_from).sort(true, true), ident(ORIGIN).sort(true, true)];
        Ok(expr.partition_by(keys).order_by(order).build()?)
    };
    let at_one_time = |greatest: bool| -> Result<Expr> {
        let udaf = if greatest { max_udaf() } else { min_udaf() };
        let window = WindowFunction::new(WindowFunctionDefinition::AggregateUDF(udaf), vec![ident(&history.row_hash)]);
        let group = options.key.iter().chain([&history.valid_from]).map(ident).chain([ident(ORIGIN)]).collect();
        Ok(Expr::from(window).partition_by(group).build()?)
    };
    let with_previous = LogicalPlanBuilder::from(rows)
        .window([at_one_time(false)?.alias(LEAST_HASH), at_one_time(true)?.alias(GREATEST_HASH)])?
        .window([
            ordered(lag(ident(&history.row_hash), Some(1), None))?.alias(PREVIOUS_HASH),
            ordered(lag(ident(&history.valid_to), Some(1), None))?.alias(PREVIOUS_TO),
        ])?;
    let same = ident(PREVIOUS_HASH).eq(ident(&history.row_hash)).is_true();
    let after_a_gap = ident(PREVIOUS_TO).lt(ident(&history.valid_from)).is_true();
    // Which of them is right cannot be known: both go on, and fail as what they are, two rows with one key and time.
    let contradicting = ident(LEAST_HASH).not_eq(ident(GREATEST_HASH));
    let kept =
        with_previous.filter(ident(ORIGIN).eq(lit(IN_TARGET)).or(same.is_false()).or(after_a_gap).or(contradicting))?;
    let before = WindowFrame::new_bounds(
        WindowFrameUnits::Rows,
        WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(1))),
    );
    let greatest_end =
        WindowFunction::new(WindowFunctionDefinition::AggregateUDF(max_udaf()), vec![ident(&history.valid_to)]);
    let keys = options.key.iter().map(ident).collect();
    let order = vec![ident(&history.valid_from).sort(true, true), ident(ORIGIN).sort(true, true)];
    let greatest_end =
        Expr::from(greatest_end).partition_by(keys).order_by(order).window_frame(before).build()?.alias(ENCLOSING_TO);
    let placed = kept
        .window([ordered(lead(ident(&history.valid_from), Some(1), None))?.alias(NEXT_FROM), greatest_end])?
        .build()?;
    changes(placed, names, options, target.is_some())
}

/// The source's rows as versions without an end.
fn read_rows(plan: LogicalPlan, options: &Options<'_>, sides: &Sides<'_>) -> Result<LogicalPlan> {
    let Sides { fields, effective, .. } = *sides;
    let history = options.history;
    let field = fields.iter().find(|f| f.name() == effective);
    let field = field.ok_or_else(|| Error::internal(format!("the effective column {effective:?} is not read")))?;
    let on_effective = column(&plan, effective)?;
    let since = match field.data_type() {
        // Without a zone they are meant in UTC.
        DataType::Date32 | DataType::Timestamp(_, None) => {
            cast(cast(on_effective, DataType::Timestamp(TimeUnit::Microsecond, None)), valid_type())
        }
        DataType::Timestamp(_, Some(_)) => cast(on_effective, valid_type()),
        other => {
            return Err(Error::configuration(format!(
                "the effective column {effective:?} is of type {}; expected a date or a timestamp",
                crate::types::data_type_name(other)
            ))
            .with("column", effective)
            .with_hint("convert it in a query: SELECT CAST(… AS TIMESTAMP) AS …"));
        }
    };
    let mut exprs = fields.iter().map(|f| Ok(column(&plan, f.name())?.alias(f.name()))).collect::<Result<Vec<_>>>()?;
    exprs.push(since.alias(&history.valid_from));
    exprs.push(instant(None).alias(&history.valid_to));
    exprs.push(lit(READ).alias(ORIGIN));
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

fn valid_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(utc()))
}

/// The versions that are there, in the columns of [`read_rows`]. Where only some rows are read, only of their keys.
fn rows_of_target(
    target: &ObservedTarget,
    sides: &Sides<'_>,
    options: &Options<'_>,
    read: &LogicalPlan,
) -> Result<LogicalPlan> {
    let (fields, history) = (sides.fields, options.history);
    let given = target.provider.schema();
    let there = |name: &str| given.field_with_name(name).map_err(|_| missing(name));
    let text = Field::new(&history.row_hash, DataType::Utf8, true);
    let mut exprs = Vec::new();
    for field in fields {
        let name = field.name();
        exprs.push(if *name == history.row_hash {
            let stored = convert(target_column(name), there(name)?, &text)?;
            match sides.by_values {
                None => stored.alias(name),
                Some(tracked) => {
                    let values = tracked.iter().map(|t| target_value(&given, fields, t)).collect::<Result<_>>()?;
                    HashText::call(digest(DigestKind::Values, values)).alias(name)
                }
            }
        } else if options.key.contains(name) {
            convert(target_column(name), there(name)?, field)?.alias(name)
        } else {
            lit(ScalarValue::try_from(field.data_type())?).alias(name)
        });
    }
    for name in [&history.valid_from, &history.valid_to] {
        exprs.push(convert(target_column(name), there(name)?, &timestamp_field(name))?.alias(name));
    }
    exprs.push(lit(IN_TARGET).alias(ORIGIN));
    there(&history.is_current).and_then(|f| convert(target_column(f.name()), f, &flag_field(f.name())))?;
    let all = target_scan(target)?.project(exprs)?;
    if options.cursor.is_none() {
        return Ok(all.build()?);
    }
    let wanted = |i: usize| format!("__dpone__key_{i}");
    let keys = options.key.iter().enumerate().map(|(i, k)| Ok(column(read, k)?.alias(wanted(i))));
    let keys = LogicalPlanBuilder::from(read.clone()).project(keys.collect::<Result<Vec<_>>>()?)?.build()?;
    let on = options.key.iter().enumerate().map(|(i, k)| ident(k).eq(ident(wanted(i))));
    Ok(all.join_on(keys, JoinType::LeftSemi, on)?.build()?)
}

fn missing(name: &str) -> Error {
    Error::configuration(format!("the target has no column {name:?}, which scd2 keeps there"))
        .with_hint("load into a table that this strategy made, or add the column to the target")
}

fn changes(placed: LogicalPlan, names: &[String], options: &Options<'_>, with_target: bool) -> Result<LogicalPlan> {
    let history = options.history;
    let (from, to, next) = (|| ident(&history.valid_from), || ident(&history.valid_to), || ident(NEXT_FROM));
    let is_read = || ident(ORIGIN).eq(lit(READ));
    let cut_short = next().gt(from()).and(to().is_null().or(next().lt(to())));
    let falls_into = ident(ENCLOSING_TO).gt(from()).and(next().is_null().or(ident(ENCLOSING_TO).lt(next())));
    let end = when(is_read().and(falls_into), ident(ENCLOSING_TO)).otherwise(next())?;
    let with_end = LogicalPlanBuilder::from(placed).filter(is_read().or(cut_short.is_true()))?;
    let mut exprs: Vec<Expr> = names.iter().chain([&history.row_hash, &history.valid_from]).map(ident).collect();
    exprs.push(end.clone().alias(&history.valid_to));
    exprs.push(end.is_null().alias(&history.is_current));
    if with_target {
        exprs.push(when(is_read(), lit(INSERT_OR_UPDATE)).otherwise(lit(PATCH))?.alias(OPERATION_COLUMN));
    }
    Ok(with_end.project(exprs)?.build()?)
}
