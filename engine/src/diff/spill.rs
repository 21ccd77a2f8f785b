//! Rows on disk, in parts by key hash: all rows of one key are in one part.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, FixedSizeBinaryArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SpillFile;
use datafusion::execution::TaskContext;

use crate::Error;

/// One part that was written. The file goes with it.
pub(super) struct SpilledPart {
    file: Arc<dyn SpillFile>,
}

impl std::fmt::Debug for SpilledPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpilledPart").field("path", &self.file.path()).finish_non_exhaustive()
    }
}

impl SpilledPart {
    /// The rows, batch by batch, as they were written.
    pub(super) fn read(&self) -> DataFusionResult<impl Iterator<Item = DataFusionResult<RecordBatch>> + use<>> {
        let file = BufReader::with_capacity(FILE_BUFFER, File::open(path(&self.file)?).map_err(DataFusionError::from)?);
        Ok(StreamReader::try_new(file, None)?.map(|batch| Ok(batch?)))
    }
}

/// Splits rows over as many files as there are parts.
pub(super) struct Spill {
    schema: SchemaRef,
    parts: Vec<Part>,
    buffered: usize,
    /// Bytes that may wait in memory.
    limit: usize,
}

struct Part {
    file: Arc<dyn SpillFile>,
    writer: StreamWriter<BufWriter<File>>,
    waiting: Vec<RecordBatch>,
}

const FILE_BUFFER: usize = 64 << 10;

fn path(file: &Arc<dyn SpillFile>) -> DataFusionResult<&Path> {
    Ok(file.path().ok_or_else(|| Error::internal("rows can only be put aside in local files"))?)
}

impl Spill {
    pub(super) fn new(schema: &SchemaRef, parts: u16, limit: usize, context: &TaskContext) -> DataFusionResult<Self> {
        let disk = &context.runtime_env().disk_manager;
        let part = |_| {
            let file = disk.create_tmp_file("a comparison")?;
            let sink =
                BufWriter::with_capacity(FILE_BUFFER, File::create(path(&file)?).map_err(DataFusionError::from)?);
            Ok(Part { file, writer: StreamWriter::try_new(sink, schema)?, waiting: Vec::new() })
        };
        let parts = (0..parts).map(part).collect::<DataFusionResult<_>>()?;
        Ok(Self { schema: Arc::clone(schema), parts, buffered: 0, limit })
    }

    /// Adds rows, each to the part of its key.
    pub(super) fn write(&mut self, batch: &RecordBatch, keys: &FixedSizeBinaryArray) -> DataFusionResult<()> {
        let count = self.parts.len();
        let part_of = |row: usize| {
            let key = keys.value(row);
            // The table of a part goes by the low bytes, so that its keys spread over it.
            usize::from(u16::from_be_bytes([key[0], key[1]])) % count
        };
        let mut starts = vec![0_usize; count + 1];
        for row in 0..keys.len() {
            starts[part_of(row) + 1] += 1;
        }
        for part in 0..count {
            starts[part + 1] += starts[part];
        }
        let mut next = starts.clone();
        let mut order = vec![0_u32; keys.len()];
        for row in 0..keys.len() {
            let at = &mut next[part_of(row)];
            order[*at] = row as u32;
            *at += 1;
        }
        let ordered = take_record_batch(batch, &UInt32Array::from(order))?;
        self.buffered += ordered.get_array_memory_size();
        for (part, ends) in starts.windows(2).enumerate() {
            if ends[1] > ends[0] {
                self.parts[part].waiting.push(ordered.slice(ends[0], ends[1] - ends[0]));
            }
        }
        if self.buffered > self.limit { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> DataFusionResult<()> {
        for part in &mut self.parts {
            if !part.waiting.is_empty() {
                part.writer.write(&concat_batches(&self.schema, &part.waiting)?)?;
                part.waiting.clear();
            }
        }
        self.buffered = 0;
        Ok(())
    }

    pub(super) fn finish(mut self) -> DataFusionResult<Vec<SpilledPart>> {
        self.flush()?;
        self.parts
            .into_iter()
            .map(|mut part| {
                part.writer.finish()?;
                Ok(SpilledPart { file: part.file })
            })
            .collect()
    }
}
