//! Arrow types and Delta types: which Delta type holds every value of an Arrow type, and the schema text of the log.
//!
//! The log's schema is read and written here rather than through the library's own model, so that field metadata
//! (native types of other systems) comes back exactly and a type that we cannot read exactly is refused by name.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use dpone_engine::{Error, Result};
use dpone_planner::types::{self, CARRIAGE, EXTENSION, NATIVE, SYSTEM};
use serde_json::{Map, Value, json};

use crate::error;

pub(crate) const NAME: &str = "delta";
/// Where a field's Arrow extension name is kept in the log: under its own key other readers would act on it.
const KEPT_EXTENSION: &str = "dpone:extension";
/// The field of a list, as Delta names it.
pub(crate) const ELEMENT: &str = "element";

/// The Arrow field that a Delta table stores for `field`: the nearest type that holds every value.
pub(crate) fn stored_field(field: &Field) -> Result<Field> {
    let data_type = stored_type(field.name(), field)?;
    let mut metadata = field.metadata().clone();
    metadata.remove(CARRIAGE);
    // An extension describes its storage type; a uuid becomes text and is none any more.
    if metadata.get(EXTENSION).is_some_and(|e| e != types::EXTENSION_JSON) || !types::is_string(&data_type) {
        metadata.remove(EXTENSION);
        metadata.remove("ARROW:extension:metadata");
    }
    Ok(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(metadata))
}

fn stored_type(column: &str, field: &Field) -> Result<DataType> {
    use DataType::*;
    if types::is_raw(field) {
        return Err(Error::internal(format!("column {column:?} arrives in another system's wire format")));
    }
    if types::is_uuid(field) {
        return Ok(Utf8);
    }
    let refuse = |hint: &str| {
        let name = types::logical_name(field);
        Err(Error::configuration(format!("column {column:?}: no Delta type holds every {name}"))
            .with("column", column)
            .with_hint(hint))
    };
    Ok(match field.data_type() {
        Boolean | Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Utf8 | Binary | Date32 => {
            field.data_type().clone()
        }
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 => Int64,
        UInt64 => Decimal128(20, 0),
        Float16 => Float32,
        LargeUtf8 | Utf8View | Null => Utf8,
        LargeBinary | BinaryView | FixedSizeBinary(_) => Binary,
        Date64 => Date32,
        // Delta has no time of day. ISO text sorts as time does and is read by everybody.
        Time32(_) | Time64(_) => Utf8,
        Timestamp(_, Some(_)) => Timestamp(TimeUnit::Microsecond, Some(types::utc())),
        Timestamp(_, None) => Timestamp(TimeUnit::Microsecond, None),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) => match delta_decimal(*p, *s) {
            Some((p, s)) => Decimal128(p, s),
            None => {
                return refuse(
                    "Delta decimals have at most 38 digits: cast the column to text or to a narrower decimal",
                );
            }
        },
        Decimal256(p, s) => match delta_decimal(*p, *s) {
            Some((p, s)) => Decimal128(p, s),
            None => {
                return refuse(
                    "Delta decimals have at most 38 digits: cast the column to text or to a narrower decimal",
                );
            }
        },
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) | FixedSizeList(item, _) => {
            List(Arc::new(nested(column, item, ELEMENT)?))
        }
        Struct(fields) => {
            Struct(fields.iter().map(|f| nested(column, f, f.name())).collect::<Result<Vec<_>>>()?.into())
        }
        Dictionary(_, value) => stored_type(column, &Field::new(column, value.as_ref().clone(), true))?,
        Interval(_) | Duration(_) => return refuse("declare the column as text"),
        _ => return refuse("declare the column as text, or leave it out with a query"),
    })
}

fn nested(column: &str, field: &Field, name: &str) -> Result<Field> {
    Ok(Field::new(name, stored_type(column, field)?, field.is_nullable()))
}

/// Delta wants `0 <= scale <= precision <= 38`.
fn delta_decimal(precision: u8, scale: i8) -> Option<(u8, i8)> {
    let (precision, scale) = match scale {
        s if s < 0 => (precision as i16 - s as i16, 0),
        s if s as i16 > precision as i16 => (s as i16, s),
        s => (precision as i16, s),
    };
    (precision <= 38).then_some((precision as u8, scale))
}

/// The Delta name of a stored type: `decimal(10,2)`, `array<string>`.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match delta_type(data_type) {
        Ok(value) => display(&value),
        Err(_) => data_type.to_string(),
    }
}

fn display(value: &Value) -> String {
    match value {
        Value::String(name) => name.clone(),
        Value::Object(object) => match object.get("type").and_then(Value::as_str) {
            Some("array") => format!("array<{}>", display(&object["elementType"])),
            Some("struct") => {
                let fields = object["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
                let inner: Vec<_> = fields
                    .iter()
                    .map(|f| format!("{}: {}", f["name"].as_str().unwrap_or_default(), display(&f["type"])))
                    .collect();
                format!("struct<{}>", inner.join(", "))
            }
            Some("map") => format!("map<{}, {}>", display(&object["keyType"]), display(&object["valueType"])),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

fn delta_type(data_type: &DataType) -> Result<Value> {
    use DataType::*;
    Ok(match data_type {
        Boolean => json!("boolean"),
        Int8 => json!("byte"),
        Int16 => json!("short"),
        Int32 => json!("integer"),
        Int64 => json!("long"),
        Float32 => json!("float"),
        Float64 => json!("double"),
        Decimal128(p, s) => json!(format!("decimal({p},{s})")),
        Utf8 => json!("string"),
        Binary => json!("binary"),
        Date32 => json!("date"),
        Timestamp(TimeUnit::Microsecond, Some(_)) => json!("timestamp"),
        Timestamp(TimeUnit::Microsecond, None) => json!("timestamp_ntz"),
        List(item) => json!({
            "type": "array",
            "elementType": delta_type(item.data_type())?,
            "containsNull": item.is_nullable(),
        }),
        Struct(fields) => struct_type(fields)?,
        other => return Err(Error::internal(format!("{other} is not a type that a Delta table stores"))),
    })
}

fn struct_type(fields: &Fields) -> Result<Value> {
    let fields = fields.iter().map(|f| delta_field(f)).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "type": "struct", "fields": fields }))
}

fn delta_field(field: &Field) -> Result<Value> {
    let mut metadata = Map::new();
    for (key, value) in field.metadata() {
        let foreign = field.metadata().get(SYSTEM).is_some_and(|s| s != NAME);
        match key.as_str() {
            SYSTEM | NATIVE if !foreign => continue,
            EXTENSION => metadata.insert(KEPT_EXTENSION.to_owned(), json!(value)),
            key if key.starts_with("PARQUET:") => continue,
            key => metadata.insert(key.to_owned(), json!(value)),
        };
    }
    Ok(json!({
        "name": field.name(),
        "type": delta_type(field.data_type())?,
        "nullable": field.is_nullable(),
        "metadata": metadata,
    }))
}

/// The log's `schemaString` of a stored schema.
pub(crate) fn schema_string(schema: &Schema) -> Result<String> {
    let mut seen = HashMap::new();
    for field in schema.fields() {
        if let Some(other) = seen.insert(field.name().to_lowercase(), field.name()) {
            return Err(Error::configuration(format!(
                "columns {other:?} and {:?} differ only in case, which a Delta table cannot hold",
                field.name()
            ))
            .with_hint("give one of them another name in a query: SELECT … AS …"));
        }
    }
    serde_json::to_string(&struct_type(schema.fields())?).map_err(error::json)
}

/// Whether a schema needs the table feature `timestampNtz`.
pub(crate) fn has_timestamp_ntz(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(_, None) => true,
        DataType::List(item) => has_timestamp_ntz(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_timestamp_ntz(f.data_type())),
        _ => false,
    }
}

/// The Arrow schema of a `schemaString`. Fields without another system's native type carry Delta's.
pub(crate) fn arrow_schema(schema_string: &str) -> Result<SchemaRef> {
    let value: Value = serde_json::from_str(schema_string)
        .map_err(|e| Error::unknown(format!("the schema in the Delta log is not readable: {e}")))?;
    let fields = arrow_fields(&value, true)?;
    Ok(Arc::new(Schema::new(fields)))
}

fn arrow_fields(value: &Value, top: bool) -> Result<Vec<FieldRef>> {
    let fields =
        value["fields"].as_array().ok_or_else(|| Error::unknown("the schema in the Delta log has no fields"))?;
    fields
        .iter()
        .map(|field| {
            let name = field["name"].as_str().unwrap_or_default();
            let data_type = arrow_type(name, &field["type"])?;
            let nullable = field["nullable"].as_bool().unwrap_or(true);
            let mut metadata = HashMap::new();
            if let Some(kept) = field["metadata"].as_object() {
                for (key, value) in kept {
                    let key = if key == KEPT_EXTENSION { EXTENSION } else { key };
                    metadata.insert(key.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                }
            }
            if top && !metadata.contains_key(SYSTEM) {
                metadata.insert(SYSTEM.to_owned(), NAME.to_owned());
                metadata.insert(NATIVE.to_owned(), display(&field["type"]));
            }
            Ok(Arc::new(Field::new(name, data_type, nullable).with_metadata(metadata)))
        })
        .collect()
}

fn arrow_type(column: &str, value: &Value) -> Result<DataType> {
    use DataType::*;
    let refuse = || {
        Error::configuration(format!("column {column:?} has the Delta type {}, which is not supported", display(value)))
            .with("column", column)
            .with_hint("rewrite the column as a string with the system that made the table")
    };
    Ok(match value {
        Value::String(name) => match name.as_str() {
            "boolean" => Boolean,
            "byte" => Int8,
            "short" => Int16,
            "integer" => Int32,
            "long" => Int64,
            "float" => Float32,
            "double" => Float64,
            "string" => Utf8,
            "binary" => Binary,
            "date" => Date32,
            "timestamp" => Timestamp(TimeUnit::Microsecond, Some(types::utc())),
            "timestamp_ntz" => Timestamp(TimeUnit::Microsecond, None),
            other => {
                let inner = other.strip_prefix("decimal(").and_then(|o| o.strip_suffix(')')).ok_or_else(refuse)?;
                let (p, s) = inner.split_once(',').ok_or_else(refuse)?;
                Decimal128(p.trim().parse().map_err(|_| refuse())?, s.trim().parse().map_err(|_| refuse())?)
            }
        },
        Value::Object(object) => match object.get("type").and_then(Value::as_str) {
            Some("array") => {
                let nullable = value["containsNull"].as_bool().unwrap_or(true);
                List(Arc::new(Field::new(ELEMENT, arrow_type(column, &value["elementType"])?, nullable)))
            }
            Some("struct") => Struct(arrow_fields(value, false)?.into()),
            Some("map") => {
                let key = Field::new("key", arrow_type(column, &value["keyType"])?, false);
                let nullable = value["valueContainsNull"].as_bool().unwrap_or(true);
                let item = Field::new("value", arrow_type(column, &value["valueType"])?, nullable);
                Map(Arc::new(Field::new("key_value", Struct(vec![key, item].into()), false)), false)
            }
            _ => return Err(refuse()),
        },
        _ => return Err(refuse()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use dpone_planner::types::{with_extension, with_native};

    #[test]
    fn stored_fields_are_fixed_points_and_come_back_from_the_log() {
        let uuid = with_extension(Field::new("u", DataType::FixedSizeBinary(16), true), types::EXTENSION_UUID);
        let fields = [
            with_native(uuid, "postgres", "uuid"),
            with_extension(Field::new("j", DataType::Utf8, true), types::EXTENSION_JSON),
            Field::new("i", DataType::UInt64, false),
            Field::new("d", DataType::Decimal128(5, 8), true),
            Field::new("n", DataType::Decimal128(5, -3), true),
            Field::new("l", DataType::new_large_list(DataType::UInt16, true), true),
            Field::new(
                "s",
                DataType::Struct(vec![Field::new("t", DataType::Time64(TimeUnit::Microsecond), true)].into()),
                true,
            ),
        ];
        let stored: Vec<_> = fields.iter().map(|f| stored_field(f).unwrap()).collect();
        for field in &stored {
            assert_eq!(&stored_field(field).unwrap(), field);
        }
        assert_eq!(stored[2].data_type(), &DataType::Decimal128(20, 0));
        assert_eq!(stored[3].data_type(), &DataType::Decimal128(8, 8));
        assert_eq!(stored[4].data_type(), &DataType::Decimal128(8, 0));
        let schema = Schema::new(stored.clone());
        let back = arrow_schema(&schema_string(&schema).unwrap()).unwrap();
        for (there, here) in back.fields().iter().zip(&stored) {
            assert_eq!(there.data_type(), here.data_type());
            assert_eq!(there.is_nullable(), here.is_nullable());
        }
        assert_eq!(types::native_of(back.field(0), "postgres"), Some("uuid"));
        assert!(types::is_json(back.field(1)));
        assert_eq!(types::native_of(back.field(3), NAME), Some("decimal(8,8)"));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for data_type in [
            DataType::Decimal256(76, 10),
            DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano),
            DataType::Duration(TimeUnit::Second),
        ] {
            let error = stored_field(&Field::new("c", data_type, true)).unwrap_err();
            assert!(error.message().contains("\"c\"") && error.hint().is_some(), "{error}");
        }
        let twice = Schema::new(vec![Field::new("a", DataType::Utf8, true), Field::new("A", DataType::Utf8, true)]);
        assert!(schema_string(&twice).is_err());
    }
}
