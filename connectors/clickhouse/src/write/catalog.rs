//! What the server's catalog says of a target: columns, keys, engine, parts.

use std::collections::HashMap;

use arrow::datatypes::{Field, FieldRef};
use dpone_engine::{Error, Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{COMMENT, DEFAULT, Dependent, DependentKind, EngineColumn, TableFacts};
use dpone_planner::types::GENERATED;

use super::keys::{closing, has_settings, plain, split_key};
use super::names::relation;
use super::session::{Session, is_missing};
use crate::ClickHouseDialect;
use crate::settings::VIRTUAL;
use crate::types::{literal, quote};

/// What a target is called in statements: no column of people has the name, which would be taken for it.
pub(crate) const TARGET_ALIAS: &str = "__dpone__t";

/// A table as the server has it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) relation: Relation,
    pub(crate) engine: String,
    /// The engine with its arguments, keys and settings, as the server prints them.
    pub(crate) engine_full: String,
    pub(crate) sorting_key: Vec<String>,
    pub(crate) partition_key: Vec<String>,
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) columns: Vec<Column>,
    /// Materialized views that read inserts into it.
    pub(crate) views: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// The type as the server prints it.
    pub(crate) native: String,
    /// `DEFAULT`, `MATERIALIZED`, `ALIAS`, `EPHEMERAL` or empty.
    pub(crate) default_kind: String,
    pub(crate) default: String,
    pub(crate) comment: String,
}

impl Column {
    /// Whether rows hold a value of it that an INSERT gives.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self.default_kind.as_str(), "" | "DEFAULT")
    }

    pub(crate) fn field(&self) -> Result<FieldRef> {
        let field: Field = ClickHouseDialect.parse_type(&self.name, &self.native)?;
        let mut metadata = field.metadata().clone();
        if !self.comment.is_empty() {
            metadata.insert(COMMENT.to_owned(), self.comment.clone());
        }
        match self.default_kind.as_str() {
            "DEFAULT" => {
                metadata.insert(DEFAULT.to_owned(), self.default.clone());
            }
            "" => {}
            _ => {
                metadata.insert(GENERATED.to_owned(), "true".to_owned());
            }
        }
        Ok(FieldRef::new(field.with_metadata(metadata)))
    }
}

impl Table {
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns that an INSERT may give.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_stored())
    }

    /// What a table that takes this one's place has in common with it: columns, keys, engine, and how long rows live.
    pub(crate) fn structure(&self) -> String {
        let columns = self.columns.iter().map(|c| {
            format!("{} {} {} {} {}", quote(&c.name), c.native, c.default_kind, c.default, literal(&c.comment))
        });
        columns.chain([self.engine_full.clone()]).collect::<Vec<_>>().join("\n")
    }

    /// Whether rows disappear by themselves.
    pub(crate) fn has_ttl(&self) -> bool {
        self.engine_full.contains(" TTL ")
    }

    /// Whether rows with the same sorting key are one row to a reader who says FINAL.
    pub(crate) fn replaces(&self) -> bool {
        self.engine == "ReplacingMergeTree"
    }

    /// `database.table AS …`, with FINAL where the table holds earlier versions of its rows.
    pub(crate) fn read(&self) -> String {
        let last = if self.replaces() { " FINAL" } else { "" };
        format!("{} AS {TARGET_ALIAS}{last}", relation(&self.relation))
    }

    /// The same with all versions of the rows.
    pub(crate) fn all_versions(&self) -> String {
        format!("{} AS {TARGET_ALIAS}", relation(&self.relation))
    }

    /// The version and deletion columns of a ReplacingMergeTree that has both.
    pub(crate) fn versions(&self) -> Option<(String, String)> {
        match self.engine_columns().as_slice() {
            [(EngineColumn::Version, version), (EngineColumn::Deleted, deleted)] => {
                Some((version.clone(), deleted.clone()))
            }
            _ => None,
        }
    }

    /// The columns that the engine has as arguments.
    fn engine_columns(&self) -> Vec<(EngineColumn, String)> {
        use EngineColumn::{Deleted, Sign, Sum, Version};
        let all: &[EngineColumn] = match self.engine.as_str() {
            "ReplacingMergeTree" => &[Version, Deleted],
            "CollapsingMergeTree" => &[Sign],
            "VersionedCollapsingMergeTree" => &[Sign, Version],
            "SummingMergeTree" => &[Sum],
            _ => return Vec::new(),
        };
        let after = self.engine_full.strip_prefix(&self.engine).and_then(|rest| rest.strip_prefix('('));
        let arguments = after.and_then(|inside| inside.get(..closing(inside)?)).map(split_key).unwrap_or_default();
        let last = all.last().copied().unwrap_or(Sum);
        let kinds = all.iter().copied().chain(std::iter::repeat(last));
        kinds.zip(arguments).filter_map(|(kind, name)| Some((kind, plain(&name)?))).collect()
    }

    /// The engine's definition with another engine of the family, and settings of ours behind it.
    pub(crate) fn engine_as(&self, engine: &str, settings: &[(&str, String)]) -> String {
        let mut rest = self.engine_full.strip_prefix(&self.engine).unwrap_or_default();
        if let Some(inside) = rest.strip_prefix('(') {
            rest = closing(inside).and_then(|end| inside.get(end + 1..)).unwrap_or_default();
        }
        let joined = if has_settings(rest) { ", " } else { " SETTINGS " };
        let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        if settings.is_empty() {
            format!("{engine}{rest}")
        } else {
            format!("{engine}{rest}{joined}{}", settings.join(", "))
        }
    }

    /// The columns of a key where it is made of columns alone.
    pub(crate) fn plain_key(key: &[String]) -> Option<Vec<String>> {
        key.iter().map(|part| plain(part)).collect()
    }

    /// Refuses what a commit cannot be written into.
    pub(crate) fn refuse_unfit(&self) -> Result<()> {
        if let Some(column) = self.columns.iter().find(|c| VIRTUAL.contains(&c.name.as_str())) {
            return Err(Error::configuration(format!(
                "table {} has a column {:?}, which hides what the server tells of its parts under that name",
                self.relation, column.name
            ))
            .with("table", self.relation.to_string())
            .with("column", &column.name)
            .with_hint("rename the column"));
        }
        self.refuse_engine()
    }

    fn refuse_engine(&self) -> Result<()> {
        if self.engine.ends_with("MergeTree")
            && !self.engine.starts_with("Replicated")
            && !self.engine.starts_with("Shared")
        {
            return Ok(());
        }
        let (why, hint) = match self.engine.as_str() {
            engine if engine.starts_with("Replicated") || engine.starts_with("Shared") => (
                "its parts are moved by several servers, which a commit cannot follow step by step",
                format!(
                    "load into a table with the engine MergeTree and the same columns, ORDER BY and PARTITION BY, on one \
                     replica; then, for each partition that it has: ALTER TABLE {} REPLACE PARTITION ID '…' FROM the loaded \
                     table",
                    relation(&self.relation)
                ),
            ),
            "View" | "MaterializedView" | "LiveView" | "WindowView" => {
                ("a view holds no rows of its own", "load into the table that the view reads".to_owned())
            }
            "Distributed" => (
                "its rows are on other servers",
                "load into the table behind it, on the server that shall hold the rows".to_owned(),
            ),
            _ => (
                "a commit moves partitions, and its tables have none",
                "load into a table of the MergeTree family that is not replicated".to_owned(),
            ),
        };
        Err(Error::configuration(format!("table {} has the engine {}: {why}", self.relation, self.engine))
            .with("table", self.relation.to_string())
            .with_hint(hint))
    }
}

pub(crate) async fn find(session: &Session, table: &Relation) -> Result<Option<Table>> {
    let (database, name) = (literal(&table.schema), literal(&table.name));
    let of_table = format!(
        "SELECT engine, engine_full, sorting_key, partition_key, toString(total_rows), toString(total_bytes), \
         arrayStringConcat(arrayMap((d, t) -> concat(d, '.', t), dependencies_database, dependencies_table), '\\n') \
         FROM system.tables WHERE database = {database} AND name = {name}"
    );
    let of_columns = format!(
        "SELECT name, type, default_kind, default_expression, comment FROM system.columns \
         WHERE database = {database} AND table = {name} ORDER BY position"
    );
    let (rows, columns) = tokio::try_join!(session.rows(&of_table), session.rows(&of_columns))?;
    // Without columns, where it comes or goes between the two.
    let Some(row) = rows.into_iter().next().filter(|_| !columns.is_empty()) else { return Ok(None) };
    let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
    let number = |i: usize| row.get(i).cloned().flatten().and_then(|n| n.parse().ok());
    let columns = columns.into_iter().map(|row| {
        let mut cells = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || cells.next().unwrap_or_default();
        Column { name: next(), native: next(), default_kind: next(), default: next(), comment: next() }
    });
    Ok(Some(Table {
        relation: table.clone(),
        engine: text(0),
        engine_full: text(1),
        sorting_key: split_key(&text(2)),
        partition_key: split_key(&text(3)),
        rows: number(4),
        bytes: number(5),
        columns: columns.collect(),
        views: text(6).lines().map(str::to_owned).collect(),
    }))
}

/// What decides about changes of a table.
pub(crate) async fn facts(session: &Session, table: &Table) -> Result<TableFacts> {
    let of = format!("database = {} AND table = {}", literal(&table.relation.schema), literal(&table.relation.name));
    let indices = format!("SELECT name, expr FROM system.data_skipping_indices WHERE {of} ORDER BY name");
    let projections = format!("SELECT name, query FROM system.projections WHERE {of} ORDER BY name");
    let (version, indices, projections) =
        tokio::join!(session.server.version(), session.rows(&indices), session.rows(&projections));
    let ((year, month), _) = version?;
    let projections = match projections {
        // Servers before 24.9 have no table of projections. What of them is in a table's definition is enough to be careful.
        Err(error) if is_missing(&error) => {
            let defined = format!(
                "SELECT arrayJoin(extractAll(create_table_query, 'PROJECTION (`[^`]+`|[A-Za-z_][A-Za-z0-9_]*) \\\\(')), '' \
                 FROM system.tables WHERE database = {} AND name = {}",
                literal(&table.relation.schema),
                literal(&table.relation.name)
            );
            session.rows(&defined).await
        }
        found => found,
    };
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let mut dependents = Vec::new();
    for (kind, key) in
        [(DependentKind::SortingKey, &table.sorting_key), (DependentKind::PartitionKey, &table.partition_key)]
    {
        let definition = key.join(", ");
        let columns = mentioned(&names, &definition);
        if !columns.is_empty() {
            dependents.push(Dependent { kind, name: String::new(), columns, definition });
        }
    }
    for (takes, column) in table.engine_columns() {
        let (kind, definition) = (DependentKind::Engine { takes }, table.engine.clone());
        dependents.push(Dependent { kind, name: String::new(), columns: vec![column], definition });
    }
    for (kind, found) in [
        (DependentKind::Index { unique: false, primary: false, plain: false, valid: true }, indices?),
        (DependentKind::Projection, projections?),
    ] {
        for row in found {
            let mut cells = row.into_iter().map(Option::unwrap_or_default);
            let (name, definition) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            dependents.push(Dependent {
                kind: kind.clone(),
                name,
                columns: mentioned(&names, &definition),
                definition,
            });
        }
    }
    for view in &table.views {
        let columns = names.iter().map(|name| (*name).to_owned()).collect();
        dependents.push(Dependent {
            kind: DependentKind::MaterializedView,
            name: view.clone(),
            columns,
            definition: String::new(),
        });
    }
    Ok(TableFacts {
        observed: true,
        version: Some(year * 100 + month),
        kind: Some(table.engine.clone()),
        rows: table.rows,
        bytes: table.bytes,
        dependents,
        ..TableFacts::default()
    })
}

/// The names of a table's projections.
pub(crate) async fn projections(session: &Session, table: &Table) -> Result<Vec<String>> {
    let dependents = facts(session, table).await?.dependents;
    let projections = dependents.into_iter().filter(|dependent| dependent.kind == DependentKind::Projection);
    Ok(projections.map(|projection| projection.name).collect())
}

/// The columns whose names are words of an expression.
pub(super) fn mentioned(names: &[&str], expression: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let among = |name: &&&str| {
        let name: &str = name;
        let mut at = 0;
        while let Some(found) = expression.get(at..).and_then(|rest| rest.find(name)) {
            let (begin, end) = (at + found, at + found + name.len());
            let before = expression[..begin].chars().next_back().is_some_and(is_word);
            let after = expression[end..].chars().next().is_some_and(is_word);
            if !before && !after {
                return true;
            }
            at = end;
        }
        false
    };
    names.iter().filter(among).map(|name| (*name).to_owned()).collect()
}

/// Partitions with rows, by id.
pub(crate) async fn partitions(session: &Session, table: &Relation) -> Result<Vec<String>> {
    let rows = session
        .rows(&format!(
            "SELECT partition_id FROM system.parts WHERE database = {} AND table = {} AND active \
             GROUP BY partition_id HAVING sum(rows) > 0 ORDER BY partition_id",
            literal(&table.schema),
            literal(&table.name)
        ))
        .await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

/// The same of several tables of one database, in their order.
pub(crate) async fn partitions_of(session: &Session, tables: &[Relation]) -> Result<Vec<Vec<String>>> {
    let Some(first) = tables.first() else { return Ok(Vec::new()) };
    let names: Vec<_> = tables.iter().map(|table| literal(&table.name)).collect();
    let rows = session
        .rows(&format!(
            "SELECT table, partition_id FROM system.parts WHERE database = {} AND table IN ({}) AND active \
             GROUP BY table, partition_id HAVING sum(rows) > 0 ORDER BY partition_id",
            literal(&first.schema),
            names.join(", ")
        ))
        .await?;
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    for row in rows {
        if let [Some(table), Some(partition)] = row.as_slice() {
            found.entry(table.clone()).or_default().push(partition.clone());
        }
    }
    Ok(tables.iter().map(|table| found.remove(&table.name).unwrap_or_default()).collect())
}

/// A text that changes with every write into the table, and with no merge.
pub(crate) async fn content(session: &Session, table: &Relation) -> Result<String> {
    let found = session
        .scalar(&format!(
            "SELECT concat(toString(sum(rows)), ' ', toString(max(max_block_number)), ' ', toString(max(data_version)), ' ', \
             toString(uniqExact(partition_id))) FROM system.parts WHERE database = {} AND table = {} AND active",
            literal(&table.schema),
            literal(&table.name)
        ))
        .await?;
    Ok(found.unwrap_or_default())
}

pub(crate) async fn uuid(session: &Session, table: &Relation) -> Result<Option<String>> {
    session
        .scalar(&format!(
            "SELECT toString(uuid) FROM system.tables WHERE database = {} AND name = {}",
            literal(&table.schema),
            literal(&table.name)
        ))
        .await
}

/// Whether tables of the database can be exchanged, and are known by their ids.
pub(crate) async fn is_atomic(session: &Session, database: &str) -> Result<bool> {
    let engine =
        session.scalar(&format!("SELECT engine FROM system.databases WHERE name = {}", literal(database))).await?;
    Ok(engine.is_some_and(|engine| engine == "Atomic" || engine == "Replicated"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_words_of_an_expression() {
        assert_eq!(mentioned(&["a", "aa", "b c"], "f(aa, `b c`)"), ["aa", "b c"]);
    }

    #[test]
    fn an_engine_is_exchanged_with_its_definition_kept() {
        let table = |engine: &str, full: &str| Table {
            relation: Relation::new("d", "t"),
            engine: engine.to_owned(),
            engine_full: full.to_owned(),
            sorting_key: vec![],
            partition_key: vec![],
            rows: None,
            bytes: None,
            columns: vec![],
            views: vec![],
        };
        let replacing =
            table("ReplacingMergeTree", "ReplacingMergeTree(`v)`, d) ORDER BY id SETTINGS index_granularity = 8192");
        assert_eq!(
            replacing.engine_as("MergeTree", &[("a", "1".to_owned())]),
            "MergeTree ORDER BY id SETTINGS index_granularity = 8192, a = 1"
        );
        assert_eq!(replacing.versions(), Some(("v)".to_owned(), "d".to_owned())));
        let plain = table("MergeTree", "MergeTree ORDER BY id");
        assert_eq!(plain.engine_as("MergeTree", &[("a", "1".to_owned())]), "MergeTree ORDER BY id SETTINGS a = 1");
        assert_eq!(plain.versions(), None);
        let summing = table("SummingMergeTree", "SummingMergeTree((a, `b c`)) ORDER BY id");
        let sums = ["a", "b c"].map(|name| (EngineColumn::Sum, name.to_owned()));
        assert_eq!(summing.engine_columns(), sums);
    }
}
