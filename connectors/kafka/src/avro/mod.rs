//! Avro schemas: reading them, and which of them read what another one wrote.

mod parse;
mod resolve;

pub(crate) use parse::Schema;
pub(crate) use resolve::read;
