//! Keys and engines as the server prints them: taken apart without knowing their expressions.

/// Whether the text ends with settings: outside of quotes and parentheses.
pub(super) fn has_settings(definition: &str) -> bool {
    let bytes = definition.as_bytes();
    let (mut depth, mut quoted, mut i) = (0i32, None, 0);
    while i < bytes.len() {
        match (quoted, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(q), c) if c == q => quoted = None,
            (None, c @ (b'\'' | b'`' | b'"')) => quoted = Some(c),
            (None, b'(') => depth += 1,
            (None, b')') => depth -= 1,
            (None, b'S') if depth == 0 && definition[i..].starts_with("SETTINGS ") => return true,
            _ => {}
        }
        i += 1;
    }
    false
}

/// Where the parenthesis closes that was open before the text.
pub(super) fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0, None, false);
    for (i, c) in text.char_indices() {
        match quoted {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quoted = None,
            Some(_) => {}
            None => match c {
                '\'' | '`' | '"' => quoted = Some(c),
                '(' => depth += 1,
                ')' if depth == 0 => return Some(i),
                ')' => depth -= 1,
                _ => {}
            },
        }
    }
    None
}

/// The parts of a key as the server prints it: `a, toYYYYMM(b)`.
pub(crate) fn split_key(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let (mut depth, mut quoted, mut escaped, mut begin) = (0, None, false, 0);
    for (i, c) in text.char_indices() {
        match quoted {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quoted = None,
            Some(_) => {}
            None => match c {
                '\'' | '`' | '"' => quoted = Some(c),
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(text[begin..i].trim().to_owned());
                    begin = i + 1;
                }
                _ => {}
            },
        }
    }
    let last = text[begin..].trim();
    if !last.is_empty() {
        parts.push(last.to_owned());
    }
    // A key in parentheses, as some versions print a tuple.
    match parts.as_slice() {
        [one] if one.starts_with('(') && closing(&one[1..]) == Some(one.len() - 2) => split_key(&one[1..one.len() - 1]),
        _ => parts,
    }
}

/// The column's name where a part of a key is one.
pub(crate) fn plain(part: &str) -> Option<String> {
    if let Some(inside) = part.strip_prefix('`').and_then(|p| p.strip_suffix('`')) {
        let name = inside.replace("\\`", "`").replace("\\\\", "\\");
        return Some(name);
    }
    let word = part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (word && !part.is_empty() && !part.starts_with(|c: char| c.is_ascii_digit())).then(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_as_the_server_prints_them() {
        assert_eq!(split_key("a, toYYYYMM(b, 'x, y'), `c, d`"), ["a", "toYYYYMM(b, 'x, y')", "`c, d`"]);
        assert_eq!(split_key("(a, b)"), ["a", "b"]);
        assert_eq!(split_key("(a), (b)"), ["(a)", "(b)"]);
        assert!(split_key("").is_empty());
        assert_eq!(plain("`c, d`").as_deref(), Some("c, d"));
        assert_eq!(plain("toDate(a)"), None);
    }
}
