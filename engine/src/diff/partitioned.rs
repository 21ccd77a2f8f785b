//! Comparison in parts: both sides are split by key hash into files, and then one part after the other is compared in
//! memory. What is held is one part of the target's keys for each worker; a part that does not fit is split again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;

use super::DiffFacts;
use super::known::{Known, Room};
use super::probe::{Passing, Probing};
use super::spill::{Fan, PartSize, Spill, Spilled, buffer};
use crate::Error;

/// Into how many parts a part is split that does not fit.
const FAN_OUT: u16 = 16;

/// Bytes on disk below which a part is held whether the pool has room or not: other workers hold theirs, and no split
/// would help. Each worker exceeds the limit by this at most.
const ALWAYS_HELD: u64 = 128 << 10;

/// What the workers of one comparison hand to each other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    source: Vec<Arc<Spilled>>,
    target: Vec<Arc<Spilled>>,
}

/// A part that is to be compared: what each file has of it.
struct Part {
    source: Vec<Arc<Spilled>>,
    target: Vec<Arc<Spilled>>,
    number: usize,
    /// How often its rows were split.
    level: u8,
}

impl Part {
    fn target_size(&self) -> PartSize {
        let mut size = PartSize::default();
        for file in &self.target {
            size.add(&file.size(self.number));
        }
        size
    }
}

/// The rows of one part in several files, of which one is open at a time.
fn rows(files: &[Arc<Spilled>], part: usize) -> impl Iterator<Item = DataFusionResult<RecordBatch>> + Send + use<> {
    let files: Vec<_> = files.iter().filter(|file| file.size(part).rows > 0).cloned().collect();
    files.into_iter().flat_map(move |file| {
        let (rows, failed) = match file.read(part) {
            Ok(rows) => (Some(rows), None),
            Err(error) => (None, Some(Err(error))),
        };
        failed.into_iter().chain(rows.into_iter().flatten())
    })
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
        let target_schema = target.schema();
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
            let number = self.shared.next_part.fetch_add(1, Ordering::AcqRel);
            if number >= usize::from(parts) {
                break;
            }
            let part = {
                let parts = self.shared.parts.lock().await;
                Part { source: parts.source.clone(), target: parts.target.clone(), number, level: 0 }
            };
            if !self.compare_part(part, &target_schema, &context, &mut facts).await? {
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
        let (fan, limit) = (Fan { parts, level: 0 }, buffer(context, self.partitions));
        let mut spill = Spill::new(&source.schema(), fan, limit, context)?;
        while let Some(batch) = source.next().await {
            let batch = self.columns.source_batch(batch?, facts)?;
            spill.write(&batch.rows, &batch.keys)?;
        }
        let spilled = Arc::new(spill.finish()?);
        self.shared.parts.lock().await.source.push(spilled);
        let mut spill = Spill::new(&target.schema(), fan, limit, context)?;
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
        let spilled = Arc::new(spill.finish()?);
        self.shared.parts.lock().await.target.push(spilled);
        Ok(())
    }

    /// Compares a part, in smaller ones where it does not fit. False when nobody wants more.
    async fn compare_part(
        &self,
        part: Part,
        target_schema: &SchemaRef,
        context: &Arc<TaskContext>,
        facts: &mut DiffFacts,
    ) -> DataFusionResult<bool> {
        let mut left = vec![part];
        while let Some(part) = left.pop() {
            let Some(known) = self.hold(&part, context).await? else {
                left.extend(self.split_again(&part, target_schema, context).await?);
                continue;
            };
            let passing = Passing::register(context);
            for batch in rows(&part.source, part.number) {
                // These rows were counted when they were split, and none of them has a NULL in its key.
                let batch = self.columns.source_batch(passing.note(batch?), &mut DiffFacts::default())?;
                if !self.compare_and_give(&known, &batch, facts).await? {
                    return Ok(false);
                }
            }
            if !self.give_missing(&known, facts).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The target's keys of a part; `None` where they do not fit and the part can be split.
    async fn hold(&self, part: &Part, context: &Arc<TaskContext>) -> DataFusionResult<Option<Known>> {
        let size = part.target_size();
        // One key is one row, and the others of it are only counted: that fits whatever the limit.
        let room = match size.bytes <= ALWAYS_HELD || size.is_one_key() {
            true => Room::Taken,
            false => Room::Asked,
        };
        let reservation = MemoryConsumer::new("DiffExec part").register(context.memory_pool());
        let read = futures::stream::iter(rows(&part.target, part.number));
        let one_key = size.is_one_key();
        match Known::read(&self.columns, read, reservation, room, one_key).await {
            Ok(known) => Ok(Some(known)),
            Err(error) if !matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) => Err(error),
            Err(_) if part.level + 1 < Fan::LEVELS => Ok(None),
            Err(error) => Err(Error::configuration(format!(
                "a part of the target's keys does not fit in the memory limit, and cannot be split any further: {} rows \
                 after {} splits",
                size.rows,
                part.level + 1
            ))
            .with_hint("raise --memory-limit, or lower the parallelism: each worker holds one part")
            .with_source(error)
            .into()),
        }
    }

    async fn split_again(
        &self,
        part: &Part,
        target_schema: &SchemaRef,
        context: &Arc<TaskContext>,
    ) -> DataFusionResult<impl Iterator<Item = Part> + use<>> {
        let level = part.level + 1;
        let (fan, limit) = (Fan { parts: FAN_OUT, level }, buffer(context, self.partitions));
        tracing::debug!(part = part.number, level, "a part of a comparison does not fit: split again");
        self.shared.splits.fetch_add(1, Ordering::Relaxed);
        let mut target = Spill::new(target_schema, fan, limit, context)?;
        for batch in rows(&part.target, part.number) {
            let batch = batch?;
            target.write(&batch, self.columns.target_keys(&batch)?)?;
            tokio::task::yield_now().await;
        }
        let target = vec![Arc::new(target.finish()?)];
        let mut source = None;
        for batch in rows(&part.source, part.number) {
            let batch = self.columns.source_batch(batch?, &mut DiffFacts::default())?;
            if source.is_none() {
                source = Some(Spill::new(&batch.rows.schema(), fan, limit, context)?);
            }
            if let Some(source) = &mut source {
                source.write(&batch.rows, &batch.keys)?;
            }
            tokio::task::yield_now().await;
        }
        let source: Vec<_> = source.map(Spill::finish).transpose()?.into_iter().map(Arc::new).collect();
        Ok((0..usize::from(FAN_OUT)).map(move |number| Part {
            source: source.clone(),
            target: target.clone(),
            number,
            level,
        }))
    }
}

/// Rows that come one after the other.
pub(super) trait Batches: futures::Stream<Item = DataFusionResult<RecordBatch>> + Unpin + Send {}
impl<S: futures::Stream<Item = DataFusionResult<RecordBatch>> + Unpin + Send> Batches for S {}
