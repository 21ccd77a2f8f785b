//! `dpone schema history`: the versions of a table's columns.

use std::path::PathBuf;

use clap::Args;
use dpone_engine::schema::{Column, DEFAULT_HISTORY, SchemaHistoryRegistry, SchemaVersion};
use dpone_engine::{Error, Relation, Result};
use dpone_planner::schema::read_columns;
use serde_json::json;

use super::inputs::{parse_table, text};
use crate::args::{Format, OutputArgs, When};
use crate::dialects::System;
use crate::exit::Exit;
use crate::output;
use crate::render::table::{Table, visible};
use crate::style::Style;

/// Print the versions of a table's columns, and what changed from one to the next.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The table: schema.name
    #[arg(long, value_name = "TABLE", value_parser = parse_table)]
    table: Relation,
    /// The folder of the history
    #[arg(long, value_name = "DIR", default_value = DEFAULT_HISTORY)]
    dir: PathBuf,
    /// Only of the table in this system
    #[arg(long, value_enum)]
    dialect: Option<System>,
    /// Only this version, with all of its columns
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// First keep the columns of this file as the newest version: a JSON list of {name, dtype, nullable}
    #[arg(long, value_name = "FILE", requires = "dialect")]
    record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn history(args: &HistoryArgs, color: When) -> Result<Exit> {
    let registry = SchemaHistoryRegistry::open(&args.dir);
    let dialect = args.dialect.map(System::dialect);
    if let (Some(file), Some(dialect)) = (&args.record, &dialect) {
        let columns = read_columns(file, &text(file)?, dialect.as_ref())?;
        registry.record(&args.table, &columns, dialect.as_ref(), None)?;
    }
    let table = args.table.to_string();
    let mut versions = registry.versions(&table, dialect.as_ref().map(|dialect| dialect.system()))?;
    if versions.is_empty() {
        return Err(unknown(&registry, &table));
    }
    if let Some(version) = args.version {
        let newest = versions.iter().map(|v| v.version).max().unwrap_or_default();
        versions.retain(|v| v.version == version);
        if versions.is_empty() {
            return Err(Error::configuration(format!("{table} has no version {version}"))
                .with_hint(format!("its newest version is {newest}")));
        }
    }
    match args.output.format {
        Format::Json => output::print_json(&json!({ "table": table, "dir": args.dir, "versions": versions }))?,
        format => output::print(&page(&table, &versions, args.version.is_some(), format, Style::for_stdout(color)))?,
    }
    Ok(Exit::Done)
}

fn unknown(registry: &SchemaHistoryRegistry, table: &str) -> Error {
    let error = Error::configuration(format!("there is no history of {table} in {}", registry.dir().display()));
    match registry.tables() {
        Ok(tables) if !tables.is_empty() => {
            let names: Vec<String> = tables.iter().map(|(table, dialect)| format!("{table} ({dialect})")).collect();
            error.with_hint(format!("there is one of {}", names.join(", ")))
        }
        _ => error.with_hint("a run keeps the columns of its target when they change; --dir names its folder"),
    }
}

fn page(table: &str, versions: &[SchemaVersion], whole: bool, format: Format, style: Style) -> String {
    let mut out = match format {
        Format::Md => format!("# History of {}\n\n", visible(table)),
        _ => format!("{}\n", style.bold(visible(table))),
    };
    let mut list = Table::new(&["version", "dialect", "recorded", "run", "changes"]);
    for version in versions {
        list.row([
            version.version.to_string(),
            version.dialect.clone(),
            version.recorded_at.clone(),
            version.run_id.clone().unwrap_or_else(|| "-".to_owned()),
            changes(version),
        ]);
    }
    out.push_str(&list.render(format, style));
    for version in versions.iter().filter(|_| whole) {
        out.push('\n');
        let mut columns = Table::new(&["column", "type", "nullable", "default", "collation", "comment"]);
        for Column { name, dtype, nullable, default, collation, comment } in &version.columns {
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let nullable = if *nullable { "yes" } else { "no" };
            columns.row([
                name.clone(),
                dtype.clone(),
                nullable.to_owned(),
                or_dash(default),
                or_dash(collation),
                or_dash(comment),
            ]);
        }
        out.push_str(&columns.render(format, style));
    }
    out
}

/// `+ note text`, `- old`, `~ id integer -> bigint`
fn changes(version: &SchemaVersion) -> String {
    let diff = &version.diff;
    if version.version == 1 {
        return format!("first version, {} columns", version.columns.len());
    }
    let added = diff.added.iter().map(|c| format!("+ {} {}", c.name, c.dtype));
    let dropped = diff.dropped.iter().map(|c| format!("- {}", c.name));
    let changed = diff.changed.iter().map(|change| {
        let what: Vec<String> = change
            .what
            .iter()
            .map(|what| match what.as_str() {
                "dtype" => format!("{} -> {}", change.from.dtype, change.to.dtype),
                "nullable" if change.to.nullable => "takes NULL".to_owned(),
                "nullable" => "takes no NULL".to_owned(),
                other => other.to_owned(),
            })
            .collect();
        format!("~ {} {}", change.column, what.join(", "))
    });
    let mut all: Vec<String> = added.chain(dropped).chain(changed).collect();
    if diff.reordered {
        all.push("order".to_owned());
    }
    all.join("; ")
}
