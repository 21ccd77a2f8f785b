//! `dpone manifest`: the definition itself: its schema, whether it holds, and what it becomes.

use clap::{Args, Subcommand};
use dpone_engine::Result;
use dpone_planner::definition;
use serde_json::json;

use crate::args::{DefinitionArgs, Format, OutputArgs, When};
use crate::exit::Exit;
use crate::render::table::Table;
use crate::style::Style;
use crate::{output, project};

/// Work on definitions without reaching any system.
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the JSON Schema of YAML manifests, for editors
    Schema {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print each manifest as it will run, with defaults, templates and variables filled in. Secrets are not shown
    Render {
        #[command(flatten)]
        definition: DefinitionArgs,
        /// Only this pipeline
        #[arg(long, value_name = "NAME")]
        selector: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Read definitions, say what is wrong with them or list their pipelines
    Validate {
        #[command(flatten)]
        definition: DefinitionArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl ManifestArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::Schema { output } | Verb::Render { output, .. } | Verb::Validate { output, .. } => output.format,
        }
    }
}

pub(crate) fn manifest(args: ManifestArgs, color: When) -> Result<Exit> {
    match args.verb {
        Verb::Schema { output } => print_schema(output.format)?,
        Verb::Render { definition, selector, output } => print(&definition, selector.as_deref(), output.format)?,
        Verb::Validate { definition, output } => validate(&definition, output.format, color)?,
    }
    Ok(Exit::Done)
}

/// The schema is JSON in itself, for people too.
fn print_schema(format: Format) -> Result<()> {
    let schema = definition::json_schema(definition::SchemaKind::Any);
    match format {
        Format::Text | Format::Json => output::print_json(schema),
        Format::Md => output::print(&format!("```json\n{schema:#}\n```\n")),
    }
}

fn print(definition: &DefinitionArgs, selector: Option<&str>, format: Format) -> Result<()> {
    // The pipeline that a selector means, by its own name; a mistake in the selector is reported as everywhere.
    let name = match selector {
        None => None,
        Some(_) => definition.load()?.select(selector)?.pop().map(|p| p.name),
    };
    let rendered: Vec<_> = project::render(definition)?
        .into_iter()
        .filter(|process| name.as_deref().is_none_or(|name| process["name"] == name))
        .collect();
    let yaml =
        |rendered: &[serde_json::Value]| rendered.iter().map(definition::to_yaml).collect::<Vec<_>>().join("---\n");
    match format {
        Format::Json => output::print_json(&serde_json::Value::Array(rendered)),
        Format::Text => output::print(&yaml(&rendered)),
        Format::Md => output::print(&format!("```yaml\n{}```", yaml(&rendered))),
    }
}

fn validate(definition: &DefinitionArgs, format: Format, color: When) -> Result<()> {
    let loaded = definition.load()?;
    let pipelines = loaded.select(None)?;
    loaded.warn(&pipelines, Style::for_stderr(color));
    if format == Format::Json {
        return output::print_json(&json!({
            "passed": true,
            "pipelines": pipelines.iter().map(|p| json!({
                "name": p.name,
                "selector": p.selector,
                "strategy": p.strategy.name(),
                "sink": format!("{}.{}", p.sink.connection, p.sink.relation),
                "location": p.location.to_string(),
                "warnings": p.warnings,
            })).collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(&["pipeline", "selector", "strategy", "target", "defined at"]);
    for p in &pipelines {
        table.row([
            p.name.clone(),
            p.selector.clone().unwrap_or_default(),
            p.strategy.name().to_owned(),
            format!("{}.{}", p.sink.connection, p.sink.relation),
            p.location.to_string(),
        ]);
    }
    output::print(&table.render(format, Style::for_stdout(color)))
}
