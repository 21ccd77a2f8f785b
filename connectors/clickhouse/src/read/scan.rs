//! One prepared read: which columns of what, filtered how, in which partitions. It is its own description: another
//! process reads the same partitions from the JSON.

use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dpone_engine::Scan;
use dpone_planner::{Error, Result};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Began;
use super::column::Decode;
use super::decode::Decoder;
use crate::client::{Server, Statement};
use crate::error::code_of;

/// Text of one column that is made of a dictionary at once.
const SPREAD_BYTES: usize = 32 << 20;

/// Everything about a read but the connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ScanSpec {
    pub connection: String,
    /// For messages: the table's name, or `query`.
    pub table: String,
    /// What stands after FROM.
    pub from: String,
    /// What is selected, column by column, in the order of the schema.
    pub select: Vec<String>,
    pub decode: Vec<Decode>,
    pub schema: SchemaRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// What each partition adds to WHERE. All partitions together are all rows, and no row is in two.
    pub partitions: Vec<Option<String>>,
    /// Target rows of a batch when the caller asks for more.
    pub batch_rows: usize,
    pub rows: Option<u64>,
}

impl ScanSpec {
    pub(super) fn sql(&self, partition: usize) -> Result<String> {
        let part = self.partitions.get(partition).ok_or_else(|| {
            Error::internal(format!("{}: there is no partition {partition} of {}", self.table, self.partitions.len()))
        })?;
        // Without names of their own: WHERE would take them for the columns.
        let select = if self.select.is_empty() { "toUInt8(1)".to_owned() } else { self.select.join(", ") };
        let mut sql = format!("SELECT {select} FROM {}", self.from);
        let conditions: Vec<_> = part.iter().chain(&self.filter).map(|condition| format!("({condition})")).collect();
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
        }
        if let Some(limit) = self.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        Ok(sql)
    }
}

/// A [`ScanSpec`] with the server to run it on.
#[derive(Debug)]
pub(super) struct ClickHouseScan {
    pub server: Server,
    pub spec: ScanSpec,
    /// Notes when queries began, where this process has the snapshot.
    pub began: Option<Arc<Began>>,
}

impl Scan for ClickHouseScan {
    fn connection(&self) -> &str {
        &self.spec.connection
    }

    fn spec(&self) -> serde_json::Value {
        // Strings, numbers and a schema: nothing in it can fail to serialise.
        serde_json::to_value(&self.spec).unwrap_or_default()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.spec.schema)
    }

    fn partitions(&self) -> usize {
        self.spec.partitions.len()
    }

    fn describe(&self, partition: usize) -> String {
        self.spec.sql(partition).unwrap_or_default()
    }

    fn rows_estimate(&self) -> Option<u64> {
        match (self.spec.filter.is_some(), self.spec.rows, self.spec.limit) {
            (false, rows, None) => rows,
            (false, Some(rows), Some(limit)) => Some(rows.min(limit as u64)),
            _ => None,
        }
    }

    /// Reads in a task, so that the next batch is on its way while one is worked on. The query begins when the first batch
    /// is asked for: a server does not wait for long with an answer that nobody reads. Dropping the stream ends the task and
    /// stops the query.
    fn read(&self, partition: usize, batch_rows: usize) -> Result<SendableRecordBatchStream> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::internal("a table is read outside the asynchronous runtime"))?;
        let read = Read {
            server: self.server.clone(),
            sql: self.spec.sql(partition)?,
            decoder: Decoder::new(self.schema(), self.spec.decode.clone()),
            batch_rows: match self.spec.batch_rows {
                0 => batch_rows,
                own => own.min(batch_rows.max(1)),
            },
            began: self.began.clone(),
        };
        let table = self.spec.table.clone();
        let start = move || {
            let (batches, received) = mpsc::channel(1);
            let task = AbortOnDrop(runtime.spawn(async move {
                if let Err(error) = read.run(&batches).await {
                    let error = gone(error).with("table", table).with("partition", partition.to_string());
                    // A closed channel means that nobody waits for the error any more.
                    let _ = batches.send(Err(error)).await;
                }
            }));
            (task, received)
        };
        let (mut start, mut running) = (Some(start), None);
        let stream = futures::stream::poll_fn(move |context| {
            if let Some(start) = start.take() {
                running = Some(start());
            }
            match &mut running {
                Some((_, received)) => received.poll_recv(context),
                None => Poll::Ready(None),
            }
        });
        let stream = stream.map(|batch| batch.map_err(DataFusionError::from));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

struct Read {
    server: Server,
    sql: String,
    decoder: Decoder,
    batch_rows: usize,
    began: Option<Arc<Began>>,
}

impl Read {
    async fn run(mut self, batches: &mpsc::Sender<Result<RecordBatch>>) -> Result<()> {
        let mut blocks = self.server.read(Statement::new(self.sql), self.batch_rows).await?;
        if let Some(began) = &self.began {
            began.note(Instant::now());
        }
        while let Some(received) = blocks.next().await? {
            let rows = received.num_rows();
            for part in parts(rows, spread_rows(&received)) {
                let batch = self.decoder.batch(&received.slice(part.start, part.len()))?;
                // The server keeps to the number of rows mostly, and promises it nowhere.
                for part in parts(batch.num_rows(), self.batch_rows) {
                    if batches.send(Ok(batch.slice(part.start, part.len()))).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

/// What was there when the table was opened, and is not when it is read, went meanwhile.
fn gone(error: Error) -> Error {
    match code_of(&error) {
        Some(code @ (8 | 10 | 16 | 47 | 60 | 81 | 218 | 219)) => Error::conflict(error.message())
            .with("code", code.to_string())
            .with_hint("it was there when the read began: run it again, as the table is now"),
        _ => error,
    }
}

/// So many rows at once, at least one.
fn parts(rows: usize, at_once: usize) -> impl Iterator<Item = Range<usize>> {
    let at_once = at_once.max(1);
    (0..rows).step_by(at_once).map(move |from| from..(from + at_once).min(rows))
}

/// How many rows at once keep below [`SPREAD_BYTES`] when each has a copy of its key: a dictionary may be far smaller than
/// what it stands for.
fn spread_rows(received: &RecordBatch) -> usize {
    let dictionaries = received.columns().iter().filter_map(|column| column.as_any_dictionary_opt());
    let widest = dictionaries.filter_map(|dictionary| {
        let keys = dictionary.values().as_binary_opt::<i32>()?;
        keys.offsets().lengths().max()
    });
    SPREAD_BYTES / widest.max().unwrap_or_default().max(1)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
