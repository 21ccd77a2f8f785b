//! Who watches a run: progress bars on a terminal, lines in a log.

use std::fmt::Debug;

/// The stages of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
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

/// Told what happens, from any thread. Must not block.
pub trait Observer: Debug + Send + Sync {
    fn stage(&self, pipeline: &str, stage: Stage);
    fn progress(&self, pipeline: &str, progress: Progress);
    /// Something the user should know while the run goes on: a retry, a fallback.
    fn note(&self, pipeline: &str, text: &str);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Observer for Quiet {
    fn stage(&self, _: &str, _: Stage) {}
    fn progress(&self, _: &str, _: Progress) {}
    fn note(&self, _: &str, _: &str) {}
}
