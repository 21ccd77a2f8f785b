//! The target's rows, for comparisons: read whole, as one stream.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use dpone_engine::Result;

use super::catalog::Table;
use super::names::list;
use crate::client::{Server, Statement};

const BATCH_ROWS: usize = 65_536;

#[derive(Debug)]
struct Rows {
    server: Server,
    sql: String,
    schema: SchemaRef,
}

pub(crate) fn committed(server: &Server, table: &Table, schema: &SchemaRef) -> Result<Arc<dyn TableProvider>> {
    let columns = list(schema.fields().iter().map(|f| f.name().as_str()));
    let sql = format!("SELECT {columns} FROM {}", table.read_as("t"));
    let rows = Rows { server: server.clone(), sql, schema: Arc::clone(schema) };
    Ok(Arc::new(StreamingTable::try_new(Arc::clone(schema), vec![Arc::new(rows)])?))
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (server, sql, schema) = (self.server.clone(), self.sql.clone(), Arc::clone(&self.schema));
        let stream = futures::stream::once(async move {
            let read = server.arrow(Statement::new(sql), BATCH_ROWS).await?;
            Ok::<_, dpone_engine::Error>(futures::stream::try_unfold((read, schema), |(mut read, schema)| async move {
                let Some(batch) = read.next().await? else { return Ok::<_, dpone_engine::Error>(None) };
                Ok(Some((typed(&batch, &schema)?, (read, schema))))
            }))
        });
        use futures::TryStreamExt;
        let stream = stream.try_flatten().map_err(Into::into);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
    }
}

fn typed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast_with_options(column, field.data_type(), &options));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<Vec<_>, _>>()?)?)
}
