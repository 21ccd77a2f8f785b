//! A warehouse in a temporary folder, loads into it, and readers that are not ours.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use dpone_delta::{DeltaConnector, DeltaDialect};
use dpone_engine::receipt::{RowCounts, RunStatus};
use dpone_engine::source::ReadTarget;
use dpone_engine::{
    Commit, Connector, Lease, LeaseRequest, LoadSpec, ReadRequest, Receipt, Relation, ResolvedConnection, Result,
    Secret, Sink, Source, SourceTable, StagedPartition, StateLocation, StateStore,
};
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::{OPERATION_COLUMN, WriteMode};
use dpone_planner::schema::SchemaChange;
use dpone_planner::state::PipelineState;

pub struct Lake {
    pub folder: tempfile::TempDir,
    pub sink: Arc<dyn Sink>,
    pub source: Arc<dyn Source>,
}

/// What a load does differently from a plain append.
#[derive(Clone)]
pub struct Load {
    pub pipeline: String,
    pub run_id: String,
    pub mode: WriteMode,
    pub partition_by: Vec<String>,
    pub primary_key: Vec<String>,
    pub max_delete_rows: Option<u64>,
    pub max_delete_ratio: Option<f64>,
}

impl Load {
    pub fn new(mode: WriteMode) -> Self {
        Self {
            pipeline: "orders".into(),
            run_id: unique(),
            mode,
            partition_by: vec![],
            primary_key: vec![],
            max_delete_rows: None,
            max_delete_ratio: None,
        }
    }
}

/// A name that sorts by time, as load ids do.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("01TEST{:020}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn orders() -> Relation {
    Relation::new("landing", "orders")
}

pub fn connection(folder: &std::path::Path, options: &[(&str, &str)]) -> ResolvedConnection {
    ResolvedConnection {
        name: "lake".into(),
        kind: "delta".into(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect(),
        base_dir: folder.to_owned(),
    }
}

impl Lake {
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(options: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = [&[("path", "ware house")], options].concat();
        let connection = connection(folder.path(), &options);
        Self {
            sink: DeltaConnector.sink(&connection).unwrap(),
            source: DeltaConnector.source(&connection).unwrap(),
            folder,
        }
    }

    pub fn table_folder(&self, table: &Relation) -> std::path::PathBuf {
        self.folder.path().join("ware house").join(&table.schema).join(&table.name)
    }

    pub fn state(&self, table: &Relation) -> Arc<dyn StateStore> {
        self.sink.state(table, &StateLocation::default()).unwrap()
    }

    pub async fn lease(&self, table: &Relation, pipeline: &str, run_id: &str) -> Result<Lease> {
        self.lease_for(table, pipeline, run_id, Duration::from_secs(60)).await
    }

    pub async fn lease_for(&self, table: &Relation, pipeline: &str, run_id: &str, ttl: Duration) -> Result<Lease> {
        let request = LeaseRequest { pipeline: pipeline.into(), run_id: run_id.into(), holder: "a test".into(), ttl };
        self.state(table).acquire(&request).await
    }

    /// The load spec and the changes of schema that the planner would give.
    pub async fn plan(&self, table: &Relation, load: &Load, schema: &Schema) -> (LoadSpec, Vec<SchemaChange>) {
        let exists = self.sink.describe(table).await.unwrap().is_some();
        let kept: Vec<_> = schema.fields().iter().filter(|f| f.name() != OPERATION_COLUMN).cloned().collect();
        let create = SchemaChange::CreateTable {
            schema: Arc::new(Schema::new(kept)),
            primary_key: load.primary_key.clone(),
            partition_by: load.partition_by.clone(),
        };
        let spec = LoadSpec {
            load_id: unique(),
            run_id: load.run_id.clone(),
            pipeline: load.pipeline.clone(),
            target: table.clone(),
            staging_schema: None,
            staged_schema: Arc::new(schema.clone()),
            write_mode: load.mode.clone(),
            target_exists: exists,
            partitions: 1,
            primary_key: load.primary_key.clone(),
            cursor: None,
            partition_by: load.partition_by.clone(),
            options: BTreeMap::new(),
        };
        (spec, if exists { vec![] } else { vec![create] })
    }

    pub async fn stage(&self, spec: &LoadSpec, batches: &[RecordBatch]) -> Result<Vec<StagedPartition>> {
        self.sink.prepare(spec).await?;
        let mut staged = Vec::new();
        for (partition, batch) in batches.iter().enumerate() {
            staged.push(self.sink.stage(spec, partition, stream(vec![batch.clone()])).await?);
        }
        Ok(staged)
    }

    pub async fn commit(
        &self,
        spec: &LoadSpec,
        ddl: &[SchemaChange],
        staged: &[StagedPartition],
        lease: &Lease,
        load: &Load,
    ) -> Result<Receipt> {
        let commit = Commit {
            load: spec,
            staged,
            state: &state(spec),
            state_location: &StateLocation::default(),
            lease,
            ddl,
            max_delete_rows: load.max_delete_rows,
            max_delete_ratio: load.max_delete_ratio,
            receipt: &draft(spec, staged),
        };
        self.sink.commit(&commit).await
    }

    /// A whole load: one partition a batch.
    pub async fn load(&self, table: &Relation, load: &Load, batches: &[RecordBatch]) -> Result<Receipt> {
        let lease = self.lease(table, &load.pipeline, &load.run_id).await?;
        let (spec, ddl) = self.plan(table, load, &batches[0].schema()).await;
        let result = match self.stage(&spec, batches).await {
            Ok(staged) => self.commit(&spec, &ddl, &staged, &lease, load).await,
            Err(error) => Err(error),
        };
        self.sink.discard(&spec).await.unwrap();
        self.state(table).release(&lease).await.unwrap();
        result
    }

    pub async fn open(&self, table: &Relation) -> Result<SourceTable> {
        let snapshot = self.source.snapshot().await?;
        let request = ReadRequest {
            target: ReadTarget::Table(table.clone()),
            parallelism: 2,
            batch_rows: 8192,
            ..Default::default()
        };
        snapshot.table(&request).await
    }

    /// Runs SQL over the table `t`, as our source reads it.
    pub async fn query(&self, table: &Relation, sql: &str) -> String {
        let batches = self.batches(table, sql).await;
        arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string()
    }

    pub async fn batches(&self, table: &Relation, sql: &str) -> Vec<RecordBatch> {
        let context = SessionContext::new();
        context.register_table("t", self.open(table).await.unwrap().provider).unwrap();
        context.sql(sql).await.unwrap().collect().await.unwrap()
    }

    /// One value, as text.
    pub async fn value(&self, table: &Relation, sql: &str) -> String {
        let batches = self.batches(table, sql).await;
        arrow::util::display::array_value_to_string(batches[0].column(0), 0).unwrap()
    }

    /// The lines of one log entry.
    pub fn log(&self, table: &Relation, version: u64) -> Vec<serde_json::Value> {
        let path = self.table_folder(table).join(format!("_delta_log/{version:020}.json"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Data files in the table's folder, named by the log or not.
    pub fn parquet_files(&self, table: &Relation) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.table_folder(table)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.map(|e| e.unwrap().path()) {
                match entry.extension() {
                    _ if entry.is_dir() && !entry.ends_with("_delta_log") => folders.push(entry),
                    Some(extension) if extension == "parquet" => found.push(entry.display().to_string()),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }

    /// Reads the table with the Python package `deltalake` and with DuckDB, and gives what `sql` over `t` gives there.
    pub fn independent(&self, table: &Relation, sql: &str) -> (String, String) {
        let script = r#"
import glob, os, sys, duckdb, duckdb_extension_delta
from deltalake import DeltaTable
path, sql = sys.argv[1], sys.argv[2]
def show(rows):
    return "\n".join("|".join("NULL" if v is None else str(v) for v in row) for row in rows)
connection = duckdb.connect()
connection.execute("SET TimeZone='UTC'")
# The extension comes in the Python package: nothing is downloaded while testing.
root = os.path.dirname(duckdb_extension_delta.__file__)
connection.execute(f"LOAD '{glob.glob(root + '/**/*.duckdb_extension', recursive=True)[0]}'")
t = DeltaTable(path).to_pyarrow_table()
print(show(connection.execute(sql).fetchall()))
print("---")
print(show(connection.execute(sql.replace(" t ", f" delta_scan('{path}') t ")).fetchall()))
"#;
        let text = python(script, &[&self.table_folder(table).display().to_string(), sql]);
        let (rust, kernel) = text.split_once("---").unwrap();
        (rust.trim().to_owned(), kernel.trim().to_owned())
    }
}

/// Runs a script with the Python that has the independent readers.
pub fn python(script: &str, arguments: &[&str]) -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    let program = std::env::var("DPONE_TEST_PYTHON").unwrap_or_else(|_| format!("{home}/.cache/dpone/venv/bin/python"));
    assert!(
        std::path::Path::new(&program).exists(),
        "the tests read Delta tables with Python packages that are not at {program}: run scripts/setup-tests, or set \
         DPONE_TEST_PYTHON to a Python with deltalake, duckdb, duckdb-extension-delta and pyarrow"
    );
    let output = Command::new(program).arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn stream(batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let schema = batches[0].schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches.into_iter().map(Ok))))
}

pub fn state(spec: &LoadSpec) -> PipelineState {
    PipelineState {
        version: PipelineState::VERSION,
        pipeline: spec.pipeline.clone(),
        digest: "d".into(),
        watermark: None,
        boundary: None,
        changes: None,
        hashes: None,
        chunk: None,
        columns: Vec::new(),
        late_columns: Vec::new(),
        load_id: spec.load_id.clone(),
        run_id: spec.run_id.clone(),
        committed_at: "2026-01-01T00:00:00Z".into(),
    }
}

pub fn draft(spec: &LoadSpec, staged: &[StagedPartition]) -> Receipt {
    let rows = staged.iter().map(|s| s.rows).sum();
    Receipt {
        pipeline: spec.pipeline.clone(),
        strategy: "test".into(),
        write_mode: spec.write_mode.name().into(),
        source: "memory".into(),
        target: spec.target.to_string(),
        run_id: spec.run_id.clone(),
        load_id: spec.load_id.clone(),
        status: RunStatus::Committed,
        rows: RowCounts { extracted: rows, staged: rows, ..RowCounts::default() },
        bytes: staged.iter().map(|s| s.bytes).sum(),
        partitions: staged.len(),
        seconds: 0.0,
        watermark_before: None,
        watermark_after: None,
        source_position: String::new(),
        target_version: None,
        started_at: String::new(),
        finished_at: String::new(),
        schema_changes: Vec::new(),
        notes: vec![],
    }
}

/// The schema in which rows of `schema` are staged.
pub fn stored(schema: &Schema) -> SchemaRef {
    DeltaDialect.stored_schema(schema).unwrap()
}
