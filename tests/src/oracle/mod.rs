//! What each strategy must make of a target, on vectors of rows: small, slow and meant to be obviously right.
//!
//! Written from the contract in `docs/strategies/`, not from the planner's code: nothing here knows a plan, a hash, a
//! partition or a server. [`Oracle`] is the target as it must be; [`Oracle::load`] is one run.

mod full_refresh;
mod incremental_append;
mod incremental_merge;
mod model;
mod replace;

pub use full_refresh::FullRefresh;
pub use incremental_append::IncrementalAppend;
pub use incremental_merge::{IncrementalMerge, Mark};
pub use model::{Column, Kind, Row, Shape, Value, take};
pub use replace::{Replace, Scope};

/// A strategy with its options.
#[derive(Debug, Clone)]
pub enum Strategy {
    FullRefresh(FullRefresh),
    Replace(Replace),
    IncrementalAppend(IncrementalAppend),
    IncrementalMerge(IncrementalMerge),
}

/// The counters of a receipt that the contract fixes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub unchanged: u64,
    pub quarantined: u64,
}

/// A run that must fail: the class of the error, and what its text must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: &'static str,
    pub says: Vec<String>,
}

impl Refusal {
    fn data_quality(says: impl IntoIterator<Item = String>) -> Self {
        Self { kind: "data_quality", says: says.into_iter().collect() }
    }
}

/// What a strategy is given.
#[derive(Debug)]
struct Before<'a> {
    shape: &'a Shape,
    source: &'a [Row],
    /// Empty when there is no target yet.
    target: &'a [Row],
    watermark: Option<&'a str>,
}

/// What it makes of it.
#[derive(Debug)]
struct After {
    target: Vec<Row>,
    counts: Counts,
    watermark: Option<String>,
}

/// The target as it must be, with the state that goes with it.
#[derive(Debug, Clone)]
pub struct Oracle {
    pub shape: Shape,
    pub strategy: Strategy,
    /// `None` until the first run that succeeds.
    target: Option<Vec<Row>>,
    watermark: Option<String>,
}

impl Oracle {
    pub fn new(shape: Shape, strategy: Strategy) -> Self {
        Self { shape, strategy, target: None, watermark: None }
    }

    /// One run over the rows of the source. A run that is refused changes nothing.
    pub fn load(&mut self, source: &[Row]) -> Result<Counts, Refusal> {
        let rows = self.target.as_deref().unwrap_or_default();
        if self.watermark.is_some() && rows.is_empty() {
            // A target that lost its rows is not the one that the watermark belongs to.
            return Err(Refusal { kind: "conflict", says: vec!["is empty".to_owned()] });
        }
        let before = Before { shape: &self.shape, source, target: rows, watermark: self.watermark.as_deref() };
        let after = match &self.strategy {
            Strategy::FullRefresh(strategy) => strategy.load(&before),
            Strategy::Replace(strategy) => strategy.load(&before),
            Strategy::IncrementalAppend(strategy) => strategy.load(&before),
            Strategy::IncrementalMerge(strategy) => strategy.load(&before),
        }?;
        self.watermark = later(&self.shape, self.watermark.take(), after.watermark);
        self.target = Some(after.target);
        Ok(after.counts)
    }

    /// The target's rows; none while there is no target.
    pub fn rows(&self) -> &[Row] {
        self.target.as_deref().unwrap_or_default()
    }

    pub fn exists(&self) -> bool {
        self.target.is_some()
    }

    /// A target that somebody made beforehand, without rows.
    pub fn with_empty_target(mut self) -> Self {
        self.target = Some(Vec::new());
        self
    }
}

/// A watermark only ever moves up.
fn later(shape: &Shape, old: Option<String>, new: Option<String>) -> Option<String> {
    match (old, new) {
        (Some(old), Some(new)) if shape.compare_cursor(&new, &old).is_le() => Some(old),
        (old, None) => old,
        (_, new) => new,
    }
}

/// The rows that an incremental read gives: from the lower bound on, inclusive, and those without a cursor value.
fn read_from(before: &Before<'_>, lag: Option<Lag>) -> (Vec<Row>, Option<String>) {
    let (Some(at), Some(watermark)) = (before.shape.cursor, before.watermark) else {
        return (before.source.to_vec(), None);
    };
    let lower = lag.map_or_else(|| watermark.to_owned(), |lag| lag.below(before.shape.columns[at].source, watermark));
    let reached = |row: &&Row| row[at].as_ref().is_none_or(|v| before.shape.compare_cursor(v, &lower).is_ge());
    (before.source.iter().filter(reached).cloned().collect(), Some(lower))
}

/// How far below the watermark a read begins.
#[derive(Debug, Clone, Copy)]
pub enum Lag {
    Days(i64),
    Number(i64),
}

impl Lag {
    fn below(self, kind: Kind, watermark: &str) -> String {
        match self {
            Self::Number(n) => (watermark.parse::<i64>().unwrap() - n).to_string(),
            Self::Days(days) => {
                assert!(matches!(kind, Kind::Date | Kind::Timestamp | Kind::Timestamptz));
                let (date, time) = watermark.split_at(10);
                format!("{}{time}", crate::properties::date(crate::properties::days(date) - days))
            }
        }
    }
}

/// Refuses NULLs, with how many there are in each column.
fn refuse_nulls(shape: &Shape, columns: &[usize], rows: &[Row]) -> Result<(), Refusal> {
    let mut says = Vec::new();
    for &at in columns {
        let count = rows.iter().filter(|row| row[at].is_none()).count();
        if count > 0 {
            says.push(format!("{count} in {:?} (the first in row ", shape.columns[at].name));
        }
    }
    if says.is_empty() { Ok(()) } else { Err(Refusal::data_quality(says)) }
}

/// Refuses keys that occur more than once, with how many such keys there are.
fn refuse_duplicates(shape: &Shape, rows: &[Row]) -> Result<(), Refusal> {
    let mut counts = std::collections::BTreeMap::<_, u64>::new();
    for row in rows {
        *counts.entry(shape.key_of(row)).or_default() += 1;
    }
    let repeated = counts.values().filter(|count| **count > 1).count();
    if repeated == 0 {
        return Ok(());
    }
    Err(Refusal::data_quality([format!("{repeated} key(s) occur more than once"), shape.key_names().join(", ")]))
}
