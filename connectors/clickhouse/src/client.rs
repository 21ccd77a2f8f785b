//! Queries over HTTP: sending one, and never taking a broken answer for a whole one.
//!
//! Written on the HTTP client that the workspace has already. The `clickhouse` crate was looked at for it: it searches
//! each piece of an answer by itself for the exception that a server appends when it fails after it began to answer, so
//! one that is split between two pieces passes as data; it knows neither client certificates nor proxies nor silence; and
//! what it adds over HTTP is rows as structs, which nothing here has.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::ArrowError;
use bytes::Bytes;
use dpone_planner::{Error, Result};
use futures::Stream;
use reqwest::header::{HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;

use crate::config::{ClickHouseConfig, Compression};
use crate::error;
use crate::stream::ArrowRead;
use crate::tls;

/// The oldest server that is spoken to, as `version()` begins.
const OLDEST: (u32, u32) = (24, 8);
/// At least this much of an answer's end is kept, to find an exception in it.
const TAIL_BYTES: usize = 64 << 10;
/// Longer statements than most servers take need a setting.
const MAX_QUERY: usize = 200_000;
/// An answer that is read whole, such as a catalog's, ends here.
const MAX_ANSWER: usize = 256 << 20;

/// One server as one connection of a definition reaches it. Clones share its connections.
#[derive(Clone)]
pub struct Server {
    config: Arc<ClickHouseConfig>,
    http: reqwest::Client,
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
        Ok(Self { config: Arc::new(config), http })
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

    /// Starts a query whose rows come as Arrow batches of at most `batch_rows`. Dropping the reader stops the query.
    pub async fn arrow(&self, statement: Statement, batch_rows: usize) -> Result<ArrowRead> {
        let compression = match self.config.compression {
            Compression::None => "none",
            Compression::Lz4 => "lz4_frame",
        };
        let statement = statement
            .setting("default_format", "ArrowStream")
            .setting("output_format_arrow_string_as_string", 0)
            .setting("output_format_arrow_fixed_string_as_fixed_byte_array", 1)
            .setting("output_format_arrow_low_cardinality_as_dictionary", 0)
            .setting("output_format_arrow_compression_method", compression)
            .setting("max_block_size", batch_rows.max(1));
        let answer = self.send(&statement, None).await?;
        ArrowRead::open(answer).await
    }

    /// Sends the data of an `INSERT … FORMAT …`. The server answers when all of it is written.
    pub async fn insert<S>(&self, statement: Statement, data: S) -> Result<Summary>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        let statement = statement.setting("wait_end_of_query", 1);
        let mut answer = self.send(&statement, Some(reqwest::Body::wrap_stream(data))).await?;
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
        let request = self.request(statement, body);
        let silence = (!statement.patient).then_some(self.config.send_receive_timeout);
        let response = quiet(silence, request.send())
            .await
            .ok_or_else(|| named(error::silent(&self.config)))?
            .map_err(|e| named(self.failed_to_send(e)))?;
        let status = response.status();
        let headers = response.headers();
        let code = headers
            .get("x-clickhouse-exception-code")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u32>().ok());
        let mut answer = Answer {
            summary: Summary::of(headers),
            tag: headers.get("x-clickhouse-exception-tag").map(|tag| tag.as_bytes().to_vec()),
            response,
            server: self.clone(),
            query_id: statement.query_id.clone(),
            silence,
            tail: VecDeque::new(),
            tail_bytes: 0,
        };
        if status.is_success() && code.is_none() {
            return Ok(answer);
        }
        // The text may be cut; the head says enough.
        let text = answer.text_of_failure().await;
        let ours = code.is_some() || text.starts_with("Code: ");
        Err(named(if ours {
            error::from_exception(&text, code)
        } else {
            error::from_status(status.as_u16(), &self.config)
        }))
    }

    fn request(&self, statement: &Statement, body: Option<reqwest::Body>) -> reqwest::RequestBuilder {
        let config = &self.config;
        let mut parameters: Vec<(&str, &str)> = Vec::with_capacity(statement.parameters.len() + 8);
        parameters.push(("query_id", &statement.query_id));
        parameters.push(("database", &config.database));
        let own = |name: &str| statement.parameters.iter().any(|(own, _)| own == name);
        parameters.extend(config.settings.iter().filter(|(n, _)| !own(n)).map(|(n, v)| (n.as_str(), v.as_str())));
        parameters.extend(statement.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let request = self.http.post(config.base_url());
        match body {
            None => request.query(&parameters).body(statement.sql.clone()),
            Some(body) => {
                parameters.push(("query", &statement.sql));
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

/// The future's outcome, or `None` when it took longer than the limit.
async fn quiet<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// An answer that has begun.
pub(crate) struct Answer {
    pub(crate) summary: Summary,
    /// What marks an exception in the middle of an answer, since 25.11.
    tag: Option<Vec<u8>>,
    response: reqwest::Response,
    server: Server,
    query_id: String,
    silence: Option<Duration>,
    /// The newest pieces, together at least [`TAIL_BYTES`] where there were so many.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("query_id", &self.query_id).finish_non_exhaustive()
    }
}

impl Answer {
    /// The next piece; `None` at the end of the body, which is not yet proof that the answer is whole.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        let next = quiet(self.silence, self.response.chunk()).await;
        let piece = match next {
            None => return Err(self.named(error::silent(self.server.config()))),
            // A server that fails in the middle closes the connection after it said why.
            Some(Err(failed)) => {
                return Err(match self.exception() {
                    Some(said) => said,
                    None => self.named(error::from_transport(failed, self.server.config())),
                });
            }
            Some(Ok(piece)) => piece,
        };
        if let Some(piece) = &piece {
            self.tail_bytes += piece.len();
            self.tail.push_back(piece.clone());
            while let Some(oldest) = self.tail.front().filter(|oldest| self.tail_bytes - oldest.len() >= TAIL_BYTES) {
                self.tail_bytes -= oldest.len();
                self.tail.pop_front();
            }
        }
        Ok(piece)
    }

    /// The rest of a small answer.
    async fn whole(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_ANSWER {
                return Err(self.named(Error::internal("an answer of the server is larger than it can be")));
            }
        }
        // With `wait_end_of_query` a failure has its own status; a proxy may have begun to answer before.
        match self.exception() {
            Some(error) => Err(error),
            None => Ok(bytes),
        }
    }

    async fn text_of_failure(&mut self) -> String {
        let mut bytes = Vec::new();
        while let Ok(Some(piece)) = self.piece().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() > TAIL_BYTES {
                break;
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The exception at the end of what was received, when there is one.
    pub(crate) fn exception(&self) -> Option<Error> {
        let tail: Vec<u8> = self.tail.iter().flat_map(|piece| piece.iter().copied()).collect();
        let text = exception_text(&tail, self.tag.as_deref())?;
        Some(self.named(error::from_exception(&text, None)))
    }

    /// The error of an answer that ended too early, or that cannot be read.
    pub(crate) fn broken(&self, why: Option<ArrowError>) -> Error {
        if let Some(error) = self.exception() {
            return error;
        }
        let address = self.server.config().address();
        self.named(match why {
            Some(why) => Error::internal(format!("what {address} sent is no Arrow stream: {why}")),
            None => Error::transient(format!("{address} stopped in the middle of its answer")).with_hint(
                "the server's log has the reason under the query id; where it waited too long for a slow reader, raise \
                     http_send_timeout in its default profile",
            ),
        })
    }

    /// Who answers what.
    pub(crate) fn origin(&self) -> (Server, String) {
        (self.server.clone(), self.query_id.clone())
    }

    pub(crate) fn named(&self, error: Error) -> Error {
        error.with("connection", &self.server.config().connection).with("query_id", &self.query_id)
    }
}

/// An exception that ends these bytes: within its marks since 25.11, before that simply appended.
fn exception_text(tail: &[u8], tag: Option<&[u8]>) -> Option<String> {
    const MARK: &[u8] = b"__exception__\r\n";
    let find = |from: &[u8], what: &[u8]| from.windows(what.len()).rposition(|window| window == what);
    if let Some(tag) = tag.filter(|tag| !tag.is_empty()) {
        let opening = [MARK, tag, b"\r\n"].concat();
        let at = tail.windows(opening.len()).position(|window| window == opening)?;
        let text = &tail[at + opening.len()..];
        // The closing mark repeats the tag after the length of the text; it may be cut off.
        let end = find(text, tag).unwrap_or(text.len());
        let text = String::from_utf8_lossy(&text[..end]).into_owned();
        let trimmed = text.trim_end().trim_end_matches(|c: char| c.is_ascii_digit());
        return Some(trimmed.trim_end().to_owned());
    }
    let at = find(tail, b"Code: ")?;
    let text = &tail[at..];
    let text = String::from_utf8_lossy(text);
    let is_exception = text["Code: ".len()..].starts_with(|c: char| c.is_ascii_digit())
        && text.contains("Exception: ")
        && text.trim_end().ends_with(')');
    is_exception.then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OLD: &[u8] = b"\x00\x01dataCode: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) \
                         (version 24.8.1.1 (official build))\n";

    #[test]
    fn an_exception_at_the_end_is_found_in_both_forms() {
        assert!(exception_text(OLD, None).unwrap().starts_with("Code: 241. DB::Exception: Memory"));
        let new = b"data\r\n__exception__\r\nrnywyenlaeqynhmu\r\nCode: 159. DB::Exception: Timeout exceeded. \
                    (TIMEOUT_EXCEEDED) (version 25.12.1.649 (official build))\n142 rnywyenlaeqynhmu\r\n__exception__\r\n";
        let text = exception_text(new, Some(b"rnywyenlaeqynhmu")).unwrap();
        assert!(text.starts_with("Code: 159.") && text.ends_with("(official build))"), "{text}");
        // Cut off in the closing mark.
        let cut = &new[..new.len() - 30];
        assert!(exception_text(cut, Some(b"rnywyenlaeqynhmu")).unwrap().starts_with("Code: 159."));
    }

    #[test]
    fn data_is_no_exception() {
        for data in [&b"Code: red"[..], b"Code: 12 apples", b"", b"Code: 60. DB::Exception: in the middle) and on"] {
            assert_eq!(exception_text(data, None), None, "{data:?}");
        }
        // A server that marks exceptions has its data left alone.
        assert_eq!(exception_text(OLD, Some(b"rnywyenlaeqynhmu")), None);
    }
}
