//! Comparisons that do not fit in memory are done on disk: planned so, or found out on the way.

use dpone_tests::{Pg, assert_same_rows};

use crate::problems::{database, project};

const ROWS: u32 = 120_000;

fn tables() -> Pg {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, name text, n numeric)");
    pg.execute(&format!("INSERT INTO shop.t SELECT g, md5(g::text), g / 7.0 FROM generate_series(1, {ROWS}) g"));
    // The target is there already, and its statistics are those of an empty table: nobody knows its size.
    pg.execute("CREATE TABLE landing.t (LIKE shop.t INCLUDING ALL) WITH (autovacuum_enabled = false)");
    pg.execute(
        "INSERT INTO landing.t SELECT id, CASE WHEN id % 10 = 0 THEN 'old' ELSE name END, n FROM shop.t WHERE id > 5",
    );
    pg.execute("INSERT INTO landing.t SELECT -g, 'gone', NULL FROM generate_series(1, 1000) g");
    pg
}

#[test]
fn a_diff_that_outgrows_its_memory_goes_on_on_disk() {
    let pg = tables();
    let limited = project(&pg, "t", "", "t", "mode: snapshot_diff, unique_key: [id]").argument("--memory-limit=3MB");
    let done = limited.run("load.yaml", "one").ok().says("comparing again, in parts on disk");
    assert_same_rows("the mirror", pg.rows("shop.t"), pg.rows("landing.t"));
    let counts = ["extracted", "inserted", "updated", "deleted", "unchanged"].map(|which| done.rows(which));
    assert_eq!(counts, [ROWS, 5, ROWS / 10, 1000, ROWS - ROWS / 10 - 5].map(u64::from));
    assert!(pg.leftovers().is_empty(), "the first attempt's staging is gone: {:?}", pg.leftovers());
}

#[test]
fn a_diff_that_is_known_not_to_fit_is_planned_on_disk() {
    let pg = tables();
    pg.execute("ANALYZE landing.t");
    let limited = project(&pg, "t", "", "t", "mode: snapshot_diff, unique_key: [id]");
    let plan = limited.dpone(&["plan", "load.yaml", "--memory-limit", "3MB"]).ok().text();
    assert!(plan.contains("parts on disk") && plan.contains("DiffExec: method=partitioned"), "{plan}");
    let limited = limited.argument("--memory-limit=3MB");
    let done = limited.run("load.yaml", "one").ok();
    assert!(!done.stderr().contains("comparing again"), "{}", done.stderr());
    assert_same_rows("the mirror", pg.rows("shop.t"), pg.rows("landing.t"));
    let done = limited.run("load.yaml", "two").ok();
    assert_eq!([done.rows("staged"), done.rows("unchanged")], [0, u64::from(ROWS)]);
}
