//! The `dpone` binary, run as a user runs it: in a folder, with definitions, with nothing else in its environment.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with definitions and data, and the environment that its runs see.
#[derive(Debug)]
pub struct Project {
    dir: TempDir,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Project {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), environment: Vec::new(), arguments: Vec::new() }
    }

    /// Sets an environment variable of the runs.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Adds an argument to every `dpone run`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.dir()).stdin(Stdio::null());
        // A developer's own PG* and DPONE_* variables, ~/.pgpass and the like must not decide what a test sees.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.dir());
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Runs `dpone` to its end.
    pub fn dpone(&self, arguments: &[&str]) -> Outcome {
        Outcome::new(arguments, self.command(arguments).output().expect("dpone starts"))
    }

    /// `dpone run FILE --run-id ID --format json`
    pub fn run(&self, file: &str, run_id: &str) -> Outcome {
        self.run_with_failpoint(file, run_id, "")
    }

    /// The same, with a failpoint: `step=action`.
    pub fn run_with_failpoint(&self, file: &str, run_id: &str, failpoint: &str) -> Outcome {
        let output = self.run_command(file, run_id, failpoint).output().expect("dpone starts");
        Outcome::new(&["run", file, "--run-id", run_id], output)
    }

    /// Starts a run and leaves it running.
    pub fn spawn(&self, file: &str, run_id: &str, failpoint: &str) -> Child {
        let mut command = self.run_command(file, run_id, failpoint);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("dpone starts")
    }

    fn run_command(&self, file: &str, run_id: &str, failpoint: &str) -> Command {
        let mut command = self.command(&["run", file, "--run-id", run_id, "--format", "json"]);
        command.args(&self.arguments).env("DPONE_FAILPOINT", failpoint);
        command
    }
}

impl Default for Project {
    fn default() -> Self {
        Self::new()
    }
}

/// `scripts/test` names the binary that it built; by hand, the one of the target directory is taken.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("DPONE_BIN") {
        return path.into();
    }
    // target/debug/deps/integration-… -> target/debug/dpone
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("dpone");
    let built = "cargo build -p dpone-cli --features dpone-engine/failpoints";
    assert!(path.exists(), "{} does not exist: build it with `{built}`, or set DPONE_BIN", path.display());
    path
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Outcome {
    what: String,
    output: Output,
}

impl Outcome {
    pub fn new(arguments: &[&str], output: Output) -> Self {
        Self { what: format!("dpone {}", arguments.join(" ")), output }
    }

    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// What it printed, all of it.
    pub fn text(&self) -> String {
        format!("{} ended with {}\n{}{}", self.what, self.output.status, self.stdout(), self.stderr())
    }

    /// What it printed, for a failed assertion: a document tells nothing about a failure that stderr does not.
    fn brief(&self) -> String {
        let stdout = if self.stdout().starts_with('{') { String::new() } else { self.stdout() };
        format!("{} ended with {}\n{stdout}{}", self.what, self.output.status, self.stderr())
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code() == Some(0), "{}", self.brief());
        self
    }

    /// Failed in the way of this kind: the exit code and the machine-readable class agree.
    #[track_caller]
    pub fn failed(self, kind: &str) -> Self {
        let code = if kind == "configuration" { 2 } else { 1 };
        assert!(self.code() == Some(code), "expected {kind}: {}", self.brief());
        assert_eq!(self.json()["result"]["error_class"], kind, "{}", self.text());
        self
    }

    #[track_caller]
    pub fn killed(self) -> Self {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(self.output.status.signal(), Some(9), "was to be killed: {}", self.text());
        self
    }

    /// What the user is told contains this.
    #[track_caller]
    pub fn says(self, what: &str) -> Self {
        assert!(self.stderr().contains(what) || self.stdout().contains(what), "{what:?} is not in: {}", self.brief());
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    pub fn status(&self) -> String {
        self.json()["result"]["status"].as_str().unwrap_or_default().to_owned()
    }

    /// A counter of the receipt: `inserted`, `updated`, `deleted`, `unchanged`, `extracted`, …
    #[track_caller]
    pub fn rows(&self, which: &str) -> u64 {
        self.json()["result"][format!("{which}_rows")]
            .as_u64()
            .unwrap_or_else(|| panic!("no count of {which} rows: {}", self.text()))
    }
}
