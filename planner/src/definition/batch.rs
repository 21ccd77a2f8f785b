//! Batch manifests: conventions, defaults and overrides merged into one manifest for each table.
//!
//! Order: conventions, the file's `defaults`, the schema's `defaults`, the table's `overrides`, then `source.table`, then
//! names. Mappings merge deeply, lists replace, but `depends_on` and `transforms` append. Every value keeps its place.

use std::path::{Path, PathBuf};

use super::Files;
use super::check::{Checker, by_path};
use super::located::{Located, Place, Value, is_extension};
use super::naming::{self, Scope, snake};
use super::problems::Problems;
use super::schema::{SchemaKind, json_schema};
use super::vars::{self, Vars};
use super::yaml;
use crate::error::{Error, Result};

/// One table of a batch, merged and named, not checked yet.
#[derive(Debug)]
pub(super) struct Process {
    pub tree: Located,
    pub selector: String,
}

#[derive(Debug)]
pub(super) struct Expanded {
    pub processes: Vec<Process>,
    /// What the file asks for as a whole and does not get.
    pub warnings: Vec<String>,
}

/// Whether the file says that it is more than one process.
pub(super) fn is_batch(tree: &Located) -> bool {
    tree.get("kind").is_some()
}

/// One layer of a batch: a convention, the file, a schema or a table.
#[derive(Default, Clone, Copy)]
struct Layer<'a> {
    vars: Option<&'a Located>,
    naming: Option<&'a Located>,
    process: Option<&'a Located>,
}

impl<'a> Layer<'a> {
    fn of(node: &'a Located, process: &str) -> Self {
        Self { vars: node.get("vars"), naming: node.get("naming"), process: node.get(process) }
    }
}

pub(super) fn expand(tree: &Located, vars: &Vars, files: &dyn Files) -> Result<Expanded> {
    let mut checker = Checker::new(json_schema(SchemaKind::Batch), tree, &by_path).with_templates();
    checker.document();
    let of_file = |path: &str| !path.contains('.') || path.starts_with("naming.");
    let warnings = checker.warnings_for(of_file);
    checker.problems.into_result()?;

    let conventions = conventions(tree, files)?;
    let mut layers: Vec<Layer<'_>> = conventions.iter().map(|node| Layer::of(node, "defaults")).collect();
    layers.push(Layer::of(tree, "defaults"));
    let mut problems = Problems::default();
    let mut processes: Vec<Process> = Vec::new();
    for schema in tree.get("schemas").map(Located::entries).unwrap_or_default() {
        if is_extension(&schema.key) {
            continue;
        }
        let of_schema = Layer::of(&schema.value, "defaults");
        for table in schema.value.get("tables").map(Located::items).unwrap_or_default() {
            let of_table = Layer::of(table, "overrides");
            let layers: Vec<_> = layers.iter().copied().chain([of_schema, of_table]).collect();
            let Some(process) = problems.keep(process(&schema.key, table, &layers, tree, vars)) else { continue };
            if let Some(first) = processes.iter().find(|known| known.selector == process.selector) {
                problems.push(
                    &table.at,
                    format!("two tables answer to the selector {:?}", process.selector),
                    Some(format!("the first one is on line {}; give one of them an id", first.tree.at.line)),
                );
            }
            processes.push(process);
        }
    }
    problems.into_result()?;
    Ok(Expanded { processes, warnings })
}

/// The conventions that the file names, as trees with `vars`, `naming` and `defaults`.
fn conventions(tree: &Located, files: &dyn Files) -> Result<Vec<Located>> {
    let mut found = Vec::new();
    for key in ["convention", "conventions"] {
        let Some(node) = tree.get(key) else { continue };
        let names: Vec<(&str, &Place)> = match &node.value {
            Value::String { text, .. } => text.split(',').map(|name| (name.trim(), &node.at)).collect(),
            _ => node.items().iter().filter_map(|item| Some((item.as_str()?, &item.at))).collect(),
        };
        for (name, at) in names {
            found.push(convention(name, at, files)?);
        }
    }
    Ok(found)
}

/// The convention that is built in.
const LANDING_RAW_V1: &str = r#"
naming:
  process_name: "{{ src_schema | dpone_snake }}_{{ src_table | dpone_snake }}__{{ sink.strategy.mode }}"
  sink_dataset: "landing__{{ vars.src_system | dpone_snake }}__{{ vars.src_database | dpone_snake }}"
  sink_table: "{{ src_schema | dpone_snake }}__{{ src_table | dpone_snake }}"
"#;

fn convention(name: &str, at: &Place, files: &dyn Files) -> Result<Located> {
    if name == "landing_raw_v1" {
        return yaml::parse(Path::new("landing_raw_v1"), LANDING_RAW_V1);
    }
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    if !matches!(extension, Some("yml" | "yaml")) {
        return Err(Error::configuration(format!("there is no convention {name:?}"))
            .at(at.location())
            .with_hint("write landing_raw_v1, or the path of a .yml file with vars, naming and defaults"));
    }
    let path: PathBuf = at.file.parent().map(|folder| folder.join(name)).unwrap_or_else(|| name.into());
    let text = files.read(&path).map_err(|error| {
        Error::configuration(format!("the convention {name:?} cannot be read: {}", error.message())).at(at.location())
    })?;
    let tree = yaml::parse(&path, &text)?;
    let mut problems = Problems::default();
    let mut as_batch = tree.clone();
    for entry in tree.entries() {
        if matches!(entry.key.as_str(), "name" | "description" | "version") || is_extension(&entry.key) {
            as_batch.remove(&entry.key);
        } else if !matches!(entry.key.as_str(), "vars" | "naming" | "defaults") {
            let hint = "a convention holds vars, naming and defaults".to_owned();
            problems.push(&entry.key_at, format!("{} is not a key of a convention", entry.key), Some(hint));
            as_batch.remove(&entry.key);
        }
    }
    as_batch.set("kind", tree.at.clone(), Located::string("dpone.batch.v1", tree.at.clone()));
    as_batch.set("schemas", tree.at.clone(), Located::map(tree.at.clone()));
    let mut checker = Checker::new(json_schema(SchemaKind::Batch), &as_batch, &by_path).with_templates();
    checker.document();
    problems.keep(checker.problems.into_result());
    problems.into_result()?;
    Ok(tree)
}

/// One table, from all its layers.
fn process(schema: &str, table: &Located, layers: &[Layer<'_>], file: &Located, given: &Vars) -> Result<Process> {
    let name = table.as_str().or_else(|| table.get("table").and_then(Located::as_str)).unwrap_or_default();
    let mut vars = variables(layers, given);
    let mut process = Located::map(table.at.clone());
    let mut names = Located::map(table.at.clone());
    for layer in layers {
        if let Some(part) = layer.process {
            merge_process(&mut process, part);
        }
        if let Some(naming) = layer.naming {
            merge(&mut names, naming);
        }
    }
    if let Some(dependencies) = table.entry("depends_on") {
        let mut part = Located::map(table.at.clone());
        part.set("depends_on", dependencies.key_at.clone(), dependencies.value.clone());
        merge_process(&mut process, &part);
    }
    process.at = table.at.clone();
    inject_source(&mut process, schema, name, &table.at);

    let templates = vars.clone();
    vars.insert("src_schema".to_owned(), schema.to_owned());
    vars.insert("src_table".to_owned(), name.to_owned());
    let mut problems = Problems::default();
    vars::fill(&mut process, &vars, &mut problems);
    problems.into_result()?;
    let scope =
        Scope { src_schema: schema, src_table: name, vars: &templates, process: &process.clone(), manifest: &file.at };
    apply_names(&mut process, &names, &scope)?;
    let selector = match table.get("id").and_then(Located::as_str) {
        Some(id) => id.to_owned(),
        None => format!("{schema}.{name}"),
    };
    Ok(Process { tree: process, selector })
}

/// Inner layers win, and the command line wins over all.
fn variables(layers: &[Layer<'_>], given: &Vars) -> Vars {
    let mut vars = Vars::new();
    for entry in layers.iter().filter_map(|layer| layer.vars).flat_map(Located::entries) {
        let text = match entry.value.to_json() {
            serde_json::Value::String(text) => text,
            serde_json::Value::Null => continue,
            other => other.to_string(),
        };
        vars.insert(entry.key.clone(), text);
    }
    vars.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
    vars
}

/// `source.table`, where the source has tables and the definition does not name another.
fn inject_source(process: &mut Located, schema: &str, name: &str, at: &Place) {
    let kind = process.path("source.type").and_then(Located::as_str).unwrap_or_default();
    let query = process.path("source.options.query").is_some_and(|query| query.value != Value::Null);
    if query || matches!(kind, "api" | "rest" | "rest_api" | "kafka") {
        return;
    }
    set_missing(process, "source.table.schema", schema, at);
    set_missing(process, "source.table.name", name, at);
}

fn set_missing(process: &mut Located, path: &str, text: &str, at: &Place) {
    if process.path(path).is_none_or(|value| value.value == Value::Null) {
        process.set_path(path, at, Located::string(text, at.clone()));
    }
}

/// What is named explicitly keeps its name.
fn apply_names(process: &mut Located, names: &Located, scope: &Scope<'_>) -> Result<()> {
    let topic = process.path("sink.type").and_then(Located::as_str) == Some("kafka");
    let mut problems = Problems::default();
    for (key, path) in [
        ("process_name", "name"),
        ("sink_dataset", if topic { "" } else { "sink.table.schema" }),
        ("sink_table", if topic { "sink.topic" } else { "sink.table.name" }),
        ("task_group", "task_group"),
        ("description", "description"),
    ] {
        let Some(template) = names.get(key).filter(|template| template.value != Value::Null) else { continue };
        if path.is_empty() || process.path(path).is_some_and(|value| value.value != Value::Null) {
            continue;
        }
        if let Some(name) = problems.keep(naming::render(key, template, scope)) {
            set_missing(process, path, &name, &template.at);
        }
    }
    problems.into_result()?;
    let default = snake(&format!("{}_{}", scope.src_schema, scope.src_table));
    let at = process.at.clone();
    set_missing(process, "name", &default, &at);
    Ok(())
}

/// Merges a part of a process into it.
fn merge_process(base: &mut Located, over: &Located) {
    for key in ["depends_on", "transforms"] {
        if let (Some(Value::List(known)), Some(Value::List(more))) =
            (base.get(key).map(|node| &node.value), over.get(key).map(|node| &node.value))
        {
            let all = known.iter().chain(more).cloned().collect();
            let at = base.place(key).clone();
            let mut rest = over.clone();
            rest.remove(key);
            base.set(key, at.clone(), Located { value: Value::List(all), at });
            return merge_process(base, &rest);
        }
    }
    merge(base, over);
}

/// Mappings merge deeply; everything else replaces. An empty value takes a key out.
fn merge(base: &mut Located, over: &Located) {
    for entry in over.entries() {
        let Value::Map(known) = &mut base.value else { return };
        match known.iter_mut().find(|known| known.key == entry.key) {
            Some(known) if matches!((&known.value.value, &entry.value.value), (Value::Map(_), Value::Map(_))) => {
                merge(&mut known.value, &entry.value);
            }
            _ => base.set(&entry.key, entry.key_at.clone(), entry.value.clone()),
        }
    }
}
