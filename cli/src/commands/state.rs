//! `dpone state`: what pipelines remember.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use dpone_engine::{Connections, Error, Result, StateLocation, StateStore};
use dpone_planner::definition::{Pipeline, StateSpec};
use dpone_planner::state::PipelineState;
use serde_json::json;

use crate::args::{DefinitionArgs, Format, OutputArgs, When};
use crate::exit::Exit;
use crate::render::table::Table;
use crate::style::Style;
use crate::{interrupt, output, render};

/// Look at what pipelines remember between runs, save it, or make them forget.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print each pipeline's watermark and last run
    Inspect {
        #[command(flatten)]
        definition: DefinitionArgs,
        /// Only this pipeline
        #[arg(long, value_name = "NAME")]
        selector: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print every part of the state: one JSON document, unless --format asks for another form
    Export {
        #[command(flatten)]
        definition: DefinitionArgs,
        /// Only this pipeline
        #[arg(long, value_name = "NAME")]
        selector: Option<String>,
        /// Where it goes [default: stdout]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// How it is written: `text` is YAML
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
    },
    /// Forget the watermark: the next run reads everything. What was loaded stays, and so does the record of it
    Reset {
        #[command(flatten)]
        definition: DefinitionArgs,
        /// Only this pipeline
        #[arg(long, value_name = "NAME")]
        selector: Option<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl StateArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::Inspect { output, .. } | Verb::Reset { output, .. } => output.format,
            Verb::Export { format, .. } => *format,
        }
    }
}

pub(crate) async fn state(args: StateArgs, color: When) -> Result<Exit> {
    let cancel = interrupt::token();
    let style = Style::for_stdout(color);
    let work = async {
        match args.verb {
            Verb::Inspect { definition, selector, output } => {
                let states = read(&definition, selector.as_deref()).await?;
                inspect(&states, output.format, style)
            }
            Verb::Export { definition, selector, output, format } => {
                let states = read(&definition, selector.as_deref()).await?;
                export(&states, output, format)
            }
            Verb::Reset { definition, selector, yes, output } => {
                reset(&definition, selector.as_deref(), yes, output.format, Style::for_stderr(color)).await
            }
        }
    };
    interrupt::abort_on(&cancel, work).await?;
    Ok(Exit::Done)
}

/// Where a pipeline keeps its state: with its data. What a definition wants elsewhere is a copy, which no run reads.
fn store(connections: &Connections, pipeline: &Pipeline) -> Result<Arc<dyn StateStore>> {
    let table = match &pipeline.state {
        StateSpec::InSink { relation } => Some(relation.clone()),
        StateSpec::BesideData | StateSpec::Elsewhere { .. } => None,
    };
    connections.sink(&pipeline.sink.connection)?.state(&pipeline.sink.relation, &StateLocation { table })
}

async fn read(definition: &DefinitionArgs, selector: Option<&str>) -> Result<Vec<(Pipeline, Option<PipelineState>)>> {
    let loaded = definition.load()?;
    let mut states = Vec::new();
    for pipeline in loaded.select(selector)? {
        let state = store(&loaded.connections, &pipeline)?.get(&pipeline.name).await;
        let state = state.map_err(|e| e.with("pipeline", &pipeline.name))?;
        states.push((pipeline, state));
    }
    Ok(states)
}

fn inspect(states: &[(Pipeline, Option<PipelineState>)], format: Format, style: Style) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&json!({
            "states": states.iter().map(|(pipeline, state)| json!({
                "pipeline": pipeline.name,
                "target": format!("{}.{}", pipeline.sink.connection, pipeline.sink.relation),
                "watermark": state.as_ref().and_then(|s| s.watermark.as_ref()).map(ToString::to_string),
                "position": state.as_ref().and_then(|s| s.changes.as_ref()).map(|c| c.summary.as_str()),
                "last_run_id": state.as_ref().map(|s| s.run_id.as_str()),
                "load_id": state.as_ref().map(|s| s.load_id.as_str()),
                "committed_at": state.as_ref().map(|s| s.committed_at.as_str()),
            })).collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(&["pipeline", "watermark", "last run", "committed at"]);
    for (pipeline, state) in states {
        let watermark = state.as_ref().and_then(PipelineState::reached);
        table.row([
            pipeline.name.clone(),
            watermark.unwrap_or_else(|| "none".to_owned()),
            state.as_ref().map(|s| s.run_id.clone()).unwrap_or_else(|| "never".to_owned()),
            state.as_ref().map(|s| s.committed_at.clone()).unwrap_or_default(),
        ]);
    }
    output::print(&table.render(format, style))
}

fn export(states: &[(Pipeline, Option<PipelineState>)], file: Option<PathBuf>, format: Format) -> Result<()> {
    let states: Vec<_> = states.iter().filter_map(|(_, state)| state.as_ref()).collect();
    let document = json!({ "version": PipelineState::VERSION, "states": states });
    let text = match format {
        Format::Json => format!("{document:#}\n"),
        Format::Text => dpone_planner::definition::to_yaml(&document),
        Format::Md => format!("```json\n{document:#}\n```\n"),
    };
    match file {
        None => output::print(&text),
        Some(path) => std::fs::write(&path, text)
            .map_err(|e| Error::configuration(format!("cannot write {}: {e}", path.display()))),
    }
}

async fn reset(
    definition: &DefinitionArgs,
    selector: Option<&str>,
    yes: bool,
    format: Format,
    style: Style,
) -> Result<()> {
    let loaded = definition.load()?;
    let pipelines = loaded.select(selector)?;
    let names: Vec<&str> = pipelines.iter().map(|p| p.name.as_str()).collect();
    if !yes && !confirmed(&names)? {
        return Err(Error::new(dpone_engine::ErrorKind::Interrupted, "nothing was reset"));
    }
    let mut done = Vec::new();
    for pipeline in &pipelines {
        let had = store(&loaded.connections, pipeline)?.reset(&pipeline.name).await;
        done.push((&pipeline.name, had.map_err(|e| e.with("pipeline", &pipeline.name))?));
    }
    if format == Format::Json {
        let done = done.iter().map(|(name, forgotten)| {
            let mut reset = json!({ "pipeline": name, "had_state": forgotten.had_state });
            if let Some(why) = &forgotten.given_up {
                reset["commit_given_up"] = json!(why);
            }
            reset
        });
        return output::print_json(&json!({ "reset": done.collect::<Vec<_>>() }));
    }
    for (name, forgotten) in done {
        if let Some(why) = &forgotten.given_up {
            let text =
                format!("{name}: a commit that was cut short is given up, what was done of it stays done: {why}");
            render::error::warn(&text, style);
        }
        let told = if forgotten.had_state {
            "forgotten: the next run reads everything"
        } else {
            "there was nothing to forget"
        };
        output::print(&format!("{name}: {told}"))?;
    }
    Ok(())
}

/// Asks on the terminal. Without one, only --yes will do.
fn confirmed(names: &[&str]) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::configuration("reset asks before it forgets, and there is no terminal to ask on")
            .with_hint("add --yes"));
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "forget the watermark of {}? [y/N] ", names.join(", ")).map_err(output::unwritable)?;
    stderr.flush().map_err(output::unwritable)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
