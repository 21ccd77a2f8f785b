//! Which staged columns travel. All do, but for rows that delete or patch where a column takes no NULL (a tuple, an array,
//! the state of an aggregate): of those rows only the columns that say something are sent, by inserts of their own.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int8Type, SchemaRef};
use dpone_engine::{Error, LoadSpec, Relation, Result};
use dpone_planner::plan::{INSERT_OR_UPDATE, OPERATION_COLUMN, WriteMode};

use super::encode::{Block, Blocks};
use super::names::{list, relation};
use super::session::Session;
use super::staging::{Insert, Layout};
use crate::types::ChType;

/// The inserts of one partition.
pub(super) struct Lanes {
    whole: Lane,
    /// Of rows that delete or patch, where they travel by themselves, and where the operation is.
    narrow: Option<(usize, Lane)>,
}

/// Inserts of some of the columns.
struct Lane {
    session: Session,
    columns: Vec<usize>,
    blocks: Blocks,
    sql: String,
    token: String,
    sent: usize,
}

impl Lanes {
    pub(super) fn new(
        session: &Session,
        load: &LoadSpec,
        layout: &Layout,
        table: &Relation,
        token: &str,
    ) -> Result<Self> {
        let schema = &load.staged_schema;
        let natives = layout.natives(schema)?;
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let lane = |columns: Vec<usize>, token: String| Lane::new(session, schema, &natives, table, columns, token);
        let whole = lane(all.clone(), token.to_owned())?;
        let WriteMode::Changes { key, operation } = &load.write_mode else { return Ok(Self { whole, narrow: None }) };
        let name = |i: &usize| schema.field(*i).name();
        let says =
            |i: &usize| key.contains(name(i)) || operation.patch().contains(name(i)) || name(i) == OPERATION_COLUMN;
        let (narrow, rest): (Vec<usize>, Vec<usize>) = all.into_iter().partition(says);
        let takes_none =
            |i: &usize| ChType::native(&natives[*i]).is_none_or(|native| !native.with_nullable(true).is_nullable());
        let narrow = match schema.index_of(OPERATION_COLUMN) {
            Ok(operation) if rest.iter().any(takes_none) => Some((operation, lane(narrow, format!("{token}-narrow"))?)),
            _ => None,
        };
        Ok(Self { whole, narrow })
    }

    /// Adds a batch. Gives the blocks that are full.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<Vec<(Insert, Block)>> {
        let Some((operation, narrow)) = &mut self.narrow else {
            return Ok(self.whole.add(batch)?.into_iter().collect());
        };
        let operations = batch.column(*operation).as_primitive_opt::<Int8Type>();
        let operations = operations.ok_or_else(|| Error::internal("the operation of staged rows is no Int8"))?;
        let full = BooleanArray::from_unary(operations, |operation| operation == INSERT_OR_UPDATE);
        let others = arrow::compute::not(&full)?;
        let mut blocks = Vec::new();
        for (lane, rows) in [(&mut self.whole, full), (narrow, others)] {
            let rows = filter_record_batch(batch, &rows)?;
            if rows.num_rows() > 0 {
                blocks.extend(lane.add(&rows)?);
            }
        }
        Ok(blocks)
    }

    /// What was added since the last blocks.
    pub(super) fn take(&mut self) -> Result<Vec<(Insert, Block)>> {
        let mut blocks = Vec::new();
        for lane in [&mut self.whole].into_iter().chain(self.narrow.as_mut().map(|(_, lane)| lane)) {
            let block = lane.blocks.take()?;
            blocks.extend(lane.insert(block));
        }
        Ok(blocks)
    }
}

impl Lane {
    fn new(
        session: &Session,
        schema: &SchemaRef,
        natives: &[String],
        table: &Relation,
        columns: Vec<usize>,
        token: String,
    ) -> Result<Self> {
        let sent = Arc::new(schema.project(&columns)?);
        let natives: Vec<String> = columns.iter().map(|i| natives[*i].clone()).collect();
        let names = list(sent.fields().iter().map(|f| f.name().as_str()));
        let blocks = Blocks::new(&sent, &natives, session.server.config().compression)?;
        Ok(Self {
            session: session.clone(),
            columns,
            sql: format!("INSERT INTO {} ({names}) FORMAT {}", relation(table), blocks.format()),
            blocks,
            token,
            sent: 0,
        })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<Option<(Insert, Block)>> {
        let block = self.blocks.add(&batch.project(&self.columns)?)?;
        Ok(self.insert(block))
    }

    fn insert(&mut self, block: Option<Block>) -> Option<(Insert, Block)> {
        let block = block?;
        let token = format!("{}-{}", self.token, self.sent);
        self.sent += 1;
        Some((Insert::new(&self.session, self.sql.clone(), token), block))
    }
}
