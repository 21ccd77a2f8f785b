//! Batches in blocks: one insert each, one part for each partition. In ClickHouse's own format where all columns can be
//! written so, else as an Arrow stream.
//!
//! The server takes values as they are. Points in time outside of what a column can hold wrap around there, and
//! fractions of a second are cut: so they are looked for here, before anything is sent.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::compute::kernels::aggregate::{max, min};
use arrow::datatypes::{
    DataType, Date32Type, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use dpone_engine::{Error, Result};
use dpone_planner::exact_cast::uuid_text;

use super::native::{Native, TooLarge};
use super::nulls;
use super::texts::Texts;
use crate::config::Compression;
use crate::types::ChType;

/// A block is sent when it has so many rows, or so many bytes. Each is one part of the table, and the server merges small
/// parts while it takes more: at 16 MB that costs as much as taking the rows. Each partition holds two blocks.
const BLOCK_ROWS: usize = 1 << 20;
const BLOCK_BYTES: usize = 48 << 20;
/// For the batch that makes a block full.
const LAST_BATCH: usize = 2 << 20;

/// Days since 1970 that `Date32` and `DateTime64` hold: 1900-01-01 to 2299-12-31.
const FIRST_DAY: i64 = -25_567;
const LAST_DAY: i64 = 120_529;
const DAY_SECONDS: i64 = 86_400;

/// What is looked for in a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Days, first and last.
    Days(i64, i64),
    /// Ticks, first and last, and the ticks of which each value has to be a whole number.
    Ticks(i64, i64, i64),
}

/// The data of one insert, in pieces that follow each other.
pub(crate) type Block = Vec<Bytes>;

/// Collects batches.
enum Encoder {
    Native(Native),
    /// Which is compressed by itself, buffer by buffer.
    Arrow {
        schema: SchemaRef,
        options: IpcWriteOptions,
        writer: Option<Box<StreamWriter<Vec<u8>>>>,
    },
}

impl Encoder {
    fn new(schema: &Schema, natives: &[String], compression: Compression) -> Result<Self> {
        let packed = match compression {
            Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
            Compression::None => match Native::new(schema, natives) {
                Some(native) => return Ok(Self::Native(native)),
                None => None,
            },
        };
        let plain = schema.fields().iter().zip(natives).map(|(f, native)| {
            Field::new(f.name(), sent(f.data_type(), ChType::native(native).as_ref()), f.is_nullable())
        });
        Ok(Self::Arrow {
            schema: SchemaRef::new(Schema::new(plain.collect::<Vec<_>>())),
            options: IpcWriteOptions::default().try_with_compression(packed)?,
            writer: None,
        })
    }

    /// Bytes so far.
    fn write(&mut self, batch: &RecordBatch) -> Result<usize, Unwritten> {
        match self {
            Self::Native(native) => {
                native.append(batch).map_err(Unwritten::TooLarge)?;
                Ok(native.len())
            }
            Self::Arrow { schema, options, writer } => {
                let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let columns = batch.columns().iter().zip(schema.fields());
                let columns = columns.map(|(column, field)| plainly(column, field.data_type()));
                let columns = columns.collect::<Result<Vec<_>>>().map_err(Unwritten::Failed)?;
                let batch = RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &rows)?;
                let writer = match writer {
                    Some(writer) => writer,
                    None => {
                        // All at once, so that nothing is copied as it grows: memory that is not touched is not taken.
                        let room = Vec::with_capacity(BLOCK_BYTES + LAST_BATCH);
                        let begun = StreamWriter::try_new_with_options(room, schema, options.clone())?;
                        writer.insert(Box::new(begun))
                    }
                };
                writer.write(&batch)?;
                Ok(writer.get_ref().len())
            }
        }
    }

    /// What was written since the last time.
    fn take(&mut self) -> Result<Block> {
        match self {
            Self::Native(native) => Ok(native.take()),
            Self::Arrow { writer, .. } => match writer.take() {
                Some(mut writer) => {
                    writer.finish()?;
                    Ok(vec![writer.into_inner()?.into()])
                }
                None => Ok(Block::new()),
            },
        }
    }
}

/// What an Arrow stream holds: no views, which not every reader of one knows, and UUIDs as texts, since servers of 2024
/// read their bytes as if they were text.
fn sent(values: &DataType, native: Option<&ChType>) -> DataType {
    match (values, native.map(ChType::without_null)) {
        (DataType::Utf8View, _) => DataType::Utf8,
        (DataType::BinaryView, _) => DataType::Binary,
        (DataType::FixedSizeBinary(16), Some(ChType::Uuid)) => DataType::Utf8,
        (DataType::List(item), Some(ChType::Array(native))) => {
            let sent = sent(item.data_type(), Some(native));
            DataType::List(Arc::new(Field::new(item.name(), sent, item.is_nullable())))
        }
        (other, _) => other.clone(),
    }
}

fn plainly(values: &ArrayRef, sent: &DataType) -> Result<ArrayRef> {
    Ok(match (values.data_type(), sent) {
        (DataType::FixedSizeBinary(16), DataType::Utf8) => uuid_text(values)?,
        (DataType::List(_), DataType::List(item)) => {
            let lists = values.as_list::<i32>();
            let items = plainly(lists.values(), item.data_type())?;
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Arc::new(ListArray::try_new(Arc::clone(item), offsets, items, nulls)?)
        }
        _ => cast(values, sent)?,
    })
}

/// Why a batch was not written.
enum Unwritten {
    TooLarge(TooLarge),
    Failed(Error),
}

impl From<ArrowError> for Unwritten {
    fn from(error: ArrowError) -> Self {
        Self::Failed(error.into())
    }
}

/// Collects batches into blocks.
pub(crate) struct Blocks {
    names: Vec<String>,
    natives: Vec<String>,
    checks: Vec<(usize, Check, String)>,
    texts: Vec<(usize, Texts)>,
    /// Columns whose values may have NULLs inside, where the column takes none.
    nulls: Vec<(usize, ChType)>,
    encoder: Encoder,
    rows: usize,
    /// Rows of the blocks before.
    before: usize,
}

impl Blocks {
    /// `natives` are the types of the columns that the batches' columns go to.
    pub(crate) fn new(schema: &Schema, natives: &[String], compression: Compression) -> Result<Self> {
        let checks = schema.fields().iter().zip(natives).enumerate().filter_map(|(i, (field, native))| {
            let check = check(field.data_type(), ChType::native(native)?.without_null())?;
            Some((i, check, native.clone()))
        });
        let texts = schema
            .fields()
            .iter()
            .zip(natives)
            .enumerate()
            .filter_map(|(i, (field, native))| Some((i, Texts::of(field.data_type(), &ChType::native(native)?)?)));
        let nulls = schema.fields().iter().zip(natives).enumerate().filter_map(|(i, (field, native))| {
            let native = ChType::native(native)?;
            nulls::may_lie(field.data_type(), &native).then_some((i, native))
        });
        Ok(Self {
            names: schema.fields().iter().map(|f| f.name().clone()).collect(),
            checks: checks.collect(),
            texts: texts.collect(),
            nulls: nulls.collect(),
            natives: natives.to_vec(),
            encoder: Encoder::new(schema, natives, compression)?,
            rows: 0,
            before: 0,
        })
    }

    /// The format in which blocks are inserted.
    pub(crate) fn format(&self) -> &'static str {
        match self.encoder {
            Encoder::Native { .. } => "Native",
            Encoder::Arrow { .. } => "ArrowStream",
        }
    }

    fn place(&self, column: usize, row: usize) -> String {
        format!("column {:?}, row {} of its partition", self.names[column], self.before + self.rows + row + 1)
    }

    /// Fails at a value that its column does not hold.
    fn look_at(&self, batch: &RecordBatch) -> Result<()> {
        for (column, native) in &self.nulls {
            if let Some(row) = nulls::first(batch.column(*column), native) {
                return Err(Error::data_quality(format!(
                    "{}: a NULL inside of the value, where {native} takes none",
                    self.place(*column, row)
                ))
                .with("column", &self.names[*column])
                .with_hint(format!(
                    "give the column the type {}, or take the NULLs out in a query",
                    native.clone().taking_null_inside()
                )));
            }
        }
        for (column, texts) in &self.texts {
            if let Some(row) = texts.first_refused(batch.column(*column)) {
                return Err(Error::data_quality(format!("{}: {}", self.place(*column, row), texts.refusal()))
                    .with("column", &self.names[*column])
                    .with_hint(texts.hint()));
            }
        }
        for (column, check, native) in &self.checks {
            look(batch.column(*column), *check).map_err(|row| {
                Error::data_quality(format!("{}: {native} does not hold the value", self.place(*column, row)))
                .with("column", &self.names[*column])
                .with_hint("Date32 and DateTime64 reach from 1900 to 2299, DateTime from 1970 to 2106 in whole seconds, Date \
                            from 1970 to 2149: load into a column that holds the value, or filter or convert it in a query")
            })?;
        }
        Ok(())
    }

    /// Adds a batch. Gives a block when one is full.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<Option<Block>> {
        self.look_at(batch)?;
        let bytes = self.encoder.write(batch).map_err(|unwritten| match unwritten {
            Unwritten::TooLarge(TooLarge { column, row }) => Error::data_quality(format!(
                "{}: {} does not hold the value",
                self.place(column, row),
                self.natives[column]
            ))
            .with("column", &self.names[column])
            .with_hint("load into a column of more digits, or filter or convert it in a query"),
            Unwritten::Failed(error) => error,
        })?;
        self.rows += batch.num_rows();
        match self.rows >= BLOCK_ROWS || bytes >= BLOCK_BYTES {
            true => self.take(),
            false => Ok(None),
        }
    }

    /// What was added since the last block, if anything.
    pub(crate) fn take(&mut self) -> Result<Option<Block>> {
        let block = self.encoder.take()?;
        let rows = std::mem::take(&mut self.rows);
        self.before += rows;
        Ok((rows > 0).then_some(block))
    }
}

fn check(values: &DataType, native: &ChType) -> Option<Check> {
    let ticks = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    Some(match (values, native) {
        (DataType::Date32, ChType::Date) => Check::Days(0, i64::from(u16::MAX)),
        (DataType::Date32, ChType::Date32) => Check::Days(FIRST_DAY, LAST_DAY),
        (DataType::Timestamp(unit, _), ChType::DateTime(_)) => {
            Check::Ticks(0, (i64::from(u32::MAX) + 1) * ticks(unit) - 1, ticks(unit))
        }
        (DataType::Timestamp(unit, _), ChType::DateTime64(digits, _)) => {
            let per_second = ticks(unit);
            let first = (FIRST_DAY * DAY_SECONDS).saturating_mul(per_second);
            let last = ((LAST_DAY + 1) * DAY_SECONDS).saturating_mul(per_second).saturating_sub(1);
            Check::Ticks(first, last, (per_second / 10_i64.pow(u32::from(*digits))).max(1))
        }
        (DataType::List(item), ChType::Array(native)) => check(item.data_type(), native.without_null())?,
        (values, ChType::LowCardinality(inner)) => check(values, inner.without_null())?,
        _ => return None,
    })
}

/// The first row whose value is not held.
fn look(values: &ArrayRef, check: Check) -> std::result::Result<(), usize> {
    if let Some(lists) = values.as_list_opt::<i32>() {
        // Which row an item belongs to.
        let row = |item: usize| lists.offsets().iter().skip(1).take_while(|end| **end as usize <= item).count();
        return look(lists.values(), check).map_err(row);
    }
    match (values.data_type(), check) {
        (DataType::Date32, Check::Days(first, last)) => {
            let days = values.as_primitive::<Date32Type>();
            let held = |day: i32| (first..=last).contains(&i64::from(day));
            if min(days).is_none_or(held) && max(days).is_none_or(held) {
                return Ok(());
            }
            days.iter().position(|day| day.is_some_and(|day| !held(day))).map_or(Ok(()), Err)
        }
        (DataType::Timestamp(TimeUnit::Microsecond, _), Check::Ticks(..)) => {
            let values = values.as_primitive::<TimestampMicrosecondType>();
            ticks_held(min(values), max(values), values.values(), |i| values.is_null(i), check)
        }
        (DataType::Timestamp(TimeUnit::Nanosecond, _), Check::Ticks(..)) => {
            let values = values.as_primitive::<TimestampNanosecondType>();
            ticks_held(min(values), max(values), values.values(), |i| values.is_null(i), check)
        }
        _ => Ok(()),
    }
}

fn ticks_held(
    least: Option<i64>,
    greatest: Option<i64>,
    values: &[i64],
    is_null: impl Fn(usize) -> bool,
    check: Check,
) -> std::result::Result<(), usize> {
    let Check::Ticks(first, last, whole) = check else { return Ok(()) };
    let within = |value: i64| (first..=last).contains(&value);
    if least.is_none_or(within) && greatest.is_none_or(within) && (whole == 1 || values.iter().all(|v| v % whole == 0))
    {
        return Ok(());
    }
    let kept = |i: usize| is_null(i) || (within(values[i]) && values[i] % whole == 0);
    (0..values.len()).find(|i| !kept(*i)).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{Date32Array, TimestampMicrosecondArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn held(native: &str, values: ArrayRef) -> std::result::Result<(), usize> {
        match check(values.data_type(), ChType::native(native).unwrap().without_null()) {
            Some(check) => look(&values, check),
            None => Ok(()),
        }
    }

    #[test]
    fn what_a_column_does_not_hold_is_found_with_its_row() {
        let dates = |days: Vec<Option<i32>>| Arc::new(Date32Array::from(days)) as ArrayRef;
        assert_eq!(held("Date32", dates(vec![Some(-25_567), None, Some(120_529)])), Ok(()));
        assert_eq!(held("Nullable(Date32)", dates(vec![Some(0), None, Some(120_530)])), Err(2));
        assert_eq!(held("Date", dates(vec![Some(-1)])), Err(0));
        let times = |ticks: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(ticks)) as ArrayRef;
        assert_eq!(held("DateTime64(6)", times(vec![None, Some(1)])), Ok(()));
        assert_eq!(held("DateTime64(3)", times(vec![Some(1000), Some(1001)])), Err(1));
        assert_eq!(held("DateTime('UTC')", times(vec![Some(1_500_000)])), Err(0));
        assert_eq!(held("DateTime", times(vec![Some(4_294_967_295_000_000)])), Ok(()));
        assert_eq!(held("DateTime", times(vec![Some(4_294_967_296_000_000)])), Err(0));
        assert_eq!(held("DateTime64(6, 'UTC')", times(vec![Some(i64::MIN)])), Err(0));
        // A NULL is whatever lies under it.
        let under = TimestampMicrosecondArray::new(vec![i64::MAX].into(), Some(vec![false].into()));
        assert_eq!(held("Nullable(DateTime64(6))", Arc::new(under)), Ok(()));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1)]),
            Some(vec![]),
            Some(vec![Some(2)]),
        ]);
        let items = lists.values().slice(0, 2);
        let dates = arrow::compute::cast(&items, &DataType::Date32).unwrap();
        let field = Arc::new(Field::new("item", DataType::Date32, true));
        let lists = ListArray::new(field, lists.offsets().clone(), dates, None);
        assert_eq!(held("Array(Date)", Arc::new(lists)), Ok(()));
    }
}
