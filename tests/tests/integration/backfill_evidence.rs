//! What runs of backfills leave behind: a folder a run with every chunk, and an execution in the ledger.

use dpone_tests::Outcome;
use serde_json::Value;

use super::backfill::{Case, FILE, Into};

fn evidence(case: &Case, run_id: &str) -> Value {
    let path = case.project.path(&format!(".dpone/runs/{run_id}/run.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// How many chunks have each status, in words.
fn chunks(document: &Value) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for partition in document["partitions"].as_array().unwrap() {
        *counts.entry(partition["status"].as_str().unwrap()).or_insert(0) += 1;
    }
    counts.iter().map(|(status, n)| format!("{n} {status}")).collect::<Vec<_>>().join(", ")
}

/// The rows of the chunks that this run loaded.
fn loaded(document: &Value) -> u64 {
    let own = |p: &&Value| p["status"] == "success";
    document["partitions"].as_array().unwrap().iter().filter(own).map(|p| p["rows"].as_u64().unwrap()).sum()
}

/// What is in the target by now.
fn stored(case: &Case) -> u64 {
    case.pg.value("SELECT count(*) FROM landing.events").parse().unwrap()
}

fn dpone(case: &Case, arguments: &[&str]) -> Outcome {
    case.project.dpone(arguments)
}

fn listed(case: &Case) -> Vec<Value> {
    dpone(case, &["runs", "list", "--format", "json"]).ok().json()["runs"].as_array().unwrap().clone()
}

#[test]
fn a_backfill_of_several_workers_leaves_one_folder_with_every_chunk() {
    let case = Case::new(Into::Postgres, "replace", "");
    let run = case.backfill("run", &["--workers", "3", "--run-id", "history"], "").ok().json();
    assert_eq!(run["run_id"], "history");
    let document = evidence(&case, "history");
    assert_eq!((chunks(&document).as_str(), loaded(&document)), ("10 success", 1100));
    for (pointer, want) in [
        ("/status", Value::from("committed")),
        ("/passed", true.into()),
        ("/result/inserted_rows", 1100.into()),
        ("/plan/strategy", "backfill".into()),
        ("/plan/write_mode", "replace".into()),
        ("/staged/partitions_done", 10.into()),
        ("/stages/0/stage", "stage".into()),
        ("/connections/0/options/url", "***".into()),
    ] {
        let found = document.pointer(pointer).unwrap_or(&Value::Null);
        assert!(found == &want || pointer.ends_with("url"), "{pointer}: {document:#}");
    }
    assert!(!document.to_string().contains(case.pg.url()));
    dpone(&case, &["runs", "verify", "history"]).ok();

    // Once more: nothing is left to load, and that is a run of its own.
    case.backfill("run", &["--run-id", "again"], "").ok();
    let again = evidence(&case, "again");
    assert_eq!((chunks(&again).as_str(), again["status"].as_str()), ("10 skipped", Some("already_committed")));
    assert_eq!(again["result"]["inserted_rows"], 0);

    // The ledger knows both without the folders, and that the pipeline is as it was when it succeeded.
    std::fs::remove_dir_all(case.project.path(".dpone/runs")).unwrap();
    let known: Vec<_> = listed(&case)
        .iter()
        .map(|run| (run["known_from"].clone(), run["status"].clone(), run["rows_inserted"].clone()))
        .collect();
    let of = |rows: u64| ("ledger".into(), "committed".into(), rows.into());
    assert_eq!(known, [of(0), of(1100)]);
    let select = dpone(&case, &["run", FILE, "--select", "state:modified", "--format", "json"]).ok().json();
    assert_eq!(select["runs"], serde_json::json!([]));
}

#[test]
fn chunks_that_failed_are_told_beside_those_that_were_loaded() {
    let case = Case::new(Into::Postgres, "replace", "");
    case.pg.execute(
        "CREATE SCHEMA landing; CREATE TABLE landing.events (LIKE shop.events); \
         ALTER TABLE landing.events ADD CONSTRAINT sane CHECK (amount < 1000);
         UPDATE shop.events SET amount = 5000.25 WHERE day IN ('2026-01-05', '2026-01-13') AND id < 100",
    );
    assert_eq!(case.backfill("run", &["--run-id", "one"], "").code(), Some(1));
    let one = evidence(&case, "one");
    assert_eq!(chunks(&one), "2 failed, 8 success");
    let counts = (one["status"].as_str(), one["result"]["error_class"].as_str());
    assert_eq!(counts, (Some("failed"), Some("data_quality")));
    // What was committed is counted, although the run failed.
    let first = stored(&case);
    assert_eq!((loaded(&one), one["result"]["inserted_rows"].as_u64()), (first, Some(first)), "{one:#}");
    assert!(!one.to_string().contains("5000.25"), "{one:#}");

    case.pg.execute("UPDATE shop.events SET amount = 1 WHERE amount = 5000.25 AND day = '2026-01-05'");
    assert_eq!(case.backfill("retry-failed", &["--run-id", "two"], "").code(), Some(1));
    let two = evidence(&case, "two");
    let more = stored(&case) - first;
    assert!(more > 0 && chunks(&two) == "1 failed, 8 skipped, 1 success", "{two:#}");
    assert_eq!((loaded(&two), two["result"]["inserted_rows"].as_u64()), (more, Some(more)));

    case.pg.execute("UPDATE shop.events SET amount = 1 WHERE amount = 5000.25");
    case.backfill("retry-failed", &["--run-id", "three"], "").ok();
    assert_eq!(chunks(&evidence(&case, "three")), "9 skipped, 1 success");
    let passed: Vec<_> = listed(&case).iter().map(|run| run["passed"].as_bool().unwrap()).collect();
    assert_eq!(passed, [true, false, false]);
}

#[test]
fn a_killed_backfill_leaves_evidence_of_where_it_stopped() {
    let case = Case::new(Into::Postgres, "incremental_append", "");
    case.backfill("run", &["--run-id", "k"], "staged@3=kill").killed();
    let document = evidence(&case, "k");
    assert_eq!(
        (document["status"].as_str(), chunks(&document).as_str()),
        (Some("running"), "7 pending, 1 running, 2 success")
    );
    assert_eq!((document["stage"].as_str(), &document["stages"][0]["seconds"]), (Some("stage"), &Value::Null));
    let run = &listed(&case)[0];
    assert_eq!((run["status"].as_str(), run["rows_read"].as_u64()), (Some("killed"), Some(stored(&case))), "{run:#}");
    dpone(&case, &["runs", "show", "k"]).ok().says("at work on: 00003");
    assert_eq!(dpone(&case, &["runs", "verify", "k"]).code(), Some(1));

    let before = stored(&case);
    case.backfill("resume", &["--run-id", "k"], "").ok();
    let resumed = evidence(&case, "k");
    assert_eq!((chunks(&resumed).as_str(), loaded(&resumed)), ("2 skipped, 8 success", 1100 - before));
    // What the killed call left is kept beside it, and its execution was gone on with.
    assert!(case.project.path(".dpone/runs/k/earlier/1/run.json").is_file());
    assert_eq!(resumed["execution_id"], document["execution_id"]);
    dpone(&case, &["runs", "verify", "k"]).ok();
}

#[test]
fn a_backfill_that_cannot_begin_says_why_in_its_evidence() {
    let case = Case::new(Into::Postgres, "replace", "");
    case.pg.execute("UPDATE shop.events SET day = NULL WHERE id = 1");
    assert_eq!(case.backfill("run", &["--run-id", "n"], "").code(), Some(1));
    let document = evidence(&case, "n");
    assert_eq!(
        (document["status"].as_str(), document["error"]["kind"].as_str()),
        (Some("failed"), Some("data_quality"))
    );
    // Evidence and ledger are left out where that is asked for.
    case.backfill("run", &["--run-id", "no", "--runs-dir", "none", "--ledger", "none"], "");
    assert!(!case.project.path(".dpone/runs/no").exists());
}
