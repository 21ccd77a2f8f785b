//! What stands after `postgresql://`, read into libpq's keywords as libpq and SQLAlchemy read it.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// libpq's keywords and their values.
pub(super) type Keywords = BTreeMap<String, String>;

/// `user:password@host:port,host:port/database?key=value`, every part optional and percent-encoded. Errors never repeat
/// the text: it may hold a password.
pub(super) fn parse(rest: &str) -> Result<Keywords> {
    let mut found = Keywords::new();
    let (rest, query) = match rest.split_once('?') {
        // Half a password would be taken for a port, and a host that is shown.
        Some((before, after)) if !before.contains('@') && after.contains('@') && !after.contains('=') => {
            return Err(Error::usage("the connection string has a ? before its @")
                .with_hint("write a ? in a user name or a password as %3F"));
        }
        Some((before, after)) => (before, Some(after)),
        None => (rest, None),
    };
    // A password may hold an unescaped slash or at sign: credentials end at the last at sign before the parameters.
    let (credentials, rest) = match rest.rfind('@') {
        Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    };
    if let Some(credentials) = credentials {
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        insert(&mut found, "user", &decode(user)?);
        if let Some(password) = password {
            insert(&mut found, "password", &decode(password)?);
        }
    }
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    insert(&mut found, "dbname", &decode(database)?);
    insert_hosts(&mut found, hosts)?;
    for pair in query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Error::usage("the connection string has a parameter without a value")
                .with_hint("parameters are written ?key=value&key=value")
        })?;
        insert(&mut found, &decode(key)?, &decode(value)?);
    }
    Ok(found)
}

fn insert_hosts(found: &mut Keywords, hosts: &str) -> Result<()> {
    if hosts.is_empty() {
        return Ok(());
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_port(host)?;
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    insert(found, "host", &names.join(","));
    if ports.iter().any(|p| !p.is_empty()) {
        insert(found, "port", &ports.join(","));
    }
    Ok(())
}

fn host_port(host: &str) -> Result<(&str, &str)> {
    if let Some(inner) = host.strip_prefix('[') {
        let (address, rest) = inner
            .split_once(']')
            .ok_or_else(|| Error::usage("the connection string has an IPv6 address without its closing ]"))?;
        return Ok((address, rest.strip_prefix(':').unwrap_or_default()));
    }
    Ok(host.rsplit_once(':').unwrap_or((host, "")))
}

fn insert(found: &mut Keywords, key: &str, value: &str) {
    if !value.is_empty() {
        found.insert(key.to_owned(), value.to_owned());
    }
}

fn decode(text: &str) -> Result<String> {
    let invalid = || {
        Error::usage("the connection string has an invalid percent escape")
            .with_hint("write a literal % in a password as %25")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(invalid)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| invalid())?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_part_is_optional_and_percent_encoded() {
        let get = |text| parse(text).unwrap().into_iter().collect::<Vec<_>>();
        let want =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>();
        assert_eq!(
            get("me:p%40s/s@db1:5433,[::1]/shop?sslmode=verify-full"),
            want(&[
                ("dbname", "shop"),
                ("host", "db1,::1"),
                ("password", "p@s/s"),
                ("port", "5433,"),
                ("sslmode", "verify-full"),
                ("user", "me"),
            ])
        );
        assert_eq!(get("/shop?host=/tmp&user=u"), want(&[("dbname", "shop"), ("host", "/tmp"), ("user", "u")]));
        assert_eq!(get("%2Fvar%2Frun/x"), want(&[("dbname", "x"), ("host", "/var/run")]));
        assert_eq!(get(""), want(&[]));
    }

    #[test]
    fn half_a_password_is_never_a_port() {
        assert!(parse("me:12?34@host/d").unwrap_err().to_string().contains("before its @"));
        assert!(parse("u@h/d?x").is_err());
        assert!(parse("u@[::1/d").is_err());
    }
}
