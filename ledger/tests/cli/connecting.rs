//! Connection strings, TLS, and what stays secret.

use super::support::{Database, command, dpo, environment, finish};

#[test]
fn every_scheme_reaches_the_database() {
    let db = Database::postgres();
    let execution = db.completed_execution_of_nothing();
    let rest = db.url.split_once("://").unwrap().1;
    for scheme in ["postgresql+psycopg2", "postgresql", "postgres"] {
        let url = format!("{scheme}://{rest}");
        assert_eq!(dpo(db.path(), &[&url, "get-last-successful-execution"]).ok(), execution);
    }
}

#[test]
fn a_unix_socket_is_a_host() {
    let folder = tempfile::tempdir().unwrap();
    let socket = environment("DPONE_TEST_POSTGRES_SOCKET_DIR");
    let port = environment("DPONE_TEST_POSTGRES_URL").split([':', '/']).nth(4).unwrap().to_owned();
    let url = format!("postgresql:///postgres?host={socket}&port={port}&user=postgres");
    dpo(folder.path(), &[&url, "current"]).ok();
    let encoded = format!("postgresql+psycopg2://postgres@{}:{port}/postgres", socket.replace('/', "%2F"));
    dpo(folder.path(), &[&encoded, "current"]).ok();
    dpo(folder.path(), &[&format!("{url}&sslmode=require"), "current"]).fails(2, "a unix socket has no TLS");
}

#[test]
fn a_sqlite_path_is_relative_or_absolute() {
    let folder = tempfile::tempdir().unwrap();
    let absolute = format!("sqlite:///{}", folder.path().join("ledger.db").display());
    let execution = dpo(folder.path(), &["sqlite:///ledger.db", "init-execution"]).ok();
    dpo(folder.path(), &[&absolute, "complete-execution", &execution]).ok();
    assert!(folder.path().join("ledger.db").is_file());
    dpo(folder.path(), &["sqlite:///none/ledger.db", "init-execution"]).fails(1, "none/ledger.db cannot be opened");
    std::fs::write(folder.path().join("text.db"), "not a database, and long enough to be looked at".repeat(40))
        .unwrap();
    dpo(folder.path(), &["sqlite:///text.db", "init-execution"]).fails(1, "not a database");
    dpo(folder.path(), &["sqlite://", "init-execution"]).fails(2, "names no file");
    dpo(folder.path(), &["sqlite:///:memory:", "init-execution"]).fails(2, "in memory");
}

#[test]
fn a_connection_string_that_is_none_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    for (url, words) in [
        ("ledger.db", "has no scheme"),
        ("mysql://me:hunter2@h/d", "has the scheme \"mysql\""),
        ("postgresql://me:hunter2@h:port/d", "expected a port number"),
        ("postgresql://me:hunter2@h/d?sslmode=off", "\"sslmode\" has a value that is not supported"),
        ("postgresql://me:hunter2@h/d?color=1", "the parameter \"color\", which is not supported"),
        ("postgresql://me:hun%ter2@h/d", "invalid percent escape"),
        ("postgresql://me:hunter?2@h/d", "has a ? before its @"),
    ] {
        let outcome = dpo(folder.path(), &[url, "init-execution"]);
        assert!(!format!("{outcome:?}").contains("hun"), "{outcome:?}");
        outcome.fails(2, words);
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_named_without_the_password() {
    let folder = tempfile::tempdir().unwrap();
    for level in ["INFO", "DEBUG"] {
        let url = "postgresql+psycopg2://me:hunter2@127.0.0.1:1/d";
        let outcome = dpo(folder.path(), &["-l", level, url, "init-execution"]);
        assert!(outcome.code == 1 && outcome.stderr.contains("127.0.0.1:1 refused the connection"), "{outcome:?}");
        assert!(!outcome.stderr.contains("hunter2"), "{outcome:?}");
    }
    let url = "postgresql://me:hunter2@no.such.host.invalid/d?connect_timeout=20";
    dpo(folder.path(), &[url, "init-execution"]).fails(1, "no.such.host.invalid:5432");
}

#[test]
fn tls_is_verified_as_sslmode_says() {
    let folder = tempfile::tempdir().unwrap();
    let url = environment("DPONE_TEST_POSTGRES_TLS_URL");
    let authority = environment("DPONE_TEST_POSTGRES_TLS_CA");
    let password = url.split([':', '@']).nth(2).unwrap().to_owned();
    let last = |url: &str| {
        let outcome = dpo(folder.path(), &["-l", "DEBUG", url, "current"]);
        assert!(!format!("{outcome:?}").contains(&password), "{outcome:?}");
        outcome
    };
    assert_eq!(last(&url).code, 0);
    assert_eq!(last(&format!("{url}?sslmode=require")).code, 0);
    let refused = last(&format!("{url}?sslmode=verify-full"));
    assert!(refused.code == 1 && refused.stderr.contains("sslmode=verify-full"), "{refused:?}");
    assert_eq!(last(&format!("{url}?sslmode=verify-full&sslrootcert={authority}")).code, 0);
    let plain = last(&format!("{url}?sslmode=disable"));
    assert!(plain.code == 1 && plain.stderr.contains("pg_hba.conf"), "{plain:?}");
    let none = last(&format!("{url}?sslmode=verify-ca&sslrootcert=none.crt"));
    assert!(none.code == 2 && none.stderr.contains("none.crt"), "{none:?}");
    // The server's own refusal names the user alone.
    let wrong = dpo(folder.path(), &[&url.replace(&password, "hunter2"), "current"]);
    assert!(!wrong.stderr.contains("hunter2"), "{wrong:?}");
    wrong.fails(1, "28P01");
}

#[test]
fn the_password_may_come_from_the_environment_percent_encoded_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = environment("DPONE_TEST_POSTGRES_TLS_URL");
    let password = url.split([':', '@']).nth(2).unwrap().to_owned();
    let without = url.replace(&format!(":{password}"), "");
    dpo(folder.path(), &[&without, "current"]).fails(1, "for a password, and none is given");
    finish(command(folder.path(), &[&without, "current"]).env("PGPASSWORD", &password)).ok();
    let encoded: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
    dpo(folder.path(), &[&url.replace(&password, &encoded), "current"]).ok();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = folder.path().join(".pgpass");
        std::fs::write(&file, format!("*:*:*:postgres:{password}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        dpo(folder.path(), &[&without, "current"]).ok();
    }
}

impl Database {
    fn completed_execution_of_nothing(&self) -> String {
        let execution = self.init_execution();
        self.dpo(&["complete-execution", &execution]).ok();
        execution
    }
}
