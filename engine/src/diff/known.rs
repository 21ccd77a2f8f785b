//! The target's keys and digests in memory, and which of the keys the source has.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::common::Result as DataFusionResult;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::StreamExt;

use super::changes::{Columns, Digests, Held, number};
use super::compact::compacted;
use super::packed::Packed;
use super::partitioned::Batches;
use crate::Error;

/// No row.
const EMPTY: u32 = u32::MAX;

/// A hash table of the target's rows. Filled once, then read by all workers at once.
pub(super) struct Known {
    batches: Vec<Held>,
    /// The number of the first row of each batch.
    starts: Vec<u32>,
    entries: ByRow<Entry>,
    /// Rows whose hash was never stored, in order: few or none. They equal no row.
    unhashed: Vec<u32>,
    /// By key hash, with linear probing: row numbers, and above them, in the bits that they leave, some of the key's. A
    /// neighbour's row is told apart without a look at its entry, which lies far away.
    slots: Vec<u32>,
    /// Covers the bits of a slot that number a row.
    row_mask: u32,
    /// One bit a row: the source has its key.
    seen: Vec<AtomicU64>,
    /// Whether some rows count as deleted.
    has_gone: bool,
    pub(super) duplicates: u64,
    /// Rows that are duplicates and not held.
    left_out: u64,
    /// Holds the memory in the pool as long as the table lives.
    reservation: MemoryReservation,
}

/// What tells a key's hash from others: the low 96 bits. The splitting into parts uses the rest, so all of these tell
/// rows of a part apart: two keys of a thousand million that share them are less likely than one in 10^9.
#[derive(Debug, Clone, Copy)]
struct Key {
    /// Says where a search begins, and what a slot keeps beside the row: an entry need not.
    home: u32,
    rest: u64,
}

impl Key {
    #[inline]
    fn of(hash: u128) -> Self {
        Self { home: hash as u32, rest: (hash >> 32) as u64 }
    }
}

/// Keys that are looked up together.
pub(super) const AT_ONCE: usize = 64;

/// A row that has a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) row: u32,
    digest: u64,
}

/// What a lookup needs of a row lies side by side.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// [`Key::rest`].
    key: u64,
    /// Where digests are hashes, the low half. It is compared with that of one row, which has the same key: a change
    /// that leaves it as it was is one of 10^19.
    digest: u64,
}

/// Something of each row, by row number, in pieces: what grows is never copied, and old and new are never there at once.
#[derive(Debug)]
struct ByRow<T> {
    pieces: Vec<Vec<T>>,
    count: usize,
}

/// Rows of a piece: a power of two.
const PIECE: usize = 1 << 12;

impl<T: Copy> ByRow<T> {
    fn new() -> Self {
        Self { pieces: Vec::new(), count: 0 }
    }

    fn len(&self) -> usize {
        self.count
    }

    /// Bytes of what is there.
    fn bytes(&self) -> usize {
        self.pieces.len() * PIECE * size_of::<T>()
    }

    /// Bytes that have to be there for so many rows more.
    fn bytes_for(&self, more: usize) -> usize {
        ((self.count + more).div_ceil(PIECE) - self.pieces.len()) * PIECE * size_of::<T>()
    }

    fn push(&mut self, of_row: T) {
        if self.count == self.pieces.len() * PIECE {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(of_row);
            self.count += 1;
        }
    }

    #[inline]
    fn at(&self, row: u32) -> &T {
        &self.pieces[row as usize / PIECE][row as usize % PIECE]
    }
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("rows", &self.entries.len()).finish_non_exhaustive()
    }
}

/// Whether the pool is asked for memory, or only told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Asked,
    Taken,
}

impl Known {
    /// Reads the target. Fails with `ResourcesExhausted` where it does not fit in what
    /// the pool gives. `one_key`: all rows have one key, and only the first is held; the others are counted.
    pub(super) async fn read(
        columns: &Columns,
        mut target: impl Batches,
        reservation: MemoryReservation,
        room: Room,
        one_key: bool,
    ) -> DataFusionResult<Self> {
        let mut filling = Filling::new(columns, reservation, room);
        let mut uncounted = 0;
        while let Some(batch) = target.next().await {
            let batch = batch?;
            if one_key {
                let held = usize::from(filling.entries.len() == 0).min(batch.num_rows());
                uncounted += (batch.num_rows() - held) as u64;
                filling.add(&batch.slice(0, held))?;
            } else {
                filling.add(&batch)?;
            }
        }
        filling.finish(uncounted)
    }

    fn index(&mut self, homes: &ByRow<u32>) {
        let mut firsts = [EMPTY; AT_ONCE];
        for start in (0..self.entries.len()).step_by(AT_ONCE) {
            let rows = start..(start + AT_ONCE).min(self.entries.len());
            for (first, row) in firsts.iter_mut().zip(rows.clone()) {
                *first = self.slots[self.slot(*homes.at(row as u32))];
            }
            for (first, row) in firsts.iter().zip(rows) {
                let row = row as u32;
                let key = Key { home: *homes.at(row), rest: self.entries.at(row).key };
                let slot = self.slot(key.home);
                let free = match *first == EMPTY && self.slots[slot] == EMPTY {
                    true => Err(slot),
                    false => self.search(key),
                };
                match free {
                    Ok(_) => self.duplicates += 1,
                    Err(free) => self.slots[free] = row | self.tag(key),
                }
            }
        }
    }

    /// The highest bits, as a part of the table's length.
    #[inline]
    fn slot(&self, home: u32) -> usize {
        ((u64::from(home) * self.slots.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }

    pub(super) fn rows(&self) -> u64 {
        self.entries.len() as u64 + self.left_out
    }

    /// How many of them count as deleted.
    pub(super) fn gone(&self) -> u64 {
        if self.has_gone { self.batches.iter().map(Held::gone).sum() } else { 0 }
    }

    /// The rows with these keys, at most [`AT_ONCE`] of them.
    ///
    /// Each lookup goes to two places far apart in memory. All first places are asked for before any is waited for, and
    /// then all second ones: what one wait costs serves many rows.
    pub(super) fn find(&self, keys: &[u128], found: &mut [Option<Found>; AT_ONCE]) {
        let mut candidates = [0; AT_ONCE];
        for (candidate, key) in candidates.iter_mut().zip(keys) {
            *candidate = self.slots[self.slot(Key::of(*key).home)];
        }
        let mut entries = [Entry::default(); AT_ONCE];
        if self.entries.len() > 0 {
            for ((entry, candidate), _) in entries.iter_mut().zip(&candidates).zip(keys) {
                let row = candidate & self.row_mask;
                *entry = *self.entries.at(if *candidate == EMPTY { 0 } else { row });
            }
        }
        for (((found, candidate), entry), key) in found.iter_mut().zip(candidates).zip(entries).zip(keys) {
            let key = Key::of(*key);
            *found = match candidate {
                EMPTY => None,
                _ if candidate & !self.row_mask == self.tag(key) && entry.key == key.rest => {
                    Some(Found { row: candidate & self.row_mask, digest: entry.digest })
                }
                _ => self.search(key).ok().map(|row| Found { row, digest: self.entries.at(row).digest }),
            };
        }
    }

    /// The row with this key, or the slot where it would be.
    #[inline]
    fn search(&self, key: Key) -> Result<u32, usize> {
        let tag = self.tag(key);
        let mut slot = self.slot(key.home);
        loop {
            let held = self.slots[slot];
            if held == EMPTY {
                return Err(slot);
            }
            let row = held & self.row_mask;
            if held & !self.row_mask == tag && self.entries.at(row).key == key.rest {
                return Ok(row);
            }
            slot = self.after(slot);
        }
    }

    /// The bits of a key that a slot has room for beside the row: the lowest of its home, which say little of the slot.
    #[inline]
    fn tag(&self, key: Key) -> u32 {
        key.home.wrapping_mul(self.row_mask.wrapping_add(1))
    }

    /// Whether the row holds these values, and counts as being there.
    pub(super) fn holds(&self, found: Found, digests: &Digests, of: usize) -> bool {
        let row = found.row;
        let same = match digests.hash(of) {
            Some(hash) => found.digest == hash as u64 && self.unhashed.binary_search(&row).is_err(),
            None => {
                let (batch, position) = self.position(row);
                digests.same_exactly(of, self.batches[batch].exact.as_ref(), position)
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
        let batches: Vec<&Packed> = self.batches.iter().map(|b| &b.rows).collect();
        let positions: Vec<_> = rows.iter().map(|row| self.position(*row)).collect();
        Packed::interleave(&batches, &positions)
    }

    /// Key and carried columns of the rows of each batch whose key the source has not, marked rows aside.
    pub(super) fn unseen(&self) -> impl Iterator<Item = DataFusionResult<RecordBatch>> + '_ {
        self.batches.iter().zip(&self.starts).map(|(batch, start)| {
            let unseen: Vec<(usize, usize)> = (0..batch.rows.num_rows())
                .filter(|i| !self.is_seen(start + *i as u32) && !batch.is_gone(*i))
                .map(|i| (0, i))
                .collect();
            Packed::interleave(&[&batch.rows], &unseen)
        })
    }
}

/// A table that is being read.
struct Filling<'a> {
    columns: &'a Columns,
    reservation: MemoryReservation,
    room: Room,
    batches: Vec<Held>,
    starts: Vec<u32>,
    entries: ByRow<Entry>,
    /// [`Key::home`] of each row.
    homes: ByRow<u32>,
    unhashed: Vec<u32>,
    has_gone: bool,
    /// Small batches, and how many rows and bytes they have: they are joined into one.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
}

/// Rows and bytes of small batches that wait to be joined.
const JOINED_ROWS: usize = 8192;
const JOINED_BYTES: usize = 256 << 10;

impl<'a> Filling<'a> {
    fn new(columns: &'a Columns, reservation: MemoryReservation, room: Room) -> Self {
        Self {
            columns,
            reservation,
            room,
            batches: Vec::new(),
            starts: Vec::new(),
            entries: ByRow::new(),
            homes: ByRow::new(),
            unhashed: Vec::new(),
            has_gone: false,
            waiting: Vec::new(),
            waiting_rows: 0,
            waiting_bytes: 0,
        }
    }

    fn grow(&self, bytes: usize) -> DataFusionResult<()> {
        match self.room {
            Room::Asked => self.reservation.try_grow(bytes),
            Room::Taken => {
                self.reservation.grow(bytes);
                Ok(())
            }
        }
    }

    fn add(&mut self, batch: &RecordBatch) -> DataFusionResult<()> {
        let rows = batch.num_rows();
        self.grow(self.entries.bytes_for(rows) + self.homes.bytes_for(rows))?;
        u32::try_from(self.entries.len() + rows).map_err(|_| too_many())?;
        let keys = self.columns.target_keys(batch)?;
        let digests = self.columns.target_digests(batch)?;
        for row in 0..rows {
            let digest = digests.hash(row);
            if digests.are_hashes() && digest.is_none() {
                self.unhashed.push(self.entries.len() as u32);
            }
            let key = Key::of(number(keys.value(row)));
            self.homes.push(key.home);
            self.entries.push(Entry { key: key.rest, digest: digest.unwrap_or_default() as u64 });
        }
        let (held, bytes) = compacted(self.columns.held_columns(batch)?)?;
        self.grow(bytes)?;
        self.waiting.push(held);
        self.waiting_rows += rows;
        self.waiting_bytes += bytes;
        if self.waiting_rows >= JOINED_ROWS || self.waiting_bytes >= JOINED_BYTES { self.join() } else { Ok(()) }
    }

    /// Keeps what waits as one batch.
    fn join(&mut self) -> DataFusionResult<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let joined = match waiting.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            [first, ..] => concat_batches(&first.schema(), &waiting)?,
        };
        let held = self.columns.held(&joined)?;
        let bytes = held.bytes();
        // What waited goes in a moment: it is not asked for twice.
        match bytes.checked_sub(self.waiting_bytes) {
            Some(more) => self.grow(more)?,
            None => self.reservation.shrink(self.waiting_bytes - bytes),
        }
        let start = self.starts.last().map_or(0, |start| *start as usize)
            + self.batches.last().map_or(0, |batch| batch.rows.num_rows());
        self.starts.push(u32::try_from(start).map_err(|_| too_many())?);
        self.has_gone |= held.has_gone();
        self.batches.push(held);
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        Ok(())
    }

    fn finish(mut self, left_out: u64) -> DataFusionResult<Known> {
        self.join()?;
        let rows = self.entries.len();
        let slots = (rows + rows / 3).max(16);
        self.grow(slots * size_of::<u32>() + rows.div_ceil(8))?;
        let mut known = Known {
            seen: (0..rows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            batches: self.batches,
            starts: self.starts,
            slots: vec![EMPTY; slots],
            // No row has all of these bits set, so that none of the slots in use looks empty.
            row_mask: (rows as u32).checked_add(1).and_then(u32::checked_next_power_of_two).map_or(u32::MAX, |n| n - 1),
            unhashed: self.unhashed,
            has_gone: self.has_gone,
            duplicates: left_out,
            left_out,
            entries: self.entries,
            reservation: self.reservation,
        };
        known.index(&self.homes);
        known.reservation.shrink(self.homes.bytes());
        Ok(known)
    }
}

fn too_many() -> Error {
    Error::internal("more target rows than a table in memory can number")
}
