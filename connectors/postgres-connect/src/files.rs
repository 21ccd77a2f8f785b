//! The files that libpq reads beside a connection string: service definitions and passwords.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use crate::dsn::Pairs;

/// The keywords of one service: from `PGSERVICEFILE` or `~/.pg_service.conf`, then `PGSYSCONFDIR/pg_service.conf`.
pub(crate) fn service(name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Pairs> {
    let user = env("PGSERVICEFILE").map(PathBuf::from).or_else(|| Some(home(env)?.join(".pg_service.conf")));
    let system = PathBuf::from(env("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned()));
    let files: Vec<PathBuf> = user.into_iter().chain([system.join("pg_service.conf")]).collect();
    for file in &files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        if let Some(found) = service_section(&text, name, file)? {
            return Ok(found);
        }
    }
    let looked: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    Err(Error::new(format!("the service {name:?} is not defined"))
        .with_hint(format!("looked for a section [{name}] in {}", looked.join(" and "))))
}

fn service_section(text: &str, name: &str, file: &Path) -> Result<Option<Pairs>> {
    let mut found: Option<Pairs> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            if section == name {
                found = Some(Pairs::new());
            }
            continue;
        }
        if let Some(found) = &mut found {
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| Error::new(format!("{}:{}: expected keyword=value", file.display(), number + 1)))?;
            // The first value counts, as in libpq.
            found.entry(key.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
        }
    }
    Ok(found)
}

/// The password for one host from `PGPASSFILE` or `~/.pgpass`. A file that others may read is an error where libpq
/// only warns and goes on without the password: the refused login that follows says nothing of the reason.
pub(crate) fn password(
    explicit: Option<&Path>,
    [host, port, database, user]: [&str; 4],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>> {
    let file = match explicit {
        Some(file) => file.to_owned(),
        None => match home(env) {
            Some(home) => home.join(".pgpass"),
            None => return Ok(None),
        },
    };
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
    let found = text.lines().filter(|l| !l.starts_with('#')).find_map(|line| {
        let fields = split_entry(line)?;
        let matches =
            [host, port, database, user].iter().zip(&fields).all(|(want, field)| field == "*" || field == want);
        matches.then(|| fields[4].clone())
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
pub(crate) fn private(file: &Path, what: &str) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = std::fs::metadata(file) else { return Ok(()) };
        let allowed = if metadata.uid() == 0 { 0o740 } else { 0o700 };
        if metadata.mode() & 0o777 & !allowed != 0 {
            return Err(Error::new(format!("the {what} {} can be read by others", file.display()))
                .with_hint(format!("chmod 600 {}", file.display())));
        }
    }
    Ok(())
}

pub(crate) fn home(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    env("HOME").filter(|h| !h.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_matching_line_of_a_password_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        std::fs::write(&file, "# note\ndb:5432:other:me:no\ndb:*:shop:me:se\\:cret\\\\\n*:*:*:*:last\n").unwrap();
        let env = |_: &str| None;
        let open = password(Some(&file), ["db", "5432", "shop", "me"], &env);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert!(open.unwrap_err().hint.unwrap().starts_with("chmod 600"));
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let secret = |of| password(Some(&file), of, &env).unwrap().unwrap();
        assert_eq!(secret(["db", "5432", "shop", "me"]), r"se:cret\");
        assert_eq!(secret(["db2", "5432", "shop", "me"]), "last");
    }

    #[test]
    fn a_service_is_a_section() {
        let text = "# comment\n[other]\nhost=no\n[shop]\nhost=db\nport = 5433\n[after]\nhost=no\n";
        let found = service_section(text, "shop", Path::new("f")).unwrap().unwrap();
        assert_eq!((found["host"].as_str(), found["port"].as_str()), ("db", "5433"));
        assert!(service_section(text, "none", Path::new("f")).unwrap().is_none());
    }
}
