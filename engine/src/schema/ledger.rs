//! The ledger of schema changes: one file an event, never changed once it is written, each with the hash of the one
//! before, so that a change, a gap or a removal is found.
//!
//! `head.json` beside the entries says which is the newest. It makes appending quick, and makes the removal of the newest
//! entry visible, which a chain alone does not. Entries hold names, types and statements, never a secret or a cell value.

use std::path::{Path, PathBuf};

use chrono::{SecondsFormat, Utc};
use dpone_planner::schema::{Risk, SchemaPlan};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::files::{create, file_part, json_bytes, lock, names, parse, read, replace, sha256};
use crate::{Error, Result};

const PREFIX: &str = "schema_change_";
const HEAD: &str = "head.json";
const LOCK: &str = ".lock";

/// What became of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryStatus {
    /// Worked out; nothing is done yet.
    Planned,
    /// Not applied: its cost, the policy, or a lock that was not free.
    #[serde(alias = "blocked")]
    Deferred,
    /// Waits for somebody.
    #[serde(alias = "manual_approval", alias = "pending")]
    PendingApproval,
    Applied,
    Failed,
    /// Refused by the policy or by an approval that does not hold.
    Rejected,
}

impl EntryStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Deferred => "deferred",
            Self::PendingApproval => "pending_approval",
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }
}

/// One event, as it is recorded.
#[derive(Debug, Clone)]
pub struct NewEntry {
    pub run_id: String,
    pub pipeline: String,
    pub table: String,
    pub dialect: String,
    pub status: EntryStatus,
    pub online_eligible: bool,
    pub plan_hash: String,
    pub catalog_fingerprint: String,
    /// As in the plan's document.
    pub actions: Vec<Value>,
    pub blockers: Vec<String>,
    pub expand_contract_plan: Vec<Value>,
    /// The approval under which the plan was applied.
    pub approval_id: Option<String>,
    /// Why it failed or was put off: an error's message, which holds no values.
    pub error: Option<String>,
    pub notes: Vec<String>,
}

impl NewEntry {
    /// The event `status` of a plan.
    pub fn of(plan: &SchemaPlan, run_id: &str, pipeline: &str, status: EntryStatus) -> Result<Self> {
        let online = plan.online();
        let values = |value: serde_json::Result<Value>| match value {
            Ok(Value::Array(values)) => Ok(values),
            Ok(_) => Err(Error::internal("a list of a schema plan is not one")),
            Err(error) => Err(Error::internal(format!("the schema plan cannot be written: {error}"))),
        };
        Ok(Self {
            run_id: run_id.to_owned(),
            pipeline: pipeline.to_owned(),
            table: online.table.clone(),
            dialect: online.dialect.to_owned(),
            status,
            online_eligible: online.online_eligible,
            plan_hash: plan.plan_hash.clone(),
            catalog_fingerprint: plan.catalog_fingerprint.clone(),
            actions: values(serde_json::to_value(online.actions))?,
            blockers: online.blockers.clone(),
            expand_contract_plan: values(serde_json::to_value(&online.expand_contract_plan))?,
            approval_id: None,
            error: None,
            notes: Vec::new(),
        })
    }

    pub fn with_approval(mut self, approval_id: impl Into<String>) -> Self {
        self.approval_id = Some(approval_id.into());
        self
    }

    pub fn with_error(mut self, error: &Error) -> Self {
        self.error = Some(error.to_string());
        self
    }

    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// An entry as it is read. What an entry of another origin may lack is optional.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub run_id: String,
    #[serde(default)]
    pub pipeline: String,
    pub table: String,
    pub dialect: String,
    pub status: EntryStatus,
    pub online_eligible: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_fingerprint: Option<String>,
    pub actions: Vec<EntryAction>,
    pub blockers: Vec<String>,
    pub expand_contract_plan: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// RFC 3339, UTC.
    #[serde(default)]
    pub recorded_at: Option<String>,
    /// From 1.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// SHA-256 of the file before, in hexadecimal; none for the first.
    #[serde(default)]
    pub previous_hash: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EntryAction {
    pub schema_change_id: String,
    #[serde(default)]
    pub change_type: String,
    #[serde(default)]
    pub column: String,
    pub risk_level: Risk,
    pub decision: String,
    pub ddl: Vec<String>,
    /// All else that the plan says of it.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl EntryAction {
    /// A text that the plan says of it, such as `reason` or `lock`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.more.get(key).and_then(Value::as_str)
    }

    /// A list of texts that the plan says of it, such as `online_path`.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        let list = self.more.get(key).and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }
}

/// An entry with its file.
#[derive(Debug, Clone)]
pub struct StoredEntry {
    pub path: PathBuf,
    /// Of the file's bytes.
    pub sha256: String,
    pub entry: Entry,
}

impl StoredEntry {
    /// Reads one artifact. Errors name the line.
    pub fn read(path: &Path) -> Result<Self> {
        let Some(bytes) = read(path)? else {
            return Err(Error::configuration(format!("{}: there is no such file", path.display()))
                .with_hint("a run writes such files into the ledger_path of its schema_evolution"));
        };
        Self::of(path, &bytes)
    }

    fn of(path: &Path, bytes: &[u8]) -> Result<Self> {
        const HINT: &str = "a ledger artifact is a schema_change_<run>_<hash>.json that a run has written";
        let entry: Entry = parse(path, bytes, "a ledger artifact").map_err(|e| e.with_hint(HINT))?;
        for (key, text) in [("run_id", &entry.run_id), ("table", &entry.table), ("dialect", &entry.dialect)] {
            if text.trim().is_empty() {
                let message = format!("{}: this is not a ledger artifact: {key} is empty", path.display());
                return Err(Error::configuration(message).with_hint(HINT));
            }
        }
        Ok(Self { path: path.to_owned(), sha256: sha256(bytes), entry })
    }
}

/// What a chain that holds says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub entries: u64,
    /// SHA-256 of the newest entry; none of an empty ledger. Kept elsewhere, it proves the ledger up to here.
    pub head: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    sequence: u64,
    sha256: String,
    file: String,
}

/// A folder of entries.
#[derive(Debug, Clone)]
pub struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    /// The ledger in this folder; the folder is made with the first entry.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends an entry and returns its file. It is durable when this returns. Processes that append at the same time
    /// wait for each other. Nothing is appended to a ledger whose newest entry is gone or changed.
    pub fn record(&self, new: &NewEntry) -> Result<PathBuf> {
        if [&new.run_id, &new.table, &new.dialect].iter().any(|text| text.trim().is_empty()) {
            return Err(Error::internal("an entry of the ledger has a run id, a table and a dialect"));
        }
        let _lock = lock(&self.dir, LOCK)?;
        let head = self.newest()?;
        let entry = Document {
            run_id: &new.run_id,
            pipeline: &new.pipeline,
            table: &new.table,
            dialect: &new.dialect,
            status: new.status,
            online_eligible: new.online_eligible,
            plan_hash: &new.plan_hash,
            catalog_fingerprint: &new.catalog_fingerprint,
            actions: &new.actions,
            blockers: &new.blockers,
            expand_contract_plan: &new.expand_contract_plan,
            approval_id: new.approval_id.as_deref(),
            error: new.error.as_deref(),
            notes: &new.notes,
            recorded_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            sequence: head.as_ref().map_or(0, |head| head.sequence) + 1,
            previous_hash: head.map(|head| head.sha256),
        };
        let bytes = json_bytes(&entry)?;
        let digest = sha256(&bytes);
        let name = format!("{PREFIX}{}_{}.json", file_part(&new.run_id, 100), &digest[..16]);
        let path = self.dir.join(&name);
        create(&path, &bytes)?;
        // A crash in between leaves an entry that the head does not know yet: `newest` finds it.
        self.set_head(&Head { sequence: entry.sequence, sha256: digest, file: name })?;
        Ok(path)
    }

    fn set_head(&self, head: &Head) -> Result<()> {
        replace(&self.dir.join(HEAD), &json_bytes(head)?)
    }

    fn head(&self) -> Result<Option<Head>> {
        let path = self.dir.join(HEAD);
        read(&path)?.map(|bytes| parse(&path, &bytes, "the head of a ledger")).transpose()
    }

    /// The newest entry: as the head says where it agrees with the folder, else by checking all of them.
    fn newest(&self) -> Result<Option<Head>> {
        let (head, names) = (self.head()?, names(&self.dir, PREFIX, ".json")?);
        let Some(head) = head.filter(|head| head.sequence == names.len() as u64) else {
            let chain = self.chain()?;
            return Ok(chain.last().map(|(sequence, stored)| Head {
                sequence: *sequence,
                sha256: stored.sha256.clone(),
                file: file_name(&stored.path),
            }));
        };
        let path = self.dir.join(&head.file);
        match read(&path)? {
            Some(bytes) if sha256(&bytes) == head.sha256 => Ok(Some(head)),
            Some(_) => Err(broken(&path, "it was changed after it was written")),
            None => Err(broken(&path, "it is gone")),
        }
    }

    /// All entries in their order. Fails as [`Ledger::verify`] does.
    pub fn entries(&self) -> Result<Vec<StoredEntry>> {
        Ok(self.chain()?.into_iter().map(|(_, stored)| stored).collect())
    }

    /// Checks every file, its place in the chain, and the head. An error names the file that is wrong.
    pub fn verify(&self) -> Result<Verified> {
        let chain = self.chain()?;
        Ok(Verified { entries: chain.len() as u64, head: chain.last().map(|(_, stored)| stored.sha256.clone()) })
    }

    fn chain(&self) -> Result<Vec<(u64, StoredEntry)>> {
        let mut chain = Vec::new();
        for name in names(&self.dir, PREFIX, ".json")? {
            let path = self.dir.join(&name);
            let bytes = read(&path)?.ok_or_else(|| broken(&path, "it is gone"))?;
            let digest = sha256(&bytes);
            if !name.ends_with(&format!("_{}.json", &digest[..16])) {
                return Err(broken(&path, "it was changed after it was written: its name no longer tells its content"));
            }
            let stored = StoredEntry::of(&path, &bytes)?;
            let Some(sequence) = stored.entry.sequence else {
                return Err(broken(&path, "it has no sequence: it was not written by this ledger"));
            };
            chain.push((sequence, stored));
        }
        chain.sort_by_key(|(sequence, _)| *sequence);
        let mut before: Option<&StoredEntry> = None;
        for (place, (sequence, stored)) in chain.iter().enumerate() {
            let expected = place as u64 + 1;
            if *sequence > expected {
                let missing = format!("entry {expected} is missing before it");
                return Err(broken(&stored.path, &missing));
            }
            if *sequence < expected {
                return Err(broken(&stored.path, &format!("there are two entries with the sequence {sequence}")));
            }
            if stored.entry.previous_hash.as_deref() != before.map(|stored| stored.sha256.as_str()) {
                return Err(broken(&stored.path, "its previous_hash is not the hash of the entry before it"));
            }
            before = Some(stored);
        }
        match self.head()? {
            // An append that was killed before it had set the head.
            Some(head) if head.sequence + 1 == chain.len() as u64 => {}
            Some(head) if head.sequence > chain.len() as u64 => {
                return Err(broken(&self.dir.join(&head.file), "the head knows it, and it is gone"));
            }
            Some(head) if chain.last().is_none_or(|(_, stored)| stored.sha256 != head.sha256) => {
                return Err(broken(&self.dir.join(HEAD), "it does not name the newest entry"));
            }
            // An append that was killed before the first head.
            None if chain.len() <= 1 => {}
            None => return Err(broken(&self.dir.join(HEAD), "it is gone")),
            Some(_) => {}
        }
        Ok(chain)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn broken(path: &Path, why: &str) -> Error {
    Error::conflict(format!("the ledger of schema changes does not hold: {}: {why}", path.display())).with_hint(
        "bring the folder back from a copy; or keep it as evidence and begin another one: schema_evolution.ledger_path",
    )
}

#[derive(Serialize)]
struct Document<'a> {
    run_id: &'a str,
    pipeline: &'a str,
    table: &'a str,
    dialect: &'a str,
    status: EntryStatus,
    online_eligible: bool,
    plan_hash: &'a str,
    catalog_fingerprint: &'a str,
    actions: &'a [Value],
    blockers: &'a [String],
    expand_contract_plan: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
    recorded_at: String,
    sequence: u64,
    previous_hash: Option<String>,
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    pub(in crate::schema) fn entry(run_id: &str) -> NewEntry {
        NewEntry {
            run_id: run_id.into(),
            pipeline: "orders".into(),
            table: "landing.orders".into(),
            dialect: "postgres".into(),
            status: EntryStatus::Planned,
            online_eligible: true,
            plan_hash: "aa".into(),
            catalog_fingerprint: "bb".into(),
            actions: vec![json!({
                "schema_change_id": "sch_1", "change_type": "add_column", "column": "note",
                "risk_level": "metadata_only", "decision": "apply", "ddl": ["ALTER TABLE …"],
            })],
            blockers: Vec::new(),
            expand_contract_plan: Vec::new(),
            approval_id: None,
            error: None,
            notes: Vec::new(),
        }
    }

    fn ledger(entries: usize) -> (tempfile::TempDir, Ledger, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path().join("ledger"));
        let paths = (0..entries).map(|i| ledger.record(&entry(&format!("r{i}"))).unwrap()).collect();
        (dir, ledger, paths)
    }

    #[test]
    fn entries_form_a_chain() {
        let (_dir, ledger, paths) = ledger(3);
        let found = ledger.entries().unwrap();
        assert_eq!(found.iter().map(|s| &s.path).collect::<Vec<_>>(), paths.iter().collect::<Vec<_>>());
        assert_eq!(found[0].entry.previous_hash, None);
        assert_eq!(found[2].entry.previous_hash.as_ref(), Some(&found[1].sha256));
        let verified = ledger.verify().unwrap();
        assert_eq!((verified.entries, verified.head.as_ref()), (3, Some(&found[2].sha256)));
        assert_eq!(Ledger::open("/nowhere/at/all").verify().unwrap().entries, 0);
    }

    #[test]
    fn every_change_of_a_file_is_found() {
        for place in 0..3 {
            let (_dir, ledger, paths) = ledger(3);
            let text = std::fs::read_to_string(&paths[place]).unwrap();
            std::fs::write(&paths[place], text.replace("orders", "ORDERS")).unwrap();
            let error = ledger.verify().unwrap_err();
            assert!(error.message().contains(&*paths[place].to_string_lossy()), "{place}: {error}");
        }
        for place in 0..3 {
            let (_dir, ledger, paths) = ledger(3);
            std::fs::remove_file(&paths[place]).unwrap();
            assert!(ledger.verify().is_err(), "{place}");
            assert!(ledger.record(&entry("next")).is_err(), "{place}: appended to a ledger with a gap");
        }
    }

    #[test]
    fn a_forged_entry_under_a_fitting_name_breaks_the_chain() {
        let (_dir, ledger, paths) = ledger(3);
        let text = std::fs::read_to_string(&paths[1]).unwrap().replace("orders", "ORDERS");
        std::fs::remove_file(&paths[1]).unwrap();
        let name = format!("{PREFIX}r1_{}.json", &sha256(text.as_bytes())[..16]);
        std::fs::write(ledger.dir().join(name), text).unwrap();
        let error = ledger.verify().unwrap_err();
        assert!(error.message().contains(&*paths[2].to_string_lossy()), "{error}");
    }

    #[test]
    fn an_append_that_was_killed_before_the_head_is_found_again() {
        let (_dir, ledger, _) = ledger(2);
        let head = ledger.dir().join(HEAD);
        let before = std::fs::read(&head).unwrap();
        ledger.record(&entry("killed")).unwrap();
        std::fs::write(&head, before).unwrap();
        assert_eq!(ledger.verify().unwrap().entries, 3);
        ledger.record(&entry("after")).unwrap();
        assert_eq!(ledger.verify().unwrap().entries, 4);
        assert_eq!(ledger.entries().unwrap()[3].entry.run_id, "after");
    }

    #[test]
    fn writers_wait_for_each_other() {
        let (_dir, ledger, _) = ledger(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let ledger = ledger.clone();
                scope.spawn(move || {
                    (0..10).for_each(|i| drop(ledger.record(&entry(&format!("{thread}-{i}"))).unwrap()))
                });
            }
        });
        assert_eq!(ledger.verify().unwrap().entries, 40);
    }

    #[test]
    fn a_run_id_is_only_ever_a_part_of_a_name() {
        let (_dir, ledger, _) = ledger(0);
        for run_id in ["../../etc/passwd", "a/b", "..", "ü\u{0}x", &"x".repeat(500)] {
            let path = ledger.record(&entry(run_id)).unwrap();
            assert_eq!(path.parent(), Some(ledger.dir()), "{run_id}");
        }
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        let (_dir, _, paths) = ledger(1);
        let text = std::fs::read_to_string(&paths[0]).unwrap();
        std::fs::write(&paths[0], text.replace("\"planned\"", "\"perhaps\"")).unwrap();
        let error = StoredEntry::read(&paths[0]).unwrap_err();
        assert_eq!(error.location().unwrap().line, 6, "{error}");
        assert!(error.message().contains("perhaps"), "{error}");
        std::fs::write(&paths[0], "{}").unwrap();
        assert!(StoredEntry::read(&paths[0]).unwrap_err().message().contains("run_id"));
    }
}
