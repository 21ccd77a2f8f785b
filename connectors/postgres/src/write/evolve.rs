//! Changes of the target's columns, before anything is staged.
//!
//! A change waits for its lock no longer than the budget says, and everybody who comes after it waits behind it: so it
//! gives up early, lets the others through, and asks again a moment later. Changes of metadata alone are made together,
//! in one short transaction; every other one has its own.

use std::time::Duration;

use dpone_engine::failpoint;
use dpone_engine::run::moved;
use dpone_engine::{Error, Evolution, Evolved, Relation, Result};
use dpone_planner::dialect::Dialect;
use dpone_planner::schema::{LockBudget, Risk, SchemaChange, TableFacts, fingerprint};
use tokio_postgres::error::SqlState;

use super::PostgresSink;
use super::names::{literal, relation};
use crate::client::{CancelOnDrop, Client};
use crate::dialect::PostgresDialect;
use crate::error::from_driver;
use crate::state::{StateTables, fence};

/// How often a lock is asked for.
const ATTEMPTS: u32 = 5;
/// The longest wait for a lock where the definition names none.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Statements that are sent together.
#[derive(Debug, Default)]
struct Batch {
    statements: Vec<String>,
    /// Only metadata is changed.
    light: bool,
    /// It cannot be in a transaction, or should hold no lock: neither checked nor bounded like the others.
    apart: bool,
}

/// Statements that keep their own time: what PostgreSQL refuses in a transaction, or what only reads.
fn stands_apart(statement: &str) -> bool {
    statement.starts_with("ANALYZE ") || statement.contains(" CONCURRENTLY ") || is_enum_value(statement)
}

fn is_enum_value(statement: &str) -> bool {
    statement.starts_with("ALTER TYPE ") && statement.contains(" ADD VALUE ")
}

/// A constraint is validated in a transaction of its own: in that which added it, the lock of the adding would be held
/// while all rows are read.
fn validates(statement: &str) -> bool {
    statement.contains(" VALIDATE CONSTRAINT ")
}

pub(super) async fn evolve(sink: &PostgresSink, evolution: &Evolution<'_>) -> Result<Evolved> {
    let target = sink.resolve(evolution.table)?;
    let client = sink.server.connect().await?;
    let Some(found) = sink.observe(&client, &target).await? else { return Err(moved(&target)) };
    let batches = batches(&target, evolution.changes, &found.facts)?;
    let budget = budget(sink, &evolution.budget);
    let work = Work { sink, evolution, client: &client, target: &target, budget };
    let mut evolved = Evolved::default();
    failpoint::reach("evolve.begun").await?;
    let mut checked = false;
    for batch in &batches {
        match batch.apart {
            true => work.run_apart(batch, &mut evolved).await?,
            false => {
                work.apply(batch, !checked, &mut evolved).await?;
                checked = true;
            }
        }
    }
    Ok(evolved)
}

/// The budget, with what holds where the definition says nothing.
fn budget(sink: &PostgresSink, given: &LockBudget) -> LockBudget {
    let wait = sink.server.config().lock_timeout.min(LONGEST_WAIT).max(Duration::from_millis(1));
    LockBudget {
        lock_timeout_ms: Some(given.lock_timeout_ms.unwrap_or(wait.as_millis() as u64)),
        statement_timeout_ms: given.statement_timeout_ms,
    }
}

fn batches(target: &Relation, changes: &[SchemaChange], facts: &TableFacts) -> Result<Vec<Batch>> {
    let (mut batches, mut last): (Vec<Batch>, Vec<Batch>) = (Vec::new(), Vec::new());
    for change in changes {
        let light = PostgresDialect.cost(target, facts, change).risk == Risk::MetadataOnly;
        for statement in PostgresDialect.render(target, change)? {
            let apart = stands_apart(&statement);
            if statement.starts_with("ANALYZE ") {
                // Another type has no statistics, and plans of the table's readers rest on them.
                last.push(Batch { statements: vec![statement], light, apart });
                continue;
            }
            let joins = |before: &Batch| {
                let alone = before.statements.iter().any(|s| validates(s)) || validates(&statement);
                before.light && light && !before.apart && !apart && !alone
            };
            match batches.last_mut().filter(|before| joins(before)) {
                Some(before) => before.statements.push(statement),
                None => batches.push(Batch { statements: vec![statement], light, apart }),
            }
        }
    }
    batches.append(&mut last);
    Ok(batches)
}

struct Work<'a> {
    sink: &'a PostgresSink,
    evolution: &'a Evolution<'a>,
    client: &'a Client,
    target: &'a Relation,
    budget: LockBudget,
}

enum Attempt {
    Done,
    /// The lock was not granted in time.
    Waited,
}

impl Work<'_> {
    async fn apply(&self, batch: &Batch, first: bool, evolved: &mut Evolved) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.attempt(batch, first).await {
                Ok(Attempt::Done) => {
                    evolved.statements.extend(batch.statements.iter().cloned());
                    return Ok(());
                }
                Ok(Attempt::Waited) => {
                    evolved.deferrals += 1;
                    if attempt == ATTEMPTS {
                        break;
                    }
                    tokio::time::sleep(jittered(pause)).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
        Err(self.deferred(batch).await)
    }

    async fn run_apart(&self, batch: &Batch, evolved: &mut Evolved) -> Result<()> {
        for statement in &batch.statements {
            let result = self.client.run(statement).await;
            match result {
                Ok(()) => evolved.statements.push(statement.clone()),
                // Statistics come by themselves, later.
                Err(error) if statement.starts_with("ANALYZE ") => {
                    tracing::warn!(%error, "a changed column could not be analyzed");
                }
                Err(error) => return Err(error.with("table", self.target.to_string())),
            }
        }
        Ok(())
    }

    async fn attempt(&self, batch: &Batch, first: bool) -> Result<Attempt> {
        let client = self.client;
        let cancel = CancelOnDrop::new(client);
        let result = self.transaction(batch, first).await;
        cancel.disarm();
        match result {
            Ok(()) => Ok(Attempt::Done),
            Err(Failed::Driver(error)) => {
                let waited = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
                let slow = error.code() == Some(&SqlState::QUERY_CANCELED);
                let _ = client.run("ROLLBACK").await;
                match (waited, slow, self.budget.statement_timeout_ms) {
                    (true, ..) => Ok(Attempt::Waited),
                    (_, true, Some(most)) => Err(self.too_slow(batch, most)),
                    _ => Err(refused(from_driver(error)).with("table", self.target.to_string())),
                }
            }
            Err(Failed::Other(error)) => {
                let _ = client.run("ROLLBACK").await;
                Err(error)
            }
        }
    }

    async fn transaction(&self, batch: &Batch, first: bool) -> std::result::Result<(), Failed> {
        let client = self.client;
        let run = async |sql: &str| {
            tracing::debug!(sql, "evolve");
            client.batch_execute(sql).await.map_err(Failed::Driver)
        };
        let mut begin = format!("BEGIN; SET LOCAL lock_timeout = {}", self.budget.lock_timeout_ms.unwrap_or(1));
        if let Some(most) = self.budget.statement_timeout_ms {
            begin.push_str(&format!("; SET LOCAL statement_timeout = {most}"));
        }
        run(&begin).await?;
        let tables = StateTables::new(self.target, self.evolution.state_location)?;
        fence(client, &tables, self.evolution.lease).await?;
        // Validating lets readers and writers go on: it takes its own, weaker lock.
        let weak = batch.statements.iter().any(|statement| validates(statement));
        if !weak {
            run(&format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", relation(self.target))).await?;
        }
        // Under the lock nothing moves any more. Later batches follow changes of ours.
        if first {
            self.check_catalog().await?;
        }
        for statement in &batch.statements {
            run(statement).await?;
        }
        run("COMMIT").await
    }

    /// Fails where the table is not any more what the changes were planned for.
    async fn check_catalog(&self) -> Result<()> {
        let found = self.sink.observe(self.client, self.target).await?.ok_or_else(|| moved(self.target))?;
        let compared: Vec<_> = found
            .schema
            .fields()
            .iter()
            .filter(|field| !self.evolution.apart.contains(&field.name().as_str()))
            .cloned()
            .collect();
        let compared = arrow::datatypes::Schema::new(compared);
        match fingerprint(&compared, &found.facts, &PostgresDialect) == self.evolution.fingerprint {
            true => Ok(()),
            false => Err(moved(self.target)),
        }
    }

    fn too_slow(&self, batch: &Batch, most: u64) -> Error {
        Error::transient(format!(
            "a change of {} took longer than statement_timeout_seconds allows ({} s), and was rolled back: {}",
            self.target,
            most / 1000,
            batch.statements.join("; ")
        ))
        .with("table", self.target.to_string())
        .with_hint("raise schema_evolution.statement_timeout_seconds, or make the change beside the loads: dpone schema expand-contract")
    }

    /// Who held the table: its sessions, without what they run.
    async fn deferred(&self, batch: &Batch) -> Error {
        let holders = self.holders().await.unwrap_or_default();
        let who = match holders.is_empty() {
            true => String::new(),
            false => format!("; it is held by {}", holders.join(", ")),
        };
        Error::transient(format!(
            "the change of {} was deferred: its lock was not granted within {} ms, {ATTEMPTS} times{who}",
            self.target,
            self.budget.lock_timeout_ms.unwrap_or_default(),
        ))
        .with("table", self.target.to_string())
        .with("ddl", batch.statements.join("; "))
        .with_hint(
            "nothing was loaded: run again when the session is done, or raise schema_evolution.lock_timeout_seconds, for \
             which readers and writers wait as well",
        )
    }

    async fn holders(&self) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT DISTINCT l.pid::text, COALESCE(a.application_name, ''), COALESCE(a.state, ''), \
                    COALESCE(extract(epoch FROM clock_timestamp() - a.xact_start)::int8, 0)::text \
               FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
              WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() \
                AND l.relation = {}::pg_catalog.regclass ORDER BY 1 LIMIT 5",
            literal(&relation(self.target))
        );
        let rows = self.client.rows(&sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| {
                let (pid, name): (String, String) = (row.get(0), row.get(1));
                let (state, seconds): (String, String) = (row.get(2), row.get(3));
                let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
                format!("pid {pid}{name}, {state}, in a transaction for {seconds} s")
            })
            .collect())
    }
}

enum Failed {
    Driver(tokio_postgres::Error),
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What a missing right asks for.
fn refused(error: Error) -> Error {
    match error.kind() {
        dpone_engine::ErrorKind::Authorization => error.with_hint(
            "only the owner of a table changes its columns: give the role its ownership, or make the change yourself \
             (ddl_mode: plan_only, and `dpone plan` shows the statements)",
        ),
        _ => error,
    }
}

/// Up to half as long again: two loads that met once do not meet again.
fn jittered(pause: Duration) -> Duration {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    pause + pause.mul_f64(f64::from(nanos % 1_000_000) / 2_000_000.0)
}
