//! The metrics of runs, held to what reads them: promtool, the protocol's own types, a scrape.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{Ended, Project};

const OUT: &str = ".dpone/observability/latest";

fn export(project: &Project, more: &[&str]) -> Ended {
    project.dpone(&[&["observability", "metrics-export", "--format", "json"], more].concat())
}

fn read(project: &Project, name: &str) -> String {
    std::fs::read_to_string(project.path().join(OUT).join(name)).unwrap()
}

fn json(project: &Project, name: &str) -> Value {
    serde_json::from_str(&read(project, name)).unwrap()
}

/// Debian's `prometheus` package has it; `scripts/setup-tests` takes it from there, into its cache.
fn promtool(text: &str) {
    let cache = std::env::var_os("DPONE_CACHE").map(std::path::PathBuf::from);
    let cache = cache.unwrap_or_else(|| std::path::PathBuf::from(std::env::var("HOME").unwrap()).join(".cache/dpone"));
    let cached = cache.join("prometheus/usr/bin/promtool");
    let mut check = Command::new(if cached.exists() { cached.as_path() } else { "promtool".as_ref() })
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed by scripts/setup-tests");
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ended = check.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn prometheus_takes_the_text_without_a_complaint() {
    let project = Project::starter();
    project.dpone(&["run", "--run-id", "r1"]);
    project.write("data/orders.csv", "order_id,other\n1,2\n");
    assert_ne!(project.dpone(&["run", "--run-id", "r2"]).code, 0);
    let hostile = "note=a\"b\\c\nd\u{1F600}ü\t";
    let ended = export(&project, &["--labels", "env=prod", "--label", hostile, "--metric", "queue_length=3"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let text = read(&project, "prometheus_metrics.prom");
    promtool(&text);
    for line in [
        "# TYPE dpone_inserted_rows_total counter",
        "dpone_inserted_rows_total{env=\"prod\",note=\"a\\\"b\\\\c\\nd\u{1F600}ü\t\",pipeline=\"orders\",sink=\"delta\",source=\"file\",\
         strategy=\"incremental_merge\"} 4",
        "queue_length{env=\"prod\",note=\"a\\\"b\\\\c\\nd\u{1F600}ü\t\"} 3",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("run_id") && text.contains("error_class="), "{text}");
    export(&project, &["--run-id-label"]);
    let text = read(&project, "prometheus_metrics.prom");
    promtool(&text);
    assert!(text.contains("run_id=\"r1\"") && text.contains("run_id=\"r2\""), "{text}");
}

#[test]
fn the_index_has_the_checksum_of_each_file() {
    let project = Project::starter();
    let report = project.dpone(&["run", "--format", "json"]);
    project.write("report.json", &report.stdout);
    let ended = export(&project, &["--run-report", "report.json"]);
    assert_eq!((ended.code, ended.json()["passed"].clone()), (0, true.into()), "{ended:?}");
    assert_eq!(ended.json()["correlation_id"], report.json()["run_id"]);
    let index = json(&project, "metrics_index.json");
    let artifacts = index["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 5);
    for artifact in artifacts {
        let bytes = std::fs::read(project.path().join(artifact["path"].as_str().unwrap())).unwrap();
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((artifact["sha256"].clone(), artifact["size_bytes"].clone()), (sum.into(), bytes.len().into()));
    }
    assert!(read(&project, "runtime_metrics.md").contains("| dpone_inserted_rows |"));
    assert_eq!(json(&project, "runtime_metrics.json")["runs_passed"], true);
}

#[test]
fn what_is_no_report_blocks_the_export() {
    let project = Project::empty();
    project.write("broken.json", "{");
    project.write("other.json", "{\"rows\": 1}");
    for (report, blocker) in [
        ("missing.json", "run_report.missing"),
        ("broken.json", "run_report.invalid_json"),
        ("other.json", "run_report.invalid_json"),
    ] {
        let ended = export(&project, &[report]);
        assert_eq!((ended.code, ended.json()["blockers"].clone()), (1, serde_json::json!([blocker])), "{ended:?}");
        assert!(!project.path().join(OUT).exists());
    }
    for wrong in [["--labels", "env"], ["--labels", "1x=y"], ["--metric", "x=NaN"], ["--resource-attr", "=x"]] {
        assert_eq!(export(&project, &wrong).code, 2, "{wrong:?}");
    }
    // Numbers of one's own need no run.
    assert_eq!(export(&project, &["--metric", "queue_length=3"]).code, 0);
}

/// The protocol's own types read the files, and write the same again: field by field, none left out and none added.
#[test]
fn otlp_makes_a_round_trip_through_the_types_of_the_protocol() {
    let project = Project::starter();
    assert_eq!(project.dpone(&["run"]).code, 0);
    project.write("data/orders.csv", "order_id,other\n1,2\n");
    assert_ne!(project.dpone(&["run"]).code, 0);
    let hostile = "note=a\"b\\c\u{1F600}";
    let more = ["--labels", "env=prod", "--label", hostile, "--resource-attr", "deployment.environment=prod"];
    let ended = export(&project, &more);
    assert_eq!(ended.code, 0, "{ended:?}");

    let text = read(&project, "opentelemetry_metrics.json");
    assert_eq!(text.matches('\n').count(), 1, "a collector reads one document a line");
    let metrics: ExportMetricsServiceRequest = serde_json::from_str(&text).unwrap();
    same(&json(&project, "opentelemetry_metrics.json"), &serde_json::to_value(&metrics).unwrap());
    assert_eq!(ExportMetricsServiceRequest::decode(&*metrics.encode_to_vec()).unwrap(), metrics);
    let named: Vec<&str> =
        metrics.resource_metrics[0].scope_metrics[0].metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert!(named.len() > 10 && named.contains(&"dpone.inserted_rows"), "{named:?}");

    let traces: ExportTraceServiceRequest = serde_json::from_str(&read(&project, "opentelemetry_traces.json")).unwrap();
    same(&json(&project, "opentelemetry_traces.json"), &serde_json::to_value(&traces).unwrap());
    assert_eq!(ExportTraceServiceRequest::decode(&*traces.encode_to_vec()).unwrap(), traces);
    let spans = &traces.resource_spans[0].scope_spans[0].spans;
    let ids: std::collections::BTreeSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    assert_eq!(ids.len(), spans.len());
    for span in spans {
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert!(span.parent_span_id.is_empty() || ids.contains(span.parent_span_id.as_slice()));
        assert!(span.start_time_unix_nano > 0 && span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let stages = ["lease", "describe", "plan", "stage", "verify", "commit", "discard"].map(|s| format!("stage {s}"));
    let whole = [&["dpone run".to_owned(), "pipeline orders".to_owned()], stages.as_slice()].concat();
    assert!(names.windows(whole.len()).any(|some| some == whole), "{names:?}");
    assert_eq!(spans.iter().filter(|span| span.parent_span_id.is_empty()).count(), 2, "a trace a run");
}

/// Two documents are one, and where they are not, the place is named.
fn same(ours: &Value, theirs: &Value) {
    fn walk(ours: &Value, theirs: &Value, path: &str) {
        match (ours, theirs) {
            (Value::Object(one), Value::Object(other)) => {
                // A list of nothing may be left out; a field of ours that the types do not know would be missing in theirs.
                let unsaid = |key: &String| one.contains_key(key) || other[key] == Value::Array(Vec::new());
                assert!(
                    other.keys().all(unsaid) && one.keys().all(|key| other.contains_key(key)),
                    "{path}: {ours} {theirs}"
                );
                one.iter().for_each(|(key, value)| walk(value, &other[key], &format!("{path}/{key}")));
            }
            (Value::Array(one), Value::Array(other)) => {
                assert_eq!(one.len(), other.len(), "{path}");
                one.iter().zip(other).enumerate().for_each(|(n, (a, b))| walk(a, b, &format!("{path}/{n}")));
            }
            _ => assert_eq!(ours, theirs, "{path}"),
        }
    }
    walk(ours, theirs, "");
}

fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_run_is_scraped_while_it_goes_on() {
    let project = Project::starter();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = project.command(&["run", "--metrics-listen", &free]);
    let mut running = command.env("DPONE_FAILPOINT", "staged=sleep:3000").stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let mut page = String::new();
    while !page.contains("dpone_run_stage{") && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
        page = get(&free, "/metrics").unwrap_or_default();
    }
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    let body = page.split_once("\r\n\r\n").unwrap().1;
    promtool(body);
    assert!(body.contains("dpone_run_in_progress{pipeline=\"orders\"} 1"), "{body}");
    assert!(get(&free, "/other").unwrap_or_default().starts_with("HTTP/1.1 404"));
    assert!(running.wait().unwrap().success());
    // An address that is taken stops the run before anything is loaded.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = Project::starter().dpone(&["run", "--metrics-listen", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(ended.code, 2, "{ended:?}");
}
