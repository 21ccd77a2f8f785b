//! What an adversary would try: values that are equal and not identical, processes that wake up late, tables that change
//! or vanish while they are loaded.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use dpone_tests::oracle::Kind;
use dpone_tests::properties::{DeltaReader, lines};
use dpone_tests::{Outcome, Pg, Project, assert_same_rows, every_case};

use crate::problems::{database, project};

/// The same load into a lake.
fn into_delta(pg: &Pg, table: &str, options: &str, strategy: &str) -> Project {
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    let source = format!(
        "{{type: postgres, connection_type: env, connection_id: DB, table: {{schema: shop, name: {table}}}, options: {{{options}}}}}"
    );
    project.write(
        "load.yaml",
        format!(
            "name: hostile\nsource: {source}\n\
             sink: {{type: delta, path: lake, table: {{schema: landing, name: {table}}}, strategy: {{{strategy}}}}}\n"
        ),
    );
    project
}

fn delta_lines(project: &Project, columns: &[&str]) -> Vec<String> {
    let columns: Vec<_> = columns.iter().map(|name| ((*name).to_owned(), Kind::Text)).collect();
    lines(&DeltaReader::start().rows(&project.path("lake/landing/t"), &columns))
}

#[test]
fn rows_at_a_watermark_of_zero_are_appended_once_whatever_its_sign() {
    let signs = ["'-0'", "'0'"];
    for (first, second) in [(0, 1), (1, 0), (0, 0)] {
        let pg = database("CREATE TABLE shop.t (id int, at double precision)");
        pg.execute(&format!("INSERT INTO shop.t VALUES (1, -1), (2, {}), (3, {})", signs[first], signs[second]));
        let projects = [
            project(&pg, "t", "incremental_column: at", "t", "mode: incremental_append"),
            into_delta(&pg, "t", "incremental_column: at", "mode: incremental_append"),
        ];
        for project in projects {
            project.run("load.yaml", "one").ok();
            for run in ["two", "three"] {
                let outcome = project.run("load.yaml", run).ok();
                assert_eq!(outcome.rows("inserted"), 0, "{}", outcome.text());
            }
        }
    }
}

#[test]
fn keys_that_are_equal_and_not_identical_are_one_key() {
    let cases = [
        ("double precision", "0", "-0"),
        ("double precision", "'NaN'", "'NaN'"),
        ("numeric", "1.0", "1.00"),
        ("numeric(9,2)", "1.0", "1.00"),
        ("timestamptz", "'2024-01-01 00:00Z'", "'2024-01-01 01:00+01'"),
    ];
    every_case(cases, |(kind, first, second)| {
        let pg = database(&format!("CREATE TABLE shop.t (k {kind}, v int); INSERT INTO shop.t VALUES ({first}, 1)"));
        let strategy = "mode: incremental_merge, unique_key: [k]";
        let to_delta = into_delta(&pg, "t", "", strategy);
        let to_postgres = project(&pg, "t", "", "t", strategy);
        let sinks = if *kind == "numeric" { vec![&to_postgres] } else { vec![&to_postgres, &to_delta] };
        for project in &sinks {
            project.run("load.yaml", "one").ok();
        }
        pg.execute(&format!("UPDATE shop.t SET k = {second}, v = 2"));
        for project in &sinks {
            let outcome = project.run("load.yaml", "two").ok();
            let counts = ["inserted", "updated", "unchanged"].map(|which| outcome.rows(which));
            assert_eq!(counts, [0, 1, 0], "{}", outcome.text());
        }
        pg.execute(&format!("INSERT INTO shop.t VALUES ({first}, 3)"));
        for project in &sinks {
            project.run("load.yaml", "three").failed("data_quality").says("1 key(s) occur more than once");
        }
        assert_eq!(pg.column("SELECT v FROM landing.t"), ["2"]);
    });
}

#[test]
fn a_scope_over_floats_finds_nan_in_files_too() {
    let pg = database("CREATE TABLE shop.t (id int, v double precision)");
    pg.execute("INSERT INTO shop.t VALUES (1, 1), (2, 'NaN'), (3, 2), (4, '-Infinity'), (5, NULL)");
    every_case(["v > 5", "NOT (v < 5)", "v >= 2 OR v IS NULL", "v < 0"], |predicate| {
        let project = into_delta(&pg, "t", "", &format!("mode: replace, custom_predicate: \"{predicate}\""));
        let first = project.run("load.yaml", "one").ok();
        let second = project.run("load.yaml", "two").ok();
        assert_eq!(second.rows("deleted"), first.rows("inserted"), "{}", second.text());
        assert_eq!(second.rows("inserted"), first.rows("inserted"), "{}", second.text());
        assert_eq!(delta_lines(&project, &["id", "v"]).len() as u64, first.rows("inserted"));
    });
}

#[test]
fn what_the_target_s_collation_calls_one_key_is_not_loaded_as_two() {
    let pg = database("CREATE TABLE shop.t (k text PRIMARY KEY, v int); INSERT INTO shop.t VALUES ('a', 1), ('A', 2)");
    pg.execute(
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE landing.t (k text COLLATE nocase PRIMARY KEY, v int)",
    );
    let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [k]");
    let outcome = project.run("load.yaml", "one");
    assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
    let outcome = outcome.failed("data_quality").says("k");
    assert!(!outcome.text().contains("(A)"), "no cell value: {}", outcome.text());
    assert_eq!(pg.count("landing.t"), 0);
    // One of the two alone updates the other's row.
    pg.execute("INSERT INTO landing.t VALUES ('a', 0); DELETE FROM shop.t WHERE k = 'a'");
    let outcome = project.run("load.yaml", "two").ok();
    assert_eq!((outcome.rows("inserted"), outcome.rows("updated")), (0, 1), "{}", outcome.text());
}

#[test]
fn a_constraint_of_the_target_stops_a_load_whole_and_no_value_is_told() {
    let constraints = [
        "CREATE TABLE landing.t (id int PRIMARY KEY, v text UNIQUE)",
        "CREATE TABLE landing.t (id int PRIMARY KEY, v text CHECK (v <> 'secret-4711'))",
        "CREATE TABLE landing.t (id int PRIMARY KEY, v text NOT NULL)",
        "CREATE TABLE landing.others (v text PRIMARY KEY); \
         CREATE TABLE landing.t (id int PRIMARY KEY, v text REFERENCES landing.others)",
        "CREATE TABLE landing.t (id int PRIMARY KEY, v varchar(3))",
        "CREATE TABLE landing.t (id int PRIMARY KEY, v text, EXCLUDE (v WITH =))",
    ];
    let strategies = [
        "mode: full_refresh",
        "mode: incremental_merge, unique_key: [id]",
        "mode: replace, custom_predicate: \"id < 100\"",
    ];
    every_case(constraints, |constraint| {
        every_case(strategies, |strategy| {
            let pg = database("CREATE TABLE shop.t (id int, v text)");
            pg.execute("INSERT INTO shop.t VALUES (1, 'secret-4711'), (2, 'secret-4711'), (3, NULL)");
            pg.execute(constraint);
            let project = project(&pg, "t", "", "t", strategy);
            let outcome = project.run("load.yaml", "one");
            assert!(matches!(outcome.code(), Some(1 | 2)), "{}", outcome.text());
            assert!(!outcome.text().contains("4711"), "a value was told: {}", outcome.text());
            assert_eq!(pg.count("landing.t"), 0);
            assert_eq!(pg.leftovers(), Vec::<String>::new());
        });
    });
}

#[test]
fn columns_that_are_named_like_ours_are_loaded_or_refused_by_name() {
    let names = ["__dpone__op", "__dpone__key", "__dpone__rank", "__dpone__row_hash", "__dpone__change", "__DPONE__Op"];
    let strategies = [
        "mode: full_refresh",
        "mode: incremental_merge, unique_key: [id]",
        "mode: incremental_merge, unique_key: [id], duplicate_policy: latest, order_by: [id]",
        "mode: snapshot_diff, unique_key: [id]",
        "mode: scd2, unique_key: [id]",
    ];
    every_case(names, |name| {
        let pg = database(&format!("CREATE TABLE shop.t (id int, \"{name}\" int); INSERT INTO shop.t VALUES (1, 1)"));
        for strategy in strategies {
            let project = project(&pg, "t", "", "t", strategy);
            let outcome = project.run("load.yaml", "one");
            if outcome.code() == Some(0) {
                project.run("load.yaml", "two").ok();
                assert_eq!(pg.column(&format!("SELECT \"{name}\" FROM landing.t")), ["1"], "loaded, so as it is");
                pg.execute("DROP SCHEMA landing CASCADE; CREATE SCHEMA landing");
            } else {
                outcome.failed("configuration").says(name);
            }
        }
    });
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Polls until `found` holds.
fn wait_until(what: &str, found: impl Fn() -> bool) {
    let began = Instant::now();
    while !found() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
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
        let outcome = Outcome::new(&["run", "sleeper"], sleeper.wait_with_output().unwrap()).failed("conflict");
        let rows =
            if *postgres { pg.column("SELECT id FROM landing.t").len() } else { delta_lines(&project, &["id"]).len() };
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
fn a_source_that_is_truncated_and_filled_in_the_middle_is_read_as_it_was_or_as_it_is() {
    every_case(["lease.acquired", "staging.prepared", "stage.partition.started"], |step| {
        let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v text)");
        pg.execute("INSERT INTO shop.t SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i");
        let project = project(&pg, "t", "partitioning: {export_workers: 4}", "t", "mode: full_refresh");
        let old = pg.rows("shop.t");
        let run = project.spawn("load.yaml", "one", &format!("{step}=sleep:1500"));
        std::thread::sleep(Duration::from_millis(900));
        // A TRUNCATE waits for readers that hold the table, and is seen at once by those that do not.
        pg.execute("TRUNCATE shop.t; INSERT INTO shop.t SELECT -i, 'new' FROM generate_series(1, 100) i");
        let outcome = Outcome::new(&["run", "one"], run.wait_with_output().unwrap());
        if outcome.code() == Some(0) {
            let found = pg.rows("landing.t");
            assert!(
                found.len() == old.len() || found.len() == 100,
                "neither the rows before nor those after: {} rows at {step}\n{}",
                found.len(),
                outcome.text()
            );
        } else {
            assert!(!pg.exists("landing.t") || pg.count("landing.t") == 0, "{}", outcome.text());
        }
        project.run("load.yaml", "two").ok();
        assert_same_rows("the next run", pg.rows("shop.t"), pg.rows("landing.t"));
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
            wait_until("the run holds its lease", || {
                pg.column(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )
                .len()
                    > 1
            });
            std::thread::sleep(Duration::from_millis(700));
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

#[test]
fn hostile_names_are_names_as_cursors_scopes_and_order_too() {
    let name = "we\"ird ÜPPER; --";
    let quoted = name.replace('"', "\"\"");
    let yaml = serde_json::to_string(name).unwrap();
    let predicate = serde_json::to_string(&format!("\"{quoted}\" >= 0")).unwrap();
    let cases = [
        (format!("incremental_column: {yaml}"), "mode: incremental_append".to_owned()),
        (format!("incremental_column: {yaml}, lag: 2"), "mode: incremental_append".to_owned()),
        (
            format!("incremental_column: {yaml}"),
            format!("mode: incremental_append, only_new_rows: true, unique_key: [{yaml}]"),
        ),
        (
            format!("incremental_column: {yaml}"),
            format!("mode: incremental_merge, unique_key: [{yaml}], duplicate_policy: latest, order_by: [{yaml}]"),
        ),
        (String::new(), format!("mode: replace, custom_predicate: {predicate}")),
        (String::new(), format!("mode: replace, window: {{column: {yaml}, from: 0, to: 1000}}")),
    ];
    every_case(cases, |(options, strategy)| {
        let pg = database(&format!("CREATE TABLE shop.t (\"{quoted}\" int, v text)"));
        pg.execute("INSERT INTO shop.t SELECT i, 'v' || i FROM generate_series(1, 50) i");
        for project in [project(&pg, "t", options, "t", strategy), into_delta(&pg, "t", options, strategy)] {
            project.run("load.yaml", "one").ok();
            project.run("load.yaml", "two").ok();
            if project.path("lake").exists() {
                assert_eq!(delta_lines(&project, &[name, "v"]).len(), 50);
            } else {
                assert_same_rows("rows", pg.rows("shop.t"), pg.rows("landing.t"));
            }
        }
    });
}

#[test]
fn a_cursor_that_is_null_in_new_rows_fails_with_the_count_and_loads_nothing() {
    let pg = database("CREATE TABLE shop.t (id int, at int); INSERT INTO shop.t VALUES (1, 1), (2, 2)");
    every_case(["mode: incremental_append", "mode: incremental_merge, unique_key: [id]"], |strategy| {
        let project = into_delta(&pg, "t", "incremental_column: at", strategy);
        pg.execute("DELETE FROM shop.t WHERE at IS NULL");
        project.run("load.yaml", "one").ok();
        pg.execute("INSERT INTO shop.t VALUES (3, NULL), (4, 9), (5, NULL)");
        project.run("load.yaml", "two").failed("data_quality").says("2 in \"at\"");
        assert_eq!(delta_lines(&project, &["id", "at"]).len(), 2);
    });
}
