//! What an adversary would try with values, names, constraints and clocks.

use dpone_tests::oracle::Kind;
use dpone_tests::properties::{DeltaReader, lines};
use dpone_tests::{Pg, Project, assert_same_rows, every_case};

use crate::problems::{database, project};

/// The same load into a lake.
pub(crate) fn into_delta(pg: &Pg, table: &str, options: &str, strategy: &str) -> Project {
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

pub(crate) fn delta_lines(project: &Project, columns: &[&str]) -> Vec<String> {
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
        "CREATE TABLE landing.t (id int PRIMARY KEY, v text CHECK (v <> 'open sesame'))",
        "CREATE TABLE landing.t (id int PRIMARY KEY, v text NOT NULL)",
        "CREATE TABLE landing.others (v text PRIMARY KEY); \
         CREATE TABLE landing.t (id int PRIMARY KEY, v text REFERENCES landing.others)",
        "CREATE TABLE landing.t (id int PRIMARY KEY, v text CHECK (length(v) <= 3))",
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
            pg.execute("INSERT INTO shop.t VALUES (1, 'open sesame'), (2, 'open sesame'), (3, NULL)");
            pg.execute(constraint);
            let project = project(&pg, "t", "", "t", strategy);
            let outcome = project.run("load.yaml", "one");
            assert!(matches!(outcome.code(), Some(1 | 2)), "{}", outcome.text());
            // A word, not a number: digests and identifiers in the document hold every short run of digits.
            assert!(!outcome.text().contains("sesame"), "a value was told: {}", outcome.text());
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
        pg.execute("DELETE FROM shop.t WHERE id > 2");
        project.run("load.yaml", "one").ok();
        pg.execute("INSERT INTO shop.t VALUES (3, NULL), (4, 9), (5, NULL)");
        project.run("load.yaml", "two").failed("data_quality").says("2 in \"at\"");
        assert_eq!(delta_lines(&project, &["id", "at"]).len(), 2);
    });
}

#[test]
fn a_mirror_repairs_what_others_did_to_it() {
    every_case(["row_hash", "all_columns"], |compare| {
        let pg = database(
            "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'a'), (2, 'b'), (3, NULL)",
        );
        let strategy = format!("mode: snapshot_diff, unique_key: [id], diff: {{compare: {compare}}}");
        let project = project(&pg, "t", "", "t", &strategy);
        project.run("load.yaml", "one").ok();
        pg.execute(
            "UPDATE landing.t SET v = 'tampered' WHERE id = 1; UPDATE landing.t SET v = '' WHERE id = 3; \
                    DELETE FROM landing.t WHERE id = 2; INSERT INTO landing.t VALUES (4, 'stray')",
        );
        let outcome = project.run("load.yaml", "two").ok();
        let counts = ["inserted", "updated", "deleted", "unchanged"].map(|which| outcome.rows(which));
        assert_eq!(counts, [1, 2, 1, 0], "{}", outcome.text());
        assert_same_rows("repaired", pg.rows("shop.t"), pg.rows("landing.t"));
    });
}

#[test]
fn half_of_the_rows_may_go_and_no_more_unless_the_definition_says_so() {
    let strategies = [
        "mode: snapshot_diff, unique_key: [id]",
        "mode: snapshot_diff, unique_key: [id], diff: {delete_policy: soft_delete}",
        "mode: scd2, unique_key: [id]",
    ];
    every_case(strategies, |strategy| {
        let pg = database(
            "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t SELECT i, 'v' FROM generate_series(1, 10) i",
        );
        let project = project(&pg, "t", "", "t", strategy);
        project.run("load.yaml", "one").ok();
        let before = pg.rows("landing.t");
        pg.execute("DELETE FROM shop.t WHERE id <= 6; INSERT INTO shop.t VALUES (11, 'new')");
        project.run("load.yaml", "two").failed("data_quality").says("6 of 10").says("max_delete_ratio");
        pg.execute("DELETE FROM shop.t");
        project.run("load.yaml", "three").failed("data_quality").says("no row");
        assert_same_rows("nothing was changed", before, pg.rows("landing.t"));
        pg.execute("INSERT INTO shop.t SELECT i, 'v' FROM generate_series(6, 10) i");
        let outcome = project.run("load.yaml", "four").ok();
        assert_eq!(outcome.rows("unchanged"), 5, "{}", outcome.text());
    });
}

#[test]
fn keys_that_are_spelled_anew_stay_the_same_rows_in_mirrors_and_histories() {
    let cases = [("numeric", "1.0", "1.00"), ("double precision", "0", "'-0'"), ("numeric(9,2)", "1", "1.00")];
    every_case(cases, |(kind, first, second)| {
        every_case(["mode: snapshot_diff, unique_key: [k]", "mode: scd2, unique_key: [k]"], |strategy| {
            let refused = *kind == "numeric";
            let pg = database(&format!(
                "CREATE TABLE shop.t (k {kind}, v int); INSERT INTO shop.t VALUES ({first}, 1), (7, 7)"
            ));
            let project = project(&pg, "t", "", "t", strategy);
            if refused {
                // Its text has several spellings: said before anything is loaded, not by the next run.
                project.run("load.yaml", "one").failed("configuration").says("\"k\"");
                return;
            }
            project.run("load.yaml", "one").ok();
            pg.execute(&format!("UPDATE shop.t SET k = {second} WHERE v = 1"));
            let outcome = project.run("load.yaml", "two").ok();
            assert_eq!(outcome.rows("deleted"), 0, "{}", outcome.text());
            let current = if strategy.contains("scd2") { "WHERE __dpone__is_current" } else { "" };
            assert_eq!(
                pg.column(&format!("SELECT v FROM landing.t {current} ORDER BY v")),
                ["1", "7"],
                "{}",
                outcome.text()
            );
            let outcome = project.run("load.yaml", "three").ok();
            let counts = ["inserted", "updated", "deleted"].map(|which| outcome.rows(which));
            assert_eq!(counts, [0, 0, 0], "nothing is new: {}", outcome.text());
        });
    });
}

#[test]
fn history_stays_whole_where_the_clock_of_another_machine_was_ahead() {
    let pg = database(
        "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    );
    let project = project(&pg, "t", "", "t", "mode: scd2, unique_key: [id]");
    project.run("load.yaml", "one").ok();
    pg.execute("UPDATE landing.t SET __dpone__valid_from_at = now() + interval '1 hour'");
    pg.execute("UPDATE shop.t SET v = 'changed' WHERE id = 1; DELETE FROM shop.t WHERE id = 2");
    for run in ["two", "three"] {
        let outcome = project.run("load.yaml", run);
        if outcome.code() != Some(0) {
            outcome.failed("conflict");
        }
        let bad = "SELECT count(*) FROM landing.t WHERE __dpone__valid_to_at <= __dpone__valid_from_at";
        assert_eq!(pg.value(bad), "0", "a version ends before it begins");
        let current = "SELECT coalesce(max(n), 0) FROM (SELECT count(*) n FROM landing.t WHERE __dpone__is_current GROUP BY id) c";
        assert_eq!(pg.value(current), "1", "one current version a key");
    }
}
