//! Puts exact conversions between what the source gives and what the sink stores.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::{Draft, Observed, ObservedTarget, column};
use crate::error::{Error, Result};
use crate::exact_cast::convert;
use crate::plan::OPERATION_COLUMN;
use crate::types::is_raw;

pub(super) struct Aligned {
    pub(super) plan: LogicalPlan,
    pub(super) staged_schema: SchemaRef,
    pub(super) target_schema: SchemaRef,
    /// Columns in which the target takes no NULL, and the source may have some.
    pub(super) not_null: Vec<String>,
}

pub(super) fn align(draft: &Draft, observed: &Observed<'_>) -> Result<Aligned> {
    let mut checked: Vec<String> = [&draft.checks.not_null[..], &draft.checks.quarantine_null[..]].concat();
    let mut not_null = Vec::new();
    let source = declared(stored_part(&draft.plan), &draft.own);
    let with_operation = draft.plan.schema().fields().iter().any(|f| f.name() == OPERATION_COLUMN);
    if let Some(target) = &observed.target {
        check_own(&source, draft, target, observed)?;
        // A view, or an expression, may hold no NULL though its type allows it: the rows decide.
        let own = |name: &String| draft.own.iter().any(|f| f.name() == name);
        for field in source.fields().iter().filter(|f| f.is_nullable() && !checked.contains(f.name()) && !own(f.name()))
        {
            if target.schema.field_with_name(field.name()).is_ok_and(|there| !there.is_nullable()) {
                not_null.push(field.name().clone());
            }
        }
    } else {
        // A type may take no NULL in a column that is made for it.
        for field in source.fields().iter().filter(|f| f.is_nullable() && !checked.contains(f.name())) {
            if !staged_field(field, observed)?.is_nullable() {
                not_null.push(field.name().clone());
            }
        }
    }
    checked.extend_from_slice(&not_null);
    // Rows that are compared have the types of those that they are compared with, and the cursor that of its state.
    let cursor = draft.cursor.as_ref().map(|cursor| &cursor.column);
    let takes_view = |stored: &Field| {
        !with_operation && cursor.is_none_or(|cursor| cursor != stored.name()) && observed.dialect.takes_view(stored)
    };
    let (mut stored, mut staged, mut exprs) = (Vec::new(), Vec::new(), Vec::new());
    for field in source.fields() {
        let mut to = staged_field(field, observed)?.with_nullable(field.is_nullable());
        // A row that deletes or patches has only its key.
        if checked.contains(field.name()) && (!with_operation || draft.primary_key.contains(field.name())) {
            to = to.with_nullable(false);
        }
        let given = column(&draft.plan, field.name())?;
        stored.push(to.clone());
        if is_view_of(field.data_type(), to.data_type()) && takes_view(&to) {
            to = to.with_data_type(field.data_type().clone());
        }
        exprs.push(convert(given, field, &to)?.alias(field.name()));
        staged.push(to);
    }
    let target_schema: SchemaRef = match &observed.target {
        Some(target) => Arc::clone(&target.schema),
        None => Arc::new(Schema::new(created_fields(&stored, draft))),
    };
    if with_operation {
        exprs.push(column(&draft.plan, OPERATION_COLUMN)?);
        staged.push(Field::new(OPERATION_COLUMN, DataType::Int8, false));
    }
    let plan = LogicalPlanBuilder::from(draft.plan.clone()).project(exprs)?.build()?;
    Ok(Aligned { plan, staged_schema: Arc::new(Schema::new(staged)), target_schema, not_null })
}

fn is_view_of(values: &DataType, stored: &DataType) -> bool {
    matches!((values, stored), (DataType::Utf8View, DataType::Utf8) | (DataType::BinaryView, DataType::Binary))
}

/// The strategy's own columns as it declares them: an expression carries the metadata of what it is made from.
fn declared(schema: Schema, own: &[Field]) -> Schema {
    let fields = schema.fields().iter().map(|field| match own.iter().find(|own| own.name() == field.name()) {
        Some(own) => Arc::new(own.clone().with_nullable(field.is_nullable())),
        None => Arc::clone(field),
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// Each source column as it would be staged, with its expression.
pub(super) fn aligned_exprs(plan: &LogicalPlan, observed: &Observed<'_>) -> Result<Vec<(Field, Expr)>> {
    stored_part(plan)
        .fields()
        .iter()
        .map(|field| {
            let to = staged_field(field, observed)?.with_nullable(field.is_nullable());
            let expr = convert(column(plan, field.name())?, field, &to)?;
            Ok((to, expr))
        })
        .collect()
}

/// Adds the rows of `gone`, which give keys in staged types, an operation, and what a patch sets. Other columns are NULL
/// in them.
pub(super) fn with_gone(aligned: Aligned, gone: &LogicalPlan) -> Result<Aligned> {
    let given = gone.schema().as_arrow();
    let mut exprs = Vec::new();
    let mut staged = Vec::new();
    for field in aligned.staged_schema.fields() {
        let (expr, field) = match given.field_with_name(field.name()) {
            Ok(there) => (convert(column(gone, field.name())?, there, field)?, field.as_ref().clone()),
            Err(_) => {
                let null = ScalarValue::try_new_null(field.data_type())?;
                (Expr::Literal(null, None), field.as_ref().clone().with_nullable(true))
            }
        };
        exprs.push(expr.alias(field.name()));
        staged.push(field);
    }
    let gone = LogicalPlanBuilder::from(gone.clone()).project(exprs)?.build()?;
    let plan = LogicalPlanBuilder::from(aligned.plan).union(gone)?.build()?;
    Ok(Aligned { plan, staged_schema: Arc::new(Schema::new(staged)), ..aligned })
}

/// The strategy's own columns, which the target must have.
fn check_own(source: &Schema, draft: &Draft, target: &ObservedTarget, observed: &Observed<'_>) -> Result<()> {
    let is_own = |name: &String| draft.own.iter().any(|f| f.name() == name);
    for field in source.fields().iter().filter(|f| is_own(f.name())) {
        let fits = match target.schema.field_with_name(field.name()) {
            Ok(there) => observed.dialect.staged_field(field, there)?.is_some(),
            Err(_) => false,
        };
        if !fits {
            return Err(Error::new(
                crate::ErrorKind::DataQuality,
                format!(
                    "the target needs a column {:?} of type {}, which the strategy keeps there",
                    field.name(),
                    crate::types::logical_name(field)
                ),
            )
            .with("column", field.name())
            .with_hint("load into a table that this strategy made, or add the column to the target"));
        }
    }
    Ok(())
}

/// The schema of a plan's output without the operation column.
fn stored_part(plan: &LogicalPlan) -> Schema {
    let fields = plan.schema().as_arrow().fields();
    Schema::new(fields.iter().filter(|f| f.name() != OPERATION_COLUMN).cloned().collect::<Vec<_>>())
}

pub(super) fn staged_field(field: &Field, observed: &Observed<'_>) -> Result<Field> {
    if is_raw(field) {
        return Ok(field.clone());
    }
    let there = observed.target.as_ref().and_then(|t| t.schema.field_with_name(field.name()).ok());
    match there {
        // What does not fit was refused or converted before.
        Some(there) => observed
            .dialect
            .staged_field(field, there)?
            .ok_or_else(|| Error::configuration(format!("column {:?} does not fit the target's column", field.name()))),
        None => observed.dialect.stored_field(field),
    }
}

/// Only what is checked or declared NOT NULL becomes NOT NULL in a table that we create.
fn created_fields(stored: &[Field], draft: &Draft) -> Vec<Field> {
    stored
        .iter()
        .map(|field| {
            let required = draft.checks.not_null.contains(field.name()) || draft.primary_key.contains(field.name());
            field.clone().with_nullable(field.is_nullable() && !required)
        })
        .collect()
}
