//! Commits on an object store: files first, the document last. Readers of the document see a load whole or not at all;
//! readers of the bare files may see files of a load before it is committed.

use std::collections::BTreeSet;

use dpone_engine::{Commit, Error, Receipt, Result, failpoint};
use dpone_planner::plan::WriteMode;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use super::document::Document;
use super::state::FileState;
use super::writer::WrittenFile;
use super::{Counts, Current, FileSink, complete};
use crate::location::{Location, Remote, store_error};

/// Removes everything below a prefix.
pub(super) async fn remove(remote: &Remote) -> Result<()> {
    let error = |e| store_error(&remote.shown, e);
    let found: Vec<_> = remote.store.list(Some(&remote.prefix)).try_collect().await.map_err(error)?;
    for object in found {
        match remote.store.delete(&object.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(error(e)),
        }
    }
    Ok(())
}

pub(super) async fn commit(sink: &FileSink, commit: &Commit<'_>, state: &FileState) -> Result<Receipt> {
    let load = commit.load;
    let place = sink.place(&load.target);
    let (Location::Remote(table), Location::Remote(staging)) = (&place, sink.staging(load)) else {
        return Err(Error::internal("a remote commit of a table that is not remote"));
    };
    let current = sink.current(&load.target).await?;
    let (mut document, version) = match &current {
        Some(current) => (current.document.clone(), current.version.clone()),
        None => Document::read_versioned(&place).await?.unwrap_or_default(),
    };
    if let Some(done) = document.load_of(&load.load_id) {
        return Ok(done.clone());
    }
    state.fence(commit.lease).await?;
    failpoint::reach("commit.begun").await?;
    if load.target_exists && current.is_none() {
        return Err(Error::conflict(format!("{} was there when the load was planned, and is gone", load.target)));
    }
    let staged = sink.staged(load, commit.staged).await?;
    let overwrite = matches!(load.write_mode, WriteMode::Overwrite { .. });
    let before = current.as_ref().map_or(0, Current::rows);
    let counts = Counts { inserted: staged.rows(), deleted: if overwrite { before } else { 0 }, ..Counts::default() };
    counts.guard(commit, before)?;

    for file in &staged.written {
        let (from, to) =
            (staging.prefix.clone().join(file.name.as_str()), table.prefix.clone().join(file.name.as_str()));
        table.store.copy(&from, &to).await.map_err(|e| store_error(&table.shown, e))?;
    }
    let mut files: Vec<WrittenFile> = Vec::new();
    if let Some(current) = current.as_ref().filter(|_| !overwrite) {
        files.extend(current.files.iter().map(|f| WrittenFile {
            name: f.pinned.name().to_owned(),
            rows: f.rows,
            bytes: f.pinned.size,
        }));
    }
    files.extend(staged.written.iter().cloned());
    let schema = sink.next_schema(load, current.as_ref().map(|c| &c.schema))?;
    document.advance(load, &schema, &sink.options.clone().with(&load.options)?, files)?;
    let notes = vec!["files and state were not changed in one step: this is an object store".to_owned()];
    let receipt = complete(commit, counts, document.version, notes);
    document.record(commit.state, &receipt);
    state.fence(commit.lease).await?;
    // Conditional on the version that was read: of two commits at once, one fails.
    if let Err(error) = document.write(&place, version).await {
        let found = Document::read(&place).await?.and_then(|d| d.load_of(&load.load_id).cloned());
        return found.ok_or(error);
    }
    failpoint::reach("commit.applied").await?;
    remove_others(table, &document).await?;
    failpoint::reach("commit.acknowledged").await?;
    Ok(receipt)
}

/// Removes files that the document does not name: replaced ones, and those of loads that did not finish.
async fn remove_others(table: &Remote, document: &Document) -> Result<()> {
    let kept: BTreeSet<_> = document.files.iter().map(|f| f.name.as_str()).collect();
    let listed = table.store.list_with_delimiter(Some(&table.prefix)).await;
    for object in listed.map_err(|e| store_error(&table.shown, e))?.objects {
        let name = object.location.filename().unwrap_or_default();
        if name.starts_with("part-") && !kept.contains(name) {
            match table.store.delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(store_error(&table.shown, e)),
            }
        }
    }
    Ok(())
}
