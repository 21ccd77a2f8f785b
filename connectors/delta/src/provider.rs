//! Scans of a table's active files with DataFusion's own Parquet node, which serialises as it is.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result as DataFusionResult, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use dpone_engine::pruning::parquet_options;
use dpone_engine::{Error, Result};

use crate::config::{Place, Warehouse};
use crate::stats;
use crate::table::{DataFile, Table};

/// The column that says which file a row comes from.
pub(crate) const FILE_COLUMN: &str = "__dpone__file";

/// A fixed list of files as a table.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    warehouse: Warehouse,
    place: Place,
    /// The table's columns in their order, then the file column where it was asked for.
    schema: SchemaRef,
    partition_columns: Vec<String>,
    files: Arc<[DataFile]>,
    parallelism: Option<usize>,
    /// What [`FILE_COLUMN`] says of each file, where it was asked for.
    numbers: Vec<usize>,
}

impl Files {
    pub(crate) fn new(
        warehouse: &Warehouse,
        place: &Place,
        schema: SchemaRef,
        partition_columns: &[String],
        files: Arc<[DataFile]>,
    ) -> Self {
        Self {
            warehouse: warehouse.clone(),
            place: place.clone(),
            schema,
            partition_columns: partition_columns.to_vec(),
            files,
            parallelism: None,
            numbers: Vec::new(),
        }
    }

    pub(crate) fn of_table(warehouse: &Warehouse, table: &Table) -> Self {
        Self::new(warehouse, &table.place, table.schema.clone(), &table.partition_columns, Arc::clone(&table.files))
    }

    pub(crate) fn with_parallelism(mut self, parallelism: usize) -> Self {
        self.parallelism = (parallelism > 0).then_some(parallelism);
        self
    }

    /// Adds [`FILE_COLUMN`] with these values, one a file.
    pub(crate) fn with_file_numbers(mut self, numbers: &[usize]) -> Self {
        let mut fields = self.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(FILE_COLUMN, DataType::Int64, false)));
        self.schema = Arc::new(Schema::new(fields));
        self.numbers = numbers.to_vec();
        self
    }

    /// The columns inside the files, then those that are constant in each file: the order in which a scan sees them.
    fn split_schema(&self) -> (SchemaRef, Vec<Arc<Field>>) {
        let constant = |f: &Field| self.partition_columns.contains(f.name()) || f.name() == FILE_COLUMN;
        let (outside, inside): (Vec<_>, Vec<_>) = self.schema.fields().iter().cloned().partition(|f| constant(f));
        (Arc::new(Schema::new(inside)), outside)
    }

    fn partitioned_file(&self, index: usize, inside: &Schema, outside: &[Arc<Field>]) -> Result<PartitionedFile> {
        let file = &self.files[index];
        let values = outside
            .iter()
            .map(|field| match self.numbers.get(index).filter(|_| field.name() == FILE_COLUMN) {
                Some(number) => Ok(ScalarValue::Int64(Some(*number as i64))),
                None => stats::partition_scalar(file, field),
            })
            .collect::<Result<Vec<_>>>()?;
        let statistics = stats::of_file(file, inside, &values);
        let mut out = PartitionedFile::new_from_meta(object_store::ObjectMeta {
            location: self.place.path(&file.path)?,
            last_modified: chrono::DateTime::from_timestamp_millis(file.modified).unwrap_or_default(),
            size: file.size,
            e_tag: None,
            version: None,
        })
        .with_partition_values(values);
        // Set directly: `with_statistics` would call a NULL partition value not null.
        out.statistics = Some(Arc::new(statistics));
        Ok(out)
    }

    /// Drops the files that cannot hold a row that passes the filters.
    fn prune(
        &self,
        state: &dyn Session,
        filters: &[Expr],
        full: &SchemaRef,
        files: Vec<PartitionedFile>,
    ) -> DataFusionResult<Vec<PartitionedFile>> {
        let Some(filter) = conjunction(filters.to_vec()) else { return Ok(files) };
        let statistics = files
            .iter()
            .zip(self.files.iter())
            .filter_map(|(scanned, file)| {
                Some(Arc::new(stats::for_skipping(file, full, scanned.statistics.as_deref()?)))
            })
            .collect::<Vec<_>>();
        let physical = state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(full))?)?;
        // A filter that no bound decides prunes nothing; that is no error.
        let built = PruningPredicateBuilder::new().with_file_schema(Arc::clone(full)).try_build(physical);
        let Ok(predicate) = built else { return Ok(files) };
        match predicate.prune(&PrunableStatistics::new(statistics, Arc::clone(full))) {
            Ok(keep) => Ok(files.into_iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect()),
            Err(_) => Ok(files),
        }
    }

    fn total(&self, full: &Schema, files: &[PartitionedFile]) -> Statistics {
        let mut total = Statistics::new_unknown(full);
        let rows = files.iter().map(|f| match f.statistics.as_ref().map(|s| s.num_rows) {
            Some(Precision::Exact(rows)) => Some(rows),
            _ => None,
        });
        total.num_rows = rows.sum::<Option<usize>>().map_or(Precision::Absent, Precision::Exact);
        total.total_byte_size = Precision::Inexact(files.iter().map(|f| f.object_meta.size as usize).sum());
        total
    }
}

#[async_trait]
impl TableProvider for Files {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut total = Statistics::new_unknown(&self.schema);
        let rows = self.files.iter().map(|f| f.rows).sum::<Option<u64>>();
        total.num_rows = rows.map_or(Precision::Absent, |n| Precision::Exact(n as usize));
        Some(total)
    }

    /// Filters skip files and row groups and are evaluated again above the scan.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.warehouse.register(state.runtime_env())?;
        let (inside, outside) = self.split_schema();
        let full = TableSchema::builder(Arc::clone(&inside)).with_table_partition_cols(outside.clone()).build();
        let files = (0..self.files.len())
            .map(|i| self.partitioned_file(i, &inside, &outside))
            .collect::<Result<Vec<_>>>()
            .map_err(|e| e.with("table", self.place.table.to_string()))?;
        let files = self.prune(state, filters, full.table_schema(), files)?;
        let statistics = self.total(full.table_schema(), &files);
        let groups = self.parallelism.unwrap_or_else(|| state.config().target_partitions());
        let positions = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let positions = positions
            .into_iter()
            .map(|i| full.table_schema().index_of(self.schema.field(i).name()).map_err(Error::from))
            .collect::<Result<Vec<_>>>()?;
        // The files may be those of others, which keep bounds of floating numbers.
        let options = parquet_options(filters, full.table_schema());
        let source = ParquetSource::new(full).with_table_parquet_options(options);
        let config = FileScanConfigBuilder::new(self.warehouse.store_url()?, Arc::new(source))
            .with_file_groups(groups_of(files, groups))
            .with_statistics(statistics)
            .with_projection_indices(Some(positions))?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Deals the files out so that the groups hold about the same number of bytes.
fn groups_of(mut files: Vec<PartitionedFile>, groups: usize) -> Vec<FileGroup> {
    files.sort_by_key(|f| std::cmp::Reverse(f.object_meta.size));
    let mut out: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); groups.clamp(1, files.len().max(1))];
    for file in files {
        if let Some((size, group)) = out.iter_mut().min_by_key(|(size, _)| *size) {
            *size += file.object_meta.size;
            group.push(file);
        }
    }
    out.into_iter().map(|(_, files)| FileGroup::new(files)).collect()
}
