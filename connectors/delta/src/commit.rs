//! The commit: one log entry that adds and removes files and makes the new state valid.
//!
//! Everything is worked out against the newest version and tried as the next one. When another writer was faster, it
//! is worked out again from the version that writer made, so an answer never rests on a version that is no longer
//! the newest.

use bytes::Bytes;
use deltalake::kernel::{Action, Add, Remove};
use deltalake::logstore::{CommitOrBytes, LogStoreRef};
use dpone_engine::failpoint::{self, Reached};
use dpone_engine::{Commit, Error, Receipt, Result};
use dpone_planner::schema::SchemaChange;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::config::{Place, Warehouse};
use crate::lease::Leases;
use crate::rewrite::{self, Effect, Target};
use crate::stage::WrittenFile;
use crate::state::{self, Copy, Remembered};
use crate::table::{PRIMARY_KEY, Table, log_entry};
use crate::{error, types};

/// How often a commit is worked out again because another writer was faster.
pub(crate) const ATTEMPTS: usize = 10;

/// Entries between checkpoints, where the table does not say.
const CHECKPOINT_INTERVAL: u64 = 10;

/// A table with more files than this, most of them small, wants compaction.
const MANY_FILES: usize = 64;
const SMALL_FILE: u64 = 16 << 20;

pub(crate) struct Committer<'a> {
    pub(crate) warehouse: &'a Warehouse,
    pub(crate) leases: &'a Leases,
    pub(crate) place: Place,
    pub(crate) commit: &'a Commit<'a>,
    pub(crate) staged: Vec<WrittenFile>,
}

impl Committer<'_> {
    pub(crate) async fn run(&self) -> Result<Receipt> {
        for _ in 0..ATTEMPTS {
            let table = Table::open(&self.place).await?;
            let (mark, remembered) = match self.remembered(table.as_ref()).await? {
                Before::Committed(receipt) => return Ok(*receipt),
                Before::Open(mark, remembered) => (mark, *remembered),
            };
            let created = self.created(table.as_ref())?;
            let target = match (&table, &created) {
                (Some(table), _) => Target::of_table(table),
                (None, Some(created)) => Target::empty(&self.place, created.schema.clone(), &created.partition_by),
                (None, None) => return Err(Error::internal("neither a table nor the plan of one")),
            };
            let effect = rewrite::effect(self.warehouse, &target, self.commit, &self.staged).await?;
            match self.attempt(table.as_ref(), created.as_ref(), mark, &remembered, &effect).await {
                Ok(Some(receipt)) => return Ok(receipt),
                // Another writer was faster: what was written for this attempt is in nobody's way.
                Ok(None) => rewrite::remove(&self.place, &effect.written).await,
                // Whether the entry was written may be unknown: `discard` asks the log before it removes anything.
                Err(error) => return Err(error),
            }
        }
        Err(Error::conflict(format!("table {} changed under each of {ATTEMPTS} attempts to commit", self.place.table))
            .with_hint("run again when other writers are done"))
    }

    /// What the pipeline's last commit left, and our next mark; our own receipt when that commit was this load's.
    async fn remembered(&self, table: Option<&Table>) -> Result<Before> {
        let load = self.commit.load;
        let ours = self.commit.lease.token;
        let found = match table {
            Some(table) => state::read(table, &load.pipeline).await?,
            None => None,
        };
        let (last, remembered) = found.unwrap_or_default();
        if let Some(receipt) = remembered.load(&load.load_id) {
            return Ok(Before::Committed(Box::new(receipt.clone())));
        }
        let newest = state::token_of(last);
        if newest > ours {
            return Err(Error::conflict(format!(
                "pipeline {:?} was taken over with the newer fencing token {newest}; this run has {ours}",
                load.pipeline
            ))
            .with_hint("another run took over because this one did not renew its lease in time; its result counts"));
        }
        Ok(Before::Open(state::next_mark(ours, last), Box::new(remembered)))
    }

    /// What to create, when there is no table yet.
    fn created(&self, table: Option<&Table>) -> Result<Option<Created>> {
        let load = self.commit.load;
        let create = match self.commit.ddl {
            [] => None,
            [SchemaChange::CreateTable { schema, primary_key, partition_by }] => {
                Some((schema, primary_key, partition_by))
            }
            more => return Err(Error::internal(format!("{} changes of schema in one commit", more.len()))),
        };
        match (table, create) {
            (Some(_), Some(_)) => {
                Err(Error::conflict(format!("table {} was created by somebody else meanwhile", load.target))
                    .with_hint("run again: the load will be planned for the table as it is now"))
            }
            (None, None) => {
                Err(Error::conflict(format!("table {} was there when the load was planned and is gone", load.target)))
            }
            (Some(table), None) => self.same_columns(table).map(|()| None),
            (None, Some((schema, primary_key, partition_by))) => {
                let fields = schema.fields().iter().map(|f| types::stored_field(f)).collect::<Result<Vec<_>>>()?;
                Ok(Some(Created {
                    schema: std::sync::Arc::new(arrow::datatypes::Schema::new(fields)),
                    primary_key: primary_key.clone(),
                    partition_by: partition_by.clone(),
                }))
            }
        }
    }

    /// The table may have changed since the load was planned.
    fn same_columns(&self, table: &Table) -> Result<()> {
        let load = self.commit.load;
        for field in load.staged_schema.fields().iter().filter(|f| f.name() != dpone_planner::plan::OPERATION_COLUMN) {
            let there = table.schema.field_with_name(field.name()).ok();
            if there.is_none_or(|t| t.data_type() != field.data_type()) {
                return Err(Error::conflict(format!(
                    "column {:?} of table {} is {} now, and was planned as {}",
                    field.name(),
                    load.target,
                    there.map_or_else(|| "missing".to_owned(), |t| types::type_name(t.data_type())),
                    types::type_name(field.data_type())
                ))
                .with_hint("run again: the load will be planned for the table as it is now"));
            }
        }
        Ok(())
    }

    /// Tries the next version. `None`: another writer has it.
    async fn attempt(
        &self,
        table: Option<&Table>,
        created: Option<&Created>,
        mark: u64,
        remembered: &Remembered,
        effect: &Effect,
    ) -> Result<Option<Receipt>> {
        let (load, lease) = (self.commit.load, self.commit.lease);
        if let Some(table) = table {
            table.check_writable(!effect.remove.is_empty())?;
        }
        let version = table.map_or(0, |t| t.version + 1);
        let receipt = self.receipt(effect, version, table);
        let after = remembered.with_load(self.commit.state, &receipt);
        state::write(&self.place, &load.pipeline, mark, &after).await?;
        let mut actions = vec![self.information(table, effect, &receipt)?];
        if let Some(created) = created {
            actions.extend(created.actions(&self.place)?);
        }
        actions.push(state::transaction(&load.pipeline, mark));
        if let Some(table) = table {
            let removed = effect.remove.iter().map(|index| remove_action(table, *index));
            actions.extend(removed.collect::<Result<Vec<_>>>()?);
        }
        actions.extend(effect.add.iter().map(add_action).collect::<Result<Vec<_>>>()?);

        failpoint::reach("commit.begun").await?;
        self.leases.check(&self.place.table, lease).await?;
        let log = self.place.log()?;
        let written = write_entry(&log, version, &actions).await;
        let answered = failpoint::reach("commit.applied").await? == Reached::GoOn;
        let ours = match &written {
            Ok(true) if answered => true,
            // No answer, or one that a retry inside the store may have blurred: the log knows.
            _ => self.is_ours(version).await?,
        };
        failpoint::reach("commit.acknowledged").await?;
        match (ours, written) {
            (true, _) => {
                self.after(version, mark, table).await;
                Ok(Some(receipt))
            }
            (false, Err(error)) => Err(error),
            (false, Ok(_)) => Ok(None),
        }
    }

    async fn is_ours(&self, version: u64) -> Result<bool> {
        let lines = log_entry(&self.place, version).await?.unwrap_or_default();
        let load_id = &self.commit.load.load_id;
        Ok(lines.iter().filter_map(state::copy_in).any(|c| c.receipt.is_some_and(|r| r.load_id == *load_id)))
    }

    fn receipt(&self, effect: &Effect, version: u64, table: Option<&Table>) -> Receipt {
        let mut receipt = self.commit.receipt.clone();
        receipt.rows.apply(effect.inserted, effect.updated, effect.deleted, effect.unchanged);
        receipt.target_version = Some(version.to_string());
        receipt.finished_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        receipt.notes.extend(effect.notes.iter().cloned());
        let kept = table.map_or(&[][..], |t| &t.files).iter().enumerate().filter(|(i, _)| !effect.remove.contains(i));
        let sizes: Vec<_> = kept.map(|(_, f)| f.size).chain(effect.add.iter().map(|f| f.size)).collect();
        let small = sizes.iter().filter(|size| **size < SMALL_FILE).count();
        if sizes.len() > MANY_FILES && small * 2 > sizes.len() {
            receipt.notes.push(format!(
                "the table has {} files, {small} of them under 16 MiB: compact it (OPTIMIZE, or optimize.compact() of the \
                 Python package deltalake) to read it faster",
                sizes.len()
            ));
        }
        receipt
    }

    fn information(&self, table: Option<&Table>, effect: &Effect, receipt: &Receipt) -> Result<Value> {
        let operation = if table.is_none() { "CREATE TABLE AS SELECT" } else { effect.operation };
        let copy = Copy { state: Some(self.commit.state.clone()), receipt: Some(receipt.clone()) };
        information(operation, &effect.parameters, table.map(|t| t.version), &copy)
    }

    /// What may fail without harm: the commit stands.
    async fn after(&self, version: u64, mark: u64, table: Option<&Table>) {
        if let Err(error) = state::sweep(&self.place, &self.commit.load.pipeline, mark).await {
            tracing::warn!(%error, "old state files of the table could not be removed");
        }
        let interval = table.and_then(|t| t.configuration.get("delta.checkpointInterval")?.parse().ok());
        let due = version > 0 && version.is_multiple_of(interval.filter(|i| *i > 0).unwrap_or(CHECKPOINT_INTERVAL));
        if due && let Err(error) = checkpoint(&self.place, version).await {
            tracing::warn!(%error, "the checkpoint of the table could not be written");
        }
    }
}

enum Before {
    Committed(Box<Receipt>),
    /// The mark for our commit, and what to add it to.
    Open(u64, Box<Remembered>),
}

struct Created {
    schema: arrow::datatypes::SchemaRef,
    primary_key: Vec<String>,
    partition_by: Vec<String>,
}

impl Created {
    /// Protocol versions as low as the columns allow, so that everybody reads the table.
    fn actions(&self, place: &Place) -> Result<Vec<Value>> {
        let protocol = if self.schema.fields().iter().any(|f| types::has_timestamp_ntz(f.data_type())) {
            json!({
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["timestampNtz"],
                "writerFeatures": ["timestampNtz"],
            })
        } else {
            json!({ "minReaderVersion": 1, "minWriterVersion": 2 })
        };
        let mut configuration = Map::new();
        if !self.primary_key.is_empty() {
            let key = serde_json::to_string(&self.primary_key).map_err(error::json)?;
            configuration.insert(PRIMARY_KEY.to_owned(), json!(key));
        }
        let metadata = json!({
            "id": Uuid::new_v4().to_string(),
            "name": place.table.name,
            "format": { "provider": "parquet", "options": {} },
            "schemaString": types::schema_string(&self.schema)?,
            "partitionColumns": self.partition_by,
            "configuration": configuration,
            "createdTime": chrono::Utc::now().timestamp_millis(),
        });
        Ok(vec![json!({ "protocol": protocol }), json!({ "metaData": metadata })])
    }
}

/// The `commitInfo` action.
pub(crate) fn information(
    operation: &str,
    parameters: &Value,
    read_version: Option<u64>,
    copy: &Copy,
) -> Result<Value> {
    let mut info = json!({
        "timestamp": chrono::Utc::now().timestamp_millis(),
        "operation": operation,
        "operationParameters": parameters,
        "engineInfo": concat!("dpone/", env!("CARGO_PKG_VERSION")),
        state::COPY: serde_json::to_string(copy).map_err(error::json)?,
    });
    if let Some(version) = read_version {
        info["readVersion"] = json!(version);
    }
    Ok(json!({ "commitInfo": info }))
}

/// Writes a version's entry. `false`: the version exists already.
pub(crate) async fn write_entry(log: &LogStoreRef, version: u64, actions: &[Value]) -> Result<bool> {
    use deltalake::kernel::transaction::TransactionError::VersionAlreadyExists;
    let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
    let bytes = CommitOrBytes::LogBytes(Bytes::from(lines.join("\n")));
    match log.write_commit_entry(version, bytes, Uuid::new_v4()).await {
        Ok(()) => Ok(true),
        Err(VersionAlreadyExists(_)) => Ok(false),
        Err(other) => Err(error::transaction(other)),
    }
}

pub(crate) fn add_action(file: &WrittenFile) -> Result<Value> {
    let action = Action::Add(Add {
        path: file.path.clone(),
        partition_values: file.partition_values.clone(),
        size: file.size as i64,
        modification_time: chrono::Utc::now().timestamp_millis(),
        data_change: true,
        stats: Some(file.stats.clone()),
        ..Add::default()
    });
    serde_json::to_value(action).map_err(error::json)
}

pub(crate) fn remove_action(table: &Table, index: usize) -> Result<Value> {
    let file = &table.files[index];
    let action = Action::Remove(Remove {
        path: file.path.clone(),
        data_change: true,
        deletion_timestamp: Some(chrono::Utc::now().timestamp_millis()),
        extended_file_metadata: Some(true),
        partition_values: Some(file.partition_values.clone()),
        size: Some(file.size as i64),
        ..Remove::default()
    });
    serde_json::to_value(action).map_err(error::json)
}

async fn checkpoint(place: &Place, version: u64) -> Result<()> {
    let mut table = deltalake::DeltaTable::new(place.log()?);
    table.load_version(version).await.map_err(error::delta)?;
    deltalake::checkpoints::create_checkpoint(&table, None).await.map_err(error::delta)
}
