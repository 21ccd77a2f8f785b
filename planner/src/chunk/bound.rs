//! The values at which chunks begin, and the distances between them.

use std::fmt;

use arrow::array::timezone::Tz;
use chrono::{DateTime, LocalResult, Months, NaiveDate, NaiveDateTime, SecondsFormat, TimeDelta, TimeZone, Utc};

use crate::error::{Error, Result};

/// A value at which a chunk begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Bound {
    Date(NaiveDate),
    Moment(Moment),
    Integer(i64),
    /// The 128 bits in the order in which uuids sort.
    Uuid(u128),
}

impl Bound {
    /// As a definition writes it.
    pub fn text(&self, zone: &Zone) -> String {
        match self {
            Self::Date(date) => date.to_string(),
            Self::Moment(moment) => moment.text(zone),
            Self::Integer(value) => value.to_string(),
            Self::Uuid(value) => uuid_text(*value),
        }
    }
}

/// `00000000-0000-0000-0000-000000000000`
pub(super) fn uuid_text(value: u128) -> String {
    let hex = format!("{value:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// A point in time, as an instant and as the zone's clock shows it: columns with a zone are compared with the one,
/// columns without a zone with the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Moment {
    pub instant: DateTime<Utc>,
    pub local: NaiveDateTime,
}

impl Moment {
    fn text(&self, zone: &Zone) -> String {
        if !zone.stated {
            return self.local.format("%Y-%m-%dT%H:%M:%S%.f").to_string();
        }
        match zone.tz() {
            Ok(tz) => tz.from_utc_datetime(&self.instant.naive_utc()).to_rfc3339_opts(SecondsFormat::AutoSi, true),
            Err(_) => self.instant.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        }
    }
}

/// A time zone by name (`Europe/Berlin`) or offset (`+02:00`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Zone {
    name: String,
    /// Whether the definition names the zone, or writes its bounds with an offset.
    pub stated: bool,
}

impl Zone {
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), stated: false }
    }

    /// Fails when there is no such zone.
    pub fn new(name: &str) -> Result<Self> {
        let zone = Self { name: name.to_owned(), stated: true };
        zone.tz()?;
        Ok(zone)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn tz(&self) -> Result<Tz> {
        self.name.parse().map_err(|_| {
            Error::configuration(format!("there is no time zone {:?}", self.name))
                .with_hint("write a name such as Europe/Berlin, an offset such as +02:00, or UTC")
        })
    }

    /// The instant at which the zone's clock shows this. What the clock skips in spring begins when it goes on; what it
    /// shows twice in autumn is the first of the two.
    pub fn at(&self, local: NaiveDateTime) -> Result<Moment> {
        let tz = self.tz()?;
        let out_of_range = || Error::configuration(format!("{local} is out of the range of times"));
        let mut shown = local;
        // A clock skips at most a day, and always whole quarters of an hour.
        for _ in 0..200 {
            match tz.from_local_datetime(&shown) {
                LocalResult::Single(found) | LocalResult::Ambiguous(found, _) => {
                    return Ok(Moment { instant: found.with_timezone(&Utc), local });
                }
                LocalResult::None => {
                    shown = quarter_after(shown).ok_or_else(out_of_range)?;
                }
            }
        }
        Err(out_of_range())
    }

    /// The moment of an instant.
    pub fn of(&self, instant: DateTime<Utc>) -> Result<Moment> {
        Ok(Moment { instant, local: self.tz()?.from_utc_datetime(&instant.naive_utc()).naive_local() })
    }

    /// Midnight, when the day begins.
    pub fn midnight(&self, date: NaiveDate) -> Result<Moment> {
        self.at(date.and_time(chrono::NaiveTime::MIN))
    }
}

fn quarter_after(local: NaiveDateTime) -> Option<NaiveDateTime> {
    let seconds = local.and_utc().timestamp();
    let next = (seconds.div_euclid(900) + 1).checked_mul(900)?;
    DateTime::from_timestamp(next, 0).map(|t| t.naive_utc())
}

/// A step over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Period {
    /// Elapsed time: across a change of clocks an hour is an hour.
    Hours(u32),
    /// Calendar days: across a change of clocks a day has 23 or 25 hours.
    Days(u32),
    /// Calendar months.
    Months(u32),
}

impl Period {
    /// `6h`, `7d`, `2w`, `1mo`, `1y`
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u32 = number.parse().ok().filter(|n| *n > 0)?;
        Some(match unit.trim().to_ascii_lowercase().as_str() {
            "h" => Self::Hours(number),
            "d" => Self::Days(number),
            "w" => Self::Days(number.checked_mul(7)?),
            "mo" => Self::Months(number),
            "y" => Self::Months(number.checked_mul(12)?),
            _ => return None,
        })
    }

    /// `from` and `count` steps. Months are counted from `from` itself, so that the last of January is followed by the
    /// last of February and then by the last of March, whatever came between.
    pub(super) fn date_after(self, from: NaiveDate, count: u64) -> Option<NaiveDate> {
        match self {
            Self::Hours(_) => None,
            Self::Days(days) => from.checked_add_days(chrono::Days::new(count.checked_mul(days.into())?)),
            Self::Months(months) => {
                from.checked_add_months(Months::new(u32::try_from(count.checked_mul(months.into())?).ok()?))
            }
        }
    }

    pub(super) fn moment_after(self, from: Moment, count: u64, zone: &Zone) -> Result<Option<Moment>> {
        match self {
            Self::Hours(hours) => {
                let hours = i64::try_from(count).ok().and_then(|n| n.checked_mul(hours.into()));
                let later =
                    hours.and_then(TimeDelta::try_hours).and_then(|elapsed| from.instant.checked_add_signed(elapsed));
                later.map(|instant| zone.of(instant)).transpose()
            }
            Self::Days(_) | Self::Months(_) => self
                .date_after(from.local.date(), count)
                .map(|date| zone.at(date.and_time(from.local.time())))
                .transpose(),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hours(n) => write!(f, "{n}h"),
            Self::Days(n) => write!(f, "{n}d"),
            Self::Months(n) if n % 12 == 0 => write!(f, "{}y", n / 12),
            Self::Months(n) => write!(f, "{n}mo"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn steps_are_read_with_their_units() {
        assert_eq!(Period::parse("6h"), Some(Period::Hours(6)));
        assert_eq!(Period::parse("2W"), Some(Period::Days(14)));
        assert_eq!(Period::parse("1mo"), Some(Period::Months(1)));
        assert_eq!(Period::parse("2y").map(|p| p.to_string()).as_deref(), Some("2y"));
        for bad in ["", "0d", "d", "-1d", "1m", "1.5d", "1 month", "99999999999d"] {
            assert_eq!(Period::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_clock_decides_where_a_day_begins() {
        let berlin = Zone::new("Europe/Berlin").unwrap();
        let at = |text: &str| berlin.at(text.parse().unwrap()).unwrap().instant.to_rfc3339();
        assert_eq!(at("2026-03-29T00:00:00"), "2026-03-28T23:00:00+00:00");
        // 02:30 is skipped: the clock goes on at 03:00.
        assert_eq!(at("2026-03-29T02:30:00"), "2026-03-29T01:00:00+00:00");
        // 02:30 is shown twice: the first one.
        assert_eq!(at("2026-10-25T02:30:00"), "2026-10-25T00:30:00+00:00");
        // A day that an island left out.
        let apia = Zone::new("Pacific/Apia").unwrap();
        let (skipped, next) =
            (apia.at("2011-12-30T00:00:00".parse().unwrap()), apia.at("2011-12-31T00:00:00".parse().unwrap()));
        assert_eq!(skipped.unwrap().instant, next.unwrap().instant);
        assert!(Zone::new("Mars/Olympus").is_err());
    }

    #[test]
    fn uuids_sort_as_their_texts_do() {
        assert_eq!(uuid_text(0), "00000000-0000-0000-0000-000000000000");
        assert_eq!(uuid_text(u128::MAX), "ffffffff-ffff-ffff-ffff-ffffffffffff");
        assert!(uuid_text(1 << 100) < uuid_text(1 << 101));
    }
}
