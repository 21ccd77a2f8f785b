//! The source streams past the target's keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{BooleanArray, BooleanBufferBuilder, RecordBatch};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use dpone_planner::diff::{CHANGED, MISSING, NEW, REPLACED};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use super::changes::{Columns, SourceBatch, number};
use super::known::{AT_ONCE, Known, Room};
use super::{DiffFacts, Shared};

/// One partition at work.
pub(super) struct Probing {
    pub(super) columns: Columns,
    pub(super) shared: Arc<Shared>,
    pub(super) partitions: usize,
    pub(super) out: Sender<DataFusionResult<RecordBatch>>,
}

/// Tells the memory pool of the batch that a worker has in hand: the rows and what is made of them.
pub(super) struct Passing(MemoryReservation);

impl Passing {
    pub(super) fn register(context: &TaskContext) -> Self {
        Self(MemoryConsumer::new("DiffExec batch").register(context.memory_pool()))
    }

    pub(super) fn note(&self, batch: RecordBatch) -> RecordBatch {
        self.0.resize(2 * get_record_batch_memory_size(&batch));
        batch
    }
}

impl Probing {
    pub(super) async fn partition(
        &self,
        mut source: SendableRecordBatchStream,
        target: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<()> {
        let known = self.shared.known.get_or_try_init(|| self.read(target, Arc::clone(&context))).await?;
        let mut facts = DiffFacts::default();
        let passing = Passing::register(&context);
        while let Some(batch) = source.next().await {
            let batch = passing.note(batch?);
            let batch = self.columns.source_batch(batch, &mut facts)?;
            if !self.compare_and_give(known, &batch, &mut facts).await? {
                return Ok(());
            }
        }
        // Whoever is last has everybody's marks.
        if self.shared.finished.fetch_add(1, Ordering::AcqRel) + 1 == self.partitions
            && !self.give_missing(known, &mut facts).await?
        {
            return Ok(());
        }
        self.shared.add(facts);
        Ok(())
    }

    /// Gives what differs in a batch of the source. False when nobody wants more.
    pub(super) async fn compare_and_give(
        &self,
        known: &Known,
        batch: &SourceBatch,
        facts: &mut DiffFacts,
    ) -> DataFusionResult<bool> {
        let (rows, replaced) = self.compare(known, batch, facts)?;
        if !self.give(rows).await {
            return Ok(false);
        }
        if self.columns.spec.replaced && !replaced.is_empty() {
            let rows = self.columns.target_rows(&known.rows_at(&replaced)?, REPLACED)?;
            return Ok(self.give(rows).await);
        }
        Ok(true)
    }

    /// Counts the target's rows, and gives those whose key the source has not. False when nobody wants more.
    pub(super) async fn give_missing(&self, known: &Known, facts: &mut DiffFacts) -> DataFusionResult<bool> {
        facts.target_rows += known.rows();
        facts.gone += known.gone();
        facts.duplicate_target_keys += known.duplicates;
        for unseen in known.unseen() {
            let unseen = unseen?;
            facts.missing += unseen.num_rows() as u64;
            if self.columns.spec.missing && !self.give(self.columns.target_rows(&unseen, MISSING)?).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn read(&self, target: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> DataFusionResult<Arc<Known>> {
        let reservation = MemoryConsumer::new("DiffExec").register(context.memory_pool());
        let known = Known::read(&self.columns, target.execute(0, context)?, reservation, Room::Asked, false).await;
        if let Err(error) = &known
            && matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
        {
            self.shared.outgrown.store(true, Ordering::Relaxed);
        }
        Ok(Arc::new(known?))
    }

    /// The rows of a batch that differ, and the target's rows that they replace.
    fn compare(
        &self,
        known: &Known,
        batch: &SourceBatch,
        facts: &mut DiffFacts,
    ) -> DataFusionResult<(RecordBatch, Vec<u32>)> {
        let rows = batch.rows.num_rows();
        let mut differs = BooleanBufferBuilder::new(rows);
        let mut changes = Vec::new();
        let mut replaced = Vec::new();
        let mut keys = Vec::with_capacity(AT_ONCE);
        let mut found = [None; AT_ONCE];
        for start in (0..rows).step_by(AT_ONCE) {
            let together = start..(start + AT_ONCE).min(rows);
            keys.clear();
            keys.extend(together.clone().map(|row| number(batch.keys.value(row))));
            known.find(&keys, &mut found);
            for (row, found) in together.zip(found) {
                let change = found.map_or(Some(NEW), |found| {
                    facts.duplicate_source_keys += u64::from(known.see(found.row));
                    let same = known.holds(found, &batch.digests, row);
                    if !same {
                        replaced.push(found.row);
                    }
                    (!same).then_some(CHANGED)
                });
                differs.append(change.is_some());
                changes.extend(change);
            }
        }
        facts.new += (changes.len() - replaced.len()) as u64;
        facts.changed += replaced.len() as u64;
        facts.unchanged += (rows - changes.len()) as u64;
        let mask = BooleanArray::new(differs.finish(), None);
        Ok((self.columns.source_rows(batch, mask, changes)?, replaced))
    }

    /// False when nobody wants more.
    async fn give(&self, rows: RecordBatch) -> bool {
        rows.num_rows() == 0 || self.out.send(Ok(rows)).await.is_ok()
    }
}
