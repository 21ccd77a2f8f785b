//! The order of values that travel as text: how a number, a label or an address sorts in the system it comes from.
//!
//! A cursor and an `order_by` must follow the order of the column's own type: as text, 10 sorts before 9, and every row
//! after it would be passed over. [`ValueOrder::key`] turns a text into bytes that sort as the values do, so that the
//! same comparison serves filters, sorts and the watermark; a source that can compare in its own type is asked to, see
//! [`AtLeast`].

mod key;

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray};
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{Error, Result};
use crate::types::{NATIVE, ORDER, is_string, is_uuid};

/// How the values of a column sort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueOrder {
    /// As Arrow orders the column's type; texts by their bytes.
    #[default]
    Arrow,
    /// Decimal numbers of any length: -Infinity, the numbers, Infinity, NaN.
    Numeric,
    /// Texts whose trailing spaces do not count, as `char(n)` has them.
    Padded,
    /// Labels in this order, as an enum has them.
    Labels(Vec<String>),
    /// Intervals in PostgreSQL's own text, a month being 30 days and a day 24 hours long.
    Interval,
    /// Times with their zone: the moment, then the zone.
    TimeTz,
    /// Amounts with a currency, which all have the same number of fractional digits.
    Money,
    /// IP addresses and networks: the network, the length of its mask, the address.
    Inet,
    /// Positions in a log: two hexadecimal numbers.
    Lsn,
}

impl ValueOrder {
    pub fn is_arrow(&self) -> bool {
        *self == Self::Arrow
    }

    /// The order of a field's values, or `None` where it is not known.
    pub fn of(field: &Field) -> Option<Self> {
        use DataType::*;
        if let Some(declared) = field.metadata().get(ORDER) {
            return serde_json::from_str(declared).ok().filter(|_| is_string(field.data_type()));
        }
        let ordered = is_uuid(field)
            || (is_string(field.data_type()) && native_sorts_as_text(field))
            || matches!(
                field.data_type(),
                Int8 | Int16
                    | Int32
                    | Int64
                    | UInt8
                    | UInt16
                    | UInt32
                    | UInt64
                    | Float32
                    | Float64
                    | Decimal128(_, _)
                    | Decimal256(_, _)
                    | Binary
                    | Date32
                    | Time64(_)
                    | Timestamp(_, _)
            );
        ordered.then_some(Self::Arrow)
    }

    /// The value of the metadata key [`ORDER`] that says this order.
    pub fn metadata(&self) -> String {
        // A name, or a name with a list of texts: nothing in it can fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Bytes that sort as the values do. `None`: the text is no value of this order.
    pub fn key(&self, text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(text.len() + 8);
        key::write(self, text, &mut out).then_some(out)
    }

    /// The keys of a text column. Fails at the first text that is no value of this order, naming the column.
    pub fn keys(&self, column: &str, values: &dyn Array) -> Result<BinaryArray> {
        match values.data_type() {
            DataType::Utf8 => self.keys_of(column, values.as_string::<i32>().iter()),
            DataType::LargeUtf8 => self.keys_of(column, values.as_string::<i64>().iter()),
            DataType::Utf8View => self.keys_of(column, values.as_string_view().iter()),
            other => Err(Error::internal(format!("column {column:?} is {other} and was to be ordered as text"))),
        }
    }

    fn keys_of<'a>(&self, column: &str, values: impl ExactSizeIterator<Item = Option<&'a str>>) -> Result<BinaryArray> {
        let mut builder = BinaryBuilder::with_capacity(values.len(), values.len() * 16);
        let mut key = Vec::with_capacity(64);
        for value in values {
            let Some(text) = value else {
                builder.append_null();
                continue;
            };
            key.clear();
            if !key::write(self, text, &mut key) {
                return Err(self.no_value(column));
            }
            builder.append_value(&key);
        }
        Ok(builder.finish())
    }

    /// How two texts compare.
    pub fn compare(&self, column: &str, a: &str, b: &str) -> Result<Ordering> {
        let key = |text| self.key(text).ok_or_else(|| self.no_value(column));
        Ok(key(a)?.cmp(&key(b)?))
    }

    fn no_value(&self, column: &str) -> Error {
        let what = match self {
            Self::Labels(_) => "a label that its enum does not have",
            Self::Money => "an amount of money in a form that is not known here",
            _ => "a text that is no value of its type",
        };
        Error::data_quality(format!("column {column:?} holds {what}: its place in the order is not known"))
            .with("column", column)
            .with_hint("use another column, or convert this one in a query: CAST(… AS DECIMAL(38, 10))")
    }
}

/// Types that travel as text do not sort as their text does, unless their source says so with [`ORDER`].
fn native_sorts_as_text(field: &Field) -> bool {
    field.metadata().get(NATIVE).is_none_or(|native| {
        let base = native.split('(').next().unwrap_or_default().trim();
        matches!(base, "text" | "varchar" | "character varying" | "name")
    })
}

/// `expr` as something that sorts in this order.
pub fn sortable(expr: Expr, name: &str, order: &ValueOrder) -> Expr {
    match order {
        ValueOrder::Arrow => expr,
        order => ScalarUDF::new_from_impl(OrderKey::new(name, order.clone())).call(vec![expr]),
    }
}

/// The key of each text, see [`ValueOrder::key`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct OrderKey {
    pub column: String,
    pub order: ValueOrder,
    #[serde(skip, default = "one_text")]
    signature: Signature,
}

fn one_text() -> Signature {
    Signature::uniform(1, vec![DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View], Volatility::Immutable)
}

impl OrderKey {
    pub const NAME: &'static str = "dpone_order_key";

    pub fn new(column: impl Into<String>, order: ValueOrder) -> Self {
        Self { column: column.into(), order, signature: one_text() }
    }
}

impl ScalarUDFImpl for OrderKey {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let values = only_argument(Self::NAME, &args)?;
        Ok(ColumnarValue::Array(Arc::new(self.order.keys(&self.column, &values)?)))
    }
}

/// Whether each text is at least `bound`, in the order of its own type. NULL for NULL.
///
/// A source that knows the type answers in its own SQL; DataFusion compares keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct AtLeast {
    pub column: String,
    pub order: ValueOrder,
    pub bound: String,
    #[serde(skip, default = "one_text")]
    signature: Signature,
}

impl AtLeast {
    pub const NAME: &'static str = "dpone_at_least";

    pub fn call(expr: Expr, column: &str, order: &ValueOrder, bound: &str) -> Expr {
        let function =
            Self { column: column.to_owned(), order: order.clone(), bound: bound.to_owned(), signature: one_text() };
        ScalarUDF::new_from_impl(function).call(vec![expr])
    }
}

impl ScalarUDFImpl for AtLeast {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let values = only_argument(Self::NAME, &args)?;
        let bound = self.order.key(&self.bound).ok_or_else(|| self.order.no_value(&self.column))?;
        let keys = self.order.keys(&self.column, &values)?;
        let at_least: BooleanArray = keys.iter().map(|key| key.map(|key| key >= bound.as_slice())).collect();
        Ok(ColumnarValue::Array(Arc::new(at_least)))
    }
}

fn only_argument(name: &str, args: &ScalarFunctionArgs) -> DataFusionResult<ArrayRef> {
    match args.args.as_slice() {
        [argument] => argument.to_array(args.number_rows),
        _ => internal_err!("{name} takes one argument"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::with_native;
    use arrow::array::StringArray;

    #[test]
    fn text_of_another_type_has_no_order_unless_its_source_says_which() {
        let text = |native: &str| with_native(Field::new("c", DataType::Utf8, true), "postgres", native);
        for sorted in ["text", "character varying(20)", "name"] {
            assert_eq!(ValueOrder::of(&text(sorted)), Some(ValueOrder::Arrow), "{sorted}");
        }
        assert_eq!(ValueOrder::of(&Field::new("c", DataType::Utf8, true)), Some(ValueOrder::Arrow));
        for unsorted in ["public.citext", "json", "tsvector"] {
            assert_eq!(ValueOrder::of(&text(unsorted)), None, "{unsorted}");
        }
        let labels = ValueOrder::Labels(vec!["sad".into(), "ok".into()]);
        for order in [ValueOrder::Numeric, labels] {
            let mut metadata = text("of its own").metadata().clone();
            metadata.insert(ORDER.to_owned(), order.metadata());
            assert_eq!(ValueOrder::of(&text("of its own").with_metadata(metadata)), Some(order));
        }
    }

    #[test]
    fn keys_keep_null_and_name_the_column_of_what_is_no_value() {
        let values = StringArray::from(vec![Some("10"), None, Some("9")]);
        let keys = ValueOrder::Numeric.keys("n", &values).unwrap();
        assert!(keys.is_null(1) && keys.value(0) > keys.value(2));
        let error = ValueOrder::Numeric.keys("n", &StringArray::from(vec!["secret"])).unwrap_err();
        assert!(error.message().contains("\"n\"") && !error.to_string().contains("secret"), "{error}");
    }
}
