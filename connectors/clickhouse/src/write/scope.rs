//! `OverwriteScope`: the staged rows replace exactly the rows of a predicate, or of the partitions that they touch.
//!
//! Where the scope is made of whole partitions of the table, they are replaced. Whether it is, the rows say: a partition
//! none of whose rows lies outside the scope is whole.

use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use dpone_engine::{Error, Relation, Result};

use super::catalog::{self, Table};
use super::commit::{Planned, Work};
use super::create;
use super::journal::{OWN, Step};
use super::names::relation;
use super::options::MergePolicy;
use super::overwrite::{exchanging, one_by_one, replacing};
use crate::types::{ChType, literal, quote};

/// A condition over the target's columns that is true for the rows of the scope, and NULL for none.
struct Scope {
    /// [`OWN`] stands for a table of the load.
    condition: String,
    own: Relation,
}

impl Scope {
    fn over(&self) -> String {
        self.condition.replace(OWN, &relation(&self.own))
    }

    /// The same scope over a table that holds earlier versions of its rows: all versions of each row that is in it. By the
    /// condition itself only the last one would go, and the one before it be seen again. Also gives how many rows are seen
    /// in the scope.
    async fn by_key(self, work: &Work<'_>, table: &Table) -> Result<(Self, u64)> {
        let keys = work.names().keys();
        let parts = match table.engine_full.contains("allow_nullable_key") {
            // NULL is in no list.
            true => vec![format!("toString(tuple({}))", table.sorting_key.join(", "))],
            false => table.sorting_key.clone(),
        };
        let names: Vec<_> = (0..parts.len()).map(|at| format!("`__dpone__key_{at}`")).collect();
        let named: Vec<_> = parts.iter().zip(&names).map(|(part, name)| format!("{part} AS {name}")).collect();
        let rows = format!("SELECT DISTINCT {} FROM {} WHERE {}", named.join(", "), table.read(), self.over());
        let columns = format!("CREATE TABLE {} ENGINE = MergeTree ORDER BY tuple() EMPTY AS {rows}", relation(&keys));
        work.session.run(&columns).await?;
        work.session.insert_select(&format!("INSERT INTO {} {rows}", relation(&keys))).await?;
        let inside = work.session.count(&relation(&keys)).await?;
        let condition = format!("({}) IN (SELECT {} FROM {OWN})", parts.join(", "), names.join(", "));
        Ok((Self { condition, own: keys }, inside))
    }
}

pub(crate) async fn predicate(work: &Work<'_>, table: &Table, sql: &str) -> Result<Planned> {
    let scope = Scope { condition: format!("ifNull({}, 0)", render(table, sql)?), own: work.rows.clone() };
    let outside = work.session.count(&format!("{} WHERE NOT {}", relation(&work.rows), scope.over())).await?;
    if outside > 0 {
        return Err(Error::data_quality(format!("{outside} staged rows lie outside the scope {sql}"))
            .with_hint("filter the source by the scope: rows outside it would be loaded again by the next run")
            .with("table", table.relation.to_string()));
    }
    replace(work, table, scope).await
}

/// DataFusion's predicate in the server's SQL: exact or refused.
fn render(table: &Table, sql: &str) -> Result<String> {
    let fields = table.stored().map(catalog::Column::field).collect::<Result<Vec<_>>>()?;
    let schema = Schema::new(fields);
    let expr = dpone_planner::expr::predicate("the scope", sql, &DFSchema::try_from(schema.clone())?)?;
    crate::read::condition(&expr, &schema).ok_or_else(|| {
        Error::configuration(format!("the scope {sql} cannot be said exactly in ClickHouse's SQL"))
            .with_hint("write it with comparisons, AND, OR, NOT, IN, BETWEEN and IS NULL over columns and constants")
    })
}

pub(crate) async fn partitions(work: &Work<'_>, table: &Table, columns: &[String]) -> Result<Planned> {
    let mut parts = Vec::new();
    for name in columns {
        let column = table
            .column(name)
            .ok_or_else(|| Error::conflict(format!("the target {} has no column {name:?} any more", table.relation)))?;
        let name = quote(name);
        let takes_null = ChType::native(&column.native).is_some_and(|native| native.is_nullable());
        // NULL equals NULL.
        parts.push(if takes_null { format!("isNull({name}), ifNull(toString({name}), '')") } else { name });
    }
    let values = parts.join(", ");
    let condition = format!("({values}) IN (SELECT {values} FROM {OWN})");
    replace(work, table, Scope { condition, own: work.rows.clone() }).await
}

async fn replace(work: &Work<'_>, table: &Table, scope: Scope) -> Result<Planned> {
    let content = catalog::content(work.session, &table.relation).await?;
    let (scope, seen) = match table.replaces() && !table.sorting_key.is_empty() {
        true => {
            let (scope, seen) = scope.by_key(work, table).await?;
            (scope, Some(seen))
        }
        false => (scope, None),
    };
    let condition = scope.over();
    let found = work
        .session
        .rows(&format!(
            "SELECT _partition_id, toString(countIf({condition})) AS inside, toString(count()) FROM {} \
             GROUP BY _partition_id HAVING inside != '0' ORDER BY _partition_id",
            if seen.is_some() { table.all_versions() } else { table.read() }
        ))
        .await?;
    let mut touched = Vec::new();
    let (mut inside, mut whole) = (0, true);
    for row in found {
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let (of_scope, all): (u64, u64) = (text(1).parse().unwrap_or(0), text(2).parse().unwrap_or(0));
        inside += of_scope;
        whole &= of_scope == all;
        touched.push(text(0));
    }
    let inside = seen.unwrap_or(inside);
    work.guard(table, inside.saturating_sub(work.staged_rows())).await?;
    let counts = Planned { inserted: work.staged_rows(), deleted: inside, ..Planned::default() };
    let policy = work.layout.options.merge_policy;
    if !whole && policy == MergePolicy::ShadowSwap {
        return shadow(work, table, &condition, &touched, content, counts).await;
    }
    let deletes = match policy {
        // Nothing is deleted unless others write meanwhile.
        MergePolicy::Lightweight if whole => MergePolicy::Auto,
        policy => policy,
    };
    let mutation = work.deletes_by_mutation(table, deletes).await?;
    let mut steps = vec![Step::Delete { own: scope.own.clone(), condition: fenced(&scope), mutation }];
    steps.extend(work.moves(&work.rows).await?);
    if whole {
        let otherwise = steps;
        let steps = replacing(work, &touched).await?;
        let notes = one_by_one(&steps).into_iter().collect();
        return Ok(Planned { steps, notes, content: Some(content), otherwise, ..counts });
    }
    let notes = vec![
        "the scope is not made of whole partitions: its rows were deleted, then the new ones were added; a reader in between \
         could see neither"
            .to_owned(),
    ];
    Ok(Planned { steps, notes, ..counts })
}

/// A condition that fails when the load's table has another name.
fn fenced(scope: &Scope) -> String {
    match scope.condition.contains(OWN) {
        true => scope.condition.clone(),
        false => format!("{} AND (SELECT count() FROM {OWN} WHERE 0) = 0", scope.condition),
    }
}

/// The table's next state is built beside it: untouched partitions are linked, the others written again.
async fn shadow(
    work: &Work<'_>,
    table: &Table,
    condition: &str,
    touched: &[String],
    content: String,
    counts: Planned,
) -> Result<Planned> {
    let next = copy_without(work, table, condition, touched).await?;
    work.fill(&next).await?;
    let steps = vec![exchanging(work, next).await?];
    Ok(Planned { steps, content: Some(content), ..counts })
}

/// A twin of the target, with all rows but those that meet the condition, which only the touched partitions have.
pub(crate) async fn copy_without(
    work: &Work<'_>,
    table: &Table,
    condition: &str,
    touched: &[String],
) -> Result<Relation> {
    for database in [&table.relation.schema, &work.names().database] {
        if !catalog::is_atomic(work.session, database).await? {
            return Err(Error::configuration(format!(
                "merge_policy shadow_swap exchanges tables, and the engine of the database {database} is not Atomic"
            ))
            .with_hint(
                "merge by lightweight_delete_insert, or move the table into a database with the engine Atomic",
            ));
        }
    }
    let next = work.names().next();
    work.session.run(&create::twin(&next, table)).await?;
    for partition in catalog::partitions(work.session, &table.relation).await? {
        let id = literal(&partition);
        if !touched.contains(&partition) {
            let sql =
                format!("ALTER TABLE {} ATTACH PARTITION ID {id} FROM {}", relation(&next), relation(&table.relation));
            work.session.run_long(&sql, &[]).await?;
            continue;
        }
        let columns = super::names::list(table.stored().map(|column| column.name.as_str()));
        let sql = format!(
            "INSERT INTO {} ({columns}) SELECT {columns} FROM {} WHERE _partition_id = {id} AND NOT ifNull(({condition}), 0)",
            relation(&next),
            relation(&table.relation)
        );
        work.session.insert_select(&sql).await?;
    }
    Ok(next)
}
