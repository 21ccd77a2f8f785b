//! The types of BigQuery: how they are written, what they hold, and which one holds an Arrow type.

use std::fmt;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit};
use dpone_planner::schema::TypeShape;
use dpone_planner::type_name::{Argument, TypeName};
use dpone_planner::types::{
    EXTENSION_JSON, MICROS, is_json, is_uuid, logical_name, parse_logical, utc, with_extension, with_native,
};
use dpone_planner::{Error, Result};

use crate::SYSTEM;
use crate::names::quote;

/// Precision and scale.
pub type Digits = Option<(u8, u8)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BqType {
    Bool,
    Int64,
    Float64,
    /// 29 digits before the point and 9 behind it, or fewer.
    Numeric(Digits),
    /// 38 digits on each side of the point, or fewer.
    BigNumeric(Digits),
    /// With the most characters.
    String(Option<u32>),
    /// With the most bytes.
    Bytes(Option<u32>),
    Date,
    Time,
    DateTime,
    Timestamp,
    Interval,
    Json,
    Geography,
    Array(Box<BqType>),
    Struct(Vec<(Option<String>, BqType)>),
    Range(Box<BqType>),
}

impl BqType {
    /// As the catalog writes it, in any case, and by its aliases.
    pub fn native(text: &str) -> Option<Self> {
        Self::of_name(&TypeName::parse(text)?)
    }

    fn of_name(name: &TypeName) -> Option<Self> {
        if !name.rest.is_empty() {
            return None;
        }
        let length = || match name.arguments.as_slice() {
            [] => Some(None),
            [Argument::Number(n)] => u32::try_from(*n).ok().filter(|n| *n > 0).map(Some),
            _ => None,
        };
        let inner = || name.inner().and_then(Self::of_name).map(Box::new);
        let plain = match name.base.to_ascii_uppercase().as_str() {
            "BOOL" | "BOOLEAN" => Self::Bool,
            "INT64" | "INT" | "SMALLINT" | "INTEGER" | "BIGINT" | "TINYINT" | "BYTEINT" => Self::Int64,
            "FLOAT64" | "FLOAT" => Self::Float64,
            "DATE" => Self::Date,
            "TIME" => Self::Time,
            "DATETIME" => Self::DateTime,
            "TIMESTAMP" => Self::Timestamp,
            "INTERVAL" => Self::Interval,
            "JSON" => Self::Json,
            "GEOGRAPHY" => Self::Geography,
            "STRING" => return Some(Self::String(length()?)),
            "BYTES" => return Some(Self::Bytes(length()?)),
            "NUMERIC" | "DECIMAL" => return Some(Self::Numeric(digits(name, 29, 9)?)),
            "BIGNUMERIC" | "BIGDECIMAL" => return Some(Self::BigNumeric(digits(name, 38, 38)?)),
            // An array holds no array.
            "ARRAY" => return Some(Self::Array(inner().filter(|of| !matches!(**of, Self::Array(_)))?)),
            "RANGE" => {
                let of = inner().filter(|of| matches!(**of, Self::Date | Self::DateTime | Self::Timestamp));
                return Some(Self::Range(of?));
            }
            "STRUCT" if !name.arguments.is_empty() => {
                let field = |argument: &Argument| match argument {
                    Argument::Type { name, of } => Some((name.clone(), Self::of_name(of)?)),
                    _ => None,
                };
                return Some(Self::Struct(name.arguments.iter().map(field).collect::<Option<_>>()?));
            }
            _ => return None,
        };
        name.arguments.is_empty().then_some(plain)
    }

    /// As people write it: a type of BigQuery, else a logical name.
    pub fn written(column: &str, text: &str) -> Result<Self> {
        if let Some(native) = Self::native(text) {
            return Ok(native);
        }
        if let Some(name) = TypeName::parse(text)
            && let ("varchar" | "char" | "character varying" | "character", [Argument::Number(n)]) =
                (name.lower().as_str(), name.arguments.as_slice())
            && let Ok(n) = u32::try_from(*n)
        {
            return Ok(Self::String(Some(n.max(1))));
        }
        // A length that there is not is no reason to have none.
        if text.trim().to_ascii_lowercase().starts_with("string") {
            return Err(unknown_type(column, text));
        }
        let logical = parse_logical(column, text).map_err(|_| unknown_type(column, text))?;
        Self::holding(&logical, &logical)
    }

    /// The type that holds every value of a field of another system. `column` is named in errors.
    pub fn holding(column: &Field, field: &Field) -> Result<Self> {
        use DataType as D;
        if is_uuid(field) {
            return Ok(Self::String(None));
        }
        if is_json(field) {
            return Ok(Self::Json);
        }
        Ok(match field.data_type() {
            D::Boolean => Self::Bool,
            D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 => Self::Int64,
            D::UInt64 => Self::Numeric(Some((20, 0))),
            D::Float16 | D::Float32 | D::Float64 => Self::Float64,
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
                let (p, s) = (i32::from(*p), i32::from(*s));
                let (p, s) = if s < 0 { (p - s, 0) } else { (p.max(s), s) };
                numeric(p, s).ok_or_else(|| no_type(column, "cast it to text, or to fewer digits, in a query"))?
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => Self::String(None),
            D::Binary | D::LargeBinary | D::BinaryView => Self::Bytes(None),
            D::FixedSizeBinary(n) => Self::Bytes(u32::try_from(*n).ok().filter(|n| *n > 0)),
            D::Date32 | D::Date64 => Self::Date,
            D::Time32(_) | D::Time64(_) => Self::Time,
            D::Timestamp(_, None) => Self::DateTime,
            D::Timestamp(_, Some(_)) => Self::Timestamp,
            D::Interval(_) => Self::Interval,
            D::Dictionary(_, value) => Self::holding(column, &field.clone().with_data_type(value.as_ref().clone()))?,
            D::List(item)
            | D::LargeList(item)
            | D::FixedSizeList(item, _)
            | D::ListView(item)
            | D::LargeListView(item) => match Self::holding(column, item)? {
                Self::Array(_) => {
                    return Err(no_type(column, "an array of BigQuery holds no array: wrap it in a struct"));
                }
                item => Self::Array(Box::new(item)),
            },
            D::Struct(fields) if !fields.is_empty() => Self::Struct(
                fields
                    .iter()
                    .map(|field| Ok((Some(field.name().clone()), Self::holding(column, field)?)))
                    .collect::<Result<_>>()?,
            ),
            _ => return Err(no_type(column, "turn it into text or into a number, in a query")),
        })
    }

    /// The type that holds exactly the values of a shape.
    pub fn of_shape(shape: &TypeShape) -> Option<Self> {
        Some(match shape {
            TypeShape::Boolean => Self::Bool,
            TypeShape::Integer { bits: 64, signed: false } => Self::Numeric(Some((20, 0))),
            TypeShape::Integer { bits: ..=64, .. } => Self::Int64,
            TypeShape::Decimal { digits: Some((29, 9)) } => Self::Numeric(None),
            TypeShape::Decimal { digits: Some((38, 38)) } => Self::BigNumeric(None),
            TypeShape::Decimal { digits: Some((before, behind)) } => {
                numeric(i32::from(before + behind), i32::from(*behind))?
            }
            TypeShape::Float { .. } => Self::Float64,
            TypeShape::Text { length, .. } => Self::String(*length),
            TypeShape::Bytes { length, .. } => Self::Bytes(*length),
            TypeShape::Date => Self::Date,
            TypeShape::Time { digits: ..=6, zoned: false } => Self::Time,
            TypeShape::Timestamp { digits: ..=6, zoned: false } => Self::DateTime,
            TypeShape::Timestamp { digits: ..=6, zoned: true } => Self::Timestamp,
            TypeShape::Interval { .. } => Self::Interval,
            TypeShape::Uuid => Self::String(None),
            TypeShape::Json { .. } => Self::Json,
            TypeShape::Array(item) => match Self::of_shape(item)? {
                Self::Array(_) => return None,
                item => Self::Array(Box::new(item)),
            },
            TypeShape::Other(name) => Self::native(name)?,
            _ => return None,
        })
    }

    pub fn shape(&self) -> TypeShape {
        match self {
            Self::Bool => TypeShape::Boolean,
            Self::Int64 => TypeShape::Integer { bits: 64, signed: true },
            Self::Float64 => TypeShape::Float { bits: 64 },
            Self::Numeric(None) => TypeShape::decimal(38, 9),
            Self::BigNumeric(None) => TypeShape::decimal(76, 38),
            Self::Numeric(Some((p, s))) | Self::BigNumeric(Some((p, s))) => {
                TypeShape::decimal(i32::from(*p), i32::from(*s))
            }
            Self::String(length) => TypeShape::Text { length: *length, padded: false },
            Self::Bytes(length) => TypeShape::Bytes { length: *length, fixed: false },
            Self::Date => TypeShape::Date,
            Self::Time => TypeShape::Time { digits: 6, zoned: false },
            Self::DateTime => TypeShape::Timestamp { digits: 6, zoned: false },
            Self::Timestamp => TypeShape::Timestamp { digits: 6, zoned: true },
            Self::Interval => TypeShape::Interval { digits: 6, fields: String::new() },
            Self::Json => TypeShape::Json { binary: true },
            Self::Array(item) => TypeShape::Array(Box::new(item.shape())),
            Self::Geography | Self::Struct(_) | Self::Range(_) => TypeShape::Other(self.to_string()),
        }
    }

    /// The column as a field that carries the type.
    pub fn field(&self, column: &str) -> Field {
        let field = with_native(Field::new(column, self.data_type(), true), SYSTEM, &self.to_string());
        if *self == Self::Json { with_extension(field, EXTENSION_JSON) } else { field }
    }

    fn data_type(&self) -> DataType {
        use DataType as D;
        match self {
            Self::Bool => D::Boolean,
            Self::Int64 => D::Int64,
            Self::Float64 => D::Float64,
            Self::Numeric(None) => D::Decimal128(38, 9),
            Self::BigNumeric(None) => D::Decimal256(76, 38),
            Self::Numeric(Some((p, s))) | Self::BigNumeric(Some((p, s))) => match p {
                ..=38 => D::Decimal128(*p, *s as i8),
                _ => D::Decimal256(*p, *s as i8),
            },
            Self::Bytes(_) => D::Binary,
            Self::Date => D::Date32,
            Self::Time => D::Time64(MICROS),
            Self::DateTime => D::Timestamp(MICROS, None),
            Self::Timestamp => D::Timestamp(MICROS, Some(utc())),
            Self::Interval => D::Interval(IntervalUnit::MonthDayNano),
            // No element is NULL.
            Self::Array(item) => D::List(FieldRef::new(Field::new("item", item.data_type(), false))),
            Self::Struct(fields) => {
                let field = |(i, (name, of)): (usize, &(Option<String>, Self))| {
                    Field::new(name.clone().unwrap_or_else(|| format!("_{i}")), of.data_type(), true)
                };
                D::Struct(fields.iter().enumerate().map(field).collect::<Fields>())
            }
            Self::String(_) | Self::Json | Self::Geography | Self::Range(_) => D::Utf8,
        }
    }
}

/// `NUMERIC`, `NUMERIC(p)` and `NUMERIC(p, s)`, within what the type takes before and behind the point.
fn digits(name: &TypeName, before: i64, behind: i64) -> Option<Digits> {
    let (p, s) = match name.numbers()?.as_slice() {
        [] => return Some(None),
        [p] => (*p, 0),
        [p, s] => (*p, *s),
        _ => return None,
    };
    let holds = (0..=behind).contains(&s) && p >= s.max(1) && p - s <= before;
    holds.then_some(Some((p as u8, s as u8)))
}

/// The smaller of the two that has room.
fn numeric(p: i32, s: i32) -> Option<BqType> {
    let digits = Some((u8::try_from(p.max(1)).ok()?, u8::try_from(s).ok()?));
    match (p - s, s) {
        (..=29, ..=9) => Some(BqType::Numeric(digits)),
        (..=38, ..=38) => Some(BqType::BigNumeric(digits)),
        _ => None,
    }
}

impl fmt::Display for BqType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sized = |f: &mut fmt::Formatter<'_>, name: &str, length: &Option<u32>| match length {
            Some(length) => write!(f, "{name}({length})"),
            None => f.write_str(name),
        };
        let digits = |f: &mut fmt::Formatter<'_>, name: &str, digits: &Digits| match digits {
            Some((p, 0)) => write!(f, "{name}({p})"),
            Some((p, s)) => write!(f, "{name}({p}, {s})"),
            None => f.write_str(name),
        };
        match self {
            Self::Bool => f.write_str("BOOL"),
            Self::Int64 => f.write_str("INT64"),
            Self::Float64 => f.write_str("FLOAT64"),
            Self::Numeric(d) => digits(f, "NUMERIC", d),
            Self::BigNumeric(d) => digits(f, "BIGNUMERIC", d),
            Self::String(length) => sized(f, "STRING", length),
            Self::Bytes(length) => sized(f, "BYTES", length),
            Self::Date => f.write_str("DATE"),
            Self::Time => f.write_str("TIME"),
            Self::DateTime => f.write_str("DATETIME"),
            Self::Timestamp => f.write_str("TIMESTAMP"),
            Self::Interval => f.write_str("INTERVAL"),
            Self::Json => f.write_str("JSON"),
            Self::Geography => f.write_str("GEOGRAPHY"),
            Self::Array(item) => write!(f, "ARRAY<{item}>"),
            Self::Range(of) => write!(f, "RANGE<{of}>"),
            Self::Struct(fields) => {
                let field = |(name, of): &(Option<String>, Self)| match name {
                    Some(name) => format!("{} {of}", quote(name)),
                    None => of.to_string(),
                };
                write!(f, "STRUCT<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn no_type(column: &Field, hint: &str) -> Error {
    Error::configuration(format!(
        "column {:?} is {}, which BigQuery has no type for",
        column.name(),
        logical_name(column)
    ))
    .with_hint(hint)
    .with("column", column.name())
}

pub(crate) fn unknown_type(column: &str, text: &str) -> Error {
    Error::configuration(format!("column {column:?}: {text:?} is not a type of BigQuery, nor a logical name"))
        .with_hint(
            "types are written as in DDL: INT64, NUMERIC(10, 2), BIGNUMERIC, STRING(20), TIMESTAMP, DATETIME, \
             ARRAY<INT64>, STRUCT<a INT64>; or logically: text, decimal(18,2), timestamptz",
        )
        .with("column", column)
}
