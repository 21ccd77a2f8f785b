//! Doing it: takes the pipeline's lease, stages the batches of a load plan, verifies, and commits data and state in
//! one step.
//!
//! The engine defines the ports ([`Source`], [`Sink`], [`StateStore`]) that a connector implements, and knows no
//! system. See `docs/concepts.md` for the commit protocol.

pub mod backfill;
pub mod codec;
pub mod connections;
pub mod diff;
mod error_class;
pub mod evidence;
pub mod failpoint;
pub mod federation;
mod partitions;
pub mod probe;
pub mod pruning;
pub mod receipt;
pub mod repeat;
pub mod retry;
pub mod run;
pub mod scan;
pub mod schema;
pub mod sift;
pub mod sink;
pub mod source;
pub mod stage;
pub mod state;
pub mod tally;
pub mod testing;

pub use connections::{Connections, Connector, ResolvedConnection};
pub use dpone_planner::{Error, ErrorKind, Relation, Result, Secret};
pub use error_class::{ErrorClassifier, ErrorRule};
pub use receipt::{Receipt, RowCounts};
pub use scan::{Scan, ScanExec};
pub use sink::{Capabilities, Commit, Evolution, Evolved, LoadSpec, Sink, StagedPartition, TargetTable};
pub use source::{
    ChangeRead, ChangeReader, ChangeRequest, ReadRequest, RelationInfo, ServerInfo, Snapshot, Source, SourceTable,
};
pub use state::{Forgotten, Lease, LeaseRequest, StateLocation, StateStore};
