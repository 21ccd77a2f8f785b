//! `dpone schema verify`: whether a ledger is as it was written.

use std::path::PathBuf;

use clap::Args;
use dpone_engine::schema::Ledger;
use dpone_engine::{Error, Result};
use serde_json::json;

use crate::args::{Format, OutputArgs, When};
use crate::exit::Exit;
use crate::output;
use crate::style::Style;

/// Check that no entry of a ledger was changed, added or removed: ends with 1 and names the file otherwise.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The folder of the ledger
    #[arg(long, value_name = "DIR")]
    ledger: PathBuf,
    /// The hash of the newest entry, kept elsewhere: the ledger must have an entry with it
    #[arg(long, value_name = "SHA256")]
    head: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn verify(args: &VerifyArgs, color: When) -> Result<Exit> {
    if !args.ledger.is_dir() {
        return Err(Error::configuration(format!("{}: there is no such folder", args.ledger.display()))
            .with_hint("a ledger is the folder that ledger_path of schema_evolution names"));
    }
    let ledger = Ledger::open(&args.ledger);
    let verified = ledger.verify()?;
    if let Some(head) = &args.head
        && !ledger.entries()?.iter().any(|stored| stored.sha256.eq_ignore_ascii_case(head))
    {
        return Err(Error::conflict(format!("{}: no entry has the hash {head:?}", args.ledger.display()))
            .with_hint("the ledger was cut, or begun anew, after that hash was noted"));
    }
    match args.output.format {
        Format::Json => output::print_json(&json!({
            "passed": true, "ledger": args.ledger, "entries": verified.entries, "head": verified.head,
        }))?,
        format => {
            let ok = Style::for_stdout(color).green("holds");
            let ok = if format == Format::Md { "holds".to_owned() } else { ok };
            let head = verified.head.map_or(String::new(), |head| format!(", head {head}"));
            output::print(&format!("{}: {ok}: {} entries{head}\n", args.ledger.display(), verified.entries))?;
        }
    }
    Ok(Exit::Done)
}
