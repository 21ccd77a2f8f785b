//! Reading from a real server: every type, every filter, parts of one moment, what is refused and what breaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod server_support;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::UInt64Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};
use dpone_clickhouse::ClickHouseConnector;
use dpone_clickhouse::client::{Server, Statement};
use dpone_engine::source::ReadTarget;
use dpone_engine::{Connector, Error, ErrorKind, ReadRequest, Relation, ScanExec, Snapshot, Source, SourceTable};
use dpone_planner::types::is_uuid;
use futures::StreamExt;
use server_support::{Break, breaking, connection, database, url};

fn source(server: &Server) -> Arc<dyn Source> {
    let (url, database) = (url(), server.config().database.clone());
    ClickHouseConnector.source(&connection(&[("url", &url), ("database", &database)])).unwrap()
}

fn request(table: &str) -> ReadRequest {
    ReadRequest {
        target: ReadTarget::Table(Relation::new("", table)),
        parallelism: 4,
        batch_rows: 1000,
        ..ReadRequest::default()
    }
}

fn query(sql: &str) -> ReadRequest {
    ReadRequest { target: ReadTarget::Query(sql.into()), ..request("") }
}

async fn open(server: &Server, request: &ReadRequest) -> Result<SourceTable, Error> {
    source(server).snapshot().await?.table(request).await
}

async fn all(provider: Arc<dyn TableProvider>) -> Result<RecordBatch, Error> {
    let schema = provider.schema();
    let batches = SessionContext::new().read_table(provider)?.collect().await?;
    Ok(concat_batches(&schema, &batches)?)
}

fn shown(batch: &RecordBatch, column: usize) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL").with_display_error(false);
    let formatter = ArrayFormatter::try_new(batch.column(column), &options).unwrap();
    (0..batch.num_rows()).map(|row| formatter.value(row).to_string()).collect()
}

/// A type, values as SQL, and each as Arrow shows it.
type Zoo = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const ZOO: Zoo = &[
    ("Bool", &[("true", "true"), ("false", "false")]),
    ("Int8", &[("-128", "-128"), ("127", "127")]),
    ("Int64", &[("-9223372036854775808", "-9223372036854775808")]),
    ("UInt64", &[("18446744073709551615", "18446744073709551615")]),
    ("Int128", &[("'-170141183460469231731687303715884105728'", "-170141183460469231731687303715884105728")]),
    (
        "UInt128",
        &[("'340282366920938463463374607431768211455'", "340282366920938463463374607431768211455"), ("0", "0")],
    ),
    (
        "Int256",
        &[(
            "'-57896044618658097711785492504343953926634992332820282019728792003956564819968'",
            "-57896044618658097711785492504343953926634992332820282019728792003956564819968",
        )],
    ),
    (
        "UInt256",
        &[(
            "'115792089237316195423570985008687907853269984665640564039457584007913129639935'",
            "115792089237316195423570985008687907853269984665640564039457584007913129639935",
        )],
    ),
    ("Float32", &[("1.5", "1.5"), ("nan", "NaN"), ("-inf", "-inf")]),
    ("Float64", &[("-0.", "-0.0"), ("nan", "NaN"), ("1e300", "1e300")]),
    ("BFloat16", &[("1.5", "1.5")]),
    ("Decimal(5, 2)", &[("'999.99'", "999.99"), ("'-0.01'", "-0.01")]),
    ("Decimal(18, 0)", &[("'999999999999999999'", "999999999999999999")]),
    ("Decimal(38, 10)", &[("'-9999999999999999999999999999.9999999999'", "-9999999999999999999999999999.9999999999")]),
    (
        "Decimal(76, 2)",
        &[(
            "'12345678901234567890123456789012345678901234567890.12'",
            "12345678901234567890123456789012345678901234567890.12",
        )],
    ),
    ("Date", &[("'1970-01-01'", "1970-01-01"), ("'2149-06-06'", "2149-06-06")]),
    ("Date32", &[("'1900-01-01'", "1900-01-01"), ("'2299-12-31'", "2299-12-31")]),
    ("DateTime", &[("toDateTime(0)", "1970-01-01T00:00:00"), ("toDateTime(4294967295)", "2106-02-07T06:28:15")]),
    ("DateTime('Europe/Berlin')", &[("'2020-07-01 02:00:00'", "2020-07-01T00:00:00Z")]),
    ("DateTime64(0)", &[("'2020-01-01 00:00:01'", "2020-01-01T00:00:01")]),
    (
        "DateTime64(3)",
        &[
            ("'1900-01-01 00:00:00.123'", "1900-01-01T00:00:00.123"),
            ("'2299-12-31 23:59:59.999'", "2299-12-31T23:59:59.999"),
        ],
    ),
    ("DateTime64(5, 'Asia/Tokyo')", &[("'2020-01-01 09:00:00.12345'", "2020-01-01T00:00:00.123450Z")]),
    ("DateTime64(6, 'UTC')", &[("'1969-12-31 23:59:59.999999'", "1969-12-31T23:59:59.999999Z")]),
    ("DateTime64(8)", &[("'2020-01-01 00:00:00.12345678'", "2020-01-01T00:00:00.123456780")]),
    ("DateTime64(9, 'UTC')", &[("'2262-01-01 00:00:00.123456789'", "2262-01-01T00:00:00.123456789Z")]),
    ("Time", &[("'23:59:59'", "23:59:59")]),
    ("Time64(3)", &[("'00:00:00.123'", "00:00:00.123")]),
    ("Time64(9)", &[("'10:00:00.123456789'", "10:00:00.123456789")]),
    ("String", &[("''", ""), ("'a\\0b'", "a\0b"), ("'żółw'", "żółw")]),
    ("LowCardinality(String)", &[("'x'", "x"), ("'x'", "x"), ("'y'", "y")]),
    ("FixedString(4)", &[("'ab'", "61620000")]),
    ("UUID", &[("'00112233-4455-6677-8899-aabbccddeeff'", "00112233445566778899aabbccddeeff")]),
    ("IPv4", &[("'1.2.3.4'", "1.2.3.4"), ("'255.255.255.255'", "255.255.255.255")]),
    ("IPv6", &[("'2001:db8::1'", "2001:db8::1"), ("'::ffff:1.2.3.4'", "::ffff:1.2.3.4")]),
    ("Enum8('a' = -1, 'it''s' = 2)", &[("'a'", "a"), ("'it''s'", "it's")]),
    ("Enum16('low' = -32768, 'high' = 32767)", &[("'high'", "high")]),
    ("Array(UInt8)", &[("[]", "[]"), ("[1, 255]", "[1, 255]")]),
    ("Array(Nullable(String))", &[("['a', NULL]", "[a, NULL]")]),
    ("Array(Array(Int256))", &[("[[1], [], [-2, 3]]", "[[1], [], [-2, 3]]")]),
    ("Array(Nullable(Int128))", &[("[NULL, 5]", "[NULL, 5]")]),
    ("Array(DateTime64(9, 'UTC'))", &[("['2020-01-01 00:00:00.000000001']", "[2020-01-01T00:00:00.000000001Z]")]),
    ("Array(LowCardinality(String))", &[("['x', 'y']", "[x, y]"), ("[]", "[]")]),
    ("LowCardinality(Nullable(String))", &[("NULL", "NULL"), ("''", ""), ("'x'", "x")]),
    ("Array(LowCardinality(Nullable(FixedString(2))))", &[("['ab', NULL]", "[6162, NULL]")]),
    ("SimpleAggregateFunction(max, Nullable(Decimal(9, 1)))", &[("1.5", "1.5"), ("NULL", "NULL")]),
    ("Array(UUID)", &[("['00112233-4455-6677-8899-aabbccddeeff']", "[00112233445566778899aabbccddeeff]")]),
    ("Tuple(a Int8, b String)", &[("(1, 'x')", "(1,'x')")]),
    ("Map(String, UInt8)", &[("map('k', 1, 'l', 2)", "{'k':1,'l':2}")]),
    ("JSON", &[("'{\"a\":1,\"n\":9007199254740993,\"s\":[\"x\"]}'", "{\"a\":1,\"n\":9007199254740993,\"s\":[\"x\"]}")]),
    ("Point", &[("(1.5, 2)", "(1.5,2)")]),
    ("SimpleAggregateFunction(sum, UInt64)", &[("5", "5")]),
    ("Nullable(UInt256)", &[("NULL", "NULL"), ("7", "7")]),
    ("Nullable(UUID)", &[("NULL", "NULL")]),
    ("Nullable(DateTime64(9))", &[("NULL", "NULL")]),
    ("Nullable(Date)", &[("NULL", "NULL"), ("'2020-02-29'", "2020-02-29")]),
    ("Nullable(Enum8('a' = 1))", &[("NULL", "NULL"), ("'a'", "a")]),
    ("LowCardinality(Nullable(String))", &[("NULL", "NULL"), ("'z'", "z")]),
    ("LowCardinality(UUID)", &[("'00112233-4455-6677-8899-aabbccddeeff'", "00112233445566778899aabbccddeeff")]),
];

#[tokio::test]
async fn every_type_arrives_as_it_is() {
    let server = database("zoo").await;
    for (at, (native, values)) in ZOO.iter().enumerate() {
        let table = format!("t{at}");
        let create = format!("CREATE TABLE {table} (k UInt8, c {native}) ENGINE = MergeTree ORDER BY k");
        server
            .run(Statement::new(create).setting("allow_suspicious_low_cardinality_types", 1))
            .await
            .unwrap_or_else(|e| panic!("{native}: {e}"));
        let rows: Vec<_> = values.iter().enumerate().map(|(k, (sql, _))| format!("({k}, {sql})")).collect();
        server
            .run(format!("INSERT INTO {table} VALUES {}", rows.join(", ")))
            .await
            .unwrap_or_else(|e| panic!("{native}: {e}"));
        let opened = open(&server, &request(&table)).await.unwrap_or_else(|e| panic!("{native}: {e}"));
        let batch = all(opened.provider).await.unwrap_or_else(|e| panic!("{native}: {e}"));
        let expected: Vec<_> = values.iter().map(|(_, shown)| (*shown).to_owned()).collect();
        assert_eq!(shown(&batch, 1), expected, "{native}");
        let is_identifier = native.contains("UUID") && !native.starts_with("Array");
        assert_eq!(is_uuid(batch.schema().field(1)), is_identifier, "{native}");
    }
}

#[tokio::test]
async fn what_cannot_be_carried_is_refused_by_name() {
    let server = database("refused").await;
    server.run("CREATE TABLE t (s String, d DateTime64(9), fs FixedString(3)) ENGINE = Memory").await.unwrap();
    server.run("INSERT INTO t SELECT unhex('ff'), '2020-01-01 00:00:00', 'ab'").await.unwrap();
    server.run("INSERT INTO t SELECT 'ok', '2020-01-01 00:00:00', 'abc'").await.unwrap();
    let error = all(open(&server, &request("t")).await.unwrap().provider).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality);
    assert!(error.to_string().contains("\"s\"") && error.to_string().contains("UTF-8"), "{error}");
    assert!(error.hint().unwrap().contains("bytes"), "{error:?}");
    let mut declared = request("t");
    declared.types = [("s", "bytes"), ("fs", "text"), ("d", "timestamp")].map(|(k, v)| (k.into(), v.into())).into();
    let batch = all(open(&server, &declared).await.unwrap().provider).await.unwrap();
    let mut rows: Vec<_> =
        (0..2).map(|row| (0..3).map(|c| shown(&batch, c)[row].clone()).collect::<Vec<_>>()).collect();
    rows.sort();
    assert_eq!(rows[1], ["ff", "2020-01-01T00:00:00", "ab"]);
    // Further than nanoseconds reach.
    let late = "SELECT toDateTime64('2299-01-01 00:00:00', 8) AS late";
    let error = all(open(&server, &query(late)).await.unwrap().provider).await.unwrap_err();
    assert!(error.to_string().contains("\"late\"") && error.to_string().contains("2262"), "{error}");
    for (sql, named) in [
        ("SELECT sumState(1) AS s", "AggregateFunction"),
        ("SELECT 1::Dynamic AS d", "Dynamic"),
        ("SELECT 1::Variant(Int8, String) AS v", "Variant"),
    ] {
        let error = open(&server, &query(sql)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(named) && error.hint().is_some(), "{error:?}");
    }
    let mut unknown = request("t");
    unknown.types = [("z".to_owned(), "text".to_owned())].into();
    assert!(open(&server, &unknown).await.unwrap_err().to_string().contains("no such column"));
}

fn hexadecimal(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn raw_columns_are_what_the_server_sends() {
    let server = database("raw").await;
    let types = [
        "String",
        "Int128",
        "UInt256",
        "Enum8('a' = 1)",
        "IPv6",
        "Nullable(IPv4)",
        "UUID",
        "Array(String)",
        "Map(String, Array(Nullable(UUID)))",
        "Tuple(a Int8, b Tuple(c Decimal(5, 2)))",
        "Time",
        "Map(Date, DateTime64(8))",
        // What Arrow has no type for: as text, and what is beside it as it is.
        "Map(String, Nullable(Time))",
        "Array(Array(Nullable(Time64(3))))",
        "Map(LowCardinality(String), Array(LowCardinality(Nullable(String))))",
        "Tuple(a Time, b DateTime('Europe/Berlin'), c BFloat16)",
        "Nullable(DateTime64(7))",
        "Tuple(IPv4, Time, LowCardinality(Nullable(Float64)))",
    ];
    let columns: Vec<_> = types.iter().enumerate().map(|(at, native)| format!("c{at} {native}")).collect();
    let create = format!("CREATE TABLE t ({}) ENGINE = Memory", columns.join(", "));
    server.run(Statement::new(create).setting("allow_suspicious_low_cardinality_types", 1)).await.unwrap();
    let values = "unhex('ff'), -5, 7, 'a', '::1', NULL, '00112233-4455-6677-8899-aabbccddeeff', [unhex('ff')], \
                  map('k', ['00112233-4455-6677-8899-aabbccddeeff', NULL]), (1, tuple(2.5)), '-100:00:00', \
                  map('2024-02-29'::Date, toDateTime64('2299-12-31 10:00:00.12345678', 8, 'UTC')), map('k', NULL), \
                  [[CAST('-01:00:00.5' AS Time64(3)), NULL], []], map('k', ['x', NULL, 'x'], 'l', []), \
                  ('-10:00:00', toDateTime(1729990800, 'Europe/Berlin'), 1.5), toDateTime64(-1.5, 7), \
                  tuple('1.2.3.4', '10:00:00', NULL)";
    server.run(format!("INSERT INTO t SELECT {values}")).await.unwrap();
    let raw = ReadRequest { raw: (0..types.len()).map(|at| format!("c{at}")).collect(), ..request("t") };
    let batch = all(open(&server, &raw).await.unwrap().provider).await.unwrap();
    let shown: Vec<_> = (0..types.len()).map(|column| shown(&batch, column).remove(0)).collect();
    assert_eq!(shown[0], "ff");
    assert_eq!(shown[1], "fbffffffffffffffffffffffffffffff");
    assert_eq!((shown[3].as_str(), shown[5].as_str(), shown[7].as_str()), ("1", "NULL", "[ff]"));
    assert_eq!(shown[8], "{6b: [00112233445566778899aabbccddeeff, NULL]}");
    assert_eq!(shown[11], "{2024-02-29: 10413741600.12345678}");
    assert_eq!(shown[12], "{6b: NULL}");
    assert_eq!(shown[16], "-1.5000000");
    assert_eq!(shown[17], format!("{{1: 16909060, 2: {}, 3: NULL}}", hexadecimal("10:00:00")));
    assert_eq!(shown[15], format!("{{a: {}, b: 2024-10-27T01:00:00, c: 1.5}}", hexadecimal("-10:00:00")));
    assert_eq!(shown[13], format!("[[{}, NULL], []]", hexadecimal("-01:00:00.500")));
    assert_eq!(shown[14], "{6b: [78, NULL, 78], 6c: []}");
    assert_eq!((shown[9].as_str(), shown[10].as_str()), ("{a: 1, b: {c: 2.50}}", "2d3130303a30303a3030"));
}

#[tokio::test]
async fn queries_are_read_and_do_nothing_else() {
    let server = database("queries").await;
    server.run("CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id").await.unwrap();
    let opened = open(&server, &query("SELECT number AS n FROM numbers(5) -- all of them\n;")).await.unwrap();
    assert_eq!(all(opened.provider).await.unwrap().num_rows(), 5);
    let nothing = all(open(&server, &query("SELECT NULL AS n, 1 AS m")).await.unwrap().provider).await.unwrap();
    assert_eq!((nothing.num_rows(), nothing.column(0).null_count()), (1, 1));
    for sql in ["DROP TABLE t", "INSERT INTO t VALUES (1)", "SELECT 1) UNION ALL (SELECT 2", "", "SELECT 1 FORMAT TSV"]
    {
        let error = open(&server, &query(sql)).await.expect_err(sql);
        assert_eq!(error.kind(), ErrorKind::Configuration, "{sql}: {error}");
    }
    assert_eq!(server.scalar::<u64>("SELECT count() FROM t").await.unwrap(), 0);
    let error = open(&server, &request("tt")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.hint().unwrap().contains(".t"), "{error:?}");
    let database = Relation { database: Some("x".into()), ..Relation::new("y", "z") };
    let error = open(&server, &ReadRequest { target: ReadTarget::Table(database), ..request("") }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}

const COLUMNS: &str = "id UInt64, i Nullable(Int32), u UInt64, w Int128, f Float64, g Nullable(Float32), t String, \
                       l LowCardinality(Nullable(String)), n Nullable(Decimal(9, 2)), b Nullable(Bool), day Date, \
                       d32 Nullable(Date32), ts DateTime64(3, 'Europe/Berlin'), sec DateTime, fine DateTime64(9), \
                       e Nullable(Enum8('low' = -1, 'high' = 2)), k UUID, fs FixedString(2), x UInt256";

async fn edges(server: &Server) {
    let index = "INDEX by_sec sec TYPE bloom_filter GRANULARITY 1";
    server.run(format!("CREATE TABLE edges ({COLUMNS}, {index}) ENGINE = MergeTree ORDER BY id")).await.unwrap();
    server
        .run(
            "INSERT INTO edges SELECT number, \
             [NULL, 0, -1, 5, 2147483647, -2147483648][number % 6 + 1], \
             [0, 5, 18446744073709551615, 9223372036854775808][number % 4 + 1], \
             [toInt128(0), toInt128(5), toInt128('-170141183460469231731687303715884105728')][number % 3 + 1], \
             [0., -0., 1.5, -1.5, nan, inf, -inf, reinterpretAsFloat64(toUInt64(0xfff8000000000000))][number % 8 + 1], \
             [NULL, 0.1, -0., nan, 2.5, reinterpretAsFloat32(toUInt32(0xffc00000))][number % 6 + 1], \
             ['', 'a', 'ab', 'żółw', 'a\\nb', '100%', 'B', 'a_b', 'it''s', 'back\\\\slash'][number % 10 + 1], \
             [NULL, 'a', 'b', ''][number % 4 + 1], \
             [NULL, toDecimal32('0', 2), toDecimal32('-0.01', 2), toDecimal32('9999999.99', 2)][number % 4 + 1], \
             [NULL, true, false][number % 3 + 1], \
             [toDate('1970-01-01'), toDate('2020-02-29'), toDate('2149-06-06')][number % 3 + 1], \
             [NULL, toDate32('1900-01-01'), toDate32('2299-12-31'), toDate32('2020-02-29')][number % 4 + 1], \
             [toDateTime64('2020-03-29 01:59:59.999', 3, 'UTC'), toDateTime64('1900-01-01 00:00:00', 3, 'UTC'), \
              toDateTime64('2020-10-25 00:30:00.5', 3, 'UTC')][number % 3 + 1], \
             [toDateTime(0), toDateTime(4294967295), toDateTime(1577836800)][number % 3 + 1], \
             [toDateTime64('2020-01-01 00:00:00.000000001', 9, 'UTC'), toDateTime64('1969-12-31 23:59:59.999999999', 9, 'UTC')][number % 2 + 1], \
             [NULL, 'low', 'high'][number % 3 + 1], \
             [toUUID('00112233-4455-6677-8899-aabbccddeeff'), toUUID('ff112233-4455-6677-0099-aabbccddeeff')][number % 2 + 1], \
             ['a', 'ab', 'b'][number % 3 + 1], \
             [toUInt256(1), toUInt256('115792089237316195423570985008687907853269984665640564039457584007913129639935')][number % 2 + 1] \
             FROM numbers(420)",
        )
        .await
        .unwrap();
}

/// Comparisons of each column with each of its values, and what is built of them.
fn expressions() -> Vec<String> {
    let values: &[(&str, &[&str])] = &[
        ("i", &["0", "-1", "5", "2147483647", "99999999999"]),
        ("u", &["0", "5", "18446744073709551615", "9223372036854775808"]),
        ("w", &["5", "-170141183460469231731687303715884105728"]),
        ("f", &["1.5", "-1.5", "0.0", "-0.0", "0.1", "'NaN'::double", "'Infinity'::double"]),
        ("g", &["2.5", "0.1", "cast(0.1 as real)", "'NaN'::real"]),
        ("t", &["''", "'a'", "'żółw'", "'it''s'", "'B'", "'back\\slash'"]),
        ("l", &["'a'", "''", "'nothing'"]),
        ("n", &["0", "-0.01", "9999999.99", "0.005", "12345678901.5"]),
        ("b", &["true", "false"]),
        ("day", &["date '1970-01-01'", "date '2020-02-29'", "date '2200-01-01'", "date '1960-01-01'"]),
        ("d32", &["date '1900-01-01'", "date '2299-12-31'", "date '1800-01-01'"]),
        (
            "ts",
            &[
                "timestamptz '2020-03-29T01:59:59.999Z'",
                "timestamptz '1900-01-01T00:00:00Z'",
                "timestamptz '2020-10-25T00:30:00.500001Z'",
            ],
        ),
        (
            "sec",
            &[
                "timestamp '1970-01-01T00:00:00'",
                "timestamp '2106-02-07T06:28:15'",
                "timestamp '2020-01-01T00:00:00.5'",
            ],
        ),
        (
            "fine",
            &[
                "arrow_cast(1577836800000000001, 'Timestamp(Nanosecond, None)')",
                "arrow_cast(-1, 'Timestamp(Nanosecond, None)')",
            ],
        ),
        ("e", &["'low'", "'high'", "'none'"]),
        ("k", &["arrow_cast(x'00112233445566778899aabbccddeeff', 'FixedSizeBinary(16)')"]),
        ("fs", &["arrow_cast(x'6100', 'FixedSizeBinary(2)')"]),
        ("x", &["'1'"]),
    ];
    let mut all = Vec::new();
    for (column, values) in values {
        all.push(format!("{column} IS NULL"));
        all.push(format!("{column} IS NOT NULL"));
        for value in *values {
            for op in ["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"] {
                all.push(format!("{column} {op} {value}"));
            }
            all.push(format!("NOT ({column} > {value})"));
            all.push(format!("({column} = {value}) IS NOT TRUE"));
            all.push(format!("({column} < {value}) IS UNKNOWN"));
            all.push(format!("{value} >= {column} OR i = 5"));
        }
        let list = values.join(", ");
        all.push(format!("{column} IN ({list})"));
        all.push(format!("{column} NOT IN ({list})"));
        all.push(format!("NOT ({column} IN ({list}) AND i > 0)"));
        all.push(format!("{column} BETWEEN {} AND {}", values[0], values[values.len() - 1]));
        all.push(format!("{column} NOT BETWEEN {} AND {}", values[0], values[values.len() - 1]));
    }
    for (column, literal) in [("sec", "timestamp"), ("ts", "timestamptz"), ("day", "date"), ("d32", "date")] {
        let time = if literal == "date" { "" } else { "T00:00:00Z" };
        let time = if literal == "timestamp" { time.trim_end_matches('Z') } else { time };
        let list: Vec<_> = (1..=12).map(|month| format!("{literal} '2020-{month:02}-01{time}'")).collect();
        all.push(format!("{column} IN ({})", list.join(", ")));
        all.push(format!("{column} NOT IN ({})", list.join(", ")));
    }
    for pattern in ["a%", "%b", "%a%", "a_b", "", "%", "100%", "100\\%", "a%b", "%\\%%", "it''s"] {
        all.push(format!("t LIKE '{pattern}'"));
        all.push(format!("t NOT LIKE '{pattern}'"));
        all.push(format!("l LIKE '{pattern}'"));
    }
    for text in [
        "i % 7 = 1",
        "i % -7 = 0",
        "u % 7 > 2",
        "i = u",
        "t = l",
        "t < l",
        "i < id",
        "b",
        "NOT b",
        "b IS TRUE",
        "b IS NOT FALSE",
        "b IS UNKNOWN",
        "cast(i as bigint) > 4294967296",
        "f = g",
        "cast(g as double) = 2.5",
        "day = d32",
        "i IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)",
        "i NOT IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)",
        "i IN (1, NULL)",
        "i NOT IN (1, NULL)",
        "i = NULL",
        "id > 100 AND (t = 'a' OR l IS NULL) AND NOT b",
        "false",
        "i + 1 > 0",
        "l NOT IN ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'j')",
    ] {
        all.push(text.to_owned());
    }
    all
}

#[tokio::test]
async fn a_filter_means_the_same_wherever_it_runs() {
    let server = database("filters").await;
    edges(&server).await;
    let provider = open(&server, &request("edges")).await.unwrap().provider;
    let rows = all(Arc::clone(&provider)).await.unwrap();
    assert_eq!(rows.num_rows(), 420);
    let config = SessionConfig::new().with_target_partitions(1);
    let context = SessionContext::new_with_config(config);
    context.register_table("there", provider).unwrap();
    context.register_table("here", Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap())).unwrap();
    let (mut pushed, mut compared) = (0, 0);
    for expression in expressions() {
        let ask = |table: &str| format!("SELECT id FROM {table} WHERE {expression} ORDER BY id");
        let mut filtered_here = true;
        let mut ids = async |table: &str| -> Result<Vec<u64>, Error> {
            let plan = context.sql(&ask(table)).await?.create_physical_plan().await?;
            filtered_here = displayable(plan.as_ref()).indent(false).to_string().contains("FilterExec");
            let batches = datafusion::physical_plan::collect(plan, context.task_ctx()).await?;
            Ok(batches.iter().flat_map(|b| b.column(0).as_primitive::<UInt64Type>().values().to_vec()).collect())
        };
        match (ids("here").await, ids("there").await) {
            (Ok(here), Ok(there)) => assert_eq!(there, here, "{expression}"),
            (Err(_), Err(_)) => continue,
            (here, there) => panic!("{expression}: here {here:?}, there {there:?}"),
        }
        compared += 1;
        pushed += usize::from(!filtered_here);
    }
    assert!(compared > 500 && pushed > 350, "{pushed} of {compared} were pushed down");
}

#[tokio::test]
async fn projections_limits_and_counts_reach_the_server() {
    let server = database("narrow").await;
    edges(&server).await;
    let context = SessionContext::new();
    context.register_table("t", open(&server, &request("edges")).await.unwrap().provider).unwrap();
    let count = async |sql: &str| -> usize {
        context.sql(sql).await.unwrap().collect().await.unwrap().iter().map(RecordBatch::num_rows).sum()
    };
    assert_eq!(count("SELECT t FROM t LIMIT 7").await, 7);
    assert_eq!(count("SELECT l, id FROM t WHERE l = 'a' LIMIT 1000").await, 105);
    let counted = context.sql("SELECT count(*) FROM t WHERE b").await.unwrap().collect().await.unwrap();
    assert_eq!(shown(&counted[0], 0), ["140"]);
    assert_eq!(count("SELECT * FROM t WHERE false").await, 0);
}

async fn partitions(server: &Server, snapshot: &Arc<dyn Snapshot>, table: &str) -> (usize, Vec<u64>) {
    let opened = snapshot.table(&request(table)).await.unwrap();
    let context = SessionContext::new();
    let state = context.state();
    let id = opened.provider.schema().index_of("id").unwrap();
    let plan = opened.provider.scan(&state, Some(&vec![id]), &[], None).await.unwrap();
    let plan: &dyn std::any::Any = plan.as_ref();
    let scan = Arc::clone(plan.downcast_ref::<ScanExec>().unwrap().scan());
    // As another process would.
    let scan = source(server).scan(&scan.spec()).unwrap();
    let mut ids = Vec::new();
    for partition in 0..scan.partitions() {
        let mut batches = scan.read(partition, 1000).unwrap();
        while let Some(batch) = batches.next().await {
            let batch = batch.unwrap_or_else(|e| panic!("{}: {e}", scan.describe(partition)));
            assert!(batch.num_rows() <= 1000);
            ids.extend(batch.column(0).as_primitive::<UInt64Type>().values().iter().copied());
        }
    }
    (scan.partitions(), ids)
}

#[tokio::test]
async fn parts_are_all_rows_and_no_row_twice() {
    let server = database("parts").await;
    for (table, create, rows) in [
        ("by_key", "(id UInt64) ENGINE = MergeTree ORDER BY id", "number"),
        (
            "by_text",
            "(id UInt64, s String) ENGINE = MergeTree ORDER BY (s, id)",
            "number, toString(cityHash64(number))",
        ),
        ("by_time", "(id UInt64, s DateTime64(3)) ENGINE = MergeTree ORDER BY s", "number, toDateTime64(number, 3)"),
        ("by_partition", "(id UInt64) ENGINE = MergeTree PARTITION BY id % 8 ORDER BY tuple()", "number"),
        (
            "by_hash",
            "(id UInt64, f Nullable(Float64)) ENGINE = MergeTree ORDER BY f SETTINGS allow_nullable_key = 1",
            "number, if(number % 2, NULL, rand())",
        ),
        ("replacing", "(id UInt64, v UInt8) ENGINE = ReplacingMergeTree(v) ORDER BY id", "number, 1"),
    ] {
        server.run(format!("CREATE TABLE {table} {create}")).await.unwrap();
        server.run(format!("INSERT INTO {table} SELECT {rows} FROM numbers(2000000)")).await.unwrap();
        let snapshot = source(&server).snapshot().await.unwrap();
        let (parts, ids) = partitions(&server, &snapshot, table).await;
        assert_eq!(parts, 4, "{table}");
        assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (2_000_000, 2_000_000), "{table}");
        snapshot.verify().await.unwrap();
    }
}

#[tokio::test]
async fn parts_are_of_one_moment_or_the_read_fails() {
    let server = database("moments").await;
    server.run("CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id").await.unwrap();
    server.run("INSERT INTO t SELECT number FROM numbers(2000000)").await.unwrap();
    server.run("SYSTEM STOP MERGES t").await.unwrap();
    let snapshot = source(&server).snapshot().await.unwrap();
    let opened = snapshot.table(&request("t")).await.unwrap();
    server.run("INSERT INTO t SELECT number FROM numbers(2000000, 10)").await.unwrap();
    assert_eq!(all(Arc::clone(&opened.provider)).await.unwrap().num_rows(), 2_000_000);
    snapshot.verify().await.unwrap();
    // A merge makes the new rows one part with the old ones.
    server.run("SYSTEM START MERGES t").await.unwrap();
    server.run("OPTIMIZE TABLE t FINAL").await.unwrap();
    let unread = snapshot.verify().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let late = source(&server).snapshot().await.unwrap();
    let opened = late.table(&request("t")).await.unwrap();
    server.run("ALTER TABLE t DELETE WHERE id < 10 SETTINGS mutations_sync = 2").await.unwrap();
    all(opened.provider).await.unwrap();
    let error = late.verify().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("changed or deleted"), "{error}");
    // Within the two seconds that the server's clock is coarse, a merge counts as one during the read.
    if let Err(error) = unread {
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
}

/// Rows that go and come again, in the same table or in another one of its name, are new ones.
#[tokio::test]
async fn a_table_that_is_filled_again_while_it_is_read_fails_the_read() {
    let server = database("refilled").await;
    let create = |table: &str| format!("CREATE TABLE {table} (id UInt64) ENGINE = MergeTree ORDER BY id");
    let fill = |table: &str| format!("INSERT INTO {table} SELECT number FROM numbers(600000)");
    let many = "SETTINGS max_insert_block_size = 1000000, min_insert_block_size_rows = 1000000";
    let cases: [(&[String], &str); 6] = [
        (&["TRUNCATE TABLE t".into(), "INSERT INTO t VALUES (1)".into()], "dropped, detached or replaced"),
        (
            &["ALTER TABLE t DETACH PARTITION tuple()".into(), "ALTER TABLE t ATTACH PARTITION tuple()".into()],
            "dropped, detached or replaced",
        ),
        (&["ALTER TABLE t DROP PART 'all_2_2_0'".into()], "dropped, detached or replaced"),
        (&[create("other"), fill("other"), "EXCHANGE TABLES t AND other".into()], "another table"),
        (&["DROP TABLE t SYNC".into(), create("t"), fill("t"), fill("t")], "another table"),
        (&["DROP TABLE t SYNC".into()], "another table"),
    ];
    for (statements, why) in cases {
        server.run("DROP TABLE IF EXISTS t SYNC").await.unwrap();
        server.run(create("t")).await.unwrap();
        server.run("SYSTEM STOP MERGES t").await.unwrap();
        for _ in 0..2 {
            server.run(format!("{} {many}", fill("t"))).await.unwrap();
        }
        let snapshot = source(&server).snapshot().await.unwrap();
        let opened = snapshot.table(&request("t")).await.unwrap();
        let (parts, ids) = partitions(&server, &snapshot, "t").await;
        assert!(parts > 1 && ids.len() == 1_200_000, "{parts} parts, {} rows", ids.len());
        snapshot.verify().await.unwrap();
        for statement in statements {
            server.run(statement.clone()).await.unwrap();
        }
        let error = snapshot.verify().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{statements:?}");
        assert!(error.to_string().contains(why), "{statements:?}: {error}");
        drop(opened);
    }
}

#[tokio::test]
async fn tables_that_merge_rows_are_read_as_if_they_had() {
    let server = database("final").await;
    server.run("CREATE TABLE t (id UInt64, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY id").await.unwrap();
    server.run("SYSTEM STOP MERGES t").await.unwrap();
    for v in 1..4 {
        server.run(format!("INSERT INTO t SELECT number, {v} FROM numbers(10)")).await.unwrap();
    }
    let opened = open(&server, &request("t")).await.unwrap();
    assert_eq!(opened.key, ["id"]);
    assert!(opened.notes.iter().any(|note| note.contains("FINAL")), "{:?}", opened.notes);
    let batch = all(opened.provider).await.unwrap();
    assert_eq!((batch.num_rows(), shown(&batch, 1)), (10, vec!["3".to_owned(); 10]));
}

#[tokio::test]
async fn a_table_that_shows_rows_of_others_is_read_as_they_are() {
    let server = database("shown").await;
    for statement in [
        "CREATE TABLE plain (id UInt64, v UInt64) ENGINE = MergeTree ORDER BY id",
        "CREATE TABLE other (id UInt64, v UInt64) ENGINE = MergeTree ORDER BY id",
        "CREATE TABLE last (id UInt64, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY id",
        "CREATE MATERIALIZED VIEW into_last TO last AS SELECT * FROM plain",
        "CREATE MATERIALIZED VIEW into_other TO other AS SELECT * FROM plain",
        "CREATE MATERIALIZED VIEW own ENGINE = ReplacingMergeTree(v) ORDER BY id AS SELECT * FROM plain",
        "CREATE TABLE merge AS last ENGINE = Merge(currentDatabase(), '^last$')",
        "CREATE TABLE buffer AS last ENGINE = Buffer(currentDatabase(), last, 1, 10, 100, 10000, 1000000, 1000000, 10000000)",
    ] {
        server.run(statement).await.unwrap();
    }
    for v in 1..4 {
        server.run(format!("INSERT INTO plain SELECT number, {v} FROM numbers(10)")).await.unwrap();
    }
    for (table, last) in [("into_last", true), ("own", true), ("merge", true), ("buffer", true), ("into_other", false)]
    {
        let opened = open(&server, &request(table)).await.unwrap();
        assert_eq!(opened.notes.iter().any(|note| note.contains("FINAL")), last, "{table}: {:?}", opened.notes);
        assert_eq!(all(opened.provider).await.unwrap().num_rows(), if last { 10 } else { 30 }, "{table}");
    }
}

#[tokio::test]
async fn what_goes_while_it_is_read_is_a_conflict() {
    let server = database("gone").await;
    for statement in ["ALTER TABLE t DROP COLUMN v", "ALTER TABLE t MODIFY COLUMN v String", "DROP TABLE t SYNC"] {
        server.run("DROP TABLE IF EXISTS t SYNC").await.unwrap();
        server.run("CREATE TABLE t (id UInt64, v UInt64) ENGINE = MergeTree ORDER BY id").await.unwrap();
        server.run("INSERT INTO t SELECT number, number FROM numbers(10)").await.unwrap();
        let opened = open(&server, &request("t")).await.unwrap();
        server.run(statement).await.unwrap();
        let error = all(opened.provider).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{statement}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("run it again")), "{statement}: {error:?}");
    }
}

#[tokio::test]
async fn a_read_that_breaks_is_never_a_whole_one() {
    let server = database("broken").await;
    server.run("CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id").await.unwrap();
    server.run("INSERT INTO t SELECT number FROM numbers(10000)").await.unwrap();
    for how in [Break::Cut(30_000), Break::End { early: 8, then: "" }] {
        let port = breaking("SELECT `id` FROM", how).await.to_string();
        let options = [("host", "127.0.0.1"), ("port", port.as_str()), ("database", &server.config().database)];
        let source = ClickHouseConnector.source(&connection(&options)).unwrap();
        let opened = source.snapshot().await.unwrap().table(&request("t")).await.unwrap();
        let error = all(opened.provider).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(error.to_string().contains("table: "), "{error}");
    }
}
