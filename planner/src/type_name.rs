//! The name of a type as systems write it, taken apart: `Nullable(Decimal(18, 2))`, `Enum8('a' = 1)`,
//! `ARRAY<STRUCT<a INT64>>`, `timestamp(3) with time zone`. What the words mean is each dialect's own.

/// Types nest no deeper than this in any system that we read.
const DEEPEST: usize = 64;
/// Enumerations have tens of thousands of labels.
const LONGEST: usize = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeName {
    /// As written, words apart by one blank: `Decimal`, `double precision`.
    pub base: String,
    /// What stands in parentheses or angle brackets.
    pub arguments: Vec<Argument>,
    /// Words behind the arguments: `with time zone`.
    pub rest: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    Number(i64),
    Text(String),
    /// `'a' = 1`
    Label(String, i64),
    /// A type, or a field of one: `a Int64`.
    Type {
        name: Option<String>,
        of: TypeName,
    },
}

impl TypeName {
    /// `None` where the text is anything else than the name of a type.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let mut parser = Parser { rest: text, depth: 0 };
        let words = parser.words();
        let name = parser.type_name(words)?;
        parser.blanks();
        parser.rest.is_empty().then_some(name)
    }

    /// The base in lower case.
    pub fn lower(&self) -> String {
        self.base.to_ascii_lowercase()
    }

    /// The arguments, where all of them are numbers.
    pub fn numbers(&self) -> Option<Vec<i64>> {
        self.arguments
            .iter()
            .map(|argument| match argument {
                Argument::Number(number) => Some(*number),
                _ => None,
            })
            .collect()
    }

    /// The only argument, where it is a type.
    pub fn inner(&self) -> Option<&TypeName> {
        match self.arguments.as_slice() {
            [Argument::Type { name: None, of }] => Some(of),
            _ => None,
        }
    }
}

/// What stands in quotes, where the text is that and no more.
pub fn unquoted(text: &str, quote: char) -> Option<String> {
    let mut parser = Parser { rest: text.strip_prefix(quote).map(|_| text)?, depth: 0 };
    parser.quoted(quote).filter(|_| parser.rest.is_empty())
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, c: char) -> bool {
        self.blanks();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> Option<String> {
        self.blanks();
        let starts = self.rest.starts_with(|c: char| c == '_' || c.is_alphabetic());
        let end = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if !starts {
            return None;
        }
        self.rest = rest;
        Some(word.to_owned())
    }

    fn words(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.word()).collect()
    }

    fn type_name(&mut self, words: Vec<String>) -> Option<TypeName> {
        self.depth += 1;
        if words.is_empty() || self.depth > DEEPEST {
            return None;
        }
        let mut arguments = Vec::new();
        let close = if self.take('(') {
            Some(')')
        } else if self.take('<') {
            Some('>')
        } else {
            None
        };
        if let Some(close) = close
            && !self.take(close)
        {
            loop {
                arguments.push(self.argument()?);
                if self.take(close) {
                    break;
                }
                if !self.take(',') {
                    return None;
                }
            }
        }
        let rest = if close.is_some() { self.words().join(" ") } else { String::new() };
        self.depth -= 1;
        Some(TypeName { base: words.join(" "), arguments, rest })
    }

    fn argument(&mut self) -> Option<Argument> {
        self.blanks();
        if self.rest.starts_with('\'') {
            let text = self.quoted('\'')?;
            return Some(if self.take('=') { Argument::Label(text, self.number()?) } else { Argument::Text(text) });
        }
        if self.rest.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return Some(Argument::Number(self.number()?));
        }
        let (name, words) = if self.rest.starts_with('`') {
            (Some(self.quoted('`')?), self.words())
        } else {
            let mut words = self.words();
            // Two words are a field's name and its type.
            let named = words.len() > 1;
            (named.then(|| words.remove(0)), words)
        };
        Some(Argument::Type { name, of: self.type_name(words)? })
    }

    fn number(&mut self) -> Option<i64> {
        self.blanks();
        let end = self.rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits.parse().ok()
    }

    /// A quote is doubled or follows a backslash.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.push(match chars.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '0' => '\0',
                    'a' => '\x07',
                    'b' => '\x08',
                    'v' => '\x0b',
                    'f' => '\x0c',
                    'e' => '\x1b',
                    'x' => {
                        let high = chars.next()?.1.to_digit(16)?;
                        let low = chars.next()?.1.to_digit(16)?;
                        // A byte of a longer character has no character of its own.
                        char::from_u32(high << 4 | low).filter(char::is_ascii)?
                    }
                    other => other,
                }),
                c if c == quote => {
                    if chars.next_if(|(_, next)| *next == quote).is_none() {
                        self.rest = &self.rest[at + 1..];
                        return Some(text);
                    }
                    text.push(quote);
                }
                c => text.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let decimal = TypeName::parse(" Nullable( Decimal(18, 2) ) ").unwrap();
        let inner = decimal.inner().unwrap();
        assert_eq!(
            (decimal.base.as_str(), inner.base.as_str(), inner.numbers()),
            ("Nullable", "Decimal", Some(vec![18, 2]))
        );
        let escaped = TypeName::parse(r"DateTime('a\bc\x09\\')").unwrap();
        assert_eq!(escaped.arguments, [Argument::Text("a\u{8}c\t\\".to_owned())]);
        assert_eq!(TypeName::parse(r"DateTime('\xe9')"), None);
        let labels = TypeName::parse("Enum8('it''s' = -1, 'b\\'' = 2)").unwrap();
        assert_eq!(labels.arguments, [Argument::Label("it's".into(), -1), Argument::Label("b'".into(), 2)]);
        let nested = TypeName::parse("ARRAY<STRUCT<a INT64, `b c` STRING(20)>>").unwrap();
        let Some(Argument::Type { of, .. }) = nested.arguments.first() else { unreachable!() };
        assert!(
            matches!(&of.arguments[1], Argument::Type { name: Some(name), of } if name == "b c" && of.base == "STRING")
        );
        let zoned = TypeName::parse("timestamp(3) with time zone").unwrap();
        assert_eq!((zoned.base.as_str(), zoned.rest.as_str()), ("timestamp", "with time zone"));
        assert_eq!(TypeName::parse("double  precision").unwrap().base, "double precision");
    }

    #[test]
    fn nothing_else_is_a_name() {
        for text in ["", "(", "int)", "int; drop", "a(b", "a('x", "a(1 2)", "1", "a()b(", "int--", "a(<b>)"] {
            assert!(TypeName::parse(text).is_none(), "{text}");
        }
        assert!(TypeName::parse(&"a(".repeat(100_000)).is_none());
    }
}
