//! A PostgreSQL database of its own for each test.

use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The value of an environment variable that `scripts/test` sets.
#[track_caller]
pub fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the tests with scripts/test, or start servers with scripts/servers and source its env file")
    })
}

/// One connection, driven by a runtime of its own, so that tests stay plain functions.
pub fn connect(url: &str) -> (Runtime, Client) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the test server answers");
        tokio::spawn(connection);
        client
    });
    (runtime, client)
}

/// A database that is created for one test and dropped after it.
pub struct Pg {
    runtime: Runtime,
    client: Option<Client>,
    server: String,
    name: String,
    url: String,
}

impl std::fmt::Debug for Pg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl Pg {
    /// On the newest server.
    pub fn new() -> Self {
        Self::on(&environment("DPONE_TEST_POSTGRES_URL"))
    }

    /// On the server of one major version.
    pub fn major(major: u32) -> Self {
        Self::on(&environment(&format!("DPONE_TEST_POSTGRES_{major}_URL")))
    }

    pub fn on(server: &str) -> Self {
        let name = format!("dpone_test_{}", ulid::Ulid::generate().to_string().to_lowercase());
        let (admin_runtime, admin) = connect(server);
        admin_runtime.block_on(admin.batch_execute(&format!("CREATE DATABASE {name}"))).unwrap();
        let url = server.replacen("/postgres?", &format!("/{name}?"), 1);
        assert_ne!(url, server, "a test server's URL names the database `postgres` and has parameters");
        let (runtime, client) = connect(&url);
        Self { runtime, client: Some(client), server: server.to_owned(), name, url }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("connected until dropped")
    }

    /// Runs statements.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        if let Err(error) = self.runtime.block_on(self.client().batch_execute(sql)) {
            panic!("{}: {sql}", error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string));
        }
    }

    /// The first column of a query, as the server's text; NULL is `∅`.
    #[track_caller]
    pub fn column(&self, sql: &str) -> Vec<String> {
        let first = |row: Vec<Option<String>>| row.into_iter().next().flatten().unwrap_or_else(|| "∅".to_owned());
        self.table(sql).into_iter().map(first).collect()
    }

    /// The rows of a query, as the server's text.
    #[track_caller]
    pub fn table(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = match self.runtime.block_on(self.client().simple_query(sql)) {
            Ok(messages) => messages,
            Err(error) => {
                panic!("{}: {sql}", error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
            }
        };
        let texts = |m| match m {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        };
        messages.into_iter().filter_map(texts).collect()
    }

    /// The only value of a query.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let rows = self.column(sql);
        assert_eq!(rows.len(), 1, "one row: {sql}");
        rows.into_iter().next().unwrap()
    }

    #[track_caller]
    pub fn count(&self, table: &str) -> u64 {
        self.value(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
    }

    /// Every row of a table as the server's text of the whole row.
    #[track_caller]
    pub fn rows(&self, table: &str) -> Vec<String> {
        self.column(&format!("SELECT t::text FROM {table} t"))
    }

    pub fn exists(&self, table: &str) -> bool {
        self.value(&format!("SELECT to_regclass('{table}') IS NOT NULL")) == "t"
    }

    /// Tables that are ours to clean up: anything that looks like staging.
    pub fn leftovers(&self) -> Vec<String> {
        self.column(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
             AND c.relname LIKE '\\_\\_dpone\\_\\_%' \
             AND c.relname NOT IN ('__dpone__state', '__dpone__loads', '__dpone__leases', '__dpone__lease', \
             '__dpone__backfills', '__dpone__backfill_partitions')",
        )
    }

    /// `COPY (query) TO STDOUT`.
    #[track_caller]
    pub fn copy_out(&self, query: &str, options: &str) -> Vec<u8> {
        // Through the server's own text, so that the files that tests read were not written by us.
        self.runtime.block_on(async {
            let stream = self.client().copy_out(&format!("COPY ({query}) TO STDOUT WITH ({options})")).await.unwrap();
            let mut stream = std::pin::pin!(stream);
            let mut out = Vec::new();
            while let Some(chunk) = stream.next().await {
                out.extend_from_slice(&chunk.unwrap());
            }
            out
        })
    }
}

impl Default for Pg {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pg {
    fn drop(&mut self) {
        self.client = None;
        let name = &self.name;
        let (runtime, admin) = connect(&self.server);
        // Servers before 13 know no DROP DATABASE … WITH (FORCE); killed runs leave sessions behind for a moment.
        let drop = async {
            for _ in 0..50 {
                let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
                let _ = admin.simple_query(&end).await;
                if admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await.is_ok() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        runtime.block_on(drop);
    }
}
