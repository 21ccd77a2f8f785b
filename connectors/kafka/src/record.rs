//! The schema of a topic's records, from columns.

use arrow::datatypes::Field;
use dpone_planner::schema::{ALIASES, COMMENT, DEFAULT, DefaultValue};
use dpone_planner::{Error, Result};
use serde_json::{Map, Value, json};

use crate::compatibility::Kind;
use crate::dialect::type_of;

/// A record of these columns. A column that takes NULL is a union with null, and null is its default where it declares
/// no other; in JSON it may be left out.
pub fn record_schema(kind: Kind, name: &str, columns: &[Field]) -> Result<Value> {
    match kind {
        Kind::Avro => {
            let fields = columns.iter().map(avro_field).collect::<Result<Vec<_>>>()?;
            Ok(json!({"type": "record", "name": name, "fields": fields}))
        }
        Kind::Json => {
            let mut properties = Map::new();
            for column in columns {
                properties.insert(column.name().clone(), json_property(column)?);
            }
            let required: Vec<_> = columns.iter().filter(|column| !column.is_nullable()).map(|c| c.name()).collect();
            Ok(json!({
                "type": "object", "title": name, "properties": properties, "required": required,
                "additionalProperties": false,
            }))
        }
    }
}

fn avro_field(column: &Field) -> Result<Value> {
    let name = column.name();
    let plain = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
    if !plain {
        return Err(Error::configuration(format!("column {name:?}: this is no name of a field in Avro"))
            .with("column", name)
            .with_hint("names have ASCII letters, digits and underscores: SELECT … AS …"));
    }
    let of = type_of(column)?.avro(name);
    let default = default_of(column)?;
    let mut field = Map::new();
    field.insert("name".into(), json!(name));
    let of = match (column.is_nullable(), &default) {
        // The default is a value of the union's first type.
        (true, None | Some(Value::Null)) => json!(["null", of]),
        (true, Some(_)) => json!([of, "null"]),
        (false, _) => of,
    };
    field.insert("type".into(), of);
    match default {
        Some(default) => field.insert("default".into(), default),
        None if column.is_nullable() => field.insert("default".into(), Value::Null),
        None => None,
    };
    let aliases = column.metadata().get(ALIASES).and_then(|names| serde_json::from_str::<Value>(names).ok());
    if let Some(aliases) = aliases {
        field.insert("aliases".into(), aliases);
    }
    if let Some(comment) = column.metadata().get(COMMENT).filter(|comment| !comment.is_empty()) {
        field.insert("doc".into(), json!(comment));
    }
    Ok(Value::Object(field))
}

fn json_property(column: &Field) -> Result<Value> {
    let mut schema = type_of(column)?.json_schema();
    if let Some(object) = schema.as_object_mut() {
        if column.is_nullable() {
            let of = object.get("type").cloned().unwrap_or_default();
            object.insert("type".into(), json!([of, "null"]));
        }
        if let Some(default) = default_of(column)? {
            object.insert("default".into(), default);
        }
        if let Some(comment) = column.metadata().get(COMMENT).filter(|comment| !comment.is_empty()) {
            object.insert("description".into(), json!(comment));
        }
    }
    Ok(schema)
}

/// A default as a value; what only a server can work out is none.
fn default_of(column: &Field) -> Result<Option<Value>> {
    let Some(text) = column.metadata().get(DEFAULT).filter(|text| !text.is_empty()) else { return Ok(None) };
    Ok(match DefaultValue::parse(column.name(), text)? {
        DefaultValue::Number(number) => serde_json::from_str(&number).ok(),
        DefaultValue::Boolean(value) => Some(json!(value)),
        DefaultValue::Text(text) => Some(json!(text)),
        DefaultValue::Null => Some(Value::Null),
        DefaultValue::Call(_) | DefaultValue::Keyword(_) => None,
    })
}
