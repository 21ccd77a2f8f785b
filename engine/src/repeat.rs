//! The one execution node that may be read twice.
//!
//! A nested loop join that runs out of memory spills, and reads its left side from the start. Nodes that hand out their
//! input once, such as a repartitioning, cannot be executed again: they panic. [`RepeatExec`] stands between the two and
//! gives every execution after the first a fresh copy of what is below it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result as DataFusionResult, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{replace_children_if_necessary, reset_plan_states};
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, StatisticsArgs,
};

/// Gives each execution of its one partition a plan that was not executed yet.
#[derive(Debug)]
pub struct RepeatExec {
    input: Arc<dyn ExecutionPlan>,
    executed: AtomicBool,
}

impl RepeatExec {
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input, executed: AtomicBool::new(false) }
    }
}

/// The plan with a [`RepeatExec`] wherever a side of a join may be read twice and could not be.
pub(crate) fn repeatable(plan: Arc<dyn ExecutionPlan>) -> crate::Result<Arc<dyn ExecutionPlan>> {
    let rewritten = plan.transform_up(|node| {
        let is_join = (node.as_ref() as &dyn std::any::Any).is::<NestedLoopJoinExec>();
        let children = node.children();
        let [left, right] = children.as_slice() else { return Ok(Transformed::no(node)) };
        if !is_join || left.output_partitioning().partition_count() != 1 || !repartitions(left)? {
            return Ok(Transformed::no(node));
        }
        let left: Arc<dyn ExecutionPlan> = Arc::new(RepeatExec::new(Arc::clone(left)));
        let right = Arc::clone(right);
        Ok(Transformed::yes(replace_children_if_necessary(Arc::clone(&node), vec![left, right])?))
    })?;
    Ok(rewritten.data)
}

fn repartitions(plan: &Arc<dyn ExecutionPlan>) -> DataFusionResult<bool> {
    plan.exists(|node| Ok((node.as_ref() as &dyn std::any::Any).is::<RepartitionExec>()))
}

impl DisplayAs for RepeatExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepeatExec")
    }
}

impl ExecutionPlan for RepeatExec {
    fn name(&self) -> &str {
        "RepeatExec"
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
            (Some(input), true) => Ok(Arc::new(Self::new(input))),
            _ => internal_err!("RepeatExec has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        if self.executed.swap(true, Ordering::SeqCst) {
            return reset_plan_states(Arc::clone(&self.input))?.execute(partition, context);
        }
        self.input.execute(partition, context)
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> DataFusionResult<Arc<Statistics>> {
        match inputs {
            [input] => Ok(Arc::clone(input)),
            _ => internal_err!("RepeatExec has one child"),
        }
    }
}
