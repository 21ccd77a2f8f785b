//! From ClickHouse's errors to ours: the kind by the server's code, the message without anything that a row held.
//!
//! Exceptions about values quote them (`Cannot parse string 'abc' as UInt8`), so the text of a server is shown for those
//! codes alone that are known to speak of names, settings and resources. Others are told by their name.

use std::error::Error as StdError;

use dpone_engine::{ErrorClassifier, ErrorRule};
use dpone_planner::{Error, ErrorKind};

use crate::config::{ClickHouseConfig, Verify};

/// The server's text is cut here: a syntax error can carry a whole query.
const MAX_TEXT: usize = 600;

/// An exception as the server wrote it: `Code: 60. DB::Exception: … (UNKNOWN_TABLE) (version 25.8.1)`. `header` is the
/// code of the answer's head.
pub(crate) fn from_exception(text: &str, header: Option<u32>) -> Error {
    let exception = Exception::parse(text);
    let Some(code) = header.or(exception.code) else {
        return Error::unknown("the server failed, and its answer does not say why");
    };
    let name = exception.name.unwrap_or("an error without a name");
    let message = if shows_values(code) {
        match meaning(code) {
            Some(meaning) => format!("{meaning} (code {code}, {name})"),
            None => format!("the server reported {name} (code {code})"),
        }
    } else {
        format!("{} (code {code}, {name})", exception.message)
    };
    let error = Error::new(kind(code), message).with("code", code.to_string());
    match hint(code) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Whether the server may have meant a setting that came with the statement, and not the statement.
pub(crate) fn may_be_of_a_setting(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Transient | ErrorKind::Authorization | ErrorKind::Conflict)
}

/// What the server says about one setting of the connection, sent alone with a statement that reads nothing: the only value
/// in its text is the setting's. `None` where the answer is not of ClickHouse.
pub(crate) fn of_setting(name: &str, text: &str) -> Option<Error> {
    let exception = Exception::parse(text);
    let code = exception.code?;
    let problem = format!("the server does not take the connection's setting {name:?}: {}", exception.message);
    may_be_of_a_setting(&Error::new(kind(code), "")).then(|| {
        Error::configuration(problem)
            .with("code", code.to_string())
            .with_hint("change it under settings, or in the URL; SELECT * FROM system.settings shows what there is")
    })
}

/// The server's code, where an error is one of a server's.
pub fn code_of(error: &Error) -> Option<u32> {
    error.context().iter().find(|(key, _)| *key == "code").and_then(|(_, code)| code.parse().ok())
}

/// An answer that is none of ClickHouse's: of a proxy, or of another server.
pub(crate) fn from_status(status: u16, config: &ClickHouseConfig) -> Error {
    let address = config.address();
    let text = format!("{address} answered with the HTTP status {status}, and not as ClickHouse does");
    match status {
        401 | 403 | 407 => Error::authorization(text).with_hint("check user and password, and those of a proxy"),
        408 | 425 | 429 | 500 | 502..=504 => Error::transient(text),
        300..=399 => Error::configuration(text).with_hint("give the URL that the answer points to: none is followed"),
        _ => Error::configuration(text).with_hint("is this the port of ClickHouse's HTTP interface?"),
    }
}

/// An error on the way there or back.
pub(crate) fn from_transport(error: reqwest::Error, config: &ClickHouseConfig) -> Error {
    let address = config.address();
    if let Some(tls) = cause::<rustls::Error>(&error) {
        return from_tls(tls, &address, config);
    }
    // Until there is a connection, it is the proxy that is spoken to.
    let reached = match config.proxy_address().filter(|_| error.is_connect()) {
        Some(proxy) => format!("the proxy {proxy}"),
        None => address.clone(),
    };
    if config.proxy.is_some() && chain(&error).contains("proxy authorization required") {
        return Error::authorization(format!("{reached} lets nobody through to {address} without its password"))
            .with_hint("write it into the option proxy: http://user:password@host:port, as env:NAME or file:PATH");
    }
    if let Some(io) = cause::<std::io::Error>(&error) {
        let error = from_io(io, &reached, error.is_connect());
        // A server may close before its alert was read.
        return match io.kind() {
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof if config.client_cert.is_some() => {
                error.with_hint("the server's log says why: it may not trust the certificate of client_cert")
            }
            _ => error,
        };
    }
    if error.is_timeout() {
        return Error::transient(format!("{address} did not answer in time")).with_hint(
            "check the address and firewalls; connect_timeout and send_receive_timeout set how long to wait",
        );
    }
    if error.is_connect() {
        return Error::transient(format!("cannot connect to {reached}: {}", chain(&error.without_url())))
            .with_hint("is the server running, and is this the port of its HTTP interface?");
    }
    if error.is_builder() {
        return Error::internal(format!("a request cannot be made: {}", chain(&error.without_url())));
    }
    let unanswered = error.is_request();
    let failed = Error::transient(format!("the connection to {address} failed: {}", chain(&error.without_url())));
    match unanswered {
        // A server of another kind answers in its own words, or hangs up.
        true => failed.with_hint("if it fails again: is this the port of ClickHouse's HTTP interface?"),
        false => failed,
    }
}

/// Whether the connection was closed before anything of the request was on its way: so it is when a server looks at the
/// client's certificate after the handshake, and its alert is not read yet.
pub(crate) fn was_not_sent(error: &reqwest::Error) -> bool {
    chain(error).contains("connection was not ready")
}

/// The server was silent for longer than it may be.
pub(crate) fn silent(config: &ClickHouseConfig) -> Error {
    let seconds = config.send_receive_timeout.as_secs_f64();
    Error::transient(format!("{} sent nothing for {seconds} s", config.address()))
        .with_hint("send_receive_timeout sets how long a query may be silent")
}

fn from_tls(error: &rustls::Error, address: &str, config: &ClickHouseConfig) -> Error {
    use rustls::{CertificateError, Error as Tls};
    let hint = match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "set ca_cert to the certificate of the authority that signed the server's certificate"
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "connect by the name in the server's certificate, or set verify: ca to check the authority alone",
        Tls::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "renew the server's certificate"
        }
        Tls::InvalidMessage(_) => "the port may speak plain HTTP: 8443 is the usual one with TLS",
        Tls::AlertReceived(_) => {
            "the server refused: it may ask for a client certificate (client_cert and client_cert_key)"
        }
        _ => "check secure, verify, ca_cert, client_cert and client_cert_key",
    };
    let verify = match config.verify {
        Verify::Full => "full",
        Verify::Ca => "ca",
        Verify::None => "none",
    };
    Error::configuration(format!("TLS with {address} failed (verify: {verify}): {error}")).with_hint(hint)
}

fn from_io(error: &std::io::Error, address: &str, connecting: bool) -> Error {
    use std::io::ErrorKind::*;
    match error.kind() {
        ConnectionRefused => Error::transient(format!("{address} refused the connection"))
            .with_hint("is the server running, and does it listen on this address and port?"),
        TimedOut => Error::transient(format!("{address} did not answer in time"))
            .with_hint("check the address and firewalls; connect_timeout sets how long to wait"),
        _ if error.to_string().contains("lookup address") => {
            let temporary = error.to_string().contains("Temporary failure");
            let kind = if temporary { ErrorKind::Transient } else { ErrorKind::Configuration };
            Error::new(kind, format!("the host name in {address} cannot be resolved"))
                .with_hint("check the spelling of the host, and the machine's DNS")
        }
        kind if connecting => Error::transient(format!("cannot connect to {address}: {kind}")),
        kind => {
            Error::transient(format!("{address} closed the connection: {kind}")).with_hint("the server's log says why")
        }
    }
}

/// The first error of this type below `error`. An error inside `std::io::Error` is not among its sources.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
            let inner: &(dyn StdError + 'static) = inner;
            if let Some(found) = cause(inner) {
                return Some(found);
            }
        }
        next = error.source();
    }
    None
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let inner = source.to_string();
        if !text.contains(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        next = source.source();
    }
    text
}

/// The parts of an exception's text.
struct Exception<'a> {
    code: Option<u32>,
    message: String,
    name: Option<&'a str>,
}

impl<'a> Exception<'a> {
    fn parse(text: &'a str) -> Self {
        let text = text.trim();
        let text = text.split("Stack trace:").next().unwrap_or(text).trim_end();
        let rest = text.strip_prefix("Code: ").unwrap_or(text);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let code = rest[..digits].parse().ok();
        let rest = rest[digits..].trim_start_matches('.').trim_start();
        let rest = match rest.split_once("Exception: ") {
            Some((prefix, message)) if prefix.ends_with("::") || prefix.ends_with("Net") || prefix.contains("DB::") => {
                message
            }
            _ => rest,
        };
        let rest = match rest.rfind(" (version ") {
            Some(at) => &rest[..at],
            None => rest,
        };
        let (message, name) = match rest.rfind(" (") {
            Some(at) if is_name(rest[at + 2..].trim_end_matches(')')) => {
                (&rest[..at], Some(rest[at + 2..].trim_end_matches(')')))
            }
            _ => (rest, None),
        };
        let mut message = message.trim().trim_end_matches(['.', ':']).to_owned();
        if let Some((at, _)) = message.char_indices().nth(MAX_TEXT) {
            message.truncate(at);
            message.push('…');
        }
        Self { code, message, name }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Whether the server's text may quote a value.
fn shows_values(code: u32) -> bool {
    !matches!(
        code,
        // Names: of columns, functions, tables, databases, types, formats, settings.
        8 | 10 | 15 | 16 | 20 | 34 | 35 | 42 | 43 | 44 | 46 | 47 | 48 | 50 | 51 | 52 | 56 | 57 | 60 | 62 | 63 | 73 | 79
            | 80 | 81 | 82 | 110 | 115 | 119 | 122 | 137 | 173 | 179 | 184 | 206 | 207 | 215 | 218 | 219 | 248 | 249
            | 344 | 377 | 386 | 403 | 420 | 428 | 452 | 455 | 456 | 475 | 524 | 529 | 549
        // Resources, servers and other queries.
        | 158 | 159 | 160 | 161 | 164 | 191 | 192 | 193 | 194 | 195 | 201 | 202 | 203 | 204 | 209 | 210 | 216 | 225
            | 230 | 232 | 234 | 236 | 241 | 242 | 243 | 244 | 252 | 254 | 279 | 285 | 286 | 289 | 291 | 306 | 307 | 319
            | 359 | 373 | 394 | 396 | 425 | 473 | 479 | 497 | 511 | 512 | 516 | 517 | 571 | 646 | 648 | 700 | 722 | 731
            | 733 | 734 | 745 | 999
    )
}

/// The numbers of the server's exceptions.
pub static ERRORS: ErrorClassifier = ErrorClassifier {
    system: "clickhouse",
    codes: "codes of exceptions",
    rules: &[
        ErrorRule {
            codes: &[
                "3", "32", "33", "95", "99", "100", "101", "102", "159", "198", "201", "202", "203", "204", "209",
                "210", "230", "232", "236", "241", "242", "252", "254", "279", "285", "286", "289", "364", "373",
                "394", "415", "425", "459", "473", "479", "512", "517", "571", "646", "648", "700", "722", "733",
                "734", "745", "999",
            ],
            class: ErrorKind::Transient,
            means: "too much at once, a server or keeper that is away or starting, a query that was cancelled or took too long",
        },
        ErrorRule {
            codes: &["164", "191", "192", "193", "194", "195", "291", "497", "511", "516"],
            class: ErrorKind::Authorization,
            means: "user, password or a grant",
        },
        ErrorRule {
            codes: &[
                "6", "19", "25", "26", "27", "28", "38", "41", "53", "69", "70", "72", "117", "130", "131", "153",
                "190", "303", "321", "349", "395", "407", "435", "436", "457", "467", "469", "577", "594", "632",
                "634", "675", "676", "691",
            ],
            class: ErrorKind::DataQuality,
            means: "a value has not the form, the range or the NULL that its type asks for, or a row breaks a constraint",
        },
        ErrorRule {
            codes: &[
                "8", "10", "15", "16", "20", "34", "35", "36", "42", "43", "44", "46", "47", "48", "50", "51", "52",
                "56", "57", "60", "62", "63", "71", "73", "79", "80", "81", "82", "110", "115", "119", "122", "137",
                "158", "160", "161", "168", "173", "179", "184", "206", "207", "215", "225", "248", "249", "306",
                "307", "344", "359", "377", "386", "396", "403", "420", "428", "452", "455", "456", "475", "524",
                "529", "549",
            ],
            class: ErrorKind::Configuration,
            means: "a table, column, function, setting or format is not there, or the query is wrong",
        },
        ErrorRule { codes: &["218", "219"], class: ErrorKind::Conflict, means: "the table went away under the query" },
    ],
    otherwise: ErrorKind::Unknown,
};

/// What the caller should do.
fn kind(code: u32) -> ErrorKind {
    ERRORS.classify(&code.to_string())
}

fn hint(code: u32) -> Option<&'static str> {
    Some(match code {
        164 => {
            "the user's profile is read-only and takes no settings: readonly = 2 lets it set what queries need, and writing needs readonly = 0"
        }
        159 => "max_execution_time of the user or the connection's settings may be too short",
        202 => {
            "the server runs as many queries as it may: lower the parallelism; a load needs four at once in any case"
        }
        241 => {
            "the query or the server is out of memory: lower the parallelism, or raise max_memory_usage under settings"
        }
        243 => "the server's disk is full",
        252 => "parts are made faster than they are merged: load fewer and larger batches",
        192 | 193 | 194 | 516 => "check user and password",
        195 => "the server lets this user in from other addresses alone",
        291 | 497 => "grant the user what the statement needs",
        60 => {
            "check the name and its database; a table that was there when the run began may have been dropped: run again"
        }
        122 => "the table's columns changed under the statement: run again",
        81 => "check the database in the table's name, and the option \"database\"",
        179 => "two expressions have one name: give each of the query's columns a name of its own with AS",
        395 => "throwIf is called in the query, or in a view that it reads: ask the server what it found",
        456 => "no parameters are sent with a query: write the value in the place of {name:Type}",
        62 => "the query is sent as it is written: is it ClickHouse's SQL?",
        115 => "check the connection's settings: this version of the server does not know one of them",
        452 => "the user's profile does not let the setting be changed",
        279 | 999 => "the server cannot reach its replicas or its keeper",
        _ => return None,
    })
}

/// What a code means, where the server's own text is not shown.
fn meaning(code: u32) -> Option<&'static str> {
    Some(match code {
        6 | 27 | 72 => "a text has not the form that its type asks for",
        19 | 131 => "a text is longer than its column",
        25 => "a text holds an escape that cannot be read",
        26 => "a quoted text cannot be read",
        38 | 41 => "a date or time has not the form that its type asks for",
        53 | 70 => "a value cannot be converted to the type that is asked for",
        69 | 321 => "a number is out of its type's range",
        117 => "data cannot be read in its format",
        153 => "division by zero",
        190 => "arrays that go together have different lengths",
        303 => "a value does not fit",
        349 => "a NULL is where none is allowed",
        395 => "a check in the query failed: throwIf",
        407 => "a calculation went beyond the range of its decimal",
        435 | 436 | 691 => "a text is none of the labels of its enum",
        469 => "a row violates a constraint of its table",
        675 | 676 => "a text is no IP address",
        36 => "a function or setting was given something that it does not take",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_exception_is_told_by_its_code_and_name() {
        let text = "Code: 60. DB::Exception: Table shop.orderz does not exist. Maybe you meant shop.orders?. \
                    (UNKNOWN_TABLE) (version 25.8.1.1 (official build))\n";
        let error = from_exception(text, Some(60));
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert_eq!(
            error.message(),
            "Table shop.orderz does not exist. Maybe you meant shop.orders? (code 60, UNKNOWN_TABLE)"
        );
        assert_eq!(code_of(&error), Some(60));
        let net = from_exception("Code: 210. DB::NetException: I/O error: Broken pipe. (NETWORK_ERROR)", None);
        assert_eq!((net.kind(), code_of(&net)), (ErrorKind::Transient, Some(210)));
        assert_eq!(from_exception("what is this", None).kind(), ErrorKind::Unknown);
        assert_eq!(from_exception("", Some(516)).kind(), ErrorKind::Authorization);
    }

    #[test]
    fn values_are_not_repeated() {
        for (code, name) in
            [(6, "CANNOT_PARSE_TEXT"), (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"), (469, "X"), (9999, "NEW")]
        {
            let error = from_exception(&format!("Code: {code}. DB::Exception: hunter2 is wrong. ({name})"), None);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            assert!(error.message().contains(name), "{error:?}");
        }
    }

    #[test]
    fn every_code_that_asks_for_a_change_of_data_hides_its_text() {
        for code in 0..1100 {
            assert!(kind(code) != ErrorKind::DataQuality || shows_values(code), "{code}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let error = from_exception(&format!("Code: 62. DB::Exception: {}. (SYNTAX_ERROR)", "ä".repeat(5000)), None);
        assert!(error.message().chars().count() < MAX_TEXT + 100);
        assert!(error.message().ends_with("… (code 62, SYNTAX_ERROR)"), "{error}");
    }
}
