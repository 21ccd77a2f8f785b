//! Models: the files that a step is made of, and what identifies their content.

mod pattern;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What `model_name` holds.
const LONGEST_NAME: usize = 250;

/// One file of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The file's name without its last extension: what identifies a model within its step.
    pub name: String,
    /// SHA-256 of the file's bytes, in hexadecimal: no line ending is touched, so every machine gets the same.
    pub checksum: String,
    pub path: PathBuf,
}

/// Reads the files under `base` that any of the patterns matches, sorted by name.
///
/// Fails where two files share a name, where a name cannot be stored, and where a file cannot be read.
pub fn find_models(base: &Path, patterns: &[String]) -> Result<Vec<Model>> {
    match std::fs::metadata(base) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Error::model(format!("the base path {} is not a folder", base.display()))),
        Err(e) => return Err(Error::model(format!("the base path {} cannot be read: {e}", base.display()))),
    }
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for path in pattern::files(base, patterns)? {
        let name = model_name(&path)?;
        if let Some(other) = models.get(&name) {
            if is_same_file(&path, &other.path) {
                continue;
            }
            return Err(Error::model(format!(
                "two files are the model {name:?}: {} and {}",
                other.path.display(),
                path.display()
            ))
            .with_hint("a model is known by its file name without the extension, which must be unique within a step"));
        }
        let checksum = checksum(&path)?;
        tracing::debug!("model {name}: {} has sha256 {checksum}", path.display());
        models.insert(name.clone(), Model { name, checksum, path });
    }
    Ok(models.into_values().collect())
}

/// One file, reached by two spellings of its path.
fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn model_name(path: &Path) -> Result<String> {
    let refused = |why: &str| Error::model(format!("{} cannot be a model: {why}", path.display()));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| refused("its name is not UTF-8"))?;
    let stem = stem(name);
    if stem.chars().any(char::is_control) {
        return Err(refused("its name has a control character in it").with_hint("rename the file"));
    }
    if stem.chars().count() > LONGEST_NAME {
        return Err(refused(&format!("its name has more than {LONGEST_NAME} characters")));
    }
    Ok(stem.to_owned())
}

/// As Python's pathlib cuts it, so that names in an existing ledger stay what they are: a dot at either end is no
/// extension.
fn stem(name: &str) -> &str {
    match name.rfind('.') {
        Some(dot) if dot > 0 && dot + 1 < name.len() => &name[..dot],
        _ => name,
    }
}

fn checksum(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| Error::model(format!("the model {} cannot be read: {e}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn find(base: &Path, patterns: &[&str]) -> Result<Vec<Model>> {
        find_models(base, &patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_name_loses_its_last_extension_alone() {
        for (name, want) in [("a.sql", "a"), ("a.b.sql", "a.b"), (".hidden", ".hidden"), ("a.", "a."), ("a", "a")] {
            assert_eq!(stem(name), want);
        }
    }

    #[test]
    fn a_checksum_is_of_the_bytes_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("unix.sql"), "select 1\n").unwrap();
        std::fs::write(dir.path().join("windows.sql"), "select 1\r\n").unwrap();
        std::fs::write(dir.path().join("empty.sql"), "").unwrap();
        let sums: Vec<_> = find(dir.path(), &["*.sql"]).unwrap().into_iter().map(|m| (m.name, m.checksum)).collect();
        // As `sha256sum` prints them.
        let want = [
            ("empty", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("unix", "8903abffd68710879da59014708c6187f8e839fadc2bdf94ae73a036aa591623"),
            ("windows", "1c5836e195e79f745ae3d114a279cf7c4a157ff7146c838736adea274c42f97a"),
        ];
        assert_eq!(sums, want.map(|(name, sum)| (name.to_owned(), sum.to_owned())));
    }

    #[test]
    fn two_files_of_one_name_are_both_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("a.sql"), "1").unwrap();
        std::fs::write(dir.path().join("sub/a.json"), "1").unwrap();
        let error = find(dir.path(), &["**/*"]).unwrap_err().to_string();
        assert!(error.contains("a.sql") && error.contains("sub/a.json"), "{error}");
        // One file that two patterns match is one model.
        assert_eq!(find(dir.path(), &["*.sql", "./a.*", "**/*.sql"]).unwrap().len(), 1);
    }

    #[test]
    fn a_base_path_is_a_folder_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(find(&dir.path().join("file"), &["*"]).unwrap_err().to_string().contains("not a folder"));
        assert!(find(&dir.path().join("none"), &["*"]).unwrap_err().to_string().contains("cannot be read"));
    }

    #[cfg(unix)]
    #[test]
    fn names_that_cannot_be_stored_are_refused() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &[u8], why: &str| {
            let path = dir.path().join(std::ffi::OsStr::from_bytes(name));
            std::fs::write(&path, "").unwrap();
            let error = find(dir.path(), &["*.sql"]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            std::fs::remove_file(path).unwrap();
        };
        refused(b"caf\xe9.sql", "not UTF-8");
        refused(b"a\nb.sql", "control character");
        refused(format!("{}.sql", "x".repeat(251)).as_bytes(), "250 characters");
    }
}
