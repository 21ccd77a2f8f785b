//! A backfill as the definition says it: what is loaded, in which chunks, how fast, and where its progress is kept.

use std::time::Duration;

use super::{DuplicatePolicy, NullKeys, OverwriteType, SoftDelete};
use crate::chunk::{Chunk, ChunkSpec, LoadedChunk, Zone};

/// `mode: backfill`. Serialised is what decides which rows come where, for digests: neither how fast, nor by how many.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Backfill {
    pub inner: InnerLoad,
    pub chunks: ChunkSpec,
    /// Chunks that one process loads at once.
    #[serde(skip)]
    pub workers: usize,
    /// Tells campaigns over the same chunks apart: another id loads everything again.
    pub id: Option<String>,
    pub retry: RetryPolicy,
    /// A worker's claim on a chunk ends when it was not renewed for this long.
    #[serde(skip)]
    pub claim_ttl: Duration,
    pub ledger: Ledger,
    #[serde(skip)]
    pub throttle: Throttle,
    /// What was decided for the user, for the plan.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// How the rows of a chunk come into the target.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum InnerLoad {
    /// The chunk's rows become the target's rows in the chunk's window. `partition_replace` means the same: a chunk is
    /// exactly its window, and never touches a partition beyond it.
    Replace {
        mode: &'static str,
    },
    Append {
        /// Drop rows whose key is in the target already.
        only_new_rows: bool,
        key: Vec<String>,
    },
    Merge {
        key: Vec<String>,
        duplicates: DuplicatePolicy,
        null_keys: NullKeys,
        soft_delete: Option<SoftDelete>,
    },
    /// One chunk that becomes the whole target.
    FullRefresh {
        overwrite: OverwriteType,
    },
}

impl InnerLoad {
    /// The value of `inner_mode`.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Replace { mode } => mode,
            Self::Append { .. } => "incremental_append",
            Self::Merge { .. } => "incremental_merge",
            Self::FullRefresh { .. } => "full_refresh",
        }
    }

    pub fn key(&self) -> &[String] {
        match self {
            Self::Append { key, .. } | Self::Merge { key, .. } => key,
            _ => &[],
        }
    }

    /// Whether loading a chunk a second time changes nothing.
    pub fn is_idempotent(&self) -> bool {
        !matches!(self, Self::Append { only_new_rows: false, .. })
    }
}

/// One chunk of a backfill, as the pipeline that loads it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ChunkLoad {
    pub column: String,
    pub chunk: Chunk,
    pub zone: Zone,
    pub inner: InnerLoad,
    /// What the target remembers of it.
    pub loaded: LoadedChunk,
}

/// Which chunks a campaign that goes on takes up, besides those that were never tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum RetryPolicy {
    /// All that were not committed.
    #[default]
    NonCommitted,
    /// Those that failed; chunks that were skipped by a cancellation stay so.
    FailedOnly,
}

/// Where the partition manifest is kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum Ledger {
    /// JSON files of one machine. A folder of the definition is relative to the definition.
    LocalFile { dir: Option<String> },
    /// Tables that several machines share, beside the target or in another schema.
    AuditSchema { schema: Option<String> },
}

/// What spares the source. Without any of it, chunks follow each other at once.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Throttle {
    /// A pause of each worker after each chunk.
    pub pause: Option<Duration>,
    /// The part of the time that a worker loads, above 0 and up to 1: 0.25 pauses three times as long as it loaded.
    pub duty_cycle: Option<f64>,
    /// Rows a second that all workers of a process read together, over chunks on average.
    pub max_rows_per_second: Option<f64>,
}
