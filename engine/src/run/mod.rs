//! Runs a pipeline: lease, describe, plan, stage, verify, commit, discard.

mod changes;
mod comparison;
mod context;
mod evolve;
mod execute;
mod explain;
mod observer;
mod prepare;

pub use context::{RunContext, RunOptions};
pub use evolve::moved;
pub use execute::run;
pub(crate) use execute::{holder, run_load};
pub(crate) use explain::explain_campaign;
pub use explain::{Explanation, explain};
pub use observer::{Event, Observer, Planned, Progress, Quiet, Several, Stage};
