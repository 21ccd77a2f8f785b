//! Kafka: the types of its records, and the rules by which a Schema Registry judges a new schema. Pure; nothing connects
//! yet.

mod avro;
pub mod compatibility;
pub mod dialect;
mod json;
mod record;
pub mod types;

pub use compatibility::{Kind, Level, Problem, Report, compatibility};
pub use dialect::KafkaDialect;
pub use record::record_schema;

/// As in `type:` of a manifest.
pub const SYSTEM: &str = "kafka";
