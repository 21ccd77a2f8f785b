//! The ledger's tables in a SQLite file: those of PostgreSQL, with GUIDs and times as text.
//!
//! Every time is written in one form (ISO 8601, UTC, microseconds), so that the order of the texts is that of time.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::schema;
use crate::changes::Checksums;
use crate::error::{Error, ErrorKind, Result};
use crate::ledger::{Completion, Migration};
use crate::model::Model;
use crate::names::StepName;
use crate::revision::{Direction, Goal};
use crate::rules::{self, COMPLETED, IN_PROGRESS, State};

/// How long a command waits for another that is writing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Store(pub(super) Connection);

impl Store {
    /// Opens the file, or creates it in a folder that exists.
    pub(crate) fn open(path: &Path, patience: Duration) -> Result<Self> {
        let connection = Connection::open(path).map_err(|e| {
            Error::database(format!("the SQLite file {} cannot be opened: {}", path.display(), reason(&e)))
                .with_hint("its folder must exist and be writable")
        })?;
        connection.busy_timeout(patience).map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        Ok(Self(connection))
    }

    pub(crate) fn prepare(&mut self) -> Result<Migration> {
        schema::prepare(&mut self.0)
    }

    pub(crate) fn migrate(&mut self, direction: Direction, goal: &Goal) -> Result<Migration> {
        schema::migrate(&mut self.0, direction, goal)
    }

    pub(crate) fn revision(&mut self) -> Result<Option<&'static str>> {
        schema::revision(&mut self.0)
    }

    /// For what writes: a transaction that read first could be refused its lock.
    fn begin(&mut self) -> Result<Transaction<'_>> {
        self.0.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)
    }

    pub(crate) fn init_execution(&mut self, id: Uuid) -> Result<()> {
        let insert = "INSERT INTO execution (execution_id, created_on, updated_on, started_on) \
                      VALUES (?1, ?2, ?2, ?2) ON CONFLICT DO NOTHING";
        match self.0.execute(insert, params![id.to_string(), now()]).map_err(failed)? {
            0 => Err(rules::id_in_use(id)),
            _ => Ok(()),
        }
    }

    pub(crate) fn last_successful_execution(&mut self) -> Result<Option<Uuid>> {
        let query = "SELECT execution_id FROM execution WHERE status = ?1 \
                     ORDER BY updated_on DESC, created_on DESC, execution_id LIMIT 1";
        let found = self.0.query_row(query, [COMPLETED], |row| row.get(0)).optional().map_err(failed)?;
        found.map(parse_id).transpose()
    }

    pub(crate) fn execution(&mut self, id: Uuid) -> Result<Option<State>> {
        execution(&self.0, id)
    }

    pub(crate) fn init_step(&mut self, id: Uuid, execution_id: Uuid, name: StepName, models: &[Model]) -> Result<()> {
        let transaction = self.begin()?;
        execution(&transaction, execution_id)?
            .ok_or_else(|| rules::unknown_execution(execution_id))?
            .check_steps_open(execution_id)?;
        let (id, owner, now) = (id.to_string(), execution_id.to_string(), now());
        let update = "UPDATE execution SET status = ?2, updated_on = ?3 WHERE execution_id = ?1";
        transaction.execute(update, params![owner, IN_PROGRESS, now]).map_err(failed)?;
        let insert = "INSERT INTO execution_step \
                      (execution_step_id, execution_id, step_name, status, created_on, updated_on, started_on) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?5)";
        transaction.execute(insert, params![id, owner, name.as_str(), IN_PROGRESS, now]).map_err(failed)?;
        let insert = "INSERT INTO execution_step_model \
                      (execution_step_model_id, execution_step_id, model_name, checksum, created_on, updated_on) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?5)";
        {
            let mut statement = transaction.prepare(insert).map_err(failed)?;
            for model in models {
                let row = params![Uuid::new_v4().to_string(), id, model.name, model.checksum, now];
                statement.execute(row).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    pub(crate) fn step_name(&mut self, step: Uuid) -> Result<Option<String>> {
        let query = "SELECT step_name FROM execution_step WHERE execution_step_id = ?1";
        self.0.query_row(query, [step.to_string()], |row| row.get(0)).optional().map_err(failed)
    }

    /// The newest attempt at a step of an execution.
    pub(crate) fn step_of(&mut self, execution: Uuid, name: &str) -> Result<Option<Uuid>> {
        let query = "SELECT execution_step_id FROM execution_step \
                     WHERE execution_id = ?1 AND upper(step_name) = upper(?2) \
                     ORDER BY started_on DESC, created_on DESC, execution_step_id LIMIT 1";
        let found = self
            .0
            .query_row(query, params![execution.to_string(), name], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        found.map(parse_id).transpose()
    }

    pub(crate) fn models(&mut self, step: Uuid) -> Result<Checksums> {
        let query = "SELECT model_name, checksum FROM execution_step_model WHERE execution_step_id = ?1";
        let mut statement = self.0.prepare(query).map_err(failed)?;
        let rows = statement.query_map([step.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    pub(crate) fn complete_step(&mut self, step: Uuid, rows: Option<i64>) -> Result<Completion> {
        let transaction = self.begin()?;
        let id = step.to_string();
        let query = "SELECT s.status, s.completed_on, s.started_on, s.execution_id, e.status, e.completed_on \
                     FROM execution_step s JOIN execution e USING (execution_id) WHERE s.execution_step_id = ?1";
        let (state, started, owner, owner_state) = transaction
            .query_row(query, [&id], |row| Ok((state(row, 0)?, row.get(2)?, row.get(3)?, state(row, 4)?)))
            .optional()
            .map_err(failed)?
            .ok_or_else(|| rules::unknown_step(step))?;
        state.check_open("step", step)?;
        owner_state.check_steps_open(parse_id(owner)?)?;
        let completion = completion(started, Vec::new());
        let update = "UPDATE execution_step SET status = ?2, updated_on = ?3, completed_on = ?3, \
                      execution_time_ms = ?4, rows_processed = ?5 WHERE execution_step_id = ?1";
        let values = params![id, COMPLETED, completion.completed_on, completion.milliseconds, rows];
        transaction.execute(update, values).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(completion)
    }

    pub(crate) fn complete_execution(&mut self, id: Uuid) -> Result<Completion> {
        let transaction = self.begin()?;
        execution(&transaction, id)?.ok_or_else(|| rules::unknown_execution(id))?.check_open("execution", id)?;
        let id = id.to_string();
        let open = {
            let query = "SELECT step_name FROM execution_step WHERE execution_id = ?1 AND status <> ?2 \
                         ORDER BY started_on, execution_step_id";
            let mut statement = transaction.prepare(query).map_err(failed)?;
            let rows = statement.query_map(params![id, COMPLETED], |row| row.get(0)).map_err(failed)?;
            rows.collect::<Result<_, _>>().map_err(failed)?
        };
        let query = "SELECT started_on FROM execution WHERE execution_id = ?1";
        let started = transaction.query_row(query, [&id], |row| row.get(0)).map_err(failed)?;
        let completion = completion(started, open);
        let update = "UPDATE execution SET status = ?2, updated_on = ?3, completed_on = ?3, execution_time_ms = ?4 \
                      WHERE execution_id = ?1";
        let values = params![id, COMPLETED, completion.completed_on, completion.milliseconds];
        transaction.execute(update, values).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(completion)
    }
}

fn execution(connection: &Connection, id: Uuid) -> Result<Option<State>> {
    let query = "SELECT status, completed_on FROM execution WHERE execution_id = ?1";
    connection.query_row(query, [id.to_string()], |row| state(row, 0)).optional().map_err(failed)
}

fn state(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<State> {
    Ok(State { status: row.get(first)?, completed_on: row.get(first + 1)? })
}

pub(super) fn now() -> String {
    text(Utc::now())
}

fn text(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

fn completion(started_on: String, open_steps: Vec<String>) -> Completion {
    let end = Utc::now();
    // A clock that was set back makes no negative time.
    let milliseconds = DateTime::parse_from_rfc3339(&started_on)
        .map_or(0, |start| (end - start.with_timezone(&Utc)).num_milliseconds().max(0));
    Completion { started_on, completed_on: text(end), milliseconds, open_steps }
}

pub(super) fn parse_id(text: String) -> Result<Uuid> {
    Uuid::try_parse(&text).map_err(|_| Error::database("the ledger holds an id that is not a GUID"))
}

pub(super) fn failed(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    let message = format!("SQLite: {}", reason(&error));
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::database(message).with_hint("another process is writing to the file: try again")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            Error::new(ErrorKind::NotAllowed, message).with_hint("the file and its folder must be writable")
        }
        Some(ErrorCode::NotADatabase) => {
            Error::database(message).with_hint("the connection string names a file of another kind")
        }
        _ => Error::database(message),
    }
}

/// What SQLite says, without the statement.
fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}
