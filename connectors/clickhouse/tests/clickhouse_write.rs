//! The sink: what it promises, against a real server.
#![allow(clippy::unwrap_used, clippy::panic)]

mod server_support;

use std::sync::Arc;

use dpone_clickhouse::ClickHouseSink;
use dpone_engine::Sink;
use server_support::database;

#[tokio::test(flavor = "multi_thread")]
async fn tables_keep_every_promise_of_a_sink() {
    let server = database("conformance").await;
    let sink: Arc<dyn Sink> = Arc::new(ClickHouseSink::new(server.clone()));
    dpone_engine::testing::sink_conformance(Arc::clone(&sink), &server.config().database).await.unwrap();
}
