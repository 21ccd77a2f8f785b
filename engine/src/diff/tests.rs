//! Comparisons under limits in which parts do not fit: the change set, the counts, and what the pool was asked for.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{FixedSizeBinaryArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use dpone_planner::diff::{CHANGE, DIGEST, Diff, KEY_HASH};
use dpone_planner::row_hash::{DigestKind, digest};
use futures::StreamExt;

use super::*;

/// Notes the most that was ever reserved.
#[derive(Debug)]
struct Watched {
    pool: FairSpillPool,
    most: AtomicUsize,
}

impl Watched {
    fn look(&self) {
        self.most.fetch_max(self.pool.reserved(), Ordering::Relaxed);
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

impl MemoryPool for Watched {
    fn name(&self) -> &str {
        "watched"
    }
    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }
    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }
    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
        self.look();
    }
    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
    }
    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DataFusionResult<()> {
        self.pool.try_grow(reservation, additional)?;
        self.look();
        Ok(())
    }
    fn reserved(&self) -> usize {
        self.pool.reserved()
    }
    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

struct Outcome {
    facts: DiffFacts,
    splits: usize,
    most: usize,
    rows: Vec<String>,
}

const WORKERS: usize = 3;

/// One side: a query that gives `id` and `name`, with its hashes.
async fn side(session: &SessionContext, query: &str, kind: DigestKind) -> LogicalPlan {
    let sql = format!("SELECT CAST(id AS VARCHAR) || '-a-rather-long-key' AS id, name FROM ({query}) AS t (id, name)");
    let plan = session.sql(&sql).await.unwrap().into_unoptimized_plan();
    let plan = LogicalPlanBuilder::from(plan).alias("t").unwrap().build().unwrap();
    let columns: Vec<_> =
        plan.schema().fields().iter().map(|f| (f.as_ref().clone(), ident(f.name()))).collect::<Vec<_>>();
    let mut exprs: Vec<Expr> = columns.iter().map(|(_, e)| e.clone()).collect();
    exprs.push(digest(DigestKind::Key, columns[..1].to_vec()).alias(KEY_HASH));
    exprs.push(digest(kind, columns).alias(DIGEST));
    LogicalPlanBuilder::from(plan).project(exprs).unwrap().build().unwrap()
}

async fn compare(source: &str, target: &str, limit: usize, method: Method, kind: DigestKind) -> Outcome {
    let pool = Arc::new(Watched { pool: FairSpillPool::new(limit), most: AtomicUsize::new(0) });
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool) as _).build_arc().unwrap();
    let state = SessionStateBuilder::new()
        .with_config(SessionConfig::new().with_target_partitions(WORKERS).with_batch_size(1000))
        .with_runtime_env(runtime)
        .with_default_features()
        .with_query_planner(Arc::new(QueryPlannerWithDiff))
        .build();
    let session = SessionContext::new_with_state(state);
    let (source, target) = (side(&session, source, kind).await, side(&session, target, kind).await);
    let columns = source.schema().fields()[..2].iter().map(|f| f.as_ref().clone()).collect();
    let spec = DiffSpec {
        method,
        key: vec!["id".to_owned()],
        carried: Vec::new(),
        missing: true,
        replaced: true,
        quarantine_null_keys: false,
    };
    let plan = Diff::plan(source, target, spec, columns).unwrap();
    let physical = session.state().create_physical_plan(&plan).await.unwrap();
    let mut stream = execute_stream(Arc::clone(&physical), session.task_ctx()).unwrap();
    let mut rows = Vec::new();
    while let Some(batch) = stream.next().await {
        let text = pretty_format_batches(&[batch.unwrap()]).unwrap().to_string();
        rows.extend(text.lines().skip(3).filter(|l| l.starts_with('|')).map(|l| l.replace(' ', "")));
    }
    rows.sort();
    let found = in_plan(physical.as_ref());
    let [diff] = found.as_slice() else { panic!("one comparison") };
    Outcome { facts: diff.facts(), splits: diff.splits(), most: pool.most.load(Ordering::Relaxed), rows }
}

fn numbers(from: u32, to: u32, changed: u32) -> String {
    format!(
        "SELECT value, CASE WHEN value % 10 = {changed} THEN 'changed' ELSE 'as it was' END \
         FROM generate_series({from}, {to})"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_fit_are_split_again() {
    let (old, new) = (numbers(1, 60_000, 99), numbers(301, 60_500, 3));
    for kind in [DigestKind::Values, DigestKind::Exact] {
        let held = compare(&new, &old, 1 << 30, Method::Hash, kind).await;
        assert_eq!((held.facts.new, held.facts.missing, held.facts.changed), (500, 300, 5970));
        let limit = 1500 << 10;
        let parted = compare(&new, &old, limit, Method::Partitioned { parts: 2 }, kind).await;
        assert!(parted.splits > 0, "half of the keys do not fit in {limit} bytes");
        assert_eq!(parted.facts, held.facts);
        assert!(parted.rows == held.rows, "the same rows, by another way");
        // Besides, each worker has a batch in hand, and the buffers of two files that it splits.
        let beside = WORKERS * ((128 << 10) + 2 * (256 << 10) + (512 << 10));
        assert!(parted.most <= limit + beside, "{} bytes were reserved", parted.most);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_over_and_over_is_counted() {
    let again =
        |rows: u32| format!("{} UNION ALL SELECT 7, 'again' FROM generate_series(1, {rows})", numbers(1, 9000, 3));
    for (parts, limit) in [(2, 300 << 10), (8, 1 << 30)] {
        let outcome =
            compare(&again(5), &again(50_000), limit, Method::Partitioned { parts }, DigestKind::Values).await;
        let facts = outcome.facts;
        assert_eq!((facts.duplicate_target_keys, facts.duplicate_source_keys), (50_000, 5), "with {limit} bytes");
        assert_eq!((facts.target_rows, facts.source_rows), (59_000, 9005));
    }
}

/// Rows with hashes made by hand: all keys begin their search at the same place, and few differ in what a slot keeps.
fn crowded(ids: std::ops::Range<i64>, changed: i64) -> Arc<dyn ExecutionPlan> {
    let hash =
        |low: u32, second: u32, third: u32| (u128::from(third) << 64) | (u128::from(second) << 32) | u128::from(low);
    let keys = ids.clone().map(|id| hash(id as u32 % 3, 7, id as u32).to_be_bytes());
    let digests = ids.clone().map(|id| u128::from(id % 10 == changed).to_be_bytes());
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new(KEY_HASH, DataType::FixedSizeBinary(16), false),
        Field::new(DIGEST, DataType::FixedSizeBinary(16), false),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(Int64Array::from_iter_values(ids)),
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(keys.map(Some), 16).unwrap()),
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(digests.map(Some), 16).unwrap()),
        ],
    );
    MemorySourceConfig::try_new_exec(&[vec![batch.unwrap()]], schema, None).unwrap()
}

#[tokio::test]
async fn keys_that_crowd_at_one_place_are_told_apart() {
    let spec = DiffSpec {
        method: Method::Hash,
        key: vec!["id".to_owned()],
        carried: Vec::new(),
        missing: true,
        replaced: false,
        quarantine_null_keys: false,
    };
    let columns = vec![Field::new("id", DataType::Int64, false), Field::new(CHANGE, DataType::Int8, false)];
    for (old, new) in [(0..1000, 300..1500), (0..0, 0..100), (0..1, 1..2)] {
        let (source, target) = (crowded(new.clone(), 3), crowded(old.clone(), 99));
        let exec =
            Arc::new(DiffExec::new(source, target, Arc::new(spec.clone()), Arc::new(Schema::new(columns.clone()))));
        let plan: Arc<dyn ExecutionPlan> = exec.clone();
        let mut stream = execute_stream(plan, Arc::default()).unwrap();
        while let Some(batch) = stream.next().await {
            batch.unwrap();
        }
        let both = |id: &i64| old.contains(id);
        let facts = exec.facts();
        assert_eq!(facts.new, new.clone().filter(|id| !both(id)).count() as u64);
        assert_eq!(facts.changed, new.clone().filter(|id| both(id) && id % 10 == 3).count() as u64);
        assert_eq!(facts.missing, old.clone().filter(|id| !new.contains(id)).count() as u64);
        assert_eq!((facts.duplicate_source_keys, facts.duplicate_target_keys), (0, 0));
    }
}
