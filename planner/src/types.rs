//! Types: metadata keys that carry native types, logical names, and which conversions lose nothing.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};

use crate::error::{Error, Result};

/// Field metadata: the system that the native type belongs to, such as `postgres`.
pub const SYSTEM: &str = "dpone:system";
/// Field metadata: the native type as the system writes it, such as `numeric(10,2)`.
pub const NATIVE: &str = "dpone:native";
/// Field metadata: `raw` when the values are the system's own wire representation. Only a sink of the same system
/// reads them; nothing else may look inside.
pub const CARRIAGE: &str = "dpone:carriage";
pub const CARRIAGE_RAW: &str = "raw";
/// Field metadata of a text column: how the values that it carries sort in their system, where that is not the order of
/// their texts. See [`crate::order::ValueOrder::metadata`].
pub const ORDER: &str = "dpone:order";
/// Field metadata of a target's column: the table fills it by itself, so a source need not have it.
pub const GENERATED: &str = "dpone:generated";
/// A value of [`GENERATED`]: the table takes what a load brings for it, like any other column's values.
pub const GENERATED_UNLESS_GIVEN: &str = "unless_given";
/// Field metadata of a column that dpone itself adds to a table: its reserved name is no mistake.
pub const OWN: &str = "dpone:own";
/// Arrow's canonical extension type names.
pub const EXTENSION: &str = "ARROW:extension:name";
pub const EXTENSION_UUID: &str = "arrow.uuid";
pub const EXTENSION_JSON: &str = "arrow.json";

/// Most fractional digits that a timestamp carries anywhere in the product.
pub const MICROS: TimeUnit = TimeUnit::Microsecond;

pub fn is_raw(field: &Field) -> bool {
    field.metadata().get(CARRIAGE).is_some_and(|c| c == CARRIAGE_RAW)
}

/// The native type, when the field came from `system`.
pub fn native_of<'a>(field: &'a Field, system: &str) -> Option<&'a str> {
    (field.metadata().get(SYSTEM).map(String::as_str) == Some(system))
        .then(|| field.metadata().get(NATIVE).map(String::as_str))
        .flatten()
}

pub fn with_native(field: Field, system: &str, native: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(SYSTEM.to_owned(), system.to_owned());
    metadata.insert(NATIVE.to_owned(), native.to_owned());
    field.with_metadata(metadata)
}

pub fn with_extension(field: Field, name: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(EXTENSION.to_owned(), name.to_owned());
    field.with_metadata(metadata)
}

pub fn is_uuid(field: &Field) -> bool {
    matches!(field.data_type(), DataType::FixedSizeBinary(16))
        && field.metadata().get(EXTENSION).is_some_and(|e| e == EXTENSION_UUID)
}

pub fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION).is_some_and(|e| e == EXTENSION_JSON)
}

pub fn utc() -> Arc<str> {
    Arc::from("UTC")
}

/// Whether no load brings values for a target's column.
pub fn is_filled_by_table(field: &Field) -> bool {
    field.metadata().get(GENERATED).is_some_and(|when| when != GENERATED_UNLESS_GIVEN)
}

/// The name that definitions, plans and messages use for a type: `bigint`, `decimal(18,2)`, `timestamptz`, …
pub fn logical_name(field: &Field) -> String {
    if is_uuid(field) {
        return "uuid".to_owned();
    }
    if is_json(field) {
        return "json".to_owned();
    }
    data_type_name(field.data_type())
}

pub fn data_type_name(data_type: &DataType) -> String {
    use DataType::*;
    match data_type {
        Boolean => "boolean".into(),
        Int8 => "tinyint".into(),
        Int16 => "smallint".into(),
        Int32 => "integer".into(),
        Int64 => "bigint".into(),
        UInt8 => "unsigned tinyint".into(),
        UInt16 => "unsigned smallint".into(),
        UInt32 => "unsigned integer".into(),
        UInt64 => "unsigned bigint".into(),
        Float16 => "half".into(),
        Float32 => "real".into(),
        Float64 => "double".into(),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => format!("decimal({p},{s})"),
        Utf8 | LargeUtf8 | Utf8View => "text".into(),
        Binary | LargeBinary | BinaryView => "bytes".into(),
        FixedSizeBinary(n) => format!("bytes({n})"),
        Date32 | Date64 => "date".into(),
        Time32(_) | Time64(_) => "time".into(),
        Timestamp(TimeUnit::Nanosecond, None) => "timestamp(9)".into(),
        Timestamp(TimeUnit::Nanosecond, Some(_)) => "timestamptz(9)".into(),
        Timestamp(_, None) => "timestamp".into(),
        Timestamp(_, Some(_)) => "timestamptz".into(),
        Duration(_) => "duration".into(),
        Interval(_) => "interval".into(),
        List(f) | LargeList(f) | ListView(f) | LargeListView(f) | FixedSizeList(f, _) => {
            format!("{}[]", logical_name(f))
        }
        Struct(fields) => {
            let inner: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), logical_name(f))).collect();
            format!("struct({})", inner.join(", "))
        }
        Dictionary(_, value) => data_type_name(value),
        Null => "null".into(),
        other => other.to_string(),
    }
}

/// Reads a logical name into a field, the inverse of [`logical_name`], with the common SQL spellings.
pub fn parse_logical(column: &str, name: &str) -> Result<Field> {
    let text = name.trim().to_ascii_lowercase();
    if let Some(inner) = text.strip_suffix("[]") {
        let item = parse_logical("item", inner)?;
        return Ok(Field::new(column, DataType::List(FieldRef::new(item)), true));
    }
    let (base, arguments) = match text.split_once('(') {
        Some((base, rest)) => {
            let inner = rest.strip_suffix(')').ok_or_else(|| unknown_type(column, name))?;
            let numbers: Option<Vec<i64>> = inner.split(',').map(|n| n.trim().parse().ok()).collect();
            (base.trim(), numbers.ok_or_else(|| unknown_type(column, name))?)
        }
        None => (text.as_str(), Vec::new()),
    };
    let data_type = match (base, arguments.as_slice()) {
        ("boolean" | "bool", []) => DataType::Boolean,
        ("tinyint" | "int8", []) => DataType::Int8,
        ("smallint" | "int2" | "int16", []) => DataType::Int16,
        ("integer" | "int" | "int4" | "int32", []) => DataType::Int32,
        ("bigint" | "long" | "int64", []) => DataType::Int64,
        ("real" | "float4" | "float32", []) => DataType::Float32,
        ("double" | "double precision" | "float8" | "float64" | "float", []) => DataType::Float64,
        ("decimal" | "numeric", [p]) if (1..=38).contains(p) => DataType::Decimal128(*p as u8, 0),
        ("decimal" | "numeric", [p, s]) if (1..=38).contains(p) && (0..=*p).contains(s) => {
            DataType::Decimal128(*p as u8, *s as i8)
        }
        ("text" | "string" | "varchar" | "char" | "character varying" | "utf8", _) => DataType::Utf8,
        ("bytes" | "bytea" | "binary" | "varbinary", []) => DataType::Binary,
        ("date", []) => DataType::Date32,
        ("time", [] | [0..=6]) => DataType::Time64(MICROS),
        ("timestamp" | "datetime" | "timestamp without time zone", [] | [0..=6]) => DataType::Timestamp(MICROS, None),
        ("timestamptz" | "timestamp with time zone", [] | [0..=6]) => DataType::Timestamp(MICROS, Some(utc())),
        ("timestamp" | "datetime", [7..=9]) => DataType::Timestamp(TimeUnit::Nanosecond, None),
        ("timestamptz", [7..=9]) => DataType::Timestamp(TimeUnit::Nanosecond, Some(utc())),
        ("uuid", []) => {
            return Ok(with_extension(Field::new(column, DataType::FixedSizeBinary(16), true), EXTENSION_UUID));
        }
        ("json" | "jsonb", []) => return Ok(with_extension(Field::new(column, DataType::Utf8, true), EXTENSION_JSON)),
        _ => return Err(unknown_type(column, name)),
    };
    Ok(Field::new(column, data_type, true))
}

fn unknown_type(column: &str, name: &str) -> Error {
    Error::configuration(format!("column {column:?}: {name:?} is not a type")).with_hint(
        "types are boolean, smallint, integer, bigint, real, double, decimal(p,s), text, bytes, date, time, timestamp, \
         timestamptz, uuid, json, and any of them followed by []",
    )
}

/// Whether every value of `from` is a value of `to`: the widening lattice. Equal types widen trivially.
pub fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    if from == to {
        return true;
    }
    match (from, to) {
        (Dictionary(_, value), to) => widens(value, to),
        (Null, _) => true,
        (from, to) if is_string(from) && is_string(to) => true,
        (from, to) if is_binary(from) && is_binary(to) => true,
        (FixedSizeBinary(_), to) if is_binary(to) => true,
        (from, Decimal128(p, s) | Decimal256(p, s)) if integer_digits(from).is_some() => {
            integer_digits(from).is_some_and(|digits| digits <= *p as i32 - *s as i32)
        }
        (from, to) if int_range(from).is_some() && int_range(to).is_some() => match (int_range(from), int_range(to)) {
            (Some((a, b)), Some((c, d))) => c <= a && b <= d,
            _ => false,
        },
        (Int8 | Int16 | UInt8 | UInt16, Float32) => true,
        (Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 | Float16 | Float32, Float64) => true,
        (Float16, Float32) => true,
        (from, to) if decimal(from).is_some() && decimal(to).is_some() => match (decimal(from), decimal(to)) {
            (Some((p, s)), Some((q, t))) => t >= s && q as i32 - t as i32 >= p as i32 - s as i32,
            _ => false,
        },
        (Date32, Date64) => true,
        (Timestamp(a, tz), Timestamp(b, uz)) => tz.is_some() == uz.is_some() && coarser_or_equal(*a, *b),
        (Time32(a) | Time64(a), Time32(b) | Time64(b)) => coarser_or_equal(*a, *b),
        (List(a) | LargeList(a) | FixedSizeList(a, _) | ListView(a) | LargeListView(a), List(b) | LargeList(b)) => {
            widens(a.data_type(), b.data_type())
        }
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(x, y)| x.name() == y.name() && widens(x.data_type(), y.data_type()))
        }
        _ => false,
    }
}

/// The type whose values, as text, are spelled as the column `to` spells its own: one that takes numbers although it is
/// described as text, for want of an Arrow type that holds all that it may hold. So is `numeric` of PostgreSQL with no
/// precision, or with more than 38 digits. `None`: `to` is no such column, or does not hold every value of `from`.
pub fn spelled_as(from: &DataType, to: &Field) -> Option<DataType> {
    let (digits, scale) = match (integer_digits(from), decimal(from)) {
        (Some(digits), _) => (digits, 0),
        (_, Some((precision, scale))) => (i32::from(precision) - i32::from(scale), i32::from(scale)),
        _ => return None,
    };
    let sized = to.metadata().get(NATIVE).filter(|_| is_string(to.data_type()))?.strip_prefix("numeric")?;
    if sized.is_empty() {
        return (scale >= 0).then(|| from.clone());
    }
    let (p, s) = sized.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let (p, s) = (p.parse::<i32>().ok()?, s.parse::<i32>().ok()?);
    let holds = s >= 0 && scale <= s && digits <= p - s;
    let width = u8::try_from(digits + s).ok().filter(|width| holds && (1..=76).contains(width))?;
    Some(DataType::Decimal256(width, i8::try_from(s).ok()?))
}

pub fn is_string(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

pub fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn decimal(data_type: &DataType) -> Option<(u8, i8)> {
    use DataType::*;
    match data_type {
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => Some((*p, *s)),
        _ => None,
    }
}

fn int_range(data_type: &DataType) -> Option<(i128, i128)> {
    use DataType::*;
    Some(match data_type {
        Int8 => (i8::MIN as i128, i8::MAX as i128),
        Int16 => (i16::MIN as i128, i16::MAX as i128),
        Int32 => (i32::MIN as i128, i32::MAX as i128),
        Int64 => (i64::MIN as i128, i64::MAX as i128),
        UInt8 => (0, u8::MAX as i128),
        UInt16 => (0, u16::MAX as i128),
        UInt32 => (0, u32::MAX as i128),
        UInt64 => (0, u64::MAX as i128),
        _ => return None,
    })
}

/// Decimal digits that hold every value of an integer type.
fn integer_digits(data_type: &DataType) -> Option<i32> {
    use DataType::*;
    Some(match data_type {
        Int8 | UInt8 => 3,
        Int16 | UInt16 => 5,
        Int32 | UInt32 => 10,
        Int64 => 19,
        UInt64 => 20,
        _ => return None,
    })
}

fn coarser_or_equal(a: TimeUnit, b: TimeUnit) -> bool {
    fn rank(unit: TimeUnit) -> u8 {
        match unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 1,
            TimeUnit::Microsecond => 2,
            TimeUnit::Nanosecond => 3,
        }
    }
    rank(a) <= rank(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled_as_their_column_spells_them() {
        let column = |native: &str| with_native(Field::new("c", DataType::Utf8, true), "postgres", native);
        let cents = DataType::Decimal128(10, 2);
        assert_eq!(spelled_as(&cents, &column("numeric")), Some(cents.clone()));
        assert_eq!(spelled_as(&cents, &column("numeric(50,10)")), Some(DataType::Decimal256(18, 10)));
        assert_eq!(spelled_as(&DataType::Int64, &column("numeric(50,10)")), Some(DataType::Decimal256(29, 10)));
        assert_eq!(spelled_as(&DataType::Decimal256(50, 0), &column("numeric(1000,500)")), None, "too long to spell");
        for narrow in ["numeric(50,1)", "numeric(39,33)", "numeric(5,-2)", "text", "numerics"] {
            assert_eq!(spelled_as(&cents, &column(narrow)), None, "{narrow}");
        }
        assert_eq!(spelled_as(&DataType::Float64, &column("numeric")), None);
        assert_eq!(spelled_as(&cents, &Field::new("c", DataType::Utf8, true)), None);
    }

    #[test]
    fn names_read_back_as_the_types_they_name() {
        for name in [
            "boolean",
            "smallint",
            "integer",
            "bigint",
            "real",
            "double",
            "decimal(18,2)",
            "text",
            "bytes",
            "date",
            "time",
            "timestamp",
            "timestamptz",
            "timestamp(9)",
            "uuid",
            "json",
            "integer[]",
            "text[][]",
        ] {
            let field = parse_logical("c", name).unwrap_or_else(|e| unreachable!("{name}: {e}"));
            assert_eq!(logical_name(&field), name);
        }
        assert!(parse_logical("c", "decimal(39,0)").is_err());
        assert!(parse_logical("c", "decimal(5,6)").is_err());
        assert!(parse_logical("c", "varchar(").is_err());
    }

    #[test]
    fn widening_never_loses_a_value() {
        use DataType::*;
        assert!(widens(&Int64, &Decimal128(19, 0)) && !widens(&Int64, &Decimal128(19, 1)));
        assert!(widens(&UInt32, &Int64) && !widens(&UInt64, &Int64) && !widens(&Int64, &UInt64));
        assert!(widens(&Int32, &Float64) && !widens(&Int32, &Float32) && !widens(&Int64, &Float64));
        assert!(widens(&Decimal128(10, 2), &Decimal128(12, 4)) && !widens(&Decimal128(10, 2), &Decimal128(11, 4)));
        assert!(!widens(&Timestamp(MICROS, None), &Timestamp(MICROS, Some(utc()))));
        assert!(!widens(&Timestamp(TimeUnit::Nanosecond, None), &Timestamp(MICROS, None)));
        assert!(!widens(&Utf8, &Int64) && !widens(&Float64, &Float32));
    }
}
