//! How to reach one database: libpq's defaults, with two differences: remote hosts are verified (`sslmode=verify-full`)
//! unless the request says otherwise, and nothing that was asked for is dropped without an error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode as Negotiation, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Result};
use crate::keywords::{Keywords, Request};
use crate::{files, tls};

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
pub(crate) enum RootCertificates {
    /// The operating system's.
    System,
    File(PathBuf),
}

/// How to reach one database. Shows no password.
#[derive(Clone)]
pub struct Config {
    ssl_mode: SslMode,
    pub(crate) root_certificates: RootCertificates,
    /// Certificate and key of the client.
    pub(crate) client_certificate: Option<(PathBuf, PathBuf)>,
    hosts: Vec<String>,
    ports: Vec<u16>,
    driver: tokio_postgres::Config,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &self.address())
            .field("database", &self.database())
            .field("user", &self.user())
            .field("sslmode", &self.ssl_mode.as_str())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Reads files, and opens no connection. The keywords are for what is the caller's own.
    pub fn resolve(request: Request<'_>) -> Result<(Self, Keywords)> {
        let keywords = Keywords::gather(&request)?;
        let settings = Settings { keywords: &keywords, base_dir: request.base_dir };
        let hosts = settings.hosts();
        let ports = settings.ports(hosts.len())?;
        let mut driver = settings.driver(&hosts, &ports, request.application_name)?;
        let (ssl_mode, root_certificates) = settings.verification(&hosts, request.env)?;
        driver.ssl_mode(match ssl_mode {
            SslMode::Disable | SslMode::Allow => Negotiation::Disable,
            SslMode::Prefer => Negotiation::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Negotiation::Require,
        });
        if let Some(password) = settings.password(&hosts, &ports, &driver, request.env)? {
            driver.password(password);
        }
        let client_certificate = settings.client_certificate()?;
        let config = Self { ssl_mode, root_certificates, client_certificate, hosts, ports, driver };
        Ok((config, keywords))
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

    pub fn user(&self) -> &str {
        self.driver.get_user().unwrap_or_default()
    }

    pub fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// What the driver gets, for one try: `allow` tries plain first and then TLS, everything else has one.
    pub fn driver(&self) -> &tokio_postgres::Config {
        &self.driver
    }

    /// Reads the certificates.
    pub fn tls(&self) -> Result<MakeRustlsConnect> {
        tls::connector(self)
    }
}

struct Settings<'a> {
    keywords: &'a Keywords,
    base_dir: &'a Path,
}

impl Settings<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.keywords.get(key)
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
            .map_err(|_| Error::new("option \"port\": expected a port number"))?;
        if ports.len() != 1 && ports.len() != hosts {
            return Err(Error::new(format!("{} ports are given for {hosts} hosts", ports.len())));
        }
        Ok(ports)
    }

    fn driver(&self, hosts: &[String], ports: &[u16], application_name: &str) -> Result<tokio_postgres::Config> {
        let mut driver = tokio_postgres::Config::new();
        if self.get("host").is_some() || self.get("hostaddr").is_none() {
            for host in hosts {
                driver.host(host);
            }
        }
        for address in self.get("hostaddr").into_iter().flat_map(|a| a.split(',')) {
            driver.hostaddr(
                address.trim().parse().map_err(|_| Error::new("option \"hostaddr\": expected an IP address"))?,
            );
        }
        for port in ports {
            driver.port(*port);
        }
        let user = self
            .get("user")
            .map(str::to_owned)
            .or_else(login_name)
            .ok_or_else(|| Error::new("no user is given").with_hint("set the option \"username\", or PGUSER"))?;
        driver.dbname(self.get("dbname").unwrap_or(&user));
        driver.user(user);
        driver.application_name(self.get("application_name").unwrap_or(application_name));
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
        let timeout = self.keywords.duration("connect_timeout", second)?.unwrap_or(Duration::from_secs(30));
        if !timeout.is_zero() {
            driver.connect_timeout(timeout);
        }
        driver.keepalives(self.keywords.number("keepalives")?.unwrap_or(1) != 0);
        driver.keepalives_idle(self.keywords.duration("keepalives_idle", second)?.unwrap_or(Duration::from_secs(60)));
        driver.keepalives_interval(
            self.keywords.duration("keepalives_interval", second)?.unwrap_or(Duration::from_secs(10)),
        );
        driver.keepalives_retries(self.keywords.number("keepalives_count")?.unwrap_or(6).min(127) as u32);
        if let Some(timeout) = self.keywords.duration("tcp_user_timeout", Duration::from_millis(1))? {
            driver.tcp_user_timeout(timeout);
        }
        Ok(())
    }

    fn session(&self, driver: &mut tokio_postgres::Config) -> Result<()> {
        let unsupported = |key: &str, values: &str| {
            Error::new(format!("option {key:?} has a value that is not supported"))
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
                Error::new("option \"sslmode\" has a value that is not supported")
                    .with_hint("supported are disable, allow, prefer, require, verify-ca, verify-full")
            })?,
            None if hosts.iter().all(|host| is_local(host)) => SslMode::Prefer,
            None => SslMode::VerifyFull,
        };
        if hosts.iter().all(|host| host.starts_with('/')) {
            if matches!(mode, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) {
                return Err(Error::new(format!(
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
            _ => Err(Error::new("sslcert and sslkey are only useful together")),
        }
    }

    fn password(
        &self,
        hosts: &[String],
        ports: &[u16],
        driver: &tokio_postgres::Config,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<String>> {
        if let Some(password) = self.get("password") {
            return Ok(Some(password.to_owned()));
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

    fn resolve(options: &[(&str, &str)], url: &str, variables: &[(&str, &str)]) -> Result<(Config, Keywords)> {
        let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::resolve(Request {
            options: &options,
            url: Some(url),
            extra: &["schema"],
            base_dir: Path::new("/project"),
            application_name: "test",
            env: &|name| variables.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string()),
        })
    }

    fn by_url(url: &str) -> Result<Config> {
        resolve(&[], url, &[]).map(|(config, _)| config)
    }

    #[test]
    fn options_come_before_the_url_and_the_url_before_variables() {
        let (config, keywords) = resolve(
            &[("dbname", "other")],
            "postgres://me:x@db.example.org/shop?connect_timeout=5&schema=s",
            &[("PGPORT", "6000"), ("PGUSER", "nobody"), ("PGDATABASE", "nothing")],
        )
        .unwrap();
        assert_eq!(config.address(), "db.example.org:6000");
        assert_eq!((config.user(), config.database()), ("me", "other"));
        assert_eq!(config.driver.get_connect_timeout(), Some(&Duration::from_secs(5)));
        assert_eq!(config.driver.get_application_name(), Some("test"));
        assert_eq!(config.ssl_mode, SslMode::VerifyFull);
        assert_eq!(keywords.get("schema"), Some("s"));
    }

    #[test]
    fn only_local_hosts_may_go_without_tls_by_default() {
        let mode = |url| by_url(url).unwrap().ssl_mode;
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
        let refused = |url| by_url(url).unwrap_err().to_string();
        assert!(refused("postgres:///x?host=/tmp&user=u&sslmode=verify-full").contains("no TLS"));
        assert!(refused("postgres://u@db/x?gssencmode=require").contains("gssencmode"));
        assert!(refused("postgres://u@db/x?sslcrl=x").contains("sslcrl"));
        assert!(refused("postgres://u@db/x?sslmode=maybe").contains("sslmode"));
        assert!(refused("postgres://u@a,b/x?port=1,2,3").contains("3 ports"));
        assert!(refused("postgres://u@db/x?connect_timeout=soon").contains("connect_timeout"));
        assert!(refused("postgres://u@db/x?sslcert=c").contains("sslkey"));
    }

    #[test]
    fn no_password_is_shown() {
        let (config, keywords) = resolve(&[("password", "hunter3")], "postgres://me:hunter2@db/x", &[]).unwrap();
        assert_eq!(config.driver.get_password(), Some(&b"hunter3"[..]));
        assert!(!format!("{config:?} {keywords:?}").contains("hunter"));
    }
}
