//! The port that a connector implements to be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;

use crate::scan::Scan;
use crate::{Relation, Result};

/// A system that tables are read from.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// Begins one consistent read: every table opened through the snapshot, and every partition of it, shows the same
    /// state of the system, where the system can do that. Where it cannot, [`Snapshot::position`] says so.
    async fn snapshot(&self) -> Result<Arc<dyn Snapshot>>;

    /// Rebuilds a scan from [`Scan::spec`], possibly in another process, without I/O. A snapshot named in the spec must be
    /// open when the scan is read.
    fn scan(&self, spec: &serde_json::Value) -> Result<Arc<dyn Scan>>;

    /// The tables and views that can be read, for `connections discover`.
    async fn relations(&self) -> Result<Vec<RelationInfo>>;

    /// Connects, authenticates and asks for the version, for `connections test`.
    async fn test(&self) -> Result<ServerInfo>;

    /// The place that is read, without secrets: the same text means the same place. `None`: the connection's options
    /// say it.
    fn identity(&self) -> Option<String> {
        None
    }
}

/// One consistent read in progress. Dropping it releases it; `close` does so in order.
#[async_trait]
pub trait Snapshot: Debug + Send + Sync {
    /// Opens a table or a native query. Fails with a hint that lists near names when it does not exist.
    async fn table(&self, request: &ReadRequest) -> Result<SourceTable>;

    /// What the read is consistent with, for the evidence: a snapshot id, an LSN, a table version, file names.
    fn position(&self) -> String;

    async fn close(&self) -> Result<()>;

    /// Fails with `conflict` when what was read is no longer what the snapshot began with. Asked once everything is
    /// staged, before the commit, for systems whose snapshot does not keep others from writing, such as files.
    async fn verify(&self) -> Result<()> {
        Ok(())
    }
}

/// What to open.
#[derive(Debug, Clone, Default)]
pub struct ReadRequest {
    pub target: ReadTarget,
    /// How many partitions the scan should have at most; the connector may choose fewer.
    pub parallelism: usize,
    /// Target rows of a batch; a connector also bounds a batch by bytes.
    pub batch_rows: usize,
    /// Columns to carry in the system's own representation, because they go unread into the same system: exact for
    /// every value, and free of conversions. See `dpone_planner::types::CARRIAGE`.
    pub raw: BTreeSet<String>,
    /// Whether texts and bytes may be given as views of what was read. For a connector that has them so, and would copy
    /// them else.
    pub views: bool,
    /// Declared logical types by column.
    pub types: BTreeMap<String, String>,
    /// Only what changed, instead of all rows. A connector that cannot tell leaves [`SourceTable::changes`] empty.
    pub changes: Option<ChangeRequest>,
}

/// What changed since an earlier read.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeRequest {
    pub reader: ChangeReader,
    /// The position that the earlier read gave, see [`ChangeRead::position`]; `None`: read everything, and give a position.
    pub since: Option<serde_json::Value>,
    /// Give only what no later read can give again, at the price of giving it later; `false`: give all that is visible.
    pub settled: bool,
}

/// How changes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeReader {
    /// By the transactions that wrote the row versions.
    Xmin,
}

impl ChangeReader {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xmin => "xmin",
        }
    }
}

/// What a read of changes covers.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeRead {
    /// Where the next read begins. It belongs into the state, in the commit of these rows. The connector's own shape,
    /// with a version.
    pub position: serde_json::Value,
    /// The position for people, such as `transactions before 4711`.
    pub summary: String,
    /// Why everything is read although a position was given: the position no longer says what changed.
    pub started_over: Option<String>,
    /// Rows may have gone without a trace since the position (a partition was truncated or detached): only a comparison
    /// of all keys finds them. Also set when the read started over.
    pub rows_gone: bool,
    /// Why rows that an earlier read gave may be given again although they did not change and the read was to be
    /// settled; `None`: they are not.
    pub repeats: Option<String>,
}

#[derive(Debug, Clone)]
pub enum ReadTarget {
    Table(Relation),
    /// A query in the system's own dialect.
    Query(String),
}

impl Default for ReadTarget {
    fn default() -> Self {
        Self::Table(Relation::new("", ""))
    }
}

/// An open table.
#[derive(Debug, Clone)]
pub struct SourceTable {
    /// The fields carry the native type in their metadata, see `dpone_planner::types`. Filters, projection and limit
    /// are pushed down where the system evaluates them exactly as DataFusion would.
    pub provider: Arc<dyn TableProvider>,
    /// The primary key, or empty.
    pub key: Vec<String>,
    /// Estimates from the system's statistics.
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    /// What the connector assumed and the user should see: inferred types, a missing snapshot.
    pub notes: Vec<String>,
    /// What is covered, where changes were asked for.
    pub changes: Option<ChangeRead>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct RelationInfo {
    pub relation: Relation,
    /// `table`, `view`, `materialized_view`, `partitioned_table`, `foreign_table`, `file`
    pub kind: String,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct ServerInfo {
    pub system: String,
    pub version: String,
    /// Facts worth showing: database, user, encryption, encoding, time zone. No secrets.
    pub details: BTreeMap<String, String>,
}
