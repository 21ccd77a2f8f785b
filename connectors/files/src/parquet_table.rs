//! Parquet files as a table: DataFusion's own Parquet scan over pinned files, which prunes row groups and serialises.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result as DataFusionResult, Statistics, stats::Precision};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use dpone_engine::pruning::parquet_options;
use dpone_engine::{Error, ReadRequest, Result, SourceTable};
use dpone_planner::types::logical_name;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use crate::location::{Location, PinnedFile, store_error};
use crate::source::{FileSource, deal, table};

/// Footers that are read at once.
const FOOTERS: usize = 8;

/// One Parquet file and what its footer says.
#[derive(Debug, Clone)]
pub(crate) struct ParquetFile {
    pub(crate) pinned: PinnedFile,
    pub(crate) rows: u64,
    pub(crate) schema: SchemaRef,
}

/// Opens Parquet files of one schema.
pub(crate) async fn open(source: &FileSource, files: Vec<PinnedFile>, request: &ReadRequest) -> Result<SourceTable> {
    if let Some(column) = request.types.keys().next().or(source.options().columns.first().map(|(name, _)| name)) {
        return Err(Error::configuration(format!("column {column:?}: a Parquet file has its own types"))
            .with_hint("convert the column in a query"));
    }
    let read = footers(source.location(), files.clone()).await?;
    let mut schema = common_schema(&read)?;
    if request.views {
        schema = as_views(&schema);
    }
    let rows = read.iter().map(|f| f.rows).sum();
    let provider = ParquetTable::new(source.location().clone(), read, schema, request.parallelism);
    let mut table = table(Arc::new(provider), &files, Vec::new());
    table.rows = Some(rows);
    Ok(table)
}

pub(crate) async fn footers(location: &Location, files: Vec<PinnedFile>) -> Result<Vec<ParquetFile>> {
    futures::stream::iter(files.into_iter().map(|pinned| footer(location, pinned)))
        .buffered(FOOTERS)
        .try_collect()
        .await
}

async fn footer(location: &Location, pinned: PinnedFile) -> Result<ParquetFile> {
    let (store, _) = location.store();
    let unreadable = || {
        Error::configuration(format!("{}: not a whole Parquet file", pinned.path))
            .with_hint("is it still being written, or encrypted?")
    };
    let object = location.object(&pinned)?;
    // The reader subtracts the length that the file names from its size before it looks.
    let tail = object.size.checked_sub(8).ok_or_else(unreadable)?..object.size;
    let tail = store.get_range(&object.location, tail).await.map_err(|e| store_error(&pinned.path, e))?;
    let named = match tail.as_ref() {
        [a, b, c, d, b'P', b'A', b'R', b'1'] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => return Err(unreadable()),
    };
    if named + 8 > object.size {
        return Err(unreadable());
    }
    let metadata = DFParquetMetadata::new(store.as_ref(), &object).fetch_metadata().await;
    let metadata = metadata.map_err(|e| unreadable().with_source(e))?;
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new());
    let metadata = metadata.map_err(|e| unreadable().with_source(e))?;
    let rows = metadata.metadata().file_metadata().num_rows().max(0) as u64;
    Ok(ParquetFile { pinned, rows, schema: Arc::clone(metadata.schema()) })
}

/// The schema that all files share. Metadata is the first file's; a column that may be NULL in one may be in all.
pub(crate) fn common_schema(files: &[ParquetFile]) -> Result<SchemaRef> {
    let Some(first) = files.first() else { return Ok(Arc::new(Schema::empty())) };
    let mut fields: Vec<_> = first.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    for file in &files[1..] {
        let differs = |what: String| {
            Error::data_quality(format!("{} and {} differ: {what}", first.pinned.path, file.pinned.path))
                .with_hint("read files of one schema together; a pattern such as 2013-*.parquet keeps others apart")
        };
        if file.schema.fields().len() != fields.len() {
            return Err(differs(format!("{} and {} columns", fields.len(), file.schema.fields().len())));
        }
        for field in &mut fields {
            let other = file.schema.field_with_name(field.name());
            let other = other.map_err(|_| differs(format!("only one has the column {:?}", field.name())))?;
            if other.data_type() != field.data_type() {
                let (a, b) = (logical_name(field), logical_name(other));
                return Err(differs(format!("column {:?} is {a} and {b}", field.name())));
            }
            if other.is_nullable() {
                field.set_nullable(true);
            }
        }
    }
    // The footer's key-value pairs are no part of the table.
    Ok(Arc::new(Schema::new(fields)))
}

/// Columns of texts and bytes as views of the file's pages.
fn as_views(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        DataType::Binary | DataType::LargeBinary => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView))
        }
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[derive(Debug)]
pub(crate) struct ParquetTable {
    location: Location,
    files: Vec<ParquetFile>,
    schema: SchemaRef,
    parallelism: usize,
}

impl ParquetTable {
    pub(crate) fn new(location: Location, files: Vec<ParquetFile>, schema: SchemaRef, parallelism: usize) -> Self {
        Self { location, files, schema, parallelism }
    }
}

/// A smaller part of a file costs more to begin than reading it beside another saves: eight megabytes of Parquet are half a
/// second of a server's `COPY`, and a stream of its own is begun in a hundredth of one.
const PART_BYTES: u64 = 8 << 20;

/// Cuts files into ranges where there are fewer of them than may be read at once. A row group belongs to the range in
/// which it begins, so every row is read once.
fn spread(mut groups: Vec<Vec<PartitionedFile>>, parallelism: usize) -> Vec<Vec<PartitionedFile>> {
    let size = |group: &Vec<PartitionedFile>| match group.as_slice() {
        [file] if file.range.is_none() => file.object_meta.size,
        _ => 0,
    };
    let spare = parallelism.saturating_sub(groups.len());
    let whole: u64 = groups.iter().map(size).sum();
    if spare == 0 || whole == 0 {
        return groups;
    }
    let mut left = spare as u64;
    groups.sort_by_key(|group| std::cmp::Reverse(size(group)));
    let mut spread = Vec::with_capacity(parallelism);
    for group in groups {
        let bytes = size(&group);
        let more = (spare as u64 * bytes).div_ceil(whole).min(left).min((bytes / PART_BYTES).saturating_sub(1));
        left -= more;
        match group.as_slice() {
            [file] if more > 0 => {
                let cut = |part: u64| (bytes * part / (more + 1)) as i64;
                spread.extend((0..=more).map(|part| vec![file.clone().with_range(cut(part), cut(part + 1))]));
            }
            _ => spread.push(group),
        }
    }
    spread
}

#[async_trait]
impl TableProvider for ParquetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let (store, url) = self.location.store();
        if let Location::Remote(_) = self.location {
            state.runtime_env().register_object_store(url.as_ref(), store);
        }
        let mut groups = Vec::new();
        for group in deal(self.files.iter().map(|f| f.pinned.clone()).collect(), self.parallelism) {
            let mut files = Vec::with_capacity(group.len());
            for file in group {
                files.push(PartitionedFile::new_from_meta(self.location.object(&file)?));
            }
            groups.push(files);
        }
        let groups = spread(groups, self.parallelism).into_iter().map(FileGroup::new).collect();
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Exact(self.files.iter().map(|f| f.rows).sum::<u64>() as usize);
        let options = parquet_options(filters, &self.schema);
        let source = Arc::new(ParquetSource::new(Arc::clone(&self.schema)).with_table_parquet_options(options));
        let config = FileScanConfigBuilder::new(url, source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// Row groups are skipped by their statistics; the rows of the others are filtered above the scan.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Exact(self.files.iter().map(|f| f.rows).sum::<u64>() as usize);
        Some(statistics)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Name and range of each file, group by group.
    fn parts(sizes: &[u64], parallelism: usize) -> Vec<(String, Option<(i64, i64)>)> {
        let file = |(i, size): (usize, &u64)| vec![PartitionedFile::new(format!("{i}"), *size)];
        let groups = spread(sizes.iter().enumerate().map(file).collect(), parallelism);
        assert!(groups.len() <= parallelism.max(sizes.len()), "{sizes:?}");
        let files = groups.into_iter().flatten();
        files.map(|f| (f.object_meta.location.to_string(), f.range.map(|r| (r.start, r.end)))).collect()
    }

    #[test]
    fn every_byte_of_a_file_is_in_one_range() {
        for (sizes, parallelism) in [(vec![100 << 20], 3), (vec![100 << 20, 1 << 20], 4), (vec![64 << 20, 65 << 20], 8)]
        {
            let parts = parts(&sizes, parallelism);
            for (i, size) in sizes.iter().enumerate() {
                let mut ranges: Vec<_> = parts
                    .iter()
                    .filter(|(name, _)| *name == i.to_string())
                    .map(|(_, r)| r.unwrap_or((0, *size as i64)))
                    .collect();
                ranges.sort_unstable();
                assert_eq!((ranges[0].0, ranges.last().unwrap().1), (0, *size as i64));
                assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ranges:?}");
            }
        }
        assert_eq!(parts(&[100 << 20], 3).len(), 3);
        assert_eq!(parts(&[100 << 20, 1 << 20], 4).len(), 4);
    }

    #[test]
    fn small_files_and_full_groups_stay_whole() {
        assert_eq!(parts(&[15 << 20], 8), [("0".to_owned(), None)]);
        assert_eq!(parts(&[20 << 20], 8).len(), 2);
        assert_eq!(parts(&[1 << 30, 1 << 30], 2).iter().filter(|(_, range)| range.is_some()).count(), 0);
        assert_eq!(parts(&[1 << 30], 1), [("0".to_owned(), None)]);
    }
}
