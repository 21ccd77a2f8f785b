//! Scopes of `replace`: what is read and what is replaced is the same set of rows, whoever evaluates the predicate.

use dpone_tests::{Lake, Pg, Project, assert_same_rows, every_case};

use crate::problems::{database, load, project};

const VALUES: &str = "(1, '-Infinity', 'a'), (2, '-1', 'A'), (3, '-0', 'b'), (4, '0', 'B'), (5, '1.5', 'c'), \
                      (6, 'Infinity', 'd'), (7, 'NaN', ''), (8, NULL, NULL)";

/// A predicate and the rows that it means.
const SCOPES: &[(&str, &str)] = &[
    ("f > 1", "5,6,7"),
    ("f >= 0", "3,4,5,6,7"),
    ("f < 0", "1,2"),
    ("f <= 0", "1,2,3,4"),
    ("f = 0", "3,4"),
    ("f <> 0", "1,2,5,6,7"),
    ("f > -0.5 AND f < 1.75", "3,4,5"),
    ("f = CAST('NaN' AS DOUBLE)", "7"),
    ("NOT (r < 1.5)", "5,6,7"),
    ("r > 1.4 AND f IN (1.5, 2.5)", "5"),
    ("id % 2 = 0", "2,4,6,8"),
    ("id % -3 IN (1, 2) AND id > 2.5", "4,5,7,8"),
    ("u = '00000000-0000-0000-0000-000000000003'", "3"),
    ("u IN ('{00000000-0000-0000-0000-000000000003}', '00000000000000000000000000000005')", "3,5"),
    ("u BETWEEN '00000000-0000-0000-0000-000000000003' AND '00000000-0000-0000-0000-000000000005'", "3,4,5"),
    ("'00000000-0000-0000-0000-000000000006' < u OR t = 'a'", "1,7,8"),
];

fn table() -> Pg {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, f double precision, r real, t text, u uuid, v text)");
    pg.execute(&format!(
        "INSERT INTO shop.t SELECT id, f::float8, f::float4, t, lpad(id::text, 32, '0')::uuid, 'new' \
         FROM (VALUES {VALUES}) r(id, f, t)"
    ));
    pg.execute("CREATE TABLE landing.t (LIKE shop.t INCLUDING ALL); INSERT INTO landing.t SELECT * FROM shop.t");
    pg.execute("UPDATE landing.t SET v = 'old'");
    pg
}

#[test]
fn a_scope_means_the_same_rows_to_the_server_and_to_the_engine() {
    every_case(SCOPES, |(scope, ids)| {
        let pg = table();
        let strategy = format!("mode: replace, custom_predicate: {}", serde_json::to_string(scope).unwrap());
        let project = project(&pg, "t", "", "t", &strategy);
        project.run("load.yaml", "one").ok();
        let expected: Vec<String> = ids.split(',').map(str::to_owned).collect();
        assert_same_rows("replaced", expected.clone(), pg.column("SELECT id FROM landing.t WHERE v = 'new'"));
        assert_eq!(pg.count("landing.t"), 8, "nothing else went away");
        // Behind a limit nothing is pushed down: the engine evaluates it.
        project.write("db.sql", "CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DPONE_CONN_DB_URL');");
        let sql = format!("SELECT id FROM (SELECT * FROM db.shop.t LIMIT 100) WHERE {scope} ORDER BY id");
        let found = project.dpone(&["query", &sql, "--file", "db.sql", "--format", "csv"]).ok().stdout();
        let found: Vec<String> = found.lines().skip(1).map(str::to_owned).collect();
        assert_eq!(found, expected, "{scope}");
        let sql = format!("SELECT id FROM db.shop.t WHERE {scope} ORDER BY id");
        let found = project.dpone(&["query", &sql, "--file", "db.sql", "--format", "csv"]).ok().stdout();
        assert_eq!(found.lines().skip(1).collect::<Vec<_>>().join(","), *ids, "{scope}, pushed down");
    });
}

#[test]
fn a_window_of_uuids_is_replaced_in_a_database_and_in_a_lake() {
    let pg = table();
    let bounds = ("00000000-0000-0000-0000-000000000003", "00000000-0000-0000-0000-000000000006");
    let strategy = format!("mode: replace, window: {{column: u, from: {:?}, to: {:?}}}", bounds.0, bounds.1);
    project(&pg, "t", "", "t", &strategy).run("load.yaml", "one").ok();
    assert_eq!(pg.column("SELECT id FROM landing.t WHERE v = 'new' ORDER BY id"), ["3", "4", "5"]);

    let project = Project::new().env("SHOP_URL", pg.url());
    let sql = |strategy: &str| {
        format!(
            "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:SHOP_URL'); \
             CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake'); \
             CREATE PIPELINE tab INTO lake.landing.t STRATEGY {strategy} AS SELECT id, u, v FROM shop.shop.t;"
        )
    };
    project.write("full.sql", sql("full_refresh"));
    project.run("full.sql", "one").ok();
    pg.execute("UPDATE shop.t SET v = 'newer'");
    let replace =
        format!("replace OPTIONS ('window_column' 'u', 'window_from' '{}', 'window_to' '{}')", bounds.0, bounds.1);
    project.write("replace.sql", sql(&replace));
    project.run("replace.sql", "two").ok();
    let newer = Lake::Delta.rows(&project.path("lake/landing/t"), "id::varchar || v");
    let expected = ["1new", "2new", "3newer", "4newer", "5newer", "6new", "7new", "8new"];
    assert_same_rows("the window alone", expected.map(str::to_owned).to_vec(), newer);
}

#[test]
fn a_scope_that_the_server_cannot_say_is_refused_before_anything_is_read() {
    every_case(["lower(t) = 'a'", "id + 1 > 2", "t LIKE 'a_'", "length(t) < id"], |scope| {
        let pg = table();
        let strategy = format!("mode: replace, custom_predicate: {}", serde_json::to_string(scope).unwrap());
        let project = project(&pg, "t", "", "t", &strategy);
        project.run("load.yaml", "one").failed("configuration").says("exactly the same meaning").says(scope);
        for verb in ["plan", "check"] {
            let outcome = project.dpone(&[verb, "load.yaml"]);
            assert_eq!(outcome.code(), Some(2), "{}", outcome.text());
        }
        // Also where the target is still to be created: its second run would fail.
        pg.execute("DROP TABLE landing.t");
        project.run("load.yaml", "two").failed("configuration");
        assert!(!pg.exists("landing.t"));
    });
    let pg = table();
    let project = project(&pg, "t", "", "t", "mode: replace, custom_predicate: \"u = 'abc'\"");
    project.run("load.yaml", "one").failed("configuration").says("abc").says("32 hexadecimal digits");
    pg.execute("ALTER TABLE shop.t ADD n numeric");
    project.write("load.yaml", load("t", "", "t", "mode: replace, window: {column: n, from: 1, to: 10}"));
    project.run("load.yaml", "two").failed("configuration").says("numeric");
}
