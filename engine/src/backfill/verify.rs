//! Counts each committed chunk again, at both ends: rows that came late into a finished chunk are seen here.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use dpone_planner::chunk::{filter, scope};
use dpone_planner::definition::Pipeline;
use dpone_planner::expr::{predicate, qualify};

use super::campaign::Campaign;
use super::manifest::PartitionStatus;
use super::not_begun;
use super::plan::count_where;
use crate::federation::{self, OpenOptions, RawColumns, Snapshots};
use crate::run::RunContext;
use crate::{Error, Result};

/// A committed chunk, counted now.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ChunkCount {
    pub id: String,
    pub bounds: String,
    pub source_rows: u64,
    pub target_rows: u64,
}

impl ChunkCount {
    pub fn agrees(&self) -> bool {
        self.source_rows == self.target_rows
    }
}

/// Counts the committed chunks in source and target, each end as it is now. Fails with `conflict` when the campaign was
/// never begun, or the target is gone.
pub async fn verify(context: &RunContext, pipeline: &Pipeline) -> Result<(Campaign, Vec<ChunkCount>)> {
    let campaign = Campaign::new(context, pipeline, None)?;
    let Some(manifest) = campaign.store.load(&campaign.key).await? else { return Err(not_begun(&campaign)) };
    let mut ends = BothEnds::open(context, &campaign).await?;
    let mut counts = Vec::new();
    for partition in manifest.partitions.iter().filter(|p| p.status == PartitionStatus::Success) {
        if context.cancel.is_cancelled() {
            return Err(Error::new(crate::ErrorKind::Interrupted, "stopped on request"));
        }
        counts.push(ends.count(&campaign, &partition.id).await?);
    }
    ends.snapshots.close().await?;
    Ok((campaign, counts))
}

struct BothEnds {
    session: SessionContext,
    snapshots: Snapshots,
    source: LogicalPlan,
    target: LogicalPlan,
}

impl BothEnds {
    async fn open(context: &RunContext, campaign: &Campaign) -> Result<Self> {
        let pipeline = &campaign.pipeline;
        let batch_rows = pipeline.tuning.batch_rows.unwrap_or(context.options.batch_rows);
        // As a chunk is read: in one part, so that an index serves.
        let parallelism = pipeline.tuning.parallelism.or(context.options.parallelism).unwrap_or(1);
        let session = context.session(parallelism, batch_rows)?;
        let mut snapshots = Snapshots::default();
        let options = OpenOptions { parallelism, batch_rows, views: false, changes: None };
        let source =
            federation::open(context, &session, &mut snapshots, &pipeline.source, options, &RawColumns::new()).await?;
        let relation = &pipeline.sink.relation;
        let described = context.connections.sink(&pipeline.sink.connection)?.describe(relation).await?;
        let Some(target) = described else {
            return Err(Error::conflict(format!("the target {} does not exist", campaign.target)));
        };
        let target =
            LogicalPlanBuilder::scan("target", provider_as_source(Arc::clone(&target.provider)), None)?.build()?;
        Ok(Self { session, snapshots, source: source.plan, target })
    }

    async fn count(&mut self, campaign: &Campaign, id: &str) -> Result<ChunkCount> {
        let spec = &campaign.backfill.chunks;
        let chunk = campaign.chunk(id).ok_or_else(|| Error::internal(format!("the manifest has the chunk {id:?}")))?;
        let condition = self.in_source(campaign, chunk)?;
        let source_rows = count_where(&self.session, &self.source, condition).await?;
        let condition = self.in_target(campaign, chunk)?;
        let target_rows = count_where(&self.session, &self.target, condition).await?;
        Ok(ChunkCount { id: id.to_owned(), bounds: chunk.label(&spec.zone), source_rows, target_rows })
    }

    fn in_source(&self, campaign: &Campaign, chunk: &dpone_planner::chunk::Chunk) -> Result<Option<Expr>> {
        let spec = &campaign.backfill.chunks;
        if chunk.is_everything() {
            return Ok(None);
        }
        let found = self.source.schema().iter().find(|(_, field)| field.name() == &spec.column);
        let (qualifier, field) = found.ok_or_else(|| no_column(campaign, "source"))?;
        let on = Expr::Column(datafusion::common::Column::new(qualifier.cloned(), field.name()));
        filter(chunk, &spec.zone, field, on)
    }

    fn in_target(&self, campaign: &Campaign, chunk: &dpone_planner::chunk::Chunk) -> Result<Option<Expr>> {
        let spec = &campaign.backfill.chunks;
        if chunk.is_everything() {
            return Ok(None);
        }
        let schema = self.target.schema();
        let field = schema.field_with_unqualified_name(&spec.column).map_err(|_| no_column(campaign, "target"))?;
        let Some(sql) = scope(chunk, &spec.zone, field)? else { return Ok(None) };
        let bare = DFSchema::try_from(schema.as_arrow().clone())?;
        qualify(predicate("the chunk", &sql, &bare)?, &self.target).map(Some)
    }
}

fn no_column(campaign: &Campaign, end: &str) -> Error {
    Error::configuration(format!("the {end} has no column {:?}", campaign.backfill.chunks.column))
        .with("pipeline", &campaign.pipeline.name)
}
