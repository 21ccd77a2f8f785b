//! How PostgreSQL spells names, types and DDL.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, TimeUnit};
use datafusion::logical_expr::Expr;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{Cost, LockBudget, SchemaChange, TableFacts, TypeShape};
use dpone_planner::types::{MICROS, is_json, is_raw, is_uuid, logical_name, native_of};
use dpone_planner::{Error, Relation, Result};

use crate::SYSTEM;
use crate::read::filter::Filter;
use crate::schema::{self, ddl, types};
use crate::types::{BASE, PgType, column};
use crate::write::names::{MAX_NAME, check, list, quote, relation};

#[derive(Debug, Default)]
pub struct PostgresDialect;

impl Dialect for PostgresDialect {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    fn quote(&self, identifier: &str) -> String {
        quote(identifier)
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        created_type(field)
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        if is_raw(field) {
            return Ok(field.clone());
        }
        let stored = stored_type(field, field.data_type())?;
        Ok(field.clone().with_data_type(stored))
    }

    fn check_key(&self, column: &Field) -> Result<()> {
        let native = self.native_type(column)?;
        let hint = match native.as_str() {
            "json" => "make the target's column jsonb, or take the key's parts out of it in a query",
            "xml" | "point" | "line" | "lseg" | "box" | "path" | "polygon" | "circle" | "txid_snapshot"
            | "pg_snapshot" => "match the rows by another column, or by its text: CAST(… AS VARCHAR) in a query",
            _ => return Ok(()),
        };
        Err(Error::configuration(format!(
            "the key column {:?} is {native}, whose values PostgreSQL does not compare for equality",
            column.name()
        ))
        .with("column", column.name())
        .with_hint(hint))
    }

    fn migration(
        &self,
        table: &Relation,
        migration: &dpone_planner::schema::expand_contract::Migration,
    ) -> Result<Option<Vec<dpone_planner::schema::expand_contract::MigrationStep>>> {
        crate::write::expand_contract::steps(table, migration).map(Some)
    }

    fn check_scope(&self, columns: &Schema, scope: &Expr) -> Result<()> {
        let columns = columns
            .fields()
            .iter()
            .map(|field| {
                let native = PgType::named(field, &self.native_type(field)?);
                column(field.name(), &native, field.is_nullable(), false, None)
            })
            .collect::<Result<Vec<_>>>()?;
        // What the encoding of a database adds to this, its own transaction finds.
        match (Filter { columns: &columns, utf8: true }).render(scope) {
            Some(_) => Ok(()),
            None => Err(Error::configuration(format!("the scope {scope} cannot be said exactly in PostgreSQL's SQL"))),
        }
    }

    fn parse_type(&self, column: &str, name: &str) -> Result<Field> {
        types::parse_type(column, name)
    }

    fn shape(&self, field: &Field) -> TypeShape {
        types::shape(field)
    }

    fn longest_name(&self) -> usize {
        MAX_NAME
    }

    fn cost(&self, table: &Relation, facts: &TableFacts, change: &SchemaChange) -> Cost {
        schema::cost(table, facts, change)
    }

    fn within_budget(&self, statements: Vec<String>, budget: &LockBudget) -> Vec<String> {
        ddl::within_budget(statements, budget)
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        check("schema", &table.schema)?;
        check("table", &table.name)?;
        match change {
            SchemaChange::CreateTable { schema, primary_key, partition_by } => {
                if !partition_by.is_empty() {
                    return Err(Error::configuration(format!(
                        "{table} cannot be created with partitions: PostgreSQL needs the bounds of each one"
                    ))
                    .with_hint("create the partitioned table first; it is then loaded like any other"));
                }
                let mut lines = Vec::with_capacity(schema.fields().len() + 1);
                for field in schema.fields() {
                    check("column", field.name())?;
                    let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
                    lines.push(format!("{} {}{not_null}", quote(field.name()), self.native_type(field)?));
                }
                if !primary_key.is_empty() {
                    lines.push(format!("PRIMARY KEY ({})", list(primary_key.iter().map(String::as_str))));
                }
                Ok(vec![
                    format!("CREATE SCHEMA IF NOT EXISTS {}", quote(&table.schema)),
                    format!("CREATE TABLE {} (\n  {}\n)", relation(table), lines.join(",\n  ")),
                ])
            }
            other => ddl::render(table, other),
        }
    }
}

/// The type of a column made for this field.
pub(crate) fn created_type(field: &Field) -> Result<String> {
    if let Some(native) = native_of(field, SYSTEM) {
        // The domain belongs to the source's database; its values are its base type's.
        let native = field.metadata().get(BASE).map_or(native, String::as_str);
        if !is_type_name(native) {
            return Err(Error::configuration(format!(
                "column {:?} says that its PostgreSQL type is {native:?}, which is not the name of a type",
                field.name()
            ))
            .with("column", field.name()));
        }
        return Ok(native.to_owned());
    }
    type_for(field, field)
}

/// The type of a column made for this Arrow type. `column` is named in errors; `field` may be an element of it.
pub(crate) fn type_for(column: &Field, field: &Field) -> Result<String> {
    use DataType as D;
    if is_uuid(field) {
        return Ok("uuid".into());
    }
    if is_json(field) {
        return Ok("json".into());
    }
    Ok(match field.data_type() {
        D::Boolean => "boolean".into(),
        D::Int8 | D::Int16 | D::UInt8 => "smallint".into(),
        D::Int32 | D::UInt16 => "integer".into(),
        D::Int64 | D::UInt32 => "bigint".into(),
        D::UInt64 => "numeric(20,0)".into(),
        D::Float16 | D::Float32 => "real".into(),
        D::Float64 => "double precision".into(),
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => {
            let (p, s) = (i32::from(*p), i32::from(*s));
            match s {
                ..0 => format!("numeric({},0)", p - s),
                _ => format!("numeric({},{s})", p.max(s)),
            }
        }
        D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null => "text".into(),
        D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => "bytea".into(),
        D::Date32 | D::Date64 => "date".into(),
        D::Time32(_) | D::Time64(_) => "time".into(),
        D::Timestamp(_, None) => "timestamp".into(),
        D::Timestamp(_, Some(_)) => "timestamptz".into(),
        D::Duration(_) | D::Interval(_) => "interval".into(),
        D::Dictionary(_, value) => type_for(column, &field.clone().with_data_type(value.as_ref().clone()))?,
        D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _) | D::ListView(item) | D::LargeListView(item)
            if !item.data_type().is_nested() =>
        {
            format!("{}[]", type_for(column, item)?)
        }
        _ => return Err(no_type(column)),
    })
}

fn no_type(column: &Field) -> Error {
    Error::configuration(format!(
        "column {:?} is {}, which PostgreSQL has no type for",
        column.name(),
        logical_name(column)
    ))
    .with_hint("pick its parts, or turn it into text or json, in a query")
    .with("column", column.name())
}

/// The Arrow type of staged batches: what the COPY encoder reads without losing a value.
fn stored_type(column: &Field, data_type: &DataType) -> Result<DataType> {
    use DataType as D;
    Ok(match data_type {
        D::Int8 | D::UInt8 => D::Int16,
        D::UInt16 => D::Int32,
        D::UInt32 => D::Int64,
        D::UInt64 => D::Decimal128(20, 0),
        D::Float16 => D::Float32,
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) => decimal(*p, *s),
        D::Decimal256(p, s) if *s < 0 => decimal256(*p, *s),
        D::Utf8 | D::LargeUtf8 | D::Utf8View => D::Utf8,
        D::Binary | D::LargeBinary | D::BinaryView => D::Binary,
        D::Date32 | D::Date64 => D::Date32,
        D::Time32(_) | D::Time64(_) => D::Time64(MICROS),
        D::Timestamp(_, zone) => D::Timestamp(MICROS, zone.clone()),
        D::Duration(_) => D::Duration(TimeUnit::Microsecond),
        D::Interval(_) => D::Interval(IntervalUnit::MonthDayNano),
        D::Dictionary(_, value) => stored_type(column, value)?,
        D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _) | D::ListView(item) | D::LargeListView(item)
            if !item.data_type().is_nested() =>
        {
            let stored = stored_type(column, item.data_type())?;
            D::List(Arc::new(item.as_ref().clone().with_data_type(stored)))
        }
        D::Boolean
        | D::Int16
        | D::Int32
        | D::Int64
        | D::Float32
        | D::Float64
        | D::Decimal256(..)
        | D::FixedSizeBinary(_)
        | D::Null => data_type.clone(),
        _ => return Err(no_type(column)),
    })
}

/// A negative scale becomes digits: numeric has had one only since server 15.
fn decimal(p: u8, s: i8) -> DataType {
    match s {
        0.. => DataType::Decimal128(p, s),
        _ if i32::from(p) - i32::from(s) <= 38 => DataType::Decimal128((i32::from(p) - i32::from(s)) as u8, 0),
        _ => decimal256(p, s),
    }
}

fn decimal256(p: u8, s: i8) -> DataType {
    DataType::Decimal256((i32::from(p) - i32::from(s)).clamp(1, 76) as u8, 0)
}

/// Types of several words, as `format_type` writes them.
const WORDY: &[&str] = &[
    "double precision",
    "character varying",
    "bit varying",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
    "time with time zone",
];

/// Whether this is the name of a type and nothing else. The text comes out of field metadata, which a file may bring
/// along: it stands in DDL, so it must not be able to say more than a type.
pub(crate) fn is_type_name(text: &str) -> bool {
    let mut base = text;
    while let Some(inner) = base.strip_suffix("[]") {
        base = inner;
    }
    // One modifier, of numbers alone, anywhere behind the first word: `timestamp(3) without time zone`.
    let mut name = base.to_owned();
    if !base.contains('"')
        && let Some((before, rest)) = base.split_once('(')
    {
        let Some((modifier, after)) = rest.split_once(')') else { return false };
        let number = |n: &str| !n.is_empty() && n.strip_prefix('-').unwrap_or(n).bytes().all(|b| b.is_ascii_digit());
        if !modifier.split(',').all(number) {
            return false;
        }
        name = format!("{before}{after}");
    } else if let Some((before, modifier)) = base.rsplit_once('(')
        && before.ends_with('"')
    {
        let number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        if !modifier.strip_suffix(')').is_some_and(|m| m.split(',').all(number)) {
            return false;
        }
        name = before.to_owned();
    }
    let interval_fields = ["year", "month", "day", "hour", "minute", "second", "to"];
    WORDY.contains(&name.as_str())
        || name.strip_prefix("interval ").is_some_and(|f| f.split(' ').all(|w| interval_fields.contains(&w)))
        || is_qualified_name(&name)
}

/// One or two identifiers, quoted or plain.
fn is_qualified_name(text: &str) -> bool {
    let mut rest = text;
    for part in 0..2 {
        let end = if rest.starts_with('"') {
            let mut at = 1;
            loop {
                match rest[at..].find('"') {
                    None => return false,
                    Some(q) if rest[at + q + 1..].starts_with('"') => at += q + 2,
                    Some(0) if at == 1 => return false,
                    Some(q) => break at + q + 1,
                }
            }
        } else {
            let plain = |c: char| c == '_' || c == '$' || c.is_ascii_alphanumeric() || !c.is_ascii();
            let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
            if end == 0 || rest.starts_with(|c: char| c.is_ascii_digit() || c == '$') {
                return false;
            }
            end
        };
        rest = &rest[end..];
        match rest.strip_prefix('.') {
            None => return rest.is_empty(),
            Some(_) if part == 1 => return false,
            Some(after) => rest = after,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use arrow::datatypes::Schema;
    use dpone_planner::types::{with_extension, with_native};

    use super::*;

    fn native(data_type: DataType) -> Result<String> {
        PostgresDialect.native_type(&Field::new("c", data_type, true))
    }

    #[test]
    fn a_new_column_holds_every_value() {
        use DataType as D;
        for (data_type, want) in [
            (D::UInt32, "bigint"),
            (D::UInt64, "numeric(20,0)"),
            (D::Decimal128(38, 10), "numeric(38,10)"),
            (D::Decimal128(5, -2), "numeric(7,0)"),
            (D::Decimal256(76, 20), "numeric(76,20)"),
            (D::LargeUtf8, "text"),
            (D::FixedSizeBinary(16), "bytea"),
            (D::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), "timestamptz"),
            (D::List(Arc::new(Field::new("item", D::Int32, true))), "integer[]"),
            (D::Dictionary(Box::new(D::Int32), Box::new(D::Utf8)), "text"),
        ] {
            assert_eq!(native(data_type).unwrap(), want);
        }
        let uuid = with_extension(Field::new("c", D::FixedSizeBinary(16), true), dpone_planner::types::EXTENSION_UUID);
        assert_eq!(PostgresDialect.native_type(&uuid).unwrap(), "uuid");
        let nested = D::Struct(vec![Field::new("a", D::Int32, true)].into());
        assert!(native(nested.clone()).is_err());
        assert!(native(D::List(Arc::new(Field::new("item", nested, true)))).is_err());
    }

    #[test]
    fn metadata_can_name_a_type_and_nothing_else() {
        for good in [
            "integer",
            "numeric(10,2)",
            "numeric(3,-5)",
            "timestamp(3) without time zone",
            "character varying(20)[]",
            "interval day to second",
            "\"char\"",
            "public.\"my \"\"type\"\"\"",
            "\"S\".\"T\"[]",
            "geo.geometry",
        ] {
            assert!(is_type_name(good), "{good}");
        }
        for bad in [
            "",
            "integer; drop table t",
            "integer primary key",
            "integer default 5",
            "numeric(10,2",
            "numeric(a)",
            "x)",
            "a.b.c",
            "\"open",
            "\"\"",
            "int--",
            "text collate \"C\"",
            "\"a\"b",
        ] {
            assert!(!is_type_name(bad), "{bad}");
        }
        let field = with_native(Field::new("c", DataType::Utf8, true), SYSTEM, "text); DROP TABLE t; --");
        assert!(PostgresDialect.native_type(&field).is_err());
        let mut domain = with_native(Field::new("c", DataType::Int32, true), SYSTEM, "posint");
        let mut metadata: HashMap<_, _> = domain.metadata().clone();
        metadata.insert(BASE.into(), "integer".into());
        domain = domain.with_metadata(metadata);
        assert_eq!(PostgresDialect.native_type(&domain).unwrap(), "integer");
    }

    #[test]
    fn a_table_is_created_with_quoted_names_alone() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("we\"ird; drop table", DataType::Int32, false),
            Field::new("b", DataType::Utf8, true),
        ]));
        let change = SchemaChange::CreateTable {
            schema: Arc::clone(&schema),
            primary_key: vec!["we\"ird; drop table".into()],
            partition_by: Vec::new(),
        };
        let sql = PostgresDialect.render(&Relation::new("s\"x", "t"), &change).unwrap();
        assert_eq!(sql[0], "CREATE SCHEMA IF NOT EXISTS \"s\"\"x\"");
        assert_eq!(
            sql[1],
            "CREATE TABLE \"s\"\"x\".\"t\" (\n  \"we\"\"ird; drop table\" integer NOT NULL,\n  \"b\" text,\n  \
             PRIMARY KEY (\"we\"\"ird; drop table\")\n)"
        );
        let partitioned = SchemaChange::CreateTable { schema, primary_key: Vec::new(), partition_by: vec!["b".into()] };
        assert!(PostgresDialect.render(&Relation::new("s", "t"), &partitioned).is_err());
        assert!(PostgresDialect.render(&Relation::new("s", "t".repeat(64)), &change).is_err());
    }
}
