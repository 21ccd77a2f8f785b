//! The target's keys and digests in memory, and which of the keys the source has.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};
use datafusion::common::Result as DataFusionResult;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::changes::{Columns, TargetBatch, number};
use super::partitioned::Batches;
use crate::Error;

/// No row.
const EMPTY: u32 = u32::MAX;

/// A hash table of the target's rows. Filled once, then read by all partitions at once.
pub(super) struct Known {
    batches: Vec<TargetBatch>,
    /// The number of the first row of each batch.
    starts: Vec<u32>,
    keys: Vec<u128>,
    /// Row numbers by key hash, with linear probing.
    slots: Vec<u32>,
    /// One bit a row: the source has its key.
    seen: Vec<AtomicU64>,
    pub(super) duplicates: u64,
    /// Holds the memory in the pool as long as the table lives.
    _reservation: MemoryReservation,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("rows", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Known {
    /// Reads the target. Fails with `ResourcesExhausted` where it does not fit in what the pool gives.
    pub(super) async fn read(
        columns: &Columns,
        mut target: impl Batches,
        reservation: MemoryReservation,
    ) -> DataFusionResult<Self> {
        let mut batches = Vec::new();
        let mut starts = Vec::new();
        let mut keys: Vec<u128> = Vec::new();
        while let Some(batch) = target.next().await {
            let batch = columns.target_batch(&batch?)?;
            let rows = batch.rows.num_rows();
            // A key hash of 16 bytes, its slot, and the growth of both vectors.
            reservation.try_grow(batch.rows.get_array_memory_size() + batch.digests.bytes() + rows * KEY_BYTES)?;
            let start = u32::try_from(keys.len() + rows).ok().and_then(|end| end.checked_sub(rows as u32));
            starts.push(start.ok_or_else(too_many)?);
            keys.extend((0..rows).map(|row| number(batch.keys.value(row))));
            batches.push(batch);
        }
        let slots = (keys.len() + keys.len() / 2).next_power_of_two().max(16);
        reservation.try_grow(slots * size_of::<u32>())?;
        let mut known = Self {
            seen: (0..keys.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            batches,
            starts,
            slots: vec![EMPTY; slots],
            duplicates: 0,
            keys,
            _reservation: reservation,
        };
        known.index();
        Ok(known)
    }

    fn index(&mut self) {
        for row in 0..self.keys.len() {
            let mut slot = self.slot(self.keys[row]);
            loop {
                match self.slots[slot] {
                    EMPTY => {
                        self.slots[slot] = row as u32;
                        break;
                    }
                    other if self.keys[other as usize] == self.keys[row] => {
                        self.duplicates += 1;
                        break;
                    }
                    _ => slot = (slot + 1) & (self.slots.len() - 1),
                }
            }
        }
    }

    fn slot(&self, key: u128) -> usize {
        key as usize & (self.slots.len() - 1)
    }

    pub(super) fn rows(&self) -> u64 {
        self.keys.len() as u64
    }

    /// The row with this key.
    pub(super) fn find(&self, key: u128) -> Option<u32> {
        let mut slot = self.slot(key);
        loop {
            match self.slots[slot] {
                EMPTY => return None,
                row if self.keys[row as usize] == key => return Some(row),
                _ => slot = (slot + 1) & (self.slots.len() - 1),
            }
        }
    }

    /// The row, by batch and position in it.
    pub(super) fn place(&self, row: u32) -> (&TargetBatch, usize) {
        let (batch, position) = self.position(row);
        (&self.batches[batch], position)
    }

    fn position(&self, row: u32) -> (usize, usize) {
        let batch = self.starts.partition_point(|start| *start <= row) - 1;
        (batch, (row - self.starts[batch]) as usize)
    }

    /// Notes that the source has the row's key; true when it was noted before.
    pub(super) fn see(&self, row: u32) -> bool {
        let bit = 1 << (row % 64);
        self.seen[row as usize / 64].fetch_or(bit, Ordering::AcqRel) & bit != 0
    }

    fn is_seen(&self, row: u32) -> bool {
        self.seen[row as usize / 64].load(Ordering::Acquire) & (1 << (row % 64)) != 0
    }

    /// Key and carried columns of these rows.
    pub(super) fn rows_at(&self, rows: &[u32]) -> DataFusionResult<RecordBatch> {
        let batches: Vec<&RecordBatch> = self.batches.iter().map(|b| &b.rows).collect();
        let positions: Vec<_> = rows.iter().map(|row| self.position(*row)).collect();
        Ok(interleave_record_batch(&batches, &positions)?)
    }

    /// Key and carried columns of the rows of each batch whose key the source has not, marked rows aside.
    pub(super) fn unseen(&self) -> impl Iterator<Item = DataFusionResult<RecordBatch>> + '_ {
        self.batches.iter().zip(&self.starts).map(|(batch, start)| {
            let unseen: BooleanArray = (0..batch.rows.num_rows())
                .map(|i| Some(!self.is_seen(start + i as u32) && !batch.is_gone(i)))
                .collect();
            Ok(filter_record_batch(&batch.rows, &unseen)?)
        })
    }
}

/// Bytes a row beside its columns and its digest.
const KEY_BYTES: usize = 24;

fn too_many() -> Error {
    Error::internal("more target rows than a table in memory can number")
}
