//! The ledger in a SQLite file, for where there is no server.

mod runs;
mod schema;
mod store;

pub(crate) use schema::CHAIN;
pub(crate) use store::{PATIENCE, Store};
