//! What a run leaves behind for people and machines: a document that is there from the run's start on, in a folder whose
//! checksums show what was changed later.
//!
//! Nothing here is on the way of a row: an observer hears of stages, partitions and retries, and writes the document when
//! a stage begins. A run that is killed leaves the last one, which says where it stopped.

mod canonical;
mod document;
mod folder;
pub mod metrics;
mod recorder;

pub use canonical::canonical;
pub use document::{
    ConnectionUse, Definition, Failure, Head, NotRun, Outcome, Partition, PartitionStatus, PipelineRun, Plan, Retry,
    RunDocument, SCHEMA_VERSION, StageTime, Staged, Status, json_schema,
};
pub use folder::{DEFAULT_RUNS, Difference, Pruned, PrunedRun, RunFolder, Runs, StoredRun, Verification, host};
pub use recorder::{Begun, Recorder};
