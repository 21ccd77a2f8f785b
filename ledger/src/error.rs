//! What can go wrong, in one sentence, and whose turn it is.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The arguments or the connection string: nothing was tried.
    Usage,
    /// The request contradicts the ledger: an unknown id, an id in use, a completed execution.
    Refused,
    /// A model file cannot be taken.
    Model,
    /// The database did not do what it was asked to.
    Database,
    /// The database refuses this role, or every write.
    NotAllowed,
}

/// A message that says what was expected and what was found, and a hint where there is something to do. Neither ever
/// holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub fn model(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Model, message)
    }

    pub fn database(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Database, message)
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What is wrong with a connection string is wrong with the command line.
impl From<dpone_postgres_connect::Error> for Error {
    fn from(error: dpone_postgres_connect::Error) -> Self {
        Self { kind: ErrorKind::Usage, message: error.message, hint: error.hint }
    }
}
