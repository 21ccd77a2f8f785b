//! Reads YAML into the located tree. Limits keep a hostile or broken file from taking the machine with it: size, depth
//! and the number of values after aliases are expanded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr::Scalar;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::located::{Entry, Located, Place, Value};
use crate::error::{Error, Result};

pub(super) const MAX_BYTES: usize = 4 << 20;
const MAX_DEPTH: usize = 64;
/// Values in the tree, aliases expanded.
const MAX_VALUES: usize = 500_000;

/// Parses one document. Duplicate keys, several documents, and anything over the limits are errors.
pub(super) fn parse(file: &Path, text: &str) -> Result<Located> {
    let file: Arc<Path> = Arc::from(file);
    let start = Place::new(&file, 1, 1);
    if text.len() > MAX_BYTES {
        return Err(Error::configuration(format!(
            "the file has {} bytes; a definition has at most {MAX_BYTES}",
            text.len()
        ))
        .at(start.location()));
    }
    let mut builder =
        Builder { file: Arc::clone(&file), open: Vec::new(), anchors: HashMap::new(), values: 0, root: None };
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) = event.map_err(|error| {
            let place = builder.place(error.marker());
            Error::configuration(format!("this is not valid YAML: {}", error.info()))
                .at(place.location())
                .with_hint("look at the indentation, and put text that holds `:`, `#`, `{`, `[`, `*` or `&` in quotes")
        })?;
        let place = builder.place(&span.start);
        builder.event(event, place)?;
    }
    builder.root.ok_or_else(|| {
        Error::configuration("the file is empty")
            .at(start.location())
            .with_hint("a manifest begins with `name:` or `kind:`")
    })
}

/// A collection whose end was not read yet.
struct Open {
    node: Located,
    anchor: usize,
    /// The key that waits for its value, in a mapping.
    key: Option<(String, Place)>,
    /// Mappings named by `<<`, merged when the mapping ends.
    merges: Vec<Located>,
}

struct Builder {
    file: Arc<Path>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Located, usize)>,
    values: usize,
    root: Option<Located>,
}

impl Builder {
    fn place(&self, marker: &Marker) -> Place {
        Place::new(&self.file, marker.line().max(1), marker.col() + 1)
    }

    fn event(&mut self, event: Event<'_>, at: Place) -> Result<()> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Error::configuration("the file holds more than one YAML document").at(at.location()).with_hint(
                    "write one manifest per file, or list several tables in a manifest of kind dpone.batch.v1",
                ))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = scalar(text, style, tag, at)?;
                self.count(1, &node.at)?;
                self.close(node, anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(Value::List(Vec::new()), anchor, at),
            Event::MappingStart(anchor, _) => self.begin(Value::Map(Vec::new()), anchor, at),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(mut done) => {
                    merge_defaults(&mut done);
                    self.close(done.node, done.anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(
                        Error::configuration("this alias names an anchor that is not complete yet").at(at.location())
                    );
                };
                let size = *size;
                self.values += size;
                check_count(self.values, &at)?;
                let mut node = node.clone();
                node.at = at;
                self.close(node, 0)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, at: Place) -> Result<()> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Error::configuration(format!("the definition is nested deeper than {MAX_DEPTH} levels"))
                .at(at.location()));
        }
        self.count(1, &at)?;
        self.open.push(Open { node: Located { value, at }, anchor, key: None, merges: Vec::new() });
        Ok(())
    }

    fn count(&mut self, values: usize, at: &Place) -> Result<()> {
        self.values += values;
        check_count(self.values, at)
    }

    /// Puts a finished value where it belongs.
    fn close(&mut self, node: Located, anchor: usize) -> Result<()> {
        if anchor != 0 {
            // Anchors within anchors are copied once a level.
            let size = size(&node);
            self.count(size, &node.at)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match parent.key.take() {
                None => parent.key = Some(key_of(&node)?),
                Some((key, key_at)) if key == "<<" => match &node.value {
                    Value::Map(_) => parent.merges.push(node),
                    Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
                        parent.merges.extend(items.iter().cloned());
                    }
                    _ => {
                        return Err(Error::configuration("`<<` merges a mapping, or a list of mappings")
                            .at(key_at.location())
                            .with_hint("write `<<: *anchor`"));
                    }
                },
                Some((key, key_at)) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                        return Err(Error::configuration(format!("the key {key:?} is written twice"))
                            .at(key_at.location())
                            .with_hint(format!("the first one is on line {}", first.key_at.line)));
                    }
                    entries.push(Entry { key, key_at, value: node });
                }
            },
            // Only collections are open.
            _ => {}
        }
        Ok(())
    }
}

fn check_count(values: usize, at: &Place) -> Result<()> {
    if values <= MAX_VALUES {
        return Ok(());
    }
    Err(Error::configuration(format!("the definition holds more than {MAX_VALUES} values"))
        .at(at.location())
        .with_hint("aliases count as often as they are used"))
}

/// Keys of a mapping win over those merged into it, and earlier merges over later ones.
fn merge_defaults(done: &mut Open) {
    for merged in std::mem::take(&mut done.merges) {
        for entry in merged.entries() {
            if done.node.entry(&entry.key).is_none() {
                done.node.set(&entry.key, entry.key_at.clone(), entry.value.clone());
            }
        }
    }
}

fn key_of(node: &Located) -> Result<(String, Place)> {
    let key = match &node.value {
        Value::String { text, .. } => text.clone(),
        Value::Integer(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => {
            return Err(Error::configuration(format!("a key is a name; here it is {}", node.describe()))
                .at(node.at.location())
                .with_hint("`{{ … }}` at the start of a value needs quotes around it"));
        }
    };
    Ok((key, node.at.clone()))
}

fn size(node: &Located) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|entry| 1 + size(&entry.value)).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<Cow<'_, Tag>>, at: Place) -> Result<Located> {
    let value = match &tag {
        Some(tag) if tag.is_yaml_core_schema() => {
            let suffix = tag.suffix.clone();
            Scalar::parse_from_cow_and_metadata(text, ScalarStyle::Plain, Some(tag))
                .map(|scalar| of_scalar(scalar, false))
                .ok_or_else(|| Error::configuration(format!("this value is not of the type !!{suffix}")))
        }
        Some(tag) => Err(Error::configuration(format!("the tag {}{} has no meaning here", tag.handle, tag.suffix))),
        None if style == ScalarStyle::Plain => Ok(plain(&text)),
        None => Ok(Value::String { text: text.into_owned(), plain: false }),
    };
    value.map_err(|error| error.at(at.location())).map(|value| Located { value, at })
}

/// A value written without quotes, read by YAML's core schema.
pub(super) fn plain(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    of_scalar(Scalar::parse_from_cow(Cow::Borrowed(text)), true)
}

fn of_scalar(scalar: Scalar<'_>, plain: bool) -> Value {
    match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(value) => Value::Bool(value),
        Scalar::Integer(value) => Value::Integer(value),
        Scalar::FloatingPoint(value) => Value::Float(*value),
        Scalar::String(text) => Value::String { text: text.into_owned(), plain },
    }
}
