//! The execution of [`dpone_planner::tally::Tally`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use dpone_planner::tally::Followed;
use futures::StreamExt;

use crate::probe::{PartitionFacts, Probe, ProbeSpec};

/// Lets its input through, counts the rows and follows the cursor.
#[derive(Debug)]
pub struct TallyExec {
    input: Arc<dyn ExecutionPlan>,
    followed: Option<Followed>,
    facts: Arc<Mutex<PartitionFacts>>,
}

impl TallyExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, followed: Option<Followed>) -> Self {
        Self { input, followed, facts: Arc::default() }
    }

    pub fn followed(&self) -> Option<&Followed> {
        self.followed.as_ref()
    }

    /// What a plan let through of the source, where it counts that.
    pub(crate) fn in_plan(plan: &dyn ExecutionPlan) -> Option<PartitionFacts> {
        if let Some(tally) = (plan as &dyn std::any::Any).downcast_ref::<Self>() {
            return Some(tally.facts.lock().unwrap_or_else(PoisonError::into_inner).clone());
        }
        plan.children().into_iter().find_map(|child| Self::in_plan(child.as_ref()))
    }
}

impl DisplayAs for TallyExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TallyExec: rows of the source")
    }
}

impl ExecutionPlan for TallyExec {
    fn name(&self) -> &str {
        "TallyExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.followed.clone()))),
            _ => internal_err!("TallyExec has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let spec = match &self.followed {
            None => ProbeSpec::default(),
            Some(followed) => ProbeSpec {
                cursor: Some(followed.column.clone()),
                order: followed.order.clone(),
                ..ProbeSpec::default()
            },
        };
        let probe = Probe::new(&spec, &self.input.schema(), Arc::default())?;
        let input = self.input.execute(partition, context)?;
        let facts = Arc::clone(&self.facts);
        let counted = futures::stream::try_unfold((input, probe, facts), |(mut input, mut probe, facts)| async move {
            match input.next().await {
                Some(batch) => Ok(Some((probe.observe(batch?)?, (input, probe, facts)))),
                None => {
                    let seen = probe.finish()?;
                    facts.lock().unwrap_or_else(PoisonError::into_inner).merge(seen)?;
                    Ok(None)
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.input.schema(), counted)))
    }
}
