//! The values that cases are made of: few of each type, chosen because they are easily lost, confused or misspelled.

use crate::oracle::{Kind, Value};

use super::Random;

/// Texts that differ by little, or look like something else.
const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "a ",
    "A",
    "ä",
    "a\u{308}",
    "NULL",
    "\\N",
    "0",
    "tab\there, line\nbreak, \"quotes\" and 'more'",
    "🦀",
    "a/../b=c%2F:?*",
    "a text that is longer than what statistics of files keep of it, by far: one",
    "a text that is longer than what statistics of files keep of it, by far: two",
];

/// Spellings as PostgreSQL writes them, so that a value that comes back can be compared as text.
pub fn pool(kind: Kind) -> Vec<String> {
    let narrow = NARROW.with(std::cell::Cell::get);
    let kept = |value: &String| !narrow || !(value.starts_with("0001-") || value.starts_with("9999-"));
    whole_pool(kind).into_iter().filter(kept).collect()
}

thread_local! {
    static NARROW: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// From now on, cases of this thread have only points in time that ClickHouse holds, or all again.
pub(super) fn narrow_times(narrow: bool) {
    NARROW.with(|cell| cell.set(narrow));
}

fn whole_pool(kind: Kind) -> Vec<String> {
    let texts = |values: &[&str]| values.iter().map(ToString::to_string).collect();
    match kind {
        Kind::SmallInt => texts(&["0", "1", "-1", "32767", "-32768"]),
        Kind::Int => texts(&["0", "1", "-1", "2147483647", "-2147483648"]),
        Kind::BigInt => texts(&["0", "1", "-1", "9223372036854775807", "-9223372036854775808"]),
        Kind::Numeric => texts(&[
            "0",
            "0.0",
            "1",
            "1.0",
            "1.00",
            "-1.50",
            "NaN",
            "0.000000000000000000001",
            "100000000000000000000000000000000000000000",
        ]),
        Kind::Decimal(precision, scale) => {
            let nines = "9".repeat(usize::from(precision - scale));
            ["0", "1", "-1.5", "0.25", &nines].iter().map(|v| kind.spelled(v)).collect()
        }
        Kind::Real => texts(&["0", "-0", "NaN", "Infinity", "-Infinity", "1.5", "-0.25"]),
        Kind::Double => {
            texts(&["0", "-0", "NaN", "Infinity", "-Infinity", "1.5", "0.1", "5e-324", "1.7976931348623157e+308"])
        }
        Kind::Text => texts(TEXTS),
        Kind::Varchar(length) => {
            TEXTS.iter().filter(|t| t.chars().count() <= usize::from(length)).map(ToString::to_string).collect()
        }
        Kind::Boolean => texts(&["true", "false"]),
        Kind::Date => {
            texts(&["0001-01-01", "1900-02-28", "1969-12-31", "1970-01-01", "2024-02-29", "2024-03-01", "9999-12-31"])
        }
        Kind::Timestamp => moments(""),
        Kind::Timestamptz => moments("+00"),
        Kind::Uuid => texts(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
        Kind::Bytea => texts(&["\\x", "\\x00", "\\x0000", "\\xff00", "\\x61"]),
        Kind::Jsonb => texts(&["null", "{}", "{\"a\": 1}", "{\"a\": 1.0}", "{\"a\": \"\\n\"}", "[]", "\"\""]),
    }
}

fn moments(zone: &str) -> Vec<String> {
    [
        "0001-01-01 00:00:00",
        "1969-12-31 23:59:59.999999",
        "1970-01-01 00:00:00",
        "1970-01-01 00:00:00.000001",
        "2024-02-29 12:00:00.5",
        "2024-03-31 01:30:00",
        "9999-12-31 23:59:59.999999",
    ]
    .iter()
    .map(|moment| format!("{moment}{zone}"))
    .collect()
}

/// A value of the pool, or NULL.
pub(super) fn any(kind: Kind, random: &mut Random) -> Value {
    if random.chance(15) { None } else { Some(random.pick(&pool(kind)).clone()) }
}

/// The `n`th value of a cursor: a later one is greater. The range passes through zero and through 1970.
pub(super) fn cursor(kind: Kind, n: i64, random: &mut Random) -> String {
    match kind {
        Kind::Date => date(n - 8),
        Kind::Timestamp => moment(n, ""),
        Kind::Timestamptz => moment(n, "+00"),
        Kind::Decimal(_, scale) => {
            let half = n - 8;
            let sign = if half < 0 { "-" } else { "" };
            let digit = if half % 2 == 0 { 0 } else { 5 };
            kind.spelled(&format!("{sign}{}.{digit:0<width$}", half.abs() / 2, width = usize::from(scale)))
        }
        // Ties with other spellings of the same number.
        Kind::Numeric => format!("{}{}", n - 8, random.pick(&["", ".0", ".00"].map(str::to_owned))),
        Kind::Double if n == 8 => random.pick(&["0", "-0"]).to_string(),
        Kind::Double => (n as f64 * 0.5 - 4.0).to_string(),
        // Capitals come before small letters by their bytes, and after them in a dictionary.
        Kind::Text => format!("{}{n:05}", if n < 8 { 'Z' } else { 'a' }),
        Kind::Uuid => format!("00000000-0000-0000-0000-{n:012x}"),
        Kind::BigInt | Kind::Int => (n * 7 - 50).to_string(),
        other => panic!("no cursor of type {other:?}"),
    }
}

/// The `n`th value of a key column, different from all others.
pub(super) fn nth_key(kind: Kind, n: u64) -> String {
    match kind {
        Kind::SmallInt | Kind::Int | Kind::BigInt | Kind::Numeric => n.to_string(),
        Kind::Decimal(..) => kind.spelled(&n.to_string()),
        Kind::Text | Kind::Varchar(_) => format!("key {n}"),
        Kind::Uuid => format!("ffffffff-0000-0000-0000-{n:012x}"),
        Kind::Date => date(n.cast_signed()),
        other => panic!("no key of type {other:?}"),
    }
}

/// Steps of a little more than 0.7 s from just before 1970.
fn moment(n: i64, zone: &str) -> String {
    let micros = n * 700_001 - 5_600_008;
    let (day, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!(".{fraction:06}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{} {clock}{fraction}{zone}", date(day))
}

/// The calendar date of a day, counted from 1970-01-01.
pub fn date(day: i64) -> String {
    let (mut year, mut rest) = (1970, day);
    while rest < 0 {
        year -= 1;
        rest += days_in_year(year);
    }
    while rest >= days_in_year(year) {
        rest -= days_in_year(year);
        year += 1;
    }
    let mut month = 1;
    while rest >= days_in_month(year, month) {
        rest -= days_in_month(year, month);
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", rest + 1)
}

/// The day of a calendar date, counted from 1970-01-01.
pub fn days(date: &str) -> i64 {
    let part = |range: std::ops::Range<usize>| date[range].parse::<i64>().unwrap();
    let (year, month, day) = (part(0..4), part(5..7), part(8..10));
    let years: i64 =
        if year >= 1970 { (1970..year).map(days_in_year).sum() } else { -(year..1970).map(days_in_year).sum::<i64>() };
    years + (1..month).map(|m| days_in_month(year, m)).sum::<i64>() + day - 1
}

fn days_in_year(year: i64) -> i64 {
    (1..=12).map(|month| days_in_month(year, month)).sum()
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse() {
        for (day, text) in [(0, "1970-01-01"), (-1, "1969-12-31"), (19_782, "2024-02-29"), (-25_509, "1900-02-28")] {
            assert_eq!((date(day).as_str(), days(text)), (text, day));
        }
    }

    #[test]
    fn a_later_cursor_value_is_greater() {
        let kinds = [Kind::Date, Kind::Timestamp, Kind::Timestamptz, Kind::Decimal(12, 3), Kind::Double, Kind::Text];
        for kind in kinds.into_iter().chain([Kind::Uuid, Kind::BigInt]) {
            let values: Vec<_> = (0..40).map(|n| cursor(kind, n, &mut Random::new(1))).collect();
            assert!(values.windows(2).all(|w| kind.compare(&w[0], &w[1]).is_lt()), "{kind:?}: {values:?}");
        }
    }
}
