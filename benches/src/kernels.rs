//! The kernels: each takes what was prepared for it and gives something that depends on all of the work.

use std::io::Cursor;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{Field, SchemaRef};
use dpone_engine::Result;
use dpone_files::kernels::parse_csv;
use dpone_planner::row_hash::{DigestKind, RowDigest};
use dpone_postgres::kernels::Kernels;

use crate::inputs;

/// Bytes of a piece of the COPY stream, about what the driver hands over.
const PIECE: usize = 64 * 1024;

/// A family of types, ready to be encoded and decoded.
#[derive(Debug)]
pub struct Wire {
    kernels: Kernels,
    batch: RecordBatch,
    copy: Vec<u8>,
}

impl Wire {
    pub fn new(family: &str) -> Result<Self> {
        let (columns, arrays) = inputs::family(family)?;
        let kernels = Kernels::new(&columns, family == "nulls")?;
        let batch = RecordBatch::try_new(SchemaRef::clone(kernels.schema()), arrays)?;
        let copy = kernels.encode(std::slice::from_ref(&batch))?;
        Ok(Self { kernels, batch, copy })
    }

    pub fn encode(&self) -> Result<usize> {
        Ok(self.kernels.encode(std::slice::from_ref(&self.batch))?.len())
    }

    pub fn decode(&self) -> Result<usize> {
        let batches = self.kernels.decode(&self.copy, PIECE, inputs::ROWS)?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }
}

/// The row hash over all columns of lineitem.
#[derive(Debug)]
pub struct Hash {
    digest: RowDigest,
    arrays: Vec<ArrayRef>,
    rows: usize,
}

impl Hash {
    pub fn new() -> Result<Self> {
        let batch = inputs::lineitem()?;
        let fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        let digest = RowDigest::new(DigestKind::Values, fields);
        Ok(Self { digest, rows: batch.num_rows(), arrays: batch.columns().to_vec() })
    }

    pub fn run(&self) -> Result<usize> {
        Ok(self.digest.apply(&self.arrays, self.rows)?.len())
    }
}

/// A CSV file in memory.
#[derive(Debug)]
pub struct Csv {
    schema: SchemaRef,
    bytes: Vec<u8>,
}

impl Csv {
    pub fn new() -> Result<Self> {
        let (schema, bytes) = inputs::csv()?;
        Ok(Self { schema, bytes })
    }

    pub fn parse(&self) -> Result<usize> {
        // The copy stands for the read from the file.
        let batches = parse_csv(Cursor::new(self.bytes.clone()), &self.schema, inputs::ROWS)?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }
}
