//! What a run of a campaign did, and where the campaign stands after it.

use super::manifest::{PartitionManifest, StatusCounts};
use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::{Error, ErrorKind, Result};

/// The end of one run of a campaign.
#[derive(Debug)]
pub struct CampaignReport {
    pub manifest: PartitionManifest,
    pub counts: StatusCounts,
    /// Where the manifest is.
    pub place: String,
    /// Chunks that this run loaded.
    pub loaded: usize,
    /// Chunks that this run found committed in the target's ledger.
    pub found_committed: usize,
    /// Of the chunks that this run loaded.
    pub rows: RowCounts,
    pub bytes: u64,
    pub seconds: f64,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub failures: Vec<Failure>,
    /// The user, or the end of a lease, stopped the run.
    pub interrupted: bool,
    /// Why the run stopped before it had tried every chunk.
    pub stopped: Option<String>,
    pub notes: Vec<String>,
}

/// A chunk that this run did not get loaded.
#[derive(Debug)]
pub struct Failure {
    pub id: String,
    pub bounds: String,
    pub error: Error,
}

impl CampaignReport {
    /// `done`, `cancelled`, `interrupted`, `failed` or `open`.
    pub fn status(&self) -> &'static str {
        match self.manifest.summary() {
            "done" => "done",
            "cancelled" => "cancelled",
            _ if self.interrupted => "interrupted",
            _ if !self.failures.is_empty() || self.counts.failed > 0 => "failed",
            _ => "open",
        }
    }

    /// The error that the run ends with, when the campaign is not done.
    pub fn error(&self) -> Option<Error> {
        let counts = &self.counts;
        let far = format!("{} of {} chunks are committed", counts.success, counts.total);
        let error = match self.status() {
            "done" => return None,
            "interrupted" => Error::new(ErrorKind::Interrupted, format!("stopped on request; {far}"))
                .with_hint("go on with `dpone backfill resume`"),
            "cancelled" => Error::conflict(format!("the backfill was cancelled; {far}"))
                .with_hint("go on with `dpone backfill resume`"),
            "failed" => {
                let kind = self.failures.first().map_or(ErrorKind::Unknown, |f| f.error.kind());
                let mut message = format!("{} of {} chunks failed; {far}", counts.failed, counts.total);
                if let Some(stopped) = &self.stopped {
                    message.push_str(&format!("; {stopped}"));
                }
                if let Some(first) = self.failures.first() {
                    message.push_str(&format!("\nchunk {} ({}): {}", first.id, first.bounds, first.error));
                }
                let hint = self.failures.first().and_then(|f| f.error.hint()).map(|h| format!("{h}\n"));
                Error::new(kind, message).with_hint(format!(
                    "{}`dpone backfill status` lists the failed chunks, `dpone backfill retry-failed` tries them again",
                    hint.unwrap_or_default()
                ))
            }
            _ => Error::conflict(format!("the backfill is not done: {far}"))
                .with_hint("go on with `dpone backfill resume`"),
        };
        Some(error.with("pipeline", &self.manifest.pipeline))
    }

    /// The campaign as one run; its error, where it is not done.
    pub fn receipt(&self, run_id: &str) -> Result<Receipt> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        let mut notes = vec![format!(
            "backfill {}: {} chunks committed, {} by this run, {} found committed",
            self.manifest.campaign.get(..12).unwrap_or_default(),
            self.counts.success,
            self.loaded,
            self.counts.success - self.loaded
        )];
        notes.extend(self.notes.iter().cloned());
        Ok(Receipt {
            pipeline: self.manifest.pipeline.clone(),
            strategy: "backfill".to_owned(),
            write_mode: self.manifest.inner_mode.clone(),
            source: self.manifest.source.clone(),
            target: self.manifest.target.clone(),
            run_id: run_id.to_owned(),
            load_id: self.manifest.campaign.clone(),
            status: if self.loaded > 0 { RunStatus::Committed } else { RunStatus::AlreadyCommitted },
            rows: self.rows.clone(),
            bytes: self.bytes,
            partitions: self.loaded,
            seconds: self.seconds,
            watermark_before: None,
            watermark_after: None,
            source_position: String::new(),
            target_version: None,
            started_at: self.started_at.clone(),
            finished_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            schema_changes: Vec::new(),
            notes,
        })
    }
}
