//! Tables in this process: the reference implementation of a source and a sink, for tests. Clear before fast.

mod changes;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::DFSchema;
use datafusion::datasource::MemTable;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use dpone_engine::source::ReadTarget;
use dpone_engine::{
    Capabilities, Commit, Connector, Error, LoadSpec, ReadRequest, Receipt, Relation, RelationInfo, ResolvedConnection,
    Result, Scan, ServerInfo, Sink, Snapshot, Source, SourceTable, StagedPartition, StateLocation, StateStore,
    TargetTable, failpoint,
};
use dpone_planner::definition::nearest;
use dpone_planner::dialect::Dialect;
use dpone_planner::expr::predicate;
use dpone_planner::plan::{OPERATION_COLUMN, ScopeFilter, WriteMode};
use dpone_planner::schema::SchemaChange;
use dpone_planner::types::{is_raw, logical_name};
use futures::TryStreamExt;

use changes::{Applied, apply_changes, duplicate_keys, without_partitions};
use state::{MemoryState, Pipelines};

/// One table: all its rows in one batch.
#[derive(Debug, Clone)]
struct Table {
    rows: RecordBatch,
    primary_key: Vec<String>,
    version: u64,
}

/// Everything that one connection holds, behind one lock: what changes in one critical section changes in one step.
#[derive(Debug, Default)]
struct Contents {
    tables: BTreeMap<Relation, Table>,
    /// By load id and partition.
    staging: BTreeMap<(String, usize), RecordBatch>,
    /// By target.
    pipelines: BTreeMap<Relation, Pipelines>,
}

/// One system in memory, as a source and as a sink. Clones share their tables.
#[derive(Debug, Clone, Default)]
pub struct MemorySystem {
    contents: Arc<Mutex<Contents>>,
}

impl MemorySystem {
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a table, or replaces its rows.
    pub fn put(&self, relation: &Relation, batches: &[RecordBatch]) -> Result<()> {
        let schema = batches.first().map(RecordBatch::schema).unwrap_or_else(|| Arc::new(Schema::empty()));
        let rows = concat_batches(&schema, batches)?;
        let mut contents = self.lock();
        let version = contents.tables.get(relation).map_or(0, |t| t.version) + 1;
        contents.tables.insert(relation.clone(), Table { rows, primary_key: Vec::new(), version });
        Ok(())
    }

    /// The rows of a table, if there is one.
    pub fn rows(&self, relation: &Relation) -> Option<RecordBatch> {
        self.lock().tables.get(relation).map(|t| t.rows.clone())
    }

    pub fn drop_table(&self, relation: &Relation) {
        self.lock().tables.remove(relation);
    }

    /// A poisoned lock only says that another thread panicked: the contents are replaced as wholes.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections of the type `memory`. Connections of one name share their tables.
#[derive(Debug, Default)]
pub struct MemoryConnector {
    systems: Mutex<BTreeMap<String, MemorySystem>>,
}

impl MemoryConnector {
    pub fn new() -> Self {
        Self::default()
    }

    /// The system behind a connection's name, made on first use.
    pub fn system(&self, connection: &str) -> MemorySystem {
        let mut systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
        systems.entry(connection.to_owned()).or_default().clone()
    }
}

impl Connector for MemoryConnector {
    fn kinds(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(self.system(&connection.name)))
    }

    fn sink(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(self.system(&connection.name)))
    }
}

#[async_trait]
impl Source for MemorySystem {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(MemorySnapshot { tables: self.lock().tables.clone() }))
    }

    fn scan(&self, _: &serde_json::Value) -> Result<Arc<dyn Scan>> {
        Err(Error::configuration("tables in memory are read in their own process only"))
    }

    async fn relations(&self) -> Result<Vec<RelationInfo>> {
        let contents = self.lock();
        let infos = contents.tables.iter().map(|(relation, table)| RelationInfo {
            relation: relation.clone(),
            kind: "table".to_owned(),
            rows: Some(table.rows.num_rows() as u64),
            bytes: Some(table.rows.get_array_memory_size() as u64),
        });
        Ok(infos.collect())
    }

    async fn test(&self) -> Result<ServerInfo> {
        Ok(ServerInfo {
            system: "memory".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            details: BTreeMap::new(),
        })
    }
}

/// A copy of all tables: batches are shared, not copied.
#[derive(Debug)]
struct MemorySnapshot {
    tables: BTreeMap<Relation, Table>,
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    async fn table(&self, request: &ReadRequest) -> Result<SourceTable> {
        let ReadTarget::Table(relation) = &request.target else {
            return Err(Error::configuration("tables in memory have no query language of their own"));
        };
        let table = self.tables.get(relation).ok_or_else(|| {
            let names: Vec<_> = self.tables.keys().map(ToString::to_string).collect();
            let error = Error::configuration(format!("there is no table {relation} in memory"));
            match nearest(&relation.to_string(), names.iter().map(String::as_str)) {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error.with_hint(format!("there are {}", names.join(", "))),
            }
        })?;
        Ok(SourceTable {
            provider: provider(&table.rows, request.parallelism)?,
            key: table.primary_key.clone(),
            rows: Some(table.rows.num_rows() as u64),
            bytes: Some(table.rows.get_array_memory_size() as u64),
            notes: Vec::new(),
            changes: None,
        })
    }

    fn position(&self) -> String {
        let versions: Vec<_> = self.tables.iter().map(|(name, table)| format!("{name}@{}", table.version)).collect();
        versions.join(", ")
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// The rows in at most `parallelism` partitions.
fn provider(rows: &RecordBatch, parallelism: usize) -> Result<Arc<dyn TableProvider>> {
    let count = rows.num_rows();
    let part = count.div_ceil(parallelism.max(1)).max(1);
    let slices = (0..count.max(1)).step_by(part).map(|at| vec![rows.slice(at, part.min(count - at))]);
    Ok(Arc::new(MemTable::try_new(rows.schema(), slices.collect())?))
}

/// Stores every Arrow type as it is.
#[derive(Debug)]
struct MemoryDialect;

impl Dialect for MemoryDialect {
    fn system(&self) -> &'static str {
        "memory"
    }

    fn quote(&self, identifier: &str) -> String {
        format!("\"{}\"", identifier.replace('"', "\"\""))
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        self.stored_field(field).map(|f| logical_name(&f))
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        if is_raw(field) {
            return Err(Error::internal(format!("column {:?} is in another system's own form", field.name())));
        }
        Ok(field.clone())
    }

    fn render(&self, table: &Relation, change: &SchemaChange) -> Result<Vec<String>> {
        match change {
            SchemaChange::CreateTable { .. } => Ok(vec![format!("table {table} in memory")]),
            other => dpone_planner::schema::describe_change(self, table, other),
        }
    }
}

#[async_trait]
impl Sink for MemorySystem {
    fn dialect(&self) -> Arc<dyn Dialect> {
        Arc::new(MemoryDialect)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            transactional: true,
            truncate_insert: false,
            overwrite_scope: true,
            changes: true,
            append: true,
            visibility: "a reader sees the table before the commit or after it",
        }
    }

    async fn describe(&self, table: &Relation) -> Result<Option<TargetTable>> {
        let Some(table) = self.lock().tables.get(table).cloned() else { return Ok(None) };
        Ok(Some(TargetTable {
            facts: dpone_planner::schema::TableFacts::default(),
            schema: table.rows.schema(),
            primary_key: table.primary_key,
            provider: provider(&table.rows, 1)?,
            has_rows: table.rows.num_rows() > 0,
            rows_estimate: Some(table.rows.num_rows() as u64),
            notes: Vec::new(),
        }))
    }

    fn evolves_with_load(&self, mode: &WriteMode) -> bool {
        matches!(mode, WriteMode::Overwrite { .. })
    }

    async fn prepare(&self, _: &LoadSpec) -> Result<()> {
        Ok(())
    }

    async fn stage(
        &self,
        load: &LoadSpec,
        partition: usize,
        rows: SendableRecordBatchStream,
    ) -> Result<StagedPartition> {
        failpoint::reach("stage.partition.started").await?;
        let batches: Vec<RecordBatch> = rows.try_collect().await?;
        let staged = concat_batches(&load.staged_schema, &batches)?;
        let (count, bytes) = (staged.num_rows() as u64, staged.get_array_memory_size() as u64);
        self.lock().staging.insert((load.load_id.clone(), partition), staged);
        failpoint::reach("stage.partition.done").await?;
        Ok(StagedPartition { partition, rows: count, bytes, artifact: serde_json::Value::Null })
    }

    async fn duplicate_keys(&self, load: &LoadSpec, staged: &[StagedPartition], unique: &[String]) -> Result<u64> {
        duplicate_keys(&self.staged(load, staged)?, unique)
    }

    async fn commit(&self, commit: &Commit<'_>) -> Result<Receipt> {
        failpoint::reach("commit.begun").await?;
        let load = commit.load;
        let staged = self.staged(load, commit.staged)?;
        let before = self.lock().tables.get(&load.target).cloned();
        // A predicate is evaluated by DataFusion, outside the lock; the version tells whether the table changed since.
        let applied = apply(load, before.as_ref().map(|t| &t.rows), &staged).await?;
        let mut contents = self.lock();
        let pipelines = contents.pipelines.entry(load.target.clone()).or_default();
        if let Some(done) = pipelines.load(&load.load_id) {
            return Ok(done);
        }
        pipelines.check(commit.lease)?;
        let version = |table: Option<&Table>| table.map_or(0, |t| t.version);
        if version(contents.tables.get(&load.target)) != version(before.as_ref()) {
            return Err(Error::conflict(format!("{} changed during the commit", load.target)));
        }
        let rows_before = before.as_ref().map_or(0, |t| t.rows.num_rows() as u64);
        guard(commit, &applied, rows_before)?;
        let version = version(before.as_ref()) + 1;
        let primary_key = match before {
            Some(table) if load.primary_key.is_empty() => table.primary_key,
            _ => load.primary_key.clone(),
        };
        contents.tables.insert(load.target.clone(), Table { rows: applied.rows, primary_key, version });
        let mut receipt = commit.receipt.clone();
        receipt.rows.apply(applied.inserted, applied.updated, applied.deleted, applied.unchanged);
        receipt.target_version = Some(version.to_string());
        receipt.finished_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        contents.pipelines.entry(load.target.clone()).or_default().record(commit.state, &receipt);
        Ok(receipt)
    }

    async fn discard(&self, load: &LoadSpec) -> Result<()> {
        self.lock().staging.retain(|(load_id, _), _| *load_id != load.load_id);
        Ok(())
    }

    fn state(&self, target: &Relation, _: &StateLocation) -> Result<Arc<dyn StateStore>> {
        Ok(Arc::new(MemoryState { system: self.clone(), target: target.clone() }))
    }
}

impl MemorySystem {
    fn staged(&self, load: &LoadSpec, staged: &[StagedPartition]) -> Result<RecordBatch> {
        let contents = self.lock();
        let mut batches = Vec::with_capacity(staged.len());
        for partition in staged {
            let batch = contents.staging.get(&(load.load_id.clone(), partition.partition));
            batches.push(batch.cloned().ok_or_else(|| {
                Error::conflict(format!("partition {} of load {} is not staged", partition.partition, load.load_id))
            })?);
        }
        Ok(concat_batches(&load.staged_schema, &batches)?)
    }
}

/// The table after the load, and what happened to the rows.
async fn apply(load: &LoadSpec, before: Option<&RecordBatch>, staged: &RecordBatch) -> Result<Applied> {
    let stored: SchemaRef = Arc::new(Schema::new(
        load.staged_schema.fields().iter().filter(|f| f.name() != OPERATION_COLUMN).cloned().collect::<Vec<_>>(),
    ));
    let empty = RecordBatch::new_empty(Arc::clone(&stored));
    let before = before.unwrap_or(&empty);
    let schema = if matches!(load.write_mode, WriteMode::Overwrite { .. }) { stored } else { before.schema() };
    let kept = match &load.write_mode {
        WriteMode::Changes { key, operation } => return apply_changes(before, staged, key, operation.patch()),
        WriteMode::Append => before.clone(),
        WriteMode::Overwrite { .. } => RecordBatch::new_empty(Arc::clone(&schema)),
        WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns } } => {
            without_partitions(before, staged, columns)?
        }
        WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } } => {
            let staged = SessionContext::new().read_table(provider(staged, 1)?)?;
            let predicate = predicate("replace scope", sql, &DFSchema::try_from(Arc::clone(&schema))?)?;
            if staged.filter(predicate.clone().is_not_true())?.count().await? > 0 {
                return Err(Error::data_quality("staged rows are outside the scope that the load replaces"));
            }
            let table = SessionContext::new().read_table(provider(before, 1)?)?;
            concat_batches(&schema, &table.filter(predicate.is_not_true())?.collect().await?)?
        }
    };
    let columns = schema.fields().iter().map(|field| {
        let column = staged.column_by_name(field.name()).cloned();
        column.ok_or_else(|| Error::conflict(format!("no column {:?} was staged", field.name())))
    });
    let inserted = RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<Vec<_>>>()?)?;
    Ok(Applied {
        inserted: staged.num_rows() as u64,
        deleted: (before.num_rows() - kept.num_rows()) as u64,
        rows: concat_batches(&schema, &[kept, inserted])?,
        ..Applied::default()
    })
}

/// Rows that are put back in the same step are not lost.
fn guard(commit: &Commit<'_>, applied: &Applied, before: u64) -> Result<()> {
    let lost = match commit.load.write_mode {
        WriteMode::Changes { .. } => applied.deleted,
        _ => applied.deleted.saturating_sub(applied.inserted),
    };
    let too_many = commit.max_delete_rows.is_some_and(|limit| lost > limit);
    let too_much = commit.max_delete_ratio.is_some_and(|ratio| lost as f64 > ratio * before as f64);
    if too_many || too_much {
        return Err(Error::data_quality(format!(
            "the load would take {lost} of {before} rows, which is over its limit"
        )));
    }
    Ok(())
}
