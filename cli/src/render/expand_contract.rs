//! How expand-contract plans and their phases look.

use std::fmt::Write as _;

use dpone_engine::schema::MigrationReport;
use dpone_planner::schema::expand_contract::{ExpandContract, Phase, StepDecision};

use super::table::{escape, visible, visible_lines};
use crate::args::Format;
use crate::style::Style;

/// Phase by phase: what is done, by whom, and the SQL.
pub(crate) fn plan(document: &ExpandContract, format: Format, style: Style) -> String {
    let mut out = String::new();
    let heading = visible(&format!("{} ({})", document.table, document.dialect));
    let _ = match format {
        Format::Md => writeln!(out, "# Expand-contract: {}\n", escape(&heading)),
        _ => writeln!(out, "{}", style.bold(heading)),
    };
    if document.actions.is_empty() {
        out.push_str("nothing to migrate: a run makes every change by itself\n");
    }
    for phase in [Phase::Expand, Phase::Backfill, Phase::Validate, Phase::Contract, Phase::Rollback] {
        let actions: Vec<_> = document.actions.iter().filter(|action| action.phase == phase).collect();
        if actions.is_empty() {
            continue;
        }
        let _ = match format {
            Format::Md => writeln!(out, "\n## {}", phase.as_str()),
            _ => writeln!(out, "\n{}", style.bold(phase.as_str())),
        };
        for action in actions {
            let by = match action.decision {
                StepDecision::Apply => "",
                StepDecision::Manual => " (manual)",
            };
            let line = visible(&format!("{} {}{by}: {}", action.change_type, action.column, action.guidance));
            let _ = match format {
                Format::Md => writeln!(out, "\n{}\n", escape(&line)),
                _ => writeln!(out, "  {line}"),
            };
            if action.ddl.is_empty() {
                continue;
            }
            let sql: String = action.ddl.iter().map(|statement| format!("{};\n", visible_lines(statement))).collect();
            if format == Format::Md {
                let _ = write!(out, "```sql\n{sql}```\n");
            } else {
                sql.lines().for_each(|line| {
                    let _ = writeln!(out, "    {line}");
                });
            }
        }
    }
    let _ = writeln!(out, "\nwritten to {}", visible(&document.artifact_path));
    out
}

/// What a phase did.
pub(crate) fn report(report: &MigrationReport, format: Format, style: Style) -> String {
    let mut out = String::new();
    let way = if report.rollback { " rolled back" } else { "" };
    let heading = visible(&format!("{}: {}{way}", report.table, report.phase.as_str()));
    let _ = match format {
        Format::Md => writeln!(out, "# {}\n", escape(&heading)),
        _ => writeln!(out, "{}", style.bold(heading)),
    };
    for step in &report.steps {
        let _ = writeln!(out, "- {}: {}", visible(&step.column), step.stage);
        if step.done.is_empty() {
            out.push_str("  nothing was left to do\n");
        }
        for line in step.done.iter().chain(&step.notes) {
            let _ = writeln!(out, "  {}", visible(line));
        }
        if let Some(ms) = step.longest_batch_ms {
            let _ = writeln!(out, "  longest batch: {ms} ms");
        }
    }
    out
}
