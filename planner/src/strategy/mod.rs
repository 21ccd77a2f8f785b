//! Load strategies: each builds a DataFusion plan over the source and picks a write mode. None knows a connector.

mod align;
mod backfill;
mod compare;
mod cursor;
mod evolve;
mod full_refresh;
mod incremental_append;
mod incremental_merge;
mod lineage;
mod partition_replace;
mod raw;
mod replace;
mod scd2;
mod snapshot_diff;
mod xmin;

pub use evolve::{Assume, TargetPlan, own_columns, plan_evolution, stopped};
pub use lineage::LoadIdentity;
pub use raw::{compares_rows, raw_columns};
pub use xmin::{ChangesFrom, ObservedChanges, changes_from, compares_keys};

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};

use crate::definition::{EmptySource, Pipeline, Strategy, VersionWrite};
use crate::dialect::{Dialect, TableOptions};
use crate::error::{Error, Result};
use crate::plan::{Checks, CursorPlan, LoadPlan, ScopeFilter, WriteMode};
use crate::schema::{SchemaChange, TableFacts};
use crate::state::PipelineState;

/// What was observed before planning.
#[derive(Debug)]
pub struct Observed<'a> {
    /// Reads the source as the definition says, before the strategy.
    pub source: LogicalPlan,
    /// The primary key of the source, where it is one table: a target that is created for its rows gets it too.
    pub source_key: Vec<String>,
    /// Names the source in the state digest: connection, table or query; no secrets.
    pub source_identity: String,
    pub target: Option<ObservedTarget>,
    pub state: Option<&'a PipelineState>,
    /// What the source tells of its changes, for strategies that read them.
    pub changes: Option<ObservedChanges>,
    /// Columns that do not tell whether a row was loaded before: they came later than some rows, or give way to others.
    /// Filled by the planner.
    pub late: Vec<String>,
    /// Keys of the source's rows that are put aside: they are not missing from the source. Made by the planner.
    pub aside: Option<LogicalPlan>,
    pub dialect: &'a dyn Dialect,
    pub modes: Modes,
    pub sizes: Sizes,
    /// When the source's snapshot was taken, in microseconds since 1970-01-01 UTC, later than the last load's. The one
    /// time that everything in this load is stamped with.
    pub now: i64,
    pub load: &'a LoadIdentity,
}

impl Observed<'_> {
    fn target_schema(&self) -> Option<&Schema> {
        self.target.as_ref().map(|target| target.schema.as_ref())
    }
}

/// What decides how two sides are compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sizes {
    /// Rows of the target, as far as its system knows.
    pub target_rows: Option<u64>,
    /// Bytes that operators may hold in memory.
    pub memory: u64,
    /// A comparison in memory was tried, and did not fit.
    pub outgrown: bool,
}

#[derive(Debug, Clone)]
pub struct ObservedTarget {
    pub schema: SchemaRef,
    pub primary_key: Vec<String>,
    pub has_rows: bool,
    /// What decides what a change of its schema costs.
    pub facts: TableFacts,
    /// Reads the target's committed rows.
    pub provider: Arc<dyn TableProvider>,
}

/// The write modes that the sink has.
#[derive(Debug, Clone, Copy)]
pub struct Modes {
    pub append: bool,
    pub overwrite_scope: bool,
    pub changes: bool,
}

/// What a strategy decides; the rest of the load plan follows from it.
struct Draft {
    plan: LogicalPlan,
    write_mode: WriteMode,
    cursor: Option<CursorPlan>,
    checks: Checks,
    /// Key of a target that is created.
    primary_key: Vec<String>,
    /// Columns of the plan that the strategy adds to the source's.
    own: Vec<Field>,
    notes: Vec<String>,
}

/// Plans one load. Pure: the same input gives the same plan. What the schema plan decides to change is taken for done.
pub fn plan_load(pipeline: &Pipeline, observed: Observed<'_>, assume: Assume) -> Result<LoadPlan> {
    plan_in_context(pipeline, observed, assume)
        .map_err(|e| e.with("pipeline", &pipeline.name).within(&pipeline.location))
}

fn plan_in_context(pipeline: &Pipeline, mut observed: Observed<'_>, assume: Assume) -> Result<LoadPlan> {
    if observed.source.schema().fields().is_empty() {
        return Err(Error::configuration("the source gives no column, so there is nothing to load")
            .with_hint("a table needs one column or more; exclude_columns must leave some of them"));
    }
    observed.dialect.check_partitions(&pipeline.sink.partition_by)?;
    let state_digest = digest(pipeline, &observed.source_identity);
    check_state(pipeline, observed.state, observed.target.as_ref().map(|t| t.has_rows), &state_digest)?;
    let evolved = evolve::evolve(pipeline, &mut observed, assume)?;
    if let Some(state) = observed.state {
        let names: Vec<String> = observed.source.schema().fields().iter().map(|f| f.name().clone()).collect();
        observed.late = [state.late_among(&names), evolved.routed].concat();
    }
    let (mut gone, mut changes, mut hashes) = (None, None, None);
    let mut draft = match &pipeline.strategy {
        Strategy::FullRefresh { overwrite } => full_refresh::draft(pipeline, &observed, *overwrite)?,
        Strategy::Replace { scope } => replace::draft(&observed, scope)?,
        Strategy::IncrementalAppend { cursor, only_new_rows, key } => {
            incremental_append::draft(&observed, cursor, *only_new_rows, key)?
        }
        Strategy::IncrementalMerge { key, cursor, duplicates, null_keys, soft_delete } => {
            incremental_merge::draft(&observed, key, cursor.as_ref(), duplicates, *null_keys, soft_delete.as_ref())?
        }
        Strategy::PartitionReplace { column, expression, scope } => {
            partition_replace::draft(&observed, column, expression.as_deref(), scope)?
        }
        Strategy::SnapshotDiff { key, compare, missing, duplicates, null_keys, row_hash } => snapshot_diff::draft(
            &observed,
            &snapshot_diff::Options {
                key,
                compare: *compare,
                missing: *missing,
                duplicates,
                null_keys: *null_keys,
                row_hash: *row_hash
                    || lineage::hashes_are_there(observed.target_schema(), observed.source.schema().as_arrow()),
                allow_empty: pipeline.guards.empty_source == EmptySource::Allow,
            },
        )?,
        Strategy::Scd2 { key, history, cursor, duplicates, null_keys } => {
            let planned = scd2::draft(
                &observed,
                &scd2::Options {
                    table: pipeline.sink.relation.to_string(),
                    key,
                    history,
                    cursor: cursor.as_ref(),
                    duplicates,
                    null_keys: *null_keys,
                    allow_empty: pipeline.guards.empty_source == EmptySource::Allow,
                },
            )?;
            hashes = Some(planned.hashes);
            planned.draft
        }
        Strategy::Xmin(spec) => {
            let planned = xmin::draft(pipeline, &observed, spec)?;
            (gone, changes) = (planned.gone, Some(planned.changes));
            planned.draft
        }
        Strategy::Chunk(load) => backfill::draft(pipeline, &mut observed, load)?,
        Strategy::Backfill(_) => return Err(Error::internal("a backfill is planned chunk by chunk")),
        Strategy::Unsupported(mode) => return Err(unavailable(&mode.name)),
    };
    let supported = match &draft.write_mode {
        WriteMode::Append => observed.modes.append,
        WriteMode::Overwrite { .. } => true,
        WriteMode::OverwriteScope { .. } => observed.modes.overwrite_scope,
        WriteMode::Changes { .. } => observed.modes.changes,
    };
    if !supported {
        return Err(Error::configuration(format!(
            "the strategy {} needs the write mode {:?}, which the sink {} does not have",
            pipeline.strategy.name(),
            draft.write_mode.name(),
            observed.dialect.system()
        ))
        .with_hint("use full_refresh, or a sink that has it: delta or postgres"));
    }
    let marks = draft.own.iter().any(|field| field.name() == snapshot_diff::IS_DELETED);
    if !marks && snapshot_diff::marks_are_there(&observed) && !matches!(pipeline.strategy, Strategy::Scd2 { .. }) {
        draft.plan = snapshot_diff::with_marks(draft.plan)?;
        draft.own.extend(snapshot_diff::mark_fields());
    }
    let mut aligned = align::align(&draft, &observed)?;
    if let Some(gone) = gone {
        aligned = align::with_gone(aligned, &gone)?;
    }
    let aligned = lineage::add(aligned, &mut draft, pipeline, &observed)?;
    for name in draft.write_mode.key() {
        observed.dialect.check_key(aligned.target_schema.field_with_name(name)?)?;
    }
    let matched = match &draft.write_mode {
        WriteMode::Changes { key, .. } => ("the key column", key.as_slice()),
        WriteMode::OverwriteScope { scope: ScopeFilter::Partitions { columns } } => {
            ("the partition column", &columns[..])
        }
        _ => ("", &[][..]),
    };
    let source = observed.source.schema().as_arrow();
    compare::check_matched(matched.0, matched.1, source, &aligned.target_schema, observed.dialect.system())?;
    let mut ddl = Vec::new();
    if observed.target.is_none() {
        ddl.push(SchemaChange::CreateTable {
            schema: Arc::clone(&aligned.target_schema),
            primary_key: draft.primary_key.clone(),
            partition_by: pipeline.sink.partition_by.clone(),
        });
    }
    for change in &ddl {
        // Rendered for what it refuses: nothing is read for a table that cannot be made.
        let cursor = pipeline.strategy.cursor().map(|cursor| cursor.column.as_str());
        let more = TableOptions { options: &pipeline.sink.options, cursor };
        observed.dialect.render_with(&pipeline.sink.relation, change, &more)?;
    }
    Ok(LoadPlan {
        pipeline: pipeline.name.clone(),
        strategy: pipeline.strategy.name().to_owned(),
        target: pipeline.sink.relation.clone(),
        logical: aligned.plan,
        staged_schema: aligned.staged_schema,
        target_schema: aligned.target_schema,
        write_mode: draft.write_mode,
        ddl,
        cursor: draft.cursor,
        changes,
        hashes,
        checks: Checks {
            max_delete_ratio: pipeline.guards.max_delete_ratio.or(draft.checks.max_delete_ratio),
            max_delete_rows: pipeline.guards.max_delete_rows,
            not_null: [draft.checks.not_null, aligned.not_null].concat(),
            ..draft.checks
        },
        state_digest,
        mapping: evolved.schema.as_ref().map(|plan| plan.mapping.clone()).unwrap_or_default(),
        schema: evolved.schema,
        evolve: evolved.ddl,
        evolve_notes: evolved.ddl_notes,
        notes: [evolved.notes, draft.notes].concat(),
    })
}

/// The error for a strategy of the contract that this version does not run.
pub fn unavailable(name: &str) -> Error {
    Error::configuration(format!("the strategy {name} is not available yet")).with_hint(
        "available are full_refresh, replace, partition_replace, incremental_append, incremental_merge, snapshot_diff, \
         scd2, xmin and backfill",
    )
}

/// What a watermark depends on: another source, query, cursor or strategy must not use it.
fn digest(pipeline: &Pipeline, source_identity: &str) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    let mut part = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part("v1");
    part(source_identity);
    part(&format!("{:?}", pipeline.source.read.predicate));
    part(&pipeline.sink.connection);
    part(&pipeline.sink.relation.to_string());
    part(pipeline.strategy.name());
    part(&pipeline.strategy.key().join("\u{1f}"));
    part(pipeline.strategy.cursor().map_or("", |c| &c.column));
    if let Strategy::Xmin(spec) = &pipeline.strategy {
        // Rows that are not read again keep what an earlier run read of them.
        let read = &pipeline.source.read;
        part(&format!("{:?} {:?} {:?}", read.columns, read.exclude_columns, read.types));
        part(if matches!(spec.write, VersionWrite::Append { .. }) { "append" } else { "merge" });
    }
    crate::state::hex(&hasher.finalize()[..16])
}

/// A watermark or position that does not belong to this definition, or to this target, is an error, never ignored:
/// ignoring it would load everything again, or lose what came between. `target` says whether the target has rows, where
/// there is one.
fn check_state(pipeline: &Pipeline, state: Option<&PipelineState>, target: Option<bool>, digest: &str) -> Result<()> {
    let reads_changes = matches!(pipeline.strategy, Strategy::Xmin(_));
    let Some(state) = state.filter(|_| reads_changes || pipeline.strategy.cursor().is_some()) else { return Ok(()) };
    let stored = match (&state.watermark, &state.changes) {
        (Some(watermark), _) => format!("the stored watermark ({watermark})"),
        (None, Some(_)) => "the stored position".to_owned(),
        (None, None) => return Ok(()),
    };
    if state.digest != digest {
        return Err(Error::conflict(format!(
            "{stored} was made by another definition of this pipeline: its source, query, cursor, key, strategy or \
             target changed since"
        ))
        .with_hint(
            "to start over, run `dpone state reset` for this pipeline (look first with `dpone state inspect`); to keep \
             the state, restore the definition; to load something else beside it, give the pipeline another name",
        ));
    }
    let gone = match target {
        None => "does not exist",
        // An empty target may be what the source was, and reading everything into it is right in any case.
        Some(false) if reads_changes => return Ok(()),
        Some(false) => "is empty",
        Some(true) => return Ok(()),
    };
    let loaded = match &state.watermark {
        Some(watermark) => format!("it was loaded up to {watermark}"),
        None => format!("it was loaded at {}", state.committed_at),
    };
    Err(Error::conflict(format!("the target {} {gone}, but the state says that {loaded}", pipeline.sink.relation))
        .with_hint("restore the table, or run `dpone state reset` for this pipeline to load everything again"))
}

/// The names of a plan's columns, checked: no two columns may have one name.
fn output_names(plan: &LogicalPlan) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for field in plan.schema().fields() {
        if names.contains(field.name()) {
            return Err(Error::configuration(format!("the query gives two columns with the name {:?}", field.name()))
                .with_hint("name one of them otherwise: SELECT … AS …"));
        }
        names.push(field.name().clone());
    }
    Ok(names)
}

/// Fails when a column that the definition names is not in the plan's output.
fn require_columns(what: &str, columns: &[String], plan: &LogicalPlan) -> Result<()> {
    let names = output_names(plan)?;
    for column in columns {
        if !names.contains(column) {
            let error = Error::configuration(format!("{what} {column:?} is not a column of the source"));
            return Err(match crate::definition::nearest(column, names.iter().map(String::as_str)) {
                Some(near) => error.with_hint(format!("did you mean {near:?}? Columns: {}", names.join(", "))),
                None => error.with_hint(format!("columns: {}", names.join(", "))),
            });
        }
    }
    Ok(())
}

/// The source's primary key, where each of its columns reaches the output under its own name, row by row.
fn carried_key(observed: &Observed<'_>) -> Vec<String> {
    let key = &observed.source_key;
    if key.is_empty() || !crate::expr::keeps_rows_and_columns(&observed.source, key) { Vec::new() } else { key.clone() }
}

/// The key, where staged rows have to be checked for duplicates of it. The source itself sees to it where its primary key
/// is part of it, reaches the target as it is, and is of types whose values are equal in every system or in none.
fn unique_staged(observed: &Observed<'_>, key: &[String]) -> Vec<String> {
    let primary = carried_key(observed);
    let is_same = |name: &String| {
        let Ok(here) = observed.source.schema().field_with_unqualified_name(name) else { return false };
        let there = observed.target.as_ref().and_then(|target| target.schema.field_with_name(name).ok());
        (here.data_type().is_integer() || matches!(here.data_type(), DataType::Date32 | DataType::Timestamp(..)))
            && there.is_none_or(|there| there.data_type() == here.data_type())
    };
    let enforced = !primary.is_empty() && primary.iter().all(|name| key.contains(name) && is_same(name));
    if enforced { Vec::new() } else { key.to_vec() }
}

fn filtered(plan: LogicalPlan, predicate: datafusion::logical_expr::Expr) -> Result<LogicalPlan> {
    Ok(LogicalPlanBuilder::from(plan).filter(predicate)?.build()?)
}

/// A column of a plan by its exact name.
fn column(plan: &LogicalPlan, name: &str) -> Result<datafusion::logical_expr::Expr> {
    let (qualifier, field) = plan
        .schema()
        .iter()
        .find(|(_, field)| field.name() == name)
        .ok_or_else(|| Error::internal(format!("column {name:?} is not in the plan")))?;
    Ok(datafusion::logical_expr::Expr::Column(datafusion::common::Column::new(qualifier.cloned(), field.name())))
}
