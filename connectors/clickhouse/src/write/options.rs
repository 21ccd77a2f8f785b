//! What a definition may say about a table that is created, and about how changes reach one.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use dpone_engine::{Error, Result};
use dpone_planner::definition::nearest;

use super::keys::{plain, split_key};
use crate::types::quote;

pub(crate) const SINK_OPTIONS: &[&str] = &["engine", "order_by", "low_cardinality", "merge_policy"];

/// Functions of one column that a key of a created table may have.
const FUNCTIONS: &[&str] = &[
    "toYear",
    "toYYYYMM",
    "toYYYYMMDD",
    "toDate",
    "toMonday",
    "toStartOfHour",
    "toStartOfDay",
    "toStartOfWeek",
    "toStartOfMonth",
    "toStartOfQuarter",
    "toStartOfYear",
    "cityHash64",
    "sipHash64",
    "xxHash64",
    "lower",
];

/// How rows of the target are changed where no partition can be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MergePolicy {
    /// New versions where the table keeps versions, lightweight deletion otherwise.
    #[default]
    Auto,
    Lightweight,
    Mutation,
    ShadowSwap,
    Replacing,
}

/// The engine of a created table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Engine {
    #[default]
    MergeTree,
    /// With columns of our own for the version and the deletion.
    Replacing,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    pub(crate) engine: Engine,
    pub(crate) order_by: Option<Vec<String>>,
    pub(crate) low_cardinality: Vec<String>,
    pub(crate) merge_policy: MergePolicy,
}

impl Options {
    pub(crate) fn new(given: &BTreeMap<String, String>) -> Result<Self> {
        let mut options = Self::default();
        for (key, value) in given {
            match key.as_str() {
                "engine" => options.engine = engine(value)?,
                "order_by" if value.trim() == "tuple()" => options.order_by = Some(Vec::new()),
                "order_by" => options.order_by = Some(split_key(value)),
                "low_cardinality" => options.low_cardinality = split_key(value),
                "merge_policy" => options.merge_policy = policy(value)?,
                other => {
                    let near = nearest(other, SINK_OPTIONS.iter().copied());
                    let hint = near.map_or_else(
                        || format!("the options are {}", SINK_OPTIONS.join(", ")),
                        |near| format!("did you mean {near:?}?"),
                    );
                    return Err(
                        Error::configuration(format!("a ClickHouse sink has no option {other:?}")).with_hint(hint)
                    );
                }
            }
        }
        Ok(options)
    }
}

fn engine(text: &str) -> Result<Engine> {
    match text {
        "MergeTree" => Ok(Engine::MergeTree),
        "ReplacingMergeTree" => Ok(Engine::Replacing),
        other => {
            Err(Error::configuration(format!("engine {other:?} is not one that a ClickHouse sink creates tables with"))
                .with_hint(
                    "MergeTree or ReplacingMergeTree; any other one: create the table yourself, and load into it",
                ))
        }
    }
}

fn policy(text: &str) -> Result<MergePolicy> {
    Ok(match text {
        "auto" => MergePolicy::Auto,
        "lightweight_delete_insert" => MergePolicy::Lightweight,
        "mutation_delete_insert" => MergePolicy::Mutation,
        "shadow_swap" => MergePolicy::ShadowSwap,
        "replacing" => MergePolicy::Replacing,
        other => {
            return Err(Error::configuration(format!(
                "merge_policy {other:?} is not a way in which a ClickHouse sink merges"
            ))
            .with_hint("lightweight_delete_insert, mutation_delete_insert, shadow_swap, replacing, or auto"));
        }
    })
}

/// A part of a key as the definition writes it: a column, or a function of one. Quoted, so that it is nothing else.
pub(crate) fn key_part(option: &str, part: &str, schema: &Schema) -> Result<String> {
    let is_column = |name: &str| schema.field_with_name(name).is_ok();
    if is_column(part) {
        return Ok(quote(part));
    }
    if let Some(name) = plain(part).filter(|name| is_column(name)) {
        return Ok(quote(&name));
    }
    let call = part.split_once('(').and_then(|(f, rest)| Some((f.trim(), rest.strip_suffix(')')?.trim())));
    let function = call.and_then(|(f, of)| Some((FUNCTIONS.iter().find(|known| **known == f)?, of)));
    match function {
        Some((f, of)) if is_column(of) => Ok(format!("{f}({})", quote(of))),
        Some((f, of)) if plain(of).is_some_and(|name| is_column(&name)) => {
            Ok(format!("{f}({})", quote(&plain(of).unwrap_or_default())))
        }
        _ => Err(Error::configuration(format!(
            "{option}: {part:?} is neither a column of the table nor a function of one"
        ))
        .with_hint(format!("the functions are {}", FUNCTIONS.join(", ")))),
    }
}

/// The columns that a part of a key, quoted, looks at.
pub(crate) fn key_column(part: &str) -> Option<String> {
    plain(part).or_else(|| plain(part.split_once('(')?.1.strip_suffix(')')?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::datatypes::{DataType, Field};

    #[test]
    fn a_key_is_made_of_columns_and_known_functions() {
        let schema =
            Schema::new(vec![Field::new("at", DataType::Date32, false), Field::new("a b", DataType::Utf8, false)]);
        assert_eq!(key_part("o", "at", &schema).unwrap(), "`at`");
        assert_eq!(key_part("o", "a b", &schema).unwrap(), "`a b`");
        assert_eq!(key_part("o", "toYYYYMM(at)", &schema).unwrap(), "toYYYYMM(`at`)");
        assert_eq!(key_part("o", "toYYYYMM(`at`)", &schema).unwrap(), "toYYYYMM(`at`)");
        for wrong in ["nothing", "file(at)", "toYYYYMM(at) SETTINGS x", "toYYYYMM(nothing)", "at, 1", "(at)"] {
            assert!(key_part("o", wrong, &schema).is_err(), "{wrong}");
        }
        assert_eq!(key_column("toYYYYMM(`at`)").as_deref(), Some("at"));
        assert_eq!(key_column("`a (b)`").as_deref(), Some("a (b)"));
        assert!(
            Options::new(&[("orderby".to_owned(), "x".to_owned())].into()).unwrap_err().to_string().contains("orderby")
        );
    }
}
