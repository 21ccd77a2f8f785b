//! Where a connection's tables lie, and the store that reaches them.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use dpone_engine::connections::check_table_folder;
use dpone_engine::{Error, Relation, ResolvedConnection, Result};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

use crate::error;

/// The option names of a connection.
pub(crate) const OPTIONS: &[&str] = &[
    "path",
    "memory_limit_mb",
    "region",
    "endpoint",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "allow_http",
    "virtual_hosted_style",
    "service_account",
    "account_name",
    "account_key",
    "sas_token",
];

/// The folder, beside the tables and inside each, that is ours. Delta readers pass over names that begin with `_`.
pub(crate) const OURS: &str = "_dpone";

const DEFAULT_MEMORY_MB: usize = 256;

/// One connection: a folder of tables, `<path>/<schema>/<name>/` each.
#[derive(Debug, Clone)]
pub(crate) struct Warehouse {
    pub(crate) connection: String,
    /// Ends with a slash.
    pub(crate) url: Url,
    /// Rooted at the file system or the bucket.
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// The folder, when it is on this machine.
    pub(crate) local: Option<PathBuf>,
    /// What a commit's joins and sorts may hold before they spill.
    pub(crate) memory: usize,
}

impl Warehouse {
    pub(crate) fn open(connection: &ResolvedConnection) -> Result<Self> {
        let text = connection.require("path")?;
        let memory = connection.parse::<usize>("memory_limit_mb", "a number of megabytes")?;
        let memory = memory.unwrap_or(DEFAULT_MEMORY_MB).max(16) << 20;
        let invalid = |reason: String| {
            Error::configuration(format!("connection {:?}: option \"path\": {reason}", connection.name))
                .with_hint("give a folder, relative or absolute, or a URL: file:///…, s3://…, gs://…, az://…")
        };
        let name = connection.name.clone();
        let is_url = text.contains("://");
        if !is_url || text.starts_with("file://") {
            let folder = if is_url {
                let url = Url::parse(text).map_err(|e| invalid(e.to_string()))?;
                url.to_file_path().map_err(|()| invalid("not a URL of a local folder".into()))?
            } else {
                std::path::absolute(connection.base_dir.join(text))?
            };
            refuse_cloud_options(connection)?;
            let folder = without_dots(&folder);
            check_table_folder(&name, &folder)?;
            let url = Url::from_directory_path(&folder).map_err(|()| invalid("not an absolute folder".into()))?;
            let prefix = Path::from_absolute_path(&folder).map_err(|e| invalid(e.to_string()))?;
            let store = Arc::new(LocalFileSystem::new());
            return Ok(Self { connection: name, url, store, prefix, local: Some(folder), memory });
        }
        let mut url = Url::parse(text).map_err(|e| invalid(e.to_string()))?;
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let prefix = Path::from_url_path(url.path()).map_err(|e| invalid(e.to_string()))?;
        let store = remote_store(connection, &url)?;
        Ok(Self { connection: name, url, store, prefix, local: None, memory })
    }

    /// Names the store in plans: DataFusion finds it again in the session's registry.
    pub(crate) fn store_url(&self) -> Result<ObjectStoreUrl> {
        if self.local.is_some() {
            return Ok(ObjectStoreUrl::local_filesystem());
        }
        Ok(ObjectStoreUrl::parse(&self.url[..url::Position::BeforePath])?)
    }

    /// Makes the store known to a session that is about to scan. The local file system is known to every session.
    pub(crate) fn register(&self, runtime: &RuntimeEnv) -> Result<()> {
        if self.local.is_none() {
            let url = self.store_url()?;
            runtime.register_object_store(url.as_ref(), Arc::clone(&self.store));
        }
        Ok(())
    }

    pub(crate) fn place(&self, table: &Relation) -> Result<Place> {
        let mut url = self.url.clone();
        let mut prefix = self.prefix.clone();
        let mut local = self.local.clone();
        for part in [table.schema.as_str(), table.name.as_str()] {
            if part.is_empty() && !table.name.is_empty() {
                continue;
            }
            check_name(part)?;
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().push(part);
            }
            prefix = Path::parse(format!("{prefix}/{part}").trim_start_matches('/'))
                .map_err(|e| Error::configuration(format!("{part:?} cannot name a folder: {e}")))?;
            local = local.map(|folder| folder.join(part));
        }
        url.set_path(&format!("{}/", url.path()));
        Ok(Place { table: table.clone(), url, prefix, local, store: Arc::clone(&self.store) })
    }
}

/// Where one table lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) table: Relation,
    /// Ends with a slash.
    pub(crate) url: Url,
    pub(crate) prefix: Path,
    pub(crate) local: Option<PathBuf>,
    pub(crate) store: Arc<dyn ObjectStore>,
}

impl Place {
    /// A path inside the table's folder, from the root of the store.
    pub(crate) fn path(&self, relative: &str) -> Result<Path> {
        Path::parse(format!("{}/{relative}", self.prefix).trim_start_matches('/'))
            .map_err(|e| Error::unknown(format!("{relative:?} is not a path inside table {}: {e}", self.table)))
    }

    pub(crate) fn log(&self) -> Result<LogStoreRef> {
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&self.store), self.prefix.clone()));
        Ok(default_logstore(prefixed, Arc::clone(&self.store), &self.url, &StorageConfig::default()))
    }
}

/// A name becomes a folder, so it must be one everywhere, and stay inside the warehouse.
fn check_name(name: &str) -> Result<()> {
    let forbidden = |c: char| c.is_control() || "/\\%#?*:|\"<>~^`[]{}&".contains(c);
    if name.is_empty() || name.starts_with(['_', '.']) || name.contains(forbidden) {
        return Err(Error::configuration(format!("{name:?} cannot name a Delta table or its schema")).with_hint(
            "a name becomes a folder: it begins with a letter or digit and holds none of /\\%#?*:|\"<>~^`[]{}&",
        ));
    }
    Ok(())
}

/// Resolves `.` and `..` by text: the folder need not exist yet.
fn without_dots(path: &FilePath) -> PathBuf {
    use std::path::Component;
    path.components().fold(PathBuf::new(), |mut out, part| {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
        out
    })
}

fn refuse_cloud_options(connection: &ResolvedConnection) -> Result<()> {
    let local = ["path", "memory_limit_mb"];
    match connection.options.keys().find(|key| !local.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::configuration(format!(
            "connection {:?}: option {key:?} has no meaning for a local folder",
            connection.name
        ))),
    }
}

/// Builds the store of a cloud URL: the environment's usual variables first, the connection's options over them.
fn remote_store(connection: &ResolvedConnection, url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let given = |key: &str| connection.get(key);
    let allowed: &[&str] = match url.scheme() {
        "s3" | "s3a" => &[
            "region",
            "endpoint",
            "access_key_id",
            "secret_access_key",
            "session_token",
            "allow_http",
            "virtual_hosted_style",
        ],
        "gs" => &["service_account"],
        "az" | "azure" | "abfs" | "abfss" => &["account_name", "account_key", "sas_token", "endpoint", "allow_http"],
        other => {
            return Err(Error::configuration(format!(
                "connection {:?}: no store is known for {other}:// URLs",
                connection.name
            ))
            .with_hint("known are file, s3, gs and az"));
        }
    };
    if let Some(key) = connection
        .options
        .keys()
        .find(|k| !["path", "memory_limit_mb"].contains(&k.as_str()) && !allowed.contains(&k.as_str()))
    {
        return Err(Error::configuration(format!(
            "connection {:?}: option {key:?} has no meaning for {}:// URLs",
            connection.name,
            url.scheme()
        ))
        .with_hint(format!("known are {}", allowed.join(", "))));
    }
    Ok(match url.scheme() {
        "s3" | "s3a" => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str());
            for (key, name) in [
                (AmazonS3ConfigKey::Region, "region"),
                (AmazonS3ConfigKey::Endpoint, "endpoint"),
                (AmazonS3ConfigKey::AccessKeyId, "access_key_id"),
                (AmazonS3ConfigKey::SecretAccessKey, "secret_access_key"),
                (AmazonS3ConfigKey::Token, "session_token"),
                (AmazonS3ConfigKey::VirtualHostedStyleRequest, "virtual_hosted_style"),
            ] {
                if let Some(value) = given(name) {
                    builder = builder.with_config(key, value);
                }
            }
            let http = connection.parse::<bool>("allow_http", "true or false")?.unwrap_or(false);
            Arc::new(builder.with_allow_http(http).build().map_err(error::store)?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
            if let Some(value) = given("service_account") {
                builder = builder.with_config(GoogleConfigKey::ServiceAccountKey, value);
            }
            Arc::new(builder.build().map_err(error::store)?)
        }
        _ => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
            for (key, name) in [
                (AzureConfigKey::AccountName, "account_name"),
                (AzureConfigKey::AccessKey, "account_key"),
                (AzureConfigKey::SasKey, "sas_token"),
                (AzureConfigKey::Endpoint, "endpoint"),
            ] {
                if let Some(value) = given(name) {
                    builder = builder.with_config(key, value);
                }
            }
            let http = connection.parse::<bool>("allow_http", "true or false")?.unwrap_or(false);
            Arc::new(builder.with_allow_http(http).build().map_err(error::store)?)
        }
    })
}
