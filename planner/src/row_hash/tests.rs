#![allow(clippy::unwrap_used)]

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{Int32Type, TimeUnit, i256};

use super::*;
use crate::types::{EXTENSION_UUID, with_extension};

fn hash_of(kind: DigestKind, columns: Vec<(Field, ArrayRef)>) -> Vec<u128> {
    let rows = columns.first().map_or(0, |(_, a)| a.len());
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let hashes = RowDigest::new(kind, fields).apply(&arrays, rows).unwrap();
    let hashes = hashes.as_fixed_size_binary();
    (0..rows).map(|i| u128::from_be_bytes(hashes.value(i).try_into().unwrap())).collect()
}

fn named(name: &str, array: impl Array + 'static) -> (Field, ArrayRef) {
    (Field::new(name, array.data_type().clone(), true), Arc::new(array))
}

fn one(array: impl Array + 'static) -> u128 {
    hash_of(DigestKind::Values, vec![named("c", array)])[0]
}

/// The vectors of the specification: a change of any of them is another version.
#[test]
fn published_vectors() {
    let vectors = [
        ("boolean true", one(BooleanArray::from(vec![true]))),
        ("integer 42", one(Int32Array::from(vec![42]))),
        ("integer 1000", one(Int64Array::from(vec![1000]))),
        ("decimal -12.50", one(Decimal128Array::from(vec![-1250]).with_precision_and_scale(10, 2).unwrap())),
        ("double 1.5", one(Float64Array::from(vec![1.5]))),
        ("text 'ü'", one(StringArray::from(vec!["ü"]))),
        ("text ''", one(StringArray::from(vec![""]))),
        ("binary 00ff", one(BinaryArray::from(vec![&[0_u8, 255][..]]))),
        ("date 2013-01-01", one(Date32Array::from(vec![15706]))),
        ("timestamp 1969-12-31 23:59:59.999999", one(TimestampMicrosecondArray::from(vec![-1]))),
    ];
    let text: Vec<String> = vectors.iter().map(|(name, hash)| format!("{name}: {hash:032x}")).collect();
    let documented = include_str!("../../../docs/reference/row-hash.md");
    for line in &text {
        assert!(
            documented.contains(line.as_str()),
            "not in docs/reference/row-hash.md: {line}\nall:\n{}",
            text.join("\n")
        );
    }
}

#[test]
fn the_same_value_in_another_type_width_hashes_the_same() {
    let integer = one(Int8Array::from(vec![7]));
    assert_eq!(integer, one(Int64Array::from(vec![7])));
    assert_eq!(integer, one(UInt64Array::from(vec![7])));
    assert_eq!(integer, one(Decimal128Array::from(vec![700]).with_precision_and_scale(38, 2).unwrap()));
    assert_eq!(integer, one(Decimal256Array::from(vec![i256::from_i128(70)]).with_precision_and_scale(76, 1).unwrap()));
    assert_eq!(one(UInt64Array::from(vec![u64::MAX])), {
        one(Decimal128Array::from(vec![i128::from(u64::MAX)]).with_precision_and_scale(38, 0).unwrap())
    });
    assert_eq!(one(Float32Array::from(vec![0.5])), one(Float64Array::from(vec![0.5])));
    assert_eq!(one(StringArray::from(vec!["x"])), one(StringViewArray::from(vec!["x"])));
    assert_eq!(one(LargeStringArray::from(vec!["x"])), one(StringArray::from(vec!["x"])));
    let dictionary: DictionaryArray<Int32Type> = vec!["x"].into_iter().collect();
    assert_eq!(one(dictionary), one(StringArray::from(vec!["x"])));
    let micros = TimestampMicrosecondArray::from(vec![1_500_000]);
    assert_eq!(one(micros), one(TimestampNanosecondArray::from(vec![1_500_000_000])));
    let (utc, paris) = ("UTC", "Europe/Paris");
    let instant = |zone: &str| one(TimestampMicrosecondArray::from(vec![5]).with_timezone(zone));
    assert_eq!(instant(utc), instant(paris));
    assert_eq!(one(Time64MicrosecondArray::from(vec![3])), one(Time64NanosecondArray::from(vec![3000])));
    let uuid = [0x12_u8, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8];
    let bytes = FixedSizeBinaryArray::try_from_iter([uuid].into_iter()).unwrap();
    let field = with_extension(Field::new("c", bytes.data_type().clone(), true), EXTENSION_UUID);
    let as_uuid = hash_of(DigestKind::Values, vec![(field, Arc::new(bytes))])[0];
    assert_eq!(as_uuid, one(StringArray::from(vec!["12345678-9abc-def0-0102-030405060708"])));
}

#[test]
fn what_differs_hashes_differently() {
    let values = [
        one(StringArray::from(vec![""])),
        one(BinaryArray::from(vec![&b""[..]])),
        one(StringArray::from(vec!["0"])),
        one(StringArray::from(vec!["0 "])),
        one(Int32Array::from(vec![0])),
        one(Int32Array::from(vec![None])),
        one(BooleanArray::from(vec![false])),
        one(Float64Array::from(vec![0.0])),
        one(Float64Array::from(vec![-0.0])),
        one(Float64Array::from(vec![f64::NAN])),
        one(Float64Array::from(vec![f64::INFINITY])),
        one(Date32Array::from(vec![0])),
        one(TimestampMicrosecondArray::from(vec![0])),
        one(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC")),
        one(Time64MicrosecondArray::from(vec![0])),
        one(DurationSecondArray::from(vec![0])),
        one(IntervalYearMonthArray::from(vec![0])),
        one(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![])])),
        one(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![None])])),
        one(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(0)])])),
        one(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(0), None])])),
    ];
    for (i, a) in values.iter().enumerate() {
        for (j, b) in values.iter().enumerate().take(i) {
            assert_ne!(a, b, "{i} and {j}");
        }
    }
    let nan = f64::from_bits(0x7ff8_0000_0000_0001);
    assert_eq!(one(Float64Array::from(vec![nan])), one(Float64Array::from(vec![f64::NAN])));
}

#[test]
fn values_do_not_move_between_columns_and_null_adds_nothing() {
    let pair = |a: Option<&str>, b: Option<&str>| {
        let columns = vec![named("a", StringArray::from(vec![a])), named("b", StringArray::from(vec![b]))];
        hash_of(DigestKind::Values, columns)[0]
    };
    assert_ne!(pair(Some("x"), Some("y")), pair(Some("y"), Some("x")));
    assert_ne!(pair(Some("xy"), Some("")), pair(Some("x"), Some("y")));
    assert_ne!(pair(Some("x"), None), pair(None, Some("x")));
    assert_ne!(pair(Some("x"), None), pair(Some("x"), Some("")));
    let alone = hash_of(DigestKind::Values, vec![named("a", StringArray::from(vec!["x"]))])[0];
    assert_eq!(pair(Some("x"), None), alone, "a column that is added with NULL changes no hash");
    let turned = vec![named("b", StringArray::from(vec!["y"])), named("a", StringArray::from(vec!["x"]))];
    assert_eq!(pair(Some("x"), Some("y")), hash_of(DigestKind::Values, turned)[0], "order does not matter");
}

#[test]
fn keys_call_minus_zero_zero() {
    let key = |v: f64| hash_of(DigestKind::Key, vec![named("k", Float64Array::from(vec![v]))])[0];
    assert_eq!(key(0.0), key(-0.0));
}

#[test]
fn sliced_and_nested_arrays_hash_by_their_rows() {
    let all = Int32Array::from(vec![Some(1), None, Some(3), Some(4)]);
    let whole = hash_of(DigestKind::Values, vec![named("c", all.clone())]);
    assert_eq!(hash_of(DigestKind::Values, vec![named("c", all.slice(1, 3))]), whole[1..]);
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), Some(2)]),
        None,
        Some(vec![Some(2), Some(1)]),
    ]);
    let hashes = hash_of(DigestKind::Values, vec![named("c", lists.clone())]);
    assert!(hashes[0] != hashes[2] && hashes[1] == 0);
    assert_eq!(hash_of(DigestKind::Values, vec![named("c", lists.slice(2, 1))])[0], hashes[2]);
    let fields = vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)];
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![1, 1])), Arc::new(StringArray::from(vec!["a", "a"]))];
    let valid = NullBuffer::from(vec![true, false]);
    let structs = StructArray::new(fields.into(), columns, Some(valid));
    let hashes = hash_of(DigestKind::Values, vec![named("c", structs)]);
    assert!(hashes[0] != 0 && hashes[1] == 0);
    let entries = |keys: Vec<&str>, values: Vec<i32>| {
        let fields = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int32, true)];
        let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(keys)), Arc::new(Int32Array::from(values))];
        let entries = StructArray::new(fields.into(), columns, None);
        let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
        one(MapArray::new(field, OffsetBuffer::new(vec![0, 2].into()), entries, None, false))
    };
    assert_eq!(entries(vec!["a", "b"], vec![1, 2]), entries(vec!["b", "a"], vec![2, 1]));
    assert_ne!(entries(vec!["a", "b"], vec![1, 2]), entries(vec!["a", "b"], vec![2, 1]));
}

#[test]
fn exact_digests_are_the_values() {
    let rows = |a: Vec<Option<f64>>| {
        let array: ArrayRef = Arc::new(Float64Array::from(a));
        let digest = RowDigest::new(DigestKind::Exact, vec![Field::new("c", DataType::Float64, true)]);
        digest.apply(&[Arc::clone(&array)], array.len()).unwrap()
    };
    let digests = rows(vec![Some(1.0), None, Some(1.0), Some(-0.0), Some(0.0)]);
    let digests = digests.as_binary::<i32>();
    assert_eq!(digests.value(0), digests.value(2));
    assert!(digests.value(0) != digests.value(1) && digests.value(3) != digests.value(4));
    let none = RowDigest::new(DigestKind::Exact, vec![]).apply(&[], 2).unwrap();
    assert_eq!(none.len(), 2);
}

#[test]
fn stored_hashes_come_back() {
    assert_eq!(parse_hex("000000000000000000000000000000ff"), Some(255));
    assert_eq!(parse_hex("ff"), None);
    assert_eq!(parse_hex("zz0000000000000000000000000000ff"), None);
}

#[test]
fn timestamps_of_all_units_agree() {
    for (unit, ticks) in
        [(TimeUnit::Second, -2), (TimeUnit::Millisecond, -2000), (TimeUnit::Nanosecond, -2_000_000_000)]
    {
        let array = arrow::compute::cast(&Int64Array::from(vec![ticks]), &DataType::Timestamp(unit, None)).unwrap();
        let hash = hash_of(DigestKind::Values, vec![(Field::new("c", array.data_type().clone(), true), array)])[0];
        assert_eq!(hash, one(TimestampMicrosecondArray::from(vec![-2_000_000])), "{unit:?}");
    }
}
