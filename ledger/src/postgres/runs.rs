//! The runs of pipelines in PostgreSQL.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::error::from_driver;
use super::schema::LOCK;
use super::store::{Store, commit};
use crate::error::{Error, Result};
use crate::names::StepName;
use crate::runs::{self, COLUMNS, RunRecord, RunState, Successes};

const TABLE: &str = "dpo.dpone_run";

impl Store {
    pub(crate) async fn prepare_runs(&mut self) -> Result<()> {
        if self.has_runs().await? {
            return Ok(());
        }
        let transaction = self.begin().await?;
        // Two that come first at once would make the same names.
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(from_driver)?;
        transaction.batch_execute(&runs::create(TABLE, "uuid")).await.map_err(from_driver)?;
        commit(transaction).await
    }

    /// Whether anything was ever recorded.
    pub(crate) async fn has_runs(&mut self) -> Result<bool> {
        let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
                     ON n.oid = c.relnamespace WHERE n.nspname = 'dpo' AND c.relname = 'dpone_run')";
        let transaction = self.begin().await?;
        transaction.query_one(query, &[]).await.map_err(from_driver)?.try_get(0).map_err(from_driver)
    }

    pub(crate) async fn put_run(&mut self, run: &RunRecord) -> Result<()> {
        let marks: Vec<String> =
            (1..=COLUMNS.len()).map(|n| if n == 1 { "$1::text::uuid".to_owned() } else { format!("${n}") }).collect();
        let updates: Vec<String> = COLUMNS[2..].iter().map(|c| format!("{c} = excluded.{c}")).collect();
        let upsert = format!(
            "INSERT INTO {TABLE} ({}) VALUES ({}) ON CONFLICT (execution_id, pipeline) DO UPDATE SET {}",
            COLUMNS.join(", "),
            marks.join(", "),
            updates.join(", ")
        );
        let (execution, step, state) = (run.execution.to_string(), run.step.as_str(), run.state.as_str());
        let values: [&(dyn ToSql + Sync); COLUMNS.len()] = [
            &execution,
            &run.pipeline,
            &run.run_id,
            &step,
            &state,
            &run.digest,
            &run.strategy,
            &run.source,
            &run.target,
            &run.host,
            &run.started_on,
            &run.completed_on,
            &run.rows_read,
            &run.rows_inserted,
            &run.rows_updated,
            &run.rows_deleted,
            &run.bytes,
            &run.attempts,
            &run.error_class,
            &run.error_message,
        ];
        let transaction = self.begin().await?;
        transaction.execute(&upsert, &values).await.map_err(from_driver)?;
        commit(transaction).await
    }

    pub(crate) async fn successes(&mut self) -> Result<Successes> {
        let transaction = self.begin().await?;
        let rows = transaction.query(&runs::successes(TABLE), &[]).await.map_err(from_driver)?;
        rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
    }

    pub(crate) async fn open_execution(&mut self, run_id: &str) -> Result<Option<Uuid>> {
        let query = format!(
            "SELECT r.execution_id::text FROM {TABLE} r JOIN dpo.execution e USING (execution_id) \
             WHERE r.run_id = $1 AND e.status IN ('INITIALISED', 'IN_PROGRESS') ORDER BY r.started_on DESC LIMIT 1"
        );
        let transaction = self.begin().await?;
        let row = transaction.query_opt(&query, &[&run_id]).await.map_err(from_driver)?;
        row.map(|row| id(&row)).transpose()
    }

    /// The newest first; all of one execution where it is named.
    pub(crate) async fn list_runs(&mut self, execution: Option<Uuid>, most: i64) -> Result<Vec<RunRecord>> {
        let query = format!(
            "SELECT execution_id::text, {} FROM {TABLE} WHERE $1::text IS NULL OR execution_id = $1::text::uuid \
             ORDER BY started_on DESC, pipeline LIMIT $2",
            COLUMNS[1..].join(", ")
        );
        let execution = execution.map(|id| id.to_string());
        let transaction = self.begin().await?;
        let rows = transaction.query(&query, &[&execution, &most]).await.map_err(from_driver)?;
        rows.iter().map(record).collect()
    }

    pub(crate) async fn supersede(&mut self) -> Result<usize> {
        let update = runs::superseded("dpo.execution", TABLE).replace("{now}", "now()");
        let transaction = self.begin().await?;
        let closed = transaction.execute(&update, &[]).await.map_err(from_driver)?;
        commit(transaction).await?;
        Ok(usize::try_from(closed).unwrap_or(usize::MAX))
    }
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> Result<T> {
    row.try_get(at).map_err(from_driver)
}

fn id(row: &Row) -> Result<Uuid> {
    let text: String = get(row, 0)?;
    Uuid::try_parse(&text).map_err(|_| Error::database("the ledger holds an id that is not a GUID"))
}

fn record(row: &Row) -> Result<RunRecord> {
    let (step, state): (String, String) = (get(row, 3)?, get(row, 4)?);
    Ok(RunRecord {
        execution: id(row)?,
        pipeline: get(row, 1)?,
        run_id: get(row, 2)?,
        step: StepName::parse(&step).ok_or_else(|| Error::database("the ledger holds a run of an unknown step"))?,
        state: RunState::parse(&state)?,
        digest: get(row, 5)?,
        strategy: get(row, 6)?,
        source: get(row, 7)?,
        target: get(row, 8)?,
        host: get(row, 9)?,
        started_on: get(row, 10)?,
        completed_on: get(row, 11)?,
        rows_read: get(row, 12)?,
        rows_inserted: get(row, 13)?,
        rows_updated: get(row, 14)?,
        rows_deleted: get(row, 15)?,
        bytes: get(row, 16)?,
        attempts: get(row, 17)?,
        error_class: get(row, 18)?,
        error_message: get(row, 19)?,
    })
}
