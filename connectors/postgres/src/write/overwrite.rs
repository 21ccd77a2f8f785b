//! `Overwrite(truncate_insert)`: the table keeps its identity, and everything that depends on it; its rows are replaced.

use dpone_engine::Result;

use super::commit::{Applied, Apply};
use super::names::relation;

/// TRUNCATE where nothing refers to the table and the role may; DELETE otherwise. TRUNCATE keeps readers out until the
/// commit; under DELETE they go on reading the old rows.
pub(super) async fn truncate_insert(apply: &Apply<'_>, notes: &mut Vec<String>) -> Result<Applied> {
    let target = relation(&apply.target);
    apply.client.run(&format!("LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE")).await?;
    let before = apply.target_rows().await?;
    apply.guard_replaced(&format!("FROM {target} t"), before).await?;
    let facts = apply
        .client
        .row(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = $1 \
                            AND conrelid <> $1), \
                    pg_catalog.has_table_privilege($1, 'TRUNCATE'), \
                    EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal \
                            AND (tgtype & 8) <> 0)",
            &[&apply.table.oid],
        )
        .await?;
    let (referenced, may_truncate, delete_triggers) =
        facts.map_or((true, false, false), |row| (row.get(0), row.get(1), row.get(2)));
    let reason: Option<&str> = match (referenced, may_truncate, delete_triggers) {
        (true, ..) => Some("a foreign key refers to it"),
        (_, false, _) => Some("the role may not truncate it"),
        (.., true) => Some("it has a trigger for deletions"),
        _ => None,
    };
    if before > 0 {
        match reason {
            None => apply.client.run(&format!("TRUNCATE {target}")).await?,
            Some(reason) => {
                notes.push(format!("{} was emptied by DELETE: {reason}", apply.target));
                apply.client.run(&format!("DELETE FROM {target}")).await?;
            }
        }
    }
    let inserted = apply.client.execute(&apply.insert_select(), &[]).await?;
    Ok(Applied { inserted, deleted: before, ..Applied::default() })
}
