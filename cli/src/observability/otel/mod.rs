//! OpenTelemetry while a run goes on, as the standard environment variables say: metrics at an interval, and the run as a
//! trace when it ends, as OTLP over HTTP. Nothing of it may fail a load: a collector that is away is a warning.

mod client;
mod environment;
mod meter;
mod tracer;

use std::sync::Arc;

use dpone_engine::evidence::{Recorder, RunDocument};

use client::Client;
use environment::Signal;
use meter::Meter;
use tracer::Tracer;

/// What is sent while a run goes on, where the environment names a collector.
#[derive(Debug)]
pub(crate) struct Telemetry {
    metrics: Option<Meter>,
    traces: Option<Tracer>,
}

impl Telemetry {
    /// Begins to send. The second part is what the environment asks for and cannot be had, in sentences.
    pub(crate) fn begin(recorder: &Arc<Recorder>) -> (Option<Self>, Vec<String>) {
        let mut missing = Vec::new();
        if environment::is_disabled() {
            return (None, missing);
        }
        let mut metrics = None;
        if let Some(signal) = Signal::find("METRICS", &mut missing) {
            match Client::new(signal.timeout).and_then(|client| Meter::begin(&signal, client, recorder, &mut missing)) {
                Ok(meter) => metrics = Some(meter),
                Err(error) => missing.push(format!("metrics are not sent: {error}")),
            }
        }
        let mut traces = None;
        if let Some(signal) = Signal::find("TRACES", &mut missing)
            && environment::is_sampled(&mut missing)
        {
            match Client::new(signal.timeout).and_then(|client| Tracer::new(&signal, client)) {
                Ok(tracer) => traces = Some(tracer),
                Err(error) => missing.push(format!("traces are not sent: {error}")),
            }
        }
        let some = metrics.is_some() || traces.is_some();
        (some.then_some(Self { metrics, traces }), missing)
    }

    /// Sends what is left, both at once. Waits no longer than a collector may take. Gives what could not be sent.
    pub(crate) async fn finish(self, document: &RunDocument) -> Vec<String> {
        let metrics = async {
            match self.metrics {
                Some(meter) => {
                    meter.finish().await.map_err(|e| format!("the metrics of the run could not be sent: {e}"))
                }
                None => Ok(()),
            }
        };
        let traces = async {
            match self.traces {
                Some(tracer) => {
                    tracer.finish(document).await.map_err(|e| format!("the trace of the run could not be sent: {e}"))
                }
                None => Ok(()),
            }
        };
        let (metrics, traces) = tokio::join!(metrics, traces);
        [metrics, traces].into_iter().filter_map(Result::err).collect()
    }
}
