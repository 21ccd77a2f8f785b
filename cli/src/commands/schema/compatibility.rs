//! `dpone schema compatibility`: whether a Schema Registry would take a new schema, offline.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dpone_engine::{Error, Result};
use dpone_kafka::compatibility::{Kind, Level, Problem, parse_text};
use serde_json::{Value, json};

use super::inputs::text;
use crate::args::{Format, OutputArgs, When};
use crate::exit::Exit;
use crate::output;
use crate::render::table::Table;
use crate::style::Style;

/// Judge a new Avro or JSON schema by earlier ones, as a Schema Registry does. No registry is asked.
#[derive(Debug, Args)]
pub(crate) struct CompatibilityArgs {
    /// The new schema
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    /// An earlier schema; may be repeated, the newest first. Only the transitive levels look past the newest
    #[arg(long, value_name = "FILE", required = true)]
    against: Vec<PathBuf>,
    /// Who has to understand whom
    #[arg(long, value_enum, ignore_case = true, default_value_t = Compatibility::Backward, value_name = "LEVEL")]
    level: Compatibility,
    /// What the files hold [default: json for files that end in .json, else avro]
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<SchemaKind>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Compatibility {
    /// Nothing is checked
    None,
    /// The new schema reads what the newest earlier one wrote
    Backward,
    /// The new schema reads what every earlier one wrote
    BackwardTransitive,
    /// The newest earlier schema reads what the new one writes
    Forward,
    /// Every earlier schema reads what the new one writes
    ForwardTransitive,
    /// Both, with the newest earlier one
    Full,
    /// Both, with every earlier one
    FullTransitive,
}

impl From<Compatibility> for Level {
    fn from(level: Compatibility) -> Self {
        match level {
            Compatibility::None => Self::None,
            Compatibility::Backward => Self::Backward,
            Compatibility::BackwardTransitive => Self::BackwardTransitive,
            Compatibility::Forward => Self::Forward,
            Compatibility::ForwardTransitive => Self::ForwardTransitive,
            Compatibility::Full => Self::Full,
            Compatibility::FullTransitive => Self::FullTransitive,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchemaKind {
    Avro,
    Json,
}

pub(crate) fn compatibility(args: &CompatibilityArgs, color: When) -> Result<Exit> {
    let kind = match args.kind {
        Some(SchemaKind::Avro) => Kind::Avro,
        Some(SchemaKind::Json) => Kind::Json,
        None if args.schema.extension().is_some_and(|extension| extension == "json") => Kind::Json,
        None => Kind::Avro,
    };
    let new = read(&args.schema)?;
    let earlier = args.against.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    let report = dpone_kafka::compatibility(args.level.into(), kind, &new, &earlier).map_err(|error| {
        let at = error.context().iter().find(|(key, _)| *key == "earlier").and_then(|(_, at)| at.parse::<usize>().ok());
        let file = at.and_then(|at| args.against.get(at)).unwrap_or(&args.schema);
        error.with("file", file.display().to_string())
    })?;
    let file =
        |problem: &Problem| args.against.get(problem.against).map(|f| f.display().to_string()).unwrap_or_default();
    match args.output.format {
        Format::Json => output::print_json(&json!({
            "compatible": report.compatible,
            "level": report.level.as_str(),
            "kind": report.kind.as_str(),
            "schema": args.schema.display().to_string(),
            "against": args.against.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
            "checked": report.checked,
            "problems": report.problems.iter().map(|problem| json!({
                "path": problem.path,
                "rule": problem.rule,
                "message": problem.message,
                "direction": problem.direction.as_str(),
                "against": file(problem),
            })).collect::<Vec<_>>(),
        }))?,
        format => {
            let style = if format == Format::Text { Style::for_stdout(color) } else { Style::PLAIN };
            let word = if report.compatible { style.green("compatible") } else { style.red("incompatible") };
            let schemas = if report.checked == 1 { "schema" } else { "schemas" };
            let mut said = format!("{word} under {} with {} earlier {schemas}\n", report.level, report.checked);
            if !report.compatible {
                let mut table = Table::new(&["where", "rule", "against", "direction", "why"]);
                for problem in &report.problems {
                    table.row([
                        if problem.path.is_empty() { "-".to_owned() } else { problem.path.clone() },
                        problem.rule.to_owned(),
                        file(problem),
                        problem.direction.as_str().to_owned(),
                        problem.message.clone(),
                    ]);
                }
                said.push('\n');
                said.push_str(&table.render(format, style));
            }
            output::print(&said)?;
        }
    }
    Ok(if report.compatible { Exit::Done } else { Exit::Failed })
}

fn read(file: &Path) -> Result<Value> {
    parse_text(&text(file)?).map_err(|error| Error::with(error, "file", file.display().to_string()))
}
