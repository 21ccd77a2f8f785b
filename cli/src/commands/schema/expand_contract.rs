//! `dpone schema expand-contract`: the way around changes that cannot be made in one step, as SQL, and carried out.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dpone_engine::schema::{
    MigrationBudget, MigrationReport, MigrationRequest, document_path, read_document, write_document,
};
use dpone_engine::{Error, Relation, Result, Sink};
use dpone_planner::schema::expand_contract::{
    ExpandContract, MigrationKind, Phase, expand_contract as plan_migrations,
};
use dpone_planner::schema::{fingerprint, plan_schema};

use super::inputs::{PolicyArgs, Read, Sides, parse_pair, parse_table};
use crate::args::{DefinitionOptions, Format, OutputArgs, When, parse_positive, parse_seconds, parse_size};
use crate::dialects::System;
use crate::exit::Exit;
use crate::render::expand_contract as show;
use crate::style::Style;
use crate::{interrupt, output};

/// Write the phases expand, backfill, validate and contract of every change that a run does not make, or carry one out.
///
/// Without --apply nothing is touched: the plan is printed and written to the output folder. With --apply a phase of such
/// a plan is carried out on PostgreSQL. Each phase can be run again, and goes on where it was killed.
#[derive(Debug, Args)]
pub(crate) struct ExpandContractArgs {
    /// Columns of the source: a JSON list of {name, dtype, nullable}
    #[arg(long, value_name = "FILE", required_unless_present = "plan")]
    source: Option<PathBuf>,
    /// Columns of the target, in the same form
    #[arg(long, value_name = "FILE", required_unless_present_any = ["connection", "plan"])]
    target: Option<PathBuf>,
    /// The connection of the target: its columns are read there, and --apply works there
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    #[command(flatten)]
    definition: DefinitionOptions,
    /// The target table: schema.name
    #[arg(long, value_name = "TABLE", value_parser = parse_table, required_unless_present = "plan")]
    table: Option<Relation>,
    /// The system of the target
    #[arg(long, value_enum, default_value_t = System::default_for_files())]
    dialect: System,
    /// Version of the target's server, such as 15 [default: not known, and the most careful version is assumed]
    #[arg(long, value_name = "VERSION")]
    server_version: Option<String>,
    /// A setting of the session that runs the DDL, such as TimeZone=UTC; may be repeated
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = parse_pair)]
    settings: Vec<(String, String)>,
    /// Size of the table, such as 20GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    table_size: Option<usize>,
    /// A column that was renamed in the source; may be repeated. Nothing is ever guessed
    #[arg(long = "rename", value_name = "OLD=NEW", value_parser = parse_pair)]
    renames: Vec<(String, String)>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Where the plan is written
    #[arg(long, value_name = "DIR", default_value = ".dpone/schema_expand_contract")]
    output_dir: PathBuf,
    #[command(flatten)]
    apply: ApplyArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Carry out")]
struct ApplyArgs {
    /// Carry out a phase at --connection
    #[arg(long, requires_all = ["phase", "connection"])]
    apply: bool,
    /// Which one. `contract` swaps the columns, and keeps the old one in step
    #[arg(long, value_enum, requires = "apply")]
    phase: Option<PhaseArg>,
    /// Undo the phase: `contract` swaps the columns back, `expand` drops the new one
    #[arg(long, requires = "apply")]
    rollback: bool,
    /// With `contract`, after the swap: drop the old column. There is no way back
    #[arg(long, requires = "apply", conflicts_with = "rollback")]
    drop_old: bool,
    /// The plan that this command has written
    #[arg(long, value_name = "FILE", requires = "apply", conflicts_with_all = ["source", "target", "table"])]
    plan: Option<PathBuf>,
    /// Rows of a batch at most; batches get smaller where they take long
    #[arg(long, value_name = "N", default_value = "5000", value_parser = parse_positive)]
    batch_rows: usize,
    /// A pause after each batch
    #[arg(long, value_name = "S", default_value = "0", value_parser = parse_seconds)]
    pause_seconds: Duration,
    /// How often a step is tried that did not get its lock in time
    #[arg(long, value_name = "N", default_value = "10", value_parser = parse_positive)]
    lock_attempts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PhaseArg {
    Expand,
    Backfill,
    Validate,
    Contract,
}

impl From<PhaseArg> for Phase {
    fn from(phase: PhaseArg) -> Self {
        match phase {
            PhaseArg::Expand => Self::Expand,
            PhaseArg::Backfill => Self::Backfill,
            PhaseArg::Validate => Self::Validate,
            PhaseArg::Contract => Self::Contract,
        }
    }
}

pub(crate) async fn expand_contract(args: ExpandContractArgs, color: When) -> Result<Exit> {
    match (args.apply.apply, args.apply.phase) {
        (true, Some(phase)) => apply(&args, phase.into(), color).await,
        _ => plan(&args, color).await,
    }
}

async fn plan(args: &ExpandContractArgs, color: When) -> Result<Exit> {
    let mut document = args.document(args.connection.is_none()).await?;
    let path = document_path(&args.output_dir, "expand_contract", &document.table);
    document.artifact_path = path.display().to_string();
    write_document(&args.output_dir, "expand_contract", &document.table, &document)?;
    match args.output.format {
        Format::Json => output::print_json(&json(&document)?)?,
        format => output::print(&show::plan(&document, format, Style::for_stdout(color)))?,
    }
    Ok(Exit::Done)
}

fn json<T: serde::Serialize>(document: &T) -> Result<serde_json::Value> {
    serde_json::to_value(document).map_err(|error| Error::internal(format!("a document cannot be written: {error}")))
}

async fn apply(args: &ExpandContractArgs, phase: Phase, color: When) -> Result<Exit> {
    let name = args.connection.as_deref().unwrap_or_default();
    let loaded = args.definition.load()?;
    let sink = loaded.connections.sink(name)?;
    let document = match &args.apply.plan {
        Some(file) => read_document(file, "a plan of expand-contract")?,
        None if args.target.is_some() => args.document(true).await?,
        None => {
            return Err(Error::configuration("--apply needs the plan: --plan FILE, or --source and --target")
                .with_hint("write it first: the same command without --apply"));
        }
    };
    document.check(sink.dialect().as_ref())?;
    if document.migrations.is_empty() {
        return Err(Error::configuration("the plan has no migration: there is nothing to carry out"));
    }
    let migrator = sink.migrator().ok_or_else(|| {
        Error::configuration(format!("dpone does not carry out migrations on {}", sink.dialect().system()))
            .with_hint("run the statements of the plan by hand, phase by phase")
    })?;
    if phase == Phase::Expand && !args.apply.rollback {
        check_fingerprint(&document, sink.as_ref()).await?;
    }
    let default = MigrationBudget::default();
    let request = MigrationRequest {
        table: &document.relation,
        migrations: &document.migrations,
        phase,
        rollback: args.apply.rollback,
        drop_old: args.apply.drop_old,
        plan_hash: &document.plan_hash,
        budget: MigrationBudget {
            lock: args.policy.lock_timeout().unwrap_or(default.lock),
            attempts: u32::try_from(args.apply.lock_attempts).unwrap_or(u32::MAX),
            batch_rows: args.apply.batch_rows as u64,
            pause: args.apply.pause_seconds,
            ..default
        },
    };
    let work = async { migrator.migrate(&request).await.map_err(|e| e.with("connection", name)) };
    let report: MigrationReport = interrupt::abort_on(&interrupt::token(), work).await?;
    match args.output.format {
        Format::Json => output::print_json(&json(&report)?)?,
        format => output::print(&show::report(&report, format, Style::for_stdout(color)))?,
    }
    Ok(Exit::Done)
}

/// A plan that was made from the catalog is begun on that catalog alone. What follows, the migration looks at by itself.
async fn check_fingerprint(document: &ExpandContract, sink: &dyn Sink) -> Result<()> {
    let Some(found) = sink.describe(&document.relation).await? else {
        return Err(Error::conflict(format!("there is no table {}", document.relation)));
    };
    let begun = document.migrations.iter().any(|migration| match migration.kind {
        MigrationKind::Retype | MigrationKind::Rename => found.schema.field_with_name(&migration.shadow).is_ok(),
        MigrationKind::Drop | MigrationKind::NotNull => false,
    });
    let now = fingerprint(&found.schema, &found.facts, sink.dialect().as_ref());
    if document.catalog_observed && !begun && now != document.catalog_fingerprint {
        return Err(Error::conflict(format!(
            "the catalog moved since {} was planned: its columns, its dependents, the server's version or its settings \
             are not what they were",
            document.relation
        ))
        .with_hint("write the plan again, and look at it again"));
    }
    Ok(())
}

impl ExpandContractArgs {
    /// The plan from files, or from a file and the catalog.
    async fn document(&self, offline: bool) -> Result<ExpandContract> {
        let (Some(source), Some(table)) = (&self.source, &self.table) else {
            return Err(Error::configuration("--source and --table say what is planned"));
        };
        if !offline && self.target.is_some() {
            return Err(Error::configuration("--target and --connection both give the target's columns")
                .with_hint("leave one of them out; --apply takes both"));
        }
        let sides = Sides {
            source: source.clone(),
            target: self.target.clone(),
            connection: self.connection.clone().filter(|_| !offline),
            definition: self.definition.clone(),
            table: table.clone(),
            dialect: self.dialect,
            compatibility: None,
            server_version: self.server_version.clone(),
            settings: self.settings.clone(),
            table_size: self.table_size,
            renames: self.renames.clone(),
        };
        let Read { source, target, facts, dialect } = sides.read().await?;
        let plan = plan_schema(table, &source, &target, &facts, dialect.as_ref(), &self.policy.policy()?)
            .map_err(|error| error.with("table", table.to_string()))?;
        plan_migrations(&plan, &target, !offline, dialect.as_ref())
    }
}
