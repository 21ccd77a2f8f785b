//! Kafka: the types of its records, and the rules by which a Schema Registry judges a new schema. Pure; nothing connects
//! yet.

pub mod dialect;
pub mod types;

pub use dialect::KafkaDialect;

/// As in `type:` of a manifest.
pub const SYSTEM: &str = "kafka";
