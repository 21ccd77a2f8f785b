//! From the driver's errors to ours: the kind by SQLSTATE, the message without anything that a row held.
//!
//! A server's DETAIL and CONTEXT quote rows (`Key (email)=(…) already exists`, `COPY t, line 7, column x: "…"`), so they
//! are dropped always. Messages of data exceptions quote the value, so they are replaced by what the code means.

use dpone_engine::{ErrorClassifier, ErrorRule};
use dpone_planner::{Error, ErrorKind};
use dpone_postgres_connect::{cause, chain};
use tokio_postgres::error::{DbError, SqlState};

use crate::config::PostgresConfig;

/// An error of a statement.
pub fn from_driver(error: tokio_postgres::Error) -> Error {
    if let Some(db) = error.as_db_error() {
        return from_server(db);
    }
    if error.is_closed() {
        return Error::transient("the server closed the connection").with_hint("the server's log says why");
    }
    if let Some(io) = cause::<std::io::Error>(&error) {
        return Error::transient(format!("the connection to the server failed: {}", describe_io(io)));
    }
    // Conversions and protocol errors: ours, or a server that speaks another protocol.
    Error::internal(format!("talking to the server failed: {}", chain(&error)))
}

/// An error while connecting: names the place, and what to look at.
pub fn from_connect(error: tokio_postgres::Error, config: &PostgresConfig) -> Error {
    let address = config.address();
    let named = |error: Error| error.with("connection", &config.connection);
    if let Some(db) = error.as_db_error() {
        return named(from_server(db).with("address", address));
    }
    let text = chain(&error);
    if text.contains("does not support TLS") {
        return named(
            Error::configuration(format!(
                "{address} has no TLS, and the connection asks for sslmode={}",
                config.ssl_mode().as_str()
            ))
            .with_hint("turn TLS on at the server; or, on a network that you trust, set sslmode: disable"),
        );
    }
    if let Some(tls) = cause::<rustls::Error>(&error) {
        return named(from_tls(tls, &address, config));
    }
    if text.contains("password missing") || text.contains("authentication error") {
        return named(
            Error::authorization(format!("{address} asks user {:?} for a password, and none is given", config.user()))
                .with_hint("set the option \"password\" to env:NAME or file:PATH, or add a line to ~/.pgpass"),
        );
    }
    if let Some(io) = cause::<std::io::Error>(&error) {
        return named(from_io(io, &address));
    }
    if error.is_closed() {
        return named(Error::transient(format!("{address} closed the connection while it was being opened")));
    }
    named(Error::unknown(format!("cannot connect to {address}: {text}")))
}

fn from_tls(error: &rustls::Error, address: &str, config: &PostgresConfig) -> Error {
    use rustls::{CertificateError, Error as Tls};
    let hint = match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "set sslrootcert to the certificate of the authority that signed the server's certificate"
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "connect by the name in the server's certificate, or set sslmode: verify-ca to check the authority alone",
        Tls::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "renew the server's certificate"
        }
        Tls::AlertReceived(_) => "the server refused: it may ask for a client certificate (sslcert and sslkey)",
        _ => "check sslmode, sslrootcert, sslcert and sslkey",
    };
    Error::configuration(format!("TLS with {address} failed (sslmode={}): {error}", config.ssl_mode().as_str()))
        .with_hint(hint)
}

fn from_io(error: &std::io::Error, address: &str) -> Error {
    use std::io::ErrorKind::*;
    match error.kind() {
        ConnectionRefused => Error::transient(format!("{address} refused the connection"))
            .with_hint("is the server running, and does it listen on this address and port?"),
        NotFound => Error::transient(format!("there is no socket {address}"))
            .with_hint("is the server running, and is this its unix_socket_directories?"),
        TimedOut => Error::transient(format!("{address} did not answer in time"))
            .with_hint("check the address and firewalls; connect_timeout sets how long to wait"),
        PermissionDenied => Error::authorization(format!("cannot open {address}: permission denied")),
        _ if error.to_string().contains("lookup address") => {
            let temporary = error.to_string().contains("Temporary failure");
            let kind = if temporary { ErrorKind::Transient } else { ErrorKind::Configuration };
            Error::new(kind, format!("the host name in {address} cannot be resolved"))
                .with_hint("check the spelling of the host, and the machine's DNS")
        }
        _ => Error::transient(format!("cannot connect to {address}: {}", describe_io(error))),
    }
}

/// An error that the server reported.
pub fn from_server(db: &DbError) -> Error {
    let code = db.code().code();
    // Two sessions made things of similar names at the same moment: a catalog's own index, and no rows of anybody.
    let kind = if code == "23505" && db.schema() == Some("pg_catalog") { ErrorKind::Transient } else { kind(code) };
    let message = if shows_values(code) {
        format!("{} (SQLSTATE {code})", meaning(code))
    } else {
        format!("{} (SQLSTATE {code})", db.message())
    };
    let mut error = Error::new(kind, message);
    for (key, value) in
        [("table", db.table()), ("column", db.column()), ("constraint", db.constraint()), ("type", db.datatype())]
    {
        if let Some(value) = value {
            error = error.with(key, value);
        }
    }
    match hint(code).or(if shows_values(code) { None } else { db.hint() }) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Two sessions chose one name at the same moment. The server derives the names of array types from those of tables, and
/// where these are long and alike, it can choose the same one twice.
pub(crate) fn is_name_race(error: &Error) -> bool {
    error.is_transient() && error.context().iter().any(|(key, name)| *key == "constraint" && name.starts_with("pg_"))
}

/// Whether the server's message may quote a value. Only classes whose messages are known to speak of names and
/// settings alone are shown.
fn shows_values(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    !matches!(
        class,
        "08" | "0A"
            | "23"
            | "25"
            | "26"
            | "28"
            | "2B"
            | "34"
            | "3D"
            | "3F"
            | "40"
            | "42"
            | "53"
            | "54"
            | "55"
            | "57"
            | "58"
            | "72"
            | "XX"
    )
}

/// SQLSTATE, by its classes, and by single codes where these differ from their class.
pub static ERRORS: ErrorClassifier = ErrorClassifier {
    system: "postgres",
    codes: "SQLSTATE",
    rules: &[
        ErrorRule { codes: &["08*"], class: ErrorKind::Transient, means: "the connection was refused, or broke" },
        ErrorRule {
            codes: &["40*"],
            class: ErrorKind::Transient,
            means: "a deadlock, or a transaction that cannot be serialised beside others",
        },
        ErrorRule { codes: &["53*"], class: ErrorKind::Transient, means: "no connection or no memory is left" },
        ErrorRule {
            codes: &["55*", "57*"],
            class: ErrorKind::Transient,
            means: "a lock that is not to be had in time, a statement that was cancelled or timed out, a server that shuts down \
                    or starts",
        },
        ErrorRule {
            codes: &["25P02", "25P03", "25P04"],
            class: ErrorKind::Transient,
            means: "a transaction that was idle or took too long",
        },
        ErrorRule { codes: &["72*"], class: ErrorKind::Transient, means: "the snapshot is too old" },
        ErrorRule { codes: &["28*"], class: ErrorKind::Authorization, means: "user, password or pg_hba.conf" },
        ErrorRule { codes: &["42501"], class: ErrorKind::Authorization, means: "a grant is missing" },
        ErrorRule {
            codes: &["22*"],
            class: ErrorKind::DataQuality,
            means: "a value has not the form, the range or the length that is asked for",
        },
        ErrorRule {
            codes: &["23*", "44*"],
            class: ErrorKind::DataQuality,
            means: "a row breaks a constraint: NOT NULL, unique, foreign key, check, or the condition of a view",
        },
        ErrorRule {
            codes: &["P0*"],
            class: ErrorKind::DataQuality,
            means: "a trigger or a function of the database raised an exception",
        },
        ErrorRule {
            codes: &["42*", "3D*", "3F*"],
            class: ErrorKind::Configuration,
            means: "a table, column, function, schema or database is not there, or the SQL is wrong",
        },
        ErrorRule {
            codes: &["0A*", "25*", "26*", "2B*", "34*", "54*", "55000"],
            class: ErrorKind::Configuration,
            means: "the server cannot do this, or not in this state: a standby that is read-only, a limit of the server",
        },
        ErrorRule {
            codes: &["53400", "57P04"],
            class: ErrorKind::Configuration,
            means: "a limit that was set, such as temp_file_limit, or a database that was dropped: trying again changes nothing",
        },
        ErrorRule {
            codes: &["53100"],
            class: ErrorKind::Unknown,
            means: "the server's disk is full: somebody has to look",
        },
    ],
    otherwise: ErrorKind::Unknown,
};

fn kind(code: &str) -> ErrorKind {
    ERRORS.classify(code)
}

fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "53300" => "the server has no free connection: lower the parallelism or max_connections, or raise the server's",
        "57014" => {
            "a statement_timeout of the server or the role may be too short: set the connection's statement_timeout (0 for none)"
        }
        "28P01" | "28000" => "check user, password and the server's pg_hba.conf",
        "25006" => "the server is a standby or read-only: connect to the primary to write",
        "53100" => "the server's disk is full",
        "53400" => "raise the limit of the server or the role, such as temp_file_limit, or read less at once",
        "42501" => "grant the role what the statement needs",
        "3D000" => "check the option \"database\"",
        "40001" | "40P01" => "another transaction was in the way; the same run may succeed later",
        "55P03" => "another session holds a lock on the table",
        _ => return None,
    })
}

/// What a code means, where the server's own message is not shown.
fn meaning(code: &str) -> &'static str {
    match code {
        "22P02" => "a value has not the form that its type asks for",
        "22003" => "a number is out of its type's range",
        "22001" => "a text is longer than its column",
        "22007" => "a date or time has not the form that its type asks for",
        "22008" => "a date or time is out of range",
        "22012" => "division by zero",
        "22021" => "a text holds bytes that are not valid in the database's encoding",
        "22P03" => "a value's binary form is not valid for its type",
        "22P04" => "the copied data has the wrong form",
        "22P05" => "a text holds a character that the other encoding does not have",
        "22023" => "a parameter has a value that is not allowed",
        "2200N" | "2200M" => "a text is not XML",
        "22030" | "22032" => "a text is not JSON",
        "22004" | "22002" => "a null is where none is allowed",
        "P0001" => "a trigger, rule or function of the database raised an exception",
        _ if code.starts_with("22") => "the server refused a value",
        _ if code.starts_with("P0") => "a trigger, rule or function of the database failed",
        _ if code.starts_with("38") || code.starts_with("39") => "a function of the database failed",
        _ if code.starts_with("HV") => "a foreign server failed",
        _ => "the server reported an error",
    }
}

/// Whether the server cancelled the statement because it was asked to.
pub fn is_cancelled(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

fn describe_io(error: &std::io::Error) -> String {
    error.kind().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_a_code_says_what_to_do() {
        use ErrorKind::*;
        for (code, want) in [
            ("08006", Transient),
            ("57P01", Transient),
            ("57P03", Transient),
            ("57P04", Configuration),
            ("40001", Transient),
            ("40P01", Transient),
            ("53300", Transient),
            ("55P03", Transient),
            ("28P01", Authorization),
            ("42501", Authorization),
            ("22P02", DataQuality),
            ("23505", DataQuality),
            ("42P01", Configuration),
            ("42703", Configuration),
            ("3D000", Configuration),
            ("25006", Configuration),
            ("XX000", Unknown),
        ] {
            assert_eq!(kind(code), want, "{code}");
        }
    }

    #[test]
    fn messages_that_may_quote_values_are_replaced() {
        for code in ["22P02", "22003", "22007", "22008", "22001", "P0001", "HV000", "44000", "99999"] {
            assert!(shows_values(code), "{code}");
        }
        for code in ["42P01", "23505", "57014", "28P01", "53300"] {
            assert!(!shows_values(code), "{code}");
        }
    }
}
