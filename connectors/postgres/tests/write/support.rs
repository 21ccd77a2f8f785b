//! What the tests of the sink share: a server, a schema of each test's own, and a load from its steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dpone_engine::receipt::RunStatus;
use dpone_engine::state::LeaseRequest;
use dpone_engine::{
    Commit, Connector, Lease, LoadSpec, Receipt, Relation, ResolvedConnection, Result, RowCounts, Secret, Sink,
    StagedPartition, StateLocation, StateStore,
};
use dpone_planner::definition::OverwriteType;
use dpone_planner::plan::WriteMode;
use dpone_planner::state::PipelineState;
use dpone_postgres::PostgresConnector;

pub const EXCHANGE: WriteMode = WriteMode::Overwrite { overwrite: OverwriteType::Exchange };
pub const TRUNCATE: WriteMode = WriteMode::Overwrite { overwrite: OverwriteType::TruncateInsert };

pub fn url() -> String {
    std::env::var("DPONE_TEST_POSTGRES_URL")
        .expect("DPONE_TEST_POSTGRES_URL is not set: give the URL of a PostgreSQL server whose database may be changed")
}

pub fn sink_at(url: &str) -> Arc<dyn Sink> {
    let connection = ResolvedConnection {
        name: "test".into(),
        kind: "postgres".into(),
        options: BTreeMap::from([("url".to_owned(), Secret::new(url))]),
        base_dir: ".".into(),
    };
    PostgresConnector.sink(&connection).unwrap()
}

pub async fn connect() -> tokio_postgres::Client {
    connect_to(&url()).await
}

pub async fn connect_to(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A schema of its own, empty.
pub struct Place {
    pub schema: String,
    pub client: tokio_postgres::Client,
    pub sink: Arc<dyn Sink>,
}

impl Place {
    pub async fn new(schema: &str) -> Self {
        Self::at(&url(), schema).await
    }

    pub async fn at(url: &str, schema: &str) -> Self {
        let client = connect_to(url).await;
        let quoted = schema.replace('"', "\"\"");
        client
            .batch_execute(&format!("DROP SCHEMA IF EXISTS \"{quoted}\" CASCADE; CREATE SCHEMA \"{quoted}\""))
            .await
            .unwrap();
        Self { schema: schema.to_owned(), client, sink: sink_at(url) }
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(&sql.replace("$S", &self.schema)).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// All rows of a query, each as text, joined.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        let sql = sql.replace("$S", &self.schema);
        let answer = self.client.simple_query(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        answer
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).unwrap_or("NULL")).collect::<Vec<_>>().join("|"))
                }
                _ => None,
            })
            .collect()
    }

    pub fn load(&self, table: &str, mode: WriteMode, schema: &SchemaRef) -> Load {
        Load {
            sink: Arc::clone(&self.sink),
            spec: LoadSpec {
                load_id: next_id("01LOAD"),
                run_id: next_id("run"),
                pipeline: table.to_owned(),
                target: Relation::new(&self.schema, table),
                staging_schema: None,
                staged_schema: Arc::clone(schema),
                write_mode: mode,
                target_exists: false,
                partitions: 1,
                primary_key: Vec::new(),
                cursor: None,
                partition_by: Vec::new(),
                options: BTreeMap::new(),
            },
            max_delete_rows: None,
            max_delete_ratio: None,
        }
    }
}

fn next_id(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{prefix}{nanos}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One load, step by step.
pub struct Load {
    pub sink: Arc<dyn Sink>,
    pub spec: LoadSpec,
    pub max_delete_rows: Option<u64>,
    pub max_delete_ratio: Option<f64>,
}

impl Load {
    pub fn key(mut self, key: &[&str]) -> Self {
        self.spec.primary_key = key.iter().map(|k| (*k).to_owned()).collect();
        self
    }

    pub fn store(&self) -> Arc<dyn StateStore> {
        self.sink.state(&self.spec.target, &StateLocation::default()).unwrap()
    }

    pub async fn lease(&self, ttl: Duration) -> Result<Lease> {
        let request = LeaseRequest {
            pipeline: self.spec.pipeline.clone(),
            run_id: self.spec.run_id.clone(),
            holder: "the test".into(),
            ttl,
        };
        self.store().acquire(&request).await
    }

    /// Describes, prepares and stages, a batch list for each partition.
    pub async fn stage(&mut self, partitions: &[Vec<RecordBatch>]) -> Result<Vec<StagedPartition>> {
        self.spec.target_exists = self.sink.describe(&self.spec.target).await?.is_some();
        self.spec.partitions = partitions.len();
        self.sink.prepare(&self.spec).await?;
        let staged = partitions
            .iter()
            .enumerate()
            .map(|(i, batches)| self.sink.stage(&self.spec, i, stream(&self.spec.staged_schema, batches)));
        futures::future::try_join_all(staged).await
    }

    pub async fn commit(&self, staged: &[StagedPartition], lease: &Lease) -> Result<Receipt> {
        let receipt = Receipt {
            pipeline: self.spec.pipeline.clone(),
            strategy: "test".into(),
            write_mode: self.spec.write_mode.name().into(),
            source: "test".into(),
            target: self.spec.target.to_string(),
            run_id: self.spec.run_id.clone(),
            load_id: self.spec.load_id.clone(),
            status: RunStatus::Committed,
            rows: RowCounts::default(),
            bytes: 0,
            partitions: staged.len(),
            seconds: 0.0,
            watermark_before: None,
            watermark_after: None,
            source_position: String::new(),
            target_version: None,
            started_at: "2026-01-01T00:00:00Z".into(),
            finished_at: String::new(),
            schema_changes: Vec::new(),
            notes: Vec::new(),
        };
        let state = PipelineState {
            version: PipelineState::VERSION,
            pipeline: self.spec.pipeline.clone(),
            digest: "digest".into(),
            watermark: None,
            boundary: None,
            changes: None,
            hashes: None,
            chunk: None,
            columns: Vec::new(),
            late_columns: Vec::new(),
            load_id: self.spec.load_id.clone(),
            run_id: self.spec.run_id.clone(),
            committed_at: "2026-01-01T00:00:00Z".into(),
        };
        let commit = Commit {
            load: &self.spec,
            staged,
            state: &state,
            state_location: &StateLocation::default(),
            lease,
            ddl: &[],
            max_delete_rows: self.max_delete_rows,
            max_delete_ratio: self.max_delete_ratio,
            receipt: &receipt,
        };
        self.sink.commit(&commit).await
    }

    /// The whole load.
    pub async fn run(mut self, partitions: &[Vec<RecordBatch>]) -> Result<Receipt> {
        let lease = self.lease(Duration::from_secs(60)).await?;
        let result = async {
            let staged = self.stage(partitions).await?;
            self.commit(&staged, &lease).await
        }
        .await;
        self.sink.discard(&self.spec).await.unwrap();
        self.store().release(&lease).await.unwrap();
        result
    }
}

pub fn stream(schema: &SchemaRef, batches: &[RecordBatch]) -> SendableRecordBatchStream {
    let batches: Vec<_> = batches.iter().cloned().map(Ok).collect();
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), futures::stream::iter(batches)))
}

/// `id integer, name text, amount bigint`
pub fn people() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ]))
}

pub fn people_rows(rows: &[(i32, &str, i64)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2))),
    ];
    RecordBatch::try_new(people(), columns).unwrap()
}
