//! Lineage: which load wrote a row, and the hash of its values, beside the data.

use dpone_tests::{Lake, Pg, Project, assert_same_rows, every_case};

use crate::problems::database;

const DB: &str = "type: postgres, connection_type: env, connection_id: DB";
const SEED: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, at int, v text, n numeric(9,2)); \
                    INSERT INTO shop.t VALUES (1, 1, 'x', 1.50), (2, 2, NULL, NULL)";

fn definition(source: &str, sink: &str, strategy: &str, lineage: &str) -> String {
    format!(
        "name: traced\nsource: {{{DB}, table: {{schema: shop, name: t}}, options: {{{source}}}}}\n\
         sink: {{{sink}, table: {{schema: landing, name: t}}, strategy: {{{strategy}}}, options: {{lineage: {lineage}}}}}\n"
    )
}

fn project(pg: &Pg, source: &str, strategy: &str, lineage: &str) -> Project {
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write("load.yaml", definition(source, DB, strategy, lineage));
    project
}

/// `id:run` of the rows that count, whether each has a load id, a time and a hash, and how many hashes there are.
fn traces(pg: &Pg, current: &str) -> Vec<String> {
    pg.column(&format!(
        "SELECT concat_ws(':', id, __dpone__run_id, length(__dpone__load_id), __dpone__loaded_at > '2020-01-01', \
         __dpone__row_hash ~ '^[0-9a-f]{{32}}$') FROM landing.t {current} ORDER BY id"
    ))
}

/// The plan holds the run, the load and the time as values of its columns; its digest is of what it does.
#[test]
fn the_digest_of_a_plan_is_the_same_in_every_run() {
    let pg = database(SEED);
    for (strategy, twice) in [
        ("mode: full_refresh, overwrite_type: truncate_insert", true),
        ("mode: snapshot_diff, unique_key: [id]", true),
        ("mode: scd2, unique_key: [id]", true),
        ("mode: replace, custom_predicate: 'id > 0'", false),
    ] {
        pg.execute("DROP TABLE IF EXISTS landing.t");
        let project = project(&pg, "", strategy, "true");
        let digest = |run_id: &str| {
            let document = project.run("load.yaml", run_id).ok().json();
            document["plan"]["sha256"].as_str().unwrap().to_owned()
        };
        // The first run plans to create the table.
        digest(&format!("a {strategy}"));
        let second = digest(&format!("r {strategy}"));
        assert_eq!(second, digest(&format!("s {strategy}")), "{strategy}");
        // Another plan has another digest.
        if twice {
            let text = std::fs::read_to_string(project.path("load.yaml")).unwrap();
            project.write("load.yaml", text.replace("options: {}}", "options: {custom_predicate: 'id < 2'}}"));
            pg.execute("DELETE FROM landing.t WHERE id = 2");
            assert_ne!(second, digest(&format!("t {strategy}")), "{strategy}");
        }
    }
}

#[test]
fn every_strategy_says_which_load_wrote_a_row() {
    let comparing = ["incremental_merge", "snapshot_diff", "scd2", "xmin"];
    let strategies = [
        ("", "mode: full_refresh, overwrite_type: exchange"),
        ("", "mode: full_refresh, overwrite_type: truncate_insert"),
        ("", "mode: replace, custom_predicate: 'id > 0'"),
        ("", "mode: partition_replace, partition: {column: at}"),
        ("", "mode: incremental_merge, unique_key: [id]"),
        ("", "mode: snapshot_diff, unique_key: [id]"),
        ("", "mode: snapshot_diff, unique_key: [id], diff: {store_row_hash: false}"),
        ("", "mode: snapshot_diff, unique_key: [id], diff: {compare: all_columns, delete_policy: soft_delete}"),
        ("", "mode: scd2, unique_key: [id]"),
        ("incremental_strategy: xmin", "mode: incremental_merge, unique_key: [id]"),
        (
            "",
            "mode: backfill, unique_key: [id], backfill: {inner_mode: incremental_merge, \
             chunk: {column: id, from: 1, to: 100, step: 50}}",
        ),
    ];
    every_case(strategies, |(source, strategy)| {
        let pg = database(SEED);
        let project = project(&pg, source, strategy, "true");
        project.run("load.yaml", "one").ok();
        let current = if strategy.contains("scd2") { "WHERE __dpone__is_current" } else { "" };
        let first = if strategy.contains("backfill") {
            pg.value("SELECT min(__dpone__run_id) FROM landing.t")
        } else {
            "one".into()
        };
        assert_eq!(traces(&pg, current), [format!("1:{first}:26:t:t"), format!("2:{first}:26:t:t")], "{strategy}");
        if strategy.contains("backfill") {
            return;
        }
        pg.execute("UPDATE shop.t SET v = 'y' WHERE id = 1; INSERT INTO shop.t VALUES (3, 3, 'z', 3)");
        let hashes = || pg.column(&format!("SELECT __dpone__row_hash FROM landing.t {current} ORDER BY id"));
        let before = hashes();
        let done = project.run("load.yaml", "two").ok();
        let kept = comparing.iter().any(|name| strategy.contains(name));
        let second = if kept { "2:one:26:t:t" } else { "2:two:26:t:t" };
        assert_eq!(traces(&pg, current), ["1:two:26:t:t", second, "3:two:26:t:t"], "{strategy}");
        assert!(hashes()[0] != before[0] && hashes()[1] == before[1], "the hash is of the values: {strategy}");
        if kept && source.is_empty() {
            assert_eq!(
                [done.rows("inserted"), done.rows("unchanged")],
                [if current.is_empty() { 1 } else { 2 }, 1],
                "{strategy}"
            );
        }
        let done = project.run("load.yaml", "three").ok();
        if kept {
            assert_eq!(traces(&pg, current), ["1:two:26:t:t", "2:one:26:t:t", "3:two:26:t:t"], "{strategy}");
            assert_eq!(done.rows("updated") + done.rows("inserted"), 0, "{strategy}");
        }
        let rows = |table: &str, which: &str| pg.column(&format!("SELECT (id, at, v, n)::text FROM {table} {which}"));
        assert_same_rows(strategy, rows("shop.t", ""), rows("landing.t", current));
    });
}

#[test]
fn rows_at_the_watermark_are_told_by_their_values() {
    every_case(["", ", lag: '1'"], |lag| {
        let pg = database(SEED);
        let project = project(&pg, &format!("incremental_column: at{lag}"), "mode: incremental_append", "true");
        project.run("load.yaml", "one").ok();
        pg.execute("INSERT INTO shop.t VALUES (3, 2, 'late', NULL), (4, 4, 'new', NULL)");
        for run in ["two", "three"] {
            project.run("load.yaml", run).ok();
            assert_eq!(traces(&pg, ""), ["1:one:26:t:t", "2:one:26:t:t", "3:two:26:t:t", "4:two:26:t:t"], "{lag}");
        }
    });
}

#[test]
fn a_table_that_was_made_without_lineage_gets_its_columns() {
    every_case(["mode: incremental_merge, unique_key: [id]", "mode: snapshot_diff, unique_key: [id]"], |strategy| {
        let pg = database(SEED);
        project(&pg, "", strategy, "false").run("load.yaml", "one").ok();
        assert_eq!(
            pg.column("SELECT attname FROM pg_attribute WHERE attrelid = 'landing.t'::regclass AND attnum > 4"),
            [""; 0]
        );
        pg.execute("UPDATE shop.t SET v = 'y' WHERE id = 1");
        let traced = project(&pg, "", strategy, "true");
        traced.run("load.yaml", "two").ok().says("__dpone__load_id");
        // A row without a hash is written once more, for it.
        assert_eq!(traces(&pg, ""), ["1:two:26:t:t", "2:two:26:t:t"], "{strategy}");
        let done = traced.run("load.yaml", "three").ok();
        assert_eq!(done.rows("updated"), 0, "{strategy}");

        let pg = database(SEED);
        project(&pg, "", strategy, "false").run("load.yaml", "one").ok();
        let done = project(&pg, "", strategy, "minimal").run("load.yaml", "two").ok();
        assert_eq!([done.rows("updated"), done.rows("unchanged")], [0, 2], "nothing of the rows differs: {strategy}");
    });
    let pg = database(SEED);
    project(&pg, "", "mode: full_refresh", "false").run("load.yaml", "one").ok();
    let frozen =
        project(&pg, "", "mode: incremental_merge, unique_key: [id]", "true, schema_evolution: {columns: freeze}");
    frozen.run("load.yaml", "two").failed("data_quality").says("__dpone__run_id");
    assert_eq!(pg.count("landing.t"), 2);
}

#[test]
fn a_mark_of_deletion_is_a_write_and_lineage_may_end() {
    let pg = database(SEED);
    let strategy = "mode: snapshot_diff, unique_key: [id], diff: {delete_policy: soft_delete}, max_delete_ratio: 1.0";
    let project = project(&pg, "", strategy, "{preset: standard}");
    project.run("load.yaml", "one").ok();
    pg.execute("DELETE FROM shop.t WHERE id = 1");
    project.run("load.yaml", "two").ok();
    assert_eq!(traces(&pg, "WHERE __dpone__is_deleted"), ["1:two:26:t:t"]);
    project.write("load.yaml", definition("", DB, strategy, "off"));
    pg.execute("INSERT INTO shop.t VALUES (3, 3, 'z', 3)");
    project.run("load.yaml", "three").ok();
    assert_eq!(traces(&pg, ""), ["1:two:26:t:t", "2:one:26:t:t", "3:t"]);
}

/// Loads that do not ask for hashes keep those that are there true: the next one that compares with them sees everything.
#[test]
fn hashes_stay_true_while_nobody_asks_for_them() {
    let merge = "mode: incremental_merge, unique_key: [id]";
    let compare = "mode: snapshot_diff, unique_key: [id]";
    let stored = "mode: snapshot_diff, unique_key: [id], diff: {store_row_hash: true}";
    let cases = [
        ((compare, "true"), (compare, "false")),
        ((compare, "true"), (merge, "false")),
        ((stored, "false"), (compare, "false")),
        ((stored, "false"), (merge, "false")),
    ];
    every_case(cases, |((on, lineage), (off, none))| {
        let pg = database(SEED);
        let before = pg.column("SELECT n FROM shop.t WHERE id = 1");
        project(&pg, "", on, lineage).run("load.yaml", "one").ok();
        pg.execute("UPDATE shop.t SET n = 70 WHERE id = 1; INSERT INTO shop.t VALUES (9, 9, 'new', 9)");
        project(&pg, "", off, none).run("load.yaml", "two").ok();
        pg.execute(&format!("UPDATE shop.t SET n = {} WHERE id = 1", before[0]));
        let done = project(&pg, "", on, lineage).run("load.yaml", "three").ok();
        assert_eq!(done.rows("updated"), 1, "{on}, then {off}");
        assert_eq!(pg.column("SELECT n FROM landing.t WHERE id = 1"), before, "{on}, then {off}");
    });
}

#[test]
fn presets_choose_the_columns() {
    let cases = [
        ("minimal", "__dpone__run_id,__dpone__load_id,__dpone__loaded_at"),
        ("{preset: bulk_standard}", "__dpone__run_id,__dpone__load_id,__dpone__loaded_at"),
        ("{features: {identity: false}}", "__dpone__row_hash"),
        (
            "{preset: minimal, features: {row_identity: true}}",
            "__dpone__run_id,__dpone__load_id,__dpone__loaded_at,__dpone__row_hash",
        ),
        ("{enabled: false, preset: standard}", ""),
    ];
    every_case(cases, |(lineage, expected)| {
        let pg = database(SEED);
        project(&pg, "", "mode: full_refresh", lineage).run("load.yaml", "one").ok();
        let found = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute \
                     WHERE attrelid = 'landing.t'::regclass AND attnum > 4";
        assert_eq!(pg.column(&format!("SELECT coalesce(({found}), '')")), [*expected], "{lineage}");
    });
}

/// The hash is of the values: it is the same in every system.
#[test]
fn a_lake_has_the_same_hashes() {
    every_case(["delta", "parquet"], |kind| {
        let pg = database(SEED);
        let strategy = "mode: snapshot_diff, unique_key: [id]";
        project(&pg, "", strategy, "true").run("load.yaml", "one").ok();
        let lake = Project::new().env("DPONE_CONN_DB_URL", pg.url());
        lake.write("load.yaml", definition("", &format!("type: {kind}, path: lake"), strategy, "true"));
        lake.run("load.yaml", "one").ok();
        pg.execute("UPDATE shop.t SET v = 'y' WHERE id = 1");
        let done = lake.run("load.yaml", "two").ok();
        assert_eq!([done.rows("updated"), done.rows("unchanged")], [1, 1], "{kind}");
        project(&pg, "", strategy, "true").run("load.yaml", "two").ok();
        if *kind == "delta" {
            let traced = "concat_ws('|', id, __dpone__run_id, __dpone__row_hash)";
            let found = Lake::Delta.rows(&lake.path("lake/landing/t"), traced);
            assert_same_rows(kind, pg.column(&format!("SELECT {traced} FROM landing.t")), found);
        }
    });
}
