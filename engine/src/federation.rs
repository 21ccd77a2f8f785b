//! Connections as DataFusion catalogs: a query over any mix of systems, each read consistently.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider,
};
use datafusion::common::{DFSchema, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use dpone_planner::definition::{ReadOptions, SourceQuery, SourceSpec};
use dpone_planner::expr::{check_length, predicate, qualify};
use dpone_planner::{literal, null_in};

use crate::run::RunContext;
use crate::source::{ChangeRead, ChangeRequest, ReadTarget};
use crate::{Error, ReadRequest, Relation, Result, Snapshot};

/// Columns to carry raw, by scanned table.
pub(crate) type RawColumns = BTreeMap<TableReference, BTreeSet<String>>;

/// The snapshots that a query reads through, opened one a connection on first use.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    open: BTreeMap<String, Arc<dyn Snapshot>>,
}

impl Snapshots {
    pub(crate) async fn get(&mut self, context: &RunContext, connection: &str) -> Result<Arc<dyn Snapshot>> {
        if let Some(snapshot) = self.open.get(connection) {
            return Ok(Arc::clone(snapshot));
        }
        let snapshot =
            context.connections.source(connection)?.snapshot().await.map_err(|e| e.with("connection", connection))?;
        self.open.insert(connection.to_owned(), Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// What the reads were consistent with, one part a connection.
    pub(crate) fn position(&self) -> String {
        let parts: Vec<_> = self.open.iter().map(|(name, s)| format!("{name}: {}", s.position())).collect();
        parts.join("; ")
    }

    /// Fails when a source changed under the read, see [`Snapshot::verify`].
    pub(crate) async fn verify(&self) -> Result<()> {
        for (name, snapshot) in &self.open {
            snapshot.verify().await.map_err(|e| e.with("connection", name))?;
        }
        Ok(())
    }

    pub(crate) async fn close(&self) -> Result<()> {
        for snapshot in self.open.values() {
            snapshot.close().await?;
        }
        Ok(())
    }
}

/// A source that is open for reading.
#[derive(Debug)]
pub(crate) struct OpenSource {
    pub(crate) plan: LogicalPlan,
    /// The primary key of the table, where only one is read.
    pub(crate) key: Vec<String>,
    pub(crate) rows: Option<u64>,
    pub(crate) notes: Vec<String>,
    /// What the read covers, where changes were asked for.
    pub(crate) changes: Option<ChangeRead>,
}

/// How tables are opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenOptions<'a> {
    pub(crate) parallelism: usize,
    pub(crate) batch_rows: usize,
    /// Texts may be given as views.
    pub(crate) views: bool,
    /// Only what changed is read.
    pub(crate) changes: Option<&'a ChangeRequest>,
}

/// Opens what a pipeline reads, and applies its read options.
pub(crate) async fn open(
    context: &RunContext,
    session: &SessionContext,
    snapshots: &mut Snapshots,
    source: &SourceSpec,
    options: OpenOptions<'_>,
    raw: &RawColumns,
) -> Result<OpenSource> {
    let mut opener = Opener {
        context,
        snapshots,
        options,
        types: &source.read.types,
        raw,
        keys: Vec::new(),
        rows: None,
        notes: Vec::new(),
        changes: None,
    };
    let plan = match &source.query {
        SourceQuery::Table { connection, relation } => {
            let table = table_reference(connection, relation);
            opener.scan(connection, table, ReadTarget::Table(relation.clone())).await?
        }
        SourceQuery::Native { connection, sql } => {
            let table = TableReference::full(connection.as_str(), "query", "result");
            opener.scan(connection, table, ReadTarget::Query(sql.clone())).await?
        }
        SourceQuery::Sql { sql } => opener.query(session, sql).await?,
    };
    let plan = with_read_options(plan, &source.read)?;
    let key = if opener.keys.len() == 1 { opener.keys.remove(0) } else { Vec::new() };
    Ok(OpenSource { plan, key, rows: opener.rows, notes: opener.notes, changes: opener.changes })
}

/// A running query. Dropping it before the end cancels its reads.
pub struct QueryStream {
    pub schema: SchemaRef,
    pub batches: SendableRecordBatchStream,
    snapshots: Snapshots,
    _session: SessionContext,
}

impl QueryStream {
    /// To be asked after the last batch: fails when a source changed under the read, see [`Snapshot::verify`].
    pub async fn verify(&self) -> Result<()> {
        self.snapshots.verify().await
    }
}

impl std::fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Runs a DataFusion query over the connections of `context`. Only queries: nothing is created or changed.
pub async fn query(context: &RunContext, sql: &str) -> Result<QueryStream> {
    let parallelism = context.parallelism(None);
    let session = context.session(parallelism, context.options.batch_rows)?;
    let mut snapshots = Snapshots::default();
    let options = OpenOptions { parallelism, batch_rows: context.options.batch_rows, views: false, changes: None };
    let types = BTreeMap::new();
    let raw = RawColumns::new();
    let mut opener = Opener {
        context,
        snapshots: &mut snapshots,
        options,
        types: &types,
        raw: &raw,
        keys: Vec::new(),
        rows: None,
        notes: Vec::new(),
        changes: None,
    };
    let plan = opener.query(&session, sql).await?;
    let physical = crate::repeat::repeatable(session.state().create_physical_plan(&plan).await?)?;
    let batches = datafusion::physical_plan::execute_stream(physical, session.task_ctx())?;
    Ok(QueryStream { schema: batches.schema(), batches, snapshots, _session: session })
}

/// The tables that a query names, as `connection.schema.table`.
pub fn tables_of(sql: &str) -> Result<Vec<String>> {
    let state = SessionContext::new().state();
    let statement = state.sql_to_statement(sql, &state.config().options().sql_parser.dialect)?;
    let tables = state.resolve_table_references(&statement)?;
    Ok(tables
        .iter()
        .map(|table| match (table.catalog(), table.schema()) {
            (Some(connection), Some(schema)) => format!("{connection}.{}", Relation::new(schema, table.table())),
            _ => table.to_string(),
        })
        .collect())
}

/// The name under which a plan scans a table.
pub(crate) fn table_reference(connection: &str, relation: &Relation) -> TableReference {
    TableReference::full(connection, relation.schema.as_str(), relation.name.as_str())
}

struct Opener<'a> {
    context: &'a RunContext,
    snapshots: &'a mut Snapshots,
    options: OpenOptions<'a>,
    types: &'a BTreeMap<String, String>,
    raw: &'a RawColumns,
    /// The primary key of each table that was opened.
    keys: Vec<Vec<String>>,
    rows: Option<u64>,
    notes: Vec<String>,
    changes: Option<ChangeRead>,
}

impl Opener<'_> {
    async fn provider(
        &mut self,
        connection: &str,
        table: &TableReference,
        target: ReadTarget,
    ) -> Result<Arc<dyn TableProvider>> {
        let snapshot = self.snapshots.get(self.context, connection).await?;
        let request = ReadRequest {
            target,
            parallelism: self.options.parallelism,
            batch_rows: self.options.batch_rows,
            raw: self.raw.get(table).cloned().unwrap_or_default(),
            views: self.options.views,
            types: self.types.clone(),
            changes: self.options.changes.cloned(),
        };
        let opened = snapshot.table(&request).await.map_err(|e| e.with("connection", connection))?;
        if let Some(rows) = opened.rows {
            self.rows = Some(self.rows.map_or(rows, |so_far| so_far.max(rows)));
        }
        if let Some(request) = &request.changes {
            self.changes = Some(opened.changes.ok_or_else(|| self.without_changes(connection, request))?);
        }
        self.keys.push(opened.key);
        self.notes.extend(opened.notes);
        Ok(opened.provider)
    }

    fn without_changes(&self, connection: &str, request: &ChangeRequest) -> Error {
        let kind = self.context.connections.definition(connection).map(|d| d.kind.clone()).unwrap_or_default();
        let reader = request.reader.as_str();
        Error::configuration(format!(
            "the connection {connection:?} ({kind}) cannot tell which rows changed: it has no reader {reader}"
        ))
        .with_hint("xmin reads PostgreSQL tables; use incremental_merge with a cursor, or snapshot_diff")
    }

    async fn scan(&mut self, connection: &str, table: TableReference, target: ReadTarget) -> Result<LogicalPlan> {
        let provider = self.provider(connection, &table, target).await?;
        Ok(LogicalPlanBuilder::scan(table, provider_as_source(provider), None)?.build()?)
    }

    /// Plans a query: opens the tables that it names, each in the catalog of its connection.
    async fn query(&mut self, session: &SessionContext, sql: &str) -> Result<LogicalPlan> {
        let state = session.state();
        let dialect = state.config().options().sql_parser.dialect;
        if sql.trim().trim_end_matches(';').trim().is_empty() {
            return Err(Error::configuration("the query is empty").with_hint("write a SELECT statement"));
        }
        check_length("the query", sql)?;
        let statement = match state.sql_to_statement(sql, &dialect) {
            Ok(statement) => statement,
            Err(error) => return Err(not_one_query(sql, error)),
        };
        if !is_query(&statement) {
            return Err(Error::configuration("only a query (SELECT, WITH, VALUES) can be read from"));
        }
        let mut catalogs: BTreeMap<String, Arc<MemoryCatalogProvider>> = BTreeMap::new();
        for table in state.resolve_table_references(&statement)? {
            let TableReference::Full { catalog: connection, schema, table: name } = &table else {
                return Err(self.not_full(&table));
            };
            let relation = Relation::new(schema.as_ref(), name.as_ref());
            let provider = self.provider(connection, &table, ReadTarget::Table(relation)).await?;
            let catalog = catalogs.entry(connection.to_string()).or_default();
            let tables = match catalog.schema(schema) {
                Some(tables) => tables,
                None => {
                    let tables: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
                    catalog.register_schema(schema, Arc::clone(&tables))?;
                    tables
                }
            };
            tables.register_table(name.to_string(), provider)?;
        }
        for (connection, catalog) in catalogs {
            session.register_catalog(connection, catalog);
        }
        let plan = session.state().statement_to_plan(statement).await?;
        null_in::exact_in_plan(literal::compare_in_plan(plan)?)
    }

    fn not_full(&self, table: &TableReference) -> Error {
        let known: Vec<_> = self.context.connections.names().collect();
        Error::configuration(format!("the table {table} is not named as connection.schema.table")).with_hint(
            if known.is_empty() {
                "define a connection first: CREATE CONNECTION … TYPE … OPTIONS (…)".to_owned()
            } else {
                format!("connections: {}", known.join(", "))
            },
        )
    }
}

/// The parser's message names no query; several statements are a mistake of their own.
fn not_one_query(sql: &str, error: datafusion::error::DataFusionError) -> Error {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};
    match Parser::parse_sql(&GenericDialect {}, sql) {
        Ok(statements) if statements.len() > 1 => {
            Error::configuration(format!("one query is run at a time, and these are {} statements", statements.len()))
                .with_hint("run them one by one, or join them with UNION ALL")
        }
        Ok(statements) if statements.is_empty() => {
            Error::configuration("the query is empty").with_hint("write a SELECT statement")
        }
        _ => Error::from(error),
    }
}

fn is_query(statement: &datafusion::sql::parser::Statement) -> bool {
    use datafusion::sql::parser::Statement;
    use datafusion::sql::sqlparser::ast::Statement as Sql;
    matches!(statement, Statement::Statement(inner) if matches!(inner.as_ref(), Sql::Query(_)))
}

fn with_read_options(plan: LogicalPlan, read: &ReadOptions) -> Result<LogicalPlan> {
    let mut builder = LogicalPlanBuilder::from(plan.clone());
    if let Some(sql) = &read.predicate {
        let bare = DFSchema::try_from(plan.schema().as_arrow().clone())?;
        builder = builder.filter(qualify(predicate("custom_predicate", sql, &bare)?, &plan)?)?;
    }
    let names: Vec<&String> = plan.schema().fields().iter().map(|f| f.name()).collect();
    for column in read.columns.iter().chain(&read.exclude_columns) {
        if !names.contains(&column) {
            let near = dpone_planner::definition::nearest(column, names.iter().map(|n| n.as_str()));
            return Err(Error::configuration(format!("the source has no column {column:?}")).with_hint(match near {
                Some(near) => format!("did you mean {near:?}?"),
                None => "remove it from columns or exclude_columns".to_owned(),
            }));
        }
    }
    if read.columns.is_empty() && read.exclude_columns.is_empty() {
        return Ok(builder.build()?);
    }
    let chosen: Vec<&String> = if read.columns.is_empty() { names } else { read.columns.iter().collect() };
    let columns = plan.schema().columns();
    let exprs = chosen
        .into_iter()
        .filter(|name| !read.exclude_columns.contains(name))
        .filter_map(|name| columns.iter().find(|c| c.name == *name).cloned())
        .map(datafusion::logical_expr::Expr::Column);
    Ok(builder.project(exprs)?.build()?)
}
