//! `dpone run`: loads tables.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use dpone_engine::run::{self, RunContext};
use dpone_engine::{Error, Result};
use dpone_planner::definition::Pipeline;
use serde_json::json;

use crate::args::{DefinitionArgs, EngineArgs, Format, OutputArgs, When, parse_seconds};
use crate::exit::Exit;
use crate::progress::Watcher;
use crate::project::Loaded;
use crate::render::receipt::{self, Outcome};
use crate::style::Style;
use crate::{interrupt, output, render};

/// Load the tables of one or more definitions.
///
/// The pipelines run one after the other, in the order in which they are written. One that fails does not keep the
/// others from running, unless --fail-fast says so. Each ends with a receipt; the exit code tells whether all of them
/// were done.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    definition: DefinitionArgs,
    /// Run only this pipeline: its name, or a batch manifest's table by `id` or `schema.table`
    #[arg(long, value_name = "NAME")]
    selector: Option<String>,
    /// Run all pipelines: the default, for scripts that want to say so
    #[arg(long, conflicts_with = "selector")]
    all: bool,
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
    /// The wait before the first retry; it doubles with each
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_seconds)]
    retry_backoff_seconds: Duration,
    /// How long a run that no longer answers keeps others of its pipeline out
    #[arg(long, value_name = "S", default_value = "60", value_parser = parse_lease)]
    lease_seconds: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    scheduler: SchedulerArgs,
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
fn parse_run_id(text: &str) -> Result<String, String> {
    let plain = !text.trim().is_empty() && !text.chars().any(char::is_control);
    let expected = || "expected a name without control characters, of 200 characters at most".to_owned();
    if plain && text.chars().count() <= 200 { Ok(text.to_owned()) } else { Err(expected()) }
}

/// A lease that ends before it can be renewed protects nothing.
pub(super) fn parse_lease(text: &str) -> Result<Duration, String> {
    parse_seconds(text).ok().filter(|ttl| ttl.as_secs() >= 1).ok_or_else(|| "expected 1 second or more".to_owned())
}

pub(crate) async fn run(args: RunArgs, color: When) -> Result<Exit> {
    let (loaded, pipelines) = match definitions(&args) {
        Ok(found) => found,
        Err(error) if args.output.format == Format::Json => return refused(&args, error, color),
        Err(error) => return Err(error),
    };
    loaded.warn(&pipelines, Style::for_stderr(color));

    let scheduled = args.scheduler.run_id().map(|id| parse_run_id(&id)).transpose().map_err(|expected| {
        Error::configuration(format!("the scheduler's identity makes no run id: {expected}"))
            .with_hint("give one with --run-id")
    })?;
    let run_id = args.run_id.clone().or(scheduled).unwrap_or_else(|| ulid::Ulid::generate().to_string());
    let mut options = args.engine.options();
    options.retries = args.retry_attempts;
    options.retry_backoff = args.retry_backoff_seconds;
    options.lease_ttl = args.lease_seconds;
    let watcher = Arc::new(Watcher::new());
    let mut context = loaded.context(options);
    context.observer = watcher.clone();
    context.cancel = interrupt::token();

    let style = Style::for_stdout(color);
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut not_run: Vec<&str> = Vec::new();
    for pipeline in &pipelines {
        if context.cancel.is_cancelled() || (args.fail_fast && outcomes.iter().any(|o| o.result.is_err())) {
            not_run.push(&pipeline.name);
            continue;
        }
        let outcome = one(&context, pipeline, &run_id, &args, &watcher).await;
        report(&outcome, args.output.format, style, Style::for_stderr(color))?;
        outcomes.push(outcome);
    }
    summarise(&outcomes, &not_run, args.output.format, style)?;
    Ok(Exit::of_all(outcomes.iter().filter_map(|o| o.result.as_ref().err())))
}

fn definitions(args: &RunArgs) -> Result<(Loaded, Vec<Pipeline>)> {
    let loaded = args.definition.load_with(&args.scheduler.vars())?;
    let pipelines = loaded.select(args.selector.as_deref())?;
    Ok((loaded, pipelines))
}

/// Who reads reports of runs gets one also where no pipeline was found to be run.
fn refused(args: &RunArgs, error: Error, color: When) -> Result<Exit> {
    render::error::tell(&error, Style::for_stderr(color));
    let exit = Exit::of(&error);
    let files: Vec<_> = args.definition.files.iter().map(|file| file.display().to_string()).collect();
    let outcome = Outcome {
        manifest: files.join(", "),
        process: String::new(),
        selector: args.selector.clone(),
        run_id: args.run_id.clone().unwrap_or_default(),
        result: Err(error),
        seconds: 0.0,
        attempts: 0,
        max_attempts: args.retry_attempts.saturating_add(1),
        retry_backoff_seconds: args.retry_backoff_seconds.as_secs_f64(),
    };
    output::print_json(&outcome.document())?;
    Ok(exit)
}

async fn one(context: &RunContext, pipeline: &Pipeline, run_id: &str, args: &RunArgs, watcher: &Watcher) -> Outcome {
    let began = Instant::now();
    let result = run::run(context, pipeline, run_id).await.map_err(|e| e.with("pipeline", &pipeline.name));
    watcher.finish_all();
    Outcome {
        manifest: pipeline.location.file.display().to_string(),
        process: pipeline.name.clone(),
        selector: args.selector.clone().or_else(|| pipeline.selector.clone()),
        run_id: run_id.to_owned(),
        result,
        seconds: began.elapsed().as_secs_f64(),
        attempts: watcher.attempts(&pipeline.name),
        max_attempts: args.retry_attempts.saturating_add(1),
        retry_backoff_seconds: args.retry_backoff_seconds.as_secs_f64(),
    }
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

fn summarise(outcomes: &[Outcome], not_run: &[&str], format: Format, style: Style) -> Result<()> {
    let failed: Vec<&str> = outcomes.iter().filter(|o| o.result.is_err()).map(|o| o.process.as_str()).collect();
    let several = outcomes.len() + not_run.len() > 1;
    if format == Format::Json {
        return output::print_json(&match outcomes {
            [one] if !several => one.document(),
            _ => json!({
                "passed": failed.is_empty() && not_run.is_empty(),
                "run_id": outcomes.first().map(|o| o.run_id.as_str()),
                "runs": outcomes.iter().map(Outcome::document).collect::<Vec<_>>(),
                "not_run": not_run,
            }),
        });
    }
    if !several {
        return Ok(());
    }
    let done = outcomes.len() - failed.len();
    let mut text = format!("{} of {} pipelines done", done, outcomes.len() + not_run.len());
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
