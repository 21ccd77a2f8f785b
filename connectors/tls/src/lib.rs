//! TLS for connections to databases: who is trusted, what is checked of a server's certificate, and who asks.
//!
//! One place for it, because databases ask for more than the web does (an authority alone, or nothing), and a verifier
//! that accepts too much is not to be written twice. Each connector reads its own options and makes a [`Tls`] of them.

mod verify;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// What is checked of the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The authority that signed it, and the name that it is for.
    Full,
    /// The authority alone.
    Authority,
    /// Nothing: the way is encrypted, and anybody may be at its end.
    Nothing,
}

/// Certificates or a key in PEM, with the option that gave them, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Pem<'a> {
    pub option: &'static str,
    pub from: From<'a>,
}

#[derive(Clone, Copy)]
pub enum From<'a> {
    File(&'a Path),
    /// The text itself, which no message repeats.
    Text(&'a str),
}

/// How a connection is protected.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'a> {
    pub check: Check,
    /// Who is trusted; the operating system's authorities where it is `None`.
    pub roots: Option<Pem<'a>>,
    /// The option that names authorities, for the hint of an empty system.
    pub roots_option: &'static str,
    /// The client's certificate and its key.
    pub identity: Option<(Pem<'a>, Pem<'a>)>,
}

/// A message, and what to do about it. Neither repeats what a file or an option holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Tls<'_> {
    /// Reads the files. Fails where one cannot be read or holds nothing of use.
    pub fn client(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = match self.check {
            Check::Nothing => None,
            Check::Full | Check::Authority => Some(self.roots()?),
        };
        let verifier = verify::verifier(self.check, roots, Arc::clone(&provider))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::new(format!("TLS cannot be set up: {e}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        builder.with_client_auth_cert(certificate.certificates()?, key.private_key()?).map_err(|e| {
            Error::new(format!("{} and {} cannot be used: {e}", certificate.option, key.option))
                .with_hint("the key has to be that of the first certificate")
        })
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut store = RootCertStore::empty();
        let Some(from) = &self.roots else {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(Error::new("the operating system has no trusted certificates")
                    .with_hint(format!("install the package ca-certificates, or set {}", self.roots_option)));
            }
            return Ok(store);
        };
        for certificate in from.certificates()? {
            store.add(certificate).map_err(|e| Error::new(format!("{from}: not a usable certificate: {e}")))?;
        }
        Ok(store)
    }
}

/// A key in a text is not for logs.
impl fmt::Debug for From<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

/// The option, with its file where it is one.
impl fmt::Display for Pem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            From::File(path) => write!(f, "{} {}", self.option, path.display()),
            From::Text(_) => f.write_str(self.option),
        }
    }
}

impl Pem<'_> {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let failed = |e: rustls::pki_types::pem::Error| Error::new(format!("{self} cannot be read: {e}"));
        let found: Vec<_> = match self.from {
            From::File(path) => CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>(),
            From::Text(text) => CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>(),
        }
        .map_err(failed)?;
        if found.is_empty() {
            return Err(Error::new(format!("{self} holds no certificate"))
                .with_hint("expected PEM: -----BEGIN CERTIFICATE-----"));
        }
        Ok(found)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        match self.from {
            From::File(path) => PrivateKeyDer::from_pem_file(path),
            From::Text(text) => PrivateKeyDer::from_pem_slice(text.as_bytes()),
        }
        .map_err(|_| {
            Error::new(format!("{self} holds no key that can be read")).with_hint("expected an unencrypted PEM key")
        })
    }
}
