//! The types of a record's fields: Avro's names for them, their Arrow types, and their JSON Schema.

use std::fmt;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use dpone_planner::schema::TypeShape;
use dpone_planner::type_name::{Argument, TypeName};
use dpone_planner::types::{
    EXTENSION_UUID, MICROS, is_json, is_uuid, logical_name, parse_logical, utc, with_extension, with_native,
};
use dpone_planner::{Error, Result};
use serde_json::{Value, json};

use crate::SYSTEM;

/// Digits of a fraction of a second: 3, 6 or 9.
pub type Fraction = u8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordType {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(u32),
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    Time(Fraction),
    /// An instant.
    Timestamp(Fraction),
    /// A wall clock's time.
    LocalTimestamp(Fraction),
    Uuid,
    Array(Box<RecordType>),
}

impl RecordType {
    /// By the names of Avro's types and logical types, such as `timestamp-micros`.
    pub fn native(text: &str) -> Option<Self> {
        Self::of_name(&TypeName::parse(&text.replace('-', "_"))?)
    }

    fn of_name(name: &TypeName) -> Option<Self> {
        if !name.rest.is_empty() {
            return None;
        }
        let fraction = |unit: &str| match unit {
            "millis" => Some(3),
            "micros" => Some(6),
            "nanos" => Some(9),
            _ => None,
        };
        Some(match (name.base.as_str(), name.arguments.as_slice()) {
            ("boolean", []) => Self::Boolean,
            ("int", []) => Self::Int,
            ("long", []) => Self::Long,
            ("float", []) => Self::Float,
            ("double", []) => Self::Double,
            ("bytes", []) => Self::Bytes,
            ("string", []) => Self::String,
            ("uuid", []) => Self::Uuid,
            ("date", []) => Self::Date,
            ("fixed", [Argument::Number(n)]) => Self::Fixed(u32::try_from(*n).ok().filter(|n| *n > 0)?),
            ("decimal", [Argument::Number(p)]) => decimal(*p, 0)?,
            ("decimal", [Argument::Number(p), Argument::Number(s)]) => decimal(*p, *s)?,
            ("array", [Argument::Type { name: None, of }]) => Self::Array(Box::new(Self::of_name(of)?)),
            (base, []) => {
                let (kind, unit) = base.rsplit_once('_')?;
                match (kind, fraction(unit)?) {
                    ("time", unit @ 3..=6) => Self::Time(unit),
                    ("timestamp", unit) => Self::Timestamp(unit),
                    ("local_timestamp", unit) => Self::LocalTimestamp(unit),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    /// As people write it: a type of Avro, else a logical name.
    pub fn written(column: &str, text: &str) -> Result<Self> {
        if let Some(native) = Self::native(text) {
            return Ok(native);
        }
        let logical = parse_logical(column, text).map_err(|_| unknown_type(column, text))?;
        Self::holding(&logical, &logical)
    }

    /// The type that holds every value of a field of another system. `column` is named in errors.
    pub fn holding(column: &Field, field: &Field) -> Result<Self> {
        use DataType as D;
        if is_uuid(field) {
            return Ok(Self::Uuid);
        }
        if is_json(field) {
            return Ok(Self::String);
        }
        let fraction = |unit: &TimeUnit| match unit {
            TimeUnit::Second | TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        };
        Ok(match field.data_type() {
            D::Boolean => Self::Boolean,
            D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 => Self::Int,
            D::Int64 | D::UInt32 => Self::Long,
            D::UInt64 => Self::Decimal { precision: 20, scale: 0 },
            D::Float16 | D::Float32 => Self::Float,
            D::Float64 => Self::Double,
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
                let (p, s) = (i64::from(*p), i64::from(*s));
                let (p, s) = if s < 0 { (p - s, 0) } else { (p.max(s), s) };
                decimal(p, s).ok_or_else(|| no_type(column))?
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => Self::String,
            D::Binary | D::LargeBinary | D::BinaryView => Self::Bytes,
            D::FixedSizeBinary(n) => u32::try_from(*n).ok().filter(|n| *n > 0).map_or(Self::Bytes, Self::Fixed),
            D::Date32 | D::Date64 => Self::Date,
            D::Time32(unit) | D::Time64(unit) => Self::Time(fraction(unit).min(6)),
            D::Timestamp(unit, None) => Self::LocalTimestamp(fraction(unit)),
            D::Timestamp(unit, Some(_)) => Self::Timestamp(fraction(unit)),
            D::Dictionary(_, value) => Self::holding(column, &field.clone().with_data_type(value.as_ref().clone()))?,
            D::List(item)
            | D::LargeList(item)
            | D::FixedSizeList(item, _)
            | D::ListView(item)
            | D::LargeListView(item) => Self::Array(Box::new(Self::holding(column, item)?)),
            _ => return Err(no_type(column)),
        })
    }

    pub fn of_shape(shape: &TypeShape) -> Option<Self> {
        let fraction = |digits: &u8| match digits {
            ..=3 => 3,
            4..=6 => 6,
            _ => 9,
        };
        Some(match shape {
            TypeShape::Boolean => Self::Boolean,
            TypeShape::Integer { bits: 8 | 16, .. } | TypeShape::Integer { bits: 32, signed: true } => Self::Int,
            TypeShape::Integer { bits: 32, .. } | TypeShape::Integer { bits: 64, signed: true } => Self::Long,
            TypeShape::Decimal { digits: Some((before, behind)) } => {
                decimal(i64::from(before + behind), i64::from(*behind))?
            }
            TypeShape::Float { bits: 16 | 32 } => Self::Float,
            TypeShape::Float { .. } => Self::Double,
            TypeShape::Text { .. } => Self::String,
            TypeShape::Bytes { length: Some(n), fixed: true } => Self::Fixed(*n),
            TypeShape::Bytes { .. } => Self::Bytes,
            TypeShape::Date => Self::Date,
            TypeShape::Time { digits, zoned: false } => Self::Time(fraction(digits).min(6)),
            TypeShape::Timestamp { digits, zoned: false } => Self::LocalTimestamp(fraction(digits)),
            TypeShape::Timestamp { digits, zoned: true } => Self::Timestamp(fraction(digits)),
            TypeShape::Uuid => Self::Uuid,
            TypeShape::Array(item) => Self::Array(Box::new(Self::of_shape(item)?)),
            _ => return None,
        })
    }

    pub fn shape(&self) -> TypeShape {
        match self {
            Self::Boolean => TypeShape::Boolean,
            Self::Int => TypeShape::Integer { bits: 32, signed: true },
            Self::Long => TypeShape::Integer { bits: 64, signed: true },
            Self::Float => TypeShape::Float { bits: 32 },
            Self::Double => TypeShape::Float { bits: 64 },
            Self::Bytes => TypeShape::Bytes { length: None, fixed: false },
            Self::Fixed(n) => TypeShape::Bytes { length: Some(*n), fixed: true },
            Self::String => TypeShape::Text { length: None, padded: false },
            Self::Decimal { precision, scale } => TypeShape::decimal(i32::from(*precision), i32::from(*scale)),
            Self::Date => TypeShape::Date,
            Self::Time(digits) => TypeShape::Time { digits: *digits, zoned: false },
            Self::Timestamp(digits) => TypeShape::Timestamp { digits: *digits, zoned: true },
            Self::LocalTimestamp(digits) => TypeShape::Timestamp { digits: *digits, zoned: false },
            Self::Uuid => TypeShape::Uuid,
            Self::Array(item) => TypeShape::Array(Box::new(item.shape())),
        }
    }

    /// The column as a field that carries the type.
    pub fn field(&self, column: &str) -> Field {
        let field = with_native(Field::new(column, self.data_type(), true), SYSTEM, &self.to_string());
        if *self == Self::Uuid { with_extension(field, EXTENSION_UUID) } else { field }
    }

    fn data_type(&self) -> DataType {
        use DataType as D;
        let unit = |digits: &u8| match digits {
            3 => TimeUnit::Millisecond,
            9 => TimeUnit::Nanosecond,
            _ => MICROS,
        };
        match self {
            Self::Boolean => D::Boolean,
            Self::Int => D::Int32,
            Self::Long => D::Int64,
            Self::Float => D::Float32,
            Self::Double => D::Float64,
            Self::Bytes => D::Binary,
            Self::String => D::Utf8,
            Self::Fixed(n) => D::FixedSizeBinary(i32::try_from(*n).unwrap_or(i32::MAX)),
            Self::Decimal { precision: p @ ..=38, scale } => D::Decimal128(*p, *scale as i8),
            Self::Decimal { precision, scale } => D::Decimal256(*precision, *scale as i8),
            Self::Date => D::Date32,
            Self::Time(3) => D::Time32(TimeUnit::Millisecond),
            Self::Time(_) => D::Time64(MICROS),
            Self::Timestamp(digits) => D::Timestamp(unit(digits), Some(utc())),
            Self::LocalTimestamp(digits) => D::Timestamp(unit(digits), None),
            Self::Uuid => D::FixedSizeBinary(16),
            Self::Array(item) => D::List(FieldRef::new(Field::new("item", item.data_type(), true))),
        }
    }

    /// As an Avro schema. `column` names a fixed.
    pub fn avro(&self, column: &str) -> Value {
        let logical = |base: &str, name: &str| json!({"type": base, "logicalType": name});
        match self {
            Self::Fixed(n) => json!({"type": "fixed", "name": format!("{column}_fixed"), "size": n}),
            Self::Decimal { precision, scale } => {
                json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
            }
            Self::Date => logical("int", "date"),
            Self::Time(3) => logical("int", "time-millis"),
            Self::Time(_) => logical("long", "time-micros"),
            Self::Timestamp(_) | Self::LocalTimestamp(_) => logical("long", &self.to_string()),
            Self::Uuid => logical("string", "uuid"),
            Self::Array(item) => json!({"type": "array", "items": item.avro(column)}),
            plain => Value::from(plain.to_string()),
        }
    }

    /// As a JSON Schema.
    pub fn json_schema(&self) -> Value {
        let text = |format: &str| json!({"type": "string", "format": format});
        match self {
            Self::Boolean => json!({"type": "boolean"}),
            Self::Int => json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX}),
            Self::Long => json!({"type": "integer"}),
            Self::Float | Self::Double | Self::Decimal { .. } => json!({"type": "number"}),
            Self::Bytes | Self::Fixed(_) | Self::String => json!({"type": "string"}),
            Self::Date => text("date"),
            Self::Time(_) => text("time"),
            Self::Timestamp(_) => text("date-time"),
            Self::LocalTimestamp(_) => json!({"type": "string"}),
            Self::Uuid => text("uuid"),
            Self::Array(item) => json!({"type": "array", "items": item.json_schema()}),
        }
    }
}

fn decimal(precision: i64, scale: i64) -> Option<RecordType> {
    ((1..=76).contains(&precision) && (0..=precision).contains(&scale))
        .then_some(RecordType::Decimal { precision: precision as u8, scale: scale as u8 })
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = |digits: &u8| match digits {
            3 => "millis",
            9 => "nanos",
            _ => "micros",
        };
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::Int => f.write_str("int"),
            Self::Long => f.write_str("long"),
            Self::Float => f.write_str("float"),
            Self::Double => f.write_str("double"),
            Self::Bytes => f.write_str("bytes"),
            Self::String => f.write_str("string"),
            Self::Fixed(n) => write!(f, "fixed({n})"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Date => f.write_str("date"),
            Self::Time(digits) => write!(f, "time-{}", unit(digits)),
            Self::Timestamp(digits) => write!(f, "timestamp-{}", unit(digits)),
            Self::LocalTimestamp(digits) => write!(f, "local-timestamp-{}", unit(digits)),
            Self::Uuid => f.write_str("uuid"),
            Self::Array(item) => write!(f, "array({item})"),
        }
    }
}

fn no_type(column: &Field) -> Error {
    Error::configuration(format!(
        "column {:?} is {}, which records have no type for",
        column.name(),
        logical_name(column)
    ))
    .with_hint("pick its parts, or turn it into text, in a query")
    .with("column", column.name())
}

pub(crate) fn unknown_type(column: &str, text: &str) -> Error {
    Error::configuration(format!("column {column:?}: {text:?} is not a type of Avro, nor a logical name"))
        .with_hint("types are int, long, string, decimal(18,2), timestamp-micros, local-timestamp-micros, date, uuid")
        .with("column", column)
}
