//! `dpone schema compatibility` and `--dialect kafka`, on the files of `examples/schema`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

mod support;

use support::Project;

fn example() -> Project {
    let project = Project::empty();
    for name in ["orders-1.avsc", "orders-2.avsc", "orders-1.json", "orders-2.json"] {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/schema/kafka/").to_owned() + name;
        project.write(name, &std::fs::read_to_string(path).unwrap());
    }
    project
}

#[test]
fn schemas_are_judged_without_a_registry() {
    let project = example();
    let judge = |args: &[&str]| {
        let ended = project.dpone(&[&["schema", "compatibility"], args].concat());
        (ended.code, ended.stdout, ended.stderr)
    };
    let avro = ["--schema", "orders-2.avsc", "--against", "orders-1.avsc"];
    let (code, said, _) = judge(&avro);
    assert_eq!(code, 1);
    assert!(said.starts_with("incompatible under BACKWARD with 1 earlier schema\n"), "{said}");
    assert!(said.contains("amount  READER_FIELD_MISSING_DEFAULT_VALUE  orders-1.avsc  backward"), "{said}");
    let (code, said, _) = judge(&[&avro[..], &["--level", "forward", "--format", "json"]].concat());
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &document["compatible"], &document["level"]), (1, &false.into(), &"FORWARD".into()));
    let rules: Vec<_> = document["problems"].as_array().unwrap().iter().map(|p| (&p["path"], &p["rule"])).collect();
    assert_eq!(rules, [(&"id".into(), &"TYPE_MISMATCH".into()), (&"state".into(), &"MISSING_ENUM_SYMBOLS".into())]);
    assert_eq!(judge(&[&avro[..], &["--level", "NONE"]].concat()).0, 0);
    let (code, said, _) = judge(&["--schema", "orders-2.json", "--against", "orders-1.json", "--format", "md"]);
    assert!(code == 1 && said.contains("| note | MAX_LENGTH_DECREASED | orders-1.json |"), "{said}");
    let (code, said, _) =
        judge(&["--schema", "orders-1.json", "--against", "orders-1.json", "--level", "FULL_TRANSITIVE"]);
    assert!(code == 0 && said.starts_with("compatible under FULL_TRANSITIVE"), "{said}");
}

#[test]
fn what_is_no_schema_ends_with_2_and_names_the_file() {
    let project = example();
    project.write("broken.avsc", "{\"type\": \"record\"");
    project.write("nameless.avsc", "{\"type\": \"record\", \"fields\": []}");
    for (new, old, file) in [
        ("broken.avsc", "orders-1.avsc", "broken.avsc"),
        ("orders-1.avsc", "nameless.avsc", "nameless.avsc"),
        ("missing.avsc", "orders-1.avsc", "missing.avsc"),
    ] {
        let ended = project.dpone(&["schema", "compatibility", "--schema", new, "--against", old]);
        assert!(ended.code == 2 && ended.stderr.contains(file), "{ended:?}");
    }
    assert_eq!(project.dpone(&["schema", "compatibility", "--schema", "orders-1.avsc"]).code, 2);
}

#[test]
fn a_plan_for_a_topic_says_what_the_registry_would() {
    let project = Project::empty();
    project.write("source.json", r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "n", "dtype": "integer", "nullable": false}]"#);
    project.write("target.json", r#"[{"name": "id", "dtype": "integer", "nullable": false}]"#);
    let plan = |more: &[&str]| {
        let args = [
            "schema",
            "plan",
            "--source",
            "source.json",
            "--target",
            "target.json",
            "--table",
            "shop.orders",
            "--format",
            "json",
        ];
        project.dpone(&[&args[..], more].concat())
    };
    let ended = plan(&["--dialect", "kafka"]);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let online = &document["online_schema_evolution"];
    assert_eq!(ended.code, 1);
    assert_eq!(
        online["blockers"],
        serde_json::json!(["schema_evolution.unsupported:type_widen:id", "schema_evolution.unsupported:add_column:n"])
    );
    assert_eq!(document["ddl"], serde_json::json!([]));
    let reason = |at: usize| online["actions"][at]["reason"].as_str().unwrap().to_owned();
    assert!(reason(0).contains("under BACKWARD the new schema is compatible"), "{}", reason(0));
    assert!(
        reason(1).contains("under BACKWARD the new schema is incompatible (READER_FIELD_MISSING_DEFAULT_VALUE"),
        "{}",
        reason(1)
    );
    let forward = plan(&["--dialect", "kafka", "--compatibility", "FORWARD"]);
    assert!(
        forward.stdout.contains("under FORWARD the new schema is incompatible (TYPE_MISMATCH"),
        "{}",
        forward.stdout
    );
    let elsewhere = plan(&["--dialect", "postgres", "--compatibility", "FORWARD"]);
    assert!(elsewhere.code == 2 && elsewhere.stderr.contains("--dialect kafka"), "{elsewhere:?}");
}
