//! The execution of a `dpone run` in the ledger: its steps, and a row for each pipeline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use dpone_engine::evidence::{PipelineRun, Status};
use dpone_engine::{Error, ErrorKind, Result};
use dpone_ledger::{Ledger, Model, RunRecord, RunState, StepName, Target, Uuid};
use dpone_planner::state::hex;
use sha2::{Digest, Sha256};

use super::{Graph, NONE};

const DEFAULT_LEDGER: &str = ".dpone/ledger.sqlite";
/// How long a load waits for its ledger, each time, before it goes on without it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a ledger on a server.
const FAR_PATIENCE: Duration = Duration::from_secs(20);
/// The longest name that a model has in the ledger.
const LONGEST_MODEL: usize = 250;
/// Messages are told in full by the evidence.
const LONGEST_MESSAGE: usize = 2000;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Ledger")]
pub(crate) struct LedgerArgs {
    /// Where executions are recorded: sqlite:///path, or postgresql://user:password@host:port/dbname; `none` records
    /// nothing. A password belongs into DPONE_LEDGER, or into ~/.pgpass [default: sqlite:///.dpone/ledger.sqlite]
    #[arg(long, value_name = "URL", env = "DPONE_LEDGER", hide_env_values = true)]
    ledger: Option<String>,
}

impl LedgerArgs {
    /// Whether it was asked for: then a run does not begin without it.
    pub(crate) fn is_explicit(&self) -> bool {
        self.ledger.is_some()
    }

    pub(crate) fn is_none(&self) -> bool {
        self.ledger.as_deref() == Some(NONE)
    }

    fn target(&self) -> Result<Target> {
        match &self.ledger {
            Some(text) => Target::parse(text).map_err(|e| told(&e)),
            None => Ok(Target::Sqlite(PathBuf::from(DEFAULT_LEDGER))),
        }
    }

    /// For writing: makes what is not there yet.
    pub(crate) async fn open(&self) -> Result<Ledger> {
        let target = self.target()?;
        if let Target::Sqlite(path) = &target
            && let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder).map_err(|e| Error::from(e).with("folder", folder.display().to_string()))?;
        }
        within(async {
            let mut ledger = Ledger::connect_within(&target, PATIENCE).await?;
            ledger.prepare().await?;
            ledger.prepare_runs().await?;
            Ok(ledger)
        })
        .await
    }

    /// For reading: nothing is made. None where nothing was ever recorded.
    pub(crate) async fn look(&self) -> Result<Option<Ledger>> {
        if self.is_none() {
            return Ok(None);
        }
        let target = self.target()?;
        if let Target::Sqlite(path) = &target
            && !Path::new(path).exists()
        {
            return Ok(None);
        }
        within(async {
            let mut ledger = Ledger::connect_within(&target, PATIENCE).await?;
            Ok(if ledger.has_runs().await? { Some(ledger) } else { None })
        })
        .await
    }
}

/// A ledger that answers late is as good as none.
pub(crate) async fn reachable<T>(work: impl Future<Output = dpone_ledger::Result<T>>) -> Result<T> {
    within(work).await
}

async fn within<T>(work: impl Future<Output = dpone_ledger::Result<T>>) -> Result<T> {
    match tokio::time::timeout(FAR_PATIENCE, work).await {
        Ok(result) => result.map_err(|e| told(&e)),
        Err(_) => Err(Error::transient(format!("the ledger did not answer within {} s", FAR_PATIENCE.as_secs()))),
    }
}

fn told(error: &dpone_ledger::Error) -> Error {
    let kind = match error.kind() {
        dpone_ledger::ErrorKind::Usage => ErrorKind::Configuration,
        dpone_ledger::ErrorKind::NotAllowed => ErrorKind::Authorization,
        dpone_ledger::ErrorKind::Refused => ErrorKind::Conflict,
        dpone_ledger::ErrorKind::Model | dpone_ledger::ErrorKind::Database => ErrorKind::Unknown,
    };
    let told = Error::new(kind, format!("the ledger: {error}"));
    match error.hint() {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

/// What the ledger records of one run.
#[derive(Debug)]
pub(crate) struct Session {
    ledger: Ledger,
    execution: Uuid,
    steps: Vec<(StepName, Uuid)>,
    /// Name, step and digest of each pipeline of the run.
    pipelines: Vec<(String, StepName, String)>,
}

impl Session {
    /// Begins an execution with its steps; one that was left open under the same run id is gone on with.
    pub(crate) async fn begin(mut ledger: Ledger, run_id: &str, graph: &Graph, chosen: &[usize]) -> Result<Self> {
        let pipelines: Vec<_> = chosen
            .iter()
            .map(|at| (graph.name(*at).to_owned(), graph.step(*at), graph.digest(*at).to_owned()))
            .collect();
        within(async {
            let execution = match ledger.open_execution(run_id).await? {
                Some(open) => open,
                None => ledger.init_execution(None).await?,
            };
            let mut steps = Vec::new();
            for name in StepName::ALL {
                let models: Vec<Model> = pipelines
                    .iter()
                    .filter(|(_, step, _)| *step == name)
                    .map(|(pipeline, _, digest)| Model {
                        name: model_name(pipeline),
                        checksum: digest.clone(),
                        path: PathBuf::new(),
                    })
                    .collect();
                if !models.is_empty() {
                    steps.push((name, ledger.init_step(execution, name, &models).await?));
                }
            }
            Ok((execution, steps))
        })
        .await
        .map(|(execution, steps)| Self { ledger, execution, steps, pipelines })
    }

    pub(crate) fn execution(&self) -> Uuid {
        self.execution
    }

    /// Records how a pipeline stands.
    pub(crate) async fn put(&mut self, run: &PipelineRun) -> Result<()> {
        let Some((_, step, digest)) = self.pipelines.iter().find(|(name, _, _)| *name == run.process) else {
            return Ok(());
        };
        let plan = run.plan.as_ref();
        let text = |field: fn(&dpone_engine::evidence::Plan) -> &String| plan.map(field).cloned().unwrap_or_default();
        let rows = &run.result;
        let record = RunRecord {
            execution: self.execution,
            pipeline: run.process.clone(),
            run_id: run.run_id.clone(),
            step: *step,
            state: match run.status {
                Status::Running => RunState::Running,
                _ if run.passed => RunState::Succeeded,
                _ => RunState::Failed,
            },
            digest: digest.clone(),
            strategy: text(|p| &p.strategy),
            source: text(|p| &p.source),
            target: text(|p| &p.target),
            host: dpone_engine::evidence::host(),
            started_on: run.started_at.clone(),
            completed_on: run.finished_at.clone(),
            rows_read: number(rows.extracted_rows),
            rows_inserted: number(rows.inserted_rows),
            rows_updated: number(rows.updated_rows),
            rows_deleted: number(rows.deleted_rows),
            bytes: number(rows.bytes),
            attempts: i64::from(run.attempts),
            error_class: rows.error_class.clone(),
            error_message: run.error.as_ref().map(|e| e.message.chars().take(LONGEST_MESSAGE).collect()),
        };
        within(self.ledger.put_run(&record)).await
    }

    /// Completes the steps whose pipelines all succeeded, under whichever call; and the execution when that is all of
    /// them. `whole`: nothing that was to be run was left out.
    pub(crate) async fn finish(&mut self, whole: bool) -> Result<()> {
        let Self { ledger, execution, steps, pipelines } = self;
        within(async {
            let runs = ledger.runs(Some(*execution), usize::MAX).await?;
            let succeeded = |r: &RunRecord| r.state == RunState::Succeeded;
            let is_done = |step: StepName| {
                let begun = |name: &String| runs.iter().any(|r| r.pipeline == *name && succeeded(r));
                runs.iter().filter(|r| r.step == step).all(succeeded)
                    && pipelines.iter().filter(|(_, of, _)| *of == step).all(|(name, _, _)| begun(name))
            };
            for (name, step) in steps.iter().filter(|(name, _)| is_done(*name)) {
                let rows =
                    runs.iter().filter(|r| r.step == *name).fold(0_i64, |sum, r| sum.saturating_add(r.rows_read));
                ledger.complete_step(*step, Some(rows)).await?;
            }
            if whole && steps.iter().all(|(name, _)| is_done(*name)) && runs.iter().all(succeeded) {
                ledger.complete_execution(*execution).await?;
            }
            ledger.supersede().await?;
            Ok(())
        })
        .await
    }
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A pipeline's name as the name of a model: one that is too long ends with its digest.
fn model_name(pipeline: &str) -> String {
    if pipeline.chars().count() <= LONGEST_MODEL {
        return pipeline.to_owned();
    }
    let digest = hex(&Sha256::digest(pipeline.as_bytes()));
    let head: String = pipeline.chars().take(LONGEST_MODEL - 17).collect();
    format!("{head}~{}", digest.get(..16).unwrap_or_default())
}
