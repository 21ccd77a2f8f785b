//! The manifest of a case.

use crate::oracle::{IncrementalAppend, IncrementalMerge, Lag, Replace, Scope, Shape, Strategy};

/// Where a case loads into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    Postgres,
    Delta,
}

/// A manifest that loads `shop.t` into `landing.t`. Its pipeline has the name `case`.
pub(super) fn manifest(shape: &Shape, strategy: &Strategy, sink: Sink, workers: usize) -> String {
    let (strategy, mut options) = spelled(shape, strategy);
    if let Some(at) = shape.cursor {
        options.push(format!("incremental_column: {}", shape.columns[at].name));
    }
    options.push(format!("partitioning: {{export_workers: {workers}}}"));
    let connection = "type: postgres, connection_type: env, connection_id: DB";
    let into = match sink {
        Sink::Postgres => connection,
        Sink::Delta => "type: delta, path: lake",
    };
    format!(
        "name: case\nsource: {{{connection}, table: {{schema: shop, name: t}}, options: {{{}}}}}\n\
         sink:\n  {into}\n  table: {{schema: landing, name: t}}\n  strategy: {{{}}}\n",
        options.join(", "),
        strategy.join(", "),
        into = into.replace(", ", "\n  "),
    )
}

/// The keys of `sink.strategy`, and those of `source.options`.
fn spelled(shape: &Shape, strategy: &Strategy) -> (Vec<String>, Vec<String>) {
    match strategy {
        Strategy::FullRefresh(strategy) => {
            let mut keys =
                vec!["mode: full_refresh".to_owned(), format!("overwrite_type: {}", strategy.overwrite_type)];
            keys.extend(strategy.allow_empty_source.then(|| "empty_source: allow".to_owned()));
            (keys, Vec::new())
        }
        Strategy::Replace(strategy) => (vec!["mode: replace".to_owned(), scope(shape, strategy)], Vec::new()),
        Strategy::IncrementalAppend(strategy) => append(shape, strategy),
        Strategy::IncrementalMerge(strategy) => merge(shape, strategy),
    }
}

fn key(shape: &Shape) -> String {
    format!("unique_key: [{}]", shape.key_names().join(", "))
}

fn lag(lag: Option<Lag>) -> Option<String> {
    lag.map(|lag| match lag {
        Lag::Days(days) => format!("lookback_days: {days}"),
        Lag::Number(n) => format!("lag: {n}"),
    })
}

fn append(shape: &Shape, strategy: &IncrementalAppend) -> (Vec<String>, Vec<String>) {
    let mut keys = vec!["mode: incremental_append".to_owned()];
    if strategy.only_new_rows {
        keys.extend([key(shape), "only_new_rows: true".to_owned()]);
    }
    (keys, lag(strategy.lag).into_iter().collect())
}

fn merge(shape: &Shape, strategy: &IncrementalMerge) -> (Vec<String>, Vec<String>) {
    let mut keys = vec!["mode: incremental_merge".to_owned(), key(shape)];
    if let Some(column) = strategy.latest_by {
        keys.push(format!("duplicate_policy: latest, order_by: [{}]", shape.columns[column].name));
    }
    keys.extend(strategy.quarantine_null_keys.then(|| "null_keys: quarantine".to_owned()));
    if let Some(mark) = strategy.mark {
        let policy = if mark.delete { "delete" } else { "keep" };
        keys.push(format!("soft_delete: {{column: {}, policy: {policy}}}", shape.columns[mark.column].name));
    }
    let mut options: Vec<_> = lag(strategy.lag).into_iter().collect();
    options.extend(strategy.include_null_cursors.then(|| "null_cursor: include".to_owned()));
    (keys, options)
}

fn scope(shape: &Shape, strategy: &Replace) -> String {
    let name = |column: &usize| shape.columns[*column].name.as_str();
    let literal = |column: &usize, value: &str| {
        let kind = shape.columns[*column].source;
        match kind {
            crate::oracle::Kind::Text | crate::oracle::Kind::Varchar(_) => format!("'{}'", value.replace('\'', "''")),
            _ if value.starts_with('-') || value.chars().all(|c| c.is_ascii_digit()) => value.to_owned(),
            crate::oracle::Kind::Date => format!("DATE '{value}'"),
            other => panic!("no literal of type {other:?} in a scope"),
        }
    };
    let predicate = match &strategy.scope {
        Scope::Window { column, from, to } => {
            return format!("window: {{column: {}, from: \"{from}\", to: \"{to}\"}}", name(column));
        }
        Scope::Between { column, from, to } => {
            format!("{0} >= {1} AND {0} < {2}", name(column), literal(column, from), literal(column, to))
        }
        Scope::AnyOf { column, values } => {
            let values: Vec<_> = values.iter().map(|value| literal(column, value)).collect();
            format!("{} IN ({})", name(column), values.join(", "))
        }
        Scope::IsNull { column } => format!("{} IS NULL", name(column)),
        Scope::Not { column, value } => format!("NOT ({} = {})", name(column), literal(column, value)),
    };
    format!("custom_predicate: {}", serde_json::to_string(&predicate).unwrap())
}
