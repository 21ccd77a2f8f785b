//! A string that never prints: passwords, tokens, connection URLs.

use std::fmt;

/// Holds a secret value. `Debug` prints `***`; there is no `Display` and no serialisation, so a secret cannot reach a
/// log, a plan, evidence or an error by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the driver call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
