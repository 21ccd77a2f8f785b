//! The binary from outside: what it prints, and how it ends. On embedded systems only: files and Delta.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Ended, Project};

#[test]
fn help() {
    let project = Project::empty();
    insta::assert_snapshot!("help", project.dpone(&["--help"]).shown(&project));
    insta::assert_snapshot!("help_run", project.dpone(&["run", "-h"]).shown(&project));
    assert!(project.dpone(&["--version"]).stdout.starts_with("dpone 0."));
}

#[test]
fn wrong_use_ends_with_2() {
    let project = Project::starter();
    let cases: [&[&str]; 8] = [
        &["run", "--no-such-option"],
        &["run", "--parallelism", "0"],
        &["run", "--memory-limit", "much"],
        &["run", "--var", "novalue"],
        &["run", "missing.sql"],
        &["run", "data/orders.csv"],
        &["query", "SELECT 1", "--format", "parquet"],
        &["query", "DROP TABLE lake.landing.orders"],
    ];
    for args in cases {
        let ended = project.dpone(args);
        assert_eq!(ended.code, 2, "{args:?}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
    }
}

#[test]
fn an_error_in_a_definition_names_its_place() {
    let project = Project::empty();
    project.write(
        "wrong.sql",
        "CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');\n\
         CREATE PIPELINE orders INTO lkae.landing.orders\n  STRATEGY full_refresh\nAS SELECT * FROM lake.a.b;\n",
    );
    let text = project.dpone(&["manifest", "validate", "wrong.sql"]);
    insta::assert_snapshot!("error_with_place", text.shown(&project));
    let json = project.dpone(&["manifest", "validate", "wrong.sql", "--format", "json"]);
    assert_eq!(json.code, 2);
    assert_eq!(json.json()["error"]["kind"], "configuration");
    assert_eq!(json.json()["error"]["location"]["line"], 2);
}

#[test]
fn errors_of_arguments_are_json_too() {
    let project = Project::empty();
    let ended = project.dpone(&["run", "--no-such-option", "--format", "json"]);
    assert_eq!(ended.code, 2);
    assert_eq!(ended.json()["error"]["kind"], "configuration");
    let ended = project.dpone(&["run", "--format=json"]);
    assert_eq!(ended.code, 2);
    assert!(ended.json()["error"]["hint"].as_str().unwrap().contains("dpone init"), "{ended:?}");
}

#[test]
fn the_starter_project_runs_as_it_is_and_loads_only_what_is_new() {
    let project = Project::starter();
    insta::assert_snapshot!("starter_check", project.dpone(&["check"]).shown(&project));
    assert!(!project.path().join("warehouse/landing/orders").exists(), "check wrote something");
    insta::assert_snapshot!("starter_plan", project.dpone(&["plan"]).shown(&project));
    assert!(!project.path().join("warehouse/landing/orders").exists(), "plan wrote something");
    insta::assert_snapshot!("starter_run", project.dpone(&["run", "--run-id", "first"]).shown(&project));

    let csv = project.path().join("data/orders.csv");
    let mut orders = std::fs::read_to_string(&csv).unwrap();
    orders = orders.replace("99.00,call first,2024-03-02T08:00:00Z", "95.00,paid,2024-03-03T08:00:00Z");
    orders.push_str("5,Katherine,12.00,,2024-03-03T09:00:00Z\n");
    std::fs::write(&csv, orders).unwrap();
    insta::assert_snapshot!("starter_second_run", project.dpone(&["run", "--run-id", "second"]).shown(&project));
    insta::assert_snapshot!("starter_state", project.dpone(&["state", "inspect"]).shown(&project));
    insta::assert_snapshot!(
        "starter_query",
        project.dpone(&["query", "SELECT * FROM lake.landing.orders ORDER BY order_id"]).shown(&project)
    );
}

#[test]
fn init_overwrites_nothing() {
    let project = Project::starter();
    let before = std::fs::read_to_string(project.path().join("dpone.sql")).unwrap();
    let again = project.dpone(&["init"]);
    assert_eq!(again.code, 2, "{again:?}");
    assert_eq!(std::fs::read_to_string(project.path().join("dpone.sql")).unwrap(), before);
    assert_eq!(project.dpone(&["init", "other"]).code, 0);
}

#[test]
fn a_run_reports_in_the_shape_of_the_contract_and_only_once() {
    let project = Project::starter();
    let first = project.dpone(&["run", "--run-id", "r", "--format", "json"]);
    assert_eq!(first.code, 0, "{first:?}");
    let document = first.json();
    assert_eq!(document["process"], "orders");
    assert_eq!(document["manifest"], "dpone.sql");
    assert_eq!(document["run_id"], "r");
    assert_eq!(document["passed"], true);
    assert_eq!((&document["attempts"], &document["max_attempts"]), (&1.into(), &1.into()));
    let result = &document["result"];
    assert_eq!(result["status"], "committed");
    assert_eq!((&result["extracted_rows"], &result["inserted_rows"]), (&4.into(), &4.into()));
    assert_eq!(result["details"]["watermark_after"]["column"], "updated_at");

    let again = project.dpone(&["run", "--run-id", "r", "--format", "json"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(again.json()["result"]["status"], "already_committed");
    assert_eq!(again.json()["result"]["details"]["load_id"], result["details"]["load_id"]);
}

/// Three pipelines, of which the second fails.
fn with_a_failure() -> Project {
    let project = Project::empty();
    project.write("data/good.csv", "id,name\n1,a\n2,b\n");
    project.write("data/bad.csv", "id,name\n1,a\n1,b\n");
    project.write(
        "dpone.sql",
        "CREATE CONNECTION data TYPE file OPTIONS ('path' 'data');\n\
         CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');\n\
         CREATE PIPELINE one INTO lake.landing.one STRATEGY full_refresh AS SELECT * FROM data.files.good;\n\
         CREATE PIPELINE two INTO lake.landing.two STRATEGY incremental_merge KEY (id) AS SELECT * FROM data.files.bad;\n\
         CREATE PIPELINE three INTO lake.landing.three STRATEGY full_refresh AS SELECT * FROM data.files.good;\n",
    );
    project
}

#[test]
fn one_failure_does_not_stop_the_others_unless_asked() {
    let project = with_a_failure();
    let ended = project.dpone(&["run", "--format", "json"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let document = ended.json();
    assert_eq!(document["passed"], false);
    let passed: Vec<_> = document["runs"].as_array().unwrap().iter().map(|run| run["passed"].clone()).collect();
    assert_eq!(passed, [true, false, true]);
    assert_eq!(document["runs"][1]["result"]["error_class"], "data_quality");
    assert!(ended.stderr.contains("error: "), "{ended:?}");

    let project = with_a_failure();
    let ended = project.dpone(&["run", "--fail-fast", "--format", "json"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert_eq!(ended.json()["not_run"][0], "three");
    let text = project.dpone(&["run", "--fail-fast"]);
    assert!(text.stdout.ends_with("1 of 3 pipelines done; failed: two; not run: three\n"), "{text:?}");
}

#[test]
fn a_selector_selects_one_pipeline_or_says_which_there_are() {
    let project = with_a_failure();
    let ended = project.dpone(&["run", "--selector", "three", "--format", "json"]);
    assert_eq!((ended.code, &ended.json()["process"]), (0, &"three".into()), "{ended:?}");
    let ended = project.dpone(&["run", "--selector", "four"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("one, two, three"), "{ended:?}");
}

#[test]
fn state_is_reset_only_when_that_is_meant() {
    let project = Project::starter();
    assert_eq!(project.dpone(&["run"]).code, 0);
    let refused = project.dpone(&["state", "reset"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    let exported = project.dpone(&["state", "export"]);
    assert_eq!(exported.json()["states"][0]["watermark"]["column"], "updated_at", "{exported:?}");
    assert_eq!(project.dpone(&["state", "reset", "--yes"]).code, 0);
    let inspected = project.dpone(&["state", "inspect", "--format", "json"]);
    assert_eq!(inspected.json()["states"][0]["watermark"], serde_json::Value::Null, "{inspected:?}");
}

#[test]
fn query_results_have_many_forms() {
    let project = Project::starter();
    let sql = "SELECT order_id, note FROM inbox.files.orders ORDER BY order_id LIMIT 2";
    assert_eq!(project.dpone(&["query", sql, "--format", "csv"]).stdout, "order_id,note\n1,\n2,gift\n");
    assert_eq!(
        project.dpone(&["query", sql, "--format", "ndjson"]).stdout,
        "{\"order_id\":1,\"note\":null}\n{\"order_id\":2,\"note\":\"gift\"}\n"
    );
    assert_eq!(project.dpone(&["query", sql, "--format", "json"]).json()[1]["note"], "gift");
    assert_eq!(
        project.dpone(&["query", sql, "--format", "md"]).stdout,
        "| order_id | note |\n|---:|---|\n| 1 | NULL |\n| 2 | gift |\n"
    );
    assert_eq!(project.dpone(&["query", sql, "--limit", "1", "--format", "csv"]).stdout, "order_id,note\n1,\n");

    let saved = project.dpone(&["query", sql, "--output", "out.parquet"]);
    assert_eq!((saved.code, saved.stdout.as_str()), (0, ""), "{saved:?}");
    assert_eq!(&std::fs::read(project.path().join("out.parquet")).unwrap()[..4], b"PAR1");
    let wrong = project.dpone(&["query", sql, "-o", "out.xlsx"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
}

#[test]
fn a_query_that_fails_leaves_an_earlier_result_as_it_was() {
    let project = Project::starter();
    project.write("out.csv", "before\n");
    let sql = "SELECT 1 / (order_id - 4) FROM inbox.files.orders";
    let ended = project.dpone(&["query", sql, "--output", "out.csv"]);
    assert_ne!(ended.code, 0, "{ended:?}");
    assert_eq!(std::fs::read_to_string(project.path().join("out.csv")).unwrap(), "before\n");
    let left: Vec<_> = std::fs::read_dir(project.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("unfinished")), "{left:?}");
}

/// A query that takes longer than anybody waits.
const ENDLESS: &str = "SELECT count(*) FROM data.files.n a, data.files.n b, data.files.n c, data.files.n d";

fn with_numbers() -> Project {
    let project = Project::empty();
    let numbers: String = (0..2000).map(|n| format!("{n}\n")).collect();
    project.write("data/n.csv", &format!("n\n{numbers}"));
    project.write("dpone.sql", "CREATE CONNECTION data TYPE file OPTIONS ('path' 'data');\n");
    project
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130() {
    let project = with_numbers();
    let mut child = project.command(&["query", ENDLESS]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "the query ended before it was interrupted");
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let began = Instant::now();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 130, "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let project = with_numbers();
    let sql = "SELECT a.n, b.n AS m FROM data.files.n a, data.files.n b, data.files.n c";
    let mut child = project
        .command(&["query", sql, "--format", "csv"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 64];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn secrets_are_not_shown() {
    let project = Project::empty();
    project.write(
        "dpone.sql",
        "CREATE CONNECTION shop TYPE postgres OPTIONS ('host' '127.0.0.1', 'port' '1', 'password' 'hunter2');\n\
         CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');\n\
         CREATE PIPELINE people INTO lake.landing.people STRATEGY full_refresh AS SELECT * FROM shop.public.people;\n",
    );
    let commands: [&[&str]; 6] = [
        &["connections", "list"],
        &["connections", "list", "--format", "json"],
        &["connections", "test", "--format", "json", "-vv"],
        &["manifest", "render"],
        &["check", "-vv"],
        &["plan", "-vv"],
    ];
    for args in commands {
        let ended = project.dpone(args);
        assert!(!format!("{ended:?}").contains("hunter2"), "{args:?}: {ended:?}");
    }
}

#[test]
fn connections_are_listed_tested_and_looked_into() {
    let project = Project::starter();
    insta::assert_snapshot!("connections_list", project.dpone(&["connections", "list"]).shown(&project));
    let tested = project.dpone(&["connections", "test", "inbox", "--format", "json"]);
    assert_eq!((tested.code, &tested.json()["passed"]), (0, &true.into()), "{tested:?}");
    let found = project.dpone(&["connections", "discover", "inbox", "--format", "md"]);
    assert!(found.stdout.contains("inbox.files.orders"), "{found:?}");
    assert_eq!(project.dpone(&["connections", "test", "nobody"]).code, 2);
}

#[test]
fn logs_go_to_stderr_and_may_be_json() {
    let project = Project::starter();
    let ended = project.dpone(&["run", "-v", "--log-format", "json", "--format", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended.json();
    let first: serde_json::Value = serde_json::from_str(ended.stderr.lines().next().unwrap()).unwrap();
    assert_eq!(first["level"], "INFO", "{ended:?}");
}

#[test]
fn completions_are_for_the_shell_that_is_named() {
    let project = Project::empty();
    assert!(project.dpone(&["completions", "bash"]).stdout.contains("_dpone()"));
    assert!(project.dpone(&["manifest", "schema"]).json().is_object());
}

#[test]
fn every_command_has_a_format() {
    let project = Project::empty();
    let init = project.dpone(&["init", "--format", "json"]);
    assert_eq!(init.json()["written"][0], "./dpone.sql", "{init:?}");
    assert!(project.dpone(&["init", "other", "--format", "md"]).stdout.starts_with("Written:\n\n- other/dpone.sql\n"));
    let schema = project.dpone(&["manifest", "schema", "--format", "md"]).stdout;
    assert!(schema.starts_with("```json\n{") && schema.ends_with("}\n```\n"));
    assert_eq!(
        project.dpone(&["manifest", "schema"]).json(),
        project.dpone(&["manifest", "schema", "--format=json"]).json()
    );
    let completions = project.dpone(&["completions", "zsh", "--format", "json"]).json();
    assert_eq!(completions["shell"], "zsh");
    assert!(completions["script"].as_str().unwrap().starts_with("#compdef dpone"));
    assert!(project.dpone(&["completions", "zsh", "--format", "md"]).stdout.starts_with("```zsh\n#compdef dpone"));
    assert_eq!(project.dpone(&["run"]).code, 0);
    let export = project.dpone(&["state", "export"]).json();
    assert_eq!(export["states"][0]["pipeline"], "orders");
    assert!(project.dpone(&["state", "export", "--format", "text"]).stdout.contains("    pipeline: orders\n"));
    let markdown = project.dpone(&["state", "export", "--format", "md"]).stdout;
    let inner = markdown.trim_start_matches("```json\n").trim_end_matches("```\n");
    assert_eq!(serde_json::from_str::<serde_json::Value>(inner).unwrap(), export);
}

#[test]
fn a_query_that_is_none_is_told_in_words() {
    let project = Project::starter();
    for (sql, told) in [
        ("", "the query is empty"),
        (" ; ", "the query is empty"),
        ("/* nothing */", "the query is empty"),
        ("SELECT 1; SELECT 2", "these are 2 statements"),
        ("DROP TABLE lake.landing.orders", "only a query"),
    ] {
        let ended = project.dpone(&["query", sql]);
        assert_eq!(ended.code, 2, "{sql}: {ended:?}");
        assert!(ended.stderr.contains(told), "{sql}: {ended:?}");
    }
    assert_eq!(project.dpone(&["query", "SELECT 1 AS one;", "--format", "csv"]).stdout, "one\n1\n");
    let long = (0..4002).map(|i| format!("{i} = 1")).collect::<Vec<_>>().join(" OR ");
    let ended = project.dpone(&["query", &format!("SELECT {long}")]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("more than 4000 operators") && ended.stderr.contains("IN ("), "{}", ended.stderr);
}

#[test]
fn a_chain_beyond_the_bound_names_its_place() {
    let project = Project::empty();
    let union = "SELECT 1 AS a\n  UNION ALL ".repeat(501);
    project.write(
        "long.sql",
        &format!(
            "CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'w');\n\
             CREATE PIPELINE long INTO lake.a.b STRATEGY full_refresh AS\n{union} SELECT 1;"
        ),
    );
    let ended = project.dpone(&["check", "long.sql"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.starts_with("error: long.sql:504:3: the query has more than 500 set operations"), "{ended:?}");
}

#[test]
fn a_variable_that_nothing_refers_to_is_told() {
    let project = Project::starter();
    let ended = project.dpone(&["check", "--var", "form=2024-01-01"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("warning: --var form has no effect"), "{ended:?}");
    project.write("v.sql", "CREATE CONNECTION lake TYPE delta OPTIONS ('path' '${place}');");
    let ended = project.dpone(&["query", "SELECT 1", "--file", "v.sql", "--var", "place=w"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
}

#[test]
fn a_run_id_is_a_name() {
    let project = Project::starter();
    for wrong in ["", "a\u{1b}[2J", "a\nb"] {
        let ended = project.dpone(&["run", "--run-id", wrong]);
        assert_eq!(ended.code, 2, "{wrong:?}: {ended:?}");
    }
    let ended = project.dpone(&["run", "--dag-id", "a\tb", "--execution-date", "2024-01-01"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("--run-id"), "{ended:?}");
}

#[test]
fn check_knows_what_an_earlier_pipeline_creates() {
    let project = Project::empty();
    project.write("data/x.csv", "id\n1\n");
    let sql = |second: &str| {
        format!(
            "CREATE CONNECTION f TYPE file OPTIONS ('path' 'data');\n\
             CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'w');\n\
             CREATE PIPELINE one INTO lake.l.one STRATEGY full_refresh AS SELECT * FROM f.files.x;\n\
             CREATE PIPELINE two INTO lake.l.two STRATEGY full_refresh AS SELECT * FROM {second};"
        )
    };
    project.write("dpone.sql", &sql("lake.l.one"));
    let ended = project.dpone(&["check"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("pipeline two: reads lake.l.one, which one creates"), "{ended:?}");
    assert_eq!(project.dpone(&["run"]).code, 0);
    assert!(project.dpone(&["check"]).stdout.contains("1 columns agree with lake.l.two"));
    // A table that nobody creates is missing as ever.
    project.write("dpone.sql", &sql("lake.l.eno"));
    assert_eq!(project.dpone(&["check"]).code, 2);
}

#[test]
fn input_that_cannot_be_read_ends_with_2() {
    let project = Project::empty();
    project.write("data/bad.parquet", "garbage");
    project.write("data/cut.csv.gz", "\u{1f}");
    project.write("lake/l/broken/_delta_log/00000000000000000000.json", "garbage");
    project.write(
        "dpone.sql",
        "CREATE CONNECTION f TYPE file OPTIONS ('path' 'data');\n\
         CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'lake');",
    );
    for table in ["f.files.bad", "f.files.cut", "f.files.missing", "lake.l.broken", "lake.l.missing", "nowhere.a.b"] {
        let ended = project.dpone(&["query", &format!("SELECT * FROM {table}")]);
        assert_eq!(ended.code, 2, "{table}: {ended:?}");
        assert!(!ended.stderr.contains("0: "), "{table}: no stack trace: {ended:?}");
    }
}

#[test]
fn a_sink_that_has_no_folder_is_refused_by_check_and_run() {
    let project = Project::empty();
    project.write("data/x.csv", "id\n1\n");
    for kind in ["delta", "parquet", "csv"] {
        for path in ["data/x.csv", "data/x.csv/below", "/proc/dpone"] {
            project.write(
                "dpone.sql",
                &format!(
                    "CREATE CONNECTION f TYPE file OPTIONS ('path' 'data');\n\
                     CREATE CONNECTION s TYPE {kind} OPTIONS ('path' '{path}');\n\
                     CREATE PIPELINE one INTO s.l.one STRATEGY full_refresh AS SELECT * FROM f.files.x;"
                ),
            );
            for verb in ["check", "plan", "run"] {
                let ended = project.dpone(&[verb]);
                assert_eq!(ended.code, 2, "{verb} {kind} {path}: {ended:?}");
                let told = format!("{}{}", ended.stdout, ended.stderr);
                assert!(told.contains("tables cannot be kept in"), "{verb} {kind} {path}: {told}");
            }
        }
    }
    project.write(
        "dpone.sql",
        "CREATE CONNECTION f TYPE file OPTIONS ('path' 'data');\n\
         CREATE CONNECTION s TYPE parquet OPTIONS ('path' 'out');\n\
         CREATE PIPELINE one INTO s.l.one PARTITION BY (id) STRATEGY full_refresh AS SELECT * FROM f.files.x;",
    );
    for verb in ["plan", "check", "run"] {
        let ended = project.dpone(&[verb]);
        assert_eq!(ended.code, 2, "{verb}: {ended:?}");
        assert!(format!("{}{}", ended.stdout, ended.stderr).contains("has no partitions"), "{verb}: {ended:?}");
    }
    assert!(!project.path().join("out/l/one").exists());
}

#[test]
fn a_folder_that_the_first_run_makes_is_no_failed_check() {
    let project = Project::empty();
    project.write("data/x.csv", "id\n1\n");
    for kind in ["parquet", "csv", "delta"] {
        project.write(
            "dpone.sql",
            &format!(
                "CREATE CONNECTION f TYPE file OPTIONS ('path' 'data');\n\
                 CREATE CONNECTION s TYPE {kind} OPTIONS ('path' 'out_{kind}');\n\
                 CREATE PIPELINE one INTO s.l.one STRATEGY full_refresh AS SELECT * FROM f.files.x;"
            ),
        );
        for step in ["check", "run", "check"] {
            let ended = project.dpone(&[step]);
            assert_eq!(ended.code, 0, "{step} {kind}: {ended:?}");
        }
    }
}

/// A backfill from a file into a Delta table, in chunks of a week.
fn with_a_backfill() -> Project {
    let project = Project::empty();
    let rows: String = (1..=20).map(|n| format!("{n},2024-01-{n:02}\n")).collect();
    project.write("data/events.csv", &format!("id,day\n{rows}"));
    project.write(
        "dpone.sql",
        "CREATE CONNECTION data TYPE file OPTIONS ('path' 'data');\n\
         CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');\n\
         CREATE PIPELINE events INTO lake.landing.events STRATEGY backfill\n\
           OPTIONS ('backfill.inner_mode' 'replace', 'backfill.chunk.column' 'day', 'backfill.chunk.from' '2024-01-03',\n\
                    'backfill.chunk.to' '2024-01-20', 'backfill.chunk.step' '1w')\n\
         AS SELECT * FROM data.files.events;\n",
    );
    project
}

#[test]
fn a_backfill_is_planned_run_looked_at_and_not_repeated() {
    let project = with_a_backfill();
    insta::assert_snapshot!("backfill_plan", project.dpone(&["backfill", "plan", "--count"]).shown(&project));
    assert!(!project.path().join(".dpone").exists(), "plan wrote something");
    insta::assert_snapshot!("backfill_status_before", project.dpone(&["backfill", "status"]).shown(&project));
    for verb in ["resume", "retry-failed", "cancel"] {
        let ended = project.dpone(&["backfill", verb, "--format", "json"]);
        assert_eq!((ended.code, &ended.json()["error"]["kind"]), (1, &"conflict".into()), "{verb}: {ended:?}");
    }
    insta::assert_snapshot!("backfill_run", project.dpone(&["backfill", "run"]).shown(&project));
    insta::assert_snapshot!(
        "backfill_run_again",
        project.dpone(&["backfill", "run", "--format", "md"]).shown(&project)
    );
    insta::assert_snapshot!("backfill_status", project.dpone(&["backfill", "status"]).shown(&project));
    let document = project.dpone(&["backfill", "status", "--format", "json"]).json();
    assert_eq!((&document["status"], &document["counts"]["loaded_rows"]), (&"done".into(), &18.into()));
    let plan = project.dpone(&["backfill", "plan", "--count", "--format", "json"]).json();
    assert_eq!(plan["backfill"]["outside_rows"], 2);
    assert_eq!(plan["backfill"]["chunks"][2]["upper"], "2024-01-21");
    assert_eq!(plan["backfill"]["chunks"][2]["status"], "success");
}

#[test]
fn what_is_no_backfill_says_so() {
    let project = Project::starter();
    let none = project.dpone(&["backfill", "status"]);
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.stderr.contains("no backfill"), "{none:?}");
    let named = project.dpone(&["backfill", "run", "--selector", "orders"]);
    assert_eq!(named.code, 2, "{named:?}");
    assert!(named.stderr.contains("incremental_merge"), "{named:?}");
}

#[test]
fn a_manifest_that_cannot_be_kept_fails_before_anything_is_loaded() {
    let project = with_a_backfill();
    project.write("file", "");
    let mut command = project.command(&["backfill", "run", "--format", "json"]);
    command.env("DPONE_BACKFILL_STATE_DIR", project.path().join("file/below"));
    let ended = Ended::from(command.output().unwrap());
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.json()["error"]["hint"].as_str().unwrap().contains("DPONE_BACKFILL_STATE_DIR"), "{ended:?}");
    assert!(!project.path().join("warehouse").exists());
}
