//! Unix globs, relative to a base path: which files a step's patterns mean.
//!
//! `*`, `?` and `[…]` match within one name, leading dots included, and `**` any number of folders. `**` does not follow
//! symbolic links to folders, so no loop of links can hold it; a link that a pattern names is followed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use crate::error::{Error, Result};

/// The files that any of the patterns matches, in the order of their paths.
pub(super) fn files(base: &Path, patterns: &[String]) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for pattern in patterns {
        let mut found = BTreeSet::new();
        let relative = relative_to(base, pattern)?;
        // What a shell has expanded already is a file's name, whatever characters are in it.
        let literal = base.join(&relative);
        if literal.is_file() {
            found.insert(literal);
        } else {
            walk(base, &parts(&relative, pattern)?, &mut found)?;
        }
        if found.is_empty() {
            tracing::warn!("the pattern {pattern:?} matches no file under {}", base.display());
        }
        all.extend(found);
    }
    Ok(all)
}

/// The pattern below the base path, with its own `.` removed. A pattern that starts with the base path itself, as one
/// does that a shell expanded, is meant from there, unless the base path holds such a folder.
fn relative_to(base: &Path, pattern: &str) -> Result<String> {
    if pattern.is_empty() {
        return Err(Error::usage("a model pattern is empty").with_hint("expected a glob such as **/*.sql"));
    }
    let given = names(Path::new(pattern));
    if Path::new(pattern).is_absolute() {
        let absolute = std::path::absolute(base)
            .map_err(|e| Error::model(format!("the base path {} cannot be read: {e}", base.display())))?;
        return given.strip_prefix(&*names(&absolute)).map(|rest| rest.join("/")).ok_or_else(|| {
            Error::usage(format!("the pattern {pattern:?} is absolute, and not under the base path {}", base.display()))
                .with_hint("patterns are relative to the base path")
        });
    }
    let prefix = names(base);
    let rest = match given.strip_prefix(&*prefix) {
        Some(rest) if !prefix.is_empty() && !rest.is_empty() && !base.join(prefix.join("/")).is_dir() => rest,
        _ => &given,
    };
    Ok(rest.join("/"))
}

fn names(path: &Path) -> Vec<String> {
    path.components()
        .filter(|c| !matches!(c, Component::CurDir | Component::RootDir))
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .collect()
}

enum Part {
    /// A name without anything to match: looked up, not searched for.
    Name(String),
    Match(Pattern),
    /// `**`
    Folders,
}

fn parts(relative: &str, pattern: &str) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for name in relative.split('/').filter(|name| !name.is_empty()) {
        if name == "**" {
            if !matches!(parts.last(), Some(Part::Folders)) {
                parts.push(Part::Folders);
            }
        } else if name.contains(['*', '?', '[']) {
            parts.push(Part::Match(compile(name, pattern)?));
        } else {
            parts.push(Part::Name(name.to_owned()));
        }
    }
    // `**` alone means every file below.
    if matches!(parts.last(), Some(Part::Folders)) {
        parts.push(Part::Match(compile("*", pattern)?));
    }
    Ok(parts)
}

fn compile(name: &str, pattern: &str) -> Result<Pattern> {
    Pattern::new(name).map_err(|e| {
        Error::usage(format!("the pattern {pattern:?} is not a glob: {}", e.msg))
            .with_hint("** stands alone between slashes, and [ needs its ]")
    })
}

fn walk(folder: &Path, parts: &[Part], found: &mut BTreeSet<PathBuf>) -> Result<()> {
    match parts {
        [] => {}
        [Part::Name(name)] => take(folder.join(name), found)?,
        [Part::Name(name), rest @ ..] => {
            let next = folder.join(name);
            if next.is_dir() {
                walk(&next, rest, found)?;
            }
        }
        [Part::Match(pattern), rest @ ..] => {
            for name in entries(folder)? {
                let path = folder.join(&name);
                // A name that is not UTF-8 is matched as it is shown, so that it is refused and not left out.
                if !pattern.matches(&name.to_string_lossy()) {
                    continue;
                }
                if rest.is_empty() {
                    take(path, found)?;
                } else if path.is_dir() {
                    walk(&path, rest, found)?;
                }
            }
        }
        [Part::Folders, rest @ ..] => {
            walk(folder, rest, found)?;
            for name in entries(folder)? {
                let path = folder.join(name);
                if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                    walk(&path, parts, found)?;
                }
            }
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<OsString>> {
    let failed = |e: std::io::Error| Error::model(format!("the folder {} cannot be read: {e}", folder.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

/// Folders, pipes and the like are no models. A link to nothing would be a model that vanished without a word.
fn take(path: PathBuf, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {
            found.insert(path);
        }
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if path.symlink_metadata().is_ok() {
                return Err(Error::model(format!("{} is a symbolic link to nothing", path.display()))
                    .with_hint("restore what it points to, or remove the link"));
            }
        }
        Err(e) => return Err(Error::model(format!("{} cannot be read: {e}", path.display()))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    /// What the patterns match, as paths below the base.
    fn below(base: &Path, patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let found = files(base, &patterns).unwrap();
        found.iter().map(|f| f.strip_prefix(base).unwrap().display().to_string()).collect()
    }

    #[test]
    fn globs_match_as_in_a_shell() {
        let dir = tree(&["a.sql", "b.json", ".c.sql", "x/d.sql", "x/y/e.sql", "x/y/f.csv", "x.sql/g.txt"]);
        let base = dir.path();
        assert_eq!(below(base, &["*.sql"]), [".c.sql", "a.sql"]);
        assert_eq!(below(base, &["**/*.sql"]), [".c.sql", "a.sql", "x/d.sql", "x/y/e.sql"]);
        assert_eq!(below(base, &["./x/**/*.sql"]), ["x/d.sql", "x/y/e.sql"]);
        assert_eq!(below(base, &["x/**/**/y/*"]), ["x/y/e.sql", "x/y/f.csv"]);
        assert_eq!(below(base, &["[ab].*", "?/d.sql"]), ["a.sql", "b.json", "x/d.sql"]);
        assert_eq!(below(base, &["[!a].json"]), ["b.json"]);
        assert_eq!(below(base, &["x/**"]), ["x/d.sql", "x/y/e.sql", "x/y/f.csv"]);
        assert_eq!(below(base, &["x/y/f.csv", "none/*.sql", "none.sql"]), ["x/y/f.csv"]);
        assert_eq!(below(&base.join("x"), &["../*.json"]), ["../b.json"]);
    }

    #[test]
    fn a_pattern_may_start_with_the_base_path() {
        let dir = tree(&["a.sql", "x/b.sql", "[1].sql", "1.sql"]);
        let base = dir.path();
        let absolute = |pattern: &str| base.join(pattern).display().to_string();
        assert_eq!(below(base, &[&absolute("*.sql")]), ["1.sql", "[1].sql", "a.sql"]);
        assert_eq!(below(base, &[&absolute("x/b.sql")]), ["x/b.sql"]);
        // A file that is there is meant, whatever its name looks like.
        assert_eq!(below(base, &["[1].sql"]), ["[1].sql"]);
        let refused = files(base, &["/somewhere/*.sql".to_owned()]).unwrap_err().to_string();
        assert!(refused.contains("not under the base path"), "{refused}");
    }

    #[test]
    fn a_relative_base_path_is_taken_off_unless_it_is_a_folder_below_itself() {
        let dir = tree(&["models/a.sql", "both/b.sql", "both/both/c.sql"]);
        // Relative to a folder whose relative name is known: `relative_to` never opens anything else.
        let strip = |base: &str, pattern: &str| relative_to(Path::new(base), pattern).unwrap();
        assert_eq!(strip("./no/such", "no/such/**/*.sql"), "**/*.sql");
        assert_eq!(strip("no/such/", "./no/such/a.sql"), "a.sql");
        assert_eq!(strip("no/such", "no/suchlike/a.sql"), "no/suchlike/a.sql");
        assert_eq!(strip(".", "a.sql"), "a.sql");
        let both = dir.path().join("both");
        assert_eq!(below(&both, &["both/*.sql"]), ["both/c.sql"]);
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        for pattern in ["", "a**/x", "[a"] {
            assert!(files(Path::new("/"), &[pattern.to_owned()]).is_err(), "{pattern}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_where_they_are_named_and_never_round_in_circles() {
        use std::os::unix::fs::symlink;
        let dir = tree(&["real/a.sql", "other/b.sql"]);
        let base = dir.path();
        symlink("..", base.join("real/loop")).unwrap();
        symlink("../other", base.join("real/linked")).unwrap();
        symlink("a.sql", base.join("real/c.sql")).unwrap();
        assert_eq!(below(base, &["real/**/*.sql"]), ["real/a.sql", "real/c.sql"]);
        assert_eq!(below(base, &["real/linked/*.sql"]), ["real/linked/b.sql"]);
        symlink("gone", base.join("real/d.sql")).unwrap();
        let error = files(base, &["**/*.sql".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("real/d.sql is a symbolic link to nothing"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tree(&[]);
        // Readable for nobody, root included: reading at offset 0 is an error.
        std::os::unix::fs::symlink("/proc/self/mem", dir.path().join("a.sql")).unwrap();
        let error = super::super::find_models(dir.path(), &["*.sql".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("a.sql cannot be read"), "{error}");
    }
}
