//! The `dpo` command as its users run it, on every database that it knows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod concurrency;
mod connecting;
mod dependencies;
mod executions;
mod guide;
mod models;
mod original;
mod schema;
mod steps;
mod support;
mod usage;
