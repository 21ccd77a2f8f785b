//! `mode: backfill`: the range and its chunks, the inner load, the ledger, the pace.

use std::time::Duration;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc};

use super::Origin;
use super::strategy::duplicates;
use crate::chunk::{ChunkRange, ChunkSpec, Moment, NullChunk, Period, Zone, split};
use crate::definition::manifest::{
    self, BackfillBackend, ChunkKind, InnerMode, NullChunkSpec, OptimizeFor, PredicateDialect, PublicationMode, Scalar,
    StrategySpec,
};
use crate::definition::{
    Backfill, CursorOptions, InnerLoad, Ledger, NullKeys, OverwriteType, RetryPolicy, Strategy, Throttle,
};
use crate::error::Result;

const KEY: &str = "sink.strategy.unique_key";
const BACKFILL: &str = "sink.strategy.backfill";

fn at(key: &str) -> String {
    format!("{BACKFILL}.{key}")
}

pub(super) fn lower(
    spec: &StrategySpec,
    cursor: Option<&CursorOptions>,
    source_kind: &str,
    soft_delete: Option<crate::definition::SoftDelete>,
    null_keys: NullKeys,
    origin: &Origin<'_>,
) -> Result<Strategy> {
    let Some(backfill) = &spec.backfill else {
        return Err(origin.missing(&at("chunk"), "backfill loads chunk by chunk"));
    };
    let mode = backfill.inner_mode.unwrap_or(InnerMode::PartitionReplace);
    let mut notes = Vec::new();
    if let Some(cursor) = cursor {
        notes.push(format!(
            "the cursor {} is not used: chunks bound what is read, and a backfill keeps no watermark",
            cursor.column
        ));
    }
    check_dialect(backfill.predicate_dialect, source_kind, origin)?;
    check_publication(backfill, origin)?;
    let inner = inner(spec, mode, soft_delete, null_keys, &mut notes, origin)?;
    let chunks = chunks(backfill, mode, origin)?;
    // Whatever is wrong with the range is wrong now, not when it is run.
    split(&chunks).map_err(|error| error.at(origin.tree.place(&at("chunk")).location()))?;
    let (workers, throttle) = pace(backfill, &mut notes, origin)?;
    if matches!(inner, InnerLoad::Merge { .. }) && workers > 1 {
        notes.push(
            "a key that occurs in two chunks keeps the row of the chunk that commits last: parallel_workers 1 keeps \
             the chunks in order"
                .to_owned(),
        );
    }
    Ok(Strategy::Backfill(Box::new(Backfill {
        inner,
        chunks,
        workers,
        id: backfill.backfill_id.clone().filter(|id| !id.is_empty()),
        retry: match backfill.retry_policy {
            None | Some(manifest::RetryPolicy::NonCommitted) => RetryPolicy::NonCommitted,
            Some(manifest::RetryPolicy::FailedOnly) => RetryPolicy::FailedOnly,
        },
        claim_ttl: Duration::from_secs(backfill.lease_ttl_minutes.unwrap_or(60).saturating_mul(60)),
        ledger: ledger(backfill, origin)?,
        throttle,
        notes,
    })))
}

fn inner(
    spec: &StrategySpec,
    mode: InnerMode,
    soft_delete: Option<crate::definition::SoftDelete>,
    null_keys: NullKeys,
    notes: &mut Vec<String>,
    origin: &Origin<'_>,
) -> Result<InnerLoad> {
    let key = spec.unique_key.as_ref().map(manifest::Names::list).unwrap_or_default();
    let only = |set: bool, name: &str, modes: &[InnerMode]| match set && !modes.contains(&mode) {
        false => Ok(()),
        true => {
            let path = format!("sink.strategy.{name}");
            let modes: Vec<_> = modes.iter().map(|m| m.as_str()).collect();
            Err(origin
                .error(&path, format!("{} has no meaning where inner_mode is {}", origin.term(&path), mode.as_str()))
                .with_hint(format!("it belongs to the inner_mode {}", modes.join(" or "))))
        }
    };
    use InnerMode::{FullRefresh, IncrementalAppend, IncrementalMerge, PartitionReplace, Replace};
    only(!key.is_empty(), "unique_key", &[IncrementalAppend, IncrementalMerge])?;
    only(spec.only_new_rows.is_some(), "only_new_rows", &[IncrementalAppend])?;
    only(spec.overwrite_type.is_some(), "overwrite_type", &[FullRefresh])?;
    only(spec.merge_policy.is_some(), "merge_policy", &[IncrementalMerge])?;
    only(spec.duplicate_policy.is_some(), "duplicate_policy", &[IncrementalMerge, IncrementalAppend])?;
    only(spec.order_by.is_some(), "order_by", &[IncrementalMerge])?;
    only(spec.null_keys.is_some(), "null_keys", &[IncrementalMerge])?;
    only(spec.soft_delete.is_some(), "soft_delete", &[IncrementalMerge])?;
    only(spec.partition.is_some(), "partition", &[PartitionReplace])?;
    let missing_key =
        |why: &str| origin.missing(KEY, why).with_hint("name the columns that tell rows apart, for example [id]");
    Ok(match mode {
        PartitionReplace => {
            if let Some(partition) = &spec.partition {
                partitions(partition, notes, origin)?;
            }
            InnerLoad::Replace { mode: mode.as_str() }
        }
        Replace => InnerLoad::Replace { mode: mode.as_str() },
        IncrementalAppend => {
            let only_new_rows = spec.only_new_rows.unwrap_or(false);
            if only_new_rows && key.is_empty() {
                return Err(missing_key("only_new_rows compares rows by it"));
            }
            duplicates(spec, origin)?;
            InnerLoad::Append { only_new_rows, key }
        }
        IncrementalMerge => {
            if key.is_empty() {
                return Err(missing_key("incremental_merge matches rows by their key"));
            }
            InnerLoad::Merge { key, duplicates: duplicates(spec, origin)?, null_keys, soft_delete }
        }
        FullRefresh => {
            InnerLoad::FullRefresh { overwrite: spec.overwrite_type.map(OverwriteType::from).unwrap_or_default() }
        }
    })
}

/// A chunk is exactly its window: that is what its partitions amount to, and no option may widen it.
fn partitions(partition: &manifest::PartitionSpec, notes: &mut Vec<String>, origin: &Origin<'_>) -> Result<()> {
    let refused = [
        ("value_expression", partition.value_expression.is_some()),
        ("expected", partition.expected.is_some()),
        ("require_native", partition.require_native == Some(true)),
        ("native_mode", partition.native_mode == Some(manifest::NativeMode::Required)),
        ("partition_function", partition.partition_function.is_some()),
        ("switch_out_schema", partition.switch_out_schema.is_some()),
        ("switch_out_table_template", partition.switch_out_table_template.is_some()),
    ];
    if let Some((name, _)) = refused.iter().find(|(_, set)| *set) {
        let path = format!("sink.strategy.partition.{name}");
        return Err(origin
            .error(
                &path,
                format!("{} has no meaning in a backfill: a chunk replaces exactly its window", origin.term(&path)),
            )
            .with_hint("remove it"));
    }
    notes.push(
        "each chunk replaces exactly the rows of its window, in every partition that they lie in: neighbouring chunks of \
         one partition keep their rows"
            .to_owned(),
    );
    Ok(())
}

fn check_dialect(dialect: Option<PredicateDialect>, source_kind: &str, origin: &Origin<'_>) -> Result<()> {
    let name = match dialect {
        None | Some(PredicateDialect::Generic) => return Ok(()),
        Some(PredicateDialect::Clickhouse) => "clickhouse",
        Some(PredicateDialect::Mssql) => "mssql",
        Some(PredicateDialect::Postgres) => "postgres",
    };
    if name == source_kind || source_kind == "sql" {
        return Ok(());
    }
    let path = at("predicate_dialect");
    Err(origin
        .error(&path, format!("{} is {name}, and the source is {source_kind}", origin.term(&path)))
        .with_hint("remove it: each source is asked in its own SQL"))
}

fn check_publication(backfill: &manifest::Backfill, origin: &Origin<'_>) -> Result<()> {
    let Some(publication) = &backfill.publication else { return Ok(()) };
    let refuse = |key: &str, what: &str| {
        let path = at(&format!("publication.{key}"));
        Err(origin.error(&path, format!("{} {what} is not supported by this version", origin.term(&path))).with_hint(
            "with direct, chunks are visible as they commit. To show all of them at once, load into another table and \
             swap it in when `dpone backfill status` says done, or use inner_mode full_refresh",
        ))
    };
    if publication.mode == Some(PublicationMode::ShadowSwap) {
        return refuse("mode", "shadow_swap");
    }
    if publication.artifact_scope == Some(manifest::ArtifactScope::Campaign) {
        return refuse("artifact_scope", "campaign");
    }
    Ok(())
}

fn ledger(backfill: &manifest::Backfill, origin: &Origin<'_>) -> Result<Ledger> {
    let state = backfill.state.as_ref();
    let backend = state.and_then(|s| s.backend).unwrap_or(BackfillBackend::LocalFile);
    let schema = state.and_then(|s| s.schema.clone());
    let wrong = |key: &str, why: &str, hint: &str| {
        let path = at(key);
        Err(origin.error(&path, format!("{} {why}", origin.term(&path))).with_hint(hint.to_owned()))
    };
    match backend {
        BackfillBackend::LocalFile => {
            if schema.is_some() {
                return wrong("state.schema", "belongs to the backend audit_schema", "write backend: audit_schema");
            }
            if state.is_some_and(|s| s.require_distributed_lock == Some(true)) {
                return wrong(
                    "state.require_distributed_lock",
                    "cannot be had from files of one machine",
                    "write backend: audit_schema, which several machines share",
                );
            }
            Ok(Ledger::LocalFile { dir: backfill.state_dir.clone() })
        }
        BackfillBackend::AuditSchema if backfill.state_dir.is_some() => {
            wrong("state_dir", "has no meaning with the backend audit_schema", "remove one of them")
        }
        BackfillBackend::AuditSchema => Ok(Ledger::AuditSchema { schema }),
    }
}

fn pace(backfill: &manifest::Backfill, notes: &mut Vec<String>, origin: &Origin<'_>) -> Result<(usize, Throttle)> {
    let mut workers = backfill.parallel_workers.unwrap_or(1).clamp(1, 256) as usize;
    let mut throttle = Throttle::default();
    if let Some(spec) = &backfill.throttle {
        let positive = |key: &str, value: Option<f64>, most: f64, expected: &str| match value {
            Some(v) if !(v > 0.0 && v <= most) => {
                let path = at(&format!("throttle.{key}"));
                Err(origin.error(&path, format!("{} is {v}; expected {expected}", origin.term(&path))))
            }
            other => Ok(other),
        };
        let pause =
            positive("pause_seconds", spec.pause_seconds.filter(|s| *s != 0.0), 86_400.0, "0 to 86400 seconds")?;
        throttle = Throttle {
            pause: pause.map(Duration::from_secs_f64),
            duty_cycle: positive("duty_cycle", spec.duty_cycle, 1.0, "a part of the time, above 0 and up to 1")?,
            max_rows_per_second: positive("max_rows_per_second", spec.max_rows_per_second, 1e12, "a number above 0")?,
        };
    }
    let asked = workers;
    match backfill.advisor.as_ref().and_then(|a| a.optimize_for).unwrap_or(OptimizeFor::Balanced) {
        OptimizeFor::Balanced | OptimizeFor::Speed => {}
        OptimizeFor::SourceSafety => {
            workers = 1;
            if throttle == Throttle::default() {
                throttle.duty_cycle = Some(0.5);
            }
            notes.push(format!(
                "optimize_for source_safety: 1 worker in place of {asked}{}",
                if throttle.duty_cycle == Some(0.5) { ", which pauses as long as it loads" } else { "" }
            ));
        }
        OptimizeFor::WorkerSafety => {
            workers = workers.min(2);
            notes.push(format!("optimize_for worker_safety: {workers} worker(s), {asked} asked for"));
        }
    }
    Ok((workers, throttle))
}

fn chunks(backfill: &manifest::Backfill, mode: InnerMode, origin: &Origin<'_>) -> Result<ChunkSpec> {
    let chunk = &backfill.chunk;
    let reader = Reader { chunk, origin };
    let stated = match &chunk.timezone {
        Some(name) => Some(Zone::new(name).map_err(|e| e.at(origin.tree.place(&at("chunk.timezone")).location()))?),
        None => None,
    };
    let (range, zone) = reader.range(stated, mode == InnerMode::FullRefresh)?;
    let nulls = match (chunk.null_chunk, backfill.null_chunk) {
        (Some(a), Some(b)) if a != b => {
            return Err(origin.error(&at("null_chunk"), "null_chunk is given twice, with two values"));
        }
        (a, b) => match a.or(b) {
            None | Some(NullChunkSpec::Fail) => NullChunk::Fail,
            Some(NullChunkSpec::Include) => NullChunk::Include,
        },
    };
    if mode == InnerMode::FullRefresh && nulls == NullChunk::Include && range != ChunkRange::Whole {
        return Err(origin
            .error(&at("chunk"), "a full refresh is one chunk: the rows without a value would be a second one")
            .with_hint("leave from and to out to load everything, or use inner_mode replace"));
    }
    let max_chunks = usize::try_from(backfill.max_chunks.unwrap_or(1000)).unwrap_or(usize::MAX);
    Ok(ChunkSpec { column: chunk.column.clone(), range, zone, nulls, max_chunks })
}

/// A bound of a time range.
enum When {
    Date(NaiveDate),
    Local(NaiveDateTime),
    Instant(DateTime<FixedOffset>),
}

struct Reader<'a> {
    chunk: &'a manifest::Chunk,
    origin: &'a Origin<'a>,
}

impl Reader<'_> {
    fn wrong(&self, key: &str, expected: &str, found: &str) -> crate::Error {
        let path = at(&format!("chunk.{key}"));
        self.origin.error(&path, format!("{} is {found:?}; expected {expected}", self.origin.term(&path)))
    }

    /// A bound as text, with its tokens filled in.
    fn bound(&self, key: &str, value: Option<&Scalar>) -> Result<Option<String>> {
        let Some(text) = value.map(|v| v.text().trim().to_owned()) else { return Ok(None) };
        if let Some(token) = text.find("{{").and_then(|i| text.get(i + 2..)).and_then(|rest| rest.split("}}").next()) {
            let name = token.trim();
            return Err(self
                .origin
                .error(&at(&format!("chunk.{key}")), format!("the token {{{{ {name} }}}} has no value"))
                .with_hint(format!("give it by --var {name}=…")));
        }
        Ok(Some(text))
    }

    fn range(&self, stated: Option<Zone>, one: bool) -> Result<(ChunkRange, Zone)> {
        let (from, to) = (self.bound("from", self.chunk.from.as_ref())?, self.bound("to", self.chunk.to.as_ref())?);
        let zone = stated.clone().unwrap_or_else(Zone::utc);
        if from.is_none() && to.is_none() && one && self.chunk.kind != Some(ChunkKind::Uuid) {
            self.no("step", self.chunk.step.is_some(), "a full refresh of everything is one chunk")?;
            return Ok((ChunkRange::Whole, zone));
        }
        if self.chunk.kind == Some(ChunkKind::Uuid) || (self.chunk.buckets.is_some() && self.chunk.kind.is_none()) {
            for (key, set) in [("from", from.is_some()), ("to", to.is_some()), ("step", self.chunk.step.is_some())] {
                self.no(key, set, "uuids are cut into buckets over all their values")?;
            }
            let buckets = if one { 1 } else { self.chunk.buckets.unwrap_or(16) };
            let buckets = u32::try_from(buckets).ok().filter(|n| *n > 0);
            return match buckets {
                Some(buckets) => Ok((ChunkRange::Uuids { buckets }, zone)),
                None => Err(self.wrong("buckets", "1 or more", &self.chunk.buckets.unwrap_or(0).to_string())),
            };
        }
        self.no("buckets", self.chunk.buckets.is_some(), "buckets are for uuids")?;
        let missing = |key: &str| self.origin.missing(&at(&format!("chunk.{key}")), "the range needs both ends");
        let (from, to) = (from.ok_or_else(|| missing("from"))?, to.ok_or_else(|| missing("to"))?);
        // Where one end is a number, the other is meant to be one.
        match (self.chunk.kind, is_number(&from)) {
            (Some(ChunkKind::Integer), _) | (None, true) => {
                let number = |key, text: &str| {
                    let expected = match is_number(text) {
                        true => "a whole number of 64 bits, -9223372036854775808 to 9223372036854775807",
                        false => "a whole number",
                    };
                    text.parse().map_err(|_| self.wrong(key, expected, text))
                };
                let (from, to) = (number("from", &from)?, number("to", &to)?);
                Ok((ChunkRange::Integers { from, to, step: self.integer_step(one)? }, zone))
            }
            (kind, _) => self.times(kind, (&from, &to), stated, one),
        }
    }

    fn no(&self, key: &str, set: bool, why: &str) -> Result<()> {
        let path = at(&format!("chunk.{key}"));
        if !set {
            return Ok(());
        }
        Err(self
            .origin
            .error(&path, format!("{} has no meaning: {why}", self.origin.term(&path)))
            .with_hint("remove it"))
    }

    fn times(
        &self,
        kind: Option<ChunkKind>,
        (from_text, to_text): (&str, &str),
        stated: Option<Zone>,
        one: bool,
    ) -> Result<(ChunkRange, Zone)> {
        let expected = match kind {
            Some(ChunkKind::Date) => "a date such as 2026-01-01",
            Some(_) => "a time such as 2026-01-01T00:00:00 or 2026-01-01T00:00:00Z",
            None => "a date, a time or a whole number; or set kind",
        };
        let read = |key, text: &str| when(text).ok_or_else(|| self.wrong(key, expected, text));
        let (from, to) = (read("from", from_text)?, read("to", to_text)?);
        // An offset in the bounds says what the clock is.
        let with_offset = matches!((&from, &to), (When::Instant(_), _) | (_, When::Instant(_)));
        let zone = match stated {
            Some(zone) => zone,
            None if with_offset => Zone::new("UTC")?,
            None => Zone::utc(),
        };
        let dates = matches!((&from, &to), (When::Date(_), When::Date(_)));
        if kind == Some(ChunkKind::Date) || (kind.is_none() && dates) {
            let day = |key, when: When, text: &str| {
                let local = match when {
                    When::Date(date) => return Ok(date),
                    When::Local(local) => local,
                    When::Instant(instant) => zone.of(instant.with_timezone(&Utc))?.local,
                };
                match local.time() == NaiveTime::MIN {
                    true => Ok(local.date()),
                    false => Err(self.wrong(key, "a date, as kind is date", text)),
                }
            };
            let (from, to) = (day("from", from, from_text)?, day("to", to, to_text)?);
            return Ok((ChunkRange::Dates { from, to, step: self.period(false, one)? }, zone));
        }
        let moment = |when| -> Result<Moment> {
            match when {
                When::Date(date) => zone.midnight(date),
                When::Local(local) => zone.at(local),
                When::Instant(instant) => zone.of(instant.with_timezone(&Utc)),
            }
        };
        let (from, to) = (moment(from)?, moment(to)?);
        Ok((ChunkRange::Moments { from, to, step: self.period(true, one)? }, zone))
    }

    /// The step as text; none where one chunk is loaded.
    fn step(&self, one: bool, example: &str) -> Result<Option<String>> {
        match &self.chunk.step {
            Some(_) if one => {
                self.no("step", true, "a full refresh is one chunk")?;
                Ok(None)
            }
            None if one => Ok(None),
            Some(step) => Ok(Some(step.text())),
            None => Err(self
                .origin
                .missing(&at("chunk.step"), "it says how large a chunk is")
                .with_hint(format!("for example {example}"))),
        }
    }

    fn integer_step(&self, one: bool) -> Result<Option<u64>> {
        let Some(text) = self.step(one, "step: 100000")? else { return Ok(None) };
        match text.trim().parse::<u64>().ok().filter(|n| *n > 0) {
            Some(step) => Ok(Some(step)),
            None => Err(self.wrong("step", "a whole number above 0, as the chunks are of integers", &text)),
        }
    }

    fn period(&self, hours: bool, one: bool) -> Result<Option<Period>> {
        let Some(text) = self.step(one, "step: 7d")? else { return Ok(None) };
        let expected = if hours { "a step such as 6h, 7d, 2w, 1mo or 1y" } else { "a step such as 7d, 2w, 1mo or 1y" };
        match Period::parse(&text) {
            Some(Period::Hours(_)) if !hours => {
                Err(self.wrong("step", &format!("{expected}: dates have no hours"), &text))
            }
            Some(step) => Ok(Some(step)),
            None => Err(self.wrong("step", expected, &text)),
        }
    }
}

/// Whether the text is a whole number, of whatever size.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn when(text: &str) -> Option<When> {
    if let Ok(date) = text.parse() {
        return Some(When::Date(date));
    }
    let text = text.replacen(' ', "T", 1);
    for format in ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z"] {
        if let Ok(instant) = DateTime::parse_from_str(&text, format) {
            return Some(When::Instant(instant));
        }
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(&text, format).ok())
        .map(When::Local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_an_offset() {
        for text in
            ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00+00:00", "2026-01-01T01:00+0100", "2026-01-01T00:00:00.5Z"]
        {
            assert!(matches!(when(text), Some(When::Instant(_))), "{text}");
        }
        for text in ["2026-01-01T00:00:00", "2026-01-01 00:00", "2026-01-01T00:00:00.250"] {
            assert!(matches!(when(text), Some(When::Local(_))), "{text}");
        }
        assert!(matches!(when("2026-01-01"), Some(When::Date(_))));
        for text in ["", "yesterday", "2026-13-01", "01.02.2026", "2026-01-01T25:00:00"] {
            assert!(when(text).is_none(), "{text}");
        }
    }
}
