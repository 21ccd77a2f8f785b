//! Backfills into ClickHouse and out of it: every chunk once, whatever is killed between which of its statements.

use std::process::Child;

use dpone_tests::{ClickHouse, Lake, Outcome, Pg, Project, assert_same_rows, every_case};
use serde_json::Value;

use crate::backfill::{FILE, Into, manifest, seed};

const INNER: [&str; 4] = ["replace", "partition_replace", "incremental_append", "incremental_merge"];
const ROW: &str = "concat_ws('|', id, day, amount, note)";

struct Case {
    pg: Pg,
    ch: ClickHouse,
    project: Project,
}

impl Case {
    /// From PostgreSQL; `sink` are options of the table that is made.
    fn new(inner: &str, sink: &str, backfill: &str) -> Self {
        let (pg, ch) = (Pg::new(), ClickHouse::new());
        seed(&pg);
        if inner == "incremental_merge" {
            pg.execute("DELETE FROM shop.events a USING shop.events b WHERE a.id = b.id AND a.ctid > b.ctid");
        }
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
        let text = manifest(Into::Postgres, inner, backfill);
        let before =
            "type: postgres\n  connection_type: env\n  connection_id: DB\n  table: {schema: landing, name: events}";
        assert!(text.contains(before), "{text}");
        let after = format!(
            "type: clickhouse\n  connection_type: env\n  connection_id: CH\n  table: {{schema: {}, name: events}}\n  options: {{{sink}}}",
            ch.database
        );
        project.write(FILE, text.replace(before, &after));
        Self { pg, ch, project }
    }

    fn command(&self, file: &str, verb: &str, failpoint: &str) -> std::process::Command {
        let mut command = self.project.command(&["backfill", verb, file, "--format", "json"]);
        if !["plan", "status", "verify"].contains(&verb) {
            command.args(["--lease-seconds", "1", "--retry-backoff-seconds", "0.1"]);
        }
        command.env("DPONE_FAILPOINT", failpoint);
        command
    }

    fn backfill(&self, verb: &str, failpoint: &str) -> Outcome {
        Outcome::new(&["backfill", verb], self.command(FILE, verb, failpoint).output().unwrap())
    }

    fn spawn(&self, file: &str, failpoint: &str) -> Child {
        let mut command = self.command(file, "run", failpoint);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    }

    fn rows(&self) -> Vec<String> {
        let note = "if(isNull(note), '', concat('|', note))";
        self.ch.column(&format!(
            "SELECT concat(toString(id), '|', toString(day), '|', toDecimalString(assumeNotNull(amount), 2), {note}) FROM events"
        ))
    }

    fn source(&self) -> Vec<String> {
        self.pg.column(&format!("SELECT {ROW} FROM shop.events"))
    }

    #[track_caller]
    fn complete(&self, what: &str) {
        assert_same_rows(what, self.source(), self.rows());
        let status: Value = self.backfill("status", "").ok().json();
        assert_eq!((&status["summary"], &status["counts"]["success"]), (&"done".into(), &10.into()), "{what}");
        assert_eq!(status["counts"]["loaded_rows"], self.source().len(), "{what}");
        self.nothing_is_left(what);
    }

    /// Chunks are pipelines of their own, and there can be thousands of them.
    #[track_caller]
    fn nothing_is_left(&self, what: &str) {
        let tables = self.ch.column(&format!(
            "SELECT name FROM system.tables WHERE database = '{}' AND name LIKE '\\_\\_dpone\\_\\_%' ORDER BY name",
            self.ch.database
        ));
        // Of a worker that was killed with its chunk done, the lease has run out.
        let tables: Vec<_> =
            tables.iter().filter(|name| !(what.ends_with("discarded@3") && name.contains("lease"))).collect();
        assert_eq!(tables, ["__dpone__commits", "__dpone__loads", "__dpone__state"], "{what}");
    }
}

const MONTHS: &str = "partition_by: [toYYYYMM(day)]";
const DAYS: &str = "partition_by: [day]";

#[test]
fn every_inner_mode_loads_the_range_once() {
    let shadow = "connector: {merge_policy: shadow_swap}";
    let more = [(MONTHS, "replace"), (DAYS, "replace"), (MONTHS, "partition_replace"), (DAYS, "partition_replace")];
    let cases = INNER.map(|inner| ("", inner)).into_iter().chain(more).chain([(shadow, "incremental_merge")]);
    every_case(cases, |(sink, inner)| {
        let case = Case::new(inner, sink, "      parallel_workers: 3\n");
        let run = case.backfill("run", "").ok();
        assert_eq!(
            (&run.json()["status"], &run.json()["run"]["loaded"]),
            (&"done".into(), &10.into()),
            "{}",
            run.text()
        );
        run.says("1 worker in place of 3");
        case.complete("first run");
        let verified = case.backfill("verify", "").ok().json();
        assert_eq!(verified["passed"], true, "{verified:#}");
        let again = case.backfill("run", "").ok().json();
        assert_eq!((&again["run"]["loaded"], &again["run"]["rows"]["inserted"]), (&0.into(), &0.into()));
        // Another campaign over what is there: nothing is there twice, and nothing is missing.
        if *inner != "incremental_append" {
            case.pg.execute("UPDATE shop.events SET note = 'again' WHERE id % 7 = 0");
            let text = std::fs::read_to_string(case.project.path(FILE)).unwrap();
            case.project.write(FILE, text.replace("inner_mode:", "backfill_id: again\n      inner_mode:"));
            case.backfill("run", "").ok();
            case.complete("again");
        }
    });
}

/// Each in the third chunk: before, within and after its commit, and before it is recorded.
const KILLS: &[&str] = &[
    "backfill.claimed@3",
    "staged@3",
    "commit.begun@3",
    "commit.planned@3",
    "commit.step@3",
    "commit.recorded@3",
    "commit.applied@3",
    "discarded@3",
    "backfill.committed@3",
    "backfill.recorded@3",
];

fn killed(inner: &str, sink: &str, step: &str) {
    let case = Case::new(inner, sink, "");
    case.backfill("run", &format!("{step}=kill")).killed();
    let found = case.rows().len();
    assert!(found > 0 && found < case.source().len(), "{inner} {sink}, {step}: {found} rows");
    let resumed = case.backfill("resume", "").ok().json();
    assert_eq!(resumed["status"], "done", "{resumed:#}");
    case.complete(&format!("{inner} {sink}, killed at {step}"));
}

#[test]
fn a_killed_append_goes_on() {
    every_case(KILLS, |step| killed("incremental_append", MONTHS, step));
}

#[test]
fn a_killed_merge_goes_on() {
    let steps = ["staged@3", "commit.planned@3", "commit.step@3", "commit.recorded@3"];
    every_case(steps, |step| killed("incremental_merge", "", step));
}

#[test]
fn killed_replacements_go_on() {
    let steps = ["commit.planned@3", "commit.step@3", "commit.recorded@3"];
    let cases = [
        ("replace", ""),
        ("replace", DAYS),
        ("partition_replace", MONTHS),
        ("replace", "connector: {merge_policy: shadow_swap}"),
    ];
    every_case(cases.iter().flat_map(|case| steps.map(|step| (case, step))), |((inner, sink), step)| {
        killed(inner, sink, step);
    });
}

/// A second campaign over rows that are there dies between the statements that replace them.
#[test]
fn a_killed_second_campaign_goes_on() {
    let steps = ["commit.planned@3", "commit.step@3", "commit.step@4"];
    let cases = [("replace", ""), ("replace", DAYS), ("partition_replace", DAYS), ("incremental_merge", "")];
    every_case(cases.iter().flat_map(|case| steps.map(|step| (case, step))), |((inner, sink), step)| {
        let case = Case::new(inner, sink, "");
        case.backfill("run", "").ok();
        case.pg.execute("UPDATE shop.events SET note = 'again' WHERE id % 7 = 0");
        let text = std::fs::read_to_string(case.project.path(FILE)).unwrap();
        case.project.write(FILE, text.replace("inner_mode:", "backfill_id: again\n      inner_mode:"));
        case.backfill("run", &format!("{step}=kill")).killed();
        case.backfill("resume", "").ok();
        case.complete(&format!("{inner} {sink}, killed at {step}"));
    });
}

#[test]
fn a_lost_manifest_is_found_again_in_the_ledger() {
    let case = Case::new("incremental_append", "", "");
    case.backfill("run", "staged@6=kill").killed();
    std::fs::remove_dir_all(case.project.path(".dpone")).unwrap();
    let run = case.backfill("run", "").ok().json();
    assert_eq!((&run["run"]["found_committed"], &run["run"]["loaded"]), (&5.into(), &5.into()), "{run:#}");
    case.complete("after the manifest was lost");
}

/// The manifest is in PostgreSQL, where several machines claim chunks; the table takes one load at a time.
#[test]
fn several_machines_take_turns() {
    every_case(["incremental_append", "replace"], |inner| {
        let case = Case::new(inner, "", "");
        case.project.write(
            "backfill.sql",
            format!(
                "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:DPONE_CONN_DB_URL');
                 CREATE CONNECTION dwh TYPE clickhouse OPTIONS ('url' 'env:DPONE_CONN_CH_URL');
                 CREATE PIPELINE events INTO dwh.{}.events STRATEGY backfill
                   PARTITION BY (\"toYYYYMM(day)\")
                   OPTIONS ('backfill.inner_mode' '{inner}', 'backfill.chunk.column' 'day',
                            'backfill.chunk.from' '2026-01-01', 'backfill.chunk.to' '2026-01-20',
                            'backfill.chunk.step' '2d', 'backfill.state.backend' 'audit_schema',
                            'backfill.state.schema' 'audit', 'state_connection' 'shop')
                 AS SELECT * FROM shop.shop.events;",
                case.ch.database
            ),
        );
        let pair = [case.spawn("backfill.sql", "staged=sleep:200"), case.spawn("backfill.sql", "staged=sleep:200")];
        let loaded: Vec<u64> = pair
            .into_iter()
            .map(|child| {
                let outcome = Outcome::new(&["backfill", "run"], child.wait_with_output().unwrap()).ok();
                outcome.json()["run"]["loaded"].as_u64().unwrap()
            })
            .collect();
        assert_eq!(loaded.iter().sum::<u64>(), 10, "{loaded:?}");
        assert_same_rows(inner, case.source(), case.rows());
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
        // Nobody staged while another load was staged and not committed.
        let overlapping = "SELECT a.run_id FROM __dpone__loads AS a FINAL INNER JOIN __dpone__loads AS b FINAL ON 1 = 1 \
             WHERE a.run_id < b.run_id AND JSONExtractString(a.receipt, 'started_at') < JSONExtractString(b.receipt, 'finished_at') \
             AND JSONExtractString(b.receipt, 'started_at') < JSONExtractString(a.receipt, 'finished_at')";
        assert_eq!(case.ch.column(overlapping), Vec::<String>::new(), "two loads of one table were at work at once");
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Postgres,
    Delta,
    ClickHouse,
}

#[test]
fn every_inner_mode_reads_from_clickhouse() {
    let targets = [Target::Postgres, Target::Delta, Target::ClickHouse];
    every_case(targets.iter().flat_map(|target| INNER.map(|inner| (target, inner))), |(target, inner)| {
        let case = Case::new(inner, "", "");
        let into = ClickHouse::new();
        let rows =
            case.pg.copy_out("SELECT id, day, at AT TIME ZONE 'UTC', amount, note FROM shop.events", "FORMAT text");
        case.ch.execute(
            "CREATE TABLE events (id Int64, day Date32, at DateTime64(6, 'UTC'), amount Nullable(Decimal(10, 2)), \
             note Nullable(String)) ENGINE = MergeTree PARTITION BY toYYYYMM(day) ORDER BY id",
        );
        case.ch.execute(&format!("INSERT INTO events FORMAT TSV\n{}", String::from_utf8(rows).unwrap()));
        let text = manifest(if **target == Target::Delta { Into::Delta } else { Into::Postgres }, inner, "");
        let (source, sink) = text.split_once("sink:").unwrap();
        let clickhouse = |text: &str| {
            text.replace(
                "type: postgres\n  connection_type: env\n  connection_id: DB",
                "type: clickhouse\n  connection_type: env\n  connection_id: CH",
            )
        };
        let source = clickhouse(source).replace("schema: shop", &format!("schema: {}", case.ch.database));
        let sink = match target {
            Target::ClickHouse => clickhouse(sink).replace("schema: landing", &format!("schema: {}", into.database)),
            _ => sink.to_owned(),
        };
        case.project.write(FILE, format!("{source}sink:{sink}"));
        let plan = case.backfill("plan", "").ok().json();
        assert!(plan["partitions"][0].as_str().unwrap().contains("WHERE"), "not pushed down: {plan:#}");
        case.backfill("run", "staged@4=kill").killed();
        case.backfill("resume", "").ok();
        let found = match target {
            Target::Postgres => case.pg.column(&format!("SELECT {ROW} FROM landing.events")),
            Target::Delta => Lake::Delta.rows(&case.project.path("lake/landing/events"), ROW),
            Target::ClickHouse => {
                let there = Case { pg: Pg::new(), ch: into, project: Project::new() };
                there.rows()
            }
        };
        assert_same_rows(&format!("ClickHouse to {target:?}, {inner}"), case.source(), found);
    });
}
