//! ClickHouse as a target: every strategy against the oracle, kill -9 at every step, and what readers see meanwhile.

use std::time::{Duration, Instant};

use dpone_tests::{COMMIT_STEPS, ClickHouse, Outcome, Pg, Project, assert_same_rows, every_case};

use crate::matrix::{From, Into, export, manifest};
use crate::orders::{self, STRATEGIES, Strategy};

const FILE: &str = "load.yaml";

/// One row as text, as the other systems write it.
const ROW: &str = "concat(toString(order_id), '|', customer, '|', ifNull(note, 'NULL'), '|', \
                   ifNull(toDecimalString(amount, 2), 'NULL'), '|', ifNull(toString(weight), 'NULL'), '|', \
                   ifNull(toString(paid), 'NULL'), '|', toString(business_date), '|', \
                   toString(toUnixTimestamp64Micro(updated_at)))";

/// How the target is made: by the sink, or before.
#[derive(Debug, Clone, Copy)]
struct Target {
    name: &'static str,
    /// `sink.options`
    options: &'static str,
    /// Added to the strategy, where it merges.
    merge_policy: Option<&'static str>,
}

const TARGETS: &[Target] = &[
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

struct Case {
    pg: Pg,
    ch: ClickHouse,
    project: Project,
}

impl Case {
    fn new(from: From, strategy: &Strategy, target: &Target) -> Self {
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

    fn oracle(&self, strategy: &Strategy) -> Vec<String> {
        self.pg.execute(strategy.oracle);
        sorted(self.pg.column(&format!("SELECT {} FROM oracle.orders", orders::postgres_row())))
    }

    fn rows(&self) -> Vec<String> {
        if !self.ch.exists("orders") {
            return Vec::new();
        }
        sorted(self.ch.column(&format!("SELECT {ROW} FROM orders{}", self.last())))
    }

    /// Readers of a table with versions say FINAL.
    fn last(&self) -> &'static str {
        let engine =
            format!("SELECT engine FROM system.tables WHERE database = '{}' AND name = 'orders'", self.ch.database);
        if self.ch.value(&engine) == "ReplacingMergeTree" { " FINAL" } else { "" }
    }

    /// Runs until the lease of the killed run has run out.
    fn rerun(&self, run_id: &str) -> Outcome {
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
fn every_way_to_write_a_table() {
    every_case(&TARGETS[1..], |target| {
        // A table that keeps one row for each key is none to append other versions to.
        let fits = |strategy: &&Strategy| target.name != "versions" || strategy.name != "incremental_append";
        every_case(STRATEGIES.iter().filter(fits), |strategy| load_thrice(From::Postgres, strategy, target));
    });
}

/// Steps at which a commit may die that other sinks do not have.
const BETWEEN: &[&str] = &["commit.step@1", "commit.step@2"];

fn killed_at_every_step(target: &Target, strategies: &[Strategy]) {
    for strategy in strategies {
        every_case(COMMIT_STEPS.iter().chain(BETWEEN), |step| {
            let case = Case::new(From::Postgres, strategy, target);
            case.project.run(FILE, "first").ok();
            let before = case.oracle(strategy);
            assert_same_rows("first", before.clone(), case.rows());
            orders::change(&case.pg);
            let after = case.oracle(strategy);
            let outcome = case.project.run_with_failpoint(FILE, "second", &format!("{step}=kill"));
            if outcome.code() == Some(0) && step.contains('@') {
                // It had no second step.
                return;
            }
            outcome.killed();
            let found = case.rows();
            let whole = found == before || found == after;
            assert!(whole || step.contains('@'), "{strategy:?} killed at {step}: part of a load is visible");
            let outcome = case.rerun("second");
            let begun = step.contains('@')
                || ["commit.applied", "commit.acknowledged", "committed", "discarded"].contains(step);
            let expected = if begun { "already_committed" } else { "committed" };
            assert_eq!(outcome.status(), expected, "{strategy:?} killed at {step}: {}", outcome.text());
            assert_same_rows(&format!("{strategy:?}, rerun after {step}"), after.clone(), case.rows());
            case.rerun("third");
            assert_same_rows(&format!("{strategy:?}, next run after {step}"), after, case.rows());
            assert_eq!(
                case.ch.leftovers(),
                Vec::<String>::new(),
                "killed at {step}: staging of the killed run is gone"
            );
        });
    }
}

#[test]
fn a_table_survives_kill_at_every_step() {
    killed_at_every_step(&TARGETS[0], &STRATEGIES[..5]);
}

#[test]
fn a_partitioned_table_survives_kill_at_every_step() {
    killed_at_every_step(&TARGETS[5], &STRATEGIES[1..6]);
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

/// A run that sleeps in the middle of its commit, past the end of its lease, does no harm when it wakes up.
#[test]
fn a_run_that_was_taken_over_changes_nothing() {
    every_case([0usize, 4, 5], |number| {
        let strategy = &STRATEGIES[*number];
        every_case(["commit.begun", "commit.step@1"], |step| {
            let case = Case::new(From::Postgres, strategy, &TARGETS[0]);
            case.project.run(FILE, "first").ok();
            case.oracle(strategy);
            orders::change(&case.pg);
            let sleeper = case.project.spawn(FILE, "sleeper", &format!("{step}=sleep:9000"));
            std::thread::sleep(Duration::from_millis(2500));
            // Its process stands still, and its lease runs out.
            let signal = |name: &str| {
                assert!(
                    std::process::Command::new("kill")
                        .args([name, &sleeper.id().to_string()])
                        .status()
                        .unwrap()
                        .success()
                );
            };
            signal("-STOP");
            case.rerun("second");
            let after = case.oracle(strategy);
            assert_same_rows(&format!("{strategy:?}, taken over at {step}"), after.clone(), case.rows());
            signal("-CONT");
            sleeper.wait_with_output().unwrap();
            assert_same_rows(&format!("{strategy:?}, the sleeper woke up at {step}"), after, case.rows());
        });
    });
}

/// What the page on ClickHouse as a sink says that a reader sees: the rows of before and of after alone, or others too.
fn seen_by_a_reader(target: &Target, strategy: &Strategy) -> (Vec<String>, bool) {
    let case = Case::new(From::Postgres, strategy, target);
    case.project.run(FILE, "first").ok();
    orders::change(&case.pg);
    let checksum = format!(
        "SELECT concat(toString(count()), ' ', toString(sum(cityHash64({ROW})))) FROM orders{} FORMAT TabSeparatedRaw",
        case.last()
    );
    let before = case.ch.execute(&checksum);
    let stop = case.ch.poll(&checksum);
    // Time for the reader between two steps, where there are two.
    case.project.run_with_failpoint(FILE, "second", "commit.step=sleep:400").ok();
    let seen = stop();
    let after = case.ch.execute(&checksum);
    assert_ne!(before, after);
    assert_eq!((seen.first(), seen.last()), (Some(&before), Some(&after)), "{strategy:?} by {}", target.name);
    let whole = seen == [before, after];
    (seen, whole)
}

#[test]
fn a_reader_sees_what_the_page_says() {
    let (exchange, truncate, append, merge) = (&STRATEGIES[0], &STRATEGIES[1], &STRATEGIES[3], &STRATEGIES[4]);
    let [plain, mutation, swap, versions, .., months] = TARGETS else { unreachable!() };
    every_case(
        [
            (plain, exchange, true),
            (plain, truncate, true),
            (plain, append, true),
            (plain, merge, false),
            (mutation, merge, false),
            (swap, merge, true),
            (versions, merge, true),
            (months, exchange, true),
            (months, truncate, false),
        ]
        .map(|(target, strategy, whole)| (target.name, strategy.name, whole)),
        |(target, strategy, whole)| {
            let target = TARGETS.iter().find(|t| t.name == *target).unwrap();
            let strategy = STRATEGIES.iter().find(|s| s.name == *strategy).unwrap();
            let (seen, only_whole) = seen_by_a_reader(target, strategy);
            assert_eq!(only_whole, *whole, "{strategy:?} by {}: {seen:?}", target.name);
        },
    );
}
