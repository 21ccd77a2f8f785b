//! Definition files to a project.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::located::Located;
use super::lower::connection::Book;
use super::problems::Problems;
use super::vars::{self, Vars};
use super::{Pipeline, Project, batch, lower, sql, yaml};
use crate::error::{Error, Result};

/// Reads files that definitions name: queries and conventions. The planner opens nothing itself.
pub trait Files {
    fn read(&self, path: &Path) -> Result<String>;
}

impl<F: Fn(&Path) -> Result<String>> Files for F {
    fn read(&self, path: &Path) -> Result<String> {
        self(path)
    }
}

/// A parsed file.
pub(super) enum Definition {
    Manifest(Located),
    Sql(sql::Script),
}

/// Reads definition files (`.yml`, `.yaml`, `.sql`), each with its text, into one project. `vars` are the values of
/// `--var`. Connections of all files are known to all.
///
/// Fails with kind `configuration`; the error names file, line and column, and lists all mistakes that one stage found.
pub fn load(inputs: &[(PathBuf, String)], vars: &BTreeMap<String, String>, files: &dyn Files) -> Result<Project> {
    let definitions = inputs.iter().map(|(path, text)| parse(path, text, vars)).collect::<Result<Vec<_>>>()?;
    let mut book = Book::default();
    for definition in &definitions {
        if let Definition::Sql(script) = definition {
            for connection in &script.connections {
                book.define(connection.clone())?;
            }
        }
    }
    // Manifests first: the connections that they describe may be used in SQL.
    let mut lowered: Vec<Vec<Pipeline>> = vec![Vec::new(); definitions.len()];
    for (definition, pipelines) in definitions.iter().zip(&mut lowered) {
        if let Definition::Manifest(tree) = definition {
            *pipelines = manifests(tree, vars, files, &mut book)?;
        }
    }
    for (definition, pipelines) in definitions.iter().zip(&mut lowered) {
        if let Definition::Sql(script) = definition {
            *pipelines = sql::lower(script, &book)?;
        }
    }
    let pipelines: Vec<Pipeline> = lowered.into_iter().flatten().collect();
    check_names(&pipelines)?;
    Ok(Project { connections: book.into_connections(), pipelines })
}

pub(super) fn parse(path: &Path, text: &str, vars: &Vars) -> Result<Definition> {
    match path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("yml" | "yaml") => yaml::parse(path, text).map(Definition::Manifest),
        Some("sql") => sql::parse(path, text, vars).map(Definition::Sql),
        _ => Err(Error::configuration(format!("{} is neither a manifest nor SQL", path.display()))
            .with_hint("definitions end in .yml, .yaml or .sql")),
    }
}

fn manifests(tree: &Located, vars: &Vars, files: &dyn Files, book: &mut Book) -> Result<Vec<Pipeline>> {
    let (processes, mut warnings) = processes(tree, vars, files)?;
    let mut problems = Problems::default();
    let mut seen = BTreeSet::new();
    let mut pipelines = Vec::new();
    for (tree, selector) in &processes {
        let lowered = lower::manifest(tree, selector.clone(), files, book);
        let Some(mut pipeline) = problems.keep(lowered) else { continue };
        // What a whole file goes without is said once.
        warnings.append(&mut pipeline.warnings);
        pipeline.warnings = warnings.drain(..).filter(|warning| seen.insert(warning.clone())).collect();
        pipelines.push(pipeline);
    }
    problems.into_result()?;
    Ok(pipelines)
}

/// A process with its templates filled in, and its selector.
type Process = (Located, Option<String>);

/// The processes of one file, and the warnings of the file itself.
pub(super) fn processes(tree: &Located, vars: &Vars, files: &dyn Files) -> Result<(Vec<Process>, Vec<String>)> {
    if batch::is_batch(tree) {
        let expanded = batch::expand(tree, vars, files)?;
        let processes = expanded.processes.into_iter().map(|process| (process.tree, Some(process.selector))).collect();
        return Ok((processes, expanded.warnings));
    }
    let mut tree = tree.clone();
    let mut problems = Problems::default();
    vars::fill(&mut tree, vars, &mut problems);
    problems.into_result()?;
    Ok((vec![(tree, None)], Vec::new()))
}

fn check_names(pipelines: &[Pipeline]) -> Result<()> {
    let mut seen: BTreeMap<&str, &Pipeline> = BTreeMap::new();
    for pipeline in pipelines {
        if let Some(first) = seen.insert(&pipeline.name, pipeline) {
            return Err(Error::configuration(format!("the pipeline {:?} is defined twice", pipeline.name))
                .at(pipeline.location.clone())
                .with_hint(format!("the first one is at {}; state goes by the name", first.location)));
        }
    }
    Ok(())
}
