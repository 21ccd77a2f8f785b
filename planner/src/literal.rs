//! Literals beside columns: what people write for a uuid, a float or bytes of one length, in the type of the column.
//!
//! A uuid column is sixteen bytes, and its values are written as text. A literal such as 0.5 is a decimal, and DataFusion
//! compares floats with decimals as decimals, which know no NaN and no infinity, and hold fifteen digits behind the point.
//! Bytes of one length end in zeros where a value is shorter, and are compared with nothing else. [`compare`] makes such
//! literals values of the column's type, and casts of a uuid to text its canonical text. Texts that are compared with dates,
//! times and numbers stay texts, which DataFusion reads; that they can be read is checked here, since a run that
//! fails on one blames the rows.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result as DataFusionResult, ScalarValue, internal_err};
use datafusion::logical_expr::expr::{Cast, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, TryCast, Volatility, lit,
};

use crate::error::{Error, Result};
use crate::exact_cast::convert;
use crate::types::{NATIVE, is_string, is_uuid};

/// The bytes of a uuid as people write it: 32 hexadecimal digits, hyphens and braces anywhere that PostgreSQL has them.
pub fn parse(text: &str) -> Option<[u8; 16]> {
    let inner = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text.trim());
    let digits: Vec<u8> = inner.bytes().filter(|byte| *byte != b'-').collect();
    if digits.len() != 32 || inner.starts_with('-') || inner.ends_with('-') {
        return None;
    }
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(out)
}

/// Canonical text: lower-case hexadecimal with hyphens.
pub fn text(bytes: &[u8; 16]) -> String {
    let hex = crate::state::hex(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The text of a value of any of the text types.
pub fn text_of(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(Some(v)) | ScalarValue::LargeUtf8(Some(v)) | ScalarValue::Utf8View(Some(v)) => Some(v),
        _ => None,
    }
}

/// The bytes of a value of any of the binary types.
pub fn bytes_of(value: &ScalarValue) -> Option<&[u8]> {
    match value {
        ScalarValue::Binary(Some(v))
        | ScalarValue::LargeBinary(Some(v))
        | ScalarValue::BinaryView(Some(v))
        | ScalarValue::FixedSizeBinary(_, Some(v)) => Some(v),
        _ => None,
    }
}

/// The expression with the literals that are compared with uuids and floats in their types.
pub fn compare(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(expr.transform_up(|node| rewrite(node, schema))?.data)
}

/// The same for every expression of a plan.
pub fn compare_in_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| {
        let mut schema = merge_schema(&node.inputs());
        if let LogicalPlan::TableScan(scan) = &node {
            schema.merge(&scan.projected_schema);
        }
        let names = NamePreserver::new(&node);
        let is_output = matches!(node, LogicalPlan::Projection(_));
        let mapped = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|inner| rewrite(inner, &schema))?;
            let rewritten = match is_output {
                true => rewritten.transform_data(|expr| Ok(converted_text(expr, &schema)))?,
                false => rewritten,
            };
            Ok(rewritten.update_data(|expr| name.restore(expr)))
        })?;
        match mapped.transformed {
            true => mapped.map_data(|plan| plan.recompute_schema()),
            false => Ok(mapped),
        }
    })?;
    Ok(rewritten.data)
}

/// A column that travels as text, cast in the query's output, is no longer of its native type: the new type is what the
/// query asks for.
fn converted_text(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    match expr {
        Expr::Alias(mut alias) => {
            let inner = converted_text(*alias.expr, schema);
            alias.expr = Box::new(inner.data);
            Transformed::new_transformed(Expr::Alias(alias), inner.transformed)
        }
        Expr::Cast(Cast { expr, field }) => {
            let from = expr.to_field(schema).map(|(_, from)| from);
            let is_text = from.is_ok_and(|from| is_string(from.data_type()) && from.metadata().contains_key(NATIVE));
            let cast = Expr::Cast(Cast { expr, field });
            match is_text {
                true => Transformed::yes(ScalarUDF::new_from_impl(Converted::default()).call(vec![cast])),
                false => Transformed::no(cast),
            }
        }
        other => Transformed::no(other),
    }
}

/// Gives its argument without what is known about where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Converted {
    signature: Signature,
}

impl Converted {
    pub const NAME: &'static str = "dpone_converted";
}

impl Default for Converted {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Converted {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DataFusionResult<DataType> {
        match arguments {
            [one] => Ok(one.clone()),
            _ => internal_err!("{} takes one argument", Self::NAME),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        match (args.args.pop(), args.args.is_empty()) {
            (Some(argument), true) => Ok(argument),
            _ => internal_err!("{} takes one argument", Self::NAME),
        }
    }
}

fn rewrite(node: Expr, schema: &DFSchema) -> DataFusionResult<Transformed<Expr>> {
    Ok(match node {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
            match (beside(&left, &right, schema)?, beside(&right, &left, schema)?) {
                (Some(right), _) => Transformed::yes(binary(*left, op, right)),
                (_, Some(left)) => Transformed::yes(binary(left, op, *right)),
                (None, None) => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            }
        }
        Expr::InList(InList { expr, list, negated }) => {
            let list = list
                .into_iter()
                .map(|item| Ok(beside(&expr, &item, schema)?.unwrap_or(item)))
                .collect::<DataFusionResult<_>>()?;
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let bound = |bound: Box<Expr>| -> DataFusionResult<Box<Expr>> {
                Ok(beside(&expr, &bound, schema)?.map_or(bound, Box::new))
            };
            let (low, high) = (bound(low)?, bound(high)?);
            Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
        }
        Expr::Cast(Cast { expr, field }) if is_string(field.data_type()) && is_uuid_expr(&expr, schema) => {
            as_text(*expr, &field, schema)?
        }
        Expr::TryCast(TryCast { expr, field }) if is_string(field.data_type()) && is_uuid_expr(&expr, schema) => {
            as_text(*expr, &field, schema)?
        }
        other => Transformed::no(other),
    })
}

fn is_comparison(op: Operator) -> bool {
    use Operator::*;
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })
}

fn as_text(expr: Expr, to: &arrow::datatypes::Field, schema: &DFSchema) -> DataFusionResult<Transformed<Expr>> {
    let (_, from) = expr.to_field(schema)?;
    let text = arrow::datatypes::Field::new(from.name(), DataType::Utf8, true);
    let text = convert(expr, &from, &text)?;
    Ok(Transformed::yes(match to.data_type() {
        DataType::Utf8 => text,
        other => datafusion::logical_expr::cast(text, other.clone()),
    }))
}

fn is_uuid_expr(expr: &Expr, schema: &DFSchema) -> bool {
    !matches!(expr, Expr::Literal(..)) && expr.to_field(schema).is_ok_and(|(_, field)| is_uuid(&field))
}

/// `other` in the type of `expr`, where it is a literal that is to be read as one.
fn beside(expr: &Expr, other: &Expr, schema: &DFSchema) -> DataFusionResult<Option<Expr>> {
    match other {
        Expr::Literal(ScalarValue::Decimal128(Some(_), ..) | ScalarValue::Decimal256(Some(_), ..), _) => {
            Ok(float_beside(expr, other, schema))
        }
        other => text_beside(expr, other, schema),
    }
}

/// The double that a decimal literal is, where `expr` is a float.
fn float_beside(expr: &Expr, other: &Expr, schema: &DFSchema) -> Option<Expr> {
    use arrow::datatypes::DataType::{Float16, Float32, Float64};
    let Expr::Literal(value, _) = other else { return None };
    if matches!(expr, Expr::Literal(..)) || !matches!(expr.get_type(schema), Ok(Float16 | Float32 | Float64)) {
        return None;
    }
    // Through its digits, so that 0.1 is the double that is written 0.1.
    let digits = arrow::util::display::array_value_to_string(&value.to_array().ok()?, 0).ok()?;
    Some(lit(digits.parse::<f64>().ok()?))
}

/// The uuid that `other` is, where `expr` is a uuid and `other` a text that was written down.
fn text_beside(expr: &Expr, other: &Expr, schema: &DFSchema) -> DataFusionResult<Option<Expr>> {
    let Expr::Literal(
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)),
        _,
    ) = other
    else {
        return Ok(None);
    };
    if !is_uuid_expr(expr, schema) {
        readable_beside(expr, text, schema)?;
        return Ok(padded_beside(expr, text, schema));
    }
    let bytes = parse(text).ok_or_else(|| {
        Error::configuration(format!("{expr} is a uuid, and is compared with {text:?}, which is none"))
            .with_hint("write all 32 hexadecimal digits, such as 0188d2c8-5b6e-7cc1-98c4-dc0c0c07398f")
    })?;
    Ok(Some(lit(ScalarValue::FixedSizeBinary(16, Some(bytes.to_vec())))))
}

/// Whether the text can be read as what `expr` is compared as: a date, a time, a number.
fn readable_beside(expr: &Expr, text: &str, schema: &DFSchema) -> Result<()> {
    let Ok(kind) = expr.get_type(schema) else { return Ok(()) };
    let Some(read) = comparison_coercion(&kind, &DataType::Utf8) else { return Ok(()) };
    let (name, hint) = match &read {
        DataType::Date32 | DataType::Date64 => ("a date", "write year, month and day, such as 2024-01-31"),
        DataType::Timestamp(..) => ("a timestamp", "write a date and a time, such as 2024-01-31 12:30:00"),
        DataType::Time32(_) | DataType::Time64(_) => ("a time", "write hours, minutes and seconds, such as 12:30:00"),
        number if number.is_numeric() => ("a number", "compare CAST(… AS VARCHAR) with it, where its text is meant"),
        _ => return Ok(()),
    };
    match ScalarValue::from(text).cast_to(&read) {
        Ok(_) => Ok(()),
        Err(_) => {
            let problem = format!("{expr} is {name}, and is compared with {text:?}, which cannot be read as one");
            Err(Error::configuration(problem).with_hint(hint))
        }
    }
}

/// The text's bytes with zeros behind them, where `expr` is bytes of one length. A longer text is equal to none of them, and
/// lies between them.
fn padded_beside(expr: &Expr, text: &str, schema: &DFSchema) -> Option<Expr> {
    if matches!(expr, Expr::Literal(..)) {
        return None;
    }
    let Ok(DataType::FixedSizeBinary(length)) = expr.get_type(schema) else { return None };
    let (mut bytes, size) = (text.as_bytes().to_vec(), usize::try_from(length).ok()?);
    Some(lit(match bytes.len() <= size {
        true => {
            bytes.resize(size, 0);
            ScalarValue::FixedSizeBinary(length, Some(bytes))
        }
        false => ScalarValue::Binary(Some(bytes)),
    }))
}

/// Types comparisons while a query is planned: without it, planning fails where a comparison with a uuid is a value of the
/// output.
#[derive(Debug, Default)]
pub struct LiteralPlanner;

impl LiteralPlanner {
    pub fn shared() -> Arc<dyn ExprPlanner> {
        Arc::new(Self)
    }
}

impl ExprPlanner for LiteralPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> DataFusionResult<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        use datafusion::sql::sqlparser::ast::BinaryOperator as Op;
        if !matches!(op, Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq | Op::Spaceship) {
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        }
        let (left, right) = match (beside(&left, &right, schema)?, beside(&right, &left, schema)?) {
            (Some(right), _) => (left, right),
            (_, Some(left)) => (left, right),
            (None, None) => (left, right),
        };
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::{EXTENSION_UUID, with_extension};
    use arrow::datatypes::{Field, Schema};

    const ID: &str = "0188d2c8-5b6e-7cc1-98c4-dc0c0c07398f";

    #[test]
    fn a_uuid_reads_as_it_prints() {
        let bytes = parse(ID).unwrap();
        assert_eq!(text(&bytes), ID);
        assert_eq!(parse(&format!("{{{}}}", ID.to_uppercase().replace('-', ""))), Some(bytes));
        for wrong in ["", "-", &ID[1..], &format!("{ID}-"), &ID.replace('8', "g"), &format!("{ID}0")] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_decimal_beside_a_float_is_a_double() {
        let schema =
            Schema::new(vec![Field::new("f", DataType::Float64, true), Field::new("r", DataType::Float32, true)]);
        let schema = DFSchema::try_from(schema).unwrap();
        let shown = |sql: &str| crate::expr::predicate("scope", sql, &schema).unwrap().to_string();
        assert_eq!(shown("f > 0.1"), "f > Float64(0.1)");
        assert_eq!(
            shown("-0.5 <= f AND f NOT BETWEEN 0.5 AND 1.5"),
            "f >= Float64(-0.5) AND (f < Float64(0.5) OR f > Float64(1.5))"
        );
        assert_eq!(shown("r = 1.5"), "CAST(r AS Float64) = Float64(1.5)");
        assert_eq!(shown("r < 0.1"), "CAST(r AS Float64) < Float64(0.1)");
    }

    #[test]
    fn a_text_beside_bytes_of_one_length_ends_in_zeros() {
        let code = Field::new("code", DataType::FixedSizeBinary(3), true);
        let schema = DFSchema::try_from(Schema::new(vec![code])).unwrap();
        let shown = |sql: &str| crate::expr::predicate("scope", sql, &schema).unwrap().to_string();
        let value = |text: &str| lit(ScalarValue::FixedSizeBinary(3, Some(text.as_bytes().to_vec()))).to_string();
        assert_eq!(shown("code = 'ab'"), format!("code = {}", value("ab\0")));
        assert_eq!(
            shown("code BETWEEN 'ab' AND 'abc'"),
            format!("code >= {} AND code <= {}", value("ab\0"), value("abc"))
        );
        for sql in ["code IN ('ab', 'abcd', NULL)", "code BETWEEN 'a' AND 'abcd'", "'abcd' > code", "code >= X'6162'"] {
            assert!(crate::expr::predicate("scope", sql, &schema).is_ok(), "{sql}");
        }
    }

    #[test]
    fn a_text_that_a_column_is_compared_with_can_be_read_as_its_type() {
        let fields = [
            ("day", DataType::Date32),
            ("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))),
            ("n", DataType::Int64),
            ("price", DataType::Decimal128(10, 2)),
            ("f", DataType::Float64),
            ("t", DataType::Utf8View),
        ];
        let fields = fields.map(|(name, kind)| Field::new(name, kind, true));
        let schema = DFSchema::try_from(Schema::new(fields.to_vec())).unwrap();
        for sql in [
            "day = '2024-02-29' AND day IN ('2024-01-31', NULL)",
            "at >= '2024-01-31' AND at < '2024-01-31T12:30:00Z'",
            "n = '12' AND price > '1.5' AND f <> 'NaN' AND '1e3' > f",
            "t = '2024-13-45' AND 'x' = 'y'",
            "CAST(day AS VARCHAR) = '2024-13-45' AND day = TRY_CAST('2024-13-45' AS DATE)",
        ] {
            let predicate = crate::expr::predicate("scope", sql, &schema);
            assert!(predicate.is_ok(), "{sql}: {predicate:?}");
        }
        for (sql, text, kind) in [
            ("day = '2024-13-45'", "2024-13-45", "a date"),
            ("'' < day", "", "a date"),
            ("day IN ('2024-01-31', 'today')", "today", "a date"),
            ("day BETWEEN '2024-01-01' AND '2024-02-30'", "2024-02-30", "a date"),
            ("at > 'noon'", "noon", "a timestamp"),
            ("n = '1.5'", "1.5", "a number"),
            ("price < '12 EUR'", "12 EUR", "a number"),
            ("f > 'much'", "much", "a number"),
        ] {
            let error = crate::expr::predicate("scope", sql, &schema).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Configuration, "{sql}: {error}");
            let said = error.to_string();
            assert!(said.contains(&format!("{text:?}")) && said.contains(kind), "{sql}: {error}");
            assert!(error.hint().is_some(), "{sql}: {error}");
        }
    }

    #[test]
    fn texts_beside_a_uuid_become_uuids_and_others_stay() {
        let id = with_extension(Field::new("id", DataType::FixedSizeBinary(16), true), EXTENSION_UUID);
        let schema = Schema::new(vec![id, Field::new("t", DataType::Utf8, true)]);
        let schema = DFSchema::try_from(schema).unwrap();
        for sql in [
            format!("id = '{ID}'"),
            format!("'{ID}' <= id"),
            format!("id IN ('{ID}', NULL)"),
            format!("id NOT BETWEEN '{ID}' AND '{ID}'"),
            format!("t = '{ID}' OR id IS NOT DISTINCT FROM '{ID}'"),
            format!("CAST(id AS VARCHAR) LIKE '0188%' AND t = '{ID}'"),
        ] {
            let predicate = crate::expr::predicate("scope", &sql, &schema);
            assert!(predicate.is_ok(), "{sql}: {predicate:?}");
        }
        let error = crate::expr::predicate("scope", "id > 'abc'", &schema).unwrap_err();
        assert!(error.message().contains("\"abc\"") && error.hint().is_some(), "{error}");
    }
}
