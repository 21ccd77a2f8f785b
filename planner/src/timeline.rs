//! The timelines of keys, as one logical node: rows that were read are laid among the versions that are there.
//!
//! A node of its own, rather than window functions, because those sort and hold whatever has one key next to everything
//! else; the node splits its input by key where it does not fit in memory, and works on the parts.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, DFSchemaRef, Result as DataFusionResult, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::diff::KEY_HASH;
use crate::error::Result;

/// Column of the input and the output, Int8: where a row comes from.
pub const ORIGIN: &str = "__dpone__origin";
/// A version that is there.
pub const IN_TARGET: i8 = 0;
/// A row that was read.
pub const READ: i8 = 1;

/// Which columns say what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct TimelineSpec {
    /// Text that is equal where two versions say the same.
    pub hash: String,
    /// Since when a version holds, and until when: timestamps in microseconds.
    pub from: String,
    pub to: String,
}

/// The logical node. Its input has the columns of the rows, [`ORIGIN`] and [`KEY_HASH`]; its output is the rows that are
/// to be written, without the key's hash: read rows that say something new, and versions that end earlier than they did,
/// each with its end in `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    input: Arc<LogicalPlan>,
    spec: TimelineSpec,
    schema: DFSchemaRef,
}

impl Timeline {
    pub fn plan(input: LogicalPlan, spec: TimelineSpec) -> Result<LogicalPlan> {
        let fields: Vec<Field> = input
            .schema()
            .fields()
            .iter()
            .filter(|field| field.name() != KEY_HASH)
            .map(|field| field.as_ref().clone().with_nullable(field.is_nullable() || *field.name() == spec.to))
            .collect();
        let schema = Arc::new(DFSchema::try_from(Schema::new(fields))?);
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(Self { input: Arc::new(input), spec, schema }) }))
    }

    pub fn spec(&self) -> &TimelineSpec {
        &self.spec
    }

    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::clone(self.schema.inner())
    }
}

impl Hash for Timeline {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.spec).hash(state);
    }
}

impl PartialOrd for Timeline {
    fn partial_cmp(&self, _: &Self) -> Option<Ordering> {
        None
    }
}

impl UserDefinedLogicalNodeCore for Timeline {
    fn name(&self) -> &str {
        "Timeline"
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

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timeline: {}", self.spec)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Ok(Self { input: Arc::new(input), ..self.clone() }),
            _ => plan_err!("a timeline has one input"),
        }
    }
}

impl fmt::Display for TimelineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}, by {}", self.from, self.to, self.hash)
    }
}
