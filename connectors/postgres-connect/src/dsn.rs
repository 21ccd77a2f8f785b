//! Connection strings: `postgres://…` URLs and libpq's `key=value` form, read into libpq's keywords.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::keywords::PARAMETERS;

/// libpq's keywords and their values.
pub(crate) type Pairs = BTreeMap<String, String>;

/// Reads either form. Errors never repeat the text: it may hold a password.
pub(crate) fn parse(text: &str) -> Result<Pairs> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        return url(rest);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(Error::new(format!("the connection URL has the scheme {scheme:?}"))
            .with_hint("expected postgres://user@host:port/database, or libpq's key=value form"));
    }
    pairs(text)
}

/// `user:password@host:port,host:port/database?key=value`, every part optional and percent-encoded.
fn url(rest: &str) -> Result<Pairs> {
    let mut found = Pairs::new();
    let (rest, query) = match rest.split_once('?') {
        // Half a password would be taken for a host or a parameter, which are shown.
        Some((before, after)) if !before.contains('@') && after.contains('@') && !starts_with_parameter(after) => {
            return Err(Error::new("the connection URL has a ? before its @")
                .with_hint("write a ? in a user name or a password as %3F"));
        }
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    // A password may hold an unescaped slash or at sign: credentials end at the last at sign of the authority.
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
    let (hosts, database) = match rest.split_once('/') {
        Some((hosts, database)) => (hosts, decode(database)?),
        None => (rest, String::new()),
    };
    insert(&mut found, "dbname", &database);
    if !hosts.is_empty() {
        let mut names = Vec::new();
        let mut ports = Vec::new();
        for host in hosts.split(',') {
            let (name, port) = host_port(host)?;
            names.push(decode(name)?);
            ports.push(port.to_owned());
        }
        insert(&mut found, "host", &names.join(","));
        if ports.iter().any(|p| !p.is_empty()) {
            insert(&mut found, "port", &ports.join(","));
        }
    }
    for pair in query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Error::new("the connection URL has a parameter without a value")
                .with_hint("parameters are written ?key=value&key=value")
        })?;
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling, which libpq understands too.
        match (key.as_str(), value.as_str()) {
            ("ssl", "true") => insert(&mut found, "sslmode", "require"),
            _ => insert(&mut found, &key, &value),
        }
    }
    Ok(found)
}

fn starts_with_parameter(query: &str) -> bool {
    query.split_once('=').is_some_and(|(key, _)| PARAMETERS.contains(&key))
}

fn host_port(host: &str) -> Result<(&str, &str)> {
    if let Some(inner) = host.strip_prefix('[') {
        let (address, rest) = inner
            .split_once(']')
            .ok_or_else(|| Error::new("the connection URL has an IPv6 address without its closing ]"))?;
        return Ok((address, rest.strip_prefix(':').unwrap_or_default()));
    }
    Ok(host.rsplit_once(':').unwrap_or((host, "")))
}

fn insert(found: &mut Pairs, key: &str, value: &str) {
    if !value.is_empty() {
        found.insert(key.to_owned(), value.to_owned());
    }
}

fn decode(text: &str) -> Result<String> {
    let invalid = || {
        Error::new("the connection URL has an invalid percent escape")
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

/// `key = value key='quoted \' value'`
fn pairs(text: &str) -> Result<Pairs> {
    let mut found = Pairs::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(found);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(Error::new("the connection string has a keyword without = after it")
                .with_hint("expected a postgres:// URL, or key=value pairs separated by spaces"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => {
                    return Err(Error::new("the connection string has an unterminated quote"));
                }
                None => break,
            }
        }
        insert(&mut found, &key, &value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn get(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().collect()
    }

    fn want(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn urls_read_like_libpq_reads_them() {
        assert_eq!(
            get("postgres://me:p%40ss@db1:5433,[::1]/shop?sslmode=verify-full&application_name=x%20y"),
            want(&[
                ("application_name", "x y"),
                ("dbname", "shop"),
                ("host", "db1,::1"),
                ("password", "p@ss"),
                ("port", "5433,"),
                ("sslmode", "verify-full"),
                ("user", "me"),
            ])
        );
        assert_eq!(
            get("postgresql:///shop?host=/tmp&port=5555"),
            want(&[("dbname", "shop"), ("host", "/tmp"), ("port", "5555"),])
        );
        assert_eq!(get("postgres://h/x?user=me@azure"), want(&[("dbname", "x"), ("host", "h"), ("user", "me@azure")]));
        assert_eq!(get("postgres://%2Fvar%2Frun/x"), want(&[("dbname", "x"), ("host", "/var/run")]));
        assert_eq!(get("postgres://"), want(&[]));
    }

    #[test]
    fn pairs_read_like_libpq_reads_them() {
        assert_eq!(
            get(r"host = /tmp  user=me password='a \' b\\' dbname=x"),
            want(&[("dbname", "x"), ("host", "/tmp"), ("password", r"a ' b\"), ("user", "me")])
        );
    }

    #[test]
    fn errors_keep_the_text_to_themselves() {
        assert!(parse("postgres://me:12?34@host/d").unwrap_err().to_string().contains("before its @"));
        for text in [
            "postgres://me:hunter2%zz@h/d",
            "postgres://me:hunter2?x@h/d",
            "postgres://me:1?hunter2=x@h/d",
            "mysql://me:hunter2@h",
            "hunter2",
            "a='hunter2",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
