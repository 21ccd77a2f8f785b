//! A table or query as DataFusion sees it: columns, key, pushed-down filters, projection and limit.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Constraints};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use dpone_engine::{ReadRequest, ScanExec, SourceTable};
use dpone_planner::definition::nearest;
use dpone_planner::dialect::Dialect;
use dpone_planner::{Error, Relation, Result};

use super::Began;
use super::catalog::Table;
use super::column::{Column, Sends, column};
use super::filter::condition;
use super::partition::{self, Fence, PartitionPlan};
use super::scan::{ClickHouseScan, ScanSpec};
use crate::client::{Server, Statement};
use crate::dialect::ClickHouseDialect;
use crate::error::code_of;

const SYNTAX_ERROR: u32 = 62;
const ILLEGAL_FINAL: u32 = 181;

/// What opening a table needs.
pub(super) struct Context<'a> {
    pub server: &'a Server,
    pub sends: Sends,
    /// `None`: reads of what is there at the time of each, not of a snapshot.
    pub began: Option<&'a Arc<Began>>,
}

pub(super) async fn open(
    context: &Context<'_>,
    table: Table,
    request: &ReadRequest,
) -> Result<(SourceTable, Option<Fence>)> {
    let name = table.relation.to_string();
    if table.engine == "View" && table.columns.is_empty() {
        return Err(needs_parameters(context.server, &table.relation).await?);
    }
    let columns = columns(&table.columns, request, context.sends).map_err(|e| e.with("table", &name))?;
    let PartitionPlan { predicates, fence, mut notes } =
        partition::plan(context.server, &table, request.parallelism).await?;
    let mut from = ClickHouseDialect.quote_relation(&table.relation);
    if table.is_merging() {
        from.push_str(" FINAL");
        notes.push(format!("{name} is a {}, and is read with FINAL: as if all its parts were merged", table.engine));
    } else if stands_for_merging(context.server, &table).await? {
        from.push_str(" FINAL");
        notes.push(format!(
            "{name} is a {}, and is read with FINAL: as if all parts of the tables behind it were merged",
            table.engine
        ));
    }
    if !table.computed.is_empty() {
        let computed = table.computed.join(", ");
        notes.push(format!("{name}: columns that are computed are left out, as SELECT * does: {computed}"));
    }
    // Any number of rows may have a key, but for engines that keep one.
    let key = if table.is_unique() { plain_key(&table) } else { Vec::new() };
    let provider = ClickHouseTable::new(context, name, from, columns, predicates, request, table.rows).with_key(&key);
    let opened =
        SourceTable { provider: Arc::new(provider), key, rows: table.rows, bytes: table.bytes, notes, changes: None };
    Ok((opened, fence))
}

/// Whether the rows are those of other tables, whose engine merges rows: the server takes FINAL then.
async fn stands_for_merging(server: &Server, table: &Table) -> Result<bool> {
    if !matches!(table.engine.as_str(), "MaterializedView" | "Merge" | "Buffer") {
        return Ok(false);
    }
    let probe = format!(
        "SELECT count() FROM (SELECT 1 FROM {} FINAL LIMIT 0)",
        ClickHouseDialect.quote_relation(&table.relation)
    );
    match server.scalar::<u64>(Statement::new(probe)).await {
        Ok(_) => Ok(true),
        Err(error) if code_of(&error) == Some(ILLEGAL_FINAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Of a view with parameters the server knows the columns when it knows those.
async fn needs_parameters(server: &Server, view: &Relation) -> Result<Error> {
    let ask = Statement::new(
        "SELECT arrayJoin(arrayDistinct(extractAll(as_select, '\\{\\s*(\\w+)\\s*:'))) FROM system.tables \
         WHERE database = {database:String} AND name = {name:String}",
    );
    let names: Vec<(String,)> =
        server.rows(ask.parameter("database", &view.schema).parameter("name", &view.name)).await?;
    let names: Vec<String> = names.into_iter().map(|(name,)| name).collect();
    let given: Vec<String> = names.iter().map(|name| format!("{name} = …")).collect();
    let from = ClickHouseDialect.quote_relation(view);
    Ok(Error::configuration(format!(
        "the view {view} has parameters ({}), and a table gives it none",
        names.join(", ")
    ))
    .with("table", view.to_string())
    .with_hint(format!("read it by a query, as source.options.query.sql: SELECT * FROM {from}({})", given.join(", "))))
}

/// The sorting key, where columns alone are in it and none of them takes NULL.
fn plain_key(table: &Table) -> Vec<String> {
    let parts: Vec<String> = table.sorting_key.split(", ").map(|part| part.trim_matches('`').to_owned()).collect();
    let plain = |part: &String| {
        table.sorting_columns.contains(part)
            && table.columns.iter().any(|(name, native)| name == part && !native.contains("Nullable"))
    };
    if parts.iter().all(plain) { parts } else { Vec::new() }
}

/// Opens a query of the user's. As a subquery it can do nothing but read.
pub(super) async fn open_query(context: &Context<'_>, query: &str, request: &ReadRequest) -> Result<SourceTable> {
    let query = query.trim().trim_end_matches(';').trim_end();
    if query.is_empty() {
        return Err(Error::configuration("the query is empty"));
    }
    // The closing bracket stands on its own line: the query may end in a comment. With a name behind it, a query that
    // closes the bracket itself is none.
    let from = format!("({query}\n) AS `query`");
    let described: Vec<serde_json::Value> = context
        .server
        .rows(Statement::new(format!("DESCRIBE TABLE (SELECT * FROM {from})")))
        .await
        .map_err(|e| one_select(e).with("table", "query"))?;
    let text = |row: &serde_json::Value, at: usize| row.get(at).and_then(|v| v.as_str()).map(str::to_owned);
    let described = described
        .iter()
        .map(|row| text(row, 0).zip(text(row, 1)))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::internal("the server describes a query by no names and types"))?;
    let mut seen = BTreeSet::new();
    if let Some((twice, _)) = described.iter().find(|(name, _)| !seen.insert(name.clone())) {
        return Err(Error::configuration(format!("the query has two columns named {twice:?}"))
            .with_hint("give each column a name of its own with AS"));
    }
    let columns = columns(&described, request, context.sends).map_err(|e| e.with("table", "query"))?;
    let provider = ClickHouseTable::new(context, "query".to_owned(), from, columns, vec![None], request, None);
    Ok(SourceTable {
        provider: Arc::new(provider),
        key: Vec::new(),
        rows: None,
        bytes: None,
        notes: Vec::new(),
        changes: None,
    })
}

fn one_select(error: Error) -> Error {
    match code_of(&error) {
        Some(SYNTAX_ERROR) => error.with_hint(
            "a query is one SELECT of ClickHouse's SQL: without FORMAT and INTO OUTFILE, and with nothing behind a semicolon",
        ),
        _ => error,
    }
}

fn columns(described: &[(String, String)], request: &ReadRequest, sends: Sends) -> Result<Vec<Column>> {
    let known = || described.iter().map(|(name, _)| name.as_str());
    if let Some(unknown) = request.types.keys().find(|name| !known().any(|k| k == *name)) {
        let error = Error::configuration(format!("a type is declared for {unknown:?}, and there is no such column"));
        return Err(match nearest(unknown, known()) {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None => error.with_hint(format!("there is {}", known().collect::<Vec<_>>().join(", "))),
        });
    }
    described
        .iter()
        .map(|(name, native)| {
            let declared = request.types.get(name).map(String::as_str);
            column(name, native, request.raw.contains(name), declared, sends)
        })
        .collect()
}

#[derive(Debug)]
pub(super) struct ClickHouseTable {
    server: Server,
    began: Option<Arc<Began>>,
    schema: SchemaRef,
    constraints: Option<Constraints>,
    /// The scan of everything; each scan narrows a copy.
    whole: ScanSpec,
}

impl ClickHouseTable {
    fn new(
        context: &Context<'_>,
        table: String,
        from: String,
        columns: Vec<Column>,
        partitions: Vec<Option<String>>,
        request: &ReadRequest,
        rows: Option<u64>,
    ) -> Self {
        let schema: SchemaRef = Arc::new(Schema::new(columns.iter().map(|c| c.field.clone()).collect::<Vec<_>>()));
        let (select, decode) = columns.into_iter().map(|column| (column.select, column.decode)).unzip();
        let whole = ScanSpec {
            connection: context.server.config().connection.clone(),
            table,
            from,
            select,
            decode,
            schema: Arc::clone(&schema),
            filter: None,
            limit: None,
            partitions,
            batch_rows: request.batch_rows,
            rows,
        };
        Self { server: context.server.clone(), began: context.began.cloned(), schema, constraints: None, whole }
    }

    fn with_key(mut self, key: &[String]) -> Self {
        let positions: Vec<usize> = key.iter().filter_map(|name| self.schema.index_of(name).ok()).collect();
        if !positions.is_empty() && positions.len() == key.len() {
            self.constraints = Some(Constraints::new_unverified(vec![Constraint::PrimaryKey(positions)]));
        }
        self
    }

    fn narrow(&self, projection: Option<&Vec<usize>>, filters: &[Expr], limit: Option<usize>) -> Result<ScanSpec> {
        let mut spec = self.whole.clone();
        if let Some(projection) = projection {
            spec.select = projection.iter().map(|i| self.whole.select[*i].clone()).collect();
            spec.decode = projection.iter().map(|i| self.whole.decode[*i].clone()).collect();
            spec.schema = Arc::new(self.schema.project(projection)?);
        }
        let conditions = filters
            .iter()
            .map(|filter| {
                let sql = condition(filter, &self.schema);
                sql.ok_or_else(|| Error::internal(format!("a filter was pushed down that cannot be: {filter}")))
            })
            .collect::<Result<Vec<_>>>()?;
        if !conditions.is_empty() {
            let all: Vec<_> = conditions.iter().map(|c| format!("({c})")).collect();
            spec.filter = Some(if let [one] = conditions.as_slice() { one.clone() } else { all.join(" AND ") });
        }
        spec.limit = limit;
        Ok(spec)
    }
}

#[async_trait]
impl TableProvider for ClickHouseTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.constraints.as_ref()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|expr| match condition(expr, &self.schema) {
                Some(_) => TableProviderFilterPushDown::Exact,
                None => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let spec = self.narrow(projection, filters, limit)?;
        let scan = ClickHouseScan { server: self.server.clone(), spec, began: self.began.clone() };
        Ok(Arc::new(ScanExec::new(Arc::new(scan))))
    }
}
