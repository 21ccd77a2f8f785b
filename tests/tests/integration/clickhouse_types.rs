//! Every type of ClickHouse: to other systems, compared with what ClickHouse prints; to another table of ClickHouse, byte
//! by byte; and what is refused, by name.

use dpone_tests::{ClickHouse, Lake, LossyRelay, Pg, Project, assert_same_rows};

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

#[test]
fn arrays_of_uuids_are_the_same_in_postgres_and_back() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    pg.execute(
        "CREATE SCHEMA shop; CREATE TABLE shop.ids (id int PRIMARY KEY, ids uuid[] NOT NULL); \
         INSERT INTO shop.ids VALUES (1, '{00112233-4455-6677-8899-aabbccddeeff, NULL}'), (2, '{}'), \
         (3, '{ffffffff-0000-1111-2222-333333333333}')",
    );
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
    let postgres = |schema: &str| {
        format!("type: postgres, connection_type: env, connection_id: DB, table: {{schema: {schema}, name: ids}}")
    };
    let clickhouse = format!(
        "type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: ids}}",
        ch.database
    );
    let load = |run: &str, from: &str, into: &str, strategy: &str| {
        project.write(
            "load.yaml",
            format!("name: uuids\nsource: {{{from}}}\nsink: {{{into}, strategy: {{{strategy}}}}}\n"),
        );
        project.run("load.yaml", run).ok()
    };
    load("one", &postgres("shop"), &clickhouse, "mode: full_refresh");
    let native =
        "SELECT type FROM system.columns WHERE table = 'ids' AND name = 'ids' AND database = currentDatabase()";
    assert_eq!(ch.value(native), "Array(Nullable(UUID))");
    let printed = "SELECT arrayStringConcat(arrayMap(x -> ifNull(toString(x), 'NULL'), ids), ',') FROM ids ORDER BY id";
    assert_eq!(
        ch.column(printed),
        ["00112233-4455-6677-8899-aabbccddeeff,NULL", "", "ffffffff-0000-1111-2222-333333333333"]
    );
    let again = load("two", &postgres("shop"), &clickhouse, "mode: snapshot_diff, unique_key: [id]");
    assert_eq!(again.rows("unchanged"), 3, "{}", again.text());
    load("three", &clickhouse, &postgres("landing"), "mode: full_refresh");
    let rows = |schema: &str| pg.column(&format!("SELECT id || pg_typeof(ids)::text || ids::text FROM {schema}.ids"));
    assert_same_rows("back", rows("shop"), rows("landing"));
}

/// Columns, and two values of each: what arrives is compared as the bytes of the server's own binary format.
const SAME: &[(&str, [&str; 2])] = &[
    ("Bool", ["true", "false"]),
    ("Nullable(Bool)", ["true", "NULL"]),
    ("Int8", ["-128", "127"]),
    ("Int16", ["-32768", "32767"]),
    ("Int32", ["-2147483648", "2147483647"]),
    ("Int64", ["-9223372036854775808", "9223372036854775807"]),
    ("Int128", ["'-170141183460469231731687303715884105728'", "'170141183460469231731687303715884105727'"]),
    (
        "Int256",
        [
            "toInt256('-57896044618658097711785492504343953926634992332820282019728792003956564819968')",
            "'57896044618658097711785492504343953926634992332820282019728792003956564819967'",
        ],
    ),
    ("UInt8", ["0", "255"]),
    ("UInt16", ["0", "65535"]),
    ("UInt32", ["0", "4294967295"]),
    ("UInt64", ["0", "18446744073709551615"]),
    ("Nullable(UInt128)", ["'340282366920938463463374607431768211455'", "NULL"]),
    ("Nullable(UInt256)", ["'115792089237316195423570985008687907853269984665640564039457584007913129639935'", "NULL"]),
    ("Float32", ["nan", "-0.0"]),
    ("Float64", ["-inf", "reinterpretAsFloat64(toUInt64(1))"]),
    ("Nullable(Float64)", ["reinterpretAsFloat64(toUInt64(18444492273895866369))", "NULL"]),
    ("BFloat16", ["1.5", "-0.0"]),
    ("Decimal(9, 4)", ["'-99999.9999'", "'0.0001'"]),
    ("Decimal(18, 0)", ["'999999999999999999'", "'-1'"]),
    ("Nullable(Decimal(38, 10))", ["'-9999999999999999999999999999.9999999999'", "NULL"]),
    (
        "Decimal(76, 20)",
        [
            "'-99999999999999999999999999999999999999999999999999999999.99999999999999999999'",
            "'0.00000000000000000001'",
        ],
    ),
    ("Date", ["'1970-01-01'", "'2149-06-06'"]),
    ("Nullable(Date32)", ["'1900-01-01'", "NULL"]),
    ("DateTime", ["toDateTime(0)", "toDateTime(4294967295)"]),
    ("DateTime('Asia/Kathmandu')", ["toDateTime(1)", "toDateTime(1729990800)"]),
    ("DateTime64(0)", ["'1900-01-01 00:00:00'", "'2299-12-31 23:59:59'"]),
    ("DateTime64(3, 'Europe/Berlin')", ["'2020-10-25 02:30:00.001'", "'1900-01-01 12:00:00.001'"]),
    ("Nullable(DateTime64(6))", ["'2299-12-31 23:59:59.999999'", "NULL"]),
    ("DateTime64(7, 'UTC')", ["'2020-01-01 00:00:00.1234567'", "'1969-12-31 23:59:59.9999999'"]),
    ("Nullable(DateTime64(9))", ["'1900-01-01 00:00:00.000000001'", "NULL"]),
    ("DateTime64(9, 'Asia/Tokyo')", ["'2020-01-01 00:00:00.123456789'", "'2262-04-11 23:47:16.854775807'"]),
    ("Time", ["'-100:00:00'", "'999:59:59'"]),
    ("Time64(9)", ["'10:00:00.123456789'", "'-00:00:00.000000001'"]),
    ("String", ["unhex('ff00')", "''"]),
    ("Nullable(String)", ["''", "NULL"]),
    ("LowCardinality(String)", ["unhex('80')", "'b'"]),
    ("LowCardinality(Nullable(String))", ["''", "NULL"]),
    ("LowCardinality(UInt32)", ["1", "4294967295"]),
    ("FixedString(4)", ["'ab'", "unhex('ff000000')"]),
    ("LowCardinality(FixedString(2))", ["'a'", "''"]),
    ("Nullable(FixedString(3))", ["'abc'", "NULL"]),
    ("UUID", ["'00112233-4455-6677-8899-aabbccddeeff'", "'00000000-0000-0000-0000-000000000000'"]),
    ("Nullable(UUID)", ["'ffffffff-ffff-ffff-ffff-ffffffffffff'", "NULL"]),
    ("IPv4", ["'255.255.255.255'", "'0.0.0.1'"]),
    ("Nullable(IPv6)", ["'2001:db8::1'", "NULL"]),
    ("Enum8('low' = -128, 'it''s' = 127)", ["'low'", "'it''s'"]),
    ("Nullable(Enum16('a' = -32768, '' = 0))", ["''", "NULL"]),
    ("JSON", ["'{\"a\":{\"b\":[1,2]},\"c\":\"x\"}'", "'{}'"]),
    ("Array(Nullable(String))", ["[unhex('ff'), NULL, '']", "[]"]),
    ("Array(Array(UInt256))", ["[[1], []]", "[]"]),
    ("Array(Nullable(Decimal(40, 2)))", ["[1.5, NULL]", "[NULL]"]),
    ("Array(DateTime64(3, 'Europe/Berlin'))", ["['2020-10-25 02:30:00.001']", "[]"]),
    ("Array(DateTime64(9))", ["['2020-01-01 00:00:00.123456789', '1900-01-01 00:00:00.000000001']", "[]"]),
    ("Array(LowCardinality(Nullable(String)))", ["['a', NULL]", "[]"]),
    ("Array(Enum8('a' = 1))", ["['a', 'a']", "[]"]),
    ("Array(UUID)", ["['00112233-4455-6677-8899-aabbccddeeff']", "[]"]),
    ("Array(IPv6)", ["['::1']", "[]"]),
    ("Array(Bool)", ["[true, false]", "[]"]),
    ("Array(Tuple(a Int8, b Nullable(String)))", ["[(1, NULL)]", "[]"]),
    ("Map(String, UInt8)", ["map('k', 1, 'j', 2)", "map()"]),
    (
        "Map(LowCardinality(String), Array(Nullable(UUID)))",
        ["map('k', ['00112233-4455-6677-8899-aabbccddeeff', NULL])", "map()"],
    ),
    ("Map(String, DateTime64(3))", ["map('k', '2020-01-01 00:00:00.123')", "map()"]),
    ("Map(String, DateTime64(9))", ["map('k', '2020-01-01 00:00:00.123456789')", "map()"]),
    ("Map(String, DateTime64(8))", ["map('k', '2299-12-31 00:00:00.12345678')", "map()"]),
    ("Map(Date, Nullable(Time))", ["map('2020-01-01', '-10:00:00', '2020-01-02', NULL)", "map()"]),
    ("Map(Int64, Map(String, Decimal(5, 2)))", ["map(1, map('k', 1.25))", "map()"]),
    ("Tuple(a Int8, b Tuple(c Decimal(5, 2)))", ["(1, tuple(2.5))", "(-1, tuple(-2.5))"]),
    ("Tuple(Int8, Nullable(String))", ["(1, NULL)", "(2, '')"]),
    (
        "Tuple(DateTime, DateTime64(6, 'Asia/Tokyo'))",
        ["('2020-01-01 00:00:00', '2020-01-01 00:00:00.123456')", "(toDateTime(0), toDateTime64(0, 6))"],
    ),
    (
        "Tuple(at DateTime64(9, 'UTC'))",
        ["tuple(toDateTime64('2020-01-01 00:00:00.123456789', 9, 'UTC'))", "tuple(toDateTime64(0, 9, 'UTC'))"],
    ),
    ("Tuple(a DateTime64(7), b Int8)", ["('2020-01-01 00:00:00.1234567', 1)", "('2299-12-31 00:00:00.1234567', 1)"]),
    ("Nested(a Int8, b Nullable(String))", ["[1, 2], ['x', NULL]", "[], []"]),
    ("SimpleAggregateFunction(sum, UInt64)", ["5", "0"]),
    ("SimpleAggregateFunction(anyLast, Nullable(String))", ["'x'", "NULL"]),
    ("Point", ["(1.5, 2)", "(0, -0.0)"]),
];

/// The names of the columns of a table, in their order, without the one that rows are sorted by.
fn columns(ch: &ClickHouse, table: &str) -> Vec<String> {
    ch.column(&format!(
        "SELECT name FROM system.columns WHERE database = '{}' AND table = '{table}' AND name != 'n' ORDER BY position",
        ch.database
    ))
}

/// What goes from ClickHouse to ClickHouse arrives as it was, of whatever type, in a table that is made for it, and by
/// every way of changing one.
#[test]
fn every_type_is_the_same_on_the_other_side() {
    let ch = ClickHouse::new();
    same_on_the_other_side(&ch, ch.url(), SAME);
}

/// So it does where all columns go in the server's own format. An insert whose answer got lost is there once.
#[test]
fn flat_types_are_the_same_on_the_other_side() {
    let flat = |native: &str| {
        let inner = native.strip_prefix("Nullable(").and_then(|inner| inner.strip_suffix(')')).unwrap_or(native);
        let bits = ["Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64"];
        let other = ["Bool", "String", "UUID", "Date", "Date32", "DateTime", "DateTime64(6)", "DateTime64(9)"];
        bits.contains(&inner) || other.contains(&inner) || inner.starts_with("Decimal") || inner.starts_with("Fixed")
    };
    let kinds: Vec<_> = SAME.iter().copied().filter(|(native, _)| flat(native)).collect();
    assert_eq!(kinds.len(), 28);
    let ch = ClickHouse::new();
    let authority = ch.url().split('/').nth(2).unwrap();
    let relay = LossyRelay::start(authority, "Native", 1);
    same_on_the_other_side(&ch, &format!("http://127.0.0.1:{}/", relay.port), &kinds);
    assert_eq!(relay.lost(), 1);
}

/// `into` is the URL that is written to.
fn same_on_the_other_side(ch: &ClickHouse, into: &str, kinds: &[(&str, [&str; 2])]) {
    let defined: Vec<_> = kinds.iter().enumerate().map(|(n, (native, _))| format!("c{n} {native}")).collect();
    ch.execute(&format!("CREATE TABLE zoo (n UInt8, {}) ENGINE = MergeTree ORDER BY n SETTINGS allow_suspicious_low_cardinality_types = 1", defined.join(", ")));
    let insert = |number: usize, at: usize| {
        let values: Vec<_> = kinds.iter().map(|(_, values)| values[at]).collect();
        ch.execute(&format!("INSERT INTO zoo VALUES ({number}, {})", values.join(", ")));
    };
    insert(0, 0);
    insert(1, 1);
    let project = Project::new().env("DPONE_CONN_FROM_URL", ch.url()).env("DPONE_CONN_INTO_URL", into);
    let side = "type: clickhouse, connection_type: env, connection_id";
    let load = |strategy: &str| {
        project.write(
            "load.yaml",
            format!(
                "name: zoo\nsource: {{{side}: FROM, table: {{schema: {0}, name: zoo}}}}\n\
                 sink: {{{side}: INTO, table: {{schema: {0}, name: copy}}, strategy: {{{strategy}}}}}\n",
                ch.database
            ),
        );
        project.run("load.yaml", &ulid::Ulid::generate().to_string()).ok()
    };
    let same = |what: &str| {
        for column in columns(ch, "zoo") {
            let native = |table: &str| {
                let name = column.clone();
                ch.value(&format!(
                    "SELECT type FROM system.columns WHERE database = '{}' AND table = '{table}' AND name = '{name}'",
                    ch.database
                ))
            };
            assert_eq!(native("zoo"), native("copy"), "{what}: {column}");
            // The order of the paths in an object is that of the part it lies in.
            let value = if native("zoo") == "JSON" { format!("toString({column})") } else { column.clone() };
            let bytes = |table: &str| ch.bytes(&format!("SELECT n, {value} FROM {table} ORDER BY n FORMAT RowBinary"));
            assert_eq!(bytes("zoo"), bytes("copy"), "{what}: {column} {}", native("zoo"));
        }
    };
    load("mode: full_refresh");
    same("a new table");
    // Values that are the same are known to be.
    let outcome = load("mode: incremental_merge, unique_key: [n]");
    assert_eq!((outcome.rows("updated"), outcome.rows("unchanged")), (0, 2), "{}", outcome.text());
    ch.execute("ALTER TABLE zoo DELETE WHERE n = 0 SETTINGS mutations_sync = 2");
    insert(0, 1);
    insert(2, 0);
    let outcome = load("mode: incremental_merge, unique_key: [n], merge_policy: shadow_swap");
    assert_eq!((outcome.rows("updated"), outcome.rows("inserted")), (1, 1), "{}", outcome.text());
    same("merged");
}

/// Columns of PostgreSQL, and the types that take them.
const TAKEN: &[(&str, &str)] = &[
    ("n % 3 = 0", "Nullable(Bool)"),
    ("n::smallint", "Int16"),
    ("-n::bigint * 1000000007", "Nullable(Int64)"),
    ("n::real / 7", "Float32"),
    ("CASE n % 5 WHEN 0 THEN 'NaN'::float8 WHEN 1 THEN '-0' ELSE n / 7.0 END", "Nullable(Float64)"),
    ("(n * 1.01)::numeric(9, 2)", "Decimal(9, 2)"),
    ("(n * -1.01)::numeric(9, 2)", "Nullable(Decimal(18, 2))"),
    ("(n * 12345678901234567.01)::numeric(38, 4)", "Decimal(38, 4)"),
    ("date '1970-01-01' + n", "Date"),
    ("date '1900-01-01' + n", "Nullable(Date32)"),
    ("timestamp '1999-12-31 23:59:59.999999' + n * interval '1 hour'", "DateTime64(6)"),
    ("timestamptz '1900-01-02 00:00:00.123Z' + n * interval '1 hour'", "Nullable(DateTime64(3, 'Europe/Berlin'))"),
    ("timestamptz '1970-01-01 00:00:01Z' + n * interval '1 hour'", "DateTime('UTC')"),
    ("repeat('żółw ', n % 60)", "String"),
    ("'v' || n % 10", "LowCardinality(Nullable(String))"),
    ("'v' || n % 300", "LowCardinality(String)"),
    ("decode(to_hex(n + 4096), 'hex')", "Nullable(String)"),
    ("md5(n::text)::uuid", "UUID"),
];

/// The server's own format and Arrow's, which is what a compressed insert is, say the same.
#[test]
fn both_formats_of_inserts_say_the_same() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    let columns: Vec<_> = TAKEN.iter().enumerate().map(|(at, (value, _))| format!("{value} AS c{at}")).collect();
    let nullable = TAKEN.iter().enumerate().filter(|(_, (_, native))| native.contains("Nullable"));
    let nulls: Vec<_> =
        nullable.map(|(at, _)| format!("c{at} = CASE WHEN n % 7 <> {} THEN c{at} END", at % 7)).collect();
    pg.execute(&format!(
        "CREATE SCHEMA shop; CREATE TABLE shop.taken AS SELECT n::int, {} FROM generate_series(0, 20000) AS n; \
         UPDATE shop.taken SET {}",
        columns.join(", "),
        nulls.join(", ")
    ));
    let defined: Vec<_> = TAKEN.iter().enumerate().map(|(at, (_, native))| format!("c{at} {native}")).collect();
    for (compression, lost) in [("none", 1), ("lz4", 0)] {
        let table = format!("taken_{compression}");
        ch.execute(&format!("CREATE TABLE {table} (n Int32, {}) ENGINE = MergeTree ORDER BY n", defined.join(", ")));
        let relay = LossyRelay::start(ch.url().split('/').nth(2).unwrap(), "Native", 1);
        let project = Project::new()
            .env("DPONE_CONN_DB_URL", pg.url())
            .env("DPONE_CONN_CH_URL", format!("http://127.0.0.1:{}/?compression={compression}", relay.port));
        project.write(
            "load.yaml",
            format!(
                "name: {table}\nsource: {{type: postgres, connection_type: env, connection_id: DB, \
                 table: {{schema: shop, name: taken}}}}\nsink: {{type: clickhouse, connection_type: env, \
                 connection_id: CH, table: {{schema: {}, name: {table}}}, strategy: {{mode: full_refresh}}}}\n",
                ch.database
            ),
        );
        project.run("load.yaml", &ulid::Ulid::generate().to_string()).ok();
        assert_eq!(relay.lost(), lost, "{compression}: answers to inserts in the server's own format");
        assert_eq!(ch.value(&format!("SELECT count() FROM {table}")), "20001");
    }
    for (at, (value, native)) in TAKEN.iter().enumerate() {
        let bytes = |table: &str| ch.bytes(&format!("SELECT n, c{at} FROM {table} ORDER BY n FORMAT RowBinary"));
        assert_eq!(bytes("taken_none"), bytes("taken_lz4"), "{value} in {native}");
    }
}

/// Texts and bytes of a Parquet file go as views of its pages; in a table with an array, and compressed, as an Arrow stream.
#[test]
fn texts_of_files_arrive_in_both_formats() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    let text = "CASE n % 7 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE repeat('żółw ' || n, n % 60) END";
    let bytes = "CASE WHEN n % 5 > 0 THEN decode(repeat('ff0a', n % 40), 'hex') END";
    pg.execute(&format!(
        "CREATE SCHEMA shop; CREATE TABLE shop.plain AS SELECT n::int, {text} AS words, {bytes} AS bytes, \
         'v' || n % 10 AS kind FROM generate_series(0, 20000) AS n; \
         CREATE TABLE shop.listed AS SELECT *, ARRAY[words, kind] AS list FROM shop.plain"
    ));
    for (table, list, lost) in [("plain", "", 1), ("listed", ", list Array(Nullable(String))", 0)] {
        let mut project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
        project.write(
            "file.yaml",
            format!(
                "name: file\nsource: {{type: postgres, connection_type: env, connection_id: DB, \
                 table: {{schema: shop, name: {table}}}}}\nsink: {{type: parquet, path: lake, \
                 table: {{schema: shop, name: {table}}}, strategy: {{mode: full_refresh}}}}\n"
            ),
        );
        project.run("file.yaml", &ulid::Ulid::generate().to_string()).ok();
        for (compression, lost) in [("none", lost), ("lz4", 0)] {
            let target = format!("{table}_{compression}");
            ch.execute(&format!(
                "CREATE TABLE {target} (n Int32, words Nullable(String), bytes Nullable(String), \
                 kind LowCardinality(String){list}) ENGINE = MergeTree ORDER BY n"
            ));
            let relay = LossyRelay::start(ch.url().split('/').nth(2).unwrap(), "Native", 1);
            let url = format!("http://127.0.0.1:{}/?compression={compression}", relay.port);
            project = project.env("DPONE_CONN_CH_URL", url);
            project.write(
                "load.yaml",
                format!(
                    "name: {target}\nsource: {{type: parquet, path: lake, table: {{schema: shop, name: {table}}}}}\n\
                     sink: {{type: clickhouse, connection_type: env, connection_id: CH, \
                     table: {{schema: {}, name: {target}}}, strategy: {{mode: full_refresh}}}}\n",
                    ch.database
                ),
            );
            project.run("load.yaml", &ulid::Ulid::generate().to_string()).ok();
            assert_eq!(relay.lost(), lost, "{target}: answers to inserts in the server's own format");
            let row = "concat(toString(n), '|', ifNull(hex(words), '-'), '|', ifNull(hex(bytes), '-'), '|', kind)";
            let found = ch.value(&format!(
                "SELECT lower(hex(MD5(arrayStringConcat(groupArray(r), ',')))) FROM (SELECT {row} AS r FROM {target} ORDER BY n)"
            ));
            let row = "concat(n, '|', coalesce(upper(encode(convert_to(words, 'UTF8'), 'hex')), '-'), '|', \
                       coalesce(upper(encode(bytes, 'hex')), '-'), '|', kind)";
            let expected = pg.value(&format!("SELECT md5(string_agg({row}, ',' ORDER BY n)) FROM shop.{table}"));
            assert_eq!(found, expected, "{target}");
        }
    }
    assert_eq!(
        ch.value("SELECT countIf(list[1] IS NOT DISTINCT FROM words AND list[2] = kind) FROM listed_none"),
        "20001"
    );
}

/// Where the server makes other values of a text, it is still looked at before it is sent.
#[test]
fn texts_of_files_become_tuples_without_a_null_in_them() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    pg.execute("CREATE SCHEMA shop; CREATE TABLE shop.told AS SELECT 1 AS n, '(1,2)' AS pair");
    ch.execute("CREATE TABLE told (n Int32, pair Tuple(a Int32, b Int32)) ENGINE = MergeTree ORDER BY n");
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
    let manifest = |name: &str, source: &str, sink: &str| {
        let rest = "table: {schema: shop, name: told}";
        let sink = format!("{{{sink}, strategy: {{mode: full_refresh}}}}");
        project.write(&format!("{name}.yaml"), format!("name: {name}\nsource: {{{source}, {rest}}}\nsink: {sink}\n"));
    };
    manifest(
        "export",
        "type: postgres, connection_type: env, connection_id: DB",
        "type: parquet, path: lake, table: {schema: shop, name: told}",
    );
    let into = format!("table: {{schema: {}, name: told}}", ch.database);
    manifest(
        "load",
        "type: parquet, path: lake",
        &format!("type: clickhouse, connection_type: env, connection_id: CH, {into}"),
    );
    project.run("export.yaml", "one").ok();
    project.run("load.yaml", "one").ok();
    assert_eq!(ch.value("SELECT toString(groupArray(pair)) FROM told"), "[(1,2)]");
    pg.execute("INSERT INTO shop.told VALUES (2, '(NULL,2)')");
    project.run("export.yaml", "two").ok();
    project.run("load.yaml", "two").failed("data_quality").says("\"pair\", row 2");
    assert_eq!(ch.value("SELECT toString(groupArray(pair)) FROM told"), "[(1,2)]");
}

/// A type, a value of it, and who cannot hold it: the column is named, and nothing is made.
const REFUSED: &[(&str, &str, &[&str])] = &[
    (
        "AggregateFunction(sum, UInt64)",
        "initializeAggregation('sumState', toUInt64(1))",
        &["postgres", "delta", "parquet"],
    ),
    ("Dynamic", "1", &["postgres", "delta", "parquet", "clickhouse"]),
    ("Variant(String, UInt8)", "1", &["postgres", "delta", "parquet", "clickhouse"]),
    ("Array(Time)", "['-10:00:00']", &["postgres", "delta"]),
    ("Array(DateTime64(7))", "['2299-12-31 00:00:00.1234567']", &["postgres", "delta"]),
    ("DateTime64(7)", "'2299-12-31 00:00:00.1234567'", &["postgres", "delta"]),
    ("Time", "'-10:00:00'", &["postgres", "delta"]),
    ("Int128", "1", &["delta"]),
    ("Decimal(76, 2)", "1", &["delta"]),
    ("String", "unhex('ff')", &["postgres", "delta", "parquet"]),
    ("Array(String)", "[unhex('ff')]", &["postgres", "delta", "parquet"]),
    ("Map(String, String)", "map('k', unhex('ff'))", &["postgres", "delta", "parquet"]),
];

#[test]
fn what_a_system_cannot_hold_is_refused_by_the_name_of_its_column() {
    let (pg, ch) = (Pg::new(), ClickHouse::new());
    let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
    let mut wrong = Vec::new();
    for (at, (native, value, sinks)) in REFUSED.iter().enumerate() {
        let table = format!("t{at}");
        ch.execute(&format!("CREATE TABLE {table} (n Int8, odd_one {native}) ENGINE = MergeTree ORDER BY n SETTINGS allow_nullable_key = 1"));
        ch.execute(&format!("INSERT INTO {table} SELECT 1, {value}"));
        for sink in *sinks {
            let (into, schema) = match *sink {
                "postgres" => ("type: postgres, connection_type: env, connection_id: DB", "landing"),
                "clickhouse" => ("type: clickhouse, connection_type: env, connection_id: CH", ch.database.as_str()),
                "delta" => ("type: delta, path: lake", "landing"),
                _ => ("type: parquet, path: files", "landing"),
            };
            project.write(
                "load.yaml",
                format!(
                    "name: load_{at}\nsource: {{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: {table}}}}}\n\
                     sink: {{{into}, table: {{schema: {schema}, name: out_{table}}}, strategy: {{mode: full_refresh}}}}\n",
                    ch.database
                ),
            );
            let outcome = project.run("load.yaml", &format!("{sink}-{at}"));
            let named = outcome.stderr().contains("odd_one");
            let class = if outcome.code() == Some(0) {
                "loaded".to_owned()
            } else {
                outcome.json()["result"]["error_class"].to_string()
            };
            if !named || !["\"configuration\"", "\"data_quality\""].contains(&class.as_str()) {
                wrong.push(format!("{native} to {sink}: {class}: {}", outcome.stderr()));
            }
            let there = match *sink {
                "postgres" => pg.exists(&format!("landing.out_{table}")),
                "clickhouse" => ch.exists(&format!("out_{table}")),
                _ => false,
            };
            if there {
                wrong.push(format!("{native} to {sink}: a table was made"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}
