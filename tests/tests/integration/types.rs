//! Every common PostgreSQL type at its extremes: to PostgreSQL byte for byte, to Delta and Parquet exactly or refused by
//! name.

use dpone_tests::{ClickHouse, Lake, Pg, Project, assert_same_rows, every_case};

/// A column type, values as PostgreSQL literals, and how DuckDB writes a value of it as PostgreSQL's text does; `None`
/// where the lake holds PostgreSQL's own text.
struct Type {
    name: &'static str,
    values: &'static [&'static str],
    duckdb: Option<&'static str>,
}

impl std::fmt::Debug for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn ty(name: &'static str, values: &'static [&'static str]) -> Type {
    Type { name, values, duckdb: None }
}

const fn with(name: &'static str, duckdb: &'static str, values: &'static [&'static str]) -> Type {
    Type { name, values, duckdb: Some(duckdb) }
}

const TYPES: &[Type] = &[
    ty("boolean", &["true", "false"]),
    ty("smallint", &["-32768", "32767", "0"]),
    ty("integer", &["-2147483648", "2147483647"]),
    ty("bigint", &["-9223372036854775808", "9223372036854775807"]),
    with(
        "real",
        "CASE WHEN isnan(v) THEN 'NaN' WHEN isinf(v) THEN CASE WHEN v > 0 THEN 'Infinity' ELSE '-Infinity' END ELSE v::varchar END",
        &["NaN", "Infinity", "-Infinity", "0.5"],
    ),
    with(
        "double precision",
        "CASE WHEN isnan(v) THEN 'NaN' WHEN isinf(v) THEN CASE WHEN v > 0 THEN 'Infinity' ELSE '-Infinity' END WHEN v = 0 THEN CASE WHEN signbit(v) THEN '-0' ELSE '0' END ELSE v::varchar END",
        &["NaN", "Infinity", "-Infinity", "-0", "0", "0.1", "-2.5"],
    ),
    ty("numeric(38,10)", &["9999999999999999999999999999.9999999999", "-0.0000000001", "0"]),
    ty("numeric(12,2)", &["9999999999.99", "-0.01"]),
    ty("numeric(1000,0)", &["123456789012345678901234567890123456789012345678901234567890", "-1"]),
    ty(
        "numeric",
        &[
            "1",
            "1.0",
            "1.00",
            "0.000000000000000000000000000000000000001",
            "-12345678901234567890123456789012345678901234567890.5",
            "NaN",
        ],
    ),
    ty("money", &["-92233720368547758.08", "92233720368547758.07"]),
    ty("text", &["", " ", "Ünïcödé 漢字 🦀", "\\N", "NULL", "line\nbreak\ttab", "quote\"s and 'these'"]),
    ty("varchar(10)", &["", "ten chars!"]),
    ty("char(5)", &["ab", "     ", "abcde"]),
    ty("\"char\"", &["x"]),
    ty("name", &["a_name"]),
    with("bytea", "'\\x' || lower(hex(v))", &["\\x", "\\x00ff80", "\\xdeadbeef"]),
    ty("uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ty("json", &["{\"a\":  1, \"a\": [null, \"ü\"]}", "null", "\"text\""]),
    ty("jsonb", &["{\"a\": 1, \"b\": [null, \"ü\"]}", "12345678901234567890.10"]),
    ty("date", &["0001-01-01", "2024-02-29", "9999-12-31"]),
    ty("time", &["00:00:00", "23:59:59.999999"]),
    ty("timetz", &["00:00:00+15:59", "23:59:59.999999-15:59"]),
    ty("timestamp", &["0001-01-01 00:00:00", "2024-02-29 23:59:59.999999", "9999-12-31 23:59:59"]),
    with(
        "timestamptz",
        "strftime(v::timestamp, '%Y-%m-%d %H:%M:%S') || CASE WHEN date_part('us', v) % 1000000 = 0 THEN '' ELSE strftime(v::timestamp, '.%f') END || '+00'",
        &["2024-03-31 02:30:00.000001+02", "1969-12-31 23:59:59.999999Z", "2024-10-27 01:30:00Z"],
    ),
    ty("interval", &["1 year 2 mons -3 days 04:05:06.789", "-178000000 years", "0"]),
    ty("inet", &["192.168.0.1/24", "::1", "10.0.0.1"]),
    ty("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ty("macaddr", &["08:00:2b:01:02:03"]),
    ty("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ty("bit(5)", &["10101"]),
    ty("bit varying", &["", "1", "101010101"]),
    ty("xml", &["<a b=\"1\">text</a>"]),
    ty("tsvector", &["'a':1A,2 'fat':3 'rat'"]),
    ty("tsquery", &["'fat' & !'rat'"]),
    ty("oid", &["0", "4294967295"]),
    ty("point", &["(1.5,-2)"]),
    ty("box", &["(2,2),(1,1)"]),
    ty("path", &["((0,0),(1,1))", "[(0,0),(1,1)]"]),
    ty("polygon", &["((0,0),(1,1),(1,0))"]),
    ty("circle", &["<(0,0),1.5>"]),
    ty("pg_lsn", &["16/B374D848"]),
    ty("int4range", &["[1,10)", "empty", "(,)"]),
    ty("numrange", &["[1.0,2.50]"]),
    ty("tstzrange", &["[\"2024-01-01 00:00:00+00\",infinity)"]),
    ty("zoo.mood", &["sad", "happy"]),
    ty("zoo.positive", &["1", "2147483647"]),
    ty("zoo.pair", &["(1,x)", "(,\"a,b\")"]),
];

/// Values that PostgreSQL has and Arrow's type for the column has not, and types that no lake has: exact into
/// PostgreSQL, exact or refused elsewhere.
const EXTREMES: &[Type] = &[
    ty("numeric(12,2)", &["NaN"]),
    ty("date", &["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]),
    ty("time", &["24:00:00"]),
    ty("timestamp", &["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"]),
    ty("timestamptz", &["infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"]),
    ty("integer[]", &["{}", "{1,NULL,-2147483648}", "{{1,2},{3,NULL}}", "[5:6]={1,2}"]),
    ty("text[]", &["{}", "{NULL,\"NULL\",\"\",\"a,b\",\"q\\\"\"}", "{{a,b},{c,d}}"]),
    ty("numeric[]", &["{1.10,NaN}"]),
    // Sixteen bytes each in Parquet, where no reader knows a logical type inside a list; texts in Delta.
    with(
        "uuid[]",
        r"'{' || array_to_string([CASE WHEN length(hex(x)) = 32 THEN regexp_replace(lower(hex(x)), '(.{8})(.{4})(.{4})(.{4})', '\1-\2-\3-\4-') ELSE x::varchar END for x in v], ',') || '}'",
        &["{00000000-0000-0000-0000-000000000000,12345678-9abc-def0-1234-56789abcdef0}"],
    ),
    ty("timestamptz[]", &["{infinity,\"2024-01-01 00:00:00+00\"}"]),
    with(
        "jsonb[]",
        r#"'{' || array_to_string([coalesce('"' || replace(x, '"', '\"') || '"', 'NULL') for x in v], ',') || '}'"#,
        &["{\"{\\\"a\\\": 1}\",NULL}"],
    ),
    ty("zoo.mood[]", &["{sad,NULL}"]),
    ty("zoo.pair[]", &["{\"(1,x)\"}"]),
];

const OWN_TYPES: &str = "CREATE SCHEMA zoo; CREATE TYPE zoo.mood AS ENUM ('sad', 'happy'); \
                         CREATE DOMAIN zoo.positive AS integer CHECK (VALUE > 0); \
                         CREATE TYPE zoo.pair AS (a integer, b text)";

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// One table with a column for each type; row i holds each type's i-th value, the last row is NULL throughout.
fn make_zoo(pg: &Pg, types: &[&Type]) {
    pg.execute(OWN_TYPES);
    let columns: Vec<_> = types.iter().enumerate().map(|(i, t)| format!("c{i} {}", t.name)).collect();
    pg.execute(&format!("CREATE TABLE zoo.animals (id integer PRIMARY KEY, {})", columns.join(", ")));
    let rows = types.iter().map(|t| t.values.len()).max().unwrap();
    for row in 0..=rows {
        let value = |t: &&Type| t.values.get(row).map_or("NULL".to_owned(), |v| literal(v));
        let values: Vec<_> = types.iter().map(value).collect();
        pg.execute(&format!("INSERT INTO zoo.animals VALUES ({row}, {})", values.join(", ")));
    }
}

fn manifest(sink: &str, table: &str, strategy: &str) -> String {
    format!(
        "name: zoo\nsource: {{type: postgres, connection_type: env, connection_id: SRC, table: {{schema: zoo, name: {table}}}}}\n\
         sink: {{{sink}, table: {{schema: zoo, name: {table}_copy}}, strategy: {{{strategy}}}}}\n"
    )
}

const INTO_POSTGRES: &str = "type: postgres, connection_type: env, connection_id: DST";

#[test]
fn postgres_to_another_postgres_is_byte_identical() {
    every_case(
        [
            "mode: full_refresh, overwrite_type: exchange",
            "mode: full_refresh, overwrite_type: truncate_insert",
            "mode: incremental_merge, unique_key: [id]",
            "mode: snapshot_diff, unique_key: [id]",
            "mode: snapshot_diff, unique_key: [id], diff: {compare: all_columns}",
        ],
        |strategy| {
            let (source, target) = (Pg::new(), Pg::new());
            let types: Vec<_> = TYPES.iter().chain(EXTREMES).collect();
            make_zoo(&source, &types);
            target.execute(OWN_TYPES);
            let project =
                Project::new().env("DPONE_CONN_SRC_URL", source.url()).env("DPONE_CONN_DST_URL", target.url());
            project.write("load.yaml", manifest(INTO_POSTGRES, "animals", strategy));
            for run in ["one", "two"] {
                project.run("load.yaml", run).ok();
                // Column by column, so that a failure names the type.
                for (i, t) in types.iter().enumerate() {
                    let column =
                        |pg: &Pg, table: &str| pg.column(&format!("SELECT c{i}::text FROM zoo.{table} ORDER BY id"));
                    assert_eq!(
                        column(&source, "animals"),
                        column(&target, "animals_copy"),
                        "{} ({strategy}, run {run})",
                        t.name
                    );
                }
                assert_same_rows("whole rows", source.rows("zoo.animals"), target.rows("zoo.animals_copy"));
            }
            let types_of = |pg: &Pg, table: &str| {
                pg.column(&format!(
                    "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute \
                     WHERE attrelid = 'zoo.{table}'::regclass AND attnum > 0 ORDER BY attnum"
                ))
            };
            for (from, to) in types_of(&source, "animals").iter().zip(types_of(&target, "animals_copy")) {
                // A domain travels as the type that it is based on: its constraints belong to the source.
                assert_eq!(from.replace("zoo.positive", "integer"), to, "the created table's types");
            }
        },
    );
}

#[test]
fn a_type_that_the_target_lacks_is_created_or_named() {
    let (source, target) = (Pg::new(), Pg::new());
    make_zoo(&source, &TYPES.iter().filter(|t| t.name == "zoo.mood").collect::<Vec<_>>());
    let project = Project::new().env("DPONE_CONN_SRC_URL", source.url()).env("DPONE_CONN_DST_URL", target.url());
    project.write("load.yaml", manifest(INTO_POSTGRES, "animals", "mode: full_refresh"));
    project.run("load.yaml", "one").ok();
    assert_eq!(
        source.column("SELECT c0::text FROM zoo.animals ORDER BY id"),
        target.column("SELECT c0::text FROM zoo.animals_copy ORDER BY id")
    );
}

#[test]
fn a_ten_megabyte_text_comes_back_whole() {
    let (source, target) = (Pg::new(), Pg::new());
    source.execute("CREATE SCHEMA zoo; CREATE TABLE zoo.big (id int, v text)");
    source.execute("INSERT INTO zoo.big SELECT i, repeat('0123456789ü' || i, 900000) FROM generate_series(1, 3) i");
    let project = Project::new().env("DPONE_CONN_SRC_URL", source.url()).env("DPONE_CONN_DST_URL", target.url());
    project.write("load.yaml", manifest(INTO_POSTGRES, "big", "mode: full_refresh"));
    project.run("load.yaml", "one").ok();
    let sums = |pg: &Pg, table: &str| pg.column(&format!("SELECT md5(v) || length(v) FROM zoo.{table} ORDER BY id"));
    assert_eq!(sums(&source, "big"), sums(&target, "big_copy"));
}

fn exact_or_refused(lake: Lake, types: &[Type], may_refuse: bool) {
    every_case(types, |t| {
        let pg = Pg::new();
        pg.execute(OWN_TYPES);
        pg.execute(&format!("CREATE TABLE zoo.one (id integer, v {})", t.name));
        for (i, value) in t.values.iter().enumerate() {
            pg.execute(&format!("INSERT INTO zoo.one VALUES ({i}, {})", literal(value)));
        }
        pg.execute("INSERT INTO zoo.one VALUES (1000, NULL)");
        let project = Project::new().env("DPONE_CONN_SRC_URL", pg.url());
        let sink = if lake == Lake::Delta { "type: delta, path: lake" } else { "type: parquet, path: lake" };
        project.write("load.yaml", manifest(sink, "one", "mode: full_refresh"));
        let outcome = project.run("load.yaml", "one");
        if outcome.code() == Some(0) {
            // A cast to text would cut the padding of char(n); the output of the type does not.
            let text =
                if t.name.starts_with("char(") { "CASE WHEN v IS NOT NULL THEN concat(v) END" } else { "v::text" };
            let expected = pg.column(&format!("SELECT id || ' ' || coalesce({text}, '∅') FROM zoo.one"));
            let duckdb = format!("id || ' ' || coalesce({}, '∅')", t.duckdb.unwrap_or("v::varchar"));
            assert_same_rows(t.name, expected, lake.rows(&project.path("lake/zoo/one_copy"), &duckdb));
        } else {
            let outcome = if may_refuse { outcome } else { outcome.ok() };
            // Refused: the column's name and what to do, and not the value.
            let outcome = outcome.says("\"v\"").says("hint");
            assert!(matches!(outcome.code(), Some(1 | 2)), "{}: {}", t.name, outcome.text());
            assert!(!project.path("lake/zoo/one_copy").join("_delta_log").exists(), "{}: nothing was written", t.name);
        }
    });
}

#[test]
fn to_delta_every_plain_value_is_exact() {
    exact_or_refused(Lake::Delta, TYPES, false);
}

#[test]
fn to_parquet_every_plain_value_is_exact() {
    exact_or_refused(Lake::Parquet, TYPES, false);
}

#[test]
fn to_delta_an_extreme_is_exact_or_refused_by_name() {
    exact_or_refused(Lake::Delta, EXTREMES, true);
}

#[test]
fn to_parquet_an_extreme_is_exact_or_refused_by_name() {
    exact_or_refused(Lake::Parquet, EXTREMES, true);
}

/// Numbers for columns that PostgreSQL alone has a type for: of more than 38 digits, and `numeric` without precision.
#[test]
fn numbers_fit_columns_that_hold_more() {
    let strategies = [
        "full_refresh",
        "incremental_merge, unique_key: [k]",
        "snapshot_diff, unique_key: [k]",
        "scd2, unique_key: [k]",
    ];
    every_case(strategies, |strategy| {
        let (pg, ch) = (Pg::new(), ClickHouse::new());
        let project = Project::new().env("DPONE_CONN_DB_URL", pg.url()).env("DPONE_CONN_CH_URL", ch.url());
        ch.execute("CREATE TABLE s (k Int32, a Int128, b Decimal(50, 10), c Nullable(Decimal(10, 2)), d UInt64) ENGINE = MergeTree ORDER BY k");
        ch.execute(
            "INSERT INTO s VALUES (1, -170141183460469231731687303715884105728, 1234567890123456789012345678901234567890.5, 1.5, 7), \
             (2, 1, -0.0000000001, NULL, 18446744073709551615)",
        );
        let manifest = |table: &str| {
            format!(
                "name: numbers\nsource: {{type: clickhouse, connection_type: env, connection_id: CH, table: {{schema: {}, name: s}}}}\n\
                 sink: {{type: postgres, connection_type: env, connection_id: DB, table: {{schema: landing, name: {table}}}, \
                 strategy: {{mode: {strategy}}}}}\n",
                ch.database
            )
        };
        let expected = |c: &str, d: &str| {
            [
                format!("1|-170141183460469231731687303715884105728|1234567890123456789012345678901234567890.5000000000|{c}|{d}"),
                "2|1|-0.0000000001||18446744073709551615".to_owned(),
            ]
            .to_vec()
        };
        let found = |table: &str| {
            pg.column(&format!("SELECT concat_ws('|', k, a, b, coalesce(c::text, ''), d) FROM landing.{table}"))
        };
        pg.execute("CREATE SCHEMA landing; CREATE TABLE landing.free (k int, a numeric, b numeric(60, 10), c numeric, d numeric(50, 0))");
        if strategy.starts_with("scd2") {
            pg.execute("ALTER TABLE landing.free ADD __dpone__valid_from_at timestamptz, ADD __dpone__valid_to_at timestamptz, \
                        ADD __dpone__is_current boolean, ADD __dpone__row_hash text");
        }
        for table in ["made", "free"] {
            project.write("load.yaml", manifest(table));
            project.run("load.yaml", &format!("{table}-one")).ok();
            let again = project.run("load.yaml", &format!("{table}-two")).ok();
            if *strategy != "full_refresh" {
                assert_eq!((again.rows("updated"), again.rows("inserted")), (0, 0), "{}", again.text());
            }
            assert_same_rows(table, expected("1.50", "7"), found(table));
        }
    });
}
