//! Changes by key: counts, files that are left alone, NULLs, deletes, guards.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int8Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use dpone_planner::plan::{DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, WriteMode};

use crate::lake::{Lake, Load, orders};

type Row = (Option<i64>, &'static str, Option<f64>);

fn rows(rows: &[Row]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(rows.iter().map(|r| r.0).collect::<Vec<_>>()));
    let names: ArrayRef = Arc::new(StringArray::from(rows.iter().map(|r| r.1).collect::<Vec<_>>()));
    let prices: ArrayRef = Arc::new(Float64Array::from(rows.iter().map(|r| r.2).collect::<Vec<_>>()));
    let lists = rows.iter().map(|r| r.2.map(|v| vec![Some(v as i32), None]));
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
    let field = Arc::new(arrow::datatypes::Field::new("element", arrow::datatypes::DataType::Int32, true));
    let lists = ListArray::new(field, lists.offsets().clone(), lists.values().clone(), lists.nulls().cloned());
    let columns: [(&str, ArrayRef, bool); 4] =
        [("id", ids, true), ("name", names, true), ("price", prices, true), ("parts", Arc::new(lists), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn operations(batch: RecordBatch, deletes: &[bool]) -> RecordBatch {
    let codes = deletes.iter().map(|d| if *d { DELETE } else { INSERT_OR_UPDATE }).collect::<Vec<_>>();
    let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new(OPERATION_COLUMN, arrow::datatypes::DataType::Int8, false)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(Int8Array::from(codes)));
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap()
}

fn merge(operation: Operation) -> Load {
    let mode = WriteMode::Changes { key: vec!["id".into()], operation };
    Load { primary_key: vec!["id".into()], ..Load::new(mode) }
}

const SQL: &str =
    "select string_agg(coalesce(cast(id as varchar), 'NULL') || name, ',' order by id nulls last) from t where true";

#[tokio::test(flavor = "multi_thread")]
async fn upserts_are_counted_exactly_and_touch_only_files_that_change() {
    let (lake, table) = (Lake::new(), orders());
    let first = [
        rows(&[(Some(1), "a", Some(1.0)), (Some(2), "b", Some(f64::NAN)), (Some(3), "c", None)]),
        rows(&[(Some(11), "k", Some(-0.0)), (Some(12), "l", Some(2.0))]),
        rows(&[(Some(21), "u", None), (None, "n", None)]),
    ];
    let created = lake.load(&table, &merge(Operation::Upsert), &first).await.unwrap();
    assert_eq!((created.rows.inserted, created.rows.updated, created.rows.unchanged), (7, 0, 0));
    assert_eq!(lake.sink.describe(&table).await.unwrap().unwrap().primary_key, ["id"]);

    let second = [rows(&[
        (Some(1), "a", Some(1.0)),      // unchanged
        (Some(2), "b", Some(f64::NAN)), // unchanged: NaN is NaN
        (Some(3), "C", None),           // updated
        (Some(4), "d", Some(4.0)),      // inserted
        (None, "N", None),              // updated: NULL is the same key
    ])];
    let receipt = lake.load(&table, &merge(Operation::Upsert), &second).await.unwrap();
    let counts = &receipt.rows;
    assert_eq!((counts.inserted, counts.updated, counts.deleted, counts.unchanged), (1, 2, 0, 2));
    assert_eq!(lake.value(&table, SQL).await, "1a,2b,3C,4d,11k,12l,21u,NULLN");
    let expected = "1a,2b,3C,4d,11k,12l,21u,NULLN".to_owned();
    assert_eq!(lake.independent(&table, SQL), (expected.clone(), expected));

    // Nothing differs: no file comes or goes, and the state moves all the same.
    let again = lake.load(&table, &merge(Operation::Upsert), &second).await.unwrap();
    assert_eq!((again.rows.inserted, again.rows.updated, again.rows.unchanged), (0, 0, 5));
    let entry = lake.log(&table, 2);
    assert!(entry.iter().all(|l| l.get("add").is_none() && l.get("remove").is_none()), "{entry:?}");
    assert_eq!(lake.state(&table).get("orders").await.unwrap().unwrap().load_id, again.load_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_leaves_other_files_alone() {
    let (lake, table) = (Lake::new(), orders());
    for start in [0, 100, 200] {
        let batch: Vec<Row> = (start..start + 50).map(|id| (Some(id), "x", Some(id as f64))).collect();
        lake.load(&table, &Load::new(WriteMode::Append), &[rows(&batch)]).await.unwrap();
    }
    let receipt = lake.load(&table, &merge(Operation::Upsert), &[rows(&[(Some(110), "y", None)])]).await.unwrap();
    assert_eq!((receipt.rows.updated, receipt.rows.inserted), (1, 0));
    let entry = lake.log(&table, 3);
    assert_eq!(entry.iter().filter(|l| l.get("remove").is_some()).count(), 1);
    let sql = "select count(*), sum(id), count(price) from t where true";
    assert_eq!(lake.independent(&table, sql), ("150|18675|149".into(), "150|18675|149".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_go_by_key_within_the_guard() {
    let (lake, table) = (Lake::new(), orders());
    let first = [rows(&[(Some(1), "a", None), (Some(2), "b", None), (Some(3), "c", None), (Some(4), "d", None)])];
    lake.load(&table, &Load::new(WriteMode::Append), &first).await.unwrap();
    let changes = operations(
        rows(&[
            (Some(2), "", None),
            (Some(3), "", None),
            (Some(4), "D", None),
            (Some(5), "e", None),
            (Some(9), "", None),
        ]),
        &[true, true, false, false, true],
    );
    let before = (lake.parquet_files(&table), lake.query(&table, SQL).await);
    let guarded = Load { max_delete_rows: Some(1), ..merge(Operation::Column { patch: vec![] }) };
    let error = lake.load(&table, &guarded, std::slice::from_ref(&changes)).await.unwrap_err();
    assert!(error.message().contains("max_delete_rows = 1"), "{error}");
    assert_eq!((lake.parquet_files(&table), lake.query(&table, SQL).await), before);

    let receipt = lake.load(&table, &merge(Operation::Column { patch: vec![] }), &[changes]).await.unwrap();
    let counts = &receipt.rows;
    assert_eq!((counts.inserted, counts.updated, counts.deleted, counts.unchanged), (1, 1, 2, 1));
    assert_eq!(lake.independent(&table, SQL), ("1a,4D,5e".into(), "1a,4D,5e".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_work_on_partitioned_tables_and_composite_keys() {
    let (lake, table) = (Lake::new(), orders());
    let key = vec!["id".to_owned(), "name".to_owned()];
    let load = Load {
        partition_by: vec!["name".into()],
        ..Load::new(WriteMode::Changes { key, operation: Operation::Upsert })
    };
    lake.load(&table, &load, &[rows(&[(Some(1), "a", None), (Some(1), "b", None), (Some(2), "a", Some(1.0))])])
        .await
        .unwrap();
    let second = rows(&[(Some(1), "b", Some(5.0)), (Some(2), "b", None), (Some(2), "a", Some(1.0))]);
    let receipt = lake.load(&table, &Load { run_id: "second".into(), ..load }, &[second]).await.unwrap();
    let counts = &receipt.rows;
    assert_eq!((counts.inserted, counts.updated, counts.unchanged), (1, 1, 1));
    let sql = "select string_agg(id || name || coalesce(cast(price as varchar), '-'), ',' order by id, name) from t where true";
    assert_eq!(lake.independent(&table, sql), ("1a-,1b5.0,2a1.0,2b-".into(), "1a-,1b5.0,2a1.0,2b-".into()));
    assert_eq!(lake.value(&table, sql).await, "1a-,1b5.0,2a1.0,2b-");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_occur_twice_are_counted() {
    let (lake, table) = (Lake::new(), orders());
    let load = merge(Operation::Upsert);
    let batch =
        rows(&[(Some(1), "a", None), (Some(1), "b", None), (None, "c", None), (None, "d", None), (Some(2), "e", None)]);
    let (spec, _) = lake.plan(&table, &load, &batch.schema()).await;
    let staged = lake.stage(&spec, &[batch]).await.unwrap();
    assert_eq!(lake.sink.duplicate_keys(&spec, &staged, &["id".into()]).await.unwrap(), 2);
    assert_eq!(lake.sink.duplicate_keys(&spec, &staged, &["id".into(), "name".into()]).await.unwrap(), 0);
    lake.sink.discard(&spec).await.unwrap();
    assert!(!lake.table_folder(&table).exists(), "nothing is left of a load that was given up");
}

/// Rows `from..to` with a text that does not compress, different for each `version`.
fn wide(from: i64, to: i64, version: u64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    let text = |id: i64| {
        let mut x = (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version;
        (0..6)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                format!("{x:016x}")
            })
            .collect::<String>()
    };
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((from..to).map(text)));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("text", texts, true)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_larger_than_the_memory_limit_are_merged_from_disk() {
    let (lake, table) = (Lake::with(&[("memory_limit_mb", "32")]), orders());
    lake.load(&table, &Load::new(WriteMode::Append), &[wide(0, 150_000, 0), wide(150_000, 300_000, 0)]).await.unwrap();
    let parts: Vec<_> = (0..5).map(|i| wide(100_000 + i * 50_000, 150_000 + i * 50_000, u64::from(i >= 2))).collect();
    let receipt = lake.load(&table, &merge(Operation::Upsert), &parts).await.unwrap();
    let counts = &receipt.rows;
    assert_eq!((counts.inserted, counts.updated, counts.unchanged), (50_000, 100_000, 100_000));
    let sql = "select count(*), count(distinct id), sum(id) from t where true";
    let expected = format!("350000|350000|{}", 350_000_i64 * 349_999 / 2);
    assert_eq!(lake.independent(&table, sql), (expected.clone(), expected));
    let again = lake.load(&table, &merge(Operation::Upsert), &parts).await.unwrap();
    assert_eq!(again.rows.unchanged, 250_000);
}
