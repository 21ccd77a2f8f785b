//! How Delta spells types and changes of schema. There is no SQL: a change is described, and applied in the log.

use arrow::datatypes::Field;
use dpone_engine::{Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::SchemaChange;

use crate::types;

#[derive(Debug, Clone, Copy)]
pub struct DeltaDialect;

impl Dialect for DeltaDialect {
    fn system(&self) -> &'static str {
        types::NAME
    }

    fn quote(&self, identifier: &str) -> String {
        format!("`{}`", identifier.replace('`', "``"))
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        Ok(types::type_name(types::stored_field(field)?.data_type()))
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        types::stored_field(field)
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        match change {
            SchemaChange::CreateTable { schema, partition_by, .. } => {
                let mut text = format!("create Delta table {} (", self.quote_relation(table));
                for (i, field) in schema.fields().iter().enumerate() {
                    let null = if field.is_nullable() { "" } else { " not null" };
                    let comma = if i == 0 { "" } else { ", " };
                    text += &format!("{comma}{} {}{null}", self.quote(field.name()), self.native_type(field)?);
                }
                text.push(')');
                if !partition_by.is_empty() {
                    let columns: Vec<_> = partition_by.iter().map(|c| self.quote(c)).collect();
                    text += &format!(" partitioned by ({})", columns.join(", "));
                }
                Ok(vec![text])
            }
            other => Err(dpone_planner::schema::cannot_change(self.system(), other)),
        }
    }
}
