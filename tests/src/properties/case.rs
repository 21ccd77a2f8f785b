//! One case: a source that changes, runs that load it, and after each the question whether the target is right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::oracle::{Counts, Kind, Oracle, Refusal, Row, Strategy, load_time};
use crate::{COMMIT_STEPS, COMMIT_STEPS_BETWEEN, ClickHouse, Outcome, Pg, Project, assert_same_rows};

use super::definition::manifest;
use super::mirror::mirror;
use super::source::lines;
use super::target::clickhouse_rows;
use super::{DeltaReader, Design, Origin, Random, Sink, SourceTable, postgres_rows, values};

const FILE: &str = "load.yaml";
const STEPS: usize = 8;

type Expected = Result<Counts, Refusal>;

struct Case<'a> {
    pg: Pg,
    clickhouse: Option<ClickHouse>,
    project: Project,
    from: Origin,
    sink: Sink,
    reader: Option<&'a mut DeltaReader>,
    source: SourceTable,
    oracle: Oracle,
    runs: usize,
    /// The moments that the target shows, as the oracle spells them.
    moments: BTreeMap<String, String>,
    told: &'a mut Told,
}

/// What happened: every step of one case, and the sums over all.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) history: Vec<String>,
    pub(super) sums: BTreeMap<&'static str, u64>,
}

impl Told {
    fn add(&mut self, what: &'static str, count: u64) {
        *self.sums.entry(what).or_default() += count;
    }
}

pub(super) fn run(
    seed: u64,
    from: Origin,
    sink: Sink,
    design: &impl Fn(&mut Random) -> Design,
    reader: Option<&mut DeltaReader>,
    told: &mut Told,
) {
    let with_clickhouse = from == Origin::ClickHouse || sink == Sink::ClickHouse;
    values::narrow_times(with_clickhouse);
    let random = &mut Random::new(seed);
    let mut design = design(random);
    if from == Origin::ClickHouse {
        super::mirror::fit(&mut design);
    }
    let pg = Pg::new();
    pg.execute("CREATE SCHEMA shop; CREATE SCHEMA landing");
    // A killed run's lease runs out after a second, so that the rerun need not wait a minute.
    let mut project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).argument("--lease-seconds").argument("1");
    let clickhouse = with_clickhouse.then(ClickHouse::new);
    if let Some(clickhouse) = &clickhouse {
        project = project.env("DPONE_CONN_CH_URL", clickhouse.url());
    }
    let manifest = manifest(&design, from, sink, clickhouse.as_ref().map(|c| c.database.as_str()));
    project.write(FILE, &manifest);
    told.history.push(manifest);
    told.history.push(format!("{:?}", design.shape));
    let mut oracle = Oracle::new(design.shape.clone(), design.strategy);
    if design.target_made_before {
        let columns: Vec<_> =
            design.shape.columns.iter().map(|c| format!("\"{}\" {}", c.name, c.target.postgres())).collect();
        pg.execute(&format!("CREATE TABLE landing.t ({})", columns.join(", ")));
        oracle = oracle.with_empty_target();
    }
    let source = SourceTable::create(&pg, "shop.t", &design.shape, design.freedom, random);
    told.history.push(format!("first rows: {:#?}", lines(&source.rows)));
    let mut case =
        Case { pg, clickhouse, project, from, sink, reader, source, oracle, runs: 0, moments: BTreeMap::new(), told };
    for _ in 0..STEPS {
        case.step(random);
    }
}

impl Case<'_> {
    fn step(&mut self, random: &mut Random) {
        if random.chance(50) {
            self.told.history.extend(self.source.repair(&self.pg));
        }
        self.told.history.extend(self.source.mutate(&self.pg, random));
        self.source.check(&self.pg);
        match random.below(10) {
            0..2 => self.killed(random),
            2 => self.same_run_id_twice(),
            3 => {
                self.plain();
                self.plain();
            }
            _ => self.plain(),
        }
    }

    /// One run, by its own run id, from beginning to end.
    fn plain(&mut self) {
        let run_id = self.next_run();
        let outcome = self.run_dpone(&run_id, "");
        let expected = self.oracle.load(&self.source.rows);
        self.judge(&run_id, &outcome, &expected);
    }

    fn same_run_id_twice(&mut self) {
        self.plain();
        let run_id = format!("run-{}", self.runs);
        self.told.history.extend(self.source.repair(&self.pg));
        let before = self.target(self.oracle.loads);
        let first = self.run_dpone(&run_id, "");
        match first.code() {
            Some(0) if first.status() == "already_committed" => {
                assert_same_rows("the same run id again", lines(&before), lines(&self.target(self.oracle.loads)));
            }
            // The first attempt was refused: this one is a run like any other.
            _ => {
                let expected = self.oracle.load(&self.source.rows);
                self.judge(&run_id, &first, &expected);
            }
        }
    }

    /// A run that dies at a step, and the next one: as if the first had happened, or had not.
    fn killed(&mut self, random: &mut Random) {
        if self.sink == Sink::ClickHouse && random.chance(50) {
            return self.killed_between(random);
        }
        let step = random.pick(COMMIT_STEPS);
        let run_id = self.next_run();
        let outcome = self.run_dpone(&run_id, &format!("{step}=kill"));
        let mut after = self.oracle.clone();
        let expected = after.load(&self.source.rows);
        if outcome.code().is_some() {
            // It was refused before it came to the step, or had nothing to stage.
            self.oracle = after;
            return self.judge(&run_id, &outcome, &expected);
        }
        let outcome = outcome.killed();
        self.told.add("killed", 1);
        let found = self.target(self.oracle.loads + 1);
        let is = |oracle: &Oracle| same(oracle.rows(), &found);
        let (before_it, after_it) = (is(&self.oracle), is(&after));
        assert!(before_it || after_it, "killed at {step}: part of a load is visible: {:#?}", lines(&found));
        drop(outcome);
        if before_it != after_it && random.chance(50) {
            // Another run id: the scheduler gave up on the first.
            if after_it {
                self.oracle = after;
            }
            return self.plain();
        }
        let outcome = self.run_dpone(&run_id, "");
        if outcome.code() == Some(0) && outcome.status() == "already_committed" {
            assert!(after_it, "killed at {step}: {run_id} says that it was committed, but its rows are not there");
            self.oracle = after;
            self.judge_receipt(&run_id, &outcome, expected.as_ref().expect("a refused run is not committed"));
        } else {
            assert!(before_it, "killed at {step}: {run_id} was committed, but does not know it");
            self.oracle = after;
            self.judge(&run_id, &outcome, &expected);
        }
    }

    /// A run that dies when its commit is written down and not finished. Whatever readers see then, the next run of the
    /// pipeline finishes it first.
    fn killed_between(&mut self, random: &mut Random) {
        let step = random.pick(COMMIT_STEPS_BETWEEN);
        let run_id = self.next_run();
        let outcome = self.run_dpone(&run_id, &format!("{step}=kill"));
        let expected = self.oracle.load(&self.source.rows);
        if outcome.code().is_some() {
            // It was refused, or its commit had fewer steps.
            return self.judge(&run_id, &outcome, &expected);
        }
        drop(outcome.killed());
        self.told.add("killed between", 1);
        // Two loads that are seen at once could not be told apart by their times.
        if !self.oracle.keeps_load_times() && random.chance(50) {
            return self.plain();
        }
        let outcome = self.run_dpone(&run_id, "");
        assert_eq!(outcome.status(), "already_committed", "killed at {step}, {run_id}: {}", outcome.text());
        self.judge_receipt(&run_id, &outcome, expected.as_ref().expect("a refused run is not committed"));
        let found = self.target(self.oracle.loads);
        assert_same_rows(&format!("finished after a kill at {step}"), lines(self.oracle.rows()), lines(&found));
    }

    fn next_run(&mut self) -> String {
        self.runs += 1;
        format!("run-{}", self.runs)
    }

    /// Runs until the lease of a killed run has run out.
    fn run_dpone(&mut self, run_id: &str, failpoint: &str) -> Outcome {
        self.told.history.push(format!("dpone run, {run_id} {failpoint}"));
        if let Some(clickhouse) = self.clickhouse.as_ref().filter(|_| self.from == Origin::ClickHouse) {
            mirror(clickhouse, &self.source);
        }
        let began = Instant::now();
        loop {
            let outcome = self.project.run_with_failpoint(FILE, run_id, failpoint);
            let held = outcome.code() == Some(1) && outcome.stderr().contains("(process ");
            if !held || began.elapsed() > Duration::from_secs(15) {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn judge(&mut self, run_id: &str, outcome: &Outcome, expected: &Expected) {
        match expected {
            Ok(counts) => {
                assert_eq!(outcome.code(), Some(0), "{run_id} must do {counts:?}: {}", outcome.text());
                assert_eq!(outcome.status(), "committed", "{run_id}: {}", outcome.text());
                self.judge_receipt(run_id, outcome, counts);
            }
            Err(refusal) => {
                self.told.add("refused", 1);
                assert!(
                    outcome.code().is_some_and(|c| c != 0),
                    "{run_id} must be refused, {refusal:?}: {}",
                    outcome.text()
                );
                assert_eq!(outcome.json()["result"]["error_class"], refusal.kind, "{run_id}: {}", outcome.text());
                for part in &refusal.says {
                    assert!(outcome.stderr().contains(part), "{run_id} must say {part:?}: {}", outcome.text());
                }
            }
        }
        let what = format!("the target after {run_id}, {expected:?}");
        let found = self.target(self.oracle.loads);
        assert_same_rows(&what, lines(self.oracle.rows()), lines(&found));
    }

    fn judge_receipt(&mut self, run_id: &str, outcome: &Outcome, counts: &Counts) {
        self.told.add("committed", 1);
        let sums = [counts.inserted, counts.updated, counts.deleted, counts.unchanged, counts.quarantined];
        for (what, count) in ["inserted", "updated", "deleted", "unchanged", "quarantined"].into_iter().zip(sums) {
            self.told.add(what, count);
        }
        let rows = |which| outcome.rows(which);
        let reads_again = matches!(self.oracle.strategy, Strategy::Scd2(_)) && self.oracle.shape.cursor.is_some();
        let found = Counts {
            extracted: counts.extracted.map(|_| rows("extracted")),
            inserted: rows("inserted"),
            updated: rows("updated"),
            deleted: rows("deleted"),
            unchanged: if reads_again { counts.unchanged } else { rows("unchanged") },
            quarantined: rows("quarantined"),
        };
        assert_eq!(found, *counts, "the receipt of {run_id} (left) and the oracle: {}", outcome.text());
        let (extracted, staged) = (rows("extracted"), rows("staged"));
        let fates = match &self.oracle.strategy {
            // Only differences travel.
            Strategy::SnapshotDiff(_) => rows("inserted") + rows("updated") + rows("unchanged") + rows("quarantined"),
            Strategy::Scd2(_) => return,
            _ => staged + rows("quarantined") + rows("skipped"),
        };
        assert_eq!(extracted, fates, "{run_id}: every row that was read met one fate: {}", outcome.text());
    }

    /// The target's rows as the oracle spells them. A moment that was not seen before is that of load number `load`.
    fn target(&mut self, load: u64) -> Vec<Row> {
        let mut columns: Vec<(String, Kind)> =
            self.oracle.target_columns().iter().map(|c| (c.name.clone(), c.target)).collect();
        columns.extend(self.oracle.hash_column().map(|name| (name.to_owned(), Kind::Text)));
        let mut rows = match self.sink {
            Sink::Postgres if self.pg.exists("landing.t") => postgres_rows(&self.pg, "landing.t", &columns),
            Sink::Delta if self.project.path("lake/landing/t/_delta_log").exists() => {
                let reader = self.reader.as_mut().expect("cases that load into Delta have a reader");
                reader.rows(&self.project.path("lake/landing/t"), &columns)
            }
            Sink::ClickHouse if self.clickhouse.as_ref().is_some_and(|c| c.exists("t")) => {
                let clickhouse = self.clickhouse.as_ref().expect("cases that load into ClickHouse have a server");
                clickhouse_rows(clickhouse, "t", &columns)
            }
            _ => return Vec::new(),
        };
        if self.oracle.hash_column().is_some() {
            let hashes: Vec<_> = rows.iter_mut().map(|row| row.pop().flatten()).collect();
            self.check_hashes(&rows, &hashes);
        }
        if self.oracle.keeps_load_times() {
            self.name_moments(&mut rows, load);
        }
        if let Strategy::Scd2(strategy) = &self.oracle.strategy {
            strategy.check_history(&self.oracle.shape, &rows);
        }
        rows
    }

    /// Rows that say the same have the same hash, and others have others.
    fn check_hashes(&self, rows: &[Row], hashes: &[Option<String>]) {
        let said = self.oracle.hashed_columns();
        let mut seen: BTreeMap<Vec<_>, &str> = BTreeMap::new();
        for (row, hash) in rows.iter().zip(hashes) {
            let hash = hash.as_deref().expect("every row has its hash");
            assert!(hash.len() == 32 && hash.chars().all(|c| c.is_ascii_hexdigit()), "a hash of 128 bits: {hash}");
            let said: Vec<_> = said.iter().map(|&i| row[i].clone()).collect();
            assert_eq!(*seen.entry(said).or_insert(hash), hash, "two hashes for what {row:?} says");
        }
        let different: BTreeSet<_> = seen.values().collect();
        assert_eq!(different.len(), seen.len(), "one hash for different rows");
    }

    fn name_moments(&mut self, rows: &mut [Row], load: u64) {
        let own = self.oracle.shape.columns.len();
        let kinds: Vec<Kind> = self.oracle.target_columns().iter().map(|c| c.target).collect();
        let mut new = BTreeSet::new();
        for row in rows {
            for at in (own..row.len()).filter(|at| kinds[*at] == Kind::Timestamptz) {
                let Some(moment) = &mut row[at] else { continue };
                if !self.moments.contains_key(moment.as_str()) {
                    new.insert(moment.clone());
                    let latest = self.moments.keys().next_back();
                    assert!(latest.is_none_or(|latest| latest < moment), "load {load} has an earlier time: {moment}");
                }
                *moment = self.moments.get(moment.as_str()).cloned().unwrap_or_else(|| load_time(load));
            }
        }
        assert!(new.len() <= 1, "one load has one time: {new:?}");
        self.moments.extend(new.into_iter().map(|moment| (moment, load_time(load))));
    }
}

fn same(a: &[Row], b: &[Row]) -> bool {
    let (mut a, mut b) = (lines(a), lines(b));
    a.sort_unstable();
    b.sort_unstable();
    a == b
}
