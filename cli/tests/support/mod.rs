//! Runs the binary in a folder of its own, and makes what it prints comparable.
#![allow(dead_code)] // Not every suite needs all of it.

pub mod schema;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder with a project in it.
pub struct Project {
    dir: TempDir,
}

impl Project {
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// What `dpone init` writes.
    pub fn starter() -> Self {
        let project = Self::empty();
        let made = project.dpone(&["init"]);
        assert_eq!(made.code, 0, "{made:?}");
        project
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // `scripts/test` names a copy, because another checkout may build over the one of a shared target folder.
        let built = std::env::var_os("DPONE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_dpone").into());
        let mut command = Command::new(built);
        command.args(args).current_dir(self.path());
        for name in [
            "DPONE_LEDGER",
            "DPONE_RUNS_DIR",
            "DPONE_DAG_ID",
            "DPONE_LOGICAL_DATE",
            "DPONE_BACKFILL_STATE_DIR",
            "RUST_LOG",
            "RUST_BACKTRACE",
            "NO_COLOR",
        ] {
            command.env_remove(name);
        }
        // Telemetry is what a test asks for.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("OTEL_") || name.starts_with("TRACE")) {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn dpone(&self, args: &[&str]) -> Ended {
        Ended::from(self.command(args).output().unwrap())
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// For a snapshot: code, stdout and stderr, without what differs from run to run.
    pub fn shown(&self, project: &Project) -> String {
        let text = format!("exit {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr);
        stable(&text.replace(&project.path().display().to_string(), "[project]"))
    }
}

/// Replaces identifiers, times, rates and sizes, each by what it is.
fn stable(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let mut words: Vec<String> = line.split(' ').map(word).collect();
        for i in 1..words.len() {
            let unit = words[i].trim_end_matches([',', '\n', ')']);
            let timed = ["s", "rows/s", "B", "kB", "MB", "B/s", "kB/s", "MB/s"].contains(&unit);
            let counts =
                words[i - 1].trim_start_matches('(').chars().all(|c| c.is_ascii_digit() || c == '.' || c == ',');
            if timed && counts && !words[i - 1].is_empty() {
                words[i - 1] = "[n]".to_owned();
            }
        }
        out.push_str(&words.join(" "));
    }
    out
}

fn word(word: &str) -> String {
    let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let ulid = core.len() == 26
        && core.starts_with("01")
        && core.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
    // Only clocks have this many digits; data in these tests is from 2024.
    let now = core.len() > 20 && core.ends_with('Z') && core.contains('T') && !core.starts_with("2024-");
    match (ulid, now) {
        (true, _) => word.replace(core, "[ulid]"),
        (_, true) => word.replace(core, "[now]"),
        _ => word.to_owned(),
    }
}
