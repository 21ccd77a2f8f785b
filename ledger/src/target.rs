//! Connection strings, in the forms that SQLAlchemy reads: which database holds the ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use dpone_postgres_connect::{Config, Request};

use crate::error::{Error, Result};

/// Where a ledger is.
#[derive(Clone)]
pub enum Target {
    Postgres(Box<Config>),
    /// A SQLite file, relative to the working folder or absolute.
    Sqlite(PathBuf),
}

/// Never the connection string: it may hold a password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(config) => write!(f, "{config:?}"),
            Self::Sqlite(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Target {
    /// Reads a connection string, with what it leaves out from libpq's `PG*` variables and password file. Errors do not
    /// repeat it.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, &|name| std::env::var(name).ok())
    }

    fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let expected = "expected postgresql+psycopg2://user:password@host:port/dbname, or sqlite:///path for a file";
        let (scheme, rest) = text
            .trim()
            .split_once("://")
            .ok_or_else(|| Error::usage("the connection string has no scheme").with_hint(expected))?;
        match scheme {
            "postgresql" | "postgres" | "postgresql+psycopg2" | "postgresql+psycopg" => {
                postgres(rest, env).map(|config| Self::Postgres(Box::new(config)))
            }
            "sqlite" | "sqlite+pysqlite" => sqlite_path(rest).map(Self::Sqlite),
            _ if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c)) => {
                Err(Error::usage(format!("the connection string has the scheme {scheme:?}")).with_hint(expected))
            }
            _ => Err(Error::usage("the connection string has no scheme").with_hint(expected)),
        }
    }
}

fn postgres(rest: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config> {
    let (config, _) = Config::resolve(Request {
        options: &BTreeMap::new(),
        url: Some(&format!("postgresql://{rest}")),
        extra: &[],
        base_dir: Path::new(""),
        application_name: "dpo",
        env,
    })?;
    Ok(config)
}

/// `/relative/path` or `//absolute/path`, after `sqlite:/`.
fn sqlite_path(rest: &str) -> Result<PathBuf> {
    let expected = "expected sqlite:///relative/path or sqlite:////absolute/path";
    let path = rest
        .strip_prefix('/')
        .ok_or_else(|| Error::usage("the SQLite connection string names no file").with_hint(expected))?;
    if path.is_empty() || path == ":memory:" {
        return Err(Error::usage("a ledger in memory would be forgotten when the command ends").with_hint(expected));
    }
    if path.contains('?') {
        return Err(Error::usage("the SQLite connection string has parameters, and none is supported"));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn parse(text: &str) -> Result<Target> {
        Target::parse_with(text, &|_| None)
    }

    #[test]
    fn a_sqlite_path_is_relative_or_absolute_by_its_slashes() {
        for (text, want) in [
            ("sqlite:///ledger.db", "ledger.db"),
            ("sqlite:///some/ledger.db", "some/ledger.db"),
            ("sqlite:////var/lib/ledger.db", "/var/lib/ledger.db"),
        ] {
            let Target::Sqlite(path) = parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(path, PathBuf::from(want));
        }
        for text in ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x", "sqlite:///x?mode=ro"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_spelling_of_the_scheme_is_postgresql() {
        for scheme in ["postgresql+psycopg2", "postgresql", "postgres"] {
            assert!(matches!(parse(&format!("{scheme}://u@h/d")), Ok(Target::Postgres(_))), "{scheme}");
        }
    }

    #[test]
    fn errors_and_debug_output_keep_the_password_to_themselves() {
        for text in ["mysql://me:hunter2@h/d", "hunter2", "me:hunter2://x", "postgres://me:hunter2%zz@h/d"] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(!format!("{:?}", parse("postgres://me:hunter2@h/d").unwrap()).contains("hunter2"));
    }
}
