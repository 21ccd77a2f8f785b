//! `replace`: a declared scope of the target becomes exactly the rows of the source in the same scope.

use std::cmp::Ordering;

use arrow::datatypes::Field;
use datafusion::common::{DFSchema, ScalarValue};

use super::{Draft, Observed, carried_key, filtered, output_names, require_columns};
use crate::definition::Scope;
use crate::error::{Error, Result};
use crate::expr::{predicate, qualify, require_immutable};
use crate::order::ValueOrder;
use crate::plan::{Checks, ScopeFilter, WriteMode};
use crate::types::{NATIVE, data_type_name, is_uuid, logical_name};

pub(super) fn draft(observed: &Observed<'_>, scope: &Scope) -> Result<Draft> {
    let sql = match scope {
        Scope::Predicate(sql) => sql.clone(),
        Scope::Window { column, from, to } => window(observed, column, from, to)?,
    };
    by_predicate("the scope of replace", observed, sql)
}

/// The source and the target, both cut down to the rows for which the predicate is true.
pub(super) fn by_predicate(what: &str, observed: &Observed<'_>, sql: String) -> Result<Draft> {
    output_names(&observed.source)?;
    // The same filter that the sink applies, over the same columns: nothing outside the scope is ever staged.
    let unqualified = DFSchema::try_from(observed.source.schema().as_arrow().clone())?;
    require_immutable(what, &sql, &unqualified)?;
    let parsed = predicate(what, &sql, &unqualified)?;
    check_stored_scope(what, observed, &sql)?;
    let qualified = qualify(parsed, &observed.source)?;
    Ok(Draft {
        plan: filtered(observed.source.clone(), qualified)?,
        write_mode: WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } },
        cursor: None,
        // An empty scope is emptied: the batch is the slice.
        checks: Checks::default(),
        primary_key: carried_key(observed),
        own: Vec::new(),
        notes: Vec::new(),
    })
}

/// Fails where the sink cannot say the scope as it is meant. The sink applies it to its own columns.
pub(super) fn check_stored_scope(what: &str, observed: &Observed<'_>, sql: &str) -> Result<()> {
    let stored = match &observed.target {
        Some(target) => std::sync::Arc::clone(&target.schema),
        None => observed.dialect.stored_schema(observed.source.schema().as_arrow())?,
    };
    let schema = DFSchema::try_from(stored.as_ref().clone())?;
    let scope = predicate(&format!("{what}, over the target"), sql, &schema)?;
    observed.dialect.check_scope(&stored, &scope).map_err(|_| {
        Error::configuration(format!(
            "{what}, {sql}, cannot be said in the SQL of {} with exactly the same meaning",
            observed.dialect.system()
        ))
        .with_hint(
            "compare columns with constants: =, <, <=, >, >=, <>, IN, BETWEEN, LIKE 'a%', IS NULL, % on integers, and \
             AND, OR, NOT around them",
        )
    })
}

/// `from <= column < to`: half-open, so that neighbouring windows never share a row.
pub(super) fn window(observed: &Observed<'_>, column: &str, from: &str, to: &str) -> Result<String> {
    let literal = literals(observed, "the window's column", column)?;
    check_order(observed, column, from, to)?;
    let quoted = column.replace('"', "\"\"");
    Ok(format!("\"{quoted}\" >= {} AND \"{quoted}\" < {}", literal(from)?, literal(to)?))
}

/// Fails for a window that no row can be in: its bounds were mixed up, or one of them was meant to be another.
fn check_order(observed: &Observed<'_>, column: &str, from: &str, to: &str) -> Result<()> {
    let kind = observed.source.schema().field_with_unqualified_name(column)?.data_type();
    // What is no value of the type is told where the scope is read.
    let value = |text: &str| ScalarValue::from(text).cast_to(kind).ok();
    let (Some(first), Some(end)) = (value(from), value(to)) else { return Ok(()) };
    match first.partial_cmp(&end) {
        Some(Ordering::Greater | Ordering::Equal) => Err(Error::configuration(format!(
            "the window over {column:?} holds no row: it begins at {from:?} and ends before {to:?}"
        ))
        .with("column", column)
        .with_hint("from is the first value of the window, and to the first one after it")),
        _ => Ok(()),
    }
}

/// `column IN (values)`
pub(super) fn one_of(observed: &Observed<'_>, column: &str, values: &[String]) -> Result<String> {
    let literal = literals(observed, "the partition column", column)?;
    let values = values.iter().map(|v| literal(v)).collect::<Result<Vec<_>>>()?;
    Ok(format!("\"{}\" IN ({})", column.replace('"', "\"\""), values.join(", ")))
}

/// Spells texts as values of the column's type.
fn literals(observed: &Observed<'_>, what: &str, column: &str) -> Result<impl Fn(&str) -> Result<String>> {
    require_columns(what, &[column.to_owned()], &observed.source)?;
    let field = observed.source.schema().field_with_unqualified_name(column)?;
    let sql_type = if is_uuid(field) { None } else { Some(sql_type(what, column, field)?) };
    let (what, column, kind) = (what.to_owned(), column.to_owned(), field.data_type().clone());
    Ok(move |text: &str| match &sql_type {
        Some(sql_type) => {
            // By the conversion that the scope's own CAST makes.
            if ScalarValue::from(text).cast_to(&kind).is_err() {
                return Err(Error::configuration(format!(
                    "{what} {column:?} is of type {}, of which the definition's {text:?} is no value",
                    data_type_name(&kind)
                ))
                .with("column", &column));
            }
            Ok(format!("CAST('{}' AS {sql_type})", text.replace('\'', "''")))
        }
        None => uuid_literal(&column, text),
    })
}

/// Canonical, so that it means the same to a sink that keeps uuids as text.
fn uuid_literal(column: &str, text: &str) -> Result<String> {
    let bytes = crate::literal::parse(text).ok_or_else(|| {
        Error::configuration(format!("the window's column {column:?} is a uuid, and the bound {text:?} is none"))
            .with_hint("write all 32 hexadecimal digits, such as 80000000-0000-0000-0000-000000000000")
    })?;
    Ok(format!("'{}'", crate::literal::text(&bytes)))
}

fn sql_type(what: &str, column: &str, field: &Field) -> Result<String> {
    use arrow::datatypes::DataType::*;
    let refused = || {
        Error::configuration(format!(
            "{what} {column:?} is of type {}, over which no scope is possible",
            field.metadata().get(NATIVE).cloned().unwrap_or_else(|| logical_name(field))
        ))
        .with_hint("use a date, timestamp, number, uuid or text column, or a custom_predicate")
    };
    // What travels as text does not sort as text.
    if ValueOrder::of(field) != Some(ValueOrder::Arrow) {
        return Err(refused());
    }
    Ok(match field.data_type() {
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => "BIGINT".to_owned(),
        Decimal128(p, s) => format!("DECIMAL({p},{s})"),
        Float32 | Float64 => "DOUBLE".to_owned(),
        Date32 | Date64 => "DATE".to_owned(),
        // Microseconds: nanoseconds end in 2262, and a window may well reach further.
        Timestamp(_, None) => "TIMESTAMP(6)".to_owned(),
        Timestamp(_, Some(_)) => "TIMESTAMP(6) WITH TIME ZONE".to_owned(),
        Utf8 | LargeUtf8 | Utf8View => "VARCHAR".to_owned(),
        _ => return Err(refused()),
    })
}
