//! Batches on their way through a comparison: the columns of both inputs, and rows of the output.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, Int8Array, RecordBatch, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{filter_record_batch, is_not_null};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::Result as DataFusionResult;
use dpone_planner::diff::{DIGEST, DiffSpec, GONE, KEY_HASH};
use dpone_planner::row_hash::parse_hex;

use super::DiffFacts;
use super::packed::Packed;
use crate::Error;

/// Where the columns are.
pub(super) struct Columns {
    pub(super) spec: DiffSpec,
    schema: SchemaRef,
    /// The source's own columns come first, in the output as in the input.
    source_columns: usize,
    source_key: Vec<usize>,
    source_hash: usize,
    source_digest: usize,
    target_hash: usize,
    target_digest: usize,
    target_gone: Option<usize>,
    /// For each column of the output but the last: where the target has it.
    in_target: Vec<Option<usize>>,
}

impl Columns {
    pub(super) fn new(
        spec: &DiffSpec,
        schema: &SchemaRef,
        source: &SchemaRef,
        target: &SchemaRef,
    ) -> DataFusionResult<Self> {
        let of_target = |name: &String| spec.key.contains(name) || spec.carried.contains(name);
        let in_target = schema.fields()[..schema.fields().len() - 1]
            .iter()
            .map(|f| of_target(f.name()).then(|| target.index_of(f.name())).transpose())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            spec: spec.clone(),
            schema: Arc::clone(schema),
            source_columns: schema.fields().len() - 1 - spec.carried.len(),
            source_key: spec.key.iter().map(|k| source.index_of(k)).collect::<Result<_, _>>()?,
            source_hash: source.index_of(KEY_HASH)?,
            source_digest: source.index_of(DIGEST)?,
            target_hash: target.index_of(KEY_HASH)?,
            target_digest: target.index_of(DIGEST)?,
            target_gone: target.index_of(GONE).ok(),
            in_target,
        })
    }

    /// A batch of the source without rows that have a NULL in the key, which are counted.
    pub(super) fn source_batch(&self, batch: RecordBatch, facts: &mut DiffFacts) -> DataFusionResult<SourceBatch> {
        let first_row = facts.source_rows;
        facts.source_rows += batch.num_rows() as u64;
        let mut keep: Option<BooleanArray> = None;
        for (name, &index) in self.spec.key.iter().zip(&self.source_key) {
            let column = batch.column(index);
            if column.null_count() == 0 {
                continue;
            }
            let first = (0..column.len()).find(|row| column.is_null(*row)).unwrap_or_default() as u64;
            if !self.spec.quarantine_null_keys {
                facts.add(DiffFacts {
                    null_keys: vec![(name.clone(), column.null_count() as u64, first_row + first + 1)],
                    ..DiffFacts::default()
                });
            }
            let valid = is_not_null(column)?;
            keep = Some(match keep {
                None => valid,
                Some(so_far) => arrow::compute::and(&so_far, &valid)?,
            });
        }
        let rows = match keep {
            None => batch,
            Some(keep) => {
                let kept = filter_record_batch(&batch, &keep)?;
                if self.spec.quarantine_null_keys {
                    facts.quarantined += (batch.num_rows() - kept.num_rows()) as u64;
                }
                kept
            }
        };
        let keys = fixed(rows.column(self.source_hash))?.clone();
        let digests = Digests::new(rows.column(self.source_digest))?;
        Ok(SourceBatch { rows, keys, digests })
    }

    pub(super) fn target_keys<'a>(&self, batch: &'a RecordBatch) -> DataFusionResult<&'a FixedSizeBinaryArray> {
        fixed(batch.column(self.target_hash))
    }

    pub(super) fn target_digests(&self, batch: &RecordBatch) -> DataFusionResult<Digests> {
        Digests::new(batch.column(self.target_digest))
    }

    /// The columns that a comparison keeps of the target's rows: see [`Self::held`].
    pub(super) fn held_columns(&self, batch: &RecordBatch) -> DataFusionResult<RecordBatch> {
        let mut columns: Vec<usize> = self.in_target.iter().flatten().copied().collect();
        columns.extend(self.target_gone);
        if batch.column(self.target_digest).data_type() == &DataType::Binary {
            columns.push(self.target_digest);
        }
        Ok(batch.project(&columns)?)
    }

    /// What [`Self::held_columns`] gave, taken apart.
    pub(super) fn held(&self, kept: &RecordBatch) -> DataFusionResult<Held> {
        let values = self.in_target.iter().flatten().count();
        let mut others = kept.columns()[values..].iter();
        let gone = self.target_gone.and_then(|_| others.next()).map(|gone| gone.as_boolean().clone());
        let exact = others.next().map(|digests| digests.as_binary::<i32>().clone());
        Ok(Held { rows: Packed::new(&kept.project(&(0..values).collect::<Vec<_>>())?), exact, gone })
    }

    /// Rows of the source, chosen by `mask`, with what each is.
    pub(super) fn source_rows(
        &self,
        batch: &SourceBatch,
        mask: BooleanArray,
        changes: Vec<i8>,
    ) -> DataFusionResult<RecordBatch> {
        let own: Vec<usize> = (0..self.source_columns).collect();
        let chosen = filter_record_batch(&batch.rows.project(&own)?, &mask)?;
        let carried = &self.schema.fields()[self.source_columns..self.schema.fields().len() - 1];
        let mut columns = chosen.columns().to_vec();
        columns.extend(carried.iter().map(|f| new_null_array(f.data_type(), chosen.num_rows())));
        columns.push(Arc::new(Int8Array::from(changes)));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// Rows of the target, all of one kind. `rows` has the columns of [`Held::rows`].
    pub(super) fn target_rows(&self, rows: &RecordBatch, change: i8) -> DataFusionResult<RecordBatch> {
        let count = rows.num_rows();
        let mut there = rows.columns().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for (field, in_target) in self.schema.fields().iter().zip(&self.in_target) {
            columns.push(match in_target {
                Some(_) => there.next().cloned().ok_or_else(|| Error::internal("a target column is lost"))?,
                None => new_null_array(field.data_type(), count),
            });
        }
        columns.push(Arc::new(Int8Array::from(vec![change; count])));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Rows of the source with their hashes.
pub(super) struct SourceBatch {
    pub(super) rows: RecordBatch,
    pub(super) keys: FixedSizeBinaryArray,
    pub(super) digests: Digests,
}

/// What is held of rows of the target: key and carried columns, digests that are no hashes, marks.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) rows: Packed,
    pub(super) exact: Option<BinaryArray>,
    gone: Option<BooleanArray>,
}

impl Held {
    /// Bytes that are held.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes()
            + self.exact.as_ref().map_or(0, Array::get_array_memory_size)
            + self.gone.as_ref().map_or(0, Array::get_array_memory_size)
    }

    /// Whether any row counts as deleted.
    pub(super) fn has_gone(&self) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.has_true())
    }

    /// How many rows count as deleted.
    pub(super) fn gone(&self) -> u64 {
        self.gone.as_ref().map_or(0, |gone| gone.true_count() as u64)
    }

    /// Whether the row counts as deleted.
    pub(super) fn is_gone(&self, row: usize) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.is_valid(row) && gone.value(row))
    }
}

/// Digests of rows.
#[derive(Debug, Clone)]
pub(super) enum Digests {
    /// Hashes, and which of them are there: a row may have been written before hashes were stored.
    Hashes(Vec<u128>, Option<NullBuffer>),
    Exact(BinaryArray),
}

impl Digests {
    fn new(array: &ArrayRef) -> DataFusionResult<Self> {
        Ok(match array.data_type() {
            DataType::Binary => Self::Exact(array.as_binary::<i32>().clone()),
            DataType::FixedSizeBinary(16) => {
                let array = fixed(array)?;
                Self::Hashes((0..array.len()).map(|row| number(array.value(row))).collect(), array.nulls().cloned())
            }
            _ => {
                let text = arrow::compute::cast(array, &DataType::Utf8)?;
                let text = text.as_string::<i32>();
                let hashes: Vec<Option<u128>> = text.iter().map(|t| t.and_then(parse_hex)).collect();
                let known = NullBuffer::from_iter(hashes.iter().map(Option::is_some));
                let hashes = hashes.into_iter().map(Option::unwrap_or_default).collect();
                Self::Hashes(hashes, (known.null_count() > 0).then_some(known))
            }
        })
    }

    /// The hash of a row; `None` where there is none, or digests are no hashes.
    pub(super) fn hash(&self, row: usize) -> Option<u128> {
        match self {
            Self::Hashes(hashes, known) => known.as_ref().is_none_or(|k| k.is_valid(row)).then(|| hashes[row]),
            Self::Exact(_) => None,
        }
    }

    /// Whether digests are hashes, which may be missing in some rows.
    pub(super) fn are_hashes(&self) -> bool {
        matches!(self, Self::Hashes(..))
    }

    /// Whether two rows have the same values, for digests that are no hashes.
    pub(super) fn same_exactly(&self, row: usize, other: Option<&BinaryArray>, other_row: usize) -> bool {
        match (self, other) {
            (Self::Exact(mine), Some(theirs)) => {
                theirs.is_valid(other_row) && mine.value(row) == theirs.value(other_row)
            }
            _ => false,
        }
    }
}

pub(super) fn fixed(array: &ArrayRef) -> DataFusionResult<&FixedSizeBinaryArray> {
    Ok(array
        .as_fixed_size_binary_opt()
        .filter(|a| a.value_length() == 16)
        .ok_or_else(|| Error::internal("a key hash is not 16 bytes wide"))?)
}

/// A hash as a number.
pub(super) fn number(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_be_bytes)
}
