//! Leases: one small file a pipeline and table, changed only by compare-and-swap.
//!
//! An object store swaps with conditional puts (create, or update with the entity tag). A local file system has no such
//! call: there a lock on a file beside it, which the system drops with its holder, makes read and rename one step.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use dpone_engine::{Error, Lease, LeaseRequest, Relation, Result};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, UpdateVersion};

use crate::config::{OURS, Warehouse};
use crate::error;
use crate::state::file_name;

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Held {
    token: u64,
    run_id: String,
    holder: String,
    expires: DateTime<Utc>,
    released: bool,
}

impl Held {
    fn live(&self) -> bool {
        !self.released && self.expires > Utc::now()
    }
}

/// The leases of a warehouse: `<path>/_dpone/leases/<schema>.<table>/<pipeline>.json`.
#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) warehouse: Warehouse,
}

/// What to write instead of what is there, or `None` to leave it.
type Decide = Box<dyn Fn(Option<Held>) -> Result<Option<Held>> + Send + Sync>;

impl Leases {
    /// The lease, and whether it was taken over from a holder that had not given it back.
    pub(crate) async fn acquire(
        &self,
        table: &Relation,
        request: &LeaseRequest,
        committed: u64,
    ) -> Result<(Lease, bool)> {
        let (wanted, relation) = (request.clone(), table.clone());
        let decide = move |held: Option<Held>| {
            if let Some(held) = held.as_ref().filter(|h| h.live()) {
                return Err(Error::conflict(format!(
                    "pipeline {:?} into {relation} is being run by {} (run {}), which holds its lease until {}",
                    wanted.pipeline,
                    held.holder,
                    held.run_id,
                    held.expires.format("%Y-%m-%d %H:%M:%S UTC")
                ))
                .with_hint("wait for that run to end; when its process is gone, the lease runs out by itself"));
            }
            let token = held.map_or(0, |h| h.token).max(committed) + 1;
            Ok(Some(Held {
                token,
                run_id: wanted.run_id.clone(),
                holder: wanted.holder.clone(),
                expires: ends(wanted.ttl),
                released: false,
            }))
        };
        let (before, after) = self.swap(table, &request.pipeline, Box::new(decide)).await?;
        let held = after.ok_or_else(|| Error::internal("a lease was granted and not written"))?;
        let lease = Lease {
            pipeline: request.pipeline.clone(),
            run_id: held.run_id,
            holder: held.holder,
            token: held.token,
            ttl: request.ttl,
        };
        Ok((lease, before.is_some_and(|b| !b.released)))
    }

    pub(crate) async fn renew(&self, table: &Relation, lease: &Lease) -> Result<()> {
        let ours = lease.clone();
        let decide = move |held: Option<Held>| match held {
            Some(held) if held.token == ours.token && !held.released => {
                Ok(Some(Held { expires: ends(ours.ttl), ..held }))
            }
            other => Err(lost(&ours, other)),
        };
        self.swap(table, &lease.pipeline, Box::new(decide)).await.map(|_| ())
    }

    pub(crate) async fn release(&self, table: &Relation, lease: &Lease) -> Result<()> {
        let token = lease.token;
        let decide =
            move |held: Option<Held>| Ok(held.filter(|h| h.token == token).map(|h| Held { released: true, ..h }));
        self.swap(table, &lease.pipeline, Box::new(decide)).await.map(|_| ())
    }

    /// Fails when another run took the lease over.
    pub(crate) async fn check(&self, table: &Relation, lease: &Lease) -> Result<()> {
        let ours = lease.clone();
        let decide = move |held: Option<Held>| match held {
            Some(held) if held.token == ours.token => Ok(None),
            other => Err(lost(&ours, other)),
        };
        self.swap(table, &lease.pipeline, Box::new(decide)).await.map(|_| ())
    }

    async fn swap(&self, table: &Relation, pipeline: &str, decide: Decide) -> Result<(Option<Held>, Option<Held>)> {
        let name = format!("{OURS}/leases/{table}/{}.json", file_name(pipeline));
        match &self.warehouse.local {
            Some(folder) => {
                let path = folder.join(&name);
                tokio::task::spawn_blocking(move || swap_local(path, &decide))
                    .await
                    .map_err(|e| Error::internal(format!("the lease task failed: {e}")))?
            }
            None => {
                let path = Path::parse(format!("{}/{name}", self.warehouse.prefix).trim_start_matches('/'))
                    .map_err(|e| Error::internal(format!("lease path: {e}")))?;
                self.swap_remote(&path, &decide).await
            }
        }
    }

    async fn swap_remote(&self, path: &Path, decide: &Decide) -> Result<(Option<Held>, Option<Held>)> {
        let store = &self.warehouse.store;
        for _ in 0..20 {
            let (held, mode) = match store.get(path).await {
                Ok(found) => {
                    let version =
                        UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                    let bytes = found.bytes().await.map_err(error::store)?;
                    (Some(parse(&bytes)?), PutMode::Update(version))
                }
                Err(object_store::Error::NotFound { .. }) => (None, PutMode::Create),
                Err(other) => return Err(error::store(other)),
            };
            let Some(new) = decide(held.clone())? else { return Ok((held, None)) };
            let bytes = serde_json::to_vec(&new).map_err(error::json)?;
            match store.put_opts(path, bytes.into(), mode.into()).await {
                Ok(_) => return Ok((held, Some(new))),
                // Somebody else was faster: look again.
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
                Err(other) => return Err(error::store(other)),
            }
        }
        Err(Error::transient("the lease changed under every attempt to change it"))
    }
}

fn swap_local(path: PathBuf, decide: &Decide) -> Result<(Option<Held>, Option<Held>)> {
    let folder = path.parent().ok_or_else(|| Error::internal("a lease without a folder"))?;
    fs::create_dir_all(folder)?;
    let lock = fs::File::options().create(true).truncate(false).write(true).open(path.with_extension("lock"))?;
    lock.lock()?;
    let held = match fs::read(&path) {
        Ok(bytes) => Some(parse(&bytes)?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(other) => return Err(other.into()),
    };
    let Some(new) = decide(held.clone())? else { return Ok((held, None)) };
    let draft = path.with_extension("new");
    fs::write(&draft, serde_json::to_vec(&new).map_err(error::json)?)?;
    fs::rename(&draft, &path)?;
    Ok((held, Some(new)))
}

fn parse(bytes: &[u8]) -> Result<Held> {
    serde_json::from_slice(bytes).map_err(|e| Error::unknown(format!("a lease file is not readable: {e}")))
}

fn ends(ttl: Duration) -> DateTime<Utc> {
    Utc::now() + chrono::TimeDelta::from_std(ttl).unwrap_or(chrono::TimeDelta::MAX)
}

fn lost(ours: &Lease, held: Option<Held>) -> Error {
    let by = held.map_or_else(|| "it is gone".to_owned(), |h| format!("it is held by {} (run {})", h.holder, h.run_id));
    Error::conflict(format!("the lease of pipeline {:?} is no longer ours: {by}", ours.pipeline))
        .with_hint("another run took over because this one did not renew its lease in time; its result counts")
}
