//! Where files are: a local folder or an object store, and how files there are listed, opened and told from later
//! versions of themselves.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::object_store::ObjectStoreUrl;
use dpone_engine::{Error, ErrorClassifier, ErrorKind, ErrorRule, ResolvedConnection, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

/// Options that are handed to the object store's own builder.
pub(crate) const STORE_OPTIONS: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_endpoint",
    "aws_allow_http",
    "aws_virtual_hosted_style_request",
    "aws_skip_signature",
    "google_service_account",
    "google_service_account_key",
    "google_application_credentials",
    "google_skip_signature",
    "azure_storage_account_name",
    "azure_storage_account_key",
    "azure_storage_sas_key",
    "azure_storage_client_id",
    "azure_storage_client_secret",
    "azure_storage_tenant_id",
    "azure_storage_use_emulator",
];

/// Characters that make a path a pattern.
const WILD: [char; 3] = ['*', '?', '['];

/// A root that paths are relative to.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    Local(PathBuf),
    Remote(Remote),
}

/// A prefix in an object store.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// What DataFusion finds the store by. Made from the connection's name, so that two connections may reach one
    /// bucket with different credentials.
    pub(crate) url: ObjectStoreUrl,
    pub(crate) prefix: Key,
    /// Set when the path has wildcards: the whole of it. The prefix is then the folder above the first of them.
    pattern: Option<String>,
    /// The URL as it was given, for messages.
    pub(crate) shown: String,
}

/// One version of one file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PinnedFile {
    /// An absolute path, or a key in the store.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// Differs between versions: the inode and the time of modification, or the store's entity tag.
    pub(crate) tag: String,
}

impl PinnedFile {
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

impl Location {
    pub(crate) fn of(connection: &ResolvedConnection) -> Result<Self> {
        Self::parse(connection.require("path")?, connection)
    }

    fn parse(path: &str, connection: &ResolvedConnection) -> Result<Self> {
        if path.trim().is_empty() {
            return Err(Error::configuration(format!("connection {:?}: path is empty", connection.name)));
        }
        let Some((scheme, rest)) = path.split_once("://") else {
            return Ok(Self::Local(connection.base_dir.join(path)));
        };
        if scheme == "file" {
            return Ok(Self::Local(PathBuf::from(rest)));
        }
        if !["s3", "s3a", "gs", "az", "abfs", "abfss", "azure"].contains(&scheme) {
            return Err(Error::configuration(format!(
                "connection {:?}: {scheme}:// is not a place that files are read from or written to",
                connection.name
            ))
            .with_hint("a path is local, or begins with s3://, gs:// or az://"));
        }
        // Only the bucket goes through the URL parser: it would take a `?` of a glob for a query.
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let invalid = |e: &dyn std::fmt::Display| {
            Error::configuration(format!("connection {:?}: the object store cannot be used: {e}", connection.name))
        };
        let url = url::Url::parse(&format!("{scheme}://{bucket}")).map_err(|e| invalid(&e))?;
        let options = STORE_OPTIONS.iter().filter_map(|key| connection.get(key).map(|value| (*key, value)));
        let (store, _) = object_store::parse_url_opts(&url, options).map_err(|e| invalid(&e))?;
        let wild = key.find(WILD);
        let fixed = wild.map_or(key, |at| key[..at].rsplit_once('/').map_or("", |(folder, _)| folder));
        let prefix = Key::parse(fixed).map_err(|e| invalid(&e))?;
        let mut remote = Remote::new(Arc::from(store), &connection.name, prefix, path.to_owned())?;
        remote.pattern = wild.map(|_| key.trim_start_matches('/').to_owned());
        Ok(Self::Remote(remote))
    }

    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Local(path) => path.display().to_string(),
            Self::Remote(remote) => remote.shown.clone(),
        }
    }

    /// The place below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        match self {
            Self::Local(path) => Self::Local(path.join(name)),
            Self::Remote(remote) => Self::Remote(Remote {
                prefix: remote.prefix.clone().join(name),
                shown: format!("{}/{name}", remote.shown.trim_end_matches('/')),
                ..remote.clone()
            }),
        }
    }

    /// The store and the key by which DataFusion and the Parquet reader reach a file here.
    pub(crate) fn store(&self) -> (Arc<dyn ObjectStore>, ObjectStoreUrl) {
        match self {
            Self::Local(_) => {
                (Arc::new(object_store::local::LocalFileSystem::new()), ObjectStoreUrl::local_filesystem())
            }
            Self::Remote(remote) => (Arc::clone(&remote.store), remote.url.clone()),
        }
    }

    fn key(&self, file: &PinnedFile) -> Result<Key> {
        match self {
            Self::Local(_) => Key::from_absolute_path(&file.path)
                .map_err(|e| Error::configuration(format!("{}: not a usable path", file.path)).with_source(e)),
            Self::Remote(_) => remote_key(file),
        }
    }

    /// The file as an object of [`Self::store`]. Made from its parts: a key made from text would be escaped twice.
    pub(crate) fn object(&self, file: &PinnedFile) -> Result<ObjectMeta> {
        let last_modified = chrono::DateTime::UNIX_EPOCH;
        Ok(ObjectMeta { location: self.key(file)?, last_modified, size: file.size, e_tag: None, version: None })
    }

    /// The files that the path means: itself, those that match its pattern, or those directly in it when it is a
    /// folder. Sorted; hidden files are left out. `None`: there is nothing of that name.
    pub(crate) async fn files(&self) -> Result<Option<Vec<PinnedFile>>> {
        match self {
            Self::Local(path) => local_files(path),
            Self::Remote(remote) => remote.files().await,
        }
    }

    pub(crate) fn has_pattern(&self) -> bool {
        match self {
            // A file that is really called so is that file.
            Self::Local(path) => path.to_string_lossy().contains(WILD) && !path.exists(),
            Self::Remote(remote) => remote.pattern.is_some(),
        }
    }

    /// Whether the path is one file, not a folder.
    pub(crate) async fn is_file(&self) -> bool {
        match self {
            Self::Local(path) => path.is_file(),
            Self::Remote(remote) => remote.store.head(&remote.prefix).await.is_ok(),
        }
    }

    /// The names of the folders directly in this one.
    pub(crate) async fn folders(&self) -> Result<Vec<String>> {
        let mut names = match self {
            Self::Local(path) => match std::fs::read_dir(path) {
                Err(_) => Vec::new(),
                Ok(entries) => entries
                    .filter_map(|entry| entry.ok())
                    .filter(|entry| entry.path().is_dir())
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .collect(),
            },
            Self::Remote(remote) => {
                let listed = remote.store.list_with_delimiter(Some(&remote.prefix)).await;
                let listed = listed.map_err(|e| store_error(&remote.shown, e))?;
                listed.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect()
            }
        };
        names.retain(|name| !is_hidden(name));
        names.sort();
        Ok(names)
    }

    /// Opens a file for reading from its beginning. Blocks; remote bytes are fetched through `runtime`.
    pub(crate) fn open(&self, file: &PinnedFile, runtime: &tokio::runtime::Handle) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Local(_) => {
                let opened = std::fs::File::open(&file.path).map_err(|e| read_error(&file.path, e))?;
                let found = pin(&file.path, &opened.metadata().map_err(|e| read_error(&file.path, e))?);
                if &found != file {
                    return Err(changed(file));
                }
                Ok(Box::new(opened))
            }
            Self::Remote(remote) => {
                let key = remote_key(file)?;
                let got = runtime.block_on(remote.store.get(&key)).map_err(|e| store_error(&file.path, e))?;
                if pin_remote(&got.meta) != *file {
                    return Err(changed(file));
                }
                let stream = got.into_stream().map_err(std::io::Error::other).boxed();
                Ok(Box::new(Download { stream, runtime: runtime.clone(), rest: Bytes::new() }))
            }
        }
    }

    /// Fails when the file is no longer the one that was pinned.
    pub(crate) async fn check_unchanged(&self, file: &PinnedFile) -> Result<()> {
        let found = match self {
            Self::Local(_) => std::fs::metadata(&file.path).ok().map(|m| pin(&file.path, &m)),
            Self::Remote(remote) => {
                let key = remote_key(file)?;
                match remote.store.head(&key).await {
                    Ok(meta) => Some(pin_remote(&meta)),
                    Err(object_store::Error::NotFound { .. }) => None,
                    Err(e) => return Err(store_error(&file.path, e)),
                }
            }
        };
        if found.as_ref() == Some(file) { Ok(()) } else { Err(changed(file)) }
    }
}

impl Remote {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, connection: &str, prefix: Key, shown: String) -> Result<Self> {
        let host = dpone_planner::state::hex(connection.as_bytes());
        let url = ObjectStoreUrl::parse(format!("dpone-files://c{host}"))?;
        Ok(Self { store, url, prefix, pattern: None, shown })
    }

    async fn files(&self) -> Result<Option<Vec<PinnedFile>>> {
        let error = |e| store_error(&self.shown, e);
        let Some(pattern) = &self.pattern else {
            if let Ok(meta) = self.store.head(&self.prefix).await {
                return Ok(Some(vec![pin_remote(&meta)]));
            }
            let listed = self.store.list_with_delimiter(Some(&self.prefix)).await.map_err(error)?;
            if listed.objects.is_empty() && listed.common_prefixes.is_empty() {
                return Ok(None);
            }
            return Ok(Some(sorted(listed.objects.iter().map(pin_remote).collect())));
        };
        let pattern = glob::Pattern::new(pattern).map_err(|e| bad_pattern(&self.shown, &e))?;
        let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        let found: Vec<_> = self.store.list(Some(&self.prefix)).try_collect().await.map_err(error)?;
        let matching = found.iter().filter(|m| pattern.matches_with(m.location.as_ref(), options)).map(pin_remote);
        let files = sorted(matching.collect());
        Ok((!files.is_empty()).then_some(files))
    }
}

fn remote_key(file: &PinnedFile) -> Result<Key> {
    Key::parse(&file.path).map_err(|e| Error::configuration(format!("{}: not a usable key", file.path)).with_source(e))
}

fn local_files(path: &Path) -> Result<Option<Vec<PinnedFile>>> {
    let shown = path.display().to_string();
    let mut paths = Vec::new();
    if shown.contains(WILD) && !path.exists() {
        let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        for found in glob::glob_with(&shown, options).map_err(|e| bad_pattern(&shown, &e))? {
            let found = found.map_err(|e| read_error(&e.path().display().to_string(), e.into()))?;
            if found.is_file() {
                paths.push(found);
            }
        }
        if paths.is_empty() {
            return Ok(None);
        }
    } else if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(|e| read_error(&shown, e))? {
            let entry = entry.map_err(|e| read_error(&shown, e))?.path();
            if entry.is_file() {
                paths.push(entry);
            }
        }
    } else if path.exists() {
        paths.push(path.to_owned());
    } else {
        return Ok(None);
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let absolute = std::path::absolute(&path).map_err(|e| read_error(&shown, e))?;
        let Some(text) = absolute.to_str() else {
            return Err(Error::configuration(format!("{}: the file's name is not UTF-8", path.display())));
        };
        files.push(pin(text, &std::fs::metadata(&path).map_err(|e| read_error(text, e))?));
    }
    Ok(Some(sorted(files)))
}

fn sorted(mut files: Vec<PinnedFile>) -> Vec<PinnedFile> {
    files.retain(|file| !is_hidden(file.name()));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Names that begin so are ours, or somebody's work in progress.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn pin(path: &str, metadata: &std::fs::Metadata) -> PinnedFile {
    use std::os::unix::fs::MetadataExt;
    let tag = format!("{:x}-{}.{:09}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    PinnedFile { path: path.to_owned(), size: metadata.len(), tag }
}

fn pin_remote(meta: &ObjectMeta) -> PinnedFile {
    let tag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
    PinnedFile { path: meta.location.to_string(), size: meta.size, tag }
}

fn changed(file: &PinnedFile) -> Error {
    Error::new(ERRORS.classify("file.changed"), format!("{} changed while it was read", file.path))
        .with_hint("run again when the file is complete; write new files under new names")
}

fn bad_pattern(path: &str, error: &glob::PatternError) -> Error {
    Error::configuration(format!("{path}: not a pattern: {error}"))
}

/// What the file system and object stores say, by name: neither has numbers that all systems share.
pub(crate) static ERRORS: ErrorClassifier = ErrorClassifier {
    system: "file",
    codes: "errors of the file system and of object stores",
    rules: &[
        ErrorRule {
            codes: &["file.unreadable"],
            class: ErrorKind::Configuration,
            means: "the file is not there, may not be read, or is none of its format: it is named wrongly",
        },
        ErrorRule {
            codes: &["store.not_found", "store.not_supported"],
            class: ErrorKind::Configuration,
            means: "there is no such object, or the store cannot do this",
        },
        ErrorRule {
            codes: &["store.denied"],
            class: ErrorKind::Authorization,
            means: "credentials or permissions of the store",
        },
        ErrorRule {
            codes: &["store.changed", "file.changed"],
            class: ErrorKind::Conflict,
            means: "the object or the file changed while it was read or written",
        },
        ErrorRule {
            codes: &["store.failed"],
            class: ErrorKind::Transient,
            means: "the store cannot be reached, or failed, after its own retries",
        },
    ],
    otherwise: ErrorKind::Unknown,
};

/// An error of reading a file, with the file's name.
pub(crate) fn read_error(path: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, PermissionDenied, UnexpectedEof};
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => {
            let kind = match error.kind() {
                // An input that cannot be read is named wrongly, or is no file of its kind, which is what decoders say of
                // bytes that are not theirs.
                PermissionDenied | NotFound | InvalidData | InvalidInput | UnexpectedEof => {
                    ERRORS.classify("file.unreadable")
                }
                _ => Error::from(std::io::Error::from(error.kind())).kind(),
            };
            Error::new(kind, format!("{path}: {error}")).with_source(error)
        }
    }
}

/// An error of an object store. Its text may hold a signed URL, so only its kind is shown.
pub(crate) fn store_error(path: &str, error: object_store::Error) -> Error {
    use object_store::Error::*;
    let (code, what) = match &error {
        NotFound { .. } => ("store.not_found", "there is no such object"),
        PermissionDenied { .. } | Unauthenticated { .. } => ("store.denied", "access is denied"),
        Precondition { .. } | AlreadyExists { .. } => ("store.changed", "the object changed meanwhile"),
        InvalidPath { .. } | NotSupported { .. } | NotImplemented { .. } | UnknownConfigurationKey { .. } => {
            ("store.not_supported", "the store does not support this")
        }
        _ => ("store.failed", "the store cannot be reached, or failed"),
    };
    Error::new(ERRORS.classify(code), format!("{path}: {what}"))
}

/// The body of an object, for a reader that blocks.
struct Download {
    stream: futures::stream::BoxStream<'static, std::io::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
    rest: Bytes,
}

impl Read for Download {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let n = out.len().min(self.rest.len());
        out[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn keys_with_unusual_characters_and_patterns_in_a_store() {
        let store = Arc::new(object_store::memory::InMemory::new());
        for key in ["in/a b%~.csv", "in/x-1.csv", "in/x-2.csv", "in/deep/x-3.csv", "in/_hidden.csv"] {
            store.put(&Key::parse(key).unwrap(), "a\n1\n".into()).await.unwrap();
        }
        let prefix = Key::parse("in").unwrap();
        let mut remote = Remote::new(store, "c", prefix, "s3://b/in".to_owned()).unwrap();
        let names = |files: Option<Vec<PinnedFile>>| {
            files.unwrap_or_default().iter().map(|f| f.name().to_owned()).collect::<Vec<_>>()
        };
        let all = Location::Remote(remote.clone());
        assert_eq!(names(all.files().await.unwrap()), ["a b%~.csv", "x-1.csv", "x-2.csv"]);
        assert_eq!(all.folders().await.unwrap(), ["deep"]);
        for file in all.files().await.unwrap().unwrap() {
            all.check_unchanged(&file).await.unwrap();
        }
        remote.pattern = Some("in/x-*.csv".to_owned());
        assert_eq!(names(Location::Remote(remote).files().await.unwrap()), ["x-1.csv", "x-2.csv"]);
    }
}
