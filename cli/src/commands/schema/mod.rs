//! `dpone schema`: governed changes of a target's schema.

pub(crate) mod inputs;
pub(crate) mod plan;

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
    Plan(plan::SchemaPlanArgs),
}

impl SchemaArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::Plan(args) => args.output.format,
        }
    }
}

pub(crate) async fn schema(args: SchemaArgs, color: When) -> Result<Exit> {
    match args.verb {
        Verb::Plan(args) => plan::plan(args, color).await,
    }
}
