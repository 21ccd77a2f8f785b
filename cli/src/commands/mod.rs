//! One file a verb.

pub(crate) mod backfill;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod connections;
pub(crate) mod init;
pub(crate) mod manifest;
pub(crate) mod observability;
pub(crate) mod plan;
pub(crate) mod query;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schema;
pub(crate) mod state;

use dpone_engine::{Connections, Result, ServerInfo};

use crate::args::{Cli, Command};
use crate::exit::Exit;

pub(crate) async fn dispatch(cli: Cli) -> Result<Exit> {
    let color = cli.global.color;
    match cli.command {
        Command::Run(args) => run::run(*args, color).await,
        Command::Runs(args) => runs::runs(args, color).await,
        Command::Observability(args) => observability::observability(args),
        Command::Plan(args) => plan::plan(args, color).await,
        Command::Backfill(args) => backfill::backfill(*args, color).await,
        Command::Check(args) => check::check(args, color).await,
        Command::Query(args) => query::query(args, color).await,
        Command::Connections(args) => connections::connections(args, color).await,
        Command::Manifest(args) => manifest::manifest(args, color),
        Command::Schema(args) => schema::schema(*args, color).await,
        Command::SchemaPlan(args) => schema::plan::plan(*args, color).await,
        Command::State(args) => state::state(args, color).await,
        Command::Init(args) => init::init(&args),
        Command::Completions(args) => completions::completions(&args),
    }
}

/// Connects, and asks who is there. A system that is only written to has nobody to ask: that its options hold is all
/// that can be known before a run.
async fn reach(connections: &Connections, name: &str) -> Result<ServerInfo> {
    let source = match connections.source(name) {
        Ok(source) => source,
        Err(error) => {
            connections.sink(name).map_err(|_| error)?;
            return Ok(ServerInfo {
                system: connections.definition(name)?.kind.clone(),
                version: String::new(),
                details: [("access".to_owned(), "write only".to_owned())].into(),
            });
        }
    };
    source.test().await.map_err(|e| e.with("connection", name))
}
