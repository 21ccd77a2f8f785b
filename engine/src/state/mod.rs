//! The port for what a pipeline remembers, and for its lease.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use dpone_planner::state::PipelineState;

use crate::receipt::Receipt;
use crate::{Relation, Result};

/// What [`StateStore::reset`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub had_state: bool,
    /// Why a commit that was cut short is not finished any more; what was done of it stays done.
    pub given_up: Option<String>,
}

impl Forgotten {
    pub fn state(had_state: bool) -> Self {
        Self { had_state, given_up: None }
    }
}

/// State, receipts and leases of the pipelines of one target system.
///
/// New state is never written through this port by a run: it travels in [`crate::Sink::commit`].
#[async_trait]
pub trait StateStore: Debug + Send + Sync {
    /// Takes the pipeline's lease with a fencing token greater than every earlier one. Fails with `conflict`, naming
    /// the holder and when its lease ends, while another run holds it. A lease past its end is taken over.
    async fn acquire(&self, request: &LeaseRequest) -> Result<Lease>;

    /// Moves the lease's end. Fails with `conflict` when it was taken over.
    async fn renew(&self, lease: &Lease) -> Result<()>;

    /// Gives the lease back. A lease that was taken over is left alone.
    async fn release(&self, lease: &Lease) -> Result<()>;

    async fn get(&self, pipeline: &str) -> Result<Option<PipelineState>>;

    /// The receipt of a committed run, for the same run id twice.
    async fn receipt(&self, pipeline: &str, run_id: &str) -> Result<Option<Receipt>>;

    /// Every pipeline's state here, for `state inspect` and `state export`.
    async fn list(&self) -> Result<Vec<PipelineState>>;

    /// Forgets the watermark (the loads stay on record).
    async fn reset(&self, pipeline: &str) -> Result<Forgotten>;

    /// Stores a copy of a state and its receipt that were committed elsewhere.
    async fn mirror(&self, state: &PipelineState, receipt: &Receipt) -> Result<()>;
}

/// Where in a system state lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StateLocation {
    /// A table that the definition names instead of `__dpone__state` in the target's schema.
    pub table: Option<Relation>,
}

#[derive(Debug, Clone)]
pub struct LeaseRequest {
    pub pipeline: String,
    pub run_id: String,
    /// Who asks, for the message that others get: host, process id.
    pub holder: String,
    pub ttl: Duration,
}

/// A lease that was granted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    pub pipeline: String,
    pub run_id: String,
    pub holder: String,
    /// Grows with every lease of the pipeline: a commit with an older token is refused.
    pub token: u64,
    pub ttl: Duration,
}
