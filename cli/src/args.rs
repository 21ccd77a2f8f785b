//! The arguments, as typed. Each verb's own are in its file under `commands/`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use dpone_engine::run::RunOptions;

use crate::commands::{
    backfill, check, completions, connections, init, manifest, observability, plan, query, run, runs, schema, state,
};

/// Moves tables between systems: reads a source, works out what must change in the target, and lands it there
/// completely or not at all.
#[derive(Debug, Parser)]
#[command(name = "dpone", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed or blocked, 2 wrong use or unreadable input, 3 a bug of dpone, \
                        130 interrupted.\nData goes to stdout; logs, progress and errors go to stderr.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs and colours")]
pub(crate) struct Global {
    /// Log what happens to stderr; -vv logs more, -vvv everything. RUST_LOG overrides it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How logs are written
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// When to use colours; NO_COLOR=1 turns `auto` off
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub(crate) color: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

/// How a command prints its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
    /// Markdown
    Md,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<run::RunArgs>),
    Runs(runs::RunsArgs),
    Observability(observability::ObservabilityArgs),
    Plan(plan::PlanArgs),
    Backfill(Box<backfill::BackfillArgs>),
    Check(check::CheckArgs),
    Query(query::QueryArgs),
    Connections(connections::ConnectionsArgs),
    Manifest(manifest::ManifestArgs),
    Schema(Box<schema::SchemaArgs>),
    /// The same as `schema plan`
    SchemaPlan(Box<schema::plan::SchemaPlanArgs>),
    State(state::StateArgs),
    Init(init::InitArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// How errors of the command are printed.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Run(args) => args.output.format,
            Self::Runs(args) => args.format(),
            Self::Observability(args) => args.format(),
            Self::Plan(args) => args.output.format,
            Self::Backfill(args) => args.format(),
            Self::Check(args) => args.output.format,
            Self::Query(args) => args.error_format(),
            Self::Connections(args) => args.format(),
            Self::Manifest(args) => args.format(),
            Self::Schema(args) => args.format(),
            Self::SchemaPlan(args) => args.output.format,
            Self::State(args) => args.format(),
            Self::Init(args) => args.output.format,
            Self::Completions(args) => args.output.format,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct OutputArgs {
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Definition files, and what goes into them.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DefinitionArgs {
    /// Definitions: .sql, .yml or .yaml. Default: dpone.sql, dpone.yml and dpone.yaml of this folder
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) vars: VarArgs,
}

/// As [`DefinitionArgs`], for commands whose positional argument is something else.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DefinitionOptions {
    /// A definition whose connections are used; may be repeated. Default: dpone.sql, dpone.yml and dpone.yaml of
    /// this folder
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) vars: VarArgs,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct VarArgs {
    /// A value for `${name}` in definitions; may be repeated. For secrets use env: and file: references
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_var)]
    pub(crate) vars: Vec<(String, String)>,
}

/// Settings that change how fast a command reads, never what it reads.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct EngineArgs {
    /// Partitions read and staged at once [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    pub(crate) parallelism: Option<usize>,
    /// What sorts, joins and aggregations may hold before they spill to disk, such as 512MB or 2GiB [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory_limit: Option<usize>,
    /// Rows of a batch [default: 8192]
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    pub(crate) batch_rows: Option<usize>,
    /// Where they spill [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) temp_dir: Option<PathBuf>,
}

impl EngineArgs {
    pub(crate) fn options(&self) -> RunOptions {
        let default = RunOptions::default();
        RunOptions {
            memory_limit: self.memory_limit.unwrap_or(default.memory_limit),
            temp_dir: self.temp_dir.clone(),
            parallelism: self.parallelism,
            batch_rows: self.batch_rows.unwrap_or(default.batch_rows),
            ..default
        }
    }
}

pub(crate) fn parse_positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number, 1 or more".to_owned())
}

pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a number of seconds, 0 or more".to_owned())
}

/// `512MB`, `2GiB`, `65536`: MB and the like are powers of ten, MiB and the like are powers of two.
pub(crate) fn parse_size(text: &str) -> Result<usize, String> {
    let expected = || "expected a size such as 512MB, 2GiB or 268435456".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => f64::from(1u32 << 10),
        "mib" => f64::from(1u32 << 20),
        "gib" => f64::from(1u32 << 30),
        "tib" => f64::from(1u32 << 30) * 1024.0,
        _ => return Err(expected()),
    };
    let bytes = number.parse::<f64>().map_err(|_| expected())? * factor;
    // Exact far beyond any memory there is.
    if (1e6..9e15).contains(&bytes) { Ok(bytes as usize) } else { Err(format!("{}; at least 1MB", expected())) }
}

fn parse_var(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_arguments_agree_with_each_other() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_decimal_or_binary_as_written() {
        assert_eq!(parse_size("512MB").unwrap(), 512_000_000);
        assert_eq!(parse_size("1.5GiB").unwrap(), 3 << 29);
        assert_eq!(parse_size("268435456").unwrap(), 256 << 20);
        for wrong in ["", "MB", "12XB", "-5MB", "1KB", "1e400"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_keep_what_follows_the_first_equals_sign() {
        assert_eq!(parse_var("until=a=b").unwrap(), ("until".to_owned(), "a=b".to_owned()));
        assert!(parse_var("until").is_err());
        assert!(parse_var("=x").is_err());
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(parse_seconds("0.5").unwrap(), Duration::from_millis(500));
        for wrong in ["-1", "inf", "NaN", "1e30", "soon"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
