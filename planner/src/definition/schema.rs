//! The JSON Schemas of the definition files, made from the manifest's types.

use std::sync::OnceLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::manifest::{Batch, Manifest};

/// Which definitions a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// One process.
    Single,
    /// `kind: dpone.batch.v1`
    Batch,
    /// Either, told apart by `kind`.
    Any,
}

/// The JSON Schema (draft 2020-12) of a manifest, for editors and for the check of what was written.
pub fn json_schema(kind: SchemaKind) -> &'static Value {
    static SINGLE: OnceLock<Value> = OnceLock::new();
    static BATCH: OnceLock<Value> = OnceLock::new();
    static ANY: OnceLock<Value> = OnceLock::new();
    match kind {
        SchemaKind::Single => SINGLE.get_or_init(single),
        SchemaKind::Batch => BATCH.get_or_init(batch),
        SchemaKind::Any => ANY.get_or_init(any),
    }
}

fn single() -> Value {
    let mut schema = generate::<Manifest>();
    finish(&mut schema);
    schema
}

fn batch() -> Value {
    let mut schema = generate::<Batch>();
    let part = part_definitions();
    if let Some(Value::Object(definitions)) = schema.get_mut("$defs") {
        definitions.extend(part);
        definitions.insert("ProcessPart".to_owned(), json!({ "$ref": "#/$defs/ManifestPart" }));
    }
    finish(&mut schema);
    schema
}

fn any() -> Value {
    let mut definitions = Map::new();
    for (name, mut schema) in [("Manifest", single()), ("Batch", batch())] {
        if let Some(Value::Object(inner)) = schema.as_object_mut().and_then(|s| s.remove("$defs")) {
            definitions.extend(inner);
        }
        if let Value::Object(schema) = &mut schema {
            schema.remove("$schema");
        }
        definitions.insert(name.to_owned(), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dpone manifest",
        "if": { "properties": { "kind": { "const": "dpone.batch.v1" } }, "required": ["kind"] },
        "then": { "$ref": "#/$defs/Batch" },
        "else": { "$ref": "#/$defs/Manifest" },
        "$defs": definitions,
    })
}

fn generate<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

/// The manifest's definitions under names of their own (`…Part`), with nothing required: what `defaults` and `overrides`
/// may hold.
fn part_definitions() -> Map<String, Value> {
    let mut root = generate::<Manifest>();
    let mut definitions = match root.as_object_mut().and_then(|schema| schema.remove("$defs")) {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    definitions.insert("Manifest".to_owned(), root);
    definitions
        .into_iter()
        .map(|(name, mut schema)| {
            visit(&mut schema, &mut |object| {
                object.remove("required");
                if let Some(Value::String(target)) = object.get_mut("$ref") {
                    target.push_str("Part");
                }
            });
            if let Value::Object(schema) = &mut schema {
                schema.remove("$schema");
                schema.remove("title");
            }
            (format!("{name}Part"), schema)
        })
        .collect()
}

/// Lets `x-…` keys through everywhere, and says in the description what the extensions say to us.
fn finish(schema: &mut Value) {
    visit(schema, &mut |object| {
        if object.get("additionalProperties") == Some(&Value::Bool(false)) {
            object.insert("patternProperties".to_owned(), json!({ "^x-": true }));
        }
        for (extension, prefix) in [("x-dpone-unsupported", "Not supported"), ("x-dpone-ignored", "No effect")] {
            if let Some(Value::String(text)) = object.get(extension) {
                let note = format!("{prefix}: {text}.");
                object.entry("description").or_insert_with(|| note.into());
            }
        }
    });
}

fn visit(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match schema {
        Value::Object(object) => {
            change(object);
            object.values_mut().for_each(|value| visit(value, change));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_require_nothing_and_refer_to_parts() {
        let batch = json_schema(SchemaKind::Batch);
        let part = batch.pointer("/$defs/SinkPart").map(ToString::to_string).unwrap_or_default();
        assert!(part.contains("StrategySpecPart") && !part.contains("\"required\""), "{part}");
        assert_eq!(batch.pointer("/$defs/SinkPart/patternProperties/^x-"), Some(&Value::Bool(true)));
    }

    #[test]
    fn every_reference_has_its_definition() {
        for kind in [SchemaKind::Single, SchemaKind::Batch, SchemaKind::Any] {
            let mut schema = json_schema(kind).clone();
            let known = schema.get("$defs").cloned().unwrap_or_default();
            visit(&mut schema, &mut |object| {
                if let Some(Value::String(target)) = object.get("$ref") {
                    let name = target.trim_start_matches("#/$defs/");
                    assert!(known.get(name).is_some(), "{kind:?}: {target}");
                }
            });
        }
    }
}
