//! Copies the rows of before, batch by batch. Each batch is committed with the place that it reached.

use std::time::{Duration, Instant};

use dpone_engine::failpoint::reach;
use dpone_engine::schema::MigrationOutcome;
use dpone_engine::{Error, Result};
use dpone_planner::schema::expand_contract::MigrationKind;

use super::Work;
use super::session::{Record, Stage};
use crate::write::names::{literal, quote, relation};

/// Rows of a table's block at most, of 8 KiB.
const ROWS_OF_A_BLOCK: u64 = 291;

/// Along what the batches go.
enum Along {
    /// Columns of the primary key with their types.
    Key(Vec<(String, String)>),
    /// Blocks, up to the size that the table had when the first batch began: rows that come later are in step already.
    Blocks { count: i64 },
}

/// What one batch did.
struct Batch {
    seen: u64,
    changed: u64,
    /// Where the next one begins; `None` after the last.
    next: Option<Vec<String>>,
}

impl Work<'_> {
    pub(super) async fn backfill(&self, record: Option<Record>) -> Result<MigrationOutcome> {
        let record = self.after(record, Stage::Expanded, "expand").await?;
        if record.stage >= Stage::CutOver {
            return Ok(self.outcome(record.stage));
        }
        let mut outcome = self.outcome(Stage::Backfilled);
        let Some((set, wanted)) = self.assignment() else {
            self.session.save_stage(Stage::Backfilled).await?;
            if self.migration.kind == MigrationKind::NotNull {
                outcome.notes.push("the source declares no default: rows without a value are not filled".to_owned());
            }
            return Ok(outcome);
        };
        self.silence().await?;
        let along = self.along().await?;
        let mut cursor = if record.stage == Stage::Backfilling { record.cursor } else { None };
        let (mut rows, mut batches, mut longest) = (0, 0, Duration::ZERO);
        let mut size = self.session.budget.batch_rows.max(1);
        loop {
            let begun = Instant::now();
            let batch = self.patient_batch(&along, &set, &wanted, cursor.as_deref(), size).await?;
            let took = begun.elapsed();
            (rows, batches, longest) = (rows + batch.changed, batches + 1, longest.max(took));
            reach("migrate.backfill.batch").await?;
            // Rows of a batch are locked until it commits: that is kept far below the budget.
            if took > self.session.budget.lock / 8 {
                size = (size / 2).max(1);
            } else if took < self.session.budget.lock / 32 {
                size = (size * 2).min(self.session.budget.batch_rows.max(1));
            }
            match batch.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
            if !self.session.budget.pause.is_zero() && batch.seen > 0 {
                tokio::time::sleep(self.session.budget.pause).await;
            }
        }
        self.session.client.run("RESET session_replication_role").await.ok();
        self.session.save_stage(Stage::Backfilled).await?;
        outcome.done.push(format!("{rows} rows were brought in step in {batches} batches"));
        outcome.rows = Some(rows);
        outcome.batches = Some(batches);
        outcome.longest_batch_ms = Some(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
        Ok(outcome)
    }

    /// What is set, and on which rows.
    fn assignment(&self) -> Option<(String, String)> {
        match self.migration.kind {
            MigrationKind::Retype | MigrationKind::Rename => Some((
                format!("{} = {}", quote(&self.pair.mirror), self.pair.converted(self.names(), "t.")),
                self.pair.differs(self.names(), "t."),
            )),
            MigrationKind::NotNull => {
                let column = quote(&self.migration.column);
                let default = self.migration.default.as_ref()?;
                Some((format!("{column} = {default}"), format!("t.{column} IS NULL")))
            }
            MigrationKind::Drop => None,
        }
    }

    /// Keeps triggers of others quiet, which would take the copying for changes. Where the role may not do that, and
    /// there are such triggers, nothing is done.
    async fn silence(&self) -> Result<()> {
        let client = &self.session.client;
        if client.run("SET session_replication_role = replica").await.is_ok() {
            return Ok(());
        }
        let rows = client
            .rows(
                "SELECT tgname::text FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 16 <> 0 \
                 AND tgenabled <> 'D' AND tgname <> $2 ORDER BY 1",
                &[&self.session.table_oid, &self.names().trigger(false)],
            )
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        Err(Error::authorization(format!("triggers would fire for every row that is copied: {}", names.join(", ")))
            .with_hint("GRANT SET ON PARAMETER session_replication_role TO the role (PostgreSQL 15), or run the phase as a superuser"))
    }

    async fn along(&self) -> Result<Along> {
        let rows = self
            .session
            .client
            .rows(
                "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_index i, generate_series(0, i.indnkeyatts - 1) k, pg_attribute a
                  WHERE i.indrelid = $1 AND i.indisprimary AND i.indisvalid AND a.attrelid = i.indrelid AND a.attnum = i.indkey[k] ORDER BY k",
                &[&self.session.table_oid],
            )
            .await?;
        if rows.is_empty() {
            return Ok(Along::Blocks { count: self.session.pages });
        }
        Ok(Along::Key(rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
    }

    async fn patient_batch(
        &self,
        along: &Along,
        set: &str,
        wanted: &str,
        after: Option<&[String]>,
        size: u64,
    ) -> Result<Batch> {
        let mut patience = self.session.patience();
        loop {
            match self.batch(along, set, wanted, after, size).await {
                Ok(batch) => return Ok(batch),
                Err(error) => patience.after(self.session, error).await?,
            }
        }
    }

    async fn batch(
        &self,
        along: &Along,
        set: &str,
        wanted: &str,
        after: Option<&[String]>,
        size: u64,
    ) -> Result<Batch> {
        self.session.begin_transaction().await?;
        let batch = match along {
            Along::Key(key) => self.by_key(key, set, wanted, after, size).await?,
            Along::Blocks { count } => self.by_blocks(*count, set, wanted, after, size).await?,
        };
        let note = match &batch.next {
            Some(next) => self.session.set_cursor(next, batch.changed),
            None => "SELECT".to_owned(),
        };
        self.session.client.run(&format!("{note}; COMMIT")).await?;
        Ok(batch)
    }

    async fn by_key(
        &self,
        key: &[(String, String)],
        set: &str,
        wanted: &str,
        after: Option<&[String]>,
        size: u64,
    ) -> Result<Batch> {
        let table = relation(&self.session.table);
        let list =
            |row: &str| key.iter().map(|(name, _)| format!("{row}{}", quote(name))).collect::<Vec<_>>().join(", ");
        let from = match after {
            Some(values) if values.len() == key.len() => {
                let bounds =
                    values.iter().zip(key).map(|(value, (_, dtype))| format!("CAST({} AS {dtype})", literal(value)));
                format!("WHERE ({}) > ({})", list("k."), bounds.collect::<Vec<_>>().join(", "))
            }
            _ => String::new(),
        };
        let same: Vec<String> = key.iter().map(|(name, _)| format!("t.{} = b.{}", quote(name), quote(name))).collect();
        let last: Vec<String> = key.iter().map(|(name, _)| format!("CAST(b.{} AS text)", quote(name))).collect();
        let descending: Vec<String> = key.iter().map(|(name, _)| format!("b.{} DESC", quote(name))).collect();
        let sql = format!(
            "WITH b AS (SELECT {} FROM {table} AS k {from} ORDER BY {} LIMIT {size}), \
             u AS (UPDATE {table} AS t SET {set} FROM b WHERE {} AND {wanted} RETURNING 1) \
             SELECT (SELECT count(*) FROM b), (SELECT count(*) FROM u), \
                    (SELECT ARRAY[{}] FROM b ORDER BY {} LIMIT 1)",
            list("k."),
            list("k."),
            same.join(" AND "),
            last.join(", "),
            descending.join(", ")
        );
        let row = self.session.client.row(&sql, &[]).await?.ok_or_else(|| Error::internal("a count has no row"))?;
        let seen = row.get::<_, i64>(0).unsigned_abs();
        let last: Option<Vec<String>> = row.get(2);
        Ok(Batch { seen, changed: row.get::<_, i64>(1).unsigned_abs(), next: last.filter(|_| seen == size) })
    }

    async fn by_blocks(
        &self,
        count: i64,
        set: &str,
        wanted: &str,
        after: Option<&[String]>,
        size: u64,
    ) -> Result<Batch> {
        let number = |at: usize| after.and_then(|values| values.get(at)).and_then(|text| text.parse::<i64>().ok());
        let (from, count) = (number(0).unwrap_or(0), number(1).unwrap_or(count));
        // At least one block: less cannot be asked for.
        let blocks = i64::try_from(size / 64).unwrap_or(1).max(1);
        let to = (from + blocks).min(count);
        let table = relation(&self.session.table);
        let here = if self.session.client.version() >= 140_000 {
            format!("t.ctid >= '({from},0)'::tid AND t.ctid < '({to},0)'::tid")
        } else {
            format!(
                "t.ctid = ANY (ARRAY(SELECT CAST('(' || p || ',' || r || ')' AS tid) FROM generate_series({from}, {to} - 1) p, \
                 generate_series(1, {ROWS_OF_A_BLOCK}) r))"
            )
        };
        if from >= count {
            return Ok(Batch { seen: 0, changed: 0, next: None });
        }
        let sql = format!("UPDATE {table} AS t SET {set} WHERE {here} AND {wanted}");
        let changed = self.session.client.execute(&sql, &[]).await?;
        let next = (to < count).then(|| vec![to.to_string(), count.to_string()]);
        Ok(Batch { seen: changed, changed, next })
    }
}
