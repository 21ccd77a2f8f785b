//! The conformance suite that every connector calls: what the ports promise, checked against a real system.
//!
//! A check fails with an error that says which promise was broken. Tests give the suite a sink and a table name that
//! is free; the suite leaves nothing behind that a rerun would trip over, except the tables themselves.

mod rows;
mod sink;

pub use rows::{batch, read_rows};
pub use sink::sink_conformance;

use crate::{Error, Result};

pub(crate) fn ensure(holds: bool, promise: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::internal(format!("conformance: {promise}"))) }
}

pub(crate) fn ensure_eq<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, promise: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::internal(format!("conformance: {promise}: expected {expected:?}, found {found:?}")))
}
