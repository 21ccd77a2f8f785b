//! `partition_replace`: whole partitions of the target become exactly the rows that the source has of them.

use super::{After, Before, Counts, Refusal, Row, Shape, Value};

#[derive(Debug, Clone)]
pub struct PartitionReplace {
    pub column: usize,
    pub scope: PartitionScope,
}

/// Which partitions are replaced.
#[derive(Debug, Clone)]
pub enum PartitionScope {
    /// Those that the source has a row of, at most so many.
    Staged { most: usize },
    /// `from <= column < to`; those without a row are emptied.
    Window { from: String, to: String },
    /// These; those without a row are emptied.
    Expected(Vec<String>),
}

impl PartitionReplace {
    pub(super) fn load(&self, before: &Before<'_>) -> Result<After, Refusal> {
        let shape = before.shape;
        let mut staged: Vec<Value> = before.source.iter().map(|row| self.partition(shape, row)).collect();
        staged.sort();
        staged.dedup();
        if let PartitionScope::Staged { most } = self.scope
            && staged.len() > most
        {
            let says = [format!("more than {most} partitions of {}", shape.columns[self.column].name)];
            return Err(Refusal::data_quality(says));
        }
        let replaced = |row: &&Row| match &self.scope {
            // The partition of NULL is a partition.
            PartitionScope::Staged { .. } => staged.contains(&self.partition(shape, row)),
            PartitionScope::Window { from, to } => self.partition(shape, row).is_some_and(|value| {
                let kind = shape.columns[self.column].source;
                kind.compare(&value, from).is_ge() && kind.compare(&value, to).is_lt()
            }),
            PartitionScope::Expected(values) => self.partition(shape, row).is_some_and(|value| values.contains(&value)),
        };
        let fresh: Vec<_> = before.source.iter().filter(replaced).map(|row| shape.stored(row)).collect();
        let mut target: Vec<_> = before.target.iter().filter(|row| !replaced(row)).cloned().collect();
        let deleted = (before.target.len() - target.len()) as u64;
        let counts = Counts { inserted: fresh.len() as u64, deleted, ..Counts::default() };
        target.extend(fresh);
        Ok(After { read: None, target, counts, watermark: None })
    }

    fn partition(&self, shape: &Shape, row: &Row) -> Value {
        row[self.column].as_ref().map(|value| shape.columns[self.column].source.canonical(value))
    }
}
