//! How results look: for people, as Markdown, as JSON.

pub(crate) mod backfill;
pub(crate) mod batches;
pub(crate) mod error;
pub(crate) mod expand_contract;
pub(crate) mod plan;
pub(crate) mod receipt;
pub(crate) mod runs;
pub(crate) mod schema;
pub(crate) mod table;
pub(crate) mod units;
