//! ClickHouse as a source: every strategy into every sink, against the oracle. Its types are in `clickhouse_types`.

use std::io::Read;
use std::process::Stdio;

use dpone_tests::{ClickHouse, Lake, Outcome, Pg, Project, assert_same_rows, every_case};

use crate::clickhouse_sink::ROW;
use crate::matrix::{From, Into, manifest, target_rows};
use crate::orders::{self, STRATEGIES, Strategy};

const ORDERS: &str = "order_id Int64, customer String, note Nullable(String), amount Nullable(Decimal(12, 2)), \
                      weight Nullable(Float64), paid Nullable(Bool), business_date Date32, \
                      updated_at DateTime64(6, 'UTC')";

#[test]
fn clickhouse_to_postgres() {
    every_case(STRATEGIES, |strategy| load_twice(Into::Postgres, strategy));
}

#[test]
fn clickhouse_to_delta() {
    every_case(STRATEGIES, |strategy| load_twice(Into::Lake(Lake::Delta), strategy));
}

#[test]
fn clickhouse_to_parquet() {
    every_case(STRATEGIES, |strategy| load_twice(Into::Lake(Lake::Parquet), strategy));
}

/// What CSV files can be loaded by; the rest is refused in `matrix`.
#[test]
fn clickhouse_to_csv() {
    let appended = STRATEGIES.iter().filter(|s| s.name.starts_with("full_refresh") || s.name == "incremental_append");
    every_case(appended, |strategy| load_twice(Into::Lake(Lake::Csv), strategy));
}

#[test]
fn clickhouse_to_clickhouse() {
    every_case(STRATEGIES, |strategy| load_into_another_database(strategy));
}

/// From one database into another, of the same server.
fn load_into_another_database(strategy: &Strategy) {
    let (pg, ch, into) = (Pg::new(), ClickHouse::new(), ClickHouse::new());
    let what = format!("ClickHouse to ClickHouse, {}", strategy.name);
    let project = Project::new().env("DPONE_CONN_CH_URL", ch.url());
    let definition = manifest(From::Postgres, Into::Postgres, strategy)
        .replace(
            "type: postgres, connection_type: env, connection_id: DB",
            "type: clickhouse, connection_type: env, connection_id: CH",
        )
        .replace("schema: shop", &format!("schema: {}", ch.database))
        .replace("schema: landing", &format!("schema: {}", into.database));
    project.write("load.yaml", definition);
    orders::seed(&pg);
    for (run, step) in [("one", "first load"), ("two", "second load"), ("three", "nothing new")] {
        if run == "two" {
            orders::change(&pg);
        }
        export(&pg, &ch);
        pg.execute(strategy.oracle);
        project.run("load.yaml", run).ok();
        let expected = pg.column(&format!("SELECT {} FROM oracle.orders", orders::postgres_row()));
        assert!(expected.len() > 100, "{what}: the oracle has {} rows", expected.len());
        assert_same_rows(&format!("{what}, {step}"), expected, into.column(&format!("SELECT {ROW} FROM orders")));
        let types = |ch: &ClickHouse| {
            ch.column(&format!("SELECT concat(name, ' ', type) FROM system.columns WHERE database = '{}' AND table = 'orders' ORDER BY name", ch.database))
        };
        assert_eq!(types(&ch), types(&into), "{what}");
        assert_eq!(into.leftovers(), Vec::<String>::new(), "{what}: staging is gone after {step}");
    }
}

/// The rows of PostgreSQL, where the oracle keeps them, as a table of ClickHouse.
fn export(pg: &Pg, ch: &ClickHouse) {
    let rows = pg.copy_out(
        "SELECT order_id, customer, note, amount, weight, paid::text, business_date, updated_at AT TIME ZONE 'UTC' FROM shop.orders",
        "FORMAT text",
    );
    ch.execute("DROP TABLE IF EXISTS orders SYNC");
    ch.execute(&format!("CREATE TABLE orders ({ORDERS}) ENGINE = MergeTree ORDER BY order_id"));
    ch.execute(&format!("INSERT INTO orders FORMAT TSV\n{}", String::from_utf8(rows).unwrap()));
}

fn load_twice(into: Into, strategy: &Strategy) {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    let what = format!("ClickHouse to {into:?}, {}", strategy.name);
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
    let source =
        format!("{{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, ", ch.database);
    let definition = manifest(From::Postgres, into, strategy).replacen(
        "{type: postgres, connection_type: env, connection_id: DB, table: {schema: shop, ",
        &source,
        1,
    );
    assert!(definition.contains(&source), "{definition}");
    project.write("load.yaml", definition);
    orders::seed(&pg);
    for (run, step) in [("one", "first load"), ("two", "second load"), ("three", "nothing new")] {
        if run == "two" {
            orders::change(&pg);
        }
        export(&pg, &ch);
        pg.execute(strategy.oracle);
        project.run("load.yaml", run).ok();
        let expected = pg.column(&format!("SELECT {} FROM oracle.orders", orders::postgres_row()));
        assert!(expected.len() > 100, "{what}: the oracle has {} rows", expected.len());
        assert_same_rows(&format!("{what}, {step}"), expected, target_rows(&pg, &project, into));
    }
}

#[test]
fn queries_tables_and_mistakes_as_a_user_meets_them() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    ch.execute("CREATE TABLE events (id UInt64, at DateTime64(3, 'UTC'), kind LowCardinality(String)) ENGINE = MergeTree ORDER BY id");
    ch.execute(
        "INSERT INTO events SELECT number, toDateTime64(number, 3, 'UTC'), if(number % 2, 'a', 'b') FROM numbers(100)",
    );
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
    let write = |from: &str| {
        project.write(
            "load.sql",
            format!(
                "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:DPONE_CONN_CH_URL', 'settings.max_threads' '2');\n\
                 CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DPONE_CONN_DB_URL');\n\
                 CREATE PIPELINE events INTO db.landing.events STRATEGY incremental_append CURSOR at AS {from};\n"
            ),
        );
    };
    write(&format!("SELECT id, at, kind FROM ch.{}.events WHERE kind = 'a'", ch.database));
    let plan = project.dpone(&["plan", "load.sql"]);
    assert!(plan.text().contains("`kind` = 'a'"), "{}", plan.text());
    project.run("load.sql", "one").ok();
    assert_eq!(pg.value("SELECT count(*) FROM landing.events"), "50");
    ch.execute("INSERT INTO events SELECT number, toDateTime64(number, 3, 'UTC'), 'a' FROM numbers(100, 5)");
    let outcome = project.run("load.sql", "two").ok();
    assert_eq!((outcome.rows("inserted"), outcome.rows("extracted") < 10), (5, true), "{}", outcome.text());

    write(&format!("SELECT * FROM ch.{}.evnts", ch.database));
    project.run("load.sql", "three").failed("configuration").says("events");
    let tested = project.dpone(&["connections", "test", "ch", "--file", "load.sql"]);
    assert!(tested.text().contains("ClickHouse"), "{}", tested.text());
}

/// Its reader waits in the middle of the rows, and the table is another one when it goes on.
#[test]
fn a_query_fails_when_what_it_read_changed_meanwhile() {
    let ch = ClickHouse::new();
    for table in ["t", "other"] {
        ch.execute(&format!("CREATE TABLE {table} (id UInt64) ENGINE = MergeTree ORDER BY id"));
        ch.execute(&format!("INSERT INTO {table} SELECT number FROM numbers(1500000)"));
    }
    let project = Project::new().env("DPONE_CONN_CH_URL", ch.url());
    project.write("db.sql", "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:DPONE_CONN_CH_URL');");
    let sql = format!("SELECT id FROM ch.{}.t", ch.database);
    let query = ["query", &sql, "--file", "db.sql", "--format", "csv", "--parallelism", "2"];
    let mut running = project.command(&query).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    running.stdout.as_mut().unwrap().read_exact(&mut [0; 100]).unwrap();
    ch.execute("EXCHANGE TABLES t AND other");
    let ended = Outcome::new(&query, running.wait_with_output().unwrap());
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr());
    assert!(ended.stderr().contains("another table took its place"), "{}", ended.stderr());
}
