//! How a table is cut into parts that are read at the same time.
//!
//! Since version 14 the server reads a range of blocks without looking at the others, so a part is a range of `ctid`.
//! Before, such a range costs a scan of the whole table, and a part is a range of the primary key instead. The last
//! part has no upper end: it has whatever was added since the size was read.

use dpone_planner::Result;

use super::filter::quote_name;
use super::scan::PartitionSpec;
use super::table::Context;
use crate::catalog::{self, Leaf, RelationKind, Table};
use crate::client::Client;
use crate::types::{PgType, oid};

/// Smaller parts cost more to begin than reading them at once saves.
const PART_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct PartitionPlan {
    pub partitions: Vec<PartitionSpec>,
    pub notes: Vec<String>,
}

impl PartitionPlan {
    fn one(table: &Table, notes: Vec<String>) -> Self {
        Self { partitions: vec![PartitionSpec { from: quote(&table.relation), predicate: None }], notes }
    }
}

/// Cuts the rows that meet `condition`, which may name system columns.
pub(super) async fn plan(
    context: &Context<'_>,
    table: &Table,
    parallelism: usize,
    condition: Option<&str>,
) -> Result<PartitionPlan> {
    let mut plan = cut(context, table, parallelism, condition).await?;
    let Some(condition) = condition else { return Ok(plan) };
    for part in plan.partitions.iter_mut().filter(|part| !part.narrowed()) {
        part.predicate = Some(match part.predicate.take() {
            Some(range) => format!("({range}) AND ({condition})"),
            None => condition.to_owned(),
        });
    }
    Ok(plan)
}

impl PartitionSpec {
    /// Whether the condition stands inside what is read: leaves that are read together show no system columns.
    fn narrowed(&self) -> bool {
        self.from.starts_with('(')
    }
}

async fn cut(
    context: &Context<'_>,
    table: &Table,
    parallelism: usize,
    condition: Option<&str>,
) -> Result<PartitionPlan> {
    let wanted = match table.bytes {
        Some(bytes) => parallelism.max(1).min(bytes.div_ceil(PART_BYTES).max(1) as usize),
        None => 1,
    };
    // Without a common snapshot, parts would show different moments.
    if wanted == 1 || context.snapshot.is_none() {
        return Ok(PartitionPlan::one(table, Vec::new()));
    }
    let by_blocks = context.client.version() >= 140_000;
    match table.kind {
        RelationKind::Table | RelationKind::MaterializedView if by_blocks => {
            let partitions = block_ranges(&quote(&table.relation), table.pages, wanted);
            Ok(PartitionPlan { partitions, notes: Vec::new() })
        }
        RelationKind::Table => by_key(context.client, table, wanted).await,
        RelationKind::Partitioned => by_leaves(context.client, table, (wanted, by_blocks), condition).await,
        _ => Ok(PartitionPlan::one(table, Vec::new())),
    }
}

pub(super) fn quote(relation: &dpone_planner::Relation) -> String {
    format!("{}.{}", quote_name(&relation.schema), quote_name(&relation.name))
}

fn block_ranges(from: &str, pages: u64, parts: usize) -> Vec<PartitionSpec> {
    let parts = (parts as u64).clamp(1, pages.max(1));
    (0..parts)
        .map(|part| {
            let low = (part > 0).then(|| format!("ctid >= '({},0)'::tid", pages * part / parts));
            let high = (part + 1 < parts).then(|| format!("ctid < '({},0)'::tid", pages * (part + 1) / parts));
            let predicate = match (low, high) {
                (Some(low), Some(high)) => Some(format!("{low} AND {high}")),
                (low, high) => low.or(high),
            };
            PartitionSpec { from: from.to_owned(), predicate }
        })
        .collect()
}

/// The leaves of a partitioned table, each in parts by its size. Reading a leaf itself needs the right to, and would go
/// past row-level security of the parent.
async fn by_leaves(
    client: &Client,
    table: &Table,
    (wanted, by_blocks): (usize, bool),
    condition: Option<&str>,
) -> Result<PartitionPlan> {
    let sql = "SELECT relrowsecurity OR EXISTS ( \
               SELECT FROM unnest($2::oid[]) leaf(oid) WHERE NOT has_table_privilege(leaf.oid, 'SELECT')) \
               FROM pg_class WHERE oid = $1";
    let leaves = catalog::leaves(client, table.oid).await?;
    let oids: Vec<u32> = leaves.iter().map(|leaf| leaf.oid).collect();
    let closed: bool = client.row(sql, &[&table.oid, &oids]).await?.is_none_or(|row| row.get(0));
    if closed {
        let note =
            format!("{} is read as one part: its partitions cannot be read by themselves by this role", table.relation);
        return Ok(PartitionPlan::one(table, vec![note]));
    }
    if leaves.is_empty() {
        return Ok(PartitionPlan::one(table, Vec::new()));
    }
    let total: u64 = leaves.iter().map(|leaf| leaf.bytes).sum::<u64>().max(1);
    let partitions = leaves.iter().flat_map(|leaf| leaf_parts(leaf, wanted, total, by_blocks)).collect();
    Ok(PartitionPlan { partitions: merge_small(partitions, table, &leaves, wanted, condition), notes: Vec::new() })
}

fn leaf_parts(leaf: &Leaf, wanted: usize, total: u64, by_blocks: bool) -> Vec<PartitionSpec> {
    let share = (wanted as u64 * leaf.bytes).div_ceil(total).max(1);
    let parts = if by_blocks && !leaf.foreign { share.min(leaf.bytes.div_ceil(PART_BYTES).max(1)) } else { 1 };
    block_ranges(&quote(&leaf.relation), leaf.pages, parts as usize)
}

/// Many leaves make more parts than may be read at once; whole leaves go together then, the largest first.
fn merge_small(
    partitions: Vec<PartitionSpec>,
    table: &Table,
    leaves: &[Leaf],
    wanted: usize,
    condition: Option<&str>,
) -> Vec<PartitionSpec> {
    if partitions.len() <= wanted {
        return partitions;
    }
    let mut sized: Vec<&Leaf> = leaves.iter().collect();
    sized.sort_by_key(|leaf| std::cmp::Reverse(leaf.bytes));
    let mut groups: Vec<(u64, Vec<&Leaf>)> = vec![(0, Vec::new()); wanted];
    for leaf in sized {
        if let Some(smallest) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            smallest.0 += leaf.bytes.max(1);
            smallest.1.push(leaf);
        }
    }
    groups
        .into_iter()
        .filter(|(_, leaves)| !leaves.is_empty())
        .map(|(_, leaves)| match leaves.as_slice() {
            [one] => PartitionSpec { from: quote(&one.relation), predicate: None },
            _ => {
                // By name: leaves may have their columns in another order.
                let columns: Vec<_> = table.columns.iter().map(|c| quote_name(&c.name)).collect();
                let columns = columns.join(", ");
                let only = condition.map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
                let all: Vec<_> = leaves
                    .iter()
                    .map(|leaf| format!("SELECT {columns} FROM {}{only}", quote(&leaf.relation)))
                    .collect();
                PartitionSpec { from: format!("({}) AS \"leaves\"", all.join(" UNION ALL ")), predicate: None }
            }
        })
        .collect()
}

/// Ranges of a primary key of one column, at the bounds of the statistics' histogram.
async fn by_key(client: &Client, table: &Table, wanted: usize) -> Result<PartitionPlan> {
    let key = match table.primary_key.as_slice() {
        [key] => table.columns.iter().find(|c| c.name == *key),
        _ => None,
    };
    let Some((key, cast)) = key.and_then(|key| Some((key, range_type(key.native.base())?))) else {
        let note = format!(
            "{} is read as one part: before PostgreSQL 14 parts need a primary key of one integer, uuid or date column",
            table.relation
        );
        return Ok(PartitionPlan::one(table, vec![note]));
    };
    let bounds = histogram(client, table, &key.name).await?;
    if bounds.is_empty() {
        let note = format!("{} is read as one part: it has no statistics; ANALYZE makes them", table.relation);
        return Ok(PartitionPlan::one(table, vec![note]));
    }
    Ok(PartitionPlan { partitions: key_ranges(table, &key.name, cast, &bounds, wanted), notes: Vec::new() })
}

fn range_type(base: &PgType) -> Option<&'static str> {
    Some(match base.oid {
        oid::INT2 | oid::INT4 | oid::INT8 => "int8",
        oid::UUID => "uuid",
        oid::DATE => "date",
        oid::TIMESTAMP => "timestamp",
        oid::TIMESTAMPTZ => "timestamptz",
        _ => return None,
    })
}

async fn histogram(client: &Client, table: &Table, column: &str) -> Result<Vec<String>> {
    let sql = "SELECT histogram_bounds::text::text[] FROM pg_stats \
               WHERE schemaname = $1 AND tablename = $2 AND attname = $3 AND NOT inherited";
    let row = client.row(sql, &[&table.relation.schema, &table.relation.name, &column]).await?;
    Ok(row.and_then(|row| row.get::<_, Option<Vec<String>>>(0)).unwrap_or_default())
}

fn key_ranges(table: &Table, key: &str, cast: &str, bounds: &[String], wanted: usize) -> Vec<PartitionSpec> {
    let inner = bounds.get(1..bounds.len().saturating_sub(1)).unwrap_or_default();
    let parts = wanted.min(inner.len() + 1);
    let mut cuts: Vec<&String> = (1..parts).filter_map(|part| inner.get(inner.len() * part / parts)).collect();
    cuts.dedup();
    let key = quote_name(key);
    let at = |cut: &String| format!("{}::{cast}", super::filter::quote_text(cut));
    (0..=cuts.len())
        .map(|part| {
            let low = (part > 0).then(|| format!("{key} >= {}", at(cuts[part - 1])));
            let high = cuts.get(part).map(|cut| format!("{key} < {}", at(cut)));
            let predicate = match (low, high) {
                (Some(low), Some(high)) => Some(format!("{low} AND {high}")),
                (low, high) => low.or(high),
            };
            PartitionSpec { from: quote(&table.relation), predicate }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ranges_meet_and_the_last_is_open() {
        let parts = block_ranges("t", 1000, 3);
        let predicates: Vec<_> = parts.iter().filter_map(|p| p.predicate.as_deref()).collect();
        assert_eq!(
            predicates,
            ["ctid < '(333,0)'::tid", "ctid >= '(333,0)'::tid AND ctid < '(666,0)'::tid", "ctid >= '(666,0)'::tid"]
        );
        assert_eq!(block_ranges("t", 0, 4), [PartitionSpec { from: "t".into(), predicate: None }]);
    }
}
