//! TLS: who is trusted, and what is checked.

use std::sync::Arc;

use dpone_planner::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::{ClickHouseConfig, Pem, Verify};

pub(crate) fn client(config: &ClickHouseConfig) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::configuration(format!("TLS cannot be set up: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(config, provider)?);
    match &config.client_cert {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate, "client_cert")?, private_key(key)?)
            .map_err(|e| Error::configuration(format!("client_cert and client_cert_key cannot be used: {e}"))),
    }
}

fn verifier(config: &ClickHouseConfig, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    if config.verify == Verify::None {
        return Ok(Arc::new(Lenient { strict: None, provider }));
    }
    let roots = Arc::new(roots(config.ca_cert.as_ref())?);
    let strict = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|e| Error::configuration(format!("the trusted certificates cannot be used: {e}")))?;
    Ok(match config.verify {
        Verify::Full => strict,
        _ => Arc::new(Lenient { strict: Some(strict), provider }),
    })
}

fn roots(from: Option<&Pem>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let Some(from) = from else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err(Error::configuration("the operating system has no trusted certificates")
                .with_hint("install the package ca-certificates, or set ca_cert"));
        }
        return Ok(store);
    };
    for certificate in certificates(from, "ca_cert")? {
        store
            .add(certificate)
            .map_err(|e| Error::configuration(format!("{}: not a usable certificate: {e}", named("ca_cert", from))))?;
    }
    Ok(store)
}

/// The option, with its file where it is one.
fn named(option: &str, pem: &Pem) -> String {
    match pem {
        Pem::File(path) => format!("{option} {}", path.display()),
        Pem::Text(_) => option.to_owned(),
    }
}

fn certificates(pem: &Pem, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let failed =
        |e: rustls::pki_types::pem::Error| Error::configuration(format!("{} cannot be read: {e}", named(option, pem)));
    let found: Vec<_> = match pem {
        Pem::File(path) => CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>(),
        Pem::Text(text) => CertificateDer::pem_slice_iter(text.expose().as_bytes()).collect::<Result<_, _>>(),
    }
    .map_err(failed)?;
    if found.is_empty() {
        return Err(Error::configuration(format!("{} holds no certificate", named(option, pem)))
            .with_hint("expected PEM: -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>> {
    match pem {
        Pem::File(path) => PrivateKeyDer::from_pem_file(path),
        Pem::Text(text) => PrivateKeyDer::from_pem_slice(text.expose().as_bytes()),
    }
    .map_err(|_| {
        Error::configuration(format!("{} holds no key that can be read", named("client_cert_key", pem)))
            .with_hint("expected an unencrypted PEM key")
    })
}

/// Any certificate of a trusted authority, whatever host it names (`verify: ca`), or any at all (`verify: none`).
#[derive(Debug)]
struct Lenient {
    strict: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(strict) = &self.strict else { return Ok(ServerCertVerified::assertion()) };
        match strict.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last, so an error about it says that everything else was in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
