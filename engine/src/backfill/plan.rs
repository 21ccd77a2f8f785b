//! What a campaign would do: its chunks, its pace, what it loads and what it leaves out.

use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use dpone_planner::chunk::{ChunkRange, NullChunk, outside};
use dpone_planner::definition::InnerLoad;

use super::campaign::Campaign;
use super::manifest::{PartitionManifest, PartitionStatus};
use super::pace::Pace;
use crate::federation::{self, OpenOptions, RawColumns, Snapshots};
use crate::run::{Explanation, RunContext, explain_campaign};
use crate::{Error, Result};

/// The chunks of a plan, for people and machines.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PlannedBackfill {
    pub campaign: String,
    pub backfill_id: Option<String>,
    pub inner_mode: String,
    pub column: String,
    pub kind: String,
    pub step: Option<String>,
    pub timezone: String,
    pub parallel_workers: usize,
    pub throttle: Option<String>,
    /// Where the manifest is kept.
    pub manifest: String,
    /// `not begun`, or what the manifest says.
    pub status: String,
    /// What is and what is not loaded, in sentences.
    pub scope: Vec<String>,
    /// Rows without a value in the chunk column; `None`: not counted.
    pub null_rows: Option<u64>,
    /// Rows before or after the range; `None`: not counted.
    pub outside_rows: Option<u64>,
    pub chunks: Vec<PlannedChunk>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct PlannedChunk {
    pub id: String,
    pub lower: Option<String>,
    pub upper: Option<String>,
    pub inclusive_upper: bool,
    pub null_values: bool,
    pub status: PartitionStatus,
    /// `2026-01-01 .. 2026-01-08`
    #[serde(skip)]
    pub label: String,
}

/// Plans a campaign with its first chunk. `count_outside` also counts the rows that no chunk holds.
pub async fn plan_campaign(context: &RunContext, campaign: &Campaign, count_outside: bool) -> Result<Explanation> {
    let mut explanation = explain_campaign(context, campaign).await?;
    let counted = count_rows(context, campaign, count_outside).await?;
    if let Some(planned) = &mut explanation.backfill {
        planned.null_rows = Some(counted.null);
        planned.outside_rows = counted.outside;
        planned.scope = said(campaign, Some(&counted));
    }
    Ok(explanation)
}

/// The campaign's part of a plan. Reads the manifest, and no rows.
pub(crate) async fn planned(campaign: &Campaign) -> Result<PlannedBackfill> {
    let spec = &campaign.backfill.chunks;
    let stored = campaign.store.load(&campaign.key).await?;
    let status_of = |id: &str| {
        let partitions = stored.iter().flat_map(|m| &m.partitions);
        partitions.filter(|p| p.id == id).map(|p| p.status).next().unwrap_or(PartitionStatus::Pending)
    };
    Ok(PlannedBackfill {
        campaign: campaign.key.clone(),
        backfill_id: campaign.backfill.id.clone(),
        inner_mode: campaign.backfill.inner.mode().to_owned(),
        column: spec.column.clone(),
        kind: spec.range.kind().to_owned(),
        step: spec.range.step(),
        timezone: spec.zone.name().to_owned(),
        parallel_workers: campaign.backfill.workers,
        throttle: Pace::describe(&campaign.backfill.throttle),
        manifest: campaign.store.place(&campaign.key),
        status: stored.as_ref().map_or("not begun", PartitionManifest::summary).to_owned(),
        scope: said(campaign, None),
        null_rows: None,
        outside_rows: None,
        chunks: campaign
            .chunks
            .iter()
            .map(|chunk| PlannedChunk {
                id: chunk.id.clone(),
                lower: chunk.lower.map(|bound| bound.text(&spec.zone)),
                upper: chunk.upper.map(|bound| bound.text(&spec.zone)),
                inclusive_upper: chunk.inclusive_upper,
                null_values: chunk.null,
                status: status_of(&chunk.id),
                label: chunk.label(&spec.zone),
            })
            .collect(),
    })
}

fn said(campaign: &Campaign, counted: Option<&Counted>) -> Vec<String> {
    let spec = &campaign.backfill.chunks;
    let column = &spec.column;
    if spec.range == ChunkRange::Whole {
        return vec!["every row of the source is loaded, as one chunk".to_owned()];
    }
    let ranged = || campaign.chunks.iter().filter(|chunk| !chunk.null);
    let first = ranged().next().and_then(|c| c.lower).map(|b| b.text(&spec.zone));
    let last = ranged().next_back();
    let until = last.and_then(|c| c.upper).map(|b| b.text(&spec.zone));
    let inclusive = last.is_some_and(|c| c.inclusive_upper);
    let mut said = Vec::new();
    match (first, until) {
        (Some(first), Some(until)) => {
            let (reach, beyond) = if inclusive { ("up to", "after") } else { ("to before", "from") };
            said.push(format!("loaded: rows with {column} from {first} {reach} {until}"));
            let many = counted.and_then(|c| c.outside).map_or(String::new(), |n| format!(" ({n} rows)"));
            said.push(format!("not loaded: rows with {column} before {first}, or {beyond} {until}{many}"));
        }
        _ => said.push(format!("loaded: rows with any {column}")),
    }
    let nulls = counted.map(|c| c.null);
    said.push(match (spec.nulls, nulls) {
        (NullChunk::Include, n) => {
            format!("loaded: rows without a {column}{}, as the last chunk", n.map_or(String::new(), |n| format!(" ({n} rows)")))
        }
        (NullChunk::Fail, None) => {
            format!("rows without a {column} are in no chunk: they are counted first, and if there are any nothing is loaded")
        }
        (NullChunk::Fail, Some(0)) => format!("no row is without a {column}"),
        (NullChunk::Fail, Some(n)) => {
            format!("{n} rows are without a {column} and in no chunk: the run will refuse to begin (null_chunk: include loads them)")
        }
    });
    match &campaign.backfill.inner {
        InnerLoad::Replace { .. } => said.push("the target keeps its rows outside of the chunks".to_owned()),
        InnerLoad::FullRefresh { .. } => said.push("the target keeps no other row".to_owned()),
        InnerLoad::Append { .. } | InnerLoad::Merge { .. } => {
            said.push("the target keeps its rows: rows that the source no longer has are not removed".to_owned());
        }
    }
    said
}

/// Rows that are in no chunk of the range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) null: u64,
    pub(super) outside: Option<u64>,
}

/// Asks the source, one condition at a time, so that each is pushed down. A column that cannot be NULL is not asked.
pub(super) async fn count_rows(context: &RunContext, campaign: &Campaign, count_outside: bool) -> Result<Counted> {
    let mut counted = Counted { null: 0, outside: count_outside.then_some(0) };
    let spec = &campaign.backfill.chunks;
    if spec.range == ChunkRange::Whole {
        return Ok(counted);
    }
    let pipeline = &campaign.pipeline;
    let parallelism = context.parallelism(pipeline.tuning.parallelism);
    let batch_rows = pipeline.tuning.batch_rows.unwrap_or(context.options.batch_rows);
    let session = context.session(parallelism, batch_rows)?;
    let mut snapshots = Snapshots::default();
    let options = OpenOptions { parallelism, batch_rows, views: false, changes: None };
    let source =
        federation::open(context, &session, &mut snapshots, &pipeline.source, options, &RawColumns::new()).await?;
    let found = source.plan.schema().iter().find(|(_, field)| field.name() == &spec.column);
    let Some((qualifier, field)) = found else {
        return Err(Error::configuration(format!("the chunk column {:?} is not a column of the source", spec.column))
            .with("pipeline", &pipeline.name));
    };
    let on = Expr::Column(datafusion::common::Column::new(qualifier.cloned(), field.name()));
    if field.is_nullable() {
        counted.null = count_where(&session, &source.plan, Some(on.clone().is_null())).await?;
    }
    if count_outside && let Some(condition) = outside(&campaign.chunks, &spec.zone, field, &on)? {
        counted.outside = Some(count_where(&session, &source.plan, Some(condition)).await?);
    }
    snapshots.close().await?;
    Ok(counted)
}

/// Counts the rows of a plan, or those of a condition.
pub(super) async fn count_where(session: &SessionContext, plan: &LogicalPlan, condition: Option<Expr>) -> Result<u64> {
    let mut builder = LogicalPlanBuilder::from(plan.clone());
    if let Some(condition) = condition {
        builder = builder.filter(condition)?;
    }
    let plan = builder.aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64)).alias("n")])?.build()?;
    let physical = session.state().create_physical_plan(&plan).await?;
    let batches = collect(physical, session.task_ctx()).await?;
    let numbers = batches.iter().filter(|b| b.num_rows() > 0).map(|b| {
        let column = b.column(0).as_any().downcast_ref::<arrow::array::Int64Array>();
        column.map_or(0, |c| c.value(0))
    });
    Ok(numbers.sum::<i64>().unsigned_abs())
}
