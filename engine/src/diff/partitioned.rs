//! Comparison in parts: both sides are split by key hash into files, and then one part after the other is compared in
//! memory. Each row is written and read once; what is held is one part of the target's keys for each worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;

use super::DiffFacts;
use super::known::Known;
use super::probe::Probing;
use super::spill::{Spill, SpilledPart};
use crate::Error;

/// What the workers of one comparison hand to each other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// By worker, then by part.
    source: Vec<Vec<SpilledPart>>,
    target: Vec<Vec<SpilledPart>>,
}

impl Probing {
    /// One worker: splits its partition of the source and some of the target's, waits for the others, and compares parts
    /// until none is left.
    pub(super) async fn worker(
        &self,
        source: SendableRecordBatchStream,
        target: Arc<dyn ExecutionPlan>,
        parts: u16,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<()> {
        let mut facts = DiffFacts::default();
        let split = self.split(source, target, parts, &context, &mut facts).await;
        let failed = split.is_err();
        if failed {
            self.shared.failed.store(true, Ordering::Release);
        }
        // Whoever waits must not wait for one that failed.
        self.shared.meet(self.partitions).await;
        split?;
        if self.shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        loop {
            let part = self.shared.next_part.fetch_add(1, Ordering::AcqRel);
            if part >= usize::from(parts) {
                break;
            }
            if !self.compare_part(part, &context, &mut facts).await? {
                return Ok(());
            }
        }
        self.shared.add(facts);
        Ok(())
    }

    async fn split(
        &self,
        mut source: SendableRecordBatchStream,
        target: Arc<dyn ExecutionPlan>,
        parts: u16,
        context: &Arc<TaskContext>,
        facts: &mut DiffFacts,
    ) -> DataFusionResult<()> {
        let limit = buffer(context, self.partitions);
        let mut spill = Spill::new(&source.schema(), parts, limit, context)?;
        while let Some(batch) = source.next().await {
            let batch = self.columns.source_batch(batch?, facts)?;
            spill.write(&batch.rows, &batch.keys)?;
        }
        let spilled = spill.finish()?;
        self.shared.parts.lock().await.source.push(spilled);
        let mut spill = Spill::new(&target.schema(), parts, limit, context)?;
        loop {
            let partition = self.shared.next_target.fetch_add(1, Ordering::AcqRel);
            if partition >= target.output_partitioning().partition_count() {
                break;
            }
            let mut stream = target.execute(partition, Arc::clone(context))?;
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                spill.write(&batch, self.columns.target_keys(&batch)?)?;
            }
        }
        let spilled = spill.finish()?;
        self.shared.parts.lock().await.target.push(spilled);
        Ok(())
    }

    /// False when nobody wants more.
    async fn compare_part(
        &self,
        part: usize,
        context: &Arc<TaskContext>,
        facts: &mut DiffFacts,
    ) -> DataFusionResult<bool> {
        let parts = self.shared.parts.lock().await;
        let read = |sides: &[Vec<SpilledPart>]| {
            sides.iter().map(|worker| worker[part].read()).collect::<DataFusionResult<Vec<_>>>()
        };
        let (sources, targets) = (read(&parts.source)?, read(&parts.target)?);
        drop(parts);
        let reservation = MemoryConsumer::new("DiffExec part").register(context.memory_pool());
        let rows: futures::stream::Iter<_> = futures::stream::iter(targets.into_iter().flatten());
        let known = Known::read(&self.columns, rows, reservation).await.map_err(too_large)?;
        for batch in sources.into_iter().flatten() {
            // These rows were counted when they were split, and none of them has a NULL in its key.
            let batch = self.columns.source_batch(batch?, &mut DiffFacts::default())?;
            if !self.compare_and_give(&known, &batch, facts).await? {
                return Ok(false);
            }
        }
        self.give_missing(&known, facts).await
    }
}

/// Bytes of rows that one worker lets wait for a side.
fn buffer(context: &TaskContext, workers: usize) -> usize {
    let limit = match context.memory_pool().memory_limit() {
        MemoryLimit::Finite(bytes) => bytes,
        _ => 1 << 30,
    };
    (limit / 16 / workers.max(1)).clamp(256 << 10, 32 << 20)
}

fn too_large(error: DataFusionError) -> DataFusionError {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            Error::configuration("one part of the target's keys does not fit in the memory limit")
                .with_hint("raise --memory-limit, or lower the parallelism: each worker holds one part")
                .with_source(error)
                .into()
        }
        _ => error,
    }
}

/// Rows that come one after the other.
pub(super) trait Batches: futures::Stream<Item = DataFusionResult<RecordBatch>> + Unpin + Send {}
impl<S: futures::Stream<Item = DataFusionResult<RecordBatch>> + Unpin + Send> Batches for S {}
