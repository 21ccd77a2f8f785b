//! What [`Sink`] and its [`StateStore`] promise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dpone_planner::definition::OverwriteType;
use dpone_planner::plan::{DELETE, INSERT_OR_UPDATE, LOAD_ID, Operation, PATCH, ScopeFilter, WriteMode};
use dpone_planner::schema::SchemaChange;
use dpone_planner::state::{PipelineState, Watermark};

use super::rows::{Row, batch, batch_with_operation, read_columns, read_rows, schema, stamped, stored};
use super::{ensure, ensure_eq};
use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::sink::Commit;
use crate::{
    Error, ErrorKind, Lease, LeaseRequest, LoadSpec, Relation, Result, Sink, StagedPartition, StateLocation, StateStore,
};

const PIPELINE: &str = "conformance";

/// Checks every promise of the port on tables of `schema` that do not exist yet.
pub async fn sink_conformance(sink: Arc<dyn Sink>, schema: &str) -> Result<()> {
    let suite = Suite { sink, schema: schema.to_owned() };
    suite.a_missing_table_is_none().await?;
    suite.staged_rows_are_invisible_until_commit().await?;
    suite.a_retried_partition_replaces_its_earlier_attempt().await?;
    suite.append_adds().await?;
    suite.overwrite_replaces_everything(OverwriteType::Exchange).await?;
    suite.overwrite_replaces_everything(OverwriteType::TruncateInsert).await?;
    if suite.sink.capabilities().overwrite_scope {
        suite.overwrite_scope_replaces_the_scope().await?;
    }
    if suite.sink.capabilities().changes {
        suite.changes_apply_by_key().await?;
        suite.a_guard_stops_before_anything_changes().await?;
    }
    if !suite.sink.capabilities().transactional {
        suite.a_load_is_committed_once().await?;
    }
    suite.state_travels_with_the_data().await?;
    suite.a_lease_excludes_and_fences().await
}

struct Suite {
    sink: Arc<dyn Sink>,
    schema: String,
}

/// What a load of the suite looks like.
struct Load<'a> {
    table: &'a str,
    mode: WriteMode,
    partitions: Vec<RecordBatch>,
    run_id: &'a str,
    watermark: Option<i64>,
    max_delete_rows: Option<u64>,
}

impl<'a> Load<'a> {
    fn new(table: &'a str, mode: WriteMode, partitions: Vec<RecordBatch>) -> Self {
        Self { table, mode, partitions, run_id: "run-1", watermark: None, max_delete_rows: None }
    }
}

impl Suite {
    fn table(&self, name: &str) -> Relation {
        Relation::new(&self.schema, name)
    }

    fn store(&self, table: &str) -> Result<Arc<dyn StateStore>> {
        self.sink.state(&self.table(table), &StateLocation::default())
    }

    async fn lease(&self, table: &str, run_id: &str, ttl: Duration) -> Result<Lease> {
        let request = LeaseRequest {
            pipeline: PIPELINE.to_owned(),
            run_id: run_id.to_owned(),
            holder: format!("conformance {run_id}"),
            ttl,
        };
        self.store(table)?.acquire(&request).await
    }

    async fn spec(&self, load: &Load<'_>) -> Result<LoadSpec> {
        let target = self.table(load.table);
        Ok(LoadSpec {
            load_id: ulid::Ulid::generate().to_string(),
            run_id: load.run_id.to_owned(),
            pipeline: PIPELINE.to_owned(),
            target_exists: self.sink.describe(&target).await?.is_some(),
            primary_key: load.mode.key().to_vec(),
            target,
            staging_schema: None,
            staged_schema: load.partitions.first().map_or_else(schema, RecordBatch::schema),
            write_mode: load.mode.clone(),
            partitions: load.partitions.len(),
            partition_by: Vec::new(),
            cursor: None,
            options: BTreeMap::new(),
        })
    }

    async fn stage(&self, spec: &LoadSpec, load: &Load<'_>) -> Result<Vec<StagedPartition>> {
        self.sink.prepare(spec).await?;
        let mut staged = Vec::new();
        for (partition, batch) in load.partitions.iter().enumerate() {
            staged.push(self.sink.stage(spec, partition, stream(spec, batch)).await?);
        }
        let rows: u64 = load.partitions.iter().map(|b| b.num_rows() as u64).sum();
        ensure_eq(&staged.iter().map(|s| s.rows).sum(), &rows, "stage reports the rows that it was given")?;
        Ok(staged)
    }

    async fn commit(
        &self,
        spec: &LoadSpec,
        load: &Load<'_>,
        staged: &[StagedPartition],
        lease: &Lease,
    ) -> Result<Receipt> {
        let ddl: Vec<SchemaChange> = (!spec.target_exists)
            .then(|| SchemaChange::CreateTable {
                schema: stored(&spec.staged_schema),
                primary_key: spec.primary_key.clone(),
                partition_by: Vec::new(),
            })
            .into_iter()
            .collect();
        let watermark = load.watermark.map(|v| Watermark::new("id", &ScalarValue::Int64(Some(v)))).transpose()?;
        let state = PipelineState {
            version: PipelineState::VERSION,
            pipeline: PIPELINE.to_owned(),
            digest: "digest".to_owned(),
            watermark,
            boundary: None,
            changes: None,
            hashes: None,
            chunk: None,
            columns: Vec::new(),
            late_columns: Vec::new(),
            load_id: spec.load_id.clone(),
            run_id: spec.run_id.clone(),
            committed_at: "2026-01-01T00:00:00Z".to_owned(),
        };
        self.sink
            .commit(&Commit {
                load: spec,
                staged,
                state: &state,
                state_location: &StateLocation::default(),
                lease,
                ddl: &ddl,
                max_delete_rows: load.max_delete_rows,
                max_delete_ratio: None,
                receipt: &receipt(spec, staged),
            })
            .await
    }

    /// One whole load, as a run does it.
    async fn load(&self, load: Load<'_>) -> Result<Receipt> {
        let lease = self.lease(load.table, load.run_id, Duration::from_secs(60)).await?;
        let spec = self.spec(&load).await?;
        let staged = self.stage(&spec, &load).await?;
        let result = self.commit(&spec, &load, &staged, &lease).await;
        self.sink.discard(&spec).await?;
        self.sink.discard(&spec).await?;
        self.store(load.table)?.release(&lease).await?;
        result
    }

    async fn rows(&self, table: &str) -> Result<Vec<String>> {
        let rows = read_rows(self.sink.as_ref(), &self.table(table)).await?;
        rows.ok_or_else(|| Error::internal(format!("conformance: the table {table} exists after its load")))
    }

    async fn a_missing_table_is_none(&self) -> Result<()> {
        ensure(self.sink.describe(&self.table("c_missing")).await?.is_none(), "describe of a missing table is None")?;
        let store = self.store("c_missing")?;
        ensure(store.get(PIPELINE).await?.is_none(), "a pipeline that never ran has no state")?;
        ensure(store.receipt(PIPELINE, "run-1").await?.is_none(), "a run that never was has no receipt")
    }

    async fn staged_rows_are_invisible_until_commit(&self) -> Result<()> {
        let append = || Load::new("c_invisible", WriteMode::Append, vec![]);
        self.load(Load { partitions: vec![batch(&[(1, Some("a"), None)])?], ..append() }).await?;
        let second = Load { partitions: vec![batch(&[(2, Some("b"), None)])?], run_id: "run-2", ..append() };
        let spec = self.spec(&second).await?;
        self.stage(&spec, &second).await?;
        ensure_eq(&self.rows("c_invisible").await?, &text(&["1|a|∅"]), "staged rows are invisible")?;
        self.sink.discard(&spec).await?;
        ensure_eq(&self.rows("c_invisible").await?, &text(&["1|a|∅"]), "discarded rows never appear")
    }

    async fn a_retried_partition_replaces_its_earlier_attempt(&self) -> Result<()> {
        let load = Load::new("c_retry", WriteMode::Append, vec![batch(&[(1, Some("again"), Some(1))])?]);
        let lease = self.lease("c_retry", "run-1", Duration::from_secs(60)).await?;
        let spec = self.spec(&load).await?;
        self.sink.prepare(&spec).await?;
        let broken = futures::stream::iter(vec![
            Ok(batch(&[(9, Some("lost"), None)])?),
            Err(datafusion::error::DataFusionError::from(Error::transient("conformance: the source died"))),
        ]);
        let broken: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema(), broken));
        let failed = self.sink.stage(&spec, 0, broken).await;
        ensure(failed.is_err_and(|e| e.is_transient()), "stage passes the source's error on, with its kind")?;
        let staged = vec![self.sink.stage(&spec, 0, stream(&spec, &load.partitions[0])).await?];
        self.commit(&spec, &load, &staged, &lease).await?;
        self.sink.discard(&spec).await?;
        self.store("c_retry")?.release(&lease).await?;
        ensure_eq(
            &self.rows("c_retry").await?,
            &text(&["1|again|1"]),
            "a failed attempt of a partition leaves nothing behind",
        )
    }

    async fn append_adds(&self) -> Result<()> {
        let parts =
            vec![batch(&[(1, Some(""), Some(1)), (2, None, None)])?, batch(&[])?, batch(&[(3, Some("ü"), Some(-1))])?];
        let receipt = self.load(Load::new("c_append", WriteMode::Append, parts)).await?;
        ensure_eq(
            &(receipt.rows.inserted, receipt.rows.updated, receipt.rows.deleted),
            &(3, 0, 0),
            "append counts inserts",
        )?;
        let more = Load {
            run_id: "run-2",
            ..Load::new("c_append", WriteMode::Append, vec![batch(&[(1, Some(""), Some(1))])?])
        };
        self.load(more).await?;
        let expected = text(&["1||1", "1||1", "2|∅|∅", "3|ü|-1"]);
        ensure_eq(&self.rows("c_append").await?, &expected, "append adds rows, and '' is not NULL")
    }

    async fn overwrite_replaces_everything(&self, overwrite: OverwriteType) -> Result<()> {
        let table = match overwrite {
            OverwriteType::Exchange => "c_exchange",
            OverwriteType::TruncateInsert => "c_truncate",
        };
        let mode = WriteMode::Overwrite { overwrite };
        let load = |run_id, rows: &[Row]| -> Result<Load<'_>> {
            Ok(Load { run_id, ..Load::new(table, mode.clone(), vec![batch(rows)?]) })
        };
        self.load(load("run-1", &[(1, Some("old"), None), (2, Some("old"), None)])?).await?;
        let receipt = self.load(load("run-2", &[(2, Some("new"), None)])?).await?;
        ensure_eq(&receipt.rows.inserted, &1, "overwrite counts the rows that are there now as inserted")?;
        ensure_eq(&self.rows(table).await?, &text(&["2|new|∅"]), "overwrite replaces everything")?;
        self.load(load("run-3", &[])?).await?;
        ensure_eq(&self.rows(table).await?, &Vec::new(), "overwriting with nothing empties the table")
    }

    async fn overwrite_scope_replaces_the_scope(&self) -> Result<()> {
        let rows = batch(&[(1, Some("a"), Some(10)), (2, Some("b"), Some(20)), (3, Some("c"), None)])?;
        self.load(Load::new("c_scope", WriteMode::Append, vec![rows])).await?;
        let scope = |sql: &str| WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: sql.to_owned() } };
        let load = Load {
            run_id: "run-2",
            ..Load::new("c_scope", scope("amount >= 15"), vec![batch(&[(4, Some("d"), Some(40))])?])
        };
        let receipt = self.load(load).await?;
        ensure_eq(&(receipt.rows.inserted, receipt.rows.deleted), &(1, 1), "the scope's rows are counted")?;
        let expected = text(&["1|a|10", "3|c|∅", "4|d|40"]);
        ensure_eq(&self.rows("c_scope").await?, &expected, "only rows for which the scope is true are replaced")?;
        let outside = Load {
            run_id: "run-3",
            ..Load::new("c_scope", scope("amount >= 15"), vec![batch(&[(5, None, Some(1))])?])
        };
        let refused = self.load(outside).await;
        ensure(
            refused.is_err_and(|e| e.kind() == ErrorKind::DataQuality),
            "staged rows outside the scope are refused",
        )?;
        ensure_eq(&self.rows("c_scope").await?, &expected, "a refused load changes nothing")?;
        let parts = WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns: vec!["name".to_owned()] } };
        let load = Load { run_id: "run-4", ..Load::new("c_scope", parts, vec![batch(&[(6, Some("a"), Some(60))])?]) };
        self.load(load).await?;
        let expected = text(&["3|c|∅", "4|d|40", "6|a|60"]);
        ensure_eq(&self.rows("c_scope").await?, &expected, "the partitions that staged rows touch are replaced")
    }

    async fn changes_apply_by_key(&self) -> Result<()> {
        let upsert = || WriteMode::Changes { key: vec!["id".to_owned()], operation: Operation::Upsert };
        let first = batch(&[(1, Some("a"), Some(1)), (2, Some("b"), None), (3, Some("c"), Some(3))])?;
        let receipt = self.load(Load::new("c_changes", upsert(), vec![first])).await?;
        ensure_eq(&receipt.rows.inserted, &3, "new keys are inserted")?;
        let second = vec![batch(&[(2, Some("b"), None), (3, None, Some(3))])?, batch(&[(4, Some("d"), Some(4))])?];
        let receipt = self.load(Load { run_id: "run-2", ..Load::new("c_changes", upsert(), second) }).await?;
        let counts = |r: &Receipt| (r.rows.inserted, r.rows.updated, r.rows.deleted, r.rows.unchanged);
        ensure_eq(&counts(&receipt), &(1, 1, 0, 1), "inserts, updates and the unchanged are told apart")?;
        let expected = text(&["1|a|1", "2|b|∅", "3|∅|3", "4|d|4"]);
        ensure_eq(&self.rows("c_changes").await?, &expected, "changes apply by key")?;
        let by_column =
            WriteMode::Changes { key: vec!["id".to_owned()], operation: Operation::Column { patch: vec![] } };
        let third = batch_with_operation(&[
            ((1, None, None), DELETE),
            ((7, None, None), DELETE),
            ((2, Some("B"), Some(2)), INSERT_OR_UPDATE),
            ((5, Some("e"), None), INSERT_OR_UPDATE),
        ])?;
        let receipt = self.load(Load { run_id: "run-3", ..Load::new("c_changes", by_column, vec![third]) }).await?;
        ensure_eq(&counts(&receipt), &(1, 1, 1, 1), "deleting a key that is not there changes nothing")?;
        let expected = text(&["2|B|2", "3|∅|3", "4|d|4", "5|e|∅"]);
        ensure_eq(&self.rows("c_changes").await?, &expected, "marked rows are deleted")?;
        self.patches_set_only_their_columns().await?;
        self.stamps_make_no_row_differ().await?;
        let twice =
            Load::new("c_changes", upsert(), vec![batch(&[(8, None, None), (8, None, None), (9, None, None)])?]);
        let spec = self.spec(&twice).await?;
        let staged = self.stage(&spec, &twice).await?;
        let duplicates = self.sink.duplicate_keys(&spec, &staged, &["id".to_owned()]).await?;
        self.sink.discard(&spec).await?;
        ensure_eq(&duplicates, &1, "keys that are staged more than once are counted")
    }

    async fn patches_set_only_their_columns(&self) -> Result<()> {
        let operation = Operation::Column { patch: vec!["amount".to_owned()] };
        let mode = WriteMode::Changes { key: vec!["id".to_owned()], operation };
        let rows = batch_with_operation(&[
            ((2, None, Some(20)), PATCH),
            ((4, Some("x"), Some(4)), PATCH),
            ((77, None, Some(1)), PATCH),
            ((3, Some("C"), None), INSERT_OR_UPDATE),
            ((5, None, None), DELETE),
            ((6, Some("f"), Some(6)), INSERT_OR_UPDATE),
        ])?;
        let receipt = self.load(Load { run_id: "run-5", ..Load::new("c_changes", mode, vec![rows]) }).await?;
        let counts = (receipt.rows.inserted, receipt.rows.updated, receipt.rows.deleted, receipt.rows.unchanged);
        ensure_eq(&counts, &(1, 2, 1, 2), "a patch without an effect, or without a row, changes nothing")?;
        let expected = text(&["2|B|20", "3|C|∅", "4|d|4", "6|f|6"]);
        ensure_eq(&self.rows("c_changes").await?, &expected, "a patch sets its columns, and no others")?;
        let again = batch_with_operation(&[
            ((2, Some("B"), Some(2)), INSERT_OR_UPDATE),
            ((3, None, Some(3)), INSERT_OR_UPDATE),
            ((5, Some("e"), None), INSERT_OR_UPDATE),
            ((6, None, None), DELETE),
        ])?;
        let back = WriteMode::Changes { key: vec!["id".to_owned()], operation: Operation::Column { patch: vec![] } };
        self.load(Load { run_id: "run-6", ..Load::new("c_changes", back, vec![again]) }).await?;
        Ok(())
    }

    async fn stamps_make_no_row_differ(&self) -> Result<()> {
        let changes = |patch: &[&str]| WriteMode::Changes {
            key: vec!["id".to_owned()],
            operation: Operation::Column { patch: patch.iter().map(|name| (*name).to_owned()).collect() },
        };
        let counts = |r: &Receipt| (r.rows.inserted, r.rows.updated, r.rows.unchanged);
        let first = [((1, Some("a"), None), INSERT_OR_UPDATE), ((2, Some("b"), Some(2)), INSERT_OR_UPDATE)];
        let third = [(3, None, Some(3)), (4, None, None)].map(|row| (row, INSERT_OR_UPDATE));
        let first = stamped(&[first, third].concat(), "first")?;
        self.load(Load::new("c_stamps", changes(&[]), vec![first])).await?;
        let second = stamped(
            &[
                ((1, Some("a"), None), INSERT_OR_UPDATE),
                ((2, Some("B"), Some(2)), INSERT_OR_UPDATE),
                ((3, None, Some(3)), PATCH),
                ((4, None, Some(4)), PATCH),
                ((5, None, None), INSERT_OR_UPDATE),
            ],
            "second",
        )?;
        let mode = changes(&["amount", LOAD_ID]);
        let receipt = self.load(Load { run_id: "run-2", ..Load::new("c_stamps", mode, vec![second]) }).await?;
        ensure_eq(&counts(&receipt), &(1, 2, 2), "a row in which only its load differs is unchanged")?;
        let rows = read_columns(self.sink.as_ref(), &self.table("c_stamps"), &["id", LOAD_ID]).await?;
        let expected = text(&["1|first", "2|second", "3|first", "4|second", "5|second"]);
        ensure_eq(&rows.unwrap_or_default(), &expected, "a row that is written has the load that wrote it")
    }

    async fn a_guard_stops_before_anything_changes(&self) -> Result<()> {
        let mode = WriteMode::Changes { key: vec!["id".to_owned()], operation: Operation::Column { patch: vec![] } };
        let rows = [((3, None, None), DELETE), ((4, None, None), DELETE), ((6, None, None), INSERT_OR_UPDATE)];
        let before = self.rows("c_changes").await?;
        let partitions = vec![batch_with_operation(&rows)?];
        let load = Load { run_id: "run-4", max_delete_rows: Some(1), ..Load::new("c_changes", mode, partitions) };
        let refused = self.load(load).await;
        ensure(refused.is_err_and(|e| e.kind() == ErrorKind::DataQuality), "max_delete_rows stops the run")?;
        ensure_eq(&self.rows("c_changes").await?, &before, "a guard stops before anything changes")
    }

    /// Whoever does not know what became of a commit asks again: by its load id it is found, before and after its staging
    /// area is gone.
    async fn a_load_is_committed_once(&self) -> Result<()> {
        let rows = || batch(&[(1, Some("a"), Some(1)), (2, Some("b"), None)]);
        let mode = || WriteMode::Changes { key: vec!["id".to_owned()], operation: Operation::Upsert };
        let changes = self.sink.capabilities().changes.then(|| ("c_once_by_key", mode()));
        for (table, mode) in [("c_once", WriteMode::Append)].into_iter().chain(changes) {
            self.load(Load::new(table, mode.clone(), vec![batch(&[(1, Some("old"), None), (7, None, None)])?])).await?;
            let load = Load { run_id: "run-2", ..Load::new(table, mode, vec![rows()?]) };
            let lease = self.lease(table, load.run_id, Duration::from_secs(60)).await?;
            let spec = self.spec(&load).await?;
            let staged = self.stage(&spec, &load).await?;
            let first = self.commit(&spec, &load, &staged, &lease).await?;
            let after = self.rows(table).await?;
            for what in ["its staging area is there", "its staging area is gone"] {
                let again = self.commit(&spec, &load, &staged, &lease).await;
                let again = again.map(|receipt| (receipt.load_id, receipt.rows, receipt.finished_at));
                let found = again.map_err(|error| Error::internal(format!("{what}: {error}")))?;
                let given = (first.load_id.clone(), first.rows.clone(), first.finished_at.clone());
                ensure_eq(&found, &given, "a commit that is repeated gives the first receipt")?;
                ensure_eq(&self.rows(table).await?, &after, "a load is committed once")?;
                self.sink.discard(&spec).await?;
            }
            self.store(table)?.release(&lease).await?;
        }
        Ok(())
    }

    async fn state_travels_with_the_data(&self) -> Result<()> {
        let load = |run_id, watermark| -> Result<Load<'_>> {
            let partitions = vec![batch(&[(1, None, None)])?];
            Ok(Load { run_id, watermark, ..Load::new("c_state", WriteMode::Append, partitions) })
        };
        let first = self.load(load("run-1", Some(1))?).await?;
        let second = self.load(load("run-2", Some(2))?).await?;
        let store = self.store("c_state")?;
        let state = store.get(PIPELINE).await?;
        let found = state.as_ref().map(|s| (s.load_id.clone(), s.watermark.as_ref().map(|w| w.value.clone())));
        ensure_eq(&found, &Some((second.load_id.clone(), Some("2".to_owned()))), "the newest state is kept")?;
        let stored = store.receipt(PIPELINE, "run-1").await?.map(|r| (r.load_id, r.rows.inserted));
        ensure_eq(&stored, &Some((first.load_id, 1)), "every run's receipt is kept")?;
        ensure(store.list().await?.iter().any(|s| s.pipeline == PIPELINE), "list shows the pipeline's state")?;
        ensure(store.reset(PIPELINE).await?.had_state, "reset says that there was a state")?;
        let after = store.get(PIPELINE).await?.and_then(|s| s.watermark);
        ensure(after.is_none(), "reset forgets the watermark")?;
        ensure(store.receipt(PIPELINE, "run-2").await?.is_some(), "reset keeps the receipts")
    }

    async fn a_lease_excludes_and_fences(&self) -> Result<()> {
        let minute = Duration::from_secs(60);
        let store = self.store("c_lease")?;
        let first = self.lease("c_lease", "run-1", minute).await?;
        let second = self.lease("c_lease", "run-2", minute).await;
        let named = second.as_ref().is_err_and(|e| e.kind() == ErrorKind::Conflict && e.to_string().contains("run-1"));
        ensure(named, "a second run is refused, and told who holds the lease")?;
        store.renew(&first).await?;
        store.release(&first).await?;
        let short = self.lease("c_lease", "run-3", Duration::from_millis(200)).await?;
        ensure(short.token > first.token, "fencing tokens grow")?;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let taken = self.lease("c_lease", "run-4", minute).await?;
        ensure(taken.token > short.token, "a lease past its end is taken over with a greater token")?;
        ensure(
            store.renew(&short).await.is_err_and(|e| e.kind() == ErrorKind::Conflict),
            "a lost lease is not renewed",
        )?;
        let late = Load::new("c_lease", WriteMode::Append, vec![batch(&[(1, None, None)])?]);
        let spec = self.spec(&late).await?;
        let staged = self.stage(&spec, &late).await?;
        let refused = self.commit(&spec, &late, &staged, &short).await;
        ensure(refused.is_err_and(|e| e.kind() == ErrorKind::Conflict), "a run that lost its lease cannot commit")?;
        self.sink.discard(&spec).await?;
        store.release(&short).await?;
        let again = self.lease("c_lease", "run-5", minute).await;
        ensure(again.is_err(), "releasing a lost lease leaves the new holder's alone")?;
        store.release(&taken).await
    }
}

fn text(rows: &[&str]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(|r| (*r).to_owned()).collect();
    rows.sort();
    rows
}

fn stream(spec: &LoadSpec, batch: &RecordBatch) -> SendableRecordBatchStream {
    let batches = futures::stream::iter(vec![Ok(batch.clone())]);
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&spec.staged_schema), batches))
}

fn receipt(spec: &LoadSpec, staged: &[StagedPartition]) -> Receipt {
    let rows: u64 = staged.iter().map(|s| s.rows).sum();
    Receipt {
        pipeline: spec.pipeline.clone(),
        strategy: "conformance".to_owned(),
        write_mode: spec.write_mode.name().to_owned(),
        source: "conformance".to_owned(),
        target: spec.target.to_string(),
        run_id: spec.run_id.clone(),
        load_id: spec.load_id.clone(),
        status: RunStatus::Committed,
        rows: RowCounts { extracted: rows, staged: rows, ..RowCounts::default() },
        bytes: 0,
        partitions: staged.len(),
        seconds: 0.0,
        watermark_before: None,
        watermark_after: None,
        source_position: String::new(),
        target_version: None,
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        finished_at: "2026-01-01T00:00:00Z".to_owned(),
        schema_changes: Vec::new(),
        notes: Vec::new(),
    }
}
