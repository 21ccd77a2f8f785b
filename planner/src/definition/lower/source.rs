//! The source: what is read, which part of it, and by which cursor.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::connection::{Book, Form};
use super::text::scope_predicate;
use super::{Origin, check_predicate, parse_lag, relation, stem};
use crate::definition::located::quoted;
use crate::definition::manifest::{
    ColumnSpec, Incremental, NullCursor, Query, QueryMode, Source, SourceOptions, SourceType,
};
use crate::definition::{CursorOptions, Files, Lag, OptionValue, ReadOptions, SourceQuery, SourceSpec};
use crate::error::{Error, Result};
use crate::relation::Relation;
use crate::types::parse_logical;

pub(super) fn lower(
    source: &Source,
    origin: &Origin<'_>,
    files: &dyn Files,
    book: &mut Book,
    warnings: &mut Vec<String>,
) -> Result<SourceSpec> {
    let form = Form {
        at: "source",
        kind: source.kind.kind(),
        connection_type: source.connection_type,
        id: source.connection_id.as_ref(),
        reference: source.connection_ref.as_deref(),
        vault_path: source.vault_path.as_deref(),
        path: source.path.as_deref(),
    };
    let connection = book.of_manifest(&form, file_options(source), origin)?;
    let query = match &source.options.query {
        Some(query) if source.table.is_none() => SourceQuery::Native { connection, sql: native(query, origin, files)? },
        Some(_) => {
            return Err(origin
                .error("source.options.query", "source.table and source.options.query both say what is read")
                .with_hint("keep one of them"));
        }
        None => SourceQuery::Table { connection, relation: table(source, origin)? },
    };
    let read = read_options(&source.options, origin)?;
    if source.kind == SourceType::Kafka && source.options.incremental_column.is_some() {
        warnings.push("source.options.incremental_column has no effect: a topic is read by its offsets".to_owned());
    }
    Ok(SourceSpec { query, read })
}

/// The relation of a table; of files and streams, a label.
fn table(source: &Source, origin: &Origin<'_>) -> Result<Relation> {
    if let Some(table) = &source.table {
        return Ok(relation(table));
    }
    match source.kind {
        SourceType::File | SourceType::Csv | SourceType::Parquet => {
            Ok(Relation::new("files", stem(source.path.as_deref().unwrap_or_default())))
        }
        SourceType::Kafka => match &source.topic {
            Some(topic) => Ok(Relation::new("topics", topic)),
            None => Err(origin.missing("source.topic", "it names what is read")),
        },
        SourceType::Api | SourceType::Rest | SourceType::RestApi => {
            let path = source.options.path.as_ref().or(source.options.endpoint.as_ref());
            Ok(Relation::new("rest", path.map_or("root", |path| path.trim_matches('/'))))
        }
        _ => Err(origin
            .missing("source.table", "it names what is read")
            .with_hint("write table: {schema: …, name: …}, or options.query")),
    }
}

/// How files are read is part of the connection: the same files read in another way are another place.
fn file_options(source: &Source) -> Vec<(String, OptionValue)> {
    let options = &source.options;
    let plain = |text: String| OptionValue::Plain(text);
    [
        ("format", source.format.map(|format| format.as_str().to_owned())),
        ("header", options.header.map(|value| value.to_string())),
        ("delimiter", options.delimiter.clone()),
        ("quote", options.quote.clone()),
        ("escape", options.escape.clone()),
        ("null_values", options.null_values.as_ref().map(|values| serde_json::Value::from(values.list()).to_string())),
        ("infer_rows", options.infer_rows.map(|value| value.to_string())),
        ("compression", options.compression.clone()),
        ("comment", options.comment.clone()),
        ("encoding", options.encoding.clone()),
        ("on_bad_row", options.on_bad_row.clone()),
    ]
    .into_iter()
    .filter_map(|(key, value)| value.map(|value| (key.to_owned(), plain(value))))
    .collect()
}

fn native(query: &Query, origin: &Origin<'_>, files: &dyn Files) -> Result<String> {
    let at = "source.options.query";
    let sql = match (query.mode, &query.sql, &query.sql_file) {
        (None | Some(QueryMode::Inline), Some(sql), None) => sql.clone(),
        (None | Some(QueryMode::SqlFile), None, Some(path)) => {
            let place = origin.tree.place("source.options.query.sql_file");
            let full: PathBuf = place.file.parent().map(|folder| folder.join(path)).unwrap_or_else(|| path.into());
            files.read(&full).map_err(|error| {
                Error::configuration(format!("the query file {path:?} cannot be read: {}", error.message()))
                    .at(place.location())
            })?
        }
        (Some(QueryMode::Inline), None, _) => return Err(origin.missing(&format!("{at}.sql"), "mode is inline")),
        (Some(QueryMode::SqlFile), _, None) => {
            return Err(origin.missing(&format!("{at}.sql_file"), "mode is sql_file"));
        }
        (None, None, None) => return Err(origin.missing(&format!("{at}.sql"), "a query has sql or sql_file")),
        (_, Some(_), Some(_)) => {
            return Err(origin.error(at, format!("{at}.sql and {at}.sql_file exclude each other")));
        }
    };
    let sql = sql.trim().trim_end_matches(';').trim_end().to_owned();
    if sql.is_empty() {
        return Err(origin.error(at, "the query is empty"));
    }
    Ok(sql)
}

fn read_options(options: &SourceOptions, origin: &Origin<'_>) -> Result<ReadOptions> {
    let mut read =
        ReadOptions { exclude_columns: options.exclude_columns.clone().unwrap_or_default(), ..Default::default() };
    let columns = options.columns.as_deref().unwrap_or_default();
    // A list of mappings only declares types; a plain name in it makes it a projection.
    let projects = columns.iter().any(|column| matches!(column, ColumnSpec::Name(_)));
    for column in columns {
        let name = match column {
            ColumnSpec::Name(name) => name,
            ColumnSpec::Typed(typed) => {
                if let Some(data_type) = &typed.data_type {
                    declare(&mut read.types, &typed.name, data_type, origin)?;
                }
                &typed.name
            }
        };
        if projects {
            if read.columns.contains(name) {
                return Err(origin.error("source.options.columns", format!("the column {name:?} is listed twice")));
            }
            read.columns.push(name.clone());
        }
    }
    if projects && !read.exclude_columns.is_empty() {
        return Err(origin
            .error("source.options.exclude_columns", "source.options.columns and exclude_columns exclude each other")
            .with_hint("list the columns to read, or the columns to leave out"));
    }
    let mut predicates = Vec::new();
    if let Some(predicate) = &options.custom_predicate {
        predicates.push(checked(predicate, "source.options.custom_predicate", origin)?);
    }
    if let Some(scope) = &options.portable_scope {
        let at = "source.options.portable_scope";
        predicates.push(scope_predicate(scope).map_err(|why| origin.error(at, format!("{at}: {why}")))?);
    }
    read.predicate = match predicates.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(many.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(" AND ")),
    };
    Ok(read)
}

/// The predicate, when it is one expression.
pub(super) fn checked(predicate: &str, at: &str, origin: &Origin<'_>) -> Result<String> {
    check_predicate(predicate)
        .map_err(|why| origin.error(at, format!("{} is not a predicate: {why}", origin.term(at))))?;
    Ok(predicate.trim().to_owned())
}

fn declare(types: &mut BTreeMap<String, String>, name: &str, data_type: &str, origin: &Origin<'_>) -> Result<()> {
    let at = "source.options.columns";
    parse_logical(name, data_type).map_err(|error| {
        let located = origin.error(at, error.message());
        match error.hint() {
            Some(hint) => located.with_hint(hint),
            None => located,
        }
    })?;
    if types.insert(name.to_owned(), data_type.to_owned()).is_some() {
        return Err(origin.error(at, format!("the column {name:?} is declared twice")));
    }
    Ok(())
}

/// The cursor, when one is named.
pub(super) fn cursor(options: &SourceOptions, origin: &Origin<'_>) -> Result<Option<CursorOptions>> {
    let at = "source.options.incremental_column";
    let wants = matches!(options.incremental_strategy, Some(Incremental::Column | Incremental::ColumnCursor));
    let Some(column) = &options.incremental_column else {
        if wants {
            return Err(origin.missing(at, "source.options.incremental_strategy is column"));
        }
        for (key, given) in [
            ("lookback_days", options.lookback_days.is_some_and(|days| days > 0)),
            ("lag", options.lag.is_some()),
            ("null_cursor", options.null_cursor.is_some()),
        ] {
            if given {
                let key = format!("source.options.{key}");
                return Err(
                    origin.error(&key, format!("{} has no meaning without {}", origin.term(&key), origin.term(at)))
                );
            }
        }
        return Ok(None);
    };
    let lag = match (options.lookback_days.filter(|days| *days > 0), &options.lag) {
        (Some(_), Some(_)) => {
            let (days, lag) = ("source.options.lookback_days", "source.options.lag");
            return Err(origin
                .error(lag, format!("{} and {} say the same thing", origin.term(days), origin.term(lag)))
                .with_hint("keep one of them"));
        }
        (Some(days), None) => Some(Lag::Interval { microseconds: i64::from(days) * 86_400_000_000 }),
        (None, Some(text)) => {
            let (lag, text) = ("source.options.lag", text.text());
            Some(parse_lag(&text).ok_or_else(|| {
                origin
                    .error(lag, format!("{} is {}; expected a distance", origin.term(lag), quoted(&text)))
                    .with_hint("for example 2h, 15 minutes or 1 day; a number alone for integer cursors")
            })?)
        }
        (None, None) => None,
    };
    Ok(Some(CursorOptions {
        column: column.clone(),
        lag,
        include_nulls: options.null_cursor == Some(NullCursor::Include),
    }))
}
