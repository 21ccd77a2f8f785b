//! Carries out expand-contract migrations: each phase looks at the catalog and at its own record, does what is missing,
//! and waits for locks no longer than the budget.

mod backfill;
mod catalog;
mod contract;
mod session;
mod sql;

use async_trait::async_trait;
use dpone_engine::failpoint::reach;
use dpone_engine::schema::{MigrationOutcome, MigrationReport, MigrationRequest, Migrator};
use dpone_engine::{Error, Result};
use dpone_planner::schema::expand_contract::{Migration, MigrationKind, Phase};

use self::session::{Record, Session, Stage};
pub(crate) use self::sql::steps;
use self::sql::{Names, Pair};
use super::PostgresSink;
use crate::write::names::{quote, relation};

#[derive(Debug)]
pub(crate) struct PostgresMigrator {
    sink: PostgresSink,
}

impl PostgresMigrator {
    pub(crate) fn new(sink: PostgresSink) -> Self {
        Self { sink }
    }
}

#[async_trait]
impl Migrator for PostgresMigrator {
    async fn migrate(&self, request: &MigrationRequest<'_>) -> Result<MigrationReport> {
        let table = self.sink.resolve(request.table)?;
        let mut steps = Vec::new();
        for migration in request.migrations {
            sql::check_migration(&table, migration)?;
            let session = Session::begin(&self.sink, &table, migration, request).await?;
            let outcome = Work { session: &session, migration, request, pair: Pair::before(migration) }
                .run()
                .await
                .map_err(|e| e.with("column", &migration.column).with("table", table.to_string()));
            session.end().await;
            steps.push(outcome?);
        }
        Ok(MigrationReport { table: table.to_string(), phase: request.phase, rollback: request.rollback, steps })
    }
}

/// One phase of one migration.
struct Work<'a> {
    session: &'a Session,
    migration: &'a Migration,
    request: &'a MigrationRequest<'a>,
    /// The columns before the cut-over.
    pair: Pair,
}

impl Work<'_> {
    fn names(&self) -> &Names {
        &self.session.names
    }

    fn outcome(&self, stage: Stage) -> MigrationOutcome {
        MigrationOutcome {
            schema_change_id: self.migration.schema_change_id.clone(),
            column: self.migration.column.clone(),
            stage: stage.as_str().to_owned(),
            ..MigrationOutcome::default()
        }
    }

    async fn run(&self) -> Result<MigrationOutcome> {
        let record = self.session.record().await?;
        if let Some(record) = &record
            && record.oid != self.session.table_oid
        {
            return Err(Error::conflict("the table was created again since this migration began")
                .with_hint("drop the row of __dpone__migrations, and plan again"));
        }
        match (self.request.phase, self.request.rollback) {
            (Phase::Expand, false) => self.expand(record).await,
            (Phase::Backfill, false) => self.backfill(record).await,
            (Phase::Validate, false) => self.validate(record).await,
            (Phase::Contract, false) => self.contract(record).await,
            (Phase::Contract, true) => self.undo_contract(record).await,
            (Phase::Expand, true) => self.undo_expand(record).await,
            (phase, true) => Err(Error::configuration(format!("the phase {} leaves nothing to undo", phase.as_str()))
                .with_hint(
                    "--phase contract --rollback swaps the columns back; --phase expand --rollback drops the new one",
                )),
            (Phase::Rollback, false) => Err(Error::configuration("rollback is an option of a phase: --rollback")),
        }
    }

    /// The record, where the phase before this one is finished and the table is still the one that was looked at.
    async fn after(&self, record: Option<Record>, least: Stage, phase: &str) -> Result<Record> {
        let Some(record) = record.filter(|record| record.stage >= least) else {
            return Err(Error::conflict(format!("the phase {phase} has not been finished"))
                .with_hint(format!("run it first: --apply --phase {phase}")));
        };
        // While the cut-over is being made the table is on its way from one shape to the other.
        if record.stage < Stage::CutOver
            && let Some(signature) = &record.signature
            && *signature != self.session.signature().await?
        {
            return Err(Error::conflict(
                "the catalog moved since the phase before: a column, a constraint, an index or a trigger of the table is \
                 not what it was",
            )
            .with_hint("look at what changed; then undo with --phase expand --rollback, and plan again"));
        }
        Ok(record)
    }

    /// The column, with the type that was planned for.
    async fn planned_column(&self) -> Result<catalog::Column> {
        let (client, oid) = (&self.session.client, self.session.table_oid);
        let Some(column) = catalog::column(client, oid, &self.migration.column).await? else {
            return Err(Error::conflict(format!("the table has no column {:?}", self.migration.column))
                .with_hint("plan again: the catalog moved"));
        };
        let planned = self.type_name(&self.migration.from_type).await?;
        if column.dtype != planned {
            return Err(Error::conflict(format!(
                "column {:?} is {}, and the plan is for {planned}",
                self.migration.column, column.dtype
            ))
            .with_hint("plan again: the catalog moved"));
        }
        Ok(column)
    }

    async fn type_name(&self, name: &str) -> Result<String> {
        catalog::type_name(&self.session.client, name).await?.ok_or_else(|| {
            Error::configuration(format!("the server has no type {name}"))
                .with_hint("write a type of your own with its schema, such as public.mood")
        })
    }

    async fn expand(&self, record: Option<Record>) -> Result<MigrationOutcome> {
        if let Some(record) = record.as_ref().filter(|record| record.stage >= Stage::Expanded) {
            return Ok(self.outcome(record.stage));
        }
        let column = self.planned_column().await?;
        let (client, oid) = (&self.session.client, self.session.table_oid);
        if !self.migration.shadow.is_empty() {
            self.type_name(&self.migration.to_type).await?;
            if catalog::column(client, oid, &self.migration.shadow).await?.is_some() {
                return Err(Error::conflict(format!("the table has a column {:?} already", self.migration.shadow))
                    .with_hint("drop or rename it, and plan again"));
            }
        }
        if self.migration.kind == MigrationKind::Retype {
            // What stands in the way is said before anything is done.
            catalog::moves(client, &self.session.table, oid, &self.pair.live, &self.pair.mirror, self.names()).await?;
        }
        let signature = self.session.signature().await?;
        self.session.begin_record(Stage::Expanding, &signature).await?;
        reach("migrate.expand.begun").await?;
        let mut done = Vec::new();
        let mut statements = Vec::new();
        match self.migration.kind {
            MigrationKind::Retype | MigrationKind::Rename => {
                statements = sql::expand(&self.session.table, self.migration, self.names());
                done.push(format!(
                    "added {} {} and a trigger that keeps it in step",
                    quote(&self.migration.shadow),
                    self.migration.to_type
                ));
            }
            MigrationKind::Drop if column.not_null => {
                statements.push(format!(
                    "ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL",
                    relation(&self.session.table),
                    quote(&self.migration.column)
                ));
                done.push("dropped NOT NULL".to_owned());
            }
            MigrationKind::Drop | MigrationKind::NotNull => {}
        }
        statements.extend([self.session.set_stage(Stage::Expanded), self.session.sign()]);
        self.session.locked(&statements).await?;
        reach("migrate.expand.applied").await?;
        Ok(MigrationOutcome { done, ..self.outcome(Stage::Expanded) })
    }

    async fn validate(&self, record: Option<Record>) -> Result<MigrationOutcome> {
        let record = self.after(record, Stage::Backfilled, "backfill").await?;
        if record.stage >= Stage::CutOver {
            return Ok(self.outcome(record.stage));
        }
        let client = &self.session.client;
        let mut outcome = self.outcome(Stage::Validated);
        let (mut differing, mut failing) = (0, 0);
        match self.migration.kind {
            MigrationKind::Retype | MigrationKind::Rename => {
                let sql = sql::validate(&self.session.table, &self.pair, self.names());
                if let Some(row) = client.row(&sql, &[]).await? {
                    let count = |at: usize| row.get::<_, i64>(at).unsigned_abs();
                    outcome.rows = Some(count(0));
                    (differing, failing) = (count(1), count(2));
                    outcome.differing_rows = Some(differing);
                }
            }
            MigrationKind::NotNull => {
                let (table, column) = (relation(&self.session.table), quote(&self.migration.column));
                let sql = format!("SELECT count(*) FROM {table} WHERE {column} IS NULL");
                failing = client.row(&sql, &[]).await?.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
            }
            MigrationKind::Drop => {}
        }
        outcome.failing_rows = Some(failing);
        reach("migrate.validate.counted").await?;
        if failing > 0 || differing > 0 {
            self.session.save_stage(Stage::Backfilled).await?;
            return Err(self.refuse(failing, differing));
        }
        self.session.save_stage(Stage::Validated).await?;
        outcome.done.push("every row is in step".to_owned());
        Ok(outcome)
    }

    fn refuse(&self, failing: u64, differing: u64) -> Error {
        let (column, table) = (&self.migration.column, relation(&self.session.table));
        if self.migration.kind == MigrationKind::NotNull {
            return Error::data_quality(format!("{failing} rows have no value in {column:?}")).with_hint(format!(
                "give them one: they are found by SELECT * FROM {table} WHERE {} IS NULL",
                quote(column)
            ));
        }
        if failing == 0 {
            return Error::conflict(format!("{differing} rows are not in step: something wrote past the trigger"))
                .with_hint("run --phase backfill again, and then --phase validate");
        }
        Error::data_quality(format!(
            "{failing} values of {column:?} are no {} as what they are; {differing} rows differ",
            self.migration.to_type
        ))
        .with_hint(format!(
            "correct them: they are found by SELECT * FROM {table} WHERE {}; then run --phase validate again",
            self.pair.fails("")
        ))
    }

    /// Before the cut-over: the new column goes.
    async fn undo_expand(&self, record: Option<Record>) -> Result<MigrationOutcome> {
        let mut outcome = self.outcome(Stage::Expanding);
        outcome.stage = "rolled_back".to_owned();
        let Some(record) = record else { return Ok(outcome) };
        if record.stage >= Stage::CutOver {
            return Err(Error::conflict("the columns are swapped already")
                .with_hint("swap them back first: --phase contract --rollback"));
        }
        let mut statements = Vec::new();
        if matches!(self.migration.kind, MigrationKind::Retype | MigrationKind::Rename) {
            statements = sql::abandon(&self.session.table, self.migration, &self.pair, self.names());
            outcome.done.push(format!("dropped {} with its trigger", quote(&self.migration.shadow)));
        } else if self.migration.kind == MigrationKind::Drop {
            outcome
                .notes
                .push("a NOT NULL that was dropped is not set again: plan it as a change of its own".to_owned());
        }
        statements.extend([self.session.forget(), self.session.sign()]);
        self.session.locked(&statements).await?;
        Ok(outcome)
    }
}
