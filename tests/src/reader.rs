//! A reader of the target that never rests: it sees what a user of the table would see while loads run and die.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio_postgres::SimpleQueryMessage;

use crate::connect;

/// Polls a PostgreSQL table until it is stopped.
#[derive(Debug)]
pub struct PollingReader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl PollingReader {
    /// Reads the count and an order-independent checksum of all rows, over and over.
    pub fn start(url: &str, table: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, sql, stopped) = (url.to_owned(), Self::query(table), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (runtime, client) = connect(&url);
            let mut seen: Vec<String> = Vec::new();
            let mut stop_after_this = false;
            while !stop_after_this {
                stop_after_this = stopped.load(Ordering::SeqCst);
                let found = match runtime.block_on(client.simple_query(&sql)) {
                    Ok(messages) => messages
                        .iter()
                        .find_map(|m| match m {
                            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                            _ => None,
                        })
                        .unwrap_or_default(),
                    // Readers must not notice a load: an error is a finding too.
                    Err(error) => error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned()),
                };
                if seen.last() != Some(&found) {
                    seen.push(found);
                }
            }
            seen
        });
        Self { stop, thread }
    }

    /// The query that it runs: equal answers mean equal tables.
    pub fn query(table: &str) -> String {
        format!(
            "SELECT count(*) || ' rows, checksum ' || coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint), 0) FROM {table} t"
        )
    }

    /// The distinct states that it saw, in order.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the reader does not panic")
    }
}
