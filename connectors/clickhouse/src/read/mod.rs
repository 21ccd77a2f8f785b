//! Reading: what there is, and its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dpone_engine::{RelationInfo, Scan, ServerInfo, Snapshot, Source};
use dpone_planner::{Error, Relation, Result};

use crate::client::Server;

/// A server that tables are read from.
#[derive(Debug)]
pub struct ClickHouseSource {
    server: Server,
}

impl ClickHouseSource {
    pub fn new(server: Server) -> Self {
        Self { server }
    }
}

#[async_trait]
impl Source for ClickHouseSource {
    fn identity(&self) -> Option<String> {
        Some(self.server.config().place())
    }

    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Err(Error::configuration("the rows of ClickHouse are not read by this version"))
    }

    fn scan(&self, _: &serde_json::Value) -> Result<Arc<dyn Scan>> {
        Err(Error::configuration("the rows of ClickHouse are not read by this version"))
    }

    async fn relations(&self) -> Result<Vec<RelationInfo>> {
        // Engines that keep nothing here read from somewhere else.
        let sql = "SELECT database, name, multiIf(engine IN ('View', 'LiveView', 'WindowView'), 'view', \
                   engine = 'MaterializedView', 'materialized_view', \
                   has_own_data OR engine IN ('Null', 'Merge', 'Buffer', 'Dictionary'), 'table', 'foreign_table'), \
                   total_rows, total_bytes FROM system.tables \
                   WHERE database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema') AND NOT is_temporary \
                   AND name NOT LIKE '.inner%' AND NOT startsWith(name, '__dpone__') ORDER BY 1, 2";
        let rows: Vec<(String, String, String, Option<u64>, Option<u64>)> = self.server.rows(sql).await?;
        Ok(rows
            .into_iter()
            .map(|(database, name, kind, rows, bytes)| RelationInfo {
                relation: Relation::new(database, name),
                kind,
                rows,
                bytes,
            })
            .collect())
    }

    async fn test(&self) -> Result<ServerInfo> {
        let (_, version) = self.server.version().await?;
        Ok(ServerInfo { system: "ClickHouse".to_owned(), version, details: details(&self.server).await? })
    }
}

async fn details(server: &Server) -> Result<BTreeMap<String, String>> {
    let sql = "SELECT currentDatabase(), currentUser(), timezone()";
    let row: Option<(String, String, String)> = server.row(sql).await?;
    let (database, user, zone) =
        row.ok_or_else(|| Error::internal("the server answered a question about itself with no row"))?;
    let config = server.config();
    let encryption = if config.secure { "TLS" } else { "none" };
    Ok([
        ("address", config.address()),
        ("database", database),
        ("user", user),
        ("time zone", zone),
        ("encryption", encryption.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect())
}
