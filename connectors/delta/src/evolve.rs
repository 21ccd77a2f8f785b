//! Changes of a table's columns: a version of its own, before the load.
//!
//! Columns are added and let take NULL in the table's metadata; files that lack a column are read as NULL. Another type is
//! written: every file again, in the same version. Readers keep the version that they began with.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use dpone_engine::failpoint;
use dpone_engine::run::moved;
use dpone_engine::{Error, Evolution, Evolved, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{SchemaChange, cannot_change, fingerprint};
use serde_json::{Value, json};

use crate::commit::{ATTEMPTS, add_action, remove_action, write_entry};
use crate::dialect::DeltaDialect;
use crate::rewrite::{self, Target};
use crate::stage::WrittenFile;
use crate::table::Table;
use crate::write::{DeltaSink, facts};
use crate::{error, types};

pub(crate) async fn evolve(sink: &DeltaSink, evolution: &Evolution<'_>) -> Result<Evolved> {
    let place = sink.warehouse.place(evolution.table)?;
    for _ in 0..ATTEMPTS {
        let table = Table::open(&place).await?.ok_or_else(|| moved(evolution.table))?;
        check_catalog(&table, evolution)?;
        let mut metadata = table.metadata()?;
        let mut columns: Value = serde_json::from_str(table.schema_string()).map_err(error::json)?;
        let mut rewrites = false;
        for change in evolution.changes {
            rewrites |= apply(&mut columns, change)?;
        }
        table.check_writable(rewrites)?;
        let schema_string = columns.to_string();
        let schema = types::arrow_schema(&schema_string)?;
        metadata["schemaString"] = json!(schema_string);
        let mut actions = vec![information(&table, evolution)?];
        let needs_ntz = schema.fields().iter().any(|field| types::has_timestamp_ntz(field.data_type()));
        if let Some(protocol) = table.protocol_with("timestampNtz").filter(|_| needs_ntz) {
            actions.push(json!({ "protocol": protocol }));
        }
        actions.push(json!({ "metaData": metadata }));
        let mut written: Vec<WrittenFile> = Vec::new();
        if rewrites {
            written = rewrite::retyped(&sink.warehouse, &Target::of_table(&table), &schema).await?;
            let removed = (0..table.files.len()).map(|index| remove_action(&table, index));
            actions.extend(removed.collect::<Result<Vec<_>>>()?);
            actions.extend(written.iter().map(add_action).collect::<Result<Vec<_>>>()?);
        }
        failpoint::reach("evolve.begun").await?;
        sink.leases.check(&place.table, evolution.lease).await?;
        match write_entry(&place.log()?, table.version + 1, &actions).await {
            Ok(true) => return described(evolution),
            // Another writer was faster: what it left is looked at.
            Ok(false) => rewrite::remove(&place, &written).await,
            Err(error) => {
                rewrite::remove(&place, &written).await;
                return Err(error);
            }
        }
    }
    Err(Error::conflict(format!(
        "table {} changed under each of {ATTEMPTS} attempts to change its columns",
        place.table
    ))
    .with_hint("run again when other writers are done"))
}

fn described(evolution: &Evolution<'_>) -> Result<Evolved> {
    let mut evolved = Evolved::default();
    for change in evolution.changes {
        evolved.statements.extend(DeltaDialect.render(evolution.table, change)?);
    }
    Ok(evolved)
}

fn check_catalog(table: &Table, evolution: &Evolution<'_>) -> Result<()> {
    let compared = table.schema.fields().iter().filter(|field| !evolution.apart.contains(&field.name().as_str()));
    let compared = Schema::new(compared.cloned().collect::<Vec<_>>());
    match fingerprint(&compared, &facts(table), &DeltaDialect) == evolution.fingerprint {
        true => Ok(()),
        false => Err(moved(evolution.table)),
    }
}

/// Changes the columns as the log writes them; what other systems keep beside them stays. True: the files have to be
/// written again.
fn apply(columns: &mut Value, change: &SchemaChange) -> Result<bool> {
    let fields = columns["fields"].as_array_mut().ok_or_else(|| Error::internal("a schema without fields"))?;
    match change {
        SchemaChange::AddColumn { column } => {
            let added = as_written(&column.as_ref().clone().with_nullable(true))?;
            fields.push(added);
            Ok(false)
        }
        SchemaChange::AlterType { from, to } => {
            let written = as_written(to)?;
            let field = find(fields, from)?;
            field["type"] = written["type"].clone();
            Ok(true)
        }
        SchemaChange::DropNotNull { column } => {
            find(fields, column)?["nullable"] = json!(true);
            Ok(false)
        }
        SchemaChange::SetComment { column, comment } => {
            let field = find(fields, column)?;
            match comment {
                Some(comment) => field["metadata"]["comment"] = json!(comment),
                None => {
                    if let Some(metadata) = field["metadata"].as_object_mut() {
                        metadata.remove("comment");
                    }
                }
            }
            Ok(false)
        }
        other => Err(cannot_change(types::NAME, other)),
    }
}

fn find<'a>(fields: &'a mut [Value], column: &Field) -> Result<&'a mut Value> {
    fields
        .iter_mut()
        .find(|field| field["name"].as_str() == Some(column.name()))
        .ok_or_else(|| Error::conflict(format!("the table has no column {:?} any more", column.name())))
}

fn as_written(column: &Field) -> Result<Value> {
    let stored = types::stored_field(column)?;
    let text = types::schema_string(&Schema::new(vec![Arc::new(stored)]))?;
    let mut written: Value = serde_json::from_str(&text).map_err(error::json)?;
    Ok(written["fields"][0].take())
}

fn information(table: &Table, evolution: &Evolution<'_>) -> Result<Value> {
    let only_adds = evolution.changes.iter().all(|change| matches!(change, SchemaChange::AddColumn { .. }));
    Ok(json!({ "commitInfo": {
        "timestamp": chrono::Utc::now().timestamp_millis(),
        "operation": if only_adds { "ADD COLUMNS" } else { "CHANGE COLUMN" },
        "operationParameters": { "changes": described(evolution)?.statements.join("; ") },
        "readVersion": table.version,
        "engineInfo": concat!("dpone/", env!("CARGO_PKG_VERSION")),
    }}))
}
