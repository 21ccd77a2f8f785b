//! How a table is cut into parts that are read at the same time, and what keeps them of one moment.
//!
//! The server has no snapshot that several queries share: each sees the data parts that are there when it begins. So the
//! parts of a read leave out what was inserted after the table was opened, by the numbers of blocks that every data part
//! carries in its name, see [`Fence`]; and before the commit it is asked whether anything happened that this cannot tell.

use std::collections::HashMap;
use std::time::Instant;

use dpone_planner::{Error, Relation, Result};

use super::catalog::Table;
use crate::client::{Server, Statement};
use crate::types::{ChType, literal, quote};

/// Smaller parts cost more to begin than reading them at once saves.
const PART_BYTES: u64 = 16 << 20;
const PART_ROWS: u64 = 500_000;
/// Beyond this many partitions of a table the fence would be longer than a query may be.
const MAX_FENCED: usize = 2000;

#[derive(Debug)]
pub(super) struct PartitionPlan {
    /// What each part adds to WHERE; no row meets two, and every row one.
    pub predicates: Vec<Option<String>>,
    pub fence: Option<Fence>,
    pub notes: Vec<String>,
}

impl PartitionPlan {
    pub(super) fn one() -> Self {
        Self { predicates: vec![None], fence: None, notes: Vec::new() }
    }
}

pub(super) async fn plan(server: &Server, table: &Table, parallelism: usize) -> Result<PartitionPlan> {
    let worth = |total: Option<u64>, each: u64| total.map_or(1, |total| total.div_ceil(each));
    let wanted = worth(table.bytes, PART_BYTES).max(worth(table.rows, PART_ROWS)).min(parallelism.max(1) as u64);
    if wanted <= 1 || !table.has_parts() {
        return Ok(PartitionPlan::one());
    }
    if !table.tells_parts() {
        let note =
            format!("{} is read as one part: a column of it hides a virtual column of the server", table.relation);
        return Ok(PartitionPlan { notes: vec![note], ..PartitionPlan::one() });
    }
    let Some(fence) = Fence::raise(server, table).await? else { return Ok(PartitionPlan::one()) };
    let wanted = wanted as usize;
    let mut predicates = match by_partition(table, &fence, wanted) {
        Some(predicates) => predicates,
        None => match by_key(server, table, wanted).await? {
            Some(predicates) => predicates,
            None => match by_hash(table, wanted) {
                Some(predicates) => predicates,
                None => {
                    let note = format!("{} is read as one part: it has no key to cut it by", table.relation);
                    return Ok(PartitionPlan { notes: vec![note], ..PartitionPlan::one() });
                }
            },
        },
    };
    let fenced = fence.predicate();
    predicates.iter_mut().for_each(|predicate| *predicate = format!("({predicate}) AND {fenced}"));
    Ok(PartitionPlan { predicates: predicates.into_iter().map(Some).collect(), fence: Some(fence), notes: Vec::new() })
}

/// Whole partitions of the table, where they are about even. FINAL merges across them, so it must see all.
fn by_partition(table: &Table, fence: &Fence, wanted: usize) -> Option<Vec<String>> {
    let total: u64 = fence.partitions.iter().map(|p| p.rows).sum();
    let largest = fence.partitions.iter().map(|p| p.rows).max()?;
    if table.is_merging() || fence.partitions.len() < wanted || largest > 2 * total / wanted as u64 {
        return None;
    }
    let mut sized: Vec<&Partition> = fence.partitions.iter().collect();
    sized.sort_by_key(|p| std::cmp::Reverse(p.rows));
    let mut groups: Vec<(u64, Vec<String>)> = vec![(0, Vec::new()); wanted];
    for partition in sized {
        if let Some(smallest) = groups.iter_mut().min_by_key(|(rows, _)| *rows) {
            smallest.0 += partition.rows;
            smallest.1.push(literal(&partition.id));
        }
    }
    Some(groups.into_iter().map(|(_, ids)| format!("_partition_id IN ({})", ids.join(", "))).collect())
}

/// Ranges of the primary key's first column, at marks of the primary index.
async fn by_key(server: &Server, table: &Table, wanted: usize) -> Result<Option<Vec<String>>> {
    let first = table.primary_key.split(", ").next().unwrap_or_default().trim_matches('`');
    let Some((name, native)) = table.columns.iter().find(|(name, _)| name == first) else { return Ok(None) };
    if !ChType::native(native).is_some_and(|native| is_ranged(&native)) {
        return Ok(None);
    }
    // Texts sort by their bytes here and there, and may hold anything: they are told in hexadecimal.
    let is_text = native.contains("String");
    // The clock of a zone may show one hour twice: points in time are told by that of UTC.
    let in_utc = ChType::native(native).and_then(|native| utc(&native));
    let told = match &in_utc {
        _ if is_text => "hex(min(k))",
        Some(_) => "toString(toTimeZone(min(k), 'UTC'))",
        None => "toString(min(k))",
    };
    let (native, key) = (in_utc.as_ref().unwrap_or(native), quote(name));
    let sql = format!(
        "SELECT {told} FROM (SELECT k, sum(n) OVER (ORDER BY k ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - n \
         AS before, sum(n) OVER () AS total FROM (SELECT {key} AS k, sum(rows_in_granule) AS n \
         FROM mergeTreeIndex({}, {}) GROUP BY k)) \
         GROUP BY least(intDiv(before * {wanted}, total), {wanted} - 1) ORDER BY min(k)",
        literal(&table.relation.schema),
        literal(&table.relation.name),
    );
    let cuts: Vec<(String,)> = match server.rows(Statement::new(sql)).await {
        Ok(cuts) => cuts,
        // The index is a table of its own to grants, and older servers do not show it.
        Err(error) if crate::error::code_of(&error).is_some() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bounds: Vec<String> = cuts.into_iter().skip(1).map(|(cut,)| cut).collect();
    bounds.dedup();
    if bounds.is_empty() {
        return Ok(None);
    }
    let at = |bound: &str| {
        if is_text { format!("unhex('{bound}')") } else { format!("CAST({} AS {native})", literal(bound)) }
    };
    let ranges = (0..=bounds.len()).map(|part| {
        let low = (part > 0).then(|| format!("{key} >= {}", at(&bounds[part - 1])));
        let high = bounds.get(part).map(|bound| format!("{key} < {}", at(bound)));
        [low, high].into_iter().flatten().collect::<Vec<_>>().join(" AND ")
    });
    Ok(Some(ranges.collect()))
}

/// The type of the same points in time, shown by the clock of UTC.
fn utc(native: &ChType) -> Option<String> {
    match native {
        ChType::DateTime(_) => Some("DateTime('UTC')".to_owned()),
        ChType::DateTime64(digits, _) => Some(format!("DateTime64({digits}, 'UTC')")),
        ChType::LowCardinality(inner) => utc(inner),
        _ => None,
    }
}

/// Whether ranges of the type leave no value out: not those with NULL or NaN.
fn is_ranged(native: &ChType) -> bool {
    match native {
        ChType::Int { bits: ..=64, .. } | ChType::Date | ChType::Date32 | ChType::String => true,
        ChType::DateTime(_) | ChType::DateTime64(..) => true,
        ChType::LowCardinality(inner) => is_ranged(inner),
        _ => false,
    }
}

/// What the sorting key hashes to. Every part reads the key of all rows.
fn by_hash(table: &Table, wanted: usize) -> Option<Vec<String>> {
    if table.sorting_columns.is_empty() {
        return None;
    }
    let columns: Vec<_> = table.sorting_columns.iter().map(|name| quote(name)).collect();
    // A NULL has no hash; it goes with the first.
    let hash = format!("ifNull(cityHash64({}), 0) % {wanted}", columns.join(", "));
    Some((0..wanted).map(|part| format!("{hash} = {part}")).collect())
}

/// A partition of a table as it was when the table was opened.
#[derive(Debug, Clone)]
struct Partition {
    id: String,
    newest_block: i64,
    rows: u64,
}

/// A data part with rows.
#[derive(Debug, Clone)]
struct DataPart {
    partition: String,
    first_block: i64,
    last_block: i64,
    rows: u64,
    version: i64,
}

/// The active ones, partition by partition.
async fn data_parts(server: &Server, table: &Relation) -> Result<Vec<DataPart>> {
    let sql = "SELECT partition_id, min_block_number, max_block_number, rows, data_version FROM system.parts \
               WHERE database = {database:String} AND table = {name:String} AND active AND rows > 0 ORDER BY partition_id";
    let statement = Statement::new(sql).parameter("database", &table.schema).parameter("name", &table.name);
    let found: Vec<(String, i64, i64, u64, i64)> = server.rows(statement).await?;
    Ok(found
        .into_iter()
        .map(|(partition, first_block, last_block, rows, version)| DataPart {
            partition,
            first_block,
            last_block,
            rows,
            version,
        })
        .collect())
}

/// Keeps what was inserted after the table was opened out of queries that begin later.
///
/// Every insert makes data parts with block numbers above all before it, and a merge keeps the range of its sources. So
/// a data part whose first block is beyond the newest of then was inserted later. What this cannot tell, and what
/// [`Fence::verify`] asks for: a merge of old and new blocks before the last query began, a mutation, rows that went, if
/// only to come again as new ones, and another table under the name.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    relation: Relation,
    uuid: String,
    parts: Vec<DataPart>,
    partitions: Vec<Partition>,
    newest_mutation: i64,
}

impl Fence {
    /// `None`: there is nothing in the table, or too many partitions to name.
    async fn raise(server: &Server, table: &Table) -> Result<Option<Self>> {
        let parts = data_parts(server, &table.relation).await?;
        let mut partitions: Vec<Partition> = Vec::new();
        for part in &parts {
            match partitions.last_mut().filter(|last| last.id == part.partition) {
                Some(last) => {
                    last.newest_block = last.newest_block.max(part.last_block);
                    last.rows += part.rows;
                }
                None => partitions.push(Partition {
                    id: part.partition.clone(),
                    newest_block: part.last_block,
                    rows: part.rows,
                }),
            }
        }
        if partitions.is_empty() || partitions.len() > MAX_FENCED {
            return Ok(None);
        }
        let newest_mutation = parts.iter().map(|part| part.version).max().unwrap_or_default();
        let (relation, uuid) = (table.relation.clone(), table.uuid.clone());
        Ok(Some(Self { relation, uuid, parts, partitions, newest_mutation }))
    }

    /// Whether each data part of then is still there, or merged into one that is.
    fn is_there(&self, now: &[DataPart]) -> bool {
        let mut by_partition: HashMap<&str, Vec<&DataPart>> = HashMap::new();
        for part in now {
            by_partition.entry(&part.partition).or_default().push(part);
        }
        let holds =
            |now: &DataPart, then: &DataPart| now.first_block <= then.first_block && then.last_block <= now.last_block;
        self.parts.iter().all(|then| {
            by_partition.get(then.partition.as_str()).is_some_and(|now| now.iter().any(|now| holds(now, then)))
        })
    }

    fn predicate(&self) -> String {
        // For each row, although it is the same for all rows of a data part: an array of what is between the bars would
        // take twice as long as to read the row's key.
        format!("toInt64OrZero(extract(toString(_part), '_([0-9]+)_')) <= {}", self.newest("_partition_id"))
    }

    /// The newest block of then, by partition; partitions of later have none.
    fn newest(&self, id: &str) -> String {
        let ids: Vec<_> = self.partitions.iter().map(|p| literal(&p.id)).collect();
        let blocks: Vec<_> = self.partitions.iter().map(|p| p.newest_block.to_string()).collect();
        format!("transform(toString({id}), [{}], [{}], toInt64(-1))", ids.join(", "), blocks.join(", "))
    }

    /// Fails with `conflict` when queries that began until `last` may have seen different moments.
    pub(super) async fn verify(&self, server: &Server, last: Option<Instant>) -> Result<()> {
        // What happened after the last query began does not touch what the queries saw. The server tells whole seconds.
        let since = last.map_or(0, |last| last.elapsed().as_secs().saturating_sub(2));
        let newest = self.newest("partition_id");
        let sql = format!(
            "SELECT countIf(min_block_number <= {newest} AND max_block_number > {newest}), \
             countIf(min_block_number <= {newest} AND data_version > {} AND data_version > max_block_number) \
             FROM system.parts WHERE database = {{database:String}} AND table = {{name:String}} \
             AND modification_time <= now() - {since}",
            self.newest_mutation
        );
        let name = |statement: Statement| {
            statement.parameter("database", &self.relation.schema).parameter("name", &self.relation.name)
        };
        let merged: Option<(u64, u64)> = server.row(name(Statement::new(sql))).await?;
        let now = data_parts(server, &self.relation).await?;
        let uuid =
            "SELECT toString(uuid) FROM system.tables WHERE database = {database:String} AND name = {name:String}";
        let uuid: Option<(String,)> = server.row(name(Statement::new(uuid))).await?;
        let why = match merged {
            _ if uuid.is_none_or(|(uuid,)| uuid != self.uuid) => "another table took its place, or none",
            Some((merged, _)) if merged > 0 => {
                "rows that were inserted meanwhile were merged with those that were there"
            }
            Some((_, mutated)) if mutated > 0 => "rows were changed or deleted",
            _ if !self.is_there(&now) => "rows were dropped, detached or replaced",
            _ => return Ok(()),
        };
        Err(Error::conflict(format!(
            "{} was written to while it was read in several parts: {why}, and the parts may show different moments",
            self.relation
        ))
        .with("table", self.relation.to_string())
        .with_hint("run it again; a table that is written to all the time is read at one moment as one part: export_workers: 1 under source.options.partitioning"))
    }
}
