//! Commits on a local file system: the next folder of the table is built beside it, from hard links and new files, and
//! exchanged with it in one system call.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use dpone_engine::{Commit, Error, LoadSpec, Receipt, Result, failpoint};
use dpone_planner::plan::{Operation, WriteMode};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::document::Document;
use super::rewrite::Rewrite;
use super::state::FileState;
use super::writer::{WrittenFile, sync_folder};
use super::{Counts, Current, FileSink, Staged, complete};
use crate::location::{Location, read_error};

/// Says whose a staging folder is, so that a later run of the pipeline can clean up after one that was killed.
const OWNER: &str = "load.json";

/// The folder of tables as they were before their last commit, in a schema's folder.
const RETIRED: &str = ".dpone-retired";
/// Longer than any reader takes between opening a folder and listing it.
const GRACE: Duration = Duration::from_secs(60);

/// Makes the staging folder, and removes those of the pipeline's earlier loads into this table: its lease is held, so
/// they are dead.
pub(super) fn prepare(folder: &Path, load: &LoadSpec) -> Result<()> {
    let shown = folder.display().to_string();
    if let Some(schema) = folder.parent().and_then(Path::parent) {
        remove_retired(schema, GRACE)?;
    }
    if let Some(parent) = folder.parent() {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let dead = std::fs::read(entry.path().join(OWNER))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<LoadSpec>(&bytes).ok())
                .is_some_and(|other| {
                    other.pipeline == load.pipeline && other.target == load.target && other.load_id != load.load_id
                });
            if dead {
                remove(&entry.path())?;
            }
        }
    }
    let owner = serde_json::to_vec(load).map_err(|e| Error::internal("a load cannot be written").with_source(e))?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(folder.join(OWNER), owner))
        .map_err(|e| read_error(&shown, e))
}

pub(super) fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(read_error(&folder.display().to_string(), e)),
    }
}

pub(super) async fn commit(sink: &FileSink, commit: &Commit<'_>, state: &FileState) -> Result<Receipt> {
    let load = commit.load;
    let (Location::Local(table), Location::Local(staging)) = (sink.place(&load.target), sink.staging(load)) else {
        return Err(Error::internal("a local commit of a table that is not local"));
    };
    let _commits = state.lock_table().await?;
    if let Some(done) = Document::read_local(&table)?.and_then(|d| d.load_of(&load.load_id).cloned()) {
        return Ok(done);
    }
    // Early, before the work; and again below, where it counts.
    drop(state.fence(commit.lease).await?);
    failpoint::reach("commit.begun").await?;
    let current = sink.current(&load.target).await?;
    check_existence(load, current.as_ref())?;
    let staged = sink.staged(load, commit.staged).await?;

    let next = staging.join("next");
    remove(&next)?;
    std::fs::create_dir_all(&next).map_err(|e| read_error(&next.display().to_string(), e))?;
    let (files, counts) = build(sink, commit, current.as_ref(), &staged, &staging, &next).await?;
    let before = current.as_ref().map_or(0, Current::rows);
    counts.guard(commit, before)?;

    let schema = sink.next_schema(load, current.as_ref().map(|c| &c.schema))?;
    let mut document = current.map(|c| c.document).unwrap_or_else(|| {
        // A folder that only keeps state, or none.
        Document::read_local(&table).ok().flatten().unwrap_or_default()
    });
    document.advance(load, &schema, &sink.options.clone().with(&load.options)?, files)?;
    let receipt = complete(commit, counts, document.version, small_files(&document.files));
    document.record(commit.state, &receipt);
    document.write_local(&next)?;
    sync_folder(&next)?;

    let fence = state.fence(commit.lease).await?;
    if swap(&next, &table)? {
        retire(&next, &table, &load.load_id)?;
    }
    drop(fence);
    if failpoint::reach("commit.applied").await? == failpoint::Reached::LostAck {
        // What a lost answer leaves to do: look the load up.
        let found = Document::read_local(&table)?.and_then(|d| d.load_of(&load.load_id).cloned());
        return found.ok_or_else(|| Error::transient("the commit's outcome is not known"));
    }
    if let Some(parent) = table.parent() {
        sync_folder(parent)?;
    }
    failpoint::reach("commit.acknowledged").await?;
    Ok(receipt)
}

fn check_existence(load: &LoadSpec, current: Option<&Current>) -> Result<()> {
    if load.target_exists && current.is_none() {
        return Err(Error::conflict(format!("{} was there when the load was planned, and is gone", load.target))
            .with_hint("if it was removed on purpose, reset the pipeline's state and run again"));
    }
    Ok(())
}

/// Fills the next folder, and says which files it holds and what happens to the rows.
async fn build(
    sink: &FileSink,
    commit: &Commit<'_>,
    current: Option<&Current>,
    staged: &Staged,
    staging: &Path,
    next: &Path,
) -> Result<(Vec<WrittenFile>, Counts)> {
    let load = commit.load;
    let there = current.map_or(0, Current::rows);
    let mut files = Vec::new();
    let mut counts = Counts { inserted: staged.rows(), ..Counts::default() };
    let as_staged = match &load.write_mode {
        WriteMode::Overwrite { .. } => {
            counts.deleted = there;
            link_all(staging, &staged.written, next, &mut files)?;
            return Ok((files, counts));
        }
        WriteMode::Append => true,
        // Staged files of these hold the operation, and deletions.
        WriteMode::Changes { operation: Operation::Column { .. }, .. } => false,
        // There is nothing to compare with.
        WriteMode::OverwriteScope { .. } => false,
        WriteMode::Changes { .. } => there == 0,
    };
    if as_staged {
        if let Some(current) = current {
            link_current(current, &BTreeSet::new(), next, &mut files)?;
        }
        link_all(staging, &staged.written, next, &mut files)?;
        return Ok((files, counts));
    }
    let rewrite = Rewrite::new(sink, commit, current, staged, next)?;
    rewrite.check_scope().await?;
    let affected = rewrite.affected().await?;
    if let WriteMode::OverwriteScope { .. } = load.write_mode {
        link_all(staging, &staged.written, next, &mut files)?;
    }
    if let Some(current) = current {
        link_current(current, &affected.files, next, &mut files)?;
    }
    files.extend(rewrite.run(&affected).await?);
    counts = affected.counts;
    Ok((files, counts))
}

/// Links files that were written for this load.
fn link_all(from: &Path, written: &[WrittenFile], to: &Path, files: &mut Vec<WrittenFile>) -> Result<()> {
    for file in written {
        link(&from.join(&file.name), &to.join(&file.name))?;
        files.push(file.clone());
    }
    Ok(())
}

/// Links the table's files, apart from those that are written anew.
fn link_current(current: &Current, but: &BTreeSet<usize>, to: &Path, files: &mut Vec<WrittenFile>) -> Result<()> {
    for (_, file) in current.files.iter().enumerate().filter(|(i, _)| !but.contains(i)) {
        let name = file.pinned.name().to_owned();
        link(Path::new(&file.pinned.path), &to.join(&name))?;
        files.push(WrittenFile { name, rows: file.rows, bytes: file.pinned.size });
    }
    Ok(())
}

/// One file under a second name: no bytes are copied where the file system has hard links.
fn link(from: &Path, to: &Path) -> Result<()> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(read_error(&from.display().to_string(), e)),
        Err(_) => {
            let copy = || -> std::io::Result<()> {
                std::fs::copy(from, to)?;
                std::fs::File::open(to)?.sync_all()
            };
            copy().map_err(|e| read_error(&to.display().to_string(), e))
        }
    }
}

/// Puts the finished folder in the table's place, in one step. True when the table as it was is now in `next`.
fn swap(next: &Path, table: &Path) -> Result<bool> {
    let shown = table.display().to_string();
    let exchange = table.exists();
    let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, next, CWD, table, flags) {
        Ok(()) => Ok(exchange),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            Err(Error::configuration(format!("{shown}: the file system cannot exchange two folders in one step"))
                .with_hint("use a local file system such as ext4, xfs, btrfs or tmpfs, or the delta sink"))
        }
        Err(e) => Err(read_error(&shown, e.into())),
    }
}

/// Keeps the table as it was for a while. A reader that has opened the folder but not yet listed it would see part of
/// the table, without an error, if its files were removed under it.
fn retire(old: &Path, table: &Path, load_id: &str) -> Result<()> {
    let Some(schema) = table.parent() else { return Ok(()) };
    let retired = schema.join(RETIRED).join(format!("{}-{load_id}", chrono::Utc::now().timestamp_millis()));
    let keep = || -> std::io::Result<()> {
        std::fs::create_dir_all(schema.join(RETIRED))?;
        std::fs::rename(old, &retired)
    };
    keep().map_err(|e| read_error(&retired.display().to_string(), e))
}

/// Removes tables that were retired more than `grace` ago.
fn remove_retired(schema: &Path, grace: Duration) -> Result<()> {
    let newest = chrono::Utc::now().timestamp_millis() - i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    for entry in std::fs::read_dir(schema.join(RETIRED)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let retired = name.to_str().and_then(|n| n.split_once('-')).and_then(|(millis, _)| millis.parse::<i64>().ok());
        if retired.is_some_and(|at| at <= newest) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn small_files(files: &[WrittenFile]) -> Vec<String> {
    let small = files.iter().filter(|f| f.bytes < 16 << 20).count();
    if small < 64 {
        return Vec::new();
    }
    vec![format!(
        "the table has {small} files of less than 16 MiB: a full_refresh, or a rewrite of them, makes reads faster"
    )]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_retired_table_goes_after_its_grace() {
        let dir = tempfile::tempdir().unwrap();
        let (old, table) = (dir.path().join("old"), dir.path().join("s/t"));
        std::fs::create_dir_all(&table).unwrap();
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("part.parquet"), "x").unwrap();
        retire(&old, &table, "LOAD").unwrap();
        let left = || std::fs::read_dir(dir.path().join("s").join(RETIRED)).unwrap().count();
        remove_retired(&dir.path().join("s"), GRACE).unwrap();
        assert_eq!((left(), old.exists()), (1, false));
        remove_retired(&dir.path().join("s"), Duration::ZERO).unwrap();
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_finished_folder_takes_the_place_of_a_table_or_of_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (next, table) = (dir.path().join("next"), dir.path().join("table"));
        for (text, expected) in [("one", false), ("two", true)] {
            std::fs::create_dir_all(&next).unwrap();
            std::fs::write(next.join("f"), text).unwrap();
            assert_eq!(swap(&next, &table).unwrap(), expected);
            assert_eq!(std::fs::read_to_string(table.join("f")).unwrap(), text);
        }
        assert_eq!(std::fs::read_to_string(next.join("f")).unwrap(), "one");
    }
}
