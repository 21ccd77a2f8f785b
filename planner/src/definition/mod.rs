//! What the user wrote: two front doors, YAML manifests and SQL, to one [`Project`] of connections and pipelines.

mod connection;
mod nearest;
mod pipeline;

pub use connection::{Connection, OptionValue, Options};
pub use nearest::nearest;
pub use pipeline::{
    CursorOptions, DeletePolicy, DuplicatePolicy, EmptySource, Guards, Lag, NullKeys, OverwriteType, Pipeline, Project,
    ReadOptions, Scope, SinkSpec, SoftDelete, SourceQuery, SourceSpec, StateSpec, Strategy, Tuning, UnsupportedMode,
};
