//! What pipelines remember, kept in tables beside the data: states, loads (the receipts), and the steps of commits.
//!
//! Data first, then the load, then the state: whoever finds a load's receipt finds its rows. A state that was not written
//! because the run was killed is written by the next run, which finishes the commit before it does anything else.
//!
//! Reading from tables that do not exist finds nothing and creates nothing; taking a lease creates them.

use async_trait::async_trait;
use dpone_engine::state::LeaseRequest;
use dpone_engine::{Error, Forgotten, Lease, Receipt, Relation, Result, StateLocation, StateStore};
use dpone_planner::ErrorKind;
use dpone_planner::state::PipelineState;
use serde_json::json;

use crate::error::code_of;
use crate::lease::Leases;
use crate::types::literal;
use crate::write::journal::Journal;
use crate::write::names::{check, relation};
use crate::write::recovery::{give_up, recover};
use crate::write::session::{Session, or_nothing};
use crate::write::staging::ensure_database;

/// The tables of one location.
#[derive(Debug, Clone)]
pub(crate) struct StateTables {
    pub(crate) state: Relation,
    pub(crate) loads: Relation,
    pub(crate) journal: Journal,
    /// The table that is loaded: the same run of the same pipeline is loaded into it once.
    target: String,
}

impl StateTables {
    /// In the target's database; or around the table that the definition names, whose neighbours are named from it.
    pub(crate) fn new(target: &Relation, location: &StateLocation) -> Result<Self> {
        let [state, loads, commits] = match &location.table {
            None => ["__dpone__state", "__dpone__loads", "__dpone__commits"].map(|name| target.sibling(name)),
            Some(table) => {
                let database = if table.schema.is_empty() { &target.schema } else { &table.schema };
                ["", "__loads", "__commits"].map(|end| Relation::new(database, format!("{}{end}", table.name)))
            }
        };
        check("database", &state.schema)?;
        for table in [&state, &loads, &commits] {
            check("state table", &table.name)?;
        }
        Ok(Self { state, loads, journal: Journal { table: commits }, target: target.to_string() })
    }

    pub(crate) fn leases<'a>(&'a self, session: &'a Session) -> Leases<'a> {
        Leases { session, database: &self.state.schema, journal: &self.journal }
    }

    /// Asks first, what is there: the tables are made once, and asked for by every run.
    async fn create(&self, session: &Session) -> Result<()> {
        let tables = [&self.state, &self.loads, &self.journal.table];
        let there = format!(
            "SELECT name FROM system.tables WHERE database = {} AND name IN ({})",
            literal(&self.state.schema),
            tables.map(|table| literal(&table.name)).join(", ")
        );
        let there = session.rows(&there).await?;
        let is_there = |table: &Relation| there.iter().any(|row| row.first() == Some(&Some(table.name.clone())));
        if tables.into_iter().all(is_there) {
            return Ok(());
        }
        ensure_database(session, &self.state.schema).await?;
        let state = format!(
            "CREATE TABLE IF NOT EXISTS {} (pipeline String, state String, load_id String, run_id String, \
             committed_at String, version UInt64) ENGINE = ReplacingMergeTree(version) ORDER BY pipeline \
             COMMENT 'dpone: the newest state of each pipeline; read it with FINAL'",
            relation(&self.state)
        );
        let loads = format!(
            "CREATE TABLE IF NOT EXISTS {} (load_id String, pipeline String, target String, run_id String, token UInt64, \
             receipt String, committed_at DateTime64(3, 'UTC') DEFAULT now64(3)) \
             ENGINE = ReplacingMergeTree ORDER BY (pipeline, target, run_id) \
             COMMENT 'dpone: the receipt of every load'",
            relation(&self.loads)
        );
        for definition in [state, loads, self.journal.definition()] {
            session.run(&definition).await?;
        }
        Ok(())
    }

    /// The receipt of a load that was committed.
    pub(crate) async fn of_load(&self, session: &Session, load_id: &str) -> Result<Option<Receipt>> {
        self.find(session, &format!("load_id = {}", literal(load_id))).await
    }

    async fn find(&self, session: &Session, condition: &str) -> Result<Option<Receipt>> {
        let sql = format!("SELECT receipt FROM {} FINAL WHERE {condition} LIMIT 1", relation(&self.loads));
        let Some(text) = session.scalar(&sql).await? else { return Ok(None) };
        let receipt = serde_json::from_str(&text)
            .map_err(|e| Error::unknown(format!("a receipt in {} is not readable: {e}", self.loads)))?;
        Ok(Some(receipt))
    }

    /// Whether a load was committed under a later lease.
    pub(crate) async fn is_passed(&self, session: &Session, pipeline: &str, token: u64) -> Result<bool> {
        let condition = format!("pipeline = {} AND token > {token}", literal(pipeline));
        Ok(session.count(&format!("{} WHERE {condition}", relation(&self.loads))).await? > 0)
    }

    pub(crate) async fn put_load(
        &self,
        session: &Session,
        receipt: &Receipt,
        target: &Relation,
        token: u64,
    ) -> Result<()> {
        let text = serde_json::to_string(receipt).map_err(|e| Error::internal(format!("a receipt: {e}")))?;
        let row = json!({
            "load_id": receipt.load_id, "pipeline": receipt.pipeline, "target": target.to_string(),
            "run_id": receipt.run_id, "token": token, "receipt": text,
        });
        session.put(&self.loads, &row).await
    }

    /// The version of the next state. Those of a lease are greater than those of all leases before it; without a lease,
    /// greater than all. So a run that was taken over and wakes up writes in vain: states of later leases stay.
    pub(crate) async fn next_version(&self, session: &Session, pipeline: &str, lease: Option<u64>) -> Result<u64> {
        let (first, last) = lease.map_or((0, u64::MAX), |token| (token << 32, (token + 1) << 32));
        let sql = format!(
            "SELECT toString(max(version)) FROM {} WHERE pipeline = {} AND version < {last}",
            relation(&self.state),
            literal(pipeline)
        );
        Ok(session.number(&sql).await?.max(first) + 1)
    }

    /// The state that a load leaves.
    pub(crate) async fn put_state(&self, session: &Session, state: &PipelineState, version: u64) -> Result<()> {
        let text = serde_json::to_string(state).map_err(|e| Error::internal(format!("a state: {e}")))?;
        self.put(session, &state.pipeline, &text, [&state.load_id, &state.run_id, &state.committed_at], version).await
    }

    async fn put(
        &self,
        session: &Session,
        pipeline: &str,
        text: &str,
        about: [&String; 3],
        version: u64,
    ) -> Result<()> {
        let [load_id, run_id, committed_at] = about;
        let row = json!({
            "pipeline": pipeline, "state": text, "load_id": load_id, "run_id": run_id, "committed_at": committed_at,
            "version": version,
        });
        session.put(&self.state, &row).await
    }

    async fn states(&self, session: &Session, condition: &str) -> Result<Vec<PipelineState>> {
        let sql = format!(
            "SELECT state FROM {} FINAL WHERE state != '' AND {condition} ORDER BY pipeline",
            relation(&self.state)
        );
        let rows = or_nothing(session.rows(&sql).await)?;
        rows.into_iter()
            .filter_map(|row| row.into_iter().next().flatten())
            .map(|text| {
                serde_json::from_str(&text)
                    .map_err(|e| Error::unknown(format!("a state in {} is not readable: {e}", self.state)))
            })
            .collect()
    }
}

/// State, receipts and leases beside one target.
#[derive(Debug)]
pub(crate) struct ClickHouseState {
    pub(crate) session: Session,
    pub(crate) tables: StateTables,
}

impl ClickHouseState {
    fn leases(&self) -> Leases<'_> {
        self.tables.leases(&self.session)
    }
}

/// Why a commit that was cut short cannot be finished, with what can be done about it.
fn unfinished(error: Error) -> Error {
    let by_server = code_of(&error).is_some();
    if matters_later(&error) || (error.hint().is_some() && !by_server) {
        return error;
    }
    error.with_hint(
        "a commit of an earlier run was cut short, and is finished before anything else: undo what was changed since, in the \
         target or in the tables __dpone__stage_… beside it; or give that load up with `dpone state reset`, and look at what \
         the target has of it",
    )
}

/// The commit can be finished yet, by a server that answers a user who is let in.
fn matters_later(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Transient | ErrorKind::Authorization)
}

#[async_trait]
impl StateStore for ClickHouseState {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Lease> {
        self.tables.create(&self.session).await?;
        let lease = self.leases().acquire(request).await?;
        if let Err(error) = recover(&self.session, &self.tables, &lease).await {
            self.leases().release(&lease).await?;
            return Err(unfinished(error).with("pipeline", &request.pipeline));
        }
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        self.leases().renew(lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.leases().release(lease).await
    }

    async fn get(&self, pipeline: &str) -> Result<Option<PipelineState>> {
        let found = self.tables.states(&self.session, &format!("pipeline = {}", literal(pipeline))).await?;
        Ok(found.into_iter().next())
    }

    async fn receipt(&self, pipeline: &str, run_id: &str) -> Result<Option<Receipt>> {
        let condition = format!(
            "pipeline = {} AND target = {} AND run_id = {}",
            literal(pipeline),
            literal(&self.tables.target),
            literal(run_id)
        );
        let Some(receipt) = or_nothing(self.tables.find(&self.session, &condition).await)? else { return Ok(None) };
        // Killed between its receipt and its end: whoever takes the lease ends it, and finds the receipt then. Nobody else
        // would come for a run that is not tried again, such as a chunk of a backfill.
        let open = self.tables.journal.is_open(&self.session, pipeline, &receipt.load_id).await?;
        Ok((!open).then_some(receipt))
    }

    async fn list(&self) -> Result<Vec<PipelineState>> {
        self.tables.states(&self.session, "1").await
    }

    async fn reset(&self, pipeline: &str) -> Result<Forgotten> {
        let is_open = !or_nothing(self.tables.journal.open(&self.session, pipeline).await)?.is_empty();
        if self.get(pipeline).await?.is_none() && !is_open {
            return Ok(Forgotten::default());
        }
        self.tables.create(&self.session).await?;
        let lease = self
            .leases()
            .acquire(&LeaseRequest {
                pipeline: pipeline.to_owned(),
                run_id: "state reset".to_owned(),
                holder: format!("state reset, process {}", std::process::id()),
                ttl: std::time::Duration::from_secs(60),
            })
            .await?;
        let nothing = String::new();
        let about = [&nothing, &nothing, &nothing];
        let forgotten = async {
            let given_up = match recover(&self.session, &self.tables, &lease).await {
                Err(error) if !matters_later(&error) => {
                    give_up(&self.session, &self.tables, &lease).await?;
                    Some(error.to_string())
                }
                finished => finished.map(|()| None)?,
            };
            let version = self.tables.next_version(&self.session, pipeline, Some(lease.token)).await?;
            self.tables.put(&self.session, pipeline, "", about, version).await?;
            Ok(Forgotten { had_state: true, given_up })
        };
        let forgotten: Result<Forgotten> = forgotten.await;
        self.leases().release(&lease).await?;
        forgotten
    }

    async fn mirror(&self, state: &PipelineState, receipt: &Receipt) -> Result<()> {
        self.tables.create(&self.session).await?;
        let text = serde_json::to_string(receipt).map_err(|e| Error::internal(format!("a receipt: {e}")))?;
        let row = json!({
            "load_id": receipt.load_id, "pipeline": receipt.pipeline, "target": self.tables.target,
            "run_id": receipt.run_id, "token": 0, "receipt": text,
        });
        self.session.put(&self.tables.loads, &row).await?;
        let version = self.tables.next_version(&self.session, &state.pipeline, None).await?;
        self.tables.put_state(&self.session, state, version).await
    }
}
