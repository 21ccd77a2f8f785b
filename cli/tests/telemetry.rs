//! OpenTelemetry while a run goes on, held to a collector that reads OTLP by the protocol's own types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use support::{Ended, Project};

/// One post.
#[derive(Debug, Clone)]
struct Post {
    path: String,
    head: String,
    body: Vec<u8>,
}

/// How the collector behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Answer(&'static str),
    /// Takes everything and never says a word.
    Silent,
}

struct Collector {
    endpoint: String,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Collector {
    fn begin(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let posts = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&posts);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || take(stream.unwrap(), manner, &taken));
            }
        });
        Self { endpoint, posts }
    }

    fn posts(&self, path: &str) -> Vec<Post> {
        self.posts.lock().unwrap().iter().filter(|post| post.path == path).cloned().collect()
    }

    /// Runs the starter project against this collector.
    fn run(&self, project: &Project, env: &[(&str, &str)]) -> Ended {
        let mut command = project.command(&["run"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint).envs(env.iter().copied());
        Ended::from(command.output().unwrap())
    }
}

fn take(mut stream: TcpStream, manner: Manner, taken: &Mutex<Vec<Post>>) {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        if read == 0 {
            return;
        }
        all.extend_from_slice(&buffer[..read]);
        let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let body = &all[end + 4..];
        if length != Some(body.len()) {
            continue;
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        taken.lock().unwrap().push(Post { path, head, body: body.to_owned() });
        match manner {
            Manner::Answer(status) => {
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
                return;
            }
            Manner::Silent => std::thread::sleep(Duration::from_secs(60)),
        }
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |kv: &KeyValue| match kv.value.as_ref().unwrap().value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|kv| (kv.key.clone(), text(kv))).collect()
}

/// The metrics of a request by name, and the resource's attributes.
fn metrics(request: &ExportMetricsServiceRequest) -> (BTreeMap<String, Metric>, BTreeMap<String, String>) {
    let [resource] = request.resource_metrics.as_slice() else { panic!("{request:?}") };
    let [scope] = resource.scope_metrics.as_slice() else { panic!("{request:?}") };
    assert_eq!(scope.scope.as_ref().unwrap().name, "dpone");
    let named = scope.metrics.iter().map(|metric| (metric.name.clone(), metric.clone())).collect();
    (named, texts(&resource.resource.as_ref().unwrap().attributes))
}

/// The one number of a metric, and whether it is a sum since the beginning (2) or since the last time (1).
fn number(metric: &Metric) -> (f64, Option<i32>) {
    let (points, temporality) = match metric.data.as_ref().unwrap() {
        metric::Data::Gauge(gauge) => (&gauge.data_points, None),
        metric::Data::Sum(sum) => {
            assert!(sum.is_monotonic);
            (&sum.data_points, Some(sum.aggregation_temporality))
        }
        other => panic!("{other:?}"),
    };
    let [point] = points.as_slice() else { panic!("{metric:?}") };
    let value = match point.value.as_ref().unwrap() {
        number_data_point::Value::AsInt(n) => *n as f64,
        number_data_point::Value::AsDouble(n) => *n,
    };
    (value, temporality)
}

fn spans(request: &ExportTraceServiceRequest) -> Vec<Span> {
    request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| s.spans.clone()).collect()
}

fn evidence(project: &Project, run_id: &str) -> serde_json::Value {
    let path = project.path().join(".dpone/runs").join(run_id).join("run.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn nanoseconds(text: &serde_json::Value) -> u64 {
    let time = chrono::DateTime::parse_from_rfc3339(text.as_str().unwrap()).unwrap();
    time.timestamp_nanos_opt().unwrap().try_into().unwrap()
}

/// Both protocols carry the same run, and what they carry is what the evidence says.
#[test]
fn a_collector_gets_the_metrics_and_the_trace_of_a_run_in_either_protocol() {
    for (protocol, kind) in [
        (None, "application/x-protobuf"),
        (Some("http/protobuf"), "application/x-protobuf"),
        (Some("http/json"), "application/json"),
    ] {
        let project = Project::starter();
        let collector = Collector::begin(Manner::Answer("200 OK"));
        let mut env = vec![
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod%20eu,service.name=not-this"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b,x-other=1"),
        ];
        env.extend(protocol.map(|protocol| ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)));
        let mut command = project.command(&["run", "--run-id", "r1"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{}/", collector.endpoint)).envs(env);
        let ended = Ended::from(command.output().unwrap());
        assert_eq!((ended.code, ended.stderr.contains("warning")), (0, false), "{ended:?}");

        let (sent, traced) = (collector.posts("/v1/metrics"), collector.posts("/v1/traces"));
        let ([sent], [traced]) = (sent.as_slice(), traced.as_slice()) else { panic!("{sent:?} {traced:?}") };
        for post in [sent, traced] {
            for header in [&format!("content-type: {kind}"), "x-token: a b", "x-other: 1"] {
                assert!(post.head.contains(header), "{}", post.head);
            }
        }
        let json = kind.ends_with("json");
        let request: ExportMetricsServiceRequest =
            if json { serde_json::from_slice(&sent.body).unwrap() } else { Message::decode(&*sent.body).unwrap() };
        let (named, resource) = metrics(&request);
        assert_eq!(number(&named["dpone.inserted_rows"]), (4.0, Some(2)));
        assert_eq!(number(&named["dpone.run_passed"]), (1.0, None));
        assert_eq!(number(&named["dpone.run_in_progress"]), (0.0, None));
        assert_eq!(
            (resource["service.name"].as_str(), resource["deployment.environment"].as_str()),
            ("shop", "prod eu")
        );
        assert_eq!(resource["telemetry.sdk.language"], "rust");
        let metric::Data::Sum(sum) = named["dpone.inserted_rows"].data.as_ref().unwrap() else { panic!() };
        let labels = texts(&sum.data_points[0].attributes);
        assert_eq!((labels["pipeline"].as_str(), labels["sink"].as_str()), ("orders", "delta"));

        let request: ExportTraceServiceRequest =
            if json { serde_json::from_slice(&traced.body).unwrap() } else { Message::decode(&*traced.body).unwrap() };
        check_trace(&spans(&request), &evidence(&project, "r1"));
    }
}

/// A span for the run, one for its pipeline, and one for each stage, with the times that were recorded.
fn check_trace(spans: &[Span], evidence: &serde_json::Value) {
    let [run, pipeline, stages @ ..] = spans else { panic!("{spans:?}") };
    assert_eq!((run.name.as_str(), pipeline.name.as_str()), ("dpone run", "pipeline orders"));
    assert!(run.parent_span_id.is_empty() && pipeline.parent_span_id == run.span_id);
    assert_eq!(run.start_time_unix_nano, nanoseconds(&evidence["started_at"]));
    assert_eq!(run.end_time_unix_nano, nanoseconds(&evidence["finished_at"]));
    let recorded = evidence["stages"].as_array().unwrap();
    assert_eq!(stages.len(), recorded.len());
    for (span, stage) in stages.iter().zip(recorded) {
        assert_eq!(span.name, format!("stage {}", stage["stage"].as_str().unwrap()));
        assert_eq!((&span.trace_id, &span.parent_span_id), (&run.trace_id, &pipeline.span_id));
        assert_eq!(span.start_time_unix_nano, nanoseconds(&stage["started_at"]));
        let seconds = (span.end_time_unix_nano - span.start_time_unix_nano) as f64 / 1e9;
        assert!((seconds - stage["seconds"].as_f64().unwrap()).abs() < 1e-6, "{span:?} {stage}");
        assert_eq!(span.status.as_ref().unwrap().code, 1);
    }
}

#[test]
fn what_is_sent_while_a_run_goes_on_says_where_it_is() {
    let project = Project::starter();
    let collector = Collector::begin(Manner::Answer("200 OK"));
    let delta = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    let ended = collector.run(
        &project,
        &[
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            (delta, "delta"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("DPONE_FAILPOINT", "staged=sleep:2000"),
        ],
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(collector.posts("/v1/traces").is_empty());
    let posts = collector.posts("/v1/metrics");
    assert!(posts.len() > 4, "{} posts", posts.len());
    let pages: Vec<BTreeMap<String, Metric>> = posts
        .iter()
        .map(|post| {
            assert!(post.head.contains("content-encoding: gzip"), "{}", post.head);
            let mut body = Vec::new();
            flate2::read::GzDecoder::new(&*post.body).read_to_end(&mut body).unwrap();
            metrics(&Message::decode(&*body).unwrap()).0
        })
        .collect();
    let staging = |page: &&BTreeMap<String, Metric>| {
        let stage = page.get("dpone.run_stage").and_then(|metric| metric.data.clone());
        matches!(stage, Some(metric::Data::Gauge(g)) if texts(&g.data_points[0].attributes)["stage"] == "stage")
    };
    let page = pages.iter().find(staging).expect("a page of the time in which rows are staged");
    assert_eq!(number(&page["dpone.run_in_progress"]).0, 1.0);
    let last = pages.last().unwrap();
    assert_eq!(number(&last["dpone.inserted_rows"]), (4.0, Some(1)));
    assert!(!last.contains_key("dpone.run_stage"), "{last:?}");
}

#[test]
fn a_run_is_a_part_of_the_trace_that_started_it() {
    let project = Project::starter();
    let collector = Collector::begin(Manner::Answer("200 OK"));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ended = collector.run(&project, &[("TRACEPARENT", parent), ("TRACESTATE", "vendor=1")]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let sent = spans(&Message::decode(&*collector.posts("/v1/traces")[0].body).unwrap());
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(sent.iter().all(|span| hex(&span.trace_id) == parent[3..35] && span.trace_state == "vendor=1"), "{sent:?}");
    let roots: Vec<&Span> = sent.iter().filter(|span| hex(&span.parent_span_id) == parent[36..52]).collect();
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0].name, "dpone run");

    // A parent that is not sampled wants no trace; metrics are another matter.
    let collector = Collector::begin(Manner::Answer("200 OK"));
    collector.run(&project, &[("TRACEPARENT", &parent.replace("-01", "-00"))]);
    assert_eq!((collector.posts("/v1/traces").len(), collector.posts("/v1/metrics").len()), (0, 1));
}

#[test]
fn a_failed_run_is_told_by_the_class_of_its_error_alone() {
    let project = Project::starter();
    project.write("data/orders.csv", "order_id,other\n1,hunter2\n");
    let collector = Collector::begin(Manner::Answer("200 OK"));
    let ended = collector.run(&project, &[]);
    assert_ne!(ended.code, 0);
    let post = &collector.posts("/v1/traces")[0];
    let sent = spans(&Message::decode(&*post.body).unwrap());
    let status = sent[0].status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "configuration"));
    assert!(!String::from_utf8_lossy(&post.body).contains("hunter2"));
}

#[test]
fn a_signal_goes_where_its_own_variable_says() {
    let project = Project::starter();
    let (all, own) = (Collector::begin(Manner::Answer("200 OK")), Collector::begin(Manner::Answer("200 OK")));
    let place = format!("{}/in/here", own.endpoint);
    all.run(&project, &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &place)]);
    assert_eq!((all.posts("/v1/metrics").len(), all.posts("/v1/traces").len()), (1, 0));
    assert_eq!(own.posts("/in/here").len(), 1);

    let all = Collector::begin(Manner::Answer("200 OK"));
    all.run(&project, &[("OTEL_SDK_DISABLED", "True")]);
    assert!(all.posts.lock().unwrap().is_empty());
}

/// Telemetry that cannot be had is told in a sentence, and the load is done.
#[test]
fn what_cannot_be_sent_is_a_warning() {
    let collector = Collector::begin(Manner::Answer("200 OK"));
    for (env, told) in [
        (("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
        (("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke"), "expected http/protobuf or http/json"),
        (("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"), "does not begin with http:// or https://"),
        (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://us er:hunter2@x"), "the address of the collector is none"),
        (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1/hunter2"), "could not be sent"),
    ] {
        let project = Project::starter();
        let ended = collector.run(&project, &[env]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stderr.contains("metrics") && ended.stderr.contains("trace"), "{ended:?}");
        assert!(ended.stderr.contains(told) && !ended.stderr.contains("hunter2"), "{told}: {ended:?}");
        assert!(ended.stdout.contains("4 rows"), "{ended:?}");
    }
    assert!(collector.posts.lock().unwrap().is_empty());

    let refusing = Collector::begin(Manner::Answer("400 Bad Request"));
    let ended = refusing.run(&Project::starter(), &[]);
    assert!(ended.code == 0 && ended.stderr.contains("the collector answered 400 Bad Request"), "{ended:?}");
    // The collector says that it is wrong: nothing is sent twice.
    assert_eq!(refusing.posts.lock().unwrap().len(), 2);
}

#[test]
fn a_collector_that_never_answers_holds_nobody_up() {
    let collector = Collector::begin(Manner::Silent);
    let project = Project::starter();
    let began = Instant::now();
    let ended =
        collector.run(&project, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "700"), ("OTEL_METRIC_EXPORT_INTERVAL", "50")]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("did not answer in time"), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
