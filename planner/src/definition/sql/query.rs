//! The query of a pipeline: its text as written, and the tables that it names.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{ObjectName, ObjectNamePart, Query, TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::tokens::{Tokens, connection_hint};
use crate::definition::located::Place;
use crate::definition::lower::connection::Book;
use crate::definition::problems::Problems;
use crate::error::{Error, Result};

/// Tables as the query names them.
#[derive(Debug, Default)]
pub(in crate::definition) struct Tables {
    named: Vec<(Vec<String>, Place)>,
    /// Names of common table expressions: a name without dots may be one.
    expressions: BTreeSet<String>,
}

/// Reads the query up to the end of the statement. A syntax error has the place at which the parser stopped.
pub(super) fn parse(tokens: &mut Tokens) -> Result<(String, Tables)> {
    let start = tokens.offset();
    let list = tokens.rest_of_statement();
    if list.is_empty() {
        return Err(tokens.expected("a query after AS"));
    }
    let end = tokens.offset();
    let sql = tokens.text.text.get(start..end).unwrap_or_default().trim().to_owned();

    if let Some(excess) = crate::expr::too_long(&sql) {
        let begin = tokens.text.text.get(..start).unwrap_or_default();
        let (line, column) = match excess.line {
            1 => (
                1 + begin.matches('\n').count() as u64,
                begin.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + excess.column,
            ),
            line => (begin.matches('\n').count() as u64 + line, excess.column),
        };
        let place = tokens.text.place(&tokens.file, tokens.text.offset(line, column));
        return Err(Error::configuration(format!("the query {}", excess.message))
            .at(place.location())
            .with_hint(excess.hint));
    }
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(list);
    let query = parser.parse_query().map_err(|error| syntax_error(&error.to_string(), tokens))?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let at = tokens.text.offset(next.span.start.line, next.span.start.column);
        return Err(Error::configuration(format!("expected ; at the end of the query, found {}", next.token))
            .at(tokens.text.place(&tokens.file, at).location()));
    }
    let mut collector = Collector { tokens, tables: Tables::default() };
    let _ = query.visit(&mut collector);
    Ok((sql, collector.tables))
}

/// The parser says the place at the end of its message.
fn syntax_error(message: &str, tokens: &Tokens) -> Error {
    let message = crate::definition::lower::clean_message(message);
    let (text, place) = match message.rsplit_once(" at Line: ") {
        Some((text, place)) => match place.split_once(", Column: ") {
            Some((line, column)) => (text.to_owned(), line.parse().ok().zip(column.trim().parse().ok())),
            None => (message.clone(), None),
        },
        None => (message.clone(), None),
    };
    let place = match place {
        Some((line, column)) => tokens.text.place(&tokens.file, tokens.text.offset(line, column)),
        None => tokens.place(),
    };
    let text = text.replace("found: EOF", "found the end of the query");
    Error::configuration(format!("the query is not valid SQL: {text}")).at(place.location())
}

struct Collector<'a> {
    tokens: &'a Tokens,
    tables: Tables,
}

impl Visitor for Collector<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for expression in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = &expression.alias.name;
            self.tables.expressions.insert(plain_name(&name.value, name.quote_style));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        // With arguments it is a table function.
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.add(name);
        }
        ControlFlow::Continue(())
    }
}

impl Collector<'_> {
    fn add(&mut self, name: &ObjectName) {
        let identifiers: Vec<_> = name
            .0
            .iter()
            .filter_map(|part| match part {
                ObjectNamePart::Identifier(identifier) => Some(identifier),
                _ => None,
            })
            .collect();
        let Some(first) = identifiers.first().filter(|_| identifiers.len() == name.0.len()) else { return };
        let text = &self.tokens.text;
        let at = text.place(&self.tokens.file, text.offset(first.span.start.line, first.span.start.column));
        let parts = identifiers.iter().map(|part| plain_name(&part.value, part.quote_style)).collect();
        self.tables.named.push((parts, at));
    }
}

fn plain_name(value: &str, quote: Option<char>) -> String {
    if quote.is_some() { value.to_owned() } else { value.to_lowercase() }
}

/// Each table is `connection.schema.table` of a known connection, or a common table expression.
pub(super) fn check(tables: &Tables, book: &Book, problems: &mut Problems) {
    for (parts, at) in &tables.named {
        match parts.as_slice() {
            [name] if tables.expressions.contains(name) => {}
            [connection, _, _] | [connection, _, _, _] => {
                if book.get(connection).is_none() {
                    let message = format!("there is no connection {connection:?} for the table {}", parts.join("."));
                    problems.push(at, message, Some(connection_hint(connection, book)));
                }
            }
            _ => problems.push(
                at,
                format!("the table {} does not say where it is", parts.join(".")),
                Some("write connection.schema.table".to_owned()),
            ),
        }
    }
}
