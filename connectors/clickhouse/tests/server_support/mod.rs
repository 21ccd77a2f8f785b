//! The server that tests use, databases of their own, and a road to the server that breaks when it is told to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

pub(crate) mod listening;

use std::sync::atomic::{AtomicUsize, Ordering};

use dpone_clickhouse::client::Server;
use dpone_clickhouse::config::ClickHouseConfig;
use dpone_engine::{ResolvedConnection, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) fn url() -> String {
    std::env::var("DPONE_TEST_CLICKHOUSE_URL").expect("DPONE_TEST_CLICKHOUSE_URL: see scripts/servers")
}

pub(crate) fn connection(options: &[(&str, &str)]) -> ResolvedConnection {
    ResolvedConnection {
        name: "ch".into(),
        kind: "clickhouse".into(),
        options: options.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect(),
        base_dir: "/".into(),
    }
}

pub(crate) fn server(options: &[(&str, &str)]) -> Server {
    Server::new(ClickHouseConfig::new(&connection(options)).unwrap()).unwrap()
}

/// A database of this test's own, empty, and a server that uses it.
pub(crate) async fn database(name: &str) -> Server {
    let database = format!("dpone_{name}_{}", std::process::id());
    let outside = server(&[("url", &url())]);
    outside.run(format!("DROP DATABASE IF EXISTS {database} SYNC")).await.unwrap();
    outside.run(format!("CREATE DATABASE {database} ENGINE = Atomic")).await.unwrap();
    server(&[("url", &url()), ("database", &database)])
}

/// What happens to an answer on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Break {
    /// The connection ends after so many bytes.
    Cut(usize),
    /// The body ends properly, so many bytes early, with this text behind it.
    End { early: usize, then: &'static str },
}

/// A way to the server that breaks the answer to each query with `marker` in it. Gives its port.
pub(crate) async fn breaking(marker: &'static str, how: Break) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let authority = url().split("://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let authority = authority.rsplit('@').next().unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let authority = authority.clone();
            tokio::spawn(async move {
                let _ = relay(client, &authority, marker, how).await;
            });
        }
    });
    port
}

async fn relay(mut client: TcpStream, authority: &str, marker: &str, how: Break) -> std::io::Result<()> {
    let request = request(&mut client).await?;
    let mut server = TcpStream::connect(authority).await?;
    // One request on each connection, so that the answer ends where the connection does.
    let text = String::from_utf8_lossy(&request).into_owned();
    let (head, _) = text.split_once("\r\n").unwrap();
    let close = [format!("{head}\r\nConnection: close\r\n").as_bytes(), &request[head.len() + 2..]].concat();
    server.write_all(&close).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    let broken = if text.contains(marker) { broken(answer, how) } else { answer };
    client.write_all(&broken).await?;
    client.shutdown().await
}

async fn request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let read = client.read(&mut buffer).await?;
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if read == 0 || request.len() >= end + 4 + length.unwrap_or(0) {
            return Ok(request);
        }
    }
}

fn broken(answer: Vec<u8>, how: Break) -> Vec<u8> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    match how {
        Break::Cut(bytes) => answer[..(end + bytes).min(answer.len())].to_vec(),
        Break::End { early, then } => {
            let body = &answer[end..answer.len() - early];
            let head = String::from_utf8_lossy(&answer[..end]).into_owned();
            let head: Vec<&str> =
                head.split("\r\n").filter(|line| !line.to_lowercase().starts_with("content-length")).collect();
            let head = head.join("\r\n").replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut out = head.into_bytes();
            // The exception stands in a chunk of its own half the time: no reader may count on whole ones.
            for piece in [body, &then.as_bytes()[..then.len() / 2], &then.as_bytes()[then.len() / 2..]] {
                if !piece.is_empty() {
                    out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    out.extend_from_slice(piece);
                    out.extend_from_slice(b"\r\n");
                }
            }
            out.extend_from_slice(b"0\r\n\r\n");
            out
        }
    }
}

/// A number that no other test of this process has.
pub(crate) fn next() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
