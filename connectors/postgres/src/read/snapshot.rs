//! One consistent view of the database: a coordinating connection that holds an exported snapshot.

use std::sync::Arc;

use async_trait::async_trait;
use dpone_engine::source::ReadTarget;
use dpone_engine::{ReadRequest, Snapshot, SourceTable};
use dpone_planner::{Error, Result};
use tokio::sync::Mutex;

use super::rewritten::{self, StoredFile};
use super::table;
use crate::catalog;
use crate::client::{Client, Server};

/// The coordinating connection. Scans hold it too, so that the snapshot outlives whoever asked for it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) client: Mutex<Option<Client>>,
}

#[derive(Debug)]
pub(super) struct PostgresSnapshot {
    server: Server,
    held: Arc<Held>,
    /// The exported snapshot; `None` where the server exports none.
    id: Option<String>,
    note: Option<String>,
    position: String,
    utf8: bool,
    /// Where the rows of what is read lay when the snapshot was taken.
    files: Mutex<Vec<StoredFile>>,
}

impl PostgresSnapshot {
    pub(super) async fn begin(server: Server) -> Result<Self> {
        let client = server.connect().await?;
        client.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let facts = client
            .row(
                "SELECT pg_is_in_recovery(), current_setting('server_encoding'), \
                 (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text",
                &[],
            )
            .await?
            .ok_or_else(|| Error::internal("the server answered a question about itself with no row"))?;
        let (recovery, encoding, lsn): (bool, String, Option<String>) = (facts.get(0), facts.get(1), facts.get(2));
        let (id, note) = match export(&client).await {
            Ok(id) => (Some(id), None),
            Err(error) => {
                // The refusal ended the transaction.
                client.run("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
                let place = if recovery { "the standby" } else { "the server" };
                (
                    None,
                    Some(format!(
                        "{place} exports no snapshot ({}): each table is read in one transaction of its own, and \
                         tables may differ in time",
                        error.message()
                    )),
                )
            }
        };
        let position = match (&id, lsn) {
            (Some(id), Some(lsn)) => format!("snapshot {id} at {lsn}"),
            (Some(id), None) => format!("snapshot {id}"),
            (None, lsn) => format!("no common snapshot, about {}", lsn.unwrap_or_default()),
        };
        let held = Arc::new(Held { client: Mutex::new(Some(client)) });
        Ok(Self { server, held, id, note, position, utf8: encoding == "UTF8", files: Mutex::default() })
    }
}

async fn export(client: &Client) -> Result<String> {
    let row = client.row("SELECT pg_export_snapshot()", &[]).await?;
    row.map(|row| row.get(0)).ok_or_else(|| Error::internal("the server exported no snapshot"))
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn table(&self, request: &ReadRequest) -> Result<SourceTable> {
        let held = self.held.client.lock().await;
        let client = held.as_ref().ok_or_else(|| Error::internal("the snapshot is closed"))?;
        let context = table::Context {
            server: &self.server,
            client,
            held: &self.held,
            snapshot: self.id.as_deref(),
            utf8: self.utf8,
        };
        let mut opened = match &request.target {
            ReadTarget::Table(relation) => {
                let found = catalog::require(client, relation, self.server.config().schema.as_deref()).await?;
                self.files.lock().await.extend(rewritten::files(client, &[found.oid]).await?);
                table::open(&context, found, request).await?
            }
            ReadTarget::Query(query) => {
                let (opened, relations) = table::open_query(&context, query, request).await?;
                self.files.lock().await.extend(rewritten::files(client, &relations).await?);
                opened
            }
        };
        opened.notes.extend(self.note.clone());
        Ok(opened)
    }

    fn position(&self) -> String {
        self.position.clone()
    }

    async fn verify(&self) -> Result<()> {
        rewritten::verify(&self.server, &self.files.lock().await).await
    }

    async fn close(&self) -> Result<()> {
        if let Some(client) = self.held.client.lock().await.take() {
            // Nothing was written: a connection that is already gone has released the snapshot too.
            let _ = client.run("COMMIT").await;
            client.close().await;
        }
        Ok(())
    }
}
