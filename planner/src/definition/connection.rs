//! A named connection: which system, and options whose secrets are references until the moment of use.

use std::collections::BTreeMap;

use crate::error::Location;
use crate::secret::Secret;

/// One option of a connection. What is secret comes by reference and is resolved by the engine, never by the planner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    /// Written in the definition.
    Plain(String),
    /// Written in the definition where a reference would have been better: held, never printed.
    Secret(Secret),
    /// `env:NAME`
    Env(String),
    /// The first of these environment variables that is set; without any, the option is absent.
    EnvAny(Vec<String>),
    /// `file:PATH`; relative to the definition's folder.
    File(String),
}

impl OptionValue {
    /// Reads `env:NAME` and `file:PATH` as references; keeps values of options with telling names from being printed.
    pub fn parse(key: &str, value: &str) -> Self {
        if let Some(name) = value.strip_prefix("env:") {
            return Self::Env(name.to_owned());
        }
        if let Some(path) = value.strip_prefix("file:") {
            // A file URL is a place, not a reference.
            if !path.starts_with("//") {
                return Self::File(path.to_owned());
            }
        }
        if is_secret_key(key) || has_password(value) {
            Self::Secret(Secret::new(value))
        } else {
            Self::Plain(value.to_owned())
        }
    }

    /// How the value is shown in plans and evidence.
    pub fn display(&self) -> String {
        match self {
            Self::Plain(value) => value.clone(),
            Self::Secret(_) => "***".to_owned(),
            Self::Env(name) => format!("env:{name}"),
            Self::EnvAny(names) => format!("env:{}", names.join("|")),
            Self::File(path) => format!("file:{path}"),
        }
    }
}

/// Whether an option with this name holds a secret. A `url` may carry a password, so it counts.
pub(super) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "secret", "token", "key", "credential", "url", "dsn", "service_account"]
        .iter()
        .any(|part| key.contains(part))
}

/// Whether a URL carries a password: `scheme://user:password@host`.
pub(super) fn has_password(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

pub type Options = BTreeMap<String, OptionValue>;

/// A connection as defined. Two connections are the same place exactly when kind and options are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The name that plans, evidence and SQL use for it.
    pub name: String,
    /// The system: `postgres`, `delta`, `file`, `parquet`, `csv`, `memory`, `null`, …
    pub kind: String,
    pub options: Options,
    /// Where it was defined, when it was.
    pub location: Option<Location>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_and_secrets_are_told_apart_and_never_printed() {
        assert_eq!(OptionValue::parse("url", "env:SHOP_URL"), OptionValue::Env("SHOP_URL".into()));
        assert_eq!(OptionValue::parse("path", "file:///data"), OptionValue::Plain("file:///data".into()));
        for (key, value) in [("password", "hunter2"), ("path", "s3://user:hunter2@bucket/x")] {
            let secret = OptionValue::parse(key, value);
            assert!(!format!("{secret:?} {}", secret.display()).contains("hunter2"));
        }
        assert_eq!(OptionValue::parse("path", "s3://bucket/a@b:c"), OptionValue::Plain("s3://bucket/a@b:c".into()));
    }
}
