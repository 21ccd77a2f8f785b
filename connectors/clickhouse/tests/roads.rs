//! The road to a server: certificates of both sides, proxies, what is sent along, and how much is read ahead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod server_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dpone_clickhouse::client::{Server, Statement};
use dpone_clickhouse::config::ClickHouseConfig;
use dpone_engine::{Error, ErrorKind};
use server_support::listening::{Certificates, Listening, proxy, respond};
use server_support::{connection, server, url};

fn opened(options: &[(&str, &str)]) -> Result<Server, Error> {
    Server::new(ClickHouseConfig::new(&connection(options))?)
}

/// Asks for the number 1.
async fn one(options: &[(&str, &str)]) -> Result<u8, Error> {
    opened(options)?.scalar("SELECT 1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate_where_one_is_asked_for() {
    let made = Certificates::new();
    made.sign("server", "DNS:localhost", "ca", "30");
    made.sign("client", "DNS:client", "ca", "30");
    made.sign("stranger", "DNS:client", "other", "30");
    let listening = Listening::one(Some(made.server("server", true)));
    let port = listening.port.to_string();
    let ca = made.text("ca.crt");
    let base =
        [("host", "localhost"), ("port", port.as_str()), ("secure", "true"), ("ca_cert", ca.as_str()), ("user", "me")];
    let (certificate, key) = (made.text("client.crt"), made.text("client.key"));
    let shown = [&base[..], &[("client_cert", certificate.as_str()), ("client_cert_key", key.as_str())]].concat();
    assert_eq!(one(&shown).await.unwrap(), 1);
    // It says who asks: there is no password beside it.
    let head = listening.last().to_lowercase();
    assert!(head.contains("x-clickhouse-ssl-certificate-auth: on") && head.contains("x-clickhouse-user: me"), "{head}");
    assert!(!head.contains("x-clickhouse-key"), "{head}");
    let texts = ["client.crt", "client.key"].map(|name| std::fs::read_to_string(made.path(name)).unwrap());
    let inline = [&base[..], &[("client_cert", texts[0].as_str()), ("client_cert_key", texts[1].as_str())]].concat();
    assert_eq!(one(&inline).await.unwrap(), 1);
    // With a password, the password does.
    assert_eq!(one(&[&shown[..], &[("password", "hunter2")]].concat()).await.unwrap(), 1);
    assert!(listening.last().to_lowercase().contains("x-clickhouse-key: hunter2"));

    let none = one(&base).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Configuration, "{none:?}");
    assert!(none.hint().unwrap().contains("client_cert"), "{none:?}");
    let (certificate, key) = (made.text("stranger.crt"), made.text("stranger.key"));
    let stranger = [&base[..], &[("client_cert", certificate.as_str()), ("client_cert_key", key.as_str())]].concat();
    assert_eq!(one(&stranger).await.unwrap_err().kind(), ErrorKind::Configuration);
    // A key of another certificate, and files that hold something else.
    let (certificate, wrong) = (made.text("client.crt"), made.text("stranger.key"));
    for (certificate, key) in
        [(&certificate, &wrong), (&certificate, &certificate), (&wrong, &wrong), (&ca, &"/nowhere".into())]
    {
        let given = [&base[..], &[("client_cert", certificate.as_str()), ("client_cert_key", key.as_str())]].concat();
        let error = opened(&given).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.message().contains("client_cert"), "{error}");
        assert!(!format!("{error:?}").contains("PRIVATE KEY"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_checked_of_a_server_is_what_was_asked_for() {
    let made = Certificates::new();
    made.sign("right", "DNS:localhost,IP:127.0.0.1", "ca", "30");
    made.sign("elsewhere", "DNS:elsewhere.example", "ca", "30");
    made.sign("forged", "DNS:localhost", "other", "30");
    made.sign("old", "DNS:localhost", "ca", "-1");
    let ca = made.text("ca.crt");
    for (name, verify, hint) in [
        ("right", "full", None),
        ("right", "ca", None),
        ("right", "none", None),
        ("elsewhere", "full", Some("verify: ca")),
        ("elsewhere", "ca", None),
        ("elsewhere", "none", None),
        ("forged", "full", Some("ca_cert")),
        ("forged", "ca", Some("ca_cert")),
        ("forged", "none", None),
        ("old", "full", Some("renew")),
        ("old", "ca", Some("renew")),
        ("old", "none", None),
    ] {
        if name == "old" && !made.path("old.crt").exists() {
            continue;
        }
        let listening = Listening::one(Some(made.server(name, false)));
        let port = listening.port.to_string();
        let options = [
            ("host", "localhost"),
            ("port", &port),
            ("secure", "1"),
            ("ca_cert", &ca),
            ("verify", verify),
            ("password", "hunter2"),
        ];
        match (one(&options).await, hint) {
            (Ok(found), None) => assert_eq!(found, 1),
            (Err(error), Some(hint)) => {
                assert_eq!(error.kind(), ErrorKind::Configuration, "{name} {verify}: {error:?}");
                assert!(error.hint().unwrap().contains(hint), "{name} {verify}: {error:?}");
                // Nobody who is not trusted was told the password.
                assert_eq!(listening.heads(), Vec::<String>::new(), "{name} {verify}");
            }
            (found, expected) => panic!("{name} with verify: {verify}: {found:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_gone_through_and_asked_by_its_own_password() {
    let made = Certificates::new();
    made.sign("server", "DNS:localhost", "ca", "30");
    let behind = Listening::one(Some(made.server("server", false)));
    let (port, ca) = (behind.port.to_string(), made.text("ca.crt"));
    // "a:b" in base64
    let gate = proxy(Some("Basic YTpi"));
    let way = format!("http://a:b@127.0.0.1:{}", gate.port);
    // Nobody listens there: whoever gets an answer went through the proxy.
    let plain = [("host", "clickhouse.invalid"), ("port", "8123"), ("proxy", way.as_str()), ("password", "hunter2")];
    assert_eq!(one(&plain).await.unwrap(), 1);
    assert!(gate.last().starts_with("POST http://clickhouse.invalid:8123/?"), "{}", gate.last());
    let secure = [
        ("host", "localhost"),
        ("port", port.as_str()),
        ("secure", "1"),
        ("ca_cert", ca.as_str()),
        ("proxy", way.as_str()),
        ("password", "hunter2"),
    ];
    assert_eq!(one(&secure).await.unwrap(), 1);
    assert!(gate.last().starts_with(&format!("CONNECT localhost:{port} ")), "{}", gate.last());
    assert!(!gate.last().contains("hunter2"), "the password is for the server alone: {}", gate.last());
    assert!(behind.last().contains("hunter2"));

    let wrong = format!("http://a:hunter3@127.0.0.1:{}", gate.port);
    for options in [
        [("host", "clickhouse.invalid"), ("port", "8123"), ("proxy", wrong.as_str()), ("secure", "0")],
        [("host", "localhost"), ("port", port.as_str()), ("proxy", wrong.as_str()), ("secure", "1")],
    ] {
        let error = one(&options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authorization, "{error:?}");
        assert!(format!("{error} {:?}", error.hint()).contains("proxy"), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter3"), "{error:?}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let off = format!("http://127.0.0.1:{free}");
    let error = one(&[("host", "clickhouse.invalid"), ("proxy", &off)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains(&format!("127.0.0.1:{free}")), "the proxy is named: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_credentials_are_sent_where_they_belong() {
    let listening = Listening::one(None);
    let port = listening.port.to_string();
    let settings = r#"{"max_threads": 4, "join_use_nulls": true, "session_timezone": "Asia/Tokyo"}"#;
    let options = [
        ("host", "127.0.0.1"),
        ("port", port.as_str()),
        ("user", "mé"),
        ("password", "hunter 2"),
        ("database", "a b"),
        ("settings", settings),
    ];
    assert_eq!(one(&options).await.unwrap(), 1);
    let head = listening.last();
    let line = head.lines().next().unwrap();
    for sent in
        ["max_threads=4", "join_use_nulls=1", "session_timezone=Asia%2FTokyo", "database=a+b", "query_id=dpone-"]
    {
        assert!(line.contains(sent), "{sent}: {line}");
    }
    assert!(!line.contains("hunter") && !line.contains("user"), "addresses are logged by many: {line}");
    assert!(head.to_lowercase().contains("x-clickhouse-key: hunter 2"), "{head}");
    // A statement's own comes before the connection's.
    let server = opened(&options).unwrap();
    server.scalar::<u8>(Statement::new("SELECT 1").setting("max_threads", 1)).await.unwrap();
    let line = listening.last().lines().next().unwrap().to_owned();
    assert!(line.contains("max_threads=1") && !line.contains("max_threads=4"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_others_are_told_by_their_status_alone() {
    for (status, kind) in [
        ("401 Unauthorized", ErrorKind::Authorization),
        ("403 Forbidden", ErrorKind::Authorization),
        ("407 Proxy Authentication Required", ErrorKind::Authorization),
        ("301 Moved Permanently", ErrorKind::Configuration),
        ("404 Not Found", ErrorKind::Configuration),
        ("413 Payload Too Large", ErrorKind::Configuration),
        ("429 Too Many Requests", ErrorKind::Transient),
        ("502 Bad Gateway", ErrorKind::Transient),
        ("503 Service Unavailable", ErrorKind::Transient),
        ("504 Gateway Timeout", ErrorKind::Transient),
    ] {
        let listening = Listening::new(None, move |_, road| respond(road, status, "<html>hunter2</html>"));
        let port = listening.port.to_string();
        let error = one(&[("host", "127.0.0.1"), ("port", &port)]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.message().contains(&status[..3]) && error.message().contains(&port), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    // Something that speaks, and is no database.
    let listening = Listening::new(None, |_, road| respond(road, "200 OK", "<html>hunter2</html>"));
    let error = one(&[("host", "127.0.0.1"), ("port", &listening.port.to_string())]).await.unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_packed_and_unpacked() {
    let sql = "SELECT number, toString(number % 7) FROM numbers(50000)";
    let mut found = Vec::new();
    for compression in ["none", "lz4"] {
        let server = server(&[("url", &url()), ("compression", compression)]);
        let mut read = server.read(Statement::new(sql), 8192).await.unwrap();
        let mut batches = Vec::new();
        while let Some(batch) = read.next().await.unwrap() {
            batches.push(batch);
        }
        found.push(arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap());
        let listening = Listening::one(None);
        let recording =
            opened(&[("host", "127.0.0.1"), ("port", &listening.port.to_string()), ("compression", compression)]);
        let _ = recording.unwrap().read(Statement::new(sql), 8192).await;
        let word = if compression == "lz4" { "compress=1" } else { "compress=0" };
        // What was no block is followed by the wish that the query be stopped.
        let head = listening.heads().remove(0);
        assert!(head.contains(word), "{head}");
    }
    assert_eq!(found[0].num_rows(), 50_000);
    assert_eq!(found[0], found[1]);
}

/// What the server sent for this, as it came.
async fn sent(sql: &str) -> Vec<u8> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(url()).query(&[("default_format", "Native"), ("query", sql)]).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    answer.bytes().await.unwrap().to_vec()
}

/// Reads what a server sends with this head and this body.
async fn read(head: &'static str, body: Vec<u8>) -> Result<usize, Error> {
    let listening = Listening::new(None, move |asked, road| {
        if asked.contains("KILL") {
            return respond(road, "200 OK", "");
        }
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        let head = head.replace("{length}", &length);
        let _ = road.write_all(&[b"HTTP/1.1 200 OK\r\n", head.as_bytes(), &body].concat());
    });
    let mut read = opened(&[("host", "127.0.0.1"), ("port", &listening.port.to_string())])?
        .read(Statement::new("SELECT 1"), 8192)
        .await?;
    let mut rows = 0;
    while let Some(batch) = read.next().await? {
        rows += batch.num_rows();
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_blocks_is_refused() {
    let sql = "SELECT number AS n, toString(number) AS s, [number] AS a, toNullable(number) AS o, \
               toLowCardinality('x') AS l FROM numbers(3)";
    let whole = sent(sql).await;
    assert_eq!(read("{length}", whole.clone()).await.unwrap(), 3);
    for end in 1..whole.len() {
        let error = read("{length}", whole[..end].to_vec()).await.expect_err("cut off");
        assert_eq!(error.kind(), ErrorKind::Transient, "{end}: {error}");
    }
    // What comes behind a block is another one, or says why there is none.
    assert_eq!(read("{length}", [whole.clone(), whole.clone()].concat()).await.unwrap(), 6);
    let said = b"Code: 241. DB::Exception: Memory limit exceeded: would use 9 GiB. (MEMORY_LIMIT_EXCEEDED)";
    let error = read("{length}", [&whole[..], said].concat()).await.unwrap_err();
    assert!(error.message().contains("241") && error.kind() == ErrorKind::Transient, "{error:?}");
    let marked =
        [&whole[..], b"\r\n__exception__\r\nabcdefgh\r\n", said, b"\n94 abcdefgh\r\n__exception__\r\n"].concat();
    let error = read("X-ClickHouse-Exception-Tag: abcdefgh\r\n{length}", marked).await.unwrap_err();
    assert!(error.message().contains("241"), "{error:?}");
    // By a server that does not mark them, behind one that says it does.
    let error =
        read("X-ClickHouse-Exception-Tag: abcdefgh\r\n{length}", [&whole[..], said].concat()).await.unwrap_err();
    assert!(error.message().contains("241"), "{error:?}");
    // Another table's block.
    let other = sent("SELECT number AS n, toString(number) AS s FROM numbers(3)").await;
    let error = read("{length}", [&whole[..], &other].concat()).await.unwrap_err();
    assert!(error.message().contains("the number of columns cannot be read"), "{error:?}");
    // As many rows as there can be, and none there; a length beyond all memory.
    let many = b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x01n\x06UInt64";
    let long = b"\x01\x01\x01s\x06String\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
    let keys = b"\x01\x01\x01l\x16LowCardinality(String)\x01\0\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01x\x01\0\0\0\0\0\0\0\x05";
    for body in [&many[..], long, keys, b"\0\0", b"<html>hunter2</html>"] {
        let error = read("{length}", body.to_vec()).await.unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    // The end of a connection says nothing about the end of an answer.
    for head in ["Connection: close\r\n\r\n", "Transfer-Encoding: identity\r\nConnection: close\r\n\r\n"] {
        let error = read(head, whole.clone()).await.unwrap_err();
        assert!(error.message().contains("does not say where it ends"), "{error:?}");
    }
}

/// However fast the server is, and however slow the reader: what is read ahead is what the sockets hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_pauses_holds_the_server_up() {
    const BATCH: usize = 1 << 20;
    const BATCHES: usize = 200;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let listening = Listening::new(None, move |head, road| {
        if head.contains("KILL") {
            return respond(road, "200 OK", "");
        }
        let block = [&[1, 0x80, 0x80, 0x08][..], b"\x01n\x05Int64", &[7; BATCH]].concat();
        assert_eq!(BATCH / 8, 0x08 << 14, "rows, as the block says");
        let _ = road.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..BATCHES {
            let piece = [format!("{:x}\r\n", block.len()).as_bytes(), &block, b"\r\n"].concat();
            if road.write_all(&piece).is_err() {
                return;
            }
            counted.fetch_add(piece.len(), Ordering::SeqCst);
        }
        let _ = road.write_all(b"0\r\n\r\n");
    });
    let server = opened(&[("host", "127.0.0.1"), ("port", &listening.port.to_string())]).unwrap();
    let mut read = server.read(Statement::new("SELECT n FROM endless"), BATCH / 8).await.unwrap();
    assert_eq!(read.next().await.unwrap().unwrap().num_rows(), BATCH / 8);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let ahead = sent.load(Ordering::SeqCst);
    assert!(ahead < 40 * BATCH, "{ahead} bytes were taken for one batch of {BATCH}");
    let mut rows = BATCH / 8;
    while let Some(batch) = read.next().await.unwrap() {
        rows += batch.num_rows();
    }
    assert_eq!(rows, BATCHES * BATCH / 8, "and nothing is lost by waiting");
}
