//! The one error type of the workspace: what happened, where, and what the caller should do about it.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Retry with back-off: the same call may succeed later.
    Transient,
    /// Fix a credential or a grant.
    Authorization,
    /// Fix the data, or say in the definition how such values are to be handled.
    DataQuality,
    /// Fix the definition or the command line.
    Configuration,
    /// Another run holds the lease, or something changed under this run.
    Conflict,
    /// The user asked to stop.
    Interrupted,
    /// A bug of ours.
    Internal,
    /// Not classified.
    Unknown,
}

impl ErrorKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Authorization => "authorization",
            Self::DataQuality => "data_quality",
            Self::Configuration => "configuration",
            Self::Conflict => "conflict",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

/// A place in a definition file. Lines and columns count from one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Location {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

impl Location {
    pub fn new(file: impl AsRef<Path>, line: usize, column: usize) -> Self {
        Self { file: file.as_ref().to_owned(), line, column }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// An error with its kind, a message without secrets or cell values, an optional hint, and context pairs.
///
/// The content is boxed so that `Result` stays small on hot paths.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    location: Option<Location>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            location: None,
            context: Vec::new(),
            source: None,
        }))
    }

    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, message)
    }

    pub fn authorization(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Authorization, message)
    }

    pub fn data_quality(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DataQuality, message)
    }

    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Configuration, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unknown, message)
    }

    /// What the user can do about it, printed after the message as `hint: …`.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says where the definition is, where what is wrong with it is not known more closely.
    pub fn within(self, location: &Location) -> Self {
        let known = self.0.location.is_some() || self.kind() != ErrorKind::Configuration;
        if known { self } else { self.at(location.clone()) }
    }

    pub fn at(mut self, location: Location) -> Self {
        self.0.location = Some(location);
        self
    }

    /// Adds one pair of context, such as `("pipeline", "orders")`. The first value given for a key is kept: it is the
    /// one closest to the failure.
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        if !self.0.context.iter().any(|(k, _)| *k == key) {
            self.0.context.push((key, value.into()));
        }
        self
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn location(&self) -> Option<&Location> {
        self.0.location.as_ref()
    }

    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The same error without its source, for one that others hold too.
    pub fn copy(&self) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            message: self.0.message.clone(),
            hint: self.0.hint.clone(),
            location: self.0.location.clone(),
            context: self.0.context.clone(),
            source: None,
        }))
    }

    /// Whether the same call may succeed if it is made again.
    pub fn is_transient(&self) -> bool {
        self.0.kind == ErrorKind::Transient
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.0.location {
            write!(f, "{location}: ")?;
        }
        f.write_str(&self.0.message)?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind.as_str())?;
        if let Some(hint) = &self.0.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as &(dyn StdError + 'static))
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<DataFusionError> for Error {
    /// Takes our own error back out where one travelled through DataFusion; otherwise maps the class.
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(source) => match source.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(other) => match other.downcast::<DataFusionError>() {
                    Ok(inner) => Error::from(*inner),
                    Err(other) => Error::unknown(other.to_string()).with_source(other),
                },
            },
            DataFusionError::Context(_, inner) => Error::from(*inner),
            DataFusionError::Diagnostic(_, inner) => Error::from(*inner),
            DataFusionError::Shared(shared) => match std::sync::Arc::try_unwrap(shared) {
                Ok(inner) => Error::from(inner),
                Err(shared) => from_shared(&shared),
            },
            DataFusionError::ArrowError(inner, _) => Error::from(*inner),
            // A query that is wrong in several places: the first says enough.
            DataFusionError::Collection(several) => match several.into_iter().next() {
                Some(first) => Error::from(first),
                None => Error::unknown("several errors, and none is told"),
            },
            DataFusionError::SchemaError(ref schema, _) => match schema.as_ref() {
                SchemaError::FieldNotFound { field, valid_fields } => no_column(field, valid_fields),
                _ => Error::configuration(error.strip_backtrace()),
            },
            DataFusionError::SQL(..) | DataFusionError::Plan(_) => Error::configuration(told(&error)),
            DataFusionError::NotImplemented(_) => {
                let text = told(&error);
                match text.contains("Decimal precision") {
                    // A literal is read as a decimal, whatever it is compared with.
                    true => Error::configuration(text).with_hint(
                        "a number with so many digits is written as a text that is cast: CAST('5e-324' AS DOUBLE)",
                    ),
                    false => Error::configuration(text),
                }
            }
            DataFusionError::Internal(_) => Error::internal(error.strip_backtrace()),
            DataFusionError::ResourcesExhausted(_) => Error::configuration(error.strip_backtrace())
                .with_hint("raise --memory-limit, or give --temp-dir a place with more room to spill"),
            other => Error::unknown(without_values(&other.strip_backtrace())),
        }
    }
}

/// What DataFusion says about a query, without the names of its own classes of errors.
fn told(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let (class, instead) = match error {
        DataFusionError::SQL(parser, _) => {
            let text = parser.to_string();
            return format!("the SQL cannot be read: {}", text.strip_prefix("sql parser error: ").unwrap_or(&text));
        }
        DataFusionError::Plan(_) => ("Error during planning: ", ""),
        DataFusionError::NotImplemented(_) => ("This feature is not implemented: ", "not supported: "),
        _ => return text,
    };
    match text.strip_prefix(class) {
        Some(rest) => format!("{instead}{rest}"),
        None => text,
    }
}

/// How many columns an error names.
const COLUMNS_TOLD: usize = 40;

/// A column that a query names, and nothing has.
fn no_column(column: &Column, there: &[Column]) -> Error {
    let of_table = column.relation.as_ref().map_or_else(String::new, |table| format!(" in {table}"));
    let error =
        Error::configuration(format!("there is no column {:?}{of_table}", column.name)).with("column", &column.name);
    let names: Vec<&str> = there.iter().map(|column| column.name.as_str()).collect();
    if names.is_empty() {
        return error;
    }
    let mut told = names.iter().take(COLUMNS_TOLD).copied().collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(COLUMNS_TOLD).filter(|more| *more > 0) {
        told += &format!(" and {more} more");
    }
    // A name that only its case tells apart has to be quoted.
    let quoted = names.iter().find(|name| **name != column.name && name.eq_ignore_ascii_case(&column.name));
    error.with_hint(match (quoted, crate::definition::nearest(&column.name, names.iter().copied())) {
        (Some(name), _) => format!("write \"{name}\", in double quotes: unquoted names are in small letters"),
        (None, Some(near)) => format!("did you mean {near:?}? Columns: {told}"),
        (None, None) => format!("columns: {told}"),
    })
}

/// The text without what it quotes: a failing value must not reach a log.
fn without_values(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(['\'', '"']) {
        let quote = &rest[start..=start];
        let Some(length) = rest[start + 1..].find(quote) else { break };
        out.push_str(&rest[..start]);
        out.push('…');
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

/// An error that several streams share cannot be moved out: its parts are copied.
fn from_shared(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(source) => match source.downcast_ref::<Error>() {
            Some(ours) => ours.copy(),
            None => Error::unknown(without_values(&error.strip_backtrace())),
        },
        root => Error::new(kind_of_shared(root), without_values(&told(root))),
    }
}

/// The class that the error would have if it could be moved.
fn kind_of_shared(error: &DataFusionError) -> ErrorKind {
    use arrow::error::ArrowError;
    match error {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::ResourcesExhausted(_) => ErrorKind::Configuration,
        DataFusionError::Internal(_) => ErrorKind::Internal,
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::DivideByZero
            | ArrowError::CsvError(_)
            | ArrowError::JsonError(_) => ErrorKind::DataQuality,
            ArrowError::ParquetError(_) => ErrorKind::Configuration,
            _ => ErrorKind::Unknown,
        },
        _ => ErrorKind::Unknown,
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        use arrow::error::ArrowError::*;
        match error {
            ExternalError(source) => match source.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(other) => match other.downcast::<DataFusionError>() {
                    Ok(inner) => Error::from(*inner),
                    Err(other) => Error::unknown(other.to_string()).with_source(other),
                },
            },
            // The texts of these quote the value that failed.
            CastError(_) | ParseError(_) => {
                Error::data_quality("a value cannot be converted to the type that the query or the target asks for")
                    .with_hint("find such rows with try_cast(…) IS NULL; try_cast also loads them as NULL")
            }
            ArithmeticOverflow(_) => Error::data_quality("a calculation went beyond the range of its type"),
            InvalidArgumentError(_) | ComputeError(_) => Error::unknown(without_values(&error.to_string())),
            DivideByZero => Error::data_quality("a division by zero"),
            CsvError(_) | JsonError(_) => Error::data_quality(without_values(&error.to_string())),
            IoError(_, source) => Error::from(source),
            ParquetError(text) => {
                Error::configuration(format!("a Parquet file cannot be read: {}", without_values(&text)))
                    .with_hint("is the file damaged, or still being written?")
            }
            other => Error::unknown(other.to_string()),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let kind = match error.kind() {
            PermissionDenied => ErrorKind::Authorization,
            NotFound | NotADirectory | IsADirectory | InvalidInput => ErrorKind::Configuration,
            TimedOut | ConnectionReset | ConnectionAborted | ConnectionRefused | BrokenPipe | Interrupted => {
                ErrorKind::Transient
            }
            _ => ErrorKind::Unknown,
        };
        Error::new(kind, error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_error_survives_a_trip_through_datafusion_and_arrow() {
        let ours = Error::data_quality("column holds NaN").with("column", "price").with_hint("declare it text");
        let through = DataFusionError::ArrowError(
            Box::new(arrow::error::ArrowError::ExternalError(Box::new(DataFusionError::from(ours)))),
            None,
        );
        let back = Error::from(through.context("scan"));
        assert_eq!(back.kind(), ErrorKind::DataQuality);
        assert_eq!(back.to_string(), "column holds NaN (column: price)");
        assert_eq!(back.hint(), Some("declare it text"));
    }

    #[test]
    fn a_failing_value_is_not_repeated() {
        let cast = arrow::error::ArrowError::CastError("Cannot cast string 'hunter2' to value of Int32 type".into());
        let execution = DataFusionError::Execution("Error parsing timestamp from 'hunter2': bad".into());
        for error in [Error::from(cast), Error::from(execution)] {
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn classes_of_datafusion_are_not_named() {
        let number = "Decimal precision 324 exceeds the maximum supported precision: 76";
        for (error, want) in [
            (DataFusionError::Plan("no function 'f'".into()), "no function 'f'"),
            (DataFusionError::NotImplemented("QUALIFY".into()), "not supported: QUALIFY"),
            (DataFusionError::NotImplemented(number.into()), &format!("not supported: {number}")),
        ] {
            assert_eq!(Error::from(error).to_string(), want);
        }
        let number = Error::from(DataFusionError::NotImplemented(number.into()));
        assert!(number.hint().is_some_and(|hint| hint.contains("CAST(")), "{number:?}");
    }

    /// A shared error has the class that it has alone, and several have that of the first.
    #[test]
    fn errors_that_are_wrapped_keep_their_class() {
        use arrow::error::ArrowError;
        let cast = || DataFusionError::from(ArrowError::CastError("'hunter2' is no number".into()));
        for (make, want) in [
            (&cast as &dyn Fn() -> DataFusionError, ErrorKind::DataQuality),
            (&|| DataFusionError::Plan("no such column".into()), ErrorKind::Configuration),
            (&|| DataFusionError::ResourcesExhausted("memory".into()), ErrorKind::Configuration),
            (&|| DataFusionError::Internal("a bug".into()), ErrorKind::Internal),
        ] {
            let shared = std::sync::Arc::new(make());
            let held = std::sync::Arc::clone(&shared);
            let several = DataFusionError::Collection(vec![make(), DataFusionError::Execution("x".into())]);
            for error in [Error::from(make()), Error::from(DataFusionError::Shared(shared)), Error::from(several)] {
                assert_eq!(error.kind(), want, "{error:?}");
                assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            }
            drop(held);
        }
    }

    #[test]
    fn the_innermost_context_is_kept() {
        let error = Error::unknown("x").with("table", "inner").with("table", "outer");
        assert_eq!(error.context(), [("table", "inner".to_owned())]);
    }
}
