//! The write modes: what is there afterwards, in one version, for every reader.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use dpone_planner::definition::OverwriteType;
use dpone_planner::plan::{ScopeFilter, WriteMode};

use crate::lake::{Lake, Load, orders, python};

pub fn rows(ids: &[i64], country: &str) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    let countries: ArrayRef = Arc::new(StringArray::from(vec![country; ids.len()]));
    let names: ArrayRef =
        Arc::new(StringArray::from((0..ids.len()).map(|i| (i % 2 == 0).then_some("ü")).collect::<Vec<_>>()));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("country", countries, true), ("name", names, true)])
        .unwrap()
}

fn append() -> Load {
    Load::new(WriteMode::Append)
}

fn overwrite() -> Load {
    Load::new(WriteMode::Overwrite { overwrite: OverwriteType::Exchange })
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_rows_are_one_version_with_their_state_and_read_alike_everywhere() {
    let (lake, table) = (Lake::new(), orders());
    assert!(lake.sink.describe(&table).await.unwrap().is_none());
    let first = lake.load(&table, &append(), &[rows(&[1, 2], "DE"), rows(&[3], "FR")]).await.unwrap();
    assert_eq!((first.rows.inserted, first.target_version.as_deref()), (3, Some("0")));
    let second = lake.load(&table, &append(), &[rows(&[4], "DE")]).await.unwrap();
    assert_eq!((second.rows.inserted, second.target_version.as_deref()), (1, Some("1")));

    let sql = "select count(*), sum(id), count(name), min(country) from t where id > 0";
    assert!(lake.query(&table, sql).await.contains("| 4        | 10        | 3             | DE "));
    let expected = "4|10|3|DE".to_owned();
    assert_eq!(lake.independent(&table, sql), (expected.clone(), expected));

    let entry = lake.log(&table, 1);
    assert_eq!(entry.iter().filter(|l| l.get("add").is_some()).count(), 1);
    assert_eq!(entry.iter().filter(|l| l["txn"]["appId"] == "dpone:orders").count(), 1);
    let state = lake.state(&table).get("orders").await.unwrap().unwrap();
    assert_eq!(state.load_id, second.load_id);
    assert_eq!(lake.state(&table).list().await.unwrap(), [state]);
    assert_eq!(lake.state(&table).receipt("orders", &first.run_id).await.unwrap().unwrap(), first);
    assert_eq!(lake.state(&table).receipt("orders", "another run").await.unwrap(), None);
    assert_eq!(lake.parquet_files(&table).len(), 3);

    let relations = lake.source.relations().await.unwrap();
    assert_eq!((relations.len(), &relations[0].relation, relations[0].rows), (1, &table, Some(4)));
    let described = lake.sink.describe(&table).await.unwrap().unwrap();
    assert!(described.has_rows);
    assert_eq!(described.rows_estimate, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_shows_the_old_rows_or_the_new_and_no_mixture() {
    let (lake, table) = (Lake::new(), orders());
    lake.load(&table, &append(), &[rows(&[1, 2, 3], "DE")]).await.unwrap();
    let open = lake.open(&table).await.unwrap();
    let receipt = lake.load(&table, &overwrite(), &[rows(&[7], "FR"), rows(&[8], "FR")]).await.unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (2, 3));
    assert_eq!(lake.value(&table, "select sum(id) from t where id > 0").await, "15");
    let sql = "select count(*), sum(id) from t where id > 0";
    assert_eq!(lake.independent(&table, sql), ("2|15".into(), "2|15".into()));
    // A read that began before keeps its version.
    let context = datafusion::prelude::SessionContext::new();
    context.register_table("t", open.provider).unwrap();
    let before = context.sql("select id from t").await.unwrap().collect().await.unwrap();
    assert_eq!(before.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_overwrite_empties_the_table() {
    let (lake, table) = (Lake::new(), orders());
    lake.load(&table, &append(), &[rows(&[1, 2, 3], "DE")]).await.unwrap();
    let receipt = lake.load(&table, &overwrite(), &[rows(&[], "DE")]).await.unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (0, 3));
    assert!(!lake.sink.describe(&table).await.unwrap().unwrap().has_rows);
    assert_eq!(lake.independent(&table, "select count(*) from t "), ("0".into(), "0".into()));
    // The guard counts rows that go for good.
    lake.load(&table, &append(), &[rows(&[1, 2, 3], "DE")]).await.unwrap();
    let guarded = Load { max_delete_ratio: Some(0.5), ..overwrite() };
    let error = lake.load(&table, &guarded, &[rows(&[1], "DE")]).await.unwrap_err();
    assert!(error.message().contains("max_delete_ratio"), "{error}");
    lake.load(&table, &guarded, &[rows(&[1, 5], "DE")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_replaced_and_files_outside_stay() {
    let (lake, table) = (Lake::new(), orders());
    lake.load(&table, &append(), &[rows(&[1, 2, 3], "DE"), rows(&[11, 12], "FR"), rows(&[21], "IT")]).await.unwrap();
    let scope =
        |sql: &str| Load::new(WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: sql.to_owned() } });
    let receipt = lake.load(&table, &scope("id >= 3 and id < 20"), &[rows(&[5], "XX")]).await.unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (1, 3));
    let sql = "select string_agg(id || country, ',' order by id) from t where id > 0";
    assert_eq!(lake.value(&table, sql).await, "1DE,2DE,5XX,21IT");
    assert_eq!(lake.independent(&table, sql), ("1DE,2DE,5XX,21IT".into(), "1DE,2DE,5XX,21IT".into()));
    // The Italian file was not touched, the French one went whole, the German one was rewritten.
    let entry = lake.log(&table, 1);
    assert_eq!(entry.iter().filter(|l| l.get("remove").is_some()).count(), 2);
    assert_eq!(entry.iter().filter(|l| l.get("add").is_some()).count(), 2);

    let before = lake.parquet_files(&table);
    let error = lake.load(&table, &scope("country = 'IT'"), &[rows(&[30], "FR")]).await.unwrap_err();
    assert!(error.message().contains("outside of the scope"), "{error}");
    assert_eq!(lake.parquet_files(&table), before, "a failed load leaves nothing behind");
    // A NULL is neither inside nor staged.
    let error = lake.load(&table, &scope("name = 'ü'"), &[rows(&[30, 31], "FR")]).await.unwrap_err();
    assert!(error.message().starts_with("1 staged rows"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_touched_are_replaced() {
    for partition_by in [vec![], vec!["country".to_owned()]] {
        let (lake, table) = (Lake::new(), orders());
        let first = Load { partition_by: partition_by.clone(), ..append() };
        lake.load(&table, &first, &[rows(&[1, 2], "DE"), rows(&[11, 12], "FR"), rows(&[21], "it's/ü %")])
            .await
            .unwrap();
        let columns = vec!["country".to_owned()];
        let load = Load {
            partition_by: partition_by.clone(),
            ..Load::new(WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns } })
        };
        let receipt = lake.load(&table, &load, &[rows(&[13], "FR"), rows(&[22, 23], "it's/ü %")]).await.unwrap();
        assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (3, 3), "{partition_by:?}");
        let sql = "select string_agg(id || country, ',' order by id) from t where id > 0";
        let expected = "1DE,2DE,13FR,22it's/ü %,23it's/ü %".to_owned();
        assert_eq!(lake.value(&table, sql).await, expected);
        assert_eq!(lake.independent(&table, sql), (expected.clone(), expected));
        let again = lake.open(&table).await.unwrap();
        assert_eq!(again.provider.schema().field(1).name(), "country", "columns keep their order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_write_between_our_loads_and_checkpoints_keep_the_state() {
    let (lake, table) = (Lake::new(), orders());
    let mut last = String::new();
    for id in 0..12 {
        last = lake.load(&table, &append(), &[rows(&[id], "DE")]).await.unwrap().load_id;
    }
    let path = lake.table_folder(&table).display().to_string();
    assert!(lake.table_folder(&table).join("_delta_log/00000000000000000010.checkpoint.parquet").exists());
    python(
        "import sys, pyarrow as pa\nfrom deltalake import write_deltalake, DeltaTable\n\
         rows = pa.table({'id': pa.array([100], pa.int64()), 'country': ['UK'], 'name': ['x']})\n\
         write_deltalake(sys.argv[1], rows, mode='append')\n\
         table = DeltaTable(sys.argv[1])\ntable.optimize.compact()\ntable.create_checkpoint()",
        &[&path],
    );
    // The entries before the checkpoint are gone, as a cleanup leaves them.
    for version in 0..10 {
        let entry = lake.table_folder(&table).join(format!("_delta_log/{version:020}.json"));
        std::fs::remove_file(entry).unwrap();
    }
    assert_eq!(lake.state(&table).get("orders").await.unwrap().unwrap().load_id, last);
    lake.load(&table, &append(), &[rows(&[50], "DE")]).await.unwrap();
    let sql = "select count(*), sum(id) from t where id >= 0";
    assert_eq!(lake.independent(&table, sql), ("14|216".into(), "14|216".into()));
    assert_eq!(lake.value(&table, "select sum(id) from t").await, "216");
}
