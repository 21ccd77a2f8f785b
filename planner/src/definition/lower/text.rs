//! Small languages inside values: predicates, distances, literals.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::definition::Lag;
use crate::definition::manifest::{PortableScope, Scalar};

/// Whether the text is one SQL expression; if not, what the parser says.
pub(in crate::definition) fn check_predicate(sql: &str) -> Result<(), String> {
    if let Some(excess) = crate::expr::too_long(sql) {
        return Err(format!("it {}; {}", excess.message, excess.hint));
    }
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(sql).map_err(|e| clean(&e.to_string()))?;
    parser.parse_expr().map_err(|e| clean(&e.to_string()))?;
    match parser.peek_token().token {
        Token::EOF => Ok(()),
        other => Err(format!("expected the end of the expression, found {other}")),
    }
}

/// A parser message without the class in front.
pub(in crate::definition) fn clean(message: &str) -> String {
    message
        .trim_start_matches("sql parser error: ")
        .trim_start_matches("SQL error: ")
        .trim_start_matches("ParserError(\"")
        .trim_end_matches("\")")
        .to_owned()
}

/// Whether two texts are the same SQL but for spacing and the case of keywords.
pub(super) fn same_sql(a: &str, b: &str) -> bool {
    let tokens = |sql: &str| -> Option<Vec<String>> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().ok()?;
        let text = |token: Token| match token {
            Token::Whitespace(_) => None,
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
            other => Some(other.to_string()),
        };
        Some(tokens.into_iter().filter_map(text).collect())
    };
    a == b || tokens(a).is_some_and(|a| Some(a) == tokens(b))
}

/// `2h`, `15 minutes`, `1 day 12 hours`; a number alone is in the unit of the cursor.
pub(in crate::definition) fn parse_lag(text: &str) -> Option<Lag> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return (number >= 0).then_some(Lag::Number(number));
    }
    let mut microseconds = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit: i64 = match rest.get(..letters)?.to_ascii_lowercase().as_str() {
            "us" | "microsecond" | "microseconds" => 1,
            "ms" | "millisecond" | "milliseconds" => 1_000,
            "s" | "sec" | "second" | "seconds" => 1_000_000,
            "m" | "min" | "minute" | "minutes" => 60_000_000,
            "h" | "hour" | "hours" => 3_600_000_000,
            "d" | "day" | "days" => 86_400_000_000,
            "w" | "week" | "weeks" => 604_800_000_000,
            _ => return None,
        };
        microseconds = microseconds.checked_add(number.checked_mul(unit)?)?;
        rest = rest.get(letters..)?.trim_start();
    }
    (!text.is_empty()).then_some(Lag::Interval { microseconds })
}

/// A scope without SQL, as a predicate; or what is wrong with it.
pub(super) fn scope_predicate(scope: &PortableScope) -> Result<String, &'static str> {
    let column = identifier(&scope.column);
    match (&scope.equals, &scope.any_of, &scope.from, &scope.to) {
        (Some(value), None, None, None) => Ok(format!("{column} = {}", literal(value))),
        (None, Some(values), None, None) if !values.is_empty() => {
            let values: Vec<_> = values.iter().map(literal).collect();
            Ok(format!("{column} IN ({})", values.join(", ")))
        }
        (None, None, Some(from), None) => Ok(format!("{column} >= {}", literal(from))),
        (None, None, None, Some(to)) => Ok(format!("{column} < {}", literal(to))),
        (None, None, Some(from), Some(to)) => {
            Ok(format!("{column} >= {} AND {column} < {}", literal(from), literal(to)))
        }
        _ => Err("expected exactly one of equals, in (with values) and from/to"),
    }
}

pub(in crate::definition) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(value: &Scalar) -> String {
    match value {
        Scalar::Text(text) => format!("'{}'", text.replace('\'', "''")),
        other => other.text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_are_read_with_their_units() {
        let micros = |text| match parse_lag(text) {
            Some(Lag::Interval { microseconds }) => microseconds,
            other => unreachable!("{text}: {other:?}"),
        };
        assert_eq!(micros("2h"), 7_200_000_000);
        assert_eq!(micros("1 day 12 hours"), 129_600_000_000);
        assert_eq!(micros("15 Minutes"), 900_000_000);
        assert_eq!(parse_lag("100"), Some(Lag::Number(100)));
        for bad in ["", "h", "-5", "2 months", "1.5h", "99999999999999w"] {
            assert_eq!(parse_lag(bad), None, "{bad}");
        }
    }

    #[test]
    fn predicates_are_held_to_one_expression() {
        assert!(check_predicate("a >= '2026-01-01' AND (b IS NULL OR c IN (1, 2))").is_ok());
        assert!(check_predicate("a = 1; DROP TABLE t").is_err());
        assert!(check_predicate("a = ").is_err());
        assert!(same_sql("a=1 AND b  = 'x'", "a = 1 and b = 'x'"));
        assert!(!same_sql("a = 'X'", "a = 'x'"));
    }

    #[test]
    fn scopes_quote_names_and_values() {
        let scope = |column: &str, value: &str| PortableScope {
            column: column.into(),
            equals: Some(Scalar::Text(value.into())),
            any_of: None,
            from: None,
            to: None,
        };
        assert_eq!(scope_predicate(&scope("a\"b", "it's")).as_deref(), Ok("\"a\"\"b\" = 'it''s'"));
    }
}
