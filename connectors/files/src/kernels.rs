//! The loop that touches every byte of a CSV file, without a file. For benchmarks.

use std::io::Read;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use dpone_planner::Result;

use crate::csv::{Nulls, Records, Syntax, column};

/// Cuts records and parses their columns.
pub fn parse_csv(input: impl Read + Send + 'static, schema: &SchemaRef, batch_rows: usize) -> Result<Vec<RecordBatch>> {
    let mut records = Records::new(Box::new(input), "kernel.csv", Syntax::default());
    let nulls = Nulls::default();
    let mut batches = Vec::new();
    while records.read(batch_rows)? > 0 {
        let columns = schema.fields().iter().enumerate().map(|(i, field)| column(&records, i, field, &nulls));
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        batches.push(RecordBatch::try_new(Arc::clone(schema), columns)?);
    }
    Ok(batches)
}
