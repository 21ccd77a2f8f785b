//! ClickHouse as the target: what its columns become when the source's do, what is refused, and what a kill leaves.

use std::time::{Duration, Instant};

use dpone_tests::{ClickHouse, Outcome, Pg, Project, assert_same_rows, every_case};

use super::columns::STRATEGIES;
use super::types::entries;
use super::{DB, approvals};
use crate::problems::database;

const MERGE: &str = "mode: incremental_merge, unique_key: [id]";
const SEED: &str = "CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t VALUES (1, 'x'), (2, 'y')";

struct Case {
    pg: Pg,
    ch: ClickHouse,
    project: Project,
}

/// A pipeline from `shop.t` of PostgreSQL to `t` of ClickHouse, with lines of `schema_evolution` and of `connector`.
fn definition(ch: &ClickHouse, strategy: &str, evolution: &str, connector: &str) -> String {
    format!(
        "name: evolving\nsource: {{{DB}, table: {{schema: shop, name: t}}}}\n\
         sink: {{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: t}}, \
         strategy: {{{strategy}}}, options: {{schema_evolution: {{{evolution}}}, connector: {{{connector}}}}}}}\n",
        ch.database
    )
}

impl Case {
    fn new(seed: &str, strategy: &str, evolution: &str) -> Self {
        Self::with(seed, strategy, evolution, "")
    }

    fn with(seed: &str, strategy: &str, evolution: &str, connector: &str) -> Self {
        let (pg, ch) = (database(seed), ClickHouse::new());
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
        let project = project.argument("--lease-seconds").argument("1");
        project.write("load.yaml", definition(&ch, strategy, evolution, connector));
        Self { pg, ch, project }
    }

    fn columns(&self) -> Vec<String> {
        self.ch.column(&format!(
            "SELECT concat(name, ' ', type) FROM system.columns WHERE database = '{}' AND table = 't' ORDER BY position",
            self.ch.database
        ))
    }

    /// Rows of both sides with these columns, as texts.
    fn same_rows(&self, what: &str, columns: &str, current: &str) {
        let texts: Vec<_> = columns.split(", ").collect();
        let theirs: Vec<_> = texts.iter().map(|c| format!("coalesce({c}::text, 'NULL')")).collect();
        let ours: Vec<_> = texts.iter().map(|c| format!("ifNull(toString({c}), 'NULL')")).collect();
        assert_same_rows(
            what,
            sorted(self.pg.column(&format!("SELECT concat_ws('|', {}) FROM shop.t", theirs.join(", ")))),
            sorted(self.ch.column(&format!("SELECT concatWithSeparator('|', {}) FROM t{current}", ours.join(", ")))),
        );
    }

    /// Runs until the lease of a killed run has run out.
    fn rerun(&self, run_id: &str) -> Outcome {
        let began = Instant::now();
        loop {
            let outcome = self.project.run("load.yaml", run_id);
            if outcome.code() == Some(0) || began.elapsed() > Duration::from_secs(20) {
                return outcome.ok();
            }
            outcome.failed("conflict");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

fn current(strategy: &str) -> &'static str {
    if strategy.contains("scd2") { " WHERE __dpone__is_current" } else { "" }
}

/// A column `v` of a type, and rows in it.
fn seed(kind: &str, values: &str) -> String {
    format!(
        "CREATE TABLE shop.t (id int PRIMARY KEY, v {kind}); \
         INSERT INTO shop.t SELECT i, v FROM unnest(ARRAY[{values}]::{kind}[]) WITH ORDINALITY AS x(v, i)"
    )
}

#[test]
fn a_new_column_is_added_and_loaded_by_every_strategy() {
    every_case(STRATEGIES, |strategy| {
        let case = Case::new(SEED, strategy, "");
        case.project.run("load.yaml", "one").ok();
        case.pg.execute(
            "ALTER TABLE shop.t ADD COLUMN fresh int NOT NULL DEFAULT 7; INSERT INTO shop.t VALUES (3, 'z', 8)",
        );
        case.project.run("load.yaml", "two").ok();
        assert!(case.columns().contains(&"fresh Nullable(Int32)".to_owned()), "{:?}", case.columns());
        case.same_rows(strategy, "id, v, fresh", current(strategy));
        let outcome = case.project.run("load.yaml", "three").ok();
        assert!(!outcome.text().contains("ADD COLUMN"), "nothing is left to do: {}", outcome.text());
        case.same_rows(strategy, "id, v, fresh", current(strategy));
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn types_are_widened_and_every_value_stays() {
    let widenings = [
        ("smallint", "1, NULL", "integer", "100000", "Nullable(Int32)"),
        ("integer", "1, NULL, -5", "bigint", "5000000000", "Nullable(Int64)"),
        ("real", "1.5", "double precision", "1e300", "Nullable(Float64)"),
        ("numeric(5,2)", "1.25, NULL", "numeric(8,2)", "123456.78", "Nullable(Decimal(8, 2))"),
        ("numeric(9,2)", "1234567.25", "numeric(30,4)", "12345678901234567890.1234", "Nullable(Decimal(30, 4))"),
        (
            "timestamp(3)",
            "'2024-01-01 10:00:00.123'",
            "timestamp(6)",
            "'2024-01-01 10:00:00.123456'",
            "Nullable(DateTime64(6))",
        ),
        ("varchar(5)", "'ab', NULL", "text", "'abcdefghi'", "Nullable(String)"),
    ];
    for strategy in [MERGE, "mode: full_refresh", "mode: snapshot_diff, unique_key: [id]"] {
        every_case(widenings, |(from, values, to, value, native)| {
            let case = Case::new(&seed(from, values), strategy, "");
            case.project.run("load.yaml", "one").ok();
            case.pg.execute(&format!("ALTER TABLE shop.t ALTER v TYPE {to}; INSERT INTO shop.t VALUES (100, {value})"));
            case.project.run("load.yaml", "two").ok();
            assert!(case.columns().contains(&format!("v {native}")), "{:?}", case.columns());
            let count = "SELECT toString(count()) FROM t WHERE v IS NOT NULL";
            assert_eq!(case.ch.value(count), case.pg.column("SELECT count(v)::text FROM shop.t")[0]);
            if !to.contains("numeric") && !to.contains("timestamp") && !to.contains("double") {
                case.same_rows(strategy, "id, v", "");
            }
        });
    }
}

#[test]
fn a_column_of_the_sorting_key_keeps_its_type() {
    let case = Case::new(SEED, MERGE, "ledger_path: ledger");
    case.project.run("load.yaml", "one").ok();
    case.pg.execute("ALTER TABLE shop.t ALTER id TYPE bigint; INSERT INTO shop.t VALUES (5000000000, 'z')");
    let refused = case.project.run("load.yaml", "two").failed("data_quality");
    refused.says("schema_evolution.unsupported:type_widen:id").says("sorting key");
    assert_eq!(case.columns(), ["id Int32", "v Nullable(String)"]);
    assert_eq!(case.ch.value("SELECT toString(count()) FROM t"), "2");
    assert_eq!(case.ch.leftovers(), Vec::<String>::new());
}

#[test]
fn a_type_change_waits_for_approval_and_is_applied_once_it_has_it() {
    let case = Case::new(&seed("integer", "1, 2, NULL"), MERGE, "ddl_mode: manual_approval, ledger_path: ledger");
    case.project.run("load.yaml", "one").ok();
    case.pg.execute("ALTER TABLE shop.t ALTER v TYPE text; INSERT INTO shop.t VALUES (9, 'nine')");
    case.project.run("load.yaml", "two").failed("data_quality").says("manual_approval:type_change:v");
    assert_eq!(case.columns(), ["id Int32", "v Nullable(Int32)"], "nothing is changed before somebody said so");
    approvals::approve(&case.project, &approvals::entry(&case.project, "ledger", "pending_approval"));
    case.project.run("load.yaml", "three").ok();
    assert_eq!(case.columns(), ["id Int32", "v Nullable(String)"]);
    assert_eq!(entries(&case.project, "ledger"), ["pending_approval", "planned", "applied"]);
    case.same_rows("converted", "id, v", "");
}

#[test]
fn an_approval_is_void_when_the_catalog_moved() {
    let case = Case::new(SEED, MERGE, "ddl_mode: manual_approval, ledger_path: ledger");
    case.project.run("load.yaml", "one").ok();
    case.pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int DEFAULT 7");
    case.project.run("load.yaml", "two").failed("data_quality");
    approvals::approve(&case.project, &approvals::entry(&case.project, "ledger", "pending_approval"));
    case.ch.execute("ALTER TABLE t ADD INDEX by_v v TYPE bloom_filter");
    case.project.run("load.yaml", "three").failed("data_quality").says("void");
    assert_eq!(case.columns().len(), 2, "nothing was changed");
    approvals::approve(&case.project, &approvals::entry(&case.project, "ledger", "pending_approval"));
    case.project.run("load.yaml", "four").ok();
    assert_eq!(case.columns().len(), 3);
    case.same_rows("approved anew", "id, v, fresh", "");
}

/// A value that does not convert would leave the column unreadable: it is looked for before the change is begun.
#[test]
fn a_change_that_would_lose_a_value_is_not_begun() {
    let case = Case::new(&seed("text", "'1', '2'"), MERGE, "ddl_mode: manual_approval, ledger_path: ledger");
    case.project.run("load.yaml", "one").ok();
    // Somebody else's row, that the source does not have.
    case.ch.execute("INSERT INTO t VALUES (50, 'hunter2')");
    case.pg.execute("ALTER TABLE shop.t ALTER v TYPE integer USING v::integer");
    case.project.run("load.yaml", "two").failed("data_quality").says("manual_approval:type_change:v");
    approvals::approve(&case.project, &approvals::entry(&case.project, "ledger", "pending_approval"));
    let outcome = case.project.run("load.yaml", "three").failed("data_quality").says("1 value(s) do not convert");
    assert!(!outcome.text().contains("hunter2"), "no value is shown: {}", outcome.text());
    assert_eq!(case.columns(), ["id Int32", "v Nullable(String)"]);
    assert_eq!(case.ch.value("SELECT toString(count()) FROM t WHERE v != ''"), "3", "the column can be read");
    assert_eq!(case.ch.value("SELECT toString(count()) FROM system.mutations WHERE NOT is_done"), "0");
    case.ch.execute("ALTER TABLE t DELETE WHERE id = 50 SETTINGS mutations_sync = 2");
    case.project.run("load.yaml", "four").ok();
    assert_eq!(case.columns(), ["id Int32", "v Nullable(Int32)"]);
    case.same_rows("converted", "id, v", "");
}

#[test]
fn a_column_that_went_or_has_another_name() {
    let case = Case::new(SEED, MERGE, "renames: {v: w}, ddl_mode: manual_approval, ledger_path: ledger");
    case.project.run("load.yaml", "one").ok();
    case.pg.execute("ALTER TABLE shop.t RENAME v TO w; INSERT INTO shop.t VALUES (3, 'z')");
    case.project.run("load.yaml", "two").failed("data_quality").says("rename_column:w");
    approvals::approve(&case.project, &approvals::entry(&case.project, "ledger", "pending_approval"));
    case.project.run("load.yaml", "three").ok();
    assert_eq!(case.columns(), ["id Int32", "w Nullable(String)"]);
    case.same_rows("renamed", "id, w", "");
    case.pg.execute("ALTER TABLE shop.t DROP w; INSERT INTO shop.t VALUES (4)");
    case.project.write("load.yaml", definition(&case.ch, MERGE, "", ""));
    case.project.run("load.yaml", "four").failed("data_quality").says("breaking:drop_column:w");
    case.project.write("load.yaml", definition(&case.ch, MERGE, "on_breaking: ignore", ""));
    case.project.run("load.yaml", "five").ok();
    assert_eq!(case.columns(), ["id Int32", "w Nullable(String)"], "it is kept");
    let kept = case.ch.column("SELECT concat(toString(id), ifNull(w, '-')) FROM t ORDER BY id");
    assert_eq!(kept, ["1x", "2y", "3z", "4-"]);
}

#[test]
fn a_column_that_takes_no_null_refuses_one_by_its_name() {
    let case = Case::new(
        "CREATE TABLE shop.t (id int PRIMARY KEY, v text NOT NULL); INSERT INTO shop.t VALUES (1, 'x')",
        MERGE,
        "",
    );
    case.project.run("load.yaml", "one").ok();
    assert_eq!(case.columns(), ["id Int32", "v String"]);
    case.pg.execute("ALTER TABLE shop.t ALTER v DROP NOT NULL; INSERT INTO shop.t VALUES (2, NULL)");
    case.project.run("load.yaml", "two").failed("data_quality").says("\"v\"");
    assert_eq!(case.ch.column("SELECT v FROM t"), ["x"], "and no NULL became an empty text");
}

#[test]
fn a_dictionary_is_a_form_that_the_target_chose() {
    let case = Case::with(SEED, MERGE, "", "low_cardinality: v");
    for run in ["one", "two"] {
        let outcome = case.project.run("load.yaml", run).ok();
        assert!(!outcome.text().contains("ALTER"), "{}", outcome.text());
        assert_eq!(case.columns(), ["id Int32", "v LowCardinality(Nullable(String))"]);
    }
    case.pg.execute("ALTER TABLE shop.t ADD COLUMN fresh int; INSERT INTO shop.t VALUES (3, 'z', 3)");
    case.project.run("load.yaml", "three").ok();
    case.same_rows("with a dictionary", "id, v, fresh", "");
}

#[test]
fn a_change_survives_a_kill_before_it_and_after_it() {
    let change = "ALTER TABLE shop.t ALTER v TYPE bigint, ADD COLUMN fresh text; \
                  INSERT INTO shop.t VALUES (9, 5000000000, 'f')";
    every_case(["evolve.begun", "evolve.applied", "staged", "commit.begun", "commit.applied"], |step| {
        let case = Case::new(&seed("integer", "1, 2"), MERGE, "ledger_path: ledger");
        case.project.run("load.yaml", "one").ok();
        case.pg.execute(change);
        case.project.run_with_failpoint("load.yaml", "two", &format!("{step}=kill")).killed();
        // Whoever reads now finds every row that was there, whatever the columns are by now.
        assert_eq!(case.ch.column("SELECT toString(v) FROM t WHERE id < 9 ORDER BY id"), ["1", "2"], "{step}");
        case.rerun("two");
        assert_eq!(case.columns(), ["id Int32", "v Nullable(Int64)", "fresh Nullable(String)"], "{step}");
        case.same_rows(step, "id, v, fresh", "");
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
    });
}
