//! Tables as the catalog knows them: the columns that rows are written to.

use dpone_engine::{Error, Relation, Result};

use super::encode::{ElementType, WireType};
use crate::client::Client;

/// One column, with what decides how it may be written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct TargetColumn {
    pub(crate) name: String,
    pub(crate) wire: WireType,
    pub(crate) not_null: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: inserted only with OVERRIDING SYSTEM VALUE, never updated.
    pub(crate) identity_always: bool,
    /// `GENERATED ALWAYS AS (…)`: written by the server alone.
    pub(crate) generated: bool,
    /// Its collation calls different texts equal.
    pub(crate) nondeterministic: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    /// `pg_class.relkind`: r, p, v, m, f, …
    pub(crate) kind: String,
    pub(crate) columns: Vec<TargetColumn>,
}

impl Table {
    pub(crate) fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// `OVERRIDING SYSTEM VALUE`, where one of these columns asks for it.
    pub(crate) fn overriding(&self, columns: &[&str]) -> &'static str {
        let asks = |name: &&str| self.column(name).is_some_and(|c| c.identity_always);
        if columns.iter().any(asks) { "OVERRIDING SYSTEM VALUE " } else { "" }
    }
}

/// The table, or `None`. Anything that is not a table is refused.
pub(crate) async fn read(client: &Client, relation: &Relation) -> Result<Option<Table>> {
    let found = client
        .row(
            "SELECT c.oid, c.relkind::text FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&relation.schema, &relation.name],
        )
        .await?;
    let Some(found) = found else { return Ok(None) };
    let (oid, kind): (u32, String) = (found.get(0), found.get(1));
    let what = match kind.as_str() {
        "r" | "p" => None,
        "v" => Some("a view"),
        "m" => Some("a materialized view"),
        "f" => Some("a foreign table"),
        _ => Some("not a table"),
    };
    if let Some(what) = what {
        return Err(Error::configuration(format!("{relation} is {what}: rows are loaded into tables"))
            .with_hint("name the table behind it, or another one")
            .with("table", relation.to_string()));
    }
    Ok(Some(Table { oid, kind, columns: columns(client, oid).await? }))
}

/// Columns in their order. A domain is resolved to its base type, whose modifier then counts.
async fn columns(client: &Client, oid: u32) -> Result<Vec<TargetColumn>> {
    let generated = if client.version() >= 120_000 { "a.attgenerated <> ''" } else { "false" };
    let sql = format!(
        "WITH RECURSIVE base AS (
           SELECT a.attnum, t.oid, t.typtype, t.typbasetype, t.typtypmod, a.atttypmod AS typmod
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
           UNION ALL
           SELECT b.attnum, t.oid, t.typtype, t.typbasetype, t.typtypmod, b.typtypmod
             FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd')
         SELECT a.attname::text, a.attnotnull, a.attidentity = 'a', {generated},
                pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.format_type(b.oid, b.typmod), b.typmod,
                pg_catalog.format_type(b.oid, -1),
                COALESCE(r.proname::text, ''), e.oid, er.proname::text,
                -- The column of the catalog exists since version 12.
                COALESCE((SELECT pg_catalog.to_jsonb(l) ->> 'collisdeterministic' = 'false'
                            FROM pg_catalog.pg_collation l WHERE l.oid = a.attcollation), false)
           FROM pg_catalog.pg_attribute a
           JOIN base b ON b.attnum = a.attnum AND b.typtype <> 'd'
           JOIN pg_catalog.pg_type bt ON bt.oid = b.oid
           LEFT JOIN pg_catalog.pg_proc r ON r.oid = bt.typreceive
           LEFT JOIN pg_catalog.pg_type e ON e.oid = bt.typelem AND r.proname = 'array_recv'
           LEFT JOIN pg_catalog.pg_proc er ON er.oid = e.typreceive
          WHERE a.attrelid = $1 ORDER BY a.attnum"
    );
    let rows = client.rows(&sql, &[&oid]).await?;
    let element = |oid: Option<u32>, receive: Option<String>| Some(ElementType { oid: oid?, receive: receive? });
    Ok(rows
        .iter()
        .map(|row| TargetColumn {
            name: row.get(0),
            not_null: row.get(1),
            identity_always: row.get(2),
            generated: row.get(3),
            nondeterministic: row.get(11),
            wire: WireType {
                sql: row.get(4),
                base_sql: row.get(5),
                typmod: row.get(6),
                cast_sql: row.get(7),
                receive: row.get(8),
                element: element(row.get(9), row.get(10)),
            },
        })
        .collect())
}
