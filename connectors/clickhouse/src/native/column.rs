//! One column of a block, by its type.
//!
//! A column begins with what its parts say of themselves (only those of low cardinality do), and goes on with its values:
//! of `Nullable` first a byte for each row, of arrays and maps first where each row ends.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray,
    ListArray, MapArray, NullArray, PrimitiveArray, StructArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::*;
use dpone_planner::Error;
use futures::future::BoxFuture;

use super::feed::{Feed, Stop};
use crate::types::{ChType, SIMPLE};

/// How the keys of a column of low cardinality are written, and all that there is.
const LOW_CARDINALITY_VERSION: u64 = 1;
/// Its own keys come with each block.
const OWN_KEYS: u64 = 1 << 9;
const SHARED_KEYS: u64 = 1 << 8;
/// A text of this many bytes needs no other place.
const USUAL_TEXT: usize = 24;
/// Memory for texts that is taken at once.
const TEXT_AHEAD: usize = 8 << 20;

/// What comes before the values.
pub(super) fn begin<'a>(feed: &'a mut Feed, own: &'a ChType) -> BoxFuture<'a, Result<(), Stop>> {
    Box::pin(async move {
        match own {
            ChType::LowCardinality(_) => match feed.u64().await? {
                LOW_CARDINALITY_VERSION => Ok(()),
                _ => Err(Stop::garbled("a column of low cardinality")),
            },
            ChType::Nullable(inner) | ChType::Array(inner) => begin(feed, inner).await,
            ChType::Map(key, value) => {
                begin(feed, key).await?;
                begin(feed, value).await
            }
            ChType::Tuple(fields) => {
                for (_, field) in fields {
                    begin(feed, field).await?;
                }
                Ok(())
            }
            ChType::Aggregate { base: SIMPLE, of, .. } if of.len() == 1 => begin(feed, &of[0]).await,
            _ => Ok(()),
        }
    })
}

/// The values of a column as the server has them: of low cardinality as a dictionary, which may be far smaller than what
/// it stands for.
pub(super) async fn whole_column(feed: &mut Feed, own: &ChType, rows: usize) -> Result<ArrayRef, Stop> {
    match own {
        ChType::LowCardinality(inner) => low_cardinality(feed, inner, rows).await,
        _ => column(feed, own, rows, None).await,
    }
}

/// The values. `nulls`: which of them are none, from the `Nullable` around the type.
pub(super) fn column<'a>(
    feed: &'a mut Feed,
    own: &'a ChType,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> BoxFuture<'a, Result<ArrayRef, Stop>> {
    Box::pin(async move {
        Ok(match own {
            ChType::Nullable(inner) => {
                let marks = feed.bytes(rows, 1).await?;
                let valid = BooleanBuffer::collect_bool(rows, |row| marks[row] == 0);
                return column(feed, inner, rows, Some(NullBuffer::new(valid))).await;
            }
            ChType::Bool => {
                let bytes = feed.bytes(rows, 1).await?;
                let values = BooleanBuffer::collect_bool(rows, |row| bytes[row] != 0);
                Arc::new(BooleanArray::new(values, nulls))
            }
            ChType::Int { bits: 8, signed: true } | ChType::Enum { bits: 8, .. } => {
                plain::<Int8Type>(feed, rows, nulls).await?
            }
            ChType::Int { bits: 16, signed: true } | ChType::Enum { .. } => {
                plain::<Int16Type>(feed, rows, nulls).await?
            }
            ChType::Int { bits: 32, signed: true } => plain::<Int32Type>(feed, rows, nulls).await?,
            ChType::Int { bits: 64, signed: true } => plain::<Int64Type>(feed, rows, nulls).await?,
            ChType::Int { bits: 8, .. } => plain::<UInt8Type>(feed, rows, nulls).await?,
            ChType::Int { bits: 16, .. } => plain::<UInt16Type>(feed, rows, nulls).await?,
            ChType::Int { bits: 32, .. } | ChType::Plain("IPv4") | ChType::DateTime(_) => {
                plain::<UInt32Type>(feed, rows, nulls).await?
            }
            ChType::Int { bits: 64, .. } => plain::<UInt64Type>(feed, rows, nulls).await?,
            ChType::Int { bits, .. } => fixed(feed, i32::from(*bits) / 8, rows, nulls).await?,
            ChType::Plain("IPv6") => fixed(feed, 16, rows, nulls).await?,
            ChType::FixedString(width) => {
                let width = i32::try_from(*width).map_err(|_| Stop::garbled("the width of a fixed string"))?;
                fixed(feed, width, rows, nulls).await?
            }
            ChType::Uuid => uuids(&feed.bytes(rows, 16).await?, nulls)?,
            ChType::BFloat16 => {
                let halves: ScalarBuffer<u16> = values(feed, rows).await?;
                let floats: Vec<f32> = halves.iter().map(|half| f32::from_bits(u32::from(*half) << 16)).collect();
                Arc::new(PrimitiveArray::<Float32Type>::new(floats.into(), nulls))
            }
            ChType::Float32 => plain::<Float32Type>(feed, rows, nulls).await?,
            ChType::Float64 => plain::<Float64Type>(feed, rows, nulls).await?,
            ChType::Decimal { precision, scale } => decimals(feed, *precision, *scale as i8, rows, nulls).await?,
            ChType::String => strings(feed, rows, nulls).await?,
            ChType::Date => {
                let days: ScalarBuffer<u16> = values(feed, rows).await?;
                let days: Vec<i32> = days.iter().map(|day| i32::from(*day)).collect();
                Arc::new(PrimitiveArray::<Date32Type>::new(days.into(), nulls))
            }
            ChType::Date32 => plain::<Date32Type>(feed, rows, nulls).await?,
            ChType::Time => {
                let seconds: ScalarBuffer<i32> = values(feed, rows).await?;
                let seconds: Vec<i64> = seconds.iter().map(|second| i64::from(*second)).collect();
                Arc::new(PrimitiveArray::<Int64Type>::new(seconds.into(), nulls))
            }
            ChType::Time64(_) | ChType::DateTime64(..) => plain::<Int64Type>(feed, rows, nulls).await?,
            ChType::Array(item) => {
                let ends = ends(feed, rows).await?;
                let items = column(feed, item, ends.1, None).await?;
                let field = Arc::new(Field::new("item", items.data_type().clone(), true));
                Arc::new(ListArray::try_new(field, ends.0, items, nulls).map_err(|_| Stop::garbled("an array"))?)
            }
            ChType::Map(key, value) => {
                let ends = ends(feed, rows).await?;
                let keys = column(feed, key, ends.1, None).await?;
                let values = column(feed, value, ends.1, None).await?;
                map(ends.0, keys, values)?
            }
            ChType::Tuple(fields) if !fields.is_empty() => {
                let mut columns = Vec::with_capacity(fields.len());
                for (_, of) in fields {
                    columns.push(column(feed, of, rows, None).await?);
                }
                let named = fields.iter().enumerate().zip(&columns).map(|((at, (name, _)), column)| {
                    let name = name.clone().unwrap_or_else(|| (at + 1).to_string());
                    Field::new(name, column.data_type().clone(), true)
                });
                let made = StructArray::try_new(named.collect(), columns, nulls);
                Arc::new(made.map_err(|_| Stop::garbled("a tuple"))?)
            }
            ChType::LowCardinality(inner) => {
                let dictionary = low_cardinality(feed, inner, rows).await?;
                let dictionary = dictionary.as_any_dictionary();
                take(dictionary.values(), dictionary.keys(), None).map_err(|_| Stop::garbled("a dictionary"))?
            }
            ChType::Aggregate { base: SIMPLE, of, .. } if of.len() == 1 => {
                return column(feed, &of[0], rows, nulls).await;
            }
            ChType::Plain("Nothing") => {
                feed.bytes(rows, 1).await?;
                Arc::new(NullArray::new(rows))
            }
            // Nothing of them is asked for as it is.
            ChType::Json | ChType::Tuple(_) | ChType::Aggregate { .. } | ChType::Plain(_) => {
                return Err(Stop::garbled("a column of a type that was not asked for"));
            }
        })
    })
}

async fn values<T: ArrowNativeType>(feed: &mut Feed, rows: usize) -> Result<ScalarBuffer<T>, Stop> {
    Ok(ScalarBuffer::new(feed.bytes(rows, size_of::<T>()).await?, 0, rows))
}

async fn plain<T: ArrowPrimitiveType>(
    feed: &mut Feed,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, Stop> {
    Ok(Arc::new(PrimitiveArray::<T>::new(values(feed, rows).await?, nulls)))
}

async fn fixed(feed: &mut Feed, width: i32, rows: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, Stop> {
    let bytes = feed.bytes(rows, width as usize).await?;
    let made = FixedSizeBinaryArray::try_new(width, bytes, nulls);
    Ok(Arc::new(made.map_err(|_| Stop::garbled("a fixed string"))?))
}

/// Two halves, the higher one first, each with its lowest byte first.
fn uuids(bytes: &Buffer, nulls: Option<NullBuffer>) -> Result<ArrayRef, Stop> {
    let turned: Vec<u8> = bytes.chunks_exact(8).flat_map(|half| half.iter().rev().copied()).collect();
    let made = FixedSizeBinaryArray::try_new(16, turned.into(), nulls);
    Ok(Arc::new(made.map_err(|_| Stop::garbled("a UUID"))?))
}

/// As wide as their precision asks for; the precision that Arrow is told is the greatest, and the schema's is checked.
async fn decimals(
    feed: &mut Feed,
    precision: u8,
    scale: i8,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, Stop> {
    let wrong = |_| Stop::garbled("the scale of a decimal");
    let values: ScalarBuffer<i128> = match precision {
        ..=9 => {
            let narrow: ScalarBuffer<i32> = values(feed, rows).await?;
            narrow.iter().map(|value| i128::from(*value)).collect()
        }
        10..=18 => {
            let narrow: ScalarBuffer<i64> = values(feed, rows).await?;
            narrow.iter().map(|value| i128::from(*value)).collect()
        }
        19..=38 => values(feed, rows).await?,
        _ => {
            let wide = PrimitiveArray::<Decimal256Type>::new(values(feed, rows).await?, nulls);
            return Ok(Arc::new(wide.with_precision_and_scale(DECIMAL256_MAX_PRECISION, scale).map_err(wrong)?));
        }
    };
    let array = PrimitiveArray::<Decimal128Type>::new(values, nulls);
    Ok(Arc::new(array.with_precision_and_scale(DECIMAL128_MAX_PRECISION, scale).map_err(wrong)?))
}

/// Each with its length before it.
async fn strings(feed: &mut Feed, rows: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, Stop> {
    let too_long = |_| {
        Stop::Failed(
            Error::data_quality(format!(
                "a column has more than 2 GiB of text in {rows} rows that the server sent at once"
            ))
            .with_hint("lower batch_rows, or split the values in a query"),
        )
    };
    let mut bytes: Vec<u8> = Vec::with_capacity((rows.saturating_mul(USUAL_TEXT)).min(TEXT_AHEAD));
    let mut offsets: Vec<i32> = Vec::with_capacity((rows.saturating_add(1)).min(TEXT_AHEAD));
    offsets.push(0);
    while offsets.len() <= rows {
        // Those that are whole in what is there.
        let here = feed.here();
        let mut at = 0;
        while offsets.len() <= rows {
            let Some((length, head)) = length(&here[at..])? else { break };
            let begin = at + head;
            let Some(text) = begin.checked_add(length).and_then(|end| here.get(begin..end)) else { break };
            bytes.extend_from_slice(text);
            offsets.push(i32::try_from(bytes.len()).map_err(too_long)?);
            at = begin + length;
        }
        feed.used(at);
        if offsets.len() <= rows {
            let length = feed.varint().await?;
            let end = usize::try_from(length).ok().and_then(|length| bytes.len().checked_add(length));
            let end = i32::try_from(end.unwrap_or(usize::MAX)).map_err(too_long)?;
            feed.append(length as usize, &mut bytes).await?;
            offsets.push(end);
        }
    }
    let offsets = OffsetBuffer::new(offsets.into());
    Ok(Arc::new(BinaryArray::try_new(offsets, bytes.into(), nulls).map_err(|_| Stop::garbled("a string"))?))
}

/// The length that these bytes begin with, and how many of them it takes; `None` where it goes on behind them.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Stop> {
    match bytes.first() {
        None => return Ok(None),
        Some(byte) if *byte < 0x80 => return Ok(Some((usize::from(*byte), 1))),
        _ => {}
    }
    let mut value = 0;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() < 9 { Ok(None) } else { Err(Stop::garbled("the length of a string")) }
}

/// Where the items of each row end, and how many there are in all.
async fn ends(feed: &mut Feed, rows: usize) -> Result<(OffsetBuffer<i32>, usize), Stop> {
    let wrong = || Stop::garbled("where the items of a row end");
    let ends: ScalarBuffer<u64> = values(feed, rows).await?;
    let mut offsets: Vec<i32> = Vec::with_capacity(rows + 1);
    offsets.push(0);
    for end in ends.iter() {
        let end = i32::try_from(*end).map_err(|_| wrong())?;
        if offsets.last().is_some_and(|before| *before > end) {
            return Err(wrong());
        }
        offsets.push(end);
    }
    let items = offsets.last().map_or(0, |end| *end as usize);
    Ok((OffsetBuffer::new(offsets.into()), items))
}

fn map(offsets: OffsetBuffer<i32>, keys: ArrayRef, values: ArrayRef) -> Result<ArrayRef, Stop> {
    let key = Field::new("key", keys.data_type().clone(), false);
    let value = Field::new("value", values.data_type().clone(), true);
    let fields: Fields = vec![key, value].into();
    let wrong = |_| Stop::garbled("a map");
    let entries = StructArray::try_new(fields.clone(), vec![keys, values], None).map_err(wrong)?;
    let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, None, false).map_err(wrong)?))
}

/// Keys, and for each row which of them it is. Where it takes NULL, the first key is that.
async fn low_cardinality(feed: &mut Feed, inner: &ChType, rows: usize) -> Result<ArrayRef, Stop> {
    let wrong = || Stop::garbled("a column of low cardinality");
    let (keys, indexes) = match rows {
        // Of empty arrays nothing is there.
        0 => (column(feed, inner.without_null(), 0, None).await?, UInt64Array::from(Vec::<u64>::new())),
        _ => {
            let flags = feed.u64().await?;
            if flags & OWN_KEYS == 0 || flags & SHARED_KEYS != 0 {
                return Err(wrong());
            }
            let count = usize::try_from(feed.u64().await?).map_err(|_| wrong())?;
            let keys = column(feed, inner.without_null(), count, None).await?;
            if feed.u64().await? != rows as u64 {
                return Err(wrong());
            }
            let indexes = match flags & 0xff {
                0 => plain::<UInt8Type>(feed, rows, None).await?,
                1 => plain::<UInt16Type>(feed, rows, None).await?,
                2 => plain::<UInt32Type>(feed, rows, None).await?,
                3 => plain::<UInt64Type>(feed, rows, None).await?,
                _ => return Err(wrong()),
            };
            let indexes = cast(&indexes, &DataType::UInt64).map_err(|_| wrong())?;
            (keys, PrimitiveArray::from(indexes.to_data()))
        }
    };
    let indexes = match inner.is_nullable() {
        true => {
            let (_, values, _) = indexes.into_parts();
            let valid = BooleanBuffer::collect_bool(rows, |row| values[row] != 0);
            UInt64Array::new(values, Some(NullBuffer::new(valid)))
        }
        false => indexes,
    };
    // Which checks that there are so many keys.
    Ok(Arc::new(DictionaryArray::<UInt64Type>::try_new(indexes, keys).map_err(|_| wrong())?))
}
