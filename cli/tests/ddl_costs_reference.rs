//! `docs/reference/ddl-costs.md` is written from the code that judges changes: this test keeps it current.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use dpone_planner::Relation;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{COLLATION, Cost, DEFAULT, Dependent, DependentKind, SchemaChange, TableFacts, Work};
use dpone_postgres::dialect::PostgresDialect;
use dpone_postgres::schema::{DomainKind, Inline, MAJORS, NewColumn, NewDefault, Operation, TypeChange, cost_of};

#[test]
fn the_reference_of_ddl_costs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/ddl-costs.md");
    let page = page();
    if std::env::var_os("DPONE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/reference/ddl-costs.md is out of date: run this test with DPONE_UPDATE_DOCS=1");
}

const INTRODUCTION: &str = "# What a change of a table costs\n\n\
<!-- Written by a test from the code that judges: DPONE_UPDATE_DOCS=1 cargo test -p dpone-cli --test ddl_costs_reference -->\n\n\
A change of a schema costs the lock that it takes, times what it does under that lock. dpone judges each change by the\n\
server's version, the session's time zone, and what hangs on the column: indexes, checks, views, generated columns,\n\
policies, triggers, publications, foreign keys, partitions.\n\n\
| risk | what it means |\n|---|---|\n\
| `metadata_only` | a constant amount of work, once the lock is granted |\n\
| `low_lock` | work that grows with the table, while readers and writers go on |\n\
| `blocking` | work that grows with the table, while writers, or readers and writers, wait |\n\
| `unsupported` | the server refuses it |\n\n\
Whether a change *breaks* those who read the table is another question, and is judged from the columns: a dropped or a\n\
renamed column is `breaking`, whatever it costs. A table without rows makes every change that is not refused\n\
`metadata_only`.\n\n\
Every row of this page but those of `CONCURRENTLY` is compared with what PostgreSQL 11 to 18 do: a test runs the statement\n\
in a transaction, looks at its locks, at the files that it wrote and at the rows that it read, and rolls back. Where\n\
versions differ, each has a row.\n";

fn page() -> String {
    let mut out = String::from(INTRODUCTION);
    section(&mut out, "Columns", "", &columns());
    section(&mut out, "Types", TYPES, &types());
    section(&mut out, "What hangs on the column", DEPENDENTS, &dependents());
    section(&mut out, "Constraints, indexes, partitions", "", &statements());
    offline(&mut out);
    paths(&mut out);
    out
}

const TYPES: &str = "Nothing hangs on the column; the session's time zone is UTC unless the row says otherwise.\n\n";

const DEPENDENTS: &str = "The column gets another type that leaves its values as they are, `varchar(20)` to `varchar(50)`,\n\
and one object looks at it.\n\n";

/// One row: what is done, and what is known of the table.
struct Row {
    what: String,
    operation: Operation,
    zone: &'static str,
    dependents: Vec<Dependent>,
}

fn row(what: &str, operation: Operation) -> Row {
    Row { what: what.to_owned(), operation, zone: "UTC", dependents: Vec::new() }
}

fn change(what: &str, change: SchemaChange) -> Row {
    row(what, Operation::of(&change).unwrap())
}

fn field(native: &str) -> FieldRef {
    Arc::new(PostgresDialect.parse_type("c", native).unwrap())
}

fn with(field: &Field, metadata: &[(&str, &str)]) -> FieldRef {
    let mut all = field.metadata().clone();
    all.extend(metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
    Arc::new(field.clone().with_metadata(all))
}

fn type_change(from: &str, to: &str) -> TypeChange {
    TypeChange::new(&field(from), &field(to)).unwrap()
}

impl Row {
    fn zone(self, zone: &'static str) -> Self {
        Self { what: format!("{}, time zone {zone}", self.what), zone, ..self }
    }

    fn on(self, kind: DependentKind) -> Self {
        let dependent = Dependent { kind, name: "x".into(), columns: vec!["c".into()], definition: String::new() };
        Self { dependents: vec![dependent], ..self }
    }

    fn cost(&self, major: u32) -> Cost {
        let facts = TableFacts {
            observed: true,
            version: Some(major * 10_000),
            settings: [("timezone".to_owned(), self.zone.to_owned())].into(),
            kind: Some("table".into()),
            dependents: self.dependents.clone(),
            ..TableFacts::default()
        };
        cost_of(&Relation::new("landing", "orders"), &facts, &self.operation)
    }
}

fn columns() -> Vec<Row> {
    let add = |native: &str, nullable: bool, default: &str| {
        let column = with(&field(native), &[(DEFAULT, default)]);
        SchemaChange::AddColumn { column: Arc::new(column.as_ref().clone().with_nullable(nullable)) }
    };
    let new = |column: NewColumn| Operation::AddColumn(column);
    let inline = |inline| new(NewColumn { inline: Some(inline), ..NewColumn::default() });
    let default = |default| new(NewColumn { default, ..NewColumn::default() });
    let domain = |domain| new(NewColumn { domain, ..NewColumn::default() });
    let not_null = || Arc::new(field("integer").as_ref().clone().with_nullable(false));
    let proof = DependentKind::Check { validated: true, not_null: Some("c".into()) };
    let unproven = DependentKind::Check { validated: false, not_null: Some("c".into()) };
    let tighten = || SchemaChange::SetNotNull { column: field("integer") };
    vec![
        change("`ADD COLUMN` that takes NULL", add("text", true, "")),
        change("`ADD COLUMN … DEFAULT 0`, with or without `NOT NULL`", add("integer", false, "0")),
        change("`ADD COLUMN … DEFAULT now()`", add("timestamptz", true, "now()")),
        change("`ADD COLUMN … DEFAULT gen_random_uuid()`", add("uuid", true, "gen_random_uuid()")),
        change("`ADD COLUMN … NOT NULL` without a default", add("integer", false, "")),
        row("`ADD COLUMN` of a domain without constraints", domain(DomainKind::Free)),
        row("`ADD COLUMN` of a domain with a `CHECK` or `NOT NULL`", domain(DomainKind::Checked)),
        row("`ADD COLUMN … serial`", default(NewDefault::Volatile { known: true })),
        row("`ADD COLUMN … GENERATED … AS IDENTITY`", default(NewDefault::Identity)),
        row("`ADD COLUMN … GENERATED … STORED`", default(NewDefault::Stored)),
        row("`ADD COLUMN … GENERATED … VIRTUAL`", default(NewDefault::Virtual)),
        row("`ADD COLUMN … CHECK (…)`", inline(Inline::Check)),
        row("`ADD COLUMN … UNIQUE`", inline(Inline::Unique)),
        row("`ADD COLUMN … REFERENCES …`", inline(Inline::References)),
        change("`SET NOT NULL`", tighten()),
        change("`SET NOT NULL`, with a validated `CHECK (c IS NOT NULL)`", tighten()).on(proof),
        change("`SET NOT NULL`, with such a `CHECK` that is not valid", tighten()).on(unproven),
        row("`ADD CONSTRAINT … NOT NULL … NOT VALID`", Operation::AddNotNullNotValid { column: "c".into() }),
        change("`DROP NOT NULL`", SchemaChange::DropNotNull { column: not_null() }),
        change("`DROP NOT NULL` of the primary key", SchemaChange::DropNotNull { column: not_null() })
            .on(DependentKind::Index { unique: true, primary: true, plain: true, valid: true }),
        change("`SET DEFAULT`", SchemaChange::SetDefault { column: field("integer"), default: "0".into() }),
        change("`DROP DEFAULT`", SchemaChange::DropDefault { column: field("integer") }),
        change("`COMMENT ON COLUMN`", SchemaChange::SetComment { column: field("integer"), comment: None }),
        change("`RENAME COLUMN`", SchemaChange::RenameColumn { from: field("integer"), to: "d".into() }),
        change("`DROP COLUMN`", SchemaChange::DropColumn { column: field("integer") }),
        change("`DROP COLUMN` that a view looks at", SchemaChange::DropColumn { column: field("integer") })
            .on(DependentKind::View),
    ]
}

fn types() -> Vec<Row> {
    let pairs = [
        ("varchar(20)", "varchar(50)"),
        ("varchar(20)", "text"),
        ("text", "varchar"),
        ("text", "varchar(50)"),
        ("varchar(50)", "varchar(20)"),
        ("char(5)", "char(9)"),
        ("char(5)", "text"),
        ("numeric(10,2)", "numeric(12,2)"),
        ("numeric(10,2)", "numeric"),
        ("numeric(10,2)", "numeric(12,4)"),
        ("numeric", "numeric(12,2)"),
        ("smallint", "integer"),
        ("integer", "bigint"),
        ("integer", "numeric"),
        ("integer", "oid"),
        ("real", "double precision"),
        ("date", "timestamp"),
        ("timestamp(3)", "timestamp"),
        ("timestamp", "timestamp(3)"),
        ("time(3)", "time"),
        ("interval(3)", "interval"),
        ("bit varying(8)", "bit varying(16)"),
        ("bit(8)", "bit(16)"),
        ("cidr", "inet"),
        ("inet", "cidr"),
        ("json", "jsonb"),
        ("text", "uuid"),
        ("uuid", "text"),
        ("uuid", "integer"),
        ("varchar(20)[]", "varchar(50)[]"),
        ("varchar(20)[]", "varchar[]"),
        ("integer[]", "bigint[]"),
    ];
    let pair = |from: &str, to: &str| row(&format!("`{from}` → `{to}`"), Operation::AlterType(type_change(from, to)));
    let mut rows: Vec<Row> = pairs.iter().map(|(from, to)| pair(from, to)).collect();
    let index = || DependentKind::Index { unique: false, primary: false, plain: true, valid: true };
    rows.extend([
        pair("timestamp", "timestamptz"),
        Row { what: "`timestamp` → `timestamptz`, indexed".into(), ..pair("timestamp", "timestamptz").on(index()) },
        pair("timestamp", "timestamptz").zone("Europe/Berlin"),
        row(
            "any type, with an expression in `USING`",
            Operation::AlterType(type_change("timestamp", "timestamptz").computed()),
        ),
        row(
            "`varchar(20)` → a domain of `varchar(50)` without constraints",
            Operation::AlterType(type_change("varchar(20)", "varchar(50)").to_domain(DomainKind::Free)),
        ),
        row(
            "`varchar(20)` → a domain of `varchar(50)` with a `CHECK`",
            Operation::AlterType(type_change("varchar(20)", "varchar(50)").to_domain(DomainKind::Checked)),
        ),
        row("an enum gets a label", Operation::AddLabel),
        change("another collation", collate()),
        Row { what: "another collation, indexed".into(), ..change("", collate()).on(index()) },
    ]);
    rows
}

fn collate() -> SchemaChange {
    SchemaChange::SetCollation { column: with(&field("text"), &[(COLLATION, "C")]), collation: "POSIX".into() }
}

fn dependents() -> Vec<Row> {
    let index = |unique, plain, valid| DependentKind::Index { unique, primary: false, plain, valid };
    let kinds = [
        ("an index on the column", index(false, true, true)),
        ("a unique index", index(true, true, true)),
        ("an expression or partial index", index(false, false, true)),
        ("an index that is not valid", index(false, true, false)),
        ("a `CHECK`", DependentKind::Check { validated: true, not_null: None }),
        ("a `CHECK` that is not valid", DependentKind::Check { validated: false, not_null: None }),
        ("a foreign key of the table", DependentKind::ForeignKey { inbound: false, validated: true }),
        ("a foreign key of another table", DependentKind::ForeignKey { inbound: true, validated: true }),
        ("an exclusion constraint", DependentKind::Exclusion),
        ("extended statistics", DependentKind::Statistics),
        ("a view", DependentKind::View),
        ("a materialized view", DependentKind::MaterializedView),
        ("a rule", DependentKind::Rule),
        ("a generated column", DependentKind::GeneratedColumn),
        ("a policy", DependentKind::Policy),
        ("a trigger with `UPDATE OF`, or with it in its `WHEN`", DependentKind::Trigger),
        ("a publication with a list of columns or a filter", DependentKind::Publication),
        ("a function with a body that the server tracks", DependentKind::Function),
        ("the partition key", DependentKind::PartitionKey),
        ("a parent table, of which the column is inherited", DependentKind::Inheritance { child: true }),
        ("a column elsewhere of the type of the table's rows", DependentKind::RowType),
    ];
    let longer = || Operation::AlterType(type_change("varchar(20)", "varchar(50)"));
    kinds.into_iter().map(|(what, kind)| row(what, longer()).on(kind)).collect()
}

fn statements() -> Vec<Row> {
    vec![
        row("`ADD CHECK`", Operation::AddCheck { valid: true }),
        row("`ADD CHECK … NOT VALID`", Operation::AddCheck { valid: false }),
        row("`VALIDATE CONSTRAINT` of a `CHECK`", Operation::ValidateCheck),
        row("`DROP CONSTRAINT` of a `CHECK`", Operation::DropCheck),
        row("`ADD FOREIGN KEY`", Operation::AddForeignKey { valid: true }),
        row("`ADD FOREIGN KEY … NOT VALID`", Operation::AddForeignKey { valid: false }),
        row("`VALIDATE CONSTRAINT` of a foreign key", Operation::ValidateForeignKey),
        row("`DROP CONSTRAINT` of a foreign key", Operation::DropForeignKey),
        row("`ADD PRIMARY KEY`", Operation::AddPrimaryKey { using_index: false, nullable: false }),
        row("`ADD PRIMARY KEY USING INDEX`", Operation::AddPrimaryKey { using_index: true, nullable: false }),
        row(
            "`ADD PRIMARY KEY USING INDEX`, a column takes NULL",
            Operation::AddPrimaryKey { using_index: true, nullable: true },
        ),
        row("`ADD UNIQUE`", Operation::AddUnique { using_index: false }),
        row("`ADD UNIQUE USING INDEX`", Operation::AddUnique { using_index: true }),
        row("`CREATE INDEX`", Operation::CreateIndex { concurrently: false }),
        row("`CREATE INDEX CONCURRENTLY`", Operation::CreateIndex { concurrently: true }),
        row("`DROP INDEX`", Operation::DropIndex { concurrently: false }),
        row("`DROP INDEX CONCURRENTLY`", Operation::DropIndex { concurrently: true }),
        row("`SET STATISTICS`", Operation::SetStatistics),
        row("`SET (fillfactor = …)` and other parameters", Operation::SetStorageParameters),
        row("`ALTER PUBLICATION … ADD TABLE`", Operation::AddToPublication),
        row("`CREATE TRIGGER`", Operation::CreateTrigger),
        row("`RENAME TO`", Operation::RenameTable),
        row("`ATTACH PARTITION`", Operation::AttachPartition { proven: false }),
        row("`ATTACH PARTITION`, with a `CHECK` of its bounds", Operation::AttachPartition { proven: true }),
        row("`DETACH PARTITION`", Operation::DetachPartition),
        row("`SET UNLOGGED`", Operation::SetUnlogged),
        row("`CLUSTER`", Operation::Cluster),
    ]
}

fn section(out: &mut String, title: &str, introduction: &str, rows: &[Row]) {
    writeln!(out, "\n## {title}\n").unwrap();
    out.push_str(introduction);
    out.push_str("| change | PostgreSQL | risk | lock | work | why |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let mut what = row.what.as_str();
        for (versions, cost) in by_version(row) {
            let lock = cost.lock.as_deref().unwrap_or("-");
            writeln!(
                out,
                "| {what} | {versions} | `{}` | {lock} | {} | {} |",
                cost.risk.as_str(),
                work(cost.work),
                cost.reason.replace('|', "\\|")
            )
            .unwrap();
            what = "";
        }
    }
}

/// The versions that agree, with what they agree on.
fn by_version(row: &Row) -> Vec<(String, Cost)> {
    let mut groups: Vec<(u32, u32, Cost)> = Vec::new();
    for major in MAJORS {
        let cost = row.cost(major);
        match groups.last_mut() {
            Some((_, last, same)) if (same.risk, &same.reason) == (cost.risk, &cost.reason) => *last = major,
            _ => groups.push((major, major, cost)),
        }
    }
    let all = (*MAJORS.start(), *MAJORS.end());
    let named = |first: u32, last: u32| match (first, last) {
        _ if (first, last) == all => "all".to_owned(),
        _ if first == last => first.to_string(),
        _ => format!("{first} to {last}"),
    };
    groups.into_iter().map(|(first, last, cost)| (named(first, last), cost)).collect()
}

fn work(work: Work) -> &'static str {
    match work {
        Work::None => "-",
        Work::Scan => "rows are read",
        Work::IndexBuild => "an index is built",
        Work::Rewrite => "rows are written",
        Work::Mutation => "rows are written later",
    }
}

fn offline(out: &mut String) {
    let zoned = Operation::AlterType(type_change("timestamp", "timestamptz"));
    let cost = cost_of(&Relation::new("landing", "orders"), &TableFacts::default(), &zoned);
    out.push_str(
        "\n## Without a catalog\n\n\
         `dpone schema plan` can work on two files of columns, where no server is asked. What it then takes for granted\n\
         stands in `assumptions` of each action, such as these for `timestamp` → `timestamptz`:\n\n",
    );
    for assumption in &cost.assumptions {
        writeln!(out, "- {assumption}").unwrap();
    }
}

/// The way around some changes that are not online.
fn paths(out: &mut String) {
    out.push_str(
        "\n## Ways around\n\n\
         An action that is not online says how to get there while the table is in use. Never put `NOT VALID` and `VALIDATE`\n\
         into one transaction: the lock of the first would be held through the scan of the second.\n",
    );
    let tighten = change("`SET NOT NULL`", SchemaChange::SetNotNull { column: field("integer") });
    let shown = [
        (tighten, 17),
        (change("`SET NOT NULL`, from PostgreSQL 18 on", SchemaChange::SetNotNull { column: field("integer") }), 18),
        (row("`integer` → `bigint`", Operation::AlterType(type_change("integer", "bigint"))), 18),
        (
            row("`timestamp` → `timestamptz`", Operation::AlterType(type_change("timestamp", "timestamptz")))
                .zone("Europe/Berlin"),
            18,
        ),
        (row("`ADD FOREIGN KEY`", Operation::AddForeignKey { valid: true }), 18),
        (row("`ADD PRIMARY KEY`", Operation::AddPrimaryKey { using_index: false, nullable: true }), 18),
    ];
    for (row, major) in shown {
        writeln!(out, "\n{}:\n", row.what).unwrap();
        for (at, step) in row.cost(major).online_path.iter().enumerate() {
            writeln!(out, "{}. {step}", at + 1).unwrap();
        }
    }
}
