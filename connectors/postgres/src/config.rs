//! A connection's options: what the definition says, then what libpq would find, and what is dpone's own.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dpone_engine::ResolvedConnection;
use dpone_planner::{Error, Result};
use dpone_postgres_connect::{Config, Request, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The option names of a connection. All but `url`, `schema`, the two timeouts and `max_connections` are libpq's.
pub const OPTIONS: &[&str] = &[
    "url",
    "host",
    "hostaddr",
    "port",
    "database",
    "dbname",
    "username",
    "user",
    "password",
    "passfile",
    "schema",
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
    "statement_timeout",
    "lock_timeout",
    "max_connections",
];

/// Those that libpq does not know, and that a URL may give too.
const OURS: &[&str] = &["schema", "statement_timeout", "lock_timeout", "max_connections"];

/// How to reach one database.
#[derive(Clone)]
pub struct PostgresConfig {
    /// The connection's name in the definition.
    pub connection: String,
    /// The schema of tables whose name has none.
    pub schema: Option<String>,
    /// `None` keeps what the server or the role says.
    pub statement_timeout: Option<Duration>,
    /// How long a write waits for a lock before it gives up and lets others go on; zero waits for ever.
    pub lock_timeout: Duration,
    /// Connections that are open at the same time, for reading and writing together.
    pub max_connections: usize,
    connect: Config,
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("connection", &self.connection)
            .field("connect", &self.connect)
            .finish_non_exhaustive()
    }
}

impl PostgresConfig {
    pub fn new(connection: &ResolvedConnection) -> Result<Self> {
        Self::resolve(connection, &|name| std::env::var(name).ok())
            .map_err(|error| error.with("connection", &connection.name))
    }

    /// `host:port`, or a socket's folder, for messages. Several are separated by commas.
    pub fn address(&self) -> String {
        self.connect.address()
    }

    pub fn database(&self) -> &str {
        self.connect.database()
    }

    /// Server and database, without who asks.
    pub fn place(&self) -> String {
        format!("{}/{}", self.address(), self.database())
    }

    pub fn user(&self) -> &str {
        self.connect.user()
    }

    pub fn ssl_mode(&self) -> SslMode {
        self.connect.ssl_mode()
    }

    /// What the driver gets, for one try: `allow` tries plain first and then TLS, everything else has one.
    pub(crate) fn driver(&self) -> &tokio_postgres::Config {
        self.connect.driver()
    }

    pub(crate) fn tls(&self) -> Result<MakeRustlsConnect> {
        self.connect.tls().map_err(misconfigured)
    }

    fn resolve(connection: &ResolvedConnection, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let options = options(connection)?;
        let request = Request {
            options: &options,
            url: connection.get("url"),
            extra: OURS,
            base_dir: &connection.base_dir,
            application_name: "dpone",
            env,
        };
        let (connect, keywords) = Config::resolve(request).map_err(misconfigured)?;
        let milliseconds = |key| keywords.duration(key, Duration::from_millis(1)).map_err(misconfigured);
        Ok(Self {
            connection: connection.name.clone(),
            schema: keywords.get("schema").map(str::to_owned),
            statement_timeout: milliseconds("statement_timeout")?,
            lock_timeout: milliseconds("lock_timeout")?.unwrap_or(Duration::from_secs(10)),
            max_connections: keywords.number("max_connections").map_err(misconfigured)?.unwrap_or(16).max(2) as usize,
            connect,
        })
    }
}

/// What the definition says, by libpq's keywords.
fn options(connection: &ResolvedConnection) -> Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    for (key, value) in &connection.options {
        if key == "url" || value.expose().is_empty() {
            continue;
        }
        let canonical = match key.as_str() {
            "database" => "dbname",
            "username" => "user",
            other => other,
        };
        if options.insert(canonical.to_owned(), value.expose().to_owned()).is_some() {
            return Err(Error::configuration(format!("the option {canonical:?} is given twice, by two names")));
        }
    }
    Ok(options)
}

fn misconfigured(error: dpone_postgres_connect::Error) -> Error {
    let ours = Error::configuration(error.message);
    match error.hint {
        Some(hint) => ours.with_hint(hint),
        None => ours,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use dpone_planner::Secret;

    use super::*;

    fn resolve(options: &[(&str, &str)]) -> Result<PostgresConfig> {
        let connection = ResolvedConnection {
            name: "shop".into(),
            kind: "postgres".into(),
            options: options.iter().map(|(k, v)| (k.to_string(), Secret::new(*v))).collect(),
            base_dir: PathBuf::from("/project"),
        };
        PostgresConfig::resolve(&connection, &|_| None)
    }

    #[test]
    fn every_keyword_of_libpq_is_an_option() {
        for key in dpone_postgres_connect::PARAMETERS.iter().chain(OURS) {
            assert!(OPTIONS.contains(key), "{key}");
        }
    }

    #[test]
    fn options_have_two_names_and_come_before_the_url() {
        let config = resolve(&[
            ("url", "postgres://me:x@db.example.org/shop?lock_timeout=2s&schema=sales"),
            ("database", "other"),
            ("lock_timeout", "3s"),
        ])
        .unwrap();
        assert_eq!((config.user(), config.database()), ("me", "other"));
        assert_eq!((config.lock_timeout, config.schema.as_deref()), (Duration::from_secs(3), Some("sales")));
        assert_eq!(config.driver().get_application_name(), Some("dpone"));
        assert!(resolve(&[("user", "a"), ("username", "b")]).unwrap_err().to_string().contains("twice"));
        let error = resolve(&[("url", "postgres://u@db/x?sslmode=maybe")]).unwrap_err();
        assert!(error.hint().unwrap().contains("verify-full"), "{error:?}");
    }

    #[test]
    fn no_password_is_printed() {
        let config = resolve(&[("url", "postgres://me:hunter2@db/x"), ("password", "hunter3")]).unwrap();
        assert_eq!(config.driver().get_password(), Some(&b"hunter3"[..]));
        assert!(!format!("{config:?}").contains("hunter"));
    }
}
