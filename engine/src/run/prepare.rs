//! From a pipeline to a physical plan: describes both ends, plans, and explains.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use datafusion::prelude::SessionContext;
use dpone_planner::definition::{Pipeline, SourceQuery, StateSpec, Strategy};
use dpone_planner::dialect::{Dialect, TableOptions};
use dpone_planner::plan::{LoadPlan, Operation, WriteMode};
use dpone_planner::schema::SchemaPlan;
use dpone_planner::state::PipelineState;
use dpone_planner::strategy::{
    Assume, LoadIdentity, Modes, Observed, ObservedChanges, ObservedTarget, Sizes, TargetPlan, changes_from,
    compares_rows, plan_evolution, plan_load, raw_columns, unavailable,
};
use dpone_planner::types::{is_binary, is_raw, is_string, logical_name};

use super::changes;
use super::context::RunContext;
use super::explain::{Explanation, PlannedColumn, PlannedState};
use crate::federation::{self, OpenOptions, OpenSource, RawColumns, Snapshots};
use crate::probe::boundary_schema;
use crate::scan::ScanExec;
use crate::source::ReadTarget;
use crate::{Error, ReadRequest, Relation, Result, Sink, StateLocation, StateStore, TargetTable};

/// The two ends of a pipeline, before anything is read.
pub(super) struct Ends {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) dialect: Arc<dyn Dialect>,
    pub(super) store: Arc<dyn StateStore>,
    pub(super) location: StateLocation,
    /// The store that state is copied to after the commit, when the definition names another place.
    pub(super) mirror: Option<Arc<dyn StateStore>>,
}

impl Ends {
    pub(super) fn open(context: &RunContext, pipeline: &Pipeline) -> Result<Self> {
        let sink = context.connections.sink(&pipeline.sink.connection)?;
        let target = &pipeline.sink.relation;
        let (location, mirror) = match &pipeline.state {
            StateSpec::BesideData => (StateLocation::default(), None),
            StateSpec::InSink { relation } => (StateLocation { table: Some(relation.clone()) }, None),
            StateSpec::Elsewhere { connection, relation } => {
                let place = StateLocation { table: relation.clone() };
                let default = Relation::new("etl_state", "dpone_state");
                let store =
                    context.connections.sink(connection)?.state(relation.as_ref().unwrap_or(&default), &place)?;
                (StateLocation::default(), Some(store))
            }
        };
        let store = sink.state(target, &location)?;
        let dialect = sink.dialect();
        Ok(Self { sink, dialect, store, location, mirror })
    }
}

/// A planned load, ready to be staged.
pub(super) struct Prepared {
    pub(super) session: SessionContext,
    pub(super) snapshots: Snapshots,
    /// The target as it is read for a comparison.
    pub(super) target_snapshots: Snapshots,
    pub(super) source: OpenSource,
    pub(super) target: Option<TargetTable>,
    pub(super) state: Option<PipelineState>,
    pub(super) plan: LoadPlan,
    /// Why nothing is to be loaded.
    pub(super) skip: Option<String>,
    /// The time of the load in microseconds since 1970, as the plan has it.
    pub(super) now: i64,
    pub(super) physical: Arc<dyn ExecutionPlan>,
}

/// Says what of a schema plan is taken for done, or that the run cannot go on.
pub(super) type Govern<'a> = &'a (dyn Fn(&SchemaPlan) -> Result<Assume> + Send + Sync);

/// `outgrown`: a comparison in memory was tried before, and did not fit.
pub(super) async fn prepare(
    context: &RunContext,
    pipeline: &Pipeline,
    ends: &Ends,
    load: &LoadIdentity,
    outgrown: bool,
    govern: Govern<'_>,
) -> Result<Prepared> {
    if let Strategy::Unsupported(mode) = &pipeline.strategy {
        return Err(unavailable(&mode.name).with("pipeline", &pipeline.name).at(pipeline.location.clone()));
    }
    let parallelism = context.parallelism(pipeline.tuning.parallelism);
    let batch_rows = pipeline.tuning.batch_rows.unwrap_or(context.options.batch_rows);
    let mut target = ends.sink.describe(&pipeline.sink.relation).await.map_err(|e| in_sink(e, pipeline))?;
    let state = ends.store.get(&pipeline.name).await.map_err(|e| in_sink(e, pipeline))?;

    let has_rows = target.as_ref().map(|t| t.has_rows);
    let identity = source_identity(context, pipeline)?;
    let from = changes_from(pipeline, &identity, state.as_ref(), has_rows)?;
    let request = from.as_ref().map(changes::request);
    let texts = Field::new("text", DataType::Utf8, true);
    let compares = compares_rows(&pipeline.strategy, state.as_ref());
    let views = ends.dialect.takes_view(&texts) && pipeline.strategy.copies() && !compares;
    let options = OpenOptions { parallelism, batch_rows, views, changes: request.as_ref() };
    let mut snapshots = Snapshots::default();
    let mut target_snapshots = Snapshots::default();
    let mut session = context.session(parallelism, batch_rows)?;
    let portable = RawColumns::new();
    let mut source = federation::open(context, &session, &mut snapshots, &pipeline.source, options, &portable).await?;
    let target_schema = target.as_ref().map(|t| t.schema.as_ref());
    let raw = raw_columns(pipeline, &source.plan, ends.dialect.system(), target_schema, compares);
    let carries_raw = !raw.is_empty();
    if carries_raw {
        // Planned again with the same snapshots, in a session without the first plan's tables.
        session = context.session(parallelism, batch_rows)?;
        source = federation::open(context, &session, &mut snapshots, &pipeline.source, options, &raw).await?;
    }

    let now = load_time(state.as_ref());
    let changes = match from {
        Some(from) => {
            let seen = (target.as_ref(), state.as_ref(), now);
            Some(changes::observe(context, pipeline, &mut snapshots, &source, options, from, seen).await?)
        }
        None => None,
    };
    let compares = pipeline.strategy.compares() || changes.as_ref().is_some_and(|c| c.all_rows.is_some());
    let appends = matches!(pipeline.strategy, Strategy::IncrementalAppend { .. });
    if let Some(target) = target.as_mut().filter(|_| compares || appends) {
        let given = source.plan.schema().fields();
        let raw = given.iter().filter(|f| is_raw(f)).map(|f| f.name().clone()).collect();
        let types = bytes_kept_as_text(given, &target.schema, ends.dialect.as_ref())?;
        if compares || !types.is_empty() {
            target.provider =
                read_target(context, &mut target_snapshots, pipeline, target, options, raw, types).await?;
        }
    }

    let mut state = state;
    let sizes = Sizes {
        target_rows: target.as_ref().and_then(|t| t.rows_estimate),
        memory: context.options.memory_limit as u64,
        outgrown,
    };
    let seen = Observations { ends, target: target.as_ref(), identity: &identity, sizes, now, load, changes: &changes };
    let in_pipeline = |e: Error| e.with("pipeline", &pipeline.name);
    let (assume, skip) = match plan_evolution(pipeline, &seen.of(&source, state.as_ref())).map_err(in_pipeline)? {
        TargetPlan::Create => (Assume::Decided, None),
        TargetPlan::Skip(why) => (Assume::Decided, Some(why)),
        TargetPlan::Compared(plan) => (govern(&plan).map_err(in_pipeline)?, None),
    };
    let plan_from =
        |source: &OpenSource, state: Option<&PipelineState>| plan_load(pipeline, seen.of(source, state), assume);
    let mut plan = plan_from(&source, state.as_ref())?;
    if carries_raw && has_foreign_hashes(state.as_ref(), &plan) {
        // They may have been made over portable columns, as the comparison with the target's rows needs them anyway.
        session = context.session(parallelism, batch_rows)?;
        source = federation::open(context, &session, &mut snapshots, &pipeline.source, options, &portable).await?;
        plan = plan_from(&source, state.as_ref())?;
    }
    if has_foreign_hashes(state.as_ref(), &plan) {
        // Hashes that were made over another schema say nothing about these rows: the target's own are compared instead.
        if let Some(boundary) = state.as_mut().and_then(|s| s.boundary.as_mut()) {
            boundary.overflow = true;
        }
        plan = plan_from(&source, state.as_ref())?;
    }
    plan.notes.extend(source.notes.iter().cloned());
    plan.notes.extend(target.iter().flat_map(|t| t.notes.iter().cloned()));
    let physical = session
        .state()
        .create_physical_plan(&plan.logical)
        .await
        .map_err(|e| Error::from(e).with("pipeline", &pipeline.name))?;
    let physical = crate::repeat::repeatable(physical)?;
    Ok(Prepared { session, snapshots, target_snapshots, source, target, state, plan, skip, now, physical })
}

/// The target as a source: in parallel under one snapshot where the system can do that, and with the columns raw that
/// are raw in the source.
async fn read_target(
    context: &RunContext,
    snapshots: &mut Snapshots,
    pipeline: &Pipeline,
    target: &TargetTable,
    options: OpenOptions<'_>,
    raw: BTreeSet<String>,
    types: BTreeMap<String, String>,
) -> Result<Arc<dyn TableProvider>> {
    let connection = &pipeline.sink.connection;
    if raw.is_empty() && context.connections.source(connection).is_err() {
        return Ok(Arc::clone(&target.provider));
    }
    let request = ReadRequest {
        target: ReadTarget::Table(pipeline.sink.relation.clone()),
        parallelism: options.parallelism,
        batch_rows: options.batch_rows,
        raw,
        types,
        ..ReadRequest::default()
    };
    let opened = snapshots.get(context, connection).await?.table(&request).await;
    Ok(opened.map_err(|e| in_sink(e, pipeline))?.provider)
}

/// The columns that hold bytes of the source where the target's type is a text, with the type in which they are compared.
fn bytes_kept_as_text(source: &Fields, target: &Schema, dialect: &dyn Dialect) -> Result<BTreeMap<String, String>> {
    let mut types = BTreeMap::new();
    for field in source.iter().filter(|field| is_binary(field.data_type()) && !is_raw(field)) {
        let Ok(there) = target.field_with_name(field.name()) else { continue };
        if !is_string(there.data_type()) {
            continue;
        }
        if let Some(staged) = dialect.staged_field(field, there)?.filter(|staged| is_binary(staged.data_type())) {
            types.insert(
                field.name().clone(),
                logical_name(&Field::new(field.name(), staged.data_type().clone(), true)),
            );
        }
    }
    Ok(types)
}

/// Now, but later than the last load: intervals that begin with a load never end before they begin, whatever happens
/// to the clock.
fn load_time(state: Option<&PipelineState>) -> i64 {
    let last = state.and_then(|s| chrono::DateTime::parse_from_rfc3339(&s.committed_at).ok());
    let after = last.map_or(i64::MIN, |last| last.timestamp_micros() + 1);
    chrono::Utc::now().timestamp_micros().max(after)
}

/// What was seen at both ends.
struct Observations<'a> {
    ends: &'a Ends,
    target: Option<&'a TargetTable>,
    identity: &'a str,
    sizes: Sizes,
    now: i64,
    load: &'a LoadIdentity,
    changes: &'a Option<ObservedChanges>,
}

impl Observations<'_> {
    /// For a plan over this source; `state` is what a load goes on from.
    fn of<'b>(&'b self, source: &OpenSource, state: Option<&'b PipelineState>) -> Observed<'b> {
        let capabilities = self.ends.sink.capabilities();
        Observed {
            source: source.plan.clone(),
            source_key: source.key.clone(),
            source_identity: self.identity.to_owned(),
            target: self.target.map(|t| ObservedTarget {
                schema: Arc::clone(&t.schema),
                primary_key: t.primary_key.clone(),
                has_rows: t.has_rows,
                facts: t.facts.clone(),
                provider: Arc::clone(&t.provider),
            }),
            state,
            changes: self.changes.clone(),
            late: Vec::new(),
            aside: None,
            dialect: self.ends.dialect.as_ref(),
            modes: Modes {
                append: capabilities.append,
                overwrite_scope: capabilities.overwrite_scope,
                changes: capabilities.changes,
            },
            sizes: self.sizes,
            now: self.now,
            load: self.load,
        }
    }
}

/// Whether the plan would leave rows out by hashes that were made over another schema.
fn has_foreign_hashes(state: Option<&PipelineState>, plan: &LoadPlan) -> bool {
    plan.cursor.as_ref().is_some_and(|cursor| cursor.skip_boundary)
        && state
            .and_then(|state| state.boundary.as_ref())
            .is_some_and(|boundary| !boundary.overflow && boundary.schema != boundary_schema(&plan.staged_schema))
}

fn in_sink(error: Error, pipeline: &Pipeline) -> Error {
    error
        .with("pipeline", &pipeline.name)
        .with("table", pipeline.sink.relation.to_string())
        .with("connection", &pipeline.sink.connection)
}

/// Names the source for people: the tables that are read.
pub(super) fn source_name(pipeline: &Pipeline, plan: &LogicalPlan) -> String {
    match &pipeline.source.query {
        SourceQuery::Table { connection, relation } => format!("{connection}.{relation}"),
        SourceQuery::Native { connection, .. } => format!("{connection} (native query)"),
        SourceQuery::Sql { .. } => {
            let mut tables = BTreeSet::new();
            // A plan that cannot be walked only lacks its name here.
            let _ = plan.apply_with_subqueries(|node| {
                if let LogicalPlan::TableScan(scan) = node {
                    tables.insert(scan.table_name.to_string());
                }
                Ok(TreeNodeRecursion::Continue)
            });
            match tables.is_empty() {
                true => "a query without tables".to_owned(),
                false => tables.into_iter().collect::<Vec<_>>().join(", "),
            }
        }
    }
}

/// Names the source for the state's digest: what is read, and from which place. Secrets stay references.
fn source_identity(context: &RunContext, pipeline: &Pipeline) -> Result<String> {
    let place = |connection: &str| -> Result<String> {
        let definition = context.connections.definition(connection)?;
        let options: Vec<_> = definition.options.iter().map(|(k, v)| format!("{k}={}", v.display())).collect();
        Ok(format!("{}({})", definition.kind, options.join(",")))
    };
    Ok(match &pipeline.source.query {
        SourceQuery::Table { connection, relation } => format!("{} {relation}", place(connection)?),
        SourceQuery::Native { connection, sql } => format!("{} {sql}", place(connection)?),
        SourceQuery::Sql { sql } => sql.clone(),
    })
}

pub(super) async fn explain(context: &RunContext, pipeline: &Pipeline) -> Result<Explanation> {
    let ends = Ends::open(context, pipeline)?;
    let load = LoadIdentity { run_id: "the run's id".to_owned(), load_id: "the load's id".to_owned() };
    let prepared = prepare(context, pipeline, &ends, &load, false, &|_| Ok(Assume::Everything)).await?;
    let dialect = &ends.dialect;
    let plan = &prepared.plan;
    let mut ddl = Vec::new();
    for change in &plan.ddl {
        let cursor = pipeline.strategy.cursor().map(|cursor| cursor.column.as_str());
        let more = TableOptions { options: &pipeline.sink.options, cursor };
        ddl.extend(dialect.render_with(&plan.target, change, &more)?);
    }
    let mut partitions = Vec::new();
    describe_scans(prepared.physical.as_ref(), &mut partitions);
    let columns = plan
        .target_schema
        .fields()
        .iter()
        .map(|field| {
            let given = prepared.source.plan.schema().field_with_unqualified_name(field.name());
            Ok(PlannedColumn {
                name: field.name().clone(),
                source_type: given.as_ref().map(|f| described_type(f)).unwrap_or_default(),
                target_type: dialect.native_type(field)?,
                nullable: field.is_nullable(),
                raw: given.is_ok_and(|f| is_raw(f)),
            })
        })
        .collect::<Result<_>>()?;
    let changed = plan.schema.as_ref().filter(|schema| !schema.changes.is_empty());
    let optimised = prepared.session.state().optimize(&plan.logical)?;
    let explanation = Explanation {
        pipeline: plan.pipeline.clone(),
        strategy: plan.strategy.clone(),
        source: source_name(pipeline, &prepared.source.plan),
        target: format!("{}.{}", pipeline.sink.connection, plan.target),
        target_exists: prepared.target.is_some(),
        write_mode: plan.write_mode.name().to_owned(),
        visibility: ends.sink.capabilities().visibility.to_owned(),
        rows_estimate: prepared.source.rows,
        logical_plan: optimised.display_indent().to_string(),
        physical_plan: displayable(prepared.physical.as_ref()).indent(false).to_string(),
        partitions,
        columns,
        ddl,
        schema_plan: changed.map(SchemaPlan::document).transpose()?,
        blockers: changed.map(SchemaPlan::blockers).unwrap_or_default(),
        steps: steps(plan, &ends, prepared.physical.output_partitioning().partition_count()),
        checks: checks(plan),
        state: PlannedState {
            location: match (&pipeline.state, &ends.location.table) {
                (StateSpec::Elsewhere { connection, .. }, _) => format!("beside the data, copied to {connection}"),
                (_, Some(table)) => table.to_string(),
                _ => "beside the data".to_owned(),
            },
            watermark: prepared.state.as_ref().and_then(|s| s.watermark.clone()),
            position: prepared.state.as_ref().and_then(|s| s.changes.as_ref()).map(|c| c.summary.clone()),
            last_run_id: prepared.state.as_ref().map(|s| s.run_id.clone()),
            last_committed_at: prepared.state.as_ref().map(|s| s.committed_at.clone()),
        },
        backfill: None,
        notes: [&prepared.skip.iter().cloned().collect::<Vec<_>>()[..], &plan.evolve_notes, &plan.notes].concat(),
        warnings: pipeline.warnings.clone(),
    };
    prepared.target_snapshots.close().await?;
    prepared.snapshots.close().await?;
    Ok(explanation)
}

/// The native type where there is one, else the logical name.
fn described_type(field: &arrow::datatypes::Field) -> String {
    field.metadata().get(dpone_planner::types::NATIVE).cloned().unwrap_or_else(|| logical_name(field))
}

fn describe_scans(plan: &dyn ExecutionPlan, out: &mut Vec<String>) {
    if let Some(scan) = (plan as &dyn std::any::Any).downcast_ref::<ScanExec>() {
        for partition in 0..scan.scan().partitions() {
            out.push(format!("{} [{partition}]: {}", scan.scan().connection(), scan.scan().describe(partition)));
        }
    }
    for child in plan.children() {
        describe_scans(child.as_ref(), out);
    }
}

fn checks(plan: &LoadPlan) -> Vec<String> {
    let checks = &plan.checks;
    let mut out = vec!["rows staged = rows extracted, less what is left out and counted".to_owned()];
    if !checks.not_null.is_empty() {
        out.push(format!("no NULL in {}", checks.not_null.join(", ")));
    }
    if !checks.quarantine_null.is_empty() {
        out.push(format!("rows with a NULL in {} are left out and counted", checks.quarantine_null.join(", ")));
    }
    if !checks.unique.is_empty() {
        out.push(format!("no two rows with the same {}", checks.unique.join(", ")));
    }
    if let Some(limit) = &checks.max_partitions {
        out.push(format!("at most {} different values of {}", limit.most, limit.columns.join(", ")));
    }
    if checks.fail_on_empty {
        out.push("an empty source does not empty a target that has rows".to_owned());
    }
    if let Some(rows) = checks.max_delete_rows {
        out.push(format!("at most {rows} rows are deleted"));
    }
    if let Some(ratio) = checks.max_delete_ratio {
        out.push(format!("at most {:.1} % of the target's rows are deleted", ratio * 100.0));
    }
    out
}

fn steps(plan: &LoadPlan, ends: &Ends, partitions: usize) -> Vec<String> {
    let target = &plan.target;
    let mut steps = vec![format!("take the lease of {}", plan.pipeline)];
    if !plan.evolve.is_empty() {
        steps.push(format!(
            "change the columns of {target}: {} change(s), within the budget for locks",
            plan.evolve.len()
        ));
    }
    steps.extend([format!("stage {partitions} partition(s) beside {target}"), "check the staged rows".to_owned()]);
    let transaction = if ends.sink.capabilities().transactional { "in one transaction" } else { "in one commit" };
    if !plan.ddl.is_empty() {
        steps.push(format!("{transaction}: create {target}"));
    }
    steps.push(match &plan.write_mode {
        WriteMode::Append => format!("{transaction}: add the staged rows to {target}"),
        WriteMode::Overwrite { .. } => {
            format!("{transaction}: {}: the staged rows become {target}", plan.write_mode.name())
        }
        WriteMode::OverwriteScope { scope } => format!(
            "{transaction}: delete from {target} where {}, add the staged rows",
            match scope {
                dpone_planner::plan::ScopeFilter::Predicate { sql } => sql.clone(),
                dpone_planner::plan::ScopeFilter::Partitions { columns } => match &plan.checks.max_partitions {
                    Some(limit) if limit.cut.is_some() => {
                        format!("{} lies in a partition of the staged rows", columns.join(", "))
                    }
                    _ => format!("({}) occurs in staging", columns.join(", ")),
                },
            }
        ),
        WriteMode::Changes { key, operation } => format!(
            "{transaction}: by key ({}): update rows that differ, insert new ones{}",
            key.join(", "),
            match operation {
                Operation::Upsert => String::new(),
                Operation::Column { patch } if patch.is_empty() => ", delete marked ones".to_owned(),
                Operation::Column { patch } => format!(", set only {} in marked ones", patch.join(" and ")),
            }
        ),
    });
    steps.push(match &plan.cursor {
        Some(cursor) => {
            format!("{transaction}: store the greatest {} as the watermark, and the load's receipt", cursor.column)
        }
        None => format!("{transaction}: store the load's receipt"),
    });
    if ends.mirror.is_some() {
        steps.push("copy the state to where the definition wants it".to_owned());
    }
    steps.push("remove staging, give the lease back".to_owned());
    steps
}
