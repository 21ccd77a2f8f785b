//! The options of the strategies that compare: `diff.*` and `scd2.*`.

use std::collections::BTreeSet;

use super::super::Origin;
use super::{duplicates, named, null_keys};
use crate::definition::manifest::{Compare, DiffDeletePolicy, Scd2DeletePolicy, StrategySpec};
use crate::definition::{CompareBy, CursorOptions, History, MissingRows, Strategy};
use crate::error::Result;

pub(super) fn snapshot_diff(spec: &StrategySpec, key: Vec<String>, origin: &Origin<'_>) -> Result<Strategy> {
    let diff = spec.diff.as_ref();
    let compare = match diff.and_then(|d| d.compare) {
        None | Some(Compare::RowHash) => CompareBy::RowHash,
        Some(Compare::AllColumns) => CompareBy::AllColumns,
    };
    let row_hash = diff.and_then(|d| d.store_row_hash).unwrap_or(false);
    if row_hash && compare == CompareBy::AllColumns {
        let at = "sink.strategy.diff.store_row_hash";
        return Err(origin
            .error(at, format!("{} has no meaning where all columns are compared", origin.term(at)))
            .with_hint("compare by row_hash, or do not store it"));
    }
    Ok(Strategy::SnapshotDiff {
        key,
        compare,
        missing: match diff.and_then(|d| d.delete_policy) {
            None | Some(DiffDeletePolicy::HardDelete) => MissingRows::Delete,
            Some(DiffDeletePolicy::SoftDelete) => MissingRows::Mark,
            Some(DiffDeletePolicy::Ignore) => MissingRows::Ignore,
        },
        duplicates: duplicates(spec, origin)?,
        null_keys: null_keys(spec),
        row_hash,
    })
}

pub(super) fn scd2(
    spec: &StrategySpec,
    key: Vec<String>,
    cursor: Option<CursorOptions>,
    origin: &Origin<'_>,
) -> Result<Strategy> {
    let given = spec.scd2.as_ref();
    let name = |given: Option<&String>, default: String| given.cloned().unwrap_or(default);
    let mut history = History::default();
    if let Some(scd2) = given {
        history.valid_from = name(scd2.valid_from_column.as_ref(), history.valid_from);
        history.valid_to = name(scd2.valid_to_column.as_ref(), history.valid_to);
        history.is_current = name(scd2.current_flag_column.as_ref(), history.is_current);
        history.row_hash = name(scd2.row_hash_column.as_ref(), history.row_hash);
        history.effective = scd2.effective_column.clone();
        history.track = named(scd2.track_columns.as_ref(), "sink.strategy.scd2.track_columns", origin)?;
        history.tracked_change = scd2.on_tracked_change.map(Into::into).unwrap_or_default();
    }
    history.expire = !matches!(given.and_then(|s| s.delete_policy), Some(Scd2DeletePolicy::Ignore));
    let policy = "sink.strategy.scd2.delete_policy";
    if history.expire && cursor.is_some() {
        return Err(origin
            .error(policy, "an incremental read does not show which rows are gone: none may be closed for being absent")
            .with_hint(format!("set {} to ignore, or read everything: without a cursor", origin.term(policy))));
    }
    if history.expire && history.effective.is_some() {
        return Err(origin
            .error(
                policy,
                format!(
                    "versions that hold since {} cannot be closed at the time of a load",
                    origin.term("sink.strategy.scd2.effective_column")
                ),
            )
            .with_hint(format!(
                "set {} to ignore, or let versions hold since the load: without an effective column",
                origin.term(policy)
            )));
    }
    check_names(&history, origin)?;
    Ok(Strategy::Scd2 { key, history, cursor, duplicates: duplicates(spec, origin)?, null_keys: null_keys(spec) })
}

fn check_names(history: &History, origin: &Origin<'_>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (at, name) in [
        ("valid_from_column", &history.valid_from),
        ("valid_to_column", &history.valid_to),
        ("current_flag_column", &history.is_current),
        ("row_hash_column", &history.row_hash),
    ] {
        let at = format!("sink.strategy.scd2.{at}");
        if name.is_empty() {
            return Err(origin.error(&at, format!("{} is empty", origin.term(&at))));
        }
        if !seen.insert(name) {
            return Err(origin.error(&at, format!("{} is {name:?}, like another of them", origin.term(&at))));
        }
    }
    Ok(())
}
