//! Tables that the sink makes: the target where there is none, and what a load needs beside it.

use arrow::datatypes::{FieldRef, Fields, Schema, SchemaRef};
use dpone_engine::{Error, LoadSpec, Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::OPERATION_COLUMN;

use super::catalog::Table;
use super::names::{list, relation};
use super::options::{Engine, MergePolicy, Options, key_column, key_part};
use crate::ClickHouseDialect;
use crate::dialect::{definition_as, type_of};
use crate::types::{ChType, quote};

/// Of a table with versions of our own: which version a row is, and whether it says that the row is gone.
pub(crate) const VERSION: &str = "__dpone__version";
pub(crate) const DELETED: &str = "__dpone__deleted";

/// Blocks whose tokens a staging table remembers.
const DEDUPLICATION_WINDOW: u32 = 100_000;

/// No parts are merged while these are one: staged parts are moved as they are, and a merge would take the server nearly
/// as long as to write them. `ALTER TABLE … RESET SETTING` brings merges back.
pub(crate) const MERGE_LIMITS: [&str; 2] =
    ["max_bytes_to_merge_at_max_space_in_pool", "max_bytes_to_merge_at_min_space_in_pool"];

pub(crate) fn staging_settings() -> Vec<(&'static str, String)> {
    vec![
        (MERGE_LIMITS[0], "1".to_owned()),
        (MERGE_LIMITS[1], "1".to_owned()),
        ("non_replicated_deduplication_window", DEDUPLICATION_WINDOW.to_string()),
        // A load of many partitions makes many parts at once; nobody reads them before they are merged or moved.
        ("parts_to_delay_insert", "1000000".to_owned()),
        ("parts_to_throw_insert", "1000000".to_owned()),
    ]
}

/// What a table that does not exist is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Without columns that are not stored.
    pub(crate) schema: &'a Schema,
    pub(crate) primary_key: &'a [String],
    pub(crate) partition_by: &'a [String],
    /// The column by whose values rows come in.
    pub(crate) cursor: Option<&'a str>,
    pub(crate) options: &'a Options,
}

/// How a target that does not exist is made.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    columns: Vec<String>,
    order_by: String,
    partition_by: String,
    engine: Engine,
}

impl Creation {
    pub(crate) fn new(wanted: &Wanted<'_>) -> Result<Self> {
        let Wanted { schema, options, .. } = *wanted;
        let parts = |option: &str, parts: &[String]| {
            parts.iter().map(|part| key_part(option, part, schema)).collect::<Result<Vec<_>>>()
        };
        let order = parts("order_by", &sorted_by(wanted))?;
        let partition = parts("partition_by", wanted.partition_by)?;
        if let Some(column) = options.low_cardinality.iter().find(|name| schema.field_with_name(name).is_err()) {
            return Err(Error::configuration(format!("low_cardinality: the table has no column {column:?}")));
        }
        if options.engine == Engine::Replacing && order.is_empty() {
            return Err(Error::configuration("a ReplacingMergeTree without a key keeps one row")
                .with_hint("give order_by, or a strategy with unique_key"));
        }
        // Of a table that is there the commit says the same.
        if options.merge_policy == MergePolicy::Replacing {
            let mut sorted = order.clone();
            let mut key: Vec<String> = wanted.primary_key.iter().map(|column| quote(column)).collect();
            sorted.sort();
            key.sort();
            if options.engine != Engine::Replacing || sorted != key {
                return Err(Error::configuration(format!(
                    "merge_policy replacing needs a ReplacingMergeTree that is sorted by the key ({})",
                    wanted.primary_key.join(", ")
                ))
                .with_hint("add engine: ReplacingMergeTree to sink.options, and leave order_by out; or take another merge_policy"));
            }
        }
        // Neither key takes NULL, unless a setting of the table allows it.
        let in_key: Vec<String> = order.iter().chain(&partition).filter_map(|part| key_column(part)).collect();
        let mut columns = Vec::new();
        for field in schema.fields() {
            let keyed = in_key.contains(field.name()) || wanted.primary_key.contains(field.name());
            columns.push(column(field, keyed, options)?);
        }
        if options.engine == Engine::Replacing {
            columns.push(format!("{} UInt64", quote(VERSION)));
            columns.push(format!("{} UInt8", quote(DELETED)));
        }
        let tuple = |parts: &[String]| match parts {
            [] => "tuple()".to_owned(),
            parts => format!("({})", parts.join(", ")),
        };
        Ok(Self {
            columns,
            order_by: tuple(&order),
            partition_by: if partition.is_empty() {
                String::new()
            } else {
                format!("\nPARTITION BY {}", tuple(&partition))
            },
            engine: options.engine.clone(),
        })
    }

    /// The target itself.
    pub(crate) fn target(&self, table: &Relation) -> String {
        let engine = match self.engine {
            Engine::MergeTree => "MergeTree".to_owned(),
            Engine::Replacing => format!("ReplacingMergeTree({}, {})", quote(VERSION), quote(DELETED)),
        };
        self.statement(table, &engine, &[])
    }

    /// A table whose partitions can be moved into the target.
    pub(crate) fn staging(&self, table: &Relation) -> String {
        self.statement(table, "MergeTree", &staging_settings())
    }

    fn statement(&self, table: &Relation, engine: &str, settings: &[(&str, String)]) -> String {
        let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let settings = if settings.is_empty() { String::new() } else { format!("\nSETTINGS {}", settings.join(", ")) };
        format!(
            "CREATE TABLE {} (\n  {}\n)\nENGINE = {engine}{}\nORDER BY {}{settings}",
            relation(table),
            self.columns.join(",\n  "),
            self.partition_by,
            self.order_by
        )
    }
}

/// The sorting key: as the definition says, else by the key, else by the cursor, whose ranges the next loads look at. A
/// cursor that takes NULL cannot be one.
fn sorted_by(wanted: &Wanted<'_>) -> Vec<String> {
    if let Some(key) = &wanted.options.order_by {
        return key.clone();
    }
    if !wanted.primary_key.is_empty() {
        return wanted.primary_key.to_vec();
    }
    let cursor = wanted.cursor.and_then(|name| wanted.schema.field_with_name(name).ok());
    let cursor = cursor.filter(|field| !field.is_nullable() && type_of(field).is_ok_and(|native| sorts(&native)));
    cursor.map(|field| field.name().clone()).into_iter().collect()
}

fn sorts(native: &ChType) -> bool {
    match native {
        ChType::LowCardinality(inner) => sorts(inner),
        other => !matches!(
            other,
            ChType::Json | ChType::Map(..) | ChType::Aggregate { .. } | ChType::Plain(_) | ChType::Nullable(_)
        ),
    }
}

fn column(field: &FieldRef, key: bool, options: &Options) -> Result<String> {
    if !options.low_cardinality.contains(field.name()) {
        return definition_as(field, key, None);
    }
    let native = ChType::native(&ClickHouseDialect.native_type(field)?)
        .ok_or_else(|| Error::internal("the dialect gave a type that it does not read"))?;
    let native = if key { native.with_nullable(false) } else { native };
    match native.without_null() {
        ChType::String | ChType::FixedString(_) => {}
        ChType::LowCardinality(_) => return definition_as(field, key, None),
        other => {
            return Err(Error::configuration(format!(
                "low_cardinality: column {:?} is {other}, and dictionaries are for texts",
                field.name()
            )));
        }
    }
    definition_as(field, key, Some(&format!("LowCardinality({native})")))
}

/// A table with the structure of a target that exists, whose partitions can be moved into it.
pub(crate) fn staging_like(table: &Relation, target: &Table) -> String {
    let engine = target.engine_as("MergeTree", &staging_settings());
    format!("CREATE TABLE {} AS {} ENGINE = {engine}", relation(table), relation(&target.relation))
}

/// A table that can take the target's place.
pub(crate) fn twin(table: &Relation, target: &Table) -> String {
    format!("CREATE TABLE {} AS {} ENGINE = {}", relation(table), relation(&target.relation), target.engine_full)
}

/// A table for staged changes: the staged columns in the target's types, and the operation.
pub(crate) fn changes(table: &Relation, load: &LoadSpec, target: Option<&Table>, key: &[String]) -> Result<String> {
    let mut columns = Vec::new();
    for field in load.staged_schema.fields() {
        let native = match target.and_then(|t| t.column(field.name())) {
            _ if field.name() == OPERATION_COLUMN => "Int8".to_owned(),
            // A row that deletes has only its key.
            Some(column) => nullable(&column.native, field.is_nullable()),
            None => ClickHouseDialect.native_type(field)?,
        };
        columns.push(format!("{} {native}", quote(field.name())));
    }
    let settings: Vec<_> = staging_settings().iter().map(|(name, value)| format!("{name} = {value}")).collect();
    Ok(format!(
        "CREATE TABLE {} ({}) ENGINE = MergeTree ORDER BY ({}) SETTINGS allow_nullable_key = 1, {}",
        relation(table),
        columns.join(", "),
        list(key.iter().map(String::as_str)),
        settings.join(", ")
    ))
}

/// The type, taking NULL where it can and has to.
pub(crate) fn nullable(native: &str, takes_null: bool) -> String {
    match ChType::native(native) {
        Some(of) if takes_null && !of.is_nullable() => of.with_nullable(true).to_string(),
        _ => native.to_owned(),
    }
}

/// The keys that are in the target and staged.
pub(crate) fn keys(table: &Relation, key: &[(String, String)]) -> String {
    let columns: Vec<_> = key.iter().map(|(name, native)| format!("{} {native}", quote(name))).collect();
    format!(
        "CREATE TABLE {} ({}, `__dpone__op` Int8, `__dpone__differs` UInt8) ENGINE = MergeTree ORDER BY tuple()",
        relation(table),
        columns.join(", ")
    )
}

/// The staged columns that the target stores.
pub(crate) fn stored_schema(load: &LoadSpec) -> SchemaRef {
    let fields: Fields = load.staged_schema.fields().iter().filter(|f| f.name() != OPERATION_COLUMN).cloned().collect();
    SchemaRef::new(Schema::new(fields))
}
