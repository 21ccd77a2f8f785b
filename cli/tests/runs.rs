//! What runs leave behind, from outside: evidence, the ledger, `dpone runs`, and what a change asks to be run again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Ended, Project};

/// The example project of five pipelines.
fn five() -> Project {
    let project = Project::empty();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/changed");
    for folder in ["", "pipelines", "data"] {
        for entry in std::fs::read_dir(example.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(&example).unwrap().to_str().unwrap();
                project.write(name, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    project
}

const FILES: [&str; 6] = [
    "connections.sql",
    "pipelines/best_customers.sql",
    "pipelines/customers.sql",
    "pipelines/orders.sql",
    "pipelines/products.sql",
    "pipelines/sales.sql",
];

fn run(project: &Project, more: &[&str]) -> Ended {
    project.dpone(&[&["run"], &FILES[..], &["--format", "json"], more].concat())
}

fn names(ended: &Ended) -> Vec<String> {
    let document = ended.json();
    let runs = document["runs"].as_array().unwrap_or_else(|| panic!("{ended:?}"));
    runs.iter().map(|run| run["process"].as_str().unwrap().to_owned()).collect()
}

fn modified(project: &Project) -> Vec<String> {
    let ended = run(project, &["--select", "state:modified"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    names(&ended)
}

fn change(project: &Project, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(project.path().join(file)).unwrap();
    assert!(text.contains(from), "{file}: {text}");
    project.write(file, &text.replace(from, to));
}

fn listed(project: &Project, more: &[&str]) -> Vec<Value> {
    let ended = project.dpone(&[&["runs", "list", "--format", "json"], more].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.json()["runs"].as_array().unwrap().clone()
}

fn document(project: &Project, run_id: &str) -> Value {
    let path = project.path().join(".dpone/runs").join(run_id).join("run.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn only_what_changed_runs_and_what_reads_from_it() {
    let project = five();
    // Nothing ever succeeded: everything runs, and what is read from comes first.
    let first = modified(&project);
    let place = |name: &str| first.iter().position(|n| n == name).unwrap();
    assert_eq!(first.len(), 5);
    assert!(place("sales") > place("orders") && place("sales") > place("products"));
    assert!(place("best_customers") > place("sales") && place("best_customers") > place("customers"));
    assert_eq!(modified(&project), [""; 0]);

    change(&project, "pipelines/products.sql", "shop.files.products", "shop.files.products WHERE price > 0");
    assert_eq!(modified(&project), ["products", "sales", "best_customers"]);
    assert_eq!(modified(&project), [""; 0]);

    change(&project, "pipelines/best_customers.sql", "sum(s.amount)", "max(s.amount)");
    assert_eq!(modified(&project), ["best_customers"]);

    // Upstream changed and was run by itself: what reads from it still has to.
    change(&project, "pipelines/customers.sql", "shop.files.customers", "shop.files.customers WHERE customer_id > 0");
    assert_eq!(run(&project, &["--selector", "customers"]).code, 0);
    assert_eq!(modified(&project), ["best_customers"]);

    // A comment is no change, and a failure no success.
    change(&project, "pipelines/sales.sql", "-- Reads", "-- It reads");
    assert_eq!(modified(&project), [""; 0]);
    change(&project, "pipelines/sales.sql", "p.price AS", "p.cost AS");
    for _ in 0..2 {
        let ended = run(&project, &["--select", "state:modified"]);
        assert_ne!(ended.code, 0, "{ended:?}");
        assert_eq!(names(&ended), ["sales"]);
        assert_eq!(ended.json()["not_run"], serde_json::json!(["best_customers"]));
    }
}

#[test]
fn old_runs_are_pruned_after_a_look() {
    let project = Project::starter();
    for id in ["r1", "r2", "r3"] {
        assert_eq!(project.dpone(&["run", "--run-id", id]).code, 0);
    }
    project.write(".dpone/runs/notes/readme.txt", "mine");
    let prune = |more: &[&str]| project.dpone(&[&["runs", "prune", "--format", "json"], more].concat());
    assert_eq!(prune(&[]).code, 2, "a limit is asked for");
    assert_eq!(prune(&["--older-than", "1 day"]).code, 2);
    assert_eq!(prune(&["--older-than", "30d"]).json()["removed"], serde_json::json!([]));
    let ids = |ended: &Ended| -> Vec<String> {
        assert_eq!(ended.code, 0, "{ended:?}");
        let removed = ended.json()["removed"].as_array().unwrap().clone();
        removed.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect()
    };
    let look = prune(&["--keep", "1", "--dry-run"]);
    assert_eq!((ids(&look), look.json()["dry_run"].clone()), (vec!["r2".to_owned(), "r1".to_owned()], true.into()));
    assert_eq!(project.dpone(&["runs", "verify", "r1"]).code, 0);
    assert_eq!(ids(&prune(&["--keep", "1", "--older-than", "0s"])), ["r2", "r1"]);
    assert_eq!(project.dpone(&["runs", "verify", "r3"]).code, 0);
    assert!(project.path().join(".dpone/runs/notes/readme.txt").is_file());
    // The ledger keeps what it knows.
    let known: Vec<Value> = listed(&project, &[]).iter().map(|run| run["known_from"].clone()).collect();
    assert_eq!(known, ["evidence", "ledger", "ledger"]);
}

#[test]
fn pipelines_are_selected_by_name_and_by_what_reads_from_them() {
    let project = five();
    let selected = |select: &[&str]| {
        let ended = run(&project, select);
        assert_eq!(ended.code, 0, "{ended:?}");
        let mut names = names(&ended);
        names.sort_unstable();
        names
    };
    assert_eq!(selected(&["--select", "state:new"]).len(), 5);
    assert_eq!(selected(&["--select", "products+"]), ["best_customers", "products", "sales"]);
    assert_eq!(selected(&["--select", "+sales"]), ["orders", "products", "sales"]);
    assert_eq!(selected(&["--select", "+sales", "--exclude", "orders"]), ["products", "sales"]);
    for wrong in
        [&["--select", "state:newer"][..], &["--select", "slaes"], &["--select", "sales", "--selector", "sales"]]
    {
        assert_eq!(run(&project, wrong).code, 2, "{wrong:?}");
    }
    let ended = run(&project, &["--select", "state:modified", "--ledger", "none"]);
    assert_eq!(ended.code, 2, "{ended:?}");
}

#[test]
fn the_document_that_is_printed_is_the_one_that_is_kept() {
    let project = Project::starter();
    let printed = project.dpone(&["run", "--run-id", "r1", "--format", "json"]);
    assert_eq!(printed.code, 0, "{printed:?}");
    let kept = document(&project, "r1");
    assert_eq!(printed.json(), kept);
    for (pointer, want) in [
        ("/schema_version", Value::from(1)),
        ("/status", "committed".into()),
        ("/passed", true.into()),
        ("/result/inserted_rows", 4.into()),
        ("/plan/strategy", "incremental_merge".into()),
        ("/partitions/0/status", "success".into()),
        ("/partitions/0/rows", 4.into()),
        ("/connections/0/role", "source".into()),
        ("/attempts", 1.into()),
        ("/error", Value::Null),
    ] {
        assert_eq!(kept.pointer(pointer).cloned().unwrap_or_default(), want, "{pointer}: {kept:#}");
    }
    for pointer in ["/definition/sha256", "/plan/sha256"] {
        assert_eq!(kept.pointer(pointer).and_then(Value::as_str).map(str::len), Some(64), "{pointer}");
    }
    let stages: Vec<&str> = kept["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["lease", "describe", "plan", "stage", "verify", "commit", "discard"]);
    assert!(kept["stages"].as_array().unwrap().iter().all(|s| s["seconds"].is_f64()));
    // A call that finds the run committed keeps the evidence of the one that did it.
    assert_eq!(project.dpone(&["run", "--run-id", "r1"]).code, 0);
    assert_eq!(document(&project, "r1/earlier/1"), kept);
    assert_eq!(project.dpone(&["runs", "verify", "r1"]).code, 0);
}

#[test]
fn a_document_is_as_the_schema_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/run.schema.json");
    let text = format!("{:#}\n", dpone_engine::evidence::json_schema());
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == text,
        "docs/reference/run.schema.json is out of date: run this test with DPONE_UPDATE_DOCS=1"
    );
    let schema: Value = serde_json::from_str(&text).unwrap();
    let (one, several) = (Project::starter(), five());
    let failing = Project::starter();
    failing.write("data/orders.csv", "order_id,other\n1,2\n");
    let documents = [
        one.dpone(&["run", "--format", "json"]).json(),
        run(&several, &[]).json(),
        run(&several, &["--select", "state:modified"]).json(),
        failing.dpone(&["run", "--format", "json"]).json(),
    ];
    assert_eq!(documents[3]["passed"], false);
    for document in &documents {
        let problems = support::schema::problems(&schema, &schema, document, "");
        assert_eq!(problems, [""; 0], "{document:#}");
    }
    // The check can fail.
    let mut wrong = documents[0].clone();
    wrong["attempts"] = "one".into();
    assert_ne!(support::schema::problems(&schema, &schema, &wrong, ""), [""; 0]);
}

#[test]
fn a_change_of_the_evidence_is_found() {
    let project = Project::starter();
    assert_eq!(project.dpone(&["run", "--run-id", "r1"]).code, 0);
    let verify = || project.dpone(&["runs", "verify", "r1", "--format", "json"]);
    assert_eq!((verify().code, verify().json()["passed"].clone()), (0, true.into()));
    let path = project.path().join(".dpone/runs/r1/run.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"inserted_rows\": 4", "\"inserted_rows\": 5")).unwrap();
    let found = verify();
    assert_eq!(found.code, 1, "{found:?}");
    assert_eq!(found.json()["differences"][0], serde_json::json!({"path": "run.json", "what": "changed"}));
    let told = project.dpone(&["runs", "verify", "r1"]);
    assert!(told.stdout.contains("run.json was changed"), "{told:?}");
    assert_eq!(project.dpone(&["runs", "verify", "none-such"]).code, 2);
}

#[test]
fn a_killed_run_says_where_it_stopped_and_is_gone_on_with() {
    let project = Project::starter();
    let kill = |at: &str, run_id: &str| {
        let mut command = project.command(&["run", "--run-id", run_id, "--lease-seconds", "1"]);
        let ended = command.env("DPONE_FAILPOINT", format!("{at}=kill")).output().unwrap();
        assert_eq!(ended.status.code(), None, "{ended:?}");
        // Its lease runs out.
        std::thread::sleep(std::time::Duration::from_millis(1500));
    };
    for (at, stage) in
        [("lease.acquired", "lease"), ("staged", "stage"), ("verified", "verify"), ("commit.begun", "commit")]
    {
        kill(at, at);
        let found = project.dpone(&["runs", "show", at, "--format", "json"]).json();
        assert_eq!((found["killed"].clone(), found["stage"].clone()), (true.into(), stage.into()), "{at}");
        assert_eq!((found["passed"].clone(), found["status"].clone()), (false.into(), "running".into()));
        assert_eq!(project.dpone(&["runs", "verify", at]).code, 1);
    }
    let runs = listed(&project, &["--failed"]);
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|run| run["status"] == "killed"), "{runs:?}");

    // The same run id goes on with the execution that the killed run left open, and completes it.
    let execution = document(&project, "staged")["execution_id"].clone();
    let ended = project.dpone(&[
        "run",
        "--run-id",
        "staged",
        "--lease-seconds",
        "1",
        "--format",
        "json",
        "--retry-attempts",
        "0",
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.json()["execution_id"], execution);
    assert_eq!(project.dpone(&["runs", "verify", "staged"]).code, 0);
    assert_eq!(listed(&project, &["--limit", "1"])[0]["status"], "committed");
}

#[test]
fn a_run_without_a_place_for_its_evidence_says_so() {
    let project = Project::starter();
    project.write("taken", "a file where a folder should be");
    // What was asked for by name is an error before anything is loaded.
    for asked in
        [&["--runs-dir", "taken/runs"][..], &["--ledger", "sqlite:///taken/ledger"], &["--ledger", "mysql://h/d"]]
    {
        let ended = project.dpone(&[&["run"], asked].concat());
        assert_ne!(ended.code, 0, "{ended:?}");
        assert!(!project.path().join("warehouse/landing").exists(), "{asked:?}");
    }
    // The defaults are a warning, and the load is done.
    let project = Project::starter();
    project.write(".dpone", "a file");
    let ended = project.dpone(&["run"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("leaves no evidence") && ended.stderr.contains("the ledger"), "{ended:?}");
    std::fs::remove_file(project.path().join(".dpone")).unwrap();
    let ended = project.dpone(&["run", "--runs-dir", "none", "--ledger", "none"]);
    assert_eq!((ended.code, project.path().join(".dpone/runs").exists()), (0, false), "{ended:?}");
}

#[test]
fn runs_are_listed_from_the_ledger_where_the_evidence_is_elsewhere() {
    let project = Project::starter();
    assert_eq!(project.dpone(&["run", "--run-id", "r1"]).code, 0);
    std::fs::rename(project.path().join(".dpone/runs"), project.path().join("elsewhere")).unwrap();
    let runs = listed(&project, &[]);
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0]["known_from"].clone(), runs[0]["rows_inserted"].clone()), ("ledger".into(), 4.into()));
    assert_eq!(project.dpone(&["runs", "show", "r1"]).code, 0);
    assert_eq!(listed(&project, &["--runs-dir", "elsewhere"])[0]["known_from"], "evidence");
    assert_eq!(listed(&project, &["--pipeline", "nobody"]).len(), 0);
}
