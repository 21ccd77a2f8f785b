//! kill -9 at each step of a commit into ClickHouse, which takes several statements: whatever was seen in between, the
//! next run finishes it, and the table equals the oracle. Also when that run is killed too, and when a run that sleeps
//! wakes up after it was taken over.

use std::time::Duration;

use dpone_tests::{COMMIT_STEPS, COMMIT_STEPS_BETWEEN, Outcome, assert_same_rows, every_case};

use crate::clickhouse_sink::{Case, FILE, TARGETS, Target};
use crate::matrix::From;
use crate::orders::{self, STRATEGIES, Strategy};

/// From here on a load will be committed, whatever happens.
const BEGUN: &[&str] = &["commit.applied", "commit.acknowledged", "committed", "discarded"];

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|t| t.name == name).unwrap()
}

fn strategy(name: &str) -> &'static Strategy {
    STRATEGIES.iter().find(|s| s.name == name).unwrap()
}

/// A second load that dies at a step, is run again, and is followed by one that finds nothing new.
fn killed_at(target: &Target, strategy: &Strategy, step: &str) {
    let case = Case::new(From::Postgres, strategy, target);
    case.project.run(FILE, "first").ok();
    case.outside(strategy);
    let before = case.oracle(strategy);
    assert_same_rows("first", before.clone(), case.rows());
    orders::change(&case.pg);
    let after = case.oracle(strategy);
    let outcome = case.project.run_with_failpoint(FILE, "second", &format!("{step}=kill"));
    let between = COMMIT_STEPS_BETWEEN.contains(&step);
    if outcome.code() == Some(0) && step.contains('@') {
        // It had fewer steps.
        return;
    }
    outcome.killed();
    let found = case.rows();
    assert!(between || found == before || found == after, "killed at {step}: part of a load is visible");
    let outcome = case.rerun("second");
    let expected = if between || BEGUN.contains(&step) { "already_committed" } else { "committed" };
    assert_eq!(outcome.status(), expected, "killed at {step}: {}", outcome.text());
    assert_same_rows(&format!("rerun after {step}"), after.clone(), case.rows());
    let outcome = case.rerun("third");
    if strategy.name.starts_with("incremental") {
        let extracted = outcome.rows("extracted");
        assert!(
            extracted < 40,
            "{extracted} rows were read again: the state of the load that was killed at {step} is lost"
        );
    }
    assert_same_rows(&format!("next run after {step}"), after, case.rows());
    assert_eq!(case.ch.leftovers(), Vec::<String>::new(), "killed at {step}: staging of the killed run is gone");
}

fn every_step(targets: &[&str], strategies: &[&str]) {
    for target_name in targets {
        for strategy_name in strategies {
            let (target, strategy) = (target(target_name), strategy(strategy_name));
            every_case(COMMIT_STEPS.iter().chain(COMMIT_STEPS_BETWEEN), |step| {
                killed_at(target, strategy, step);
            });
        }
    }
}

/// The steps between the plan of a commit and its end: where policies differ.
fn steps_between(targets: &[&str], strategies: &[&str]) {
    let cases = targets.iter().flat_map(|target| strategies.iter().map(move |strategy| (*target, *strategy)));
    let cases =
        cases.flat_map(|(target, strategy)| COMMIT_STEPS_BETWEEN.iter().map(move |step| (target, strategy, *step)));
    every_case(cases, |(target_name, strategy_name, step)| {
        killed_at(target(target_name), strategy(strategy_name), step)
    });
}

#[test]
fn a_table_survives_kill_at_every_step() {
    every_step(&["lightweight deletion"], &["incremental_merge"]);
}

#[test]
fn a_partitioned_table_survives_kill_at_every_step() {
    every_step(&["months"], &["incremental_append"]);
}

#[test]
fn every_merge_policy_survives_kill_between_its_statements() {
    steps_between(&["lightweight deletion", "mutation", "shadow swap"], &["snapshot_diff", "replace"]);
}

#[test]
fn every_merge_policy_survives_kill_between_the_statements_of_a_merge() {
    steps_between(&["mutation", "shadow swap", "versions", "months"], &["incremental_merge"]);
}

#[test]
fn overwrites_survive_kill_between_their_statements() {
    steps_between(
        &["lightweight deletion", "months"],
        &["full_refresh (exchange)", "full_refresh (truncate_insert)", "replace", "partition_replace"],
    );
    steps_between(&["lightweight deletion"], &["incremental_append"]);
}

/// There is no table, or the finished one; and whoever comes next finds it as its own.
#[test]
fn the_first_load_survives_kill_between_its_statements() {
    let steps = COMMIT_STEPS_BETWEEN.iter().chain(&["commit.applied"]);
    every_case(steps.flat_map(|step| [(step, "lightweight deletion"), (step, "versions")]), |(step, into)| {
        let strategy = strategy("incremental_merge");
        let case = Case::new(From::Postgres, strategy, target(into));
        let expected = case.oracle(strategy);
        if case.project.run_with_failpoint(FILE, "first", &format!("{step}=kill")).code() == Some(0) {
            assert!(step.contains('@') && !step.ends_with("@1"), "nobody was killed at {step}");
            return;
        }
        let found = case.rows();
        assert!(found.is_empty() || found == expected, "killed at {step}: part of a load is visible");
        assert_eq!(case.rerun("first").status(), "already_committed", "killed at {step}");
        assert_same_rows(&format!("killed at {step}"), expected.clone(), case.rows());
        let outcome = case.rerun("second");
        assert!(outcome.rows("extracted") < 40, "killed at {step}: {}", outcome.text());
        assert_same_rows(&format!("the run after a kill at {step}"), expected, case.rows());
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
    });
}

/// The run that finishes a commit dies too, wherever the first one did.
#[test]
fn a_run_that_finishes_the_commit_of_another_may_be_killed_as_well() {
    let cases = [
        ("lightweight deletion", "incremental_merge"),
        ("months", "full_refresh (truncate_insert)"),
        ("shadow swap", "incremental_merge"),
        ("months", "incremental_append"),
    ];
    let steps = [
        ("commit.planned", "commit.step@1"),
        ("commit.step@1", "commit.step@1"),
        ("commit.step@2", "commit.recorded"),
        ("commit.recorded", "commit.applied"),
    ];
    every_case(cases.iter().flat_map(|case| steps.map(|steps| (case, steps))), |((into, by), (first, second))| {
        let (target, strategy) = (target(into), strategy(by));
        let case = Case::new(From::Postgres, strategy, target);
        case.project.run(FILE, "first").ok();
        case.oracle(strategy);
        orders::change(&case.pg);
        let after = case.oracle(strategy);
        if case.project.run_with_failpoint(FILE, "second", &format!("{first}=kill")).code().is_some() {
            // It had one statement.
            return;
        }
        // The lease of the killed run runs out.
        std::thread::sleep(Duration::from_millis(1200));
        // Where nothing is left to do before it, the second one is not killed.
        let outcome = case.project.run_with_failpoint(FILE, "third", &format!("{second}=kill"));
        if outcome.code().is_some() {
            outcome.ok();
        }
        assert_eq!(case.rerun("second").status(), "already_committed");
        case.rerun("fourth");
        assert_same_rows(&format!("{by} by {into}, killed at {first}, then at {second}"), after, case.rows());
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
    });
}

/// A run that sleeps in the middle of its commit, past the end of its lease, does no harm when it wakes up: neither to the
/// rows nor to the state, which later runs have moved on meanwhile.
#[test]
fn a_run_that_was_taken_over_changes_nothing() {
    let cases = [
        ("incremental_append", "commit.begun"),
        ("incremental_append", "commit.planned"),
        ("incremental_append", "commit.step@1"),
        ("incremental_append", "commit.recorded"),
        ("full_refresh (exchange)", "commit.step@1"),
        ("incremental_merge", "commit.step@1"),
        ("snapshot_diff", "commit.planned"),
    ];
    every_case(cases, |(by, step)| {
        let strategy = strategy(by);
        let case = Case::new(From::Postgres, strategy, target("lightweight deletion"));
        case.project.run(FILE, "first").ok();
        case.oracle(strategy);
        orders::change(&case.pg);
        case.oracle(strategy);
        let sleeper = case.project.spawn(FILE, "sleeper", &format!("{step}=sleep:9000"));
        std::thread::sleep(Duration::from_millis(2500));
        // Its process stands still, and its lease runs out.
        let signal = |name: &str| {
            let sent = std::process::Command::new("kill").args([name, &sleeper.id().to_string()]).status().unwrap();
            assert!(sent.success());
        };
        signal("-STOP");
        case.pg.execute("INSERT INTO shop.orders (order_id, customer, business_date, updated_at) VALUES (5001, 'later', '2025-07-01', '2025-07-01Z')");
        case.rerun("second");
        let after = case.oracle(strategy);
        assert_same_rows(&format!("{by}, taken over at {step}"), after.clone(), case.rows());
        signal("-CONT");
        let outcome = Outcome::new(&["run"], sleeper.wait_with_output().unwrap());
        if *step == "commit.begun" {
            // Nothing of it was written down, so nobody finished it.
            outcome.failed("conflict");
        }
        assert_same_rows(&format!("{by}, the sleeper woke up at {step}"), after.clone(), case.rows());
        let outcome = case.rerun("third");
        if by.starts_with("incremental") {
            assert!(
                outcome.rows("extracted") < 5,
                "{by}, {step}: the sleeper moved the state back: {}",
                outcome.text()
            );
        }
        assert_same_rows(&format!("{by}, the run after the sleeper of {step}"), after, case.rows());
    });
}

/// It wakes up in the middle of the run that finishes its commit: each of its statements would still find its tables.
#[test]
fn a_run_that_wakes_up_while_another_finishes_its_commit_does_nothing() {
    let cases = [
        ("lightweight deletion", "incremental_merge"),
        ("lightweight deletion", "replace"),
        ("months", "snapshot_diff"),
    ];
    every_case(cases, |(into, by)| {
        let strategy = strategy(by);
        let case = Case::new(From::Postgres, strategy, target(into));
        case.project.run(FILE, "first").ok();
        case.outside(strategy);
        case.oracle(strategy);
        orders::change(&case.pg);
        let after = case.oracle(strategy);
        let sleeper = case.project.spawn(FILE, "sleeper", "commit.planned=sleep:7000");
        std::thread::sleep(Duration::from_millis(2500));
        let signal = |name: &str| {
            let sent = std::process::Command::new("kill").args([name, &sleeper.id().to_string()]).status().unwrap();
            assert!(sent.success());
        };
        signal("-STOP");
        std::thread::sleep(Duration::from_millis(1500));
        // All statements are done, the tables of the load are still there, and the sleeper goes on with its first one.
        let second = case.project.spawn(FILE, "second", "commit.recorded=sleep:9000");
        std::thread::sleep(Duration::from_millis(2500));
        signal("-CONT");
        sleeper.wait_with_output().unwrap();
        assert_same_rows(&format!("{by} into {into}, while the other one stands still"), after.clone(), case.rows());
        second.wait_with_output().unwrap();
        case.rerun("third");
        assert_same_rows(&format!("{by} into {into}, after both"), after, case.rows());
    });
}
