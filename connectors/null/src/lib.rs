//! A sink that counts rows and bytes and forgets them, so that a benchmark measures the source and the engine alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::Field;
use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::{
    Capabilities, Commit, Connector, Error, Forgotten, Lease, LeaseRequest, LoadSpec, Receipt, Relation,
    ResolvedConnection, Result, Sink, Source, StagedPartition, StateLocation, StateStore, TargetTable, failpoint,
};
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::WriteMode;
use dpone_planner::schema::SchemaChange;
use dpone_planner::state::PipelineState;
use dpone_planner::types::logical_name;
use futures::StreamExt;

/// Connections of the type `null`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullConnector;

impl Connector for NullConnector {
    fn kinds(&self) -> &'static [&'static str] {
        &["null"]
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>> {
        Err(Error::configuration(format!(
            "connection {:?} has the type null, which has nothing to read",
            connection.name
        )))
    }

    fn sink(&self, _: &ResolvedConnection) -> Result<Arc<dyn Sink>> {
        Ok(Arc::new(NullSink::default()))
    }
}

/// Keeps state as long as the process lives, so that a second run of a benchmark is an incremental one.
#[derive(Debug, Clone, Default)]
pub struct NullSink {
    memory: Arc<Mutex<Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    tokens: BTreeMap<String, u64>,
    states: BTreeMap<String, PipelineState>,
    loads: Vec<Receipt>,
}

impl NullSink {
    /// A poisoned lock only says that another thread panicked: each entry is whole.
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes every type, raw ones too: nothing is looked at.
#[derive(Debug)]
struct NullDialect;

impl Dialect for NullDialect {
    fn system(&self) -> &'static str {
        "null"
    }

    fn quote(&self, identifier: &str) -> String {
        format!("\"{}\"", identifier.replace('"', "\"\""))
    }

    fn native_type(&self, field: &Field) -> Result<String> {
        Ok(logical_name(field))
    }

    fn stored_field(&self, field: &Field) -> Result<Field> {
        Ok(field.clone())
    }

    fn render(&self, _: &Relation, _: &SchemaChange) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Sink for NullSink {
    fn dialect(&self) -> Arc<dyn Dialect> {
        Arc::new(NullDialect)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            transactional: true,
            truncate_insert: false,
            overwrite_scope: true,
            changes: true,
            append: true,
            visibility: "there is nothing to see",
        }
    }

    /// There is never a table, so every load is a first one.
    async fn describe(&self, _: &Relation) -> Result<Option<TargetTable>> {
        Ok(None)
    }

    async fn prepare(&self, _: &LoadSpec) -> Result<()> {
        Ok(())
    }

    async fn stage(
        &self,
        _: &LoadSpec,
        partition: usize,
        mut rows: SendableRecordBatchStream,
    ) -> Result<StagedPartition> {
        failpoint::reach("stage.partition.started").await?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            count += batch.num_rows() as u64;
            bytes += batch.get_array_memory_size() as u64;
        }
        failpoint::reach("stage.partition.done").await?;
        Ok(StagedPartition { partition, rows: count, bytes, artifact: serde_json::Value::Null })
    }

    /// Nothing is kept, so nothing can be compared: none.
    async fn duplicate_keys(&self, _: &LoadSpec, _: &[StagedPartition], _: &[String]) -> Result<u64> {
        Ok(0)
    }

    async fn commit(&self, commit: &Commit<'_>) -> Result<Receipt> {
        failpoint::reach("commit.begun").await?;
        let mut memory = self.lock();
        if let Some(done) = memory.loads.iter().find(|r| r.load_id == commit.load.load_id) {
            return Ok(done.clone());
        }
        if memory.tokens.get(&commit.lease.pipeline) != Some(&commit.lease.token) {
            return Err(Error::conflict(format!("the lease of pipeline {:?} was taken over", commit.lease.pipeline)));
        }
        let mut receipt = commit.receipt.clone();
        receipt.rows.inserted = commit.staged.iter().map(|s| s.rows).sum();
        receipt.finished_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        if matches!(commit.load.write_mode, WriteMode::Changes { .. }) {
            receipt.notes.push("every change was counted as an insert: nothing is kept to compare with".to_owned());
        }
        memory.states.insert(commit.state.pipeline.clone(), commit.state.clone());
        memory.loads.push(receipt.clone());
        Ok(receipt)
    }

    async fn discard(&self, _: &LoadSpec) -> Result<()> {
        Ok(())
    }

    fn state(&self, _: &Relation, _: &StateLocation) -> Result<Arc<dyn StateStore>> {
        Ok(Arc::new(self.clone()))
    }
}

/// Only this process knows of it, so leases are never in anybody's way: a later one takes over.
#[async_trait]
impl StateStore for NullSink {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Lease> {
        let mut memory = self.lock();
        let token = memory.tokens.entry(request.pipeline.clone()).or_default();
        *token += 1;
        Ok(Lease {
            pipeline: request.pipeline.clone(),
            run_id: request.run_id.clone(),
            holder: request.holder.clone(),
            token: *token,
            ttl: request.ttl,
        })
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        if self.lock().tokens.get(&lease.pipeline) == Some(&lease.token) {
            return Ok(());
        }
        Err(Error::conflict(format!("the lease of pipeline {:?} was taken over", lease.pipeline)))
    }

    async fn release(&self, _: &Lease) -> Result<()> {
        Ok(())
    }

    async fn get(&self, pipeline: &str) -> Result<Option<PipelineState>> {
        Ok(self.lock().states.get(pipeline).cloned())
    }

    async fn receipt(&self, pipeline: &str, run_id: &str) -> Result<Option<Receipt>> {
        let memory = self.lock();
        Ok(memory.loads.iter().find(|r| r.pipeline == pipeline && r.run_id == run_id).cloned())
    }

    async fn list(&self) -> Result<Vec<PipelineState>> {
        Ok(self.lock().states.values().cloned().collect())
    }

    async fn reset(&self, pipeline: &str) -> Result<Forgotten> {
        Ok(Forgotten::state(self.lock().states.remove(pipeline).is_some()))
    }

    async fn mirror(&self, state: &PipelineState, receipt: &Receipt) -> Result<()> {
        let mut memory = self.lock();
        memory.states.insert(state.pipeline.clone(), state.clone());
        memory.loads.push(receipt.clone());
        Ok(())
    }
}
