//! What pipelines remember, kept in three tables beside the data: states, loads (the receipts) and leases.
//!
//! Reading from tables that do not exist finds nothing and creates nothing, so that a plan touches no database; taking
//! a lease creates them. A lease is one atomic statement that reads the server's clock alone.

use std::future::Future;

use async_trait::async_trait;
use dpone_engine::state::LeaseRequest;
use dpone_engine::{Error, Forgotten, Lease, Receipt, Relation, Result, StateLocation, StateStore};
use dpone_planner::state::PipelineState;
use tokio_postgres::error::SqlState;

use crate::client::{Client, Server};
use crate::error::from_driver;
use crate::write::names::{check, literal, quote, relation};

/// The three tables of one location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateTables {
    pub(crate) state: Relation,
    pub(crate) loads: Relation,
    pub(crate) leases: Relation,
    /// The table that is loaded: the same run of the same pipeline is loaded into it once.
    target: String,
}

impl StateTables {
    /// In the target's schema; or around the table that the definition names, whose neighbours are named from it.
    pub(crate) fn new(target: &Relation, location: &StateLocation) -> Result<Self> {
        let tables = match &location.table {
            None => Self {
                state: Relation::new(&target.schema, "__dpone__state"),
                loads: Relation::new(&target.schema, "__dpone__loads"),
                leases: Relation::new(&target.schema, "__dpone__leases"),
                target: target.to_string(),
            },
            Some(table) => {
                let schema = if table.schema.is_empty() { &target.schema } else { &table.schema };
                Self {
                    state: Relation::new(schema, &table.name),
                    loads: Relation::new(schema, format!("{}__loads", table.name)),
                    leases: Relation::new(schema, format!("{}__leases", table.name)),
                    target: target.to_string(),
                }
            }
        };
        check("schema", &tables.state.schema)?;
        for table in [&tables.state, &tables.loads, &tables.leases] {
            check("state table", &table.name)?;
        }
        Ok(tables)
    }

    fn definitions(&self) -> [(&Relation, String); 3] {
        let create =
            |table: &Relation, columns: &str| format!("CREATE TABLE IF NOT EXISTS {} ({columns})", relation(table));
        [
            (
                &self.state,
                create(
                    &self.state,
                    "pipeline text PRIMARY KEY, state jsonb NOT NULL, load_id text NOT NULL, run_id text NOT NULL, \
                     committed_at timestamptz NOT NULL",
                ),
            ),
            (
                &self.loads,
                create(
                    &self.loads,
                    "load_id text PRIMARY KEY, pipeline text NOT NULL, target text NOT NULL, run_id text NOT NULL, \
                     status text NOT NULL, receipt jsonb NOT NULL, committed_at timestamptz NOT NULL, \
                     UNIQUE (pipeline, target, run_id)",
                ),
            ),
            (
                &self.leases,
                create(
                    &self.leases,
                    "pipeline text PRIMARY KEY, token bigint NOT NULL, holder text NOT NULL, run_id text NOT NULL, \
                     acquired_at timestamptz NOT NULL, expires_at timestamptz NOT NULL",
                ),
            ),
        ]
    }

    /// Creates what is missing. Two runs may do this at once: `IF NOT EXISTS` can then fail with a unique violation in
    /// the catalog, after which the other's table is there.
    pub(crate) async fn create(&self, client: &Client) -> Result<()> {
        ensure_schema(client, &self.state.schema).await?;
        for (table, definition) in self.definitions() {
            if exists(client, table).await? {
                continue;
            }
            create_once(client, &definition).await?;
        }
        Ok(())
    }
}

pub(crate) async fn exists(client: &Client, table: &Relation) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
               ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2)";
    Ok(client.row(sql, &[&table.schema, &table.name]).await?.is_some_and(|row| row.get(0)))
}

/// Creates the schema where it is missing. Asks first: `CREATE SCHEMA IF NOT EXISTS` needs a privilege even where
/// nothing is to be created.
pub(crate) async fn ensure_schema(client: &Client, schema: &str) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    if client.row(sql, &[&schema]).await?.is_some_and(|row| row.get(0)) {
        return Ok(());
    }
    create_once(client, &format!("CREATE SCHEMA IF NOT EXISTS {}", quote(schema))).await
}

/// Runs `CREATE … IF NOT EXISTS`, again where another session was creating the same thing.
pub(crate) async fn create_once(client: &Client, sql: &str) -> Result<()> {
    let mut attempt = 0;
    loop {
        match client.batch_execute(sql).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt < 5 && is_duplicate(&error) => attempt += 1,
            Err(error) => return Err(from_driver(error)),
        }
    }
}

fn is_duplicate(error: &tokio_postgres::Error) -> bool {
    let codes =
        [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT, SqlState::DUPLICATE_SCHEMA];
    error.code().is_some_and(|code| codes.contains(code))
}

fn is_missing(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code))
}

/// What a statement finds in tables that may not exist yet.
pub(crate) async fn or_nothing<T: Default>(
    found: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match found.await {
        Err(error) if is_missing(&error) => Ok(T::default()),
        other => other.map_err(from_driver),
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        Error::configuration(format!("the stored {what} cannot be read: {e}")).with_hint(
            "was it written by a newer version? `dpone state inspect` shows it, `dpone state reset` forgets it",
        )
    })
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("a state cannot be written as JSON: {e}")))
}

/// The store of one location in one server.
#[derive(Debug)]
pub(crate) struct PostgresState {
    pub(crate) server: Server,
    pub(crate) tables: StateTables,
}

#[async_trait]
impl StateStore for PostgresState {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Lease> {
        let client = self.server.connect().await?;
        self.tables.create(&client).await?;
        let leases = relation(&self.tables.leases);
        let take = format!(
            "INSERT INTO {leases} AS l (pipeline, token, holder, run_id, acquired_at, expires_at)
             VALUES ($1, 1, $2, $3, clock_timestamp(), clock_timestamp() + $4::bigint * interval '1 microsecond')
             ON CONFLICT (pipeline) DO UPDATE SET token = l.token + 1, holder = excluded.holder,
               run_id = excluded.run_id, acquired_at = excluded.acquired_at, expires_at = excluded.expires_at
             WHERE l.expires_at <= clock_timestamp() RETURNING token"
        );
        let who = format!(
            "SELECT holder, run_id, to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
             FROM {leases} WHERE pipeline = $1 AND expires_at > clock_timestamp()"
        );
        let ttl = request.ttl.as_micros() as i64;
        // A lease that ends between the two statements leaves nobody to name: ask again.
        for _ in 0..10 {
            if let Some(row) = client.row(&take, &[&request.pipeline, &request.holder, &request.run_id, &ttl]).await? {
                return Ok(Lease {
                    pipeline: request.pipeline.clone(),
                    run_id: request.run_id.clone(),
                    holder: request.holder.clone(),
                    token: row.get::<_, i64>(0) as u64,
                    ttl: request.ttl,
                });
            }
            if let Some(row) = client.row(&who, &[&request.pipeline]).await? {
                let (holder, run_id, until): (String, String, String) = (row.get(0), row.get(1), row.get(2));
                return Err(Error::conflict(format!(
                    "pipeline {:?} is being run by {holder} (run {run_id}), whose lease ends at {until}",
                    request.pipeline
                ))
                .with_hint("wait for that run, or for its lease to end if it was killed")
                .with("pipeline", &request.pipeline));
            }
        }
        Err(Error::conflict(format!("the lease of pipeline {:?} changes hands too fast", request.pipeline)))
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        let client = self.server.connect().await?;
        let sql = format!(
            "UPDATE {} SET expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
             WHERE pipeline = $1 AND token = $2",
            relation(&self.tables.leases)
        );
        let ttl = lease.ttl.as_micros() as i64;
        match client.execute(&sql, &[&lease.pipeline, &(lease.token as i64), &ttl]).await? {
            0 => Err(lost(lease)),
            _ => Ok(()),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        let client = self.server.connect().await?;
        // The row stays: its token must go on growing.
        let sql = format!(
            "UPDATE {} SET expires_at = '-infinity' WHERE pipeline = $1 AND token = $2",
            relation(&self.tables.leases)
        );
        or_nothing((*client).execute(&sql, &[&lease.pipeline, &(lease.token as i64)])).await.map(|_| ())
    }

    async fn get(&self, pipeline: &str) -> Result<Option<PipelineState>> {
        let client = self.server.connect().await?;
        let sql = format!("SELECT state::text FROM {} WHERE pipeline = $1", relation(&self.tables.state));
        let row = or_nothing(client.query_opt(&sql, &[&pipeline])).await?;
        row.map(|row| parse("state", row.get(0))).transpose()
    }

    async fn receipt(&self, pipeline: &str, run_id: &str) -> Result<Option<Receipt>> {
        let client = self.server.connect().await?;
        let sql = format!(
            "SELECT receipt::text FROM {} WHERE pipeline = $1 AND run_id = $2 AND target = $3 AND status = 'committed'",
            relation(&self.tables.loads)
        );
        let row = or_nothing(client.query_opt(&sql, &[&pipeline, &run_id, &self.tables.target])).await?;
        row.map(|row| parse("receipt", row.get(0))).transpose()
    }

    async fn list(&self) -> Result<Vec<PipelineState>> {
        let client = self.server.connect().await?;
        let sql = format!("SELECT state::text FROM {} ORDER BY pipeline", relation(&self.tables.state));
        let rows = or_nothing(client.query(&sql, &[])).await?;
        rows.iter().map(|row| parse("state", row.get(0))).collect()
    }

    async fn reset(&self, pipeline: &str) -> Result<Forgotten> {
        let client = self.server.connect().await?;
        let sql = format!("DELETE FROM {} WHERE pipeline = $1", relation(&self.tables.state));
        Ok(Forgotten::state(or_nothing((*client).execute(&sql, &[&pipeline])).await? > 0))
    }

    async fn mirror(&self, state: &PipelineState, receipt: &Receipt) -> Result<()> {
        let client = self.server.connect().await?;
        self.tables.create(&client).await?;
        client.run("BEGIN").await?;
        put_load(&client, &self.tables, receipt, true).await?;
        put_state(&client, &self.tables, state).await?;
        client.run("COMMIT").await
    }
}

fn lost(lease: &Lease) -> Error {
    Error::conflict(format!(
        "the lease of pipeline {:?} (token {}) was taken over by another run",
        lease.pipeline, lease.token
    ))
    .with_hint("the run was paused longer than its lease lasts; the other run is the one that counts")
    .with("pipeline", &lease.pipeline)
}

/// Locks the lease's row and checks that it is still ours: until the transaction ends, nobody can take it over.
pub(crate) async fn fence(client: &Client, tables: &StateTables, lease: &Lease) -> Result<()> {
    let sql = format!("SELECT token FROM {} WHERE pipeline = $1 FOR UPDATE", relation(&tables.leases));
    let row = or_nothing(client.query_opt(&sql, &[&lease.pipeline])).await?;
    match row.map(|row| row.get::<_, i64>(0)) {
        Some(token) if token as u64 == lease.token => Ok(()),
        _ => Err(lost(lease)),
    }
}

/// Records the load. `again` keeps an earlier record: a mirror may be written twice, a load is committed once.
pub(crate) async fn put_load(client: &Client, tables: &StateTables, receipt: &Receipt, again: bool) -> Result<()> {
    let sql = format!(
        "INSERT INTO {} (load_id, pipeline, target, run_id, status, receipt, committed_at)
         VALUES ($1, $2, $3, $4, 'committed', $5::text::jsonb, clock_timestamp()){}",
        relation(&tables.loads),
        if again { " ON CONFLICT DO NOTHING" } else { "" }
    );
    let text = json(receipt)?;
    match (**client).execute(&sql, &[&receipt.load_id, &receipt.pipeline, &tables.target, &receipt.run_id, &text]).await
    {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Err(Error::conflict(format!(
            "run {} of pipeline {:?} was committed already",
            receipt.run_id, receipt.pipeline
        ))
        .with_hint("run it under another run id to load again")
        .with("pipeline", &receipt.pipeline)),
        Err(error) => Err(from_driver(error)),
    }
}

pub(crate) async fn put_state(client: &Client, tables: &StateTables, state: &PipelineState) -> Result<()> {
    let sql = format!(
        "INSERT INTO {} AS s (pipeline, state, load_id, run_id, committed_at)
         VALUES ($1, $2::text::jsonb, $3, $4, $5::text::timestamptz)
         ON CONFLICT (pipeline) DO UPDATE SET state = excluded.state, load_id = excluded.load_id,
           run_id = excluded.run_id, committed_at = excluded.committed_at",
        relation(&tables.state)
    );
    let text = json(state)?;
    client
        .execute(&sql, &[&state.pipeline, &text, &state.load_id, &state.run_id, &state.committed_at])
        .await
        .map(|_| ())
}

/// What became of a load whose COMMIT got no answer. Waits for a transaction that may still be in progress: it holds
/// the lease's row, see [`fence`]. `None`: it was rolled back, for certain.
pub(crate) async fn outcome(
    client: &Client,
    tables: &StateTables,
    lease: &Lease,
    load_id: &str,
) -> Result<Option<Receipt>> {
    client.run("BEGIN; SET LOCAL lock_timeout = '60s'").await?;
    let lock = format!("SELECT token FROM {} WHERE pipeline = $1 FOR UPDATE", relation(&tables.leases));
    or_nothing(client.query_opt(&lock, &[&lease.pipeline])).await?;
    let sql = format!("SELECT receipt::text FROM {} WHERE load_id = {}", relation(&tables.loads), literal(load_id));
    let row = or_nothing(client.query_opt(&sql, &[])).await?;
    client.run("COMMIT").await?;
    row.map(|row| parse("receipt", row.get(0))).transpose()
}
