//! How Delta spells types and changes of schema. There is no SQL: a change is described, and applied in the log.

use arrow::datatypes::Field;
use dpone_engine::{Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{Cost, Risk, SchemaChange, TableFacts, TypeShape, Work, describe_change};
use dpone_planner::types::{parse_logical, widens, with_native};

use crate::{names, types};

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

    fn parse_type(&self, column: &str, name: &str) -> Result<Field> {
        names::parse(column, name)
    }

    /// That of the column which would be stored: a uuid is text here.
    fn shape(&self, field: &Field) -> TypeShape {
        types::stored_field(field).map_or_else(|_| TypeShape::of_arrow(field), |stored| TypeShape::of_arrow(&stored))
    }

    /// A shape's name is a logical one: its `timestamp` is no instant, Delta's is.
    fn field_of(&self, column: &str, shape: &TypeShape) -> Result<Field> {
        let stored = types::stored_field(&parse_logical(column, &shape.name())?)?;
        let native = types::type_name(stored.data_type());
        Ok(with_native(stored, types::NAME, &native))
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
            other => describe_change(self, table, other),
        }
    }

    fn cost(&self, _: &Relation, _: &TableFacts, change: &SchemaChange) -> Cost {
        let metadata = |reason: &str| Cost::new(Risk::MetadataOnly, None, Work::None, reason);
        match change {
            SchemaChange::CreateTable { .. } => metadata("a new table has no readers"),
            SchemaChange::AddColumn { column } if !column.is_nullable() => {
                Cost::unsupported("files that are there have no value in the column")
                    .online_path(["add it without NOT NULL"])
            }
            SchemaChange::AddColumn { .. } => metadata("files that lack the column are read as NULL"),
            SchemaChange::DropNotNull { .. } => metadata("the table's metadata says it, files stay as they are"),
            SchemaChange::SetComment { .. } => metadata("a comment is part of the table's metadata"),
            SchemaChange::AlterType { from, to } => match widens(from.data_type(), to.data_type()) {
                true => Cost::new(
                    Risk::LowLock,
                    None,
                    Work::Rewrite,
                    "every file is written again in one version; readers keep the version that they began with",
                ),
                false => Cost::unsupported("the files' values would not stay what they are"),
            },
            SchemaChange::RenameColumn { .. } | SchemaChange::DropColumn { .. } => Cost::unsupported(
                "files know their columns by name: it needs column mapping, which dpone does not write",
            ),
            SchemaChange::SetNotNull { .. } | SchemaChange::SetDefault { .. } | SchemaChange::DropDefault { .. } => {
                Cost::unsupported("it would be a rule for every writer, which dpone does not write")
            }
            SchemaChange::SetCollation { .. } => Cost::unsupported("texts have no collation"),
        }
    }
}
