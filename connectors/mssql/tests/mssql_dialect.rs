//! SQL Server: types, shapes, costs and statements, pair by pair.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use dpone_mssql::MssqlDialect;
use dpone_planner::Relation;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{
    COLLATION, COMMENT, DEFAULT, Dependent, DependentKind, EvolutionPolicy, Fit, LockBudget, Risk, SchemaChange,
    TableFacts, Work, fit, plan_schema,
};
use dpone_planner::types::{EXTENSION_JSON, EXTENSION_UUID, utc, with_extension, with_native};
use proptest::prelude::*;

#[path = "../../../tests/support/sql.rs"]
mod sql;

const D: MssqlDialect = MssqlDialect;

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

fn native(name: &str) -> String {
    D.native_type(&column("c", name)).unwrap()
}

#[test]
fn types_are_read_in_all_their_spellings() {
    for (written, canonical) in [
        ("bit", "bit"),
        ("TINYINT", "tinyint"),
        ("smallint", "smallint"),
        ("int", "int"),
        ("integer", "int"),
        ("bigint", "bigint"),
        ("numeric(18,2)", "decimal(18,2)"),
        ("decimal", "decimal(18,0)"),
        ("dec(5)", "decimal(5,0)"),
        ("money", "money"),
        ("smallmoney", "smallmoney"),
        ("real", "real"),
        ("float", "float"),
        ("float(24)", "real"),
        ("float(53)", "float"),
        ("double precision", "float"),
        ("nvarchar(50)", "nvarchar(50)"),
        ("nvarchar(max)", "nvarchar(max)"),
        ("nvarchar( MAX )", "nvarchar(max)"),
        ("nvarchar(-1)", "nvarchar(max)"),
        ("varchar(8000)", "varchar(8000)"),
        ("char(5)", "char(5)"),
        ("char", "char(1)"),
        ("nchar(3)", "nchar(3)"),
        ("character varying(9)", "varchar(9)"),
        ("national character varying(9)", "nvarchar(9)"),
        ("varbinary(16)", "varbinary(16)"),
        ("varbinary(max)", "varbinary(max)"),
        ("binary(16)", "binary(16)"),
        ("date", "date"),
        ("time", "time(7)"),
        ("time(3)", "time(3)"),
        ("datetime2(3)", "datetime2(3)"),
        ("datetime2", "datetime2(7)"),
        ("datetime", "datetime"),
        ("smalldatetime", "smalldatetime"),
        ("datetimeoffset", "datetimeoffset(7)"),
        ("datetimeoffset(0)", "datetimeoffset(0)"),
        ("uniqueidentifier", "uniqueidentifier"),
        ("rowversion", "rowversion"),
        ("xml", "xml"),
        ("sql_variant", "sql_variant"),
        ("geography", "geography"),
        ("hierarchyid", "hierarchyid"),
        ("image", "image"),
        ("ntext", "ntext"),
        ("sysname", "nvarchar(128)"),
        ("json", "json"),
        // Logical names.
        ("boolean", "bit"),
        ("text", "nvarchar(max)"),
        ("string", "nvarchar(max)"),
        ("varchar", "varchar(max)"),
        ("bytes", "varbinary(max)"),
        ("double", "float"),
        ("timestamp", "datetime2(6)"),
        ("timestamptz", "datetimeoffset(6)"),
        ("timestamp(9)", "datetime2(7)"),
        ("uuid", "uniqueidentifier"),
        ("jsonb", "nvarchar(max)"),
        ("int8", "smallint"),
    ] {
        assert_eq!(native(written), canonical, "{written}");
        assert_eq!(native(canonical), canonical, "{written} again");
    }
    for wrong in [
        "nvarchar(4001)",
        "varchar(0)",
        "decimal(39,0)",
        "decimal(5,6)",
        "datetime2(8)",
        "int(4)",
        "int; drop table t",
        "int NULL",
        "nvarchar(50) collate x",
        "",
        "float(54)",
        "integer[]",
        "char(max)",
    ] {
        let error = D.parse_type("c", wrong).unwrap_err();
        assert!(error.message().contains("\"c\""), "{wrong}: {error}");
    }
}

#[test]
fn a_new_column_holds_every_value() {
    use DataType as T;
    let of = |data_type: T| D.native_type(&Field::new("c", data_type, true));
    for (data_type, want) in [
        (T::Int8, "smallint"),
        (T::UInt8, "tinyint"),
        (T::UInt16, "int"),
        (T::UInt32, "bigint"),
        (T::UInt64, "decimal(20,0)"),
        (T::Float16, "real"),
        (T::Decimal128(18, 2), "decimal(18,2)"),
        (T::Decimal128(5, -2), "decimal(7,0)"),
        (T::Decimal128(5, 8), "decimal(8,8)"),
        (T::Utf8, "nvarchar(max)"),
        (T::FixedSizeBinary(16), "binary(16)"),
        (T::Binary, "varbinary(max)"),
        (T::Timestamp(TimeUnit::Second, None), "datetime2(0)"),
        (T::Timestamp(TimeUnit::Nanosecond, Some(utc())), "datetimeoffset(7)"),
        (T::Time64(TimeUnit::Microsecond), "time(6)"),
        (T::Dictionary(Box::new(T::Int32), Box::new(T::Utf8)), "nvarchar(max)"),
    ] {
        assert_eq!(of(data_type).unwrap(), want);
    }
    let uuid = with_extension(Field::new("c", T::FixedSizeBinary(16), true), EXTENSION_UUID);
    assert_eq!(D.native_type(&uuid).unwrap(), "uniqueidentifier");
    assert_eq!(
        D.native_type(&with_extension(Field::new("c", T::Utf8, true), EXTENSION_JSON)).unwrap(),
        "nvarchar(max)"
    );
    for data_type in [
        T::Decimal256(39, 0),
        T::Duration(TimeUnit::Second),
        T::List(Arc::new(Field::new("item", T::Int32, true))),
        T::Struct(vec![Field::new("a", T::Int32, true)].into()),
    ] {
        let error = of(data_type).unwrap_err();
        assert!(error.message().contains("\"c\"") && error.hint().is_some(), "{error}");
    }
    // What a file says in its metadata is a type, or nothing.
    assert!(D.native_type(&with_native(Field::new("c", T::Utf8, true), "mssql", "int); DROP TABLE t; --")).is_err());
}

#[test]
fn which_type_holds_the_values_of_both() {
    // Source, target, and the type that the target gets: itself, another one, or none.
    for (source, target, want) in [
        ("int", "bigint", "="),
        ("bigint", "int", "bigint"),
        ("tinyint", "smallint", "="),
        ("smallint", "tinyint", "smallint"),
        ("int", "decimal(18,2)", "="),
        ("bigint", "decimal(18,2)", "decimal(21,2)"),
        ("decimal(12,4)", "decimal(10,2)", "decimal(12,4)"),
        ("decimal(10,2)", "decimal(12,4)", "="),
        ("decimal(38,0)", "decimal(38,38)", "none"),
        ("int", "nvarchar(50)", "none"),
        ("varchar(50)", "varchar(20)", "varchar(50)"),
        ("varchar(20)", "nvarchar(20)", "="),
        ("nvarchar(20)", "varchar(20)", "nvarchar(20)"),
        ("nvarchar(20)", "varchar(50)", "nvarchar(50)"),
        ("nvarchar(max)", "nvarchar(50)", "nvarchar(max)"),
        ("varchar(5000)", "nvarchar(50)", "nvarchar(max)"),
        ("char(5)", "varchar(5)", "="),
        ("nchar(5)", "char(9)", "nchar(9)"),
        ("varbinary(8)", "varbinary(4)", "varbinary(8)"),
        ("binary(4)", "binary(8)", "varbinary(8)"),
        ("smalldatetime", "datetime", "="),
        ("datetime", "smalldatetime", "datetime"),
        ("datetime", "datetime2(3)", "="),
        ("datetime", "datetime2(0)", "datetime2(3)"),
        ("datetime2(7)", "datetime2(3)", "datetime2(7)"),
        ("date", "datetime2(3)", "="),
        ("datetime2(3)", "datetimeoffset(3)", "none"),
        ("time(3)", "time(7)", "="),
        ("smallmoney", "money", "="),
        ("money", "smallmoney", "money"),
        ("money", "decimal(19,4)", "="),
        ("decimal(19,4)", "money", "decimal(19,4)"),
        ("real", "float", "="),
        ("float", "real", "float"),
        ("int", "real", "float"),
        ("bigint", "float", "none"),
        ("bit", "int", "none"),
        ("uniqueidentifier", "nvarchar(36)", "none"),
        ("xml", "xml", "="),
    ] {
        let (from, held) = (D.shape(&column("c", source)), D.shape(&column("c", target)));
        let got = match fit(&from, &held) {
            Fit::Same | Fit::Narrower => "=".to_owned(),
            Fit::Incompatible => "none".to_owned(),
            Fit::Wider(join) => {
                D.field_of("c", &join).map_or("none".to_owned(), |field| D.native_type(&field).unwrap())
            }
        };
        assert_eq!(got, want, "{source} into {target}");
    }
}

fn facts(settings: &[(&str, &str)], dependents: Vec<Dependent>) -> TableFacts {
    TableFacts {
        observed: true,
        version: Some(2019),
        settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        rows: Some(1000),
        dependents,
        ..TableFacts::default()
    }
}

fn on_c(kind: DependentKind) -> Dependent {
    Dependent { kind, name: "x".into(), columns: vec!["c".into()], definition: String::new() }
}

fn index() -> DependentKind {
    DependentKind::Index { unique: false, primary: false, plain: true, valid: true }
}

fn alter(from: &str, to: &str) -> SchemaChange {
    SchemaChange::AlterType { from: column("c", from), to: column("c", to) }
}

#[test]
fn what_each_change_costs() {
    use Risk::{Blocking as B, MetadataOnly as M, Unsupported as U};
    let primary = || DependentKind::Index { unique: true, primary: true, plain: true, valid: true };
    let check = || DependentKind::Check { validated: true, not_null: None };
    let add = |dtype: &str, nullable: bool, default: &str| SchemaChange::AddColumn {
        column: with(Arc::new(column("c", dtype).as_ref().clone().with_nullable(nullable)), &[(DEFAULT, default)]),
    };
    let c = || column("c", "int");
    let plain = || facts(&[], vec![]);
    let enterprise = || facts(&[("edition", "Enterprise Edition")], vec![]);
    let standard = || facts(&[("edition", "Standard")], vec![]);
    let by = |kind: DependentKind| facts(&[], vec![on_c(kind)]);
    let bound =
        || facts(&[], vec![Dependent { definition: "… WITH SCHEMABINDING …".into(), ..on_c(DependentKind::View) }]);
    let compressed = |c: &str| facts(&[("data_compression", c)], vec![]);
    let cases = [
        ("nullable column", plain(), add("int", true, ""), M, Work::None),
        ("NOT NULL, no default", plain(), add("int", false, ""), U, Work::None),
        ("NOT NULL, no default, empty", TableFacts { rows: Some(0), ..plain() }, add("int", false, ""), M, Work::None),
        ("constant default on Enterprise", enterprise(), add("int", false, "0"), M, Work::None),
        ("constant default on Standard", standard(), add("int", false, "0"), B, Work::Rewrite),
        ("constant default, edition unknown", plain(), add("int", false, "0"), B, Work::Rewrite),
        ("constant default WITH VALUES", enterprise(), add("int", true, "0"), B, Work::Rewrite),
        ("default of a large type", enterprise(), add("nvarchar(max)", false, "'x'"), B, Work::Rewrite),
        ("now() is asked once", enterprise(), add("datetime2(3)", false, "now()"), M, Work::None),
        ("volatile default", enterprise(), add("uniqueidentifier", false, "newid()"), B, Work::Rewrite),
        ("rowversion", enterprise(), add("rowversion", true, ""), B, Work::Rewrite),
        ("NOT NULL to NULL", plain(), SchemaChange::DropNotNull { column: c() }, M, Work::None),
        ("NOT NULL to NULL, indexed", by(index()), SchemaChange::DropNotNull { column: c() }, M, Work::None),
        ("NOT NULL to NULL, primary key", by(primary()), SchemaChange::DropNotNull { column: c() }, U, Work::None),
        ("NULL to NOT NULL", plain(), SchemaChange::SetNotNull { column: c() }, B, Work::Scan),
        ("NULL to NOT NULL, indexed", by(index()), SchemaChange::SetNotNull { column: c() }, U, Work::None),
        ("varchar up", plain(), alter("varchar(20)", "varchar(50)"), M, Work::None),
        ("nvarchar up", plain(), alter("nvarchar(20)", "nvarchar(50)"), M, Work::None),
        ("varbinary up", plain(), alter("varbinary(20)", "varbinary(50)"), M, Work::None),
        ("varchar up, indexed", by(index()), alter("varchar(20)", "varchar(50)"), M, Work::None),
        ("varchar up, CHECK", by(check()), alter("varchar(20)", "varchar(50)"), M, Work::None),
        ("varchar up, primary key", by(primary()), alter("varchar(20)", "varchar(50)"), U, Work::None),
        ("varchar up, schema-bound view", bound(), alter("varchar(20)", "varchar(50)"), U, Work::None),
        ("varchar up, plain view", by(DependentKind::View), alter("varchar(20)", "varchar(50)"), M, Work::None),
        (
            "varchar up, computed column",
            by(DependentKind::GeneratedColumn),
            alter("varchar(20)", "varchar(50)"),
            U,
            Work::None,
        ),
        ("varchar to max", plain(), alter("varchar(20)", "varchar(max)"), B, Work::Rewrite),
        ("varchar to nvarchar", plain(), alter("varchar(20)", "nvarchar(20)"), B, Work::Rewrite),
        ("char up", plain(), alter("char(5)", "char(9)"), B, Work::Rewrite),
        ("varchar down", plain(), alter("varchar(50)", "varchar(20)"), B, Work::Scan),
        ("int to bigint", plain(), alter("int", "bigint"), B, Work::Rewrite),
        ("int to bigint, rows compressed", compressed("ROW"), alter("int", "bigint"), M, Work::None),
        ("int to bigint, pages compressed", compressed("page"), alter("tinyint", "int"), M, Work::None),
        (
            "int to bigint, compressed in 2014",
            TableFacts { version: Some(2014), ..compressed("page") },
            alter("int", "bigint"),
            B,
            Work::Rewrite,
        ),
        ("int to bigint, not compressed", compressed("none"), alter("int", "bigint"), B, Work::Rewrite),
        ("bigint to int, compressed", compressed("page"), alter("bigint", "int"), B, Work::Rewrite),
        ("int to bigint, indexed", by(index()), alter("int", "bigint"), U, Work::None),
        ("int to bigint, primary key", by(primary()), alter("int", "bigint"), U, Work::None),
        ("real to float", plain(), alter("real", "float"), B, Work::Rewrite),
        ("decimal up", plain(), alter("decimal(10,2)", "decimal(12,2)"), B, Work::Rewrite),
        ("datetime to datetime2", plain(), alter("datetime", "datetime2(3)"), B, Work::Rewrite),
        ("rowversion to binary", plain(), alter("rowversion", "binary(8)"), U, Work::None),
        ("xml to text", plain(), alter("xml", "nvarchar(max)"), U, Work::None),
        ("set default", plain(), SchemaChange::SetDefault { column: c(), default: "0".into() }, M, Work::None),
        ("drop default", plain(), SchemaChange::DropDefault { column: c() }, M, Work::None),
        ("comment", plain(), SchemaChange::SetComment { column: c(), comment: None }, M, Work::None),
        (
            "collation",
            plain(),
            SchemaChange::SetCollation { column: column("c", "varchar(5)"), collation: "x".into() },
            B,
            Work::Rewrite,
        ),
        (
            "collation, indexed",
            by(index()),
            SchemaChange::SetCollation { column: column("c", "varchar(5)"), collation: "x".into() },
            U,
            Work::None,
        ),
        ("rename", plain(), SchemaChange::RenameColumn { from: c(), to: "d".into() }, M, Work::None),
        ("rename, CHECK", by(check()), SchemaChange::RenameColumn { from: c(), to: "d".into() }, U, Work::None),
        ("drop", plain(), SchemaChange::DropColumn { column: c() }, M, Work::None),
        ("drop, indexed", by(index()), SchemaChange::DropColumn { column: c() }, U, Work::None),
        (
            "memory optimized",
            TableFacts { kind: Some("memory_optimized".into()), ..plain() },
            alter("varchar(5)", "varchar(9)"),
            B,
            Work::Rewrite,
        ),
    ];
    for (what, facts, change, risk, work) in cases {
        let cost = D.cost(&table(), &facts, &change);
        assert_eq!((cost.risk, cost.work), (risk, work), "{what}: {cost:?}");
        assert_eq!(cost.risk == U || cost.reason.contains("comment"), cost.lock.is_none(), "{what}");
        assert!(!cost.reason.is_empty() && (cost.risk == M || !cost.online_path.is_empty()), "{what}: {cost:?}");
    }
    // A default holds the type, not the length.
    let held = |from: &str, to: &str| {
        let from = with(column("c", from), &[(DEFAULT, "0")]);
        D.cost(&table(), &plain(), &SchemaChange::AlterType { from, to: column("c", to) }).risk
    };
    assert_eq!((held("int", "bigint"), held("varchar(5)", "varchar(9)")), (U, M));
}

#[test]
fn what_nobody_read_is_said() {
    let said = |change: SchemaChange| D.cost(&table(), &TableFacts::default(), &change).assumptions.join("; ");
    assert!(said(alter("int", "bigint")).contains("not compressed"));
    assert!(said(alter("varchar(5)", "varchar(9)")).contains("collation"));
    let add = SchemaChange::AddColumn { column: required(with(column("c", "int"), &[(DEFAULT, "0")])) };
    assert!(said(add).contains("edition"));
    let collated = with(column("c", "varchar(5)"), &[(COLLATION, "Latin1_General_BIN2")]);
    let change = SchemaChange::AlterType { from: collated, to: column("c", "varchar(9)") };
    assert!(!D.cost(&table(), &facts(&[], vec![]), &change).assumptions.iter().any(|a| a.contains("collation")));
    // ONLINE is offered where it works.
    let offers = |facts: TableFacts| {
        D.cost(&table(), &facts, &alter("int", "bigint")).online_path.join(" ").contains("ONLINE = ON")
    };
    assert!(offers(TableFacts::default()) && offers(facts(&[("edition", "enterprise")], vec![])));
    assert!(!offers(facts(&[("edition", "standard")], vec![])) && !offers(facts(&[("change_tracking", "on")], vec![])));
    assert!(!offers(TableFacts { kind: Some("temporal".into()), ..facts(&[], vec![]) }));
}

fn render(change: &SchemaChange) -> Vec<String> {
    D.render(&table(), change).unwrap()
}

#[test]
fn statements_say_everything_that_is_not_to_be_forgotten() {
    let one = |change: SchemaChange| render(&change).join(" ;; ");
    let text = || with(column("c", "nvarchar(20)"), &[(COLLATION, "Latin1_General_BIN2")]);
    for (change, want) in [
        (
            SchemaChange::AddColumn { column: column("c", "nvarchar(20)") },
            "ALTER TABLE [landing].[orders] ADD [c] nvarchar(20) NULL",
        ),
        (
            SchemaChange::AddColumn { column: with(column("c", "bit"), &[(DEFAULT, "true")]) },
            "ALTER TABLE [landing].[orders] ADD [c] bit NULL DEFAULT 1 WITH VALUES",
        ),
        (
            SchemaChange::AddColumn { column: required(with(column("c", "nvarchar(9)"), &[(DEFAULT, "'it''s'")])) },
            "ALTER TABLE [landing].[orders] ADD [c] nvarchar(9) NOT NULL DEFAULT N'it''s'",
        ),
        (
            SchemaChange::AddColumn { column: with(column("c", "datetimeoffset(3)"), &[(DEFAULT, "now()")]) },
            "ALTER TABLE [landing].[orders] ADD [c] datetimeoffset(3) NULL DEFAULT SYSDATETIMEOFFSET() WITH VALUES",
        ),
        (
            SchemaChange::AlterType { from: text(), to: column("c", "nvarchar(50)") },
            "ALTER TABLE [landing].[orders] ALTER COLUMN [c] nvarchar(50) COLLATE Latin1_General_BIN2 NULL",
        ),
        (
            SchemaChange::AlterType { from: required(column("c", "int")), to: required(column("c", "bigint")) },
            "ALTER TABLE [landing].[orders] ALTER COLUMN [c] bigint NOT NULL",
        ),
        (
            SchemaChange::DropNotNull { column: required(text()) },
            "ALTER TABLE [landing].[orders] ALTER COLUMN [c] nvarchar(20) COLLATE Latin1_General_BIN2 NULL",
        ),
        (
            SchemaChange::SetNotNull { column: text() },
            "ALTER TABLE [landing].[orders] ALTER COLUMN [c] nvarchar(20) COLLATE Latin1_General_BIN2 NOT NULL",
        ),
        (
            SchemaChange::SetCollation { column: text(), collation: "French_CI_AS".into() },
            "ALTER TABLE [landing].[orders] ALTER COLUMN [c] nvarchar(20) COLLATE French_CI_AS NULL",
        ),
        (
            SchemaChange::RenameColumn { from: column("it's", "int"), to: "a]b".into() },
            "EXEC sys.sp_rename N'[landing].[orders].[it''s]', N'a]b', N'COLUMN'",
        ),
    ] {
        assert_eq!(one(change), want);
    }
    let elsewhere = Relation { database: Some("my]db".into()), ..table() };
    let rename = SchemaChange::RenameColumn { from: column("c", "int"), to: "d".into() };
    assert_eq!(
        D.render(&elsewhere, &rename).unwrap(),
        ["EXEC [my]]db].sys.sp_rename N'[landing].[orders].[c]', N'd', N'COLUMN'"]
    );
    let budget = LockBudget { lock_timeout_ms: Some(5000), statement_timeout_ms: Some(60_000) };
    assert_eq!(D.within_budget(vec!["x".into()], &budget), ["SET LOCK_TIMEOUT 5000", "x"]);
    let dropped = render(&SchemaChange::DropColumn { column: column("c", "int") });
    assert!(
        dropped[0].contains("default_constraints") && dropped[1] == "ALTER TABLE [landing].[orders] DROP COLUMN [c]"
    );
}

/// Several changes of one column: each statement states the whole column, so none may take another one back.
#[test]
fn changes_of_one_column_build_on_each_other() {
    let schema = |field: FieldRef| Schema::new(vec![field]);
    let plan = |source: FieldRef, target: FieldRef| {
        let policy = EvolutionPolicy::default();
        plan_schema(&table(), &schema(source), &schema(target), &TableFacts::default(), &D, &policy).unwrap()
    };
    let longer = plan(column("c", "varchar(50)"), required(column("c", "varchar(20)")));
    assert_eq!(
        longer.ddl(),
        [
            "ALTER TABLE [landing].[orders] ALTER COLUMN [c] varchar(20) NULL",
            "ALTER TABLE [landing].[orders] ALTER COLUMN [c] varchar(50) NULL",
        ]
    );
    // A widening that is not made does not come in with the other change.
    let blocked = plan(column("c", "bigint"), required(column("c", "int")));
    assert_eq!(blocked.actions[0].ddl, ["ALTER TABLE [landing].[orders] ALTER COLUMN [c] int NULL"]);
    assert_eq!(blocked.blockers(), ["schema_evolution.blocking:type_widen:c"]);
}

fn all_changes(name: &str) -> Vec<SchemaChange> {
    let c = |dtype: &str| column(name, dtype);
    let noted = |dtype: &str, default: &str| {
        with(c(dtype), &[(DEFAULT, default), (COMMENT, "it's [x]; --"), (COLLATION, "French_CI_AS")])
    };
    let schema =
        Schema::new(vec![required(c("int")), noted("nvarchar(20)", "'a''b'").as_ref().clone().with_name("x").into()]);
    let mut all = vec![
        SchemaChange::CreateTable {
            schema: Arc::new(schema),
            primary_key: vec![name.to_owned()],
            partition_by: vec![],
        },
        SchemaChange::AddColumn { column: required(noted("nvarchar(20)", "'it''s'")) },
        SchemaChange::AddColumn { column: required(noted("datetime2(3)", "now()")) },
        SchemaChange::DropNotNull { column: noted("nvarchar(20)", "") },
        SchemaChange::SetNotNull { column: noted("nvarchar(20)", "") },
        SchemaChange::SetDefault { column: c("int"), default: "-1".into() },
        SchemaChange::DropDefault { column: c("int") },
        SchemaChange::SetComment { column: c("int"), comment: Some("it's".into()) },
        SchemaChange::SetComment { column: c("int"), comment: None },
        SchemaChange::SetCollation { column: c("varchar(9)"), collation: "French_CI_AS".into() },
        SchemaChange::RenameColumn { from: c("int"), to: format!("{name}2") },
        SchemaChange::RenameColumn { from: c("int"), to: "plain".into() },
        SchemaChange::DropColumn { column: c("int") },
    ];
    for dtype in [
        "bit",
        "tinyint",
        "bigint",
        "decimal(18,2)",
        "money",
        "real",
        "float",
        "varchar(max)",
        "nchar(3)",
        "varbinary(max)",
        "binary(16)",
        "date",
        "time(3)",
        "datetime2(7)",
        "datetime",
        "smalldatetime",
        "datetimeoffset(3)",
        "uniqueidentifier",
        "rowversion",
        "xml",
        "sql_variant",
    ] {
        all.push(SchemaChange::AddColumn { column: c(dtype) });
        all.push(SchemaChange::AlterType { from: c("int"), to: c(dtype) });
    }
    all
}

#[test]
fn statements_are_of_the_grammar() {
    let mut statements = Vec::new();
    let elsewhere = |name: &str| Relation { database: Some("d b".into()), schema: "s'c".into(), name: name.to_owned() };
    for name in ["c", "it's"] {
        let all = all_changes(name);
        statements.extend(all.iter().flat_map(|change| D.render(&table(), change).unwrap()));
        statements.extend(all.iter().flat_map(|change| D.render(&elsewhere(name), change).unwrap()));
    }
    for name in sql::HOSTILE {
        for change in [
            SchemaChange::AddColumn { column: column(name, "int") },
            SchemaChange::AlterType { from: column(name, "int"), to: column(name, "bigint") },
            SchemaChange::RenameColumn { from: column(name, "int"), to: format!("{name}2") },
            SchemaChange::DropColumn { column: column(name, "int") },
        ] {
            statements.extend(D.render(&elsewhere(name), &change).unwrap());
        }
    }
    // `WITH VALUES` is in neither of the grammars; it is the last of the statement, as the manual has it.
    let with_values = SchemaChange::AddColumn { column: with(column("c", "int"), &[(DEFAULT, "0")]) };
    let last = render(&with_values).remove(0);
    statements.push(last.strip_suffix(" WITH VALUES").unwrap().to_owned());
    statements
        .push(D.within_budget(vec![], &LockBudget { lock_timeout_ms: Some(5), ..LockBudget::default() }).remove(0));
    sql::assert_parses("tsql", &statements);
}

/// Reads an identifier in brackets as the server does; what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('[')?;
    let mut name = String::new();
    loop {
        let end = rest.find(']')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(']') {
            Some(after) => {
                name.push(']');
                rest = after;
            }
            None => return Some((name, rest)),
        }
    }
}

proptest! {
    #[test]
    fn any_name_is_only_a_name(name in "\\PC{0,140}|[\\[\\]'\";`\\\\\\n\\x00a]{0,12}") {
        let quoted = D.quote(&name);
        prop_assert_eq!(unquoted(&quoted), Some((name.clone(), "")));
        let change = SchemaChange::AddColumn { column: column(&name, "int") };
        match D.render(&table(), &change) {
            Ok(statements) => {
                let rest = statements[0].strip_prefix("ALTER TABLE [landing].[orders] ADD ").unwrap();
                prop_assert_eq!(unquoted(rest), Some((name.clone(), " int NULL")));
            }
            Err(_) => prop_assert!(name.is_empty() || name.contains('\0') || name.encode_utf16().count() > 128),
        }
    }

    #[test]
    fn any_text_of_a_type_is_a_type_or_refused(text in "\\PC{0,40}|(int|varchar|decimal)[ ();,0-9a-z'\\-]{0,20}") {
        if let Ok(field) = D.parse_type("c", &text) {
            let canonical = D.native_type(&field).unwrap();
            prop_assert!(canonical.bytes().all(|b| b.is_ascii_alphanumeric() || b"(),_".contains(&b)), "{}", canonical);
        }
    }
}
