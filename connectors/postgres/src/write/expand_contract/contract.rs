//! The cut-over, the way back from it, and the end.
//!
//! What takes long is done before, while writers go on: indexes are built, and NOT NULL is checked. The cut-over itself
//! is one transaction that changes the catalog alone. It works the same in both directions.

use dpone_engine::failpoint::reach;
use dpone_engine::schema::MigrationOutcome;
use dpone_engine::{Error, Result};
use dpone_planner::schema::expand_contract::MigrationKind;

use super::Work;
use super::catalog::{self, Moves};
use super::session::{Record, Stage};
use super::sql::{self, BAD_ROWS, Pair};
use crate::write::names::{quote, relation};

impl Work<'_> {
    pub(super) async fn contract(&self, record: Option<Record>) -> Result<MigrationOutcome> {
        let record = self.after(record, Stage::Backfilled, "backfill").await?;
        if record.stage < Stage::Validated {
            return Err(Error::conflict("the rows have not been validated, or not all of them are in step")
                .with_hint("run --apply --phase validate first"));
        }
        if self.request.drop_old {
            return self.drop_old(&record).await;
        }
        let mut outcome = self.outcome(record.stage.max(Stage::CutOver));
        if record.stage >= Stage::CutOver {
            self.afterwards(&mut outcome).await?;
            return Ok(outcome);
        }
        let (before, after) = (Pair::before(self.migration), Pair::after(self.migration));
        match self.migration.kind {
            MigrationKind::Retype => self.swap(&before, &after, Stage::CutOver, &mut outcome).await?,
            MigrationKind::Rename => self.swap_rename(&before, &after, Stage::CutOver, &mut outcome).await?,
            MigrationKind::NotNull => self.forbid_null(&mut outcome).await?,
            MigrationKind::Drop => {
                self.rename(&self.migration.column, &self.migration.retired, Stage::CutOver).await?;
                outcome.done.push(format!("renamed the column to {}", quote(&self.migration.retired)));
            }
        }
        reach("migrate.contract.swapped").await?;
        self.afterwards(&mut outcome).await?;
        if self.migration.kind != MigrationKind::NotNull {
            outcome.notes.push("the old column is kept: --phase contract --drop-old drops it".to_owned());
        }
        Ok(outcome)
    }

    pub(super) async fn undo_contract(&self, record: Option<Record>) -> Result<MigrationOutcome> {
        let record = record.filter(|record| record.stage >= Stage::CutOver).ok_or_else(|| {
            Error::conflict("the columns have not been swapped")
                .with_hint("--phase expand --rollback drops the new column")
        })?;
        if record.stage == Stage::Contracted {
            return Err(Error::conflict("the old column was dropped: there is no way back"));
        }
        let mut outcome = self.outcome(Stage::Backfilled);
        let (before, after) = (Pair::before(self.migration), Pair::after(self.migration));
        match self.migration.kind {
            MigrationKind::Retype => self.swap(&after, &before, Stage::Backfilled, &mut outcome).await?,
            MigrationKind::Rename => self.swap_rename(&after, &before, Stage::Backfilled, &mut outcome).await?,
            MigrationKind::NotNull => {
                let (table, column) = (relation(&self.session.table), quote(&self.migration.column));
                let relax = format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL");
                self.session.locked(&[relax, self.session.set_stage(Stage::Backfilled), self.session.sign()]).await?;
                outcome.done.push("dropped NOT NULL".to_owned());
            }
            MigrationKind::Drop => {
                self.rename(&self.migration.retired, &self.migration.column, Stage::Backfilled).await?;
                outcome.done.push("gave the column its name back".to_owned());
            }
        }
        self.afterwards(&mut outcome).await?;
        Ok(outcome)
    }

    /// Swaps the columns, with everything that hangs on the one that gives its name away.
    async fn swap(&self, from: &Pair, to: &Pair, stage: Stage, outcome: &mut MigrationOutcome) -> Result<()> {
        let (session, names) = (self.session, self.names());
        let moves =
            catalog::moves(&session.client, &session.table, session.table_oid, &from.live, &from.mirror, names).await?;
        if moves.is_in_primary_key() && session.client.version() < 120_000 {
            return Err(Error::configuration(
                "PostgreSQL 11 reads the whole table under its strongest lock to make a column part of a primary key",
            )
            .with_hint("upgrade the server, or swap the columns by hand in a maintenance window"));
        }
        self.check_default(from, &moves).await?;
        for index in &moves.indexes {
            if session.build(&index.parked, &index.create).await? {
                outcome.done.push(format!("built the index {}", quote(&index.name)));
            }
        }
        if !from.exact {
            session.build(&names.bad_rows(), &sql::bad_rows_index(&session.table, from, names)).await?;
        }
        let checked = moves.live.not_null;
        if checked && let Err(error) = self.check_not_null(&from.mirror).await {
            self.drop_not_null_check().await?;
            return Err(if error.message().contains("23514") { self.came_late(from) } else { error });
        }
        reach("migrate.contract.prepared").await?;
        let mut patience = session.patience();
        let swapped = loop {
            match self.swap_now(from, to, &moves, stage).await {
                Ok(()) => break Ok(()),
                Err(error) => {
                    if let Err(error) = patience.after(session, error).await {
                        break Err(error);
                    }
                }
            }
        };
        if let Err(error) = swapped {
            if checked {
                // Writers of values that do not convert must not be stopped by a swap that did not come.
                self.drop_not_null_check().await?;
            }
            if error.message().contains(BAD_ROWS) {
                session.save_stage(Stage::Backfilled).await.ok();
                return Err(self.came_late(from));
            }
            if ["42883", "42804", "42846"].iter().any(|code| error.message().contains(code)) {
                let what: Vec<&str> = moves.constraints.iter().map(|constraint| constraint.name.as_str()).collect();
                return Err(error.with_hint(format!(
                    "a constraint, an index or the default does not fit {}: drop it first, and create one that does after \
                     the cut-over (constraints of the column: {})",
                    from.mirror_type,
                    what.join(", ")
                )));
            }
            return Err(error);
        }
        outcome.done.push(format!(
            "{} is {} now, and {} is kept in step",
            quote(&to.live),
            from.mirror_type,
            quote(&to.mirror)
        ));
        Ok(())
    }

    fn came_late(&self, from: &Pair) -> Error {
        Error::data_quality(format!(
            "there are values of {:?} that are no {} as what they are",
            from.live, from.mirror_type
        ))
        .with_hint(format!(
            "correct them: they are found by SELECT * FROM {} WHERE {}; then run --phase validate again",
            relation(&self.session.table),
            from.fails("")
        ))
    }

    async fn swap_now(&self, from: &Pair, to: &Pair, moves: &Moves, stage: Stage) -> Result<()> {
        let (session, names, table) = (self.session, self.names(), &self.session.table);
        session.begin_transaction().await?;
        session.client.run(&format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", relation(table))).await?;
        let identity = catalog::identity(&session.client, moves).await?;
        let mut statements = Vec::new();
        if !from.exact {
            statements.extend(sql::refuse_bad_rows(table, from));
        }
        statements.extend(from.uninstall(table, names));
        statements.extend(moves.release(table, &from.live));
        statements.extend(sql::swap_names(table, from, to));
        statements.extend(moves.give(table, &to.live, &from.mirror_type, identity.as_ref()));
        if moves.live.not_null {
            statements.push(format!(
                "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}",
                relation(table),
                quote(&names.not_null())
            ));
        }
        statements.extend(to.install(table, names));
        statements.push(format!("DROP INDEX IF EXISTS {}", relation(&names.bad_rows())));
        statements.extend([session.set_stage(stage), session.sign()]);
        session.client.run(&format!("{}; COMMIT", statements.join(";\n"))).await
    }

    /// Only the names change hands: the column with its indexes and constraints is the same one.
    async fn swap_rename(&self, from: &Pair, to: &Pair, stage: Stage, outcome: &mut MigrationOutcome) -> Result<()> {
        let (session, names, table) = (self.session, self.names(), &self.session.table);
        let mut statements = vec![format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", relation(table))];
        statements.extend(from.uninstall(table, names));
        statements.extend(sql::swap_names(table, from, to));
        statements.extend(to.install(table, names));
        statements.extend([session.set_stage(stage), session.sign()]);
        reach("migrate.contract.prepared").await?;
        session.locked(&statements).await?;
        outcome.done.push(format!(
            "{} is the column's name now; {} is kept in step",
            quote(&to.live),
            quote(&to.mirror)
        ));
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str, stage: Stage) -> Result<()> {
        let table = relation(&self.session.table);
        let rename = format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", quote(from), quote(to));
        reach("migrate.contract.prepared").await?;
        self.session.locked(&[rename, self.session.set_stage(stage), self.session.sign()]).await
    }

    /// A default that is none of the new type would stop writers after the cut-over.
    async fn check_default(&self, from: &Pair, moves: &Moves) -> Result<()> {
        let Some(default) = moves.live.default.as_ref().filter(|default| !default.contains("nextval(")) else {
            return Ok(());
        };
        let sql = format!("SELECT CAST(CAST(({default}) AS {}) AS text) IS NOT NULL", from.mirror_type);
        match self.session.client.row(&sql, &[]).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::conflict(format!("the default of {:?} is no {}", from.live, from.mirror_type))
                .with_hint("set another default, or none, and run the phase again")),
        }
    }

    /// A CHECK that is validated while writers go on, so that SET NOT NULL need not read the table.
    async fn check_not_null(&self, column: &str) -> Result<()> {
        let (session, names) = (self.session, self.names());
        let statements = sql::not_null(&session.table, column, names);
        let row = session
            .client
            .row(
                "SELECT convalidated FROM pg_constraint WHERE conrelid = $1 AND conname = $2",
                &[&session.table_oid, &names.not_null()],
            )
            .await?;
        let valid: Option<bool> = row.map(|row| row.get(0));
        if valid.is_none() {
            session.locked(&statements[..1]).await?;
        }
        if valid != Some(true) {
            session.client.run(&statements[1]).await?;
        }
        Ok(())
    }

    async fn drop_not_null_check(&self) -> Result<()> {
        let (table, name) = (relation(&self.session.table), quote(&self.names().not_null()));
        self.session.locked(&[format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")]).await
    }

    async fn forbid_null(&self, outcome: &mut MigrationOutcome) -> Result<()> {
        let (session, names) = (self.session, self.names());
        if let Err(error) = self.check_not_null(&self.migration.column).await {
            self.drop_not_null_check().await?;
            return Err(error);
        }
        reach("migrate.contract.prepared").await?;
        let mut statements = sql::not_null(&session.table, &self.migration.column, names).split_off(2);
        if session.client.version() < 120_000 {
            // There, SET NOT NULL would read the table again under its strongest lock: the CHECK does the same.
            statements.clear();
            outcome.notes.push(format!("PostgreSQL 11: the CHECK {} stands for NOT NULL", quote(&names.not_null())));
        }
        statements.extend([session.set_stage(Stage::CutOver), session.sign()]);
        session.locked(&statements).await?;
        outcome.done.push("NULL is forbidden".to_owned());
        Ok(())
    }

    /// What may wait until after the swap: constraints are checked, statistics made, and the new shape is noted.
    async fn afterwards(&self, outcome: &mut MigrationOutcome) -> Result<()> {
        let session = self.session;
        let rows = session
            .client
            .rows(
                "SELECT k.conname::text FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid \
                 AND a.attnum = ANY (k.conkey) WHERE k.conrelid = $1 AND a.attname = $2 AND NOT k.convalidated \
                 AND k.contype IN ('c', 'f') ORDER BY 1",
                &[&session.table_oid, &self.migration.column],
            )
            .await?;
        for row in rows {
            let name: String = row.get(0);
            let sql = format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", relation(&session.table), quote(&name));
            match session.client.run(&sql).await {
                Ok(()) => outcome.done.push(format!("validated the constraint {}", quote(&name))),
                // It may have been NOT VALID all along.
                Err(error) => outcome.notes.push(format!("the constraint {} stays NOT VALID: {error}", quote(&name))),
            }
        }
        if self.migration.kind == MigrationKind::Retype {
            session
                .client
                .run(&format!("ANALYZE {} ({})", relation(&session.table), quote(&self.migration.column)))
                .await?;
        }
        Ok(())
    }

    async fn drop_old(&self, record: &Record) -> Result<MigrationOutcome> {
        if record.stage < Stage::CutOver {
            return Err(Error::conflict("the columns have not been swapped yet: the old one is in use")
                .with_hint("run --apply --phase contract first, and drop the old column when nobody reads it"));
        }
        let mut outcome = self.outcome(Stage::Contracted);
        if record.stage == Stage::Contracted {
            return Ok(outcome);
        }
        let (session, names, after) = (self.session, self.names(), Pair::after(self.migration));
        let mut statements = match self.migration.kind {
            MigrationKind::Retype | MigrationKind::Rename => {
                outcome.done.push(format!("dropped {}", quote(&after.mirror)));
                sql::drop_old(&session.table, self.migration, &after, names)
            }
            MigrationKind::Drop => {
                outcome.done.push(format!("dropped {}", quote(&self.migration.retired)));
                vec![format!("ALTER TABLE {} DROP COLUMN {}", relation(&session.table), quote(&self.migration.retired))]
            }
            MigrationKind::NotNull => Vec::new(),
        };
        statements.extend([session.set_stage(Stage::Contracted), session.sign()]);
        session.locked(&statements).await?;
        reach("migrate.contract.dropped").await?;
        Ok(outcome)
    }
}
