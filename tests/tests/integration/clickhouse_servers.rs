//! Servers of ClickHouse that go away in the middle of a load and come back, and servers whose clock is not that of UTC.

use std::time::{Duration, Instant};

use dpone_tests::{ClickHouse, ClickHouseServer, Pg, Project, assert_same_rows, every_case};

use crate::clickhouse_sink::{FILE, ROW};
use crate::matrix::{From, Into, manifest};
use crate::orders::{self, STRATEGIES};

/// kill -9 of the server while a load stands still at a step: whatever became of the load, the next ones bring the table to
/// what the oracle says, with no row lost and none twice.
#[test]
fn a_server_that_is_killed_in_the_middle_of_a_load_loses_nothing_of_it() {
    let steps =
        ["stage.partition.batch", "staged", "commit.planned", "commit.step@1", "commit.recorded", "commit.applied"];
    let strategies = ["incremental_append", "incremental_merge", "full_refresh (exchange)"];
    let mut server = ClickHouseServer::start("UTC");
    for by in strategies {
        let strategy = STRATEGIES.iter().find(|s| s.name == by).unwrap();
        for step in steps {
            let what = format!("{by}, killed at {step}");
            let (pg, ch) = (Pg::new(), ClickHouse::at(server.url()));
            let project = Project::new()
                .env("DPONE_CONN_DB_URL", pg.url())
                .env("DPONE_CONN_CH_URL", ch.url())
                .argument("--lease-seconds")
                .argument("2");
            let definition = manifest(From::Postgres, Into::Postgres, strategy);
            let (source, sink) = definition.split_once("sink:").unwrap();
            let sink = sink
                .replace(
                    "type: postgres, connection_type: env, connection_id: DB",
                    "type: clickhouse, connection_type: env, connection_id: CH",
                )
                .replace("schema: landing", &format!("schema: {}", ch.database));
            project.write(FILE, format!("{source}sink:{sink}"));
            orders::seed(&pg);
            project.run(FILE, "first").ok();
            pg.execute(strategy.oracle);
            orders::change(&pg);
            pg.execute(strategy.oracle);
            let load = project.spawn(FILE, "second", &format!("{step}=sleep:3000"));
            std::thread::sleep(Duration::from_millis(1500));
            server.kill();
            std::thread::sleep(Duration::from_millis(2000));
            server.restart();
            load.wait_with_output().unwrap();
            // The lease of the load may still be there.
            let began = Instant::now();
            for run in ["second", "third"] {
                while project.run(FILE, run).code() != Some(0) {
                    assert!(began.elapsed() < Duration::from_secs(60), "{what}: {}", project.run(FILE, run).text());
                    std::thread::sleep(Duration::from_millis(300));
                }
            }
            let expected = pg.column(&format!("SELECT {} FROM oracle.orders", orders::postgres_row()));
            assert_same_rows(&what, expected, ch.column(&format!("SELECT {ROW} FROM orders")));
            assert_eq!(ch.leftovers(), Vec::<String>::new(), "{what}");
        }
    }
}

/// Times without a zone are those of UTC's clock, wherever the server stands: in what is read and written, in filters, in
/// partitions, and in the watermark.
#[test]
fn the_time_zone_of_a_server_changes_nothing() {
    every_case(["Asia/Kolkata", "America/New_York"], |zone| {
        let server = ClickHouseServer::start(zone);
        let (pg, ch) = (Pg::new(), ClickHouse::at(server.url()));
        assert_eq!(ch.value("SELECT timezone()"), *zone);
        let project = Project::new().env("CH", ch.url()).env("DB", pg.url());
        let load = |run: &str, into: &str, strategy: &str, query: &str| {
            project.write(
                "load.sql",
                format!(
                    "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:CH');\n\
                     CREATE CONNECTION db TYPE postgres OPTIONS ('url' 'env:DB');\n\
                     CREATE PIPELINE zones INTO {into} STRATEGY {strategy} AS {query};\n"
                ),
            );
            project.run("load.sql", run).ok()
        };
        // Hours around the ends of a month and of summer time, by their seconds.
        let seconds = "1709164800 + number * 1800 + number % 7";
        ch.execute(
            "CREATE TABLE s (id UInt64, at DateTime, fine DateTime64(3), zoned DateTime64(3, 'Asia/Tokyo')) \
             ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY at",
        );
        let insert = |from: u32, count: u32| {
            ch.execute(&format!(
                "INSERT INTO s SELECT number, toDateTime({seconds}), fromUnixTimestamp64Milli(toInt64({seconds}) * 1000 + 5), \
                 fromUnixTimestamp64Milli(toInt64({seconds}) * 1000 + 7) FROM numbers({from}, {count})"
            ));
        };
        insert(0, 1000);
        let expected = || {
            ch.column(
                "SELECT concat(toString(id), '|', toString(toUnixTimestamp(at)), '|', \
             toString(toUnixTimestamp64Milli(fine)), '|', toString(toUnixTimestamp64Milli(zoned))) FROM s",
            )
        };
        let in_postgres = |table: &str| {
            pg.column(&format!(
                "SELECT concat_ws('|', id, extract(epoch FROM at)::bigint, (extract(epoch FROM fine) * 1000)::bigint, \
                 (extract(epoch FROM zoned) * 1000)::bigint) FROM landing.{table}"
            ))
        };
        let append = "incremental_append CURSOR at";
        let from = format!("SELECT * FROM ch.{}.s", ch.database);
        load("one", "db.landing.t", append, &from);
        assert_same_rows("in PostgreSQL", expected(), in_postgres("t"));
        insert(1000, 50);
        let outcome = load("two", "db.landing.t", append, &from);
        assert_eq!(outcome.rows("inserted"), 50, "{}", outcome.text());
        assert!(outcome.rows("extracted") < 60, "{}", outcome.text());
        assert_same_rows("with what came later", expected(), in_postgres("t"));

        // A day of UTC's clock, by the server and by DataFusion.
        let day = "at >= '2024-03-01' AND at < '2024-03-02' AND fine < '2024-03-01 20:00:00.005'";
        let cast = "CAST(at AS DATE) = '2024-03-01' AND fine < '2024-03-01 20:00:00.005'";
        let in_day = ch.value(
            "SELECT toString(countIf(toDate(at, 'UTC') = '2024-03-01' AND \
             toUnixTimestamp64Milli(fine) < 1709323200005)) FROM s",
        );
        for (run, filter) in [("three", day), ("four", cast)] {
            let outcome = load(run, "db.landing.day", "full_refresh", &format!("{from} WHERE {filter}"));
            assert_eq!(outcome.rows("inserted").to_string(), in_day, "{filter}");
        }

        // Back, into months by the server's clock; and each month replaced by itself.
        let into = format!("ch.{}.back", ch.database);
        let back = "SELECT * FROM db.landing.t";
        let months = "PARTITION BY (\"toYYYYMM(at)\")";
        load("five", &into, &format!("full_refresh {months}"), back);
        let found = |table: &str| {
            ch.column(&format!(
                "SELECT concat(toString(toUInt64(id)), '|', toString(intDiv(toUnixTimestamp64Micro(at), 1000000)), '|', \
                 toString(intDiv(toUnixTimestamp64Micro(fine), 1000)), '|', toString(intDiv(toUnixTimestamp64Micro(zoned), 1000))) \
                 FROM {table}"
            ))
        };
        assert_same_rows("back in ClickHouse", expected(), found("back"));
        let scope = "at >= '2024-03-01' AND at < '2024-03-08'";
        ch.execute("ALTER TABLE back UPDATE id = id + 1 WHERE 1 SETTINGS mutations_sync = 2");
        let before = found(
            "(SELECT * FROM back WHERE NOT (fine >= toDateTime64('2024-03-01', 3, 'UTC') AND \
             fine < toDateTime64('2024-03-08', 3, 'UTC')))",
        );
        load(
            "six",
            &into,
            &format!("replace {months} OPTIONS ('custom_predicate' '{}')", scope.replace('\'', "''")),
            &format!("{back} WHERE {scope}"),
        );
        let replaced = ch.column(
            "SELECT concat(toString(id), '|', toString(toUnixTimestamp(at)), '|', \
             toString(toUnixTimestamp64Milli(fine)), '|', toString(toUnixTimestamp64Milli(zoned))) FROM s \
             WHERE fine >= toDateTime64('2024-03-01', 3, 'UTC') AND fine < toDateTime64('2024-03-08', 3, 'UTC')",
        );
        assert_same_rows("a week replaced", [before, replaced].concat(), found("back"));
    });
}
