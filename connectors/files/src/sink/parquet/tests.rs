//! What is written is read back by arrow's reader, and said of as arrow's writer says it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::WriterProperties;

use super::ParquetWriter;

fn scattered(rows: usize, below: u64) -> impl Iterator<Item = u64> + Clone {
    (0..rows as u64).map(move |i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_right(29) % below)
}

fn columns(rows: usize) -> Vec<(String, ArrayRef)> {
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    let mut add = |name: &str, array: ArrayRef| {
        columns.push((name.to_owned(), array.clone()));
        // With NULLs, in patches.
        let keep: BooleanArray = (0..rows).map(|i| Some(i % 7 == 3 || i / 3000 % 3 == 1)).collect();
        columns.push((format!("{name}_nulls"), arrow::compute::nullif(&array, &keep).unwrap()));
    };
    let s = |below| scattered(rows, below);
    add("i8", Arc::new(Int8Array::from_iter_values(s(256).map(|n| n as i8))));
    add("i16", Arc::new(Int16Array::from_iter_values(s(3000).map(|n| n as i16 - 1500))));
    add("i32", Arc::new(Int32Array::from_iter_values(s(50).map(|n| n as i32 - 25))));
    add("i32_far", Arc::new(Int32Array::from_iter_values(s(500).map(|n| (n as i32).wrapping_mul(0x4321_1234)))));
    add("i64", Arc::new(Int64Array::from_iter_values(s(10_000).map(|n| n as i64))));
    add("i64_ends", Arc::new(Int64Array::from_iter_values(s(5).map(|n| [i64::MIN, i64::MAX, 0, -1, 1][n as usize]))));
    add("i64_full", Arc::new(Int64Array::from_iter_values(s(u64::MAX).map(|n| n as i64))));
    add("i64_grows", Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|n| n / 100))));
    add("i64_falls", Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|n| -n / 100))));
    add("u8", Arc::new(UInt8Array::from_iter_values(s(256).map(|n| n as u8))));
    add("u16", Arc::new(UInt16Array::from_iter_values(s(65536).map(|n| n as u16))));
    add("u32", Arc::new(UInt32Array::from_iter_values(s(100).map(|n| u32::MAX - n as u32 * 40_000_000))));
    add("u64", Arc::new(UInt64Array::from_iter_values(s(100).map(|n| u64::MAX - n))));
    add("date", Arc::new(Date32Array::from_iter_values(s(2500).map(|n| n as i32 + 8000))));
    add("at_s", Arc::new(TimestampSecondArray::from_iter_values(s(100).map(|n| n as i64))));
    add("at_ms", Arc::new(TimestampMillisecondArray::from_iter_values(s(100).map(|n| -(n as i64)))));
    add(
        "at_us",
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(s(1000).map(|n| n as i64 * 3_600_000_000)).with_timezone("UTC"),
        ),
    );
    add("at_ns", Arc::new(TimestampNanosecondArray::from_iter_values(s(100).map(|n| n as i64))));
    let decimal = |below, p, s_| {
        Arc::new(
            Decimal128Array::from_iter_values(s(below).map(|n| i128::from(n) - 70))
                .with_precision_and_scale(p, s_)
                .unwrap(),
        )
    };
    add("d9", decimal(5000, 9, 2));
    add("d15", decimal(5000, 15, 2));
    add("d18", decimal(20, 18, 0));
    add("d38", decimal(20, 38, 4));
    add("f64", Arc::new(Float64Array::from_iter_values(s(50).map(|n| n as f64 / 4.0))));
    add("bool", Arc::new(BooleanArray::from_iter(s(2).map(|n| Some(n == 1)))));
    let lengths = [0, 1, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200];
    add(
        "text",
        Arc::new(StringArray::from_iter_values(s(130).map(|n| {
            "żółw x".chars().cycle().take(lengths[n as usize % 13]).chain(n.to_string().chars()).collect::<String>()
        }))),
    );
    add(
        "text_max",
        Arc::new(StringArray::from_iter_values(s(3).map(|n| ["\u{10ffff}", "\u{7f}", "b"][n as usize].repeat(100)))),
    );
    add("text_full", Arc::new(StringArray::from_iter_values(s(u64::MAX).map(|n| format!("text {n} and more")))));
    add("text_runs", Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("{}", n / 777)))));
    add(
        "mode",
        Arc::new(StringArray::from_iter_values(
            s(7).map(|n| ["AIR", "RAIL", "TRUCK", "MAIL", "FOB", "SHIP", "REG AIR"][n as usize]),
        )),
    );
    add("bytes", Arc::new(BinaryArray::from_iter_values(s(50).map(|n| vec![0xff - n as u8; n as usize * 3]))));
    add("bytes_top", Arc::new(BinaryArray::from_iter_values(s(2).map(|n| vec![0xff; 60 + n as usize * 30]))));
    add("one", Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(7, rows))));
    add("none", Arc::new(Int64Array::from(vec![None::<i64>; rows])));
    add("none_text", Arc::new(StringArray::from(vec![None::<&str>; rows])));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(
        s(5).map(|n| Some((0..n as i64).map(Some).collect::<Vec<_>>())),
    );
    add("list", Arc::new(lists));
    columns
}

fn batch(rows: usize) -> RecordBatch {
    let nullable = |name: &str| name.ends_with("_nulls") || name.starts_with("none");
    RecordBatch::try_from_iter_with_nullable(columns(rows).into_iter().map(|(name, array)| {
        let nullable = nullable(&name);
        (name, array, nullable)
    }))
    .unwrap()
}

fn properties(compression: Compression, group: usize) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(group))
        .set_write_batch_size(1000)
        .build()
}

fn ours(batch: &RecordBatch, pieces: &[usize], properties: WriterProperties) -> Bytes {
    let mut out = Vec::new();
    let mut writer =
        ParquetWriter::try_new(&mut out, batch.schema(), ArrowWriterOptions::new().with_properties(properties))
            .unwrap();
    let mut at = 0;
    for piece in pieces.iter().cycle() {
        let rows = (*piece).min(batch.num_rows() - at);
        writer.write(&batch.slice(at, rows)).unwrap();
        at += rows;
        if at == batch.num_rows() {
            break;
        }
    }
    writer.finish().unwrap();
    drop(writer);
    out.into()
}

fn theirs(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    out.into()
}

fn builder(file: &Bytes) -> ParquetRecordBatchReaderBuilder<Bytes> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap()
}

fn read(file: &Bytes) -> RecordBatch {
    let builder = builder(file);
    let schema = Arc::clone(builder.schema());
    let batches: Vec<_> = builder.with_batch_size(5000).build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    for (rows, group, pieces, codec) in [
        (100_000, 70_000, vec![8192, 1, 777, 40_000], Compression::ZSTD(ZstdLevel::try_new(1).unwrap())),
        (45_000, 1 << 20, vec![45_000], Compression::UNCOMPRESSED),
        (1, 10, vec![1], Compression::ZSTD(ZstdLevel::try_new(3).unwrap())),
        (300_000, 1 << 20, vec![65_536], Compression::ZSTD(ZstdLevel::try_new(1).unwrap())),
    ] {
        let batch = batch(rows);
        let file = ours(&batch, &pieces, properties(codec, group));
        let found = read(&file);
        assert_eq!(found.schema(), batch.schema());
        for (field, (a, b)) in batch.schema().fields().iter().zip(batch.columns().iter().zip(found.columns())) {
            assert_eq!(a, b, "{}", field.name());
        }
    }
}

#[test]
fn statistics_are_those_of_arrows_writer() {
    let batch = batch(150_000);
    let codec = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
    let (a, b) = (ours(&batch, &[150_000], properties(codec, 100_000)), theirs(&batch, properties(codec, 100_000)));
    let (a, b) = (builder(&a), builder(&b));
    let (a, b) = (a.metadata(), b.metadata());
    assert_eq!(a.file_metadata().key_value_metadata(), b.file_metadata().key_value_metadata());
    assert_eq!(a.num_row_groups(), b.num_row_groups());
    for (x, y) in a.row_groups().iter().zip(b.row_groups()) {
        assert_eq!(x.num_rows(), y.num_rows());
        for (x, y) in x.columns().iter().zip(y.columns()) {
            let name = x.column_path().string();
            assert_eq!(x.statistics(), y.statistics(), "{name}");
            assert_eq!(x.num_values(), y.num_values(), "{name}");
            assert_eq!(x.definition_level_histogram(), y.definition_level_histogram(), "{name}");
            assert_eq!(x.unencoded_byte_array_data_bytes(), y.unencoded_byte_array_data_bytes(), "{name}");
            let encodings = |c: &parquet::file::metadata::ColumnChunkMetaData| {
                c.encodings().collect::<std::collections::BTreeSet<_>>()
            };
            assert_eq!(encodings(x), encodings(y), "{name}");
            assert!(
                x.compressed_size() as f64 <= y.compressed_size() as f64 * 1.06 + 200.0,
                "{name}: {} of {}",
                x.compressed_size(),
                y.compressed_size()
            );
        }
    }
    for (group, (x, y)) in a.column_index().unwrap().iter().zip(b.column_index().unwrap()).enumerate() {
        for (n, (x, y)) in x.iter().zip(y).enumerate() {
            let name = a.row_group(group).column(n).column_path().string();
            // Where a dictionary is full, pages end elsewhere.
            match name.contains("full") {
                true => assert_eq!(
                    x.null_counts().map(|c| c.iter().sum::<i64>()),
                    y.null_counts().map(|c| c.iter().sum::<i64>()),
                    "{name}"
                ),
                false => assert_eq!(x, y, "{name}"),
            }
        }
    }
}

#[test]
fn some_rows_are_read_by_the_offsets_of_pages() {
    let batch = batch(120_000);
    let file = ours(&batch, &[8192], properties(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()), 1 << 20));
    let selection = RowSelection::from(vec![
        RowSelector::skip(41_234),
        RowSelector::select(5),
        RowSelector::skip(50_000),
        RowSelector::select(7),
    ]);
    let builder = builder(&file).with_row_selection(selection);
    let schema = Arc::clone(builder.schema());
    let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
    let found = concat_batches(&schema, &batches).unwrap();
    let expected = concat_batches(&schema, &[batch.slice(41_234, 5), batch.slice(91_239, 7)]).unwrap();
    assert_eq!(found, expected);
}
