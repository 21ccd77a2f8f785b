//! The sink against a real server: `DPONE_TEST_POSTGRES_URL`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod changes;
mod exchange;
mod modes;
mod staging;
mod state;
mod support;
mod values;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int32Type, IntervalUnit, Schema, SchemaRef, TimeUnit};
use dpone_engine::{ErrorKind, Lease, StateStore};
use dpone_planner::plan::{DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, Operation, PATCH, ScopeFilter, WriteMode};
use dpone_planner::types::{CARRIAGE, CARRIAGE_RAW, EXTENSION_UUID, with_extension, with_native};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn changes(operation: Operation) -> WriteMode {
    WriteMode::Changes { key: vec!["id".into()], operation }
}

fn scope(sql: &str) -> WriteMode {
    WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql: sql.into() } }
}

async fn all(place: &Place, table: &str) -> Vec<String> {
    place.rows(&format!("SELECT id, name, amount FROM \"$S\".{table} ORDER BY id, name")).await
}

async fn leftovers(place: &Place) -> Vec<String> {
    place
        .rows(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = '$S' \
             AND relname ~ '^__dpone__[sfpi]' AND relname !~ '^__dpone__state'",
        )
        .await
}
