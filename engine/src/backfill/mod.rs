//! Backfills: a range loaded chunk by chunk, by several workers, on several machines, and never twice.
//!
//! Each chunk is a run of the engine's ordinary protocol, as a pipeline of its own: it has its own lease, state and
//! receipts, so that chunks run beside each other and beside the pipeline's own runs. Its run id is made from the
//! campaign and the chunk, and the target's ledger of loads loads one run id once. That ledger decides what is
//! committed; the partition manifest says what is to be done, and may be lost or late without harm.

mod campaign;
mod checks;
mod execute;
mod json;
mod manifest;
mod pace;
mod plan;
mod report;
mod store;
mod verify;
mod worker;

pub use campaign::Campaign;
pub use execute::{CampaignOptions, Choice, run_campaign};
pub use json::JsonManifestStore;
pub use manifest::{
    Attempt, CampaignStatus, Claim, ClaimRequest, Partition, PartitionLease, PartitionManifest, PartitionStatus,
    StatusCounts,
};
pub(crate) use plan::planned;
pub use plan::{PlannedBackfill, PlannedChunk, plan_campaign};
pub use report::{CampaignReport, Failure};
pub use store::{Hold, ManifestStore};
pub use verify::{ChunkCount, verify};

use dpone_planner::definition::{Pipeline, Strategy};

use crate::run::RunContext;
use crate::{Error, Result};

/// The campaign's manifest, or `None` when it was never begun.
pub async fn status(context: &RunContext, pipeline: &Pipeline) -> Result<(Campaign, Option<PartitionManifest>)> {
    let campaign = Campaign::new(context, pipeline, None)?;
    let manifest = campaign.store.load(&campaign.key).await?;
    Ok((campaign, manifest))
}

/// Marks the campaign as cancelled: no further chunk is begun, by any worker on any machine. Chunks that are being loaded
/// are finished.
pub async fn cancel(context: &RunContext, pipeline: &Pipeline) -> Result<PartitionManifest> {
    let campaign = Campaign::new(context, pipeline, None)?;
    let Some(manifest) = campaign.store.load(&campaign.key).await? else {
        return Err(not_begun(&campaign));
    };
    if manifest.counts().is_done() {
        return Err(
            Error::conflict("the backfill is done: there is nothing to cancel").with("pipeline", &pipeline.name)
        );
    }
    campaign.store.set_status(&campaign.key, CampaignStatus::Cancelled, false).await?;
    Ok(campaign.store.load(&campaign.key).await?.unwrap_or(manifest))
}

fn not_begun(campaign: &Campaign) -> Error {
    Error::conflict(format!(
        "the backfill {} was never begun ({})",
        campaign.short(),
        campaign.store.place(&campaign.key)
    ))
    .with_hint("begin it with `dpone backfill run`; another definition, source or target is another backfill")
    .with("pipeline", &campaign.pipeline.name)
}

/// Whether the pipeline is one.
pub fn is_backfill(pipeline: &Pipeline) -> bool {
    matches!(pipeline.strategy, Strategy::Backfill(_))
}
