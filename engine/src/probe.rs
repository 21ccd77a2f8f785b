//! What a stream of staged rows shows as it passes: counts, NULLs where none may be, the greatest cursor value and the
//! rows at it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, BooleanArray, Int8Array, RecordBatch, Scalar};
use arrow::compute::kernels::cmp;
use arrow::compute::{filter_record_batch, is_not_null, is_null};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use dpone_planner::order::ValueOrder;
use dpone_planner::plan::{INSERT_OR_UPDATE, OPERATION_COLUMN, PartitionLimit, STAMPS};
use dpone_planner::state::{Boundary, Watermark};

use crate::partitions::PartitionProbe;
use crate::{Error, Result};

/// What to look for.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ProbeSpec {
    /// A NULL in one of these fails the run.
    pub not_null: Vec<String>,
    /// Rows with a NULL in one of these are left out and counted.
    pub quarantine_null: Vec<String>,
    /// The cursor column, if there is one.
    pub cursor: Option<String>,
    /// How the cursor's values sort.
    #[serde(default)]
    pub order: ValueOrder,
    /// The rows to leave out: those that an earlier run loaded with the cursor at this watermark.
    pub loaded: Option<(Watermark, Boundary)>,
    /// Keep the hashes of the rows at the new greatest cursor value.
    pub keep_boundary: bool,
    /// Count the different values of these columns, up to one more than may be.
    pub partitions: Option<PartitionLimit>,
    /// Rows that delete are as whole as others, and are checked like them.
    #[serde(default)]
    pub whole_deletes: bool,
    /// Count rows whose second column is not NULL and not after the first.
    #[serde(default)]
    pub interval: Option<(String, String)>,
}

impl ProbeSpec {
    /// The boundary as a multiset of hashes.
    pub fn boundary_counts(&self) -> Result<HashMap<u128, u64>> {
        let Some((_, boundary)) = &self.loaded else { return Ok(HashMap::new()) };
        boundary
            .rows
            .iter()
            .map(|(hash, count)| {
                u128::from_str_radix(hash, 16).map(|h| (h, *count)).map_err(|_| {
                    Error::configuration("the stored boundary rows are unreadable").with_hint(
                        "look at the state with `dpone state inspect`, and start over with `dpone state reset`",
                    )
                })
            })
            .collect()
    }
}

/// What one partition showed. Partitions merge by [`PartitionFacts::merge`].
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PartitionFacts {
    /// Rows that came from the plan.
    pub extracted: u64,
    /// Rows that went on to staging.
    pub passed: u64,
    /// Of those, the rows that are whole: neither deletions nor patches.
    #[serde(default)]
    pub whole: u64,
    pub quarantined: u64,
    /// Rows at the watermark that an earlier run had loaded.
    pub skipped: u64,
    /// NULLs found by column, with the position (in this partition, from one) of the first.
    pub nulls: Vec<(String, u64, u64)>,
    pub cursor: Option<Watermark>,
    /// Hashes of the rows at `cursor`, with counts.
    pub boundary: Vec<(String, u64)>,
    pub boundary_overflow: bool,
    /// The partitions of the rows, each as a text, in order; at most one more than may be.
    #[serde(default)]
    pub partitions: Vec<String>,
    /// Rows that would end before they begin.
    #[serde(default)]
    pub reversed: u64,
}

impl PartitionFacts {
    /// Adds another partition's facts.
    pub fn merge(&mut self, other: PartitionFacts) -> Result<()> {
        self.extracted += other.extracted;
        self.passed += other.passed;
        self.whole += other.whole;
        self.quarantined += other.quarantined;
        self.skipped += other.skipped;
        for (column, count, first) in other.nulls {
            match self.nulls.iter_mut().find(|(c, _, _)| *c == column) {
                Some(mine) => mine.1 += count,
                None => self.nulls.push((column, count, first)),
            }
        }
        self.reversed += other.reversed;
        self.partitions.extend(other.partitions);
        self.partitions.sort();
        self.partitions.dedup();
        let Some(theirs) = other.cursor else { return Ok(()) };
        let order = match &self.cursor {
            None => Ordering::Less,
            Some(mine) => mine.compare(&theirs)?,
        };
        match order {
            Ordering::Greater => {}
            Ordering::Less => {
                self.cursor = Some(theirs);
                self.boundary = other.boundary;
                self.boundary_overflow = other.boundary_overflow;
            }
            Ordering::Equal => {
                self.boundary = add_counts(std::mem::take(&mut self.boundary), other.boundary);
                self.boundary_overflow |= other.boundary_overflow;
            }
        }
        Ok(())
    }
}

/// The sum of two multisets, in a stable order.
pub(crate) fn add_counts(a: Vec<(String, u64)>, b: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let mut sum: std::collections::BTreeMap<String, u64> = a.into_iter().collect();
    for (hash, count) in b {
        *sum.entry(hash).or_default() += count;
    }
    sum.into_iter().collect()
}

fn compare(a: &ScalarValue, b: &ScalarValue) -> Result<Ordering> {
    a.partial_cmp(b).ok_or_else(|| {
        Error::conflict(format!(
            "cursor values of the types {} and {} cannot be compared",
            a.data_type(),
            b.data_type()
        ))
    })
}

/// Observes one partition's batches.
pub(crate) struct Probe {
    schema: SchemaRef,
    not_null: Vec<usize>,
    quarantine: Vec<usize>,
    cursor: Option<CursorProbe>,
    loaded: Option<LoadedRows>,
    hasher: Option<RowHasher>,
    /// Where the staged rows carry their operation.
    operation: Option<usize>,
    whole_deletes: bool,
    partitions: Option<PartitionProbe>,
    interval: Option<(usize, usize)>,
    facts: PartitionFacts,
}

struct CursorProbe {
    name: String,
    index: usize,
    order: ValueOrder,
    keep_boundary: bool,
    /// The greatest value, and what it is compared by.
    greatest: Option<(ScalarValue, ScalarValue)>,
    at_greatest: HashMap<u128, u64>,
    overflow: bool,
}

struct LoadedRows {
    /// The watermark's sort key.
    watermark: Scalar<ArrayRef>,
    remaining: Arc<Mutex<HashMap<u128, u64>>>,
}

impl CursorProbe {
    /// What the cursor's values are compared by.
    fn keys(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let column = batch.column(self.index);
        Ok(match &self.order {
            ValueOrder::Arrow => signless(column),
            order => Arc::new(order.keys(&self.name, column)?),
        })
    }
}

impl Probe {
    pub(crate) fn new(spec: &ProbeSpec, schema: &SchemaRef, boundary: Arc<Mutex<HashMap<u128, u64>>>) -> Result<Self> {
        let index = |column: &String| {
            schema.index_of(column).map_err(|_| Error::internal(format!("the staged rows have no column {column:?}")))
        };
        let indexes = |columns: &[String]| columns.iter().map(index).collect::<Result<Vec<_>>>();
        let cursor = match &spec.cursor {
            None => None,
            Some(name) => Some(CursorProbe {
                name: name.clone(),
                index: index(name)?,
                order: spec.order.clone(),
                keep_boundary: spec.keep_boundary,
                greatest: None,
                at_greatest: HashMap::new(),
                overflow: false,
            }),
        };
        let loaded = match (&spec.loaded, &cursor) {
            (Some((watermark, _)), Some(cursor)) => {
                let watermark = watermark.clone().in_order(cursor.order.clone()).array()?;
                let watermark = Scalar::new(signless(&watermark.into_inner()));
                Some(LoadedRows { watermark, remaining: boundary })
            }
            _ => None,
        };
        let needs_hash = loaded.is_some() || spec.keep_boundary;
        let hasher = needs_hash.then(|| RowHasher::new(schema)).transpose()?;
        let partitions = spec.partitions.as_ref().map(|limit| PartitionProbe::new(limit, schema)).transpose()?;
        Ok(Self {
            operation: schema.index_of(OPERATION_COLUMN).ok(),
            whole_deletes: spec.whole_deletes,
            partitions,
            interval: spec.interval.as_ref().map(|(a, b)| Ok::<_, Error>((index(a)?, index(b)?))).transpose()?,
            not_null: indexes(&spec.not_null)?,
            quarantine: indexes(&spec.quarantine_null)?,
            schema: Arc::clone(schema),
            cursor,
            loaded,
            hasher,
            facts: PartitionFacts::default(),
        })
    }

    /// Checks a batch, leaves out what is to be left out, and gives the rest in the staged schema.
    pub(crate) fn observe(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let first_row = self.facts.extracted;
        self.facts.extracted += batch.num_rows() as u64;
        let batch = self.without_quarantined(batch)?;
        self.find_nulls(&batch, first_row)?;
        if !self.facts.nulls.is_empty() {
            // The run fails after all partitions have counted; nothing of this batch needs to travel.
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec())
            .map_err(|e| Error::internal(format!("the plan's rows do not have the staged schema: {e}")))?;
        let batch = self.without_loaded(batch)?;
        self.follow_cursor(&batch)?;
        if let Some(partitions) = &mut self.partitions {
            partitions.observe(&batch)?;
        }
        if let Some((from, to)) = self.interval {
            self.facts.reversed += cmp::lt_eq(batch.column(to), batch.column(from))?.true_count() as u64;
        }
        self.facts.passed += batch.num_rows() as u64;
        self.facts.whole += match self.operation {
            Some(operation) => {
                cmp::eq(batch.column(operation), &Int8Array::new_scalar(INSERT_OR_UPDATE))?.true_count() as u64
            }
            None => batch.num_rows() as u64,
        };
        Ok(batch)
    }

    pub(crate) fn finish(&mut self) -> Result<PartitionFacts> {
        let mut facts = std::mem::take(&mut self.facts);
        if let Some(cursor) = self.cursor.take() {
            let greatest = cursor.greatest.map(|(value, _)| Watermark::new(&cursor.name, &value)).transpose()?;
            facts.cursor = greatest.map(|watermark| watermark.in_order(cursor.order));
            facts.boundary_overflow = cursor.overflow;
            facts.boundary = cursor.at_greatest.into_iter().map(|(hash, n)| (format!("{hash:032x}"), n)).collect();
            facts.boundary.sort();
        }
        if let Some(partitions) = self.partitions.take() {
            facts.partitions = partitions.finish();
        }
        Ok(facts)
    }

    fn without_quarantined(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let mut keep: Option<BooleanArray> = None;
        for &index in &self.quarantine {
            let column = batch.column(index);
            if column.null_count() > 0 {
                let valid = is_not_null(column)?;
                keep = Some(match keep {
                    None => valid,
                    Some(so_far) => arrow::compute::and(&so_far, &valid)?,
                });
            }
        }
        let Some(keep) = keep else { return Ok(batch) };
        let kept = filter_record_batch(&batch, &keep)?;
        self.facts.quarantined += (batch.num_rows() - kept.num_rows()) as u64;
        Ok(kept)
    }

    fn find_nulls(&mut self, batch: &RecordBatch, first_row: u64) -> Result<()> {
        for &index in &self.not_null {
            let column = batch.column(index);
            if column.null_count() == 0 {
                continue;
            }
            let mut missing = is_null(column)?;
            // Rows that delete or patch may hold nothing but their key and what they set.
            if let Some(operation) = self.operation.filter(|_| !self.whole_deletes) {
                let whole = cmp::eq(batch.column(operation), &Int8Array::new_scalar(INSERT_OR_UPDATE))?;
                missing = arrow::compute::and(&missing, &whole)?;
            }
            let nulls = missing.true_count() as u64;
            let Some(at) = missing.values().set_indices().next() else { continue };
            let name = self.schema.field(index).name();
            match self.facts.nulls.iter_mut().find(|(c, _, _)| c == name) {
                Some(found) => found.1 += nulls,
                None => self.facts.nulls.push((name.clone(), nulls, first_row + at as u64 + 1)),
            }
        }
        Ok(())
    }

    fn without_loaded(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let (Some(loaded), Some(cursor)) = (&self.loaded, &self.cursor) else { return Ok(batch) };
        let at_watermark = cmp::eq(&cursor.keys(&batch)?, &loaded.watermark)?;
        if at_watermark.true_count() == 0 {
            return Ok(batch);
        }
        let candidates = filter_record_batch(&batch, &at_watermark)?;
        let Some(hasher) = &self.hasher else { return Ok(batch) };
        let hashes = hasher.hashes(&candidates)?;
        let mut remaining = loaded.remaining.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hashes = hashes.into_iter();
        let mut skipped = 0;
        let keep: BooleanArray = at_watermark
            .iter()
            .map(|at| {
                let known = at == Some(true)
                    && hashes.next().and_then(|h| remaining.get_mut(&h)).is_some_and(|count| {
                        let left = *count > 0;
                        *count = count.saturating_sub(1);
                        left
                    });
                skipped += u64::from(known);
                Some(!known)
            })
            .collect();
        drop(remaining);
        self.facts.skipped += skipped;
        Ok(filter_record_batch(&batch, &keep)?)
    }

    fn follow_cursor(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        let column = batch.column(cursor.index);
        if column.null_count() == column.len() {
            return Ok(());
        }
        let keys = cursor.keys(batch)?;
        let greatest = greatest(&keys)?;
        let order = match &cursor.greatest {
            None => Ordering::Less,
            Some((_, so_far)) => compare(so_far, &greatest)?,
        };
        if order == Ordering::Greater {
            return Ok(());
        }
        if order == Ordering::Less {
            cursor.at_greatest.clear();
            cursor.overflow = false;
        }
        let is_greatest = cmp::eq(&keys, &Scalar::new(greatest.to_array()?))?;
        if order == Ordering::Less {
            let value = match (&cursor.order, is_greatest.values().set_indices().next()) {
                (ValueOrder::Arrow, _) | (_, None) => greatest.clone(),
                (_, Some(row)) => ScalarValue::try_from_array(column, row)?,
            };
            cursor.greatest = Some((value, greatest));
        }
        if !cursor.keep_boundary || cursor.overflow {
            return Ok(());
        }
        let at_greatest = filter_record_batch(batch, &is_greatest)?;
        let Some(hasher) = &self.hasher else { return Ok(()) };
        if at_greatest.num_rows() > 64 * Boundary::MAX_ROWS {
            cursor.overflow = true;
        } else {
            for hash in hasher.hashes(&at_greatest)? {
                *cursor.at_greatest.entry(hash).or_default() += 1;
            }
            cursor.overflow = cursor.at_greatest.len() > Boundary::MAX_ROWS;
        }
        if cursor.overflow {
            cursor.at_greatest.clear();
        }
        Ok(())
    }
}

/// Floats with -0 as 0: Arrow sorts them apart, the databases that are read call them equal.
fn signless(column: &ArrayRef) -> ArrayRef {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float32Type, Float64Type};
    match column.data_type() {
        DataType::Float32 => Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| v + 0.0)),
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| v + 0.0)),
        _ => Arc::clone(column),
    }
}

/// The greatest non-null value. NaN is greatest of all, as the cursor's order in a sort has it.
fn greatest(column: &ArrayRef) -> Result<ScalarValue> {
    use arrow::array::AsArray;
    use arrow::compute::{max, max_binary, max_fixed_size_binary, max_string, max_string_view};
    use arrow::datatypes::*;
    macro_rules! primitive {
        ($($arrow:pat => $type:ty),* $(,)?) => {
            match column.data_type() {
                $($arrow => {
                    let value = max(column.as_primitive::<$type>());
                    ScalarValue::new_primitive::<$type>(value, column.data_type())?
                })*
                DataType::Utf8 => ScalarValue::Utf8(max_string(column.as_string::<i32>()).map(str::to_owned)),
                DataType::LargeUtf8 => ScalarValue::LargeUtf8(max_string(column.as_string::<i64>()).map(str::to_owned)),
                DataType::Utf8View => ScalarValue::Utf8View(max_string_view(column.as_string_view()).map(str::to_owned)),
                DataType::Binary => ScalarValue::Binary(max_binary(column.as_binary::<i32>()).map(<[u8]>::to_vec)),
                DataType::FixedSizeBinary(n) => ScalarValue::FixedSizeBinary(
                    *n,
                    max_fixed_size_binary(column.as_fixed_size_binary()).map(<[u8]>::to_vec),
                ),
                other => return Err(Error::configuration(format!("a cursor of type {other} is not supported"))),
            }
        };
    }
    Ok(primitive! {
        DataType::Int8 => Int8Type,
        DataType::Int16 => Int16Type,
        DataType::Int32 => Int32Type,
        DataType::Int64 => Int64Type,
        DataType::UInt8 => UInt8Type,
        DataType::UInt16 => UInt16Type,
        DataType::UInt32 => UInt32Type,
        DataType::UInt64 => UInt64Type,
        DataType::Float32 => Float32Type,
        DataType::Float64 => Float64Type,
        DataType::Decimal128(_, _) => Decimal128Type,
        DataType::Decimal256(_, _) => Decimal256Type,
        DataType::Date32 => Date32Type,
        DataType::Time64(TimeUnit::Microsecond) => Time64MicrosecondType,
        DataType::Time64(TimeUnit::Nanosecond) => Time64NanosecondType,
        DataType::Timestamp(TimeUnit::Second, _) => TimestampSecondType,
        DataType::Timestamp(TimeUnit::Millisecond, _) => TimestampMillisecondType,
        DataType::Timestamp(TimeUnit::Microsecond, _) => TimestampMicrosecondType,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => TimestampNanosecondType,
    })
}

/// Hashes rows to tell later whether they were loaded: all columns but those that differ with every load.
struct RowHasher {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl RowHasher {
    fn new(schema: &SchemaRef) -> Result<Self> {
        let told = |index: &usize| !STAMPS.contains(&schema.field(*index).name().as_str());
        let columns: Vec<usize> = (0..schema.fields().len()).filter(told).collect();
        let sorts = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone()));
        Ok(Self { converter: RowConverter::new(sorts.collect())?, columns })
    }

    fn hashes(&self, batch: &RecordBatch) -> Result<Vec<u128>> {
        row_hashes(&self.converter, &batch.project(&self.columns)?)
    }
}

/// 128-bit hashes of whole rows: XXH3 over arrow's row format, which is unambiguous (lengths and nulls are encoded).
pub(crate) fn row_hashes(converter: &RowConverter, batch: &RecordBatch) -> Result<Vec<u128>> {
    let rows = converter.convert_columns(batch.columns())?;
    Ok(rows.iter().map(|row| xxhash_rust::xxh3::xxh3_128(row.as_ref())).collect())
}

/// Digest of what the hashes depend on besides the rows: names, types, and the version of the encoding.
pub(crate) fn boundary_schema(schema: &SchemaRef) -> String {
    let mut text = String::from("xxh3-128 of arrow rows v1");
    for field in schema.fields().iter().filter(|f| !STAMPS.contains(&f.name().as_str())) {
        // As rows, views are what they show.
        let values = match field.data_type() {
            DataType::Utf8View => &DataType::Utf8,
            DataType::BinaryView => &DataType::Binary,
            other => other,
        };
        text.push_str(&format!("\u{1f}{}\u{1e}{values:?}", field.name()));
    }
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}
