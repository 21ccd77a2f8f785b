//! What a run would do, for people.

use dpone_engine::backfill::PlannedBackfill;
use dpone_engine::run::Explanation;
use serde_json::Value;

use super::table::Table;
use super::units;
use crate::args::Format;
use crate::style::Style;

/// Chunks shown from each end of a long plan.
const SHOWN_CHUNKS: usize = 20;

/// The plan as text.
pub(crate) fn text(plan: &Explanation, style: Style) -> String {
    let mut page = Page { out: String::new(), style, markdown: false };
    page.out.push_str(&format!("{}\n", style.bold(&plan.pipeline)));
    page.sections(plan);
    page.out
}

/// The plan as Markdown.
pub(crate) fn markdown(plan: &Explanation) -> String {
    let mut page = Page { out: String::new(), style: Style::PLAIN, markdown: true };
    page.out.push_str(&format!("## {}\n", plan.pipeline));
    page.sections(plan);
    page.out
}

struct Page {
    out: String,
    style: Style,
    markdown: bool,
}

impl Page {
    fn sections(&mut self, plan: &Explanation) {
        self.facts(&facts(plan));
        self.list("warnings", &plan.warnings);
        if let Some(backfill) = &plan.backfill {
            self.backfill(backfill);
        }
        let reads = if plan.backfill.is_some() { "reads of the first chunk" } else { "reads" };
        self.numbered(reads, &plan.partitions);
        self.columns(plan);
        self.schema(plan);
        self.code("ddl", "sql", &plan.ddl.join("\n"));
        self.list("checks on the staged rows", &plan.checks);
        self.numbered("steps at the target", &plan.steps);
        self.code("query", "text", &plan.logical_plan);
        self.code("physical plan", "text", &plan.physical_plan);
        self.list("notes", &plan.notes);
    }

    fn facts(&mut self, facts: &[(&str, String)]) {
        if self.markdown {
            self.out.push_str("\n| | |\n|---|---|\n");
        }
        for (label, value) in facts {
            if self.markdown {
                self.out.push_str(&format!("| {label} | {} |\n", super::table::escape(value)));
            } else {
                let label = self.style.dim(format!("{label:<9}"));
                self.out.push_str(&format!("  {label}  {}\n", super::error::indented(value)));
            }
        }
    }

    fn heading(&mut self, title: &str) {
        if self.markdown {
            self.out.push_str(&format!("\n### {title}\n\n"));
        } else {
            self.out.push_str(&format!("\n  {}\n", self.style.bold(title)));
        }
    }

    fn list(&mut self, title: &str, items: &[String]) {
        if !items.is_empty() {
            self.heading(title);
            for item in items {
                self.item("-", item);
            }
        }
    }

    fn numbered(&mut self, title: &str, items: &[String]) {
        if !items.is_empty() {
            self.heading(title);
            for (i, item) in items.iter().enumerate() {
                self.item(&format!("{}.", i + 1), item);
            }
        }
    }

    fn item(&mut self, mark: &str, text: &str) {
        let indent = if self.markdown { "" } else { "    " };
        let next = format!("\n{indent}{}", " ".repeat(mark.len() + 1));
        self.out.push_str(&format!("{indent}{mark} {}\n", text.trim_end().replace('\n', &next)));
    }

    /// The chunks: all of a few, the ends of many.
    fn backfill(&mut self, backfill: &PlannedBackfill) {
        self.list("what is loaded", &backfill.scope);
        self.heading(&format!("chunks: {}", units::count(backfill.chunks.len() as u64)));
        let mut table = Table::new(&["chunk", "bounds", "status"]);
        let (total, most) = (backfill.chunks.len(), 2 * SHOWN_CHUNKS);
        for (i, chunk) in backfill.chunks.iter().enumerate() {
            if total > most && i == SHOWN_CHUNKS {
                table.row(["…".to_owned(), format!("{} more", total - most), String::new()]);
            }
            if total <= most || i < SHOWN_CHUNKS || i >= total - SHOWN_CHUNKS {
                table.row([chunk.id.as_str(), &chunk.label, chunk.status.as_str()]);
            }
        }
        let rendered =
            if self.markdown { table.render(Format::Md, self.style) } else { table.text(self.style, "    ") };
        self.out.push_str(&rendered);
    }

    fn columns(&mut self, plan: &Explanation) {
        if plan.columns.is_empty() {
            return;
        }
        self.heading("columns");
        let mut table = Table::new(&["name", "source type", "target type", "null", "travels"]);
        for column in &plan.columns {
            let null = if column.nullable { "yes" } else { "no" };
            let travels = if column.raw { "raw" } else { "arrow" };
            table.row([column.name.as_str(), &column.source_type, &column.target_type, null, travels]);
        }
        let rendered =
            if self.markdown { table.render(Format::Md, self.style) } else { table.text(self.style, "    ") };
        self.out.push_str(&rendered);
    }

    /// How source and target differ: what each difference costs, and what is done about it.
    fn schema(&mut self, plan: &Explanation) {
        let Some(document) = &plan.schema_plan else { return };
        let actions = document.pointer("/online_schema_evolution/actions").and_then(Value::as_array);
        let (mut differences, mut statements) = (Vec::new(), Vec::new());
        for action in actions.into_iter().flatten() {
            let text = |key: &str| action.get(key).and_then(Value::as_str).unwrap_or_default();
            let lock = match text("lock") {
                "" => String::new(),
                lock => format!(", lock {lock}"),
            };
            let pending = match text("approval_status") {
                "pending" => ", waits for approval",
                _ => "",
            };
            differences.push(format!(
                "{} {}: {}, {}{lock}{pending}: {}",
                text("change_type"),
                text("column"),
                text("risk_level"),
                text("decision"),
                text("reason")
            ));
            if matches!(text("decision"), "ignore" | "quarantine") {
                continue;
            }
            let ddl = action.get("ddl").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            statements.extend(ddl.map(str::to_owned));
        }
        self.list("differences between source and target", &differences);
        self.code("changes of the target", "sql", &statements.join("\n"));
        self.list("the run would stop", &plan.blockers);
    }

    fn code(&mut self, title: &str, language: &str, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        self.heading(title);
        if self.markdown {
            self.out.push_str(&format!("```{language}\n{}\n```\n", text.trim_end()));
        } else {
            for line in text.trim_end().lines() {
                self.out.push_str(&format!("    {line}\n"));
            }
        }
    }
}

fn facts(plan: &Explanation) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        (
            "strategy",
            match &plan.backfill {
                Some(backfill) => format!("{} ({})", plan.strategy, backfill.inner_mode),
                None => plan.strategy.clone(),
            },
        ),
        ("source", plan.source.clone()),
        ("target", format!("{} ({})", plan.target, if plan.target_exists { "exists" } else { "will be created" })),
        ("writes", format!("{}; {}", plan.write_mode, plan.visibility)),
    ];
    if let Some(rows) = plan.rows_estimate {
        facts.push(("expects", format!("about {}", units::rows(rows))));
    }
    if let Some(backfill) = &plan.backfill {
        facts.push(("campaign", format!("{}, {}", backfill.campaign.get(..12).unwrap_or_default(), backfill.status)));
        let step = backfill.step.as_deref().map(|step| format!(" by {step}")).unwrap_or_default();
        facts.push(("chunked", format!("{} ({}{step}, {})", backfill.column, backfill.kind, backfill.timezone)));
        let pace = backfill.throttle.as_deref().map(|throttle| format!("; {throttle}")).unwrap_or_default();
        facts.push(("workers", format!("{}{pace}", backfill.parallel_workers)));
        facts.push(("manifest", backfill.manifest.clone()));
    }
    facts.push(("state", plan.state.location.clone()));
    match &plan.state.position {
        Some(position) => facts.push(("loaded", position.clone())),
        None => {
            facts.push(("watermark", plan.state.watermark.as_ref().map_or("none".to_owned(), ToString::to_string)));
        }
    }
    if let Some(run) = &plan.state.last_run_id {
        let at = plan.state.last_committed_at.as_deref().map(|at| format!(", committed at {at}")).unwrap_or_default();
        facts.push(("last run", format!("{run}{at}")));
    }
    facts
}
