//! The ledger's tables in PostgreSQL, as the original tool made them.
//!
//! Identifiers and times travel as text, so that the driver needs no further crates. Statements are prepared inside the
//! transaction that runs them: a pooler that hands out a connection per transaction works.

use dpone_postgres_connect::Config;
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use super::client::{Client, begin};
use super::error::from_driver;
use super::schema;
use crate::changes::Checksums;
use crate::error::{Error, Result};
use crate::ledger::{Completion, Migration};
use crate::model::Model;
use crate::names::StepName;
use crate::revision::{Direction, Goal};
use crate::rules::{self, COMPLETED, IN_PROGRESS, State};

/// ISO 8601 in UTC, with microseconds.
macro_rules! iso {
    ($column:literal) => {
        concat!("to_char(", $column, " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')")
    };
}

/// SET of a completion, and what it returns.
macro_rules! complete {
    () => {
        concat!(
            " SET status = $2, updated_on = now(), completed_on = now(), execution_time_ms = \
             greatest(0, floor(extract(epoch FROM now() - started_on) * 1000))::bigint"
        )
    };
}

#[derive(Debug)]
pub(crate) struct Store(Client);

impl Store {
    pub(crate) async fn connect(config: &Config) -> Result<Self> {
        Ok(Self(Client::connect(config).await?))
    }

    pub(crate) async fn prepare(&mut self) -> Result<Migration> {
        schema::prepare(&mut self.0.inner).await
    }

    pub(crate) async fn migrate(&mut self, direction: Direction, goal: &Goal) -> Result<Migration> {
        schema::migrate(&mut self.0.inner, direction, goal).await
    }

    pub(crate) async fn revision(&mut self) -> Result<Option<&'static str>> {
        schema::revision(&mut self.0.inner).await
    }

    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>> {
        begin(&mut self.0.inner).await
    }

    pub(crate) async fn init_execution(&mut self, id: Uuid) -> Result<()> {
        let transaction = self.begin().await?;
        let insert = "INSERT INTO dpo.execution (execution_id) VALUES ($1::text::uuid) ON CONFLICT DO NOTHING";
        if transaction.execute(insert, &[&id.to_string()]).await.map_err(from_driver)? == 0 {
            return Err(rules::id_in_use(id));
        }
        commit(transaction).await
    }

    pub(crate) async fn last_successful_execution(&mut self) -> Result<Option<Uuid>> {
        let query = "SELECT execution_id::text FROM dpo.execution WHERE status = $1 \
                     ORDER BY updated_on DESC, created_on DESC, execution_id LIMIT 1";
        let transaction = self.begin().await?;
        let row = transaction.query_opt(query, &[&COMPLETED]).await.map_err(from_driver)?;
        row.map(|row| id(&row, 0)).transpose()
    }

    pub(crate) async fn execution(&mut self, id: Uuid) -> Result<Option<State>> {
        let query =
            concat!("SELECT status, ", iso!("completed_on"), " FROM dpo.execution WHERE execution_id = $1::text::uuid");
        let transaction = self.begin().await?;
        let row = transaction.query_opt(query, &[&id.to_string()]).await.map_err(from_driver)?;
        row.map(|row| state(&row, 0)).transpose()
    }

    pub(crate) async fn init_step(
        &mut self,
        id: Uuid,
        execution: Uuid,
        name: StepName,
        models: &[Model],
    ) -> Result<()> {
        let transaction = self.begin().await?;
        lock_execution(&transaction, execution).await?.check_steps_open(execution)?;
        let (id, execution) = (id.to_string(), execution.to_string());
        let update = "UPDATE dpo.execution SET status = $2, updated_on = now() WHERE execution_id = $1::text::uuid";
        transaction.execute(update, &[&execution, &IN_PROGRESS]).await.map_err(from_driver)?;
        let insert = "INSERT INTO dpo.execution_step (execution_step_id, execution_id, step_name, status) \
                      VALUES ($1::text::uuid, $2::text::uuid, $3, $4)";
        transaction.execute(insert, &[&id, &execution, &name.as_str(), &IN_PROGRESS]).await.map_err(from_driver)?;
        let ids: Vec<String> = models.iter().map(|_| Uuid::new_v4().to_string()).collect();
        let names: Vec<&str> = models.iter().map(|m| m.name.as_str()).collect();
        let checksums: Vec<&str> = models.iter().map(|m| m.checksum.as_str()).collect();
        let insert = "INSERT INTO dpo.execution_step_model \
                      (execution_step_model_id, execution_step_id, model_name, checksum) \
                      SELECT m.id::uuid, $1::text::uuid, m.name, m.checksum \
                      FROM unnest($2::text[], $3::text[], $4::text[]) AS m (id, name, checksum)";
        transaction.execute(insert, &[&id, &ids, &names, &checksums]).await.map_err(from_driver)?;
        commit(transaction).await
    }

    pub(crate) async fn step_name(&mut self, step: Uuid) -> Result<Option<String>> {
        let query = "SELECT step_name FROM dpo.execution_step WHERE execution_step_id = $1::text::uuid";
        let transaction = self.begin().await?;
        let row = transaction.query_opt(query, &[&step.to_string()]).await.map_err(from_driver)?;
        row.map(|row| row.try_get(0).map_err(from_driver)).transpose()
    }

    /// The newest attempt at a step of an execution.
    pub(crate) async fn step_of(&mut self, execution: Uuid, name: &str) -> Result<Option<Uuid>> {
        let query = "SELECT execution_step_id::text FROM dpo.execution_step \
                     WHERE execution_id = $1::text::uuid AND upper(step_name) = upper($2) \
                     ORDER BY started_on DESC, created_on DESC, execution_step_id LIMIT 1";
        let transaction = self.begin().await?;
        let row = transaction.query_opt(query, &[&execution.to_string(), &name]).await.map_err(from_driver)?;
        row.map(|row| id(&row, 0)).transpose()
    }

    pub(crate) async fn models(&mut self, step: Uuid) -> Result<Checksums> {
        let query =
            "SELECT model_name, checksum FROM dpo.execution_step_model WHERE execution_step_id = $1::text::uuid";
        let transaction = self.begin().await?;
        let rows = transaction.query(query, &[&step.to_string()]).await.map_err(from_driver)?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(from_driver)
    }

    pub(crate) async fn complete_step(&mut self, step: Uuid, rows: Option<i64>) -> Result<Completion> {
        let transaction = self.begin().await?;
        let id_text = step.to_string();
        let query = concat!(
            "SELECT execution_id::text, status, ",
            iso!("completed_on"),
            " FROM dpo.execution_step WHERE execution_step_id = $1::text::uuid"
        );
        let row = transaction.query_opt(query, &[&id_text]).await.map_err(from_driver)?;
        let execution = id(&row.ok_or_else(|| rules::unknown_step(step))?, 0)?;
        // The execution is locked first by everybody, and only then is a step looked at.
        let owner = lock_execution(&transaction, execution).await?;
        let row = transaction.query_one(query, &[&id_text]).await.map_err(from_driver)?;
        state(&row, 1)?.check_open("step", step)?;
        owner.check_steps_open(execution)?;
        let update = concat!(
            "UPDATE dpo.execution_step",
            complete!(),
            ", rows_processed = $3 WHERE execution_step_id = $1::text::uuid RETURNING ",
            iso!("started_on"),
            ", ",
            iso!("completed_on"),
            ", execution_time_ms"
        );
        let row = transaction.query_one(update, &[&id_text, &COMPLETED, &rows]).await.map_err(from_driver)?;
        let completion = completion(&row, Vec::new())?;
        commit(transaction).await?;
        Ok(completion)
    }

    pub(crate) async fn complete_execution(&mut self, execution: Uuid) -> Result<Completion> {
        let transaction = self.begin().await?;
        lock_execution(&transaction, execution).await?.check_open("execution", execution)?;
        let id_text = execution.to_string();
        let query = "SELECT step_name FROM dpo.execution_step \
                     WHERE execution_id = $1::text::uuid AND status <> $2 ORDER BY started_on, execution_step_id";
        let rows = transaction.query(query, &[&id_text, &COMPLETED]).await.map_err(from_driver)?;
        let open = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(from_driver)?;
        let update = concat!(
            "UPDATE dpo.execution",
            complete!(),
            " WHERE execution_id = $1::text::uuid RETURNING ",
            iso!("started_on"),
            ", ",
            iso!("completed_on"),
            ", execution_time_ms"
        );
        let row = transaction.query_one(update, &[&id_text, &COMPLETED]).await.map_err(from_driver)?;
        let completion = completion(&row, open)?;
        commit(transaction).await?;
        Ok(completion)
    }
}

/// Holds an execution still until the transaction ends.
async fn lock_execution(transaction: &Transaction<'_>, execution: Uuid) -> Result<State> {
    let query = concat!(
        "SELECT status, ",
        iso!("completed_on"),
        " FROM dpo.execution WHERE execution_id = $1::text::uuid FOR UPDATE"
    );
    let row = transaction.query_opt(query, &[&execution.to_string()]).await.map_err(from_driver)?;
    state(&row.ok_or_else(|| rules::unknown_execution(execution))?, 0)
}

pub(super) async fn commit(transaction: Transaction<'_>) -> Result<()> {
    transaction.commit().await.map_err(from_driver)
}

fn state(row: &Row, first: usize) -> Result<State> {
    Ok(State {
        status: row.try_get(first).map_err(from_driver)?,
        completed_on: row.try_get(first + 1).map_err(from_driver)?,
    })
}

fn completion(row: &Row, open_steps: Vec<String>) -> Result<Completion> {
    Ok(Completion {
        started_on: row.try_get(0).map_err(from_driver)?,
        completed_on: row.try_get(1).map_err(from_driver)?,
        milliseconds: row.try_get(2).map_err(from_driver)?,
        open_steps,
    })
}

fn id(row: &Row, column: usize) -> Result<Uuid> {
    let text: &str = row.try_get(column).map_err(from_driver)?;
    Uuid::try_parse(text).map_err(|_| Error::database("the ledger holds an id that is not a GUID"))
}
