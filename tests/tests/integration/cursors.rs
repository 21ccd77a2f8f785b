//! Cursors and `order_by` on every ordered type: the order is the column's own, also where its values travel as text.

use dpone_tests::{Lake, Pg, assert_same_rows, every_case};

use crate::problems::{database, project};

/// A type; values that a first run loads, and greater ones that come after it, many of which sort before the first as
/// texts.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

const CASES: &[Case] = &[
    ("numeric", &["-Infinity", "-5", "0.5", "9"], &["9.000", "10", "1e60", "Infinity", "NaN"]),
    ("numeric(60,2)", &["9.00", "-100"], &["10.00", "1e57"]),
    ("shop.mood", &["zebra", "yak"], &["yak", "apple"]),
    ("interval", &["2 days", "-1 year"], &["1 day 24:00:00", "1 mon", "10 years"]),
    ("money", &["-5", "9.99"], &["10.00", "1000000"]),
    ("inet", &["9.0.0.1", "9.0.0.0/8"], &["10.0.0.1/8", "::1"]),
    ("cidr", &["9.0.0.0/8"], &["9.0.0.0/16", "10.0.0.0/8"]),
    ("macaddr", &["09:00:00:00:00:00"], &["0a:00:00:00:00:00", "10:00:00:00:00:00"]),
    ("char(5)", &["b", "a"], &["b", "ba"]),
    ("timetz", &["12:00+02"], &["11:00+00", "10:30-01"]),
    ("pg_lsn", &["F/1"], &["F/2", "10/0"]),
    ("bit(8)", &["00001001"], &["00010000"]),
    ("bytea", &["\\x09"], &["\\x0a", "\\x10"]),
    ("uuid", &["09000000-0000-0000-0000-000000000000"], &["10000000-0000-0000-0000-000000000000"]),
];

fn insert(pg: &Pg, first_id: usize, values: &[&str]) {
    for (i, value) in values.iter().enumerate() {
        pg.execute(&format!("INSERT INTO shop.t VALUES ({}, '{value}')", first_id + i));
    }
}

fn table(kind: &str) -> Pg {
    let pg = database("CREATE TYPE shop.mood AS ENUM ('zebra', 'yak', 'apple')");
    pg.execute(&format!("CREATE TABLE shop.t (id int PRIMARY KEY, c {kind})"));
    pg
}

#[test]
fn a_cursor_of_any_ordered_type_loses_no_row_and_reads_none_twice() {
    for strategy in ["mode: incremental_append", "mode: incremental_merge, unique_key: [id]"] {
        every_case(CASES, |(kind, before, after)| {
            let pg = table(kind);
            insert(&pg, 1, before);
            let project = project(&pg, "t", "incremental_column: c", "t", strategy);
            project.run("load.yaml", "one").ok();
            insert(&pg, 100, after);
            let second = project.run("load.yaml", "two").ok();
            assert_same_rows("all rows", pg.rows("shop.t"), pg.rows("landing.t"));
            // The server compares: at most the rows at the watermark come again.
            assert!(second.rows("extracted") <= after.len() as u64 + 1, "{}", second.text());
            let third = project.run("load.yaml", "three").ok();
            assert_eq!(third.rows("inserted") + third.rows("updated"), 0, "{}", third.text());
            assert!(third.rows("extracted") < (before.len() + after.len()) as u64, "{}", third.text());
            assert_same_rows("still", pg.rows("shop.t"), pg.rows("landing.t"));
        });
    }
}

#[test]
fn the_newest_row_of_a_key_is_newest_in_the_order_of_its_type() {
    every_case(CASES, |(kind, before, after)| {
        let pg = table("int");
        pg.execute(&format!("DROP TABLE shop.t; CREATE TABLE shop.t (id int, c {kind})"));
        for value in before.iter().chain(*after) {
            pg.execute(&format!("INSERT INTO shop.t VALUES (1, '{value}')"));
        }
        // The greatest value stands alone in each case.
        let greatest = pg.value("SELECT c::text FROM shop.t ORDER BY t.c DESC LIMIT 1");
        let strategy = "mode: incremental_merge, unique_key: [id], duplicate_policy: latest, order_by: [c]";
        let project = project(&pg, "t", "", "t", strategy);
        project.run("load.yaml", "one").ok();
        assert_eq!(pg.column("SELECT c::text FROM landing.t"), [greatest]);
    });
}

#[test]
fn a_cursor_keeps_its_order_in_a_lake() {
    every_case([CASES[0], CASES[2], CASES[5]], |(kind, before, after)| {
        let pg = table(kind);
        insert(&pg, 1, before);
        let project = dpone_tests::Project::new().env("SHOP_URL", pg.url());
        project.write(
            "load.sql",
            "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:SHOP_URL'); \
             CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake'); \
             CREATE PIPELINE tab INTO lake.landing.t STRATEGY incremental_append CURSOR c AS SELECT * FROM shop.shop.t;",
        );
        project.run("load.sql", "one").ok();
        insert(&pg, 100, after);
        project.run("load.sql", "two").ok();
        project.run("load.sql", "three").ok();
        let ids = Lake::Delta.rows(&project.path("lake/landing/t"), "id::varchar");
        assert_same_rows("ids", pg.column("SELECT id::text FROM shop.t"), ids);
    });
}

#[test]
fn what_has_no_known_order_is_refused_by_name() {
    let pg = table("json");
    insert(&pg, 1, &["1"]);
    let project = project(&pg, "t", "incremental_column: c", "t", "mode: incremental_append");
    project.run("load.yaml", "one").failed("configuration").says("json").says("\"c\"");
}
