//! The ledger in PostgreSQL.

mod client;
mod config;
mod dsn;
mod error;
mod passfile;
mod schema;
mod store;
mod tls;

pub(crate) use config::PostgresConfig;
pub(crate) use schema::CHAIN;
pub(crate) use store::Store;
