//! What each change of a table costs on ClickHouse, measured on 26.9 for tables of the MergeTree family: whether
//! `system.mutations` gets a row and whether the parts get other names.
//!
//! `TableFacts` of this system: `version` is year and month (`2408`), `kind` the table's engine; columns of a key are
//! dependents of the kinds `SortingKey` and `PartitionKey`, those that the engine takes of the kind `Engine`.

use arrow::datatypes::Field;
use dpone_planner::Relation;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{
    Cost, Dependent, DependentKind, EngineColumn, Fit, Risk, SchemaChange, TableFacts, Work, fit,
};

use crate::dialect::{ClickHouseDialect, default_of, is_computed, retyped, type_of};
use crate::types::{ChType, literal, quote};

/// Other ALTERs of the table wait; readers and writers do not.
const ALTER_LOCK: Option<&str> = Some("ALTER lock");
/// What the server answers to changes of a key.
const FORBIDDEN: &str = "error 524, ALTER_OF_COLUMN_IS_FORBIDDEN";
const ANOTHER_TABLE: [&str; 3] = [
    "create a table with the new definition",
    "fill it: INSERT INTO … SELECT, one partition after the other",
    "exchange the two: EXCHANGE TABLES … AND …",
];

pub(crate) fn cost(table: &Relation, facts: &TableFacts, change: &SchemaChange) -> Cost {
    let cost = match change {
        SchemaChange::CreateTable { .. } => return metadata("a new table is empty"),
        _ if engine(facts) == Engine::NoAlter => {
            return Cost::unsupported("tables of this engine cannot be altered")
                .online_path(["create a new table, fill it, and exchange the two: EXCHANGE TABLES"]);
        }
        SchemaChange::AddColumn { column } => add_column(column),
        SchemaChange::AlterType { from, to } => alter_type(table, facts, from, to),
        SchemaChange::DropNotNull { column } => drop_not_null(facts, column),
        SchemaChange::SetNotNull { column } => set_not_null(facts, column),
        SchemaChange::SetDefault { column, .. } | SchemaChange::DropDefault { column }
            if matches!(engine_takes(facts, column), Some(EngineColumn::Deleted | EngineColumn::Sign)) =>
        {
            of_engine(facts, column, "its default cannot change")
        }
        SchemaChange::SetDefault { column, .. } => match default_of(column) {
            Some(_) => {
                materialized("the rows that still read the old default get it written first: they would change with it")
            }
            None => metadata("a default is computed for rows that hold no value of their own")
                .assuming("the column has no default that rows still read: they would change with it"),
        },
        SchemaChange::DropDefault { .. } => materialized(
            "the rows that still read the default get it written first: they would read the type's zero value",
        ),
        SchemaChange::SetComment { .. } => metadata("a comment is metadata"),
        SchemaChange::SetCollation { .. } => {
            Cost::unsupported("columns have no collation: texts are compared by their bytes")
                .online_path(["say it in the query: ORDER BY … COLLATE"])
        }
        SchemaChange::RenameColumn { from, .. } => rename(facts, from),
        SchemaChange::DropColumn { column } => drop_column(facts, column),
    };
    match engine(facts) {
        Engine::Unknown => cost.assuming("the table's engine is of the MergeTree family"),
        Engine::Definition if cost.risk != Risk::Unsupported => {
            metadata("the table holds no rows of its own: only its definition changes")
                .online_path(["make the same change on the tables behind it"])
        }
        _ => cost,
    }
}

#[derive(PartialEq, Eq)]
enum Engine {
    MergeTree,
    /// `Distributed`, `Merge`, `Buffer`, `Null`.
    Definition,
    NoAlter,
    Unknown,
}

fn engine(facts: &TableFacts) -> Engine {
    match facts.kind.as_deref() {
        None | Some("table") => Engine::Unknown,
        Some("Distributed" | "Merge" | "Buffer" | "Null") => Engine::Definition,
        Some(engine) if engine.ends_with("MergeTree") || engine == "Memory" => Engine::MergeTree,
        Some(_) => Engine::NoAlter,
    }
}

fn metadata(reason: impl Into<String>) -> Cost {
    Cost::new(Risk::MetadataOnly, ALTER_LOCK, Work::None, reason)
}

fn mutation(reason: impl Into<String>) -> Cost {
    Cost::new(Risk::LowLock, ALTER_LOCK, Work::Mutation, reason)
}

fn materialized(reason: &str) -> Cost {
    mutation(reason).online_path(["follow it in system.mutations: the statement returns when the rows are written"])
}

fn add_column(column: &Field) -> Cost {
    match default_of(column) {
        Some(default) if is_computed(column, default) => materialized(
            "the default is computed again for each reader of an old row until MATERIALIZE COLUMN has written it, so that \
             is done at once",
        ),
        Some(_) => metadata("the default is computed when an old row is read")
            .online_path(["before the default is changed later: MATERIALIZE COLUMN, or old rows change with it"]),
        None if column.is_nullable() => metadata("old rows read NULL"),
        None => metadata("old rows read the type's zero value: 0, '' or 1970-01-01"),
    }
}

/// What becomes of the values when a column gets another type.
#[derive(Debug, PartialEq, Eq)]
enum Values {
    /// The bytes mean the same or are read in another way: nothing is written.
    Kept,
    Converted,
}

fn values(from: &ChType, to: &ChType) -> Values {
    use ChType::*;
    let same_bytes = match (from, to) {
        (a, b) if a == b => true,
        (DateTime(_), DateTime(_)) => true,
        (DateTime64(a, _), DateTime64(b, _)) => a == b,
        (Decimal { precision: a, scale: s }, Decimal { precision: b, scale: t }) => s == t && width(*a) == width(*b),
        (Enum { bits: a, labels: x }, Enum { bits: b, labels: y }) => a == b && x.iter().all(|label| y.contains(label)),
        (Enum { bits, .. }, Int { bits: other, signed: true }) => bits == other,
        (Bool, Int { bits: 8, signed: false }) | (Int { bits: 8, signed: false }, Bool) => true,
        (Date, Int { bits: 16, signed: false }) | (DateTime(_), Int { bits: 32, signed: false }) => true,
        (Nullable(a), Nullable(b)) | (Array(a), Array(b)) => return values(a, b),
        _ => false,
    };
    if same_bytes { Values::Kept } else { Values::Converted }
}

/// Bytes of a decimal.
fn width(precision: u8) -> u8 {
    match precision {
        ..=9 => 4,
        10..=18 => 8,
        19..=38 => 16,
        _ => 32,
    }
}

fn alter_type(table: &Relation, facts: &TableFacts, from: &Field, to: &Field) -> Cost {
    let (Ok(old), Ok(new)) = (type_of(from), retyped(from, to)) else {
        return Cost::unsupported("ClickHouse has no type for one of the two");
    };
    if old.is_nullable() && !new.is_nullable() {
        return Cost::unsupported(format!("{new} takes no NULL, and {old} may hold some"))
            .online_path(["give the column a default first: NULLs become the default"]);
    }
    let stays = match engine_takes(facts, from) {
        Some(EngineColumn::Version) => orders_versions_alike(&old, &new),
        Some(EngineColumn::Deleted | EngineColumn::Sign) => old == new,
        Some(EngineColumn::Sum) | None => true,
    };
    if !stays {
        return of_engine(facts, from, &format!("it cannot be {new}"));
    }
    let values = values(&old, &new);
    if let Some(key) = key_of(facts, from)
        && values == Values::Converted
        && !keeps_order(&old, &new)
    {
        return in_key(key, "its type");
    }
    let mut cost = match (values, loss(&old, &new)) {
        (Values::Kept, None) => metadata(format!("{new} reads the bytes of {old} as they are")),
        (Values::Kept, Some(_)) => metadata(format!(
            "{new} reads the bytes of {old} as they are; values that it should not hold stay where they are"
        ))
        .online_path(check_values(table, from, &new)),
        (Values::Converted, None) => mutation(format!("the column's values are written again as {new} in the background")),
        (Values::Converted, Some(Loss::Wraps)) => mutation(format!(
            "the column's values are written again as {new}; a number that it does not hold wraps around, silently"
        ))
        .online_path(check_values(table, from, &new)),
        // Until somebody puts the type back, the column cannot be read.
        (Values::Converted, Some(Loss::Fails)) => Cost::new(
            Risk::Blocking,
            ALTER_LOCK,
            Work::Mutation,
            format!(
                "the column has the type {new} at once; a value that does not convert stops the mutation, and from then \
                 on no reader can read the column"
            ),
        )
        .online_path(check_values(table, from, &new))
        .online_path(["if it has happened: MODIFY COLUMN back to the old type, and KILL MUTATION"]),
    };
    if !facts.observed && values_are_converted(&cost) {
        cost = cost.assuming("the column is in no sorting, primary, sampling or partition key: there it is refused");
    }
    cost
}

fn values_are_converted(cost: &Cost) -> bool {
    cost.work == Work::Mutation
}

/// What may happen to a value that the new type does not hold.
enum Loss {
    Wraps,
    Fails,
}

fn loss(from: &ChType, to: &ChType) -> Option<Loss> {
    if matches!(fit(&from.shape(), &to.shape()), Fit::Same | Fit::Narrower) {
        return None;
    }
    match (inner(from), inner(to)) {
        (
            ChType::Int { .. } | ChType::Float32 | ChType::Float64,
            ChType::Int { .. } | ChType::Float32 | ChType::Float64,
        ) => Some(Loss::Wraps),
        // Everything has a text.
        (from, ChType::String) if !matches!(from, ChType::Aggregate { .. }) => None,
        _ => Some(Loss::Fails),
    }
}

/// Without what stands around a type and changes none of its values.
fn inner(native: &ChType) -> &ChType {
    match native {
        ChType::Nullable(of) | ChType::LowCardinality(of) => inner(of),
        other => other,
    }
}

/// Texts sort alike with a dictionary and without.
fn keeps_order(from: &ChType, to: &ChType) -> bool {
    from.is_nullable() == to.is_nullable() && inner(from) == inner(to)
}

/// The query that counts the values which the type would not hold.
fn check_values(table: &Relation, column: &Field, to: &ChType) -> Vec<String> {
    let name = quote(column.name());
    let from = ClickHouseDialect.quote_relation(table);
    let lost = match inner(to) {
        ChType::Enum { labels, .. } => {
            let labels: Vec<_> = labels.iter().map(|(label, _)| literal(label)).collect();
            format!("toString({name}) NOT IN ({})", labels.join(", "))
        }
        to => format!("{name} IS NOT NULL AND accurateCastOrNull({name}, {}) IS NULL", literal(&to.to_string())),
    };
    vec![
        format!("count the values that do not fit first; it must be 0: SELECT count() FROM {from} WHERE {lost}"),
        "or add a column of the new type, fill it, compare, and rename both".to_owned(),
    ]
}

fn key_of<'a>(facts: &'a TableFacts, column: &'a Field) -> Option<&'a Dependent> {
    facts
        .dependents_of(column.name())
        .find(|d| matches!(d.kind, DependentKind::SortingKey | DependentKind::PartitionKey))
}

fn in_key(key: &Dependent, what: &str) -> Cost {
    let kind = if key.kind == DependentKind::PartitionKey { "partition key" } else { "sorting key" };
    Cost::unsupported(format!("the column is part of the {kind}: {what} cannot change ({FORBIDDEN})"))
        .online_path(ANOTHER_TABLE)
}

fn engine_takes(facts: &TableFacts, column: &Field) -> Option<EngineColumn> {
    facts.dependents_of(column.name()).find_map(|dependent| match dependent.kind {
        DependentKind::Engine { takes } => Some(takes),
        _ => None,
    })
}

/// Whether a version may get the type: the server asks that nothing be sorted in another way, and that no bytes be lost.
fn orders_versions_alike(from: &ChType, to: &ChType) -> bool {
    use ChType::*;
    match (from, to) {
        (Int { bits: a, signed: s }, Int { bits: b, signed: t }) => s == t && a <= b,
        (Bool, Int { signed: false, .. }) | (Int { bits: 8, signed: false }, Bool) => true,
        (BFloat16, Float32 | Float64) | (Float32, Float64) => true,
        (DateTime(_), DateTime(_)) | (DateTime64(..), DateTime64(..)) => true,
        (from, to) => from == to,
    }
}

fn of_engine(facts: &TableFacts, column: &Field, what: &str) -> Cost {
    let engine = facts.kind.as_deref().unwrap_or("the engine");
    let role = match engine_takes(facts, column) {
        Some(EngineColumn::Version) => "version",
        Some(EngineColumn::Deleted) => "mark of deletion",
        Some(EngineColumn::Sign) => "sign",
        Some(EngineColumn::Sum) | None => "sum",
    };
    Cost::unsupported(format!("the column is the {role} of {engine}: {what} ({FORBIDDEN})")).online_path(ANOTHER_TABLE)
}

fn drop_not_null(facts: &TableFacts, column: &Field) -> Cost {
    let Ok(native) = type_of(column) else { return Cost::unsupported("ClickHouse has no type for the column") };
    if !native.clone().with_nullable(true).is_nullable() {
        return Cost::unsupported(format!("{native} takes no NULL in ClickHouse"));
    }
    if engine_takes(facts, column).is_some_and(|takes| takes != EngineColumn::Sum) {
        return of_engine(facts, column, "it takes no NULL");
    }
    if let Some(key) = key_of(facts, column) {
        return in_key(key, "whether it takes NULL");
    }
    let cost = mutation("the column is written again with a mark for each NULL, in the background");
    if facts.observed { cost } else { cost.assuming("the column is in no key: there it is refused") }
}

fn set_not_null(facts: &TableFacts, column: &Field) -> Cost {
    if let Some(key) = key_of(facts, column) {
        return in_key(key, "whether it takes NULL");
    }
    if default_of(column).is_none() {
        return Cost::unsupported("a nullable column becomes NOT NULL only with a DEFAULT, which its NULLs then are")
            .online_path(["give the column a default first, and decide that NULLs may become it"]);
    }
    mutation("the column is written again in the background; its NULLs become the default")
        .online_path(["count the NULLs first: they cannot be told from the default afterwards"])
}

fn rename(facts: &TableFacts, column: &Field) -> Cost {
    if let Some(key) = key_of(facts, column) {
        return in_key(key, "its name");
    }
    if engine_takes(facts, column).is_some() {
        return of_engine(facts, column, "its name cannot change");
    }
    let views = "materialized views that read the old name fail with the next INSERT";
    mutation(format!("the files of the column are renamed in every part; {views}"))
        .online_path(["an ALIAS column keeps the old name for readers: ADD COLUMN old … ALIAS new"])
}

fn drop_column(facts: &TableFacts, column: &Field) -> Cost {
    if let Some(key) = key_of(facts, column) {
        return in_key(key, "it");
    }
    if engine_takes(facts, column).is_some() {
        return of_engine(facts, column, "it cannot be dropped");
    }
    let held = facts.dependents_of(column.name()).find(|dependent| {
        matches!(
            dependent.kind,
            DependentKind::MaterializedView
                | DependentKind::Projection
                | DependentKind::Index { .. }
                | DependentKind::Check { .. }
                | DependentKind::GeneratedColumn
        )
    });
    if let Some(holder) = held {
        return Cost::unsupported(format!("{:?} reads the column: the server refuses to drop it", holder.name))
            .online_path([format!("drop {:?}, or take the column out of it, first", holder.name)]);
    }
    let cost = mutation("the files of the column leave every part in the background");
    if facts.observed { cost } else { cost.assuming("no key, materialized view, projection or index reads the column") }
}
