//! Definitions after conventions, defaults, templates and variables, for people to read. Secrets are taken out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::connection::{has_password, is_secret_key};
use super::load::{Definition, parse, processes};
use super::sql::Script;
use super::{Connection, Files, load};
use crate::error::Result;

const REDACTED: &str = "***";

/// Each process as a manifest of its own, as it will run; SQL statements as mappings of their clauses. Definitions that
/// would not load are refused with the same errors.
pub fn render(inputs: &[(PathBuf, String)], vars: &BTreeMap<String, String>, files: &dyn Files) -> Result<Vec<Value>> {
    let project = load(inputs, vars, files)?;
    let mut rendered = Vec::new();
    for (path, text) in inputs {
        match parse(path, text, vars)? {
            Definition::Manifest(tree) => {
                let (processes, _) = processes(&tree, vars, files)?;
                rendered.extend(processes.iter().map(|(tree, _)| redact(tree.to_json(), "", false)));
            }
            Definition::Sql(script) => rendered.extend(of_sql(&script, &project.connections)),
        }
    }
    Ok(rendered)
}

fn of_sql(script: &Script, connections: &BTreeMap<String, Connection>) -> Vec<Value> {
    let connections = script.connections.iter().filter_map(|connection| connections.get(&connection.name)).map(|c| {
        let options: Map<String, Value> =
            c.options.iter().map(|(key, value)| (key.clone(), value.display().into())).collect();
        json!({ "connection": c.name, "type": c.kind, "options": options })
    });
    let pipelines = script.pipelines.iter().map(|statement| {
        let target: Vec<_> = statement.target.iter().map(|(name, _)| name.as_str()).collect();
        let mut pipeline = redact(statement.settings.to_json(), "", false);
        if let Value::Object(pipeline) = &mut pipeline {
            pipeline.insert("name".into(), statement.name.clone().into());
            pipeline.insert("into".into(), target.join(".").into());
            pipeline.insert("query".into(), statement.query.clone().into());
            if !statement.partition_by.is_empty() {
                pipeline.insert("partition_by".into(), statement.partition_by.clone().into());
            }
        }
        pipeline
    });
    connections.chain(pipelines).collect()
}

/// `open`: within parameters of a connection or a request, where any telling name is a secret.
fn redact(value: Value, key: &str, open: bool) -> Value {
    match value {
        Value::Object(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let open = open || matches!(key.as_str(), "connection_id" | "params" | "headers" | "json" | "body");
                    let value = redact(value, &key, open);
                    (key, value)
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| redact(item, key, open)).collect()),
        Value::String(text) if key == "connection_id" && text.trim_start().starts_with('{') => {
            match serde_json::from_str::<Value>(&text) {
                Ok(inner) => Value::String(redact(inner, "", true).to_string()),
                Err(_) => REDACTED.into(),
            }
        }
        Value::String(text) if secret(key, &text, open) => REDACTED.into(),
        Value::Number(_) if open && is_secret_key(key) => REDACTED.into(),
        other => other,
    }
}

fn secret(key: &str, text: &str, open: bool) -> bool {
    if text.starts_with("env:") || (text.starts_with("file:") && !text.starts_with("file://")) {
        return false;
    }
    let lower = key.to_ascii_lowercase();
    let telling = ["password", "secret", "token", "authorization"].iter().any(|part| lower.contains(part));
    telling || has_password(text) || (open && (is_secret_key(key) || lower.contains("auth")))
}

/// The value as YAML, in block style with texts in double quotes where that is needed.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(value, 0, &mut out);
    out
}

fn write_yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                out.push_str(&format!("{pad}{}:", scalar(key)));
                write_nested(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&format!("{pad}-"));
                write_nested(item, indent, out);
            }
        }
        other => out.push_str(&format!("{pad}{}\n", flow(other))),
    }
}

fn write_nested(value: &Value, indent: usize, out: &mut String) {
    let block = match value {
        Value::Object(entries) => !entries.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if block {
        out.push('\n');
        write_yaml(value, indent + 1, out);
    } else {
        out.push_str(&format!(" {}\n", flow(value)));
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A text without quotes, where YAML reads it back as the same text.
fn scalar(text: &str) -> String {
    let simple = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/'))
        && text.starts_with(|c: char| c.is_ascii_alphabetic());
    let same = matches!(super::yaml::plain(text), super::located::Value::String { .. });
    if simple && same { text.to_owned() } else { Value::from(text).to_string() }
}
