//! `dpone runs`: what ran, from the evidence of runs and from the ledger.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use dpone_engine::evidence::{PipelineRun, StoredRun, Verification};
use dpone_engine::{Error, Result};
use dpone_ledger::{RunRecord, RunState};
use serde::Serialize;
use serde_json::json;

use crate::args::{Format, OutputArgs, When, parse_positive};
use crate::exit::Exit;
use crate::recording::{LedgerArgs, RunsDirArgs, reachable};
use crate::render::runs as shown;
use crate::style::Style;
use crate::{output, render};

/// What ran, when, how long, how many rows, and what failed.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the runs, newest first: those with evidence in this folder, and those that only the ledger knows
    List {
        /// Only runs of this pipeline
        #[arg(long, value_name = "NAME")]
        pipeline: Option<String>,
        /// Only what did not end well: failed, interrupted or killed
        #[arg(long)]
        failed: bool,
        /// How many at most
        #[arg(long, value_name = "N", default_value = "20", value_parser = parse_positive)]
        limit: usize,
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one run: its stages, partitions, retries and errors
    Show {
        /// The run id, its beginning where that is enough, or `last`
        #[arg(value_name = "RUN_ID")]
        run_id: String,
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Compare the evidence of a run with its checksums: fails when a file was changed, added or removed
    Verify {
        /// The run id, its beginning where that is enough, or `last`
        #[arg(value_name = "RUN_ID")]
        run_id: String,
        #[command(flatten)]
        runs_dir: RunsDirArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove the evidence of old runs. With both limits a run goes that is beyond both. Runs that go on stay, and what the
    /// ledger knows stays
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Keep this many runs, the newest
    #[arg(long, value_name = "N", required_unless_present = "older_than")]
    keep: Option<usize>,
    /// Remove runs that began longer ago, such as 30d, 12h, 90m, 45s or 2w
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<TimeDelta>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    runs_dir: RunsDirArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `30d`: a whole number of weeks, days, hours, minutes or seconds.
fn parse_age(text: &str) -> Result<TimeDelta, String> {
    let expected = || "expected an age such as 30d, 12h, 90m, 45s or 2w".to_owned();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let number = text.strip_suffix(unit).filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let number = number.and_then(|n| n.parse::<i64>().ok()).ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(expected()),
    };
    // Longer than a calendar reaches is as good as never.
    number.checked_mul(seconds).and_then(TimeDelta::try_seconds).ok_or_else(expected)
}

#[derive(Debug, Args)]
struct PlaceArgs {
    #[command(flatten)]
    runs_dir: RunsDirArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
}

impl RunsArgs {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::List { output, .. } | Verb::Show { output, .. } | Verb::Verify { output, .. } => output.format,
            Verb::Prune(args) => args.output.format,
        }
    }
}

/// One pipeline of one run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Listed {
    pub(crate) run_id: String,
    pub(crate) execution_id: Option<String>,
    pub(crate) pipeline: String,
    /// As in the evidence; `killed` where the process is gone and did not say how it ended.
    pub(crate) status: String,
    pub(crate) passed: bool,
    /// Where it is, or stopped.
    pub(crate) stage: Option<String>,
    pub(crate) started_at: String,
    pub(crate) finished_at: Option<String>,
    pub(crate) seconds: Option<f64>,
    pub(crate) rows_read: u64,
    pub(crate) rows_inserted: u64,
    pub(crate) rows_updated: u64,
    pub(crate) rows_deleted: u64,
    pub(crate) bytes: u64,
    pub(crate) attempts: u32,
    pub(crate) error_class: Option<String>,
    pub(crate) error: Option<String>,
    /// `evidence` or `ledger`
    pub(crate) known_from: &'static str,
}

pub(crate) async fn runs(args: RunsArgs, color: When) -> Result<Exit> {
    let style = Style::for_stdout(color);
    match args.verb {
        Verb::List { pipeline, failed, limit, place, output } => {
            let mut listed = all(&place, limit, Style::for_stderr(color)).await?;
            listed.retain(|run| pipeline.as_ref().is_none_or(|name| run.pipeline == *name));
            listed.retain(|run| !failed || !(run.passed || run.status == "running"));
            listed.truncate(limit);
            list(&listed, output.format, style)?;
            Ok(Exit::Done)
        }
        Verb::Show { run_id, place, output } => show(&run_id, &place, output.format, style).await,
        Verb::Verify { run_id, runs_dir, output } => {
            let found = runs_dir.runs()?.verify(&run_id)?;
            verified(&found, output.format, style)?;
            Ok(if found.passed { Exit::Done } else { Exit::Failed })
        }
        Verb::Prune(args) => prune(&args, style, Style::for_stderr(color)),
    }
}

fn prune(args: &PruneArgs, style: Style, stderr: Style) -> Result<Exit> {
    let before = args.older_than.map(|age| {
        Utc::now().checked_sub_signed(age).ok_or_else(|| {
            Error::configuration("--older-than reaches further back than the calendar").with_hint("give fewer days")
        })
    });
    let (pruned, unread) = args.runs_dir.runs()?.prune(args.keep, before.transpose()?, args.dry_run)?;
    for error in unread {
        render::error::warn(&format!("{error}; it is left as it is"), stderr);
    }
    if args.output.format == Format::Json {
        output::print_json(&serde_json::to_value(&pruned).map_err(|e| Error::internal(e.to_string()))?)?;
    } else {
        output::print(&shown::pruned(&pruned, args.output.format, style))?;
    }
    Ok(Exit::Done)
}

/// Every pipeline of every run, newest first. What the ledger and the evidence both know is listed once.
async fn all(place: &PlaceArgs, limit: usize, stderr: Style) -> Result<Vec<Listed>> {
    let (stored, unread) = place.runs_dir.runs()?.list()?;
    for error in unread {
        render::error::warn(&error.to_string(), stderr);
    }
    let mut listed: Vec<Listed> = stored.iter().flat_map(of_evidence).collect();
    let known = |run: &RunRecord, listed: &[Listed]| {
        listed.iter().any(|l| l.run_id == run.run_id && l.pipeline == run.pipeline && l.started_at == run.started_on)
    };
    let recorded = match place.ledger.look().await {
        Ok(Some(mut ledger)) => reachable(ledger.runs(None, limit.saturating_mul(2).max(1000))).await?,
        Ok(None) => Vec::new(),
        Err(error) if place.ledger.is_explicit() => return Err(error),
        Err(error) => {
            render::error::warn(&error.to_string(), stderr);
            Vec::new()
        }
    };
    let more: Vec<Listed> = recorded.iter().filter(|run| !known(run, &listed)).map(of_ledger).collect();
    listed.extend(more);
    listed.sort_by(|a, b| b.started_at.cmp(&a.started_at).then_with(|| a.pipeline.cmp(&b.pipeline)));
    Ok(listed)
}

fn of_evidence(stored: &StoredRun) -> Vec<Listed> {
    stored.document.runs.iter().map(|run| of_pipeline(stored, run)).collect()
}

fn of_pipeline(stored: &StoredRun, run: &PipelineRun) -> Listed {
    let killed = stored.killed && run.finished_at.is_none();
    let until = run.finished_at.as_deref().or(killed.then_some(stored.document.head.updated_at.as_str()));
    let staged = run.finished_at.is_none().then_some(run.staged);
    Listed {
        run_id: run.run_id.clone(),
        execution_id: stored.document.head.execution_id.clone(),
        pipeline: run.process.clone(),
        status: if killed { "killed" } else { run.status.as_str() }.to_owned(),
        passed: run.passed,
        stage: run.stage.map(|stage| stage.as_str().to_owned()),
        started_at: run.started_at.clone(),
        finished_at: run.finished_at.clone(),
        seconds: until.and_then(|until| between(&run.started_at, until)),
        rows_read: staged.map_or(run.result.extracted_rows, |staged| staged.rows),
        rows_inserted: run.result.inserted_rows,
        rows_updated: run.result.updated_rows,
        rows_deleted: run.result.deleted_rows,
        bytes: staged.map_or(run.result.bytes, |staged| staged.bytes),
        attempts: run.attempts,
        error_class: run.result.error_class.clone(),
        error: run.error.as_ref().map(|error| error.message.clone()),
        known_from: "evidence",
    }
}

fn of_ledger(run: &RunRecord) -> Listed {
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    Listed {
        run_id: run.run_id.clone(),
        execution_id: Some(run.execution.to_string()),
        pipeline: run.pipeline.clone(),
        status: match run.state {
            RunState::Running => "running",
            RunState::Succeeded => "committed",
            RunState::Failed => "failed",
        }
        .to_owned(),
        passed: run.state == RunState::Succeeded,
        stage: None,
        started_at: run.started_on.clone(),
        finished_at: run.completed_on.clone(),
        seconds: run.completed_on.as_deref().and_then(|end| between(&run.started_on, end)),
        rows_read: number(run.rows_read),
        rows_inserted: number(run.rows_inserted),
        rows_updated: number(run.rows_updated),
        rows_deleted: number(run.rows_deleted),
        bytes: number(run.bytes),
        attempts: u32::try_from(run.attempts).unwrap_or(0),
        error_class: run.error_class.clone(),
        error: run.error_message.clone(),
        known_from: "ledger",
    }
}

fn between(start: &str, end: &str) -> Option<f64> {
    let time = |text: &str| DateTime::parse_from_rfc3339(text).ok();
    let passed = time(end)?.signed_duration_since(time(start)?);
    Some(passed.as_seconds_f64().max(0.0))
}

fn list(listed: &[Listed], format: Format, style: Style) -> Result<()> {
    if format == Format::Json {
        return output::print_json(&json!({ "runs": listed }));
    }
    if listed.is_empty() {
        return output::print("no run is known here");
    }
    output::print(&shown::table(listed).render(format, style))
}

async fn show(run_id: &str, place: &PlaceArgs, format: Format, style: Style) -> Result<Exit> {
    let absent = match place.runs_dir.runs()?.find(run_id) {
        Ok(stored) => {
            if format == Format::Json {
                let mut document = stored.document.to_value()?;
                document["killed"] = stored.killed.into();
                output::print_json(&document)?;
            } else {
                let rows: Vec<Listed> = of_evidence(&stored);
                output::print(&shown::details(&stored, &rows, format, style))?;
            }
            return Ok(Exit::Done);
        }
        Err(error) => error,
    };
    // Evidence is on the machine that ran it; the ledger may be everybody's.
    let Some(mut ledger) = place.ledger.look().await? else { return Err(absent) };
    let recorded = reachable(ledger.runs(None, usize::MAX)).await?;
    let rows: Vec<Listed> = recorded.iter().filter(|run| run.run_id == run_id).map(of_ledger).collect();
    if rows.is_empty() {
        return Err(absent);
    }
    list(&rows, format, style)?;
    Ok(Exit::Done)
}

fn verified(found: &Verification, format: Format, style: Style) -> Result<()> {
    if format == Format::Json {
        let document = serde_json::to_value(found).map_err(|e| Error::internal(e.to_string()))?;
        return output::print_json(&document);
    }
    output::print(&shown::verification(found, style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_a_number_and_a_unit() {
        for (text, seconds) in [("30d", 2_592_000), ("12h", 43_200), ("90m", 5400), ("45s", 45), ("2w", 1_209_600)] {
            assert_eq!(parse_age(text).map(|age| age.num_seconds()), Ok(seconds), "{text}");
        }
        for wrong in ["", "d", "30", "-1d", "+1d", "1.5h", "30 d", "1y", "30D", "99999999999999999999d", "ü"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }
}
