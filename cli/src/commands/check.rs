//! `dpone check`: whether a run could begin. Reads schemas, writes nothing.

use std::collections::BTreeSet;

use clap::Args;
use dpone_engine::run::{self, RunContext};
use dpone_engine::{Connections, Error, ErrorKind, Result, federation};
use dpone_planner::definition::{Pipeline, SourceQuery, StateSpec};
use serde_json::{Value, json};

use crate::args::{DefinitionArgs, EngineArgs, Format, OutputArgs, When};
use crate::exit::Exit;
use crate::project::Loaded;
use crate::render::table::Table;
use crate::render::units;
use crate::style::Style;
use crate::{interrupt, output, render};

/// Check that the definition holds, the connections answer, and source and target agree. Writes nothing.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    definition: DefinitionArgs,
    /// Check only this pipeline: its name, or a batch manifest's table by `id` or `schema.table`
    #[arg(long, value_name = "NAME")]
    selector: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// One thing that was checked.
#[derive(Debug)]
struct Check {
    what: &'static str,
    name: String,
    outcome: Result<String>,
}

pub(crate) async fn check(args: CheckArgs, color: When) -> Result<Exit> {
    let loaded = args.definition.load()?;
    let pipelines = loaded.select(args.selector.as_deref())?;
    loaded.warn(&pipelines, Style::for_stderr(color));
    let mut context = loaded.context(args.engine.options());
    context.cancel = interrupt::token();

    let mut checks = vec![Check {
        what: "definition",
        name: files(&pipelines),
        outcome: Ok(format!(
            "{}, {}",
            units::several(pipelines.len() as u64, "pipeline"),
            units::several(loaded.project.connections.len() as u64, "connection")
        )),
    }];
    // One selected pipeline is checked with its own connections: others may be out of reach from here.
    let wanted =
        if args.selector.is_some() { mentioned(&pipelines, &loaded.connections) } else { all(&loaded.connections) };
    for name in wanted {
        let outcome = interrupt::abort_on(&context.cancel, reach(&loaded.connections, &name)).await;
        let outcome = match outcome {
            Err(error) if error.kind() == ErrorKind::Configuration && is_made_by_run(&loaded, &pipelines, &name) => {
                Ok("a folder that the first run makes".to_owned())
            }
            outcome => outcome,
        };
        checks.push(Check { what: "connection", name, outcome });
    }
    let mut created: Vec<(&str, String)> = Vec::new();
    for pipeline in &pipelines {
        let outcome = interrupt::abort_on(&context.cancel, agree(&context, pipeline)).await;
        let outcome = match (outcome, read_from(pipeline, &created)) {
            (Ok(agreed), _) => {
                if !agreed.target_exists {
                    created.push((&pipeline.name, target(pipeline)));
                }
                Ok(agreed.text)
            }
            // Its source is not there yet: it can be planned once the pipeline before it has run.
            (Err(error), Some((creator, table))) if error.kind() == ErrorKind::Configuration => {
                created.push((&pipeline.name, target(pipeline)));
                Ok(format!("reads {table}, which {creator} creates: not checked before that has run"))
            }
            (Err(error), _) => Err(error),
        };
        checks.push(Check { what: "pipeline", name: pipeline.name.clone(), outcome });
    }
    report(&checks, args.output.format, Style::for_stdout(color))?;
    Ok(Exit::of_all(checks.iter().filter_map(|check| check.outcome.as_ref().err())))
}

/// Whether this is a folder of files that the pipelines write, and that need not be there yet.
fn is_made_by_run(loaded: &Loaded, pipelines: &[Pipeline], name: &str) -> bool {
    let kind = loaded.connections.definition(name).map(|connection| connection.kind.as_str());
    matches!(kind, Ok("parquet" | "csv"))
        && pipelines.iter().any(|pipeline| pipeline.sink.connection == name)
        && loaded.connections.sink(name).is_ok()
}

fn files(pipelines: &[Pipeline]) -> String {
    let files: BTreeSet<_> = pipelines.iter().map(|p| p.location.file.display().to_string()).collect();
    files.into_iter().collect::<Vec<_>>().join(", ")
}

fn all(connections: &Connections) -> BTreeSet<String> {
    connections.names().map(str::to_owned).collect()
}

/// The connections that the pipelines name. A query over catalogs may use any of them.
fn mentioned(pipelines: &[Pipeline], connections: &Connections) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for pipeline in pipelines {
        match &pipeline.source.query {
            SourceQuery::Table { connection, .. } | SourceQuery::Native { connection, .. } => {
                names.insert(connection.clone());
            }
            SourceQuery::Sql { sql } => {
                names.extend(connections.names().filter(|name| sql.contains(*name)).map(str::to_owned));
            }
        }
        names.insert(pipeline.sink.connection.clone());
        if let StateSpec::Elsewhere { connection, .. } = &pipeline.state {
            names.insert(connection.clone());
        }
    }
    names
}

async fn reach(connections: &Connections, name: &str) -> Result<String> {
    let info = super::reach(connections, name).await?;
    Ok(format!("{} {}", info.system, info.version).trim_end().to_owned())
}

/// Planning reads both schemas and refuses what a run would refuse.
async fn agree(context: &RunContext, pipeline: &Pipeline) -> Result<Agreed> {
    let plan = run::explain(context, pipeline).await.map_err(|e| e.with("pipeline", &pipeline.name))?;
    let columns = plan.columns.len();
    let text = match plan.target_exists {
        true => format!("{columns} columns agree with {}", plan.target),
        false => format!("{columns} columns; {} will be created", plan.target),
    };
    Ok(Agreed { text, target_exists: plan.target_exists })
}

struct Agreed {
    text: String,
    target_exists: bool,
}

fn target(pipeline: &Pipeline) -> String {
    format!("{}.{}", pipeline.sink.connection, pipeline.sink.relation)
}

/// The pipeline that creates a table which this one reads, and the table.
fn read_from(pipeline: &Pipeline, created: &[(&str, String)]) -> Option<(String, String)> {
    let tables = match &pipeline.source.query {
        SourceQuery::Table { connection, relation } => vec![format!("{connection}.{relation}")],
        SourceQuery::Sql { sql } => federation::tables_of(sql).unwrap_or_default(),
        SourceQuery::Native { .. } => Vec::new(),
    };
    created.iter().find(|(_, table)| tables.contains(table)).map(|(name, table)| ((*name).to_owned(), table.clone()))
}

fn report(checks: &[Check], format: Format, style: Style) -> Result<()> {
    let failed = checks.iter().filter(|check| check.outcome.is_err()).count();
    let verdict = match failed {
        0 => format!("all {} checks passed", checks.len()),
        n => format!("{n} of {} checks failed", checks.len()),
    };
    match format {
        Format::Json => output::print_json(&json!({
            "passed": failed == 0,
            "checks": checks.iter().map(document).collect::<Vec<_>>(),
        })),
        Format::Md => {
            let mut table = Table::new(&["", "check", "result"]);
            for check in checks {
                let (mark, text) = match &check.outcome {
                    Ok(text) => ("ok", text.clone()),
                    Err(error) => ("failed", message(error)),
                };
                table.row([mark.to_owned(), format!("{} {}", check.what, check.name), text]);
            }
            output::print(&format!("{}\n{verdict}\n", table.render(format, style)))
        }
        Format::Text => {
            let mut out: String = checks.iter().map(|check| line(check, style)).collect();
            out.push_str(&format!("{}\n", if failed == 0 { style.green(verdict) } else { style.red(verdict) }));
            output::print(&out)
        }
    }
}

fn line(check: &Check, style: Style) -> String {
    let what = format!("{} {}", check.what, style.bold(&check.name));
    match &check.outcome {
        Ok(text) => format!("{}    {what}: {text}\n", style.green("ok")),
        Err(error) => {
            let mut line = format!("{}  {what}: {}\n", style.red("FAIL"), render::error::indented(&error.to_string()));
            if let Some(hint) = error.hint() {
                line.push_str(&format!("      {}: {}\n", style.yellow("hint"), render::error::indented(hint)));
            }
            line
        }
    }
}

fn message(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

fn document(check: &Check) -> Value {
    json!({
        "check": check.what,
        "name": check.name,
        "passed": check.outcome.is_ok(),
        "message": check.outcome.as_ref().ok(),
        "error": check.outcome.as_ref().err().map(render::error::document),
    })
}
