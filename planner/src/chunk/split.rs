//! Cuts a range into chunks.

use super::{ALL, Bound, Chunk, ChunkRange, ChunkSpec, Moment, NullChunk, Period, Zone};
use crate::error::{Error, Result};

/// The chunks of a definition, in order.
///
/// Fails with `configuration` when the range is empty or runs backwards, and when there are more chunks than allowed.
pub fn split(spec: &ChunkSpec) -> Result<Vec<Chunk>> {
    let mut chunks = match &spec.range {
        ChunkRange::Whole => vec![chunk(ALL, None, None)],
        ChunkRange::Dates { from, to, step } => {
            if to < from {
                return Err(backwards(&from.to_string(), &to.to_string()));
            }
            let end = to.succ_opt().ok_or_else(|| too_far(&to.to_string()))?;
            let after = |n: u64| Ok(step.and_then(|step| step.date_after(*from, n)));
            let starts = starts(spec, *from, end, step.is_some(), after)?;
            between(&starts, end, Bound::Date)
        }
        ChunkRange::Moments { from, to, step } => moments(spec, *from, *to, *step)?,
        ChunkRange::Integers { from, to, step } => integers(spec, *from, *to, *step)?,
        ChunkRange::Uuids { buckets } => uuids(spec, *buckets)?,
    };
    if spec.nulls == NullChunk::Include && spec.range != ChunkRange::Whole {
        chunks.push(Chunk { null: true, ..chunk("null", None, None) });
    }
    Ok(chunks)
}

fn chunk(id: &str, lower: Option<Bound>, upper: Option<Bound>) -> Chunk {
    Chunk { id: id.to_owned(), lower, upper, inclusive_upper: false, null: false }
}

fn numbered(index: usize, lower: Option<Bound>, upper: Option<Bound>) -> Chunk {
    chunk(&format!("{:05}", index + 1), lower, upper)
}

fn backwards(from: &str, to: &str) -> Error {
    Error::configuration(format!("the range is empty: it begins at {from} and ends at {to}"))
        .with_hint("`to` is the last value for dates and integers, and the first that is left out for timestamps")
}

fn too_far(to: &str) -> Error {
    Error::configuration(format!("the range ends at {to}, after which no value can be named"))
}

fn too_many(spec: &ChunkSpec, count: u64) -> Error {
    Error::configuration(format!("the range gives {count} chunks, and max_chunks is {}", spec.max_chunks))
        .with_hint("take a larger step, or raise max_chunks")
}

/// Where each chunk begins. `after(n)` is the begin of chunk `n` and grows with it; `None` is beyond all values.
fn starts<T: Copy + PartialOrd>(
    spec: &ChunkSpec,
    from: T,
    end: T,
    stepped: bool,
    after: impl Fn(u64) -> Result<Option<T>>,
) -> Result<Vec<T>> {
    if !stepped {
        return Ok(vec![from]);
    }
    let inside = |n: u64| Ok::<_, Error>(after(n)?.is_some_and(|start| start < end));
    // Without counting through them: a wrong step may give billions.
    let mut beyond = 1;
    while beyond < 1 << 60 && inside(beyond)? {
        beyond *= 2;
    }
    let mut within = beyond / 2;
    while beyond - within > 1 {
        let middle = within + (beyond - within) / 2;
        if inside(middle)? {
            within = middle;
        } else {
            beyond = middle;
        }
    }
    let count = within + 1;
    if count > spec.max_chunks as u64 {
        return Err(too_many(spec, count));
    }
    (0..count).map(|n| Ok(after(n)?.unwrap_or(end))).collect()
}

fn between<T: Copy>(starts: &[T], end: T, bound: impl Fn(T) -> Bound) -> Vec<Chunk> {
    let ends = starts.iter().skip(1).copied().chain([end]);
    starts
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(i, (lower, upper))| numbered(i, Some(bound(*lower)), Some(bound(upper))))
        .collect()
}

fn moments(spec: &ChunkSpec, from: Moment, to: Moment, step: Option<Period>) -> Result<Vec<Chunk>> {
    let zone: &Zone = &spec.zone;
    if to.instant <= from.instant {
        let text = |moment| Bound::Moment(moment).text(zone);
        return Err(backwards(&text(from), &text(to)));
    }
    // Compared as instants: the clock may run backwards once a year.
    let after = |n: u64| match step {
        Some(_) if n == 0 => Ok(Some(ByInstant(from))),
        Some(step) => Ok(step.moment_after(from, n, zone)?.map(ByInstant)),
        None => Ok(None),
    };
    let mut starts = starts(spec, ByInstant(from), ByInstant(to), step.is_some(), after)?;
    // A day that a zone left out begins and ends at one instant.
    starts.dedup_by_key(|start| start.0.instant);
    Ok(between(&starts, ByInstant(to), |moment| Bound::Moment(moment.0)))
}

#[derive(Clone, Copy, PartialEq)]
struct ByInstant(Moment);

impl PartialOrd for ByInstant {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.0.instant.partial_cmp(&other.0.instant)
    }
}

/// The last chunk ends at `to` itself: there may be no greater number, and a column may hold fractions.
fn integers(spec: &ChunkSpec, from: i64, to: i64, step: Option<u64>) -> Result<Vec<Chunk>> {
    if to < from {
        return Err(backwards(&from.to_string(), &to.to_string()));
    }
    let end = i128::from(to) + 1;
    let step = step.map(i128::from);
    let after = |n: u64| Ok(step.and_then(|s| i128::from(from).checked_add(i128::from(n).checked_mul(s)?)));
    let starts = starts(spec, i128::from(from), end, step.is_some(), after)?;
    // All starts lie in the range, and so in i64.
    let starts: Vec<i64> = starts.into_iter().map(|start| i64::try_from(start).unwrap_or(to)).collect();
    let mut chunks = between(&starts, to, Bound::Integer);
    if let Some(last) = chunks.last_mut() {
        last.inclusive_upper = true;
    }
    Ok(chunks)
}

/// The first and the last have no outer bound: every uuid is in one.
fn uuids(spec: &ChunkSpec, buckets: u32) -> Result<Vec<Chunk>> {
    if buckets == 0 {
        return Err(Error::configuration("0 buckets hold nothing").with_hint("give 1 bucket or more"));
    }
    if u64::from(buckets) > spec.max_chunks as u64 {
        return Err(too_many(spec, buckets.into()));
    }
    if buckets == 1 {
        return Ok(vec![numbered(0, None, None)]);
    }
    let count = u128::from(buckets);
    // 2^128 / count without overflow, so that the parts differ by one at most.
    let (width, rest) = (u128::MAX / count, u128::MAX % count + 1);
    let (width, rest) = (width + rest / count, rest % count);
    let start = |i: u128| width.wrapping_mul(i).wrapping_add(rest * i / count);
    Ok((0..count)
        .map(|i| {
            let lower = (i > 0).then(|| Bound::Uuid(start(i)));
            let upper = (i + 1 < count).then(|| Bound::Uuid(start(i + 1)));
            numbered(i as usize, lower, upper)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use chrono::{NaiveDate, NaiveDateTime, TimeDelta};
    use proptest::prelude::*;

    fn spec(range: ChunkRange, zone: Zone) -> ChunkSpec {
        ChunkSpec { column: "c".into(), range, zone, nulls: NullChunk::Fail, max_chunks: 100_000 }
    }

    fn dates(from: &str, to: &str, step: &str) -> Result<Vec<Chunk>> {
        let step = Period::parse(step);
        split(&spec(ChunkRange::Dates { from: from.parse().unwrap(), to: to.parse().unwrap(), step }, Zone::utc()))
    }

    fn labels(chunks: &[Chunk], zone: &Zone) -> Vec<String> {
        chunks.iter().map(|c| c.label(zone)).collect()
    }

    #[test]
    fn months_keep_their_anchor() {
        let chunks = dates("2024-01-31", "2024-05-15", "1mo").unwrap();
        assert_eq!(
            labels(&chunks, &Zone::utc()),
            [
                "2024-01-31 .. 2024-02-29",
                "2024-02-29 .. 2024-03-31",
                "2024-03-31 .. 2024-04-30",
                "2024-04-30 .. 2024-05-16"
            ]
        );
        let chunks = dates("2024-01-31", "2024-05-15", "2mo").unwrap();
        assert_eq!(labels(&chunks, &Zone::utc()), ["2024-01-31 .. 2024-03-31", "2024-03-31 .. 2024-05-16"]);
        let leap = dates("2024-02-29", "2028-12-31", "1y").unwrap();
        assert_eq!(leap[1].lower, Some(Bound::Date("2025-02-28".parse().unwrap())));
        assert_eq!(leap[4].lower, Some(Bound::Date("2028-02-29".parse().unwrap())));
    }

    #[test]
    fn the_last_chunk_is_cut_off_and_one_day_is_a_range() {
        assert_eq!(
            labels(&dates("2026-01-01", "2026-01-10", "7d").unwrap(), &Zone::utc()),
            ["2026-01-01 .. 2026-01-08", "2026-01-08 .. 2026-01-11"]
        );
        assert_eq!(dates("2026-01-01", "2026-01-01", "1d").unwrap().len(), 1);
        assert!(dates("2026-01-02", "2026-01-01", "1d").unwrap_err().message().contains("empty"));
    }

    #[test]
    fn too_many_chunks_are_counted_and_refused() {
        let mut wide =
            spec(ChunkRange::Integers { from: i64::MIN, to: i64::MAX, step: Some(1_000_000_000_000) }, Zone::utc());
        wide.max_chunks = 1000;
        let error = split(&wide).unwrap_err();
        assert!(error.message().contains("18446745 chunks") && error.message().contains("1000"), "{error}");
        wide.range = ChunkRange::Uuids { buckets: 1001 };
        assert!(split(&wide).is_err());
    }

    #[test]
    fn integers_end_with_the_last_value_itself() {
        let chunks = split(&spec(ChunkRange::Integers { from: 1, to: 10, step: Some(4) }, Zone::utc())).unwrap();
        assert_eq!(labels(&chunks, &Zone::utc()), ["1 .. 5", "5 .. 9", "9 ..= 10"]);
        let all = spec(ChunkRange::Integers { from: i64::MIN, to: i64::MAX, step: None }, Zone::utc());
        assert_eq!(split(&all).unwrap().len(), 1);
    }

    #[test]
    fn days_follow_the_clock_and_hours_do_not() {
        let berlin = Zone::new("Europe/Berlin").unwrap();
        let at = |text: &str| berlin.at(text.parse().unwrap()).unwrap();
        let range = |step| ChunkRange::Moments { from: at("2026-03-28T00:00:00"), to: at("2026-03-31T00:00:00"), step };
        let days = split(&spec(range(Period::parse("1d")), berlin.clone())).unwrap();
        assert_eq!(
            labels(&days, &berlin),
            [
                "2026-03-28T00:00:00+01:00 .. 2026-03-29T00:00:00+01:00",
                "2026-03-29T00:00:00+01:00 .. 2026-03-30T00:00:00+02:00",
                "2026-03-30T00:00:00+02:00 .. 2026-03-31T00:00:00+02:00"
            ]
        );
        let hours = split(&spec(range(Period::parse("24h")), berlin.clone())).unwrap();
        assert_eq!(labels(&hours, &berlin)[1], "2026-03-29T00:00:00+01:00 .. 2026-03-30T01:00:00+02:00");
        let apia = Zone::new("Pacific/Apia").unwrap();
        let at = |text: &str| apia.at(text.parse().unwrap()).unwrap();
        let range = ChunkRange::Moments {
            from: at("2011-12-29T00:00:00"),
            to: at("2012-01-01T00:00:00"),
            step: Some(Period::Days(1)),
        };
        // The 30th was left out: no chunk is empty.
        assert_eq!(split(&spec(range, apia)).unwrap().len(), 2);
    }

    #[test]
    fn null_is_a_chunk_of_its_own_when_asked_for() {
        let mut both = spec(ChunkRange::Integers { from: 1, to: 2, step: None }, Zone::utc());
        both.nulls = NullChunk::Include;
        let chunks = split(&both).unwrap();
        assert_eq!((chunks.len(), chunks[1].id.as_str(), chunks[1].null), (2, "null", true));
    }

    /// Each chunk begins where the one before ended, the first with the range and the last with its end.
    fn partition<T: PartialEq + std::fmt::Debug + PartialOrd + Copy>(
        chunks: &[Chunk],
        from: T,
        end: T,
        value: impl Fn(Bound) -> T,
    ) {
        let bounds: Vec<(T, T)> = chunks.iter().map(|c| (value(c.lower.unwrap()), value(c.upper.unwrap()))).collect();
        assert_eq!(bounds.first().unwrap().0, from);
        assert_eq!(bounds.last().unwrap().1, end);
        for pair in bounds.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
        }
        for ((lower, upper), chunk) in bounds.iter().zip(chunks) {
            assert!(lower < upper || (chunk.inclusive_upper && lower <= upper), "{chunk:?} is empty");
        }
        let ids: std::collections::BTreeSet<_> = chunks.iter().map(|c| &c.id).collect();
        assert_eq!(ids.len(), chunks.len());
    }

    fn period() -> impl Strategy<Value = Period> {
        prop_oneof![(1..100_u32).prop_map(Period::Days), (1..40_u32).prop_map(Period::Months)]
    }

    proptest! {
        #[test]
        fn dates_are_partitioned(start in -20_000..40_000_i32, days in 0..5_000_u64, step in period()) {
            let epoch = NaiveDate::default();
            let from = epoch + TimeDelta::days(start.into());
            let to = from.checked_add_days(chrono::Days::new(days)).unwrap();
            let chunks = split(&spec(ChunkRange::Dates { from, to, step: Some(step) }, Zone::utc())).unwrap();
            partition(&chunks, from, to.succ_opt().unwrap(), |b| match b {
                Bound::Date(d) => d,
                other => panic!("{other:?}"),
            });
        }

        #[test]
        fn moments_are_partitioned(
            start in -1_000_000_000..2_000_000_000_i64,
            seconds in 1..400_000_000_i64,
            step in prop_oneof![period(), (10..2000_u32).prop_map(Period::Hours)],
            zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("America/St_Johns"), Just("Pacific/Apia"), Just("Australia/Lord_Howe")],
        ) {
            let zone = Zone::new(zone).unwrap();
            let local = |seconds| chrono::DateTime::from_timestamp(seconds, 0).unwrap().naive_utc();
            let shown: NaiveDateTime = local(start);
            let from = zone.at(shown).unwrap();
            let to = zone.of(from.instant + TimeDelta::seconds(seconds)).unwrap();
            let chunks = split(&spec(ChunkRange::Moments { from, to, step: Some(step) }, zone)).unwrap();
            partition(&chunks, from.instant, to.instant, |b| match b {
                Bound::Moment(m) => m.instant,
                other => panic!("{other:?}"),
            });
        }

        #[test]
        fn integers_are_partitioned(from in any::<i64>(), width in 0..1_000_000_u64, step in 1..5_000_u64) {
            let to = from.saturating_add(width as i64);
            let step = step.max(width / 10_000);
            let chunks = split(&spec(ChunkRange::Integers { from, to, step: Some(step) }, Zone::utc())).unwrap();
            partition(&chunks, from, to, |b| match b {
                Bound::Integer(v) => v,
                other => panic!("{other:?}"),
            });
            assert!(chunks.last().unwrap().inclusive_upper && chunks.iter().rev().skip(1).all(|c| !c.inclusive_upper));
        }

        #[test]
        fn uuids_are_partitioned(buckets in 1..2_000_u32) {
            let chunks = split(&spec(ChunkRange::Uuids { buckets }, Zone::utc())).unwrap();
            assert_eq!(chunks.len(), buckets as usize);
            assert_eq!((chunks[0].lower, chunks[chunks.len() - 1].upper), (None, None));
            let mut widths = Vec::new();
            for pair in chunks.windows(2) {
                assert_eq!(pair[0].upper, pair[1].lower);
                let start = match pair[0].lower { Some(Bound::Uuid(v)) => v, _ => 0 };
                let Some(Bound::Uuid(end)) = pair[0].upper else { panic!() };
                assert!(start < end);
                widths.push(end - start);
            }
            if let (Some(least), Some(most)) = (widths.iter().min(), widths.iter().max()) {
                assert!(most - least <= 1);
            }
        }
    }
}
