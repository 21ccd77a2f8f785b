//! What each strategy must make of a target, on vectors of rows: small, slow and meant to be obviously right.
//!
//! Written from the contract in `docs/strategies/`, not from the planner's code: nothing here knows a plan, a hash, a
//! partition or a server. [`Oracle`] is the target as it must be; [`Oracle::load`] is one run.

mod full_refresh;
mod incremental_append;
mod incremental_merge;
mod model;
mod partition_replace;
mod replace;
mod scd2;
mod snapshot_diff;

pub use full_refresh::FullRefresh;
pub use incremental_append::IncrementalAppend;
pub use incremental_merge::{IncrementalMerge, Mark};
pub use model::{Column, Kind, Row, Shape, Value, take};
pub use partition_replace::{PartitionReplace, PartitionScope};
pub use replace::{Replace, Scope};
pub use scd2::Scd2;
pub use snapshot_diff::{Missing, SnapshotDiff};

/// A strategy with its options.
#[derive(Debug, Clone)]
pub enum Strategy {
    FullRefresh(FullRefresh),
    Replace(Replace),
    IncrementalAppend(IncrementalAppend),
    IncrementalMerge(IncrementalMerge),
    PartitionReplace(PartitionReplace),
    SnapshotDiff(SnapshotDiff),
    Scd2(Scd2),
}

impl Strategy {
    /// Older rows of a key are left out by the read itself.
    fn counts_all_that_it_reads(&self) -> bool {
        match self {
            Self::IncrementalMerge(strategy) => strategy.latest_by.is_none(),
            Self::SnapshotDiff(strategy) => strategy.latest_by.is_none(),
            Self::Scd2(strategy) => strategy.latest_by.is_none(),
            _ => true,
        }
    }
}

/// The counters of a receipt that the contract fixes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that the source gave; `None` where a part of them is left out before they are counted.
    pub extracted: Option<u64>,
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
    /// Where the source is compared as it streams, keys that repeat are found, but not all of them counted.
    fn uncounted(self) -> Self {
        let repeated =
            |text: String| text.split_once(" key(s)").map_or(text.clone(), |(_, rest)| format!("key(s){rest}"));
        Self { says: self.says.into_iter().map(repeated).collect(), ..self }
    }

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
    /// The number of this load, from one.
    load: u64,
}

/// What it makes of it.
#[derive(Debug)]
struct After {
    /// Rows that were read, where that is more than a detail.
    read: Option<usize>,
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
    /// Loads that succeeded.
    pub loads: u64,
}

impl Oracle {
    pub fn new(shape: Shape, strategy: Strategy) -> Self {
        Self { shape, strategy, target: None, watermark: None, loads: 0 }
    }

    /// One run over the rows of the source. A run that is refused changes nothing.
    pub fn load(&mut self, source: &[Row]) -> Result<Counts, Refusal> {
        let rows = self.target.as_deref().unwrap_or_default();
        if self.watermark.is_some() && rows.is_empty() {
            // A target that lost its rows is not the one that the watermark belongs to.
            return Err(Refusal { kind: "conflict", says: vec!["is empty".to_owned()] });
        }
        let before = Before {
            shape: &self.shape,
            source,
            target: rows,
            watermark: self.watermark.as_deref(),
            load: self.loads + 1,
        };
        let after = match &self.strategy {
            Strategy::FullRefresh(strategy) => strategy.load(&before),
            Strategy::Replace(strategy) => strategy.load(&before),
            Strategy::IncrementalAppend(strategy) => strategy.load(&before),
            Strategy::IncrementalMerge(strategy) => strategy.load(&before),
            Strategy::PartitionReplace(strategy) => strategy.load(&before),
            Strategy::SnapshotDiff(strategy) => strategy.load(&before),
            Strategy::Scd2(strategy) => strategy.load(&before),
        }?;
        self.watermark = later(&self.shape, self.watermark.take(), after.watermark);
        self.target = Some(after.target);
        self.loads += 1;
        let counted = after.read.filter(|_| self.strategy.counts_all_that_it_reads());
        Ok(Counts { extracted: counted.map(|rows| rows as u64), ..after.counts })
    }

    /// The target's rows; none while there is no target.
    pub fn rows(&self) -> &[Row] {
        self.target.as_deref().unwrap_or_default()
    }

    pub fn exists(&self) -> bool {
        self.target.is_some()
    }

    /// The columns of [`Self::rows`]: the source's, and those that the strategy adds.
    pub fn target_columns(&self) -> Vec<Column> {
        let own = match &self.strategy {
            Strategy::SnapshotDiff(strategy) => strategy.own_columns(),
            Strategy::Scd2(_) => Scd2::own_columns(),
            _ => Vec::new(),
        };
        [self.shape.columns.clone(), own].concat()
    }

    /// The column in which the strategy keeps a hash of each row: the oracle knows no value of it, only that rows which
    /// say the same have the same.
    pub fn hash_column(&self) -> Option<&'static str> {
        match &self.strategy {
            Strategy::SnapshotDiff(strategy) if strategy.store_row_hash => Some("__dpone__row_hash"),
            Strategy::Scd2(_) => Some("__dpone__row_hash"),
            _ => None,
        }
    }

    /// The columns that the hash is made of.
    pub fn hashed_columns(&self) -> Vec<usize> {
        let all = 0..self.shape.columns.len();
        match &self.strategy {
            Strategy::Scd2(strategy) => all.filter(|i| strategy.tracks(*i)).collect(),
            _ => all.collect(),
        }
    }

    /// Whether the columns of time that the strategy adds hold the time of a load.
    pub fn keeps_load_times(&self) -> bool {
        match &self.strategy {
            Strategy::SnapshotDiff(strategy) => strategy.missing == Missing::Mark,
            Strategy::Scd2(strategy) => strategy.effective.is_none(),
            _ => false,
        }
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
    refuse_duplicates_of(shape, rows.iter().map(|row| shape.key_of(row)))
}

fn refuse_duplicates_of(shape: &Shape, keys: impl Iterator<Item = Vec<Value>>) -> Result<(), Refusal> {
    let mut counts = std::collections::BTreeMap::<_, u64>::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    let repeated = counts.values().filter(|count| **count > 1).count();
    if repeated == 0 {
        return Ok(());
    }
    Err(Refusal::data_quality([format!("{repeated} key(s) occur more than once"), shape.key_names().join(", ")]))
}

/// Rows to be applied by key: the latest of each, none without a key. `required` columns hold no NULL.
fn keyed_batch(
    shape: &Shape,
    rows: &[Row],
    latest_by: Option<usize>,
    quarantine_null_keys: bool,
    required: &[usize],
    counts: &mut Counts,
) -> Result<Vec<Row>, Refusal> {
    let mut batch = match latest_by {
        Some(column) => latest(shape, column, rows),
        None => rows.to_vec(),
    };
    if quarantine_null_keys {
        let all = batch.len();
        batch.retain(|row| shape.key.iter().all(|&i| row[i].is_some()));
        counts.quarantined = (all - batch.len()) as u64;
    }
    refuse_nulls(shape, &[&shape.key, required].concat(), &batch)?;
    refuse_duplicates(shape, &batch)?;
    Ok(batch)
}

/// The greatest row of each key; NULL is least, and rows that tie are all kept.
fn latest(shape: &Shape, column: usize, rows: &[Row]) -> Vec<Row> {
    let kind = shape.columns[column].source;
    let order = |a: &Row, b: &Row| match (&a[column], &b[column]) {
        (Some(a), Some(b)) => kind.compare(a, b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    let beaten =
        |row: &Row| rows.iter().any(|other| shape.key_of(other) == shape.key_of(row) && order(other, row).is_gt());
    rows.iter().filter(|row| !beaten(row)).cloned().collect()
}

fn position_of(shape: &Shape, row: &Row, rows: &[Row]) -> Option<usize> {
    rows.iter().position(|other| shape.key_of(other) == shape.key_of(row))
}

/// A source without rows is a mistake more often than a wish to empty the target.
fn refuse_empty(before: &Before<'_>, allowed: bool) -> Result<(), Refusal> {
    if before.source.is_empty() && !before.target.is_empty() && !allowed {
        return Err(Refusal::data_quality(["the source gave no row".to_owned()]));
    }
    Ok(())
}

/// Limits that stop a load before it removes too much.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    pub allow_empty_source: bool,
    /// In percent of the rows that are there; half of them unless the definition says otherwise, or allows an empty
    /// source.
    pub max_delete_percent: Option<usize>,
    pub max_delete_rows: Option<usize>,
}

impl Guards {
    fn check(&self, removed: usize, there: usize) -> Result<(), Refusal> {
        if self.max_delete_rows.is_some_and(|most| removed > most) {
            return Err(Refusal::data_quality(["max_delete_rows".to_owned()]));
        }
        let default = (!self.allow_empty_source).then_some(50);
        if self.max_delete_percent.or(default).is_some_and(|percent| removed * 100 > percent * there) {
            return Err(Refusal::data_quality(["max_delete_ratio".to_owned()]));
        }
        Ok(())
    }
}

/// How the oracle spells the moment of a load: only that it is one, and which.
pub fn load_time(load: u64) -> String {
    format!("load {load:03}")
}
