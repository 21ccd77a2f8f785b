//! Columns that come and go.

use dpone_tests::{assert_same_rows, every_case};

use super::{columns, evolving};
use crate::problems::database;

pub(crate) const STRATEGIES: &[&str] = &[
    "mode: full_refresh, overwrite_type: exchange",
    "mode: full_refresh, overwrite_type: truncate_insert",
    "mode: incremental_merge, unique_key: [id]",
    "mode: snapshot_diff, unique_key: [id], diff: {store_row_hash: true}",
    "mode: snapshot_diff, unique_key: [id]",
    "mode: scd2, unique_key: [id]",
    "mode: replace, custom_predicate: 'id > 0'",
    "mode: partition_replace, partition: {column: id}",
];

const SEED: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'x'), (2, 'y')";

#[test]
fn a_new_column_is_added_and_loaded_by_every_strategy() {
    every_case(STRATEGIES, |strategy| {
        let pg = database(SEED);
        let project = evolving(&pg, strategy, "");
        project.run("load.yaml", "one").ok();
        pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int NOT NULL DEFAULT 7; INSERT INTO shop.t VALUES (3, 'z', 8)");
        let outcome = project.run("load.yaml", "two").ok();
        assert!(columns(&pg, "landing.t").contains(&"fresh integer".to_owned()), "{:?}", columns(&pg, "landing.t"));
        let current = if strategy.contains("scd2") { " WHERE __dpone__is_current" } else { "" };
        let rows = |table: &str, which: &str| pg.column(&format!("SELECT (id, v, fresh)::text FROM {table}{which}"));
        assert_same_rows(strategy, rows("shop.t", ""), rows("landing.t", current));
        let receipt = outcome.text();
        assert!(receipt.contains("without NOT NULL"), "the note: {receipt}");
        let outcome = project.run("load.yaml", "three").ok();
        assert!(!outcome.text().contains("ADD COLUMN"), "nothing is left to do: {}", outcome.text());
        assert_same_rows(strategy, rows("shop.t", ""), rows("landing.t", current));
        assert_eq!(pg.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn rows_that_were_appended_before_a_column_came_are_not_appended_again() {
    every_case(["", ", lag: '5'"], |lag| {
        let pg = database("CREATE TABLE shop.t (id int, at int); INSERT INTO shop.t VALUES (1, 1), (2, 2), (2, 2)");
        let project = super::evolving(&pg, "mode: incremental_append", "");
        let options = format!("incremental_column: at{lag}");
        project.write("load.yaml", super::definition("mode: incremental_append", &options, ""));
        project.run("load.yaml", "one").ok();
        pg.execute(
            "ALTER TABLE shop.t ADD COLUMN fresh text DEFAULT 'x'; INSERT INTO shop.t VALUES (2, 2, 'y'), (3, 3, 'z')",
        );
        for run in ["two", "three"] {
            project.run("load.yaml", run).ok();
            assert_eq!(pg.column("SELECT id FROM landing.t ORDER BY 1"), ["1", "2", "2", "2", "3"], "{lag} {run}");
        }
        pg.execute("INSERT INTO shop.t VALUES (4, 3, 'w')");
        project.run("load.yaml", "four").ok();
        assert_eq!(pg.column("SELECT id FROM landing.t ORDER BY 1"), ["1", "2", "2", "2", "3", "4"], "{lag}");
    });
}
