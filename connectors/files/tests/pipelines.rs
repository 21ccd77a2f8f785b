//! Whole pipelines, from a definition to a receipt: flights from CSV into Parquet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use dpone_engine::run::{RunContext, RunOptions, run};
use dpone_engine::{Connections, Error, Receipt, Result};
use dpone_files::FilesConnector;
use dpone_planner::definition::load;

const DEFINITION: &str = "
    CREATE CONNECTION raw TYPE file OPTIONS ('path' 'data', 'null_values' 'NA');
    CREATE CONNECTION out TYPE parquet OPTIONS ('path' 'out');

    CREATE PIPELINE planes INTO out.landing.planes STRATEGY full_refresh
    AS SELECT * FROM raw.data.planes;

    CREATE PIPELINE flights INTO out.landing.flights STRATEGY incremental_append CURSOR time_hour
    AS SELECT * FROM raw.data.flights;

    CREATE PIPELINE tails INTO out.landing.tails STRATEGY incremental_merge KEY (tailnum)
    AS SELECT p.tailnum, p.model, count(f.flight) AS flights
       FROM raw.data.planes p LEFT JOIN raw.data.flights f ON f.tailnum = p.tailnum GROUP BY p.tailnum, p.model;";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

async fn run_all(dir: &Path, run_id: &str) -> Vec<Result<Receipt>> {
    let inputs = [(dir.join("load.sql"), DEFINITION.to_owned())];
    let project = load(&inputs, &BTreeMap::new(), &|_: &Path| Err(Error::internal("no file is named"))).unwrap();
    let connections = Connections::new(vec![Arc::new(FilesConnector)], project.connections, dir);
    let context = RunContext::new(Arc::new(connections), RunOptions::default());
    let mut receipts = Vec::new();
    for pipeline in &project.pipelines {
        receipts.push(run(&context, pipeline, run_id).await);
    }
    receipts
}

async fn ask(dir: &Path, sql: &str) -> Vec<i64> {
    let context = SessionContext::new();
    for table in ["planes", "flights", "tails"] {
        let path = dir.join("out/landing").join(table);
        context.register_parquet(table, path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
    }
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    batches[0].columns().iter().map(|c| c.as_primitive::<Int64Type>().value(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn flights_go_from_csv_to_parquet_and_only_what_is_new_goes_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::copy(data("planes.csv"), dir.path().join("data/planes.csv")).unwrap();
    let text = std::fs::read_to_string(data("flights.csv")).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    // The file is in the order of departure; the cursor is the scheduled hour.
    lines[1..].sort_by_key(|l| l.rsplit(',').next());
    let write = |rows: usize| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, format!("{}\n", lines[..=rows].join("\n")).as_bytes()).unwrap();
        std::fs::write(dir.path().join("data/flights.csv.gz"), encoder.finish().unwrap()).unwrap();
    };
    write(30);
    let first: Vec<_> = run_all(dir.path(), "one").await.into_iter().map(|r| r.unwrap().rows.inserted).collect();
    assert_eq!(first, [29, 30, 29]);
    write(41);
    let second: Vec<_> = run_all(dir.path(), "two").await.into_iter().map(Result::unwrap).collect();
    assert_eq!(second[1].rows.inserted, 11, "{:?}", second[1].rows);
    assert_eq!(second[2].rows.inserted, 0, "{:?}", second[2].rows);
    assert_eq!(second[2].rows.updated + second[2].rows.unchanged, 29, "{:?}", second[2].rows);
    let flights = "select count(*), count(dep_time), sum(distance) from flights";
    let column =
        |index: usize| lines[1..=41].iter().filter_map(move |l| l.split(',').nth(index).unwrap().parse::<i64>().ok());
    assert_eq!(ask(dir.path(), flights).await, [41, column(3).count() as i64, column(15).sum::<i64>()]);
    assert_eq!(ask(dir.path(), "select count(*), count(year) from planes").await[0], 29);

    let again = run_all(dir.path(), "two").await;
    assert!(
        again.iter().all(|r| r.as_ref().is_ok_and(|r| r.status == dpone_engine::receipt::RunStatus::AlreadyCommitted))
    );
    assert_eq!(ask(dir.path(), flights).await[0], 41);
}
