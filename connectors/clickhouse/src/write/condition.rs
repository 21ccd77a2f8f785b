//! A scope's predicate in the server's SQL: exact, or refused.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, expr::InList};

use crate::types::{literal, quote};

/// `None` where the server would decide in another way, or cannot be told.
pub(crate) fn condition(expr: &Expr, schema: &Schema) -> Option<String> {
    let inner = |expr: &Expr| condition(expr, schema);
    Some(match expr {
        Expr::Alias(alias) => inner(&alias.expr)?,
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => {
            format!("({} {} {})", inner(&binary.left)?, binary.op, inner(&binary.right)?)
        }
        Expr::BinaryExpr(binary) => {
            let op = comparison(binary.op)?;
            let (left, right) = (value(&binary.left, schema)?, value(&binary.right, schema)?);
            comparable(&left.1, &right.1).then(|| format!("({} {op} {})", left.0, right.0))?
        }
        Expr::Not(of) => format!("(NOT {})", inner(of)?),
        Expr::IsNull(of) => format!("isNull({})", value(of, schema)?.0),
        Expr::IsNotNull(of) => format!("isNotNull({})", value(of, schema)?.0),
        Expr::IsTrue(of) => format!("ifNull({}, 0)", inner(of)?),
        Expr::IsNotTrue(of) => format!("(NOT ifNull({}, 0))", inner(of)?),
        Expr::Between(between) => {
            let of = value(&between.expr, schema)?;
            let (low, high) = (value(&between.low, schema)?, value(&between.high, schema)?);
            if !comparable(&of.1, &low.1) || !comparable(&of.1, &high.1) {
                return None;
            }
            let text = format!("({0} >= {1} AND {0} <= {2})", of.0, low.0, high.0);
            if between.negated { format!("(NOT {text})") } else { text }
        }
        Expr::InList(InList { expr, list, negated }) => {
            let of = value(expr, schema)?;
            let one = |item: &Expr| {
                let item = value(item, schema)?;
                comparable(&of.1, &item.1).then(|| format!("{} = {}", of.0, item.0))
            };
            let any = list.iter().map(one).collect::<Option<Vec<_>>>()?;
            let text = if any.is_empty() { "(0)".to_owned() } else { format!("({})", any.join(" OR ")) };
            if *negated { format!("(NOT {text})") } else { text }
        }
        Expr::Literal(ScalarValue::Boolean(Some(value)), _) => u8::from(*value).to_string(),
        Expr::Column(column) if schema.field_with_name(&column.name).ok()?.data_type() == &DataType::Boolean => {
            quote(&column.name)
        }
        _ => return None,
    })
}

fn comparison(op: Operator) -> Option<&'static str> {
    Some(match op {
        Operator::Eq => "=",
        Operator::NotEq => "!=",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        _ => return None,
    })
}

/// Whether the server compares values of the two types as DataFusion does.
fn comparable(a: &DataType, b: &DataType) -> bool {
    let exact = |t: &DataType| t.is_integer() || matches!(t, DataType::Decimal128(..) | DataType::Decimal256(..));
    match (a, b) {
        (DataType::Timestamp(_, a), DataType::Timestamp(_, b)) => a.is_some() == b.is_some(),
        (a, b) if exact(a) && exact(b) => true,
        (a, b) => a == b,
    }
}

/// A column or a constant, with its type.
fn value(expr: &Expr, schema: &Schema) -> Option<(String, DataType)> {
    match expr {
        Expr::Alias(alias) => value(&alias.expr, schema),
        Expr::Column(column) => {
            let data_type = schema.field_with_name(&column.name).ok()?.data_type().clone();
            let held = data_type.is_integer()
                || matches!(
                    data_type,
                    DataType::Utf8
                        | DataType::Boolean
                        | DataType::Date32
                        | DataType::Timestamp(..)
                        | DataType::Decimal128(..)
                        | DataType::Decimal256(..)
                );
            // Labels, numbers of 256 bits and the like travel as text, and sort in another way.
            let native = crate::dialect::type_of(schema.field_with_name(&column.name).ok()?).ok()?;
            let native = match native.without_null() {
                crate::types::ChType::LowCardinality(inner) => inner.without_null().clone(),
                other => other.clone(),
            };
            let is_text = data_type != DataType::Utf8 || native == crate::types::ChType::String;
            (held && is_text).then(|| (quote(&column.name), data_type))
        }
        // The planner widens one side to compare it with the other: the server does so by itself.
        Expr::Cast(cast) => {
            let (text, from) = value(&cast.expr, schema)?;
            let to = cast.field.data_type().clone();
            (comparable(&from, &to) && dpone_planner::types::widens(&from, &to)).then_some((text, to))
        }
        Expr::Literal(constant, _) => Some((written(constant)?, constant.data_type())),
        _ => None,
    }
}

fn written(constant: &ScalarValue) -> Option<String> {
    Some(match constant {
        ScalarValue::Utf8(Some(text)) => literal(text),
        ScalarValue::Boolean(Some(value)) => value.to_string(),
        ScalarValue::Date32(Some(days)) if (-25_567..=120_529).contains(days) => {
            format!("addDays(toDate32(0), {days})")
        }
        ScalarValue::TimestampMicrosecond(Some(ticks), _) => {
            format!("fromUnixTimestamp64Micro(toInt64({ticks}), 'UTC')")
        }
        ScalarValue::TimestampNanosecond(Some(ticks), _) => format!("fromUnixTimestamp64Nano(toInt64({ticks}), 'UTC')"),
        ScalarValue::TimestampSecond(Some(ticks), _) => {
            format!("fromUnixTimestamp64Micro(toInt64({}), 'UTC')", ticks.checked_mul(1_000_000)?)
        }
        ScalarValue::TimestampMillisecond(Some(ticks), _) => {
            format!("fromUnixTimestamp64Micro(toInt64({}), 'UTC')", ticks.checked_mul(1_000)?)
        }
        other if !other.is_null() && other.data_type().is_integer() => format!("({other})"),
        _ => return None,
    })
}
