//! `incremental_append`: rows from the watermark on are added, less those that were loaded already.

use super::{After, Before, Counts, Lag, Refusal, Row, read_from, refuse_duplicates, refuse_nulls, take};

#[derive(Debug, Clone)]
pub struct IncrementalAppend {
    pub lag: Option<Lag>,
    /// Leave out rows whose key is in the target, instead of rows that are.
    pub only_new_rows: bool,
}

impl IncrementalAppend {
    pub(super) fn load(&self, before: &Before<'_>) -> Result<After, Refusal> {
        let shape = before.shape;
        let (read, lower) = read_from(before, self.lag);
        let cursor = shape.cursor.expect("incremental_append has a cursor");
        let fresh: Vec<Row> = if self.only_new_rows {
            let known: Vec<_> = before.target.iter().map(|row| shape.key_of(row)).collect();
            let fresh: Vec<Row> = read.into_iter().filter(|row| !known.contains(&shape.key_of(row))).collect();
            refuse_nulls(shape, &[&shape.key[..], &[cursor]].concat(), &fresh)?;
            refuse_duplicates(shape, &fresh)?;
            fresh
        } else {
            refuse_nulls(shape, &[cursor], &read)?;
            // As multisets: of a row that the source has three times and the target once, two are added.
            let at_or_above = |row: &&Row| {
                let value = row[cursor].as_deref().expect("a loaded row has a cursor value");
                lower.as_ref().is_some_and(|lower| shape.compare_cursor(value, lower).is_ge())
            };
            let mut loaded: Vec<Row> = before.target.iter().filter(at_or_above).cloned().collect();
            read.into_iter().filter(|row| !take(&mut loaded, &shape.stored(row))).collect()
        };
        let watermark = shape.greatest_cursor(&fresh);
        let counts = Counts { inserted: fresh.len() as u64, ..Counts::default() };
        let target = before.target.iter().cloned().chain(fresh.iter().map(|row| shape.stored(row))).collect();
        Ok(After { read: None, target, counts, watermark })
    }
}
