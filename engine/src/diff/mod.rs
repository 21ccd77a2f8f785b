//! The execution of a comparison: [`dpone_planner::diff::Diff`] as a physical node.
//!
//! Two methods give the same rows. [`known`] holds the target's keys and digests in memory and lets the source stream past;
//! [`partitioned`] splits both sides into parts on disk first, and parts that do not fit again. What only the stream shows is counted on the way: [`DiffFacts`].

mod changes;
mod compact;
mod known;
mod packed;
mod partitioned;
mod planner;
mod probe;
mod spill;
mod timeline;

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    Partitioning, PlanProperties,
};
use dpone_planner::diff::{DiffSpec, Method};
use tokio::sync::{Notify, OnceCell};

pub use planner::QueryPlannerWithDiff;
pub use timeline::TimelineExec;

use changes::Columns;
use known::Known;
use partitioned::Parts;

/// What a comparison saw. Partitions add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffFacts {
    pub source_rows: u64,
    pub target_rows: u64,
    /// Rows of the target that count as deleted already.
    pub gone: u64,
    pub new: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// Keys that the source has no more, whether or not rows are given for them.
    pub missing: u64,
    /// Source rows that were left out for a NULL in the key.
    pub quarantined: u64,
    /// NULLs in key columns: the column, how many, and the position of the first in its partition, from one.
    pub null_keys: Vec<(String, u64, u64)>,
    /// Source rows whose key a row before them had and the target has too. Those of new keys are found where they are
    /// staged.
    pub duplicate_source_keys: u64,
    pub duplicate_target_keys: u64,
}

impl DiffFacts {
    fn add(&mut self, other: Self) {
        self.source_rows += other.source_rows;
        self.target_rows += other.target_rows;
        self.gone += other.gone;
        self.new += other.new;
        self.changed += other.changed;
        self.unchanged += other.unchanged;
        self.missing += other.missing;
        self.quarantined += other.quarantined;
        self.duplicate_source_keys += other.duplicate_source_keys;
        self.duplicate_target_keys += other.duplicate_target_keys;
        for (column, count, first) in other.null_keys {
            match self.null_keys.iter_mut().find(|(c, _, _)| *c == column) {
                Some(mine) => mine.1 += count,
                None => self.null_keys.push((column, count, first)),
            }
        }
    }
}

/// What the partitions of one execution share.
#[derive(Debug, Default)]
struct Shared {
    known: OnceCell<Arc<Known>>,
    finished: AtomicUsize,
    /// The next partition of the target to be split, and the next part to be compared.
    next_target: AtomicUsize,
    next_part: AtomicUsize,
    parts: tokio::sync::Mutex<Parts>,
    /// Parts that were split again.
    splits: AtomicUsize,
    met: AtomicUsize,
    all_met: Notify,
    /// A worker could not split its rows.
    failed: AtomicBool,
    facts: Mutex<DiffFacts>,
    /// The target's keys did not fit in memory.
    outgrown: AtomicBool,
}

/// Compares its first input, the source, with its second, the target.
#[derive(Debug)]
pub struct DiffExec {
    source: Arc<dyn ExecutionPlan>,
    target: Arc<dyn ExecutionPlan>,
    spec: Arc<DiffSpec>,
    schema: SchemaRef,
    shared: Arc<Shared>,
    properties: Arc<PlanProperties>,
}

impl DiffExec {
    pub fn new(
        source: Arc<dyn ExecutionPlan>,
        target: Arc<dyn ExecutionPlan>,
        spec: Arc<DiffSpec>,
        schema: SchemaRef,
    ) -> Self {
        let partitions = source.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Both,
            Boundedness::Bounded,
        ));
        Self { source, target, spec, schema, shared: Arc::default(), properties }
    }

    pub fn spec(&self) -> &DiffSpec {
        &self.spec
    }

    /// What has been seen so far; all of it once every partition has ended.
    pub fn facts(&self) -> DiffFacts {
        self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many parts did not fit in memory and were split again.
    pub fn splits(&self) -> usize {
        self.shared.splits.load(Ordering::Relaxed)
    }

    /// Whether the execution failed because the target's keys did not fit in memory.
    pub fn outgrown(&self) -> bool {
        self.shared.outgrown.load(Ordering::Relaxed)
    }
}

/// The comparisons in a plan.
pub(crate) fn in_plan(plan: &dyn ExecutionPlan) -> Vec<&DiffExec> {
    let mut found: Vec<&DiffExec> = (plan as &dyn std::any::Any).downcast_ref::<DiffExec>().into_iter().collect();
    for child in plan.children() {
        found.extend(in_plan(child.as_ref()));
    }
    found
}

impl DisplayAs for DiffExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiffExec: {}", self.spec)
    }
}

impl ExecutionPlan for DiffExec {
    fn name(&self) -> &str {
        "DiffExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.source, &self.target]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        match self.spec.method {
            // The target is read once, by whichever partition comes first.
            Method::Hash => InputDistributionRequirements::new(vec![
                Distribution::UnspecifiedDistribution,
                Distribution::SinglePartition,
            ]),
            Method::Partitioned { .. } => {
                InputDistributionRequirements::new(vec![Distribution::UnspecifiedDistribution; 2])
            }
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        match <[Arc<dyn ExecutionPlan>; 2]>::try_from(children) {
            Ok([source, target]) => {
                Ok(Arc::new(Self::new(source, target, Arc::clone(&self.spec), Arc::clone(&self.schema))))
            }
            Err(_) => internal_err!("DiffExec has two children"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let out = builder.tx();
        let source = self.source.execute(partition, Arc::clone(&context))?;
        let columns = Columns::new(&self.spec, &self.schema, &self.source.schema(), &self.target.schema())?;
        let shared = Arc::clone(&self.shared);
        let partitions = self.properties.partitioning.partition_count();
        let (target, method) = (Arc::clone(&self.target), self.spec.method);
        builder.spawn(async move {
            let run = probe::Probing { columns, shared, partitions, out };
            match method {
                Method::Hash => run.partition(source, target, context).await,
                Method::Partitioned { parts } => run.worker(source, target, parts, context).await,
            }
        });
        Ok(builder.build())
    }
}

impl Shared {
    /// Waits until all workers have come here.
    async fn meet(&self, workers: usize) {
        let met = self.all_met.notified();
        tokio::pin!(met);
        // Registered before counting, so that the last one's call is not missed.
        met.as_mut().enable();
        if self.met.fetch_add(1, Ordering::AcqRel) + 1 == workers {
            self.all_met.notify_waiters();
        } else {
            met.await;
        }
    }

    fn add(&self, facts: DiffFacts) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).add(facts);
    }
}

#[cfg(test)]
mod tests;
