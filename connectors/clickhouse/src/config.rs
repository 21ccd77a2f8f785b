//! A connection's options: where the server is, who asks, how the way is protected, and settings for every query.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use dpone_engine::ResolvedConnection;
use dpone_planner::definition::nearest;
use dpone_planner::{Error, Result, Secret};
use url::Url;

use crate::settings::{FILTERS, TEXTS, WHOLE};

/// The option names of a connection.
pub const OPTIONS: &[&str] = &[
    "url",
    "host",
    "port",
    "database",
    "username",
    "user",
    "password",
    "secure",
    "verify",
    "ca_cert",
    "client_cert",
    "client_cert_key",
    "proxy",
    "compression",
    "connect_timeout",
    "send_receive_timeout",
    "settings",
    "settings.*",
];

/// Parameters of the HTTP interface that are no settings: giving them would change who asks, or what an answer looks like.
const RESERVED: &[&str] = &[
    "query",
    "database",
    "default_format",
    "user",
    "password",
    "quota_key",
    "query_id",
    "session_id",
    "session_timeout",
    "session_check",
    "close_session",
    "wait_end_of_query",
    "buffer_size",
    "compress",
    "decompress",
    "enable_http_compression",
    "stacktrace",
    "http_write_exception_in_output_format",
    "send_progress_in_http_headers",
];

/// How data is packed on its way, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4,
}

/// What is checked of the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// The authority that signed it, and the name that it is for.
    Full,
    /// The authority alone.
    Ca,
    /// Nothing: the way is encrypted, and anybody may be at its end.
    None,
}

/// A certificate or key: where it is, or itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    File(PathBuf),
    Text(Secret),
}

/// How to reach one server.
#[derive(Clone)]
pub struct ClickHouseConfig {
    /// The connection's name in the definition.
    pub connection: String,
    pub secure: bool,
    pub host: String,
    pub port: u16,
    /// The database of tables whose name has none.
    pub database: String,
    pub user: String,
    pub(crate) password: Secret,
    pub verify: Verify,
    pub(crate) ca_cert: Option<Pem>,
    pub(crate) client_cert: Option<(Pem, Pem)>,
    pub(crate) proxy: Option<Secret>,
    pub compression: Compression,
    pub connect_timeout: Duration,
    /// The longest silence of the server, before and within an answer.
    pub send_receive_timeout: Duration,
    /// Of every query. Those that the connector needs are set after them.
    pub settings: BTreeMap<String, String>,
}

impl fmt::Debug for ClickHouseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseConfig")
            .field("connection", &self.connection)
            .field("place", &self.place())
            .finish_non_exhaustive()
    }
}

impl ClickHouseConfig {
    pub fn new(connection: &ResolvedConnection) -> Result<Self> {
        Self::resolve(connection).map_err(|error| error.with("connection", &connection.name))
    }

    /// `host:port`, for messages.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Server and database, without who asks.
    pub fn place(&self) -> String {
        format!("{}/{}", self.address(), self.database)
    }

    /// `host:port` of the proxy, without who asks.
    pub(crate) fn proxy_address(&self) -> Option<String> {
        let url = Url::parse(self.proxy.as_ref()?.expose()).ok()?;
        Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
    }

    pub(crate) fn base_url(&self) -> String {
        format!("{}://{}/", if self.secure { "https" } else { "http" }, self.address())
    }

    fn resolve(connection: &ResolvedConnection) -> Result<Self> {
        let given = Given::collect(connection)?;
        let secure = match (given.flag("secure")?, given.scheme_is_secure) {
            (Some(false), Some(true)) => {
                return Err(Error::configuration("the URL begins with https, and secure is false")
                    .with_hint("take one of them away"));
            }
            (flag, scheme) => flag.or(scheme).unwrap_or(false),
        };
        let port = match given.get("port") {
            None => {
                if secure {
                    8443
                } else {
                    8123
                }
            }
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| Error::configuration("port is no number from 1 to 65535"))?,
        };
        if [9000, 9440].contains(&port) {
            return Err(Error::configuration(format!(
                "port {port} is that of ClickHouse's native protocol, and this connection speaks HTTP"
            ))
            .with_hint("give the port of the HTTP interface: 8123, or 8443 with TLS"));
        }
        let client_cert = match (given.pem("client_cert", connection), given.pem("client_cert_key", connection)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(Error::configuration("client_cert and client_cert_key go together, and one is missing")),
        };
        let verify = given.verify()?;
        let ca_cert = given.pem("ca_cert", connection);
        let tls = ["verify", "ca_cert", "client_cert"].into_iter().find(|key| given.get(key).is_some());
        if let Some(key) = tls.filter(|_| !secure) {
            return Err(Error::configuration(format!("{key} is given, and the connection is not encrypted"))
                .with_hint("write https:// or secure: true; or take the option away"));
        }
        Ok(Self {
            connection: connection.name.clone(),
            secure,
            host: given.get("host").unwrap_or("localhost").to_owned(),
            port,
            database: given.get("database").unwrap_or("default").to_owned(),
            user: given.get("user").unwrap_or("default").to_owned(),
            password: Secret::new(given.get("password").unwrap_or_default()),
            verify,
            ca_cert,
            client_cert,
            proxy: given.proxy()?,
            compression: given.compression()?,
            connect_timeout: given.duration("connect_timeout", Duration::from_secs(10))?,
            send_receive_timeout: given.duration("send_receive_timeout", Duration::from_secs(300))?,
            settings: given.settings,
        })
    }
}

/// What was written, by canonical name; options come before the URL.
struct Given {
    options: BTreeMap<String, String>,
    settings: BTreeMap<String, String>,
    scheme_is_secure: Option<bool>,
}

impl Given {
    fn collect(connection: &ResolvedConnection) -> Result<Self> {
        let mut given = Self { options: BTreeMap::new(), settings: BTreeMap::new(), scheme_is_secure: None };
        // Not this machine: a variable that is set to nothing would lead there.
        if let Some(empty) = ["url", "host"].into_iter().find(|key| connection.get(key).is_some_and(str::is_empty)) {
            return Err(Error::configuration(format!("the option {empty:?} is empty"))
                .with_hint("say where the server is, or leave the option out for the one on this machine"));
        }
        if let Some(url) = connection.get("url") {
            given.read_url(url)?;
        }
        let mut named = BTreeMap::new();
        for (key, value) in &connection.options {
            let value = value.expose();
            if key == "url" || value.is_empty() {
                continue;
            }
            if let Some(setting) = key.strip_prefix("settings.") {
                given.settings.insert(setting.to_owned(), value.to_owned());
                continue;
            }
            if key == "settings" {
                given.read_settings(value)?;
                continue;
            }
            let canonical = if key == "username" { "user" } else { key };
            if named.insert(canonical, value).is_some() {
                return Err(Error::configuration(format!("the option {canonical:?} is given twice, by two names")));
            }
        }
        given.options.extend(named.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
        given.settings.iter().try_for_each(|(name, _)| check_setting(name))?;
        Ok(given)
    }

    fn read_url(&mut self, text: &str) -> Result<()> {
        let expected = "expected http://user:password@host:8123/database?setting=value";
        let invalid = |why: &str| Error::configuration(format!("the URL {why}")).with_hint(expected);
        let url = Url::parse(text).map_err(|e| invalid(&format!("cannot be read: {e}")))?;
        self.scheme_is_secure = match url.scheme() {
            "http" => Some(false),
            "https" | "clickhouses" => Some(true),
            "clickhouse" => None,
            other => return Err(invalid(&format!("begins with {other}://"))),
        };
        let decoded = |text: &str| {
            let pairs = format!("x={}", text.replace('+', "%2B"));
            url::form_urlencoded::parse(pairs.as_bytes())
                .next()
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default()
        };
        let mut set = |key: &str, value: String| {
            if !value.is_empty() {
                self.options.insert(key.to_owned(), value);
            }
        };
        set("host", url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned());
        set("port", url.port().map(|port| port.to_string()).unwrap_or_default());
        set("user", decoded(url.username()));
        set("password", decoded(url.password().unwrap_or_default()));
        let database = url.path().trim_matches('/');
        if database.contains('/') {
            return Err(invalid("has a path of several parts, and names a database by its path"));
        }
        set("database", decoded(database));
        // As written with a scheme that has no default port of its own.
        if url.port().is_none() && matches!(url.scheme(), "http" | "https") && has_explicit_port(text) {
            set("port", if url.scheme() == "http" { "80" } else { "443" }.to_owned());
        }
        for (key, value) in url.query_pairs() {
            let canonical = if key == "username" { "user" } else { &key };
            if OPTIONS.contains(&canonical) && !["url", "host", "port", "settings", "settings.*"].contains(&canonical) {
                self.options.insert(canonical.to_owned(), value.into_owned());
            } else {
                let name = key.strip_prefix("settings.").unwrap_or(&key);
                self.settings.insert(name.to_owned(), value.into_owned());
            }
        }
        Ok(())
    }

    /// A JSON object, or `name=value` separated by commas or `&`.
    fn read_settings(&mut self, text: &str) -> Result<()> {
        let expected = "write a mapping of names to values, such as settings: {max_threads: 8}";
        if text.trim_start().starts_with('{') {
            let values: BTreeMap<String, serde_json::Value> = serde_json::from_str(text).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                Error::configuration(format!("settings is no JSON object (line {line}, column {column} of the text)"))
                    .with_hint(expected)
            })?;
            for (name, value) in values {
                let value = match value {
                    serde_json::Value::String(text) => text,
                    serde_json::Value::Bool(flag) => u8::from(flag).to_string(),
                    serde_json::Value::Number(number) => number.to_string(),
                    _ => {
                        return Err(Error::configuration(format!("the setting {name:?} is neither text nor a number"))
                            .with_hint(expected));
                    }
                };
                self.settings.insert(name, value);
            }
            return Ok(());
        }
        for pair in text.split([',', '&']).map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(Error::configuration("settings has a part without =").with_hint(expected));
            };
            self.settings.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|text| match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(Error::configuration(format!("{key} is neither true nor false"))),
            })
            .transpose()
    }

    fn verify(&self) -> Result<Verify> {
        match self.get("verify").map(str::to_ascii_lowercase).as_deref() {
            None | Some("full" | "true" | "1" | "yes" | "on") => Ok(Verify::Full),
            Some("ca") => Ok(Verify::Ca),
            Some("none" | "false" | "0" | "no" | "off") => Ok(Verify::None),
            Some(_) => Err(Error::configuration("verify is none of full, ca, none")),
        }
    }

    fn compression(&self) -> Result<Compression> {
        match self.get("compression").map(str::to_ascii_lowercase).as_deref() {
            None | Some("none" | "false" | "0" | "no" | "off") => Ok(Compression::None),
            Some("lz4" | "true" | "1" | "yes" | "on") => Ok(Compression::Lz4),
            Some(_) => Err(Error::configuration("compression is neither lz4 nor none")),
        }
    }

    fn proxy(&self) -> Result<Option<Secret>> {
        let Some(text) = self.get("proxy") else { return Ok(None) };
        let known = Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !known {
            return Err(Error::configuration("proxy is no URL of an HTTP proxy")
                .with_hint("expected http://host:port, or http://user:password@host:port"));
        }
        Ok(Some(Secret::new(text)))
    }

    fn pem(&self, key: &str, connection: &ResolvedConnection) -> Option<Pem> {
        self.get(key).map(|text| {
            if text.trim_start().starts_with("-----BEGIN") {
                Pem::Text(Secret::new(text))
            } else {
                Pem::File(connection.base_dir.join(text))
            }
        })
    }

    /// Seconds, or a number with its unit.
    fn duration(&self, key: &str, default: Duration) -> Result<Duration> {
        let Some(text) = self.get(key) else { return Ok(default) };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "ms" => Some(0.001),
            "" | "s" => Some(1.0),
            "min" | "m" => Some(60.0),
            "h" => Some(3600.0),
            _ => None,
        };
        let seconds = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
        seconds
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| {
                Error::configuration(format!("{key} is no length of time"))
                    .with_hint("write seconds, or a number with ms, s, min or h: 500ms, 5min")
            })
    }
}

/// Whether a URL names its port; the parser leaves out one that is the scheme's own.
fn has_explicit_port(url: &str) -> bool {
    let authority = url.split("://").nth(1).unwrap_or_default().split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    host.rsplit(']').next().unwrap_or_default().contains(':')
}

fn check_setting(name: &str) -> Result<()> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        return Err(Error::configuration(format!("{name:?} is no name of a setting")));
    }
    if WHOLE.iter().any(|(whole, _)| *whole == name) || FILTERS.contains(&name) {
        return Err(Error::configuration(format!(
            "{name} cannot be set: an answer would have other rows than there are"
        ))
        .with_hint("limit the rows in a query, or by custom_predicate"));
    }
    if TEXTS.iter().any(|(text, _)| *text == name) {
        return Err(Error::configuration(format!("{name} cannot be set: what is read as text would look otherwise"))
            .with_hint("a query can give a value the text that it should have"));
    }
    if name.starts_with("param_") || RESERVED.contains(&name) || name.starts_with("output_format_native_") {
        let error = Error::configuration(format!("{name} cannot be set: what is read and written depends on it"));
        return Err(match nearest(name, OPTIONS.iter().copied()) {
            Some(option) => error.with_hint(format!("the connection has an option {option:?}")),
            None => error,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resolve(options: &[(&str, &str)]) -> Result<ClickHouseConfig> {
        ClickHouseConfig::new(&ResolvedConnection {
            name: "events".into(),
            kind: "clickhouse".into(),
            options: options.iter().map(|(k, v)| (k.to_string(), Secret::new(*v))).collect(),
            base_dir: PathBuf::from("/project"),
        })
    }

    #[test]
    fn a_url_says_it_all_and_options_come_before_it() {
        let config = resolve(&[
            ("url", "https://me:p%40ss%25@ch.example.org:8444/shop?max_threads=4&connect_timeout=3"),
            ("database", "other"),
        ])
        .unwrap();
        assert_eq!((config.user.as_str(), config.password.expose()), ("me", "p@ss%"));
        assert_eq!(config.place(), "ch.example.org:8444/other");
        assert_eq!(config.base_url(), "https://ch.example.org:8444/");
        assert_eq!(config.connect_timeout, Duration::from_secs(3));
        assert_eq!(config.settings, BTreeMap::from([("max_threads".to_owned(), "4".to_owned())]));
    }

    #[test]
    fn ports_follow_the_protocol() {
        let port = |options: &[(&str, &str)]| resolve(options).map(|config| config.port);
        assert_eq!(port(&[("host", "h")]).unwrap(), 8123);
        assert_eq!(port(&[("host", "h"), ("secure", "true")]).unwrap(), 8443);
        assert_eq!(port(&[("url", "http://h:80/")]).unwrap(), 80);
        assert_eq!(port(&[("url", "http://h/")]).unwrap(), 8123);
        assert_eq!(port(&[("url", "http://[::1]/")]).unwrap(), 8123);
        let native = port(&[("host", "h"), ("port", "9000")]).unwrap_err();
        assert!(native.hint().unwrap().contains("8123"), "{native:?}");
    }

    #[test]
    fn settings_are_a_mapping_or_a_list() {
        for (key, text) in [
            ("settings", r#"{"max_threads": 8, "join_use_nulls": true}"#),
            ("settings", "max_threads=8, join_use_nulls=1"),
        ] {
            let config = resolve(&[(key, text)]).unwrap();
            assert_eq!(config.settings["max_threads"], "8");
            assert_eq!(config.settings["join_use_nulls"], "1");
        }
        assert_eq!(resolve(&[("settings.max_threads", "8")]).unwrap().settings["max_threads"], "8");
        for filter in ["limit=10", "join_overflow_mode=break", "additional_table_filters={'h.t': 'id < 5'}"] {
            let refused = resolve(&[("settings", filter)]).unwrap_err();
            assert!(refused.message().contains("cannot be set: an answer would have other rows"), "{refused}");
        }
        for wrong in [
            "query_id=x",
            "wait_end_of_query=0",
            "a b=1",
            "output_format_native_encode_types_in_binary_format=1",
            "nothing",
        ] {
            assert!(resolve(&[("settings", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for wrong in [
            &[("url", "https://h/"), ("secure", "false")][..],
            &[("host", "h"), ("verify", "none")],
            &[("url", "https://h/"), ("client_cert", "c.pem")],
            &[("user", "a"), ("username", "b")],
            &[("url", "ftp://h/")],
            &[("url", "")],
            &[("host", "")],
            &[("url", "http://h/a/b")],
            &[("compression", "zip")],
            &[("connect_timeout", "soon")],
            &[("port", "0")],
            &[("proxy", "socks5://h:1")],
        ] {
            let error = resolve(wrong).unwrap_err();
            assert_eq!(error.kind(), dpone_planner::ErrorKind::Configuration, "{wrong:?}");
            assert!(error.to_string().contains("events"), "{error}");
        }
    }

    #[test]
    fn no_password_is_printed() {
        let config = resolve(&[("url", "http://me:hunter2@h/x"), ("proxy", "http://a:hunter3@p:1")]).unwrap();
        assert!(!format!("{config:?} {}", config.place()).contains("hunter"));
    }
}
