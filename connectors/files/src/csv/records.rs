//! Cuts CSV text into records and fields.
//!
//! Written by hand because a field must remember whether it was quoted: `,,` is NULL and `,"",` is the empty string.
//! Fields are spans of the read buffer, so that a column that nobody asked for costs no copy, and the columns that are
//! asked for are parsed one at a time in tight loops.

use std::io::Read;

use dpone_engine::{Error, Result};

/// How fields and records are told apart. All of it is ASCII, so that cutting never splits a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Syntax {
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
    /// Inside quotes; `None`: a quote is escaped by doubling it.
    pub(crate) escape: Option<u8>,
    /// Lines that begin with it are skipped.
    pub(crate) comment: Option<u8>,
}

impl Default for Syntax {
    fn default() -> Self {
        Self { delimiter: b',', quote: Some(b'"'), escape: None, comment: None }
    }
}

/// Bytes read ahead of the parser, which also bounds the bytes of a batch.
const BUFFER: usize = 2 << 20;
/// A record that is longer than this is taken for an unclosed quote. Also keeps offsets within 31 bits.
const MAX_RECORD: usize = 256 << 20;
const QUOTED: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    /// The top bit says that the field was quoted.
    end: u32,
}

/// A CSV reader that holds the records of one batch at a time.
pub(crate) struct Records {
    input: Box<dyn Read + Send>,
    /// Named in errors.
    file: String,
    syntax: Syntax,
    special: [bool; 256],
    buffer: Vec<u8>,
    filled: usize,
    position: usize,
    eof: bool,
    /// The line at `position`, from one.
    line: u64,
    /// Fields of a record; learned from the first one.
    width: Option<usize>,
    spans: Vec<Span>,
    /// Spans of the record being cut that hold escaped characters.
    escaped: Vec<usize>,
    lines: Vec<u64>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("file", &self.file).field("line", &self.line).finish_non_exhaustive()
    }
}

enum Cut {
    Record,
    /// A blank line or a comment.
    Nothing,
    /// The buffer ends inside the record.
    Incomplete,
}

impl Records {
    pub(crate) fn new(input: Box<dyn Read + Send>, file: impl Into<String>, syntax: Syntax) -> Self {
        let mut special = [false; 256];
        for byte in [syntax.delimiter, b'\n', b'\r'] {
            special[byte as usize] = true;
        }
        Self {
            input,
            file: file.into(),
            syntax,
            special,
            buffer: vec![0; BUFFER],
            filled: 0,
            position: 0,
            eof: false,
            line: 0,
            width: None,
            spans: Vec::new(),
            escaped: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Cuts at most `max_rows` records, forgetting those cut before. No record means the end of the file.
    pub(crate) fn read(&mut self, max_rows: usize) -> Result<usize> {
        self.spans.clear();
        self.lines.clear();
        if self.filled - self.position < BUFFER / 2 {
            self.fill()?;
        }
        if self.line == 0 {
            self.line = 1;
            self.skip_byte_order_mark()?;
        }
        while self.lines.len() < max_rows {
            if self.position == self.filled {
                // The buffer may hold nothing but comments and blank lines: that is not the end yet.
                if self.eof || !self.lines.is_empty() {
                    break;
                }
                self.fill()?;
                continue;
            }
            let first = self.spans.len();
            match self.cut()? {
                Cut::Record => self.check_width(first)?,
                Cut::Nothing => self.spans.truncate(first),
                Cut::Incomplete => {
                    self.spans.truncate(first);
                    self.escaped.clear();
                    // The records that are whole go first: filling the buffer would move them.
                    if !self.lines.is_empty() {
                        break;
                    }
                    self.fill()?;
                }
            }
        }
        Ok(self.lines.len())
    }

    pub(crate) fn rows(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn width(&self) -> usize {
        self.width.unwrap_or(0)
    }

    /// The field's bytes, and whether it was quoted.
    #[inline]
    pub(crate) fn field(&self, row: usize, column: usize) -> (&[u8], bool) {
        let span = self.spans[row * self.width.unwrap_or(0) + column];
        (&self.buffer[span.start as usize..(span.end & !QUOTED) as usize], span.end & QUOTED != 0)
    }

    pub(crate) fn line(&self, row: usize) -> u64 {
        self.lines.get(row).copied().unwrap_or(self.line)
    }

    /// An error at a line of this file.
    pub(crate) fn error(&self, line: u64, message: impl std::fmt::Display) -> Error {
        Error::data_quality(format!("{}, line {line}: {message}", self.file))
    }

    /// Moves what is left to the front and reads until the buffer is full; makes it larger for a record that fills it.
    fn fill(&mut self) -> Result<()> {
        if self.eof {
            return Ok(());
        }
        self.buffer.copy_within(self.position..self.filled, 0);
        self.filled -= self.position;
        self.position = 0;
        if self.filled == self.buffer.len() {
            if self.filled >= MAX_RECORD {
                let message = format!("a record is longer than {} MiB", MAX_RECORD >> 20);
                return Err(self.error(self.line, message).with_hint("is a quote not closed?"));
            }
            self.buffer.resize(self.filled * 2, 0);
        }
        while self.filled < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => {
                    self.eof = true;
                    break;
                }
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(crate::location::read_error(&self.file, e)),
            }
        }
        Ok(())
    }

    fn skip_byte_order_mark(&mut self) -> Result<()> {
        let start = &self.buffer[self.position..self.filled];
        if start.starts_with(b"\xef\xbb\xbf") {
            self.position += 3;
        } else if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
            return Err(Error::data_quality(format!("{}: the file is UTF-16", self.file))
                .with_hint("convert it to UTF-8, for example with iconv"));
        }
        Ok(())
    }

    fn check_width(&mut self, first: usize) -> Result<()> {
        let found = self.spans.len() - first;
        let line = self.lines.last().copied().unwrap_or(self.line);
        match self.width {
            None => self.width = Some(found),
            Some(width) if width != found => {
                return Err(self.error(line, format!("{width} fields were expected, {found} were found")).with_hint(
                    "a delimiter or a line break inside a value must be quoted; see also the options delimiter and quote",
                ));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Cuts the record at `position` into spans.
    fn cut(&mut self) -> Result<Cut> {
        let begin = self.position;
        let buffer = &self.buffer[..self.filled];
        if self.syntax.comment.is_some_and(|c| buffer[begin] == c) {
            return Ok(match memchr::memchr(b'\n', &buffer[begin..]) {
                Some(n) => {
                    self.position = begin + n + 1;
                    self.line += 1;
                    Cut::Nothing
                }
                None if self.eof => {
                    self.position = self.filled;
                    Cut::Nothing
                }
                None => Cut::Incomplete,
            });
        }
        let first = self.spans.len();
        let mut quoted = false;
        let mut p = begin;
        loop {
            if p < buffer.len() && Some(buffer[p]) == self.syntax.quote {
                quoted = true;
                let Some((end, escaped)) = closing_quote(buffer, p + 1, &self.syntax) else {
                    if self.eof {
                        return Err(self.error(self.line, "a quote that opens in this record is not closed"));
                    }
                    return Ok(Cut::Incomplete);
                };
                if escaped {
                    self.escaped.push(self.spans.len());
                }
                self.spans.push(Span { start: (p + 1) as u32, end: end as u32 | QUOTED });
                p = end + 1;
                if p < buffer.len() && !self.special[buffer[p] as usize] {
                    let column = self.spans.len() - first;
                    return Err(self
                        .error(self.line, format!("field {column} goes on after its closing quote"))
                        .with_hint("double a quote inside a quoted value, or set the option escape"));
                }
            } else {
                let start = p;
                while p < buffer.len() && !self.special[buffer[p] as usize] {
                    p += 1;
                }
                self.spans.push(Span { start: start as u32, end: p as u32 });
            }
            // `p` is at a delimiter, at a line break or at the end of the buffer.
            if p == buffer.len() {
                if !self.eof {
                    return Ok(Cut::Incomplete);
                }
                break;
            }
            let byte = buffer[p];
            p += 1;
            if byte == self.syntax.delimiter {
                continue;
            }
            if byte == b'\r' {
                match buffer.get(p) {
                    Some(b'\n') => p += 1,
                    None if !self.eof => return Ok(Cut::Incomplete),
                    _ => {}
                }
            }
            break;
        }
        self.position = p;
        let line = self.line;
        self.line += 1;
        if !quoted {
            let blank = self.spans.len() == first + 1 && self.spans[first].start == self.spans[first].end;
            // In a file of one column an empty line is a row.
            if blank && self.width.is_none_or(|w| w != 1) {
                return Ok(Cut::Nothing);
            }
        } else {
            let breaks = memchr::memchr_iter(b'\n', &buffer[begin..p]).count() as u64;
            self.line += breaks.saturating_sub(u64::from(buffer[p - 1] == b'\n'));
            self.unescape();
        }
        self.lines.push(line);
        Ok(Cut::Record)
    }

    /// Takes escapes out of the record's fields, in place: a field only gets shorter.
    fn unescape(&mut self) {
        for index in self.escaped.drain(..) {
            let span = self.spans[index];
            let (start, end) = (span.start as usize, (span.end & !QUOTED) as usize);
            let escape = self.syntax.escape.or(self.syntax.quote);
            let mut to = start;
            let mut from = start;
            while from < end {
                if Some(self.buffer[from]) == escape && from + 1 < end {
                    from += 1;
                }
                self.buffer[to] = self.buffer[from];
                to += 1;
                from += 1;
            }
            self.spans[index].end = to as u32 | QUOTED;
        }
    }
}

/// The position of the quote that closes a field, and whether the field holds escapes. `None`: not in this buffer.
fn closing_quote(buffer: &[u8], mut p: usize, syntax: &Syntax) -> Option<(usize, bool)> {
    let quote = syntax.quote?;
    let mut escaped = false;
    loop {
        match syntax.escape {
            Some(escape) if escape != quote => {
                p += memchr::memchr2(quote, escape, &buffer[p..])?;
                if buffer[p] == escape {
                    escaped = true;
                    p += 2;
                    if p > buffer.len() {
                        return None;
                    }
                    continue;
                }
                return Some((p, escaped));
            }
            _ => {
                p += memchr::memchr(quote, &buffer[p..])?;
                match buffer.get(p + 1) {
                    Some(next) if *next == quote => {
                        escaped = true;
                        p += 2;
                    }
                    // At the end of the buffer the next byte decides; at the end of the file there is none, and the
                    // caller's look at `eof` comes too late, so a closing quote at the very end counts as closed: a
                    // refill cuts the record anew because nothing terminates it yet.
                    _ => return Some((p, escaped)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Gives one byte at a time, so that every boundary is met.
    struct Trickle(Vec<u8>, usize);
    impl Read for Trickle {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            if self.1 == self.0.len() || out.is_empty() {
                return Ok(0);
            }
            out[0] = self.0[self.1];
            self.1 += 1;
            Ok(1)
        }
    }

    fn cut(text: &[u8], syntax: Syntax) -> Result<Vec<Vec<String>>> {
        let mut records = Records::new(Box::new(Trickle(text.to_vec(), 0)), "f.csv", syntax);
        // A tiny buffer makes every record meet its end.
        records.buffer = vec![0; 4];
        let mut rows = Vec::new();
        while records.read(3)? > 0 {
            for row in 0..records.rows() {
                let fields = (0..records.width()).map(|c| {
                    let (bytes, quoted) = records.field(row, c);
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    if quoted { format!("<{text}>") } else { text }
                });
                rows.push(fields.collect());
            }
        }
        Ok(rows)
    }

    #[test]
    fn quotes_line_breaks_and_empty_fields() {
        let text = b"a,b,c\r\n1,\"x, \"\"y\"\"\nz\",\r\n\r\n,\"\",3\n\"\"\"\",b\"c,\"d\"";
        let rows = cut(text, Syntax::default()).unwrap();
        assert_eq!(
            rows,
            [vec!["a", "b", "c"], vec!["1", "<x, \"y\"\nz>", ""], vec!["", "<>", "3"], vec!["<\">", "b\"c", "<d>"],]
        );
    }

    #[test]
    fn lines_are_counted_across_quoted_line_breaks_blank_lines_and_comments() {
        let syntax = Syntax { comment: Some(b'#'), ..Syntax::default() };
        let error = cut(b"a,b\n# note\n\n\"x\ny\",2\n3\n", syntax).unwrap_err();
        assert_eq!(error.to_string(), "f.csv, line 6: 2 fields were expected, 1 were found");
        let error = cut(b"a,b\n1,\"2\n3,4\n", syntax).unwrap_err();
        assert!(error.to_string().starts_with("f.csv, line 2: a quote"), "{error}");
        let error = cut(b"a,b\n1,\"2\"3\n", syntax).unwrap_err();
        assert!(error.to_string().contains("line 2: field 2 goes on after"), "{error}");
    }

    #[test]
    fn other_syntaxes() {
        let syntax = Syntax { delimiter: b'\t', quote: Some(b'\''), escape: Some(b'\\'), comment: None };
        assert_eq!(cut(b"a\t'b\\'\\\\'\n", syntax).unwrap(), [vec!["a", "<b'\\>"]]);
        let syntax = Syntax { quote: None, ..Syntax::default() };
        assert_eq!(cut(b"\"a,b\"\n", syntax).unwrap(), [vec!["\"a", "b\""]]);
    }

    #[test]
    fn one_column_keeps_its_empty_lines_and_a_byte_order_mark_goes() {
        assert_eq!(
            cut(b"\xef\xbb\xbfa\n\nb\n", Syntax::default()).unwrap(),
            [vec!["a".to_owned()], vec![String::new()], vec!["b".to_owned()]]
        );
        assert!(cut(b"\xff\xfea\0", Syntax::default()).unwrap_err().to_string().contains("UTF-16"));
        assert!(cut(b"", Syntax::default()).unwrap().is_empty());
    }
}
