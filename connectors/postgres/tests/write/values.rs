//! Values: each type, in each form, as the server says it is.

use super::*;

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
