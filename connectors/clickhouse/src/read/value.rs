//! Literals as the server writes them: quoted or as numbers, whatever they hold, and exact.

use arrow::datatypes::i256;
use chrono::{Days, NaiveDate};
use datafusion::common::ScalarValue;
use dpone_planner::literal::{bytes_of, text_of};
use dpone_planner::state::hex;

use crate::types::literal as quote_text;

/// What a column can be compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Bool,
    /// Up to 64 bits: the server compares them by their values, whatever their types.
    Integer,
    /// 128 bits.
    Wide {
        signed: bool,
    },
    Decimal {
        precision: u8,
        scale: i8,
    },
    Float {
        bits: u8,
    },
    Text,
    /// Equality by labels.
    Enum,
    Bytes,
    /// Bytes of one length, with their zeros.
    Fixed {
        length: u32,
    },
    /// Equality of whole values.
    Uuid,
    Date {
        short: bool,
    },
    /// `DateTime`.
    Seconds,
    Micros,
    Nanos,
}

/// The value as the server writes it, or `None` where it has no such value of the class.
pub(super) fn value_of(class: Class, value: &ScalarValue) -> Option<String> {
    match class {
        Class::Bool => match value {
            ScalarValue::Boolean(Some(value)) => Some(value.to_string()),
            _ => None,
        },
        Class::Integer => {
            let number = integer(value)?;
            (i128::from(i64::MIN) <= number && number <= i128::from(u64::MAX)).then(|| number.to_string())
        }
        Class::Wide { signed } => {
            let ScalarValue::Decimal256(Some(value), _, 0) = value else { return None };
            let (least, most) = match signed {
                true => (i256::from_i128(i128::MIN), i256::from_i128(i128::MAX)),
                false => (i256::ZERO, i256::from_parts(u128::MAX, 0)),
            };
            let of = if signed { "toInt128" } else { "toUInt128" };
            (least <= *value && *value <= most).then(|| format!("{of}('{value}')"))
        }
        Class::Decimal { precision, scale } => decimal(value, precision, scale),
        Class::Float { bits } => float(value, bits),
        Class::Text | Class::Enum => text_of(value).map(quote_text),
        Class::Bytes => bytes_of(value).map(|bytes| format!("unhex('{}')", hex(bytes))),
        // Beside a text the server overlooks zeros at the end.
        Class::Fixed { length } => {
            let bytes = bytes_of(value).filter(|bytes| bytes.len() == length as usize)?;
            Some(format!("toFixedString(unhex('{}'), {length})", hex(bytes)))
        }
        Class::Uuid => {
            let hex = hex(bytes_of(value).filter(|bytes| bytes.len() == 16)?);
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            Some(format!("toUUID('{}')", parts.join("-")))
        }
        Class::Date { short } => date(value, short),
        Class::Seconds => seconds(value).or_else(|| micros(value)),
        Class::Micros => micros(value),
        Class::Nanos => match value {
            ScalarValue::TimestampNanosecond(Some(nanos), _) => {
                Some(format!("fromUnixTimestamp64Nano(toInt64({nanos}))"))
            }
            _ => None,
        },
    }
}

pub(super) fn integer(value: &ScalarValue) -> Option<i128> {
    use ScalarValue::*;
    Some(match value {
        Int8(Some(v)) => i128::from(*v),
        Int16(Some(v)) => i128::from(*v),
        Int32(Some(v)) => i128::from(*v),
        Int64(Some(v)) => i128::from(*v),
        UInt8(Some(v)) => i128::from(*v),
        UInt16(Some(v)) => i128::from(*v),
        UInt32(Some(v)) => i128::from(*v),
        UInt64(Some(v)) => i128::from(*v),
        _ => return None,
    })
}

/// Of the column's own type: another scale could overflow on the way.
fn decimal(value: &ScalarValue, precision: u8, scale: i8) -> Option<String> {
    let ScalarValue::Decimal128(Some(value), _, found) = value else { return None };
    let limit = 10_u128.checked_pow(u32::from(precision))?;
    if *found != scale || value.unsigned_abs() >= limit {
        return None;
    }
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    let sign = if *value < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("CAST('{sign}{whole}{point}{fraction}' AS Decimal({precision}, {scale}))"))
}

/// By its bits: the server reads numbers with a point quickly, and not always to the last digit. Zeros are left alone:
/// there are two of them.
fn float(value: &ScalarValue, bits: u8) -> Option<String> {
    match value {
        ScalarValue::Float32(Some(v)) if bits == 32 && !v.is_nan() && *v != 0.0 => {
            Some(format!("reinterpretAsFloat32(toUInt32({}))", v.to_bits()))
        }
        ScalarValue::Float64(Some(v)) if bits == 64 && !v.is_nan() && *v != 0.0 => {
            Some(format!("reinterpretAsFloat64(toUInt64({}))", v.to_bits()))
        }
        _ => None,
    }
}

/// Within what the server's dates hold.
fn date(value: &ScalarValue, short: bool) -> Option<String> {
    let ScalarValue::Date32(Some(days)) = value else { return None };
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
    let date = if *days >= 0 {
        epoch.checked_add_days(Days::new(*days as u64))?
    } else {
        epoch.checked_sub_days(Days::new(days.unsigned_abs().into()))?
    };
    if short && (0..=65_535).contains(days) {
        return Some(format!("toDate('{date}')"));
    }
    let first = NaiveDate::from_ymd_opt(1900, 1, 1)?;
    let last = NaiveDate::from_ymd_opt(2299, 12, 31)?;
    (first <= date && date <= last).then(|| format!("toDate32('{date}')"))
}

/// Of a `DateTime`, where it has the value: in a list, and beside an index of equal values, the server takes no other type.
pub(super) fn seconds(value: &ScalarValue) -> Option<String> {
    let micros = since_1970(value)?;
    let seconds = u32::try_from(micros / 1_000_000).ok().filter(|_| micros >= 0 && micros % 1_000_000 == 0)?;
    Some(format!("toDateTime({seconds})"))
}

/// Between 1900 and 2299, as the server's own.
fn micros(value: &ScalarValue) -> Option<String> {
    let micros = since_1970(value)?;
    let seconds = micros.div_euclid(1_000_000);
    (-2_208_988_800..10_413_792_000).contains(&seconds).then(|| format!("fromUnixTimestamp64Micro(toInt64({micros}))"))
}

fn since_1970(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampSecond(Some(v), _) => v.checked_mul(1_000_000),
        ScalarValue::TimestampMillisecond(Some(v), _) => v.checked_mul(1_000),
        ScalarValue::TimestampMicrosecond(Some(v), _) => Some(*v),
        _ => None,
    }
}
