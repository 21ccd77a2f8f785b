//! Who watches a run: progress bars on a terminal, lines in a log, the evidence of the run.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use dpone_planner::state::Watermark;

use crate::ErrorKind;
use crate::receipt::RowCounts;

/// The stages of a run, in order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Lease,
    Describe,
    Plan,
    Stage,
    Verify,
    Commit,
    Discard,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Describe => "describe",
            Self::Plan => "plan",
            Self::Stage => "stage",
            Self::Verify => "verify",
            Self::Commit => "commit",
            Self::Discard => "discard",
        }
    }
}

/// How far staging is. Sent about ten times a second at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub rows: u64,
    /// Bytes of Arrow data staged.
    pub bytes: u64,
    /// Rows that the source expects to give, where it has an estimate.
    pub rows_expected: Option<u64>,
    pub partitions_done: usize,
    pub partitions: usize,
}

/// What a run knows and decides on its way. Sent a few times a run, and once for each partition: never for a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Everything that the load will do is decided. Sent again by each attempt.
    Planned(Box<Planned>),
    /// One partition is staged.
    Partition { partition: usize, rows: u64, bytes: u64 },
    /// A backfill is begun, or gone on with: all of its chunks.
    Campaign(Box<Campaigning>),
    /// What became of a chunk of it; `rows` and `bytes` are of one that was loaded, by this run or an earlier one.
    Chunk { id: String, state: ChunkState, rows: RowCounts, bytes: u64 },
    /// The target's columns were changed, by these statements.
    SchemaChanged { statements: Vec<String> },
    /// An attempt failed, and is made again after the wait.
    Retry { attempt: u32, kind: ErrorKind, message: String, wait: Duration },
}

/// How a chunk of a backfill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkState {
    Begun,
    /// By this run.
    Loaded,
    /// An earlier run had loaded it.
    Found,
    Failed,
    /// The run was stopped before it was done.
    Stopped,
}

/// A backfill, as evidence keeps it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Campaigning {
    /// The key of the campaign.
    pub campaign: String,
    pub write_mode: String,
    pub source: String,
    pub target: String,
    pub target_exists: bool,
    /// Ids of its chunks; the rows of those that earlier runs loaded.
    pub chunks: Vec<(String, Option<u64>)>,
}

/// A planned load, as evidence keeps it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Planned {
    pub load_id: String,
    pub strategy: String,
    pub write_mode: String,
    pub source: String,
    pub target: String,
    pub target_exists: bool,
    pub partitions: usize,
    /// SHA-256 of the plan: what is read, what is staged, how it is written and what is checked.
    pub sha256: String,
    /// What the read is consistent with.
    pub source_position: String,
    pub watermark_before: Option<Watermark>,
    /// The document of the schema plan, where source and target differ.
    pub schema: Option<serde_json::Value>,
    pub notes: Vec<String>,
}

/// Told what happens, from any thread. Must not block.
pub trait Observer: Debug + Send + Sync {
    fn stage(&self, pipeline: &str, stage: Stage);
    fn progress(&self, pipeline: &str, progress: Progress);
    /// Something the user should know while the run goes on: a retry, a fallback.
    fn note(&self, pipeline: &str, text: &str);
    /// Facts for the evidence of the run.
    fn event(&self, _pipeline: &str, _event: &Event) {}
}

/// Tells all of several.
#[derive(Debug, Clone)]
pub struct Several(pub Vec<Arc<dyn Observer>>);

impl Observer for Several {
    fn stage(&self, pipeline: &str, stage: Stage) {
        self.0.iter().for_each(|one| one.stage(pipeline, stage));
    }

    fn progress(&self, pipeline: &str, progress: Progress) {
        self.0.iter().for_each(|one| one.progress(pipeline, progress));
    }

    fn note(&self, pipeline: &str, text: &str) {
        self.0.iter().for_each(|one| one.note(pipeline, text));
    }

    fn event(&self, pipeline: &str, event: &Event) {
        self.0.iter().for_each(|one| one.event(pipeline, event));
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Observer for Quiet {
    fn stage(&self, _: &str, _: Stage) {}
    fn progress(&self, _: &str, _: Progress) {}
    fn note(&self, _: &str, _: &str) {}
}
