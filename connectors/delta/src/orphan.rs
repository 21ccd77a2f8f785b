//! Staging of loads that were killed.
//!
//! Staged files lie in the table's folder, where a committed load's files stay for ever: a folder does not tell by itself
//! which of the two it is. So each load leaves a note outside of the table, `_dpone/staging/<table>/<pipeline>/<load id>`,
//! for as long as it may have files that no commit names. Whoever takes the pipeline's lease next finds the notes of loads
//! that nobody will finish.

use std::collections::BTreeSet;

use dpone_engine::{Relation, Result};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::config::{OURS, Place, Warehouse};
use crate::error;
use crate::state::{self, file_name};
use crate::table::{Table, log_entry};

fn folder(warehouse: &Warehouse, table: &Relation, pipeline: &str) -> Path {
    let mut path = warehouse.prefix.clone();
    for part in [OURS, "staging", &table.to_string(), &file_name(pipeline)] {
        path = path.join(part);
    }
    path
}

/// Notes that the load begins to stage.
pub(crate) async fn note(warehouse: &Warehouse, table: &Relation, pipeline: &str, load_id: &str) -> Result<()> {
    let path = folder(warehouse, table, pipeline).join(load_id);
    warehouse.store.put(&path, Vec::new().into()).await.map_err(error::store)?;
    Ok(())
}

/// Takes the note back: nothing of the load is left that no commit names.
async fn forget(warehouse: &Warehouse, table: &Relation, pipeline: &str, load_id: &str) -> Result<()> {
    let path = folder(warehouse, table, pipeline).join(load_id);
    match warehouse.store.delete(&path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(other) => Err(error::store(other)),
    }
}

/// Removes what killed loads of the pipeline left. Its lease must be held: no other load of the pipeline is alive.
pub(crate) async fn sweep(warehouse: &Warehouse, place: &Place, pipeline: &str) -> Result<()> {
    let notes = list(place, &folder(warehouse, &place.table, pipeline)).await?;
    for load_id in notes.iter().filter_map(Path::filename) {
        discard(warehouse, place, pipeline, load_id).await?;
        tracing::debug!(load_id, pipeline, "removed the staging of a load that was killed");
    }
    Ok(())
}

/// Removes the load's files that do not belong to the table.
pub(crate) async fn discard(warehouse: &Warehouse, place: &Place, pipeline: &str, load_id: &str) -> Result<()> {
    let files = list(place, &place.path(load_id)?).await?;
    if !files.is_empty() {
        let kept = committed_files(place, pipeline, load_id).await?;
        for file in files.into_iter().filter(|file| !kept.contains(file.as_ref())) {
            place.store.delete(&file).await.map_err(error::store)?;
        }
    }
    if let Some(folder) = &place.local {
        remove_halves(&folder.join(load_id));
        // An empty folder is no staging, but no trace is better. It fails, as it should, where files remain.
        let _ = std::fs::remove_dir(folder.join(load_id));
        let _ = std::fs::remove_dir(folder);
    }
    forget(warehouse, &place.table, pipeline, load_id).await
}

/// Files that were being written when their process ended. The store of a local folder does not list them.
fn remove_halves(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(|name| name.split_once(".parquet#")).is_some() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

pub(crate) async fn list(place: &Place, folder: &Path) -> Result<Vec<Path>> {
    match place.store.list(Some(folder)).map_ok(|entry| entry.location).try_collect().await {
        Ok(found) => Ok(found),
        Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
        Err(other) => Err(error::store(other)),
    }
}

/// Paths of the load's files that belong to the table: active now, or added by the load's own commit and kept for
/// readers of earlier versions.
async fn committed_files(place: &Place, pipeline: &str, load_id: &str) -> Result<BTreeSet<String>> {
    let mut kept = BTreeSet::new();
    let Some(table) = Table::open(place).await? else { return Ok(kept) };
    for file in table.files.iter() {
        kept.insert(place.path(&file.path)?.to_string());
    }
    let remembered = state::read(&table, pipeline).await?.unwrap_or_default().1;
    let version = remembered.load(load_id).and_then(|r| r.target_version.as_deref()?.parse().ok());
    if let Some(version) = version {
        for line in log_entry(place, version).await?.unwrap_or_default() {
            if let Some(path) = line["add"]["path"].as_str() {
                kept.insert(place.path(path)?.to_string());
            }
        }
    }
    Ok(kept)
}
