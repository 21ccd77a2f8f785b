//! `dpone plan`: what a run would do. Nothing is touched.

use clap::Args;
use dpone_engine::Result;
use dpone_engine::run::{self, Explanation};
use serde_json::json;

use crate::args::{DefinitionArgs, EngineArgs, Format, OutputArgs, When};
use crate::exit::Exit;
use crate::style::Style;
use crate::{interrupt, output, render};

/// Print what a run would do, and touch nothing.
///
/// Strategy, physical plan, partitions with the SQL that is pushed down, DDL, the steps at the target, and state.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    definition: DefinitionArgs,
    /// Plan only this pipeline: its name, or a batch manifest's table by `id` or `schema.table`
    #[arg(long, value_name = "NAME")]
    selector: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) async fn plan(args: PlanArgs, color: When) -> Result<Exit> {
    let loaded = args.definition.load()?;
    let pipelines = loaded.select(args.selector.as_deref())?;
    let stderr = Style::for_stderr(color);
    loaded.warn(&pipelines, stderr);
    let mut context = loaded.context(args.engine.options());
    context.cancel = interrupt::token();

    let mut plans: Vec<Explanation> = Vec::new();
    let mut errors = Vec::new();
    for pipeline in &pipelines {
        match interrupt::abort_on(&context.cancel, run::explain(&context, pipeline)).await {
            Ok(plan) => plans.push(plan),
            Err(error) => errors.push(error.with("pipeline", &pipeline.name)),
        }
    }
    print(&plans, &errors, pipelines.len(), args.output.format, Style::for_stdout(color))?;
    for error in &errors {
        render::error::tell(error, stderr);
    }
    // What would stop the run is no mistake of the definition.
    match errors.is_empty() && plans.iter().any(|plan| !plan.blockers.is_empty()) {
        true => Ok(Exit::Failed),
        false => Ok(Exit::of_all(&errors)),
    }
}

fn print(
    plans: &[Explanation],
    errors: &[dpone_engine::Error],
    pipelines: usize,
    format: Format,
    style: Style,
) -> Result<()> {
    match format {
        Format::Json => output::print_json(&match (plans, errors) {
            ([plan], []) if pipelines == 1 => json!(plan),
            ([], [error]) if pipelines == 1 => json!({ "error": render::error::document(error) }),
            _ => json!({
                "plans": plans,
                "errors": errors.iter().map(render::error::document).collect::<Vec<_>>(),
            }),
        }),
        Format::Text if !plans.is_empty() => {
            output::print(&plans.iter().map(|p| render::plan::text(p, style)).collect::<Vec<_>>().join("\n"))
        }
        Format::Md if !plans.is_empty() => {
            output::print(&plans.iter().map(render::plan::markdown).collect::<Vec<_>>().join("\n"))
        }
        Format::Text | Format::Md => Ok(()),
    }
}
