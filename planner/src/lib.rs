//! What to do: definitions, strategies and schemas.
//!
//! The planner is pure. A definition, the schemas that were observed and the capabilities of the sink go in; a
//! [`plan::LoadPlan`] comes out. It does no I/O, so each decision can be tested, printed and reproduced byte for byte.

pub mod chunk;
pub mod definition;
pub mod dialect;
pub mod diff;
pub mod differ;
pub mod error;
pub mod exact_cast;
pub mod expr;
pub mod literal;
pub mod null_in;
pub mod order;
pub mod partition;
pub mod plan;
pub mod relation;
pub mod row_hash;
pub mod schema;
pub mod secret;
pub mod sift;
pub mod state;
pub mod strategy;
pub mod tally;
pub mod timeline;
pub mod try_cast;
pub mod type_name;
pub mod types;

pub use error::{Error, ErrorKind, Location, Result};
pub use relation::Relation;
pub use secret::Secret;
