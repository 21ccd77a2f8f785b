//! What a run did: the receipt that ends it.

use dpone_planner::state::Watermark;

/// How many rows met which fate. `extracted = staged + quarantined + skipped`; where the source is compared with the
/// target, only differences are staged: `extracted = inserted + updated + unchanged + quarantined` of the source's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RowCounts {
    /// Rows that the source gave.
    pub extracted: u64,
    pub staged: u64,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub unchanged: u64,
    /// Rows left out because the definition says so, such as rows with a NULL key.
    pub quarantined: u64,
    /// Rows at the watermark that an earlier run had loaded.
    pub skipped: u64,
    /// Staged rows that mark a row as deleted: a sink updates it, a receipt counts it as deleted.
    #[serde(skip)]
    pub marks: u64,
}

impl RowCounts {
    /// Adds what another load did.
    pub fn add(&mut self, other: &Self) {
        self.extracted += other.extracted;
        self.staged += other.staged;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.quarantined += other.quarantined;
        self.skipped += other.skipped;
    }

    /// Completes the counts with what a sink's commit did to the target's rows.
    pub fn apply(&mut self, inserted: u64, updated: u64, deleted: u64, unchanged: u64) {
        self.inserted = inserted;
        self.updated = updated.saturating_sub(self.marks);
        self.deleted = deleted + self.marks.min(updated);
        self.unchanged += unchanged;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Committed,
    /// The same run id was committed before: nothing was done, the first receipt is reported.
    AlreadyCommitted,
    /// Nothing was loaded, because the definition says so: the receipt's notes say why.
    Skipped,
}

/// The receipt of a run.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    pub pipeline: String,
    pub strategy: String,
    pub write_mode: String,
    pub source: String,
    pub target: String,
    pub run_id: String,
    pub load_id: String,
    pub status: RunStatus,
    pub rows: RowCounts,
    /// Bytes sent to staging.
    pub bytes: u64,
    pub partitions: usize,
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_before: Option<Watermark>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_after: Option<Watermark>,
    /// What the source read was consistent with.
    #[serde(default)]
    pub source_position: String,
    /// The target's version after the commit, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub finished_at: String,
    /// The statements that changed the target's columns before the load.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schema_changes: Vec<String>,
    #[serde(default)]
    pub notes: Vec<String>,
}
