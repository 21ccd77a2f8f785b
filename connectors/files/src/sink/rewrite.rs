//! Copy-on-write: which of the table's files a load touches, what they hold afterwards, and the counts, in DataFusion.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{DFSchema, JoinType};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{Expr, Operator, binary_expr, ident, lit, when};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use dpone_engine::{Commit, Error, Result};
use dpone_planner::expr::predicate;
use dpone_planner::plan::{DELETE, OPERATION_COLUMN, Operation, PATCH, STAMPS, ScopeFilter, WriteMode};

use super::options::WriteOptions;
use super::writer::{Folder, WrittenFile, write_stream};
use super::{Counts, Current, CurrentFile, FileSink, Staged, without_operation};
use crate::location::Location;

/// Memory for joins, beyond which they sort and spill.
const MEMORY: usize = 512 << 20;
/// Staged rows from which joins sort and spill instead of keeping a hash table of them in memory.
const HASH_JOIN_ROWS: u64 = 4_000_000;
/// The number of the file that a row is in.
const FILE: &str = "__dpone__file";
/// Prefix of the staged columns where they stand beside the table's.
const STAGED: &str = "__dpone__s_";
/// Staged beside the table's: true where a row of the table has a staged one.
const HIT: &str = "__dpone__hit";
/// Staged beside the table's: true where the staged row only sets some columns.
const PATCHES: &str = "__dpone__patches";

/// What a load does to the table's files.
#[derive(Debug, Default)]
pub(super) struct Affected {
    /// By their position in the table's list.
    pub(super) files: BTreeSet<usize>,
    pub(super) counts: Counts,
}

pub(super) struct Rewrite<'a> {
    context: SessionContext,
    sink: &'a FileSink,
    mode: &'a WriteMode,
    place: Location,
    current: &'a [CurrentFile],
    schema: SchemaRef,
    staged: Arc<dyn TableProvider>,
    staged_rows: u64,
    options: WriteOptions,
    next: &'a Path,
    stem: String,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(
        sink: &'a FileSink,
        commit: &Commit<'a>,
        current: Option<&'a Current>,
        staged: &Staged,
        next: &'a Path,
    ) -> Result<Self> {
        let load = commit.load;
        Ok(Self {
            context: session(staged.rows() < HASH_JOIN_ROWS)?,
            sink,
            mode: &load.write_mode,
            place: sink.place(&load.target),
            current: current.map(|c| c.files.as_slice()).unwrap_or_default(),
            schema: sink.next_schema(load, current.map(|c| &c.schema))?,
            staged: Arc::clone(&staged.provider),
            staged_rows: staged.rows(),
            options: sink.options.clone().with(&load.options)?,
            next,
            stem: format!("part-{}-rewritten", load.load_id),
        })
    }

    /// Finds the files with rows that are replaced or removed, and counts the fates of all rows.
    pub(super) async fn affected(&self) -> Result<Affected> {
        match self.mode {
            WriteMode::OverwriteScope { scope } => self.affected_by_scope(scope).await,
            WriteMode::Changes { key, operation } => self.affected_by_changes(key, operation).await,
            WriteMode::Append | WriteMode::Overwrite { .. } => Ok(Affected::default()),
        }
    }

    async fn affected_by_scope(&self, scope: &ScopeFilter) -> Result<Affected> {
        let Some(table) = self.table(None)? else {
            return Ok(Affected {
                counts: Counts { inserted: self.staged_rows, ..Counts::default() },
                ..Affected::default()
            });
        };
        let inside = self.in_scope(table, scope, true)?;
        let counted = inside.aggregate(vec![ident(FILE)], vec![count(lit(1i64)).alias("rows")])?;
        let mut affected = Affected::default();
        for batch in counted.collect().await? {
            for (file, values) in rows(&batch) {
                affected.files.insert(file);
                affected.counts.deleted += values[0];
            }
        }
        affected.counts.inserted = self.staged_rows;
        Ok(affected)
    }

    /// The predicate, read as the planner reads it.
    fn scope(&self, sql: &str) -> Result<Expr> {
        predicate("replace scope", sql, &DFSchema::try_from(Arc::clone(&self.schema))?)
    }

    /// Refuses staged rows that the scope does not own: the next load of the scope would not replace them.
    pub(super) async fn check_scope(&self) -> Result<()> {
        let WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } } = self.mode else { return Ok(()) };
        let staged = self.context.read_table(Arc::clone(&self.staged))?;
        let outside = staged.filter(self.scope(sql)?.is_not_true())?.count().await?;
        if outside == 0 {
            return Ok(());
        }
        Err(Error::data_quality(format!("{outside} staged rows are outside the scope that the load replaces"))
            .with_hint("filter the source by the scope; a row for which the scope is NULL is outside"))
    }

    /// The rows of the table inside the scope, or those outside it.
    fn in_scope(&self, table: DataFrame, scope: &ScopeFilter, inside: bool) -> Result<DataFrame> {
        Ok(match scope {
            ScopeFilter::Predicate { sql } => {
                let predicate = self.scope(sql)?;
                table.filter(if inside { predicate.is_true() } else { predicate.is_not_true() })?
            }
            ScopeFilter::Partitions { columns } => {
                let staged = self.context.read_table(Arc::clone(&self.staged))?;
                let named = columns.iter().map(|c| ident(c).alias(format!("{STAGED}{c}"))).collect::<Vec<_>>();
                let touched = staged.select(named)?.distinct()?;
                let same = columns
                    .iter()
                    .map(|c| binary_expr(ident(c), Operator::IsNotDistinctFrom, ident(format!("{STAGED}{c}"))));
                let join = if inside { JoinType::LeftSemi } else { JoinType::LeftAnti };
                table.join_on(touched, join, same)?
            }
        })
    }

    async fn affected_by_changes(&self, key: &[String], operation: &Operation) -> Result<Affected> {
        let mut affected = Affected::default();
        if let Some(table) = self.table(None)? {
            let joined = table.join_on(self.staged_beside(operation)?, JoinType::Inner, on(key))?;
            let delete = deletes();
            let changed = self.changed(key, operation)?;
            let when_true = |condition: Expr| when(condition, lit(1i64)).otherwise(lit(0i64));
            let fates = vec![
                sum(when_true(delete.clone())?).alias("deleted"),
                sum(when_true((!delete).and(changed))?).alias("updated"),
            ];
            for batch in joined.aggregate(vec![ident(FILE)], fates)?.collect().await? {
                for (file, values) in rows(&batch) {
                    if values[0] + values[1] > 0 {
                        affected.files.insert(file);
                    }
                    affected.counts.deleted += values[0];
                    affected.counts.updated += values[1];
                }
            }
        }
        let counts = &mut affected.counts;
        counts.inserted = self.inserted(key, operation)?.count().await? as u64;
        // The rest had no effect: equal rows, and deletions of keys that are not there.
        counts.unchanged = self.staged_rows.saturating_sub(counts.inserted + counts.updated + counts.deleted);
        Ok(affected)
    }

    /// Whether a row changes: any column outside the key differs, or, for a patch, any that it sets. NULL equals NULL.
    fn changed(&self, key: &[String], operation: &Operation) -> Result<Expr> {
        let whole = self.differs(|name| !key.contains(name));
        let patched = self.differs(|name| operation.patch().contains(name));
        Ok(when(patches(), patched).otherwise(whole)?)
    }

    /// What differs with every load is no difference.
    fn differs(&self, compared: impl Fn(&String) -> bool) -> Expr {
        let compared =
            self.schema.fields().iter().filter(|f| compared(f.name()) && !STAMPS.contains(&f.name().as_str()));
        dpone_planner::differ::differs(compared.map(|f| (ident(f.name()), ident(format!("{STAGED}{}", f.name())))))
    }

    /// The staged rows whose key the table does not have.
    fn inserted(&self, key: &[String], operation: &Operation) -> Result<DataFrame> {
        let staged = self.staged_beside(operation)?.filter(!deletes())?.filter(!patches())?;
        let new = match self.table(None)? {
            Some(table) => {
                let keys = table.select(key.iter().map(ident).collect::<Vec<_>>())?;
                staged.join_on(keys, JoinType::LeftAnti, on(key))?
            }
            None => staged,
        };
        let columns = self.schema.fields().iter();
        Ok(new.select(columns.map(|f| ident(format!("{STAGED}{}", f.name())).alias(f.name())).collect::<Vec<_>>())?)
    }

    /// Writes the affected files anew, and the inserted rows of changes.
    pub(super) async fn run(&self, affected: &Affected) -> Result<Vec<WrittenFile>> {
        let mut written = Vec::new();
        if !affected.files.is_empty()
            && let Some(table) = self.table(Some(&affected.files))?
        {
            let kept = match self.mode {
                WriteMode::OverwriteScope { scope } => {
                    let outside = self.in_scope(table, scope, false)?;
                    outside.select(self.schema.fields().iter().map(|f| ident(f.name())).collect::<Vec<_>>())?
                }
                WriteMode::Changes { key, operation } => self.replaced(table, key, operation)?,
                WriteMode::Append | WriteMode::Overwrite { .. } => return Ok(written),
            };
            written.extend(self.write(kept, "kept").await?);
        }
        if let WriteMode::Changes { key, operation } = self.mode
            && affected.counts.inserted > 0
        {
            written.extend(self.write(self.inserted(key, operation)?, "new").await?);
        }
        Ok(written)
    }

    /// The table's rows, with the staged values where there are any, and without the deleted ones.
    fn replaced(&self, table: DataFrame, key: &[String], operation: &Operation) -> Result<DataFrame> {
        let joined = table.join_on(self.staged_beside(operation)?, JoinType::Left, on(key))?;
        let kept = joined.filter(ident(HIT).is_null().or(!deletes()))?;
        let changed = self.changed(key, operation)?;
        let columns = self.schema.fields().iter().map(|f| {
            let staged = ident(format!("{STAGED}{}", f.name()));
            let hit = match STAMPS.contains(&f.name().as_str()) {
                true => ident(HIT).is_not_null().and(changed.clone()),
                false => ident(HIT).is_not_null(),
            };
            let set = if operation.patch().contains(f.name()) { hit } else { hit.and(patches().is_not_true()) };
            Ok(when(set, staged).otherwise(ident(f.name()))?.alias(f.name()))
        });
        Ok(kept.select(columns.collect::<Result<Vec<_>>>()?)?)
    }

    async fn write(&self, rows: DataFrame, what: &str) -> Result<Vec<WrittenFile>> {
        let stream = rows.execute_stream().await?;
        let folder = Folder::Local(self.next.to_owned());
        let stem = format!("{}-{what}", self.stem);
        write_stream(stream, folder, stem, Arc::clone(&self.schema), self.options.clone(), None).await
    }

    /// The staged rows under names that do not meet the table's, with marks for deletes and patches, and [`HIT`].
    fn staged_beside(&self, operation: &Operation) -> Result<DataFrame> {
        let staged = self.context.read_table(Arc::clone(&self.staged))?;
        let fields = without_operation(&self.staged.schema());
        let mut columns: Vec<_> =
            fields.fields().iter().map(|f| ident(f.name()).alias(format!("{STAGED}{}", f.name()))).collect();
        let is = |value: i8| if operation.is_column() { ident(OPERATION_COLUMN).eq(lit(value)) } else { lit(false) };
        columns.push(is(DELETE).alias(OPERATION_COLUMN));
        columns.push(is(PATCH).alias(PATCHES));
        columns.push(lit(true).alias(HIT));
        Ok(staged.select(columns)?)
    }

    /// The table's files, all or some, each row with its file's number. `None`: there are none.
    fn table(&self, only: Option<&BTreeSet<usize>>) -> Result<Option<DataFrame>> {
        let mut table: Option<DataFrame> = None;
        for (number, file) in self.current.iter().enumerate() {
            if only.is_some_and(|only| !only.contains(&number)) {
                continue;
            }
            let provider = self.sink.provider(&self.place, std::slice::from_ref(file), &self.schema, &self.options.csv);
            let frame = self.context.read_table(provider)?.with_column(FILE, lit(number as i64))?;
            table = Some(match table {
                Some(table) => table.union(frame)?,
                None => frame,
            });
        }
        Ok(table)
    }
}

fn deletes() -> Expr {
    ident(OPERATION_COLUMN)
}

fn patches() -> Expr {
    ident(PATCHES)
}

fn on(key: &[String]) -> Vec<Expr> {
    key.iter().map(|k| ident(k).eq(ident(format!("{STAGED}{k}")))).collect()
}

/// File numbers and counts of an aggregate by file.
fn rows(batch: &RecordBatch) -> impl Iterator<Item = (usize, Vec<u64>)> + '_ {
    let number = |column: usize, row: usize| batch.column(column).as_primitive::<Int64Type>().value(row).max(0) as u64;
    (0..batch.num_rows())
        .map(move |row| (number(0, row) as usize, (1..batch.num_columns()).map(|c| number(c, row)).collect()))
}

pub(super) async fn duplicate_keys(staged: Arc<dyn TableProvider>, unique: &[String]) -> Result<u64> {
    let rows = session(true)?.read_table(staged)?;
    let keys: Vec<_> = unique.iter().map(ident).collect();
    let repeated = rows.aggregate(keys, vec![count(lit(1i64)).alias(FILE)])?.filter(ident(FILE).gt(lit(1i64)))?;
    Ok(repeated.count().await? as u64)
}

fn session(hash_joins: bool) -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(MEMORY))).build_arc()?;
    let mut config = SessionConfig::new();
    config.options_mut().optimizer.prefer_hash_join = hash_joins;
    Ok(SessionContext::new_with_config_rt(config, runtime))
}
