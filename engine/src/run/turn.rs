//! One load of a table at a time, over several machines: a lease of the table, beside those of the pipelines.

use std::sync::Arc;
use std::time::Duration;

use dpone_planner::definition::Pipeline;
use tokio_util::sync::CancellationToken;

use super::attempt::interrupted;
use super::context::RunContext;
use super::keeper::{LeaseKeeper, holder};
use super::prepare::Ends;
use crate::{ErrorKind, Lease, LeaseRequest, Result, StateStore};

/// How long somebody whose turn it is not waits before it asks again.
const POLL: Duration = Duration::from_millis(250);

/// The right to load a table whose sink takes one load at a time.
pub(crate) struct Turn {
    store: Arc<dyn StateStore>,
    lease: Lease,
    keeper: LeaseKeeper,
}

impl Turn {
    /// Waits until nobody else loads the pipeline's target. `lost` is cancelled when the turn is taken away. Fails with
    /// `interrupted` when `lost` is cancelled while waiting.
    pub(crate) async fn take(
        context: &RunContext,
        pipeline: &Pipeline,
        run_id: &str,
        lost: &CancellationToken,
    ) -> Result<Self> {
        let ends = Ends::open(context, pipeline)?;
        let request = LeaseRequest {
            pipeline: format!("{}, one load at a time", pipeline.sink.relation),
            run_id: run_id.to_owned(),
            holder: holder(),
            ttl: context.options.lease_ttl,
        };
        loop {
            match ends.store.acquire(&request).await {
                Ok(lease) => {
                    let keeper = LeaseKeeper::start(&ends, &lease, lost.clone());
                    return Ok(Self { store: ends.store, lease, keeper });
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = lost.cancelled() => return Err(interrupted()),
            }
        }
    }

    /// Gives the turn to whoever waits for it.
    pub(crate) async fn end(self) {
        self.keeper.stop().await;
        if let Err(error) = self.store.release(&self.lease).await {
            tracing::warn!(%error, "the turn could not be given back: it runs out by itself");
        }
    }
}
