//! Tables that a ClickHouse user has, and that break what looks at most tables alone: hours that come twice, keys without
//! a value, columns that are called like something of ours, versions at their end, very many columns.

use dpone_tests::{ClickHouse, Project, assert_same_rows, every_case};

/// From one table of a database into another.
struct Case {
    ch: ClickHouse,
    project: Project,
}

impl Case {
    fn new(statements: &[&str]) -> Self {
        let ch = ClickHouse::new();
        for statement in statements {
            ch.execute(statement);
        }
        let project = Project::new().env("CH", ch.url()).env("DPONE_CONN_CH_URL", ch.url());
        Self { ch, project }
    }

    fn write(&self, strategy: &str) {
        self.project.write(
            "load.sql",
            format!(
                "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:CH');\n\
                 CREATE PIPELINE edge INTO ch.{0}.t STRATEGY {strategy} AS SELECT * FROM ch.{0}.s;\n",
                self.ch.database
            ),
        );
    }
}

/// The hour of the end of summer time is there twice by the clock of the column.
#[test]
fn ranges_over_an_hour_that_comes_twice_hold_each_row_once() {
    every_case(["DateTime64(3, 'Europe/Berlin')", "DateTime('Europe/Berlin')"], |native| {
        let case = Case::new(&[
            &format!("CREATE TABLE s (at {native}, id UInt64) ENGINE = MergeTree ORDER BY at"),
            "INSERT INTO s SELECT fromUnixTimestamp64Milli(toInt64(1729987200000 + intDiv(number * 7200000, 3000000)), 'Europe/Berlin'), \
             number FROM numbers(3000000)",
        ]);
        case.project.write(
            "load.sql",
            format!(
                "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:CH');\n\
                 CREATE CONNECTION lake TYPE parquet OPTIONS ('path' 'lake');\n\
                 CREATE PIPELINE hours INTO lake.l.t STRATEGY full_refresh OPTIONS ('parallelism' '8') AS SELECT id FROM ch.{}.s;\n",
                case.ch.database
            ),
        );
        let plan = case.project.dpone(&["plan", "load.sql"]).ok().text();
        assert!(plan.contains("`at` >="), "not read in ranges: {plan}");
        let outcome = case.project.run("load.sql", "one").ok();
        assert_eq!(outcome.rows("extracted"), 3_000_000, "{native}");
        let sql =
            format!("CREATE CONNECTION lake TYPE parquet OPTIONS ('path' '{}');", case.project.path("lake").display());
        case.project.write("lake.sql", sql);
        let count = "SELECT count(DISTINCT id) AS n FROM lake.l.t";
        let found = case.project.dpone(&["query", count, "--file", "lake.sql", "--format", "csv"]).ok().stdout();
        assert_eq!(found.lines().nth(1), Some("3000000"), "{native}");
    });
}

#[test]
fn rows_without_a_key_stay_whatever_the_policy() {
    every_case(["lightweight_delete_insert", "mutation_delete_insert", "shadow_swap"], |policy| {
        let case = Case::new(&[
            "CREATE TABLE t (id Nullable(Int64), v String) ENGINE = MergeTree ORDER BY tuple()",
            "INSERT INTO t VALUES (NULL, 'keep1'), (NULL, 'keep2'), (1, 'a'), (2, 'b')",
            "CREATE TABLE s (id Int64, v String) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO s VALUES (1, 'A'), (3, 'c')",
        ]);
        case.write(&format!("incremental_merge KEY (id) OPTIONS ('option.merge_policy' '{policy}')"));
        case.project.run("load.sql", "one").ok();
        let expected = ["1A", "2b", "3c", "keep1", "keep2"].map(str::to_owned).to_vec();
        assert_same_rows(policy, expected, case.ch.column("SELECT concat(ifNull(toString(id), ''), v) FROM t"));
    });
}

#[test]
fn columns_may_be_called_as_anything_of_ours_in_a_statement() {
    let tuples = "id Int64, t Tuple(id Int64, v String), s Tuple(id Int64, v String), v String";
    let plain =
        "id Int64, `t.id` Int64, `s.id` Int64, `t.v` String, `s.v` String, t String, s String, k String, v String";
    let cases = [
        (
            tuples,
            "(1, (9, 'x'), (9, 'y'), 'a'), (2, (7, 'x'), (8, 'y'), 'b')",
            "(1, (1, 'x1'), (2, 'y1'), 'A'), (3, (5, 'x3'), (6, 'y3'), 'c')",
        ),
        (
            plain,
            "(1, 9, 9, 'x', 'y', 'x', 'y', 'z', 'a'), (2, 7, 8, 'x', 'y', 'x', 'y', 'z', 'b')",
            "(1, 5, 6, 'x1', 'y1', 'x', 'y', 'z', 'A'), (3, 7, 8, 'x', 'y', 'x', 'y', 'z', 'c')",
        ),
    ];
    let policies = ["lightweight_delete_insert", "mutation_delete_insert", "shadow_swap"];
    every_case(
        cases.iter().flat_map(|case| policies.map(|policy| (case, policy))),
        |((columns, before, staged), policy)| {
            let case = Case::new(&[
                &format!("CREATE TABLE t ({columns}) ENGINE = MergeTree ORDER BY id"),
                &format!("CREATE TABLE s ({columns}) ENGINE = MergeTree ORDER BY id"),
                &format!("INSERT INTO t VALUES {before}"),
                &format!("INSERT INTO s VALUES {staged}"),
            ]);
            case.write(&format!("incremental_merge KEY (id) OPTIONS ('option.merge_policy' '{policy}')"));
            let outcome = case.project.run("load.sql", "one").ok();
            assert_eq!((outcome.rows("inserted"), outcome.rows("updated")), (1, 1), "{policy}");
            let row = "SELECT toString(tuple(*)) FROM";
            let expected =
                [case.ch.column(&format!("{row} s")), case.ch.column(&format!("{row} (SELECT * FROM t WHERE id = 2)"))];
            assert_same_rows(policy, expected.concat(), case.ch.column(&format!("{row} t")));
        },
    );
}

#[test]
fn versions_are_counted_up_within_their_type() {
    let case = |version: &str, first: &str, policy: &str| {
        let case = Case::new(&[
            &format!(
                "CREATE TABLE t (id Int64, v String, ver {version}, d UInt8) ENGINE = ReplacingMergeTree(ver, d) ORDER BY id"
            ),
            &format!("INSERT INTO t VALUES (1, 'a', {first}, 0), (2, 'b', 5, 0), (3, 'gone', 9, 1)"),
            "CREATE TABLE s (id Int64, v String) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO s VALUES (1, 'A'), (3, 'C')",
        ]);
        case.write(&format!("incremental_merge KEY (id) OPTIONS ('option.merge_policy' '{policy}')"));
        case
    };
    every_case([("UInt8", "254"), ("Int32", "-7"), ("UInt64", "18446744073709551614")], |(version, first)| {
        let case = case(version, first, "replacing");
        case.project.run("load.sql", "one").ok();
        assert_same_rows(
            version,
            ["1A", "2b", "3C"].map(str::to_owned).to_vec(),
            case.ch.column("SELECT concat(toString(id), v) FROM t FINAL"),
        );
        let again = case.project.run("load.sql", "two").ok();
        assert_eq!((again.rows("inserted"), again.rows("updated")), (0, 0), "{version}");
    });
    every_case([("UInt8", "255"), ("UInt64", "18446744073709551615")], |(version, first)| {
        let case = case(version, first, "replacing");
        case.project.run("load.sql", "one").failed("configuration").says("\"ver\"").says(version);
        assert_eq!(case.ch.leftovers(), Vec::<String>::new());
    });
    // Floats have no next value, and rows that are marked as deleted would hide what is added beside them.
    for policy in ["replacing", "auto"] {
        let floats = case("Float64", "8", policy);
        floats.project.run("load.sql", "one").failed("configuration").says("\"ver\"").says("Float64").says("DateTime");
    }
}

/// A version that is a time is the moment of the load, or later where the table has later ones.
#[test]
fn versions_that_are_times_are_later_than_all_before() {
    let types = [
        ("Date", "today() + 3"),
        ("Date32", "toDate32('1950-01-01')"),
        ("DateTime", "now() + 5000"),
        ("DateTime('Asia/Tokyo')", "toDateTime(8)"),
        ("DateTime64(3)", "toDateTime64('1960-01-01 00:00:00.001', 3)"),
        ("DateTime64(9, 'UTC')", "now64(9) + 5000"),
        ("UInt128", "'340282366920938463463374607431768211454'"),
        ("Int256", "-7"),
        ("LowCardinality(UInt64)", "7"),
    ];
    every_case(types, |(native, last)| {
        let case = Case::new(&[
            &format!(
                "CREATE TABLE t (id Int64, v String, last {native}, d UInt8) ENGINE = ReplacingMergeTree(last, d) ORDER BY id \
                 SETTINGS allow_suspicious_low_cardinality_types = 1"
            ),
            &format!("INSERT INTO t SELECT 1, 'a', {last}, 0"),
            "INSERT INTO t SELECT 2, 'b', 1, 0",
            "INSERT INTO t SELECT 3, 'gone', 2, 1",
            "CREATE TABLE s (id Int64, v String) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO s VALUES (1, 'A'), (3, 'C')",
        ]);
        case.write("incremental_merge KEY (id) OPTIONS ('option.merge_policy' 'replacing')");
        let rows = || case.ch.column("SELECT concat(toString(id), v) FROM t FINAL");
        case.project.run("load.sql", "one").ok();
        assert_same_rows(native, ["1A", "2b", "3C"].map(str::to_owned).to_vec(), rows());
        let versions =
            "SELECT toString(min(last) = max(last)), toString(max(last) >= (SELECT max(last) FROM t)) FROM t";
        let of_load = case.ch.table(&format!("{versions} FINAL WHERE id != 2"));
        assert_eq!(of_load, [[Some("1".to_owned()), Some("1".to_owned())]], "{native}");
        let again = case.project.run("load.sql", "two").ok();
        assert_eq!((again.rows("inserted"), again.rows("updated")), (0, 0), "{native}");
        // A deletion is a later version too.
        case.ch.execute("ALTER TABLE s DELETE WHERE id = 3 SETTINGS mutations_sync = 2");
        if native != &"UInt128" {
            case.write("snapshot_diff KEY (id) OPTIONS ('max_delete_ratio' '1')");
            case.project.run("load.sql", "three").ok();
            assert_same_rows(native, vec!["1A".to_owned()], rows());
        }
    });
    let case = Case::new(&[
        "CREATE TABLE t (id Int64, v String, last Date, d UInt8) ENGINE = ReplacingMergeTree(last, d) ORDER BY id",
        "INSERT INTO t SELECT 1, 'a', toDate(65535), 0",
        "CREATE TABLE s (id Int64, v String) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO s VALUES (1, 'A')",
    ]);
    case.write("incremental_merge KEY (id)");
    case.project.run("load.sql", "one").failed("configuration").says("\"last\"").says("greatest");
}

/// The server would make zeros of them, or name neither column nor row.
#[test]
fn nulls_inside_of_values_are_refused_by_column_and_row() {
    let types = [
        ("Array(Nullable(Int32))", "[1]", "[2, NULL]", "Array(Int32)"),
        ("Array(Nullable(UUID))", "[generateUUIDv4()]", "[NULL]", "Array(UUID)"),
        (
            "Tuple(`a` Nullable(Int32), `b` Nullable(String))",
            "(1, 'NULL')",
            "(NULL, 'x')",
            "Tuple(`a` Int32, `b` String)",
        ),
    ];
    let strategies = ["full_refresh", "incremental_merge KEY (id)"];
    every_case(types.iter().flat_map(|case| strategies.map(|by| (case, by))), |((from, held, refused, into), by)| {
        let case = Case::new(&[
            &format!("CREATE TABLE s (id Int64, odd_one {from}) ENGINE = MergeTree ORDER BY id"),
            &format!("CREATE TABLE t (id Int64, odd_one {into}) ENGINE = MergeTree ORDER BY id"),
            &format!("INSERT INTO s SELECT 1, {held}"),
        ]);
        case.write(by);
        case.project.run("load.sql", "one").ok();
        let rows = |table: &str| case.ch.column(&format!("SELECT toString(tuple(*)) FROM {table}"));
        assert_same_rows(into, rows("s"), rows("t"));
        let before = rows("t");
        case.ch.execute(&format!("INSERT INTO s SELECT 2, {refused}"));
        let outcome = case.project.run("load.sql", "two").failed("data_quality");
        outcome.says("\"odd_one\", row").says(into).says(from);
        assert_same_rows(into, before, rows("t"));
    });
}

/// Fixed strings are compared with their zeros, by the server and by DataFusion.
#[test]
fn fixed_strings_are_compared_as_people_write_them() {
    let case = Case::new(&[
        "CREATE TABLE s (id UInt8, a FixedString(4), n Nullable(FixedString(4)), l LowCardinality(FixedString(4))) \
         ENGINE = MergeTree ORDER BY a SETTINGS allow_suspicious_low_cardinality_types = 1",
        "INSERT INTO s VALUES (1, 'ab', 'ab', 'ab'), (2, 'abcd', 'abcd', 'abcd'), (3, 'b', NULL, 'b'), (4, '', NULL, '')",
    ]);
    let filters = [
        ("a BETWEEN 'ab' AND 'abcd'", "12", true),
        ("l >= 'ab' AND n < 'abcd'", "1", true),
        ("a IN ('b', 'ab') AND a <> 'ab'", "3", true),
        ("NOT n IN ('ab', 'zz')", "2", true),
        ("a > 'abcc' AND a < 'abcde'", "2", false),
        ("'ab' = n OR a IN ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i')", "13", true),
    ];
    every_case(filters.into_iter().enumerate(), |(at, (filter, expected, pushed))| {
        case.project.write(
            "load.sql",
            format!(
                "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:CH');\n\
                 CREATE PIPELINE edge{at} INTO ch.{0}.t{at} STRATEGY full_refresh AS SELECT * FROM ch.{0}.s WHERE {filter};\n",
                case.ch.database
            ),
        );
        let plan = case.project.dpone(&["plan", "load.sql"]).ok().text();
        assert!(!pushed || !plan.contains("FilterExec"), "{filter} is not for the server: {plan}");
        case.project.run("load.sql", "one").ok();
        assert_eq!(
            case.ch.value(&format!(
                "SELECT arrayStringConcat(groupArray(toString(id))) FROM (SELECT id FROM t{at} ORDER BY id)"
            )),
            *expected,
            "{filter}"
        );
    });
}

#[test]
fn a_view_with_parameters_is_read_by_a_query_that_gives_them() {
    let case = Case::new(&[
        "CREATE TABLE one (id UInt8) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO one VALUES (1), (2)",
        "CREATE VIEW s AS SELECT id FROM one WHERE id = {which:UInt8} AND id < {below: UInt8}",
    ]);
    case.write("full_refresh");
    let hint = format!("SELECT * FROM `{}`.`s`(which = …, below = …)", case.ch.database);
    case.project.run("load.sql", "one").failed("configuration").says("parameters (which, below)").says(&hint);
    case.project.write(
        "load.yaml",
        format!(
            "name: view\nsource: {{type: clickhouse, connection_type: env, connection_id: CH, \
             options: {{query: {{sql: 'SELECT * FROM `{0}`.`s`(which = 2, below = 9)'}}}}}}\n\
             sink: {{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {0}, name: t}}, \
             strategy: {{mode: full_refresh}}}}\n",
            case.ch.database
        ),
    );
    case.project.run("load.yaml", "two").ok();
    assert_eq!(case.ch.column("SELECT toString(id) FROM t"), ["2"]);
}

#[test]
fn a_table_of_very_many_columns_is_loaded() {
    let columns: Vec<_> =
        (0..1200).map(|n| format!("`column with a räther long name {n:05}` Nullable(String)")).collect();
    let case = Case::new(&[
        &format!("CREATE TABLE s (id UInt64, {}) ENGINE = MergeTree ORDER BY id", columns.join(", ")),
        "INSERT INTO s (id, `column with a räther long name 01199`) VALUES (1, 'x'), (2, NULL)",
    ]);
    case.write("full_refresh");
    case.project.run("load.sql", "one").ok();
    assert_eq!(
        case.ch.column("SELECT ifNull(`column with a räther long name 01199`, 'NULL') FROM t ORDER BY id"),
        ["x", "NULL"]
    );
}

#[test]
fn rows_go_and_versions_close_beside_columns_that_take_no_null() {
    let types = [
        ("Tuple(a Int32, b Nullable(String))", "(1, NULL)", "(2, 'x')"),
        ("Array(Int32)", "[1]", "[2]"),
        ("SimpleAggregateFunction(sum, UInt64)", "1", "2"),
        ("Point", "(1, 2)", "(3, 4)"),
    ];
    every_case(types, |(native, one, two)| {
        let case = Case::new(&[
            &format!("CREATE TABLE s (k Int32, v {native}) ENGINE = MergeTree ORDER BY k"),
            &format!("INSERT INTO s VALUES (1, {one}), (2, {one}), (3, {one})"),
        ]);
        let rows = |from: &str| case.ch.column(&format!("SELECT concat(toString(k), '|', toString(v)) FROM {from}"));
        let load = |strategy: &str, run: &str| {
            case.write(strategy);
            case.project.run("load.sql", run).ok()
        };
        let strategies = [
            "snapshot_diff KEY (k)",
            "snapshot_diff KEY (k) OPTIONS ('option.merge_policy' 'shadow_swap')",
            "scd2 KEY (k)",
        ];
        for (i, strategy) in strategies.into_iter().enumerate() {
            case.ch.execute("DROP TABLE IF EXISTS t SYNC");
            case.ch.execute("TRUNCATE TABLE s");
            case.ch.execute(&format!("INSERT INTO s VALUES (1, {one}), (2, {one}), (3, {one})"));
            load(strategy, &format!("{i}-first"));
            let again = load(strategy, &format!("{i}-again"));
            assert_eq!(again.rows("unchanged"), 3, "{}", again.text());
            let before = rows("s");
            case.ch.execute("TRUNCATE TABLE s");
            case.ch.execute(&format!("INSERT INTO s VALUES (1, {two}), (2, {one}), (4, {one})"));
            load(strategy, &format!("{i}-changed"));
            if strategy.starts_with("scd2") {
                assert_same_rows("current", rows("s"), rows("t WHERE __dpone__is_current"));
                let closed: Vec<String> = before.iter().filter(|row| !row.starts_with('2')).cloned().collect();
                assert_same_rows("closed", closed, rows("t WHERE NOT __dpone__is_current"));
            } else {
                assert_same_rows("mirrored", rows("s"), rows("t"));
            }
        }
    });
}

/// A row without a version would be older than the deletion of its key, and one whose newest version alone is deleted would be
/// what it was before.
#[test]
fn tables_that_keep_versions_show_what_was_loaded_by_any_strategy() {
    let strategies = ["incremental_append CURSOR id", "replace OPTIONS ('custom_predicate' 'v = ''new''')"];
    every_case(strategies, |strategy| {
        let case = Case::new(&[
            "CREATE TABLE t (id Int64, v Nullable(String), version UInt64, gone UInt8) \
             ENGINE = ReplacingMergeTree(version, gone) ORDER BY id",
            "INSERT INTO t VALUES (1, 'old', 1, 0), (3, 'old', 1, 0)",
            "INSERT INTO t VALUES (1, 'new', 2, 0), (3, 'old', 2, 1)",
            "CREATE TABLE s (id Int64, v Nullable(String)) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO s VALUES (3, 'new')",
        ]);
        case.write(strategy);
        case.project.run("load.sql", "one").ok();
        let seen = case.ch.column("SELECT concat(toString(id), v) FROM t FINAL ORDER BY id");
        let kept = if strategy.starts_with("replace") { vec!["3new"] } else { vec!["1new", "3new"] };
        assert_eq!(seen, kept, "{strategy}");
    });
}

/// FINAL hides rows that the source marks as deleted, and a row that is not found would be added with every load.
#[test]
fn a_merge_of_marks_of_deletion_converges() {
    every_case(["auto", "lightweight_delete_insert", "mutation_delete_insert", "shadow_swap"], |policy| {
        let case = Case::new(&[
            "CREATE TABLE t (id Int64, v Nullable(String), version UInt64, gone UInt8) \
             ENGINE = ReplacingMergeTree(version, gone) ORDER BY id",
            "CREATE TABLE s (id Int64, v Nullable(String), version UInt64, gone UInt8) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO s VALUES (1, 'a', 1, 0), (2, 'b', 7, 1)",
        ]);
        case.write(&format!("incremental_merge KEY (id) OPTIONS ('option.merge_policy' '{policy}')"));
        let load = |run: &str| {
            let outcome = case.project.run("load.sql", run).ok();
            let rows = ["inserted", "updated", "unchanged"].map(|fate| outcome.rows(fate));
            let seen = case.ch.column("SELECT concat(toString(id), v) FROM t FINAL ORDER BY id");
            (rows, seen, case.ch.column("SELECT toString(count()) FROM t"))
        };
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(load("one"), ([2, 0, 0], texts(&["1a"]), texts(&["2"])), "{policy}");
        assert_eq!(load("two"), ([0, 0, 2], texts(&["1a"]), texts(&["2"])), "{policy}");
        // It comes back with a version that is not later.
        case.ch.execute("ALTER TABLE s UPDATE gone = 0 WHERE id = 2 SETTINGS mutations_sync = 2");
        assert_eq!(load("three"), ([0, 1, 1], texts(&["1a", "2b"]), texts(&["2"])), "{policy}");
        assert_eq!(load("four"), ([0, 0, 2], texts(&["1a", "2b"]), texts(&["2"])), "{policy}");
    });
}

/// The table's own mark of deletion, which the source does not give, is taken off a row that comes.
#[test]
fn a_merge_brings_back_what_the_table_marked_as_deleted() {
    every_case(["auto", "replacing", "lightweight_delete_insert", "mutation_delete_insert", "shadow_swap"], |policy| {
        let case = Case::new(&[
            "CREATE TABLE t (id Int64, v Nullable(String), version UInt64, gone UInt8) \
             ENGINE = ReplacingMergeTree(version, gone) ORDER BY id",
            "INSERT INTO t VALUES (1, 'a', 5, 0), (2, 'b', 5, 1), (3, 'c', 5, 1)",
            "INSERT INTO t VALUES (2, 'b', 4, 0)",
            "CREATE TABLE s (id Int64, v Nullable(String)) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO s VALUES (1, 'a'), (2, 'b')",
        ]);
        case.write(&format!("incremental_merge KEY (id) OPTIONS ('option.merge_policy' '{policy}')"));
        let outcome = case.project.run("load.sql", "one").ok();
        assert_eq!((outcome.rows("inserted"), outcome.rows("unchanged")), (1, 1), "{policy}");
        let seen = || case.ch.column("SELECT concat(toString(id), v) FROM t FINAL ORDER BY id");
        assert_eq!(seen(), ["1a", "2b"], "{policy}");
        assert_eq!(case.project.run("load.sql", "two").ok().rows("unchanged"), 2, "{policy}");
        assert_eq!(seen(), ["1a", "2b"], "{policy}");
    });
}

#[test]
fn a_column_of_the_engine_is_widened_or_refused_as_the_server_does() {
    let target = "CREATE TABLE t (id Int64, v Int32, d UInt8) ENGINE = ReplacingMergeTree(v, d) ORDER BY id";
    let widened = Case::new(&[target, "CREATE TABLE s (id Int64, v Int64, d UInt8) ENGINE = MergeTree ORDER BY id"]);
    widened.ch.execute("INSERT INTO s VALUES (1, 5000000000, 0)");
    widened.write("incremental_merge KEY (id)");
    widened.project.run("load.sql", "one").ok();
    assert_eq!(widened.ch.column("SELECT toString(v) FROM t FINAL"), ["5000000000"]);
    for (columns, why) in [
        ("v Nullable(Decimal(18, 2)), d UInt8", "the column is the version of ReplacingMergeTree"),
        ("v Int32, d UInt16", "the column is the mark of deletion of ReplacingMergeTree"),
    ] {
        let refused = Case::new(&[
            target,
            &format!("CREATE TABLE s (id Int64, {columns}) ENGINE = MergeTree ORDER BY id"),
            "INSERT INTO s VALUES (1, 1, 0)",
        ]);
        refused.write("incremental_merge KEY (id)");
        refused.project.run("load.sql", "one").failed("data_quality").says(why);
    }
}

#[test]
fn a_text_that_its_column_does_not_take_is_found_with_its_row() {
    for (native, text, why) in [
        ("Enum8('a' = 1, 'b' = 2)", "c", "none of the labels"),
        ("Array(Enum8('a' = 1, 'b' = 2))", "['a', 'c']", "none of the labels"),
        ("IPv4", "10.0.0.300", "no address of IPv4"),
        ("Nullable(IPv6)", "fe80::g", "no address of IPv6"),
    ] {
        let given = if native.starts_with("Array") { "Array(String)" } else { "String" };
        let text = if native.starts_with("Array") { text.to_owned() } else { format!("'{text}'") };
        let case = Case::new(&[
            &format!("CREATE TABLE t (id Int64, v {native}) ENGINE = MergeTree ORDER BY id"),
            &format!("CREATE TABLE s (id Int64, v {given}) ENGINE = MergeTree ORDER BY id"),
            &format!("INSERT INTO s VALUES (1, {text})"),
        ]);
        case.project.write(
            "load.sql",
            format!(
                "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:CH');\n\
                 CREATE PIPELINE edge INTO ch.{0}.t STRATEGY incremental_append CURSOR id \
                 OPTIONS ('schema_evolution.on_breaking' 'ignore') AS SELECT id, v FROM ch.{0}.s;\n",
                case.ch.database
            ),
        );
        case.project.run("load.sql", "one").failed("data_quality").says(why).says("row 1 of its partition");
    }
}

#[test]
fn texts_of_one_length_go_into_a_column_of_that_length() {
    let case = Case::new(&["CREATE TABLE t (id Int64, currency FixedString(3)) ENGINE = MergeTree ORDER BY id"]);
    let load = |rows: &str, run: &str| {
        case.project.write("data/prices.csv", format!("id,currency\n{rows}"));
        case.project.write(
            "load.sql",
            format!(
                "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:CH');\n\
                 CREATE CONNECTION files TYPE file OPTIONS ('path' 'data');\n\
                 CREATE PIPELINE edge INTO ch.{0}.t STRATEGY full_refresh AS SELECT * FROM files.files.prices;\n",
                case.ch.database
            ),
        );
        case.project.run("load.sql", run)
    };
    load("1,EUR\n2,USD\n", "one").ok();
    assert_eq!(case.ch.column("SELECT concat(toString(id), currency) FROM t ORDER BY id"), ["1EUR", "2USD"]);
    load("1,EUR\n2,US\n", "two").failed("data_quality").says("currency").says("bytes(3)");
    assert_eq!(
        case.ch.column(
            "SELECT type FROM system.columns WHERE database = currentDatabase() AND table = 't' AND name = 'currency'"
        ),
        ["FixedString(3)"]
    );
}

#[test]
fn a_lightweight_deletion_from_a_table_with_projections_is_refused_before_anything_is_done() {
    let table = "CREATE TABLE t (id Int64, v String, PROJECTION p (SELECT v, count() GROUP BY v)) ENGINE = MergeTree ORDER BY id";
    let source = "CREATE TABLE s (id Int64, v String) ENGINE = MergeTree ORDER BY id";
    let strategy = "incremental_merge KEY (id) OPTIONS ('option.merge_policy' 'lightweight_delete_insert')";
    let case = Case::new(&[table, "INSERT INTO t VALUES (1, 'a')", source, "INSERT INTO s VALUES (1, 'b')"]);
    case.write(strategy);
    case.project
        .run("load.sql", "one")
        .failed("configuration")
        .says("has projections (p)")
        .says("mutation_delete_insert");
    assert_eq!(case.ch.column("SELECT v FROM t"), ["a"]);
    // The hint's other way.
    case.ch.execute("ALTER TABLE t MODIFY SETTING lightweight_mutation_projection_mode = 'rebuild'");
    case.project.run("load.sql", "two").ok();
    assert_eq!(case.ch.column("SELECT v FROM t"), ["b"]);
}

/// What the first load makes, the next one takes.
#[test]
fn a_table_that_is_made_takes_the_next_load() {
    let virtual_name = Case::new(&[
        "CREATE TABLE s (id Int64, v String) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO s VALUES (1, 'a')",
    ]);
    virtual_name.project.write(
        "load.sql",
        format!(
            "CREATE CONNECTION ch TYPE clickhouse OPTIONS ('url' 'env:CH');\n\
             CREATE PIPELINE edge INTO ch.{0}.t STRATEGY full_refresh AS SELECT id, v AS _part FROM ch.{0}.s;\n",
            virtual_name.ch.database
        ),
    );
    virtual_name.project.run("load.sql", "one").failed("configuration").says("would hide").says("SELECT … AS …");
    let options = "OPTIONS ('option.engine' 'ReplacingMergeTree', 'option.merge_policy' 'replacing')";
    for name in ["a`b", "a\\b", "a\nb", "a (b)", "a, b"] {
        let quoted = name.replace('\\', "\\\\").replace('`', "\\`");
        let case = Case::new(&[
            &format!("CREATE TABLE s (`{quoted}` Int64, v String) ENGINE = MergeTree ORDER BY `{quoted}`"),
            "INSERT INTO s VALUES (1, 'a')",
        ]);
        case.write(&format!("incremental_merge KEY (\"{name}\") {options}"));
        case.project.run("load.sql", "one").ok();
        case.ch.execute("INSERT INTO s VALUES (2, 'b')");
        let outcome = case.project.run("load.sql", "two").ok();
        assert_eq!((outcome.rows("inserted"), outcome.rows("unchanged")), (1, 1), "{name:?}");
        assert_eq!(case.ch.column("SELECT v FROM t FINAL ORDER BY v"), ["a", "b"], "{name:?}");
        case.ch.execute("DROP TABLE t SYNC");
        case.write(&format!("partition_replace PARTITION BY (\"{name}\")"));
        case.project.run("load.sql", "three").ok();
        assert_eq!(case.project.run("load.sql", "four").ok().rows("inserted"), 2, "{name:?}");
    }
}

#[test]
fn a_scope_takes_all_versions_of_a_row() {
    let policies = ["auto", "mutation_delete_insert", "shadow_swap"];
    // Where the version before lies in another partition, and where it does not; keys that take NULL and keys that do not.
    let tables = [
        ("id Int64", "PARTITION BY v ORDER BY id SETTINGS allow_nullable_key = 1"),
        ("id Int64", "ORDER BY id"),
        ("id Nullable(Int64)", "ORDER BY id SETTINGS allow_nullable_key = 1"),
        ("id Int64", "ORDER BY (id, intDiv(id, 7))"),
    ];
    every_case(policies.iter().flat_map(|policy| tables.map(|table| (policy, table))), |(policy, (key, rest))| {
        let case = Case::new(&[
            &format!("CREATE TABLE t ({key}, v Nullable(String), n UInt64) ENGINE = ReplacingMergeTree(n) {rest}"),
            "INSERT INTO t (id, v, n) VALUES (1, 'A', 1), (2, 'A', 1), (3, 'C', 1)",
            "INSERT INTO t (id, v, n) VALUES (1, 'B', 2)",
            "CREATE TABLE s (id Int64, v Nullable(String), n UInt64) ENGINE = MergeTree ORDER BY id",
            "INSERT INTO s VALUES (4, 'B', 1)",
        ]);
        case.write(&format!("replace OPTIONS ('custom_predicate' 'v = ''B''', 'option.merge_policy' '{policy}')"));
        let outcome = case.project.run("load.sql", "one").ok();
        assert_eq!(outcome.rows("deleted"), 1, "{policy} {rest}");
        let seen = case.ch.column("SELECT concat(toString(id), v) FROM t FINAL ORDER BY id");
        assert_eq!(seen, ["2A", "3C", "4B"], "{policy} {rest}");
        case.project.run("load.sql", "two").ok();
        assert_eq!(case.ch.column("SELECT concat(toString(id), v) FROM t FINAL ORDER BY id"), seen, "{policy} {rest}");
    });
}
