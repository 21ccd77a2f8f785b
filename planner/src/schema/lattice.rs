//! The widening lattice: which types hold all values of which others, over all systems.
//!
//! A [`TypeShape`] is what a type can hold, without how a system spells it. Two shapes have a *join* when there is a
//! smallest shape that holds every value of both and means the same by it; a column is widened to the join, and to
//! nothing else. There is no join across kinds: an integer in a text column is another thing than an integer.

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

use crate::types::{is_json, is_uuid};

/// What a type can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeShape {
    Boolean,
    /// `bits`: 8, 16, 32, 64, 128 or 256.
    Integer {
        bits: u16,
        signed: bool,
    },
    /// Digits before and behind the point; `None`: as many as the system has, in every value another number.
    Decimal {
        digits: Option<(u16, u16)>,
    },
    /// `bits`: 16, 32 or 64.
    Float {
        bits: u16,
    },
    /// `length` in the system's own unit, `None` without a limit. `padded`: blanks at the end do not count, as in
    /// `char(n)`.
    Text {
        length: Option<u32>,
        padded: bool,
    },
    /// `fixed`: every value has the length.
    Bytes {
        length: Option<u32>,
        fixed: bool,
    },
    Bits {
        length: Option<u32>,
        fixed: bool,
    },
    Date,
    /// `digits` of the fraction of a second.
    Time {
        digits: u8,
        zoned: bool,
    },
    Timestamp {
        digits: u8,
        zoned: bool,
    },
    /// `digits` of the fraction of a second; `fields`: another set of them is another type.
    Interval {
        digits: u8,
        fields: String,
    },
    Uuid,
    /// `binary`: parsed and normalised, so that spelling and duplicate keys are lost.
    Json {
        binary: bool,
    },
    /// The labels in their order.
    Enum(Vec<String>),
    Array(Box<TypeShape>),
    /// Some values of another shape: a shorter range of dates, the characters of one code page. `by` names the limit, and
    /// a shape may be limited more than once: a `smalldatetime` is a `datetime`, which is a timestamp.
    Limited {
        by: String,
        of: Box<TypeShape>,
    },
    /// A type of one system, by its name: it holds what itself holds.
    Other(String),
}

/// How the values of a source fit a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    Same,
    /// The target holds every value of the source, and more.
    Narrower,
    /// The target holds every value once it is widened to this.
    Wider(TypeShape),
    /// No type holds the values of both as what they are.
    Incompatible,
}

/// How values of `source` fit a column of the shape `target`.
pub fn fit(source: &TypeShape, target: &TypeShape) -> Fit {
    if source == target {
        return Fit::Same;
    }
    match source.join(target) {
        // The same documents: a column that normalises them is no reason for DDL.
        Some(TypeShape::Json { .. }) => Fit::Narrower,
        Some(join) if join == *target => Fit::Narrower,
        Some(join) => Fit::Wider(join),
        None => Fit::Incompatible,
    }
}

impl TypeShape {
    /// The smallest shape that holds every value of both, and means the same by it.
    pub fn join(&self, other: &Self) -> Option<Self> {
        use TypeShape::*;
        if self == other {
            return Some(self.clone());
        }
        Some(match (self, other) {
            (Integer { bits: a, signed: true }, Integer { bits: b, signed: true }) => {
                Integer { bits: *a.max(b), signed: true }
            }
            (Integer { bits: a, signed: false }, Integer { bits: b, signed: false }) => {
                Integer { bits: *a.max(b), signed: false }
            }
            (Integer { bits: s, signed: true }, Integer { bits: u, signed: false })
            | (Integer { bits: u, signed: false }, Integer { bits: s, signed: true }) => {
                // An unsigned number needs one bit more than its own for the sign.
                let bits = if s > u { *s } else { u * 2 };
                if bits > 256 {
                    return None;
                }
                Integer { bits, signed: true }
            }
            (Integer { bits, signed }, Decimal { digits }) | (Decimal { digits }, Integer { bits, signed }) => {
                Decimal { digits: digits.map(|(before, behind)| (before.max(integer_digits(*bits, *signed)), behind)) }
            }
            (Decimal { digits: Some((a, b)) }, Decimal { digits: Some((c, d)) }) => {
                Decimal { digits: Some((*a.max(c), *b.max(d))) }
            }
            (Decimal { .. }, Decimal { .. }) => Decimal { digits: None },
            (Float { bits: a }, Float { bits: b }) => Float { bits: *a.max(b) },
            // As many bits as the integer has, exactly: 11 in a half, 24 in a single, 53 in a double.
            (Integer { bits, .. }, Float { bits: float }) | (Float { bits: float }, Integer { bits, .. }) => {
                match (bits, float) {
                    (8, _) => Float { bits: *float },
                    (16, 16 | 32) => Float { bits: 32 },
                    (16 | 32, _) => Float { bits: 64 },
                    _ => return None,
                }
            }
            (Text { length: a, padded: p }, Text { length: b, padded: q }) => {
                let longest = a.zip(*b).map(|(a, b)| a.max(b));
                // A blank at the end of a varying text counts: only two padded ones stay padded.
                Text { length: longest, padded: *p && *q }
            }
            (Bytes { length: a, .. }, Bytes { length: b, .. }) => {
                Bytes { length: a.zip(*b).map(|(a, b)| a.max(b)), fixed: false }
            }
            (Bits { length: a, .. }, Bits { length: b, .. }) => {
                Bits { length: a.zip(*b).map(|(a, b)| a.max(b)), fixed: false }
            }
            (Time { digits: a, zoned: y }, Time { digits: b, zoned: z }) if y == z => {
                Time { digits: *a.max(b), zoned: *y }
            }
            (Timestamp { digits: a, zoned: y }, Timestamp { digits: b, zoned: z }) if y == z => {
                Timestamp { digits: *a.max(b), zoned: *y }
            }
            // Midnight of the day, as every system reads a date that is stored as a timestamp without zone.
            (Date, Timestamp { digits, zoned: false }) | (Timestamp { digits, zoned: false }, Date) => {
                Timestamp { digits: *digits, zoned: false }
            }
            (Interval { digits: a, fields: x }, Interval { digits: b, fields: y }) if x == y => {
                Interval { digits: *a.max(b), fields: x.clone() }
            }
            // Text that is kept as it was written holds what the parsed form holds.
            (Json { .. }, Json { .. }) => Json { binary: false },
            (Enum(a), Enum(b)) => Enum(merged_labels(a, b)?),
            (Other(a), Other(b)) => Other(wider_of(a, b)?.to_owned()),
            (Array(a), Array(b)) => Array(Box::new(a.join(b)?)),
            (Limited { by: a, of: x }, Limited { by: b, of: y }) if a == b => {
                Limited { by: a.clone(), of: Box::new(x.join(y)?) }
            }
            // The one whose limit holds for the other as well gives way to what it limits.
            (Limited { by, .. }, Limited { of, .. }) if of.is_limited_by(by) => self.join(of)?,
            (Limited { of, .. }, other) | (other, Limited { of, .. }) => of.join(other)?,
            _ => return None,
        })
    }

    /// The shape of an Arrow type, for columns whose native type says no more.
    pub fn of_arrow(field: &Field) -> Self {
        use DataType as D;
        if is_uuid(field) {
            return Self::Uuid;
        }
        if is_json(field) {
            return Self::Json { binary: false };
        }
        let integer = |bits, signed| Self::Integer { bits, signed };
        match field.data_type() {
            D::Boolean => Self::Boolean,
            D::Int8 => integer(8, true),
            D::Int16 => integer(16, true),
            D::Int32 => integer(32, true),
            D::Int64 => integer(64, true),
            D::UInt8 => integer(8, false),
            D::UInt16 => integer(16, false),
            D::UInt32 => integer(32, false),
            D::UInt64 => integer(64, false),
            D::Float16 => Self::Float { bits: 16 },
            D::Float32 => Self::Float { bits: 32 },
            D::Float64 => Self::Float { bits: 64 },
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
                Self::decimal(i32::from(*p), i32::from(*s))
            }
            D::Utf8 | D::LargeUtf8 | D::Utf8View => Self::Text { length: None, padded: false },
            D::Binary | D::LargeBinary | D::BinaryView => Self::Bytes { length: None, fixed: false },
            D::FixedSizeBinary(n) => Self::Bytes { length: Some(*n as u32), fixed: true },
            D::Date32 | D::Date64 => Self::Date,
            D::Time32(unit) | D::Time64(unit) => Self::Time { digits: unit_digits(*unit), zoned: false },
            D::Timestamp(unit, zone) => Self::Timestamp { digits: unit_digits(*unit), zoned: zone.is_some() },
            D::Interval(IntervalUnit::MonthDayNano) => Self::Interval { digits: 9, fields: String::new() },
            D::Dictionary(_, value) => Self::of_arrow(&field.clone().with_data_type(value.as_ref().clone())),
            D::List(item)
            | D::LargeList(item)
            | D::FixedSizeList(item, _)
            | D::ListView(item)
            | D::LargeListView(item) => Self::Array(Box::new(Self::of_arrow(item))),
            _ => Self::Other(crate::types::logical_name(field)),
        }
    }

    fn is_limited_by(&self, limit: &str) -> bool {
        matches!(self, Self::Limited { by, of } if by == limit || of.is_limited_by(limit))
    }

    /// The shape with a limit of its own.
    pub fn limited(self, by: &str) -> Self {
        Self::Limited { by: by.to_owned(), of: Box::new(self) }
    }

    /// `numeric(precision, scale)`; a negative scale counts as digits before the point.
    pub fn decimal(precision: i32, scale: i32) -> Self {
        Self::Decimal { digits: Some(((precision - scale).max(0) as u16, scale.max(0) as u16)) }
    }

    /// The name that people, plans and dialects read: `varchar(20)`, `decimal(12,2)`, `timestamptz(3)`.
    pub fn name(&self) -> String {
        let length = |base: &str, length: &Option<u32>| match length {
            Some(length) => format!("{base}({length})"),
            None => base.to_owned(),
        };
        match self {
            Self::Boolean => "boolean".into(),
            Self::Integer { bits, signed } => {
                let name = match bits {
                    8 => "tinyint",
                    16 => "smallint",
                    32 => "integer",
                    64 => "bigint",
                    128 => "int128",
                    _ => "int256",
                };
                if *signed { name.into() } else { format!("unsigned {name}") }
            }
            Self::Decimal { digits: Some((before, behind)) } => format!("decimal({},{behind})", before + behind),
            Self::Decimal { digits: None } => "decimal".into(),
            Self::Float { bits: 16 } => "half".into(),
            Self::Float { bits: 32 } => "real".into(),
            Self::Float { .. } => "double".into(),
            Self::Text { length: None, .. } => "text".into(),
            Self::Text { length: n, padded } => length(if *padded { "char" } else { "varchar" }, n),
            Self::Bytes { length: n, fixed: true } => length("binary", n),
            Self::Bytes { length: Some(n), .. } => format!("varbinary({n})"),
            Self::Bytes { length: None, .. } => "bytes".into(),
            Self::Bits { length: n, fixed } => length(if *fixed { "bit" } else { "varbit" }, n),
            Self::Date => "date".into(),
            Self::Time { digits, zoned } => fraction(if *zoned { "timetz" } else { "time" }, *digits),
            Self::Timestamp { digits, zoned } => fraction(if *zoned { "timestamptz" } else { "timestamp" }, *digits),
            Self::Interval { fields, .. } if !fields.is_empty() => format!("interval {fields}"),
            Self::Interval { digits, .. } => fraction("interval", *digits),
            Self::Uuid => "uuid".into(),
            Self::Json { binary } => if *binary { "jsonb" } else { "json" }.into(),
            Self::Enum(labels) => format!("enum({})", labels.join(", ")),
            Self::Array(item) => format!("{}[]", item.name()),
            Self::Limited { of, .. } => of.name(),
            Self::Other(name) => name.clone(),
        }
    }
}

/// Microseconds are what most systems mean without saying so.
fn fraction(base: &str, digits: u8) -> String {
    if digits == 6 { base.to_owned() } else { format!("{base}({digits})") }
}

fn unit_digits(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

fn integer_digits(bits: u16, signed: bool) -> u16 {
    match (bits, signed) {
        (8, _) => 3,
        (16, _) => 5,
        (32, _) => 10,
        (64, true) => 19,
        (64, false) => 20,
        (128, _) => 39,
        (_, true) => 77,
        (_, false) => 78,
    }
}

/// Types of one system of which one holds the values of the other: the narrower, the wider.
const WITHIN_A_SYSTEM: &[(&str, &str)] = &[("cidr", "inet")];

fn wider_of<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    let wider = |narrow: &str, wide: &str| WITHIN_A_SYSTEM.contains(&(narrow, wide));
    match (wider(a, b), wider(b, a)) {
        (true, _) => Some(b),
        (_, true) => Some(a),
        _ => None,
    }
}

/// All labels, where the shorter list is part of the longer one in its order: labels are added, never moved.
fn merged_labels(a: &[String], b: &[String]) -> Option<Vec<String>> {
    let (longer, shorter) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut rest = longer.iter();
    shorter.iter().all(|label| rest.any(|other| other == label)).then(|| longer.to_vec())
}
