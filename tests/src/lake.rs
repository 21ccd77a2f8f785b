//! Reads what was written, with readers that are not ours: the Python `deltalake` package, DuckDB, PyArrow.

use std::path::Path;
use std::process::Command;

use crate::environment;

pub const PYTHON_HINT: &str = "DPONE_TEST_PYTHON";

/// Files that dpone wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lake {
    /// Read with `deltalake` and again with DuckDB; both must agree.
    Delta,
    Parquet,
    Csv,
}

impl Lake {
    /// Evaluates one DuckDB expression for each row of a table.
    #[track_caller]
    pub fn rows(self, table: &Path, expression: &str) -> Vec<String> {
        let kind = match self {
            Self::Delta => "delta",
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        };
        let text = python("rows.py", &[kind, &table.display().to_string(), expression]);
        serde_json::from_str(&text).expect("rows.py prints a JSON list of strings")
    }
}

/// Writes a Delta table with the Python package from a CSV file that PostgreSQL exported. `types` are DuckDB's.
#[track_caller]
pub fn write_delta(table: &Path, csv: &Path, types: &str) {
    python("write_delta.py", &[&table.display().to_string(), &csv.display().to_string(), types]);
}

/// Writes a Parquet file with DuckDB from a CSV file that PostgreSQL exported.
#[track_caller]
pub fn write_parquet(file: &Path, csv: &Path, types: &str) {
    python("write_parquet.py", &[&file.display().to_string(), &csv.display().to_string(), types]);
}

#[track_caller]
fn python(script: &str, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    let output = Command::new(environment(PYTHON_HINT)).arg(&script).args(arguments).output().expect("Python starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {stderr}", script.display());
    String::from_utf8(output.stdout).unwrap()
}
