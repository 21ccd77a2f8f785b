//! The `dpo` command: a data pipeline's executions, their steps and what changed in their models.
//!
//! Results go to stdout, alone; everything else to stderr. 0: done. 1: failed or refused. 2: the command line.

mod args;
mod log;
mod run;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use dpone_ledger::{Error, ErrorKind};

fn main() -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().collect();
    let args = match args::Args::try_parse_from(args::modern(&given)) {
        Ok(args) => args,
        Err(error) => return usage::explain(&error, &given),
    };
    log::install(args.log_level);
    match run::run(args) {
        Ok(output) => print(&output),
        Err(error) => fail(&error),
    }
}

/// A reader that closed the pipe has had enough: that is not our failure. Any other is.
fn print(output: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(&Error::database(format!("the result cannot be written: {e}")))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// One line, whatever the database put into its message.
fn fail(error: &Error) -> ExitCode {
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    say(&format!("{error}{hint}"));
    match error.kind() {
        ErrorKind::Usage => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

fn say(message: &str) {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(std::io::stderr().lock(), "dpo: error: {message}");
}
