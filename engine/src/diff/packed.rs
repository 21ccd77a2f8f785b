//! Key and carried columns of rows that are held: integers that lie close together take a byte or two each.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::Result as DataFusionResult;

use crate::Error;

/// The columns of one batch.
#[derive(Debug)]
pub(super) struct Packed {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
}

impl Packed {
    pub(super) fn new(batch: &RecordBatch) -> Self {
        let columns = batch.columns().iter().map(Column::new).collect();
        Self { schema: batch.schema(), columns, rows: batch.num_rows() }
    }

    pub(super) fn num_rows(&self) -> usize {
        self.rows
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// Rows of several batches of one schema, by batch and row in it. There is at least one batch.
    pub(super) fn interleave(batches: &[&Self], rows: &[(usize, usize)]) -> DataFusionResult<RecordBatch> {
        let first = batches.first().ok_or_else(|| Error::internal("rows of no batch"))?;
        let columns = (0..first.columns.len())
            .map(|i| Column::interleave(&batches.iter().map(|b| &b.columns[i]).collect::<Vec<_>>(), rows))
            .collect::<DataFusionResult<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&first.schema), columns, &options)?)
    }
}

/// Columns of one type are all of one kind.
#[derive(Debug)]
enum Column {
    Whole(ArrayRef),
    Numbers(Numbers),
}

/// Values of a type of 4 or 8 bytes, taken for integers whatever they stand for.
#[derive(Debug)]
struct Numbers {
    of: DataType,
    least: i64,
    above: Above,
    nulls: Option<NullBuffer>,
}

/// How far each value is above the least.
#[derive(Debug)]
enum Above {
    /// All values are the least.
    Nowhere,
    Bytes(Vec<u8>),
    Pairs(Vec<u16>),
    Words(Vec<u32>),
    Wide(Vec<u64>),
}

impl Column {
    fn new(column: &ArrayRef) -> Self {
        let data = column.to_data();
        let values = match (data.data_type().primitive_width(), data.buffers()) {
            (Some(8), [values]) => ScalarBuffer::<i64>::new(values.clone(), data.offset(), data.len()),
            (Some(4), [values]) => ScalarBuffer::<i32>::new(values.clone(), data.offset(), data.len())
                .iter()
                .map(|v| i64::from(*v))
                .collect(),
            _ => return Self::Whole(Arc::clone(column)),
        };
        Self::Numbers(Numbers::new(data.data_type(), &values, data.nulls().cloned()))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Whole(array) => array.get_array_memory_size(),
            Self::Numbers(numbers) => numbers.bytes(),
        }
    }

    fn interleave(columns: &[&Self], rows: &[(usize, usize)]) -> DataFusionResult<ArrayRef> {
        let mut arrays = Vec::new();
        let mut numbers = Vec::new();
        for column in columns {
            match column {
                Self::Whole(array) => arrays.push(array.as_ref()),
                Self::Numbers(n) => numbers.push(n),
            }
        }
        match numbers.first() {
            None => Ok(interleave(&arrays, rows)?),
            Some(_) if !arrays.is_empty() => Err(Error::internal("a column of two types").into()),
            Some(first) => first.restored(&numbers, rows),
        }
    }
}

impl Numbers {
    fn new(of: &DataType, values: &[i64], nulls: Option<NullBuffer>) -> Self {
        let there = |row: usize| nulls.as_ref().is_none_or(|n| n.is_valid(row));
        let valid = || values.iter().enumerate().filter(|(row, _)| there(*row)).map(|(_, value)| *value);
        let least = valid().min().unwrap_or_default();
        let most = valid().max().unwrap_or_default().wrapping_sub(least) as u64;
        // Whatever lies under a NULL is not kept.
        let above = values.iter().enumerate().map(|(row, v)| if there(row) { v.wrapping_sub(least) as u64 } else { 0 });
        let above = match most {
            0 => Above::Nowhere,
            1..=0xff => Above::Bytes(above.map(|a| a as u8).collect()),
            0x100..=0xffff => Above::Pairs(above.map(|a| a as u16).collect()),
            0x1_0000..=0xffff_ffff => Above::Words(above.map(|a| a as u32).collect()),
            _ => Above::Wide(above.collect()),
        };
        Self { of: of.clone(), least, above, nulls }
    }

    fn bytes(&self) -> usize {
        let above = match &self.above {
            Above::Nowhere => 0,
            Above::Bytes(above) => above.capacity(),
            Above::Pairs(above) => 2 * above.capacity(),
            Above::Words(above) => 4 * above.capacity(),
            Above::Wide(above) => 8 * above.capacity(),
        };
        above + self.nulls.as_ref().map_or(0, |nulls| nulls.buffer().capacity())
    }

    #[inline]
    fn at(&self, row: usize) -> i64 {
        let above = match &self.above {
            Above::Nowhere => 0,
            Above::Bytes(above) => u64::from(above[row]),
            Above::Pairs(above) => u64::from(above[row]),
            Above::Words(above) => u64::from(above[row]),
            Above::Wide(above) => above[row],
        };
        self.least.wrapping_add(above as i64)
    }

    /// The rows as an array of the type they came in. All of `columns` are of this type.
    fn restored(&self, columns: &[&Self], rows: &[(usize, usize)]) -> DataFusionResult<ArrayRef> {
        let values = rows.iter().map(|(column, row)| columns[*column].at(*row));
        let values = match self.of.primitive_width() {
            Some(4) => Buffer::from_vec(values.map(|v| v as i32).collect::<Vec<_>>()),
            _ => Buffer::from_vec(values.collect::<Vec<_>>()),
        };
        let nulls = columns.iter().any(|c| c.nulls.is_some()).then(|| {
            rows.iter()
                .map(|(column, row)| columns[*column].nulls.as_ref().is_none_or(|n| n.is_valid(*row)))
                .collect::<NullBuffer>()
        });
        let data = ArrayData::builder(self.of.clone()).len(rows.len()).add_buffer(values).nulls(nulls).build()?;
        Ok(make_array(data))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::*;
    use arrow::compute::{concat_batches, interleave_record_batch};

    use super::*;

    fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        RecordBatch::try_from_iter_with_nullable(names.iter().zip(columns).map(|(n, c)| (n, c, true))).unwrap()
    }

    /// One batch of narrow values and one of the widest there are: both are columns of the same types.
    fn batches() -> [RecordBatch; 2] {
        let narrow: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values((0..1000).map(|n| i64::MIN + n % 200))),
            Arc::new(UInt64Array::from_iter((0..1000).map(|n| (n % 3 > 0).then_some(u64::MAX - n)))),
            Arc::new(Int32Array::from_iter_values((0..1000).map(|n| i32::MAX - 60 * n))),
            Arc::new(TimestampMicrosecondArray::from_iter_values((0..1000).map(|_| 7)).with_timezone("UTC")),
            Arc::new(Date32Array::from_iter((0..1000).map(|n| (n == 999).then_some(-1)))),
            Arc::new(Float64Array::from_iter_values((0..1000).map(f64::from))),
            Arc::new(StringViewArray::from_iter_values((0..1000).map(|n| n.to_string()))),
        ];
        let wide: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX, -1])),
            Arc::new(UInt64Array::from(vec![0, u64::MAX, 1 << 63])),
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(i64::MAX), None, Some(0)]).with_timezone("UTC")),
            Arc::new(Date32Array::from(vec![None, None, None])),
            Arc::new(Float64Array::from(vec![f64::NAN, -0.0, f64::INFINITY])),
            Arc::new(StringViewArray::from(vec![Some("a text that is not inlined"), None, Some("")])),
        ];
        [batch(narrow), batch(wide)]
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let [narrow, wide] = batches();
        // A slice: values do not begin where their buffer does.
        let slice = narrow.slice(100, 300);
        let packed = [Packed::new(&slice), Packed::new(&wide)];
        let rows: Vec<(usize, usize)> =
            (0..300).rev().map(|row| (0, row)).chain([(1, 2), (1, 0), (0, 7), (1, 1)]).collect();
        let back = Packed::interleave(&packed.iter().collect::<Vec<_>>(), &rows).unwrap();
        let expected = interleave_record_batch(&[&slice, &wide], &rows).unwrap();
        // Bits of floats, so that NaN equals itself and zeros differ.
        let bits = |batch: &RecordBatch| -> Vec<u64> {
            batch
                .column(5)
                .as_any()
                .downcast_ref::<Float64Array>()
                .unwrap()
                .values()
                .iter()
                .map(|v| v.to_bits())
                .collect()
        };
        assert_eq!(bits(&back), bits(&expected));
        let others = [0, 1, 2, 3, 4, 6];
        assert_eq!(back.project(&others).unwrap(), expected.project(&others).unwrap());
        assert_eq!(concat_batches(&wide.schema(), [&back]).unwrap().schema(), wide.schema());
    }

    #[test]
    fn close_integers_are_small() {
        let [narrow, _] = batches();
        let bytes = |column: usize| Packed::new(&narrow.project(&[column]).unwrap()).bytes();
        assert_eq!(bytes(0), 1000, "a byte each");
        assert_eq!(bytes(2), 2000, "two bytes each");
        assert_eq!(bytes(3), 0, "one value");
        assert_eq!(bytes(5), 8000, "bits of floats are far from each other");
    }
}
