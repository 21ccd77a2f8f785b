//! `scd2`: every version of a row is kept, with the half-open time during which it held.

use super::{
    After, Before, Column, Counts, Guards, Kind, Refusal, Row, Shape, Value, keyed_batch, load_time, read_from,
    refuse_duplicates_of, refuse_empty, refuse_nulls,
};

#[derive(Debug, Clone)]
pub struct Scd2 {
    /// Close the current version of keys that the source has no more.
    pub expire: bool,
    /// The columns whose change makes a version; empty: all.
    pub track: Vec<usize>,
    /// The column that says since when a version holds; otherwise it holds since the load.
    pub effective: Option<usize>,
    pub latest_by: Option<usize>,
    pub quarantine_null_keys: bool,
    pub guards: Guards,
}

/// The columns that the strategy adds, behind those of the source.
const OWN: [(&str, Kind); 3] = [
    ("__dpone__valid_from_at", Kind::Timestamptz),
    ("__dpone__valid_to_at", Kind::Timestamptz),
    ("__dpone__is_current", Kind::Boolean),
];

impl Scd2 {
    pub(super) fn own_columns() -> Vec<Column> {
        OWN.map(|(name, kind)| Column { name: name.to_owned(), source: kind, target: kind }).into()
    }

    pub(super) fn load(&self, before: &Before<'_>) -> Result<After, Refusal> {
        let shape = before.shape;
        refuse_empty(before, self.guards.allow_empty_source || shape.cursor.is_some())?;
        let (read, _) = read_from(before, None);
        // A watermark may stay behind rows that made no version: how often those are read again is not fixed.
        let extracted = shape.cursor.is_none().then_some(read.len());
        let mut counts = Counts::default();
        let (target, batch) = match self.effective {
            None => {
                let (cursor, quarantine) = (shape.cursor.as_slice(), self.quarantine_null_keys);
                let batch = keyed_batch(shape, &read, self.latest_by, quarantine, cursor, &mut counts)
                    .map_err(Refusal::uncounted)?;
                (self.since_the_load(before, &batch, &mut counts)?, batch)
            }
            Some(effective) => {
                refuse_nulls(shape, &[&shape.key[..], &[effective]].concat(), &read)?;
                let when = |row: &Row| [shape.key_of(row), vec![row[effective].clone()]].concat();
                // The same row twice says nothing else than once.
                let mut different = read.clone();
                different.sort();
                different.dedup();
                refuse_duplicates_of(shape, different.iter().map(when))?;
                let mut batch = read;
                batch.sort_by_key(|row| row[effective].clone());
                (self.since_the_column(before, effective, &batch, &mut counts), batch)
            }
        };
        Ok(After { read: extracted, target, counts, watermark: shape.greatest_cursor(&batch) })
    }

    fn since_the_load(&self, before: &Before<'_>, batch: &[Row], counts: &mut Counts) -> Result<Vec<Row>, Refusal> {
        let (shape, now) = (before.shape, load_time(before.load));
        let mut versions: Vec<Version> = before.target.iter().map(|row| Version::read(shape, row)).collect();
        let current = versions.iter().filter(|v| v.to.is_none()).count();
        for row in batch {
            let held = versions.iter_mut().find(|v| v.to.is_none() && shape.key_of(&v.row) == shape.key_of(row));
            match held {
                Some(version) if self.says_the_same(shape, &version.row, &shape.stored(row)) => {
                    counts.unchanged += 1;
                    continue;
                }
                Some(version) => {
                    version.to = Some(now.clone());
                    counts.updated += 1;
                }
                None => {}
            }
            versions.push(Version { row: shape.stored(row), from: now.clone(), to: None });
            counts.inserted += 1;
        }
        if self.expire {
            let keys: Vec<_> = batch.iter().map(|row| shape.key_of(row)).collect();
            let missing = |v: &&mut Version| v.to.is_none() && !keys.contains(&shape.key_of(&v.row));
            let mut closed = 0;
            for version in versions.iter_mut().filter(missing) {
                version.to = Some(now.clone());
                closed += 1;
            }
            // A version is closed, not removed.
            counts.updated += closed as u64;
            self.guards.check(closed, current)?;
        }
        Ok(versions.into_iter().map(Version::written).collect())
    }

    /// The rows are in order of time. One that comes late takes its place among the versions that are there.
    fn since_the_column(&self, before: &Before<'_>, effective: usize, batch: &[Row], counts: &mut Counts) -> Vec<Row> {
        let shape = before.shape;
        let mut versions: Vec<Version> = before.target.iter().map(|row| Version::read(shape, row)).collect();
        for row in batch {
            let fresh = shape.stored(row);
            let from = instant(shape.columns[effective].source, row[effective].as_deref().expect("checked"));
            let of_key = |v: &&mut Version| shape.key_of(&v.row) == shape.key_of(row);
            if let Some(version) = versions.iter_mut().filter(of_key).find(|v| v.from == from) {
                if self.says_the_same(shape, &version.row, &fresh) {
                    counts.unchanged += 1;
                } else {
                    version.row = fresh;
                }
                continue;
            }
            let next = versions.iter_mut().filter(of_key).filter(|v| v.from > from).map(|v| v.from.clone()).min();
            let earlier = versions.iter_mut().filter(of_key).filter(|v| v.from < from).max_by_key(|v| v.from.clone());
            if let Some(version) = earlier {
                if self.says_the_same(shape, &version.row, &fresh) {
                    counts.unchanged += 1;
                    continue;
                }
                version.to = Some(from.clone());
            }
            versions.push(Version { row: fresh, from, to: next });
        }
        let after: Vec<Row> = versions.into_iter().map(Version::written).collect();
        let begins = |row: &Row| [shape.key_of(row), vec![row[shape.columns.len()].clone()]].concat();
        counts.inserted = (after.len() - before.target.len()) as u64;
        let changed = |old: &&Row| after.iter().any(|new| begins(new) == begins(old) && new != *old);
        counts.updated = before.target.iter().filter(changed).count() as u64;
        after
    }

    /// What must hold of every history, whatever the loads were: the half-open times of a key's versions neither overlap
    /// nor are empty, the last one alone may be current, and there is no gap unless the key was away.
    pub fn check_history(&self, shape: &Shape, target: &[Row]) {
        let mut versions: Vec<Version> = target.iter().map(|row| Version::read(shape, row)).collect();
        for (version, row) in versions.iter().zip(target) {
            assert!(
                version.to.as_ref().is_none_or(|to| version.from < *to),
                "a version ends before it begins: {row:?}"
            );
            assert_eq!(row.last().unwrap().as_deref() == Some("true"), version.to.is_none(), "the mark of {row:?}");
        }
        versions.sort_by_key(|v| (shape.key_of(&v.row), v.from.clone()));
        for pair in versions.windows(2).filter(|pair| shape.key_of(&pair[0].row) == shape.key_of(&pair[1].row)) {
            let end = pair[0].to.as_ref();
            assert!(end.is_some_and(|end| *end <= pair[1].from), "versions overlap: {pair:?}");
            assert!(self.expire || end == Some(&pair[1].from), "a gap between versions: {pair:?}");
        }
    }

    fn says_the_same(&self, shape: &Shape, a: &Row, b: &Row) -> bool {
        (0..shape.columns.len()).filter(|i| self.tracks(*i)).all(|i| a[i] == b[i])
    }

    /// Whether a change of this column makes a version.
    pub(super) fn tracks(&self, column: usize) -> bool {
        match self.track.is_empty() {
            true => self.effective != Some(column),
            false => self.track.contains(&column),
        }
    }
}

#[derive(Debug, Clone)]
struct Version {
    row: Row,
    from: String,
    to: Value,
}

impl Version {
    fn read(shape: &Shape, row: &Row) -> Self {
        let own = shape.columns.len();
        Self {
            row: row[..own].to_vec(),
            from: row[own].clone().expect("a version has a beginning"),
            to: row[own + 1].clone(),
        }
    }

    fn written(self) -> Row {
        let current = self.to.is_none().to_string();
        [self.row, vec![Some(self.from), self.to, Some(current)]].concat()
    }
}

/// A date or a moment, without a zone meant in UTC, as a moment with a zone.
fn instant(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Date => format!("{text} 00:00:00+00"),
        Kind::Timestamp => format!("{text}+00"),
        Kind::Timestamptz => text.to_owned(),
        other => panic!("no version begins at a {other:?}"),
    }
}
