//! What the system tables say about a relation: its engine and columns, its keys and size.

use dpone_planner::definition::nearest;
use dpone_planner::{Error, Relation, Result};

use crate::client::{Server, Statement};
use crate::settings::VIRTUAL;

/// A relation as it is.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// With the database in which it was found.
    pub relation: Relation,
    /// Another one of the same name has another; all zeros in a database that is not Atomic.
    pub uuid: String,
    pub engine: String,
    /// Names and types of the columns that `SELECT *` shows.
    pub columns: Vec<(String, String)>,
    /// Columns that are computed, which `SELECT *` does not show.
    pub computed: Vec<String>,
    /// The expressions that rows are sorted by.
    pub sorting_key: String,
    pub sorting_columns: Vec<String>,
    pub primary_key: String,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
}

impl Table {
    /// Whether parts of it are kept here.
    pub(crate) fn has_parts(&self) -> bool {
        self.engine.ends_with("MergeTree")
    }

    /// Whether virtual columns say of each row which part it is in.
    pub(crate) fn tells_parts(&self) -> bool {
        self.has_parts()
            && !self
                .columns
                .iter()
                .map(|(name, _)| name)
                .chain(&self.computed)
                .any(|name| VIRTUAL.contains(&name.as_str()))
    }

    /// Whether rows take the place of others when parts are merged, so that what it means is what FINAL shows.
    pub(crate) fn is_merging(&self) -> bool {
        self.has_parts() && !matches!(self.family(), "MergeTree")
    }

    /// Whether FINAL leaves one row for each sorting key.
    pub(crate) fn is_unique(&self) -> bool {
        matches!(self.family(), "ReplacingMergeTree" | "SummingMergeTree" | "AggregatingMergeTree")
    }

    /// The engine without what says where its parts are.
    fn family(&self) -> &str {
        let engine = self.engine.strip_prefix("Replicated").unwrap_or(&self.engine);
        engine.strip_prefix("Shared").unwrap_or(engine)
    }
}

/// The database and name that a relation means on this connection.
pub(crate) fn located(server: &Server, relation: &Relation) -> Result<Relation> {
    if let Some(database) = &relation.database {
        return Err(Error::configuration(format!(
            "{relation}: a table of ClickHouse is named by its database and itself, and {database:?} is one too many"
        ))
        .with_hint("write database.table"));
    }
    let schema = if relation.schema.is_empty() { &server.config().database } else { &relation.schema };
    Ok(Relation::new(schema.clone(), relation.name.clone()))
}

/// The relation, or `None` when there is none of that name. An empty schema means the connection's database.
pub(crate) async fn find(server: &Server, relation: &Relation) -> Result<Option<Table>> {
    let relation = located(server, relation)?;
    let ask = |sql: &str| Statement::new(sql).parameter("database", &relation.schema).parameter("name", &relation.name);
    type Row = (String, String, String, String, Option<u64>, Option<u64>);
    let of_table =
        ask("SELECT toString(uuid), engine, sorting_key, primary_key, total_rows, total_bytes FROM system.tables \
         WHERE database = {database:String} AND name = {name:String}");
    let of_columns = ask("SELECT name, type, default_kind, is_in_sorting_key FROM system.columns \
         WHERE database = {database:String} AND table = {name:String} ORDER BY position");
    let (row, found) =
        tokio::try_join!(server.row::<Row>(of_table), server.rows::<(String, String, String, u8)>(of_columns))?;
    let Some((uuid, engine, sorting_key, primary_key, rows, bytes)) = row else { return Ok(None) };
    let (shown, hidden): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(_, _, kind, _)| matches!(kind.as_str(), "" | "DEFAULT"));
    Ok(Some(Table {
        relation,
        uuid,
        engine,
        sorting_columns: shown.iter().filter(|(_, _, _, key)| *key == 1).map(|(name, ..)| name.clone()).collect(),
        columns: shown.into_iter().map(|(name, native, ..)| (name, native)).collect(),
        computed: hidden.into_iter().filter(|(_, _, kind, _)| kind != "EPHEMERAL").map(|(name, ..)| name).collect(),
        sorting_key,
        primary_key,
        rows,
        bytes,
    }))
}

/// The relation, or an error that lists names that are near.
pub(crate) async fn require(server: &Server, relation: &Relation) -> Result<Table> {
    if let Some(table) = find(server, relation).await? {
        return Ok(table);
    }
    let wanted = located(server, relation)?.to_string();
    let names: Vec<(String, String)> = server
        .rows(
            "SELECT database, name FROM system.tables WHERE NOT is_temporary \
             AND database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema') \
             AND NOT startsWith(name, '.inner') AND NOT startsWith(name, '__dpone__') ORDER BY 1, 2 LIMIT 5000",
        )
        .await?;
    let full: Vec<String> = names.iter().map(|(database, name)| format!("{database}.{name}")).collect();
    let elsewhere: Vec<&str> = names
        .iter()
        .zip(&full)
        .filter(|((_, name), _)| *name == relation.name)
        .map(|(_, full)| full.as_str())
        .take(3)
        .collect();
    let hint = if !elsewhere.is_empty() {
        format!("there is {}", elsewhere.join(", "))
    } else if let Some(near) = nearest(&wanted, full.iter().map(String::as_str)) {
        format!("did you mean {near}?")
    } else if full.is_empty() {
        "the server has no table that this user sees".to_owned()
    } else {
        format!("there is {}{}", full[..full.len().min(8)].join(", "), if full.len() > 8 { ", …" } else { "" })
    };
    Err(Error::configuration(format!("there is no table {wanted}")).with("table", wanted).with_hint(hint))
}
