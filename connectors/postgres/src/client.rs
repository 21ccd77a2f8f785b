//! Connections to one server: opening them, a bound on their number, and stopping what they run.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use dpone_planner::{Error, Result};
use dpone_postgres_connect::SslMode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::PostgresConfig;
use crate::error::{from_connect, from_driver};

/// One server as one connection of a definition reaches it. Clones share the bound on open connections.
#[derive(Clone)]
pub struct Server {
    config: Arc<PostgresConfig>,
    permits: Arc<Semaphore>,
    tls: MakeRustlsConnect,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.config).finish()
    }
}

impl Server {
    /// Reads certificates, and opens no connection.
    pub fn new(config: PostgresConfig) -> Result<Self> {
        let tls = config.tls().map_err(|e| e.with("connection", &config.connection))?;
        let permits = Arc::new(Semaphore::new(config.max_connections));
        Ok(Self { config: Arc::new(config), permits, tls })
    }

    pub fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// Opens a connection; waits while as many as allowed are open.
    pub async fn connect(&self) -> Result<Client> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| Error::internal("the connection limit was closed"))?;
        let (inner, task) = match self.open(self.config.driver()).await {
            // `allow`: the server may refuse connections without TLS in pg_hba.conf.
            Err(error) if self.config.ssl_mode() == SslMode::Allow && error.as_db_error().is_some() => {
                let mut with_tls = self.config.driver().clone();
                with_tls.ssl_mode(tokio_postgres::config::SslMode::Require);
                self.open(&with_tls).await
            }
            other => other,
        }
        .map_err(|e| from_connect(e, &self.config))?;
        let cancel = Cancel { token: inner.cancel_token(), tls: self.tls.clone() };
        let mut client = Client { inner, version: 0, task, cancel, _permit: permit };
        client.begin_session(&self.config).await?;
        Ok(client)
    }

    async fn open(
        &self,
        driver: &tokio_postgres::Config,
    ) -> std::result::Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error> {
        let (client, connection) = driver.connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer gets the error too: here it is only worth a line.
            if let Err(error) = connection.await {
                tracing::debug!("connection ended: {error}");
            }
        });
        Ok((client, task))
    }
}

/// An open connection. Dropping it closes it; what it was running is cancelled only through [`Client::cancel`] or
/// [`CancelOnDrop`], because the server does not notice a closed socket before it writes.
pub struct Client {
    inner: tokio_postgres::Client,
    version: u32,
    task: JoinHandle<()>,
    cancel: Cancel,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl Client {
    /// The server's `server_version_num`, such as 150004.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// For transactions.
    pub fn driver_mut(&mut self) -> &mut tokio_postgres::Client {
        &mut self.inner
    }

    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Fixes the settings that text forms of values depend on. `TimeZone`, `search_path` and `lc_*` stay as the role
    /// has them: queries and views mean what they mean in psql.
    async fn begin_session(&mut self, config: &PostgresConfig) -> Result<()> {
        let mut settings = String::from(
            "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; \
             SET extra_float_digits = 3; SET standard_conforming_strings = on; \
             SET idle_in_transaction_session_timeout = 0;",
        );
        if let Some(timeout) = config.statement_timeout {
            settings.push_str(&format!("SET statement_timeout = {};", timeout.as_millis()));
        }
        settings.push_str("SHOW server_version_num");
        let answers = self.inner.simple_query(&settings).await.map_err(|e| from_connect(e, config))?;
        self.version = answers
            .iter()
            .find_map(|answer| match answer {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).and_then(|v| v.parse().ok()),
                _ => None,
            })
            .ok_or_else(|| Error::configuration("the server does not tell its version; is it PostgreSQL?"))?;
        if self.version < 110_000 {
            return Err(Error::configuration(format!(
                "the server is PostgreSQL {}, and 11 or newer is needed",
                version_name(self.version)
            )));
        }
        Ok(())
    }

    /// Runs statements without results, several separated by semicolons.
    pub async fn run(&self, sql: &str) -> Result<()> {
        tracing::debug!(sql, "run");
        self.inner.batch_execute(sql).await.map_err(from_driver)
    }

    pub async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        tracing::debug!(sql, "rows");
        self.inner.query(sql, parameters).await.map_err(from_driver)
    }

    pub async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
        tracing::debug!(sql, "row");
        self.inner.query_opt(sql, parameters).await.map_err(from_driver)
    }

    /// Runs one statement and returns the number of rows that it touched.
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        tracing::debug!(sql, "execute");
        self.inner.execute(sql, parameters).await.map_err(from_driver)
    }

    /// The first column of the first row, through the text protocol: works for any type.
    pub async fn scalar(&self, sql: &str) -> Result<Option<String>> {
        let answers = self.inner.simple_query(sql).await.map_err(from_driver)?;
        Ok(answers.iter().find_map(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// Closes in order: the server has ended the session when this returns.
    pub async fn close(self) {
        let Self { inner, task, .. } = self;
        drop(inner);
        let _ = task.await;
    }
}

/// Asks the server to stop what a connection runs.
#[derive(Clone)]
pub struct Cancel {
    token: CancelToken,
    tls: MakeRustlsConnect,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cancel")
    }
}

impl Cancel {
    pub async fn send(&self) -> Result<()> {
        self.token.cancel_query(self.tls.clone()).await.map_err(from_driver)
    }
}

/// Cancels what a connection runs when it is dropped before [`CancelOnDrop::disarm`].
#[derive(Debug)]
pub struct CancelOnDrop {
    cancel: Option<Cancel>,
    /// The runtime of the connection: a drop may happen outside of it.
    runtime: Option<tokio::runtime::Handle>,
}

impl CancelOnDrop {
    pub fn new(client: &Client) -> Self {
        Self { cancel: Some(client.cancel()), runtime: tokio::runtime::Handle::try_current().ok() }
    }

    /// The statement is over.
    pub fn disarm(mut self) {
        self.cancel = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let (Some(cancel), Some(runtime)) = (self.cancel.take(), self.runtime.take()) {
            runtime.spawn(async move {
                if let Err(error) = cancel.send().await {
                    tracing::debug!("a statement could not be cancelled: {error}");
                }
            });
        }
    }
}

/// `150004` as `15.4`.
pub fn version_name(version: u32) -> String {
    format!("{}.{}", version / 10_000, version % 10_000)
}
