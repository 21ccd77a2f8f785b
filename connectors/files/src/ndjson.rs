//! NDJSON: one JSON object a line. Inference over sampled lines, and decoding into Arrow with the line in every error.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use dpone_engine::{Error, Result};
use serde_json::Value;

/// Bytes of lines that are decoded at once; a line longer than the greatest is refused.
const BLOCK: usize = 1 << 20;
const MAX_LINE: usize = 256 << 20;

/// Whole lines of a file, a block at a time.
pub(crate) struct Lines {
    input: Box<dyn Read + Send>,
    file: String,
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes that the block given last took.
    taken: usize,
    eof: bool,
    /// The line at which the block given last begins, from one.
    line: u64,
    /// Lines in that block.
    count: u64,
}

impl Lines {
    pub(crate) fn new(input: Box<dyn Read + Send>, file: impl Into<String>) -> Self {
        Self { input, file: file.into(), buffer: vec![0; BLOCK], filled: 0, taken: 0, eof: false, line: 1, count: 0 }
    }

    /// The next whole lines, at most `max` of them; empty at the end of the file.
    pub(crate) fn next(&mut self, max: usize) -> Result<&[u8]> {
        self.line += self.count;
        let first = self.line == 1 && self.taken == 0;
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        loop {
            while self.filled < self.buffer.len() && !self.eof {
                match self.input.read(&mut self.buffer[self.filled..]) {
                    Ok(0) => self.eof = true,
                    Ok(n) => self.filled += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(crate::location::read_error(&self.file, e)),
                }
            }
            if first && self.buffer[..self.filled].starts_with(b"\xef\xbb\xbf") {
                self.buffer.copy_within(3..self.filled, 0);
                self.filled -= 3;
            }
            let mut lines = 0;
            let mut end = 0;
            for at in memchr::memchr_iter(b'\n', &self.buffer[..self.filled]).take(max) {
                lines += 1;
                end = at + 1;
            }
            if self.eof && lines < max && end < self.filled {
                lines += 1;
                end = self.filled;
            }
            if end > 0 || self.eof {
                self.taken = end;
                self.count = lines as u64;
                break;
            }
            if self.filled >= MAX_LINE {
                return Err(self.error(self.line, format!("the line is longer than {} MiB", MAX_LINE >> 20)));
            }
            self.buffer.resize(self.filled * 2, 0);
        }
        let block = &self.buffer[..self.taken];
        if first && block.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
            return Err(Error::data_quality(format!("{}: the file is a JSON array, not one object a line", self.file))
                .with_hint("write one object a line, for example with jq -c '.[]'"));
        }
        Ok(block)
    }

    fn error(&self, line: u64, message: impl std::fmt::Display) -> Error {
        Error::data_quality(format!("{}, line {line}: {message}", self.file))
    }

    fn block(&self) -> &[u8] {
        &self.buffer[..self.taken]
    }
}

/// Decodes the block that `lines` gave last.
pub(crate) fn decode(lines: &Lines, schema: &SchemaRef, batch_rows: usize) -> Result<Vec<RecordBatch>> {
    let block = lines.block();
    try_decode(block, schema, batch_rows).map_err(|_| locate(lines, schema))
}

fn try_decode(
    block: &[u8],
    schema: &SchemaRef,
    batch_rows: usize,
) -> std::result::Result<Vec<RecordBatch>, arrow::error::ArrowError> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(batch_rows).build_decoder()?;
    let mut batches = Vec::new();
    let mut at = 0;
    loop {
        let used = decoder.decode(&block[at..])?;
        at += used;
        if at == block.len() || used == 0 {
            if let Some(batch) = decoder.flush()? {
                batches.push(batch);
            }
            if at == block.len() {
                return Ok(batches);
            }
        }
    }
}

/// Finds the line, and the column if it is one, that made a block fail. The decoder's own words may hold values.
fn locate(lines: &Lines, schema: &SchemaRef) -> Error {
    for (i, line) in lines.block().split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) || try_decode(line, schema, 2).is_ok() {
            continue;
        }
        let number = lines.line + i as u64;
        if !serde_json::from_slice::<Value>(line).is_ok_and(|v| v.is_object()) {
            return lines.error(number, "the line is not one JSON object");
        }
        for field in schema.fields() {
            let alone = Arc::new(Schema::new(vec![Arc::clone(field)]));
            if try_decode(line, &alone, 2).is_err() {
                let name = dpone_planner::types::logical_name(field);
                let message = format!("column {:?} holds a value that is not a {name}", field.name());
                return lines.error(number, message).with("column", field.name()).with_hint(format!(
                    "declare the column under columns, such as {{name: {}, type: text}}, or raise infer_rows, so that \
                     more lines are looked at",
                    field.name()
                ));
            }
        }
        return lines.error(number, "the line cannot be decoded");
    }
    lines.error(lines.line, "a line at or after this one cannot be decoded")
}

/// What an integer beyond 64 bits is marked with while a line is looked at.
const HUGE: &str = "\u{0}huge ";

/// The line with integers beyond 64 bits as marked texts: as numbers, their last digits would be lost. `None`: it has
/// none of them.
fn mark_huge(line: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut done = 0;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b'"' => {
                at += 1;
                while at < line.len() && line[at] != b'"' {
                    at += if line[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let length =
                    line[at..].iter().take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'));
                let end = at + length.count();
                let number = std::str::from_utf8(&line[at..end]).unwrap_or_default();
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    out.extend_from_slice(&line[done..at]);
                    out.extend_from_slice(format!("\"\\u0000{}{number}\"", &HUGE[1..]).as_bytes());
                    done = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    if done == 0 {
        return None;
    }
    out.extend_from_slice(&line[done..]);
    Some(out)
}

/// What the sampled objects hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    columns: Vec<String>,
    types: BTreeMap<String, Kind>,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Kind {
    #[default]
    Null,
    Boolean,
    Integer,
    /// An integer beyond 64 bits with sign, of at most 38 digits.
    Wide,
    /// An integer that no type holds.
    Huge,
    Real,
    Text,
    List(Box<Kind>),
    Struct(Vec<(String, Kind)>),
    /// Values of several kinds, which no type holds.
    Mixed,
}

impl Shape {
    pub(crate) fn see(&mut self, lines: &Lines) -> Result<()> {
        for (i, line) in lines.block().split(|b| *b == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let marked = mark_huge(line);
            let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(marked.as_deref().unwrap_or(line)) else {
                return Err(lines.error(lines.line + i as u64, "the line is not one JSON object"));
            };
            for (name, value) in object {
                let kind = Kind::of(&value);
                match self.types.get_mut(&name) {
                    Some(known) => *known = std::mem::take(known).join(kind),
                    None => {
                        self.columns.push(name.clone());
                        self.types.insert(name, kind);
                    }
                }
            }
        }
        Ok(())
    }

    /// The columns in the order in which they appeared. `declared` columns may hold anything.
    pub(crate) fn fields(&self, declared: &BTreeMap<String, Field>) -> Result<Vec<Field>> {
        let mut fields = Vec::with_capacity(self.columns.len());
        for name in &self.columns {
            if let Some(field) = declared.get(name) {
                fields.push(field.clone());
                continue;
            }
            let kind = self.types.get(name).cloned().unwrap_or_default();
            let data_type = kind.data_type().ok_or_else(|| {
                let what = match kind.any_huge() {
                    true => "an integer of more than 38 digits, or one beyond 64 bits among fractions",
                    false => "values of several kinds, such as numbers and text",
                };
                Error::data_quality(format!("column {name:?} holds {what}"))
                    .with("column", name)
                    .with_hint("declare the column under columns with the type that it should have")
            })?;
            fields.push(Field::new(name, data_type, true));
        }
        Ok(fields)
    }
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(n) if n.is_i64() => Self::Integer,
            Value::Number(n) if n.is_u64() => Self::Wide,
            Value::Number(_) => Self::Real,
            Value::String(text) => match text.strip_prefix(HUGE) {
                Some(digits) if digits.trim_start_matches(['-', '0']).len() <= 38 => Self::Wide,
                Some(_) => Self::Huge,
                None => Self::Text,
            },
            Value::Array(items) => {
                Self::List(Box::new(items.iter().map(Self::of).fold(Self::Null, |known, item| known.join(item))))
            }
            Value::Object(object) => {
                Self::Struct(object.iter().map(|(name, value)| (name.clone(), Self::of(value))).collect())
            }
        }
    }

    /// Whether what no type holds is a number.
    fn any_huge(&self) -> bool {
        match self {
            Self::Huge | Self::Wide => true,
            Self::List(item) => item.any_huge(),
            Self::Struct(fields) => fields.iter().any(|(_, kind)| kind.any_huge()),
            _ => false,
        }
    }

    fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Null, other) | (other, Self::Null) => other,
            (Self::Integer, Self::Wide) | (Self::Wide, Self::Integer) => Self::Wide,
            (Self::Integer | Self::Wide, Self::Huge) | (Self::Huge, Self::Integer | Self::Wide) => Self::Huge,
            (Self::Integer, Self::Real) | (Self::Real, Self::Integer) => Self::Real,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.join(*b))),
            (Self::Struct(mut a), Self::Struct(b)) => {
                for (name, kind) in b {
                    match a.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = std::mem::take(known).join(kind),
                        None => a.push((name, kind)),
                    }
                }
                Self::Struct(a)
            }
            (Self::Wide | Self::Huge, Self::Real) | (Self::Real, Self::Wide | Self::Huge) => Self::Huge,
            _ => Self::Mixed,
        }
    }

    fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Null | Self::Text => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Wide => DataType::Decimal128(38, 0),
            Self::Real => DataType::Float64,
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type()?, true))),
            // An object without fields has no Arrow type that files can store.
            Self::Struct(fields) if fields.is_empty() => return None,
            Self::Struct(fields) => {
                let fields: Option<Fields> =
                    fields.iter().map(|(name, kind)| Some(Field::new(name, kind.data_type()?, true))).collect();
                DataType::Struct(fields?)
            }
            Self::Huge | Self::Mixed => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn integers_beyond_64_bits_are_marked_and_texts_are_left_alone() {
        assert_eq!(mark_huge(br#"{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1e40}"#), None);
        assert_eq!(mark_huge(br#"{"a": "99999999999999999999999 \" 99999999999999999999999"}"#), None);
        let marked = mark_huge(br#"{"a": [-99999999999999999999, 1], "b": "x"}"#).unwrap();
        let Value::Object(object) = serde_json::from_slice::<Value>(&marked).unwrap() else { unreachable!() };
        assert_eq!(Kind::of(&object["a"]), Kind::List(Box::new(Kind::Wide)));
        assert_eq!(Kind::of(&object["b"]), Kind::Text);
        let digits = "9".repeat(39);
        let marked = mark_huge(format!("{{\"a\": {digits}}}").as_bytes()).unwrap();
        let value = serde_json::from_slice::<Value>(&marked).unwrap();
        assert_eq!(Kind::of(&value["a"]), Kind::Huge);
        // Neither holds both: a double would lose digits.
        assert_eq!(Kind::Wide.join(Kind::Real).data_type(), None);
        assert_eq!(Kind::Huge.join(Kind::Integer).data_type(), None);
    }
}
