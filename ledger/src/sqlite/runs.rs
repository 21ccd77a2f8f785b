//! The runs of pipelines in a SQLite file.

use rusqlite::{OptionalExtension, Row, params};
use uuid::Uuid;

use super::store::{Store, failed, now, parse_id};
use crate::error::{Error, Result};
use crate::names::StepName;
use crate::runs::{self, COLUMNS, RunRecord, RunState, Successes};

const TABLE: &str = "dpone_run";

impl Store {
    pub(crate) fn prepare_runs(&mut self) -> Result<()> {
        self.0.execute_batch(&runs::create(TABLE, "TEXT")).map_err(failed)
    }

    /// Whether anything was ever recorded.
    pub(crate) fn has_runs(&mut self) -> Result<bool> {
        let query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
        Ok(self.0.query_row(query, [TABLE], |_| Ok(())).optional().map_err(failed)?.is_some())
    }

    pub(crate) fn put_run(&mut self, run: &RunRecord) -> Result<()> {
        let marks: Vec<String> = (1..=COLUMNS.len()).map(|n| format!("?{n}")).collect();
        let insert = format!("INSERT OR REPLACE INTO {TABLE} ({}) VALUES ({})", COLUMNS.join(", "), marks.join(", "));
        let values = params![
            run.execution.to_string(),
            run.pipeline,
            run.run_id,
            run.step.as_str(),
            run.state.as_str(),
            run.digest,
            run.strategy,
            run.source,
            run.target,
            run.host,
            run.started_on,
            run.completed_on,
            run.rows_read,
            run.rows_inserted,
            run.rows_updated,
            run.rows_deleted,
            run.bytes,
            run.attempts,
            run.error_class,
            run.error_message,
        ];
        self.0.execute(&insert, values).map_err(failed)?;
        Ok(())
    }

    pub(crate) fn successes(&mut self) -> Result<Successes> {
        let mut statement = self.0.prepare(&runs::successes(TABLE)).map_err(failed)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    pub(crate) fn open_execution(&mut self, run_id: &str) -> Result<Option<Uuid>> {
        let query = format!(
            "SELECT r.execution_id FROM {TABLE} r JOIN execution e USING (execution_id) \
             WHERE r.run_id = ?1 AND e.status IN ('INITIALISED', 'IN_PROGRESS') ORDER BY r.started_on DESC LIMIT 1"
        );
        let found: Option<String> = self.0.query_row(&query, [run_id], |row| row.get(0)).optional().map_err(failed)?;
        found.map(parse_id).transpose()
    }

    /// The newest first; all of one execution where it is named.
    pub(crate) fn list_runs(&mut self, execution: Option<Uuid>, most: i64) -> Result<Vec<RunRecord>> {
        let query = format!(
            "SELECT {} FROM {TABLE} WHERE ?1 IS NULL OR execution_id = ?1 ORDER BY started_on DESC, pipeline LIMIT ?2",
            COLUMNS.join(", ")
        );
        let mut statement = self.0.prepare(&query).map_err(failed)?;
        let execution = execution.map(|id| id.to_string());
        let rows = statement.query_map(params![execution, most], |row| Ok(record(row))).map_err(failed)?;
        rows.map(|row| row.map_err(failed)?).collect()
    }

    pub(crate) fn supersede(&mut self) -> Result<usize> {
        let update = runs::superseded("execution", TABLE).replace("{now}", "?1");
        self.0.execute(&update, [now()]).map_err(failed)
    }
}

fn record(row: &Row<'_>) -> Result<RunRecord> {
    let text = |at: usize| row.get::<_, String>(at).map_err(failed);
    let maybe = |at: usize| row.get::<_, Option<String>>(at).map_err(failed);
    let number = |at: usize| row.get::<_, i64>(at).map_err(failed);
    Ok(RunRecord {
        execution: parse_id(text(0)?)?,
        pipeline: text(1)?,
        run_id: text(2)?,
        step: StepName::parse(&text(3)?).ok_or_else(|| Error::database("the ledger holds a run of an unknown step"))?,
        state: RunState::parse(&text(4)?)?,
        digest: text(5)?,
        strategy: text(6)?,
        source: text(7)?,
        target: text(8)?,
        host: text(9)?,
        started_on: text(10)?,
        completed_on: maybe(11)?,
        rows_read: number(12)?,
        rows_inserted: number(13)?,
        rows_updated: number(14)?,
        rows_deleted: number(15)?,
        bytes: number(16)?,
        attempts: number(17)?,
        error_class: maybe(18)?,
        error_message: maybe(19)?,
    })
}
