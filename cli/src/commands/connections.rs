//! `dpone connections`: what is defined, whether it answers, and what is in it.

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use dpone_engine::{Connections, Error, Result, ServerInfo};
use dpone_planner::definition::{Connection, OptionValue};
use serde_json::{Map, Value, json};

use crate::args::{DefinitionOptions, Format, OutputArgs, When};
use crate::exit::Exit;
use crate::project::Loaded;
use crate::render::table::Table;
use crate::render::units;
use crate::style::Style;
use crate::{interrupt, output, render};

/// List connections, test them, and look at what is in them.
#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the connections that the definitions define. Secrets are not shown
    List {
        #[command(flatten)]
        definition: DefinitionOptions,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Connect, authenticate and ask for the version
    Test {
        /// Only these [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        definition: DefinitionOptions,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the tables, views and files that can be read
    Discover {
        /// Only these [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        definition: DefinitionOptions,
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl ConnectionsArgs {
    pub(crate) fn format(&self) -> Format {
        let (Verb::List { output, .. } | Verb::Test { output, .. } | Verb::Discover { output, .. }) = &self.verb;
        output.format
    }
}

pub(crate) async fn connections(args: ConnectionsArgs, color: When) -> Result<Exit> {
    let format = args.format();
    let style = Style::for_stdout(color);
    match args.verb {
        Verb::List { definition, .. } => list(&definition.load()?, format, style),
        Verb::Test { names, definition, .. } => {
            let loaded = definition.load()?;
            let names = wanted(&loaded.connections, names)?;
            test(&loaded.connections, &names, format, style).await
        }
        Verb::Discover { names, definition, .. } => {
            let loaded = definition.load()?;
            let names = wanted(&loaded.connections, names)?;
            discover(&loaded.connections, &names, format, style, Style::for_stderr(color)).await
        }
    }
}

fn wanted(connections: &Connections, names: Vec<String>) -> Result<Vec<String>> {
    if names.is_empty() {
        return Ok(connections.names().map(str::to_owned).collect());
    }
    for name in &names {
        connections.definition(name)?;
    }
    Ok(names)
}

fn list(loaded: &Loaded, format: Format, style: Style) -> Result<Exit> {
    let connections = &loaded.project.connections;
    if format == Format::Json {
        let all: Vec<_> = connections.values().map(document).collect();
        output::print_json(&json!({ "connections": all }))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["name", "type", "options", "defined at"]);
    for connection in connections.values() {
        let options: Vec<_> = shown(connection).map(|(key, value)| format!("{key}={}", value.display())).collect();
        let at = connection.location.as_ref().map(ToString::to_string).unwrap_or_default();
        table.row([connection.name.clone(), connection.kind.clone(), options.join(" "), at]);
    }
    output::print(&table.render(format, style))?;
    Ok(Exit::Done)
}

/// The options that are written, and of those looked up in the environment the ones that are set.
fn shown(connection: &Connection) -> impl Iterator<Item = (&String, &OptionValue)> {
    connection.options.iter().filter(|(_, value)| match value {
        OptionValue::EnvAny(names) => names.iter().any(|name| std::env::var_os(name).is_some()),
        _ => true,
    })
}

fn document(connection: &Connection) -> Value {
    let options: Map<String, Value> =
        shown(connection).map(|(key, value)| (key.clone(), Value::from(value.display()))).collect();
    json!({
        "name": connection.name,
        "type": connection.kind,
        "options": options,
        "location": connection.location.as_ref().map(ToString::to_string),
    })
}

async fn test(connections: &Connections, names: &[String], format: Format, style: Style) -> Result<Exit> {
    let cancel = interrupt::token();
    let mut outcomes: Vec<(&str, Result<ServerInfo>)> = Vec::new();
    for name in names {
        outcomes.push((name, interrupt::abort_on(&cancel, super::reach(connections, name)).await));
    }
    match format {
        Format::Json => output::print_json(&json!({
            "passed": outcomes.iter().all(|(_, outcome)| outcome.is_ok()),
            "connections": outcomes.iter().map(|(name, outcome)| json!({
                "name": name,
                "passed": outcome.is_ok(),
                "server": outcome.as_ref().ok(),
                "error": outcome.as_ref().err().map(render::error::document),
            })).collect::<Vec<_>>(),
        }))?,
        Format::Md => {
            let mut table = Table::new(&["connection", "result", "details"]);
            for (name, outcome) in &outcomes {
                match outcome {
                    Ok(info) => table.row([*name, "ok", &summary(info)]),
                    Err(error) => table.row([*name, "failed", &error.to_string()]),
                }
            }
            output::print(&table.render(format, style))?;
        }
        Format::Text => {
            for (name, outcome) in &outcomes {
                output::print(&test_line(name, outcome, style))?;
            }
        }
    }
    Ok(Exit::of_all(outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err())))
}

fn test_line(name: &str, outcome: &Result<ServerInfo>, style: Style) -> String {
    match outcome {
        Ok(info) => format!("{}    {}: {}\n", style.green("ok"), style.bold(name), summary(info)),
        Err(error) => {
            let hint = error.hint().map(|hint| format!("      {}: {hint}\n", style.yellow("hint"))).unwrap_or_default();
            format!("{}  {}: {error}\n{hint}", style.red("FAIL"), style.bold(name))
        }
    }
}

/// `PostgreSQL 16.2 (database shop, encryption TLSv1.3)`
fn summary(info: &ServerInfo) -> String {
    let details: Vec<_> = info.details.iter().map(|(key, value)| format!("{key} {value}")).collect();
    let system = format!("{} {}", info.system, info.version);
    if details.is_empty() {
        system.trim_end().to_owned()
    } else {
        format!("{} ({})", system.trim_end(), details.join(", "))
    }
}

async fn discover(
    connections: &Connections,
    names: &[String],
    format: Format,
    style: Style,
    stderr: Style,
) -> Result<Exit> {
    let cancel = interrupt::token();
    let mut table = Table::new(&["relation", "kind", "rows", "size"]).right(2).right(3);
    let mut found = Vec::new();
    let mut errors: Vec<Error> = Vec::new();
    for name in names {
        let list = async { connections.source(name)?.relations().await.map_err(|e| e.with("connection", name)) };
        match interrupt::abort_on(&cancel, list).await {
            Ok(relations) => {
                for relation in &relations {
                    let full = format!("{name}.{}", relation.relation);
                    let rows = relation.rows.map(units::count).unwrap_or_default();
                    table.row([
                        full,
                        relation.kind.clone(),
                        rows,
                        relation.bytes.map(units::bytes).unwrap_or_default(),
                    ]);
                }
                found.push(json!({ "connection": name, "relations": relations }));
            }
            Err(error) => errors.push(error),
        }
    }
    if format == Format::Json {
        let errors: Vec<_> = errors.iter().map(render::error::document).collect();
        output::print_json(&json!({ "connections": found, "errors": errors }))?;
    } else if !table.is_empty() {
        output::print(&table.render(format, style))?;
    } else if errors.is_empty() && std::io::stderr().is_terminal() {
        render::error::warn("nothing is there to be read", stderr);
    }
    for error in &errors {
        render::error::tell(error, stderr);
    }
    Ok(Exit::of_all(&errors))
}
