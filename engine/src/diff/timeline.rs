//! The execution of [`dpone_planner::timeline::Timeline`]: each worker has all rows of its keys. They are held in memory where
//! they fit; otherwise they are split by key into parts on disk, and each part is laid out by itself.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Int8Type, SchemaRef, TimestampMicrosecondType};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DataFusionResult, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    Partitioning, PlanProperties,
};
use dpone_planner::diff::KEY_HASH;
use dpone_planner::timeline::{IN_TARGET, ORIGIN, READ, TimelineSpec};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use super::changes::{fixed, number};
use super::compact::compacted;
use super::spill::{Fan, Spill, Spilled, buffer};
use crate::Error;

/// Into how many parts rows are split that do not fit.
const PARTS: u16 = 32;

/// Lays rows into timelines.
#[derive(Debug)]
pub struct TimelineExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<TimelineSpec>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl TimelineExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<TimelineSpec>, schema: SchemaRef) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { input, spec, schema, properties }
    }

    pub fn spec(&self) -> &TimelineSpec {
        &self.spec
    }
}

impl DisplayAs for TimelineExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimelineExec: {}", self.spec)
    }
}

impl ExecutionPlan for TimelineExec {
    fn name(&self) -> &str {
        "TimelineExec"
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

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let by_key = match self.input.schema().index_of(KEY_HASH) {
            Ok(index) => Distribution::KeyPartitioned(vec![Arc::new(Column::new(KEY_HASH, index))]),
            Err(_) => Distribution::SinglePartition,
        };
        InputDistributionRequirements::new(vec![by_key])
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, Arc::clone(&self.spec), Arc::clone(&self.schema)))),
            _ => internal_err!("TimelineExec has one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let worker = Worker {
            columns: Columns::new(&self.spec, &self.input.schema())?,
            input: self.input.schema(),
            schema: Arc::clone(&self.schema),
            limit: buffer(&context, self.input.output_partitioning().partition_count()),
            out: builder.tx(),
            context: Arc::clone(&context),
        };
        let rows = self.input.execute(partition, context)?;
        builder.spawn(async move { worker.run(rows).await });
        Ok(builder.build())
    }
}

/// Where the columns are in the input.
#[derive(Debug, Clone, Copy)]
struct Columns {
    key: usize,
    hash: usize,
    from: usize,
    to: usize,
    origin: usize,
}

impl Columns {
    fn new(spec: &TimelineSpec, input: &SchemaRef) -> DataFusionResult<Self> {
        Ok(Self {
            key: input.index_of(KEY_HASH)?,
            hash: input.index_of(&spec.hash)?,
            from: input.index_of(&spec.from)?,
            to: input.index_of(&spec.to)?,
            origin: input.index_of(ORIGIN)?,
        })
    }
}

/// One partition at work.
struct Worker {
    columns: Columns,
    input: SchemaRef,
    schema: SchemaRef,
    /// Bytes that wait while rows are split.
    limit: usize,
    out: Sender<DataFusionResult<RecordBatch>>,
    context: Arc<TaskContext>,
}

/// Rows of keys that belong together.
enum Rows {
    /// They fit, and the reservation holds their memory.
    Held(Vec<RecordBatch>, MemoryReservation),
    Split(Arc<Spilled>, u8),
}

/// Bytes a row besides its own, while rows are sorted and laid out.
const ROW_OVERHEAD: usize = size_of::<Entry>() + size_of::<i64>() + size_of::<u32>() + 1;

/// More than this is split whatever the limit: a batch of text ends at 2 GiB.
const MOST_HELD: usize = 2 << 30;

impl Worker {
    async fn run(&self, mut rows: SendableRecordBatchStream) -> DataFusionResult<()> {
        let reservation = MemoryConsumer::new("TimelineExec").register(self.context.memory_pool());
        let (mut held, mut spill) = (Vec::new(), None);
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            if let Some(spill) = &mut spill {
                self.put_aside(spill, &batch)?;
            } else if let Err(batch) = self.hold(&mut held, batch, &reservation)? {
                spill = Some(self.split(std::mem::take(&mut held), 0)?);
                reservation.free();
                if let Some(spill) = &mut spill {
                    self.put_aside(spill, &batch)?;
                }
            }
        }
        let all = match spill {
            Some(spill) => Rows::Split(Arc::new(spill.finish()?), 0),
            None => Rows::Held(held, reservation),
        };
        let mut left = vec![(all, None)];
        while let Some((rows, part)) = left.pop() {
            match (rows, part) {
                (Rows::Held(held, _reservation), _) => {
                    if !self.lay_out(&held).await? {
                        return Ok(());
                    }
                }
                (Rows::Split(file, level), None) => {
                    left.extend((0..usize::from(PARTS)).map(|p| (Rows::Split(Arc::clone(&file), level), Some(p))));
                }
                (Rows::Split(file, level), Some(part)) => left.push((self.part(&file, part, level).await?, None)),
            }
        }
        Ok(())
    }

    /// Keeps a batch in memory, or gives it back where there is no room.
    fn hold(
        &self,
        held: &mut Vec<RecordBatch>,
        batch: RecordBatch,
        reservation: &MemoryReservation,
    ) -> DataFusionResult<Result<(), RecordBatch>> {
        let (batch, bytes) = compacted(batch)?;
        // The rows of a part are joined into one batch before they are sorted.
        let needed = 2 * bytes + batch.num_rows() * ROW_OVERHEAD;
        if reservation.size() + needed > MOST_HELD || reservation.try_grow(needed).is_err() {
            return Ok(Err(batch));
        }
        held.push(batch);
        Ok(Ok(()))
    }

    fn split(&self, held: Vec<RecordBatch>, level: u8) -> DataFusionResult<Spill> {
        let mut spill = Spill::new(&self.input, Fan { parts: PARTS, level }, self.limit, &self.context)?;
        for batch in held {
            self.put_aside(&mut spill, &batch)?;
        }
        Ok(spill)
    }

    fn put_aside(&self, spill: &mut Spill, batch: &RecordBatch) -> DataFusionResult<()> {
        spill.write(batch, fixed(batch.column(self.columns.key))?)
    }

    /// The rows of a part, in memory or in parts of their own.
    async fn part(&self, file: &Arc<Spilled>, part: usize, level: u8) -> DataFusionResult<Rows> {
        let size = file.size(part);
        let reservation = MemoryConsumer::new("TimelineExec part").register(self.context.memory_pool());
        let mut held = Vec::new();
        let mut fits = true;
        for batch in file.read(part)? {
            if self.hold(&mut held, batch?, &reservation)?.is_err() {
                fits = false;
                break;
            }
            tokio::task::yield_now().await;
        }
        if fits {
            return Ok(Rows::Held(held, reservation));
        }
        drop(held);
        reservation.free();
        if size.is_one_key() || level + 1 >= Fan::LEVELS {
            return Err(Error::configuration(format!(
                "the versions of one key do not fit in the memory limit: {} rows, {} bytes",
                size.rows, size.bytes
            ))
            .with_hint("raise --memory-limit, or check the key: has one thing really so many versions?")
            .into());
        }
        let mut spill = self.split(Vec::new(), level + 1)?;
        for batch in file.read(part)? {
            self.put_aside(&mut spill, &batch?)?;
            tokio::task::yield_now().await;
        }
        Ok(Rows::Split(Arc::new(spill.finish()?), level + 1))
    }

    /// Gives what is to be written of these rows. False when nobody wants more.
    async fn lay_out(&self, held: &[RecordBatch]) -> DataFusionResult<bool> {
        let rows = concat_batches(&self.input, held)?;
        if rows.num_rows() == 0 {
            return Ok(true);
        }
        let (chosen, ends) = Timelines::new(&rows, self.columns)?.written();
        let size = self.context.session_config().batch_size();
        for (chosen, ends) in chosen.chunks(size).zip(ends.chunks(size)) {
            let written = self.output(&rows, chosen, ends)?;
            if self.out.send(Ok(written)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn output(&self, rows: &RecordBatch, chosen: &[u32], ends: &[Option<i64>]) -> DataFusionResult<RecordBatch> {
        let taken = take_record_batch(rows, &UInt32Array::from(chosen.to_vec()))?;
        let zone = match self.input.field(self.columns.to).data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let ends: ArrayRef = Arc::new(TimestampMicrosecondArray::from(ends.to_vec()).with_timezone_opt(zone));
        let columns = taken.columns().iter().enumerate().filter(|(i, _)| *i != self.columns.key);
        let columns = columns.map(|(i, column)| Arc::clone(if i == self.columns.to { &ends } else { column }));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())?)
    }
}

/// A row in the order of its timeline. NULL times come first, and at one time the version that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: u128,
    from: Option<i64>,
    origin: i8,
    row: u32,
}

/// The timelines of the keys of some rows.
struct Timelines<'a> {
    rows: &'a RecordBatch,
    entries: Vec<Entry>,
    to: &'a TimestampMicrosecondArray,
    hash: &'a arrow::array::StringArray,
}

impl<'a> Timelines<'a> {
    fn new(rows: &'a RecordBatch, columns: Columns) -> DataFusionResult<Self> {
        let wrong = |what: &str| Error::internal(format!("the {what} of a timeline has another type"));
        let time = |at: usize, what: &str| {
            rows.column(at).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| wrong(what))
        };
        let (from, to) = (time(columns.from, "beginning")?, time(columns.to, "end")?);
        let origin = rows.column(columns.origin).as_primitive_opt::<Int8Type>().ok_or_else(|| wrong("origin"))?;
        let hash = rows.column(columns.hash).as_string_opt::<i32>().ok_or_else(|| wrong("hash"))?;
        let keys = fixed(rows.column(columns.key))?;
        let entry = |row: usize| Entry {
            key: number(keys.value(row)),
            from: from.is_valid(row).then(|| from.value(row)),
            origin: origin.value(row),
            row: row as u32,
        };
        let mut entries: Vec<Entry> = (0..rows.num_rows()).map(entry).collect();
        entries.sort_unstable();
        Ok(Self { rows, entries, to, hash })
    }

    fn hash(&self, entry: &Entry) -> Option<&str> {
        let row = entry.row as usize;
        self.hash.is_valid(row).then(|| self.hash.value(row))
    }

    fn to(&self, entry: &Entry) -> Option<i64> {
        let row = entry.row as usize;
        self.to.is_valid(row).then(|| self.to.value(row))
    }

    fn is_same_row(&self, one: &Entry, other: &Entry) -> bool {
        let cell = |column: &ArrayRef, entry: &Entry| column.slice(entry.row as usize, 1);
        one.row == other.row || self.rows.columns().iter().all(|c| *cell(c, one) == *cell(c, other))
    }

    /// The rows to write, and where each ends.
    fn written(&self) -> (Vec<u32>, Vec<Option<i64>>) {
        let (mut chosen, mut ends) = (Vec::new(), Vec::new());
        for versions in self.entries.chunk_by(|a, b| a.key == b.key) {
            // Of a key without a read row nothing changes.
            if versions.iter().any(|entry| entry.origin == READ) {
                self.of_key(versions, &mut chosen, &mut ends);
            }
        }
        (chosen, ends)
    }

    fn of_key(&self, versions: &[Entry], chosen: &mut Vec<u32>, ends: &mut Vec<Option<i64>>) {
        let kept = self.kept(versions);
        // The latest end of the versions before, which reaches past a row that falls into one of them.
        let mut enclosing: Option<i64> = None;
        for (at, entry) in kept.iter().enumerate() {
            let next = kept.get(at + 1).and_then(|next| next.from);
            let to = self.to(entry);
            if entry.origin == READ {
                let falls_into =
                    enclosing.filter(|end| entry.from.is_some_and(|from| *end > from) && next.is_none_or(|n| *end < n));
                chosen.push(entry.row);
                ends.push(falls_into.or(next));
            } else if next.is_some_and(|n| entry.from.is_some_and(|from| n > from) && to.is_none_or(|to| n < to)) {
                chosen.push(entry.row);
                ends.push(next);
            }
            enclosing = enclosing.max(to);
        }
    }

    /// The versions that are there, and the read rows that say something else than the version before them.
    fn kept(&self, versions: &[Entry]) -> Vec<Entry> {
        let mut kept = Vec::with_capacity(versions.len());
        let mut before: Option<&Entry> = None;
        for at_once in versions.chunk_by(|a, b| (a.from, a.origin) == (b.from, b.origin)) {
            // Which of them is right cannot be known: all go on, and fail as what they are, rows with one key and time.
            let contradicting = at_once.iter().any(|entry| !self.is_same_row(&at_once[0], entry));
            for entry in at_once {
                let same = before.is_some_and(|b| self.hash(b).is_some() && self.hash(b) == self.hash(entry));
                let after_a_gap =
                    before.and_then(|b| self.to(b)).is_some_and(|to| entry.from.is_some_and(|from| to < from));
                if entry.origin == IN_TARGET || !same || after_a_gap || contradicting {
                    kept.push(*entry);
                }
                before = Some(entry);
            }
        }
        kept
    }
}
