//! The driver's errors as ours: what the server says, without the detail that quotes rows, and what to look at.

use std::io::ErrorKind as Io;

use dpone_postgres_connect::{Config, cause, chain};
use rustls::CertificateError;
use tokio_postgres::error::DbError;

use crate::error::{Error, ErrorKind};

/// An error of a statement.
pub(super) fn from_driver(error: tokio_postgres::Error) -> Error {
    if let Some(db) = error.as_db_error() {
        return from_server(db);
    }
    if error.is_closed() {
        return Error::database("the server closed the connection").with_hint("the server's log says why");
    }
    Error::database(format!("talking to the server failed: {}", chain(&error)))
}

/// An error while connecting: names the place.
pub(super) fn from_connect(error: tokio_postgres::Error, config: &Config) -> Error {
    let address = config.address();
    let text = chain(&error);
    if let Some(db) = error.as_db_error() {
        let server = from_server(db);
        let named = Error::new(server.kind(), format!("{address}: {server}"));
        return match server.hint() {
            Some(hint) => named.with_hint(hint),
            None => named,
        };
    }
    let mode = config.ssl_mode().as_str();
    if text.contains("does not support TLS") {
        return Error::database(format!("{address} has no TLS, and the connection asks for sslmode={mode}"))
            .with_hint("turn TLS on at the server; or, on a network that you trust, add ?sslmode=disable");
    }
    if let Some(tls) = cause::<rustls::Error>(&error) {
        return Error::database(format!("TLS with {address} failed (sslmode={mode}): {tls}")).with_hint(tls_hint(tls));
    }
    if text.contains("password missing") || text.contains("authentication error") {
        return Error::database(format!("{address} asks user {:?} for a password, and none is given", config.user()))
            .with_hint("write user:password@ in the connection string, set PGPASSWORD, or add a line to ~/.pgpass");
    }
    match cause::<std::io::Error>(&error) {
        Some(io) => from_io(io, &address),
        None if error.is_closed() => {
            Error::database(format!("{address} closed the connection while it was being opened"))
        }
        None => Error::database(format!("cannot connect to {address}: {text}")),
    }
}

fn tls_hint(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "set sslrootcert to the certificate of the authority that signed the server's certificate"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "connect by the name in the server's certificate, or use sslmode=verify-ca to check the authority alone",
        rustls::Error::AlertReceived(_) => "the server may ask for a client certificate: sslcert and sslkey",
        _ => "check sslmode, sslrootcert, sslcert and sslkey",
    }
}

fn from_io(error: &std::io::Error, address: &str) -> Error {
    match error.kind() {
        Io::ConnectionRefused => Error::database(format!("{address} refused the connection"))
            .with_hint("is the server running, and does it listen on this address and port?"),
        Io::NotFound => Error::database(format!("there is no socket {address}")).with_hint("is the server running?"),
        Io::TimedOut => Error::database(format!("{address} did not answer in time"))
            .with_hint("check the address and firewalls; connect_timeout sets how long to wait"),
        _ if error.to_string().contains("lookup address") => {
            Error::database(format!("the host name in {address} cannot be resolved"))
        }
        kind => Error::database(format!("cannot connect to {address}: {kind}")),
    }
}

fn from_server(db: &DbError) -> Error {
    let code = db.code().code();
    let kind = match code {
        // Insufficient privilege; a standby, or a database that is read-only.
        "42501" | "25006" => ErrorKind::NotAllowed,
        _ => ErrorKind::Database,
    };
    let error = Error::new(kind, format!("{} (SQLSTATE {code})", db.message()));
    match hint(code) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" | "28000" => "check user, password and the server's pg_hba.conf",
        "25006" => "the server is a standby or read-only: connect to the primary to write",
        "42501" => "grant the role what the statement needs, or let the owner run dpo upgrade",
        "42P01" | "42703" => "the tables are not those of the recorded schema revision: dpo current shows it",
        "42P07" => "a table of that name is in the way: dpo current shows where the schema stands",
        "53300" => "the server has no free connection",
        "55P03" => "another session holds a lock on the ledger's tables",
        _ => return None,
    })
}
