//! Keys and engines as the server prints them: taken apart without knowing their expressions.

use dpone_planner::type_name::unquoted;

/// The characters of a text that are outside of quotes, each with where it is and how many brackets are open around it;
/// of a bracket, around what it encloses.
fn outside(text: &str) -> impl Iterator<Item = (usize, i32, char)> {
    let (mut depth, mut quoted, mut escaped) = (0, None, false);
    text.char_indices().filter_map(move |(at, c)| {
        match (quoted, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(quote), c) if c == quote => quoted = None,
            (Some(_), _) => {}
            (None, '\'' | '`' | '"') => quoted = Some(c),
            (None, '(' | '[' | '{') => {
                depth += 1;
                return Some((at, depth, c));
            }
            (None, ')' | ']' | '}') => {
                depth -= 1;
                return Some((at, depth + 1, c));
            }
            (None, c) => return Some((at, depth, c)),
        }
        None
    })
}

/// Whether the text ends with settings: outside of quotes and parentheses.
pub(super) fn has_settings(definition: &str) -> bool {
    outside(definition).any(|(at, depth, c)| depth == 0 && c == 'S' && definition[at..].starts_with("SETTINGS "))
}

/// Where the parenthesis closes that was open before the text.
pub(super) fn closing(text: &str) -> Option<usize> {
    outside(text).find(|(_, depth, c)| *depth == 0 && *c == ')').map(|(at, ..)| at)
}

/// What stands between marks that are outside of quotes and brackets.
pub(super) fn parts(text: &str, mark: char) -> Vec<&str> {
    let mut begin = 0;
    let mut parts = Vec::new();
    for (at, ..) in outside(text).filter(|(_, depth, c)| *depth == 0 && *c == mark) {
        parts.push(text[begin..at].trim());
        begin = at + mark.len_utf8();
    }
    parts.push(text[begin..].trim());
    parts
}

/// The parts of a key as the server prints it: `a, toYYYYMM(b)`.
pub(crate) fn split_key(text: &str) -> Vec<String> {
    let mut parts = parts(text, ',');
    parts.pop_if(|last| last.is_empty());
    // A key in parentheses, as some versions print a tuple.
    match parts.as_slice() {
        [one] if one.starts_with('(') && closing(&one[1..]) == Some(one.len() - 2) => split_key(&one[1..one.len() - 1]),
        parts => parts.iter().map(|part| (*part).to_owned()).collect(),
    }
}

/// The column's name where a part of a key is one.
pub(crate) fn plain(part: &str) -> Option<String> {
    if part.starts_with('`') {
        return unquoted(part, '`');
    }
    let word = part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (word && !part.is_empty() && !part.starts_with(|c: char| c.is_ascii_digit())).then(|| part.to_owned())
}

/// Whether a part of a key as a definition writes it, names as they are or quoted, is one that the server prints.
pub(super) fn is_part(asked: &str, there: &str) -> bool {
    if let Some(name) = plain(there) {
        return asked == name || plain(asked) == Some(name);
    }
    let call = |part: &str| {
        let (function, of) = part.split_once('(')?;
        Some((function.trim().to_owned(), of.trim_end().strip_suffix(')')?.trim().to_owned()))
    };
    match (call(asked), call(there)) {
        (Some((f, asked)), Some((g, there))) => f == g && is_part(&asked, &there),
        _ => asked == there,
    }
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
        assert_eq!(split_key("'it\\'s, \\\\', ['a, b', (c)]"), ["'it\\'s, \\\\'", "['a, b', (c)]"]);
        assert_eq!(closing("a, (b), ')') ORDER BY x)"), Some(11));
        assert!(has_settings(" ORDER BY `SETTINGS x` SETTINGS a = 1") && !has_settings(" ORDER BY `SETTINGS x`"));
        assert_eq!(plain("`c, d`").as_deref(), Some("c, d"));
        assert_eq!(plain(r"`a\`b\\\nc\x0ad`").as_deref(), Some("a`b\\\nc\nd"));
        assert_eq!((plain("toDate(a)"), plain("`a`, `b`")), (None, None));
        for (asked, there) in [("a", "a"), ("`a`", "a"), ("a b", "`a b`"), ("a`b", r"`a\`b`"), ("a (b)", "`a (b)`")] {
            assert!(is_part(asked, there), "{asked} {there}");
            assert!(is_part(&format!("toDate({asked})"), &format!("toDate({there})")), "{asked} {there}");
        }
        assert!(!is_part("ab", "`a b`") && !is_part("a", "toDate(a)") && !is_part("toYear(a)", "toDate(a)"));
    }
}
