//! What a reader sees while a load is committed into ClickHouse: every row of the tables on the page about ClickHouse as a
//! sink, polled. What the page calls whole is never seen in part; what it does not, is seen in part, and no worse than it
//! says.

use std::collections::BTreeMap;

use dpone_tests::{assert_same_rows, every_case};

use crate::clickhouse_sink::{Case, FILE, ROW, TARGETS};
use crate::matrix::From;
use crate::orders::{self, STRATEGIES};

/// What the page says that a reader sees beside the rows of before and the rows of after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// Some partitions as they were, others as they will be.
    SomePartitions,
    /// Rows that change can be missing; all others are there, and no key is there twice.
    RowsMissing,
}

const CASES: &[(&str, &str, Seen)] = &[
    ("lightweight deletion", "full_refresh (exchange)", Seen::Nothing),
    ("lightweight deletion", "full_refresh (truncate_insert)", Seen::Nothing),
    ("lightweight deletion", "incremental_append", Seen::Nothing),
    ("lightweight deletion", "incremental_merge", Seen::RowsMissing),
    ("lightweight deletion", "snapshot_diff", Seen::RowsMissing),
    ("lightweight deletion", "replace", Seen::RowsMissing),
    ("lightweight deletion", "partition_replace", Seen::RowsMissing),
    ("mutation", "incremental_merge", Seen::RowsMissing),
    ("mutation", "replace", Seen::RowsMissing),
    ("shadow swap", "incremental_merge", Seen::Nothing),
    ("shadow swap", "snapshot_diff", Seen::Nothing),
    ("shadow swap", "replace", Seen::Nothing),
    ("shadow swap", "partition_replace", Seen::Nothing),
    ("versions", "incremental_merge", Seen::Nothing),
    ("versions", "snapshot_diff", Seen::Nothing),
    ("months", "full_refresh (exchange)", Seen::Nothing),
    ("months", "full_refresh (truncate_insert)", Seen::SomePartitions),
    ("months", "incremental_append", Seen::SomePartitions),
    // The scope is one partition.
    ("months", "replace", Seen::Nothing),
    ("months", "partition_replace", Seen::SomePartitions),
    ("months", "incremental_merge", Seen::RowsMissing),
];

/// The rows of an answer, in an order of their own. One that is an error fails here.
fn rows(answer: &str) -> Vec<String> {
    let mut rows: Vec<String> = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
    rows.sort_unstable();
    rows
}

fn seen_by_a_reader(into: &str, by: &str, allowed: Seen) {
    let target = TARGETS.iter().find(|t| t.name == into).unwrap();
    let strategy = STRATEGIES.iter().find(|s| s.name == by).unwrap();
    let case = Case::new(From::Postgres, strategy, target);
    case.project.run(FILE, "first").ok();
    case.outside(strategy);
    case.oracle(strategy);
    orders::change(&case.pg);
    let all = format!("SELECT toJSONString(groupArray({ROW})) FROM orders{} FORMAT TabSeparatedRaw", case.last());
    let before = rows(&case.ch.execute(&all));
    let stop = case.ch.poll(&all);
    // Time for the reader between two steps, where there are two.
    case.project.run_with_failpoint(FILE, "second", "commit.step=sleep:200").ok();
    let mut seen: Vec<_> = stop().iter().map(|answer| rows(answer)).collect();
    let after = rows(&case.ch.execute(&all));
    let what = format!("{by} by {into}");
    assert_same_rows(&what, case.oracle(strategy), after.clone());
    assert_ne!(before, after, "{what}");
    assert_eq!((seen.first(), seen.last()), (Some(&before), Some(&after)), "{what}");
    seen.retain(|rows| *rows != before && *rows != after);
    for rows in &seen {
        match allowed {
            Seen::Nothing => {
                panic!("{what}: a reader saw {} rows, neither those of before nor those of after", rows.len())
            }
            Seen::SomePartitions => by_partition(&what, rows, &before, &after),
            Seen::RowsMissing => with_rows_missing(&what, rows, &before, &after),
        }
    }
    assert_eq!(seen.is_empty(), allowed == Seen::Nothing, "{what}: the page says less than is kept, or nobody looked");
}

fn by_partition(what: &str, seen: &[String], before: &[String], after: &[String]) {
    let divided = |rows: &[String]| {
        let mut months: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in rows {
            // A note may have any character but the one that divides columns.
            let date = row.split('|').nth(6).unwrap();
            months.entry(date[..7].to_owned()).or_default().push(row.clone());
        }
        months
    };
    let (seen, before, after) = (divided(seen), divided(before), divided(after));
    for month in before.keys().chain(after.keys()) {
        let (seen, before, after) = (seen.get(month), before.get(month), after.get(month));
        assert!(seen == before || seen == after, "{what}: a reader saw a part of the partition {month}");
    }
}

fn with_rows_missing(what: &str, seen: &[String], before: &[String], after: &[String]) {
    for row in before.iter().filter(|row| after.binary_search(row).is_ok()) {
        let in_scope = what.starts_with("replace") || what.starts_with("partition_replace");
        // All rows of a scope are replaced, also those that stay as they are.
        assert!(in_scope || seen.binary_search(row).is_ok(), "{what}: a row was missing that did not change");
    }
    let outside = |row: &&String| row.starts_with("9000001|");
    assert_eq!(seen.iter().filter(outside).count(), before.iter().filter(outside).count(), "{what}: outside the scope");
    for row in seen {
        let there = before.binary_search(row).is_ok() || after.binary_search(row).is_ok();
        assert!(there, "{what}: a reader saw a row that never was");
    }
    let mut keys: Vec<_> = seen.iter().map(|row| row.split('|').next().unwrap()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), seen.len(), "{what}: a reader saw two versions of a row");
}

fn polled(which: impl Fn(&str) -> bool) {
    let cases = CASES.iter().filter(|(target, ..)| which(target));
    every_case(cases, |(into, by, allowed)| seen_by_a_reader(into, by, *allowed));
}

#[test]
fn a_reader_sees_what_the_page_says() {
    polled(|target| target == "lightweight deletion" || target == "mutation");
}

#[test]
fn a_reader_sees_what_the_page_says_of_swaps_and_versions() {
    polled(|target| target == "shadow swap" || target == "versions");
}

#[test]
fn a_reader_sees_what_the_page_says_of_partitions() {
    polled(|target| target == "months");
}

#[test]
fn a_reader_of_a_table_that_is_made_sees_no_table_or_a_finished_one() {
    for into in ["lightweight deletion", "months", "versions"] {
        let target = TARGETS.iter().find(|t| t.name == into).unwrap();
        let case = Case::new(From::Postgres, &STRATEGIES[4], target);
        let stop = case.ch.poll("SELECT count() FROM orders FORMAT TabSeparatedRaw");
        case.project.run_with_failpoint(FILE, "first", "commit.step=sleep:200").ok();
        // The server's words about a table that is not there differ with the tables that are.
        let mut seen = stop();
        seen.dedup_by(|a, b| a.contains("UNKNOWN_TABLE") && b.contains("UNKNOWN_TABLE"));
        assert_eq!(seen.len(), 2, "{into}: {seen:?}");
        assert!(seen[0].contains("UNKNOWN_TABLE") && seen[1].trim() == "400", "{into}: {seen:?}");
    }
}
