//! `mode: backfill`, at both front doors.

use super::*;
use crate::chunk::{Bound, ChunkRange, NullChunk, Period, split};

fn yaml(backfill: &str) -> String {
    format!(
        "name: orders\nsource:\n  type: postgres\n  connection_type: env\n  connection_id: SRC\n  table: {{schema: public, \
         name: orders}}\nsink:\n  type: postgres\n  connection_type: env\n  connection_id: DWH\n  table: {{schema: landing, \
         name: orders}}\n  strategy:\n    mode: backfill\n{backfill}"
    )
}

fn chunk(chunk: &str) -> String {
    yaml(&format!("    backfill:\n      chunk: {{{chunk}}}\n"))
}

fn backfill_of(pipeline: Pipeline) -> Backfill {
    match pipeline.strategy {
        Strategy::Backfill(backfill) => *backfill,
        other => panic!("{other:?}"),
    }
}

fn backfill(text: &str) -> Backfill {
    backfill_of(pipeline("m.yml", text))
}

fn refused(text: &str) -> String {
    error("m.yml", text)
}

#[test]
fn the_example_of_the_contract_says_what_it_always_said() {
    let loaded = backfill(include_str!("examples/orders_backfill.yml"));
    assert_eq!(loaded.inner, InnerLoad::Replace { mode: "partition_replace" });
    assert_eq!((loaded.workers, loaded.retry), (4, RetryPolicy::NonCommitted));
    assert_eq!(loaded.ledger, Ledger::LocalFile { dir: None });
    assert_eq!(loaded.claim_ttl.as_secs(), 3600);
    let chunks = split(&loaded.chunks).unwrap();
    assert_eq!(chunks.len(), 13);
    assert_eq!(chunks[12].upper, Some(Bound::Date("2026-04-01".parse().unwrap())));
}

#[test]
fn the_kind_follows_from_the_values() {
    let range = |text: &str| backfill(&chunk(text)).chunks.range;
    let kind = |text: &str| range(text).kind();
    assert_eq!(kind("column: c, from: 2026-01-01, to: 2026-01-31, step: 7d"), "date");
    assert_eq!(kind("column: c, from: '2026-01-01T00:00:00', to: 2026-01-31, step: 7d"), "timestamp");
    assert_eq!(kind("column: c, from: 2026-01-01, to: 2026-01-31, step: 6h, kind: timestamp"), "timestamp");
    assert_eq!(kind("column: c, from: 1, to: 1000000, step: 50000"), "integer");
    assert_eq!(kind("column: c, buckets: 8"), "uuid");
    assert_eq!(range("column: c, kind: uuid"), ChunkRange::Uuids { buckets: 16 });
    // A scheduler's interval has a time of day.
    assert_eq!(
        range("column: c, from: '2026-01-01T00:00:00+00:00', to: '2026-01-31T00:00:00+00:00', step: 1mo, kind: date"),
        ChunkRange::Dates {
            from: "2026-01-01".parse().unwrap(),
            to: "2026-01-31".parse().unwrap(),
            step: Some(Period::Months(1))
        }
    );
    let zoned = backfill(&chunk(
        "column: c, from: '2026-03-01T00:00', to: '2026-04-01T00:00', step: 1d, timezone: Europe/Berlin",
    ));
    let ChunkRange::Moments { from, .. } = zoned.chunks.range else { panic!() };
    assert_eq!(from.instant.to_rfc3339(), "2026-02-28T23:00:00+00:00");
}

#[test]
fn tokens_of_a_scheduler_are_variables() {
    let yaml = chunk("column: c, from: '{{ data_interval_start }}', to: '{{ data_interval_end }}', step: 1d");
    let sql = "CREATE CONNECTION shop TYPE postgres; CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'w');
         CREATE PIPELINE orders INTO lake.landing.orders STRATEGY backfill OPTIONS (
           'backfill.chunk.column' 'c', 'backfill.chunk.from' '{{ data_interval_start }}',
           'backfill_chunk_to' '{{ data_interval_end }}', 'backfill.chunk.step' '1d')
         AS SELECT * FROM shop.public.orders";
    let vars = [("data_interval_start", "2026-01-01"), ("data_interval_end", "2026-01-05")];
    for (file, text) in [("m.yml", yaml.as_str()), ("p.sql", sql)] {
        let mut project = load_with(&[(file, text)], &vars, &no_files).unwrap();
        assert_eq!(split(&backfill_of(project.pipelines.remove(0)).chunks).unwrap().len(), 5, "{file}");
        let missing = error(file, text);
        assert!(missing.contains("data_interval_start") && missing.contains("--var data_interval_start="), "{missing}");
    }
}

#[test]
fn sql_has_the_same_options() {
    let pipeline = pipeline(
        "p.sql",
        "CREATE CONNECTION shop TYPE postgres; CREATE CONNECTION dwh TYPE postgres;
         CREATE PIPELINE orders INTO dwh.landing.orders STRATEGY backfill KEY (id) OPTIONS (
           'backfill.inner_mode' 'incremental_merge', 'backfill.chunk.column' 'id', 'backfill.chunk.from' '1',
           'backfill.chunk.to' '100', 'backfill.chunk.step' '10', 'backfill.parallel_workers' '4',
           'backfill.state.backend' 'audit_schema', 'backfill.state.schema' 'audit', 'backfill.throttle.duty_cycle' '0.5',
           'backfill.null_chunk' 'include', 'backfill.backfill_id' 'first')
         AS SELECT * FROM shop.public.orders",
    );
    let loaded = backfill_of(pipeline);
    assert_eq!(loaded.inner.mode(), "incremental_merge");
    assert_eq!(loaded.inner.key(), ["id"]);
    assert_eq!((loaded.workers, loaded.id.as_deref()), (4, Some("first")));
    assert_eq!(loaded.ledger, Ledger::AuditSchema { schema: Some("audit".into()) });
    assert_eq!(loaded.throttle.duty_cycle, Some(0.5));
    assert_eq!(loaded.chunks.nulls, NullChunk::Include);
    assert_eq!(split(&loaded.chunks).unwrap().len(), 11);
}

#[test]
fn a_full_refresh_is_one_chunk() {
    let one = |more: &str| {
        backfill(&yaml(&format!("    backfill:\n      inner_mode: full_refresh\n      chunk: {{column: c{more}}}\n")))
            .chunks
    };
    assert_eq!(one("").range, ChunkRange::Whole);
    assert_eq!(split(&one(", from: 2026-01-01, to: 2026-12-31")).unwrap().len(), 1);
}

#[test]
fn what_spares_the_source_is_said() {
    let safe = backfill(&yaml(
        "    backfill:\n      parallel_workers: 8\n      advisor: {optimize_for: source_safety}\n      chunk: {column: c, \
         from: 1, to: 9, step: 3}\n",
    ));
    assert_eq!((safe.workers, safe.throttle.duty_cycle), (1, Some(0.5)));
    assert!(safe.notes.iter().any(|note| note.contains("1 worker in place of 8")), "{:?}", safe.notes);
}

#[test]
fn ranges_that_hold_nothing_or_too_much_are_refused() {
    let cases = [
        ("column: c, from: 2026-02-01, to: 2026-01-01, step: 7d", "the range is empty"),
        ("column: c, from: '2026-01-01T00:00:00', to: '2026-01-01T00:00:00', step: 1h", "the range is empty"),
        ("column: c, from: 10, to: 1, step: 1", "the range is empty"),
        ("column: c, from: 2000-01-01, to: 2026-01-01, step: 1d", "9498 chunks, and max_chunks is 1000"),
        ("column: c, from: 2026-01-01, to: 2026-01-31", "backfill.chunk.step is missing"),
        ("column: c, from: 2026-01-01, step: 1d", "backfill.chunk.to is missing"),
        ("column: c, step: 1d", "backfill.chunk.from is missing"),
        ("column: c, from: 2026-01-01, to: 2026-01-31, step: 7", "expected a step such as 7d"),
        ("column: c, from: 2026-01-01, to: 2026-01-31, step: 6h", "dates have no hours"),
        ("column: c, from: 1, to: 9, step: 1d", "a whole number above 0"),
        ("column: c, from: 1, to: 9, step: 0", "a whole number above 0"),
        ("column: c, from: soon, to: later, step: 1d", "expected a date"),
        ("column: c, from: 2026-01-01, to: 2026-02-01, step: 1d, timezone: Mars", "there is no time zone"),
        ("column: c, kind: integer, from: 1, to: 9, step: 1, buckets: 3", "buckets are for uuids"),
        ("column: c, kind: uuid, from: 1, to: 2", "no meaning"),
        ("from: 1, to: 9, step: 1", "column"),
    ];
    for (text, says) in cases {
        let message = refused(&chunk(text));
        assert!(message.contains(says) && message.starts_with("m.yml:"), "{text}\n{message}");
    }
}

#[test]
fn options_of_another_inner_mode_and_of_another_version_are_refused() {
    let chunk = "      chunk: {column: c, from: 1, to: 9, step: 3}\n";
    let with = |strategy: &str, more: &str| refused(&yaml(&format!("{strategy}    backfill:\n{chunk}{more}")));
    let cases = [
        (with("    unique_key: [id]\n", ""), "inner_mode is partition_replace"),
        (with("    only_new_rows: true\n", "      inner_mode: replace\n"), "inner_mode is replace"),
        (with("", "      inner_mode: incremental_merge\n"), "unique_key is missing"),
        (with("    partition: {column: c, value_expression: x}\n", ""), "replaces exactly its window"),
        (with("", "      publication: {mode: shadow_swap}\n"), "shadow_swap is not supported"),
        (with("", "      predicate_dialect: mssql\n"), "the source is postgres"),
        (with("", "      state: {schema: audit}\n"), "belongs to the backend audit_schema"),
        (with("", "      state: {require_distributed_lock: true}\n"), "audit_schema"),
        (with("", "      state: {backend: audit_schema}\n      state_dir: x\n"), "has no meaning"),
        (with("", "      throttle: {duty_cycle: 1.5}\n"), "expected a part of the time"),
        (with("", "      parallel_workers: 257\n"), "256"),
    ];
    for (message, says) in cases {
        assert!(message.contains(says), "expected {says}:\n{message}");
    }
}

#[test]
fn the_end_that_is_wrong_is_named() {
    let at = |text: &str, key: &str| {
        let shown = refused(&chunk(text));
        assert!(shown.contains(&format!("backfill.chunk.{key} is")), "{text}: {shown}");
        shown
    };
    let shown = at("column: c, from: 1, to: 99999999999999999999, step: 5", "to");
    assert!(shown.contains("64 bits"), "{shown}");
    at("column: c, from: -99999999999999999999, to: 5, step: 5", "from");
    at("column: c, from: 1, to: ten, step: 5", "to");
    at("column: c, from: 2026-01-01, to: 5, step: 5d", "to");
    at("column: c, from: yesterday, to: 2026-01-01, step: 5d", "from");
}
