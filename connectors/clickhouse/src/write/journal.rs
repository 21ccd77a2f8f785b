//! What a commit is about to do, written down before it does it.
//!
//! ClickHouse has no transaction over several statements. So a commit first works everything out in tables of its own,
//! where nobody sees it; then it writes its steps, the new state and the receipt into `__dpone__commits`. From that
//! moment the load will be committed, by this run or by the next one of the pipeline: each step can be done again, or
//! shows by itself that it was done, and after each one a mark is written.

use dpone_engine::{Error, Receipt, Relation, Result};
use dpone_planner::state::PipelineState;
use serde_json::json;

use super::catalog;
use super::names::relation;
use super::session::{Session, or_nothing};
use crate::types::literal;

/// Stands for the load's own table in a condition: the table may get another name.
pub(crate) const OWN: char = '\u{1}';

/// The mark of a commit that is finished.
const FINISHED: u64 = u32::MAX as u64;
/// The mark of a commit that was given up before it changed anything.
const ABANDONED: u64 = FINISHED - 1;

/// One statement that changes the target. `from`, `with` and `own` are tables of the load.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Step {
    /// A finished table becomes the target, which does not exist.
    Rename { from: Relation, uuid: String },
    /// A finished table takes the target's place, which takes its own.
    Exchange { with: Relation, uuid: String },
    /// A partition's rows come to those of the target.
    Move { from: Relation, partition: String },
    /// A partition's rows take the place of those in the target.
    Replace { from: Relation, partition: String },
    /// A partition of the target goes.
    Drop { own: Relation, partition: String },
    /// The rows of the target that meet a condition go. [`OWN`] stands for `own` in it.
    Delete { own: Relation, condition: String, mutation: bool },
}

impl Step {
    pub(crate) fn own(&self) -> &Relation {
        match self {
            Self::Rename { from, .. } | Self::Move { from, .. } | Self::Replace { from, .. } => from,
            Self::Exchange { with, .. } => with,
            Self::Drop { own, .. } | Self::Delete { own, .. } => own,
        }
    }

    pub(crate) fn own_mut(&mut self) -> &mut Relation {
        match self {
            Self::Rename { from, .. } | Self::Move { from, .. } | Self::Replace { from, .. } => from,
            Self::Exchange { with, .. } => with,
            Self::Drop { own, .. } | Self::Delete { own, .. } => own,
        }
    }

    /// Whether the statement does all of it or nothing.
    pub(crate) fn is_atomic(&self) -> bool {
        !matches!(self, Self::Delete { .. })
    }

    /// The statement, as it is sent.
    pub(crate) fn statement(&self, target: &Relation) -> String {
        let table = relation(target);
        match self {
            Self::Rename { from, .. } => format!("RENAME TABLE {} TO {table}", relation(from)),
            Self::Exchange { with, .. } => format!("EXCHANGE TABLES {table} AND {}", relation(with)),
            Self::Move { from, partition } => {
                format!("ALTER TABLE {} MOVE PARTITION ID {} TO TABLE {table}", relation(from), literal(partition))
            }
            Self::Replace { from, partition } => {
                format!("ALTER TABLE {table} REPLACE PARTITION ID {} FROM {}", literal(partition), relation(from))
            }
            Self::Drop { partition, .. } => format!("ALTER TABLE {table} DROP PARTITION ID {}", literal(partition)),
            Self::Delete { own, condition, mutation } => {
                let condition = condition.replace(OWN, &relation(own));
                match mutation {
                    true => format!("ALTER TABLE {table} DELETE WHERE {condition}"),
                    false => format!("DELETE FROM {table} WHERE {condition}"),
                }
            }
        }
    }
}

/// Everything that finishes a commit.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct CommitPlan {
    pub(crate) target: Relation,
    pub(crate) steps: Vec<Step>,
    /// What the target held when the steps were worked out, for steps that undo whatever others wrote since: a partition
    /// or the table is replaced by rows that were copied, or counted, before.
    #[serde(default)]
    pub(crate) content: Option<String>,
    /// What the target was when a table was built that takes its place: [`super::catalog::Table::structure`].
    #[serde(default)]
    pub(crate) structure: Option<String>,
    /// The same by statements that leave rows of others alone, for the run that finds that others wrote. Empty where there
    /// is no such way.
    #[serde(default)]
    pub(crate) otherwise: Vec<Step>,
    /// Tables of the load that are dropped when it is done.
    pub(crate) database: String,
    pub(crate) prefix: String,
    pub(crate) state: PipelineState,
    pub(crate) receipt: Receipt,
}

impl CommitPlan {
    /// Whether others wrote into the target or altered it since the steps were worked out, and would lose what they did.
    pub(crate) async fn is_overtaken(&self, session: &Session) -> Result<bool> {
        if let Some(before) = &self.structure
            && catalog::find(session, &self.target).await?.map(|table| table.structure()).as_ref() != Some(before)
        {
            return Ok(true);
        }
        match &self.content {
            Some(before) => Ok(catalog::content(session, &self.target).await? != *before),
            None => Ok(false),
        }
    }
}

/// A commit that was begun.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) load_id: String,
    /// The token of the lease under which it goes on.
    pub(crate) token: u64,
    /// Steps that are known to be done.
    pub(crate) done: usize,
    pub(crate) plan: CommitPlan,
}

/// The table of one state location.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    pub(crate) table: Relation,
}

impl Journal {
    pub(crate) fn definition(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (pipeline String, load_id String, kind Enum8('plan' = 0, 'mark' = 1), \
             token UInt64, mark UInt64, plan String, version UInt64, at DateTime64(3, 'UTC') DEFAULT now64(3)) \
             ENGINE = ReplacingMergeTree(version) ORDER BY (pipeline, load_id, kind) \
             COMMENT 'dpone: the steps of commits, so that one that was cut short is finished by the next run'",
            relation(&self.table)
        )
    }

    /// Writes the steps down, before the first of them. Also takes them over, for a later lease.
    pub(crate) async fn write(&self, session: &Session, pipeline: &str, token: u64, plan: &CommitPlan) -> Result<()> {
        let text = serde_json::to_string(plan).map_err(|e| Error::internal(format!("the plan of a commit: {e}")))?;
        let row = json!({
            "pipeline": pipeline, "load_id": plan.receipt.load_id, "kind": "plan", "token": token, "mark": 0,
            "plan": text, "version": token,
        });
        session.put(&self.table, &row).await
    }

    /// `done` steps are done.
    pub(crate) async fn mark(
        &self,
        session: &Session,
        pipeline: &str,
        token: u64,
        load: &str,
        done: usize,
    ) -> Result<()> {
        self.set(session, pipeline, token, load, done as u64).await
    }

    pub(crate) async fn finish(&self, session: &Session, pipeline: &str, token: u64, load: &str) -> Result<()> {
        self.set(session, pipeline, token, load, FINISHED).await
    }

    pub(crate) async fn abandon(&self, session: &Session, pipeline: &str, token: u64, load: &str) -> Result<()> {
        self.set(session, pipeline, token, load, ABANDONED).await
    }

    async fn set(&self, session: &Session, pipeline: &str, token: u64, load: &str, mark: u64) -> Result<()> {
        let row = json!({
            "pipeline": pipeline, "load_id": load, "kind": "mark", "token": token, "mark": mark, "plan": "",
            "version": (token << 32) | mark,
        });
        session.put(&self.table, &row).await
    }

    /// The commits of a pipeline that are neither finished nor abandoned, oldest first.
    pub(crate) async fn open(&self, session: &Session, pipeline: &str) -> Result<Vec<Entry>> {
        // Plans of finished commits stay where they are: a pipeline has one for each load that it ever made.
        let sql = format!(
            "SELECT load_id, argMaxIf(plan, version, kind = 'plan') AS steps, \
             toString(maxIf(token, kind = 'plan')), toString(argMaxIf(mark, version, kind = 'mark')) \
             FROM {table} FINAL WHERE pipeline = {pipeline} AND load_id NOT IN (SELECT load_id FROM {table} FINAL WHERE \
             pipeline = {pipeline} AND kind = 'mark' AND mark >= {ABANDONED}) \
             GROUP BY load_id HAVING steps != '' ORDER BY load_id",
            table = relation(&self.table),
            pipeline = literal(pipeline)
        );
        session.rows(&sql).await?.into_iter().map(|row| self.entry(&row)).collect()
    }

    /// Whether a load's steps were written down, and nobody has marked them as finished or given up.
    pub(crate) async fn is_open(&self, session: &Session, pipeline: &str, load: &str) -> Result<bool> {
        let sql = format!(
            "SELECT toString(maxIf(mark, kind = 'mark')) FROM {} FINAL WHERE pipeline = {} AND load_id = {} \
             HAVING countIf(kind = 'plan') > 0",
            relation(&self.table),
            literal(pipeline),
            literal(load)
        );
        let mark = or_nothing(session.scalar(&sql).await)?;
        Ok(mark.and_then(|mark| mark.parse::<u64>().ok()).is_some_and(|mark| mark < ABANDONED))
    }

    /// A pipeline whose commit into a table was begun and is not finished.
    pub(crate) async fn unfinished(&self, session: &Session, target: &Relation) -> Result<Option<String>> {
        let sql = format!(
            "SELECT pipeline FROM {table} FINAL WHERE kind = 'plan' AND JSONExtractString(plan, 'target', 'schema') = {} \
             AND JSONExtractString(plan, 'target', 'name') = {} AND (pipeline, load_id) NOT IN (SELECT pipeline, load_id \
             FROM {table} FINAL WHERE kind = 'mark' AND mark >= {ABANDONED}) LIMIT 1",
            literal(&target.schema),
            literal(&target.name),
            table = relation(&self.table)
        );
        or_nothing(session.scalar(&sql).await)
    }

    fn entry(&self, row: &[Option<String>]) -> Result<Entry> {
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let number = |i: usize| text(i).parse::<u64>().unwrap_or(0);
        let plan = serde_json::from_str(&text(1)).map_err(|e| {
            Error::unknown(format!("the steps of load {} in {} are not readable: {e}", text(0), self.table))
                .with_hint("they were written by another version of dpone: finish the load with that one")
        })?;
        Ok(Entry { load_id: text(0), token: number(2), done: number(3) as usize, plan })
    }

    /// The greatest token that wrote here.
    pub(crate) async fn newest_token(&self, session: &Session, pipeline: &str) -> Result<u64> {
        let sql = format!(
            "SELECT toString(max(token)) FROM {} WHERE pipeline = {}",
            relation(&self.table),
            literal(pipeline)
        );
        Ok(session.scalar(&sql).await?.and_then(|n| n.parse().ok()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_statement_names_a_table_of_the_load_or_is_fenced_apart() {
        let (target, own) = (Relation::new("d", "t"), Relation::new("s", "o"));
        let delete =
            Step::Delete { own: own.clone(), condition: format!("k IN (SELECT k FROM {OWN})"), mutation: false };
        assert_eq!(delete.statement(&target), "DELETE FROM `d`.`t` WHERE k IN (SELECT k FROM `s`.`o`)");
        let moved = Step::Move { from: own.clone(), partition: "it's".to_owned() };
        assert_eq!(moved.statement(&target), "ALTER TABLE `s`.`o` MOVE PARTITION ID 'it\\'s' TO TABLE `d`.`t`");
        let written = serde_json::to_string(&moved).unwrap();
        assert_eq!(serde_json::from_str::<Step>(&written).unwrap(), moved);
    }
}
