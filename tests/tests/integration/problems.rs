//! What users of batch loaders run into again and again, each as a regression test.

use dpone_tests::{Pg, Project, assert_same_rows, connect, every_case};

/// A definition that loads one table of the database into another.
pub(crate) fn project(pg: &Pg, source: &str, options: &str, target: &str, strategy: &str) -> Project {
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write("load.yaml", load(source, options, target, strategy));
    project
}

pub(crate) fn load(source: &str, options: &str, target: &str, strategy: &str) -> String {
    let connection = "type: postgres, connection_type: env, connection_id: DB";
    let table = |name: &str| serde_json::to_string(name).unwrap();
    format!(
        "name: problem\nsource: {{{connection}, table: {{schema: shop, name: {}}}, options: {{{options}}}}}\n\
         sink: {{{connection}, table: {{schema: landing, name: {}}}, strategy: {{{strategy}}}}}\n",
        table(source),
        table(target)
    )
}

pub(crate) fn database(sql: &str) -> Pg {
    let pg = Pg::new();
    pg.execute("CREATE SCHEMA shop; CREATE SCHEMA landing");
    pg.execute(sql);
    pg
}

#[test]
fn a_row_that_was_committed_late_is_read_again_within_the_lookback() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, at timestamptz NOT NULL)");
    pg.execute("INSERT INTO shop.t VALUES (1, '2024-01-01Z'), (2, '2024-01-10Z')");
    let strategy = "mode: incremental_merge, unique_key: [id]";
    let project = project(&pg, "t", "incremental_column: at, lookback_days: 2", "t", strategy);
    project.run("load.yaml", "one").ok();
    pg.execute("INSERT INTO shop.t VALUES (3, '2024-01-09Z'), (4, '2024-01-10Z')");
    project.run("load.yaml", "two").ok();
    assert_same_rows("late and tied rows are there", pg.rows("shop.t"), pg.rows("landing.t"));
}

#[test]
fn rows_that_tie_with_the_watermark_are_appended_once() {
    let pg = database("CREATE TABLE shop.t (id int, at date NOT NULL)");
    pg.execute("INSERT INTO shop.t SELECT i, '2024-01-01' FROM generate_series(1, 3000) i");
    let project = project(&pg, "t", "incremental_column: at", "t", "mode: incremental_append");
    for round in 0..3 {
        project.run("load.yaml", &format!("run {round}")).ok();
        assert_same_rows(&format!("round {round}"), pg.rows("shop.t"), pg.rows("landing.t"));
        // More ties than the state keeps hashes of, exact duplicates among them.
        pg.execute("INSERT INTO shop.t SELECT i, '2024-01-01' FROM generate_series(2999, 3100) i");
    }
}

#[test]
fn an_empty_source_does_not_empty_the_target() {
    every_case(["exchange", "truncate_insert"], |overwrite| {
        let pg = database("CREATE TABLE shop.t (id int); INSERT INTO shop.t VALUES (1), (2)");
        let strategy = format!("mode: full_refresh, overwrite_type: {overwrite}");
        let project = project(&pg, "t", "", "t", &strategy);
        project.run("load.yaml", "one").ok();
        pg.execute("TRUNCATE shop.t");
        project.run("load.yaml", "two").failed("data_quality").says("empty_source");
        assert_eq!(pg.count("landing.t"), 2, "the target keeps its rows");
        project.write("load.yaml", load("t", "", "t", &format!("{strategy}, empty_source: allow")));
        project.run("load.yaml", "three").ok();
        assert_eq!(pg.count("landing.t"), 0, "allowed to empty it");
    });
}

#[test]
fn a_source_that_fails_in_the_middle_changes_nothing() {
    every_case(
        [
            "mode: full_refresh, overwrite_type: exchange",
            "mode: full_refresh, overwrite_type: truncate_insert",
            "mode: incremental_merge, unique_key: [id]",
        ],
        |strategy| {
            let pg = database("CREATE TABLE shop.base (id int, divisor int)");
            pg.execute("INSERT INTO shop.base SELECT i, 1 FROM generate_series(1, 50000) i");
            pg.execute("CREATE VIEW shop.t AS SELECT id, 100 / divisor AS v FROM shop.base");
            let project = project(&pg, "t", "", "t", strategy);
            project.run("load.yaml", "one").ok();
            let before = pg.rows("landing.t");
            pg.execute("INSERT INTO shop.base VALUES (50001, 0)");
            let outcome = project.run("load.yaml", "two");
            assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
            assert_same_rows("the target is as it was", before, pg.rows("landing.t"));
            assert_eq!(pg.leftovers(), Vec::<String>::new(), "staging is gone");
        },
    );
}

#[test]
fn a_null_in_a_key_fails_by_name_or_is_left_out_and_counted() {
    let pg =
        database("CREATE TABLE shop.t (a int, b text); INSERT INTO shop.t VALUES (1, 'x'), (NULL, 'y'), (2, NULL)");
    let strategy = "mode: incremental_merge, unique_key: [a]";
    let project = project(&pg, "t", "", "t", strategy);
    project.run("load.yaml", "one").failed("data_quality").says("\"a\"");
    assert!(!pg.exists("landing.t") || pg.count("landing.t") == 0, "nothing was loaded");
    project.write("load.yaml", load("t", "", "t", &format!("{strategy}, null_keys: quarantine")));
    let outcome = project.run("load.yaml", "two").ok();
    assert_eq!((outcome.rows("extracted"), outcome.rows("quarantined"), outcome.rows("inserted")), (3, 1, 2));
    assert_same_rows("rows with a key", pg.rows("(SELECT * FROM shop.t WHERE a IS NOT NULL)"), pg.rows("landing.t"));
}

#[test]
fn duplicate_keys_fail_or_the_latest_row_wins() {
    let pg = database("CREATE TABLE shop.t (id int, version int, v text)");
    pg.execute("INSERT INTO shop.t VALUES (1, 1, 'old'), (1, 2, 'new'), (2, 1, 'only')");
    let strategy = "mode: incremental_merge, unique_key: [id]";
    let project = project(&pg, "t", "", "t", strategy);
    project.run("load.yaml", "one").failed("data_quality").says("id");
    project
        .write("load.yaml", load("t", "", "t", &format!("{strategy}, duplicate_policy: latest, order_by: [version]")));
    project.run("load.yaml", "two").ok();
    assert_same_rows("the latest", vec!["(1,2,new)".into(), "(2,1,only)".into()], pg.rows("landing.t"));
}

#[test]
fn composite_keys_do_not_run_into_each_other() {
    let pg = database("CREATE TABLE shop.t (a text, b text, v int, PRIMARY KEY (a, b))");
    pg.execute("INSERT INTO shop.t VALUES ('a', 'bc', 1), ('ab', 'c', 2), ('', 'abc', 3)");
    let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [a, b]");
    project.run("load.yaml", "one").ok();
    pg.execute("UPDATE shop.t SET v = 20 WHERE a = 'ab'");
    let outcome = project.run("load.yaml", "two").ok();
    assert_eq!((outcome.rows("updated"), outcome.rows("unchanged"), outcome.rows("inserted")), (1, 2, 0));
    assert_same_rows("all three", pg.rows("shop.t"), pg.rows("landing.t"));
}

#[test]
fn a_merge_touches_no_unchanged_row() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v text)");
    pg.execute("INSERT INTO shop.t SELECT i, NULLIF(i % 3, 0)::text FROM generate_series(1, 100) i");
    let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [id]");
    project.run("load.yaml", "one").ok();
    let versions = || pg.column("SELECT id || ' ' || xmin FROM landing.t WHERE id <> 7");
    let before = versions();
    pg.execute("UPDATE shop.t SET v = 'changed' WHERE id = 7");
    let outcome = project.run("load.yaml", "two").ok();
    assert_eq!((outcome.rows("updated"), outcome.rows("unchanged")), (1, 99));
    assert_same_rows("row versions of unchanged rows", before, versions());
}

#[test]
fn a_merge_without_a_key_is_refused_before_anything_is_read() {
    let pg = database("CREATE TABLE shop.t (id int); INSERT INTO shop.t VALUES (1)");
    let project = project(&pg, "t", "", "t", "mode: incremental_merge");
    let outcome = project.run("load.yaml", "one").says("unique_key");
    assert_eq!(outcome.code(), Some(2), "{}", outcome.text());
    assert!(!pg.exists("landing.t"));
}

#[test]
fn rows_that_the_source_marks_are_deleted() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, gone boolean, at timestamptz)");
    pg.execute(
        "INSERT INTO shop.t VALUES (1, false, '2024-01-01Z'), (2, NULL, '2024-01-01Z'), (3, false, '2024-01-01Z')",
    );
    let strategy = "mode: incremental_merge, unique_key: [id], soft_delete: {column: gone, policy: delete}";
    let project = project(&pg, "t", "incremental_column: at", "t", strategy);
    project.run("load.yaml", "one").ok();
    assert_eq!(pg.count("landing.t"), 3);
    pg.execute("UPDATE shop.t SET gone = true, at = '2024-01-02Z' WHERE id = 1");
    let outcome = project.run("load.yaml", "two").ok();
    assert_eq!(outcome.rows("deleted"), 1);
    assert_eq!(pg.column("SELECT id FROM landing.t ORDER BY id"), ["2", "3"]);
}

#[test]
fn empty_text_null_and_what_looks_like_null_stay_apart() {
    let pg = database("CREATE TABLE shop.t (id int, v text)");
    pg.execute(
        r"INSERT INTO shop.t VALUES (1, ''), (2, NULL), (3, ' '), (4, '\N'), (5, 'NULL'), (6, E'\t\n\\'), (7, 'NA')",
    );
    let project = project(&pg, "t", "", "t", "mode: full_refresh");
    project.run("load.yaml", "one").ok();
    assert_same_rows("texts", pg.rows("shop.t"), pg.rows("landing.t"));
}

#[test]
fn hostile_and_long_names_are_names() {
    let long = |end: &str| format!("{}{end}", "n".repeat(62));
    let names =
        ["we\"ird; DROP TABLE shop.bystander; --".to_owned(), "Ünïcode 'quoted'".to_owned(), long("1"), long("2")];
    every_case(["mode: full_refresh", "mode: incremental_merge, unique_key: ['key \"1\"']"], |strategy| {
        let pg = database("CREATE TABLE shop.bystander (id int)");
        // All at once: staging of one must not be staging of another.
        let projects: Vec<_> = names
            .iter()
            .map(|name| {
                let quoted = name.replace('"', "\"\"");
                pg.execute(&format!(
                    "CREATE TABLE shop.\"{quoted}\" (\"key \"\"1\"\"\" int, \"{quoted}\" text); \
                     INSERT INTO shop.\"{quoted}\" SELECT i, 'v' || i FROM generate_series(1, 500) i"
                ));
                let project = project(&pg, name, "", name, strategy);
                let pipeline = format!("p{}", ulid::Ulid::generate().to_string().to_lowercase());
                project.write("load.yaml", load(name, "", name, strategy).replacen("problem", &pipeline, 1));
                let run = project.spawn("load.yaml", "one", "");
                (name, quoted, project, run)
            })
            .collect();
        for (name, quoted, _project, run) in projects {
            dpone_tests::Outcome::new(&["run", name], run.wait_with_output().unwrap()).ok();
            let rows = |schema: &str| pg.rows(&format!("{schema}.\"{quoted}\""));
            assert_same_rows(name, rows("shop"), rows("landing"));
        }
        assert!(pg.exists("shop.bystander"));
        assert_eq!(pg.leftovers(), Vec::<String>::new());
    });
}

/// The server names the array type of a table after it, cut at 63 bytes: two long names can ask for the same one.
#[test]
fn a_table_of_nearly_the_same_name_that_is_made_at_the_same_moment_is_not_in_the_way() {
    let long = |end: &str| format!("{}{end}", "n".repeat(62));
    let (mine, other) = (long("1"), long("2"));
    let pg = database(&format!("CREATE TABLE shop.\"{mine}\" AS SELECT i, 'v' || i AS v FROM generate_series(1, 9) i"));
    let project = project(&pg, &mine, "", &mine, "mode: full_refresh");
    let (runtime, creator) = connect(pg.url());
    runtime.block_on(creator.batch_execute(&format!("BEGIN; CREATE TABLE landing.\"{other}\" ()"))).unwrap();
    let run = project.spawn("load.yaml", "one", "");
    // The commit waits for the other transaction to end, and then has to choose another name.
    let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid' AND datname = current_database()";
    let (watching, watcher) = connect(pg.url());
    let is_waiting = || !watching.block_on(watcher.query(waits, &[])).unwrap().is_empty();
    let waited = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        is_waiting()
    });
    assert!(waited, "the run does not wait");
    runtime.block_on(creator.batch_execute("COMMIT")).unwrap();
    dpone_tests::Outcome::new(&["run"], run.wait_with_output().unwrap()).ok();
    assert_same_rows("loaded", pg.rows(&format!("shop.\"{mine}\"")), pg.rows(&format!("landing.\"{mine}\"")));
}

#[test]
fn a_source_that_lost_a_column_fails_before_staging_and_says_which() {
    let pg = database("CREATE TABLE shop.t (id int, v text); INSERT INTO shop.t VALUES (1, 'x')");
    let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [id]");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t DROP COLUMN v");
    let outcome = project.run("load.yaml", "two").failed("data_quality").says("no longer fits the target");
    outcome.says("v: text").says("schema_evolution.breaking:drop_column:v");
    assert_eq!(pg.rows("landing.t"), ["(1,x)"]);
}

#[test]
fn a_table_that_others_depend_on_is_refreshed_and_keeps_what_belongs_to_it() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'x'), (2, 'y')");
    let project = project(&pg, "t", "", "t", "mode: full_refresh, overwrite_type: exchange");
    project.run("load.yaml", "one").ok();
    pg.execute(
        "CREATE INDEX t_v ON landing.t (v); COMMENT ON TABLE landing.t IS 'mine'; COMMENT ON COLUMN landing.t.v IS 'text'; \
         GRANT SELECT ON landing.t TO PUBLIC; ALTER TABLE landing.t ALTER COLUMN v SET DEFAULT 'none'",
    );
    let facts = "SELECT concat_ws(' | ', obj_description('landing.t'::regclass), col_description('landing.t'::regclass, 2), \
                 (SELECT string_agg(indexdef, ';' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'landing'), \
                 (SELECT relacl::text FROM pg_class WHERE oid = 'landing.t'::regclass), \
                 (SELECT column_default FROM information_schema.columns WHERE table_schema = 'landing' AND table_name = 't' AND column_name = 'v'))";
    let before = pg.value(facts);
    pg.execute("INSERT INTO shop.t VALUES (3, 'z')");
    project.run("load.yaml", "two").ok();
    assert_eq!(pg.value(facts), before, "swapped, and nothing was lost");

    pg.execute(
        "CREATE VIEW landing.dependent AS SELECT count(*) AS n FROM landing.t; INSERT INTO shop.t VALUES (4, 'w')",
    );
    let outcome = project.run("load.yaml", "three").ok();
    assert_eq!(pg.value("SELECT n FROM landing.dependent"), "4", "the view reads the new rows");
    assert!(outcome.text().contains("dependent"), "the receipt says why it did not swap: {}", outcome.text());
    assert_eq!(pg.value(facts), before);
}
