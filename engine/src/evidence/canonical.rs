//! JSON that is the same text wherever it is made: what digests are of.

use std::collections::BTreeMap;

use serde_json::Value;

/// With the keys of every object in order, whichever map they come from.
pub fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().map(|(key, value)| (key, canonical(value))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(values) => values.into_iter().map(canonical).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_in_order_at_every_depth() {
        let text = canonical(json!({"b": [{"z": 1, "a": 2}], "a": null})).to_string();
        assert_eq!(text, r#"{"a":null,"b":[{"a":2,"z":1}]}"#);
    }
}
