//! Reading: tables and queries in parts, streamed as Arrow.

mod catalog;
mod column;
mod decode;
mod filter;
mod partition;
mod scan;
mod table;
mod value;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use dpone_engine::source::ReadTarget;
use dpone_engine::{ReadRequest, RelationInfo, Scan, ServerInfo, Snapshot, Source, SourceTable};
use dpone_planner::{Error, Relation, Result};
use tokio::sync::Mutex;

use crate::client::Server;
use column::Sends;
use partition::Fence;
use scan::{ClickHouseScan, ScanSpec};

pub use column::type_table;
pub use filter::condition;

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
        Ok(Arc::new(ClickHouseSnapshot::begin(self.server.clone()).await?))
    }

    fn scan(&self, spec: &serde_json::Value) -> Result<Arc<dyn Scan>> {
        let spec: ScanSpec = serde_json::from_value(spec.clone())
            .map_err(|e| Error::internal(format!("this is no scan of a ClickHouse table: {e}")))?;
        if spec.decode.len() != spec.schema.fields().len() || spec.select.len() != spec.decode.len() {
            return Err(Error::internal("the scan's columns do not fit its schema"));
        }
        Ok(Arc::new(ClickHouseScan { server: self.server.clone(), spec, began: None }))
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

/// When the last query of a snapshot began.
#[derive(Debug, Default)]
struct Began {
    last: std::sync::Mutex<Option<Instant>>,
}

impl Began {
    fn note(&self, now: Instant) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last).max(Some(now));
    }

    fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads that begin together. The server shares no snapshot between queries, see `partition` for what takes its place.
#[derive(Debug)]
struct ClickHouseSnapshot {
    server: Server,
    sends: Sends,
    position: String,
    began: Arc<Began>,
    /// Of tables that are read in several parts.
    fences: Mutex<Vec<Fence>>,
}

impl ClickHouseSnapshot {
    async fn begin(server: Server) -> Result<Self> {
        let (version, _) = server.version().await?;
        let now: String = server.scalar("SELECT toString(now64(3, 'UTC'))").await?;
        Ok(Self {
            server,
            sends: Sends::of(version),
            position: format!("queries begun at {now} UTC, each of one moment"),
            began: Arc::default(),
            fences: Mutex::default(),
        })
    }
}

#[async_trait]
impl Snapshot for ClickHouseSnapshot {
    async fn table(&self, request: &ReadRequest) -> Result<SourceTable> {
        let context = table::Context { server: &self.server, sends: self.sends, began: Some(&self.began) };
        match &request.target {
            ReadTarget::Table(relation) => {
                let found = catalog::require(&self.server, relation).await?;
                let (opened, fence) = table::open(&context, found, request).await?;
                self.fences.lock().await.extend(fence);
                Ok(opened)
            }
            ReadTarget::Query(query) => table::open_query(&context, query, request).await,
        }
    }

    fn position(&self) -> String {
        self.position.clone()
    }

    async fn verify(&self) -> Result<()> {
        for fence in self.fences.lock().await.iter() {
            fence.verify(&self.server, self.began.last()).await?;
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// The rows of a table as each scan finds them, in one part: for what a sink compares with. `last`: with FINAL, which
/// tables whose engine merges rows are read with anyway.
pub async fn committed(server: &Server, table: &Relation, last: bool) -> Result<Arc<dyn TableProvider>> {
    let ((version, _), found) = tokio::try_join!(server.version(), catalog::require(server, table))?;
    let context = table::Context { server, sends: Sends::of(version), began: None };
    if last && !found.is_merging() {
        return Err(Error::configuration(format!("{table} is a {}, which has no FINAL", found.engine)));
    }
    let request = ReadRequest { parallelism: 1, batch_rows: 8192, ..ReadRequest::default() };
    Ok(table::open(&context, found, &request).await?.0.provider)
}
