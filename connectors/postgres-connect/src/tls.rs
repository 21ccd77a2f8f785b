//! TLS for every `sslmode`: who is trusted, and what is checked.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Config, RootCertificates, SslMode};

pub(crate) fn connector(config: &Config) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(format!("TLS cannot be set up: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(config, provider)?);
    let client = match &config.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate, "sslcert")?, private_key(key)?)
            .map_err(|e| Error::new(format!("sslcert and sslkey cannot be used: {e}")))?,
    };
    Ok(MakeRustlsConnect::new(client))
}

fn verifier(config: &Config, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let check_name = match config.ssl_mode() {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => {
            return Ok(Arc::new(AnyCertificate(provider)));
        }
        SslMode::VerifyCa => false,
        SslMode::VerifyFull => true,
    };
    let roots = Arc::new(roots(&config.root_certificates)?);
    let strict = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|e| Error::new(format!("the trusted certificates cannot be used: {e}")))?;
    Ok(if check_name { strict } else { Arc::new(AnyName(strict)) })
}

fn roots(from: &RootCertificates) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match from {
        RootCertificates::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(Error::new("the operating system has no trusted certificates")
                    .with_hint("install the package ca-certificates, or set sslrootcert"));
            }
        }
        RootCertificates::File(file) => {
            for certificate in certificates(file, "sslrootcert")? {
                store.add(certificate).map_err(|e| {
                    Error::new(format!("sslrootcert {}: not a usable certificate: {e}", file.display()))
                })?;
            }
        }
    }
    Ok(store)
}

fn certificates(file: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let failed =
        |e: rustls::pki_types::pem::Error| Error::new(format!("{option} {} cannot be read: {e}", file.display()));
    let found = CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if found.is_empty() {
        return Err(Error::new(format!("{option} {} holds no certificate", file.display()))
            .with_hint("expected PEM: -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).map_err(|_| {
        Error::new(format!("sslkey {} holds no key that can be read", file.display()))
            .with_hint("expected an unencrypted PEM key")
    })
}

/// Encryption without identity: `sslmode` up to `require`.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A trusted authority, whatever host the certificate names: `verify-ca`. The name is checked last, so an error about
/// the name says that everything else was in order.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
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
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
