//! Reading the server's own format from an answer, piece by piece: blocks of columns, as the server has them in memory.
//!
//! ArrowStream was read before. To write it takes the server half as much time again, and more than a quarter more
//! bytes (decimals of any size as sixteen, offsets beside lengths), while the arrays that come of both are the same.
//!
//! A block says how many columns and rows it has, and each column its name and type. Nothing marks the end of the last
//! one: an answer ends between two blocks, where HTTP says that it ends. So an answer whose length HTTP does not tell is
//! refused, and what follows a block and is none is looked at for an exception.

mod column;
mod feed;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use dpone_planner::Result;

use crate::answer::Answer;
use crate::types::ChType;
use feed::{Feed, Stop};

/// Batches as they arrive. The server decides their size, below the block size that it was asked for.
///
/// Columns are of the Arrow type that has the server's own bits: strings are bytes, points in time whole numbers of their
/// unit, numbers beyond 64 bits and addresses fixed bytes, the lowest first; columns of low cardinality are dictionaries.
#[derive(Debug)]
pub struct BlockRead {
    feed: Feed,
    columns: Vec<Column>,
    schema: Option<SchemaRef>,
    first: Option<RecordBatch>,
    /// The server has nothing more to do for this query.
    over: bool,
}

#[derive(Debug)]
struct Column {
    name: String,
    native: String,
    own: ChType,
}

/// A server that computes, and sends nothing, does not notice that nobody listens any more: it is told.
impl Drop for BlockRead {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (server, query_id) = self.feed.answer().origin();
            runtime.spawn(async move {
                if let Err(error) = server.kill(&query_id).await {
                    tracing::debug!("the query {query_id} was not stopped: {error}");
                }
            });
        }
    }
}

impl BlockRead {
    /// Waits for the first block: the query has begun then. `packed`: the answer is of the server's compressed frames.
    pub(crate) async fn open(answer: Answer, packed: bool) -> Result<Self> {
        let feed = Feed::new(answer, packed)?;
        let mut read = Self { feed, columns: Vec::new(), schema: None, first: None, over: false };
        read.first = read.advance().await?;
        Ok(read)
    }

    /// The next batch; `None` at the end. Not to be called again after an error.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        match self.first.take() {
            Some(batch) => Ok(Some(batch)),
            None => self.advance().await,
        }
    }

    async fn advance(&mut self) -> Result<Option<RecordBatch>> {
        // Before it, and after the last one, a server may say what the columns are in a block of no rows.
        loop {
            match self.block().await {
                Ok(Some(batch)) if batch.num_rows() == 0 => {}
                Ok(Some(batch)) => return Ok(Some(batch)),
                Ok(None) => {
                    self.over = true;
                    return Ok(None);
                }
                Err(stop) => return Err(self.feed.error(stop).await),
            }
        }
    }

    async fn block(&mut self) -> Result<Option<RecordBatch>, Stop> {
        if !self.feed.more().await? {
            return Ok(None);
        }
        let count = self.feed.varint().await?;
        let rows = self.feed.varint().await?;
        let rows = usize::try_from(rows).map_err(|_| Stop::garbled("the number of rows"))?;
        let known = !self.columns.is_empty();
        if count == 0 {
            return Err(Stop::garbled("the number of columns"));
        }
        if known && count != self.columns.len() as u64 {
            return Err(Stop::garbled("the number of columns"));
        }
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for at in 0..count {
            let name = self.feed.text("a column's name").await?;
            let native = self.feed.text("a column's type").await?;
            match self.columns.get(at as usize).filter(|_| known) {
                Some(column) if column.name == name && column.native == native => {}
                Some(_) => return Err(Stop::garbled("the names and types of columns")),
                None => {
                    let own = ChType::native(&native).ok_or_else(|| Stop::garbled("a column's type"))?;
                    self.columns.push(Column { name, native, own });
                }
            }
            let own = &self.columns[at as usize].own;
            // Of no rows nothing is sent, not even what comes before them.
            if rows > 0 {
                column::begin(&mut self.feed, own).await?;
            }
            arrays.push(column::whole_column(&mut self.feed, own, rows).await?);
        }
        let schema = self.schema.get_or_insert_with(|| {
            let fields = self.columns.iter().zip(&arrays);
            let fields = fields.map(|(column, array)| Field::new(&column.name, array.data_type().clone(), true));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)
            .map(Some)
            .map_err(|_| Stop::garbled("a column"))
    }
}
