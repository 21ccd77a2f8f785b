//! Objects: properties under open, closed and partially open content models.

use std::collections::BTreeSet;

use serde_json::Value;

use super::accept::{Comparison, CountRules, counts};
use super::document::At;
use super::value::takes;
use super::writer::{Alternative, OBJECT};
use crate::compatibility::Finding;

const PROPERTIES: CountRules =
    ["MIN_PROPERTIES_ADDED", "MIN_PROPERTIES_INCREASED", "MAX_PROPERTIES_ADDED", "MAX_PROPERTIES_DECREASED"];

impl<'a> Comparison<'a> {
    pub(super) fn objects(&mut self, reader: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        counts(reader, writer, ("minProperties", "maxProperties"), PROPERTIES, path, out);
        required(reader, writer, path, out);
        let declared: BTreeSet<&str> =
            writer.all.iter().flat_map(|at| at.named("properties")).map(|(name, _)| name).collect();
        for (name, schema) in reader.named("properties") {
            self.property(name, schema, !declared.contains(name), writer, path, out);
        }
        let others = reader.schema("additionalProperties").filter(|schema| !schema.takes_all());
        for name in declared.iter().filter(|name| property(reader, name).is_none()) {
            if let Some(others) = others
                && !reader.named("patternProperties").any(|(pattern, _)| surely_matches(pattern, name))
            {
                self.removed(name, others, writer, path, out);
            }
        }
        // Patterns ask of every name that they match, declared or not.
        for (pattern, schema) in reader.named("patternProperties") {
            let matched = declared.iter().copied().filter(|name| may_match(pattern, name));
            let named: Vec<&str> = matched.chain(reader.named("properties").map(|(name, _)| name)).collect();
            for name in named.into_iter().filter(|name| may_match(pattern, name)) {
                self.schemas(schema, &given(writer, name), &[], &join(path, name), out);
            }
            self.pattern(pattern, schema, writer, path, out);
        }
        if let Some(others) = others {
            self.others(reader, others, writer, path, out);
        }
    }

    fn property(
        &mut self,
        name: &str,
        schema: At<'a>,
        added: bool,
        writer: &Alternative<'a>,
        path: &str,
        out: &mut Vec<Finding>,
    ) {
        let inside = join(path, name);
        let given = given(writer, name);
        if !added {
            self.schemas(schema, &given, &[], &inside, out);
        } else if !self.holds(schema, &given, &[]) {
            let (rule, why) = if given.is_empty() {
                (
                    "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL",
                    "the writer's content model is open: documents may have it with any value",
                )
            } else {
                (
                    "PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
                    "the writer may have it with values that its additionalProperties take and the reader does not",
                )
            };
            out.push(Finding::new(&inside, rule, format!("the writer does not declare it: {why}")));
        }
    }

    /// A property that the reader does not declare.
    fn removed(&mut self, name: &str, others: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        if self.holds(others, &given(writer, name), &[]) {
            return;
        }
        let inside = join(path, name);
        out.push(if others.value == &Value::Bool(false) {
            let message = "the reader does not declare it, and its content model is closed";
            Finding::new(&inside, "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", message)
        } else {
            let message = "the reader does not declare it, and its additionalProperties do not take all of its values";
            Finding::new(&inside, "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", message)
        });
    }

    /// Names that match a pattern of the reader and are declared by nobody.
    fn pattern(&mut self, pattern: &str, schema: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        let inside = format!("{path}/{pattern}/");
        let theirs: Vec<(&str, At<'a>)> = writer.all.iter().flat_map(|at| at.named("patternProperties")).collect();
        let same: Vec<At<'a>> = theirs.iter().filter(|(other, _)| *other == pattern).map(|(_, at)| *at).collect();
        if !same.is_empty() {
            return self.schemas(schema, &same, &[], &inside, out);
        }
        self.schemas(schema, &additional(writer), &[], &inside, out);
        // Another pattern may match the same names.
        for (_, other) in theirs {
            self.schemas(schema, &[other], &[], &inside, out);
        }
    }

    /// Names that the reader neither declares nor matches.
    fn others(&mut self, reader: At<'a>, others: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        let inside = format!("{path}.*");
        let given = additional(writer);
        if !self.holds(others, &given, &[]) {
            let closed = others.value == &Value::Bool(false);
            let (rule, message) = match (closed, given.is_empty()) {
                (true, _) => {
                    ("ADDITIONAL_PROPERTIES_REMOVED", "the reader's content model is closed, the writer's is not")
                }
                (false, true) => (
                    "ADDITIONAL_PROPERTIES_NARROWED",
                    "the reader's additionalProperties do not take all that the writer's open content model has",
                ),
                (false, false) => (
                    "ADDITIONAL_PROPERTIES_NARROWED",
                    "the reader's additionalProperties do not take all that the writer's do",
                ),
            };
            out.push(Finding::new(path, rule, message));
        }
        let mine: Vec<&str> = reader.named("patternProperties").map(|(pattern, _)| pattern).collect();
        for (pattern, schema) in writer.all.iter().flat_map(|at| at.named("patternProperties")) {
            if !mine.contains(&pattern) {
                self.schemas(others, &[schema], &[], &inside, out);
            }
        }
    }

    /// Whether a property that every document of the writer has tells them from those of a schema.
    pub(super) fn apart_by_property(&mut self, schema: At<'a>, writer: &Alternative<'a>) -> bool {
        if writer.types() != OBJECT {
            return false;
        }
        let lacks = schema.required().any(|name| given(writer, name).iter().any(|at| at.value == &Value::Bool(false)));
        lacks
            || schema.named("properties").any(|(name, asked)| {
                writer.is_required(name)
                    && match super::writer::alternatives(&given(writer, name), &[]) {
                        Ok(found) => found.iter().all(|alternative| {
                            let listed = alternative
                                .values()
                                .is_some_and(|values| values.iter().all(|value| takes(asked, value, 0) == Some(false)));
                            listed || super::writer::types_of(asked) & alternative.types() == 0
                        }),
                        Err(_) => false,
                    }
            })
    }
}

fn required(reader: At<'_>, writer: &Alternative<'_>, path: &str, out: &mut Vec<Finding>) {
    for name in reader.required().filter(|name| !writer.is_required(name)) {
        let declared = property(reader, name);
        // The reader fills it in.
        if declared.is_some_and(|schema| schema.get("default").is_some()) {
            continue;
        }
        let theirs = writer.all.iter().any(|at| property(*at, name).is_some());
        let rule = if theirs { "REQUIRED_ATTRIBUTE_ADDED" } else { "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL" };
        let message = "the reader requires it without a default, and the writer may leave it out";
        out.push(Finding::new(&join(path, name), rule, message));
    }
}

fn property<'a>(schema: At<'a>, name: &str) -> Option<At<'a>> {
    schema.named("properties").find(|(other, _)| *other == name).map(|(_, at)| at)
}

/// What the writer's schemas ask of a property; empty: nothing.
fn given<'a>(writer: &Alternative<'a>, name: &str) -> Vec<At<'a>> {
    let mut found = Vec::new();
    for at in &writer.all {
        let declared = property(*at, name);
        found.extend(declared);
        let mut open = declared.is_none();
        for (pattern, schema) in at.named("patternProperties") {
            if surely_matches(pattern, name) {
                found.push(schema);
            }
            open &= !may_match(pattern, name);
        }
        if open {
            found.extend(at.schema("additionalProperties").filter(|schema| !schema.takes_all()));
        }
    }
    found
}

/// What the writer's schemas ask of names that none of them declares or matches.
fn additional<'a>(writer: &Alternative<'a>) -> Vec<At<'a>> {
    let found = writer.all.iter().filter_map(|at| at.schema("additionalProperties"));
    found.filter(|schema| !schema.takes_all()).collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A pattern that is a beginning, or a whole name; `None` for others.
fn literal(pattern: &str) -> Option<(&str, bool)> {
    let rest = pattern.strip_prefix('^')?;
    let (text, whole) = rest.strip_suffix('$').map_or((rest, false), |text| (text, true));
    let text_is_plain = text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-' || c == ':');
    text_is_plain.then_some((text, whole))
}

fn may_match(pattern: &str, name: &str) -> bool {
    literal(pattern).is_none_or(|(text, whole)| if whole { name == text } else { name.starts_with(text) })
}

fn surely_matches(pattern: &str, name: &str) -> bool {
    literal(pattern).is_some() && may_match(pattern, name)
}
