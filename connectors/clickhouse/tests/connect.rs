//! Reaching a server: who is let in, what TLS checks, what each failure is called, and that no broken answer passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod server_support;

use dpone_clickhouse::ClickHouseConnector;
use dpone_clickhouse::client::{Server, Statement};
use dpone_clickhouse::error::code_of;
use dpone_engine::{Connector, Error, ErrorKind};
use server_support::{Break, breaking, connection, database, server, url};

async fn rows_of(server: &Server, sql: &str) -> Result<usize, Error> {
    let mut read = server.read(Statement::new(sql), 1000).await?;
    let mut rows = 0;
    while let Some(batch) = read.next().await? {
        rows += batch.num_rows();
    }
    Ok(rows)
}

#[tokio::test]
async fn a_connection_is_tested_and_its_tables_are_listed() {
    let server = database("discover").await;
    server.run("CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id").await.unwrap();
    server.run("INSERT INTO t SELECT number FROM numbers(10)").await.unwrap();
    server.run("CREATE VIEW v AS SELECT id FROM t").await.unwrap();
    let options = [("url", url()), ("database", server.config().database.clone())];
    let options: Vec<_> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let source = ClickHouseConnector.source(&connection(&options)).unwrap();
    let info = source.test().await.unwrap();
    assert_eq!(info.system, "ClickHouse");
    assert_eq!(info.details["database"], server.config().database);
    assert_eq!(info.details["encryption"], "none");
    let found = source.relations().await.unwrap();
    let ours: Vec<_> = found
        .iter()
        .filter(|r| r.relation.schema == server.config().database)
        .map(|r| (r.relation.name.as_str(), r.kind.as_str(), r.rows))
        .collect();
    assert_eq!(ours, [("t", "table", Some(10)), ("v", "view", None)]);
}

#[tokio::test]
async fn failures_are_called_by_what_the_user_can_do() {
    let server = database("failures").await;
    server.run("CREATE TABLE t (id UInt8, d Date) ENGINE = MergeTree ORDER BY id").await.unwrap();
    for (sql, kind, code) in [
        ("SELECT * FROM nowhere", ErrorKind::Configuration, 60),
        ("SELECT nothing FROM t", ErrorKind::Configuration, 47),
        ("SELECT FROM WHERE", ErrorKind::Configuration, 62),
        ("SELECT toUInt8('hunter2')", ErrorKind::DataQuality, 6),
        ("SELECT throwIf(1, 'hunter2')", ErrorKind::DataQuality, 395),
        ("SELECT accurateCast(300, 'UInt8')", ErrorKind::DataQuality, 70),
        ("SELECT intDiv(1, 0)", ErrorKind::DataQuality, 153),
        ("SELECT sleep(3) SETTINGS max_execution_time = 1", ErrorKind::Transient, 159),
        (
            "SELECT groupArray(number) FROM numbers(50000000) SETTINGS max_memory_usage = 10000000",
            ErrorKind::Transient,
            241,
        ),
        ("CREATE TABLE t (id UInt8) ENGINE = Memory", ErrorKind::Configuration, 57),
        ("INSERT INTO t SELECT 1, 'hunter2'", ErrorKind::DataQuality, 38),
    ] {
        let error = server.run(sql).await.expect_err(sql);
        assert_eq!((error.kind(), code_of(&error)), (kind, Some(code)), "{sql}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let unknown = server.run(Statement::new("SELECT 1").setting("no_such_setting", 1)).await.unwrap_err();
    assert_eq!((unknown.kind(), code_of(&unknown)), (ErrorKind::Configuration, Some(115)), "{unknown}");
    let nowhere = server_support::server(&[("url", &url()), ("database", "no_such_database")]);
    let error = nowhere.run("SELECT 1").await.unwrap_err();
    assert_eq!((error.kind(), code_of(&error)), (ErrorKind::Configuration, Some(81)), "{error}");
}

#[tokio::test]
async fn a_setting_that_the_server_does_not_take_is_named() {
    for (name, value, code) in [
        ("max_threads", "many", 27),
        ("join_algorithm", "quick", 418),
        ("max_memory_usage", "-1", 72),
        ("date_time_input_format", "any", 36),
        ("no_such_setting", "1", 115),
    ] {
        let (wrong, right) = (format!("settings.{name}"), "settings.max_block_size");
        let server = server_support::server(&[("url", &url()), (&wrong, value), (right, "1000")]);
        let error = server.run("SELECT 1").await.unwrap_err();
        assert_eq!((error.kind(), code_of(&error)), (ErrorKind::Configuration, Some(code)), "{name}: {error}");
        let told = error.message().contains("connection's setting") && error.message().contains(&format!("{name:?}"));
        assert!(told && error.hint().is_some(), "{error}");
    }
    // An error of the statement is the statement's.
    let server = server_support::server(&[("url", &url()), ("settings.max_threads", "2")]);
    let error = server.run("SELECT toDate('x')").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality, "{error}");
    assert!(!error.message().contains("setting"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_worth_another_try() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = server(&[("host", "127.0.0.1"), ("port", &free.to_string())]).run("SELECT 1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("refused"), "{error}");
    let error = server(&[("host", "no-such-host.invalid")]).run("SELECT 1").await.unwrap_err();
    assert!(error.to_string().contains("cannot be resolved"), "{error}");
    // A port at which nobody answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let quiet = server(&[("host", "127.0.0.1"), ("port", &port), ("send_receive_timeout", "200ms")]);
    let error = quiet.run("SELECT 1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.hint().unwrap().contains("send_receive_timeout"), "{error:?}");
}

#[tokio::test]
async fn tls_checks_the_authority_and_the_name() {
    let (Ok(tls), Ok(ca)) =
        (std::env::var("DPONE_TEST_CLICKHOUSE_TLS_URL"), std::env::var("DPONE_TEST_CLICKHOUSE_TLS_CA"))
    else {
        assert!(std::env::var("DPONE_TEST_CLICKHOUSE_URL").is_ok(), "see scripts/servers");
        return;
    };
    let one = |options: &[(&str, &str)]| {
        let server = server(&[&[("url", tls.as_str())], options].concat());
        async move { server.scalar::<u8>("SELECT 1").await }
    };
    assert_eq!(one(&[("ca_cert", &ca)]).await.unwrap(), 1);
    let inline = std::fs::read_to_string(&ca).unwrap();
    assert_eq!(one(&[("ca_cert", &inline)]).await.unwrap(), 1);
    let untrusted = one(&[]).await.unwrap_err();
    assert_eq!(untrusted.kind(), ErrorKind::Configuration);
    assert!(untrusted.hint().unwrap().contains("ca_cert"), "{untrusted:?}");
    assert_eq!(one(&[("verify", "none")]).await.unwrap(), 1);
    // The certificate is for localhost and 127.0.0.1.
    let other = |verify: &'static str| {
        let server = server(&[("url", tls.as_str()), ("host", "127.0.0.2"), ("ca_cert", &ca), ("verify", verify)]);
        async move { server.scalar::<u8>("SELECT 1").await }
    };
    let misnamed = other("full").await.unwrap_err();
    assert!(misnamed.hint().is_some_and(|hint| hint.contains("name") || hint.contains("listen")), "{misnamed:?}");
    let wrong = one(&[("ca_cert", &ca), ("password", "hunter2")]).await.unwrap_err();
    assert_eq!((wrong.kind(), code_of(&wrong)), (ErrorKind::Authorization, Some(516)), "{wrong}");
    assert!(!format!("{wrong:?}").contains("hunter2"));
    // Encrypted words for a port that speaks plainly.
    let plain = url().replace("http://", "https://");
    let error = server(&[("url", &plain), ("ca_cert", &ca)]).run("SELECT 1").await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Internal, "{error:?}");
}

const OLD: &str = "Code: 241. DB::Exception: Memory limit (for query) exceeded. (MEMORY_LIMIT_EXCEEDED) \
                   (version 24.8.1.1 (official build))\n";

#[tokio::test]
async fn a_cut_answer_is_never_taken_for_a_whole_one() {
    let sql = "SELECT number, toString(number) FROM numbers(5000)";
    let whole = server(&[("url", &url())]);
    assert_eq!(rows_of(&whole, sql).await.unwrap(), 5000);
    // At the end of the answer stands the marker of 8 bytes; before it, a border between two messages.
    for how in [
        Break::Cut(0),
        Break::Cut(100),
        Break::Cut(20_000),
        Break::End { early: 8, then: "" },
        Break::End { early: 4, then: "" },
        Break::End { early: 9, then: "" },
        Break::End { early: 1000, then: "" },
    ] {
        let port = breaking("numbers(5000)", how).await.to_string();
        let error =
            rows_of(&server(&[("host", "127.0.0.1"), ("port", &port)]), sql).await.expect_err(&format!("{how:?}"));
        assert_eq!(error.kind(), ErrorKind::Transient, "{how:?}: {error}");
    }
    for early in [0, 8, 9, 1000] {
        let port = breaking("numbers(5000)", Break::End { early, then: OLD }).await.to_string();
        let error = rows_of(&server(&[("host", "127.0.0.1"), ("port", &port)]), sql).await.expect_err("an exception");
        assert_eq!(code_of(&error), Some(241), "{early}: {error}");
    }
}

#[tokio::test]
async fn what_is_sent_arrives_and_what_fails_says_why() {
    let server = database("insert").await;
    server.run("CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id").await.unwrap();
    let rows = |texts: Vec<Result<&'static str, Error>>| {
        futures::stream::iter(texts.into_iter().map(|text| text.map(|text| bytes::Bytes::from_static(text.as_bytes()))))
    };
    let into = || Statement::new("INSERT INTO t FORMAT TSV");
    let summary = server.insert(into(), rows(vec![Ok("1\n2\n"), Ok("3\n")])).await.unwrap();
    assert_eq!(summary.written_rows, 3);
    let error = server.insert(into(), rows(vec![Ok("4\n"), Ok("hunter2\n")])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality, "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
    // What stops the data is the error, and nothing of it is there.
    let stopped = Error::data_quality("no more");
    let error = server.insert(into(), rows(vec![Ok("5\n"), Err(stopped)])).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::DataQuality, "no more"));
    assert_eq!(server.scalar::<u64>("SELECT count() FROM t").await.unwrap(), 3);
}
