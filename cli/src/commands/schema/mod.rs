//! `dpone schema`: governed changes of a target's schema.

pub(crate) mod approve;
pub(crate) mod compatibility;
pub(crate) mod expand_contract;
pub(crate) mod history;
pub(crate) mod inputs;
pub(crate) mod notify;
pub(crate) mod plan;
pub(crate) mod verify;

use clap::{Args, Subcommand};
use dpone_engine::Result;

use crate::args::{Format, When};
use crate::exit::Exit;

/// Plan changes of a table's schema, judge what they cost, and govern them.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Plan(Box<plan::SchemaPlanArgs>),
    Approve(Box<approve::ApproveArgs>),
    ExpandContract(Box<expand_contract::ExpandContractArgs>),
    History(history::HistoryArgs),
    Notify(notify::NotifyArgs),
    Verify(verify::VerifyArgs),
    Compatibility(compatibility::CompatibilityArgs),
}

impl SchemaArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::Plan(args) => args.output.format,
            Verb::Approve(args) => args.output.format,
            Verb::ExpandContract(args) => args.output.format,
            Verb::History(args) => args.output.format,
            Verb::Notify(args) => args.output.format,
            Verb::Verify(args) => args.output.format,
            Verb::Compatibility(args) => args.output.format,
        }
    }
}

pub(crate) async fn schema(args: SchemaArgs, color: When) -> Result<Exit> {
    match args.verb {
        Verb::Plan(args) => plan::plan(*args, color).await,
        Verb::Approve(args) => approve::approve(&args, color),
        Verb::ExpandContract(args) => expand_contract::expand_contract(*args, color).await,
        Verb::History(args) => history::history(&args, color),
        Verb::Notify(args) => notify::notify(&args, color),
        Verb::Verify(args) => verify::verify(&args, color),
        Verb::Compatibility(args) => compatibility::compatibility(&args, color),
    }
}
