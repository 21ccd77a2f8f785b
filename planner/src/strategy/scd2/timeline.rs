//! Versions that hold since what the source says: each key's read rows are laid among its versions, in order of time.
//!
//! A read row that says what the version before it says makes none, so that reading again changes nothing. Each version
//! ends where the next begins; one that comes late ends where the one after it began, and the one before it ends where
//! it begins. A read row with the time of a version that is there replaces what that version says.

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit, when};

use super::super::compare::{digest_of, target_column, target_scan, target_value};
use super::super::snapshot_diff::timestamp_field;
use super::super::{ObservedTarget, column};
use super::{Options, flag_field, instant};
use crate::diff::KEY_HASH;
use crate::error::{Error, Result};
use crate::exact_cast::convert;
use crate::plan::{INSERT_OR_UPDATE, OPERATION_COLUMN, PATCH};
use crate::row_hash::{DigestKind, HashText, digest};
use crate::tally::{Followed, Tally};
use crate::timeline::{IN_TARGET, ORIGIN, READ, Timeline, TimelineSpec};
use crate::types::utc;

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
    let by_key = digest_of(&rows, sides.fields, options.key, DigestKind::Key)?.alias(KEY_HASH);
    let columns = rows.schema().columns().into_iter().map(Expr::Column).chain([by_key]);
    let rows = LogicalPlanBuilder::from(rows).project(columns)?.build()?;
    let spec =
        TimelineSpec { hash: history.row_hash.clone(), from: history.valid_from.clone(), to: history.valid_to.clone() };
    changes(Timeline::plan(rows, spec)?, names, options, target.is_some())
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

/// The rows as they are staged.
fn changes(placed: LogicalPlan, names: &[String], options: &Options<'_>, with_target: bool) -> Result<LogicalPlan> {
    let history = options.history;
    let mut exprs: Vec<Expr> = names.iter().chain([&history.row_hash, &history.valid_from]).map(ident).collect();
    exprs.push(ident(&history.valid_to));
    exprs.push(ident(&history.valid_to).is_null().alias(&history.is_current));
    if with_target {
        let is_read = ident(ORIGIN).eq(lit(READ));
        exprs.push(when(is_read, lit(INSERT_OR_UPDATE)).otherwise(lit(PATCH))?.alias(OPERATION_COLUMN));
    }
    Ok(LogicalPlanBuilder::from(placed).project(exprs)?.build()?)
}
