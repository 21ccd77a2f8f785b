//! The run and the strategies on tables in memory, with definitions as a user writes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use dpone_engine::receipt::RunStatus;
use dpone_engine::run::{RunContext, RunOptions, explain, run};
use dpone_engine::{Connections, ErrorKind, LeaseRequest, Receipt, Relation, Result, Sink, StateLocation};
use dpone_memory::{MemoryConnector, MemorySystem};
use dpone_planner::definition::{Pipeline, load};

/// One source and one target system, and a pipeline between them.
struct Lab {
    memory: Arc<MemoryConnector>,
    context: RunContext,
    pipeline: Pipeline,
    runs: AtomicU64,
}

impl Lab {
    /// `clauses`: what stands between INTO and AS.
    fn new(clauses: &str, query: &str) -> Self {
        let text = format!(
            "CREATE CONNECTION src TYPE memory; CREATE CONNECTION dst TYPE memory;\n\
             CREATE PIPELINE events INTO dst.public.events {clauses} AS {query};"
        );
        let none = |path: &std::path::Path| -> Result<String> { panic!("{} is not needed", path.display()) };
        let project = load(&[(PathBuf::from("lab.sql"), text)], &BTreeMap::new(), &none).unwrap();
        let memory = Arc::new(MemoryConnector::new());
        let connections = Connections::new(vec![memory.clone() as _], project.connections.clone(), ".");
        let options = RunOptions { parallelism: Some(3), batch_rows: 4, ..RunOptions::default() };
        let pipeline = project.pipelines.into_iter().next().unwrap();
        Self { memory, context: RunContext::new(Arc::new(connections), options), pipeline, runs: AtomicU64::new(0) }
    }

    fn appending(options: &str) -> Self {
        Self::new(&format!("STRATEGY incremental_append CURSOR at {options}"), "SELECT * FROM src.public.events")
    }

    fn merging(options: &str) -> Self {
        Self::new(
            &format!("STRATEGY incremental_merge KEY (id) CURSOR at {options}"),
            "SELECT * FROM src.public.events",
        )
    }

    fn target(&self) -> MemorySystem {
        self.memory.system("dst")
    }

    /// The source's content, as SQL VALUES of (id, at, name).
    async fn source(&self, values: &str) {
        let sql = format!(
            "SELECT CAST(id AS BIGINT) AS id, CAST(at AS TIMESTAMP) AS at, CAST(name AS VARCHAR) AS name, \
             CAST(gone AS BOOLEAN) AS gone FROM (VALUES {values}) AS t (id, at, name, gone)"
        );
        let batches = SessionContext::new().sql(&sql).await.unwrap().collect().await.unwrap();
        self.memory.system("src").put(&Relation::new("public", "events"), &batches).unwrap();
    }

    async fn run(&self) -> Result<Receipt> {
        let id = format!("run-{}", self.runs.fetch_add(1, Ordering::Relaxed));
        run(&self.context, &self.pipeline, &id).await
    }

    /// The target's rows as `id at name`, sorted.
    fn rows(&self) -> Vec<String> {
        let rows = self.target().rows(&Relation::new("public", "events"));
        rows.map(|batch| text(&batch)).unwrap_or_default()
    }
}

fn text(batch: &RecordBatch) -> Vec<String> {
    let mut rows: Vec<String> = (0..batch.num_rows())
        .map(|row| {
            let cell = |name: &str| {
                let column = batch.column_by_name(name).unwrap();
                if column.is_null(row) { "∅".to_owned() } else { array_value_to_string(column, row).unwrap() }
            };
            format!("{} {} {}", cell("id"), cell("at").replace("2026-01-", "").replace("T00:00:00", ""), cell("name"))
        })
        .collect();
    rows.sort();
    rows
}

const THREE: &str = "(1,'2026-01-01','a',false), (2,'2026-01-02','b',false), (3,'2026-01-02','c',false)";

#[tokio::test]
async fn append_loads_ties_and_late_rows_at_the_watermark_once() {
    let lab = Lab::appending("");
    lab.source(THREE).await;
    let receipt = lab.run().await.unwrap();
    assert_eq!((receipt.rows.extracted, receipt.rows.inserted), (3, 3));
    // A row that was committed later with the same cursor value, and a second, equal row.
    lab.source(&format!("{THREE}, (4,'2026-01-02','d',false), (3,'2026-01-02','c',false)")).await;
    let receipt = lab.run().await.unwrap();
    assert_eq!((receipt.rows.extracted, receipt.rows.skipped, receipt.rows.inserted), (4, 2, 2));
    let expected = ["1 01 a", "2 02 b", "3 02 c", "3 02 c", "4 02 d"];
    assert_eq!(lab.rows(), expected);
    let receipt = lab.run().await.unwrap();
    assert_eq!((receipt.rows.skipped, receipt.rows.inserted), (4, 0));
    lab.source(&format!("{THREE}, (4,'2026-01-02','d',false), (3,'2026-01-02','c',false), (5,'2026-01-03','e',false)"))
        .await;
    lab.run().await.unwrap();
    assert_eq!(lab.rows().len(), 6);
    assert_eq!(lab.run().await.unwrap().rows.inserted, 0);
}

#[tokio::test]
async fn append_compares_with_the_target_when_too_many_rows_share_the_watermark() {
    let lab = Lab::appending("");
    let many: Vec<String> = (0..3000).map(|i| format!("({i},'2026-01-02','x',false)")).collect();
    lab.source(&many.join(",")).await;
    assert_eq!(lab.run().await.unwrap().rows.inserted, 3000);
    let state = lab.target().state(&lab.pipeline.sink.relation, &StateLocation::default()).unwrap();
    let kept = state.get("events").await.unwrap().unwrap();
    assert!(kept.boundary.as_ref().is_some_and(|b| b.overflow), "3000 hashes are not kept");
    assert!(serde_json::to_vec(&kept).unwrap().len() < 4096);
    lab.source(&format!("{}, (1,'2026-01-02','x',false), (9000,'2026-01-02','y',false)", many.join(","))).await;
    assert_eq!(lab.run().await.unwrap().rows.inserted, 2);
    assert_eq!(lab.run().await.unwrap().rows.inserted, 0);
    assert_eq!(lab.rows().len(), 3002);
}

#[tokio::test]
async fn append_with_a_lag_finds_late_rows_and_adds_none_twice() {
    let lab = Lab::appending("OPTIONS ('lookback_days' '2')");
    lab.source(THREE).await;
    lab.run().await.unwrap();
    lab.source(&format!("{THREE}, (9,'2026-01-01','late',false)")).await;
    assert_eq!(lab.run().await.unwrap().rows.inserted, 1);
    assert_eq!(lab.run().await.unwrap().rows.inserted, 0);
    assert_eq!(lab.rows(), ["1 01 a", "2 02 b", "3 02 c", "9 01 late"]);
}

#[tokio::test]
async fn append_only_new_rows_goes_by_the_key() {
    let lab = Lab::new(
        "STRATEGY incremental_append KEY (id) CURSOR at OPTIONS ('only_new_rows' 'true')",
        "SELECT * FROM src.public.events",
    );
    lab.source(THREE).await;
    lab.run().await.unwrap();
    lab.source("(2,'2026-01-05','changed',false), (7,'2026-01-02','new',false)").await;
    assert_eq!(lab.run().await.unwrap().rows.inserted, 1);
    assert_eq!(lab.rows(), ["1 01 a", "2 02 b", "3 02 c", "7 02 new"]);
}

#[tokio::test]
async fn a_null_cursor_fails_the_run_by_name_and_changes_nothing() {
    let lab = Lab::appending("");
    lab.source(THREE).await;
    lab.run().await.unwrap();
    lab.source(&format!("{THREE}, (4, NULL, 'd', false)")).await;
    let error = lab.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataQuality);
    assert!(error.message().contains("1 in \"at\""), "{error}");
    assert_eq!(lab.rows().len(), 3);
}

#[tokio::test]
async fn merge_inserts_updates_and_leaves_the_rest() {
    let lab = Lab::merging("");
    lab.source(THREE).await;
    let receipt = lab.run().await.unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.updated), (3, 0));
    lab.source("(1,'2026-01-01','old',false), (2,'2026-01-02','b',false), (3,'2026-01-03','C',false), (4,'2026-01-03','d',false)").await;
    let receipt = lab.run().await.unwrap();
    let rows = &receipt.rows;
    assert_eq!((rows.extracted, rows.inserted, rows.updated, rows.unchanged), (3, 1, 1, 1), "{rows:?}");
    assert_eq!(lab.rows(), ["1 01 a", "2 02 b", "3 03 C", "4 03 d"]);
    assert_eq!(receipt.watermark_before.unwrap().to_string(), "at = 2026-01-02T00:00:00");
    assert_eq!(receipt.watermark_after.unwrap().to_string(), "at = 2026-01-03T00:00:00");
}

#[tokio::test]
async fn merge_refuses_null_and_duplicate_keys_or_treats_them_as_told() {
    let broken = "(1,'2026-01-01','a',false), (1,'2026-01-02','b',false), (NULL,'2026-01-01','n',false)";
    let strict = Lab::merging("");
    strict.source(broken).await;
    let error = strict.run().await.unwrap_err();
    assert!(error.message().contains("1 in \"id\"") && error.kind() == ErrorKind::DataQuality, "{error}");
    let quarantine = Lab::merging("OPTIONS ('null_keys' 'quarantine')");
    quarantine.source(broken).await;
    let error = quarantine.run().await.unwrap_err();
    assert!(error.message().contains("1 key(s) occur more than once"), "{error}");
    let latest = Lab::merging("OPTIONS ('null_keys' 'quarantine', 'duplicate_policy' 'latest', 'order_by' 'at')");
    latest.source(broken).await;
    let receipt = latest.run().await.unwrap();
    assert_eq!((receipt.rows.quarantined, receipt.rows.inserted), (1, 1));
    assert_eq!(latest.rows(), ["1 02 b"]);
    let tie = Lab::merging("OPTIONS ('duplicate_policy' 'latest', 'order_by' 'at')");
    tie.source("(1,'2026-01-01','a',false), (1,'2026-01-01','b',false)").await;
    let error = tie.run().await.unwrap_err();
    assert!(error.message().contains("occur more than once"), "which of two ties is newer cannot be known: {error}");
}

#[tokio::test]
async fn merge_deletes_what_is_marked_as_deleted() {
    let lab = Lab::merging("OPTIONS ('soft_delete_column' 'gone', 'soft_delete_policy' 'delete')");
    lab.source(THREE).await;
    lab.run().await.unwrap();
    lab.source("(1,'2026-01-03','a',true), (2,'2026-01-03','B',false)").await;
    let receipt = lab.run().await.unwrap();
    assert_eq!((receipt.rows.deleted, receipt.rows.updated), (1, 1));
    assert_eq!(lab.rows(), ["2 03 B", "3 02 c"]);
}

#[tokio::test]
async fn replace_rewrites_its_scope_and_nothing_else() {
    let lab = Lab::new(
        "STRATEGY replace OPTIONS ('custom_predicate' 'at >= ''2026-01-02''')",
        "SELECT * FROM src.public.events",
    );
    lab.source(THREE).await;
    assert_eq!(lab.run().await.unwrap().rows.inserted, 2);
    lab.source("(8,'2026-01-01','outside',false), (9,'2026-01-09','inside',false)").await;
    let receipt = lab.run().await.unwrap();
    assert_eq!((receipt.rows.inserted, receipt.rows.deleted), (1, 2));
    assert_eq!(lab.rows(), ["9 09 inside"]);
}

#[tokio::test]
async fn an_empty_source_does_not_wipe_the_target_unless_allowed() {
    let select = "SELECT * FROM src.public.events WHERE id > 0";
    let lab = Lab::new("STRATEGY full_refresh", select);
    lab.source(THREE).await;
    lab.run().await.unwrap();
    lab.source("(-1,'2026-01-01','x',false)").await;
    let error = lab.run().await.unwrap_err();
    assert!(error.kind() == ErrorKind::DataQuality && error.hint().unwrap().contains("empty_source: allow"), "{error}");
    assert_eq!(lab.rows().len(), 3);
    let allowed = Lab::new("STRATEGY full_refresh OPTIONS ('empty_source' 'allow')", select);
    allowed.source(THREE).await;
    allowed.run().await.unwrap();
    allowed.source("(-1,'2026-01-01','x',false)").await;
    allowed.run().await.unwrap();
    assert!(allowed.rows().is_empty());
}

#[tokio::test]
async fn the_same_run_id_is_loaded_once() {
    let lab = Lab::new("STRATEGY full_refresh", "SELECT * FROM src.public.events");
    lab.source(THREE).await;
    let first = run(&lab.context, &lab.pipeline, "nightly").await.unwrap();
    lab.source("(9,'2026-01-01','x',false)").await;
    let second = run(&lab.context, &lab.pipeline, "nightly").await.unwrap();
    assert_eq!(second.status, RunStatus::AlreadyCommitted);
    assert_eq!((second.load_id, second.rows), (first.load_id, first.rows));
    assert_eq!(lab.rows().len(), 3);
}

#[tokio::test]
async fn a_second_run_at_once_is_refused_by_name() {
    let lab = Lab::merging("");
    lab.source(THREE).await;
    let store = lab.target().state(&lab.pipeline.sink.relation, &StateLocation::default()).unwrap();
    let request = LeaseRequest {
        pipeline: "events".into(),
        run_id: "other".into(),
        holder: "elsewhere".into(),
        ttl: std::time::Duration::from_secs(60),
    };
    let lease = store.acquire(&request).await.unwrap();
    let error = lab.run().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("elsewhere"), "{error}");
    store.release(&lease).await.unwrap();
    lab.run().await.unwrap();
}

#[tokio::test]
async fn a_changed_definition_or_a_lost_target_does_not_use_the_watermark() {
    let lab = Lab::merging("");
    lab.source(THREE).await;
    lab.run().await.unwrap();
    let mut changed = lab.pipeline.clone();
    changed.source.query = dpone_planner::definition::SourceQuery::Sql {
        sql: "SELECT * FROM src.public.events WHERE id < 100".to_owned(),
    };
    let error = run(&lab.context, &changed, "changed").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.hint().unwrap().contains("state reset"), "{error}");
    lab.target().drop_table(&Relation::new("public", "events"));
    let error = lab.run().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.message().contains("does not exist"), "{error}");
    let store = lab.target().state(&lab.pipeline.sink.relation, &StateLocation::default()).unwrap();
    assert!(store.reset("events").await.unwrap().had_state);
    assert_eq!(lab.run().await.unwrap().rows.inserted, 3);
}

#[tokio::test]
async fn what_cannot_be_changed_fails_before_staging_with_a_list() {
    let lab = Lab::new("STRATEGY full_refresh", "SELECT id, at, name FROM src.public.events");
    lab.source(THREE).await;
    lab.run().await.unwrap();
    let mut changed = lab.pipeline.clone();
    changed.source.query = dpone_planner::definition::SourceQuery::Sql {
        sql: "SELECT CAST(id AS VARCHAR) AS id, at, gone FROM src.public.events".to_owned(),
    };
    let error = run(&lab.context, &changed, "drifted").await.unwrap_err();
    for part in ["id: text in the source does not fit bigint", "name: text in the target, missing in the source"] {
        assert!(error.message().contains(part), "{error}");
    }
    assert!(!error.message().contains("gone"), "a column that the source gains is no obstacle: {error}");
    assert_eq!(lab.rows().len(), 3);
}

#[tokio::test]
async fn a_plan_touches_nothing_and_says_what_would_happen() {
    let lab = Lab::merging("");
    lab.source(THREE).await;
    let plan = explain(&lab.context, &lab.pipeline).await.unwrap();
    assert_eq!(
        (plan.strategy.as_str(), plan.write_mode.as_str(), plan.target_exists),
        ("incremental_merge", "changes", false)
    );
    assert_eq!(plan.ddl.len(), 1, "{:?}", plan.ddl);
    assert!(plan.steps.iter().any(|s| s.contains("by key (id)")), "{:?}", plan.steps);
    assert!(lab.target().rows(&Relation::new("public", "events")).is_none());
    lab.run().await.unwrap();
    let plan = explain(&lab.context, &lab.pipeline).await.unwrap();
    assert!(
        plan.logical_plan.contains("at >= TimestampNanosecond(1767312000000000000"),
        "the lower bound is in the plan: {}",
        plan.logical_plan
    );
}

#[tokio::test]
async fn a_cancelled_run_commits_nothing() {
    let lab = Lab::new("STRATEGY full_refresh", "SELECT * FROM src.public.events");
    lab.source(THREE).await;
    lab.context.cancel.cancel();
    let error = lab.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(lab.rows().is_empty());
}

#[tokio::test]
async fn rows_decide_whether_a_nullable_source_fits_a_target_without_null() {
    use arrow::datatypes::Schema;
    let lab = Lab::new("STRATEGY full_refresh", "SELECT * FROM src.public.events");
    lab.source(THREE).await;
    let nullable = lab.memory.system("src").rows(&Relation::new("public", "events")).unwrap();
    let strict: Vec<_> = nullable.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(false)).collect();
    let target = RecordBatch::try_new(Arc::new(Schema::new(strict)), nullable.columns().to_vec()).unwrap();
    lab.target().put(&Relation::new("public", "events"), &[target]).unwrap();
    lab.run().await.unwrap();
    lab.source("(1,'2026-01-01',NULL,false)").await;
    let error = lab.run().await.unwrap_err();
    assert!(error.kind() == ErrorKind::DataQuality && error.message().contains("1 in \"name\""), "{error}");
    assert_eq!(lab.rows().len(), 3);
}
