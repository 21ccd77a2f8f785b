//! Partitions as a predicate over their column.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field};
use chrono::{DateTime, NaiveDate};

use super::{Cut, Partition, Scale, Unit, date, midnight};
use crate::error::{Error, Result};

/// True for exactly the rows of these partitions of `field`'s column, in DataFusion SQL.
pub fn of_partitions(cut: Cut, field: &Field, partitions: &BTreeSet<Partition>) -> Result<String> {
    let column = format!("\"{}\"", field.name().replace('"', "\"\""));
    let data_type = field.data_type();
    let mut parts = Vec::new();
    if partitions.contains(&None) {
        parts.push(format!("{column} IS NULL"));
    }
    let values: Vec<i64> = partitions.iter().flatten().copied().collect();
    if let Cut::Remainder(divisor) = cut {
        if !values.is_empty() {
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            parts.push(format!("{column} % {divisor} IN ({})", values.join(", ")));
        }
    } else {
        for (start, end) in ranges(cut, data_type, &values)? {
            let from = format!("{column} >= {}", literal(start, data_type)?);
            parts.push(match end {
                Some(end) => format!("({from} AND {column} < {})", literal(end, data_type)?),
                None => format!("({from})"),
            });
        }
    }
    match parts.is_empty() {
        true => Err(Error::internal("a scope of no partition")),
        false => Ok(parts.join(" OR ")),
    }
}

/// The same for partitions that are given as values of the expression, each as text.
pub fn of_values(cut: Cut, field: &Field, values: &[String]) -> Result<String> {
    let partitions = values.iter().map(|text| partition_of(cut, field, text).map(Some)).collect::<Result<_>>()?;
    of_partitions(cut, field, &partitions)
}

/// Neighbouring partitions as one range each: where it begins, and where it ends.
fn ranges(cut: Cut, data_type: &DataType, starts: &[i64]) -> Result<Vec<(i64, Option<i64>)>> {
    let mut ranges: Vec<(i64, Option<i64>)> = Vec::new();
    for start in starts {
        let end = cut.end(*start, data_type)?;
        match ranges.last_mut() {
            Some((_, until)) if *until == Some(*start) => *until = end,
            _ => ranges.push((*start, end)),
        }
    }
    Ok(ranges)
}

/// The partition that has this value of the expression.
fn partition_of(cut: Cut, field: &Field, text: &str) -> Result<i64> {
    let text = text.trim();
    let wrong = |expected: &str| {
        Error::configuration(format!("partition.expected has {text:?}; expected {expected}"))
            .with("column", field.name())
    };
    let number = || text.parse::<i64>().map_err(|_| wrong("a whole number, as the expression gives"));
    let unit = match cut {
        Cut::Remainder(divisor) => {
            let number = number()?;
            return match number.unsigned_abs() < divisor.unsigned_abs() {
                true => Ok(number),
                false => Err(wrong(&format!("a remainder of {divisor}"))),
            };
        }
        Cut::Quotient(divisor) => {
            let value = number()?.checked_mul(divisor).ok_or_else(|| wrong("a quotient of the column's values"))?;
            return cut.partition(value, field.data_type());
        }
        Cut::Calendar(unit) => unit,
    };
    let expected = match unit {
        Unit::Year => "a year, such as 2026 or 2026-01-01",
        Unit::Second | Unit::Minute | Unit::Hour => "when a partition begins, such as 2026-01-01T06:00:00",
        _ => "the day on which a partition begins, such as 2026-01-01",
    };
    let year = (unit == Unit::Year).then(|| text.parse().ok()).flatten().and_then(|y| NaiveDate::from_ymd_opt(y, 1, 1));
    let month = || NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok().filter(|_| unit == Unit::Month);
    let seconds = match year.or_else(|| text.parse().ok()).or_else(month) {
        Some(date) => midnight(date),
        None => moment(text),
    };
    let seconds = seconds.ok_or_else(|| wrong(expected))?;
    if unit.start(seconds) != Some(seconds) {
        return Err(wrong(expected));
    }
    Scale::of(field.data_type())?.value(seconds).ok_or_else(|| wrong("a moment that the column can hold"))
}

/// Whole seconds since 1970, UTC.
fn moment(text: &str) -> Option<i64> {
    let text = text.replacen(' ', "T", 1);
    let zoned = DateTime::parse_from_rfc3339(&text).ok().map(|at| at.to_utc());
    let at = zoned.or_else(|| {
        let forms = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];
        forms.iter().find_map(|form| chrono::NaiveDateTime::parse_from_str(&text, form).ok()).map(|at| at.and_utc())
    })?;
    (at.timestamp_subsec_nanos() == 0).then(|| at.timestamp())
}

/// A value of the column's type, in SQL.
fn literal(value: i64, data_type: &DataType) -> Result<String> {
    let outside = || Error::data_quality(format!("a partition begins or ends at {value}, outside of the calendar"));
    Ok(match data_type {
        DataType::Date32 => format!("CAST('{}' AS DATE)", date(value).ok_or_else(outside)?),
        DataType::Timestamp(_, zone) => {
            // Ranges begin and end at whole seconds.
            let at = DateTime::from_timestamp(Scale::of(data_type)?.seconds(value), 0).ok_or_else(outside)?;
            let text = at.format("%Y-%m-%dT%H:%M:%S");
            match zone {
                None => format!("CAST('{text}' AS TIMESTAMP(6))"),
                Some(_) => format!("CAST('{text}Z' AS TIMESTAMP(6) WITH TIME ZONE)"),
            }
        }
        _ => format!("CAST('{value}' AS BIGINT)"),
    })
}
