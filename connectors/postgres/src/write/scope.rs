//! `OverwriteScope`: the staged rows replace exactly the rows of a predicate, or of the partitions that they touch.

use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use dpone_engine::{Error, Result};

use super::commit::{Applied, Apply};
use super::names::{quote, relation};
use crate::read::filter::Filter;
use crate::{catalog, types};

/// Two loads of one scope must not interleave their DELETE and INSERT: readers go on, writers wait.
async fn lock(apply: &Apply<'_>) -> Result<()> {
    let sql = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", relation(&apply.target));
    apply.client.run(&sql).await
}

pub(super) async fn predicate(apply: &Apply<'_>, sql: &str) -> Result<Applied> {
    let condition = render(apply, sql).await?;
    lock(apply).await?;
    let staged = staged_relation(apply);
    let outside =
        apply.count(&format!("SELECT count(*) FROM {staged} WHERE NOT ({condition}) OR ({condition}) IS NULL")).await?;
    if outside > 0 {
        return Err(Error::data_quality(format!("{outside} staged rows lie outside the scope {sql}"))
            .with_hint("filter the source by the scope: rows outside it would be loaded again by the next run")
            .with("table", apply.target.to_string()));
    }
    let target = relation(&apply.target);
    let inside = apply.count(&format!("SELECT count(*) FROM {target} WHERE {condition}")).await?;
    apply.guard_replaced(&format!("FROM {target} t WHERE ({condition})"), inside).await?;
    let deleted = apply.client.execute(&format!("DELETE FROM {target} WHERE {condition}"), &[]).await?;
    let inserted = apply.client.execute(&apply.insert_select(), &[]).await?;
    Ok(Applied { inserted, deleted, ..Applied::default() })
}

/// The staged rows with their columns in the target's types, so that the predicate means the same on both sides.
fn staged_relation(apply: &Apply<'_>) -> String {
    let columns: Vec<String> =
        apply.layout.names().iter().map(|c| format!("{} AS {}", apply.layout.value(c), quote(c))).collect();
    format!("(SELECT {} FROM {} s) staged", columns.join(", "), relation(&apply.rows))
}

/// DataFusion's predicate in the server's SQL: exact or refused.
async fn render(apply: &Apply<'_>, sql: &str) -> Result<String> {
    let found = catalog::find(apply.client, &apply.target, None).await?;
    let found = found.ok_or_else(|| Error::conflict(format!("the target {} is gone", apply.target)))?;
    let columns = found
        .columns
        .iter()
        .map(|c| types::column(&c.name, &c.native, c.nullable, false, None))
        .collect::<Result<Vec<_>>>()?;
    let schema = Schema::new(columns.iter().map(|c| c.field.clone()).collect::<Vec<_>>());
    let expr = dpone_planner::expr::predicate("the scope", sql, &DFSchema::try_from(schema)?)?;
    let utf8 = apply.client.scalar("SHOW server_encoding").await?.as_deref() == Some("UTF8");
    Filter { columns: &columns, utf8 }.render(&expr).ok_or_else(|| {
        Error::configuration(format!("the scope {sql} cannot be said exactly in PostgreSQL's SQL"))
            .with_hint("write it with comparisons, AND, OR, NOT, IN, BETWEEN and IS NULL over columns and constants")
    })
}

pub(super) async fn partitions(apply: &Apply<'_>, columns: &[String]) -> Result<Applied> {
    lock(apply).await?;
    let target = relation(&apply.target);
    let values: Vec<String> = columns.iter().map(|c| format!("{} AS {}", apply.layout.value(c), quote(c))).collect();
    let touched = format!("(SELECT DISTINCT {} FROM {} s)", values.join(", "), relation(&apply.rows));
    let mut same = Vec::new();
    for column in columns {
        let name = quote(column);
        // A plain equality can be hashed; NULL equals NULL only where a NULL was staged.
        let nulls = format!("SELECT count(*) FROM {} s WHERE s.{name} IS NULL", relation(&apply.rows));
        same.push(match apply.count(&nulls).await? {
            0 => format!("t.{name} = p.{name}"),
            _ => format!("(t.{name} = p.{name} OR (t.{name} IS NULL AND p.{name} IS NULL))"),
        });
    }
    let same = same.join(" AND ");
    let inside = apply.count(&format!("SELECT count(*) FROM {target} t, {touched} p WHERE {same}")).await?;
    apply.guard_replaced(&format!("FROM {target} t, {touched} p WHERE {same}"), inside).await?;
    let deleted = apply.client.execute(&format!("DELETE FROM {target} t USING {touched} p WHERE {same}"), &[]).await?;
    let inserted = apply.client.execute(&apply.insert_select(), &[]).await?;
    Ok(Applied { inserted, deleted, ..Applied::default() })
}
