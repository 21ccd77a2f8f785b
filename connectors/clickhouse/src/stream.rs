//! Reading Arrow's streaming format from an answer, piece by piece.
//!
//! The format ends with a marker. A body that ends without it was cut, whatever HTTP says, and what follows the marker
//! is an exception: neither is ever taken for the end of the rows.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamDecoder;
use dpone_planner::Result;

use crate::answer::Answer;

/// Batches as they arrive. The server decides their size, below the block size that it was asked for.
#[derive(Debug)]
pub struct ArrowRead {
    answer: Answer,
    decoder: StreamDecoder,
    /// What of the last piece is not decoded yet.
    rest: Buffer,
    schema: SchemaRef,
    first: Option<RecordBatch>,
    /// The server has nothing more to do for this query.
    over: bool,
}

/// A server that computes, and sends nothing, does not notice that nobody listens any more: it is told.
impl Drop for ArrowRead {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (server, query_id) = self.answer.origin();
            runtime.spawn(async move {
                if let Err(error) = server.kill(&query_id).await {
                    tracing::debug!("the query {query_id} was not stopped: {error}");
                }
            });
        }
    }
}

impl ArrowRead {
    /// Waits for the schema.
    pub(crate) async fn open(answer: Answer) -> Result<Self> {
        let mut read = Self {
            answer,
            decoder: StreamDecoder::new(),
            rest: Buffer::from(&[] as &[u8]),
            schema: SchemaRef::new(arrow::datatypes::Schema::empty()),
            first: None,
            over: false,
        };
        // The decoder gives the schema away together with the first batch, or at the end.
        read.first = read.advance().await?;
        read.schema = read.decoder.schema().ok_or_else(|| read.answer.broken(None))?;
        Ok(read)
    }

    /// As the server calls the columns and their Arrow types.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next batch; `None` once the end of the stream was seen. Not to be called again after an error.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        match self.first.take() {
            Some(batch) => Ok(Some(batch)),
            None => self.advance().await,
        }
    }

    async fn advance(&mut self) -> Result<Option<RecordBatch>> {
        let batch = self.decode().await;
        self.over = matches!(batch, Ok(None));
        batch
    }

    async fn decode(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match self.decoder.decode(&mut self.rest) {
                Ok(Some(batch)) => return Ok(Some(batch)),
                Ok(None) => {}
                Err(error) => {
                    // The reason may be still on its way.
                    while let Ok(Some(_)) = self.answer.piece().await {}
                    return Err(self.answer.broken(Some(error)));
                }
            }
            match self.answer.piece().await? {
                Some(piece) => self.rest = Buffer::from(piece),
                None if self.has_ended() => return Ok(None),
                None => return Err(self.answer.broken(None)),
            }
        }
    }

    /// Whether the end marker was read. The decoder takes the border between two messages for an end as well; after the
    /// marker alone it refuses another byte.
    fn has_ended(&mut self) -> bool {
        self.decoder.finish().is_ok() && self.decoder.decode(&mut Buffer::from(&[0u8] as &[u8])).is_err()
    }
}
