//! One chunk of a `backfill`: the source narrowed to the chunk, loaded as the inner mode says.
//!
//! The narrowing is a condition on the source's own column, so that it is pushed down. An inner `replace` owns the same
//! window of the target: a chunk is exactly its window, whatever partitions it touches, so that chunks never take each
//! other's rows away.

use super::incremental_append::{check_new_rows, without_known_keys};
use super::{
    Draft, Observed, carried_key, column, filtered, full_refresh, incremental_merge, output_names, require_columns,
};
use crate::chunk::{filter, scope};
use crate::definition::{ChunkLoad, InnerLoad, OverwriteType, Pipeline};
use crate::error::Result;
use crate::plan::{Checks, ScopeFilter, WriteMode};

pub(super) fn draft(pipeline: &Pipeline, observed: &mut Observed<'_>, load: &ChunkLoad) -> Result<Draft> {
    let names = output_names(&observed.source)?;
    // Everything is loaded whatever the column holds, and without one.
    if !load.chunk.is_everything() || names.contains(&load.column) {
        require_columns("the chunk column", std::slice::from_ref(&load.column), &observed.source)?;
        narrow(observed, load)?;
    }
    match &load.inner {
        InnerLoad::Replace { .. } => replace(observed, load),
        InnerLoad::Append { only_new_rows, key } => append(observed, *only_new_rows, key),
        InnerLoad::Merge { key, duplicates, null_keys, soft_delete } => {
            incremental_merge::draft(observed, key, None, duplicates, *null_keys, soft_delete.as_ref())
        }
        InnerLoad::FullRefresh { overwrite } => full_refresh::draft(pipeline, observed, *overwrite),
    }
}

fn narrow(observed: &mut Observed<'_>, load: &ChunkLoad) -> Result<()> {
    let field = observed.source.schema().field_with_unqualified_name(&load.column)?.clone();
    let on = column(&observed.source, &load.column)?;
    if let Some(condition) = filter(&load.chunk, &load.zone, &field, on)? {
        observed.source = filtered(observed.source.clone(), condition)?;
    }
    Ok(())
}

fn replace(observed: &Observed<'_>, load: &ChunkLoad) -> Result<Draft> {
    let field = observed.source.schema().field_with_unqualified_name(&load.column)?;
    let there = observed.target.as_ref().and_then(|t| t.schema.field_with_name(&load.column).ok());
    let stored = match there {
        Some(there) => there.clone(),
        None => observed.dialect.stored_field(field)?,
    };
    let write_mode = match scope(&load.chunk, &load.zone, &stored)? {
        Some(sql) => WriteMode::OverwriteScope { scope: ScopeFilter::Predicate { sql } },
        // The chunk is everything.
        None => WriteMode::Overwrite { overwrite: OverwriteType::TruncateInsert },
    };
    Ok(Draft {
        plan: observed.source.clone(),
        write_mode,
        cursor: None,
        // A window without rows is emptied: the chunk is the window.
        checks: Checks::default(),
        primary_key: carried_key(observed),
        own: Vec::new(),
        notes: Vec::new(),
    })
}

fn append(observed: &Observed<'_>, only_new_rows: bool, key: &[String]) -> Result<Draft> {
    require_columns("the key column", key, &observed.source)?;
    if only_new_rows {
        check_new_rows(observed, key)?;
    }
    let mut plan = observed.source.clone();
    let mut notes = Vec::new();
    if only_new_rows && let Some(target) = &observed.target {
        plan = without_known_keys(plan, observed, target, key)?;
        notes.push(format!("rows whose key ({}) is in the target already are left out", key.join(", ")));
    }
    let unique = if only_new_rows { key.to_vec() } else { Vec::new() };
    Ok(Draft {
        plan,
        write_mode: WriteMode::Append,
        cursor: None,
        checks: Checks { not_null: key.to_vec(), unique, ..Checks::default() },
        primary_key: Vec::new(),
        own: Vec::new(),
        notes,
    })
}
