//! TLS as a connection's options ask for it.

use dpone_planner::{Error, Result};
use dpone_tls::{Check, From, Pem as Given, Tls};
use rustls::ClientConfig;

use crate::config::{ClickHouseConfig, Pem, Verify};

pub(crate) fn client(config: &ClickHouseConfig) -> Result<ClientConfig> {
    let tls = Tls {
        check: match config.verify {
            Verify::Full => Check::Full,
            Verify::Ca => Check::Authority,
            Verify::None => Check::Nothing,
        },
        roots: config.ca_cert.as_ref().map(|pem| given("ca_cert", pem)),
        roots_option: "ca_cert",
        identity: config
            .client_cert
            .as_ref()
            .map(|(certificate, key)| (given("client_cert", certificate), given("client_cert_key", key))),
    };
    tls.client().map_err(|error| match error.hint {
        Some(hint) => Error::configuration(error.message).with_hint(hint),
        None => Error::configuration(error.message),
    })
}

fn given<'a>(option: &'static str, pem: &'a Pem) -> Given<'a> {
    let from = match pem {
        Pem::File(path) => From::File(path),
        Pem::Text(text) => From::Text(text.expose()),
    };
    Given { option, from }
}
