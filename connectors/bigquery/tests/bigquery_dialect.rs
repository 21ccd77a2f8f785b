//! BigQuery: types, shapes, costs and statements, pair by pair.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use dpone_bigquery::BigQueryDialect;
use dpone_planner::Relation;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{
    COLLATION, COMMENT, DEFAULT, Dependent, DependentKind, Fit, Risk, SchemaChange, TableFacts, Work, fit,
};
use dpone_planner::types::{EXTENSION_UUID, utc, with_extension, with_native};
use proptest::prelude::*;

#[path = "../../../tests/support/sql.rs"]
mod sql;

const D: BigQueryDialect = BigQueryDialect;

fn table() -> Relation {
    Relation::new("landing", "orders")
}

fn column(name: &str, dtype: &str) -> FieldRef {
    Arc::new(D.parse_type(name, dtype).unwrap())
}

fn with(field: FieldRef, pairs: &[(&str, &str)]) -> FieldRef {
    let mut metadata = field.metadata().clone();
    metadata.extend(pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
    Arc::new(field.as_ref().clone().with_metadata(metadata))
}

fn required(field: FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_nullable(false))
}

#[test]
fn types_are_read_in_all_their_spellings() {
    for (written, canonical) in [
        ("INT64", "INT64"),
        ("int", "INT64"),
        ("BYTEINT", "INT64"),
        ("FLOAT64", "FLOAT64"),
        ("BOOLEAN", "BOOL"),
        ("NUMERIC", "NUMERIC"),
        ("numeric(18,2)", "NUMERIC(18, 2)"),
        ("DECIMAL(10)", "NUMERIC(10)"),
        ("BIGNUMERIC", "BIGNUMERIC"),
        ("BIGDECIMAL(40, 10)", "BIGNUMERIC(40, 10)"),
        ("STRING(20)", "STRING(20)"),
        ("BYTES(4)", "BYTES(4)"),
        ("TIMESTAMP", "TIMESTAMP"),
        ("DATETIME", "DATETIME"),
        ("JSON", "JSON"),
        ("GEOGRAPHY", "GEOGRAPHY"),
        ("ARRAY<INT64>", "ARRAY<INT64>"),
        ("STRUCT<a INT64, b STRING(5)>", "STRUCT<`a` INT64, `b` STRING(5)>"),
        ("ARRAY<STRUCT<a NUMERIC(10, 2)>>", "ARRAY<STRUCT<`a` NUMERIC(10, 2)>>"),
        ("RANGE<DATE>", "RANGE<DATE>"),
        // Logical names.
        ("text", "STRING"),
        ("varchar(50)", "STRING(50)"),
        ("uuid", "STRING"),
        ("timestamptz", "TIMESTAMP"),
        ("double precision", "FLOAT64"),
        ("decimal(38,10)", "BIGNUMERIC(38, 10)"),
        ("bytea", "BYTES"),
        ("integer[]", "ARRAY<INT64>"),
        ("timestamp without time zone", "DATETIME"),
    ] {
        assert_eq!(D.native_type(&column("c", written)).unwrap(), canonical, "{written}");
        assert_eq!(D.native_type(&column("c", canonical)).unwrap(), canonical, "{written} again");
    }
    for wrong in [
        "NUMERIC(39, 9)",
        "NUMERIC(10, 11)",
        "STRING(0)",
        "ARRAY<ARRAY<INT64>>",
        "STRUCT<>",
        "INT64; DROP TABLE t",
        "INT64 NOT NULL",
        "",
        "RANGE<INT64>",
    ] {
        assert!(D.parse_type("c", wrong).is_err(), "{wrong}");
    }
    assert!(D.native_type(&with_native(Field::new("c", DataType::Utf8, true), "bigquery", "INT64, x INT64")).is_err());
}

#[test]
fn a_new_column_holds_every_value() {
    use DataType as T;
    let of = |data_type: T| D.native_type(&Field::new("c", data_type, true));
    for (data_type, want) in [
        (T::Int8, "INT64"),
        (T::UInt64, "NUMERIC(20)"),
        (T::Decimal128(18, 2), "NUMERIC(18, 2)"),
        (T::Decimal128(38, 9), "NUMERIC(38, 9)"),
        (T::Decimal128(38, 10), "BIGNUMERIC(38, 10)"),
        (T::Decimal128(38, 0), "BIGNUMERIC(38)"),
        (T::Decimal256(76, 38), "BIGNUMERIC(76, 38)"),
        (T::FixedSizeBinary(4), "BYTES(4)"),
        (T::Timestamp(TimeUnit::Second, None), "DATETIME"),
        (T::Timestamp(TimeUnit::Second, Some(utc())), "TIMESTAMP"),
    ] {
        assert_eq!(of(data_type).unwrap(), want);
    }
    let uuid = with_extension(Field::new("c", T::FixedSizeBinary(16), true), EXTENSION_UUID);
    assert_eq!(D.native_type(&uuid).unwrap(), "STRING");
    let list = |item: T| T::List(Arc::new(Field::new("item", item, true)));
    for data_type in [T::Decimal256(76, 39), list(list(T::Int32)), T::Duration(TimeUnit::Second)] {
        assert!(of(data_type).unwrap_err().hint().is_some());
    }
}

#[test]
fn which_type_holds_the_values_of_both() {
    for (source, target, want) in [
        ("INT64", "NUMERIC", "="),
        ("NUMERIC(10, 2)", "NUMERIC(12, 2)", "="),
        ("NUMERIC(12, 2)", "NUMERIC(10, 2)", "NUMERIC(12, 2)"),
        ("INT64", "NUMERIC(10, 2)", "NUMERIC(21, 2)"),
        ("NUMERIC", "BIGNUMERIC", "="),
        ("BIGNUMERIC", "NUMERIC", "BIGNUMERIC"),
        ("STRING(50)", "STRING(20)", "STRING(50)"),
        ("STRING", "STRING(20)", "STRING"),
        ("STRING(20)", "STRING", "="),
        ("DATE", "DATETIME", "="),
        ("DATETIME", "TIMESTAMP", "none"),
        ("INT64", "FLOAT64", "none"),
        ("INT64", "STRING", "none"),
        ("smallint", "INT64", "="),
        ("real", "FLOAT64", "="),
        ("ARRAY<INT64>", "ARRAY<NUMERIC>", "="),
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

fn facts(kind: Option<DependentKind>) -> TableFacts {
    let dependent = |kind| Dependent { kind, name: "x".into(), columns: vec!["c".into()], definition: String::new() };
    TableFacts { observed: true, dependents: kind.into_iter().map(dependent).collect(), ..TableFacts::default() }
}

fn alter(from: &str, to: &str) -> SchemaChange {
    SchemaChange::AlterType { from: column("c", from), to: column("c", to) }
}

#[test]
fn what_each_change_costs() {
    use DependentKind::{PartitionKey, SortingKey};
    use Risk::{MetadataOnly as M, Unsupported as U};
    let c = || column("c", "INT64");
    for (what, by, change, risk) in [
        ("nullable column", None, SchemaChange::AddColumn { column: c() }, M),
        ("with a default", None, SchemaChange::AddColumn { column: with(c(), &[(DEFAULT, "0")]) }, M),
        ("REQUIRED", None, SchemaChange::AddColumn { column: required(c()) }, U),
        (
            "REQUIRED with a default",
            None,
            SchemaChange::AddColumn { column: required(with(c(), &[(DEFAULT, "0")])) },
            U,
        ),
        ("REPEATED", None, SchemaChange::AddColumn { column: required(column("c", "ARRAY<INT64>")) }, M),
        ("REQUIRED to NULLABLE", None, SchemaChange::DropNotNull { column: c() }, M),
        ("NULLABLE to REQUIRED", None, SchemaChange::SetNotNull { column: c() }, U),
        ("longer", None, alter("STRING(20)", "STRING(50)"), M),
        ("without length", None, alter("STRING(20)", "STRING"), M),
        ("shorter", None, alter("STRING(50)", "STRING(20)"), U),
        ("more digits", None, alter("NUMERIC(7, 2)", "NUMERIC(8, 2)"), M),
        ("fewer digits", None, alter("NUMERIC(8, 2)", "NUMERIC(7, 2)"), U),
        ("INT64 to NUMERIC", None, alter("INT64", "NUMERIC"), M),
        ("INT64 to BIGNUMERIC", None, alter("INT64", "BIGNUMERIC"), M),
        ("INT64 to few digits", None, alter("INT64", "NUMERIC(5, 2)"), U),
        ("INT64 to FLOAT64", None, alter("INT64", "FLOAT64"), M),
        ("NUMERIC to BIGNUMERIC", None, alter("NUMERIC", "BIGNUMERIC"), M),
        ("BIGNUMERIC to NUMERIC", None, alter("BIGNUMERIC", "NUMERIC"), U),
        ("FLOAT64 to NUMERIC", None, alter("FLOAT64", "NUMERIC"), U),
        ("DATE to DATETIME", None, alter("DATE", "DATETIME"), U),
        ("INT64 to STRING", None, alter("INT64", "STRING"), U),
        ("a field is added", None, alter("STRUCT<a INT64>", "STRUCT<a INT64, b STRING>"), M),
        ("a field is removed", None, alter("STRUCT<a INT64, b STRING>", "STRUCT<a INT64>"), U),
        ("the partitioning column's type", Some(PartitionKey), alter("INT64", "NUMERIC"), U),
        ("default", None, SchemaChange::SetDefault { column: c(), default: "0".into() }, M),
        ("no default", None, SchemaChange::DropDefault { column: c() }, M),
        ("description", None, SchemaChange::SetComment { column: c(), comment: None }, M),
        (
            "collation",
            None,
            SchemaChange::SetCollation { column: column("c", "STRING"), collation: "und:ci".into() },
            U,
        ),
        ("rename", None, SchemaChange::RenameColumn { from: c(), to: "d".into() }, M),
        ("rename a clustering column", Some(SortingKey), SchemaChange::RenameColumn { from: c(), to: "d".into() }, U),
        ("drop", None, SchemaChange::DropColumn { column: c() }, M),
        ("drop the partitioning column", Some(PartitionKey), SchemaChange::DropColumn { column: c() }, U),
    ] {
        let cost = D.cost(&table(), &facts(by), &change);
        assert_eq!((cost.risk, cost.work, &cost.lock), (risk, Work::None, &None), "{what}: {cost:?}");
        assert!(cost.risk == M || !cost.online_path.is_empty(), "{what}: {cost:?}");
        assert!(
            risk == M
                || matches!(
                    change,
                    SchemaChange::DropColumn { .. }
                        | SchemaChange::RenameColumn { .. }
                        | SchemaChange::AddColumn { .. }
                )
                || D.render(&table(), &change).is_err()
                || by_key(&cost),
            "{what} is written nevertheless"
        );
    }
    let cost =
        D.cost(&table(), &TableFacts::default(), &SchemaChange::AddColumn { column: with(c(), &[(DEFAULT, "0")]) });
    assert!(cost.online_path[0].contains("UPDATE `landing`.`orders` SET `c` = DEFAULT WHERE `c` IS NULL"), "{cost:?}");
    assert!(!D.cost(&table(), &TableFacts::default(), &alter("STRING(2)", "STRING")).assumptions.is_empty());
}

/// What only a catalog knows, a statement cannot.
fn by_key(cost: &dpone_planner::schema::Cost) -> bool {
    cost.reason.contains("of the table")
}

fn changes(name: &str) -> Vec<SchemaChange> {
    let c = |dtype: &str| column(name, dtype);
    let noted = with(c("STRING(20)"), &[(DEFAULT, "'it''s \\'"), (COMMENT, "it's `x`\n"), (COLLATION, "und:ci")]);
    let schema =
        Schema::new(vec![required(c("DATE")), with(column("x", "STRING"), &[(DEFAULT, "'a'"), (COMMENT, "b")])]);
    let mut all = vec![
        SchemaChange::CreateTable {
            schema: Arc::new(schema),
            primary_key: vec![name.to_owned()],
            partition_by: vec![name.to_owned()],
        },
        SchemaChange::AddColumn { column: noted },
        SchemaChange::AddColumn { column: with(c("TIMESTAMP"), &[(DEFAULT, "now()")]) },
        alter("STRING(20)", "STRING"),
        SchemaChange::DropNotNull { column: c("INT64") },
        SchemaChange::SetDefault { column: c("BOOL"), default: "true".into() },
        SchemaChange::DropDefault { column: c("BOOL") },
        SchemaChange::SetComment { column: c("INT64"), comment: Some("it's".into()) },
        SchemaChange::SetComment { column: c("INT64"), comment: None },
        SchemaChange::RenameColumn { from: c("INT64"), to: "plain".into() },
        SchemaChange::DropColumn { column: c("INT64") },
    ];
    for dtype in [
        "NUMERIC(10, 2)",
        "BIGNUMERIC",
        "BYTES(4)",
        "DATETIME",
        "TIME",
        "JSON",
        "GEOGRAPHY",
        "INTERVAL",
        "ARRAY<STRUCT<a INT64, b ARRAY<STRING>>>",
        "RANGE<DATE>",
    ] {
        all.push(SchemaChange::AddColumn { column: c(dtype) });
    }
    all
}

#[test]
fn statements_are_of_the_grammar() {
    let on = Relation { database: Some("my-project".into()), ..table() };
    let mut statements: Vec<String> = changes("c").iter().flat_map(|change| D.render(&on, change).unwrap()).collect();
    for name in ["select", "a b", "a'b", "名前", "dröp", "a-b"] {
        statements.extend(changes(name).iter().flat_map(|change| D.render(&table(), change).unwrap()));
    }
    sql::assert_parses("bigquery", &statements);
    // What BigQuery cannot hold is refused, however it is quoted.
    for name in sql::HOSTILE
        .iter()
        .filter(|name| name.contains(['"', ']', '`', '\\', ';', '/', '\n', '[', '.', '{', '$', '😀']))
    {
        let error = D.render(&table(), &SchemaChange::AddColumn { column: column(name, "INT64") }).unwrap_err();
        assert!(error.message().contains("cannot hold the column name"), "{error}");
    }
    for name in ["_PARTITIONTIME", "_table_x", ""] {
        assert!(D.render(&table(), &SchemaChange::AddColumn { column: column(name, "INT64") }).is_err(), "{name}");
    }
    let add = SchemaChange::AddColumn { column: column("c", "INT64") };
    for on in
        [Relation::new("a-b", "t"), Relation::new("s", "a.b"), Relation { database: Some("p`".into()), ..table() }]
    {
        assert!(D.render(&on, &add).is_err(), "{on}");
    }
}

#[test]
fn defaults_take_two_statements() {
    let change = SchemaChange::AddColumn { column: with(column("c", "DATETIME"), &[(DEFAULT, "now()")]) };
    assert_eq!(
        D.render(&table(), &change).unwrap(),
        [
            "ALTER TABLE `landing`.`orders` ADD COLUMN `c` DATETIME",
            "ALTER TABLE `landing`.`orders` ALTER COLUMN `c` SET DEFAULT CURRENT_DATETIME()",
        ]
    );
}

proptest! {
    #[test]
    fn any_name_is_only_a_name(name in "\\PC{0,40}|[\\[\\]'\";`\\\\\\n\\x00a]{0,12}") {
        let change = SchemaChange::AddColumn { column: column(&name, "INT64") };
        if let Ok(statements) = D.render(&table(), &change) {
            prop_assert_eq!(&statements[0], &format!("ALTER TABLE `landing`.`orders` ADD COLUMN `{name}` INT64"));
            prop_assert!(!name.contains(['`', '\\', '\n', '\0', ';', '"']));
        }
    }
}
