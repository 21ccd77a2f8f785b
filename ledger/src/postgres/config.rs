//! How to reach one PostgreSQL database: the connection string, then `PG*` variables, then libpq's defaults, with one
//! difference that dpone makes everywhere: a remote host is verified (`sslmode=verify-full`) unless the connection says
//! otherwise.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslMode as Negotiation, TargetSessionAttrs};

use super::dsn::{self, Keywords};
use super::passfile;
use crate::error::{Error, Result};

/// The parameters that a connection string may have, and the variable that stands in for each.
const PARAMETERS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("application_name", "PGAPPNAME"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("channel_binding", "PGCHANNELBINDING"),
];

/// Parameters that mean nothing here, because only these values work.
const ACCEPTED: &[(&str, &[&str])] = &[
    ("client_encoding", &["utf8", "utf-8", "unicode", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("keepalives", &["1"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SslMode {
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
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        use SslMode::*;
        let all = [Disable, Allow, Prefer, Require, VerifyCa, VerifyFull];
        all.into_iter().find(|m| m.as_str() == text).ok_or_else(|| {
            Error::usage("the sslmode is not one that is known")
                .with_hint(format!("expected one of {}", all.map(Self::as_str).join(", ")))
        })
    }
}

/// Where the certificates of servers are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootCertificates {
    /// The operating system's.
    System,
    File(PathBuf),
}

/// One database and how to reach it. Shows no password.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(crate) ssl_mode: SslMode,
    pub(crate) root_certificates: RootCertificates,
    /// Certificate and key of the client.
    pub(crate) client_certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) driver: tokio_postgres::Config,
    hosts: Vec<String>,
    ports: Vec<u16>,
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.driver.get_dbname().unwrap_or_default();
        write!(f, "{}/{database} as {} (sslmode={})", self.address(), self.user(), self.ssl_mode.as_str())
    }
}

impl PostgresConfig {
    pub(crate) fn parse(rest: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let mut keywords = dsn::parse(rest)?;
        for (key, value) in &keywords {
            known(key, value)?;
        }
        for (key, variable) in PARAMETERS {
            if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
                keywords.entry((*key).to_owned()).or_insert(value);
            }
        }
        Settings { keywords: &keywords, env }.config()
    }

    /// `host:port`, or a socket, for messages. Several are separated by commas.
    pub(crate) fn address(&self) -> String {
        let one = |(i, host): (usize, &String)| {
            let port = self.ports.get(i).or(self.ports.first()).copied().unwrap_or(5432);
            if host.starts_with('/') { format!("{host}/.s.PGSQL.{port}") } else { format!("{host}:{port}") }
        };
        self.hosts.iter().enumerate().map(one).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn user(&self) -> &str {
        self.driver.get_user().unwrap_or_default()
    }
}

fn known(key: &str, value: &str) -> Result<()> {
    if PARAMETERS.iter().any(|(known, _)| *known == key) {
        return Ok(());
    }
    match ACCEPTED.iter().find(|(known, _)| *known == key) {
        Some((_, values)) if values.contains(&value.to_ascii_lowercase().as_str()) => Ok(()),
        Some(_) => Err(Error::usage(format!("the connection string sets {key} to a value that is not supported"))),
        None => Err(Error::usage("the connection string has a parameter that is not supported").with_hint(format!(
            "supported are {}",
            PARAMETERS.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ")
        ))),
    }
}

struct Settings<'a> {
    keywords: &'a Keywords,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl Settings<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.keywords.get(key).map(String::as_str)
    }

    fn config(&self) -> Result<PostgresConfig> {
        let hosts = self.hosts();
        let ports = self.ports(hosts.len())?;
        let (ssl_mode, root_certificates) = self.verification(&hosts)?;
        let mut driver = self.driver(&hosts, &ports)?;
        driver.ssl_mode(match ssl_mode {
            SslMode::Disable | SslMode::Allow => Negotiation::Disable,
            SslMode::Prefer => Negotiation::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Negotiation::Require,
        });
        if let Some(password) = self.password(&hosts, &ports, &driver)? {
            driver.password(password);
        }
        let client_certificate = self.client_certificate()?;
        Ok(PostgresConfig { ssl_mode, root_certificates, client_certificate, driver, hosts, ports })
    }

    fn hosts(&self) -> Vec<String> {
        match self.get("host") {
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
            .collect::<Result<Vec<u16>, _>>()
            .map_err(|_| Error::usage("the connection string's port is not a port number"))?;
        if ports.len() != 1 && ports.len() != hosts {
            return Err(Error::usage(format!("{} ports are given for {hosts} hosts", ports.len())));
        }
        Ok(ports)
    }

    fn driver(&self, hosts: &[String], ports: &[u16]) -> Result<tokio_postgres::Config> {
        let mut driver = tokio_postgres::Config::new();
        for host in hosts {
            driver.host(host);
        }
        for port in ports {
            driver.port(*port);
        }
        let login = || ["USER", "LOGNAME"].iter().find_map(|name| (self.env)(name)).filter(|name| !name.is_empty());
        let user = self.get("user").map(str::to_owned).or_else(login).ok_or_else(|| {
            Error::usage("the connection string names no user")
                .with_hint("expected postgresql+psycopg2://user:password@host:port/dbname")
        })?;
        driver.dbname(self.get("dbname").unwrap_or(&user));
        driver.user(user);
        driver.application_name(self.get("application_name").unwrap_or("dpo"));
        if let Some(options) = self.get("options") {
            driver.options(options);
        }
        driver.target_session_attrs(match self.get("target_session_attrs").unwrap_or("any") {
            "any" => TargetSessionAttrs::Any,
            "read-write" => TargetSessionAttrs::ReadWrite,
            "read-only" => TargetSessionAttrs::ReadOnly,
            _ => return Err(unsupported("target_session_attrs", "any, read-write, read-only")),
        });
        driver.channel_binding(match self.get("channel_binding").unwrap_or("prefer") {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return Err(unsupported("channel_binding", "disable, prefer, require")),
        });
        // Without a limit, a firewall that drops packets makes a command hang for minutes.
        let timeout: u64 = match self.get("connect_timeout") {
            None => 30,
            Some(text) => text.trim().parse().map_err(|_| unsupported("connect_timeout", "whole seconds"))?,
        };
        if timeout > 0 {
            driver.connect_timeout(Duration::from_secs(timeout));
        }
        Ok(driver)
    }

    fn verification(&self, hosts: &[String]) -> Result<(SslMode, RootCertificates)> {
        let roots = match self.get("sslrootcert") {
            Some("system") => RootCertificates::System,
            Some(file) => RootCertificates::File(PathBuf::from(file)),
            None => passfile::home(self.env)
                .map(|home| home.join(".postgresql/root.crt"))
                .filter(|file| file.exists())
                .map_or(RootCertificates::System, RootCertificates::File),
        };
        let mode = match self.get("sslmode") {
            Some(text) => SslMode::parse(text)?,
            None if hosts.iter().all(|host| is_local(host)) => SslMode::Prefer,
            None => SslMode::VerifyFull,
        };
        if hosts.iter().all(|host| host.starts_with('/')) {
            if matches!(mode, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) {
                return Err(Error::usage(format!(
                    "sslmode={} is asked for, but a unix socket has no TLS",
                    mode.as_str()
                )));
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
        match (self.get("sslcert").map(PathBuf::from), self.get("sslkey").map(PathBuf::from)) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                passfile::private(&key, "key file")?;
                Ok(Some((certificate, key)))
            }
            _ => Err(Error::usage("sslcert and sslkey are only useful together")),
        }
    }

    fn password(&self, hosts: &[String], ports: &[u16], driver: &tokio_postgres::Config) -> Result<Option<String>> {
        if let Some(password) = self.get("password") {
            return Ok(Some(password.to_owned()));
        }
        let file = self.get("passfile").map(Path::new);
        let (database, user) = (driver.get_dbname().unwrap_or_default(), driver.get_user().unwrap_or_default());
        for (i, host) in hosts.iter().enumerate() {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432).to_string();
            // A line for a socket names its folder, or `localhost` for the default one.
            for name in [host.as_str(), if host.starts_with('/') { "localhost" } else { host }] {
                let found = passfile::password(file, [name, &port, database, user], self.env)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

fn unsupported(key: &str, values: &str) -> Error {
    Error::usage(format!("the connection string sets {key} to a value that is not supported"))
        .with_hint(format!("supported are {values}"))
}

fn is_local(host: &str) -> bool {
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(rest: &str, variables: &[(&str, &str)]) -> Result<PostgresConfig> {
        PostgresConfig::parse(rest, &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn only_local_hosts_may_go_without_tls_by_default() {
        let mode = |rest| parse(rest, &[]).unwrap().ssl_mode;
        assert_eq!(mode("u@localhost/x"), SslMode::Prefer);
        assert_eq!(mode("u@[::1]/x"), SslMode::Prefer);
        assert_eq!(mode("u@10.0.0.1/x"), SslMode::VerifyFull);
        assert_eq!(mode("u@localhost,db/x"), SslMode::VerifyFull);
        assert_eq!(mode("u@db/x?sslmode=require"), SslMode::Require);
        assert_eq!(mode("u@db/x?sslmode=require&sslrootcert=ca.pem"), SslMode::VerifyCa);
        assert_eq!(mode("/x?host=/tmp&user=u"), SslMode::Disable);
    }

    #[test]
    fn the_string_comes_before_variables() {
        let config =
            parse("me:x@db:6000/shop?connect_timeout=5", &[("PGPORT", "1"), ("PGAPPNAME", "etl"), ("PGPASSWORD", "y")])
                .unwrap();
        assert_eq!(config.address(), "db:6000");
        assert_eq!(config.driver.get_password(), Some(&b"x"[..]));
        assert_eq!(config.driver.get_application_name(), Some("etl"));
        assert_eq!(parse("me@db/shop", &[("PGPASSWORD", "y")]).unwrap().driver.get_password(), Some(&b"y"[..]));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for rest in [
            "u@db/x?sslmode=maybe",
            "u@db/x?sslcrl=x",
            "u@db/x?gssencmode=require",
            "u@db/x?connect_timeout=soon",
            "u@db:port/x",
            "u@a,b/x?port=1,2,3",
            "/x?host=/tmp&user=u&sslmode=verify-full",
            "u@db/x?sslcert=c",
            "db/x",
        ] {
            assert!(parse(rest, &[]).is_err(), "{rest}");
        }
    }
}
