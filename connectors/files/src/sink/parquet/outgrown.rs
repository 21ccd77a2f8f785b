//! Which columns of a Parquet file go without a dictionary, by the rows that it begins with.
//!
//! An encoder looks each value up until its dictionary is full, and writes the values of a column plain from there; the
//! next row group begins anew. A column of which nearly every value is another one pays for that and gains nothing, so
//! the different values of a row group are estimated: by how many values of one half of the sample the other half has too
//! (capture and recapture), and for columns that grow, where the halves share none, by the sample's own share.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};
use dpone_engine::Result;
use parquet::file::properties::DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT;

/// Rows that are looked at. Of fewer than half of them nothing is told.
const SAMPLE: usize = 4096;

/// The positions of columns whose dictionary would be full before a row group of so many rows is.
pub(in crate::sink) fn outgrown(batch: &RecordBatch, group_rows: usize) -> Result<Vec<usize>> {
    let rows = batch.num_rows().min(SAMPLE);
    if rows < SAMPLE / 2 {
        return Ok(Vec::new());
    }
    let mut outgrown = Vec::new();
    for (i, column) in batch.columns().iter().enumerate() {
        let sample = column.slice(0, rows);
        let Some(width) = width(&sample) else { continue };
        if different(&sample, group_rows)?.saturating_mul(width) > DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT {
            outgrown.push(i);
        }
    }
    Ok(outgrown)
}

/// Bytes of a value in a dictionary. `None` for columns that have no dictionary of their own, and for those that come
/// with one, which is small.
fn width(sample: &ArrayRef) -> Option<usize> {
    let length = |bytes: usize| 4 + bytes / sample.len().max(1);
    Some(match sample.data_type() {
        DataType::Utf8 => length(span(sample.as_string::<i32>().value_offsets())),
        DataType::LargeUtf8 => length(span(sample.as_string::<i64>().value_offsets())),
        DataType::Binary => length(span(sample.as_binary::<i32>().value_offsets())),
        DataType::LargeBinary => length(span(sample.as_binary::<i64>().value_offsets())),
        DataType::FixedSizeBinary(size) => usize::try_from(*size).ok()?,
        DataType::Decimal128(..=9, _) => 4,
        DataType::Decimal128(10..=18, _) => 8,
        other => other.primitive_width()?.max(4),
    })
}

fn span<O: Copy + TryInto<usize>>(offsets: &[O]) -> usize {
    let at = |offset: Option<&O>| offset.and_then(|o| (*o).try_into().ok()).unwrap_or(0);
    at(offsets.last()) - at(offsets.first())
}

/// How many different values so many rows have, by those of a sample.
fn different(sample: &ArrayRef, rows: usize) -> Result<usize> {
    let converter = RowConverter::new(vec![SortField::new(sample.data_type().clone())])?;
    let values = converter.convert_columns(std::slice::from_ref(sample))?;
    let half = sample.len() / 2;
    let (one, other) = (distinct(&values, 0..half), distinct(&values, half..sample.len()));
    let shared = one.intersection(&other).count();
    let (one, other) = (one.len(), other.len());
    let growing = rows.saturating_mul(one + other - shared) / sample.len();
    Ok((one * other).checked_div(shared).map_or(growing, |all| all.min(growing)))
}

fn distinct(values: &Rows, range: std::ops::Range<usize>) -> HashSet<&[u8]> {
    range.map(|row| values.row(row).data()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    /// Numbers below `below` in no order.
    fn scattered(rows: usize, below: i64) -> impl Iterator<Item = i64> {
        (0..rows as i64)
            .map(move |i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64).rotate_right(29).rem_euclid(below))
    }

    fn grows(rows: usize, column: ArrayRef) -> bool {
        let batch = RecordBatch::try_from_iter([("c", column.slice(0, rows))]).unwrap();
        outgrown(&batch, 1 << 20).unwrap() == [0]
    }

    #[test]
    fn columns_whose_values_repeat_keep_their_dictionary() {
        let numbers = |below| Arc::new(scattered(SAMPLE, below).collect::<Int64Array>()) as ArrayRef;
        // Most of the sample's values are different, and still there are few.
        assert!(!grows(SAMPLE, numbers(10_000)));
        assert!(grows(SAMPLE, numbers(1_000_000)));
        // In order, each four times: two halves share nothing.
        let keys = Arc::new((0..SAMPLE as i64).map(|i| i / 4).collect::<Int64Array>());
        assert!(grows(SAMPLE, keys));
        // In order, and each long enough: a row group has 1024 of them.
        let days = Arc::new((0..SAMPLE as i64).map(|i| i / 1024).collect::<Int64Array>());
        assert!(!grows(SAMPLE, days));
        let prices = Decimal128Array::from_iter_values(scattered(SAMPLE, 1 << 40).map(i128::from));
        assert!(grows(SAMPLE, Arc::new(prices.with_precision_and_scale(15, 2).unwrap())));
        let texts =
            |below| Arc::new(scattered(SAMPLE, below).map(|n| Some(format!("text {n}"))).collect::<StringArray>());
        assert!(!grows(SAMPLE, texts(50)));
        assert!(grows(SAMPLE, texts(i64::MAX)));
        assert!(!grows(SAMPLE, Arc::new(Int64Array::from(vec![None; SAMPLE]))));
        let batch = RecordBatch::try_from_iter([("c", numbers(1_000_000))]).unwrap();
        assert!(outgrown(&batch, 10_000).unwrap().is_empty(), "a small row group has room for them");
        assert_eq!(outgrown(&batch, usize::MAX).unwrap(), [0]);
    }

    #[test]
    fn of_few_rows_and_of_lists_nothing_is_told() {
        let keys = Arc::new((0..SAMPLE as i64).collect::<Int64Array>());
        assert!(grows(SAMPLE / 2, Arc::clone(&keys) as ArrayRef));
        assert!(!grows(SAMPLE / 2 - 1, keys));
        let lists = (0..SAMPLE as i64).map(|i| Some(vec![Some(i)]));
        assert!(!grows(SAMPLE, Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))));
    }
}
