//! The ledger in PostgreSQL.

mod client;
mod error;
mod runs;
mod schema;
mod store;

pub(crate) use schema::CHAIN;
pub(crate) use store::Store;
