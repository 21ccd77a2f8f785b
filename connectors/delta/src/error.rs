//! Errors of the Delta log, of object stores and of Parquet, as the caller should see them.

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use dpone_engine::{Error, ErrorClassifier, ErrorKind, ErrorRule};
use object_store::Error as StoreError;

/// What storage and the log say, by name: neither has numbers.
pub(crate) static ERRORS: ErrorClassifier = ErrorClassifier {
    system: "delta",
    codes: "errors of storage, of the log and of Parquet",
    rules: &[
        ErrorRule {
            codes: &["storage.not_found", "storage.invalid_path", "storage.not_supported"],
            class: ErrorKind::Configuration,
            means: "the path is wrong, or the store cannot do this",
        },
        ErrorRule {
            codes: &["storage.permission_denied", "storage.unauthenticated"],
            class: ErrorKind::Authorization,
            means: "credentials or permissions of the store or the file system",
        },
        ErrorRule {
            codes: &["storage.already_exists", "storage.precondition", "log.version_exists"],
            class: ErrorKind::Conflict,
            means: "another writer was faster",
        },
        ErrorRule {
            codes: &["storage.remote"],
            class: ErrorKind::Transient,
            means: "a remote store failed, after its own retries",
        },
        ErrorRule {
            codes: &["log.unreadable"],
            class: ErrorKind::Configuration,
            means: "the log is no Delta log, or was not copied whole",
        },
        ErrorRule {
            codes: &["storage.local"],
            class: ErrorKind::Unknown,
            means: "the local file system failed, such as a disk that is full: somebody has to look",
        },
    ],
    otherwise: ErrorKind::Unknown,
};

/// The name of a store's error in [`ERRORS`].
fn store_code(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound { .. } => "storage.not_found",
        StoreError::InvalidPath { .. } => "storage.invalid_path",
        StoreError::NotSupported { .. } => "storage.not_supported",
        StoreError::PermissionDenied { .. } => "storage.permission_denied",
        StoreError::Unauthenticated { .. } => "storage.unauthenticated",
        StoreError::AlreadyExists { .. } => "storage.already_exists",
        StoreError::Precondition { .. } => "storage.precondition",
        // The local file system fails for good; a remote store, after its own retries, may recover.
        StoreError::Generic { store, .. } if *store == "LocalFileSystem" => match io_code(error) {
            Some(code) => code,
            None => "storage.local",
        },
        StoreError::Generic { .. } => "storage.remote",
        _ => "storage.other",
    }
}

/// What the file system said, below what the store made of it: a folder that may not be written to is no other error.
fn io_code(error: &StoreError) -> Option<&'static str> {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        match source.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(std::io::ErrorKind::PermissionDenied) => return Some("storage.permission_denied"),
            Some(std::io::ErrorKind::NotADirectory) => return Some("storage.invalid_path"),
            _ => {}
        }
        next = source.source();
    }
    None
}

pub(crate) fn store(error: StoreError) -> Error {
    let kind = ERRORS.classify(store_code(&error));
    Error::new(kind, format!("storage: {error}")).with_source(error)
}

pub(crate) fn delta(error: DeltaTableError) -> Error {
    match error {
        DeltaTableError::ObjectStore { source } => store(source),
        DeltaTableError::Arrow { source } => source.into(),
        DeltaTableError::Parquet { source } => parquet(source),
        DeltaTableError::VersionAlreadyExists(version) => {
            let kind = ERRORS.classify("log.version_exists");
            Error::new(kind, format!("another writer made version {version} of the table"))
        }
        DeltaTableError::Io { source } => source.into(),
        DeltaTableError::InvalidJsonLog { .. }
        | DeltaTableError::InvalidStatsJson { .. }
        | DeltaTableError::KernelError(_)
        | DeltaTableError::Kernel { .. } => {
            let kind = ERRORS.classify("log.unreadable");
            Error::new(kind, format!("the Delta log cannot be read: {}", without_trace(&error.to_string())))
                .with_hint("is the folder a Delta table, and was it copied whole?")
        }
        other => Error::unknown(format!("Delta log: {}", without_trace(&other.to_string()))).with_source(other),
    }
}

/// The library adds a stack trace to its messages where RUST_BACKTRACE asks for one.
fn without_trace(text: &str) -> &str {
    text.split("\n   0: ").next().unwrap_or(text).trim_end()
}

pub(crate) fn transaction(error: TransactionError) -> Error {
    delta(error.into())
}

pub(crate) fn parquet(error: parquet::errors::ParquetError) -> Error {
    match error {
        parquet::errors::ParquetError::External(source) => match source.downcast::<StoreError>() {
            Ok(inner) => store(*inner),
            Err(other) => Error::unknown(format!("Parquet: {other}")).with_source(other),
        },
        other => Error::unknown(format!("Parquet: {other}")).with_source(other),
    }
}

pub(crate) fn json(error: serde_json::Error) -> Error {
    Error::internal(format!("JSON: {error}")).with_source(error)
}
