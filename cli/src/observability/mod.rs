//! What watches runs from outside: files of metrics, a page of metrics while a run goes on, and OpenTelemetry.

pub(crate) mod export;
pub(crate) mod listen;
pub(crate) mod otel;
