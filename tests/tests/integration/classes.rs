//! The class of an error says whose turn it is, and whether to try again: real errors of real servers, and of files.

use std::process::Stdio;

use dpone_tests::{Outcome, Pg, Project};
use serde_json::Value;

/// One pipeline that reads a query in PostgreSQL's own dialect.
fn project(url: &str, sql: &str) -> Project {
    let project = Project::new().env("SHOP_URL", url);
    let manifest = format!(
        "name: classes\nsource:\n  type: postgres\n  connection_type: params\n  connection_id: {{url: 'env:SHOP_URL'}}\n  options:\n    query: {{sql: {}}}\n\
         sink:\n  type: delta\n  path: lake\n  table: {{schema: landing, name: out}}\n  strategy: {{mode: full_refresh}}\n",
        serde_json::to_string(sql).unwrap()
    );
    project.write("load.yml", manifest);
    project
}

const RUN: [&str; 6] = ["run", "load.yml", "--format", "json", "--run-id", "r"];

fn run(project: &Project) -> Outcome {
    project.dpone(&[&RUN[..], &["--retry-attempts", "2", "--retry-backoff-seconds", "0.01"]].concat())
}

/// Fails with this class; the evidence counts an attempt a try, each with the class.
#[track_caller]
fn fails(project: &Project, class: &str, code: &str) {
    let outcome = run(project);
    let document = outcome.json();
    assert_eq!(document["result"]["error_class"], class, "{}", outcome.text());
    assert!(document["error"]["message"].as_str().unwrap().contains(code), "{}", outcome.text());
    let again = if class == "transient" { 2 } else { 0 };
    let retries = document["retries"].as_array().unwrap();
    assert_eq!((document["attempts"].as_u64(), retries.len()), (Some(again + 1), again as usize), "{}", outcome.text());
    assert!(retries.iter().all(|retry| retry["error_class"] == class && retry["wait_seconds"].as_f64() <= Some(0.02)));
}

/// A role of its own for one test: it is gone with its database's grants.
fn role(pg: &Pg, name: &str, more: &str) -> (String, String) {
    let database = pg.value("SELECT current_database()");
    let role = format!("{name}_{database}");
    pg.execute(&format!("CREATE ROLE {role} LOGIN {more}"));
    (pg.url().replace("postgres://postgres", &format!("postgres://{role}")), role)
}

fn drop_role(pg: &Pg, role: &str) {
    pg.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn what_a_query_meets_has_the_class_of_its_code() {
    let pg = Pg::new();
    pg.execute(
        "CREATE TABLE numbers (n int, t text); INSERT INTO numbers VALUES (0, 'x');
         CREATE FUNCTION fail(code text) RETURNS int LANGUAGE plpgsql VOLATILE AS
         $$ BEGIN RAISE EXCEPTION 'said so' USING ERRCODE = code; END $$",
    );
    let raised = |code: &str| format!("SELECT fail('{code}') AS n FROM numbers");
    for (sql, class, code) in [
        ("SELECT 1 / n AS n FROM numbers".to_owned(), "data_quality", "22012"),
        ("SELECT t::int AS n FROM numbers".to_owned(), "data_quality", "22P02"),
        ("SELECT 2147483647 + n + 1 AS n FROM numbers".to_owned(), "data_quality", "22003"),
        ("SELECT * FROM no_such_table".to_owned(), "configuration", "42P01"),
        ("SELECT no_such_column FROM numbers".to_owned(), "configuration", "42703"),
        ("SELECT n FROM numbers, pg_terminate_backend(pg_backend_pid())".to_owned(), "transient", ""),
        (raised("40001"), "transient", "40001"),
        (raised("40P01"), "transient", "40P01"),
        (raised("53200"), "transient", "53200"),
        (raised("57P03"), "transient", "57P03"),
        (raised("23505"), "data_quality", "23505"),
        (raised("42501"), "authorization", "42501"),
        (raised("53100"), "unknown", "53100"),
        (raised("XX000"), "unknown", "XX000"),
    ] {
        fails(&project(pg.url(), &sql), class, code);
    }
}

#[test]
fn what_a_role_may_not_do_is_told_from_what_takes_too_long() {
    let pg = Pg::new();
    pg.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)");
    let (url, name) = role(&pg, "reader", "");
    fails(&project(&url, "SELECT * FROM orders"), "authorization", "42501");
    pg.execute(&format!("GRANT SELECT ON orders TO {name}; ALTER ROLE {name} SET statement_timeout = '300ms'"));
    fails(&project(&url, "SELECT id FROM orders, pg_sleep(20)"), "transient", "57014");
    pg.execute(&format!("ALTER ROLE {name} RESET statement_timeout; ALTER ROLE {name} SET lock_timeout = '200ms'"));
    let (runtime, other) = dpone_tests::connect(pg.url());
    runtime.block_on(other.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")).unwrap();
    fails(&project(&url, "SELECT * FROM orders"), "transient", "55P03");
    runtime.block_on(other.batch_execute("ROLLBACK")).unwrap();
    pg.execute(&format!("ALTER ROLE {name} CONNECTION LIMIT 0"));
    fails(&project(&url, "SELECT * FROM orders"), "transient", "53300");
    pg.execute(&format!("ALTER ROLE {name} NOLOGIN"));
    fails(&project(&url, "SELECT * FROM orders"), "authorization", "28000");
    drop_role(&pg, &name);
    let database = pg.value("SELECT current_database()");
    let nowhere = pg.url().replace(&format!("/{database}"), "/no_such_database");
    fails(&project(&nowhere, "SELECT 1 AS n"), "configuration", "3D000");
    let away = "postgres://postgres@127.0.0.1:1/postgres?sslmode=disable";
    fails(&project(away, "SELECT 1 AS n"), "transient", "refused");
}

#[test]
fn a_limit_of_the_server_and_a_disk_that_is_full_are_no_passing_trouble() {
    let pg = Pg::new();
    let (url, name) = role(&pg, "sorter", "");
    pg.execute(&format!("ALTER ROLE {name} SET work_mem = '64kB'"));
    pg.execute(&format!("ALTER ROLE {name} SET temp_file_limit = '1MB'"));
    let sort = "SELECT n, md5(n::text) AS t FROM generate_series(1, 200000) n ORDER BY t";
    fails(&project(&url, sort), "configuration", "53400");
    drop_role(&pg, &name);
}

/// Waits until another session is asleep inside of a statement.
fn wait_for_sleep(pg: &Pg) {
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    for _ in 0..2000 {
        if pg.value(asleep) != "0" {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("no session sleeps");
}

/// A load whose target has a trigger: it waits, and then counts what was written in a row that others count in as well.
fn counting_target(pg: &Pg, seconds: f64) -> Project {
    pg.execute(&format!(
        "CREATE TABLE source (id int); INSERT INTO source VALUES (1);
         CREATE TABLE target (id int); CREATE TABLE counter (n int); INSERT INTO counter VALUES (0);
         CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           PERFORM n FROM counter;
           PERFORM pg_sleep({seconds});
           UPDATE counter SET n = n + 1;
           RETURN NULL; END $$;
         CREATE TRIGGER counts AFTER INSERT ON target FOR EACH STATEMENT EXECUTE FUNCTION count_it()"
    ));
    let project = Project::new().env("SHOP_URL", pg.url());
    project.write(
        "load.yml",
        "name: counted\nsource: {type: postgres, connection_type: params, connection_id: {url: 'env:SHOP_URL'}, table: {schema: public, name: source}}\n\
         sink:\n  type: postgres\n  connection_type: params\n  connection_id: {url: 'env:SHOP_URL'}\n  table: {schema: public, name: target}\n  \
         strategy: {mode: full_refresh, overwrite_type: truncate_insert}\n",
    );
    project
}

fn spawn(project: &Project) -> std::process::Child {
    let arguments = [&RUN[..], &["--retry-attempts", "3", "--retry-backoff-seconds", "0.1"]].concat();
    project.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The run passed in the end, after an attempt that failed with this code.
#[track_caller]
fn passed_after(running: std::process::Child, code: &str) {
    let ended = Outcome::new(&["run"], running.wait_with_output().unwrap()).ok();
    let document = ended.json();
    let retry = &document["retries"][0];
    assert_eq!(
        (retry["error_class"].as_str(), retry["attempt"].as_u64()),
        (Some("transient"), Some(1)),
        "{}",
        ended.text()
    );
    assert!(retry["message"].as_str().unwrap().contains(code), "{}", ended.text());
}

#[test]
fn a_transaction_that_cannot_be_serialised_is_tried_again_and_passes() {
    let pg = Pg::new();
    let database = pg.value("SELECT current_database()");
    let project = counting_target(&pg, 1.0);
    pg.execute(&format!("ALTER DATABASE \"{database}\" SET default_transaction_isolation = 'repeatable read'"));
    let running = spawn(&project);
    wait_for_sleep(&pg);
    // Another session counts in between: what this transaction read is no longer what is there.
    pg.execute("UPDATE counter SET n = n + 10");
    passed_after(running, "40001");
    assert_eq!(pg.value("SELECT n FROM counter"), "11");
    assert_eq!(pg.value("SELECT count(*) FROM target"), "1");
}

#[test]
fn a_session_that_the_administrator_ends_is_tried_again_and_passes() {
    let pg = Pg::new();
    let project = counting_target(&pg, 1.0);
    let running = spawn(&project);
    wait_for_sleep(&pg);
    pg.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    );
    passed_after(running, "");
    assert_eq!(pg.value("SELECT concat_ws(' ', n, (SELECT count(*) FROM target)) FROM counter"), "1 1");
}

#[test]
fn a_lock_on_the_target_that_is_not_to_be_had_in_time_is_tried_again() {
    let pg = Pg::new();
    let database = pg.value("SELECT current_database()");
    let project = counting_target(&pg, 0.0);
    pg.execute(&format!("ALTER DATABASE \"{database}\" SET lock_timeout = '200ms'"));
    let (runtime, other) = dpone_tests::connect(pg.url());
    runtime.block_on(other.batch_execute("BEGIN; LOCK TABLE target IN ACCESS EXCLUSIVE MODE")).unwrap();
    let running = spawn(&project);
    let evidence = project.path(".dpone/runs/r/run.json");
    let retried =
        || std::fs::read_to_string(&evidence).is_ok_and(|text| text.contains("\"error_class\": \"transient\""));
    for _ in 0..2000 {
        if retried() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    runtime.block_on(other.batch_execute("ROLLBACK")).unwrap();
    passed_after(running, "55P03");
}

#[test]
fn what_a_role_may_not_write_is_a_matter_of_grants() {
    let pg = Pg::new();
    pg.execute("CREATE TABLE source (id int); INSERT INTO source VALUES (1); CREATE SCHEMA closed");
    let (url, name) = role(&pg, "writer", "");
    pg.execute(&format!("GRANT SELECT ON source TO {name}"));
    let project = Project::new().env("SHOP_URL", url);
    project.write(
        "load.sql",
        "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:SHOP_URL');
         CREATE PIPELINE one INTO shop.closed.one STRATEGY full_refresh AS SELECT * FROM shop.public.source;",
    );
    project.run("load.sql", "r").failed("authorization").says("42501");
    drop_role(&pg, &name);
}

#[test]
fn a_deadlock_with_another_session_is_tried_again_and_passes() {
    let pg = Pg::new();
    pg.execute("CREATE TABLE a (id int); CREATE TABLE b (id int); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)");
    pg.execute(
        "CREATE FUNCTION take() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN
           PERFORM count(*) FROM a;
           PERFORM pg_sleep(0.2);
           PERFORM count(*) FROM b;
           RETURN 1; END $$;
         ALTER DATABASE current SET deadlock_timeout = '100ms'"
            .replace("current", &format!("\"{}\"", pg.value("SELECT current_database()")))
            .as_str(),
    );
    // The other session waits longer before it looks for a deadlock, so the run is the one that is cancelled.
    let (runtime, other) = dpone_tests::connect(pg.url());
    runtime
        .block_on(other.batch_execute("SET deadlock_timeout = '60s'; BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE"))
        .unwrap();
    let project = project(pg.url(), "SELECT take() AS n");
    let mut running =
        project.command(&[&RUN[..], &["--retry-attempts", "3", "--retry-backoff-seconds", "0.5"]].concat());
    let running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'b'::regclass";
    for _ in 0..2000 {
        if pg.value(waits) != "0" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // Held by the run: it waits for b, and this for a.
    runtime.block_on(other.batch_execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE; COMMIT")).unwrap();
    let ended = Outcome::new(&["run"], running.wait_with_output().unwrap()).ok();
    let document: Value = ended.json();
    assert_eq!(document["retries"][0]["error_class"], "transient", "{}", ended.text());
    assert!(document["retries"][0]["message"].as_str().unwrap().contains("40P01"), "{}", ended.text());
}

#[test]
fn what_a_target_refuses_is_a_matter_of_the_data() {
    let pg = Pg::new();
    pg.execute("CREATE TABLE source (n int, t text); INSERT INTO source VALUES (-1, 'SECRET_VALUE')");
    for (column, code) in [("n int CHECK (n > 0), t text", "23514"), ("n int, t text, m int NOT NULL", "")] {
        pg.execute(&format!("DROP TABLE IF EXISTS target; CREATE TABLE target ({column})"));
        let project = Project::new().env("SHOP_URL", pg.url());
        project.write(
            "load.sql",
            "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:SHOP_URL');
             CREATE PIPELINE one_table INTO shop.public.target STRATEGY full_refresh OPTIONS ('overwrite_type' 'truncate_insert')
             AS SELECT * FROM shop.public.source;",
        );
        let outcome = project.run("load.sql", "r");
        assert_ne!(outcome.code(), Some(0), "{}", outcome.text());
        if !code.is_empty() {
            assert_eq!(outcome.json()["result"]["error_class"], "data_quality", "{}", outcome.text());
            assert!(outcome.text().contains(code), "{}", outcome.text());
        }
        let kept = std::fs::read_to_string(project.path(".dpone/runs/r/run.json")).unwrap();
        assert!(!kept.contains("SECRET_VALUE") && !outcome.text().contains("SECRET_VALUE"));
    }
}

#[test]
fn files_that_are_missing_or_damaged_are_the_definitions_matter() {
    let load = |setup: &dyn Fn(&Project)| {
        let project = Project::new();
        project.write(
            "load.sql",
            "CREATE CONNECTION files TYPE file OPTIONS ('path' 'data');
             CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');
             CREATE PIPELINE one_table INTO lake.landing.one STRATEGY full_refresh AS SELECT * FROM files.files.one;",
        );
        setup(&project);
        project.run("load.sql", "r")
    };
    load(&|_| {}).failed("configuration");
    load(&|project| project.write("data/one.parquet", "this is no parquet")).failed("configuration");
    load(&|project| {
        project.write("data/one.csv", "id\n1\n");
        project.write("lake/landing/one/_delta_log/00000000000000000000.json", "{ not json");
    })
    .failed("configuration");
}
