//! ClickHouse: types, shapes, costs and statements, pair by pair; the costs against the real engine.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use dpone_clickhouse::ClickHouseDialect;
use dpone_planner::Relation;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{
    COMMENT, DEFAULT, Dependent, DependentKind, EngineColumn, EvolutionPolicy, Fit, Risk, SchemaChange, TableFacts,
    Work, fit, plan_schema,
};
use dpone_planner::types::{EXTENSION_UUID, utc, with_extension, with_native};
use proptest::prelude::*;
use serde_json::{Value, json};

#[path = "../../../tests/support/sql.rs"]
mod sql;

const D: ClickHouseDialect = ClickHouseDialect;

fn table() -> Relation {
    Relation::new("landing", "orders")
}

/// NULL as the type's name has it.
fn column(name: &str, dtype: &str) -> FieldRef {
    Arc::new(D.parse_type(name, dtype).unwrap())
}

fn with(field: FieldRef, pairs: &[(&str, &str)]) -> FieldRef {
    let mut metadata = field.metadata().clone();
    metadata.extend(pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
    Arc::new(field.as_ref().clone().with_metadata(metadata))
}

#[test]
fn types_are_read_in_all_their_spellings() {
    for (written, canonical) in [
        ("Bool", "Bool"),
        ("Int8", "Int8"),
        ("UInt256", "UInt256"),
        ("Float32", "Float32"),
        ("BFloat16", "BFloat16"),
        ("Decimal(18,2)", "Decimal(18, 2)"),
        ("Decimal64(4)", "Decimal(18, 4)"),
        ("Decimal(76, 10)", "Decimal(76, 10)"),
        ("String", "String"),
        ("FixedString(16)", "FixedString(16)"),
        ("Date", "Date"),
        ("Date32", "Date32"),
        ("DateTime", "DateTime"),
        ("DateTime('UTC')", "DateTime('UTC')"),
        ("DateTime64(3,'UTC')", "DateTime64(3, 'UTC')"),
        ("UUID", "UUID"),
        ("IPv4", "IPv4"),
        ("JSON", "JSON"),
        ("Enum8('a'=1)", "Enum8('a' = 1)"),
        ("Enum('a','b')", "Enum8('a' = 1, 'b' = 2)"),
        ("Enum16('it\\'s' = -300)", "Enum16('it\\'s' = -300)"),
        ("Array(Nullable(Int32))", "Array(Nullable(Int32))"),
        ("Nullable(Decimal(18, 2))", "Nullable(Decimal(18, 2))"),
        ("LowCardinality(Nullable(String))", "LowCardinality(Nullable(String))"),
        ("Map(String, UInt64)", "Map(String, UInt64)"),
        ("Tuple(a Int32, `b c` String)", "Tuple(`a` Int32, `b c` String)"),
        ("AggregateFunction(sum, UInt64)", "AggregateFunction(sum, UInt64)"),
        ("Point", "Point"),
        ("Time64(3)", "Time64(3)"),
    ] {
        assert_eq!(D.native_type(&column("c", written)).unwrap(), canonical, "{written}");
        assert_eq!(D.native_type(&column("c", canonical)).unwrap(), canonical, "{written} again");
    }
    // Logical names take NULL where nothing else is said.
    for (written, canonical) in [
        ("numeric(18,2)", "Nullable(Decimal(18, 2))"),
        ("uuid", "Nullable(UUID)"),
        ("bigint", "Nullable(Int64)"),
        ("text", "Nullable(String)"),
        ("varchar(50)", "Nullable(String)"),
        ("date", "Nullable(Date32)"),
        ("timestamp", "Nullable(DateTime64(6))"),
        ("datetime", "Nullable(DateTime64(6))"),
        ("timestamptz", "Nullable(DateTime64(6, 'UTC'))"),
        ("double", "Nullable(Float64)"),
        ("integer[]", "Array(Nullable(Int32))"),
        ("jsonb", "Nullable(String)"),
    ] {
        let field = D.parse_type("c", written).unwrap().with_nullable(true);
        assert_eq!(D.native_type(&field).unwrap(), canonical, "{written}");
    }
    for wrong in [
        "Nullable(Array(Int32))",
        "Nullable(Nullable(Int8))",
        "Decimal(77, 0)",
        "Decimal(5, 6)",
        "DateTime64(10)",
        "FixedString(0)",
        "Enum8('a' = 200)",
        "Enum8('a' = 1, 'b' = 1)",
        "Int64; DROP TABLE t",
        "Int64 DEFAULT 1",
        "",
        "Int7",
        "Tuple(a Int64 DROP)",
    ] {
        assert!(D.parse_type("c", wrong).is_err(), "{wrong}");
    }
    assert!(D.native_type(&with_native(Field::new("c", DataType::Utf8, true), "clickhouse", "Int64, x Int8")).is_err());
}

#[test]
fn a_new_column_holds_every_value_and_null() {
    use DataType as T;
    for (data_type, want) in [
        (T::UInt64, "UInt64"),
        (T::Decimal128(5, -2), "Decimal(7, 0)"),
        (T::Decimal256(76, 3), "Decimal(76, 3)"),
        (T::Utf8, "String"),
        (T::Binary, "String"),
        (T::FixedSizeBinary(5), "FixedString(5)"),
        (T::Date32, "Date32"),
        (T::Timestamp(TimeUnit::Nanosecond, Some(utc())), "DateTime64(9, 'UTC')"),
        (T::Time64(TimeUnit::Microsecond), "String"),
        (T::Boolean, "Bool"),
    ] {
        let field = Field::new("c", data_type, false);
        assert_eq!(D.native_type(&field).unwrap(), want);
        assert_eq!(D.native_type(&field.with_nullable(true)).unwrap(), format!("Nullable({want})"));
    }
    let uuid = with_extension(Field::new("c", T::FixedSizeBinary(16), true), EXTENSION_UUID);
    assert_eq!(D.native_type(&uuid).unwrap(), "Nullable(UUID)");
    assert!(D.native_type(&Field::new("c", T::Duration(TimeUnit::Second), true)).is_err());
}

#[test]
fn which_type_holds_the_values_of_both() {
    for (source, target, want) in [
        ("Int32", "Int64", "="),
        ("Int64", "Int32", "Int64"),
        ("UInt8", "Int8", "Int16"),
        ("UInt64", "Int64", "Int128"),
        ("Int8", "LowCardinality(Int8)", "="),
        ("String", "LowCardinality(String)", "="),
        ("Nullable(String)", "String", "="),
        ("FixedString(4)", "String", "="),
        ("String", "FixedString(4)", "String"),
        ("FixedString(8)", "FixedString(4)", "FixedString(8)"),
        ("Date", "Date32", "="),
        ("Date32", "Date", "Date32"),
        ("DateTime", "DateTime64(3)", "="),
        ("DateTime64(3)", "DateTime", "DateTime64(3)"),
        ("DateTime('UTC')", "DateTime('Europe/Berlin')", "="),
        ("DateTime", "DateTime('UTC')", "none"),
        ("Date", "DateTime64(3)", "="),
        ("Decimal(10, 2)", "Decimal(12, 4)", "="),
        ("Decimal(12, 4)", "Decimal(12, 2)", "Decimal(14, 4)"),
        ("Decimal(76, 0)", "Decimal(76, 76)", "none"),
        ("Float32", "Float64", "="),
        ("Int64", "Float64", "none"),
        ("Enum8('a' = 1)", "Enum8('a' = 1, 'b' = 2)", "="),
        ("Enum8('a' = 1)", "Enum8('b' = 1)", "none"),
        ("Array(Int64)", "Array(Int32)", "Array(Int64)"),
        ("Bool", "UInt8", "none"),
        ("UUID", "String", "none"),
        ("IPv4", "IPv4", "="),
        ("IPv4", "IPv6", "none"),
    ] {
        let got = match fit(&D.shape(&column("c", source)), &D.shape(&column("c", target))) {
            Fit::Same | Fit::Narrower => "=".to_owned(),
            Fit::Incompatible => "none".to_owned(),
            Fit::Wider(join) => {
                D.field_of("c", &join).map_or("none".to_owned(), |field| D.native_type(&field).unwrap())
            }
        };
        assert_eq!(got, want, "{source} into {target}");
    }
}

fn in_key(kind: DependentKind) -> TableFacts {
    let dependents = vec![Dependent { kind, name: "key".into(), columns: vec!["c".into()], definition: String::new() }];
    TableFacts { observed: true, kind: Some("MergeTree".into()), dependents, ..TableFacts::default() }
}

fn plain() -> TableFacts {
    TableFacts { dependents: vec![], ..in_key(DependentKind::SortingKey) }
}

/// A change of the column `c`, its type and values before, and what it costs.
struct Case {
    column: &'static str,
    values: &'static str,
    /// The default that the column has.
    default: &'static str,
    change: SchemaChange,
    risk: Risk,
    work: Work,
    key: bool,
}

fn cases() -> Vec<Case> {
    use Risk::{Blocking as B, LowLock as L, MetadataOnly as M, Unsupported as U};
    use Work::{Mutation, None as Nothing};
    let alter = |column: &'static str, values: &'static str, to: &str, risk: Risk, work: Work, key: bool| Case {
        column,
        values,
        default: "",
        risk,
        work,
        key,
        change: SchemaChange::AlterType { from: self::column("c", column), to: self::column("c", to) },
    };
    let other = |column: &'static str, change: SchemaChange, risk: Risk, work: Work, key: bool| Case {
        column,
        values: "number % 100",
        default: "",
        change,
        risk,
        work,
        key,
    };
    let new = |dtype: &str, default: &str| SchemaChange::AddColumn {
        column: with(column("n", dtype), &[(DEFAULT, default)]),
    };
    let c = || column("c", "Int32");
    let mut all = vec![
        alter("Int32", "number", "Int64", L, Mutation, false),
        alter("Nullable(Int32)", "number", "Nullable(Int64)", L, Mutation, false),
        alter("Int32", "number % 100", "Int8", L, Mutation, false),
        alter("FixedString(4)", "'ab'", "FixedString(8)", L, Mutation, false),
        alter("FixedString(4)", "'ab'", "String", L, Mutation, false),
        alter("String", "'ab'", "FixedString(8)", B, Mutation, false),
        alter("String", "toString(number)", "LowCardinality(String)", L, Mutation, false),
        alter("LowCardinality(String)", "toString(number)", "String", L, Mutation, false),
        alter("Float32", "number", "Float64", L, Mutation, false),
        alter("Date", "toDate('2020-01-01')", "Date32", L, Mutation, false),
        alter("Date", "toDate('2020-01-01')", "DateTime", B, Mutation, false),
        alter("DateTime", "now()", "DateTime64(3)", L, Mutation, false),
        alter("DateTime64(3)", "now64(3)", "DateTime64(6)", L, Mutation, false),
        alter("DateTime", "now()", "DateTime('UTC')", M, Nothing, false),
        alter("DateTime64(3)", "now64(3)", "DateTime64(3, 'UTC')", M, Nothing, false),
        alter("Decimal(9, 2)", "1", "Decimal(10, 2)", L, Mutation, false),
        alter("Decimal(10, 2)", "1", "Decimal(12, 2)", M, Nothing, false),
        alter("Nullable(Decimal(10, 2))", "1", "Nullable(Decimal(12, 2))", M, Nothing, false),
        alter("Array(Decimal(10, 2))", "[1]", "Array(Decimal(12, 2))", M, Nothing, false),
        alter("Decimal(18, 2)", "1", "Decimal(19, 2)", L, Mutation, false),
        alter("Decimal(20, 2)", "1", "Decimal(38, 2)", M, Nothing, false),
        alter("Decimal(10, 2)", "1", "Decimal(12, 4)", L, Mutation, false),
        alter("Decimal(12, 2)", "1", "Decimal(10, 2)", M, Nothing, false),
        alter("Enum8('a' = 1)", "'a'", "Enum8('a' = 1, 'b' = 2)", M, Nothing, false),
        alter("Enum8('a' = 1, 'b' = 2)", "'a'", "Enum8('a' = 1)", B, Mutation, false),
        alter("Enum8('a' = 1)", "'a'", "Enum16('a' = 1, 'b' = 2)", L, Mutation, false),
        alter("Enum8('a' = 1)", "'a'", "String", L, Mutation, false),
        alter("UInt8", "number % 2", "Bool", M, Nothing, false),
        alter("UInt32", "number", "UInt64", L, Mutation, false),
        alter("Int32", "number", "String", L, Mutation, false),
        alter("String", "toString(number)", "UUID", B, Mutation, false),
        alter("String", "toString(number)", "Int32", B, Mutation, false),
        alter("Array(Int32)", "[1]", "Array(Int64)", L, Mutation, false),
        alter("Nullable(Int32)", "number", "Int32", U, Nothing, false),
        alter("Int32", "number", "Int64", U, Nothing, true),
        alter("FixedString(4)", "'ab'", "FixedString(8)", U, Nothing, true),
        alter("Decimal(10, 2)", "1", "Decimal(12, 2)", M, Nothing, true),
        alter("DateTime", "now()", "DateTime('UTC')", M, Nothing, true),
        alter("Enum8('a' = 1)", "'a'", "Enum8('a' = 1, 'b' = 2)", M, Nothing, true),
        alter("String", "toString(number)", "LowCardinality(String)", L, Mutation, true),
        other("Int32", new("Nullable(String)", ""), M, Nothing, false),
        other("Int32", new("Int32", ""), M, Nothing, false),
        other("Int32", new("Int32", "5"), M, Nothing, false),
        other("Int32", new("UUID", "gen_random_uuid()"), L, Mutation, false),
        other("Int32", new("DateTime64(3)", "now()"), L, Mutation, false),
        other("Int32", SchemaChange::DropNotNull { column: c() }, L, Mutation, false),
        other("Int32", SchemaChange::DropNotNull { column: c() }, U, Nothing, true),
        other(
            "Nullable(Int32)",
            SchemaChange::SetNotNull { column: column("c", "Nullable(Int32)") },
            U,
            Nothing,
            false,
        ),
        other("Int32", SchemaChange::SetDefault { column: c(), default: "7".into() }, M, Nothing, false),
        other("Int32", SchemaChange::SetDefault { column: c(), default: "7".into() }, M, Nothing, true),
        other("Int32", SchemaChange::SetComment { column: c(), comment: Some("it's".into()) }, M, Nothing, true),
        other("Int32", SchemaChange::SetComment { column: c(), comment: None }, M, Nothing, false),
        other("Int32", SchemaChange::RenameColumn { from: c(), to: "d".into() }, L, Mutation, false),
        other("Int32", SchemaChange::RenameColumn { from: c(), to: "d".into() }, U, Nothing, true),
        other("Int32", SchemaChange::DropColumn { column: c() }, L, Mutation, false),
        other("Int32", SchemaChange::DropColumn { column: c() }, U, Nothing, true),
        other(
            "String",
            SchemaChange::SetCollation { column: column("c", "String"), collation: "de".into() },
            U,
            Nothing,
            false,
        ),
    ];
    let five = |dtype: &str| with(column("c", dtype), &[(DEFAULT, "5")]);
    for (dtype, change) in [
        ("Nullable(Int32)", SchemaChange::SetNotNull { column: five("Nullable(Int32)") }),
        ("Int32", SchemaChange::SetDefault { column: five("Int32"), default: "7".into() }),
        ("Int32", SchemaChange::DropDefault { column: five("Int32") }),
    ] {
        all.push(Case { default: "5", ..other(dtype, change, L, Mutation, false) });
    }
    all
}

/// As 26.9 answered.
#[test]
fn a_version_stays_sorted_as_it_was() {
    let facts = in_key(DependentKind::Engine { takes: EngineColumn::Version });
    for (from, to, taken) in [
        ("UInt32", "UInt64", true),
        ("UInt32", "UInt256", true),
        ("Int32", "Int256", true),
        ("Bool", "UInt16", true),
        ("UInt8", "Bool", true),
        ("Float32", "Float64", true),
        ("DateTime64(6)", "DateTime64(3)", true),
        ("DateTime('UTC')", "DateTime", true),
        ("UInt32", "Int128", false),
        ("UInt64", "UInt32", false),
        ("Int32", "UInt64", false),
        ("UInt32", "Float64", false),
        ("Float64", "Float32", false),
        ("Date", "Date32", false),
        ("Date", "UInt16", false),
        ("DateTime", "DateTime64(3)", false),
        ("DateTime", "UInt32", false),
        ("UInt32", "LowCardinality(UInt32)", false),
        ("UInt32", "Nullable(UInt32)", false),
        ("UInt32", "Decimal(18, 2)", false),
    ] {
        let change = SchemaChange::AlterType { from: column("c", from), to: column("c", to) };
        let cost = D.cost(&table(), &facts, &change);
        assert_eq!(cost.risk != Risk::Unsupported, taken, "{from} to {to}: {cost:?}");
    }
}

#[test]
fn what_each_change_costs() {
    for Case { column, change, risk, work, key, .. } in cases() {
        let facts = if key { in_key(DependentKind::SortingKey) } else { plain() };
        let cost = D.cost(&table(), &facts, &change);
        assert_eq!((cost.risk, cost.work), (risk, work), "{column} {change:?}: {cost:?}");
        assert!(cost.assumptions.is_empty() || matches!(change, SchemaChange::SetDefault { .. }), "{cost:?}");
        assert!(
            cost.risk != Risk::Blocking || cost.online_path[0].contains("SELECT count() FROM `landing`.`orders`"),
            "{cost:?}"
        );
        assert_eq!(cost.risk == Risk::Unsupported, cost.lock.is_none());
    }
    let drop = SchemaChange::DropColumn { column: column("c", "Int32") };
    for kind in [DependentKind::MaterializedView, DependentKind::Projection, DependentKind::PartitionKey] {
        assert_eq!(D.cost(&table(), &in_key(kind), &drop).risk, Risk::Unsupported);
    }
    let engine = |name: &str| D.cost(&table(), &TableFacts { kind: Some(name.into()), ..plain() }, &drop);
    assert_eq!(engine("Log").risk, Risk::Unsupported);
    assert_eq!(
        (engine("Distributed").risk, engine("ReplicatedReplacingMergeTree").risk),
        (Risk::MetadataOnly, Risk::LowLock)
    );
    let unread = D.cost(&table(), &TableFacts::default(), &drop).assumptions.join(" ");
    assert!(unread.contains("MergeTree") && unread.contains("materialized view"), "{unread}");
    // Numbers that do not fit wrap around without an error: it is said, with the query that finds them.
    let wraps = SchemaChange::AlterType { from: column("c", "Int32"), to: column("c", "Int8") };
    let cost = D.cost(&table(), &plain(), &wraps);
    assert!(cost.reason.contains("wraps around"), "{cost:?}");
    assert!(
        cost.online_path[0].contains("WHERE `c` IS NOT NULL AND accurateCastOrNull(`c`, 'Int8') IS NULL"),
        "{cost:?}"
    );
}

/// The engine itself: a mutation where one was said, and none where none was.
#[test]
fn the_engine_agrees_with_the_costs() {
    let cases = cases();
    let asked: Vec<Value> = cases
        .iter()
        .filter(|case| !matches!(case.change, SchemaChange::SetCollation { .. }))
        .map(|case| {
            // What is refused is tried all the same, as it would be written.
            let statements = D.render(&table(), &case.change).unwrap_or_else(|_| match case.change {
                SchemaChange::SetNotNull { .. } => {
                    vec!["ALTER TABLE `landing`.`orders` MODIFY COLUMN `c` Int32".into()]
                }
                _ => panic!("{:?}", case.change),
            });
            let default = if case.default.is_empty() { String::new() } else { format!(" DEFAULT {}", case.default) };
            json!({
                "columns": format!("c {}{default}", case.column), "values": case.values,
                "order": if case.key { "c" } else { "tuple()" }, "statements": statements,
            })
        })
        .collect();
    let found = sql::run("clickhouse_oracle.py", &json!(asked));
    let answers = found.as_array().unwrap();
    let judged = cases.iter().filter(|case| !matches!(case.change, SchemaChange::SetCollation { .. }));
    assert_eq!(answers.len(), asked.len());
    for ((case, asked), answer) in judged.zip(&asked).zip(answers) {
        let mutated = answer["mutations"] != json!(0);
        // A cast that fails has mutated nothing, and a change that may fail may also hold.
        let fails = answer["failed"] == json!(true);
        assert_eq!(mutated, case.work == Work::Mutation, "{asked}: {answer}");
        assert!(fails || mutated != (answer["parts_kept"] == json!(true)), "{asked}: {answer}");
        match case.risk {
            Risk::Unsupported => assert!(!answer["error"].is_null() && !mutated, "{asked}: {answer}"),
            Risk::Blocking => {}
            _ => assert!(answer["error"].is_null(), "{asked}: {answer}"),
        }
    }
}

#[test]
fn statements_keep_null_and_zones() {
    let one = |change: SchemaChange| D.render(&table(), &change).unwrap().join(" ;; ");
    let required = |dtype: &str| Arc::new(column("c", dtype).as_ref().clone().with_nullable(false));
    for (change, want) in [
        (
            SchemaChange::AddColumn { column: column("c", "numeric(18,2)") },
            "ALTER TABLE `landing`.`orders` ADD COLUMN `c` Nullable(Decimal(18, 2))",
        ),
        (
            SchemaChange::AddColumn {
                column: with(required("uuid"), &[(DEFAULT, "gen_random_uuid()"), (COMMENT, "it's")]),
            },
            "ALTER TABLE `landing`.`orders` ADD COLUMN `c` UUID DEFAULT generateUUIDv4() COMMENT 'it\\'s' ;; ALTER TABLE `landing`.`orders` MATERIALIZE COLUMN `c` SETTINGS mutations_sync = 2",
        ),
        (
            SchemaChange::AlterType { from: column("c", "Nullable(Int32)"), to: column("c", "Nullable(Int64)") },
            "ALTER TABLE `landing`.`orders` MODIFY COLUMN `c` Nullable(Int64)",
        ),
        (
            SchemaChange::AlterType {
                from: column("c", "DateTime('Europe/Berlin')"),
                to: column("c", "DateTime64(3, 'UTC')"),
            },
            "ALTER TABLE `landing`.`orders` MODIFY COLUMN `c` DateTime64(3, 'Europe/Berlin')",
        ),
        (
            SchemaChange::DropNotNull { column: column("c", "LowCardinality(String)") },
            "ALTER TABLE `landing`.`orders` MODIFY COLUMN `c` LowCardinality(Nullable(String))",
        ),
        (
            SchemaChange::RenameColumn { from: column("a`b", "Int8"), to: "c\\d".into() },
            "ALTER TABLE `landing`.`orders` RENAME COLUMN `a\\`b` TO `c\\\\d`",
        ),
    ] {
        assert_eq!(one(change), want);
    }
    assert!(D.render(&table(), &SchemaChange::DropNotNull { column: column("c", "Array(Int8)") }).is_err());
    assert!(
        D.render(
            &Relation { database: Some("x".into()), ..table() },
            &SchemaChange::DropColumn { column: column("c", "Int8") }
        )
        .is_err()
    );
    let policy = EvolutionPolicy::default();
    let schema = |dtype: &str| Schema::new(vec![column("c", dtype)]);
    let plan = plan_schema(&table(), &schema("Nullable(Int64)"), &schema("Int32"), &plain(), &D, &policy).unwrap();
    assert_eq!(
        plan.ddl(),
        [
            "ALTER TABLE `landing`.`orders` MODIFY COLUMN `c` Nullable(Int32)",
            "ALTER TABLE `landing`.`orders` MODIFY COLUMN `c` Nullable(Int64)"
        ]
    );
}

#[test]
fn statements_are_of_the_grammar() {
    let mut statements = Vec::new();
    for case in cases() {
        statements.extend(D.render(&table(), &case.change).unwrap_or_default());
    }
    for name in sql::HOSTILE {
        let c = |dtype: &str| column(name, dtype);
        let on = Relation::new(*name, *name);
        let schema = Schema::new(vec![c("Int64"), with(column("x", "Nullable(String)"), &[(DEFAULT, "'it''s'")])]);
        for change in [
            SchemaChange::CreateTable {
                schema: Arc::new(schema),
                primary_key: vec![(*name).to_owned()],
                partition_by: vec!["x".into()],
            },
            SchemaChange::AddColumn { column: with(c("String"), &[(DEFAULT, "'it''s \\'")]) },
            SchemaChange::AlterType { from: c("Int8"), to: c("LowCardinality(Nullable(String))") },
            SchemaChange::RenameColumn { from: c("Int8"), to: format!("{name}2") },
            SchemaChange::DropColumn { column: c("Int8") },
        ] {
            statements.extend(D.render(&on, &change).unwrap());
        }
    }
    // Neither grammar has the setting behind it; sqlfluff wants the type of a column with its default.
    let known = |sql: &String| !sql.contains(" MODIFY COLUMN `c` DEFAULT ");
    let statements: Vec<String> =
        statements.into_iter().filter(known).map(|sql| sql.replace(" SETTINGS mutations_sync = 2", "")).collect();
    sql::assert_parses("clickhouse", &statements);
}

/// Reads an identifier in backticks as the server does; what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1);
    text.starts_with('`').then_some(())?;
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next()?.1 {
                'x' => {
                    let (digits, _) = (chars.next()?, chars.next()?);
                    name.push(char::from(u8::from_str_radix(text.get(digits.0..digits.0 + 2)?, 16).ok()?));
                }
                c => name.push(c),
            },
            '`' => return Some((name, &text[at + 1..])),
            c => name.push(c),
        }
    }
    None
}

proptest! {
    #[test]
    fn any_name_is_only_a_name(name in "\\PC{0,140}|[\\[\\]'\";`\\\\\\n\\x00a]{0,12}") {
        let quoted = D.quote(&name);
        prop_assert_eq!(unquoted(&quoted), Some((name.clone(), "")));
        let change = SchemaChange::AddColumn { column: column(&name, "Int8") };
        match D.render(&table(), &change) {
            Ok(statements) => {
                let rest = statements[0].strip_prefix("ALTER TABLE `landing`.`orders` ADD COLUMN ").unwrap();
                prop_assert_eq!(unquoted(rest), Some((name.clone(), " Int8")));
            }
            Err(_) => prop_assert!(name.is_empty() || name.contains('\0')),
        }
    }

    #[test]
    fn a_type_that_is_read_reads_back(text in "\\PC{0,40}|(Int64|Enum8|Tuple|Decimal|Array)[ ();,0-9a-z'`\\-=]{0,24}") {
        if let Ok(field) = D.parse_type("c", &text) {
            let canonical = D.native_type(&field).unwrap();
            let again = D.parse_type("c", &canonical).unwrap().with_nullable(field.is_nullable());
            prop_assert_eq!(D.native_type(&again).unwrap(), canonical);
        }
    }
}
