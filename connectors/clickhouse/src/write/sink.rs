//! The sink: what a server can do as a target, and the way into staging and commits.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use dpone_engine::{
    Capabilities, Commit, Error, Evolution, Evolved, LoadSpec, Receipt, Relation, Result, Sink, StagedPartition,
    StateLocation, StateStore, TargetTable,
};
use dpone_planner::dialect::Dialect;
use dpone_planner::types::{GENERATED, GENERATED_UNLESS_GIVEN};

use super::catalog::{self, Table};
use super::commit;
use super::evolve;
use super::expand_contract::ClickHouseMigrator;
use super::names::{self, StagingNames};
use super::options::Options;
use super::session::Session;
use super::staging::{self, Layout};
use crate::ClickHouseDialect;
use crate::client::Server;
use crate::state::{ClickHouseState, StateTables};
use crate::types::quote;

/// A server that tables are loaded into.
#[derive(Debug, Clone)]
pub struct ClickHouseSink {
    session: Session,
    /// Loads whose commits were begun here and did not end.
    begun: Arc<Mutex<HashSet<String>>>,
    /// What was seen of the targets of loads that are prepared here, by load.
    prepared: Arc<Mutex<HashMap<String, Layout>>>,
}

impl ClickHouseSink {
    pub fn new(server: Server) -> Self {
        Self { session: Session { server }, begun: Arc::default(), prepared: Arc::default() }
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashMap<String, Layout>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The target with its database: the connection's, where the definition gives none.
    pub(super) fn resolve(&self, table: &Relation) -> Result<Relation> {
        if let Some(database) = &table.database {
            return Err(Error::configuration(format!(
                "{table}: a table of ClickHouse is named by its database and itself, and {database:?} is one too many"
            ))
            .with_hint("write database.table"));
        }
        let database = match table.schema.as_str() {
            "" => self.session.server.config().database.as_str(),
            database => database,
        };
        names::check("database", database)?;
        names::check("table", &table.name)?;
        Ok(Relation::new(database, &table.name))
    }
}

/// The table's columns as the planner sees them.
fn described(table: &Table) -> Result<Schema> {
    let versions = table.versions();
    let fields = table.columns.iter().filter(|column| column.default_kind != "EPHEMERAL").map(|column| {
        let field = column.field()?;
        let kept = versions.as_ref().is_some_and(|(v, d)| *v == column.name || *d == column.name);
        Ok(match kept {
            true => {
                let mut metadata = field.metadata().clone();
                metadata.insert(GENERATED.to_owned(), GENERATED_UNLESS_GIVEN.to_owned());
                Arc::new(field.as_ref().clone().with_metadata(metadata))
            }
            false => field,
        })
    });
    Ok(Schema::new(fields.collect::<Result<Vec<_>>>()?))
}

/// The table's columns, and what reads its rows.
pub(crate) async fn observe(session: &Session, table: &Table) -> Result<(SchemaRef, Arc<dyn TableProvider>)> {
    let provider = crate::read::committed(&session.server, &table.relation, table.replaces()).await?;
    Ok((as_read(&described(table)?, &provider.schema()), provider))
}

/// The columns with the Arrow types in which they are read.
fn as_read(described: &Schema, read: &Schema) -> SchemaRef {
    let fields = described.fields().iter().map(|field| match read.field_with_name(field.name()) {
        Ok(there) => {
            let mut metadata = there.metadata().clone();
            metadata.extend(field.metadata().clone());
            Arc::new(there.clone().with_metadata(metadata))
        }
        Err(_) => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn notes(table: &Table) -> Vec<String> {
    let mut notes = vec![format!("engine {}", table.engine_full)];
    if !table.views.is_empty() {
        notes.push(format!(
            "materialized views on the table ({}) do not see rows that a load brings: partitions are moved, nothing is inserted",
            table.views.join(", ")
        ));
    }
    if table.replaces() {
        notes.push("readers have to say FINAL to see one version of each row".to_owned());
    }
    notes
}

#[async_trait]
impl Sink for ClickHouseSink {
    fn dialect(&self) -> Arc<dyn Dialect> {
        Arc::new(ClickHouseDialect)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            transactional: false,
            truncate_insert: true,
            overwrite_scope: true,
            changes: true,
            append: true,
            visibility: "a table is exchanged in one step and a partition replaced in one step; other changes delete first and \
                         add then, so that a reader in between sees rows missing",
        }
    }

    async fn describe(&self, table: &Relation) -> Result<Option<TargetTable>> {
        let target = self.resolve(table)?;
        let Some(found) = catalog::find(&self.session, &target).await? else { return Ok(None) };
        found.refuse_unfit()?;
        let any = format!("SELECT '1' FROM {} LIMIT 1", found.read());
        // A user may be allowed few statements at once: four are, and then two.
        let (any, facts) = tokio::try_join!(self.session.scalar(&any), catalog::facts(&self.session, &found))?;
        let (schema, provider) = observe(&self.session, &found).await?;
        Ok(Some(TargetTable {
            schema,
            // A sorting key is no promise that its values are unique.
            primary_key: Vec::new(),
            provider,
            has_rows: any.is_some(),
            rows_estimate: found.rows,
            facts,
            notes: notes(&found),
        }))
    }

    async fn evolve(&self, evolution: &Evolution<'_>) -> Result<Evolved> {
        evolve::evolve(&self.session, evolution, &self.resolve(evolution.table)?).await
    }

    async fn prepare(&self, load: &LoadSpec) -> Result<()> {
        Options::new(&load.options)?;
        let layout = staging::prepare(&self.session, load, &self.resolve(&load.target)?).await?;
        self.prepared().insert(load.load_id.clone(), layout);
        Ok(())
    }

    async fn stage(
        &self,
        load: &LoadSpec,
        partition: usize,
        rows: SendableRecordBatchStream,
    ) -> Result<StagedPartition> {
        let prepared = self.prepared().get(&load.load_id).cloned();
        let layout = match prepared {
            Some(layout) => layout,
            None => Layout::read(&self.session, load, &self.resolve(&load.target)?).await?,
        };
        staging::stage(&self.session, load, &layout, partition, rows)
            .await
            .map_err(|error| staging::refused(error, load, &layout).with("table", load.target.to_string()))
    }

    async fn duplicate_keys(&self, load: &LoadSpec, staged: &[StagedPartition], unique: &[String]) -> Result<u64> {
        let layout = Layout::read(&self.session, load, &self.resolve(&load.target)?).await?;
        let rows = staging::union(&self.session, load, &layout, staged).await?;
        let key: Vec<_> = unique.iter().map(|column| quote(column)).collect();
        let key = key.join(", ");
        self.session.count(&format!("(SELECT 1 FROM {rows} GROUP BY {key} HAVING count() > 1)")).await
    }

    async fn commit(&self, commit: &Commit<'_>) -> Result<Receipt> {
        let begun = || {
            self.begun().insert(commit.load.load_id.clone());
        };
        let receipt = commit::commit(&self.session, commit, &self.resolve(&commit.load.target)?, &begun).await?;
        self.begun().remove(&commit.load.load_id);
        Ok(receipt)
    }

    async fn discard(&self, load: &LoadSpec) -> Result<()> {
        self.prepared().remove(&load.load_id);
        // The next run of the pipeline finishes the commit, and needs its tables.
        if self.begun().contains(&load.load_id) {
            return Ok(());
        }
        let names = StagingNames::new(load, &self.resolve(&load.target)?);
        staging::drop_all(&self.session, &names.database, &names.prefix).await
    }

    fn state(&self, target: &Relation, location: &StateLocation) -> Result<Arc<dyn StateStore>> {
        let tables = StateTables::new(&self.resolve(target)?, location)?;
        Ok(Arc::new(ClickHouseState { session: self.session.clone(), tables }))
    }

    fn migrator(&self) -> Option<Arc<dyn dpone_engine::schema::Migrator>> {
        Some(Arc::new(ClickHouseMigrator::new(self.clone())))
    }

    /// The steps of a commit are worked out from what the table holds, and another load may change that until they are
    /// done: a partition that held one chunk's rows alone is replaced as a whole.
    fn concurrent_loads(&self) -> bool {
        false
    }

    fn identity(&self) -> Option<String> {
        Some(self.session.server.config().place())
    }
}
