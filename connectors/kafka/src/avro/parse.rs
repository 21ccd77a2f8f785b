//! An Avro schema with its names resolved. Names, aliases and defaults are checked here, so that what is compared later
//! is a schema.

use std::collections::HashMap;

use dpone_planner::{Error, Result};
use serde_json::{Map, Value};

/// Schemas nest no deeper.
const DEEPEST: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
}

impl Primitive {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "int" => Self::Int,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "bytes" => Self::Bytes,
            "string" => Self::String,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
        }
    }
}

/// A type, at its place.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Primitive(Primitive, Option<Logical>),
    Array(Box<Node>),
    Map(Box<Node>),
    Union(Vec<Node>),
    /// A record, an enum or a fixed: its place in [`Schema::named`].
    Named(usize),
}

/// What the values of a type mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Logical {
    Decimal { precision: i64, scale: i64 },
    Other(String),
}

#[derive(Debug)]
pub(crate) struct Named {
    /// Without its namespace.
    pub(crate) name: String,
    pub(crate) full: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) shape: Shape,
}

#[derive(Debug)]
pub(crate) enum Shape {
    Record(Vec<Field>),
    Enum { symbols: Vec<String>, default: Option<String> },
    Fixed { size: u64, logical: Option<Logical> },
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) has_default: bool,
    pub(crate) node: Node,
}

#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) root: Node,
    pub(crate) named: Vec<Named>,
}

impl Schema {
    pub(crate) fn parse(value: &Value) -> Result<Self> {
        let mut parser = Parser { named: Vec::new(), places: HashMap::new(), defaults: Vec::new(), depth: 0 };
        let root = parser.node(value, "", "the schema")?;
        let Parser { named, defaults, .. } = parser;
        let named = named.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| invalid("a type has no end"))?;
        let schema = Self { root, named };
        for (place, value, node) in defaults {
            if !schema.takes(&node, &value, 0) {
                return Err(invalid(format!("the default of {place} is not a value of its type"))
                    .with_hint("the default of a union is a value of its first type"));
            }
        }
        Ok(schema)
    }

    /// Whether a JSON value is a default of the type. That of a union is one of any of its types: which of them may be
    /// asked for is a matter of the version of the specification.
    fn takes(&self, node: &Node, value: &Value, depth: usize) -> bool {
        if depth > DEEPEST {
            return false;
        }
        match node {
            Node::Primitive(primitive, _) => match primitive {
                Primitive::Null => value.is_null(),
                Primitive::Boolean => value.is_boolean(),
                Primitive::Int => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                Primitive::Long => value.is_i64(),
                Primitive::Float | Primitive::Double => {
                    value.is_number() || matches!(value.as_str(), Some("NaN" | "Infinity" | "-Infinity"))
                }
                Primitive::Bytes | Primitive::String => value.is_string(),
            },
            Node::Array(item) => {
                value.as_array().is_some_and(|values| values.iter().all(|value| self.takes(item, value, depth + 1)))
            }
            Node::Map(item) => {
                value.as_object().is_some_and(|values| values.values().all(|value| self.takes(item, value, depth + 1)))
            }
            Node::Union(branches) => branches.iter().any(|branch| self.takes(branch, value, depth + 1)),
            Node::Named(at) => match &self.named[*at].shape {
                Shape::Record(fields) => value.as_object().is_some_and(|object| {
                    fields.iter().all(|field| match object.get(&field.name) {
                        Some(value) => self.takes(&field.node, value, depth + 1),
                        None => field.has_default,
                    })
                }),
                Shape::Enum { symbols, .. } => {
                    value.as_str().is_some_and(|text| symbols.iter().any(|symbol| symbol == text))
                }
                Shape::Fixed { .. } => value.is_string(),
            },
        }
    }
}

struct Parser {
    /// `None` while a type is being read: it may name itself.
    named: Vec<Option<Named>>,
    places: HashMap<String, usize>,
    /// Checked when all names are known: place, value, type.
    defaults: Vec<(String, Value, Node)>,
    depth: usize,
}

impl Parser {
    fn node(&mut self, value: &Value, namespace: &str, place: &str) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(invalid(format!("{place} is nested too deeply")));
        }
        let node = match value {
            Value::String(name) => self.name(name, namespace, place)?,
            Value::Array(branches) => self.union(branches, namespace, place)?,
            Value::Object(object) => self.object(object, namespace, place)?,
            _ => return Err(invalid(format!("{place} is not a type: expected a name, a list or an object"))),
        };
        self.depth -= 1;
        Ok(node)
    }

    fn name(&self, name: &str, namespace: &str, place: &str) -> Result<Node> {
        if let Some(primitive) = Primitive::parse(name) {
            return Ok(Node::Primitive(primitive, None));
        }
        let full = full_name(name, namespace);
        let found = self.places.get(&full).or_else(|| self.places.get(name));
        found.map(|at| Node::Named(*at)).ok_or_else(|| {
            invalid(format!("{place}: no type is called {name:?}")).with_hint("a type is declared before it is named")
        })
    }

    fn union(&mut self, branches: &[Value], namespace: &str, place: &str) -> Result<Node> {
        let mut found: Vec<Node> = Vec::with_capacity(branches.len());
        for branch in branches {
            let node = self.node(branch, namespace, place)?;
            let twice = match &node {
                Node::Union(_) => return Err(invalid(format!("{place}: a union holds no union"))),
                Node::Named(at) => found.iter().any(|other| matches!(other, Node::Named(there) if there == at)),
                Node::Primitive(a, _) => found.iter().any(|other| matches!(other, Node::Primitive(b, _) if a == b)),
                Node::Array(_) => found.iter().any(|other| matches!(other, Node::Array(_))),
                Node::Map(_) => found.iter().any(|other| matches!(other, Node::Map(_))),
            };
            if twice {
                return Err(invalid(format!("{place}: a union holds each type once")));
            }
            found.push(node);
        }
        Ok(Node::Union(found))
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str, place: &str) -> Result<Node> {
        let kind = object.get("type").ok_or_else(|| invalid(format!("{place} has no \"type\"")))?;
        let Some(kind) = kind.as_str() else {
            // `{"type": {…}}` and `{"type": […]}`
            return self.node(kind, namespace, place);
        };
        let part = |key: &str| object.get(key).ok_or_else(|| invalid(format!("{place}: a type {kind} has {key:?}")));
        match kind {
            "array" => Ok(Node::Array(Box::new(self.node(part("items")?, namespace, place)?))),
            "map" => Ok(Node::Map(Box::new(self.node(part("values")?, namespace, place)?))),
            "record" | "error" | "enum" | "fixed" => self.declare(kind, object, namespace, place),
            name => match Primitive::parse(name) {
                Some(primitive) => Ok(Node::Primitive(primitive, logical(object))),
                None => self.name(name, namespace, place),
            },
        }
    }

    fn declare(&mut self, kind: &str, object: &Map<String, Value>, namespace: &str, place: &str) -> Result<Node> {
        let name = text(object, "name").ok_or_else(|| invalid(format!("{place}: a type {kind} has a \"name\"")))?;
        let full = full_name(name, text(object, "namespace").unwrap_or(namespace));
        check_name(&full, true, place)?;
        let home = full.rsplit_once('.').map_or("", |(home, _)| home).to_owned();
        let at = self.named.len();
        if self.places.insert(full.clone(), at).is_some() {
            return Err(invalid(format!("two types are called {full:?}")));
        }
        self.named.push(None);
        let shape = match kind {
            "enum" => enumeration(object, &full)?,
            "fixed" => Shape::Fixed {
                size: object.get("size").and_then(Value::as_u64).ok_or_else(|| {
                    invalid(format!("the fixed {full:?} has no \"size\", which is a number of bytes"))
                })?,
                logical: logical(object),
            },
            _ => Shape::Record(self.fields(object, &full, &home)?),
        };
        let aliases = names(object, "aliases").iter().map(|alias| full_name(alias, &home)).collect();
        let name = full.rsplit('.').next().unwrap_or(&full).to_owned();
        self.named[at] = Some(Named { name, full, aliases, shape });
        Ok(Node::Named(at))
    }

    fn fields(&mut self, object: &Map<String, Value>, record: &str, namespace: &str) -> Result<Vec<Field>> {
        let fields = object
            .get("fields")
            .and_then(Value::as_array)
            .ok_or_else(|| invalid(format!("the record {record:?} has no list of \"fields\"")))?;
        let mut found: Vec<Field> = Vec::with_capacity(fields.len());
        for field in fields {
            let object = field.as_object().ok_or_else(|| invalid(format!("a field of {record:?} is no object")))?;
            let name = text(object, "name").ok_or_else(|| invalid(format!("a field of {record:?} has no name")))?;
            let place = format!("{record}.{name}");
            check_name(name, false, &place)?;
            if found.iter().any(|other| other.name == name) {
                return Err(invalid(format!("two fields are called {place:?}")));
            }
            let of = object.get("type").ok_or_else(|| invalid(format!("the field {place:?} has no \"type\"")))?;
            let node = self.node(of, namespace, &place)?;
            let default = object.get("default");
            if let Some(default) = default {
                self.defaults.push((place, default.clone(), node.clone()));
            }
            let aliases = names(object, "aliases");
            found.push(Field { name: name.to_owned(), aliases, has_default: default.is_some(), node });
        }
        Ok(found)
    }
}

fn enumeration(object: &Map<String, Value>, name: &str) -> Result<Shape> {
    let symbols = object
        .get("symbols")
        .and_then(Value::as_array)
        .and_then(|symbols| symbols.iter().map(|s| s.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>())
        .ok_or_else(|| invalid(format!("the enum {name:?} has no list of \"symbols\"")))?;
    for (i, symbol) in symbols.iter().enumerate() {
        check_name(symbol, false, name)?;
        if symbols[..i].contains(symbol) {
            return Err(invalid(format!("the enum {name:?} has the symbol {symbol:?} twice")));
        }
    }
    let default = text(object, "default").map(str::to_owned);
    if default.as_ref().is_some_and(|default| !symbols.contains(default)) {
        return Err(invalid(format!("the default of the enum {name:?} is none of its symbols")));
    }
    Ok(Shape::Enum { symbols, default })
}

fn logical(object: &Map<String, Value>) -> Option<Logical> {
    match text(object, "logicalType")? {
        "decimal" => Some(Logical::Decimal {
            precision: object.get("precision").and_then(Value::as_i64)?,
            scale: object.get("scale").map_or(Some(0), Value::as_i64)?,
        }),
        other => Some(Logical::Other(other.to_owned())),
    }
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

fn names(object: &Map<String, Value>, key: &str) -> Vec<String> {
    let list = object.get(key).and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()).unwrap_or_default()
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn check_name(name: &str, dotted: bool, place: &str) -> Result<()> {
    let holds = |part: &str| {
        part.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
            && part.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
    };
    if if dotted { name.split('.').all(holds) } else { holds(name) } {
        return Ok(());
    }
    Err(invalid(format!("{place}: {name:?} is not a name"))
        .with_hint("names of Avro have ASCII letters, digits and underscores, and begin with no digit"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::configuration(format!("this is not an Avro schema: {}", message.into()))
}
