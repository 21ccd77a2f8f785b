//! What each command does: reads its arguments, asks the ledger, and gives the text to print.

use std::path::Path;

use dpone_ledger::{
    Completion, Direction, Error, Goal, Ledger, Migration, Result, Revision, Target, find_models, parse_id,
    parse_optional_id,
};

use crate::args::{Args, Command, CompareModels, CompareStepModels, CompleteStep, InitStep, Names};

pub(crate) fn run(args: Args) -> Result<String> {
    let target = Target::parse(&args.connection)?;
    tracing::debug!("the ledger is {target:?}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::database(format!("the runtime cannot be started: {e}")))?;
    runtime.block_on(dispatch(&target, args.command))
}

async fn dispatch(target: &Target, command: Command) -> Result<String> {
    match command {
        Command::InitExecution(args) => {
            let id = args.id().map(|id| parse_id("execution id", id)).transpose()?;
            Ok(line(open(target).await?.init_execution(id).await?))
        }
        Command::GetLastSuccessfulExecution => {
            let id = open(target).await?.last_successful_execution().await?;
            Ok(line(id.map(|id| id.to_string()).unwrap_or_default()))
        }
        Command::GetExecutionCompletionTimestamp(args) => {
            let id = parse_id("execution id", &args.execution_id)?;
            Ok(line(open(target).await?.completed_on(id).await?))
        }
        Command::InitStep(args) => init_step(target, args).await,
        Command::CompareStepModels(args) => compare_step_models(target, args).await,
        Command::CompareModels(args) => compare_models(target, args).await,
        Command::CompleteStep(args) => complete_step(target, args).await,
        Command::CompleteExecution(args) => complete_execution(target, &args.execution_id).await,
        Command::Upgrade { revision } => migrate(target, Direction::Up, &revision).await,
        Command::Downgrade { revision } => migrate(target, Direction::Down, &revision).await,
        Command::History => Ok(history(Ledger::revisions(target))),
        Command::Current => {
            let revision = Ledger::connect(target).await?.revision().await?;
            Ok(revision.map(line).unwrap_or_default())
        }
    }
}

/// Connects, and creates or upgrades the schema where that is left to do.
async fn open(target: &Target) -> Result<Ledger> {
    let mut ledger = Ledger::connect(target).await?;
    let migration = ledger.prepare().await?;
    // A first use is no news; taking over tables that were there is.
    if migration.has_moved() && migration.from.is_some() {
        tell(&migration);
    }
    Ok(ledger)
}

async fn init_step(target: &Target, args: InitStep) -> Result<String> {
    let execution = parse_id("execution id", &args.execution_id)?;
    let models = find_models(Path::new(&args.base_path), &args.model_patterns)?;
    tracing::debug!("{} models were found under {}", models.len(), args.base_path.display());
    Ok(line(open(target).await?.init_step(execution, args.step_name, &models).await?))
}

async fn compare_step_models(target: &Target, args: CompareStepModels) -> Result<String> {
    let step = parse_id("step id", &args.step_id)?;
    let previous = parse_optional_id("previous execution id", &args.previous_execution_id)?;
    let changed = open(target).await?.compare_step(step, previous).await?;
    listed(&changed, &args.names)
}

async fn compare_models(target: &Target, args: CompareModels) -> Result<String> {
    let previous = parse_optional_id("previous execution id", &args.previous_execution_id)?;
    let current = parse_id("current execution id", &args.current_execution_id)?;
    let changed = open(target).await?.compare_executions(previous, current, args.model_type).await?;
    listed(&changed, &args.names)
}

async fn complete_step(target: &Target, args: CompleteStep) -> Result<String> {
    let step = parse_id("step id", &args.step_id)?;
    let rows = args.rows().map(rows).transpose()?;
    let done = open(target).await?.complete_step(step, rows).await?;
    let rows = rows.map_or("N/A".to_owned(), |rows| rows.to_string());
    tracing::info!("Completed Execution Step: {step}; {}; Rows Processed: {rows}.", span(&done));
    Ok(String::new())
}

async fn complete_execution(target: &Target, id: &str) -> Result<String> {
    let execution = parse_id("execution id", id)?;
    let done = open(target).await?.complete_execution(execution).await?;
    if !done.open_steps.is_empty() {
        let open = done.open_steps.join(", ");
        tracing::warn!("the execution {execution} is completed, and these steps of it were not: {open}");
    }
    tracing::info!("Completed Execution ID: {execution}; {}.", span(&done));
    Ok(String::new())
}

async fn migrate(target: &Target, direction: Direction, revision: &str) -> Result<String> {
    let goal = Goal::parse(revision)?;
    tell(&Ledger::connect(target).await?.migrate(direction, &goal).await?);
    Ok(String::new())
}

fn tell(migration: &Migration) {
    if migration.has_moved() {
        tracing::info!("the schema moved from {} to {}", migration.from.unwrap_or("base"), migration.name());
    } else {
        tracing::info!("the schema is at {}", migration.name());
    }
}

/// A number that no BIGINT holds is refused like an id that is none; what is no number is a mistake of the command line.
fn rows(text: &str) -> Result<i64> {
    match text.trim().parse::<i64>() {
        Ok(rows) if rows >= 0 => Ok(rows),
        Ok(_) => Err(Error::refused(format!("rows-processed is {text}: a number of rows is not negative"))),
        Err(_) if is_number(text.trim()) => {
            Err(Error::refused(format!("rows-processed is {text}, and a BIGINT ends at {}", i64::MAX)))
        }
        Err(_) => Err(Error::usage(format!("rows-processed is {text:?}, and a whole number is expected"))),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+']);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The names in one line, or nothing. A name that holds the separator would be read as two.
fn listed(names: &[String], how: &Names) -> Result<String> {
    if names.is_empty() {
        return Ok(String::new());
    }
    if let Some(name) = names.iter().find(|name| !how.separator.is_empty() && name.contains(&how.separator)) {
        return Err(Error::refused(format!("the model {name:?} has the separator {:?} in its name", how.separator))
            .with_hint("choose another with --separator"));
    }
    Ok(line(names.join(&how.separator)))
}

/// As alembic lists them.
fn history(revisions: &[Revision]) -> String {
    let before = std::iter::once("<base>").chain(revisions.iter().map(|revision| revision.id));
    let mut lines: Vec<String> = before
        .zip(revisions)
        .map(|(before, Revision { id, summary, .. })| {
            let head = if revisions.last().is_some_and(|last| last.id == *id) { " (head)" } else { "" };
            format!("{before} -> {id}{head}, {summary}\n")
        })
        .collect();
    lines.reverse();
    lines.concat()
}

fn span(done: &Completion) -> String {
    let seconds = done.milliseconds / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "Started On: {}; Completed On: {}; Execution Time: {hours}h {minutes}m {seconds}s",
        done.started_on, done.completed_on
    )
}

fn line(text: impl std::fmt::Display) -> String {
    format!("{text}\n")
}
