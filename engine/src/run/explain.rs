//! What `dpone plan` prints: everything that a run would do. Nothing is touched.

use dpone_planner::definition::Pipeline;
use dpone_planner::state::Watermark;

use super::context::RunContext;
use crate::backfill::{self, Campaign, PlannedBackfill};
use crate::{Error, Result};

/// A plan for people and machines.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Explanation {
    pub pipeline: String,
    pub strategy: String,
    pub source: String,
    pub target: String,
    pub target_exists: bool,
    pub write_mode: String,
    /// What a concurrent reader sees during the commit.
    pub visibility: String,
    /// Rows and bytes that the source's statistics expect.
    pub rows_estimate: Option<u64>,
    /// The optimised logical plan.
    pub logical_plan: String,
    pub physical_plan: String,
    /// What each partition of each scan reads, such as its pushed-down SQL.
    pub partitions: Vec<String>,
    /// Name, type and nullability of each target column.
    pub columns: Vec<PlannedColumn>,
    pub ddl: Vec<String>,
    /// How source and target differ and what is done about it, where they do: the document of `dpone schema plan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_plan: Option<serde_json::Value>,
    /// What would stop the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
    /// The steps at the sink, in order.
    pub steps: Vec<String>,
    /// Checks on the staged rows, before the target is touched.
    pub checks: Vec<String>,
    pub state: PlannedState,
    /// The chunks, where the strategy is backfill; all else is then about the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<PlannedBackfill>,
    pub notes: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct PlannedColumn {
    pub name: String,
    pub source_type: String,
    pub target_type: String,
    pub nullable: bool,
    /// The values travel in the system's own form, because nothing reads them on the way.
    pub raw: bool,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct PlannedState {
    /// Where state is kept.
    pub location: String,
    pub watermark: Option<Watermark>,
    /// How far the changes of the source were read, for strategies that read them.
    pub position: Option<String>,
    pub last_run_id: Option<String>,
    pub last_committed_at: Option<String>,
}

/// Plans the pipeline against the systems as they are now.
pub async fn explain(context: &RunContext, pipeline: &Pipeline) -> Result<Explanation> {
    if !backfill::is_backfill(pipeline) {
        return super::prepare::explain(context, pipeline)
            .await
            .map_err(|e| e.with("pipeline", &pipeline.name).within(&pipeline.location));
    }
    let campaign = Campaign::new(context, pipeline, None)?;
    explain_campaign(context, &campaign).await
}

/// The plan of a campaign's first chunk, with all chunks.
pub(crate) async fn explain_campaign(context: &RunContext, campaign: &Campaign) -> Result<Explanation> {
    let pipeline = &campaign.pipeline;
    let first = campaign.chunks.first().ok_or_else(|| Error::internal("a backfill without chunks"))?;
    let mut explanation = super::prepare::explain(context, &campaign.chunk_pipeline(first)).await?;
    explanation.pipeline.clone_from(&pipeline.name);
    explanation.notes.splice(0..0, campaign.backfill.notes.iter().cloned());
    explanation.backfill = Some(backfill::planned(campaign).await?);
    Ok(explanation)
}
