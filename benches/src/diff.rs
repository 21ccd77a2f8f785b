//! The comparison: the probe of the target's keys, and the split into changes.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use dpone_engine::diff::DiffExec;
use dpone_engine::{Error, Result};
use dpone_planner::diff::{CHANGE, DIGEST, DiffSpec, KEY_HASH, Method};
use dpone_planner::row_hash::{DigestKind, RowDigest};
use futures::StreamExt;

use crate::inputs;

/// How the source differs from the target.
#[derive(Debug, Clone, Copy)]
pub enum Next {
    /// Not at all: every key is looked up, and nothing comes out.
    Same,
    /// In every second row: the split has to pick rows one by one.
    HalfChanged,
    /// One row in five is changed, one in twenty is gone, one in a hundred is new.
    Mixed,
}

/// Two sides with their hashes.
#[derive(Debug)]
pub struct Comparison {
    source: RecordBatch,
    target: RecordBatch,
    runtime: tokio::runtime::Runtime,
}

const KEY: [&str; 2] = ["l_orderkey", "l_linenumber"];

impl Comparison {
    pub fn new(next: Next) -> Result<Self> {
        let lineitem = inputs::lineitem()?;
        let rows = lineitem.num_rows() as u32;
        let (before, after) = match next {
            Next::Same => (lineitem.clone(), lineitem),
            Next::HalfChanged => (lineitem.clone(), changed(&lineitem, 2)?),
            Next::Mixed => (
                pick(&lineitem, (0..rows).filter(|row| row % 100 != 3))?,
                changed(&pick(&lineitem, (0..rows).filter(|row| row % 20 != 7))?, 5)?,
            ),
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().build().map_err(|e| Error::unknown(e.to_string()))?;
        Ok(Self { source: with_hashes(&after, true)?, target: with_hashes(&before, false)?, runtime })
    }

    /// Rows of the change set.
    pub fn run(&self) -> Result<usize> {
        let exec = self.plan()?;
        self.runtime.block_on(async {
            let mut stream = exec.execute(0, Arc::new(TaskContext::default()))?;
            let mut rows = 0;
            while let Some(batch) = stream.next().await {
                rows += batch?.num_rows();
            }
            Ok(rows)
        })
    }

    fn plan(&self) -> Result<DiffExec> {
        let memory = |batch: &RecordBatch| -> Result<Arc<dyn ExecutionPlan>> {
            Ok(MemorySourceConfig::try_new_exec(&[vec![batch.clone()]], batch.schema(), None)?)
        };
        let spec = DiffSpec {
            method: Method::Hash,
            key: KEY.map(str::to_owned).to_vec(),
            carried: Vec::new(),
            missing: true,
            replaced: false,
            quarantine_null_keys: false,
        };
        let columns: Vec<FieldRef> =
            self.source.schema().fields().iter().filter(|f| !f.name().starts_with("__dpone__")).cloned().collect();
        // A row that is missing from the source has only its key.
        let nullable = |field: &FieldRef| field.as_ref().clone().with_nullable(!KEY.contains(&field.name().as_str()));
        let mut output: Vec<Field> = columns.iter().map(nullable).collect();
        output.push(Field::new(CHANGE, DataType::Int8, false));
        let output = Arc::new(Schema::new(output));
        Ok(DiffExec::new(memory(&self.source)?, memory(&self.target)?, Arc::new(spec), output))
    }
}

fn pick(batch: &RecordBatch, rows: impl Iterator<Item = u32>) -> Result<RecordBatch> {
    Ok(take_record_batch(batch, &UInt32Array::from_iter_values(rows))?)
}

/// Another tax in one row of `every`.
fn changed(batch: &RecordBatch, every: usize) -> Result<RecordBatch> {
    use datafusion::arrow::array::{Array, AsArray, Decimal128Array};
    use datafusion::arrow::datatypes::Decimal128Type;
    let at = batch.schema().index_of("l_tax")?;
    let tax = batch.column(at).as_primitive::<Decimal128Type>();
    let moved = tax.values().iter().enumerate().map(|(row, value)| if row % every == 0 { value + 1 } else { *value });
    let moved = Decimal128Array::from_iter_values(moved).with_data_type(tax.data_type().clone());
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(moved);
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

fn with_hashes(batch: &RecordBatch, whole: bool) -> Result<RecordBatch> {
    let fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let kept: Vec<usize> = (0..fields.len()).filter(|i| whole || KEY.contains(&fields[*i].name().as_str())).collect();
    let keys: Vec<usize> = (0..fields.len()).filter(|i| KEY.contains(&fields[*i].name().as_str())).collect();
    let hash = |kind, of: &[usize]| -> Result<ArrayRef> {
        let digest = RowDigest::new(kind, of.iter().map(|i| fields[*i].clone()).collect());
        let arrays: Vec<ArrayRef> = of.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        digest.apply(&arrays, batch.num_rows())
    };
    let all: Vec<usize> = (0..fields.len()).collect();
    let (key, digest) = (hash(DigestKind::Key, &keys)?, hash(DigestKind::Values, &all)?);
    let mut schema: Vec<Field> = kept.iter().map(|i| fields[*i].clone()).collect();
    schema.push(Field::new(KEY_HASH, key.data_type().clone(), false));
    schema.push(Field::new(DIGEST, digest.data_type().clone(), false));
    let mut columns: Vec<ArrayRef> = kept.iter().map(|i| Arc::clone(batch.column(*i))).collect();
    columns.extend([key, digest]);
    let schema: SchemaRef = Arc::new(Schema::new(schema));
    Ok(RecordBatch::try_new(schema, columns)?)
}
