//! Carries out expand-contract migrations. Each phase looks at the catalog and does what is missing: how far a migration
//! is, the columns themselves say, so nothing has to be remembered.

mod sql;

use async_trait::async_trait;
use dpone_engine::failpoint::reach;
use dpone_engine::schema::{MigrationOutcome, MigrationReport, MigrationRequest, Migrator};
use dpone_engine::{Error, Relation, Result, StateLocation};
use dpone_planner::schema::expand_contract::{Migration, MigrationKind, Phase};

use self::sql::Sql;
pub(crate) use self::sql::steps;
use super::catalog::{self, Column, Table};
use super::session::Session;
use super::sink::ClickHouseSink;
use crate::state::StateTables;
use crate::types::{literal, quote};

#[derive(Debug)]
pub(crate) struct ClickHouseMigrator {
    sink: ClickHouseSink,
}

impl ClickHouseMigrator {
    pub(crate) fn new(sink: ClickHouseSink) -> Self {
        Self { sink }
    }
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Planned,
    Expanded,
    /// Between the two statements of a cut-over, or of the way back from it.
    Swapped,
    SwappedBack,
    CutOver,
    /// Nothing is left of the old column.
    Contracted,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Expanded | Self::SwappedBack => "expanded",
            Self::Swapped | Self::CutOver => "cut_over",
            Self::Contracted => "contracted",
        }
    }
}

#[async_trait]
impl Migrator for ClickHouseMigrator {
    async fn migrate(&self, request: &MigrationRequest<'_>) -> Result<MigrationReport> {
        let target = self.sink.resolve(request.table)?;
        let session = self.sink.session();
        let mut steps = Vec::new();
        for migration in request.migrations {
            let named = |error: Error| error.with("column", &migration.column).with("table", target.to_string());
            let Some(sql) = Sql::new(&target, migration)? else {
                return Err(named(Error::configuration(format!(
                    "the server cannot convert {} to {} by itself",
                    migration.from_type, migration.to_type
                )))
                .with_hint("run the statements of the plan by hand, phase by phase"));
            };
            let work = Work { session, target: &target, migration, request, sql };
            steps.push(work.run().await.map_err(named)?);
        }
        Ok(MigrationReport { table: target.to_string(), phase: request.phase, rollback: request.rollback, steps })
    }
}

/// One phase of one migration.
struct Work<'a> {
    session: &'a Session,
    target: &'a Relation,
    migration: &'a Migration,
    request: &'a MigrationRequest<'a>,
    sql: Sql<'a>,
}

impl Work<'_> {
    async fn run(&self) -> Result<MigrationOutcome> {
        let (table, stage) = self.look().await?;
        match (self.request.phase, self.request.rollback) {
            (Phase::Expand, false) => self.expand(&table, stage).await,
            (Phase::Backfill, false) => self.backfill(stage).await,
            (Phase::Validate, false) => self.validate(stage).await,
            (Phase::Contract, false) if self.request.drop_old => self.drop_old(stage).await,
            (Phase::Contract, false) => self.contract(&table, stage).await,
            (Phase::Contract, true) => self.undo_contract(stage).await,
            (Phase::Expand, true) => self.undo_expand(stage).await,
            (phase, true) => Err(Error::configuration(format!("the phase {} leaves nothing to undo", phase.as_str()))
                .with_hint(
                    "--phase contract --rollback swaps the columns back; --phase expand --rollback drops the new one",
                )),
            (Phase::Rollback, false) => Err(Error::configuration("rollback is an option of a phase: --rollback")),
        }
    }

    async fn look(&self) -> Result<(Table, Stage)> {
        let Some(table) = catalog::find(self.session, self.target).await? else {
            return Err(Error::conflict(format!("there is no table {}", self.target)));
        };
        table.refuse_unfit()?;
        let stage = self.stage(&table)?;
        Ok((table, stage))
    }

    /// What the columns say.
    fn stage(&self, table: &Table) -> Result<Stage> {
        let m = self.migration;
        let there = |name: &str| table.column(name).filter(|_| !name.is_empty());
        let kind = |column: Option<&Column>| column.map(|column| column.default_kind.clone());
        let (live, shadow, retired) = (there(&m.column), there(&m.shadow), there(&m.retired));
        let computed = |column: Option<&Column>, how: &str| kind(column).as_deref() == Some(how);
        let moved = || {
            Error::conflict(format!("the columns of {} are not those of the plan", self.target))
                .with_hint("plan again: the catalog moved")
        };
        let typed = |native: &str| live.is_some_and(|column| column.native == native);
        Ok(match (m.kind, live.is_some(), shadow.is_some(), retired.is_some()) {
            (MigrationKind::Retype, true, true, false) if computed(shadow, "MATERIALIZED") => Stage::Expanded,
            (MigrationKind::Retype, true, true, false) if computed(live, "MATERIALIZED") => Stage::SwappedBack,
            (MigrationKind::Retype, true, false, true) if computed(live, "MATERIALIZED") => Stage::Swapped,
            (MigrationKind::Retype, true, false, true) if typed(&m.to_type) => Stage::CutOver,
            (MigrationKind::Retype, true, false, false) if typed(&m.from_type) => Stage::Planned,
            (MigrationKind::Retype, true, false, false) if typed(&m.to_type) => Stage::Contracted,
            (MigrationKind::Rename, true, true, _) if computed(shadow, "ALIAS") => Stage::Expanded,
            (MigrationKind::Rename, true, true, _) if computed(live, "ALIAS") => Stage::CutOver,
            (MigrationKind::Rename, true, false, _) if !computed(live, "ALIAS") => Stage::Planned,
            (MigrationKind::Rename, false, true, _) => Stage::Contracted,
            (MigrationKind::NotNull, true, ..) if live.is_some_and(takes_null) => Stage::Planned,
            (MigrationKind::NotNull, true, ..) => Stage::Contracted,
            (MigrationKind::Drop, true, _, false) => Stage::Planned,
            (MigrationKind::Drop, false, _, true) => Stage::CutOver,
            (MigrationKind::Drop, false, _, false) => Stage::Contracted,
            _ => return Err(moved()),
        })
    }

    fn outcome(&self, stage: &str, done: Vec<String>) -> MigrationOutcome {
        MigrationOutcome {
            schema_change_id: self.migration.schema_change_id.clone(),
            column: self.migration.column.clone(),
            stage: stage.to_owned(),
            done,
            ..MigrationOutcome::default()
        }
    }

    /// Waits for mutations, and no longer than the budget for locks.
    async fn send(&self, statement: &str) -> Result<()> {
        let wait = self.request.budget.lock.as_secs().max(1).to_string();
        let settings = [("mutations_sync", "2"), ("alter_sync", "2"), ("lock_acquire_timeout", wait.as_str())];
        self.session.run_long(statement, &settings).await
    }

    /// A load that is at work has staged into tables of the old structure, whose parts could not be moved any more.
    async fn nobody_loads(&self) -> Result<()> {
        let tables = StateTables::new(self.target, &StateLocation::default())?;
        if let Some(held) = tables.leases(self.session).anybody().await? {
            return Err(Error::conflict(format!(
                "pipeline {:?} is being run into {} by {} (run {})",
                held.pipeline, self.target.schema, held.holder, held.run_id
            ))
            .with_hint("run the phase again when it has ended"));
        }
        if let Some(pipeline) = tables.journal.unfinished(self.session, self.target).await? {
            return Err(Error::conflict(format!("a load of pipeline {pipeline:?} into {} was cut short", self.target))
                .with_hint("run the pipeline first: it finishes what was begun"));
        }
        Ok(())
    }

    fn first(&self, phase: &str) -> Error {
        Error::conflict(format!("the phase {phase} has not been finished"))
            .with_hint(format!("run it first: --apply --phase {phase}"))
    }

    /// ClickHouse changes nothing of a column that rows are sorted or parted by.
    fn refuse_key(&self, table: &Table) -> Result<()> {
        let name = [self.migration.column.as_str()];
        let mut parts = table.sorting_key.iter().chain(&table.partition_key);
        if !parts.any(|part| catalog::mentioned(&name, part).len() == 1) {
            return Ok(());
        }
        Err(Error::configuration(format!(
            "column {:?} is part of the sorting or partition key: ClickHouse changes neither its name nor its type",
            self.migration.column
        ))
        .with_hint("create a table with the other column, and load into that"))
    }

    async fn expand(&self, table: &Table, stage: Stage) -> Result<MigrationOutcome> {
        if stage != Stage::Planned {
            return Ok(self.outcome(stage.as_str(), Vec::new()));
        }
        self.refuse_key(table)?;
        reach("migrate.expand.begun").await?;
        self.nobody_loads().await?;
        let mut done = Vec::new();
        for statement in self.sql.expand() {
            self.send(&statement).await?;
            done.push(format!("added {}", quote(&self.migration.shadow)));
        }
        reach("migrate.expand.applied").await?;
        Ok(self.outcome("expanded", done))
    }

    async fn backfill(&self, stage: Stage) -> Result<MigrationOutcome> {
        let needs_expand = matches!(self.migration.kind, MigrationKind::Retype | MigrationKind::Rename);
        match stage {
            Stage::Planned if needs_expand => return Err(self.first("expand")),
            Stage::Planned | Stage::Expanded => {}
            other => return Ok(self.outcome(other.as_str(), Vec::new())),
        }
        let mut outcome = self.outcome("backfilled", Vec::new());
        let missing = self.parts_without().await?;
        if self.migration.kind == MigrationKind::Retype && missing == 0 {
            return Ok(outcome);
        }
        let statements = self.sql.backfill()?;
        for statement in &statements {
            self.send(statement).await?;
            outcome.done.push(match self.migration.kind {
                MigrationKind::Retype => format!("wrote the new column into {missing} part(s)"),
                _ => "rows without a value got the declared default".to_owned(),
            });
        }
        if self.migration.kind == MigrationKind::NotNull && statements.is_empty() {
            outcome.notes.push("the source declares no default: rows without a value are not filled".to_owned());
        }
        reach("migrate.backfill.batch").await?;
        Ok(outcome)
    }

    /// Parts in which the new column is computed for each reader, and would be empty after the cut-over.
    async fn parts_without(&self) -> Result<u64> {
        if self.migration.kind != MigrationKind::Retype {
            return Ok(0);
        }
        let of = format!("database = {} AND table = {}", literal(&self.target.schema), literal(&self.target.name));
        self.session
            .count(&format!(
                "system.parts WHERE {of} AND active AND rows > 0 AND name NOT IN (SELECT name FROM system.parts_columns \
                 WHERE {of} AND active AND column = {})",
                literal(&self.migration.shadow)
            ))
            .await
    }

    async fn validate(&self, stage: Stage) -> Result<MigrationOutcome> {
        match (self.migration.kind, stage) {
            (MigrationKind::Retype | MigrationKind::Rename, Stage::Planned) => return Err(self.first("expand")),
            (MigrationKind::Retype, Stage::Expanded) if self.parts_without().await? > 0 => {
                return Err(self.first("backfill"));
            }
            (_, Stage::Planned | Stage::Expanded) => {}
            (_, other) => return Ok(self.outcome(other.as_str(), Vec::new())),
        }
        let outcome = self.counted().await?;
        reach("migrate.validate.counted").await?;
        Ok(outcome)
    }

    /// Fails when a value is none of the new type, or a row has none.
    async fn counted(&self) -> Result<MigrationOutcome> {
        let mut outcome = self.outcome("validated", Vec::new());
        if matches!(self.migration.kind, MigrationKind::Rename | MigrationKind::Drop) {
            return Ok(outcome);
        }
        let row = self.session.rows(&self.sql.validate()).await?.into_iter().next().unwrap_or_default();
        let counts: Vec<u64> = row.into_iter().flatten().filter_map(|count| count.parse().ok()).collect();
        let (rows, differing, failing) = match (self.migration.kind, counts.as_slice()) {
            (MigrationKind::Retype, [rows, differing, failing]) => (Some(*rows), *differing, *failing),
            (_, [failing]) => (None, 0, *failing),
            _ => return Err(Error::internal("a count of the server is no number")),
        };
        (outcome.rows, outcome.failing_rows) = (rows, Some(failing));
        outcome.differing_rows = rows.map(|_| differing);
        if failing + differing > 0 {
            return Err(self.refuse(failing, differing));
        }
        outcome.done.push("every row is in step".to_owned());
        Ok(outcome)
    }

    fn refuse(&self, failing: u64, differing: u64) -> Error {
        let (column, table) = (&self.migration.column, super::names::relation(self.target));
        if self.migration.kind == MigrationKind::NotNull {
            return Error::data_quality(format!("{failing} rows have no value in {column:?}")).with_hint(format!(
                "give them one: they are found by SELECT * FROM {table} WHERE isNull({})",
                quote(column)
            ));
        }
        if failing == 0 {
            return Error::conflict(format!(
                "{differing} rows are not in step: somebody changed the old column by a mutation"
            ))
            .with_hint("undo with --phase expand --rollback, and begin again");
        }
        Error::data_quality(format!(
            "{failing} values of {column:?} are no {} as what they are",
            self.migration.to_type
        ))
        .with_hint(format!(
            "correct them: they are found by SELECT * FROM {table} WHERE {}; then run --phase validate again",
            self.sql.fails()
        ))
    }

    async fn contract(&self, table: &Table, stage: Stage) -> Result<MigrationOutcome> {
        let done = "the columns were swapped; the server computes the old one from the new one";
        match (self.migration.kind, stage) {
            (_, Stage::CutOver | Stage::Contracted) => return Ok(self.outcome(stage.as_str(), Vec::new())),
            (_, Stage::Swapped) => {
                self.second(&self.sql.cut_over()?).await?;
                return Ok(self.outcome("cut_over", vec![done.to_owned()]));
            }
            (MigrationKind::Retype, Stage::Planned) => return Err(self.first("expand")),
            (MigrationKind::Rename, Stage::Planned) => return Err(self.first("expand")),
            (_, Stage::SwappedBack) => self.second(&self.sql.roll_back()?).await?,
            _ => {}
        }
        if self.parts_without().await? > 0 {
            return Err(self.first("backfill"));
        }
        self.refuse_key(table)?;
        self.nobody_loads().await?;
        self.counted().await?;
        reach("migrate.contract.prepared").await?;
        let statements = self.sql.cut_over()?;
        for (number, statement) in statements.iter().enumerate() {
            self.send(statement).await?;
            if number == 0 {
                reach("migrate.contract.swapped").await?;
            }
        }
        Ok(match self.migration.kind {
            MigrationKind::Retype => self.outcome("cut_over", vec![done.to_owned()]),
            MigrationKind::Rename => {
                self.outcome("cut_over", vec!["the old name can be read, and not written".to_owned()])
            }
            MigrationKind::Drop => {
                self.outcome("cut_over", vec![format!("renamed to {}", quote(&self.migration.retired))])
            }
            MigrationKind::NotNull => self.outcome("contracted", vec!["NULL is forbidden".to_owned()]),
        })
    }

    /// The second of two statements, whose first one was done by a run that was killed.
    async fn second(&self, statements: &[String]) -> Result<()> {
        match statements {
            [_, second] => self.send(second).await,
            _ => Err(Error::internal("a cut-over of one statement has no second one")),
        }
    }

    async fn drop_old(&self, stage: Stage) -> Result<MigrationOutcome> {
        match stage {
            Stage::Contracted => return Ok(self.outcome("contracted", Vec::new())),
            Stage::CutOver => {}
            Stage::Swapped => self.second(&self.sql.cut_over()?).await?,
            _ => {
                return Err(
                    Error::conflict("the columns are not swapped yet").with_hint("--apply --phase contract first")
                );
            }
        }
        self.nobody_loads().await?;
        for statement in self.sql.drop_old() {
            self.send(&statement).await?;
        }
        reach("migrate.contract.dropped").await?;
        Ok(self.outcome("contracted", vec!["the old column was dropped".to_owned()]))
    }

    async fn undo_contract(&self, stage: Stage) -> Result<MigrationOutcome> {
        let done = "the columns were swapped back";
        match (self.migration.kind, stage) {
            (MigrationKind::NotNull, Stage::Contracted) | (_, Stage::CutOver) => {}
            (MigrationKind::Rename, Stage::Contracted) => {}
            (_, Stage::Contracted) => {
                return Err(Error::conflict("the old column is gone: there is no way back"));
            }
            (_, Stage::Swapped) => self.second(&self.sql.cut_over()?).await?,
            (_, Stage::SwappedBack) => {
                self.second(&self.sql.roll_back()?).await?;
                return Ok(self.outcome("rolled_back", vec![done.to_owned()]));
            }
            (_, Stage::Planned | Stage::Expanded) => return Ok(self.outcome(stage.as_str(), Vec::new())),
        }
        self.nobody_loads().await?;
        let statements = self.sql.roll_back()?;
        // The old name of a rename may be gone already.
        let skip = usize::from(self.migration.kind == MigrationKind::Rename && stage == Stage::Contracted);
        for (number, statement) in statements.iter().enumerate().skip(skip) {
            self.send(statement).await?;
            if number == 0 {
                reach("migrate.contract.swapped").await?;
            }
        }
        Ok(self.outcome("rolled_back", vec![done.to_owned()]))
    }

    async fn undo_expand(&self, stage: Stage) -> Result<MigrationOutcome> {
        match stage {
            Stage::Swapped | Stage::CutOver | Stage::Contracted if self.migration.kind != MigrationKind::NotNull => {
                return Err(Error::conflict("the columns are swapped already")
                    .with_hint("swap them back first: --phase contract --rollback"));
            }
            Stage::SwappedBack => self.second(&self.sql.roll_back()?).await?,
            Stage::Planned => return Ok(self.outcome("rolled_back", Vec::new())),
            _ => {}
        }
        self.nobody_loads().await?;
        let mut done = Vec::new();
        for statement in self.sql.abandon() {
            self.send(&statement).await?;
            done.push(format!("dropped {}", quote(&self.migration.shadow)));
        }
        Ok(self.outcome("rolled_back", done))
    }
}

fn takes_null(column: &Column) -> bool {
    crate::types::ChType::native(&column.native).is_some_and(|native| native.is_nullable())
}
