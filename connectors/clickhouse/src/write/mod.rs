//! Writing: staging beside the target, and commits in steps that are written down before they are done.

pub(crate) mod catalog;
mod changes;
pub(crate) mod commit;
pub(crate) mod create;
mod encode;
mod evolve;
pub(crate) mod execution;
pub(crate) mod expand_contract;
pub(crate) mod journal;
mod keys;
mod lanes;
pub(crate) mod names;
mod native;
mod nulls;
pub(crate) mod options;
mod overwrite;
pub(crate) mod recovery;
mod scope;
pub(crate) mod session;
mod sink;
pub(crate) mod staging;
mod texts;
mod version;

pub use sink::ClickHouseSink;
