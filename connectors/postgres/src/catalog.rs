//! What the catalogs say about a relation: its columns and types, key and size. Reader and writer share it.

use std::collections::HashMap;

use dpone_planner::definition::nearest;
use dpone_planner::{Error, Relation, Result};

use crate::client::Client;
use crate::types::{PgType, TypeKind};

/// A relation as it is.
#[derive(Debug, Clone)]
pub struct Table {
    pub oid: u32,
    /// With the schema in which it was found.
    pub relation: Relation,
    pub kind: RelationKind,
    pub columns: Vec<TableColumn>,
    /// Column names in key order.
    pub primary_key: Vec<String>,
    /// Other tables inherit from it: their rows are among its own, and its keys do not hold for them.
    pub inherited: bool,
    /// Estimates; of all leaves together for a partitioned table.
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    /// Blocks of the main fork, now.
    pub pages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
}

impl RelationKind {
    fn from_catalog(relkind: &str) -> Option<Self> {
        Some(match relkind {
            "r" => Self::Table,
            "p" => Self::Partitioned,
            "v" => Self::View,
            "m" => Self::MaterializedView,
            "f" => Self::Foreign,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Partitioned => "partitioned_table",
            Self::View => "view",
            Self::MaterializedView => "materialized_view",
            Self::Foreign => "foreign_table",
        }
    }
}

#[derive(Debug, Clone)]
pub struct TableColumn {
    pub name: String,
    pub native: PgType,
    pub nullable: bool,
    /// `GENERATED ALWAYS AS (…) STORED`: cannot be written.
    pub generated: bool,
    /// `GENERATED … AS IDENTITY`: filled where nothing is written.
    pub identity: bool,
    /// Where it is not that of the type.
    pub collation: Option<String>,
}

/// The relation, or `None` when there is none of that name. An empty schema means the connection's, and without one the
/// search path.
pub async fn find(client: &Client, relation: &Relation, default_schema: Option<&str>) -> Result<Option<Table>> {
    if let Some(database) = &relation.database
        && client.scalar("SELECT current_database()").await?.as_deref() != Some(database.as_str())
    {
        return Err(Error::configuration(format!(
            "{relation}: a connection reaches one database, and not {database:?}"
        ))
        .with_hint("define another connection for the other database"));
    }
    let schema = if relation.schema.is_empty() { default_schema.unwrap_or_default() } else { &relation.schema };
    let sql = "SELECT c.oid, n.nspname::text, c.relkind::text, c.reltuples::float8, pg_relation_size(c.oid) AS bytes, \
               current_setting('block_size')::int8 AS block_size, \
               EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid) AS has_children \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
               AND (n.nspname = $1 OR ($1 = '' AND pg_table_is_visible(c.oid)))";
    let Some(row) = client.row(sql, &[&schema, &relation.name]).await? else { return Ok(None) };
    let oid: u32 = row.get(0);
    let relkind: String = row.get(2);
    let kind = RelationKind::from_catalog(&relkind)
        .ok_or_else(|| Error::internal(format!("{relation}: unknown kind of relation {relkind:?}")))?;
    let (mut tuples, mut bytes): (f64, i64) = (row.get(3), row.get::<_, Option<i64>>(4).unwrap_or(0));
    let block_size: i64 = row.get(5);
    if kind == RelationKind::Partitioned {
        (tuples, bytes) = (0.0, 0);
        for leaf in leaves(client, oid).await? {
            tuples += leaf.tuples.max(0.0);
            bytes += leaf.bytes as i64;
        }
    }
    let stored = matches!(kind, RelationKind::Table | RelationKind::Partitioned | RelationKind::MaterializedView);
    Ok(Some(Table {
        oid,
        relation: Relation::new(row.get::<_, String>(1), &relation.name),
        kind,
        columns: columns(client, oid).await?,
        primary_key: primary_key(client, oid).await?,
        inherited: kind == RelationKind::Table && row.get(6),
        // Minus one, and before version 14 zero, say that nobody has counted yet.
        rows: (tuples > 0.0 || (tuples == 0.0 && bytes == 0 && stored)).then_some(tuples.max(0.0) as u64),
        bytes: stored.then_some(bytes as u64),
        pages: (bytes / block_size.max(1)) as u64,
    }))
}

/// The relation, or an error that lists names that are near.
pub async fn require(client: &Client, relation: &Relation, default_schema: Option<&str>) -> Result<Table> {
    if let Some(table) = find(client, relation, default_schema).await? {
        return Ok(table);
    }
    let shown = if relation.schema.is_empty() { relation.name.clone() } else { relation.to_string() };
    let rows = client
        .rows(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' \
             AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1, 2 LIMIT 5000",
            &[],
        )
        .await?;
    let names: Vec<(String, String)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    let elsewhere: Vec<_> =
        names.iter().filter(|(_, name)| *name == relation.name).map(|(s, n)| format!("{s}.{n}")).take(3).collect();
    let full: Vec<String> = names.iter().map(|(s, n)| format!("{s}.{n}")).collect();
    let wanted = if relation.schema.is_empty() {
        format!("{}.{}", default_schema.unwrap_or("public"), relation.name)
    } else {
        relation.to_string()
    };
    let hint = if !elsewhere.is_empty() {
        format!("there is {}", elsewhere.join(", "))
    } else if let Some(near) = nearest(&wanted, full.iter().map(String::as_str)) {
        format!("did you mean {near}?")
    } else if full.is_empty() {
        "the database has no table that this user sees".to_owned()
    } else {
        format!("there is {}{}", full[..full.len().min(8)].join(", "), if full.len() > 8 { ", …" } else { "" })
    };
    Err(Error::configuration(format!("there is no table {shown}")).with("table", shown).with_hint(hint))
}

/// A relation that holds rows below a partitioned one.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub oid: u32,
    pub relation: Relation,
    pub foreign: bool,
    pub tuples: f64,
    pub bytes: u64,
    pub pages: u64,
}

/// All leaves of a partitioned table, at any depth.
pub async fn leaves(client: &Client, parent: u32) -> Result<Vec<Leaf>> {
    let sql = "WITH RECURSIVE tree AS (SELECT $1::oid AS oid UNION ALL \
               SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid) \
               SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.reltuples::float8, \
               COALESCE(pg_relation_size(c.oid), 0), current_setting('block_size')::int8 \
               FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'f') ORDER BY c.oid";
    let rows = client.rows(sql, &[&parent]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let bytes = row.get::<_, i64>(5).max(0) as u64;
            Leaf {
                oid: row.get(0),
                relation: Relation::new(row.get::<_, String>(1), row.get::<_, String>(2)),
                foreign: row.get::<_, String>(3) == "f",
                tuples: row.get(4),
                bytes,
                pages: bytes / row.get::<_, i64>(6).max(1) as u64,
            }
        })
        .collect())
}

async fn columns(client: &Client, relation: u32) -> Result<Vec<TableColumn>> {
    // Generated columns exist since version 12.
    let generated = if client.version() >= 120_000 { "attgenerated::text <> ''" } else { "false" };
    let sql = format!(
        "SELECT attname::text, atttypid, atttypmod, attnotnull, {generated}, attidentity::text <> '', \
         (SELECT CASE n.nspname WHEN 'pg_catalog' THEN l.collname ELSE format('\"%s\".\"%s\"', replace(n.nspname, '\"', '\"\"'), \
                 replace(l.collname, '\"', '\"\"')) END::text \
            FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace JOIN pg_type t ON t.oid = a.atttypid \
           WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation) \
         FROM pg_attribute a WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    );
    let rows = client.rows(&sql, &[&relation]).await?;
    let wanted: Vec<(u32, i32)> = rows.iter().map(|r| (r.get(1), r.get(2))).collect();
    let types = types(client, &wanted).await?;
    Ok(rows
        .iter()
        .zip(types)
        .map(|(row, native)| TableColumn {
            name: row.get(0),
            native,
            nullable: !row.get::<_, bool>(3),
            generated: row.get(4),
            identity: row.get(5),
            collation: row.get(6),
        })
        .collect())
}

/// The columns of the primary key, in its order; empty without one.
pub(crate) async fn primary_key(client: &Client, relation: u32) -> Result<Vec<String>> {
    let sql = "SELECT a.attname::text FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, at) \
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
               WHERE i.indrelid = $1 AND i.indisprimary AND k.at <= i.indnkeyatts ORDER BY k.at";
    Ok(client.rows(sql, &[&relation]).await?.iter().map(|row| row.get(0)).collect())
}

/// Describes types, given as OID and modifier, in the given order.
pub async fn types(client: &Client, wanted: &[(u32, i32)]) -> Result<Vec<PgType>> {
    let (oids, typmods): (Vec<u32>, Vec<i32>) = wanted.iter().copied().unzip();
    // Below a domain is its base, below an array its element, which has the array's modifier.
    let sql = "WITH RECURSIVE t(oid, typmod) AS ( \
               SELECT * FROM unnest($1::oid[], $2::int4[]) UNION \
               SELECT CASE p.typtype WHEN 'd' THEN p.typbasetype ELSE p.typelem END, \
                      CASE p.typtype WHEN 'd' THEN p.typtypmod ELSE t.typmod END \
               FROM t JOIN pg_type p ON p.oid = t.oid \
               WHERE p.typtype = 'd' OR (p.typelem <> 0 AND p.typlen = -1)) \
               SELECT t.oid, t.typmod, format_type(t.oid, t.typmod), quote_ident(n.nspname), p.typtype::text, \
               p.typelem, p.typbasetype, p.typtypmod, COALESCE(f.prosrc, ''), \
               (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = p.oid) \
               FROM t JOIN pg_type p ON p.oid = t.oid JOIN pg_namespace n ON n.oid = p.typnamespace \
               LEFT JOIN pg_proc f ON f.oid = p.typsend::oid";
    let rows = client.rows(sql, &[&oids, &typmods]).await?;
    let found: HashMap<(u32, i32), TypeRow> = rows
        .iter()
        .map(|row| {
            let of = TypeRow {
                name: row.get(2),
                schema: row.get(3),
                typtype: row.get(4),
                element: row.get(5),
                base: (row.get(6), row.get(7)),
                send: row.get(8),
                labels: row.get(9),
            };
            ((row.get(0), row.get(1)), of)
        })
        .collect();
    wanted.iter().map(|(oid, typmod)| build(&found, *oid, *typmod)).collect()
}

struct TypeRow {
    name: String,
    schema: String,
    typtype: String,
    element: u32,
    base: (u32, i32),
    send: String,
    labels: Option<Vec<String>>,
}

fn build(found: &HashMap<(u32, i32), TypeRow>, oid: u32, typmod: i32) -> Result<PgType> {
    let row = found
        .get(&(oid, typmod))
        .ok_or_else(|| Error::internal(format!("the catalog has no type with the OID {oid}")))?;
    let kind = match row.typtype.as_str() {
        "d" => TypeKind::Domain(Box::new(build(found, row.base.0, row.base.1)?)),
        "e" => TypeKind::Enum(row.labels.clone().unwrap_or_default()),
        "b" if row.send == "array_send" && row.element != 0 => {
            TypeKind::Array(Box::new(build(found, row.element, typmod)?))
        }
        "b" => TypeKind::Base { send: row.send.clone() },
        _ => TypeKind::Other,
    };
    // The server leaves the schema out when it is on the search path, which another database need not share.
    let prefix = format!("{}.", row.schema);
    let native = if row.schema == "pg_catalog" || row.name.starts_with(&prefix) {
        row.name.clone()
    } else {
        format!("{prefix}{}", row.name)
    };
    Ok(PgType { oid, typmod, native, kind })
}
