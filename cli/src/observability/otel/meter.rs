//! Metrics of a run that goes on: instruments of the SDK that look at the run's document whenever they are read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dpone_engine::evidence::Recorder;
use dpone_engine::evidence::metrics::{Instrument, Kind, Measure};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::{MetricExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};

use super::client::Client;
use super::environment::{Signal, milliseconds, resource, variable};
use crate::observability::listen;

const INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";

#[derive(Debug)]
pub(super) struct Meter {
    provider: SdkMeterProvider,
    client: Client,
    timeout: Duration,
}

impl Meter {
    pub(super) fn begin(
        signal: &Signal,
        client: Client,
        recorder: &Arc<Recorder>,
        missing: &mut Vec<String>,
    ) -> Result<Self, String> {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(signal.protocol)
            .with_timeout(signal.timeout)
            .with_http_client(client.clone())
            .with_temporality(temporality(missing))
            .build()
            .map_err(|_| "the address of the collector is none".to_owned())?;
        let interval = milliseconds(INTERVAL, variable(INTERVAL).as_deref(), DEFAULT_INTERVAL, missing);
        let exporter = Watched { inner: exporter, client: client.clone() };
        let reader = PeriodicReader::builder(exporter).with_interval(interval).build();
        let provider = SdkMeterProvider::builder().with_resource(resource()).with_reader(reader).build();
        let meter = provider.meter_with_scope(super::tracer::scope());
        let page = Arc::new(Page::new(Arc::clone(recorder)));
        for instrument in listen::instruments() {
            observe(&meter, instrument, Arc::clone(&page));
        }
        Ok(Self { provider, client, timeout: signal.timeout })
    }

    /// Sends the last numbers. On a thread of its own, which the end of the process does not wait for.
    pub(super) async fn finish(self) -> Result<(), String> {
        let (done, ended) = tokio::sync::oneshot::channel();
        let (provider, timeout) = (self.provider, self.timeout);
        std::thread::spawn(move || {
            let _ = done.send(provider.shutdown_with_timeout(timeout).map_err(|e| e.to_string()));
        });
        // One request of the interval may be under way, and the last one follows it.
        match tokio::time::timeout(timeout.saturating_mul(2), ended).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(self.client.complaint().unwrap_or(error)),
            Ok(Err(_)) | Err(_) => Err("the collector did not answer in time".to_owned()),
        }
    }
}

fn temporality(missing: &mut Vec<String>) -> Temporality {
    match variable(TEMPORALITY) {
        None => Temporality::Cumulative,
        Some(text) => text.parse().unwrap_or_else(|_| {
            missing.push(format!(
                "{TEMPORALITY} is {text:?}, expected cumulative, delta or lowmemory: it is taken for cumulative"
            ));
            Temporality::Cumulative
        }),
    }
}

/// Nothing is counted twice, and nothing is in the way of a row: an instrument only reads.
fn observe(meter: &opentelemetry::metrics::Meter, instrument: Instrument, page: Arc<Page>) {
    let name = instrument.name.replacen('_', ".", 1);
    match instrument.kind {
        Kind::Counter => {
            meter
                .u64_observable_counter(name)
                .with_unit(instrument.unit)
                .with_description(instrument.help)
                .with_callback(move |observer| {
                    for (value, labels) in page.read(instrument.name) {
                        observer.observe(value as u64, &labels);
                    }
                })
                .build();
        }
        Kind::Gauge => {
            meter
                .f64_observable_gauge(name)
                .with_unit(instrument.unit)
                .with_description(instrument.help)
                .with_callback(move |observer| {
                    for (value, labels) in page.read(instrument.name) {
                        observer.observe(value, &labels);
                    }
                })
                .build();
        }
    }
}

/// What all instruments read in one collection: the document is looked at once for all of them.
struct Page {
    recorder: Arc<Recorder>,
    now: Mutex<(Vec<Measure>, BTreeSet<&'static str>)>,
}

impl Page {
    fn new(recorder: Arc<Recorder>) -> Self {
        Self { recorder, now: Mutex::default() }
    }

    /// An instrument that reads a second time begins a new page.
    fn read(&self, name: &'static str) -> Vec<(f64, Vec<KeyValue>)> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.1.is_empty() || now.1.contains(name) {
            *now = (listen::now(&self.recorder), BTreeSet::new());
        }
        now.1.insert(name);
        let own = now.0.iter().filter(|measure| measure.name == name);
        own.map(|measure| {
            let labels = measure.labels.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
            (measure.value, labels.collect())
        })
        .collect()
    }
}

/// Says when metrics could not be sent: the reader, on its thread, tells nobody.
struct Watched {
    inner: MetricExporter,
    client: Client,
}

impl PushMetricExporter for Watched {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let sent = self.inner.export(metrics).await;
        if let Err(error) = &sent {
            let why = self.client.complaint().unwrap_or_else(|| error.to_string());
            tracing::debug!("metrics could not be sent: {why}");
        }
        sent
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}
