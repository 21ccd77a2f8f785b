//! Names of Delta's types, as the log and Spark write them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use dpone_engine::Result;
use dpone_planner::type_name::{Argument, TypeName};
use dpone_planner::types::{parse_logical, utc, with_native};

use crate::types;

/// The column that a type's name declares: a type of Delta, else a logical name. `timestamp` and `float` are Delta's own:
/// an instant, and 32 bits.
pub(crate) fn parse(column: &str, text: &str) -> Result<Field> {
    // A struct's field and its type stand apart by a colon.
    let own = TypeName::parse(&text.replace(':', " ")).and_then(|name| data_type(&name));
    let field = match own {
        Some(data_type) => Field::new(column, data_type, true),
        None => types::stored_field(&parse_logical(column, text)?)?,
    };
    let native = types::type_name(field.data_type());
    Ok(with_native(field, types::NAME, &native))
}

fn data_type(name: &TypeName) -> Option<DataType> {
    use DataType as D;
    if !name.rest.is_empty() {
        return None;
    }
    Some(match (name.lower().as_str(), name.arguments.as_slice()) {
        ("boolean", []) => D::Boolean,
        ("byte" | "tinyint", []) => D::Int8,
        ("short" | "smallint", []) => D::Int16,
        ("integer" | "int", []) => D::Int32,
        ("long" | "bigint", []) => D::Int64,
        ("float" | "real", []) => D::Float32,
        ("double", []) => D::Float64,
        ("string", []) => D::Utf8,
        ("binary", []) => D::Binary,
        ("date", []) => D::Date32,
        ("timestamp", []) => D::Timestamp(TimeUnit::Microsecond, Some(utc())),
        ("timestamp_ntz", []) => D::Timestamp(TimeUnit::Microsecond, None),
        ("decimal" | "numeric", digits) => match digits {
            [Argument::Number(p @ 1..=38)] => D::Decimal128(*p as u8, 0),
            [Argument::Number(p @ 1..=38), Argument::Number(s)] if (0..=*p).contains(s) => {
                D::Decimal128(*p as u8, *s as i8)
            }
            [] => D::Decimal128(10, 0),
            _ => return None,
        },
        ("array", [Argument::Type { name: None, of }]) => {
            D::List(Arc::new(Field::new(types::ELEMENT, data_type(of)?, true)))
        }
        ("struct", fields) if !fields.is_empty() => {
            let field = |argument: &Argument| match argument {
                Argument::Type { name: Some(name), of } => Some(Field::new(name, data_type(of)?, true)),
                _ => None,
            };
            D::Struct(fields.iter().map(field).collect::<Option<Vec<_>>>()?.into())
        }
        _ => return None,
    })
}
