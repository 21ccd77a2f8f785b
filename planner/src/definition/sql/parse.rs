//! The grammar of the two statements.

use std::path::Path;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::options::{self, Target};
use super::tokens::Tokens;
use super::{PipelineStatement, Script, query};
use crate::definition::located::{Located, Place, Value};
use crate::definition::nearest::nearest;
use crate::definition::vars::{Vars, fill_tokens};
use crate::definition::{Connection, OptionValue, Options};
use crate::error::{Error, Result};

const CLAUSES: [&str; 7] = ["INTO", "STRATEGY", "KEY", "CURSOR", "PARTITION", "OPTIONS", "AS"];

pub(in crate::definition) fn parse(file: &Path, text: &str, vars: &Vars) -> Result<Script> {
    let mut tokens = Tokens::new(file, text, vars)?;
    let mut script = Script { connections: Vec::new(), pipelines: Vec::new() };
    loop {
        while tokens.take(&Token::SemiColon) {}
        if tokens.peek().is_none() {
            return Ok(script);
        }
        if !tokens.take_word("CREATE") {
            return Err(tokens
                .expected("CREATE CONNECTION or CREATE PIPELINE")
                .with_hint("queries alone are run by `dpone query`"));
        }
        if tokens.take_word("CONNECTION") {
            script.connections.push(connection(&mut tokens)?);
        } else if tokens.take_word("PIPELINE") {
            script.pipelines.push(pipeline(&mut tokens, vars)?);
        } else {
            return Err(tokens.expected("CONNECTION or PIPELINE after CREATE"));
        }
        if tokens.peek().is_some() && !tokens.take(&Token::SemiColon) {
            return Err(tokens.expected("; at the end of the statement"));
        }
    }
}

/// `CREATE CONNECTION name TYPE kind [OPTIONS ('key' 'value', …)]`
fn connection(tokens: &mut Tokens) -> Result<Connection> {
    let (name, at) = tokens.identifier("the name of the connection")?;
    tokens.expect_word("TYPE", "the connection's name")?;
    let (kind, _) = tokens.identifier("the type of the connection, such as postgres or delta")?;
    let mut values = Options::new();
    if tokens.take_word("OPTIONS") {
        for (key, value, _) in option_list(tokens)? {
            let value = OptionValue::parse(&key, &value);
            values.insert(key, value);
        }
    }
    let kind = match kind.as_str() {
        "api" | "rest_api" => "rest".to_owned(),
        "postgresql" => "postgres".to_owned(),
        _ => kind,
    };
    Ok(Connection { name, kind, options: values, location: Some(at.location()) })
}

/// Keys and values, each with the place of the key.
type OptionList = Vec<(String, String, Place)>;

/// `('key' 'value', …)`; the place is that of the key.
fn option_list(tokens: &mut Tokens) -> Result<OptionList> {
    tokens.expect(&Token::LParen, "( after OPTIONS")?;
    let mut list = OptionList::new();
    if tokens.take(&Token::RParen) {
        return Ok(list);
    }
    loop {
        let at = tokens.place();
        let key = option_key(tokens)?;
        if let Some((_, _, first)) = list.iter().find(|(known, _, _)| *known == key) {
            return Err(Error::configuration(format!("the option '{key}' is given twice"))
                .at(at.location())
                .with_hint(format!("the first one is on line {}", first.line)));
        }
        let value = option_value(tokens, &key)?;
        list.push((key, value, at));
        if tokens.take(&Token::RParen) {
            return Ok(list);
        }
        tokens.expect(&Token::Comma, "a comma or )")?;
    }
}

fn option_key(tokens: &mut Tokens) -> Result<String> {
    if let Some(Token::SingleQuotedString(text)) = tokens.peek() {
        let key = text.clone();
        tokens.advance();
        return Ok(key);
    }
    let parts = tokens.dotted("the name of an option, such as 'parallelism'")?;
    Ok(parts.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("."))
}

fn option_value(tokens: &mut Tokens, key: &str) -> Result<String> {
    let minus = tokens.take(&Token::Minus);
    let value = match tokens.peek() {
        Some(Token::SingleQuotedString(text)) if !minus => text.clone(),
        Some(Token::Number(number, _)) => format!("{}{number}", if minus { "-" } else { "" }),
        Some(Token::Word(word))
            if !minus
                && word.quote_style.is_none()
                && ["true", "false"].iter().any(|name| word.value.eq_ignore_ascii_case(name)) =>
        {
            word.value.to_lowercase()
        }
        _ => return Err(tokens.expected(&format!("the value of the option '{key}' in single quotes"))),
    };
    tokens.advance();
    Ok(value)
}

/// The clauses that were read so far.
struct Clauses {
    target: Option<Vec<(String, Place)>>,
    mode: Option<(String, Place)>,
    key: Option<(Vec<(String, Place)>, Place)>,
    cursor: Option<(String, Place)>,
    partition_by: Option<Vec<(String, Place)>>,
    options: Option<(OptionList, Place)>,
}

/// `CREATE PIPELINE name INTO … STRATEGY … [KEY …] [CURSOR …] [PARTITION BY …] [OPTIONS …] AS query`
fn pipeline(tokens: &mut Tokens, vars: &Vars) -> Result<PipelineStatement> {
    let (name, at) = tokens.identifier("the name of the pipeline")?;
    check_name(&name, &at)?;
    let clauses = clauses(tokens)?;
    let (query, tables) = query::parse(tokens)?;
    let missing = |clause: &str, example: &str| {
        Error::configuration(format!("the pipeline {name:?} has no {clause}"))
            .at(at.location())
            .with_hint(format!("for example {example}"))
    };
    let target = clauses.target.clone().ok_or_else(|| missing("INTO", "INTO lake.landing.orders"))?;
    let mode = clauses.mode.clone().ok_or_else(|| missing("STRATEGY", "STRATEGY full_refresh"))?;
    let (settings, state_connection, state_table) = settings(&clauses, &mode, &at, vars)?;
    let partition_by = clauses.partition_by.into_iter().flatten().map(|(name, _)| name).collect();
    Ok(PipelineStatement { name, at, target, settings, partition_by, state_connection, state_table, query, tables })
}

fn check_name(name: &str, at: &Place) -> Result<()> {
    let fits = (3..=64).contains(&name.chars().count())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if fits {
        return Ok(());
    }
    Err(Error::configuration(format!(
        "the pipeline's name is {name:?}; expected 3 to 64 small letters, digits and underscores"
    ))
    .at(at.location()))
}

fn clauses(tokens: &mut Tokens) -> Result<Clauses> {
    let mut clauses = Clauses { target: None, mode: None, key: None, cursor: None, partition_by: None, options: None };
    while !tokens.take_word("AS") {
        let at = tokens.place();
        let word = match tokens.peek() {
            Some(Token::Word(word)) => word.value.to_uppercase(),
            _ => return Err(tokens.expected("a clause of the pipeline, or AS and its query")),
        };
        if !CLAUSES.contains(&word.as_str()) {
            let error = tokens.expected(&format!("one of {}", CLAUSES.join(", ")));
            return Err(match nearest(&word, CLAUSES) {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error,
            });
        }
        let again = match word.as_str() {
            "INTO" => clauses.target.is_some(),
            "STRATEGY" => clauses.mode.is_some(),
            "KEY" => clauses.key.is_some(),
            "CURSOR" => clauses.cursor.is_some(),
            "PARTITION" => clauses.partition_by.is_some(),
            _ => clauses.options.is_some(),
        };
        if again {
            return Err(Error::configuration(format!("the clause {word} is written twice")).at(at.location()));
        }
        tokens.advance();
        match word.as_str() {
            "INTO" => clauses.target = Some(tokens.dotted("the target as connection.schema.table")?),
            "STRATEGY" => clauses.mode = Some(tokens.identifier("the name of a strategy")?),
            "KEY" => clauses.key = Some((tokens.names("KEY")?, at)),
            "CURSOR" => clauses.cursor = Some(tokens.identifier("the cursor column")?),
            "PARTITION" => {
                tokens.expect_word("BY", "PARTITION")?;
                clauses.partition_by = Some(tokens.names("PARTITION BY")?);
            }
            _ => clauses.options = Some((option_list(tokens)?, at)),
        }
    }
    Ok(clauses)
}

type NamePlace = Option<(String, Place)>;

/// The clauses and options as the tree of a manifest.
fn settings(
    clauses: &Clauses,
    mode: &(String, Place),
    at: &Place,
    vars: &Vars,
) -> Result<(Located, NamePlace, NamePlace)> {
    let options_at = clauses.options.as_ref().map_or(at, |(_, place)| place);
    let mut tree = Located::map(at.clone());
    tree.set_path("sink.strategy.mode", &mode.1, Located::string(&mode.0, mode.1.clone()));
    tree.set_path("sink.options", options_at, Located::map(options_at.clone()));
    tree.set_path("source.options", options_at, Located::map(options_at.clone()));
    if let Some((names, place)) = &clauses.key {
        let names = names.iter().map(|(name, at)| Located::string(name, at.clone())).collect();
        let list = Located { value: Value::List(names), at: place.clone() };
        tree.set_path("sink.strategy.unique_key", place, list);
    }
    if let Some((column, place)) = &clauses.cursor {
        tree.set_path("source.options.incremental_column", place, Located::string(column, place.clone()));
    }
    if let (Some(columns), "partition_replace") = (&clauses.partition_by, mode.0.as_str())
        && let [(column, place)] = columns.as_slice()
    {
        tree.set_path("sink.strategy.partition.column", place, Located::string(column, place.clone()));
    }
    let (mut state_connection, mut state_table) = (None, None);
    for (key, value, place) in clauses.options.iter().flat_map(|(list, _)| list) {
        match options::target(key, place)? {
            Target::StateConnection => state_connection = Some((value.clone(), place.clone())),
            Target::StateTable => state_table = Some((value.clone(), place.clone())),
            Target::Setting { path, types } => {
                let value = options::value(key, &fill_tokens(value, vars), &types, place)?;
                tree.set_path(&path, place, value);
            }
        }
    }
    Ok((tree, state_connection, state_table))
}
