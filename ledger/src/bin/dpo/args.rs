//! The command line: the original tool's commands and argument order, and the names that it retired.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use dpone_ledger::StepName;

/// Persists the state of a data pipeline's executions, and tells which models changed since the last successful one.
#[derive(Debug, Parser)]
#[command(name = "dpo", version, infer_long_args = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// What to log, to stderr
    #[arg(short, long, global = true, value_enum, ignore_case = true, value_name = "LEVEL", default_value = "INFO")]
    pub(crate) log_level: LogLevel,
    /// postgresql+psycopg2://user:password@host:port/dbname, or sqlite:///path for a file
    #[arg(value_name = "db-connection-string")]
    pub(crate) connection: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    #[value(name = "CRITICAL")]
    Critical,
    #[value(name = "ERROR")]
    Error,
    #[value(name = "WARNING")]
    Warning,
    #[value(name = "INFO")]
    Info,
    #[value(name = "DEBUG")]
    Debug,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Begins an execution and prints its id
    InitExecution(InitExecution),
    /// Prints the id of the last successful execution, or an empty line
    GetLastSuccessfulExecution,
    /// Prints when an execution was completed
    #[command(alias = "get-execution-last-updated-timestamp")]
    GetExecutionCompletionTimestamp(Execution),
    /// Begins a step, records its models and prints its id
    #[command(alias = "persist-models")]
    InitStep(InitStep),
    /// Prints the names of the models that were changed, added or removed, separated by commas
    CompareStepModels(CompareStepModels),
    /// The same, by the retired name and in its order of arguments
    #[command(hide = true)]
    CompareModels(CompareModels),
    /// Ends a step
    CompleteStep(CompleteStep),
    /// Ends an execution
    CompleteExecution(Execution),
    /// Moves the schema to a newer revision
    Upgrade {
        /// head, a revision, the beginning of one, or +N
        #[arg(default_value = "head")]
        revision: String,
    },
    /// Moves the schema to an older revision; what that one has no place for is lost
    Downgrade {
        /// base, a revision, the beginning of one, or -N
        #[arg(allow_hyphen_values = true)]
        revision: String,
    },
    /// Lists the schema's revisions, newest first
    History,
    /// Prints the schema's revision
    Current,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InitExecution {
    /// A GUID to use as its id
    #[arg(value_name = "execution-id", conflicts_with = "flag")]
    pub(crate) execution_id: Option<String>,
    /// The same, as a flag (also -id)
    #[arg(id = "flag", long = "execution-id", value_name = "execution-id", num_args = 0..=1)]
    pub(crate) flag: Option<Option<String>>,
}

impl InitExecution {
    pub(crate) fn id(&self) -> Option<&str> {
        self.execution_id.as_deref().or(self.flag.as_ref().and_then(|flag| flag.as_deref()))
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Execution {
    /// An execution, as init-execution printed it
    #[arg(value_name = "execution-id")]
    pub(crate) execution_id: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InitStep {
    /// An execution, as init-execution printed it
    #[arg(value_name = "execution-id")]
    pub(crate) execution_id: String,
    /// LOAD or TRANSFORM
    #[arg(value_name = "step-name", value_parser = step_name)]
    pub(crate) step_name: StepName,
    /// The folder of the models
    #[arg(value_name = "base-path")]
    pub(crate) base_path: PathBuf,
    /// Globs relative to base-path, quoted against the shell: '*.sql' '**/*.json'
    #[arg(value_name = "model-patterns", required = true, num_args = 1..)]
    pub(crate) model_patterns: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompareStepModels {
    /// A step, as init-step printed it
    #[arg(value_name = "step-id")]
    pub(crate) step_id: String,
    /// The execution to compare with, as get-last-successful-execution printed it; empty for none
    #[arg(value_name = "previous-execution-id")]
    pub(crate) previous_execution_id: String,
    #[command(flatten)]
    pub(crate) names: Names,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompareModels {
    #[arg(value_name = "previous-execution-id")]
    pub(crate) previous_execution_id: String,
    #[arg(value_name = "current-execution-id")]
    pub(crate) current_execution_id: String,
    #[arg(value_name = "model-type", value_parser = step_name)]
    pub(crate) model_type: StepName,
    #[command(flatten)]
    pub(crate) names: Names,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Names {
    /// What to print between two names
    #[arg(long, default_value = ",")]
    pub(crate) separator: String,
    /// Removed models are printed anyway
    #[arg(long, hide = true)]
    pub(crate) include_deleted: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompleteStep {
    /// A step, as init-step printed it
    #[arg(value_name = "step-id")]
    pub(crate) step_id: String,
    /// How many rows it processed
    #[arg(value_name = "rows-processed", conflicts_with = "flag", allow_negative_numbers = true)]
    pub(crate) rows_processed: Option<String>,
    /// The same, as a flag
    #[arg(
        id = "flag",
        short = 'r',
        long = "rows-processed",
        value_name = "rows-processed",
        num_args = 0..=1,
        allow_negative_numbers = true
    )]
    pub(crate) flag: Option<Option<String>>,
}

impl CompleteStep {
    pub(crate) fn rows(&self) -> Option<&str> {
        self.rows_processed.as_deref().or(self.flag.as_ref().and_then(|flag| flag.as_deref()))
    }
}

fn step_name(text: &str) -> Result<StepName, String> {
    StepName::parse(text).ok_or_else(|| format!("expected {}", StepName::ALL.map(StepName::as_str).join(" or ")))
}

/// The arguments with `-id`, which is one option to Python's argparse, spelt as the parser here can read it.
pub(crate) fn modern(given: &[OsString]) -> Vec<OsString> {
    let starts = given.iter().position(|argument| argument == "init-execution").unwrap_or(given.len());
    let mut modern = given.to_vec();
    for argument in modern.iter_mut().skip(starts) {
        if let Some(rest) = argument.to_str().and_then(|text| text.strip_prefix("-id"))
            && (rest.is_empty() || rest.starts_with('='))
        {
            *argument = format!("--execution-id{rest}").into();
        }
    }
    modern
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_short_flag_of_two_letters_is_read() {
        let id = |arguments: &[&str]| {
            let given: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            match Args::try_parse_from(modern(&given)).unwrap().command {
                Command::InitExecution(init) => init.id().map(str::to_owned),
                other => panic!("{other:?}"),
            }
        };
        for arguments in [
            ["dpo", "c", "init-execution", "-id", "x"].as_slice(),
            &["dpo", "c", "init-execution", "-id=x"],
            &["dpo", "c", "init-execution", "--execution-id", "x"],
            &["dpo", "-l", "DEBUG", "c", "init-execution", "x"],
        ] {
            assert_eq!(id(arguments).as_deref(), Some("x"), "{arguments:?}");
        }
        assert_eq!(id(&["dpo", "c", "init-execution", "-id"]), None);
        assert_eq!(id(&["dpo", "c", "init-execution"]), None);
    }
}
