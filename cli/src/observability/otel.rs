//! OpenTelemetry while a run goes on, as the standard environment variables say: metrics at an interval, and the run as a
//! trace when it ends, as OTLP over HTTP in its JSON form. Nothing of it may fail a load: a collector that is away is a
//! warning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use dpone_engine::evidence::metrics::{Labels, Resource, otlp_metrics, otlp_traces};
use dpone_engine::evidence::{Recorder, RunDocument};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::listen;

/// What is sent while a run goes on, where the environment names a collector.
#[derive(Debug)]
pub(crate) struct Telemetry {
    metrics: Option<(Collector, CancellationToken, tokio::task::JoinHandle<()>)>,
    traces: Option<Collector>,
    resource: Resource,
    recorder: Arc<Recorder>,
}

/// Where one signal goes.
#[derive(Debug, Clone)]
struct Collector {
    client: reqwest::Client,
    url: String,
    headers: BTreeMap<String, String>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The signal's own variable, or else the one for all signals.
fn either(signal: &str, what: &str) -> Option<String> {
    variable(&format!("OTEL_EXPORTER_OTLP_{signal}_{what}")).or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{what}")))
}

fn milliseconds(text: Option<String>, default: u64) -> Duration {
    Duration::from_millis(text.and_then(|text| text.trim().parse().ok()).unwrap_or(default))
}

/// `k=v,k2=v2`, with values in percent encoding.
fn pairs(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), decoded(value.trim())))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &more[2..];
            }
            None => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Who the telemetry is about: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say it.
fn resource() -> Resource {
    let mut attributes: Labels = variable("OTEL_RESOURCE_ATTRIBUTES").map(|text| pairs(&text)).unwrap_or_default();
    let named = attributes.remove("service.name");
    let service_namespace = attributes.remove("service.namespace").unwrap_or_default();
    let service_name = variable("OTEL_SERVICE_NAME").or(named).unwrap_or_else(|| "dpone".to_owned());
    Resource { service_name, service_namespace, attributes }
}

impl Collector {
    /// The collector for `METRICS` or `TRACES`; none where the environment names none. What cannot be had is added to
    /// `missing`.
    fn find(signal: &str, path: &str, missing: &mut Vec<String>) -> Option<Self> {
        let own = variable(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"));
        let shared =
            || variable("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| format!("{}{path}", base.trim_end_matches('/')));
        let url = own.or_else(shared)?;
        if variable(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|exporter| exporter != "otlp") {
            return None;
        }
        let protocol = either(signal, "PROTOCOL").unwrap_or_else(|| "http/json".to_owned());
        if !protocol.starts_with("http/") {
            missing.push(format!(
                "{} are not sent: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}, and dpone speaks HTTP",
                signal.to_lowercase()
            ));
            return None;
        }
        if protocol == "http/protobuf" {
            missing.push(format!(
                "{} are sent as http/json, which a collector takes at the same address, and not as http/protobuf",
                signal.to_lowercase()
            ));
        }
        let timeout = milliseconds(either(signal, "TIMEOUT"), 10_000);
        match reqwest::Client::builder().timeout(timeout).build() {
            Ok(client) => {
                let headers = either(signal, "HEADERS").map(|text| pairs(&text)).unwrap_or_default();
                Some(Self { client, url, headers })
            }
            Err(error) => {
                missing.push(format!("{} are not sent: {}", signal.to_lowercase(), error.without_url()));
                None
            }
        }
    }

    async fn send(&self, document: &Value) -> Result<(), String> {
        let mut request = self.client.post(&self.url).header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        // The address may hold a token.
        let answer = request.body(document.to_string()).send().await.map_err(|e| e.without_url().to_string())?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("the collector answered {status}")) }
    }
}

impl Telemetry {
    /// Begins to send. The second part is what the environment asks for and cannot be had, in sentences.
    pub(crate) fn begin(recorder: &Arc<Recorder>) -> (Option<Self>, Vec<String>) {
        let mut missing = Vec::new();
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return (None, missing);
        }
        let metrics = Collector::find("METRICS", "/v1/metrics", &mut missing);
        let traces = Collector::find("TRACES", "/v1/traces", &mut missing);
        if metrics.is_none() && traces.is_none() {
            return (None, missing);
        }
        let resource = resource();
        let metrics = metrics.map(|collector| {
            let stop = CancellationToken::new();
            let every = milliseconds(variable("OTEL_METRIC_EXPORT_INTERVAL"), 60_000).max(Duration::from_millis(100));
            let going = (collector.clone(), resource.clone(), Arc::clone(recorder), stop.clone());
            let task = tokio::spawn(async move {
                let (collector, resource, recorder, stop) = going;
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(every) => {}
                    }
                    if let Err(error) = collector.send(&measured(&recorder, &resource)).await {
                        tracing::warn!("metrics could not be sent: {error}");
                    }
                }
            });
            (collector, stop, task)
        });
        (Some(Self { metrics, traces, resource, recorder: Arc::clone(recorder) }), missing)
    }

    /// Sends what is left. Waits no longer than a collector may take. Gives what could not be sent.
    pub(crate) async fn finish(self, document: &RunDocument) -> Vec<String> {
        let mut unsent = Vec::new();
        if let Some((collector, stop, task)) = self.metrics {
            stop.cancel();
            task.abort();
            if let Err(error) = collector.send(&measured(&self.recorder, &self.resource)).await {
                unsent.push(format!("the metrics of the run could not be sent: {error}"));
            }
        }
        if let (Some(collector), Ok(report)) = (self.traces, document.to_value()) {
            let trace = otlp_traces(&[report], &self.resource, &Labels::new());
            if let Err(error) = collector.send(&trace).await {
                unsent.push(format!("the trace of the run could not be sent: {error}"));
            }
        }
        unsent
    }
}

fn measured(recorder: &Recorder, resource: &Resource) -> Value {
    let now = u64::try_from(Utc::now().timestamp_nanos_opt().unwrap_or_default()).unwrap_or_default();
    otlp_metrics(&listen::now(recorder), resource, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_attributes_are_decoded() {
        let read = pairs("Authorization=Basic%20abc%3D, x=1,broken,=y,z=50%");
        let want = [("Authorization", "Basic abc="), ("x", "1"), ("z", "50%")];
        assert_eq!(read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
    }
}
