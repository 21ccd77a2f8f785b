//! The product as a whole, on real servers: one binary, one module a promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backfill;
mod backfill_evidence;
mod classes;
mod clickhouse_backfill;
mod clickhouse_commits;
mod clickhouse_edges;
mod clickhouse_kills;
mod clickhouse_migrations;
mod clickhouse_readers;
mod clickhouse_servers;
mod clickhouse_sink;
mod clickhouse_source;
mod clickhouse_tables;
mod clickhouse_types;
mod comparing;
mod connecting;
mod cursors;
mod edges;
mod evolution;
mod expand_contract;
mod faults;
mod hostile;
mod lineage;
mod majors;
mod matrix;
mod mirrors;
mod orders;
mod partitions;
mod problems;
mod properties;
mod scopes;
mod types;
mod upheaval;
mod xmin;
