//! Variables: `${name}` and `{{ vars.name }}` in values, `${name}` in SQL. `$${` stands for `${` itself.

use std::collections::BTreeMap;

use super::located::{Located, Place, Value, quoted};
use super::nearest::nearest;
use super::problems::Problems;
use super::yaml;

pub(super) type Vars = BTreeMap<String, String>;

/// A piece of a text: as written, or the value of a variable.
#[derive(Debug, PartialEq)]
pub(super) struct Piece<'a> {
    pub text: std::borrow::Cow<'a, str>,
    /// Where it begins in the text as written, in bytes.
    pub offset: usize,
    /// Whether it came from a variable.
    pub filled: bool,
}

/// A variable that has no value, or a reference that is none.
#[derive(Debug, PartialEq)]
pub(super) struct Unfilled {
    pub name: String,
    pub offset: usize,
}

impl Unfilled {
    pub(super) fn message(&self) -> String {
        if is_name(&self.name) {
            format!("the variable {} has no value", quoted(&self.name))
        } else {
            format!("{} is not the name of a variable", quoted(&self.name))
        }
    }

    pub(super) fn hint(&self, vars: &Vars) -> String {
        let near = nearest(&self.name, vars.keys().map(String::as_str));
        match near {
            Some(near) => format!("did you mean {near}? Values are given by --var name=value"),
            None if is_name(&self.name) => format!("give it by --var {}=value; write $${{ for ${{ itself", self.name),
            None => "write $${ for ${ itself".to_owned(),
        }
    }
}

/// Fills in all values of a tree. Values written without quotes are read again, so that `${n}` may become a number.
pub(super) fn fill(node: &mut Located, vars: &Vars, problems: &mut Problems) {
    match &mut node.value {
        Value::String { text, plain } => match substitute(text, vars, true) {
            Ok(pieces) if pieces.iter().all(|piece| !piece.filled) && pieces.len() <= 1 => {}
            Ok(pieces) => {
                let filled: String = pieces.iter().map(|piece| piece.text.as_ref()).collect();
                node.value = if *plain { yaml::plain(&filled) } else { Value::String { text: filled, plain: false } };
            }
            Err(unfilled) => problems.push(&node.at, unfilled.message(), Some(unfilled.hint(vars))),
        },
        Value::List(items) => items.iter_mut().for_each(|item| fill(item, vars, problems)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| fill(&mut entry.value, vars, problems)),
        _ => {}
    }
}

/// Cuts a text at its variables. With `braces`, `{{ vars.name }}` is one too; other `{{ … }}` stay as they are.
pub(super) fn substitute<'a>(text: &'a str, vars: &'a Vars, braces: bool) -> Result<Vec<Piece<'a>>, Unfilled> {
    let mut pieces = Vec::new();
    let mut done = 0;
    let mut at = 0;
    let plain = |pieces: &mut Vec<Piece<'a>>, from: usize, to: usize| {
        if let Some(text) = text.get(from..to).filter(|text| !text.is_empty()) {
            pieces.push(Piece { text: text.into(), offset: from, filled: false });
        }
    };
    while let Some(found) = text.get(at..).and_then(|rest| rest.find(['$', '{'])).map(|i| at + i) {
        let rest = text.get(found..).unwrap_or_default();
        if rest.starts_with("$${") {
            plain(&mut pieces, done, found);
            pieces.push(Piece { text: "${".into(), offset: found, filled: true });
            at = found + 3;
            done = at;
        } else if let Some(inner) = rest.strip_prefix("${") {
            let end = inner.find('}').unwrap_or(inner.len());
            let name = inner.get(..end).unwrap_or_default();
            let value = vars.get(name).ok_or_else(|| Unfilled { name: name.to_owned(), offset: found })?;
            plain(&mut pieces, done, found);
            pieces.push(Piece { text: value.as_str().into(), offset: found, filled: true });
            at = (found + 2 + end + 1).min(text.len());
            done = at;
        } else if let Some((expression, length)) = expression(rest).filter(|_| braces) {
            let name = expression.strip_prefix("vars.");
            match (name, vars.get(name.unwrap_or(expression))) {
                (_, Some(value)) => {
                    plain(&mut pieces, done, found);
                    pieces.push(Piece { text: value.as_str().into(), offset: found, filled: true });
                    done = found + length;
                }
                (Some(name), None) => return Err(Unfilled { name: name.to_owned(), offset: found }),
                (None, None) => {}
            }
            at = found + length;
        } else {
            at = found + 1;
        }
    }
    plain(&mut pieces, done, text.len());
    Ok(pieces)
}

/// Fills in `{{ name }}` where the variable has a value; all else stays. For texts whose `${…}` are filled in already.
pub(super) fn fill_tokens(text: &str, vars: &Vars) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.find("{{") {
        let (before, after) = rest.split_at(found);
        filled.push_str(before);
        let token = expression(after)
            .and_then(|(name, length)| Some((vars.get(name.strip_prefix("vars.").unwrap_or(name))?, length)));
        match token {
            Some((value, length)) => {
                filled.push_str(value);
                rest = after.get(length..).unwrap_or_default();
            }
            None => {
                filled.push_str("{{");
                rest = after.get(2..).unwrap_or_default();
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// The name in `{{ name }}`, and the length of the whole.
fn expression(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix("{{")?;
    let end = inner.find("}}")?;
    let name = inner.get(..end)?.trim();
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.').then_some((name, end + 4))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// A text whose variables were filled in, with the way back to where each character was written.
#[derive(Debug)]
pub(super) struct Filled {
    pub text: String,
    /// (byte in `text`, byte in the text as written, whether from a variable), ascending.
    segments: Vec<(usize, usize, bool)>,
    line_starts: Vec<usize>,
    written: String,
}

impl Filled {
    pub(super) fn new(written: &str, vars: &Vars) -> Result<Self, Unfilled> {
        let mut text = String::with_capacity(written.len());
        let mut segments = Vec::new();
        for piece in substitute(written, vars, false)? {
            segments.push((text.len(), piece.offset, piece.filled));
            text.push_str(&piece.text);
        }
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Ok(Self { text, segments, line_starts, written: written.to_owned() })
    }

    /// The byte of a line and column (from one, in characters) of the filled text.
    pub(super) fn offset(&self, line: u64, column: u64) -> usize {
        let Some(start) = self.line_starts.get((line as usize).saturating_sub(1)) else { return self.text.len() };
        let rest = self.text.get(*start..).unwrap_or_default();
        let skip = (column as usize).saturating_sub(1);
        rest.char_indices().nth(skip).map_or(self.text.len(), |(i, _)| start + i)
    }

    /// Where a byte of the filled text was written.
    pub(super) fn place(&self, file: &std::sync::Arc<std::path::Path>, offset: usize) -> Place {
        let index = self.segments.partition_point(|(at, _, _)| *at <= offset).saturating_sub(1);
        let written = match self.segments.get(index) {
            Some((_, written, true)) => *written,
            Some((at, written, false)) => written + (offset - at),
            None => offset,
        };
        place_of(&self.written, written, file)
    }
}

/// Line and column of a byte.
pub(super) fn place_of(text: &str, offset: usize, file: &std::sync::Arc<std::path::Path>) -> Place {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    Place::new(file, before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filled(text: &str) -> String {
        let vars = Vars::from([("day".into(), "2026-01-01".into()), ("n".into(), "7".into())]);
        substitute(text, &vars, true).unwrap().iter().map(|piece| piece.text.as_ref()).collect()
    }

    #[test]
    fn variables_are_filled_in_and_all_else_stays() {
        assert_eq!(filled("a ${day} b {{ vars.n }}"), "a 2026-01-01 b 7");
        assert_eq!(filled("$${day} costs $5, {{ data_interval_start }}"), "${day} costs $5, {{ data_interval_start }}");
        assert_eq!(filled("{a: {b: 1}} é${n}é"), "{a: {b: 1}} é7é");
        assert_eq!(filled(""), "");
    }

    #[test]
    fn tokens_are_filled_in_once() {
        let vars = Vars::from([("start".into(), "{{ start }}".into()), ("n".into(), "7".into())]);
        assert_eq!(
            fill_tokens("{{ start }}, {{vars.n}}, {{ end }}, ${n} {{", &vars),
            "{{ start }}, 7, {{ end }}, ${n} {{"
        );
    }

    #[test]
    fn an_unknown_variable_names_itself() {
        let vars = Vars::from([("month".into(), "1".into())]);
        let unfilled = substitute("x ${moth}", &vars, true).unwrap_err();
        assert_eq!(unfilled, Unfilled { name: "moth".into(), offset: 2 });
        assert!(unfilled.hint(&vars).contains("month"));
        assert!(substitute("{{ vars.moth }}", &vars, true).is_err());
    }

    #[test]
    fn places_point_into_the_text_as_written() {
        let vars = Vars::from([("table".into(), "a\nvery\nlong".into())]);
        let file: std::sync::Arc<std::path::Path> = std::sync::Arc::from(std::path::Path::new("f.sql"));
        let text = Filled::new("SELECT é\nFROM ${table} WHERE x", &vars).unwrap();
        let place = text.place(&file, text.text.find("WHERE").unwrap());
        assert_eq!((place.line, place.column), (2, 15));
        let place = text.place(&file, text.text.find("very").unwrap());
        assert_eq!((place.line, place.column), (2, 6));
        assert_eq!(text.offset(1, 8), text.text.find('é').unwrap());
    }
}
