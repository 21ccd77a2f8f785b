//! ClickHouse as a source: every strategy against the oracle, and every type compared with what ClickHouse prints.

use dpone_tests::{ClickHouse, Lake, Pg, Project, assert_same_rows, every_case};

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

/// A column, its values, and how ClickHouse, PostgreSQL and DuckDB write them as the same text.
struct Kind {
    native: &'static str,
    values: [&'static str; 3],
    clickhouse: &'static str,
    postgres: &'static str,
    duckdb: &'static str,
    /// Delta has no type for it.
    delta: bool,
}

const fn plain(native: &'static str, values: [&'static str; 3]) -> Kind {
    Kind { native, values, clickhouse: "toString({})", postgres: "{}::text", duckdb: "{}::varchar", delta: true }
}

const fn spelled(
    native: &'static str,
    values: [&'static str; 3],
    clickhouse: &'static str,
    postgres: &'static str,
    duckdb: &'static str,
) -> Kind {
    Kind { native, values, clickhouse, postgres, duckdb, delta: true }
}

const ZOO: &[Kind] = &[
    plain("Nullable(Bool)", ["true", "false", "NULL"]),
    plain("Int8", ["-128", "0", "127"]),
    plain("Int64", ["-9223372036854775808", "0", "9223372036854775807"]),
    plain("UInt32", ["0", "1", "4294967295"]),
    plain("UInt64", ["0", "1", "18446744073709551615"]),
    plain("UInt256", ["0", "1", "'115792089237316195423570985008687907853269984665640564039457584007913129639935'"]),
    plain("Nullable(Float64)", ["1.5", "-0.25", "NULL"]),
    spelled(
        "Decimal(12, 2)",
        ["'0'", "'-0.01'", "'9999999999.99'"],
        "toDecimalString({}, 2)",
        "{}::text",
        "{}::varchar",
    ),
    spelled(
        "Decimal(38, 10)",
        ["'0'", "'-0.0000000001'", "'9999999999999999999999999999.9999999999'"],
        "toDecimalString({}, 10)",
        "{}::text",
        "{}::varchar",
    ),
    plain("Date", ["'1970-01-01'", "'2020-02-29'", "'2149-06-06'"]),
    plain("Nullable(Date32)", ["'1900-01-01'", "'2299-12-31'", "NULL"]),
    plain("String", ["''", "'żółw'", "'it''s | \\\\ \\n'"]),
    plain("LowCardinality(Nullable(String))", ["'a'", "'b'", "NULL"]),
    spelled("FixedString(4)", ["'ab'", "'abcd'", "''"], "lower(hex({}))", "encode({}, 'hex')", "lower(hex({}))"),
    plain(
        "UUID",
        [
            "'00112233-4455-6677-8899-aabbccddeeff'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            "'00000000-0000-0000-0000-000000000000'",
        ],
    ),
    plain("Enum8('low' = -1, 'it''s' = 2)", ["'low'", "'it''s'", "'low'"]),
    plain("IPv4", ["'1.2.3.4'", "'0.0.0.0'", "'255.255.255.255'"]),
    plain("Nullable(IPv6)", ["'::1'", "'2001:db8::1'", "NULL"]),
    spelled(
        "DateTime",
        ["toDateTime(0)", "toDateTime(1577836800)", "toDateTime(4294967295)"],
        "toString(toUnixTimestamp({}))",
        "extract(epoch from {})::bigint::text",
        "(epoch_ms({}) // 1000)::varchar",
    ),
    spelled(
        "DateTime64(3, 'Europe/Berlin')",
        ["'1900-01-01 12:00:00.001'", "'2020-10-25 02:30:00'", "'2299-12-31 00:00:00.999'"],
        "toString(toUnixTimestamp64Milli({}))",
        "(extract(epoch from {}) * 1000)::bigint::text",
        "epoch_ms({}::timestamptz)::varchar",
    ),
    spelled(
        "Nullable(DateTime64(9))",
        ["'1970-01-01 00:00:00.000001'", "'2020-01-01 00:00:00.123456'", "NULL"],
        "toString(toUnixTimestamp64Micro({}))",
        "(extract(epoch from {}) * 1000000)::bigint::text",
        "epoch_us({}::timestamp)::varchar",
    ),
    plain("JSON", ["'{\"a\":1}'", "'{\"b\":[\"x\",2]}'", "'{}'"]),
    plain("Map(String, UInt8)", ["map('k', 1)", "map()", "map('a', 1, 'b', 2)"]),
    plain("Tuple(a Int8, b String)", ["(1, 'x')", "(2, '')", "(-1, 'it''s')"]),
    spelled(
        "Array(Int32)",
        ["[]", "[1]", "[1, -2147483648]"],
        "toString({})",
        "array_to_json({})::text",
        "to_json({})::varchar",
    ),
    Kind { delta: false, ..plain("Int128", ["0", "-5", "'170141183460469231731687303715884105727'"]) },
];

/// All columns of a row as one text.
fn row(spelling: impl Fn(&Kind) -> &'static str, delta: bool, quote: char) -> String {
    let columns: Vec<_> = ZOO
        .iter()
        .enumerate()
        .filter(|(_, kind)| kind.delta || !delta)
        .map(|(n, kind)| spelling(kind).replace("{}", &format!("{quote}c{n}{quote}")))
        .map(|text| format!("coalesce({text}, 'NULL')"))
        .collect();
    columns.join(" || '|' || ")
}

fn zoo(ch: &ClickHouse) {
    let columns: Vec<_> = ZOO.iter().enumerate().map(|(n, kind)| format!("c{n} {}", kind.native)).collect();
    ch.execute(&format!("CREATE TABLE zoo ({}) ENGINE = MergeTree ORDER BY tuple()", columns.join(", ")));
    for at in 0..3 {
        let values: Vec<_> = ZOO.iter().map(|kind| kind.values[at]).collect();
        ch.execute(&format!("INSERT INTO zoo VALUES ({})", values.join(", ")));
    }
}

#[test]
fn every_type_arrives_as_clickhouse_prints_it() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    zoo(&ch);
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
    let load = |sink: &str, options: &str| {
        project.write(
            "load.yaml",
            format!(
                "name: zoo\nsource: {{type: clickhouse, connection_type: env, connection_id: CH, \
                 table: {{schema: {}, name: zoo}}{options}}}\n\
                 sink: {{{sink}, table: {{schema: landing, name: zoo}}, strategy: {{mode: full_refresh}}}}\n",
                ch.database
            ),
        );
        project.run("load.yaml", &ulid::Ulid::generate().to_string()).ok();
    };
    let printed = |delta: bool| ch.column(&format!("SELECT {} FROM zoo", row(|kind| kind.clickhouse, delta, '`')));

    load("type: postgres, connection_type: env, connection_id: DB", "");
    let found = pg.column(&format!("SELECT {} FROM landing.zoo", row(|kind| kind.postgres, false, '"')));
    assert_same_rows("in PostgreSQL", printed(false), found);

    // DuckDB has no decimals of 39 digits either.
    let fewer = ZOO.iter().enumerate().filter(|(_, kind)| !kind.delta).map(|(n, _)| format!("c{n}"));
    let fewer = format!(", options: {{exclude_columns: [{}]}}", fewer.collect::<Vec<_>>().join(", "));
    load("type: delta, path: lake", &fewer);
    let found = Lake::Delta.rows(&project.path("lake/landing/zoo"), &row(|kind| kind.duckdb, true, '"'));
    assert_same_rows("in Delta", printed(true), found);

    load("type: parquet, path: files", &fewer);
    let found = Lake::Parquet.rows(&project.path("files/landing/zoo"), &row(|kind| kind.duckdb, true, '"'));
    assert_same_rows("in Parquet", printed(true), found);
}

/// What goes unread from ClickHouse to ClickHouse arrives as it was, of whatever type.
#[test]
fn every_type_is_the_same_on_the_other_side() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    zoo(&ch);
    let more: &[(&str, &str)] = &[
        ("String", "unhex('ff00')"),
        ("Array(Nullable(String))", "[unhex('ff'), NULL]"),
        ("Array(Array(UInt256))", "[[1], []]"),
        (
            "Map(LowCardinality(String), Array(Nullable(UUID)))",
            "map('k', ['00112233-4455-6677-8899-aabbccddeeff', NULL])",
        ),
        ("Map(String, DateTime64(3))", "map('k', '2020-01-01 00:00:00.123')"),
        ("Tuple(DateTime, DateTime64(6, 'Asia/Tokyo'))", "('2020-01-01 00:00:00', '2020-01-01 00:00:00.123456')"),
        ("Map(String, DateTime64(9))", "map('k', '2020-01-01 00:00:00.123456789')"),
        ("Tuple(a Int8, b Tuple(c Decimal(5, 2)))", "(1, tuple(2.5))"),
        ("Array(Tuple(a Int8, b String))", "[(1, 'x')]"),
        ("Tuple(Int8, String)", "(1, 'x')"),
        ("Time", "'-100:00:00'"),
        ("Time64(9)", "'10:00:00.123456789'"),
        ("Nullable(UInt128)", "'340282366920938463463374607431768211455'"),
        ("DateTime64(9, 'Asia/Tokyo')", "'2020-01-01 00:00:00.123456789'"),
        ("BFloat16", "1.5"),
        ("Decimal(76, 2)", "'12345678901234567890123456789012345678901234567890.12'"),
        ("SimpleAggregateFunction(sum, UInt64)", "5"),
        ("Point", "(1.5, 2)"),
    ];
    for (n, (native, _)) in more.iter().enumerate() {
        ch.execute(&format!("ALTER TABLE zoo ADD COLUMN m{n} {native}"));
    }
    let names: Vec<_> = (0..more.len()).map(|n| format!("m{n}")).collect();
    let values: Vec<_> = more.iter().map(|(_, value)| *value).collect();
    ch.execute(&format!("INSERT INTO zoo ({}) SELECT {}", names.join(", "), values.join(", ")));
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
    let side = "type: clickhouse, connection_type: env, connection_id: CH";
    let mut failed = Vec::new();
    for column in ch.column(&format!("SELECT name FROM system.columns WHERE database = '{}'", ch.database)) {
        project.write(
            "load.yaml",
            format!(
                "name: zoo_{column}\nsource: {{{side}, table: {{schema: {0}, name: zoo}}, options: {{columns: [{column}]}}}}\n\
                 sink: {{{side}, table: {{schema: {0}, name: copy_{column}}}, strategy: {{mode: full_refresh}}}}\n",
                ch.database
            ),
        );
        let outcome = project.run("load.yaml", &format!("copy-{column}"));
        let rows = |table: &str| {
            ch.column(&format!(
                "SELECT concat(toTypeName({column}), ' ', hex(ifNull(toString({column}), 'NULL'))) FROM {table}"
            ))
        };
        let (mut before, native) = (rows("zoo"), ch.value(&format!("SELECT any(toTypeName({column})) FROM zoo")));
        if outcome.code() != Some(0) {
            // Refused, or failed and said so: nothing else is allowed to happen.
            failed.push(format!("{native}: {}", outcome.stderr().lines().next().unwrap_or_default()));
            continue;
        }
        let mut after = rows(&format!("copy_{column}"));
        before.sort();
        after.sort();
        assert_eq!(before, after, "{native}");
    }
    let known = ["Map(String, DateTime64(9))"];
    let other: Vec<_> = failed.iter().filter(|text| !known.iter().any(|native| text.starts_with(native))).collect();
    assert!(other.is_empty(), "{other:#?}");
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
