//! `replace`: a declared scope of the target becomes exactly the rows of the source in the same scope.

use arrow::datatypes::Field;
use datafusion::common::DFSchema;

use super::{Draft, Observed, carried_key, filtered, output_names, require_columns};
use crate::definition::Scope;
use crate::error::{Error, Result};
use crate::expr::{predicate, qualify, require_immutable};
use crate::order::ValueOrder;
use crate::plan::{Checks, ScopeFilter, WriteMode};
use crate::types::{NATIVE, is_uuid, logical_name};

pub(super) fn draft(observed: &Observed<'_>, scope: &Scope) -> Result<Draft> {
    output_names(&observed.source)?;
    let sql = match scope {
        Scope::Predicate(sql) => sql.clone(),
        Scope::Window { column, from, to } => {
            require_columns("the window's column", std::slice::from_ref(column), &observed.source)?;
            let field = observed.source.schema().field_with_unqualified_name(column)?;
            window_sql(column, field, from, to)?
        }
    };
    // The same filter that the sink applies, over the same columns: nothing outside the scope is ever staged.
    let unqualified = DFSchema::try_from(observed.source.schema().as_arrow().clone())?;
    require_immutable("the scope of replace", &sql, &unqualified)?;
    let parsed = predicate("the scope of replace", &sql, &unqualified)?;
    check_stored_scope(observed, &sql)?;
    let qualified = qualify(parsed, &observed.source)?;
    Ok(Draft {
        plan: filtered(observed.source.clone(), qualified)?,
        write_mode: WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } },
        cursor: None,
        // An empty scope is emptied: the batch is the slice.
        checks: Checks::default(),
        primary_key: carried_key(observed),
        notes: Vec::new(),
    })
}

/// Fails where the sink cannot say the scope as it is meant. The sink applies it to its own columns.
fn check_stored_scope(observed: &Observed<'_>, sql: &str) -> Result<()> {
    let stored = match &observed.target {
        Some(target) => std::sync::Arc::clone(&target.schema),
        None => observed.dialect.stored_schema(observed.source.schema().as_arrow())?,
    };
    let schema = DFSchema::try_from(stored.as_ref().clone())?;
    let scope = predicate("the scope of replace, over the target", sql, &schema)?;
    observed.dialect.check_scope(&stored, &scope).map_err(|_| {
        Error::configuration(format!(
            "the scope of replace, {sql}, cannot be said in the SQL of {} with exactly the same meaning",
            observed.dialect.system()
        ))
        .with_hint(
            "compare columns with constants: =, <, <=, >, >=, <>, IN, BETWEEN, LIKE 'a%', IS NULL, % on integers, and \
             AND, OR, NOT around them",
        )
    })
}

/// Half-open, so that neighbouring windows never share a row.
fn window_sql(column: &str, field: &Field, from: &str, to: &str) -> Result<String> {
    let quoted = column.replace('"', "\"\"");
    let (from, to) = if is_uuid(field) {
        (uuid_literal(column, from)?, uuid_literal(column, to)?)
    } else {
        let sql_type = sql_type(column, field)?;
        let literal = |text: &str| format!("CAST('{}' AS {sql_type})", text.replace('\'', "''"));
        (literal(from), literal(to))
    };
    Ok(format!("\"{quoted}\" >= {from} AND \"{quoted}\" < {to}"))
}

/// Canonical, so that it means the same to a sink that keeps uuids as text.
fn uuid_literal(column: &str, text: &str) -> Result<String> {
    let bytes = crate::literal::parse(text).ok_or_else(|| {
        Error::configuration(format!("the window's column {column:?} is a uuid, and the bound {text:?} is none"))
            .with_hint("write all 32 hexadecimal digits, such as 80000000-0000-0000-0000-000000000000")
    })?;
    Ok(format!("'{}'", crate::literal::text(&bytes)))
}

fn sql_type(column: &str, field: &Field) -> Result<String> {
    use arrow::datatypes::DataType::*;
    let refused = || {
        Error::configuration(format!(
            "a window over column {column:?} of type {} is not possible",
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
        Timestamp(_, None) => "TIMESTAMP".to_owned(),
        Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".to_owned(),
        Utf8 | LargeUtf8 | Utf8View => "VARCHAR".to_owned(),
        _ => return Err(refused()),
    })
}
