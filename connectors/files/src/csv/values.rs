//! From a field's bytes to a value, and from a column of fields to an Arrow array. Exact or refused: a value that the
//! type cannot hold is an error, never rounded, cut or shifted.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray, NullBufferBuilder, PrimitiveArray,
    StringArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use dpone_engine::{Error, Result};
use dpone_planner::types::{is_uuid, logical_name};

use super::records::Records;

/// Which fields are NULL.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Nulls {
    /// Unquoted text that means NULL, beside the empty field, which always does.
    pub(crate) markers: Vec<String>,
}

impl Nulls {
    /// In a text column quotes make a value of anything; elsewhere a quoted empty field cannot mean a value either.
    #[inline]
    pub(crate) fn is_null(&self, bytes: &[u8], quoted: bool, text: bool) -> bool {
        if quoted && text {
            return false;
        }
        bytes.is_empty() || self.markers.iter().any(|m| m.as_bytes() == bytes)
    }
}

/// Whether values of this type can be read from text.
pub(crate) fn can_read(field: &Field) -> bool {
    use DataType::*;
    matches!(
        field.data_type(),
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Float32
            | Float64
            | Decimal128(_, 0..)
            | Utf8
            | Binary
            | Date32
            | Time64(TimeUnit::Microsecond)
            | Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
    ) || is_uuid(field)
}

/// Parses one column of the records that are held.
pub(crate) fn column(records: &Records, index: usize, field: &Field, nulls: &Nulls) -> Result<ArrayRef> {
    let parsed = build(records, index, field, nulls);
    parsed.map_err(|row| {
        let error = records.error(
            records.line(row),
            format!("column {:?} holds a value that is not a {}", field.name(), logical_name(field)),
        );
        let error = error.with("column", field.name());
        match field.data_type() {
            DataType::Utf8 => error.with_hint("the file is not UTF-8 text: convert it, for example with iconv"),
            DataType::Timestamp(_, Some(_)) => error.with_hint(
                "a timestamptz needs an offset, such as 2013-01-01T06:00:00Z; declare the column timestamp, or text, \
                 under columns",
            ),
            _ => error.with_hint(format!(
                "declare the column under columns, such as {{name: {}, type: text}}; name what means NULL under \
                 null_values; or raise infer_rows, so that more rows are looked at",
                field.name()
            )),
        }
    })
}

/// The array, or the first row whose value does not fit.
/// A number beyond the type's range is not infinity: only what is written as infinity is.
fn float<T: std::str::FromStr + Into<f64> + Copy>(bytes: &[u8]) -> Option<T> {
    let value: T = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    let finite = value.into().is_finite() || !bytes.iter().any(u8::is_ascii_digit);
    finite.then_some(value)
}

fn build(records: &Records, index: usize, field: &Field, nulls: &Nulls) -> std::result::Result<ArrayRef, usize> {
    use DataType::*;
    let r = records;
    Ok(match field.data_type() {
        Boolean => boolean(r, index, nulls)?,
        Int8 => primitive::<Int8Type>(r, index, nulls, |b| integer(b)?.try_into().ok())?,
        Int16 => primitive::<Int16Type>(r, index, nulls, |b| integer(b)?.try_into().ok())?,
        Int32 => primitive::<Int32Type>(r, index, nulls, |b| integer(b)?.try_into().ok())?,
        Int64 => primitive::<Int64Type>(r, index, nulls, integer)?,
        UInt8 => primitive::<UInt8Type>(r, index, nulls, |b| integer(b)?.try_into().ok())?,
        UInt16 => primitive::<UInt16Type>(r, index, nulls, |b| integer(b)?.try_into().ok())?,
        UInt32 => primitive::<UInt32Type>(r, index, nulls, |b| integer(b)?.try_into().ok())?,
        UInt64 => primitive::<UInt64Type>(r, index, nulls, |b| decimal(b, 20, 0)?.try_into().ok())?,
        Float32 => primitive::<Float32Type>(r, index, nulls, float)?,
        Float64 => primitive::<Float64Type>(r, index, nulls, float)?,
        Decimal128(p, s) => {
            let array = primitive_array::<Decimal128Type>(r, index, nulls, |b| decimal(b, *p, *s))?;
            Arc::new(array.with_data_type(field.data_type().clone()))
        }
        Date32 => primitive::<Date32Type>(r, index, nulls, |b| date(b).map(|d| d as i32))?,
        Time64(_) => primitive::<Time64MicrosecondType>(r, index, nulls, |b| match clock(b)? {
            (nanos, rest) if rest.is_empty() && nanos % 1000 == 0 => Some(nanos / 1000),
            _ => None,
        })?,
        Timestamp(TimeUnit::Nanosecond, zone) => {
            let zoned = zone.is_some();
            let array = primitive_array::<TimestampNanosecondType>(r, index, nulls, |b| {
                let (seconds, nanos) = timestamp(b, zoned)?;
                seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
            })?;
            Arc::new(array.with_data_type(field.data_type().clone()))
        }
        Timestamp(_, zone) => {
            let zoned = zone.is_some();
            let array = primitive_array::<TimestampMicrosecondType>(r, index, nulls, |b| {
                let (seconds, nanos) = timestamp(b, zoned)?;
                (nanos % 1000 == 0).then_some(seconds * 1_000_000 + nanos / 1000)
            })?;
            Arc::new(array.with_data_type(field.data_type().clone()))
        }
        Utf8 => text(r, index, nulls)?,
        Binary => binary(r, index, nulls)?,
        FixedSizeBinary(16) => uuid(r, index, nulls)?,
        _ => return Err(0),
    })
}

fn primitive<T: ArrowPrimitiveType>(
    records: &Records,
    index: usize,
    nulls: &Nulls,
    parse: impl Fn(&[u8]) -> Option<T::Native>,
) -> std::result::Result<ArrayRef, usize> {
    Ok(Arc::new(primitive_array::<T>(records, index, nulls, parse)?))
}

fn primitive_array<T: ArrowPrimitiveType>(
    records: &Records,
    index: usize,
    nulls: &Nulls,
    parse: impl Fn(&[u8]) -> Option<T::Native>,
) -> std::result::Result<PrimitiveArray<T>, usize> {
    let rows = records.rows();
    let mut values = Vec::with_capacity(rows);
    let mut valid = NullBufferBuilder::new(rows);
    for row in 0..rows {
        let (bytes, quoted) = records.field(row, index);
        if nulls.is_null(bytes, quoted, false) {
            values.push(T::default_value());
            valid.append_null();
        } else {
            values.push(parse(bytes).ok_or(row)?);
            valid.append_non_null();
        }
    }
    Ok(PrimitiveArray::new(ScalarBuffer::from(values), valid.finish()))
}

fn boolean(records: &Records, index: usize, nulls: &Nulls) -> std::result::Result<ArrayRef, usize> {
    let rows = records.rows();
    let mut values = BooleanBufferBuilder::new(rows);
    let mut valid = NullBufferBuilder::new(rows);
    for row in 0..rows {
        let (bytes, quoted) = records.field(row, index);
        if nulls.is_null(bytes, quoted, false) {
            values.append(false);
            valid.append_null();
        } else {
            values.append(truth(bytes).ok_or(row)?);
            valid.append_non_null();
        }
    }
    Ok(Arc::new(BooleanArray::new(values.finish(), valid.finish())))
}

fn text(records: &Records, index: usize, nulls: &Nulls) -> std::result::Result<ArrayRef, usize> {
    let rows = records.rows();
    let mut offsets = Vec::with_capacity(rows + 1);
    offsets.push(0i32);
    let mut values: Vec<u8> = Vec::with_capacity(rows * 16);
    let mut valid = NullBufferBuilder::new(rows);
    for row in 0..rows {
        let (bytes, quoted) = records.field(row, index);
        if nulls.is_null(bytes, quoted, true) {
            valid.append_null();
        } else {
            values.extend_from_slice(bytes);
            valid.append_non_null();
        }
        // A batch is cut from one buffer of less than 2^31 bytes.
        offsets.push(values.len() as i32);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    // Validates all bytes at once, and that no character is split.
    match StringArray::try_new(offsets, Buffer::from_vec(values), valid.finish()) {
        Ok(array) => Ok(Arc::new(array)),
        Err(_) => Err((0..rows).find(|row| std::str::from_utf8(records.field(*row, index).0).is_err()).unwrap_or(0)),
    }
}

/// `\x` and hexadecimal digits.
fn binary(records: &Records, index: usize, nulls: &Nulls) -> std::result::Result<ArrayRef, usize> {
    let rows = records.rows();
    let mut offsets = Vec::with_capacity(rows + 1);
    offsets.push(0i32);
    let mut values: Vec<u8> = Vec::new();
    let mut valid = NullBufferBuilder::new(rows);
    for row in 0..rows {
        let (bytes, quoted) = records.field(row, index);
        if nulls.is_null(bytes, quoted, false) {
            valid.append_null();
        } else {
            let digits = bytes.strip_prefix(b"\\x").filter(|d| d.len().is_multiple_of(2)).ok_or(row)?;
            for pair in digits.chunks_exact(2) {
                let digit = |b: u8| (b as char).to_digit(16).ok_or(row);
                values.push((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
            }
            valid.append_non_null();
        }
        offsets.push(values.len() as i32);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(BinaryArray::new(offsets, Buffer::from_vec(values), valid.finish())))
}

fn uuid(records: &Records, index: usize, nulls: &Nulls) -> std::result::Result<ArrayRef, usize> {
    let rows = records.rows();
    let mut values: Vec<u8> = Vec::with_capacity(rows * 16);
    let mut valid = NullBufferBuilder::new(rows);
    for row in 0..rows {
        let (bytes, quoted) = records.field(row, index);
        if nulls.is_null(bytes, quoted, false) {
            values.extend_from_slice(&[0; 16]);
            valid.append_null();
        } else {
            let uuid = uuid::Uuid::try_parse_ascii(bytes).map_err(|_| row)?;
            values.extend_from_slice(uuid.as_bytes());
            valid.append_non_null();
        }
    }
    Ok(Arc::new(FixedSizeBinaryArray::new(16, Buffer::from_vec(values), valid.finish())))
}

pub(crate) fn truth(bytes: &[u8]) -> Option<bool> {
    if bytes.eq_ignore_ascii_case(b"true") || bytes.eq_ignore_ascii_case(b"t") || bytes == b"1" {
        Some(true)
    } else if bytes.eq_ignore_ascii_case(b"false") || bytes.eq_ignore_ascii_case(b"f") || bytes == b"0" {
        Some(false)
    } else {
        None
    }
}

/// An integer of at most 64 bits, with an optional sign.
pub(crate) fn integer(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return None;
    }
    // Counted downwards: the least i64 has no positive counterpart.
    let mut value = 0i64;
    if digits.len() <= 18 {
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 - i64::from(digit);
        }
    } else {
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
        }
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// A decimal number as its unscaled value; digits that the scale has no room for must be zeros.
pub(crate) fn decimal(bytes: &[u8], precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (whole, fraction) = match memchr::memchr(b'.', digits) {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = usize::try_from(scale).ok()?;
    let mut value = 0i128;
    for position in 0..whole.len() + scale.max(fraction.len()) {
        let byte = match position.checked_sub(whole.len()) {
            None => whole[position],
            Some(at) => fraction.get(at).copied().unwrap_or(b'0'),
        };
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        if position < whole.len() + scale {
            value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
        } else if digit != 0 {
            return None;
        }
    }
    let limit = 10i128.checked_pow(u32::from(precision))?;
    if value >= limit {
        return None;
    }
    Some(if negative { -value } else { value })
}

#[inline]
fn two(bytes: &[u8]) -> Option<i64> {
    let (a, b) = (bytes[0].wrapping_sub(b'0'), bytes[1].wrapping_sub(b'0'));
    (a <= 9 && b <= 9).then_some(i64::from(a) * 10 + i64::from(b))
}

/// Days since 1970-01-01 of `YYYY-MM-DD`. Years outside of 1 to 9999 are written with a sign and four digits or more, as
/// in ISO 8601: `-0043-03-15` is in the year 44 BC, `+0000-06-01` in 1 BC.
pub(crate) fn date(bytes: &[u8]) -> Option<i64> {
    let (year, rest) = match bytes {
        [b'+' | b'-', digits @ ..] => {
            let length = digits.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(4..=7).contains(&length) {
                return None;
            }
            let year = digits[..length].iter().fold(0, |year, digit| year * 10 + i64::from(digit - b'0'));
            (if bytes[0] == b'-' { -year } else { year }, &digits[length..])
        }
        [_, _, _, _, rest @ ..] => match two(bytes)? * 100 + two(&bytes[2..])? {
            0 => return None,
            year => (year, rest),
        },
        _ => return None,
    };
    if rest.len() != 6 || rest[0] != b'-' || rest[3] != b'-' {
        return None;
    }
    let (month, day) = (two(&rest[1..])?, two(&rest[4..])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if day == 0 || day > last {
        return None;
    }
    // Years begin in March here, so that the leap day is the last one of a year.
    let y = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// `HH:MM[:SS[.fraction]]` as nanoseconds of the day, and what follows.
fn clock(bytes: &[u8]) -> Option<(i64, &[u8])> {
    if bytes.len() < 5 || bytes[2] != b':' {
        return None;
    }
    let (hour, minute) = (two(bytes)?, two(&bytes[3..])?);
    let mut rest = &bytes[5..];
    let mut second = 0;
    let mut nanos = 0i64;
    if rest.first() == Some(&b':') {
        if rest.len() < 3 {
            return None;
        }
        second = two(&rest[1..])?;
        rest = &rest[3..];
        if rest.first() == Some(&b'.') {
            let digits = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 || digits > 9 {
                return None;
            }
            for byte in &rest[1..=digits] {
                nanos = nanos * 10 + i64::from(byte - b'0');
            }
            nanos *= 10i64.pow(9 - digits as u32);
            rest = &rest[1 + digits..];
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(((hour * 3600 + minute * 60 + second) * 1_000_000_000 + nanos, rest))
}

/// Seconds since the epoch and nanoseconds of a timestamp, which has an offset exactly when `zoned`.
pub(crate) fn timestamp(bytes: &[u8], zoned: bool) -> Option<(i64, i64)> {
    let is_gap = |byte: &u8| matches!(byte, b'T' | b't' | b' ');
    let gap = match bytes {
        [b'+' | b'-', ..] => bytes.iter().position(is_gap)?,
        _ => 10,
    };
    if bytes.len() < gap + 6 || !is_gap(&bytes[gap]) {
        return None;
    }
    let days = date(&bytes[..gap])?;
    let (nanos, rest) = clock(&bytes[gap + 1..])?;
    let shift = match (zoned, rest) {
        (false, []) => 0,
        (true, [b'Z' | b'z']) => 0,
        (true, [sign @ (b'+' | b'-'), digits @ ..]) => {
            let (hours, minutes) = match digits.len() {
                2 => (two(digits)?, 0),
                4 => (two(digits)?, two(&digits[2..])?),
                5 if digits[2] == b':' => (two(digits)?, two(&digits[3..])?),
                _ => return None,
            };
            if hours > 18 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'+' { -seconds } else { seconds }
        }
        _ => return None,
    };
    Some((days * 86_400 + nanos / 1_000_000_000 + shift, nanos % 1_000_000_000))
}

/// Reads a declared type, and says where it cannot be read from CSV.
pub(crate) fn declared(column: &str, name: &str) -> Result<Field> {
    let field = dpone_planner::types::parse_logical(column, name)?;
    if can_read(&field) {
        return Ok(field);
    }
    Err(Error::configuration(format!("column {column:?}: a {} cannot be read from CSV", logical_name(&field)))
        .with_hint("declare it text, and convert it in a query"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn integers_to_the_edge() {
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(integer(b"9223372036854775808"), None);
        for bad in ["", "-", "1.0", " 1", "1e3", "0x1", "١"] {
            assert_eq!(integer(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(decimal(b"-12.340", 5, 2), Some(-1234));
        assert_eq!(decimal(b".5", 3, 1), Some(5));
        assert_eq!(decimal(b"5.", 3, 1), Some(50));
        assert_eq!(decimal(b"12.345", 5, 2), None);
        assert_eq!(decimal(b"1000.00", 5, 2), None);
        assert_eq!(decimal(b".", 5, 2), None);
        assert_eq!(decimal(b"99999999999999999999999999999999999999", 38, 0), Some(10i128.pow(38) - 1));
        assert_eq!(decimal(b"100000000000000000000000000000000000000", 38, 0), None);
    }

    #[test]
    fn dates_agree_with_chrono() {
        use chrono::Datelike;
        let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap().num_days_from_ce();
        for day in (1..3_652_059).step_by(11) {
            let text = chrono::NaiveDate::from_num_days_from_ce_opt(day).unwrap().format("%Y-%m-%d").to_string();
            assert_eq!(date(text.as_bytes()), Some(i64::from(day - epoch)), "{text}");
        }
        for bad in ["2013-02-29", "0000-01-01", "2013-13-01", "2013-00-10", "2013-1-1", "20130101", "2013/01/01"] {
            assert_eq!(date(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn years_before_christ_and_beyond_9999_have_a_sign() {
        let days = |y, m, d| {
            chrono::NaiveDate::from_ymd_opt(y, m, d)
                .unwrap()
                .signed_duration_since(chrono::NaiveDate::default())
                .num_days()
        };
        assert_eq!(date(b"-0043-03-15"), Some(days(-43, 3, 15)));
        assert_eq!(date(b"+0000-02-29"), Some(days(0, 2, 29)));
        assert_eq!(date(b"-4713-11-24"), Some(days(-4713, 11, 24)));
        assert_eq!(date(b"+12345-12-31"), Some(days(12345, 12, 31)));
        assert_eq!(timestamp(b"-0043-03-15T12:00:00Z", true), Some((days(-43, 3, 15) * 86_400 + 43_200, 0)));
        for bad in ["0000-01-01", "-43-03-15", "-0043-02-29", "+12345678-01-01", "--0043-01-01", "-0043"] {
            assert_eq!(date(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_with_and_without_offset() {
        let noon = 1_356_998_400 + 12 * 3600;
        assert_eq!(timestamp(b"2013-01-01T12:00:00", false), Some((noon, 0)));
        assert_eq!(timestamp(b"2013-01-01 12:00", false), Some((noon, 0)));
        assert_eq!(timestamp(b"2013-01-01 12:00:00.000001", false), Some((noon, 1000)));
        assert_eq!(timestamp(b"2013-01-01T12:00:00Z", true), Some((noon, 0)));
        assert_eq!(timestamp(b"2013-01-01T14:00:00+02:00", true), Some((noon, 0)));
        assert_eq!(timestamp(b"2013-01-01T06:30:00-0530", true), Some((noon, 0)));
        assert_eq!(timestamp(b"2013-01-01T12:00:00", true), None);
        assert_eq!(timestamp(b"2013-01-01T12:00:00Z", false), None);
        assert_eq!(timestamp(b"2013-01-01T24:00:00", false), None);
        assert_eq!(timestamp(b"1969-12-31T23:59:59.5", false), Some((-1, 500_000_000)));
    }

    #[test]
    fn a_number_beyond_the_range_is_not_infinity() {
        assert_eq!(float::<f64>(b"1.5e3"), Some(1500.0));
        assert_eq!(float::<f64>(b"-Infinity"), Some(f64::NEG_INFINITY));
        assert_eq!(float::<f64>(b"1e400"), None);
        assert_eq!(float::<f32>(b"1e39"), None);
    }
}
