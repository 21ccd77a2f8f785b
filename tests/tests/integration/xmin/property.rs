//! The property: after every run the target equals the source as of the run's snapshot, whatever transactions did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dpone_tests::{Outcome, Pg, assert_same_rows, connect};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{FILE, MERGE, Place, alone, manifest};

/// Numbers that a seed repeats: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// `DPONE_PROPTEST_SEED` repeats one case, `DPONE_PROPTEST_CASES` asks for more of them.
fn seeds(most: u64) -> Vec<u64> {
    if let Ok(seed) = std::env::var("DPONE_PROPTEST_SEED") {
        return vec![seed.parse().expect("DPONE_PROPTEST_SEED is a number")];
    }
    let cases = std::env::var("DPONE_PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(most);
    let base = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
    (0..cases).map(|case| Random(base.wrapping_add(case)).next()).collect()
}

/// Says which seed failed.
#[allow(clippy::print_stderr)]
fn with_seed(seed: u64, case: impl FnOnce()) {
    if let Err(cause) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)) {
        eprintln!("to repeat: DPONE_PROPTEST_SEED={seed}");
        std::panic::resume_unwind(cause);
    }
}

/// One connection with its transaction. It changes rows of its own only, so that nobody ever waits for a lock.
struct Writer {
    runtime: Runtime,
    client: Client,
    own: u64,
    open: bool,
    savepoints: u64,
    log: Vec<String>,
}

const WRITERS: u64 = 4;

impl Writer {
    fn new(url: &str, own: u64) -> Self {
        let (runtime, client) = connect(url);
        Self { runtime, client, own, open: false, savepoints: 0, log: Vec::new() }
    }

    fn run(&mut self, sql: String) {
        if let Err(error) = self.runtime.block_on(self.client.batch_execute(&sql)) {
            panic!("{error:?}: {sql}, after {:#?}", self.log);
        }
        self.log.push(sql);
    }

    fn key(&self, random: &mut Random) -> u64 {
        random.below(60) * WRITERS + self.own
    }

    fn act(&mut self, random: &mut Random) {
        if !self.open && random.chance(60) {
            self.run("BEGIN".into());
            (self.open, self.savepoints) = (true, 0);
        }
        let (key, other, value) = (self.key(random), self.key(random), random.below(5));
        match random.below(if self.open { 14 } else { 8 }) {
            0..=2 => self.run(format!(
                "INSERT INTO shop.t VALUES ({key}, 'v{value}', {value}) ON CONFLICT (id) DO UPDATE SET v = 'again', n = {value}"
            )),
            3 | 4 => self.run(format!("UPDATE shop.t SET v = 'u{value}', n = NULLIF({value}, 0) WHERE id = {key}")),
            5 | 6 => self.run(format!("DELETE FROM shop.t WHERE id = {key}")),
            7 => self.run(format!(
                "UPDATE shop.t SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM shop.t WHERE id = {other})"
            )),
            8 | 9 => {
                self.savepoints += 1;
                self.run(format!("SAVEPOINT s{}", self.savepoints));
            }
            10 if self.savepoints > 0 => self.run(format!("ROLLBACK TO SAVEPOINT s{}", self.savepoints)),
            11 if self.savepoints > 0 => {
                self.run(format!("RELEASE SAVEPOINT s{}", self.savepoints));
                self.savepoints -= 1;
            }
            _ => self.end(random.chance(70)),
        }
    }

    fn end(&mut self, commit: bool) {
        if self.open {
            self.run(if commit { "COMMIT" } else { "ROLLBACK" }.into());
            self.open = false;
        }
    }
}

/// What happens to the table as a whole.
fn maintain(pg: &Pg, writers: &mut [Writer], random: &mut Random, whole: bool) {
    let what = random.below(if whole { 8 } else { 5 });
    if what >= 5 {
        // Those wait for every transaction that touched the table.
        for writer in writers.iter_mut() {
            let commit = random.chance(50);
            writer.end(commit);
        }
    }
    match what {
        0 | 1 => pg.execute("VACUUM FREEZE shop.t"),
        2 => pg.execute("VACUUM shop.t"),
        3 => pg.execute("ANALYZE shop.t"),
        4 => (0..random.below(20)).for_each(|_| pg.execute("SELECT txid_current()")),
        5 => pg.execute("VACUUM FULL shop.t"),
        6 => pg.execute("TRUNCATE shop.t"),
        _ => pg.execute("CLUSTER shop.t USING t_pkey"),
    }
}

const TABLE: &str = "CREATE TABLE shop.t (id bigint PRIMARY KEY, v text, n int) WITH (fillfactor = 50); \
                     INSERT INTO shop.t SELECT i, 'v' || i, i FROM generate_series(1, 100) i";

fn any(strategy: &str) -> String {
    format!("{strategy}, empty_source: allow, max_delete_ratio: 1")
}

fn transactions_in_any_order(major: u32, reconciled: bool) {
    for seed in seeds(2) {
        with_seed(seed, || {
            let mut random = Random(seed);
            let more = if reconciled { "reconciliation: true" } else { "reconciliation: false" };
            let place = Place::on(Pg::major(major), TABLE, &any(MERGE), more);
            let mut writers: Vec<_> = (0..WRITERS).map(|own| Writer::new(place.pg.url(), own)).collect();
            for round in 0..14 {
                for _ in 0..random.below(30) {
                    let writer = random.below(WRITERS) as usize;
                    writers[writer].act(&mut random);
                }
                if random.chance(40) {
                    maintain(&place.pg, &mut writers, &mut random, reconciled);
                }
                let run_id = format!("round {round}");
                if random.chance(15) {
                    let steps = ["stage.partition.batch", "staged", "commit.applied", "commit.acknowledged"];
                    let step = steps[random.below(steps.len() as u64) as usize];
                    place.project.run_with_failpoint(FILE, &run_id, &format!("{step}=kill"));
                    // The killed run's lease lasts a second.
                    std::thread::sleep(Duration::from_millis(1200));
                }
                place.project.run(FILE, &run_id).ok();
                // Nobody has committed since: what is committed now is what the snapshot showed.
                if reconciled {
                    place.same(&run_id);
                } else {
                    let loaded = place.pg.column("SELECT t::text FROM landing.t t WHERE id IN (SELECT id FROM shop.t)");
                    assert_same_rows(&run_id, place.pg.rows("shop.t"), loaded);
                }
            }
        });
    }
}

#[test]
fn the_target_equals_the_source_after_every_run_on_postgres_11() {
    let _turn = alone();
    transactions_in_any_order(11, true);
}

#[test]
fn the_target_equals_the_source_after_every_run_on_postgres_18() {
    let _turn = alone();
    transactions_in_any_order(18, true);
}

#[test]
fn without_reconciliation_every_row_of_the_source_is_there() {
    let _turn = alone();
    transactions_in_any_order(18, false);
}

#[test]
fn versions_are_appended_once_each() {
    let _turn = alone();
    for seed in seeds(2) {
        with_seed(seed, || {
            let mut random = Random(seed);
            let place = Place::on(Pg::new(), TABLE, "mode: incremental_append", "");
            // Every version that was ever committed, told by the table itself: no two are alike.
            place.pg.execute(
                "ALTER TABLE shop.t ADD COLUMN version bigint; CREATE SEQUENCE shop.versions; \
                 CREATE FUNCTION shop.count() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN NEW.version := nextval(''shop.versions''); RETURN NEW; END'; \
                 CREATE TRIGGER count BEFORE INSERT OR UPDATE ON shop.t FOR EACH ROW EXECUTE PROCEDURE shop.count(); \
                 UPDATE shop.t SET v = v",
            );
            let mut writers: Vec<_> = (0..WRITERS).map(|own| Writer::new(place.pg.url(), own)).collect();
            for round in 0..14 {
                for _ in 0..random.below(30) {
                    let writer = random.below(WRITERS) as usize;
                    writers[writer].act(&mut random);
                }
                if random.chance(30) {
                    maintain(&place.pg, &mut writers, &mut random, false);
                }
                place.project.run(FILE, &format!("round {round}")).ok();
                let twice = "SELECT version FROM landing.t GROUP BY version HAVING count(*) > 1";
                assert_eq!(place.pg.column(twice), Vec::<String>::new(), "round {round}: each version once");
            }
            writers.iter_mut().for_each(|writer| writer.end(true));
            place.run().ok();
            let missing = "SELECT version FROM shop.t WHERE version NOT IN (SELECT version FROM landing.t)";
            assert_eq!(place.pg.column(missing), Vec::<String>::new(), "every version that is there came");
        });
    }
}

/// Commits transactions until it is stopped.
fn busy_writer(url: String, own: u64, seed: u64, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut writer, mut random) = (Writer::new(&url, own), Random(seed ^ own));
        while !stop.load(Ordering::SeqCst) {
            writer.act(&mut random);
            if random.chance(5) {
                std::thread::sleep(Duration::from_millis(random.below(40)));
            }
            writer.log.clear();
        }
        writer.end(true);
    })
}

/// The rows of the source in every snapshot of the database that somebody has exported, by the snapshot's name.
fn rows_by_snapshot(place: &Place) -> Vec<(String, Vec<String>)> {
    let names = place.pg.column("SELECT pg_ls_dir('pg_snapshots')");
    let read = |name: &String| {
        let (runtime, client) = connect(place.pg.url());
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'; SELECT t::text FROM shop.t t"
        );
        // It may be gone by now, or belong to another database.
        let messages = runtime.block_on(client.simple_query(&sql)).ok()?;
        let text = |m: &SimpleQueryMessage| match m {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        Some((name.clone(), messages.iter().filter_map(text).collect()))
    };
    names.iter().filter_map(read).collect()
}

#[test]
fn the_target_equals_the_snapshot_while_others_go_on_writing() {
    let _turn = alone();
    let seed = seeds(1)[0];
    with_seed(seed, || {
        let place = Place::on(Pg::new(), TABLE, &any(MERGE), "reconciliation: true");
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> =
            (0..WRITERS).map(|own| busy_writer(place.pg.url().to_owned(), own, seed, Arc::clone(&stop))).collect();
        for round in 0..6 {
            let run_id = format!("round {round}");
            let run = place.project.spawn(FILE, &run_id, "staging.prepared=sleep:700");
            let began = Instant::now();
            let mut seen = Vec::new();
            while seen.is_empty() && began.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(50));
                seen = rows_by_snapshot(&place);
            }
            // The target is read in a snapshot of its own, which is taken a moment later.
            std::thread::sleep(Duration::from_millis(150));
            seen.extend(rows_by_snapshot(&place));
            let outcome = Outcome::new(&["run"], run.wait_with_output().unwrap()).ok();
            let position = outcome.json()["result"]["details"]["source_position"].as_str().unwrap().to_owned();
            let expected = seen.into_iter().find(|(name, _)| position.contains(name.as_str()));
            let (_, expected) = expected.unwrap_or_else(|| panic!("the run's snapshot was not caught: {position}"));
            assert_same_rows(&run_id, expected, place.pg.rows("landing.t"));
        }
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().for_each(|writer| writer.join().expect("the writer does not panic"));
        place.project.run(FILE, "last").ok();
        place.same("when all is quiet");
    });
}

#[test]
fn a_rewrite_under_the_read_fails_the_run_and_the_next_one_is_right() {
    let _turn = alone();
    let place = Place::on(Pg::new(), TABLE, &any(MERGE), "reconciliation: true");
    place.run().ok();
    place.pg.execute("DELETE FROM shop.t WHERE id <= 5");
    let before = place.pg.rows("landing.t");
    let run = place.project.spawn(FILE, "under", "staged=sleep:1500");
    std::thread::sleep(Duration::from_millis(700));
    place.pg.execute("TRUNCATE shop.t");
    place.pg.execute("INSERT INTO shop.t VALUES (1, 'new', 1)");
    Outcome::new(&["run"], run.wait_with_output().unwrap()).failed("transient").says("truncated, rewritten");
    assert_same_rows("nothing was committed", before, place.pg.rows("landing.t"));
    place.run().ok();
    place.same("the next run");
}

#[test]
fn an_alter_that_waits_does_not_lock_the_read_out() {
    let _turn = alone();
    let place = Place::on(Pg::new(), TABLE, &any(MERGE), "reconciliation: true");
    place.project.write(FILE, manifest("t", &any(MERGE), "reconciliation: true"));
    let run = place.project.spawn(FILE, "one", "staging.prepared=sleep:1500");
    std::thread::sleep(Duration::from_millis(700));
    let began = Instant::now();
    place.pg.execute("SET lock_timeout = '5s'; ALTER TABLE shop.t ADD CONSTRAINT positive CHECK (id >= 0)");
    assert!(began.elapsed() < Duration::from_secs(3), "nothing holds the table between the parts of a read");
    Outcome::new(&["run"], run.wait_with_output().unwrap()).ok();
    place.same("altered meanwhile");
}
