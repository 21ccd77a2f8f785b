//! The files of `dpone observability metrics-export`.

use std::path::{Path, PathBuf};

use chrono::{SecondsFormat, Utc};
use dpone_engine::evidence::DEFAULT_RUNS;
use dpone_engine::evidence::metrics::{
    self, Kind, Labels, Measure, Options, Resource, machine, markdown, measures, otlp_metrics, otlp_traces,
};
use dpone_engine::{Error, Result};
use dpone_planner::state::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::Format;
use crate::exit::Exit;
use crate::output;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) reports: Vec<PathBuf>,
    pub(crate) output_dir: PathBuf,
    pub(crate) labels: Labels,
    pub(crate) metrics: Vec<(String, f64)>,
    pub(crate) resource_attributes: Labels,
    pub(crate) service_name: String,
    pub(crate) namespace: String,
    pub(crate) run_id: bool,
}

/// The reports that were found, and what is in the way of an export.
#[derive(Default)]
struct Found {
    reports: Vec<Value>,
    /// Names of what is in the way; `problems` says it in full.
    blockers: Vec<&'static str>,
    problems: Vec<String>,
}

/// A report is far smaller.
const MAX_REPORT_BYTES: u64 = 256 << 20;

pub(crate) fn export(request: &Request, format: Format) -> Result<Exit> {
    let Found { reports, mut blockers, mut problems } = find(request);
    let options = Options { labels: request.labels.clone(), run_id: request.run_id };
    let mut all = measures(&reports, &options);
    all.extend(request.metrics.iter().map(|(name, value)| custom(name, *value, &request.labels)));
    if all.is_empty() && blockers.is_empty() {
        blockers.push("metrics.empty");
        problems.push("the reports have nothing to be measured".to_owned());
    }
    blockers.sort_unstable();
    blockers.dedup();
    let passed = blockers.is_empty();
    let written = if passed { write(request, &all, &reports)? } else { Written::default() };
    let document = json!({
        "passed": passed,
        "output_dir": request.output_dir.display().to_string(),
        "metric_count": all.len(),
        "report_count": reports.len(),
        "service_name": request.service_name,
        "namespace": request.namespace,
        "prometheus_path": written.path("prometheus_metrics.prom"),
        "opentelemetry_path": written.path("opentelemetry_metrics.json"),
        "opentelemetry_traces_path": written.path("opentelemetry_traces.json"),
        "metrics_index_path": written.path("metrics_index.json"),
        "json_report_path": written.path("runtime_metrics.json"),
        "markdown_report_path": written.path("runtime_metrics.md"),
        "blockers": blockers,
        "problems": problems,
        "resource_attributes": request.resource_attributes,
        "correlation_id": correlation(&reports),
    });
    if format == Format::Json {
        output::print_json(&document)?;
    } else {
        output::print(&told(&document, &written))?;
    }
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

fn told(document: &Value, written: &Written) -> String {
    let mut out = format!(
        "# Metrics export\n\n- passed: {}\n- metrics: {}\n- reports: {}\n- folder: {}\n",
        document["passed"],
        document["metric_count"],
        document["report_count"],
        document["output_dir"].as_str().unwrap_or_default()
    );
    for (key, label) in [("blockers", "blocker"), ("problems", "problem")] {
        for text in document[key].as_array().into_iter().flatten().filter_map(Value::as_str) {
            out.push_str(&format!("- {label}: {text}\n"));
        }
    }
    for file in &written.files {
        out.push_str(&format!("- {}: {}\n", file.description, file.path.display()));
    }
    out
}

/// The run that the metrics are of, where it is one.
fn correlation(reports: &[Value]) -> Option<&str> {
    match reports {
        [one] => one.get("run_id").and_then(Value::as_str),
        _ => None,
    }
}

fn custom(name: &str, value: f64, labels: &Labels) -> Measure {
    let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
    Measure {
        name: name.to_owned(),
        help: "A metric that was given on the command line.",
        unit: "1",
        kind,
        labels: labels.clone(),
        value,
        started_at: None,
        at: None,
    }
}

fn find(request: &Request) -> Found {
    let mut found = Found::default();
    let default = [PathBuf::from(DEFAULT_RUNS)];
    let named = !request.reports.is_empty();
    // Metrics of one's own need no run.
    if !named && !request.metrics.is_empty() && !default[0].is_dir() {
        return found;
    }
    for path in if named { request.reports.as_slice() } else { &default } {
        match files(path) {
            Some(files) => files.iter().for_each(|file| found.take(file)),
            None => {
                found.blockers.push("run_report.missing");
                found.problems.push(format!("{}: there is no report of a run", path.display()));
            }
        }
    }
    found
}

impl Found {
    fn take(&mut self, file: &Path) {
        let wrong = |why: &str| format!("{}: {why}", file.display());
        let read = match std::fs::metadata(file) {
            Ok(metadata) if metadata.len() > MAX_REPORT_BYTES => Err(wrong("it is too large for a report")),
            Ok(_) => std::fs::read(file).map_err(|e| wrong(&e.to_string())),
            Err(e) => Err(wrong(&e.to_string())),
        };
        let parsed = read.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).map_err(|e| wrong(&e.to_string())));
        match parsed {
            Ok(report) if report.get("result").is_some() || report.get("runs").is_some() => self.reports.push(report),
            Ok(_) => self.refuse(wrong("it is not the report of a run")),
            Err(problem) => self.refuse(problem),
        }
    }

    fn refuse(&mut self, problem: String) {
        self.blockers.push("run_report.invalid_json");
        self.problems.push(problem);
    }
}

/// A report by itself; of a folder the run.json of each run in it, or else its JSON files.
fn files(path: &Path) -> Option<Vec<PathBuf>> {
    if path.is_file() {
        return Some(vec![path.to_owned()]);
    }
    if path.join("run.json").is_file() {
        return Some(vec![path.join("run.json")]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    let mut runs: Vec<PathBuf> = entries.iter().map(|e| e.join("run.json")).filter(|f| f.is_file()).collect();
    if runs.is_empty() {
        let json = |file: &PathBuf| file.is_file() && file.extension().is_some_and(|e| e == "json");
        runs = entries.into_iter().filter(json).collect();
    }
    (!runs.is_empty()).then_some(runs)
}

#[derive(Default)]
struct Written {
    files: Vec<WrittenFile>,
}

struct WrittenFile {
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    path: PathBuf,
    sha256: String,
    bytes: usize,
}

impl Written {
    fn path(&self, name: &str) -> Option<String> {
        self.files.iter().find(|file| file.name == name).map(|file| file.path.display().to_string())
    }
}

fn write(request: &Request, all: &[Measure], reports: &[Value]) -> Result<Written> {
    let resource = Resource {
        service_name: request.service_name.clone(),
        service_namespace: request.namespace.clone(),
        attributes: request.resource_attributes.clone(),
    };
    let now = u64::try_from(Utc::now().timestamp_nanos_opt().unwrap_or_default()).unwrap_or_default();
    // A collector reads one document a line.
    let line = |value: Value| format!("{value}\n");
    let contents = [
        ("prometheus_metrics.prom", "prometheus_metrics", "Prometheus text", metrics::prometheus_text(all)),
        (
            "opentelemetry_metrics.json",
            "opentelemetry_metrics",
            "OTLP metrics",
            line(otlp_metrics(all, &resource, now)),
        ),
        (
            "opentelemetry_traces.json",
            "opentelemetry_traces",
            "OTLP traces",
            line(otlp_traces(reports, &resource, &request.labels)),
        ),
        ("runtime_metrics.json", "runtime_metrics", "summary for machines", format!("{:#}\n", machine(all, reports))),
        ("runtime_metrics.md", "runtime_metrics_report", "report for people", markdown(all)),
    ];
    std::fs::create_dir_all(&request.output_dir).map_err(|e| unwritable(&request.output_dir, &e))?;
    let mut written = Written::default();
    for (name, kind, description, content) in contents {
        written.put(&request.output_dir, name, kind, description, content.as_bytes())?;
    }
    let index = json!({
        "generated_at": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
        "output_dir": request.output_dir.display().to_string(),
        "artifacts": written.files.iter().map(|file| json!({
            "artifact_type": file.kind,
            "description": file.description,
            "name": file.name,
            "path": file.path.display().to_string(),
            "relative_path": file.name,
            "sha256": file.sha256,
            "size_bytes": file.bytes,
        })).collect::<Vec<_>>(),
    });
    written.put(
        &request.output_dir,
        "metrics_index.json",
        "metrics_index",
        "checksums",
        format!("{index:#}\n").as_bytes(),
    )?;
    Ok(written)
}

impl Written {
    /// Written beside its place and moved there: a scraper never reads half a file.
    fn put(
        &mut self,
        dir: &Path,
        name: &'static str,
        kind: &'static str,
        description: &'static str,
        bytes: &[u8],
    ) -> Result<()> {
        let path = dir.join(name);
        let draft = dir.join(format!(".{name}.{}.draft", std::process::id()));
        std::fs::write(&draft, bytes)
            .and_then(|()| std::fs::rename(&draft, &path))
            .map_err(|e| unwritable(&path, &e))?;
        let sha256 = hex(&Sha256::digest(bytes));
        self.files.push(WrittenFile { name, kind, description, path, sha256, bytes: bytes.len() });
        Ok(())
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::configuration(format!("{}: cannot be written: {error}", path.display()))
        .with_hint("name a folder that can be written to with --output-dir")
}
