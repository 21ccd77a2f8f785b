//! `dpone schema notify`: notifications from ledger artifacts.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dpone_engine::Result;
use dpone_engine::schema::{EntryStatus, SchemaNotificationService, Written};
use serde_json::json;

use crate::args::{Format, OutputArgs, When};
use crate::exit::Exit;
use crate::output;
use crate::render::table::Table;
use crate::style::Style;

/// Write a notification of each ledger artifact, as JSON and as Markdown.
#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    /// One artifact, or the folder of a ledger
    #[arg(long, value_name = "FILE|DIR")]
    ledger: PathBuf,
    /// Where the notifications are written
    #[arg(long, value_name = "DIR", default_value = ".dpone/schema_notifications")]
    output_dir: PathBuf,
    /// Only of artifacts with this status; may be repeated
    #[arg(long, value_enum, value_name = "STATUS")]
    status: Vec<Status>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Status {
    Planned,
    Deferred,
    PendingApproval,
    Applied,
    Failed,
    Rejected,
}

impl From<Status> for EntryStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Planned => Self::Planned,
            Status::Deferred => Self::Deferred,
            Status::PendingApproval => Self::PendingApproval,
            Status::Applied => Self::Applied,
            Status::Failed => Self::Failed,
            Status::Rejected => Self::Rejected,
        }
    }
}

pub(crate) fn notify(args: &NotifyArgs, color: When) -> Result<Exit> {
    let statuses: Vec<EntryStatus> = args.status.iter().map(|status| (*status).into()).collect();
    let written = SchemaNotificationService::new(&args.output_dir).notify_all(&args.ledger, &statuses)?;
    match args.output.format {
        Format::Json => output::print_json(&json!({
            "output_dir": args.output_dir,
            "notifications": written.iter().map(document).collect::<Vec<_>>(),
        }))?,
        Format::Md => output::print(&written.iter().map(|w| w.notification.markdown()).collect::<Vec<_>>().join("\n"))?,
        Format::Text => {
            let mut table = Table::new(&["severity", "title", "run", "written to"]);
            for Written { notification, markdown_path, .. } in &written {
                table.row([
                    notification.severity.as_str().to_owned(),
                    notification.title.clone(),
                    notification.run_id.clone(),
                    markdown_path.display().to_string(),
                ]);
            }
            match table.is_empty() {
                true => output::print("no artifact has such a status")?,
                false => output::print(&table.render(Format::Text, Style::for_stdout(color)))?,
            }
        }
    }
    Ok(Exit::Done)
}

fn document(written: &Written) -> serde_json::Value {
    let mut document = json!(written.notification);
    document["json_path"] = json!(written.json_path);
    document["markdown_path"] = json!(written.markdown_path);
    document
}
