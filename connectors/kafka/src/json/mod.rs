//! JSON Schema: whether one schema takes every document that another one takes.
//!
//! The rules are the registry's where they are sound. Where two schemas are combined in ways that these rules do not
//! follow, the answer is no, with that as the reason.

mod accept;
mod document;
mod object;
mod value;
mod writer;

use dpone_planner::{Error, Result};
use serde_json::Value;

use crate::compatibility::Finding;

/// What `reader` refuses of what `writer` takes.
pub(crate) fn read(reader: &Value, writer: &Value) -> Vec<Finding> {
    if reader == writer { Vec::new() } else { accept::read(reader, writer) }
}

const DEEPEST: usize = 100;

/// Keywords whose value is a schema, a list of them, or schemas by name.
const ONE: &[&str] =
    &["not", "if", "then", "else", "contains", "propertyNames", "additionalProperties", "additionalItems"];
const MANY: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];
const NAMED: &[&str] = &["properties", "patternProperties", "definitions", "$defs"];
const COUNTS: &[&str] =
    &["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"];
const TYPES: &[&str] = &["null", "boolean", "integer", "number", "string", "array", "object"];

/// Fails where the value is no schema.
pub(crate) fn check(schema: &Value) -> Result<()> {
    check_at(schema, "", 0)
}

fn check_at(schema: &Value, path: &str, depth: usize) -> Result<()> {
    let invalid = |what: &str| {
        let place = if path.is_empty() { "the schema" } else { path };
        Err(Error::configuration(format!("this is not a JSON Schema: {place} {what}")))
    };
    let object = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(object) if depth < DEEPEST => object,
        Value::Object(_) => return invalid("is nested too deeply"),
        _ => return invalid("is neither an object nor true or false"),
    };
    for (key, value) in object {
        let inside = format!("{path}/{key}");
        let key = key.as_str();
        if ONE.contains(&key) || (key == "items" && !value.is_array()) {
            check_at(value, &inside, depth + 1)?;
        } else if MANY.contains(&key) || key == "items" {
            let Some(list) = value.as_array() else { return invalid(&format!("has a {key:?} that is no list")) };
            list.iter().try_for_each(|schema| check_at(schema, &inside, depth + 1))?;
        } else if NAMED.contains(&key) {
            let Some(named) = value.as_object() else { return invalid(&format!("has {key:?} that is no object")) };
            named.iter().try_for_each(|(name, schema)| check_at(schema, &format!("{inside}/{name}"), depth + 1))?;
        } else if COUNTS.contains(&key) && !value.as_f64().is_some_and(|n| n >= 0.0 && n.fract() == 0.0) {
            return invalid(&format!("has a {key:?} that is no whole number"));
        } else if key == "type" && !types_hold(value) {
            return invalid(&format!("has a \"type\" that is none of {}", TYPES.join(", ")));
        } else if key == "required" && value.is_array() {
            let texts = value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
            if !texts {
                return invalid("has a \"required\" that is no list of names");
            }
        } else if key == "$ref" && !value.is_string() || key == "enum" && !value.is_array() {
            return invalid(&format!("has a {key:?} of another type"));
        } else if ["minimum", "maximum", "multipleOf"].contains(&key) && !value.is_number() {
            return invalid(&format!("has a {key:?} that is no number"));
        }
    }
    Ok(())
}

fn types_hold(value: &Value) -> bool {
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    match value {
        Value::Array(list) => !list.is_empty() && list.iter().all(known),
        value => known(value),
    }
}
