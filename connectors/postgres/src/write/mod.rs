//! Writing: staging by binary COPY, and one transaction that applies the rows, records the load and moves the state.

mod append;
mod changes;
mod commit;
mod copy;
pub(crate) mod encode;
mod evolve;
mod exchange;
pub(crate) mod expand_contract;
mod keep;
mod merge;
pub(crate) mod names;
mod numeric;
mod overwrite;
mod scope;
mod staging;
mod target;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::backfill::ManifestStore;
use dpone_engine::{
    Capabilities, Commit, Error, Evolution, Evolved, LoadSpec, Receipt, Relation, Result, Sink, StagedPartition,
    StateLocation, StateStore, TargetTable,
};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{COLLATION, TableFacts};
use dpone_planner::types::GENERATED;

use crate::catalog;
use crate::client::{Client, Server};
use crate::dialect::PostgresDialect;
use crate::manifest::PostgresManifests;
use crate::state::{PostgresState, StateTables};
use names::{StagingNames, relation};

/// A database that tables are loaded into.
#[derive(Debug, Clone)]
pub struct PostgresSink {
    pub(crate) server: Server,
}

impl PostgresSink {
    pub fn new(server: Server) -> Self {
        Self { server }
    }

    /// The target with its schema: the connection's, or `public`, where the definition gives none.
    pub(crate) fn resolve(&self, table: &Relation) -> Result<Relation> {
        let config = self.server.config();
        if let Some(database) = &table.database
            && database != config.database()
        {
            return Err(Error::configuration(format!(
                "{table}: the connection {:?} reaches the database {:?}",
                config.connection,
                config.database()
            ))
            .with_hint("define another connection for the other database"));
        }
        let schema = match table.schema.as_str() {
            "" => config.schema.as_deref().unwrap_or("public"),
            schema => schema,
        };
        names::check("schema", schema)?;
        names::check("table", &table.name)?;
        Ok(Relation::new(schema, &table.name))
    }

    /// How long a transaction waits for a lock before it gives up and lets others go on.
    pub(crate) fn lock_timeout(&self) -> String {
        let wait = self.server.config().lock_timeout;
        format!("SET LOCAL lock_timeout = {}", wait.as_millis())
    }
}

/// What decides about changes of a table.
pub(crate) struct Observed {
    pub(crate) schema: SchemaRef,
    pub(crate) facts: TableFacts,
}

impl PostgresSink {
    /// The table's columns and surroundings as [`Sink::describe`] gives them, seen by this session.
    pub(crate) async fn observe(&self, client: &Client, target: &Relation) -> Result<Option<Observed>> {
        let Some(found) = catalog::find(client, target, None).await? else { return Ok(None) };
        let provider = crate::read::committed(&self.server, client, &found).await?;
        let schema = with_generated(&provider.schema(), &found);
        Ok(Some(Observed { schema, facts: crate::schema::facts::read(client, &found).await? }))
    }
}

/// Marks the columns that the table fills by itself, and those whose collation another type would lose.
fn with_generated(schema: &Schema, table: &catalog::Table) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let column = table.columns.iter().find(|c| c.name == *field.name());
        let mut metadata = field.metadata().clone();
        if column.is_some_and(|c| c.generated || c.identity) {
            metadata.insert(GENERATED.to_owned(), "true".to_owned());
        }
        if let Some(collation) = column.and_then(|c| c.collation.clone()) {
            metadata.insert(COLLATION.to_owned(), collation);
        }
        field.as_ref().clone().with_metadata(metadata)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[async_trait]
impl Sink for PostgresSink {
    fn dialect(&self) -> Arc<dyn Dialect> {
        Arc::new(PostgresDialect)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            transactional: true,
            truncate_insert: true,
            overwrite_scope: true,
            changes: true,
            append: true,
            visibility: "readers see the rows of before until the commit, and all of the load after it",
        }
    }

    async fn describe(&self, table: &Relation) -> Result<Option<TargetTable>> {
        let target = self.resolve(table)?;
        let client = self.server.connect().await?;
        let Some(found) = catalog::find(&client, &target, None).await? else { return Ok(None) };
        // Refuses what is no table.
        target::read(&client, &target).await?;
        let has_rows = client.row(&format!("SELECT EXISTS (SELECT FROM {})", relation(&target)), &[]).await?;
        let mut notes = Vec::new();
        if found.kind == catalog::RelationKind::Table {
            let obstacles = exchange::obstacles(&client, found.oid).await?;
            notes.extend(obstacles.iter().map(|o| format!("exchange would fall back to truncate_insert: {o}")));
        }
        notes.extend(keep::triggers_note(&client, found.oid).await?);
        let provider = crate::read::committed(&self.server, &client, &found).await?;
        Ok(Some(TargetTable {
            facts: crate::schema::facts::read(&client, &found).await?,
            schema: with_generated(&provider.schema(), &found),
            primary_key: found.primary_key.clone(),
            provider,
            has_rows: has_rows.is_some_and(|row| row.get(0)),
            rows_estimate: found.rows,
            notes,
        }))
    }

    async fn evolve(&self, evolution: &Evolution<'_>) -> Result<Evolved> {
        evolve::evolve(self, evolution).await
    }

    async fn prepare(&self, load: &LoadSpec) -> Result<()> {
        staging::prepare(self, load).await
    }

    async fn stage(
        &self,
        load: &LoadSpec,
        partition: usize,
        rows: SendableRecordBatchStream,
    ) -> Result<StagedPartition> {
        copy::stage(self, load, partition, rows).await
    }

    async fn duplicate_keys(&self, load: &LoadSpec, _: &[StagedPartition], unique: &[String]) -> Result<u64> {
        let names = StagingNames::new(load, &self.resolve(&load.target)?);
        let client = self.server.connect().await?;
        let layout = staging::layout(&client, &names).await?;
        let key: Vec<String> = unique.iter().map(|column| layout.value(column)).collect();
        let sql = format!(
            "SELECT count(*) FROM (SELECT FROM {} s GROUP BY {} HAVING count(*) > 1) d",
            relation(&layout.copy_table(&names)),
            key.join(", ")
        );
        client.run("BEGIN; SET LOCAL work_mem = '128MB'").await?;
        let count = client.row(&sql, &[]).await?.map_or(0, |row| row.get::<_, i64>(0));
        client.run("COMMIT").await?;
        Ok(count as u64)
    }

    async fn commit(&self, commit: &Commit<'_>) -> Result<Receipt> {
        commit::commit(self, commit).await
    }

    async fn discard(&self, load: &LoadSpec) -> Result<()> {
        staging::discard(self, load).await
    }

    fn state(&self, target: &Relation, location: &StateLocation) -> Result<Arc<dyn StateStore>> {
        let tables = StateTables::new(&self.resolve(target)?, location)?;
        Ok(Arc::new(PostgresState { server: self.server.clone(), tables }))
    }

    fn manifests(&self, target: &Relation, schema: Option<&str>) -> Result<Option<Arc<dyn ManifestStore>>> {
        let schema = match schema {
            Some(schema) => schema.to_owned(),
            None => self.resolve(target)?.schema,
        };
        Ok(Some(Arc::new(PostgresManifests::new(self.server.clone(), &schema)?)))
    }

    fn migrator(&self) -> Option<Arc<dyn dpone_engine::schema::Migrator>> {
        Some(Arc::new(expand_contract::PostgresMigrator::new(self.clone())))
    }

    fn identity(&self) -> Option<String> {
        Some(self.server.config().place())
    }
}
