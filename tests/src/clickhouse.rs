//! A database on a ClickHouse server, asked over HTTP by a client that is not ours.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::environment;

/// A database that is made for one test and dropped after it.
#[derive(Debug)]
pub struct ClickHouse {
    url: String,
    authority: String,
    pub database: String,
}

impl Default for ClickHouse {
    fn default() -> Self {
        Self::new()
    }
}

impl ClickHouse {
    pub fn new() -> Self {
        Self::at(environment("DPONE_TEST_CLICKHOUSE_URL"))
    }

    /// On a server of the test's own.
    pub fn at(url: String) -> Self {
        let authority =
            url.split("://").nth(1).unwrap().split('/').next().unwrap().rsplit('@').next().unwrap().to_owned();
        let database = format!("dpone_test_{}", ulid::Ulid::generate().to_string().to_lowercase());
        let this = Self { url, authority, database };
        this.execute(&format!("CREATE DATABASE {} ENGINE = Atomic", this.database));
        this
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a statement; the server's answer, or its error.
    pub fn try_ask(&self, sql: &str) -> Result<String, String> {
        let database = if sql.starts_with("CREATE DATABASE") { "default" } else { &self.database };
        ask(&self.authority, database, sql)
    }

    /// The server's answer as it is: for binary formats.
    #[track_caller]
    pub fn bytes(&self, sql: &str) -> Vec<u8> {
        answer(&self.authority, &self.database, sql)
            .unwrap_or_else(|error| panic!("{}: {sql}", String::from_utf8_lossy(&error)))
    }

    /// Asks the same, over and over, until it is told to stop; gives the distinct answers in their order.
    pub fn poll(&self, sql: &str) -> impl FnOnce() -> Vec<String> + use<> {
        let (authority, database, sql) = (self.authority.clone(), self.database.clone(), sql.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen: Vec<String> = Vec::new();
            let mut last = false;
            while !last {
                last = stopped.load(Ordering::SeqCst);
                let found = ask(&authority, &database, &sql).unwrap_or_else(|error| error);
                if seen.last() != Some(&found) {
                    seen.push(found);
                }
            }
            seen
        });
        move || {
            stop.store(true, Ordering::SeqCst);
            thread.join().expect("the reader does not panic")
        }
    }

    #[track_caller]
    pub fn execute(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|error| panic!("{error}: {sql}"))
    }

    /// The only value of a query.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        self.execute(&format!("{sql} FORMAT TabSeparatedRaw")).trim_end_matches('\n').to_owned()
    }

    /// The rows of a query whose columns are texts or NULL.
    #[track_caller]
    pub fn table(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let answer = self.execute(&format!("{sql} FORMAT JSONCompactEachRow"));
        answer.lines().map(|line| serde_json::from_str(line).expect("rows of texts and nulls")).collect()
    }

    /// The first column of a query.
    #[track_caller]
    pub fn column(&self, sql: &str) -> Vec<String> {
        self.table(sql).into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_else(|| "∅".into())).collect()
    }

    pub fn exists(&self, table: &str) -> bool {
        self.value(&format!("EXISTS TABLE {}.{table}", self.database)) == "1"
    }

    /// Tables that are ours to clean up: anything that looks like staging.
    pub fn leftovers(&self) -> Vec<String> {
        self.column(&format!(
            "SELECT name FROM system.tables WHERE database = '{}' AND name LIKE '\\_\\_dpone\\_\\_stage%'",
            self.database
        ))
    }
}

fn ask(authority: &str, database: &str, sql: &str) -> Result<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("an answer in UTF-8");
    answer(authority, database, sql).map(text).map_err(text)
}

fn answer(authority: &str, database: &str, sql: &str) -> Result<Vec<u8>, Vec<u8>> {
    let mut stream = TcpStream::connect(authority).unwrap();
    let head =
        format!("POST /?database={database} HTTP/1.0\r\nHost: {authority}\r\nContent-Length: {}\r\n\r\n", sql.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sql.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer of HTTP");
    let body = answer.split_off(end + 4);
    let status = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match status.windows(5).any(|window| window == b" 200 ") {
        true => Ok(body),
        false => Err(body),
    }
}

impl Drop for ClickHouse {
    fn drop(&mut self) {
        let _ = self.try_ask(&format!("DROP DATABASE IF EXISTS {} SYNC", self.database));
    }
}
