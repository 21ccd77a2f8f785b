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
use dpone_planner::{Error, Result};

use super::changes;
use super::filter::{Filter, quote_name};
use super::partition::{self, PartitionPlan};
use super::rewritten;
use super::scan::{PartitionSpec, PostgresScan, ScanSpec};
use super::snapshot::Held;
use crate::catalog::{self, RelationKind, Table};
use crate::client::{Client, Server};
use crate::error::from_driver;
use crate::types::{self, Column, PgType, Select};

/// What opening a table needs.
pub(super) struct Context<'a> {
    pub server: &'a Server,
    pub client: &'a Client,
    pub held: &'a Arc<Held>,
    pub snapshot: Option<&'a str>,
    pub utf8: bool,
}

pub(super) async fn open(context: &Context<'_>, table: Table, request: &ReadRequest) -> Result<SourceTable> {
    let name = table.relation.to_string();
    let described = table.columns.iter().map(|c| (c.name.as_str(), &c.native, c.nullable));
    let columns = columns(described, request).map_err(|e| e.with("table", &name))?;
    let changes = match &request.changes {
        Some(wanted) => Some(changes::plan(context, &table, wanted).await.map_err(|e| e.with("table", &name))?),
        None => None,
    };
    let condition = changes.as_ref().and_then(|c| c.condition.as_deref());
    let PartitionPlan { partitions, mut notes } =
        partition::plan(context, &table, request.parallelism, condition).await?;
    let key = enforced_key(&table);
    let positions = key.iter().filter_map(|key| table.columns.iter().position(|c| c.name == *key)).collect();
    // How many rows changed is not known before they are read.
    let rows = table.rows.filter(|_| condition.is_none());
    let provider = PostgresTable::new(context, name, columns, partitions, request, rows).with_key(positions);
    let changes = changes.map(|planned| {
        notes.extend(planned.notes);
        planned.read
    });
    Ok(SourceTable { provider: Arc::new(provider), key, rows, bytes: table.bytes, notes, changes })
}

/// Opens a query of the user's, and names the relations that it reads. It runs inside a read-only transaction.
pub(super) async fn open_query(
    context: &Context<'_>,
    query: &str,
    request: &ReadRequest,
) -> Result<(SourceTable, Vec<u32>)> {
    let query = query.trim().trim_end_matches(';').trim_end();
    if request.changes.is_some() {
        return Err(Error::configuration("xmin cannot read a query: its rows have no xmin of their own")
            .with_hint("name a table, and narrow it by columns and custom_predicate"));
    }
    if query.is_empty() {
        return Err(Error::configuration("the query is empty"));
    }
    // The closing bracket stands on its own line: the query may end in a comment.
    let from = format!("({query}\n) AS \"query\"");
    let probe = format!("SELECT * FROM {from}");
    // Preparing holds the tables. Whoever waits to change one would wait for us, and our readers behind him for ever.
    context.client.run("SAVEPOINT dpone_prepare").await?;
    let statement = context.client.prepare(&probe).await.map_err(|e| from_driver(e).with("table", "query"))?;
    let relations = rewritten::held(context.client).await?;
    context.client.run("ROLLBACK TO SAVEPOINT dpone_prepare").await?;
    let wanted: Vec<(u32, i32)> = statement.columns().iter().map(|c| (c.type_().oid(), c.type_modifier())).collect();
    let mut seen = BTreeSet::new();
    for column in statement.columns() {
        if !seen.insert(column.name()) {
            return Err(Error::configuration(format!("the query has two columns named {:?}", column.name()))
                .with_hint("give each column a name of its own with AS"));
        }
    }
    let natives = catalog::types(context.client, &wanted).await?;
    let described = statement.columns().iter().zip(&natives).map(|(c, native)| (c.name(), native, true));
    let columns = columns(described, request).map_err(|e| e.with("table", "query"))?;
    let partitions = vec![PartitionSpec { from, predicate: None }];
    let provider = PostgresTable::new(context, "query".to_owned(), columns, partitions, request, None);
    let opened = SourceTable {
        provider: Arc::new(provider),
        key: Vec::new(),
        rows: None,
        bytes: None,
        notes: Vec::new(),
        changes: None,
    };
    Ok((opened, relations))
}

fn columns<'a>(
    described: impl Iterator<Item = (&'a str, &'a PgType, bool)>,
    request: &ReadRequest,
) -> Result<Vec<Column>> {
    let columns = described
        .map(|(name, native, nullable)| {
            let declared = request.types.get(name).map(String::as_str);
            types::column(name, native, nullable, request.raw.contains(name), declared)
        })
        .collect::<Result<Vec<_>>>()?;
    let known = || columns.iter().map(|c| c.field.name().as_str());
    if let Some(unknown) = request.types.keys().find(|name| !known().any(|k| k == *name)) {
        let error = Error::configuration(format!("a type is declared for {unknown:?}, and there is no such column"));
        return Err(match nearest(unknown, known()) {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None => error.with_hint(format!("there is {}", known().collect::<Vec<_>>().join(", "))),
        });
    }
    Ok(columns)
}

/// The primary key, where the server sees to it in all rows that are read. Otherwise (foreign tables, tables that others
/// inherit from) it is a hope, and plans must not build on it.
fn enforced_key(table: &Table) -> Vec<String> {
    if table.kind == RelationKind::Foreign || table.inherited { Vec::new() } else { table.primary_key.clone() }
}

#[derive(Debug)]
pub(super) struct PostgresTable {
    server: Server,
    held: Arc<Held>,
    schema: SchemaRef,
    columns: Vec<Column>,
    constraints: Option<Constraints>,
    utf8: bool,
    /// The scan of everything; each scan narrows a copy.
    whole: ScanSpec,
}

impl PostgresTable {
    fn new(
        context: &Context<'_>,
        table: String,
        columns: Vec<Column>,
        partitions: Vec<PartitionSpec>,
        request: &ReadRequest,
        rows: Option<u64>,
    ) -> Self {
        let schema: SchemaRef = Arc::new(Schema::new(columns.iter().map(|c| c.field.clone()).collect::<Vec<_>>()));
        let whole = ScanSpec {
            connection: context.server.config().connection.clone(),
            table,
            snapshot: context.snapshot.map(str::to_owned),
            select: columns.iter().map(select).collect(),
            decode: columns.iter().map(|c| c.decode.clone()).collect(),
            schema: Arc::clone(&schema),
            filter: None,
            limit: None,
            partitions,
            batch_rows: request.batch_rows,
            rows,
        };
        Self {
            server: context.server.clone(),
            held: Arc::clone(context.held),
            schema,
            columns,
            constraints: None,
            utf8: context.utf8,
            whole,
        }
    }

    fn with_key(mut self, key: Vec<usize>) -> Self {
        if !key.is_empty() {
            self.constraints = Some(Constraints::new_unverified(vec![Constraint::PrimaryKey(key)]));
        }
        self
    }

    fn filter(&self) -> Filter<'_> {
        Filter { columns: &self.columns, utf8: self.utf8 }
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
                let sql = self.filter().render(filter);
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

fn select(column: &Column) -> String {
    let name = quote_name(column.field.name());
    match &column.select {
        Select::Plain => name,
        Select::Cast(to) => format!("{name}::{to}"),
    }
}

#[async_trait]
impl TableProvider for PostgresTable {
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
        let filter = self.filter();
        Ok(filters
            .iter()
            .map(|expr| match filter.render(expr) {
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
        let scan = PostgresScan { server: self.server.clone(), spec, held: Some(Arc::clone(&self.held)) };
        Ok(Arc::new(ScanExec::new(Arc::new(scan))))
    }
}
