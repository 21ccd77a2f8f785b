//! Writes batches to a Parquet file: columns whose values repeat by a [`DictionaryColumn`], the others by arrow's writers.

mod bounds;
mod column;
mod indexes;
mod lookup;
pub(super) mod outgrown;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves};
use parquet::errors::{ParquetError, Result};
use parquet::file::writer::SerializedFileWriter;

use column::{DictionaryColumn, takes};

/// Has the methods of arrow's writer.
pub(super) struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    group_rows: usize,
    group: Option<Group>,
}

/// A row group that is written.
struct Group {
    /// Of each leaf of the schema.
    columns: Vec<Column>,
    rows: usize,
}

enum Column {
    Dictionary(Box<DictionaryColumn>),
    Arrow(Box<ArrowColumnWriter>),
}

impl<W: Write + Send> ParquetWriter<W> {
    pub(super) fn try_new(output: W, schema: SchemaRef, options: ArrowWriterOptions) -> Result<Self> {
        let writer = ArrowWriter::try_new_with_options(output, Arc::clone(&schema), options)?;
        let (file, factory) = writer.into_serialized_writer()?;
        let group_rows = file.properties().max_row_group_row_count().unwrap_or(usize::MAX);
        Ok(Self { file, factory, schema, group_rows, group: None })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut at = 0;
        while at < batch.num_rows() {
            let group = match &mut self.group {
                Some(group) => group,
                None => {
                    let begun = Group::begin(&self.file, &self.factory, &self.schema)?;
                    self.group.insert(begun)
                }
            };
            let rows = (batch.num_rows() - at).min(self.group_rows - group.rows);
            group.write(&batch.slice(at, rows), &self.schema)?;
            at += rows;
            if group.rows >= self.group_rows {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Bytes of the row group that is written.
    pub(super) fn in_progress_size(&self) -> usize {
        let columns = self.group.iter().flat_map(|group| &group.columns);
        columns
            .map(|column| match column {
                Column::Dictionary(column) => column.size(),
                Column::Arrow(column) => column.get_estimated_total_bytes(),
            })
            .sum()
    }

    /// Ends the row group.
    pub(super) fn flush(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let mut written = self.file.next_row_group()?;
        for column in group.columns {
            match column {
                Column::Dictionary(column) => {
                    let (pages, close) = column.close()?;
                    written.append_column(&pages, close)?;
                }
                Column::Arrow(column) => column.close()?.append_to_row_group(&mut written)?,
            }
        }
        written.close()?;
        Ok(())
    }

    pub(super) fn bytes_written(&self) -> usize {
        self.file.bytes_written()
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.file.finish()?;
        Ok(())
    }

    pub(super) fn inner_mut(&mut self) -> &mut W {
        self.file.inner_mut()
    }
}

impl Group {
    fn begin<W: Write + Send>(
        file: &SerializedFileWriter<W>,
        factory: &ArrowRowGroupWriterFactory,
        schema: &SchemaRef,
    ) -> Result<Self> {
        let properties = file.properties();
        let mut writers = factory.create_column_writers(file.flushed_row_groups().len())?.into_iter();
        let mut columns = Vec::with_capacity(writers.len());
        let mut leaves = file.schema_descr().columns().iter();
        for writer in writers.by_ref() {
            let Some(leaf) = leaves.next() else { break };
            let codec = properties.compression(leaf.path());
            // A leaf that is a field itself has its name for a path.
            let field = match leaf.path().parts() {
                [name] => schema.field_with_name(name).ok(),
                _ => None,
            };
            let ours = field.is_some_and(|field| takes(field.data_type(), codec))
                && properties.dictionary_enabled(leaf.path());
            columns.push(match ours {
                true => Column::Dictionary(Box::new(DictionaryColumn::new(Arc::clone(leaf), codec)?)),
                false => Column::Arrow(Box::new(writer)),
            });
        }
        Ok(Self { columns, rows: 0 })
    }

    fn write(&mut self, batch: &RecordBatch, schema: &SchemaRef) -> Result<()> {
        let mut at = 0;
        for (field, values) in schema.fields().iter().zip(batch.columns()) {
            if let Some(Column::Dictionary(column)) = self.columns.get_mut(at) {
                column.write(values)?;
                at += 1;
                continue;
            }
            for leaf in compute_leaves(field, values)? {
                match self.columns.get_mut(at) {
                    Some(Column::Arrow(writer)) => writer.write(&leaf)?,
                    _ => {
                        return Err(ParquetError::General(format!(
                            "no writer of its own for a part of {:?}",
                            field.name()
                        )));
                    }
                }
                at += 1;
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }
}
