//! What the stored hashes were made of, and what follows when this definition would make them of something else.
//!
//! The hash of a row is made of the tracked columns. If a run tracks others, the hash of every row is another one, and a
//! comparison with what is stored would open a version of every key though nothing changed. NULL adds nothing to a
//! hash, so a column that the source did not have before changes only the hashes of rows in which it is not NULL.

use arrow::datatypes::Field;

use super::{Observed, Options};
use crate::definition::TrackedChange;
use crate::error::{Error, Result};
use crate::row_hash::{VERSION, family};
use crate::state::HashCover;

/// How the versions that are there are compared.
pub(super) struct Checked {
    /// By their values: their hashes say nothing of the tracked columns.
    pub(super) by_values: bool,
    /// What the hashes of the target are made of after the load.
    pub(super) cover: HashCover,
    pub(super) notes: Vec<String>,
}

pub(super) fn check(
    observed: &Observed<'_>,
    options: &Options<'_>,
    fields: &[Field],
    names: &[String],
    tracked: &[String],
) -> Result<Checked> {
    let untracked = names.iter().filter(|n| !tracked.contains(n)).cloned().collect();
    let cover = HashCover {
        table: options.table.clone(),
        version: VERSION,
        columns: sorted(tracked.to_vec()),
        families: fields
            .iter()
            .filter(|f| tracked.contains(f.name()))
            .filter_map(|f| Some((f.name().clone(), family(f)?)))
            .collect(),
        untracked: sorted(untracked),
        mixed: false,
    };
    let before = observed.state.and_then(|s| s.hashes.as_ref()).filter(|h| h.table == cover.table);
    let mut checked = Checked { by_values: false, cover, notes: Vec::new() };
    if !observed.target.as_ref().is_some_and(|t| t.has_rows) {
        return Ok(checked);
    }
    let Some(before) = before else {
        checked.compare_values("it is not remembered what the stored row hashes were made of");
        return Ok(checked);
    };
    if before.mixed {
        checked.compare_values("the stored row hashes were made of different columns");
        return Ok(checked);
    }
    let not_in = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|c| !those.contains(c)).cloned().collect()
    };
    let added = not_in(&checked.cover.columns, &before.columns);
    let (known, new): (Vec<_>, Vec<_>) = added.into_iter().partition(|c| before.untracked.contains(c));
    // What the source has no more nobody decided here: it is no reason to refuse, nor to make versions.
    let (removed, lost): (Vec<_>, Vec<_>) =
        not_in(&before.columns, &checked.cover.columns).into_iter().partition(|c| names.contains(c));
    let retyped: Vec<String> = before
        .families
        .iter()
        .filter(|(column, family)| checked.cover.families.get(*column).is_some_and(|now| now != *family))
        .map(|(column, _)| column.clone())
        .collect();
    if known.is_empty() && removed.is_empty() && before.version == VERSION {
        if !lost.is_empty() {
            checked.compare_values(&format!("the source has no column {} any more", lost.join(", ")));
        }
        if !retyped.is_empty() {
            checked.compare_values(&format!("{} has values of another type than before", retyped.join(", ")));
        }
        if !new.is_empty() {
            checked.notes.push(format!(
                "{} came since the last load and is tracked from now on: rows in which it is not NULL make a version",
                new.join(", ")
            ));
        }
        return Ok(checked);
    }
    match options.history.tracked_change {
        TrackedChange::Fail => Err(refused(options, before, &checked.cover)),
        TrackedChange::CompareValues => {
            checked.compare_values("other columns are tracked than at the last load");
            Ok(checked)
        }
        TrackedChange::OpenVersions => {
            checked.notes.push(format!(
                "other columns are tracked than at the last load ({} instead of {}): most rows make a version, changed \
                 or not",
                checked.cover.columns.join(", "),
                before.columns.join(", ")
            ));
            Ok(checked)
        }
    }
}

impl Checked {
    fn compare_values(&mut self, why: &str) {
        self.by_values = true;
        self.cover.mixed = true;
        self.notes.push(format!("{why}: the values of the versions themselves are compared, which reads more of them"));
    }
}

fn sorted(mut columns: Vec<String>) -> Vec<String> {
    columns.sort();
    columns
}

fn refused(options: &Options<'_>, before: &HashCover, now: &HashCover) -> Error {
    let message = match before.version == now.version {
        true => format!(
            "the row hashes in {} were made of the columns {}, and this definition tracks {}: nearly every row would \
             look changed, and make a version",
            options.table,
            before.columns.join(", "),
            now.columns.join(", ")
        ),
        false => format!(
            "the row hashes in {} are of version {}, and this dpone makes version {}: every row would look changed, and \
             make a version",
            options.table, before.version, now.version
        ),
    };
    Error::conflict(message).with("table", &options.table).with_hint(
        "track the same columns as before (scd2.track_columns), or say what is meant with scd2.on_tracked_change: \
         compare_values makes versions only where the tracked values differ from those of the version that is there, \
         open_versions makes them of all rows",
    )
}
