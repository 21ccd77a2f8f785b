//! How far a backfill is, and what a run of it did.

use dpone_engine::Error;
use dpone_engine::backfill::{CampaignReport, ChunkCount, Partition, PartitionManifest, PartitionStatus};
use serde_json::{Value, json};

use super::table::Table;
use super::units;
use crate::args::Format;
use crate::style::Style;

/// Failed chunks that a page lists; the manifest has all of them.
const SHOWN: usize = 20;

/// The manifest for machines: as it is stored, with its counts.
pub(crate) fn manifest(manifest: &PartitionManifest) -> Value {
    let mut document = json!(manifest);
    document["summary"] = manifest.summary().into();
    document["status"] = manifest.summary().into();
    document["counts"] = json!(manifest.counts());
    document
}

/// What a run did.
pub(crate) fn document(report: &CampaignReport) -> Value {
    let mut document = json!({
        "pipeline": report.manifest.pipeline,
        "campaign": report.manifest.campaign,
        "backfill_id": report.manifest.backfill_id,
        "passed": report.error().is_none(),
        "status": report.status(),
        "inner_mode": report.manifest.inner_mode,
        "source": report.manifest.source,
        "target": report.manifest.target,
        "chunks": report.counts,
        "run": {
            "loaded": report.loaded,
            "found_committed": report.found_committed,
            "failed": report.failures.len(),
            "rows": report.rows,
            "bytes": report.bytes,
            "seconds": report.seconds,
            "rows_per_second":
                (report.seconds > 0.0).then(|| report.rows.extracted as f64 / report.seconds),
            "started_at": report.started_at,
        },
        "failures": report.failures.iter().map(|failure| json!({
            "id": failure.id,
            "bounds": failure.bounds,
            "error": super::error::document(&failure.error),
        })).collect::<Vec<_>>(),
        "manifest": report.place,
        "notes": report.notes,
    });
    if let Some(error) = report.error() {
        document["error"] = super::error::document(&error);
    }
    document
}

pub(crate) fn report(report: &CampaignReport, format: Format, style: Style) -> String {
    let verdict = match report.status() {
        "done" => style.green(format!("done in {}", units::seconds(report.seconds))),
        other => style.red(other),
    };
    let mut lines = vec![
        ("chunks", chunks(&report.manifest)),
        (
            "this run",
            format!(
                "{} loaded, {} found committed, {} failed",
                report.loaded,
                report.found_committed,
                report.failures.len()
            ),
        ),
    ];
    let mut read = units::rows(report.rows.extracted);
    if let Some(rate) = units::rate(report.rows.extracted, report.seconds) {
        read.push_str(&format!(", {rate}"));
    }
    lines.push(("read", read));
    let rows = &report.rows;
    lines.push((
        "written",
        format!(
            "{} inserted, {} updated, {} deleted, {} unchanged",
            units::count(rows.inserted),
            units::count(rows.updated),
            units::count(rows.deleted),
            units::count(rows.unchanged)
        ),
    ));
    lines.push(("manifest", report.place.clone()));
    lines.extend(report.notes.iter().map(|note| ("note", note.clone())));
    let title = format!("backfill ({}) into {}", report.manifest.inner_mode, report.manifest.target);
    head(&report.manifest.pipeline, &title, &verdict, &lines, format, style)
}

fn head(pipeline: &str, title: &str, verdict: &str, lines: &[(&str, String)], format: Format, style: Style) -> String {
    if format == Format::Md {
        let mut out = format!("### {pipeline}: {title}\n\n| | |\n|---|---|\n| status | {verdict} |\n");
        for (label, value) in lines {
            out.push_str(&format!("| {label} | {} |\n", super::table::escape(value)));
        }
        return out;
    }
    let mut out = format!("{}  {title}  {verdict}\n", style.bold(pipeline));
    for (label, value) in lines {
        out.push_str(&format!("  {}  {}\n", style.dim(format!("{label:<9}")), super::error::indented(value)));
    }
    out
}

/// `12 of 260 committed, 1 failed, 247 pending`
fn chunks(manifest: &PartitionManifest) -> String {
    let counts = manifest.counts();
    let mut text = format!("{} of {} committed", counts.success, counts.total);
    let rest = [
        (counts.failed, "failed"),
        (counts.running, "running"),
        (counts.pending, "pending"),
        (counts.skipped, "skipped"),
    ];
    for (n, what) in rest {
        if n > 0 {
            text.push_str(&format!(", {n} {what}"));
        }
    }
    text
}

/// `dpone backfill status`
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) manifest: PartitionManifest,
    pub(crate) begun: bool,
    pub(crate) place: String,
    /// Other campaigns of the pipeline: other sources or definitions.
    pub(crate) others: Vec<PartitionManifest>,
}

impl Status {
    pub(crate) fn document(&self) -> Value {
        let mut document = manifest(&self.manifest);
        if !self.begun {
            document["summary"] = "not begun".into();
            document["status"] = "not begun".into();
        }
        document["begun"] = self.begun.into();
        document["manifest"] = self.place.clone().into();
        document["rows_per_second"] = self.rate().into();
        let other = |other: &PartitionManifest| {
            json!({
                "campaign": other.campaign,
                "backfill_id": other.backfill_id,
                "summary": other.summary(),
                "counts": other.counts(),
                "created_at": other.created_at,
            })
        };
        document["other_campaigns"] = self.others.iter().map(other).collect::<Vec<_>>().into();
        document
    }

    /// Rows a second of a worker, over the chunks that are done.
    fn rate(&self) -> Option<f64> {
        let counts = self.manifest.counts();
        (counts.seconds > 0.0 && counts.extracted_rows > 0).then(|| counts.extracted_rows as f64 / counts.seconds)
    }

    pub(crate) fn page(&self, format: Format, style: Style) -> String {
        let manifest = &self.manifest;
        let counts = manifest.counts();
        let summary = if self.begun { manifest.summary() } else { "not begun" };
        let verdict = match summary {
            "done" => style.green(summary),
            "failed" | "cancelled" => style.red(summary),
            _ => style.yellow(summary),
        };
        let mut lines = vec![("chunks", chunks(manifest))];
        if counts.success > 0 {
            let mut rows =
                format!("{} read, {} loaded", units::rows(counts.extracted_rows), units::count(counts.loaded_rows));
            if let Some(rate) = units::rate(counts.extracted_rows, counts.seconds) {
                rows.push_str(&format!(", {rate} a worker"));
            }
            lines.push(("rows", rows));
        }
        let ranged = || manifest.partitions.iter().filter(|p| !p.null_values);
        if let (Some(first), Some(last)) = (ranged().next(), ranged().next_back())
            && let (Some(from), Some(to)) = (&first.lower, &last.upper)
        {
            let end = if last.inclusive_upper { "to" } else { "to before" };
            lines.push(("range", format!("{} from {from} {end} {to}", manifest.column)));
        }
        lines.push(("campaign", campaign(manifest)));
        lines.push(("manifest", self.place.clone()));
        for other in &self.others {
            let counts = other.counts();
            lines.push((
                "earlier",
                format!("{}: {}, {} of {} chunks", campaign(other), other.summary(), counts.success, counts.total),
            ));
        }
        let title = format!("backfill ({}) into {}", manifest.inner_mode, manifest.target);
        let mut out = head(&manifest.pipeline, &title, &verdict, &lines, format, style);
        out.push_str(&self.table(format, style));
        out
    }

    /// The chunks that somebody has to look at, or wait for.
    fn table(&self, format: Format, style: Style) -> String {
        let of_note: Vec<&Partition> = self
            .manifest
            .partitions
            .iter()
            .filter(|p| matches!(p.status, PartitionStatus::Failed | PartitionStatus::Running))
            .collect();
        if of_note.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["chunk", "bounds", "status", "attempts", "what"]).right(3);
        for partition in of_note.iter().take(SHOWN) {
            let what = match (&partition.lease, &partition.last_error) {
                (Some(lease), _) => format!("{} until {}", lease.holder, lease.expires_at),
                (None, Some(error)) => error.lines().next().unwrap_or_default().to_owned(),
                (None, None) => String::new(),
            };
            table.row([
                partition.id.clone(),
                bounds(partition),
                partition.status.as_str().to_owned(),
                partition.attempts.to_string(),
                what,
            ]);
        }
        let mut out = format!("\n{}", table.render(format, style));
        if of_note.len() > SHOWN {
            out.push_str(&format!("and {} more: --format json has all of them\n", of_note.len() - SHOWN));
        }
        out
    }
}

/// `dpone backfill verify`
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) campaign: String,
    pub(crate) pipeline: String,
    pub(crate) chunks: Vec<ChunkCount>,
}

impl Verified {
    fn differing(&self) -> impl Iterator<Item = &ChunkCount> {
        self.chunks.iter().filter(|chunk| !chunk.agrees())
    }

    /// What the command ends with when chunks differ.
    pub(crate) fn error(&self) -> Option<Error> {
        let differing = self.differing().count();
        (differing > 0).then(|| {
            Error::data_quality(format!(
                "{differing} of {} committed chunks do not have as many rows in the target as in the source",
                self.chunks.len()
            ))
            .with("pipeline", &self.pipeline)
            .with_hint(
                "rows came into the source after their chunk was loaded, or the target has rows of its own there: load \
                 that range again with inner_mode replace",
            )
        })
    }

    pub(crate) fn document(&self) -> Value {
        let mut document = json!({
            "pipeline": self.pipeline,
            "campaign": self.campaign,
            "passed": self.differing().count() == 0,
            "chunks": self.chunks,
        });
        if let Some(error) = self.error() {
            document["error"] = super::error::document(&error);
        }
        document
    }

    pub(crate) fn page(&self, format: Format, style: Style) -> String {
        let rows: u64 = self.chunks.iter().map(|chunk| chunk.source_rows).sum();
        let verdict = match self.differing().count() {
            0 => style.green("source and target agree"),
            n => style.red(format!("{} differ", units::several(n as u64, "chunk"))),
        };
        let counted =
            format!("{} counted, {}", units::several(self.chunks.len() as u64, "committed chunk"), units::rows(rows));
        let mut out = head(&self.pipeline, "backfill", &verdict, &[("chunks", counted)], format, style);
        let mut table = Table::new(&["chunk", "bounds", "source", "target"]).right(2).right(3);
        for chunk in self.differing() {
            table.row([
                chunk.id.clone(),
                chunk.bounds.clone(),
                units::count(chunk.source_rows),
                units::count(chunk.target_rows),
            ]);
        }
        if !table.is_empty() {
            out.push_str(&format!("\n{}", table.render(format, style)));
        }
        out
    }
}

fn campaign(manifest: &PartitionManifest) -> String {
    let short = manifest.campaign.get(..12).unwrap_or(&manifest.campaign);
    match &manifest.backfill_id {
        Some(id) => format!("{short} (backfill_id {id})"),
        None => short.to_owned(),
    }
}

/// `2026-01-01 .. 2026-01-08`
fn bounds(partition: &Partition) -> String {
    if partition.null_values {
        return "NULL".to_owned();
    }
    let dots = if partition.inclusive_upper { "..=" } else { ".." };
    match (&partition.lower, &partition.upper) {
        (None, None) => "everything".to_owned(),
        (lower, upper) => {
            let text = |bound: &Option<String>| bound.clone().unwrap_or_default();
            format!("{} {dots} {}", text(lower), text(upper)).trim().to_owned()
        }
    }
}
