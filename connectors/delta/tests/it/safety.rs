//! What must not go wrong: kills, reruns, lost answers, leases that run out, writers at the same time, odd tables.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use dpone_engine::{Connector, ErrorKind, Relation};
use dpone_planner::plan::{Operation, WriteMode};

use crate::lake::{Lake, Load, connection, orders, stream};
use crate::modes::rows;

fn append() -> Load {
    Load::new(WriteMode::Append)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_died_before_its_commit_leaves_nothing_to_see() {
    let (lake, table) = (Lake::new(), orders());
    lake.load(&table, &append(), &[rows(&[1], "DE")]).await.unwrap();
    let committed = lake.parquet_files(&table);
    let load = append();
    let lease = lake.lease_for(&table, &load.pipeline, &load.run_id, Duration::from_millis(1)).await.unwrap();
    let (spec, _) = lake.plan(&table, &load, &rows(&[], "").schema()).await;
    lake.stage(&spec, &[rows(&[2], "DE"), rows(&[3], "DE")]).await.unwrap();
    assert_eq!(lake.parquet_files(&table).len(), 3);
    assert_eq!(lake.independent(&table, "select count(*) from t "), ("1".into(), "1".into()));

    // The next run finds a lease that ran out, and loads its own rows.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let receipt = lake.load(&table, &append(), &[rows(&[2], "DE")]).await.unwrap();
    assert_eq!(lake.value(&table, "select sum(id) from t").await, "3");
    lake.sink.discard(&spec).await.unwrap();
    lake.sink.discard(&spec).await.unwrap();
    assert_eq!(lake.parquet_files(&table).len(), committed.len() + 1);
    // Discarding a load that was committed removes none of its rows.
    let (mut done, _) = lake.plan(&table, &load, &rows(&[], "").schema()).await;
    done.load_id = receipt.load_id;
    lake.sink.discard(&done).await.unwrap();
    assert_eq!(lake.value(&table, "select sum(id) from t").await, "3");
    let late = lake.state(&table).renew(&lease).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_staged_again_replaces_its_earlier_attempt() {
    let (lake, table) = (Lake::new(), orders());
    let load = append();
    let lease = lake.lease(&table, &load.pipeline, &load.run_id).await.unwrap();
    let (spec, ddl) = lake.plan(&table, &load, &rows(&[], "").schema()).await;
    let other = lake.sink.stage(&spec, 1, stream(vec![rows(&[9], "FR")])).await.unwrap();
    lake.sink.stage(&spec, 0, stream(vec![rows(&[1], "DE")])).await.unwrap();
    // The second attempt breaks in the middle.
    let broken: Vec<datafusion::common::Result<RecordBatch>> =
        vec![Ok(rows(&[1], "DE")), Err(dpone_engine::Error::transient("the server went away").into())];
    let broken = datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(
        rows(&[], "").schema(),
        futures::stream::iter(broken),
    );
    let error = lake.sink.stage(&spec, 0, Box::pin(broken)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Transient, "the server went away"));
    assert_eq!(lake.parquet_files(&table).len(), 1, "only the other partition is there");
    let third = lake.sink.stage(&spec, 0, stream(vec![rows(&[1, 2], "DE"), rows(&[3], "FR")])).await.unwrap();
    let receipt = lake.commit(&spec, &ddl, &[third, other], &lease, &load).await.unwrap();
    assert_eq!(receipt.rows.inserted, 4);
    assert_eq!(lake.value(&table, "select sum(id) from t").await, "15");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_not_repeated() {
    let (lake, table) = (Lake::new(), orders());
    let load = append();
    let lease = lake.lease(&table, &load.pipeline, &load.run_id).await.unwrap();
    let (spec, ddl) = lake.plan(&table, &load, &rows(&[], "").schema()).await;
    let staged = lake.stage(&spec, &[rows(&[1, 2], "DE")]).await.unwrap();
    let first = lake.commit(&spec, &ddl, &staged, &lease, &load).await.unwrap();
    let again = lake.commit(&spec, &ddl, &staged, &lease, &load).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(lake.value(&table, "select count(*) from t").await, "2");
    assert_eq!(lake.state(&table).receipt("orders", &load.run_id).await.unwrap(), Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_held_by_one_run_and_a_late_run_cannot_commit() {
    let (lake, table) = (Lake::new(), orders());
    lake.load(&table, &append(), &[rows(&[1], "DE")]).await.unwrap();
    let slow = append();
    let first = lake.lease_for(&table, &slow.pipeline, &slow.run_id, Duration::from_millis(50)).await.unwrap();
    let refused = lake.lease(&table, "orders", "another").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.message().contains("a test") && refused.message().contains(&slow.run_id), "{refused}");
    let other = lake.lease(&table, "customers", "another").await.unwrap();
    assert_eq!(other.token, 1, "pipelines do not disturb each other");

    let (spec, ddl) = lake.plan(&table, &slow, &rows(&[], "").schema()).await;
    let staged = lake.stage(&spec, &[rows(&[2], "DE")]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    let second = lake.lease(&table, "orders", "another").await.unwrap();
    assert!(second.token > first.token);
    let late = lake.commit(&spec, &ddl, &staged, &first, &slow).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    assert_eq!(lake.value(&table, "select count(*) from t").await, "1");

    // Even when the lease file is lost, the log knows the newest token.
    std::fs::remove_dir_all(lake.folder.path().join("ware house/_dpone")).unwrap();
    let late = lake.commit(&spec, &ddl, &staged, &first, &slow).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    assert!(late.message().contains("newer fencing token"), "{late}");
    let third = lake.lease(&table, "orders", "third").await.unwrap();
    assert!(third.token > second.token);
    lake.state(&table).renew(&third).await.unwrap();
    lake.state(&table).release(&third).await.unwrap();
    lake.state(&table).release(&third).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_the_same_time_lose_no_row() {
    let (lake, table) = (Arc::new(Lake::new()), orders());
    lake.load(&table, &append(), &[rows(&[-1, 0], "DE")]).await.unwrap();
    let mut tasks = Vec::new();
    for writer in 1..=4i64 {
        let (lake, table) = (Arc::clone(&lake), table.clone());
        tasks.push(tokio::spawn(async move {
            for n in 0..4 {
                let id = writer * 100 + n;
                let mode = match writer % 2 {
                    0 => WriteMode::Append,
                    _ => WriteMode::Changes { key: vec!["id".into()], operation: Operation::Upsert },
                };
                let load = Load { pipeline: format!("p{writer}"), ..Load::new(mode) };
                lake.load(&table, &load, &[rows(&[id, 0], "DE")]).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    // Appends bring the row 0 each time, changes find it unchanged.
    assert_eq!(lake.value(&table, "select count(distinct id) from t").await, "18");
    assert_eq!(lake.value(&table, "select count(*) from t where id = 0").await, "9");
    let listed: BTreeSet<_> = lake.state(&table).list().await.unwrap().into_iter().map(|s| s.pipeline).collect();
    assert_eq!(listed.len(), 5);
    let there = lake.parquet_files(&table).len();
    let named: usize = (0..=16).map(|v| lake.log(&table, v).iter().filter(|l| l.get("add").is_some()).count()).sum();
    assert_eq!(there, named, "attempts that lost the race leave no file");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_forgotten_on_request_and_found_again_in_the_history() {
    let (lake, table) = (Lake::new(), orders());
    let receipt = lake.load(&table, &append(), &[rows(&[1], "DE")]).await.unwrap();
    std::fs::remove_dir_all(lake.table_folder(&table).join("_dpone")).unwrap();
    let state = lake.state(&table);
    assert_eq!(state.get("orders").await.unwrap().unwrap().load_id, receipt.load_id);
    assert_eq!(state.receipt("orders", &receipt.run_id).await.unwrap(), Some(receipt.clone()));
    assert!(state.reset("orders").await.unwrap().had_state);
    assert!(!state.reset("orders").await.unwrap().had_state);
    assert_eq!(state.get("orders").await.unwrap(), None);
    assert_eq!(state.receipt("orders", &receipt.run_id).await.unwrap(), Some(receipt), "loads stay on record");
    lake.load(&table, &append(), &[rows(&[2], "DE")]).await.unwrap();
    assert!(state.get("orders").await.unwrap().is_some());
    assert!(!lake.state(&Relation::new("no", "where")).reset("orders").await.unwrap().had_state);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changed_after_planning_is_a_conflict() {
    let (lake, table) = (Lake::new(), orders());
    let load = append();
    let lease = lake.lease(&table, &load.pipeline, &load.run_id).await.unwrap();
    let (spec, ddl) = lake.plan(&table, &load, &rows(&[], "").schema()).await;
    let staged = lake.stage(&spec, &[rows(&[1], "DE")]).await.unwrap();
    lake.load(&table, &Load { pipeline: "other".into(), ..append() }, &[rows(&[7], "DE")]).await.unwrap();
    let error = lake.commit(&spec, &ddl, &staged, &lease, &load).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("created by somebody else"), "{error}");
    assert_eq!(lake.value(&table, "select sum(id) from t").await, "7");
}

/// Rewrites a table's first log entry.
fn edit(lake: &Lake, table: &Relation, change: impl Fn(&mut serde_json::Value)) {
    let path = lake.table_folder(table).join("_delta_log/00000000000000000000.json");
    let mut lines = lake.log(table, 0);
    lines.iter_mut().for_each(change);
    std::fs::write(path, lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_with_rules_that_we_do_not_keep_are_refused_by_name() {
    let (lake, table) = (Lake::new(), orders());
    lake.load(&table, &append(), &[rows(&[1], "DE")]).await.unwrap();
    edit(&lake, &table, |line| {
        if let Some(metadata) = line.get_mut("metaData") {
            metadata["configuration"]["delta.appendOnly"] = "true".into();
        }
    });
    lake.load(&table, &append(), &[rows(&[2], "DE")]).await.unwrap();
    let changes = Load::new(WriteMode::Changes { key: vec!["id".into()], operation: Operation::Upsert });
    let error = lake.load(&table, &changes, &[rows(&[2], "FR")]).await.unwrap_err();
    assert!(error.message().contains("delta.appendOnly"), "{error}");
    edit(&lake, &table, |line| {
        if let Some(metadata) = line.get_mut("metaData") {
            metadata["configuration"]["delta.columnMapping.mode"] = "name".into();
            metadata["configuration"]["delta.columnMapping.maxColumnId"] = "3".into();
        }
        if line.get("protocol").is_some() {
            *line = serde_json::json!({"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}});
        }
    });
    let error = lake.open(&table).await.unwrap_err();
    assert!(
        error.to_string().to_lowercase().contains("column mapping") || error.to_string().contains("olumnMapping"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_options_that_lead_astray_are_refused() {
    let lake = Lake::new();
    for (schema, name) in
        [("a", "../b"), ("..", "b"), ("a", "_delta_log"), ("a", "b/c"), ("_dpone", "leases"), ("", "")]
    {
        let error = lake.sink.describe(&Relation::new(schema, name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{schema}.{name}");
    }
    let strange = Relation::new("Größe", "my table.v2");
    lake.load(&strange, &append(), &[rows(&[1], "DE")]).await.unwrap();
    assert_eq!(lake.value(&strange, "select count(*) from t where id = 1").await, "1");
    assert_eq!(lake.independent(&strange, "select count(*) from t where id = 1"), ("1".into(), "1".into()));
    let error = lake.open(&Relation::new("Größe", "my table")).await.unwrap_err();
    assert!(error.hint().is_some_and(|h| h.contains("my table.v2")), "{error:?}");

    let connector = dpone_delta::DeltaConnector;
    for options in [
        &[("path", "s3://b/x"), ("account_key", "k")][..],
        &[("path", "x"), ("region", "r")],
        &[("path", "ftp://x")],
        &[],
    ] {
        assert!(connector.sink(&connection(lake.folder.path(), options)).is_err(), "{options:?}");
    }
    connector.sink(&connection(lake.folder.path(), &[("path", "s3://b/x"), ("region", "r")])).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_every_promise_of_the_port() {
    let lake = Lake::new();
    dpone_engine::testing::sink_conformance(Arc::clone(&lake.sink), "landing").await.unwrap();
}
