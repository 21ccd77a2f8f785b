//! Names of what a load makes beside its target, and how names and values are written in statements.
//!
//! Every statement of a commit that changes the target names one of the load's own tables. A run that takes over from
//! another renames those tables first: whatever the other one still sends fails, because its tables are gone.

use dpone_engine::{Error, LoadSpec, Relation, Result};
use sha2::{Digest, Sha256};

use crate::types::quote;

/// The longest name that a table may have: the server makes a file of it, with room for what it appends.
const LONGEST: usize = 200;

/// `database.table`, quoted.
pub(crate) fn relation(table: &Relation) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// Quoted names, with commas between.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

pub(crate) fn check(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains('\0') || name.len() > LONGEST {
        return Err(Error::configuration(format!("ClickHouse cannot hold the {what} name {name:?}"))
            .with_hint(format!("names have 1 to {LONGEST} bytes, and no NUL among them")));
    }
    Ok(())
}

/// What stands for a pipeline in the names of tables: any name, in 16 letters.
pub(crate) fn pipeline_tag(pipeline: &str) -> String {
    let digest = Sha256::digest(pipeline.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The tables of one load, in the staging database.
#[derive(Debug, Clone)]
pub(crate) struct StagingNames {
    pub(crate) database: String,
    /// Of every table of the load.
    pub(crate) prefix: String,
    /// Of every table of any load of the pipeline.
    pub(crate) pipeline_prefix: String,
}

impl StagingNames {
    pub(crate) fn new(load: &LoadSpec, target: &Relation) -> Self {
        let database = load.staging_schema.clone().unwrap_or_else(|| target.schema.clone());
        let pipeline_prefix = format!("__dpone__stage_{}_", pipeline_tag(&load.pipeline));
        Self { database, prefix: format!("{pipeline_prefix}{}_", load.load_id.to_lowercase()), pipeline_prefix }
    }

    fn named(&self, name: &str) -> Relation {
        Relation::new(&self.database, format!("{}{name}", self.prefix))
    }

    /// One attempt at one partition of the load.
    pub(crate) fn attempt(&self, partition: usize, attempt: &str) -> Relation {
        self.named(&format!("p{partition}_{attempt}"))
    }

    /// All staged rows.
    pub(crate) fn rows(&self) -> Relation {
        self.named("rows")
    }

    /// The rows that go into the target as they are, where they are not the staged ones.
    pub(crate) fn fresh(&self) -> Relation {
        self.named("fresh")
    }

    /// The keys that are in the target and staged, and what becomes of them.
    pub(crate) fn keys(&self) -> Relation {
        self.named("keys")
    }

    /// The table that takes the target's place.
    pub(crate) fn next(&self) -> Relation {
        self.named("next")
    }
}

/// A pattern of LIKE that matches exactly the names with this prefix.
pub(crate) fn like(prefix: &str) -> String {
    let escaped = prefix.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%");
    crate::types::literal(&format!("{escaped}%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_itself_alone() {
        assert_eq!(like("a_b%"), "'a\\\\_b\\\\%%'");
        assert_ne!(pipeline_tag("a"), pipeline_tag("b"));
    }
}
