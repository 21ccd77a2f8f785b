//! The reference implementation keeps every promise.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use dpone_memory::MemorySystem;

#[tokio::test(flavor = "multi_thread")]
async fn tables_in_memory_keep_every_promise_of_a_sink() {
    dpone_engine::testing::sink_conformance(Arc::new(MemorySystem::new()), "landing").await.unwrap();
}
