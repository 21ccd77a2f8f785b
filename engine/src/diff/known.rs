//! The target's keys and digests in memory, and which of the keys the source has.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};
use datafusion::common::Result as DataFusionResult;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::changes::{Columns, Digests, TargetBatch, number};
use super::partitioned::Batches;
use crate::Error;

/// No row.
const EMPTY: u32 = u32::MAX;

/// A hash table of the target's rows. Filled once, then read by all workers at once.
pub(super) struct Known {
    batches: Vec<TargetBatch>,
    /// The number of the first row of each batch.
    starts: Vec<u32>,
    /// By row number: what a lookup needs lies side by side.
    entries: Vec<Entry>,
    /// Rows whose hash was never stored, in order: few or none. They equal no row.
    unhashed: Vec<u32>,
    /// Row numbers by key hash, with linear probing.
    slots: Vec<u32>,
    /// One bit a row: the source has its key.
    seen: Vec<AtomicU64>,
    /// Whether some rows count as deleted.
    has_gone: bool,
    pub(super) duplicates: u64,
    /// Holds the memory in the pool as long as the table lives.
    _reservation: MemoryReservation,
}

struct Entry {
    key: u128,
    /// Where digests are hashes.
    digest: u128,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("rows", &self.entries.len()).finish_non_exhaustive()
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
        let mut entries: Vec<Entry> = Vec::new();
        let mut unhashed = Vec::new();
        let mut has_gone = false;
        while let Some(batch) = target.next().await {
            let mut batch = columns.target_batch(&batch?)?;
            let rows = batch.rows.num_rows();
            let exact = batch.digests.exact_bytes();
            reservation.try_grow(batch.rows.get_array_memory_size() + exact + rows * size_of::<Entry>())?;
            let start = u32::try_from(entries.len() + rows).ok().and_then(|end| end.checked_sub(rows as u32));
            starts.push(start.ok_or_else(too_many)?);
            let digests = batch.digests.take_hashes();
            for row in 0..rows {
                let digest = digests.as_ref().and_then(|d| d.hash(row));
                if digests.is_some() && digest.is_none() {
                    unhashed.push(entries.len() as u32);
                }
                entries.push(Entry { key: number(batch.keys.value(row)), digest: digest.unwrap_or_default() });
            }
            has_gone |= batch.has_gone();
            batches.push(batch);
        }
        let slots = (entries.len() + entries.len() / 2).next_power_of_two().max(16);
        reservation.try_grow(slots * size_of::<u32>())?;
        let mut known = Self {
            seen: (0..entries.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            batches,
            starts,
            slots: vec![EMPTY; slots],
            unhashed,
            has_gone,
            duplicates: 0,
            entries,
            _reservation: reservation,
        };
        known.index();
        Ok(known)
    }

    fn index(&mut self) {
        for row in 0..self.entries.len() {
            let mut slot = self.slot(self.entries[row].key);
            loop {
                match self.slots[slot] {
                    EMPTY => {
                        self.slots[slot] = row as u32;
                        break;
                    }
                    other if self.entries[other as usize].key == self.entries[row].key => {
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
        self.entries.len() as u64
    }

    /// The row with this key.
    pub(super) fn find(&self, key: u128) -> Option<u32> {
        let mut slot = self.slot(key);
        loop {
            match self.slots[slot] {
                EMPTY => return None,
                row if self.entries[row as usize].key == key => return Some(row),
                _ => slot = (slot + 1) & (self.slots.len() - 1),
            }
        }
    }

    /// Whether the row holds these values, and counts as being there.
    pub(super) fn holds(&self, row: u32, digests: &Digests, of: usize) -> bool {
        let same = match digests.hash(of) {
            Some(hash) => self.entries[row as usize].digest == hash && self.unhashed.binary_search(&row).is_err(),
            None => {
                let (batch, position) = self.position(row);
                digests.same_exactly(of, &self.batches[batch].digests, position)
            }
        };
        same && !(self.has_gone && self.is_gone(row))
    }

    fn is_gone(&self, row: u32) -> bool {
        let (batch, position) = self.position(row);
        self.batches[batch].is_gone(position)
    }

    /// The row's batch, and its place in it.
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

fn too_many() -> Error {
    Error::internal("more target rows than a table in memory can number")
}
