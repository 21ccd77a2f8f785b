//! The run as a trace, sent when it has ended: a span for the run, for each pipeline and for each stage, with the times that
//! the evidence has. The ids are those of the exported files, so that both tell of one trace.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use dpone_engine::evidence::RunDocument;
use dpone_engine::evidence::metrics::{Labels, Parent, Span, spans};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use super::client::Client;
use super::environment::{Signal, parent, resource};

/// Spans in one request: a run of thousands of pipelines does not fit into what a collector takes.
const BATCH: usize = 2048;

#[derive(Debug)]
pub(super) struct Tracer {
    exporter: SpanExporter,
    client: Client,
    timeout: Duration,
}

/// Who measures.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("dpone").with_version(env!("CARGO_PKG_VERSION")).build()
}

impl Tracer {
    pub(super) fn new(signal: &Signal, client: Client) -> Result<Self, String> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(signal.protocol)
            .with_timeout(signal.timeout)
            .with_http_client(client.clone())
            .build()
            .map_err(|_| "the address of the collector is none".to_owned())?;
        exporter.set_resource(&resource());
        Ok(Self { exporter, client, timeout: signal.timeout })
    }

    pub(super) async fn finish(self, document: &RunDocument) -> Result<(), String> {
        let report = document.to_value().map_err(|e| e.to_string())?;
        let parent = parent();
        let within = parent
            .as_ref()
            .map(|parent| Parent { trace_id: parent.trace_id().to_bytes(), span_id: parent.span_id().to_bytes() });
        let spans = spans(&[report], &Labels::new(), within);
        let sending = async {
            for batch in spans.chunks(BATCH) {
                let batch = batch.iter().map(|span| data(span, parent.as_ref())).collect();
                self.exporter
                    .export(batch)
                    .await
                    .map_err(|e| self.client.complaint().unwrap_or_else(|| e.to_string()))?;
            }
            Ok(())
        };
        let late = |_| Err("the collector did not answer in time".to_owned());
        tokio::time::timeout(self.timeout, sending).await.unwrap_or_else(late)
    }
}

fn data(span: &Span, parent: Option<&SpanContext>) -> SpanData {
    let at = |nanoseconds: u64| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    let state = parent.map(|parent| parent.trace_state().clone()).unwrap_or_default();
    let trace_id = TraceId::from_bytes(span.trace_id);
    let parent_span_id = span.parent_id.map_or(SpanId::INVALID, SpanId::from_bytes);
    SpanData {
        span_context: SpanContext::new(trace_id, SpanId::from_bytes(span.span_id), TraceFlags::SAMPLED, false, state),
        parent_span_id,
        parent_span_is_remote: parent.is_some_and(|parent| parent.span_id() == parent_span_id),
        span_kind: SpanKind::Internal,
        name: Cow::Owned(span.name.clone()),
        start_time: at(span.start),
        end_time: at(span.end),
        attributes: span.labels.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.as_ref().map_or(Status::Ok, |error| Status::error(error.clone())),
        instrumentation_scope: scope(),
    }
}
