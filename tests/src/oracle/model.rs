//! Rows as the oracle sees them: text or NULL, in the spelling of PostgreSQL, typed by a small column model.
//!
//! Two values are identical when their texts are. Which values are merely equal (1.0 and 1.00, 0 and -0), and which of
//! two comes first, depends on the type: [`Kind`] knows.

use std::cmp::Ordering;

pub type Value = Option<String>;
pub type Row = Vec<Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    SmallInt,
    Int,
    BigInt,
    Numeric,
    Decimal(u8, u8),
    Real,
    Double,
    Text,
    Varchar(u16),
    Boolean,
    Date,
    Timestamp,
    Timestamptz,
    Uuid,
    Bytea,
    Jsonb,
}

impl Kind {
    pub fn postgres(self) -> String {
        match self {
            Self::SmallInt => "smallint".to_owned(),
            Self::Int => "integer".to_owned(),
            Self::BigInt => "bigint".to_owned(),
            Self::Numeric => "numeric".to_owned(),
            Self::Decimal(precision, scale) => format!("numeric({precision},{scale})"),
            Self::Real => "real".to_owned(),
            Self::Double => "double precision".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Varchar(length) => format!("varchar({length})"),
            Self::Boolean => "boolean".to_owned(),
            Self::Date => "date".to_owned(),
            Self::Timestamp => "timestamp".to_owned(),
            Self::Timestamptz => "timestamptz".to_owned(),
            Self::Uuid => "uuid".to_owned(),
            Self::Bytea => "bytea".to_owned(),
            Self::Jsonb => "jsonb".to_owned(),
        }
    }

    /// A text that equal values share.
    pub fn canonical(self, value: &str) -> String {
        match self {
            Self::Numeric | Self::Decimal(..) if value.contains('.') => {
                let stripped = value.trim_end_matches('0').trim_end_matches('.');
                if stripped == "-0" { "0".to_owned() } else { stripped.to_owned() }
            }
            Self::Real | Self::Double if value == "-0" => "0".to_owned(),
            _ => value.to_owned(),
        }
    }

    /// The type's order; NaN is greatest, and text goes by its bytes.
    pub fn compare(self, a: &str, b: &str) -> Ordering {
        match self {
            Self::SmallInt | Self::Int | Self::BigInt | Self::Numeric | Self::Decimal(..) => scaled(a).cmp(&scaled(b)),
            Self::Real | Self::Double => {
                let number = |text: &str| self.canonical(text).parse::<f64>().unwrap();
                number(a).partial_cmp(&number(b)).unwrap_or_else(|| number(a).is_nan().cmp(&number(b).is_nan()))
            }
            // ISO spellings of the years 1 to 9999 sort as the moments do.
            _ => a.cmp(b),
        }
    }

    /// How a column of this type spells a value that came from a narrower one.
    pub fn spelled(self, value: &str) -> String {
        let Self::Decimal(_, scale) = self else { return value.to_owned() };
        let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
        if scale == 0 { whole.to_owned() } else { format!("{whole}.{fraction:0<width$}", width = usize::from(scale)) }
    }
}

/// A decimal number as an integer of billionths.
fn scaled(text: &str) -> i128 {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    sign * format!("{whole}{fraction:0<9}").parse::<i128>().unwrap()
}

/// One column: its type in the source, and in the target.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub source: Kind,
    pub target: Kind,
}

/// The columns of a table, and which of them identify a row and say when it changed.
#[derive(Debug, Clone)]
pub struct Shape {
    pub columns: Vec<Column>,
    pub key: Vec<usize>,
    /// The column that a change of a row moves on, where there is one.
    pub touched: Option<usize>,
    /// The same, where the strategy reads by it.
    pub cursor: Option<usize>,
}

impl Shape {
    pub fn key_names(&self) -> Vec<&str> {
        self.key.iter().map(|&i| self.columns[i].name.as_str()).collect()
    }

    /// The key of a row; equal keys give the same.
    pub fn key_of(&self, row: &Row) -> Vec<Value> {
        self.key.iter().map(|&i| row[i].as_ref().map(|text| self.columns[i].source.canonical(text))).collect()
    }

    /// A source row as the target stores it.
    pub fn stored(&self, row: &Row) -> Row {
        row.iter().zip(&self.columns).map(|(value, c)| value.as_ref().map(|text| c.target.spelled(text))).collect()
    }

    /// Compares two cursor values.
    pub fn compare_cursor(&self, a: &str, b: &str) -> Ordering {
        self.columns[self.cursor.expect("the strategy has a cursor")].source.compare(a, b)
    }

    /// The greatest cursor value of some rows.
    pub fn greatest_cursor<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Option<String> {
        let at = self.cursor?;
        rows.into_iter().filter_map(|row| row[at].clone()).max_by(|a, b| self.compare_cursor(a, b))
    }
}

/// Removes one row that is identical to `row`.
pub fn take(rows: &mut Vec<Row>, row: &Row) -> bool {
    rows.iter().position(|other| other == row).map(|at| rows.swap_remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_not_identical_and_order_is_the_types() {
        assert_eq!(Kind::Numeric.canonical("1.500"), "1.5");
        assert_eq!(Kind::Numeric.canonical("-0.00"), "0");
        assert_eq!(Kind::Numeric.canonical("100"), "100");
        assert_eq!(Kind::Double.canonical("-0"), "0");
        assert_eq!(Kind::Text.canonical("1.0"), "1.0");
        assert_eq!(Kind::Decimal(20, 4).spelled("-1.50"), "-1.5000");
        assert_eq!(Kind::BigInt.compare("-10", "9"), Ordering::Less);
        assert_eq!(Kind::Decimal(9, 2).compare("-0.50", "-0.25"), Ordering::Less);
        assert_eq!(Kind::Double.compare("NaN", "Infinity"), Ordering::Greater);
        assert_eq!(Kind::Double.compare("-0", "0"), Ordering::Equal);
        assert_eq!(Kind::Timestamptz.compare("1970-01-01 00:00:00+00", "1970-01-01 00:00:00.5+00"), Ordering::Less);
    }
}
