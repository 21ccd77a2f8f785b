//! What each change of a table costs on BigQuery, as its documentation says; nothing of it was measured. Schemas are
//! metadata: a change is made at once or refused, and no reader or writer waits for it.
//!
//! `TableFacts` of this system: the partitioning column is a dependent of the kind `PartitionKey`, clustering columns
//! are of the kind `SortingKey`.

use arrow::datatypes::Field;
use dpone_planner::Relation;
use dpone_planner::schema::{Cost, DependentKind, Fit, Risk, SchemaChange, TableFacts, Work, fit};

use crate::BigQueryDialect;
use crate::dialect::{default_of, type_of};
use crate::names::quote;
use crate::types::BqType;
use dpone_planner::dialect::Dialect;

pub(crate) fn cost(table: &Relation, facts: &TableFacts, change: &SchemaChange) -> Cost {
    match change {
        SchemaChange::CreateTable { .. } => metadata("a new table is empty"),
        SchemaChange::AddColumn { column } => add_column(table, column),
        SchemaChange::AlterType { from, to } => alter_type(facts, from, to),
        SchemaChange::DropNotNull { .. } => metadata("REQUIRED becomes NULLABLE in the schema alone"),
        SchemaChange::SetNotNull { .. } => Cost::unsupported("a NULLABLE column never becomes REQUIRED").online_path([
            "create a table with the column REQUIRED",
            "fill it with a query, and exchange the two by renaming them",
        ]),
        SchemaChange::SetDefault { .. } => metadata("a default is for rows to come"),
        SchemaChange::DropDefault { .. } => metadata("a default is for rows to come; rows that are there keep theirs"),
        SchemaChange::SetComment { .. } => metadata("a description is metadata"),
        SchemaChange::SetCollation { .. } => {
            Cost::unsupported("a column has its collation from its beginning").online_path(new_column())
        }
        SchemaChange::RenameColumn { from, .. } => match key_of(facts, from) {
            Some(key) => {
                Cost::unsupported(format!("the column is {key} of the table: its name stays")).online_path(copy())
            }
            None => metadata("the name is in the schema alone; views and queries that say the old one fail"),
        },
        SchemaChange::DropColumn { column } => match key_of(facts, column) {
            Some(key) => Cost::unsupported(format!("the column is {key} of the table")).online_path(copy()),
            None => metadata("the column leaves the schema; its storage is given back later"),
        },
    }
}

fn metadata(reason: impl Into<String>) -> Cost {
    Cost::new(Risk::MetadataOnly, None, Work::None, reason)
}

fn new_column() -> [&'static str; 4] {
    [
        "add a column of the new type",
        "fill it: UPDATE … SET new = CAST(old AS …) WHERE TRUE, which is billed as a query",
        "compare the two columns",
        "drop the old one, and rename the new one",
    ]
}

fn copy() -> [&'static str; 2] {
    ["create a table with the new definition, filled by a query", "exchange the two by renaming them"]
}

fn key_of(facts: &TableFacts, column: &Field) -> Option<&'static str> {
    facts.dependents_of(column.name()).find_map(|dependent| match dependent.kind {
        DependentKind::PartitionKey => Some("the partitioning column"),
        DependentKind::SortingKey => Some("a clustering column"),
        _ => None,
    })
}

fn add_column(table: &Relation, column: &Field) -> Cost {
    let array = matches!(type_of(column), Ok(BqType::Array(_)));
    if !column.is_nullable() && !array {
        return Cost::unsupported("a column that is added is NULLABLE or REPEATED, never REQUIRED").online_path([
            "add the column NULLABLE, with a default for rows to come where there is one",
            "check in the pipeline that it is not NULL",
        ]);
    }
    if default_of(column).is_none() {
        return metadata("rows that are there read NULL");
    }
    let on = BigQueryDialect.quote_relation(table);
    let name = quote(column.name());
    metadata("the default is set in a second statement and is for rows to come: rows that are there read NULL")
        .online_path([format!(
            "to fill the rows that are there: UPDATE {on} SET {name} = DEFAULT WHERE {name} IS NULL, billed as a query"
        )])
}

fn alter_type(facts: &TableFacts, from: &Field, to: &Field) -> Cost {
    let (Ok(old), Ok(new)) = (type_of(from), type_of(to)) else {
        return Cost::unsupported("BigQuery has no type for one of the two");
    };
    if let Some(key) = key_of(facts, from) {
        return Cost::unsupported(format!("the column is {key} of the table: its type stays")).online_path(copy());
    }
    let reason = format!("every {old} is a {new}: the schema alone changes");
    match relation(&old, &new) {
        Step::Allowed if facts.observed => metadata(reason),
        Step::Allowed => metadata(reason)
            .assuming("the table is neither partitioned nor clustered by the column: there its type stays"),
        Step::Rounds => {
            metadata(format!("the schema alone changes; a {old} of more digits than a {new} holds is read rounded"))
                .online_path(["look for values of more than 15 digits first"])
        }
        Step::Refused => Cost::unsupported(format!("{old} to {new} is no conversion that BigQuery makes in place"))
            .online_path(new_column()),
    }
}

enum Step {
    Allowed,
    Rounds,
    Refused,
}

/// The conversions of `SET DATA TYPE`: to fewer limits, and from a number to one with more digits.
fn relation(from: &BqType, to: &BqType) -> Step {
    use BqType::*;
    let family = matches!(
        (from, to),
        (String(_), String(_))
            | (Bytes(_), Bytes(_))
            | (Int64 | Numeric(_), Numeric(_) | BigNumeric(_))
            | (BigNumeric(_), BigNumeric(_))
    );
    let holds = matches!(fit(&from.shape(), &to.shape()), Fit::Same | Fit::Narrower);
    match (from, to) {
        (a, b) if a == b => Step::Allowed,
        _ if family && holds => Step::Allowed,
        (Int64 | Numeric(_), Float64) => Step::Rounds,
        (Struct(a), Struct(b)) if b.len() > a.len() && b.starts_with(a) => Step::Allowed,
        (Array(a), Array(b)) if matches!((a.as_ref(), b.as_ref()), (Struct(x), Struct(y)) if y.starts_with(x)) => {
            Step::Allowed
        }
        _ => Step::Refused,
    }
}
