//! `dpone backfill`: loads a long range chunk by chunk.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use dpone_engine::backfill::{self, CampaignOptions, CampaignReport, Choice, PartitionManifest};
use dpone_engine::run::{RunOptions, Several};
use dpone_engine::{Error, Result};
use dpone_planner::definition::Pipeline;
use serde_json::{Value, json};

use super::run::{parse_lease, parse_run_id};
use crate::args::{DefinitionArgs, EngineArgs, Format, OutputArgs, When, parse_positive, parse_seconds};
use crate::exit::Exit;
use crate::progress::Watcher;
use crate::project::Loaded;
use crate::recording::{self, Graph, RecordingArgs, Tries};
use crate::render::backfill as show;
use crate::style::Style;
use crate::{interrupt, output, render};

/// Load a long range chunk by chunk: plan it, run it, look at it, go on with it.
///
/// A backfill is a pipeline with the strategy `backfill`. Its chunks are committed one by one, and a manifest keeps
/// account of them, so that a run that was stopped or killed goes on where it ended. No chunk is loaded twice.
#[derive(Debug, Args)]
pub(crate) struct BackfillArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the chunks, what is loaded and what is not, and the plan of the first chunk. Writes nothing
    Plan {
        #[command(flatten)]
        which: Which,
        /// Also count the rows of the source that lie outside of the range: one more read of the source
        #[arg(long)]
        count: bool,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Load the chunks that are not committed yet
    Run {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Go on with a backfill that was begun, also after `cancel`
    Resume {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Print how far a backfill is: counts, rates, and failed chunks with their errors
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Load only the chunks that failed
    RetryFailed {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Count the committed chunks again, in source and target: rows that came late into a chunk are seen
    Verify {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Begin no further chunk, by any worker on any machine. Chunks that are being loaded are finished
    Cancel {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    definition: DefinitionArgs,
    /// Only this pipeline: its name, or a batch manifest's table by `id` or `schema.table`
    #[arg(long, value_name = "NAME")]
    selector: Option<String>,
    /// The id of the backfill, in place of the definition's: another id loads everything again
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    backfill_id: Option<String>,
    /// Begin of the interval: fills `{{ data_interval_start }}`
    #[arg(long, value_name = "TIME", env = "DPONE_INTERVAL_START")]
    interval_start: Option<String>,
    /// End of the interval: fills `{{ data_interval_end }}`
    #[arg(long, value_name = "TIME", env = "DPONE_INTERVAL_END")]
    interval_end: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct How {
    /// Chunks loaded at once, in place of the definition's
    #[arg(long, alias = "parallel-workers", value_name = "N", value_parser = parse_positive)]
    workers: Option<usize>,
    /// A pause of each worker after each chunk, in place of the definition's
    #[arg(long, value_name = "S", value_parser = parse_seconds)]
    pause_seconds: Option<Duration>,
    /// Rows a second that this process reads over chunks, in place of the definition's
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    max_rows_per_second: Option<usize>,
    /// How often a transient failure of a chunk is tried again; at least 3 times
    #[arg(long, value_name = "N", default_value_t = 3)]
    retry_attempts: u32,
    /// The wait before the first retry; it doubles with each
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_seconds)]
    retry_backoff_seconds: Duration,
    /// How long a run that no longer answers keeps others from its chunks
    #[arg(long, value_name = "S", default_value = "60", value_parser = parse_lease)]
    lease_seconds: Duration,
    /// What this run is called. Chunks are loaded once whatever it is [default: a new ULID]
    #[arg(long, value_name = "ID", value_parser = parse_run_id)]
    run_id: Option<String>,
    /// A run is executed anyway: accepted for scripts that say so
    #[arg(long, hide = true)]
    execute: bool,
    #[command(flatten)]
    record: RecordingArgs,
}

impl BackfillArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::Plan { which, .. }
            | Verb::Run { which, .. }
            | Verb::Resume { which, .. }
            | Verb::Status { which }
            | Verb::RetryFailed { which, .. }
            | Verb::Verify { which, .. }
            | Verb::Cancel { which } => which.output.format,
        }
    }
}

impl Which {
    fn load(&self) -> Result<(Loaded, Vec<Pipeline>)> {
        let interval = [("data_interval_start", &self.interval_start), ("data_interval_end", &self.interval_end)];
        let vars: Vec<(String, String)> =
            interval.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect();
        let loaded = self.definition.load_with(&vars)?;
        let selected = loaded.select(self.selector.as_deref())?;
        let pipelines: Vec<Pipeline> = match &self.selector {
            // One that is asked for by name is looked at, whatever it is: it may say why it is none.
            Some(_) => selected,
            None => selected.into_iter().filter(backfill::is_backfill).collect(),
        };
        if pipelines.is_empty() {
            return Err(Error::configuration("the definition has no backfill")
                .with_hint("a backfill is a pipeline with STRATEGY backfill, or mode: backfill"));
        }
        Ok((loaded, pipelines.into_iter().map(|p| self.named(p)).collect()))
    }

    /// The pipeline under the id that the command line gives.
    fn named(&self, mut pipeline: Pipeline) -> Pipeline {
        if let (Some(id), dpone_planner::definition::Strategy::Backfill(backfill)) =
            (&self.backfill_id, &mut pipeline.strategy)
        {
            backfill.id = Some(id.clone());
        }
        pipeline
    }
}

impl How {
    fn options(&self, engine: &EngineArgs) -> RunOptions {
        RunOptions {
            retries: self.retry_attempts,
            retry_backoff: self.retry_backoff_seconds,
            lease_ttl: self.lease_seconds,
            ..engine.options()
        }
    }

    fn campaign(&self, choice: Choice) -> CampaignOptions {
        CampaignOptions {
            choice,
            workers: self.workers,
            backfill_id: None,
            pause: self.pause_seconds,
            max_rows_per_second: self.max_rows_per_second.map(|n| n as f64),
        }
    }

    fn tries(&self) -> Tries {
        Tries {
            max_attempts: self.retry_attempts.saturating_add(1),
            backoff_seconds: self.retry_backoff_seconds.as_secs_f64(),
            backoff_max_seconds: RunOptions::default().retry_backoff_max.as_secs_f64(),
        }
    }
}

pub(crate) async fn backfill(args: BackfillArgs, color: When) -> Result<Exit> {
    match args.verb {
        Verb::Plan { which, count, engine } => plan(&which, count, &engine, color).await,
        Verb::Run { which, how, engine } => run(&which, &how, &engine, Choice::Run, color).await,
        Verb::Resume { which, how, engine } => run(&which, &how, &engine, Choice::Resume, color).await,
        Verb::RetryFailed { which, how, engine } => run(&which, &how, &engine, Choice::RetryFailed, color).await,
        Verb::Status { which } => status(&which, color).await,
        Verb::Verify { which, engine } => verify(&which, &engine, color).await,
        Verb::Cancel { which } => cancel(&which, color).await,
    }
}

async fn plan(which: &Which, count: bool, engine: &EngineArgs, color: When) -> Result<Exit> {
    let (loaded, pipelines) = which.load()?;
    loaded.warn(&pipelines, Style::for_stderr(color));
    let mut context = loaded.context(engine.options());
    context.cancel = interrupt::token();
    let mut results = Vec::new();
    for pipeline in &pipelines {
        let work = async {
            let campaign = backfill::Campaign::new(&context, pipeline, None)?;
            backfill::plan_campaign(&context, &campaign, count).await
        };
        let result = interrupt::abort_on(&context.cancel, work).await;
        results.push(result.map_err(|e| e.with("pipeline", &pipeline.name)));
    }
    let style = Style::for_stdout(color);
    finish(
        results,
        which.output.format,
        color,
        |plan| json!(plan),
        |plan, format| match format {
            Format::Md => render::plan::markdown(plan),
            _ => render::plan::text(plan, style),
        },
    )
}

async fn run(which: &Which, how: &How, engine: &EngineArgs, choice: Choice, color: When) -> Result<Exit> {
    let (loaded, pipelines) = which.load()?;
    let stderr = Style::for_stderr(color);
    loaded.warn(&pipelines, stderr);
    let graph = Graph::new(&loaded.project.pipelines, &loaded.project.connections)?;
    let places: Vec<usize> = pipelines.iter().filter_map(|p| graph.find(&p.name)).collect();
    let run_id = how.run_id.clone().unwrap_or_else(|| ulid::Ulid::generate().to_string());
    let ledger = how.record.open_ledger(false).await?;
    let several = pipelines.len() > 1;
    let mut recording = how.record.begin(&run_id, ledger, &graph, &places, several, stderr).await?;

    let watcher = Arc::new(Watcher::new());
    let mut context = loaded.context(how.options(engine));
    context.observer = Arc::new(Several(vec![watcher.clone(), recording.recorder.clone()]));
    context.cancel = interrupt::token();
    let options = how.campaign(choice);
    let mut results: Vec<Result<CampaignReport>> = Vec::new();
    for pipeline in &pipelines {
        if context.cancel.is_cancelled() {
            recording.recorder.leave_out(&pipeline.name, "the run was stopped");
            continue;
        }
        let selector = which.selector.clone().or_else(|| pipeline.selector.clone());
        let definition = graph.find(&pipeline.name).map(|at| graph.definition(at)).unwrap_or_default();
        let begun = recording::begun(pipeline, selector, definition, &loaded.connections, how.tries());
        recording.begin_pipeline(begun).await;
        let result = backfill::run_campaign(&context, pipeline, &options).await;
        watcher.finish_all();
        let receipt = match &result {
            Ok(report) => report.receipt(&run_id),
            Err(error) => Err(error.copy()),
        };
        recording.end_pipeline(&receipt).await?;
        results.push(result);
    }
    recording.finish().await;
    let style = Style::for_stdout(color);
    let errors: Vec<Error> = results.iter().filter_map(|r| r.as_ref().ok()?.error()).collect();
    for error in &errors {
        render::error::tell(error, stderr);
    }
    let document = |report: &CampaignReport| {
        let mut document = show::document(report);
        document["run_id"] = run_id.clone().into();
        document
    };
    let exit =
        finish(results, which.output.format, color, document, |report, format| show::report(report, format, style))?;
    let of_reports = Exit::of_all(&errors);
    Ok(if exit == Exit::Done { of_reports } else { exit })
}

async fn status(which: &Which, color: When) -> Result<Exit> {
    let (loaded, pipelines) = which.load()?;
    let mut context = loaded.context(EngineArgs::default().options());
    context.cancel = interrupt::token();
    let mut results = Vec::new();
    for pipeline in &pipelines {
        let work = async {
            let (campaign, manifest) = backfill::status(&context, pipeline).await?;
            let place = campaign.store.place(&campaign.key);
            // What was never begun has the chunks of its definition, all of them pending.
            let others = campaign.store.campaigns(&pipeline.name).await?;
            let others = others.into_iter().filter(|other| other.campaign != campaign.key).collect();
            let begun = manifest.is_some();
            let manifest = manifest.unwrap_or_else(|| campaign.fresh_manifest());
            Ok(show::Status { manifest, begun, place, others })
        };
        let result = interrupt::abort_on(&context.cancel, work).await;
        results.push(result.map_err(|e| e.with("pipeline", &pipeline.name)));
    }
    let style = Style::for_stdout(color);
    finish(results, which.output.format, color, show::Status::document, |status, format| status.page(format, style))
}

async fn verify(which: &Which, engine: &EngineArgs, color: When) -> Result<Exit> {
    let (loaded, pipelines) = which.load()?;
    let mut context = loaded.context(engine.options());
    context.cancel = interrupt::token();
    let mut results = Vec::new();
    let mut differences = Vec::new();
    for pipeline in &pipelines {
        let result = interrupt::abort_on(&context.cancel, backfill::verify(&context, pipeline)).await;
        let result = result.map(|(campaign, chunks)| show::Verified {
            campaign: campaign.key,
            pipeline: pipeline.name.clone(),
            chunks,
        });
        differences.extend(result.as_ref().ok().and_then(show::Verified::error));
        results.push(result.map_err(|e| e.with("pipeline", &pipeline.name)));
    }
    let style = Style::for_stdout(color);
    for error in &differences {
        render::error::tell(error, Style::for_stderr(color));
    }
    let exit = finish(results, which.output.format, color, show::Verified::document, |found, format| {
        found.page(format, style)
    })?;
    Ok(if exit == Exit::Done { Exit::of_all(&differences) } else { exit })
}

async fn cancel(which: &Which, color: When) -> Result<Exit> {
    let (loaded, pipelines) = which.load()?;
    let context = loaded.context(EngineArgs::default().options());
    let mut results: Vec<Result<PartitionManifest>> = Vec::new();
    for pipeline in &pipelines {
        results.push(backfill::cancel(&context, pipeline).await);
    }
    let style = Style::for_stdout(color);
    finish(results, which.output.format, color, show::manifest, |manifest, _| {
        let counts = manifest.counts();
        let mut text = format!(
            "{}  {}: {} of {} chunks are committed, {} will not be begun\n",
            style.bold(&manifest.pipeline),
            style.yellow("cancelled"),
            counts.success,
            counts.total,
            counts.skipped
        );
        if counts.running > 0 {
            text.push_str(&format!("{} chunks are being loaded, and will be finished\n", counts.running));
        }
        text
    })
}

/// Prints what there is, one document for JSON, and ends with the code of the errors.
fn finish<T>(
    results: Vec<Result<T>>,
    format: Format,
    color: When,
    document: impl Fn(&T) -> Value,
    page: impl Fn(&T, Format) -> String,
) -> Result<Exit> {
    let stderr = Style::for_stderr(color);
    if format == Format::Json {
        let mut documents: Vec<Value> = results
            .iter()
            .map(|result| match result {
                Ok(found) => document(found),
                Err(error) => json!({ "error": render::error::document(error) }),
            })
            .collect();
        match documents.len() {
            1 => output::print_json(&documents.remove(0))?,
            _ => output::print_json(&json!({ "backfills": documents }))?,
        }
    } else {
        let pages: Vec<String> = results.iter().filter_map(|r| r.as_ref().ok()).map(|t| page(t, format)).collect();
        if !pages.is_empty() {
            output::print(&pages.join("\n"))?;
        }
    }
    let errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    for error in &errors {
        render::error::tell(error, stderr);
    }
    Ok(Exit::of_all(&errors))
}
