//! The canonical encoding of one value, and its hash. Families, with their tags:
//!
//! | tag | values | bytes |
//! |---|---|---|
//! | 1 | boolean | `0` or `1` |
//! | 2 | integers and decimals | mantissa without trailing zeros, two's complement, little-endian in 8, 16 or 32 bytes: the fewest that hold it; then the power of ten, i16 |
//! | 3 | floats | IEEE 754 double, little-endian; every NaN is `7ff8000000000000` |
//! | 4 | text, uuid | UTF-8; a uuid in its 36 lower-case characters |
//! | 5 | binary | the bytes |
//! | 6 | date | days since 1970-01-01, i64 |
//! | 7 | timestamp without zone | seconds since 1970-01-01, i64; nanoseconds within the second, u32 |
//! | 8 | timestamp with zone | the instant, as 7 in UTC |
//! | 9 | time of day | nanoseconds since midnight, i64 |
//! | 10 | duration | nanoseconds, i128 |
//! | 11 | interval | months i32, days i32, nanoseconds i64 |
//! | 12 | list | the number of elements, u64; for each a byte that is 0 for NULL, then its 16-byte hash |
//! | 13 | struct | the sum of its fields' hashes, seeded with the fields' names, 16 bytes |
//! | 14 | map | the sum of its entries' hashes, 16 bytes: entries have no order |

use arrow::array::{Array, ArrayAccessor, ArrayRef, AsArray, OffsetSizeTrait, PrimitiveArray};
use arrow::datatypes::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::error::{Error, Result};
use crate::types::data_type_name;

/// One column's share of the row hashes.
pub(super) struct Column<'a> {
    name: &'a str,
    seed: u64,
    uuid: bool,
    /// -0 is 0.
    key: bool,
}

impl<'a> Column<'a> {
    pub(super) fn new(name: &'a str, uuid: bool, key: bool) -> Self {
        Self { name, seed: xxh3_64(name.as_bytes()), uuid, key }
    }

    fn seed(&self, tag: u8) -> u64 {
        self.seed.wrapping_add(u64::from(tag))
    }

    /// Adds the hash of each value that is not NULL to its row's.
    pub(super) fn add(&self, array: &ArrayRef, hashes: &mut [u128]) -> Result<()> {
        use DataType::*;
        match array.data_type() {
            Null => {}
            Boolean => each(array.as_boolean(), self.seed(1), hashes, |v, out| out.extend_from_slice(&[u8::from(v)])),
            Int8 => self.integers::<Int8Type>(array, hashes),
            Int16 => self.integers::<Int16Type>(array, hashes),
            Int32 => self.integers::<Int32Type>(array, hashes),
            Int64 => self.integers::<Int64Type>(array, hashes),
            UInt8 => self.integers::<UInt8Type>(array, hashes),
            UInt16 => self.integers::<UInt16Type>(array, hashes),
            UInt32 => self.integers::<UInt32Type>(array, hashes),
            UInt64 => each(array.as_primitive::<UInt64Type>(), self.seed(2), hashes, |v, out| {
                number(i128::from(v), 0, out);
            }),
            Decimal32(_, s) => self.decimals::<Decimal32Type>(array, *s, hashes),
            Decimal64(_, s) => self.decimals::<Decimal64Type>(array, *s, hashes),
            Decimal128(_, s) => {
                each(array.as_primitive::<Decimal128Type>(), self.seed(2), hashes, |v, out| number(v, *s, out));
            }
            Decimal256(_, s) => {
                each(array.as_primitive::<Decimal256Type>(), self.seed(2), hashes, |v, out| wide_number(v, *s, out));
            }
            Float16 => each(array.as_primitive::<Float16Type>(), self.seed(3), hashes, |v, out| {
                self.float(f64::from(v), out);
            }),
            Float32 => each(array.as_primitive::<Float32Type>(), self.seed(3), hashes, |v, out| {
                self.float(f64::from(v), out);
            }),
            Float64 => each(array.as_primitive::<Float64Type>(), self.seed(3), hashes, |v, out| self.float(v, out)),
            Utf8 => bytes(array.as_string::<i32>(), self.seed(4), hashes),
            LargeUtf8 => bytes(array.as_string::<i64>(), self.seed(4), hashes),
            Utf8View => bytes(array.as_string_view(), self.seed(4), hashes),
            FixedSizeBinary(16) if self.uuid => {
                each(array.as_fixed_size_binary(), self.seed(4), hashes, uuid_text);
            }
            Binary => bytes(array.as_binary::<i32>(), self.seed(5), hashes),
            LargeBinary => bytes(array.as_binary::<i64>(), self.seed(5), hashes),
            BinaryView => bytes(array.as_binary_view(), self.seed(5), hashes),
            FixedSizeBinary(_) => bytes(array.as_fixed_size_binary(), self.seed(5), hashes),
            Date32 | Date64 | Timestamp(..) | Time32(_) | Time64(_) | Duration(_) | Interval(_) => {
                self.temporal(array, hashes)?;
            }
            List(_) => self.list(array.as_list::<i32>(), hashes)?,
            LargeList(_) => self.list(array.as_list::<i64>(), hashes)?,
            Struct(_) => self.structs(array, hashes)?,
            Map(..) => self.map(array, hashes)?,
            FixedSizeList(field, _) => self.cast(array, &List(field.clone()), hashes)?,
            ListView(field) => self.cast(array, &List(field.clone()), hashes)?,
            LargeListView(field) => self.cast(array, &LargeList(field.clone()), hashes)?,
            Dictionary(_, values) => self.cast(array, values, hashes)?,
            RunEndEncoded(_, values) => self.cast(array, values.data_type(), hashes)?,
            other @ Union(..) => {
                return Err(Error::configuration(format!(
                    "column {:?} of type {} has no row hash",
                    self.name,
                    data_type_name(other)
                ))
                .with("column", self.name)
                .with_hint("leave it out of the comparison, or convert it in a query: SELECT CAST(… AS …)"));
            }
        }
        Ok(())
    }

    fn integers<T: ArrowPrimitiveType>(&self, array: &ArrayRef, hashes: &mut [u128])
    where
        T::Native: Into<i64>,
    {
        each(array.as_primitive::<T>(), self.seed(2), hashes, |v, out| small_number(v.into(), 0, out));
    }

    fn decimals<T: ArrowPrimitiveType>(&self, array: &ArrayRef, scale: i8, hashes: &mut [u128])
    where
        T::Native: Into<i64>,
    {
        each(array.as_primitive::<T>(), self.seed(2), hashes, |v, out| small_number(v.into(), scale, out));
    }

    fn float(&self, value: f64, out: &mut Buffer) {
        let bits = match value {
            v if v.is_nan() => 0x7ff8_0000_0000_0000,
            v if v == 0.0 && self.key => 0,
            v => v.to_bits(),
        };
        out.extend_from_slice(&bits.to_le_bytes());
    }

    fn cast(&self, array: &ArrayRef, to: &DataType, hashes: &mut [u128]) -> Result<()> {
        self.add(&arrow::compute::cast(array, to)?, hashes)
    }

    fn temporal(&self, array: &ArrayRef, hashes: &mut [u128]) -> Result<()> {
        use DataType::*;
        match array.data_type() {
            Date32 => {
                each(array.as_primitive::<Date32Type>(), self.seed(6), hashes, |v, out| long(i64::from(v), out));
            }
            Date64 => each(array.as_primitive::<Date64Type>(), self.seed(6), hashes, |v, out| {
                long(v.div_euclid(86_400_000), out);
            }),
            Timestamp(unit, zone) => {
                let seed = self.seed(if zone.is_some() { 8 } else { 7 });
                let per_second = per_second(*unit);
                let ticks = array.to_data();
                let ticks = PrimitiveArray::<Int64Type>::from(ticks.into_builder().data_type(Int64).build()?);
                each(&ticks, seed, hashes, |v, out| {
                    long(v.div_euclid(per_second), out);
                    let within = v.rem_euclid(per_second) * (1_000_000_000 / per_second);
                    out.extend_from_slice(&(within as u32).to_le_bytes());
                });
            }
            Time32(TimeUnit::Second) => {
                each(array.as_primitive::<Time32SecondType>(), self.seed(9), hashes, |v, out| {
                    long(i64::from(v) * 1_000_000_000, out);
                });
            }
            Time32(_) => each(array.as_primitive::<Time32MillisecondType>(), self.seed(9), hashes, |v, out| {
                long(i64::from(v) * 1_000_000, out);
            }),
            Time64(TimeUnit::Microsecond) => {
                each(array.as_primitive::<Time64MicrosecondType>(), self.seed(9), hashes, |v, out| {
                    long(v * 1_000, out);
                });
            }
            Time64(_) => {
                each(array.as_primitive::<Time64NanosecondType>(), self.seed(9), hashes, long);
            }
            Duration(unit) => {
                let scale = i128::from(1_000_000_000 / per_second(*unit));
                let ticks = array.to_data();
                let ticks = PrimitiveArray::<Int64Type>::from(ticks.into_builder().data_type(Int64).build()?);
                each(&ticks, self.seed(10), hashes, |v, out| {
                    out.extend_from_slice(&(i128::from(v) * scale).to_le_bytes());
                });
            }
            Interval(IntervalUnit::YearMonth) => {
                each(array.as_primitive::<IntervalYearMonthType>(), self.seed(11), hashes, |v, out| {
                    interval(v, 0, 0, out);
                });
            }
            Interval(IntervalUnit::DayTime) => {
                each(array.as_primitive::<IntervalDayTimeType>(), self.seed(11), hashes, |v, out| {
                    interval(0, v.days, i64::from(v.milliseconds) * 1_000_000, out);
                });
            }
            _ => each(array.as_primitive::<IntervalMonthDayNanoType>(), self.seed(11), hashes, |v, out| {
                interval(v.months, v.days, v.nanoseconds, out);
            }),
        }
        Ok(())
    }

    /// Hashes of nested values, which have no column of their own.
    fn nested(&self, name: &str, values: &ArrayRef) -> Result<Vec<u128>> {
        let mut hashes = vec![0; values.len()];
        Column::new(name, false, self.key).add(values, &mut hashes)?;
        Ok(hashes)
    }

    fn list<O: OffsetSizeTrait>(&self, array: &arrow::array::GenericListArray<O>, hashes: &mut [u128]) -> Result<()> {
        let values = array.values();
        let elements = self.nested("", values)?;
        let mut encoded = Vec::new();
        for (row, ends) in array.value_offsets().windows(2).enumerate() {
            if array.is_null(row) {
                continue;
            }
            let (start, end) = (ends[0].as_usize(), ends[1].as_usize());
            encoded.clear();
            encoded.extend_from_slice(&((end - start) as u64).to_le_bytes());
            for (element, hash) in elements.iter().enumerate().take(end).skip(start) {
                encoded.push(u8::from(values.is_valid(element)));
                encoded.extend_from_slice(&hash.to_be_bytes());
            }
            hashes[row] = hashes[row].wrapping_add(xxh3_128_with_seed(&encoded, self.seed(12)));
        }
        Ok(())
    }

    fn structs(&self, array: &ArrayRef, hashes: &mut [u128]) -> Result<()> {
        let fields = array.as_struct();
        let mut sums = vec![0_u128; array.len()];
        for (field, values) in fields.fields().iter().zip(fields.columns()) {
            Column::new(field.name(), crate::types::is_uuid(field), self.key).add(values, &mut sums)?;
        }
        self.add_sums(array, &sums, 13, hashes);
        Ok(())
    }

    fn map(&self, array: &ArrayRef, hashes: &mut [u128]) -> Result<()> {
        let map = array.as_map();
        let keys = self.nested("key", map.keys())?;
        let values = self.nested("value", map.values())?;
        let mut sums = vec![0_u128; array.len()];
        for (sum, ends) in sums.iter_mut().zip(map.value_offsets().windows(2)) {
            for entry in ends[0] as usize..ends[1] as usize {
                let both = [keys[entry].to_be_bytes(), values[entry].to_be_bytes()].concat();
                *sum = sum.wrapping_add(xxh3_128_with_seed(&both, 0));
            }
        }
        self.add_sums(array, &sums, 14, hashes);
        Ok(())
    }

    fn add_sums(&self, array: &ArrayRef, sums: &[u128], tag: u8, hashes: &mut [u128]) {
        for (row, (hash, sum)) in hashes.iter_mut().zip(sums).enumerate() {
            if array.is_valid(row) {
                *hash = hash.wrapping_add(xxh3_128_with_seed(&sum.to_be_bytes(), self.seed(tag)));
            }
        }
    }
}

/// Room for the encoding of every value that is not text or binary.
type Buffer = SmallBytes<64>;

/// A byte string on the stack.
struct SmallBytes<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> SmallBytes<N> {
    fn extend_from_slice(&mut self, more: &[u8]) {
        self.bytes[self.length..self.length + more.len()].copy_from_slice(more);
        self.length += more.len();
    }
}

/// Encodes and hashes each value that is not NULL.
fn each<A: ArrayAccessor>(array: A, seed: u64, hashes: &mut [u128], encode: impl Fn(A::Item, &mut Buffer)) {
    let mut buffer = Buffer { bytes: [0; 64], length: 0 };
    let all_valid = array.null_count() == 0;
    for (row, hash) in hashes.iter_mut().enumerate() {
        if all_valid || array.is_valid(row) {
            buffer.length = 0;
            encode(array.value(row), &mut buffer);
            *hash = hash.wrapping_add(xxh3_128_with_seed(&buffer.bytes[..buffer.length], seed));
        }
    }
}

/// Text and binary are their own encoding.
fn bytes<A: ArrayAccessor>(array: A, seed: u64, hashes: &mut [u128])
where
    A::Item: AsRef<[u8]>,
{
    let all_valid = array.null_count() == 0;
    for (row, hash) in hashes.iter_mut().enumerate() {
        if all_valid || array.is_valid(row) {
            *hash = hash.wrapping_add(xxh3_128_with_seed(array.value(row).as_ref(), seed));
        }
    }
}

fn long(value: i64, out: &mut Buffer) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn interval(months: i32, days: i32, nanoseconds: i64, out: &mut Buffer) {
    out.extend_from_slice(&months.to_le_bytes());
    out.extend_from_slice(&days.to_le_bytes());
    out.extend_from_slice(&nanoseconds.to_le_bytes());
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// `mantissa * 10^-scale` in 64 bits, the common case.
fn small_number(mut mantissa: i64, scale: i8, out: &mut Buffer) {
    let mut exponent = -i16::from(scale);
    if mantissa == 0 {
        exponent = 0;
    }
    while mantissa != 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    out.extend_from_slice(&mantissa.to_le_bytes());
    out.extend_from_slice(&exponent.to_le_bytes());
}

fn number(mut mantissa: i128, scale: i8, out: &mut Buffer) {
    if let Ok(small) = i64::try_from(mantissa) {
        return small_number(small, scale, out);
    }
    let mut exponent = -i16::from(scale);
    while mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    match i64::try_from(mantissa) {
        Ok(small) => out.extend_from_slice(&small.to_le_bytes()),
        Err(_) => out.extend_from_slice(&mantissa.to_le_bytes()),
    }
    out.extend_from_slice(&exponent.to_le_bytes());
}

fn wide_number(mut mantissa: i256, scale: i8, out: &mut Buffer) {
    if let Some(narrow) = mantissa.to_i128() {
        return number(narrow, scale, out);
    }
    let ten = i256::from_i128(10);
    let mut exponent = -i16::from(scale);
    while mantissa.wrapping_rem(ten) == i256::ZERO {
        mantissa = mantissa.wrapping_div(ten);
        exponent += 1;
    }
    match (mantissa.to_i128().map(i64::try_from), mantissa.to_i128()) {
        (Some(Ok(small)), _) => out.extend_from_slice(&small.to_le_bytes()),
        (_, Some(narrow)) => out.extend_from_slice(&narrow.to_le_bytes()),
        (_, None) => out.extend_from_slice(&mantissa.to_le_bytes()),
    }
    out.extend_from_slice(&exponent.to_le_bytes());
}

fn uuid_text(value: &[u8], out: &mut Buffer) {
    for (i, byte) in value.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.extend_from_slice(b"-");
        }
        out.extend_from_slice(&[
            b"0123456789abcdef"[usize::from(byte >> 4)],
            b"0123456789abcdef"[usize::from(byte & 15)],
        ]);
    }
}
