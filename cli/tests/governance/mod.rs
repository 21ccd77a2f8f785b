//! Ledger, approvals, expand-contract, history and notifications, as the documents write the commands.

use dpone_engine::schema::{EntryStatus, Ledger, NewEntry};
use serde_json::{Value, json};

use super::sql;
use super::support::{Ended, Project};

const LEDGER: &str = ".dpone/schema_changes/schema_change_run01_abcd.json";

/// An artifact with the fields that the reference names, and no others.
fn artifact() -> Value {
    json!({
        "run_id": "run01", "table": "landing.orders", "dialect": "postgres", "status": "deferred", "online_eligible": false,
        "actions": [{
            "schema_change_id": "sch_000000000000000000000001", "risk_level": "blocking", "decision": "defer",
            "ddl": ["ALTER TABLE \"landing\".\"orders\" ALTER COLUMN \"quantity\" TYPE bigint"],
        }],
        "blockers": ["schema_evolution.blocking:type_widen:quantity"],
        "expand_contract_plan": [],
    })
}

fn entry(status: EntryStatus) -> NewEntry {
    NewEntry {
        run_id: "run01".into(),
        pipeline: "orders".into(),
        table: "landing.orders".into(),
        dialect: "postgres".into(),
        status,
        online_eligible: true,
        plan_hash: "aa".into(),
        catalog_fingerprint: "bb".into(),
        actions: vec![json!({
            "schema_change_id": "sch_000000000000000000000001", "change_type": "add_column", "column": "status",
            "risk_level": "metadata_only", "decision": "manual_approval", "approval_status": "pending",
            "ddl": ["ALTER TABLE \"landing\".\"orders\" ADD COLUMN \"status\" text"], "reason": "the target lacks the column",
        })],
        blockers: vec!["schema_evolution.manual_approval:add_column:status".into()],
        expand_contract_plan: Vec::new(),
        approval_id: None,
        error: None,
        notes: Vec::new(),
    }
}

fn approve(project: &Project, more: &[&str]) -> Ended {
    let args = [
        "schema",
        "approve",
        "--ledger",
        LEDGER,
        "--approver",
        "data-architect",
        "--output-dir",
        ".dpone/schema_approvals",
        "--format",
        "json",
    ];
    project.dpone(&[&args, more].concat())
}

#[test]
fn an_artifact_is_approved_as_the_reference_writes_it() {
    let project = Project::empty();
    project.write(LEDGER, &artifact().to_string());
    let ended = approve(&project, &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let document = ended.json();
    let id = document["approval_id"].as_str().unwrap();
    assert!(id.len() == 29 && id.starts_with("appr_"), "{id}");
    assert_eq!(document["approval_status"], "approved");
    assert_eq!(document["approver"], "data-architect");
    assert_eq!(document["ledger_path"], LEDGER);
    assert_eq!(document["ledger_sha256"].as_str().unwrap().len(), 64);
    // Such an artifact names no plan: that is said.
    assert!(ended.stderr.contains("no run can tell that it is approved"), "{ended:?}");
    let path = project.path().join(document["artifact_path"].as_str().unwrap());
    let stored: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(stored["approval_id"], document["approval_id"]);
}

#[test]
fn what_is_no_artifact_is_refused_with_its_place() {
    let project = Project::empty();
    let refused = |text: &str| {
        project.write(LEDGER, text);
        let ended = approve(&project, &[]);
        assert!(!project.path().join(".dpone/schema_approvals").exists(), "{text}: approved");
        (ended.code, ended.json()["error"].clone())
    };
    for (text, line) in [("{}", 1), ("[]", 1), ("{\n\"run_id\": 5}", 2), ("", 1), ("not json", 1)] {
        let (code, error) = refused(text);
        assert_eq!(code, 2, "{text}: {error}");
        assert_eq!(error["location"]["line"], line, "{text}: {error}");
    }
    let mut applied = artifact();
    applied["status"] = "applied".into();
    assert_eq!(refused(&applied.to_string()).0, 1);
    project.write(LEDGER, &artifact().to_string());
    for approver in ["", "   "] {
        let ended = approve(&project, &[]).code;
        assert_eq!(ended, 0);
        std::fs::remove_dir_all(project.path().join(".dpone/schema_approvals")).unwrap();
        let args = ["schema", "approve", "--ledger", LEDGER, "--approver", approver];
        assert_eq!(project.dpone(&args).code, 2, "{approver:?}");
    }
    let missing = project.dpone(&["schema", "approve", "--ledger", "none.json", "--approver", "x"]);
    insta::assert_snapshot!("schema_approve_missing", missing.shown(&project));
}

#[test]
fn an_approval_is_signed_with_a_key_of_openssl_and_a_ledger_is_verified() {
    let project = Project::empty();
    let ledger = Ledger::open(project.path().join("ledger"));
    let path = ledger.record(&entry(EntryStatus::PendingApproval)).unwrap();
    ledger.record(&entry(EntryStatus::Applied)).unwrap();
    let key = project.path().join("key.pem");
    let made =
        std::process::Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key).status();
    assert!(made.unwrap().success());
    let path = path.display().to_string();
    let args = [
        "schema",
        "approve",
        "--ledger",
        &path,
        "--approver",
        "ü <a@b>",
        "--key",
        "key.pem",
        "--expires-in",
        "12h",
        "--reason",
        "asked for",
        "--format",
        "json",
    ];
    let ended = project.dpone(&args);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.json()["signature"]["algorithm"], "ed25519");
    assert_eq!(ended.json()["plan_hash"], "aa");
    assert_eq!(ended.stderr, "");
    assert!(project.path().join(".dpone/schema_approvals").is_dir());

    let verified = project.dpone(&["schema", "verify", "--ledger", "ledger", "--format", "json"]);
    assert_eq!((verified.code, &verified.json()["entries"]), (0, &json!(2)), "{verified:?}");
    let head = verified.json()["head"].as_str().unwrap().to_owned();
    assert_eq!(project.dpone(&["schema", "verify", "--ledger", "ledger", "--head", &head]).code, 0);
    assert_eq!(project.dpone(&["schema", "verify", "--ledger", "ledger", "--head", "00"]).code, 1);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("sch_0000", "sch_1000")).unwrap();
    let broken = project.dpone(&["schema", "verify", "--ledger", "ledger"]);
    assert_eq!(broken.code, 1);
    let name = std::path::Path::new(&path).file_name().unwrap().to_str().unwrap();
    assert!(broken.stderr.contains(name), "{broken:?}");
    assert_eq!(project.dpone(&args).code, 1, "an artifact of a broken ledger was approved");
}

#[test]
fn entries_are_told_in_json_and_markdown() {
    let project = Project::empty();
    let ledger = Ledger::open(project.path().join("ledger"));
    ledger.record(&entry(EntryStatus::PendingApproval)).unwrap();
    ledger.record(&entry(EntryStatus::Applied)).unwrap();
    let args = ["schema", "notify", "--ledger", "ledger", "--output-dir", "out", "--format", "json"];
    let ended = project.dpone(&args);
    assert_eq!(ended.code, 0, "{ended:?}");
    let list = ended.json()["notifications"].as_array().unwrap().clone();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0]["severity"], "action_required");
    for key in ["json_path", "markdown_path"] {
        assert!(project.path().join(list[0][key].as_str().unwrap()).is_file(), "{key}");
    }
    let pending = ["--status", "pending_approval"];
    let one = project.dpone(&[&args[..], &pending].concat());
    assert_eq!(one.json()["notifications"].as_array().unwrap().len(), 1);
    let file = list[0]["ledger_path"].as_str().unwrap();
    let one = project.dpone(&["schema", "notify", "--ledger", file, "--output-dir", "one"]);
    assert_eq!(one.code, 0, "{one:?}");
    assert_eq!(project.dpone(&["schema", "notify", "--ledger", "nowhere", "--output-dir", "out"]).code, 2);
}

#[test]
fn a_table_has_a_history() {
    let project = Project::empty();
    let record = |columns: &str| {
        project.write("columns.json", columns);
        let args = [
            "schema",
            "history",
            "--table",
            "landing.orders",
            "--dialect",
            "postgres",
            "--record",
            "columns.json",
            "--format",
            "json",
        ];
        let ended = project.dpone(&args);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.json()["versions"].as_array().unwrap().clone()
    };
    let missing = project.dpone(&["schema", "history", "--table", "landing.orders"]);
    assert_eq!(missing.code, 2, "{missing:?}");
    let first = r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "note", "dtype": "varchar(20)"}]"#;
    assert_eq!(record(first).len(), 1);
    assert_eq!(record(first).len(), 1);
    let second = r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "at", "dtype": "date"}]"#;
    let versions = record(second);
    assert_eq!(versions.len(), 2);
    assert_eq!(versions[1]["diff"]["changed"][0]["what"], json!(["dtype"]));
    insta::assert_snapshot!(
        "schema_history",
        project.dpone(&["schema", "history", "--table", "landing.orders"]).shown(&project)
    );
    let args = ["schema", "history", "--table", "landing.orders", "--version", "2", "--format", "md"];
    insta::assert_snapshot!("schema_history_version", project.dpone(&args).shown(&project));
    assert_eq!(project.dpone(&["schema", "history", "--table", "landing.orders", "--version", "7"]).code, 2);
}

const EXPAND: [&str; 8] = [
    "schema",
    "expand-contract",
    "--source",
    "source-columns.json",
    "--target",
    "target-columns.json",
    "--table",
    "landing.orders",
];

/// Every statement of every phase.
fn statements(document: &Value) -> Vec<String> {
    let actions = document["actions"].as_array().unwrap().iter();
    let ddl = actions.flat_map(|action| action["ddl"].as_array().unwrap());
    ddl.map(|statement| statement.as_str().unwrap().to_owned()).collect()
}

#[test]
fn expand_contract_says_every_phase() {
    let project = super::example();
    let args = [&EXPAND[..], &["--dialect", "postgres", "--output-dir", ".dpone/schema_expand_contract"]].concat();
    let json = project.dpone(&[&args[..], &["--format", "json"]].concat());
    insta::assert_snapshot!("expand_contract_json", json.shown(&project));
    let document = json.json();
    let path = ".dpone/schema_expand_contract/expand_contract_landing_orders.json";
    assert_eq!(document["artifact_path"], path);
    let stored: Value = serde_json::from_str(&std::fs::read_to_string(project.path().join(path)).unwrap()).unwrap();
    assert_eq!(stored, document);
    sql::assert_parses("postgres", &statements(&document));
    for phase in ["expand", "backfill", "validate", "contract", "rollback"] {
        let found = document["actions"].as_array().unwrap().iter().any(|action| action["phase"] == phase);
        assert!(found, "no action of {phase}");
    }
    insta::assert_snapshot!("expand_contract_text", project.dpone(&args).shown(&project));
}

#[test]
fn other_systems_get_the_statements_for_somebody_to_run() {
    let project = Project::empty();
    let files = |integer: &str, text: &str| {
        let column = |name: &str, dtype: &str| format!("{{\"name\": \"{name}\", \"dtype\": \"{dtype}\"}}");
        let list = |columns: &[String]| format!("[{}]", columns.join(", "));
        project.write("source-columns.json", &list(&[column("code", integer), column("new_name", text)]));
        project.write("target-columns.json", &list(&[column("code", text), column("old_name", text)]));
    };
    for (dialect, grammar, integer, text) in [
        ("mssql", "tsql", "int", "nvarchar(20)"),
        ("clickhouse", "clickhouse", "Nullable(Int32)", "Nullable(String)"),
        ("bigquery", "bigquery", "INT64", "STRING"),
    ] {
        files(integer, text);
        let args = [&EXPAND[..], &["--dialect", dialect, "--rename", "old_name=new_name", "--format", "md"]].concat();
        let ended = project.dpone(&args);
        assert_eq!(ended.code, 0, "{dialect}: {ended:?}");
        insta::assert_snapshot!(format!("expand_contract_{dialect}"), ended.shown(&project));
        let args = [&args[..args.len() - 1], &["json"]].concat();
        sql::assert_parses(grammar, &statements(&project.dpone(&args).json()));
    }
}

#[test]
fn a_topic_has_nothing_to_migrate() {
    let project = super::example();
    let ended = project.dpone(&[&EXPAND[..], &["--dialect", "kafka"]].concat());
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("a topic has no columns to migrate"), "{ended:?}");
    assert!(ended.stderr.contains("dpone schema compatibility"), "{ended:?}");
    assert!(!project.path().join(".dpone").exists(), "a plan was written");
}

#[test]
fn wrong_use_of_expand_contract_is_said() {
    let project = super::example();
    for wrong in [
        &["--apply"][..],
        &["--apply", "--phase", "expand"],
        &["--phase", "expand"],
        &["--rollback"],
        &["--apply", "--phase", "cleanup", "--connection", "x"],
    ] {
        let args = [&EXPAND[..], wrong].concat();
        assert_eq!(project.dpone(&args).code, 2, "{wrong:?}");
    }
    project.write("dpone.sql", "CREATE CONNECTION lake TYPE delta OPTIONS ('path' 'warehouse');\n");
    project.write("plan.json", "{\n  \"table\": 5\n}\n");
    let args =
        ["schema", "expand-contract", "--apply", "--phase", "expand", "--connection", "lake", "--plan", "plan.json"];
    insta::assert_snapshot!("expand_contract_wrong_plan", project.dpone(&args).shown(&project));
}
