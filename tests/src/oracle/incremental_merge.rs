//! `incremental_merge`: rows from the watermark on are inserted, or update the row with their key.

use std::cmp::Ordering;

use super::{After, Before, Counts, Kind, Lag, Refusal, Row, Shape, read_from, refuse_duplicates, refuse_nulls};

#[derive(Debug, Clone, Default)]
pub struct IncrementalMerge {
    pub lag: Option<Lag>,
    /// `duplicate_policy: latest` by this column.
    pub latest_by: Option<usize>,
    pub quarantine_null_keys: bool,
    pub include_null_cursors: bool,
    pub mark: Option<Mark>,
}

/// A column that marks deletions.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub column: usize,
    pub delete: bool,
}

impl IncrementalMerge {
    pub(super) fn load(&self, before: &Before<'_>) -> Result<After, Refusal> {
        let shape = before.shape;
        let (read, _) = read_from(before, self.lag);
        let mut batch = match self.latest_by {
            Some(column) => latest(shape, column, &read),
            None => read,
        };
        let mut counts = Counts::default();
        if self.quarantine_null_keys {
            let all = batch.len();
            batch.retain(|row| shape.key.iter().all(|&i| row[i].is_some()));
            counts.quarantined = (all - batch.len()) as u64;
        }
        let cursor = shape.cursor.filter(|_| !self.include_null_cursors);
        refuse_nulls(shape, &[&shape.key[..], cursor.as_slice()].concat(), &batch)?;
        refuse_duplicates(shape, &batch)?;
        let mut target = before.target.to_vec();
        for row in &batch {
            self.apply(shape, row, &mut target, &mut counts);
        }
        Ok(After { target, counts, watermark: shape.greatest_cursor(&batch) })
    }

    fn apply(&self, shape: &Shape, row: &Row, target: &mut Vec<Row>, counts: &mut Counts) {
        let at = target.iter().position(|other| shape.key_of(other) == shape.key_of(row));
        match at {
            Some(at) if self.deletes(shape, row) => {
                target.remove(at);
                counts.deleted += 1;
            }
            // A deletion of what is not there changes nothing.
            None if self.deletes(shape, row) => counts.unchanged += 1,
            Some(at) => {
                let mut fresh = shape.stored(row);
                // The key stays as the target spells it: 1.0 is 1.00.
                for &i in &shape.key {
                    fresh[i].clone_from(&target[at][i]);
                }
                if target[at] == fresh {
                    counts.unchanged += 1;
                } else {
                    target[at] = fresh;
                    counts.updated += 1;
                }
            }
            None => {
                target.push(shape.stored(row));
                counts.inserted += 1;
            }
        }
    }

    fn deletes(&self, shape: &Shape, row: &Row) -> bool {
        self.mark.filter(|mark| mark.delete).is_some_and(|mark| match shape.columns[mark.column].source {
            Kind::Boolean => row[mark.column].as_deref() == Some("true"),
            _ => row[mark.column].is_some(),
        })
    }
}

/// The greatest row of each key; NULL is least, and rows that tie are all kept.
fn latest(shape: &Shape, column: usize, rows: &[Row]) -> Vec<Row> {
    let kind = shape.columns[column].source;
    let order = |a: &Row, b: &Row| match (&a[column], &b[column]) {
        (Some(a), Some(b)) => kind.compare(a, b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    };
    let beaten = |row: &Row| {
        rows.iter().any(|other| shape.key_of(other) == shape.key_of(row) && order(other, row) == Ordering::Greater)
    };
    rows.iter().filter(|row| !beaten(row)).cloned().collect()
}
