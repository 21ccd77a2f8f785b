//! Partition manifests as JSON files of one machine.
//!
//! A file is never changed in place: the new text is written beside it, made durable and renamed over it. Two locks,
//! which the system drops with their holder, keep processes apart: one for the length of a campaign's run, so that one
//! process runs it, and one for the moment of a change, so that `status` and `cancel` work meanwhile.

use std::fs::{self, File};
use std::io::{ErrorKind as Io, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::manifest::{
    Attempt, CampaignStatus, Claim, ClaimRequest, Partition, PartitionLease, PartitionManifest, PartitionStatus,
};
use super::store::{Hold, ManifestStore};
use crate::{Error, Result};

/// The folder of a store.
#[derive(Debug, Clone)]
pub struct JsonManifestStore {
    dir: PathBuf,
}

impl JsonManifestStore {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn path(&self, campaign: &str) -> PathBuf {
        self.dir.join(format!("{campaign}.json"))
    }

    /// Changes a manifest in one step.
    async fn change<T: Send + 'static>(
        &self,
        campaign: &str,
        change: impl FnOnce(&mut PartitionManifest) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (store, campaign) = (self.clone(), campaign.to_owned());
        blocking(move || {
            let _lock = store.lock(&campaign)?;
            let path = store.path(&campaign);
            let mut manifest = read(&path)?.ok_or_else(|| {
                Error::conflict(format!("the partition manifest {} is gone", path.display()))
                    .with_hint("run again: chunks that were committed are found in the target's ledger of loads")
            })?;
            let before = manifest.clone();
            let outcome = change(&mut manifest)?;
            if manifest.status == CampaignStatus::Open && manifest.counts().is_done() {
                manifest.status = CampaignStatus::Done;
            }
            if manifest != before {
                manifest.updated_at = text(Utc::now());
                write(&path, &manifest)?;
            }
            Ok(outcome)
        })
        .await
    }

    fn lock(&self, campaign: &str) -> Result<File> {
        let file = self.open(&format!("{campaign}.lock"))?;
        file.lock().map_err(|e| unusable(&self.dir, &e))?;
        Ok(file)
    }

    fn open(&self, name: &str) -> Result<File> {
        fs::create_dir_all(&self.dir).map_err(|e| unusable(&self.dir, &e))?;
        let path = self.dir.join(name);
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(|e| unusable(&path, &e))
    }

    fn begin_blocking(&self, fresh: &PartitionManifest) -> Result<Hold> {
        let running = self.open(&format!("{}.run", fresh.campaign))?;
        match running.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::conflict(format!(
                    "the backfill {} is being run by another process of this machine",
                    fresh.campaign
                ))
                .with_hint(
                    "`dpone backfill status` shows how far it is. Processes share the work of one backfill when its state \
                     is kept in a database: backfill.state.backend: audit_schema",
                )
                .with("pipeline", &fresh.pipeline));
            }
            Err(fs::TryLockError::Error(error)) => return Err(unusable(&self.dir, &error)),
        }
        let _lock = self.lock(&fresh.campaign)?;
        let path = self.path(&fresh.campaign);
        match read(&path)? {
            None => write(&path, fresh)?,
            Some(mut stored) => {
                stored.check_same(fresh)?;
                // Nobody else runs the campaign: whoever was loading a chunk is gone.
                let now = text(Utc::now());
                for lease in stored.partitions.iter_mut().filter_map(|p| p.lease.as_mut()) {
                    lease.expires_at.clone_from(&now);
                }
                write(&path, &stored)?;
            }
        }
        Ok(Hold::file(running))
    }
}

#[async_trait]
impl ManifestStore for JsonManifestStore {
    fn place(&self, campaign: &str) -> String {
        self.path(campaign).display().to_string()
    }

    async fn begin(&self, fresh: &PartitionManifest) -> Result<Hold> {
        let (store, fresh) = (self.clone(), fresh.clone());
        blocking(move || store.begin_blocking(&fresh)).await
    }

    async fn load(&self, campaign: &str) -> Result<Option<PartitionManifest>> {
        let path = self.path(campaign);
        blocking(move || read(&path)).await
    }

    async fn campaigns(&self, pipeline: &str) -> Result<Vec<PartitionManifest>> {
        let (dir, pipeline) = (self.dir.clone(), pipeline.to_owned());
        blocking(move || {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == Io::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(unusable(&dir, &error)),
            };
            let mut found = Vec::new();
            for entry in entries {
                let path = entry.map_err(|e| unusable(&dir, &e))?.path();
                if path.extension().is_some_and(|e| e == "json") {
                    found.extend(read(&path)?.filter(|manifest| manifest.pipeline == pipeline));
                }
            }
            found.sort_by(|a, b| b.created_at.cmp(&a.created_at));
            Ok(found)
        })
        .await
    }

    async fn claim(&self, campaign: &str, request: &ClaimRequest) -> Result<Claim> {
        let request = request.clone();
        self.change(campaign, move |manifest| Ok(claim(manifest, &request, Utc::now()))).await
    }

    async fn renew(&self, campaign: &str, id: &str, token: u64, ttl: Duration) -> Result<bool> {
        let id = id.to_owned();
        self.change(campaign, move |manifest| {
            let Some(lease) = ours(manifest, &id, token).and_then(|p| p.lease.as_mut()) else { return Ok(false) };
            lease.expires_at = text(ends(Utc::now(), ttl));
            Ok(true)
        })
        .await
    }

    async fn record(&self, campaign: &str, id: &str, token: u64, attempt: &Attempt) -> Result<bool> {
        let (id, attempt) = (id.to_owned(), attempt.clone());
        let (folder, name) = (self.dir.join(campaign), campaign.to_owned());
        self.change(campaign, move |manifest| {
            let Some(partition) = ours(manifest, &id, token) else { return Ok(false) };
            if let Some(receipt) = &attempt.receipt {
                fs::create_dir_all(&folder).map_err(|e| unusable(&folder, &e))?;
                replace(&folder.join(format!("{id}.json")), receipt.as_bytes())?;
                partition.artifact_path = Some(format!("{name}/{id}.json"));
                partition.checksum = attempt.checksum();
            }
            finish(partition, &attempt, Utc::now());
            Ok(true)
        })
        .await
    }

    async fn set_status(&self, campaign: &str, status: CampaignStatus, unskip: bool) -> Result<()> {
        self.change(campaign, move |manifest| {
            manifest.status = status;
            for partition in &mut manifest.partitions {
                match (status, partition.status) {
                    (CampaignStatus::Cancelled, PartitionStatus::Pending) => {
                        partition.status = PartitionStatus::Skipped
                    }
                    (CampaignStatus::Open, PartitionStatus::Skipped) if unskip => {
                        partition.status = PartitionStatus::Pending;
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }
}

fn claim(manifest: &mut PartitionManifest, request: &ClaimRequest, now: DateTime<Utc>) -> Claim {
    if manifest.status == CampaignStatus::Cancelled {
        return Claim::Cancelled;
    }
    let ended = |lease: &PartitionLease| parse(&lease.expires_at).is_none_or(|end| end <= now);
    let open = |p: &Partition| match p.status {
        PartitionStatus::Running => p.lease.as_ref().is_none_or(ended),
        status => request.take.contains(&status),
    };
    let next = manifest.partitions.iter_mut().find(|p| open(p) && !request.tried.contains(&p.id));
    if let Some(partition) = next {
        let taken_over = partition.lease.take().map(|lease| lease.holder);
        partition.status = PartitionStatus::Running;
        partition.attempts += 1;
        partition.token += 1;
        partition.started_at = Some(text(now));
        partition.lease =
            Some(PartitionLease { holder: request.holder.clone(), expires_at: text(ends(now, request.ttl)) });
        return Claim::Partition { partition: Box::new(partition.clone()), taken_over };
    }
    let running = manifest.partitions.iter().filter(|p| p.status == PartitionStatus::Running);
    let others = running.filter_map(|p| p.lease.as_ref()).find(|lease| lease.holder != request.holder);
    others.map_or(Claim::Nothing, |lease| Claim::Busy { holder: lease.holder.clone(), until: lease.expires_at.clone() })
}

/// The chunk, while the claim of this token holds.
fn ours<'a>(manifest: &'a mut PartitionManifest, id: &str, token: u64) -> Option<&'a mut Partition> {
    let mut found = manifest.partitions.iter_mut().filter(|p| p.id == id);
    found.next().filter(|p| p.token == token && p.status == PartitionStatus::Running)
}

fn finish(partition: &mut Partition, attempt: &Attempt, now: DateTime<Utc>) {
    partition.status = attempt.status;
    partition.lease = None;
    partition.finished_at = Some(text(now));
    partition.seconds = Some(attempt.seconds);
    partition.extracted_rows = attempt.extracted_rows;
    partition.loaded_rows = attempt.loaded_rows;
    partition.load_id = attempt.load_id.clone();
    (partition.last_error_kind, partition.last_error) = attempt.error.clone().unzip();
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal(format!("the partition manifest's task ended early: {e}")))?
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn parse(at: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(at).ok().map(|at| at.with_timezone(&Utc))
}

fn ends(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(ttl).ok().and_then(|ttl| now.checked_add_signed(ttl)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn read(path: &Path) -> Result<Option<PartitionManifest>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == Io::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, &error)),
    };
    let unreadable = |why: String| {
        Error::conflict(format!("the partition manifest {} cannot be read: {why}", path.display())).with_hint(
            "move the file away and run again: chunks that were committed are found in the target's ledger of loads",
        )
    };
    let version = serde_json::from_slice::<serde_json::Value>(&bytes)
        .map_err(|e| unreadable(e.to_string()))?
        .get("version")
        .and_then(serde_json::Value::as_u64);
    if version != Some(PartitionManifest::VERSION.into()) {
        let found = version.map_or("none".to_owned(), |v| v.to_string());
        return Err(unreadable(format!(
            "its version is {found}, and this version of dpone reads {}",
            PartitionManifest::VERSION
        )));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| unreadable(e.to_string()))
}

fn write(path: &Path, manifest: &PartitionManifest) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(manifest)
        .map_err(|e| Error::internal(format!("a partition manifest cannot be written as JSON: {e}")))?;
    bytes.push(b'\n');
    replace(path, &bytes)
}

/// Durable before it is visible: after a crash the old text or the new one is there.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("tmp");
    let written = || -> std::io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    written().map_err(|e| unusable(path, &e))
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::unknown(format!("the folder of the backfill's state cannot be used: {}: {error}", path.display()))
        .with_hint("name another folder: backfill.state_dir, or the environment variable DPONE_BACKFILL_STATE_DIR")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn partition(id: &str) -> Partition {
        Partition {
            id: id.into(),
            lower: Some(id.into()),
            upper: None,
            inclusive_upper: false,
            null_values: false,
            status: PartitionStatus::Pending,
            extracted_rows: None,
            loaded_rows: None,
            artifact_path: None,
            checksum: None,
            attempts: 0,
            last_error: None,
            last_error_kind: None,
            run_id: format!("run-{id}"),
            load_id: None,
            lease: None,
            started_at: None,
            finished_at: None,
            seconds: None,
            token: 0,
        }
    }

    fn manifest() -> PartitionManifest {
        PartitionManifest {
            version: PartitionManifest::VERSION,
            campaign: "abc".into(),
            origin: "o".into(),
            pipeline: "orders".into(),
            backfill_id: None,
            status: CampaignStatus::Open,
            source: "s".into(),
            target: "t".into(),
            inner_mode: "replace".into(),
            column: "c".into(),
            kind: "integer".into(),
            step: None,
            timezone: "UTC".into(),
            created_at: text(Utc::now()),
            updated_at: String::new(),
            partitions: vec![partition("00001"), partition("00002")],
        }
    }

    fn request(holder: &str) -> ClaimRequest {
        ClaimRequest {
            holder: holder.into(),
            ttl: Duration::from_secs(60),
            take: vec![PartitionStatus::Pending],
            tried: Vec::new(),
        }
    }

    fn done() -> Attempt {
        Attempt {
            status: PartitionStatus::Success,
            extracted_rows: Some(3),
            loaded_rows: Some(2),
            load_id: Some("L".into()),
            receipt: Some("{}".into()),
            error: None,
            seconds: 0.5,
        }
    }

    fn claimed(claim: Claim) -> (Partition, Option<String>) {
        match claim {
            Claim::Partition { partition, taken_over } => (*partition, taken_over),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_chunk_is_claimed_once_and_recorded_by_its_claimant() {
        let dir = tempfile::tempdir().unwrap();
        let store = JsonManifestStore::new(dir.path());
        assert_eq!(store.load("abc").await.unwrap(), None);
        let hold = store.begin(&manifest()).await.unwrap();
        let (first, _) = claimed(store.claim("abc", &request("a")).await.unwrap());
        let (second, _) = claimed(store.claim("abc", &request("b")).await.unwrap());
        assert_eq!((first.id.as_str(), second.id.as_str(), first.attempts), ("00001", "00002", 1));
        assert!(
            matches!(store.claim("abc", &request("a")).await.unwrap(), Claim::Busy { holder, .. } if holder == "b")
        );
        assert!(store.renew("abc", "00001", first.token, Duration::from_secs(5)).await.unwrap());
        assert!(!store.renew("abc", "00001", first.token + 1, Duration::from_secs(5)).await.unwrap());
        assert!(store.record("abc", "00001", first.token, &done()).await.unwrap());
        assert!(!store.record("abc", "00001", first.token, &done()).await.unwrap(), "recorded twice");
        let stored = store.load("abc").await.unwrap().unwrap();
        assert_eq!(stored.partitions[0].loaded_rows, Some(2));
        let artifact = dir.path().join(stored.partitions[0].artifact_path.as_deref().unwrap());
        assert_eq!(fs::read_to_string(artifact).unwrap(), "{}");
        assert!(stored.partitions[0].checksum.as_deref().unwrap().starts_with("sha256:44136fa355b3"));
        drop(hold);
        // The worker of the second is gone with its process: it is taken over at once, and records nothing after that.
        let _hold = store.begin(&manifest()).await.unwrap();
        let (again, from) = claimed(store.claim("abc", &request("c")).await.unwrap());
        assert_eq!((again.id.as_str(), again.attempts, from.as_deref()), ("00002", 2, Some("b")));
        assert!(!store.record("abc", "00002", second.token, &done()).await.unwrap());
        assert!(store.record("abc", "00002", again.token, &done()).await.unwrap());
        assert_eq!(store.load("abc").await.unwrap().unwrap().summary(), "done");
    }

    #[tokio::test]
    async fn one_process_runs_a_campaign_and_others_can_cancel_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = JsonManifestStore::new(dir.path());
        let _hold = store.begin(&manifest()).await.unwrap();
        let error = store.begin(&manifest()).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Conflict);
        store.set_status("abc", CampaignStatus::Cancelled, false).await.unwrap();
        assert_eq!(store.claim("abc", &request("a")).await.unwrap(), Claim::Cancelled);
        assert_eq!(store.load("abc").await.unwrap().unwrap().counts().skipped, 2);
        store.set_status("abc", CampaignStatus::Open, true).await.unwrap();
        assert_eq!(store.load("abc").await.unwrap().unwrap().counts().pending, 2);
    }

    #[tokio::test]
    async fn a_manifest_that_is_torn_foreign_or_newer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = JsonManifestStore::new(dir.path());
        drop(store.begin(&manifest()).await.unwrap());
        let mut other = manifest();
        other.partitions.pop();
        assert!(store.begin(&other).await.unwrap_err().message().contains("chunks of the definition"));
        let path = dir.path().join("abc.json");
        let whole = fs::read_to_string(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], "", &whole.replace("\"version\": 1", "\"version\": 99")] {
            fs::write(&path, damaged).unwrap();
            let error = store.load("abc").await.unwrap_err();
            assert!(error.hint().unwrap().contains("move the file away"), "{error}");
        }
    }
}
