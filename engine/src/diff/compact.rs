//! Rows without the memory around them: a batch may be a narrow view of something much larger, which it keeps alive and
//! which would be written with it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use datafusion::common::Result as DataFusionResult;
use datafusion::common::utils::memory::get_record_batch_memory_size;

/// The rows, copied where what they keep alive is more than twice their own size; and the bytes that they keep alive.
pub(super) fn compacted(batch: RecordBatch) -> DataFusionResult<(RecordBatch, usize)> {
    let held = get_record_batch_memory_size(&batch);
    let own: usize = batch.columns().iter().map(own_bytes).sum();
    if held <= 2 * own + SMALL {
        return Ok((batch, held));
    }
    let copied = take_record_batch(&batch, &UInt32Array::from_iter_values(0..batch.num_rows() as u32))?;
    let copied = with_own_texts(copied)?;
    let bytes = get_record_batch_memory_size(&copied);
    Ok((copied, bytes))
}

/// Not worth a copy.
const SMALL: usize = 4 << 10;

/// The rows with text views that refer to their own text only, whatever they were chosen from.
pub(super) fn with_own_texts(batch: RecordBatch) -> DataFusionResult<RecordBatch> {
    if !batch.columns().iter().any(|c| matches!(c.data_type(), DataType::Utf8View | DataType::BinaryView)) {
        return Ok(batch);
    }
    let columns = batch.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    });
    Ok(RecordBatch::try_new(batch.schema(), columns.collect())?)
}

fn own_bytes(column: &ArrayRef) -> usize {
    match column.data_type() {
        // Their buffers are shared by nature: what the views point to counts.
        DataType::Utf8View => column.as_string_view().total_buffer_bytes_used() + column.len() * size_of::<u128>(),
        DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used() + column.len() * size_of::<u128>(),
        _ => column.to_data().get_slice_memory_size().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Int64Array, StringViewArray};

    use super::*;

    #[test]
    fn a_slice_gives_back_what_it_does_not_need() {
        let texts = StringViewArray::from_iter_values((0..10_000).map(|n| format!("a text that is not inlined {n}")));
        let columns: [(&str, ArrayRef); 2] =
            [("n", Arc::new(Int64Array::from_iter_values(0..10_000))), ("t", Arc::new(texts))];
        let whole = RecordBatch::try_from_iter(columns).unwrap();
        assert!(get_record_batch_memory_size(&whole) > 400_000);
        let slice = whole.slice(5000, 100);
        let (small, bytes) = compacted(slice.clone()).unwrap();
        assert!(bytes < 20_000, "{bytes}");
        assert_eq!(small, slice);
        let (same, _) = compacted(whole.clone()).unwrap();
        assert!(Arc::ptr_eq(same.column(0), whole.column(0)), "what is full is not copied");
    }
}
