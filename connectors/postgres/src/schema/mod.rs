//! Changes of a table's columns: how PostgreSQL spells them, and what each costs.
//!
//! `native` and `types` read the names of types, `conversion` says what a new type does to the stored values, `cost` what
//! a statement locks and reads, `path` the way around one that would stop readers or writers, `ddl` the statements, and
//! `facts` what the catalog knows of a table. What `cost` says is compared with what servers do, on every major version.

mod conversion;
mod cost;
pub(crate) mod ddl;
pub(crate) mod facts;
mod native;
mod operation;
mod path;
pub(crate) mod types;

pub use cost::{MAJORS, cost_of};
pub use operation::{DomainKind, Inline, NewColumn, NewDefault, Operation, TypeChange};

use dpone_planner::Relation;
use dpone_planner::schema::{Cost, SchemaChange, TableFacts};

/// What a change of a plan costs.
pub(crate) fn cost(table: &Relation, facts: &TableFacts, change: &SchemaChange) -> Cost {
    match Operation::of(change) {
        Ok(operation) => cost_of(table, facts, &operation),
        Err(error) => Cost::unsupported(error.to_string()),
    }
}
