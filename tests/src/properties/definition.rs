//! The manifest of a case.

use super::Design;
use crate::oracle::{
    Guards, IncrementalAppend, IncrementalMerge, Lag, Missing, PartitionReplace, PartitionScope, Replace, Scd2, Scope,
    Shape, SnapshotDiff, Strategy,
};

/// Where a case loads into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    Postgres,
    Delta,
    ClickHouse,
}

/// What a case reads: the table on PostgreSQL, or a copy of it that is made before every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Postgres,
    ClickHouse,
}

/// A manifest that loads `shop.t` into `landing.t`. Its pipeline has the name `case`.
/// `database` is that of ClickHouse, where the case has one.
pub(super) fn manifest(design: &Design, from: Origin, sink: Sink, database: Option<&str>) -> String {
    let shape = &design.shape;
    let (strategy, mut options) = spelled(shape, &design.strategy);
    if let Some(at) = shape.cursor {
        options.push(format!("incremental_column: {}", shape.columns[at].name));
    }
    options.push(format!("partitioning: {{export_workers: {}}}", design.workers));
    let connection = "type: postgres, connection_type: env, connection_id: DB";
    let clickhouse = "type: clickhouse, connection_type: env, connection_id: CH";
    let database = database.unwrap_or_default();
    let (source, table) = match from {
        Origin::Postgres => (connection, "schema: shop, name: t".to_owned()),
        Origin::ClickHouse => (clickhouse, format!("schema: {database}, name: source_of_t")),
    };
    let schema = if sink == Sink::ClickHouse { database } else { "landing" };
    let into = match sink {
        Sink::Postgres => connection,
        Sink::Delta => "type: delta, path: lake",
        Sink::ClickHouse => clickhouse,
    };
    let folders = design.freedom.folders.map(|at| format!("partition_by: [{}]", shape.columns[at].name));
    let engine = if design.merge_policy == Some("replacing") { ", engine: ReplacingMergeTree" } else { "" };
    let policy = design.merge_policy.map(|policy| format!("connector: {{merge_policy: {policy}{engine}}}"));
    let sink_options = folders.or(policy).map_or_else(String::new, |option| format!("  options: {{{option}}}\n"));
    format!(
        "name: case\nsource: {{{source}, table: {{{table}}}, options: {{{}}}}}\n\
         sink:\n  {into}\n  table: {{schema: {schema}, name: t}}\n  strategy: {{{}}}\n{sink_options}",
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
        Strategy::PartitionReplace(strategy) => (partition_replace(shape, strategy), Vec::new()),
        Strategy::SnapshotDiff(strategy) => (snapshot_diff(shape, strategy), Vec::new()),
        Strategy::Scd2(strategy) => (scd2(shape, strategy), Vec::new()),
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
    keys.extend(batch_options(shape, strategy.latest_by, strategy.quarantine_null_keys));
    if let Some(mark) = strategy.mark {
        let policy = if mark.delete { "delete" } else { "keep" };
        keys.push(format!("soft_delete: {{column: {}, policy: {policy}}}", shape.columns[mark.column].name));
    }
    let mut options: Vec<_> = lag(strategy.lag).into_iter().collect();
    options.extend(strategy.include_null_cursors.then(|| "null_cursor: include".to_owned()));
    (keys, options)
}

fn partition_replace(shape: &Shape, strategy: &PartitionReplace) -> Vec<String> {
    let column = &shape.columns[strategy.column].name;
    let mut partition = vec![format!("column: {column}")];
    let mut keys = vec!["mode: partition_replace".to_owned()];
    match &strategy.scope {
        PartitionScope::Staged { most: 64 } => {}
        PartitionScope::Staged { most } => partition.push(format!("max_partitions_per_run: {most}")),
        PartitionScope::Window { from, to } => {
            keys.push(format!("window: {{column: {column}, from: \"{from}\", to: \"{to}\"}}"));
        }
        PartitionScope::Expected(values) => {
            partition.push(format!("expected: {}", serde_json::to_string(values).unwrap()));
        }
    }
    keys.push(format!("partition: {{{}}}", partition.join(", ")));
    keys
}

fn snapshot_diff(shape: &Shape, strategy: &SnapshotDiff) -> Vec<String> {
    let missing = match strategy.missing {
        Missing::Delete => "hard_delete",
        Missing::Mark => "soft_delete",
        Missing::Ignore => "ignore",
    };
    let stored = if strategy.store_row_hash { ", store_row_hash: true" } else { "" };
    let diff = format!("diff: {{compare: {}, delete_policy: {missing}{stored}}}", strategy.compare);
    let mut keys = vec!["mode: snapshot_diff".to_owned(), key(shape), diff];
    keys.extend(batch_options(shape, strategy.latest_by, strategy.quarantine_null_keys));
    keys.extend(guards(&strategy.guards, strategy.missing != Missing::Ignore));
    keys
}

fn scd2(shape: &Shape, strategy: &Scd2) -> Vec<String> {
    let name = |column: &usize| shape.columns[*column].name.as_str();
    let mut scd2 = vec![format!("delete_policy: {}", if strategy.expire { "expire" } else { "ignore" })];
    scd2.extend(strategy.effective.map(|column| format!("effective_column: {}", name(&column))));
    if !strategy.track.is_empty() {
        scd2.push(format!("track_columns: [{}]", strategy.track.iter().map(name).collect::<Vec<_>>().join(", ")));
    }
    let mut keys = vec!["mode: scd2".to_owned(), key(shape), format!("scd2: {{{}}}", scd2.join(", "))];
    keys.extend(batch_options(shape, strategy.latest_by, strategy.quarantine_null_keys));
    keys.extend(guards(&strategy.guards, strategy.expire));
    keys
}

fn batch_options(shape: &Shape, latest_by: Option<usize>, quarantine_null_keys: bool) -> Vec<String> {
    let latest =
        latest_by.map(|column| format!("duplicate_policy: latest, order_by: [{}]", shape.columns[column].name));
    latest.into_iter().chain(quarantine_null_keys.then(|| "null_keys: quarantine".to_owned())).collect()
}

/// `limits`: rows may go, which a limit could stop.
fn guards(guards: &Guards, limits: bool) -> Vec<String> {
    let mut keys = Vec::new();
    keys.extend(guards.allow_empty_source.then(|| "empty_source: allow".to_owned()));
    if !limits {
        return keys;
    }
    keys.extend(guards.max_delete_percent.map(|percent| format!("max_delete_ratio: {}", percent as f64 / 100.0)));
    keys.extend(guards.max_delete_rows.map(|rows| format!("max_delete_rows: {rows}")));
    keys
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
