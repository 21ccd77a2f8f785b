//! What `dpone plan` prints: everything that a run would do. Nothing is touched.

use dpone_planner::definition::Pipeline;
use dpone_planner::state::Watermark;

use super::context::RunContext;
use crate::Result;

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
    /// The steps at the sink, in order.
    pub steps: Vec<String>,
    /// Checks on the staged rows, before the target is touched.
    pub checks: Vec<String>,
    pub state: PlannedState,
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
    super::prepare::explain(context, pipeline).await
}
