//! The execution of [`dpone_planner::sift::Sift`], and the evidence of the rows that were put aside.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{and_not, filter_record_batch, or_kleene, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use dpone_planner::sift::{SiftSpec, without_marks};
use futures::StreamExt;

use crate::{Error, LoadSpec, Result};

/// Rows that are remembered one by one; all are counted.
const MOST_RECORDED: usize = 100_000;

/// One row that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aside {
    partition: usize,
    /// In the partition, from one.
    position: u64,
    key: Vec<(String, String)>,
    column: String,
    reason: String,
}

/// What was put aside.
#[derive(Debug, Clone, Default)]
pub(crate) struct SiftFacts {
    pub(crate) rows: u64,
    recorded: Vec<Aside>,
}

/// Puts rows aside.
#[derive(Debug)]
pub struct SiftExec {
    input: Arc<dyn ExecutionPlan>,
    spec: SiftSpec,
    properties: Arc<PlanProperties>,
    facts: Arc<Mutex<SiftFacts>>,
}

impl SiftExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: SiftSpec) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(without_marks(&input.schema())),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { input, spec, properties: Arc::new(properties), facts: Arc::default() }
    }

    pub fn spec(&self) -> &SiftSpec {
        &self.spec
    }

    /// What a plan put aside, where it does. A plan that reads its source twice puts the same rows aside twice.
    pub(crate) fn in_plan(plan: &dyn ExecutionPlan) -> Option<SiftFacts> {
        if let Some(sift) = (plan as &dyn std::any::Any).downcast_ref::<Self>() {
            return Some(sift.facts.lock().unwrap_or_else(PoisonError::into_inner).clone());
        }
        plan.children().into_iter().filter_map(|child| Self::in_plan(child.as_ref())).max_by_key(|facts| facts.rows)
    }
}

impl DisplayAs for SiftExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.spec.reasons.iter().map(|reason| reason.column.as_str()).collect();
        write!(f, "SiftExec: rows put aside for {}", columns.join(", "))
    }
}

impl ExecutionPlan for SiftExec {
    fn name(&self) -> &str {
        "SiftExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.spec.clone()))),
            _ => internal_err!("SiftExec has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let sieve = Sieve::new(&self.spec, &self.input.schema(), partition)?;
        let input = self.input.execute(partition, context)?;
        let facts = Arc::clone(&self.facts);
        let schema = self.schema();
        let rows = futures::stream::try_unfold((input, sieve, facts), |(mut input, mut sieve, facts)| async move {
            match input.next().await {
                Some(batch) => Ok(Some((sieve.sift(&batch?, &facts)?, (input, sieve, facts)))),
                None => Ok(None),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Works on one partition.
struct Sieve {
    partition: usize,
    /// The mark's index, the column and the code.
    reasons: Vec<(usize, String, String)>,
    key: Vec<(usize, String)>,
    kept: Vec<usize>,
    seen: u64,
}

impl Sieve {
    fn new(spec: &SiftSpec, schema: &SchemaRef, partition: usize) -> Result<Self> {
        let index = |name: &String| {
            schema.index_of(name).map_err(|_| Error::internal(format!("the rows to sift have no column {name:?}")))
        };
        let reasons = spec.reasons.iter().map(|r| Ok((index(&r.mark)?, r.column.clone(), r.code.clone())));
        let reasons = reasons.collect::<Result<Vec<_>>>()?;
        // A key that does not fit is a value that is not shown.
        let told = spec.key.iter().filter(|name| !reasons.iter().any(|(_, column, _)| column == *name));
        let key = told.map(|name| Ok((index(name)?, name.clone()))).collect::<Result<Vec<_>>>()?;
        let kept = schema.fields().iter().enumerate();
        let kept = kept.filter(|(_, field)| !field.name().starts_with(dpone_planner::sift::MARK)).map(|(i, _)| i);
        Ok(Self { partition, reasons, key, kept: kept.collect(), seen: 0 })
    }

    fn sift(&mut self, batch: &RecordBatch, facts: &Mutex<SiftFacts>) -> Result<RecordBatch> {
        let first = self.seen;
        self.seen += batch.num_rows() as u64;
        let mut marked: Option<BooleanArray> = None;
        for (index, _, _) in &self.reasons {
            let mark = mark(batch, *index)?;
            marked = Some(match marked {
                None => mark,
                Some(so_far) => or_kleene(&so_far, &mark)?,
            });
        }
        let rest = batch.project(&self.kept)?;
        let Some(marked) = marked.filter(|marked| marked.true_count() > 0) else { return Ok(rest) };
        self.remember(batch, &marked, first, facts)?;
        let all = BooleanArray::from(vec![true; batch.num_rows()]);
        Ok(filter_record_batch(&rest, &and_not(&all, &marked)?)?)
    }

    fn remember(&self, batch: &RecordBatch, marked: &BooleanArray, first: u64, facts: &Mutex<SiftFacts>) -> Result<()> {
        let options = FormatOptions::default();
        let formatters = self
            .key
            .iter()
            .map(|(index, name)| Ok((name, ArrayFormatter::try_new(batch.column(*index).as_ref(), &options)?)))
            .collect::<Result<Vec<_>>>()?;
        let mut facts = facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.rows += marked.true_count() as u64;
        for row in marked.values().set_indices() {
            for (index, column, reason) in &self.reasons {
                if facts.recorded.len() >= MOST_RECORDED || !mark(batch, *index)?.value(row) {
                    continue;
                }
                facts.recorded.push(Aside {
                    partition: self.partition,
                    position: first + row as u64 + 1,
                    key: formatters.iter().map(|(name, f)| ((*name).clone(), f.value(row).to_string())).collect(),
                    column: column.clone(),
                    reason: reason.clone(),
                });
            }
        }
        Ok(())
    }
}

/// A mark without NULLs: what is not known to be wrong is not put aside.
fn mark(batch: &RecordBatch, index: usize) -> Result<BooleanArray> {
    let mark = batch.column(index).as_any().downcast_ref::<BooleanArray>();
    let mark = mark.ok_or_else(|| Error::internal("a mark is not true or false"))?;
    Ok(if mark.null_count() > 0 { prep_null_mask_filter(mark) } else { mark.clone() })
}

/// Writes what was put aside beside the ledger: one line a row and reason. Returns the file.
pub(crate) fn write_evidence(ledger: &Path, load: &LoadSpec, facts: &SiftFacts) -> Result<PathBuf> {
    use std::fmt::Write;
    let mut text = String::new();
    let mut rows = facts.recorded.clone();
    rows.sort_by(|a, b| (a.partition, a.position, &a.column).cmp(&(b.partition, b.position, &b.column)));
    for row in &rows {
        let key: serde_json::Map<_, _> = row.key.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        let line = serde_json::json!({
            "run_id": load.run_id,
            "load_id": load.load_id,
            "pipeline": load.pipeline,
            "table": load.target.to_string(),
            "partition": row.partition,
            "position": row.position,
            "key": key,
            "column": row.column,
            "reason": row.reason,
        });
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    }
    let folder = ledger.join("quarantine");
    let path = folder.join(format!("quarantine_{}.ndjson", load.load_id));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| Error::configuration(format!("{} cannot be written: {error}", path.display())))?;
    Ok(path)
}
