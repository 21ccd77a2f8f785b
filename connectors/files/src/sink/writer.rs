//! Writes a stream of batches to files: in a thread of its own, one row group at a time, durable when it returns.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::{Error, Result};
use dpone_planner::types::{is_json, is_uuid};
use futures::StreamExt;
use object_store::ObjectStoreExt;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, GzipLevel, LogicalType, Type as PhysicalType, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::{ColumnPath, SchemaDescriptor, Type as ParquetType};
use tokio::io::AsyncWriteExt;

use super::csv_writer::CsvWriter;
use super::options::{Codec, WriteOptions};
use super::parquet::ParquetWriter;
use super::parquet::outgrown::outgrown;
use crate::config::Format;
use crate::location::{Remote, read_error, store_error};

/// A file ends after about as many bytes or rows, and the next one begins.
const FILE_BYTES: usize = 1 << 30;
const FILE_ROWS: u64 = 10_000_000;
/// Encoded bytes that a row group may hold in memory before it is written out.
const ROW_GROUP_BYTES: usize = 32 << 20;
/// Batches that wait for the encoder.
const IN_FLIGHT: usize = 2;

/// One written file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct WrittenFile {
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Where files are written.
#[derive(Debug, Clone)]
pub(crate) enum Folder {
    Local(PathBuf),
    Remote(Remote),
}

impl Folder {
    fn create(&self, name: &str, runtime: &tokio::runtime::Handle) -> Result<Box<dyn Output>> {
        Ok(match self {
            Self::Local(folder) => {
                let path = folder.join(name);
                let shown = path.display().to_string();
                let file = File::options().write(true).create_new(true).open(&path);
                let file = file.map_err(|e| read_error(&shown, e))?;
                Box::new(LocalOutput(BufWriter::with_capacity(1 << 20, file)))
            }
            Self::Remote(remote) => {
                let key = remote.prefix.clone().join(name);
                let upload = object_store::buffered::BufWriter::new(Arc::clone(&remote.store), key);
                Box::new(Upload { upload, runtime: runtime.clone() })
            }
        })
    }

    /// Takes back what a failed attempt wrote. Its names are not in any result, so this only saves space.
    async fn remove(&self, names: &[String]) {
        for name in names {
            match self {
                Self::Local(folder) => drop(std::fs::remove_file(folder.join(name))),
                Self::Remote(remote) => drop(remote.store.delete(&remote.prefix.clone().join(name.as_str())).await),
            }
        }
    }

    fn error(&self, error: io::Error) -> Error {
        match self {
            Self::Local(folder) => read_error(&folder.display().to_string(), error),
            Self::Remote(remote) => match error.downcast::<object_store::Error>() {
                Ok(inner) => store_error(&remote.shown, inner),
                Err(other) => read_error(&remote.shown, other),
            },
        }
    }
}

/// A file being written.
pub(crate) trait Output: Write + Send {
    /// Makes what was written durable.
    fn finish(&mut self) -> io::Result<()>;
}

struct LocalOutput(BufWriter<File>);

impl Write for LocalOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Output for LocalOutput {
    fn finish(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().sync_all()
    }
}

/// A multipart upload, which is an object only when it is finished.
struct Upload {
    upload: object_store::buffered::BufWriter,
    runtime: tokio::runtime::Handle,
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.upload.write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Upload {
    fn finish(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.upload.shutdown())
    }
}

/// Writes the stream to files called `<stem>-<n>.<extension>`. On an error the files are removed again. `on_batch`
/// runs after each batch that was handed over.
pub(crate) async fn write_stream(
    mut rows: SendableRecordBatchStream,
    folder: Folder,
    stem: String,
    schema: SchemaRef,
    options: WriteOptions,
    on_batch: Option<&'static str>,
) -> Result<Vec<WrittenFile>> {
    let (sender, mut batches) = tokio::sync::mpsc::channel::<RecordBatch>(IN_FLIGHT);
    let mut writer = Writer {
        folder: folder.clone(),
        stem,
        schema: Arc::clone(&schema),
        options,
        runtime: tokio::runtime::Handle::current(),
        open: None,
        begun: Vec::new(),
        written: Vec::new(),
    };
    let thread = tokio::task::spawn_blocking(move || {
        let mut outcome = Ok(());
        while let Some(batch) = batches.blocking_recv() {
            outcome = writer.write(&batch);
            if outcome.is_err() {
                break;
            }
        }
        // Closes the channel: the feeder stops at its next batch.
        drop(batches);
        (outcome, writer)
    });
    let mut fed = Ok(true);
    while let Some(batch) = rows.next().await {
        fed = feed(batch, &schema, &sender, on_batch).await;
        match &fed {
            Ok(true) => {}
            _ => break,
        }
    }
    drop(sender);
    let (outcome, mut writer) =
        thread.await.map_err(|e| Error::internal("the thread that writes files failed").with_source(e))?;
    let begun = writer.begun.clone();
    let failed = match (fed, outcome) {
        (Err(error), _) | (_, Err(error)) => Some(error),
        _ => None,
    };
    // In a thread that may block, even to give up: an encoder writes what it holds when it is dropped.
    let finish = tokio::task::spawn_blocking(move || match failed {
        Some(error) => Err(error),
        None => writer.finish(),
    });
    let finished = finish.await.map_err(|e| Error::internal("the thread that writes files failed").with_source(e))?;
    if finished.is_err() {
        folder.remove(&begun).await;
    }
    finished
}

/// False when the writer has stopped.
async fn feed(
    batch: datafusion::common::Result<RecordBatch>,
    schema: &SchemaRef,
    sender: &tokio::sync::mpsc::Sender<RecordBatch>,
    on_batch: Option<&'static str>,
) -> Result<bool> {
    let batch = batch?;
    if let Some(failpoint) = on_batch {
        dpone_engine::failpoint::reach(failpoint).await?;
    }
    if batch.num_rows() == 0 {
        return Ok(true);
    }
    // By name: the table's order of columns is kept whatever order they come in.
    let columns = schema.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name());
        column.cloned().ok_or_else(|| {
            Error::internal(format!("a batch without the column {:?} was given to the sink", field.name()))
        })
    });
    let batch = RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<Vec<_>>>()?)?;
    Ok(sender.send(batch).await.is_ok())
}

struct Writer {
    folder: Folder,
    stem: String,
    schema: SchemaRef,
    options: WriteOptions,
    runtime: tokio::runtime::Handle,
    open: Option<Open>,
    /// Names of all files that were begun.
    begun: Vec<String>,
    written: Vec<WrittenFile>,
}

struct Open {
    name: String,
    rows: u64,
    encoder: Encoder,
}

enum Encoder {
    Parquet(Box<ParquetWriter<Box<dyn Output>>>),
    Csv(Box<CsvWriter>),
}

impl Writer {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(batch)?,
        };
        open.rows += batch.num_rows() as u64;
        let bytes = match &mut open.encoder {
            Encoder::Parquet(writer) => {
                writer.write(batch).map_err(|e| self.parquet_error(e))?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush().map_err(|e| self.parquet_error(e))?;
                }
                writer.bytes_written() + writer.in_progress_size()
            }
            Encoder::Csv(writer) => writer.write(batch).map_err(|e| self.folder.error(e))?,
        };
        if bytes >= FILE_BYTES || open.rows >= FILE_ROWS {
            self.end(open)
        } else {
            self.open = Some(open);
            Ok(())
        }
    }

    /// `first` is what the file begins with.
    fn begin(&mut self, first: &RecordBatch) -> Result<Open> {
        let name = format!("{}-{}.{}", self.stem, self.begun.len(), self.options.extension());
        self.begun.push(name.clone());
        let output = self.folder.create(&name, &self.runtime)?;
        let encoder = match self.options.format {
            Format::Parquet => {
                let options = ArrowWriterOptions::new()
                    .with_properties(properties(&self.options, first)?)
                    .with_parquet_schema(parquet_schema(&self.schema).map_err(|e| self.parquet_error(e))?);
                let writer = ParquetWriter::try_new(output, Arc::clone(&self.schema), options);
                Encoder::Parquet(Box::new(writer.map_err(|e| self.parquet_error(e))?))
            }
            _ => {
                let writer = CsvWriter::new(output, &self.schema, self.options.clone());
                Encoder::Csv(Box::new(writer.map_err(|e| self.folder.error(e))?))
            }
        };
        Ok(Open { name, rows: 0, encoder })
    }

    fn end(&mut self, open: Open) -> Result<()> {
        let bytes = match open.encoder {
            Encoder::Parquet(mut writer) => {
                writer.finish().map_err(|e| self.parquet_error(e))?;
                writer.inner_mut().finish().map_err(|e| self.folder.error(e))?;
                writer.bytes_written() as u64
            }
            Encoder::Csv(writer) => writer.finish().map_err(|e| self.folder.error(e))?,
        };
        self.written.push(WrittenFile { name: open.name, rows: open.rows, bytes });
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<WrittenFile>> {
        if let Some(open) = self.open.take() {
            self.end(open)?;
        }
        if let Folder::Local(folder) = &self.folder {
            sync_folder(folder)?;
        }
        Ok(std::mem::take(&mut self.written))
    }

    fn parquet_error(&self, error: parquet::errors::ParquetError) -> Error {
        match error {
            parquet::errors::ParquetError::External(source) => match source.downcast::<io::Error>() {
                Ok(error) => self.folder.error(*error),
                Err(other) => Error::unknown(format!("writing Parquet failed: {other}")),
            },
            other => Error::unknown(format!("writing Parquet failed: {other}")),
        }
    }
}

/// The Parquet schema, with uuid and json columns marked as such for readers that do not know Arrow's extensions.
fn parquet_schema(schema: &Schema) -> parquet::errors::Result<SchemaDescriptor> {
    let converted = ArrowSchemaConverter::new().convert(schema)?;
    let root = converted.root_schema();
    let mut fields = root.get_fields().to_vec();
    for (field, column) in schema.fields().iter().zip(&mut fields) {
        let (physical, length, logical) = match field.data_type() {
            _ if is_uuid(field) => (PhysicalType::FIXED_LEN_BYTE_ARRAY, 16, LogicalType::Uuid),
            DataType::Utf8 if is_json(field) => (PhysicalType::BYTE_ARRAY, -1, LogicalType::Json),
            _ => continue,
        };
        let marked = ParquetType::primitive_type_builder(field.name(), physical)
            .with_length(length)
            .with_logical_type(Some(logical))
            .with_repetition(column.get_basic_info().repetition());
        *column = Arc::new(marked.build()?);
    }
    let root = ParquetType::group_type_builder(root.name()).with_fields(fields).build()?;
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

fn properties(options: &WriteOptions, first: &RecordBatch) -> Result<WriterProperties> {
    let compression = match options.codec {
        Codec::None => Compression::UNCOMPRESSED,
        Codec::Snappy => Compression::SNAPPY,
        Codec::Gzip => Compression::GZIP(GzipLevel::default()),
        Codec::Zstd(level) => {
            Compression::ZSTD(ZstdLevel::try_new(level).map_err(|e| Error::configuration(e.to_string()))?)
        }
    };
    let mut builder = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(options.row_group_rows))
        .set_created_by(format!("dpone version {}", env!("CARGO_PKG_VERSION")));
    for column in outgrown(first, options.row_group_rows)? {
        let path = ColumnPath::new(vec![first.schema().field(column).name().clone()]);
        builder = builder.set_column_dictionary_enabled(path, false);
    }
    Ok(builder.build())
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &std::path::Path) -> Result<()> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(|e| read_error(&folder.display().to_string(), e))
}
