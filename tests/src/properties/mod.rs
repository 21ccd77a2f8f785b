//! Random histories of a source, loaded run by run and compared with the oracle after each.
//!
//! A case is made from a seed alone: the table, the strategy with its options, what happens to the source, which runs
//! are repeated or killed. A failure prints the seed and everything that happened.
//!
//! `DPONE_PROPTEST_CASES` sets how many cases each property has, `DPONE_PROPTEST_SEED` the first seed (alone: only
//! that one).

mod case;
mod definition;
mod design;
mod mirror;
mod random;
mod source;
mod target;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use definition::{Origin, Sink};
pub use design::Design;
pub use random::Random;
pub use source::{Freedom, SourceTable, lines};
pub use target::{DeltaReader, postgres_rows};
pub use values::{date, days, pool};

/// Cases of a property when nothing else is asked: few, so that every change can afford them.
const CASES: u64 = 3;

/// Checks a property: `design` makes the case of each seed.
#[track_caller]
pub fn check(sink: Sink, design: impl Fn(&mut Random) -> Design) {
    check_from(Origin::Postgres, sink, design);
}

/// The same, of cases that read from somewhere else.
#[track_caller]
#[allow(clippy::print_stderr)]
pub fn check_from(from: Origin, sink: Sink, design: impl Fn(&mut Random) -> Design) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let first = number("DPONE_PROPTEST_SEED");
    let cases = number("DPONE_PROPTEST_CASES").unwrap_or(if first.is_some() { 1 } else { CASES });
    let first = first.unwrap_or(1);
    let mut reader = (sink == Sink::Delta).then(DeltaReader::start);
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let mut told = case::Told::default();
    let mut failed = Vec::new();
    for seed in first..first + cases {
        told.history.clear();
        let run = || case::run(seed, from, sink, &design, reader.as_mut(), &mut told);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            eprintln!("seed {seed} of {test} failed, after:\n  {}", told.history.join("\n  "));
            eprintln!("repeat it with: DPONE_PROPTEST_SEED={seed} scripts/test -p dpone-tests -- {test}\n");
            failed.push(seed);
            // The reader may have been left in the middle of an answer.
            reader = (sink == Sink::Delta).then(DeltaReader::start);
        }
    }
    eprintln!("{test}: {cases} cases, {:?}", told.sums);
    assert!(failed.is_empty(), "{} of {cases} cases failed: seeds {failed:?}", failed.len());
}
