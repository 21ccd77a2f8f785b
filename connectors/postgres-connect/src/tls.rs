//! TLS for every `sslmode`.

use std::path::Path;

use dpone_tls::{Check, From, Pem, Tls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Config, RootCertificates, SslMode};
use crate::error::{Error, Result};

pub(crate) fn connector(config: &Config) -> Result<MakeRustlsConnect> {
    let tls = Tls {
        check: match config.ssl_mode() {
            // Encryption without identity.
            SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => Check::Nothing,
            SslMode::VerifyCa => Check::Authority,
            SslMode::VerifyFull => Check::Full,
        },
        roots: match &config.root_certificates {
            RootCertificates::System => None,
            RootCertificates::File(path) => Some(file("sslrootcert", path)),
        },
        roots_option: "sslrootcert",
        identity: config
            .client_certificate
            .as_ref()
            .map(|(certificate, key)| (file("sslcert", certificate), file("sslkey", key))),
    };
    let client = tls.client().map_err(|error| Error { message: error.message, hint: error.hint })?;
    Ok(MakeRustlsConnect::new(client))
}

fn file<'a>(option: &'static str, path: &'a Path) -> Pem<'a> {
    Pem { option, from: From::File(path) }
}
