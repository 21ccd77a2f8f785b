//! Queries over HTTP: sending one, and never taking a broken answer for a whole one.
//!
//! Written on the HTTP client that the workspace has already. The `clickhouse` crate was looked at for it: it searches
//! each piece of an answer by itself for the exception that a server appends when it fails after it began to answer, so
//! one that is split between two pieces passes as data; it knows neither client certificates nor proxies nor silence; and
//! what it adds over HTTP is rows as structs, which nothing here has.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dpone_planner::{Error, Result};
use futures::{Stream, StreamExt};
use reqwest::header::{HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::answer::{Answer, quiet};
use crate::config::{ClickHouseConfig, Compression};
use crate::error;
use crate::native::BlockRead;
use crate::settings::{TEXTS, WHOLE};
use crate::tls;

/// The oldest server that is spoken to, as `version()` begins.
const OLDEST: (u32, u32) = (24, 8);
/// Longer statements than most servers take need a setting.
const MAX_QUERY: usize = 200_000;
/// How often a statement is sent that found its connection closed. Why it was closed may be told on the next one.
const UNSENT: u32 = 4;
/// Longer statements do not go into an address: each letter may take six bytes there, of 64 KiB at most.
const IN_ADDRESS: usize = 4_000;

/// One server as one connection of a definition reaches it. Clones share its connections.
#[derive(Clone)]
pub struct Server {
    config: Arc<ClickHouseConfig>,
    http: reqwest::Client,
    /// Asked once.
    version: Arc<OnceCell<((u32, u32), String)>>,
    /// Whether a statement was ever answered: the server takes the connection's settings.
    answered: Arc<AtomicBool>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.config).finish()
    }
}

/// One statement, with what it needs apart from the connection's settings.
#[derive(Debug, Clone)]
pub struct Statement {
    sql: String,
    query_id: String,
    parameters: Vec<(String, String)>,
    patient: bool,
}

impl Statement {
    pub fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            query_id: format!("dpone-{}", uuid::Uuid::new_v4()),
            parameters: Vec::new(),
            patient: false,
        }
    }

    /// A setting of this statement; it comes before the connection's own of the same name.
    pub fn setting(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// The value of `{name:Type}` in the text.
    pub fn parameter(self, name: &str, value: &str) -> Self {
        // The server reads values as it reads fields of TabSeparated.
        let escaped = value.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n");
        self.setting(&format!("param_{name}"), escaped)
    }

    /// May be silent for as long as it takes: mutations, and inserts that read much.
    pub fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    fn fits_address(&self) -> bool {
        self.sql.len() <= IN_ADDRESS
    }

    pub fn query_id(&self) -> &str {
        &self.query_id
    }

    pub fn sql(&self) -> &str {
        &self.sql
    }
}

impl From<String> for Statement {
    fn from(sql: String) -> Self {
        Self::new(sql)
    }
}

impl From<&str> for Statement {
    fn from(sql: &str) -> Self {
        Self::new(sql)
    }
}

/// What the server counted, from `X-ClickHouse-Summary`. It is rounded by nothing, and absent where a proxy drops heads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub read_rows: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
}

impl Summary {
    fn of(headers: &HeaderMap) -> Self {
        let text = headers.get("x-clickhouse-summary").and_then(|value| value.to_str().ok()).unwrap_or("{}");
        let values: std::collections::BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
        let number = |key: &str| values.get(key).and_then(|value| value.parse().ok()).unwrap_or(0);
        Self {
            read_rows: number("read_rows"),
            written_rows: number("written_rows"),
            written_bytes: number("written_bytes"),
        }
    }
}

impl Server {
    /// Reads certificates, and opens no connection.
    pub fn new(config: ClickHouseConfig) -> Result<Self> {
        let http = http_client(&config).map_err(|e| e.with("connection", &config.connection))?;
        Ok(Self { config: Arc::new(config), http, version: Arc::default(), answered: Arc::default() })
    }

    pub fn config(&self) -> &ClickHouseConfig {
        &self.config
    }

    /// Runs a statement whose answer nobody reads, and waits for its end.
    pub async fn run(&self, statement: impl Into<Statement>) -> Result<Summary> {
        let statement = statement.into().setting("wait_end_of_query", 1);
        let mut answer = self.send(&statement, None).await?;
        let summary = answer.summary;
        answer.whole().await?;
        Ok(summary)
    }

    /// The rows of a small answer, each as a tuple.
    pub async fn rows<T: DeserializeOwned>(&self, statement: impl Into<Statement>) -> Result<Vec<T>> {
        #[derive(serde::Deserialize)]
        struct Document<T> {
            data: Vec<T>,
        }
        let statement = statement
            .into()
            .setting("wait_end_of_query", 1)
            .setting("default_format", "JSONCompact")
            .setting("output_format_json_quote_64bit_integers", 0)
            .setting("output_format_json_validate_utf8", 1);
        let mut answer = self.send(&statement, None).await?;
        let bytes = answer.whole().await?;
        let document: Document<T> = serde_json::from_slice(&bytes).map_err(|e| {
            // Of serde's text only the place: the rest quotes.
            let problem = format!("an answer of the server cannot be read (line {}, column {})", e.line(), e.column());
            self.named(Error::internal(problem), &statement)
        })?;
        Ok(document.data)
    }

    /// The first row, or `None`.
    pub async fn row<T: DeserializeOwned>(&self, statement: impl Into<Statement>) -> Result<Option<T>> {
        Ok(self.rows(statement).await?.into_iter().next())
    }

    /// The one value of the one row.
    pub async fn scalar<T: DeserializeOwned>(&self, statement: impl Into<Statement>) -> Result<T> {
        let row: Option<(T,)> = self.row(statement).await?;
        row.map(|(value,)| value).ok_or_else(|| Error::internal("a question to the server was answered with no row"))
    }

    /// Starts a query whose rows come as batches of about `batch_rows`. Dropping the reader stops the query.
    pub async fn read(&self, statement: Statement, batch_rows: usize) -> Result<BlockRead> {
        let packed = self.config.compression == Compression::Lz4;
        let texts = TEXTS.iter().fold(statement, |statement, (name, value)| statement.setting(name, value));
        let statement = texts
            .setting("default_format", "Native")
            .setting("output_format_native_encode_types_in_binary_format", 0)
            .setting("compress", u8::from(packed))
            .setting("max_block_size", batch_rows.max(1));
        let answer = self.send(&statement, None).await?;
        BlockRead::open(answer, packed).await
    }

    /// Sends the data of an `INSERT … FORMAT …`. The server answers when all of it is written.
    pub async fn insert<S>(&self, statement: Statement, data: S) -> Result<Summary>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        let statement = statement.setting("wait_end_of_query", 1);
        // Where the address has no room for it, the statement goes before the data.
        let head = (!statement.fits_address()).then(|| Ok(Bytes::from(format!("{}\n", statement.sql))));
        let body = reqwest::Body::wrap_stream(futures::stream::iter(head).chain(data));
        let mut answer = self.send(&statement, Some(body)).await?;
        let summary = answer.summary;
        answer.whole().await?;
        Ok(summary)
    }

    /// Stops a query, if it still runs. Asks once, and waits for nothing.
    pub async fn kill(&self, query_id: &str) -> Result<()> {
        let statement = Statement::new("KILL QUERY WHERE query_id = {id:String} ASYNC").parameter("id", query_id);
        self.run(statement).await.map(|_| ())
    }

    /// The version as `(year, month)` and as the server writes it. Fails for servers that are too old.
    pub async fn version(&self) -> Result<((u32, u32), String)> {
        self.version.get_or_try_init(|| self.ask_version()).await.cloned()
    }

    async fn ask_version(&self) -> Result<((u32, u32), String)> {
        let text: String = self.scalar("SELECT version()").await?;
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
        let (Some(Some(year)), Some(Some(month))) = (parts.next(), parts.next()) else {
            return Err(Error::configuration(format!("the server calls its version {text:?}; is it ClickHouse?")));
        };
        if (year, month) < OLDEST {
            return Err(Error::configuration(format!(
                "the server is ClickHouse {text}, and {}.{} or newer is needed",
                OLDEST.0, OLDEST.1
            )));
        }
        Ok(((year, month), text))
    }

    /// Sends a statement, and waits for the head of the answer. With a body, the statement goes into the address.
    async fn send(&self, statement: &Statement, body: Option<reqwest::Body>) -> Result<Answer> {
        tracing::debug!(sql = statement.sql, query_id = statement.query_id, "send");
        let named = |error: Error| self.named(error, statement);
        let long = (statement.sql.len() > MAX_QUERY).then(|| statement.clone().setting("max_query_size", 64 << 20));
        let statement = long.as_ref().unwrap_or(statement);
        let silence = (!statement.patient).then_some(self.config.send_receive_timeout);
        let mut sends = if body.is_some() { 1 } else { UNSENT };
        let mut request = self.request(statement, body);
        let response = loop {
            let sent = quiet(silence, request.send()).await.ok_or_else(|| named(error::silent(&self.config)))?;
            sends -= 1;
            match sent {
                Ok(response) => break response,
                Err(e) if sends > 0 && error::was_not_sent(&e) => request = self.request(statement, None),
                Err(e) => return Err(named(self.failed_to_send(e))),
            }
        };
        let status = response.status();
        let headers = response.headers();
        let code = headers
            .get("x-clickhouse-exception-code")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u32>().ok());
        let summary = Summary::of(headers);
        let tag = headers.get("x-clickhouse-exception-tag").map(|tag| tag.as_bytes().to_vec());
        let mut answer = Answer::new(self.clone(), &statement.query_id, response, summary, tag).within(silence);
        if status.is_success() && code.is_none() {
            self.answered.store(true, Ordering::Relaxed);
            return Ok(answer);
        }
        // The text may be cut; the head says enough.
        let text = answer.text_of_failure().await;
        let ours = code.is_some() || text.starts_with("Code: ");
        let error = match ours {
            true => error::from_exception(&text, code),
            false => error::from_status(status.as_u16(), &self.config),
        };
        let of_settings = ours && !self.answered.load(Ordering::Relaxed) && error::may_be_of_a_setting(&error);
        let refused = if of_settings { self.refused_setting().await } else { None };
        Err(named(refused.unwrap_or(error)))
    }

    /// The setting of the connection that the server does not take, if there is one: its errors about a value do not say
    /// of which setting it is.
    async fn refused_setting(&self) -> Option<Error> {
        for (name, value) in &self.config.settings {
            let request = self.http.post(self.config.base_url()).query(&[(name, value)]).body("SELECT 1");
            let answer = quiet(Some(self.config.send_receive_timeout), request.send()).await?.ok()?;
            if answer.status().is_success() {
                continue;
            }
            let text = quiet(Some(self.config.send_receive_timeout), answer.text()).await?.ok()?;
            return error::of_setting(name, &text);
        }
        None
    }

    fn request(&self, statement: &Statement, body: Option<reqwest::Body>) -> reqwest::RequestBuilder {
        let config = &self.config;
        let mut parameters: Vec<(&str, &str)> = Vec::with_capacity(statement.parameters.len() + 8);
        parameters.push(("query_id", &statement.query_id));
        parameters.push(("database", &config.database));
        parameters.extend(WHOLE);
        let own = |name: &str| statement.parameters.iter().any(|(own, _)| own == name);
        parameters.extend(config.settings.iter().filter(|(n, _)| !own(n)).map(|(n, v)| (n.as_str(), v.as_str())));
        parameters.extend(statement.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let request = self.http.post(config.base_url());
        match body {
            None => request.query(&parameters).body(statement.sql.clone()),
            Some(body) => {
                if statement.fits_address() {
                    parameters.push(("query", &statement.sql));
                }
                request.query(&parameters).body(body)
            }
        }
    }

    /// An error of ours that stopped the data of an insert comes back through the driver.
    fn failed_to_send(&self, error: reqwest::Error) -> Error {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = next {
            if let Some(ours) = inner.downcast_ref::<Error>() {
                return ours.copy();
            }
            next = inner.source();
        }
        error::from_transport(error, &self.config)
    }

    fn named(&self, error: Error, statement: &Statement) -> Error {
        error.with("connection", &self.config.connection).with("query_id", &statement.query_id)
    }
}

fn http_client(config: &ClickHouseConfig) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("dpone/", env!("CARGO_PKG_VERSION")))
        .default_headers(credentials(config)?)
        .connect_timeout(config.connect_timeout)
        .tcp_keepalive(Duration::from_secs(30))
        .tcp_nodelay(true)
        // Shorter than the server's own, so that no query is sent on a connection that is being closed.
        .pool_idle_timeout(Duration::from_secs(2))
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .no_proxy();
    if config.secure {
        builder = builder.use_preconfigured_tls(tls::client(config)?);
    }
    if let Some(proxy) = &config.proxy {
        let proxy = reqwest::Proxy::all(proxy.expose())
            .map_err(|_| Error::configuration("proxy is no URL of an HTTP proxy"))?;
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|e| Error::configuration(format!("the HTTP client cannot be set up: {}", e.without_url())))
}

/// Who asks: by password, or by the certificate that the connection shows.
fn credentials(config: &ClickHouseConfig) -> Result<HeaderMap> {
    let header = |option: &str, text: &str| {
        let mut value = HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| Error::configuration(format!("{option} has a character that HTTP cannot carry")))?;
        value.set_sensitive(true);
        Ok::<_, Error>(value)
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-clickhouse-user", header("user", &config.user)?);
    if config.password.expose().is_empty() && config.client_cert.is_some() {
        headers.insert("x-clickhouse-ssl-certificate-auth", HeaderValue::from_static("on"));
    } else {
        headers.insert("x-clickhouse-key", header("password", config.password.expose())?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::PathBuf;

    use dpone_engine::ResolvedConnection;
    use dpone_planner::Secret;

    use super::*;

    #[test]
    fn answers_are_whole_whatever_a_profile_says() {
        let options = [("url", "http://ch:8123/"), ("settings", "max_rows_to_read=10, join_use_nulls=1")];
        let connection = ResolvedConnection {
            name: "events".into(),
            kind: "clickhouse".into(),
            options: options.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect(),
            base_dir: PathBuf::new(),
        };
        let server = Server::new(ClickHouseConfig::new(&connection).unwrap()).unwrap();
        for body in [None, Some(reqwest::Body::from("data"))] {
            let statement = Statement::new("SELECT 1").setting("join_use_nulls", "0");
            let request = server.request(&statement, body).build().unwrap();
            let values = |name: &str| -> Vec<String> {
                request.url().query_pairs().filter(|(n, _)| n == name).map(|(_, value)| value.into_owned()).collect()
            };
            assert_eq!(values("limit"), ["0"]);
            assert_eq!(values("result_overflow_mode"), ["throw"]);
            assert_eq!(values("max_rows_to_read"), ["10"], "it fails, and cuts nothing off");
            assert_eq!(values("join_use_nulls"), ["0"], "what a statement says comes before the connection");
        }
    }
}
