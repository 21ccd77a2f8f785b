//! What is known of a table, beyond its columns, when the cost of a change is judged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The surroundings of a table. Without a catalog nothing of it is known, and whoever judges says what was assumed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Whether a catalog was read: dependents and settings that are not listed do not exist.
    pub observed: bool,
    /// The server's version as a comparable number: `server_version_num` of PostgreSQL, year and month of ClickHouse
    /// (`2408`), the product's year of SQL Server (`2019`). `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Settings of the session that change what a statement does, such as `TimeZone`; names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// What the table is: `table`, `partitioned`, an engine such as `MergeTree`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<Dependent>,
}

impl TableFacts {
    /// The dependents that look at a column.
    pub fn dependents_of<'a>(&'a self, column: &'a str) -> impl Iterator<Item = &'a Dependent> {
        self.dependents.iter().filter(move |dependent| dependent.columns.iter().any(|c| c == column))
    }

    /// Whether the table is known to hold no row.
    pub fn is_empty(&self) -> bool {
        self.observed && self.rows == Some(0)
    }
}

/// Something that hangs on columns of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependent {
    pub kind: DependentKind,
    /// With its schema where it has one of its own.
    pub name: String,
    /// The table's columns that it looks at.
    pub columns: Vec<String>,
    /// As the system prints it, for people and for the fingerprint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub definition: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DependentKind {
    /// `plain`: all of its keys are columns, and it has no predicate.
    Index {
        unique: bool,
        primary: bool,
        plain: bool,
        valid: bool,
    },
    /// `not_null`: it says no more than that this column is not NULL.
    Check {
        validated: bool,
        not_null: Option<String>,
    },
    /// Of this table to another one, or (`inbound`) of another one to this.
    ForeignKey {
        inbound: bool,
        validated: bool,
    },
    Exclusion,
    View,
    MaterializedView,
    GeneratedColumn,
    Policy,
    /// A trigger that names columns: `UPDATE OF`, or in its `WHEN`.
    Trigger,
    /// A rule other than that of a view.
    Rule,
    /// A publication with a list of columns or a row filter.
    Publication,
    Statistics,
    /// The column's type is a domain with a CHECK.
    Domain,
    PartitionKey,
    /// ClickHouse's sorting, primary or sampling key.
    SortingKey,
    /// The engine of a ClickHouse table has the column among its arguments.
    Engine {
        takes: EngineColumn,
    },
    Projection,
    /// A function with a body that the server tracks.
    Function,
    /// A column elsewhere whose type is that of the table's rows.
    RowType,
    /// The table is a partition or a child of another (`child`), or has partitions or children of its own.
    Inheritance {
        child: bool,
    },
}

/// What a column says to the engine of a ClickHouse table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineColumn {
    /// Which row of a key is the last one.
    Version,
    /// Whether that row counts as deleted.
    Deleted,
    /// Whether a row states or takes back.
    Sign,
    /// A number that is added up.
    Sum,
}
