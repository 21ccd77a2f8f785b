//! The target's rows, as readers that are not ours see them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value as Json, json};

use crate::lake::PYTHON_HINT;
use crate::oracle::{Kind, Row};
use crate::{ClickHouse, Pg, environment};

/// Every row of a table, by the server. The table has these columns, and no others.
pub fn postgres_rows(pg: &Pg, table: &str, columns: &[(String, Kind)]) -> Vec<Row> {
    let there = pg.value(&format!(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
    ));
    assert_eq!(there, columns.len().to_string(), "the number of columns of {table}");
    let texts: Vec<_> = columns
        .iter()
        .map(|(name, kind)| match kind {
            Kind::Timestamptz => format!("(\"{name}\" AT TIME ZONE 'UTC')::text || '+00'"),
            _ => format!("\"{name}\"::text"),
        })
        .collect();
    pg.table(&format!("SELECT {} FROM {table}", texts.join(", ")))
}

/// Every row of a table, by the server, as PostgreSQL spells them. The table has these columns, and no others but the
/// two by which it replaces rows.
pub(super) fn clickhouse_rows(clickhouse: &ClickHouse, table: &str, columns: &[(String, Kind)]) -> Vec<Row> {
    let replaces = clickhouse.value(&format!(
        "SELECT engine FROM system.tables WHERE database = '{}' AND name = '{table}'",
        clickhouse.database
    )) == "ReplacingMergeTree";
    let there = clickhouse.value(&format!(
        "SELECT count() FROM system.columns WHERE database = '{}' AND table = '{table}' \
         AND name NOT IN ('__dpone__version', '__dpone__deleted')",
        clickhouse.database
    ));
    assert_eq!(there, columns.len().to_string(), "the number of columns of {table}");
    let texts: Vec<_> = columns
        .iter()
        .map(|(name, kind)| {
            let name = format!("`{name}`");
            match kind {
                Kind::SmallInt | Kind::Int | Kind::BigInt | Kind::Boolean | Kind::Date | Kind::Uuid => {
                    format!("toString({name})")
                }
                Kind::Decimal(_, scale) => format!("toDecimalString({name}, {scale})"),
                Kind::Real | Kind::Double => format!(
                    "multiIf(isNaN({name}), 'NaN', isInfinite({name}), if({name} > 0, 'Infinity', '-Infinity'), \
                     replaceRegexpOne(toString({name}), 'e([0-9])', 'e+\\\\1'))"
                ),
                Kind::Numeric | Kind::Text | Kind::Varchar(_) | Kind::Jsonb => name,
                Kind::Timestamp => format!("replaceRegexpOne(toString({name}), '[.]?0+$', '')"),
                Kind::Timestamptz => {
                    format!("concat(replaceRegexpOne(toString(toTimeZone({name}, 'UTC')), '[.]?0+$', ''), '+00')")
                }
                Kind::Bytea => format!("concat('\\\\x', lower(hex({name})))"),
            }
        })
        .collect();
    let last = if replaces { " FINAL" } else { "" };
    clickhouse.table(&format!("SELECT {} FROM {table}{last}", texts.join(", ")))
}

/// A Python process that reads Delta tables, for as many reads as a test has.
#[derive(Debug)]
pub struct DeltaReader {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl DeltaReader {
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/delta_rows.py");
        let mut command = Command::new(environment(PYTHON_HINT));
        let mut child =
            command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
        let (requests, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, requests, answers }
    }

    /// Every row of a table, which has these columns and no others.
    pub fn rows(&mut self, table: &Path, columns: &[(String, Kind)]) -> Vec<Row> {
        let names: Vec<_> = columns.iter().map(|(name, _)| name).collect();
        let request = json!({"path": table, "columns": names});
        let mut answer = String::new();
        writeln!(self.requests.as_mut().unwrap(), "{request}").expect("Python listens");
        self.answers.read_line(&mut answer).expect("Python answers");
        let answer: Json = serde_json::from_str(&answer).expect("an answer; Python's own words are in stderr");
        assert_eq!(answer["other_columns"], json!([]), "columns of {} that nobody asked for", table.display());
        serde_json::from_value(answer["rows"].clone()).expect("rows of texts and nulls")
    }
}

impl Drop for DeltaReader {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.wait();
    }
}
