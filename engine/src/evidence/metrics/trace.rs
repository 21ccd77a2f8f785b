//! A run as a trace: a span for the run, one for each of its pipelines, and one for each stage of those.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use dpone_planner::state::hex;

use super::measures::{Labels, list, text, time};
use super::otlp::{Resource, attributes, scope};

const INTERNAL: u8 = 1;
const OK: u8 = 1;
const ERROR: u8 = 2;

/// An `ExportTraceServiceRequest` with one trace a run. A report that does not say when it began has no trace. Ids are made
/// of what they stand for: the same report gives the same trace.
pub fn traces(reports: &[Value], resource: &Resource, labels: &Labels) -> Value {
    let spans: Vec<Value> = reports.iter().flat_map(|report| of_report(report, labels)).collect();
    json!({
        "resourceSpans": [{
            "resource": resource.value(),
            "scopeSpans": [{ "scope": scope(), "spans": spans, "schemaUrl": "" }],
            "schemaUrl": "",
        }],
    })
}

fn id(parts: &[&str], bytes: usize) -> String {
    let digest = Sha256::digest(parts.join("\n").as_bytes());
    hex(digest.get(..bytes).unwrap_or_default())
}

struct Span<'a> {
    trace: &'a str,
    id: String,
    parent: &'a str,
    name: String,
    start: u64,
    end: u64,
    labels: Labels,
    error: Option<String>,
}

impl Span<'_> {
    fn value(&self) -> Value {
        let status = match &self.error {
            Some(message) => json!({ "message": message, "code": ERROR }),
            None => json!({ "message": "", "code": OK }),
        };
        json!({
            "traceId": self.trace,
            "spanId": self.id,
            "traceState": "",
            "parentSpanId": self.parent,
            "flags": 0,
            "name": self.name,
            "kind": INTERNAL,
            "startTimeUnixNano": self.start.to_string(),
            "endTimeUnixNano": self.end.max(self.start).to_string(),
            "attributes": attributes(&self.labels),
            "droppedAttributesCount": 0,
            "events": [],
            "droppedEventsCount": 0,
            "links": [],
            "droppedLinksCount": 0,
            "status": status,
        })
    }
}

fn of_report(report: &Value, labels: &Labels) -> Vec<Value> {
    let Some(start) = time(report.get("started_at")) else { return Vec::new() };
    let run_id = text(report, "run_id").unwrap_or_default();
    let began = text(report, "started_at").unwrap_or_default();
    let trace = id(&["trace", run_id, began], 16);
    // A run that was killed ends where it was heard of last.
    let end = time(report.get("finished_at")).or_else(|| time(report.get("updated_at"))).unwrap_or(start);
    let runs: Vec<&Value> = match report.get("runs") {
        Some(_) => list(report, "runs").collect(),
        None => vec![report],
    };
    let failed = runs.iter().find_map(|run| failure(run));
    let mut about = labels.clone();
    about.insert("dpone.run_id".to_owned(), run_id.to_owned());
    let root = Span {
        trace: &trace,
        id: id(&["run", &trace], 8),
        parent: "",
        name: "dpone run".to_owned(),
        start,
        end,
        labels: about.clone(),
        error: failed.or_else(|| unfinished(report)),
    };
    let mut spans = vec![root.value()];
    for run in runs {
        of_pipeline(run, &root, &about, &mut spans);
    }
    spans
}

fn of_pipeline(run: &Value, root: &Span<'_>, about: &Labels, spans: &mut Vec<Value>) {
    let name = text(run, "process").unwrap_or_default();
    let start = time(run.get("started_at")).unwrap_or(root.start);
    let end = time(run.get("finished_at")).unwrap_or(root.end);
    let mut labels = about.clone();
    labels.insert("dpone.pipeline".to_owned(), name.to_owned());
    let plan = |key: &str| run.pointer(&format!("/plan/{key}")).and_then(Value::as_str).map(str::to_owned);
    for key in ["strategy", "source", "target", "load_id"] {
        if let Some(value) = plan(key) {
            labels.insert(format!("dpone.{key}"), value);
        }
    }
    let pipeline = Span {
        trace: root.trace,
        id: id(&["pipeline", root.trace, name], 8),
        parent: &root.id,
        name: format!("pipeline {name}"),
        start,
        end,
        labels: labels.clone(),
        error: failure(run).or_else(|| unfinished(run)),
    };
    spans.push(pipeline.value());
    let stages: Vec<&Value> = list(run, "stages").collect();
    for (n, stage) in stages.iter().enumerate() {
        let stage_name = text(stage, "stage").unwrap_or_default();
        let begun = time(stage.get("started_at")).unwrap_or(start);
        let seconds = stage.get("seconds").and_then(Value::as_f64);
        let ended = seconds.map_or(end, |seconds| begun + (seconds * 1e9) as u64);
        let mut labels = labels.clone();
        if let Some(attempt) = stage.get("attempt").and_then(Value::as_u64) {
            labels.insert("dpone.attempt".to_owned(), attempt.to_string());
        }
        let span = Span {
            trace: root.trace,
            id: id(&["stage", &pipeline.id, &n.to_string()], 8),
            parent: &pipeline.id,
            name: format!("stage {stage_name}"),
            start: begun,
            end: ended,
            labels,
            error: seconds.is_none().then(|| "not ended".to_owned()),
        };
        spans.push(span.value());
    }
}

/// The class of the error, never its message: traces travel further than logs.
fn failure(run: &Value) -> Option<String> {
    let class = run.pointer("/result/error_class").and_then(Value::as_str);
    let failed = run.get("passed").and_then(Value::as_bool) == Some(false) && run.get("runs").is_none();
    class.map(str::to_owned).or_else(|| {
        let status = text(run, "status").filter(|status| *status != "running");
        status.filter(|_| failed).map(str::to_owned)
    })
}

fn unfinished(run: &Value) -> Option<String> {
    (text(run, "status") == Some("running")).then(|| "not ended".to_owned())
}
