//! `Changes`: each staged row inserts, updates or deletes the row with its key.
//!
//! The table is locked in SHARE ROW EXCLUSIVE mode: readers go on, other writers wait. Between looking for a key and
//! inserting it nobody else can insert it, which is what `ON CONFLICT` would be for, without needing a unique index, and
//! without its side effects on sequences and triggers. Rows whose values are the same are not touched.
//!
//! Deletions, updates and insertions are a statement each, in this order, or one [`merge`].

use dpone_engine::Result;
use dpone_planner::plan::{DELETE, INSERT_OR_UPDATE, OPERATION_COLUMN, PATCH, STAMPS};

use super::commit::{Applied, Apply};
use super::merge;
use super::names::{list, quote, relation};
use super::staging::has_operation;
use super::target::TargetColumn;

/// Staged rows from which the planner's guesses about an unanalysed table cost more than the statistics.
pub(super) const ANALYZE_FROM: u64 = 1000;

pub(super) async fn apply(apply: &Apply<'_>, key: &[String], patch: &[String]) -> Result<Applied> {
    let target = relation(&apply.target);
    let rows = relation(&apply.rows);
    apply.client.run(&format!("LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE")).await?;
    if apply.staged_rows() >= ANALYZE_FROM {
        // Of the columns that rows are found by; what is in the others decides nothing.
        let operation = has_operation(apply.commit.load).then_some(OPERATION_COLUMN);
        let found_by = list(key.iter().map(String::as_str).chain(operation));
        apply.client.run(&format!("ANALYZE {rows} ({found_by})")).await?;
    }
    let matches = key_matches(apply, key).await?;
    let operations = has_operation(apply.commit.load);
    let is = |operation: i8| match operations {
        true => format!(" AND s.{} = {operation}", quote(OPERATION_COLUMN)),
        false => String::new(),
    };
    let upsert = is(INSERT_OR_UPDATE);

    let delete = is(DELETE);
    // Counted first only where a guard asks: a comparison has asked its own already.
    if operations && (apply.commit.max_delete_rows.is_some() || apply.commit.max_delete_ratio.is_some()) {
        let doomed = format!("SELECT count(*) FROM {target} t JOIN {rows} s ON {matches}{delete}");
        apply.guard(apply.count(&doomed).await?).await?;
    }
    let whole: Vec<_> = updatable(apply, key).collect();
    if patch.is_empty() && merge::is_possible(apply, key).await? {
        let changes = merge::Changes {
            matches: &matches,
            delete: operations.then_some(delete.as_str()),
            upsert: &upsert,
            update: sets(apply, &whole).map(|sets| (sets, differs(&whole, apply))),
        };
        return merge::apply(apply, &changes).await;
    }
    let mut applied = Applied::default();
    if operations {
        applied.deleted = apply
            .client
            .execute(&format!("DELETE FROM {target} t USING {rows} s WHERE {matches}{delete}"), &[])
            .await?;
    }
    // Before anything is inserted: a patch may be what frees a unique value.
    let patched: Vec<_> = apply.table.columns.iter().filter(|c| patch.contains(&c.name)).collect();
    if let Some(update) = update(apply, &patched) {
        let patch = is(PATCH);
        let sql = format!("{update} WHERE {matches}{patch}{}", differs(&patched, apply));
        applied.updated += apply.client.execute(&sql, &[]).await?;
    }
    let all_new = !patch.is_empty() && are_later(apply, key, &upsert).await?;
    if !all_new && let Some(update) = update(apply, &whole) {
        let sql = format!("{update} WHERE {matches}{upsert}{}", differs(&whole, apply));
        applied.updated += apply.client.execute(&sql, &[]).await?;
    }
    let unknown = match all_new {
        true => "true".to_owned(),
        false => format!("NOT EXISTS (SELECT FROM {target} t WHERE {matches})"),
    };
    let insert = format!("{} WHERE {unknown}{upsert}", apply.insert_select());
    applied.inserted = apply.client.execute(&insert, &[]).await?;
    // A deletion of a key that is not there changes nothing either.
    applied.unchanged = apply.staged_rows().saturating_sub(applied.updated + applied.inserted + applied.deleted);
    Ok(applied)
}

/// Whether every upsert is later, by an instant in its key, than all rows of the target: none of them can be there. So it
/// is with new versions of history, and one look at the target is cheaper than joining it with them twice.
async fn are_later(apply: &Apply<'_>, key: &[String], upsert: &str) -> Result<bool> {
    let instant = key.iter().find(|k| apply.table.column(k).is_some_and(|c| c.wire.receive == "timestamptz_recv"));
    let Some(instant) = instant.filter(|_| apply.staged_rows() >= ANALYZE_FROM) else { return Ok(false) };
    let (name, value) = (quote(instant), apply.layout.value(instant));
    let (target, rows) = (relation(&apply.target), relation(&apply.rows));
    // Of a key that may be NULL, least and greatest say nothing.
    let sql = format!(
        "SELECT COALESCE((SELECT min({value}) FROM {rows} s WHERE true{upsert}) > (SELECT max(t.{name}) FROM {target} t), \
         false) AND NOT EXISTS (SELECT FROM {rows} s WHERE {value} IS NULL{upsert})"
    );
    Ok(apply.client.row(&sql, &[]).await?.is_some_and(|row| row.get(0)))
}

/// `t.key = s.key`, in the target's own types, so that its index serves. A NULL in a key equals a NULL; where none was
/// staged the plain equality can be hashed and looked up.
async fn key_matches(apply: &Apply<'_>, key: &[String]) -> Result<String> {
    let mut parts = Vec::new();
    for column in key {
        let (name, value) = (quote(column), apply.layout.value(column));
        let nulls = format!("SELECT count(*) FROM {} s WHERE s.{name} IS NULL", relation(&apply.rows));
        let not_null = apply.table.column(column).is_some_and(|c| c.not_null);
        parts.push(if not_null || apply.count(&nulls).await? == 0 {
            format!("t.{name} = {value}")
        } else {
            format!("(t.{name} = {value} OR (t.{name} IS NULL AND {value} IS NULL))")
        });
    }
    Ok(parts.join(" AND "))
}

/// The columns that an update may set. A key is among them where two equal keys need not be the same (1.0 and 1.00, -0
/// and 0): the target then spells it as the source does.
fn updatable<'a>(apply: &'a Apply<'_>, key: &'a [String]) -> impl Iterator<Item = &'a TargetColumn> {
    let staged = apply.layout.names();
    apply
        .table
        .columns
        .iter()
        .filter(move |c| staged.contains(&c.name.as_str()) && (!key.contains(&c.name) || !equal_is_same(c)))
}

/// Whether equal values of the column are the same value.
fn equal_is_same(column: &TargetColumn) -> bool {
    column.identity_always
        || match column.wire.receive.as_str() {
            "textrecv" | "varcharrecv" => !column.nondeterministic,
            receive => compares_by_identity(receive),
        }
}

fn compares_by_identity(receive: &str) -> bool {
    matches!(
        receive,
        "boolrecv"
            | "int2recv"
            | "int4recv"
            | "int8recv"
            | "oidrecv"
            | "uuid_recv"
            | "date_recv"
            | "time_recv"
            | "timestamp_recv"
            | "timestamptz_recv"
            | "bytearecv"
            | "enum_recv"
    )
}

fn update(apply: &Apply<'_>, columns: &[&TargetColumn]) -> Option<String> {
    let sets = sets(apply, columns)?;
    Some(format!("UPDATE {} t SET {sets} FROM {} s", relation(&apply.target), relation(&apply.rows)))
}

/// The columns with their staged values, where there are any.
fn sets(apply: &Apply<'_>, columns: &[&TargetColumn]) -> Option<String> {
    let sets: Vec<String> =
        columns.iter().map(|c| format!("{} = {}", quote(&c.name), apply.layout.value(&c.name))).collect();
    (!sets.is_empty()).then(|| sets.join(", "))
}

/// ` AND (a value differs)`. Types whose equality is identity are compared by it; for the others (1.0 and 1.00, -0 and
/// 0, json, which has none) the stored bytes are, through the server's record comparison. What differs with every load
/// is no difference.
fn differs(columns: &[&TargetColumn], apply: &Apply<'_>) -> String {
    let mut parts = Vec::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for column in columns.iter().filter(|c| !STAMPS.contains(&c.name.as_str())) {
        let (name, value) = (quote(&column.name), apply.layout.value(&column.name));
        match column.wire.receive.as_str() {
            receive if compares_by_identity(receive) => {
                parts.push(format!("t.{name} IS DISTINCT FROM {value}"));
            }
            // A collation may call different texts equal.
            "textrecv" | "varcharrecv" => {
                parts.push(format!("t.{name} COLLATE \"C\" IS DISTINCT FROM {value} COLLATE \"C\""));
            }
            _ => {
                ours.push(format!("t.{name}"));
                theirs.push(value);
            }
        }
    }
    if !ours.is_empty() {
        parts.push(format!(
            "ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record",
            ours.join(", "),
            theirs.join(", ")
        ));
    }
    if parts.is_empty() { " AND false".to_owned() } else { format!(" AND ({})", parts.join(" OR ")) }
}
