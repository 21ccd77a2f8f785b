//! Small files that are never seen half-written, and JSON that is read with the place of what is wrong.

use std::fs::{self, File};
use std::io::{ErrorKind as Io, Write};
use std::path::Path;

use dpone_planner::error::Location;
use dpone_planner::state::hex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// No artifact of a schema change is larger: what is, is another file.
pub(super) const MAX_BYTES: u64 = 16 << 20;

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Pretty JSON that ends with a newline, in the order of the fields.
pub(crate) fn json_bytes<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(document)
        .map_err(|error| Error::internal(format!("an artifact cannot be written as JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Durable before it is visible: after a crash the whole file is there, or the one of before.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    put(path, bytes, true)
}

/// As [`replace`], where no file may be there yet.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    put(path, bytes, false)
}

fn put(path: &Path, bytes: &[u8], over: bool) -> Result<()> {
    let folder = folder_of(path);
    let write = || -> std::io::Result<()> {
        let mut draft = tempfile::Builder::new().prefix(".draft_").suffix(".tmp").tempfile_in(folder)?;
        draft.write_all(bytes)?;
        readable(draft.as_file())?;
        draft.as_file().sync_all()?;
        if over {
            draft.persist(path).map_err(|e| e.error)?;
        } else {
            draft.persist_noclobber(path).map_err(|e| e.error)?;
        }
        File::open(folder)?.sync_all()
    };
    make_folder(folder)?;
    write().map_err(|error| unusable(path, &error))
}

/// Temporary files belong to their owner alone; artifacts are read by others, as far as the folder lets them.
#[cfg(unix)]
fn readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> std::io::Result<()> {
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

pub(super) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| unusable(folder, &error))
}

/// Waits until no other process holds the lock. The system drops it with its holder.
pub(super) fn lock(folder: &Path, name: &str) -> Result<File> {
    make_folder(folder)?;
    let path = folder.join(name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| unusable(&path, &error))?;
    file.lock().map_err(|error| unusable(&path, &error))?;
    Ok(file)
}

/// The file's bytes, or `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(Error::configuration(format!(
                "{}: the file has {} bytes; an artifact of a schema change has at most {MAX_BYTES}",
                path.display(),
                metadata.len()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == Io::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, &error)),
    }
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == Io::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// The document of a file's bytes. Errors name the line, and what is missing or of another type.
pub(super) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        Error::configuration(format!("this is not {what}: {reason}")).at(Location::new(
            path,
            error.line().max(1),
            error.column().max(1),
        ))
    })
}

/// Names of the folder's files that begin and end so, sorted; none where there is no folder.
pub(super) fn names(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == Io::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| unreadable(folder, &error))?.file_name();
        names.extend(name.to_str().filter(|n| n.starts_with(prefix) && n.ends_with(suffix)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// A text as a part of a file's name: what could mean something to a file system becomes `_`.
pub(super) fn file_part(text: &str, longest: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    let part: String = text.chars().take(longest).map(plain).collect();
    // A name does not begin with a dot, and is not nothing.
    let part = part.trim_start_matches('.');
    if part.is_empty() { "_".to_owned() } else { part.to_owned() }
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::configuration(format!("{}: cannot be read: {error}", path.display()))
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::unknown(format!("{}: cannot be written: {error}", path.display()))
        .with_hint("name a folder that can be written to and has room")
}

/// Writes a document of a schema change: `name` as a part of the file's name is made safe.
pub fn write_document<T: Serialize>(
    folder: &Path,
    prefix: &str,
    name: &str,
    document: &T,
) -> Result<std::path::PathBuf> {
    let path = document_path(folder, prefix, name);
    replace(&path, &json_bytes(document)?)?;
    Ok(path)
}

/// `<prefix>_<name>.json`, where everything but letters, digits and dashes of the name is `_`.
pub fn document_path(folder: &Path, prefix: &str, name: &str) -> std::path::PathBuf {
    folder.join(format!("{prefix}_{}.json", file_part(name, 150).replace('.', "_")))
}

/// Reads such a document. Errors name the line.
pub fn read_document<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    match read(path)? {
        Some(bytes) => parse(path, &bytes, what),
        None => Err(Error::configuration(format!("{}: there is no such file", path.display()))),
    }
}
