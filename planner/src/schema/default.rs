//! Defaults of columns: literals and calls without arguments, so that nothing else of what somebody wrote gets into DDL.

use crate::error::{Error, Result};

/// A column's default, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultValue {
    /// As it is written: `0`, `-1.5`, `1e6`.
    Number(String),
    Boolean(bool),
    /// The text itself, without quotes.
    Text(String),
    /// The name of a function without its parentheses, in lower case: `now`, `gen_random_uuid`.
    Call(String),
    /// `CURRENT_TIMESTAMP` and its like, in upper case.
    Keyword(&'static str),
    Null,
}

const KEYWORDS: &[&str] = &["CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME"];

impl DefaultValue {
    /// Reads a default as a catalog prints it: `'new'::character varying`, `0`, `now()`, `(0)`. The column is named in
    /// the error.
    pub fn parse(column: &str, text: &str) -> Result<Self> {
        let mut text = text.trim();
        // SQL Server puts each default in parentheses.
        while let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
            text = inner.trim();
        }
        if let Some(rest) = text.strip_prefix("N'").or_else(|| text.strip_prefix('\'')) {
            return Self::quoted(column, rest);
        }
        let (value, cast) = text.split_once("::").map_or((text, None), |(value, cast)| (value.trim(), Some(cast)));
        if cast.is_some_and(|cast| !is_type_text(cast)) {
            return Err(unreadable(column));
        }
        if let Some(keyword) = KEYWORDS.iter().find(|k| k.eq_ignore_ascii_case(value)) {
            return Ok(Self::Keyword(keyword));
        }
        match value.to_ascii_lowercase().as_str() {
            "null" => return Ok(Self::Null),
            "true" => return Ok(Self::Boolean(true)),
            "false" => return Ok(Self::Boolean(false)),
            _ => {}
        }
        if is_number(value) {
            return Ok(Self::Number(value.to_owned()));
        }
        match value.strip_suffix("()").map(str::trim) {
            Some(name) if is_word(name) => Ok(Self::Call(name.to_ascii_lowercase())),
            _ => Err(unreadable(column)),
        }
    }

    /// What follows the opening quote: the text, its closing quote, and a cast or nothing.
    fn quoted(column: &str, rest: &str) -> Result<Self> {
        let mut text = String::new();
        let mut chars = rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '\'' {
                text.push(c);
                continue;
            }
            if chars.next_if(|(_, next)| *next == '\'').is_some() {
                text.push('\'');
                continue;
            }
            let after = rest[at + 1..].trim();
            return match after.strip_prefix("::").map(str::trim) {
                Some(cast) if is_type_text(cast) => Ok(Self::Text(text)),
                None if after.is_empty() => Ok(Self::Text(text)),
                _ => Err(unreadable(column)),
            };
        }
        Err(unreadable(column))
    }

    /// In standard SQL.
    pub fn sql(&self) -> String {
        match self {
            Self::Number(number) => number.clone(),
            Self::Boolean(value) => value.to_string(),
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Self::Call(name) => format!("{name}()"),
            Self::Keyword(keyword) => (*keyword).to_owned(),
            Self::Null => "NULL".to_owned(),
        }
    }
}

fn unreadable(column: &str) -> Error {
    Error::configuration(format!(
        "column {column:?}: the default is not a number, a text in single quotes, true, false, NULL, or the call of a \
         function without arguments"
    ))
    .with("column", column)
    .with_hint("write a text as 'new', with its quotes; set any other default by hand, after the column is there")
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = digits.split_once(['e', 'E']).map_or((digits, None), |(m, e)| (m, Some(e)));
    let whole = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let mantissa_holds = match mantissa.split_once('.') {
        Some((before, behind)) => {
            (whole(before) || before.is_empty()) && (whole(behind) || behind.is_empty()) && mantissa.len() > 1
        }
        None => whole(mantissa),
    };
    mantissa_holds && exponent.is_none_or(|e| whole(e.strip_prefix(['-', '+']).unwrap_or(e)))
}

/// The name of a function, with its schema or without.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.split('.').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
}

/// What may follow `::`: words, a modifier, brackets. It is dropped: the column has its type.
fn is_type_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_. \"(),[]".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_catalogs_print_is_understood() {
        let parse = |text: &str| DefaultValue::parse("c", text).ok();
        assert_eq!(parse("'new'::character varying"), Some(DefaultValue::Text("new".into())));
        assert_eq!(parse("'it''s'"), Some(DefaultValue::Text("it's".into())));
        assert_eq!(parse("((0))"), Some(DefaultValue::Number("0".into())));
        assert_eq!(parse("'-1'::integer"), Some(DefaultValue::Text("-1".into())));
        assert_eq!(parse("-1.5e3"), Some(DefaultValue::Number("-1.5e3".into())));
        assert_eq!(parse("now()"), Some(DefaultValue::Call("now".into())));
        assert_eq!(parse("current_timestamp"), Some(DefaultValue::Keyword("CURRENT_TIMESTAMP")));
        assert_eq!(parse("NULL::text"), Some(DefaultValue::Null));
    }

    #[test]
    fn nothing_else_gets_into_ddl() {
        for text in [
            "new",
            "'a' || 'b'",
            "0; drop table t",
            "'a'::text; drop table t",
            "f(1)",
            "'open",
            "",
            ".",
            "a b()",
            "1 -- x",
        ] {
            assert!(DefaultValue::parse("c", text).is_err(), "{text}");
        }
    }
}
