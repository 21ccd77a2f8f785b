//! Both front doors, from text to project.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backfill;
mod batch;
mod documentation;
mod errors;
mod evolution;
mod sql;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::{Error, Result};

fn no_files(path: &Path) -> Result<String> {
    Err(Error::configuration(format!("{} does not exist", path.display())))
}

fn load_with(files: &[(&str, &str)], vars: &[(&str, &str)], reader: &dyn Files) -> Result<Project> {
    let inputs: Vec<_> = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    let vars: BTreeMap<_, _> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    load(&inputs, &vars, reader)
}

fn project(files: &[(&str, &str)]) -> Project {
    load_with(files, &[], &no_files).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The one pipeline of one file.
fn pipeline(path: &str, text: &str) -> Pipeline {
    project(&[(path, text)]).pipelines.remove(0)
}

/// How an error is shown: place, message, hint.
fn error(path: &str, text: &str) -> String {
    shown(load_with(&[(path, text)], &[], &no_files))
}

fn shown(result: Result<Project>) -> String {
    let error = result.expect_err("it loads, and should not");
    assert_eq!(error.kind(), crate::ErrorKind::Configuration, "{error:?}");
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}
