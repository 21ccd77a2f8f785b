//! From the arrays that the server sends to those of the schema: relabelled where they are the same, checked where a
//! value may not fit. An error names the column and the row's position in its partition, never the value.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Decimal256Builder, ListArray, MapArray, PrimitiveArray, RecordBatch,
    RecordBatchOptions, StringArray, StringBuilder, StructArray, new_null_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::*;
use dpone_planner::{Error, Result};

use super::column::Decode;

/// Makes batches of one schema. Counts rows, for messages.
#[derive(Debug)]
pub(super) struct Decoder {
    schema: SchemaRef,
    decode: Vec<Decode>,
    rows: u64,
}

impl Decoder {
    pub(super) fn new(schema: SchemaRef, decode: Vec<Decode>) -> Self {
        Self { schema, decode, rows: 0 }
    }

    pub(super) fn batch(&mut self, received: &RecordBatch) -> Result<RecordBatch> {
        let rows = received.num_rows();
        // A read of no columns has one that nobody looks at.
        if received.num_columns() != self.decode.len().max(1) {
            return Err(Error::internal("the server sent another number of columns than were asked for"));
        }
        let columns = self
            .schema
            .fields()
            .iter()
            .zip(&self.decode)
            .zip(received.columns())
            .map(|((field, decode), array)| self.column(field, decode, array))
            .collect::<Result<Vec<_>>>()?;
        self.rows += rows as u64;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|e| Error::internal(format!("the server's rows do not have the schema: {e}")))
    }

    fn column(&self, field: &Field, decode: &Decode, array: &ArrayRef) -> Result<ArrayRef> {
        decoded(array, decode, field.data_type()).map_err(|bad| {
            let name = field.name();
            match bad {
                Bad::Value { row, why, hint } => {
                    Error::data_quality(format!("column {name:?} holds {why} (row {})", self.rows + row as u64 + 1))
                        .with_hint(hint)
                }
                // The server was asked for the types when the table was opened: another one is a new one.
                Bad::Type => Error::conflict(format!(
                    "column {name:?} came as {} where {} was expected",
                    array.data_type(),
                    field.data_type()
                ))
                .with_hint("its type may have been changed while it was read: run it again; if it fails again, report it with the column's type"),
            }
            .with("column", name)
        })
    }
}

/// Why an array cannot be what it should be.
enum Bad {
    Value { row: usize, why: &'static str, hint: &'static str },
    Type,
}

type Decoded = Result<ArrayRef, Bad>;

fn decoded(array: &ArrayRef, decode: &Decode, to: &DataType) -> Decoded {
    // Keys of low cardinality, and which of them each row has.
    if let Some(dictionary) = array.as_any_dictionary_opt() {
        let spread = take(dictionary.values(), dictionary.keys(), None).map_err(|_| Bad::Type)?;
        return decoded(&spread, decode, to);
    }
    if array.data_type() == &DataType::Null {
        return Ok(new_null_array(to, array.len()));
    }
    match decode {
        Decode::Same => same(array, to),
        Decode::Text => text(array),
        Decode::FixedText => fixed_text(array),
        Decode::Bytes => bytes(array),
        Decode::Wide { signed } => wide(array, *signed),
        Decode::Instant => instant(array, to),
        Decode::Ticks { digits } => ticks(array, *digits, to),
        Decode::Time { digits } => time_of_day(array, *digits, to),
        Decode::List(item) => list(array, item, to),
        Decode::Map(key, value) => map(array, key, value, to),
        Decode::Struct(fields) => structure(array, fields, to),
    }
}

fn same(array: &ArrayRef, to: &DataType) -> Decoded {
    let too_long = |row| Bad::Value {
        row,
        why: "a decimal of more digits than its type has",
        hint: "cast the column to a wider Decimal in a query",
    };
    match (array.data_type(), to) {
        (found, to) if found == to => Ok(Arc::clone(array)),
        (DataType::Decimal128(_, found), DataType::Decimal128(p, s)) if found == s => {
            let values = array.as_primitive::<Decimal128Type>();
            let limit = 10_u128.pow(u32::from(*p));
            let fits = |value: &i128| value.unsigned_abs() < limit;
            // Mostly all of them do, even what lies under a NULL.
            if !values.values().iter().all(fits) {
                let bad = |row: &usize| values.is_valid(*row) && !fits(&values.value(*row));
                if let Some(row) = (0..values.len()).find(bad) {
                    return Err(too_long(row));
                }
            }
            let relabelled = values.clone().with_precision_and_scale(*p, *s);
            relabelled.map(|array| Arc::new(array) as ArrayRef).map_err(|_| Bad::Type)
        }
        (DataType::Decimal256(_, found), DataType::Decimal256(p, s)) if found == s => {
            let values = array.as_primitive::<Decimal256Type>();
            let relabelled = values.clone().with_precision_and_scale(*p, *s).map_err(|_| Bad::Type)?;
            relabelled.validate_decimal_precision(*p).map_err(|_| too_long(0))?;
            Ok(Arc::new(relabelled))
        }
        _ => Err(Bad::Type),
    }
}

fn text(array: &ArrayRef) -> Decoded {
    match array.data_type() {
        DataType::Utf8 => Ok(Arc::clone(array)),
        DataType::Binary => {
            let (offsets, values, nulls) = array.as_binary::<i32>().clone().into_parts();
            match StringArray::try_new(offsets, values, nulls) {
                Ok(texts) => Ok(Arc::new(texts)),
                Err(_) => {
                    let values = array.as_binary::<i32>();
                    let bad = |row: &usize| values.is_valid(*row) && std::str::from_utf8(values.value(*row)).is_err();
                    Err(not_text((0..values.len()).find(bad).unwrap_or_default()))
                }
            }
        }
        _ => Err(Bad::Type),
    }
}

fn not_text(row: usize) -> Bad {
    Bad::Value {
        row,
        why: "bytes that are not UTF-8",
        hint: "declare its type as bytes, or convert it in a query: SELECT hex(…) AS …",
    }
}

fn fixed_text(array: &ArrayRef) -> Decoded {
    let values = array.as_fixed_size_binary_opt().ok_or(Bad::Type)?;
    let mut builder = StringBuilder::with_capacity(values.len(), values.len() * 8);
    for (row, value) in values.iter().enumerate() {
        let Some(value) = value else {
            builder.append_null();
            continue;
        };
        let end = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        builder.append_value(std::str::from_utf8(&value[..end]).map_err(|_| not_text(row))?);
    }
    Ok(Arc::new(builder.finish()))
}

fn bytes(array: &ArrayRef) -> Decoded {
    match array.data_type() {
        DataType::Binary => Ok(Arc::clone(array)),
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            Ok(Arc::new(values.iter().collect::<BinaryArray>()))
        }
        _ => Err(Bad::Type),
    }
}

fn wide(array: &ArrayRef, signed: bool) -> Decoded {
    let values = array.as_fixed_size_binary_opt().filter(|values| values.value_length() == 16).ok_or(Bad::Type)?;
    let mut builder = Decimal256Builder::with_capacity(values.len()).with_data_type(DataType::Decimal256(39, 0));
    for value in values {
        builder.append_option(value.and_then(|bytes| bytes.try_into().ok()).map(|bytes: [u8; 16]| {
            if signed {
                i256::from_i128(i128::from_le_bytes(bytes))
            } else {
                i256::from_parts(u128::from_le_bytes(bytes), 0)
            }
        }));
    }
    Ok(Arc::new(builder.finish()))
}

/// Seconds, none of which leaves the range of microseconds.
fn instant(array: &ArrayRef, to: &DataType) -> Decoded {
    let DataType::Timestamp(TimeUnit::Microsecond, zone) = to else { return Err(Bad::Type) };
    let seconds = array.as_primitive_opt::<UInt32Type>().ok_or(Bad::Type)?;
    let micros = seconds.unary::<_, TimestampMicrosecondType>(|s| i64::from(s) * 1_000_000);
    Ok(Arc::new(micros.with_timezone_opt(zone.clone())))
}

fn ticks(array: &ArrayRef, digits: u8, to: &DataType) -> Decoded {
    let values = array.as_primitive_opt::<Int64Type>().ok_or(Bad::Type)?;
    let DataType::Timestamp(unit, zone) = to else { return Err(Bad::Type) };
    match unit {
        TimeUnit::Nanosecond => {
            let factor = 10_i64.pow(9 - u32::from(digits.min(9)));
            let nanos = checked(
                values,
                |value| value.checked_mul(factor),
                "a time outside 1677 to 2262",
                "declare its type as timestamp where no value is finer than microseconds, or as text",
            )?;
            let array = PrimitiveArray::<TimestampNanosecondType>::new(nanos, values.nulls().cloned());
            Ok(Arc::new(array.with_timezone_opt(zone.clone())))
        }
        TimeUnit::Microsecond => {
            let micros = match digits {
                6 => values.values().clone(),
                ..6 => {
                    let factor = 10_i64.pow(6 - u32::from(digits));
                    let hint = "declare its type as text";
                    checked(values, |value| value.checked_mul(factor), "a time beyond all microseconds", hint)?
                }
                _ => {
                    let factor = 10_i64.pow(u32::from(digits.min(9)) - 6);
                    let whole = |value: i64| (value % factor == 0).then_some(value / factor);
                    let hint = "declare its type as timestamp(9), or as text";
                    checked(values, whole, "a time finer than microseconds", hint)?
                }
            };
            let array = PrimitiveArray::<TimestampMicrosecondType>::new(micros, values.nulls().cloned());
            Ok(Arc::new(array.with_timezone_opt(zone.clone())))
        }
        _ => Err(Bad::Type),
    }
}

fn time_of_day(array: &ArrayRef, digits: u8, to: &DataType) -> Decoded {
    let values = array.as_primitive_opt::<Int64Type>().ok_or(Bad::Type)?;
    let DataType::Time64(unit) = to else { return Err(Bad::Type) };
    let kept: u8 = if *unit == TimeUnit::Nanosecond { 9 } else { 6 };
    let factor = 10_i64.pow(u32::from(kept.saturating_sub(digits)));
    let day = 86_400 * 10_i64.pow(u32::from(digits.min(9)));
    let within = |value: i64| (0..day).contains(&value).then(|| value * factor);
    let times = checked(
        values,
        within,
        "a time below zero or past a day",
        "Arrow's time of day has no such values: declare the column text",
    )?;
    Ok(match unit {
        TimeUnit::Nanosecond => Arc::new(PrimitiveArray::<Time64NanosecondType>::new(times, values.nulls().cloned())),
        _ => Arc::new(PrimitiveArray::<Time64MicrosecondType>::new(times, values.nulls().cloned())),
    })
}

fn checked(
    values: &PrimitiveArray<Int64Type>,
    convert: impl Fn(i64) -> Option<i64>,
    why: &'static str,
    hint: &'static str,
) -> Result<ScalarBuffer<i64>, Bad> {
    let mut out = Vec::with_capacity(values.len());
    for (row, value) in values.values().iter().enumerate() {
        match convert(*value) {
            Some(value) => out.push(value),
            None if values.is_null(row) => out.push(0),
            None => return Err(Bad::Value { row, why, hint }),
        }
    }
    Ok(out.into())
}

fn list(array: &ArrayRef, item: &Decode, to: &DataType) -> Decoded {
    let (Some(values), DataType::List(field)) = (array.as_list_opt::<i32>(), to) else { return Err(Bad::Type) };
    let (_, offsets, items, nulls) = values.clone().into_parts();
    let items = decoded(&items, item, field.data_type()).map_err(|bad| match bad {
        // The row that the item is in.
        Bad::Value { row, why, hint } => {
            let row = offsets.partition_point(|offset| *offset as usize <= row).saturating_sub(1);
            Bad::Value { row, why, hint }
        }
        other => other,
    })?;
    ListArray::try_new(Arc::clone(field), offsets, items, nulls)
        .map(|list| Arc::new(list) as ArrayRef)
        .map_err(|_| Bad::Type)
}

fn map(array: &ArrayRef, key: &Decode, value: &Decode, to: &DataType) -> Decoded {
    let (Some(maps), DataType::Map(entries, sorted)) = (array.as_map_opt(), to) else { return Err(Bad::Type) };
    let DataType::Struct(fields) = entries.data_type() else { return Err(Bad::Type) };
    let [of_key, of_value] = fields.iter().as_slice() else { return Err(Bad::Type) };
    let columns =
        vec![decoded(maps.keys(), key, of_key.data_type())?, decoded(maps.values(), value, of_value.data_type())?];
    let pairs = StructArray::try_new(fields.clone(), columns, None).map_err(|_| Bad::Type)?;
    let made = MapArray::try_new(Arc::clone(entries), maps.offsets().clone(), pairs, maps.nulls().cloned(), *sorted);
    made.map(|maps| Arc::new(maps) as ArrayRef).map_err(|_| Bad::Type)
}

fn structure(array: &ArrayRef, decode: &[Decode], to: &DataType) -> Decoded {
    let (Some(found), DataType::Struct(fields)) = (array.as_struct_opt(), to) else { return Err(Bad::Type) };
    if found.num_columns() != fields.len() || decode.len() != fields.len() {
        return Err(Bad::Type);
    }
    let columns = found.columns().iter().zip(decode).zip(fields);
    let columns = columns.map(|((column, decode), field)| decoded(column, decode, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, Bad>>()?;
    let made = StructArray::try_new_with_length(fields.clone(), columns, found.nulls().cloned(), found.len());
    made.map(|structs| Arc::new(structs) as ArrayRef).map_err(|_| Bad::Type)
}
