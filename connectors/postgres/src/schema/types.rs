//! Fields and the native types that they stand for.

use arrow::datatypes::Field;
use dpone_planner::schema::TypeShape;
use dpone_planner::types::{native_of, parse_logical};
use dpone_planner::{Error, Result};

use super::native::{FRACTION, NativeType, NotAType};
use crate::SYSTEM;
use crate::dialect::type_for;
use crate::types::{BASE, LABELS, column};

/// The column that a type's name declares; a logical name is taken for the type that a new column of it would get.
pub(crate) fn parse_type(name: &str, text: &str) -> Result<Field> {
    let native = match NativeType::parse(text) {
        Ok(native) => native,
        // Other systems keep more digits of a second.
        Err(wrong @ (NotAType::Unknown | NotAType::Modifiers(FRACTION))) => {
            logical(name, text).ok_or_else(|| refused(name, text, &wrong))?
        }
        Err(wrong) => return Err(refused(name, text, &wrong)),
    };
    Ok(column(name, &native.pg_type(), true, false, None)?.field)
}

/// Names that other systems and the shapes of types use. A name that PostgreSQL knows never gets here.
fn logical(column: &str, text: &str) -> Option<NativeType> {
    let text = text.trim().to_lowercase();
    if let Some(item) = text.strip_suffix("[]") {
        let item = NativeType::parse(item).ok().or_else(|| logical(column, item))?;
        return Some(NativeType { array: true, ..item });
    }
    let (word, arguments) = text.split_once('(').map_or((text.as_str(), ""), |(word, rest)| (word.trim(), rest));
    let native = match (word, arguments) {
        ("unsigned tinyint", "") => "smallint",
        ("unsigned smallint", "") => "integer",
        ("unsigned integer", "") => "bigint",
        ("unsigned bigint", "") => "numeric(20,0)",
        ("int128" | "unsigned int128", "") => "numeric(39,0)",
        ("int256" | "unsigned int256", "") => "numeric(78,0)",
        ("half", "") => "real",
        ("bytes" | "binary" | "varbinary", _) => "bytea",
        _ => {
            let field = parse_logical(column, &text).ok()?;
            return NativeType::parse(&type_for(&field, &field).ok()?).ok();
        }
    };
    NativeType::parse(native).ok()
}

fn refused(column: &str, text: &str, wrong: &NotAType) -> Error {
    let (message, hint) = match wrong {
        NotAType::Serial => (
            format!("{text:?} is an integer with a sequence, and no type of its own"),
            "write the integer: smallint, integer or bigint; the sequence is the table's business",
        ),
        NotAType::Modifiers(expected) => (
            format!("{text:?} is not a type: PostgreSQL takes {expected} here"),
            "write it as \\d prints it, such as character varying(20), numeric(10,2), timestamp(3) with time zone",
        ),
        NotAType::Unknown => (
            format!("{text:?} is not a type of PostgreSQL"),
            "a type that the database has made needs its schema, as in public.mood",
        ),
    };
    Error::configuration(format!("column {column:?}: {message}")).with("column", column).with_hint(hint)
}

/// The type of a field: its own where it is PostgreSQL's, that below its domain where it has one, else the type that a new
/// column of it would get.
pub(super) fn native_type(field: &Field) -> Result<NativeType> {
    let text = match field.metadata().get(BASE).map(String::as_str).or_else(|| native_of(field, SYSTEM)) {
        Some(text) => text.to_owned(),
        None => type_for(field, field)?,
    };
    NativeType::parse(&text).or_else(|wrong| {
        // The catalog prints names without a schema too, where that is pg_catalog.
        let plain = crate::dialect::is_type_name(&text).then(|| NativeType::new(&text, &[]));
        plain.ok_or_else(|| refused(field.name(), &text, &wrong))
    })
}

/// The labels of an enum, where the field is one.
pub(super) fn labels(field: &Field) -> Option<Vec<String>> {
    serde_json::from_str(field.metadata().get(LABELS)?).ok()
}

/// What a column can hold; a field of another system counts as what is stored for it.
pub(crate) fn shape(field: &Field) -> TypeShape {
    if let Some(labels) = labels(field) {
        return TypeShape::Enum(labels);
    }
    match native_type(field) {
        Ok(native) => native.shape(),
        Err(_) => TypeShape::of_arrow(field),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::datatypes::DataType;
    use dpone_planner::types::is_uuid;

    use super::*;

    #[test]
    fn names_become_columns_as_the_catalog_has_them() {
        let parse = |text: &str| parse_type("c", text).unwrap();
        let native = |text: &str| native_of(&parse(text), SYSTEM).unwrap().to_owned();
        assert_eq!(parse("numeric(10,2)").data_type(), &DataType::Decimal128(10, 2));
        assert_eq!(parse("int8").data_type(), &DataType::Int64);
        assert!(is_uuid(&parse("uuid")));
        assert!(matches!(parse("integer[]").data_type(), DataType::List(_)));
        for (text, want) in [
            ("tinyint", "smallint"),
            ("string", "text"),
            ("double", "double precision"),
            ("unsigned bigint", "numeric(20,0)"),
            ("varbinary(16)", "bytea"),
            ("timestamptz(9)", "timestamp with time zone"),
            ("tinyint[]", "smallint[]"),
            ("decimal(12,2)", "numeric(12,2)"),
        ] {
            assert_eq!(native(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_type_is_refused_by_the_name_of_the_column() {
        for (text, says) in
            [("strng", "not a type"), ("bigserial", "sequence"), ("varchar(0)", "length"), ("", "not a type")]
        {
            let error = parse_type("amount", text).unwrap_err().to_string();
            assert!(error.contains("\"amount\"") && error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_field_of_another_system_counts_as_what_is_stored_for_it() {
        let shape = |data_type| shape(&Field::new("c", data_type, true));
        assert_eq!(shape(DataType::Int8), TypeShape::Integer { bits: 16, signed: true });
        assert_eq!(shape(DataType::UInt64), TypeShape::Decimal { digits: Some((20, 0)) });
        let nanos = DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None);
        assert_eq!(shape(nanos), TypeShape::Timestamp { digits: 6, zoned: false });
    }
}
