//! CSV: records, types and values.

mod infer;
mod records;
mod values;

pub(crate) use infer::Guess;
pub(crate) use records::{Records, Syntax};
pub(crate) use values::{Nulls, column, declared};
