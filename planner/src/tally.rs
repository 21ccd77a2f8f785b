//! A node that lets rows through and counts them, for plans whose output does not show what the source gave: how many
//! rows, and how far its cursor went.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, Result as DataFusionResult, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::order::ValueOrder;

/// A cursor to follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Followed {
    pub column: String,
    pub order: ValueOrder,
}

/// Counts the rows of its input as rows of the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tally {
    input: Arc<LogicalPlan>,
    followed: Option<Followed>,
}

impl Tally {
    pub fn plan(input: LogicalPlan, followed: Option<Followed>) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input: Arc::new(input), followed }) })
    }

    pub fn followed(&self) -> Option<&Followed> {
        self.followed.as_ref()
    }
}

impl PartialOrd for Tally {
    fn partial_cmp(&self, _: &Self) -> Option<Ordering> {
        None
    }
}

impl UserDefinedLogicalNodeCore for Tally {
    fn name(&self) -> &str {
        "Tally"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tally: rows of the source")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Ok(Self { input: Arc::new(input), ..self.clone() }),
            _ => plan_err!("a tally has one input"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // With a cursor, all: its column may not be wanted above.
        self.followed.is_none().then(|| vec![output_columns.to_vec()])
    }
}
