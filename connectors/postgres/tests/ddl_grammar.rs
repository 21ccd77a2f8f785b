//! Rendered DDL in PostgreSQL's own grammar, by `pglast`, and on a server: any name is only ever a name, or is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use arrow::datatypes::{Field, FieldRef, Schema};
use dpone_planner::Relation;
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{COLLATION, COMMENT, DEFAULT, LockBudget, SchemaChange};
use dpone_postgres::dialect::PostgresDialect;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

/// Reads a list of statements on each line, and answers with what each of them is.
const PARSER: &str = "
import json, sys
from pglast import parse_sql
for line in sys.stdin:
    answers = []
    for sql in json.loads(line):
        try:
            answers.append([s.stmt(skip_none=True) for s in parse_sql(sql)])
        except Exception as error:
            answers.append(str(error))
    print(json.dumps(answers, default=str), flush=True)
";

struct Parser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Parser {
    fn start() -> Self {
        let python = std::env::var("DPONE_TEST_PYTHON").expect("DPONE_TEST_PYTHON is not set: run scripts/test");
        let mut child = Command::new(python)
            .args(["-c", PARSER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python of the tests starts");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// The one statement that each text is.
    fn parse(&mut self, statements: &[String]) -> Vec<Value> {
        writeln!(self.input, "{}", serde_json::to_string(statements).unwrap()).unwrap();
        let mut answer = String::new();
        assert!(self.output.read_line(&mut answer).unwrap() > 0, "the parser ended: has its Python pglast?");
        let answers: Vec<Value> = serde_json::from_str(&answer).unwrap();
        let one = |(sql, parsed): (&String, Value)| match parsed {
            Value::Array(mut parsed) if parsed.len() == 1 => parsed.remove(0),
            other => panic!("not one statement: {sql}\n{other}"),
        };
        statements.iter().zip(answers).map(one).collect()
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All texts under a key, at any depth.
fn under(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (name, inner) in entries {
                match inner {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => under(inner, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| under(item, key, found)),
        _ => {}
    }
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    under(value, key, &mut found);
    found
}

fn kind(value: &Value) -> &str {
    value["@"].as_str().unwrap_or_default()
}

// ---- Names ------------------------------------------------------------------------------------------------------

const FRAGMENTS: &[&str] = &[
    "\"",
    "\"\"",
    "'",
    ";",
    "--",
    "/*",
    "*/",
    "\\",
    "\n",
    "\r\n",
    "\t",
    "$$",
    "$1",
    "select",
    "table",
    "user",
    "DROP TABLE t",
    "ü",
    "😀",
    "\u{202e}",
    " ",
    ".",
    "%",
    "%s",
    "U&\"",
    "E'",
    "a",
    "A",
    "_",
    "()",
    ")",
    "::text",
    "{}",
    "\0",
];

/// Names that people have, and names that nobody should.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::collection::vec(prop::sample::select(FRAGMENTS), 1..6).prop_map(|parts| parts.concat()),
        2 => any::<String>(),
        2 => "[a-zü\"]{55,70}",
        1 => prop::sample::select(vec!["select", "order", "user", "column", "all", "", "id\"; DROP SCHEMA public CASCADE; --"])
            .prop_map(str::to_owned),
    ]
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && !name.contains('\0')
}

fn column(name: &str, native: &str, metadata: &[(&str, &str)]) -> FieldRef {
    let field = PostgresDialect.parse_type("c", native).unwrap().with_name(name);
    let mut all = field.metadata().clone();
    all.extend(metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
    Arc::new(field.with_metadata(all))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Every change of a column, with the statement that it has to be.
fn changes(name: &str, other: &str, text: &str) -> Vec<(SchemaChange, &'static str)> {
    let default = quoted(text);
    let metadata = [(DEFAULT, default.as_str()), (COMMENT, text)];
    let plain = |native: &str| column(name, native, &[]);
    vec![
        (SchemaChange::AddColumn { column: column(name, "varchar(20)", &metadata) }, "AlterTableStmt"),
        (SchemaChange::AlterType { from: plain("varchar(20)"), to: plain("text") }, "AlterTableStmt"),
        (
            SchemaChange::AlterType {
                from: column(name, "text", &metadata[..1]),
                to: plain("timestamp(3) with time zone"),
            },
            "AlterTableStmt",
        ),
        (SchemaChange::AlterType { from: plain("bit(3)"), to: plain("integer[]") }, "AlterTableStmt"),
        (SchemaChange::SetNotNull { column: plain("text") }, "AlterTableStmt"),
        (SchemaChange::DropNotNull { column: plain("text") }, "AlterTableStmt"),
        (SchemaChange::SetDefault { column: plain("text"), default: default.clone() }, "AlterTableStmt"),
        (SchemaChange::SetDefault { column: plain("text"), default: "select()".into() }, "AlterTableStmt"),
        (SchemaChange::DropDefault { column: plain("text") }, "AlterTableStmt"),
        (SchemaChange::SetComment { column: plain("text"), comment: Some(text.to_owned()) }, "CommentStmt"),
        (SchemaChange::SetComment { column: plain("text"), comment: None }, "CommentStmt"),
        (SchemaChange::SetCollation { column: plain("text"), collation: other.to_owned() }, "AlterTableStmt"),
        (SchemaChange::RenameColumn { from: plain("text"), to: other.to_owned() }, "RenameStmt"),
        (SchemaChange::DropColumn { column: plain("text") }, "AlterTableStmt"),
    ]
}

/// Whether a change names something else than its column, or carries a text.
fn says(change: &SchemaChange) -> (bool, bool) {
    match change {
        SchemaChange::RenameColumn { .. } | SchemaChange::SetCollation { .. } => (true, false),
        SchemaChange::SetDefault { default, .. } => (false, default.starts_with('\'')),
        SchemaChange::SetComment { comment, .. } => (false, comment.is_some()),
        SchemaChange::AddColumn { .. } => (false, true),
        SchemaChange::AlterType { from, .. } => (false, from.metadata().contains_key(DEFAULT)),
        _ => (false, false),
    }
}

#[test]
fn every_statement_is_what_it_should_be_in_the_grammar_or_is_refused() {
    let parser = Mutex::new(Parser::start());
    let budget = LockBudget { lock_timeout_ms: Some(5000), statement_timeout_ms: Some(60_000) };
    let names = (name(), name(), name(), name(), any::<String>());
    let mut runner = TestRunner::new(Config { cases: 150, ..Config::default() });
    runner
        .run(&names, |(schema, table, column, other, text)| {
            let target = Relation::new(&schema, &table);
            for (change, want) in changes(&column, &other, &text) {
                let (other_counts, text_counts) = says(&change);
                let good = [&schema, &table, &column].iter().all(|name| is_name(name))
                    && (!other_counts || is_name(&other))
                    && (!text_counts || !text.contains('\0'));
                // A collation may stand there as the catalog writes it, with its schema.
                let collation = matches!(change, SchemaChange::SetCollation { .. });
                let Ok(statements) = PostgresDialect.render(&target, &change) else {
                    prop_assert!(!good || collation, "refused: {change:?}");
                    continue;
                };
                prop_assert!(good || collation, "not refused: {statements:?}");
                let parsed = parser.lock().unwrap().parse(&statements);
                prop_assert_eq!(kind(&parsed[0]), want);
                for one in &parsed {
                    if kind(one) == "CommentStmt" {
                        let path = &texts(&one["object"], "sval");
                        prop_assert_eq!(path, &[schema.clone(), table.clone(), column.clone()]);
                        continue;
                    }
                    prop_assert_eq!(texts(one, "schemaname"), [schema.clone()]);
                    prop_assert_eq!(texts(one, "relname"), [table.clone()]);
                    let named =
                        [texts(one, "name"), texts(one, "colname"), texts(one, "subname"), texts(one, "sval")].concat();
                    prop_assert!(named.contains(&column), "{column:?} is not in {one}");
                }
                if matches!(change, SchemaChange::RenameColumn { .. }) {
                    prop_assert_eq!(texts(&parsed[0], "newname"), [other.clone()]);
                }
                let within = PostgresDialect.within_budget(statements, &budget);
                let kinds: Vec<String> =
                    parser.lock().unwrap().parse(&within).iter().map(|one| kind(one).to_owned()).collect();
                prop_assert_eq!(&kinds[..3], ["TransactionStmt", "VariableSetStmt", "VariableSetStmt"]);
                prop_assert_eq!(kinds.iter().filter(|kind| *kind == "TransactionStmt").count(), 2);
            }
            Ok(())
        })
        .unwrap();
}

// ---- Servers ----------------------------------------------------------------------------------------------------

async fn connect() -> Client {
    let url = std::env::var("DPONE_TEST_POSTGRES_URL").expect("DPONE_TEST_POSTGRES_URL is not set: run scripts/test");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A column is made, commented on, given a default and renamed; the catalog must have exactly that.
async fn round_trip(client: &Client, target: &Relation, names: [&str; 3], text: &str) -> Result<(), String> {
    let [first, added, renamed] = names;
    let default = quoted(text);
    let schema = Arc::new(Schema::new(vec![column(first, "integer", &[]).as_ref().clone()]));
    let new = column(added, "text", &[(DEFAULT, &default), (COMMENT, text), (COLLATION, "C")]);
    let steps = [
        SchemaChange::CreateTable { schema, primary_key: vec![first.to_owned()], partition_by: Vec::new() },
        SchemaChange::AddColumn { column: Arc::clone(&new) },
        SchemaChange::RenameColumn { from: new, to: renamed.to_owned() },
    ];
    client.batch_execute("BEGIN").await.unwrap();
    for step in &steps {
        for statement in PostgresDialect.render(target, step).map_err(|e| e.to_string())? {
            client.batch_execute(&statement).await.map_err(|e| format!("{statement}: {e:?}"))?;
        }
    }
    let sql = "SELECT a.attname::text, col_description(a.attrelid, a.attnum), \
                      (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) \
                 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r' AND a.attnum > 0 ORDER BY a.attnum";
    let rows = client.query(sql, &[&target.schema, &target.name]).await.unwrap();
    let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let comment: Option<String> = rows.last().and_then(|row| row.get(1));
    let kept: Option<String> = rows.last().and_then(|row| row.get(2));
    client.batch_execute("ROLLBACK").await.unwrap();
    let comment_holds = comment.unwrap_or_default() == text;
    let kept = kept.unwrap_or_default();
    let value: String = client.query_one(&format!("SELECT {kept}"), &[]).await.map_err(|e| e.to_string())?.get(0);
    match columns == [first, renamed] && comment_holds && value == text {
        true => Ok(()),
        false => Err(format!("{names:?} {text:?} became {columns:?} with {kept:?}")),
    }
}

#[test]
fn the_server_has_exactly_the_names_that_were_asked_for() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(connect());
    let valid = || name().prop_filter("a name", |name| is_name(name) && !name.to_lowercase().starts_with("pg_"));
    let names = (valid(), valid(), valid(), valid(), valid(), any::<String>());
    let mut runner = TestRunner::new(Config { cases: 100, max_global_rejects: 100_000, ..Config::default() });
    runner
        .run(&names, |(schema, table, first, added, renamed, text)| {
            prop_assume!(first != added && first != renamed && added != renamed && !text.contains('\0'));
            let target = Relation::new(&schema, &table);
            let done = runtime.block_on(round_trip(&client, &target, [&first, &added, &renamed], &text));
            if done.is_err() {
                let _ = runtime.block_on(client.batch_execute("ROLLBACK"));
            }
            prop_assert_eq!(done, Ok(()));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_type_is_never_more_than_a_type() {
    let field = |native: &str| {
        let field = Field::new("c", arrow::datatypes::DataType::Utf8, true);
        Arc::new(dpone_planner::types::with_native(field, "postgres", native))
    };
    let target = Relation::new("s", "t");
    for native in
        ["text; DROP TABLE t", "text DEFAULT 'x'", "text CHECK (true)", "text)", "text --", "varchar(20) NOT NULL"]
    {
        for change in [
            SchemaChange::AddColumn { column: field(native) },
            SchemaChange::AlterType { from: field("text"), to: field(native) },
            SchemaChange::SetCollation { column: field(native), collation: "C".into() },
        ] {
            assert!(PostgresDialect.render(&target, &change).is_err(), "{native}");
        }
    }
}
