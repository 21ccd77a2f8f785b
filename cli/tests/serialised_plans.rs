//! Every scan and every staging node survives its serialised form: the same pipelines run from decoded plans give the
//! same tables. It is what lets a plan run on other machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use dpone_engine::run::{RunContext, RunOptions, run};
use dpone_engine::{Connections, Connector, Result, federation};
use dpone_planner::definition::load;
use futures::TryStreamExt;

/// Scans of CSV, NDJSON, Parquet, Delta and PostgreSQL, with filters, joins, exact casts and boundary rows on top, into
/// every kind of sink.
const PIPELINES: &str = "
CREATE CONNECTION raw TYPE file OPTIONS ('path' 'raw');
CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');
CREATE CONNECTION out TYPE parquet OPTIONS ('path' 'out');
CREATE CONNECTION text TYPE csv OPTIONS ('path' 'text');
CREATE CONNECTION pg TYPE postgres OPTIONS ('url' 'env:DPONE_TEST_POSTGRES_URL');

CREATE PIPELINE csv_to_delta INTO lake.a.orders STRATEGY incremental_append CURSOR at
  AS SELECT * FROM raw.files.orders WHERE id > 1;
CREATE PIPELINE ndjson_to_parquet INTO out.a.names STRATEGY full_refresh AS SELECT * FROM raw.files.names;
CREATE PIPELINE joined_to_postgres INTO pg.${schema}.joined STRATEGY incremental_merge KEY (id) CURSOR at
  AS SELECT o.id, o.at, o.amount, n.name FROM lake.a.orders o LEFT JOIN out.a.names n USING (id);
CREATE PIPELINE postgres_to_postgres INTO pg.${schema}.copy STRATEGY full_refresh AS SELECT * FROM pg.${schema}.joined;
CREATE PIPELINE postgres_to_delta INTO lake.a.back STRATEGY incremental_merge KEY (id)
  AS SELECT * FROM pg.${schema}.copy WHERE amount > 1.5;
CREATE PIPELINE postgres_to_csv INTO text.a.back STRATEGY full_refresh AS SELECT id, name FROM pg.${schema}.copy;
";

const TABLES: [&str; 6] =
    ["lake.a.orders", "out.a.names", "pg.${schema}.joined", "pg.${schema}.copy", "lake.a.back", "text.a.back"];

#[tokio::test(flavor = "multi_thread")]
async fn decoded_plans_load_the_same_rows() {
    assert!(
        std::env::var_os("DPONE_TEST_POSTGRES_URL").is_some(),
        "DPONE_TEST_POSTGRES_URL is not set: run this test with `make test`, which starts the servers"
    );
    let direct = load_all(false).await;
    let decoded = load_all(true).await;
    assert_eq!(direct, decoded);
    // Rows, not two empty tables: ids 2 to 5 pass the filter.
    assert!(direct[2].contains("| 5  |") && !direct[2].contains("| 1  |"), "{}", direct[2]);
}

async fn load_all(serialise_plans: bool) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    std::fs::create_dir(&raw).unwrap();
    let orders: String = (1..=5).map(|i| format!("{i},2026-01-0{i}T00:00:00Z,{i}.25\n")).collect();
    std::fs::write(raw.join("orders.csv"), format!("id,at,amount\n{orders}")).unwrap();
    std::fs::write(raw.join("names.ndjson"), "{\"id\":2,\"name\":\"b\"}\n{\"id\":3,\"name\":\"\"}\n").unwrap();

    let schema = format!("serialised_{}", ulid::Ulid::generate().to_string().to_lowercase());
    let vars = BTreeMap::from([("schema".to_owned(), schema.clone())]);
    let none = |path: &Path| -> Result<String> { panic!("{} is not needed", path.display()) };
    let project = load(&[(PathBuf::from("plans.sql"), PIPELINES.to_owned())], &vars, &none).unwrap();
    let connectors: Vec<Arc<dyn Connector>> = vec![
        Arc::new(dpone_files::FilesConnector),
        Arc::new(dpone_delta::DeltaConnector),
        Arc::new(dpone_postgres::PostgresConnector),
    ];
    let connections = Connections::new(connectors, project.connections.clone(), dir.path());
    let options = RunOptions { serialise_plans, parallelism: Some(2), ..RunOptions::default() };
    let context = RunContext::new(Arc::new(connections), options);
    for round in ["first", "second"] {
        for pipeline in &project.pipelines {
            run(&context, pipeline, &format!("{round}-{}", pipeline.name)).await.unwrap();
        }
    }
    let mut contents = Vec::new();
    for table in TABLES {
        let sql = format!("SELECT * FROM {} ORDER BY id", table.replace("${schema}", &schema));
        let query = federation::query(&context, &sql).await.unwrap();
        let batches: Vec<RecordBatch> = query.batches.try_collect().await.unwrap();
        contents.push(pretty_format_batches(&batches).unwrap().to_string());
    }
    contents
}
