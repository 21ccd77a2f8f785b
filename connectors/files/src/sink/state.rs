//! Leases, and the state kept in a table's document.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use dpone_engine::{Error, Forgotten, Lease, LeaseRequest, Receipt, Relation, Result, StateStore};
use dpone_planner::state::PipelineState;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};

use super::document::Document;
use crate::location::{Location, Remote, read_error, store_error};

/// The folder of leases and locks, in a schema's folder: outside the tables, which are swapped as a whole.
const LEASES: &str = ".dpone-leases";
/// Attempts of a conditional write that others get in the way of.
const ATTEMPTS: usize = 8;

/// State of the pipelines of one target.
#[derive(Debug)]
pub(crate) struct FileState {
    pub(crate) root: Location,
    pub(crate) target: Relation,
    /// Another place that gets a copy, where the definition names one.
    pub(crate) copy: Option<Relation>,
}

/// The last lease of a pipeline. It stays after its end: the next token is greater.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Record {
    lease: Lease,
    /// Milliseconds since 1970 by the clock of the host that wrote it; 0: given back.
    ends: i64,
}

impl FileState {
    pub(crate) fn place(&self) -> Location {
        self.root.child(&self.target.schema).child(&self.target.name)
    }

    fn copy_place(&self) -> Option<Location> {
        self.copy.as_ref().map(|r| self.root.child(&r.schema).child(&r.name))
    }

    fn leases(&self) -> Location {
        self.root.child(&self.target.schema).child(LEASES).child(&self.target.name)
    }

    /// Changes the pipeline's record in one step.
    async fn update<T>(
        &self,
        pipeline: &str,
        change: impl Fn(Option<Record>) -> Result<(Option<Record>, T)>,
    ) -> Result<T> {
        let name = file_name(pipeline);
        match self.leases() {
            Location::Local(folder) => {
                let _lock = lock(folder.join(format!("{name}.lock"))).await?;
                let path = folder.join(format!("{name}.json"));
                let (record, outcome) = change(read_record(&path)?)?;
                if let Some(record) = record {
                    write_record(&path, &record)?;
                }
                Ok(outcome)
            }
            Location::Remote(remote) => update_remote(&remote, &format!("{name}.json"), change).await,
        }
    }

    /// Fails unless the lease is the newest. Locally the returned guard keeps it so until it is dropped.
    pub(crate) async fn fence(&self, lease: &Lease) -> Result<Option<File>> {
        let name = file_name(&lease.pipeline);
        let (guard, record) = match self.leases() {
            Location::Local(folder) => {
                let guard = lock(folder.join(format!("{name}.lock"))).await?;
                let record = read_record(&folder.join(format!("{name}.json")))?;
                (Some(guard), record)
            }
            Location::Remote(remote) => (None, read_remote(&remote, &format!("{name}.json")).await?.map(|(r, _)| r)),
        };
        match record {
            Some(record) if record.lease.token == lease.token => Ok(guard),
            Some(record) => Err(taken_over(lease, &record)),
            None => Err(Error::conflict(format!("the lease of pipeline {:?} is gone", lease.pipeline))),
        }
    }

    /// Keeps other commits to the table out until it is dropped.
    pub(crate) async fn lock_table(&self) -> Result<Option<File>> {
        match self.leases() {
            Location::Local(folder) => Ok(Some(lock(folder.join("table.lock")).await?)),
            Location::Remote(_) => Ok(None),
        }
    }
}

#[async_trait]
impl StateStore for FileState {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Lease> {
        self.update(&request.pipeline, |record| {
            if let Some(held) = record.as_ref().filter(|r| r.ends > now() && r.lease.run_id != request.run_id) {
                return Err(Error::conflict(format!(
                    "pipeline {:?} is being run by {} (run {}); its lease ends at {}",
                    request.pipeline,
                    held.lease.holder,
                    held.lease.run_id,
                    shown(held.ends)
                ))
                .with_hint("wait for it to finish; the lease of a run that was killed ends by itself"));
            }
            if let Some(held) = record.as_ref().filter(|r| r.ends > now() && r.lease.holder != request.holder) {
                return Err(Error::conflict(format!(
                    "run {:?} of pipeline {:?} is in progress at {}; its lease ends at {}",
                    request.run_id,
                    request.pipeline,
                    held.lease.holder,
                    shown(held.ends)
                )));
            }
            let lease = Lease {
                pipeline: request.pipeline.clone(),
                run_id: request.run_id.clone(),
                holder: request.holder.clone(),
                token: record.map_or(0, |r| r.lease.token) + 1,
                ttl: request.ttl,
            };
            Ok((Some(Record { lease: lease.clone(), ends: end(request.ttl) }), lease))
        })
        .await
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.update(&lease.pipeline, |record| match record {
            Some(record) if record.lease.token == lease.token => {
                Ok((Some(Record { lease: lease.clone(), ends: end(lease.ttl) }), ()))
            }
            Some(record) => Err(taken_over(lease, &record)),
            None => Err(Error::conflict(format!("the lease of pipeline {:?} is gone", lease.pipeline))),
        })
        .await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.update(&lease.pipeline, |record| match record {
            Some(record) if record.lease.token == lease.token => {
                Ok((Some(Record { lease: record.lease, ends: 0 }), ()))
            }
            _ => Ok((None, ())),
        })
        .await
    }

    async fn get(&self, pipeline: &str) -> Result<Option<PipelineState>> {
        let here = Document::read(&self.place()).await?.and_then(|mut d| d.states.remove(pipeline));
        match (here, self.copy_place()) {
            (None, Some(copy)) => Ok(Document::read(&copy).await?.and_then(|mut d| d.states.remove(pipeline))),
            (here, _) => Ok(here),
        }
    }

    async fn receipt(&self, pipeline: &str, run_id: &str) -> Result<Option<Receipt>> {
        for place in [Some(self.place()), self.copy_place()].into_iter().flatten() {
            if let Some(document) = Document::read(&place).await?
                && let Some(receipt) = document.load_of_run(pipeline, run_id)
            {
                return Ok(Some(receipt.clone()));
            }
        }
        Ok(None)
    }

    async fn list(&self) -> Result<Vec<PipelineState>> {
        let mut states = Document::read(&self.place()).await?.unwrap_or_default().states;
        if let Some(copy) = self.copy_place() {
            for (pipeline, state) in Document::read(&copy).await?.unwrap_or_default().states {
                states.entry(pipeline).or_insert(state);
            }
        }
        Ok(states.into_values().collect())
    }

    async fn reset(&self, pipeline: &str) -> Result<Forgotten> {
        let _lock = self.lock_table().await?;
        let mut found = false;
        for place in [Some(self.place()), self.copy_place()].into_iter().flatten() {
            if let Some((mut document, version)) = Document::read_versioned(&place).await?
                && document.states.remove(pipeline).is_some()
            {
                document.write(&place, version).await?;
                found = true;
            }
        }
        Ok(Forgotten::state(found))
    }

    async fn mirror(&self, state: &PipelineState, receipt: &Receipt) -> Result<()> {
        let _lock = self.lock_table().await?;
        mirror_to(&self.copy_place().unwrap_or_else(|| self.place()), state, receipt).await
    }
}

/// Stores a copy in a document that may have no table of its own.
pub(crate) async fn mirror_to(place: &Location, state: &PipelineState, receipt: &Receipt) -> Result<()> {
    let (mut document, version) = Document::read_versioned(place).await?.unwrap_or_default();
    if document.load_of(&receipt.load_id).is_none() {
        document.record(state, receipt);
        document.write(place, version).await?;
    }
    Ok(())
}

/// A name for a pipeline that is safe as a file's name, and still tells a reader which pipeline it is.
fn file_name(pipeline: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let readable: String = pipeline.chars().take(40).map(safe).collect();
    format!("{readable}-{:016x}", xxhash_rust::xxh3::xxh3_64(pipeline.as_bytes()))
}

fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

fn end(ttl: Duration) -> i64 {
    now().saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}

fn shown(millis: i64) -> String {
    chrono::DateTime::from_timestamp_millis(millis).map_or_else(|| "never".to_owned(), |t| t.to_rfc3339())
}

fn taken_over(lease: &Lease, by: &Record) -> Error {
    Error::conflict(format!(
        "the lease of pipeline {:?} was taken over by {} (run {}, token {} after {})",
        lease.pipeline, by.lease.holder, by.lease.run_id, by.lease.token, lease.token
    ))
    .with_hint("this run was paused for longer than its lease lasts; nothing was changed by it")
}

/// Waits for the lock of a file, which ends with the returned handle, or with the process.
async fn lock(path: PathBuf) -> Result<File> {
    let locked = tokio::task::spawn_blocking(move || {
        let take = || -> std::io::Result<File> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file = File::options().create(true).append(true).open(&path)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
            Ok(file)
        };
        take().map_err(|e| read_error(&path.display().to_string(), e))
    });
    locked.await.map_err(|e| Error::internal("waiting for a lock failed").with_source(e))?
}

fn read_record(path: &Path) -> Result<Option<Record>> {
    let shown = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => parse_record(&bytes, &shown).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(read_error(&shown, e)),
    }
}

fn parse_record(bytes: &[u8], shown: &str) -> Result<Record> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::configuration(format!("the lease file {shown} is damaged")).with_source(e))
}

fn write_record(path: &Path, record: &Record) -> Result<()> {
    use std::io::Write;
    let write = || -> std::io::Result<()> {
        let next = path.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        std::fs::rename(&next, path)
    };
    write().map_err(|e| read_error(&path.display().to_string(), e))
}

async fn read_remote(remote: &Remote, name: &str) -> Result<Option<(Record, UpdateVersion)>> {
    let key = remote.prefix.clone().join(name);
    let got = match remote.store.get(&key).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(store_error(&remote.shown, e)),
    };
    let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
    let bytes = got.bytes().await.map_err(|e| store_error(&remote.shown, e))?;
    Ok(Some((parse_record(&bytes, &remote.shown)?, version)))
}

async fn update_remote<T>(
    remote: &Remote,
    name: &str,
    change: impl Fn(Option<Record>) -> Result<(Option<Record>, T)>,
) -> Result<T> {
    let key = remote.prefix.clone().join(name);
    for _ in 0..ATTEMPTS {
        let (record, mode) = match read_remote(remote, name).await? {
            Some((record, version)) => (Some(record), PutMode::Update(version)),
            None => (None, PutMode::Create),
        };
        let (record, outcome) = change(record)?;
        let Some(record) = record else { return Ok(outcome) };
        let bytes = serde_json::to_vec(&record).map_err(|e| Error::internal("a lease").with_source(e))?;
        match remote.store.put_opts(&key, bytes.into(), mode.into()).await {
            Ok(_) => return Ok(outcome),
            Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => {}
            Err(e) => return Err(store_error(&remote.shown, e)),
        }
    }
    Err(Error::transient(format!("{}: others change the lease all the time", remote.shown)))
}
