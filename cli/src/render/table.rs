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
        self.rows.push(cells.into_iter().map(Into::into).collect());
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
