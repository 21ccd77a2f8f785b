//! Reading from a real server: every type, every filter, partitions under one snapshot, cancellation, errors.
//!
//! The server is the one of `DPONE_TEST_POSTGRES_URL`, whose user may create schemas.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::*;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use dpone_engine::source::ReadTarget;
use dpone_engine::{
    Connector, ErrorKind, ReadRequest, Relation, ResolvedConnection, Scan, ScanExec, Secret, Source, SourceTable,
};
use dpone_postgres::PostgresConnector;
use dpone_postgres::client::{Client, Server};
use dpone_postgres::config::PostgresConfig;
use futures::StreamExt;

fn url() -> String {
    std::env::var("DPONE_TEST_POSTGRES_URL").expect(
        "these tests need a PostgreSQL server: set DPONE_TEST_POSTGRES_URL to its URL, or run them through `make test`",
    )
}

fn connection(options: &[(&str, &str)]) -> ResolvedConnection {
    ResolvedConnection {
        name: "shop".into(),
        kind: "postgres".into(),
        options: options.iter().map(|(k, v)| (k.to_string(), Secret::new(*v))).collect(),
        base_dir: PathBuf::from("."),
    }
}

fn source() -> Arc<dyn Source> {
    PostgresConnector.source(&connection(&[("url", &url())])).unwrap()
}

async fn client() -> Client {
    Server::new(PostgresConfig::new(&connection(&[("url", &url())])).unwrap()).unwrap().connect().await.unwrap()
}

/// A schema of the test's own.
async fn schema(client: &Client, name: &str) {
    client.run(&format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}")).await.unwrap();
}

fn request(schema: &str, table: &str) -> ReadRequest {
    ReadRequest {
        target: ReadTarget::Table(Relation::new(schema, table)),
        parallelism: 4,
        batch_rows: 1000,
        ..ReadRequest::default()
    }
}

fn query(sql: &str) -> ReadRequest {
    ReadRequest { target: ReadTarget::Query(sql.into()), parallelism: 4, batch_rows: 1000, ..ReadRequest::default() }
}

async fn open(request: &ReadRequest) -> SourceTable {
    source().snapshot().await.unwrap().table(request).await.unwrap()
}

async fn plan(provider: &Arc<dyn TableProvider>) -> Arc<dyn ExecutionPlan> {
    let context = SessionContext::new();
    provider.scan(&context.state(), None, &[], None).await.unwrap()
}

async fn read(request: &ReadRequest) -> dpone_engine::Result<Vec<RecordBatch>> {
    let table = source().snapshot().await?.table(request).await?;
    Ok(collect(plan(&table.provider).await, SessionContext::new().task_ctx()).await?)
}

fn scan_of(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn Scan> {
    let any: &dyn std::any::Any = plan.as_ref();
    Arc::clone(any.downcast_ref::<ScanExec>().expect("a scan").scan())
}

/// One type: its values, and expressions of the server that give the same text that [`show`] gives for what was read.
struct Case {
    native: &'static str,
    values: &'static str,
    portable: &'static str,
    /// The function that makes the type's binary form; empty where raw carriage is the same as portable.
    raw: &'static str,
}

const fn case(native: &'static str, values: &'static str, portable: &'static str, raw: &'static str) -> Case {
    Case { native, values, portable, raw }
}

/// Through the binary form: before version 14 `extract` gives a float, which is not exact.
const TIME_MICROS: &str = "('x' || encode(time_send(c), 'hex'))::bit(64)::int8::text";

const ZOO: &[Case] = &[
    case("boolean", "(true), (false), (NULL)", "c::text", ""),
    case("smallint", "(-32768), (32767), (0), (NULL)", "c::text", ""),
    case("integer", "(-2147483648), (2147483647), (NULL)", "c::text", ""),
    case("bigint", "(-9223372036854775808), (9223372036854775807), (NULL)", "c::text", ""),
    case("oid", "(0), (4294967295), (NULL)", "c::text", ""),
    case(
        "real",
        "('NaN'), ('-0'), ('Infinity'), ('-Infinity'), ('3.4028235e38'), ('1e-45'), (0.1), (NULL)",
        "encode(float4send(c), 'hex')",
        "",
    ),
    case(
        "double precision",
        "('NaN'), ('-0'), ('Infinity'), ('-Infinity'), ('1.7976931348623157e308'), ('5e-324'), (0.1), (NULL)",
        "encode(float8send(c), 'hex')",
        "",
    ),
    case(
        "numeric(38,10)",
        "(9999999999999999999999999999.9999999999), (-9999999999999999999999999999.9999999999), (0), (0.0000000001), \
         (-1.5), (10000), (0.0001), (NULL)",
        "trunc(c * 10000000000::numeric)::text",
        "numeric_send",
    ),
    case("numeric(1,1)", "(0.9), (-0.9), (0), (NULL)", "trunc(c * 10)::text", "numeric_send"),
    case(
        "numeric(38,38)",
        "(0.00000000000000000000000000000000000001), (-0.99999999999999999999999999999999999999)",
        "trunc(c * 1e38::numeric)::text",
        "numeric_send",
    ),
    case(
        "numeric",
        "(0), (0.00), (1.10), (-123456789012345678901234567890.1234567890), ('NaN'), (1e-20), (1e100), (100000000), \
         (0.00001), (12345.678), (10000), (NULL)",
        "c::text",
        "numeric_send",
    ),
    case("numeric(1000,0)", "(repeat('9', 1000)::numeric), (-1), (0), (NULL)", "c::text", "numeric_send"),
    case("money", "('-92233720368547758.08'), ('92233720368547758.07'), ('0'), (NULL)", "c::text", "cash_send"),
    case("text", "(''), (NULL), ('a'), ('grüße 你好 🦀'), (repeat('x', 10000000)), (E'a\\tb\\\\n\\n')", "c", ""),
    case("varchar(10)", "(''), ('äöü'), (NULL)", "c::text", ""),
    case("character(5)", "('ab'), (''), ('abcde'), (NULL)", "convert_from(bpcharsend(c), 'UTF8')", ""),
    case("name", "('pg_class'), (''), (NULL)", "c::text", ""),
    case("\"char\"", "('a'), (''), (NULL)", "c::text", ""),
    case("bytea", "('\\x'), ('\\x00ff10'), (decode(repeat('00', 100000), 'hex')), (NULL)", "encode(c, 'hex')", ""),
    case(
        "uuid",
        "('00000000-0000-0000-0000-000000000000'), ('ffffffff-ffff-ffff-ffff-ffffffffffff'), (NULL)",
        "replace(c::text, '-', '')",
        "",
    ),
    case("json", "('{\"a\" :  1, \"a\": 2}'), ('null'), ('\"\\u00e4\"'), (NULL)", "c::text", ""),
    case("jsonb", "('{\"b\": 1e400, \"a\": [1, \"ü\"]}'), ('null'), (NULL)", "c::text", ""),
    case("xml", "('<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>ü</a>'), ('<b/>'), (NULL)", "c::text", ""),
    case(
        "date",
        "('0001-01-01'), ('4713-01-01 BC'), ('5874897-12-31'), ('1970-01-01'), ('1999-12-31'), (NULL)",
        "(c - date '1970-01-01')::text",
        "date_send",
    ),
    case("time", "('00:00'), ('23:59:59.999999'), ('12:34:56.000001'), (NULL)", TIME_MICROS, "time_send"),
    case("time(3)", "('12:34:56.789'), (NULL)", TIME_MICROS, "time_send"),
    case("timetz", "('00:00+15:59'), ('24:00:00-15:59'), ('12:34:56.789-03:30'), (NULL)", "c::text", "timetz_send"),
    case(
        "timestamp",
        "('4713-01-01 00:00:00 BC'), ('294246-12-31 23:59:59.999999'), ('1999-12-31 23:59:59.999999'), \
         ('2000-01-01'), ('1970-01-01'), (NULL)",
        "(('x' || encode(timestamp_send(c), 'hex'))::bit(64)::int8 + 946684800000000)::text",
        "timestamp_send",
    ),
    case(
        "timestamptz",
        "('4713-01-01 00:00:00+00 BC'), ('294246-12-31 23:59:59.999999+00'), ('2020-06-01 12:00:00.5+05:45'), \
         ('1900-01-01 00:00:00-11'), (NULL)",
        "(('x' || encode(timestamptz_send(c), 'hex'))::bit(64)::int8 + 946684800000000)::text",
        "timestamptz_send",
    ),
    case(
        "interval",
        "('178000000 years'), ('-1 mon +2 days -03:04:05.000006'), ('0'), (NULL)",
        "c::text",
        "interval_send",
    ),
    case("inet", "('192.168.0.1/24'), ('::1'), ('10.0.0.1'), (NULL)", "c::text", "inet_send"),
    case("cidr", "('192.168.0.0/24'), ('2001:db8::/32'), (NULL)", "c::text", "cidr_send"),
    case("macaddr", "('08:00:2b:01:02:03'), (NULL)", "c::text", "macaddr_send"),
    case("macaddr8", "('08:00:2b:01:02:03:04:05'), (NULL)", "c::text", "macaddr8_send"),
    case("bit(5)", "(B'10101'), (NULL)", "c::text", "bit_send"),
    case("bit varying", "(B''), (B'101'), (NULL)", "c::text", "varbit_send"),
    case("int4range", "('[1,5)'), ('empty'), ('(,)'), (NULL)", "c::text", "range_send"),
    case("tstzrange", "('[2020-01-01 00:00+00,infinity)'), (NULL)", "c::text", "range_send"),
    case("tsvector", "('a:1A fat:2B,4C'), (''), (NULL)", "c::text", "tsvectorsend"),
    case("tsquery", "('fat & (rat | cat)'), (NULL)", "c::text", "tsquerysend"),
    case("jsonpath", "('$.a[*] ? (@ > 1)'), (NULL)", "c::text", "jsonpath_send"),
    case("pg_lsn", "('0/0'), ('FFFFFFFF/FFFFFFFF'), (NULL)", "c::text", "pg_lsn_send"),
    case("point", "('(1.5,-2)'), ('(NaN,Infinity)'), (NULL)", "c::text", "point_send"),
    case("box", "('(1,1),(0,0)'), (NULL)", "c::text", "box_send"),
    case("polygon", "('((0,0),(1,1),(1,0))'), (NULL)", "c::text", "poly_send"),
    case("circle", "('<(0,0),1>'), (NULL)", "c::text", "circle_send"),
    case("integer[]", "('{1,NULL,-3}'), ('{}'), (NULL)", "array_to_string(c, ',', '~')", "array_send"),
    case("text[]", "('{a,NULL,\"\"}'), ('{\"ü, x\"}'), ('{}'), (NULL)", "array_to_string(c, ',', '~')", "array_send"),
    case(
        "numeric(10,2)[]",
        "('{1.25,NULL,-3}'), (NULL)",
        "(SELECT string_agg(COALESCE(trunc(e * 100)::text, '~'), ',' ORDER BY o) FROM unnest(c) WITH ORDINALITY u(e, o))",
        "array_send",
    ),
    case("numeric[]", "('{1.250,NULL,NaN}'), (NULL)", "c::text", "array_send"),
    case("inet[]", "('{10.0.0.1,NULL}'), (NULL)", "c::text", "array_send"),
    case(
        "timestamptz[]",
        "('{2020-01-01 00:00:00+00,NULL}'), (NULL)",
        "(SELECT string_agg(COALESCE(trunc((extract(epoch FROM e) * 1000000)::numeric)::text, '~'), ',' ORDER BY o) FROM unnest(c) WITH ORDINALITY u(e, o))",
        "array_send",
    ),
    case("zoo.mood", "('sad'), ('héllo ''q'''), (NULL)", "c::text", ""),
    case("zoo.mood[]", "('{sad,NULL}'), ('{{sad},{sad}}'), (NULL)", "c::text", ""),
    case("zoo.price", "(1.25), (-99999999.99), (NULL)", "trunc(c * 100)::text", "numeric_send"),
    case("zoo.pair", "('(1,\"a b\")'), ('(,)'), (NULL)", "c::text", ""),
    case("zoo.pair[]", "('{\"(1,x)\"}'), (NULL)", "c::text", ""),
    case("zoo.span", "('[1.5,2.5]'), (NULL)", "c::text", ""),
    case("regclass", "('pg_class'), (NULL)", "c::text", ""),
    case("xid", "('42'), (NULL)", "c::text", ""),
    case("int2vector", "('1 2 3'), (NULL)", "c::text", ""),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The value as text, from its Arrow form alone: physical numbers, bytes as hex, floats as their bits.
fn show(array: &ArrayRef, row: usize, raw: bool) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 if raw => hex(&array.as_primitive::<Int32Type>().value(row).to_be_bytes()),
        DataType::Int64 if raw => hex(&array.as_primitive::<Int64Type>().value(row).to_be_bytes()),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float32 => hex(&array.as_primitive::<Float32Type>().value(row).to_be_bytes()),
        DataType::Float64 => hex(&array.as_primitive::<Float64Type>().value(row).to_be_bytes()),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value(row).to_string(),
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Binary => hex(array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(16) => hex(array.as_fixed_size_binary().value(row)),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Time64(_) => array.as_primitive::<Time64MicrosecondType>().value(row).to_string(),
        DataType::Timestamp(..) => array.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let shown: Vec<_> = (0..items.len()).map(|i| show(&items, i, false).unwrap_or("~".into())).collect();
            shown.join(",")
        }
        other => panic!("no way to show {other}"),
    })
}

async fn expected(client: &Client, sql: &str) -> Vec<Option<String>> {
    client.rows(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_reads_exactly_portable_and_raw() {
    let client = client().await;
    schema(&client, "zoo").await;
    client
        .run(
            "CREATE TYPE zoo.mood AS ENUM ('sad', 'héllo ''q'''); CREATE DOMAIN zoo.price AS numeric(10,2); \
             CREATE TYPE zoo.pair AS (a int, b text); CREATE TYPE zoo.span AS RANGE (subtype = float8)",
        )
        .await
        .unwrap();
    let mut wrong = Vec::new();
    for (number, case) in ZOO.iter().enumerate() {
        if case.native == "jsonpath" && client.version() < 120_000 {
            continue;
        }
        let table = format!("t{number}");
        client
            .run(&format!(
                "CREATE TABLE zoo.{table} (c {}); INSERT INTO zoo.{table} VALUES {}",
                case.native, case.values
            ))
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", case.native));
        for raw in [false, true] {
            let mut request = request("zoo", &table);
            if raw {
                request.raw.insert("c".into());
            }
            let batches = match read(&request).await {
                Ok(batches) => batches,
                Err(error) => {
                    wrong.push(format!("{} raw={raw}: {error:?}", case.native));
                    continue;
                }
            };
            let is_raw = dpone_planner::types::is_raw(batches[0].schema().field(0));
            if raw && is_raw == case.raw.is_empty() {
                wrong.push(format!("{}: raw carriage is {is_raw}", case.native));
            }
            let found: Vec<_> =
                batches.iter().flat_map(|b| (0..b.num_rows()).map(|row| show(b.column(0), row, is_raw))).collect();
            let oracle = if is_raw { format!("encode({}(c), 'hex')", case.raw) } else { case.portable.to_owned() };
            let want = expected(&client, &format!("SELECT {oracle} FROM zoo.{table} ORDER BY ctid")).await;
            if found != want {
                let differs = found.iter().zip(&want).find(|(a, b)| a != b);
                let short = |v: &Option<String>| v.as_ref().map(|v| v.chars().take(200).collect::<String>());
                wrong.push(format!(
                    "{} raw={raw}: {} and {} rows, {:?}",
                    case.native,
                    found.len(),
                    want.len(),
                    differs.map(|(a, b)| (short(a), short(b)))
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_column_reads_as_text_when_declared_so() {
    let client = client().await;
    schema(&client, "texts").await;
    client
        .run(
            "CREATE TABLE texts.t (d date, ts timestamp, n numeric(10,2), a int[], i int, tm time, f float8); \
             INSERT INTO texts.t VALUES ('infinity', '-infinity', 'NaN', '{{1,2},{3,4}}', 7, '24:00', '-0'), \
             (NULL, NULL, NULL, '[0:1]={1,2}', NULL, NULL, NULL)",
        )
        .await
        .unwrap();
    let names = ["d", "ts", "n", "a", "i", "tm", "f"];
    // Portable as they are, these values have no place in Arrow: each fails, naming its column and its row.
    for name in ["d", "ts", "n", "a", "tm"] {
        let mut all_but = request("texts", "t");
        all_but.types = names.iter().filter(|n| **n != name).map(|n| (n.to_string(), "text".to_owned())).collect();
        let error = read(&all_but).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataQuality, "{error:?}");
        assert!(error.context().contains(&("column", name.to_owned())), "{error:?}");
        assert!(error.context().contains(&("row", "1".to_owned())), "{error:?}");
        assert!(error.hint().unwrap().contains("text"), "{error:?}");
    }
    let mut declared = request("texts", "t");
    declared.types = names.iter().map(|n| (n.to_string(), "text".to_owned())).collect();
    let batches = read(&declared).await.unwrap();
    for (index, name) in names.iter().enumerate() {
        let found: Vec<_> = (0..2).map(|row| show(batches[0].column(index), row, false)).collect();
        let want = expected(&client, &format!("SELECT {name}::text FROM texts.t ORDER BY ctid")).await;
        assert_eq!(found, want, "{name}");
    }
    declared.types = BTreeMap::from([("i".into(), "smallint".into())]);
    assert_eq!(read(&declared).await.unwrap_err().kind(), ErrorKind::Configuration);
    declared.types = BTreeMap::from([("nn".into(), "text".into())]);
    assert_eq!(read(&declared).await.unwrap_err().hint(), Some("did you mean \"n\"?"));
}

const FILTERED: &str = "CREATE TABLE filters.t (id int PRIMARY KEY, b boolean, s smallint, i int, l bigint, \
     n numeric(12,3), f float8, t text, v varchar(20), c char(4), d date, ts timestamp, tz timestamptz, tm time, \
     u uuid, y bytea, m filters.mood); \
     INSERT INTO filters.t SELECT g, CASE g % 3 WHEN 0 THEN true WHEN 1 THEN false END, g % 7 - 3, \
     CASE WHEN g % 11 > 0 THEN g * 7919 % 1000 - 500 END, (g::bigint << 33) - 5000000000000, \
     (g * 7919 % 100000 - 50000)::numeric / 1000, \
     (ARRAY['NaN', '-0', '0', 'Infinity', '-Infinity', '1.5', '-2.25', NULL]::float8[])[g % 8 + 1], \
     (ARRAY['a', 'B', 'ab', 'Ä', 'ä', 'z', '', 'a%b', 'a_b', E'back\\\\slash', 'quo''te', 'Zebra', 'é', NULL])[g % 14 + 1], \
     (ARRAY['x', 'X ', 'x ', '', NULL])[g % 5 + 1], (ARRAY['ab', 'ab  ', '', NULL])[g % 4 + 1], \
     date '1999-12-25' + g % 20, timestamp '2000-01-01' + g * interval '1.000001 seconds', \
     timestamptz '2000-01-01 00:00+00' - g * interval '1 hour', time '00:00' + g * interval '41.5 seconds', \
     ('00000000-0000-0000-0000-0000000' || lpad((g % 100)::text, 5, '0'))::uuid, decode(lpad(to_hex(g % 50), 4, '0'), 'hex'), \
     (ARRAY['sad', 'ok', NULL]::filters.mood[])[g % 3 + 1] FROM generate_series(1, 1000) g";

/// SQL of DataFusion, and whether all of it must reach the server.
const FILTERS: &[(&str, bool)] = &[
    ("b", true),
    ("NOT b", true),
    ("b IS NOT TRUE", true),
    ("i > 100", true),
    ("100 >= i", true),
    ("i = -13 OR i IS NULL", true),
    ("i BETWEEN -50 AND 50 AND s <> 2", true),
    ("i NOT BETWEEN -50 AND 50", true),
    ("s IN (1, 2, -3)", true),
    ("s NOT IN (1, 2)", true),
    ("l < 0", true),
    ("l >= 9000000000", true),
    ("n > 12.345", true),
    ("n = -50.000 OR n < -49.9", true),
    ("f > 1.0", true),
    ("f >= -0.0", true),
    ("f < 'NaN'::float8 OR f = 'Infinity'::float8", true),
    ("f = 0.0", true),
    ("f IN (0.0, 1.5, -2.25, 7.0)", false),
    ("f NOT IN (arrow_cast('NaN', 'Float64'), 1.5, -2.25, 7.0)", true),
    ("f = 1.5", true),
    ("f <> 1.5", true),
    ("f IS NULL", true),
    ("t = 'ä'", true),
    ("t <> ''", true),
    ("t < 'a'", true),
    ("t >= 'Zebra'", true),
    ("t IN ('quo''te', 'back\\slash', 'a')", true),
    ("t LIKE 'a%'", true),
    ("t LIKE '%b'", true),
    ("t NOT LIKE '%e%'", true),
    ("t LIKE 'a_b'", false),
    ("t ILIKE 'Ä%'", false),
    ("t IS NULL OR t = ''", true),
    ("v = 'x'", true),
    ("v = 'x '", true),
    ("c <> 'ab'", false),
    ("c = 'ab  '", false),
    ("d > date '2000-01-01'", true),
    ("d IN (date '1999-12-31', date '2000-01-02')", true),
    ("ts >= timestamp '2000-01-01 00:05:00.000123'", true),
    ("tz < timestamptz '1999-12-15 05:30:00+05:30'", true),
    (
        "tm BETWEEN arrow_cast('01:00:00', 'Time64(Microsecond)') AND arrow_cast('02:00:00.5', 'Time64(Microsecond)')",
        true,
    ),
    ("m = 'sad'", true),
    ("m <> 'ok'", true),
    ("m > 'ok'", false),
    ("y > arrow_cast(X'0010', 'Binary')", true),
    ("i < l", true),
    ("l % -7 = 3 OR s % 2 <> 0", true),
    ("s < 0 AND upper(t) = 'A'", false),
    ("NOT (i > 0 AND t = 'a')", true),
    ("(b IS NULL) AND id % 2 = 0", true),
    ("(b IS NULL) AND id * 2 > 10", false),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_down_filter_gives_the_rows_that_datafusion_gives() {
    let client = client().await;
    schema(&client, "filters").await;
    // A collation that orders otherwise than the bytes do, where the server has one.
    let icu = client.row("SELECT FROM pg_collation WHERE collname = 'en-x-icu'", &[]).await.unwrap().is_some();
    let collated = FILTERED.replace("t text", if icu { "t text COLLATE \"en-x-icu\"" } else { "t text" });
    client.run(&format!("CREATE TYPE filters.mood AS ENUM ('sad', 'ok'); {collated}")).await.unwrap();
    let opened = open(&request("filters", "t")).await;
    assert_eq!(opened.key, ["id"]);
    let everything = read(&request("filters", "t")).await.unwrap();
    let local = MemTable::try_new(everything[0].schema(), vec![everything]).unwrap();
    let context = SessionContext::new();
    context.register_table("remote", Arc::clone(&opened.provider)).unwrap();
    context.register_table("local", Arc::new(local)).unwrap();
    for (filter, pushed) in FILTERS {
        let ids = |table: &str| {
            let sql = format!("SELECT id FROM {table} WHERE {filter} ORDER BY id");
            let context = context.clone();
            async move {
                let frame = context.sql(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
                let plan = frame.clone().create_physical_plan().await.unwrap();
                let shown = displayable(plan.as_ref()).indent(false).to_string();
                let batches = frame.collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"));
                let ids: Vec<i32> =
                    batches.iter().flat_map(|b| b.column(0).as_primitive::<Int32Type>().values().to_vec()).collect();
                (ids, shown)
            }
        };
        let ((remote, plan), (local, _)) = (ids("remote").await, ids("local").await);
        assert_eq!(remote, local, "{filter}");
        assert!(!local.is_empty() && local.len() < 1000, "{filter} tells nothing: {} rows", local.len());
        assert_eq!(!plan.contains("FilterExec"), *pushed, "{filter}: {plan}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn projection_and_limit_reach_the_server() {
    let client = client().await;
    schema(&client, "narrow").await;
    client.run("CREATE TABLE narrow.t AS SELECT g AS a, g::text AS b FROM generate_series(1, 5000) g").await.unwrap();
    let opened = open(&request("narrow", "t")).await;
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_table("t", opened.provider).unwrap();
    let plan = context.sql("SELECT b FROM t WHERE a > 10 LIMIT 5").await.unwrap().create_physical_plan().await.unwrap();
    let mut node = Arc::clone(&plan);
    while let Some(child) = node.children().first().map(|c| Arc::clone(c)) {
        node = child;
    }
    assert_eq!(scan_of(&node).describe(0), "SELECT \"b\" FROM \"narrow\".\"t\" WHERE (\"a\" > '10'::int8) LIMIT 5");
    let rows = collect(plan, context.task_ctx()).await.unwrap();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    // No column at all is needed to count.
    let count = context.sql("SELECT count(*) FROM t WHERE a > 10").await.unwrap().collect().await.unwrap();
    assert_eq!(count[0].column(0).as_primitive::<Int64Type>().value(0), 4990);
}

/// Rows wide enough that a few of them are worth parts.
const WIDE: &str =
    "SELECT g AS id, g % 2 AS turn, 1000 AS amount, repeat('x', 1900) AS pad FROM generate_series(1, 140000) g";

async fn total(plan: Arc<dyn ExecutionPlan>) -> (usize, i64) {
    let batches = collect(plan, SessionContext::new().task_ctx()).await.unwrap();
    let column = batches[0].schema().index_of("amount").unwrap();
    let sum =
        batches.iter().flat_map(|b| b.column(column).as_primitive::<Int32Type>().values()).map(|v| *v as i64).sum();
    (batches.iter().map(RecordBatch::num_rows).sum(), sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_show_one_moment_while_rows_move() {
    let client = client().await;
    schema(&client, "moving").await;
    client
        .run(&format!(
            "CREATE UNLOGGED TABLE moving.t AS {WIDE}; ALTER TABLE moving.t ADD PRIMARY KEY (id); ANALYZE moving.t"
        ))
        .await
        .unwrap();
    let snapshot = source().snapshot().await.unwrap();
    let table = snapshot.table(&request("moving", "t")).await.unwrap();
    let plan = plan(&table.provider).await;
    assert_eq!(scan_of(&plan).partitions(), 4, "{}", scan_of(&plan).describe(0));
    // Every row moves to another place, and a transfer keeps no single part's sum.
    let writer = tokio::spawn(async move {
        for turn in 0..4 {
            let sql = format!(
                "UPDATE moving.t SET amount = amount + CASE WHEN id <= 70000 THEN 1 ELSE -3 END WHERE turn = {} AND id % 5 = 0; \
                 DELETE FROM moving.t WHERE id % 1000 = {turn}; INSERT INTO moving.t SELECT 1000000 + {turn}, 0, 5",
                turn % 2
            );
            client.run(&sql).await.unwrap();
        }
        client
    });
    let mut totals = Vec::new();
    for _ in 0..4 {
        totals.push(total(Arc::clone(&plan)).await);
    }
    let client = writer.await.unwrap();
    assert_eq!(totals, [(140_000, 140_000_000); 4]);
    let now = client.row("SELECT count(*) FROM moving.t", &[]).await.unwrap().unwrap().get::<_, i64>(0);
    assert_eq!(now, 140_000 - 4 * 140 + 4, "the writer was to change the table meanwhile");

    // The same partitions, from their description alone.
    let spec = scan_of(&plan).spec();
    let text = spec.to_string();
    assert!(!text.contains("postgres://"), "{text}");
    let rebuilt = source().scan(&serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(total(Arc::new(ScanExec::new(rebuilt))).await, (140_000, 140_000_000));
    snapshot.close().await.unwrap();
    let late = source().scan(&spec).unwrap();
    let error = collect(Arc::new(ScanExec::new(late)), SessionContext::new().task_ctx()).await.unwrap_err();
    assert!(error.to_string().contains("snapshot"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_views_and_queries_read_whole() {
    let client = client().await;
    schema(&client, "shapes").await;
    client
        .run(&format!(
            "CREATE TABLE shapes.p (id int, turn int, amount int, pad text) PARTITION BY LIST (turn); \
             CREATE TABLE shapes.p0 PARTITION OF shapes.p FOR VALUES IN (0); \
             CREATE TABLE shapes.p1 PARTITION OF shapes.p FOR VALUES IN (1) PARTITION BY RANGE (id); \
             CREATE TABLE shapes.p1a PARTITION OF shapes.p1 FOR VALUES FROM (0) TO (20000); \
             CREATE TABLE shapes.p1b PARTITION OF shapes.p1 DEFAULT; INSERT INTO shapes.p {WIDE}; \
             CREATE VIEW shapes.v AS SELECT * FROM shapes.p WHERE id <= 1000; \
             CREATE MATERIALIZED VIEW shapes.m AS SELECT * FROM shapes.v; \
             CREATE TABLE shapes.parent (amount int); CREATE TABLE shapes.child () INHERITS (shapes.parent); \
             INSERT INTO shapes.parent VALUES (1); INSERT INTO shapes.child VALUES (2); \
             CREATE TABLE shapes.empty (amount int); CREATE TABLE shapes.\"odd \"\" Name\" (\"a \"\" b\" int); \
             INSERT INTO shapes.\"odd \"\" Name\" VALUES (3); ANALYZE"
        ))
        .await
        .unwrap();
    let partitioned = open(&request("shapes", "p")).await;
    let plan_of = plan(&partitioned.provider).await;
    assert!(scan_of(&plan_of).partitions() > 1, "{:?}", partitioned.notes);
    assert_eq!(total(plan_of).await, (140_000, 140_000_000));
    assert!(partitioned.rows.is_some_and(|rows| (100_000..200_000).contains(&rows)), "{:?}", partitioned.rows);
    for narrow in [2, 3] {
        let mut request = request("shapes", "p");
        request.parallelism = narrow;
        let opened = open(&request).await;
        let plan_of = plan(&opened.provider).await;
        assert!(scan_of(&plan_of).partitions() <= narrow);
        assert_eq!(total(plan_of).await, (140_000, 140_000_000));
    }
    for name in ["v", "m"] {
        let opened = open(&request("shapes", name)).await;
        assert_eq!(total(plan(&opened.provider).await).await, (1000, 1_000_000), "{name}");
    }
    assert_eq!(total(plan(&open(&request("shapes", "parent")).await.provider).await).await, (2, 3));
    assert!(read(&request("shapes", "empty")).await.unwrap().is_empty());
    assert_eq!(read(&request("shapes", "odd \" Name")).await.unwrap()[0].schema().field(0).name(), "a \" b");
    let sum = read(&query("SELECT sum(amount)::int AS amount FROM shapes.v -- all of it\n;")).await.unwrap();
    assert_eq!(sum[0].column(0).as_primitive::<Int32Type>().value(0), 1_000_000);
    let twice = source().snapshot().await.unwrap().table(&query("SELECT 1 AS a, 2 AS a")).await.unwrap_err();
    assert!(twice.to_string().contains("two columns"), "{twice}");
    let writes = read(&query("SELECT nextval('shapes.s')")).await.unwrap_err();
    assert_eq!(writes.kind(), ErrorKind::Configuration);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_stream_cancels_the_statement() {
    let client = client().await;
    let marker = "cancel_marker_7351";
    let slow = format!("SELECT g AS amount, pg_sleep(0.01)::text AS {marker} FROM generate_series(1, 100000) g");
    let mut request = query(&slow);
    request.batch_rows = 5;
    let opened = open(&request).await;
    let scan = scan_of(&plan(&opened.provider).await);
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%{marker}%' \
         AND pid <> pg_backend_pid()"
    );
    let count = async || client.row(&running, &[]).await.unwrap().unwrap().get::<_, i64>(0);
    let mut stream = scan.read(0, 5).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().num_rows(), 5);
    assert_eq!(count().await, 1);
    drop(stream);
    let started = Instant::now();
    while count().await > 0 {
        assert!(started.elapsed() < Duration::from_secs(5), "the statement still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do_and_hold_no_value() {
    let client = client().await;
    schema(&client, "faults").await;
    client.run("CREATE TABLE faults.orders (a text); INSERT INTO faults.orders VALUES ('hunter2')").await.unwrap();
    let missing = read(&request("faults", "ordres")).await.unwrap_err();
    assert_eq!((missing.kind(), missing.hint()), (ErrorKind::Configuration, Some("did you mean faults.orders?")));
    let elsewhere = read(&request("fault", "orders")).await.unwrap_err();
    assert_eq!(elsewhere.hint(), Some("there is faults.orders"));
    let cast = read(&query("SELECT a::int FROM faults.orders")).await.unwrap_err();
    assert_eq!(cast.kind(), ErrorKind::DataQuality);
    assert!(!format!("{cast:?}").contains("hunter2"), "{cast:?}");

    let refused = |options: &[(&str, &str)]| {
        let source = PostgresConnector.source(&connection(options)).unwrap();
        async move { source.test().await.unwrap_err() }
    };
    let error = refused(&[("url", "postgres://nobody:hunter2@127.0.0.1:1/x")]).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert!(error.to_string().contains("127.0.0.1:1") && error.hint().is_some(), "{error:?}");
    let error = refused(&[("url", &url()), ("database", "no_such_database")]).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    let error = refused(&[("url", "postgres://nobody@host.invalid/x"), ("sslmode", "disable")]).await;
    assert!(error.to_string().contains("host.invalid:5432"), "{error:?}");
    let mut impatient = request("faults", "orders");
    impatient.target = ReadTarget::Query("SELECT pg_sleep(10)::text AS s".into());
    let source = PostgresConnector.source(&connection(&[("url", &url()), ("statement_timeout", "100ms")])).unwrap();
    let opened = source.snapshot().await.unwrap().table(&impatient).await.unwrap();
    let error = collect(plan(&opened.provider).await, SessionContext::new().task_ctx()).await.unwrap_err();
    let error = dpone_engine::Error::from(error);
    assert!(error.hint().unwrap().contains("statement_timeout"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_and_its_tables_are_shown() {
    let client = client().await;
    schema(&client, "shown").await;
    client.run("CREATE TABLE shown.t (a int PRIMARY KEY); CREATE VIEW shown.v AS SELECT 1 AS a").await.unwrap();
    let info = source().test().await.unwrap();
    assert_eq!(info.system, "postgres");
    assert!(info.details.contains_key("encryption") && info.details.contains_key("encoding"));
    let relations = source().relations().await.unwrap();
    let shown: Vec<_> = relations
        .iter()
        .filter(|r| r.relation.schema == "shown")
        .map(|r| (r.relation.name.as_str(), r.kind.as_str()))
        .collect();
    assert_eq!(shown, [("t", "table"), ("v", "view")]);
}
