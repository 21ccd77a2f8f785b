//! One prepared read: which columns of what, filtered how, in which partitions. It is its own description: another
//! process reads the same partitions from the JSON, as long as the snapshot is open.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::Scan;
use dpone_planner::{Error, Result};
use serde::{Deserialize, Serialize};

use super::copy::CopyOut;
use super::snapshot::Held;
use crate::client::Server;
use crate::types::Decode;

/// Everything about a read but the connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ScanSpec {
    pub connection: String,
    /// For messages: the table's name, or `query`.
    pub table: String,
    /// `None`: each partition, and there is one, has a transaction of its own.
    pub snapshot: Option<String>,
    /// What is selected, column by column, in the order of the schema.
    pub select: Vec<String>,
    pub decode: Vec<Decode>,
    pub schema: SchemaRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    pub partitions: Vec<PartitionSpec>,
    /// Target rows of a batch when the caller asks for more.
    pub batch_rows: usize,
    pub rows: Option<u64>,
}

/// A part of the rows. All parts together are all rows, and no row is in two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartitionSpec {
    /// What stands after FROM.
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
}

impl ScanSpec {
    pub(super) fn sql(&self, partition: usize) -> Result<String> {
        let part = self.partitions.get(partition).ok_or_else(|| {
            Error::internal(format!("{}: there is no partition {partition} of {}", self.table, self.partitions.len()))
        })?;
        let mut sql = format!("SELECT {} FROM {}", self.select.join(", "), part.from);
        let conditions: Vec<_> =
            part.predicate.iter().chain(&self.filter).map(|condition| format!("({condition})")).collect();
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
        }
        if let Some(limit) = self.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        Ok(sql)
    }
}

/// A [`ScanSpec`] with the server to run it on.
#[derive(Debug)]
pub(super) struct PostgresScan {
    pub server: Server,
    pub spec: ScanSpec,
    /// The snapshot, where this process holds it.
    pub held: Option<Arc<Held>>,
}

impl Scan for PostgresScan {
    fn connection(&self) -> &str {
        &self.spec.connection
    }

    fn spec(&self) -> serde_json::Value {
        // Strings, numbers and a schema: nothing in it can fail to serialise.
        serde_json::to_value(&self.spec).unwrap_or_default()
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.spec.schema)
    }

    fn partitions(&self) -> usize {
        self.spec.partitions.len()
    }

    fn describe(&self, partition: usize) -> String {
        self.spec.sql(partition).unwrap_or_default()
    }

    fn rows_estimate(&self) -> Option<u64> {
        match (self.spec.filter.is_some(), self.spec.rows, self.spec.limit) {
            (false, rows, None) => rows,
            (false, Some(rows), Some(limit)) => Some(rows.min(limit as u64)),
            _ => None,
        }
    }

    fn read(&self, partition: usize, batch_rows: usize) -> Result<SendableRecordBatchStream> {
        let copy = CopyOut {
            server: self.server.clone(),
            snapshot: self.spec.snapshot.clone(),
            query: self.spec.sql(partition)?,
            schema: self.schema(),
            decode: self.spec.decode.clone(),
            batch_rows: match self.spec.batch_rows {
                0 => batch_rows,
                own => own.min(batch_rows.max(1)),
            },
            table: self.spec.table.clone(),
            partition,
        };
        copy.start(self.held.clone())
    }
}
