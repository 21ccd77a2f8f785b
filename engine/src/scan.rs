//! The one execution node that reads partitions of a source.
//!
//! A connector implements [`Scan`]: a prepared read that can be described in JSON. [`ScanExec`] makes it a DataFusion
//! node, so that every connector's scan runs, prints and serialises in the same way. Connectors that read files use
//! DataFusion's own nodes instead, which serialise already.

use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;

use crate::Result;

/// A prepared read of one table or query: schema, partitions, and a way to run each.
pub trait Scan: Debug + Send + Sync {
    /// The connection's name: another process finds the source by it.
    fn connection(&self) -> &str;

    /// Everything another process needs to run the same partitions, apart from the connection. No secrets.
    fn spec(&self) -> serde_json::Value;

    fn schema(&self) -> SchemaRef;

    fn partitions(&self) -> usize;

    /// What a partition runs, such as its pushed-down SQL, for `dpone plan`.
    fn describe(&self, partition: usize) -> String;

    fn rows_estimate(&self) -> Option<u64>;

    /// Starts reading one partition. Dropping the stream cancels the read at the server. `batch_rows` bounds the rows
    /// of a batch; the scan also bounds its bytes.
    fn read(&self, partition: usize, batch_rows: usize) -> Result<SendableRecordBatchStream>;
}

/// Executes a [`Scan`].
#[derive(Debug)]
pub struct ScanExec {
    scan: Arc<dyn Scan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanExec {
    pub fn new(scan: Arc<dyn Scan>) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(scan.schema()),
            Partitioning::UnknownPartitioning(scan.partitions()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { scan, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    pub fn scan(&self) -> &Arc<dyn Scan> {
        &self.scan
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec: connection={}, partitions={}", self.scan.connection(), self.scan.partitions())
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("ScanExec has no children");
        }
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = self.scan.read(partition, context.session_config().batch_size())?;
        let counted = batches.inspect(move |batch| {
            if let Ok(batch) = batch {
                metrics.record_output(batch.num_rows());
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.scan.schema(), counted)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &datafusion::physical_plan::StatisticsArgs,
    ) -> DataFusionResult<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.scan.schema());
        if let (Some(rows), None) = (self.scan.rows_estimate(), args.partition()) {
            statistics.num_rows = Precision::Inexact(rows as usize);
        }
        Ok(Arc::new(statistics))
    }
}
