//! Chunks of a range: what a backfill loads, one after the other or at once.
//!
//! Pure and deterministic: the same definition gives the same chunks, so a chunk's name stands for its rows on every
//! machine and in every run. Chunks of one plan never overlap and leave no gap: each row whose column lies in the range
//! is in exactly one.

mod bound;
mod loaded;
mod predicate;
mod split;

pub use bound::{Bound, Moment, Period, Zone};
pub use loaded::LoadedChunk;
pub use predicate::{filter, outside, scope};
pub use split::split;

/// How a column's range is cut.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ChunkSpec {
    /// A column of the source's output.
    pub column: String,
    pub range: ChunkRange,
    /// Where days and months begin.
    pub zone: Zone,
    pub nulls: NullChunk,
    /// More chunks than this are an error: most likely the step is not what was meant.
    pub max_chunks: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum ChunkRange {
    /// `from` to `to`, both inclusive.
    Dates { from: chrono::NaiveDate, to: chrono::NaiveDate, step: Option<Period> },
    /// `from` inclusive, `to` exclusive.
    Moments { from: Moment, to: Moment, step: Option<Period> },
    /// `from` to `to`, both inclusive.
    Integers { from: i64, to: i64, step: Option<u64> },
    /// All values, in equal parts of the space of uuids.
    Uuids { buckets: u32 },
    /// Everything, as one chunk.
    Whole,
}

impl ChunkRange {
    /// `date`, `timestamp`, `integer`, `uuid` or `all`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dates { .. } => "date",
            Self::Moments { .. } => "timestamp",
            Self::Integers { .. } => "integer",
            Self::Uuids { .. } => "uuid",
            Self::Whole => "all",
        }
    }

    /// The step as a definition writes it; `None` for one chunk.
    pub fn step(&self) -> Option<String> {
        match self {
            Self::Dates { step, .. } | Self::Moments { step, .. } => step.map(|s| s.to_string()),
            Self::Integers { step, .. } => step.map(|s| s.to_string()),
            Self::Uuids { .. } | Self::Whole => None,
        }
    }
}

/// Rows whose chunk column is NULL are in no chunk of the range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum NullChunk {
    /// They are counted before anything is loaded, and the campaign fails when there are some.
    #[default]
    Fail,
    /// They are a chunk of their own, the last one.
    Include,
}

/// One part of the range.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Chunk {
    /// The place in the plan, from one: `00001`; `null` for the rows without a value, `all` for everything.
    pub id: String,
    /// The least value; `None`: no bound.
    pub lower: Option<Bound>,
    /// The value at which the next chunk begins, or, where `inclusive_upper` is set, the greatest value of the chunk.
    /// `None`: no bound.
    pub upper: Option<Bound>,
    pub inclusive_upper: bool,
    /// The chunk of the rows without a value.
    pub null: bool,
}

/// The id of the chunk that is everything.
const ALL: &str = "all";

impl Chunk {
    /// Whether every row is in the chunk, also one without a value.
    pub fn is_everything(&self) -> bool {
        self.id == ALL
    }

    /// `2026-01-01 .. 2026-01-08`, for people. The upper end is exclusive unless `..=` says otherwise.
    pub fn label(&self, zone: &Zone) -> String {
        if self.null {
            return "NULL".to_owned();
        }
        let text = |bound: &Option<Bound>| bound.as_ref().map(|b| b.text(zone)).unwrap_or_default();
        match (&self.lower, &self.upper) {
            (None, None) => "everything".to_owned(),
            _ => format!(
                "{} {} {}",
                text(&self.lower),
                if self.inclusive_upper { "..=" } else { ".." },
                text(&self.upper)
            )
            .trim()
            .to_owned(),
        }
    }
}
