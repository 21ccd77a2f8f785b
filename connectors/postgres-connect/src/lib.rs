//! Opening connections to PostgreSQL as libpq understands a request: connection strings, services, `PG*` variables,
//! password files and TLS. It speaks no SQL, and there is no Arrow in it: the connector and the execution ledger both
//! stand on it.

mod config;
mod dsn;
mod error;
mod files;
mod keywords;
mod tls;

pub use config::{Config, SslMode};
pub use error::{Error, Result, cause, chain};
pub use keywords::{Keywords, PARAMETERS, Request};
