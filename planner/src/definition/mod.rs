//! What the user wrote: two front doors, YAML manifests and SQL, to one [`Project`] of connections and pipelines.
//!
//! [`load`] reads definition files. YAML becomes a located tree, is held against the schema of [`manifest`]'s types, and is
//! lowered; SQL statements become the same tree, so that both doors know the same options and refuse the same
//! combinations.

mod backfill;
mod batch;
mod check;
mod connection;
mod load;
mod located;
mod lower;
pub mod manifest;
mod naming;
mod nearest;
mod pipeline;
mod problems;
mod render;
mod schema;
mod sql;
mod vars;
mod yaml;

pub use backfill::{Backfill, ChunkLoad, InnerLoad, Ledger, RetryPolicy, Throttle};
pub use connection::{Connection, OptionValue, Options};
pub use load::{Files, load};
pub use nearest::nearest;
pub use pipeline::{
    Cadence, CompareBy, CursorOptions, DeletePolicy, DuplicatePolicy, EmptySource, GoneRows, Guards, History, Lag,
    Lineage, MissingRows, NullKeys, OverwriteType, PartitionScope, Pipeline, Project, ReadOptions, Reconciliation,
    Scope, SinkSpec, SoftDelete, SourceQuery, SourceSpec, StateSpec, Strategy, TrackedChange, Tuning, UnsupportedMode,
    VersionWrite, Xmin,
};
pub use render::{render, to_yaml};
pub use schema::{SchemaKind, json_schema};

#[cfg(test)]
mod tests;
