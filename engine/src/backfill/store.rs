//! The port for the partition manifest.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::manifest::{Attempt, CampaignStatus, Claim, ClaimRequest, PartitionManifest};
use crate::Result;

/// Keeps partition manifests. Every method is one atomic step: it happens as a whole or not at all, and is durable when
/// it returns.
#[async_trait]
pub trait ManifestStore: Debug + Send + Sync {
    /// Where the campaign's manifest is, for people.
    fn place(&self, campaign: &str) -> String;

    /// Stores the manifest unless the campaign has one, which must have the same chunks. A store that only one process
    /// may use fails with `conflict` while another holds it; the hold ends when it is dropped, or with the process.
    async fn begin(&self, fresh: &PartitionManifest) -> Result<Hold>;

    async fn load(&self, campaign: &str) -> Result<Option<PartitionManifest>>;

    /// All campaigns of a pipeline, the newest first.
    async fn campaigns(&self, pipeline: &str) -> Result<Vec<PartitionManifest>>;

    /// Takes the first chunk of the wanted statuses, or one whose lease has ended, with a token greater than every
    /// earlier one.
    async fn claim(&self, campaign: &str, request: &ClaimRequest) -> Result<Claim>;

    /// Moves the end of a claim. False when it was taken over.
    async fn renew(&self, campaign: &str, id: &str, token: u64, ttl: Duration) -> Result<bool>;

    /// Records how an attempt ended and gives the claim back. False when it was taken over: nothing is recorded.
    async fn record(&self, campaign: &str, id: &str, token: u64, attempt: &Attempt) -> Result<bool>;

    /// Cancels: chunks that were not begun become skipped. Opens again: with `unskip` they become pending.
    async fn set_status(&self, campaign: &str, status: CampaignStatus, unskip: bool) -> Result<()>;
}

/// Keeps other processes out of a store while it lives.
#[derive(Debug, Default)]
pub struct Hold(Option<std::fs::File>);

impl Hold {
    /// Keeps nobody out.
    pub fn shared() -> Self {
        Self(None)
    }

    pub(super) fn is_shared(&self) -> bool {
        self.0.is_none()
    }

    /// Holds the lock of an open file.
    pub fn file(file: std::fs::File) -> Self {
        Self(Some(file))
    }
}
