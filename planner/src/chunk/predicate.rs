//! A chunk as a condition: on the source, where it is pushed down, and on the target, where it is the scope.

use arrow::array::Array;
use arrow::datatypes::{DataType, Field, TimeUnit};
use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, lit};

use super::{Bound, Chunk, Moment, Zone};
use crate::error::{Error, Result};
use crate::types::{is_string, is_uuid, logical_name};

/// The chunk's rows, as a condition on `column`, whose field is `field`. `None`: every row.
///
/// Fails with `configuration` when the column's type has no such bounds.
pub fn filter(chunk: &Chunk, zone: &Zone, field: &Field, column: Expr) -> Result<Option<Expr>> {
    if chunk.null {
        return Ok(Some(column.is_null()));
    }
    check_uuid(chunk, field)?;
    let (lower, upper) = literals(chunk, zone, field)?;
    let lower = lower.map(|value| column.clone().gt_eq(lit(value)));
    let upper = upper.map(|value| match chunk.inclusive_upper {
        true => column.clone().lt_eq(lit(value)),
        false => column.clone().lt(lit(value)),
    });
    Ok(match (lower, upper) {
        (Some(lower), Some(upper)) => Some(lower.and(upper)),
        // One bucket of all values: a row without one is not in it.
        (None, None) => (!chunk.is_everything()).then(|| column.is_not_null()),
        (one, other) => one.or(other),
    })
}

/// The rows of the column that no chunk of the range holds, other than NULL. `None`: there can be none.
pub fn outside(chunks: &[Chunk], zone: &Zone, field: &Field, column: &Expr) -> Result<Option<Expr>> {
    let ranged = || chunks.iter().filter(|chunk| !chunk.null);
    let (Some(first), Some(last)) = (ranged().next(), ranged().next_back()) else { return Ok(None) };
    let (lower, _) = literals(first, zone, field)?;
    let (_, upper) = literals(last, zone, field)?;
    let below = lower.map(|value| column.clone().lt(lit(value)));
    let above = upper.map(|value| match last.inclusive_upper {
        true => column.clone().gt(lit(value)),
        false => column.clone().gt_eq(lit(value)),
    });
    Ok(match (below, above) {
        (Some(below), Some(above)) => Some(below.or(above)),
        (one, other) => one.or(other),
    })
}

/// The same rows in the target, in DataFusion SQL over its field. `None`: every row.
pub fn scope(chunk: &Chunk, zone: &Zone, field: &Field) -> Result<Option<String>> {
    let column = format!("\"{}\"", field.name().replace('"', "\"\""));
    if chunk.null {
        return Ok(Some(format!("{column} IS NULL")));
    }
    let (lower, upper) = literals(chunk, zone, field)?;
    let mut parts = Vec::new();
    if let Some(value) = lower {
        parts.push(format!("{column} >= {}", sql(&value, field)?));
    }
    if let Some(value) = upper {
        let less = if chunk.inclusive_upper { "<=" } else { "<" };
        parts.push(format!("{column} {less} {}", sql(&value, field)?));
    }
    if parts.is_empty() && !chunk.is_everything() {
        parts.push(format!("{column} IS NOT NULL"));
    }
    Ok((!parts.is_empty()).then(|| parts.join(" AND ")))
}

type Ends = (Option<ScalarValue>, Option<ScalarValue>);

fn literals(chunk: &Chunk, zone: &Zone, field: &Field) -> Result<Ends> {
    if let (Some(Bound::Moment(lower)), Some(Bound::Moment(upper)), DataType::Timestamp(_, None)) =
        (&chunk.lower, &chunk.upper, field.data_type())
        && upper.local <= lower.local
    {
        return Err(Error::configuration(format!(
            "chunk {} begins at {} and ends at {} on the clock of {}: column {:?} has no time zone that tells them apart",
            chunk.id,
            lower.local,
            upper.local,
            zone.name(),
            field.name()
        ))
        .with_hint("leave the timezone out, or take a step of days or months"));
    }
    let value = |bound: &Option<Bound>| bound.map(|bound| literal(bound, zone, field)).transpose();
    Ok((value(&chunk.lower)?, value(&chunk.upper)?))
}

/// In a text the letters of a uuid may be large or small: only the type itself has one order.
fn check_uuid(chunk: &Chunk, field: &Field) -> Result<()> {
    let by_uuid = matches!(chunk.lower.or(chunk.upper), Some(Bound::Uuid(_)));
    if by_uuid && !is_uuid(field) { Err(unfit("uuid", field)) } else { Ok(()) }
}

/// A bound in the column's own type.
fn literal(bound: Bound, zone: &Zone, field: &Field) -> Result<ScalarValue> {
    use DataType::*;
    match (bound, field.data_type()) {
        (
            Bound::Integer(value),
            Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Decimal128(_, _) | Decimal256(_, _),
        ) => ScalarValue::Int64(Some(value))
            .cast_to(field.data_type())
            .ok()
            .filter(|cast| !cast.is_null())
            .ok_or_else(|| out_of_range(&value.to_string(), field)),
        (Bound::Date(date), Date32) => days(date),
        (Bound::Date(date), Timestamp(_, None)) => ticks(date.and_time(NaiveTime::MIN), field),
        (Bound::Date(date), Timestamp(_, Some(_))) => ticks(zone.midnight(date)?.instant.naive_utc(), field),
        (Bound::Moment(moment), Timestamp(_, None)) => ticks(moment.local, field),
        (Bound::Moment(moment), Timestamp(_, Some(_))) => ticks(moment.instant.naive_utc(), field),
        (Bound::Moment(moment), Date32) => day(moment, field),
        (Bound::Uuid(value), FixedSizeBinary(16)) => {
            Ok(ScalarValue::FixedSizeBinary(16, Some(value.to_be_bytes().to_vec())))
        }
        (Bound::Uuid(value), text) if is_string(text) => Ok(ScalarValue::Utf8(Some(super::bound::uuid_text(value)))),
        (Bound::Integer(_), _) => Err(unfit("integer", field)),
        (Bound::Date(_), _) => Err(unfit("date", field)),
        (Bound::Moment(_), _) => Err(unfit("timestamp", field)),
        (Bound::Uuid(_), _) => Err(unfit("uuid", field)),
    }
}

fn unfit(kind: &str, field: &Field) -> Error {
    Error::configuration(format!(
        "the chunk column {:?} is of type {}, which chunks of kind {kind} do not cut",
        field.name(),
        logical_name(field)
    ))
    .with_hint(
        "kind date takes a date or timestamp column, timestamp a timestamp, integer an integer or decimal(p,s), uuid a \
         uuid; convert another type in a query: CAST(… AS …)",
    )
}

fn out_of_range(value: &str, field: &Field) -> Error {
    Error::configuration(format!(
        "the bound {value} is beyond the values of the chunk column {:?} of type {}",
        field.name(),
        logical_name(field)
    ))
    .with_hint("take a range that the column's type holds")
}

fn days(date: NaiveDate) -> Result<ScalarValue> {
    let days = date.signed_duration_since(NaiveDate::default()).num_days();
    i32::try_from(days)
        .map(|days| ScalarValue::Date32(Some(days)))
        .map_err(|_| Error::configuration(format!("the date {date} is out of range")))
}

fn day(moment: Moment, field: &Field) -> Result<ScalarValue> {
    if moment.local.time() != NaiveTime::MIN {
        return Err(Error::configuration(format!(
            "a chunk begins or ends at {}, within a day, and the chunk column {:?} is a date",
            moment.local,
            field.name()
        ))
        .with_hint("use bounds and steps of whole days: kind date"));
    }
    days(moment.local.date())
}

/// Column values are whole ticks, so that a bound between two of them is the same as the next one.
fn ticks(at: NaiveDateTime, field: &Field) -> Result<ScalarValue> {
    let DataType::Timestamp(unit, zone) = field.data_type() else { return Err(unfit("timestamp", field)) };
    let zone = zone.clone();
    let (seconds, nanos) = (at.and_utc().timestamp(), i64::from(at.and_utc().timestamp_subsec_nanos()));
    let scaled = |per_second: i64| {
        let part = 1_000_000_000 / per_second;
        seconds.checked_mul(per_second)?.checked_add((nanos + part - 1) / part)
    };
    let too_far = || out_of_range(&at.to_string(), field);
    Ok(match unit {
        TimeUnit::Second => ScalarValue::TimestampSecond(Some(scaled(1).ok_or_else(too_far)?), zone),
        TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(scaled(1_000).ok_or_else(too_far)?), zone),
        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(scaled(1_000_000).ok_or_else(too_far)?), zone),
        TimeUnit::Nanosecond => {
            ScalarValue::TimestampNanosecond(Some(scaled(1_000_000_000).ok_or_else(too_far)?), zone)
        }
    })
}

/// A literal that reads back as exactly this value.
fn sql(value: &ScalarValue, field: &Field) -> Result<String> {
    let shown = || -> Result<String> {
        let array = value.to_array()?;
        Ok(arrow::util::display::array_value_to_string(array.slice(0, 1).as_ref(), 0)?)
    };
    Ok(match value {
        ScalarValue::Date32(_) => format!("CAST('{}' AS DATE)", shown()?),
        ScalarValue::Utf8(Some(text)) => format!("'{text}'"),
        ScalarValue::FixedSizeBinary(16, Some(bytes)) => {
            format!("arrow_cast(X'{}', 'FixedSizeBinary(16)')", crate::state::hex(bytes))
        }
        number if number.data_type().is_integer() => number.to_string(),
        // Any other type has a text form that arrow reads back.
        _ => format!("arrow_cast('{}', '{}')", shown()?, field.data_type()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{ChunkRange, ChunkSpec, NullChunk, Period, split};
    use super::*;
    use crate::expr::predicate;
    use arrow::datatypes::Schema;
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::col;

    fn chunks(range: ChunkRange, zone: &Zone) -> Vec<Chunk> {
        let spec =
            ChunkSpec { column: "c".into(), range, zone: zone.clone(), nulls: NullChunk::Fail, max_chunks: 1000 };
        split(&spec).unwrap()
    }

    fn uuid() -> Field {
        Field::new("c", DataType::FixedSizeBinary(16), true)
            .with_metadata([(crate::types::EXTENSION.to_owned(), crate::types::EXTENSION_UUID.to_owned())].into())
    }

    /// Source and target mean the same rows: the scope parses to the filter.
    #[test]
    fn the_scope_of_a_chunk_is_its_filter() {
        let berlin = Zone::new("Europe/Berlin").unwrap();
        let at = |text: &str| berlin.at(text.parse().unwrap()).unwrap();
        let dates = ChunkRange::Dates {
            from: "2026-03-29".parse().unwrap(),
            to: "2026-04-02".parse().unwrap(),
            step: Period::parse("2d"),
        };
        let moments = ChunkRange::Moments {
            from: at("2026-03-29T00:00:00"),
            to: at("2026-03-30T12:00:00.5"),
            step: Period::parse("1d"),
        };
        let integers = ChunkRange::Integers { from: -5, to: 100, step: Some(50) };
        let micros = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let cases = [
            (dates.clone(), Field::new("c", DataType::Date32, true)),
            (dates.clone(), Field::new("c", micros(None), true)),
            (dates, Field::new("c", micros(Some("UTC")), true)),
            (moments.clone(), Field::new("c", micros(None), true)),
            (moments.clone(), Field::new("c", micros(Some("UTC")), true)),
            (moments, Field::new("c", nanos, true)),
            (integers.clone(), Field::new("c", DataType::Int16, true)),
            (integers.clone(), Field::new("c", DataType::Int64, true)),
            (integers.clone(), Field::new("c", DataType::Decimal128(18, 2), true)),
            (integers, Field::new("c", DataType::Decimal256(50, 10), true)),
            (ChunkRange::Uuids { buckets: 3 }, uuid()),
            (ChunkRange::Uuids { buckets: 1 }, uuid()),
        ];
        for (range, field) in cases {
            let schema = DFSchema::try_from(Schema::new(vec![field.clone()])).unwrap();
            for chunk in chunks(range.clone(), &berlin) {
                let filtered = filter(&chunk, &berlin, &field, col("c")).unwrap().unwrap();
                let text = scope(&chunk, &berlin, &field).unwrap().unwrap();
                let parsed = predicate("the scope", &text, &schema).unwrap();
                assert_eq!(parsed.to_string(), filtered.to_string(), "{text}");
            }
        }
    }

    #[test]
    fn a_day_of_a_zone_is_23_hours_in_march() {
        let berlin = Zone::new("Europe/Berlin").unwrap();
        let date = "2026-03-29".parse().unwrap();
        let chunk = chunks(ChunkRange::Dates { from: date, to: date, step: None }, &berlin).remove(0);
        let field = Field::new("c", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true);
        assert_eq!(
            scope(&chunk, &berlin, &field).unwrap().unwrap(),
            "\"c\" >= arrow_cast('2026-03-28T23:00:00Z', 'Timestamp(µs, \"UTC\")') AND \
             \"c\" < arrow_cast('2026-03-29T22:00:00Z', 'Timestamp(µs, \"UTC\")')"
        );
    }

    #[test]
    fn columns_of_another_type_and_bounds_beyond_it_are_refused() {
        let zone = Zone::utc();
        let integers = chunks(ChunkRange::Integers { from: 1, to: 100_000, step: None }, &zone).remove(0);
        for wrong in [DataType::Utf8, DataType::Float64, DataType::Date32, DataType::Int16] {
            let field = Field::new("c", wrong, true);
            assert!(filter(&integers, &zone, &field, col("c")).is_err(), "{field:?}");
        }
        let uuids = chunks(ChunkRange::Uuids { buckets: 2 }, &zone).remove(0);
        assert!(filter(&uuids, &zone, &Field::new("c", DataType::Utf8, true), col("c")).is_err());
        let moment = |text: &str| zone.at(text.parse().unwrap()).unwrap();
        let half =
            ChunkRange::Moments { from: moment("2026-01-01T00:00:00"), to: moment("2026-01-01T12:00:00"), step: None };
        let half = chunks(half, &zone).remove(0);
        let error = filter(&half, &zone, &Field::new("c", DataType::Date32, true), col("c")).unwrap_err();
        assert!(error.message().contains("within a day"), "{error}");
    }

    #[test]
    fn a_bound_between_two_ticks_is_the_next_one() {
        let zone = Zone::utc();
        let at = |text: &str| zone.at(text.parse().unwrap()).unwrap();
        let range =
            ChunkRange::Moments { from: at("2026-01-01T00:00:00.5"), to: at("2026-01-01T00:00:01"), step: None };
        let chunk = chunks(range, &zone).remove(0);
        let field = Field::new("c", DataType::Timestamp(TimeUnit::Second, None), true);
        let text = scope(&chunk, &zone, &field).unwrap().unwrap();
        assert!(text.contains(">= arrow_cast('2026-01-01T00:00:01'"), "{text}");
    }
}
