//! The SQL front door: `CREATE CONNECTION` and `CREATE PIPELINE`.
//!
//! A pipeline's clauses and options become the tree of a manifest, so that the checks and the lowering are those of YAML;
//! only the names in messages differ. The query is kept as it is written.

mod lower;
mod options;
mod parse;
mod query;
mod tokens;

pub(super) use lower::lower;
pub(super) use parse::parse;

use super::Connection;
use super::located::{Located, Place};

/// The statements of one file.
#[derive(Debug)]
pub(super) struct Script {
    pub connections: Vec<Connection>,
    pub pipelines: Vec<PipelineStatement>,
}

#[derive(Debug)]
pub(super) struct PipelineStatement {
    pub name: String,
    pub at: Place,
    /// `connection.schema.table`, or with a database before the schema.
    pub target: Vec<(String, Place)>,
    /// `sink.strategy`, `sink.options`, `source.options`, as in a manifest.
    pub settings: Located,
    pub partition_by: Vec<String>,
    pub state_connection: Option<(String, Place)>,
    pub state_table: Option<(String, Place)>,
    pub query: String,
    /// Tables that the query names, with what a name without dots may mean.
    pub tables: query::Tables,
}
