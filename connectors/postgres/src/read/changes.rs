//! Which rows changed since an earlier read, told by the transactions that wrote the row versions (`xmin`).
//!
//! Every row version carries the lower 32 bits of the transaction that wrote it. A read remembers the horizon of its
//! snapshot: the oldest transaction that was in progress, in 64 bits. Each version that the snapshot did not show, and a
//! later one does, was written by a transaction at or past that horizon; so the versions of
//! `[horizon, xmax of the later snapshot)` are everything that is new. What was committed between the two ends of the
//! earlier snapshot is read a second time.
//!
//! Freezing keeps a version's transaction (since PostgreSQL 9.4), so vacuum changes nothing. What does change it is told
//! by the position: another server or timeline, another file of the table, other columns.

use dpone_engine::ChangeRead;
use dpone_engine::source::ChangeRequest;
use dpone_planner::state::hex;
use dpone_planner::{Error, Relation, Result};
use serde::{Deserialize, Serialize};

use super::table::Context;
use crate::catalog::{RelationKind, Table};
use crate::client::Client;

/// Beyond this many transactions the 32 bits of old and new ones cannot be told apart safely.
const WIDEST: u64 = 1 << 31;
const EPOCH: u64 = 1 << 32;
/// Transactions below are the server's own: bootstrap and frozen.
const FIRST_NORMAL: u64 = 3;

/// Where the next read begins, as the state keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    version: u32,
    reader: String,
    /// The cluster's system identifier; `None`: the role may not ask.
    system: Option<String>,
    timeline: Option<u32>,
    database: u32,
    /// Digest of the columns with their numbers and types: a column that is added has values in rows that nobody wrote.
    columns: String,
    /// The oldest transaction that was in progress, with its epoch in the upper 32 bits.
    horizon: u64,
    /// OID and file of each relation that holds rows.
    relations: Vec<(u32, u32)>,
}

impl Position {
    const VERSION: u32 = 1;
    const READER: &str = "postgres_xmin";
}

/// The server as the snapshot shows it.
#[derive(Debug)]
struct Now {
    position: Position,
    /// One past the newest transaction that had ended.
    xmax: u64,
    recovery: bool,
    names: Vec<Relation>,
    notes: Vec<String>,
}

/// A read of changes, planned.
#[derive(Debug)]
pub(super) struct Planned {
    /// The condition on the rows; `None`: all of them.
    pub(super) condition: Option<String>,
    pub(super) read: ChangeRead,
    pub(super) notes: Vec<String>,
}

/// What a stored position is still good for.
#[derive(Debug, PartialEq, Eq)]
enum Since {
    StartOver(String),
    Changes {
        /// Relations that are read whole, because the position does not know them as they are.
        whole: Vec<u32>,
        /// Of those, the ones that were there before: their rows come again.
        rewritten: Vec<u32>,
        /// Relations that the position knows are gone, or have another file.
        rows_gone: bool,
    },
}

pub(super) async fn plan(context: &Context<'_>, table: &Table, request: &ChangeRequest) -> Result<Planned> {
    check_kind(table.kind, &table.relation)?;
    if context.snapshot.is_none() {
        return Err(Error::configuration("the server exports no snapshot, and xmin reads all rows in one")
            .with_hint("read from the primary, or from a standby that exports snapshots"));
    }
    let now = observe(context.client, table).await?;
    let old = request.since.as_ref().map(parse).transpose()?;
    let since = old.as_ref().map(|old| compare(old, &now, &table.relation)).transpose()?;
    Ok(put_together(table, &now, old.as_ref(), since, request.settled))
}

fn check_kind(kind: RelationKind, relation: &Relation) -> Result<()> {
    let what = match kind {
        RelationKind::Table | RelationKind::Partitioned | RelationKind::MaterializedView => return Ok(()),
        RelationKind::View => "a view, whose rows have no xmin of their own",
        RelationKind::Foreign => "a foreign table, whose rows are another system's",
    };
    Err(Error::configuration(format!("xmin cannot read {relation}: it is {what}"))
        .with_hint("read the tables behind it, or use incremental_merge with a cursor, or snapshot_diff"))
}

fn parse(stored: &serde_json::Value) -> Result<Position> {
    let unreadable = |why: &str| {
        Error::configuration(format!("the stored position cannot be read: {why}"))
            .with_hint("look at it with `dpone state export`, and start over with `dpone state reset`")
    };
    let version = stored.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(Position::VERSION)) {
        return Err(unreadable("it was written by another version"));
    }
    let position: Position =
        serde_json::from_value(stored.clone()).map_err(|_| unreadable("it is not the position of an xmin read"))?;
    if position.reader != Position::READER {
        return Err(unreadable("it is that of another reader"));
    }
    Ok(position)
}

async fn observe(client: &Client, table: &Table) -> Result<Now> {
    // The older functions count the same 64 bits.
    let (xmin, xmax, snapshot) = match client.version() >= 130_000 {
        true => ("pg_snapshot_xmin", "pg_snapshot_xmax", "pg_current_snapshot"),
        false => ("txid_snapshot_xmin", "txid_snapshot_xmax", "txid_current_snapshot"),
    };
    let sql = format!(
        "SELECT {xmin}(s)::text, {xmax}(s)::text, pg_is_in_recovery(), \
         (SELECT oid FROM pg_database WHERE datname = current_database()), \
         (SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod), E'\\n' ORDER BY attnum) \
          FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped) FROM {snapshot}() s"
    );
    let row = client
        .row(&sql, &[&table.oid])
        .await?
        .ok_or_else(|| Error::internal("the server answered a question about itself with no row"))?;
    let number = |text: String| text.parse::<u64>().map_err(|_| Error::internal("a transaction id is not a number"));
    let (horizon, xmax, recovery) = (number(row.get(0))?, number(row.get(1))?, row.get(2));
    let columns: Option<String> = row.get(4);
    let (relations, names) = relations(client, table).await?;
    let mut notes = Vec::new();
    let (system, timeline) = identity(client, recovery).await?;
    if system.is_none() || timeline.is_none() {
        notes.push(
            "this role may not ask for the server's system identifier and timeline (pg_control_system, \
             pg_walfile_name): a failover or a restore is only noticed by its database, files and transaction ids"
                .to_owned(),
        );
    }
    if horizon < xmax {
        notes.push(lag_note(client, horizon, xmax).await?);
    }
    let position = Position {
        version: Position::VERSION,
        reader: Position::READER.to_owned(),
        system,
        timeline,
        database: row.get(3),
        columns: digest(&columns.unwrap_or_default()),
        horizon,
        relations,
    };
    Ok(Now { position, xmax, recovery, names, notes })
}

fn digest(text: &str) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(text.as_bytes())[..16])
}

/// The relations that hold the table's rows: itself, partitions, heirs.
async fn relations(client: &Client, table: &Table) -> Result<(Vec<(u32, u32)>, Vec<Relation>)> {
    let sql = "WITH RECURSIVE tree AS (SELECT $1::oid AS oid UNION \
               SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid) \
               SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, \
               COALESCE(pg_relation_filenode(c.oid), 0::oid), \
               c.relfilenode <> 0 AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid), a.amname::text \
               FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
               LEFT JOIN pg_am a ON a.oid = c.relam WHERE c.relkind IN ('r', 'm', 'f') ORDER BY c.oid";
    let (mut relations, mut names) = (Vec::new(), Vec::new());
    for row in client.rows(sql, &[&table.oid]).await? {
        let relation = Relation::new(row.get::<_, String>(1), row.get::<_, String>(2));
        if row.get::<_, String>(3) == "f" {
            return Err(Error::configuration(format!(
                "xmin cannot read {}: its partition {relation} is a foreign table, whose rows are another system's",
                table.relation
            ))
            .with_hint("read its partitions by pipelines of their own"));
        }
        if let Some(method) = row.get::<_, Option<String>>(6).filter(|method| method != "heap") {
            return Err(Error::configuration(format!(
                "xmin cannot read {relation}: its access method {method} does not say which transaction wrote a row"
            )));
        }
        // The catalog as of the snapshot against the file that is there now.
        if row.get(5) {
            return Err(Error::transient(format!("{relation} was rewritten just after the snapshot was taken"))
                .with_hint("run again"));
        }
        relations.push((row.get(0), row.get(4)));
        names.push(relation);
    }
    Ok((relations, names))
}

/// System identifier and timeline, as far as the role may ask for them.
async fn identity(client: &Client, recovery: bool) -> Result<(Option<String>, Option<u32>)> {
    let system = asked(client, "SELECT system_identifier::text FROM pg_control_system()").await?;
    // On a primary the control file tells the timeline of the last checkpoint, which may be from before a promotion.
    let timeline = match recovery {
        false => asked(client, "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)")
            .await?
            .and_then(|text| u32::from_str_radix(&text, 16).ok()),
        true => asked(
            client,
            "SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)::text \
             FROM pg_control_checkpoint() c, pg_control_recovery() r",
        )
        .await?
        .and_then(|text| text.parse().ok()),
    };
    Ok((system, timeline))
}

/// The answer to a question that may be refused, without ending the transaction.
async fn asked(client: &Client, sql: &str) -> Result<Option<String>> {
    client.run("SAVEPOINT dpone_asks").await?;
    match client.scalar(sql).await {
        Ok(answer) => {
            client.run("RELEASE SAVEPOINT dpone_asks").await?;
            Ok(answer)
        }
        Err(error) => {
            client.run("ROLLBACK TO SAVEPOINT dpone_asks").await?;
            tracing::debug!(%error, "the server does not tell");
            Ok(None)
        }
    }
}

/// Who holds the horizon back.
async fn lag_note(client: &Client, horizon: u64, xmax: u64) -> Result<String> {
    let xid = (horizon % EPOCH).to_string();
    let sql = "SELECT 'process ' || pid, extract(epoch FROM clock_timestamp() - xact_start)::float8 \
               FROM pg_stat_activity WHERE backend_xid = $1::text::xid UNION ALL \
               SELECT 'prepared transaction', extract(epoch FROM clock_timestamp() - prepared)::float8 \
               FROM pg_prepared_xacts WHERE transaction = $1::text::xid LIMIT 1";
    let who = client.row(sql, &[&xid]).await?;
    let who = who.map(|row| (row.get::<_, Option<String>>(0), row.get::<_, Option<f64>>(1)));
    let who = match who {
        Some((Some(who), Some(seconds))) => format!(" ({who}, for {seconds:.0} s)"),
        Some((Some(who), None)) => format!(" ({who})"),
        _ => String::new(),
    };
    Ok(format!(
        "the horizon is {} transaction(s) behind: transaction {horizon} is in progress{who}, and what was committed \
         since it began is read again by the next run",
        xmax - horizon
    ))
}

fn compare(old: &Position, now: &Now, relation: &Relation) -> Result<Since> {
    let new = &now.position;
    let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
    let over = |why: String| Ok(Since::StartOver(why));
    if differ(&old.system, &new.system) {
        return over("the server is another one than that of the last run (system identifier)".to_owned());
    }
    if let (Some(before), Some(timeline)) = (old.timeline, new.timeline)
        && before != timeline
    {
        return over(format!(
            "the server was promoted or restored since the last run (timeline {before} to {timeline})"
        ));
    }
    if old.database != new.database {
        return over("the database was made anew since the last run".to_owned());
    }
    if new.horizon < old.horizon {
        if now.recovery {
            return Err(Error::transient(format!(
                "the standby shows an older state than the last run read (transaction {}, and the last run read up to {})",
                new.horizon, old.horizon
            ))
            .with_hint("run again when it has caught up, or read from the primary"));
        }
        return over(format!(
            "the server's transactions went back from {} to {}: it was restored",
            old.horizon, new.horizon
        ));
    }
    if now.xmax - old.horizon >= WIDEST {
        return over(format!(
            "{} transactions since the last run are more than row versions can tell apart (2^31)",
            now.xmax - old.horizon
        ));
    }
    if old.columns != new.columns {
        return over(format!("the columns of {relation} changed since the last run"));
    }
    let whole: Vec<u32> = new.relations.iter().filter(|r| !old.relations.contains(r)).map(|r| r.0).collect();
    let rows_gone = old.relations.iter().any(|r| !new.relations.contains(r));
    if rows_gone && whole.len() == new.relations.len() {
        return over(format!(
            "{relation} has other files than at the last run: it was truncated, rewritten (VACUUM FULL, CLUSTER, \
             ALTER TABLE) or made anew"
        ));
    }
    let known = |oid: &u32| old.relations.iter().any(|(known, _)| known == oid);
    let rewritten = whole.iter().copied().filter(known).collect();
    Ok(Since::Changes { whole, rewritten, rows_gone })
}

fn put_together(table: &Table, now: &Now, old: Option<&Position>, since: Option<Since>, settled: bool) -> Planned {
    let new = &now.position;
    let mut notes = now.notes.clone();
    // Versions that a later read gives, where each may be given once only.
    let unsettled = settled.then(|| in_window(new.horizon, now.xmax));
    let name = |oid: &u32| {
        let at = new.relations.iter().position(|(known, _)| known == oid);
        at.and_then(|at| now.names.get(at)).map(ToString::to_string).unwrap_or_default()
    };
    let (condition, started_over, rows_gone, mut repeats) = match (old, since) {
        (Some(old), Some(Since::Changes { whole, rewritten, rows_gone })) => {
            let until = if settled { new.horizon } else { now.xmax };
            let window = in_window(old.horizon, until);
            notes.push(format!(
                "every run reads all of {} at the source, because xmin has no index; rows of the transactions from {} \
                 up to {until} are sent",
                table.relation, old.horizon
            ));
            let condition = match whole.as_slice() {
                [] => window,
                whole => {
                    let names: Vec<_> = whole.iter().take(5).map(name).collect();
                    let more = if whole.len() > names.len() { ", …" } else { "" };
                    notes.push(format!(
                        "new or rewritten since the last run, and read whole: {}{more}",
                        names.join(", ")
                    ));
                    let of_them = one_of(whole);
                    match &unsettled {
                        Some(unsettled) => format!("({window}) OR ({of_them} AND NOT ({unsettled}))"),
                        None => format!("({window}) OR {of_them}"),
                    }
                }
            };
            let again = rewritten.first().map(|oid| format!("{} was rewritten, and is read again", name(oid)));
            (Some(condition), None, rows_gone, again)
        }
        (_, since) => {
            let why = match since {
                Some(Since::StartOver(why)) => Some(why),
                _ => None,
            };
            let gone = why.is_some();
            (unsettled.map(|unsettled| format!("NOT ({unsettled})")), why, gone, None)
        }
    };
    // A partition that was attached after the snapshot is read whole by the next run, and must not be read here as well.
    let condition = match condition {
        Some(condition) if settled && table.kind == RelationKind::Partitioned => {
            let known: Vec<u32> = new.relations.iter().map(|r| r.0).collect();
            Some(format!("({condition}) AND {}", one_of(&known)))
        }
        other => other,
    };
    if settled && now.xmax > EPOCH {
        repeats = repeats.or_else(|| {
            Some("the server has counted more than 2^32 transactions, so that a row which was not touched for that long \
                  can look new".to_owned())
        });
    }
    // Plain numbers and texts: nothing in it can fail to serialise.
    let position = serde_json::to_value(new).unwrap_or_default();
    let summary = format!("transactions before {}", new.horizon);
    Planned { condition, read: ChangeRead { position, summary, started_over, rows_gone, repeats }, notes }
}

fn one_of(oids: &[u32]) -> String {
    let list: Vec<_> = oids.iter().map(ToString::to_string).collect();
    format!("tableoid = ANY ('{{{}}}'::oid[])", list.join(","))
}

/// The condition that a version's 32 bits lie in `[from, to)`, which spans less than 2^31 transactions.
///
/// `age` counts from a point that stands still within a transaction, so the difference of two ages is the exact
/// distance; unlike the type xid itself it has arithmetic, and unlike a cast through text it costs next to nothing.
fn in_window(from: u64, to: u64) -> String {
    // Below the first normal transaction of an epoch there is none.
    let from = if from % EPOCH < FIRST_NORMAL { from - from % EPOCH + FIRST_NORMAL } else { from };
    if from >= to {
        return "false".to_owned();
    }
    format!("(((SELECT age('{}'::xid))::int8 - age(xmin)) & 4294967295) < {}", from % EPOCH, to - from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What the server makes of the condition: 32-bit ages counted from `now`, their distance modulo 2^32.
    fn holds(condition: &str, xid: u64, now: u64) -> bool {
        if condition == "false" {
            return false;
        }
        let number = |after: &str, until: &str| -> u64 {
            let rest = condition.split_once(after).unwrap().1;
            rest.split_once(until).map_or(rest, |(digits, _)| digits).parse().unwrap()
        };
        let (from, width) = (number("age('", "'"), number(") < ", "\u{0}"));
        let age = |xid: u64| match (xid % EPOCH) as u32 {
            0..=2 => i64::from(i32::MAX),
            xid => i64::from((now as u32).wrapping_sub(xid) as i32),
        };
        ((age(from) - age(xid)) & 0xFFFF_FFFF) < width as i64
    }

    #[test]
    fn a_window_has_its_transactions_and_no_others_wherever_it_lies() {
        let bases = [3, 4, 1000, WIDEST - 2, WIDEST, EPOCH - 3, EPOCH - 1, EPOCH, EPOCH + 1, EPOCH + 3, 5 * EPOCH - 2];
        for from in bases {
            for width in [0, 1, 2, 5, 1 << 16, WIDEST - 1] {
                let to = from + width;
                let condition = in_window(from, to);
                // The server may have gone on since the snapshot.
                for now in [to.max(3), to + 1, to + 1000] {
                    let edges = [from, from + 1, from + width / 2, to.saturating_sub(1), to, to + 1, to + 500];
                    let before = [from.saturating_sub(1), from.saturating_sub(2), from.saturating_sub(1 << 20)];
                    for xid in edges.into_iter().chain(before).filter(|xid| xid % EPOCH >= FIRST_NORMAL && *xid < now) {
                        let inside = from <= xid && xid < to;
                        assert_eq!(holds(&condition, xid, now), inside, "{xid} in {from}..{to} at {now}: {condition}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_version_of_an_earlier_epoch_is_at_most_read_again() {
        let condition = in_window(EPOCH + 100, EPOCH + 200);
        assert!(holds(&condition, 150, EPOCH + 300), "the same 32 bits");
        assert!(!holds(&condition, 99, EPOCH + 300) && !holds(&condition, 200, EPOCH + 300));
        for frozen in 0..FIRST_NORMAL {
            assert!(!holds(&condition, frozen, EPOCH + 300));
        }
    }

    fn position(horizon: u64, relations: &[(u32, u32)]) -> Position {
        Position {
            version: Position::VERSION,
            reader: Position::READER.into(),
            system: Some("7".into()),
            timeline: Some(1),
            database: 5,
            columns: "c".into(),
            horizon,
            relations: relations.to_vec(),
        }
    }

    fn now(position: Position, xmax: u64) -> Now {
        Now { position, xmax, recovery: false, names: Vec::new(), notes: Vec::new() }
    }

    fn since(old: &Position, now: &Now) -> Since {
        compare(old, now, &Relation::new("s", "t")).unwrap()
    }

    #[test]
    fn what_no_longer_says_what_changed_starts_over() {
        let old = position(1000, &[(16, 16)]);
        let same = || position(1100, &[(16, 16)]);
        assert_eq!(
            since(&old, &now(same(), 1200)),
            Since::Changes { whole: vec![], rewritten: vec![], rows_gone: false }
        );
        let reasons = [
            (Position { system: Some("8".into()), ..same() }, 1200, "another one"),
            (Position { timeline: Some(2), ..same() }, 1200, "timeline 1 to 2"),
            (Position { database: 6, ..same() }, 1200, "database"),
            (Position { columns: "d".into(), ..same() }, 1200, "columns of s.t"),
            (Position { relations: vec![(16, 17)], ..same() }, 1200, "other files"),
            (Position { relations: vec![(18, 18)], ..same() }, 1200, "other files"),
            (Position { horizon: 999, ..same() }, 1200, "went back from 1000 to 999"),
            (same(), 1000 + WIDEST, "2^31"),
        ];
        for (new, xmax, why) in reasons {
            match since(&old, &now(new, xmax)) {
                Since::StartOver(reason) => assert!(reason.contains(why), "{reason}"),
                other => unreachable!("{why}: {other:?}"),
            }
        }
        assert!(matches!(since(&old, &now(same(), 999 + WIDEST)), Since::Changes { .. }));
        // What the role may not ask for says nothing.
        let unknown = Position { system: None, timeline: None, ..same() };
        assert!(matches!(since(&old, &now(unknown, 1200)), Since::Changes { .. }));
    }

    #[test]
    fn a_standby_that_lags_is_asked_again_later() {
        let behind = Now { recovery: true, ..now(position(999, &[(16, 16)]), 1200) };
        let error = compare(&position(1000, &[(16, 16)]), &behind, &Relation::new("s", "t")).unwrap_err();
        assert!(error.is_transient() && error.hint().is_some(), "{error:?}");
    }

    #[test]
    fn of_a_partitioned_table_only_the_leaves_that_changed_are_read_whole() {
        let old = position(1000, &[(16, 16), (17, 17), (18, 18)]);
        let new = now(position(1100, &[(16, 16), (17, 27), (19, 19)]), 1200);
        assert_eq!(since(&old, &new), Since::Changes { whole: vec![17, 19], rewritten: vec![17], rows_gone: true });
        let added = now(position(1100, &[(16, 16), (17, 17), (18, 18), (19, 19)]), 1200);
        assert_eq!(since(&old, &added), Since::Changes { whole: vec![19], rewritten: vec![], rows_gone: false });
    }

    #[test]
    fn a_position_survives_its_state_and_others_are_refused() {
        let position = position(EPOCH + 5, &[(16, 16)]);
        let stored = serde_json::to_value(&position).unwrap();
        assert_eq!(parse(&stored).unwrap(), position);
        let mut newer = stored.clone();
        newer["version"] = 2.into();
        let mut other = stored;
        other["reader"] = "lsn".into();
        for bad in [newer, other, serde_json::json!({}), serde_json::json!(7)] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
