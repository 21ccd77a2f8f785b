//! A topic has no DDL: its records have a schema, and a Schema Registry judges the next one.

use arrow::datatypes::Field;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::expand_contract::{Migration, MigrationStep};
use dpone_planner::schema::{Cost, SchemaChange, TableFacts, TypeShape, cannot_change, with_aliases};
use dpone_planner::types::native_of;
use dpone_planner::{Error, Relation, Result};

use crate::SYSTEM;
use crate::compatibility::{Kind, Level, Report, compatibility};
use crate::record::record_schema;
use crate::types::{RecordType, unknown_type};

/// With the level of compatibility that the registry has for the subject.
#[derive(Debug, Clone, Copy, Default)]
pub struct KafkaDialect {
    pub level: Level,
    pub kind: Kind,
}

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

    /// Nothing is ever applied; the reason says what the registry would say.
    fn cost(&self, _table: &Relation, _facts: &TableFacts, change: &SchemaChange) -> Cost {
        let level = self.level;
        let judged = match self.judge(change) {
            Ok(None) => "this changes nothing that a registry compares".to_owned(),
            Ok(Some(report)) if report.compatible => format!("under {level} the new schema is compatible"),
            Ok(Some(report)) => {
                let problem = report.problems.first();
                let said = problem.map(|p| format!(" ({}: {})", p.rule, p.message)).unwrap_or_default();
                format!("under {level} the new schema is incompatible{said}")
            }
            Err(error) => format!("no schema says it: {}", error.message()),
        };
        Cost::unsupported(format!("a topic has no DDL, Schema Registry compatibility is used instead: {judged}"))
            .online_path(["register the new schema; dpone schema compatibility judges it beforehand"])
    }

    fn render(&self, _table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        Err(cannot_change("Kafka", change).with_hint("register the new schema in the Schema Registry instead"))
    }

    fn migration(&self, _table: &Relation, migration: &Migration) -> Result<Option<Vec<MigrationStep>>> {
        Err(Error::configuration("a topic has no columns to migrate: its schemas live beside each other")
            .with("column", &migration.column)
            .with_hint("`dpone schema compatibility` judges the next schema against the earlier ones"))
    }
}

impl KafkaDialect {
    /// What the registry says of a record with this one column, before and after; `None` where that is all the same.
    fn judge(&self, change: &SchemaChange) -> Result<Option<Report>> {
        let nullable = |column: &Field, nullable: bool| column.clone().with_nullable(nullable);
        let (before, after) = match change {
            SchemaChange::CreateTable { .. } => return Ok(None),
            SchemaChange::AddColumn { column } => (None, Some(column.as_ref().clone())),
            SchemaChange::DropColumn { column } => (Some(column.as_ref().clone()), None),
            SchemaChange::AlterType { from, to } => (Some(from.as_ref().clone()), Some(to.as_ref().clone())),
            SchemaChange::DropNotNull { column } => (Some(nullable(column, false)), Some(nullable(column, true))),
            SchemaChange::SetNotNull { column } => (Some(nullable(column, true)), Some(nullable(column, false))),
            SchemaChange::RenameColumn { from, to } => {
                let to = from.as_ref().clone().with_name(to);
                (
                    Some(from.as_ref().clone()),
                    Some(with_aliases(&to, std::slice::from_ref(from.name())).as_ref().clone()),
                )
            }
            SchemaChange::SetDefault { .. }
            | SchemaChange::DropDefault { .. }
            | SchemaChange::SetComment { .. }
            | SchemaChange::SetCollation { .. } => return Ok(None),
        };
        let schema = |column: Option<Field>| record_schema(self.kind, "record", column.as_slice());
        compatibility(self.level, self.kind, &schema(after)?, &[schema(before)?]).map(Some)
    }
}

/// The field's own type where it is of a record, else the one that holds its values.
pub(crate) fn type_of(field: &Field) -> Result<RecordType> {
    match native_of(field, SYSTEM) {
        Some(native) => RecordType::native(native).ok_or_else(|| unknown_type(field.name(), native)),
        None => RecordType::holding(field, field),
    }
}
