//! Reads a table to nothing and reports the time: `read_speed URL SCHEMA.TABLE [PARALLELISM]`.
//!
//! To compare with `psql -c "COPY (SELECT * FROM …) TO STDOUT (FORMAT binary)" > /dev/null` on the same machine.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion::prelude::SessionContext;
use dpone_engine::source::ReadTarget;
use dpone_engine::{Connector, Error, ReadRequest, Relation, ResolvedConnection, Result, Secret};
use dpone_postgres::PostgresConnector;
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, table, rest @ ..] = arguments.as_slice() else {
        return Err(Error::configuration("usage: read_speed URL SCHEMA.TABLE [PARALLELISM] [raw]"));
    };
    let parallelism = rest.first().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (schema, name) = table.split_once('.').unwrap_or(("public", table));
    let connection = ResolvedConnection {
        name: "bench".to_owned(),
        kind: "postgres".to_owned(),
        options: BTreeMap::from([("url".to_owned(), Secret::new(url))]),
        base_dir: PathBuf::from("."),
    };
    let snapshot = PostgresConnector.source(&connection)?.snapshot().await?;
    let mut request = ReadRequest {
        target: ReadTarget::Table(Relation::new(schema, name)),
        parallelism,
        batch_rows: 8192,
        ..ReadRequest::default()
    };
    let mut opened = snapshot.table(&request).await?;
    if rest.get(1).is_some_and(|word| word == "raw") {
        request.raw = opened.provider.schema().fields().iter().map(|f| f.name().clone()).collect();
        opened = snapshot.table(&request).await?;
    }
    let context = SessionContext::new();
    let plan = opened.provider.scan(&context.state(), None, &[], None).await?;
    let started = Instant::now();
    let mut tasks = Vec::new();
    for partition in 0..plan.output_partitioning().partition_count() {
        let mut stream = plan.execute(partition, context.task_ctx())?;
        tasks.push(tokio::spawn(async move {
            let (mut rows, mut bytes) = (0, 0);
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                rows += batch.num_rows();
                bytes += batch.get_array_memory_size();
            }
            Ok::<_, Error>((rows, bytes))
        }));
    }
    let (mut rows, mut bytes) = (0, 0);
    let partitions = tasks.len();
    for task in tasks {
        let (r, b) = task.await.map_err(|e| Error::internal(e.to_string()))??;
        rows += r;
        bytes += b;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{rows} rows, {:.0} MiB in Arrow, {partitions} partitions, {seconds:.2} s, {:.0} rows/s, peak {} MiB",
        bytes as f64 / 1_048_576.0,
        rows as f64 / seconds,
        peak_mib()
    );
    snapshot.close().await
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
