//! Reading: one exported snapshot, tables and queries in partitions, binary COPY decoded straight into Arrow.

mod changes;
pub(crate) mod copy;
mod decode;
pub(crate) mod filter;
mod numeric;
mod partition;
mod rewritten;
mod scan;
mod snapshot;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use dpone_engine::{ReadRequest, RelationInfo, Scan, ServerInfo, Snapshot, Source};
use dpone_planner::{Error, Relation, Result};
use tokio::sync::Mutex;

use crate::SYSTEM;
use crate::catalog::Table;
use crate::client::{Client, Server, version_name};
use crate::config::PostgresConfig;

use scan::{PostgresScan, ScanSpec};
use snapshot::{Held, PostgresSnapshot};

/// A database that tables are read from.
#[derive(Debug)]
pub struct PostgresSource {
    server: Server,
}

impl PostgresSource {
    pub fn new(config: PostgresConfig) -> Result<Self> {
        Ok(Self { server: Server::new(config)? })
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn identity(&self) -> Option<String> {
        Some(self.server.config().place())
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(PostgresSnapshot::begin(self.server.clone()).await?))
    }

    fn scan(&self, spec: &serde_json::Value) -> Result<Arc<dyn Scan>> {
        let spec: ScanSpec = serde_json::from_value(spec.clone())
            .map_err(|e| Error::internal(format!("this is no scan of a PostgreSQL table: {e}")))?;
        if spec.decode.len() != spec.schema.fields().len() || spec.select.len() != spec.decode.len() {
            return Err(Error::internal("the scan's columns do not fit its schema"));
        }
        Ok(Arc::new(PostgresScan { server: self.server.clone(), spec, held: None }))
    }

    async fn relations(&self) -> Result<Vec<RelationInfo>> {
        let client = self.server.connect().await?;
        let sql = "SELECT n.nspname::text, c.relname::text, \
                   CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned_table' WHEN 'v' THEN 'view' \
                   WHEN 'm' THEN 'materialized_view' ELSE 'foreign_table' END, \
                   CASE WHEN c.relkind IN ('r', 'm') AND c.reltuples >= 0 THEN c.reltuples::int8 END, \
                   CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid) END \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' \
                   AND n.nspname NOT LIKE 'pg\\_%' AND has_schema_privilege(n.oid, 'USAGE') \
                   AND has_any_column_privilege(c.oid, 'SELECT') ORDER BY 1, 2";
        let rows = client.rows(sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| RelationInfo {
                relation: Relation::new(row.get::<_, String>(0), row.get::<_, String>(1)),
                kind: row.get(2),
                rows: row.get::<_, Option<i64>>(3).map(|n| n.max(0) as u64),
                bytes: row.get::<_, Option<i64>>(4).map(|n| n.max(0) as u64),
            })
            .collect())
    }

    async fn test(&self) -> Result<ServerInfo> {
        let client = self.server.connect().await?;
        let details = details(&client, self.server.config()).await?;
        Ok(ServerInfo { system: SYSTEM.to_owned(), version: version_name(client.version()), details })
    }
}

async fn details(client: &Client, config: &PostgresConfig) -> Result<BTreeMap<String, String>> {
    let sql = "SELECT current_database()::text, current_user::text, current_setting('server_encoding'), \
               current_setting('TimeZone'), pg_is_in_recovery(), \
               (SELECT CASE WHEN ssl THEN version || ' ' || cipher END FROM pg_stat_ssl WHERE pid = pg_backend_pid())";
    let row = client
        .row(sql, &[])
        .await?
        .ok_or_else(|| Error::internal("the server answered a question about itself with no row"))?;
    let encryption: Option<String> = row.get(5);
    let role = if row.get(4) { "standby" } else { "primary" };
    Ok([
        ("address", config.address()),
        ("database", row.get(0)),
        ("user", row.get(1)),
        ("encoding", row.get(2)),
        ("time zone", row.get(3)),
        ("role", role.to_owned()),
        ("encryption", encryption.unwrap_or_else(|| "none".to_owned())),
        ("sslmode", config.ssl_mode().as_str().to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect())
}

/// The committed rows of a table, as each scan finds them: for what a sink compares with. Holds no snapshot open.
pub(crate) async fn committed(server: &Server, client: &Client, table: &Table) -> Result<Arc<dyn TableProvider>> {
    let held = Arc::new(Held { client: Mutex::new(None) });
    let utf8 = client.scalar("SHOW server_encoding").await?.as_deref() == Some("UTF8");
    let context = table::Context { server, client, held: &held, snapshot: None, utf8 };
    // One partition: without a snapshot, several would each see another moment.
    let request = ReadRequest { parallelism: 1, batch_rows: 8192, ..ReadRequest::default() };
    Ok(table::open(&context, table.clone(), &request).await?.provider)
}
