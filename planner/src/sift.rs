//! A node that puts rows aside: those that the contract between source and target does not let through. They are counted
//! and remembered by their place, key, column and reason; never by the value.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::{DFSchema, DFSchemaRef, Result as DataFusionResult, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::error::Result;

/// The beginning of the input's Boolean columns that mark the rows to put aside.
pub const MARK: &str = "__dpone__aside_";

/// Why a row is put aside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Reason {
    /// The input's column that is true where it holds.
    pub mark: String,
    pub column: String,
    /// `new_column` or `type_mismatch`.
    pub code: String,
}

/// What is put aside, and what its rows are known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct SiftSpec {
    pub reasons: Vec<Reason>,
    /// The columns of the key, where there is one.
    pub key: Vec<String>,
}

/// Lets the rows through in which no mark is true, without the marks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sift {
    input: Arc<LogicalPlan>,
    spec: SiftSpec,
    schema: DFSchemaRef,
}

impl Sift {
    pub fn plan(input: LogicalPlan, spec: SiftSpec) -> Result<LogicalPlan> {
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(Self::new(input, spec)?) }))
    }

    fn new(input: LogicalPlan, spec: SiftSpec) -> DataFusionResult<Self> {
        let kept = input.schema().iter().filter(|(_, field)| !field.name().starts_with(MARK));
        let kept = kept.map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect();
        let schema = DFSchema::new_with_metadata(kept, input.schema().metadata().clone())?;
        Ok(Self { input: Arc::new(input), spec, schema: Arc::new(schema) })
    }

    pub fn spec(&self) -> &SiftSpec {
        &self.spec
    }

    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }
}

/// The columns that pass a [`Sift`].
pub fn without_marks(schema: &Schema) -> SchemaRef {
    let kept: Vec<FieldRef> = schema.fields().iter().filter(|field| !field.name().starts_with(MARK)).cloned().collect();
    Arc::new(Schema::new_with_metadata(kept, schema.metadata().clone()))
}

impl PartialOrd for Sift {
    fn partial_cmp(&self, _: &Self) -> Option<Ordering> {
        None
    }
}

impl UserDefinedLogicalNodeCore for Sift {
    fn name(&self) -> &str {
        "Sift"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        // Rows that are not read are not put aside either.
        HashSet::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<_> = self.spec.reasons.iter().map(|r| format!("{} ({})", r.column, r.code)).collect();
        write!(f, "Sift: rows put aside for {}", reasons.join(", "))
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Self::new(input, self.spec.clone()),
            _ => plan_err!("a sift has one input"),
        }
    }
}
