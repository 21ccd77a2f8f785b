//! How each type is read: what is selected, what the server sends for it, and what becomes of that.
//!
//! Most types are read as they are. What Arrow has no type for is selected through a function that makes a text of it:
//! numbers beyond 128 bits, labels of enums, addresses, maps and tuples. Another ClickHouse gets them as they are.

use arrow::datatypes::{DataType, Field, TimeUnit};
use dpone_planner::order::ValueOrder;
use dpone_planner::types::{
    CARRIAGE, CARRIAGE_RAW, EXTENSION, EXTENSION_JSON, MICROS, ORDER, is_binary, is_string, logical_name,
    parse_logical, utc, with_extension,
};
use dpone_planner::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::types::{ChType, SIMPLE, quote};

/// What becomes of a column as it arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decode {
    /// It is what it should be, apart from a decimal's precision.
    Same,
    /// A string, which must be UTF-8.
    Text,
    /// A fixed string, whose zeros at the end do not count.
    FixedText,
    /// A string of any bytes.
    Bytes,
    /// Integers of 128 bits, the lowest byte first.
    Wide {
        signed: bool,
    },
    /// A point in time in seconds.
    Instant,
    /// A point in time as a number of units, so many of them ten to the power of `digits` a second.
    Ticks {
        digits: u8,
    },
    /// A time of day as a number of such units.
    Time {
        digits: u8,
    },
    /// Lists of such things.
    List(Box<Decode>),
    /// As the server sends them: maps and tuples of such things.
    Map(Box<Decode>, Box<Decode>),
    Struct(Vec<Decode>),
}

/// A column as it is read.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub field: Field,
    /// The expression that is selected.
    pub select: String,
    pub decode: Decode,
}

/// What a server's version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sends {
    /// UUIDs as sixteen bytes, the highest first.
    pub uuid: bool,
}

impl Sends {
    pub(crate) fn of((year, month): (u32, u32)) -> Self {
        // Seen there. Older servers send them too, some with their halves turned round.
        Self { uuid: (year, month) >= (26, 9) }
    }
}

/// Characters of a type in a message: an enumeration may have thousands of labels.
const SHOWN: usize = 200;

/// How a column of this type is read. `raw`: as the server sends it, for another ClickHouse; `declared`: a logical type
/// that the definition asks for.
pub(crate) fn column(name: &str, native: &str, raw: bool, declared: Option<&str>, sends: Sends) -> Result<Column> {
    let Some(own) = ChType::native(native) else {
        return Err(unreadable(name, native).with_hint("turn it into another type in a query: SELECT toString(…) AS …"));
    };
    let field = with_order(own.field(name), &own);
    if raw && let Some((select, data_type, decode)) = raw_form(&own, &quote(name), sends) {
        let mut metadata = field.metadata().clone();
        metadata.insert(CARRIAGE.to_owned(), CARRIAGE_RAW.to_owned());
        metadata.remove(ORDER);
        let field = field.with_data_type(data_type).with_metadata(metadata);
        return Ok(Column { field, select, decode });
    }
    let (select, decode) = portable(&own, &quote(name), 0, sends).ok_or_else(|| {
        let hint = match stored(&own) {
            ChType::Aggregate { .. } => "finalizeAggregation(…) in a query gives the values of aggregate states",
            _ => "turn it into another type in a query: SELECT toString(…) AS …",
        };
        unreadable(name, native).with_hint(hint)
    })?;
    let column = Column { field, select, decode };
    match declared {
        None => Ok(column),
        Some(declared) => as_declared(column, &own, declared),
    }
}

fn unreadable(name: &str, native: &str) -> Error {
    let shown: String = native.chars().take(SHOWN).collect();
    let native = if shown.len() < native.len() { shown + "…" } else { shown };
    Error::configuration(format!("column {name:?} is {native}, which cannot be read")).with("column", name)
}

/// The order of values that travel as text; that of strings is the order of their bytes.
fn with_order(field: Field, own: &ChType) -> Field {
    let order = match stored(own) {
        ChType::String => ValueOrder::Arrow,
        ChType::Int { bits: 256, .. } => ValueOrder::Numeric,
        ChType::Enum { labels, .. } => ValueOrder::Labels(labels.iter().map(|(label, _)| label.clone()).collect()),
        _ => return field,
    };
    let mut metadata = field.metadata().clone();
    metadata.insert(ORDER.to_owned(), order.metadata());
    field.with_metadata(metadata)
}

/// The type of the values, whatever is around it.
pub(crate) fn stored(own: &ChType) -> &ChType {
    match own {
        ChType::Nullable(inner) | ChType::LowCardinality(inner) => stored(inner),
        ChType::Aggregate { base: SIMPLE, of, .. } if of.len() == 1 => stored(&of[0]),
        other => other,
    }
}

/// The expression over `sql` and what it sends, or `None` for what cannot be read. `depth` names the variables of arrays.
fn portable(own: &ChType, sql: &str, depth: usize, sends: Sends) -> Option<(String, Decode)> {
    let plain = |decode| Some((sql.to_owned(), decode));
    let through = |function: &str, decode| Some((format!("{function}({sql})"), decode));
    match stored(own) {
        ChType::Bool | ChType::Float32 | ChType::Float64 | ChType::BFloat16 => plain(Decode::Same),
        ChType::Date | ChType::Date32 | ChType::Decimal { .. } => plain(Decode::Same),
        ChType::Int { bits: ..=64, .. } | ChType::FixedString(_) => plain(Decode::Same),
        ChType::Int { bits: 128, signed } => plain(Decode::Wide { signed: *signed }),
        ChType::String => plain(Decode::Text),
        ChType::DateTime(_) => plain(Decode::Instant),
        // Beyond 2262 Arrow has no nanoseconds: the ticks are checked one by one.
        ChType::DateTime64(digits, _) => plain(Decode::Ticks { digits: *digits }),
        ChType::Time => plain(Decode::Time { digits: 0 }),
        ChType::Time64(digits) => plain(Decode::Time { digits: *digits }),
        ChType::Uuid if sends.uuid => plain(Decode::Same),
        ChType::Uuid => Some((format!("UUIDStringToNum(toString({sql}))"), Decode::Same)),
        ChType::Array(item) => {
            let variable = format!("x{depth}");
            let (inner, decode) = portable(item, &variable, depth + 1, sends)?;
            let list = Decode::List(Box::new(decode));
            if inner == variable {
                plain(list)
            } else {
                Some((format!("arrayMap({variable} -> {inner}, {sql})"), list))
            }
        }
        // A NULL in it would be an empty text.
        ChType::Plain("Dynamic") | ChType::Aggregate { .. } => None,
        _ => through("toString", Decode::Text),
    }
}

/// What goes to another ClickHouse instead, where that differs from what other systems get: mostly what the server sends,
/// because it takes the same back.
fn raw_form(own: &ChType, sql: &str, sends: Sends) -> Option<(String, DataType, Decode)> {
    match stored(own) {
        // What Arrow has no type for goes as text, and what is beside it as it is: the server makes nothing of one text for
        // the whole that would be the same in another zone.
        ChType::Array(_) | ChType::Map(..) | ChType::Tuple(_) | ChType::DateTime64(7 | 8, _)
            if wire(own, sends).is_none() =>
        {
            let carried = carried(own, sends)?;
            let (data_type, decode) = wire(&carried, sends)?;
            Some((format!("CAST({sql} AS {carried})"), data_type, decode))
        }
        ChType::String
        | ChType::Int { bits: 128 | 256, .. }
        | ChType::Enum { .. }
        | ChType::Plain("IPv4" | "IPv6")
        | ChType::Array(_)
        | ChType::Map(..)
        | ChType::Tuple(_) => wire(own, sends).map(|(data_type, decode)| (sql.to_owned(), data_type, decode)),
        // Arrow's time of day is taken back by Time64 alone, and holds no negative times.
        ChType::Time | ChType::Time64(_) => Some((format!("toString({sql})"), DataType::Binary, Decode::Same)),
        _ => None,
    }
}

/// The type with text in the place of every part that has no form of its own on the way, or `None` where one has no text
/// either. Points in time of seven and eight digits go as seconds: Arrow's nanoseconds end in 2262.
fn carried(own: &ChType, sends: Sends) -> Option<ChType> {
    let part = |of: &ChType| carried(of, sends).map(Box::new);
    // Without a dictionary: the server casts to few of them unasked.
    let plain = match stored(own) {
        ChType::Array(item) => ChType::Array(part(item)?),
        ChType::Map(key, value) => ChType::Map(part(key)?, part(value)?),
        ChType::Tuple(fields) if !fields.is_empty() => {
            let fields = fields.iter().map(|(name, of)| Some((name.clone(), carried(of, sends)?)));
            ChType::Tuple(fields.collect::<Option<_>>()?)
        }
        leaf if wire(leaf, sends).is_some() => leaf.clone(),
        ChType::DateTime64(digits, _) => ChType::Decimal { precision: 38, scale: *digits },
        leaf => portable(leaf, "x", 0, sends).map(|_| ChType::String)?,
    };
    Some(plain.with_nullable(own.is_nullable()))
}

/// A type as the server sends it, where all versions send the same.
fn wire(own: &ChType, sends: Sends) -> Option<(DataType, Decode)> {
    use DataType as D;
    let named = |name: &str, of: &ChType| {
        let (data_type, decode) = wire(of, sends)?;
        Some((Field::new(name, data_type, of.is_nullable()), decode))
    };
    Some(match stored(own) {
        ChType::Bool
        | ChType::Int { bits: ..=64, .. }
        | ChType::Float32
        | ChType::Float64
        | ChType::Decimal { .. }
        | ChType::BFloat16
        | ChType::Date
        | ChType::Date32
        | ChType::FixedString(_) => (stored(own).data_type(), Decode::Same),
        ChType::Uuid if sends.uuid => (own.data_type(), Decode::Same),
        // Without the word whose zone it is: the server has the instant alone.
        ChType::DateTime(_) => (D::Timestamp(MICROS, None), Decode::Instant),
        ChType::DateTime64(digits @ ..=6, _) => (D::Timestamp(MICROS, None), Decode::Ticks { digits: *digits }),
        ChType::DateTime64(9, _) => (D::Timestamp(TimeUnit::Nanosecond, None), Decode::Ticks { digits: 9 }),
        ChType::String => (D::Binary, Decode::Same),
        ChType::Int { bits: 128, .. } | ChType::Plain("IPv6") => (D::FixedSizeBinary(16), Decode::Same),
        ChType::Int { bits: 256, .. } => (D::FixedSizeBinary(32), Decode::Same),
        ChType::Enum { bits: 8, .. } => (D::Int8, Decode::Same),
        ChType::Enum { .. } => (D::Int16, Decode::Same),
        ChType::Plain("IPv4") => (D::UInt32, Decode::Same),
        ChType::Array(item) => {
            let (item, decode) = named("item", item)?;
            (D::List(item.into()), Decode::List(Box::new(decode)))
        }
        ChType::Map(key, value) => {
            let ((key, of_key), (value, of_value)) = (named("key", key)?, named("value", value)?);
            let entries = Field::new("entries", D::Struct(vec![key, value].into()), false);
            (D::Map(entries.into(), false), Decode::Map(Box::new(of_key), Box::new(of_value)))
        }
        ChType::Tuple(fields) if !fields.is_empty() => {
            let fields = fields.iter().enumerate().map(|(at, (name, of))| match name {
                Some(name) => named(name, of),
                None => named(&(at + 1).to_string(), of),
            });
            let (fields, decode): (Vec<_>, Vec<_>) = fields.collect::<Option<Vec<_>>>()?.into_iter().unzip();
            (D::Struct(fields.into()), Decode::Struct(decode))
        }
        _ => return None,
    })
}

/// The column in a type that the definition asks for, where every value is one of it, or is checked.
fn as_declared(column: Column, own: &ChType, declared: &str) -> Result<Column> {
    let name = column.field.name().clone();
    let wanted = parse_logical(&name, declared)?;
    let found = column.field.data_type().clone();
    let to = wanted.data_type();
    if *to == found && wanted.metadata().get(EXTENSION) == column.field.metadata().get(EXTENSION) {
        return Ok(column);
    }
    let text = |select: String, decode: Decode| {
        // It is text now, whatever it was, and sorts as text.
        let mut metadata = column.field.metadata().clone();
        metadata.remove(EXTENSION);
        metadata.insert(ORDER.to_owned(), ValueOrder::Arrow.metadata());
        let field = column.field.clone().with_data_type(DataType::Utf8).with_metadata(metadata);
        Column { field, select, decode }
    };
    Ok(match (stored(own), to) {
        (ChType::FixedString(_), to) if is_string(to) && wanted.metadata().is_empty() => {
            text(quote(&name), Decode::FixedText)
        }
        (ChType::String, to)
            if is_string(to) && wanted.metadata().get(EXTENSION).is_some_and(|e| e == EXTENSION_JSON) =>
        {
            Column { field: with_extension(column.field.clone(), EXTENSION_JSON), ..column }
        }
        (ChType::String | ChType::FixedString(_), to) if is_binary(to) => {
            let mut metadata = column.field.metadata().clone();
            metadata.remove(ORDER);
            let field = column.field.clone().with_data_type(DataType::Binary).with_metadata(metadata);
            Column { field, select: quote(&name), decode: Decode::Bytes }
        }
        (ChType::DateTime(_) | ChType::DateTime64(..), DataType::Timestamp(unit, zone)) if matches!(&found, DataType::Timestamp(own, _) if own == unit) =>
        {
            // The same instants, with or without the word that they are UTC's.
            let to = DataType::Timestamp(*unit, zone.as_ref().map(|_| utc()));
            Column { field: column.field.clone().with_data_type(to), ..column }
        }
        // The server rounds nothing: what is finer fails there.
        (ChType::DateTime64(digits @ 7.., _), DataType::Timestamp(TimeUnit::Microsecond, zone)) => Column {
            field: column.field.clone().with_data_type(DataType::Timestamp(MICROS, zone.as_ref().map(|_| utc()))),
            decode: Decode::Ticks { digits: *digits },
            ..column
        },
        (stored, to) if is_string(to) && wanted.metadata().is_empty() && !matches!(stored, ChType::Array(_)) => {
            text(format!("toString({})", quote(&name)), Decode::Text)
        }
        _ => {
            return Err(Error::configuration(format!(
                "column {name:?} is {own}, which is read as {} and not as {declared}",
                logical_name(&column.field)
            ))
            .with_hint("it can be text; for anything else, convert it in a query")
            .with("column", &name));
        }
    })
}

/// The rows of the table in the reference of types.
pub fn type_table() -> Vec<[&'static str; 4]> {
    vec![
        ["Bool", "Boolean", "", ""],
        ["Int8 to Int64, UInt8 to UInt64", "Int8 to Int64, UInt8 to UInt64", "", ""],
        ["Int128, UInt128", "Decimal256(39,0)", "FixedSizeBinary(16)", ""],
        ["Int256, UInt256", "Utf8", "FixedSizeBinary(32)", "decimal digits; sorts as a number"],
        ["Float32, Float64", "Float32, Float64", "", "bit for bit, NaN and -0 included"],
        ["BFloat16", "Float32", "", ""],
        [
            "Decimal(p,s), p up to 38",
            "Decimal128(p,s)",
            "",
            "a value of more digits than its column has fails the run, naming the column",
        ],
        ["Decimal(p,s), p up to 76", "Decimal256(p,s)", "", ""],
        ["String", "Utf8", "Binary", "bytes that are not UTF-8 fail the run, naming the column: declare it bytes"],
        [
            "FixedString(n)",
            "FixedSizeBinary(n)",
            "",
            "with its zeros; declared text, the zeros at the end are left out",
        ],
        ["Date, Date32", "Date32", "", ""],
        ["DateTime", "Timestamp(us)", "", "the clock of UTC, whatever zone the server has"],
        ["DateTime('zone')", "Timestamp(us, \"UTC\")", "", "the same instants; the zone stays in the field's metadata"],
        ["DateTime64(p), p up to 6", "Timestamp(us)", "", "the clock of UTC"],
        [
            "DateTime64(p), p from 7",
            "Timestamp(ns)",
            "",
            "outside 1677 to 2262 a value fails the run, naming the column: declare it timestamp",
        ],
        ["DateTime64(p, 'zone')", "Timestamp(us or ns, \"UTC\")", "", ""],
        [
            "Time, Time64(p)",
            "Time64(us), Time64(ns) from p = 7",
            "Binary, text of the server",
            "negative times, and those of a day and more, fail the run: declare them text",
        ],
        ["UUID", "FixedSizeBinary(16), arrow.uuid", "", ""],
        ["IPv4, IPv6", "Utf8", "UInt32, FixedSizeBinary(16)", "text of the server"],
        ["Enum8, Enum16", "Utf8", "Int8, Int16", "labels; they sort by their numbers"],
        ["JSON", "Utf8, arrow.json", "", "text of the server"],
        ["Array(T)", "List(T)", "as the server sends it", "Nested(…) is an array for each of its columns"],
        ["Map, Tuple", "Utf8", "as the server sends it", "text of the server"],
        ["Point and other shapes", "Utf8", "", "text of the server"],
        ["Nullable(T), LowCardinality(T)", "as T", "as T", ""],
        ["SimpleAggregateFunction(f, T)", "as T", "as T", ""],
        ["AggregateFunction, Dynamic, Variant", "*refused*", "", "convert them in a query"],
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NEW: Sends = Sends { uuid: true };

    #[test]
    fn what_arrow_would_lose_is_selected_through_a_function() {
        let select = |native: &str| column("c", native, false, None, NEW).unwrap().select;
        assert_eq!(select("UInt64"), "`c`");
        assert_eq!(select("LowCardinality(Nullable(String))"), "`c`");
        assert_eq!(select("Array(Array(UInt256))"), "arrayMap(x0 -> arrayMap(x1 -> toString(x1), x0), `c`)");
        assert_eq!(select("Array(Nullable(Int64))"), "`c`");
        assert_eq!(select("Nullable(DateTime64(9))"), "`c`");
        assert_eq!(select("Map(String, UInt8)"), "toString(`c`)");
        let old = column("c", "Array(UUID)", false, None, Sends::of((25, 8))).unwrap();
        assert_eq!(old.select, "arrayMap(x0 -> UUIDStringToNum(toString(x0)), `c`)");
        for refused in ["Dynamic", "AggregateFunction(sum, UInt64)", "Variant(Int8, String)", "Array(Dynamic)"] {
            let error = column("c", refused, false, None, NEW).unwrap_err();
            assert!(error.message().contains(refused) && error.hint().is_some(), "{error:?}");
        }
    }

    #[test]
    fn a_declared_type_keeps_every_value_or_is_refused() {
        let read = |native: &str, declared: &str| column("c", native, false, Some(declared), NEW);
        assert_eq!(read("String", "bytes").unwrap().decode, Decode::Bytes);
        assert_eq!(read("FixedString(2)", "text").unwrap().decode, Decode::FixedText);
        assert_eq!(read("UUID", "text").unwrap().select, "toString(`c`)");
        let zoned = read("DateTime", "timestamptz").unwrap();
        assert_eq!(zoned.field.data_type(), &DataType::Timestamp(MICROS, Some(utc())));
        for (native, declared) in
            [("String", "integer"), ("UInt64", "bigint"), ("Array(UInt8)", "text"), ("Date", "timestamp")]
        {
            assert!(read(native, declared).is_err(), "{native} as {declared}");
        }
    }
}
