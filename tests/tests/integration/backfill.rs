//! Backfills: every chunk once, whatever is killed when, by however many workers.

use std::process::Child;
use std::time::{Duration, Instant};

use dpone_tests::{Lake, Outcome, Pg, Project, assert_same_rows, every_case};
use serde_json::Value;

pub(super) const FILE: &str = "backfill.yaml";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    Postgres,
    Delta,
    Parquet,
}

/// 20 days of events, 50 a day, some of them twice: a plain append that repeats a chunk is seen.
pub(super) fn seed(pg: &Pg) {
    pg.execute(
        "CREATE SCHEMA shop;
         CREATE TABLE shop.events (id bigint, day date, at timestamptz, amount numeric(10,2), note text);
         INSERT INTO shop.events
           SELECT i, date '2026-01-01' + (i % 20)::int, timestamptz '2026-01-01 00:00Z' + (i % 20) * interval '1 day 1 hour',
                  i / 7.0, CASE WHEN i % 3 = 0 THEN NULL ELSE 'n' || i END
           FROM generate_series(1, 1000) i;
         INSERT INTO shop.events SELECT * FROM shop.events WHERE id % 10 = 0;",
    );
}

pub(super) fn manifest(into: Into, inner: &str, backfill: &str) -> String {
    let sink = match into {
        Into::Postgres => "type: postgres\n  connection_type: env\n  connection_id: DB",
        Into::Delta => "type: delta\n  path: lake",
        Into::Parquet => "type: parquet\n  path: lake",
    };
    format!(
        "name: events\nsource:\n  type: postgres\n  connection_type: env\n  connection_id: DB\n  table: {{schema: shop, \
         name: events}}\nsink:\n  {sink}\n  table: {{schema: landing, name: events}}\n  strategy:\n    mode: backfill\n    \
         {}backfill:\n      inner_mode: {inner}\n      chunk: {{column: day, from: \"2026-01-01\", to: \"2026-01-20\", step: \
         2d}}\n{backfill}",
        if inner == "incremental_merge" {
            "unique_key: [id]\n    duplicate_policy: latest\n    order_by: [at]\n    "
        } else {
            ""
        },
    )
}

pub(super) struct Case {
    pub(super) pg: Pg,
    pub(super) project: Project,
    into: Into,
}

impl Case {
    pub(super) fn new(into: Into, inner: &str, backfill: &str) -> Self {
        Self::on(Pg::new(), into, inner, backfill)
    }

    fn on(pg: Pg, into: Into, inner: &str, backfill: &str) -> Self {
        seed(&pg);
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url());
        project.write(FILE, manifest(into, inner, backfill));
        Self { pg, project, into }
    }

    fn command(&self, verb: &str, more: &[&str], failpoint: &str) -> std::process::Command {
        let mut arguments = vec!["backfill", verb, FILE, "--format", "json"];
        if !["plan", "status", "cancel", "verify"].contains(&verb) {
            // A killed worker's lease at the target ends after a second.
            arguments.extend(["--lease-seconds", "1", "--retry-backoff-seconds", "0.1"]);
        }
        arguments.extend(more);
        let mut command = self.project.command(&arguments);
        command.env("DPONE_FAILPOINT", failpoint);
        command
    }

    pub(super) fn backfill(&self, verb: &str, more: &[&str], failpoint: &str) -> Outcome {
        Outcome::new(&["backfill", verb], self.command(verb, more, failpoint).output().unwrap())
    }

    fn spawn(&self, verb: &str, failpoint: &str) -> Child {
        let mut command = self.command(verb, &[], failpoint);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    }

    fn rows(&self) -> Vec<String> {
        match self.into {
            Into::Postgres => self.pg.column("SELECT concat_ws('|', id, day, amount, note) FROM landing.events"),
            Into::Parquet => {
                Lake::Parquet.rows(&self.project.path("lake/landing/events"), "concat_ws('|', id, day, amount, note)")
            }
            Into::Delta => {
                Lake::Delta.rows(&self.project.path("lake/landing/events"), "concat_ws('|', id, day, amount, note)")
            }
        }
    }

    fn source(&self) -> Vec<String> {
        self.pg.column("SELECT concat_ws('|', id, day, amount, note) FROM shop.events")
    }

    #[track_caller]
    fn complete(&self, what: &str) {
        assert_same_rows(what, self.source(), self.rows());
        let status = self.status();
        assert_eq!(status["summary"], "done", "{what}");
        assert_eq!(status["counts"]["success"], 10, "{what}");
        assert_eq!(status["counts"]["loaded_rows"], self.source().len(), "{what}");
    }

    fn status(&self) -> Value {
        self.backfill("status", &[], "").ok().json()
    }

    /// The attempts of each chunk.
    fn attempts(&self) -> Vec<u64> {
        self.status()["partitions"].as_array().unwrap().iter().map(|p| p["attempts"].as_u64().unwrap()).collect()
    }
}

#[test]
fn every_inner_mode_loads_the_range_once() {
    let inner = ["replace", "partition_replace", "incremental_append", "incremental_merge"];
    let sinks = [Into::Postgres, Into::Delta, Into::Parquet];
    let cases = sinks.into_iter().flat_map(|into| inner.map(|mode| (into, mode)));
    every_case(cases.collect::<Vec<_>>(), |(into, mode)| {
        let case = Case::new(*into, mode, "      parallel_workers: 3\n");
        if *mode == "incremental_merge" {
            case.pg.execute("DELETE FROM shop.events a USING shop.events b WHERE a.id = b.id AND a.ctid > b.ctid");
        }
        let plan = case.backfill("plan", &[], "").ok().json();
        assert_eq!(plan["backfill"]["chunks"].as_array().unwrap().len(), 10);
        assert!(plan["partitions"][0].as_str().unwrap().contains("2026-01-03"), "{plan:#}");
        assert!(!case.project.path(".dpone").exists(), "a plan wrote something");

        let run = case.backfill("run", &[], "").ok().json();
        assert_eq!((&run["status"], &run["run"]["loaded"]), (&"done".into(), &10.into()), "{run:#}");
        case.complete("first run");
        let again = case.backfill("run", &[], "").ok().json();
        assert_eq!((&again["run"]["loaded"], &again["run"]["rows"]["inserted"]), (&0.into(), &0.into()));
        // `dpone run` is the same campaign.
        let outcome = case.project.run(FILE, "scheduled").ok();
        assert_eq!(outcome.status(), "already_committed", "{}", outcome.text());
        case.complete("run again");
    });
}

#[test]
fn dpone_run_runs_the_campaign_and_its_receipt_sums_it_up() {
    // On the oldest release as well.
    for pg in [Pg::new(), Pg::major(11)] {
        let case = Case::on(pg, Into::Postgres, "replace", "");
        let outcome = case.project.run(FILE, "scheduled").ok();
        assert_eq!((outcome.status().as_str(), outcome.rows("inserted")), ("committed", 1100));
        case.complete("dpone run");
    }
}

/// The places at which a worker is killed, each in its third chunk: in mid chunk, and between the commit and the manifest.
const KILLS: &[&str] = &[
    "backfill.claimed@3",
    "staged@3",
    "commit.applied@3",
    "discarded@3",
    "backfill.committed@3",
    "backfill.recorded@3",
];

#[test]
fn a_killed_worker_leaves_a_campaign_that_goes_on() {
    let cases = [Into::Postgres, Into::Delta].into_iter().flat_map(|into| KILLS.iter().map(move |step| (into, *step)));
    every_case(cases.collect::<Vec<_>>(), |(into, step)| {
        let case = Case::new(*into, "incremental_append", "");
        case.backfill("run", &[], &format!("{step}=kill")).killed();
        let committed = case.rows().len();
        assert!(committed > 0 && committed < case.source().len(), "{committed} rows");
        let resumed = case.backfill("resume", &[], "").ok().json();
        assert_eq!(resumed["status"], "done", "{resumed:#}");
        let attempts = case.attempts();
        assert!(attempts.iter().all(|n| *n <= 2), "{attempts:?}");
        case.complete(step);
    });
}

#[test]
fn a_lost_manifest_is_found_again_in_the_targets_ledger() {
    every_case([Into::Postgres, Into::Delta], |into| {
        let case = Case::new(*into, "incremental_append", "");
        case.backfill("run", &[], "staged@6=kill").killed();
        std::fs::remove_dir_all(case.project.path(".dpone")).unwrap();
        let run = case.backfill("run", &[], "").ok().json();
        assert_eq!((&run["run"]["found_committed"], &run["run"]["loaded"]), (&5.into(), &5.into()), "{run:#}");
        case.complete("after the manifest was lost");
    });
}

const SHARED: &str = "      state: {backend: audit_schema, schema: audit}\n";

#[test]
fn two_machines_share_the_work() {
    every_case([1, 2], |workers| {
        let case =
            Case::new(Into::Postgres, "incremental_append", &format!("{SHARED}      parallel_workers: {workers}\n"));
        // Slow enough that both get some.
        let pair = [case.spawn("run", "staged=sleep:150"), case.spawn("run", "staged=sleep:150")];
        let mut loaded = Vec::new();
        for child in pair {
            let outcome = Outcome::new(&["backfill", "run"], child.wait_with_output().unwrap()).ok();
            assert_eq!(outcome.json()["status"], "done", "{}", outcome.text());
            loaded.push(outcome.json()["run"]["loaded"].as_u64().unwrap());
        }
        assert_eq!(loaded.iter().sum::<u64>(), 10, "{loaded:?}");
        assert!(loaded.iter().all(|n| *n > 0), "one did all of it: {loaded:?}");
        assert_eq!(case.attempts(), [1; 10], "a chunk was begun twice");
        case.complete("two machines");
        assert_eq!(case.pg.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn a_chunk_whose_worker_was_killed_is_taken_over_when_its_claim_ends() {
    let case = Case::new(Into::Postgres, "incremental_append", SHARED);
    case.backfill("run", &[], "staged@4=kill").killed();
    let second = case.spawn("run", "");
    // It does all it can, and waits for the one that somebody may still be loading.
    let began = Instant::now();
    let open = "SELECT count(*) FROM audit.__dpone__backfill_partitions WHERE status <> 'success'";
    while case.pg.value(open) != "1" {
        assert!(began.elapsed() < Duration::from_secs(60), "the second worker does not get on");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(case.pg.value(open), "1", "a claim was not respected");
    // An hour passes.
    case.pg.execute(
        "UPDATE audit.__dpone__backfill_partitions SET lease_expires_at = lease_expires_at - interval '1 hour' \
         WHERE status = 'running'",
    );
    Outcome::new(&["backfill", "run"], second.wait_with_output().unwrap()).ok().says("taken over");
    case.complete("after the takeover");
}

#[test]
fn a_worker_that_was_paused_records_nothing_after_its_chunk_was_taken_over() {
    let case = Case::new(Into::Postgres, "incremental_append", SHARED);
    let paused = case.spawn("run", "staged@3=sleep:6000");
    let began = Instant::now();
    let running = "SELECT count(*) FROM audit.__dpone__backfill_partitions WHERE status = 'running' AND id = '00003'";
    while !case.pg.exists("audit.__dpone__backfill_partitions") || case.pg.value(running) != "1" {
        assert!(began.elapsed() < Duration::from_secs(60), "the first worker does not get on");
        std::thread::sleep(Duration::from_millis(50));
    }
    case.pg.execute("UPDATE audit.__dpone__backfill_partitions SET lease_expires_at = now() WHERE status = 'running'");
    case.backfill("run", &[], "").ok();
    let _ = paused.wait_with_output().unwrap();
    case.complete("after the paused worker woke up");
}

#[test]
fn on_one_machine_a_second_process_is_refused() {
    let case = Case::new(Into::Postgres, "replace", "");
    let first = case.spawn("run", "staged@2=sleep:3000");
    std::thread::sleep(Duration::from_millis(1500));
    let refused = case.backfill("run", &[], "");
    assert_eq!(refused.code(), Some(1), "{}", refused.text());
    assert_eq!(refused.json()["error"]["kind"], "conflict", "{}", refused.text());
    Outcome::new(&["backfill", "run"], first.wait_with_output().unwrap()).ok();
    case.complete("the first went on");
}

#[test]
fn another_definition_source_or_target_is_another_campaign() {
    let case = Case::new(Into::Postgres, "replace", "");
    case.backfill("run", &[], "").ok();
    let key = |status: &Value| status["campaign"].as_str().unwrap().to_owned();
    let first = key(&case.status());
    let other = Pg::new();
    seed(&other);
    other.execute("UPDATE shop.events SET note = 'other'");
    let project = Project::new().env("DPONE_CONN_DB_URL", other.url());
    project.write(FILE, manifest(Into::Postgres, "replace", ""));
    let copied = case.project.path(".dpone/backfill");
    std::fs::create_dir_all(project.path(".dpone/backfill")).unwrap();
    for entry in std::fs::read_dir(copied).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, project.path(".dpone/backfill").join(path.file_name().unwrap())).unwrap();
        }
    }
    let there = Case { pg: other, project, into: Into::Postgres };
    let status = there.status();
    assert_ne!(key(&status), first);
    assert_eq!(status["summary"], "not begun");
    assert_eq!(there.backfill("run", &[], "").ok().json()["run"]["loaded"], 10);
    there.complete("the other database");

    for changed in [
        manifest(Into::Postgres, "replace", "").replace("step: 2d", "step: 3d"),
        manifest(Into::Postgres, "replace", "")
            .replace("name: events}\nsink", "name: events}\n  options: {custom_predicate: \"id > 5\"}\nsink"),
        manifest(Into::Postgres, "replace", "      backfill_id: again\n"),
        manifest(Into::Postgres, "incremental_merge", ""),
    ] {
        case.project.write(FILE, &changed);
        assert_ne!(key(&case.status()), first, "{changed}");
    }
    // What changes the pace only is the same campaign.
    case.project.write(FILE, manifest(Into::Postgres, "replace", "      parallel_workers: 7\n      max_chunks: 50\n"));
    assert_eq!(key(&case.status()), first);
}

#[test]
fn an_append_is_not_repeated_by_a_changed_range() {
    let case = Case::new(Into::Postgres, "incremental_append", "");
    case.backfill("run", &[], "").ok();
    let wider = manifest(Into::Postgres, "incremental_append", "").replace("2026-01-20", "2026-01-25");
    case.project.write(FILE, &wider);
    let refused = case.backfill("run", &[], "");
    assert_eq!(refused.json()["error"]["kind"], "conflict", "{}", refused.text());
    assert_same_rows("nothing was added", case.source(), case.rows());
    case.backfill("run", &["--backfill-id", "again"], "").ok();
    assert_eq!(case.rows().len(), 2 * case.source().len());
}

#[test]
fn the_target_knows_what_was_appended_when_the_manifest_is_gone() {
    every_case([Into::Postgres, Into::Delta, Into::Parquet], |into| {
        let case = Case::new(*into, "incremental_append", "");
        case.backfill("run", &[], "").ok();
        std::fs::remove_dir_all(case.project.path(".dpone")).unwrap();
        let range = |from: &str, to: &str| {
            let text = manifest(*into, "incremental_append", "");
            case.project.write(FILE, text.replace("from: \"2026-01-01\"", from).replace("to: \"2026-01-20\"", to));
        };
        range("from: \"2026-01-10\"", "to: \"2026-01-25\"");
        let refused = case.backfill("run", &[], "").says("2026-01-09").says("backfill_id");
        assert_eq!(refused.json()["error"]["kind"], "conflict", "{}", refused.text());
        assert_same_rows("nothing was added", case.source(), case.rows());
        // A range beside it shares no row.
        let copy = "INSERT INTO shop.events SELECT id + 10000, day + 20, at, amount, note FROM shop.events";
        case.pg.execute(copy);
        range("from: \"2026-01-21\"", "to: \"2026-02-09\"");
        case.backfill("run", &[], "").ok();
        assert_same_rows("both ranges", case.source(), case.rows());
        // With the manifest of the second range alone, and without any.
        range("from: \"2026-02-05\"", "to: \"2026-02-19\"");
        case.backfill("run", &[], "").says("would be there twice");
        std::fs::remove_dir_all(case.project.path(".dpone")).unwrap();
        case.backfill("run", &[], "").says("says the target");
        // On purpose.
        range("from: \"2026-01-10\"", "to: \"2026-01-25\"");
        case.backfill("run", &["--backfill-id", "again"], "").ok();
        assert!(case.rows().len() > case.source().len());
    });
}

#[test]
fn chunks_that_nobody_holds_are_loaded_before_those_of_a_killed_worker() {
    let case = Case::new(Into::Postgres, "incremental_append", "");
    let command = |verb: &str, failpoint: &str| {
        let mut command = case.project.command(&["backfill", verb, FILE, "--format", "json", "--lease-seconds", "12"]);
        command.env("DPONE_FAILPOINT", failpoint).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let killed = command("run", "staged@3=kill").wait_with_output().unwrap();
    Outcome::new(&["backfill", "run"], killed).killed();
    let began = Instant::now();
    let child = command("resume", "");
    let done = "SELECT count(DISTINCT day) FROM landing.events";
    while case.pg.value(done) != "18" {
        assert!(began.elapsed() < Duration::from_secs(10), "the others wait for the lease: {}", case.pg.value(done));
        std::thread::sleep(Duration::from_millis(50));
    }
    Outcome::new(&["backfill", "resume"], child.wait_with_output().unwrap()).ok().says("its turn comes last");
    assert_eq!(case.attempts().iter().sum::<u64>(), 11, "the chunk was begun twice, the others once");
    case.complete("the chunk that was left comes last");
}

#[test]
fn failed_chunks_are_told_and_tried_again_alone() {
    let case = Case::new(Into::Postgres, "replace", "");
    // The target takes no amount above a bound that two days break.
    case.pg.execute(
        "CREATE SCHEMA landing; CREATE TABLE landing.events (LIKE shop.events); \
         ALTER TABLE landing.events ADD CONSTRAINT sane CHECK (amount < 1000);
         UPDATE shop.events SET amount = 5000.25 WHERE day IN ('2026-01-05', '2026-01-13') AND id < 100",
    );
    let run = case.backfill("run", &[], "");
    assert_eq!(run.code(), Some(1), "{}", run.text());
    let document = run.json();
    assert_eq!((&document["status"], &document["chunks"]["failed"]), (&"failed".into(), &2.into()), "{document:#}");
    assert_eq!(document["failures"][0]["id"], "00003");
    assert!(!document.to_string().contains("5000.25"), "an error shows a value: {document:#}");
    let status = case.status();
    assert_eq!(status["partitions"][2]["status"], "failed");
    assert!(status["partitions"][2]["last_error"].as_str().unwrap().contains("sane"), "{status:#}");

    case.pg.execute("UPDATE shop.events SET amount = 1 WHERE amount = 5000.25 AND day = '2026-01-05'");
    let retried = case.backfill("retry-failed", &[], "");
    assert_eq!(retried.code(), Some(1));
    assert_eq!((&retried.json()["run"]["loaded"], &retried.json()["chunks"]["failed"]), (&1.into(), &1.into()));
    case.pg.execute("UPDATE shop.events SET amount = 1 WHERE amount = 5000.25");
    case.backfill("retry-failed", &[], "").ok();
    case.complete("after the failures");
    assert_eq!(case.attempts(), [1, 1, 2, 1, 1, 1, 3, 1, 1, 1]);
}

#[test]
fn cancel_stops_what_was_not_begun_and_resume_goes_on() {
    every_case(["", SHARED], |state| {
        let case = Case::new(Into::Postgres, "incremental_append", state);
        let running = case.spawn("run", "staged=sleep:400");
        std::thread::sleep(Duration::from_millis(2500));
        let cancelled = case.backfill("cancel", &[], "").ok().json();
        assert_eq!(cancelled["summary"], "cancelled");
        let outcome = Outcome::new(&["backfill", "run"], running.wait_with_output().unwrap());
        assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
        let status = case.status();
        let (done, skipped) =
            (status["counts"]["success"].as_u64().unwrap(), status["counts"]["skipped"].as_u64().unwrap());
        assert!(done > 0 && skipped > 0 && done + skipped == 10, "{status:#}");
        let refused = case.backfill("run", &[], "");
        assert_eq!(refused.json()["error"]["kind"], "conflict", "{}", refused.text());
        assert_eq!(case.backfill("resume", &[], "").ok().json()["run"]["loaded"], skipped);
        case.complete("after the cancellation");
    });
}

#[test]
fn ctrl_c_leaves_a_campaign_that_goes_on() {
    let case = Case::new(Into::Postgres, "incremental_append", "");
    let running = case.spawn("run", "staged@3=sleep:20000");
    let began = Instant::now();
    while case.pg.value("SELECT to_regclass('landing.events') IS NOT NULL") != "t" || case.rows().len() < 200 {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    std::process::Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    let outcome = Outcome::new(&["backfill", "run"], running.wait_with_output().unwrap());
    assert_eq!(outcome.code(), Some(130), "{}", outcome.text());
    assert_eq!(outcome.json()["status"], "interrupted");
    assert_eq!(case.status()["counts"]["pending"], 8);
    assert_eq!(case.pg.leftovers(), Vec::<String>::new());
    case.backfill("resume", &[], "").ok();
    case.complete("after Ctrl-C");
}

#[test]
fn rows_without_a_value_fail_the_run_or_are_a_chunk() {
    let case = Case::new(Into::Postgres, "replace", "");
    case.pg.execute("UPDATE shop.events SET day = NULL WHERE id = 7");
    assert_eq!(case.backfill("plan", &[], "").ok().json()["backfill"]["null_rows"], 1);
    let run = case.backfill("run", &[], "");
    assert_eq!((run.code(), &run.json()["error"]["kind"]), (Some(1), &"data_quality".into()), "{}", run.text());
    assert!(!case.pg.exists("landing.events"), "something was loaded");
    case.project.write(FILE, manifest(Into::Postgres, "replace", "      null_chunk: include\n"));
    case.backfill("run", &[], "").ok();
    assert_same_rows("with the rows without a day", case.source(), case.rows());
}

#[test]
fn what_lies_outside_of_the_range_is_counted_and_left_alone() {
    let case = Case::new(Into::Postgres, "replace", "");
    case.pg.execute(
        "INSERT INTO shop.events (id, day) VALUES (2000, '2025-12-31'), (2001, '2026-01-21');
         CREATE SCHEMA landing; CREATE TABLE landing.events (LIKE shop.events);
         INSERT INTO landing.events (id, day) VALUES (1, '2025-06-01'), (2, '2026-01-10')",
    );
    let plan = case.backfill("plan", &["--count"], "").ok().json();
    assert_eq!((&plan["backfill"]["outside_rows"], &plan["backfill"]["null_rows"]), (&2.into(), &0.into()), "{plan:#}");
    case.backfill("run", &[], "").ok();
    assert_eq!(case.pg.count("landing.events"), 1101);
    assert_eq!(case.pg.value("SELECT count(*) FROM landing.events WHERE day = '2025-06-01'"), "1");
}

#[test]
fn rows_that_came_late_into_a_chunk_are_found() {
    every_case([Into::Postgres, Into::Delta], |into| {
        let case = Case::new(*into, "replace", "");
        assert_eq!(case.backfill("verify", &[], "").json()["error"]["kind"], "conflict");
        case.backfill("run", &[], "").ok();
        let verified = case.backfill("verify", &[], "").ok().json();
        assert_eq!((&verified["passed"], &verified["chunks"][0]["target_rows"]), (&true.into(), &150.into()));
        case.pg.execute("INSERT INTO shop.events (id, day) VALUES (2000, '2026-01-06')");
        let late = case.backfill("verify", &[], "");
        assert_eq!(late.code(), Some(1), "{}", late.text());
        let counted = late.json()["chunks"].as_array().unwrap().clone();
        let differing: Vec<_> = counted.iter().filter(|c| c["source_rows"] != c["target_rows"]).collect();
        assert_eq!((differing.len(), &differing[0]["id"]), (1, &"00003".into()), "{}", late.text());
        late.says("1 of 10 committed chunks");
    });
}

#[test]
fn a_target_that_is_gone_is_not_taken_for_loaded() {
    let case = Case::new(Into::Postgres, "replace", "");
    case.backfill("run", &[], "staged@4=kill").killed();
    case.pg.execute("TRUNCATE landing.events");
    let refused = case.backfill("run", &[], "");
    assert_eq!(refused.json()["error"]["kind"], "conflict", "{}", refused.text());
    case.pg.execute("DROP TABLE landing.events");
    case.backfill("run", &[], "").says("does not exist");
    // Also where the manifest is gone too, and only the ledger knows.
    std::fs::remove_dir_all(case.project.path(".dpone")).unwrap();
    let refused = case.backfill("run", &[], "");
    assert_eq!(refused.code(), Some(1), "{}", refused.text());
    case.backfill("run", &["--backfill-id", "again"], "").ok();
    assert_same_rows("loaded again", case.source(), case.rows());
}

/// Chunks of the other kinds, with their bounds pushed down to the server.
#[test]
fn timestamps_integers_uuids_and_everything_are_loaded() {
    let chunks = [
        (
            "replace",
            "{column: at, from: \"2026-01-01T00:00:00\", to: \"2026-02-01T00:00:00\", step: 1w, timezone: Europe/Berlin}",
        ),
        ("incremental_append", "{column: at, kind: timestamp, from: \"2025-12-01\", to: \"2026-02-01\", step: 100h}"),
        ("replace", "{column: id, from: 1, to: 2000, step: 300}"),
        ("replace", "{column: key, kind: uuid, buckets: 7}"),
        ("incremental_append", "{column: key, kind: uuid, buckets: 7}"),
        ("full_refresh", "{column: id}"),
    ];
    let cases = [Into::Postgres, Into::Delta].into_iter().flat_map(|into| chunks.map(|chunk| (into, chunk)));
    every_case(cases.collect::<Vec<_>>(), |(into, (inner, chunk))| {
        let case = Case::new(*into, inner, "      parallel_workers: 2\n");
        case.pg.execute("ALTER TABLE shop.events ADD COLUMN key uuid DEFAULT gen_random_uuid()");
        let text = manifest(*into, inner, "      parallel_workers: 2\n");
        let range = "{column: day, from: \"2026-01-01\", to: \"2026-01-20\", step: 2d}";
        assert!(text.contains(range));
        case.project.write(FILE, text.replace(range, chunk));
        let plan = case.backfill("plan", &[], "").ok().json();
        let asked = plan["partitions"][0].as_str().unwrap();
        assert_eq!(asked.contains("WHERE"), *inner != "full_refresh", "not pushed down: {asked}");
        let run = case.backfill("run", &[], "").ok().json();
        assert_eq!(run["run"]["rows"]["extracted"], 1100, "{run:#}");
        assert_same_rows("loaded", case.source(), case.rows());
        case.backfill("run", &["--backfill-id", "2"], "");
        if *inner == "replace" {
            assert_same_rows("replaced chunk by chunk", case.source(), case.rows());
        }
    });
}

#[test]
fn a_lake_is_filled_by_several_machines_with_the_state_in_a_database() {
    let case = Case::new(Into::Delta, "incremental_append", "");
    case.project.write(
        "backfill.sql",
        "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:DPONE_CONN_DB_URL');
         CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');
         CREATE PIPELINE events INTO lake.landing.events STRATEGY backfill
           OPTIONS ('backfill.inner_mode' 'incremental_append', 'backfill.chunk.column' 'day',
                    'backfill.chunk.from' '{{ data_interval_start }}', 'backfill.chunk.to' '2026-01-20',
                    'backfill.chunk.step' '2d', 'backfill.parallel_workers' '2',
                    'backfill.state.backend' 'audit_schema', 'backfill.state.schema' 'audit', 'state_connection' 'shop')
         AS SELECT * FROM shop.shop.events;",
    );
    let start = || {
        let mut command = case.project.command(&[
            "backfill",
            "run",
            "backfill.sql",
            "--interval-start",
            "2026-01-01",
            "--format",
            "json",
            "--lease-seconds",
            "2",
        ]);
        command.env("DPONE_FAILPOINT", "staged=sleep:200");
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let loaded: u64 = [start(), start()]
        .into_iter()
        .map(|child| {
            Outcome::new(&["backfill", "run"], child.wait_with_output().unwrap()).ok().json()["run"]["loaded"]
                .as_u64()
                .unwrap()
        })
        .sum();
    assert_eq!(loaded, 10);
    assert_same_rows("the lake", case.source(), case.rows());
}
