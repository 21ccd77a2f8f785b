//! The lower bound of an incremental read.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, lit};

use super::{Observed, column, filtered, require_columns};
use crate::definition::{CursorOptions, Lag};
use crate::error::{Error, Result};
use crate::state::Watermark;
use crate::types::{NATIVE, data_type_name, is_string, is_uuid};

/// The source from the watermark on, inclusive, less the lag.
pub(super) struct Bounded {
    pub(super) plan: LogicalPlan,
    /// The watermark that the read began from.
    pub(super) from: Option<Watermark>,
    /// The smallest cursor value that was read, when there is a bound.
    pub(super) lower: Option<ScalarValue>,
}

pub(super) fn bounded(observed: &Observed<'_>, cursor: &CursorOptions) -> Result<Bounded> {
    let plan = observed.source.clone();
    require_columns("the cursor", std::slice::from_ref(&cursor.column), &plan)?;
    let field = plan.schema().field_with_unqualified_name(&cursor.column)?.clone();
    check_ordered("the cursor", &cursor.column, &field)?;
    let Some(watermark) = observed.state.and_then(|s| s.watermark.clone()) else {
        return Ok(Bounded { plan, from: None, lower: None });
    };
    let mut lower = in_type_of(&watermark, &field)?;
    if let Some(lag) = &cursor.lag {
        lower = minus(&lower, lag).ok_or_else(|| {
            Error::configuration(format!(
                "a lag of this kind cannot be taken from the cursor {:?} of type {}",
                cursor.column,
                data_type_name(field.data_type())
            ))
            .with_hint("use a number for a numeric cursor, and an interval such as `2d` for a date or timestamp")
        })?;
    }
    lower = signless(lower);
    let on_cursor = column(&plan, &cursor.column)?;
    // Rows without a cursor value are read each time: they are loaded or refused by name, never passed over in silence.
    let predicate = on_cursor.clone().gt_eq(lit(lower.clone())).or(on_cursor.is_null());
    let predicate =
        if field.is_nullable() { predicate } else { column(&plan, &cursor.column)?.gt_eq(lit(lower.clone())) };
    Ok(Bounded { plan: filtered(plan, predicate)?, from: Some(watermark), lower: Some(lower) })
}

/// A lower bound of zero as -0: DataFusion sorts -0 below 0, databases call them equal, and both shall be read.
fn signless(bound: ScalarValue) -> ScalarValue {
    match bound {
        ScalarValue::Float32(Some(0.0)) => ScalarValue::Float32(Some(-0.0)),
        ScalarValue::Float64(Some(0.0)) => ScalarValue::Float64(Some(-0.0)),
        other => other,
    }
}

/// Fails when the values that arrive do not sort as the column's own type does. `what` is the column's part, such as
/// "the cursor".
pub(super) fn check_ordered(what: &str, name: &str, field: &arrow::datatypes::Field) -> Result<()> {
    use DataType::*;
    let ordered = is_uuid(field)
        || (is_string(field.data_type()) && native_sorts_as_text(field))
        || matches!(
            field.data_type(),
            Int8 | Int16
                | Int32
                | Int64
                | UInt8
                | UInt16
                | UInt32
                | UInt64
                | Float32
                | Float64
                | Decimal128(_, _)
                | Decimal256(_, _)
                | Date32
                | Time64(_)
                | Timestamp(_, _)
        );
    if ordered {
        return Ok(());
    }
    Err(Error::configuration(format!(
        "{what} {name:?} is of type {}, whose order is not known here",
        field.metadata().get(NATIVE).cloned().unwrap_or_else(|| crate::types::logical_name(field))
    ))
    .with_hint(
        "use a column of an integer, decimal(p,s), float, date, timestamp, time, uuid or text type, or convert it in a \
         query: CAST(… AS DECIMAL(38, 10))",
    ))
}

/// Types that travel as text (an unconstrained numeric, an enum, an interval) do not sort as their text does.
fn native_sorts_as_text(field: &arrow::datatypes::Field) -> bool {
    field.metadata().get(NATIVE).is_none_or(|native| {
        let base = native.split('(').next().unwrap_or_default().trim();
        matches!(base, "text" | "varchar" | "character varying" | "name")
    })
}

/// The watermark was taken from staged rows, whose type may be wider than the source's.
fn in_type_of(watermark: &Watermark, field: &arrow::datatypes::Field) -> Result<ScalarValue> {
    let scalar = watermark.scalar()?;
    if scalar.data_type() == *field.data_type() {
        return Ok(scalar);
    }
    let mismatch = || {
        Error::conflict(format!(
            "the stored watermark ({watermark}) is of type {}, but the cursor is now of type {}",
            data_type_name(&watermark.data_type),
            data_type_name(field.data_type())
        ))
        .with_hint("run `dpone state reset` for this pipeline to load everything again")
    };
    if is_uuid(field) && is_string(&scalar.data_type()) {
        let bytes = parse_uuid(&watermark.value).ok_or_else(mismatch)?;
        return Ok(ScalarValue::FixedSizeBinary(16, Some(bytes)));
    }
    let cast = scalar.cast_to(field.data_type()).map_err(|_| mismatch())?;
    let back = cast.cast_to(&scalar.data_type()).map_err(|_| mismatch())?;
    if back == scalar { Ok(cast) } else { Err(mismatch()) }
}

fn parse_uuid(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    (digits.len() == 32 && digits.is_ascii())
        .then(|| (0..32).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok()).collect())
        .flatten()
}

/// `value - lag`, stopping at the type's smallest value.
fn minus(value: &ScalarValue, lag: &Lag) -> Option<ScalarValue> {
    use ScalarValue::*;
    Some(match (value, lag) {
        (Int8(Some(v)), Lag::Number(n)) => Int8(Some(v.saturating_sub(i8::try_from(*n).ok()?))),
        (Int16(Some(v)), Lag::Number(n)) => Int16(Some(v.saturating_sub(i16::try_from(*n).ok()?))),
        (Int32(Some(v)), Lag::Number(n)) => Int32(Some(v.saturating_sub(i32::try_from(*n).ok()?))),
        (Int64(Some(v)), Lag::Number(n)) => Int64(Some(v.saturating_sub(*n))),
        (UInt32(Some(v)), Lag::Number(n)) => UInt32(Some(v.saturating_sub(u32::try_from(*n).ok()?))),
        (UInt64(Some(v)), Lag::Number(n)) => UInt64(Some(v.saturating_sub(u64::try_from(*n).ok()?))),
        (Float64(Some(v)), Lag::Number(n)) => Float64(Some(v - *n as f64)),
        (Decimal128(Some(v), p, s), Lag::Number(n)) => {
            let scaled = i128::from(*n).checked_mul(10_i128.checked_pow(u32::try_from(*s).ok()?)?)?;
            Decimal128(Some(v.saturating_sub(scaled)), *p, *s)
        }
        (Date32(Some(v)), Lag::Interval { microseconds }) => {
            let days = microseconds.div_euclid(86_400_000_000) + i64::from(microseconds % 86_400_000_000 != 0);
            Date32(Some(v.saturating_sub(i32::try_from(days).ok()?)))
        }
        (TimestampSecond(Some(v), tz), Lag::Interval { microseconds }) => {
            TimestampSecond(Some(v.saturating_sub(microseconds.div_euclid(1_000_000) + 1)), tz.clone())
        }
        (TimestampMillisecond(Some(v), tz), Lag::Interval { microseconds }) => {
            TimestampMillisecond(Some(v.saturating_sub(microseconds.div_euclid(1_000) + 1)), tz.clone())
        }
        (TimestampMicrosecond(Some(v), tz), Lag::Interval { microseconds }) => {
            TimestampMicrosecond(Some(v.saturating_sub(*microseconds)), tz.clone())
        }
        (TimestampNanosecond(Some(v), tz), Lag::Interval { microseconds }) => {
            TimestampNanosecond(Some(v.saturating_sub(microseconds.saturating_mul(1_000))), tz.clone())
        }
        _ => return None,
    })
}

/// `expr` compared with the lower bound in the target's own type, for reading back what lies above it.
pub(super) fn at_least(expr: Expr, lower: &ScalarValue) -> Expr {
    expr.gt_eq(lit(lower.clone()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::with_native;
    use arrow::datatypes::Field;

    #[test]
    fn text_of_another_type_is_no_cursor() {
        let text = |native: &str| with_native(Field::new("c", DataType::Utf8, true), "postgres", native);
        for sorted in ["text", "character varying(20)", "name"] {
            assert!(check_ordered("the cursor", "c", &text(sorted)).is_ok(), "{sorted}");
        }
        assert!(check_ordered("the cursor", "c", &Field::new("c", DataType::Utf8, true)).is_ok());
        // As text 10 sorts before 9, and every row after it would be passed over.
        for unsorted in ["numeric", "public.mood", "interval", "inet", "money"] {
            let error = check_ordered("the cursor", "c", &text(unsorted)).unwrap_err();
            assert!(error.message().contains(unsorted) && error.hint().is_some(), "{error}");
        }
    }
}
