//! `partition_replace` by an expression over a column.

use dpone_tests::{Lake, Pg, Project, assert_same_rows, every_case};

use crate::problems::database;

const DB: &str = "type: postgres, connection_type: env, connection_id: DB";

fn project(pg: &Pg, sink: &str, partition: &str) -> Project {
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
    project.write(
        "load.yaml",
        format!(
            "name: sliced\nsource: {{{DB}, table: {{schema: shop, name: t}}}}\n\
             sink: {{{sink}, table: {{schema: landing, name: t}}, \
             strategy: {{mode: partition_replace, partition: {{{partition}}}}}}}\n"
        ),
    );
    project
}

fn seeded() -> Pg {
    database(
        "CREATE TABLE shop.t (id int, at timestamptz, n bigint, v text);
         INSERT INTO shop.t SELECT g, '2026-01-01T00:00:00Z'::timestamptz + g * interval '1 hour', g - 1000, 'old'
         FROM generate_series(0, 2999) g;
         INSERT INTO shop.t VALUES (-1, NULL, NULL, 'old')",
    )
}

/// What the target holds where `which` is true, as `id:v`, from a reader that is not ours.
fn target(pg: &Pg, project: &Project, kind: &str, which: &str) -> Vec<String> {
    match kind {
        "postgres" => pg.column(&format!("SELECT id || ':' || v FROM landing.t WHERE {which}")),
        lake => {
            let lake = if lake == "delta" { Lake::Delta } else { Lake::Parquet };
            let rows = lake
                .rows(&project.path("lake/landing/t"), &format!("CASE WHEN {which} THEN id || ':' || v ELSE '' END"));
            rows.into_iter().filter(|row| !row.is_empty()).collect()
        }
    }
}

fn sink(kind: &str) -> String {
    match kind {
        "postgres" => DB.to_owned(),
        lake => format!("type: {lake}, path: lake"),
    }
}

#[test]
fn the_partitions_of_an_expression_are_replaced_whole() {
    // The expression, the rows that the source then has, and the rows of the target that are to be replaced.
    let cases = [
        (
            "column: at, value_expression: \"date_trunc('month', at)\"",
            "at >= '2026-02-10Z' AND at < '2026-02-11Z' OR at = '2026-04-02Z'",
            "\"at\" >= TIMESTAMPTZ '2026-02-01 00:00:00+00' AND \"at\" < TIMESTAMPTZ '2026-03-01 00:00:00+00' \
             OR \"at\" >= TIMESTAMPTZ '2026-04-01 00:00:00+00' AND \"at\" < TIMESTAMPTZ '2026-05-01 00:00:00+00'",
        ),
        (
            "column: at, value_expression: CAST(at AS DATE)",
            "at = '2026-01-05T12:00Z' OR at IS NULL",
            "\"at\" >= TIMESTAMPTZ '2026-01-05 00:00:00+00' AND \"at\" < TIMESTAMPTZ '2026-01-06 00:00:00+00' OR \"at\" IS NULL",
        ),
        ("column: n, value_expression: n / 500", "n IN (-3, 700)", "n > -500 AND n < 500 OR n >= 500 AND n < 1000"),
        ("column: n, value_expression: n % 50", "n IN (-3, 7)", "n % 50 IN (-3, 7)"),
    ];
    let cases: Vec<_> =
        ["postgres", "delta", "parquet"].iter().flat_map(|kind| cases.iter().map(move |case| (*kind, *case))).collect();
    every_case(cases, |(kind, (partition, kept, replaced))| {
        let pg = seeded();
        let project = project(&pg, &sink(kind), partition);
        let definition = std::fs::read_to_string(project.path("load.yaml")).unwrap();
        let at_most =
            |most: u32| definition.replace(partition, &format!("{partition}, max_partitions_per_run: {most}"));
        project.write("load.yaml", at_most(4));
        project.run("load.yaml", "one").failed("data_quality").says("max_partitions_per_run is 4");
        project.write("load.yaml", at_most(1000));
        project.run("load.yaml", "one").ok();
        let inside = target(&pg, &project, kind, replaced).len() as u64;
        pg.execute(&format!("DELETE FROM shop.t WHERE NOT coalesce({kept}, false); UPDATE shop.t SET v = 'new'"));
        let fresh = pg.column("SELECT id || ':' || v FROM shop.t");
        assert!(inside > fresh.len() as u64 && !fresh.is_empty(), "{kind} {partition}");
        let done = project.run("load.yaml", "two").ok();
        assert_eq!([done.rows("deleted"), done.rows("inserted")], [inside, fresh.len() as u64], "{kind} {partition}");
        assert_same_rows(partition, fresh, target(&pg, &project, kind, replaced));
        let all = target(&pg, &project, kind, "true").len() as u64;
        assert_eq!(all, 3001 - inside + done.rows("inserted"), "what lies outside stays: {kind} {partition}");
        pg.execute("TRUNCATE shop.t");
        project.run("load.yaml", "three").ok();
        assert_eq!(target(&pg, &project, kind, "true").len() as u64, all, "an empty source replaces nothing: {kind}");
    });
}

#[test]
fn expected_partitions_are_values_of_the_expression() {
    let pg = seeded();
    let partition = "column: at, value_expression: \"date_trunc('month', at)\", expected: ['2026-02-01', 2026-03]";
    let project = project(&pg, DB, partition);
    pg.execute("CREATE TABLE landing.t AS SELECT id, at, n, 'before'::text AS v FROM shop.t");
    pg.execute(
        "DELETE FROM shop.t WHERE at >= '2026-03-01Z'; INSERT INTO shop.t VALUES (5, '2026-02-03Z', 1, 'twice')",
    );
    let plan = project.dpone(&["plan", "load.yaml"]).ok().text();
    assert!(plan.contains("2026-02-01") && plan.contains("2026-04-01"), "{plan}");
    project.run("load.yaml", "one").ok();
    let february = "at >= '2026-02-01Z' AND at < '2026-03-01Z'";
    let rows = |table: &str, which: &str| pg.column(&format!("SELECT (id, at, n, v)::text FROM {table} WHERE {which}"));
    assert_same_rows("february", rows("shop.t", february), rows("landing.t", february));
    assert_eq!(rows("landing.t", "at >= '2026-03-01Z' AND at < '2026-04-01Z'"), [""; 0], "an expected one is emptied");
    assert!(rows("landing.t", "at < '2026-02-01Z' OR at >= '2026-04-01Z'").iter().all(|row| row.contains("before")));
    project.write(
        "load.yaml",
        std::fs::read_to_string(project.path("load.yaml")).unwrap().replace("2026-02-01", "2026-02-02"),
    );
    project.run("load.yaml", "two").failed("configuration").says("2026-02-02").says("begins");
}

#[test]
fn an_expression_that_is_no_partition_is_refused() {
    every_case(
        [
            ("column: at, value_expression: upper(v)", "reads v"),
            ("column: n, value_expression: abs(n)", "whose partitions are known"),
            ("column: id, value_expression: \"date_trunc('month', id)\"", "id"),
            ("column: n, value_expression: n +", "is not an expression"),
        ],
        |(partition, says)| {
            let pg = seeded();
            project(&pg, DB, partition).run("load.yaml", "one").failed("configuration").says(says);
            assert!(!pg.exists("landing.t"));
        },
    );
}
