//! Partition manifests of backfills in two tables, which workers on several machines share.
//!
//! A worker claims a chunk by locking its row for an instant (`FOR UPDATE SKIP LOCKED`), so that workers never wait for
//! each other, and by writing its name and the end of its claim into it. The server's clock alone decides whether a claim
//! has ended, and a token that grows with each claim keeps a worker that lost its chunk from recording anything.

use std::time::Duration;

use async_trait::async_trait;
use dpone_engine::backfill::{
    Attempt, CampaignStatus, Claim, ClaimRequest, Hold, ManifestStore, Partition, PartitionLease, PartitionManifest,
    PartitionStatus,
};
use dpone_engine::{Error, Relation, Result};
use tokio_postgres::Row;

use crate::client::{Client, Server};
use crate::state::{create_once, ensure_schema, exists, or_nothing};
use crate::write::names::{check, relation};

/// Every column of a chunk, in the order in which [`partition`] reads them.
const COLUMNS: &str = "id, \"lower\", \"upper\", inclusive_upper, null_values, status, extracted_rows, loaded_rows, \
     artifact_path, checksum, attempts, last_error, last_error_kind, run_id, load_id, holder, \
     to_char(lease_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
     to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
     to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), seconds, token";

/// The tables of one schema.
#[derive(Debug)]
pub(crate) struct PostgresManifests {
    server: Server,
    campaigns: Relation,
    partitions: Relation,
}

impl PostgresManifests {
    pub(crate) fn new(server: Server, schema: &str) -> Result<Self> {
        check("schema", schema)?;
        Ok(Self {
            server,
            campaigns: Relation::new(schema, "__dpone__backfills"),
            partitions: Relation::new(schema, "__dpone__backfill_partitions"),
        })
    }

    async fn create(&self, client: &Client) -> Result<()> {
        ensure_schema(client, &self.campaigns.schema).await?;
        let tables = [
            (
                &self.campaigns,
                "campaign text PRIMARY KEY, origin text NOT NULL, version integer NOT NULL, pipeline text NOT NULL, backfill_id text, \
                 status text NOT NULL, source text NOT NULL, target text NOT NULL, inner_mode text NOT NULL, \
                 \"column\" text NOT NULL, kind text NOT NULL, step text, timezone text NOT NULL, \
                 created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL",
            ),
            (
                &self.partitions,
                "campaign text NOT NULL, ordinal integer NOT NULL, id text NOT NULL, \"lower\" text, \"upper\" text, \
                 inclusive_upper boolean NOT NULL, null_values boolean NOT NULL, status text NOT NULL, \
                 extracted_rows bigint, loaded_rows bigint, artifact_path text, checksum text, \
                 attempts integer NOT NULL DEFAULT 0, last_error text, last_error_kind text, run_id text NOT NULL, \
                 load_id text, holder text, lease_expires_at timestamptz, started_at timestamptz, \
                 finished_at timestamptz, seconds double precision, token bigint NOT NULL DEFAULT 0, receipt jsonb, \
                 PRIMARY KEY (campaign, id)",
            ),
        ];
        for (table, columns) in tables {
            if !exists(client, table).await? {
                create_once(client, &format!("CREATE TABLE IF NOT EXISTS {} ({columns})", relation(table))).await?;
            }
        }
        Ok(())
    }

    /// Runs statements in one transaction. What fails in between is rolled back when the connection closes.
    async fn transaction(&self) -> Result<Client> {
        let client = self.server.connect().await?;
        client.run("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        Ok(client)
    }

    async fn read(&self, client: &Client, campaign: &str) -> Result<Option<PartitionManifest>> {
        let sql = format!(
            "SELECT campaign, version, pipeline, backfill_id, status, source, target, inner_mode, \"column\", kind, step, \
             timezone, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
             to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), origin FROM {} WHERE campaign = $1",
            relation(&self.campaigns)
        );
        let Some(row) = or_nothing(client.query_opt(&sql, &[&campaign])).await? else { return Ok(None) };
        let mut manifest = header(&row)?;
        let sql = format!("SELECT {COLUMNS} FROM {} WHERE campaign = $1 ORDER BY ordinal", relation(&self.partitions));
        manifest.partitions =
            client.rows(&sql, &[&campaign]).await?.iter().map(partition).collect::<Result<Vec<_>>>()?;
        Ok(Some(manifest))
    }

    /// The campaign's time of change; and done, when nothing is left.
    async fn touch(&self, client: &Client, campaign: &str) -> Result<()> {
        let sql = format!(
            "UPDATE {} c SET updated_at = clock_timestamp(), status = CASE WHEN status = 'open' AND NOT EXISTS \
             (SELECT FROM {} p WHERE p.campaign = c.campaign AND p.status <> 'success') THEN 'done' ELSE status END \
             WHERE campaign = $1",
            relation(&self.campaigns),
            relation(&self.partitions)
        );
        client.execute(&sql, &[&campaign]).await.map(|_| ())
    }
}

fn header(row: &Row) -> Result<PartitionManifest> {
    let version = row.get::<_, i32>(1);
    if u32::try_from(version).ok() != Some(PartitionManifest::VERSION) {
        return Err(Error::conflict(format!(
            "the partition manifest of backfill {} has the version {version}, and this version of dpone reads {}",
            row.get::<_, String>(0),
            PartitionManifest::VERSION
        )));
    }
    Ok(PartitionManifest {
        version: PartitionManifest::VERSION,
        campaign: row.get(0),
        pipeline: row.get(2),
        backfill_id: row.get(3),
        status: match row.get::<_, &str>(4) {
            "cancelled" => CampaignStatus::Cancelled,
            "done" => CampaignStatus::Done,
            _ => CampaignStatus::Open,
        },
        source: row.get(5),
        target: row.get(6),
        inner_mode: row.get(7),
        column: row.get(8),
        kind: row.get(9),
        step: row.get(10),
        timezone: row.get(11),
        created_at: row.get(12),
        updated_at: row.get(13),
        origin: row.get(14),
        partitions: Vec::new(),
    })
}

fn partition(row: &Row) -> Result<Partition> {
    let rows = |index: usize| row.get::<_, Option<i64>>(index).map(|n| n as u64);
    let lease = match (row.get::<_, Option<String>>(15), row.get::<_, Option<String>>(16)) {
        (Some(holder), Some(expires_at)) => Some(PartitionLease { holder, expires_at }),
        _ => None,
    };
    Ok(Partition {
        id: row.get(0),
        lower: row.get(1),
        upper: row.get(2),
        inclusive_upper: row.get(3),
        null_values: row.get(4),
        status: PartitionStatus::parse(row.get(5))?,
        extracted_rows: rows(6),
        loaded_rows: rows(7),
        artifact_path: row.get(8),
        checksum: row.get(9),
        attempts: row.get::<_, i32>(10) as u32,
        last_error: row.get(11),
        last_error_kind: row.get(12),
        run_id: row.get(13),
        load_id: row.get(14),
        lease,
        started_at: row.get(17),
        finished_at: row.get(18),
        seconds: row.get(19),
        token: row.get::<_, i64>(20) as u64,
    })
}

#[async_trait]
impl ManifestStore for PostgresManifests {
    fn place(&self, _: &str) -> String {
        format!("{}, {} of connection {}", self.campaigns, self.partitions, self.server.config().connection)
    }

    async fn begin(&self, fresh: &PartitionManifest) -> Result<Hold> {
        let client = self.server.connect().await?;
        self.create(&client).await?;
        client.run("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        // Another machine that begins at the same time waits here, and then finds the campaign.
        let sql = format!(
            "INSERT INTO {} (campaign, version, pipeline, backfill_id, status, source, target, inner_mode, \"column\", kind, \
             step, timezone, origin, created_at, updated_at) VALUES ($1, $2, $3, $4, 'open', $5, $6, $7, $8, $9, $10, $11, \
             $12, clock_timestamp(), clock_timestamp()) ON CONFLICT (campaign) DO NOTHING",
            relation(&self.campaigns)
        );
        let version = PartitionManifest::VERSION as i32;
        let inserted = client
            .execute(
                &sql,
                &[
                    &fresh.campaign,
                    &version,
                    &fresh.pipeline,
                    &fresh.backfill_id,
                    &fresh.source,
                    &fresh.target,
                    &fresh.inner_mode,
                    &fresh.column,
                    &fresh.kind,
                    &fresh.step,
                    &fresh.timezone,
                    &fresh.origin,
                ],
            )
            .await?;
        if inserted > 0 {
            let partitions = serde_json::to_string(&fresh.partitions)
                .map_err(|e| Error::internal(format!("a partition manifest cannot be written as JSON: {e}")))?;
            let sql = format!(
                "INSERT INTO {} (campaign, ordinal, id, \"lower\", \"upper\", inclusive_upper, null_values, status, run_id) \
                 SELECT $1, p.ordinality, p.value ->> 'id', p.value ->> 'lower', p.value ->> 'upper', \
                 (p.value ->> 'inclusive_upper')::boolean, (p.value ->> 'null_values')::boolean, p.value ->> 'status', \
                 p.value ->> 'run_id' FROM jsonb_array_elements($2::text::jsonb) WITH ORDINALITY p",
                relation(&self.partitions)
            );
            client.execute(&sql, &[&fresh.campaign, &partitions]).await?;
        }
        client.run("COMMIT").await?;
        if let Some(stored) = self.read(&client, &fresh.campaign).await? {
            stored.check_same(fresh)?;
        }
        Ok(Hold::shared())
    }

    async fn load(&self, campaign: &str) -> Result<Option<PartitionManifest>> {
        // One snapshot: the counts of a campaign that is being run agree with each other.
        let client = self.server.connect().await?;
        client.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let found = self.read(&client, campaign).await;
        client.run("ROLLBACK").await?;
        found
    }

    async fn campaigns(&self, pipeline: &str) -> Result<Vec<PartitionManifest>> {
        let client = self.server.connect().await?;
        let sql =
            format!("SELECT campaign FROM {} WHERE pipeline = $1 ORDER BY created_at DESC", relation(&self.campaigns));
        let rows = or_nothing(client.query(&sql, &[&pipeline])).await?;
        let mut found = Vec::new();
        for row in rows {
            found.extend(self.read(&client, row.get(0)).await?);
        }
        Ok(found)
    }

    async fn claim(&self, campaign: &str, request: &ClaimRequest) -> Result<Claim> {
        let client = self.transaction().await?;
        let sql = format!("SELECT status FROM {} WHERE campaign = $1 FOR SHARE", relation(&self.campaigns));
        match client.row(&sql, &[&campaign]).await? {
            None => return Err(Error::conflict("the partition manifest of the backfill is gone")),
            Some(row) if row.get::<_, &str>(0) == "cancelled" => return Ok(Claim::Cancelled),
            Some(_) => {}
        }
        let take: Vec<&str> = request.take.iter().map(|status| status.as_str()).collect();
        let table = relation(&self.partitions);
        let sql = format!(
            "SELECT {COLUMNS} FROM {table} WHERE campaign = $1 AND id <> ALL ($3) AND (status = ANY ($2) OR \
             (status = 'running' AND coalesce(lease_expires_at <= clock_timestamp(), true))) \
             ORDER BY ordinal LIMIT 1 FOR UPDATE SKIP LOCKED"
        );
        if let Some(row) = client.row(&sql, &[&campaign, &take, &request.tried]).await? {
            let before = partition(&row)?;
            let sql = format!(
                "UPDATE {table} SET status = 'running', attempts = attempts + 1, token = token + 1, holder = $3, \
                 lease_expires_at = clock_timestamp() + $4::bigint * interval '1 microsecond', \
                 started_at = clock_timestamp() WHERE campaign = $1 AND id = $2 RETURNING {COLUMNS}"
            );
            let ttl = request.ttl.as_micros() as i64;
            let row = client.row(&sql, &[&campaign, &before.id, &request.holder, &ttl]).await?;
            let claimed = row.as_ref().map(partition).transpose()?;
            let claimed = claimed.ok_or_else(|| Error::internal("a locked row is gone"))?;
            client.run("COMMIT").await?;
            let taken_over = before.lease.map(|lease| lease.holder);
            return Ok(Claim::Partition { partition: Box::new(claimed), taken_over });
        }
        let sql = format!(
            "SELECT holder, to_char(lease_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM {table} \
             WHERE campaign = $1 AND status = 'running' AND holder <> $2 ORDER BY ordinal LIMIT 1"
        );
        let row = client.row(&sql, &[&campaign, &request.holder]).await?;
        client.run("COMMIT").await?;
        Ok(match row {
            Some(row) => Claim::Busy { holder: row.get(0), until: row.get::<_, Option<String>>(1).unwrap_or_default() },
            None => Claim::Nothing,
        })
    }

    async fn renew(&self, campaign: &str, id: &str, token: u64, ttl: Duration) -> Result<bool> {
        let client = self.server.connect().await?;
        let sql = format!(
            "UPDATE {} SET lease_expires_at = clock_timestamp() + $4::bigint * interval '1 microsecond' \
             WHERE campaign = $1 AND id = $2 AND token = $3 AND status = 'running'",
            relation(&self.partitions)
        );
        let ttl = ttl.as_micros() as i64;
        Ok(client.execute(&sql, &[&campaign, &id, &(token as i64), &ttl]).await? > 0)
    }

    async fn record(&self, campaign: &str, id: &str, token: u64, attempt: &Attempt) -> Result<bool> {
        let client = self.transaction().await?;
        let sql = format!(
            "UPDATE {} SET status = $4, extracted_rows = $5, loaded_rows = $6, load_id = $7, \
             receipt = coalesce($8::text::jsonb, receipt), checksum = coalesce($9, checksum), \
             artifact_path = coalesce($10, artifact_path), last_error_kind = $11, last_error = $12, seconds = $13, \
             finished_at = clock_timestamp(), holder = NULL, lease_expires_at = NULL \
             WHERE campaign = $1 AND id = $2 AND token = $3 AND status = 'running'",
            relation(&self.partitions)
        );
        let (kind, message) = attempt.error.clone().unzip();
        // Where the receipt is: in the same row.
        let artifact = attempt.receipt.as_ref().map(|_| format!("{}/{campaign}/{id}/receipt", self.partitions));
        let recorded = client
            .execute(
                &sql,
                &[
                    &campaign,
                    &id,
                    &(token as i64),
                    &attempt.status.as_str(),
                    &attempt.extracted_rows.map(|n| n as i64),
                    &attempt.loaded_rows.map(|n| n as i64),
                    &attempt.load_id,
                    &attempt.receipt,
                    &attempt.checksum(),
                    &artifact,
                    &kind,
                    &message,
                    &attempt.seconds,
                ],
            )
            .await?;
        self.touch(&client, campaign).await?;
        client.run("COMMIT").await?;
        Ok(recorded > 0)
    }

    async fn set_status(&self, campaign: &str, status: CampaignStatus, unskip: bool) -> Result<()> {
        let client = self.transaction().await?;
        let (status, from, to) = match status {
            CampaignStatus::Cancelled => ("cancelled", "pending", "skipped"),
            _ if unskip => ("open", "skipped", "pending"),
            _ => ("open", "", ""),
        };
        let sql = format!(
            "UPDATE {} SET status = $2, updated_at = clock_timestamp() WHERE campaign = $1",
            relation(&self.campaigns)
        );
        client.execute(&sql, &[&campaign, &status]).await?;
        let sql = format!("UPDATE {} SET status = $3 WHERE campaign = $1 AND status = $2", relation(&self.partitions));
        client.execute(&sql, &[&campaign, &from, &to]).await?;
        self.touch(&client, campaign).await?;
        client.run("COMMIT").await
    }
}
