//! Reading: snapshots that pin each table at one version.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dpone_engine::source::ReadTarget;
use dpone_engine::{
    Error, ReadRequest, Relation, RelationInfo, Result, Scan, ServerInfo, Snapshot, Source, SourceTable,
};
use object_store::path::Path;

use crate::config::Warehouse;
use crate::error;
use crate::provider::Files;
use crate::table::Table;

#[derive(Debug)]
pub(crate) struct DeltaSource {
    pub(crate) warehouse: Warehouse,
}

#[async_trait]
impl Source for DeltaSource {
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(DeltaSnapshot {
            warehouse: self.warehouse.clone(),
            open: tokio::sync::Mutex::default(),
            names: Mutex::default(),
        }))
    }

    fn scan(&self, _: &serde_json::Value) -> Result<Arc<dyn Scan>> {
        Err(Error::internal("a Delta table is scanned by DataFusion's own Parquet node, which needs no other scan"))
    }

    async fn relations(&self) -> Result<Vec<RelationInfo>> {
        let mut found = Vec::new();
        for relation in tables(&self.warehouse).await? {
            let place = self.warehouse.place(&relation)?;
            // A table that cannot be read is still there to be seen.
            let open = Table::open(&place).await.ok().flatten();
            found.push(RelationInfo {
                relation,
                kind: "table".to_owned(),
                rows: open.as_ref().and_then(Table::rows),
                bytes: open.as_ref().map(Table::bytes),
            });
        }
        Ok(found)
    }

    async fn test(&self) -> Result<ServerInfo> {
        let listed = self.warehouse.store.list_with_delimiter(Some(&self.warehouse.prefix)).await;
        let schemas = match listed {
            Ok(listed) => listed.common_prefixes.len(),
            Err(object_store::Error::NotFound { .. }) => 0,
            Err(other) => return Err(error::store(other)),
        };
        let details = BTreeMap::from([
            ("path".to_owned(), self.warehouse.url.to_string()),
            ("folders".to_owned(), schemas.to_string()),
        ]);
        Ok(ServerInfo {
            system: "delta".to_owned(),
            version: format!("deltalake {}", deltalake::crate_version()),
            details,
        })
    }
}

/// Every table of the warehouse: folders with a `_delta_log`, one or two levels down.
async fn tables(warehouse: &Warehouse) -> Result<Vec<Relation>> {
    let mut found = Vec::new();
    for outer in folders(warehouse, &warehouse.prefix).await? {
        let inner = folders(warehouse, &outer).await?;
        let name = |path: &Path| path.filename().unwrap_or_default().to_owned();
        if inner.iter().any(|f| f.filename() == Some("_delta_log")) {
            found.push(Relation::new("", name(&outer)));
            continue;
        }
        for folder in inner.iter().filter(|f| !f.filename().unwrap_or_default().starts_with('_')) {
            if folders(warehouse, folder).await?.iter().any(|f| f.filename() == Some("_delta_log")) {
                found.push(Relation::new(name(&outer), name(folder)));
            }
        }
    }
    found.sort();
    Ok(found)
}

async fn folders(warehouse: &Warehouse, path: &Path) -> Result<Vec<Path>> {
    match warehouse.store.list_with_delimiter(Some(path)).await {
        Ok(listed) => Ok(listed.common_prefixes),
        Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
        Err(other) => Err(error::store(other)),
    }
}

#[derive(Debug)]
struct DeltaSnapshot {
    warehouse: Warehouse,
    open: tokio::sync::Mutex<BTreeMap<Relation, Table>>,
    /// `schema.table@version` of what is open.
    names: Mutex<Vec<String>>,
}

#[async_trait]
impl Snapshot for DeltaSnapshot {
    async fn table(&self, request: &ReadRequest) -> Result<SourceTable> {
        let relation = match &request.target {
            ReadTarget::Table(relation) => relation,
            ReadTarget::Query(_) => {
                return Err(Error::configuration("a Delta connection has no query language of its own")
                    .with_hint("read the table, or write the query as a SQL pipeline, which DataFusion runs"));
            }
        };
        if let Some(column) = request.types.keys().next() {
            return Err(Error::configuration(format!(
                "a type is declared for column {column:?} of {relation}, but a Delta table declares its own types"
            ))
            .with_hint("convert it in a SQL pipeline: SELECT CAST(… AS …)"));
        }
        let mut open = self.open.lock().await;
        if !open.contains_key(relation) {
            let place = self.warehouse.place(relation)?;
            let Some(table) = Table::open(&place).await? else { return Err(self.missing(relation).await) };
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.push(format!("{relation}@{}", table.version));
            open.insert(relation.clone(), table);
        }
        let table = open.get(relation).ok_or_else(|| Error::internal("an open table is missing"))?;
        Ok(SourceTable {
            provider: Arc::new(Files::of_table(&self.warehouse, table).with_parallelism(request.parallelism)),
            key: table.primary_key(),
            rows: table.rows(),
            bytes: Some(table.bytes()),
            notes: Vec::new(),
            changes: None,
        })
    }

    fn position(&self) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.len() {
            0 => "delta: no table read".to_owned(),
            1 => format!("delta: {}", names[0]),
            _ => format!("delta: {} (each table at its own version)", names.join(", ")),
        }
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

impl DeltaSnapshot {
    async fn missing(&self, relation: &Relation) -> Error {
        let error = Error::configuration(format!(
            "there is no Delta table {relation} in connection {:?} ({})",
            self.warehouse.connection, self.warehouse.url
        ));
        let known = tables(&self.warehouse).await.unwrap_or_default();
        let names: Vec<_> = known.iter().map(Relation::to_string).collect();
        let near = dpone_planner::definition::nearest(&relation.to_string(), names.iter().map(String::as_str));
        match near {
            Some(near) => error.with_hint(format!("did you mean {near}?")),
            None if names.is_empty() => error.with_hint("the warehouse has no table yet"),
            None => error.with_hint(format!("tables are {}", names[..names.len().min(20)].join(", "))),
        }
    }
}
