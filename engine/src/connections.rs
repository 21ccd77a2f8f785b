//! Connections: from a definition's name for a system to the connector that speaks to it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dpone_planner::definition::{Connection, OptionValue};

use crate::{Error, ErrorClassifier, Result, Secret, Sink, Source};

/// One system's connector: makes sources and sinks from resolved connections. Opens nothing by itself.
pub trait Connector: Debug + Send + Sync {
    /// The `type:` names that it answers to, the canonical one first.
    fn kinds(&self) -> &'static [&'static str];

    /// The option names that it knows, for unknown-key errors. `name.*` stands for all that begin with `name.`.
    fn options(&self) -> &'static [&'static str];

    /// The classes of its system's errors; none where it has no codes of its own.
    fn errors(&self) -> Option<&'static ErrorClassifier> {
        None
    }

    fn source(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Source>>;

    fn sink(&self, connection: &ResolvedConnection) -> Result<Arc<dyn Sink>>;
}

/// A connection with its references looked up. Values are secrets until the connector reads them.
#[derive(Debug, Clone)]
pub struct ResolvedConnection {
    pub name: String,
    pub kind: String,
    pub options: BTreeMap<String, Secret>,
    /// Relative paths in options start here.
    pub base_dir: PathBuf,
}

impl ResolvedConnection {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(Secret::expose)
    }

    /// The option, or an error that names connection and key.
    pub fn require(&self, key: &str) -> Result<&str> {
        self.get(key).ok_or_else(|| {
            Error::configuration(format!("connection {:?} ({}) needs the option {key:?}", self.name, self.kind))
        })
    }

    /// Parses an option, with an error that names it but not its value.
    pub fn parse<T: std::str::FromStr>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(text) => text.trim().parse().map(Some).map_err(|_| {
                Error::configuration(format!("connection {:?}: option {key:?} is not {expected}", self.name))
            }),
        }
    }
}

/// Fails where a folder of tables cannot be: something on its way is a file, or belongs to the kernel. `connection` is named
/// in the error. Makes nothing.
pub fn check_table_folder(connection: &str, folder: &Path) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::configuration(format!(
            "connection {connection:?}: tables cannot be kept in {}: {why}",
            folder.display()
        ))
        .with_hint("give a folder, or a path at which one can be made, under path"))
    };
    if let Some(system) = ["/proc", "/sys"].iter().find(|system| folder.starts_with(system)) {
        return refuse(format!("{system} is the kernel's own, and holds no files"));
    }
    let existing = folder.ancestors().find_map(|path| std::fs::metadata(path).ok().map(|found| (path, found)));
    match existing {
        Some((path, found)) if !found.is_dir() => refuse(format!("{} is a file, and no folder", path.display())),
        _ => Ok(()),
    }
}

/// All connections of a project. Sources and sinks are made on first use and shared afterwards.
#[derive(Debug)]
pub struct Connections {
    connectors: Vec<Arc<dyn Connector>>,
    defined: BTreeMap<String, Connection>,
    base_dir: PathBuf,
    sources: Mutex<BTreeMap<String, Arc<dyn Source>>>,
    sinks: Mutex<BTreeMap<String, Arc<dyn Sink>>>,
}

impl Connections {
    pub fn new(
        connectors: Vec<Arc<dyn Connector>>,
        defined: BTreeMap<String, Connection>,
        base_dir: impl AsRef<Path>,
    ) -> Self {
        Self {
            connectors,
            defined,
            base_dir: base_dir.as_ref().to_owned(),
            sources: Mutex::default(),
            sinks: Mutex::default(),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.defined.keys().map(String::as_str)
    }

    pub fn definition(&self, name: &str) -> Result<&Connection> {
        self.defined.get(name).ok_or_else(|| {
            let known: Vec<_> = self.names().collect();
            Error::configuration(format!("there is no connection {name:?}")).with_hint(if known.is_empty() {
                "no connection is defined".to_owned()
            } else {
                format!("defined are {}", known.join(", "))
            })
        })
    }

    pub fn source(&self, name: &str) -> Result<Arc<dyn Source>> {
        if let Some(source) = lock(&self.sources).get(name) {
            return Ok(Arc::clone(source));
        }
        let definition = self.definition(name)?;
        let source = self.connector(definition)?.source(&self.resolve(definition)?)?;
        lock(&self.sources).insert(name.to_owned(), Arc::clone(&source));
        Ok(source)
    }

    pub fn sink(&self, name: &str) -> Result<Arc<dyn Sink>> {
        if let Some(sink) = lock(&self.sinks).get(name) {
            return Ok(Arc::clone(sink));
        }
        let definition = self.definition(name)?;
        let sink = self.connector(definition)?.sink(&self.resolve(definition)?)?;
        lock(&self.sinks).insert(name.to_owned(), Arc::clone(&sink));
        Ok(sink)
    }

    /// The same definitions with sources and sinks of their own: what one uses up of a system's connections, the other
    /// does not wait for.
    pub fn fork(&self) -> Self {
        Self {
            connectors: self.connectors.clone(),
            defined: self.defined.clone(),
            base_dir: self.base_dir.clone(),
            sources: Mutex::default(),
            sinks: Mutex::default(),
        }
    }

    /// Which place a connection reads, as its references resolve now, without secrets. The same text means the same
    /// place; another password does not change it.
    pub fn identity(&self, name: &str) -> Result<String> {
        let own = self.source(name)?.identity();
        self.identity_or(name, own)
    }

    /// Which place a connection writes to.
    pub fn sink_identity(&self, name: &str) -> Result<String> {
        let own = self.sink(name)?.identity();
        self.identity_or(name, own)
    }

    fn identity_or(&self, name: &str, own: Option<String>) -> Result<String> {
        let definition = self.definition(name)?;
        let kind = self.connector(definition)?.kinds().first().copied().unwrap_or_default();
        if let Some(own) = own {
            return Ok(format!("{kind} {own}"));
        }
        let resolved = self.resolve(definition)?;
        let places = PLACES.iter().filter_map(|key| Some(format!("{key}={}", without_secrets(resolved.get(key)?))));
        Ok(format!("{kind} {}", places.collect::<Vec<_>>().join(" ")))
    }

    fn connector(&self, connection: &Connection) -> Result<&Arc<dyn Connector>> {
        let located = |error: Error| match &connection.location {
            Some(location) => error.at(location.clone()),
            None => error,
        };
        let connector =
            self.connectors.iter().find(|c| c.kinds().contains(&connection.kind.as_str())).ok_or_else(|| {
                let known: Vec<_> = self.connectors.iter().filter_map(|c| c.kinds().first().copied()).collect();
                located(
                    Error::configuration(format!(
                        "connection {:?} has the type {:?}, which this version cannot reach",
                        connection.name, connection.kind
                    ))
                    .with_hint(format!("known types: {}", known.join(", "))),
                )
            })?;
        let known = connector.options();
        // Looked-up parts are the contract's list for the system: one that is not set asks for nothing.
        let unset = |value: &OptionValue| matches!(value, OptionValue::EnvAny(names) if first_set(names).is_none());
        let asked = connection.options.iter().filter(|(_, value)| !unset(value)).map(|(key, _)| key);
        let is_known = |key: &str| {
            known.iter().any(|name| match name.strip_suffix('*') {
                Some(family) => key.len() > family.len() && key.starts_with(family),
                None => *name == key,
            })
        };
        if let Some(unknown) = asked.into_iter().find(|key| !is_known(key)) {
            return Err(located(
                Error::configuration(format!(
                    "connection {:?} ({}) has no option {unknown:?}",
                    connection.name, connection.kind
                ))
                .with_hint(match dpone_planner::definition::nearest(unknown, known.iter().copied()) {
                    Some(near) => format!("did you mean {near:?}? Known options: {}", known.join(", ")),
                    None => format!("known options: {}", known.join(", ")),
                }),
            ));
        }
        Ok(connector)
    }

    fn resolve(&self, connection: &Connection) -> Result<ResolvedConnection> {
        // A URL in the environment wins over the parts there.
        let by_url =
            matches!(connection.options.get("url"), Some(OptionValue::EnvAny(names)) if first_set(names).is_some());
        let mut options = BTreeMap::new();
        for (key, value) in &connection.options {
            if by_url && key != "url" && matches!(value, OptionValue::EnvAny(_)) {
                continue;
            }
            if let Some(value) = self.resolve_value(connection, key, value)? {
                options.insert(key.clone(), value);
            }
        }
        let looked_up: Vec<&String> = connection
            .options
            .values()
            .filter_map(|value| if let OptionValue::EnvAny(names) = value { names.first() } else { None })
            .collect();
        // Without a word from the environment a driver's own defaults would choose the server.
        if !looked_up.is_empty() && options.is_empty() {
            let names: Vec<_> = looked_up.into_iter().map(String::as_str).collect();
            return Err(Error::configuration(format!(
                "nothing in the environment says where connection {:?} is",
                connection.name
            ))
            .with_hint(format!("set one of {}", names.join(", "))));
        }
        Ok(ResolvedConnection {
            name: connection.name.clone(),
            kind: connection.kind.clone(),
            options,
            base_dir: self.base_dir_of(connection),
        })
    }

    /// Relative paths begin at the folder of the file that defines the connection.
    fn base_dir_of(&self, connection: &Connection) -> PathBuf {
        match connection.location.as_ref().and_then(|location| location.file.parent()) {
            Some(folder) => self.base_dir.join(folder),
            None => self.base_dir.clone(),
        }
    }

    fn resolve_value(&self, connection: &Connection, key: &str, value: &OptionValue) -> Result<Option<Secret>> {
        match value {
            OptionValue::Plain(text) => Ok(Some(Secret::new(text))),
            OptionValue::Secret(secret) => Ok(Some(secret.clone())),
            OptionValue::EnvAny(names) => Ok(first_set(names).map(Secret::new)),
            OptionValue::Env(name) => std::env::var(name).map(|value| Some(Secret::new(value))).map_err(|_| {
                Error::configuration(format!(
                    "connection {:?}: option {key:?} refers to the environment variable {name}, which is not set",
                    connection.name
                ))
            }),
            OptionValue::File(path) => {
                let path = self.base_dir_of(connection).join(path);
                let text = std::fs::read_to_string(&path).map_err(|e| {
                    Error::configuration(format!(
                        "connection {:?}: option {key:?} refers to the file {}, which cannot be read: {e}",
                        connection.name,
                        path.display()
                    ))
                })?;
                Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
            }
        }
    }
}

/// Options that say which place a connection reaches.
const PLACES: [&str; 14] = [
    "url",
    "host",
    "hostaddr",
    "port",
    "database",
    "dbname",
    "service",
    "path",
    "schema",
    "endpoint",
    "base_url",
    "account",
    "bootstrap_servers",
    "project_id",
];

/// A URL without its user, password and parameters; other texts as they are.
fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let place = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{place}/{path}")
}

/// The value of the first of these environment variables that is set.
fn first_set(names: &[String]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok())
}

/// A poisoned lock only says that another thread panicked: the map itself is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resolve(options: &[(&str, OptionValue)]) -> BTreeMap<String, Secret> {
        let connection = Connection {
            name: "src".into(),
            kind: "postgres".into(),
            options: options.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            location: None,
        };
        Connections::new(Vec::new(), BTreeMap::new(), ".").resolve(&connection).unwrap().options
    }

    #[test]
    fn a_place_is_named_without_secrets() {
        for url in ["pg://u:p@ss@h:5432/db?password=x", "pg://h:5432/db", "pg://other:word@h:5432/db#x"] {
            assert_eq!(without_secrets(url), "pg://h:5432/db");
        }
        assert_eq!(without_secrets("warehouse"), "warehouse");
        assert_eq!(without_secrets("s3://bucket/a/b"), "s3://bucket/a/b");
    }

    #[test]
    fn a_connection_that_nothing_in_the_environment_describes_names_what_to_set() {
        let unset =
            |name: &str| OptionValue::EnvAny(vec![format!("DPONE_TEST_NEVER_SET_{name}"), format!("NEVER_{name}")]);
        let connection = Connection {
            name: "src".into(),
            kind: "postgres".into(),
            options: BTreeMap::from([("url".to_owned(), unset("URL")), ("host".to_owned(), unset("HOST"))]),
            location: None,
        };
        let error = Connections::new(Vec::new(), BTreeMap::new(), ".").resolve(&connection).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Configuration);
        assert!(error.message().contains("\"src\""), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("DPONE_TEST_NEVER_SET_HOST") && hint.contains("DPONE_TEST_NEVER_SET_URL"), "{hint}");
        // One reference by name that is not set is an error of its own, and does not fall back.
        let named = BTreeMap::from([("url".to_owned(), OptionValue::Env("DPONE_TEST_NEVER_SET_URL".into()))]);
        let connection = Connection { options: named, ..connection };
        let error = Connections::new(Vec::new(), BTreeMap::new(), ".").resolve(&connection).unwrap_err();
        assert!(error.message().contains("DPONE_TEST_NEVER_SET_URL"), "{error}");
    }

    #[test]
    fn a_sink_folder_can_be_made_or_is_refused() {
        let dir = std::env::temp_dir();
        assert!(check_table_folder("s", &dir.join("not/there/yet")).is_ok());
        let file = std::env::current_exe().unwrap();
        for wrong in [file.as_path(), &file.join("below"), Path::new("/proc/dpone")] {
            let error = check_table_folder("s", wrong).unwrap_err();
            assert!(error.message().contains("\"s\"") && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn the_first_variable_that_is_set_counts_and_a_url_wins_over_the_parts() {
        let set = || OptionValue::EnvAny(vec!["DPONE_TEST_NEVER_SET".into(), "PATH".into(), "HOME".into()]);
        let unset = || OptionValue::EnvAny(vec!["DPONE_TEST_NEVER_SET".into()]);
        let parts = resolve(&[("url", unset()), ("host", set()), ("port", unset())]);
        assert_eq!(parts.keys().collect::<Vec<_>>(), ["host"]);
        assert_eq!(parts["host"].expose(), std::env::var("PATH").unwrap());
        let url = resolve(&[("url", set()), ("host", set()), ("sslmode", OptionValue::Plain("require".into()))]);
        assert_eq!(url.keys().collect::<Vec<_>>(), ["sslmode", "url"]);
    }
}
