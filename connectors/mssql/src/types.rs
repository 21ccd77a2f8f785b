//! The types of SQL Server: how they are written, what they hold, and which one holds an Arrow type.
//!
//! Two spellings are read. [`MsType::native`] reads what the catalog writes. [`MsType::written`] reads what people write,
//! where two words mean another thing than in the catalog: `timestamp` is a point in time, not a `rowversion`, and `text`
//! is any text, not the deprecated type that holds one code page.

use std::fmt;

use arrow::datatypes::{DataType, Field, TimeUnit};
use dpone_planner::schema::TypeShape;
use dpone_planner::type_name::{Argument, TypeName};
use dpone_planner::types::{
    EXTENSION_JSON, EXTENSION_UUID, GENERATED, is_json, is_uuid, logical_name, parse_logical, utc, with_extension,
    with_native,
};
use dpone_planner::{Error, Result};

use crate::SYSTEM;

/// Characters of a text outside of the code page of a column's collation are lost in `char` and `varchar`.
const CODE_PAGE: &str = "code page";

/// Of a text in its own unit (bytes; pairs of bytes for `nchar` and `nvarchar`), or of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Units(u16),
    Max,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MsType {
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Money,
    SmallMoney,
    Real,
    Float,
    Text {
        unicode: bool,
        fixed: bool,
        length: Length,
    },
    Bytes {
        fixed: bool,
        length: Length,
    },
    Date,
    Time(u8),
    DateTime2(u8),
    DateTime,
    SmallDateTime,
    DateTimeOffset(u8),
    UniqueIdentifier,
    RowVersion,
    Json,
    /// Types that nothing is converted to or from: `xml`, `sql_variant`, `geography`, `text`.
    Opaque(&'static str),
}

/// The deprecated large types, and those of their own kind.
const OPAQUE: &[&str] = &["text", "ntext", "image", "xml", "sql_variant", "hierarchyid", "geography", "geometry"];

impl MsType {
    /// As the catalog writes it.
    pub fn native(text: &str) -> Option<Self> {
        let name = TypeName::parse(text)?;
        if !name.rest.is_empty() {
            return None;
        }
        let base = name.lower();
        if let Some(opaque) = OPAQUE.iter().find(|opaque| **opaque == base) {
            return name.arguments.is_empty().then_some(Self::Opaque(opaque));
        }
        if let Some((unicode, fixed)) = text_kind(&base) {
            let most = if unicode { 4000 } else { 8000 };
            return Some(Self::Text { unicode, fixed, length: length(&name, fixed, most)? });
        }
        let fixed = match base.as_str() {
            "binary" => Some(true),
            "varbinary" | "binary varying" => Some(false),
            _ => None,
        };
        if let Some(fixed) = fixed {
            return Some(Self::Bytes { fixed, length: length(&name, fixed, 8000)? });
        }
        let digits = |most: i64| match name.numbers()?.as_slice() {
            [] => Some(most as u8),
            [digits] if (0..=most).contains(digits) => Some(*digits as u8),
            _ => None,
        };
        let plain = match base.as_str() {
            "bit" => Self::Bit,
            "tinyint" => Self::TinyInt,
            "smallint" => Self::SmallInt,
            "int" | "integer" => Self::Int,
            "bigint" => Self::BigInt,
            "money" => Self::Money,
            "smallmoney" => Self::SmallMoney,
            "real" => Self::Real,
            "double precision" => Self::Float,
            "date" => Self::Date,
            "datetime" => Self::DateTime,
            "smalldatetime" => Self::SmallDateTime,
            "uniqueidentifier" => Self::UniqueIdentifier,
            "rowversion" | "timestamp" => Self::RowVersion,
            "json" => Self::Json,
            "sysname" => Self::Text { unicode: true, fixed: false, length: Length::Units(128) },
            "time" => return Some(Self::Time(digits(7)?)),
            "datetime2" => return Some(Self::DateTime2(digits(7)?)),
            "datetimeoffset" => return Some(Self::DateTimeOffset(digits(7)?)),
            "float" => {
                return match name.numbers()?.as_slice() {
                    [] | [25..=53] => Some(Self::Float),
                    [1..=24] => Some(Self::Real),
                    _ => None,
                };
            }
            "decimal" | "numeric" | "dec" => {
                let (precision, scale) = match name.numbers()?.as_slice() {
                    [] => (18, 0),
                    [precision] => (*precision, 0),
                    [precision, scale] => (*precision, *scale),
                    _ => return None,
                };
                return ((1..=38).contains(&precision) && (0..=precision).contains(&scale))
                    .then_some(Self::Decimal { precision: precision as u8, scale: scale as u8 });
            }
            _ => return None,
        };
        name.arguments.is_empty().then_some(plain)
    }

    /// As people write it: a type of SQL Server, else a logical name.
    pub fn written(column: &str, text: &str) -> Result<Self> {
        let base = text.trim().split('(').next().unwrap_or_default().trim().to_ascii_lowercase();
        let bare = !text.contains('(');
        match base.as_str() {
            "timestamp" | "text" | "binary" if bare => {}
            "timestamp" => {}
            // Without a length they hold one character in DDL; nobody who describes a column means that.
            "varchar" | "character varying" | "char varying" if bare => {
                return Ok(Self::Text { unicode: false, fixed: false, length: Length::Max });
            }
            "nvarchar" | "national character varying" | "national char varying" if bare => {
                return Ok(Self::Text { unicode: true, fixed: false, length: Length::Max });
            }
            "varbinary" if bare => return Ok(Self::Bytes { fixed: false, length: Length::Max }),
            _ => {
                if let Some(native) = Self::native(text) {
                    return Ok(native);
                }
                // A length that there is not is no reason to have none.
                if text_kind(&base).is_some() {
                    return Err(unknown_type(column, text));
                }
            }
        }
        let logical = parse_logical(column, text).map_err(|error| match TypeName::parse(text) {
            Some(_) => unknown_type(column, text),
            None => error,
        })?;
        Self::holding(&logical, &logical)
    }

    /// The type that holds every value of a field of another system. `column` is named in errors.
    pub fn holding(column: &Field, field: &Field) -> Result<Self> {
        use DataType as D;
        if is_uuid(field) {
            return Ok(Self::UniqueIdentifier);
        }
        if is_json(field) {
            return Ok(TEXT);
        }
        Ok(match field.data_type() {
            D::Boolean => Self::Bit,
            D::UInt8 => Self::TinyInt,
            D::Int8 | D::Int16 => Self::SmallInt,
            D::Int32 | D::UInt16 => Self::Int,
            D::Int64 | D::UInt32 => Self::BigInt,
            D::UInt64 => Self::Decimal { precision: 20, scale: 0 },
            D::Float16 | D::Float32 => Self::Real,
            D::Float64 => Self::Float,
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
                let (p, s) = (i16::from(*p), i16::from(*s));
                let (p, s) = if s < 0 { (p - s, 0) } else { (p.max(s), s) };
                if p > 38 {
                    return Err(no_type(column, "cast it to text, or to a decimal of 38 digits, in a query"));
                }
                Self::Decimal { precision: p as u8, scale: s as u8 }
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => TEXT,
            D::Binary | D::LargeBinary | D::BinaryView => Self::Bytes { fixed: false, length: Length::Max },
            D::FixedSizeBinary(n) => match n {
                1..=8000 => Self::Bytes { fixed: true, length: Length::Units(*n as u16) },
                _ => Self::Bytes { fixed: false, length: Length::Max },
            },
            D::Date32 | D::Date64 => Self::Date,
            D::Time32(unit) | D::Time64(unit) => Self::Time(fraction(*unit)),
            D::Timestamp(unit, None) => Self::DateTime2(fraction(*unit)),
            D::Timestamp(unit, Some(_)) => Self::DateTimeOffset(fraction(*unit)),
            D::Dictionary(_, value) => Self::holding(column, &field.clone().with_data_type(value.as_ref().clone()))?,
            _ => return Err(no_type(column, "pick its parts, or turn it into text or json, in a query")),
        })
    }

    /// The type that holds exactly the values of a shape.
    pub fn of_shape(shape: &TypeShape) -> Option<Self> {
        Some(match shape {
            TypeShape::Boolean => Self::Bit,
            TypeShape::Integer { bits: 8, signed: false } => Self::TinyInt,
            TypeShape::Integer { bits: 8 | 16, signed: true } => Self::SmallInt,
            TypeShape::Integer { bits: 32, signed: true } | TypeShape::Integer { bits: 16, signed: false } => Self::Int,
            TypeShape::Integer { bits: 64, signed: true } | TypeShape::Integer { bits: 32, signed: false } => {
                Self::BigInt
            }
            TypeShape::Integer { bits: 64, signed: false } => Self::Decimal { precision: 20, scale: 0 },
            TypeShape::Decimal { digits: Some((before, behind)) } if (1..=38).contains(&(before + behind)) => {
                Self::Decimal { precision: (before + behind) as u8, scale: *behind as u8 }
            }
            TypeShape::Float { bits: 16 | 32 } => Self::Real,
            TypeShape::Float { .. } => Self::Float,
            TypeShape::Text { length, padded } => text(true, *padded, *length),
            TypeShape::Bytes { length: Some(n @ 1..=8000), fixed } => {
                Self::Bytes { fixed: *fixed, length: Length::Units(*n as u16) }
            }
            TypeShape::Bytes { .. } => Self::Bytes { fixed: false, length: Length::Max },
            TypeShape::Date => Self::Date,
            TypeShape::Time { digits: digits @ ..=7, zoned: false } => Self::Time(*digits),
            TypeShape::Timestamp { digits: digits @ ..=7, zoned: false } => Self::DateTime2(*digits),
            TypeShape::Timestamp { digits: digits @ ..=7, zoned: true } => Self::DateTimeOffset(*digits),
            TypeShape::Uuid => Self::UniqueIdentifier,
            TypeShape::Json { binary: true } => Self::Json,
            TypeShape::Limited { by, of } => match (by.as_str(), of.as_ref()) {
                (CODE_PAGE, TypeShape::Text { length, padded }) => text(false, *padded, *length),
                ("money", _) => Self::Money,
                ("smallmoney", _) => Self::SmallMoney,
                ("datetime", _) => Self::DateTime,
                ("smalldatetime", _) => Self::SmallDateTime,
                _ => return None,
            },
            TypeShape::Other(name) => Self::native(name)?,
            _ => return None,
        })
    }

    pub fn shape(&self) -> TypeShape {
        let integer = |bits, signed| TypeShape::Integer { bits, signed };
        let units = |length: &Length| match length {
            Length::Units(n) => Some(u32::from(*n)),
            Length::Max => None,
        };
        match self {
            Self::Bit => TypeShape::Boolean,
            Self::TinyInt => integer(8, false),
            Self::SmallInt => integer(16, true),
            Self::Int => integer(32, true),
            Self::BigInt => integer(64, true),
            Self::Decimal { precision, scale } => TypeShape::decimal(i32::from(*precision), i32::from(*scale)),
            Self::Money => TypeShape::decimal(19, 4).limited("money"),
            Self::SmallMoney => TypeShape::decimal(19, 4).limited("money").limited("smallmoney"),
            Self::Real => TypeShape::Float { bits: 32 },
            Self::Float => TypeShape::Float { bits: 64 },
            Self::Text { unicode, fixed, length } => {
                let shape = TypeShape::Text { length: units(length), padded: *fixed };
                // As many pairs of bytes as bytes hold every text of a code page, UTF-8 included.
                if *unicode { shape } else { shape.limited(CODE_PAGE) }
            }
            Self::Bytes { fixed, length } => TypeShape::Bytes { length: units(length), fixed: *fixed },
            Self::Date => TypeShape::Date,
            Self::Time(digits) => TypeShape::Time { digits: *digits, zoned: false },
            Self::DateTime2(digits) => TypeShape::Timestamp { digits: *digits, zoned: false },
            Self::DateTime => TypeShape::Timestamp { digits: 3, zoned: false }.limited("datetime"),
            Self::SmallDateTime => {
                TypeShape::Timestamp { digits: 3, zoned: false }.limited("datetime").limited("smalldatetime")
            }
            Self::DateTimeOffset(digits) => TypeShape::Timestamp { digits: *digits, zoned: true },
            Self::UniqueIdentifier => TypeShape::Uuid,
            Self::Json => TypeShape::Json { binary: true },
            Self::RowVersion | Self::Opaque(_) => TypeShape::Other(self.to_string()),
        }
    }

    /// The column as a field that carries the type.
    pub fn field(&self, column: &str) -> Field {
        use DataType as D;
        let unit = |digits: u8| if digits > 6 { TimeUnit::Nanosecond } else { TimeUnit::Microsecond };
        let data_type = match self {
            Self::Bit => D::Boolean,
            Self::TinyInt => D::UInt8,
            Self::SmallInt => D::Int16,
            Self::Int => D::Int32,
            Self::BigInt => D::Int64,
            Self::Decimal { precision, scale } => D::Decimal128(*precision, *scale as i8),
            Self::Money => D::Decimal128(19, 4),
            Self::SmallMoney => D::Decimal128(10, 4),
            Self::Real => D::Float32,
            Self::Float => D::Float64,
            Self::Bytes { fixed: true, length: Length::Units(n) } => D::FixedSizeBinary(i32::from(*n)),
            Self::Bytes { .. } | Self::Opaque("image" | "hierarchyid" | "geography" | "geometry") => D::Binary,
            Self::Text { .. } | Self::Json | Self::Opaque(_) => D::Utf8,
            Self::Date => D::Date32,
            Self::Time(digits) => D::Time64(unit(*digits)),
            Self::DateTime2(digits) => D::Timestamp(unit(*digits), None),
            Self::DateTime | Self::SmallDateTime => D::Timestamp(TimeUnit::Microsecond, None),
            Self::DateTimeOffset(digits) => D::Timestamp(unit(*digits), Some(utc())),
            Self::UniqueIdentifier => D::FixedSizeBinary(16),
            Self::RowVersion => D::FixedSizeBinary(8),
        };
        let mut field = with_native(Field::new(column, data_type, true), SYSTEM, &self.to_string());
        match self {
            Self::UniqueIdentifier => field = with_extension(field, EXTENSION_UUID),
            Self::Json => field = with_extension(field, EXTENSION_JSON),
            Self::RowVersion => {
                let mut metadata = field.metadata().clone();
                metadata.insert(GENERATED.to_owned(), "always".to_owned());
                field = field.with_metadata(metadata);
            }
            _ => {}
        }
        field
    }

    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::Opaque("text" | "ntext"))
    }

    /// Stored outside of the row, so that a default cannot stand in the catalog alone, and no index has it as a key.
    pub fn is_large(&self) -> bool {
        let max = matches!(self, Self::Text { length: Length::Max, .. } | Self::Bytes { length: Length::Max, .. });
        max || matches!(self, Self::Opaque(_) | Self::Json)
    }
}

/// Any text.
const TEXT: MsType = MsType::Text { unicode: true, fixed: false, length: Length::Max };

fn text(unicode: bool, fixed: bool, length: Option<u32>) -> MsType {
    let most = if unicode { 4000 } else { 8000 };
    match length {
        Some(n) if (1..=most).contains(&n) => MsType::Text { unicode, fixed, length: Length::Units(n as u16) },
        _ => MsType::Text { unicode, fixed: false, length: Length::Max },
    }
}

/// Unicode, and fixed.
fn text_kind(base: &str) -> Option<(bool, bool)> {
    Some(match base {
        "char" | "character" => (false, true),
        "varchar" | "char varying" | "character varying" => (false, false),
        "nchar" | "national char" | "national character" => (true, true),
        "nvarchar" | "national char varying" | "national character varying" => (true, false),
        _ => return None,
    })
}

fn length(name: &TypeName, fixed: bool, most: i64) -> Option<Length> {
    match name.arguments.as_slice() {
        // What DDL means by none.
        [] => Some(Length::Units(1)),
        [Argument::Number(n)] if (1..=most).contains(n) => Some(Length::Units(*n as u16)),
        // The catalog's views write it so.
        [Argument::Number(-1)] if !fixed => Some(Length::Max),
        [Argument::Type { name: None, of }] if !fixed && of.lower() == "max" => Some(Length::Max),
        _ => None,
    }
}

fn fraction(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        // A hundred nanoseconds are the finest that there is.
        TimeUnit::Nanosecond => 7,
    }
}

impl fmt::Display for MsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sized = |f: &mut fmt::Formatter<'_>, name: &str, length: &Length| match length {
            Length::Units(n) => write!(f, "{name}({n})"),
            Length::Max => write!(f, "{name}(max)"),
        };
        match self {
            Self::Bit => f.write_str("bit"),
            Self::TinyInt => f.write_str("tinyint"),
            Self::SmallInt => f.write_str("smallint"),
            Self::Int => f.write_str("int"),
            Self::BigInt => f.write_str("bigint"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Money => f.write_str("money"),
            Self::SmallMoney => f.write_str("smallmoney"),
            Self::Real => f.write_str("real"),
            Self::Float => f.write_str("float"),
            Self::Text { unicode, fixed, length } => {
                let name = match (unicode, fixed) {
                    (false, true) => "char",
                    (false, false) => "varchar",
                    (true, true) => "nchar",
                    (true, false) => "nvarchar",
                };
                sized(f, name, length)
            }
            Self::Bytes { fixed, length } => sized(f, if *fixed { "binary" } else { "varbinary" }, length),
            Self::Date => f.write_str("date"),
            Self::Time(digits) => write!(f, "time({digits})"),
            Self::DateTime2(digits) => write!(f, "datetime2({digits})"),
            Self::DateTime => f.write_str("datetime"),
            Self::SmallDateTime => f.write_str("smalldatetime"),
            Self::DateTimeOffset(digits) => write!(f, "datetimeoffset({digits})"),
            Self::UniqueIdentifier => f.write_str("uniqueidentifier"),
            Self::RowVersion => f.write_str("rowversion"),
            Self::Json => f.write_str("json"),
            Self::Opaque(name) => f.write_str(name),
        }
    }
}

fn no_type(column: &Field, hint: &str) -> Error {
    Error::configuration(format!(
        "column {:?} is {}, which SQL Server has no type for",
        column.name(),
        logical_name(column)
    ))
    .with_hint(hint)
    .with("column", column.name())
}

pub(crate) fn unknown_type(column: &str, text: &str) -> Error {
    Error::configuration(format!("column {column:?}: {text:?} is not a type of SQL Server, nor a logical name"))
        .with_hint(
            "types are written as in DDL: nvarchar(50), varchar(max), decimal(18,2), datetime2(3), uniqueidentifier; \
             or logically: text, timestamp, timestamptz, uuid",
        )
        .with("column", column)
}
