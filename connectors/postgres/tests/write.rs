//! The sink against a real server: `DPONE_TEST_POSTGRES_URL`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod write_support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int32Type, IntervalUnit, Schema, SchemaRef, TimeUnit};
use dpone_engine::{ErrorKind, Lease, StateStore};
use dpone_planner::plan::{DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, PATCH, ScopeFilter, WriteMode};
use dpone_planner::types::{CARRIAGE, CARRIAGE_RAW, EXTENSION_UUID, with_extension, with_native};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use write_support::*;

fn changes(operation: Operation) -> WriteMode {
    WriteMode::Changes { key: vec!["id".into()], operation }
}

fn scope(sql: &str) -> WriteMode {
    WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: sql.into() } }
}

async fn all(place: &Place, table: &str) -> Vec<String> {
    place.rows(&format!("SELECT id, name, amount FROM \"$S\".{table} ORDER BY id, name")).await
}

// ---- Values -----------------------------------------------------------------------------------------------------

/// Each value in Arrow, the column's type, and what the server must say it is.
fn values() -> Vec<(&'static str, ArrayRef, Vec<Option<&'static str>>)> {
    let micros = 1_000_000;
    vec![
        (
            "boolean",
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            vec![Some("true"), Some("false"), None],
        ),
        (
            "smallint",
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
            vec![Some("-32768"), Some("32767"), None],
        ),
        (
            "bigint",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
            vec![Some("-9223372036854775808"), Some("9223372036854775807"), None],
        ),
        // Widened by the encoder.
        ("bigint", Arc::new(Int16Array::from(vec![Some(-7), Some(7), None])), vec![Some("-7"), Some("7"), None]),
        (
            "numeric(20,0)",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(0), None])),
            vec![Some("-9223372036854775808"), Some("0"), None],
        ),
        (
            "oid",
            Arc::new(Int64Array::from(vec![Some(0), Some(4_294_967_295), None])),
            vec![Some("0"), Some("4294967295"), None],
        ),
        (
            "real",
            Arc::new(Float32Array::from(vec![Some(-0.0), Some(f32::NAN), Some(1.5)])),
            vec![Some("-0"), Some("NaN"), Some("1.5")],
        ),
        (
            "double precision",
            Arc::new(Float64Array::from(vec![Some(-0.25), Some(f64::NEG_INFINITY), None])),
            vec![Some("-0.25"), Some("-Infinity"), None],
        ),
        (
            "numeric(38,10)",
            Arc::new(
                Decimal128Array::from(vec![
                    Some(-99_999_999_999_999_999_999_999_999_999_999_999_999),
                    Some(1),
                    Some(0),
                ])
                .with_precision_and_scale(38, 10)
                .unwrap(),
            ),
            vec![Some("-9999999999999999999999999999.9999999999"), Some("0.0000000001"), Some("0.0000000000")],
        ),
        (
            "numeric",
            Arc::new(StringArray::from(vec![Some("-00120.4500"), Some("NaN"), Some("0.00000000000000000001")])),
            vec![Some("-120.4500"), Some("NaN"), Some("0.00000000000000000001")],
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some(""), Some("ü 'x' \\N \t"), None])),
            vec![Some(""), Some("ü 'x' \\N \t"), None],
        ),
        (
            "varchar(3)",
            Arc::new(StringArray::from(vec![Some("abc"), Some("ü"), None])),
            vec![Some("abc"), Some("ü"), None],
        ),
        (
            "json",
            Arc::new(StringArray::from(vec![Some("{\"a\":  1}"), None, None])),
            vec![Some("{\"a\":  1}"), None, None],
        ),
        (
            "jsonb",
            Arc::new(StringArray::from(vec![Some("{\"b\":1,\"a\":null}"), None, None])),
            vec![Some("{\"a\": null, \"b\": 1}"), None, None],
        ),
        (
            "bytea",
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0\xff".as_slice()), Some(b"".as_slice()), None])),
            vec![Some("\\x00ff"), Some("\\x"), None],
        ),
        (
            "uuid",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    vec![Some((0..16).collect::<Vec<u8>>()), None, Some(vec![255; 16])].into_iter(),
                    16,
                )
                .unwrap(),
            ),
            vec![Some("00010203-0405-0607-0809-0a0b0c0d0e0f"), None, Some("ffffffff-ffff-ffff-ffff-ffffffffffff")],
        ),
        (
            "date",
            Arc::new(Date32Array::from(vec![Some(0), Some(-719_162), Some(19_000)])),
            vec![Some("1970-01-01"), Some("0001-01-01"), Some("2022-01-08")],
        ),
        (
            "time",
            Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
            vec![Some("00:00:00"), Some("23:59:59.999999"), None],
        ),
        (
            "timestamp",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(0), Some(i64::MAX)])),
            vec![Some("1969-12-31 23:59:59.999999"), Some("1970-01-01 00:00:00"), Some("294247-01-10 04:00:54.775807")],
        ),
        (
            "timestamptz",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1), Some(1_356_998_400 * micros), None]).with_timezone("UTC"),
            ),
            vec![Some("1970-01-01 00:00:00.000001+00"), Some("2013-01-01 00:00:00+00"), None],
        ),
        (
            "interval",
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(arrow::datatypes::IntervalMonthDayNano::new(14, -3, 1_000)),
                None,
                None,
            ])),
            vec![Some("1 year 2 mons -3 days +00:00:00.000001"), None, None],
        ),
        (
            "integer[]",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
                Some(vec![Some(1), None, Some(-3)]),
                Some(vec![]),
                None,
            ])),
            vec![Some("{1,NULL,-3}"), Some("{}"), None],
        ),
        ("text[]", text_lists(), vec![Some("{\"a,b\",\"\",NULL}"), None, Some("{}")]),
        // No binary form of our own: the server reads the text.
        (
            "inet",
            Arc::new(StringArray::from(vec![Some("10.0.0.1/8"), None, Some("::1")])),
            vec![Some("10.0.0.1/8"), None, Some("::1/128")],
        ),
        ("tstzrange", Arc::new(StringArray::from(vec![Some("empty"), None, None])), vec![Some("empty"), None, None]),
    ]
}

fn text_lists() -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.values().append_value("a,b");
    lists.values().append_value("");
    lists.values().append_null();
    lists.append(true);
    lists.append(false);
    lists.append(true);
    Arc::new(lists.finish())
}

async fn round_trip(schema: &str, mode: WriteMode) {
    let place = Place::new(schema).await;
    let values = values();
    let mut fields = vec![Field::new("n", DataType::Int32, false)];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![0, 1, 2]))];
    let mut ddl = vec!["n integer".to_owned()];
    for (i, (native, array, _)) in values.iter().enumerate() {
        fields.push(Field::new(format!("c{i}"), array.data_type().clone(), true));
        columns.push(Arc::clone(array));
        ddl.push(format!("c{i} {native}"));
    }
    place.run(&format!("CREATE TABLE $S.t ({})", ddl.join(", "))).await;
    let staged: SchemaRef = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&staged), columns).unwrap();
    let receipt = place.load("t", mode, &staged).run(&[vec![batch]]).await.unwrap();
    assert_eq!(receipt.rows.inserted, 3);
    place.run("SET timezone = 'UTC'; SET extra_float_digits = 3").await;
    for (i, (native, _, expected)) in values.iter().enumerate() {
        let got = place.rows(&format!("SELECT c{i}::text FROM $S.t ORDER BY n")).await;
        let want: Vec<_> = expected.iter().map(|v| v.unwrap_or("NULL").to_owned()).collect();
        assert_eq!(got, want, "c{i} {native}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_what_the_server_says_it_is_when_appended() {
    round_trip("w_types_append", WriteMode::Append).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_what_the_server_says_it_is_when_exchanged() {
    round_trip("w_types_exchange", EXCHANGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_values_arrive_bit_for_bit() {
    let place = Place::new("w_raw").await;
    let cases = [
        ("numeric", "numeric_send", "'NaN'::numeric"),
        ("numeric(1000,0)", "numeric_send", "(repeat('9', 1000))::numeric"),
        ("interval", "interval_send", "'178000000 years'::interval"),
        ("inet", "inet_send", "'::ffff:1.2.3.4/96'::inet"),
        ("time with time zone", "timetz_send", "'24:00:00-07:30'::timetz"),
        ("int4range", "range_send", "'(3,9]'::int4range"),
        ("text[]", "array_send", "'[0:1][2:3]={{a,b},{NULL,\"c,d\"}}'::text[]"),
        ("bit varying(9)", "varbit_send", "B'101'::varbit(9)"),
        ("tsvector", "tsvectorsend", "to_tsvector('simple', 'a fat cat')"),
        ("jsonb[]", "array_send", "ARRAY['{\"a\": 1}'::jsonb]"),
    ];
    let (mut fields, mut columns, mut ddl, mut texts) = (Vec::new(), Vec::<ArrayRef>::new(), Vec::new(), Vec::new());
    for (i, (native, send, value)) in cases.iter().enumerate() {
        let row = place.client.query_one(&format!("SELECT {send}({value}), ({value})::text"), &[]).await.unwrap();
        let field = with_native(Field::new(format!("c{i}"), DataType::Binary, true), "postgres", native);
        fields.push(raw(field));
        columns.push(Arc::new(BinaryArray::from(vec![row.get::<_, &[u8]>(0)])));
        ddl.push(format!("c{i} {native}"));
        texts.push(row.get::<_, String>(1));
    }
    for (native, array) in [
        ("date", Arc::new(Int32Array::from(vec![i32::MAX])) as ArrayRef),
        ("timestamp with time zone", Arc::new(Int64Array::from(vec![i64::MIN])) as ArrayRef),
    ] {
        let field = Field::new(format!("c{}", fields.len()), array.data_type().clone(), true);
        ddl.push(format!("c{} {native}", fields.len()));
        fields.push(raw(with_native(field, "postgres", native)));
        columns.push(array);
    }
    texts.extend(["infinity".to_owned(), "-infinity".to_owned()]);
    let staged: SchemaRef = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&staged), columns).unwrap();
    // Into a table that is there, and into one that is created from the native types.
    place.run(&format!("CREATE TABLE $S.old ({})", ddl.join(", "))).await;
    for table in ["old", "new"] {
        place.load(table, WriteMode::Append, &staged).run(&[vec![batch.clone()]]).await.unwrap();
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(
                place.rows(&format!("SELECT c{i}::text FROM $S.{table}")).await,
                std::slice::from_ref(text),
                "{table} c{i}"
            );
        }
    }
    // Another type must not read the bytes.
    place.run("CREATE TABLE $S.other (c0 text)").await;
    let one: SchemaRef = Arc::new(Schema::new(vec![staged.field(0).clone()]));
    let batch = batch.project(&[0]).unwrap();
    let error = place.load("other", WriteMode::Append, &one).run(&[vec![batch]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}

fn raw(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(CARRIAGE.into(), CARRIAGE_RAW.into());
    field.with_metadata(metadata)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_names_column_and_row_and_changes_nothing() {
    let place = Place::new("w_bad").await;
    let bad: [(&str, ArrayRef); 6] = [
        ("text", Arc::new(StringArray::from(vec!["fine", "secret\0value"]))),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(vec![0, i64::MIN]))),
        ("date", Arc::new(Date32Array::from(vec![0, i32::MIN]))),
        ("timestamp(0)", Arc::new(TimestampMicrosecondArray::from(vec![0, 1]))),
        ("numeric", Arc::new(StringArray::from(vec!["1.5", "secret"]))),
        ("text[]", {
            let mut lists = ListBuilder::new(StringBuilder::new());
            lists.values().append_value("a");
            lists.append(true);
            lists.values().append_value("b");
            lists.values().append_value("secret\0");
            lists.append(true);
            Arc::new(lists.finish())
        }),
    ];
    for (i, (native, array)) in bad.into_iter().enumerate() {
        place.run(&format!("CREATE TABLE $S.t{i} (c {native})")).await;
        let staged: SchemaRef = Arc::new(Schema::new(vec![Field::new("c", array.data_type().clone(), true)]));
        let batch = RecordBatch::try_new(Arc::clone(&staged), vec![array]).unwrap();
        let table = format!("t{i}");
        let error = place.load(&table, WriteMode::Append, &staged).run(&[vec![batch]]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataQuality, "{native}: {error}");
        let text = format!("{error:?}");
        assert!(text.contains("\"c\"") && text.contains("row 2"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(place.rows(&format!("SELECT count(*) FROM $S.t{i}")).await, ["0"]);
    }
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}

async fn leftovers(place: &Place) -> Vec<String> {
    place
        .rows(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = '$S' \
             AND relname ~ '^__dpone__[sfpi]' AND relname !~ '^__dpone__state'",
        )
        .await
}

// ---- Modes ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_creates_a_missing_target() {
    let place = Place::new("w_create").await;
    let rows = people_rows(&[(1, "a", 10), (2, "b", 20)]);
    let modes = [
        ("append", WriteMode::Append),
        ("exchange", EXCHANGE),
        ("truncate", TRUNCATE),
        ("scope", scope("amount < 100")),
        ("parts", WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: vec!["amount".into()] } }),
        ("changes", changes(Operation::Upsert)),
    ];
    for (table, mode) in modes {
        let load = place.load(table, mode, &people()).key(&["id"]);
        let receipt = load.run(&[vec![rows.clone()], vec![people_rows(&[(3, "c", 30)])]]).await.unwrap();
        assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (3, 0), "{table}");
        assert_eq!(all(&place, table).await, ["1|a|10", "2|b|20", "3|c|30"], "{table}");
        let key = format!(
            "SELECT conname, contype FROM pg_constraint WHERE conrelid = '$S.{table}'::regclass AND contype = 'p'"
        );
        assert_eq!(place.rows(&key).await, [format!("{table}_pkey|p")]);
        assert_eq!(
            place.rows(&format!("SELECT relpersistence FROM pg_class WHERE oid = '$S.{table}'::regclass")).await,
            ["p"]
        );
    }
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_does_what_it_says_to_a_target_that_is_there() {
    let place = Place::new("w_modes").await;
    let old = "(1,'a',10),(2,'b',20),(3,'c',30)";
    let new = people_rows(&[(2, "B", 20), (4, "d", 30)]);
    let parts = |columns: &[&str]| WriteMode::OverwriteScope {
        scope: ScopeFilter::Partitions { columns: columns.iter().map(|c| (*c).to_owned()).collect() },
    };
    // Table, mode, rows after, inserted, updated, deleted, unchanged.
    let cases: Vec<(&str, WriteMode, Vec<&str>, [u64; 4])> = vec![
        ("append", WriteMode::Append, vec!["1|a|10", "2|B|20", "2|b|20", "3|c|30", "4|d|30"], [2, 0, 0, 0]),
        ("exchange", EXCHANGE, vec!["2|B|20", "4|d|30"], [2, 0, 3, 0]),
        ("truncate", TRUNCATE, vec!["2|B|20", "4|d|30"], [2, 0, 3, 0]),
        ("scope", scope("amount >= 20 AND amount < 40"), vec!["1|a|10", "2|B|20", "4|d|30"], [2, 0, 2, 0]),
        ("parts", parts(&["amount"]), vec!["1|a|10", "2|B|20", "4|d|30"], [2, 0, 2, 0]),
        ("changes", changes(Operation::Upsert), vec!["1|a|10", "2|B|20", "3|c|30", "4|d|30"], [1, 1, 0, 0]),
    ];
    for (table, mode, after, [inserted, updated, deleted, unchanged]) in cases {
        place
            .run(&format!(
                "CREATE TABLE $S.{table} (id integer, name text COLLATE \"C\", amount bigint, extra text DEFAULT 'x')"
            ))
            .await;
        place.run(&format!("INSERT INTO $S.{table} VALUES {old}")).await;
        let receipt = place.load(table, mode, &people()).run(&[vec![new.clone()]]).await.unwrap();
        assert_eq!(all(&place, table).await, after, "{table}");
        let rows = &receipt.rows;
        assert_eq!(
            [rows.inserted, rows.updated, rows.deleted, rows.unchanged],
            [inserted, updated, deleted, unchanged],
            "{table}"
        );
        assert_eq!(place.rows(&format!("SELECT DISTINCT extra FROM $S.{table}")).await, ["x"], "{table}");
        // State and receipt came with the rows.
        let load = place.load(table, WriteMode::Append, &people());
        let state = load.store().get(table).await.unwrap().unwrap();
        assert_eq!(state.load_id, receipt.load_id);
        assert_eq!(load.store().receipt(table, &receipt.run_id).await.unwrap().unwrap(), receipt);
    }
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_with_nulls_replace_each_other() {
    let place = Place::new("w_null_parts").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    place.run("INSERT INTO $S.t VALUES (1,'a',NULL),(2,'b',1),(3,'c',2)").await;
    let batch = RecordBatch::try_new(
        people(),
        vec![
            Arc::new(Int32Array::from(vec![9, 8])),
            Arc::new(StringArray::from(vec!["x", "y"])),
            Arc::new(Int64Array::from(vec![None, Some(2)])),
        ],
    )
    .unwrap();
    let mode = WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: vec!["amount".into()] } };
    let receipt = place.load("t", mode, &people()).run(&[vec![batch]]).await.unwrap();
    assert_eq!((receipt.rows.deleted, receipt.rows.inserted), (2, 2));
    assert_eq!(all(&place, "t").await, ["2|b|1", "8|y|2", "9|x|NULL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_outside_the_scope_stop_the_load() {
    let place = Place::new("w_outside").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint); INSERT INTO $S.t VALUES (1,'a',10)").await;
    let rows = people_rows(&[(2, "b", 5), (3, "c", 500)]);
    let error = place.load("t", scope("amount < 100"), &people()).run(&[vec![rows]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality);
    assert!(error.message().starts_with("1 staged rows lie outside"), "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_touch_no_unchanged_row_and_delete_by_key() {
    let place = Place::new("w_changes").await;
    place
        .run(
            "CREATE TABLE $S.t (id integer PRIMARY KEY, n numeric, f double precision, j json, b bytea); \
              INSERT INTO $S.t VALUES (1, 1.0, 0, '{\"a\":1}', '\\x00'), (2, 1.0, 0, '{\"a\":1}', NULL), \
                                      (3, 1.0, 0, '{\"a\":1}', NULL), (4, 1.0, 0, NULL, NULL), (5, 1.0, 0, NULL, NULL)",
        )
        .await;
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("n", DataType::Utf8, true),
        Field::new("f", DataType::Float64, true),
        Field::new("j", DataType::Utf8, true),
        Field::new("b", DataType::Binary, true),
        Field::new(OPERATION_COLUMN, DataType::Int8, false),
    ]));
    // 1 is the same; 2 gets another scale; 3 the other zero; 4 goes; 5 gets another json text; 6 is new; 7 was never there.
    let batch = RecordBatch::try_new(
        Arc::clone(&staged),
        vec![
            Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5, 6, 7])),
            Arc::new(StringArray::from(vec!["1.0", "1.00", "1.0", "0", "1.0", "6", "0"])),
            Arc::new(Float64Array::from(vec![0.0, 0.0, -0.0, 0.0, 0.0, 6.0, 0.0])),
            Arc::new(StringArray::from(vec![
                Some("{\"a\":1}"),
                Some("{\"a\":1}"),
                Some("{\"a\":1}"),
                None,
                Some("{ }"),
                None,
                None,
            ])),
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\0".as_slice()), None, None, None, None, None, None])),
            Arc::new(Int8Array::from(vec![
                INSERT_OR_UPDATE,
                INSERT_OR_UPDATE,
                INSERT_OR_UPDATE,
                DELETE,
                INSERT_OR_UPDATE,
                INSERT_OR_UPDATE,
                DELETE,
            ])),
        ],
    )
    .unwrap();
    let before = place.rows("SELECT xmin, ctid FROM $S.t WHERE id = 1").await;
    let load = place.load("t", changes(Operation::Column { patch: vec![] }), &staged);
    let receipt = load.run(&[vec![batch.clone()]]).await.unwrap();
    let rows = &receipt.rows;
    assert_eq!([rows.inserted, rows.updated, rows.deleted, rows.unchanged], [1, 3, 1, 2]);
    assert_eq!(place.rows("SELECT xmin, ctid FROM $S.t WHERE id = 1").await, before);
    assert_eq!(
        place.rows("SELECT id, n, f, j FROM $S.t ORDER BY id").await,
        ["1|1.0|0|{\"a\":1}", "2|1.00|0|{\"a\":1}", "3|1.0|-0|{\"a\":1}", "5|1.0|0|{ }", "6|6|6|NULL"]
    );
    // The same changes again change nothing at all.
    let before = place.rows("SELECT id, xmin, ctid FROM $S.t ORDER BY id").await;
    let receipt = place
        .load("t", changes(Operation::Column { patch: vec![] }), &staged)
        .run(&[vec![batch.clone()]])
        .await
        .unwrap();
    let rows = &receipt.rows;
    assert_eq!([rows.inserted, rows.updated, rows.deleted, rows.unchanged], [0, 0, 0, 7]);
    assert_eq!(place.rows("SELECT id, xmin, ctid FROM $S.t ORDER BY id").await, before);
    // Into a table that is not there, deletions are nothing.
    let receipt = place
        .load("fresh", changes(Operation::Column { patch: vec![] }), &staged)
        .key(&["id"])
        .run(&[vec![batch]])
        .await
        .unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.unchanged), (5, 2));
    assert_eq!(place.rows("SELECT string_agg(id::text, ',' ORDER BY id) FROM $S.fresh").await, ["1,2,3,5,6"]);
    assert_eq!(
        place.rows("SELECT count(*) FROM pg_attribute WHERE attrelid = '$S.fresh'::regclass AND attnum > 0").await,
        ["5"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_later_than_all_of_history_are_only_inserted_and_others_still_meet_theirs() {
    let place = Place::new("w_versions").await;
    // Without an index, so that nothing but the load keeps a version from being there twice.
    place.run("CREATE TABLE $S.t (id integer, since timestamptz, v text, current boolean)").await;
    place.run("INSERT INTO $S.t SELECT i, '1970-01-01 00:00:01Z', 'old', true FROM generate_series(1, 1500) i").await;
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("since", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("v", DataType::Utf8, true),
        Field::new("current", DataType::Boolean, true),
        Field::new(OPERATION_COLUMN, DataType::Int8, false),
    ]));
    // Each row is closed, and opened again at the given second; the last is opened without an instant, where asked for.
    let batch = |second: i64, null: bool| {
        let opened = (0..1500).map(|i| (!(null && i == 1499)).then_some(second * 1_000_000));
        let since = std::iter::repeat_n(Some(1_000_000), 1500).chain(opened);
        RecordBatch::try_new(
            Arc::clone(&staged),
            vec![
                Arc::new(Int32Array::from_iter_values((1..=1500).chain(1..=1500))),
                Arc::new(TimestampMicrosecondArray::from_iter(since).with_timezone("UTC")),
                Arc::new(StringArray::from_iter_values((0..3000).map(|i| if i < 1500 { "" } else { "new" }))),
                Arc::new(BooleanArray::from_iter((0..3000).map(|i| Some(i >= 1500)))),
                Arc::new(Int8Array::from_iter_values(
                    (0..3000).map(|i| if i < 1500 { PATCH } else { INSERT_OR_UPDATE }),
                )),
            ],
        )
        .unwrap()
    };
    let mode = || WriteMode::Changes {
        key: vec!["id".into(), "since".into()],
        operation: Operation::Column { patch: vec!["current".into()] },
    };
    let counts = "SELECT v, current, count(*), count(DISTINCT id) FROM $S.t GROUP BY 1, 2 ORDER BY 1, 2";
    let receipt = place.load("t", mode(), &staged).run(&[vec![batch(2, false)]]).await.unwrap();
    assert_eq!([receipt.rows.inserted, receipt.rows.updated], [1500, 1500]);
    assert_eq!(place.rows(counts).await, ["new|t|1500|1500", "old|f|1500|1500"]);
    // The same once more: versions of that instant are there, so nothing is new.
    let receipt = place.load("t", mode(), &staged).run(&[vec![batch(2, false)]]).await.unwrap();
    assert_eq!([receipt.rows.inserted, receipt.rows.updated, receipt.rows.unchanged], [0, 0, 3000]);
    // One without an instant says nothing about being later, and is found again.
    for inserted in [1500, 0] {
        let receipt = place.load("t", mode(), &staged).run(&[vec![batch(3, true)]]).await.unwrap();
        assert_eq!([receipt.rows.inserted, receipt.rows.updated], [inserted, 0]);
    }
    assert_eq!(place.rows(counts).await, ["new|t|3000|1500", "old|f|1500|1500"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_rails_stop_a_load_before_anything_is_changed() {
    let place = Place::new("w_guards").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    place.run("INSERT INTO $S.t SELECT i, 'x', i FROM generate_series(1, 10) i").await;
    let rows = people_rows(&[(1, "x", 1)]);
    for mode in [EXCHANGE, TRUNCATE, scope("amount > 0")] {
        let mut load = place.load("t", mode.clone(), &people());
        load.max_delete_rows = Some(8);
        let error = load.run(&[vec![rows.clone()]]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataQuality, "{mode:?} {error}");
        let mut load = place.load("t", mode.clone(), &people());
        load.max_delete_ratio = Some(0.5);
        let error = load.run(&[vec![rows.clone()]]).await.unwrap_err();
        assert!(error.message().contains("9 of 10 rows"), "{mode:?} {error}");
        assert_eq!(place.rows("SELECT count(*) FROM $S.t").await, ["10"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_generated_and_default_columns_are_respected() {
    let place = Place::new("w_identity").await;
    let generated = if place
        .client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap()
        .get::<_, i32>(0)
        >= 120_000
    {
        ", twice bigint GENERATED ALWAYS AS (amount * 2) STORED"
    } else {
        ""
    };
    for (table, mode) in [("a", WriteMode::Append), ("x", EXCHANGE), ("c", changes(Operation::Upsert))] {
        place
            .run(&format!(
                "CREATE TABLE $S.{table} (id integer GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 5) PRIMARY KEY, \
                 name text NOT NULL, amount bigint{generated}, made date DEFAULT '2020-02-02'); \
                 INSERT INTO $S.{table} (name) VALUES ('old')"
            ))
            .await;
        place.load(table, mode, &people()).run(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
        assert_eq!(
            place.rows(&format!("SELECT id, name, made FROM $S.{table} WHERE id = 1")).await,
            ["1|a|2020-02-02"]
        );
        if !generated.is_empty() {
            assert_eq!(place.rows(&format!("SELECT twice FROM $S.{table} WHERE id = 1")).await, ["20"]);
        }
        // The sequence goes on where it was.
        assert_eq!(place.rows(&format!("INSERT INTO $S.{table} (name) VALUES ('next') RETURNING id")).await, ["105"]);
    }
}

// ---- Exchange ---------------------------------------------------------------------------------------------------

/// `pg_dump -s`, or nothing where no program is new enough for the server.
fn dump(url: &str, schema: &str) -> Option<String> {
    let best = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok().map(|e| e.path().join("bin/pg_dump")))
        .filter(|p| p.exists())
        .max();
    let output = Command::new(best.unwrap_or_else(|| "pg_dump".into())).args(["-s", "-n", schema, "-d", url]).output();
    let output = output.ok()?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaint.contains("server version mismatch") {
        return None;
    }
    assert!(output.status.success(), "{complaint}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Newer programs fence their output with a random word.
    let text: Vec<_> =
        text.lines().filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict")).collect();
    // Our own tables are not what is compared.
    Some(text.join("\n").split("\n--\n").filter(|part| !part.contains("__dpone__")).collect::<Vec<_>>().join("\n--\n"))
}

/// What the catalog says about the tables of a schema, apart from OIDs.
const CATALOG: &[&str] = &[
    "SELECT c.relname, c.relkind, c.relpersistence, c.reloptions, c.relreplident, c.relrowsecurity, c.relacl, \
            c.relowner, c.relchecks, c.reltablespace, obj_description(c.oid, 'pg_class') \
       FROM pg_class c WHERE relnamespace = '$S'::regnamespace AND relname !~ '__dpone__' ORDER BY 1",
    "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attstattarget, \
            a.attstorage, a.attoptions, a.attacl, a.attcollation, col_description(c.oid, a.attnum), \
            (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = c.oid AND d.adnum = a.attnum) \
       FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
      WHERE relnamespace = '$S'::regnamespace AND relname !~ '__dpone__' AND attnum > 0 ORDER BY 1, a.attnum",
    "SELECT conrelid::regclass, conname, contype, convalidated, condeferrable, condeferred, pg_get_constraintdef(oid), \
            obj_description(oid, 'pg_constraint') \
       FROM pg_constraint WHERE connamespace = '$S'::regnamespace AND conname !~ '__dpone__' ORDER BY conrelid::regclass::text, 2",
    "SELECT i.indexrelid::regclass, indisunique, indisprimary, indisclustered, indisreplident, indisvalid, \
            pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
      WHERE c.relnamespace = '$S'::regnamespace AND c.relname !~ '__dpone__' ORDER BY c.relname",
    "SELECT tgname, tgenabled, pg_get_triggerdef(t.oid), obj_description(t.oid, 'pg_trigger') FROM pg_trigger t \
       JOIN pg_class c ON c.oid = tgrelid WHERE c.relnamespace = '$S'::regnamespace AND NOT tgisinternal ORDER BY 1",
    "SELECT p.*, obj_description(o.oid, 'pg_policy') FROM pg_policies p JOIN pg_policy o ON o.polname = p.policyname \
      WHERE schemaname = '$S' ORDER BY p.policyname",
    "SELECT stxname, pg_get_statisticsobjdef(oid), obj_description(oid, 'pg_statistic_ext') FROM pg_statistic_ext \
      WHERE stxnamespace = '$S'::regnamespace",
    "SELECT s.relname, d.refobjid::regclass, d.refobjsubid, d.deptype FROM pg_depend d JOIN pg_class s ON s.oid = d.objid \
      WHERE s.relkind = 'S' AND s.relnamespace = '$S'::regnamespace AND d.refclassid = 'pg_class'::regclass ORDER BY 1",
    "SELECT seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle \
       FROM pg_sequence s JOIN pg_class c ON c.oid = seqrelid WHERE relnamespace = '$S'::regnamespace ORDER BY c.relname",
    "SELECT pubname, prrelid::regclass, to_jsonb(r) - 'oid' - 'prrelid' - 'prpubid' - 'prqual' FROM pg_publication_rel r \
       JOIN pg_publication p ON p.oid = prpubid WHERE pubname = 'w_keep_pub'",
];

async fn catalog(place: &Place) -> Vec<String> {
    let mut all = Vec::new();
    for sql in CATALOG {
        all.extend(place.rows(sql).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_keeps_everything_that_belongs_to_the_table() {
    // The newest server may be newer than the machine's pg_dump: an older one is asked too, where there is one.
    let mut urls = vec![url()];
    urls.extend(std::env::var("DPONE_TEST_POSTGRES_15_URL").ok().filter(|other| *other != urls[0]));
    for url in urls {
        exchange_keeps_everything(&url).await;
    }
}

async fn exchange_keeps_everything(url: &str) {
    let place = Place::at(url, "w_keep").await;
    let role = "dpone_test_reader";
    place
        .run(&format!(
            "DO $$BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END$$; \
             DROP PUBLICATION IF EXISTS w_keep_pub"
        ))
        .await;
    let version: i32 =
        place.client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    place
        .run(&format!(
            r#"
        CREATE TABLE $S.country (code text PRIMARY KEY);
        INSERT INTO $S.country VALUES ('de'), ('fr');
        CREATE FUNCTION $S.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE DOMAIN $S.positive AS bigint CHECK (VALUE > 0);
        CREATE TABLE $S."we""ird; t" (
            id integer GENERATED BY DEFAULT AS IDENTITY (START 7 INCREMENT 3),
            serial_no serial,
            name text COLLATE "C" NOT NULL DEFAULT 'it''s',
            amount $S.positive,
            country text REFERENCES $S.country (code) ON DELETE CASCADE,
            parent integer,
            during int4range,
            CONSTRAINT "the key" PRIMARY KEY (id),
            CONSTRAINT one_name UNIQUE (name, serial_no) DEFERRABLE INITIALLY DEFERRED,
            CONSTRAINT not_at_once EXCLUDE USING gist (during WITH &&),
            CONSTRAINT sane CHECK (amount < 1000000),
            CONSTRAINT tree FOREIGN KEY (parent) REFERENCES $S."we""ird; t" (id)
        ) WITH (fillfactor = 71, autovacuum_vacuum_threshold = 77);
        ALTER TABLE $S."we""ird; t" ADD CONSTRAINT later CHECK (name <> '') NOT VALID;
        CREATE INDEX "an index" ON $S."we""ird; t" USING btree (lower(name) DESC NULLS LAST) WHERE amount > 5;
        CREATE UNIQUE INDEX covering ON $S."we""ird; t" (serial_no) INCLUDE (name) WITH (fillfactor = 60);
        ALTER INDEX $S."an index" ALTER COLUMN 1 SET STATISTICS 55;
        ALTER TABLE $S."we""ird; t" CLUSTER ON "the key", REPLICA IDENTITY USING INDEX "the key";
        ALTER TABLE $S."we""ird; t" ALTER name SET STATISTICS 321, ALTER name SET STORAGE EXTERNAL,
            ALTER amount SET (n_distinct = -0.5);
        CREATE STATISTICS $S.both_of (dependencies) ON name, country FROM $S."we""ird; t";
        CREATE TRIGGER noted BEFORE INSERT OR UPDATE OF name ON $S."we""ird; t" FOR EACH ROW
            WHEN (NEW.amount > 3) EXECUTE FUNCTION $S.note();
        CREATE TRIGGER silent AFTER DELETE ON $S."we""ird; t" FOR EACH ROW EXECUTE FUNCTION $S.note();
        ALTER TABLE $S."we""ird; t" DISABLE TRIGGER silent;
        ALTER TABLE $S."we""ird; t" ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON $S."we""ird; t" AS RESTRICTIVE FOR UPDATE TO {role} USING (name = current_user) WITH CHECK (id > 0);
        CREATE POLICY everyone ON $S."we""ird; t" USING (true);
        GRANT SELECT, INSERT ON $S."we""ird; t" TO {role} WITH GRANT OPTION;
        GRANT UPDATE (name) ON $S."we""ird; t" TO PUBLIC;
        GRANT USAGE ON SEQUENCE $S."we""ird; t_id_seq" TO {role};
        REVOKE TRUNCATE ON $S."we""ird; t" FROM CURRENT_USER;
        ALTER DEFAULT PRIVILEGES IN SCHEMA $S GRANT DELETE ON TABLES TO {role};
        COMMENT ON TABLE $S."we""ird; t" IS 'it''s a \ table';
        COMMENT ON COLUMN $S."we""ird; t".name IS 'a column';
        COMMENT ON CONSTRAINT "the key" ON $S."we""ird; t" IS 'a key';
        COMMENT ON CONSTRAINT sane ON $S."we""ird; t" IS 'a check';
        COMMENT ON INDEX $S."an index" IS 'an index';
        COMMENT ON TRIGGER noted ON $S."we""ird; t" IS 'a trigger';
        COMMENT ON POLICY own ON $S."we""ird; t" IS 'a policy';
        COMMENT ON STATISTICS $S.both_of IS 'statistics';
        CREATE PUBLICATION w_keep_pub FOR TABLE $S."we""ird; t"{};
        INSERT INTO $S."we""ird; t" (name, amount, country) VALUES ('old', 10, 'de'), ('older', 10, 'fr');
        "#,
            if version >= 150_000 { r#" (id, name) WHERE (id > 3)"# } else { "" }
        ))
        .await;
    let before = (dump(url, "w_keep"), catalog(&place).await);
    let oid = place.rows(r#"SELECT '$S."we""ird; t"'::regclass::oid"#).await;

    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("serial_no", DataType::Int32, false),
        Field::new("name", DataType::Utf8, false),
        Field::new("amount", DataType::Int64, true),
        Field::new("country", DataType::Utf8, true),
        Field::new("parent", DataType::Int32, true),
        Field::new("during", DataType::Utf8, true),
    ]));
    let batch = |ids: Vec<i32>, country: &str| {
        let n = ids.len();
        RecordBatch::try_new(
            Arc::clone(&staged),
            vec![
                Arc::new(Int32Array::from(ids.clone())),
                Arc::new(Int32Array::from(ids.iter().map(|i| i + 100).collect::<Vec<_>>())),
                Arc::new(StringArray::from(vec!["new"; n])),
                Arc::new(Int64Array::from(vec![5; n])),
                Arc::new(StringArray::from(vec![country; n])),
                Arc::new(Int32Array::from(vec![None::<i32>; n])),
                Arc::new(StringArray::from(ids.iter().map(|i| format!("[{i},{})", i + 1)).collect::<Vec<_>>())),
            ],
        )
        .unwrap()
    };
    let load = place.load("we\"ird; t", EXCHANGE, &staged);
    let receipt = load.run(&[vec![batch(vec![1, 2], "de")], vec![batch(vec![3], "fr")]]).await.unwrap();
    assert_eq!(receipt.notes, Vec::<String>::new());
    assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (3, 2));
    assert_ne!(place.rows(r#"SELECT '$S."we""ird; t"'::regclass::oid"#).await, oid, "nothing was swapped");
    assert_eq!(catalog(&place).await, before.1);
    assert_eq!(dump(url, "w_keep"), before.0);
    // Both sequences go on.
    place.run(r#"INSERT INTO $S."we""ird; t" (name, country) VALUES ('after', 'de')"#).await;
    assert_eq!(place.rows(r#"SELECT id, serial_no FROM $S."we""ird; t" WHERE name = 'after'"#).await, ["13|3"]);

    // Rows that break a constraint leave the old table alone.
    let error = place.load("we\"ird; t", EXCHANGE, &staged).run(&[vec![batch(vec![1], "xx")]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality, "{error:?}");
    assert!(error.message().contains("foreign key"), "{error}");
    assert_eq!((dump(url, "w_keep"), catalog(&place).await), before);
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
    place.run("DROP PUBLICATION w_keep_pub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_turn_an_exchange_into_truncate_and_insert() {
    let place = Place::new("w_depend").await;
    let dependents = [
        ("view", "CREATE VIEW $S.v AS SELECT * FROM $S.t", "view"),
        ("matview", "CREATE MATERIALIZED VIEW $S.v AS SELECT id FROM $S.t", "materialized view"),
        ("fk", "CREATE TABLE $S.v (t integer REFERENCES $S.t (id))", "foreign key"),
        ("child", "CREATE TABLE $S.v () INHERITS ($S.t)", "inheritance"),
        ("rowtype", "CREATE TABLE $S.v (x $S.t)", "depends on it"),
        ("function", "CREATE FUNCTION $S.f(x $S.t) RETURNS int LANGUAGE sql AS 'SELECT 1'", "depends on it"),
        ("default", "CREATE TABLE $S.v (x integer DEFAULT nextval('$S.t_no_seq'))", "depends on it"),
        ("rule", "CREATE RULE r AS ON DELETE TO $S.t DO ALSO NOTIFY x", "rule"),
    ];
    for (what, sql, reason) in dependents {
        place
            .run(
                "DROP SCHEMA $S CASCADE; CREATE SCHEMA $S; CREATE TABLE $S.t (id integer PRIMARY KEY, name text, \
                  amount bigint, no integer GENERATED ALWAYS AS IDENTITY); INSERT INTO $S.t (id) VALUES (7)",
            )
            .await;
        place.run(sql).await;
        let oid = place.rows("SELECT '$S.t'::regclass::oid").await;
        let receipt = place.load("t", EXCHANGE, &people()).run(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
        assert!(receipt.notes[0].contains("fell back to truncate_insert"), "{what}: {:?}", receipt.notes);
        assert!(receipt.notes[0].contains(reason), "{what}: {:?}", receipt.notes);
        assert_eq!(place.rows("SELECT '$S.t'::regclass::oid").await, oid, "{what}");
        assert_eq!(place.rows("SELECT id, name, amount FROM ONLY $S.t").await, ["1|a|10"], "{what}");
    }
    place
        .run("DROP SCHEMA $S CASCADE; CREATE SCHEMA $S; CREATE TABLE $S.t (id integer, name text, amount bigint)")
        .await;
    // A view that is made while the load runs is seen under the lock.
    let mut load = place.load("t", EXCHANGE, &people());
    let lease = load.lease(Duration::from_secs(60)).await.unwrap();
    let staged = load.stage(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
    place.run("CREATE VIEW $S.v AS SELECT * FROM $S.t").await;
    let receipt = load.commit(&staged, &lease).await.unwrap();
    assert!(receipt.notes[0].contains("view"), "{:?}", receipt.notes);
    assert_eq!(place.rows("SELECT * FROM $S.v").await, ["1|a|10"]);
    load.sink.discard(&load.spec).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_altered_during_the_load_is_left_alone() {
    let place = Place::new("w_altered").await;
    for (mode, alter) in [
        (EXCHANGE, "CREATE INDEX late ON $S.t (name)"),
        (EXCHANGE, "ALTER TABLE $S.t ADD extra integer"),
        (WriteMode::Append, "ALTER TABLE $S.t ALTER amount TYPE integer"),
    ] {
        place.run("DROP TABLE IF EXISTS $S.t; CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
        let mut load = place.load("t", mode.clone(), &people());
        let lease = load.lease(Duration::from_secs(60)).await.unwrap();
        let staged = load.stage(&[vec![people_rows(&[(1, "a", 10)])]]).await.unwrap();
        place.run(alter).await;
        // An index made before the swap's own build is simply built too.
        match load.commit(&staged, &lease).await {
            Ok(_) => assert_eq!(
                place.rows("SELECT count(*) FROM pg_indexes WHERE schemaname = '$S' AND indexname = 'late'").await,
                ["1"]
            ),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
        load.sink.discard(&load.spec).await.unwrap();
        load.store().release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_reader_never_sees_a_part() {
    let place = Place::new("w_readers").await;
    place.run("CREATE TABLE $S.t (id integer PRIMARY KEY, name text, amount bigint)").await;
    let rows = |generation: i64| {
        let rows: Vec<_> = (0..2000).map(|i| (i, "x", generation)).collect();
        people_rows(&rows)
    };
    place.load("t", EXCHANGE, &people()).run(&[vec![rows(0)]]).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let client = connect().await;
            let (mut polls, mut seen) = (0, std::collections::BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                let sql = "SELECT count(*), min(amount), max(amount) FROM w_readers.t";
                // A prepared statement of a table that was swapped away is planned again by the server.
                let row = match client.query_one(sql, &[]).await {
                    Ok(row) => row,
                    // A name looked up an instant before the swap may lead to a table that is gone: no part is seen.
                    Err(error) if error.code().is_some_and(|c| c.code() == "XX000") => continue,
                    Err(error) => panic!("{error:?}"),
                };
                let (count, min, max): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
                assert_eq!((count, min), (2000, max), "a part was visible");
                seen.insert(min);
                polls += 1;
            }
            (polls, seen)
        })
    };
    for generation in 1..=9 {
        let mode = [EXCHANGE, TRUNCATE, changes(Operation::Upsert)][generation as usize % 3].clone();
        let batch = rows(generation);
        let halves = [vec![batch.slice(0, 1000)], vec![batch.slice(1000, 1000)]];
        place.load("t", mode, &people()).run(&halves).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let (polls, seen) = reader.await.unwrap();
    assert!(polls > 20 && seen.len() > 2, "{polls} polls saw {seen:?}");
}

// ---- Staging ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_staged_again_replaces_its_earlier_attempt() {
    let place = Place::new("w_retry").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    for (mode, partitions) in [(EXCHANGE, 2), (WriteMode::Append, 2), (EXCHANGE, 1)] {
        place.run("TRUNCATE $S.t").await;
        let mut load = place.load("t", mode, &people());
        let lease = load.lease(Duration::from_secs(60)).await.unwrap();
        let first: Vec<_> = (0..partitions).map(|p| vec![people_rows(&[(p, "first", 1)])]).collect();
        let mut staged = load.stage(&first).await.unwrap();
        // Preparing again finds what is there.
        load.sink.prepare(&load.spec).await.unwrap();
        let again = [people_rows(&[(0, "again", 2), (9, "again", 2)])];
        staged[0] = load.sink.stage(&load.spec, 0, stream(&people(), &again)).await.unwrap();
        assert_eq!(staged[0].rows, 2);
        // An attempt that fails leaves nothing, not even of what it replaced.
        let broken = stream(&people(), &[people_rows(&[(5, "broken\0", 3)])]);
        load.sink.stage(&load.spec, 0, broken).await.unwrap_err();
        let duplicates = load.sink.duplicate_keys(&load.spec, &staged, &["name".into()]).await.unwrap();
        assert_eq!(duplicates, 1);
        load.commit(&staged, &lease).await.unwrap();
        let mut want = vec!["0|again|2".to_owned()];
        want.extend((1..partitions).map(|p| format!("{p}|first|1")));
        want.push("9|again|2".to_owned());
        assert_eq!(all(&place, "t").await, want);
        load.sink.discard(&load.spec).await.unwrap();
        load.sink.discard(&load.spec).await.unwrap();
        load.store().release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_that_was_lost_is_noticed() {
    let place = Place::new("w_lost_staging").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint); INSERT INTO $S.t VALUES (1,'a',1)").await;
    let mut load = place.load("t", TRUNCATE, &people());
    let lease = load.lease(Duration::from_secs(60)).await.unwrap();
    let staged = load.stage(&[vec![people_rows(&[(2, "b", 2)])]]).await.unwrap();
    // What a crash of the server does to unlogged tables.
    let tables = place.rows("SELECT relname FROM pg_class WHERE relname ~ '^__dpone__[sp]_' AND relkind = 'r' AND relpersistence = 'u' AND relnamespace = '$S'::regnamespace").await;
    assert_eq!(tables.len(), 2, "{tables:?}");
    for table in &tables {
        place.run(&format!("TRUNCATE $S.\"{table}\"")).await;
    }
    let error = load.commit(&staged, &lease).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|1"]);
    // So is a single partition.
    let mut partial = place.load("t", TRUNCATE, &people());
    let staged = partial.stage(&[vec![people_rows(&[(2, "b", 2)])], vec![people_rows(&[(3, "c", 3)])]]).await.unwrap();
    let ledger = place
        .rows("SELECT relname FROM pg_class WHERE relname ~ '^__dpone__p_' AND relkind = 'r' AND relnamespace = '$S'::regnamespace")
        .await;
    assert_eq!(ledger.len(), 1, "the area of the load before was cleared");
    place.run(&format!("DELETE FROM $S.\"{}\" WHERE partition = 1", ledger[0])).await;
    let error = partial.commit(&staged, &lease).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|1"]);
    // The next run of the pipeline clears what this one leaves.
    load.store().release(&lease).await.unwrap();
    place.load("t", TRUNCATE, &people()).run(&[vec![people_rows(&[(3, "c", 3)])]]).await.unwrap();
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_kind_are_only_names() {
    let long = "ü".repeat(31) + "x";
    let place = Place::new("w \"odd\"; DROP SCHEMA public").await;
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id; --", DataType::Int32, false),
        Field::new("we\"ird; drop table", DataType::Utf8, true),
        Field::new(&long, DataType::Utf8, true),
        Field::new("$1", DataType::Utf8, true),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&staged),
        vec![
            Arc::new(Int32Array::from(vec![1])),
            Arc::new(StringArray::from(vec!["a"])),
            Arc::new(StringArray::from(vec!["b"])),
            Arc::new(StringArray::from(vec!["c"])),
        ],
    )
    .unwrap();
    let modes = [
        EXCHANGE,
        EXCHANGE,
        TRUNCATE,
        WriteMode::Changes { key: vec!["id; --".into()], operation: Operation::Upsert },
        WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: vec!["we\"ird; drop table".into()] } },
        WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: "\"id; --\" = 1".into() } },
    ];
    for (i, mode) in modes.into_iter().enumerate() {
        let table = format!("{}{}", "'; DROP TABLE \\", "t".repeat(63 - 15));
        assert_eq!(table.len(), 63);
        let load = place.load(&table, mode, &staged).key(&["id; --"]);
        load.run(&[vec![batch.clone()]]).await.unwrap_or_else(|e| panic!("{i}: {e:?}"));
        let sql = format!("SELECT * FROM \"w \"\"odd\"\"; DROP SCHEMA public\".\"{table}\"");
        assert_eq!(place.rows(&sql).await, ["1|a|b|c"]);
    }
    let too_long: SchemaRef = Arc::new(Schema::new(vec![Field::new("ü".repeat(32), DataType::Utf8, true)]));
    let batch = RecordBatch::try_new(Arc::clone(&too_long), vec![Arc::new(StringArray::from(vec!["a"]))]).unwrap();
    let error = place.load("t", WriteMode::Append, &too_long).run(&[vec![batch]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    place.run("DROP SCHEMA \"w \"\"odd\"\"; DROP SCHEMA public\" CASCADE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_table_has_the_types_of_its_source() {
    let place = Place::new("w_created").await;
    let field = |name: &str, data_type, native| with_native(Field::new(name, data_type, true), "postgres", native);
    let mut mood = field("mood", DataType::Utf8, "w_created_types.mood");
    let mut metadata = mood.metadata().clone();
    metadata.insert("dpone:labels".into(), "[\"sad\",\"it's ok\"]".into());
    mood = mood.with_metadata(metadata);
    let staged: SchemaRef = Arc::new(Schema::new(vec![
        field("price", DataType::Decimal128(10, 2), "numeric(10,2)"),
        field("address", DataType::Utf8, "inet"),
        mood,
        field("shape", DataType::Utf8, "elsewhere.shape"),
        with_extension(Field::new("u", DataType::FixedSizeBinary(16), true), EXTENSION_UUID),
        Field::new("gap", DataType::Interval(IntervalUnit::MonthDayNano), true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]));
    place.run("DROP SCHEMA IF EXISTS w_created_types CASCADE").await;
    let batch = RecordBatch::try_new(
        Arc::clone(&staged),
        vec![
            Arc::new(Decimal128Array::from(vec![1234]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(StringArray::from(vec!["10.0.0.1"])),
            Arc::new(StringArray::from(vec!["it's ok"])),
            Arc::new(StringArray::from(vec!["(1,2)"])),
            Arc::new(FixedSizeBinaryArray::try_from_iter(vec![vec![1u8; 16]].into_iter()).unwrap()),
            Arc::new(IntervalMonthDayNanoArray::from(vec![arrow::datatypes::IntervalMonthDayNano::new(1, 0, 0)])),
            Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC")),
        ],
    )
    .unwrap();
    let receipt = place.load("t", EXCHANGE, &staged).run(&[vec![batch]]).await.unwrap();
    assert!(receipt.notes.iter().any(|n| n.contains("w_created_types.mood")), "{:?}", receipt.notes);
    assert!(receipt.notes.iter().any(|n| n.contains("stored as text")), "{:?}", receipt.notes);
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ';' ORDER BY attnum) FROM pg_attribute \
                 WHERE attrelid = '$S.t'::regclass AND attnum > 0";
    assert_eq!(
        place.rows(types).await,
        ["numeric(10,2);inet;w_created_types.mood;text;uuid;interval;timestamp with time zone"]
    );
    assert_eq!(place.rows("SELECT price, address, mood, shape FROM $S.t").await, ["12.34|10.0.0.1|it's ok|(1,2)"]);
    place.run("DROP SCHEMA w_created_types CASCADE").await;
}

// ---- State, leases, lost answers --------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn reading_state_that_is_not_there_finds_and_creates_nothing() {
    let place = Place::new("w_state").await;
    let load = place.load("t", WriteMode::Append, &people());
    let store = load.store();
    assert!(store.get("t").await.unwrap().is_none());
    assert!(store.receipt("t", "r").await.unwrap().is_none());
    assert!(store.list().await.unwrap().is_empty());
    assert!(!store.reset("t").await.unwrap());
    assert!(load.sink.describe(&load.spec.target).await.unwrap().is_none());
    assert_eq!(place.rows("SELECT count(*) FROM pg_class WHERE relnamespace = '$S'::regnamespace").await, ["0"]);
    place.run("DROP SCHEMA $S").await;
    assert!(store.get("t").await.unwrap().is_none());
    // Many runs at once create the tables once.
    let stores: Vec<Arc<dyn StateStore>> = (0..8).map(|_| load.store()).collect();
    let request = |i: usize| dpone_engine::state::LeaseRequest {
        pipeline: format!("p{i}"),
        run_id: "r".into(),
        holder: "h".into(),
        ttl: Duration::from_secs(5),
    };
    let requests: Vec<_> = (0..8).map(request).collect();
    let taken = futures::future::join_all(stores.iter().zip(&requests).map(|(s, r)| s.acquire(r))).await;
    assert!(taken.iter().all(|lease| lease.as_ref().is_ok_and(|l| l.token == 1)), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_held_by_one_and_taken_over_when_it_ends() {
    let place = Place::new("w_lease").await;
    let (first, second) =
        (place.load("t", WriteMode::Append, &people()), place.load("t", WriteMode::Append, &people()));
    let held = first.lease(Duration::from_secs(1)).await.unwrap();
    let error = second.lease(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("the test") && error.message().contains(&first.spec.run_id), "{error}");
    first.store().renew(&held).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let taken = second.lease(Duration::from_secs(60)).await.unwrap();
    assert!(taken.token > held.token);
    assert_eq!(first.store().renew(&held).await.unwrap_err().kind(), ErrorKind::Conflict);
    // Giving back what is no longer ours changes nothing.
    first.store().release(&held).await.unwrap();
    assert_eq!(first.lease(Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::Conflict);
    second.store().release(&taken).await.unwrap();
    assert!(first.lease(Duration::from_secs(1)).await.unwrap().token > taken.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_lost_its_lease_cannot_commit() {
    let place = Place::new("w_fence").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    let mut slow = place.load("t", EXCHANGE, &people());
    let lease = slow.lease(Duration::from_millis(100)).await.unwrap();
    let staged = slow.stage(&[vec![people_rows(&[(1, "slow", 1)])]]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    place.load("t", TRUNCATE, &people()).run(&[vec![people_rows(&[(2, "fast", 2)])]]).await.unwrap();
    let error = slow.commit(&staged, &lease).await.unwrap_err();
    // Its staging was cleared by the run that took over, or its token was refused: either way nothing happened.
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Transient), "{error}");
    assert_eq!(all(&place, "t").await, ["2|fast|2"]);
    // With its staging still there, the token alone stops it.
    let mut slow = place.load("t", EXCHANGE, &people());
    let lease = slow.lease(Duration::from_secs(60)).await.unwrap();
    let staged = slow.stage(&[vec![people_rows(&[(1, "slow", 1)])]]).await.unwrap();
    let stale = Lease { token: lease.token - 1, ..lease };
    let error = slow.commit(&staged, &stale).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(all(&place, "t").await, ["2|fast|2"]);
    slow.sink.discard(&slow.spec).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_run_is_committed_once() {
    let place = Place::new("w_once").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    let first = place.load("t", WriteMode::Append, &people());
    let run_id = first.spec.run_id.clone();
    first.run(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap();
    let mut again = place.load("t", WriteMode::Append, &people());
    again.spec.run_id = run_id;
    let error = again.run(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(all(&place, "t").await, ["1|a|1"]);
}

/// Passes bytes through until a COMMIT comes by while it is armed; then the connection is cut, with the COMMIT
/// delivered or not.
async fn cutting_proxy(armed: Arc<AtomicBool>, deliver: bool) -> String {
    let config: tokio_postgres::Config = url().parse().unwrap();
    let host = match &config.get_hosts()[0] {
        tokio_postgres::config::Host::Tcp(host) => host.clone(),
        other => panic!("the tests need a server on TCP, and {other:?} is not"),
    };
    let server = (host, config.get_ports().first().copied().unwrap_or(5432));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = tokio::net::TcpStream::connect(&server).await.unwrap();
            let armed = Arc::clone(&armed);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = upstream.into_split();
                let back = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                    let commit = buffer[..n].windows(7).any(|w| w == b"COMMIT\0");
                    if commit && armed.swap(false, Ordering::SeqCst) {
                        back.abort();
                        if deliver {
                            to_server.write_all(&buffer[..n]).await.unwrap();
                        }
                        // Both sockets close; the client has seen no answer.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        return;
                    }
                    if to_server.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
                back.abort();
            });
        }
    });
    let mut through = format!("postgres://{}", config.get_user().unwrap());
    if let Some(password) = config.get_password() {
        through.push(':');
        through.push_str(std::str::from_utf8(password).unwrap());
    }
    format!("{through}@127.0.0.1:{port}/{}?sslmode=disable", config.get_dbname().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_commit_is_looked_up() {
    let place = Place::new("w_lost_ack").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    for deliver in [true, false] {
        place.run("TRUNCATE $S.t").await;
        let armed = Arc::new(AtomicBool::new(false));
        let mut load = place.load("t", WriteMode::Append, &people());
        load.sink = sink_at(&cutting_proxy(Arc::clone(&armed), deliver).await);
        let lease = load.lease(Duration::from_secs(60)).await.unwrap();
        let staged = load.stage(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap();
        armed.store(true, Ordering::SeqCst);
        let result = load.commit(&staged, &lease).await;
        assert!(!armed.load(Ordering::SeqCst), "the connection was not cut");
        if deliver {
            assert_eq!(result.unwrap().rows.inserted, 1);
            assert_eq!(all(&place, "t").await, ["1|a|1"]);
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Transient);
            assert_eq!(all(&place, "t").await, Vec::<String>::new());
            // Nothing happened, so the same commit may be made again.
            load.commit(&staged, &lease).await.unwrap();
            assert_eq!(all(&place, "t").await, ["1|a|1"]);
        }
        load.sink.discard(&load.spec).await.unwrap();
        load.store().release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_others_hold_is_waited_for_no_longer_than_configured() {
    let place = Place::new("w_lock").await;
    place.run("CREATE TABLE $S.t (id integer, name text, amount bigint)").await;
    let mut load = place.load("t", TRUNCATE, &people());
    let separator = if url().contains('?') { '&' } else { '?' };
    load.sink = sink_at(&format!("{}{separator}lock_timeout=200", url()));
    place.run("BEGIN; LOCK TABLE $S.t IN ROW EXCLUSIVE MODE").await;
    let error = load.run(&[vec![people_rows(&[(1, "a", 1)])]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    place.run("ROLLBACK").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn describing_a_target_says_what_matters() {
    let place = Place::new("w_describe").await;
    place
        .run(
            "CREATE TABLE $S.t (id integer, name text NOT NULL, amount numeric(10,2), PRIMARY KEY (name, id)); \
               CREATE VIEW $S.v AS SELECT * FROM $S.t",
        )
        .await;
    let load = place.load("t", EXCHANGE, &people());
    let described = load.sink.describe(&load.spec.target).await.unwrap().unwrap();
    assert_eq!(described.primary_key, ["name", "id"]);
    assert!(!described.has_rows);
    assert!(described.notes.iter().any(|n| n.contains("view")), "{:?}", described.notes);
    assert_eq!(described.schema.field(2).metadata()["dpone:native"], "numeric(10,2)");
    place.run("INSERT INTO $S.t VALUES (1, 'a', 1)").await;
    let described = load.sink.describe(&load.spec.target).await.unwrap().unwrap();
    assert!(described.has_rows);
    let context = datafusion::prelude::SessionContext::new();
    let frame = context.read_table(described.provider).unwrap();
    assert_eq!(frame.count().await.unwrap(), 1);
    let view = place.load("v", EXCHANGE, &people());
    let error = load.sink.describe(&view.spec.target).await.unwrap_err();
    assert!(error.message().contains("a view"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_what_the_port_promises() {
    let place = Place::new("w_conformance").await;
    dpone_engine::testing::sink_conformance(Arc::clone(&place.sink), &place.schema).await.unwrap();
    assert_eq!(leftovers(&place).await, Vec::<String>::new());
}
