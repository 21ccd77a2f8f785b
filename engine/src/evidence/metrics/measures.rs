//! From the reports of runs to numbers with names, units and labels.
//!
//! A report is read as far as it goes: what it does not say gives no measure. So the reports of other versions, and of
//! other tools that write this form, will do.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::Value;

pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What a run did: added up over the runs that share all labels.
    Counter,
    /// How things stand after the newest run with these labels.
    Gauge,
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// Without a suffix such as `_total`: that is each format's own.
    pub name: String,
    pub help: &'static str,
    /// In the notation of UCUM, as OpenTelemetry has it.
    pub unit: &'static str,
    pub kind: Kind,
    pub labels: Labels,
    pub value: f64,
    /// Of what happened: nanoseconds since 1970.
    pub started_at: Option<u64>,
    pub at: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Put on every measure; they win over what a report says.
    pub labels: Labels,
    /// Name the run: each run is then a series of its own.
    pub run_id: bool,
}

/// What is measured: all that the numbers of one name have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instrument {
    /// Without a suffix such as `_total`: that is each format's own.
    pub name: &'static str,
    pub help: &'static str,
    pub unit: &'static str,
    pub kind: Kind,
}

impl Instrument {
    pub const fn new(name: &'static str, help: &'static str, unit: &'static str, kind: Kind) -> Self {
        Self { name, help, unit, kind }
    }

    /// A number of it, with no time of its own.
    pub fn measure(&self, labels: Labels, value: f64) -> Measure {
        let Self { name, help, unit, kind } = *self;
        Measure { name: name.to_owned(), help, unit, kind, labels, value, started_at: None, at: None }
    }
}

/// Where in a report a number is read.
struct Field {
    pointer: &'static str,
    instrument: Instrument,
}

const fn field(pointer: &'static str, name: &'static str, help: &'static str, unit: &'static str, kind: Kind) -> Field {
    Field { pointer, instrument: Instrument::new(name, help, unit, kind) }
}

const THROUGHPUT: Instrument = Instrument::new(
    "dpone_throughput_rows_per_second",
    "Rows that the source gave, by the time of the run.",
    "{row}/s",
    Kind::Gauge,
);
const PASSED: Instrument =
    Instrument::new("dpone_run_passed", "1 where the run did all that was asked for, else 0.", "1", Kind::Gauge);
const FINISHED: Instrument = Instrument::new(
    "dpone_run_finished_timestamp_seconds",
    "When the run ended, in seconds since 1970.",
    "s",
    Kind::Gauge,
);
const ERRORS: Instrument =
    Instrument::new("dpone_errors", "Errors that ended a run, by their class.", "{error}", Kind::Counter);
const RETRIES: Instrument = Instrument::new(
    "dpone_retries",
    "Attempts that failed and were made again, by the class of the error.",
    "{retry}",
    Kind::Counter,
);
const WARNINGS: Instrument = Instrument::new("dpone_warnings", "Notes of the run.", "{note}", Kind::Counter);
const STAGE: Instrument =
    Instrument::new("dpone_stage_duration_seconds", "How long the run was in each of its stages.", "s", Kind::Gauge);

/// Everything that [`measures`] can find in a report.
pub fn instruments() -> impl Iterator<Item = Instrument> {
    let others = [THROUGHPUT, PASSED, FINISHED, ERRORS, RETRIES, WARNINGS, STAGE];
    FIELDS.iter().map(|field| field.instrument).chain(others)
}

const FIELDS: &[Field] = &[
    field("/result/extracted_rows", "dpone_extracted_rows", "Rows that the source gave.", "{row}", Kind::Counter),
    field("/result/staged_rows", "dpone_staged_rows", "Rows that were staged.", "{row}", Kind::Counter),
    field("/result/inserted_rows", "dpone_inserted_rows", "Rows inserted into the target.", "{row}", Kind::Counter),
    field(
        "/result/updated_rows",
        "dpone_updated_rows",
        "Rows of the target that were updated.",
        "{row}",
        Kind::Counter,
    ),
    field("/result/deleted_rows", "dpone_deleted_rows", "Rows deleted from the target.", "{row}", Kind::Counter),
    field(
        "/result/unchanged_rows",
        "dpone_unchanged_rows",
        "Rows that were as they are to be.",
        "{row}",
        Kind::Counter,
    ),
    field("/result/quarantined_rows", "dpone_quarantined_rows", "Rows that were left out.", "{row}", Kind::Counter),
    field("/result/skipped_rows", "dpone_skipped_rows", "Rows that an earlier run had loaded.", "{row}", Kind::Counter),
    field("/result/bytes", "dpone_staged_bytes", "Bytes sent to staging.", "By", Kind::Counter),
    field("/attempts", "dpone_attempts", "Attempts at loading.", "{attempt}", Kind::Counter),
    field("/result/final_rows", "dpone_final_rows", "Rows of the target after the run.", "{row}", Kind::Gauge),
    field("/result/duration_seconds", "dpone_duration_seconds", "How long the run took.", "s", Kind::Gauge),
    field("/max_attempts", "dpone_max_attempts", "Attempts that a run may make.", "{attempt}", Kind::Gauge),
    field("/retry_backoff_seconds", "dpone_retry_backoff_seconds", "The longest first wait.", "s", Kind::Gauge),
];

/// The measures of all runs in these reports, which may be in any order.
pub fn measures(reports: &[Value], options: &Options) -> Vec<Measure> {
    let mut runs: Vec<&Value> = Vec::new();
    for report in reports {
        match report.get("runs").and_then(Value::as_array) {
            Some(several) => runs.extend(several),
            None => runs.push(report),
        }
    }
    runs.sort_by_key(|run| time(run.get("started_at")).unwrap_or_default());
    let mut all = Measured::default();
    for run in runs {
        of_run(run, options, &mut all);
    }
    all.0
}

#[derive(Default)]
struct Measured(Vec<Measure>);

impl Measured {
    /// A counter is added to what earlier runs counted; a gauge takes the place of theirs.
    fn add(&mut self, new: Measure) {
        let same = |old: &&mut Measure| old.name == new.name && old.labels == new.labels;
        match self.0.iter_mut().find(same) {
            Some(old) => {
                if new.kind == Kind::Counter {
                    old.value += new.value;
                } else {
                    old.value = new.value;
                }
                old.at = new.at.max(old.at);
            }
            None => self.0.push(new),
        }
    }
}

fn of_run(run: &Value, options: &Options, all: &mut Measured) {
    let labels = labels(run, options);
    let started_at = time(run.get("started_at"));
    let at = time(run.get("finished_at")).or(started_at);
    let mut add = |instrument: &Instrument, more: &[(&str, &str)], value: f64| {
        let mut labels = labels.clone();
        labels.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        all.add(Measure { started_at, at, ..instrument.measure(labels, value) });
    };
    for field in FIELDS {
        if let Some(value) = run.pointer(field.pointer).and_then(Value::as_f64) {
            add(&field.instrument, &[], value);
        }
    }
    let per_second = run.pointer("/result/rows_per_second").and_then(Value::as_f64);
    let rows = run.pointer("/result/extracted_rows").and_then(Value::as_f64);
    let seconds = run.pointer("/result/duration_seconds").and_then(Value::as_f64).filter(|s| *s > 0.0);
    if let Some(value) = per_second.or_else(|| Some(rows? / seconds?)) {
        add(&THROUGHPUT, &[], value);
    }
    if let Some(passed) = run.get("passed").and_then(Value::as_bool) {
        add(&PASSED, &[], f64::from(u8::from(passed)));
    }
    if let Some(end) = time(run.get("finished_at")) {
        add(&FINISHED, &[], end as f64 / 1e9);
    }
    if let Some(errors) = run.pointer("/result/errors").and_then(Value::as_array) {
        let class = run.pointer("/result/error_class").and_then(Value::as_str);
        match (errors.len(), class) {
            (0, _) | (_, None) => add(&ERRORS, &[], errors.len() as f64),
            (n, Some(class)) => add(&ERRORS, &[("error_class", class)], n as f64),
        }
    }
    for retry in list(run, "retries") {
        let class = retry.get("error_class").and_then(Value::as_str).unwrap_or("unknown");
        add(&RETRIES, &[("error_class", class)], 1.0);
    }
    let told = [run.get("notes"), run.pointer("/result/warnings")];
    for notes in told.into_iter().flatten().filter_map(Value::as_array) {
        add(&WARNINGS, &[], notes.len() as f64);
    }
    let mut stages: BTreeMap<&str, f64> = BTreeMap::new();
    for stage in list(run, "stages") {
        if let (Some(name), Some(seconds)) = (text(stage, "stage"), stage.get("seconds").and_then(Value::as_f64)) {
            *stages.entry(name).or_default() += seconds;
        }
    }
    for (stage, seconds) in stages {
        add(&STAGE, &[("stage", stage)], seconds);
    }
}

fn labels(run: &Value, options: &Options) -> Labels {
    let mut labels = Labels::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            labels.insert(name.to_owned(), value);
        }
    };
    put("pipeline", text(run, "process").map(str::to_owned));
    put("source", systems(run, "source"));
    put("sink", systems(run, "sink"));
    let strategy = run.pointer("/plan/strategy").or_else(|| run.pointer("/result/details/strategy"));
    put("strategy", strategy.and_then(Value::as_str).map(str::to_owned));
    if options.run_id {
        put("run_id", text(run, "run_id").map(str::to_owned));
    }
    labels.extend(options.labels.clone());
    labels
}

/// `postgres`; of a query over several systems `delta+postgres`.
fn systems(run: &Value, role: &str) -> Option<String> {
    let mut found: Vec<&str> = list(run, "connections")
        .filter(|used| text(used, "role") == Some(role))
        .filter_map(|used| text(used, "system"))
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then(|| found.join("+"))
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// Nanoseconds since 1970 of an RFC 3339 time.
pub(super) fn time(value: Option<&Value>) -> Option<u64> {
    let time = DateTime::parse_from_rfc3339(value?.as_str()?).ok()?;
    time.timestamp_nanos_opt().and_then(|nanos| u64::try_from(nanos).ok())
}

/// Whether Prometheus takes this for a metric's name.
pub fn check_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// Whether Prometheus takes this for a label's name: those that begin with two underscores are its own.
pub fn check_label(name: &str) -> bool {
    check_name(name) && !name.contains(':') && !name.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(run_id: &str, started_at: &str, inserted: u64, passed: bool) -> Value {
        json!({
            "process": "orders", "run_id": run_id, "passed": passed, "started_at": started_at, "attempts": 2,
            "connections": [{"role": "source", "system": "postgres"}, {"role": "sink", "system": "delta"}],
            "plan": {"strategy": "incremental_merge"},
            "retries": [{"error_class": "transient"}],
            "stages": [{"stage": "stage", "seconds": 1.0}, {"stage": "stage", "seconds": 2.0}],
            "result": {"inserted_rows": inserted, "extracted_rows": 10, "duration_seconds": 4.0, "errors": []},
        })
    }

    fn value(all: &[Measure], name: &str) -> Vec<f64> {
        all.iter().filter(|m| m.name == name).map(|m| m.value).collect()
    }

    #[test]
    fn counters_add_up_and_gauges_are_of_the_newest_run() {
        let reports = [report("b", "2026-01-02T00:00:00Z", 5, true), report("a", "2026-01-01T00:00:00Z", 3, false)];
        let all = measures(&reports, &Options::default());
        assert_eq!(value(&all, "dpone_inserted_rows"), [8.0]);
        assert_eq!(value(&all, "dpone_run_passed"), [1.0]);
        assert_eq!(value(&all, "dpone_stage_duration_seconds"), [3.0]);
        assert_eq!(value(&all, "dpone_throughput_rows_per_second"), [2.5]);
        assert_eq!(value(&all, "dpone_retries"), [2.0]);
        let each = measures(&reports, &Options { run_id: true, ..Options::default() });
        assert_eq!(value(&each, "dpone_inserted_rows"), [3.0, 5.0]);
        assert!(all.iter().all(|m| instruments().any(|i| i.name == m.name && i.kind == m.kind)));
        let labels = &all[0].labels;
        let want =
            [("pipeline", "orders"), ("sink", "delta"), ("source", "postgres"), ("strategy", "incremental_merge")];
        assert_eq!(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
    }

    #[test]
    fn what_a_report_does_not_say_is_no_measure() {
        let all = measures(&[json!({"process": "p", "result": {"inserted_rows": 1}})], &Options::default());
        assert_eq!(all.len(), 1);
        assert!(measures(&[json!({"runs": []})], &Options::default()).is_empty());
    }

    #[test]
    fn names_are_those_that_prometheus_takes() {
        for good in ["a", "_a1", "a:b"] {
            assert!(check_name(good), "{good}");
        }
        for wrong in ["", "1a", "a-b", "ä"] {
            assert!(!check_name(wrong), "{wrong}");
        }
        assert!(check_label("ci_run_id") && !check_label("__x") && !check_label("a:b"));
    }
}
