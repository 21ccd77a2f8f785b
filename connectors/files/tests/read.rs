//! Reading real files: CSV, NDJSON and Parquet, plain and compressed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type, Schema, TimestampMicrosecondType};
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use dpone_engine::source::ReadTarget;
use dpone_engine::{
    Connector, Error, ReadRequest, Relation, ResolvedConnection, ScanExec, Secret, Source, SourceTable,
};
use dpone_files::FilesConnector;
use dpone_planner::types::logical_name;

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn connect(dir: &Path, options: &[(&str, &str)]) -> Result<Arc<dyn Source>, Error> {
    FilesConnector.source(&ResolvedConnection {
        name: "raw".to_owned(),
        kind: "file".to_owned(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect(),
        base_dir: dir.to_owned(),
    })
}

fn request(name: &str) -> ReadRequest {
    ReadRequest {
        target: ReadTarget::Table(Relation::new("data", name)),
        parallelism: 2,
        batch_rows: 8192,
        ..ReadRequest::default()
    }
}

async fn open(dir: &Path, options: &[(&str, &str)], request: &ReadRequest) -> Result<SourceTable, Error> {
    connect(dir, options)?.snapshot().await?.table(request).await
}

/// All rows of one file, and its inferred types.
async fn read(dir: &Path, options: &[(&str, &str)]) -> Result<(RecordBatch, String), Error> {
    let table = open(dir, options, &request("t")).await?;
    let types = types(&table.provider.schema());
    let context = SessionContext::new();
    let schema = table.provider.schema();
    let batches = context.read_table(table.provider)?.collect().await?;
    Ok((arrow::compute::concat_batches(&schema, &batches)?, types))
}

fn types(schema: &Schema) -> String {
    schema.fields().iter().map(|f| format!("{} {}", f.name(), logical_name(f))).collect::<Vec<_>>().join(", ")
}

async fn read_text(name: &str, text: &[u8], options: &[(&str, &str)]) -> Result<(RecordBatch, String), Error> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), text).unwrap();
    let mut options = options.to_vec();
    options.push(("path", name));
    read(dir.path(), &options).await
}

/// A column as text, NULL as `∅`.
fn column(batch: &RecordBatch, name: &str) -> Vec<String> {
    let array = batch.column_by_name(name).unwrap();
    let value = |row| arrow::util::display::array_value_to_string(array, row).unwrap();
    (0..array.len()).map(|row| if array.is_null(row) { "∅".to_owned() } else { value(row) }).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const FLIGHTS: &str = "year bigint, month bigint, day bigint, dep_time bigint, sched_dep_time bigint, dep_delay bigint, \
                       arr_time bigint, sched_arr_time bigint, arr_delay bigint, carrier text, flight bigint, \
                       tailnum text, origin text, dest text, air_time bigint, distance bigint, hour bigint, \
                       minute bigint, time_hour timestamptz";

#[tokio::test(flavor = "multi_thread")]
async fn flights_with_missing_values() {
    let (batch, types) = read(&data(""), &[("path", "flights.csv"), ("null_values", "NA")]).await.unwrap();
    assert_eq!(types, FLIGHTS);
    assert_eq!(batch.num_rows(), 41);
    let nulls = batch.column_by_name("dep_time").unwrap().null_count();
    let text = std::fs::read_to_string(data("flights.csv")).unwrap();
    let expected = text.lines().filter(|l| l.split(',').nth(3) == Some("NA")).count();
    assert!(expected > 0);
    assert_eq!(nulls, expected);
    let line: Vec<_> = text.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(column(&batch, "flight")[0], line[10]);
    assert_eq!(column(&batch, "time_hour")[0], line[18]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_was_not_named_is_noticed() {
    let table = open(&data(""), &[("path", "flights.csv")], &request("t")).await.unwrap();
    assert!(table.notes[0].starts_with("inferred: year bigint, month bigint"), "{:?}", table.notes);
    assert!(table.notes[1].contains("\"NA\" keeps columns") && table.notes[1].contains("dep_time bigint"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_string_is_not_null() {
    let text = b"a,b\n1,\n2,\"\"\n3, \n4,\\N\n5,\"NA\"\n6,NA\n";
    let (batch, types) = read_text("t.csv", text, &[("null_values", "[\"NA\"]")]).await.unwrap();
    assert_eq!(types, "a bigint, b text");
    assert_eq!(column(&batch, "b"), ["∅", "", " ", "\\N", "NA", "∅"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_line_ends_line_breaks_in_values_and_a_byte_order_mark() {
    let text = b"\xef\xbb\xbfid,note\r\n1,\"two\r\nlines\"\r\n2,\"say \"\"hi\"\"\"\r\n";
    let (batch, types) = read_text("t.csv", text, &[]).await.unwrap();
    assert_eq!(types, "id bigint, note text");
    assert_eq!(column(&batch, "note"), ["two\r\nlines", "say \"hi\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_files_of_several_members() {
    let (first, second) = (b"a,b\n1,x\n".as_slice(), b"2,y\n".as_slice());
    let gz = [gzip(first), gzip(second)].concat();
    let (batch, _) = read_text("t.csv.gz", &gz, &[]).await.unwrap();
    assert_eq!(column(&batch, "b"), ["x", "y"]);
    let zst = [zstd::encode_all(first, 3).unwrap(), zstd::encode_all(second, 3).unwrap()].concat();
    let (batch, _) = read_text("t.csv.zst", &zst, &[]).await.unwrap();
    assert_eq!(column(&batch, "a"), ["1", "2"]);
    let (batch, _) = read_text("t.csv", &gz, &[("compression", "gzip")]).await.unwrap();
    assert_eq!(batch.num_rows(), 2);
    let error = read_text("t.csv.gz", &gz[..gz.len() - 6], &[]).await.unwrap_err();
    assert_eq!(error.kind().as_str(), "configuration", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_name_file_line_and_column_and_no_value() {
    let fails = async |text: &[u8], options: &[(&str, &str)]| {
        let error = read_text("t.csv", text, options).await.unwrap_err();
        assert_eq!(error.kind().as_str(), "data_quality", "{error}");
        let shown = format!("{error:?}");
        assert!(!shown.contains("SECRET"), "{shown}");
        shown
    };
    let shown = fails(b"a,b\n1,2\n3\n", &[]).await;
    assert!(shown.contains("t.csv, line 3: 2 fields were expected, 1 were found"), "{shown}");
    let shown = fails(b"a,b\n1,2\n3,4\nSECRET,6\n", &[("infer_rows", "2")]).await;
    assert!(shown.contains("t.csv, line 4: column \"a\" holds a value that is not a bigint"), "{shown}");
    assert!(shown.contains("{name: a, type: text}") && shown.contains("infer_rows"), "{shown}");
    let shown = fails(b"a,b\n1,\"SECRET\n3,4\n", &[]).await;
    assert!(shown.contains("t.csv, line 2: a quote that opens"), "{shown}");
    let shown = fails(b"a,b\n1,x\n2,\xff\xfe\n", &[]).await;
    assert!(shown.contains("t.csv, line 3: column \"b\""), "{shown}");
    let shown = fails(b"a,a\n1,2\n", &[]).await;
    assert!(shown.contains("column 2 of the header has the name \"a\""), "{shown}");
    let shown = fails(b"a,\n1,2\n", &[]).await;
    assert!(shown.contains("column 2 of the header has no name"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_types_override_inference() {
    let columns = r#"[{"name": "zip", "type": "bigint"}, {"name": "price", "type": "decimal(10,2)"}]"#;
    let text = b"zip,price\n00501,1.50\n10001,2\n";
    let (batch, types) = read_text("t.csv", text, &[("columns", columns)]).await.unwrap();
    assert_eq!(types, "zip bigint, price decimal(10,2)");
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[501, 10001]);
    assert_eq!(batch.column(1).as_primitive::<Decimal128Type>().values(), &[150, 200]);
    let (_, types) = read_text("t.csv", text, &[]).await.unwrap();
    assert_eq!(types, "zip text, price double");

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.csv"), "at\n2013-01-01T06:00:00\n").unwrap();
    let mut with_types = request("t");
    with_types.types = BTreeMap::from([("at".to_owned(), "timestamptz".to_owned())]);
    let table = open(dir.path(), &[("path", "t.csv")], &with_types).await.unwrap();
    let error = Error::from(SessionContext::new().read_table(table.provider).unwrap().collect().await.unwrap_err());
    assert!(error.hint().unwrap().contains("needs an offset"), "{error:?}");
    with_types.types = BTreeMap::from([("att".to_owned(), "date".to_owned())]);
    let error = open(dir.path(), &[("path", "t.csv")], &with_types).await.unwrap_err();
    assert_eq!(error.hint(), Some("did you mean \"at\"?"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_header_and_other_delimiters() {
    let (batch, types) =
        read_text("t.txt", b"1;x\n2;y\n", &[("header", "false"), ("delimiter", ";"), ("format", "csv")]).await.unwrap();
    assert_eq!(types, "column_1 bigint, column_2 text");
    assert_eq!(batch.num_rows(), 2);
    let (_, types) = read_text("t.tsv", b"a\tb\n1\tx\n", &[]).await.unwrap();
    assert_eq!(types, "a bigint, b text");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_files_are_partitions_of_one_table() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..5 {
        let rows: String = (0..1000).map(|r| format!("{},{}\n", i * 1000 + r, r)).collect();
        std::fs::write(dir.path().join(format!("part-{i}.csv")), format!("id,v\n{rows}")).unwrap();
    }
    let options = [("path", "part-*.csv")];
    let table = open(dir.path(), &options, &request("t")).await.unwrap();
    let context = SessionContext::new();
    let frame = context.read_table(Arc::clone(&table.provider)).unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    assert_eq!(plan.properties().partitioning.partition_count(), 2);
    assert_eq!(frame.count().await.unwrap(), 5000);
    let limited = context.read_table(table.provider).unwrap().limit(0, Some(7)).unwrap().collect().await.unwrap();
    assert_eq!(limited.iter().map(RecordBatch::num_rows).sum::<usize>(), 7);

    std::fs::write(dir.path().join("part-9.csv"), "v,id\n1,2\n").unwrap();
    let error = read(dir.path(), &options).await.unwrap_err();
    assert!(error.to_string().contains("part-9.csv, line 1: the header's column 1 is not \"id\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_survives_serialisation() {
    let source = connect(&data(""), &[("path", "flights.csv"), ("null_values", "NA")]).unwrap();
    let table = source.snapshot().await.unwrap().table(&request("t")).await.unwrap();
    let context = SessionContext::new();
    let frame = context.read_table(table.provider).unwrap().select_columns(&["time_hour", "dep_time"]).unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    let mut node = plan;
    while node.downcast_ref::<ScanExec>().is_none() {
        node = Arc::clone(node.children()[0]);
    }
    let scan = node.downcast_ref::<ScanExec>().unwrap().scan();
    assert_eq!(types(&scan.schema()), "dep_time bigint, time_hour timestamptz");
    let text = serde_json::to_string(&scan.spec()).unwrap();
    let again = source.scan(&serde_json::from_str(&text).unwrap()).unwrap();
    let mut rows = Vec::new();
    for partition in 0..again.partitions() {
        let batches = futures::TryStreamExt::try_collect::<Vec<_>>(again.read(partition, 10).unwrap()).await.unwrap();
        assert!(batches.iter().all(|b| b.num_rows() <= 10));
        rows.extend(batches);
    }
    let again = arrow::compute::concat_batches(&again.schema(), &rows).unwrap();
    let first = frame.select_columns(&["dep_time", "time_hour"]).unwrap().collect().await.unwrap();
    assert_eq!(
        pretty_format_batches(&[again]).unwrap().to_string(),
        pretty_format_batches(&first).unwrap().to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_in_a_folder_are_found_by_name() {
    let source = connect(&data(""), &[("path", "."), ("null_values", "NA")]).unwrap();
    let snapshot = source.snapshot().await.unwrap();
    assert!(snapshot.table(&request("planes")).await.is_ok());
    let error = snapshot.table(&request("flihgts")).await.unwrap_err();
    assert_eq!(error.hint(), Some("did you mean \"flights\"?"));
    let names: Vec<_> = source.relations().await.unwrap().into_iter().map(|r| r.relation.name).collect();
    assert_eq!(names, ["flights", "planes"]);
    assert!(snapshot.position().contains("planes.csv"));
    let error = read(&data(""), &[("path", "nothing-*.csv")]).await.unwrap_err();
    assert!(error.to_string().contains("no file matches"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_under_the_read_fails_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(&path, "a\n1\n").unwrap();
    let source = connect(dir.path(), &[("path", "t.csv")]).unwrap();
    let snapshot = source.snapshot().await.unwrap();
    let table = snapshot.table(&request("t")).await.unwrap();
    snapshot.verify().await.unwrap();
    std::fs::write(&path, "a\n1\n2\n").unwrap();
    let error = Error::from(SessionContext::new().read_table(table.provider).unwrap().collect().await.unwrap_err());
    assert!(error.to_string().contains("changed while it was read"), "{error}");
    assert_eq!(snapshot.verify().await.unwrap_err().kind().as_str(), "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_with_nested_values() {
    let text = br#"{"id": 1, "tags": ["a", null], "at": {"x": 1.5}, "big": 18446744073709551615}
{"id": 2, "tags": [], "at": {"x": 2, "y": "z"}, "ok": true}

{"id": null, "note": "n"}"#;
    let (batch, types) = read_text("t.ndjson", text, &[]).await.unwrap();
    assert_eq!(types, "at struct(x double, y text), big decimal(38,0), id bigint, tags text[], ok boolean, note text");
    assert_eq!(column(&batch, "id"), ["1", "2", "∅"]);
    assert_eq!(column(&batch, "big")[0], "18446744073709551615");
    assert_eq!(column(&batch, "tags"), ["[a, ]", "[]", "∅"]);

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.jsonl"), text).unwrap();
    let table = open(dir.path(), &[("path", "t.jsonl")], &request("t")).await.unwrap();
    assert_eq!(SessionContext::new().read_table(table.provider).unwrap().count().await.unwrap(), 3);
    let error = read_text("t.json", b"[{\"a\": 1}]", &[]).await.unwrap_err();
    assert!(error.to_string().contains("JSON array"), "{error}");
    let error = read_text("t.json", b"{\"a\": 1}\n{\"a\": \"SECRET\"}\n", &[("infer_rows", "1")]).await.unwrap_err();
    assert!(error.to_string().contains("t.json, line 2: column \"a\" holds a value that is not a bigint"), "{error}");
    assert!(!format!("{error:?}").contains("SECRET"));
    let error = read_text("t.json", b"{\"a\": 1}\n{\"a\": \n", &[]).await.unwrap_err();
    assert!(error.to_string().contains("t.json, line 2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_keep_their_types_and_prune() {
    let dir = tempfile::tempdir().unwrap();
    let (flights, _) = read(&data(""), &[("path", "flights.csv"), ("null_values", "NA")]).await.unwrap();
    for (name, part) in [("a.parquet", flights.slice(0, 20)), ("b.parquet", flights.slice(20, 21))] {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, part.schema(), None).unwrap();
        writer.write(&part).unwrap();
        writer.close().unwrap();
    }
    let (batch, types) = read(dir.path(), &[("path", "*.parquet")]).await.unwrap();
    assert_eq!(types, FLIGHTS);
    assert_eq!(batch.num_rows(), 41);
    let sorted = |b: &RecordBatch| {
        let mut hours =
            b.column_by_name("time_hour").unwrap().as_primitive::<TimestampMicrosecondType>().values().to_vec();
        hours.sort_unstable();
        hours
    };
    assert_eq!(sorted(&batch), sorted(&flights));
    let table = open(dir.path(), &[("path", "*.parquet")], &request("t")).await.unwrap();
    assert_eq!(table.rows, Some(41));
    let context = SessionContext::new();
    context.register_table("t", table.provider).unwrap();
    let count = context.sql("select * from t where dep_time is null").await.unwrap().count().await.unwrap();
    assert_eq!(count, flights.column_by_name("dep_time").unwrap().null_count());

    // The last one names a footer that is longer than the file.
    for broken in [&b"PAR1 is not enough"[..], b"", b"PAR1", b"PAR1 rows \xff\x00\x00\x7fPAR1"] {
        std::fs::write(dir.path().join("c.parquet"), broken).unwrap();
        let error = read(dir.path(), &[("path", "*.parquet")]).await.unwrap_err();
        assert!(error.to_string().contains("c.parquet: not a whole Parquet file"), "{broken:?}: {error}");
    }
}

/// NaN is greater than every number, and no bound of a row group says that there is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_nan_is_found_whatever_the_bounds_of_its_file_say() {
    use arrow::array::{ArrayRef, Float32Array, Float64Array, StructArray};
    let dir = tempfile::tempdir().unwrap();
    let single: ArrayRef = Arc::new(Float32Array::from(vec![1.0, f32::NAN]));
    let double: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 5.5]));
    let inner = StructArray::from(RecordBatch::try_from_iter([("x", Arc::clone(&double))]).unwrap());
    let batch = RecordBatch::try_from_iter([("f", single), ("d", double), ("s", Arc::new(inner) as ArrayRef)]).unwrap();
    let file = std::fs::File::create(dir.path().join("a.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let context = SessionContext::new();
    let table = open(dir.path(), &[("path", "a.parquet")], &request("t")).await.unwrap();
    context.register_table("t", table.provider).unwrap();
    for (filter, rows) in [
        ("d > 5.5", 1),
        ("d = 'NaN'::double", 1),
        ("d >= 5.5", 2),
        ("f > 100", 1),
        ("not (f <= 1)", 1),
        ("s['x'] > 5.5", 1),
        ("d < 5.5", 0),
    ] {
        let found = context.sql(&format!("select * from t where {filter}")).await.unwrap().count().await.unwrap();
        assert_eq!(found, rows, "{filter}");
    }
}

#[test]
fn options_are_checked() {
    let dir = Path::new("/");
    for (key, value, expected) in [
        ("delimiter", "ab", "not one ASCII character"),
        ("header", "maybe", "not true or false"),
        ("format", "xml", "not csv, ndjson or parquet"),
        ("infer_rows", "0", "not a number of rows"),
        ("encoding", "latin1", "not utf-8"),
        ("on_bad_row", "skip", "not fail"),
        ("row_group_rows", "5", "has no option"),
    ] {
        let error = connect(dir, &[("path", "x.csv"), (key, value)]).unwrap_err();
        assert!(error.to_string().contains(expected), "{key}: {error}");
        assert!(!error.to_string().contains(value) || key == "row_group_rows", "{error}");
    }
    assert!(connect(dir, &[("path", "ftp://host/x.csv")]).unwrap_err().to_string().contains("ftp://"));
    let error = connect(dir, &[]).unwrap_err();
    assert!(error.to_string().contains("needs the option \"path\""), "{error}");
}
