//! A run as a trace: a span for the run, one for each of its pipelines, and one for each stage of those.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use dpone_planner::state::hex;

use super::measures::{Labels, list, text, time};
use super::otlp::{Resource, attributes, scope};

const INTERNAL: u8 = 1;
const OK: u8 = 1;
const ERROR: u8 = 2;

/// The span that a run is a part of: that of the scheduler which started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
}

/// A piece of time in which one thing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub parent_id: Option<[u8; 8]>,
    pub name: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub labels: Labels,
    /// What went wrong, as the class of an error or a status.
    pub error: Option<String>,
}

/// An `ExportTraceServiceRequest` with one trace a run.
pub fn traces(reports: &[Value], resource: &Resource, labels: &Labels) -> Value {
    let spans: Vec<Value> = spans(reports, labels, None).iter().map(Span::value).collect();
    json!({
        "resourceSpans": [{
            "resource": resource.value(),
            "scopeSpans": [{ "scope": scope(), "spans": spans, "schemaUrl": "" }],
            "schemaUrl": "",
        }],
    })
}

/// The spans of one trace a run, or of all in the trace of `parent`. A report that does not say when it began has none. Ids
/// are made of what they stand for: the same report gives the same spans.
pub fn spans(reports: &[Value], labels: &Labels, parent: Option<Parent>) -> Vec<Span> {
    reports.iter().flat_map(|report| of_report(report, labels, parent)).collect()
}

fn id<const BYTES: usize>(parts: &[&[u8]]) -> [u8; BYTES] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
        digest.update(b"\n");
    }
    let digest = digest.finalize();
    let mut id = [0; BYTES];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    id
}

impl Span {
    fn value(&self) -> Value {
        let status = match &self.error {
            Some(message) => json!({ "message": message, "code": ERROR }),
            None => json!({ "message": "", "code": OK }),
        };
        json!({
            "traceId": hex(&self.trace_id),
            "spanId": hex(&self.span_id),
            "traceState": "",
            "parentSpanId": self.parent_id.map(|id| hex(&id)).unwrap_or_default(),
            "flags": 0,
            "name": self.name,
            "kind": INTERNAL,
            "startTimeUnixNano": self.start.to_string(),
            "endTimeUnixNano": self.end.to_string(),
            "attributes": attributes(&self.labels),
            "droppedAttributesCount": 0,
            "events": [],
            "droppedEventsCount": 0,
            "links": [],
            "droppedLinksCount": 0,
            "status": status,
        })
    }

    /// A span inside of this one.
    fn child(&self, what: &str, name: &str, begun: Option<u64>, ended: Option<u64>) -> Self {
        let start = begun.unwrap_or(self.start);
        Self {
            trace_id: self.trace_id,
            span_id: id(&[what.as_bytes(), &self.span_id, name.as_bytes()]),
            parent_id: Some(self.span_id),
            name: format!("{what} {name}"),
            start,
            end: ended.unwrap_or(self.end).max(start),
            labels: self.labels.clone(),
            error: None,
        }
    }
}

fn of_report(report: &Value, labels: &Labels, parent: Option<Parent>) -> Vec<Span> {
    let Some(start) = time(report.get("started_at")) else { return Vec::new() };
    let run_id = text(report, "run_id").unwrap_or_default();
    let began = text(report, "started_at").unwrap_or_default();
    let own: [u8; 16] = id(&[b"trace", run_id.as_bytes(), began.as_bytes()]);
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
        trace_id: parent.map_or(own, |parent| parent.trace_id),
        span_id: id(&[b"run", &own]),
        parent_id: parent.map(|parent| parent.span_id),
        name: "dpone run".to_owned(),
        start,
        end: end.max(start),
        labels: about,
        error: failed.or_else(|| unfinished(report)),
    };
    let mut spans = vec![root.clone()];
    for (n, run) in runs.into_iter().enumerate() {
        of_pipeline(run, n, &root, &mut spans);
    }
    spans
}

fn of_pipeline(run: &Value, n: usize, root: &Span, spans: &mut Vec<Span>) {
    let name = text(run, "process").unwrap_or_default();
    let mut pipeline = root.child("pipeline", name, time(run.get("started_at")), time(run.get("finished_at")));
    // Two pipelines of two files may have one name.
    pipeline.span_id = id(&[b"pipeline", &root.span_id, name.as_bytes(), n.to_string().as_bytes()]);
    pipeline.labels.insert("dpone.pipeline".to_owned(), name.to_owned());
    for key in ["strategy", "source", "target", "load_id"] {
        if let Some(value) = run.pointer(&format!("/plan/{key}")).and_then(Value::as_str) {
            pipeline.labels.insert(format!("dpone.{key}"), value.to_owned());
        }
    }
    pipeline.error = failure(run).or_else(|| unfinished(run));
    spans.push(pipeline.clone());
    for (n, stage) in list(run, "stages").enumerate() {
        let begun = time(stage.get("started_at")).unwrap_or(pipeline.start);
        let seconds = stage.get("seconds").and_then(Value::as_f64);
        let ended = seconds.map(|seconds| begun + (seconds * 1e9) as u64);
        let mut span = pipeline.child("stage", text(stage, "stage").unwrap_or_default(), Some(begun), ended);
        span.span_id = id(&[b"stage", &pipeline.span_id, n.to_string().as_bytes()]);
        if let Some(attempt) = stage.get("attempt").and_then(Value::as_u64) {
            span.labels.insert("dpone.attempt".to_owned(), attempt.to_string());
        }
        span.error = seconds.is_none().then(|| "not ended".to_owned());
        spans.push(span);
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
