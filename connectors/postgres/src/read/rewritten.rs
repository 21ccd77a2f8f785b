//! Tables that were truncated or rewritten while they were read.
//!
//! TRUNCATE, and an ALTER that rewrites, empty a table for older snapshots as well: a reader that comes after them sees
//! no row, and no error. Holding the tables would keep such statements out, and stop the load as soon as one waits: the
//! next reader would wait behind it, and it behind us. So they may run, and the load is refused before its commit.

use dpone_planner::{Error, Result};

use crate::client::{Client, Server};

/// The file in which a table's rows lay when the snapshot was taken.
#[derive(Debug)]
pub(super) struct StoredFile {
    table: u32,
    name: String,
    file: u32,
}

/// The files of some relations, of their partitions, and of what views among them read, as the snapshot of this
/// transaction sees them.
pub(super) async fn files(client: &Client, relations: &[u32]) -> Result<Vec<StoredFile>> {
    let sql = "WITH RECURSIVE tree AS (SELECT unnest($1::oid[]) AS oid UNION \
               SELECT coalesce(i.inhrelid, d.refobjid) FROM tree t \
               LEFT JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid \
               LEFT JOIN pg_catalog.pg_rewrite r ON r.ev_class = t.oid AND i.inhrelid IS NULL \
               LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid \
                    AND d.refclassid = 'pg_catalog.pg_class'::regclass \
               WHERE i.inhrelid IS NOT NULL OR d.refobjid IS NOT NULL) \
               SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relfilenode \
               FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'm') AND c.relfilenode <> 0";
    let rows = client.rows(sql, &[&relations]).await?;
    Ok(rows.iter().map(|row| StoredFile { table: row.get(0), name: row.get(1), file: row.get(2) }).collect())
}

/// The relations that this transaction has come to hold, other than the server's own: what a statement reads, once it was
/// prepared.
pub(super) async fn held(client: &Client) -> Result<Vec<u32>> {
    let sql = "SELECT DISTINCT l.relation FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' \
               AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";
    Ok(client.rows(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Fails with `transient` when a table's rows lie elsewhere by now.
pub(super) async fn verify(server: &Server, files: &[StoredFile]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    // Within the snapshot's transaction the server may still believe what it looked up before.
    let client = server.connect().await?;
    let tables: Vec<u32> = files.iter().map(|file| file.table).collect();
    let sql = "SELECT pg_catalog.pg_relation_filenode(oid) FROM unnest($1::oid[]) WITH ORDINALITY AS t(oid, nth) ORDER BY nth";
    let now = client.rows(sql, &[&tables]).await?;
    client.close().await;
    let moved = files.iter().zip(&now).find(|(file, row)| row.get::<_, Option<u32>>(0) != Some(file.file));
    match moved {
        None => Ok(()),
        Some((file, _)) => {
            Err(Error::transient(format!("{} was truncated, rewritten or dropped while it was read", file.name))
                .with("table", &file.name)
                .with_hint("run again: what was read of it may be incomplete; nothing was committed"))
        }
    }
}
