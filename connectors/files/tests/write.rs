//! Parquet and CSV as sinks: every promise of the port, atomicity under a polling reader, other readers, types.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use dpone_engine::receipt::RunStatus;
use dpone_engine::source::ReadTarget;
use dpone_engine::{
    Commit, Connector, LeaseRequest, LoadSpec, ReadRequest, Receipt, Relation, ResolvedConnection, Result, RowCounts,
    Secret, Sink, StateLocation,
};
use dpone_files::FilesConnector;
use dpone_planner::definition::OverwriteType;
use dpone_planner::plan::{Operation, ScopeFilter, WriteMode};
use dpone_planner::state::PipelineState;
use dpone_planner::types::{EXTENSION_JSON, EXTENSION_UUID, with_extension, with_native};

fn connection(dir: &Path, kind: &str, options: &[(&str, &str)]) -> ResolvedConnection {
    let mut all = BTreeMap::from([("path".to_owned(), Secret::new("out"))]);
    all.extend(options.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))));
    ResolvedConnection { name: "out".to_owned(), kind: kind.to_owned(), options: all, base_dir: dir.to_owned() }
}

fn sink(dir: &Path, kind: &str, options: &[(&str, &str)]) -> Arc<dyn Sink> {
    FilesConnector.sink(&connection(dir, kind, options)).unwrap()
}

fn target() -> Relation {
    Relation::new("landing", "t")
}

/// One load, as a run does it.
async fn load(sink: &dyn Sink, mode: WriteMode, run_id: &str, parts: &[RecordBatch]) -> Result<Receipt> {
    let store = sink.state(&target(), &StateLocation::default())?;
    let request = LeaseRequest {
        pipeline: "p".to_owned(),
        run_id: run_id.to_owned(),
        holder: "test".to_owned(),
        ttl: Duration::from_secs(60),
    };
    let lease = store.acquire(&request).await?;
    let spec = LoadSpec {
        load_id: uuid::Uuid::new_v4().simple().to_string(),
        run_id: run_id.to_owned(),
        pipeline: "p".to_owned(),
        target: target(),
        staging_schema: None,
        staged_schema: parts[0].schema(),
        target_exists: sink.describe(&target()).await?.is_some(),
        primary_key: mode.key().to_vec(),
        write_mode: mode,
        partitions: parts.len(),
        cursor: None,
        partition_by: Vec::new(),
        options: BTreeMap::new(),
    };
    sink.prepare(&spec).await?;
    let mut staged = Vec::new();
    for (partition, batch) in parts.iter().enumerate() {
        let rows = futures::stream::iter(vec![Ok(batch.clone())]);
        let rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(batch.schema(), rows));
        staged.push(sink.stage(&spec, partition, rows).await?);
    }
    let state = PipelineState {
        version: PipelineState::VERSION,
        pipeline: "p".to_owned(),
        digest: String::new(),
        watermark: None,
        boundary: None,
        changes: None,
        hashes: None,
        chunk: None,
        columns: Vec::new(),
        late_columns: Vec::new(),
        load_id: spec.load_id.clone(),
        run_id: run_id.to_owned(),
        committed_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    let receipt = Receipt {
        pipeline: "p".to_owned(),
        strategy: "test".to_owned(),
        write_mode: spec.write_mode.name().to_owned(),
        source: "test".to_owned(),
        target: target().to_string(),
        run_id: run_id.to_owned(),
        load_id: spec.load_id.clone(),
        status: RunStatus::Committed,
        rows: RowCounts::default(),
        bytes: 0,
        partitions: parts.len(),
        seconds: 0.0,
        watermark_before: None,
        watermark_after: None,
        source_position: String::new(),
        target_version: None,
        started_at: String::new(),
        finished_at: String::new(),
        schema_changes: Vec::new(),
        notes: Vec::new(),
    };
    let commit = Commit {
        load: &spec,
        staged: &staged,
        state: &state,
        state_location: &StateLocation::default(),
        lease: &lease,
        ddl: &[],
        max_delete_rows: None,
        max_delete_ratio: None,
        receipt: &receipt,
    };
    let committed = sink.commit(&commit).await?;
    // A commit that is asked for again answers with its first receipt.
    assert_eq!(sink.commit(&commit).await?, committed);
    sink.discard(&spec).await?;
    store.release(&lease).await?;
    Ok(committed)
}

const OVERWRITE: WriteMode = WriteMode::Overwrite { overwrite: OverwriteType::Exchange };

async fn rows(sink: &dyn Sink) -> RecordBatch {
    let table = sink.describe(&target()).await.unwrap().unwrap();
    let batches = SessionContext::new().read_table(table.provider).unwrap().collect().await.unwrap();
    arrow::compute::concat_batches(&table.schema, &batches).unwrap()
}

fn numbers(ids: std::ops::Range<i64>, value: i64) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("v", DataType::Int64, true)]);
    let values: Int64Array = ids.clone().map(|_| Some(value)).collect();
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from_iter(ids)), Arc::new(values)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_keeps_every_promise_of_a_sink() {
    let dir = tempfile::tempdir().unwrap();
    dpone_engine::testing::sink_conformance(sink(dir.path(), "parquet", &[]), "landing").await.unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path().join("out/landing/.dpone-staging")).unwrap().collect();
    assert!(left.is_empty(), "staging is cleaned up: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_keeps_the_promises_of_append_and_overwrite() {
    for options in
        [&[][..], &[("compression", "gzip"), ("null_marker", "NA")], &[("compression", "zstd"), ("delimiter", ";")]]
    {
        let dir = tempfile::tempdir().unwrap();
        dpone_engine::testing::sink_conformance(sink(dir.path(), "csv", options), "landing").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_files_with_affected_rows_are_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "parquet", &[]);
    load(sink.as_ref(), WriteMode::Append, "1", &[numbers(0..100, 1), numbers(100..200, 1)]).await.unwrap();
    let files = || {
        let names = std::fs::read_dir(dir.path().join("out/landing/t")).unwrap();
        names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = files();
    let changes = WriteMode::Changes { key: vec!["id".to_owned()], operation: Operation::Upsert };
    let receipt =
        load(sink.as_ref(), changes.clone(), "2", &[numbers(150..160, 2), numbers(199..205, 1)]).await.unwrap();
    let counts = |r: &Receipt| (r.rows.inserted, r.rows.updated, r.rows.deleted, r.rows.unchanged);
    assert_eq!(counts(&receipt), (5, 10, 0, 1));
    assert_eq!(before.intersection(&files()).count(), 2, "_dpone and the file without affected rows");
    let receipt = load(sink.as_ref(), changes, "3", &[numbers(0..10, 1)]).await.unwrap();
    assert_eq!(counts(&receipt), (0, 0, 0, 10));
    let scope = |sql: &str| WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: sql.to_owned() } };
    let receipt = load(sink.as_ref(), scope("id >= 150 and id < 170"), "4", &[numbers(151..153, 9)]).await.unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (2, 20));
    let now = rows(sink.as_ref()).await;
    let mut found: Vec<(i64, i64)> = (0..now.num_rows())
        .map(|i| {
            let at = |c: usize| now.column(c).as_primitive::<arrow::datatypes::Int64Type>().value(i);
            (at(0), at(1))
        })
        .collect();
    found.sort_unstable();
    let expected: Vec<(i64, i64)> =
        (0..150).map(|i| (i, 1)).chain((151..153).map(|i| (i, 9))).chain((170..205).map(|i| (i, 1))).collect();
    assert_eq!(found, expected);
}

/// A dictionary is looked up for each value, and pays where values repeat.
#[tokio::test]
async fn columns_whose_values_are_all_different_have_no_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "parquet", &[]);
    let ids = Int64Array::from_iter_values(0..20_000);
    let kinds = Int64Array::from_iter_values((0..20_000).map(|i| i % 7));
    let notes = StringArray::from_iter_values((0..20_000).map(|i| format!("note {i} of all that there are")));
    let columns: [(_, ArrayRef); 3] =
        [("id", Arc::new(ids)), ("kind", Arc::new(kinds)), ("note.text", Arc::new(notes))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    load(sink.as_ref(), OVERWRITE, "1", std::slice::from_ref(&batch)).await.unwrap();
    assert_eq!(rows(sink.as_ref()).await.num_rows(), 20_000);

    let files = std::fs::read_dir(dir.path().join("out/landing/t")).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "parquet"));
    let file = std::fs::File::open(files.next().unwrap()).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let group = reader.metadata().row_group(0);
    let dictionary: Vec<bool> = group.columns().iter().map(|c| c.dictionary_page_offset().is_some()).collect();
    assert_eq!(dictionary, [false, true, false]);
}

/// Opens every file that the folder lists; `None` when one is gone by then, which is a reason to look again.
fn rows_seen(table: &Path) -> Option<usize> {
    let mut rows = 0;
    for entry in std::fs::read_dir(table).ok()? {
        let path = entry.ok()?.path();
        if path.extension().is_some_and(|e| e == "parquet") {
            let file = std::fs::File::open(path).ok()?;
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            rows += reader.metadata().file_metadata().num_rows() as usize;
        }
    }
    Some(rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_reader_never_sees_a_part_of_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "parquet", &[]);
    load(sink.as_ref(), OVERWRITE, "0", &[numbers(0..1000, 0), numbers(1000..2000, 0)]).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (table, stop) = (dir.path().join("out/landing/t"), Arc::clone(&done));
    let reader = std::thread::spawn(move || {
        let mut seen = std::collections::BTreeMap::new();
        while !stop.load(Ordering::Relaxed) {
            assert!(table.is_dir(), "the table is there all the time");
            if let Some(rows) = rows_seen(&table) {
                *seen.entry(rows).or_insert(0) += 1;
            }
        }
        seen
    });
    for run in 1..40 {
        let (mode, parts) = match run % 3 {
            0 => (OVERWRITE, vec![numbers(0..1000, run), numbers(1000..2000, run)]),
            1 => (WriteMode::Append, vec![numbers(2000..2500, run), numbers(2500..3000, run)]),
            _ => (
                WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: "id >= 2000".to_owned() } },
                vec![numbers(2000..3000, run), numbers(3000..4000, run)],
            ),
        };
        load(sink.as_ref(), mode, &run.to_string(), &parts).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let seen = reader.join().unwrap();
    assert!(seen.keys().all(|rows| [2000, 3000, 4000].contains(rows)), "{seen:?}");
    assert!(seen.len() > 1, "the reader met more than one version: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanished_is_a_conflict_and_foreign_files_belong_to_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "parquet", &[]);
    let table = dir.path().join("out/landing/t");
    std::fs::create_dir_all(&table).unwrap();
    let batch = numbers(0..5, 0);
    let file = std::fs::File::create(table.join("theirs.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    load(sink.as_ref(), WriteMode::Append, "1", &[numbers(5..8, 0)]).await.unwrap();
    assert_eq!(rows(sink.as_ref()).await.num_rows(), 8);
    let described = sink.describe(&target()).await.unwrap().unwrap();
    assert_eq!(described.rows_estimate, Some(8));
}

/// Columns of every type that both formats store, at their extremes.
fn zoo(csv: bool) -> RecordBatch {
    let utc = || Some(Arc::<str>::from("UTC"));
    let mut columns: Vec<(Field, ArrayRef)> = vec![
        (Field::new("b", DataType::Boolean, true), Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        (
            Field::new("i16", DataType::Int16, true),
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
        ),
        (
            Field::new("i64", DataType::Int64, true),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
        ),
        (Field::new("u64", DataType::UInt64, true), Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None]))),
        (
            Field::new("f64", DataType::Float64, true),
            Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::NEG_INFINITY), Some(0.1 + 0.2)])),
        ),
        (
            Field::new("d", DataType::Decimal128(38, 10), true),
            Arc::new(
                Decimal128Array::from(vec![Some(10i128.pow(38) - 1), Some(-1), None])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
        ),
        (Field::new("t", DataType::Utf8, true), Arc::new(StringArray::from(vec![Some(""), Some("ü,\"\r\n"), None]))),
        (
            Field::new("bin", DataType::Binary, true),
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(b""), None])),
        ),
        (
            with_extension(Field::new("u", DataType::FixedSizeBinary(16), true), EXTENSION_UUID),
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    [Some([7u8; 16]), Some([0; 16]), None].into_iter(),
                    16,
                )
                .unwrap(),
            ),
        ),
        (
            with_extension(with_native(Field::new("j", DataType::Utf8, true), "postgres", "jsonb"), EXTENSION_JSON),
            Arc::new(StringArray::from(vec![Some("{\"a\": 1}"), Some("null"), None])),
        ),
        (Field::new("date", DataType::Date32, true), Arc::new(Date32Array::from(vec![Some(-719_162), Some(0), None]))),
        (
            Field::new("time", DataType::Time64(TimeUnit::Microsecond), true),
            Arc::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None])),
        ),
        (
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(1_356_998_400_123_456), None])),
        ),
        (
            Field::new("tz", DataType::Timestamp(TimeUnit::Nanosecond, utc()), true),
            Arc::new(TimestampNanosecondArray::from(vec![Some(-1), Some(1), None]).with_timezone("UTC")),
        ),
    ];
    if !csv {
        let list = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            Some(vec![]),
            None,
        ]);
        columns.push((Field::new("l", list.data_type().clone(), true), Arc::new(list)));
    }
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    RecordBatch::try_new(schema, arrays).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_and_types_come_back_exactly() {
    for kind in ["parquet", "csv"] {
        let dir = tempfile::tempdir().unwrap();
        let sink = sink(dir.path(), kind, &[]);
        let zoo = zoo(kind == "csv");
        assert_eq!(sink.dialect().stored_schema(&zoo.schema()).unwrap(), zoo.schema(), "{kind}");
        load(sink.as_ref(), OVERWRITE, "1", std::slice::from_ref(&zoo)).await.unwrap();
        assert_eq!(rows(sink.as_ref()).await, zoo, "{kind}");

        let source = FilesConnector.source(&connection(dir.path(), kind, &[])).unwrap();
        let relations = source.relations().await.unwrap();
        assert_eq!(relations.iter().map(|r| r.relation.clone()).collect::<Vec<_>>(), [target()]);
        let request = ReadRequest { target: ReadTarget::Table(target()), parallelism: 4, ..ReadRequest::default() };
        let table = source.snapshot().await.unwrap().table(&request).await.unwrap();
        assert_eq!(table.provider.schema(), zoo.schema(), "{kind}: metadata included");
        let missing = ReadRequest { target: ReadTarget::Table(Relation::new("landing", "tt")), ..request };
        let error = source.snapshot().await.unwrap().table(&missing).await.unwrap_err();
        assert_eq!(error.hint(), Some("did you mean \"t\"?"));
    }
}

#[test]
fn types_that_cannot_be_stored_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Field::new("i", DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano), true);
    let list = Field::new("l", DataType::new_list(DataType::Int32, true), true);
    let dictionary = Field::new("d", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), true);
    for kind in ["parquet", "csv"] {
        let dialect = sink(dir.path(), kind, &[]).dialect();
        let error = dialect.stored_field(&interval).unwrap_err();
        assert!(error.to_string().contains("column \"i\": a interval cannot be stored"), "{error}");
        assert_eq!(dialect.stored_field(&dictionary).unwrap().data_type(), &DataType::Utf8);
        assert_eq!(dialect.stored_field(&list).is_ok(), kind == "parquet");
    }
    let error = FilesConnector.sink(&connection(dir.path(), "file", &[])).unwrap_err();
    assert!(error.to_string().contains("only read"), "{error}");
    for (kind, key, value) in
        [("parquet", "compression", "lzo"), ("csv", "delimiter", "ab"), ("csv", "row_group_rows", "1")]
    {
        assert!(FilesConnector.sink(&connection(dir.path(), kind, &[(key, value)])).is_err(), "{kind} {key}");
    }
}

/// The interpreter with duckdb and pyarrow that the tests' environment names.
fn python(script: &str, path: &Path) -> Option<String> {
    let python = std::env::var("DPONE_TEST_PYTHON").ok()?;
    let output = Command::new(python).args(["-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_read_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), "parquet", &[]);
    load(sink.as_ref(), OVERWRITE, "1", &[zoo(false)]).await.unwrap();
    load(sink.as_ref(), WriteMode::Append, "2", &[zoo(false)]).await.unwrap();
    let table = dir.path().join("out/landing/t");
    let duckdb = "import duckdb, sys\n\
                  r = duckdb.sql(f\"select count(*), count(d), max(u64), max(i64), max(t), min(date)::text, \
                  min(u)::text, typeof(min(u)) from read_parquet('{sys.argv[1]}/*.parquet')\").fetchone()\nprint(r)";
    if let Some(found) = python(duckdb, &table) {
        assert_eq!(
            found,
            "(6, 4, 18446744073709551615, 9223372036854775807, 'ü,\"\\r\\n', '0001-01-01', '00000000-0000-0000-0000-000000000000', 'UUID')"
        );
    }
    let pyarrow = "import pyarrow.parquet as pq, sys\n\
                   t = pq.read_table(sys.argv[1])\nprint(t.num_rows, t.schema.field('tz').type, t.schema.field('d').type)";
    if let Some(found) = python(pyarrow, &table) {
        assert_eq!(found, "6 timestamp[ns, tz=UTC] decimal128(38, 10)");
    }
}
