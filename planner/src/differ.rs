//! Whether two rows differ, as one expression over all of their columns.
//!
//! A chain of `a IS DISTINCT FROM b OR …` is as deep as a table is wide, and planning it costs the square of that and more.
//! It also takes -0 and 0 for one value, as SQL does; a target follows its source exactly.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, make_comparator};
use arrow::compute::SortOptions;
use arrow::compute::kernels::boolean::or;
use arrow::compute::kernels::cmp::distinct;
use arrow::datatypes::DataType;
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

/// True where the values of any pair differ; NULL equals NULL, -0 and 0 differ. The two of a pair are of one type.
pub fn differs(pairs: impl IntoIterator<Item = (Expr, Expr)>) -> Expr {
    let values: Vec<Expr> = pairs.into_iter().flat_map(|(one, other)| [one, other]).collect();
    match values.is_empty() {
        true => lit(false),
        false => {
            ScalarUDF::new_from_impl(Differs { signature: Signature::variadic_any(Volatility::Immutable) }).call(values)
        }
    }
}

/// The function behind [`differs`]: its arguments are pairs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Differs {
    signature: Signature,
}

impl ScalarUDFImpl for Differs {
    fn name(&self) -> &str {
        "dpone_differs"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let mut any: Option<BooleanArray> = None;
        for pair in args.args.chunks(2) {
            let [one, other] = pair else { return internal_err!("{} compares pairs", self.name()) };
            let found = differ(&one.to_array(args.number_rows)?, &other.to_array(args.number_rows)?)?;
            any = Some(match any {
                Some(any) => or(&any, &found)?,
                None => found,
            });
        }
        let any = any.unwrap_or_else(|| BooleanArray::from(vec![false; args.number_rows]));
        Ok(ColumnarValue::Array(Arc::new(any)))
    }
}

fn differ(one: &ArrayRef, other: &ArrayRef) -> DataFusionResult<BooleanArray> {
    if !one.data_type().is_nested() {
        return Ok(distinct(one, other)?);
    }
    let compare = make_comparator(one, other, SortOptions::default())?;
    Ok((0..one.len()).map(|row| Some(compare(row, row).is_ne())).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{Float64Array, Int32Array, ListArray};
    use arrow::datatypes::Int32Type;

    fn differing(one: ArrayRef, other: ArrayRef) -> Vec<bool> {
        differ(&one, &other).unwrap().iter().map(|value| value.unwrap()).collect()
    }

    #[test]
    fn values_differ_as_they_are_stored() {
        let floats = |values: [Option<f64>; 6]| Arc::new(Float64Array::from_iter(values)) as ArrayRef;
        let nan = f64::NAN;
        let one = floats([Some(0.0), Some(1.0), None, None, Some(nan), Some(2.0)]);
        let other = floats([Some(-0.0), Some(1.0), None, Some(0.0), Some(nan), Some(3.0)]);
        assert_eq!(differing(one, other), [true, false, false, true, false, true]);
        let lists = |values: [Option<Vec<Option<i32>>>; 4]| {
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(values)) as ArrayRef
        };
        let one = lists([Some(vec![Some(1), None]), None, Some(vec![]), None]);
        let other = lists([Some(vec![Some(1), None]), None, None, Some(vec![None])]);
        assert_eq!(differing(one, other), [false, false, true, true]);
    }

    #[test]
    fn one_pair_of_many_is_enough() {
        let ints = |values: [i32; 3]| ColumnarValue::Array(Arc::new(Int32Array::from_iter_values(values)));
        let args = vec![ints([1, 2, 3]), ints([1, 0, 3]), ints([4, 5, 6]), ints([4, 5, 0])];
        let fields = args.iter().map(|a| Arc::new(arrow::datatypes::Field::new("c", a.data_type(), true))).collect();
        let found = Differs { signature: Signature::variadic_any(Volatility::Immutable) }
            .invoke_with_args(ScalarFunctionArgs {
                args,
                arg_fields: fields,
                number_rows: 3,
                return_field: Arc::new(arrow::datatypes::Field::new("d", DataType::Boolean, true)),
                config_options: Arc::default(),
            })
            .unwrap();
        let found = found.to_array(3).unwrap();
        let found: Vec<_> = found.as_any().downcast_ref::<BooleanArray>().unwrap().iter().flatten().collect();
        assert_eq!(found, [false, true, true]);
    }
}
