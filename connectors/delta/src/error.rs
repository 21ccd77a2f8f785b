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
        other => Error::unknown(format!("Delta log: {other}")).with_source(other),
    }
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
