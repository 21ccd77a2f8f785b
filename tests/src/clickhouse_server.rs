//! A ClickHouse server of one test's own: to be killed, or in another time zone.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::environment;

/// A server on a data folder, which both end with the value.
#[derive(Debug)]
pub struct ClickHouseServer {
    process: Child,
    port: u16,
    zone: String,
    data: TempDir,
}

impl ClickHouseServer {
    /// Starts one whose clock is that of `zone`.
    pub fn start(zone: &str) -> Self {
        let data = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = process(data.path(), port, zone);
        let this = Self { process, port, zone: zone.to_owned(), data };
        this.wait();
        this
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, on the same data and port.
    pub fn restart(&mut self) {
        self.process = process(self.data.path(), self.port, &self.zone);
        self.wait();
    }

    fn wait(&self) {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "ClickHouse did not begin to listen within a minute");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn process(data: &Path, port: u16, zone: &str) -> Child {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "servers", "clickhouse_http.py"].iter().collect();
    let mut command = Command::new(environment("DPONE_TEST_PYTHON"));
    command.arg(script).arg("--port").arg(port.to_string()).arg("--data").arg(data.join("server")).env("TZ", zone);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ClickHouse starts")
}

impl Drop for ClickHouseServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
