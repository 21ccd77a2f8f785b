//! What a load does to a table: which files go, which come, and how many rows met which fate.
//!
//! A file is the unit of change. Files that hold no affected row stay; of the others, the rows that remain are copied
//! to new files. Which rows are affected is found by joins in DataFusion, under a memory limit.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::{Column, JoinType, NullEquality, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit, when};
use datafusion::prelude::{SessionConfig, SessionContext};
use dpone_engine::{Commit, Error, Result};
use dpone_planner::plan::{
    DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, PATCH, STAMPS, ScopeFilter, WriteMode,
};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::config::{Place, Warehouse};
use crate::provider::{FILE_COLUMN, Files};
use crate::stage::{TableWriter, WrittenFile};
use crate::stats;
use crate::table::{DataFile, Table};

/// A table as it is before the commit; without files when it is to be created.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) place: Place,
    pub(crate) schema: SchemaRef,
    pub(crate) partition_columns: Vec<String>,
    pub(crate) files: Arc<[DataFile]>,
}

impl Target {
    pub(crate) fn of_table(table: &Table) -> Self {
        Self {
            place: table.place.clone(),
            schema: Arc::clone(&table.schema),
            partition_columns: table.partition_columns.clone(),
            files: Arc::clone(&table.files),
        }
    }

    pub(crate) fn empty(place: &Place, schema: SchemaRef, partition_columns: &[String]) -> Self {
        Self { place: place.clone(), schema, partition_columns: partition_columns.to_vec(), files: Arc::from([]) }
    }
}

/// The outcome of a commit, before it is written.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    /// Indices into the target's files.
    pub(crate) remove: Vec<usize>,
    pub(crate) add: Vec<WrittenFile>,
    /// Those of `add` that were written for this attempt and not by staging.
    pub(crate) written: Vec<WrittenFile>,
    pub(crate) inserted: u64,
    pub(crate) updated: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
    pub(crate) operation: &'static str,
    pub(crate) parameters: Value,
    pub(crate) notes: Vec<String>,
}

pub(crate) async fn effect(
    warehouse: &Warehouse,
    target: &Target,
    commit: &Commit<'_>,
    staged: &[WrittenFile],
) -> Result<Effect> {
    let staged_rows = staged.iter().map(|f| f.rows).sum::<u64>();
    let work = Work { warehouse, target, commit, staged, context: session(warehouse, staged)? };
    let result = match &commit.load.write_mode {
        WriteMode::Append => Ok(Effect {
            add: staged.to_vec(),
            inserted: staged_rows,
            operation: "WRITE",
            parameters: json!({ "mode": "Append" }),
            ..Effect::default()
        }),
        WriteMode::Overwrite { .. } => work.overwrite(staged_rows).await,
        WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } } => work.scope(sql, staged_rows).await,
        WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns } } => {
            work.partitions(columns, staged_rows).await
        }
        WriteMode::Changes { key, operation } => work.changes(key, operation, staged_rows).await,
    };
    result.map_err(|e| e.with("table", target.place.table.to_string()))
}

/// A session whose joins and sorts stay within the connection's limit and spill beyond it.
pub(crate) fn session(warehouse: &Warehouse, staged: &[WrittenFile]) -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(warehouse.memory)))
        .with_disk_manager_builder(DiskManagerBuilder::default())
        .build_arc()?;
    // A hash join keeps one side in memory and cannot spill; sorted sides can. Staged files are compressed about 1 : 5.
    let bytes = staged.iter().map(|f| f.size).sum::<u64>() as usize;
    let hash = bytes.saturating_mul(5) < warehouse.memory / 2;
    // Sorts that spill share the limit: one partition, so that there are two of them and not two for each thread.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let mut config = SessionConfig::new().with_target_partitions(if hash { threads } else { 1 });
    let options = config.options_mut();
    options.optimizer.prefer_hash_join = hash;
    // What a sort sets aside for merging; by default alone more than a small limit.
    options.execution.sort_spill_reservation_bytes = warehouse.memory / 32;
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

struct Work<'a> {
    warehouse: &'a Warehouse,
    target: &'a Target,
    commit: &'a Commit<'a>,
    staged: &'a [WrittenFile],
    context: SessionContext,
}

impl Work<'_> {
    async fn overwrite(&self, staged_rows: u64) -> Result<Effect> {
        let before = self.target_rows().await?;
        self.guard(before.saturating_sub(staged_rows), before)?;
        Ok(Effect {
            remove: (0..self.target.files.len()).collect(),
            add: self.staged.to_vec(),
            inserted: staged_rows,
            deleted: before,
            operation: "WRITE",
            parameters: json!({ "mode": "Overwrite" }),
            ..Effect::default()
        })
    }

    /// The staged rows replace the rows for which the predicate is true.
    async fn scope(&self, sql: &str, staged_rows: u64) -> Result<Effect> {
        let schema = datafusion::common::DFSchema::try_from(Arc::clone(&self.target.schema))?;
        let inside = dpone_planner::expr::predicate("the scope", sql, &schema)?;
        let outside = inside.clone().is_not_true();
        let stray = self.staged_frame()?.filter(outside.clone())?.count().await?;
        if stray > 0 {
            return Err(Error::data_quality(format!("{stray} staged rows lie outside of the scope {sql}"))
                .with_hint("filter the source by the same scope: rows outside would be added again by every run"));
        }
        let all: Vec<_> = (0..self.target.files.len()).collect();
        let hit = self.frame(&all)?.filter(inside)?;
        let affected = self.per_file(hit, vec![lit(1i64)]).await?;
        let kept = |dirty: &[usize]| Ok(self.frame(dirty)?.filter(outside.clone())?);
        self.replace(affected, kept, staged_rows, json!({ "mode": "Overwrite", "predicate": sql })).await
    }

    /// The staged rows replace the rows that share their values of these columns.
    async fn partitions(&self, columns: &[String], staged_rows: u64) -> Result<Effect> {
        let all: Vec<_> = (0..self.target.files.len()).collect();
        let touched = || -> Result<DataFrame> {
            let selected = self.staged_frame()?.select(columns.iter().map(|c| bare(c)).collect::<Vec<_>>())?;
            Ok(selected.distinct()?.alias("s")?)
        };
        let hit = self.join(self.frame(&all)?, touched()?, JoinType::LeftSemi, columns, None)?;
        let affected = self.per_file(hit, vec![lit(1i64)]).await?;
        let kept = |dirty: &[usize]| self.join(self.frame(dirty)?, touched()?, JoinType::LeftAnti, columns, None);
        let parameters = json!({ "mode": "Overwrite", "partitionBy": columns.join(",") });
        self.replace(affected, kept, staged_rows, parameters).await
    }

    /// Files whose rows all go are dropped unread; of the others the rest is copied.
    async fn replace(
        &self,
        affected: Vec<(usize, Vec<u64>)>,
        kept: impl Fn(&[usize]) -> Result<DataFrame>,
        staged_rows: u64,
        parameters: Value,
    ) -> Result<Effect> {
        let deleted = affected.iter().map(|(_, counts)| counts[0]).sum::<u64>();
        self.guard(deleted.saturating_sub(staged_rows), self.target_rows().await?)?;
        let partly = |(file, counts): &(usize, Vec<u64>)| self.target.files[*file].rows != Some(counts[0]);
        let dirty: Vec<_> = affected.iter().filter(|a| partly(a)).map(|(file, _)| *file).collect();
        let written = match dirty.is_empty() {
            true => Vec::new(),
            false => self.write(kept(&dirty)?, "kept").await?,
        };
        Ok(Effect {
            remove: affected.into_iter().map(|(file, _)| file).collect(),
            add: self.staged.iter().chain(&written).cloned().collect(),
            written,
            inserted: staged_rows,
            deleted,
            operation: "WRITE",
            parameters,
            ..Effect::default()
        })
    }

    /// Applies each staged row by its key. A staged row that equals the row that is there changes nothing.
    async fn changes(&self, key: &[String], operation: &Operation, staged_rows: u64) -> Result<Effect> {
        let all: Vec<_> = (0..self.target.files.len()).collect();
        let candidates = match self.key_range(key) {
            Some(range) => self.frame(&all)?.filter(range)?,
            None => self.frame(&all)?,
        };
        let is = |value: i8| match operation {
            Operation::Upsert => lit(value == INSERT_OR_UPDATE),
            Operation::Column { .. } => qualified("s", OPERATION_COLUMN).eq(lit(value)),
        };
        let is_delete = || is(DELETE);
        let is_patch = || is(PATCH);
        let patch_differs = || self.differs(|name| operation.patch().contains(name));
        let differs = || {
            let whole = self.differs(|name| !key.contains(name));
            match operation.patch() {
                [] => Ok::<_, Error>(whole),
                _ => Ok(when(is_patch(), patch_differs()).otherwise(whole)?),
            }
        };
        let one_if = |condition: Expr| Ok::<_, Error>(when(condition, lit(1i64)).otherwise(lit(0i64))?);
        let staged = || self.staged_frame();
        let matched = self.join(candidates, staged()?, JoinType::Inner, key, None)?;
        let counts = vec![one_if(is_delete())?, one_if(is_delete().is_false().and(differs()?))?];
        let affected = self.per_file(matched, counts).await?;

        let deleted = affected.iter().map(|(_, counts)| counts[0]).sum::<u64>();
        self.guard(deleted, self.target_rows().await?)?;
        let touched: Vec<_> = affected.iter().map(|(file, _)| *file).collect();
        let dirty: Vec<_> = affected.iter().filter(|(_, c)| c[0] + c[1] > 0).map(|(file, _)| *file).collect();

        let upserts = || Ok::<_, Error>(staged()?.filter(is(INSERT_OR_UPDATE))?);
        let inserted =
            self.join(upserts()?, self.frame(&touched)?, JoinType::LeftAnti, key, None)?.count().await? as u64;
        // The same expression decides here and below, so no row is both kept and written again.
        let same = Some(differs()?.is_false());
        let fresh = self.join(upserts()?, self.frame(&touched)?, JoinType::LeftAnti, key, same)?;
        let mut written = self.write(fresh, "new").await?;
        let fresh_rows = written.iter().map(|f| f.rows).sum::<u64>();
        let mut patched_rows = 0;
        if !dirty.is_empty() {
            let goes = Some(is_delete().or(differs()?));
            let kept = self.join(self.frame(&dirty)?, staged()?, JoinType::LeftAnti, key, goes)?;
            let patched = match operation.patch() {
                [] => None,
                patch => {
                    let patches = Some(is_patch().and(patch_differs()));
                    let both = self.join(self.frame(&dirty)?, staged()?, JoinType::Inner, key, patches)?;
                    let from = |name: &String| qualified(if patch.contains(name) { "s" } else { "t" }, name);
                    let columns = self.target.schema.fields().iter().map(|f| from(f.name()).alias(f.name()));
                    Some(both.select(columns.collect::<Vec<_>>())?)
                }
            };
            for (rows, what) in [(Some(kept), "kept"), (patched, "patched")] {
                let Some(rows) = rows else { continue };
                match self.write(rows, what).await {
                    Ok(files) => {
                        if what == "patched" {
                            patched_rows = files.iter().map(|f| f.rows).sum();
                        }
                        written.extend(files);
                    }
                    Err(error) => {
                        remove(&self.target.place, &written).await;
                        return Err(error);
                    }
                }
            }
        }
        Ok(Effect {
            remove: dirty,
            add: written.clone(),
            written,
            inserted,
            updated: fresh_rows.saturating_sub(inserted) + patched_rows,
            deleted,
            // A delete of a key that is not there changes nothing either.
            unchanged: staged_rows.saturating_sub(fresh_rows + patched_rows + deleted),
            operation: "MERGE",
            parameters: json!({ "key": key.join(",") }),
            ..Effect::default()
        })
    }

    /// Whether the target's row and the staged one differ in these columns; NULL equals NULL. What differs with every
    /// load is no difference.
    fn differs(&self, compared: impl Fn(&String) -> bool) -> Expr {
        let columns = self.target.schema.fields().iter().map(|f| f.name()).filter(|name| compared(name));
        let staged: HashSet<&String> = self.commit.load.staged_schema.fields().iter().map(|f| f.name()).collect();
        let both = columns.filter(|name| !STAMPS.contains(&name.as_str()) && staged.contains(name));
        dpone_planner::differ::differs(both.map(|name| (qualified("t", name), qualified("s", name))))
    }

    /// A range that every staged key lies in, from the staged files' own statistics. It skips files.
    fn key_range(&self, key: &[String]) -> Option<Expr> {
        let schema = &self.target.schema;
        key.iter()
            .filter_map(|name| {
                let (low, high) = stats::range(self.staged, schema.field_with_name(name).ok()?)?;
                let column = qualified("t", name);
                let literal = |value: ScalarValue| Expr::Literal(value, None);
                Some(column.clone().gt_eq(literal(low)).and(column.lt_eq(literal(high))))
            })
            .reduce(Expr::and)
    }

    /// Rows of some of the target's files as `t`, with the number of the file.
    fn frame(&self, files: &[usize]) -> Result<DataFrame> {
        let target = self.target;
        let chosen: Arc<[DataFile]> = files.iter().map(|i| target.files[*i].clone()).collect();
        let provider =
            Files::new(self.warehouse, &target.place, Arc::clone(&target.schema), &target.partition_columns, chosen)
                .with_file_numbers(files);
        let plan = LogicalPlanBuilder::scan("t", provider_as_source(Arc::new(provider)), None)?.build()?;
        Ok(DataFrame::new(self.context.state(), plan))
    }

    /// The staged rows as `s`.
    fn staged_frame(&self) -> Result<DataFrame> {
        let provider = staged_files(self.warehouse, &self.target.place, self.commit.load, self.staged);
        let plan = LogicalPlanBuilder::scan("s", provider_as_source(Arc::new(provider)), None)?.build()?;
        Ok(DataFrame::new(self.context.state(), plan))
    }

    /// Joins on columns of the same names; NULL equals NULL.
    fn join(
        &self,
        left: DataFrame,
        right: DataFrame,
        kind: JoinType,
        columns: &[String],
        filter: Option<Expr>,
    ) -> Result<DataFrame> {
        let (left_names, right_names) = (qualifier(&left), qualifier(&right));
        let on = |names: &str| columns.iter().map(|c| Column::new(Some(names), c)).collect::<Vec<_>>();
        let keys = (on(left_names), on(right_names));
        let right = right.into_unoptimized_plan();
        let plan = LogicalPlanBuilder::from(left.into_unoptimized_plan())
            .join_detailed(right, kind, keys, filter, NullEquality::NullEqualsNull)?
            .build()?;
        Ok(DataFrame::new(self.context.state(), plan))
    }

    /// Sums by file: the files that have a row in `rows`, with the sum of each expression.
    async fn per_file(&self, rows: DataFrame, sums: Vec<Expr>) -> Result<Vec<(usize, Vec<u64>)>> {
        let count = sums.len();
        let sums = sums.into_iter().enumerate().map(|(i, e)| sum(e).alias(format!("sum{i}"))).collect();
        let batches = rows.aggregate(vec![qualified("t", FILE_COLUMN)], sums)?.collect().await?;
        let mut out = Vec::new();
        for batch in batches {
            let column = |i: usize| batch.column(i).as_primitive_opt::<Int64Type>();
            for row in 0..batch.num_rows() {
                let values: Option<Vec<_>> =
                    (0..=count).map(|i| column(i).map(|c| c.value(row).max(0) as u64)).collect();
                let values = values.ok_or_else(|| Error::internal("a count is not a whole number"))?;
                out.push((values[0] as usize, values[1..].to_vec()));
            }
        }
        out.sort();
        Ok(out)
    }

    /// Writes rows into new files of the table.
    async fn write(&self, rows: DataFrame, what: &str) -> Result<Vec<WrittenFile>> {
        let schema = Arc::clone(&self.target.schema);
        let attempt = uuid::Uuid::new_v4().simple().to_string();
        let stem = format!("{}/{what}-{}", self.commit.load.load_id, &attempt[..8]);
        let mut writer = TableWriter::new(&self.target.place, stem, &schema, &self.target.partition_columns)?;
        match copy(rows, &schema, &mut writer).await {
            Ok(()) => writer.finish().await,
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    async fn target_rows(&self) -> Result<u64> {
        match self.target.files.iter().map(|f| f.rows).sum::<Option<u64>>() {
            Some(rows) => Ok(rows),
            None => {
                let all: Vec<_> = (0..self.target.files.len()).collect();
                Ok(self.frame(&all)?.count().await? as u64)
            }
        }
    }

    /// Refuses to take away more than the definition allows, before anything is written to the log.
    fn guard(&self, goes: u64, rows: u64) -> Result<()> {
        let refuse = |limit: String| {
            Err(Error::data_quality(format!(
                "the load would take {goes} of the target's {rows} rows away, more than {limit}"
            ))
            .with_hint("look at the source; if the rows are to go, raise max_delete_rows or max_delete_ratio"))
        };
        match (self.commit.max_delete_rows, self.commit.max_delete_ratio) {
            (Some(most), _) if goes > most => refuse(format!("max_delete_rows = {most}")),
            (_, Some(part)) if rows > 0 && goes as f64 > part * rows as f64 => {
                refuse(format!("max_delete_ratio = {part}"))
            }
            _ => Ok(()),
        }
    }
}

/// All rows of a table, written again in the types of `schema`.
pub(crate) async fn retyped(warehouse: &Warehouse, target: &Target, schema: &SchemaRef) -> Result<Vec<WrittenFile>> {
    let context = session(warehouse, &[])?;
    let files = Files::new(
        warehouse,
        &target.place,
        Arc::clone(&target.schema),
        &target.partition_columns,
        Arc::clone(&target.files),
    );
    let before = &target.schema;
    let mut columns = Vec::new();
    for field in schema.fields() {
        let expr = match before.field_with_name(field.name()) {
            Ok(there) => dpone_planner::exact_cast::convert_checked(qualified("t", field.name()), there, field)?,
            Err(_) => lit(ScalarValue::try_new_null(field.data_type())?),
        };
        columns.push(expr.alias(field.name()));
    }
    let plan = LogicalPlanBuilder::scan("t", provider_as_source(Arc::new(files)), None)?.project(columns)?.build()?;
    let rows = DataFrame::new(context.state(), plan);
    let stem = format!("retyped-{}/all", uuid::Uuid::new_v4().simple());
    let mut writer = TableWriter::new(&target.place, stem, schema, &target.partition_columns)?;
    match copy(rows, schema, &mut writer).await {
        Ok(()) => writer.finish().await,
        Err(error) => {
            writer.abort().await;
            Err(error)
        }
    }
}

/// The staged files of a load as a table.
pub(crate) fn staged_files(
    warehouse: &Warehouse,
    place: &Place,
    load: &dpone_engine::LoadSpec,
    staged: &[WrittenFile],
) -> Files {
    // What the files' own columns lack is a partition value of theirs.
    let partition_columns: Vec<_> =
        staged.first().map(|f| f.partition_values.keys().cloned().collect()).unwrap_or_default();
    let files: Arc<[DataFile]> = staged.iter().map(WrittenFile::data_file).collect();
    Files::new(warehouse, place, Arc::clone(&load.staged_schema), &partition_columns, files)
}

/// The rows of a frame, in the columns of the table; a column that the rows lack is NULL.
async fn copy(rows: DataFrame, schema: &SchemaRef, writer: &mut TableWriter) -> Result<()> {
    let mut stream = rows.execute_stream().await?;
    while let Some(batch) = stream.next().await {
        writer.write(&project(&batch?, schema)?).await?;
    }
    Ok(())
}

fn project(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => column.clone(),
            None => arrow::array::new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

pub(crate) async fn remove(place: &Place, files: &[WrittenFile]) {
    use object_store::ObjectStoreExt;
    for file in files {
        if let Ok(path) = place.path(&file.path) {
            let _ = place.store.delete(&path).await;
        }
    }
}

fn qualified(table: &str, column: &str) -> Expr {
    Expr::Column(Column::new(Some(table), column))
}

fn bare(column: &str) -> Expr {
    Expr::Column(Column::new_unqualified(column))
}

/// Frames here are over `t` or over `s`.
fn qualifier(frame: &DataFrame) -> &'static str {
    let over_staged = frame.schema().iter().any(|(table, _)| table.is_some_and(|t| t.table() == "s"));
    if over_staged { "s" } else { "t" }
}
