//! Filters in the server's SQL, and only those that mean exactly the same there.
//!
//! What differs, and is therefore left to DataFusion: the order of texts under a collation (said here with
//! `COLLATE "C"`, which orders UTF-8 as DataFusion does), equality of padded `char(n)` and of `citext`, `IS NULL` of
//! composites, and columns that travel as text, apart from the bound of a cursor. Floats have one order on both sides: the
//! two zeros are equal, NaN is the greatest and equal to itself (the reader gives it no sign, see `decode`).
//! Literals become quoted text with a cast, whatever they hold.

use std::any::Any;

use arrow::datatypes::DataType;
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Cast, InList, ScalarFunction};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator, TryCast};

use dpone_planner::literal::{bytes_of, text_of};
use dpone_planner::order::{AtLeast, ValueOrder};
use dpone_planner::state::hex;
use dpone_planner::types::widens;

use crate::types::{Column, Decode, PgType, Select, TypeKind, oid, value_order};

/// What a column can be compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Bool,
    /// Integers and decimals, which compare with each other.
    Number,
    Float,
    Text,
    /// Equality by its labels.
    Enum,
    Bytes,
    Uuid,
    Date,
    Time,
    Timestamp,
    TimestampTz,
}

/// Renders filters over the columns of one relation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    pub columns: &'a [Column],
    /// Whether the database holds UTF-8: only then do its bytes order as ours do, and can it hold every literal.
    pub utf8: bool,
}

impl Filter<'_> {
    /// The filter as SQL, or `None` where its meaning would change.
    pub(crate) fn render(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Alias(alias) => self.render(&alias.expr),
            Expr::Literal(ScalarValue::Boolean(value), _) => Some(match value {
                Some(true) => "true".to_owned(),
                Some(false) => "false".to_owned(),
                None => "NULL::bool".to_owned(),
            }),
            Expr::Column(_) => {
                let column = self.column(expr)?;
                (class(column)? == Class::Bool).then(|| quoted(column))
            }
            Expr::Not(inner) => Some(format!("NOT ({})", self.render(inner)?)),
            Expr::IsTrue(inner) => self.truth(inner, "IS TRUE"),
            Expr::IsFalse(inner) => self.truth(inner, "IS FALSE"),
            Expr::IsUnknown(inner) => self.truth(inner, "IS UNKNOWN"),
            Expr::IsNotTrue(inner) => self.truth(inner, "IS NOT TRUE"),
            Expr::IsNotFalse(inner) => self.truth(inner, "IS NOT FALSE"),
            Expr::IsNotUnknown(inner) => self.truth(inner, "IS NOT UNKNOWN"),
            Expr::IsNull(inner) => self.null(inner, "IS NULL"),
            Expr::IsNotNull(inner) => self.null(inner, "IS NOT NULL"),
            Expr::BinaryExpr(binary) => self.binary(binary),
            Expr::Between(between) => self.between(between),
            Expr::InList(list) => self.in_list(list),
            Expr::Like(like) => self.like(like),
            Expr::ScalarFunction(call) => self.at_least(call),
            _ => None,
        }
    }

    fn truth(&self, inner: &Expr, test: &str) -> Option<String> {
        Some(format!("({}) {test}", self.render(inner)?))
    }

    fn null(&self, inner: &Expr, test: &str) -> Option<String> {
        let column = self.column(inner)?;
        // A composite IS NULL when all its fields are.
        (!matches!(column.native.base().kind, TypeKind::Other)).then(|| format!("{} {test}", quoted(column)))
    }

    fn binary(&self, BinaryExpr { left, op, right }: &BinaryExpr) -> Option<String> {
        if matches!(op, Operator::And | Operator::Or) {
            let word = if *op == Operator::And { "AND" } else { "OR" };
            return Some(format!("({}) {word} ({})", self.render(left)?, self.render(right)?));
        }
        match (self.operand(left), self.operand(right)) {
            (Some(left), Some(right)) => self.operands_compare(&left, *op, &right),
            (Some(operand), None) => self.compare(&operand, *op, literal(right)?),
            (None, Some(operand)) => self.compare(&operand, op.swap()?, literal(left)?),
            (None, None) => None,
        }
    }

    /// A column, a column in a type that holds every value of its own, or the remainder of integers.
    fn operand(&self, expr: &Expr) -> Option<Operand> {
        match expr {
            Expr::Alias(alias) => self.operand(&alias.expr),
            Expr::Column(_) => {
                let column = self.column(expr)?;
                let class = class(column)?;
                Some(Operand { sql: operand(column, class), class, data_type: column.field.data_type().clone() })
            }
            Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                let inner = self.operand(expr)?;
                let (class, to) = (inner.class, field.data_type());
                let sql = match (class, to) {
                    _ if inner.data_type == *to => inner.sql,
                    // As a number it is the same, and compares with every other.
                    (Class::Number, to) if (to.is_integer() || is_decimal(to)) && widens(&inner.data_type, to) => {
                        inner.sql
                    }
                    (Class::Float, DataType::Float64) => format!("({})::float8", inner.sql),
                    _ => return None,
                };
                Some(Operand { sql, class, data_type: to.clone() })
            }
            // Both sides round towards zero. Sums and products are not among these: their overflow differs.
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Modulo, right }) => {
                let left = self.operand(left).filter(|left| left.data_type.is_integer())?;
                let divisor = literal(right).filter(|value| whole(value)).and_then(number)?;
                let fits = divisor.parse::<i64>().is_ok_and(|divisor| divisor != 0);
                fits.then(|| Operand { sql: format!("({} % '{divisor}'::int8)", left.sql), ..left })
            }
            _ => None,
        }
    }

    fn operands_compare(&self, left: &Operand, op: Operator, right: &Operand) -> Option<String> {
        if left.class != right.class || !self.orders(left.class) {
            return None;
        }
        Some(format!("{} {} {}", left.sql, symbol(op)?, right.sql))
    }

    /// Whether values of the class have the same order on both sides.
    fn orders(&self, class: Class) -> bool {
        match class {
            Class::Enum => false,
            Class::Text => self.utf8,
            _ => true,
        }
    }

    fn compare(&self, Operand { sql, class, .. }: &Operand, op: Operator, value: &ScalarValue) -> Option<String> {
        let equality =
            matches!(op, Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom);
        if !equality && !self.orders(*class) {
            return None;
        }
        Some(format!("{sql} {} {}", symbol(op)?, self.literal(*class, value)?))
    }

    fn between(&self, Between { expr, negated, low, high }: &Between) -> Option<String> {
        let Operand { sql, class, .. } = self.operand(expr)?;
        if !self.orders(class) {
            return None;
        }
        let (low, high) = (self.literal(class, literal(low)?)?, self.literal(class, literal(high)?)?);
        let not = if *negated { "NOT " } else { "" };
        Some(format!("{sql} {not}BETWEEN {low} AND {high}"))
    }

    fn in_list(&self, InList { expr, list, negated }: &InList) -> Option<String> {
        let Operand { sql, class, .. } = self.operand(expr)?;
        // A set of values is looked up by their bits.
        let is_zero = |item: &Expr| literal(item).and_then(float).is_some_and(|(text, _)| text == "0" || text == "-0");
        if class == Class::Float && list.iter().any(is_zero) {
            return None;
        }
        let values = list.iter().map(|item| self.literal(class, literal(item)?)).collect::<Option<Vec<_>>>()?;
        if values.is_empty() {
            return None;
        }
        let not = if *negated { "NOT " } else { "" };
        Some(format!("{sql} {not}IN ({})", values.join(", ")))
    }

    /// Patterns with `%` alone: what `_` and the escape mean depends on more than the pattern.
    fn like(&self, like: &Like) -> Option<String> {
        let column = self.column(&like.expr)?;
        let pattern = text_of(literal(&like.pattern)?)?;
        if class(column)? != Class::Text
            || !self.utf8
            || like.case_insensitive
            || like.escape_char.is_some()
            || pattern.contains(['_', '\\', '\0'])
        {
            return None;
        }
        let not = if like.negated { "NOT " } else { "" };
        Some(format!("{} {not}LIKE {}", operand(column, Class::Text), quote_text(pattern)))
    }

    /// A comparison in the column's own type, see [`AtLeast`].
    fn at_least(&self, call: &ScalarFunction) -> Option<String> {
        let at_least = (call.func.inner().as_ref() as &dyn Any).downcast_ref::<AtLeast>()?;
        let [argument] = call.args.as_slice() else { return None };
        let column = self.column(argument)?;
        let base = column.native.base();
        if column.field.data_type() != &DataType::Utf8 || value_order(base).as_ref() != Some(&at_least.order) {
            return None;
        }
        // Without the column's modifiers, which would round or cut the bound.
        let (collation, cast) = match &at_least.order {
            ValueOrder::Numeric => ("", "numeric"),
            ValueOrder::Padded if self.utf8 => (" COLLATE \"C\"", "bpchar"),
            ValueOrder::Interval => ("", "interval"),
            ValueOrder::TimeTz => ("", "timetz"),
            ValueOrder::Money => ("", "money"),
            ValueOrder::Inet => ("", "inet"),
            ValueOrder::Lsn => ("", "pg_lsn"),
            ValueOrder::Labels(_) => ("", base.native.as_str()),
            ValueOrder::Padded | ValueOrder::Arrow => return None,
        };
        Some(format!("{}{collation} >= {}::{cast}", quoted(column), quote_text(&at_least.bound)))
    }

    fn column(&self, expr: &Expr) -> Option<&Column> {
        match expr {
            Expr::Alias(alias) => self.column(&alias.expr),
            Expr::Column(column) => self.columns.iter().find(|c| c.field.name() == &column.name),
            _ => None,
        }
    }

    fn literal(&self, class: Class, value: &ScalarValue) -> Option<String> {
        let (text, cast) = match class {
            Class::Bool => (boolean(value)?.to_owned(), "bool"),
            Class::Number => (number(value)?, "numeric"),
            Class::Float => float(value)?,
            Class::Text | Class::Enum => {
                let text = text_of(value)?;
                if text.contains('\0') || !(self.utf8 || text.is_ascii()) {
                    return None;
                }
                (text.to_owned(), "text")
            }
            Class::Bytes => (format!("\\x{}", hex(bytes_of(value)?)), "bytea"),
            Class::Uuid => (hex(bytes_of(value).filter(|b| b.len() == 16)?), "uuid"),
            Class::Date => (date(value)?, "date"),
            Class::Time => (time(value)?, "time"),
            Class::Timestamp => (timestamp(value, false)?, "timestamp"),
            Class::TimestampTz => (timestamp(value, true)?, "timestamptz"),
        };
        // Whole numbers keep an index on the column usable only as integers.
        let cast = match (class, whole(value)) {
            (Class::Number, true) if text.parse::<i64>().is_ok() => "int8",
            _ => cast,
        };
        Some(format!("{}::{cast}", quote_text(&text)))
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) if !value.is_null() => Some(value),
        _ => None,
    }
}

fn class(column: &Column) -> Option<Class> {
    let base: &PgType = column.native.base();
    if let (TypeKind::Enum(_), Decode::Text) = (&base.kind, &column.decode) {
        return Some(Class::Enum);
    }
    // A cast makes another value, which the filter would have to repeat.
    if column.select != Select::Plain {
        return None;
    }
    Some(match (base.oid, &column.decode) {
        (oid::BOOL, Decode::Bool) => Class::Bool,
        (oid::INT2, Decode::Int2) | (oid::INT4, Decode::Int4) | (oid::INT8, Decode::Int8) => Class::Number,
        (oid::NUMERIC, Decode::Decimal { .. }) => Class::Number,
        (oid::FLOAT4, Decode::Float4) | (oid::FLOAT8, Decode::Float8) => Class::Float,
        (oid::TEXT | oid::VARCHAR, Decode::Text) => Class::Text,
        (oid::BYTEA, Decode::Bytes) => Class::Bytes,
        (oid::UUID, Decode::Uuid) => Class::Uuid,
        (oid::DATE, Decode::Date) => Class::Date,
        (oid::TIME, Decode::Time) => Class::Time,
        (oid::TIMESTAMP, Decode::Timestamp) => Class::Timestamp,
        (oid::TIMESTAMPTZ, Decode::Timestamp) => Class::TimestampTz,
        _ => return None,
    })
}

fn quoted(column: &Column) -> String {
    quote_name(column.field.name())
}

/// What is compared, with the type that DataFusion gives it.
struct Operand {
    sql: String,
    class: Class,
    data_type: DataType,
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..))
}

/// The column as its class compares. Texts compare by their bytes, under every collation of the column.
fn operand(column: &Column, class: Class) -> String {
    match class {
        Class::Text => format!("{} COLLATE \"C\"", quoted(column)),
        Class::Enum => format!("{}::text", quoted(column)),
        _ => quoted(column),
    }
}

fn symbol(op: Operator) -> Option<&'static str> {
    Some(match op {
        Operator::Eq => "=",
        Operator::NotEq => "<>",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        Operator::IsDistinctFrom => "IS DISTINCT FROM",
        Operator::IsNotDistinctFrom => "IS NOT DISTINCT FROM",
        _ => return None,
    })
}

fn boolean(value: &ScalarValue) -> Option<&'static str> {
    match value {
        ScalarValue::Boolean(Some(true)) => Some("true"),
        ScalarValue::Boolean(Some(false)) => Some("false"),
        _ => None,
    }
}

fn whole(value: &ScalarValue) -> bool {
    value.data_type().is_integer()
}

fn number(value: &ScalarValue) -> Option<String> {
    use ScalarValue::*;
    Some(match value {
        Int8(Some(v)) => v.to_string(),
        Int16(Some(v)) => v.to_string(),
        Int32(Some(v)) => v.to_string(),
        Int64(Some(v)) => v.to_string(),
        UInt8(Some(v)) => v.to_string(),
        UInt16(Some(v)) => v.to_string(),
        UInt32(Some(v)) => v.to_string(),
        UInt64(Some(v)) => v.to_string(),
        Decimal128(Some(v), _, scale @ 0..) => {
            let digits = format!("{:0>width$}", v.unsigned_abs(), width = *scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - *scale as usize);
            let sign = if *v < 0 { "-" } else { "" };
            if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
        }
        _ => return None,
    })
}

/// A float as the server writes it. A NaN with a sign is another one to DataFusion, and no other to the server.
fn float(value: &ScalarValue) -> Option<(String, &'static str)> {
    let (text, wide, cast) = match value {
        ScalarValue::Float32(Some(v)) => (v.to_string(), f64::from(*v), "float4"),
        ScalarValue::Float64(Some(v)) => (v.to_string(), *v, "float8"),
        _ => return None,
    };
    let text = match (wide.is_nan(), wide.is_infinite()) {
        (true, _) if wide.is_sign_negative() => return None,
        (true, _) => "NaN".to_owned(),
        (_, true) => if wide > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        _ => text,
    };
    Some((text, cast))
}

/// Years that both sides write with four digits.
fn plain_year(date: NaiveDate) -> Option<NaiveDate> {
    (1..=9999).contains(&date.year()).then_some(date)
}

fn date(value: &ScalarValue) -> Option<String> {
    let ScalarValue::Date32(Some(days)) = value else { return None };
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
    let offset = Days::new(days.unsigned_abs() as u64);
    let date = if *days < 0 { epoch.checked_sub_days(offset)? } else { epoch.checked_add_days(offset)? };
    Some(plain_year(date)?.format("%Y-%m-%d").to_string())
}

fn time(value: &ScalarValue) -> Option<String> {
    let ScalarValue::Time64Microsecond(Some(micros)) = value else { return None };
    let micros = u64::try_from(*micros).ok()?;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(
        u32::try_from(micros / 1_000_000).ok()?,
        (micros % 1_000_000) as u32 * 1000,
    )?;
    Some(time.format("%H:%M:%S%.6f").to_string())
}

/// With a zone, the instant, written in UTC; without one, the reading of the clock.
fn timestamp(value: &ScalarValue, zoned: bool) -> Option<String> {
    let (micros, zone) = match value {
        ScalarValue::TimestampSecond(Some(v), zone) => (v.checked_mul(1_000_000)?, zone),
        ScalarValue::TimestampMillisecond(Some(v), zone) => (v.checked_mul(1000)?, zone),
        ScalarValue::TimestampMicrosecond(Some(v), zone) => (*v, zone),
        // The server would round what lies between two microseconds.
        ScalarValue::TimestampNanosecond(Some(v), zone) if v % 1000 == 0 => (v / 1000, zone),
        _ => return None,
    };
    if zone.is_some() != zoned {
        return None;
    }
    let moment = DateTime::from_timestamp_micros(micros)?;
    plain_year(moment.date_naive())?;
    let text = moment.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
    Some(if zoned { format!("{text}+00") } else { text })
}

/// A literal that reads the same whatever the server's settings are.
pub(crate) fn quote_text(text: &str) -> String {
    // With a backslash the string needs the form in which a backslash is one under every setting.
    let escaped = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", escaped.replace('\\', "\\\\")) } else { format!("'{escaped}'") }
}

pub(crate) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use datafusion::logical_expr::{col, lit};

    use super::*;
    use crate::types::column;

    fn columns() -> Vec<Column> {
        let plain =
            |name: &str, oid, native: &str| column(name, &PgType::builtin(oid, native), true, false, None).unwrap();
        let varying = PgType {
            kind: TypeKind::Base { send: "bpcharsend".into() },
            ..PgType::builtin(oid::BPCHAR, "character(3)")
        };
        vec![
            plain("i", oid::INT4, "integer"),
            plain("t", oid::TEXT, "text"),
            plain("f", oid::FLOAT8, "double precision"),
            plain("ts", oid::TIMESTAMPTZ, "timestamp with time zone"),
            plain("n", oid::NUMERIC, "numeric"),
            plain("odd\"name", oid::INT8, "bigint"),
            column("c", &varying, true, false, None).unwrap(),
        ]
    }

    fn sql(expr: Expr) -> Option<String> {
        Filter { columns: &columns(), utf8: true }.render(&expr)
    }

    #[test]
    fn literals_are_quoted_and_cast() {
        assert_eq!(sql(col("i").gt(lit(-5i32))).unwrap(), "\"i\" > '-5'::int8");
        assert_eq!(sql(lit(5i32).gt(col("i"))).unwrap(), "\"i\" < '5'::int8");
        assert_eq!(
            sql(col("t").eq(lit("a'; DROP TABLE x; --\\"))).unwrap(),
            "\"t\" COLLATE \"C\" = E'a''; DROP TABLE x; --\\\\'::text"
        );
        assert_eq!(
            sql(Expr::Column(datafusion::common::Column::from_name("odd\"name")).is_null()).unwrap(),
            "\"odd\"\"name\" IS NULL"
        );
        let instant = ScalarValue::TimestampMicrosecond(Some(1), Some("UTC".into()));
        assert_eq!(
            sql(col("ts").gt_eq(lit(instant))).unwrap(),
            "\"ts\" >= '1970-01-01 00:00:00.000001+00'::timestamptz"
        );
    }

    #[test]
    fn floats_compare_as_datafusion_orders_them() {
        assert_eq!(sql(col("f").gt(lit(1.5))).unwrap(), "\"f\" > '1.5'::float8");
        assert_eq!(sql(col("f").lt(lit(f64::NAN))).unwrap(), "\"f\" < 'NaN'::float8");
        assert_eq!(sql(col("f").gt_eq(lit(f64::NEG_INFINITY))).unwrap(), "\"f\" >= '-Infinity'::float8");
        assert_eq!(sql(col("f").eq(lit(0.0))).unwrap(), "\"f\" = '0'::float8");
        assert_eq!(sql(col("f").gt_eq(lit(-0.0))).unwrap(), "\"f\" >= '-0'::float8");
        assert_eq!(sql(col("f").lt(col("f"))).unwrap(), "\"f\" < \"f\"");
        assert_eq!(sql(col("f").in_list(vec![lit(0.0), lit(1.0)], false)), None);
    }

    #[test]
    fn remainders_and_wider_types_keep_their_meaning() {
        assert_eq!(sql((col("i") % lit(2i32)).eq(lit(0i32))).unwrap(), "(\"i\" % '2'::int8) = '0'::int8");
        let wide = datafusion::logical_expr::cast(col("i"), DataType::Int64);
        assert_eq!(sql((wide.clone() % lit(-3i64)).lt(lit(1i64))).unwrap(), "(\"i\" % '-3'::int8) < '1'::int8");
        let decimal = datafusion::logical_expr::cast(wide, DataType::Decimal128(22, 1));
        let half = ScalarValue::Decimal128(Some(15), 22, 1);
        assert_eq!(sql(decimal.gt(lit(half))).unwrap(), "\"i\" > '1.5'::numeric");
        let narrow = datafusion::logical_expr::cast(col("i"), DataType::Int16);
        assert_eq!(sql(narrow.eq(lit(1i16))), None);
    }

    #[test]
    fn the_bound_of_a_cursor_is_compared_in_its_own_type() {
        let bound = |column: &str, order: ValueOrder, text: &str| sql(AtLeast::call(col(column), column, &order, text));
        assert_eq!(bound("n", ValueOrder::Numeric, "NaN").unwrap(), "\"n\" >= 'NaN'::numeric");
        assert_eq!(bound("c", ValueOrder::Padded, "a'").unwrap(), "\"c\" COLLATE \"C\" >= 'a'''::bpchar");
        assert_eq!(bound("t", ValueOrder::Numeric, "1"), None);
    }

    #[test]
    fn what_would_mean_something_else_stays() {
        assert_eq!(sql(col("f").eq(lit(-f64::NAN))), None);
        assert_eq!(sql((col("i") % lit(0i64)).eq(lit(0i64))), None);
        assert_eq!(sql((col("i") + lit(1i64)).eq(lit(0i64))), None);
        assert_eq!(sql((col("i") % col("i")).eq(lit(0i64))), None);
        // Unconstrained numerics are texts on our side.
        assert_eq!(sql(col("n").eq(lit("1"))), None);
        assert_eq!(sql(col("c").eq(lit("a"))), None);
        assert_eq!(sql(col("t").like(lit("a_"))), None);
        // The server would round it.
        let between_micros = ScalarValue::TimestampNanosecond(Some(1_500), Some("UTC".into()));
        assert_eq!(sql(col("ts").lt(lit(between_micros))), None);
        let local = ScalarValue::TimestampMicrosecond(Some(1), None);
        assert_eq!(sql(col("ts").lt(lit(local))), None);
        assert_eq!(sql(col("t").eq(lit("a\0"))), None);
        assert!(sql(col("t").like(lit("a%"))).is_some());
        // One half that stays keeps the whole.
        assert_eq!(sql(col("i").eq(lit(1)).or(col("n").gt(lit("1")))), None);
        let latin = Filter { columns: &columns(), utf8: false };
        assert_eq!(latin.render(&col("t").like(lit("a%"))), None);
    }
}
