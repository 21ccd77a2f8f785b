//! The metrics of runs, held to what reads them: promtool, the protocol's own types, a scrape, a collector.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    let hostile = "note=a\"b\\c";
    let ended = export(&project, &["--labels", "env=prod", "--label", hostile, "--metric", "queue_length=3"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let text = read(&project, "prometheus_metrics.prom");
    promtool(&text);
    for line in [
        "# TYPE dpone_inserted_rows_total counter",
        "dpone_inserted_rows_total{env=\"prod\",note=\"a\\\"b\\\\c\",pipeline=\"orders\",sink=\"delta\",source=\"file\",\
         strategy=\"incremental_merge\"} 4",
        "queue_length{env=\"prod\",note=\"a\\\"b\\\\c\"} 3",
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

/// The protocol's own types, in Python: they refuse a field that they do not know, and give back what they read.
const ROUND_TRIP: &str = r#"
import base64, json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest as Metrics
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as Traces

def each(node, key):
    for scope in (s for r in node["resource" + key] for s in r["scope" + key]):
        yield from scope["metrics" if key == "Metrics" else "spans"]

text = open(sys.argv[1]).read()
assert text.count("\n") == 1, "a collector reads one document a line"
metrics = json.loads(text)
read = json_format.Parse(text, Metrics())
assert Metrics.FromString(read.SerializeToString()) == read
back = json_format.MessageToDict(read)
ours = {m["name"]: m for m in each(metrics, "Metrics")}
theirs = {m["name"]: m for m in each(back, "Metrics")}
assert ours.keys() == theirs.keys() and len(ours) > 10, ours.keys()
for name, metric in ours.items():
    kind = "sum" if "sum" in metric else "gauge"
    points, found = metric[kind]["dataPoints"], theirs[name][kind]["dataPoints"]
    value = lambda p: float(p["asInt"]) if "asInt" in p else float(p["asDouble"])
    assert [(value(p), p["attributes"], p["timeUnixNano"]) for p in points] == \
           [(value(p), p.get("attributes", []), p["timeUnixNano"]) for p in found], name
    if kind == "sum":
        assert theirs[name]["sum"]["isMonotonic"] and theirs[name]["unit"]

traces = json.loads(open(sys.argv[2]).read())
spans = list(each(traces, "Spans"))
# OTLP writes ids in hexadecimal where protobuf's JSON has base64.
for span in spans:
    assert len(span["traceId"]) == 32 and len(span["spanId"]) == 16
    for key in ("traceId", "spanId", "parentSpanId"):
        span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
read = json_format.ParseDict(traces, Traces())
assert Traces.FromString(read.SerializeToString()) == read
ids = {span["spanId"] for span in spans}
assert len(ids) == len(spans)
assert all(span["parentSpanId"] in ids or span["parentSpanId"] == "" for span in spans)
assert all(int(s["startTimeUnixNano"]) <= int(s["endTimeUnixNano"]) for s in spans)
print(json.dumps([span["name"] for span in spans]))
"#;

#[test]
fn otlp_makes_a_round_trip_through_the_types_of_the_protocol() {
    let project = Project::starter();
    assert_eq!(project.dpone(&["run"]).code, 0);
    let ended = export(&project, &["--labels", "env=prod", "--resource-attr", "deployment.environment=prod"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let python = std::env::var("DPONE_TEST_PYTHON").expect("scripts/servers names the Python of the tests");
    let out = |name: &str| project.path().join(OUT).join(name);
    let checked = Command::new(python)
        .args(["-c", ROUND_TRIP])
        .args([out("opentelemetry_metrics.json"), out("opentelemetry_traces.json")])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let names: Vec<String> = serde_json::from_slice(&checked.stdout).unwrap();
    let stages = ["lease", "describe", "plan", "stage", "verify", "commit", "discard"].map(|s| format!("stage {s}"));
    assert_eq!(names[..2], ["dpone run", "pipeline orders"]);
    assert_eq!(names[2..], stages);
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

/// Takes `count` posts, and answers them.
fn collector(listener: TcpListener, count: usize) -> Vec<(String, Value)> {
    (0..count)
        .map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
                let whole = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if read == 0 || length == Some(body.len()) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").unwrap();
                    return (head.to_owned(), serde_json::from_str(body).unwrap());
                }
            }
        })
        .collect()
}

#[test]
fn a_collector_gets_the_metrics_and_the_trace_of_a_run() {
    let project = Project::starter();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collecting = std::thread::spawn(move || collector(listener, 2));
    let mut command = project.command(&["run"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_SERVICE_NAME", "shop");
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b");
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.code, 0, "{ended:?}");
    let sent = collecting.join().unwrap();
    assert!(sent[0].0.starts_with("POST /v1/metrics ") && sent[0].0.contains("x-token: a b"), "{}", sent[0].0);
    assert!(sent[1].0.starts_with("POST /v1/traces "), "{}", sent[1].0);
    assert!(sent[0].1.to_string().contains("dpone.inserted_rows") && sent[0].1.to_string().contains("\"shop\""));
    assert!(sent[1].1.to_string().contains("stage commit"));

    // A collector that is away is a warning: the load is done.
    let mut command = project.command(&["run"]);
    let ended = Ended::from(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").output().unwrap());
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("could not be sent"), "{ended:?}");
}
