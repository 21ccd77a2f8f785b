//! The writer's side: what is known of the documents that its schema takes.
//!
//! A schema with `anyOf` takes what one of several schemas takes. It is taken apart into alternatives; in each of them a
//! document fits all schemas of one list, and none of another.

use std::sync::LazyLock;

use serde_json::Value;

use super::document::At;

/// More alternatives than this are not followed.
const MOST: usize = 256;

/// Types as bits: whole numbers and fractions are two of them.
pub(super) type Types = u8;
pub(super) const INTEGER: Types = 4;
pub(super) const NUMBER: Types = 4 | 8;
pub(super) const STRING: Types = 16;
pub(super) const ARRAY: Types = 32;
pub(super) const OBJECT: Types = 64;
pub(super) const EVERY: Types = 127;

/// A schema for each type, to take several apart.
pub(super) static BY_TYPE: LazyLock<Vec<(Types, Value)>> = LazyLock::new(|| {
    [(1, "null"), (2, "boolean"), (NUMBER, "number"), (STRING, "string"), (ARRAY, "array"), (OBJECT, "object")]
        .map(|(bits, name)| (bits, serde_json::json!({ "type": name })))
        .to_vec()
});

pub(super) fn types_of(schema: At<'_>) -> Types {
    let one = |value: &Value| match value.as_str() {
        Some("null") => 1,
        Some("boolean") => 2,
        Some("integer") => INTEGER,
        Some("number") => NUMBER,
        Some("string") => STRING,
        Some("array") => ARRAY,
        Some("object") => OBJECT,
        _ => EVERY,
    };
    match schema.get("type") {
        None => EVERY,
        Some(Value::Array(list)) => list.iter().map(one).fold(0, |a, b| a | b),
        Some(value) => one(value),
    }
}

pub(super) fn type_names(types: Types) -> String {
    let names = [(1, "null"), (2, "boolean"), (STRING, "string"), (ARRAY, "array"), (OBJECT, "object")];
    let mut found: Vec<&str> = names.iter().filter(|(bit, _)| types & bit != 0).map(|(_, name)| *name).collect();
    match types & NUMBER {
        0 => {}
        INTEGER => found.push("integer"),
        _ => found.push("number"),
    }
    if types == EVERY { "any type".to_owned() } else { found.join(", ") }
}

/// Documents that fit all schemas of one list, and none of the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Alternative<'a> {
    pub(super) all: Vec<At<'a>>,
    pub(super) not: Vec<At<'a>>,
}

enum Task<'a> {
    Schema(At<'a>),
    /// One of these, and, if `alone`, none of the others.
    Choice {
        of: Vec<At<'a>>,
        alone: bool,
    },
}

/// Takes the conjunction of some schemas apart. An error is what was not understood.
pub(super) fn alternatives<'a>(start: &[At<'a>], not: &[At<'a>]) -> Result<Vec<Alternative<'a>>, String> {
    let first = Alternative { all: Vec::new(), not: not.to_vec() };
    let mut open: Vec<(Vec<Task<'a>>, Alternative<'a>)> =
        vec![(start.iter().map(|at| Task::Schema(*at)).collect(), first)];
    let mut found = Vec::new();
    while let Some((mut tasks, mut so_far)) = open.pop() {
        if found.len() + open.len() > MOST {
            return Err("the alternatives are too many to follow".to_owned());
        }
        match tasks.pop() {
            None => found.push(so_far),
            Some(Task::Choice { of, alone }) => {
                for (i, branch) in of.iter().enumerate() {
                    let mut left: Vec<Task<'a>> = tasks.iter().map(Task::again).collect();
                    left.push(Task::Schema(*branch));
                    let mut so_far = so_far.clone();
                    if alone {
                        so_far.not.extend(of.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| *other));
                    }
                    open.push((left, so_far));
                }
            }
            Some(Task::Schema(at)) => {
                if at.value == &Value::Bool(false) {
                    continue;
                }
                if !so_far.all.iter().any(|other| other.address() == at.address()) {
                    so_far.all.push(at);
                    match at.target() {
                        Some(Ok(target)) => tasks.push(Task::Schema(target)),
                        Some(Err(reference)) => {
                            return Err(format!("the reference {reference:?} is not in the document"));
                        }
                        None => {}
                    }
                    tasks.extend(at.list("allOf").into_iter().map(Task::Schema));
                    for (key, alone) in [("anyOf", false), ("oneOf", true)] {
                        if at.get(key).is_some() {
                            tasks.push(Task::Choice { of: at.list(key), alone });
                        }
                    }
                    so_far.not.extend(at.schema("not"));
                }
                open.push((tasks, so_far));
            }
        }
    }
    found.reverse();
    Ok(found)
}

impl Task<'_> {
    fn again(&self) -> Self {
        match self {
            Self::Schema(at) => Self::Schema(*at),
            Self::Choice { of, alone } => Self::Choice { of: of.clone(), alone: *alone },
        }
    }
}

/// A bound, and whether it is itself out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    pub(super) at: f64,
    pub(super) exclusive: bool,
}

/// The lower bound of a schema, or with `sign` -1 the upper one, turned over.
pub(super) fn bound(schema: At<'_>, sign: f64) -> Option<Bound> {
    let (inclusive, exclusive) =
        if sign > 0.0 { ("minimum", "exclusiveMinimum") } else { ("maximum", "exclusiveMaximum") };
    let plain = schema.get(inclusive).and_then(Value::as_f64).map(|at| Bound {
        at: at * sign,
        // Draft 4 says so beside the bound.
        exclusive: schema.get(exclusive) == Some(&Value::Bool(true)),
    });
    let strict = schema.get(exclusive).and_then(Value::as_f64).map(|at| Bound { at: at * sign, exclusive: true });
    tighter(plain, strict)
}

fn tighter(a: Option<Bound>, b: Option<Bound>) -> Option<Bound> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.at > a.at || (b.at == a.at && b.exclusive) { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl<'a> Alternative<'a> {
    pub(super) fn types(&self) -> Types {
        self.all.iter().fold(EVERY, |types, at| types & types_of(*at))
    }

    pub(super) fn bound(&self, sign: f64) -> Option<Bound> {
        let tightest = self.all.iter().fold(None, |tightest, at| tighter(tightest, bound(*at, sign)));
        // The next whole number.
        match tightest {
            Some(Bound { at, exclusive: true }) if self.types() & NUMBER == INTEGER && at.fract() == 0.0 => {
                Some(Bound { at: at + 1.0, exclusive: false })
            }
            other => other,
        }
    }

    pub(super) fn least(&self, key: &str) -> Option<u64> {
        self.all.iter().filter_map(|at| at.count(key)).max()
    }

    pub(super) fn most(&self, key: &str) -> Option<u64> {
        self.all.iter().filter_map(|at| at.count(key)).min()
    }

    pub(super) fn is_required(&self, name: &str) -> bool {
        self.all.iter().any(|at| at.required().any(|required| required == name))
    }

    /// The values, where a list says all of them.
    pub(super) fn values(&self) -> Option<Vec<&'a Value>> {
        let listed = self.all.iter().find_map(|at| match (at.get("const"), at.get("enum").and_then(Value::as_array)) {
            (Some(one), _) => Some(vec![one]),
            (None, Some(list)) => Some(list.iter().collect()),
            _ => None,
        });
        static NULL: Value = Value::Null;
        static NO: Value = Value::Bool(false);
        static YES: Value = Value::Bool(true);
        listed.or_else(|| match self.types() {
            1 => Some(vec![&NULL]),
            2 => Some(vec![&NO, &YES]),
            3 => Some(vec![&NULL, &NO, &YES]),
            _ => None,
        })
    }

    /// The same documents, as long as they are of some types.
    pub(super) fn of_types(&self, schema: At<'a>) -> Self {
        let mut narrowed = self.clone();
        narrowed.all.push(schema);
        narrowed
    }
}
