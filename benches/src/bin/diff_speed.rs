//! Compares two Parquet files by key and counts the change set: `diff_speed OLD NEW KEY[,KEY] [MEMORY_MB]`.
//!
//! Prints `new|changed|missing|unchanged`. It is the comparison of snapshot_diff alone, without a target to write to.

#![allow(clippy::print_stdout)]

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ident};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use dpone_engine::diff::{DiffExec, QueryPlannerWithDiff};
use dpone_engine::{Error, Result};
use dpone_planner::diff::{DIGEST, Diff, DiffSpec, KEY_HASH, Method};
use dpone_planner::row_hash::{DigestKind, digest};
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [old, new, key, rest @ ..] = arguments.as_slice() else {
        return Err(Error::configuration("usage: diff_speed OLD NEW KEY[,KEY] [MEMORY_MB]"));
    };
    let memory: usize = rest.first().and_then(|n| n.parse().ok()).unwrap_or(1024) << 20;
    let key: Vec<String> = key.split(',').map(str::to_owned).collect();
    let session = session(memory)?;
    let (source, target) = (side(&session, new, &key, true).await?, side(&session, old, &key, false).await?);
    let columns = source.schema().fields().iter().filter(|f| !f.name().starts_with("__dpone__"));
    let columns = columns.map(|f| f.as_ref().clone()).collect();
    let spec = DiffSpec {
        method: if memory < 512 << 20 { Method::Partitioned { parts: 32 } } else { Method::Hash },
        key,
        carried: Vec::new(),
        missing: true,
        replaced: false,
        quarantine_null_keys: false,
    };
    let plan = Diff::plan(source, target, spec, columns)?;
    let physical = session.state().create_physical_plan(&plan).await?;
    let mut stream = execute_stream(Arc::clone(&physical), session.task_ctx())?;
    while let Some(batch) = stream.next().await {
        batch?;
    }
    let facts = find(physical.as_ref()).map(DiffExec::facts).unwrap_or_default();
    println!("{}|{}|{}|{}", facts.new, facts.changed, facts.missing, facts.unchanged);
    Ok(())
}

fn session(memory: usize) -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory))).build_arc()?;
    let mut config = SessionConfig::new();
    config.options_mut().execution.parquet.schema_force_view_types = false;
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_query_planner(Arc::new(QueryPlannerWithDiff))
        .build();
    Ok(SessionContext::new_with_state(state))
}

/// One file with its hashes: whole rows of the source, keys of the target.
async fn side(
    session: &SessionContext,
    path: &str,
    key: &[String],
    whole: bool,
) -> Result<datafusion::logical_expr::LogicalPlan> {
    let plan = session.read_parquet(path, ParquetReadOptions::default()).await?.into_unoptimized_plan();
    let fields: Vec<_> = plan.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let column = |field: &datafusion::arrow::datatypes::Field| (field.clone(), ident(field.name()));
    let keys = fields.iter().filter(|f| key.contains(f.name())).map(column).collect();
    let all = fields.iter().map(column).collect();
    let mut exprs: Vec<Expr> =
        fields.iter().filter(|f| whole || key.contains(f.name())).map(|f| ident(f.name())).collect();
    exprs.push(digest(DigestKind::Key, keys).alias(KEY_HASH));
    exprs.push(digest(DigestKind::Values, all).alias(DIGEST));
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

fn find(plan: &dyn ExecutionPlan) -> Option<&DiffExec> {
    let found = (plan as &dyn std::any::Any).downcast_ref::<DiffExec>();
    found.or_else(|| plan.children().into_iter().find_map(|child| find(child.as_ref())))
}
