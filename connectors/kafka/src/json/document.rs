//! A schema document, and places in it.

use serde_json::{Map, Value};

/// A whole document: what `$ref` looks into.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) root: &'a Value,
    /// Since 2019-09 what stands beside a `$ref` counts.
    beside_refs: bool,
}

impl<'a> Document<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let version = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
        Self { root, beside_refs: version.contains("2019-09") || version.contains("2020-12") }
    }

    /// The definitions that local references name.
    fn definitions(&self) -> [Option<&'a Value>; 2] {
        [self.root.get("definitions"), self.root.get("$defs")]
    }
}

/// A schema at its place in a document.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) value: &'a Value,
}

impl<'a> At<'a> {
    pub(super) fn of(self, value: &'a Value) -> Self {
        Self { value, ..self }
    }

    /// Tells places apart: documents live longer than the comparison.
    pub(super) fn address(self) -> usize {
        std::ptr::from_ref(self.value) as usize
    }

    fn object(self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    /// A keyword that counts here.
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        let object = self.object()?;
        if key != "$ref" && object.contains_key("$ref") && !self.document.beside_refs {
            return None;
        }
        object.get(key)
    }

    pub(super) fn schema(self, key: &str) -> Option<Self> {
        self.get(key).map(|value| self.of(value))
    }

    pub(super) fn list(self, key: &str) -> Vec<Self> {
        let list = self.get(key).and_then(Value::as_array);
        list.map(|list| list.iter().map(|value| self.of(value)).collect()).unwrap_or_default()
    }

    pub(super) fn named(self, key: &str) -> impl Iterator<Item = (&'a str, Self)> {
        let named = self.get(key).and_then(Value::as_object);
        named.into_iter().flatten().map(move |(name, value)| (name.as_str(), self.of(value)))
    }

    pub(super) fn count(self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        value.as_u64().or_else(|| value.as_f64().map(|n| n as u64))
    }

    pub(super) fn required(self) -> impl Iterator<Item = &'a str> {
        self.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// Where `$ref` points to; the text of the reference where that is not in the document.
    pub(super) fn target(self) -> Option<Result<Self, &'a str>> {
        let reference = self.get("$ref")?.as_str()?;
        let found = match reference.strip_prefix('#') {
            Some("") => Some(self.document.root),
            Some(pointer) if pointer.starts_with('/') => self.document.root.pointer(&unescaped(pointer)),
            Some(anchor) => find(self.document.root, &["$anchor"], anchor, 0),
            None => find(self.document.root, &["$id", "id"], reference, 0),
        };
        Some(found.map(|value| self.of(value)).ok_or(reference))
    }

    /// Whether both say the same in the same words, references included.
    pub(super) fn is_same(self, other: Self) -> bool {
        self.value == other.value
            && (!mentions_refs(self.value)
                || self.document.definitions() == other.document.definitions() && !whole(self.value))
    }

    /// Whether everything is taken: no keyword that counts is there.
    pub(super) fn takes_all(self) -> bool {
        match self.value {
            Value::Bool(takes) => *takes,
            Value::Object(object) => object.keys().all(|key| !CONSTRAINTS.contains(&key.as_str())),
            _ => false,
        }
    }
}

/// Keywords that refuse something. All others are words about the schema.
pub(super) const CONSTRAINTS: &[&str] = &[
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "type",
    "enum",
    "const",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "items",
    "additionalItems",
    "prefixItems",
    "contains",
    "minContains",
    "maxContains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "unevaluatedItems",
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
];

/// `%25` and its like, as a URI has them.
fn unescaped(pointer: &str) -> String {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| pointer.to_owned())
}

/// The schema that carries a name.
fn find<'a>(value: &'a Value, keys: &[&str], name: &str, depth: usize) -> Option<&'a Value> {
    if depth > super::DEEPEST {
        return None;
    }
    match value {
        Value::Object(object) => {
            if keys.iter().any(|key| object.get(*key).and_then(Value::as_str) == Some(name)) {
                return Some(value);
            }
            object.values().find_map(|inner| find(inner, keys, name, depth + 1))
        }
        Value::Array(list) => list.iter().find_map(|inner| find(inner, keys, name, depth + 1)),
        _ => None,
    }
}

fn any(value: &Value, test: &dyn Fn(&str, &Value) -> bool) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(key, inner)| test(key, inner) || any(inner, test)),
        Value::Array(list) => list.iter().any(|inner| any(inner, test)),
        _ => false,
    }
}

pub(super) fn mentions_refs(value: &Value) -> bool {
    any(value, &|key, _| ["$ref", "$dynamicRef", "$recursiveRef"].contains(&key))
}

/// Whether a reference is to something else than a definition: the documents may differ there.
fn whole(value: &Value) -> bool {
    any(value, &|key, inner| {
        let local = inner.as_str().is_some_and(|r| r.starts_with("#/definitions/") || r.starts_with("#/$defs/"));
        ["$ref", "$dynamicRef", "$recursiveRef"].contains(&key) && !local
    })
}
