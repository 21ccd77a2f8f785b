//! Whether a Schema Registry would take a new schema, worked out offline.
//!
//! *Backward*: who reads with the new schema understands what was written with the earlier one. *Forward*: who reads with
//! the earlier one understands what will be written with the new one. *Full* is both. The transitive levels ask all
//! earlier schemas, the others the newest alone. What these rules do not understand is incompatible, and said to be.

use std::fmt;

use dpone_planner::{Error, Result};
use serde_json::Value;

use crate::{avro, json};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    None,
    #[default]
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

impl Level {
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    /// As the registry writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// In any case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text))
    }

    pub fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }

    fn directions(self) -> &'static [Direction] {
        match self {
            Self::None => &[],
            Self::Backward | Self::BackwardTransitive => &[Direction::Backward],
            Self::Forward | Self::ForwardTransitive => &[Direction::Forward],
            Self::Full | Self::FullTransitive => &[Direction::Backward, Direction::Forward],
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Avro,
    Json,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Avro => "avro",
            Self::Json => "json",
        }
    }
}

/// Who reads whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The new schema reads what the earlier one wrote.
    Backward,
    Forward,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backward => "backward",
            Self::Forward => "forward",
        }
    }
}

/// One reason why two schemas are not compatible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where in the schema: `customer.address.zip`, `tags[]`; empty for the whole.
    pub path: String,
    /// The registry's name of the rule, such as `READER_FIELD_MISSING_DEFAULT_VALUE`.
    pub rule: &'static str,
    pub message: String,
    pub direction: Direction,
    /// The earlier schema, counted from 0, the newest.
    pub against: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub compatible: bool,
    pub level: Level,
    pub kind: Kind,
    /// Earlier schemas that were looked at.
    pub checked: usize,
    pub problems: Vec<Problem>,
}

/// What one reader does not understand, before it is known which schemas were compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(path: &str, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), rule, message: message.into() }
    }
}

/// Judges a new schema by the earlier ones, the newest of them first. An error where a schema is none: `earlier[1]`.
pub fn compatibility(level: Level, kind: Kind, new: &Value, earlier: &[Value]) -> Result<Report> {
    let checked = match level {
        Level::None => 0,
        level if level.is_transitive() => earlier.len(),
        _ => earlier.len().min(1),
    };
    let mut problems = Vec::new();
    // Earlier schemas that are not asked have to be schemas all the same.
    let of = |at: usize| move |error: Error| error.with("earlier", at.to_string());
    match kind {
        Kind::Avro => {
            let new = avro::Schema::parse(new)?;
            for (against, old) in earlier.iter().enumerate() {
                let old = avro::Schema::parse(old).map_err(of(against))?;
                for direction in level.directions().iter().filter(|_| against < checked) {
                    let findings = match direction {
                        Direction::Backward => avro::read(&new, &old),
                        Direction::Forward => avro::read(&old, &new),
                    };
                    problems.extend(placed(findings, *direction, against));
                }
            }
        }
        Kind::Json => {
            json::check(new)?;
            for (against, old) in earlier.iter().enumerate() {
                json::check(old).map_err(of(against))?;
                for direction in level.directions().iter().filter(|_| against < checked) {
                    let findings = match direction {
                        Direction::Backward => json::read(new, old),
                        Direction::Forward => json::read(old, new),
                    };
                    problems.extend(placed(findings, *direction, against));
                }
            }
        }
    }
    Ok(Report { compatible: problems.is_empty(), level, kind, checked, problems })
}

fn placed(findings: Vec<Finding>, direction: Direction, against: usize) -> impl Iterator<Item = Problem> {
    findings.into_iter().map(move |Finding { path, rule, message }| Problem { path, rule, message, direction, against })
}

/// Reads a schema's text. The column of a syntax error is said; the text is not.
pub fn parse_text(text: &str) -> Result<Value> {
    serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(|error| {
        Error::configuration(format!("the schema is not valid JSON: line {}, column {}", error.line(), error.column()))
            .with_source(error)
    })
}
