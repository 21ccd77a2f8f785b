//! Small tables of text: aligned for people, piped for Markdown.

use crate::args::Format;
use crate::style::Style;

/// A table whose content is known before it is printed.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Columns of numbers, aligned to the right.
    right: Vec<usize>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new(), right: Vec::new() }
    }

    pub(crate) fn right(mut self, column: usize) -> Self {
        self.right.push(column);
        self
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(|cell| visible_lines(&cell.into())).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn render(&self, format: Format, style: Style) -> String {
        match format {
            Format::Md => self.markdown(),
            Format::Text | Format::Json => self.text(style, ""),
        }
    }

    /// Columns two spaces apart; every line begins with `indent`.
    pub(crate) fn text(&self, style: Style, indent: &str) -> String {
        let widths = self.widths();
        let mut out = String::new();
        let header: Vec<String> = self.header.iter().map(|h| (*h).to_owned()).collect();
        out.push_str(&format!("{indent}{}\n", style.dim(self.line(&header, &widths))));
        for row in &self.rows {
            out.push_str(&format!("{indent}{}\n", self.line(row, &widths)));
        }
        out
    }

    fn widths(&self) -> Vec<usize> {
        (0..self.header.len())
            .map(|i| {
                let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
                cells.chain([self.header[i].chars().count()]).max().unwrap_or(0)
            })
            .collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut out = String::new();
        for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
            if i > 0 {
                out.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if self.right.contains(&i) {
                out.push_str(&padding);
                out.push_str(cell);
            } else {
                out.push_str(cell);
                out.push_str(&padding);
            }
        }
        out.trim_end().to_owned()
    }

    fn markdown(&self) -> String {
        let rule = (0..self.header.len()).map(|i| if self.right.contains(&i) { "---:" } else { "---" });
        let mut out = format!("| {} |\n|{}|\n", self.header.join(" | "), rule.collect::<Vec<_>>().join("|"));
        for row in &self.rows {
            let cells: Vec<_> = row.iter().map(|cell| escape(cell)).collect();
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        out
    }
}

/// The text with what would steer a terminal, or turn its direction, as visible escapes.
pub(crate) fn visible(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.chars().any(steers) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if !steers(c) => out.push(c),
            c if u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    out
}

/// The same, but for the ends of lines.
pub(crate) fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// A cell that cannot break its row.
pub(crate) fn escape(cell: &str) -> String {
    cell.replace('\\', "\\\\").replace('|', "\\|").replace("\r\n", "<br>").replace(['\n', '\r'], "<br>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_markdown_cells_stay_in_their_rows() {
        let mut table = Table::new(&["name", "rows"]).right(1);
        table.row(["a|b", "1"]);
        table.row(["ü\nx", "12,345"]);
        assert_eq!(table.text(Style::PLAIN, "").lines().next(), Some("name    rows"));
        assert_eq!(table.text(Style::PLAIN, "  ").lines().nth(1), Some("  a|b        1"));
        assert_eq!(
            table.render(Format::Md, Style::PLAIN),
            "| name | rows |\n|---|---:|\n| a\\|b | 1 |\n| ü<br>x | 12,345 |\n"
        );
    }
}
