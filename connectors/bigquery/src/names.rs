//! Which names BigQuery can hold: quoting does not help a name that it refuses.

use dpone_planner::{Error, Relation, Result};

const LONGEST_COLUMN: usize = 300;
const LONGEST_TABLE: usize = 1024;
/// Columns of these names are BigQuery's own, in any case.
const RESERVED: &[&str] = &[
    "_TABLE_",
    "_FILE_",
    "_PARTITION",
    "_ROW_TIMESTAMP",
    "__ROOT__",
    "_COLIDENTIFIER",
    "_CHANGE_SEQUENCE_NUMBER",
    "_CHANGE_TYPE",
    "_CHANGE_TIMESTAMP",
];
/// Punctuation that a flexible column name may hold.
const FLEXIBLE: &str = "_-&%=+:'<>#| ";

/// An identifier in backticks, with the escapes of a string.
pub(crate) fn quote(name: &str) -> String {
    format!("`{}`", escaped(name, '`'))
}

/// A text in single quotes.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", escaped(text, '\''))
}

fn escaped(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\000"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

pub(crate) fn check_column(name: &str) -> Result<()> {
    let upper = name.to_uppercase();
    let strange = |c: &char| !(c.is_alphanumeric() || is_mark(*c) || FLEXIBLE.contains(*c));
    let problem = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.chars().count() > LONGEST_COLUMN {
        format!("it has more than {LONGEST_COLUMN} characters")
    } else if let Some(reserved) = RESERVED.iter().find(|reserved| upper.starts_with(*reserved)) {
        format!("the prefix {reserved} is BigQuery's own")
    } else if let Some(c) = name.chars().find(strange) {
        format!("it holds {c:?}")
    } else {
        return Ok(());
    };
    Err(refused("column", name, &problem))
}

/// Accents that stand for themselves: they belong to the letter before.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}' | '\u{900}'..='\u{903}'
        | '\u{93a}'..='\u{94f}' | '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{20d0}'..='\u{20f0}')
}

pub(crate) fn check_table(table: &Relation) -> Result<()> {
    if let Some(project) = &table.database {
        let holds = |c: char| c.is_ascii_alphanumeric() || "-:._".contains(c);
        if project.is_empty() || !project.chars().all(holds) {
            return Err(refused("project", project, "it is made of letters, digits, dashes, colons and dots"));
        }
    }
    let dataset = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if table.schema.is_empty() || table.schema.len() > LONGEST_TABLE || !table.schema.chars().all(dataset) {
        return Err(refused("dataset", &table.schema, "it is made of ASCII letters, digits and underscores"));
    }
    let letters = |c: char| c.is_alphanumeric() || is_mark(c) || "_- ".contains(c);
    if table.name.is_empty() || table.name.len() > LONGEST_TABLE || !table.name.chars().all(letters) {
        return Err(refused("table", &table.name, "it is made of letters, digits, underscores, dashes and blanks"));
    }
    Ok(())
}

fn refused(what: &str, name: &str, problem: &str) -> Error {
    Error::configuration(format!("BigQuery cannot hold the {what} name {name:?}: {problem}"))
        .with_hint("give it another name: in a query, SELECT … AS …")
}
