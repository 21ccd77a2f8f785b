//! `snapshot_diff`: a full snapshot is compared with the target by key, and the target follows it.

use super::{
    After, Before, Column, Counts, Guards, Kind, Refusal, Row, keyed_batch, load_time, position_of, refuse_empty,
};

#[derive(Debug, Clone)]
pub struct SnapshotDiff {
    /// `row_hash` or `all_columns`: two ways to see the same differences.
    pub compare: &'static str,
    pub store_row_hash: bool,
    pub missing: Missing,
    pub latest_by: Option<usize>,
    pub quarantine_null_keys: bool,
    pub guards: Guards,
}

/// What happens to rows that the source has no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Delete,
    Mark,
    Ignore,
}

impl SnapshotDiff {
    /// The columns that the strategy adds: whether the source has the row no more, and since which load.
    pub(super) fn own_columns(&self) -> Vec<Column> {
        if self.missing != Missing::Mark {
            return Vec::new();
        }
        let column = |name: &str, kind| Column { name: name.to_owned(), source: kind, target: kind };
        vec![column("__dpone__is_deleted", Kind::Boolean), column("__dpone__deleted_at", Kind::Timestamptz)]
    }

    pub(super) fn load(&self, before: &Before<'_>) -> Result<After, Refusal> {
        let shape = before.shape;
        refuse_empty(before, self.guards.allow_empty_source)?;
        let mut counts = Counts::default();
        let batch = keyed_batch(shape, before.source, self.latest_by, self.quarantine_null_keys, &[], &mut counts)
            .map_err(Refusal::uncounted)?;
        let mut target = before.target.to_vec();
        let there = target.iter().filter(|row| self.is_there(row)).count();
        let mut missing: Vec<Row> = target.iter().filter(|row| self.is_there(row)).cloned().collect();
        for row in &batch {
            let fresh = self.present(shape.stored(row));
            if let Some(at) = position_of(shape, row, &missing) {
                missing.remove(at);
            }
            match position_of(shape, row, &target) {
                Some(at) if target[at] == fresh => counts.unchanged += 1,
                Some(at) => {
                    target[at] = fresh;
                    counts.updated += 1;
                }
                None => {
                    target.push(fresh);
                    counts.inserted += 1;
                }
            }
        }
        if self.missing != Missing::Ignore {
            counts.deleted = missing.len() as u64;
            self.guards.check(missing.len(), there)?;
        }
        for row in missing {
            let at = position_of(shape, &row, &target).expect("it is in the target");
            match self.missing {
                Missing::Delete => drop(target.remove(at)),
                Missing::Mark => self.mark(&mut target[at], before.load),
                Missing::Ignore => {}
            }
        }
        Ok(After { read: Some(before.source.len()), target, counts, watermark: None })
    }

    /// A row of the target that is not marked as deleted.
    fn is_there(&self, row: &Row) -> bool {
        self.missing != Missing::Mark || row[row.len() - 2].as_deref() == Some("false")
    }

    fn present(&self, mut row: Row) -> Row {
        if self.missing == Missing::Mark {
            row.extend([Some("false".to_owned()), None]);
        }
        row
    }

    fn mark(&self, row: &mut Row, load: u64) {
        let own = row.len() - 2;
        row[own] = Some("true".to_owned());
        row[own + 1] = Some(load_time(load));
    }
}
