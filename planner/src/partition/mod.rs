//! Partitions of an expression over one column, such as the months of a timestamp.
//!
//! Each partition is a range of the column, or a remainder: a predicate that every sink can say exactly, and that finds
//! rows by an index, by the statistics of files or by partitions of the table.

mod expression;
mod predicate;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use chrono::{Datelike, Months, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use expression::parse;
pub use predicate::{of_partitions, of_values};

/// How a column is cut into partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Dates and timestamps by the calendar, in UTC.
    Calendar(Unit),
    /// Whole numbers by their quotient, rounded towards zero. The divisor is above zero.
    Quotient(i64),
    /// Whole numbers by their remainder, with the sign of the number. The divisor is above zero.
    Remainder(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    Quarter,
    Year,
}

/// One partition: where its range begins, in the unit of the column (days, or the unit of the timestamp), or its
/// remainder. `None`: the rows without a value.
pub type Partition = Option<i64>;

const DAY: i64 = 86_400;

impl Cut {
    /// Whether values of this type are cut so.
    pub fn takes(self, data_type: &DataType) -> bool {
        use DataType::{Date32, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32};
        match self {
            Self::Calendar(_) => matches!(data_type, Date32 | Timestamp(..)),
            _ => matches!(data_type, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32),
        }
    }

    /// The partitions of an array's values, one after the other; neighbours that share one are given once.
    pub fn partitions(self, values: &ArrayRef, mut found: impl FnMut(Partition)) -> Result<()> {
        let data_type = values.data_type().clone();
        let values = numbers(values)?;
        if values.null_count() > 0 {
            found(None);
        }
        // Values come in runs: the range of the last one is looked at first.
        let mut last: Option<(i64, i64)> = None;
        for value in values.iter().flatten() {
            if let (Some((start, end)), false) = (last, matches!(self, Self::Remainder(_)))
                && (start..end).contains(&value)
            {
                continue;
            }
            let start = self.partition(value, &data_type)?;
            match self {
                Self::Remainder(_) if last == Some((start, start)) => continue,
                Self::Remainder(_) => last = Some((start, start)),
                _ => last = Some((start, self.end(start, &data_type)?.unwrap_or(i64::MAX))),
            }
            found(Some(start));
        }
        Ok(())
    }

    /// The partition of a value.
    fn partition(self, value: i64, data_type: &DataType) -> Result<i64> {
        let outside = || Error::data_quality(format!("the value {value} of a {data_type} is outside of the calendar"));
        Ok(match self {
            Self::Remainder(divisor) => value % divisor,
            Self::Quotient(divisor) => match value / divisor {
                0 => 1 - divisor,
                quotient if quotient > 0 => quotient * divisor,
                // Rounded towards zero: -10 / 4 is -2, as are -11 and -8.
                quotient => (quotient.saturating_mul(divisor)).saturating_sub(divisor - 1),
            },
            Self::Calendar(unit) => {
                let scale = Scale::of(data_type)?;
                let start = unit.start(scale.seconds(value)).ok_or_else(outside)?;
                scale.value(start).ok_or_else(outside)?
            }
        })
    }

    /// Where the range that begins at `start` ends, exclusive; `None` beyond the type's values.
    fn end(self, start: i64, data_type: &DataType) -> Result<Option<i64>> {
        Ok(match self {
            Self::Remainder(_) => None,
            Self::Quotient(divisor) if start == 1 - divisor => Some(divisor),
            Self::Quotient(divisor) => start.checked_add(divisor),
            Self::Calendar(unit) => {
                let scale = Scale::of(data_type)?;
                unit.next(scale.seconds(start)).and_then(|seconds| scale.value(seconds))
            }
        })
    }
}

/// Whole numbers, days, or a timestamp's ticks.
fn numbers(values: &ArrayRef) -> Result<PrimitiveArray<Int64Type>> {
    let plain = match values.data_type() {
        DataType::Date32 => cast(values, &DataType::Int32)?,
        _ => values.clone(),
    };
    Ok(cast(&plain, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

impl Unit {
    /// Seconds since 1970 at which the unit of a moment begins.
    fn start(self, seconds: i64) -> Option<i64> {
        let days = seconds.div_euclid(DAY);
        let of_month = |first: fn(u32) -> u32| {
            let date = date(days)?;
            midnight(NaiveDate::from_ymd_opt(date.year(), first(date.month()), 1)?)
        };
        match self {
            Self::Second => Some(seconds),
            Self::Minute => Some(seconds.div_euclid(60) * 60),
            Self::Hour => Some(seconds.div_euclid(3600) * 3600),
            Self::Day => Some(days * DAY),
            // 1970-01-01 was a Thursday.
            Self::Week => Some(((days + 3).div_euclid(7) * 7 - 3) * DAY),
            Self::Month => of_month(|month| month),
            Self::Quarter => of_month(|month| (month - 1) / 3 * 3 + 1),
            Self::Year => of_month(|_| 1),
        }
    }

    /// Where the next one begins.
    fn next(self, start: i64) -> Option<i64> {
        let months = |n| midnight(date(start.div_euclid(DAY))?.checked_add_months(Months::new(n))?);
        match self {
            Self::Second => start.checked_add(1),
            Self::Minute => start.checked_add(60),
            Self::Hour => start.checked_add(3600),
            Self::Day => start.checked_add(DAY),
            Self::Week => start.checked_add(7 * DAY),
            Self::Month => months(1),
            Self::Quarter => months(3),
            Self::Year => months(12),
        }
    }
}

fn date(days: i64) -> Option<NaiveDate> {
    NaiveDate::from_epoch_days(i32::try_from(days).ok()?)
}

fn midnight(date: NaiveDate) -> Option<i64> {
    Some(i64::from(date.to_epoch_days()) * DAY)
}

/// The ticks of a type: how many a second has, or that they are days.
#[derive(Debug, Clone, Copy)]
enum Scale {
    Days,
    PerSecond(i64),
}

impl Scale {
    fn of(data_type: &DataType) -> Result<Self> {
        Ok(match data_type {
            DataType::Date32 => Self::Days,
            DataType::Timestamp(TimeUnit::Second, _) => Self::PerSecond(1),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Self::PerSecond(1_000),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::PerSecond(1_000_000),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Self::PerSecond(1_000_000_000),
            other => return Err(Error::internal(format!("a {other} has no calendar"))),
        })
    }

    fn seconds(self, value: i64) -> i64 {
        match self {
            Self::Days => value.saturating_mul(DAY),
            Self::PerSecond(ticks) => value.div_euclid(ticks),
        }
    }

    fn value(self, seconds: i64) -> Option<i64> {
        match self {
            Self::Days => Some(seconds.div_euclid(DAY)),
            Self::PerSecond(ticks) => seconds.checked_mul(ticks),
        }
    }
}

#[cfg(test)]
mod tests;
