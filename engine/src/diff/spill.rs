//! Rows on disk, in parts by key hash: all rows of one key are in one part.
//!
//! All parts of one split lie in one file, piece by piece, so that the number of open files goes by the workers, never by
//! the parts.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use arrow::array::{Array, FixedSizeBinaryArray, RecordBatch, UInt32Array};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamEncoder;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SpillFile, SpillWriter, TaskContext};

use super::changes::number;
use super::compact::{compacted, with_own_texts};
use crate::Error;

const FILE_BUFFER: usize = 64 << 10;

/// How rows are split: into how many parts, and by which bits of the key's hash. Each level uses bits of its own, so that
/// rows that fell into one part fall apart when that part is split again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fan {
    pub(super) parts: u16,
    pub(super) level: u8,
}

impl Fan {
    /// Levels that have bits of their own. The lowest bits spread a part's keys over its table.
    pub(super) const LEVELS: u8 = 7;

    fn part_of(self, key: u128) -> usize {
        let bits = (key >> (112 - 16 * u32::from(self.level))) as u16;
        usize::from(bits % self.parts)
    }
}

/// Bytes of rows that one worker lets wait for a side while it splits them.
pub(super) fn buffer(context: &TaskContext, workers: usize) -> usize {
    let limit = match context.memory_pool().memory_limit() {
        MemoryLimit::Finite(bytes) => bytes,
        _ => 1 << 30,
    };
    (limit / 16 / workers.max(1)).clamp(256 << 10, 32 << 20)
}

/// What one worker split. The file goes with it.
pub(super) struct Spilled {
    file: Arc<dyn SpillFile>,
    /// What comes before the first piece, and belongs before every part.
    header: u64,
    parts: Vec<PartIndex>,
    /// Holds the memory of the index.
    _reservation: MemoryReservation,
}

impl std::fmt::Debug for Spilled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spilled").field("path", &self.file.path()).finish_non_exhaustive()
    }
}

/// Where the rows of a part lie, and what is known of them.
#[derive(Debug, Default)]
struct PartIndex {
    pieces: Vec<Piece>,
    size: PartSize,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    length: u64,
}

/// How much is in a part.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PartSize {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// The hash of its keys, as long as there is only one.
    key: Option<u128>,
    several_keys: bool,
}

impl PartSize {
    fn see(&mut self, keys: impl Iterator<Item = u128>) {
        for key in keys {
            self.rows += 1;
            self.several_keys |= *self.key.get_or_insert(key) != key;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.several_keys |= other.several_keys || self.key.zip(other.key).is_some_and(|(a, b)| a != b);
        self.key = self.key.or(other.key);
    }

    /// Whether no split takes its rows apart.
    pub(super) fn is_one_key(&self) -> bool {
        !self.several_keys
    }
}

impl Spilled {
    pub(super) fn size(&self, part: usize) -> PartSize {
        self.parts[part].size
    }

    /// The rows of a part, batch by batch, as they were written. The file is open as long as it is read.
    pub(super) fn read(self: &Arc<Self>, part: usize) -> DataFusionResult<PartReader> {
        let path = self.file.path().ok_or_else(|| Error::internal("rows can only be put aside in local files"))?;
        let mut reader = PartReader {
            file: File::open(path).map_err(DataFusionError::from)?,
            of: Arc::clone(self),
            part,
            next: 0,
            decoder: StreamDecoder::new(),
            whole: self.header == 0,
        };
        if self.header > 0 {
            let header = Piece { offset: 0, length: self.header };
            reader.decode(header)?;
        }
        Ok(reader)
    }
}

/// Reads the pieces of one part.
pub(super) struct PartReader {
    file: File,
    of: Arc<Spilled>,
    part: usize,
    /// The number of the next piece.
    next: usize,
    decoder: StreamDecoder,
    /// Each piece begins with the schema.
    whole: bool,
}

impl PartReader {
    fn decode(&mut self, piece: Piece) -> DataFusionResult<Option<RecordBatch>> {
        let length = usize::try_from(piece.length).map_err(|_| Error::internal("a piece of a part is too large"))?;
        let mut bytes = MutableBuffer::from_len_zeroed(length);
        self.file.seek(SeekFrom::Start(piece.offset)).map_err(DataFusionError::from)?;
        self.file.read_exact(&mut bytes).map_err(DataFusionError::from)?;
        let mut bytes: Buffer = bytes.into();
        if self.whole {
            self.decoder = StreamDecoder::new();
        }
        let mut rows = None;
        while !bytes.is_empty() {
            // The batch without rows that brought the schema comes out with the first piece: it has no body to wait for.
            if let Some(batch) = self.decoder.decode(&mut bytes)?.filter(|batch| batch.num_rows() > 0) {
                rows = Some(batch);
            }
        }
        Ok(rows)
    }
}

impl Iterator for PartReader {
    type Item = DataFusionResult<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = *self.of.parts[self.part].pieces.get(self.next)?;
        self.next += 1;
        self.decode(piece).transpose()
    }
}

/// Splits rows into parts.
pub(super) struct Spill {
    schema: SchemaRef,
    fan: Fan,
    file: Arc<dyn SpillFile>,
    writer: BufWriter<Box<dyn SpillWriter>>,
    written: u64,
    header: u64,
    /// `None` where each piece is encoded by itself, with its dictionaries.
    encoder: Option<StreamEncoder>,
    waiting: Vec<Vec<RecordBatch>>,
    index: Vec<PartIndex>,
    buffered: usize,
    /// Bytes that may wait in memory.
    limit: usize,
    reservation: MemoryReservation,
    index_reservation: MemoryReservation,
}

impl Spill {
    pub(super) fn new(schema: &SchemaRef, fan: Fan, limit: usize, context: &TaskContext) -> DataFusionResult<Self> {
        let file = context.runtime_env().disk_manager.create_tmp_file("a comparison")?;
        let writer = BufWriter::with_capacity(FILE_BUFFER, file.open_writer()?);
        let has_dictionaries =
            schema.flattened_fields().iter().any(|f| matches!(f.data_type(), DataType::Dictionary(..)));
        let pool = context.memory_pool();
        let mut spill = Self {
            schema: Arc::clone(schema),
            fan,
            file,
            writer,
            written: 0,
            header: 0,
            encoder: None,
            waiting: vec![Vec::new(); usize::from(fan.parts)],
            index: (0..fan.parts).map(|_| PartIndex::default()).collect(),
            buffered: 0,
            limit,
            reservation: MemoryConsumer::new("DiffExec split").with_can_spill(true).register(pool),
            index_reservation: MemoryConsumer::new("DiffExec index").register(pool),
        };
        spill.reservation.grow(FILE_BUFFER);
        if !has_dictionaries {
            let mut encoder = StreamEncoder::try_new(schema)?;
            // The first batch brings the schema, which every part is to begin with.
            let first = encoder.encode(&RecordBatch::new_empty(Arc::clone(schema)))?;
            spill.header = spill.append(&first)?;
            spill.encoder = Some(encoder);
        }
        Ok(spill)
    }

    /// Adds rows, each to the part of its key.
    pub(super) fn write(&mut self, batch: &RecordBatch, keys: &FixedSizeBinaryArray) -> DataFusionResult<()> {
        let count = self.index.len();
        let parts: Vec<u16> = (0..keys.len()).map(|row| self.fan.part_of(number(keys.value(row))) as u16).collect();
        let mut starts = vec![0_usize; count + 1];
        for part in &parts {
            starts[usize::from(*part) + 1] += 1;
        }
        for part in 0..count {
            starts[part + 1] += starts[part];
        }
        let mut next = starts.clone();
        let mut order = vec![0_u32; keys.len()];
        for (row, part) in parts.iter().enumerate() {
            let at = &mut next[usize::from(*part)];
            order[*at] = row as u32;
            *at += 1;
        }
        for (part, ends) in starts.windows(2).enumerate() {
            let rows = &order[ends[0]..ends[1]];
            self.index[part].size.see(rows.iter().map(|row| number(keys.value(*row as usize))));
        }
        let (ordered, bytes) = compacted(take_record_batch(batch, &UInt32Array::from(order))?)?;
        if self.reservation.try_grow(bytes).is_err() {
            self.flush()?;
            // These rows are in memory already.
            self.reservation.grow(bytes);
        }
        self.buffered += bytes;
        for (part, ends) in starts.windows(2).enumerate() {
            if ends[1] > ends[0] {
                self.waiting[part].push(ordered.slice(ends[0], ends[1] - ends[0]));
            }
        }
        if self.buffered > self.limit { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> DataFusionResult<()> {
        for part in 0..self.waiting.len() {
            let waiting = std::mem::take(&mut self.waiting[part]);
            if waiting.is_empty() {
                continue;
            }
            let rows = with_own_texts(concat_batches(&self.schema, &waiting)?)?;
            let encoded = match &mut self.encoder {
                Some(encoder) => encoder.encode(&rows)?,
                None => StreamEncoder::try_new(&self.schema)?.encode(&rows)?,
            };
            let piece = Piece { offset: self.written, length: self.append(&encoded)? };
            self.index_reservation.grow(size_of::<Piece>());
            self.index[part].size.bytes += piece.length;
            self.index[part].pieces.push(piece);
        }
        self.buffered = 0;
        self.reservation.resize(FILE_BUFFER);
        Ok(())
    }

    /// Bytes that were written.
    fn append(&mut self, buffers: &[Buffer]) -> DataFusionResult<u64> {
        let mut length = 0;
        for buffer in buffers {
            self.writer.write_all(buffer).map_err(DataFusionError::from)?;
            length += buffer.len() as u64;
        }
        self.written += length;
        Ok(length)
    }

    pub(super) fn finish(mut self) -> DataFusionResult<Spilled> {
        self.flush()?;
        self.writer.flush().map_err(DataFusionError::from)?;
        Ok(Spilled { file: self.file, header: self.header, parts: self.index, _reservation: self.index_reservation })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int64Array, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn rows(from: i64, count: i64) -> (RecordBatch, FixedSizeBinaryArray) {
        let numbers = Int64Array::from_iter_values(from..from + count);
        let words: DictionaryArray<Int32Type> = (from..from + count).map(|n| ["a", "b", "c"][n as usize % 3]).collect();
        let text = StringArray::from_iter_values((from..from + count).map(|n| format!("text {n}")));
        let keys: Vec<_> =
            (from..from + count).map(|n| (n as u128).wrapping_mul(u128::MAX / 5).to_be_bytes()).collect();
        let keys = FixedSizeBinaryArray::try_from_iter(keys.into_iter()).unwrap();
        let columns: [(&str, ArrayRef); 3] = [("n", Arc::new(numbers)), ("w", Arc::new(words)), ("t", Arc::new(text))];
        (RecordBatch::try_from_iter(columns).unwrap(), keys)
    }

    /// Whatever the types and however small the buffer, every row comes back once, in the part of its key.
    #[test]
    fn rows_come_back_from_their_parts() {
        let context = TaskContext::default();
        for columns in [vec![0, 1, 2], vec![0, 2]] {
            let schema = Arc::new(rows(0, 1).0.schema().project(&columns).unwrap());
            let fan = Fan { parts: 5, level: 2 };
            let mut spill = Spill::new(&schema, fan, 1000, &context).unwrap();
            for start in (0..1000).step_by(100) {
                let (batch, keys) = rows(start, 100);
                spill.write(&batch.project(&columns).unwrap(), &keys).unwrap();
            }
            let spilled = Arc::new(spill.finish().unwrap());
            let mut found = Vec::new();
            for part in 0..5 {
                let mut count = 0;
                for batch in spilled.read(part).unwrap() {
                    let batch = batch.unwrap();
                    assert_eq!(batch.schema(), schema);
                    count += batch.num_rows() as u64;
                    let numbers = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>();
                    let text = batch.column(batch.num_columns() - 1).as_string::<i32>();
                    for (n, t) in numbers.values().iter().zip(text) {
                        assert_eq!(t, Some(format!("text {n}").as_str()));
                        assert_eq!(fan.part_of((*n as u128).wrapping_mul(u128::MAX / 5)), part);
                        found.push(*n);
                    }
                }
                assert_eq!(spilled.size(part).rows, count);
            }
            found.sort_unstable();
            assert_eq!(found, (0..1000).collect::<Vec<_>>());
        }
    }
}
