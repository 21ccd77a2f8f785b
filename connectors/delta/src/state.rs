//! What pipelines remember about a table, and how a commit makes it valid.
//!
//! Every lease has a token that no other lease of the pipeline ever has; the token and a count of the commits under it
//! make a mark, which only grows. Before a commit, the new state and the newest receipts are written to
//! `_dpone/state/<pipeline>/<mark>.json` in the table's folder; there they mean nothing. The log entry that adds the
//! data carries `txn {appId: "dpone:<pipeline>", version: <mark>}`. So the log says which file is the state, data and state become visible with one entry, checkpoints keep it for ever, and no table feature is
//! needed that would lock other writers out. The same text is in the entry's commit information, for people and for
//! the case that the file is lost.

use std::sync::Arc;

use async_trait::async_trait;
use dpone_engine::{Error, Forgotten, Lease, LeaseRequest, Receipt, Result, StateStore};
use dpone_planner::state::PipelineState;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use crate::config::{OURS, Place};
use crate::lease::Leases;
use crate::table::{Table, log_entry};
use crate::{commit, error, orphan};

/// Receipts that the state keeps, newest first. Older ones are in the log's history.
const RECEIPTS: usize = 50;

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Remembered {
    #[serde(default)]
    pub(crate) state: Option<PipelineState>,
    #[serde(default)]
    pub(crate) receipts: Vec<Receipt>,
}

impl Remembered {
    /// After one more load.
    pub(crate) fn with_load(&self, state: &PipelineState, receipt: &Receipt) -> Self {
        let mut receipts = vec![receipt.clone()];
        receipts.extend(self.receipts.iter().take(RECEIPTS - 1).cloned());
        Self { state: Some(state.clone()), receipts }
    }

    pub(crate) fn load(&self, load_id: &str) -> Option<&Receipt> {
        self.receipts.iter().find(|r| r.load_id == load_id)
    }
}

/// The first mark of a token. It fences: no commit of an earlier token has a greater one.
pub(crate) fn first_mark(token: u64) -> u64 {
    token << 16
}

pub(crate) fn token_of(mark: u64) -> u64 {
    mark >> 16
}

/// The mark for the next commit under `token`, after `last`.
pub(crate) fn next_mark(token: u64, last: u64) -> u64 {
    first_mark(token).max(last) + 1
}

pub(crate) fn app_id(pipeline: &str) -> String {
    format!("dpone:{pipeline}")
}

/// A pipeline's name as a file name: what is not plain becomes `=XX`.
pub(crate) fn file_name(pipeline: &str) -> String {
    pipeline.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => out.push(byte as char),
            other => out += &format!("={other:02X}"),
        }
        out
    })
}

fn folder(pipeline: &str) -> String {
    format!("{OURS}/state/{}", file_name(pipeline))
}

fn file(pipeline: &str, mark: u64) -> String {
    format!("{}/{mark:020}.json", folder(pipeline))
}

/// What the pipeline's last commit left, with its mark.
pub(crate) async fn read(table: &Table, pipeline: &str) -> Result<Option<(u64, Remembered)>> {
    let Some(mark) = table.transaction(&app_id(pipeline)).await? else { return Ok(None) };
    let path = table.place.path(&file(pipeline, mark))?;
    match table.place.store.get(&path).await {
        Ok(found) => {
            let bytes = found.bytes().await.map_err(error::store)?;
            let remembered = serde_json::from_slice(&bytes).map_err(|e| {
                Error::unknown(format!("the state of pipeline {pipeline:?} at {path} is not readable: {e}"))
            })?;
            Ok(Some((mark, remembered)))
        }
        Err(object_store::Error::NotFound { .. }) => from_history(table, pipeline, mark).await.map(Some),
        Err(other) => Err(error::store(other)),
    }
}

/// The state file is gone: the log entry that made it valid has a copy.
async fn from_history(table: &Table, pipeline: &str, mark: u64) -> Result<(u64, Remembered)> {
    for version in (0..=table.version).rev() {
        let Some(lines) = log_entry(&table.place, version).await? else { break };
        let ours = |line: &Value| {
            let txn = &line["txn"];
            txn["appId"].as_str() == Some(&app_id(pipeline)) && txn["version"].as_u64() == Some(mark)
        };
        if !lines.iter().any(ours) {
            continue;
        }
        if let Some(copy) = lines.iter().find_map(copy_in) {
            return Ok((mark, Remembered { state: copy.state, receipts: copy.receipt.into_iter().collect() }));
        }
    }
    Err(Error::conflict(format!(
        "the log of table {} says that pipeline {pipeline:?} committed with mark {mark}, but that state is lost",
        table.place.table
    ))
    .with_hint(format!("restore {OURS}/state in the table's folder, or start over with `dpone state reset`")))
}

/// The copy of state and receipt in an entry's commit information.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Copy {
    pub(crate) state: Option<PipelineState>,
    pub(crate) receipt: Option<Receipt>,
}

/// Under one key, as text: other readers take values of commit information for text.
pub(crate) const COPY: &str = "dpone";

pub(crate) fn copy_in(line: &Value) -> Option<Copy> {
    serde_json::from_str(line["commitInfo"][COPY].as_str()?).ok()
}

pub(crate) async fn write(place: &Place, pipeline: &str, mark: u64, remembered: &Remembered) -> Result<()> {
    let bytes = serde_json::to_vec(remembered).map_err(error::json)?;
    let path = place.path(&file(pipeline, mark))?;
    place.store.put(&path, bytes.into()).await.map_err(error::store)?;
    Ok(())
}

/// Removes state files that no log entry can name any more.
pub(crate) async fn sweep(place: &Place, pipeline: &str, mark: u64) -> Result<()> {
    let newest = place.path(&file(pipeline, mark))?;
    let entries: Vec<_> =
        place.store.list(Some(&place.path(&folder(pipeline))?)).try_collect().await.map_err(error::store)?;
    for entry in entries.into_iter().filter(|e| e.location.as_ref() < newest.as_ref()) {
        place.store.delete(&entry.location).await.map_err(error::store)?;
    }
    Ok(())
}

/// The `txn` action that makes the state of `mark` valid.
pub(crate) fn transaction(pipeline: &str, mark: u64) -> Value {
    json!({ "txn": {
        "appId": app_id(pipeline),
        "version": mark,
        "lastUpdated": chrono::Utc::now().timestamp_millis(),
    }})
}

/// State, receipts and leases of one table.
#[derive(Debug)]
pub(crate) struct DeltaState {
    pub(crate) place: Place,
    pub(crate) leases: Arc<Leases>,
}

impl DeltaState {
    async fn read(&self, pipeline: &str) -> Result<Option<(u64, Remembered)>> {
        match Table::open(&self.place).await? {
            Some(table) => read(&table, pipeline).await,
            None => Ok(None),
        }
    }

    /// Commits nothing but a state: the earlier one under a newer token, or none.
    async fn restate(&self, pipeline: &str, token: u64, forget: bool) -> Result<bool> {
        for _ in 0..commit::ATTEMPTS {
            let Some(table) = Table::open(&self.place).await? else { return Ok(false) };
            let (committed, mut remembered) = match read(&table, pipeline).await {
                Ok(Some(found)) => found,
                Ok(None) => (0, Remembered::default()),
                // A lost state can be forgotten.
                Err(_) if forget => (0, Remembered::default()),
                Err(other) => return Err(other),
            };
            if token_of(committed) > token {
                return Err(Error::conflict(format!("pipeline {pipeline:?} was committed by a newer lease")));
            }
            let had = remembered.state.is_some();
            if forget {
                remembered.state = None;
            }
            let mark = if forget { next_mark(token, committed) } else { first_mark(token) };
            write(&self.place, pipeline, mark, &remembered).await?;
            let copy = Copy { state: remembered.state, receipt: remembered.receipts.into_iter().next() };
            let operation = if forget { "RESET STATE" } else { "FENCE" };
            let info = commit::information(operation, &json!({}), Some(table.version), &copy)?;
            let actions = [info, transaction(pipeline, mark)];
            if commit::write_entry(&table.log, table.version + 1, &actions).await? {
                return Ok(had);
            }
        }
        Err(Error::conflict(format!("table {} is being written to all the time", self.place.table)))
    }
}

#[async_trait]
impl StateStore for DeltaState {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Lease> {
        let committed = match Table::open(&self.place).await? {
            Some(table) => table.transaction(&app_id(&request.pipeline)).await?.map_or(0, token_of),
            None => 0,
        };
        let (lease, took_over) = self.leases.acquire(&self.place.table, request, committed).await?;
        if took_over {
            // The earlier holder may be asleep with its log entry ready. An entry with our token makes its attempt
            // collide, and on looking again it finds that it is no longer the newest.
            self.restate(&request.pipeline, lease.token, false).await?;
        }
        if let Err(error) = orphan::sweep(&self.leases.warehouse, &self.place, &request.pipeline).await {
            tracing::warn!(%error, "what a killed load had staged could not be removed");
        }
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.leases.renew(&self.place.table, lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.leases.release(&self.place.table, lease).await
    }

    async fn get(&self, pipeline: &str) -> Result<Option<PipelineState>> {
        Ok(self.read(pipeline).await?.and_then(|(_, remembered)| remembered.state))
    }

    async fn receipt(&self, pipeline: &str, run_id: &str) -> Result<Option<Receipt>> {
        let remembered = self.read(pipeline).await?.map(|(_, remembered)| remembered).unwrap_or_default();
        Ok(remembered.receipts.into_iter().find(|r| r.run_id == run_id))
    }

    async fn list(&self) -> Result<Vec<PipelineState>> {
        let Some(table) = Table::open(&self.place).await? else { return Ok(Vec::new()) };
        let path = self.place.path(&format!("{OURS}/state"))?;
        let listed = match self.place.store.list_with_delimiter(Some(&path)).await {
            Ok(listed) => listed.common_prefixes,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(other) => return Err(error::store(other)),
        };
        let mut states = Vec::new();
        for folder in listed {
            let Some(pipeline) = folder.filename().and_then(pipeline_of) else { continue };
            if let Some((_, Remembered { state: Some(state), .. })) = read(&table, &pipeline).await? {
                states.push(state);
            }
        }
        Ok(states)
    }

    async fn reset(&self, pipeline: &str) -> Result<Forgotten> {
        if !crate::table::exists(&self.place).await? {
            return Ok(Forgotten::default());
        }
        let lease = self
            .acquire(&LeaseRequest {
                pipeline: pipeline.to_owned(),
                run_id: "state reset".to_owned(),
                holder: format!("state reset, process {}", std::process::id()),
                ttl: std::time::Duration::from_secs(60),
            })
            .await?;
        let had = self.restate(pipeline, lease.token, true).await;
        self.leases.release(&self.place.table, &lease).await?;
        had.map(Forgotten::state)
    }

    async fn mirror(&self, _: &PipelineState, _: &Receipt) -> Result<()> {
        Err(Error::configuration("a Delta table keeps the state of its own loads only")
            .with_hint("leave the state with the table that is loaded"))
    }
}

fn pipeline_of(file_name: &str) -> Option<String> {
    let bytes = file_name.as_bytes();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        if bytes[i] == b'=' {
            out.push(u8::from_str_radix(file_name.get(i + 1..i + 3)?, 16).ok()?);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_have_file_names_that_read_back() {
        for name in ["orders", "a.b/c d", "ü=%", "..", ""] {
            let file = file_name(name);
            assert!(file.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b)), "{file}");
            assert_eq!(pipeline_of(&file).as_deref(), Some(name));
        }
    }
}
