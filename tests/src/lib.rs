//! What the suites in `tests/` share: the `dpone` binary, databases on real servers, and readers that are not ours.
//!
//! The suites drive the product from outside, as a user does: definitions in, exit codes, receipts and tables out.
//! `scripts/test` starts the servers and names them in the environment; a missing name fails the test that needs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clickhouse;
mod clickhouse_server;
mod dpone;
mod lake;
pub mod oracle;
mod pg;
pub mod properties;
mod reader;
mod relay;

pub use clickhouse::ClickHouse;
pub use clickhouse_server::ClickHouseServer;
pub use dpone::{Outcome, Project};
pub use lake::{Lake, PYTHON_HINT, write_delta, write_parquet};
pub use pg::{Pg, connect, environment};
pub use reader::PollingReader;
pub use relay::LossyRelay;

/// Where a run may be killed: the failpoints of the commit protocol, in its order.
pub const COMMIT_STEPS: &[&str] = &[
    "lease.acquired",
    "staging.prepared",
    "stage.partition.started",
    "stage.partition.batch",
    "stage.partition.done",
    "staged",
    "verified",
    "commit.begun",
    "commit.applied",
    "commit.acknowledged",
    "committed",
    "discarded",
];

/// Steps of a commit of several statements at which a reader may see a part: what was written down is finished by the
/// next run.
pub const COMMIT_STEPS_BETWEEN: &[&str] =
    &["commit.planned", "commit.step@1", "commit.step@2", "commit.step@3", "commit.recorded"];

/// Fails with the first rows in which two multisets differ. Both are sorted here: order means nothing in a table.
#[track_caller]
pub fn assert_same_rows(what: &str, mut expected: Vec<String>, mut found: Vec<String>) {
    expected.sort_unstable();
    found.sort_unstable();
    if expected == found {
        return;
    }
    let missing = difference(&expected, &found);
    let surplus = difference(&found, &expected);
    panic!(
        "{what}: expected {} rows, found {}; {} missing, such as {:#?}; {} too many, such as {:#?}",
        expected.len(),
        found.len(),
        missing.len(),
        &missing[..missing.len().min(3)],
        surplus.len(),
        &surplus[..surplus.len().min(3)]
    );
}

/// The rows of `a` that are not in `b`, counting repetitions; both are sorted.
fn difference(a: &[String], b: &[String]) -> Vec<String> {
    let mut rest = b.iter().peekable();
    let mut out = Vec::new();
    for row in a {
        while rest.next_if(|other| *other < row).is_some() {}
        if rest.next_if(|other| *other == row).is_none() {
            out.push(row.clone());
        }
    }
    out
}

/// Runs every case, even after one has failed, and then names all that did.
pub fn every_case<T: std::fmt::Debug>(cases: impl IntoIterator<Item = T>, check: impl Fn(&T)) {
    let failed: Vec<String> = cases
        .into_iter()
        .filter(|case| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case))).is_err())
        .map(|case| format!("{case:?}"))
        .collect();
    assert!(failed.is_empty(), "{} cases failed: {}", failed.len(), failed.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[&str]) -> Vec<String> {
        text.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn repetitions_count_and_order_does_not() {
        assert_same_rows("same", rows(&["b", "a", "a"]), rows(&["a", "b", "a"]));
        assert_eq!(difference(&rows(&["a", "a", "b"]), &rows(&["a", "b", "c"])), rows(&["a"]));
        assert_eq!(difference(&rows(&["a", "b", "c"]), &rows(&["a", "a", "b"])), rows(&["c"]));
    }

    #[test]
    #[should_panic(expected = "1 missing")]
    fn a_lost_duplicate_is_seen() {
        assert_same_rows("lost", rows(&["a", "a"]), rows(&["a"]));
    }
}
