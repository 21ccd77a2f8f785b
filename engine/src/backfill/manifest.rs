//! The shape of the partition manifest: the same in a JSON file and in database tables. `docs/reference/backfill-manifest.md`
//! describes it for users.

use std::time::Duration;

use dpone_planner::chunk::LoadedChunk;

use crate::{Error, Result};

/// One campaign and its chunks.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PartitionManifest {
    pub version: u32,
    /// Digest of source, query, target, inner mode, chunks and major version: another definition is another campaign.
    pub campaign: String,
    /// Digest of the place that is read and the table that is written alone.
    pub origin: String,
    pub pipeline: String,
    pub backfill_id: Option<String>,
    pub status: CampaignStatus,
    /// For people: where the rows come from and go to.
    pub source: String,
    pub target: String,
    pub inner_mode: String,
    pub column: String,
    /// `date`, `timestamp`, `integer`, `uuid` or `all`.
    pub kind: String,
    pub step: Option<String>,
    pub timezone: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub updated_at: String,
    /// In the order of the range.
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignStatus {
    Open,
    /// Every chunk is committed.
    Done,
    /// No further chunk is begun.
    Cancelled,
}

/// One chunk.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Partition {
    pub id: String,
    /// The least value; none: no bound.
    pub lower: Option<String>,
    pub upper: Option<String>,
    /// Whether rows at `upper` belong to the chunk.
    pub inclusive_upper: bool,
    /// The chunk of the rows whose column is NULL.
    pub null_values: bool,
    pub status: PartitionStatus,
    pub extracted_rows: Option<u64>,
    pub loaded_rows: Option<u64>,
    /// Where the chunk's receipt is.
    pub artifact_path: Option<String>,
    /// `sha256:` of the receipt.
    pub checksum: Option<String>,
    /// How often a worker began it.
    pub attempts: u32,
    pub last_error: Option<String>,
    pub last_error_kind: Option<String>,
    /// The run id under which the target's ledger knows the chunk.
    pub run_id: String,
    pub load_id: Option<String>,
    pub lease: Option<PartitionLease>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub seconds: Option<f64>,
    /// Grows with every claim: a worker whose claim was taken over records nothing.
    pub token: u64,
}

impl Partition {
    /// The chunk as the target of `manifest` remembers it.
    pub fn loaded(&self, manifest: &PartitionManifest) -> LoadedChunk {
        let everything = self.lower.is_none() && self.upper.is_none() && !self.null_values;
        LoadedChunk {
            origin: manifest.origin.clone(),
            backfill_id: manifest.backfill_id.clone(),
            column: manifest.column.clone(),
            lower: self.lower.clone(),
            upper: self.upper.clone(),
            inclusive_upper: self.inclusive_upper,
            null_values: self.null_values,
            everything,
            label: self.id.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionLease {
    pub holder: String,
    /// RFC 3339, UTC.
    pub expires_at: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionStatus {
    Pending,
    Running,
    Success,
    Failed,
    /// Left out by a cancellation.
    Skipped,
}

impl PartitionStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Fails for a text that this version does not write.
    pub fn parse(text: &str) -> Result<Self> {
        [Self::Pending, Self::Running, Self::Success, Self::Failed, Self::Skipped]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| Error::configuration(format!("the partition manifest has the status {text:?}")))
    }
}

impl PartitionManifest {
    pub const VERSION: u32 = 1;

    pub fn counts(&self) -> StatusCounts {
        let mut counts = StatusCounts::default();
        for partition in &self.partitions {
            *match partition.status {
                PartitionStatus::Pending => &mut counts.pending,
                PartitionStatus::Running => &mut counts.running,
                PartitionStatus::Success => &mut counts.success,
                PartitionStatus::Failed => &mut counts.failed,
                PartitionStatus::Skipped => &mut counts.skipped,
            } += 1;
            counts.total += 1;
            counts.extracted_rows += partition.extracted_rows.unwrap_or(0);
            counts.loaded_rows += partition.loaded_rows.unwrap_or(0);
            counts.seconds += partition.seconds.unwrap_or(0.0);
        }
        counts
    }

    /// `done`, `cancelled`, `running`, `failed` or `open`.
    pub fn summary(&self) -> &'static str {
        let counts = self.counts();
        match self.status {
            _ if counts.is_done() => "done",
            CampaignStatus::Cancelled => "cancelled",
            _ if counts.running > 0 => "running",
            _ if counts.failed > 0 && counts.pending == 0 => "failed",
            _ => "open",
        }
    }

    /// Fails when a stored manifest does not have the chunks that the definition gives.
    pub fn check_same(&self, fresh: &Self) -> Result<()> {
        let shape = |manifest: &Self| -> Vec<_> {
            manifest
                .partitions
                .iter()
                .map(|p| (p.id.clone(), p.lower.clone(), p.upper.clone(), p.inclusive_upper, p.null_values))
                .collect()
        };
        if self.version == fresh.version && self.campaign == fresh.campaign && shape(self) == shape(fresh) {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "the stored partition manifest of backfill {} does not have the chunks of the definition",
            fresh.campaign
        ))
        .with_hint(
            "it was changed by hand or by another version. Move it away: chunks that were committed are found again in \
             the target's ledger of loads",
        ))
    }
}

/// How many chunks are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct StatusCounts {
    pub total: usize,
    pub pending: usize,
    pub running: usize,
    pub success: usize,
    pub failed: usize,
    pub skipped: usize,
    pub extracted_rows: u64,
    pub loaded_rows: u64,
    /// Time that workers spent on the chunks that are done.
    pub seconds: f64,
}

impl StatusCounts {
    pub fn is_done(&self) -> bool {
        self.success == self.total
    }
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    pub holder: String,
    pub ttl: Duration,
    /// The statuses to take, besides chunks whose worker let its lease end.
    pub take: Vec<PartitionStatus>,
    /// Chunks that this process has tried: it tries none twice.
    pub tried: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The chunk is the caller's; `taken_over` names the worker that let its lease end.
    Partition {
        partition: Box<Partition>,
        taken_over: Option<String>,
    },
    /// Other processes load what is left.
    Busy {
        holder: String,
        until: String,
    },
    Nothing,
    Cancelled,
}

/// How an attempt at a chunk ended.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub status: PartitionStatus,
    pub extracted_rows: Option<u64>,
    pub loaded_rows: Option<u64>,
    pub load_id: Option<String>,
    /// The receipt, as JSON.
    pub receipt: Option<String>,
    /// Kind and message.
    pub error: Option<(String, String)>,
    pub seconds: f64,
}

impl Attempt {
    /// `sha256:…` of the receipt.
    pub fn checksum(&self) -> Option<String> {
        use sha2::{Digest, Sha256};
        let receipt = self.receipt.as_ref()?;
        Some(format!("sha256:{}", dpone_planner::state::hex(&Sha256::digest(receipt.as_bytes()))))
    }
}
