//! placeholder
/// `CamelCase`, spaces and other signs become small letters with underscores: the filter `dpone_snake`.
pub(super) fn snake(text: &str) -> String {
    let mut out = String::new();
    let mut previous: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_alphanumeric() {
            let after_small = previous.is_some_and(|p| p.is_ascii_lowercase() || p.is_ascii_digit());
            let ends_capitals =
                previous.is_some_and(|p| p.is_ascii_uppercase()) && chars.peek().is_some_and(char::is_ascii_lowercase);
            if c.is_ascii_uppercase() && (after_small || ends_capitals) && !out.ends_with('_') {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        previous = Some(c);
    }
    out.trim_end_matches('_').to_owned()
}
