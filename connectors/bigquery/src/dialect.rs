//! How BigQuery spells names, types and DDL.

use arrow::datatypes::{DataType, Field};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{
    COLLATION, COMMENT, Cost, DEFAULT, DefaultValue, Risk, SchemaChange, TableFacts, TypeShape, cannot_change,
};
use dpone_planner::types::{MICROS, native_of};
use dpone_planner::{Error, Relation, Result};

use crate::names::{check_column, check_table, literal, quote};
use crate::types::{BqType, unknown_type};
use crate::{SYSTEM, cost};

#[derive(Debug, Clone, Copy, Default)]
pub struct BigQueryDialect;

impl Dialect for BigQueryDialect {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    fn quote(&self, identifier: &str) -> String {
        quote(identifier)
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        Ok(type_of(field)?.to_string())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        let stored = type_of(field)?.field(field.name());
        let data_type = match (stored.data_type(), field.data_type()) {
            // The zone of the source's values is theirs; the instant is stored.
            (DataType::Timestamp(_, Some(_)), DataType::Timestamp(_, zone)) => {
                DataType::Timestamp(MICROS, zone.clone())
            }
            (stored, _) => stored.clone(),
        };
        Ok(field.clone().with_data_type(data_type))
    }

    fn parse_type(&self, column: &str, name: &str) -> Result<Field> {
        Ok(BqType::written(column, name)?.field(column))
    }

    fn shape(&self, field: &Field) -> TypeShape {
        type_of(field).map_or_else(|_| TypeShape::of_arrow(field), |native| native.shape())
    }

    fn field_of(&self, column: &str, shape: &TypeShape) -> Result<Field> {
        BqType::of_shape(shape).map(|native| native.field(column)).ok_or_else(|| unknown_type(column, &shape.name()))
    }

    fn longest_name(&self) -> usize {
        300
    }

    fn cost(&self, table: &Relation, facts: &TableFacts, change: &SchemaChange) -> Cost {
        cost::cost(table, facts, change)
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        check_table(table)?;
        change.column().map(check_column).transpose()?;
        let on = self.quote_relation(table);
        let alter = |column: &Field, rest: String| {
            vec![format!("ALTER TABLE {on} ALTER COLUMN {} {rest}", quote(column.name()))]
        };
        Ok(match change {
            SchemaChange::CreateTable { schema, primary_key, partition_by } => {
                create_table(table, schema.fields(), primary_key, partition_by)?
            }
            SchemaChange::AddColumn { column } => {
                // A REQUIRED column is refused, and so is a default in the same statement.
                let mut statements = vec![format!("ALTER TABLE {on} ADD COLUMN {}", definition(column)?)];
                if let Some(default) = default_of(column) {
                    statements.extend(alter(column, format!("SET DEFAULT {}", default_value(column, default)?)));
                }
                statements
            }
            SchemaChange::AlterType { from, to } => {
                let judged = cost::cost(table, &TableFacts::default(), change);
                if judged.risk == Risk::Unsupported {
                    return Err(cannot_change("BigQuery", change).with_hint(judged.reason));
                }
                alter(from, format!("SET DATA TYPE {}", type_of(to)?))
            }
            SchemaChange::DropNotNull { column } => alter(column, "DROP NOT NULL".to_owned()),
            SchemaChange::SetDefault { column, default } => {
                alter(column, format!("SET DEFAULT {}", default_value(column, default)?))
            }
            SchemaChange::DropDefault { column } => alter(column, "DROP DEFAULT".to_owned()),
            SchemaChange::SetComment { column, comment } => {
                let description = comment.as_deref().map_or("NULL".to_owned(), literal);
                alter(column, format!("SET OPTIONS (description = {description})"))
            }
            SchemaChange::RenameColumn { from, to } => {
                check_column(to)?;
                vec![format!("ALTER TABLE {on} RENAME COLUMN {} TO {}", quote(from.name()), quote(to))]
            }
            SchemaChange::DropColumn { column } => {
                vec![format!("ALTER TABLE {on} DROP COLUMN {}", quote(column.name()))]
            }
            SchemaChange::SetNotNull { .. } | SchemaChange::SetCollation { .. } => {
                return Err(cannot_change("BigQuery", change));
            }
        })
    }
}

/// The field's own type where it is of BigQuery, else the one that holds its values.
pub(crate) fn type_of(field: &Field) -> Result<BqType> {
    match native_of(field, SYSTEM) {
        Some(native) => BqType::native(native).ok_or_else(|| unknown_type(field.name(), native)),
        None => BqType::holding(field, field),
    }
}

pub(crate) fn default_of(field: &Field) -> Option<&str> {
    field.metadata().get(DEFAULT).map(String::as_str).filter(|default| !default.is_empty())
}

/// A column as it is added: always NULLABLE.
fn definition(field: &Field) -> Result<String> {
    check_column(field.name())?;
    let native = type_of(field)?;
    let mut text = format!("{} {native}", quote(field.name()));
    if let Some(collation) = field.metadata().get(COLLATION).filter(|_| matches!(native, BqType::String(_))) {
        text.push_str(&format!(" COLLATE {}", literal(collation)));
    }
    if let Some(comment) = field.metadata().get(COMMENT).filter(|comment| !comment.is_empty()) {
        text.push_str(&format!(" OPTIONS (description = {})", literal(comment)));
    }
    Ok(text)
}

fn create_table(
    table: &Relation,
    fields: &arrow::datatypes::Fields,
    primary_key: &[String],
    partition_by: &[String],
) -> Result<Vec<String>> {
    let mut lines = Vec::with_capacity(fields.len() + 1);
    for (i, field) in fields.iter().enumerate() {
        if let Some(other) = fields.iter().take(i).find(|other| other.name().eq_ignore_ascii_case(field.name())) {
            return Err(Error::configuration(format!(
                "columns {:?} and {:?} differ only in case, which a BigQuery table cannot hold",
                other.name(),
                field.name()
            ))
            .with_hint("give one of them another name in a query: SELECT … AS …"));
        }
        let mut line = definition(field)?;
        // In the order of the grammar: type, collation, default, NOT NULL, options.
        let options = line.find(" OPTIONS (").map(|at| line.split_off(at)).unwrap_or_default();
        if let Some(default) = default_of(field) {
            line.push_str(&format!(" DEFAULT {}", default_value(field, default)?));
        }
        // An array is never NULL, and REQUIRED is not its mode.
        if !field.is_nullable() && !matches!(type_of(field)?, BqType::Array(_)) {
            line.push_str(" NOT NULL");
        }
        lines.push(line + &options);
    }
    if !primary_key.is_empty() {
        let columns: Vec<_> = primary_key.iter().map(|column| quote(column)).collect();
        lines.push(format!("PRIMARY KEY ({}) NOT ENFORCED", columns.join(", ")));
    }
    let partitions = match partition_by {
        [] => String::new(),
        [column] => format!("\nPARTITION BY {}", partition(table, fields, column)?),
        _ => {
            return Err(Error::configuration(format!("{table}: BigQuery partitions a table by one column"))
                .with_hint("name one column of dates or of points in time"));
        }
    };
    let dataset = Relation { database: table.database.clone(), ..table.clone() };
    let home = dataset.database.as_deref().map(|project| format!("{}.", quote(project))).unwrap_or_default();
    Ok(vec![
        format!("CREATE SCHEMA IF NOT EXISTS {home}{}", quote(&table.schema)),
        format!("CREATE TABLE {} (\n  {}\n){partitions}", BigQueryDialect.quote_relation(table), lines.join(",\n  ")),
    ])
}

fn partition(table: &Relation, fields: &arrow::datatypes::Fields, column: &str) -> Result<String> {
    let field = fields.iter().find(|field| field.name() == column);
    let name = quote(column);
    match field.map(|field| type_of(field)).transpose()? {
        Some(BqType::Date) => Ok(name),
        Some(BqType::Timestamp) => Ok(format!("TIMESTAMP_TRUNC({name}, DAY)")),
        Some(BqType::DateTime) => Ok(format!("DATETIME_TRUNC({name}, DAY)")),
        Some(other) => Err(Error::configuration(format!(
            "{table} cannot be partitioned by {column:?}, which is {other}: BigQuery takes dates and points in time"
        ))
        .with_hint("create the table first, with its ranges; it is then loaded like any other")),
        None => Err(Error::configuration(format!("{table} has no column {column:?} to be partitioned by"))),
    }
}

/// A default in standard SQL, as BigQuery says it.
fn default_value(column: &Field, default: &str) -> Result<String> {
    let native = type_of(column)?;
    let now = match native {
        BqType::DateTime => "CURRENT_DATETIME()",
        BqType::Date => "CURRENT_DATE()",
        BqType::Time => "CURRENT_TIME()",
        _ => "CURRENT_TIMESTAMP()",
    };
    Ok(match DefaultValue::parse(column.name(), default)? {
        DefaultValue::Number(number) => number,
        DefaultValue::Boolean(value) => value.to_string().to_uppercase(),
        DefaultValue::Text(value) => literal(&value),
        DefaultValue::Null => "NULL".to_owned(),
        DefaultValue::Keyword("CURRENT_DATE") => "CURRENT_DATE()".to_owned(),
        DefaultValue::Keyword("CURRENT_TIME" | "LOCALTIME") => "CURRENT_TIME()".to_owned(),
        DefaultValue::Keyword("LOCALTIMESTAMP") => "CURRENT_DATETIME()".to_owned(),
        DefaultValue::Keyword(_) => now.to_owned(),
        DefaultValue::Call(name) => match name.as_str() {
            "now" | "getdate" | "sysdatetime" => now.to_owned(),
            "gen_random_uuid" | "uuid_generate_v4" | "newid" | "generateuuidv4" => "GENERATE_UUID()".to_owned(),
            "random" => "RAND()".to_owned(),
            name => format!("{}()", name.to_ascii_uppercase()),
        },
    })
}
