//! The strategies that compare, on tables in memory: large cases by both methods, in memory and in parts on disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;
use dpone_engine::run::{RunContext, RunOptions, explain, run};
use dpone_engine::{Connections, ErrorKind, Receipt, Relation, Result};
use dpone_memory::MemoryConnector;
use dpone_planner::definition::{Pipeline, load};

struct Lab {
    memory: Arc<MemoryConnector>,
    context: RunContext,
    pipeline: Pipeline,
    runs: AtomicU64,
}

/// Bytes in which nothing of these tests fits, and those in which all does.
const LITTLE: usize = 4 << 20;
const ENOUGH: usize = 1 << 30;

impl Lab {
    fn new(memory_limit: usize, clauses: &str) -> Self {
        Self::with(Arc::new(MemoryConnector::new()), memory_limit, clauses)
    }

    /// The same tables under another definition.
    fn redefined(&self, clauses: &str) -> Self {
        let lab = Self::with(Arc::clone(&self.memory), ENOUGH, clauses);
        Self { runs: AtomicU64::new(self.runs.load(Ordering::Relaxed)), ..lab }
    }

    fn with(memory: Arc<MemoryConnector>, memory_limit: usize, clauses: &str) -> Self {
        let text = format!(
            "CREATE CONNECTION src TYPE memory; CREATE CONNECTION dst TYPE memory;\n\
             CREATE PIPELINE things INTO dst.public.things {clauses} AS SELECT * FROM src.public.things;"
        );
        let none = |path: &std::path::Path| -> Result<String> { panic!("{} is not needed", path.display()) };
        let project = load(&[(PathBuf::from("lab.sql"), text)], &BTreeMap::new(), &none).unwrap();
        let connections = Connections::new(vec![memory.clone() as _], project.connections.clone(), ".");
        let options = RunOptions {
            parallelism: Some(3),
            batch_rows: 1000,
            memory_limit,
            // As a worker on another machine would run it.
            serialise_plans: true,
            ..RunOptions::default()
        };
        let pipeline = project.pipelines.into_iter().next().unwrap();
        Self { memory, context: RunContext::new(Arc::new(connections), options), pipeline, runs: AtomicU64::new(0) }
    }

    /// The source's content, as a query giving id, name and at.
    async fn source(&self, query: &str) {
        let sql = format!(
            "SELECT CAST(id AS BIGINT) AS id, CAST(NULLIF(name, '∅') AS VARCHAR) AS name, CAST(at AS TIMESTAMP) AS at \
             FROM ({query}) AS t (id, name, at)"
        );
        let frame = SessionContext::new().sql(&sql).await.unwrap();
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let mut batches = frame.collect().await.unwrap();
        batches.push(RecordBatch::new_empty(schema));
        self.memory.system("src").put(&Relation::new("public", "things"), &batches).unwrap();
    }

    async fn values(&self, values: &str) {
        self.source(&format!("VALUES {values}")).await;
    }

    async fn empty(&self) {
        self.source("SELECT 1, 'x', '2026-01-01' WHERE false").await;
    }

    async fn run(&self) -> Result<Receipt> {
        let id = format!("run-{}", self.runs.fetch_add(1, Ordering::Relaxed));
        run(&self.context, &self.pipeline, &id).await
    }

    /// Inserted, updated, deleted, unchanged.
    async fn counts(&self) -> [u64; 4] {
        let rows = self.run().await.unwrap().rows;
        assert_eq!(rows.skipped, 0);
        [rows.inserted, rows.updated, rows.deleted, rows.unchanged]
    }

    /// The target's rows, these columns, sorted.
    fn rows(&self, columns: &[&str]) -> Vec<String> {
        let batch = self.memory.system("dst").rows(&Relation::new("public", "things")).unwrap();
        let cell = |row: usize, name: &str| {
            let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
            if column.is_null(row) { "∅".to_owned() } else { array_value_to_string(column, row).unwrap() }
        };
        let mut rows: Vec<String> = (0..batch.num_rows())
            .map(|row| columns.iter().map(|c| cell(row, c)).collect::<Vec<_>>().join(" "))
            .collect();
        rows.sort();
        rows
    }
}

const THREE: &str = "(1, 'a', '2026-01-01'), (2, 'b', '2026-01-02'), (3, NULL, '2026-01-03')";

#[tokio::test]
async fn a_diff_applies_exactly_the_differences() {
    for compare in ["row_hash", "all_columns"] {
        let lab = Lab::new(ENOUGH, &format!("STRATEGY snapshot_diff KEY (id) OPTIONS ('diff_compare' '{compare}')"));
        lab.values(THREE).await;
        assert_eq!(lab.counts().await, [3, 0, 0, 0]);
        assert_eq!(lab.counts().await, [0, 0, 0, 3]);
        // NULL to '' is a change, and so is '' to NULL.
        lab.values("(1, NULL, '2026-01-01'), (3, '', '2026-01-03'), (4, 'd', '2026-01-04')").await;
        assert_eq!(lab.counts().await, [1, 2, 1, 0]);
        assert_eq!(lab.rows(&["id", "name"]), ["1 ∅", "3 ", "4 d"]);
        assert_eq!(lab.counts().await, [0, 0, 0, 3]);
    }
}

/// Enough rows that their keys do not fit in what is allowed.
fn many(rows: u32, changed: u32, from: u32) -> String {
    format!(
        "SELECT value, CASE WHEN value % 10 = {changed} THEN 'changed' ELSE 'as it was' END, '2026-01-01' \
         FROM generate_series({from}, {rows})"
    )
}

#[tokio::test]
async fn both_methods_find_the_same_changes() {
    let mut results = Vec::new();
    for (limit, method) in [(ENOUGH, "hash"), (LITTLE, "partitioned")] {
        let lab = Lab::new(limit, "STRATEGY snapshot_diff KEY (id) OPTIONS ('diff_delete_policy' 'soft_delete')");
        lab.source(&many(50_000, 99, 1)).await;
        lab.run().await.unwrap();
        lab.source(&many(51_000, 3, 501)).await;
        let plan = explain(&lab.context, &lab.pipeline).await.unwrap();
        assert!(plan.physical_plan.contains(&format!("DiffExec: method={method}")), "{}", plan.physical_plan);
        assert!(plan.notes.iter().any(|n| n.contains("target rows")), "{:?}", plan.notes);
        let receipt = lab.run().await.unwrap();
        assert_eq!(receipt.rows.extracted, 50_500);
        let rows = receipt.rows;
        let rows = (rows.inserted, rows.updated, rows.deleted, rows.unchanged);
        // 4950 changed and 500 gone; 49 500 were there before.
        assert_eq!(rows, (1000, 4950, 500, 49_500 - 4950));
        assert_eq!(lab.counts().await, [0, 0, 0, 50_500]);
        results.push(lab.rows(&["id", "name", "__dpone__is_deleted"]));
    }
    assert_eq!(results[0].len(), 51_000);
    assert_eq!(results[0], results[1]);
}

#[tokio::test]
async fn parts_that_do_not_fit_are_split_again() {
    // The pool has room for less than a part of each worker: with stored hashes and without, marked rows and all.
    for row_hash in [true, false] {
        let mut results = Vec::new();
        for limit in [ENOUGH, 700 << 10] {
            let options = format!("OPTIONS ('diff_delete_policy' 'soft_delete', 'diff_store_row_hash' '{row_hash}')");
            let lab = Lab::new(limit, &format!("STRATEGY snapshot_diff KEY (id) {options}"));
            lab.source(&many(120_000, 99, 1)).await;
            lab.run().await.unwrap();
            lab.source(&many(121_000, 3, 501)).await;
            assert_eq!(lab.counts().await, [1000, 11_950, 500, 107_550]);
            assert_eq!(lab.counts().await, [0, 0, 0, 120_500]);
            results.push(lab.rows(&["id", "name", "__dpone__is_deleted"]));
        }
        assert!(results[0] == results[1]);
    }
}

#[tokio::test]
async fn marked_rows_lose_their_mark_when_they_come_back() {
    for row_hash in [true, false] {
        let options = format!("OPTIONS ('diff_delete_policy' 'soft_delete', 'diff_store_row_hash' '{row_hash}')");
        let lab = Lab::new(ENOUGH, &format!("STRATEGY snapshot_diff KEY (id) {options}"));
        lab.values(THREE).await;
        lab.run().await.unwrap();
        lab.values("(1, 'a', '2026-01-01'), (3, NULL, '2026-01-03')").await;
        assert_eq!(lab.counts().await, [0, 0, 1, 2], "a mark counts as a deletion");
        let marked = |row: &str| lab.rows(&["id", "__dpone__is_deleted"]).contains(&row.to_owned());
        assert!(marked("2 true") && marked("1 false"));
        assert_eq!(lab.counts().await, [0, 0, 0, 2], "a marked row is not marked again");
        lab.values(THREE).await;
        assert_eq!(lab.counts().await, [0, 1, 0, 2]);
        assert_eq!(lab.rows(&["id", "name", "__dpone__is_deleted", "__dpone__deleted_at"])[1], "2 b false ∅");
    }
}

#[tokio::test]
async fn rows_that_are_gone_may_be_left_alone() {
    let lab = Lab::new(ENOUGH, "STRATEGY snapshot_diff KEY (id) OPTIONS ('diff_delete_policy' 'ignore')");
    lab.values(THREE).await;
    lab.run().await.unwrap();
    lab.values("(1, 'A', '2026-01-01')").await;
    assert_eq!(lab.counts().await, [0, 1, 0, 0]);
    assert_eq!(lab.rows(&["id", "name"]), ["1 A", "2 b", "3 ∅"]);
}

#[tokio::test]
async fn guards_stop_a_run_before_anything_changes() {
    for strategy in ["snapshot_diff", "scd2"] {
        let lab = Lab::new(ENOUGH, &format!("STRATEGY {strategy} KEY (id)"));
        lab.values(THREE).await;
        lab.run().await.unwrap();
        let before = lab.rows(&["id", "name"]);
        lab.values("(1, 'A', '2026-01-01')").await;
        let error = lab.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataQuality);
        assert!(error.message().contains("2 of 3 rows") && error.message().contains("max_delete_ratio"), "{error}");
        lab.empty().await;
        let error = lab.run().await.unwrap_err();
        assert!(error.message().contains("gave no row"), "{error}");
        assert_eq!(lab.rows(&["id", "name"]), before);

        let lab = Lab::new(ENOUGH, &format!("STRATEGY {strategy} KEY (id) OPTIONS ('empty_source' 'allow')"));
        lab.values(THREE).await;
        lab.run().await.unwrap();
        lab.empty().await;
        lab.run().await.unwrap();

        let options = "OPTIONS ('max_delete_ratio' '1', 'max_delete_rows' '1')";
        let lab = Lab::new(ENOUGH, &format!("STRATEGY {strategy} KEY (id) {options}"));
        lab.values(THREE).await;
        lab.run().await.unwrap();
        lab.values("(1, 'a', '2026-01-01')").await;
        let error = lab.run().await.unwrap_err();
        assert!(error.message().contains("max_delete_rows is 1"), "{error}");
    }
}

#[tokio::test]
async fn null_and_duplicate_keys_are_refused_or_treated_as_told() {
    for limit in [ENOUGH, LITTLE] {
        let lab = Lab::new(limit, "STRATEGY snapshot_diff KEY (id)");
        lab.source(&many(50_000, 99, 1)).await;
        lab.run().await.unwrap();
        let with = |more: &str| format!("{} UNION ALL VALUES {more}", many(50_000, 99, 1));
        lab.source(&with("(NULL, 'x', '2026-01-01'), (NULL, 'y', '2026-01-01')")).await;
        let error = lab.run().await.unwrap_err();
        assert!(error.message().contains("2 in \"id\""), "{error}");
        // The second of the two equals what is there: only one of them would travel.
        lab.source(&with("(7, 'other', '2026-01-01')")).await;
        let error = lab.run().await.unwrap_err();
        assert!(error.message().contains("1 key(s) occur more than once"), "{error}");
        // Both are new.
        lab.source(&with("(70000, 'x', '2026-01-01'), (70000, 'y', '2026-01-01')")).await;
        let error = lab.run().await.unwrap_err();
        assert!(error.message().contains("1 key(s) occur more than once"), "{error}");
    }
    let options = "OPTIONS ('duplicate_policy' 'latest', 'order_by' 'at', 'null_keys' 'quarantine')";
    let lab = Lab::new(ENOUGH, &format!("STRATEGY snapshot_diff KEY (id) {options}"));
    lab.values("(1, 'a', '2026-01-01'), (1, 'b', '2026-01-02'), (NULL, 'x', '2026-01-01')").await;
    let first = lab.run().await.unwrap();
    assert_eq!((first.rows.inserted, first.rows.quarantined), (1, 1));
    let second = lab.run().await.unwrap();
    assert_eq!((second.rows.unchanged, second.rows.quarantined, second.rows.updated), (1, 1, 0));
    assert_eq!(lab.rows(&["id", "name"]), ["1 b"]);
}

const VERSION: [&str; 3] = ["id", "name", "__dpone__is_current"];

#[tokio::test]
async fn history_opens_closes_and_reopens() {
    for limit in [ENOUGH, LITTLE] {
        let lab = Lab::new(limit, "STRATEGY scd2 KEY (id) OPTIONS ('max_delete_ratio' '1')");
        let crowd = |more: &str| format!("{} UNION ALL VALUES {more}", many(80_000, 99, 1000));
        lab.source(&crowd(THREE)).await;
        lab.run().await.unwrap();
        assert_eq!(lab.counts().await, [0, 0, 0, 79_004]);
        lab.source(&crowd("(1, 'A', '2026-01-01'), (3, NULL, '2026-01-03')")).await;
        // A opens and a closes; 2 closes.
        assert_eq!(lab.counts().await, [1, 2, 0, 79_002]);
        lab.source(&crowd("(1, 'A', '2026-01-01'), (2, 'b', '2026-01-02'), (3, NULL, '2026-01-03')")).await;
        assert_eq!(lab.counts().await, [1, 0, 0, 79_003]);
        let few: Vec<_> =
            lab.rows(&VERSION).into_iter().filter(|r| r.starts_with(['1', '2', '3']) && r.len() < 12).collect();
        assert_eq!(few, ["1 A true", "1 a false", "2 b false", "2 b true", "3 ∅ true"]);
        let times = lab.rows(&["id", "__dpone__valid_from_at", "__dpone__valid_to_at"]);
        let one: Vec<_> =
            times.iter().filter(|r| r.starts_with("1 ")).map(|r| r.split(' ').collect::<Vec<_>>()).collect();
        assert!(
            one[0][2] == one[1][1] && one[1][2] == "∅" && one[0][1] < one[0][2],
            "half-open, without a gap: {one:?}"
        );
    }
}

#[tokio::test]
async fn history_may_track_some_columns_only() {
    let lab = Lab::new(ENOUGH, "STRATEGY scd2 KEY (id) OPTIONS ('scd2_track_columns' 'name')");
    lab.values(THREE).await;
    lab.run().await.unwrap();
    lab.values("(1, 'a', '2027-01-01'), (2, 'B', '2027-01-02'), (3, NULL, '2027-01-03')").await;
    assert_eq!(lab.counts().await, [1, 1, 0, 2]);
}

const TRACK: &str = "STRATEGY scd2 KEY (id) OPTIONS ('scd2_track_columns' '";

#[tokio::test]
async fn other_tracked_columns_open_no_version_without_a_word() {
    for (before, after) in [("name", "name, at"), ("name, at", "name")] {
        let lab = Lab::new(ENOUGH, &format!("{TRACK}{before}')"));
        lab.values(THREE).await;
        lab.run().await.unwrap();
        // Untracked or not, the values of the first are others now.
        lab.values("(1, 'a', '2027-01-01'), (2, 'b', '2026-01-02'), (3, NULL, '2026-01-03')").await;
        let refused = lab.redefined(&format!("{TRACK}{after}')"));
        for error in [refused.run().await.unwrap_err(), explain(&refused.context, &refused.pipeline).await.unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.message().contains("this definition tracks"), "{error}");
        }
        assert_eq!(lab.rows(&["id"]).len(), 3);

        let compared = lab.redefined(&format!("{TRACK}{after}', 'scd2_on_tracked_change' 'compare_values')"));
        let plan = explain(&compared.context, &compared.pipeline).await.unwrap();
        assert!(plan.notes.iter().any(|n| n.contains("other columns are tracked")), "{:?}", plan.notes);
        let changed = u64::from(after.contains("at"));
        assert_eq!(compared.counts().await, [changed, changed, 0, 3 - changed], "{before} to {after}");
        // The hashes are mixed now, and stay unused: the refusal has done its work.
        let later = compared.redefined(&format!("{TRACK}{after}')"));
        assert_eq!(later.counts().await, [0, 0, 0, 3]);
        later.values("(1, 'A', '2027-01-01'), (2, 'b', '2026-01-02'), (3, NULL, '2026-01-03')").await;
        assert_eq!(later.counts().await, [1, 1, 0, 2]);
    }
}

#[tokio::test]
async fn versions_of_all_rows_may_be_asked_for() {
    let lab = Lab::new(ENOUGH, &format!("{TRACK}name')"));
    lab.values(THREE).await;
    lab.run().await.unwrap();
    let open = lab.redefined(&format!("{TRACK}name, at', 'scd2_on_tracked_change' 'open_versions')"));
    let plan = explain(&open.context, &open.pipeline).await.unwrap();
    assert!(plan.notes.iter().any(|n| n.contains("changed or not")), "{:?}", plan.notes);
    assert_eq!(open.counts().await, [3, 3, 0, 0]);
    assert_eq!(open.counts().await, [0, 0, 0, 3]);
    // The next load remembers what the hashes are made of now.
    assert_eq!(open.redefined(&format!("{TRACK}at, name')")).counts().await, [0, 0, 0, 3]);
}

#[tokio::test]
async fn a_column_that_the_source_gets_makes_versions_where_it_is_not_null() {
    for effective in [false, true] {
        let options = match effective {
            true => "OPTIONS ('scd2_effective_column' 'at', 'scd2_delete_policy' 'ignore')",
            false => "OPTIONS ('max_delete_ratio' '1')",
        };
        let lab = Lab::new(ENOUGH, &format!("STRATEGY scd2 KEY (id) {options}"));
        lab.values(THREE).await;
        lab.run().await.unwrap();
        let add = |city: &str, at: &str| format!("SELECT *, CAST({city} AS VARCHAR) AS city {at} FROM t");
        let widen = |relation: Relation, system: &'static str, sql: String| {
            let memory = Arc::clone(&lab.memory);
            async move {
                let session = SessionContext::new();
                session.register_batch("t", memory.system(system).rows(&relation).unwrap()).unwrap();
                let batches = session.sql(&sql).await.unwrap().collect().await.unwrap();
                memory.system(system).put(&relation, &batches).unwrap();
            }
        };
        let things = Relation::new("public", "things");
        widen(things.clone(), "dst", add("NULL", "")).await;
        let sql = "SELECT id, name, CASE WHEN id = 2 THEN at + INTERVAL '1 day' ELSE at END AS at, \
                   CASE WHEN id = 2 THEN 'Rome' END AS city FROM t";
        widen(things, "src", sql.to_owned()).await;
        let plan = explain(&lab.context, &lab.pipeline).await.unwrap();
        assert!(plan.notes.iter().any(|n| n.contains("city came since")), "{:?}", plan.notes);
        assert_eq!(lab.counts().await, [1, 1, 0, 2]);
        assert_eq!(lab.rows(&["id", "city"]), ["1 ∅", "2 Rome", "2 ∅", "3 ∅"]);
        assert_eq!(lab.counts().await, [0, 0, 0, 3]);
    }
}

#[tokio::test]
async fn a_column_that_the_source_loses_is_left_out_of_the_comparison() {
    let lab = Lab::new(ENOUGH, "STRATEGY scd2 KEY (id) OPTIONS ('schema_evolution_on_breaking' 'ignore')");
    lab.values(THREE).await;
    lab.run().await.unwrap();
    let things = Relation::new("public", "things");
    let session = SessionContext::new();
    session.register_batch("t", lab.memory.system("src").rows(&things).unwrap()).unwrap();
    let sql = "SELECT id, at FROM t";
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    lab.memory.system("src").put(&things, &batches).unwrap();
    let plan = explain(&lab.context, &lab.pipeline).await.unwrap();
    // By values: the digest of a target's row is made of what the row holds, without the column that is gone.
    assert!(plan.notes.iter().any(|n| n.contains("no column name any more")), "{:?}", plan.notes);
    assert!(plan.logical_plan.matches("dpone_row_digest").count() > 3, "{}", plan.logical_plan);
}

#[tokio::test]
async fn timelines_may_be_compared_by_values() {
    let clauses = |track: &str, more: &str| {
        format!("{TRACK}{track}', 'scd2_effective_column' 'at', 'scd2_delete_policy' 'ignore'{more})")
    };
    let lab = Lab::new(ENOUGH, &clauses("name", ""));
    lab.values("(1, 'a', '2026-01-01'), (1, 'b', '2026-01-03'), (2, 'x', '2026-01-01')").await;
    assert_eq!(lab.counts().await, [3, 0, 0, 0]);
    let other = lab.redefined(&clauses("id, name", ""));
    assert_eq!(other.run().await.unwrap_err().kind(), ErrorKind::Conflict);
    let other = lab.redefined(&clauses("id, name", ", 'scd2_on_tracked_change' 'compare_values'"));
    // By hashes, both rows would say something new.
    other.values("(1, 'b', '2026-01-05'), (2, 'y', '2026-01-02')").await;
    assert_eq!(other.counts().await, [1, 1, 0, 1]);
    assert_eq!(other.counts().await, [0, 0, 0, 2]);
}

#[tokio::test]
async fn history_follows_a_column_of_the_source() {
    let options = "OPTIONS ('scd2_effective_column' 'at', 'scd2_delete_policy' 'ignore')";
    for cursor in ["", "CURSOR at"] {
        let lab = Lab::new(ENOUGH, &format!("STRATEGY scd2 KEY (id) {cursor} {options}"));
        // Several versions at once, one of which says nothing new.
        lab.values("(1, 'a', '2026-01-01'), (1, 'b', '2026-01-03'), (1, 'b', '2026-01-04'), (2, 'x', '2026-01-01')")
            .await;
        assert_eq!(lab.counts().await, [3, 0, 0, 1]);
        lab.values("(1, 'c', '2026-01-05'), (1, 'd', '2026-01-06'), (2, 'x', '2026-01-07')").await;
        assert_eq!(lab.counts().await, [2, 1, 0, 1]);
        let day = |text: &str| text.replace("2026-01-", "").replace("T00:00:00Z", "");
        let versions = || -> Vec<String> {
            lab.rows(&["id", "name", "__dpone__valid_from_at", "__dpone__valid_to_at"]).iter().map(|r| day(r)).collect()
        };
        assert_eq!(versions(), ["1 a 01 03", "1 b 03 05", "1 c 05 06", "1 d 06 ∅", "2 x 01 ∅"]);
        if !cursor.is_empty() {
            // A row that makes no version moves the watermark all the same.
            lab.values("(2, 'x', '2026-03-01')").await;
            let receipt = lab.run().await.unwrap();
            assert_eq!((receipt.rows.extracted, receipt.rows.inserted, receipt.rows.unchanged), (1, 0, 1));
            assert_eq!(receipt.watermark_after.unwrap().to_string(), "at = 2026-03-01T00:00:00");
        }
        if cursor.is_empty() {
            // Late ones: before all, between two, and a correction.
            lab.values(
                "(1, 'z', '2025-12-31'), (1, 'e', '2026-01-04'), (1, 'D', '2026-01-06'), (2, 'w', '2026-01-01')",
            )
            .await;
            assert_eq!(lab.counts().await, [2, 3, 0, 0]);
            assert_eq!(
                versions(),
                ["1 D 06 ∅", "1 a 01 03", "1 b 03 04", "1 c 05 06", "1 e 04 05", "1 z 2025-12-31 01", "2 w 01 ∅"]
            );
            assert_eq!(lab.counts().await, [0, 0, 0, 4]);
            lab.values("(2, 'w', '2026-01-01'), (2, 'w', '2026-02-01'), (2, 'w', '2026-02-01')").await;
            assert_eq!(lab.counts().await, [0, 0, 0, 3], "the same row twice");
            for two in
                ["(1, 'p', '2026-02-01'), (1, 'q', '2026-02-01')", "(1, 'D', '2026-01-06'), (1, 'E', '2026-01-06')"]
            {
                lab.values(two).await;
                let error = lab.run().await.unwrap_err();
                assert!(error.message().contains("more than once"), "{error}");
            }
            lab.values("(1, 'p', NULL)").await;
            let error = lab.run().await.unwrap_err();
            assert!(error.message().contains("1 in \"at\""), "{error}");
        }
    }
}

#[tokio::test]
async fn of_the_rows_of_one_time_the_latest_is_the_version() {
    let options =
        "'scd2_effective_column' 'at', 'scd2_delete_policy' 'ignore', 'duplicate_policy' 'latest', 'order_by' 'name'";
    let lab = Lab::new(ENOUGH, &format!("STRATEGY scd2 KEY (id) OPTIONS ({options})"));
    lab.values("(1, 'p', '2026-02-01'), (1, 'q', '2026-02-01'), (1, 'z', '2026-01-15')").await;
    lab.run().await.unwrap();
    let versions: Vec<String> = lab
        .rows(&["id", "name", "__dpone__valid_from_at", "__dpone__valid_to_at"])
        .iter()
        .map(|row| row.replace("2026-", "").replace("T00:00:00Z", ""))
        .collect();
    assert_eq!(versions, ["1 q 02-01 ∅", "1 z 01-15 02-01"]);
}

#[tokio::test]
async fn timelines_that_do_not_fit_are_laid_out_in_parts() {
    let clauses = "STRATEGY scd2 KEY (id) OPTIONS ('scd2_effective_column' 'at', 'scd2_delete_policy' 'ignore')";
    // Twenty versions of each key, of which every second says the same as the one before; and then late and new ones.
    let first = "SELECT value % 2000, 'says ' || CAST(value / 4000 AS VARCHAR), \
                 to_timestamp(1767225600 + value / 2000 * 2 * 86400) FROM generate_series(0, 39999)";
    let then = "SELECT value, 'late', to_timestamp(1767225600 + 11 * 86400) FROM generate_series(0, 999) UNION ALL \
                SELECT value, 'new', to_timestamp(1767225600 + 90 * 86400) FROM generate_series(500, 2499)";
    let mut results = Vec::new();
    for limit in [ENOUGH, 1 << 20] {
        let lab = Lab::new(limit, clauses);
        lab.source(first).await;
        assert_eq!(lab.counts().await, [20_000, 0, 0, 20_000], "under {limit} bytes");
        lab.source(then).await;
        assert_eq!(lab.counts().await, [3000, 2500, 0, 0], "under {limit} bytes");
        assert_eq!(lab.counts().await, [0, 0, 0, 3000], "under {limit} bytes");
        results.push(lab.rows(&["id", "name", "__dpone__valid_from_at", "__dpone__valid_to_at"]));
    }
    assert_eq!(results[0].len(), 23_000);
    assert!(results[0] == results[1]);
}

#[tokio::test]
async fn history_is_not_turned_round_by_a_clock() {
    let lab = Lab::new(ENOUGH, "STRATEGY scd2 KEY (id) OPTIONS ('scd2_delete_policy' 'ignore')");
    lab.values("(1, 'a', '2026-01-01'), (2, 'b', '2026-01-01')").await;
    lab.run().await.unwrap();
    // As if another machine, whose clock is ahead, had loaded.
    let table = Relation::new("public", "things");
    let batch = lab.memory.system("dst").rows(&table).unwrap();
    let session = SessionContext::new();
    session.register_batch("t", batch).unwrap();
    let later = "SELECT * REPLACE (__dpone__valid_from_at + INTERVAL '1 day' AS __dpone__valid_from_at) FROM t";
    let ahead = session.sql(later).await.unwrap().collect().await.unwrap();
    lab.memory.system("dst").put(&table, &ahead).unwrap();
    lab.values("(1, 'A', '2026-01-01'), (2, 'b', '2026-01-01')").await;
    let error = lab.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("would end before they begin"), "{error}");
}

#[tokio::test]
async fn partitions_are_replaced_whole() {
    let clause = |options: &str| format!("STRATEGY partition_replace OPTIONS ('partition_column' 'at'{options})");
    let lab = Lab::new(ENOUGH, &clause(", 'partition_max_partitions_per_run' '2'"));
    lab.values("(1, 'a', '2026-01-01'), (2, 'b', '2026-01-01'), (3, 'c', NULL)").await;
    lab.run().await.unwrap();
    lab.values("(4, 'd', '2026-01-01'), (5, 'e', NULL)").await;
    assert_eq!(lab.counts().await[..3], [2, 0, 3]);
    assert_eq!(lab.rows(&["id"]), ["4", "5"]);
    lab.empty().await;
    lab.run().await.unwrap();
    assert_eq!(lab.rows(&["id"]), ["4", "5"], "without a window an empty source empties nothing");
    lab.values(THREE).await;
    let error = lab.run().await.unwrap_err();
    assert!(error.message().contains("more than 2 partitions"), "{error}");
    assert_eq!(lab.rows(&["id"]), ["4", "5"]);

    for scope in [
        ", 'window_column' 'at', 'window_from' '2026-01-01', 'window_to' '2026-01-03'",
        ", 'partition_expected' '2026-01-01, 2026-01-02'",
    ] {
        let lab = Lab::new(ENOUGH, &clause(scope));
        lab.values(THREE).await;
        lab.run().await.unwrap();
        assert_eq!(lab.rows(&["id"]), ["1", "2"], "rows outside of the scope are not read");
        lab.values("(9, 'z', '2026-01-02'), (10, 'z', '2026-01-09')").await;
        lab.run().await.unwrap();
        assert_eq!(lab.rows(&["id"]), ["9"], "the scope says that the first of January is empty now");
    }
    for to in ["2026-01-01", "2025-12-31"] {
        let window = format!(", 'window_column' 'at', 'window_from' '2026-01-01', 'window_to' '{to}'");
        let lab = Lab::new(ENOUGH, &clause(&window));
        lab.values(THREE).await;
        let error = lab.run().await.unwrap_err();
        assert!(error.message().contains("holds no row"), "{error}");
    }
}
