//! What a connection was asked for with, each keyword from the first place that has it: the caller's options, the URL, the
//! service file, `PG*` variables.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::{dsn, files};

/// libpq's keywords that are understood.
pub const PARAMETERS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "service",
    "servicefile",
    "application_name",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "target_session_attrs",
    "load_balance_hosts",
    "channel_binding",
    "options",
];

/// Keywords that a URL, a service or a variable may give, and that mean nothing here because only one value works.
const ACCEPTED: &[(&str, &[&str])] = &[
    ("client_encoding", &["utf8", "utf-8", "unicode", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
    ("replication", &["false", "off", "no", "0"]),
];

const VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGAPPNAME", "application_name"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGOPTIONS", "options"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGCHANNELBINDING", "channel_binding"),
];

/// What a caller was given.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// By libpq's keyword, or by one of `extra`. They come before the URL.
    pub options: &'a BTreeMap<String, String>,
    /// A URL, or libpq's `key=value` form.
    pub url: Option<&'a str>,
    /// Keywords of the caller's own, which a URL may give too.
    pub extra: &'a [&'a str],
    /// Where relative paths start.
    pub base_dir: &'a Path,
    /// What the server is told where the request has no `application_name`.
    pub application_name: &'a str,
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// It may hold a password.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

/// What was asked for, by keyword. It may hold a password.
pub struct Keywords(BTreeMap<String, String>);

impl fmt::Debug for Keywords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Keywords {
    /// All keywords, each from the first place that has it.
    pub(crate) fn gather(request: &Request<'_>) -> Result<Self> {
        let mut keywords = request.options.clone();
        let env = request.env;
        if let Some(url) = request.url {
            for (key, value) in dsn::parse(url)? {
                known(&key, &value, "the connection URL", request.extra)?;
                keywords.entry(key).or_insert(value);
            }
        }
        if let Some(name) = keywords.get("service").cloned().or_else(|| env("PGSERVICE")) {
            let file = keywords.get("servicefile").map(|f| request.base_dir.join(f).display().to_string());
            let with_file = |variable: &str| match (variable, &file) {
                ("PGSERVICEFILE", Some(file)) => Some(file.clone()),
                _ => env(variable),
            };
            for (key, value) in files::service(&name, &with_file)? {
                known(&key, &value, &format!("the service {name:?}"), request.extra)?;
                keywords.entry(key).or_insert(value);
            }
        }
        for (variable, key) in VARIABLES {
            if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
                keywords.entry((*key).to_owned()).or_insert(value);
            }
        }
        Ok(Self(keywords))
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key)
            .map(|text| {
                text.trim()
                    .parse()
                    .map_err(|_| Error::new(format!("option {key:?}: expected a whole number, not negative")))
            })
            .transpose()
    }

    /// A number in `unit`, or a number with one of PostgreSQL's units. Zero means none.
    pub fn duration(&self, key: &str, unit: Duration) -> Result<Option<Duration>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = match text[digits..].trim() {
            "" => Some(unit),
            "ms" => Some(Duration::from_millis(1)),
            "s" => Some(Duration::from_secs(1)),
            "min" => Some(Duration::from_secs(60)),
            "h" => Some(Duration::from_secs(3600)),
            _ => None,
        };
        match (text[..digits].parse::<u32>(), unit) {
            (Ok(number), Some(unit)) => Ok(Some(unit * number)),
            _ => Err(Error::new(format!("option {key:?}: expected a number, or a number and ms, s, min or h"))),
        }
    }
}

fn known(key: &str, value: &str, place: &str, extra: &[&str]) -> Result<()> {
    let usable = PARAMETERS.contains(&key) || extra.contains(&key);
    if usable || ACCEPTED.iter().any(|(k, values)| *k == key && values.contains(&value.to_ascii_lowercase().as_str())) {
        return Ok(());
    }
    let names: Vec<&str> = PARAMETERS.iter().chain(extra).copied().collect();
    Err(Error::new(if ACCEPTED.iter().any(|(k, _)| *k == key) {
        format!("{place} sets {key:?} to a value that is not supported")
    } else {
        format!("{place} has the parameter {key:?}, which is not supported")
    })
    .with_hint(format!("supported are {}", names.join(", "))))
}
