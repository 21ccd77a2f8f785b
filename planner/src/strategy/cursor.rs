//! The lower bound of an incremental read.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, lit};

use super::{Observed, column, filtered, require_columns};
use crate::definition::{CursorOptions, Lag};
use crate::error::{Error, Result};
use crate::literal::text_of;
use crate::order::{AtLeast, ValueOrder};
use crate::state::Watermark;
use crate::types::{NATIVE, data_type_name, is_string, is_uuid};

/// The source from the watermark on, inclusive, less the lag.
pub(super) struct Bounded {
    pub(super) plan: LogicalPlan,
    /// How the cursor's values sort.
    pub(super) order: ValueOrder,
    /// The watermark that the read began from.
    pub(super) from: Option<Watermark>,
    /// The smallest cursor value that was read, when there is a bound.
    pub(super) lower: Option<LowerBound>,
}

/// A value, and the order in which others are at least it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LowerBound {
    pub(super) value: ScalarValue,
    pub(super) order: ValueOrder,
}

impl LowerBound {
    /// The bound for a column that keeps uuids as their text: canonical texts sort as the bytes do.
    pub(super) fn stored_in(&self, field: &arrow::datatypes::Field) -> Self {
        match &self.value {
            ScalarValue::FixedSizeBinary(16, Some(bytes)) if is_string(field.data_type()) => {
                let text = <[u8; 16]>::try_from(bytes.as_slice()).map(|bytes| crate::literal::text(&bytes)).ok();
                Self { value: ScalarValue::Utf8(text), order: ValueOrder::Arrow }
            }
            _ => self.clone(),
        }
    }

    /// `expr`, which is the column of this name, is at least the bound.
    pub(super) fn reached_by(&self, expr: Expr, column: &str) -> Expr {
        match (&self.order, text_of(&self.value)) {
            (ValueOrder::Arrow, _) | (_, None) => expr.gt_eq(lit(self.value.clone())),
            (order, Some(bound)) => AtLeast::call(expr, column, order, bound),
        }
    }
}

pub(super) fn bounded(observed: &Observed<'_>, cursor: &CursorOptions) -> Result<Bounded> {
    let plan = observed.source.clone();
    require_columns("the cursor", std::slice::from_ref(&cursor.column), &plan)?;
    let field = plan.schema().field_with_unqualified_name(&cursor.column)?.clone();
    let order = order_of("the cursor", &cursor.column, &field)?;
    let Some(watermark) = observed.state.and_then(|s| s.watermark.clone()) else {
        return Ok(Bounded { plan, order, from: None, lower: None });
    };
    let mut lower = in_type_of(&watermark, &field, &order)?;
    if let Some(lag) = &cursor.lag {
        lower = minus(&lower, lag).ok_or_else(|| {
            Error::configuration(format!(
                "a lag of this kind cannot be taken from the cursor {:?} of type {}",
                cursor.column,
                field.metadata().get(NATIVE).cloned().unwrap_or_else(|| data_type_name(field.data_type()))
            ))
            .with_hint("use a number for a numeric cursor, and an interval such as `2d` for a date or timestamp")
        })?;
    }
    let lower = LowerBound { value: signless(lower), order: order.clone() };
    let on_cursor = column(&plan, &cursor.column)?;
    let mut predicate = lower.reached_by(on_cursor.clone(), &cursor.column);
    if field.is_nullable() {
        // Rows without a cursor value are read each time: they are loaded or refused by name, never passed over in
        // silence.
        predicate = predicate.or(on_cursor.is_null());
    }
    Ok(Bounded { plan: filtered(plan, predicate)?, order, from: Some(watermark), lower: Some(lower) })
}

/// A lower bound of zero as -0: DataFusion sorts -0 below 0, databases call them equal, and both shall be read.
fn signless(bound: ScalarValue) -> ScalarValue {
    match bound {
        ScalarValue::Float32(Some(0.0)) => ScalarValue::Float32(Some(-0.0)),
        ScalarValue::Float64(Some(0.0)) => ScalarValue::Float64(Some(-0.0)),
        other => other,
    }
}

/// The order of a column's values. Fails where it is not known: what arrives may not sort as the column's own type does.
/// `what` is the column's part, such as "the cursor".
pub(super) fn order_of(what: &str, name: &str, field: &arrow::datatypes::Field) -> Result<ValueOrder> {
    ValueOrder::of(field).ok_or_else(|| {
        Error::configuration(format!(
            "{what} {name:?} is of type {}, whose order is not known here",
            field.metadata().get(NATIVE).cloned().unwrap_or_else(|| crate::types::logical_name(field))
        ))
        .with_hint(
            "use a column of a number, date, time, timestamp, uuid, text, bytes or enum type, or convert it in a \
             query: CAST(… AS DECIMAL(38, 10)), lower(…)",
        )
    })
}

/// The watermark was taken from staged rows, whose type may be wider than the source's.
fn in_type_of(watermark: &Watermark, field: &arrow::datatypes::Field, order: &ValueOrder) -> Result<ScalarValue> {
    let scalar = watermark.scalar()?;
    // An enum may have new labels, and is still the same type.
    let same_order = std::mem::discriminant(order) == std::mem::discriminant(&watermark.order)
        && (order.is_arrow() || order.key(&watermark.value).is_some());
    if same_order && scalar.data_type() == *field.data_type() {
        return Ok(scalar);
    }
    let mismatch = || {
        Error::conflict(format!(
            "the stored watermark ({watermark}) is of type {}, but the cursor is now of type {}",
            data_type_name(&watermark.data_type),
            field.metadata().get(NATIVE).cloned().unwrap_or_else(|| data_type_name(field.data_type()))
        ))
        .with_hint("run `dpone state reset` for this pipeline to load everything again")
    };
    if !same_order {
        return Err(mismatch());
    }
    if is_uuid(field) && is_string(&scalar.data_type()) {
        let bytes = crate::literal::parse(&watermark.value).ok_or_else(mismatch)?;
        return Ok(ScalarValue::FixedSizeBinary(16, Some(bytes.to_vec())));
    }
    let cast = scalar.cast_to(field.data_type()).map_err(|_| mismatch())?;
    let back = cast.cast_to(&scalar.data_type()).map_err(|_| mismatch())?;
    if back == scalar { Ok(cast) } else { Err(mismatch()) }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::with_native;
    use arrow::datatypes::{DataType, Field};

    #[test]
    fn a_cursor_without_a_known_order_is_refused_by_name() {
        let field = with_native(Field::new("c", DataType::Utf8, true), "postgres", "public.citext");
        let error = order_of("the cursor", "c", &field).unwrap_err();
        assert!(error.message().contains("public.citext") && error.hint().is_some(), "{error}");
    }

    #[test]
    fn a_watermark_of_another_order_is_refused() {
        let ordered = |order: ValueOrder| {
            let field = Field::new("c", DataType::Utf8, true);
            field.with_metadata([(crate::types::ORDER.to_owned(), order.metadata())].into())
        };
        let at = |value: &str, order: ValueOrder| {
            Watermark::new("c", &ScalarValue::Utf8(Some(value.into()))).unwrap().in_order(order)
        };
        let labels = |labels: &[&str]| ValueOrder::Labels(labels.iter().map(ToString::to_string).collect());
        let check = |watermark: Watermark, order: ValueOrder| in_type_of(&watermark, &ordered(order.clone()), &order);
        assert!(check(at("10", ValueOrder::Numeric), ValueOrder::Numeric).is_ok());
        assert!(check(at("ok", labels(&["ok"])), labels(&["new", "ok"])).is_ok());
        // A label that is gone has no place; a text that became a number was compared otherwise before.
        for wrong in [
            check(at("ok", labels(&["ok"])), labels(&["new"])),
            check(at("10", ValueOrder::Arrow), ValueOrder::Numeric),
        ] {
            assert_eq!(wrong.unwrap_err().kind(), crate::ErrorKind::Conflict);
        }
    }
}
