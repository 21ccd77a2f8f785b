//! A connection's options: what the definition says, then its URL, then the service file, then `PG*` variables, then
//! libpq's defaults, with two differences: remote hosts are verified (`sslmode=verify-full`) unless the definition says
//! otherwise, and nothing that was asked for is dropped without an error.

mod dsn;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dpone_engine::ResolvedConnection;
use dpone_planner::{Error, Result, Secret};
use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode as Negotiation, TargetSessionAttrs};

use dsn::Keywords;

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

/// Keywords that a URL, a service or a variable may give, and that mean nothing here because only one value works.
const ACCEPTED: &[(&str, &[&str])] = &[
    ("client_encoding", &["utf8", "utf-8", "unicode", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
    ("replication", &["false", "off", "no", "0"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// Plain first; TLS where the server refuses plain.
    Allow,
    /// TLS where the server has it.
    Prefer,
    /// TLS with any certificate.
    Require,
    /// TLS; a trusted authority signed the certificate.
    VerifyCa,
    /// TLS; the certificate is trusted and names the host.
    VerifyFull,
}

impl SslMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        use SslMode::*;
        [Disable, Allow, Prefer, Require, VerifyCa, VerifyFull].into_iter().find(|m| m.as_str() == text)
    }
}

/// Where the certificates of servers are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// The operating system's.
    System,
    File(PathBuf),
}

/// How to reach one database.
#[derive(Clone)]
pub struct PostgresConfig {
    /// The connection's name in the definition.
    pub connection: String,
    /// The schema of tables whose name has none.
    pub schema: Option<String>,
    pub ssl_mode: SslMode,
    pub root_certificates: RootCertificates,
    /// Certificate and key of the client.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// `None` keeps what the server or the role says.
    pub statement_timeout: Option<Duration>,
    /// How long a write waits for a lock before it gives up and lets others go on; zero waits for ever.
    pub lock_timeout: Duration,
    /// Connections that are open at the same time, for reading and writing together.
    pub max_connections: usize,
    hosts: Vec<String>,
    ports: Vec<u16>,
    driver: tokio_postgres::Config,
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("connection", &self.connection)
            .field("address", &self.address())
            .field("database", &self.database())
            .field("user", &self.user())
            .field("sslmode", &self.ssl_mode.as_str())
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
        let addresses: Vec<String> = self
            .hosts
            .iter()
            .enumerate()
            .map(|(i, host)| {
                let port = self.ports.get(i).or(self.ports.first()).copied().unwrap_or(5432);
                if host.starts_with('/') { format!("{host}/.s.PGSQL.{port}") } else { format!("{host}:{port}") }
            })
            .collect();
        addresses.join(",")
    }

    pub fn database(&self) -> &str {
        self.driver.get_dbname().unwrap_or_default()
    }

    /// Server and database, without who asks.
    pub fn place(&self) -> String {
        format!("{}/{}", self.address(), self.database())
    }

    pub fn user(&self) -> &str {
        self.driver.get_user().unwrap_or_default()
    }

    /// What the driver gets, for one try: `allow` tries plain first and then TLS, everything else has one.
    pub(crate) fn driver(&self) -> &tokio_postgres::Config {
        &self.driver
    }

    fn resolve(connection: &ResolvedConnection, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let keywords = gather(connection, env)?;
        let settings = Settings { keywords: &keywords, base_dir: &connection.base_dir };
        let hosts = settings.hosts();
        let ports = settings.ports(hosts.len())?;
        let mut driver = settings.driver(&hosts, &ports)?;
        let (ssl_mode, root_certificates) = settings.verification(&hosts, env)?;
        driver.ssl_mode(match ssl_mode {
            SslMode::Disable | SslMode::Allow => Negotiation::Disable,
            SslMode::Prefer => Negotiation::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Negotiation::Require,
        });
        if let Some(password) = settings.password(&hosts, &ports, &driver, env)? {
            driver.password(password.expose());
        }
        Ok(Self {
            connection: connection.name.clone(),
            schema: settings.get("schema").map(str::to_owned),
            ssl_mode,
            root_certificates,
            client_certificate: settings.client_certificate()?,
            statement_timeout: settings.duration("statement_timeout", Duration::from_millis(1))?,
            lock_timeout: settings
                .duration("lock_timeout", Duration::from_millis(1))?
                .unwrap_or(Duration::from_secs(10)),
            max_connections: settings.number("max_connections")?.unwrap_or(16).max(2) as usize,
            hosts,
            ports,
            driver,
        })
    }
}

/// All keywords, each from the first place that has it.
fn gather(connection: &ResolvedConnection, env: &dyn Fn(&str) -> Option<String>) -> Result<Keywords> {
    let mut keywords = Keywords::new();
    for (key, value) in &connection.options {
        if key == "url" || value.expose().is_empty() {
            continue;
        }
        let canonical = match key.as_str() {
            "database" => "dbname",
            "username" => "user",
            other => other,
        };
        if keywords.insert(canonical.to_owned(), value.expose().to_owned()).is_some() {
            return Err(Error::configuration(format!("the option {canonical:?} is given twice, by two names")));
        }
    }
    if let Some(url) = connection.get("url") {
        for (key, value) in dsn::parse(url)? {
            known(&key, &value, "the connection URL")?;
            keywords.entry(key).or_insert(value);
        }
    }
    if let Some(name) = keywords.get("service").cloned().or_else(|| env("PGSERVICE")) {
        let file = keywords.get("servicefile").map(|f| connection.base_dir.join(f).display().to_string());
        let with_file = |variable: &str| match (variable, &file) {
            ("PGSERVICEFILE", Some(file)) => Some(file.clone()),
            _ => env(variable),
        };
        for (key, value) in files::service(&name, &with_file)? {
            known(&key, &value, &format!("the service {name:?}"))?;
            keywords.entry(key).or_insert(value);
        }
    }
    for (variable, key) in VARIABLES {
        if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
            keywords.entry((*key).to_owned()).or_insert(value);
        }
    }
    Ok(keywords)
}

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

fn known(key: &str, value: &str, place: &str) -> Result<()> {
    let usable = !matches!(key, "url" | "database" | "username") && OPTIONS.contains(&key);
    if usable || ACCEPTED.iter().any(|(k, values)| *k == key && values.contains(&value.to_ascii_lowercase().as_str())) {
        return Ok(());
    }
    let names = OPTIONS.iter().copied().filter(|o| !matches!(*o, "url" | "database" | "username"));
    Err(Error::configuration(if ACCEPTED.iter().any(|(k, _)| *k == key) {
        format!("{place} sets {key:?} to a value that is not supported")
    } else {
        format!("{place} has the parameter {key:?}, which is not supported")
    })
    .with_hint(format!("supported are {}", names.collect::<Vec<_>>().join(", "))))
}

struct Settings<'a> {
    keywords: &'a Keywords,
    base_dir: &'a Path,
}

impl Settings<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.keywords.get(key).map(String::as_str)
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key)
            .map(|text| {
                text.trim()
                    .parse()
                    .map_err(|_| Error::configuration(format!("option {key:?}: expected a whole number, not negative")))
            })
            .transpose()
    }

    /// A number in `unit`, or a number with one of PostgreSQL's units. Zero means none.
    fn duration(&self, key: &str, unit: Duration) -> Result<Option<Duration>> {
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
            _ => {
                Err(Error::configuration(format!("option {key:?}: expected a number, or a number and ms, s, min or h")))
            }
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.get(key).map(|path| self.base_dir.join(path))
    }

    fn hosts(&self) -> Vec<String> {
        match self.get("host").or(self.get("hostaddr")) {
            Some(hosts) => hosts.split(',').map(|h| h.trim().to_owned()).collect(),
            None => {
                // libpq's own default is the folder it was built with: the first of the usual ones that exists.
                let usual = ["/var/run/postgresql", "/tmp"];
                let socket = usual.iter().find(|d| Path::new(d).join(".s.PGSQL.5432").exists());
                vec![(*socket.unwrap_or(&"localhost")).to_owned()]
            }
        }
    }

    fn ports(&self, hosts: usize) -> Result<Vec<u16>> {
        let Some(text) = self.get("port") else { return Ok(vec![5432]) };
        let ports = text
            .split(',')
            .map(|port| if port.trim().is_empty() { Ok(5432) } else { port.trim().parse() })
            .collect::<std::result::Result<Vec<u16>, _>>()
            .map_err(|_| Error::configuration("option \"port\": expected a port number"))?;
        if ports.len() != 1 && ports.len() != hosts {
            return Err(Error::configuration(format!("{} ports are given for {hosts} hosts", ports.len())));
        }
        Ok(ports)
    }

    fn driver(&self, hosts: &[String], ports: &[u16]) -> Result<tokio_postgres::Config> {
        let mut driver = tokio_postgres::Config::new();
        if self.get("host").is_some() || self.get("hostaddr").is_none() {
            for host in hosts {
                driver.host(host);
            }
        }
        for address in self.get("hostaddr").into_iter().flat_map(|a| a.split(',')) {
            driver.hostaddr(
                address
                    .trim()
                    .parse()
                    .map_err(|_| Error::configuration("option \"hostaddr\": expected an IP address"))?,
            );
        }
        for port in ports {
            driver.port(*port);
        }
        let user = self.get("user").map(str::to_owned).or_else(login_name).ok_or_else(|| {
            Error::configuration("no user is given").with_hint("set the option \"username\", or PGUSER")
        })?;
        driver.dbname(self.get("dbname").unwrap_or(&user));
        driver.user(user);
        driver.application_name(self.get("application_name").unwrap_or("dpone"));
        if let Some(options) = self.get("options") {
            driver.options(options);
        }
        self.socket(&mut driver)?;
        self.session(&mut driver)?;
        Ok(driver)
    }

    fn socket(&self, driver: &mut tokio_postgres::Config) -> Result<()> {
        let second = Duration::from_secs(1);
        // Without a limit, a firewall that drops packets makes a run hang for minutes.
        let timeout = self.duration("connect_timeout", second)?.unwrap_or(Duration::from_secs(30));
        if !timeout.is_zero() {
            driver.connect_timeout(timeout);
        }
        driver.keepalives(self.number("keepalives")?.unwrap_or(1) != 0);
        driver.keepalives_idle(self.duration("keepalives_idle", second)?.unwrap_or(Duration::from_secs(60)));
        driver.keepalives_interval(self.duration("keepalives_interval", second)?.unwrap_or(Duration::from_secs(10)));
        driver.keepalives_retries(self.number("keepalives_count")?.unwrap_or(6).min(127) as u32);
        if let Some(timeout) = self.duration("tcp_user_timeout", Duration::from_millis(1))? {
            driver.tcp_user_timeout(timeout);
        }
        Ok(())
    }

    fn session(&self, driver: &mut tokio_postgres::Config) -> Result<()> {
        let unsupported = |key: &str, values: &str| {
            Error::configuration(format!("option {key:?} has a value that is not supported"))
                .with_hint(format!("supported are {values}"))
        };
        driver.target_session_attrs(match self.get("target_session_attrs").unwrap_or("any") {
            "any" => TargetSessionAttrs::Any,
            "read-write" => TargetSessionAttrs::ReadWrite,
            "read-only" => TargetSessionAttrs::ReadOnly,
            _ => return Err(unsupported("target_session_attrs", "any, read-write, read-only")),
        });
        driver.load_balance_hosts(match self.get("load_balance_hosts").unwrap_or("disable") {
            "disable" => LoadBalanceHosts::Disable,
            "random" => LoadBalanceHosts::Random,
            _ => return Err(unsupported("load_balance_hosts", "disable, random")),
        });
        driver.channel_binding(match self.get("channel_binding").unwrap_or("prefer") {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return Err(unsupported("channel_binding", "disable, prefer, require")),
        });
        Ok(())
    }

    fn verification(
        &self,
        hosts: &[String],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(SslMode, RootCertificates)> {
        let roots = match self.get("sslrootcert") {
            Some("system") => RootCertificates::System,
            Some(_) => RootCertificates::File(self.path("sslrootcert").unwrap_or_default()),
            None => files::home(env)
                .map(|home| home.join(".postgresql/root.crt"))
                .filter(|file| file.exists())
                .map_or(RootCertificates::System, RootCertificates::File),
        };
        let mode = match self.get("sslmode") {
            Some(text) => SslMode::parse(text).ok_or_else(|| {
                Error::configuration("option \"sslmode\" has a value that is not supported")
                    .with_hint("supported are disable, allow, prefer, require, verify-ca, verify-full")
            })?,
            None if hosts.iter().all(|host| is_local(host)) => SslMode::Prefer,
            None => SslMode::VerifyFull,
        };
        if hosts.iter().all(|host| host.starts_with('/')) {
            if matches!(mode, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) {
                return Err(Error::configuration(format!(
                    "sslmode={} is asked for, but a unix socket has no TLS",
                    mode.as_str()
                ))
                .with_hint("leave sslmode out, or connect by host name"));
            }
            return Ok((SslMode::Disable, roots));
        }
        // As in libpq: whoever names the authorities wants them to be used.
        let mode = match (mode, self.get("sslrootcert")) {
            (SslMode::Require, Some(_)) => SslMode::VerifyCa,
            (mode, _) => mode,
        };
        Ok((mode, roots))
    }

    fn client_certificate(&self) -> Result<Option<(PathBuf, PathBuf)>> {
        match (self.path("sslcert"), self.path("sslkey")) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                files::private(&key, "key file")?;
                Ok(Some((certificate, key)))
            }
            _ => Err(Error::configuration("sslcert and sslkey are only useful together")),
        }
    }

    fn password(
        &self,
        hosts: &[String],
        ports: &[u16],
        driver: &tokio_postgres::Config,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Secret>> {
        if let Some(password) = self.get("password") {
            return Ok(Some(Secret::new(password)));
        }
        let file = self.path("passfile");
        let (database, user) = (driver.get_dbname().unwrap_or_default(), driver.get_user().unwrap_or_default());
        for (i, host) in hosts.iter().enumerate() {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432).to_string();
            // A line for a socket names its folder, or `localhost` for the default one.
            for name in [host.as_str(), if host.starts_with('/') { "localhost" } else { host }] {
                if let Some(password) = files::password(file.as_deref(), [name, &port, database, user], env)? {
                    return Ok(Some(password));
                }
            }
        }
        Ok(None)
    }
}

fn is_local(host: &str) -> bool {
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn login_name() -> Option<String> {
    ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resolve(options: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<PostgresConfig> {
        let connection = ResolvedConnection {
            name: "shop".into(),
            kind: "postgres".into(),
            options: options.iter().map(|(k, v)| (k.to_string(), Secret::new(*v))).collect(),
            base_dir: PathBuf::from("/project"),
        };
        PostgresConfig::resolve(&connection, &|name| {
            variables.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string())
        })
    }

    #[test]
    fn options_come_before_the_url_and_the_url_before_variables() {
        let config = resolve(
            &[("url", "postgres://me:x@db.example.org/shop?connect_timeout=5"), ("database", "other")],
            &[("PGPORT", "6000"), ("PGUSER", "nobody"), ("PGDATABASE", "nothing")],
        )
        .unwrap();
        assert_eq!(config.address(), "db.example.org:6000");
        assert_eq!((config.user(), config.database()), ("me", "other"));
        assert_eq!(config.driver.get_connect_timeout(), Some(&Duration::from_secs(5)));
        assert_eq!(config.driver.get_application_name(), Some("dpone"));
        assert_eq!(config.ssl_mode, SslMode::VerifyFull);
    }

    #[test]
    fn only_local_hosts_may_go_without_tls_by_default() {
        let mode = |url| resolve(&[("url", url)], &[]).unwrap().ssl_mode;
        assert_eq!(mode("postgres://u@localhost/x"), SslMode::Prefer);
        assert_eq!(mode("postgres://u@127.0.0.1/x"), SslMode::Prefer);
        assert_eq!(mode("postgres://u@[::1]/x"), SslMode::Prefer);
        assert_eq!(mode("postgres://u@10.0.0.1/x"), SslMode::VerifyFull);
        assert_eq!(mode("postgres://u@localhost,db/x"), SslMode::VerifyFull);
        assert_eq!(mode("postgres://u@db/x?sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgres://u@db/x?sslmode=require&sslrootcert=ca.pem"), SslMode::VerifyCa);
        assert_eq!(mode("postgres:///x?host=/tmp&user=u"), SslMode::Disable);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let refused = |url| resolve(&[("url", url)], &[]).unwrap_err().to_string();
        assert!(refused("postgres:///x?host=/tmp&user=u&sslmode=verify-full").contains("no TLS"));
        assert!(refused("postgres://u@db/x?gssencmode=require").contains("gssencmode"));
        assert!(refused("postgres://u@db/x?sslcrl=x").contains("sslcrl"));
        assert!(refused("postgres://u@db/x?sslmode=maybe").contains("sslmode"));
        assert!(refused("postgres://u@a,b/x?port=1,2,3").contains("3 ports"));
    }

    #[test]
    fn no_password_is_printed() {
        let config = resolve(&[("url", "postgres://me:hunter2@db/x"), ("password", "hunter3")], &[]).unwrap();
        assert_eq!(config.driver.get_password(), Some(&b"hunter3"[..]));
        assert!(!format!("{config:?}").contains("hunter"));
    }
}
