//! A cursor over SQL tokens that knows where each was written.

use std::path::Path;
use std::sync::Arc;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::definition::located::Place;
use crate::definition::lower::connection::Book;
use crate::definition::vars::{Filled, Vars, place_of};
use crate::definition::yaml::MAX_BYTES;
use crate::error::{Error, Result};

pub(super) struct Tokens {
    pub file: Arc<Path>,
    pub text: Filled,
    /// Without white space and comments.
    tokens: Vec<TokenWithSpan>,
    next: usize,
}

impl Tokens {
    pub(super) fn new(file: &Path, written: &str, vars: &Vars) -> Result<Self> {
        let file: Arc<Path> = Arc::from(file);
        if written.len() > MAX_BYTES {
            return Err(Error::configuration(format!(
                "the file has {} bytes; a definition has at most {MAX_BYTES}",
                written.len()
            ))
            .at(Place::new(&file, 1, 1).location()));
        }
        let text = Filled::new(written, vars).map_err(|unfilled| {
            Error::configuration(unfilled.message())
                .at(place_of(written, unfilled.offset, &file).location())
                .with_hint(unfilled.hint(vars))
        })?;
        let tokens = Tokenizer::new(&GenericDialect {}, &text.text).tokenize_with_location().map_err(|error| {
            let offset = text.offset(error.location.line, error.location.column);
            Error::configuration(format!("this is not SQL: {}", error.message)).at(text.place(&file, offset).location())
        })?;
        let tokens = tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).collect();
        Ok(Self { file, text, tokens, next: 0 })
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|token| &token.token)
    }

    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    /// Where the next token is; at the end, the end of the file.
    pub(super) fn place(&self) -> Place {
        self.text.place(&self.file, self.offset())
    }

    /// The byte of the next token in the filled text.
    pub(super) fn offset(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.text.trim_end().len(), |token| {
            self.text.offset(token.span.start.line, token.span.start.column)
        })
    }

    /// What the next token is, for messages.
    pub(super) fn found(&self) -> String {
        match self.peek() {
            None => "the end of the file".to_owned(),
            Some(Token::SingleQuotedString(_)) => "a text".to_owned(),
            Some(token) => format!("{token}"),
        }
    }

    pub(super) fn expected(&self, what: &str) -> Error {
        Error::configuration(format!("expected {what}, found {}", self.found())).at(self.place().location())
    }

    /// Whether the next token is this word, without quotes.
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next += 1;
        }
        found
    }

    pub(super) fn expect_word(&mut self, word: &str, after: &str) -> Result<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.expected(&format!("{word} after {after}"))) }
    }

    pub(super) fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        if found {
            self.next += 1;
        }
        found
    }

    pub(super) fn expect(&mut self, token: &Token, what: &str) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(self.expected(what)) }
    }

    /// An identifier: in small letters, unless it is in double quotes.
    pub(super) fn identifier(&mut self, what: &str) -> Result<(String, Place)> {
        let place = self.place();
        let name = match self.peek() {
            Some(Token::Word(word)) => match word.quote_style {
                None => word.value.to_lowercase(),
                Some(_) => word.value.clone(),
            },
            _ => return Err(self.expected(what)),
        };
        self.next += 1;
        Ok((name, place))
    }

    /// Identifiers with dots between them.
    pub(super) fn dotted(&mut self, what: &str) -> Result<Vec<(String, Place)>> {
        let mut parts = vec![self.identifier(what)?];
        while self.take(&Token::Period) {
            parts.push(self.identifier("a name after the dot")?);
        }
        Ok(parts)
    }

    /// `(a, b)`
    pub(super) fn names(&mut self, clause: &str) -> Result<Vec<(String, Place)>> {
        self.expect(&Token::LParen, &format!("( after {clause}"))?;
        let mut names = vec![self.identifier("a column")?];
        while self.take(&Token::Comma) {
            names.push(self.identifier("a column")?);
        }
        self.expect(&Token::RParen, "a comma or )")?;
        Ok(names)
    }

    /// The tokens up to the end of the statement, which they leave out.
    pub(super) fn rest_of_statement(&mut self) -> Vec<TokenWithSpan> {
        let start = self.next;
        while self.peek().is_some_and(|token| *token != Token::SemiColon) {
            self.next += 1;
        }
        self.tokens.get(start..self.next).map(<[_]>::to_vec).unwrap_or_default()
    }
}

/// The hint for a connection that is not there.
pub(super) fn connection_hint(name: &str, book: &Book) -> String {
    let known: Vec<_> = book.names().collect();
    match crate::definition::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "write CREATE CONNECTION first".to_owned(),
        None => format!("defined are {}", known.join(", ")),
    }
}
