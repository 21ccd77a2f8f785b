//! Connections: the forms in which a manifest names one, and the book in which equal ones become one.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Origin, stem};
use crate::definition::manifest::{ConnectionId, ConnectionType};
use crate::definition::nearest::nearest;
use crate::definition::{Connection, OptionValue, Options};
use crate::error::{Error, Location, Result};

/// All connections of a project, by name.
#[derive(Debug, Default)]
pub(in crate::definition) struct Book {
    connections: BTreeMap<String, Connection>,
}

/// The connection part of a source, sink or state.
pub(in crate::definition) struct Form<'a> {
    /// `source`, `sink` or `state`
    pub at: &'a str,
    pub kind: &'a str,
    pub connection_type: Option<ConnectionType>,
    pub id: Option<&'a ConnectionId>,
    pub reference: Option<&'a str>,
    pub vault_path: Option<&'a str>,
    pub path: Option<&'a str>,
}

impl Book {
    pub(in crate::definition) fn into_connections(self) -> BTreeMap<String, Connection> {
        self.connections
    }

    pub(in crate::definition) fn get(&self, name: &str) -> Option<&Connection> {
        self.connections.get(name)
    }

    pub(in crate::definition) fn names(&self) -> impl Iterator<Item = &str> {
        self.connections.keys().map(String::as_str)
    }

    /// Adds a connection that has its name from the user.
    pub(in crate::definition) fn define(&mut self, connection: Connection) -> Result<()> {
        if let Some(first) = self.connections.get(&connection.name) {
            let error = Error::configuration(format!("the connection {:?} is defined twice", connection.name));
            let error = match &first.location {
                Some(first) => error.with_hint(format!("the first one is at {first}")),
                None => error,
            };
            return Err(match connection.location {
                Some(location) => error.at(location),
                None => error,
            });
        }
        self.connections.insert(connection.name.clone(), connection);
        Ok(())
    }

    /// The name of the connection with this kind and these options: that of an equal one, or a new one like `wish`.
    fn intern(&mut self, wish: &str, kind: &str, options: Options, location: Location) -> String {
        let same = |c: &&Connection| c.kind == kind && c.options == options;
        if let Some(known) = self.connections.values().find(same) {
            return known.name.clone();
        }
        let wish = readable(wish);
        let name = [wish.clone(), format!("{wish}_{kind}")]
            .into_iter()
            .chain((2..).map(|n| format!("{wish}_{n}")))
            .find(|name| !self.connections.contains_key(name))
            .unwrap_or_else(|| wish.clone());
        self.connections.insert(
            name.clone(),
            Connection { name: name.clone(), kind: kind.to_owned(), options, location: Some(location) },
        );
        name
    }

    /// The name of the connection that a manifest's source, sink or state describes. `extra` are options that belong
    /// to the place, such as a file's format.
    pub(in crate::definition) fn of_manifest(
        &mut self,
        form: &Form<'_>,
        extra: Vec<(String, OptionValue)>,
        origin: &Origin<'_>,
    ) -> Result<String> {
        let key = |name: &str| format!("{}.{name}", form.at);
        let location = origin.tree.place(form.at).location();
        if let Some(reference) = form.reference {
            return self.referenced(form, reference, origin);
        }
        if form.vault_path.is_some() && form.connection_type != Some(ConnectionType::Vault) {
            return Err(origin.error(&key("vault_path"), format!("{} needs connection_type: vault", key("vault_path"))));
        }
        let (wish, mut options) = match (form.connection_type, form.id, form.path) {
            (Some(ConnectionType::Vault | ConnectionType::Airflow), _, _) => {
                return Err(origin
                    .error(&key("connection_type"), "connections kept in Vault or Airflow are not read by this version")
                    .with_hint(
                        "let the orchestrator export them as DPONE_CONN_<ID>_URL, or as …_HOST, …_USERNAME and so on, \
                         and write connection_type: env",
                    ));
            }
            (None, None, Some(path)) => (stem(path), path_options(path)),
            (_, Some(_), Some(_)) | (Some(_), _, Some(_)) => {
                return Err(origin
                    .error(&key("path"), format!("{} and connection_type name the place twice", key("path")))
                    .with_hint("keep one of them"));
            }
            (Some(ConnectionType::Env), Some(ConnectionId::Text(id)), None) => (id.clone(), environment(form.kind, id)),
            (Some(ConnectionType::Env), Some(ConnectionId::Params(_)), None) => {
                return Err(origin
                    .error(&key("connection_id"), "connection_type: env takes an id, not a mapping")
                    .with_hint("write connection_type: params for parameters"));
            }
            (Some(ConnectionType::Params), Some(id), None) => {
                let options = params(id, &key("connection_id"), origin)?;
                (params_name(form.kind, &options), options)
            }
            (Some(_), None, None) => {
                return Err(origin.missing(&key("connection_id"), "connection_type alone names no connection"));
            }
            (None, Some(_), None) => {
                return Err(origin
                    .missing(&key("connection_type"), "connection_id needs it")
                    .with_hint("one of env, params"));
            }
            (None, None, None) if matches!(form.kind, "memory" | "null") => (form.kind.to_owned(), Options::new()),
            (None, None, None) => {
                let (name, hint) = match form.kind {
                    "file" | "delta" | "parquet" | "csv" => {
                        ("path", "write where the files lie, for example path: warehouse")
                    }
                    _ => (
                        "connection_type",
                        "write connection_type: env and connection_id: <ID>, or connection_ref: <name>",
                    ),
                };
                return Err(origin.missing(&key(name), "it says where the data is").with_hint(hint));
            }
        };
        options.extend(extra);
        Ok(self.intern(&wish, form.kind, options, location))
    }

    fn referenced(&self, form: &Form<'_>, reference: &str, origin: &Origin<'_>) -> Result<String> {
        let key = format!("{}.connection_ref", form.at);
        if form.connection_type.is_some() || form.id.is_some() || form.path.is_some() {
            return Err(origin
                .error(&key, format!("{key} excludes connection_type, connection_id and path"))
                .with_hint("keep one of them"));
        }
        let Some(connection) = self.get(reference) else {
            let known: Vec<_> = self.names().collect();
            let hint = match (nearest(reference, known.iter().copied()), known.is_empty()) {
                (Some(near), _) => format!("did you mean {near}?"),
                (None, true) => "write CREATE CONNECTION in a .sql file and give that file too".to_owned(),
                (None, false) => format!("defined are {}", known.join(", ")),
            };
            return Err(origin.error(&key, format!("there is no connection {reference:?}")).with_hint(hint));
        };
        if connection.kind != form.kind {
            return Err(origin.error(
                &key,
                format!(
                    "the connection {reference:?} has the type {}; {}.type is {}",
                    connection.kind, form.at, form.kind
                ),
            ));
        }
        Ok(reference.to_owned())
    }
}

fn path_options(path: &str) -> Options {
    Options::from([("path".to_owned(), OptionValue::parse("path", path))])
}

/// The options that are looked up in the environment, by kind of system.
fn environment(kind: &str, id: &str) -> Options {
    let fields: &[&str] = match kind {
        "postgres" => {
            &["host", "port", "database", "username", "password", "schema", "sslmode", "sslrootcert", "connect_timeout"]
        }
        "mysql" => &["host", "port", "database", "username", "password"],
        "mssql" => &[
            "host",
            "port",
            "database",
            "username",
            "password",
            "driver",
            "encrypt",
            "trust_server_certificate",
            "connect_timeout",
            "query_timeout",
            "bcp_path",
        ],
        "clickhouse" => &[
            "host",
            "port",
            "database",
            "username",
            "password",
            "secure",
            "compression",
            "connect_timeout",
            "send_receive_timeout",
            "settings",
        ],
        "bigquery" => &["project_id", "service_account_info", "service_account_key_file", "location"],
        "kafka" => &[
            "bootstrap_servers",
            "security_protocol",
            "sasl_mechanism",
            "sasl_username",
            "sasl_password",
            "ssl_ca_location",
            "client_id",
            "schema_registry_url",
            "schema_registry_username",
            "schema_registry_password",
        ],
        "rest" => &["endpoint", "base_url", "token", "bearer_token", "api_key", "username", "password"],
        _ => &[],
    };
    let id: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let names = |field: &str| {
        let field = field.to_ascii_uppercase();
        vec![format!("DPONE_CONN_{id}_{field}"), format!("{id}_{field}"), format!("DPONE_{id}_{field}")]
    };
    let mut options: Options =
        fields.iter().map(|field| ((*field).to_owned(), OptionValue::EnvAny(names(field)))).collect();
    let url = format!("DPONE_CONN_{id}_URL");
    match kind {
        // Where files lie is their path.
        "file" | "delta" | "parquet" | "csv" => {
            let mut paths = vec![url];
            paths.extend(names("path"));
            options.insert("path".to_owned(), OptionValue::EnvAny(paths));
        }
        _ => {
            options.insert("url".to_owned(), OptionValue::EnvAny(vec![url]));
        }
    }
    options
}

/// Parameters whose value is a mapping.
const STRUCTURED: [&str; 3] = ["settings", "service_account_info", "options"];

/// Parameters written in the manifest: a mapping, or a JSON object as text. Their values are never shown.
fn params(id: &ConnectionId, key: &str, origin: &Origin<'_>) -> Result<Options> {
    let values: BTreeMap<String, Json> = match id {
        ConnectionId::Params(values) => values.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        ConnectionId::Text(text) => serde_json::from_str(text).map_err(|error| {
            origin
                .error(
                    key,
                    format!(
                        "{key} is not a JSON object (line {}, column {} of the text)",
                        error.line(),
                        error.column()
                    ),
                )
                .with_hint("with connection_type: params, write a mapping, or a JSON object in quotes")
        })?,
    };
    let mut options = Options::new();
    for (name, value) in values {
        let text = match &value {
            Json::Null => continue,
            Json::String(text) => text.clone(),
            // What a service account or a list of settings is made of.
            Json::Object(_) if STRUCTURED.contains(&name.as_str()) => value.to_string(),
            Json::Object(_) | Json::Array(_) => {
                let what = if value.is_object() { "a mapping" } else { "a list" };
                let key = format!("{key}.{name}");
                return Err(origin
                    .error(&key, format!("{key} is {what}; expected text"))
                    .with_hint("write the value itself, or env:NAME or file:PATH for a secret"));
            }
            other => other.to_string(),
        };
        let value = OptionValue::parse(&name, &text);
        options.insert(name, value);
    }
    Ok(options)
}

/// A readable name for parameters: the database, or the host, where they are written in plain.
fn params_name(kind: &str, options: &Options) -> String {
    ["database", "project_id", "host", "path"]
        .iter()
        .find_map(|key| match options.get(*key) {
            Some(OptionValue::Plain(value)) => Some(stem(value)),
            _ => None,
        })
        .unwrap_or_else(|| kind.to_owned())
}

/// A name that is also an SQL identifier without quotes.
fn readable(wish: &str) -> String {
    let name = crate::definition::naming::snake(wish);
    match name.chars().next() {
        None => "connection".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("c_{name}"),
        Some(_) => name,
    }
}
