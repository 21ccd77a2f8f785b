//! What definitions became: connections and pipelines as one JSON document, with defaults and variables filled in.

use dpone_planner::definition::{
    CursorOptions, DeletePolicy, DuplicatePolicy, EmptySource, Guards, Lag, NullKeys, Pipeline, Project, ReadOptions,
    Scope, SourceQuery, SourceSpec, StateSpec, Strategy,
};
use serde_json::{Map, Value, json};

pub(crate) fn document(project: &Project, pipelines: &[Pipeline]) -> Value {
    let connections: Map<String, Value> = project
        .connections
        .values()
        .map(|connection| {
            let options = connection.options.iter().map(|(key, value)| (key.clone(), Value::from(value.display())));
            let value = json!({ "type": connection.kind, "options": options.collect::<Map<_, _>>() });
            (connection.name.clone(), value)
        })
        .collect();
    json!({ "connections": connections, "pipelines": pipelines.iter().map(pipeline).collect::<Vec<_>>() })
}

fn pipeline(pipeline: &Pipeline) -> Value {
    json!({
        "name": pipeline.name,
        "selector": pipeline.selector,
        "description": pipeline.description,
        "location": pipeline.location.to_string(),
        "source": source(&pipeline.source),
        "sink": {
            "connection": pipeline.sink.connection,
            "table": pipeline.sink.relation,
            "staging_schema": pipeline.sink.staging_schema,
            "partition_by": pipeline.sink.partition_by,
            "options": pipeline.sink.options,
        },
        "strategy": strategy(&pipeline.strategy),
        "guards": guards(&pipeline.guards),
        "tuning": {
            "parallelism": pipeline.tuning.parallelism,
            "batch_rows": pipeline.tuning.batch_rows,
        },
        "state": state(&pipeline.state),
        "warnings": pipeline.warnings,
    })
}

fn source(source: &SourceSpec) -> Value {
    let ReadOptions { columns, exclude_columns, predicate, types } = &source.read;
    let read = json!({
        "columns": columns,
        "exclude_columns": exclude_columns,
        "predicate": predicate,
        "types": types,
    });
    match &source.query {
        SourceQuery::Table { connection, relation } => json!({
            "connection": connection, "table": relation, "read": read,
        }),
        SourceQuery::Native { connection, sql } => json!({
            "connection": connection, "native_query": sql, "read": read,
        }),
        SourceQuery::Sql { sql } => json!({ "query": sql, "read": read }),
    }
}

fn strategy(strategy: &Strategy) -> Value {
    let mut out = Map::from_iter([("mode".to_owned(), json!(strategy.name()))]);
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    match strategy {
        Strategy::FullRefresh { overwrite } => put("overwrite_type", json!(overwrite)),
        Strategy::Replace { scope } => match scope {
            Scope::Predicate(sql) => put("predicate", json!(sql)),
            Scope::Window { column, from, to } => put("window", json!({ "column": column, "from": from, "to": to })),
        },
        Strategy::IncrementalAppend { cursor: c, only_new_rows, key } => {
            put("cursor", cursor(c));
            put("only_new_rows", json!(only_new_rows));
            put("key", json!(key));
        }
        Strategy::IncrementalMerge { key, cursor: c, duplicates, null_keys, soft_delete } => {
            put("key", json!(key));
            put("cursor", c.as_ref().map_or(Value::Null, cursor));
            put(
                "duplicate_policy",
                match duplicates {
                    DuplicatePolicy::Fail => json!("fail"),
                    DuplicatePolicy::Latest { order_by } => json!({ "latest_by": order_by }),
                },
            );
            put(
                "null_keys",
                json!(match null_keys {
                    NullKeys::Fail => "fail",
                    NullKeys::Quarantine => "quarantine",
                }),
            );
            put(
                "soft_delete",
                soft_delete.as_ref().map_or(Value::Null, |mark| {
                    json!({
                        "column": mark.column,
                        "policy": match mark.policy {
                            DeletePolicy::Hard => "delete",
                            DeletePolicy::Keep => "keep",
                        },
                    })
                }),
            );
        }
        Strategy::Unsupported(_) => put("supported", json!(false)),
    }
    Value::Object(out)
}

fn cursor(cursor: &CursorOptions) -> Value {
    json!({
        "column": cursor.column,
        "lag": cursor.lag.as_ref().map(|lag| match lag {
            Lag::Interval { microseconds } => json!({ "microseconds": microseconds }),
            Lag::Number(n) => json!(n),
        }),
        "nulls": if cursor.include_nulls { "include" } else { "fail" },
    })
}

fn guards(guards: &Guards) -> Value {
    json!({
        "empty_source": match guards.empty_source {
            EmptySource::Fail => "fail",
            EmptySource::Allow => "allow",
        },
        "max_delete_ratio": guards.max_delete_ratio,
        "max_delete_rows": guards.max_delete_rows,
    })
}

fn state(state: &StateSpec) -> Value {
    match state {
        StateSpec::BesideData => json!("beside the data"),
        StateSpec::InSink { relation } => json!({ "table": relation }),
        StateSpec::Elsewhere { connection, relation } => json!({ "copied_to": connection, "table": relation }),
    }
}
