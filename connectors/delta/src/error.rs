//! Errors of the Delta log, of object stores and of Parquet, as the caller should see them.

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use dpone_engine::{Error, ErrorKind};
use object_store::Error as StoreError;

pub(crate) fn store(error: StoreError) -> Error {
    let kind = match &error {
        StoreError::NotFound { .. } | StoreError::InvalidPath { .. } | StoreError::NotSupported { .. } => {
            ErrorKind::Configuration
        }
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Authorization,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => ErrorKind::Conflict,
        // The local file system fails for good; a remote store, after its own retries, may recover.
        StoreError::Generic { store, .. } if *store != "LocalFileSystem" => ErrorKind::Transient,
        _ => ErrorKind::Unknown,
    };
    Error::new(kind, format!("storage: {error}")).with_source(error)
}

pub(crate) fn delta(error: DeltaTableError) -> Error {
    match error {
        DeltaTableError::ObjectStore { source } => store(source),
        DeltaTableError::Arrow { source } => source.into(),
        DeltaTableError::Parquet { source } => parquet(source),
        DeltaTableError::VersionAlreadyExists(version) => {
            Error::conflict(format!("another writer made version {version} of the table"))
        }
        DeltaTableError::Io { source } => source.into(),
        DeltaTableError::InvalidJsonLog { .. }
        | DeltaTableError::InvalidStatsJson { .. }
        | DeltaTableError::KernelError(_)
        | DeltaTableError::Kernel { .. } => {
            Error::configuration(format!("the Delta log cannot be read: {}", without_trace(&error.to_string())))
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
