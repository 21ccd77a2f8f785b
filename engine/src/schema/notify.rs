//! Notifications from ledger artifacts: the same event as JSON for programs and as Markdown for people. Who sends them
//! somewhere finds everything in the files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::files::{json_bytes, replace};
use super::ledger::{EntryAction, EntryStatus, Ledger, StoredEntry};
use crate::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    /// Somebody has to approve or decide.
    ActionRequired,
    Error,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::ActionRequired => "action_required",
            Self::Error => "error",
        }
    }
}

/// One event, to be told.
#[derive(Debug, Clone, Serialize)]
pub struct Notification {
    pub kind: &'static str,
    pub severity: Severity,
    pub title: String,
    /// One sentence, for channels that show no more.
    pub text: String,
    pub run_id: String,
    pub pipeline: String,
    pub table: String,
    pub dialect: String,
    pub status: EntryStatus,
    pub recorded_at: Option<String>,
    pub plan_hash: Option<String>,
    pub approval_id: Option<String>,
    pub error: Option<String>,
    pub changes: Vec<NotifiedChange>,
    pub blockers: Vec<String>,
    pub next_steps: Vec<String>,
    pub ledger_path: String,
    pub ledger_sha256: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct NotifiedChange {
    pub schema_change_id: String,
    pub change_type: String,
    pub column: String,
    pub risk_level: dpone_planner::schema::Risk,
    pub decision: String,
    pub reason: Option<String>,
    pub ddl: Vec<String>,
    pub online_path: Vec<String>,
}

impl NotifiedChange {
    fn of(action: &EntryAction) -> Self {
        Self {
            schema_change_id: action.schema_change_id.clone(),
            change_type: action.change_type.clone(),
            column: action.column.clone(),
            risk_level: action.risk_level,
            decision: action.decision.clone(),
            reason: action.text("reason").map(str::to_owned),
            ddl: action.ddl.clone(),
            online_path: action.texts("online_path").into_iter().map(str::to_owned).collect(),
        }
    }
}

impl Notification {
    /// What an artifact says to people.
    pub fn of(stored: &StoredEntry) -> Self {
        let entry = &stored.entry;
        let (severity, what) = match entry.status {
            EntryStatus::Planned => (Severity::Info, "schema changes are planned"),
            EntryStatus::Applied => (Severity::Info, "schema changes were applied"),
            EntryStatus::PendingApproval => (Severity::ActionRequired, "schema changes wait for approval"),
            EntryStatus::Deferred => (Severity::ActionRequired, "schema changes were put off"),
            EntryStatus::Rejected => (Severity::Error, "schema changes were rejected"),
            EntryStatus::Failed => (Severity::Error, "schema changes failed"),
        };
        let changes: Vec<NotifiedChange> = entry.actions.iter().map(NotifiedChange::of).collect();
        let columns: Vec<String> = changes.iter().map(|c| format!("{} {}", c.change_type, c.column)).collect();
        Self {
            kind: "schema_change",
            severity,
            title: format!("{}: {what}", entry.table),
            text: format!(
                "{} ({}): {what} by run {}: {}",
                entry.table,
                entry.dialect,
                entry.run_id,
                if columns.is_empty() { "none".to_owned() } else { columns.join(", ") }
            ),
            run_id: entry.run_id.clone(),
            pipeline: entry.pipeline.clone(),
            table: entry.table.clone(),
            dialect: entry.dialect.clone(),
            status: entry.status,
            recorded_at: entry.recorded_at.clone(),
            plan_hash: entry.plan_hash.clone(),
            approval_id: entry.approval_id.clone(),
            error: entry.error.clone(),
            changes,
            blockers: entry.blockers.clone(),
            next_steps: next_steps(stored),
            ledger_path: stored.path.display().to_string(),
            ledger_sha256: stored.sha256.clone(),
        }
    }

    /// For people. What comes from names is never markup.
    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n", plain(&self.title));
        let mut fact = |name: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(out, "- {name}: {}", plain(value));
            }
        };
        fact("Status", self.status.as_str());
        fact("Severity", self.severity.as_str());
        fact("Table", &format!("{} ({})", self.table, self.dialect));
        fact("Pipeline", &self.pipeline);
        fact("Run", &self.run_id);
        fact("Recorded", self.recorded_at.as_deref().unwrap_or_default());
        fact("Approval", self.approval_id.as_deref().unwrap_or_default());
        fact("Error", self.error.as_deref().unwrap_or_default());
        if !self.changes.is_empty() {
            out.push_str("\n| change | column | risk | decision | reason |\n| --- | --- | --- | --- | --- |\n");
            for change in &self.changes {
                let reason = change.reason.as_deref().unwrap_or_default();
                let cells = [&change.change_type, &change.column, change.risk_level.as_str(), &change.decision, reason];
                let cells: Vec<String> = cells.iter().map(|cell| plain(cell)).collect();
                let _ = writeln!(out, "| {} |", cells.join(" | "));
            }
        }
        let ddl: Vec<&str> = self.changes.iter().flat_map(|c| c.ddl.iter().map(String::as_str)).collect();
        if !ddl.is_empty() {
            let text = ddl.join(";\n");
            let fence = fence(&text);
            let _ = write!(out, "\n{fence}sql\n{text};\n{fence}\n");
        }
        let mut list = |title: &str, lines: &[String]| {
            if !lines.is_empty() {
                let _ = write!(out, "\n{title}:\n\n");
                for line in lines {
                    let _ = writeln!(out, "- {}", plain(line));
                }
            }
        };
        list("Blockers", &self.blockers);
        list("Next", &self.next_steps);
        let _ = write!(out, "\nLedger: {} (sha256 {})\n", plain(&self.ledger_path), self.ledger_sha256);
        out
    }
}

fn next_steps(stored: &StoredEntry) -> Vec<String> {
    let entry = &stored.entry;
    match entry.status {
        EntryStatus::PendingApproval => vec![format!(
            "look at the statements, and approve them: dpone schema approve --ledger {} --approver NAME",
            stored.path.display()
        )],
        EntryStatus::Deferred | EntryStatus::Failed | EntryStatus::Rejected => {
            let guidance = |step: &Value| {
                let text = step.get("guidance").and_then(Value::as_str).or_else(|| step.as_str())?;
                Some(match step.get("column").and_then(Value::as_str) {
                    Some(column) => format!("{column}: {text}"),
                    None => text.to_owned(),
                })
            };
            entry.expand_contract_plan.iter().filter_map(guidance).collect()
        }
        EntryStatus::Planned | EntryStatus::Applied => Vec::new(),
    }
}

/// One line in which nothing is markup.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '|' | '#' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A fence that the text does not hold.
fn fence(text: &str) -> String {
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    "`".repeat((longest + 1).max(3))
}

/// A notification that was written.
#[derive(Debug, Clone)]
pub struct Written {
    pub notification: Notification,
    pub json_path: PathBuf,
    pub markdown_path: PathBuf,
}

/// Writes notifications into a folder: `schema_notification_<run>_<hash>.json` and `.md` beside it. The same artifact
/// gives the same bytes.
#[derive(Debug, Clone)]
pub struct SchemaNotificationService {
    dir: PathBuf,
}

impl SchemaNotificationService {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Of one artifact.
    pub fn notify(&self, stored: &StoredEntry) -> Result<Written> {
        let notification = Notification::of(stored);
        let stem = stored.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let stem = format!("schema_notification_{}", stem.strip_prefix("schema_change_").unwrap_or(&stem));
        let (json_path, markdown_path) = (self.dir.join(format!("{stem}.json")), self.dir.join(format!("{stem}.md")));
        replace(&json_path, &json_bytes(&notification)?)?;
        replace(&markdown_path, notification.markdown().as_bytes())?;
        Ok(Written { notification, json_path, markdown_path })
    }

    /// Of one artifact, or of every entry of a ledger's folder, with these statuses alone where some are named.
    pub fn notify_all(&self, ledger: &Path, statuses: &[EntryStatus]) -> Result<Vec<Written>> {
        let stored = if ledger.is_dir() { Ledger::open(ledger).entries()? } else { vec![StoredEntry::read(ledger)?] };
        let wanted = |s: &&StoredEntry| statuses.is_empty() || statuses.contains(&s.entry.status);
        if stored.is_empty() {
            return Err(Error::configuration(format!("{}: the folder holds no ledger artifact", ledger.display())));
        }
        stored.iter().filter(wanted).map(|stored| self.notify(stored)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::ledger::tests::entry;
    use super::*;

    #[test]
    fn hostile_names_are_no_markup() {
        let dir = tempfile::tempdir().unwrap();
        let mut new = entry("r1");
        new.status = EntryStatus::PendingApproval;
        new.table = "a|b.<script>alert(1)</script>".into();
        new.actions = vec![json!({
            "schema_change_id": "sch_1", "change_type": "add_column", "column": "x|y\n# head [a](b)",
            "risk_level": "metadata_only", "decision": "manual_approval", "ddl": ["ALTER ```\n"], "reason": "`r`",
        })];
        let ledger = Ledger::open(dir.path().join("ledger"));
        ledger.record(&new).unwrap();
        ledger.record(&entry("r2")).unwrap();
        let service = SchemaNotificationService::new(dir.path().join("out"));
        let written = service.notify_all(ledger.dir(), &[]).unwrap();
        assert_eq!(written.len(), 2);
        let text = std::fs::read_to_string(&written[0].markdown_path).unwrap();
        assert!(!text.contains("<script>") && !text.contains("\n# head"), "{text}");
        assert!(text.contains("x\\|y \\# head \\[a\\](b)") && text.contains("````sql"), "{text}");
        assert_eq!(written[0].notification.severity, Severity::ActionRequired);
        assert!(written[0].notification.next_steps[0].contains("dpone schema approve --ledger"));
        let pending = service.notify_all(ledger.dir(), &[EntryStatus::PendingApproval]).unwrap();
        assert_eq!(pending.len(), 1);
        let again = std::fs::read(&pending[0].json_path).unwrap();
        assert_eq!(again, std::fs::read(&written[0].json_path).unwrap());
        assert!(service.notify_all(dir.path().join("out").as_path(), &[]).is_err());
    }
}
