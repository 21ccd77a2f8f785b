//! The command line: typed arguments, one file a verb, rendering and progress. The crates below do the work.
//!
//! Data goes to stdout; logs, progress, notes and errors go to stderr. Exit codes are in [`exit`].

mod args;
mod commands;
mod dialects;
mod exit;
mod failure;
mod interrupt;
mod logging;
mod observability;
mod output;
mod progress;
mod project;
mod recording;
mod render;
mod style;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use dpone_engine::{Error, ErrorKind};

use crate::args::{Cli, Format};
use crate::exit::Exit;
use crate::style::Style;

/// The whole command, for completions and for the reference page.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments, runs the verb, reports what went wrong, and says how it ended.
pub fn main() -> ExitCode {
    failure::install_hook();
    failure::guard(|| {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        match Cli::try_parse_from(&arguments) {
            Ok(cli) => start(cli),
            Err(error) => usage(&error, &arguments),
        }
    })
    .into()
}

const STACK_BYTES: usize = 256 << 20;

/// The main thread's own stack is small.
fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("main".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, work) {
            Ok(running) => running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(Error::unknown(format!("cannot start a thread: {error}")).with_source(error)),
        }
    })
}

fn start(cli: Cli) -> Exit {
    let style = Style::for_stderr(cli.global.color);
    let format = cli.command.format();
    logging::install(&cli.global, style);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Long chains of conditions are walked by recursion. Only what is used of this is ever touched.
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(|e| Error::unknown(format!("cannot start the runtime: {e}")).with_source(e))
        .and_then(|runtime| {
            let outcome = on_large_stack(|| runtime.block_on(commands::dispatch(cli)));
            // A thread that still waits for a server's answer must not hold the process up.
            runtime.shutdown_timeout(std::time::Duration::from_millis(200));
            outcome
        });
    match outcome {
        Ok(exit) => exit,
        Err(error) => {
            render::error::report(&error, format, style);
            Exit::of(&error)
        }
    }
}

/// What clap found wrong, or the help that was asked for.
fn usage(error: &clap::Error, arguments: &[OsString]) -> Exit {
    if error.use_stderr() && asks_for_json(arguments) {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let error = Error::new(ErrorKind::Configuration, message).with_hint("`dpone help` lists commands and options");
        render::error::report(&error, Format::Json, Style::PLAIN);
        return Exit::Usage;
    }
    // A closed pipe is no reason to fail a request for help.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().any(|a| a == "--format=json")
        || arguments.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}
