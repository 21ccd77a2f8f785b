//! `dpone schema plan`: what differs between two schemas, what each change costs, and what a run would do about it.

use clap::Args;
use dpone_engine::Result;

use super::inputs::{PolicyArgs, Sides};
use crate::args::{Format, OutputArgs, When};
use crate::exit::Exit;
use crate::output;
use crate::render::schema as show;
use crate::style::Style;

/// Compare the columns of a source with those of a target, and judge each change: lock, work, risk, decision.
///
/// Nothing is touched. Without --connection no server is asked, and what had to be assumed is said.
#[derive(Debug, Args)]
pub(crate) struct SchemaPlanArgs {
    #[command(flatten)]
    sides: Sides,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Only plan: end with 0 even where a run would be stopped
    #[arg(long)]
    plan_only: bool,
    /// Changes that are safe are applied by runs; accepted for scripts that say so
    #[arg(long, hide = true)]
    apply_safe: bool,
    /// End with 2 when a change is breaking
    #[arg(long)]
    fail_on_breaking: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn plan(args: SchemaPlanArgs, color: When) -> Result<Exit> {
    let plan = args.sides.plan(&args.policy.policy()?).await?;
    match args.output.format {
        Format::Json => output::print_json(&plan.document()?)?,
        format => output::print(&show::plan(&plan, format, Style::for_stdout(color)))?,
    }
    Ok(match () {
        () if args.fail_on_breaking && plan.has_breaking_changes() => Exit::Usage,
        () if !args.plan_only && !plan.passed() => Exit::Failed,
        () => Exit::Done,
    })
}
