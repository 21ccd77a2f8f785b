//! From an expression of a definition to the cut of its column.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, Operator};

use super::{Cut, Unit};
use crate::error::{Error, Result};

/// How `sql`, an expression over `column`, cuts it into partitions. `what` names the expression in errors.
pub fn parse(what: &str, sql: &str, column: &str, schema: &DFSchema) -> Result<Cut> {
    let parsed = crate::expr::value(what, sql, schema)?;
    let read = crate::expr::columns_of(&parsed);
    if read.iter().any(|name| name != column) || read.is_empty() {
        let read =
            if read.is_empty() { "no column".to_owned() } else { read.into_iter().collect::<Vec<_>>().join(", ") };
        return Err(Error::configuration(format!("{what}, {sql}, reads {read}; its partitions are of {column:?}"))
            .with_hint("an expression over partition.column alone; or make it a column of the query"));
    }
    let cut = cut(&parsed).ok_or_else(|| {
        Error::configuration(format!("{what}, {sql}, is not an expression whose partitions are known")).with_hint(
            "known are date_trunc('month', column), CAST(column AS DATE), EXTRACT(YEAR FROM column), column / 1000 and \
             column % 16; make any other a column of the query, and partition by that",
        )
    })?;
    let data_type = schema.field_with_unqualified_name(column)?.data_type();
    if !cut.takes(data_type) {
        let wanted = if matches!(cut, Cut::Calendar(_)) { "a date or a timestamp" } else { "a whole number" };
        return Err(Error::configuration(format!(
            "{what}, {sql}: {column:?} is of type {data_type}, and not {wanted}"
        ))
        .with_hint("convert it in a query, and partition by the column that it makes"));
    }
    Ok(cut)
}

fn cut(expr: &Expr) -> Option<Cut> {
    match expr {
        Expr::Alias(alias) => cut(&alias.expr),
        Expr::Cast(given) => match (given.expr.as_ref(), given.field.data_type()) {
            (inner, DataType::Date32 | DataType::Timestamp(..)) if is_column(inner) => {
                (given.field.data_type() == &DataType::Date32).then_some(Cut::Calendar(Unit::Day))
            }
            // What begins at midnight loses nothing as a date.
            (inner, DataType::Date32) => match cut(inner)? {
                Cut::Calendar(unit) if !matches!(unit, Unit::Second | Unit::Minute | Unit::Hour) => {
                    Some(Cut::Calendar(unit))
                }
                _ => None,
            },
            _ => None,
        },
        Expr::ScalarFunction(call) => match (call.func.name(), call.args.as_slice()) {
            ("date_trunc", [part, of]) if is_column(of) => Some(Cut::Calendar(unit(&text(part)?)?)),
            ("date_part", [part, of]) if is_column(of) => match text(part)?.to_lowercase().as_str() {
                "year" => Some(Cut::Calendar(Unit::Year)),
                _ => None,
            },
            ("to_date", [of]) if is_column(of) => Some(Cut::Calendar(Unit::Day)),
            ("floor", [of]) => match cut(of)? {
                Cut::Quotient(divisor) => Some(Cut::Quotient(divisor)),
                _ => None,
            },
            _ => None,
        },
        Expr::BinaryExpr(of) if is_column(&of.left) => {
            let divisor = number(&of.right).filter(|n| *n > 0)?;
            match of.op {
                Operator::Divide => Some(Cut::Quotient(divisor)),
                Operator::Modulo => Some(Cut::Remainder(divisor)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        _ => false,
    }
}

fn unit(text: &str) -> Option<Unit> {
    Some(match text.to_lowercase().as_str() {
        "second" => Unit::Second,
        "minute" => Unit::Minute,
        "hour" => Unit::Hour,
        "day" => Unit::Day,
        "week" => Unit::Week,
        "month" => Unit::Month,
        "quarter" => Unit::Quarter,
        "year" => Unit::Year,
        _ => return None,
    })
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    }
}

fn number(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(value, _) => match value.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(number) => number,
            _ => None,
        },
        _ => None,
    }
}
