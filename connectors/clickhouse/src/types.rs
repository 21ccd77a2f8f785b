//! The types of ClickHouse: how they are written, what they hold, and which one holds an Arrow type.
//!
//! ClickHouse's own names are read as the server prints them, with their capitals: `DateTime` has seconds, `datetime` is
//! the logical name and has microseconds. Any other name is logical, or one of the server's aliases.

use std::fmt;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use dpone_planner::schema::TypeShape;
use dpone_planner::type_name::{Argument, TypeName};
use dpone_planner::types::{
    EXTENSION_JSON, EXTENSION_UUID, MICROS, is_json, is_uuid, logical_name, parse_logical, utc, with_extension,
    with_native,
};
use dpone_planner::{Error, Result};

use crate::SYSTEM;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChType {
    Bool,
    /// 8 to 256 bits.
    Int {
        bits: u16,
        signed: bool,
    },
    Float32,
    Float64,
    BFloat16,
    Decimal {
        precision: u8,
        scale: u8,
    },
    String,
    FixedString(u32),
    /// 1970 to 2149.
    Date,
    /// 1900 to 2299.
    Date32,
    /// 1970 to 2106, in seconds; with the zone in which it is shown.
    DateTime(Option<String>),
    DateTime64(u8, Option<String>),
    Time,
    Time64(u8),
    Uuid,
    Json,
    /// 8 or 16 bits, the labels by their numbers.
    Enum {
        bits: u16,
        labels: Vec<(String, i64)>,
    },
    Array(Box<ChType>),
    Map(Box<ChType>, Box<ChType>),
    Tuple(Vec<(Option<String>, ChType)>),
    Nullable(Box<ChType>),
    LowCardinality(Box<ChType>),
    /// With the function that it keeps states of.
    Aggregate {
        base: &'static str,
        function: String,
        of: Vec<ChType>,
    },
    /// Types that nothing is converted to or from: `IPv4`, `Point`, `Dynamic`.
    Plain(&'static str),
}

/// Keeps values, and merges them: it is read and written as the type of its argument.
pub(crate) const SIMPLE: &str = "SimpleAggregateFunction";

const PLAIN: &[&str] = &[
    "IPv4",
    "IPv6",
    "Dynamic",
    "Point",
    "Ring",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "MultiPoint",
    "Geometry",
    "Nothing",
    "IntervalNanosecond",
    "IntervalMicrosecond",
    "IntervalMillisecond",
    "IntervalSecond",
    "IntervalMinute",
    "IntervalHour",
    "IntervalDay",
    "IntervalWeek",
    "IntervalMonth",
    "IntervalQuarter",
    "IntervalYear",
];

/// The server's aliases that are no logical names, in lower case.
const ALIASES: &[(&str, &str)] = &[
    ("int1", "Int8"),
    ("byte", "Int8"),
    ("signed", "Int64"),
    ("unsigned", "UInt64"),
    ("mediumint", "Int32"),
    ("tinyint unsigned", "UInt8"),
    ("smallint unsigned", "UInt16"),
    ("int unsigned", "UInt32"),
    ("integer unsigned", "UInt32"),
    ("bigint unsigned", "UInt64"),
    ("single", "Float32"),
    ("blob", "String"),
    ("clob", "String"),
    ("longtext", "String"),
    ("mediumtext", "String"),
    ("tinytext", "String"),
    ("nvarchar", "String"),
    ("nchar", "String"),
    ("varchar2", "String"),
    ("character", "String"),
    ("inet4", "IPv4"),
    ("inet6", "IPv6"),
    ("uint8", "UInt8"),
    ("uint16", "UInt16"),
    ("uint32", "UInt32"),
    ("uint64", "UInt64"),
    ("int128", "Int128"),
    ("int256", "Int256"),
    ("uint128", "UInt128"),
    ("uint256", "UInt256"),
];

impl ChType {
    /// As the server prints it.
    pub fn native(text: &str) -> Option<Self> {
        Self::of_name(&TypeName::parse(text)?)
    }

    fn of_name(name: &TypeName) -> Option<Self> {
        if !name.rest.is_empty() {
            return None;
        }
        let inner = || name.inner().and_then(Self::of_name).map(Box::new);
        let numbers = || name.numbers();
        Some(match (name.base.as_str(), name.arguments.as_slice()) {
            ("Bool", []) => Self::Bool,
            ("Float32", []) => Self::Float32,
            ("Float64", []) => Self::Float64,
            ("BFloat16", []) => Self::BFloat16,
            ("String", []) => Self::String,
            ("UUID", []) => Self::Uuid,
            // With the paths whose types are declared: they change nothing of what it holds.
            ("JSON", _) => Self::Json,
            ("Date", []) => Self::Date,
            ("Date32", []) => Self::Date32,
            ("Time", []) => Self::Time,
            ("DateTime" | "DateTime32", []) => Self::DateTime(None),
            ("DateTime" | "DateTime32", [Argument::Text(zone)]) => Self::DateTime(Some(zone.clone())),
            ("DateTime64", [Argument::Number(digits @ 0..=9)]) => Self::DateTime64(*digits as u8, None),
            ("DateTime64", [Argument::Number(digits @ 0..=9), Argument::Text(zone)]) => {
                Self::DateTime64(*digits as u8, Some(zone.clone()))
            }
            ("Time64", [Argument::Number(digits @ 0..=9)]) => Self::Time64(*digits as u8),
            ("FixedString", [Argument::Number(n)]) => Self::FixedString(u32::try_from(*n).ok().filter(|n| *n > 0)?),
            ("Decimal", _) => match numbers()?.as_slice() {
                [] => decimal(10, 0)?,
                [precision] => decimal(*precision, 0)?,
                [precision, scale] => decimal(*precision, *scale)?,
                _ => return None,
            },
            ("Decimal32", [Argument::Number(scale)]) => decimal(9, *scale)?,
            ("Decimal64", [Argument::Number(scale)]) => decimal(18, *scale)?,
            ("Decimal128", [Argument::Number(scale)]) => decimal(38, *scale)?,
            ("Decimal256", [Argument::Number(scale)]) => decimal(76, *scale)?,
            ("Enum8" | "Enum16" | "Enum", labels) => enumeration(&name.base, labels)?,
            ("Array", _) => Self::Array(inner()?),
            ("Nullable", _) => {
                // Of NULL alone: `SELECT NULL AS n`.
                let takes_null = |inner: &Self| inner.takes_null() || *inner == Self::Plain("Nothing");
                Self::Nullable(inner().filter(|inner| takes_null(inner))?)
            }
            ("LowCardinality", _) => Self::LowCardinality(inner()?),
            ("Map", [Argument::Type { name: None, of: key }, Argument::Type { name: None, of: value }]) => {
                Self::Map(Box::new(Self::of_name(key)?), Box::new(Self::of_name(value)?))
            }
            ("Tuple", fields) => Self::Tuple(
                fields
                    .iter()
                    .map(|field| match field {
                        Argument::Type { name, of } => Some((name.clone(), Self::of_name(of)?)),
                        _ => None,
                    })
                    .collect::<Option<_>>()?,
            ),
            (
                "AggregateFunction" | "SimpleAggregateFunction",
                [Argument::Type { name: None, of: function }, types @ ..],
            ) if function.arguments.is_empty() && !function.base.contains(' ') => {
                let base = if name.base.starts_with('S') { SIMPLE } else { "AggregateFunction" };
                let of = types
                    .iter()
                    .map(|of| match of {
                        Argument::Type { name: None, of } => Self::of_name(of),
                        _ => None,
                    })
                    .collect::<Option<_>>()?;
                Self::Aggregate { base, function: function.base.clone(), of }
            }
            (base, []) => match integer(base) {
                Some(integer) => integer,
                None => Self::Plain(PLAIN.iter().find(|plain| **plain == base)?),
            },
            _ => return None,
        })
    }

    /// As people write it: a type of ClickHouse, else a logical name.
    pub fn written(column: &str, text: &str) -> Result<Self> {
        if let Some(native) = Self::native(text) {
            return Ok(native);
        }
        let logical = match parse_logical(column, text) {
            Ok(logical) => logical,
            Err(_) => {
                let base = text.split('(').next().unwrap_or_default().trim().to_ascii_lowercase();
                let alias = ALIASES.iter().find(|(alias, _)| *alias == base);
                return alias.and_then(|(_, name)| Self::native(name)).ok_or_else(|| unknown_type(column, text));
            }
        };
        Self::holding(&logical, &logical)
    }

    /// The type that holds every value of a field of another system, NULL apart. `column` is named in errors.
    pub fn holding(column: &Field, field: &Field) -> Result<Self> {
        use DataType as D;
        if is_uuid(field) {
            return Ok(Self::Uuid);
        }
        // As it was written: `JSON` takes objects alone, and sorts and merges their keys.
        if is_json(field) {
            return Ok(Self::String);
        }
        let int = |bits, signed| Self::Int { bits, signed };
        Ok(match field.data_type() {
            D::Boolean => Self::Bool,
            D::Int8 => int(8, true),
            D::Int16 => int(16, true),
            D::Int32 => int(32, true),
            D::Int64 => int(64, true),
            D::UInt8 => int(8, false),
            D::UInt16 => int(16, false),
            D::UInt32 => int(32, false),
            D::UInt64 => int(64, false),
            D::Float16 | D::Float32 => Self::Float32,
            D::Float64 => Self::Float64,
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
                let (p, s) = (i64::from(*p), i64::from(*s));
                let (p, s) = if s < 0 { (p - s, 0) } else { (p.max(s), s) };
                decimal(p, s).ok_or_else(|| no_type(column, "cast it to text in a query"))?
            }
            // Before 25.6 there is no type for a time of day. ISO text sorts as time does and is read by everybody.
            D::Time32(_) | D::Time64(_) => Self::String,
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => Self::String,
            // A string is any bytes.
            D::Binary | D::LargeBinary | D::BinaryView => Self::String,
            D::FixedSizeBinary(n) => u32::try_from(*n).ok().filter(|n| *n > 0).map_or(Self::String, Self::FixedString),
            D::Date32 | D::Date64 => Self::Date32,
            D::Timestamp(unit, zone) => Self::DateTime64(fraction(*unit), zone.as_ref().map(|_| "UTC".to_owned())),
            D::Dictionary(_, value) => Self::holding(column, &field.clone().with_data_type(value.as_ref().clone()))?,
            D::List(item)
            | D::LargeList(item)
            | D::FixedSizeList(item, _)
            | D::ListView(item)
            | D::LargeListView(item) => {
                Self::Array(Box::new(Self::holding(column, item)?.with_nullable(item.is_nullable())))
            }
            D::Struct(fields) => Self::Tuple(
                fields
                    .iter()
                    .map(|field| {
                        let of = Self::holding(column, field)?.with_nullable(field.is_nullable());
                        Ok((Some(field.name().clone()), of))
                    })
                    .collect::<Result<_>>()?,
            ),
            _ => return Err(no_type(column, "turn it into text or into a number, in a query")),
        })
    }

    /// The type that holds exactly the values of a shape.
    pub fn of_shape(shape: &TypeShape) -> Option<Self> {
        Some(match shape {
            TypeShape::Boolean => Self::Bool,
            TypeShape::Integer { bits, signed } => Self::Int { bits: *bits, signed: *signed },
            TypeShape::Decimal { digits: Some((before, behind)) } => {
                decimal(i64::from(before + behind), i64::from(*behind))?
            }
            TypeShape::Float { bits: 16 | 32 } => Self::Float32,
            TypeShape::Float { .. } => Self::Float64,
            TypeShape::Text { .. } | TypeShape::Bytes { .. } => Self::String,
            TypeShape::Date => Self::Date32,
            TypeShape::Time { digits, zoned: false } => Self::Time64(*digits),
            TypeShape::Timestamp { digits, zoned } => Self::DateTime64(*digits, zoned.then(|| "UTC".to_owned())),
            TypeShape::Uuid => Self::Uuid,
            TypeShape::Json { .. } => Self::Json,
            TypeShape::Array(item) => Self::Array(Box::new(Self::of_shape(item)?)),
            TypeShape::Limited { by, of } => match (by.as_str(), of.as_ref()) {
                ("FixedString", TypeShape::Text { length: Some(n), .. }) => Self::FixedString(*n),
                ("Date", _) => Self::Date,
                ("DateTime", TypeShape::Timestamp { zoned, .. }) => Self::DateTime(zoned.then(|| "UTC".to_owned())),
                _ => return None,
            },
            TypeShape::Other(name) => Self::native(name)?,
            _ => return None,
        })
    }

    pub fn shape(&self) -> TypeShape {
        match self {
            Self::Bool => TypeShape::Boolean,
            Self::Int { bits, signed } => TypeShape::Integer { bits: *bits, signed: *signed },
            Self::Float32 => TypeShape::Float { bits: 32 },
            Self::Float64 => TypeShape::Float { bits: 64 },
            Self::Decimal { precision, scale } => TypeShape::decimal(i32::from(*precision), i32::from(*scale)),
            Self::String => TypeShape::Text { length: None, padded: false },
            Self::FixedString(n) => TypeShape::Text { length: Some(*n), padded: false }.limited("FixedString"),
            Self::Date => TypeShape::Date.limited("Date"),
            Self::Date32 => TypeShape::Date,
            Self::DateTime(zone) => TypeShape::Timestamp { digits: 0, zoned: zone.is_some() }.limited("DateTime"),
            Self::DateTime64(digits, zone) => TypeShape::Timestamp { digits: *digits, zoned: zone.is_some() },
            Self::Time => TypeShape::Time { digits: 0, zoned: false },
            Self::Time64(digits) => TypeShape::Time { digits: *digits, zoned: false },
            Self::Uuid => TypeShape::Uuid,
            Self::Json => TypeShape::Json { binary: true },
            Self::Enum { labels, .. } => TypeShape::Enum(labels.iter().map(|(label, _)| label.clone()).collect()),
            Self::Array(item) => TypeShape::Array(Box::new(item.shape())),
            Self::Nullable(inner) | Self::LowCardinality(inner) => inner.shape(),
            Self::BFloat16 | Self::Map(..) | Self::Tuple(_) | Self::Aggregate { .. } | Self::Plain(_) => {
                TypeShape::Other(self.to_string())
            }
        }
    }

    /// The column as a field that carries the type; it takes NULL where the type does.
    pub fn field(&self, column: &str) -> Field {
        let field = Field::new(column, self.data_type(), self.is_nullable());
        let field = with_native(field, SYSTEM, &self.to_string());
        match self.inner() {
            Self::Uuid => with_extension(field, EXTENSION_UUID),
            Self::Json => with_extension(field, EXTENSION_JSON),
            _ => field,
        }
    }

    pub(crate) fn data_type(&self) -> DataType {
        use DataType as D;
        let unit = |digits: u8| if digits > 6 { TimeUnit::Nanosecond } else { MICROS };
        match self {
            Self::Bool => D::Boolean,
            Self::Int { bits: 8, signed: true } => D::Int8,
            Self::Int { bits: 16, signed: true } => D::Int16,
            Self::Int { bits: 32, signed: true } => D::Int32,
            Self::Int { bits: 64, signed: true } => D::Int64,
            Self::Int { bits: 8, .. } => D::UInt8,
            Self::Int { bits: 16, .. } => D::UInt16,
            Self::Int { bits: 32, .. } => D::UInt32,
            Self::Int { bits: 64, .. } => D::UInt64,
            Self::Int { bits: 128, .. } => D::Decimal256(39, 0),
            Self::Float32 | Self::BFloat16 => D::Float32,
            Self::Float64 => D::Float64,
            Self::Decimal { precision: p @ ..=38, scale } => D::Decimal128(*p, *scale as i8),
            Self::Decimal { precision, scale } => D::Decimal256(*precision, *scale as i8),
            Self::FixedString(n) => D::FixedSizeBinary(i32::try_from(*n).unwrap_or(i32::MAX)),
            Self::Date | Self::Date32 => D::Date32,
            Self::DateTime(zone) => D::Timestamp(MICROS, zone.as_ref().map(|_| utc())),
            Self::DateTime64(digits, zone) => D::Timestamp(unit(*digits), zone.as_ref().map(|_| utc())),
            Self::Time => D::Time64(MICROS),
            Self::Time64(digits) => D::Time64(unit(*digits)),
            Self::Uuid => D::FixedSizeBinary(16),
            Self::Array(item) => D::List(FieldRef::new(item.item())),
            Self::Nullable(inner) | Self::LowCardinality(inner) => inner.data_type(),
            Self::Aggregate { base: SIMPLE, of, .. } if of.len() == 1 => of[0].data_type(),
            // Numbers of 77 digits, and what has no Arrow type: as text.
            Self::Int { .. } | Self::String | Self::Json | Self::Enum { .. } => D::Utf8,
            Self::Map(..) | Self::Tuple(_) | Self::Aggregate { .. } | Self::Plain(_) => D::Utf8,
        }
    }

    /// As an item of an array, which says what it is where its Arrow type does not.
    fn item(&self) -> Field {
        let field = Field::new("item", self.data_type(), self.is_nullable());
        match self.inner() {
            Self::Uuid => with_extension(field, EXTENSION_UUID),
            _ => field,
        }
    }

    /// Whether `Nullable` may stand around it.
    pub fn takes_null(&self) -> bool {
        !matches!(
            self,
            Self::Array(_)
                | Self::Map(..)
                | Self::Tuple(_)
                | Self::Nullable(_)
                | Self::LowCardinality(_)
                | Self::Aggregate { .. }
                | Self::Plain(
                    "Dynamic"
                        | "Nothing"
                        | "Point"
                        | "Ring"
                        | "LineString"
                        | "MultiLineString"
                        | "MultiPoint"
                        | "Polygon"
                        | "MultiPolygon"
                        | "Geometry"
                )
        )
    }

    pub fn is_nullable(&self) -> bool {
        match self {
            Self::Nullable(_) => true,
            Self::LowCardinality(inner) => inner.is_nullable(),
            Self::Aggregate { base: SIMPLE, of, .. } if of.len() == 1 => of[0].is_nullable(),
            _ => false,
        }
    }

    /// The type of the values, whatever is around it.
    fn inner(&self) -> &Self {
        match self {
            Self::Nullable(inner) | Self::LowCardinality(inner) => inner.inner(),
            other => other,
        }
    }

    pub fn without_null(&self) -> &Self {
        match self {
            Self::Nullable(inner) => inner,
            other => other,
        }
    }

    /// The type with items and fields that take NULL, where they can.
    pub(crate) fn taking_null_inside(self) -> Self {
        let inside = |of: Self| of.taking_null_inside().with_nullable(true);
        match self {
            Self::Array(item) => Self::Array(Box::new(inside(*item))),
            Self::Map(key, value) => Self::Map(key, Box::new(inside(*value))),
            Self::Tuple(fields) => Self::Tuple(fields.into_iter().map(|(name, of)| (name, inside(of))).collect()),
            other => other,
        }
    }

    /// The type, taking NULL or not where it can; arrays, maps and tuples cannot.
    pub fn with_nullable(self, nullable: bool) -> Self {
        match self {
            Self::Nullable(inner) if !nullable => *inner,
            Self::LowCardinality(inner) => Self::LowCardinality(Box::new(inner.with_nullable(nullable))),
            other if nullable && other.takes_null() => Self::Nullable(Box::new(other)),
            other => other,
        }
    }
}

/// Precision 1 to 76.
fn decimal(precision: i64, scale: i64) -> Option<ChType> {
    ((1..=76).contains(&precision) && (0..=precision).contains(&scale))
        .then_some(ChType::Decimal { precision: precision as u8, scale: scale as u8 })
}

fn integer(base: &str) -> Option<ChType> {
    let (signed, bits) = match base.strip_prefix("Int") {
        Some(bits) => (true, bits),
        None => (false, base.strip_prefix("UInt")?),
    };
    let bits = ["8", "16", "32", "64", "128", "256"].contains(&bits).then(|| bits.parse().ok())??;
    Some(ChType::Int { bits, signed })
}

/// Labels without numbers count from one, or on from the label before.
fn enumeration(base: &str, labels: &[Argument]) -> Option<ChType> {
    let mut found: Vec<(String, i64)> = Vec::with_capacity(labels.len());
    for label in labels {
        let next = found.last().map_or(1, |(_, number)| number + 1);
        found.push(match label {
            Argument::Label(label, number) => (label.clone(), *number),
            Argument::Text(label) => (label.clone(), next),
            _ => return None,
        });
    }
    let short = found.iter().all(|(_, number)| (-128..=127).contains(number));
    let bits = match base {
        "Enum8" => 8,
        "Enum16" => 16,
        _ if short => 8,
        _ => 16,
    };
    found.sort_by_key(|(_, number)| *number);
    let holds = found.iter().all(|(_, n)| short || (bits == 16 && (-32_768..=32_767).contains(n)));
    let distinct = found.windows(2).all(|pair| pair[0].1 != pair[1].1);
    (holds && distinct && !found.is_empty()).then_some(ChType::Enum { bits, labels: found })
}

fn fraction(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// A text in single quotes.
pub fn literal(text: &str) -> String {
    enclosed(text, '\'')
}

/// An identifier in backticks.
pub fn quote(name: &str) -> String {
    enclosed(name, '`')
}

/// Control characters are spelled out: what is written down of a statement may keep some of them for itself.
fn enclosed(text: &str, mark: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c == mark => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(mark);
    out
}

impl fmt::Display for ChType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("Bool"),
            Self::Int { bits, signed } => write!(f, "{}Int{bits}", if *signed { "" } else { "U" }),
            Self::Float32 => f.write_str("Float32"),
            Self::Float64 => f.write_str("Float64"),
            Self::BFloat16 => f.write_str("BFloat16"),
            Self::Decimal { precision, scale } => write!(f, "Decimal({precision}, {scale})"),
            Self::String => f.write_str("String"),
            Self::FixedString(n) => write!(f, "FixedString({n})"),
            Self::Date => f.write_str("Date"),
            Self::Date32 => f.write_str("Date32"),
            Self::DateTime(None) => f.write_str("DateTime"),
            Self::DateTime(Some(zone)) => write!(f, "DateTime({})", literal(zone)),
            Self::DateTime64(digits, None) => write!(f, "DateTime64({digits})"),
            Self::DateTime64(digits, Some(zone)) => write!(f, "DateTime64({digits}, {})", literal(zone)),
            Self::Time => f.write_str("Time"),
            Self::Time64(digits) => write!(f, "Time64({digits})"),
            Self::Uuid => f.write_str("UUID"),
            Self::Json => f.write_str("JSON"),
            Self::Enum { bits, labels } => {
                let labels: Vec<_> =
                    labels.iter().map(|(label, number)| format!("{} = {number}", literal(label))).collect();
                write!(f, "Enum{bits}({})", labels.join(", "))
            }
            Self::Array(item) => write!(f, "Array({item})"),
            Self::Map(key, value) => write!(f, "Map({key}, {value})"),
            Self::Tuple(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, of)| match name {
                        Some(name) => format!("{} {of}", quote(name)),
                        None => of.to_string(),
                    })
                    .collect();
                write!(f, "Tuple({})", fields.join(", "))
            }
            Self::Nullable(inner) => write!(f, "Nullable({inner})"),
            Self::LowCardinality(inner) => write!(f, "LowCardinality({inner})"),
            Self::Aggregate { base, function, of } => {
                write!(f, "{base}({function}")?;
                of.iter().try_for_each(|of| write!(f, ", {of}"))?;
                f.write_str(")")
            }
            Self::Plain(name) => f.write_str(name),
        }
    }
}

fn no_type(column: &Field, hint: &str) -> Error {
    Error::configuration(format!(
        "column {:?} is {}, which ClickHouse has no type for",
        column.name(),
        logical_name(column)
    ))
    .with_hint(hint)
    .with("column", column.name())
}

pub(crate) fn unknown_type(column: &str, text: &str) -> Error {
    Error::configuration(format!("column {column:?}: {text:?} is not a type of ClickHouse, nor a logical name"))
        .with_hint(
            "types are written as the server prints them: Nullable(String), Decimal(18, 2), DateTime64(3, 'UTC'), \
             LowCardinality(String); or logically: text, decimal(18,2), timestamptz, uuid",
        )
        .with("column", column)
}
