//! File statistics: from Parquet's footer into the log, and from the log into DataFusion.
//!
//! Only bounds that are safe to skip files by are kept. Floats have none, because a NaN lies outside of every bound;
//! decimals have none, because the log's JSON numbers are read as floats by others; long text is cut by Parquet, so a
//! text bound is used to skip and never as a value.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics as ParquetStatistics;
use serde_json::{Map, Value, json};

use crate::stage::WrittenFile;
use crate::table::DataFile;

/// The `stats` of an Add action.
pub(crate) fn from_footer(schema: &Schema, footer: &ParquetMetaData) -> String {
    let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
    let descriptor = footer.file_metadata().schema_descr();
    for field in schema.fields().iter().filter(|f| !f.data_type().is_nested()) {
        let leaf = (0..descriptor.num_columns()).find(|i| {
            let path = descriptor.column(*i).path().parts().to_vec();
            path.len() == 1 && path[0] == *field.name()
        });
        let Some(leaf) = leaf else { continue };
        let chunks: Option<Vec<_>> = footer.row_groups().iter().map(|g| g.column(leaf).statistics()).collect();
        let Some(chunks) = chunks else { continue };
        if let Some(count) = chunks.iter().map(|s| s.null_count_opt()).sum::<Option<u64>>() {
            nulls.insert(field.name().clone(), json!(count));
        }
        // A chunk of NULLs alone has no bounds and narrows nothing.
        let bounded: Vec<_> = chunks
            .iter()
            .zip(footer.row_groups())
            .filter(|(s, g)| s.null_count_opt() != Some(g.num_rows() as u64))
            .map(|(s, _)| bounds(field.data_type(), s))
            .collect();
        if let Some(bounded) = bounded.into_iter().collect::<Option<Vec<_>>>()
            && let Some((low, high)) = bounded.into_iter().reduce(|(a, b), (c, d)| (a.lower(c), b.upper(d)))
        {
            let (low, high) = (low.json(field.data_type()), high.json(field.data_type()));
            if let (Some(low), Some(high)) = (low, high) {
                min.insert(field.name().clone(), low);
                max.insert(field.name().clone(), high);
            }
        }
    }
    let rows = footer.file_metadata().num_rows();
    json!({ "numRecords": rows, "minValues": min, "maxValues": max, "nullCount": nulls }).to_string()
}

#[derive(Debug, PartialEq, PartialOrd)]
enum Bound {
    Integer(i64),
    Text(String),
}

impl Bound {
    fn lower(self, other: Self) -> Self {
        if other < self { other } else { self }
    }

    fn upper(self, other: Self) -> Self {
        if other > self { other } else { self }
    }

    fn json(self, data_type: &DataType) -> Option<Value> {
        // Four-digit years only: other readers parse no more.
        let plain = |year: i32| (1..=9999).contains(&year);
        Some(match (self, data_type) {
            (Self::Text(text), _) => json!(text),
            (Self::Integer(days), DataType::Date32) => {
                let date = NaiveDate::from_num_days_from_ce_opt(i32::try_from(days).ok()?.checked_add(719_163)?)?;
                plain(date.year()).then(|| json!(date.to_string()))?
            }
            (Self::Integer(us), DataType::Timestamp(_, tz)) => {
                let time = DateTime::from_timestamp_micros(us)?;
                let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
                let text = if tz.is_some() { text } else { text.trim_end_matches('Z').to_owned() };
                plain(time.year()).then(|| json!(text))?
            }
            (Self::Integer(value), _) => json!(value),
        })
    }
}

fn bounds(data_type: &DataType, statistics: &ParquetStatistics) -> Option<(Bound, Bound)> {
    match (data_type, statistics) {
        (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Date32, ParquetStatistics::Int32(s)) => {
            Some((Bound::Integer(i64::from(*s.min_opt()?)), Bound::Integer(i64::from(*s.max_opt()?))))
        }
        (DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _), ParquetStatistics::Int64(s)) => {
            Some((Bound::Integer(*s.min_opt()?), Bound::Integer(*s.max_opt()?)))
        }
        (DataType::Utf8, ParquetStatistics::ByteArray(s)) => {
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
            Some((Bound::Text(text(s.min_opt()?.data())?), Bound::Text(text(s.max_opt()?.data())?)))
        }
        _ => None,
    }
}

/// A file's statistics for DataFusion, over `schema`: the file's columns, then its partition columns.
pub(crate) fn of_file(file: &DataFile, file_schema: &Schema, partition_values: &[ScalarValue]) -> Statistics {
    let parsed: Value = file.stats.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let rows = file.rows.map_or(Precision::Absent, |n| Precision::Exact(n as usize));
    let mut columns: Vec<_> = file_schema.fields().iter().map(|field| column(field, &parsed)).collect();
    for value in partition_values {
        columns.push(match (value.is_null(), rows) {
            (true, rows) => ColumnStatistics { null_count: rows, ..ColumnStatistics::new_unknown() },
            (false, _) => ColumnStatistics {
                null_count: Precision::Exact(0),
                min_value: Precision::Exact(value.clone()),
                max_value: Precision::Exact(value.clone()),
                ..ColumnStatistics::new_unknown()
            },
        });
    }
    Statistics { num_rows: rows, total_byte_size: Precision::Inexact(file.size as usize), column_statistics: columns }
}

fn column(field: &Field, stats: &Value) -> ColumnStatistics {
    let mut out = ColumnStatistics::new_unknown();
    if let Some(nulls) = stats["nullCount"][field.name().as_str()].as_u64() {
        out.null_count = Precision::Exact(nulls as usize);
    }
    let bound = |key: &str| scalar(field.data_type(), &stats[key][field.name().as_str()]);
    let exact = matches!(field.data_type(), DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64);
    // Others cut timestamps to milliseconds and text to some length: such bounds are widened or left out.
    if exact && let (Some(low), Some(high)) = (bound("minValues"), bound("maxValues")) {
        out.min_value = Precision::Exact(low);
        out.max_value = Precision::Exact(high);
    }
    out
}

/// Statistics for skipping files while planning: `known`, plus bounds that hold though they need not be values of the
/// file. They answer only "may a row be in here", never "what is the greatest value".
pub(crate) fn for_skipping(file: &DataFile, schema: &Schema, known: &Statistics) -> Statistics {
    let mut out = known.clone();
    let parsed: Value = file.stats.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    for (field, column) in schema.fields().iter().zip(&mut out.column_statistics) {
        let bound = |key: &str| scalar(field.data_type(), &parsed[key][field.name().as_str()]);
        if column.min_value != Precision::Absent {
            continue;
        }
        let (low, high) = (bound("minValues"), bound("maxValues").map(widen));
        if let (Some(low), Some(high)) = (low, high) {
            column.min_value = Precision::Exact(low);
            column.max_value = Precision::Exact(high);
        } else if let Ok(unknown) = ScalarValue::try_from(field.data_type()) {
            // NULL of the column's type says "unknown" for this file; without it the bounds of all files are dropped.
            column.min_value = Precision::Exact(unknown.clone());
            column.max_value = Precision::Exact(unknown);
        }
    }
    out
}

/// A range that holds every value of a column in these files, which we wrote; `None` with NULLs or without bounds.
pub(crate) fn range(files: &[WrittenFile], field: &Field) -> Option<(ScalarValue, ScalarValue)> {
    let mut range: Option<(ScalarValue, ScalarValue)> = None;
    for file in files.iter().filter(|f| f.rows > 0) {
        let stats: Value = serde_json::from_str(&file.stats).ok()?;
        if stats["nullCount"][field.name().as_str()].as_u64() != Some(0) {
            return None;
        }
        let low = scalar(field.data_type(), &stats["minValues"][field.name().as_str()])?;
        let high = widen(scalar(field.data_type(), &stats["maxValues"][field.name().as_str()])?);
        range = Some(match range {
            None => (low, high),
            Some((a, b)) => (if low < a { low } else { a }, if high > b { high } else { b }),
        });
    }
    range
}

/// Bounds of text and time may have been cut: the upper one is moved up, so that it bounds again.
fn widen(high: ScalarValue) -> ScalarValue {
    match high {
        ScalarValue::TimestampMicrosecond(Some(us), tz) => {
            ScalarValue::TimestampMicrosecond(Some(us.saturating_add(999)), tz)
        }
        ScalarValue::Utf8(Some(text)) => ScalarValue::Utf8(Some(text + "\u{10FFFF}")),
        other => other,
    }
}

fn scalar(data_type: &DataType, value: &Value) -> Option<ScalarValue> {
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            ScalarValue::Int64(Some(value.as_i64()?)).cast_to(data_type).ok()
        }
        DataType::Utf8 => Some(ScalarValue::Utf8(Some(value.as_str()?.to_owned()))),
        DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _) => {
            ScalarValue::Utf8(Some(value.as_str()?.to_owned())).cast_to(data_type).ok()
        }
        _ => None,
    }
}

/// A partition value as the log writes it. `None` is NULL.
pub(crate) fn partition_text(array: &ArrayRef, row: usize) -> Option<String> {
    use arrow::datatypes::*;
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let us = array.as_primitive::<TimestampMicrosecondType>().value(row);
            DateTime::from_timestamp_micros(us)?.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
        }
        _ => arrow::util::display::array_value_to_string(array, row).ok()?,
    })
}

/// Types that a partition column can have and come back exactly. Negative decimals do not in every reader: the Python
/// package `deltalake` writes the sign twice.
pub(crate) fn partitionable(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(data_type, Boolean | Int8 | Int16 | Int32 | Int64 | Utf8 | Date32 | Timestamp(_, _))
}

/// A partition value of the log as a scalar. An empty text is NULL in Delta.
pub(crate) fn partition_scalar(file: &DataFile, field: &Field) -> dpone_engine::Result<ScalarValue> {
    let value = file.partition_values.get(field.name()).cloned().flatten().filter(|v| !v.is_empty());
    Ok(match value {
        None => ScalarValue::try_from(field.data_type())?,
        Some(text) => ScalarValue::Utf8(Some(text)).cast_to(field.data_type())?,
    })
}
