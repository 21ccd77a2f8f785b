//! `Changes` as one MERGE: one join of the staged rows with the target, where separate statements need one each.

use dpone_engine::Result;

use super::changes::ANALYZE_FROM;
use super::commit::{Applied, Apply};
use super::names::relation;

/// Since this version MERGE says what it did with each row.
const SINCE: u32 = 170_000;

/// What is done to the rows that match, and to those that do not. Conditions begin with ` AND `, or are empty.
pub(super) struct Changes<'a> {
    pub(super) matches: &'a str,
    /// Which staged rows delete, where some may.
    pub(super) delete: Option<&'a str>,
    /// Which staged rows insert or update.
    pub(super) upsert: &'a str,
    /// What an update sets, and the condition that something differs.
    pub(super) update: Option<(String, String)>,
}

/// Whether one statement can do what several in a fixed order do. Deletions come before updates, and those before
/// insertions, because each may free a unique value for the next; one statement leaves their order open. It cannot matter
/// where every unique index holds all columns of the key: no two staged rows have the same.
///
/// The server refuses MERGE into tables with rules, and into foreign partitions.
pub(super) async fn is_possible(apply: &Apply<'_>, key: &[String]) -> Result<bool> {
    if apply.client.version() < SINCE {
        return Ok(false);
    }
    let sql = "WITH RECURSIVE tree (oid) AS (
                 SELECT $1::oid UNION ALL
                 SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid)
               SELECT NOT EXISTS (SELECT FROM tree JOIN pg_catalog.pg_class c USING (oid)
                                   WHERE c.relhasrules OR c.relkind = 'f')
                  AND NOT EXISTS (
                        SELECT FROM tree JOIN pg_catalog.pg_index i ON i.indrelid = tree.oid
                         WHERE (i.indisunique OR i.indisexclusion)
                           AND EXISTS (SELECT FROM pg_catalog.unnest($2::text[]) k (name)
                                        WHERE NOT EXISTS (
                                          SELECT FROM pg_catalog.pg_attribute a
                                           WHERE a.attrelid = tree.oid AND a.attname = k.name
                                             AND a.attnum = ANY ((i.indkey::smallint[])[0:i.indnkeyatts - 1]))))";
    Ok(apply.client.row(sql, &[&apply.table.oid, &key]).await?.is_some_and(|row| row.get(0)))
}

pub(super) async fn apply(apply: &Apply<'_>, changes: &Changes<'_>) -> Result<Applied> {
    let upsert = changes.upsert;
    let mut actions = Vec::new();
    if let Some(delete) = changes.delete {
        actions.push(format!("WHEN MATCHED{delete} THEN DELETE"));
    }
    if let Some((sets, differs)) = &changes.update {
        actions.push(format!("WHEN MATCHED{upsert}{differs} THEN UPDATE SET {sets}"));
    }
    let (columns, values) = apply.inserted();
    actions.push(format!("WHEN NOT MATCHED{upsert} THEN INSERT {columns}VALUES ({values})"));
    let merge = format!(
        "WITH done (action) AS (MERGE INTO {} t USING {} s ON {} {} RETURNING merge_action())
         SELECT count(*) FILTER (WHERE action = 'INSERT'), count(*) FILTER (WHERE action = 'UPDATE'),
                count(*) FILTER (WHERE action = 'DELETE') FROM done",
        relation(&apply.target),
        relation(&apply.rows),
        changes.matches,
        actions.join(" "),
    );
    if apply.staged_rows() >= ANALYZE_FROM {
        look_up_each(apply, &merge).await?;
    }
    let counts = apply.client.row(&merge, &[]).await?;
    let count = |at: usize| counts.as_ref().map_or(0, |row| row.get::<_, i64>(at)) as u64;
    let (inserted, updated, deleted) = (count(0), count(1), count(2));
    // A deletion of a key that is not there changes nothing either.
    let unchanged = apply.staged_rows().saturating_sub(inserted + updated + deleted);
    Ok(Applied { inserted, updated, deleted, unchanged })
}

/// Where the planner looks each staged row up in the target's index, and guesses that the key has few values, it keeps what
/// was found for the next row with the same key. There is none: what it keeps costs a tenth of the statement, and is never
/// used. Without it, the same guess makes another join look cheaper, which is not. What follows in the transaction has no
/// joins, so the settings stay for its rest.
async fn look_up_each(apply: &Apply<'_>, merge: &str) -> Result<()> {
    let plan = apply.client.rows(&format!("EXPLAIN {merge}"), &[]).await?;
    let keeps = plan.iter().any(|line| line.get::<_, &str>(0).trim_start().starts_with("->  Memoize"));
    let off = "SELECT set_config(name, 'off', true)
                 FROM pg_catalog.unnest('{enable_memoize, enable_hashjoin, enable_mergejoin}'::text[]) s (name) WHERE $1";
    apply.client.rows(off, &[&keeps]).await?;
    Ok(())
}
