//! Columns for values that do not fit the column they are meant for: `__dpone__nc__<column>`.

use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};

use super::lattice::{Fit, fit};
use super::policy::EvolutionPolicy;
use crate::dialect::Dialect;
use crate::plan::RESERVED_PREFIX;
use crate::types::GENERATED;

pub(super) struct VariantColumn {
    pub(super) field: FieldRef,
    /// The target has it, and it holds the values.
    pub(super) exists: bool,
}

/// The column that takes the values of `source`: the one that the target has, where it holds them, else a new one. It
/// takes NULL: a row has its value in one of the two.
pub(super) fn column(
    source: &Field,
    target: &Schema,
    dialect: &dyn Dialect,
    policy: &EvolutionPolicy,
) -> VariantColumn {
    let shape = dialect.shape(source);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let name = name(source.name(), policy, dialect.longest_name(), attempt);
        match target.fields().iter().find(|field| *field.name() == name) {
            Some(there)
                if !is_computed(there) && matches!(fit(&shape, &dialect.shape(there)), Fit::Same | Fit::Narrower) =>
            {
                return VariantColumn { field: Arc::clone(there), exists: true };
            }
            // Values of a third type: they get a column too.
            Some(_) => {}
            None => {
                let field = source.clone().with_name(name).with_nullable(true);
                return VariantColumn { field: Arc::new(field), exists: false };
            }
        }
    }
}

/// The target's columns for values of `column` that did not fit it.
pub fn variants_of(column: &str, target: &Schema, dialect: &dyn Dialect, policy: &EvolutionPolicy) -> Vec<FieldRef> {
    let there = |name: String| target.fields().iter().find(|field| *field.name() == name).cloned();
    let named = (1..).map(|attempt| name(column, policy, dialect.longest_name(), attempt));
    named.map_while(there).filter(|field| !is_computed(field)).collect()
}

/// The server fills it by itself: the new column of a migration is such a one.
fn is_computed(field: &Field) -> bool {
    field.metadata().contains_key(GENERATED)
}

/// The prefix and the column's name. A name that is too long for the system, or not the first, ends in a hash of the whole,
/// so that two columns never share one.
fn name(column: &str, policy: &EvolutionPolicy, longest: usize, attempt: u64) -> String {
    use sha2::{Digest, Sha256};
    let prefix = match policy.new_column_prefix.as_str() {
        "" => "__dpone__nc__",
        prefix => prefix,
    };
    debug_assert!(RESERVED_PREFIX.len() <= longest);
    let plain = format!("{prefix}{column}");
    if attempt == 1 && plain.len() <= longest {
        return plain;
    }
    let digest = Sha256::digest(format!("{attempt}:{plain}").as_bytes());
    let suffix = format!("_{}", crate::state::hex(&digest[..5]));
    let mut end = longest.saturating_sub(suffix.len()).min(plain.len());
    while !plain.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &plain[..end])
}

/// The prefix and the column's name, as one that is not taken.
pub(super) fn free_name(prefix: &str, column: &str, longest: usize, taken: &[String]) -> String {
    let policy = EvolutionPolicy { new_column_prefix: prefix.to_owned(), ..EvolutionPolicy::default() };
    let mut attempt = 1;
    loop {
        let name = name(column, &policy, longest, attempt);
        if !taken.contains(&name) {
            return name;
        }
        attempt += 1;
    }
}
