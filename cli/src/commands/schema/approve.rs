//! `dpone schema approve`: somebody's word that the changes of a ledger artifact may be applied.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use dpone_engine::schema::{ApprovalRequest, Approvals, Approved, DEFAULT_APPROVALS, SigningKey};
use dpone_engine::{Error, Result};
use serde_json::json;

use crate::args::{Format, OutputArgs, When};
use crate::exit::Exit;
use crate::render::table::visible;
use crate::style::Style;
use crate::{output, render};

/// Approve the changes of a ledger artifact: this plan, on this catalog, for a time.
///
/// A run with the same plan finds the approval in its approvals_path. Where the table, its dependents or the server has
/// changed since, the approval is void and the run says so.
#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The artifact: a schema_change_<run>_<hash>.json that a run has written
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Who takes responsibility
    #[arg(long, value_name = "WHO")]
    approver: String,
    /// Why, for those who read the approval later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Where the approval is written: the approvals_path of runs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_APPROVALS)]
    output_dir: PathBuf,
    /// How long it holds, such as 90m, 12h, 7d or 2w
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_span)]
    expires_in: TimeDelta,
    /// Begin of a maintenance window, such as 2026-05-01T22:00:00Z: it does not hold before
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    not_before: Option<DateTime<Utc>>,
    /// End of a maintenance window: it does not hold from then on
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "expires_in")]
    not_after: Option<DateTime<Utc>>,
    /// Sign it with this Ed25519 key: PEM, as `openssl genpkey -algorithm ed25519` writes it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn approve(args: &ApproveArgs, color: When) -> Result<Exit> {
    let key = args.key.as_deref().map(SigningKey::read).transpose()?;
    let now = Utc::now();
    let begin = args.not_before.unwrap_or(now);
    let too_far = || Error::configuration("--expires-in ends after all time");
    let end = match args.not_after {
        Some(end) => end,
        None => begin.checked_add_signed(args.expires_in).ok_or_else(too_far)?,
    };
    let request = ApprovalRequest {
        ledger: &args.ledger,
        approver: &args.approver,
        reason: args.reason.as_deref(),
        not_before: args.not_before,
        expires_at: Some(end),
        key: key.as_ref(),
    };
    let approved = Approvals::open(&args.output_dir).approve(&request, now)?;
    for warning in &approved.warnings {
        render::error::warn(warning, Style::for_stderr(color));
    }
    match args.output.format {
        Format::Json => output::print_json(&document(&approved)?)?,
        format => output::print(&page(&approved, format, Style::for_stdout(color)))?,
    }
    Ok(Exit::Done)
}

fn document(approved: &Approved) -> Result<serde_json::Value> {
    let mut document = serde_json::to_value(&approved.approval)
        .map_err(|error| Error::internal(format!("an approval cannot be written: {error}")))?;
    document["artifact_path"] = json!(approved.artifact_path);
    document["warnings"] = json!(approved.warnings);
    Ok(document)
}

fn page(approved: &Approved, format: Format, style: Style) -> String {
    let approval = &approved.approval;
    let signed = approval.signature.as_ref().map(|s| format!("{} {}", s.algorithm, s.public_key));
    let mut facts = vec![
        ("approved by", approval.approver.clone()),
        ("table", format!("{} ({})", approval.table, approval.dialect)),
        ("changes", approval.schema_change_ids.join(", ")),
        ("holds until", approval.expires_at.clone()),
        ("signed", signed.unwrap_or_else(|| "no".to_owned())),
        ("written to", approved.artifact_path.display().to_string()),
    ];
    if let Some(begin) = &approval.not_before {
        facts.insert(3, ("holds from", begin.clone()));
    }
    if let Some(reason) = &approval.reason {
        facts.insert(1, ("reason", reason.clone()));
    }
    let lines = facts.iter().map(|(name, value)| match format {
        Format::Md => format!("- {name}: {}\n", render::table::escape(&visible(value))),
        _ => format!("{name:>12}: {}\n", visible(value)),
    });
    let title = match format {
        Format::Md => format!("# Approval {}\n\n", approval.approval_id),
        _ => format!("{}\n", style.bold(&approval.approval_id)),
    };
    title + &lines.collect::<String>()
}

/// `90m`, `12h`, `7d`, `2w`, `30s`.
fn parse_span(text: &str) -> Result<TimeDelta, String> {
    let expected = || "expected a time such as 90m, 12h, 7d or 2w".to_owned();
    let (number, seconds) = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or_else(expected)?;
    let number: u32 = number.parse().map_err(|_| expected())?;
    match TimeDelta::try_seconds(i64::from(number) * seconds) {
        Some(span) if number > 0 => Ok(span),
        _ => Err(expected()),
    }
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.with_timezone(&Utc))
        .map_err(|_| "expected a time with its zone, such as 2026-05-01T22:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(parse_span("7d").unwrap(), TimeDelta::days(7));
        assert_eq!(parse_span("90m").unwrap(), TimeDelta::minutes(90));
        for wrong in ["", "d", "7", "-1d", "0d", "1.5h", "7 d", "99999999999w"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
        assert!(parse_time("2026-05-01T22:00:00").is_err());
        assert_eq!(parse_time("2026-05-01T22:00:00+02:00").unwrap().to_rfc3339(), "2026-05-01T20:00:00+00:00");
    }
}
