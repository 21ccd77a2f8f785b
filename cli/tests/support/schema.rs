//! As much of JSON Schema as our own schemas use: a document is held to one, and what does not fit is named.

use serde_json::Value;

/// What of a document is not as the schema says; `root` has the definitions.
pub fn problems(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not defined"));
        found.extend(problems(root, target, value, at));
    }
    if let Some(types) = schema.get("type") {
        let types: Vec<&str> = match types {
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        if !types.iter().any(|name| is(value, name)) {
            found.push(format!("{at}: {value} is not of type {types:?}"));
        }
    }
    for (key, want) in [("enum", schema.get("enum")), ("const", schema.get("const"))] {
        let fits = match want {
            Some(Value::Array(several)) if key == "enum" => several.contains(value),
            Some(one) => one == value,
            None => true,
        };
        if !fits {
            found.push(format!("{at}: {value} is not what {key} says"));
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if value.is_object() && value.get(name).is_none() {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    if let (Some(properties), Some(object)) = (schema.get("properties").and_then(Value::as_object), value.as_object()) {
        for (name, inner) in object.iter().filter_map(|(name, inner)| Some((name, (properties.get(name)?, inner)))) {
            found.extend(problems(root, inner.0, inner.1, &format!("{at}/{name}")));
        }
    }
    if let (Some(items), Some(array)) = (schema.get("items"), value.as_array()) {
        for (n, inner) in array.iter().enumerate() {
            found.extend(problems(root, items, inner, &format!("{at}/{n}")));
        }
    }
    for all in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        found.extend(problems(root, all, value, at));
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(several) = schema.get(key).and_then(Value::as_array) {
            let each: Vec<Vec<String>> = several.iter().map(|one| problems(root, one, value, at)).collect();
            if each.iter().all(|one| !one.is_empty()) {
                found.extend(each.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
    }
    found
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the type {other} is not known here"),
    }
}
