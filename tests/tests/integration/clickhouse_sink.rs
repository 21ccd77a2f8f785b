//! ClickHouse as a target: every source that exists, by every strategy, into tables of every kind, against the oracle.
//!
//! What kills leave behind is in `clickhouse_kills`, what readers see in `clickhouse_readers`.

use std::time::{Duration, Instant};

use dpone_tests::{ClickHouse, Outcome, Pg, Project, assert_same_rows, every_case};

use crate::matrix::{From, Into, export, manifest};
use crate::orders::{self, STRATEGIES, Strategy};

pub(crate) const FILE: &str = "load.yaml";

/// One row as text, as the other systems write it.
pub(crate) const ROW: &str = "concat(toString(order_id), '|', customer, '|', ifNull(note, 'NULL'), '|', \
                   ifNull(toDecimalString(amount, 2), 'NULL'), '|', ifNull(toString(weight), 'NULL'), '|', \
                   ifNull(toString(paid), 'NULL'), '|', toString(business_date), '|', \
                   toString(toUnixTimestamp64Micro(updated_at)))";

/// How the target is made: by the sink, or before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// `sink.options`
    options: &'static str,
    /// Added to the strategy, where it merges.
    merge_policy: Option<&'static str>,
}

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "lightweight deletion", options: "", merge_policy: None },
    Target { name: "mutation", options: "", merge_policy: Some("mutation_delete_insert") },
    Target { name: "shadow swap", options: "", merge_policy: Some("shadow_swap") },
    Target {
        name: "versions",
        options: "connector: {engine: ReplacingMergeTree, order_by: order_id}",
        merge_policy: Some("replacing"),
    },
    Target { name: "partitions", options: "partition_by: [business_date]", merge_policy: Some("shadow_swap") },
    Target {
        name: "months",
        options: "partition_by: [toYYYYMM(business_date)], connector: {order_by: \"customer, order_id\", low_cardinality: customer}",
        merge_policy: None,
    },
];

pub(crate) struct Case {
    pub(crate) pg: Pg,
    pub(crate) ch: ClickHouse,
    pub(crate) project: Project,
}

impl Case {
    pub(crate) fn new(from: From, strategy: &Strategy, target: &Target) -> Self {
        let (pg, ch) = (Pg::new(), ClickHouse::new());
        let project = Project::new()
            .env("DPONE_CONN_DB_URL", pg.url())
            .env("DPONE_CONN_CH_URL", ch.url())
            .argument("--lease-seconds")
            .argument("1");
        project.write(FILE, into_clickhouse(&manifest(from, Into::Postgres, strategy), &ch, target));
        orders::seed(&pg);
        export(&pg, &project, from);
        Self { pg, ch, project }
    }

    pub(crate) fn oracle(&self, strategy: &Strategy) -> Vec<String> {
        self.pg.execute(strategy.oracle);
        sorted(self.pg.column(&format!("SELECT {} FROM oracle.orders", orders::postgres_row())))
    }

    pub(crate) fn rows(&self) -> Vec<String> {
        if !self.ch.exists("orders") {
            return Vec::new();
        }
        sorted(self.ch.column(&format!("SELECT {ROW} FROM orders{}", self.last())))
    }

    /// Adds a row to the target and to the oracle that no scope has, so that the scope is not all of the table.
    pub(crate) fn outside(&self, strategy: &Strategy) {
        if !strategy.name.contains("replace") {
            return;
        }
        let row = "VALUES (9000001, 'outside', '2024-12-31', '2024-12-31 00:00:00')";
        let columns = "(order_id, customer, business_date, updated_at)";
        self.ch.execute(&format!("INSERT INTO orders {columns} {row}"));
        self.pg.execute("SET timezone = 'UTC'");
        self.pg.execute(&format!("INSERT INTO oracle.orders {columns} {row}"));
    }

    /// Readers of a table with versions say FINAL.
    pub(crate) fn last(&self) -> &'static str {
        let engine =
            format!("SELECT engine FROM system.tables WHERE database = '{}' AND name = 'orders'", self.ch.database);
        if self.ch.value(&engine) == "ReplacingMergeTree" { " FINAL" } else { "" }
    }

    /// Runs until the lease of the killed run has run out.
    pub(crate) fn rerun(&self, run_id: &str) -> Outcome {
        let began = Instant::now();
        loop {
            let outcome = self.project.run(FILE, run_id);
            if outcome.code() == Some(0) || began.elapsed() > Duration::from_secs(20) {
                return outcome.ok();
            }
            outcome.failed("conflict").says("process");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

/// The manifest of a load into PostgreSQL, made one into ClickHouse.
fn into_clickhouse(manifest: &str, ch: &ClickHouse, target: &Target) -> String {
    let (source, sink) = manifest.split_once("sink:").unwrap();
    let mut sink = sink
        .replace(
            "type: postgres, connection_type: env, connection_id: DB",
            "type: clickhouse, connection_type: env, connection_id: CH",
        )
        .replace("schema: landing", &format!("schema: {}", ch.database));
    if let Some(policy) = target.merge_policy.filter(|_| sink.contains("incremental_merge")) {
        sink = sink.replace("unique_key:", &format!("merge_policy: {policy}, unique_key:"));
    } else if let Some(policy) = target.merge_policy.filter(|_| !target.options.contains("connector")) {
        sink = sink
            .replace(", strategy:", &format!(", options: {{OPTIONSconnector: {{merge_policy: {policy}}}}}, strategy:"));
    }
    let options = target.options;
    sink = match (sink.contains("OPTIONS"), options.is_empty()) {
        (true, true) => sink.replace("OPTIONS", ""),
        (true, false) => sink.replace("OPTIONS", &format!("{options}, ")),
        (false, true) => sink,
        (false, false) => sink.replace(", strategy:", &format!(", options: {{{options}}}, strategy:")),
    };
    format!("{source}sink:{sink}")
}

fn load_thrice(from: From, strategy: &Strategy, target: &Target) {
    let what = format!("{from:?} to ClickHouse by {}, {}", target.name, strategy.name);
    let case = Case::new(from, strategy, target);
    for (run, step) in [("one", "first load"), ("two", "second load"), ("three", "nothing new")] {
        if run == "two" {
            orders::change(&case.pg);
            export(&case.pg, &case.project, from);
        }
        let expected = case.oracle(strategy);
        let outcome = case.project.run(FILE, run).ok();
        assert!(expected.len() > 100, "{what}: the oracle has {} rows", expected.len());
        assert_same_rows(&format!("{what}, {step}"), expected, case.rows());
        if run == "three" && (strategy.name.starts_with("incremental") || strategy.name == "snapshot_diff") {
            let written = ["inserted", "updated", "deleted"].map(|which| outcome.rows(which));
            assert_eq!(written, [0, 0, 0], "{what}: a run with nothing new writes nothing");
        }
        assert_eq!(case.ch.leftovers(), Vec::<String>::new(), "{what}: staging is gone after {step}");
    }
}

#[test]
fn postgres_to_clickhouse() {
    every_case(STRATEGIES, |strategy| load_thrice(From::Postgres, strategy, &TARGETS[0]));
}

#[test]
fn csv_to_clickhouse() {
    every_case(STRATEGIES, |strategy| load_thrice(From::Csv, strategy, &TARGETS[0]));
}

#[test]
fn delta_to_clickhouse() {
    every_case(STRATEGIES, |strategy| load_thrice(From::Delta, strategy, &TARGETS[0]));
}

#[test]
fn parquet_to_clickhouse() {
    every_case(STRATEGIES, |strategy| load_thrice(From::Parquet, strategy, &TARGETS[0]));
}

#[test]
fn ndjson_to_clickhouse() {
    every_case(STRATEGIES, |strategy| load_thrice(From::Ndjson, strategy, &TARGETS[0]));
}

#[test]
fn every_way_to_write_a_table() {
    every_case(&TARGETS[1..], |target| {
        // A table that keeps one row for each key is none to append other versions to.
        let fits = |strategy: &&Strategy| target.name != "versions" || strategy.name != "incremental_append";
        every_case(STRATEGIES.iter().filter(fits), |strategy| load_thrice(From::Postgres, strategy, target));
    });
}

#[test]
fn a_lost_acknowledgement_is_looked_up() {
    every_case(STRATEGIES, |strategy| {
        let case = Case::new(From::Postgres, strategy, &TARGETS[0]);
        let outcome = case.project.run_with_failpoint(FILE, "first", "commit.applied=lost_ack").ok();
        assert_eq!(outcome.status(), "committed", "{}", outcome.text());
        assert_same_rows("after a lost acknowledgement", case.oracle(strategy), case.rows());
        assert_eq!(case.project.run(FILE, "first").ok().status(), "already_committed");
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn of_two_runs_at_once_one_wins() {
    let strategy = &STRATEGIES[4];
    let case = Case::new(From::Postgres, strategy, &TARGETS[0]);
    let winner = case.project.spawn(FILE, "winner", "staged=sleep:4000");
    let process = format!("process {}", winner.id());
    std::thread::sleep(Duration::from_millis(2000));
    case.project.run(FILE, "other").failed("conflict").says(&process);
    Outcome::new(&["run"], winner.wait_with_output().unwrap()).ok();
    assert_same_rows("the winner loaded", case.oracle(strategy), case.rows());
}
