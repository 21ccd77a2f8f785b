//! What the target remembers of a chunk that was loaded into it, so that another backfill can tell whether its own chunks
//! are of the same rows.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::{Bound, Chunk, Zone};

/// A chunk that was loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LoadedChunk {
    /// Digest of the place that was read and the table that was written.
    pub origin: String,
    /// The id that the user gave the backfill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill_id: Option<String>,
    pub column: String,
    /// The bounds as a definition writes them; `None`: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<String>,
    #[serde(default)]
    pub inclusive_upper: bool,
    /// The chunk of the rows without a value.
    #[serde(default)]
    pub null_values: bool,
    /// Every row, also one without a value.
    #[serde(default)]
    pub everything: bool,
    /// For people.
    pub label: String,
}

impl LoadedChunk {
    pub fn new(chunk: &Chunk, column: &str, zone: &Zone, origin: &str, backfill_id: Option<&str>) -> Self {
        let text = |bound: &Option<Bound>| bound.as_ref().map(|bound| bound.text(zone));
        Self {
            origin: origin.to_owned(),
            backfill_id: backfill_id.map(str::to_owned),
            column: column.to_owned(),
            lower: text(&chunk.lower),
            upper: text(&chunk.upper),
            inclusive_upper: chunk.inclusive_upper,
            null_values: chunk.null,
            everything: chunk.is_everything(),
            label: chunk.label(zone),
        }
    }

    /// Whether a row can be in both. Bounds that cannot be compared do not keep chunks apart.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.everything || other.everything || self.column != other.column {
            return true;
        }
        if self.null_values || other.null_values {
            return self.null_values && other.null_values;
        }
        !self.ends_before(other) && !other.ends_before(self)
    }

    fn ends_before(&self, other: &Self) -> bool {
        let (Some(upper), Some(lower)) = (&self.upper, &other.lower) else { return false };
        match (Point::parse(upper), Point::parse(lower)) {
            (Some(upper), Some(lower)) => match upper.partial_cmp(&lower) {
                Some(std::cmp::Ordering::Equal) => !self.inclusive_upper,
                Some(order) => order.is_lt(),
                None => false,
            },
            _ => false,
        }
    }
}

/// A bound that was read back. Bounds of two kinds have no order.
#[derive(Debug, PartialEq)]
enum Point {
    Integer(i64),
    Date(NaiveDate),
    Local(NaiveDateTime),
    Instant(DateTime<chrono::FixedOffset>),
    Uuid(String),
}

impl Point {
    fn parse(text: &str) -> Option<Self> {
        let is_uuid = text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if is_uuid {
            return Some(Self::Uuid(text.to_ascii_lowercase()));
        }
        text.parse()
            .map(Self::Integer)
            .or_else(|_| text.parse().map(Self::Date))
            .or_else(|_| DateTime::parse_from_rfc3339(text).map(Self::Instant))
            .or_else(|_| text.parse().map(Self::Local))
            .ok()
    }
}

impl PartialOrd for Point {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.partial_cmp(b),
            (Self::Date(a), Self::Date(b)) => a.partial_cmp(b),
            (Self::Local(a), Self::Local(b)) => a.partial_cmp(b),
            (Self::Instant(a), Self::Instant(b)) => a.partial_cmp(b),
            (Self::Uuid(a), Self::Uuid(b)) => a.partial_cmp(b),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(lower: Option<&str>, upper: Option<&str>, inclusive_upper: bool) -> LoadedChunk {
        LoadedChunk {
            origin: "o".into(),
            backfill_id: None,
            column: "c".into(),
            lower: lower.map(str::to_owned),
            upper: upper.map(str::to_owned),
            inclusive_upper,
            null_values: lower.is_none() && upper.is_none(),
            everything: false,
            label: String::new(),
        }
    }

    #[test]
    fn chunks_that_share_no_row_are_told_apart() {
        let ranges = [
            ["1", "9", "10"],
            ["2026-01-31", "2026-02-01", "2027-01-01"],
            ["2026-01-01T00:00:00", "2026-01-01T06:00:00.5", "2026-01-02T00:00:00"],
            ["2026-01-01T00:00:00+01:00", "2026-01-01T00:00:00Z", "2026-01-01T02:00:00+01:00"],
            [
                "00000000-0000-0000-0000-000000000000",
                "80000000-0000-0000-0000-000000000000",
                "f0000000-0000-0000-0000-000000000000",
            ],
        ];
        for [low, middle, high] in ranges {
            let (first, second) = (chunk(Some(low), Some(middle), false), chunk(Some(middle), Some(high), true));
            assert!(!first.overlaps(&second) && !second.overlaps(&first), "{low} {middle} {high}");
            assert!(chunk(Some(low), Some(middle), true).overlaps(&second), "{low} {middle} {high}");
            assert!(chunk(None, Some(high), false).overlaps(&second) && chunk(Some(low), None, false).overlaps(&first));
            assert!(!chunk(None, Some(middle), false).overlaps(&second), "{middle}");
            assert!(!chunk(None, None, false).overlaps(&first), "NULL is in no range");
        }
        let all = LoadedChunk { everything: true, ..chunk(None, None, false) };
        assert!(all.overlaps(&chunk(None, None, false)) && chunk(Some("1"), Some("2"), false).overlaps(&all));
        assert!(chunk(None, None, false).overlaps(&chunk(None, None, false)));
        let other = LoadedChunk { column: "d".into(), ..chunk(Some("5"), Some("6"), false) };
        assert!(chunk(Some("1"), Some("2"), false).overlaps(&other), "another column says nothing");
        let other_kind = chunk(Some("2026-01-01"), Some("2026-01-02"), false);
        assert!(chunk(Some("1"), Some("2"), false).overlaps(&other_kind));
    }
}
