//! The options of `CREATE PIPELINE`: the keys of a manifest, with dots or underscores. They come from the schema,
//! so that a key added there is an option here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value as Json;

use crate::definition::located::{Located, Place, Value};
use crate::definition::nearest::nearest;
use crate::definition::schema::{SchemaKind, json_schema};
use crate::error::{Error, Result};

/// Where an option goes.
pub(super) enum Target {
    StateConnection,
    StateTable,
    Setting { path: String, types: Vec<String> },
}

/// Keys of `source.options` that make sense for a query.
const READ: [&str; 5] = ["batch_size", "incremental_strategy", "lookback_days", "lag", "null_cursor"];
/// Options of the connector: `option.compression`.
const CONNECTOR: &str = "option.";

/// Options by name: the path in a manifest and the types that its value may have.
fn table() -> &'static BTreeMap<String, (String, Vec<String>)> {
    static TABLE: OnceLock<BTreeMap<String, (String, Vec<String>)>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let schema = json_schema(SchemaKind::Single);
        let mut table = BTreeMap::new();
        leaves(schema, "/$defs/StrategySpec", "", &mut |name, types| {
            // Those two have clauses.
            if name != "mode" && name != "unique_key" {
                table.insert(name.replace('.', "_"), (format!("sink.strategy.{name}"), types));
            }
        });
        leaves(schema, "/$defs/SourceOptions", "", &mut |name, types| {
            if READ.contains(&name) {
                table.insert(name.to_owned(), (format!("source.options.{name}"), types));
            }
        });
        let integer = || vec!["integer".to_owned()];
        let text = || vec!["string".to_owned()];
        leaves(schema, "/$defs/ReconciliationSettings", "", &mut |name, types| {
            let option = if name == "enabled" { String::new() } else { format!("_{}", name.replace('.', "_")) };
            table.insert(format!("reconciliation{option}"), (format!("reconciliation.{name}"), types));
        });
        leaves(schema, "/$defs/SchemaEvolution", "", &mut |name, types| {
            table.insert(format!("schema_evolution_{name}"), (format!("sink.options.schema_evolution.{name}"), types));
        });
        leaves(schema, "/$defs/LineageSettings", "", &mut |name, types| {
            let option = if name == "enabled" { String::new() } else { format!("_{}", name.replace('.', "_")) };
            table.insert(format!("lineage{option}"), (format!("sink.options.lineage.{name}"), types));
        });
        table.insert("parallelism".into(), ("source.options.partitioning.num_partitions".into(), integer()));
        table.insert("staging_schema".into(), ("sink.staging.schema".into(), text()));
        table
    })
}

/// Visits the keys of a definition that hold plain values, with the types that they take.
fn leaves(root: &Json, pointer: &str, path: &str, found: &mut impl FnMut(&str, Vec<String>)) {
    let Some(properties) = root.pointer(pointer).and_then(|schema| schema.get("properties")).and_then(Json::as_object)
    else {
        return;
    };
    for (key, property) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let mut types = Vec::new();
        let mut nested = Vec::new();
        shape(root, property, &mut types, &mut nested);
        match nested.as_slice() {
            [] => found(&path, types),
            nested => nested.iter().for_each(|pointer| leaves(root, pointer, &path, found)),
        }
    }
}

/// The plain types that a schema accepts, and the mappings that it leads to.
fn shape(root: &Json, schema: &Json, types: &mut Vec<String>, nested: &mut Vec<String>) {
    if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
        let pointer = target.trim_start_matches('#');
        if let Some(target) = root.pointer(pointer) {
            if target.get("properties").is_some() {
                nested.push(pointer.to_owned());
            } else {
                shape(root, target, types, nested);
            }
        }
    }
    for branch in ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(*key)).filter_map(Json::as_array).flatten() {
        shape(root, branch, types, nested);
    }
    match schema.get("type") {
        Some(Json::String(one)) => types.push(one.clone()),
        Some(Json::Array(many)) => types.extend(many.iter().filter_map(Json::as_str).map(str::to_owned)),
        _ => {}
    }
}

/// The place of an option, or an error with the nearest name.
pub(super) fn target(name: &str, at: &Place) -> Result<Target> {
    match name {
        "state_connection" => return Ok(Target::StateConnection),
        "state_table" => return Ok(Target::StateTable),
        _ => {}
    }
    if let Some(option) = name.strip_prefix(CONNECTOR).filter(|option| !option.is_empty() && !option.contains('.')) {
        return Ok(Target::Setting { path: format!("sink.options.connector.{option}"), types: vec!["string".into()] });
    }
    // Both ways to write a key of a manifest: backfill.chunk.column, backfill_chunk_column.
    if let Some((path, types)) = table().get(name).or_else(|| table().get(&name.replace('.', "_"))) {
        return Ok(Target::Setting { path: path.clone(), types: types.clone() });
    }
    let error = Error::configuration(format!("there is no option '{name}'")).at(at.location());
    let clause = match name {
        "unique_key" | "key" => Some("KEY (…)"),
        "incremental_column" | "cursor" => Some("CURSOR column"),
        "mode" | "strategy" => Some("STRATEGY mode"),
        "partition_by" => Some("PARTITION BY (…)"),
        _ => None,
    };
    let known = table().keys().map(String::as_str).chain(["state_connection", "state_table"]);
    Err(match (clause, nearest(name, known)) {
        (Some(clause), _) => error.with_hint(format!("write the clause {clause}")),
        (None, Some(near)) => error.with_hint(format!("did you mean '{near}'?")),
        (None, None) => error.with_hint("options of the sink's connector are written 'option.<name>'"),
    })
}

/// The text of an option as the type that its key takes.
pub(super) fn value(name: &str, text: &str, types: &[String], at: &Place) -> Result<Located> {
    let takes = |one: &str| types.iter().any(|name| name == one);
    let wrong = |expected: &str| {
        Error::configuration(format!("the option '{name}' is {text:?}; expected {expected}")).at(at.location())
    };
    let value = if takes("string") || takes("array") {
        Value::String { text: text.to_owned(), plain: false }
    } else if takes("integer") {
        Value::Integer(text.trim().parse().map_err(|_| wrong("a whole number"))?)
    } else if takes("number") {
        Value::Float(text.trim().parse().map_err(|_| wrong("a number"))?)
    } else if takes("boolean") {
        Value::Bool(text.trim().to_ascii_lowercase().parse().map_err(|_| wrong("true or false"))?)
    } else {
        Value::String { text: text.to_owned(), plain: false }
    };
    Ok(Located { value, at: at.clone() })
}

/// How SQL calls a key of the manifest.
pub(super) fn term(path: &str) -> String {
    match path {
        "sink.strategy.unique_key" => return "KEY".to_owned(),
        "sink.strategy.mode" => return "STRATEGY".to_owned(),
        "source.options.incremental_column" => return "CURSOR".to_owned(),
        "sink.type" => return "the sink's type".to_owned(),
        _ => {}
    }
    match table().iter().find(|(_, (known, _))| known == path) {
        Some((name, _)) => format!("the option '{name}'"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_schema() {
        for (name, path) in [
            ("overwrite_type", "sink.strategy.overwrite_type"),
            ("window_column", "sink.strategy.window.column"),
            ("soft_delete_policy", "sink.strategy.soft_delete.policy"),
            ("backfill_chunk_column", "sink.strategy.backfill.chunk.column"),
            ("lag", "source.options.lag"),
            ("reconciliation", "reconciliation.enabled"),
            ("reconciliation_cadence", "reconciliation.cadence"),
            ("schema_evolution_ddl_mode", "sink.options.schema_evolution.ddl_mode"),
            ("schema_evolution_renames", "sink.options.schema_evolution.renames"),
            ("reconciliation_guards_max_delete_rows", "reconciliation.guards.max_delete_rows"),
        ] {
            assert_eq!(table().get(name).map(|(path, _)| path.as_str()), Some(path), "{name}");
        }
        assert!(!table().contains_key("unique_key") && !table().contains_key("columns"));
    }
}
