//! The sink: staging, checks and the way into a commit.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use dpone_engine::{
    Capabilities, Commit, Error, Evolution, Evolved, LoadSpec, Receipt, Relation, Result, Sink, StagedPartition,
    StateLocation, StateStore, TargetTable,
};
use dpone_planner::dialect::Dialect;
use dpone_planner::plan::WriteMode;
use dpone_planner::schema::TableFacts;
use futures::StreamExt;
use object_store::ObjectStoreExt;

use crate::commit::Committer;
use crate::config::{Place, Warehouse};
use crate::dialect::DeltaDialect;
use crate::lease::Leases;
use crate::provider::Files;
use crate::rewrite::{session, staged_files};
use crate::stage::{TableWriter, WrittenFile};
use crate::state::DeltaState;
use crate::table::Table;
use crate::{error, evolve, orphan, stats, types};

/// Options of a definition's sink that mean something here.
const SINK_OPTIONS: &[&str] = &[];

#[derive(Debug)]
pub(crate) struct DeltaSink {
    pub(crate) warehouse: Warehouse,
    pub(crate) leases: Arc<Leases>,
    /// Partition columns of the loads that are being staged, by load id: the log is read once a load.
    partition_columns: Mutex<HashMap<String, Vec<String>>>,
}

impl DeltaSink {
    pub(crate) fn new(warehouse: Warehouse) -> Self {
        let leases = Arc::new(Leases { warehouse: warehouse.clone() });
        Self { warehouse, leases, partition_columns: Mutex::default() }
    }

    /// The columns by which staged files are split. Changes are inputs of a join and are not.
    async fn partition_columns(&self, load: &LoadSpec) -> Result<Vec<String>> {
        if matches!(load.write_mode, WriteMode::Changes { .. }) {
            return Ok(Vec::new());
        }
        if let Some(known) = self.known().get(&load.load_id) {
            return Ok(known.clone());
        }
        let columns = match Table::open(&self.warehouse.place(&load.target)?).await? {
            Some(table) => table.partition_columns,
            None => load.partition_by.clone(),
        };
        self.known().insert(load.load_id.clone(), columns.clone());
        Ok(columns)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<String>>> {
        self.partition_columns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files of an earlier attempt at the partition.
    async fn clear(&self, place: &Place, load: &LoadSpec, partition: usize) -> Result<()> {
        let prefix = format!("{partition:05}-");
        for entry in orphan::list(place, &place.path(&load.load_id)?).await? {
            if entry.filename().is_some_and(|name| name.starts_with(&prefix)) {
                place.store.delete(&entry).await.map_err(error::store)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for DeltaSink {
    fn dialect(&self) -> Arc<dyn Dialect> {
        Arc::new(DeltaDialect)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            transactional: true,
            truncate_insert: false,
            overwrite_scope: true,
            changes: true,
            append: true,
            visibility: "a reader sees the version before the load or the one after it; a read in progress keeps its version",
        }
    }

    async fn describe(&self, relation: &Relation) -> Result<Option<TargetTable>> {
        let place = self.warehouse.place(relation)?;
        let Some(table) = Table::open(&place).await? else { return Ok(None) };
        let provider = Arc::new(Files::of_table(&self.warehouse, &table));
        let has_rows = match table.rows() {
            Some(rows) => rows > 0,
            None => {
                let source = provider_as_source(provider.clone());
                let plan = LogicalPlanBuilder::scan("t", source, None)?.limit(0, Some(1))?.build()?;
                DataFrame::new(session(&self.warehouse, &[])?.state(), plan).count().await? > 0
            }
        };
        let mut notes =
            vec![format!("version {}, {} files, {} bytes", table.version, table.files.len(), table.bytes())];
        if !table.partition_columns.is_empty() {
            notes.push(format!("partitioned by {}", table.partition_columns.join(", ")));
        }
        Ok(Some(TargetTable {
            facts: facts(&table),
            schema: Arc::clone(&table.schema),
            primary_key: table.primary_key(),
            provider,
            has_rows,
            rows_estimate: table.rows(),
            notes,
        }))
    }

    async fn evolve(&self, evolution: &Evolution<'_>) -> Result<Evolved> {
        evolve::evolve(self, evolution).await
    }

    async fn prepare(&self, load: &LoadSpec) -> Result<()> {
        if let Some(option) = load.options.keys().find(|key| !SINK_OPTIONS.contains(&key.as_str())) {
            return Err(Error::configuration(format!("a Delta sink has no option {option:?}")));
        }
        if load.staging_schema.is_some() {
            return Err(Error::configuration("a staging schema has no meaning for a Delta sink")
                .with_hint("leave it out: rows are staged in the table's own folder, where no reader sees them"));
        }
        let place = self.warehouse.place(&load.target)?;
        let removes = !matches!(load.write_mode, WriteMode::Append);
        match Table::open(&place).await? {
            Some(table) => {
                table.check_writable(removes)?;
                let asked: BTreeSet<_> = load.partition_by.iter().collect();
                if !asked.is_empty() && asked != table.partition_columns.iter().collect() {
                    return Err(Error::configuration(format!(
                        "table {} is partitioned by [{}], the definition says [{}]",
                        load.target,
                        table.partition_columns.join(", "),
                        load.partition_by.join(", ")
                    ))
                    .with_hint("a table keeps the partitioning that it was created with: change the definition, or load into a new table"));
                }
            }
            None => {
                types::schema_string(&load.staged_schema)?;
                for name in &load.partition_by {
                    let field = load.staged_schema.field_with_name(name);
                    let fits = field.is_ok_and(|f| stats::partitionable(f.data_type()));
                    if !fits {
                        return Err(Error::configuration(format!("column {name:?} cannot partition the table"))
                            .with_hint(
                                "partition by a column of a whole number, text, boolean, date or timestamp type",
                            ));
                    }
                }
            }
        }
        orphan::note(&self.warehouse, &load.target, &load.pipeline, &load.load_id).await
    }

    async fn stage(
        &self,
        load: &LoadSpec,
        partition: usize,
        mut rows: SendableRecordBatchStream,
    ) -> Result<StagedPartition> {
        let place = self.warehouse.place(&load.target)?;
        self.clear(&place, load, partition).await?;
        let columns = self.partition_columns(load).await?;
        let attempt = uuid::Uuid::new_v4().simple().to_string();
        let stem = format!("{}/{partition:05}-{}", load.load_id, &attempt[..8]);
        let mut writer = TableWriter::new(&place, stem, &load.staged_schema, &columns)?;
        let copied: Result<()> = async {
            while let Some(batch) = rows.next().await {
                writer.write(&batch?).await?;
            }
            Ok(())
        }
        .await;
        if let Err(error) = copied {
            writer.abort().await;
            return Err(error.with("table", load.target.to_string()));
        }
        let files = writer.finish().await?;
        Ok(StagedPartition {
            partition,
            rows: files.iter().map(|f| f.rows).sum(),
            bytes: files.iter().map(|f| f.size).sum(),
            artifact: serde_json::to_value(files).map_err(error::json)?,
        })
    }

    async fn duplicate_keys(&self, load: &LoadSpec, staged: &[StagedPartition], unique: &[String]) -> Result<u64> {
        let place = self.warehouse.place(&load.target)?;
        let files = artifacts(staged)?;
        let provider = staged_files(&self.warehouse, &place, load, &files);
        let keys = unique.iter().map(|c| Expr::Column(datafusion::common::Column::new_unqualified(c))).collect();
        let plan = LogicalPlanBuilder::scan("s", provider_as_source(Arc::new(provider)), None)?.build()?;
        let grouped = DataFrame::new(session(&self.warehouse, &files)?.state(), plan)
            .aggregate(keys, vec![count(lit(1i64)).alias("__dpone__rows")])?
            .filter(Expr::Column(datafusion::common::Column::new_unqualified("__dpone__rows")).gt(lit(1i64)))?;
        Ok(grouped.count().await? as u64)
    }

    async fn commit(&self, commit: &Commit<'_>) -> Result<Receipt> {
        refuse_location(commit.state_location)?;
        let committer = Committer {
            warehouse: &self.warehouse,
            leases: &self.leases,
            place: self.warehouse.place(&commit.load.target)?,
            commit,
            staged: artifacts(commit.staged)?,
        };
        committer.run().await
    }

    async fn discard(&self, load: &LoadSpec) -> Result<()> {
        self.known().remove(&load.load_id);
        let place = self.warehouse.place(&load.target)?;
        orphan::discard(&self.warehouse, &place, &load.pipeline, &load.load_id).await
    }

    fn state(&self, target: &Relation, location: &StateLocation) -> Result<Arc<dyn StateStore>> {
        refuse_location(location)?;
        Ok(Arc::new(DeltaState { place: self.warehouse.place(target)?, leases: Arc::clone(&self.leases) }))
    }
}

/// What decides about changes of a table. Its history is no part of it: every load makes a version.
pub(crate) fn facts(table: &Table) -> TableFacts {
    TableFacts {
        observed: true,
        kind: Some("delta".to_owned()),
        rows: table.rows(),
        bytes: Some(table.bytes()),
        ..TableFacts::default()
    }
}

fn refuse_location(location: &StateLocation) -> Result<()> {
    match &location.table {
        None => Ok(()),
        Some(table) => {
            Err(Error::configuration(format!("a Delta table keeps its pipelines' state itself, not in {table}"))
                .with_hint("leave the state table out of the definition"))
        }
    }
}

fn artifacts(staged: &[StagedPartition]) -> Result<Vec<WrittenFile>> {
    let mut files = Vec::new();
    for partition in staged {
        let part: Vec<WrittenFile> = serde_json::from_value(partition.artifact.clone()).map_err(error::json)?;
        files.extend(part);
    }
    Ok(files)
}
