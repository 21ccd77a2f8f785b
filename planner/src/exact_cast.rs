//! Conversions that lose nothing: from what a source gives to what a sink stores.
//!
//! A widening conversion is a plain cast. One that holds only for some values (nanoseconds to microseconds, say) goes
//! through [`ExactCast`], which fails the run at the first value that does not survive, naming the column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, ListArray, StringBuilder};
use arrow::compute::{CastOptions, cast_with_options, kernels::cmp};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};

use crate::error::{Error, Result};
use crate::types::{data_type_name, is_binary, is_string, is_uuid, logical_name, spelled_as, widens};

/// The expression that turns `expr`, of type `from`, into exactly the same values of type `to`.
pub fn convert(expr: Expr, from: &Field, to: &Field) -> Result<Expr> {
    if from.data_type() == to.data_type() {
        return Ok(expr);
    }
    if is_uuid(from) && is_string(to.data_type()) || uuids_in_list(from) && list_of_texts(to) {
        return Ok(ExactCast::call(expr, from, to));
    }
    if finer_time(from.data_type(), to.data_type()) {
        return Ok(ExactCast::call(expr, from, to));
    }
    if widens(from.data_type(), to.data_type()) {
        return Ok(cast(expr, to.data_type().clone()));
    }
    if let Some(spelling) = spelled_as(from.data_type(), to) {
        return Ok(cast(cast(expr, spelling), to.data_type().clone()));
    }
    if checked(from.data_type(), to.data_type()) || of_one_length(from.data_type(), to.data_type()) && !is_uuid(to) {
        return Ok(ExactCast::call(expr, from, to));
    }
    Err(Error::configuration(format!(
        "column {:?}: there is no exact conversion from {} to {}",
        from.name(),
        logical_name(from),
        logical_name(to)
    ))
    .with_hint("convert it in a query: SELECT CAST(… AS …)"))
}

/// Whether values of one type of number can be held against another one by one.
pub fn counts(from: &DataType, to: &DataType) -> bool {
    let exact = |t: &DataType| t.is_integer() || matches!(t, DataType::Decimal128(..) | DataType::Decimal256(..));
    exact(from) && exact(to)
}

/// As [`convert`], for types of which only the values say whether they fit: the first that does not fails the run by name.
pub fn convert_checked(expr: Expr, from: &Field, to: &Field) -> Result<Expr> {
    match counts(from.data_type(), to.data_type()) && !widens(from.data_type(), to.data_type()) {
        true => Ok(ExactCast::call(expr, from, to)),
        false => convert(expr, from, to),
    }
}

fn uuids_in_list(field: &Field) -> bool {
    matches!(field.data_type(), DataType::List(item) if is_uuid(item))
}

fn list_of_texts(field: &Field) -> bool {
    matches!(field.data_type(), DataType::List(item) if item.data_type() == &DataType::Utf8)
}

/// Times in a finer unit: every value has one, and those of far years go beyond the range that is left for them.
fn finer_time(from: &DataType, to: &DataType) -> bool {
    matches!((from, to), (DataType::Timestamp(a, _), DataType::Timestamp(b, _)) if a < b) && widens(from, to)
}

/// Texts or bytes into a column whose values all have one length.
fn of_one_length(from: &DataType, to: &DataType) -> bool {
    (is_string(from) || is_binary(from)) && matches!(to, DataType::FixedSizeBinary(_))
}

/// Pairs that hold for some values, and are checked value by value.
fn checked(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    match (from, to) {
        (Timestamp(_, a), Timestamp(_, b)) => a.is_some() == b.is_some(),
        (Time32(_) | Time64(_), Time32(_) | Time64(_)) => true,
        (Time32(_) | Time64(_), to) if is_string(to) => true,
        (Date64, Date32) => true,
        _ => false,
    }
}

/// A cast that fails when a value does not come back from it unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExactCast {
    column: String,
    from: DataType,
    to: FieldRef,
    uuid: bool,
    signature: Signature,
}

impl ExactCast {
    pub const NAME: &'static str = "dpone_exact_cast";

    pub fn new(column: impl Into<String>, from: DataType, to: Field, uuid: bool) -> Self {
        Self {
            column: column.into(),
            signature: Signature::exact(vec![from.clone()], Volatility::Immutable),
            from,
            to: Arc::new(to),
            uuid,
        }
    }

    fn call(expr: Expr, from: &Field, to: &Field) -> Expr {
        let uuid = is_uuid(from) || uuids_in_list(from);
        let udf = Self::new(from.name(), from.data_type().clone(), to.clone(), uuid);
        ScalarUDF::new_from_impl(udf).call(vec![expr])
    }

    /// What another process needs to rebuild the function.
    pub fn spec(&self) -> (String, DataType, Field, bool) {
        (self.column.clone(), self.from.clone(), self.to.as_ref().clone(), self.uuid)
    }

    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef> {
        if let (true, Some(lists), DataType::List(item)) = (self.uuid, array.as_list_opt::<i32>(), self.to.data_type())
        {
            let texts = uuid_text(lists.values())?;
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            return Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, texts, nulls)?));
        }
        if self.uuid {
            return uuid_text(array);
        }
        let options = CastOptions { safe: false, ..Default::default() };
        let finer = finer_time(&self.from, self.to.data_type());
        let failed = || {
            let what = match finer {
                true => format!("{} of a year that the target's unit does not reach", data_type_name(&self.from)),
                false => {
                    let (from, to) = (data_type_name(&self.from), data_type_name(self.to.data_type()));
                    format!("{from} that does not fit {to} exactly")
                }
            };
            Error::data_quality(format!("column {:?} holds a {what}", self.column))
                .with("column", &self.column)
                .with_hint("convert it in a query, where the rounding is yours to choose: SELECT CAST(… AS …)")
        };
        if of_one_length(&self.from, self.to.data_type()) {
            let bytes = cast_with_options(array, &DataType::Binary, &options)?;
            return cast_with_options(&bytes, self.to.data_type(), &options).map_err(|_| failed());
        }
        let there = cast_with_options(array, self.to.data_type(), &options).map_err(|_| failed())?;
        if !finer && !is_string(self.to.data_type()) {
            let back = cast_with_options(&there, array.data_type(), &options).map_err(|_| failed())?;
            let changed = cmp::neq(&back, array)?;
            if changed.true_count() > 0 {
                return Err(failed());
            }
        }
        Ok(there)
    }
}

impl ScalarUDFImpl for ExactCast {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.to.data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(self.to.as_ref().clone().with_nullable(nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let Some(argument) = args.args.first() else {
            return internal_err!("{} takes one argument", Self::NAME);
        };
        let array = match argument {
            ColumnarValue::Array(array) => Arc::clone(array),
            ColumnarValue::Scalar(scalar) => scalar.to_array()?,
        };
        Ok(ColumnarValue::Array(self.apply(&array)?))
    }
}

/// Canonical text of 16-byte uuids: lower-case hexadecimal with hyphens.
pub fn uuid_text(array: &ArrayRef) -> Result<ArrayRef> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let Some(uuids) = array.as_any().downcast_ref::<FixedSizeBinaryArray>() else {
        return Err(Error::internal("a uuid column is not FixedSizeBinary"));
    };
    let mut out = StringBuilder::with_capacity(uuids.len(), uuids.len() * 36);
    let mut text = [b'-'; 36];
    for i in 0..uuids.len() {
        if uuids.is_null(i) {
            out.append_null();
            continue;
        }
        let mut at = 0;
        for (byte_index, byte) in uuids.value(i).iter().enumerate() {
            if matches!(byte_index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        // Only hexadecimal digits and hyphens were written.
        out.append_value(std::str::from_utf8(&text).unwrap_or_default());
    }
    Ok(Arc::new(out.finish()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::{EXTENSION_UUID, with_extension};
    use arrow::array::{StringArray, TimestampMicrosecondArray, TimestampNanosecondArray};
    use arrow::datatypes::TimeUnit;

    fn nanos_to_micros(values: Vec<Option<i64>>) -> Result<ArrayRef> {
        let to = DataType::Timestamp(TimeUnit::Microsecond, None);
        let cast =
            ExactCast::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), Field::new("at", to, true), false);
        cast.apply(&(Arc::new(TimestampNanosecondArray::from(values)) as ArrayRef))
    }

    #[test]
    fn nanoseconds_become_microseconds_or_fail_by_name() {
        let exact = nanos_to_micros(vec![Some(1_000), None, Some(-2_000)]).unwrap();
        assert_eq!(exact.as_ref(), &TimestampMicrosecondArray::from(vec![Some(1), None, Some(-2)]) as &dyn Array);
        let error = nanos_to_micros(vec![Some(1_001)]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::DataQuality);
        assert!(error.message().contains("\"at\"") && !error.to_string().contains("1001"));
    }

    #[test]
    fn a_time_beyond_the_reach_of_a_finer_unit_fails_by_name() {
        let field = |unit| Field::new("at", DataType::Timestamp(unit, None), true);
        let (from, to) = (field(TimeUnit::Millisecond), field(TimeUnit::Microsecond));
        let converted = convert(datafusion::prelude::col("at"), &from, &to).unwrap();
        assert!(converted.to_string().starts_with(ExactCast::NAME), "{converted}");
        let cast = ExactCast::new("at", from.data_type().clone(), to, false);
        let millis = |values: Vec<Option<i64>>| {
            cast.apply(&(Arc::new(arrow::array::TimestampMillisecondArray::from(values)) as ArrayRef))
        };
        let near = millis(vec![Some(1), None, Some(-2)]).unwrap();
        assert_eq!(near.as_ref(), &TimestampMicrosecondArray::from(vec![Some(1000), None, Some(-2000)]) as &dyn Array);
        let error = millis(vec![Some(253_402_300_800_000_000)]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::DataQuality);
        assert!(error.message().contains("\"at\"") && !error.to_string().contains("2534"), "{error}");
    }

    #[test]
    fn a_uuid_becomes_its_canonical_text() {
        let from = with_extension(Field::new("id", DataType::FixedSizeBinary(16), true), EXTENSION_UUID);
        let cast = ExactCast::new("id", from.data_type().clone(), Field::new("id", DataType::Utf8, true), true);
        let bytes: Vec<u8> = (0..16).map(|i| i * 17).collect();
        let array: ArrayRef = Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(bytes), None].into_iter(), 16).unwrap(),
        );
        let text = cast.apply(&array).unwrap();
        let expected = StringArray::from(vec![Some("00112233-4455-6677-8899-aabbccddeeff"), None]);
        assert_eq!(text.as_ref(), &expected as &dyn Array);
    }

    #[test]
    fn a_list_of_uuids_becomes_a_list_of_texts() {
        let uuid = with_extension(Field::new("item", DataType::FixedSizeBinary(16), true), EXTENSION_UUID);
        let bytes =
            FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([0; 16]), None].into_iter(), 16).unwrap();
        let lists = ListArray::try_new(
            Arc::new(uuid),
            arrow::buffer::OffsetBuffer::from_lengths([2, 0]),
            Arc::new(bytes),
            Some(vec![true, false].into()),
        )
        .unwrap();
        let to = Field::new("ids", DataType::new_list(DataType::Utf8, true), true);
        let cast = ExactCast::new("ids", lists.data_type().clone(), to, true);
        let texts = cast.apply(&(Arc::new(lists) as ArrayRef)).unwrap();
        let texts = texts.as_list::<i32>();
        assert!(texts.is_null(1) && texts.value(0).is_null(1));
        assert_eq!(texts.value(0).as_string::<i32>().value(0), "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn a_lossy_pair_is_refused() {
        let error = convert(
            datafusion::prelude::col("x"),
            &Field::new("x", DataType::Float64, true),
            &Field::new("x", DataType::Float32, true),
        )
        .unwrap_err();
        assert!(error.message().contains("double to real"), "{error}");
    }
}
