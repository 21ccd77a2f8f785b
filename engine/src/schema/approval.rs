//! Approvals: somebody's word that one plan may be applied to one catalog, for a time.
//!
//! An approval names the plan's hash and the catalog's fingerprint. Where either is another one now, it is void, and the
//! verdict says why. It may be signed; a run that asks for signatures checks them against the keys that it trusts.

use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::canonical::Canonical;
use super::files::{create, json_bytes, names, parse, read, sha256};
use super::keys::{PublicKey, SigningKey};
use super::ledger::{EntryStatus, Ledger, StoredEntry};
use crate::{Error, Result};

/// Where approvals are kept unless the policy's `approvals_path` says otherwise.
pub const DEFAULT_APPROVALS: &str = ".dpone/schema_approvals";
/// How long an approval holds unless it says otherwise.
pub const DEFAULT_EXPIRY: TimeDelta = TimeDelta::days(7);

const PREFIX: &str = "schema_approval_";
const DOMAIN: &str = "dpone schema approval 1";
const ALGORITHM: &str = "ed25519";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    Approved,
}

/// An approval as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// `appr_` and 24 hexadecimal digits.
    pub approval_id: String,
    pub approval_status: ApprovalStatus,
    pub approver: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub ledger_path: String,
    /// Of the ledger artifact's bytes.
    pub ledger_sha256: String,
    pub run_id: String,
    pub table: String,
    pub dialect: String,
    /// `None` where the artifact names none: no run accepts such an approval.
    pub plan_hash: Option<String>,
    pub catalog_fingerprint: Option<String>,
    pub schema_change_ids: Vec<String>,
    /// RFC 3339, as all times here.
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    pub expires_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// `ed25519`.
    pub algorithm: String,
    /// Base64 of its 32 bytes.
    pub public_key: String,
    /// Base64.
    pub value: String,
}

impl Approval {
    /// What is signed: every field but the signature.
    fn canonical(&self) -> Vec<u8> {
        Canonical::new(DOMAIN)
            .field("approval_id", &self.approval_id)
            .field("approval_status", "approved")
            .field("approver", &self.approver)
            .optional("reason", self.reason.as_deref())
            .field("ledger_path", &self.ledger_path)
            .field("ledger_sha256", &self.ledger_sha256)
            .field("run_id", &self.run_id)
            .field("table", &self.table)
            .field("dialect", &self.dialect)
            .optional("plan_hash", self.plan_hash.as_deref())
            .optional("catalog_fingerprint", self.catalog_fingerprint.as_deref())
            .list("schema_change_ids", &self.schema_change_ids)
            .field("created_at", &self.created_at)
            .optional("not_before", self.not_before.as_deref())
            .field("expires_at", &self.expires_at)
            .bytes()
    }

    fn sign(&mut self, key: &SigningKey) {
        let value = key.sign(&self.canonical());
        let public_key = key.public().to_string();
        self.signature = Some(Signature { algorithm: ALGORITHM.to_owned(), public_key, value });
    }

    /// Why the signature does not do for this trust; `None` where it does.
    fn distrust(&self, trust: &Trust) -> Option<String> {
        let Some(signature) = &self.signature else {
            return trust
                .require_signed
                .then(|| "it is not signed, and require_signed is set: approve again with `--key FILE`".to_owned());
        };
        if signature.algorithm != ALGORITHM {
            return Some(format!("its signature is of the algorithm {:?}, expected {ALGORITHM}", signature.algorithm));
        }
        let Ok(key) = PublicKey::parse(&signature.public_key) else {
            return Some("its signature names a public key that is none".to_owned());
        };
        if !key.verifies(&self.canonical(), &signature.value) {
            return Some("its signature does not hold: it was changed after it was signed".to_owned());
        }
        if trust.keys.contains(&key) || (trust.keys.is_empty() && !trust.require_signed) {
            return None;
        }
        Some(match trust.keys.is_empty() {
            true => format!("require_signed is set, and trusted_keys is empty: add {key} there if you trust it"),
            false => format!("it is signed with {key}, which is not among trusted_keys"),
        })
    }

    /// Why the approval does not hold now; `None` where it does.
    fn void(&self, subject: &Subject<'_>, now: DateTime<Utc>, trust: &Trust) -> Option<String> {
        if let Some(why) = self.distrust(trust) {
            return Some(why);
        }
        if self.catalog_fingerprint.as_deref() != Some(subject.catalog_fingerprint) {
            return Some(
                "the catalog moved since: the table's columns, its dependents, the server's version or its settings \
                 are not what was approved. Look at the plan of this run and approve that"
                    .to_owned(),
            );
        }
        match (self.not_before.as_deref().map(time), time(&self.expires_at)) {
            (_, None) => Some("its expires_at is not a time".to_owned()),
            (Some(None), _) => Some("its not_before is not a time".to_owned()),
            (_, Some(end)) if now >= end => Some(format!("it expired at {}: approve the plan again", self.expires_at)),
            (Some(Some(begin)), _) if now < begin => {
                let begin = self.not_before.as_deref().unwrap_or_default();
                Some(format!("it does not begin before {begin}: run again in its window"))
            }
            _ => None,
        }
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc))
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// What a run asks approval for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// As in the plan's document.
    pub table: &'a str,
    pub dialect: &'a str,
    pub plan_hash: &'a str,
    pub catalog_fingerprint: &'a str,
}

/// Whose approvals count.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Only signed ones, by one of the keys.
    pub require_signed: bool,
    /// Empty, and no signature required: whoever may write into the folder approves.
    pub keys: Vec<PublicKey>,
}

impl Trust {
    /// From the policy's `require_signed` and `trusted_keys`; paths begin at `base_dir`.
    pub fn new(require_signed: bool, keys: &[String], base_dir: &Path) -> Result<Self> {
        let keys = keys.iter().map(|key| PublicKey::from_reference(key, base_dir)).collect::<Result<Vec<_>>>()?;
        Ok(Self { require_signed, keys })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The plan may be applied.
    Approved(Box<Approval>),
    /// Nobody approved anything for this table.
    None,
    /// There is an approval, and it does not hold. One sentence says which, why, and what to do.
    Void { why: String },
}

/// A folder of approvals.
#[derive(Debug, Clone)]
pub struct Approvals {
    dir: PathBuf,
}

impl Approvals {
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Looks for an approval of this plan on this catalog. One that holds counts, whatever lies beside it; else the
    /// newest one that is nearest to it says why it does not.
    pub fn find(&self, subject: &Subject<'_>, now: DateTime<Utc>, trust: &Trust) -> Result<Verdict> {
        let (mut void, mut nearest) = (Verdict::None, None);
        let mut note = |near: u8, created: &str, why: String| {
            let rank = (near, created.to_owned());
            if nearest.as_ref().is_none_or(|best| *best < rank) {
                (nearest, void) = (Some(rank), Verdict::Void { why });
            }
        };
        for name in names(&self.dir, PREFIX, ".json")? {
            let path = self.dir.join(&name);
            let Some(bytes) = read(&path)? else { continue };
            let approval: Approval = match parse(&path, &bytes, "an approval") {
                Ok(approval) => approval,
                Err(error) => {
                    note(0, "", format!("an approval cannot be read: {error}"));
                    continue;
                }
            };
            if approval.table != subject.table || approval.dialect != subject.dialect {
                continue;
            }
            let sentence =
                |why: &str| format!("the approval {} by {:?} is void: {why}", approval.approval_id, approval.approver);
            if approval.plan_hash.as_deref() != Some(subject.plan_hash) {
                // Of a plan that was applied, or is out of date; an expired one says nothing any more.
                if time(&approval.expires_at).is_some_and(|end| now < end) {
                    let why = "it approves another plan of this table: the source, the policy or the catalog moved \
                               since. Look at the plan of this run and approve that";
                    note(1, &approval.created_at, sentence(why));
                }
                continue;
            }
            match approval.void(subject, now, trust) {
                None => return Ok(Verdict::Approved(Box::new(approval))),
                Some(why) => note(2, &approval.created_at, sentence(&why)),
            }
        }
        Ok(void)
    }
}

/// Somebody approves a ledger artifact.
#[derive(Debug)]
pub struct ApprovalRequest<'a> {
    pub ledger: &'a Path,
    pub approver: &'a str,
    pub reason: Option<&'a str>,
    pub not_before: Option<DateTime<Utc>>,
    /// `None`: [`DEFAULT_EXPIRY`] after it begins.
    pub expires_at: Option<DateTime<Utc>>,
    pub key: Option<&'a SigningKey>,
}

/// An approval that was written.
#[derive(Debug, Clone)]
pub struct Approved {
    pub approval: Approval,
    pub artifact_path: PathBuf,
    /// What the approver should know, one sentence each.
    pub warnings: Vec<String>,
}

impl Approvals {
    /// Checks the artifact and its place in its ledger, and writes the approval.
    pub fn approve(&self, request: &ApprovalRequest<'_>, now: DateTime<Utc>) -> Result<Approved> {
        let approver = name(request.approver)?;
        let begin = request.not_before.unwrap_or(now);
        let end = match request.expires_at {
            Some(end) => end,
            None => begin.checked_add_signed(DEFAULT_EXPIRY).unwrap_or(begin),
        };
        if end <= begin || end <= now {
            return Err(Error::configuration(format!(
                "the approval would end at {}, before it begins at {}",
                text(end),
                text(begin.max(now))
            )));
        }
        let stored = StoredEntry::read(request.ledger)?;
        let mut warnings = check(&stored)?;
        let entry = &stored.entry;
        if request.key.is_none() {
            warnings.push("it is not signed: a run with require_signed refuses it".to_owned());
        }
        let created_at = now.to_rfc3339_opts(SecondsFormat::Micros, true);
        let identity = Canonical::new(DOMAIN).field("ledger", &stored.sha256).field("approver", approver);
        let identity = identity.field("created_at", &created_at).bytes();
        let mut approval = Approval {
            approval_id: format!("appr_{}", &sha256(&identity)[..24]),
            approval_status: ApprovalStatus::Approved,
            approver: approver.to_owned(),
            reason: request.reason.map(str::trim).filter(|reason| !reason.is_empty()).map(str::to_owned),
            ledger_path: request.ledger.display().to_string(),
            ledger_sha256: stored.sha256.clone(),
            run_id: entry.run_id.clone(),
            table: entry.table.clone(),
            dialect: entry.dialect.clone(),
            plan_hash: entry.plan_hash.clone(),
            catalog_fingerprint: entry.catalog_fingerprint.clone(),
            schema_change_ids: entry.actions.iter().map(|action| action.schema_change_id.clone()).collect(),
            created_at,
            not_before: request.not_before.map(text),
            expires_at: text(end),
            signature: None,
        };
        if let Some(key) = request.key {
            approval.sign(key);
        }
        let artifact_path = self.dir.join(format!("{PREFIX}{}.json", approval.approval_id));
        create(&artifact_path, &json_bytes(&approval)?)?;
        Ok(Approved { approval, artifact_path, warnings })
    }
}

/// A name that stands in logs and reports: one line.
fn name(approver: &str) -> Result<&str> {
    let approver = approver.trim();
    let wrong = match approver {
        "" => "is empty",
        text if text.chars().any(char::is_control) => "holds a control character",
        text if text.len() > 256 => "has more than 256 bytes",
        _ => return Ok(approver),
    };
    Err(Error::configuration(format!("the approver's name {wrong}"))
        .with_hint("--approver names who takes responsibility, such as data-architect"))
}

/// Whether there is something in the entry that can be approved.
fn check(stored: &StoredEntry) -> Result<Vec<String>> {
    let (path, entry) = (stored.path.display(), &stored.entry);
    match entry.status {
        EntryStatus::Applied => {
            let message = format!("{path}: these changes were applied already: there is nothing to approve");
            return Err(Error::conflict(message));
        }
        EntryStatus::Rejected => {
            return Err(Error::conflict(format!("{path}: the policy rejects these changes: no approval applies them"))
                .with_hint("change the policy in schema_evolution, run again, and approve the entry of that run"));
        }
        EntryStatus::Planned | EntryStatus::Deferred | EntryStatus::PendingApproval | EntryStatus::Failed => {}
    }
    if entry.actions.is_empty() {
        return Err(Error::configuration(format!("{path}: actions is empty: there is nothing to approve")));
    }
    let mut warnings = Vec::new();
    match (entry.sequence, stored.path.parent()) {
        (Some(_), folder) => {
            let folder = folder.filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let entries = Ledger::open(folder).entries()?;
            if !entries.iter().any(|other| other.sha256 == stored.sha256) {
                return Err(Error::conflict(format!(
                    "{path}: the artifact is not an entry of the ledger in its folder"
                ))
                .with_hint("approve the file in the ledger's own folder, as the run has named it"));
            }
        }
        (None, _) => warnings.push("the artifact is not part of a ledger's chain: it has no sequence".to_owned()),
    }
    if entry.plan_hash.is_none() || entry.catalog_fingerprint.is_none() {
        let message = "the artifact has no plan_hash or no catalog_fingerprint: no run can tell that it is approved";
        warnings.push(message.to_owned());
    }
    let unsupported = entry.actions.iter().filter(|a| a.risk_level == dpone_planner::schema::Risk::Unsupported);
    for action in unsupported {
        warnings
            .push(format!("{} {:?} is unsupported: no approval makes it possible", action.change_type, action.column));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::keys::tests::key;
    use super::super::ledger::tests::entry;
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn now() -> DateTime<Utc> {
        time(NOW).unwrap()
    }

    struct Case {
        _dir: tempfile::TempDir,
        ledger: PathBuf,
        approvals: Approvals,
    }

    impl Case {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(dir.path().join("ledger")).record(&entry("r1")).unwrap();
            let approvals = Approvals::open(dir.path().join("approvals"));
            Self { _dir: dir, ledger, approvals }
        }

        fn request(&self) -> ApprovalRequest<'_> {
            ApprovalRequest {
                ledger: &self.ledger,
                approver: "data-architect",
                reason: None,
                not_before: None,
                expires_at: None,
                key: None,
            }
        }

        fn find(&self, fingerprint: &str, now: DateTime<Utc>, trust: &Trust) -> Verdict {
            let subject = Subject {
                table: "landing.orders",
                dialect: "postgres",
                plan_hash: "aa",
                catalog_fingerprint: fingerprint,
            };
            self.approvals.find(&subject, now, trust).unwrap()
        }
    }

    fn why(verdict: Verdict) -> String {
        match verdict {
            Verdict::Void { why } => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_approval_holds_for_its_plan_its_catalog_and_its_time() {
        let case = Case::new();
        let open = Trust::default();
        assert_eq!(case.find("bb", now(), &open), Verdict::None);
        let approved = case.approvals.approve(&case.request(), now()).unwrap();
        assert_eq!(approved.approval.expires_at, "2026-01-08T00:00:00Z");
        assert_eq!(approved.approval.approval_id.len(), 29);
        assert!(matches!(case.find("bb", now(), &open), Verdict::Approved(a) if *a == approved.approval));
        assert!(why(case.find("cc", now(), &open)).contains("catalog moved"));
        let last = now() + DEFAULT_EXPIRY;
        assert!(matches!(case.find("bb", last - TimeDelta::seconds(1), &open), Verdict::Approved(_)));
        assert!(why(case.find("bb", last, &open)).contains("expired at 2026-01-08"));
        let other =
            Subject { table: "landing.orders", dialect: "postgres", plan_hash: "xx", catalog_fingerprint: "bb" };
        assert!(why(case.approvals.find(&other, now(), &open).unwrap()).contains("another plan"));
        let other = Subject { table: "landing.people", ..other };
        assert_eq!(case.approvals.find(&other, now(), &open).unwrap(), Verdict::None);
    }

    #[test]
    fn a_window_has_a_begin() {
        let case = Case::new();
        let begin = now() + TimeDelta::hours(2);
        let request = ApprovalRequest {
            not_before: Some(begin),
            expires_at: Some(begin + TimeDelta::hours(1)),
            ..case.request()
        };
        case.approvals.approve(&request, now()).unwrap();
        let open = Trust::default();
        assert!(why(case.find("bb", now(), &open)).contains("does not begin before 2026-01-01T02:00:00Z"));
        assert!(matches!(case.find("bb", begin, &open), Verdict::Approved(_)));
        assert!(why(case.find("bb", begin + TimeDelta::hours(1), &open)).contains("expired"));
        let backwards = ApprovalRequest { expires_at: Some(begin), ..request };
        assert!(case.approvals.approve(&backwards, now()).is_err());
    }

    #[test]
    fn signatures_are_asked_for_and_checked() {
        let case = Case::new();
        let key = key();
        let signed_only = Trust { require_signed: true, keys: vec![key.public()] };
        case.approvals.approve(&case.request(), now()).unwrap();
        assert!(why(case.find("bb", now(), &signed_only)).contains("not signed"));
        let signed = case.approvals.approve(&ApprovalRequest { key: Some(&key), ..case.request() }, now()).err();
        // The same approver in the same moment: the same approval, which is there already.
        assert!(signed.is_some());
        let later = now() + TimeDelta::seconds(1);
        let signed = case.approvals.approve(&ApprovalRequest { key: Some(&key), ..case.request() }, later).unwrap();
        assert!(matches!(case.find("bb", later, &signed_only), Verdict::Approved(_)));
        let nobody = Trust { require_signed: true, keys: Vec::new() };
        assert!(why(case.find("bb", later, &nobody)).contains("trusted_keys is empty"));
        let other = PublicKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let others = Trust { require_signed: true, keys: vec![other] };
        assert!(why(case.find("bb", later, &others)).contains("not among trusted_keys"));

        for (from, to) in [
            ("data-architect", "data-architekt"),
            ("2026-01-08", "2036-01-08"),
            ("\"plan_hash\": \"aa\"", "\"plan_hash\":\"aa\",\"reason\":\"x\""),
            ("sch_1", "sch_2"),
            ("\"r1\"", "\"r2\""),
        ] {
            let text = std::fs::read_to_string(&signed.artifact_path).unwrap();
            assert!(text.contains(from), "{from}");
            std::fs::write(&signed.artifact_path, text.replace(from, to)).unwrap();
            assert!(why(case.find("bb", later, &signed_only)).contains("changed after it was signed"), "{from}");
            std::fs::write(&signed.artifact_path, text).unwrap();
        }
        assert!(matches!(case.find("bb", later, &signed_only), Verdict::Approved(_)));
    }

    #[test]
    fn what_cannot_be_approved_is_refused() {
        let case = Case::new();
        for approver in ["", "  ", "a\nb", &"x".repeat(300)] {
            let error = case.approvals.approve(&ApprovalRequest { approver, ..case.request() }, now()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Configuration, "{approver:?}");
        }
        let refused = |change: &dyn Fn(&mut super::super::NewEntry)| {
            let mut new = entry("r2");
            change(&mut new);
            let ledger = Ledger::open(case.ledger.parent().unwrap()).record(&new).unwrap();
            let request = ApprovalRequest { ledger: &ledger, ..case.request() };
            case.approvals.approve(&request, now()).unwrap_err().to_string()
        };
        assert!(refused(&|e| e.status = EntryStatus::Applied).contains("applied already"));
        assert!(refused(&|e| e.status = EntryStatus::Rejected).contains("rejects"));
        assert!(refused(&|e| e.actions.clear()).contains("nothing to approve"));
        let text = std::fs::read_to_string(&case.ledger).unwrap();
        std::fs::write(&case.ledger, text.replace("note", "n0te")).unwrap();
        let error = case.approvals.approve(&case.request(), now()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Conflict, "{error}");
    }

    #[test]
    fn an_unreadable_approval_hides_no_other() {
        let case = Case::new();
        std::fs::create_dir_all(&case.approvals.dir).unwrap();
        std::fs::write(case.approvals.dir.join("schema_approval_x.json"), "{").unwrap();
        assert!(why(case.find("bb", now(), &Trust::default())).contains("schema_approval_x.json"));
        case.approvals.approve(&case.request(), now()).unwrap();
        assert!(matches!(case.find("bb", now(), &Trust::default()), Verdict::Approved(_)));
    }
}
