//! What a pipeline remembers between runs. It travels with the data, in the same commit.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use arrow::array::{ArrayRef, Scalar};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use crate::chunk::LoadedChunk;
use crate::error::{Error, Result};
use crate::order::ValueOrder;

/// The state of one pipeline in one target.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PipelineState {
    /// Version of this shape.
    pub version: u32,
    pub pipeline: String,
    /// Digest of what the watermark depends on: source identity, query, cursor, sink. A run whose digest differs does
    /// not use this state.
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// Rows that were loaded with the cursor exactly at the watermark, so that reading from it again, inclusively,
    /// adds none of them twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
    /// How far a source that tells its changes was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<ChangeState>,
    /// What the row hashes in the target are made of, where a strategy compares with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<HashCover>,
    /// What a chunk of a backfill was of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<LoadedChunk>,
    /// The columns that were loaded last, where rows are compared with loaded ones; empty: not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Columns that came after the first load: rows of before have no value in them, whatever the source says now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late_columns: Vec<String>,
    pub load_id: String,
    pub run_id: String,
    /// RFC 3339, UTC.
    pub committed_at: String,
}

impl PipelineState {
    /// The columns of `names` that came after the first load.
    pub fn late_among(&self, names: &[String]) -> Vec<String> {
        let late = |name: &&String| {
            self.late_columns.contains(name) || (!self.columns.is_empty() && !self.columns.contains(name))
        };
        names.iter().filter(late).cloned().collect()
    }

    pub const VERSION: u32 = 1;

    /// How far the source was loaded, for people; `None` where that is not remembered.
    pub fn reached(&self) -> Option<String> {
        match (&self.watermark, &self.changes) {
            (Some(watermark), _) => Some(watermark.to_string()),
            (None, changes) => changes.as_ref().map(|changes| changes.summary.clone()),
        }
    }
}

/// The greatest committed cursor value: from data, never from the clock.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Watermark {
    pub column: String,
    /// The cursor's Arrow type, in arrow's own notation.
    pub data_type: DataType,
    /// The value: Arrow's display text for its type, exact for every ordered type.
    pub value: String,
    /// How its values sort: those that travel as text do so in an order of their own.
    #[serde(default, skip_serializing_if = "ValueOrder::is_arrow")]
    pub order: ValueOrder,
}

impl Watermark {
    pub fn new(column: impl Into<String>, value: &ScalarValue) -> Result<Self> {
        let text = match value {
            // The display text of these depends on formatting options: keep the ticks.
            ScalarValue::TimestampSecond(Some(v), _)
            | ScalarValue::TimestampMillisecond(Some(v), _)
            | ScalarValue::TimestampMicrosecond(Some(v), _)
            | ScalarValue::TimestampNanosecond(Some(v), _)
            | ScalarValue::Time64Microsecond(Some(v))
            | ScalarValue::Time64Nanosecond(Some(v)) => v.to_string(),
            ScalarValue::Date32(Some(v)) => v.to_string(),
            ScalarValue::Float64(Some(v)) => format!("{v:?}"),
            ScalarValue::Float32(Some(v)) => format!("{v:?}"),
            ScalarValue::Decimal128(Some(v), _, _) => v.to_string(),
            ScalarValue::Decimal256(Some(v), _, _) => v.to_string(),
            ScalarValue::Utf8(Some(v)) | ScalarValue::LargeUtf8(Some(v)) | ScalarValue::Utf8View(Some(v)) => v.clone(),
            ScalarValue::FixedSizeBinary(_, Some(v)) | ScalarValue::Binary(Some(v)) => hex(v),
            other if other.is_null() => return Err(Error::internal("a watermark cannot be NULL")),
            other if other.data_type().is_integer() => other.to_string(),
            other => {
                return Err(Error::configuration(format!("a cursor of type {} is not supported", other.data_type()))
                    .with_hint(
                        "use a column of an integer, decimal, float, date, timestamp, time, uuid or text type",
                    ));
            }
        };
        Ok(Self { column: column.into(), data_type: value.data_type(), value: text, order: ValueOrder::Arrow })
    }

    /// The value as a scalar of its own type.
    pub fn scalar(&self) -> Result<ScalarValue> {
        let ticks = || self.value.parse::<i64>().map_err(|_| self.unreadable());
        Ok(match &self.data_type {
            DataType::Timestamp(unit, tz) => {
                use arrow::datatypes::TimeUnit::*;
                match unit {
                    Second => ScalarValue::TimestampSecond(Some(ticks()?), tz.clone()),
                    Millisecond => ScalarValue::TimestampMillisecond(Some(ticks()?), tz.clone()),
                    Microsecond => ScalarValue::TimestampMicrosecond(Some(ticks()?), tz.clone()),
                    Nanosecond => ScalarValue::TimestampNanosecond(Some(ticks()?), tz.clone()),
                }
            }
            DataType::Time64(arrow::datatypes::TimeUnit::Microsecond) => ScalarValue::Time64Microsecond(Some(ticks()?)),
            DataType::Time64(_) => ScalarValue::Time64Nanosecond(Some(ticks()?)),
            DataType::Date32 => ScalarValue::Date32(Some(self.value.parse().map_err(|_| self.unreadable())?)),
            DataType::Decimal128(p, s) => {
                ScalarValue::Decimal128(Some(self.value.parse().map_err(|_| self.unreadable())?), *p, *s)
            }
            DataType::Decimal256(p, s) => {
                ScalarValue::Decimal256(Some(self.value.parse().map_err(|_| self.unreadable())?), *p, *s)
            }
            DataType::FixedSizeBinary(n) => {
                ScalarValue::FixedSizeBinary(*n, Some(unhex(&self.value).ok_or_else(|| self.unreadable())?))
            }
            DataType::Binary => ScalarValue::Binary(Some(unhex(&self.value).ok_or_else(|| self.unreadable())?)),
            other => ScalarValue::try_from_string(self.value.clone(), other).map_err(|_| self.unreadable())?,
        })
    }

    /// The same value in another order.
    pub fn in_order(self, order: ValueOrder) -> Self {
        Self { order, ..self }
    }

    /// What is compared: the value itself, or its key where it has an order of its own.
    pub fn sort_key(&self) -> Result<ScalarValue> {
        match &self.order {
            ValueOrder::Arrow => self.scalar(),
            order => Ok(ScalarValue::Binary(Some(order.key(&self.value).ok_or_else(|| self.unreadable())?))),
        }
    }

    /// The sort key as a one-row array, for comparison kernels.
    pub fn array(&self) -> Result<Scalar<ArrayRef>> {
        Ok(Scalar::new(self.sort_key()?.to_array()?))
    }

    /// How this watermark compares with a newer one, in the order that the newer one has.
    pub fn compare(&self, newer: &Self) -> Result<Ordering> {
        let incomparable = || {
            Error::conflict(format!(
                "cursor values of the types {} and {} cannot be compared",
                self.data_type, newer.data_type
            ))
        };
        if !newer.order.is_arrow() {
            return newer.order.compare(&newer.column, &self.value, &newer.value);
        }
        self.scalar()?.partial_cmp(&newer.scalar()?).ok_or_else(incomparable)
    }

    fn unreadable(&self) -> Error {
        Error::configuration(format!("the stored watermark of {:?} is not a {}", self.column, self.data_type))
            .with_hint("look at it with `dpone state inspect`, and start over with `dpone state reset`")
    }
}

impl fmt::Display for Watermark {
    /// For people: `updated_at = 2013-01-01T06:00:00`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self
            .scalar()
            .ok()
            .and_then(|s| s.to_array().ok())
            .and_then(|array| arrow::util::display::array_value_to_string(&array, 0).ok());
        write!(f, "{} = {}", self.column, text.as_deref().unwrap_or(&self.value))
    }
}

/// How far the changes of a source were read, and when deletions were last looked for.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ChangeState {
    /// Where the next read begins. Only the connector that made it understands it; it carries its own version.
    pub position: serde_json::Value,
    /// The position for people, such as `transactions before 4711`.
    #[serde(default)]
    pub summary: String,
    /// The keys of source and target were last compared then: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled_at: Option<String>,
    /// Runs committed since.
    #[serde(default)]
    pub runs_since_reconciliation: u64,
}

/// What the row hashes that are stored in a target are made of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HashCover {
    /// The table that holds them.
    pub table: String,
    /// Version of the hash's specification: [`crate::row_hash::VERSION`].
    pub version: u32,
    /// The columns that are hashed, sorted.
    pub columns: Vec<String>,
    /// The family of values of each of them: [`crate::row_hash::family`].
    #[serde(default)]
    pub families: BTreeMap<String, String>,
    /// The columns that the source had beside them, sorted.
    #[serde(default)]
    pub untracked: Vec<String>,
    /// Some hashes were made of other columns: none of them is compared with.
    #[serde(default)]
    pub mixed: bool,
}

/// Hashes of the rows at the watermark, with how often each occurs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Boundary {
    /// Digest of the schema that the hashes were made over; hashes of another schema say nothing.
    pub schema: String,
    /// 128-bit row hashes in hexadecimal, with counts. Empty when `overflow` is set.
    pub rows: Vec<(String, u64)>,
    /// More rows than are kept here lie at the watermark: the target's own rows at the watermark are compared instead.
    #[serde(default)]
    pub overflow: bool,
}

impl Boundary {
    /// Rows kept before `overflow` is set: about 50 KiB of state.
    pub const MAX_ROWS: usize = 1024;
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ordered_type_comes_back_exactly() {
        let values = [
            ScalarValue::Int16(Some(i16::MIN)),
            ScalarValue::Int64(Some(i64::MAX)),
            ScalarValue::UInt64(Some(u64::MAX)),
            ScalarValue::Float64(Some(0.1 + 0.2)),
            ScalarValue::Float64(Some(f64::INFINITY)),
            ScalarValue::Decimal128(Some(-123_456_789), 38, 10),
            ScalarValue::Date32(Some(-1)),
            ScalarValue::TimestampMicrosecond(Some(-1), None),
            ScalarValue::TimestampMicrosecond(Some(1), Some("UTC".into())),
            ScalarValue::TimestampNanosecond(Some(1), None),
            ScalarValue::Time64Microsecond(Some(86_399_999_999)),
            ScalarValue::Utf8(Some("ü 'x'".into())),
            ScalarValue::FixedSizeBinary(16, Some((0..16).collect())),
        ];
        for value in values {
            let watermark = Watermark::new("c", &value).unwrap_or_else(|e| unreachable!("{value:?}: {e}"));
            let json = serde_json::to_string(&watermark).unwrap_or_default();
            let back: Watermark = serde_json::from_str(&json).unwrap_or_else(|e| unreachable!("{json}: {e}"));
            assert_eq!(back.scalar().ok(), Some(value), "{json}");
        }
        let ts = Watermark::new("at", &ScalarValue::TimestampMicrosecond(Some(0), None));
        assert_eq!(ts.map(|w| w.to_string()).ok().as_deref(), Some("at = 1970-01-01T00:00:00"));
    }
}
