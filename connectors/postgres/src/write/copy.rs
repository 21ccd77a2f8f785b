//! One partition into staging: `COPY … FROM STDIN (FORMAT binary)` in a transaction of its own.
//!
//! The ledger's row is written in the same transaction, so a partition is there whole or not at all. Reading runs in a
//! task of its own, and the driver sends while the next chunk is encoded: at most two batches and two chunks wait.

use arrow::array::{ArrayRef, RecordBatch};
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::{Error, LoadSpec, Relation, Result, StagedPartition};
use dpone_planner::plan::OPERATION_COLUMN;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::CopyInSink;

use super::PostgresSink;
use super::encode::{HEADER, RowEncoder, TRAILER};
use super::names::{StagingNames, list, relation};
use super::staging::{self, Layout};
use super::target;
use crate::client::{CancelOnDrop, Client};
use crate::error::from_driver;

/// Bytes of one CopyData message: large enough that framing costs nothing, small enough to bound memory.
const CHUNK: usize = 1 << 20;
/// Room for the row that makes a chunk full, so that ordinary rows never make the buffer grow.
const SLACK: usize = 64 << 10;

pub(crate) async fn stage(
    sink: &PostgresSink,
    load: &LoadSpec,
    partition: usize,
    rows: SendableRecordBatchStream,
) -> Result<StagedPartition> {
    let target = sink.resolve(&load.target)?;
    let names = StagingNames::new(load, &target);
    let client = sink.server.connect().await?;
    let layout = staging::layout(&client, &names).await?;
    let table = layout.copy_table(&names);
    let (encoder, columns) = compile(&client, load, &layout, &table).await?;

    let cancel = CancelOnDrop::new(&client);
    // The commit that follows waits for its own WAL, which comes after this one's.
    client.run(&format!("BEGIN; SET LOCAL synchronous_commit = off; {}", sink.lock_timeout())).await?;
    let single = load.partitions == 1;
    replace_earlier(&client, &names, &table, partition, single).await?;
    let copy = format!(
        "COPY {} ({}) FROM STDIN (FORMAT binary{})",
        relation(&table),
        list(columns.iter().map(String::as_str)),
        // Rows of a table emptied in the same transaction need no later pass to be marked as visible.
        if single { ", FREEZE" } else { "" }
    );
    let into = client.copy_in::<_, Bytes>(&copy).await.map_err(from_driver)?;
    let (count, bytes) = send(rows, encoder, into).await.map_err(|e| e.with("partition", partition.to_string()))?;
    let xid = record(&client, &names, partition, count, bytes).await?;
    client.run("COMMIT").await?;
    cancel.disarm();
    Ok(StagedPartition {
        partition,
        rows: count,
        bytes,
        artifact: serde_json::json!({ "table": table.to_string(), "xid": xid }),
    })
}

/// The encoder and its COPY column list, from the types that the catalog has for the table copied into.
async fn compile(
    client: &Client,
    load: &LoadSpec,
    layout: &Layout,
    table: &Relation,
) -> Result<(RowEncoder, Vec<String>)> {
    let into = target::read(client, table)
        .await?
        .ok_or_else(|| Error::transient("the load's staging table is gone").with_hint("run again"))?;
    let mut columns = Vec::new();
    for (index, field) in load.staged_schema.fields().iter().enumerate() {
        let stored = layout.columns.iter().any(|c| c.name == *field.name());
        if stored || (layout.separate_rows && field.name() == OPERATION_COLUMN) {
            let column = into
                .column(field.name())
                .ok_or_else(|| Error::internal(format!("the staging table lacks the column {:?}", field.name())))?;
            columns.push((index, field.as_ref(), &column.wire));
        }
    }
    let names = columns.iter().map(|(_, field, _)| field.name().clone()).collect();
    Ok((RowEncoder::compile(columns)?, names))
}

/// Removes the rows of an earlier attempt at this partition. Rows know the transaction that wrote them, so partitions
/// can share one table.
async fn replace_earlier(
    client: &Client,
    names: &StagingNames,
    table: &Relation,
    partition: usize,
    single: bool,
) -> Result<()> {
    let ledger = relation(&names.ledger());
    let earlier =
        client.row(&format!("DELETE FROM {ledger} WHERE partition = $1 RETURNING xid"), &[&(partition as i32)]).await?;
    if single {
        return client.run(&format!("TRUNCATE {}", relation(table))).await;
    }
    if let Some(earlier) = earlier {
        let xid: String = earlier.get(0);
        client.execute(&format!("DELETE FROM {} WHERE xmin = $1::text::xid", relation(table)), &[&xid]).await?;
    }
    Ok(())
}

async fn record(client: &Client, names: &StagingNames, partition: usize, rows: u64, bytes: u64) -> Result<String> {
    // The ledger's key makes two attempts at once collide here.
    let sql = format!(
        "INSERT INTO {} (partition, rows, bytes, xid) \
         VALUES ($1, $2, $3, (pg_catalog.txid_current() & 4294967295)::text) RETURNING xid",
        relation(&names.ledger())
    );
    let row = client.row(&sql, &[&(partition as i32), &(rows as i64), &(bytes as i64)]).await?;
    Ok(row.map(|row| row.get(0)).unwrap_or_default())
}

/// Encodes and sends every batch; gives rows and bytes. Dropped half-way, the copy fails and the server rolls back.
async fn send(rows: SendableRecordBatchStream, encoder: RowEncoder, into: CopyInSink<Bytes>) -> Result<(u64, u64)> {
    let (mut batches, mut reader) = read_ahead(rows);
    futures::pin_mut!(into);
    let mut chunk = Chunk::new();
    let mut kept: Vec<ArrayRef> = Vec::new();
    let mut count = 0u64;
    while let Some(batch) = batches.recv().await {
        let batch = batch?;
        let bound = encoder.bind(&batch, count, &mut kept)?;
        let mut row = 0;
        while row < batch.num_rows() {
            row = bound.write(row, &mut chunk.buffer, CHUNK);
            if chunk.buffer.len() >= CHUNK && into.send(chunk.take()).await.is_err() {
                // The server's reason comes with the end of the copy.
                return Err(refused(into.as_mut().finish().await));
            }
        }
        count += batch.num_rows() as u64;
    }
    // A reader that died is no end of the stream.
    if let Some(Err(died)) = reader.join_next().await {
        return Err(Error::internal(format!("reading a partition failed: {died}")));
    }
    chunk.buffer.extend_from_slice(TRAILER);
    if into.send(chunk.take()).await.is_err() {
        return Err(refused(into.as_mut().finish().await));
    }
    let stored = into.as_mut().finish().await.map_err(from_driver)?;
    if stored != count {
        return Err(Error::internal(format!("{count} rows were sent to staging and {stored} arrived")));
    }
    Ok((count, chunk.sent))
}

fn refused(end: std::result::Result<u64, tokio_postgres::Error>) -> Error {
    match end {
        Err(error) => from_driver(error),
        Ok(_) => Error::transient("the connection was closed during COPY"),
    }
}

struct Chunk {
    buffer: Vec<u8>,
    sent: u64,
}

impl Chunk {
    fn new() -> Self {
        let mut buffer = Vec::with_capacity(CHUNK + SLACK);
        buffer.extend_from_slice(HEADER);
        Self { buffer, sent: 0 }
    }

    fn take(&mut self) -> Bytes {
        self.sent += self.buffer.len() as u64;
        Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK + SLACK)))
    }
}

/// Runs the stream in its own task, so that the source decodes while this side encodes. The task ends with the set.
fn read_ahead(mut rows: SendableRecordBatchStream) -> (mpsc::Receiver<Result<RecordBatch>>, JoinSet<()>) {
    let (sender, receiver) = mpsc::channel(2);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Some(batch) = rows.next().await {
            let failed = batch.is_err();
            if sender.send(batch.map_err(Error::from)).await.is_err() || failed {
                return;
            }
        }
    });
    (receiver, task)
}
