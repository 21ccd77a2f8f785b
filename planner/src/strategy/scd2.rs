//! `scd2`: every version of a row is kept, with the half-open time `[valid_from, valid_to)` during which it held.
//!
//! A version holds since the load that saw it, or since what a column of the source says. The first is a comparison with
//! the current versions; the second lays the read rows into each key's timeline, where they may also come late.

mod cover;
mod timeline;

use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit, when};

use super::compare::{Comparison, check_source_key, diff, hash_text, target_column, with_hash};
use super::cursor::bounded;
use super::incremental_merge::without_duplicates;
use super::snapshot_diff::{checks, timestamp_field};
use super::{Draft, Observed, ObservedTarget, column, output_names, require_columns};
use crate::definition::{CursorOptions, DuplicatePolicy, History, NullKeys};
use crate::diff::{CHANGE, CHANGED, NEW};
use crate::error::{Error, Result};
use crate::plan::{Checks, CursorPlan, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, PATCH, WriteMode};
use crate::row_hash::DigestKind;
use crate::state::HashCover;
use crate::tally::{Followed, Tally};
use crate::types::utc;

/// A draft, and what the hashes will be made of that it stores.
pub(super) struct Planned {
    pub(super) draft: Draft,
    pub(super) hashes: HashCover,
}

pub(super) struct Options<'a> {
    /// Names the target in the state.
    pub(super) table: String,
    pub(super) key: &'a [String],
    pub(super) history: &'a History,
    pub(super) cursor: Option<&'a CursorOptions>,
    pub(super) duplicates: &'a DuplicatePolicy,
    pub(super) null_keys: NullKeys,
    pub(super) allow_empty: bool,
}

impl Options<'_> {
    /// The columns that the strategy adds, in their order.
    fn own(&self) -> [&String; 4] {
        let history = self.history;
        [&history.row_hash, &history.valid_from, &history.valid_to, &history.is_current]
    }

    fn own_fields(&self) -> Vec<Field> {
        let history = self.history;
        vec![
            Field::new(&history.row_hash, DataType::Utf8, false),
            timestamp_field(&history.valid_from),
            timestamp_field(&history.valid_to),
            Field::new(&history.is_current, DataType::Boolean, false),
        ]
    }

    /// A version is one row: the key and since when it holds.
    fn version_key(&self) -> Vec<String> {
        [self.key, std::slice::from_ref(&self.history.valid_from)].concat()
    }

    /// The columns whose change makes a version. The time since when it holds is no part of what it says.
    fn tracked(&self, names: &[String]) -> Vec<String> {
        match self.history.track.is_empty() {
            false => self.history.track.clone(),
            true => names.iter().filter(|n| Some(*n) != self.history.effective.as_ref()).cloned().collect(),
        }
    }
}

pub(super) fn draft(observed: &Observed<'_>, options: &Options<'_>) -> Result<Planned> {
    let (key, history) = (options.key, options.history);
    require_columns("the key column", key, &observed.source)?;
    check_source_key(observed, key)?;
    require_columns("the tracked column", &history.track, &observed.source)?;
    require_columns("the effective column", history.effective.as_slice(), &observed.source)?;
    let names = output_names(&observed.source)?;
    if let Some(taken) = options.own().into_iter().find(|own| names.contains(own)) {
        return Err(Error::configuration(format!("the source has a column {taken:?}, which scd2 adds"))
            .with("column", taken)
            .with_hint(
                "give the strategy's column another name (scd2.valid_from_column, …), or the source's in a query",
            ));
    }
    let (plan, read) = match options.cursor {
        Some(cursor) => {
            let read = bounded(observed, cursor)?;
            (read.plan, Some((cursor.column.clone(), read.order, read.from)))
        }
        None => (observed.source.clone(), None),
    };
    // Rows of a key that hold since different times are versions, and no duplicates.
    let unique = [key, history.effective.as_slice()].concat();
    let plan = without_duplicates(plan, &unique, options.duplicates)?;
    // Rows that make no version are not staged, and yet the watermark passes them.
    let followed = read.as_ref().map(|(column, order, _)| Followed { column: column.clone(), order: order.clone() });
    let plan = match (&history.effective, &followed) {
        (None, Some(followed)) => Tally::plan(plan, Some(followed.clone())),
        _ => plan,
    };
    let tracked = options.tracked(&names);
    let (plan, fields) = with_hash(plan, observed, &tracked, &history.row_hash)?;
    let hashes = cover::check(observed, options, &fields, &names, &tracked)?;
    let mut notes = hashes.notes;
    let (plan, patches) = match (&history.effective, &observed.target) {
        (Some(effective), target) => {
            notes.push(format!(
                "a version holds since {effective:?}; one that comes late takes its place in the key's timeline"
            ));
            let plan = text_of_hash(plan, &fields, history)?;
            let sides = timeline::Sides {
                fields: &fields,
                effective,
                target: target.as_ref(),
                by_values: hashes.by_values.then_some(tracked.as_slice()),
            };
            let plan = timeline::plan(plan, &names, options, &sides, followed)?;
            (plan, target.is_some())
        }
        (None, None) => (first(plan, &names, options, observed)?, false),
        (None, Some(target)) => {
            let (changes, why) = compared(plan, fields, &tracked, hashes.by_values, options, observed, target)?;
            notes.push(why);
            (versions(changes, &names, options, observed)?, true)
        }
    };
    notes.push(match history.expire {
        true => "the current version of a key that the source has no more is closed".to_owned(),
        false => "keys that the source has no more keep their current version".to_owned(),
    });
    if !history.track.is_empty() {
        notes.push(format!("only a change of {} makes a version", history.track.join(", ")));
    }
    let operation = match patches {
        true => Operation::Column { patch: vec![history.valid_to.clone(), history.is_current.clone()] },
        false => Operation::Upsert,
    };
    let common = checks(key, options.null_keys, options.allow_empty || options.cursor.is_some());
    let mut not_null = common.not_null.clone();
    // The time since when a version holds: the user's column, or ours, which always is there.
    not_null.extend(history.effective.clone());
    if let Some(cursor) = options.cursor.filter(|c| !c.include_nulls && !not_null.contains(&c.column)) {
        not_null.push(cursor.column.clone());
    }
    let draft = Draft {
        plan,
        write_mode: WriteMode::Changes { key: options.version_key(), operation },
        cursor: read.map(|(column, order, from)| CursorPlan {
            column,
            order,
            skip_boundary: false,
            keep_boundary: false,
            from,
        }),
        checks: Checks {
            not_null,
            unique: options.version_key(),
            interval: Some((history.valid_from.clone(), history.valid_to.clone())),
            ..common
        },
        primary_key: options.version_key(),
        own: options.own_fields(),
        notes,
    };
    Ok(Planned { draft, hashes: hashes.cover })
}

fn instant(at: Option<i64>) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(at, Some(utc())))
}

/// The first load: every row is a version that holds since now.
fn first(plan: LogicalPlan, names: &[String], options: &Options<'_>, observed: &Observed<'_>) -> Result<LogicalPlan> {
    let history = options.history;
    let mut exprs = source_columns(&plan, names, history)?;
    exprs.push(instant(Some(observed.now)).alias(&history.valid_from));
    exprs.push(instant(None).alias(&history.valid_to));
    exprs.push(lit(true).alias(&history.is_current));
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

fn source_columns(plan: &LogicalPlan, names: &[String], history: &History) -> Result<Vec<Expr>> {
    names.iter().map(|n| column(plan, n)).chain([hash_text(plan, &history.row_hash)]).collect()
}

/// The source's columns, and the hash as it is stored.
fn text_of_hash(plan: LogicalPlan, fields: &[Field], history: &History) -> Result<LogicalPlan> {
    let names: Vec<String> = fields.iter().map(|f| f.name().clone()).filter(|n| *n != history.row_hash).collect();
    let exprs = source_columns(&plan, &names, history)?;
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// The source against the current versions, by their stored hashes or by their values.
fn compared(
    plan: LogicalPlan,
    fields: Vec<Field>,
    tracked: &[String],
    by_values: bool,
    options: &Options<'_>,
    observed: &Observed<'_>,
    target: &ObservedTarget,
) -> Result<(LogicalPlan, String)> {
    let history = options.history;
    let comparison = Comparison {
        key: options.key,
        compared: tracked.to_vec(),
        kind: DigestKind::Values,
        hashed: Some(history.row_hash.clone()),
        stored: (!by_values).then(|| history.row_hash.clone()),
        among: Some(target_column(&history.is_current).is_true()),
        gone: None,
        gone_for_good: false,
        carried: vec![timestamp_field(&history.valid_from)],
        missing: history.expire,
        replaced: true,
        quarantine_null_keys: options.null_keys == NullKeys::Quarantine,
    };
    diff(plan, fields, observed, target, comparison)
}

/// Changes to rows of history: a new or changed row opens a version, a replaced or missing one closes.
fn versions(
    changes: LogicalPlan,
    names: &[String],
    options: &Options<'_>,
    observed: &Observed<'_>,
) -> Result<LogicalPlan> {
    let history = options.history;
    let opens = || Ok::<_, Error>(column(&changes, CHANGE)?.in_list(vec![lit(NEW), lit(CHANGED)], false));
    let mut exprs = source_columns(&changes, names, history)?;
    let begun = column(&changes, &history.valid_from)?;
    exprs.push(when(opens()?, instant(Some(observed.now))).otherwise(begun)?.alias(&history.valid_from));
    exprs.push(when(opens()?, instant(None)).otherwise(instant(Some(observed.now)))?.alias(&history.valid_to));
    exprs.push(opens()?.alias(&history.is_current));
    exprs.push(when(opens()?, lit(INSERT_OR_UPDATE)).otherwise(lit(PATCH))?.alias(OPERATION_COLUMN));
    Ok(LogicalPlanBuilder::from(changes).project(exprs)?.build()?)
}

/// The field of a boolean of ours.
fn flag_field(name: &str) -> Field {
    Field::new(name, DataType::Boolean, true)
}
