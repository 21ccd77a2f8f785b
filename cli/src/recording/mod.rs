//! What `dpone run` writes down beside its loads: the evidence of the run, and its execution in the ledger.
//!
//! Neither is in the way of a load. What was asked for by name and cannot be written is an error before anything is
//! loaded; the defaults that cannot be written are a warning, and a note in the evidence.

mod graph;
mod ledger;
mod select;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dpone_engine::evidence::{Begun, ConnectionUse, DEFAULT_RUNS, Definition, Recorder, RunFolder, Runs};
use dpone_engine::{Connections, Error, Receipt, Result};
use dpone_planner::definition::{Pipeline, SourceQuery, StateSpec};

pub(crate) use graph::Graph;
use ledger::Session;
pub(crate) use ledger::{LedgerArgs, reachable};
pub(crate) use select::{Selection, resolve};

use dpone_ledger::Ledger;

use crate::observability::listen;
use crate::observability::otel::Telemetry;
use crate::render;
use crate::style::Style;

/// Where nothing is to be written.
const NONE: &str = "none";

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Evidence")]
pub(crate) struct RunsDirArgs {
    /// Where the evidence of runs is kept, a folder a run; `none` keeps nothing [default: .dpone/runs]
    #[arg(long, value_name = "DIR", env = "DPONE_RUNS_DIR")]
    runs_dir: Option<PathBuf>,
}

impl RunsDirArgs {
    /// The runs that were kept.
    pub(crate) fn runs(&self) -> Result<Runs> {
        match &self.runs_dir {
            Some(dir) if dir.as_os_str() == NONE => {
                Err(Error::configuration("--runs-dir none keeps no evidence: there is nothing to look at"))
            }
            Some(dir) => Ok(Runs::open(dir)),
            None => Ok(Runs::open(DEFAULT_RUNS)),
        }
    }

    /// The folder of a run that begins; the error where the default cannot be written to.
    fn begin(&self, run_id: &str) -> Result<(Option<RunFolder>, Option<Error>)> {
        match &self.runs_dir {
            Some(dir) if dir.as_os_str() == NONE => Ok((None, None)),
            Some(dir) => Ok((Some(Runs::open(dir).begin(run_id)?), None)),
            None => Ok(match Runs::open(DEFAULT_RUNS).begin(run_id) {
                Ok(folder) => (Some(folder), None),
                Err(error) => (None, Some(error)),
            }),
        }
    }
}

/// What every command that loads is told about writing itself down.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RecordingArgs {
    #[command(flatten)]
    runs_dir: RunsDirArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
    /// Show the metrics of the run at http://ADDRESS/metrics while it goes on, such as 127.0.0.1:9187. OTLP is sent where
    /// OTEL_EXPORTER_OTLP_ENDPOINT names a collector
    #[arg(long, value_name = "ADDRESS", help_heading = "Evidence")]
    metrics_listen: Option<SocketAddr>,
}

/// The ledger, or why a run goes without it. Neither where none is wanted.
pub(crate) type LedgerOrNot = (Option<Ledger>, Option<Error>);

impl RecordingArgs {
    /// `needed`: what is to be run cannot be told without it.
    pub(crate) async fn open_ledger(&self, needed: bool) -> Result<LedgerOrNot> {
        if self.ledger.is_none() {
            if needed {
                return Err(Error::configuration("state: asks the ledger what succeeded, and --ledger none has none"));
            }
            return Ok((None, None));
        }
        match self.ledger.open().await {
            Ok(ledger) => Ok((Some(ledger), None)),
            Err(error) if self.ledger.is_explicit() || needed => Err(error),
            Err(error) => Ok((None, Some(error))),
        }
    }

    /// Begins the evidence, the execution in the ledger, and what watches from outside. `several`: the command is about
    /// several pipelines. `chosen`: their places in the graph.
    pub(crate) async fn begin(
        &self,
        run_id: &str,
        (ledger, unreachable): LedgerOrNot,
        graph: &Graph,
        chosen: &[usize],
        several: bool,
        stderr: Style,
    ) -> Result<Recording> {
        let mut recording = Recording::begin(&self.runs_dir, run_id, several, stderr)?;
        if let Some(address) = self.metrics_listen {
            listen::listen(address, Arc::clone(&recording.recorder)).await?;
        }
        recording.send_telemetry();
        if let Some(error) = unreachable {
            recording.warn(&format!("the ledger does not record this run: {error}"));
        }
        if let Some(ledger) = ledger.filter(|_| !chosen.is_empty()) {
            match Session::begin(ledger, run_id, graph, chosen).await {
                Ok(session) => recording.enter(session),
                Err(error) if self.ledger.is_explicit() => return Err(error),
                Err(error) => recording.warn(&format!("the ledger does not record this run: {error}")),
            }
        }
        Ok(recording)
    }
}

/// Of dpone, and of what it reads and writes with.
fn versions() -> BTreeMap<String, String> {
    [
        ("dpone", env!("CARGO_PKG_VERSION")),
        ("datafusion", datafusion::DATAFUSION_VERSION),
        ("arrow", arrow::ARROW_VERSION),
        ("system", std::env::consts::OS),
        ("architecture", std::env::consts::ARCH),
    ]
    .map(|(name, version)| (name.to_owned(), version.to_owned()))
    .into()
}

/// How often a pipeline is tried, as the command line says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    pub(crate) max_attempts: u32,
    pub(crate) backoff_seconds: f64,
    pub(crate) backoff_max_seconds: f64,
}

/// Writes down one run.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) recorder: Arc<Recorder>,
    ledger: Option<Session>,
    telemetry: Option<Telemetry>,
    stderr: Style,
}

impl Recording {
    /// Begins the evidence. `several`: the command is about several pipelines.
    fn begin(dir: &RunsDirArgs, run_id: &str, several: bool, stderr: Style) -> Result<Self> {
        let (folder, unwritable) = dir.begin(run_id)?;
        let recorder = Arc::new(Recorder::new(run_id, several, versions(), folder));
        let recording = Self { recorder, ledger: None, telemetry: None, stderr };
        if let Some(error) = unwritable {
            recording.warn(&format!("this run leaves no evidence: {error}"));
        }
        Ok(recording)
    }

    /// Evidence that is only printed.
    pub(crate) fn printed(run_id: &str, stderr: Style) -> Self {
        let recorder = Arc::new(Recorder::new(run_id, false, versions(), None));
        Self { recorder, ledger: None, telemetry: None, stderr }
    }

    /// From here on, what happens is recorded in the ledger as well.
    fn enter(&mut self, session: Session) {
        self.recorder.set_execution(session.execution().to_string());
        self.ledger = Some(session);
    }

    /// Sends what happens to a collector, where the environment names one.
    fn send_telemetry(&mut self) {
        let (telemetry, missing) = Telemetry::begin(&self.recorder);
        self.telemetry = telemetry;
        missing.iter().for_each(|text| self.warn(text));
    }

    pub(crate) fn warn(&self, text: &str) {
        self.recorder.command_note(text);
        render::error::warn(text, self.stderr);
    }

    pub(crate) async fn begin_pipeline(&mut self, begun: Begun) {
        self.recorder.begin(begun);
        self.tell_ledger().await;
    }

    pub(crate) async fn end_pipeline(&mut self, result: &Result<Receipt>) -> Result<()> {
        self.recorder.end(result)?;
        self.tell_ledger().await;
        Ok(())
    }

    async fn tell_ledger(&mut self) {
        let Some(run) = self.recorder.last() else { return };
        if let Some(session) = &mut self.ledger
            && let Err(error) = session.put(&run).await
        {
            self.lose_ledger(&error);
        }
    }

    /// A ledger that fails once is left alone: the loads go on.
    fn lose_ledger(&mut self, error: &Error) {
        self.ledger = None;
        self.warn(&format!("the ledger does not record this run any more, its execution stays open: {error}"));
    }

    /// Ends the execution, where all of it is done, and the evidence.
    pub(crate) async fn finish(&mut self) -> dpone_engine::evidence::RunDocument {
        let whole = self.recorder.document().not_run.is_empty();
        if let Some(session) = &mut self.ledger
            && let Err(error) = session.finish(whole).await
        {
            self.lose_ledger(&error);
        }
        let (document, unwritable) = self.recorder.finish();
        if let Some(error) = unwritable {
            render::error::warn(&format!("the evidence of this run is not whole: {error}"), self.stderr);
        }
        if let Some(telemetry) = self.telemetry.take() {
            for text in telemetry.finish(&document).await {
                render::error::warn(&text, self.stderr);
            }
        }
        document
    }
}

/// What is known of a pipeline before it runs.
pub(crate) fn begun(
    pipeline: &Pipeline,
    selector: Option<String>,
    definition: Definition,
    connections: &Connections,
    tries: Tries,
) -> Begun {
    Begun {
        manifest: pipeline.location.file.display().to_string(),
        process: pipeline.name.clone(),
        selector,
        max_attempts: tries.max_attempts,
        retry_backoff_seconds: tries.backoff_seconds,
        retry_backoff_max_seconds: tries.backoff_max_seconds,
        definition,
        connections: uses(pipeline, connections),
    }
}

/// The connections that a pipeline uses, secrets by reference.
fn uses(pipeline: &Pipeline, connections: &Connections) -> Vec<ConnectionUse> {
    let mut uses: Vec<ConnectionUse> = Vec::new();
    let mut add = |name: &str, role: &str| {
        let known = uses.iter().any(|used| used.name == name && used.role == role);
        if let Some(definition) = connections.definition(name).ok().filter(|_| !known) {
            uses.push(ConnectionUse {
                name: name.to_owned(),
                role: role.to_owned(),
                system: definition.kind.clone(),
                options: definition.options.iter().map(|(key, value)| (key.clone(), value.display())).collect(),
            });
        }
    };
    match &pipeline.source.query {
        SourceQuery::Table { connection, .. } | SourceQuery::Native { connection, .. } => add(connection, "source"),
        SourceQuery::Sql { sql } => {
            for table in dpone_engine::federation::tables_of(sql).unwrap_or_default() {
                add(table.split('.').next().unwrap_or_default(), "source");
            }
        }
    }
    add(&pipeline.sink.connection, "sink");
    if let StateSpec::Elsewhere { connection, .. } = &pipeline.state {
        add(connection, "state");
    }
    uses
}
