//! `replace`: a declared scope of the target becomes exactly the rows of the source in the same scope.

use datafusion::common::DFSchema;

use super::{Draft, Observed, carried_key, filtered, output_names, require_columns};
use crate::definition::Scope;
use crate::error::{Error, Result};
use crate::expr::{predicate, qualify, require_immutable};
use crate::plan::{Checks, ScopeFilter, WriteMode};

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

/// `from <= column < to`: half-open, so that neighbouring windows never share a row.
pub(super) fn window(observed: &Observed<'_>, column: &str, from: &str, to: &str) -> Result<String> {
    let literal = literals(observed, "the window's column", column)?;
    let quoted = column.replace('"', "\"\"");
    Ok(format!("\"{quoted}\" >= {} AND \"{quoted}\" < {}", literal(from), literal(to)))
}

/// `column IN (values)`
pub(super) fn one_of(observed: &Observed<'_>, column: &str, values: &[String]) -> Result<String> {
    let literal = literals(observed, "the partition column", column)?;
    let values: Vec<_> = values.iter().map(|v| literal(v)).collect();
    Ok(format!("\"{}\" IN ({})", column.replace('"', "\"\""), values.join(", ")))
}

/// Spells texts as values of the column's type.
fn literals(observed: &Observed<'_>, what: &str, column: &str) -> Result<impl Fn(&str) -> String> {
    require_columns(what, &[column.to_owned()], &observed.source)?;
    let field = observed.source.schema().field_with_unqualified_name(column)?;
    let sql_type = sql_type(column, field.data_type())?;
    Ok(move |text: &str| format!("CAST('{}' AS {sql_type})", text.replace('\'', "''")))
}

fn sql_type(column: &str, data_type: &arrow::datatypes::DataType) -> Result<String> {
    use arrow::datatypes::DataType::*;
    Ok(match data_type {
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => "BIGINT".to_owned(),
        Decimal128(p, s) => format!("DECIMAL({p},{s})"),
        Float32 | Float64 => "DOUBLE".to_owned(),
        Date32 | Date64 => "DATE".to_owned(),
        // Microseconds: nanoseconds end in 2262, and a window may well reach further.
        Timestamp(_, None) => "TIMESTAMP(6)".to_owned(),
        Timestamp(_, Some(_)) => "TIMESTAMP(6) WITH TIME ZONE".to_owned(),
        Utf8 | LargeUtf8 | Utf8View => "VARCHAR".to_owned(),
        other => {
            return Err(Error::configuration(format!(
                "a window over column {column:?} of type {} is not possible",
                crate::types::data_type_name(other)
            ))
            .with_hint("use a date, timestamp, number or text column, or a custom_predicate"));
        }
    })
}
