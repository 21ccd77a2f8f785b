//! Processes that wake up late, connections that die, tables that change or vanish while they are loaded.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use dpone_tests::{Outcome, assert_same_rows, every_case};

use crate::hostile::{delta_lines, into_delta};
use crate::problems::{database, project};

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_run_that_slept_through_its_lease_commits_nothing() {
    every_case([true, false], |postgres| {
        let pg = database("CREATE TABLE shop.t (id int, at int); INSERT INTO shop.t VALUES (1, 1)");
        let (options, strategy) = ("incremental_column: at", "mode: incremental_append");
        let project = match postgres {
            true => project(&pg, "t", options, "t", strategy),
            false => into_delta(&pg, "t", options, strategy),
        };
        let project = project.argument("--lease-seconds").argument("1");
        project.run("load.yaml", "one").ok();
        pg.execute("INSERT INTO shop.t VALUES (2, 2)");
        let sleeper = project.spawn("load.yaml", "sleeper", "verified=sleep:2000");
        std::thread::sleep(Duration::from_millis(1200));
        signal(&sleeper, "-STOP");
        // The other takes the lease over when it has run out.
        let began = Instant::now();
        loop {
            let outcome = project.run("load.yaml", "other");
            if outcome.code() == Some(0) {
                assert_eq!(outcome.rows("inserted"), 1, "{}", outcome.text());
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{}", outcome.text());
            std::thread::sleep(Duration::from_millis(200));
        }
        signal(&sleeper, "-CONT");
        // The lease is another's; or the other has cleared the sleeper's staging away, and it could try again.
        let outcome = Outcome::new(&["run", "sleeper"], sleeper.wait_with_output().unwrap());
        assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
        let kind = outcome.json()["result"]["error_class"].clone();
        assert!(kind == "conflict" || kind == "transient", "{}", outcome.text());
        let rows = match postgres {
            true => pg.column("SELECT id FROM landing.t").len(),
            false => delta_lines(&project, &["id", "at"]).len(),
        };
        assert_eq!(rows, 2, "{}", outcome.text());
    });
}

#[test]
fn a_connection_that_dies_in_the_middle_leaves_nothing_and_the_next_run_is_right() {
    every_case(["staging.prepared", "stage.partition.done", "staged", "verified", "commit.begun"], |step| {
        let pg = database(
            "CREATE TABLE shop.t (id int PRIMARY KEY, v int); INSERT INTO shop.t SELECT i, i FROM generate_series(1, 500) i",
        );
        let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [id]");
        let project = project.argument("--lease-seconds").argument("1");
        project.run("load.yaml", "one").ok();
        let before = pg.rows("landing.t");
        pg.execute("UPDATE shop.t SET v = -v");
        let run = project.spawn("load.yaml", "two", &format!("{step}=sleep:1500"));
        std::thread::sleep(Duration::from_millis(1000));
        let cut = pg.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        assert_ne!(cut, "0", "the run was connected at {step}");
        let outcome = Outcome::new(&["run", "two"], run.wait_with_output().unwrap());
        // Failed, or tried again by itself: never a part.
        let rows = pg.rows("landing.t");
        if outcome.code() == Some(0) {
            assert_same_rows("tried again", pg.rows("shop.t"), rows);
        } else {
            outcome.failed("transient");
            assert_same_rows("failed", before, rows);
        }
        std::thread::sleep(Duration::from_millis(1100));
        project.run("load.yaml", "three").ok();
        assert_same_rows("the next run", pg.rows("shop.t"), pg.rows("landing.t"));
        assert_eq!(pg.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn a_source_that_is_truncated_in_the_middle_is_never_taken_for_empty() {
    let kinds = ["t", "v", "p", "query"];
    every_case(["lease.acquired", "staging.prepared", "stage.partition.started", "staged"], |step| {
        every_case(kinds, |kind| {
            let pg = database(
                "CREATE TABLE shop.t (id int PRIMARY KEY, v text); CREATE VIEW shop.v AS SELECT * FROM shop.t; \
                 CREATE TABLE shop.p (id int, v text) PARTITION BY LIST (id); \
                 CREATE TABLE shop.p_rest PARTITION OF shop.p DEFAULT",
            );
            let table = if *kind == "p" { "shop.p" } else { "shop.t" };
            pg.execute(&format!("INSERT INTO {table} SELECT i, repeat('x', 200) FROM generate_series(1, 900) i"));
            let strategy = "mode: full_refresh";
            let project = project(
                &pg,
                if *kind == "query" { "t" } else { kind },
                "partitioning: {export_workers: 4}",
                "l",
                strategy,
            );
            if *kind == "query" {
                let text = std::fs::read_to_string(project.path("load.yaml")).unwrap();
                let query = "query: {sql: 'SELECT * FROM shop.t'}";
                let text = text.replace("table: {schema: shop, name: \"t\"}, ", "");
                project.write("load.yaml", text.replace("partitioning: {export_workers: 4}", query));
            }
            let old = pg.rows(table);
            let run = project.spawn("load.yaml", "one", &format!("{step}=sleep:1500"));
            std::thread::sleep(Duration::from_millis(900));
            pg.execute(&format!(
                "TRUNCATE {table}; INSERT INTO {table} SELECT -i, 'new' FROM generate_series(1, 100) i"
            ));
            let outcome = Outcome::new(&["run", "one"], run.wait_with_output().unwrap());
            if outcome.code() == Some(0) {
                let found = pg.rows("landing.l");
                let expected = if found.len() == old.len() { old } else { pg.rows(table) };
                assert_same_rows(&format!("{kind}, truncated at {step}: {}", outcome.text()), expected, found);
            } else {
                let outcome = outcome.failed("transient").says("truncated");
                assert!(!pg.exists("landing.l") || pg.count("landing.l") == 0, "{}", outcome.text());
            }
            project.run("load.yaml", "two").ok();
            assert_same_rows("the next run", pg.rows(table), pg.rows("landing.l"));
        });
    });
}

#[test]
fn a_target_that_changes_under_a_load_stops_it_or_takes_it_whole() {
    let changes = [
        "DROP TABLE landing.t",
        "ALTER TABLE landing.t DROP COLUMN v",
        "ALTER TABLE landing.t ADD COLUMN extra int",
        "ALTER TABLE landing.t ALTER COLUMN v TYPE int USING v::int",
        "ALTER TABLE landing.t RENAME TO u",
        "TRUNCATE landing.t",
    ];
    every_case(changes, |change| {
        every_case(["mode: full_refresh", "mode: incremental_merge, unique_key: [id]"], |strategy| {
            let pg = database(
                "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, '1'), (2, '2')",
            );
            let project = project(&pg, "t", "", "t", strategy);
            project.run("load.yaml", "one").ok();
            pg.execute("UPDATE shop.t SET v = '20' WHERE id = 2; INSERT INTO shop.t VALUES (3, '3')");
            let run = project.spawn("load.yaml", "two", "staging.prepared=sleep:1500");
            std::thread::sleep(Duration::from_millis(900));
            pg.execute(change);
            let outcome = Outcome::new(&["run", "two"], run.wait_with_output().unwrap());
            assert_ne!(outcome.code(), Some(3), "a bug of ours: {}", outcome.text());
            // A change that waited for the load came after it.
            if outcome.code() == Some(0) && pg.exists("landing.t") && *change != "TRUNCATE landing.t" {
                let ids = pg.column("SELECT id FROM landing.t ORDER BY id");
                assert_eq!(ids, ["1", "2", "3"], "{change}: {}", outcome.text());
            }
            assert_eq!(pg.leftovers(), Vec::<String>::new(), "{}", outcome.text());
        });
    });
}
