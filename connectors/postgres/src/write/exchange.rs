//! The swap: a finished table takes the target's name, with everything that belonged to the old one.
//!
//! Rows are loaded and indexes built on the finished table while readers and writers use the old one. The commit then
//! drops the old table and renames the new one, which takes as long as the catalog needs. `DROP TABLE` without CASCADE
//! is the last guard: whatever depends on the table and was not foreseen stops it, and the rows are copied instead.

use dpone_engine::{Commit, Error, ErrorKind, LoadSpec, Relation, Result};
use dpone_planner::plan::{INSERT_OR_UPDATE, OPERATION_COLUMN};
use tokio_postgres::error::SqlState;

use super::PostgresSink;
use super::commit::{Applied, guard, staged_key};
use super::keep::{self, Index, Kept};
use super::names::{MAX_NAME, StagingNames, list, literal, quote, relation};
use super::staging::{Layout, has_operation};
use super::target;
use crate::client::{CancelOnDrop, Client};
use crate::error::from_driver;
use crate::state::exists;

/// The finished table: what was built on it, and how many rows it has where they were copied within the server.
#[derive(Debug)]
pub(super) struct Finished {
    kept: Option<Kept>,
    rows: Option<u64>,
    /// Why something of the old table could not be built: the rows are then copied into the old table.
    failed: Option<String>,
}

pub(super) enum Swapped {
    Done(Applied),
    /// Nothing was changed.
    Forbidden(Vec<String>),
}

pub(super) fn fallback_note(target: &Relation, reasons: &[String]) -> String {
    format!("exchange fell back to truncate_insert: {target} cannot be swapped, because {}", reasons.join("; "))
}

/// Why the table cannot be swapped; empty when it can.
pub(super) async fn obstacles(client: &Client, oid: u32) -> Result<Vec<String>> {
    Ok(client.rows(OBSTACLES, &[&oid]).await?.iter().map(|row| row.get(0)).collect())
}

const OBSTACLES: &str = "\
WITH t AS (SELECT c.*, y.typarray FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_type y ON y.oid = c.reltype \
            WHERE c.oid = $1),
 identities AS (SELECT d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
                 WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid AND d.refobjid = $1 \
                   AND d.deptype = 'i'),
 dependents AS (
  SELECT d.classid, d.objid, d.objsubid FROM pg_catalog.pg_depend d, t
   WHERE (d.refclassid = 'pg_catalog.pg_class'::regclass
          AND (d.refobjid = $1 OR d.refobjid IN (SELECT objid FROM identities)))
      OR (d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (t.reltype, t.typarray)))
SELECT 'it is partitioned'::text FROM t WHERE relkind = 'p'
UNION ALL SELECT 'it is temporary' FROM t WHERE relpersistence = 't'
UNION ALL SELECT 'it is a partition' FROM t WHERE relispartition
UNION ALL SELECT 'it takes part in inheritance' FROM t WHERE NOT relispartition AND relkind = 'r' AND EXISTS (
  SELECT FROM pg_catalog.pg_inherits WHERE inhparent = $1 OR inhrelid = $1)
UNION ALL SELECT 'it is made of a type' FROM t WHERE reloftype <> 0
UNION ALL SELECT pg_catalog.format('the foreign key %I of %s refers to it', conname, conrelid::pg_catalog.regclass)
  FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = $1 AND conrelid <> $1 AND conparentid = 0
UNION ALL SELECT 'the role does not own it' FROM t WHERE NOT pg_catalog.pg_has_role(relowner, 'USAGE')
UNION ALL SELECT 'the role may not create tables in its schema' FROM t
  WHERE NOT pg_catalog.has_schema_privilege(relnamespace, 'CREATE')
UNION ALL SELECT 'its owner may not create tables in its schema' FROM t
  WHERE NOT pg_catalog.has_schema_privilege(relowner, relnamespace, 'CREATE')
    AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
UNION ALL SELECT 'it has a security label' FROM t WHERE EXISTS (
  SELECT FROM pg_catalog.pg_seclabel WHERE objoid = $1 AND classoid = 'pg_catalog.pg_class'::regclass)
UNION ALL SELECT 'privileges on it were granted by another role than its owner' FROM t WHERE EXISTS (
  SELECT FROM pg_catalog.aclexplode(t.relacl) a WHERE a.grantor <> t.relowner)
UNION ALL SELECT 'a subscription writes to it' FROM t WHERE EXISTS (
  SELECT FROM pg_catalog.pg_subscription_rel WHERE srrelid = $1)
UNION ALL SELECT pg_catalog.format('the index %I is invalid', ic.relname) FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid WHERE i.indrelid = $1 AND NOT i.indisvalid
UNION ALL SELECT 'it belongs to an extension' FROM t WHERE EXISTS (SELECT FROM pg_catalog.pg_depend
  WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = $1 AND deptype = 'e')
UNION ALL SELECT DISTINCT CASE
    WHEN r.ev_class = $1 THEN pg_catalog.format('it has the rule %I', r.rulename)
    ELSE COALESCE(pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, r.ev_class, 0),
                  pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)) || ' depends on it' END
  FROM dependents d CROSS JOIN t
  LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
 WHERE NOT (
      (d.classid = 'pg_catalog.pg_class'::regclass AND (
          d.objid IN ($1, t.reltoastrelid) OR d.objid IN (SELECT objid FROM identities)
          OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indexrelid = d.objid AND i.indrelid = $1)
          OR EXISTS (SELECT FROM pg_catalog.pg_class s JOIN pg_catalog.pg_depend o ON o.objid = s.oid
                      WHERE s.oid = d.objid AND s.relkind = 'S' AND o.refobjid = $1 AND o.deptype IN ('a', 'i'))))
   -- Before version 14 a sequence has a row type.
   OR (d.classid = 'pg_catalog.pg_type'::regclass AND (d.objid IN (t.reltype, t.typarray)
       OR EXISTS (SELECT FROM pg_catalog.pg_type x JOIN identities i ON i.objid = x.typrelid WHERE x.oid = d.objid)))
   OR (d.classid = 'pg_catalog.pg_attrdef'::regclass
       AND EXISTS (SELECT FROM pg_catalog.pg_attrdef x WHERE x.oid = d.objid AND x.adrelid = $1))
   OR (d.classid = 'pg_catalog.pg_constraint'::regclass
       AND EXISTS (SELECT FROM pg_catalog.pg_constraint x WHERE x.oid = d.objid
                    AND (x.conrelid = $1 OR (x.contype = 'f' AND x.confrelid = $1))))
   OR (d.classid = 'pg_catalog.pg_trigger'::regclass
       AND EXISTS (SELECT FROM pg_catalog.pg_trigger x WHERE x.oid = d.objid
                    AND (x.tgrelid = $1 OR x.tgisinternal)))
   OR (d.classid = 'pg_catalog.pg_policy'::regclass
       AND EXISTS (SELECT FROM pg_catalog.pg_policy x WHERE x.oid = d.objid AND x.polrelid = $1))
   OR (d.classid = 'pg_catalog.pg_publication_rel'::regclass
       AND EXISTS (SELECT FROM pg_catalog.pg_publication_rel x WHERE x.oid = d.objid AND x.prrelid = $1))
   OR (d.classid = 'pg_catalog.pg_statistic_ext'::regclass
       AND EXISTS (SELECT FROM pg_catalog.pg_statistic_ext x WHERE x.oid = d.objid AND x.stxrelid = $1)))";

/// An empty table with the target's columns, defaults, checks and storage, and without its indexes.
pub(super) async fn create_like(client: &Client, oid: u32, target: &Relation, finished: &Relation) -> Result<String> {
    // Other access methods than heap exist since version 12.
    let method = match client.version() {
        120_000.. => "(SELECT amname::text FROM pg_catalog.pg_am WHERE oid = c.relam)",
        _ => "NULL::text",
    };
    let sql = format!(
        "SELECT c.relpersistence = 'u', {method}, COALESCE(c.reloptions, '{{}}'), \
                COALESCE((SELECT t.reloptions FROM pg_catalog.pg_class t WHERE t.oid = c.reltoastrelid), '{{}}'), \
                (SELECT s.spcname::text FROM pg_catalog.pg_tablespace s WHERE s.oid = c.reltablespace) \
           FROM pg_catalog.pg_class c WHERE c.oid = $1"
    );
    let row =
        client.row(&sql, &[&oid]).await?.ok_or_else(|| Error::conflict(format!("the target {target} is gone")))?;
    let (unlogged, method): (bool, Option<String>) = (row.get(0), row.get(1));
    let (own, toast): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
    let options: Vec<String> = own
        .iter()
        .map(|option| ("", option))
        .chain(toast.iter().map(|option| ("toast.", option)))
        .filter_map(|(prefix, option)| option.split_once('=').map(|(k, v)| format!("{prefix}{k} = {}", literal(v))))
        .collect();
    let mut sql = format!(
        "CREATE {}TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS)",
        if unlogged { "UNLOGGED " } else { "" },
        relation(finished),
        relation(target)
    );
    if let Some(method) = method {
        sql.push_str(&format!(" USING {}", quote(&method)));
    }
    if !options.is_empty() {
        sql.push_str(&format!(" WITH ({})", options.join(", ")));
    }
    if let Some(tablespace) = row.get::<_, Option<String>>(4) {
        sql.push_str(&format!(" TABLESPACE {}", quote(&tablespace)));
    }
    Ok(sql)
}

/// Fills the finished table where its rows wait elsewhere, and builds what needs its rows. Repeatable.
pub(super) async fn finish(
    sink: &PostgresSink,
    commit: &Commit<'_>,
    layout: &Layout,
    names: &StagingNames,
    target: &Relation,
) -> Result<Finished> {
    let client = sink.server.connect().await?;
    let cancel = CancelOnDrop::new(&client);
    let rows = if layout.separate_rows { Some(fill(&client, commit.load, layout, names).await?) } else { None };
    // Building runs alone and once: it may use more memory than the server gives every session.
    client
        .run(
            "SELECT pg_catalog.set_config('maintenance_work_mem', '256MB', false) \
               FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem' AND setting::bigint < 262144; \
             SELECT pg_catalog.set_config('max_parallel_maintenance_workers', '4', false) \
               FROM pg_catalog.pg_settings WHERE name = 'max_parallel_maintenance_workers' AND setting::bigint < 4",
        )
        .await?;
    let mut finished = Finished { kept: None, rows, failed: None };
    match &layout.target {
        None => new_key(&client, commit.load, names, target).await?,
        Some(table) => {
            let kept = read_kept(&client, table.oid).await?;
            finished.failed = build(&client, &kept, names, target).await?;
            finished.kept = Some(kept);
        }
    }
    client.run(&format!("ANALYZE {}", relation(&names.finished()))).await?;
    cancel.disarm();
    Ok(finished)
}

async fn read_kept(client: &Client, oid: u32) -> Result<Kept> {
    client.run("BEGIN; SET LOCAL search_path = ''").await?;
    let kept = keep::read(client, oid).await?;
    client.run("COMMIT").await?;
    Ok(kept)
}

async fn fill(client: &Client, load: &LoadSpec, layout: &Layout, names: &StagingNames) -> Result<u64> {
    let finished = relation(&names.finished());
    let into =
        target::read(client, &names.finished()).await?.ok_or_else(|| Error::transient("the staging table is gone"))?;
    let columns = layout.names();
    let values: Vec<String> = columns.iter().map(|c| layout.value(c)).collect();
    let only = match has_operation(load) {
        true => format!(" WHERE s.{} = {INSERT_OR_UPDATE}", quote(OPERATION_COLUMN)),
        false => String::new(),
    };
    client.run(&format!("BEGIN; TRUNCATE {finished}")).await?;
    let count = client
        .execute(
            &format!(
                "INSERT INTO {finished} ({}) {}SELECT {} FROM {} s{only}",
                list(columns.iter().copied()),
                into.overriding(&columns),
                values.join(", "),
                relation(&names.rows())
            ),
            &[],
        )
        .await?;
    client.run("COMMIT").await?;
    Ok(count)
}

/// The primary key of a table that is created.
async fn new_key(client: &Client, load: &LoadSpec, names: &StagingNames, target: &Relation) -> Result<()> {
    let index = names.index(0);
    if load.primary_key.is_empty() || exists(client, &Relation::new(&names.schema, &index)).await? {
        return Ok(());
    }
    let sql = format!(
        "ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY ({})",
        relation(&names.finished()),
        quote(&index),
        list(load.primary_key.iter().map(String::as_str))
    );
    client.batch_execute(&sql).await.map_err(|error| broken(error, "the primary key", target))
}

/// Builds indexes, constraints and foreign keys on the finished table. `Some`: why one could not be built, though the
/// rows do not break it.
async fn build(client: &Client, kept: &Kept, names: &StagingNames, target: &Relation) -> Result<Option<String>> {
    let table = relation(&names.finished());
    let mut steps: Vec<(String, String)> = kept
        .columns
        .iter()
        .map(|part| ("a column's settings".to_owned(), format!("ALTER TABLE {table} {part}")))
        .collect();
    for (ordinal, index) in kept.indexes.iter().enumerate() {
        let name = names.index(ordinal);
        if exists(client, &Relation::new(&names.schema, &name)).await? {
            continue;
        }
        steps.push((format!("the index {:?}", index.name), index_sql(index, &name, &names.schema, &table)));
    }
    for (name, definition) in &kept.foreign_keys {
        if constraint_exists(client, &names.finished(), name).await? {
            continue;
        }
        steps.push((format!("the foreign key {name:?}"), foreign_key_sql(name, definition, &table)));
    }
    for (what, sql) in steps {
        if let Err(error) = client.batch_execute(&sql).await {
            let class = error.code().map(|code| code.code()[..2].to_owned());
            return match class.as_deref() {
                Some("22" | "23") | None => Err(broken(error, &what, target)),
                // Rights, unusual definitions: the old table has the thing, so the rows go there.
                Some("42" | "0A" | "55") => Ok(Some(format!("{what} could not be built again"))),
                Some(_) => Err(from_driver(error)),
            };
        }
    }
    Ok(None)
}

fn index_sql(index: &Index, name: &str, schema: &str, table: &str) -> String {
    let tablespace = format!("SET default_tablespace = {}", literal(&index.tablespace));
    let qualified = relation(&Relation::new(schema, name));
    match &index.constraint {
        Some(constraint) => {
            let mut sql = format!("{tablespace}; ALTER TABLE {table} ADD CONSTRAINT {} {constraint}", quote(name));
            if let Some(options) = &index.options {
                sql.push_str(&format!("; ALTER INDEX {qualified} SET ({options})"));
            }
            sql
        }
        None => format!(
            "{tablespace}; CREATE {}INDEX {} ON {table} USING {}",
            if index.unique { "UNIQUE " } else { "" },
            quote(name),
            index.definition
        ),
    }
}

/// Adding and checking apart: only the adding locks the referenced table against writers, and it is over at once.
fn foreign_key_sql(name: &str, definition: &str, table: &str) -> String {
    let name = quote(name);
    if definition.ends_with("NOT VALID") || definition.ends_with("NOT ENFORCED") {
        return format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}");
    }
    format!(
        "ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID; ALTER TABLE {table} VALIDATE CONSTRAINT {name}"
    )
}

async fn constraint_exists(client: &Client, table: &Relation, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2 AND k.conname = $3)";
    Ok(client.row(sql, &[&table.schema, &table.name, &name]).await?.is_some_and(|row| row.get(0)))
}

fn broken(error: tokio_postgres::Error, what: &str, target: &Relation) -> Error {
    if error.code().is_some_and(|code| code.code().starts_with("23")) {
        return Error::data_quality(format!("the loaded rows break {what} of {target}"))
            .with_hint("check the source for duplicates, NULLs and missing references in its columns")
            .with("table", target.to_string());
    }
    from_driver(error)
}

/// Swaps, inside the commit's transaction.
pub(super) async fn swap(
    client: &Client,
    commit: &Commit<'_>,
    layout: &Layout,
    names: &StagingNames,
    target: &Relation,
    finished: &Finished,
) -> Result<Swapped> {
    let staged = commit.staged.iter().map(|p| p.rows).sum();
    let rows = finished.rows.unwrap_or(staged);
    let (Some(planned), Some(kept)) = (&layout.target, &finished.kept) else {
        first(client, commit.load, names, target).await?;
        // What is missing are deletions, in a table that has nothing to delete.
        let unchanged = staged - rows;
        return Ok(Swapped::Done(Applied { inserted: rows, unchanged, ..Applied::default() }));
    };
    // Writers stop here, readers go on: the old rows are counted before they are replaced.
    client.run(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE; SAVEPOINT swap", relation(target))).await?;
    let altered = || {
        Error::conflict(format!("the target {target} was altered during the load"))
            .with_hint("run again: the load is planned from what is there now")
            .with("table", target.to_string())
    };
    let now = target::read(client, target).await?.ok_or_else(altered)?;
    if now != *planned {
        return Err(altered());
    }
    let mut reasons: Vec<String> = finished.failed.iter().cloned().collect();
    reasons.extend(obstacles(client, planned.oid).await?);
    if !reasons.is_empty() {
        return Ok(Swapped::Forbidden(reasons));
    }
    let sql = format!("SELECT count(*) FROM {}", relation(target));
    let before = client.row(&sql, &[]).await?.map_or(0, |row| row.get::<_, i64>(0)) as u64;
    let key = staged_key(client, commit, planned.oid, layout).await?;
    let removed = if key.is_empty() {
        before.saturating_sub(rows)
    } else {
        let same: Vec<String> = key.iter().map(|k| format!("t.{0} = s.{0}", quote(k))).collect();
        let sql = format!(
            "SELECT count(*) FROM {} t WHERE NOT EXISTS (SELECT FROM {} s WHERE {})",
            relation(target),
            relation(&names.finished()),
            same.join(" AND ")
        );
        client.row(&sql, &[]).await?.map_or(0, |row| row.get::<_, i64>(0)) as u64
    };
    guard(client, commit, target, removed).await?;
    client.run("SET LOCAL search_path = ''").await?;
    if keep::read(client, planned.oid).await? != *kept {
        return Err(altered());
    }
    let reason = match replace(client, kept, names, target).await {
        Ok(None) => return Ok(Swapped::Done(Applied { inserted: rows, deleted: before, ..Applied::default() })),
        Ok(Some(reason)) => reason,
        // Something that it has belongs to somebody else, such as a publication.
        Err(error) if error.kind() == ErrorKind::Authorization => error.message().to_owned(),
        Err(error) => return Err(error),
    };
    client.run("ROLLBACK TO SAVEPOINT swap").await?;
    Ok(Swapped::Forbidden(vec![reason]))
}

/// The finished table becomes a target that was not there.
async fn first(client: &Client, load: &LoadSpec, names: &StagingNames, target: &Relation) -> Result<()> {
    if exists(client, target).await? {
        return Err(Error::conflict(format!("the target {target} was created during the load"))
            .with_hint("run again: the load is planned from what is there now")
            .with("table", target.to_string()));
    }
    rename(client, names, target).await?;
    if !load.primary_key.is_empty() {
        let index = Relation::new(&target.schema, names.index(0));
        let name = free_name(client, target, "_pkey").await?;
        client.run(&format!("ALTER INDEX {} RENAME TO {}", relation(&index), quote(&name))).await?;
    }
    Ok(())
}

async fn rename(client: &Client, names: &StagingNames, target: &Relation) -> Result<()> {
    let mut finished = names.finished();
    if finished.schema != target.schema {
        client.run(&format!("ALTER TABLE {} SET SCHEMA {}", relation(&finished), quote(&target.schema))).await?;
        finished.schema.clone_from(&target.schema);
    }
    client.run(&format!("ALTER TABLE {} RENAME TO {}", relation(&finished), quote(&target.name))).await
}

/// The name that the server would give: the table's, cut so that the ending fits.
async fn free_name(client: &Client, target: &Relation, ending: &str) -> Result<String> {
    for attempt in 0..100 {
        let ending = if attempt == 0 { ending.to_owned() } else { format!("{ending}{attempt}") };
        let mut end = target.name.len().min(MAX_NAME - ending.len());
        while !target.name.is_char_boundary(end) {
            end -= 1;
        }
        let name = format!("{}{ending}", &target.name[..end]);
        if !exists(client, &Relation::new(&target.schema, &name)).await? {
            return Ok(name);
        }
    }
    Err(Error::configuration(format!("no name is free for the primary key of {target}")))
}

/// Drops the old table and gives the new one its name and all that it had. `Some`: why it could not be dropped.
async fn replace(client: &Client, kept: &Kept, names: &StagingNames, target: &Relation) -> Result<Option<String>> {
    let name = relation(target);
    let mut positions = Vec::new();
    for identity in &kept.identities {
        let sequence = relation(&Relation::new(&identity.schema, &identity.sequence));
        let row = client.row(&format!("SELECT last_value, is_called FROM {sequence}"), &[]).await?;
        positions.push(row.map_or((1i64, false), |row| (row.get(0), row.get(1))));
    }
    for sequence in &kept.release {
        client.run(&format!("ALTER SEQUENCE {sequence} OWNED BY NONE")).await?;
    }
    match client.batch_execute(&format!("DROP TABLE {name}")).await {
        Ok(()) => {}
        Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
            return Ok(Some("something else depends on it".to_owned()));
        }
        Err(error) => return Err(from_driver(error)),
    }
    rename(client, names, target).await?;
    for (ordinal, index) in kept.indexes.iter().enumerate() {
        let built = relation(&Relation::new(&target.schema, names.index(ordinal)));
        client.run(&format!("ALTER INDEX {built} RENAME TO {}", quote(&index.name))).await?;
    }
    client.run(&format!("ALTER TABLE {name} OWNER TO {}", quote(&kept.owner))).await?;
    regrant(client, &name, "TABLE", kept.owner.as_str(), kept.grants.as_deref()).await?;
    for (identity, (last, called)) in kept.identities.iter().zip(positions) {
        let own = client
            .row("SELECT pg_catalog.pg_get_serial_sequence($1, $2)", &[&name, &identity.column])
            .await?
            .and_then(|row| row.get::<_, Option<String>>(0))
            .ok_or_else(|| Error::internal(format!("column {:?} lost its identity", identity.column)))?;
        let sequence = relation(&Relation::new(&identity.schema, &identity.sequence));
        client.run(&format!("ALTER SEQUENCE {own} RENAME TO {}", quote(&identity.sequence))).await?;
        client.run(&format!("ALTER SEQUENCE {sequence} {}", identity.options)).await?;
        client.run(&format!("SELECT pg_catalog.setval({}, {last}, {called})", literal(&sequence))).await?;
        regrant(client, &sequence, "SEQUENCE", &kept.owner, identity.grants.as_deref()).await?;
    }
    for sql in &kept.after {
        client.run(sql).await?;
    }
    Ok(None)
}

/// Default privileges of the schema may have been given to the new object: they go, and the old one's come.
async fn regrant(client: &Client, name: &str, kind: &str, owner: &str, grants: Option<&[String]>) -> Result<()> {
    let sql = "SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' \
                      ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END \
                 FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a \
                WHERE c.oid = $1::text::pg_catalog.regclass";
    let grantees: Vec<String> = client.rows(sql, &[&name]).await?.iter().map(|row| row.get(0)).collect();
    if grants.is_none() && grantees.is_empty() {
        return Ok(());
    }
    for grantee in grantees.iter().chain([&quote(owner)]) {
        client.run(&format!("REVOKE ALL ON {kind} {name} FROM {grantee}")).await?;
    }
    match grants {
        Some(grants) => {
            for grant in grants {
                client.run(grant).await?;
            }
            Ok(())
        }
        None => client.run(&format!("GRANT ALL ON {kind} {name} TO {}", quote(owner))).await,
    }
}
