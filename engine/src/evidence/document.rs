//! The evidence of a run as a document: what `run.json` holds and what `dpone run --format json` prints.
//!
//! A run of one pipeline is one flat document, which is also the report that metrics are made of. A run of several, or of
//! none, has the pipelines under `runs`. Fields are only ever added while [`SCHEMA_VERSION`] stays the same.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::receipt::{Receipt, RowCounts, RunStatus};
use crate::run::Stage;
use crate::{Error, ErrorKind, Result};

pub const SCHEMA_VERSION: u32 = 1;

/// A run: one call of `dpone run`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunDocument {
    pub head: Head,
    pub runs: Vec<PipelineRun>,
    /// Pipelines that were to be run and were not begun, each with the reason.
    pub not_run: Vec<NotRun>,
    /// Whether the pipelines are listed under `runs` although there is only one.
    pub several: bool,
}

/// What is said once about a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Head {
    pub schema_version: u32,
    pub run_id: String,
    /// Whether everything that was asked for is done. False while the run goes on.
    pub passed: bool,
    pub status: Status,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// When the document was written last.
    pub updated_at: String,
    #[serde(default)]
    pub finished_at: Option<String>,
    /// The execution in the ledger that the run is recorded under.
    #[serde(default)]
    pub execution_id: Option<String>,
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub process_id: u32,
    /// Of dpone, and of what it reads and writes with.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// The folder that keeps this document; absent where none could be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// What the command itself has to say, such as a ledger that could not be reached.
    #[serde(default)]
    pub command_notes: Vec<String>,
}

/// How far a run or a pipeline is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Begun, and not ended: where the process is gone, it was killed.
    #[default]
    Running,
    Committed,
    /// The same run id was committed before: the first receipt is reported.
    AlreadyCommitted,
    /// Nothing was loaded, because the definition says so.
    Skipped,
    Failed,
    Interrupted,
    /// All of several pipelines are done, or nothing was to be done.
    Done,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Committed => "committed",
            Self::AlreadyCommitted => "already_committed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Done => "done",
        }
    }

    pub fn is_success(self) -> bool {
        matches!(self, Self::Committed | Self::AlreadyCommitted | Self::Skipped | Self::Done)
    }
}

/// A pipeline that was not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRun {
    pub process: String,
    pub reason: String,
}

/// One pipeline of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineRun {
    /// The file of the definition.
    pub manifest: String,
    /// The pipeline's name.
    pub process: String,
    #[serde(default)]
    pub selector: Option<String>,
    pub run_id: String,
    pub passed: bool,
    pub status: Status,
    #[serde(default)]
    pub started_at: String,
    #[serde(default)]
    pub finished_at: Option<String>,
    /// The stage that the run is in, or the last that it reached: where it stopped, when it did.
    #[serde(default)]
    pub stage: Option<Stage>,
    pub result: Outcome,
    pub attempts: u32,
    pub max_attempts: u32,
    /// The longest first wait, and the longest of all.
    pub retry_backoff_seconds: f64,
    #[serde(default)]
    pub retry_backoff_max_seconds: f64,
    /// Attempts that failed and were made again.
    #[serde(default)]
    pub retries: Vec<Retry>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    #[serde(default)]
    pub definition: Definition,
    #[serde(default)]
    pub connections: Vec<ConnectionUse>,
    /// What was decided before anything was loaded; of the last attempt.
    #[serde(default)]
    pub plan: Option<Plan>,
    #[serde(default)]
    pub partitions: Vec<Partition>,
    #[serde(default)]
    pub stages: Vec<StageTime>,
    /// How far staging is.
    #[serde(default)]
    pub staged: Staged,
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The report of a run as metrics are made of it. All counts are zero until the run has ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    pub status: Status,
    pub extracted_rows: u64,
    pub inserted_rows: u64,
    pub updated_rows: u64,
    pub deleted_rows: u64,
    pub unchanged_rows: u64,
    pub quarantined_rows: u64,
    #[serde(default)]
    pub skipped_rows: u64,
    #[serde(default)]
    pub staged_rows: u64,
    /// Bytes sent to staging.
    #[serde(default)]
    pub bytes: u64,
    pub duration_seconds: f64,
    #[serde(default)]
    pub rows_per_second: Option<f64>,
    #[serde(default)]
    pub errors: Vec<Failure>,
    /// `transient`, `authorization`, `data_quality`, `configuration`, `conflict`, `interrupted`, `internal` or `unknown`.
    #[serde(default)]
    pub error_class: Option<String>,
    /// The receipt; empty without one.
    #[serde(default)]
    pub details: Value,
}

/// An error, as every command reports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    pub kind: String,
    pub message: String,
    #[serde(default)]
    pub hint: Option<String>,
    /// A place in a definition.
    #[serde(default)]
    pub location: Option<Place>,
    #[serde(default)]
    pub context: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Retry {
    /// The attempt that failed; the first is 1.
    pub attempt: u32,
    pub error_class: String,
    pub message: String,
    pub wait_seconds: f64,
    pub at: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Definition {
    /// Of the pipeline as it was run, with the files and variables that went into it.
    pub sha256: String,
    /// Of that and the definitions of all pipelines of the same command that it reads from, directly or not.
    pub with_upstream_sha256: String,
    /// The pipelines of the same command that it reads from.
    pub upstream: Vec<String>,
}

/// A connection by reference: what is secret is shown as where it comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionUse {
    pub name: String,
    /// `source`, `sink` or `state`.
    pub role: String,
    pub system: String,
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    pub sha256: String,
    pub load_id: String,
    pub strategy: String,
    pub write_mode: String,
    pub source: String,
    pub target: String,
    pub target_exists: bool,
    /// The snapshot or the boundary that the read is consistent with.
    pub source_position: String,
    /// The watermark that the read began from, and the one after the load.
    pub watermark_before: Option<String>,
    pub watermark_after: Option<String>,
    /// How source and target differed and what was decided: the document of `dpone schema plan`.
    pub schema: Option<Value>,
    /// The statements that changed the target's columns.
    pub schema_statements: Vec<String>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Partition {
    pub id: String,
    pub status: PartitionStatus,
    pub rows: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartitionStatus {
    #[default]
    Pending,
    Running,
    /// Staged; of a backfill's chunk: loaded by this run.
    Success,
    Failed,
    /// An earlier run had loaded the chunk.
    Skipped,
    /// The run ended before it was done.
    Unfinished,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageTime {
    pub attempt: u32,
    pub stage: Stage,
    pub started_at: String,
    /// None for the stage that a killed run was in.
    pub seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Staged {
    pub rows: u64,
    pub bytes: u64,
    pub partitions_done: usize,
    pub partitions: usize,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().as_str().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint().map(str::to_owned),
            location: error.location().map(|l| Place {
                file: l.file.display().to_string(),
                line: l.line,
                column: l.column,
            }),
            context: error.context().iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        }
    }
}

impl Outcome {
    pub fn success(receipt: &Receipt) -> Result<Self> {
        let rows = &receipt.rows;
        Ok(Self {
            status: match receipt.status {
                RunStatus::Committed => Status::Committed,
                RunStatus::AlreadyCommitted => Status::AlreadyCommitted,
                RunStatus::Skipped => Status::Skipped,
            },
            extracted_rows: rows.extracted,
            inserted_rows: rows.inserted,
            updated_rows: rows.updated,
            deleted_rows: rows.deleted,
            unchanged_rows: rows.unchanged,
            quarantined_rows: rows.quarantined,
            skipped_rows: rows.skipped,
            staged_rows: rows.staged,
            bytes: receipt.bytes,
            duration_seconds: receipt.seconds,
            rows_per_second: (receipt.seconds > 0.0).then(|| rows.extracted as f64 / receipt.seconds),
            errors: Vec::new(),
            error_class: None,
            details: serde_json::to_value(receipt)
                .map_err(|e| Error::internal(format!("a receipt cannot be written as JSON: {e}")))?,
        })
    }

    pub fn failure(error: &Error, seconds: f64) -> Self {
        let interrupted = error.kind() == ErrorKind::Interrupted;
        Self {
            status: if interrupted { Status::Interrupted } else { Status::Failed },
            duration_seconds: seconds,
            errors: vec![Failure::from(error)],
            error_class: Some(error.kind().as_str().to_owned()),
            details: json!({}),
            ..Self::default()
        }
    }
}

impl Outcome {
    /// What a run did before it failed: a backfill commits its chunks one by one.
    pub(super) fn partly(&mut self, rows: &RowCounts, bytes: u64) {
        self.extracted_rows = rows.extracted;
        self.inserted_rows = rows.inserted;
        self.updated_rows = rows.updated;
        self.deleted_rows = rows.deleted;
        self.unchanged_rows = rows.unchanged;
        self.quarantined_rows = rows.quarantined;
        self.skipped_rows = rows.skipped;
        self.staged_rows = rows.staged;
        self.bytes = bytes;
    }
}

impl PartitionStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Unfinished => "unfinished",
        }
    }
}

impl RunDocument {
    /// As it is written: of one pipeline flat, of several under `runs`.
    pub fn to_value(&self) -> Result<Value> {
        let unwritable = |e| Error::internal(format!("the evidence of the run cannot be written as JSON: {e}"));
        let mut document = object(serde_json::to_value(&self.head).map_err(unwritable)?);
        match (self.runs.as_slice(), self.several) {
            ([one], false) => {
                document.extend(object(serde_json::to_value(one).map_err(unwritable)?));
            }
            (runs, _) => {
                document.insert("runs".to_owned(), serde_json::to_value(runs).map_err(unwritable)?);
                document.insert("not_run".to_owned(), self.not_run.iter().map(|left| left.process.as_str()).collect());
                let reasons: Map<String, Value> =
                    self.not_run.iter().map(|left| (left.process.clone(), left.reason.clone().into())).collect();
                document.insert("not_run_reasons".to_owned(), Value::Object(reasons));
            }
        }
        Ok(Value::Object(document))
    }

    /// Reads what [`RunDocument::to_value`] made. A document of a later version is refused.
    pub fn from_value(value: &Value) -> Result<Self> {
        match value.get("schema_version").and_then(Value::as_u64) {
            None => return Err(Error::configuration("this is not the evidence of a run: it has no schema_version")),
            Some(version) if version > u64::from(SCHEMA_VERSION) => {
                return Err(Error::configuration(format!(
                    "the document has schema_version {version}, and this dpone reads versions up to {SCHEMA_VERSION}"
                ))
                .with_hint("use the dpone that wrote it, or a later one"));
            }
            Some(_) => {}
        }
        let wrong = |e: serde_json::Error| Error::configuration(format!("this is not the evidence of a run: {e}"));
        let runs = match value.get("runs") {
            Some(runs) => serde_json::from_value(runs.clone()).map_err(wrong)?,
            None => vec![serde_json::from_value(value.clone()).map_err(wrong)?],
        };
        let names: Option<Vec<String>> =
            value.get("not_run").cloned().map(serde_json::from_value).transpose().map_err(wrong)?;
        let reason = |name: &str| value.get("not_run_reasons").and_then(|all| all.get(name)).and_then(Value::as_str);
        let left_out = |process: String| NotRun { reason: reason(&process).unwrap_or_default().to_owned(), process };
        Ok(Self {
            head: serde_json::from_value(value.clone()).map_err(wrong)?,
            runs,
            not_run: names.unwrap_or_default().into_iter().map(left_out).collect(),
            several: value.get("runs").is_some(),
        })
    }

    /// Whether everything is done, and the status that says so.
    pub fn conclude(&mut self, finished_at: String) {
        self.head.passed = self.not_run.is_empty() && self.runs.iter().all(|run| run.passed);
        let interrupted = self.runs.iter().any(|run| run.status == Status::Interrupted);
        self.head.status = match (self.runs.as_slice(), self.several) {
            ([one], false) => one.status,
            _ if self.head.passed => Status::Done,
            _ if interrupted => Status::Interrupted,
            _ => Status::Failed,
        };
        self.head.finished_at = Some(finished_at);
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The JSON Schema (draft 2020-12) of the document.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    let mut part = |name: &str, schema: schemars::Schema| {
        let mut schema = object(schema.to_value());
        if let Some(Value::Object(inner)) = schema.remove("$defs") {
            definitions.extend(inner);
        }
        schema.remove("$schema");
        definitions.insert(name.to_owned(), Value::Object(schema));
    };
    part("Head", schemars::schema_for!(Head));
    part("PipelineRun", schemars::schema_for!(PipelineRun));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The evidence of a run",
        "description": "What .dpone/runs/<run_id>/run.json holds and `dpone run --format json` prints: one pipeline flat, \
                        several under `runs`.",
        "type": "object",
        "allOf": [{ "$ref": "#/$defs/Head" }],
        "anyOf": [
            { "$ref": "#/$defs/PipelineRun" },
            {
                "type": "object",
                "required": ["runs", "not_run", "not_run_reasons"],
                "properties": {
                    "runs": { "type": "array", "items": { "$ref": "#/$defs/PipelineRun" } },
                    "not_run": { "type": "array", "items": { "type": "string" } },
                    "not_run_reasons": { "type": "object", "additionalProperties": { "type": "string" } }
                }
            }
        ],
        "$defs": definitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "2026-01-01T00:00:00Z";

    fn run(name: &str, status: Status) -> PipelineRun {
        PipelineRun {
            process: name.to_owned(),
            run_id: "r".to_owned(),
            passed: status.is_success(),
            status,
            finished_at: Some(END.to_owned()),
            ..PipelineRun::default()
        }
    }

    fn document(runs: Vec<PipelineRun>, several: bool) -> RunDocument {
        let head = Head { schema_version: SCHEMA_VERSION, run_id: "r".to_owned(), ..Head::default() };
        RunDocument { head, runs, not_run: Vec::new(), several }
    }

    #[test]
    fn a_document_is_read_back_as_it_was_written() -> Result<()> {
        for (runs, several) in [
            (vec![run("a", Status::Committed)], false),
            (vec![run("a", Status::Committed)], true),
            (vec![run("a", Status::Committed), run("b", Status::Failed)], true),
            (Vec::new(), true),
        ] {
            let mut written = document(runs, several);
            written.conclude(END.to_owned());
            let value = written.to_value()?;
            assert_eq!(value.get("runs").is_some(), several);
            assert_eq!(RunDocument::from_value(&value)?, written);
        }
        Ok(())
    }

    #[test]
    fn a_run_passes_when_everything_that_was_asked_for_is_done() {
        let mut failed = document(vec![run("a", Status::Committed), run("b", Status::Failed)], true);
        failed.conclude(String::new());
        assert_eq!((failed.head.passed, failed.head.status), (false, Status::Failed));
        let mut cut = document(vec![run("a", Status::Committed)], true);
        cut.not_run.push(NotRun { process: "b".to_owned(), reason: "stopped".to_owned() });
        cut.conclude(String::new());
        assert!(!cut.head.passed);
        let mut nothing = document(Vec::new(), true);
        nothing.conclude(String::new());
        assert_eq!((nothing.head.passed, nothing.head.status), (true, Status::Done));
    }

    #[test]
    fn what_is_no_evidence_of_this_version_is_refused() {
        for other in [json!({ "schema_version": SCHEMA_VERSION + 1 }), json!({ "rows": 1 }), json!([]), json!(null)] {
            assert!(RunDocument::from_value(&other).is_err(), "{other}");
        }
    }
}
