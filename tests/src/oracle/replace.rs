//! `replace`: the rows of a scope become exactly the rows that the source has in the same scope.

use super::{After, Before, Counts, Refusal, Row, Shape};

#[derive(Debug, Clone)]
pub struct Replace {
    pub scope: Scope,
}

#[derive(Debug, Clone)]
pub enum Scope {
    /// `from <= column < to`, said as a window.
    Window {
        column: usize,
        from: String,
        to: String,
    },
    /// The same, said as a predicate.
    Between {
        column: usize,
        from: String,
        to: String,
    },
    AnyOf {
        column: usize,
        values: Vec<String>,
    },
    IsNull {
        column: usize,
    },
    /// `NOT (column = value)`: NULL is neither inside nor equal.
    Not {
        column: usize,
        value: String,
    },
}

impl Scope {
    /// Whether a row lies inside. What is unknown is outside.
    fn holds(&self, shape: &Shape, row: &Row) -> bool {
        let order = |column: &usize, bound: &String| {
            row[*column].as_ref().map(|value| shape.columns[*column].source.compare(value, bound))
        };
        match self {
            Self::Window { column, from, to } | Self::Between { column, from, to } => {
                order(column, from).is_some_and(|o| o.is_ge()) && order(column, to).is_some_and(|o| o.is_lt())
            }
            Self::AnyOf { column, values } => {
                values.iter().any(|value| order(column, value).is_some_and(|o| o.is_eq()))
            }
            Self::IsNull { column } => row[*column].is_none(),
            Self::Not { column, value } => order(column, value).is_some_and(|o| o.is_ne()),
        }
    }
}

impl Replace {
    pub(super) fn load(&self, before: &Before<'_>) -> Result<After, Refusal> {
        let inside = |row: &&Row| self.scope.holds(before.shape, row);
        let fresh: Vec<_> = before.source.iter().filter(inside).map(|row| before.shape.stored(row)).collect();
        let mut target: Vec<_> = before.target.iter().filter(|row| !inside(row)).cloned().collect();
        let deleted = before.target.len() - target.len();
        let counts = Counts { inserted: fresh.len() as u64, deleted: deleted as u64, ..Counts::default() };
        target.extend(fresh);
        Ok(After { read: None, target, counts, watermark: None })
    }
}
