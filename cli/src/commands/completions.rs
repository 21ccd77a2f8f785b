//! `dpone completions`: scripts that complete the command line.

use clap::Args;
use clap_complete::Shell;
use dpone_engine::Result;
use serde_json::json;

use crate::args::{Format, OutputArgs};
use crate::exit::Exit;
use crate::output;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "dpone", &mut script);
    let script = String::from_utf8_lossy(&script);
    match args.output.format {
        Format::Text => output::print(&script)?,
        Format::Json => output::print_json(&json!({ "shell": args.shell.to_string(), "script": script }))?,
        Format::Md => output::print(&format!("```{}\n{}\n```\n", args.shell, script.trim_end()))?,
    }
    Ok(Exit::Done)
}
