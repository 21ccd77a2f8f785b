//! Targets in a lake, and sources that are files.

use dpone_tests::oracle::Kind;
use dpone_tests::properties::{DeltaReader, lines};
use dpone_tests::{Pg, Project, assert_same_rows, every_case};

use super::{DB, columns};
use crate::problems::database;

fn lake(pg: &Pg, strategy: &str, evolution: &str) -> Project {
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write("load.yaml", to_lake("delta", strategy, evolution));
    project
}

fn to_lake(kind: &str, strategy: &str, evolution: &str) -> String {
    format!(
        "name: evolving\nsource: {{{DB}, table: {{schema: shop, name: t}}}}\n\
         sink: {{type: {kind}, path: lake, table: {{schema: landing, name: t}}, strategy: {{{strategy}}}, \
         options: {{schema_evolution: {{{evolution}}}}}}}\n"
    )
}

fn delta(project: &Project, columns: &[&str]) -> Vec<String> {
    let columns: Vec<_> = columns.iter().map(|name| ((*name).to_owned(), Kind::Text)).collect();
    lines(&DeltaReader::start().rows(&project.path("lake/landing/t"), &columns))
}

const STRATEGIES: &[&str] = &[
    "mode: full_refresh",
    "mode: incremental_merge, unique_key: [id]",
    "mode: snapshot_diff, unique_key: [id]",
    "mode: replace, custom_predicate: 'id > 0'",
];

#[test]
fn a_delta_table_gains_columns_and_wider_types() {
    every_case(STRATEGIES, |strategy| {
        let pg = database(
            "CREATE TABLE shop.t (id int PRIMARY KEY, n int, d numeric(5,2)); INSERT INTO shop.t VALUES (1, 10, 1.5), (2, 20, 2.5)",
        );
        let project = lake(&pg, strategy, "");
        project.run("load.yaml", "one").ok();
        pg.execute(
            "ALTER TABLE shop.t ADD COLUMN fresh text; ALTER TABLE shop.t ALTER n TYPE bigint, ALTER d TYPE numeric(12,4); \
             INSERT INTO shop.t VALUES (3, 5000000000, 12345678.1234, 'new')",
        );
        let outcome = project.run("load.yaml", "two").ok();
        assert!(outcome.text().contains("add column"), "{}", outcome.text());
        let found = delta(&project, &["id", "n", "d", "fresh"]);
        assert_eq!(found.len(), 3, "{strategy}: {found:?}");
        let has = |text: &str| found.iter().any(|line| line.contains(text));
        assert!(has("5000000000") && has("12345678.1234") && has("new"), "{found:?}");
        project.run("load.yaml", "three").ok();
        assert_same_rows(strategy, found, delta(&project, &["id", "n", "d", "fresh"]));
    });
}

#[test]
fn a_delta_table_has_columns_for_values_that_do_not_fit() {
    every_case(STRATEGIES, |strategy| {
        let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v int); INSERT INTO shop.t VALUES (1, 1), (2, 2)");
        let project = lake(&pg, strategy, "");
        project.run("load.yaml", "one").ok();
        pg.execute("ALTER TABLE shop.t ALTER v TYPE text USING 'n' || v");
        project.run("load.yaml", "two").failed("data_quality").says("type_change:v");
        project.write("load.yaml", to_lake("delta", strategy, "on_type_change: new_column"));
        for run in ["three", "four"] {
            project.run("load.yaml", run).ok();
            let found = delta(&project, &["id", "v", "__dpone__nc__v"]);
            let has = |text: &str| found.iter().filter(|line| line.contains(text)).count();
            assert_eq!((found.len(), has("n1"), has("n2")), (2, 1, 1), "{strategy}: {found:?}");
        }
    });
}

#[test]
fn a_killed_change_of_a_delta_table_is_made_once() {
    every_case(["evolve.begun", "evolve.applied"], |step| {
        let pg =
            database("CREATE TABLE shop.t (id int PRIMARY KEY, n int); INSERT INTO shop.t VALUES (1, 10), (2, 20)");
        let project =
            lake(&pg, "mode: incremental_merge, unique_key: [id]", "").argument("--lease-seconds").argument("1");
        project.run("load.yaml", "one").ok();
        pg.execute("ALTER TABLE shop.t ADD COLUMN fresh text; ALTER TABLE shop.t ALTER n TYPE bigint; UPDATE shop.t SET fresh = 'f'");
        project.run_with_failpoint("load.yaml", "two", &format!("{step}=kill")).killed();
        std::thread::sleep(std::time::Duration::from_millis(1200));
        project.run("load.yaml", "three").ok();
        let found = delta(&project, &["id", "n", "fresh"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|line| line.contains('f')), "{found:?}");
    });
}

#[test]
fn a_lake_of_files_gets_new_columns_by_full_refresh_alone() {
    every_case(["parquet", "csv"], |kind| {
        let pg = database("CREATE TABLE shop.t (id int, n int); INSERT INTO shop.t VALUES (1, 10)");
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
        project.write("load.yaml", to_lake(kind, "mode: full_refresh", ""));
        project.run("load.yaml", "one").ok();
        pg.execute("ALTER TABLE shop.t ADD COLUMN fresh text DEFAULT 'f'");
        project.run("load.yaml", "two").ok().says("add column");
        project.run("load.yaml", "three").ok();
        project.write("load.yaml", to_lake(kind, "mode: full_refresh", "columns: freeze"));
        pg.execute("ALTER TABLE shop.t ADD COLUMN more text DEFAULT 'f'");
        project.run("load.yaml", "four").failed("data_quality").says("frozen:add_column:more");
        let append = to_lake(kind, "mode: incremental_append", "")
            .replace("name: t}}\nsink", "name: t}, options: {incremental_column: id}}\nsink");
        project.write("load.yaml", append.replacen("evolving", "appending", 1));
        project.run("load.yaml", "five").failed("configuration").says("cannot be changed");
    });
}

fn from_csv(types: &str, evolution: &str) -> String {
    format!(
        "name: evolving\nsource: {{type: file, path: t.csv, options: {{{types}}}}}\n\
         sink: {{{DB}, table: {{schema: landing, name: t}}, strategy: {{mode: incremental_merge, unique_key: [id]}}, \
         options: {{schema_evolution: {{{evolution}}}}}}}\n"
    )
}

#[test]
fn a_file_gains_a_column_and_its_guessed_types_change_nothing() {
    let pg = database("CREATE TABLE landing.t (id int PRIMARY KEY, v varchar(5), n numeric(6,2))");
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write("load.yaml", from_csv("", ""));
    project.write("t.csv", "id,v,n\n1,abc,10\n2,de,20\n");
    project.run("load.yaml", "one").ok();
    project.write("t.csv", "id,v,n,fresh\n1,abc,10,x\n3,fg,1234,y\n");
    project.run("load.yaml", "two").ok();
    let kept = ["id integer not null", "v character varying(5)", "n numeric(6,2)", "fresh text"];
    assert_eq!(columns(&pg, "landing.t"), kept);
    let rows = vec!["(1,abc,10.00,x)".to_owned(), "(2,de,20.00,)".into(), "(3,fg,1234.00,y)".into()];
    assert_same_rows("grown", rows.clone(), pg.rows("landing.t"));
    // The rows decide: a value that does not fit fails the run by its column, and nothing of it is loaded.
    project.write("t.csv", "id,v,n,fresh\n4,ok,99999,x\n");
    project.run("load.yaml", "three").failed("data_quality").says("\"n\"");
    project.write("t.csv", "id,v,n,fresh\n4,much too long,1,x\n");
    let outcome = project.run("load.yaml", "four");
    assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
    assert_same_rows("unchanged", rows, pg.rows("landing.t"));
    assert_eq!(columns(&pg, "landing.t"), kept);
    // What the definition declares is declared.
    let declared = "columns: [{name: id, type: integer}, {name: v, type: text}, {name: n, type: 'decimal(9,2)'}, {name: fresh, type: text}]";
    project.write("load.yaml", from_csv(declared, ""));
    project.write("t.csv", "id,v,n,fresh\n4,ok,99999,x\n");
    project.run("load.yaml", "five").ok();
    assert_eq!(columns(&pg, "landing.t")[2], "n numeric(9,2)");
}

#[test]
fn rows_of_a_file_that_do_not_fit_are_put_aside() {
    let pg = database("CREATE TABLE landing.t (id int PRIMARY KEY, v int)");
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write(
        "load.yaml",
        from_csv("columns: [{name: id, type: integer}, {name: v, type: text}]", "data_type: quarantine"),
    );
    project.write("t.csv", "id,v\n1,10\n2,ten\n3,\n4,11\n");
    let outcome = project.run("load.yaml", "one").ok();
    assert_eq!((outcome.rows("extracted"), outcome.rows("quarantined"), outcome.rows("inserted")), (4, 1, 3));
    assert_same_rows("fitting", vec!["(1,10)".into(), "(3,)".into(), "(4,11)".into()], pg.rows("landing.t"));
}
