//! From the bytes of a row to Arrow columns: one compiled decoder a column, no allocation a value.

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray,
    ListArray, NullBufferBuilder, PrimitiveArray, StringArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field};
use dpone_planner::{Error, Result};

use super::numeric;
use crate::types::Decode;

/// Days and microseconds from Arrow's epoch, 1970, to the server's, 2000.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// Why a value cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// The bytes have not the length or form of their type: not what the column was described as.
    Length,
    NotANumber,
    Infinite,
    /// Outside what Arrow's type can say.
    Range,
    /// More digits than the declared precision.
    Precision,
    /// Digits beyond the declared scale.
    Scale,
    Midnight24,
    Dimensions,
    Encoding,
}

impl Bad {
    /// The error for a value of a column. `row` counts from one within the partition.
    pub(super) fn error(self, column: &str, data_type: &DataType, row: u64) -> Error {
        let what = match self {
            Self::Length => {
                return Error::internal(format!("column {column:?}: the server sent bytes that are not {data_type}"))
                    .with("column", column)
                    .with("row", row.to_string());
            }
            Self::NotANumber => "holds NaN",
            Self::Infinite => "holds infinity",
            Self::Range => "holds a value out of range",
            Self::Precision => "holds a number with too many digits",
            Self::Scale => "holds a number with digits beyond the scale",
            Self::Midnight24 => "holds the time 24:00:00",
            Self::Dimensions => "holds an array that has several dimensions or does not begin at index 1",
            Self::Encoding => "holds text that is not UTF-8",
        };
        let hint = match self {
            Self::Encoding => {
                "the database has the encoding SQL_ASCII, or its text is damaged: convert the column in a query"
                    .to_owned()
            }
            _ => format!(
                "declare the column as text: columns: [{{name: {column}, type: text}}] in a manifest, or read it through a \
                 native query"
            ),
        };
        Error::data_quality(format!("column {column:?} {what}, which {data_type} cannot say"))
            .with("column", column)
            .with("row", row.to_string())
            .with_hint(hint)
    }
}

/// Builds one column.
#[derive(Debug)]
pub(super) struct ColumnBuilder {
    values: Values,
    nulls: NullBufferBuilder,
    data_type: DataType,
}

#[derive(Debug)]
enum Values {
    Bool(BooleanBufferBuilder),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Oid(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal { values: Vec<i128>, scale: i32, bound: i128 },
    Date(Vec<i32>),
    Time(Vec<i64>),
    Timestamp(Vec<i64>),
    Uuid(Vec<u8>),
    Text(Variable),
    NumericText(Variable),
    Jsonb(Variable),
    Bytes(Variable),
    List { offsets: Vec<i32>, item: Box<ColumnBuilder> },
}

/// Values of any length: where each ends, and their bytes.
#[derive(Debug)]
struct Variable {
    offsets: Vec<i32>,
    data: Vec<u8>,
}

impl Variable {
    fn new(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { offsets, data: Vec::new() }
    }

    #[inline]
    fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.end();
    }

    /// A batch is cut by bytes, and the server's values end at one gigabyte: an offset cannot overflow.
    #[inline]
    fn end(&mut self) {
        self.offsets.push(self.data.len() as i32);
    }

    /// Keeps room for as much as the last batch had.
    fn take(&mut self) -> (ScalarBuffer<i32>, Buffer) {
        let (rows, bytes) = (self.offsets.len(), self.data.len());
        let offsets = std::mem::replace(&mut self.offsets, Vec::with_capacity(rows));
        let data = std::mem::replace(&mut self.data, Vec::with_capacity(bytes.min(MOST_KEPT)));
        self.offsets.push(0);
        (ScalarBuffer::from(offsets), Buffer::from_vec(data))
    }
}

/// One huge value must not make every later batch as huge.
const MOST_KEPT: usize = 1 << 20;

impl ColumnBuilder {
    pub(super) fn new(decode: &Decode, field: &Field, rows: usize) -> Result<Self> {
        let values = match decode {
            Decode::Bool => Values::Bool(BooleanBufferBuilder::new(rows)),
            Decode::Int2 => Values::Int16(Vec::with_capacity(rows)),
            Decode::Int4 | Decode::RawInt32 => Values::Int32(Vec::with_capacity(rows)),
            Decode::Int8 | Decode::RawInt64 => Values::Int64(Vec::with_capacity(rows)),
            Decode::Oid => Values::Oid(Vec::with_capacity(rows)),
            Decode::Float4 => Values::Float32(Vec::with_capacity(rows)),
            Decode::Float8 => Values::Float64(Vec::with_capacity(rows)),
            Decode::Decimal { precision, scale } => Values::Decimal {
                values: Vec::with_capacity(rows),
                scale: *scale as i32,
                bound: 10i128.checked_pow(*precision as u32).unwrap_or(i128::MAX),
            },
            Decode::Date => Values::Date(Vec::with_capacity(rows)),
            Decode::Time => Values::Time(Vec::with_capacity(rows)),
            Decode::Timestamp => Values::Timestamp(Vec::with_capacity(rows)),
            Decode::Uuid => Values::Uuid(Vec::with_capacity(rows * 16)),
            Decode::Text => Values::Text(Variable::new(rows)),
            Decode::NumericText => Values::NumericText(Variable::new(rows)),
            Decode::Jsonb => Values::Jsonb(Variable::new(rows)),
            Decode::Bytes | Decode::RawBytes => Values::Bytes(Variable::new(rows)),
            Decode::List(item) => {
                let DataType::List(item_field) = field.data_type() else {
                    return Err(Error::internal(format!("column {:?} is no list", field.name())));
                };
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                Values::List { offsets, item: Box::new(Self::new(item, item_field, rows)?) }
            }
        };
        Ok(Self { values, nulls: NullBufferBuilder::new(rows), data_type: field.data_type().clone() })
    }

    #[inline]
    pub(super) fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::Int16(values) => values.push(0),
            Values::Int32(values) | Values::Date(values) => values.push(0),
            Values::Int64(values) | Values::Oid(values) | Values::Time(values) | Values::Timestamp(values) => {
                values.push(0);
            }
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal { values, .. } => values.push(0),
            Values::Uuid(values) => values.extend_from_slice(&[0; 16]),
            Values::Text(values) | Values::NumericText(values) | Values::Jsonb(values) | Values::Bytes(values) => {
                values.end();
            }
            Values::List { offsets, item } => offsets.push(item.len() as i32),
        }
    }

    #[inline]
    pub(super) fn push(&mut self, value: &[u8]) -> Result<(), Bad> {
        match &mut self.values {
            Values::Bool(values) => values.append(fixed::<1>(value)?[0] != 0),
            Values::Int16(values) => values.push(i16::from_be_bytes(fixed(value)?)),
            Values::Int32(values) => values.push(i32::from_be_bytes(fixed(value)?)),
            Values::Int64(values) => values.push(i64::from_be_bytes(fixed(value)?)),
            Values::Oid(values) => values.push(u32::from_be_bytes(fixed(value)?) as i64),
            // The server has one NaN, whatever its sign bit; DataFusion would sort one with a sign before all numbers.
            Values::Float32(values) => values.push(match f32::from_be_bytes(fixed(value)?) {
                nan if nan.is_nan() => f32::NAN,
                number => number,
            }),
            Values::Float64(values) => values.push(match f64::from_be_bytes(fixed(value)?) {
                nan if nan.is_nan() => f64::NAN,
                number => number,
            }),
            Values::Decimal { values, scale, bound } => values.push(numeric::decimal(value, *scale, *bound)?),
            Values::Date(values) => values.push(date(value)?),
            Values::Time(values) => values.push(match i64::from_be_bytes(fixed(value)?) {
                DAY_MICROS.. => return Err(Bad::Midnight24),
                micros => micros,
            }),
            Values::Timestamp(values) => values.push(timestamp(value)?),
            Values::Uuid(values) => values.extend_from_slice(&fixed::<16>(value)?),
            Values::Text(values) | Values::Bytes(values) => values.push(value),
            Values::NumericText(values) => {
                numeric::text(value, &mut values.data)?;
                values.end();
            }
            Values::Jsonb(values) => match value {
                [1, text @ ..] => values.push(text),
                _ => return Err(Bad::Length),
            },
            Values::List { offsets, item } => {
                list(value, item)?;
                offsets.push(item.len() as i32);
            }
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    /// The rows so far as an array; the builder starts anew. On text that is not UTF-8, the number of its row in the
    /// batch, from zero.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, (Bad, usize)> {
        let nulls = self.nulls.finish();
        let built = match &mut self.values {
            Values::Bool(values) => Ok(Arc::new(BooleanArray::new(values.finish(), nulls)) as ArrayRef),
            Values::Int16(values) => Ok(primitive::<Int16Type>(values, nulls, None)),
            Values::Int32(values) => Ok(primitive::<Int32Type>(values, nulls, None)),
            Values::Int64(values) | Values::Oid(values) => Ok(primitive::<Int64Type>(values, nulls, None)),
            Values::Float32(values) => Ok(primitive::<Float32Type>(values, nulls, None)),
            Values::Float64(values) => Ok(primitive::<Float64Type>(values, nulls, None)),
            Values::Decimal { values, .. } => Ok(primitive::<Decimal128Type>(values, nulls, Some(&self.data_type))),
            Values::Date(values) => Ok(primitive::<Date32Type>(values, nulls, None)),
            Values::Time(values) => Ok(primitive::<Time64MicrosecondType>(values, nulls, None)),
            Values::Timestamp(values) => {
                Ok(primitive::<TimestampMicrosecondType>(values, nulls, Some(&self.data_type)))
            }
            Values::Uuid(values) => {
                let bytes = std::mem::replace(values, Vec::with_capacity(values.len()));
                FixedSizeBinaryArray::try_new(16, Buffer::from_vec(bytes), nulls)
                    .map(|array| Arc::new(array) as ArrayRef)
                    .map_err(|_| (Bad::Length, 0))
            }
            Values::Text(values) | Values::NumericText(values) | Values::Jsonb(values) => text(values, nulls),
            Values::Bytes(values) => {
                let (offsets, data) = values.take();
                Ok(Arc::new(BinaryArray::new(OffsetBuffer::new(offsets), data, nulls)) as ArrayRef)
            }
            Values::List { offsets, item } => {
                let ends = std::mem::replace(offsets, vec![0]);
                let items = item.finish().map_err(|(bad, at)| (bad, row_of(&ends, at)))?;
                let DataType::List(field) = &self.data_type else { return Err((Bad::Length, 0)) };
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                ListArray::try_new(Arc::clone(field), offsets, items, nulls)
                    .map(|array| Arc::new(array) as ArrayRef)
                    .map_err(|_| (Bad::Length, 0))
            }
        };
        debug_assert!(built.as_ref().map_or(true, |array| array.data_type() == &self.data_type));
        built
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
    data_type: Option<&DataType>,
) -> ArrayRef {
    let taken = std::mem::replace(values, Vec::with_capacity(values.len()));
    let array = PrimitiveArray::<T>::new(ScalarBuffer::from(taken), nulls);
    match data_type {
        Some(data_type) => Arc::new(array.with_data_type(data_type.clone())),
        None => Arc::new(array),
    }
}

/// Checks all values at once: far cheaper than one by one, and a broken value cannot hide, because every boundary
/// between values must be a boundary between characters too.
fn text(values: &mut Variable, nulls: Option<NullBuffer>) -> Result<ArrayRef, (Bad, usize)> {
    let (offsets, data) = values.take();
    let offsets = OffsetBuffer::new(offsets);
    match StringArray::try_new(offsets.clone(), data.clone(), nulls) {
        Ok(array) => Ok(Arc::new(array)),
        Err(_) => {
            let broken = offsets.windows(2).position(|ends| {
                data.get(ends[0] as usize..ends[1] as usize).is_none_or(|value| std::str::from_utf8(value).is_err())
            });
            Err((Bad::Encoding, broken.unwrap_or(0)))
        }
    }
}

/// The list that holds the item at `at`.
fn row_of(ends: &[i32], at: usize) -> usize {
    ends.partition_point(|end| *end as usize <= at).saturating_sub(1)
}

#[inline]
fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Bad> {
    value.try_into().map_err(|_| Bad::Length)
}

#[inline]
fn date(value: &[u8]) -> Result<i32, Bad> {
    match i32::from_be_bytes(fixed(value)?) {
        i32::MIN | i32::MAX => Err(Bad::Infinite),
        days => days.checked_add(EPOCH_DAYS).ok_or(Bad::Range),
    }
}

#[inline]
fn timestamp(value: &[u8]) -> Result<i64, Bad> {
    match i64::from_be_bytes(fixed(value)?) {
        i64::MIN | i64::MAX => Err(Bad::Infinite),
        micros => micros.checked_add(EPOCH_MICROS).ok_or(Bad::Range),
    }
}

/// `array_send`: dimensions, a flag for nulls, the element type, length and first index of each dimension, elements.
fn list(value: &[u8], item: &mut ColumnBuilder) -> Result<(), Bad> {
    let (header, mut rest) = value.split_first_chunk::<12>().ok_or(Bad::Length)?;
    let dimensions = i32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    match dimensions {
        0 => return Ok(()),
        1 => {}
        _ => return Err(Bad::Dimensions),
    }
    let count = int(&mut rest)?;
    if int(&mut rest)? != 1 {
        return Err(Bad::Dimensions);
    }
    for _ in 0..count {
        match int(&mut rest)? {
            -1 => item.push_null(),
            length => {
                let length = usize::try_from(length).map_err(|_| Bad::Length)?;
                let (value, tail) = rest.split_at_checked(length).ok_or(Bad::Length)?;
                item.push(value)?;
                rest = tail;
            }
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(Bad::Length) }
}

#[inline]
fn int(rest: &mut &[u8]) -> Result<i32, Bad> {
    let (bytes, tail) = rest.split_first_chunk::<4>().ok_or(Bad::Length)?;
    *rest = tail;
    Ok(i32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::AsArray;

    use super::*;

    fn builder(decode: Decode, data_type: DataType) -> ColumnBuilder {
        ColumnBuilder::new(&decode, &Field::new("c", data_type, true), 4).unwrap()
    }

    #[test]
    fn what_arrow_cannot_say_is_refused() {
        let mut dates = builder(Decode::Date, DataType::Date32);
        assert_eq!(dates.push(&i32::MAX.to_be_bytes()), Err(Bad::Infinite));
        dates.push(&0i32.to_be_bytes()).unwrap();
        assert_eq!(dates.finish().unwrap().as_primitive::<Date32Type>().value(0), 10_957);

        let mut stamps = builder(Decode::Timestamp, DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None));
        assert_eq!(stamps.push(&i64::MIN.to_be_bytes()), Err(Bad::Infinite));
        assert_eq!(stamps.push(&(i64::MAX - 1).to_be_bytes()), Err(Bad::Range));
        assert_eq!(stamps.push(&[0; 4]), Err(Bad::Length));

        let mut times = builder(Decode::Time, DataType::Time64(arrow::datatypes::TimeUnit::Microsecond));
        assert_eq!(times.push(&DAY_MICROS.to_be_bytes()), Err(Bad::Midnight24));
        times.push(&(DAY_MICROS - 1).to_be_bytes()).unwrap();
    }

    #[test]
    fn text_split_inside_a_character_is_found() {
        let mut texts = builder(Decode::Text, DataType::Utf8);
        texts.push(b"fine").unwrap();
        // Together these are one valid character; apart they are two broken values.
        texts.push(&[0xC3]).unwrap();
        texts.push(&[0xA9]).unwrap();
        assert_eq!(texts.finish().unwrap_err(), (Bad::Encoding, 1));
    }

    #[test]
    fn lists_keep_nulls_and_refuse_other_shapes() {
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let mut lists = builder(Decode::List(Box::new(Decode::Int4)), DataType::List(item));
        let array = |dimensions: &[(i32, i32)], items: &[Option<i32>]| {
            let mut out = Vec::new();
            for field in [dimensions.len() as i32, 1, 23] {
                out.extend_from_slice(&field.to_be_bytes());
            }
            for (length, first) in dimensions {
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&first.to_be_bytes());
            }
            for item in items {
                match item {
                    Some(value) => {
                        out.extend_from_slice(&4i32.to_be_bytes());
                        out.extend_from_slice(&value.to_be_bytes());
                    }
                    None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                }
            }
            out
        };
        lists.push(&array(&[(2, 1)], &[Some(7), None])).unwrap();
        lists.push_null();
        lists.push(&array(&[], &[])).unwrap();
        let built = lists.finish().unwrap();
        let built = built.as_list::<i32>();
        assert_eq!((built.len(), built.null_count(), built.value(0).len(), built.value(2).len()), (3, 1, 2, 0));
        assert!(built.value(0).is_null(1));
        assert_eq!(lists.push(&array(&[(1, 1), (1, 1)], &[Some(1)])), Err(Bad::Dimensions));
        assert_eq!(lists.push(&array(&[(1, 0)], &[Some(1)])), Err(Bad::Dimensions));
        assert_eq!(row_of(&[0, 2, 2, 5], 2), 2);
    }
}
