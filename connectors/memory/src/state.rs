//! Leases, state and receipts in memory.

use std::collections::BTreeMap;
use std::time::Instant;

use async_trait::async_trait;
use dpone_engine::{Error, Forgotten, Lease, LeaseRequest, Receipt, Relation, Result, StateStore};
use dpone_planner::state::PipelineState;

use crate::MemorySystem;

/// The pipelines of one target.
#[derive(Debug, Default)]
pub(crate) struct Pipelines {
    /// The newest lease of each pipeline, and when it ends; `None`: given back.
    leases: BTreeMap<String, (Lease, Option<Instant>)>,
    states: BTreeMap<String, PipelineState>,
    loads: Vec<Receipt>,
}

impl Pipelines {
    pub(crate) fn load(&self, load_id: &str) -> Option<Receipt> {
        self.loads.iter().find(|r| r.load_id == load_id).cloned()
    }

    /// Fails unless the lease is the newest.
    pub(crate) fn check(&self, lease: &Lease) -> Result<()> {
        match self.leases.get(&lease.pipeline) {
            Some((newest, _)) if newest.token == lease.token => Ok(()),
            Some((newest, _)) => Err(Error::conflict(format!(
                "the lease of pipeline {:?} was taken over by {}",
                lease.pipeline, newest.holder
            ))),
            None => Err(Error::conflict(format!("there is no lease of pipeline {:?}", lease.pipeline))),
        }
    }

    pub(crate) fn record(&mut self, state: &PipelineState, receipt: &Receipt) {
        self.states.insert(state.pipeline.clone(), state.clone());
        self.loads.push(receipt.clone());
    }

    fn acquire(&mut self, request: &LeaseRequest) -> Result<Lease> {
        let newest = self.leases.get(&request.pipeline);
        if let Some((held, Some(ends))) = newest
            && *ends > Instant::now()
        {
            return Err(Error::conflict(format!(
                "pipeline {:?} is being run by {} (run {}); its lease ends in {} s",
                request.pipeline,
                held.holder,
                held.run_id,
                ends.duration_since(Instant::now()).as_secs()
            )));
        }
        let lease = Lease {
            pipeline: request.pipeline.clone(),
            run_id: request.run_id.clone(),
            holder: request.holder.clone(),
            token: newest.map_or(0, |(held, _)| held.token) + 1,
            ttl: request.ttl,
        };
        self.leases.insert(request.pipeline.clone(), (lease.clone(), Some(Instant::now() + request.ttl)));
        Ok(lease)
    }
}

#[derive(Debug)]
pub(crate) struct MemoryState {
    pub(crate) system: MemorySystem,
    pub(crate) target: Relation,
}

impl MemoryState {
    fn with<T>(&self, use_it: impl FnOnce(&mut Pipelines) -> T) -> T {
        use_it(self.system.lock().pipelines.entry(self.target.clone()).or_default())
    }
}

#[async_trait]
impl StateStore for MemoryState {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Lease> {
        self.with(|pipelines| pipelines.acquire(request))
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.with(|pipelines| {
            pipelines.check(lease)?;
            let ends = Some(Instant::now() + lease.ttl);
            pipelines.leases.insert(lease.pipeline.clone(), (lease.clone(), ends));
            Ok(())
        })
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.with(|pipelines| {
            if pipelines.check(lease).is_ok() {
                pipelines.leases.insert(lease.pipeline.clone(), (lease.clone(), None));
            }
            Ok(())
        })
    }

    async fn get(&self, pipeline: &str) -> Result<Option<PipelineState>> {
        Ok(self.with(|pipelines| pipelines.states.get(pipeline).cloned()))
    }

    async fn receipt(&self, pipeline: &str, run_id: &str) -> Result<Option<Receipt>> {
        let same = |r: &&Receipt| r.pipeline == pipeline && r.run_id == run_id;
        Ok(self.with(|pipelines| pipelines.loads.iter().find(same).cloned()))
    }

    async fn list(&self) -> Result<Vec<PipelineState>> {
        Ok(self.with(|pipelines| pipelines.states.values().cloned().collect()))
    }

    async fn reset(&self, pipeline: &str) -> Result<Forgotten> {
        Ok(Forgotten::state(self.with(|pipelines| pipelines.states.remove(pipeline).is_some())))
    }

    async fn mirror(&self, state: &PipelineState, receipt: &Receipt) -> Result<()> {
        self.with(|pipelines| {
            if pipelines.load(&receipt.load_id).is_none() {
                pipelines.record(state, receipt);
            }
        });
        Ok(())
    }
}
