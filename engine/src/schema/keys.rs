//! Ed25519 keys that approvals are signed with, as OpenSSL writes them.

use std::fmt;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::files::{read, unreadable};
use crate::{Error, Result};

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key that signs. It is never printed.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

impl SigningKey {
    /// Reads a PKCS#8 private key in PEM, as `openssl genpkey -algorithm ed25519` writes it.
    pub fn read(path: &Path) -> Result<Self> {
        const HINT: &str = "make one with `openssl genpkey -algorithm ed25519 -out approver.pem`";
        let wrong = |why: &str| Error::configuration(format!("{}: {why}", path.display())).with_hint(HINT);
        let bytes = read(path)?.ok_or_else(|| wrong("there is no such key"))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("this is not a key in PEM"))?;
        if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
            return Err(wrong("the key is encrypted, and no passphrase is asked for")
                .with_hint("take the passphrase off: `openssl pkey -in encrypted.pem -out approver.pem`"));
        }
        let der = pem(text, "PRIVATE KEY").ok_or_else(|| wrong("this is not a PKCS#8 private key in PEM"))?;
        Ed25519KeyPair::from_pkcs8(&der).map(Self).map_err(|_| wrong("this is not an Ed25519 private key"))
    }

    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// The signature in base64.
    pub(super) fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(message).as_ref())
    }
}

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Display for PublicKey {
    /// Base64 of the 32 bytes: what `trusted_keys` takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl PublicKey {
    /// Base64 of the 32 bytes or of the SubjectPublicKeyInfo, or the PEM that `openssl pkey -pubout` writes.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let bytes = if text.starts_with("-----") { pem(text, "PUBLIC KEY") } else { STANDARD.decode(text).ok() };
        let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.strip_prefix(&SPKI).unwrap_or(&bytes)).ok());
        key.map(Self).ok_or_else(|| {
            let what = if text.contains("PRIVATE KEY") { "a private key" } else { "something else" };
            Error::configuration(format!("expected an Ed25519 public key, found {what}"))
                .with_hint("the base64 of its 32 bytes, or the PEM of `openssl pkey -in approver.pem -pubout`")
        })
    }

    /// A key of `trusted_keys`: the key itself, or `file:PATH` beginning at `base_dir`.
    pub fn from_reference(reference: &str, base_dir: &Path) -> Result<Self> {
        let Some(path) = reference.trim().strip_prefix("file:") else { return Self::parse(reference) };
        let path = base_dir.join(path);
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        Self::parse(&text).map_err(|error| {
            let message = format!("{}: {}", path.display(), error.message());
            Error::configuration(message).with_hint(error.hint().unwrap_or_default().to_owned())
        })
    }

    /// Whether the signature, in base64, is of this message by this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature).is_ok()
    }
}

/// The bytes of the first block of this label. Text around it is left out, as OpenSSL does.
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let (_, rest) = text.split_once(&begin)?;
    let (body, _) = rest.split_once(&end)?;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As `openssl genpkey -algorithm ed25519` writes it, for the seed 0, 1, 2, … 31: a secret of nobody.
    pub(in crate::schema) fn private() -> String {
        let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let der: Vec<u8> = head.into_iter().chain(0..32).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
    }
    /// What `openssl pkey -pubout` says of it.
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=
-----END PUBLIC KEY-----
";

    pub(in crate::schema) fn key() -> SigningKey {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), private()).unwrap();
        SigningKey::read(file.path()).unwrap()
    }

    #[test]
    fn keys_of_openssl_are_read_in_every_spelling() {
        let public = key().public();
        let der = pem(PUBLIC, "PUBLIC KEY").unwrap();
        for text in [PUBLIC.to_owned(), STANDARD.encode(&der), STANDARD.encode(&der[12..]), public.to_string()] {
            assert_eq!(PublicKey::parse(&text).unwrap(), public, "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("k.pem"), PUBLIC).unwrap();
        assert_eq!(PublicKey::from_reference("file:k.pem", dir.path()).unwrap(), public);
        let missing = PublicKey::from_reference("file:none.pem", dir.path()).unwrap_err();
        assert!(missing.message().contains("none.pem"), "{missing}");
        for wrong in ["", "abc", &private(), "AAAA", &STANDARD.encode([0; 31])] {
            assert!(PublicKey::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_message_and_its_key_alone() {
        let key = key();
        let signature = key.sign(b"message");
        assert!(key.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"massage", &signature));
        assert!(!key.public().verifies(b"message", "AAAA"));
        assert!(!PublicKey([7; 32]).verifies(b"message", &signature));
        assert!(!format!("{key:?}").contains("MC4C"));
    }

    #[test]
    fn another_key_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, why) in [
            ("", "PKCS#8"),
            (PUBLIC, "PKCS#8"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n", "encrypted"),
            ("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "Ed25519"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = SigningKey::read(file.path()).unwrap_err();
            assert!(error.message().contains(why) && error.hint().is_some(), "{error}");
        }
    }
}
