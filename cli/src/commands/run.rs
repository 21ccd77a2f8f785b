//! `dpone run`: loads tables.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dpone_engine::evidence::{Begun, RunDocument};
use dpone_engine::run::{self, RunContext, Several};
use dpone_engine::{Error, Receipt, Result};
use dpone_ledger::Successes;
use dpone_planner::definition::Pipeline;

use crate::args::{DefinitionArgs, EngineArgs, Format, OutputArgs, When, parse_seconds};
use crate::exit::Exit;
use crate::progress::Watcher;
use crate::project::Loaded;
use crate::recording::{self, Graph, Recording, RecordingArgs, Selection, Tries};
use crate::render::receipt;
use crate::style::Style;
use crate::{interrupt, output, render};

/// Load the tables of one or more definitions.
///
/// The pipelines run one after the other, in the order in which they are written. One that fails does not keep the
/// others from running, unless --fail-fast says so. Each ends with a receipt; the exit code tells whether all of them
/// were done. The evidence of the run is kept under .dpone/runs, and the ledger knows what succeeded: `dpone runs` shows
/// both.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    definition: DefinitionArgs,
    /// Run only this pipeline: its name, or a batch manifest's table by `id` or `schema.table`
    #[arg(long, value_name = "NAME")]
    selector: Option<String>,
    /// Run all pipelines: the default, for scripts that want to say so
    #[arg(long, conflicts_with_all = ["selector", "select"])]
    all: bool,
    /// Run what this names, upstream first; may be repeated. `state:modified`: pipelines whose definition, SQL files or
    /// upstream changed since they last succeeded, and what reads from them; `state:new`: those that never succeeded;
    /// `NAME`, `NAME+` with all that reads from it, `+NAME` with all that it reads from
    #[arg(long, value_name = "EXPR", value_parser = Selection::parse, conflicts_with = "selector")]
    select: Vec<Selection>,
    /// Leave out what this names, in the same form; may be repeated
    #[arg(long, value_name = "EXPR", value_parser = Selection::parse, conflicts_with = "selector")]
    exclude: Vec<Selection>,
    /// Stop at the first pipeline that fails
    #[arg(long)]
    fail_fast: bool,
    /// What this run is called. A pipeline loads one run id once: repeating it reports the first receipt. Default:
    /// the scheduler's identity, else a new ULID
    #[arg(long, value_name = "ID", value_parser = parse_run_id)]
    run_id: Option<String>,
    /// How often a transient failure is tried again
    #[arg(long, value_name = "N", default_value_t = 0)]
    retry_attempts: u32,
    /// The longest wait before the first retry; it doubles with each. The wait itself is drawn by chance, from nothing up
    /// to that
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_seconds)]
    retry_backoff_seconds: Duration,
    /// The longest wait before any retry
    #[arg(long, value_name = "S", default_value = "60", value_parser = parse_seconds)]
    retry_backoff_max_seconds: Duration,
    /// How long a run that no longer answers keeps others of its pipeline out
    #[arg(long, value_name = "S", default_value = "60", value_parser = parse_lease)]
    lease_seconds: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    scheduler: SchedulerArgs,
    #[command(flatten)]
    record: RecordingArgs,
}

/// Who a scheduler says that it is. Together they make the run id, so that a task that it repeats is loaded once.
/// Definitions may refer to `${execution_date}`, `${data_interval_start}` and `${data_interval_end}`.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Scheduler")]
struct SchedulerArgs {
    /// The scheduler's name for the workflow
    #[arg(long, value_name = "ID", env = "DPONE_DAG_ID")]
    dag_id: Option<String>,
    /// The scheduler's logical date
    #[arg(long, value_name = "DATE", env = "DPONE_LOGICAL_DATE")]
    execution_date: Option<String>,
    /// Begin of the interval that the run is for
    #[arg(long, value_name = "TIME", env = "DPONE_INTERVAL_START")]
    interval_start: Option<String>,
    /// End of the interval that the run is for
    #[arg(long, value_name = "TIME", env = "DPONE_INTERVAL_END")]
    interval_end: Option<String>,
}

impl SchedulerArgs {
    /// What definitions may refer to; --var overrides them.
    fn vars(&self) -> Vec<(String, String)> {
        [
            ("execution_date", &self.execution_date),
            ("data_interval_start", &self.interval_start),
            ("data_interval_end", &self.interval_end),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
        .collect()
    }

    /// The same for every attempt of the same task; none without a workflow and a date.
    fn run_id(&self) -> Option<String> {
        let date = self.execution_date.as_ref().or(self.interval_start.as_ref())?;
        let dag = self.dag_id.as_ref()?;
        match (&self.interval_start, &self.interval_end) {
            (Some(start), Some(end)) => Some(format!("{dag}__{date}__{start}__{end}")),
            _ => Some(format!("{dag}__{date}")),
        }
    }
}

/// A name for logs, tables and folders: nothing in it may steer a terminal.
pub(super) fn parse_run_id(text: &str) -> Result<String, String> {
    let plain = !text.trim().is_empty() && !text.chars().any(char::is_control);
    let expected = || "expected a name without control characters, of 200 characters at most".to_owned();
    if plain && text.chars().count() <= 200 { Ok(text.to_owned()) } else { Err(expected()) }
}

/// A lease that ends before it can be renewed protects nothing.
pub(super) fn parse_lease(text: &str) -> Result<Duration, String> {
    parse_seconds(text).ok().filter(|ttl| ttl.as_secs() >= 1).ok_or_else(|| "expected 1 second or more".to_owned())
}

pub(crate) async fn run(args: RunArgs, color: When) -> Result<Exit> {
    let stderr = Style::for_stderr(color);
    let mut job = match Job::prepare(&args, stderr).await {
        Ok(job) => job,
        Err(error) if args.output.format == Format::Json => return refused(&args, &error, stderr),
        Err(error) => return Err(error),
    };
    let mut options = args.engine.options();
    options.retries = args.retry_attempts;
    options.retry_backoff = args.retry_backoff_seconds;
    options.retry_backoff_max = args.retry_backoff_max_seconds;
    options.lease_ttl = args.lease_seconds;
    let watcher = Arc::new(Watcher::new());
    let mut context = job.loaded.context(options);
    context.observer = Arc::new(Several(vec![watcher.clone(), job.recording.recorder.clone()]));
    context.cancel = interrupt::token();

    let style = Style::for_stdout(color);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for at in job.chosen.clone() {
        let pipeline = job.loaded.project.pipelines[at].clone();
        if let Some(reason) = job.keep_from(at, &context, &outcomes, &args) {
            job.recording.recorder.leave_out(&pipeline.name, &reason);
            continue;
        }
        let selector = args.selector.clone().or_else(|| pipeline.selector.clone());
        let definition = job.graph.definition(at);
        let begun = recording::begun(&pipeline, selector, definition, &job.loaded.connections, args.tries());
        job.recording.begin_pipeline(begun).await;
        let result = run::run(&context, &pipeline, &job.run_id).await.map_err(|e| e.with("pipeline", &pipeline.name));
        watcher.finish_all();
        job.recording.end_pipeline(&result).await?;
        let outcome = Outcome { at, process: pipeline.name, result };
        report(&outcome, args.output.format, style, stderr)?;
        outcomes.push(outcome);
    }
    let document = job.recording.finish().await;
    summarise(&document, &outcomes, args.output.format, style)?;
    Ok(Exit::of_all(outcomes.iter().filter_map(|o| o.result.as_ref().err())))
}

/// How one pipeline ended.
struct Outcome {
    at: usize,
    process: String,
    result: Result<Receipt>,
}

/// What a command is to run, and how it is written down.
struct Job {
    loaded: Loaded,
    graph: Graph,
    /// Indexes of the pipelines, in their order.
    chosen: Vec<usize>,
    run_id: String,
    recording: Recording,
}

impl Job {
    async fn prepare(args: &RunArgs, stderr: Style) -> Result<Self> {
        let loaded = args.definition.load_with(&args.scheduler.vars())?;
        let selected = loaded.select(args.selector.as_deref())?;
        let scheduled = args.scheduler.run_id().map(|id| parse_run_id(&id)).transpose().map_err(|expected| {
            Error::configuration(format!("the scheduler's identity makes no run id: {expected}"))
                .with_hint("give one with --run-id")
        })?;
        let run_id = args.run_id.clone().or(scheduled).unwrap_or_else(|| ulid::Ulid::generate().to_string());
        let graph = Graph::new(&loaded.project.pipelines, &loaded.project.connections)?;

        let (mut ledger, unreachable) = args.record.open_ledger(args.needs_state()).await?;
        let known = match &mut ledger {
            Some(ledger) if args.needs_state() => recording::reachable(ledger.successes()).await?,
            _ => Successes::new(),
        };
        let chosen = match &args.selector {
            Some(_) => selected.iter().filter_map(|p| graph.find(&p.name)).collect(),
            None if args.selects() => {
                recording::resolve(&args.select, &args.exclude, &graph, &loaded.project.pipelines, &known)?
            }
            None => (0..graph.len()).collect(),
        };
        let pipelines: Vec<Pipeline> = chosen.iter().map(|at: &usize| loaded.project.pipelines[*at].clone()).collect();
        loaded.warn(&pipelines, stderr);

        let several = chosen.len() > 1 || args.selects();
        let ledger = (ledger, unreachable);
        let recording = args.record.begin(&run_id, ledger, &graph, &chosen, several, stderr).await?;
        Ok(Self { loaded, graph, chosen, run_id, recording })
    }

    /// Why a pipeline is not begun, if it is not.
    fn keep_from(&self, at: usize, context: &RunContext, outcomes: &[Outcome], args: &RunArgs) -> Option<String> {
        if context.cancel.is_cancelled() {
            return Some("the run was stopped".to_owned());
        }
        let failed = |n: usize| outcomes.iter().any(|o| o.at == n && o.result.is_err());
        if args.fail_fast && outcomes.iter().any(|o| o.result.is_err()) {
            return Some("another pipeline failed, and --fail-fast is given".to_owned());
        }
        // What was selected because of what it reads from has nothing new to read.
        let done = |n: usize| outcomes.iter().any(|o| o.at == n && o.result.is_ok());
        let missing = |n: usize| failed(n) || (self.chosen.contains(&n) && !done(n) && !self.follows(n, at));
        let upstream = self.graph.upstream(at).iter().copied().filter(|_| args.selects()).find(|n| missing(*n))?;
        Some(format!("{} is not done, and this reads from it", self.graph.name(upstream)))
    }

    /// Whether the one is to run after the other, as in a circle.
    fn follows(&self, one: usize, other: usize) -> bool {
        let place = |n: usize| self.chosen.iter().position(|at| *at == n);
        place(one) > place(other)
    }
}

impl RunArgs {
    fn selects(&self) -> bool {
        !self.select.is_empty() || !self.exclude.is_empty()
    }

    fn needs_state(&self) -> bool {
        self.select.iter().chain(&self.exclude).any(Selection::needs_state)
    }

    fn tries(&self) -> Tries {
        Tries {
            max_attempts: self.retry_attempts.saturating_add(1),
            backoff_seconds: self.retry_backoff_seconds.as_secs_f64(),
            backoff_max_seconds: self.retry_backoff_max_seconds.as_secs_f64(),
        }
    }
}

/// Who reads reports of runs gets one also where nothing could be begun.
fn refused(args: &RunArgs, error: &Error, stderr: Style) -> Result<Exit> {
    render::error::tell(error, stderr);
    let files: Vec<_> = args.definition.files.iter().map(|file| file.display().to_string()).collect();
    let recording = Recording::printed(args.run_id.as_deref().unwrap_or_default(), stderr);
    let tries = args.tries();
    recording.recorder.begin(Begun {
        manifest: files.join(", "),
        selector: args.selector.clone(),
        max_attempts: tries.max_attempts,
        retry_backoff_seconds: tries.backoff_seconds,
        retry_backoff_max_seconds: tries.backoff_max_seconds,
        ..Begun::default()
    });
    recording.recorder.refuse(error);
    let (document, _) = recording.recorder.finish();
    output::print_json(&document.to_value()?)?;
    Ok(Exit::of(error))
}

/// Tells one outcome as soon as it is known. JSON waits for all of them: it is one document.
fn report(outcome: &Outcome, format: Format, style: Style, stderr: Style) -> Result<()> {
    match (&outcome.result, format) {
        (Err(error), _) => {
            render::error::tell(error, stderr);
            Ok(())
        }
        (Ok(receipt), Format::Text) => output::print(&receipt::text(receipt, style)),
        (Ok(receipt), Format::Md) => output::print(&receipt::markdown(receipt)),
        (Ok(_), Format::Json) => Ok(()),
    }
}

fn summarise(document: &RunDocument, outcomes: &[Outcome], format: Format, style: Style) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&document.to_value()?);
    }
    let failed: Vec<&str> = outcomes.iter().filter(|o| o.result.is_err()).map(|o| o.process.as_str()).collect();
    let not_run: Vec<&str> = document.not_run.iter().map(|left| left.process.as_str()).collect();
    let asked = outcomes.len() + not_run.len();
    if asked == 0 {
        return output::print("nothing to run: every selected pipeline is as it was when it last succeeded");
    }
    if asked == 1 && not_run.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} of {asked} pipelines done", outcomes.len() - failed.len());
    if !failed.is_empty() {
        text.push_str(&format!("; failed: {}", failed.join(", ")));
    }
    if !not_run.is_empty() {
        text.push_str(&format!("; not run: {}", not_run.join(", ")));
    }
    output::print(&if failed.is_empty() && not_run.is_empty() { style.green(text) } else { style.red(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_is_a_name() {
        for good in ["r", "dag__2024-01-01T00:00:00+00:00", "Lauf 7 ü"] {
            assert_eq!(parse_run_id(good).as_deref(), Ok(good));
        }
        for wrong in ["", " ", "a\u{1b}[2J", "a\nb", "\u{85}", &"x".repeat(201)] {
            assert!(parse_run_id(wrong).is_err(), "{wrong:?}");
        }
    }

    fn scheduler(values: [Option<&str>; 4]) -> Option<String> {
        let [dag_id, execution_date, interval_start, interval_end] = values.map(|v| v.map(str::to_owned));
        SchedulerArgs { dag_id, execution_date, interval_start, interval_end }.run_id()
    }

    #[test]
    fn a_scheduler_that_repeats_a_task_repeats_the_run_id() {
        assert_eq!(scheduler([Some("d"), Some("2024-01-01"), None, None]).as_deref(), Some("d__2024-01-01"));
        assert_eq!(scheduler([Some("d"), None, Some("a"), Some("b")]).as_deref(), Some("d__a__a__b"));
        assert_eq!(scheduler([Some("d"), None, None, None]), None);
        assert_eq!(scheduler([None, Some("2024-01-01"), None, None]), None);
    }
}
