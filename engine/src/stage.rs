//! The one execution node that stages: it runs each partition of a load's plan into the sink.
//!
//! On the way it observes what only the stream shows: how many rows came, the greatest cursor value and the rows at it,
//! NULLs where none may be. It is a DataFusion node so that it prints, serialises, and can run in another process; its
//! output is one row a partition, the partition's report in JSON.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;

use crate::failpoint;
use crate::probe::{PartitionFacts, Probe, ProbeSpec};
use crate::{Error, LoadSpec, Result, Sink, StagedPartition};

/// What a staging node needs besides its input. Serialisable: no secrets, no handles.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StageSpec {
    /// The sink's connection: another process finds the sink by it.
    pub connection: String,
    pub load: LoadSpec,
    pub probe: ProbeSpec,
}

/// What staging one partition produced and showed.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PartitionReport {
    pub staged: StagedPartition,
    pub facts: PartitionFacts,
}

/// Counters that move while partitions are staged in this process.
#[derive(Debug, Default)]
pub struct StageProgress {
    pub rows: AtomicU64,
    pub bytes: AtomicU64,
    pub partitions_done: AtomicUsize,
}

/// Stages its input, partition by partition.
#[derive(Debug)]
pub struct StageExec {
    input: Arc<dyn ExecutionPlan>,
    sink: Arc<dyn Sink>,
    spec: Arc<StageSpec>,
    progress: Arc<StageProgress>,
    /// Rows at the watermark that are still to be left out: shared, because they may come in any partition.
    boundary: Arc<Mutex<HashMap<u128, u64>>>,
    properties: Arc<PlanProperties>,
}

impl StageExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, sink: Arc<dyn Sink>, spec: StageSpec) -> Result<Self> {
        let boundary = spec.probe.boundary_counts()?;
        let partitions = input.output_partitioning().partition_count();
        Ok(Self {
            properties: Arc::new(PlanProperties::new(
                EquivalenceProperties::new(report_schema()),
                Partitioning::UnknownPartitioning(partitions),
                EmissionType::Final,
                Boundedness::Bounded,
            )),
            input,
            sink,
            spec: Arc::new(spec),
            progress: Arc::default(),
            boundary: Arc::new(Mutex::new(boundary)),
        })
    }

    pub fn spec(&self) -> &StageSpec {
        &self.spec
    }

    pub fn progress(&self) -> &Arc<StageProgress> {
        &self.progress
    }

    pub fn partitions(&self) -> usize {
        self.properties.partitioning.partition_count()
    }

    /// Reads the report that a partition's stream gave.
    pub fn read_report(batch: &RecordBatch) -> Result<PartitionReport> {
        let reports = batch.column(0).as_any().downcast_ref::<StringArray>();
        let text = reports.filter(|r| r.len() == 1).map(|r| r.value(0));
        text.and_then(|t| serde_json::from_str(t).ok())
            .ok_or_else(|| Error::internal("a staging node gave something that is not a report"))
    }
}

fn report_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("report", DataType::Utf8, false)]))
}

async fn stage_partition(
    rows: SendableRecordBatchStream,
    sink: Arc<dyn Sink>,
    spec: Arc<StageSpec>,
    progress: Arc<StageProgress>,
    boundary: Arc<Mutex<HashMap<u128, u64>>>,
    partition: usize,
) -> Result<RecordBatch> {
    failpoint::reach("stage.partition.started").await?;
    let schema = Arc::clone(&spec.load.staged_schema);
    let probe = Arc::new(Mutex::new(Probe::new(&spec.probe, &schema, boundary)?));
    let observing = Arc::clone(&probe);
    let counted = Arc::clone(&progress);
    let observed = rows.then(move |batch| {
        let observing = Arc::clone(&observing);
        let counted = Arc::clone(&counted);
        async move {
            failpoint::reach("stage.partition.batch").await?;
            let batch = observing.lock().unwrap_or_else(PoisonError::into_inner).observe(batch?)?;
            counted.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            counted.bytes.fetch_add(bytes_of(&batch), Ordering::Relaxed);
            Ok(batch)
        }
    });
    let stream = Box::pin(RecordBatchStreamAdapter::new(schema, observed));
    let staged = sink.stage(&spec.load, partition, stream).await?;
    let facts = probe.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    if facts.passed != staged.rows {
        return Err(Error::internal(format!(
            "partition {partition} gave {} rows, but the sink staged {}",
            facts.passed, staged.rows
        )));
    }
    progress.partitions_done.fetch_add(1, Ordering::Relaxed);
    failpoint::reach("stage.partition.done").await?;
    let report = serde_json::to_string(&PartitionReport { staged, facts })
        .map_err(|e| Error::internal(format!("a partition's report cannot be written: {e}")))?;
    Ok(RecordBatch::try_new(report_schema(), vec![Arc::new(StringArray::from(vec![report]))])?)
}

impl DisplayAs for StageExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StageExec: connection={}, target={}, mode={}, partitions={}",
            self.spec.connection,
            self.spec.load.target,
            self.spec.load.write_mode.name(),
            self.partitions()
        )
    }
}

impl ExecutionPlan for StageExec {
    fn name(&self) -> &str {
        "StageExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
            (Some(input), true) => Ok(Arc::new(Self::new(input, Arc::clone(&self.sink), self.spec.as_ref().clone())?)),
            _ => internal_err!("StageExec has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let staged = stage_partition(
            rows,
            Arc::clone(&self.sink),
            Arc::clone(&self.spec),
            Arc::clone(&self.progress),
            Arc::clone(&self.boundary),
            partition,
        );
        let once = futures::stream::once(async move { staged.await.map_err(Into::into) });
        Ok(Box::pin(RecordBatchStreamAdapter::new(report_schema(), once)))
    }
}

/// Bytes of the rows themselves: a batch may be a slice of arrays that others are slices of.
fn bytes_of(batch: &RecordBatch) -> u64 {
    let bytes = batch.columns().iter().map(|column| match column.data_type() {
        // Of texts only what a view shows, wherever it lies.
        DataType::Utf8View => shown(column.as_string_view().lengths()),
        DataType::BinaryView => shown(column.as_binary_view().lengths()),
        _ => column.to_data().get_slice_memory_size().unwrap_or_default() as u64,
    });
    bytes.sum()
}

/// As texts with their offsets.
fn shown(lengths: impl ExactSizeIterator<Item = u32>) -> u64 {
    let offsets = (lengths.len() * size_of::<i32>()) as u64;
    offsets + lengths.map(u64::from).sum::<u64>()
}
