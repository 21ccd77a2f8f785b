//! Versions of a ReplacingMergeTree, which decide which row of a key is the last one.
//!
//! Rows that come get a version later than all that are there. An integer is counted up by one. A date or time is the
//! moment of the load, as people who choose such a type mean it; where the table has later ones already, the next one
//! that the type tells from them.

use crate::types::ChType;

/// The type of a version that can be counted up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version(ChType);

/// Days since 1970 of 2299-12-31, the last that `Date32` and `DateTime64` hold.
const LAST_DAY: i64 = 120_529;

/// Names that no column of people has, which would be taken for it.
const LAST: &str = "__dpone__last";
const NEXT: &str = "__dpone__next";

impl Version {
    /// `None`: the type has no next value, such as a float, which the server takes as well.
    pub(super) fn of(native: &str) -> Option<Self> {
        let native = match ChType::native(native)? {
            ChType::LowCardinality(inner) => *inner,
            other => other,
        };
        matches!(
            native,
            ChType::Int { .. } | ChType::Date | ChType::Date32 | ChType::DateTime(_) | ChType::DateTime64(..)
        )
        .then_some(Self(native))
    }

    /// Asks for the next version as a number, and whether it is later than all that the table has.
    pub(super) fn next(&self, column: &str, table: &str) -> String {
        let column = crate::types::quote(column);
        let greatest = format!("max({column})");
        let of = |value: &str| match &self.0 {
            ChType::Date => format!("toInt64(toUInt16({value}))"),
            ChType::Date32 => format!("toInt64(toInt32({value}))"),
            ChType::DateTime(_) => format!("toInt64(toUnixTimestamp({value}))"),
            _ => format!("reinterpretAsInt64({value})"),
        };
        let (now, limit) = match &self.0 {
            ChType::Date => ("today()".to_owned(), i64::from(u16::MAX)),
            ChType::Date32 => ("toDate32(today())".to_owned(), LAST_DAY),
            ChType::DateTime(_) => ("now()".to_owned(), i64::from(u32::MAX)),
            ChType::DateTime64(digits, _) => {
                let end = ((LAST_DAY + 1) * 86_400).saturating_mul(10_i64.pow(u32::from(*digits)));
                (format!("now64({digits})"), end.saturating_sub(1))
            }
            // Beyond its greatest value an integer begins again at its least one.
            native => {
                return format!(
                    "SELECT toString({NEXT}), toString({NEXT} > {LAST}) FROM \
                     (SELECT {greatest} AS {LAST}, CAST({greatest} + 1 AS {native}) AS {NEXT} FROM {table})"
                );
            }
        };
        let (last, now) = (of(&greatest), of(&now));
        format!(
            "SELECT toString({NEXT}), toString({NEXT} > {LAST} AND {NEXT} <= {limit}) FROM \
             (SELECT {last} AS {LAST}, greatest({last} + 1, {now}) AS {NEXT} FROM {table})"
        )
    }

    /// The version of this number, as the server writes it.
    pub(super) fn literal(&self, number: &str) -> String {
        match &self.0 {
            ChType::Date => format!("addDays(toDate('1970-01-01'), {number})"),
            ChType::Date32 => format!("addDays(toDate32('1970-01-01'), {number})"),
            ChType::DateTime(_) => format!("toDateTime({number})"),
            ChType::DateTime64(digits, _) => format!("reinterpret(toInt64({number}), 'DateTime64({digits})')"),
            native => format!("CAST('{number}' AS {native})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_what_has_a_next_value() {
        for native in
            ["UInt8", "Int256", "LowCardinality(UInt64)", "Date", "Date32", "DateTime('UTC')", "DateTime64(9)"]
        {
            assert!(Version::of(native).is_some(), "{native}");
        }
        for native in ["Bool", "Float64", "String", "Nullable(UInt64)"] {
            assert!(Version::of(native).is_none(), "{native}");
        }
    }
}
