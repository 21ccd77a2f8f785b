//! How schema plans look.

use std::fmt::Write as _;

use dpone_planner::schema::{Action, Decision, SchemaPlan};

use super::table::Table;
use super::units;
use crate::args::Format;
use crate::style::Style;

/// One line a change, then why, what to do about those that are not made, and the DDL.
pub(crate) fn plan(plan: &SchemaPlan, format: Format, style: Style) -> String {
    let mut out = String::new();
    let heading = format!("{} ({})", plan.table, plan.dialect);
    let _ = match format {
        Format::Md => writeln!(out, "# Schema plan: {heading}\n"),
        _ => writeln!(out, "{}", style.bold(&heading)),
    };
    if plan.actions.is_empty() {
        out.push_str("source and target agree: nothing to change\n");
        return out;
    }
    let mut table = Table::new(&["column", "change", "from", "to", "risk", "lock", "decision"]);
    let documents = plan.shapes();
    for (action, (source, target)) in plan.actions.iter().zip(documents) {
        let dtype =
            |shape: Option<&dpone_planner::schema::ColumnShape>| shape.map_or("-".to_owned(), |s| s.dtype.clone());
        table.row([
            action.column.clone(),
            action.change_type.as_str().to_owned(),
            dtype(target),
            dtype(source),
            action.risk_level.as_str().to_owned(),
            action.lock.clone().unwrap_or_else(|| "-".to_owned()),
            decision(action).to_owned(),
        ]);
    }
    out.push_str(&table.render(format, style));
    reasons(&mut out, plan, format, style);
    assumptions(&mut out, plan, format, style);
    ddl(&mut out, plan, format, style);
    verdict(&mut out, plan);
    out
}

fn decision(action: &Action) -> &'static str {
    match action.decision {
        Decision::Apply => "apply",
        Decision::Defer => "defer",
        Decision::ManualApproval => "manual_approval",
        Decision::Ignore => "ignore",
        Decision::Quarantine => "quarantine",
    }
}

fn section(out: &mut String, name: &str, format: Format, style: Style) {
    let _ = match format {
        Format::Md => writeln!(out, "\n## {name}\n"),
        _ => writeln!(out, "\n{}", style.bold(name)),
    };
}

fn reasons(out: &mut String, plan: &SchemaPlan, format: Format, style: Style) {
    section(out, "Why", format, style);
    let bullet = if format == Format::Md { "- " } else { "  " };
    for action in &plan.actions {
        let _ = writeln!(out, "{bullet}{} {}: {}", action.change_type.as_str(), action.column, action.reason);
        if matches!(action.decision, Decision::Defer | Decision::ManualApproval) {
            for step in &action.online_path {
                let _ = writeln!(out, "  {bullet}instead: {step}");
            }
        }
    }
}

/// What was assumed for any of the changes, once each.
fn assumptions(out: &mut String, plan: &SchemaPlan, format: Format, style: Style) {
    let mut sentences: Vec<&str> = Vec::new();
    for sentence in plan.actions.iter().flat_map(|action| &action.assumptions) {
        if !sentences.contains(&sentence.as_str()) {
            sentences.push(sentence);
        }
    }
    if sentences.is_empty() {
        return;
    }
    section(out, "Assumed", format, style);
    let bullet = if format == Format::Md { "- " } else { "  " };
    for sentence in sentences {
        let _ = writeln!(out, "{bullet}{sentence}");
    }
}

fn ddl(out: &mut String, plan: &SchemaPlan, format: Format, style: Style) {
    let applied: Vec<_> = plan.actions.iter().filter(|action| action.decision == Decision::Apply).collect();
    if applied.iter().all(|action| action.ddl.is_empty()) {
        return;
    }
    section(out, "DDL", format, style);
    if format == Format::Md {
        out.push_str("```sql\n");
    }
    for statement in applied.iter().flat_map(|action| &action.ddl) {
        let _ = writeln!(out, "{statement};");
    }
    if format == Format::Md {
        out.push_str("```\n");
    }
}

fn verdict(out: &mut String, plan: &SchemaPlan) {
    let blockers = plan.blockers();
    if blockers.is_empty() {
        out.push_str("\npassed: a run makes these changes before it loads\n");
        return;
    }
    let _ =
        writeln!(out, "\nblocked by {}: a run stops before it loads", units::several(blockers.len() as u64, "change"));
    for blocker in blockers {
        let _ = writeln!(out, "  {blocker}");
    }
}
