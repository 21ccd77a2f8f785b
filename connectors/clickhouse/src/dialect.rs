//! How ClickHouse spells names, types and DDL.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::logical_expr::Expr;
use dpone_planner::dialect::{Dialect, TableOptions};
use dpone_planner::schema::expand_contract::{Migration, MigrationStep};
use dpone_planner::schema::{COMMENT, Cost, DEFAULT, DefaultValue, SchemaChange, TableFacts, TypeShape, cannot_change};
use dpone_planner::types::{is_binary, is_string, native_of, widens};
use dpone_planner::{Error, Relation, Result};

use crate::settings::VIRTUAL;
use crate::types::{self, ChType, literal, unknown_type};
use crate::write::create::{Creation, Wanted};
use crate::write::options::Options;
use crate::{SYSTEM, cost};

#[derive(Debug, Clone, Copy, Default)]
pub struct ClickHouseDialect;

impl Dialect for ClickHouseDialect {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    fn quote(&self, identifier: &str) -> String {
        types::quote(identifier)
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        Ok(type_of(field)?.to_string())
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        let native = type_of(field)?;
        // A string is any bytes: they travel as such.
        if native.without_null() == &ChType::String && is_binary(field.data_type()) {
            return Ok(field.clone().with_data_type(DataType::Binary));
        }
        let stored = native.field(field.name());
        // Arrays, tuples and maps take no NULL.
        let nullable = field.is_nullable() && stored.is_nullable();
        Ok(field.clone().with_data_type(stored.data_type().clone()).with_nullable(nullable))
    }

    fn staged_field(&self, source: &Field, target: &Field) -> Result<Option<Field>> {
        let native = type_of(target)?;
        let bytes = native.without_null() == &ChType::String && is_binary(source.data_type());
        if bytes {
            return Ok(Some(target.clone().with_data_type(DataType::Binary).with_nullable(source.is_nullable())));
        }
        // Whether all texts have its length, the rows say.
        let text = is_string(source.data_type()) || is_binary(source.data_type());
        if text && matches!(native.without_null(), ChType::FixedString(_)) {
            return Ok(Some(target.clone().with_nullable(source.is_nullable())));
        }
        let stored = self.stored_field(source)?;
        let own = native_of(source, SYSTEM);
        if own.is_some() && own == native_of(target, SYSTEM) {
            return Ok(Some(stored));
        }
        let fits = widens(stored.data_type(), target.data_type());
        let data_type = with_nulls_of(source.data_type(), target.data_type());
        Ok(fits.then(|| target.clone().with_data_type(data_type).with_nullable(source.is_nullable())))
    }

    /// A string alone. Texts that the server makes other values of are looked at before they are sent.
    fn takes_view(&self, stored: &Field) -> bool {
        type_of(stored).is_ok_and(|native| match native.without_null() {
            ChType::LowCardinality(inner) => inner.without_null() == &ChType::String,
            native => native == &ChType::String,
        })
    }

    fn check_key(&self, column: &Field) -> Result<()> {
        let native = type_of(column)?;
        if !matches!(column.data_type(), DataType::Float16 | DataType::Float32 | DataType::Float64) {
            return Ok(());
        }
        Err(Error::configuration(format!(
            "the key column {:?} is {native}: 0 and -0 are one key to a comparison, and two rows to ClickHouse",
            column.name()
        ))
        .with("column", column.name())
        .with_hint("match the rows by another column, or by a number without an exponent: CAST(… AS DECIMAL(18, 6)) in a query"))
    }

    fn parse_type(&self, column: &str, name: &str) -> Result<Field> {
        let field = ChType::written(column, name)?.field(column);
        // ClickHouse's own names say whether they take NULL; logical ones do, unless something else is said.
        let own = ChType::native(name).is_some();
        Ok(if own { field } else { field.with_nullable(true) })
    }

    fn shape(&self, field: &Field) -> TypeShape {
        type_of(field).map_or_else(|_| TypeShape::of_arrow(field), |native| native.shape())
    }

    fn field_of(&self, column: &str, shape: &TypeShape) -> Result<Field> {
        ChType::of_shape(shape).map(|native| native.field(column)).ok_or_else(|| unknown_type(column, &shape.name()))
    }

    fn cost(&self, table: &Relation, facts: &TableFacts, change: &SchemaChange) -> Cost {
        cost::cost(table, facts, change)
    }

    fn migration(&self, table: &Relation, migration: &Migration) -> Result<Option<Vec<MigrationStep>>> {
        crate::write::expand_contract::steps(table, migration)
    }

    fn check_scope(&self, columns: &Schema, scope: &Expr) -> Result<()> {
        // As the sink finds them in the server's catalog.
        let columns = columns.fields().iter().map(|field| match type_of(field) {
            Ok(native) => native.field(field.name()),
            Err(_) => field.as_ref().clone(),
        });
        match crate::read::condition(scope, &Schema::new(columns.collect::<Vec<_>>())) {
            Some(_) => Ok(()),
            None => Err(Error::configuration(format!("the scope {scope} cannot be said exactly in ClickHouse's SQL"))),
        }
    }

    fn render_with(&self, table: &Relation, change: &SchemaChange, more: &TableOptions<'_>) -> Result<Vec<String>> {
        let SchemaChange::CreateTable { schema, primary_key, partition_by } = change else {
            return self.render(table, change);
        };
        check_table(table)?;
        let (options, cursor) = (&Options::new(more.options)?, more.cursor);
        let creation = Creation::new(&Wanted { schema, primary_key, partition_by, cursor, options })?;
        Ok(vec![format!("CREATE DATABASE IF NOT EXISTS {}", types::quote(&table.schema)), creation.target(table)])
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        check_table(table)?;
        change.column().map(check_name).transpose()?;
        let on = self.quote_relation(table);
        let modify =
            |column: &str, rest: &str| format!("ALTER TABLE {on} MODIFY COLUMN {} {rest}", types::quote(column));
        Ok(match change {
            SchemaChange::CreateTable { .. } => {
                self.render_with(table, change, &TableOptions { options: &BTreeMap::new(), cursor: None })?
            }
            SchemaChange::AddColumn { column } => {
                let mut statements =
                    vec![format!("ALTER TABLE {on} ADD COLUMN {}", definition_as(column, false, None)?)];
                if default_of(column).is_some_and(|default| is_computed(column, default)) {
                    statements.push(materialize(&on, column.name()));
                }
                statements
            }
            SchemaChange::AlterType { from, to } => vec![modify(from.name(), &retyped(from, to)?.to_string())],
            SchemaChange::DropNotNull { column } => {
                let nullable = type_of(column)?.with_nullable(true);
                if !nullable.is_nullable() {
                    return Err(cannot_change("ClickHouse", change).with_hint(format!("{nullable} takes no NULL")));
                }
                vec![modify(column.name(), &nullable.to_string())]
            }
            SchemaChange::SetNotNull { column } => {
                let Some(default) = default_of(column) else {
                    return Err(cannot_change("ClickHouse", change)
                        .with_hint("give the column a default first: NULLs become the default"));
                };
                let native = type_of(column)?.with_nullable(false);
                vec![modify(column.name(), &format!("{native} DEFAULT {}", default_value(column, default)?))]
            }
            // Rows from before the column was added hold no value of their own: they read the default.
            SchemaChange::SetDefault { column, default } => {
                let set = modify(column.name(), &format!("DEFAULT {}", default_value(column, default)?));
                let keep = default_of(column).map(|_| materialize(&on, column.name()));
                keep.into_iter().chain([set]).collect()
            }
            SchemaChange::DropDefault { column } => {
                vec![materialize(&on, column.name()), modify(column.name(), "REMOVE DEFAULT")]
            }
            SchemaChange::SetComment { column, comment } => vec![format!(
                "ALTER TABLE {on} COMMENT COLUMN {} {}",
                types::quote(column.name()),
                literal(comment.as_deref().unwrap_or_default())
            )],
            SchemaChange::RenameColumn { from, to } => {
                check_column(to)?;
                vec![format!("ALTER TABLE {on} RENAME COLUMN {} TO {}", types::quote(from.name()), types::quote(to))]
            }
            SchemaChange::DropColumn { column } => {
                vec![format!("ALTER TABLE {on} DROP COLUMN {}", types::quote(column.name()))]
            }
            SchemaChange::SetCollation { .. } => return Err(cannot_change("ClickHouse", change)),
        })
    }
}

/// The type of lists whose items take NULL where those of the source do: whether there are any, their values say.
fn with_nulls_of(source: &DataType, target: &DataType) -> DataType {
    use DataType::{FixedSizeList, LargeList, List};
    match (source, target) {
        (List(from) | LargeList(from) | FixedSizeList(from, _), List(to)) => {
            let data_type = with_nulls_of(from.data_type(), to.data_type());
            let item = to.as_ref().clone().with_nullable(from.is_nullable() || to.is_nullable());
            List(item.with_data_type(data_type).into())
        }
        (_, target) => target.clone(),
    }
}

/// The type of a column: its own where it is of ClickHouse, else the one that holds its values; taking NULL as the field
/// says.
pub(crate) fn type_of(field: &Field) -> Result<ChType> {
    let native = match native_of(field, SYSTEM) {
        Some(native) => ChType::native(native).ok_or_else(|| unknown_type(field.name(), native))?,
        None => ChType::holding(field, field)?,
    };
    Ok(native.with_nullable(field.is_nullable()))
}

/// The type that a column gets. The zone in which points in time are shown stays: it changes none of them.
pub(crate) fn retyped(from: &Field, to: &Field) -> Result<ChType> {
    use ChType::{DateTime, DateTime64};
    let nullable = to.is_nullable();
    let new = type_of(to)?;
    Ok(match (type_of(from)?.without_null(), new.without_null()) {
        (DateTime(Some(zone)) | DateTime64(_, Some(zone)), DateTime64(digits, Some(_))) => {
            DateTime64(*digits, Some(zone.clone())).with_nullable(nullable)
        }
        _ => new,
    })
}

pub(crate) fn default_of(field: &Field) -> Option<&str> {
    field.metadata().get(DEFAULT).map(String::as_str).filter(|default| !default.is_empty())
}

/// Whether the default is computed again for each reader of a row that holds no value of its own.
pub(crate) fn is_computed(column: &Field, default: &str) -> bool {
    matches!(DefaultValue::parse(column.name(), default), Err(_) | Ok(DefaultValue::Call(_) | DefaultValue::Keyword(_)))
}

/// Writes what rows read from the default, and waits for it on all replicas.
fn materialize(on: &str, column: &str) -> String {
    format!("ALTER TABLE {on} MATERIALIZE COLUMN {} SETTINGS mutations_sync = 2", types::quote(column))
}

fn check_table(table: &Relation) -> Result<()> {
    if let Some(database) = &table.database {
        return Err(Error::configuration(format!(
            "{table}: a table of ClickHouse is named by its database and itself, and {database:?} is one too many"
        ))
        .with_hint("write database.table"));
    }
    check_name(&table.schema)?;
    check_name(&table.name)
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::configuration(format!("ClickHouse cannot hold the name {name:?}"))
            .with_hint("give it another name in a query: SELECT … AS …"));
    }
    Ok(())
}

/// A column that a table gets.
fn check_column(name: &str) -> Result<()> {
    if VIRTUAL.contains(&name) {
        return Err(Error::configuration(format!(
            "a column {name:?} would hide what ClickHouse tells of a table's parts under that name"
        ))
        .with("column", name)
        .with_hint("give it another name in a query: SELECT … AS …"));
    }
    check_name(name)
}

/// A column as `CREATE TABLE` and `ADD COLUMN` define it; `native`: with another type than the field's own.
pub(crate) fn definition_as(field: &Field, key: bool, native: Option<&str>) -> Result<String> {
    check_column(field.name())?;
    let native = match native {
        Some(native) => native.to_owned(),
        None if key => type_of(field)?.with_nullable(false).to_string(),
        None => type_of(field)?.to_string(),
    };
    let mut text = format!("{} {native}", types::quote(field.name()));
    if let Some(default) = default_of(field) {
        text.push_str(&format!(" DEFAULT {}", default_value(field, default)?));
    }
    if let Some(comment) = field.metadata().get(COMMENT).filter(|comment| !comment.is_empty()) {
        text.push_str(&format!(" COMMENT {}", literal(comment)));
    }
    Ok(text)
}

/// A default in standard SQL, as ClickHouse says it.
pub(crate) fn default_value(column: &Field, default: &str) -> Result<String> {
    let native = type_of(column)?;
    Ok(match DefaultValue::parse(column.name(), default)? {
        DefaultValue::Number(number) => number,
        DefaultValue::Boolean(value) => value.to_string(),
        DefaultValue::Text(value) => literal(&value),
        DefaultValue::Null => "NULL".to_owned(),
        DefaultValue::Keyword("CURRENT_DATE") => "today()".to_owned(),
        DefaultValue::Keyword(_) => now(&native),
        DefaultValue::Call(name) => match name.as_str() {
            "now" | "getdate" | "sysdatetime" => now(&native),
            "gen_random_uuid" | "uuid_generate_v4" | "newid" | "generate_uuid" | "generateuuidv4" => {
                "generateUUIDv4()".to_owned()
            }
            "random" => "randCanonical()".to_owned(),
            name => format!("{name}()"),
        },
    })
}

fn now(native: &ChType) -> String {
    match native.without_null() {
        ChType::DateTime64(digits, _) => format!("now64({digits})"),
        ChType::Date | ChType::Date32 => "today()".to_owned(),
        _ => "now()".to_owned(),
    }
}
