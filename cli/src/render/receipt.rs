//! The receipt that ends a run.

use dpone_engine::Receipt;
use dpone_engine::receipt::RunStatus;

use super::units;
use crate::style::Style;

/// The receipt for people.
pub(crate) fn text(receipt: &Receipt, style: Style) -> String {
    let verdict = match receipt.status {
        RunStatus::Committed => style.green(format!("done in {}", units::seconds(receipt.seconds))),
        RunStatus::AlreadyCommitted => style.yellow("committed before: nothing to do, this is the first receipt"),
        RunStatus::Skipped => style.yellow("nothing was loaded"),
    };
    let mut out =
        format!("{}  {} into {}  {verdict}\n", style.bold(&receipt.pipeline), receipt.strategy, receipt.target);
    for (label, value) in lines(receipt) {
        out.push_str(&format!("  {}  {}\n", style.dim(format!("{label:<9}")), super::error::indented(&value)));
    }
    out
}

/// The receipt as Markdown.
pub(crate) fn markdown(receipt: &Receipt) -> String {
    let mut out = format!(
        "### {}: {} into {}\n\n| | |\n|---|---|\n| status | {} in {} |\n",
        receipt.pipeline,
        receipt.strategy,
        receipt.target,
        match receipt.status {
            RunStatus::Committed => "committed",
            RunStatus::AlreadyCommitted => "committed before",
            RunStatus::Skipped => "skipped",
        },
        units::seconds(receipt.seconds)
    );
    for (label, value) in lines(receipt) {
        out.push_str(&format!("| {label} | {} |\n", super::table::escape(&value)));
    }
    out
}

fn lines(receipt: &Receipt) -> Vec<(&'static str, String)> {
    let rows = &receipt.rows;
    let mut lines = Vec::new();
    let mut read = units::rows(rows.extracted);
    if let Some(rate) = units::rate(rows.extracted, receipt.seconds) {
        read.push_str(&format!(", {rate}"));
    }
    if receipt.partitions > 1 {
        read.push_str(&format!(", {} partitions", receipt.partitions));
    }
    lines.push(("read", read));
    for (label, n) in [("quarantine", rows.quarantined), ("known", rows.skipped)] {
        if n > 0 {
            lines.push((label, units::rows(n)));
        }
    }
    let mut staged = format!("{}, {}", units::rows(rows.staged), units::bytes(receipt.bytes));
    if let Some(rate) = units::byte_rate(receipt.bytes, receipt.seconds) {
        staged.push_str(&format!(", {rate}"));
    }
    lines.push(("staged", staged));
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
    if let Some(after) = &receipt.watermark_after {
        let text = match &receipt.watermark_before {
            None => format!("{}: none -> {}", after.column, value_of(after)),
            Some(before) if before == after => format!("{}: {}, as before", after.column, value_of(after)),
            Some(before) => format!("{}: {} -> {}", after.column, value_of(before), value_of(after)),
        };
        lines.push(("watermark", text));
    }
    if let Some(version) = &receipt.target_version {
        lines.push(("version", version.clone()));
    }
    lines.push(("run", format!("{} (load {})", receipt.run_id, receipt.load_id)));
    lines.extend(receipt.schema_changes.iter().map(|statement| ("changed", statement.clone())));
    lines.extend(receipt.notes.iter().map(|note| ("note", note.clone())));
    lines
}

/// `2013-01-01T06:00:00`, out of `time_hour = 2013-01-01T06:00:00`
fn value_of(watermark: &dpone_planner::state::Watermark) -> String {
    let text = watermark.to_string();
    match text.strip_prefix(&format!("{} = ", watermark.column)) {
        Some(value) => value.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use datafusion::common::ScalarValue;
    use dpone_engine::RowCounts;
    use dpone_planner::state::Watermark;

    fn receipt() -> Receipt {
        let at = |v| Watermark::new("at", &ScalarValue::TimestampMicrosecond(Some(v), None)).unwrap();
        Receipt {
            pipeline: "orders".into(),
            strategy: "incremental_merge".into(),
            write_mode: "changes".into(),
            source: "shop.public.orders".into(),
            target: "lake.landing.orders".into(),
            run_id: "r1".into(),
            load_id: "l1".into(),
            status: RunStatus::Committed,
            rows: RowCounts {
                extracted: 1200,
                staged: 1199,
                inserted: 1000,
                updated: 99,
                unchanged: 100,
                skipped: 1,
                ..RowCounts::default()
            },
            bytes: 48_000,
            partitions: 4,
            seconds: 2.0,
            watermark_before: Some(at(0)),
            watermark_after: Some(at(1_000_000)),
            source_position: "x".into(),
            target_version: Some("3".into()),
            started_at: String::new(),
            finished_at: String::new(),
            schema_changes: Vec::new(),
            notes: vec!["first line\nsecond".into()],
        }
    }

    #[test]
    fn a_receipt_tells_rows_rates_and_watermarks() {
        assert_eq!(
            text(&receipt(), Style::PLAIN),
            "orders  incremental_merge into lake.landing.orders  done in 2.0 s\n\
             \x20 read       1,200 rows, 600 rows/s, 4 partitions\n\
             \x20 known      1 row\n\
             \x20 staged     1,199 rows, 48.0 kB, 24.0 kB/s\n\
             \x20 written    1,000 inserted, 99 updated, 0 deleted, 100 unchanged\n\
             \x20 watermark  at: 1970-01-01T00:00:00 -> 1970-01-01T00:00:01\n\
             \x20 version    3\n\
             \x20 run        r1 (load l1)\n\
             \x20 note       first line\n  second\n"
        );
    }
}
