//! `COPY … TO STDOUT (FORMAT binary)` as record batches: framing of the stream, cutting of batches, one task a
//! partition that keeps the socket busy while the batch before it is worked on.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use dpone_planner::{Error, Result};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::decode::{Bad, ColumnBuilder};
use crate::client::{CancelOnDrop, Client, Server};
use crate::error::from_driver;
use crate::types::Decode;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// A batch is cut when its rows had this many bytes on the wire.
const BATCH_BYTES: usize = 8 << 20;

/// One partition's read.
#[derive(Debug, Clone)]
pub(super) struct CopyOut {
    pub server: Server,
    /// `None`: a transaction of its own.
    pub snapshot: Option<String>,
    /// The query to copy.
    pub query: String,
    pub schema: SchemaRef,
    pub decode: Vec<Decode>,
    pub batch_rows: usize,
    /// For messages.
    pub table: String,
    pub partition: usize,
}

impl CopyOut {
    /// Starts reading in a task. Dropping the stream stops the task and cancels the statement at the server. `keep` is
    /// held until the stream ends: the snapshot must stay open.
    pub(super) fn start<K: Send + 'static>(self, keep: K) -> Result<SendableRecordBatchStream> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| Error::internal("a table is read outside the asynchronous runtime"))?;
        let schema = Arc::clone(&self.schema);
        let (batches, mut received) = mpsc::channel(1);
        let task = AbortOnDrop(runtime.spawn(async move {
            let (table, partition) = (self.table.clone(), self.partition);
            if let Err(error) = self.run(&batches).await {
                let error = error.with("table", table).with("partition", partition.to_string());
                // A closed channel means that nobody waits for the error any more.
                let _ = batches.send(Err(error)).await;
            }
            drop(keep);
        }));
        let stream = futures::stream::poll_fn(move |context| {
            let _running = &task;
            received.poll_recv(context)
        });
        let stream = stream.map(|batch| batch.map_err(DataFusionError::from));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    async fn run(self, batches: &mpsc::Sender<Result<RecordBatch>>) -> Result<()> {
        // The decoder first: a mistake in it must not cost a connection.
        let mut decoder = RowDecoder::new(Arc::clone(&self.schema), &self.decode, self.batch_rows)?;
        let client = self.server.connect().await?;
        begin(&client, self.snapshot.as_deref()).await?;
        let guard = CancelOnDrop::new(&client);
        tracing::debug!(partition = self.partition, sql = self.query, "copy");
        let copy = format!("COPY ({}) TO STDOUT (FORMAT binary)", self.query);
        let data = client.copy_out(&copy).await.map_err(from_driver)?;
        let finished = self.pump(data, &mut decoder, batches).await?;
        if !finished {
            return Ok(());
        }
        guard.disarm();
        client.run("COMMIT").await
    }

    /// Whether the data was read to its end: `false` when nobody wants the rest.
    async fn pump(
        &self,
        data: impl Stream<Item = std::result::Result<Bytes, tokio_postgres::Error>>,
        decoder: &mut RowDecoder,
        batches: &mpsc::Sender<Result<RecordBatch>>,
    ) -> Result<bool> {
        futures::pin_mut!(data);
        while let Some(chunk) = data.next().await {
            let chunk = chunk.map_err(from_driver)?;
            decoder.feed(&chunk)?;
            while let Some(batch) = decoder.full()? {
                if batches.send(Ok(batch)).await.is_err() {
                    return Ok(false);
                }
            }
        }
        if let Some(batch) = decoder.end()? {
            return Ok(batches.send(Ok(batch)).await.is_ok());
        }
        Ok(true)
    }
}

async fn begin(client: &Client, snapshot: Option<&str>) -> Result<()> {
    let mut sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned();
    if let Some(snapshot) = snapshot {
        sql.push_str(&format!("; SET TRANSACTION SNAPSHOT {}", super::filter::quote_text(snapshot)));
    }
    client.run(&sql).await.map_err(|error| match snapshot {
        Some(_) if !error.is_transient() => Error::transient(format!("the snapshot cannot be used any more: {error}"))
            .with_hint("the connection that held it was lost; a new run takes a new one"),
        _ => error,
    })
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Frames rows and cuts batches.
#[derive(Debug)]
pub(crate) struct RowDecoder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    batch_rows: usize,
    /// Rows and wire bytes of the batch that is being built.
    rows: usize,
    bytes: usize,
    /// Rows of the batches before it.
    done: u64,
    /// The start of a row whose rest has not come yet. The server sends whole rows, and nothing promises it.
    carry: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    End,
}

/// What one look at the bytes found.
enum Frame {
    /// A thing of this many bytes was read.
    Taken(usize),
    /// More bytes are needed.
    Short,
}

impl RowDecoder {
    pub(crate) fn new(schema: SchemaRef, decode: &[Decode], batch_rows: usize) -> Result<Self> {
        let batch_rows = batch_rows.max(1);
        let columns = decode
            .iter()
            .zip(schema.fields())
            .map(|(decode, field)| ColumnBuilder::new(decode, field, batch_rows.min(8192)))
            .collect::<Result<_>>()?;
        Ok(Self { schema, columns, batch_rows, rows: 0, bytes: 0, done: 0, carry: Vec::new(), state: State::Header })
    }

    /// Takes the rows of a chunk.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<()> {
        if self.carry.is_empty() {
            let used = self.take_frames(chunk)?;
            self.carry.extend_from_slice(&chunk[used..]);
        } else {
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(chunk);
            let used = self.take_frames(&carry)?;
            carry.drain(..used);
            self.carry = carry;
        }
        Ok(())
    }

    /// The batch, when it is full.
    pub(crate) fn full(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows < self.batch_rows && self.bytes < BATCH_BYTES {
            return Ok(None);
        }
        self.cut().map(Some)
    }

    /// The last batch, after the last chunk.
    pub(crate) fn end(&mut self) -> Result<Option<RecordBatch>> {
        if self.state != State::End || !self.carry.is_empty() {
            return Err(Error::transient("the server ended the data in the middle of a row"));
        }
        if self.rows == 0 { Ok(None) } else { self.cut().map(Some) }
    }

    fn take_frames(&mut self, data: &[u8]) -> Result<usize> {
        let mut at = 0;
        while at < data.len() {
            let frame = match self.state {
                State::Header => self.header(&data[at..])?,
                State::Rows => self.row(&data[at..])?,
                State::End => return Err(Error::internal("the server sent data after the end of the data")),
            };
            match frame {
                Frame::Taken(length) => at += length,
                Frame::Short => break,
            }
        }
        Ok(at)
    }

    fn header(&mut self, data: &[u8]) -> Result<Frame> {
        let fixed = SIGNATURE.len() + 8;
        if data.len() < fixed {
            return Ok(Frame::Short);
        }
        if !data.starts_with(SIGNATURE) {
            return Err(Error::internal("the server's binary copy does not begin with its signature"));
        }
        let length = &data[fixed - 4..fixed];
        let extension = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if data.len() < fixed + extension {
            return Ok(Frame::Short);
        }
        self.state = State::Rows;
        Ok(Frame::Taken(fixed + extension))
    }

    /// One row: its number of fields, then length and bytes of each. Looks first whether all of it is there, so that a
    /// row is taken whole or not at all.
    #[inline]
    fn row(&mut self, data: &[u8]) -> Result<Frame> {
        let Some(count) = data.first_chunk::<2>() else { return Ok(Frame::Short) };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.state = State::End;
            return Ok(Frame::Taken(2));
        }
        if count as usize != self.columns.len() {
            return Err(Error::internal(format!("the server sent {count} fields for {} columns", self.columns.len())));
        }
        let Some(length) = row_length(data, self.columns.len()) else { return Ok(Frame::Short) };
        let mut rest = &data[2..length];
        for index in 0..self.columns.len() {
            let Some((size, tail)) = rest.split_first_chunk::<4>() else { return Ok(Frame::Short) };
            let size = i32::from_be_bytes(*size);
            if size < 0 {
                self.columns[index].push_null();
                rest = tail;
                continue;
            }
            let (value, tail) = tail.split_at(size as usize);
            if let Err(bad) = self.columns[index].push(value) {
                return Err(self.bad(bad, index, self.rows));
            }
            rest = tail;
        }
        self.rows += 1;
        self.bytes += length;
        Ok(Frame::Taken(length))
    }

    fn cut(&mut self) -> Result<RecordBatch> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for index in 0..self.columns.len() {
            match self.columns[index].finish() {
                Ok(array) => arrays.push(array),
                Err((bad, row)) => return Err(self.bad(bad, index, row)),
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|e| Error::internal(format!("the server's rows do not fit the table's columns: {e}")))?;
        self.done += self.rows as u64;
        (self.rows, self.bytes) = (0, 0);
        Ok(batch)
    }

    #[cold]
    fn bad(&self, bad: Bad, column: usize, row: usize) -> Error {
        let field = self.schema.field(column);
        bad.error(field.name(), field.data_type(), self.done + row as u64 + 1)
    }
}

/// The bytes of the whole row, or `None` when they are not all there.
#[inline]
fn row_length(data: &[u8], columns: usize) -> Option<usize> {
    let mut at = 2;
    for _ in 0..columns {
        let size = i32::from_be_bytes(*data.get(at..)?.first_chunk::<4>()?);
        at += 4 + size.max(0) as usize;
    }
    (at <= data.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::AsArray;
    use arrow::datatypes::{DataType, Field, Int32Type, Schema};
    use proptest::prelude::*;

    use super::*;

    fn stream(rows: &[(Option<i32>, Option<&str>)]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
        for (number, text) in rows {
            out.extend_from_slice(&2i16.to_be_bytes());
            match number {
                Some(number) => {
                    out.extend_from_slice(&4i32.to_be_bytes());
                    out.extend_from_slice(&number.to_be_bytes());
                }
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            }
            match text {
                Some(text) => {
                    out.extend_from_slice(&(text.len() as i32).to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
        out.extend_from_slice(&(-1i16).to_be_bytes());
        out
    }

    fn decoder(batch_rows: usize) -> RowDecoder {
        let fields = vec![Field::new("n", DataType::Int32, true), Field::new("t", DataType::Utf8, true)];
        RowDecoder::new(Arc::new(Schema::new(fields)), &[Decode::Int4, Decode::Text], batch_rows).unwrap()
    }

    proptest! {
        #[test]
        fn rows_survive_any_cut_of_the_stream(
            rows in prop::collection::vec((any::<Option<i32>>(), any::<Option<String>>()), 0..20),
            cut in 1usize..40,
            batch_rows in 1usize..5,
        ) {
            let rows: Vec<_> = rows.iter().map(|(n, t)| (*n, t.as_deref())).collect();
            let mut decoder = decoder(batch_rows);
            let mut found = Vec::new();
            let mut keep = |batch: RecordBatch| {
                let (numbers, texts) = (batch.column(0).as_primitive::<Int32Type>(), batch.column(1).as_string::<i32>());
                found.extend(numbers.iter().zip(texts.iter()).map(|(n, t)| (n, t.map(str::to_owned))));
            };
            for chunk in stream(&rows).chunks(cut) {
                decoder.feed(chunk).unwrap();
                while let Some(batch) = decoder.full().unwrap() {
                    keep(batch);
                }
            }
            if let Some(batch) = decoder.end().unwrap() {
                keep(batch);
            }
            let want: Vec<_> = rows.iter().map(|(n, t)| (*n, t.map(str::to_owned))).collect();
            prop_assert_eq!(found, want);
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        let whole = stream(&[(Some(1), Some("x"))]);
        for end in 0..whole.len() {
            let mut decoder = decoder(10);
            decoder.feed(&whole[..end]).unwrap();
            assert!(decoder.end().is_err(), "{end}");
        }
    }

    #[test]
    fn an_error_names_column_and_row_and_no_value() {
        let mut decoder = decoder(2);
        let mut data = stream(&[(Some(1), Some("a")), (Some(2), Some("b")), (Some(3), Some("secret"))]);
        let broken = data.windows(6).position(|w| w == b"secret").unwrap();
        data[broken] = 0xFF;
        let error = (|| {
            decoder.feed(&data)?;
            decoder.end()
        })()
        .unwrap_err();
        assert_eq!(error.context(), [("column", "t".to_owned()), ("row", "3".to_owned())]);
        assert!(!format!("{error:?}").contains("ecret"));
    }
}
