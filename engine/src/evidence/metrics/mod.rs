//! Metrics of runs, from the documents that runs leave: for Prometheus, for OpenTelemetry, for machines and for people.

mod measures;
mod otlp;
mod prometheus;
mod report;
mod trace;

pub use measures::{Instrument, Kind, Labels, Measure, Options, check_label, check_name, instruments, measures};
pub use otlp::{Resource, metrics as otlp_metrics};
pub use prometheus::text as prometheus_text;
pub use report::{machine, markdown};
pub use trace::{Parent, Span, spans, traces as otlp_traces};
