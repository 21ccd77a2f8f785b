//! Whether a schema takes one value: for lists of values, which are looked at one by one.

use serde_json::Value;

use super::document::At;
use super::writer::{ARRAY, EVERY, INTEGER, NUMBER, OBJECT, STRING, Types, bound, types_of};

/// `None`: not understood.
pub(super) fn takes(schema: At<'_>, value: &Value, depth: usize) -> Option<bool> {
    if depth > super::DEEPEST {
        return None;
    }
    if let Value::Bool(takes) = schema.value {
        return Some(*takes);
    }
    let mut answers = vec![Some(types_of(schema) & type_of(value) != 0)];
    if let Some(target) = schema.target() {
        answers.push(target.ok().and_then(|target| takes(target, value, depth + 1)));
    }
    if let Some(one) = schema.get("const") {
        answers.push(Some(same(one, value)));
    }
    if let Some(list) = schema.get("enum").and_then(Value::as_array) {
        answers.push(Some(list.iter().any(|listed| same(listed, value))));
    }
    answers.extend(schema.list("allOf").into_iter().map(|branch| takes(branch, value, depth + 1)));
    let branches = |key: &str| -> Vec<Option<bool>> {
        schema.list(key).into_iter().map(|branch| takes(branch, value, depth + 1)).collect()
    };
    if schema.get("anyOf").is_some() {
        let branches = branches("anyOf");
        let unknown = branches.contains(&None);
        answers.push(if branches.contains(&Some(true)) { Some(true) } else { (!unknown).then_some(false) });
    }
    if schema.get("oneOf").is_some() {
        let branches = branches("oneOf");
        let holds = branches.iter().filter(|answer| **answer == Some(true)).count();
        answers.push((!branches.contains(&None)).then_some(holds == 1));
    }
    if let Some(not) = schema.schema("not") {
        answers.push(takes(not, value, depth + 1).map(|takes| !takes));
    }
    answers.push(in_limits(schema, value));
    match () {
        () if answers.contains(&Some(false)) => Some(false),
        () if answers.contains(&None) => None,
        () => Some(true),
    }
}

fn in_limits(schema: At<'_>, value: &Value) -> Option<bool> {
    let unknown = |keys: &[&str]| keys.iter().any(|key| schema.get(key).is_some());
    if unknown(&["if", "$dynamicRef", "$recursiveRef"]) {
        return None;
    }
    match value {
        Value::Number(number) => {
            let number = number.as_f64()?;
            if unknown(&["multipleOf"]) {
                return None;
            }
            let above = |sign: f64| {
                bound(schema, sign)
                    .is_none_or(|bound| number * sign > bound.at || (number * sign == bound.at && !bound.exclusive))
            };
            Some(above(1.0) && above(-1.0))
        }
        Value::String(text) => {
            if unknown(&["pattern"]) {
                return None;
            }
            let length = text.chars().count() as u64;
            let least = schema.count("minLength").is_none_or(|n| length >= n);
            Some(least && schema.count("maxLength").is_none_or(|n| length <= n))
        }
        Value::Array(_) => (!unknown(&[
            "items",
            "additionalItems",
            "prefixItems",
            "contains",
            "minItems",
            "maxItems",
            "uniqueItems",
            "unevaluatedItems",
        ]))
        .then_some(true),
        Value::Object(_) => (!unknown(&[
            "properties",
            "patternProperties",
            "additionalProperties",
            "propertyNames",
            "unevaluatedProperties",
            "required",
            "minProperties",
            "maxProperties",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
        ]))
        .then_some(true),
        _ => Some(true),
    }
}

fn type_of(value: &Value) -> Types {
    match value {
        Value::Null => 1,
        Value::Bool(_) => 2,
        Value::Number(number) => match number.as_f64() {
            Some(n) if n.fract() == 0.0 => INTEGER,
            Some(_) => NUMBER & !INTEGER,
            None => EVERY,
        },
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

/// `1` and `1.0` are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || (x.as_f64() == y.as_f64() && (x.is_f64() || y.is_f64())),
        (a, b) => a == b,
    }
}
