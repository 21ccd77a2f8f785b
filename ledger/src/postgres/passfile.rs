//! libpq's password file, and what is expected of files that hold secrets.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The password for one host from the named file or `~/.pgpass`. A file that others may read is an error where libpq
/// only warns and goes on without the password: the refused login that follows says nothing of the reason.
pub(super) fn password(
    explicit: Option<&Path>,
    [host, port, database, user]: [&str; 4],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>> {
    let Some(file) = explicit.map(Path::to_owned).or_else(|| Some(home(env)?.join(".pgpass"))) else {
        return Ok(None);
    };
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
    let found = text.lines().filter(|l| !l.starts_with('#')).find_map(|line| {
        let [h, p, d, u, password] = split_entry(line)?;
        let matches = [(host, h), (port, p), (database, d), (user, u)];
        matches.iter().all(|(want, field)| field == "*" || field == want).then_some(password)
    });
    if found.is_some() {
        private(&file, "password file")?;
    }
    Ok(found)
}

/// `host:port:database:user:password`, with `\:` and `\\` for the characters themselves.
fn split_entry(line: &str) -> Option<[String; 5]> {
    let mut fields: [String; 5] = Default::default();
    let mut index = 0;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => fields[index].extend(chars.next()),
            ':' if index < 4 => index += 1,
            c => fields[index].push(c),
        }
    }
    (index == 4).then_some(fields)
}

/// Fails when others may read a file that holds a secret. A key of root's may be readable for its group, as in libpq.
pub(super) fn private(file: &Path, what: &str) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = std::fs::metadata(file) else { return Ok(()) };
        let allowed = if metadata.uid() == 0 { 0o740 } else { 0o700 };
        if metadata.mode() & 0o777 & !allowed != 0 {
            return Err(Error::usage(format!("the {what} {} can be read by others", file.display()))
                .with_hint(format!("chmod 600 {}", file.display())));
        }
    }
    Ok(())
}

pub(super) fn home(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    env("HOME").filter(|h| !h.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_first_matching_line_counts_and_others_must_not_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        std::fs::write(&file, "# note\ndb:5432:other:me:no\ndb:*:shop:me:se\\:cret\\\\\n*:*:*:*:last\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let get = |of| password(Some(&file), of, &|_| None);
        assert!(get(["db", "5432", "shop", "me"]).unwrap_err().hint().unwrap().starts_with("chmod 600"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(get(["db", "5432", "shop", "me"]).unwrap().unwrap(), r"se:cret\");
        assert_eq!(get(["db2", "5432", "shop", "me"]).unwrap().unwrap(), "last");
    }
}
