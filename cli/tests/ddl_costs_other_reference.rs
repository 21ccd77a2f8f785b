//! `docs/reference/ddl-costs-other.md` is written from the code that judges changes: this test keeps it current.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use dpone_bigquery::BigQueryDialect;
use dpone_clickhouse::ClickHouseDialect;
use dpone_mssql::MssqlDialect;
use dpone_planner::Relation;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{DEFAULT, Dependent, DependentKind, EngineColumn, SchemaChange, TableFacts, Work};

#[test]
fn the_reference_of_other_ddl_costs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/ddl-costs-other.md");
    let page = page();
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/reference/ddl-costs-other.md is out of date: run this test with DPONE_UPDATE_DOCS=1"
    );
}

const INTRODUCTION: &str = "# What a change costs on other systems\n\n\
<!-- Written by a test from the code that judges: DPONE_UPDATE_DOCS=1 cargo test -p dpone-cli --test ddl_costs_other_reference -->\n\n\
The risks are those of [What a change of a table costs](ddl-costs.md). `dpone schema plan --dialect mssql|clickhouse|bigquery`\n\
judges columns from files; what it had to assume without a catalog is said in its answer. Topics of Kafka have no DDL: see\n\
[Kafka](../connectors/kafka.md).\n";

fn page() -> String {
    let mut out = String::from(INTRODUCTION);
    section(
        &mut out,
        "SQL Server",
        "From the documentation of 2016 to 2022; not measured. The edition and the compression of the rows decide: without a\n\
         catalog, give them with `--setting edition=enterprise` and `--setting data_compression=page`. Every ALTER COLUMN says\n\
         NULL or NOT NULL, and the collation where it is known: what it does not say, the server forgets.\n\n\
         `timestamp` and `text` are read as logical names, a point in time and any text; the server's types of these names are\n\
         `rowversion` and deprecated.\n\n",
        &MssqlDialect,
        mssql(),
    );
    section(
        &mut out,
        "ClickHouse",
        "For tables of the MergeTree family, measured on 26.9: a test runs each change on the engine and looks for a row in\n\
         `system.mutations` and for new names of the parts. A mutation writes the column again in the background, while\n\
         readers and writers go on.\n\n\
         Types are written with their capitals: `DateTime` has seconds, `datetime` is the logical name and has microseconds.\n\
         A column takes NULL as `nullable` says.\n\n",
        &ClickHouseDialect,
        clickhouse(),
    );
    section(
        &mut out,
        "BigQuery",
        "From its documentation; not measured. A schema is metadata: a change is made at once, or refused.\n\n",
        &BigQueryDialect,
        bigquery(),
    );
    out
}

/// What is done, what is known of the table, and the change.
type Row = (&'static str, TableFacts, SchemaChange);

fn section(out: &mut String, title: &str, words: &str, dialect: &dyn Dialect, rows: Vec<Row>) {
    write!(out, "\n## {title}\n\n{words}").unwrap();
    out.push_str("| change | risk | lock | work | why | instead, or around it |\n|---|---|---|---|---|---|\n");
    for (what, facts, change) in rows {
        let cost = dialect.cost(&Relation::new("s", "t"), &facts, &change);
        let work = match cost.work {
            Work::None => "-",
            Work::Scan => "scan",
            Work::IndexBuild => "index",
            Work::Rewrite => "rewrite",
            Work::Mutation => "mutation",
        };
        let cell = |text: &str| text.replace('|', "\\|");
        writeln!(
            out,
            "| {} | `{}` | {} | {work} | {} | {} |",
            cell(what),
            cost.risk.as_str(),
            cost.lock.as_deref().unwrap_or("-"),
            cell(&cost.reason),
            cell(&cost.online_path.join("; "))
        )
        .unwrap();
    }
}

fn observed() -> TableFacts {
    TableFacts { observed: true, version: Some(2019), kind: Some("MergeTree".into()), ..TableFacts::default() }
}

fn setting(name: &str, value: &str) -> TableFacts {
    TableFacts { settings: [(name.to_owned(), value.to_owned())].into(), kind: None, ..observed() }
}

fn held(kind: DependentKind) -> TableFacts {
    let dependent = Dependent { kind, name: "x".into(), columns: vec!["c".into()], definition: String::new() };
    TableFacts { dependents: vec![dependent], ..observed() }
}

/// Builds the columns and changes of one dialect.
struct Of<'a>(&'a dyn Dialect);

impl Of<'_> {
    fn column(&self, dtype: &str) -> FieldRef {
        Arc::new(self.0.parse_type("c", dtype).unwrap())
    }

    fn with_default(&self, dtype: &str, nullable: bool, default: &str) -> FieldRef {
        let field = self.column(dtype).as_ref().clone().with_nullable(nullable);
        let mut metadata = field.metadata().clone();
        metadata.insert(DEFAULT.to_owned(), default.to_owned());
        Arc::new(field.with_metadata(metadata))
    }

    fn add(&self, dtype: &str, nullable: bool, default: &str) -> SchemaChange {
        SchemaChange::AddColumn { column: self.with_default(dtype, nullable, default) }
    }

    fn alter(&self, from: &str, to: &str) -> SchemaChange {
        SchemaChange::AlterType { from: self.column(from), to: self.column(to) }
    }
}

fn mssql() -> Vec<Row> {
    let d = Of(&MssqlDialect);
    let none = || TableFacts { kind: None, ..observed() };
    let index = |primary| DependentKind::Index { unique: primary, primary, plain: true, valid: true };
    let c = || d.column("int");
    vec![
        ("add a nullable column", none(), d.add("int", true, "")),
        ("add NOT NULL without default", none(), d.add("int", false, "")),
        (
            "add NOT NULL with a constant default, Enterprise",
            setting("edition", "enterprise"),
            d.add("int", false, "0"),
        ),
        ("add NOT NULL with a constant default, Standard", setting("edition", "standard"), d.add("int", false, "0")),
        ("add a nullable column with a default", setting("edition", "enterprise"), d.add("int", true, "0")),
        ("add NOT NULL with `newid()`", setting("edition", "enterprise"), d.add("uniqueidentifier", false, "newid()")),
        ("`varchar(20)` to `varchar(50)`", none(), d.alter("varchar(20)", "varchar(50)")),
        ("the same, in an index", held(index(false)), d.alter("varchar(20)", "varchar(50)")),
        ("the same, in the primary key", held(index(true)), d.alter("varchar(20)", "varchar(50)")),
        ("`varchar(20)` to `varchar(max)`", none(), d.alter("varchar(20)", "varchar(max)")),
        ("`varchar(20)` to `nvarchar(20)`", none(), d.alter("varchar(20)", "nvarchar(20)")),
        ("`varchar(50)` to `varchar(20)`", none(), d.alter("varchar(50)", "varchar(20)")),
        ("`int` to `bigint`", none(), d.alter("int", "bigint")),
        ("the same, all compressed, 2016 and later", setting("data_compression", "page"), d.alter("int", "bigint")),
        ("the same, in an index", held(index(false)), d.alter("int", "bigint")),
        ("`real` to `float`", none(), d.alter("real", "float")),
        ("`decimal(10,2)` to `decimal(12,2)`", none(), d.alter("decimal(10,2)", "decimal(12,2)")),
        ("allow NULL", none(), SchemaChange::DropNotNull { column: c() }),
        ("allow NULL in the primary key", held(index(true)), SchemaChange::DropNotNull { column: c() }),
        ("forbid NULL", none(), SchemaChange::SetNotNull { column: c() }),
        ("forbid NULL in an index", held(index(false)), SchemaChange::SetNotNull { column: c() }),
        ("set a default", none(), SchemaChange::SetDefault { column: c(), default: "0".into() }),
        (
            "change the collation",
            none(),
            SchemaChange::SetCollation { column: d.column("varchar(9)"), collation: "x".into() },
        ),
        ("rename a column", none(), SchemaChange::RenameColumn { from: c(), to: "d".into() }),
        ("drop a column", none(), SchemaChange::DropColumn { column: c() }),
        ("drop a column of an index", held(index(false)), SchemaChange::DropColumn { column: c() }),
        ("comment", none(), SchemaChange::SetComment { column: c(), comment: None }),
    ]
}

fn clickhouse() -> Vec<Row> {
    use EngineColumn::{Sign, Version};
    let d = Of(&ClickHouseDialect);
    let none = observed;
    let key = || held(DependentKind::SortingKey);
    let engine = |takes: EngineColumn| {
        let kind = if takes == Sign { "CollapsingMergeTree" } else { "ReplacingMergeTree" };
        TableFacts { kind: Some(kind.into()), ..held(DependentKind::Engine { takes }) }
    };
    let c = || d.column("Int32");
    vec![
        ("add a nullable column", none(), d.add("String", true, "")),
        ("add a column that takes no NULL", none(), d.add("Int32", false, "")),
        ("add a constant default", none(), d.add("Int32", false, "5")),
        ("add a computed default", none(), d.add("UUID", false, "gen_random_uuid()")),
        ("`Int32` to `Int64`", none(), d.alter("Int32", "Int64")),
        ("the same, in the sorting key", key(), d.alter("Int32", "Int64")),
        ("the same, of the engine's version", engine(Version), d.alter("Int32", "Int64")),
        ("a version to another type", engine(Version), d.alter("Int32", "Decimal(18, 2)")),
        ("the type of a sign or a mark of deletion", engine(Sign), d.alter("Int8", "Int16")),
        ("`Int32` to `Int8`", none(), d.alter("Int32", "Int8")),
        ("`Float32` to `Float64`", none(), d.alter("Float32", "Float64")),
        ("`Decimal(10, 2)` to `Decimal(12, 2)`", none(), d.alter("Decimal(10, 2)", "Decimal(12, 2)")),
        ("`Decimal(10, 2)` to `Decimal(20, 2)`", none(), d.alter("Decimal(10, 2)", "Decimal(20, 2)")),
        ("`Decimal(10, 2)` to `Decimal(12, 4)`", none(), d.alter("Decimal(10, 2)", "Decimal(12, 4)")),
        ("`FixedString(4)` to `FixedString(8)`", none(), d.alter("FixedString(4)", "FixedString(8)")),
        ("`String` to `LowCardinality(String)`", none(), d.alter("String", "LowCardinality(String)")),
        ("`String` to `UUID`", none(), d.alter("String", "UUID")),
        ("`Date` to `Date32`", none(), d.alter("Date", "Date32")),
        ("`DateTime` to `DateTime64(3)`", none(), d.alter("DateTime", "DateTime64(3)")),
        ("another time zone", none(), d.alter("DateTime('UTC')", "DateTime('Europe/Berlin')")),
        ("an enum gets a label", none(), d.alter("Enum8('a' = 1)", "Enum8('a' = 1, 'b' = 2)")),
        ("an enum loses a label", none(), d.alter("Enum8('a' = 1, 'b' = 2)", "Enum8('a' = 1)")),
        ("allow NULL", none(), SchemaChange::DropNotNull { column: c() }),
        ("forbid NULL", none(), SchemaChange::SetNotNull { column: d.column("Nullable(Int32)") }),
        (
            "forbid NULL, with a default",
            none(),
            SchemaChange::SetNotNull { column: d.with_default("Int32", true, "0") },
        ),
        ("set a first default", none(), SchemaChange::SetDefault { column: c(), default: "7".into() }),
        (
            "set another default",
            none(),
            SchemaChange::SetDefault { column: d.with_default("Int32", false, "5"), default: "7".into() },
        ),
        ("drop a default", none(), SchemaChange::DropDefault { column: d.with_default("Int32", false, "5") }),
        ("rename a column", none(), SchemaChange::RenameColumn { from: c(), to: "d".into() }),
        ("rename a column of the sorting key", key(), SchemaChange::RenameColumn { from: c(), to: "d".into() }),
        ("rename or drop a column of the engine", engine(Version), SchemaChange::DropColumn { column: c() }),
        ("drop a column", none(), SchemaChange::DropColumn { column: c() }),
        (
            "drop a column that a materialized view reads",
            held(DependentKind::MaterializedView),
            SchemaChange::DropColumn { column: c() },
        ),
        ("collation", none(), SchemaChange::SetCollation { column: d.column("String"), collation: "de".into() }),
        ("comment", none(), SchemaChange::SetComment { column: c(), comment: None }),
    ]
}

fn bigquery() -> Vec<Row> {
    let d = Of(&BigQueryDialect);
    let none = observed;
    let c = || d.column("INT64");
    vec![
        ("add a NULLABLE column", none(), d.add("INT64", true, "")),
        ("add a column with a default", none(), d.add("INT64", true, "0")),
        ("add a REQUIRED column", none(), d.add("INT64", false, "")),
        ("`STRING(20)` to `STRING(50)`", none(), d.alter("STRING(20)", "STRING(50)")),
        ("`STRING(50)` to `STRING(20)`", none(), d.alter("STRING(50)", "STRING(20)")),
        ("`NUMERIC(7, 2)` to `NUMERIC(8, 2)`", none(), d.alter("NUMERIC(7, 2)", "NUMERIC(8, 2)")),
        ("`INT64` to `NUMERIC`", none(), d.alter("INT64", "NUMERIC")),
        ("`INT64` to `FLOAT64`", none(), d.alter("INT64", "FLOAT64")),
        ("`DATE` to `DATETIME`", none(), d.alter("DATE", "DATETIME")),
        ("the type of the partitioning column", held(DependentKind::PartitionKey), d.alter("INT64", "NUMERIC")),
        ("REQUIRED to NULLABLE", none(), SchemaChange::DropNotNull { column: c() }),
        ("NULLABLE to REQUIRED", none(), SchemaChange::SetNotNull { column: c() }),
        ("set a default", none(), SchemaChange::SetDefault { column: c(), default: "0".into() }),
        (
            "change the collation",
            none(),
            SchemaChange::SetCollation { column: d.column("STRING"), collation: "und:ci".into() },
        ),
        ("rename a column", none(), SchemaChange::RenameColumn { from: c(), to: "d".into() }),
        ("drop a column", none(), SchemaChange::DropColumn { column: c() }),
        ("drop the partitioning column", held(DependentKind::PartitionKey), SchemaChange::DropColumn { column: c() }),
        ("description", none(), SchemaChange::SetComment { column: c(), comment: None }),
    ]
}
