//! Arrow arrays to `COPY … (FORMAT binary)` tuples.
//!
//! A [`RowEncoder`] is compiled once per stream from the staged fields and the types that the catalog gives for the
//! columns that are copied into. For each batch, [`RowEncoder::bind`] checks every value whose Arrow form is wider than
//! the server's (infinities, NUL bytes, lost fractions), column by column; the tuple loop that follows cannot fail and
//! only appends.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, BooleanArray, Decimal128Array, Decimal256Array, PrimitiveArray, RecordBatch};
use arrow::array::{BinaryArray, FixedSizeBinaryArray, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, DurationMicrosecondType, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt32Type,
};
use dpone_engine::{Error, Result};
use dpone_planner::types::{is_raw, logical_name, widens};

use super::numeric;

/// Days and microseconds between 1970-01-01 and 2000-01-01, the server's epoch.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// What the server accepts, in its own epoch, see `datatype/timestamp.h`: the ends are exclusive.
const DATES: std::ops::Range<i32> = -2_451_545..2_145_031_949;
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// What precedes the tuples: signature, flags, no extension.
pub(crate) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub(crate) const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// The type of a column as the wire knows it: domains are resolved to their base type.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct WireType {
    /// As `format_type` writes the declared type.
    pub(crate) sql: String,
    /// As `format_type` writes the base type; the same where there is no domain.
    pub(crate) base_sql: String,
    /// The base type without its modifier: what text is cast to. A cast to a modified type would cut and round in
    /// silence; the assignment that follows refuses.
    pub(crate) cast_sql: String,
    /// Name of the base type's receive function: it defines the binary form whatever the type is called.
    pub(crate) receive: String,
    pub(crate) typmod: i32,
    pub(crate) element: Option<ElementType>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ElementType {
    pub(crate) oid: u32,
    pub(crate) receive: String,
}

/// How one column's values become bytes, with the Arrow type that the loop reads.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Null,
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Decimal {
        scale: u8,
    },
    Decimal256 {
        scale: u8,
    },
    NumericText,
    Text,
    Jsonb,
    Bytes,
    FixedBytes,
    Date,
    /// Microseconds; `step` is what a narrower typmod leaves: values between steps would be rounded.
    Time {
        step: i64,
    },
    Timestamp {
        step: i64,
    },
    Interval,
    Duration,
    Raw4,
    Raw8,
    List {
        oid: u32,
        element: Box<Kind>,
    },
}

#[derive(Debug)]
struct Column {
    name: String,
    index: usize,
    /// Cast to this Arrow type first: an exact widening, checked value by value.
    reads: DataType,
    kind: Kind,
}

/// The compiled encoder of one stream.
#[derive(Debug)]
pub(crate) struct RowEncoder {
    columns: Vec<Column>,
}

/// The arrays of one batch, checked and ready to be written.
pub(crate) struct Bound<'a> {
    columns: Vec<BoundColumn<'a>>,
    rows: usize,
}

impl RowEncoder {
    /// `columns`: index of the staged field, the field, and the type of the column it is copied into; in the order of
    /// the COPY column list.
    pub(crate) fn compile<'a>(columns: impl IntoIterator<Item = (usize, &'a Field, &'a WireType)>) -> Result<Self> {
        let columns = columns
            .into_iter()
            .map(|(index, field, target)| {
                let (reads, kind) = compile(field, target)?;
                Ok(Column { name: field.name().clone(), index, reads, kind })
            })
            .collect::<Result<_>>()?;
        Ok(Self { columns })
    }

    /// Checks the batch. `first_row` counts the rows of the stream before it, for messages.
    pub(crate) fn bind<'a>(
        &self,
        batch: &'a RecordBatch,
        first_row: u64,
        kept: &'a mut Vec<ArrayRef>,
    ) -> Result<Bound<'a>> {
        let rows = batch.num_rows();
        kept.clear();
        for column in &self.columns {
            let array = batch.column(column.index);
            kept.push(if *array.data_type() == column.reads {
                Arc::clone(array)
            } else {
                let checked = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(array, &column.reads, &checked)
                    .map_err(|e| Error::from(e).with("column", &column.name))?
            });
        }
        let columns = self
            .columns
            .iter()
            .zip(kept.iter())
            .map(|(column, array)| {
                BoundColumn::new(&column.kind, array).map_err(|bad| bad.into_error(&column.name, first_row))
            })
            .collect::<Result<_>>()?;
        Ok(Bound { columns, rows })
    }
}

impl Bound<'_> {
    /// Appends tuples from row `from` until `out` holds `limit` bytes; returns the next row to write.
    pub(crate) fn write(&self, from: usize, out: &mut Vec<u8>, limit: usize) -> usize {
        let count = (self.columns.len() as i16).to_be_bytes();
        for row in from..self.rows {
            if out.len() >= limit {
                return row;
            }
            out.extend_from_slice(&count);
            for column in &self.columns {
                column.put(row, out);
            }
        }
        self.rows
    }
}

/// Whether a staged field can be copied into a column of this type directly.
pub(crate) fn encodes(field: &Field, target: &WireType) -> bool {
    compile(field, target).is_ok()
}

fn compile(field: &Field, target: &WireType) -> Result<(DataType, Kind)> {
    if is_raw(field) { compile_raw(field, target) } else { compile_portable(field, target) }.ok_or_else(|| {
        Error::configuration(format!(
            "column {:?}: {} cannot be copied into {} without a conversion",
            field.name(),
            if is_raw(field) { "PostgreSQL's own representation".to_owned() } else { logical_name(field) },
            target.sql
        ))
        .with_hint("give the target's column a type that holds the source's values, or cast the column in a query")
        .with("column", field.name())
    })
}

/// Raw values are the type's own wire form: only the very same type may receive them.
fn compile_raw(field: &Field, target: &WireType) -> Option<(DataType, Kind)> {
    let native = field.metadata().get(dpone_planner::types::NATIVE)?;
    let base = field.metadata().get(crate::types::BASE).unwrap_or(native);
    let same = [&target.sql, &target.base_sql].iter().any(|sql| **sql == *native || **sql == *base);
    // An unconstrained column takes the values of any constrained one.
    let unconstrained = target.typmod == -1 && without_typmod(base) == without_typmod(&target.base_sql);
    if !same && !unconstrained {
        return None;
    }
    match field.data_type() {
        DataType::Int32 => Some((DataType::Int32, Kind::Raw4)),
        DataType::Int64 => Some((DataType::Int64, Kind::Raw8)),
        DataType::Binary => Some((DataType::Binary, Kind::Bytes)),
        _ => None,
    }
}

/// `numeric(10,2)[]` is `numeric[]` without its modifier; the text between parentheses is all that goes.
fn without_typmod(sql: &str) -> String {
    match (sql.find('('), sql.find(')')) {
        (Some(open), Some(close)) if open < close && !sql.starts_with('"') => {
            format!("{}{}", &sql[..open], &sql[close + 1..])
        }
        _ => sql.to_owned(),
    }
}

fn compile_portable(field: &Field, target: &WireType) -> Option<(DataType, Kind)> {
    let data_type = match field.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    if *data_type == DataType::Null {
        return Some((DataType::Null, Kind::Null));
    }
    if target.receive == "array_recv" {
        let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) = data_type else {
            return None;
        };
        let element = target.element.as_ref()?;
        let (reads, kind) = scalar(item.data_type(), &element.receive, target.typmod)?;
        let item = Arc::new(Field::new("item", reads, true));
        return Some((DataType::List(item), Kind::List { oid: element.oid, element: Box::new(kind) }));
    }
    scalar(data_type, &target.receive, target.typmod)
}

/// The encoder of one value: from an Arrow type to the binary form that a receive function reads.
fn scalar(from: &DataType, receive: &str, typmod: i32) -> Option<(DataType, Kind)> {
    use DataType as D;
    let exact = |to: DataType, kind: Kind| widens(from, &to).then_some((to, kind));
    match receive {
        "boolrecv" => exact(D::Boolean, Kind::Bool),
        "int2recv" => exact(D::Int16, Kind::Int2),
        "int4recv" => exact(D::Int32, Kind::Int4),
        "int8recv" => exact(D::Int64, Kind::Int8),
        "oidrecv" => matches!(from, D::Int64 | D::UInt32).then_some((D::UInt32, Kind::Oid)),
        "float4recv" => exact(D::Float32, Kind::Float4),
        "float8recv" => exact(D::Float64, Kind::Float8),
        "numeric_recv" => numeric_kind(from, typmod),
        "textrecv" | "varcharrecv" | "bpcharrecv" | "namerecv" | "citextrecv" | "enum_recv" | "json_recv" => {
            exact(D::Utf8, Kind::Text)
        }
        "jsonb_recv" => exact(D::Utf8, Kind::Jsonb),
        "bytearecv" => match from {
            D::FixedSizeBinary(_) => Some((from.clone(), Kind::FixedBytes)),
            _ => exact(D::Binary, Kind::Bytes),
        },
        "uuid_recv" => (*from == D::FixedSizeBinary(16)).then(|| (from.clone(), Kind::FixedBytes)),
        "date_recv" => matches!(from, D::Date32 | D::Date64).then_some((D::Date32, Kind::Date)),
        "time_recv" => exact(D::Time64(TimeUnit::Microsecond), Kind::Time { step: step(typmod) }),
        "timestamp_recv" => match from {
            D::Timestamp(_, None) => {
                exact(D::Timestamp(TimeUnit::Microsecond, None), Kind::Timestamp { step: step(typmod) })
            }
            _ => None,
        },
        // An instant is the same number in every zone: keep the zone's name, so that no cast touches the ticks.
        "timestamptz_recv" => match from {
            D::Timestamp(_, Some(zone)) => exact(
                D::Timestamp(TimeUnit::Microsecond, Some(Arc::clone(zone))),
                Kind::Timestamp { step: step(typmod) },
            ),
            _ => None,
        },
        "interval_recv" if typmod == -1 => match from {
            D::Interval(IntervalUnit::MonthDayNano) => Some((from.clone(), Kind::Interval)),
            D::Duration(_) => Some((D::Duration(TimeUnit::Microsecond), Kind::Duration)),
            _ => None,
        },
        _ => None,
    }
}

/// A narrower column would round: its modifier must leave room for the decimal's digits.
fn numeric_kind(from: &DataType, typmod: i32) -> Option<(DataType, Kind)> {
    use DataType as D;
    let integer = match from {
        D::Int8 | D::UInt8 | D::Int16 => Some(5),
        D::UInt16 | D::Int32 | D::UInt32 => Some(10),
        D::Int64 => Some(19),
        D::UInt64 => Some(20),
        _ => None,
    };
    let (precision, scale) = match from {
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => (*p, *s),
        D::Utf8 | D::LargeUtf8 | D::Utf8View => return Some((D::Utf8, Kind::NumericText)),
        _ => (integer?, 0),
    };
    let unsigned_scale = u8::try_from(scale).ok()?;
    if typmod >= 0 {
        let (p, s) = numeric_typmod(typmod);
        if s < i32::from(scale) || p - s < i32::from(precision) - i32::from(scale) {
            // An integer type's digits overstate it: int4 has ten, of which numeric(9) holds almost all. The server
            // refuses what does not fit, so integers may try; decimals could be rounded, so they may not.
            integer.filter(|_| s >= 0)?;
        }
    }
    Some(match from {
        D::Decimal256(..) => (D::Decimal256(precision, scale), Kind::Decimal256 { scale: unsigned_scale }),
        _ => (D::Decimal128(precision, scale), Kind::Decimal { scale: unsigned_scale }),
    })
}

/// Precision and scale of a numeric's type modifier; the scale has 11 bits, signed, since server 15.
fn numeric_typmod(typmod: i32) -> (i32, i32) {
    let value = typmod - 4;
    ((value >> 16) & 0xffff, ((value & 0x7ff) ^ 1024) - 1024)
}

fn step(typmod: i32) -> i64 {
    if (0..6).contains(&typmod) { 10i64.pow(6 - typmod as u32) } else { 1 }
}

/// A value that the server has no form for: which row of the batch, and why.
struct Bad {
    row: usize,
    what: &'static str,
    hint: &'static str,
}

impl Bad {
    fn into_error(self, column: &str, first_row: u64) -> Error {
        let row = first_row + self.row as u64 + 1;
        Error::data_quality(format!("column {column:?}, row {row} of its partition: {}", self.what))
            .with_hint(self.hint)
            .with("column", column)
            .with("row", row.to_string())
    }
}

enum Values<'a> {
    Null,
    Bool(&'a BooleanArray),
    Two(&'a [i16]),
    Four(&'a [i32]),
    Eight(&'a [i64]),
    Oid(&'a [u32]),
    F4(&'a [f32]),
    F8(&'a [f64]),
    Decimal(&'a Decimal128Array, u8),
    Decimal256(&'a Decimal256Array, u8),
    NumericText(&'a StringArray),
    Text(&'a [i32], &'a [u8]),
    Jsonb(&'a [i32], &'a [u8]),
    Fixed(&'a FixedSizeBinaryArray),
    /// Days or microseconds, moved to the server's epoch while they are written.
    Date(&'a [i32]),
    Timestamp(&'a [i64]),
    Interval(&'a PrimitiveArray<IntervalMonthDayNanoType>),
    Duration(&'a [i64]),
    List {
        offsets: &'a OffsetBuffer<i32>,
        oid: u32,
        element: Box<BoundColumn<'a>>,
    },
}

struct BoundColumn<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

impl<'a> BoundColumn<'a> {
    fn new(kind: &Kind, array: &'a ArrayRef) -> std::result::Result<Self, Bad> {
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        let values = match kind {
            Kind::Null => Values::Null,
            Kind::Bool => Values::Bool(array.as_boolean()),
            Kind::Int2 => Values::Two(array.as_primitive::<Int16Type>().values()),
            Kind::Int4 | Kind::Raw4 => Values::Four(array.as_primitive::<Int32Type>().values()),
            Kind::Int8 | Kind::Raw8 => Values::Eight(array.as_primitive::<Int64Type>().values()),
            Kind::Oid => Values::Oid(array.as_primitive::<UInt32Type>().values()),
            Kind::Float4 => Values::F4(array.as_primitive::<Float32Type>().values()),
            Kind::Float8 => Values::F8(array.as_primitive::<Float64Type>().values()),
            Kind::Decimal { scale } => Values::Decimal(array.as_primitive(), *scale),
            Kind::Decimal256 { scale } => Values::Decimal256(array.as_primitive(), *scale),
            Kind::NumericText => numeric_text(array.as_string())?,
            Kind::Text => text(array.as_string())?,
            Kind::Jsonb => match text(array.as_string())? {
                Values::Text(offsets, bytes) => Values::Jsonb(offsets, bytes),
                other => other,
            },
            Kind::Bytes => {
                let array: &BinaryArray = array.as_binary();
                Values::Text(array.value_offsets(), array.value_data())
            }
            Kind::FixedBytes => Values::Fixed(array.as_fixed_size_binary()),
            Kind::Date => dates(array.as_primitive::<Date32Type>())?,
            Kind::Time { step } => times(array.as_primitive::<Time64MicrosecondType>(), *step)?,
            Kind::Timestamp { step } => timestamps(array.as_primitive::<TimestampMicrosecondType>(), *step)?,
            Kind::Interval => intervals(array.as_primitive())?,
            Kind::Duration => Values::Duration(array.as_primitive::<DurationMicrosecondType>().values()),
            Kind::List { oid, element } => {
                let list = array.as_list::<i32>();
                // A bad element's row is the list that holds it.
                let element = BoundColumn::new(element, list.values()).map_err(|bad| Bad {
                    row: list.value_offsets().partition_point(|o| *o as usize <= bad.row).saturating_sub(1),
                    ..bad
                })?;
                Values::List { offsets: list.offsets(), oid: *oid, element: Box::new(element) }
            }
        };
        Ok(Self { nulls, values })
    }

    #[inline]
    fn put(&self, row: usize, out: &mut Vec<u8>) {
        const NULL: [u8; 4] = (-1i32).to_be_bytes();
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(&NULL);
            return;
        }
        match &self.values {
            Values::Null => out.extend_from_slice(&NULL),
            Values::Bool(values) => out.extend_from_slice(&[0, 0, 0, 1, u8::from(values.value(row))]),
            Values::Two(values) => put_two(out, values[row]),
            Values::Four(values) => put_four(out, values[row].to_be_bytes()),
            Values::Eight(values) => put_eight(out, values[row].to_be_bytes()),
            Values::Oid(values) => put_four(out, values[row].to_be_bytes()),
            Values::F4(values) => put_four(out, values[row].to_bits().to_be_bytes()),
            Values::F8(values) => put_eight(out, values[row].to_bits().to_be_bytes()),
            Values::Decimal(values, scale) => numeric::put_decimal(out, values.value(row), *scale),
            Values::Decimal256(values, scale) => numeric::put_decimal256(out, values.value(row), *scale),
            Values::NumericText(values) => numeric::put_text(out, values.value(row)),
            Values::Text(offsets, bytes) => {
                let value = &bytes[offsets[row] as usize..offsets[row + 1] as usize];
                out.extend_from_slice(&(value.len() as i32).to_be_bytes());
                out.extend_from_slice(value);
            }
            Values::Jsonb(offsets, bytes) => {
                let value = &bytes[offsets[row] as usize..offsets[row + 1] as usize];
                out.extend_from_slice(&(value.len() as i32 + 1).to_be_bytes());
                out.push(1);
                out.extend_from_slice(value);
            }
            Values::Fixed(values) => {
                let value = values.value(row);
                out.extend_from_slice(&(value.len() as i32).to_be_bytes());
                out.extend_from_slice(value);
            }
            Values::Date(values) => put_four(out, (values[row] - EPOCH_DAYS).to_be_bytes()),
            Values::Timestamp(values) => put_eight(out, (values[row] - EPOCH_MICROS).to_be_bytes()),
            Values::Interval(values) => {
                let value = values.value(row);
                put_interval(out, value.nanoseconds / 1000, value.days, value.months);
            }
            Values::Duration(values) => put_interval(out, values[row], 0, 0),
            Values::List { offsets, oid, element } => put_list(out, offsets, row, *oid, element),
        }
    }
}

#[inline]
fn put_two(out: &mut Vec<u8>, value: i16) {
    let [a, b] = value.to_be_bytes();
    out.extend_from_slice(&[0, 0, 0, 2, a, b]);
}

#[inline]
fn put_four(out: &mut Vec<u8>, v: [u8; 4]) {
    out.extend_from_slice(&[0, 0, 0, 4, v[0], v[1], v[2], v[3]]);
}

#[inline]
fn put_eight(out: &mut Vec<u8>, v: [u8; 8]) {
    out.extend_from_slice(&[0, 0, 0, 8, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]]);
}

fn put_interval(out: &mut Vec<u8>, micros: i64, days: i32, months: i32) {
    out.extend_from_slice(&16i32.to_be_bytes());
    out.extend_from_slice(&micros.to_be_bytes());
    out.extend_from_slice(&days.to_be_bytes());
    out.extend_from_slice(&months.to_be_bytes());
}

fn put_list(out: &mut Vec<u8>, offsets: &OffsetBuffer<i32>, row: usize, oid: u32, element: &BoundColumn<'_>) {
    let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let has_null = element.nulls.is_some_and(|n| (from..to).any(|i| n.is_null(i)));
    // An empty array has no dimension at all.
    out.extend_from_slice(&i32::from(to > from).to_be_bytes());
    out.extend_from_slice(&i32::from(has_null).to_be_bytes());
    out.extend_from_slice(&oid.to_be_bytes());
    if to > from {
        out.extend_from_slice(&((to - from) as i32).to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
    }
    for i in from..to {
        element.put(i, out);
    }
    let length = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// The first row that is not NULL and for which `bad` holds.
fn first_bad<T: Copy>(values: &[T], nulls: Option<&NullBuffer>, bad: impl Fn(T) -> bool) -> Option<usize> {
    // The common case reads the slots of NULLs too and branches once.
    if !values.iter().any(|v| bad(*v)) {
        return None;
    }
    (0..values.len()).find(|i| bad(values[*i]) && !nulls.is_some_and(|n| n.is_null(*i)))
}

fn text(array: &StringArray) -> std::result::Result<Values<'_>, Bad> {
    let (offsets, bytes) = (array.value_offsets(), array.value_data());
    let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else {
        return Ok(Values::Text(offsets, bytes));
    };
    let mut at = *first as usize;
    while let Some(found) = memchr::memchr(0, &bytes[at..*last as usize]) {
        let row = offsets.partition_point(|o| *o as usize <= at + found) - 1;
        if !array.is_null(row) {
            return Err(Bad {
                row,
                what: "the text holds a NUL byte, which PostgreSQL's text types cannot store",
                hint: "remove it in a query, or load the column as bytes (bytea)",
            });
        }
        at += found + 1;
    }
    Ok(Values::Text(offsets, bytes))
}

fn numeric_text(array: &StringArray) -> std::result::Result<Values<'_>, Bad> {
    match (0..array.len()).find(|i| !array.is_null(*i) && !numeric::is_plain_decimal(array.value(*i))) {
        Some(row) => Err(Bad {
            row,
            what: "the text is not a decimal number, and the target's column is numeric",
            hint: "cast the column in a query, or make the target's column text",
        }),
        None => Ok(Values::NumericText(array)),
    }
}

fn dates(array: &PrimitiveArray<Date32Type>) -> std::result::Result<Values<'_>, Bad> {
    let bad = |v: i32| !v.checked_sub(EPOCH_DAYS).is_some_and(|v| DATES.contains(&v));
    match first_bad(array.values(), array.nulls(), bad) {
        Some(row) => Err(out_of_range(row)),
        None => Ok(Values::Date(array.values())),
    }
}

fn timestamps(array: &PrimitiveArray<TimestampMicrosecondType>, step: i64) -> std::result::Result<Values<'_>, Bad> {
    let bad = |v: i64| !v.checked_sub(EPOCH_MICROS).is_some_and(|v| TIMESTAMPS.contains(&v));
    if let Some(row) = first_bad(array.values(), array.nulls(), bad) {
        return Err(out_of_range(row));
    }
    if step > 1
        && let Some(row) = first_bad(array.values(), array.nulls(), |v| v % step != 0)
    {
        return Err(would_round(row));
    }
    Ok(Values::Timestamp(array.values()))
}

fn times(array: &PrimitiveArray<Time64MicrosecondType>, step: i64) -> std::result::Result<Values<'_>, Bad> {
    if let Some(row) = first_bad(array.values(), array.nulls(), |v| !(0..=DAY_MICROS).contains(&v)) {
        return Err(out_of_range(row));
    }
    if step > 1
        && let Some(row) = first_bad(array.values(), array.nulls(), |v| v % step != 0)
    {
        return Err(would_round(row));
    }
    Ok(Values::Eight(array.values()))
}

fn intervals(array: &PrimitiveArray<IntervalMonthDayNanoType>) -> std::result::Result<Values<'_>, Bad> {
    match first_bad(array.values(), array.nulls(), |v| v.nanoseconds % 1000 != 0) {
        Some(row) => Err(would_round(row)),
        None => Ok(Values::Interval(array)),
    }
}

fn out_of_range(row: usize) -> Bad {
    Bad {
        row,
        what: "the value lies outside the range of the target's type",
        hint: "PostgreSQL's dates and timestamps begin in 4713 BC; its timestamps end in 294276 AD",
    }
}

fn would_round(row: usize) -> Bad {
    Bad {
        row,
        what: "the target's type has fewer fractional digits than the value: it would be rounded",
        hint: "give the target's column more precision, or round it in a query",
    }
}
