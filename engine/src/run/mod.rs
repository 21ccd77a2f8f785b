//! Runs a pipeline: lease, describe, plan, stage, verify, commit, discard.

mod attempt;
mod changes;
mod comparison;
mod context;
mod evolve;
mod execute;
mod explain;
mod keeper;
mod observer;
mod prepare;
mod staging;
mod turn;
mod verify;

pub use context::{RunContext, RunOptions};
pub use evolve::moved;
pub use execute::run;
pub(crate) use execute::{run_load, states};
pub(crate) use explain::explain_campaign;
pub use explain::{Explanation, explain};
pub(crate) use keeper::holder;
pub use observer::{Campaigning, ChunkState, Event, Observer, Planned, Progress, Quiet, Several, Stage};
pub(crate) use turn::Turn;
