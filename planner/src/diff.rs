//! The comparison of a source with a target, row by row by key, as one logical node.
//!
//! Both inputs carry, beside their columns, the hash of the row's key and a digest of its values; the comparing
//! strategies make them with [`crate::row_hash`]. The output is the change set: only rows that differ.
//!
//! An input of its own kind, rather than a full join, because a join would copy every matched row before a filter drops
//! most of them, and because the comparison counts what it sees on the way: rows, NULLs and duplicates in keys.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, DFSchemaRef, Result as DataFusionResult, plan_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::error::Result;

/// Column of both inputs: the hash of the key, `FixedSizeBinary(16)`.
pub const KEY_HASH: &str = "__dpone__key";
/// Column of both inputs: the digest of the values, `FixedSizeBinary(16)`, `Binary`, or, where a stored hash is read back,
/// text of 32 hexadecimal digits. A NULL digest equals none.
pub const DIGEST: &str = "__dpone__digest";
/// Optional column of the target input, Boolean: the row is there but counts as deleted. It is not missing again, and
/// changed when its key comes back.
pub const GONE: &str = "__dpone__gone";
/// The output's last column, Int8: which of the changes below a row is.
pub const CHANGE: &str = "__dpone__change";

/// A key that the target has not.
pub const NEW: i8 = 0;
/// A key whose values differ; the row is the source's.
pub const CHANGED: i8 = 1;
/// A key that the source has no more; the row holds the target's key and carried columns, and NULL elsewhere.
pub const MISSING: i8 = 2;
/// The target's row of a changed key: its key and carried columns, and NULL elsewhere.
pub const REPLACED: i8 = 3;

/// How the two sides meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The target's keys and digests lie in memory; the source streams past them.
    Hash,
    /// Both sides are split by key hash into parts on disk, and each part is compared like that.
    Partitioned { parts: u16 },
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash => f.write_str("hash"),
            Self::Partitioned { parts } => write!(f, "partitioned ({parts} parts)"),
        }
    }
}

/// What a comparison does. Serialisable: it travels with the physical node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct DiffSpec {
    pub method: Method,
    /// The key's columns, on both sides.
    pub key: Vec<String>,
    /// Columns of the target that travel with [`MISSING`] and [`REPLACED`] rows.
    pub carried: Vec<String>,
    /// Give a row for each key that the source has no more.
    pub missing: bool,
    /// Give the target's row beside each changed one.
    pub replaced: bool,
    /// Leave out and count source rows with a NULL in the key; else they fail the run.
    pub quarantine_null_keys: bool,
}

/// The logical node. Inputs: the source (its columns, then [`KEY_HASH`] and [`DIGEST`]) and the target (key, carried
/// columns, [`KEY_HASH`], [`DIGEST`], and [`GONE`] where rows may be marked).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    source: Arc<LogicalPlan>,
    target: Arc<LogicalPlan>,
    spec: DiffSpec,
    schema: DFSchemaRef,
}

impl Diff {
    /// `columns` are the source's columns as the output has them, and then the carried ones.
    pub fn plan(source: LogicalPlan, target: LogicalPlan, spec: DiffSpec, columns: Vec<Field>) -> Result<LogicalPlan> {
        let fields: Vec<Field> = columns
            .into_iter()
            // A row that is missing from the source has only its key.
            .map(|field| {
                let nullable = !spec.key.contains(field.name()) || field.is_nullable();
                field.with_nullable(nullable)
            })
            .chain([Field::new(CHANGE, DataType::Int8, false)])
            .collect();
        let schema = Arc::new(DFSchema::try_from(Schema::new(fields))?);
        let node = Self { source: Arc::new(source), target: Arc::new(target), spec, schema };
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    pub fn spec(&self) -> &DiffSpec {
        &self.spec
    }

    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::clone(self.schema.inner())
    }
}

impl Hash for Diff {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.source, &self.target, &self.spec).hash(state);
    }
}

impl PartialOrd for Diff {
    fn partial_cmp(&self, _: &Self) -> Option<Ordering> {
        None
    }
}

impl UserDefinedLogicalNodeCore for Diff {
    fn name(&self) -> &str {
        "Diff"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.source, &self.target]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Diff: {}", self.spec)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DataFusionResult<Self> {
        let Ok([source, target]) = <[LogicalPlan; 2]>::try_from(inputs) else {
            return plan_err!("a comparison has two inputs");
        };
        Ok(Self { source: Arc::new(source), target: Arc::new(target), ..self.clone() })
    }
}

impl fmt::Display for DiffSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "method={}, key=[{}]", self.method, self.key.join(", "))?;
        if self.missing {
            f.write_str(", missing keys")?;
        }
        if self.replaced {
            f.write_str(", replaced rows")?;
        }
        Ok(())
    }
}
