//! From a definition to a campaign: its key, its chunks as pipelines, and the store of its manifest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dpone_planner::chunk::{Chunk, LoadedChunk, split};
use dpone_planner::definition::{Backfill, ChunkLoad, Ledger, Pipeline, SourceQuery, StateSpec, Strategy};
use sha2::{Digest, Sha256};

use super::json::JsonManifestStore;
use super::manifest::{CampaignStatus, Partition, PartitionManifest, PartitionStatus};
use super::store::ManifestStore;
use crate::run::RunContext;
use crate::{Error, Result};

/// The folder of the manifests, where the definition names none.
const DEFAULT_DIR: &str = ".dpone/backfill";
const DIR_VARIABLE: &str = "DPONE_BACKFILL_STATE_DIR";

/// A backfill of one definition.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Digest of everything that decides which rows come where: a finished campaign is never taken for another's.
    pub key: String,
    /// Digest of the place that is read and the table that is written alone.
    pub origin: String,
    pub pipeline: Pipeline,
    pub backfill: Backfill,
    pub chunks: Vec<Chunk>,
    pub store: Arc<dyn ManifestStore>,
    /// The sink does not take several loads of one table at once.
    pub(super) one_at_a_time: bool,
    /// Partitions in which a chunk is read, where the user says a number.
    parallelism: Option<usize>,
    /// For people.
    pub source: String,
    pub target: String,
}

impl Campaign {
    /// `id` wins over the definition's `backfill_id`.
    pub fn new(context: &RunContext, pipeline: &Pipeline, id: Option<&str>) -> Result<Self> {
        let Strategy::Backfill(backfill) = &pipeline.strategy else {
            return Err(Error::configuration(format!(
                "the pipeline {:?} is no backfill: its strategy is {}",
                pipeline.name,
                pipeline.strategy.name()
            ))
            .with_hint("a backfill has the strategy backfill: STRATEGY backfill, or mode: backfill")
            .at(pipeline.location.clone()));
        };
        let mut backfill = backfill.as_ref().clone();
        if let Some(id) = id {
            backfill.id = Some(id.to_owned());
        }
        let chunks = split(&backfill.chunks)?;
        let one_at_a_time = !context.connections.sink(&pipeline.sink.connection)?.concurrent_loads();
        if one_at_a_time && backfill.workers > 1 {
            backfill.notes.push(format!(
                "the target takes one load at a time: 1 worker in place of {}",
                std::mem::replace(&mut backfill.workers, 1)
            ));
        }
        let source = source_name(pipeline);
        let target = format!("{}.{}", pipeline.sink.connection, pipeline.sink.relation);
        let origin = origin(context, pipeline)?;
        let key = key(pipeline, &origin, &backfill, &chunks);
        let store = store(context, pipeline, &backfill.ledger)?;
        let parallelism = pipeline.tuning.parallelism.or(context.options.parallelism);
        let pipeline = pipeline.clone();
        Ok(Self { key, origin, pipeline, backfill, chunks, store, one_at_a_time, parallelism, source, target })
    }

    /// Enough of the key to tell campaigns apart.
    pub fn short(&self) -> &str {
        self.key.get(..12).unwrap_or(&self.key)
    }

    /// The chunk as a pipeline. It has a name of its own, and with it a lease, a state and receipts of its own: chunks
    /// run beside each other and beside other runs of the pipeline.
    ///
    /// It is read as one partition unless the user says otherwise: a source that is asked for parts of its storage reads
    /// all of it for every chunk, where an index on the chunk column would do.
    pub fn chunk_pipeline(&self, chunk: &Chunk) -> Pipeline {
        let mut tuning = self.pipeline.tuning.clone();
        tuning.parallelism = self.parallelism.or((!chunk.is_everything()).then_some(1));
        Pipeline {
            tuning,
            name: format!("{}.backfill.{}.{}", self.pipeline.name, self.short(), chunk.id),
            strategy: Strategy::Chunk(Box::new(ChunkLoad {
                column: self.backfill.chunks.column.clone(),
                chunk: chunk.clone(),
                zone: self.backfill.chunks.zone.clone(),
                inner: self.backfill.inner.clone(),
                loaded: self.loaded(chunk),
            })),
            ..self.pipeline.clone()
        }
    }

    /// The chunk as the target remembers it.
    pub fn loaded(&self, chunk: &Chunk) -> LoadedChunk {
        let spec = &self.backfill.chunks;
        LoadedChunk::new(chunk, &spec.column, &spec.zone, &self.origin, self.backfill.id.as_deref())
    }

    /// The same for every attempt, by whichever worker: the target's ledger loads it once.
    pub fn run_id(&self, chunk: &Chunk) -> String {
        format!("backfill-{}-{}", self.key, chunk.id)
    }

    pub fn chunk(&self, id: &str) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.id == id)
    }

    /// The manifest before anything is loaded.
    pub fn fresh_manifest(&self) -> PartitionManifest {
        let spec = &self.backfill.chunks;
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        PartitionManifest {
            version: PartitionManifest::VERSION,
            campaign: self.key.clone(),
            origin: self.origin.clone(),
            pipeline: self.pipeline.name.clone(),
            backfill_id: self.backfill.id.clone(),
            status: CampaignStatus::Open,
            source: self.source.clone(),
            target: self.target.clone(),
            inner_mode: self.backfill.inner.mode().to_owned(),
            column: spec.column.clone(),
            kind: spec.range.kind().to_owned(),
            step: spec.range.step(),
            timezone: spec.zone.name().to_owned(),
            created_at: now.clone(),
            updated_at: now,
            partitions: self.chunks.iter().map(|chunk| self.partition(chunk)).collect(),
        }
    }

    fn partition(&self, chunk: &Chunk) -> Partition {
        let zone = &self.backfill.chunks.zone;
        Partition {
            id: chunk.id.clone(),
            lower: chunk.lower.map(|bound| bound.text(zone)),
            upper: chunk.upper.map(|bound| bound.text(zone)),
            inclusive_upper: chunk.inclusive_upper,
            null_values: chunk.null,
            status: PartitionStatus::Pending,
            extracted_rows: None,
            loaded_rows: None,
            artifact_path: None,
            checksum: None,
            attempts: 0,
            last_error: None,
            last_error_kind: None,
            run_id: self.run_id(chunk),
            load_id: None,
            lease: None,
            started_at: None,
            finished_at: None,
            seconds: None,
            token: 0,
        }
    }
}

fn source_name(pipeline: &Pipeline) -> String {
    match &pipeline.source.query {
        SourceQuery::Table { connection, relation } => format!("{connection}.{relation}"),
        SourceQuery::Native { connection, .. } => format!("{connection} (native query)"),
        SourceQuery::Sql { .. } => "a query".to_owned(),
    }
}

/// Digests texts, each with its length, so that no two lists of them look alike.
struct Digester(Sha256);

impl Digester {
    fn new(what: &str) -> Self {
        let mut digester = Self(Sha256::new());
        digester.part(what);
        digester
    }

    fn part(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    fn finish(self) -> String {
        dpone_planner::state::hex(&self.0.finalize()[..16])
    }
}

/// Which place is read, and which table is written.
fn origin(context: &RunContext, pipeline: &Pipeline) -> Result<String> {
    let connections = &context.connections;
    let mut digest = Digester::new("origin v1");
    match &pipeline.source.query {
        SourceQuery::Table { connection, relation } => {
            digest.part(&connections.identity(connection)?);
            digest.part(&relation.to_string());
        }
        SourceQuery::Native { connection, sql } => {
            digest.part(&connections.identity(connection)?);
            digest.part(sql);
        }
        SourceQuery::Sql { sql } => {
            digest.part(sql);
            // Each connection that the query may name.
            for name in connections.names().filter(|name| sql.contains(*name)) {
                digest.part(name);
                digest.part(&connections.identity(name)?);
            }
        }
    }
    digest.part(&connections.sink_identity(&pipeline.sink.connection)?);
    digest.part(&pipeline.sink.relation.to_string());
    Ok(digest.finish())
}

/// Source identity, query, sink identity, strategy, chunk plan, engine major, and the id that the user gave.
fn key(pipeline: &Pipeline, origin: &str, backfill: &Backfill, chunks: &[Chunk]) -> String {
    let mut digest = Digester::new("backfill v1");
    digest.part(env!("CARGO_PKG_VERSION_MAJOR"));
    digest.part(&pipeline.name);
    digest.part(origin);
    let read = &pipeline.source.read;
    digest.part(&format!("{:?} {:?} {:?} {:?}", read.columns, read.exclude_columns, read.predicate, read.types));
    digest.part(&format!("{:?}", backfill.inner));
    digest.part(&backfill.chunks.column);
    digest.part(backfill.chunks.range.kind());
    digest.part(backfill.chunks.zone.name());
    for chunk in chunks {
        digest.part(&chunk.id);
        digest.part(&chunk.label(&backfill.chunks.zone));
    }
    digest.part(backfill.id.as_deref().unwrap_or_default());
    digest.finish()
}

fn store(context: &RunContext, pipeline: &Pipeline, ledger: &Ledger) -> Result<Arc<dyn ManifestStore>> {
    match ledger {
        Ledger::LocalFile { dir } => Ok(Arc::new(JsonManifestStore::new(folder(pipeline, dir.as_deref())))),
        Ledger::AuditSchema { schema } => {
            let target = &pipeline.sink.relation;
            let schema = schema.as_deref();
            let sink = context.connections.sink(&pipeline.sink.connection)?;
            if let Some(store) = sink.manifests(target, schema)? {
                return Ok(store);
            }
            // The place that the definition names for state, where the target's system has no rows to lock.
            if let StateSpec::Elsewhere { connection, .. } = &pipeline.state
                && let Some(store) = context.connections.sink(connection)?.manifests(target, schema)?
            {
                return Ok(store);
            }
            Err(Error::configuration(format!(
                "the state of the backfill cannot be kept in the sink {}: workers claim rows of a database",
                sink.dialect().system()
            ))
            .with_hint(
                "use backend local_file for one machine, or name a postgres connection for the state: state: {type: \
                 postgres, …}, or 'state_connection' in SQL",
            )
            .with("pipeline", &pipeline.name)
            .at(pipeline.location.clone()))
        }
    }
}

/// A folder of the definition lies beside the definition, so that it is the same from every working directory.
fn folder(pipeline: &Pipeline, dir: Option<&str>) -> PathBuf {
    let beside = pipeline.location.file.parent().unwrap_or(Path::new(""));
    match (dir, std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty())) {
        (Some(dir), _) => beside.join(dir),
        (None, Some(dir)) => PathBuf::from(dir),
        (None, None) => beside.join(DEFAULT_DIR),
    }
}
