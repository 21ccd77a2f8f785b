//! The execution ledger: which executions ran, of which steps they were made, what each step's models looked like, and
//! so what changed since the last one that succeeded.
//!
//! It lives in a PostgreSQL database, in the tables of the `dpo` schema, or in a SQLite file. The `dpo` command is a
//! thin layer over [`Ledger`]. There is neither Arrow nor DataFusion in here.

mod changes;
mod error;
mod ledger;
mod model;
mod names;
mod postgres;
mod revision;
mod rules;
mod runs;
mod sqlite;
mod target;

pub use changes::changed_models;
pub use error::{Error, ErrorKind, Result};
pub use ledger::{Completion, Ledger, Migration};
pub use model::{Model, find_models};
pub use names::{StepName, parse_id, parse_optional_id};
pub use revision::{Direction, Goal, Revision};
pub use runs::{RunRecord, RunState, Successes};
pub use target::Target;
pub use uuid::Uuid;
