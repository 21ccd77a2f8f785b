//! Route benchmarks against the raw protocol.
