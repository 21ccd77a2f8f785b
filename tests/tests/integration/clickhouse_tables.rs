//! Tables of ClickHouse that a load makes, and the statements by which it changes them: what was asked for is what is sent.

use dpone_tests::{ClickHouse, Pg, Project, every_case};

use crate::problems::database;

const SEED: &str = "CREATE TABLE shop.t (id int NOT NULL, day date NOT NULL, at timestamp NOT NULL, late timestamp, v text); \
     INSERT INTO shop.t SELECT i, '2024-01-01'::date + i % 60, '2024-01-01'::timestamp + i * interval '1 h', NULL, 'x' || i % 3 \
     FROM generate_series(1, 200) i";

struct Case {
    pg: Pg,
    ch: ClickHouse,
    project: Project,
}

impl Case {
    fn new() -> Self {
        let (pg, ch) = (database(SEED), ClickHouse::new());
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
        Self { pg, ch, project }
    }

    /// From a table without a key, so that the definition alone says how the target is sorted.
    fn definition(&self, strategy: &str, source: &str, sink: &str) -> Written<'_> {
        let text = format!(
            "name: tables\n\
             source: {{type: postgres, connection_type: env, connection_id: DB, table: {{schema: shop, name: t}}, options: {{{source}}}}}\n\
             sink: {{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: t}}, \
             strategy: {{{strategy}}}, options: {{{sink}}}}}\n",
            self.ch.database
        );
        self.project.write("load.yaml", text);
        Written { project: &self.project }
    }

    fn created(&self) -> String {
        self.ch.value("SHOW CREATE TABLE t")
    }

    /// The statements of the newest commit that wrote its steps down, by what each does.
    fn steps(&self) -> Vec<String> {
        self.ch.column(
            "SELECT arrayJoin(arrayMap(step -> JSONExtractString(step, 'do'), JSONExtractArrayRaw(steps, 'steps'))) FROM \
             (SELECT argMax(plan, load_id) AS steps FROM __dpone__commits FINAL WHERE kind = 'plan')",
        )
    }
}

/// A definition that was written.
struct Written<'a> {
    project: &'a Project,
}

impl Written<'_> {
    /// Loads, and gives the receipt's text.
    fn load(&self) -> String {
        self.project.dpone(&["run", "load.yaml"]).ok().text()
    }

    fn plan(&self) -> String {
        self.project.dpone(&["plan", "load.yaml"]).ok().stdout().to_owned()
    }

    fn refused(&self, what: &str) {
        let outcome = self.project.dpone(&["plan", "load.yaml"]);
        assert_eq!(outcome.code(), Some(2), "{}", outcome.text());
        outcome.says(what);
    }
}

#[test]
fn a_table_is_sorted_by_what_is_known_of_its_rows() {
    let append = "mode: incremental_append";
    for (strategy, source, sink, expected) in [
        ("mode: incremental_merge, unique_key: [id]", "", "", "ORDER BY (id)"),
        ("mode: incremental_merge, unique_key: [day, id]", "incremental_column: at", "", "ORDER BY (day, id)"),
        // No key: the cursor, whose ranges the next loads look at.
        (append, "incremental_column: at", "", "ORDER BY (at)"),
        // A NULL in the cursor fails the run, so it can sort.
        (append, "incremental_column: late", "", "ORDER BY (late)"),
        ("mode: full_refresh", "", "", "ORDER BY tuple()"),
        (append, "incremental_column: at", "connector: {order_by: 'tuple()'}", "ORDER BY tuple()"),
        (
            append,
            "incremental_column: at",
            "connector: {order_by: 'v, toDate(at)', low_cardinality: v}",
            "ORDER BY (v, toDate(at))",
        ),
        ("mode: full_refresh", "", "partition_by: [toYYYYMM(day)]", "PARTITION BY (toYYYYMM(day))"),
        (
            "mode: incremental_merge, unique_key: [id]",
            "",
            "connector: {engine: ReplacingMergeTree}",
            "ENGINE = ReplacingMergeTree(__dpone__version, __dpone__deleted)",
        ),
    ] {
        let case = Case::new();
        if source.contains("late") {
            case.pg.execute("UPDATE shop.t SET late = at");
        }
        let definition = case.definition(strategy, source, sink);
        let planned = definition.plan().replace('`', "");
        definition.load();
        let created = case.created().replace('`', "");
        assert!(created.contains(expected), "{strategy} {source} {sink}: {created}");
        // What the plan showed is what was sent.
        assert!(planned.contains(expected), "{strategy} {source} {sink}: {planned}");
        assert_eq!(created.contains("LowCardinality"), sink.contains("low_cardinality"), "{created}");
        assert_eq!(planned.contains("LowCardinality"), sink.contains("low_cardinality"), "{planned}");
    }
}

#[test]
fn what_no_table_can_be_made_of_is_refused_by_the_plan() {
    every_case(
        [
            ("connector: {order_by: nowhere}", "nowhere"),
            ("connector: {order_by: 'sleep(id)'}", "sleep(id)"),
            ("connector: {low_cardinality: id}", "\"id\" is Int32"),
            ("connector: {low_cardinality: nowhere}", "nowhere"),
            ("connector: {engine: Memory}", "Memory"),
            ("connector: {engine: ReplacingMergeTree}", "without a key"),
            ("connector: {orderby: id}", "order_by"),
            ("connector: {merge_policy: quickly}", "quickly"),
            ("partition_by: ['toYYYYMM(nowhere)']", "nowhere"),
        ],
        |(sink, says)| {
            let case = Case::new();
            case.definition("mode: full_refresh", "", sink).refused(says);
            assert!(!case.ch.exists("t"));
        },
    );
    // What the second load would refuse.
    let merge = "mode: incremental_merge, unique_key: [id], merge_policy: replacing";
    every_case(
        [
            ("", "needs a ReplacingMergeTree"),
            ("connector: {engine: ReplacingMergeTree, order_by: 'v, id'}", "sorted by the key (id)"),
            ("connector: {engine: ReplacingMergeTree, merge_policy: shadow_swap}", "said twice"),
        ],
        |(sink, says)| Case::new().definition(merge, "", sink).refused(says),
    );
    let case = Case::new();
    case.definition(&format!("{merge}, mutations_sync: 0"), "", "").refused("before its rows are deleted");
    case.definition(merge, "", "connector: {engine: ReplacingMergeTree}").load();
    assert_eq!(case.ch.value("SELECT count() FROM t FINAL"), "200");
}

#[test]
fn a_scope_that_the_server_cannot_say_is_refused_by_the_plan() {
    let case = Case::new();
    let scope = |predicate: &str| format!("mode: replace, custom_predicate: \"{predicate}\"");
    case.definition(&scope("id > 0"), "", "").load();
    for predicate in ["upper(v) = 'X1'", "id + 1 > 5", "v LIKE 'x_'", "length(v) = 2"] {
        case.definition(&scope(predicate), "", "").refused("exactly the same meaning");
    }
    assert_eq!(case.ch.value("SELECT toString(count()) FROM t"), "200");
    case.definition(&scope("id > 100 AND v IN ('x0', 'x1') OR day BETWEEN '2024-01-05' AND '2024-01-06'"), "", "")
        .plan();
}

/// The steps are written down before they are done, and are those that the guide names.
#[test]
fn each_write_mode_sends_the_statements_that_the_guide_names() {
    let months = "partition_by: [toYYYYMM(day)]";
    let replace = |predicate: &str| format!("mode: replace, custom_predicate: \"{predicate}\"");
    let january = replace("day < '2024-02-01'");
    let some_days = replace("day < '2024-01-10'");
    for (strategy, source, sink, change, expected) in [
        ("mode: full_refresh", "", "", "", &["exchange"][..]),
        ("mode: full_refresh, overwrite_type: truncate_insert", "", "", "", &["replace"]),
        ("mode: full_refresh, overwrite_type: truncate_insert", "", months, "", &["replace", "replace"]),
        (
            "mode: full_refresh, overwrite_type: truncate_insert",
            "",
            months,
            "DELETE FROM shop.t WHERE day >= '2024-02-01'",
            &["replace", "drop"],
        ),
        (
            "mode: incremental_append",
            "incremental_column: id",
            months,
            "INSERT INTO shop.t VALUES (900, '2024-01-05', now(), now(), 'n')",
            &["move"],
        ),
        (
            "mode: incremental_append",
            "incremental_column: id",
            months,
            "INSERT INTO shop.t VALUES (900, '2024-01-05', now(), now(), 'n'), (901, '2024-07-05', now(), now(), 'n')",
            &["move", "move"],
        ),
        (january.as_str(), "", months, "UPDATE shop.t SET v = 'new'", &["replace"]),
        (some_days.as_str(), "", months, "UPDATE shop.t SET v = 'new'", &["delete", "move"]),
        (
            "mode: partition_replace, partition: {column: day}",
            "",
            "partition_by: [day]",
            "DELETE FROM shop.t WHERE id > 2; UPDATE shop.t SET v = 'new'",
            &["replace", "replace"],
        ),
        (
            "mode: incremental_merge, unique_key: [id]",
            "",
            "",
            "UPDATE shop.t SET v = 'new' WHERE id = 7",
            &["delete", "move"],
        ),
        (
            "mode: incremental_merge, unique_key: [id], merge_policy: shadow_swap",
            "",
            "",
            "UPDATE shop.t SET v = 'new' WHERE id = 7",
            &["exchange"],
        ),
        (
            "mode: incremental_merge, unique_key: [id], merge_policy: replacing",
            "",
            "connector: {engine: ReplacingMergeTree}",
            "UPDATE shop.t SET v = 'new' WHERE id = 7",
            &["move"],
        ),
    ] {
        let case = Case::new();
        // What a scope replaces is a part of what is there.
        let first = if strategy.contains("mode: replace") { "mode: full_refresh" } else { strategy };
        case.definition(first, source, sink).load();
        assert_eq!(case.steps(), ["rename"], "{strategy}: the first load");
        if !change.is_empty() {
            case.pg.execute(change);
        }
        let receipt = case.definition(strategy, source, sink).load();
        assert_eq!(case.steps(), expected, "{strategy} {sink} {change}");
        let last = if strategy.contains("replacing") { " FINAL" } else { "" };
        let found = case.ch.value(&format!("SELECT toString(countIf(v = 'new')) FROM t{last}"));
        assert_eq!(found == "0", !change.contains("'new'"), "{strategy}: {found}");
        if expected == ["delete", "move"] {
            assert!(receipt.contains("could see"), "what a reader could see is said: {receipt}");
        }
    }
}

#[test]
fn text_is_no_map_and_the_column_is_named() {
    let case = Case::new();
    case.ch.execute("CREATE TABLE t (id Int32, v Map(String, String)) ENGINE = MergeTree ORDER BY id");
    case.pg.execute("ALTER TABLE shop.t DROP day, DROP at, DROP late");
    let definition = case.definition("mode: full_refresh", "", "");
    let outcome = definition.project.dpone(&["run", "load.yaml"]);
    assert_ne!(outcome.code(), Some(0), "{}", outcome.text());
    outcome.says("\"v\"").says("Map(String, String)");
}

#[test]
fn columns_that_hide_the_servers_own_are_not_taken_for_them() {
    every_case(["_partition_id", "_part"], |name| {
        let case = Case::new();
        let columns = format!("id Int32, `{name}` String");
        case.ch.execute(&format!("CREATE TABLE t ({columns}) ENGINE = MergeTree ORDER BY id"));
        case.pg.execute(&format!("DROP TABLE shop.t; CREATE TABLE shop.t (id int, \"{name}\" text)"));
        case.definition("mode: replace, custom_predicate: 'id = 2'", "", "").refused(name);
        // Two parts would be asked for by the server's own column.
        case.ch.execute(&format!("CREATE TABLE s ({columns}) ENGINE = MergeTree ORDER BY id"));
        case.ch.execute("INSERT INTO s SELECT number, 'p' FROM numbers(1200000)");
        let out = case.project.path("out");
        let pipeline = format!(
            "name: hidden\nsource: {{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: s}}}}\n\
             sink: {{type: parquet, path: '{}', table: {{schema: l, name: t}}, strategy: {{mode: full_refresh}}}}\n",
            case.ch.database,
            out.display()
        );
        case.project.write("hidden.yaml", pipeline);
        let read = case.project.dpone(&["run", "hidden.yaml", "--parallelism", "2", "--format", "json"]).ok();
        assert_eq!(read.rows("extracted"), 1_200_000, "{}", read.text());
    });
}

#[test]
fn an_array_that_is_null_is_refused_by_the_first_load() {
    let case = Case::new();
    case.pg.execute("DROP TABLE shop.t; CREATE TABLE shop.t (id int PRIMARY KEY, v text[])");
    case.pg.execute("INSERT INTO shop.t VALUES (1, '{a}'), (2, NULL)");
    for strategy in ["mode: incremental_merge, unique_key: [id]", "mode: snapshot_diff, unique_key: [id]"] {
        let definition = case.definition(strategy, "", "");
        let outcome = definition.project.run("load.yaml", "one");
        outcome.failed("data_quality").says("1 in \\\"v\\\"").says("COALESCE");
        assert!(!case.ch.exists("t"));
    }
    case.pg.execute("UPDATE shop.t SET v = '{}' WHERE id = 2");
    case.definition("mode: incremental_merge, unique_key: [id]", "", "").load();
    assert_eq!(case.ch.column("SELECT toString(v) FROM t ORDER BY id"), ["['a']", "[]"]);
}

/// The target keeps them as String, which is read as text where nobody says otherwise.
#[test]
fn bytes_are_compared_as_bytes() {
    every_case(["", ", diff: {store_row_hash: true}"], |hash| {
        let case = Case::new();
        case.pg.execute("DROP TABLE shop.t; CREATE TABLE shop.t (id int PRIMARY KEY, v bytea)");
        case.pg.execute("INSERT INTO shop.t VALUES (1, '\\xff00'), (2, NULL), (3, 'text')");
        let strategy = format!("mode: snapshot_diff, unique_key: [id]{hash}");
        case.definition(&strategy, "", "").load();
        case.pg.execute("UPDATE shop.t SET v = '\\xfe00' WHERE id = 1; DELETE FROM shop.t WHERE id = 3");
        let again = case.definition(&strategy, "", "").load();
        assert!(again.contains("1 updated") && again.contains("1 unchanged"), "{hash}: {again}");
        assert_eq!(
            case.ch.column("SELECT concat(toString(id), hex(ifNull(v, ''))) FROM t ORDER BY id"),
            ["1FE00", "2"]
        );
    });
}

#[test]
fn a_plan_shows_the_statements_that_a_run_may_send() {
    let case = Case::new();
    case.ch.execute("CREATE TABLE t (id Int32) ENGINE = MergeTree ORDER BY id");
    for (columns, shown) in [("evolve", true), ("ignore", false), ("quarantine", false)] {
        let evolution = format!("schema_evolution: {{columns: {columns}}}");
        let definition = case.definition("mode: incremental_merge, unique_key: [id]", "", &evolution);
        let plan = definition.project.dpone(&["plan", "load.yaml"]).ok().text();
        assert!(plan.contains("add_column"), "{columns}: {plan}");
        assert_eq!(plan.contains("ADD COLUMN"), shown, "{columns}: {plan}");
    }
}

#[test]
fn bytes_that_were_appended_are_known_again() {
    let case = Case::new();
    case.pg.execute("DROP TABLE shop.t; CREATE TABLE shop.t (id int, v bytea)");
    case.pg.execute("INSERT INTO shop.t VALUES (1, '\\xff00'), (2, NULL), (2, NULL)");
    let load = || case.definition("mode: incremental_append", "incremental_column: id, lag: 5", "").load();
    load();
    case.pg.execute("INSERT INTO shop.t VALUES (1, '\\xff01'), (3, '\\x00')");
    let again = load();
    assert!(again.contains("2 inserted"), "{again}");
    let rows = "SELECT concat(toString(id), ' ', hex(ifNull(v, '?'))) FROM t ORDER BY 1";
    assert_eq!(case.ch.column(rows), ["1 FF00", "1 FF01", "2 3F", "2 3F", "3 00"]);
}

#[test]
fn a_control_character_of_a_constant_stays_one() {
    let case = Case::new();
    case.pg.execute("DROP TABLE shop.t; CREATE TABLE shop.t (id int PRIMARY KEY, v text)");
    case.pg.execute("INSERT INTO shop.t VALUES (2, 'X'), (4, E'b\\x01\\tc')");
    case.ch.execute("CREATE TABLE t (id Int32, v String) ENGINE = MergeTree ORDER BY id");
    case.ch.execute("INSERT INTO t VALUES (1, 'a\\x01b'), (2, 'x'), (3, 'a\\x01b')");
    // In quotes of YAML, \x01 is the character itself.
    case.definition("mode: replace, custom_predicate: \"v <> 'a\\x01b'\"", "", "").load();
    assert_eq!(
        case.ch.column("SELECT concat(toString(id), '|', hex(v)) FROM t ORDER BY id"),
        ["1|610162", "2|58", "3|610162", "4|62010963"]
    );
}

#[test]
fn a_number_with_an_exponent_is_no_key() {
    let case = Case::new();
    case.pg.execute("DROP TABLE shop.t; CREATE TABLE shop.t (k double precision PRIMARY KEY, v text)");
    for mode in ["incremental_merge", "snapshot_diff", "scd2"] {
        case.definition(&format!("mode: {mode}, unique_key: [k]"), "", "").refused("0 and -0 are one key");
    }
    case.definition("mode: full_refresh", "", "").load();
}
