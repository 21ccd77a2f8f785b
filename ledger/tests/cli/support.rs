//! Runs `dpo`, on a database of its own for each test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The value of an environment variable that `scripts/test` sets.
pub fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the tests with scripts/test, or start servers with scripts/servers and source its env file")
    })
}

/// What a command left behind.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// What it printed, without the line's end.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Checks for one line of error with some words in it, and nothing on stdout.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("dpo: error: ") && self.stderr.contains(words), "expected {words:?}: {self:?}");
    }
}

/// `dpo` with arguments, in a folder, and without the settings of whoever runs the tests.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpo"));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn finish(command: &mut Command) -> Outcome {
    let done = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: done.status.code().unwrap(), stdout: text(done.stdout), stderr: text(done.stderr) }
}

pub fn dpo(folder: &Path, arguments: &[&str]) -> Outcome {
    finish(&mut command(folder, arguments))
}

/// An empty database, a folder to work in, and the connection string.
pub struct Database {
    pub url: String,
    pub folder: TempDir,
    server: Option<Server>,
}

struct Server {
    runtime: Runtime,
    client: Client,
    url: String,
    name: String,
}

/// A SQLite file and the newest PostgreSQL.
pub fn each(test: impl Fn(&Database)) {
    test(&Database::sqlite());
    test(&Database::postgres());
}

/// A SQLite file and PostgreSQL 11 to 18.
pub fn every(test: impl Fn(&Database)) {
    test(&Database::sqlite());
    every_postgres(test);
}

pub fn every_postgres(test: impl Fn(&Database)) {
    let majors: Vec<u32> =
        (11..=18).filter(|major| std::env::var_os(format!("DPONE_TEST_POSTGRES_{major}_URL")).is_some()).collect();
    assert!(!majors.is_empty(), "{}", environment("DPONE_TEST_POSTGRES_18_URL"));
    for major in majors {
        test(&Database::on(&environment(&format!("DPONE_TEST_POSTGRES_{major}_URL"))));
    }
}

impl Database {
    pub fn sqlite() -> Self {
        Self { url: "sqlite:///ledger.db".to_owned(), folder: tempfile::tempdir().unwrap(), server: None }
    }

    pub fn postgres() -> Self {
        Self::on(&environment("DPONE_TEST_POSTGRES_URL"))
    }

    fn on(admin: &str) -> Self {
        let name = format!("dpo_test_{}", uuid::Uuid::new_v4().simple());
        let (runtime, client) = connect(admin);
        runtime.block_on(client.batch_execute(&format!("CREATE DATABASE {name}"))).unwrap();
        let url = admin.replacen("/postgres?", &format!("/{name}?"), 1);
        assert_ne!(url, admin, "a test server's URL names the database `postgres` and has parameters");
        let (runtime, client) = connect(&url);
        let server = Server { runtime, client, url: admin.to_owned(), name };
        let url = url.replacen("postgres://", "postgresql+psycopg2://", 1);
        Self { url, folder: tempfile::tempdir().unwrap(), server: Some(server) }
    }

    pub fn is_sqlite(&self) -> bool {
        self.server.is_none()
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `dpo <connection> …`
    pub fn dpo(&self, arguments: &[&str]) -> Outcome {
        dpo(self.path(), &self.arguments(arguments))
    }

    pub fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        std::iter::once(self.url.as_str()).chain(arguments.iter().copied()).collect()
    }

    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs statements on PostgreSQL.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        let server = self.server.as_ref().unwrap();
        server.runtime.block_on(server.client.batch_execute(sql)).unwrap_or_else(|e| panic!("{e:?}: {sql}"));
    }

    /// The rows of a query, columns joined by `|`. On SQLite the schema's name is taken off.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<String> {
        match &self.server {
            Some(server) => {
                let answers = server.runtime.block_on(server.client.simple_query(sql));
                let row = |answer| match answer {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|i| row.get(i).unwrap_or("∅").to_owned()).collect::<Vec<_>>().join("|"))
                    }
                    _ => None,
                };
                answers.unwrap_or_else(|e| panic!("{e:?}: {sql}")).into_iter().filter_map(row).collect()
            }
            None => {
                let connection = rusqlite::Connection::open(self.path().join("ledger.db")).unwrap();
                let mut statement = connection.prepare(&sql.replace("dpo.", "")).unwrap();
                let columns = statement.column_count();
                let text = |row: &rusqlite::Row<'_>| {
                    let value = |i| match row.get_ref(i)? {
                        rusqlite::types::ValueRef::Null => Ok("∅".to_owned()),
                        rusqlite::types::ValueRef::Integer(number) => Ok(number.to_string()),
                        other => Ok::<_, rusqlite::Error>(other.as_str()?.to_owned()),
                    };
                    Ok((0..columns).map(value).collect::<Result<Vec<_>, _>>()?.join("|"))
                };
                statement.query_map([], text).unwrap().map(Result::unwrap).collect()
            }
        }
    }

    pub fn init_execution(&self) -> String {
        self.dpo(&["init-execution"]).ok()
    }

    /// A step of the models under `models`.
    pub fn init_step(&self, execution: &str, name: &str) -> String {
        self.dpo(&["init-step", execution, name, "models", "**/*"]).ok()
    }

    /// An execution of one LOAD step, completed.
    pub fn completed_execution(&self) -> String {
        let execution = self.init_execution();
        let step = self.init_step(&execution, "LOAD");
        self.dpo(&["complete-step", &step]).ok();
        self.dpo(&["complete-execution", &execution]).ok();
        execution
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            let (runtime, client) = connect(&server.url);
            let end =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", server.name);
            let _ = runtime.block_on(client.batch_execute(&end));
            let _ = runtime.block_on(client.batch_execute(&format!("DROP DATABASE IF EXISTS {}", server.name)));
        }
    }
}

fn connect(url: &str) -> (Runtime, Client) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the test server answers");
        tokio::spawn(connection);
        client
    });
    (runtime, client)
}

/// A GUID that nothing has.
pub const NOBODY: &str = "00000000-0000-4000-8000-000000000000";
