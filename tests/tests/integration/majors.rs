//! Each PostgreSQL release that is supported, as source and as sink, with every strategy.

use dpone_tests::{Pg, every_case};

use crate::matrix::{From, Into, load_twice};
use crate::orders::STRATEGIES;

fn every_strategy_on(major: u32) {
    every_case(STRATEGIES, |strategy| {
        let pg = Pg::major(major);
        assert!(pg.value("SHOW server_version").starts_with(&major.to_string()), "the server is PostgreSQL {major}");
        load_twice(&pg, From::Postgres, Into::Postgres, strategy);
    });
}

#[test]
fn postgres_11() {
    every_strategy_on(11);
}

#[test]
fn postgres_12() {
    every_strategy_on(12);
}

#[test]
fn postgres_13() {
    every_strategy_on(13);
}

#[test]
fn postgres_14() {
    every_strategy_on(14);
}

#[test]
fn postgres_15() {
    every_strategy_on(15);
}

#[test]
fn postgres_16() {
    every_strategy_on(16);
}

#[test]
fn postgres_17() {
    every_strategy_on(17);
}

#[test]
fn postgres_18() {
    every_strategy_on(18);
}
