//! The commands of `dpone schema` on the files of `examples/schema`, as the documents write them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod governance;
#[path = "../../tests/support/sql.rs"]
#[allow(dead_code)]
mod sql;
mod support;

use serde_json::Value;
use support::{Ended, Project};

fn example() -> Project {
    let project = Project::empty();
    for name in ["source-columns.json", "target-columns.json"] {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/schema/").to_owned() + name;
        project.write(name, &std::fs::read_to_string(path).unwrap());
    }
    project
}

const FILES: [&str; 4] = ["--source", "source-columns.json", "--target", "target-columns.json"];

fn plan(project: &Project, more: &[&str]) -> Ended {
    let args: Vec<&str> = ["schema", "plan"].into_iter().chain(FILES).chain(more.iter().copied()).collect();
    project.dpone(&args)
}

/// A plan of one column, on PostgreSQL.
fn judged(source: &str, target: &str, more: &[&str]) -> (i32, Value) {
    let project = Project::empty();
    project.write("source-columns.json", source);
    project.write("target-columns.json", target);
    let all: Vec<&str> = ["--table", "landing.orders", "--dialect", "postgres", "--format", "json"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    let ended = plan(&project, &all);
    let document = ended.json();
    (ended.code, document)
}

fn column(dtype: &str) -> String {
    format!(r#"[{{"name": "c", "dtype": "{dtype}"}}]"#)
}

fn blockers(document: &Value) -> Vec<&str> {
    let list = document["online_schema_evolution"]["blockers"].as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn the_plan_of_the_guide() {
    let project = example();
    let online = ["--table", "landing.orders", "--dialect", "postgres", "--ddl-mode", "online"];
    let text = plan(&project, &online);
    insta::assert_snapshot!("schema_plan_text", text.shown(&project));
    let json = [&online[..], &["--lock-timeout-seconds", "5", "--format", "json"]].concat();
    let first = plan(&project, &json);
    insta::assert_snapshot!("schema_plan_json", first.shown(&project));
    assert_eq!(first.stdout, plan(&project, &json).stdout, "the same input gives the same bytes");
    let markdown = plan(&project, &[&online[..], &["--format", "md"]].concat());
    insta::assert_snapshot!("schema_plan_md", markdown.shown(&project));
}

#[test]
fn schema_plan_in_one_word_is_the_same_command() {
    let project = example();
    let args: Vec<&str> = ["schema-plan"].into_iter().chain(FILES).collect();
    let written = [&args[..], &["--table", "dbo.orders", "--mode", "widening", "--format", "json"]].concat();
    let ended = project.dpone(&written);
    insta::assert_snapshot!("schema_plan_mssql", ended.shown(&project));
}

#[test]
fn the_exit_code_tells_what_is_in_the_way() {
    let (same, _) = judged(&column("text"), &column("text"), &[]);
    let (blocking, document) = judged(&column("bigint"), &column("integer"), &[]);
    assert_eq!((same, blocking), (0, 1));
    assert_eq!(blockers(&document), ["schema_evolution.blocking:type_widen:c"]);
    assert_eq!(judged(&column("bigint"), &column("integer"), &["--plan-only"]).0, 0);
    assert_eq!(judged(&column("bigint"), &column("integer"), &["--allow-blocking-online"]).0, 0);
    assert_eq!(judged(&column("bigint"), &column("integer"), &["--fail-on-breaking"]).0, 1, "blocking is not breaking");
    assert_eq!(judged(&column("boolean"), &column("integer"), &["--fail-on-breaking"]).0, 2);
    assert_eq!(judged(&column("boolean"), &column("integer"), &["--fail-on-breaking", "--plan-only"]).0, 2);
}

#[test]
fn costs_depend_on_version_and_session() {
    let risk = |source: &str, target: &str, more: &[&str]| {
        let (_, document) = judged(&column(source), &column(target), more);
        let action = document["online_schema_evolution"]["actions"][0].clone();
        (action["risk_level"].as_str().unwrap().to_owned(), action["rewrites"].as_bool().unwrap())
    };
    assert_eq!(risk("varchar(50)", "varchar(20)", &[]), ("metadata_only".into(), false));
    assert_eq!(risk("numeric(12,2)", "numeric(10,2)", &[]), ("metadata_only".into(), false));
    assert_eq!(risk("numeric(12,4)", "numeric(10,2)", &[]), ("blocking".into(), true));
    // Which instants the values are is for somebody to say; what it costs depends on the session.
    let zoned = |more: &[&str]| risk("timestamptz", "timestamp", more);
    assert_eq!(zoned(&["--setting", "TimeZone=UTC", "--server-version", "15"]), ("breaking".into(), false));
    assert_eq!(zoned(&["--setting", "TimeZone=UTC", "--server-version", "11"]), ("breaking".into(), true));
    assert_eq!(zoned(&["--setting", "TimeZone=Europe/Berlin", "--server-version", "15"]), ("breaking".into(), true));
    assert_eq!(zoned(&[]), ("breaking".into(), true), "what is not known is taken for the costliest");
}

#[test]
fn a_rename_is_declared() {
    let (source, target) = (column("text"), r#"[{"name": "old", "dtype": "text"}]"#);
    let kinds = |more: &[&str]| {
        let (_, document) = judged(&source, target, more);
        let changes = document["changes"].as_array().unwrap().clone();
        changes.iter().map(|change| change["change_type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&[]), ["add_column", "drop_column"]);
    assert_eq!(kinds(&["--rename", "old=c"]), ["rename_column"]);
    let (code, document) = judged(&source, target, &["--rename", "old=missing"]);
    assert_eq!(code, 2);
    assert!(document["error"]["message"].as_str().unwrap().contains("no column \"missing\""), "{document}");
}

#[test]
fn mistakes_in_files_are_told_with_their_place() {
    let project = example();
    project.write(
        "source-columns.json",
        "[\n  {\"name\": \"id\", \"dtype\": \"bigint\"},\n  {\"name\": \"x\", \"dtype\": \"tekst\"}\n]\n",
    );
    insta::assert_snapshot!(
        "schema_plan_wrong_type",
        plan(&project, &["--table", "landing.orders", "--dialect", "postgres"]).shown(&project)
    );
    let cases: [(&str, &[&str]); 6] = [
        ("source-columns.json", &["--source", "missing.json", "--target", "target-columns.json"]),
        ("table", &["--source", "target-columns.json", "--target", "target-columns.json", "--table", "orders"]),
        ("prefix", &["--new-column-prefix", "x_"]),
        ("version", &["--server-version", "new"]),
        ("setting", &["--setting", "TimeZone"]),
        ("dialect", &["--dialect", "oracle"]),
    ];
    for (what, more) in cases {
        let files: &[&str] = if more.contains(&"--source") { &[] } else { &FILES };
        let table: &[&str] = if more.contains(&"--table") { &[] } else { &["--table", "landing.orders"] };
        let dialect: &[&str] = if more.contains(&"--dialect") { &[] } else { &["--dialect", "postgres"] };
        let args = [&["schema", "plan"], files, table, dialect, more].concat();
        let ended = project.dpone(&args);
        assert_eq!(ended.code, 2, "{what}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{what}: {ended:?}");
    }
}
