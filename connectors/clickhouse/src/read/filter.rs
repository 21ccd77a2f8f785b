//! Filters in the server's SQL, and only those that mean exactly the same there.
//!
//! What differs, and is said in other words or left to DataFusion: NaN, which the server finds neither equal nor greater
//! than anything; IN over a NULL, which the server finds false; the order of UUIDs, which begins in their middle; zeros at the
//! end of fixed strings, which it overlooks beside a text; numbers with a point, which it reads inexactly. Literals are quoted or
//! written as numbers, whatever they hold.

use std::any::Any;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Cast, InList, ScalarFunction};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator, TryCast};
use dpone_planner::literal::text_of;
use dpone_planner::order::{AtLeast, ValueOrder};
use dpone_planner::types::{is_binary, is_raw, is_string, is_uuid, native_of, widens};

use super::column::stored;
use super::value::{Class, integer, seconds, value_of};
use crate::SYSTEM;
use crate::types::{ChType, literal as quote_text, quote};

/// Beyond this many values a list is not sent.
const MAX_LIST: usize = 1000;

/// The filter as SQL, or `None` where its meaning would change. Columns have no qualifier.
pub fn condition(expr: &Expr, schema: &Schema) -> Option<String> {
    Filter { schema }.render(expr)
}

#[derive(Debug, Clone, Copy)]
struct Filter<'a> {
    schema: &'a Schema,
}

impl Filter<'_> {
    fn render(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Alias(alias) => self.render(&alias.expr),
            Expr::Literal(ScalarValue::Boolean(value), _) => Some(match value {
                Some(true) => "true".to_owned(),
                Some(false) => "false".to_owned(),
                None => "CAST(NULL AS Nullable(Bool))".to_owned(),
            }),
            Expr::Column(_) => {
                let field = self.field(expr)?;
                (class(field)? == Class::Bool).then(|| quote(field.name()))
            }
            Expr::Not(inner) => Some(format!("NOT ({})", self.render(inner)?)),
            Expr::IsTrue(inner) => Some(format!("ifNull({}, false)", self.render(inner)?)),
            Expr::IsFalse(inner) => Some(format!("ifNull(NOT ({}), false)", self.render(inner)?)),
            Expr::IsNotTrue(inner) => Some(format!("NOT ifNull({}, false)", self.render(inner)?)),
            Expr::IsNotFalse(inner) => Some(format!("NOT ifNull(NOT ({}), false)", self.render(inner)?)),
            Expr::IsUnknown(inner) => Some(format!("isNull({})", self.render(inner)?)),
            Expr::IsNotUnknown(inner) => Some(format!("isNotNull({})", self.render(inner)?)),
            Expr::IsNull(inner) => Some(format!("isNull({})", quote(self.nullable(inner)?.name()))),
            Expr::IsNotNull(inner) => Some(format!("isNotNull({})", quote(self.nullable(inner)?.name()))),
            Expr::BinaryExpr(binary) => self.binary(binary),
            Expr::Between(between) => self.between(between),
            Expr::InList(list) => self.in_list(list),
            Expr::Like(like) => self.like(like),
            Expr::ScalarFunction(call) => self.at_least(call),
            _ => None,
        }
    }

    fn binary(&self, BinaryExpr { left, op, right }: &BinaryExpr) -> Option<String> {
        if matches!(op, Operator::And | Operator::Or) {
            let word = if *op == Operator::And { "AND" } else { "OR" };
            return Some(format!("({}) {word} ({})", self.render(left)?, self.render(right)?));
        }
        match (self.operand(left), self.operand(right)) {
            (Some(left), Some(right)) => columns_compare(&left, *op, &right),
            (Some(operand), None) => compare(&operand, *op, literal(right)?),
            (None, Some(operand)) => compare(&operand, op.swap()?, literal(left)?),
            (None, None) => None,
        }
    }

    /// A column, a column in a type that holds every value of its own, or the remainder of integers.
    fn operand(&self, expr: &Expr) -> Option<Operand> {
        match expr {
            Expr::Alias(alias) => self.operand(&alias.expr),
            Expr::Column(_) => {
                let field = self.field(expr)?;
                let class = class(field)?;
                Some(Operand { sql: quote(field.name()), class, data_type: field.data_type().clone() })
            }
            Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                let inner = self.operand(expr)?;
                let to = field.data_type();
                let same = inner.data_type == *to
                    || match inner.class {
                        // As a number it is the same, and compares with every other.
                        Class::Integer => to.is_integer() && widens(&inner.data_type, to),
                        Class::Text => is_string(to),
                        Class::Bytes | Class::Fixed { .. } => is_binary(to),
                        _ => false,
                    };
                match (inner.class, to) {
                    _ if same => Some(Operand { data_type: to.clone(), ..inner }),
                    (Class::Float { bits: 32 }, DataType::Float64) => Some(Operand {
                        sql: format!("toFloat64({})", inner.sql),
                        class: Class::Float { bits: 64 },
                        data_type: to.clone(),
                    }),
                    _ => None,
                }
            }
            // Both sides round towards zero. Sums and products are not among these: their overflow differs.
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Modulo, right }) => {
                let left = self.operand(left).filter(|left| left.class == Class::Integer)?;
                let divisor = integer(literal(right)?)?;
                let fits = (1..=i128::from(i32::MAX)).contains(&divisor);
                fits.then(|| Operand { sql: format!("({} % {divisor})", left.sql), ..left })
            }
            _ => None,
        }
    }

    fn between(&self, Between { expr, negated, low, high }: &Between) -> Option<String> {
        let operand = self.operand(expr)?;
        let from = compare(&operand, Operator::GtEq, literal(low)?)?;
        let to = compare(&operand, Operator::LtEq, literal(high)?)?;
        let not = if *negated { "NOT " } else { "" };
        Some(format!("{not}(({from}) AND ({to}))"))
    }

    fn in_list(&self, InList { expr, list, negated }: &InList) -> Option<String> {
        let operand = self.operand(expr)?;
        // Looked up by their bits on the other side.
        if list.is_empty() || list.len() > MAX_LIST || matches!(operand.class, Class::Float { .. }) {
            return None;
        }
        let values =
            list.iter().map(|item| compare(&operand, Operator::Eq, literal(item)?)).collect::<Option<Vec<_>>>()?;
        let not = if *negated { "NOT " } else { "" };
        if values.len() <= 8 {
            return Some(format!("{not}({})", values.join(" OR ")));
        }
        let prefix = format!("{} = ", side(&operand));
        let values = values.iter().map(|value| value.strip_prefix(&prefix)).collect::<Option<Vec<_>>>()?;
        // A NULL is in no list, and not in none either.
        let sql = side(&operand);
        Some(format!("{not}if(isNull({sql}), NULL, {sql} IN ({}))", values.join(", ")))
    }

    /// Patterns that begin or end with `%`: what `_` and the escape mean depends on more than the pattern.
    fn like(&self, like: &Like) -> Option<String> {
        let field = self.field(&like.expr)?;
        let pattern = text_of(literal(&like.pattern)?)?;
        if class(field)? != Class::Text || like.case_insensitive || like.escape_char.is_some() {
            return None;
        }
        let inner = pattern.trim_start_matches('%').trim_end_matches('%');
        if inner.is_empty() || inner.contains(['%', '_', '\\']) {
            return None;
        }
        let (sql, text) = (quote(field.name()), quote_text(inner));
        let test = match (pattern.starts_with('%'), pattern.ends_with('%')) {
            (true, true) => format!("position({sql}, {text}) > 0"),
            (false, true) => format!("startsWith({sql}, {text})"),
            (true, false) => format!("endsWith({sql}, {text})"),
            (false, false) => format!("{sql} = {text}"),
        };
        Some(if like.negated { format!("NOT ({test})") } else { test })
    }

    /// A comparison in the column's own type, see [`AtLeast`].
    fn at_least(&self, call: &ScalarFunction) -> Option<String> {
        let at_least = (call.func.inner().as_ref() as &dyn Any).downcast_ref::<AtLeast>()?;
        let [argument] = call.args.as_slice() else { return None };
        let field = self.field(argument)?;
        let native = ChType::native(native_of(field, SYSTEM)?)?;
        let sql = quote(field.name());
        match (stored(&native), &at_least.order) {
            (ChType::Int { bits: 256, signed }, ValueOrder::Numeric) => {
                let digits = at_least.bound.strip_prefix('-').filter(|_| *signed).unwrap_or(&at_least.bound);
                let whole = !digits.is_empty() && digits.len() <= 76 && digits.bytes().all(|b| b.is_ascii_digit());
                let of = if *signed { "toInt256" } else { "toUInt256" };
                whole.then(|| format!("{sql} >= {of}({})", quote_text(&at_least.bound)))
            }
            (ChType::Enum { labels, .. }, ValueOrder::Labels(order)) => {
                let same = labels.iter().map(|(label, _)| label).eq(order);
                let (_, number) = labels.iter().find(|(label, _)| *label == at_least.bound).filter(|_| same)?;
                Some(format!("toInt16({sql}) >= {number}"))
            }
            _ => None,
        }
    }

    fn field(&self, expr: &Expr) -> Option<&Field> {
        match expr {
            Expr::Alias(alias) => self.field(&alias.expr),
            Expr::Column(column) => self.schema.field_with_name(&column.name).ok(),
            _ => None,
        }
    }

    /// A column whose NULL is the server's NULL.
    fn nullable(&self, expr: &Expr) -> Option<&Field> {
        let field = self.field(expr)?;
        native_of(field, SYSTEM).and_then(ChType::native).map(|_| field)
    }
}

/// What is compared, with the type that DataFusion gives it.
struct Operand {
    sql: String,
    class: Class,
    data_type: DataType,
}

fn class(field: &Field) -> Option<Class> {
    use DataType as D;
    if is_raw(field) {
        return None;
    }
    let native = ChType::native(native_of(field, SYSTEM)?)?;
    Some(match (stored(&native), field.data_type()) {
        (ChType::Bool, D::Boolean) => Class::Bool,
        (ChType::Int { bits: ..=64, .. }, found) if found.is_integer() => Class::Integer,
        (ChType::Int { bits: 128, signed }, D::Decimal256(_, 0)) => Class::Wide { signed: *signed },
        (ChType::Decimal { precision: p @ ..=38, .. }, D::Decimal128(_, s)) => {
            Class::Decimal { precision: *p, scale: *s }
        }
        (ChType::Float32, D::Float32) => Class::Float { bits: 32 },
        (ChType::Float64, D::Float64) => Class::Float { bits: 64 },
        (ChType::String, found) if is_string(found) => Class::Text,
        (ChType::String, found) if is_binary(found) => Class::Bytes,
        (ChType::FixedString(n), D::FixedSizeBinary(_)) => Class::Fixed { length: *n },
        (ChType::Enum { .. }, found) if is_string(found) => Class::Enum,
        (ChType::Uuid, _) if is_uuid(field) => Class::Uuid,
        (ChType::Date, D::Date32) => Class::Date { short: true },
        (ChType::Date32, D::Date32) => Class::Date { short: false },
        (ChType::DateTime(_), D::Timestamp(..)) => Class::Seconds,
        (ChType::DateTime64(..=6, _), D::Timestamp(..)) => Class::Micros,
        // Those with 7 and 8 digits leave the range of nanoseconds when they are compared.
        (ChType::DateTime64(9, _), D::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, _)) => Class::Nanos,
        _ => return None,
    })
}

/// The operand as it stands before a comparison with a literal.
fn side(operand: &Operand) -> String {
    match operand.class {
        Class::Enum => format!("toString({})", operand.sql),
        _ => operand.sql.clone(),
    }
}

fn compare(operand: &Operand, op: Operator, value: &ScalarValue) -> Option<String> {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    let sql = side(operand);
    let equality = matches!(op, Eq | NotEq | IsDistinctFrom | IsNotDistinctFrom);
    if equality && operand.class == Class::Seconds && seconds(value).is_none() {
        return None;
    }
    let value = value_of(operand.class, value)?;
    match op {
        IsNotDistinctFrom => return Some(format!("ifNull({sql} = {value}, false)")),
        IsDistinctFrom => return Some(format!("NOT ifNull({sql} = {value}, false)")),
        _ => {}
    }
    if !equality && matches!(operand.class, Class::Enum | Class::Uuid) {
        return None;
    }
    let test = format!("{sql} {} {value}", symbol(op)?);
    // There NaN is the greatest of all, and one with a sign, which a division of zero by zero gives, the least; here it is
    // neither.
    let sign = match op {
        Gt | GtEq => ">=",
        Lt | LtEq => "<",
        _ => return Some(test),
    };
    Some(match operand.class {
        Class::Float { bits } => format!("({test} OR (isNaN({sql}) AND reinterpretAsInt{bits}({sql}) {sign} 0))"),
        _ => test,
    })
}

fn columns_compare(left: &Operand, op: Operator, right: &Operand) -> Option<String> {
    let ordered = matches!(
        left.class,
        Class::Integer | Class::Text | Class::Bytes | Class::Bool | Class::Date { .. } | Class::Seconds | Class::Micros
    );
    let same = left.class == right.class
        || matches!(
            (left.class, right.class),
            (Class::Date { .. }, Class::Date { .. }) | (Class::Seconds | Class::Micros, Class::Seconds | Class::Micros)
        );
    (ordered && same).then(|| Some(format!("{} {} {}", left.sql, symbol(op)?, right.sql)))?
}

fn symbol(op: Operator) -> Option<&'static str> {
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

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Alias(alias) => literal(&alias.expr),
        Expr::Literal(value, _) if !value.is_null() => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use datafusion::prelude::{col, lit};

    use super::super::column::{Sends, column};
    use super::*;

    fn sql(expr: Expr) -> Option<String> {
        let fields: Vec<_> = [
            ("i", "Nullable(Int32)"),
            ("u", "UInt64"),
            ("t", "LowCardinality(String)"),
            ("f", "Float64"),
            ("d", "Decimal(9, 2)"),
            ("day", "Date"),
            ("ts", "DateTime64(3, 'Europe/Berlin')"),
            ("fine", "DateTime64(8)"),
            ("e", "Enum8('a' = 1, 'b' = 2)"),
            ("id", "UUID"),
            ("fs", "FixedString(2)"),
        ]
        .iter()
        .map(|(name, native)| column(name, native, false, None, Sends { uuid: true }).unwrap().field)
        .collect();
        condition(&expr, &Schema::new(fields))
    }

    #[test]
    fn literals_are_quoted_whatever_they_hold() {
        assert_eq!(sql(col("i").gt(lit(-5i32))).unwrap(), "`i` > -5");
        assert_eq!(sql(lit(5u64).gt(col("u"))).unwrap(), "`u` < 5");
        assert_eq!(sql(col("t").eq(lit("a'; DROP TABLE x; --\\"))).unwrap(), "`t` = 'a\\'; DROP TABLE x; --\\\\'");
        let price = ScalarValue::Decimal128(Some(-5), 9, 2);
        assert_eq!(sql(col("d").eq(lit(price))).unwrap(), "`d` = CAST('-0.05' AS Decimal(9, 2))");
        assert_eq!(sql(col("day").eq(lit(ScalarValue::Date32(Some(0))))).unwrap(), "`day` = toDate('1970-01-01')");
        let instant = ScalarValue::TimestampMicrosecond(Some(-1), Some("UTC".into()));
        assert_eq!(sql(col("ts").gt(lit(instant))).unwrap(), "`ts` > fromUnixTimestamp64Micro(toInt64(-1))");
    }

    #[test]
    fn nan_and_null_mean_what_they_mean_there() {
        assert_eq!(
            sql(col("f").gt(lit(1.5))).unwrap(),
            "(`f` > reinterpretAsFloat64(toUInt64(4609434218613702656)) OR (isNaN(`f`) AND reinterpretAsInt64(`f`) >= 0))"
        );
        assert_eq!(sql(col("f").gt(lit(f64::NAN))), None);
        assert_eq!(sql(col("f").eq(lit(0.0))), None);
        assert_eq!(sql(col("i").in_list(vec![lit(1i32), lit(2i32)], true)).unwrap(), "NOT (`i` = 1 OR `i` = 2)");
        let many: Vec<_> = (0..9i32).map(lit).collect();
        assert_eq!(
            sql(col("i").in_list(many, true)).unwrap(),
            "NOT if(isNull(`i`), NULL, `i` IN (0, 1, 2, 3, 4, 5, 6, 7, 8))"
        );
        assert_eq!(sql(col("i").is_null()).unwrap(), "isNull(`i`)");
    }

    #[test]
    fn what_would_mean_something_else_stays() {
        let uuid = ScalarValue::FixedSizeBinary(16, Some(vec![0; 16]));
        assert!(sql(col("id").eq(lit(uuid.clone()))).is_some());
        assert_eq!(sql(col("id").gt(lit(uuid))), None);
        let bytes = |bytes: &[u8]| lit(ScalarValue::FixedSizeBinary(bytes.len() as i32, Some(bytes.to_vec())));
        assert_eq!(
            sql(col("fs").between(bytes(b"a\0"), bytes(b"b'"))).unwrap(),
            "((`fs` >= toFixedString(unhex('6100'), 2)) AND (`fs` <= toFixedString(unhex('6227'), 2)))"
        );
        // To the server it is equal to the value with a zero behind it.
        assert_eq!(sql(col("fs").eq(lit(ScalarValue::Binary(Some(b"a".to_vec()))))), None);
        assert_eq!(sql(col("fine").gt(lit(ScalarValue::TimestampNanosecond(Some(1), None)))), None);
        assert_eq!(sql(col("e").gt(lit("a"))), None);
        assert_eq!(sql(col("e").eq(lit("a"))).unwrap(), "toString(`e`) = 'a'");
        assert_eq!(sql(col("t").like(lit("a_"))), None);
        assert_eq!(sql(col("t").like(lit("a%"))).unwrap(), "startsWith(`t`, 'a')");
        assert_eq!(sql((col("i") + lit(1i32)).eq(lit(0i32))), None);
        assert_eq!(sql((col("i") % lit(7i32)).eq(lit(0i32))).unwrap(), "(`i` % 7) = 0");
        // One half that stays keeps the whole.
        assert_eq!(sql(col("i").eq(lit(1i32)).or(col("e").gt(lit("a")))), None);
        let long_ago = ScalarValue::TimestampMicrosecond(Some(i64::MIN / 2), Some("UTC".into()));
        assert_eq!(sql(col("ts").gt(lit(long_ago))), None);
    }
}
