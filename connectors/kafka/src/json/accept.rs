//! The reader's side: each thing that its schema asks for has to follow from what the writer's schema asks for.

use std::collections::HashSet;

use serde_json::Value;

use super::document::{At, Document, mentions_refs};
use super::value::takes;
use super::writer::{
    ARRAY, Alternative, BY_TYPE, Bound, NUMBER, OBJECT, STRING, alternatives, bound, type_names, types_of,
};
use crate::compatibility::Finding;

/// Comparisons of two places, over all of a schema.
const MOST_STEPS: usize = 20_000;
const DEEPEST: usize = 60;

pub(super) fn read(reader: &Value, writer: &Value) -> Vec<Finding> {
    let (mine, theirs) = (Document::new(reader), Document::new(writer));
    let mut types = Document::new(&Value::Null);
    types.root = &Value::Null;
    let mut comparison = Comparison { seen: HashSet::new(), steps: 0, depth: 0, types: &types };
    let mut out = Vec::new();
    let (reader, writer) = (At { document: &mine, value: reader }, At { document: &theirs, value: writer });
    comparison.schemas(reader, &[writer], &[], "", &mut out);
    let mut told = HashSet::new();
    out.retain(|finding| told.insert((finding.path.clone(), finding.rule)));
    out
}

pub(super) struct Comparison<'a> {
    /// Pairs of places that are being compared, or were: a schema may hold itself.
    seen: HashSet<(usize, Vec<usize>, Vec<usize>)>,
    steps: usize,
    depth: usize,
    types: &'a Document<'a>,
}

pub(super) fn not_understood(path: &str, what: impl std::fmt::Display) -> Finding {
    Finding::new(
        path,
        "NOT_UNDERSTOOD",
        format!("{what}: whether it is compatible is not known, so it is taken not to be"),
    )
}

impl<'a> Comparison<'a> {
    /// Whether `reader` takes all that fits every one of `all` and none of `not`.
    pub(super) fn schemas(
        &mut self,
        reader: At<'a>,
        all: &[At<'a>],
        not: &[At<'a>],
        path: &str,
        out: &mut Vec<Finding>,
    ) {
        if reader.takes_all() || all.iter().any(|at| reader.is_same(*at)) {
            return;
        }
        match alternatives(all, not) {
            Ok(alternatives) => {
                alternatives.iter().for_each(|alternative| self.alternative(reader, alternative, path, out));
            }
            Err(what) => out.push(not_understood(path, what)),
        }
    }

    /// As [`Self::schemas`], as a question.
    pub(super) fn holds(&mut self, reader: At<'a>, all: &[At<'a>], not: &[At<'a>]) -> bool {
        let seen = self.seen.clone();
        let mut findings = Vec::new();
        self.schemas(reader, all, not, "", &mut findings);
        if !findings.is_empty() {
            self.seen = seen;
        }
        findings.is_empty()
    }

    fn takes(&mut self, reader: At<'a>, writer: &Alternative<'a>) -> bool {
        let seen = self.seen.clone();
        let mut findings = Vec::new();
        self.alternative(reader, writer, "", &mut findings);
        if !findings.is_empty() {
            self.seen = seen;
        }
        findings.is_empty()
    }

    fn alternative(&mut self, reader: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        self.steps += 1;
        if self.steps > MOST_STEPS || self.depth > DEEPEST {
            out.push(not_understood(path, "the schemas are too intricate to follow"));
            return;
        }
        let addresses = |list: &[At<'_>]| {
            let mut addresses: Vec<usize> = list.iter().map(|at| at.address()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        };
        if !self.seen.insert((reader.address(), addresses(&writer.all), addresses(&writer.not))) {
            return;
        }
        self.depth += 1;
        self.keywords(reader, writer, path, out);
        self.depth -= 1;
    }

    fn keywords(&mut self, reader: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        let types = writer.types();
        // Nothing is both.
        if types == 0 || reader.takes_all() || writer.all.iter().any(|at| reader.is_same(*at)) {
            return;
        }
        if reader.value == &Value::Bool(false) {
            out.push(Finding::new(path, "SCHEMA_NARROWED", "the reader takes nothing here, the writer something"));
            return;
        }
        if let Some(values) = writer.values() {
            let answers: Vec<_> = values
                .iter()
                // A list may hold values that its own type refuses.
                .filter(|value| !writer.all.iter().any(|at| takes(*at, value, 0) == Some(false)))
                .map(|value| takes(reader, value, 0))
                .collect();
            if answers.iter().all(|answer| *answer == Some(true)) {
                return;
            }
            if answers.contains(&Some(false)) {
                let refused = answers.iter().filter(|answer| **answer == Some(false)).count();
                let message =
                    format!("the reader refuses {refused} of the {} values that the writer lists", answers.len());
                let rule = if reader.get("enum").is_some() { "ENUM_ARRAY_NARROWED" } else { "TYPE_NARROWED" };
                out.push(Finding::new(path, rule, message));
                return;
            }
        }
        match reader.target() {
            Some(Ok(target)) => self.alternative(target, writer, path, out),
            Some(Err(reference)) => {
                out.push(not_understood(path, format_args!("the reference {reference:?} is not in the document")));
            }
            None => {}
        }
        let known = types_of(reader);
        if types & !known != 0 {
            let message = format!("the writer has {}, the reader takes {}", type_names(types), type_names(known));
            out.push(Finding::new(path, if types & known == 0 { "TYPE_CHANGED" } else { "TYPE_NARROWED" }, message));
            return;
        }
        if reader.get("enum").is_some() || reader.get("const").is_some() {
            let message = "the reader takes listed values alone, the writer has others";
            out.push(Finding::new(path, "ENUM_ARRAY_NARROWED", message));
        }
        if types & NUMBER != 0 {
            numbers(reader, writer, path, out);
        }
        if types & STRING != 0 {
            texts(reader, writer, path, out);
        }
        if types & ARRAY != 0 {
            self.arrays(reader, writer, path, out);
        }
        if types & OBJECT != 0 {
            self.objects(reader, writer, path, out);
        }
        self.combined(reader, writer, path, out);
        unknown_keywords(reader, writer, path, out);
    }

    fn arrays(&mut self, reader: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        counts(reader, writer, ("minItems", "maxItems"), ITEMS, path, out);
        let unique = |at: At<'_>| at.get("uniqueItems") == Some(&Value::Bool(true));
        if unique(reader) && !writer.all.iter().any(|at| unique(*at)) {
            out.push(Finding::new(
                path,
                "UNIQUE_ITEMS_ADDED",
                "the reader wants each item once, the writer may repeat one",
            ));
        }
        let longest = writer.all.iter().map(|at| tuple(*at).0.len()).max().unwrap_or(0).max(tuple(reader).0.len());
        let most = writer.most("maxItems").unwrap_or(u64::MAX);
        let items = |at: usize| -> Vec<At<'a>> { writer.all.iter().filter_map(|schema| item(*schema, at)).collect() };
        for at in (0..longest).take_while(|at| (*at as u64) < most) {
            if let Some(schema) = item(reader, at) {
                self.schemas(schema, &items(at), &[], &format!("{path}[{at}]"), out);
            }
        }
        if let Some(schema) = item(reader, longest)
            && (longest as u64) < most
        {
            self.schemas(schema, &items(longest), &[], &format!("{path}[]"), out);
        }
    }

    fn combined(&mut self, reader: At<'a>, writer: &Alternative<'a>, path: &str, out: &mut Vec<Finding>) {
        for branch in reader.list("allOf") {
            self.alternative(branch, writer, path, out);
        }
        for (key, alone) in [("anyOf", false), ("oneOf", true)] {
            let branches = reader.list(key);
            if reader.get(key).is_none() || self.one_of(&branches, alone, writer) {
                continue;
            }
            // Each type may have a branch of its own.
            let types = writer.types();
            let parts: Vec<_> = BY_TYPE.iter().filter(|(bits, _)| bits & types != 0).collect();
            let split = parts.len() > 1
                && parts.iter().all(|(_, schema)| {
                    let schema = At { document: self.types, value: schema };
                    self.one_of(&branches, alone, &writer.of_types(schema))
                });
            if !split {
                let message = if alone {
                    "it is not certain that exactly one schema of the reader's oneOf takes what the writer has"
                } else {
                    "no schema of the reader's anyOf takes all that the writer has"
                };
                out.push(Finding::new(path, "SUM_TYPE_NARROWED", message));
            }
        }
        if let Some(not) = reader.schema("not")
            && !self.apart(not, writer)
        {
            out.push(Finding::new(path, "NOT_TYPE_EXTENDED", "the reader's `not` may refuse what the writer has"));
        }
    }

    /// Whether one branch takes all of it, and, if `alone`, none of the others takes any.
    fn one_of(&mut self, branches: &[At<'a>], alone: bool, writer: &Alternative<'a>) -> bool {
        branches.iter().enumerate().any(|(i, branch)| {
            self.takes(*branch, writer)
                && (!alone || branches.iter().enumerate().all(|(j, other)| i == j || self.apart(*other, writer)))
        })
    }

    /// Whether no document of the writer fits the schema, as far as that can be told.
    fn apart(&mut self, schema: At<'a>, writer: &Alternative<'a>) -> bool {
        if let Some(Ok(target)) = schema.target() {
            return self.apart(target, writer);
        }
        if schema.value == &Value::Bool(false) || types_of(schema) & writer.types() == 0 {
            return true;
        }
        if let Some(values) = writer.values()
            && values.iter().all(|value| takes(schema, value, 0) == Some(false))
        {
            return true;
        }
        // The writer has refused all of it already.
        if writer.not.clone().into_iter().any(|refused| self.holds(refused, &[schema], &[])) {
            return true;
        }
        self.apart_by_property(schema, writer)
    }
}

/// The schema of the item at a place; `None`: anything.
fn item(schema: At<'_>, at: usize) -> Option<At<'_>> {
    let (first, rest) = tuple(schema);
    first.get(at).copied().or(rest)
}

/// The schemas of the first items, and that of the others.
fn tuple(schema: At<'_>) -> (Vec<At<'_>>, Option<At<'_>>) {
    if schema.get("prefixItems").is_some() {
        return (schema.list("prefixItems"), schema.schema("items"));
    }
    match schema.get("items") {
        Some(Value::Array(_)) => (schema.list("items"), schema.schema("additionalItems")),
        _ => (Vec::new(), schema.schema("items")),
    }
}

fn numbers(reader: At<'_>, writer: &Alternative<'_>, path: &str, out: &mut Vec<Finding>) {
    for (sign, added, narrowed) in
        [(1.0, "MINIMUM_ADDED", "MINIMUM_INCREASED"), (-1.0, "MAXIMUM_ADDED", "MAXIMUM_DECREASED")]
    {
        let (Some(asked), given) = (bound(reader, sign), writer.bound(sign)) else { continue };
        let follows = given.is_some_and(|Bound { at, exclusive }| {
            at > asked.at || (at == asked.at && (exclusive || !asked.exclusive))
        });
        if !follows {
            let rule = if given.is_some() { narrowed } else { added };
            out.push(Finding::new(path, rule, "the writer may have numbers beyond the reader's bound"));
        }
    }
    let step = |at: At<'_>| at.get("multipleOf").and_then(Value::as_f64).filter(|step| *step > 0.0);
    if let Some(asked) = step(reader) {
        let whole = writer.types() & NUMBER == super::writer::INTEGER;
        let mut given = writer.all.iter().filter_map(|at| step(*at)).chain(whole.then_some(1.0)).peekable();
        let had = writer.all.iter().any(|at| step(*at).is_some());
        if !given.any(|given| (given / asked).fract() == 0.0) {
            let rule = if had { "MULTIPLE_OF_CHANGED" } else { "MULTIPLE_OF_ADDED" };
            out.push(Finding::new(path, rule, "the writer may have numbers that are no multiples of the reader's"));
        }
    }
}

fn texts(reader: At<'_>, writer: &Alternative<'_>, path: &str, out: &mut Vec<Finding>) {
    counts(reader, writer, ("minLength", "maxLength"), LENGTH, path, out);
    if let Some(pattern) = reader.get("pattern") {
        let mut patterns = writer.all.iter().filter_map(|at| at.get("pattern")).peekable();
        let rule = if patterns.peek().is_some() { "PATTERN_CHANGED" } else { "PATTERN_ADDED" };
        if !patterns.any(|given| given == pattern) {
            out.push(Finding::new(path, rule, "the writer may have texts that do not match the reader's pattern"));
        }
    }
}

/// Names of rules: least added and increased, most added and decreased.
pub(super) type CountRules = [&'static str; 4];
const LENGTH: CountRules = ["MIN_LENGTH_ADDED", "MIN_LENGTH_INCREASED", "MAX_LENGTH_ADDED", "MAX_LENGTH_DECREASED"];
const ITEMS: CountRules = ["MIN_ITEMS_ADDED", "MIN_ITEMS_INCREASED", "MAX_ITEMS_ADDED", "MAX_ITEMS_DECREASED"];

pub(super) fn counts(
    reader: At<'_>,
    writer: &Alternative<'_>,
    (least, most): (&str, &str),
    rules: CountRules,
    path: &str,
    out: &mut Vec<Finding>,
) {
    let given = writer.least(least);
    if let Some(asked) = reader.count(least).filter(|asked| given.unwrap_or(0) < *asked) {
        let message = format!("the reader wants {least} {asked}, the writer has {}", said(given));
        out.push(Finding::new(path, if given.is_some() { rules[1] } else { rules[0] }, message));
    }
    let given = writer.most(most);
    if let Some(asked) = reader.count(most).filter(|asked| given.is_none_or(|given| given > *asked)) {
        let message = format!("the reader wants {most} {asked}, the writer has {}", said(given));
        out.push(Finding::new(path, if given.is_some() { rules[3] } else { rules[2] }, message));
    }
}

fn said(count: Option<u64>) -> String {
    count.map_or("none".to_owned(), |count| count.to_string())
}

/// Keywords that belong together and that nothing here follows: they hold where the writer has the same.
const GROUPS: &[&[&str]] = &[
    &["if", "then", "else"],
    &["contains", "minContains", "maxContains"],
    &["dependencies"],
    &["dependentRequired"],
    &["dependentSchemas"],
    &["propertyNames"],
    &["$dynamicRef"],
    &["$recursiveRef"],
];

fn unknown_keywords(reader: At<'_>, writer: &Alternative<'_>, path: &str, out: &mut Vec<Finding>) {
    for group in GROUPS {
        let asked = |at: At<'_>| group.iter().map(|key| at.get(key).cloned()).collect::<Vec<_>>();
        let wanted = asked(reader);
        if wanted.iter().all(Option::is_none) {
            continue;
        }
        let plain = !wanted.iter().flatten().any(mentions_refs) && !group[0].starts_with('$');
        if !(plain && writer.all.iter().any(|at| asked(*at) == wanted)) {
            out.push(not_understood(path, format_args!("the reader's {:?} is new or another one", group[0])));
        }
    }
    for key in ["unevaluatedProperties", "unevaluatedItems"] {
        // They depend on all that stands around them.
        if reader.get(key).is_some_and(|value| value != &Value::Bool(true)) {
            out.push(not_understood(path, format_args!("the reader has {key:?}, and the schema around it changed")));
        }
    }
}
