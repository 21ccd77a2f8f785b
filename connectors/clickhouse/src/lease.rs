//! Leases, where no statement compares and swaps: the name of a table is the lock.
//!
//! A lease is an empty table `__dpone__lease_<pipeline>_<token>`; who holds it until when is its comment. The server
//! makes a table of a name once: of two runs that want the next token, one gets it. A run that takes over makes the next
//! table and drops the one before, so that whoever slept finds its lease gone. Time is the server's.
//!
//! Tokens only grow. A lease under which something was committed is dropped when it is given back, since the commit's
//! journal knows its token; of any other one the table stays, released, until the next lease is taken.
//!
//! On one server, and in a database that is `Replicated`, this is exact. Servers that replicate tables but not the names
//! of them each have leases of their own: all runs of a pipeline have to reach the same one.

use std::time::Duration;

use dpone_engine::{Error, Lease, LeaseRequest, Relation, Result};

use crate::types::literal;
use crate::write::journal::Journal;
use crate::write::names::{like, pipeline_tag, relation};
use crate::write::session::{Session, TABLE_ALREADY_EXISTS, code};

const PREFIX: &str = "__dpone__lease_";

const UNKNOWN_TABLE: i32 = 60;

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Held {
    pub(crate) pipeline: String,
    pub(crate) run_id: String,
    pub(crate) holder: String,
    /// Milliseconds since 1970, by the server's clock.
    expires: i64,
    released: bool,
}

/// The leases of one pipeline in one database.
#[derive(Debug)]
pub(crate) struct Leases<'a> {
    pub(crate) session: &'a Session,
    pub(crate) database: &'a str,
    /// Of the same pipelines: it remembers the tokens under which commits were written down.
    pub(crate) journal: &'a Journal,
}

struct Seen {
    now: i64,
    newest: Option<(u64, Held)>,
    tokens: Vec<u64>,
}

impl Leases<'_> {
    fn prefix(pipeline: &str) -> String {
        format!("{PREFIX}{}_", pipeline_tag(pipeline))
    }

    fn table(&self, pipeline: &str, token: u64) -> Relation {
        Relation::new(self.database, format!("{}{token:020}", Self::prefix(pipeline)))
    }

    async fn look(&self, pipeline: &str) -> Result<Seen> {
        let prefix = Self::prefix(pipeline);
        let sql = format!(
            "SELECT toString(toUnixTimestamp64Milli(now64(3))), '', '' UNION ALL \
             SELECT '', name, comment FROM system.tables WHERE database = {} AND name LIKE {}",
            literal(self.database),
            like(&prefix)
        );
        let mut seen = Seen { now: 0, newest: None, tokens: Vec::new() };
        for row in self.session.rows(&sql).await? {
            let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
            if text(1).is_empty() {
                seen.now = text(0).parse().unwrap_or(0);
                continue;
            }
            let name = text(1);
            let Some(token) = name.strip_prefix(&prefix).and_then(|t| t.parse::<u64>().ok()) else { continue };
            seen.tokens.push(token);
            if seen.newest.as_ref().is_none_or(|(newest, _)| *newest < token) {
                let held = serde_json::from_str(&text(2)).map_err(|_| {
                    Error::unknown(format!("the comment of the lease {}.{name} is not readable", self.database))
                        .with_hint("nobody but dpone writes it; drop the table when no run of the pipeline is alive")
                })?;
                seen.newest = Some((token, held));
            }
        }
        Ok(seen)
    }

    /// The lease, with a token greater than all before.
    pub(crate) async fn acquire(&self, request: &LeaseRequest) -> Result<Lease> {
        for _ in 0..20 {
            let seen = self.look(&request.pipeline).await?;
            // Asked after the look: of a lease whose table was gone by then, the journal has the token by now.
            let known = self.journal.newest_token(self.session, &request.pipeline).await?;
            if let Some((_, held)) = seen.newest.as_ref().filter(|(_, held)| !held.released && held.expires > seen.now)
            {
                return Err(taken(request, self.database, held));
            }
            let token = seen.newest.as_ref().map_or(0, |(token, _)| *token).max(known) + 1;
            let held = Held {
                pipeline: request.pipeline.clone(),
                run_id: request.run_id.clone(),
                holder: request.holder.clone(),
                expires: seen.now + millis(request.ttl),
                released: false,
            };
            let table = self.table(&request.pipeline, token);
            let made = self
                .session
                .run(&format!(
                    "CREATE TABLE {} (lease UInt8) ENGINE = Null COMMENT {}",
                    relation(&table),
                    literal(&written(&held)?)
                ))
                .await;
            match made {
                Ok(()) => {}
                // Somebody else was faster: look who.
                Err(error) if code(&error) == Some(TABLE_ALREADY_EXISTS) => continue,
                Err(error) => return Err(error),
            }
            let after = self.look(&request.pipeline).await?;
            // We looked so long ago that later leases have come, and perhaps gone: this one was never the newest.
            if after.newest.as_ref().is_none_or(|(newest, _)| *newest != token) {
                self.drop(&request.pipeline, token).await?;
                continue;
            }
            for older in after.tokens.into_iter().filter(|older| *older < token) {
                self.drop(&request.pipeline, older).await?;
            }
            return Ok(Lease {
                pipeline: request.pipeline.clone(),
                run_id: request.run_id.clone(),
                holder: request.holder.clone(),
                token,
                ttl: request.ttl,
            });
        }
        Err(Error::transient("the lease changed under every attempt to take it"))
    }

    async fn drop(&self, pipeline: &str, token: u64) -> Result<()> {
        self.session.run(&format!("DROP TABLE IF EXISTS {} SYNC", relation(&self.table(pipeline, token)))).await
    }

    pub(crate) async fn renew(&self, lease: &Lease) -> Result<()> {
        let seen = self.look(&lease.pipeline).await?;
        let held = owned(lease, &seen)?;
        let held = Held { expires: seen.now + millis(lease.ttl), ..held.clone() };
        match self.comment(lease, &held).await {
            Err(error) if code(&error) == Some(UNKNOWN_TABLE) => Err(lost(lease, None)),
            other => other,
        }
    }

    /// A lease that is not ours any more is left alone.
    pub(crate) async fn release(&self, lease: &Lease) -> Result<()> {
        let (seen, known) =
            tokio::join!(self.look(&lease.pipeline), self.journal.newest_token(self.session, &lease.pipeline));
        let seen = seen?;
        let Ok(held) = owned(lease, &seen) else { return Ok(()) };
        if known? >= lease.token {
            return self.drop(&lease.pipeline, lease.token).await;
        }
        match self.comment(lease, &Held { released: true, ..held.clone() }).await {
            Err(error) if code(&error) == Some(UNKNOWN_TABLE) => Ok(()),
            other => other,
        }
    }

    /// Somebody who holds a lease of any pipeline here.
    pub(crate) async fn anybody(&self) -> Result<Option<Held>> {
        let sql = format!(
            "SELECT comment, toString(toUnixTimestamp64Milli(now64(3))) FROM system.tables WHERE database = {} AND name LIKE {}",
            literal(self.database),
            like(PREFIX)
        );
        let rows = self.session.rows(&sql).await?;
        Ok(rows.into_iter().find_map(|row| {
            let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
            let held = serde_json::from_str::<Held>(&text(0)).ok()?;
            (!held.released && held.expires > text(1).parse().unwrap_or(0)).then_some(held)
        }))
    }

    /// Fails when another run has taken the lease over.
    pub(crate) async fn check(&self, lease: &Lease) -> Result<()> {
        owned(lease, &self.look(&lease.pipeline).await?).map(|_| ())
    }

    async fn comment(&self, lease: &Lease, held: &Held) -> Result<()> {
        let table = self.table(&lease.pipeline, lease.token);
        let sql = format!("ALTER TABLE {} MODIFY COMMENT {}", relation(&table), literal(&written(held)?));
        self.session.run(&sql).await
    }
}

fn owned<'a>(lease: &Lease, seen: &'a Seen) -> Result<&'a Held> {
    match &seen.newest {
        Some((token, held)) if *token == lease.token && !held.released => Ok(held),
        other => Err(lost(lease, other.as_ref().map(|(_, held)| held))),
    }
}

fn written(held: &Held) -> Result<String> {
    serde_json::to_string(held).map_err(|e| Error::internal(format!("a lease: {e}")))
}

fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4)
}

fn taken(request: &LeaseRequest, database: &str, held: &Held) -> Error {
    let until = chrono::DateTime::from_timestamp_millis(held.expires).unwrap_or_default();
    Error::conflict(format!(
        "pipeline {:?} into {database} is being run by {} (run {}), which holds its lease until {}",
        request.pipeline,
        held.holder,
        held.run_id,
        until.format("%Y-%m-%d %H:%M:%S UTC")
    ))
    .with_hint("wait for that run to end; when its process is gone, the lease runs out by itself")
}

fn lost(ours: &Lease, held: Option<&Held>) -> Error {
    let by = held.map_or_else(|| "it is gone".to_owned(), |h| format!("it is held by {} (run {})", h.holder, h.run_id));
    Error::conflict(format!("the lease of pipeline {:?} is no longer ours: {by}", ours.pipeline))
        .with_hint("another run took over because this one did not renew its lease in time; its result counts")
}
