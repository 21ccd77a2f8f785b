//! `incremental_merge`: rows from the watermark on are inserted, or update the row with their key.

use super::{After, Before, Counts, Kind, Lag, Refusal, Row, Shape, keyed_batch, position_of, read_from};

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
        let extracted = Some(read.len());
        let mut counts = Counts::default();
        let cursor = shape.cursor.filter(|_| !self.include_null_cursors);
        let required = cursor.as_slice();
        let batch = keyed_batch(shape, &read, self.latest_by, self.quarantine_null_keys, required, &mut counts)?;
        let mut target = before.target.to_vec();
        for row in &batch {
            self.apply(shape, row, &mut target, &mut counts);
        }
        Ok(After { read: extracted, target, counts, watermark: shape.greatest_cursor(&batch) })
    }

    fn apply(&self, shape: &Shape, row: &Row, target: &mut Vec<Row>, counts: &mut Counts) {
        match position_of(shape, row, target) {
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
