//! How SQL Server spells names, types and DDL.
//!
//! `ALTER COLUMN` forgets what it is not told: without `NULL` or `NOT NULL` the column takes NULL afterwards, without
//! `COLLATE` it gets the collation of the database. Both are always said, the collation where it is known.

use arrow::datatypes::{DataType, Field, TimeUnit};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{
    COLLATION, COMMENT, Cost, DEFAULT, DefaultValue, LockBudget, SchemaChange, TableFacts, TypeShape,
};
use dpone_planner::types::{MICROS, native_of};
use dpone_planner::{Error, Relation, Result};

use crate::types::{MsType, unknown_type};
use crate::{SYSTEM, cost};

/// Characters of a name, each a pair of bytes.
const LONGEST_NAME: usize = 128;
/// Bytes of an extended property's value.
const LONGEST_COMMENT: usize = 7500;

#[derive(Debug, Clone, Copy, Default)]
pub struct MssqlDialect;

impl Dialect for MssqlDialect {
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
        let stored = match type_of(field)? {
            // The finest unit is 100 nanoseconds: what a source has beyond is found when the value is written.
            MsType::DateTime2(7..) => DataType::Timestamp(TimeUnit::Nanosecond, None),
            MsType::Time(7..) => DataType::Time64(TimeUnit::Nanosecond),
            MsType::DateTimeOffset(7..) => match field.data_type() {
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
                other => other.clone(),
            },
            MsType::DateTimeOffset(_) => match field.data_type() {
                DataType::Timestamp(_, zone) => DataType::Timestamp(MICROS, zone.clone()),
                other => other.clone(),
            },
            native => native.field(field.name()).data_type().clone(),
        };
        Ok(field.clone().with_data_type(stored))
    }

    fn parse_type(&self, column: &str, name: &str) -> Result<Field> {
        Ok(MsType::written(column, name)?.field(column))
    }

    fn shape(&self, field: &Field) -> TypeShape {
        type_of(field).map_or_else(|_| TypeShape::of_arrow(field), |native| native.shape())
    }

    fn field_of(&self, column: &str, shape: &TypeShape) -> Result<Field> {
        MsType::of_shape(shape).map(|native| native.field(column)).ok_or_else(|| unknown_type(column, &shape.name()))
    }

    fn longest_name(&self) -> usize {
        LONGEST_NAME
    }

    fn cost(&self, _table: &Relation, facts: &TableFacts, change: &SchemaChange) -> Cost {
        cost::cost(facts, change)
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        for part in [table.database.as_deref(), Some(&table.schema), Some(&table.name)].into_iter().flatten() {
            check_name(part)?;
        }
        let on = self.quote_relation(table);
        if let Some(column) = change.column() {
            check_name(column)?;
        }
        Ok(match change {
            SchemaChange::CreateTable { schema, primary_key, partition_by } => {
                if !partition_by.is_empty() {
                    return Err(Error::configuration(format!(
                        "{table} cannot be created with partitions: SQL Server needs a partition function and a scheme"
                    ))
                    .with_hint("create the partitioned table first; it is then loaded like any other"));
                }
                let mut lines = Vec::with_capacity(schema.fields().len() + 1);
                for field in schema.fields() {
                    lines.push(definition(field, primary_key.contains(field.name()))?);
                }
                if !primary_key.is_empty() {
                    let columns: Vec<_> = primary_key.iter().map(|column| quote(column)).collect();
                    lines.push(format!("PRIMARY KEY ({})", columns.join(", ")));
                }
                let mut statements =
                    vec![create_schema(table), format!("CREATE TABLE {on} (\n  {}\n)", lines.join(",\n  "))];
                for field in schema.fields() {
                    statements.extend(comment_of(table, field)?);
                }
                statements
            }
            SchemaChange::AddColumn { column } => {
                let mut statement = format!("ALTER TABLE {on} ADD {}", definition(column, false)?);
                // Without it the rows that are there stay NULL.
                if column.is_nullable() && default_of(column).is_some() {
                    statement.push_str(" WITH VALUES");
                }
                let mut statements = vec![statement];
                statements.extend(comment_of(table, column)?);
                statements
            }
            SchemaChange::AlterType { from, to } => {
                let collation = to.metadata().get(COLLATION).or_else(|| from.metadata().get(COLLATION));
                vec![alter(&on, from.name(), to, to.is_nullable(), collation)?]
            }
            SchemaChange::DropNotNull { column } => {
                vec![alter(&on, column.name(), column, true, column.metadata().get(COLLATION))?]
            }
            SchemaChange::SetNotNull { column } => {
                vec![alter(&on, column.name(), column, false, column.metadata().get(COLLATION))?]
            }
            SchemaChange::SetCollation { column, collation } => {
                vec![alter(&on, column.name(), column, column.is_nullable(), Some(collation))?]
            }
            SchemaChange::SetDefault { column, default } => {
                let value = default_value(column, default)?;
                let add = format!("ALTER TABLE {on} ADD DEFAULT {value} FOR {}", quote(column.name()));
                vec![drop_default(table, column.name()), add]
            }
            SchemaChange::DropDefault { column } => vec![drop_default(table, column.name())],
            SchemaChange::SetComment { column, comment } => {
                vec![set_comment(table, column.name(), comment.as_deref())?]
            }
            SchemaChange::RenameColumn { from, to } => {
                check_name(to)?;
                let home = table.database.as_deref().map(|d| format!("{}.", quote(d))).unwrap_or_default();
                let local = Relation { database: None, ..table.clone() };
                let old = format!("{}.{}", self.quote_relation(&local), quote(from.name()));
                vec![format!("EXEC {home}sys.sp_rename {}, {}, N'COLUMN'", text(&old), text(to))]
            }
            // A column with a default is held by its constraint, whose name only the server knows.
            SchemaChange::DropColumn { column } => vec![
                drop_default(table, column.name()),
                format!("ALTER TABLE {on} DROP COLUMN {}", quote(column.name())),
            ],
        })
    }

    /// The server has no limit for the time of a statement: that is the client's.
    fn within_budget(&self, statements: Vec<String>, budget: &LockBudget) -> Vec<String> {
        let limit = budget.lock_timeout_ms.map(|ms| format!("SET LOCK_TIMEOUT {ms}"));
        limit.into_iter().chain(statements).collect()
    }

    fn check_key(&self, column: &Field) -> Result<()> {
        match type_of(column)? {
            native @ (MsType::Opaque(_) | MsType::Json) => Err(Error::configuration(format!(
                "the key column {:?} is {native}, whose values SQL Server does not compare for equality",
                column.name()
            ))
            .with("column", column.name())
            .with_hint("match the rows by another column, or by its text in a query")),
            _ => Ok(()),
        }
    }
}

/// The field's own type where it is of SQL Server, else the one that holds its values.
pub(crate) fn type_of(field: &Field) -> Result<MsType> {
    match native_of(field, SYSTEM) {
        Some(native) => MsType::native(native).ok_or_else(|| unknown_type(field.name(), native)),
        None => MsType::holding(field, field),
    }
}

/// The default of the field's metadata; `None` where it has none.
pub(crate) fn default_of(field: &Field) -> Option<&str> {
    field.metadata().get(DEFAULT).map(String::as_str).filter(|default| !default.is_empty())
}

fn quote(identifier: &str) -> String {
    format!("[{}]", identifier.replace(']', "]]"))
}

fn text(value: &str) -> String {
    format!("N'{}'", value.replace('\'', "''"))
}

fn check_name(name: &str) -> Result<()> {
    let units = name.encode_utf16().count();
    let problem = match units {
        0 => "an empty name".to_owned(),
        _ if name.contains('\0') => format!("{name:?} holds a zero byte"),
        129.. => format!("a name of {units} characters: SQL Server takes {LONGEST_NAME}"),
        _ => return Ok(()),
    };
    Err(Error::configuration(format!("SQL Server cannot hold this name: {problem}"))
        .with_hint("give it another name in a query: SELECT … AS …"))
}

fn collated(native: &MsType, collation: Option<&String>, column: &str) -> Result<String> {
    let Some(collation) = collation.filter(|_| native.is_text()) else { return Ok(native.to_string()) };
    if collation.is_empty() || !collation.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(Error::configuration(format!("column {column:?}: {collation:?} is not the name of a collation"))
            .with("column", column)
            .with_hint("such as Latin1_General_100_BIN2_UTF8"));
    }
    Ok(format!("{native} COLLATE {collation}"))
}

/// A column as `CREATE TABLE` and `ADD` define it.
fn definition(field: &Field, key: bool) -> Result<String> {
    check_name(field.name())?;
    let native = type_of(field)?;
    if key && native.is_large() {
        return Err(Error::configuration(format!(
            "the key column {:?} would be {native}, which cannot be in a primary key of SQL Server",
            field.name()
        ))
        .with("column", field.name())
        .with_hint("create the table first, with a length for this column: nvarchar(100)"));
    }
    let null = if field.is_nullable() && !key { "NULL" } else { "NOT NULL" };
    let mut text =
        format!("{} {} {null}", quote(field.name()), collated(&native, field.metadata().get(COLLATION), field.name())?);
    if let Some(default) = default_of(field) {
        text.push_str(&format!(" DEFAULT {}", default_value(field, default)?));
    }
    Ok(text)
}

fn alter(on: &str, name: &str, column: &Field, nullable: bool, collation: Option<&String>) -> Result<String> {
    let null = if nullable { "NULL" } else { "NOT NULL" };
    let native = collated(&type_of(column)?, collation, name)?;
    Ok(format!("ALTER TABLE {on} ALTER COLUMN {} {native} {null}", quote(name)))
}

/// A default in standard SQL, as SQL Server says it.
fn default_value(column: &Field, default: &str) -> Result<String> {
    let native = type_of(column)?;
    let zoned = matches!(native, MsType::DateTimeOffset(_));
    let now = if zoned { "SYSDATETIMEOFFSET()" } else { "SYSDATETIME()" };
    Ok(match DefaultValue::parse(column.name(), default)? {
        DefaultValue::Number(number) => match number.strip_prefix('-') {
            Some(_) => format!("({number})"),
            None => number,
        },
        DefaultValue::Boolean(value) => u8::from(value).to_string(),
        DefaultValue::Text(value) => text(&value),
        DefaultValue::Null => "NULL".to_owned(),
        DefaultValue::Keyword("CURRENT_DATE") => "CAST(GETDATE() AS date)".to_owned(),
        DefaultValue::Keyword("CURRENT_TIME" | "LOCALTIME") => "CAST(SYSDATETIME() AS time)".to_owned(),
        DefaultValue::Keyword(_) => now.to_owned(),
        DefaultValue::Call(name) => match name.as_str() {
            "now" => now.to_owned(),
            "gen_random_uuid" | "uuid_generate_v4" | "generateuuidv4" | "generate_uuid" => "NEWID()".to_owned(),
            "random" => "RAND()".to_owned(),
            // The server's own, or the user's with its schema.
            name => format!("{}()", name.to_ascii_uppercase()),
        },
    })
}

fn create_schema(table: &Relation) -> String {
    let create = text(&format!("CREATE SCHEMA {}", quote(&table.schema)));
    let name = text(&table.schema);
    match &table.database {
        None => format!("IF SCHEMA_ID({name}) IS NULL EXEC sys.sp_executesql {create}"),
        Some(database) => {
            let home = quote(database);
            format!(
                "IF NOT EXISTS (SELECT 1 FROM {home}.sys.schemas WHERE name = {name}) \
                 EXEC {home}.sys.sp_executesql {create}"
            )
        }
    }
}

/// One batch: the variable lives no longer.
fn drop_default(table: &Relation, column: &str) -> String {
    let home = table.database.as_deref().map(|d| format!("{}.", quote(d))).unwrap_or_default();
    let on = MssqlDialect.quote_relation(table);
    format!(
        "DECLARE @drop nvarchar(max) = (SELECT {} + QUOTENAME(d.name) FROM {home}sys.default_constraints AS d \
         JOIN {home}sys.columns AS c ON c.object_id = d.parent_object_id AND c.column_id = d.parent_column_id \
         WHERE d.parent_object_id = OBJECT_ID({}) AND c.name = {}); \
         IF @drop IS NOT NULL EXEC sys.sp_executesql @drop",
        text(&format!("ALTER TABLE {on} DROP CONSTRAINT ")),
        text(&on),
        text(column),
    )
}

fn comment_of(table: &Relation, field: &Field) -> Result<Option<String>> {
    let comment = field.metadata().get(COMMENT).filter(|comment| !comment.is_empty());
    comment.map(|comment| set_comment(table, field.name(), Some(comment))).transpose()
}

/// Comments are extended properties: there is one verb for a first one, and another for the next.
fn set_comment(table: &Relation, column: &str, comment: Option<&str>) -> Result<String> {
    let home = table.database.as_deref().map(|d| format!("{}.", quote(d))).unwrap_or_default();
    let there = format!(
        "EXISTS (SELECT 1 FROM {home}sys.extended_properties AS p JOIN {home}sys.columns AS c \
         ON c.object_id = p.major_id AND c.column_id = p.minor_id WHERE p.class = 1 AND p.name = N'MS_Description' \
         AND p.major_id = OBJECT_ID({}) AND c.name = {})",
        text(&MssqlDialect.quote_relation(table)),
        text(column),
    );
    let place = format!(
        "@level0type = N'SCHEMA', @level0name = {}, @level1type = N'TABLE', @level1name = {}, \
         @level2type = N'COLUMN', @level2name = {}",
        text(&table.schema),
        text(&table.name),
        text(column),
    );
    let call = |verb: &str, value: &str| {
        format!("EXEC {home}sys.sp_{verb}extendedproperty @name = N'MS_Description', {value}{place}")
    };
    let Some(comment) = comment else { return Ok(format!("IF {there} {}", call("drop", ""))) };
    if comment.encode_utf16().count() * 2 > LONGEST_COMMENT {
        return Err(Error::configuration(format!(
            "column {column:?}: SQL Server keeps comments of {} characters at most",
            LONGEST_COMMENT / 2
        ))
        .with("column", column));
    }
    let value = format!("@value = {}, ", text(comment));
    Ok(format!("IF {there} {} ELSE {}", call("update", &value), call("add", &value)))
}
