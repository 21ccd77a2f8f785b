//! Expand-contract on ClickHouse: the server computes one column from the other, each phase goes on where it was killed,
//! and the statements of the plan do the same by hand.

use std::time::Duration;

use dpone_tests::{ClickHouse, Outcome, Pg, Project, every_case};
use serde_json::Value;

struct Case {
    ch: ClickHouse,
    project: Project,
}

impl Case {
    /// A table `orders`, and the columns that the source has now.
    fn new(table: &str, source: &str) -> Self {
        let ch = ClickHouse::new();
        ch.execute(&format!("CREATE TABLE orders {table}"));
        let project = Project::new().env("TARGET_URL", ch.url());
        project.write("dpone.sql", "CREATE CONNECTION target TYPE clickhouse OPTIONS ('url' 'env:TARGET_URL');\n");
        project.write("source.json", source);
        Self { ch, project }
    }

    fn plan(&self, more: &[&str]) -> Value {
        let table = format!("{}.orders", self.ch.database);
        let arguments = [
            "schema",
            "expand-contract",
            "--source",
            "source.json",
            "--connection",
            "target",
            "--table",
            &table,
            "--output-dir",
            "out",
            "--format",
            "json",
        ];
        self.project.dpone(&[&arguments, more].concat()).ok().json()
    }

    fn arguments<'a>(&self, plan: &'a str, phase: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let arguments = [
            "schema",
            "expand-contract",
            "--apply",
            "--phase",
            phase,
            "--connection",
            "target",
            "--plan",
            plan,
            "--format",
            "json",
        ];
        [&arguments, more].concat()
    }

    fn document(&self) -> String {
        format!("out/expand_contract_{}_orders.json", self.ch.database)
    }

    fn apply(&self, phase: &str, more: &[&str]) -> Outcome {
        self.project.dpone(&self.arguments(&self.document(), phase, more))
    }

    /// Dies at the failpoint; or, where the phase has no such place, ends.
    fn killed(&self, phase: &str, more: &[&str], failpoint: &str) -> bool {
        let document = self.document();
        let arguments = self.arguments(&document, phase, more);
        let output = self.project.command(&arguments).env("DPONE_FAILPOINT", failpoint).output().unwrap();
        Outcome::new(&arguments, output).code().is_none()
    }

    /// `column type [kind]` of each column, in order.
    fn columns(&self) -> Vec<String> {
        self.ch.column(&format!(
            "SELECT trimRight(concat(name, ' ', type, ' ', default_kind)) FROM system.columns WHERE database = '{}' AND table = 'orders' \
             ORDER BY name",
            self.ch.database
        ))
    }

    fn rows(&self, row: &str) -> Vec<String> {
        self.ch.column(&format!("SELECT {row} FROM orders ORDER BY id"))
    }
}

const TEXT: &str = "(id Int64, code String, note Nullable(String)) ENGINE = MergeTree PARTITION BY id % 3 ORDER BY id";
const NUMBER: &str = r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "code", "dtype": "integer", "nullable": false},
                         {"name": "note", "dtype": "text"}]"#;

fn texts() -> Case {
    let case = Case::new(TEXT, NUMBER);
    case.ch.execute("INSERT INTO orders SELECT number, toString(number % 77), NULL FROM numbers(1000)");
    case.plan(&[]);
    case
}

#[test]
fn a_text_becomes_a_number_while_rows_come_in() {
    let case = texts();
    case.apply("backfill", &[]).says("--phase expand");
    case.apply("contract", &[]).says("--phase expand");
    case.apply("expand", &[]).ok();
    case.apply("expand", &[]).ok();
    case.ch.execute("INSERT INTO orders (id, code) VALUES (2000, '5'), (2001, 'bad'), (2002, ' 12 ')");
    case.apply("validate", &[]).says("--phase backfill");
    case.apply("contract", &[]).says("--phase backfill");
    let report = case.apply("backfill", &[]).ok().json();
    assert!(report["steps"][0]["done"][0].as_str().unwrap().contains("3 part(s)"), "{report:#}");
    assert_eq!(case.apply("backfill", &[]).ok().json()["steps"][0]["done"], Value::Array(Vec::new()));
    for phase in ["validate", "contract"] {
        let refused = case.apply(phase, &[]);
        assert_eq!(
            (refused.code(), &refused.json()["error"]["kind"]),
            (Some(1), &"data_quality".into()),
            "{}",
            refused.text()
        );
        assert!(refused.text().contains("2 values of") && !refused.text().contains("bad'"), "{}", refused.text());
    }
    // The statement of the hint finds them.
    let hint = case.apply("validate", &[]).json()["error"]["hint"].as_str().unwrap().to_owned();
    let query = hint.split("found by SELECT * ").nth(1).unwrap().split("; then").next().unwrap();
    assert_eq!(case.ch.column(&format!("SELECT toString(id) {query} ORDER BY id")), ["2001", "2002"]);
    case.ch.execute("DELETE FROM orders WHERE id IN (2001, 2002)");
    let validated = case.apply("validate", &[]).ok().json();
    assert_eq!(validated["steps"][0]["rows"], 1001, "{validated:#}");
    assert_eq!(case.apply("contract", &[]).ok().json()["steps"][0]["stage"], "cut_over");
    let expected = ["__dpone__old__code String MATERIALIZED", "code Int32", "id Int64", "note Nullable(String)"];
    assert_eq!(case.columns(), expected);
    case.ch.execute("INSERT INTO orders (id, code) VALUES (3000, 4711)");
    let same = "SELECT toString(countIf(toString(code) != `__dpone__old__code`)), toString(sum(code) > 0) FROM orders";
    assert_eq!(case.ch.table(same), [[Some("0".to_owned()), Some("1".to_owned())]]);

    // Back, with what was written since; forward again, to the end.
    case.apply("contract", &["--rollback"]).ok();
    assert_eq!(
        case.columns(),
        ["__dpone__nc__code Int32 MATERIALIZED", "code String", "id Int64", "note Nullable(String)"]
    );
    assert_eq!(case.ch.value("SELECT code FROM orders WHERE id = 3000"), "4711");
    case.apply("contract", &["--drop-old"]).says("--phase contract first");
    case.apply("contract", &[]).ok();
    case.apply("contract", &["--drop-old"]).ok();
    case.apply("contract", &["--drop-old"]).ok();
    assert_eq!(case.columns(), ["code Int32", "id Int64", "note Nullable(String)"]);
    assert_eq!(
        case.ch.value("SELECT toString(sum(code)) FROM orders WHERE id < 1000"),
        case.ch.value("SELECT toString(sum(number % 77)) FROM numbers(1000)")
    );
    case.apply("contract", &["--rollback"]).says("no way back");
}

const PHASES: &[(&str, &[&str])] =
    &[("expand", &[]), ("backfill", &[]), ("validate", &[]), ("contract", &[]), ("contract", &["--drop-old"])];

#[test]
fn each_phase_goes_on_where_it_was_killed() {
    let steps = [
        ("expand", &[][..], "migrate.expand.begun"),
        ("expand", &[], "migrate.expand.applied"),
        ("backfill", &[], "migrate.backfill.batch"),
        ("validate", &[], "migrate.validate.counted"),
        ("contract", &[], "migrate.contract.prepared"),
        ("contract", &[], "migrate.contract.swapped"),
        ("contract", &["--drop-old"], "migrate.contract.dropped"),
    ];
    every_case(steps, |(at, which, step)| {
        let case = texts();
        let mut killed = false;
        for (phase, more) in PHASES {
            if (phase, more) == (at, which) {
                killed = case.killed(phase, more, &format!("{step}=kill"));
            }
            case.apply(phase, more).ok();
        }
        assert!(killed, "nobody was killed at {step}");
        assert_eq!(case.columns(), ["code Int32", "id Int64", "note Nullable(String)"]);
        assert_eq!(case.rows("toString(code)"), (0..1000).map(|n| (n % 77).to_string()).collect::<Vec<_>>());
    });

    // The way back as well, whichever way the next one goes.
    every_case([&["--rollback"][..], &[]], |next| {
        let case = texts();
        for phase in ["expand", "backfill", "validate", "contract"] {
            case.apply(phase, &[]).ok();
        }
        assert!(case.killed("contract", &["--rollback"], "migrate.contract.swapped=kill"));
        case.apply("contract", next).ok();
        let old = next.is_empty().then_some("__dpone__old__code String MATERIALIZED");
        let new = (!next.is_empty()).then_some("__dpone__nc__code Int32 MATERIALIZED");
        assert_eq!(case.columns()[0], old.or(new).unwrap());
        assert_eq!(case.rows("toString(code)"), (0..1000).map(|n| (n % 77).to_string()).collect::<Vec<_>>());
        if !next.is_empty() {
            case.apply("expand", &["--rollback"]).ok();
            assert_eq!(case.columns(), ["code String", "id Int64", "note Nullable(String)"]);
        }
    });
}

#[test]
fn the_statements_of_the_plan_do_the_same_by_hand() {
    let case = texts();
    let document = case.plan(&[]);
    let run = |phase: &str| {
        for action in document["actions"].as_array().unwrap().iter().filter(|a| a["phase"] == phase) {
            for statement in action["ddl"].as_array().unwrap() {
                case.ch.execute(statement.as_str().unwrap());
            }
        }
    };
    for phase in ["expand", "backfill", "validate", "contract"] {
        run(phase);
    }
    // Dropping the old column is a statement of the contract phase that somebody decides on.
    assert_eq!(case.columns(), ["code Int32", "id Int64", "note Nullable(String)"]);
    assert_eq!(case.rows("toString(code)"), (0..1000).map(|n| (n % 77).to_string()).collect::<Vec<_>>());
}

#[test]
fn a_narrower_number_takes_no_value_that_it_would_cut() {
    let case = Case::new(
        "(id Int32, price Nullable(Decimal(12, 4)), at DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY id",
        r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "price", "dtype": "numeric(10,2)"},
            {"name": "at", "dtype": "timestamptz", "nullable": false}]"#,
    );
    case.ch.execute("INSERT INTO orders VALUES (1, 1.5, now64(6)), (2, 3.1234, now64(6)), (3, NULL, now64(6))");
    case.plan(&["--mode", "strict"]);
    case.apply("expand", &[]).ok();
    case.apply("backfill", &[]).ok();
    case.apply("validate", &[]).says("1 values of \\\"price\\\"");
    case.ch.execute("DELETE FROM orders WHERE id = 2");
    case.apply("validate", &[]).ok();
    case.apply("contract", &[]).ok();
    assert!(case.columns().contains(&"price Nullable(Decimal(10, 2))".to_owned()), "{:?}", case.columns());
    assert_eq!(case.rows("ifNull(toString(price), 'NULL')"), ["1.5", "NULL"]);
}

#[test]
fn both_names_can_be_read_while_a_column_is_renamed() {
    let case = Case::new(
        "(id Int32, old_name String) ENGINE = MergeTree ORDER BY id",
        r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "new_name", "dtype": "text", "nullable": false}]"#,
    );
    case.ch.execute("INSERT INTO orders SELECT number, concat('n', toString(number)) FROM numbers(10)");
    case.plan(&["--rename", "old_name=new_name"]);
    case.apply("contract", &[]).says("--phase expand");
    for phase in ["expand", "backfill", "validate"] {
        case.apply(phase, &[]).ok();
        assert_eq!(case.rows("new_name"), case.rows("old_name"));
    }
    assert!(case.killed("contract", &[], "migrate.contract.swapped=kill"));
    // The new name went away for the swap: it is made again first.
    case.apply("expand", &[]).ok();
    case.apply("contract", &[]).ok();
    case.ch.execute("INSERT INTO orders (id, new_name) VALUES (10, 'n10')");
    assert_eq!(case.rows("new_name"), case.rows("old_name"));
    case.apply("contract", &["--rollback"]).ok();
    assert_eq!(case.columns(), ["id Int32", "new_name String ALIAS", "old_name String"]);
    case.apply("contract", &[]).ok();
    case.apply("contract", &["--drop-old"]).ok();
    assert_eq!(case.columns(), ["id Int32", "new_name String"]);
    assert_eq!(case.rows("new_name").len(), 11);
}

#[test]
fn null_is_forbidden_and_columns_go_in_steps_that_have_a_way_back() {
    let case = Case::new(
        "(id Int32, a Nullable(Int32), b Nullable(String)) ENGINE = MergeTree ORDER BY id",
        r#"[{"name": "id", "dtype": "integer", "nullable": false}, {"name": "a", "dtype": "integer", "nullable": false}]"#,
    );
    case.ch.execute("INSERT INTO orders VALUES (1, 1, 'x'), (2, NULL, 'y')");
    let document = case.plan(&["--strict-nullability", "--allow-drop"]);
    let kinds: Vec<_> =
        document["migrations"].as_array().unwrap().iter().map(|m| m["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["not_null", "drop"], "{document:#}");
    case.apply("expand", &[]).ok();
    case.apply("backfill", &[]).ok();
    case.apply("validate", &[]).says("1 rows have no value");
    case.apply("contract", &[]).says("1 rows have no value");
    case.ch.execute("DELETE FROM orders WHERE id = 2");
    case.apply("validate", &[]).ok();
    case.apply("contract", &[]).ok();
    assert_eq!(case.columns(), ["__dpone__old__b Nullable(String)", "a Int32", "id Int32"]);
    case.apply("contract", &["--rollback"]).ok();
    assert_eq!(case.columns(), ["a Nullable(Int32)", "b Nullable(String)", "id Int32"]);
    case.apply("contract", &[]).ok();
    case.apply("contract", &["--drop-old"]).ok();
    assert_eq!(case.columns(), ["a Int32", "id Int32"]);
}

#[test]
fn what_no_server_changes_is_refused_by_name() {
    let key = Case::new(
        "(id Int64, code String) ENGINE = MergeTree ORDER BY (code, id)",
        r#"[{"name": "id", "dtype": "bigint", "nullable": false}, {"name": "code", "dtype": "integer", "nullable": false}]"#,
    );
    key.ch.execute("INSERT INTO orders VALUES (1, '5')");
    key.plan(&[]);
    key.apply("expand", &[]).says("sorting or partition key").says("code");
    assert_eq!(key.columns(), ["code String", "id Int64"], "nothing was begun");
}

/// Loads stage into tables of the structure that they found: none may be at work, and none half done.
#[test]
fn a_load_that_is_at_work_is_not_disturbed() {
    let case = texts();
    let pg = Pg::new();
    pg.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id bigint PRIMARY KEY, code text NOT NULL, note text, at timestamptz NOT NULL DEFAULT now()); \
                INSERT INTO shop.orders SELECT i, (i % 77 + 1)::text, 'loaded' FROM generate_series(0, 99) i");
    let project = Project::new()
        .env("SOURCE_URL", pg.url())
        .env("TARGET_URL", case.ch.url())
        .argument("--lease-seconds")
        .argument("1");
    project.write(
        "load.sql",
        format!(
            "CREATE CONNECTION shop TYPE postgres OPTIONS ('url' 'env:SOURCE_URL');\n\
             CREATE CONNECTION target TYPE clickhouse OPTIONS ('url' 'env:TARGET_URL');\n\
             CREATE PIPELINE orders INTO target.{}.orders STRATEGY incremental_merge KEY (id)\n\
             AS SELECT id, code, note FROM shop.shop.orders;\n",
            case.ch.database
        ),
    );
    let running = project.spawn("load.sql", "one", "staged=sleep:4000");
    while case.ch.leftovers().is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = case.apply("expand", &[]);
    assert_eq!(refused.json()["error"]["kind"], "conflict", "{}", refused.text());
    refused.says("orders").says("process");
    Outcome::new(&["run"], running.wait_with_output().unwrap()).ok();
    pg.execute("UPDATE shop.orders SET note = 'again'");
    project.run_with_failpoint("load.sql", "two", "commit.step@1=kill").killed();
    std::thread::sleep(Duration::from_millis(1200));
    case.apply("expand", &[]).says("cut short").says("run the pipeline first");
    project.run("load.sql", "two").ok();
    case.apply("expand", &[]).ok();
    case.apply("backfill", &[]).ok();
    // Rows that a merge changes are written by the sink: the server computes their new column too.
    pg.execute("UPDATE shop.orders SET code = '9', note = 'third' WHERE id < 50; INSERT INTO shop.orders VALUES (5000, '8', 'new')");
    project.run("load.sql", "three").ok();
    case.apply("validate", &[]).ok();
    case.apply("contract", &[]).ok();
    assert_eq!(case.ch.value("SELECT toString(countIf(code = 9 AND note = 'third')) FROM orders"), "50");
}
