//! What is looked at before a campaign begins: whether it can, and what other campaigns have loaded.

use super::campaign::Campaign;
use super::execute::Choice;
use super::manifest::{CampaignStatus, PartitionManifest, PartitionStatus};
use super::plan::count_rows;
use crate::run::{RunContext, states};
use crate::{Error, Result};

pub(super) fn check_choice(campaign: &Campaign, stored: Option<&PartitionManifest>, choice: Choice) -> Result<()> {
    match (stored, choice) {
        (None, Choice::Resume | Choice::RetryFailed) => Err(super::not_begun(campaign)),
        (Some(stored), Choice::Run | Choice::RetryFailed)
            if stored.status == CampaignStatus::Cancelled && !stored.counts().is_done() =>
        {
            Err(Error::conflict(format!("the backfill {} was cancelled", campaign.short()))
                .with_hint("go on with `dpone backfill resume`"))
        }
        _ => Ok(()),
    }
}

/// Other campaigns of the pipeline: worth a word, and for a plain append more than that. A changed range has other
/// chunks, and the rows that an earlier campaign appended would be there twice.
pub(super) async fn check_others(
    campaign: &Campaign,
    stored: Option<&PartitionManifest>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let begun = stored.is_some_and(|m| m.counts().success > 0);
    for other in campaign.store.campaigns(&campaign.pipeline.name).await? {
        let counts = other.counts();
        if other.campaign == campaign.key || counts.success == 0 {
            continue;
        }
        let which = other.campaign.get(..12).unwrap_or_default().to_owned();
        let same_id = other.backfill_id == campaign.backfill.id;
        let again = !campaign.backfill.inner.is_idempotent() && appends_again(campaign, &other);
        if !begun && same_id && other.origin == campaign.origin && again {
            return Err(Error::conflict(format!(
                "an earlier backfill of this pipeline ({which}) has appended {} of its {} chunks to {}; its definition \
                 was another. Rows of both would be there twice",
                counts.success, counts.total, other.target
            ))
            .with_hint(
                "leave what is loaded out of the range; to load it again on purpose, give this one a backfill_id of its \
                 own; to load a range again without repeating \
                 rows, use inner_mode replace or incremental_merge",
            ));
        }
        if !counts.is_done() {
            notes.push(format!(
                "an earlier backfill of this pipeline ({which}) was left with {} of {} chunks committed: its source or \
                 its definition was another, so this one does not go on with it",
                counts.success, counts.total
            ));
        }
    }
    Ok(())
}

/// Whether a chunk of the campaign shares rows with one that the other has committed.
fn appends_again(campaign: &Campaign, other: &PartitionManifest) -> bool {
    let chunks: Vec<_> = campaign.chunks.iter().map(|chunk| campaign.loaded(chunk)).collect();
    let committed = other.partitions.iter().filter(|partition| partition.status == PartitionStatus::Success);
    committed.map(|partition| partition.loaded(other)).any(|loaded| chunks.iter().any(|chunk| chunk.overlaps(&loaded)))
}

/// The same by what the target itself remembers: manifests may be lost, or be those of another machine. Only chunks that
/// share rows with one of this campaign matter.
pub(super) async fn check_loaded(
    context: &RunContext,
    campaign: &Campaign,
    stored: Option<&PartitionManifest>,
) -> Result<()> {
    if campaign.backfill.inner.is_idempotent() || stored.is_some_and(|m| m.counts().success > 0) {
        return Ok(());
    }
    let of_pipeline = format!("{}.backfill.", campaign.pipeline.name);
    let own = format!("{of_pipeline}{}.", campaign.short());
    let chunks: Vec<_> = campaign.chunks.iter().map(|chunk| (&chunk.id, campaign.loaded(chunk))).collect();
    for state in states(context, &campaign.pipeline).await? {
        let Some(loaded) = &state.chunk else { continue };
        let ours = !state.pipeline.starts_with(&of_pipeline) || state.pipeline.starts_with(&own);
        if ours || loaded.origin != campaign.origin || loaded.backfill_id != campaign.backfill.id {
            continue;
        }
        if let Some((id, chunk)) = chunks.iter().find(|(_, chunk)| chunk.overlaps(loaded)) {
            let which = state.pipeline[of_pipeline.len()..].split('.').next().unwrap_or_default();
            return Err(Error::conflict(format!(
                "an earlier backfill of this pipeline ({which}) has appended {} {} to {} at {}, says the target; chunk \
                 {id} ({}) would append rows of it again",
                loaded.column, loaded.label, campaign.target, state.committed_at, chunk.label
            ))
            .with_hint(
                "leave what is loaded out of the range; to load it again on purpose, give this backfill a backfill_id of \
                 its own; to load a range again without repeating rows, use inner_mode replace or incremental_merge",
            ));
        }
    }
    Ok(())
}

/// A ledger that says loaded while the table is gone, or empty, is not believed. Returns whether the target exists.
pub(super) async fn check_target(
    context: &RunContext,
    campaign: &Campaign,
    manifest: &PartitionManifest,
) -> Result<bool> {
    let relation = &campaign.pipeline.sink.relation;
    let described = context.connections.sink(&campaign.pipeline.sink.connection)?.describe(relation).await?;
    let counts = manifest.counts();
    if counts.success == 0 {
        return Ok(described.is_some());
    }
    match described {
        None => Err(gone(campaign, "does not exist")),
        Some(target) if !target.has_rows && counts.loaded_rows > 0 => Err(gone(campaign, "is empty")),
        Some(_) => Ok(true),
    }
}

pub(super) fn gone(campaign: &Campaign, how: &str) -> Error {
    Error::conflict(format!("chunks of the backfill are recorded as loaded, but the target {} {how}", campaign.target))
        .with_hint("restore the table, or load everything again under another backfill_id: --backfill-id again")
}

pub(super) async fn check_nulls(context: &RunContext, campaign: &Campaign) -> Result<()> {
    let counted = count_rows(context, campaign, false).await?;
    if counted.null == 0 {
        return Ok(());
    }
    let column = &campaign.backfill.chunks.column;
    Err(Error::data_quality(format!(
        "{} rows of the source have no {column}, and so are in no chunk; nothing was loaded",
        counted.null
    ))
    .with_hint("null_chunk: include loads them as a chunk of their own; or leave them out in the definition"))
}
