//! What a run needs around it: connections, limits, somebody who watches, and a way to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::FunctionRegistry;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use dpone_planner::literal::LiteralPlanner;
use tokio_util::sync::CancellationToken;

use super::observer::{Observer, Quiet};
use crate::diff::QueryPlannerWithDiff;
use crate::{Connections, Result};

/// Limits and settings that change how a run goes, never what it loads.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Bytes that DataFusion's operators may hold before they spill.
    pub memory_limit: usize,
    /// Where they spill; `None`: the system's temporary folder.
    pub temp_dir: Option<PathBuf>,
    /// Partitions read and staged at once; `None`: the number of processors. A pipeline's own setting wins.
    pub parallelism: Option<usize>,
    pub batch_rows: usize,
    /// A lease that is not renewed for this long may be taken over.
    pub lease_ttl: Duration,
    /// How often a transient failure is tried again, staging from scratch.
    pub retries: u32,
    /// The first wait lies between nothing and this; each next one may be twice as long.
    pub retry_backoff: Duration,
    /// No wait is longer.
    pub retry_backoff_max: Duration,
    /// Run the staging plan as it comes back from its serialised form, as a worker on another machine would.
    pub serialise_plans: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            memory_limit: 1 << 30,
            temp_dir: None,
            parallelism: None,
            batch_rows: 8192,
            lease_ttl: Duration::from_secs(60),
            retries: 0,
            retry_backoff: Duration::from_secs(1),
            retry_backoff_max: Duration::from_secs(60),
            serialise_plans: false,
        }
    }
}

/// The surroundings of one or more runs.
#[derive(Debug, Clone)]
pub struct RunContext {
    pub connections: Arc<Connections>,
    pub options: RunOptions,
    pub observer: Arc<dyn Observer>,
    /// Cancelled by Ctrl-C: a run stops at the next batch and discards its staging.
    pub cancel: CancellationToken,
}

impl RunContext {
    pub fn new(connections: Arc<Connections>, options: RunOptions) -> Self {
        Self { connections, options, observer: Arc::new(Quiet), cancel: CancellationToken::new() }
    }

    /// A DataFusion session under the run's memory limit.
    pub(crate) fn session(&self, parallelism: usize, batch_rows: usize) -> Result<SessionContext> {
        let disk = match &self.options.temp_dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let pool = TrackConsumersPool::new(
            FairSpillPool::new(self.options.memory_limit),
            std::num::NonZeroUsize::MIN.saturating_add(4),
        );
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(disk))
            .build_arc()?;
        let mut config = SessionConfig::new()
            .with_target_partitions(parallelism)
            .with_batch_size(batch_rows)
            .with_information_schema(true)
            .with_create_default_catalog_and_schema(true);
        let options = config.options_mut();
        // Texts stay what a connector says that they are: a sink that takes views asks its source for them.
        options.execution.parquet.schema_force_view_types = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        // 0.1 is a decimal: compared with one it is exact.
        options.sql_parser.parse_float_as_decimal = true;
        options.execution.parquet.pushdown_filters = true;
        // What a sort sets aside to merge what it spilled; the default is more than a small limit has.
        options.execution.sort_spill_reservation_bytes = (self.options.memory_limit / 32).min(10 << 20);
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_query_planner(Arc::new(QueryPlannerWithDiff))
            .build();
        let mut session = SessionContext::new_with_state(state);
        session.register_expr_planner(LiteralPlanner::shared())?;
        Ok(session)
    }

    pub(crate) fn parallelism(&self, own: Option<usize>) -> usize {
        own.or(self.options.parallelism)
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1)
    }
}
