//! Conversions of single values that either keep what a value is, or give NULL: for rows that are put aside where a
//! value does not fit, instead of failing the run.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options, kernels::cmp, nullif};
use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::Result;
use crate::schema::TypeShape;
use crate::types::{is_binary, is_string};

/// What a value has to be beside being of the Arrow type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    None,
    /// At most so many characters.
    Length(u32),
    /// The text of a number.
    Number,
    /// One of these texts.
    Labels(Vec<String>),
    /// Nothing that could be checked here: no value of another type is taken for one.
    Opaque,
}

impl Constraint {
    /// Of a column whose values travel in this Arrow type and that has this shape.
    pub fn of(shape: &TypeShape, data_type: &DataType) -> Self {
        match shape {
            TypeShape::Text { length: Some(length), .. } => Self::Length(*length),
            _ if !is_string(data_type) => Self::None,
            TypeShape::Text { .. } => Self::None,
            TypeShape::Decimal { .. } => Self::Number,
            TypeShape::Enum(labels) => Self::Labels(labels.clone()),
            _ => Self::Opaque,
        }
    }
}

/// The value in another type where it stays what it is, else NULL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct TryCast {
    from: DataType,
    to: DataType,
    constraint: Constraint,
    #[serde(skip, default = "any")]
    signature: Signature,
}

fn any() -> Signature {
    Signature::any(1, Volatility::Immutable)
}

impl TryCast {
    pub const NAME: &'static str = "dpone_try_cast";

    pub fn new(from: DataType, to: DataType, constraint: Constraint) -> Self {
        Self { from, to, constraint, signature: any() }
    }

    pub fn call(expr: Expr, from: &Field, to: &Field, constraint: Constraint) -> Expr {
        let udf = Self::new(from.data_type().clone(), to.data_type().clone(), constraint);
        ScalarUDF::new_from_impl(udf).call(vec![expr])
    }

    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let cast = self.cast(array)?;
        self.constrained(cast)
    }

    fn cast(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let to = &self.to;
        if array.data_type() == to {
            return Ok(Arc::clone(array));
        }
        let none = || Ok(new_null_array(to, array.len()));
        if array.data_type().is_nested() || to.is_nested() || !can_cast_types(array.data_type(), to) {
            return none();
        }
        let from = array.data_type();
        if is_binary(from) || matches!(from, DataType::FixedSizeBinary(_) | DataType::Boolean) {
            return none();
        }
        let safe = CastOptions { safe: true, ..Default::default() };
        let there = match is_string(array.data_type()) {
            true => parsed(array, to, &safe)?,
            false => match to {
                DataType::Boolean => return none(),
                _ => cast_with_options(array, to, &safe)?,
            },
        };
        // What does not come back unchanged is another value.
        let wide = match (array.data_type(), to) {
            (from, DataType::Decimal128(..) | DataType::Decimal256(..)) if is_string(from) => {
                Some(DataType::Decimal256(76, 38))
            }
            (from, DataType::Timestamp(_, zone)) if is_string(from) => {
                Some(DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()))
            }
            _ => None,
        };
        let (given, back) = match &wide {
            Some(wide) => (cast_with_options(array, wide, &safe)?, cast_with_options(&there, wide, &safe)?),
            None if is_string(array.data_type()) => return Ok(there),
            None if !can_cast_types(to, array.data_type()) => return none(),
            None => (Arc::clone(array), cast_with_options(&there, array.data_type(), &safe)?),
        };
        let changed = cmp::distinct(&given, &back)?;
        Ok(nullif(&there, &changed)?)
    }

    fn constrained(&self, array: ArrayRef) -> Result<ArrayRef> {
        if matches!(self.constraint, Constraint::None) || !is_string(array.data_type()) {
            return Ok(array);
        }
        if self.constraint == Constraint::Opaque {
            return match self.from == self.to || is_string(&self.from) && is_string(&self.to) {
                true => Ok(array),
                false => Ok(new_null_array(&self.to, array.len())),
            };
        }
        let texts = cast_with_options(&array, &DataType::Utf8, &CastOptions::default())?;
        let broken: BooleanArray = texts.as_string::<i32>().iter().map(|t| t.map(|t| !self.holds(t))).collect();
        Ok(nullif(&array, &broken)?)
    }

    fn holds(&self, text: &str) -> bool {
        match &self.constraint {
            // Bytes first: most texts are short enough whatever they hold.
            Constraint::Length(most) => text.len() <= *most as usize || text.chars().count() <= *most as usize,
            Constraint::Number => is_number(text),
            Constraint::Labels(labels) => labels.iter().any(|label| label == text),
            Constraint::None => true,
            Constraint::Opaque => false,
        }
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = digits.split_once(['e', 'E']).map_or((digits, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let exponent = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && e.len() < 5 && all(e)
    });
    all(whole) && all(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent
}

/// Texts as values of another type; NULL where a text is not plainly one.
fn parsed(array: &ArrayRef, to: &DataType, safe: &CastOptions<'_>) -> Result<ArrayRef> {
    let texts = cast_with_options(array, &DataType::Utf8, safe)?;
    let strings = texts.as_string::<i32>();
    if *to == DataType::Boolean {
        let mut out = BooleanBuilder::with_capacity(array.len());
        for text in strings {
            out.append_option(match text {
                Some("true" | "t") => Some(true),
                Some("false" | "f") => Some(false),
                _ => None,
            });
        }
        return Ok(Arc::new(out.finish()));
    }
    let unclear: BooleanArray = strings.iter().map(|t| t.map(|t| !is_plain(t, to))).collect();
    let plain = nullif(&texts, &unclear)?;
    Ok(cast_with_options(&plain, to, safe)?)
}

/// Whether a text says no more and no less than the type: a time with a zone is none without, and a number has no blanks.
fn is_plain(text: &str, to: &DataType) -> bool {
    match to {
        DataType::Timestamp(_, zone) => {
            let time = text.find(['T', ' ']).map_or("", |at| &text[at..]);
            !time.is_empty() && time.contains(['Z', '+', '-']) == zone.is_some()
        }
        to if to.is_numeric() => is_number(text),
        _ => true,
    }
}

impl ScalarUDFImpl for TryCast {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.to.clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DataFusionResult<Arc<Field>> {
        Ok(Arc::new(Field::new(Self::NAME, self.to.clone(), true)))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::utc;
    use arrow::array::{Decimal128Array, Int64Array, StringArray};

    fn fits(from: ArrayRef, to: DataType, constraint: Constraint) -> Vec<bool> {
        let cast = TryCast::new(from.data_type().clone(), to.clone(), constraint).apply(&from).unwrap();
        assert_eq!(cast.data_type(), &to);
        (0..cast.len()).map(|i| cast.is_valid(i)).collect()
    }

    fn texts(texts: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(texts.to_vec()))
    }

    #[test]
    fn a_value_stays_what_it_is_or_is_null() {
        use DataType as D;
        let micros = |zone| D::Timestamp(TimeUnit::Microsecond, zone);
        for (array, to, constraint, expected) in [
            (
                texts(&["12", "-3", "1.5", "x", " 4", "3000000000"]),
                D::Int32,
                Constraint::None,
                vec![true, true, false, false, false, false],
            ),
            (
                texts(&["1.5", "1.55", "1.555", "123456789.1", "1,5"]),
                D::Decimal128(5, 2),
                Constraint::None,
                vec![true, true, false, false, false],
            ),
            (texts(&["true", "f", "1", "yes"]), D::Boolean, Constraint::None, vec![true, true, false, false]),
            (texts(&["2024-01-31", "2024-02-31", "soon"]), D::Date32, Constraint::None, vec![true, false, false]),
            (
                texts(&["2024-01-31 10:00:00", "2024-01-31T10:00:00Z", "2024-01-31 10:00:00.1234567"]),
                micros(None),
                Constraint::None,
                vec![true, false, false],
            ),
            (
                texts(&["2024-01-31 10:00:00", "2024-01-31T10:00:00+02:00"]),
                micros(Some(utc())),
                Constraint::None,
                vec![false, true],
            ),
            (texts(&["äöü", "abcd", ""]), D::Utf8, Constraint::Length(3), vec![true, false, true]),
            (texts(&["1.50", "-1e10", "NaN", "."]), D::Utf8, Constraint::Number, vec![true, true, false, false]),
            (texts(&["new", "old"]), D::Utf8, Constraint::Labels(vec!["new".into()]), vec![true, false]),
            (Arc::new(Int64Array::from(vec![1, 1 << 40])) as ArrayRef, D::Int32, Constraint::None, vec![true, false]),
            (Arc::new(Int64Array::from(vec![1, 1000])) as ArrayRef, D::Utf8, Constraint::Length(3), vec![true, false]),
            (
                Arc::new(Decimal128Array::from(vec![100, 150]).with_precision_and_scale(10, 2).unwrap()) as ArrayRef,
                D::Int64,
                Constraint::None,
                vec![true, false],
            ),
            (Arc::new(Int64Array::from(vec![1])) as ArrayRef, D::Utf8, Constraint::Opaque, vec![false]),
        ] {
            let shown = format!("{:?} into {to:?} {constraint:?}", array.data_type());
            assert_eq!(fits(array, to, constraint), expected, "{shown}");
        }
    }
}
