//! Lineage: columns that a load adds to every row that it writes, whatever the strategy. They say which load wrote the row
//! last, and hold the canonical hash of its values. They never make a row differ: the hash follows from the values, and the
//! others ([`STAMPS`]) are left out of every comparison.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};

use super::align::{Aligned, staged_field};
use super::compare::digest_of;
use super::snapshot_diff::{ROW_HASH, timestamp_field};
use super::{Draft, Observed, column};
use crate::definition::{Lineage, Pipeline, Strategy};
use crate::error::{Error, Result};
use crate::exact_cast::convert;
use crate::plan::{LOAD_ID, LOADED_AT, OPERATION_COLUMN, Operation, RUN_ID, STAMPS, WriteMode};
use crate::row_hash::{DigestKind, HashText};
use crate::types::utc;

/// The run and the load that are planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadIdentity {
    pub run_id: String,
    pub load_id: String,
}

/// The columns of a target whose loads write this lineage. Nullable: rows that were there before have none, and a table
/// outlives the option.
pub(super) fn fields(pipeline: &Pipeline) -> Vec<Field> {
    let Lineage { identity, row_hash } = pipeline.lineage;
    let mut fields = Vec::new();
    if identity {
        let text = |name| Field::new(name, DataType::Utf8, true);
        fields.extend([text(RUN_ID), text(LOAD_ID), timestamp_field(LOADED_AT)]);
    }
    if row_hash && !keeps_hashes(&pipeline.strategy) {
        fields.push(Field::new(ROW_HASH, DataType::Utf8, true));
    }
    fields
}

/// Whether the target has a column of row hashes that a load has to keep true, although its definition asks for none: the
/// next load that compares with them must not find those of other values.
pub(super) fn hashes_are_there(target: Option<&Schema>, source: &Schema) -> bool {
    let ours = |field: &Field| matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    target.is_some_and(|target| target.field_with_name(ROW_HASH).is_ok_and(ours)) && !has(source, ROW_HASH)
}

/// Versions of a row have a hash of their own, under a name of the definition.
fn keeps_hashes(strategy: &Strategy) -> bool {
    matches!(strategy, Strategy::Scd2 { .. })
}

/// Adds the lineage columns to the rows to stage, and to what a patch sets.
pub(super) fn add(
    aligned: Aligned,
    draft: &mut Draft,
    pipeline: &Pipeline,
    observed: &Observed<'_>,
) -> Result<Aligned> {
    let mut wanted = fields(pipeline);
    let kept = hashes_are_there(observed.target_schema(), observed.source.schema().as_arrow());
    if kept && !keeps_hashes(&pipeline.strategy) && !wanted.iter().any(|f| f.name() == ROW_HASH) {
        wanted.push(Field::new(ROW_HASH, DataType::Utf8, true));
    }
    wanted.retain(|field| !has(&aligned.staged_schema, field.name()));
    if wanted.is_empty() {
        return Ok(aligned);
    }
    let Aligned { plan, staged_schema, mut target_schema, not_null } = aligned;
    let mut staged: Vec<Field> = staged_schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    let operation = staged.pop_if(|f| f.name() == OPERATION_COLUMN);
    let mut exprs = staged.iter().map(|f| column(&plan, f.name())).collect::<Result<Vec<Expr>>>()?;
    let hashed: Vec<String> = staged
        .iter()
        .filter(|f| !draft.own.iter().any(|own| own.name() == f.name()))
        .map(|f| f.name().clone())
        .collect();
    let mut created = Vec::new();
    for field in wanted {
        let value = match field.name().as_str() {
            RUN_ID => lit(observed.load.run_id.as_str()),
            LOAD_ID => lit(observed.load.load_id.as_str()),
            LOADED_AT => lit(ScalarValue::TimestampMicrosecond(Some(observed.now), Some(utc()))),
            _ => HashText::call(digest_of(&plan, &staged, &hashed, DigestKind::Values)?),
        };
        if observed.target.as_ref().is_some_and(|target| !has(&target.schema, field.name())) {
            return Err(Error::configuration(format!(
                "lineage needs a column {:?} in the target, and schema_evolution does not add it",
                field.name()
            ))
            .with("column", field.name())
            .with_hint("let columns evolve, add the column to the target, or set lineage: false"));
        }
        let to = staged_field(&field, observed)?.with_nullable(true);
        exprs.push(convert(value, &field, &to)?.alias(field.name()));
        created.push(to);
    }
    if observed.target.is_none() {
        let fields = target_schema.fields().iter().map(|f| f.as_ref().clone()).chain(created.iter().cloned());
        target_schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    }
    staged.extend(created);
    if let Some(operation) = operation {
        exprs.push(column(&plan, OPERATION_COLUMN)?);
        staged.push(operation);
    }
    if let WriteMode::Changes { operation: Operation::Column { patch }, .. } = &mut draft.write_mode
        && !patch.is_empty()
        && pipeline.lineage.identity
    {
        patch.extend(STAMPS.iter().map(|name| (*name).to_owned()));
    }
    let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
    Ok(Aligned { plan, staged_schema: Arc::new(Schema::new(staged)), target_schema, not_null })
}

fn has(schema: &Schema, name: &str) -> bool {
    schema.field_with_name(name).is_ok()
}
