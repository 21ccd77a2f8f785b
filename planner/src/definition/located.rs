//! A tree of values that remember where they were written, so that every later message can name the place.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::error::Location;

/// Where a value begins. Files are shared: a merged tree may come from several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub file: Arc<Path>,
    /// From one.
    pub line: usize,
    /// From one, in characters.
    pub column: usize,
}

impl Place {
    pub(super) fn new(file: &Arc<Path>, line: usize, column: usize) -> Self {
        Self { file: Arc::clone(file), line, column }
    }

    pub(super) fn location(&self) -> Location {
        Location::new(&self.file, self.line, self.column)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Located {
    pub value: Value,
    pub at: Place,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    /// `plain`: written without quotes, so that a value put in by a variable may still become a number.
    String {
        text: String,
        plain: bool,
    },
    List(Vec<Located>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Place,
    pub value: Located,
}

impl Located {
    pub(super) fn string(text: impl Into<String>, at: Place) -> Self {
        Self { value: Value::String { text: text.into(), plain: false }, at }
    }

    pub(super) fn map(at: Place) -> Self {
        Self { value: Value::Map(Vec::new()), at }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn items(&self) -> &[Located] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Located> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The value at a dotted path, such as `sink.strategy.mode`.
    pub(super) fn path(&self, path: &str) -> Option<&Located> {
        path.split('.').try_fold(self, |node, key| node.get(key))
    }

    /// Where the key at a dotted path is written, or the innermost mapping above it that exists.
    pub(super) fn place(&self, path: &str) -> &Place {
        let mut node = self;
        let mut at = &self.at;
        for key in path.split('.') {
            match node.entry(key) {
                Some(entry) => {
                    at = &entry.key_at;
                    node = &entry.value;
                }
                None => break,
            }
        }
        at
    }

    /// Sets a key, in place of an earlier value for it. Does nothing to a value that is not a mapping.
    pub(super) fn set(&mut self, key: &str, key_at: Place, value: Located) {
        let Value::Map(entries) = &mut self.value else { return };
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => (entry.key_at, entry.value) = (key_at, value),
            None => entries.push(Entry { key: key.to_owned(), key_at, value }),
        }
    }

    /// Sets the value at a dotted path, making the mappings above it.
    pub(super) fn set_path(&mut self, path: &str, at: &Place, value: Located) {
        match path.split_once('.') {
            None => self.set(path, at.clone(), value),
            Some((first, rest)) => {
                if self.get(first).is_none() {
                    self.set(first, at.clone(), Self::map(at.clone()));
                }
                let Value::Map(entries) = &mut self.value else { return };
                if let Some(entry) = entries.iter_mut().find(|entry| entry.key == first) {
                    entry.value.set_path(rest, at, value);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Entry> {
        let Value::Map(entries) = &mut self.value else { return None };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index))
    }

    /// The plain value, without extension keys (`x-…`) and keys that are left empty.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => serde_json::Number::from_f64(*value).map_or_else(
                // Infinities and NaN have no JSON number; no key of ours takes them.
                || serde_json::Value::String(value.to_string()),
                serde_json::Value::Number,
            ),
            Value::String { text, .. } => text.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(
                entries
                    .iter()
                    .filter(|entry| !is_extension(&entry.key) && entry.value.value != Value::Null)
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// What kind of value it is, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::String { text, .. } => format!("the text {}", quoted(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Keys that users may put anywhere for their own tools.
pub(super) fn is_extension(key: &str) -> bool {
    key.starts_with("x-")
}

/// The text in double quotes, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out = String::new();
    let cut: String = text.chars().take(LONGEST).collect();
    let _ = write!(out, "{cut:?}");
    if cut.len() < text.len() {
        out.insert(out.len() - 1, '…');
    }
    out
}
