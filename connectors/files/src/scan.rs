//! The scan of CSV and NDJSON files: an engine [`Scan`], so that it prints, runs and serialises like any other.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use dpone_engine::{Result, Scan};

use crate::config::{Format, TextOptions, by_extension};
use crate::csv::{Records, column};
use crate::decode::decompressed;
use crate::location::{Location, PinnedFile, read_error};
use crate::ndjson::{self, Lines};

/// Batches that wait for the plan, for each partition.
const IN_FLIGHT: usize = 2;

/// Everything that a partition needs, apart from the place that the connection names.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct TextScanSpec {
    /// The files of each partition.
    pub(crate) partitions: Vec<Vec<PinnedFile>>,
    pub(crate) options: TextOptions,
    /// All columns of the files.
    pub(crate) schema: Schema,
    /// The columns that are read, in order.
    pub(crate) projection: Vec<usize>,
    /// No partition needs to give more rows.
    pub(crate) limit: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct TextScan {
    connection: String,
    location: Location,
    spec: Arc<TextScanSpec>,
    schema: SchemaRef,
}

impl TextScan {
    pub(crate) fn try_new(connection: String, location: Location, spec: TextScanSpec) -> Result<Self> {
        let schema = Arc::new(spec.schema.project(&spec.projection)?);
        Ok(Self { connection, location, spec: Arc::new(spec), schema })
    }
}

impl Scan for TextScan {
    fn connection(&self) -> &str {
        &self.connection
    }

    fn spec(&self) -> serde_json::Value {
        // Every part of it is plain data: it cannot fail.
        serde_json::to_value(self.spec.as_ref()).unwrap_or_default()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn partitions(&self) -> usize {
        self.spec.partitions.len()
    }

    fn describe(&self, partition: usize) -> String {
        let files = self.spec.partitions.get(partition).map(Vec::as_slice).unwrap_or_default();
        let bytes: u64 = files.iter().map(|f| f.size).sum();
        let names: Vec<_> = files.iter().take(3).map(PinnedFile::name).collect();
        let more = if files.len() > 3 { format!(" and {} more", files.len() - 3) } else { String::new() };
        format!("read {}{more} ({bytes} bytes), columns {}", names.join(", "), column_names(&self.schema))
    }

    fn rows_estimate(&self) -> Option<u64> {
        None
    }

    fn read(&self, partition: usize, batch_rows: usize) -> Result<SendableRecordBatchStream> {
        let files = self.spec.partitions.get(partition).cloned().unwrap_or_default();
        let mut builder = RecordBatchReceiverStream::builder(self.scan_schema(), IN_FLIGHT);
        let reader = Reader {
            location: self.location.clone(),
            spec: Arc::clone(&self.spec),
            schema: Arc::clone(&self.schema),
            runtime: tokio::runtime::Handle::current(),
            batch_rows: batch_rows.max(1),
            left: self.spec.limit.unwrap_or(usize::MAX),
        };
        let output = builder.tx();
        builder.spawn_blocking(move || {
            let mut reader = reader;
            // A closed channel means that nobody wants more.
            let mut send = |batch| output.blocking_send(Ok(batch)).is_ok();
            for file in files {
                if !reader.read_file(&file, &mut send)? {
                    break;
                }
            }
            Ok(())
        });
        Ok(builder.build())
    }
}

impl TextScan {
    fn scan_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

fn column_names(schema: &Schema) -> String {
    schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// Reads files one after the other, in a thread that may block.
struct Reader {
    location: Location,
    spec: Arc<TextScanSpec>,
    schema: SchemaRef,
    runtime: tokio::runtime::Handle,
    batch_rows: usize,
    left: usize,
}

impl Reader {
    /// False when no more rows are wanted.
    fn read_file(&mut self, file: &PinnedFile, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        let input = open_text(&self.location, file, &self.spec.options, &self.runtime)?;
        let go_on = match self.spec.options.format {
            Format::Ndjson => self.read_lines(Lines::new(input, &file.path), send)?,
            _ => self.read_records(Records::new(input, &file.path, self.spec.options.syntax), send)?,
        };
        if go_on {
            self.runtime.block_on(self.location.check_unchanged(file))?;
        }
        Ok(go_on)
    }

    fn read_records(&mut self, mut records: Records, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        let mut first = self.spec.options.header;
        loop {
            let rows = records.read(if first { 1 } else { self.batch_rows.min(self.left) })?;
            if rows == 0 {
                return Ok(true);
            }
            if records.width() != self.spec.schema.fields().len() {
                let (expected, found) = (self.spec.schema.fields().len(), records.width());
                return Err(records.error(records.line(0), format!("{expected} columns were expected, {found} found")));
            }
            if std::mem::take(&mut first) {
                self.check_header(&records)?;
                continue;
            }
            let columns = self
                .spec
                .projection
                .iter()
                .zip(self.schema.fields())
                .map(|(index, field)| column(&records, *index, field, &self.spec.options.nulls));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
            if !self.give(batch, send) {
                return Ok(false);
            }
        }
    }

    /// Every file has the header of the first one: a column in another place would be read as something else.
    fn check_header(&self, records: &Records) -> Result<()> {
        for (i, field) in self.spec.schema.fields().iter().enumerate() {
            if records.field(0, i).0 != field.name().as_bytes() {
                return Err(records
                    .error(records.line(0), format!("the header's column {} is not {:?}", i + 1, field.name()))
                    .with_hint("files that are read together have the same columns in the same order"));
            }
        }
        Ok(())
    }

    fn read_lines(&mut self, mut lines: Lines, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        loop {
            if lines.next(self.batch_rows)?.is_empty() {
                return Ok(true);
            }
            for batch in ndjson::decode(&lines, &self.schema, self.batch_rows)? {
                if !self.give(batch, send) {
                    return Ok(false);
                }
            }
        }
    }

    fn give(&mut self, batch: RecordBatch, send: &mut dyn FnMut(RecordBatch) -> bool) -> bool {
        let rows = batch.num_rows().min(self.left);
        self.left -= rows;
        send(batch.slice(0, rows)) && self.left > 0
    }
}

/// Opens a file and decompresses it.
pub(crate) fn open_text(
    location: &Location,
    file: &PinnedFile,
    options: &TextOptions,
    runtime: &tokio::runtime::Handle,
) -> Result<Box<dyn std::io::Read + Send>> {
    let compression = options.compression.unwrap_or_else(|| by_extension(file.name()).1);
    decompressed(location.open(file, runtime)?, compression).map_err(|e| read_error(&file.path, e))
}
