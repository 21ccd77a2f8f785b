//! Names and quoting: what a load calls its tables, and how names and texts stand in SQL.

use dpone_engine::{Error, LoadSpec, Relation, Result};
use dpone_planner::plan::RESERVED_PREFIX;

/// Bytes of a name that the server keeps; it cuts longer ones, so that two of them could become one.
pub(crate) const MAX_NAME: usize = 63;

pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn relation(table: &Relation) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// A text literal. Sessions have standard_conforming_strings on; a backslash still takes the form that does not depend
/// on it.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// Refuses what the server would refuse, or cut silently.
pub(crate) fn check(what: &str, name: &str) -> Result<()> {
    let wrong = if name.is_empty() {
        "is empty".to_owned()
    } else if name.contains('\0') {
        "holds a NUL byte".to_owned()
    } else if name.len() > MAX_NAME {
        format!("has {} bytes, and PostgreSQL keeps {MAX_NAME}", name.len())
    } else {
        return Ok(());
    };
    Err(Error::configuration(format!("the {what} name {:?} {wrong}", name.replace('\0', "\u{fffd}")))
        .with_hint("give it a shorter name, for example with AS in a query"))
}

/// The tables of one load's staging area. Made from the load id and a digest of load and target: no two loads share
/// one, however long their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StagingNames {
    pub(crate) schema: String,
    suffix: String,
}

impl StagingNames {
    /// In the target's schema unless the definition names another: a role that may load a table can then stage for it,
    /// and a finished table is swapped in without moving.
    pub(crate) fn new(load: &LoadSpec, target: &Relation) -> Self {
        let readable: String =
            load.load_id.chars().filter(char::is_ascii_alphanumeric).take(26).collect::<String>().to_ascii_lowercase();
        let digest = fnv(&[load.load_id.as_str(), &load.pipeline, &target.schema, &target.name]);
        Self {
            schema: load.staging_schema.clone().unwrap_or_else(|| target.schema.clone()),
            suffix: format!("{readable}_{digest:016x}"),
        }
    }

    fn named(&self, part: &str) -> Relation {
        Relation::new(&self.schema, format!("{RESERVED_PREFIX}{part}_{}", self.suffix))
    }

    /// Rows that wait to be applied.
    pub(crate) fn rows(&self) -> Relation {
        self.named("s")
    }

    /// The finished table that becomes the target.
    pub(crate) fn finished(&self) -> Relation {
        self.named("f")
    }

    /// What was decided for the load, and which partitions are complete.
    pub(crate) fn ledger(&self) -> Relation {
        self.named("p")
    }

    /// An index of the finished table until it takes the old one's name.
    pub(crate) fn index(&self, ordinal: usize) -> String {
        self.named(&format!("i{ordinal}")).name
    }
}

/// FNV-1a: stable across versions and machines, which is all that a name needs.
fn fnv(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_only_ever_a_name_or_a_literal() {
        assert_eq!(quote("we\"ird; drop table"), "\"we\"\"ird; drop table\"");
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert!(check("column", &"ü".repeat(31)).is_ok() && check("column", &"ü".repeat(32)).is_err());
        assert!(check("column", "a\0b").is_err() && check("column", "").is_err());
    }
}
