//! Edges that a release must not go over: equal keys that are spelt differently, guards that count the right rows, values
//! that only the database can say, leftovers of killed runs.

use dpone_tests::{Pg, Project, assert_same_rows, every_case};

use crate::problems::{database, load, project};

#[test]
fn a_key_is_spelt_as_the_source_spells_it() {
    every_case(
        [
            ("numeric", "1.0", "1.00"),
            ("double precision", "0", "-0"),
            ("interval", "1 mon", "30 days"),
            ("char(3)", "a", "a"),
            ("text COLLATE shop.ci", "a", "A"),
        ],
        |(kind, before, after)| {
            let pg = database(
                "CREATE COLLATION shop.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            );
            pg.execute(&format!(
                "CREATE TABLE shop.t (k {kind}, v int); INSERT INTO shop.t VALUES ('{before}', 1); \
                 CREATE TABLE landing.t (k {kind} PRIMARY KEY, v int)"
            ));
            let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [k]");
            project.run("load.yaml", "one").ok();
            pg.execute(&format!("UPDATE shop.t SET k = '{after}'"));
            let second = project.run("load.yaml", "two").ok();
            assert_same_rows("spelling", pg.rows("shop.t"), pg.rows("landing.t"));
            assert_eq!(second.rows("updated"), u64::from(before != after), "{}", second.text());
            let version = pg.value("SELECT xmin::text FROM landing.t");
            let third = project.run("load.yaml", "three").ok();
            assert_eq!((third.rows("updated"), third.rows("unchanged")), (0, 1));
            assert_eq!(pg.value("SELECT xmin::text FROM landing.t"), version, "not touched");
        },
    );
}

/// NaN is greater than every number, and in no bound of a row group.
#[test]
fn a_nan_of_the_last_row_group_is_the_greatest() {
    let pg = database(
        "CREATE TABLE shop.t AS SELECT i AS id, CASE WHEN i = 60000 THEN 'NaN'::float8 ELSE 100000 - i END AS d \
         FROM generate_series(1, 60000) i",
    );
    let project = Project::new().env("DB", pg.url());
    project.write(
        "load.sql",
        "CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DB');\n\
         CREATE CONNECTION lake TYPE parquet OPTIONS ('path' 'lake');\n\
         CREATE PIPELINE nans INTO lake.l.t STRATEGY full_refresh OPTIONS ('parallelism' '1', 'option.row_group_rows' '2000') \
         AS SELECT * FROM db.shop.t;",
    );
    project.run("load.sql", "one").ok();
    for sql in [
        "SELECT d FROM lake.l.t ORDER BY d DESC LIMIT 1",
        "SELECT max(d) AS d FROM lake.l.t",
        "SELECT d FROM lake.l.t WHERE d > 99999",
        "SELECT d FROM lake.l.t JOIN (VALUES ('NaN'::double), (99999.0::double)) v (x) ON d = x ORDER BY 1 DESC LIMIT 1",
        "SELECT d FROM lake.l.t WHERE d IN (SELECT d FROM lake.l.t WHERE id IN (1, 60000)) ORDER BY 1 DESC LIMIT 1",
    ] {
        let arguments = ["query", sql, "--file", "load.sql", "--parallelism", "1", "--format", "csv"];
        assert_eq!(project.dpone(&arguments).ok().stdout(), "d\nNaN\n", "{sql}");
    }
}

/// PostgreSQL is the oracle: to be in a list with NULLs, or not to be in it, may be unknown.
#[test]
fn a_list_that_is_read_from_a_table_may_hold_nulls() {
    let pg = database(
        "CREATE TABLE shop.t (id int PRIMARY KEY, a int, b int, n int NOT NULL);
         INSERT INTO shop.t SELECT i, nullif(i % 7, 0), nullif(i % 5, 4), i % 3 FROM generate_series(1, 200) i;
         CREATE TABLE shop.s (v int, n int NOT NULL, b int);
         INSERT INTO shop.s VALUES (1, 1, 1), (2, 2, 1), (NULL, 5, 2), (3, 1, NULL), (4, 7, 3)",
    );
    let project = Project::new().env("DB", pg.url());
    project.write("db.sql", "CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DB');");
    let mut all = 0;
    for list in [
        "SELECT v FROM db.shop.s",
        "SELECT v FROM db.shop.s WHERE v IS NOT NULL",
        "SELECT v FROM db.shop.s WHERE v > 100",
        "SELECT n FROM db.shop.s",
        "SELECT v + 1 FROM db.shop.s",
        "SELECT s.v FROM db.shop.s s WHERE s.b = t.b",
        "SELECT s.v FROM db.shop.s s WHERE s.b = t.b AND s.n < t.n",
        "SELECT max(v) FROM db.shop.s",
    ] {
        for condition in [
            "a IN (LIST)",
            "a NOT IN (LIST)",
            "n NOT IN (LIST)",
            "a NOT IN (LIST) OR b = 3",
            "a IN (LIST) OR b = 3",
            "b = 3 OR NOT (a IN (LIST) AND n = 1)",
            "n NOT IN (LIST) OR b IS NULL",
            "n = 1 AND (b > 2 OR a + n NOT IN (LIST))",
            "(a IN (LIST)) IS NULL",
            "(a NOT IN (LIST)) IS NOT TRUE",
            "CASE WHEN a IN (LIST) THEN n = 1 ELSE n = 2 END",
            "coalesce(a NOT IN (LIST), b = 1)",
            "a NOT IN (LIST) AND b NOT IN (LIST)",
            "a NOT IN (LIST) OR b NOT IN (LIST)",
        ] {
            let sql = format!("SELECT t.id FROM db.shop.t t WHERE {} ORDER BY 1", condition.replace("LIST", list));
            let found = project.dpone(&["query", &sql, "--file", "db.sql", "--format", "csv"]).ok().stdout();
            let expected = pg.copy_out(&sql.replace("db.", ""), "FORMAT csv, HEADER");
            assert_eq!(found, String::from_utf8_lossy(&expected), "{sql}");
            all += found.lines().count();
        }
    }
    assert!(all > 2_000, "{all}");
}

#[test]
fn a_primary_key_is_trusted_where_the_source_sees_to_it() {
    let trusted = "no two rows have one key";
    let merge = "mode: incremental_merge, unique_key: [id]";
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'a'), (2, 'b')");
    let project = project(&pg, "t", "", "t", merge);
    project.dpone(&["plan", "load.yaml"]).ok().says(trusted);
    project.run("load.yaml", "one").ok();
    assert_same_rows("merged", pg.rows("shop.t"), pg.rows("landing.t"));
    // A table below has rows of its own, for which the key above does not hold.
    pg.execute("CREATE TABLE shop.below () INHERITS (shop.t); INSERT INTO shop.below VALUES (2, 'c')");
    assert!(!project.dpone(&["plan", "load.yaml"]).ok().text().contains(trusted));
    project.run("load.yaml", "two").failed("data_quality").says("1 key(s) occur more than once");
    pg.execute("DROP TABLE shop.below");
    // Of another type, keys may be equal there that are not here.
    pg.execute("DROP TABLE landing.t; CREATE TABLE landing.t (id numeric, v text)");
    assert!(!project.dpone(&["plan", "load.yaml"]).text().contains(trusted));
}

#[test]
fn a_guard_counts_the_rows_that_disappear() {
    let strategies = [
        "mode: full_refresh, overwrite_type: exchange",
        "mode: full_refresh, overwrite_type: truncate_insert",
        "mode: replace, custom_predicate: 'id > 0'",
    ];
    every_case(strategies, |strategy| {
        // As many rows as before, and two keys of them new: the table does not shrink, and two rows disappear.
        let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY, v text)");
        pg.execute("INSERT INTO shop.t SELECT i, 'new' FROM generate_series(3, 12) i");
        pg.execute("CREATE TABLE landing.t (LIKE shop.t INCLUDING ALL)");
        pg.execute("INSERT INTO landing.t SELECT i, 'old' FROM generate_series(1, 10) i");
        let before = pg.rows("landing.t");
        let project = project(&pg, "t", "", "t", &format!("{strategy}, max_delete_rows: 1"));
        project.run("load.yaml", "one").failed("data_quality").says("remove 2 rows").says("max_delete_rows is 1");
        assert_same_rows("nothing was changed", before.clone(), pg.rows("landing.t"));
        project.write("load.yaml", load("t", "", "t", &format!("{strategy}, max_delete_ratio: 0.1")));
        project.run("load.yaml", "two").failed("data_quality").says("2 of 10 rows");
        project
            .write("load.yaml", load("t", "", "t", &format!("{strategy}, max_delete_rows: 2, max_delete_ratio: 0.2")));
        project.run("load.yaml", "three").ok();
        assert_same_rows("replaced", pg.rows("shop.t"), pg.rows("landing.t"));
    });
}

#[test]
fn an_append_between_databases_carries_every_value() {
    let pg = database(
        "CREATE TABLE shop.t (id int, at date, price numeric, seen timestamptz, span int4range); \
         INSERT INTO shop.t VALUES (1, 'infinity', 'NaN', '-infinity', '[1,5)'), (2, '4713-01-01 BC', 1.50, 'infinity', 'empty')",
    );
    let project = project(&pg, "t", "incremental_column: id", "t", "mode: incremental_append");
    project.run("load.yaml", "one").ok();
    // Ties with the watermark: one row that is there, one that is new, and the same row again.
    pg.execute("INSERT INTO shop.t VALUES (2, 'infinity', 'Infinity', NULL, NULL), (2, '4713-01-01 BC', 1.50, 'infinity', 'empty')");
    let second = project.run("load.yaml", "two").ok();
    assert_eq!(second.rows("inserted"), 2, "{}", second.text());
    assert_same_rows("every value", pg.rows("shop.t"), pg.rows("landing.t"));
    project.run("load.yaml", "three").ok();
    assert_same_rows("once", pg.rows("shop.t"), pg.rows("landing.t"));
    let plan = project.dpone(&["plan", "load.yaml", "--format", "json"]).ok().json();
    let raw: Vec<_> = plan["columns"].as_array().unwrap().iter().map(|c| c["raw"].as_bool().unwrap()).collect();
    assert_eq!(raw, [false, true, true, true, true], "{plan:#}");
}

#[test]
fn staging_of_a_committed_run_is_removed_when_the_run_is_repeated() {
    let pg = database("CREATE TABLE shop.t (id int PRIMARY KEY); INSERT INTO shop.t VALUES (1)");
    pg.execute("CREATE TABLE landing.t (id int PRIMARY KEY)");
    let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [id]");
    project.run_with_failpoint("load.yaml", "one", "commit.acknowledged=kill").killed();
    assert_ne!(pg.leftovers(), Vec::<String>::new(), "the process was killed before it could clean up");
    assert_eq!(project.run("load.yaml", "one").ok().status(), "already_committed");
    assert_eq!(pg.leftovers(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_loaded_is_refused_by_column_and_before_staging() {
    let merge = "mode: incremental_merge, unique_key: [k]";
    every_case(["json", "xml", "point"], |kind| {
        let pg = database(&format!("CREATE TABLE shop.t (k {kind}, v int)"));
        let project = project(&pg, "t", "", "t", merge);
        project.run("load.yaml", "one").failed("configuration").says("\"k\"").says(kind).says("hint");
        assert_eq!(project.dpone(&["plan", "load.yaml"]).code(), Some(2));
    });
    let pg = database("CREATE TABLE shop.t (); CREATE TABLE shop.u (a int, b int)");
    let project = project(&pg, "t", "", "t", "mode: full_refresh");
    project.run("load.yaml", "one").failed("configuration").says("no column");
    project.write("load.yaml", load("u", "exclude_columns: [a, b]", "u", "mode: full_refresh"));
    project.run("load.yaml", "two").failed("configuration").says("no column").says("exclude_columns");
}

#[test]
fn a_name_that_the_other_database_does_not_know_fails_with_its_column() {
    let (source, target) = (database("CREATE TABLE shop.t (id int, c regclass)"), database(""));
    source.execute("INSERT INTO shop.t VALUES (1, 'shop.t')");
    let project = between(&source, &target, "SELECT * FROM a.shop.t");
    project.run("load.sql", "one").failed("data_quality").says("\"c\"").says("regclass");
    assert_eq!(target.leftovers(), Vec::<String>::new());
    project.write("load.sql", two_connections("SELECT id, CAST(c AS VARCHAR) AS c FROM a.shop.t"));
    project.run("load.sql", "two").ok();
    assert_eq!(target.value("SELECT c || pg_typeof(c) FROM landing.t"), "shop.ttext");
}

#[test]
fn a_scale_that_old_servers_do_not_have_is_kept_exactly() {
    let (source, target) = (database("CREATE TABLE shop.t (a numeric(5,-2), b numeric(3,5))"), Pg::major(14));
    source.execute("INSERT INTO shop.t VALUES (12300, 0.00123), (-100, NULL)");
    target.execute("CREATE SCHEMA landing");
    let project = between(&source, &target, "SELECT * FROM a.shop.t");
    for run in ["one", "two"] {
        project.run("load.sql", run).ok();
        assert_same_rows(run, source.rows("shop.t"), target.rows("landing.t"));
    }
}

fn two_connections(query: &str) -> String {
    format!(
        "CREATE CONNECTION a TYPE postgres OPTIONS ('url' 'env:A_URL'); \
         CREATE CONNECTION b TYPE postgres OPTIONS ('url' 'env:B_URL'); \
         CREATE PIPELINE tab INTO b.landing.t STRATEGY full_refresh AS {query};"
    )
}

fn between(source: &Pg, target: &Pg, query: &str) -> Project {
    let project = Project::new().env("A_URL", source.url()).env("B_URL", target.url());
    project.write("load.sql", two_connections(query));
    project
}

#[test]
fn columns_that_the_target_fills_by_itself_are_no_drift() {
    let pg = database("CREATE TABLE shop.t (id int, price numeric(10,2)); INSERT INTO shop.t VALUES (1, 2.50), (2, 4)");
    pg.execute(
        "CREATE TABLE landing.t (nr bigint GENERATED ALWAYS AS IDENTITY, id int PRIMARY KEY, price numeric(10,2), \
         double numeric GENERATED ALWAYS AS (price * 2) STORED, loaded int GENERATED BY DEFAULT AS IDENTITY)",
    );
    every_case(
        [
            "mode: incremental_merge, unique_key: [id]",
            "mode: full_refresh, overwrite_type: truncate_insert",
            "mode: full_refresh, overwrite_type: exchange",
        ],
        |strategy| {
            let project = project(&pg, "t", "", "t", strategy);
            project.run("load.yaml", strategy).ok();
            assert_eq!(pg.column("SELECT id || ' ' || double FROM landing.t ORDER BY id"), ["1 5.00", "2 8.00"]);
            assert_eq!(pg.value("SELECT count(DISTINCT nr) || ' ' || count(loaded) FROM landing.t"), "2 2");
        },
    );
    // A plain column that the source lacks is drift, whatever stands beside it.
    pg.execute("ALTER TABLE landing.t ADD note text NOT NULL DEFAULT ''");
    let project = project(&pg, "t", "", "t", "mode: incremental_merge, unique_key: [id]");
    project.run("load.yaml", "drift").failed("data_quality").says("note");
}

#[test]
fn a_view_shows_the_rows_that_its_reader_may_see() {
    let pg = database("CREATE TABLE shop.base (id int, who text); ALTER TABLE shop.base ENABLE ROW LEVEL SECURITY");
    pg.execute(
        "INSERT INTO shop.base SELECT i, CASE i % 2 WHEN 0 THEN 'mine' ELSE 'theirs' END FROM generate_series(1, 10) i",
    );
    let role = format!("reader_{}", pg.value("SELECT md5(current_database())"));
    pg.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA shop TO {role}; GRANT ALL ON SCHEMA landing TO {role}; \
         CREATE POLICY mine ON shop.base FOR SELECT TO {role} USING (who = 'mine'); \
         CREATE VIEW shop.own WITH (security_invoker = true) AS SELECT * FROM shop.base; \
         CREATE VIEW shop.all_rows AS SELECT * FROM shop.base; \
         GRANT SELECT ON shop.base, shop.own, shop.all_rows TO {role}"
    ));
    let url = pg.url().replacen("//postgres@", &format!("//{role}@"), 1);
    for (view, expected) in [("base", 5), ("own", 5), ("all_rows", 10)] {
        let project = Project::new().env("DPONE_CONN_DB_URL", &url);
        project.write("load.yaml", load(view, "", view, "mode: full_refresh"));
        project.run("load.yaml", view).ok();
        assert_eq!(pg.count(&format!("landing.{view}")), expected, "{view}");
    }
    pg.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_join_that_runs_out_of_memory_spills_instead_of_failing() {
    let project = Project::new();
    let rows: String = (0..60).map(|i| format!("{i}\n")).collect();
    for name in ["a", "b", "c", "d"] {
        project.write(&format!("data/{name}.csv"), format!("{name}_id\n{rows}"));
    }
    project.write("files.sql", "CREATE CONNECTION f TYPE file OPTIONS ('path' 'data');");
    let sql =
        "SELECT count(*) AS n FROM f.files.a, f.files.b, f.files.c, f.files.d WHERE a_id + b_id + c_id + d_id = 7";
    let arguments =
        ["query", sql, "--file", "files.sql", "--parallelism", "3", "--memory-limit", "8MB", "--format", "csv"];
    // Four numbers from 0 that add up to 7: 10 over 3.
    assert_eq!(project.dpone(&arguments).ok().stdout(), "n\n120\n");
}
