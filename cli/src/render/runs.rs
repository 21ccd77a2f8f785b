//! Runs for people: a list, one run in detail, and what its checksums say.

use std::collections::BTreeMap;

use dpone_engine::evidence::{PartitionStatus, PipelineRun, Pruned, StoredRun, Verification};

use super::table::{Table, visible_lines};
use super::units;
use crate::args::Format;
use crate::commands::runs::Listed;
use crate::style::Style;

/// `2026-01-02 03:04:05`, UTC.
fn time(text: &str) -> String {
    text.get(..19).unwrap_or(text).replace('T', " ")
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map(units::seconds).unwrap_or_default()
}

/// Partitions that a page names; the document has all of them.
const SHOWN: usize = 20;

/// What failed, in one line.
fn trouble(run: &Listed) -> String {
    let first = |text: &String| text.lines().next().unwrap_or_default().chars().take(100).collect::<String>();
    match (&run.error, &run.stage) {
        (Some(error), _) => format!("{}: {}", run.error_class.as_deref().unwrap_or("unknown"), first(error)),
        (None, Some(stage)) if run.status == "killed" || run.status == "running" => format!("in stage {stage}"),
        _ => String::new(),
    }
}

pub(crate) fn table(listed: &[Listed]) -> Table {
    let header =
        ["started (UTC)", "run", "pipeline", "status", "took", "read", "inserted", "updated", "deleted", "what"];
    let mut table = Table::new(&header).right(4).right(5).right(6).right(7).right(8);
    for run in listed {
        table.row([
            time(&run.started_at),
            run.run_id.clone(),
            run.pipeline.clone(),
            run.status.clone(),
            seconds(run.seconds),
            units::count(run.rows_read),
            units::count(run.rows_inserted),
            units::count(run.rows_updated),
            units::count(run.rows_deleted),
            trouble(run),
        ]);
    }
    table
}

/// One run with all that its evidence says.
pub(crate) fn details(stored: &StoredRun, rows: &[Listed], format: Format, style: Style) -> String {
    let head = &stored.document.head;
    let status = if stored.killed { "killed" } else { head.status.as_str() };
    let mut lines = vec![
        format!("run {}: {status}", style.bold(&head.run_id)),
        format!("started {} UTC on {} (process {})", time(&head.started_at), head.host, head.process_id),
    ];
    if let Some(finished) = &head.finished_at {
        lines.push(format!("finished {} UTC", time(finished)));
    }
    if let Some(execution) = &head.execution_id {
        lines.push(format!("execution {execution}"));
    }
    lines.push(format!("evidence {}", stored.path.display()));
    lines.extend(head.command_notes.iter().map(|note| format!("note: {note}")));
    let mut out =
        if format == Format::Md { format!("- {}\n", lines.join("\n- ")) } else { format!("{}\n", lines.join("\n")) };
    out.push('\n');
    out.push_str(&table(rows).render(format, style));
    for (run, row) in stored.document.runs.iter().zip(rows) {
        out.push_str(&format!(
            "\n{}\n",
            if format == Format::Md { format!("### {}", run.process) } else { style.bold(&run.process) }
        ));
        for line in pipeline(run, row) {
            let line = visible_lines(&line);
            out.push_str(&if format == Format::Md { format!("- {line}\n") } else { format!("  {line}\n") });
        }
    }
    for left in &stored.document.not_run {
        out.push_str(&format!("\nnot run: {} ({})\n", left.process, left.reason));
    }
    out
}

fn pipeline(run: &PipelineRun, row: &Listed) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(plan) = &run.plan {
        lines.push(format!("{}: {} into {}", plan.strategy, plan.source, plan.target));
        if let Some(after) = &plan.watermark_after {
            lines.push(format!("watermark {} -> {after}", plan.watermark_before.as_deref().unwrap_or("none")));
        }
    }
    if row.status == "killed" {
        let stage = run.stage.map_or("it began", |stage| stage.as_str());
        lines.push(format!("killed: the last stage that it reached is {stage}"));
        let running = run.partitions.iter().filter(|p| p.status == PartitionStatus::Running);
        let ids: Vec<&str> = running.map(|p| p.id.as_str()).take(SHOWN).collect();
        if !ids.is_empty() {
            lines.push(format!("at work on: {}", ids.join(", ")));
        }
    }
    let mut stages: Vec<String> = Vec::new();
    for stage in &run.stages {
        let took = stage.seconds.map_or_else(|| "not ended".to_owned(), units::seconds);
        stages.push(format!("{} {took}", stage.stage.as_str()));
    }
    if !stages.is_empty() {
        lines.push(format!("stages: {}", stages.join(", ")));
    }
    if !run.partitions.is_empty() {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for partition in &run.partitions {
            *counts.entry(partition.status.as_str()).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        lines.push(format!("partitions: {}", counts.join(", ")));
    }
    for retry in &run.retries {
        lines.push(format!(
            "attempt {} failed ({}): {}; tried again after {:.1} s",
            retry.attempt, retry.error_class, retry.message, retry.wait_seconds
        ));
    }
    if let Some(error) = &run.error {
        lines.push(format!("error ({}): {}", error.kind, error.message.replace('\n', "\n    ")));
        lines.extend(error.hint.iter().map(|hint| format!("hint: {}", hint.replace('\n', "\n    "))));
    }
    lines.extend(run.notes.iter().map(|note| format!("note: {note}")));
    lines
}

pub(crate) fn verification(found: &Verification, style: Style) -> String {
    if found.passed {
        let files = units::several(found.files as u64, "file");
        return style.green(format!("{}: {files} as they were written", found.run_id));
    }
    let mut out = style.red(format!("{}: the evidence is not what was written", found.run_id));
    for difference in &found.differences {
        let what = match difference.what {
            "unsealed" => "is missing: the run goes on, or was killed",
            "unreadable" => "cannot be read",
            "changed" => "was changed",
            "missing" => "is missing",
            _ => "was added",
        };
        out.push_str(&format!("\n  {} {what}", visible_lines(&difference.path)));
    }
    out
}

pub(crate) fn pruned(pruned: &Pruned, format: Format, style: Style) -> String {
    let done = if pruned.dry_run { "would be removed" } else { "removed" };
    let count = pruned.removed.len() as u64;
    let verdict = format!(
        "{} {done}, {}; {} kept",
        units::several(count, "run"),
        units::bytes(pruned.bytes),
        units::several(pruned.kept as u64, "run")
    );
    if count == 0 {
        return verdict;
    }
    let mut table = Table::new(&["run", "started (UTC)", "size"]).right(2);
    for run in &pruned.removed {
        table.row([run.run_id.clone(), time(&run.started_at), units::bytes(run.bytes)]);
    }
    format!("{}\n{verdict}", table.render(format, style).trim_end_matches('\n'))
}
