//! Holds a located tree against a JSON Schema: unknown keys with the nearest known one, wrong types, missing keys, values
//! outside their range, and the `x-dpone-…` extensions that [`super::manifest`] explains. All findings have their place.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::located::{Located, Value, is_extension, quoted};
use super::nearest::nearest;
use super::problems::Problems;

/// The only pattern that the schemas use.
const NAME_PATTERN: &str = "^[a-z0-9_]+$";

/// How keys are called in messages: by their path in YAML, by clause or option in SQL.
pub(super) type Terms<'a> = &'a dyn Fn(&str) -> String;

pub(super) fn by_path(path: &str) -> String {
    path.to_owned()
}

pub(super) struct Checker<'a> {
    schema: &'a Json,
    /// What `x-dpone-when` looks at.
    document: &'a Located,
    terms: Terms<'a>,
    /// Scalars with `${…}` or `{{ … }}` are still to be filled in.
    templates: bool,
    pub problems: Problems,
    /// Paths of keys without effect, by reason.
    ignored: BTreeMap<String, Vec<String>>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(schema: &'a Json, document: &'a Located, terms: Terms<'a>) -> Self {
        Self { schema, document, terms, templates: false, problems: Problems::default(), ignored: BTreeMap::new() }
    }

    /// Checks a file whose templates are filled in later.
    pub(super) fn with_templates(mut self) -> Self {
        self.templates = true;
        self
    }

    /// Checks the whole document.
    pub(super) fn document(&mut self) {
        let (schema, document) = (self.schema, self.document);
        self.value(schema, document, "");
    }

    /// Checks one part of the document against one definition of the schema.
    pub(super) fn part(&mut self, definition: &str, path: &str) {
        let (schema, document) = (self.schema, self.document);
        if let (Some(schema), Some(node)) = (schema.pointer(&format!("/$defs/{definition}")), document.path(path)) {
            self.value(schema, node, path);
        }
    }

    /// One sentence for each reason why keys have no effect.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings_for(|_| true)
    }

    /// The same, for some of the keys.
    pub(super) fn warnings_for(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.ignored
            .iter()
            .map(|(reason, paths)| (reason, paths.iter().filter(|path| wanted(path)).cloned().collect::<Vec<_>>()))
            .filter(|(_, paths)| !paths.is_empty())
            .map(|(reason, paths)| {
                let verb = if paths.len() == 1 { "has" } else { "have" };
                format!("{} {verb} no effect: {reason}", paths.join(", "))
            })
            .collect()
    }

    fn value(&mut self, schema: &'a Json, node: &Located, path: &str) {
        let schema = self.resolve(schema);
        if self.templates && node.as_str().is_some_and(is_template) {
            return;
        }
        if let Some(names) = enumeration(schema) {
            return self.enumeration(&names, node, path);
        }
        if let Some(branches) = branches(schema) {
            let branches: Vec<_> = branches.iter().map(|branch| self.resolve(branch)).collect();
            return match branches.iter().find(|branch| accepts(branch, node)) {
                Some(branch) => self.value(branch, node, path),
                None => {
                    let expected: Vec<_> = branches.iter().flat_map(|branch| types(branch)).collect();
                    self.wrong_type(&expected, node, path);
                }
            };
        }
        if !accepts(schema, node) {
            return self.wrong_type(&types(schema), node, path);
        }
        match &node.value {
            Value::String { text, .. } => self.text(schema, text, node, path),
            Value::Integer(value) => self.range(schema, *value as f64, node, path),
            Value::Float(value) => self.range(schema, *value, node, path),
            Value::List(items) => {
                if let Some(item_schema) = schema.get("items") {
                    for (i, item) in items.iter().enumerate() {
                        self.value(item_schema, item, &format!("{path}[{i}]"));
                    }
                }
            }
            Value::Map(_) => self.mapping(schema, node, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn mapping(&mut self, schema: &'a Json, node: &Located, path: &str) {
        let properties = schema.get("properties").and_then(Json::as_object);
        let rest = schema.get("additionalProperties");
        // A key that is misspelt is one mistake: the key that was meant is not missing as well.
        let mut meant = Vec::new();
        for entry in node.entries() {
            if is_extension(&entry.key) {
                continue;
            }
            let path = join(path, &entry.key);
            match (properties.and_then(|known| known.get(&entry.key)), rest) {
                (Some(property), _) => {
                    // An empty value is a key that was not written.
                    if entry.value.value != Value::Null && self.property(property, entry, &path) {
                        self.value(property, &entry.value, &path);
                    }
                }
                (None, Some(Json::Bool(false))) => {
                    meant.extend(nearest(&entry.key, properties.into_iter().flatten().map(|(name, _)| name.as_str())));
                    let hint = self.unknown_hint(&entry.key, properties);
                    self.problems.push(&entry.key_at, format!("{path} is not a known key"), Some(hint));
                }
                (None, Some(rest @ Json::Object(_))) => self.value(rest, &entry.value, &path),
                (None, _) => {}
            }
        }
        for key in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            let absent = node.get(key).is_none_or(|value| value.value == Value::Null);
            if absent && !meant.contains(&key) {
                let name = (self.terms)(&join(path, key));
                let at = node.entry(key).map_or(&node.at, |entry| &entry.key_at);
                let hint =
                    properties.and_then(|known| known.get(key)).and_then(|property| self.expected_hint(property));
                self.problems.push(at, format!("{name} is missing"), hint);
            }
        }
    }

    /// The extensions of one key. False: the value needs no further look.
    fn property(&mut self, property: &'a Json, entry: &super::located::Entry, path: &str) -> bool {
        let name = (self.terms)(path);
        for (discriminator, allowed) in property.get("x-dpone-when").and_then(Json::as_object).into_iter().flatten() {
            let Some(actual) = self.document.path(discriminator).and_then(Located::as_str) else { continue };
            // A value that does not exist is a mistake of its own.
            if !self.exists(discriminator, actual) {
                continue;
            }
            let allowed: Vec<_> = allowed.as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            if !allowed.contains(&actual) {
                let discriminator = (self.terms)(discriminator);
                self.problems.push(
                    &entry.key_at,
                    format!("{name} has no meaning where {discriminator} is {actual}"),
                    Some(format!("it belongs to {}", allowed.join(", "))),
                );
                return false;
            }
        }
        let accepted = property.get("x-dpone-accepts").and_then(Json::as_array);
        if accepted.is_some_and(|values| values.contains(&entry.value.to_json())) {
            return false;
        }
        if let Some(instead) = property.get("x-dpone-unsupported").and_then(Json::as_str) {
            self.problems.push(
                &entry.key_at,
                format!("{name} is known, but not supported by this version"),
                Some(instead.to_owned()),
            );
            return false;
        }
        if let Some(reason) = property.get("x-dpone-ignored").and_then(Json::as_str) {
            let names = self.ignored.entry(reason.to_owned()).or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        true
    }

    /// Whether the closed list at a dotted path has this value.
    fn exists(&self, path: &str, value: &str) -> bool {
        let at = path.split('.').try_fold(self.resolve(self.schema), |schema, key| {
            schema.get("properties").and_then(|known| known.get(key)).map(|property| self.resolve(property))
        });
        at.and_then(enumeration).is_some_and(|names| names.contains(&value))
    }

    fn enumeration(&mut self, names: &[&'a str], node: &Located, path: &str) {
        let Some(text) = node.as_str() else {
            let message =
                format!("{} is {}; expected one of {}", (self.terms)(path), node.describe(), names.join(", "));
            return self.problems.push(&node.at, message, None);
        };
        if !names.contains(&text) {
            let hint = nearest(text, names.iter().copied()).map(|near| format!("did you mean {near}?"));
            let message = format!("{} is {}; expected one of {}", (self.terms)(path), quoted(text), names.join(", "));
            self.problems.push(&node.at, message, hint);
        }
    }

    fn text(&mut self, schema: &Json, text: &str, node: &Located, path: &str) {
        let length = text.chars().count() as u64;
        let limit = |key| schema.get(key).and_then(Json::as_u64);
        let name = (self.terms)(path);
        if limit("minLength").is_some_and(|least| length < least)
            || limit("maxLength").is_some_and(|most| length > most)
        {
            let expected = match (limit("minLength"), limit("maxLength")) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("at least {least}"),
                (None, most) => format!("at most {}", most.unwrap_or_default()),
            };
            self.problems.push(&node.at, format!("{name} has {length} characters; expected {expected}"), None);
        }
        if schema.get("pattern").and_then(Json::as_str) == Some(NAME_PATTERN)
            && !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            self.problems.push(
                &node.at,
                format!("{name} is {}; expected small letters, digits and underscores only", quoted(text)),
                Some(format!("for example {}", super::naming::snake(text))),
            );
        }
    }

    fn range(&mut self, schema: &Json, value: f64, node: &Located, path: &str) {
        let limit = |key| schema.get(key).and_then(Json::as_f64);
        let (least, most) = (limit("minimum"), limit("maximum"));
        let no_number = value.is_nan() && (least.is_some() || most.is_some());
        if no_number || least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
            let expected = match (least, most) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("at least {least}"),
                (None, most) => format!("at most {}", most.unwrap_or_default()),
            };
            self.problems.push(&node.at, format!("{} is {value}; expected {expected}", (self.terms)(path)), None);
        }
    }

    fn wrong_type(&mut self, expected: &[&str], node: &Located, path: &str) {
        let mut names: Vec<_> = expected.iter().map(|name| type_name(name)).filter(|name| !name.is_empty()).collect();
        names.dedup();
        let hint = match (&node.value, expected.contains(&"string")) {
            (Value::Integer(_) | Value::Float(_) | Value::Bool(_), true) => Some("put it in quotes".to_owned()),
            _ => None,
        };
        let name = if path.is_empty() { "the manifest".to_owned() } else { (self.terms)(path) };
        self.problems.push(&node.at, format!("{name} is {}; expected {}", node.describe(), names.join(" or ")), hint);
    }

    fn unknown_hint(&self, key: &str, properties: Option<&serde_json::Map<String, Json>>) -> String {
        let known = || properties.into_iter().flatten().map(|(name, _)| name.as_str());
        if let Some(near) = nearest(key, known()) {
            return format!("did you mean {near}?");
        }
        match elsewhere(self.schema, self.schema, key, "", 0) {
            Some(path) => format!("{key} belongs at {path}"),
            None => format!("known keys: {}", known().collect::<Vec<_>>().join(", ")),
        }
    }

    fn expected_hint(&self, property: &'a Json) -> Option<String> {
        let schema = self.resolve(property);
        enumeration(schema).map(|names| format!("one of {}", names.join(", ")))
    }

    /// Follows references and takes the null out of optional values.
    fn resolve(&self, schema: &'a Json) -> &'a Json {
        resolve(self.schema, schema)
    }
}

fn resolve<'a>(root: &'a Json, mut schema: &'a Json) -> &'a Json {
    loop {
        if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
            match root.pointer(target.trim_start_matches('#')) {
                Some(found) => schema = found,
                None => return schema,
            }
        } else if let Some(one) = optional(schema) {
            schema = one;
        } else {
            return schema;
        }
    }
}

/// The schema of a value that may also be null.
fn optional(schema: &Json) -> Option<&Json> {
    match branches(schema)? {
        [one, null] if types(null) == ["null"] => Some(one),
        [null, one] if types(null) == ["null"] => Some(one),
        _ => None,
    }
}

/// The path of a key with this name somewhere else in the schema.
fn elsewhere(root: &Json, schema: &Json, key: &str, path: &str, depth: usize) -> Option<String> {
    let schema = resolve(root, schema);
    if depth > 4 {
        return None;
    }
    let properties = schema.get("properties").and_then(Json::as_object)?;
    if properties.contains_key(key) && !path.is_empty() {
        return Some(join(path, key));
    }
    properties.iter().find_map(|(name, property)| elsewhere(root, property, key, &join(path, name), depth + 1))
}

fn branches(schema: &Json) -> Option<&[Json]> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array).map(Vec::as_slice)
}

/// The values of a closed list, however the schema writes it.
fn enumeration(schema: &Json) -> Option<Vec<&str>> {
    if let Some(value) = schema.get("const").and_then(Json::as_str) {
        return Some(vec![value]);
    }
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return Some(values.iter().filter_map(Json::as_str).collect());
    }
    let parts: Option<Vec<_>> = branches(schema)?.iter().map(enumeration).collect();
    parts.map(|parts| parts.concat())
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one.as_str()],
        Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn accepts(schema: &Json, node: &Located) -> bool {
    let types = types(schema);
    types.is_empty()
        || types.iter().any(|name| match *name {
            "string" => matches!(node.value, Value::String { .. }),
            "integer" => matches!(node.value, Value::Integer(_)),
            "number" => matches!(node.value, Value::Integer(_) | Value::Float(_)),
            "boolean" => matches!(node.value, Value::Bool(_)),
            "array" => matches!(node.value, Value::List(_)),
            "object" => matches!(node.value, Value::Map(_)),
            _ => false,
        })
}

fn type_name(name: &str) -> &'static str {
    match name {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        _ => "",
    }
}

fn is_template(text: &str) -> bool {
    text.contains("${") || text.contains("{{")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
