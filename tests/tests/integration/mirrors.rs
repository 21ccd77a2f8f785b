//! Mirrors and histories where definitions, spellings and marks change under them.

use dpone_tests::{Lake, Outcome, Pg, Project, assert_same_rows, every_case};

use crate::problems::{database, load, project};

const DB: &str = "type: postgres, connection_type: env, connection_id: DB";

/// Loads `shop.t` into a Delta table.
fn lake(pg: &Pg, options: &str, strategy: &str, more: &str) -> Project {
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).argument("--lease-seconds=1");
    project.write("load.yaml", into_lake(options, strategy, more));
    project
}

fn into_lake(options: &str, strategy: &str, more: &str) -> String {
    format!(
        "name: mirror\nsource: {{{DB}, table: {{schema: shop, name: t}}, options: {{{options}}}}}\n\
         sink: {{type: delta, path: lake, table: {{schema: landing, name: t}}, strategy: {{{strategy}}}}}\n{more}\n"
    )
}

fn counts(outcome: &Outcome) -> [u64; 4] {
    ["inserted", "updated", "deleted", "unchanged"].map(|which| outcome.rows(which))
}

#[test]
fn keys_that_a_lake_keeps_as_text_are_refused_before_anything_is_loaded() {
    let merge = "mode: incremental_merge, unique_key: [k]";
    let backfill = "mode: backfill, unique_key: [k], backfill: {inner_mode: incremental_merge, \
                    chunk: {column: v, from: 1, to: 10, step: 5}}";
    let append = "mode: incremental_append, only_new_rows: true, unique_key: [k]";
    let cases = [
        ("", merge),
        ("incremental_strategy: xmin", merge),
        ("", backfill),
        ("", "mode: partition_replace, partition: {column: k}"),
        ("incremental_column: v", append),
    ];
    let kinds = ["numeric", "shop.amount", "interval", "citext"];
    every_case(
        cases.into_iter().flat_map(|case| kinds.map(|kind| (case, kind))).collect::<Vec<_>>(),
        |(case, kind)| {
            let (options, strategy) = case;
            let pg = database("CREATE EXTENSION IF NOT EXISTS citext; CREATE DOMAIN shop.amount AS numeric");
            pg.execute(&format!("CREATE TABLE shop.t (k {kind} NOT NULL, v int NOT NULL)"));
            let project = lake(&pg, options, strategy, "");
            let verb = if strategy.contains("backfill") {
                &["backfill", "plan", "load.yaml"][..]
            } else {
                &["plan", "load.yaml"]
            };
            let refused = project.dpone(verb);
            assert_eq!(refused.code(), Some(2), "{}", refused.text());
            let refused = refused.says("\"k\"").says("several spellings").says("hint");
            let decimal = refused.stderr().contains("DECIMAL");
            assert_eq!(decimal, kind.contains("numeric") || kind.contains("amount"), "{}", refused.text());
            assert!(!project.path("lake/landing").exists(), "nothing was loaded");
        },
    );
}

#[test]
fn keys_of_one_value_are_one_key_where_the_server_knows_the_type() {
    let pg = database(
        "CREATE TABLE shop.t (k numeric NOT NULL, v int NOT NULL); INSERT INTO shop.t VALUES (1.0, 1), (2, 2)",
    );
    let strategy = "mode: incremental_append, only_new_rows: true, unique_key: [k]";
    let project = project(&pg, "t", "incremental_column: v", "t", strategy);
    project.run("load.yaml", "one").ok();
    pg.execute("UPDATE shop.t SET k = 1.00, v = 5 WHERE k = 1; INSERT INTO shop.t VALUES (3, 6)");
    assert_eq!(counts(&project.run("load.yaml", "two").ok())[0], 1, "1.0 is 1.00");
    assert_eq!(pg.column("SELECT k FROM landing.t ORDER BY k"), ["1.0", "2", "3"]);
}

#[test]
fn xmin_refuses_a_key_that_it_cannot_compare_before_the_first_load() {
    let pg = database("CREATE TABLE shop.t (k numeric PRIMARY KEY, v int); INSERT INTO shop.t VALUES (1, 1)");
    let strategy = "mode: incremental_merge, unique_key: [k]";
    let xmin = "incremental_strategy: xmin";
    let text = load("t", xmin, "t", strategy);
    let project = project(&pg, "t", xmin, "t", strategy);
    project.write("load.yaml", format!("{text}reconciliation: true\n"));
    assert_eq!(project.dpone(&["plan", "load.yaml"]).says("\"k\"").code(), Some(2));
    project.run("load.yaml", "one").failed("configuration").says("several spellings").says("reconciliation: false");
    project.write("load.yaml", format!("{text}reconciliation: false\n"));
    project.run("load.yaml", "two").ok();
    assert_eq!(pg.count("landing.t"), 1);
}

const MARKED: &str = "mode: snapshot_diff, unique_key: [id], max_delete_ratio: 1, diff: {delete_policy: soft_delete}";
const TABLE: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, v text); \
                     INSERT INTO shop.t SELECT i, 'v' || i FROM generate_series(1, 6) i";

fn live(pg: &Pg) -> Vec<String> {
    pg.column(
        "SELECT concat_ws(':', id, v) FROM landing.t WHERE NOT __dpone__is_deleted AND __dpone__deleted_at IS NULL",
    )
}

#[test]
fn a_row_that_comes_back_is_there_whatever_is_done_about_missing_rows_now() {
    let diff = |policy: &str, compare: &str| {
        let limit = if policy == "ignore" { "" } else { "max_delete_ratio: 1, " };
        format!("mode: snapshot_diff, unique_key: [id], {limit}diff: {{delete_policy: {policy}, compare: {compare}}}")
    };
    let cases = ["hard_delete", "ignore"].into_iter().flat_map(|p| ["row_hash", "all_columns"].map(|c| (p, c)));
    every_case(cases.collect::<Vec<_>>(), |(policy, compare)| {
        every_case(["", ", options: {lineage: true}"], |lineage| {
            let pg = database(TABLE);
            let project = project(&pg, "t", "", "t", MARKED);
            let write = |strategy: &str| {
                let text = load("t", "", "t", strategy);
                project.write("load.yaml", text.trim_end().strip_suffix('}').unwrap().to_owned() + lineage + "}\n");
            };
            write(MARKED);
            project.run("load.yaml", "one").ok();
            pg.execute("DELETE FROM shop.t WHERE id <= 2");
            assert_eq!(counts(&project.run("load.yaml", "two").ok())[2], 2);
            write(&diff(policy, compare));
            // One comes back as it was, one stays away, one is new.
            pg.execute("INSERT INTO shop.t VALUES (1, 'v1'), (7, 'v7')");
            let done = project.run("load.yaml", "three").ok();
            let gone = u64::from(*policy == "hard_delete");
            assert_eq!(counts(&done), [1, 1, gone, 4], "{}", done.text());
            assert_same_rows("the source's rows", pg.column("SELECT concat_ws(':', id, v) FROM shop.t"), live(&pg));
            assert_eq!(pg.count("landing.t"), 7 - gone, "the row that stays away");
            let done = project.run("load.yaml", "four").ok();
            assert_eq!(counts(&done), [0, 0, 0, 6], "{}", done.text());
            // Any other strategy loads rows that are there, too.
            pg.execute("INSERT INTO shop.t VALUES (2, 'two'), (8, 'v8')");
            write("mode: incremental_merge, unique_key: [id]");
            project.run("load.yaml", "five").ok();
            assert_same_rows("after a merge", pg.column("SELECT concat_ws(':', id, v) FROM shop.t"), live(&pg));
        });
    });
}

#[test]
fn a_row_that_comes_back_is_there_for_xmin_as_well() {
    every_case(["true", "false"], |then| {
        let pg = database(TABLE);
        let (xmin, merge) = ("incremental_strategy: xmin", "mode: incremental_merge, unique_key: [id]");
        let project = project(&pg, "t", xmin, "t", merge);
        let write = |reconciliation: &str| {
            project.write("load.yaml", format!("{}reconciliation: {reconciliation}\n", load("t", xmin, "t", merge)));
        };
        write("{cadence: every_run, delete_policy: soft_delete}");
        let settled = |run: &str| {
            // A transaction of another test may be older: what it hides comes with a later run.
            for attempt in 0..50 {
                project.run("load.yaml", &format!("{run} {attempt}")).ok();
                let there = pg.column("SELECT concat_ws(':', id, v) FROM shop.t ORDER BY 1");
                let mut live = live(&pg);
                live.sort();
                if live == there {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            panic!("{run}: {:?} and not {:?}", live(&pg), pg.rows("shop.t"));
        };
        settled("one");
        pg.execute("DELETE FROM shop.t WHERE id <= 2");
        settled("two");
        write(then);
        pg.execute("INSERT INTO shop.t VALUES (1, 'v1'), (7, 'v7')");
        settled("three");
    });
}

#[test]
fn rows_that_are_marked_are_not_counted_as_rows_that_could_go() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY); INSERT INTO shop.t SELECT generate_series(1, 10)");
    let project = project(&pg, "t", "", "t", MARKED);
    project.run("load.yaml", "one").ok();
    pg.execute("DELETE FROM shop.t WHERE id <= 6");
    project.run("load.yaml", "two").ok();
    // Three of the four that are left.
    project.write("load.yaml", load("t", "", "t", &MARKED.replace("max_delete_ratio: 1,", "max_delete_ratio: 0.5,")));
    pg.execute("DELETE FROM shop.t WHERE id <= 9");
    project.run("load.yaml", "three").failed("data_quality").says("3 of 4 rows").says("max_delete_ratio is 0.5");
    pg.execute("INSERT INTO shop.t VALUES (8), (9)");
    assert_eq!(counts(&project.run("load.yaml", "four").ok()), [0, 0, 1, 3]);
}

#[test]
fn a_lake_follows_the_sign_of_a_zero() {
    let compared = ["row_hash", "all_columns"]
        .map(|how| format!("mode: snapshot_diff, unique_key: [id], diff: {{compare: {how}}}"));
    let merge = "mode: incremental_merge, unique_key: [id]".to_owned();
    every_case(compared.into_iter().chain([merge]).collect::<Vec<_>>(), |strategy| {
        every_case(["delta", "parquet"], |sink| {
            let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v float8, w float4)");
            pg.execute("INSERT INTO shop.t VALUES (1, 0, 0), (2, 1, 'NaN'), (3, NULL, -1)");
            let project = lake(&pg, "", strategy, "");
            project.write("load.yaml", into_lake("", strategy, "").replace("type: delta", &format!("type: {sink}")));
            project.run("load.yaml", "one").ok();
            pg.execute("UPDATE shop.t SET v = '-0' WHERE id = 1");
            assert_eq!(counts(&project.run("load.yaml", "two").ok()), [0, 1, 0, 2], "{strategy}");
            let kind = if *sink == "delta" { Lake::Delta } else { Lake::Parquet };
            let signs = || kind.rows(&project.path("lake/landing/t"), "concat(id, ' ', signbit(v))");
            assert!(signs().contains(&"1 true".to_owned()), "{strategy}: {:?}", signs());
            let third = project.run("load.yaml", "three").ok();
            assert_eq!(counts(&third), [0, 0, 0, 3], "{strategy}: {}", third.text());
        });
    });
}

#[test]
fn what_a_killed_load_had_staged_goes_with_the_next_load() {
    let merge = "mode: incremental_merge, unique_key: [id]";
    every_case(["staged", "commit.begun", "commit.applied", "commit.acknowledged"], |step| {
        every_case([true, false], |first| {
            let pg = database(TABLE);
            let project = lake(&pg, "", merge, "");
            let table = project.path("lake/landing/t");
            if !first {
                project.run("load.yaml", "one").ok();
            }
            pg.execute("UPDATE shop.t SET v = 'new' WHERE id = 3");
            project.run_with_failpoint("load.yaml", "two", &format!("{step}=kill")).killed();
            let files = || {
                let found = std::fs::read_dir(&table).into_iter().flatten().flatten().map(|entry| entry.path());
                let folders =
                    found.filter(|path| path.is_dir() && !path.file_name().unwrap().to_str().unwrap().starts_with('_'));
                let mut found: Vec<_> =
                    folders.flat_map(|f| std::fs::read_dir(f).unwrap()).map(|e| e.unwrap().path()).collect();
                found.sort();
                found
            };
            assert!(!files().is_empty(), "the process was killed before it could clean up");
            std::thread::sleep(std::time::Duration::from_millis(1100));
            project.run("load.yaml", "three").ok();
            assert_same_rows(
                "the source's rows",
                pg.column("SELECT concat(id, ':', v) FROM shop.t"),
                Lake::Delta.rows(&table, "concat(id, ':', v)"),
            );
            let log: String = std::fs::read_dir(table.join("_delta_log"))
                .unwrap()
                .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default())
                .collect();
            let stray: Vec<_> =
                files().into_iter().filter(|f| !log.contains(f.file_name().unwrap().to_str().unwrap())).collect();
            assert!(stray.is_empty(), "{step}: files that no version names: {stray:?}");
            let notes = project.path("lake/_dpone/staging/landing.t/mirror");
            assert_eq!(std::fs::read_dir(notes).map_or(0, Iterator::count), 0, "{step}: a note was left");
        });
    });
}

#[test]
fn a_closed_version_says_which_load_closed_it() {
    let pg = database(TABLE);
    let project = project(&pg, "t", "", "t", "");
    let text = load("t", "", "t", "mode: scd2, unique_key: [id]");
    project.write("load.yaml", text.trim_end().strip_suffix('}').unwrap().to_owned() + ", options: {lineage: true}}\n");
    project.run("load.yaml", "one").ok();
    pg.execute("UPDATE shop.t SET v = 'changed' WHERE id = 1; DELETE FROM shop.t WHERE id = 2");
    let second = project.run("load.yaml", "two").ok().json();
    let closed = "SELECT concat_ws(' ', id, v, __dpone__run_id, __dpone__loaded_at = __dpone__valid_to_at, __dpone__load_id = \
                  (SELECT max(__dpone__load_id) FROM landing.t)) FROM landing.t WHERE NOT __dpone__is_current ORDER BY id";
    assert_eq!(pg.column(closed), ["1 v1 two t t", "2 v2 two t t"], "{second:#}");
    // What the load did not touch says who wrote it before.
    assert_eq!(pg.value("SELECT count(*) FROM landing.t WHERE __dpone__run_id = 'one'"), "4");
    let before = pg.column(closed);
    pg.execute("UPDATE shop.t SET v = 'again' WHERE id = 3");
    project.run("load.yaml", "three").ok();
    let earlier = pg.column(
        "SELECT concat_ws(' ', id, v, __dpone__run_id) FROM landing.t WHERE NOT __dpone__is_current AND id < 3 ORDER BY id",
    );
    assert_eq!(earlier, ["1 v1 two", "2 v2 two"], "a version is closed once: {before:?}");
}
