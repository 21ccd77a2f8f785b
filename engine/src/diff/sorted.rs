//! Two inputs that are sorted by key hash, merged.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, BooleanBufferBuilder, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use datafusion::common::Result as DataFusionResult;
use datafusion::execution::SendableRecordBatchStream;
use dpone_planner::diff::{CHANGED, MISSING, NEW, REPLACED};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use super::changes::{Columns, SourceBatch, TargetBatch};
use super::{DiffFacts, Shared};

/// The target's side: one batch at a time.
struct TargetSide {
    stream: SendableRecordBatchStream,
    batch: Option<TargetBatch>,
    row: usize,
    /// Which rows of the batch the source has.
    seen: Vec<bool>,
    /// Rows of the batch that a source row replaces.
    replaced: Vec<u32>,
    last_key: Option<[u8; 16]>,
}

struct Merge {
    columns: Columns,
    target: TargetSide,
    facts: DiffFacts,
    out: Sender<DataFusionResult<RecordBatch>>,
}

pub(super) async fn merge(
    columns: Columns,
    mut source: SendableRecordBatchStream,
    target: SendableRecordBatchStream,
    shared: Arc<Shared>,
    out: Sender<DataFusionResult<RecordBatch>>,
) -> DataFusionResult<()> {
    let target =
        TargetSide { stream: target, batch: None, row: 0, seen: Vec::new(), replaced: Vec::new(), last_key: None };
    let mut merge = Merge { columns, target, facts: DiffFacts::default(), out };
    merge.next_target_batch().await?;
    let mut last_key = None;
    while let Some(batch) = source.next().await {
        let batch = merge.columns.source_batch(batch?, &mut merge.facts)?;
        merge.compare(&batch, &mut last_key).await?;
    }
    while merge.target.batch.is_some() {
        merge.next_target_batch().await?;
    }
    shared.add(merge.facts);
    Ok(())
}

impl Merge {
    async fn compare(&mut self, batch: &SourceBatch, last_key: &mut Option<[u8; 16]>) -> DataFusionResult<()> {
        let rows = batch.rows.num_rows();
        let mut differs = BooleanBufferBuilder::new(rows);
        let mut changes = Vec::new();
        for row in 0..rows {
            let key = batch.keys.value(row);
            let again = last_key.is_some_and(|last| last == key);
            *last_key = key.try_into().ok();
            self.advance_to(key).await?;
            let change = match &self.target.batch {
                Some(there) if there.keys.value(self.target.row) == key => {
                    let at = self.target.row;
                    self.target.seen[at] = true;
                    self.facts.duplicate_source_keys += u64::from(again);
                    let same = batch.digests.same(row, &there.digests, at) && !there.is_gone(at);
                    if !same {
                        self.target.replaced.push(at as u32);
                    }
                    (!same).then_some(CHANGED)
                }
                _ => Some(NEW),
            };
            differs.append(change.is_some());
            match change {
                Some(NEW) => self.facts.new += 1,
                Some(_) => self.facts.changed += 1,
                None => self.facts.unchanged += 1,
            }
            changes.extend(change);
        }
        let mask = BooleanArray::new(differs.finish(), None);
        let given = self.columns.source_rows(batch, mask, changes)?;
        give(&self.out, given).await;
        Ok(())
    }

    /// Moves the target to its first row whose key is not before `key`.
    async fn advance_to(&mut self, key: &[u8]) -> DataFusionResult<()> {
        loop {
            let Some(batch) = &self.target.batch else { return Ok(()) };
            while self.target.row < batch.keys.len() {
                if batch.keys.value(self.target.row) >= key {
                    return Ok(());
                }
                self.target.row += 1;
            }
            self.next_target_batch().await?;
        }
    }

    /// Gives what is known about the batch that is left behind, and takes the next one that has rows.
    async fn next_target_batch(&mut self) -> DataFusionResult<()> {
        if let Some(left) = self.target.batch.take() {
            let replaced = UInt32Array::from(std::mem::take(&mut self.target.replaced));
            if self.columns.spec.replaced && !replaced.is_empty() {
                let rows = take_record_batch(&left.rows, &replaced)?;
                give(&self.out, self.columns.target_rows(&rows, REPLACED)?).await;
            }
            let unseen: BooleanArray =
                self.target.seen.iter().enumerate().map(|(row, seen)| Some(!seen && !left.is_gone(row))).collect();
            let missing = filter_record_batch(&left.rows, &unseen)?;
            self.facts.missing += missing.num_rows() as u64;
            if self.columns.spec.missing {
                give(&self.out, self.columns.target_rows(&missing, MISSING)?).await;
            }
        }
        while let Some(batch) = self.target.stream.next().await {
            let batch = self.columns.target_batch(&batch?)?;
            let rows = batch.rows.num_rows();
            if rows == 0 {
                continue;
            }
            for row in 0..rows {
                let key = batch.keys.value(row);
                self.facts.duplicate_target_keys += u64::from(self.target.last_key.is_some_and(|last| last == key));
                self.target.last_key = key.try_into().ok();
            }
            self.facts.target_rows += rows as u64;
            self.target.seen = vec![false; rows];
            self.target.row = 0;
            self.target.batch = Some(batch);
            return Ok(());
        }
        Ok(())
    }
}

async fn give(out: &Sender<DataFusionResult<RecordBatch>>, rows: RecordBatch) {
    if rows.num_rows() > 0 {
        // Whoever wants no more has dropped the stream, and with it this task.
        let _ = out.send(Ok(rows)).await;
    }
}
