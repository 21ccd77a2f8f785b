//! From the files on the command line to pipelines, and to the surroundings that they run in.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dpone_engine::run::{RunContext, RunOptions};
use dpone_engine::{Connections, Connector, Error, Result};
use dpone_planner::definition::{self, Pipeline, Project};

use crate::args::{DefinitionArgs, DefinitionOptions};
use crate::render;
use crate::style::Style;

/// What a project is looked for under when no file is named.
const DEFAULT_FILES: [&str; 3] = ["dpone.sql", "dpone.yml", "dpone.yaml"];

/// Definitions that were read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) project: Project,
    pub(crate) connections: Arc<Connections>,
    /// Names given by --var that nothing refers to.
    unused_vars: Vec<String>,
}

impl DefinitionArgs {
    /// With values that definitions may refer to; those of --var go before them.
    pub(crate) fn load_with(&self, offered: &[(String, String)]) -> Result<Loaded> {
        load_with(&self.files, &self.vars.vars, offered)
    }

    pub(crate) fn load(&self) -> Result<Loaded> {
        load_with(&self.files, &self.vars.vars, &[])
    }
}

impl DefinitionOptions {
    pub(crate) fn load(&self) -> Result<Loaded> {
        load_with(&self.files, &self.vars.vars, &[])
    }
}

/// Each manifest, or SQL statement, as it will run: defaults, templates and variables filled in, secrets redacted.
pub(crate) fn render(definition: &DefinitionArgs) -> Result<Vec<serde_json::Value>> {
    let vars = definition.vars.vars.iter().cloned().collect();
    definition::render(&inputs(&definition.files)?, &vars, &|path: &Path| read(path))
}

/// The files with their texts, or the project of this folder when none is named.
fn inputs(files: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    let files = if files.is_empty() { default_files()? } else { files.to_vec() };
    files.into_iter().map(|file| read(&file).map(|text| (file, text))).collect()
}

/// `given` are the values of --var, `offered` those that definitions may use or not.
fn load_with(files: &[PathBuf], given: &[(String, String)], offered: &[(String, String)]) -> Result<Loaded> {
    let inputs = inputs(files)?;
    let vars = offered.iter().chain(given).cloned().collect();
    let texts = RefCell::new(inputs.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>());
    let project = definition::load(&inputs, &vars, &|path: &Path| {
        read(path).inspect(|text| texts.borrow_mut().push(text.clone()))
    })?;
    let texts = texts.into_inner();
    let unused = |name: &&String| !texts.iter().any(|text| refers_to(text, name));
    let unused_vars = given.iter().map(|(name, _)| name).filter(unused).cloned().collect();
    // Each connection's paths begin at the folder of the file that defines it.
    let connections = Arc::new(Connections::new(connectors(), project.connections.clone(), ""));
    Ok(Loaded { project, connections, unused_vars })
}

/// Whether a text has `${name}`, `{{ vars.name }}` or `{{ name }}`.
fn refers_to(text: &str, name: &str) -> bool {
    let in_braces = || {
        text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).any(|(inner, _)| {
            let inner = inner.trim();
            inner.strip_prefix("vars.").unwrap_or(inner) == name
        })
    };
    text.contains(&format!("${{{name}}}")) || in_braces()
}

/// A definition is written by people: what is larger is another file.
const MAX_DEFINITION_BYTES: u64 = 4 << 20;

fn read(path: &Path) -> Result<String> {
    let unreadable =
        |e: &dyn std::fmt::Display| Error::configuration(format!("{}: cannot be read: {e}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| unreadable(&e))?.len();
    if size > MAX_DEFINITION_BYTES {
        return Err(unreadable(&format_args!("a definition has at most {} MiB", MAX_DEFINITION_BYTES >> 20)));
    }
    let bytes = std::fs::read(path).map_err(|e| unreadable(&e))?;
    String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8"))
}

fn default_files() -> Result<Vec<PathBuf>> {
    let found: Vec<PathBuf> = DEFAULT_FILES.iter().map(PathBuf::from).filter(|file| file.is_file()).collect();
    if found.is_empty() {
        return Err(Error::configuration("no definition is named, and this folder has no dpone.sql or dpone.yml")
            .with_hint("name a file, or write a project to start from with `dpone init`"));
    }
    Ok(found)
}

/// Every system that this binary reaches.
pub(crate) fn connectors() -> Vec<Arc<dyn Connector>> {
    vec![
        Arc::new(dpone_files::FilesConnector),
        Arc::new(dpone_delta::DeltaConnector),
        Arc::new(dpone_postgres::PostgresConnector),
        Arc::new(dpone_clickhouse::ClickHouseConnector),
        Arc::new(dpone_null::NullConnector),
        Arc::new(dpone_memory::MemoryConnector::new()),
    ]
}

impl Loaded {
    /// What was given, or asked for, and has no effect: said once, before anything is done.
    pub(crate) fn warn(&self, pipelines: &[Pipeline], style: Style) {
        for name in &self.unused_vars {
            render::error::warn(&format!("--var {name} has no effect: no definition refers to ${{{name}}}"), style);
        }
        for pipeline in pipelines {
            for warning in &pipeline.warnings {
                render::error::warn(&format!("{}: {warning}", pipeline.name), style);
            }
        }
    }

    /// The pipelines to work on: all, or the one that the selector names.
    pub(crate) fn select(&self, selector: Option<&str>) -> Result<Vec<Pipeline>> {
        let all = &self.project.pipelines;
        if all.is_empty() {
            return Err(Error::configuration("the definition has no pipeline")
                .with_hint("add a CREATE PIPELINE statement, or a manifest with `source` and `sink`"));
        }
        let Some(selector) = selector else { return Ok(all.clone()) };
        let matched: Vec<&Pipeline> =
            all.iter().filter(|p| p.name == selector || p.selector.as_deref() == Some(selector)).collect();
        match matched.as_slice() {
            [one] => Ok(vec![(*one).clone()]),
            [] => Err(Error::configuration(format!("no pipeline is selected by {selector:?}"))
                .with_hint(format!("there are {}", names(all.iter())))),
            several => Err(Error::configuration(format!("{selector:?} selects {} pipelines", several.len()))
                .with_hint(format!("use a pipeline's own name: {}", names(several.iter().copied())))),
        }
    }

    pub(crate) fn context(&self, options: RunOptions) -> RunContext {
        RunContext::new(Arc::clone(&self.connections), options)
    }
}

/// `orders, customers (also public.customers)`
fn names<'a>(pipelines: impl Iterator<Item = &'a Pipeline>) -> String {
    let name = |p: &Pipeline| match &p.selector {
        Some(selector) if *selector != p.name => format!("{} (also {selector})", p.name),
        _ => p.name.clone(),
    };
    pipelines.map(name).collect::<Vec<_>>().join(", ")
}
