//! The folder of a run: the document, what earlier calls under the same run id left, and a checksum of each file.
//!
//! Everything is written beside its place and moved there, so that a reader never sees half a document. A lock that the
//! system drops with its holder tells a run that goes on from one that was killed.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::{RunDocument, Status};
use crate::schema::files::{json_bytes, sha256};
use crate::{Error, Result};

/// Where runs are kept, under the folder in which the command runs.
pub const DEFAULT_RUNS: &str = ".dpone/runs";

const DOCUMENT: &str = "run.json";
const INDEX: &str = "index.json";
const EARLIER: &str = "earlier";
const LOCK: &str = ".lock";
/// What a run writes is far smaller.
const MAX_BYTES: u64 = 256 << 20;
/// The longest name of a folder that every file system takes, less what is added to it.
const LONGEST_NAME: usize = 180;

/// All runs of a project.
#[derive(Debug, Clone)]
pub struct Runs {
    dir: PathBuf,
}

/// The folder of a run that goes on. Others see that it is held.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

/// A run as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRun {
    /// The folder's name: the run id, where that can be a file's name.
    pub name: String,
    pub path: PathBuf,
    pub document: RunDocument,
    /// The process that wrote the document is gone, and did not say how the run ended.
    pub killed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct Index {
    schema_version: u32,
    run_id: String,
    files: Vec<IndexedFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct IndexedFile {
    path: String,
    size_bytes: u64,
    sha256: String,
}

/// What a folder's checksums say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    pub run_id: String,
    pub path: String,
    pub passed: bool,
    /// Files whose checksum agrees.
    pub files: usize,
    /// SHA-256 of the index itself: who keeps it elsewhere can tell when the whole folder was written anew.
    pub index_sha256: Option<String>,
    pub differences: Vec<Difference>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub path: String,
    /// `changed`, `missing`, `added`, `unreadable` or `unsealed`.
    pub what: &'static str,
}

/// What [`Runs::prune`] removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub dry_run: bool,
    /// Newest first.
    pub removed: Vec<PrunedRun>,
    pub kept: usize,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrunedRun {
    pub run_id: String,
    pub path: String,
    pub started_at: String,
    pub bytes: u64,
}

impl Difference {
    fn new(path: &str, what: &'static str) -> Self {
        Self { path: path.to_owned(), what }
    }
}

impl Runs {
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder for a run that begins. What an earlier call under this run id left is kept under `earlier/`; while such a
    /// call still goes on, this one gets a folder beside it.
    pub fn begin(&self, run_id: &str) -> Result<RunFolder> {
        let name = folder_name(run_id);
        for beside in 1..=1000 {
            let path = self.dir.join(if beside == 1 { name.clone() } else { format!("{name}~{beside}") });
            fs::create_dir_all(&path).map_err(|e| unusable(&path, &e))?;
            let lock = open_lock(&path)?;
            if !hold(&lock).map_err(|e| unusable(&path, &e))? {
                continue;
            }
            let folder = RunFolder { path, _lock: lock };
            folder.keep_earlier()?;
            return Ok(folder);
        }
        Err(Error::conflict(format!("a thousand calls under the run id {run_id:?} go on at once")))
    }

    /// All runs, newest first. What is no evidence of a run is named in the second list.
    pub fn list(&self) -> Result<(Vec<StoredRun>, Vec<Error>)> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(e) => return Err(unreadable(&self.dir, &e)),
        };
        let (mut runs, mut unread) = (Vec::new(), Vec::new());
        for entry in entries {
            let path = entry.map_err(|e| unreadable(&self.dir, &e))?.path();
            // Hidden is what is being removed.
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.join(DOCUMENT).is_file() {
                match read(&path) {
                    Ok(run) => runs.push(run),
                    Err(error) => unread.push(error),
                }
            }
        }
        runs.sort_by(|a, b| {
            b.document.head.started_at.cmp(&a.document.head.started_at).then_with(|| b.name.cmp(&a.name))
        });
        Ok((runs, unread))
    }

    /// The run with this id, or the one whose id begins so, where that is only one; `last` is the newest.
    pub fn find(&self, run_id: &str) -> Result<StoredRun> {
        let path = self.dir.join(folder_name(run_id));
        if path.join(DOCUMENT).is_file() {
            return read(&path);
        }
        let (runs, unread) = self.list()?;
        if let (Some(error), "last") = (unread.first(), run_id) {
            return Err(Error::data_quality(format!("which run is the last cannot be told: {error}"))
                .with_hint("name the run: `dpone runs verify <run id>` says what of it was changed"));
        }
        let known = |run: &&StoredRun| run.name.starts_with(run_id) || run.document.head.run_id.starts_with(run_id);
        let found: Vec<&StoredRun> = match run_id {
            "last" => runs.first().into_iter().collect(),
            "" => Vec::new(),
            _ => runs.iter().filter(known).collect(),
        };
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Error::configuration(format!("there is no run {run_id:?} in {}", self.dir.display()))
                .with_hint("`dpone runs list` names the runs")),
            several => Err(Error::configuration(format!("{} runs begin with {run_id:?}", several.len()))
                .with_hint("give more of the run id: `dpone runs list` names them")),
        }
    }

    /// Removes the folders of old runs: those that are not among the `keep` newest, and began before `before`, where these
    /// are given. A run that goes on stays, and so does what is no evidence of a run, which the second list names. With
    /// `dry` nothing is removed. Runs that go on count as kept.
    pub fn prune(&self, keep: Option<usize>, before: Option<DateTime<Utc>>, dry: bool) -> Result<(Pruned, Vec<Error>)> {
        let (runs, unread) = self.list()?;
        let mut pruned = Pruned { dry_run: dry, ..Pruned::default() };
        for (place, run) in runs.iter().enumerate() {
            let head = &run.document.head;
            let began = DateTime::parse_from_rfc3339(&head.started_at).ok();
            let among_newest = keep.is_some_and(|keep| place < keep);
            // What does not say when it began is not known to be old.
            let young = before.is_some_and(|before| began.is_none_or(|began| began >= before));
            let linked = fs::symlink_metadata(&run.path).is_ok_and(|m| m.file_type().is_symlink());
            if among_newest || young || linked || is_held(&run.path) {
                pruned.kept += 1;
                continue;
            }
            let bytes = contents(&run.path)?.iter().map(|name| size(&run.path.join(name))).sum();
            if !dry && !remove(&run.path)? {
                pruned.kept += 1;
                continue;
            }
            pruned.bytes += bytes;
            pruned.removed.push(PrunedRun {
                run_id: head.run_id.clone(),
                path: run.path.display().to_string(),
                started_at: head.started_at.clone(),
                bytes,
            });
        }
        Ok((pruned, unread))
    }

    /// Compares the folder of a run with its checksums. A document that cannot be read is a difference, no error.
    pub fn verify(&self, run_id: &str) -> Result<Verification> {
        let direct = self.dir.join(folder_name(run_id));
        let path = match direct.is_dir() {
            true => direct,
            // By the name of its folder: what is in there may be what was changed.
            false => match self.folders(run_id)?.as_slice() {
                [one] => one.clone(),
                _ => self.find(run_id)?.path,
            },
        };
        verify(&path, run_id)
    }

    /// The folders of the runs whose id begins so.
    fn folders(&self, beginning: &str) -> Result<Vec<PathBuf>> {
        let beginning = folder_name(beginning);
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(unreadable(&self.dir, &e)),
        };
        let paths = entries.map(|entry| Ok(entry.map_err(|e| unreadable(&self.dir, &e))?.path()));
        let paths = paths.collect::<Result<Vec<_>>>()?;
        let begins = |path: &PathBuf| {
            !beginning.is_empty()
                && path.is_dir()
                && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&beginning))
        };
        Ok(paths.into_iter().filter(begins).collect())
    }
}

impl RunFolder {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the document in one step. `durable`: it is on the disk when this returns.
    pub(super) fn write(&self, document: &Value, durable: bool) -> Result<()> {
        put(&self.path, DOCUMENT, &json_bytes(document)?, durable)
    }

    /// Writes the checksums of everything that the folder holds.
    pub(super) fn seal(&self) -> Result<()> {
        let mut files = Vec::new();
        for path in contents(&self.path)? {
            let bytes = read_bytes(&self.path.join(&path))?;
            files.push(IndexedFile { size_bytes: bytes.len() as u64, sha256: sha256(&bytes), path });
        }
        let document: Value = serde_json::from_slice(&read_bytes(&self.path.join(DOCUMENT))?)
            .map_err(|e| Error::internal(format!("the document of the run cannot be read back: {e}")))?;
        let run_id = document.get("run_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let index = Index { schema_version: super::SCHEMA_VERSION, run_id, files };
        put(&self.path, INDEX, &json_bytes(&index)?, true)
    }

    /// Puts the documents of an earlier call aside: they are evidence too.
    fn keep_earlier(&self) -> Result<()> {
        // Of a process that was killed between writing and moving.
        for name in [DOCUMENT, INDEX] {
            let _ = fs::remove_file(self.path.join(draft(name)));
        }
        if !self.path.join(DOCUMENT).exists() {
            return Ok(());
        }
        let earlier = self.path.join(EARLIER);
        let count = fs::read_dir(&earlier).map_or(0, Iterator::count);
        let aside = earlier.join((count + 1).to_string());
        fs::create_dir_all(&aside).map_err(|e| unusable(&aside, &e))?;
        for name in [DOCUMENT, INDEX] {
            match fs::rename(self.path.join(name), aside.join(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(unusable(&aside, &e)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Host of this process, for evidence.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The run id as the name of a folder: what a file system could take for something else is `%` and its code, as in URLs.
/// An id that is too long ends with its digest.
fn folder_name(run_id: &str) -> String {
    let mut name = String::with_capacity(run_id.len());
    for (at, byte) in run_id.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-:+=@,".contains(&byte) || (byte == b'.' && at > 0);
        if plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.len() > LONGEST_NAME {
        name.truncate(LONGEST_NAME - 17);
        name = format!("{name}-{}", sha256(run_id.as_bytes()).get(..16).unwrap_or_default());
    }
    if name.is_empty() { "%".to_owned() } else { name }
}

fn read(path: &Path) -> Result<StoredRun> {
    let file = path.join(DOCUMENT);
    let value: Value = serde_json::from_slice(&read_bytes(&file)?)
        .map_err(|e| Error::configuration(format!("{}: this is not JSON: {e}", file.display())))?;
    let document = RunDocument::from_value(&value)
        .map_err(|e| Error::configuration(format!("{}: {}", file.display(), e.message())))?;
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let killed = document.head.status == Status::Running && !is_held(path);
    Ok(StoredRun { name, path: path.to_owned(), document, killed })
}

/// Whether a process holds the folder: it is dropped with the process, however that ended.
fn is_held(path: &Path) -> bool {
    match File::open(path.join(LOCK)) {
        Ok(lock) => matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Whether the lock was taken. Who lists runs holds it for an instant: that is not somebody else's run.
fn hold(lock: &File) -> std::io::Result<bool> {
    for _ in 0..5 {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(false)
}

/// Removes the folder of a run, in one step for whoever looks. False when a run has begun in it meanwhile.
fn remove(path: &Path) -> Result<bool> {
    let failed = |e: &std::io::Error| {
        Error::unknown(format!("{}: the evidence of the run cannot be removed: {e}", path.display()))
    };
    let lock = open_lock(path)?;
    if !hold(&lock).map_err(|e| failed(&e))? {
        return Ok(false);
    }
    // A name that no run id has: a folder that is half removed is taken for nobody's evidence.
    let mut name = std::ffi::OsString::from(".pruned-");
    name.push(path.file_name().unwrap_or_default());
    let aside = path.with_file_name(name);
    fs::rename(path, &aside).and_then(|()| fs::remove_dir_all(&aside)).map_err(|e| failed(&e))?;
    Ok(true)
}

fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}

fn open_lock(path: &Path) -> Result<File> {
    let lock = path.join(LOCK);
    File::options().create(true).truncate(false).read(true).write(true).open(&lock).map_err(|e| unusable(&lock, &e))
}

fn verify(path: &Path, run_id: &str) -> Result<Verification> {
    let mut found = Verification {
        run_id: run_id.to_owned(),
        path: path.display().to_string(),
        passed: false,
        files: 0,
        index_sha256: None,
        differences: Vec::new(),
    };
    let index = match fs::read(path.join(INDEX)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // A run that was killed, or still goes on, has none.
            found.differences.push(Difference::new(INDEX, "unsealed"));
            return Ok(found);
        }
        Err(e) => return Err(unreadable(&path.join(INDEX), &e)),
    };
    found.index_sha256 = Some(sha256(&index));
    let Ok(index) = serde_json::from_slice::<Index>(&index) else {
        found.differences.push(Difference::new(INDEX, "unreadable"));
        return Ok(found);
    };
    found.run_id.clone_from(&index.run_id);
    let mut listed: BTreeMap<&str, &IndexedFile> = index.files.iter().map(|f| (f.path.as_str(), f)).collect();
    for name in contents(path)? {
        match (listed.remove(name.as_str()), read_bytes(&path.join(&name))) {
            (None, _) => found.differences.push(Difference::new(&name, "added")),
            (Some(_), Err(_)) => found.differences.push(Difference::new(&name, "unreadable")),
            (Some(file), Ok(bytes)) if sha256(&bytes) == file.sha256 => found.files += 1,
            (Some(_), Ok(_)) => found.differences.push(Difference::new(&name, "changed")),
        }
    }
    found.differences.extend(listed.keys().map(|name| Difference::new(name, "missing")));
    // An index of nothing says nothing.
    if found.files == 0 && found.differences.is_empty() {
        found.differences.push(Difference::new(DOCUMENT, "missing"));
    }
    found.passed = found.differences.is_empty();
    Ok(found)
}

/// Every file under a folder but the index and the lock, relative and sorted. Links are files of their own: none is
/// followed out of the folder.
fn contents(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| unreadable(&folder, &e))? {
            let entry = entry.map_err(|e| unreadable(&folder, &e))?;
            let path = entry.path();
            if entry.file_type().map_err(|e| unreadable(&path, &e))?.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if name != INDEX && name != LOCK {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let metadata = fs::symlink_metadata(path).map_err(|e| unreadable(path, &e))?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(Error::configuration(format!("{}: this is not evidence of a run", path.display())));
    }
    fs::read(path).map_err(|e| unreadable(path, &e))
}

fn draft(name: &str) -> String {
    format!(".{name}.draft")
}

fn put(folder: &Path, name: &str, bytes: &[u8], durable: bool) -> Result<()> {
    let path = folder.join(name);
    let draft = folder.join(draft(name));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&draft, &path)?;
        if durable {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|e| unusable(&path, &e))
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::unknown(format!("{}: the evidence of the run cannot be written: {error}", path.display()))
        .with_hint("make the folder writable, or name another with --runs-dir")
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::configuration(format!("{}: cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Begun, Recorder};
    use super::*;
    use crate::Receipt;

    fn finished(runs: &Runs, run_id: &str) {
        let recorder = Recorder::new(run_id, false, BTreeMap::new(), Some(runs.begin(run_id).unwrap()));
        recorder.begin(Begun { process: "p".into(), ..Begun::default() });
        recorder.end(&Err::<Receipt, _>(Error::transient("away"))).unwrap();
        assert!(recorder.finish().1.is_none());
    }

    fn runs() -> (tempfile::TempDir, Runs) {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::open(dir.path().join("runs"));
        (dir, runs)
    }

    #[test]
    fn every_difference_is_found() {
        let (_dir, runs) = runs();
        finished(&runs, "r");
        let path = runs.dir().join("r");
        let differences = || -> Vec<(String, &str)> {
            let found = runs.verify("r").unwrap();
            assert_eq!(found.passed, found.differences.is_empty());
            found.differences.into_iter().map(|d| (d.path, d.what)).collect()
        };
        assert_eq!(differences(), []);
        fs::write(path.join("more.txt"), "x").unwrap();
        assert_eq!(differences(), [("more.txt".to_owned(), "added")]);
        fs::remove_file(path.join("more.txt")).unwrap();
        let original = fs::read(path.join(DOCUMENT)).unwrap();
        let mut bytes = original.clone();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(path.join(DOCUMENT), bytes).unwrap();
        assert_eq!(differences(), [("run.json".to_owned(), "changed")]);
        fs::remove_file(path.join(DOCUMENT)).unwrap();
        assert_eq!(differences(), [("run.json".to_owned(), "missing")]);
        fs::write(path.join(DOCUMENT), original).unwrap();
        fs::write(path.join(INDEX), "{}").unwrap();
        assert_eq!(differences(), [("index.json".to_owned(), "unreadable")]);
        fs::write(path.join(INDEX), r#"{"schema_version":1,"run_id":"r","files":[]}"#).unwrap();
        assert_eq!(differences(), [("run.json".to_owned(), "added")]);
        fs::remove_file(path.join(INDEX)).unwrap();
        assert_eq!(differences(), [("index.json".to_owned(), "unsealed")]);
    }

    #[test]
    fn a_run_that_goes_on_is_told_from_one_that_was_killed() {
        let (_dir, runs) = runs();
        let recorder = Recorder::new("r", false, BTreeMap::new(), Some(runs.begin("r").unwrap()));
        recorder.begin(Begun { process: "p".into(), ..Begun::default() });
        assert!(!runs.find("r").unwrap().killed);
        // As after kill -9: nothing more is written, and the lock is gone.
        let document = fs::read(runs.dir().join("r/run.json")).unwrap();
        drop(recorder);
        fs::write(runs.dir().join("r/run.json"), document).unwrap();
        let found = runs.find("r").unwrap();
        assert!(found.killed);
        assert_eq!(found.document.runs[0].status, Status::Running);
    }

    #[test]
    fn calls_under_one_run_id_keep_each_others_evidence() {
        let (_dir, runs) = runs();
        finished(&runs, "r");
        let first = fs::read(runs.dir().join("r/run.json")).unwrap();
        finished(&runs, "r");
        assert_eq!(fs::read(runs.dir().join("r/earlier/1/run.json")).unwrap(), first);
        assert!(runs.verify("r").unwrap().passed);
        fs::write(runs.dir().join("r/earlier/1/run.json"), "{}").unwrap();
        assert_eq!(runs.verify("r").unwrap().differences, [Difference::new("earlier/1/run.json", "changed")]);
        // Two at once.
        let one = runs.begin("r").unwrap();
        let two = runs.begin("r").unwrap();
        assert_ne!(one.path(), two.path());
    }

    #[test]
    fn a_run_id_stays_inside_the_folder() {
        for (id, want) in [
            ("01JABC", "01JABC"),
            ("dag__2024-01-01T00:00:00+00:00", "dag__2024-01-01T00:00:00+00:00"),
            ("../x", "%2E.%2Fx"),
            ("..", "%2E."),
            ("a/b\\c", "a%2Fb%5Cc"),
            ("ü", "%C3%BC"),
        ] {
            assert_eq!(folder_name(id), want);
        }
        let long = ["x".repeat(300), format!("{}y", "x".repeat(299))].map(|id| folder_name(&id));
        assert!(long.iter().all(|name| name.len() <= LONGEST_NAME));
        assert_ne!(long[0], long[1]);
    }

    #[test]
    fn old_runs_are_removed_and_those_that_go_on_stay() {
        let (_dir, runs) = runs();
        for (name, day) in [("a", "01"), ("b", "02"), ("c", "03"), ("d", "04")] {
            finished(&runs, name);
            let file = runs.dir().join(name).join(DOCUMENT);
            let mut document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            document["started_at"] = format!("2026-01-{day}T00:00:00Z").into();
            fs::write(file, document.to_string()).unwrap();
        }
        fs::create_dir(runs.dir().join("mine")).unwrap();
        let names = |pruned: &Pruned| pruned.removed.iter().map(|run| run.run_id.clone()).collect::<Vec<_>>();
        let before = Some("2026-01-03T00:00:00Z".parse().unwrap());
        for (keep, before, want) in
            [(Some(2), None, vec!["b", "a"]), (None, before, vec!["b", "a"]), (Some(3), before, vec!["a"])]
        {
            let (pruned, _) = runs.prune(keep, before, true).unwrap();
            assert_eq!((names(&pruned), pruned.kept), (want.iter().map(|s| (*s).to_owned()).collect(), 4 - want.len()));
            assert!(pruned.bytes > 0 && runs.list().unwrap().0.len() == 4);
        }
        let held = File::options().write(true).open(runs.dir().join("a").join(LOCK)).unwrap();
        held.lock().unwrap();
        let (pruned, _) = runs.prune(Some(1), None, false).unwrap();
        assert_eq!(names(&pruned), ["c", "b"]);
        let left: Vec<String> = runs.list().unwrap().0.into_iter().map(|run| run.name).collect();
        assert_eq!(left, ["d", "a"]);
        // What is no run is nobody's to remove.
        assert!(runs.dir().join("mine").is_dir());
        assert_eq!(fs::read_dir(runs.dir()).unwrap().count(), 3);
    }

    #[test]
    fn a_run_is_found_by_the_beginning_of_its_id() {
        let (_dir, runs) = runs();
        assert!(runs.list().unwrap().0.is_empty());
        finished(&runs, "01AB");
        finished(&runs, "01AC");
        assert_eq!(runs.find("01AB").unwrap().name, "01AB");
        assert_eq!(runs.find("01AC").unwrap().name, "01AC");
        assert_eq!(runs.find("last").unwrap().name, "01AC");
        assert!(runs.find("01A").unwrap_err().message().contains("2 runs"));
        assert!(runs.find("zz").is_err());
        assert!(runs.find("").is_err());
        fs::create_dir(runs.dir().join("bad")).unwrap();
        fs::write(runs.dir().join("bad/run.json"), "[]").unwrap();
        let (listed, unread) = runs.list().unwrap();
        assert_eq!((listed.len(), unread.len()), (2, 1));
        // What cannot be read may be the last one, and is still checked by the beginning of its id.
        assert!(runs.find("last").unwrap_err().message().contains("bad/run.json"));
        assert!(!runs.verify("ba").unwrap().passed && runs.verify("01AB").unwrap().passed);
        assert!(runs.verify("last").is_err() && runs.verify("").is_err());
    }
}
