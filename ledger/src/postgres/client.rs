//! Opening the one connection that a command needs.

use std::fmt;

use dpone_postgres_connect::{Config, SslMode};
use tokio_postgres::config::SslMode as Negotiation;
use tokio_postgres::{IsolationLevel, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{from_connect, from_driver};
use crate::error::{Error, Result};

pub(crate) struct Client {
    pub(crate) inner: tokio_postgres::Client,
    address: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.address).finish()
    }
}

impl Client {
    pub(crate) async fn connect(config: &Config) -> Result<Self> {
        let tls = config.tls()?;
        let inner = match open(config.driver(), &tls).await {
            // `allow`: the server may refuse connections without TLS in pg_hba.conf.
            Err(error) if config.ssl_mode() == SslMode::Allow && error.as_db_error().is_some() => {
                let mut with_tls = config.driver().clone();
                with_tls.ssl_mode(Negotiation::Require);
                open(&with_tls, &tls).await
            }
            other => other,
        }
        .map_err(|e| from_connect(e, config))?;
        let client = Self { inner, address: config.address() };
        client.check_version().await?;
        Ok(client)
    }

    async fn check_version(&self) -> Result<()> {
        let row = self.inner.simple_query("SHOW server_version_num").await.map_err(from_driver)?;
        let version = row.iter().find_map(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).and_then(|v| v.parse::<u32>().ok()),
            _ => None,
        });
        match version {
            Some(110_000..) => Ok(()),
            Some(version) => Err(Error::database(format!(
                "{} is PostgreSQL {}, and 11 or newer is needed",
                self.address,
                version / 10_000
            ))),
            None => Err(Error::database(format!("{} does not tell its version: is it PostgreSQL?", self.address))),
        }
    }
}

/// Whatever the role's default is: what was waited for must be seen.
pub(crate) async fn begin(client: &mut tokio_postgres::Client) -> Result<Transaction<'_>> {
    client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await.map_err(from_driver)
}

async fn open(
    driver: &tokio_postgres::Config,
    tls: &MakeRustlsConnect,
) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = driver.connect(tls.clone()).await?;
    tokio::spawn(async move {
        // Whoever waits for an answer gets the error too: here it is only worth a line.
        if let Err(error) = connection.await {
            tracing::debug!("the connection ended: {error}");
        }
    });
    Ok(client)
}
