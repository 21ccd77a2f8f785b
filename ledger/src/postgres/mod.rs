//! The ledger in PostgreSQL.

mod client;
mod error;
mod schema;
mod store;

pub(crate) use schema::CHAIN;
pub(crate) use store::Store;
