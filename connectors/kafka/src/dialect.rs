//! A topic has no DDL: its records have a schema, and a Schema Registry judges the next one.

use arrow::datatypes::Field;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{Cost, SchemaChange, TableFacts, TypeShape, cannot_change};
use dpone_planner::types::native_of;
use dpone_planner::{Relation, Result};

use crate::SYSTEM;
use crate::types::{RecordType, unknown_type};

#[derive(Debug, Clone, Copy, Default)]
pub struct KafkaDialect;

impl Dialect for KafkaDialect {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    /// As documents show it: nothing is sent anywhere.
    fn quote(&self, identifier: &str) -> String {
        serde_json::Value::from(identifier).to_string()
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        Ok(type_of(field)?.to_string())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        let stored = type_of(field)?.field(field.name());
        Ok(field.clone().with_data_type(stored.data_type().clone()))
    }

    fn parse_type(&self, column: &str, name: &str) -> Result<Field> {
        Ok(RecordType::written(column, name)?.field(column))
    }

    fn shape(&self, field: &Field) -> TypeShape {
        type_of(field).map_or_else(|_| TypeShape::of_arrow(field), |native| native.shape())
    }

    fn field_of(&self, column: &str, shape: &TypeShape) -> Result<Field> {
        RecordType::of_shape(shape)
            .map(|native| native.field(column))
            .ok_or_else(|| unknown_type(column, &shape.name()))
    }

    fn cost(&self, _table: &Relation, _facts: &TableFacts, _change: &SchemaChange) -> Cost {
        Cost::unsupported("a topic has no DDL: Schema Registry compatibility decides about the next schema")
            .online_path(["register the new schema: dpone schema compatibility judges it beforehand"])
    }

    fn render(&self, _table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        Err(cannot_change("Kafka", change).with_hint("register the new schema in the Schema Registry instead"))
    }
}

/// The field's own type where it is of a record, else the one that holds its values.
pub(crate) fn type_of(field: &Field) -> Result<RecordType> {
    match native_of(field, SYSTEM) {
        Some(native) => RecordType::native(native).ok_or_else(|| unknown_type(field.name(), native)),
        None => RecordType::holding(field, field),
    }
}
