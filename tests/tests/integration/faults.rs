//! kill -9 at every step of the commit protocol: the target equals the oracle after a rerun, and nobody who reads the
//! table ever sees a part of a load.

use std::time::{Duration, Instant};

use dpone_tests::{COMMIT_STEPS, Lake, Outcome, Pg, PollingReader, Project, assert_same_rows, every_case};

use crate::matrix::{From, Into, manifest, target_rows};
use crate::orders::{self, STRATEGIES, Strategy};

const FILE: &str = "load.yaml";

/// A project after its first load, with changes waiting in the source.
struct Loaded {
    pg: Pg,
    project: Project,
    into: Into,
    before: Vec<String>,
    after: Vec<String>,
}

impl Loaded {
    fn new(into: Into, strategy: &Strategy) -> Self {
        let pg = Pg::new();
        // A killed run's lease runs out after a second, so that the rerun need not wait a minute.
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).argument("--lease-seconds").argument("1");
        project.write(FILE, manifest(From::Postgres, into, strategy));
        orders::seed(&pg);
        project.run(FILE, "first").ok();
        pg.execute(strategy.oracle);
        let before = oracle(&pg);
        orders::change(&pg);
        pg.execute(strategy.oracle);
        let after = oracle(&pg);
        assert_ne!(before, after);
        Self { pg, project, into, before, after }
    }

    fn rows(&self) -> Vec<String> {
        let mut rows = target_rows(&self.pg, &self.project, self.into);
        rows.sort_unstable();
        rows
    }

    /// Runs until the lease of the killed run has run out.
    fn rerun(&self, run_id: &str) -> Outcome {
        let began = Instant::now();
        loop {
            let outcome = self.project.run(FILE, run_id);
            if outcome.code() == Some(0) || began.elapsed() > Duration::from_secs(15) {
                return outcome.ok();
            }
            outcome.failed("conflict").says("process");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn oracle(pg: &Pg) -> Vec<String> {
    let mut rows = pg.column(&format!("SELECT {} FROM oracle.orders", orders::postgres_row()));
    rows.sort_unstable();
    rows
}

fn killed_at_every_step(strategy: &str) {
    let strategy = STRATEGIES.iter().find(|s| s.name == strategy).unwrap();
    every_case(COMMIT_STEPS, |step| {
        let loaded = Loaded::new(Into::Postgres, strategy);
        let checksum = |pg: &Pg| pg.value(&PollingReader::query("landing.orders"));
        let reader = PollingReader::start(loaded.pg.url(), "landing.orders");
        let before = checksum(&loaded.pg);

        loaded.project.run_with_failpoint(FILE, "second", &format!("{step}=kill")).killed();
        let rows = loaded.rows();
        assert!(rows == loaded.before || rows == loaded.after, "killed at {step}: part of a load is visible");
        let committed = rows == loaded.after;

        let outcome = loaded.rerun("second");
        let expected = if committed { "already_committed" } else { "committed" };
        assert_eq!(outcome.status(), expected, "killed at {step}: {}", outcome.text());
        assert_same_rows(&format!("rerun after {step}"), loaded.after.clone(), loaded.rows());

        let seen = reader.stop();
        assert_eq!(seen, [before, checksum(&loaded.pg)], "killed at {step}: what a reader saw, in order");
        // A run that finds itself loaded touches nothing; the next one that loads clears what the killed one left.
        loaded.rerun("third");
        assert_eq!(loaded.pg.leftovers(), Vec::<String>::new(), "killed at {step}: staging of the killed run is gone");
    });
}

#[test]
fn full_refresh_exchange_survives_kill_at_every_step() {
    killed_at_every_step("full_refresh (exchange)");
}

#[test]
fn full_refresh_truncate_insert_survives_kill_at_every_step() {
    killed_at_every_step("full_refresh (truncate_insert)");
}

#[test]
fn replace_survives_kill_at_every_step() {
    killed_at_every_step("replace");
}

#[test]
fn incremental_append_survives_kill_at_every_step() {
    killed_at_every_step("incremental_append");
}

#[test]
fn incremental_merge_survives_kill_at_every_step() {
    killed_at_every_step("incremental_merge");
}

#[test]
fn snapshot_diff_survives_kill_at_every_step() {
    killed_at_every_step("snapshot_diff");
}

fn a_lake_survives_kill_at_every_step(lake: Lake) {
    // One of each way to write.
    for strategy in &STRATEGIES[..5] {
        every_case(COMMIT_STEPS, |step| {
            let loaded = Loaded::new(Into::Lake(lake), strategy);
            loaded.project.run_with_failpoint(FILE, "second", &format!("{step}=kill")).killed();
            let rows = loaded.rows();
            assert!(rows == loaded.before || rows == loaded.after, "killed at {step}: part of a load is visible");
            loaded.rerun("second");
            assert_same_rows(&format!("{strategy:?}, rerun after {step}"), loaded.after.clone(), loaded.rows());
        });
    }
}

#[test]
fn delta_survives_kill_at_every_step() {
    a_lake_survives_kill_at_every_step(Lake::Delta);
}

#[test]
fn parquet_survives_kill_at_every_step() {
    a_lake_survives_kill_at_every_step(Lake::Parquet);
}

#[test]
fn a_lost_acknowledgement_is_looked_up_and_the_load_is_not_repeated() {
    let sinks = [
        (Into::Postgres, "commit.acknowledged"),
        (Into::Lake(Lake::Delta), "commit.applied"),
        (Into::Lake(Lake::Parquet), "commit.applied"),
    ];
    every_case(sinks, |(into, step)| {
        every_case(STRATEGIES, |strategy| {
            let loaded = Loaded::new(*into, strategy);
            let outcome = loaded.project.run_with_failpoint(FILE, "second", &format!("{step}=lost_ack")).ok();
            assert_eq!(outcome.status(), "committed", "{}", outcome.text());
            assert_same_rows("after a lost acknowledgement", loaded.after.clone(), loaded.rows());
            assert_eq!(loaded.pg.leftovers(), Vec::<String>::new());
        });
    });
}

#[test]
fn the_same_run_id_twice_is_loaded_once() {
    every_case([Into::Postgres, Into::Lake(Lake::Delta), Into::Lake(Lake::Parquet)], |into| {
        every_case(STRATEGIES, |strategy| {
            let loaded = Loaded::new(*into, strategy);
            let outcome = loaded.project.run(FILE, "first").ok();
            assert_eq!(outcome.status(), "already_committed", "{}", outcome.text());
            assert_eq!(outcome.json()["run_id"], "first");
            assert_same_rows("the changes wait for a run of their own", loaded.before.clone(), loaded.rows());
        });
    });
}

#[test]
fn of_two_runs_at_once_one_wins_and_the_other_says_who_holds_the_lease() {
    every_case([Into::Postgres, Into::Lake(Lake::Delta), Into::Lake(Lake::Parquet)], |into| {
        let strategy = &STRATEGIES[4];
        let loaded = Loaded::new(*into, strategy);
        let winner = loaded.project.spawn(FILE, "winner", "staged=sleep:4000");
        let process = format!("process {}", winner.id());
        let began = Instant::now();
        // Until the winner has its lease, the other would win.
        std::thread::sleep(Duration::from_millis(1500));
        loaded.project.run(FILE, "other").failed("conflict").says(&process);
        assert!(began.elapsed() < Duration::from_secs(4), "the other did not wait");
        // The winner's lease outlives its time to live because the run renews it.
        std::thread::sleep(Duration::from_millis(1000));
        loaded.project.run(FILE, "other").failed("conflict");
        Outcome::new(&["run"], winner.wait_with_output().unwrap()).ok();
        assert_same_rows("the winner loaded", loaded.after.clone(), loaded.rows());
    });
}
