//! Locks: nobody waits behind a change for longer than the budget, and a table that is in use puts the change off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dpone_tests::{Outcome, assert_same_rows, connect};

use super::types::entries;
use super::{columns, evolving};
use crate::problems::database;

const SEED: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'x'), (2, 'y')";
const MERGE: &str = "mode: incremental_merge, unique_key: [id]";

/// The longest time that one statement took, again and again until it is stopped.
fn longest(url: String, sql: &'static str, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Duration> {
    std::thread::spawn(move || {
        let (runtime, client) = connect(&url);
        let mut longest = Duration::ZERO;
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            runtime.block_on(client.batch_execute(sql)).unwrap();
            longest = longest.max(began.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        longest
    })
}

#[test]
fn a_table_in_use_puts_the_change_off_and_stalls_nobody_beyond_the_budget() {
    let pg = database(SEED);
    let project = evolving(&pg, MERGE, "lock_timeout_seconds: 1, ledger_path: ledger");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    // A reader that does not come to its end.
    let (runtime, idler) = connect(&format!("{}&application_name=report-job", pg.url()));
    runtime.block_on(idler.batch_execute("BEGIN; SELECT * FROM landing.t")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = longest(pg.url().to_owned(), "SELECT count(*) FROM landing.t", Arc::clone(&stop));
    let writer = longest(pg.url().to_owned(), "UPDATE landing.t SET v = v WHERE id = 1", Arc::clone(&stop));
    let outcome = project.run("load.yaml", "two").failed("transient");
    stop.store(true, Ordering::Relaxed);
    let (reader, writer) = (reader.join().unwrap(), writer.join().unwrap());
    outcome.says("deferred").says("report-job");
    assert!(outcome_hides_queries(&project, "SELECT * FROM landing.t"));
    assert!(reader > Duration::from_millis(500), "the change did ask for its lock: {reader:?}");
    let budget = Duration::from_millis(1700);
    assert!(reader < budget && writer < budget, "reader {reader:?}, writer {writer:?}");
    assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v text"]);
    assert_eq!(entries(&project, "ledger"), ["planned", "deferred"]);
    assert_eq!(pg.leftovers(), Vec::<String>::new());
    // When the reader has gone, it is done.
    runtime.block_on(idler.batch_execute("COMMIT")).unwrap();
    project.run("load.yaml", "three").ok();
    assert_same_rows("in the end", pg.rows("shop.t"), pg.rows("landing.t"));
}

fn outcome_hides_queries(project: &dpone_tests::Project, query: &str) -> bool {
    let folder = std::fs::read_dir(project.path("ledger")).unwrap();
    folder
        .map(|f| f.unwrap().path())
        .filter(|p| p.is_file())
        .all(|path| !std::fs::read_to_string(path).unwrap().contains(query))
}

#[test]
fn a_lock_that_becomes_free_is_taken_by_a_later_attempt() {
    let pg = database(SEED);
    let project = evolving(&pg, MERGE, "lock_timeout_seconds: 1");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    let (runtime, idler) = connect(pg.url());
    runtime.block_on(idler.batch_execute("BEGIN; SELECT * FROM landing.t")).unwrap();
    let run = project.spawn("load.yaml", "two", "");
    std::thread::sleep(Duration::from_millis(2000));
    runtime.block_on(idler.batch_execute("COMMIT")).unwrap();
    Outcome::new(&["run", "two"], run.wait_with_output().unwrap()).ok();
    assert_same_rows("waited for", pg.rows("shop.t"), pg.rows("landing.t"));
}

#[test]
fn a_killed_change_is_made_once_by_the_next_run() {
    for step in ["evolve.begun", "evolve.applied", "staging.prepared"] {
        let pg = database(SEED);
        let project = evolving(&pg, MERGE, "ledger_path: ledger").argument("--lease-seconds").argument("1");
        project.run("load.yaml", "one").ok();
        pg.execute(
            "ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7; ALTER TABLE landing.t ALTER v TYPE varchar(9); \
             INSERT INTO shop.t VALUES (3, 'long enough text', 8)",
        );
        project.run_with_failpoint("load.yaml", "two", &format!("{step}=kill")).killed();
        std::thread::sleep(Duration::from_millis(1200));
        project.run("load.yaml", "three").ok();
        assert_eq!(columns(&pg, "landing.t"), ["id integer not null", "v text", "fresh integer"], "{step}");
        assert_same_rows(step, pg.rows("shop.t"), pg.rows("landing.t"));
        let last = entries(&project, "ledger");
        assert!(last.contains(&"planned".to_owned()), "{step}: {last:?}");
        assert_eq!(pg.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn a_budget_does_not_outlive_its_transaction_and_bounds_the_statement() {
    let pg = database(SEED);
    pg.execute("INSERT INTO shop.t SELECT i, 'x' FROM generate_series(3, 200) i");
    let project =
        evolving(&pg, MERGE, "lock_timeout_seconds: 1, statement_timeout_seconds: 1, allow_blocking_online: true");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int");
    // The load itself takes longer than a statement of the change may.
    let run = project.run_with_failpoint("load.yaml", "two", "stage.partition.started=sleep:1500");
    run.ok();
    assert_eq!(pg.count("landing.t"), 200);
}

#[test]
fn two_changes_meet_and_both_loads_end_well() {
    let pg = database(SEED);
    let project = evolving(&pg, MERGE, "");
    project.run("load.yaml", "one").ok();
    pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    let run = project.spawn("load.yaml", "two", "evolve.begun=sleep:1000");
    std::thread::sleep(Duration::from_millis(500));
    pg.execute("ALTER TABLE landing.t ADD COLUMN fresh int");
    Outcome::new(&["run", "two"], run.wait_with_output().unwrap()).ok();
    assert_same_rows("somebody else was faster", pg.rows("shop.t"), pg.rows("landing.t"));
}
