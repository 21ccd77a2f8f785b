//! Plans our nodes: DataFusion's planner with three more.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use dpone_planner::diff::Diff;
use dpone_planner::sift::Sift;
use dpone_planner::tally::Tally;
use dpone_planner::timeline::Timeline;

use super::{DiffExec, TimelineExec};
use crate::pruning::{compares_floats, without_dynamic_filters};
use crate::sift::SiftExec;
use crate::tally::TallyExec;

/// DataFusion's query planner, which also knows [`Diff`], [`Timeline`], [`Sift`] and [`Tally`].
#[derive(Debug)]
pub struct QueryPlannerWithDiff;

#[async_trait]
impl QueryPlanner for QueryPlannerWithDiff {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let careful = match session.as_any().downcast_ref::<SessionState>() {
            Some(state) if compares_floats(plan)? => Some(without_dynamic_filters(state)),
            _ => None,
        };
        let session = careful.as_ref().map_or(session, |careful| careful as &dyn Session);
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(NodePlanner)])
            .create_physical_plan(plan, session)
            .await
    }
}

struct NodePlanner;

#[async_trait]
impl ExtensionPlanner for NodePlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(tally) = node.as_any().downcast_ref::<Tally>() {
            let [input] = inputs else { return internal_err!("a tally has one input") };
            return Ok(Some(Arc::new(TallyExec::new(Arc::clone(input), tally.followed().cloned()))));
        }
        if let Some(timeline) = node.as_any().downcast_ref::<Timeline>() {
            let [input] = inputs else { return internal_err!("a timeline has one input") };
            let (spec, schema) = (Arc::new(timeline.spec().clone()), timeline.arrow_schema());
            return Ok(Some(Arc::new(TimelineExec::new(Arc::clone(input), spec, schema))));
        }
        if let Some(sift) = node.as_any().downcast_ref::<Sift>() {
            let [input] = inputs else { return internal_err!("a sift has one input") };
            return Ok(Some(Arc::new(SiftExec::new(Arc::clone(input), sift.spec().clone()))));
        }
        let Some(diff) = node.as_any().downcast_ref::<Diff>() else { return Ok(None) };
        let [source, target] = inputs else { return internal_err!("a comparison has two inputs") };
        let spec = Arc::new(diff.spec().clone());
        Ok(Some(Arc::new(DiffExec::new(Arc::clone(source), Arc::clone(target), spec, diff.arrow_schema()))))
    }
}
