//! Writes Parquet files into a table's folder, where nobody sees them until a log entry names them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use dpone_engine::{Error, Result};
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::config::Place;
use crate::table::DataFile;
use crate::{error, stats};

/// A row group is closed at this many rows or encoded bytes, whichever comes first: this bounds a writer's memory.
const GROUP_ROWS: usize = 1 << 20;
const GROUP_BYTES: usize = 32 << 20;
/// A file is closed when it has about this size.
const FILE_BYTES: usize = 256 << 20;
/// Files open at once while the rows of many partition values arrive in any order.
const OPEN_FILES: usize = 32;

/// A finished file, as staging reports it and a commit names it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct WrittenFile {
    /// Relative to the table's folder.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) rows: u64,
    pub(crate) partition_values: HashMap<String, Option<String>>,
    pub(crate) stats: String,
}

impl WrittenFile {
    pub(crate) fn data_file(&self) -> DataFile {
        DataFile {
            path: self.path.clone(),
            size: self.size,
            modified: 0,
            partition_values: self.partition_values.clone(),
            stats: Some(self.stats.clone()),
            rows: Some(self.rows),
        }
    }
}

struct OpenFile {
    path: String,
    writer: AsyncArrowWriter<BufWriter>,
    partition_values: HashMap<String, Option<String>>,
    /// When it was last written to, in batches.
    used: u64,
}

/// Splits batches by partition values and writes each share to its own files.
pub(crate) struct TableWriter {
    place: Place,
    /// `<load id>/<name>`: files are `<load id>/<name>-<number>.parquet`.
    stem: String,
    inside: SchemaRef,
    inside_columns: Vec<usize>,
    partition_columns: Vec<(String, usize)>,
    converter: Option<RowConverter>,
    properties: WriterProperties,
    open: HashMap<Vec<u8>, OpenFile>,
    done: Vec<WrittenFile>,
    files: usize,
    batches: u64,
}

impl TableWriter {
    pub(crate) fn new(place: &Place, stem: String, schema: &Schema, partition_columns: &[String]) -> Result<Self> {
        let mut outside = Vec::new();
        let mut sort = Vec::new();
        for name in partition_columns {
            let index = schema.index_of(name).map_err(|_| {
                Error::configuration(format!("the partition column {name:?} is not a column of the table"))
            })?;
            let data_type = schema.field(index).data_type();
            if !stats::partitionable(data_type) {
                return Err(Error::configuration(format!(
                    "column {name:?} of type {data_type} cannot partition a Delta table"
                ))
                .with_hint("partition by a column of a whole number, text, boolean, date or timestamp type"));
            }
            sort.push(SortField::new(data_type.clone()));
            outside.push((name.clone(), index));
        }
        let inside_columns: Vec<_> =
            (0..schema.fields().len()).filter(|i| !outside.iter().any(|(_, o)| o == i)).collect();
        if inside_columns.is_empty() {
            return Err(Error::configuration("every column of the table is a partition column")
                .with_hint("leave at least one column out of partition_by"));
        }
        let fields: Vec<_> = inside_columns.iter().map(|i| bare(schema.field(*i))).collect();
        let inside = Arc::new(Schema::new(fields));
        Ok(Self {
            place: place.clone(),
            stem,
            properties: properties(&inside),
            inside,
            inside_columns,
            converter: if sort.is_empty() { None } else { Some(RowConverter::new(sort)?) },
            partition_columns: outside,
            open: HashMap::new(),
            done: Vec::new(),
            files: 0,
            batches: 0,
        })
    }

    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.batches += 1;
        let Some(converter) = &self.converter else {
            return self.write_share(Vec::new(), batch).await;
        };
        let columns: Vec<ArrayRef> = self.partition_columns.iter().map(|(_, i)| Arc::clone(batch.column(*i))).collect();
        refuse_empty_text(&self.partition_columns, &columns)?;
        let rows = converter.convert_columns(&columns)?;
        let mut shares: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for (i, row) in rows.iter().enumerate() {
            shares.entry(row.data()).or_default().push(i as u32);
        }
        let shares: Vec<_> = shares.into_iter().map(|(key, indices)| (key.to_vec(), indices)).collect();
        for (key, indices) in shares {
            if indices.len() == batch.num_rows() {
                self.write_share(key, batch).await?;
            } else {
                let share = take_record_batch(batch, &UInt32Array::from(indices))?;
                self.write_share(key, &share).await?;
            }
        }
        Ok(())
    }

    async fn write_share(&mut self, key: Vec<u8>, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let columns = self.inside_columns.iter().map(|i| Arc::clone(rows.column(*i))).collect();
        let inside = RecordBatch::try_new(Arc::clone(&self.inside), columns)?;
        if !self.open.contains_key(&key) {
            self.make_room().await?;
            let partition_values = self
                .partition_columns
                .iter()
                .map(|(name, i)| (name.clone(), stats::partition_text(rows.column(*i), 0)))
                .collect();
            let file = self.create(partition_values)?;
            self.open.insert(key.clone(), file);
        }
        let batches = self.batches;
        let Some(file) = self.open.get_mut(&key) else { return Err(Error::internal("an open file is missing")) };
        file.used = batches;
        file.writer.write(&inside).await.map_err(error::parquet)?;
        if file.writer.in_progress_size() > GROUP_BYTES {
            file.writer.flush().await.map_err(error::parquet)?;
        }
        if file.writer.bytes_written() > FILE_BYTES
            && let Some(file) = self.open.remove(&key)
        {
            self.close(file).await?;
        }
        Ok(())
    }

    fn create(&mut self, partition_values: HashMap<String, Option<String>>) -> Result<OpenFile> {
        let path = format!("{}-{:05}.parquet", self.stem, self.files);
        self.files += 1;
        let target = BufWriter::new(Arc::clone(&self.place.store), self.place.path(&path)?);
        let writer = AsyncArrowWriter::try_new(target, Arc::clone(&self.inside), Some(self.properties.clone()))
            .map_err(error::parquet)?;
        Ok(OpenFile { path, writer, partition_values, used: self.batches })
    }

    /// Closes the files that were idle longest, so that the number of open files, and with it memory, is bounded.
    async fn make_room(&mut self) -> Result<()> {
        let bytes: usize = self.open.values().map(|f| f.writer.memory_size()).sum();
        while self.open.len() >= OPEN_FILES || (bytes > 4 * GROUP_BYTES && self.open.len() > 1) {
            let idle = self.open.iter().min_by_key(|(_, f)| f.used).map(|(key, _)| key.clone());
            let Some(file) = idle.and_then(|key| self.open.remove(&key)) else { break };
            self.close(file).await?;
            if self.open.len() < OPEN_FILES {
                break;
            }
        }
        Ok(())
    }

    async fn close(&mut self, mut file: OpenFile) -> Result<()> {
        let footer = file.writer.finish().await.map_err(error::parquet)?;
        self.done.push(WrittenFile {
            size: file.writer.bytes_written() as u64,
            rows: footer.file_metadata().num_rows().max(0) as u64,
            stats: stats::from_footer(&self.inside, &footer),
            path: file.path,
            partition_values: file.partition_values,
        });
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> Result<Vec<WrittenFile>> {
        let keys: Vec<_> = self.open.keys().cloned().collect();
        for key in keys {
            if let Some(file) = self.open.remove(&key) {
                self.close(file).await?;
            }
        }
        Ok(self.done)
    }

    /// Gives up: removes what was written. Failures are left to `discard`.
    pub(crate) async fn abort(mut self) {
        for (_, file) in self.open.drain() {
            let mut upload = file.writer.into_inner();
            let _ = upload.abort().await;
        }
        for file in &self.done {
            if let Ok(path) = self.place.path(&file.path) {
                let _ = self.place.store.delete(&path).await;
            }
        }
    }
}

/// A field of a data file: native types belong to the log, not to each file.
fn bare(field: &Field) -> Field {
    Field::new(field.name(), field.data_type().clone(), field.is_nullable())
}

fn properties(schema: &Schema) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_created_by(concat!("dpone ", env!("CARGO_PKG_VERSION")).to_owned());
    for field in schema.fields() {
        // A NaN lies outside of Parquet's bounds, so that `x > 1` would pass over it.
        if matches!(field.data_type(), DataType::Float32 | DataType::Float64) {
            let path = ColumnPath::new(vec![field.name().clone()]);
            builder = builder.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    builder.build()
}

/// Delta reads an empty partition value as NULL.
fn refuse_empty_text(columns: &[(String, usize)], arrays: &[ArrayRef]) -> Result<()> {
    use arrow::array::AsArray;
    for ((name, _), array) in columns.iter().zip(arrays) {
        if array.data_type() == &DataType::Utf8 && array.as_string::<i32>().iter().any(|v| v == Some("")) {
            return Err(Error::data_quality(format!(
                "partition column {name:?} holds an empty text, which Delta reads back as NULL"
            ))
            .with("column", name)
            .with_hint("replace it in a query: NULLIF(column, ''), or partition by another column"));
        }
    }
    Ok(())
}
